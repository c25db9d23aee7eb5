"""A node taken apart into facts that can be compared one by one: what K3s is told, not how it is written.

Comments, the order of keys, quoting and anchors make no fact. The order of endpoints does; that of rewrites does not,
as K3s keeps them in a map. An endpoint is compared as K3s normalizes it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pierhead.config.containerd import Directory, Host, HostTree
from pierhead.config.k3s import normalized
from pierhead.config.registries import Auth, Config, Mirror, RegistriesConfig, SecretText, Text, Tls
from pierhead.errors import Span
from pierhead.fleet.node import Node
from pierhead.gourl import InvalidUrl, shown

Key = tuple[str, ...]  # what it is about: the kind, then names


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is so on a node.

    `value` is what nodes are compared by; it may hold a secret. `shown` is the same for people, as far as they may see
    it. `above` is the fact without which this one means nothing.
    """

    key: Key
    value: Hashable = field(repr=False)
    shown: tuple[str, ...] = ()
    span: Span | None = None
    above: Key | None = None

    @property
    def line(self) -> int | None:
        return self.span.line if self.span else None


FILE: Final[Key] = ("registries.yaml",)
_EMBEDDED_CA: Final = "/agent/server-ca.crt"  # as spegel's InjectMirror, for the embedded registry only
_CREDENTIALS: Final = ("username", "password", "auth", "identity_token")


def registries_facts(config: RegistriesConfig) -> Iterator[Fact]:
    """What a registries.yaml says that can be used."""
    for mirror in config.mirrors.values():
        yield from _mirror(mirror)
    for entry in config.configs.values():
        yield from _config(entry)


def _mirror(mirror: Mirror) -> Iterator[Fact]:
    name = mirror.key.value
    above = Fact(("mirror", name), True, span=mirror.key.span, above=FILE)
    yield above
    urls = tuple(_normalized(text) for text in mirror.endpoints)
    shown = tuple(text.shown for text in mirror.endpoints)
    span = mirror.endpoints[0].span if mirror.endpoints else mirror.key.span
    yield Fact(("endpoints", name), urls, shown, span, above.key)
    for rule in mirror.rewrites:
        key = ("rewrite", name, rule.pattern.value)
        yield Fact(key, rule.replacement.value, (rule.replacement.value,), rule.pattern.span, above.key)


def _normalized(text: Text) -> Hashable:
    try:
        _, url, override = normalized(text.value)
    except InvalidUrl:
        return text.value
    return str(url), override


def _config(entry: Config) -> Iterator[Fact]:
    above: Key = ("config", entry.key.value)
    of_auth = tuple(_auth(entry.key.value, entry.auth, above)) if entry.auth is not None else ()
    of_tls = tuple(_tls(entry.key.value, entry.tls, above)) if entry.tls is not None else ()
    yield Fact(above, True, tuple(fact.key[0] for fact in (*of_auth, *of_tls)), entry.key.span, FILE)
    yield from (*of_auth, *of_tls)


def _auth(name: str, auth: Auth, above: Key) -> Iterator[Fact]:
    values: dict[str, Text | SecretText | None] = {each: getattr(auth, each) for each in _CREDENTIALS}
    for kind, value in values.items():
        if value is not None:
            shown = (value.value,) if isinstance(value, Text) else ()
            yield Fact((kind, name), value.value, shown, value.span, above)
    if not any(values.values()):
        yield Fact(("empty auth", name), True, (), auth.span, above)  # counts as configured


def _tls(name: str, tls: Tls, above: Key) -> Iterator[Fact]:
    paths: dict[str, Text | None] = {each: getattr(tls, each) for each in ("ca_file", "cert_file", "key_file")}
    for kind, path in paths.items():
        if path is not None:
            yield Fact((kind, name), path.value, (_path_shown(path),), path.span, above)
    if tls.insecure_skip_verify:
        yield Fact(("insecure_skip_verify", name), True, (), tls.insecure_skip_verify_span, above)
    elif not any(paths.values()):
        yield Fact(("empty tls", name), True, (), tls.span, above)


def _path_shown(path: Text) -> str:
    """A path; not the key that somebody pasted in its place, as PEM or the base64 of that."""
    return "no path but a pasted text" if any(mark in path.value for mark in ("-----BEGIN", "LS0tLS1")) else path.value


def file_facts(node: Node) -> Iterator[Fact]:
    """The certificates of the files that a registries.yaml names."""
    for kind in ("ca_file", "cert_file"):
        for entry in node.registries.configs.values() if node.registries else ():
            text: Text | None = getattr(entry.tls, kind) if entry.tls else None
            if text is None or text.value not in node.files:
                continue
            found = node.files[text.value]
            # Of a CA file the order does not count; of a client's the first certificate is the client's own.
            prints = None if found is None else [each.sha256 for each in found]
            value = None if prints is None else frozenset(prints) if kind == "ca_file" else tuple(prints)
            shown = tuple(prints or ())
            yield Fact((f"content of {kind}", text.value), value, shown, text.span)


def node_facts(node: Node) -> Iterator[Fact]:
    """What is said beside registries.yaml: the release and the flags."""
    if node.version is not None:
        yield Fact(("version",), node.version, (str(node.version),))
    if node.disables_default is not None:
        yield Fact(("--disable-default-registry-endpoint",), node.disables_default)
    if node.collected.settings is not None:
        yield Fact(("--private-registry",), node.collected.registries_path, (node.collected.registries_path,))
    if node.tree is not None:
        yield Fact(("--embedded-registry",), embedded_address(node.tree) is not None)


def foreign_facts(directories: Iterable[Directory]) -> Iterator[Fact]:
    """The directories of certs.d that an administrator made, as containerd reads them."""
    for directory in directories:
        yield Fact(("hosts.toml", directory.name), (directory.hosts, directory.unusable), urls(directory))


def urls(directory: Directory) -> tuple[str, ...]:
    """What containerd asks by it, in order; safe to show."""
    return tuple(_url(host) for host in directory.hosts)


def _url(host: Host) -> str:
    return shown(f"{host.scheme}://{host.host}{host.path}") if host.host else "the registry itself"


def embedded_address(tree: HostTree) -> str | None:
    """Where the embedded registry listens, if certs.d asks it; agents are told so by the server, by no flag."""
    hosts = (host for directory in tree.directories.values() for host in directory.hosts)
    return next((host.host for host in hosts if any(ca.endswith(_EMBEDDED_CA) for ca in host.ca)), None)
