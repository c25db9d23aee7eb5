"""A node's certs.d beside its own registries.yaml: K3s writes the one from the other, but only when it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Literal

from pierhead.config.containerd import Directory, Host, HostTree
from pierhead.config.k3s import K3sHosts
from pierhead.config.versions import CURRENT, behaviour
from pierhead.errors import Span
from pierhead.fleet.facts import embedded_address, urls
from pierhead.fleet.node import Node, Reader


@dataclass(frozen=True, slots=True)
class Stale:
    """A directory of certs.d that is not what the node's registries.yaml would give.

    `asks` and `would_ask` are the URLs of both; `fields`: what else differs, if those are the same. `span` is that of
    the entry in registries.yaml.
    """

    directory: str
    kind: Literal["missing", "left-over", "differs", "unusable"]
    asks: tuple[str, ...] = ()
    would_ask: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """`stale`: see there; None if the two cannot be compared. `foreign`: the directories that K3s has no part in."""

    stale: tuple[Stale, ...] | None
    foreign: tuple[Directory, ...]


def rendered(node: Node, reader: Reader) -> Rendered:
    """What is to be said of a node's certs.d."""
    if node.tree is None:
        return Rendered(None, ())
    release = behaviour(node.version) if node.version else CURRENT
    config = node.registries or (reader.parsed(node.collected.registries_path, b"") if node.has_no_registries else None)
    if config is None or config.error is not None or not release.certs_d:
        return Rendered(None, _with_hosts(node.tree))
    embedded = embedded_address(node.tree)
    known = node.disables_default
    flags = [node.flags(disabled=each, embedded=embedded) for each in ((False, True) if known is None else (known,))]
    made = [reader.expected(config, each, release) for each in flags]
    if made[0].error is not None:  # K3s does not start with it
        return Rendered(None, _with_hosts(node.tree))
    # Nobody looked for the flag: it is the one that certs.d was written with.
    stale = min((tuple(_stale(node.tree, node.generated, hosts)) for hosts in made), key=len)
    ours = {*made[0].tree.directories, *(each.directory for each in stale)}
    return Rendered(stale, tuple(each for each in _with_hosts(node.tree) if each.name not in ours))


def _with_hosts(tree: HostTree) -> tuple[Directory, ...]:
    return tuple(each for each in tree.directories.values() if each.hosts or each.unusable)


def _stale(tree: HostTree, generated: frozenset[str], made: K3sHosts) -> Iterator[Stale]:
    wanted = {each.name: each for each in _with_hosts(made.tree)}
    for name, directory in wanted.items():
        span = directory.key.span if directory.key else None
        found = tree.directories.get(name, Directory(name))
        if not found.hosts and not found.unusable:
            yield Stale(name, "missing", would_ask=urls(directory), span=span)
        elif found.unusable and not directory.unusable:
            yield Stale(name, "unusable", would_ask=urls(directory), span=span)
        elif found.hosts != directory.hosts and not directory.unusable:
            yield Stale(name, "differs", urls(found), urls(directory), _fields(found, directory), span)
    for name in sorted(generated - wanted.keys()):
        yield Stale(name, "left-over", urls(tree.directories[name]))


_WORDS: Final = {
    "ca": "CA",
    "client": "client certificate",
    "skip_verify": "verification",
    "rewrites": "rewrites",
    "header": "headers",
    "capabilities": "capabilities",
    "dial_timeout_seconds": "time-out",
}


def _fields(found: Directory, wanted: Directory) -> tuple[str, ...]:
    """In what the hosts differ, in words, each once."""
    differing = {
        each.name
        for ours, theirs in zip(found.hosts, wanted.hosts, strict=False)
        for each in fields(Host)
        if each.compare and getattr(ours, each.name) != getattr(theirs, each.name)
    }
    return tuple(word for name, word in _WORDS.items() if name in differing)
