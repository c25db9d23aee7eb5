"""Nodes beside each other: what most of them have is the reference, and who differs from it is named."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from pierhead.check.names import spoken
from pierhead.config.registries import RegistriesConfig
from pierhead.config.versions import K3sVersion
from pierhead.errors import Problem, UsageError
from pierhead.fleet.collected import Collected
from pierhead.fleet.facts import FILE, Fact, Key, file_facts, foreign_facts, node_facts, registries_facts
from pierhead.fleet.node import Node, Reader
from pierhead.fleet.stale import Rendered, Stale, rendered
from pierhead.fleet.words import Group, Sides, listed, plain, told, told_stale

SOON: Final = timedelta(days=30)

# The kinds of differences that a registries.yaml is the cause of.
OF_REGISTRIES: Final = frozenset(
    {
        *("mirror", "endpoints", "rewrite", "config", "username", "password", "auth", "identity_token", "empty auth"),
        *("ca_file", "cert_file", "key_file", "insecure_skip_verify", "empty tls"),
    }
)
_OWN_TO_EACH: Final = "content of cert_file"
_NOTHING: Final = object()  # the value of what a node lacks


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not on `nodes` as it is on `others`.

    `kind` is stable: the name of a fact, or "stale". `line` is that of registries.yaml on the first of the nodes,
    `reference_line` that on the first of the others. `details` are sentences that belong to it.
    """

    kind: str
    nodes: tuple[str, ...]
    others: tuple[str, ...]
    subject: str
    message: str
    line: int | None = None
    reference_line: int | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as it was compared."""

    node: Node
    rendered: Rendered
    facts: dict[Key, Fact]

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def registries_state(self) -> str:
        """usable, unusable, missing, or unknown."""
        return str(self.facts[FILE].value) if FILE in self.facts else "unknown"

    def takes_part(self, key: Key, above: Key | None) -> bool:
        """Whether this node has the fact, or is known to lack it."""
        if above is not None:
            return above in self.facts and (above != FILE or self.registries_state == "usable")
        if key[0] == "hosts.toml":
            return self.node.tree is not None
        return key in self.facts


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to say. `notes` are no drift: certificates that run out, what was not collected."""

    seen: tuple[Seen, ...]
    differences: tuple[Difference, ...]
    notes: tuple[Problem, ...]

    @property
    def differing(self) -> tuple[str, ...]:
        """The nodes that a difference names, in order."""
        named = {name for difference in self.differences for name in difference.nodes}
        return tuple(each.name for each in self.seen if each.name in named)


def compare(nodes: Iterable[Collected], *, now: datetime, reference: str | None = None) -> Report:
    """Hold the nodes against each other, or against one of them; raises `UsageError` if that is none of them."""
    reader = Reader()
    seen = tuple(_seen(reader.read(node), reader) for node in nodes)
    if reference is not None and reference not in {each.name for each in seen}:
        raise UsageError(f"{reference!a} is none of the nodes that were read")
    comparison = _Comparison(seen, reference)
    differences = [*comparison.differences(), *_stale(seen)]
    order = {each.name: index for index, each in enumerate(seen)}
    differences.sort(key=lambda difference: order[difference.nodes[0]])  # stable: a node's own in the order of facts
    notes = (*comparison.notes, *_expiring(seen, now), *_not_collected(seen))
    return Report(seen, tuple(differences), notes)


def _seen(node: Node, reader: Reader) -> Seen:
    written = rendered(node, reader)
    facts = [*node_facts(node), *_file(node)]
    if node.registries is not None and node.registries.error is None:
        facts += [*registries_facts(node.registries), *file_facts(node)]
    facts += foreign_facts(written.foreign)
    return Seen(node, written, {fact.key: fact for fact in facts})


def _file(node: Node) -> Iterator[Fact]:
    config = node.registries
    if config is not None:
        state = "usable" if config.error is None else "unusable"
        yield Fact(FILE, state, () if config.error is None else (config.error,))
    elif node.has_no_registries:
        yield Fact(FILE, "missing")


class _Comparison:
    """All facts of all nodes, one key after the other."""

    def __init__(self, seen: Sequence[Seen], reference: str | None) -> None:
        self._seen = seen
        self._reference = reference
        self._consequences: dict[tuple[int, K3sVersion, K3sVersion], tuple[str, ...]] = {}
        self.notes: list[Problem] = []

    def differences(self) -> Iterator[Difference]:
        above: dict[Key, Key | None] = {}
        for each in self._seen:
            for fact in each.facts.values():
                above.setdefault(fact.key, fact.above)
        for key in above:
            yield from self._of(key, above[key])

    def _of(self, key: Key, above: Key | None) -> Iterator[Difference]:
        part = [each for each in self._seen if each.takes_part(key, above)]
        groups = _groups(key, part)
        if len(groups) < 2:
            return
        if key[0] == _OWN_TO_EACH and len(groups) == len(part) > 1 and self._reference is None:
            message = f"each node has a certificate of its own in {key[1]!a}"
            self.notes.append(Problem("own-certificates", "note", message))
            return
        usual = self._usual(groups)
        for odd in groups:
            if odd is not usual:
                sides = Sides(key, odd, usual, len(odd.nodes) + len(usual.nodes) == len(part))
                yield self._difference(sides)

    def _usual(self, groups: Sequence[Group]) -> Group:
        """The group of the reference; else the largest, and among equals that of the node named first."""
        for group in groups:
            if self._reference in group.nodes:
                return group
        return max(groups, key=lambda group: len(group.nodes))

    def _difference(self, sides: Sides) -> Difference:
        details = self._changed_by_version(sides) if sides.key[0] == "version" else ()
        subject = " ".join(map(spoken, sides.key[1:])) or sides.key[0]
        lines = sides.odd.line, sides.usual.line
        return Difference(sides.key[0], sides.odd.nodes, sides.usual.nodes, subject, told(sides), *lines, details)

    def _changed_by_version(self, sides: Sides) -> tuple[str, ...]:
        """What the release of the odd ones does otherwise with the registries.yaml of the first of them."""
        seen = next(each for each in self._seen if each.name == sides.odd.nodes[0])
        odd, usual = (group.fact.value for group in (sides.odd, sides.usual) if group.fact)
        assert isinstance(odd, K3sVersion)
        assert isinstance(usual, K3sVersion)
        config = seen.node.registries
        if config is None or config.error is not None:
            return ()
        key = (id(config), odd, usual)
        if key not in self._consequences:
            self._consequences[key] = _consequences(seen.node, config, odd, usual)
        return self._consequences[key]


def _groups(key: Key, part: Sequence[Seen]) -> list[Group]:
    """The nodes by the value that they have, in order of their first."""
    members: dict[Hashable, list[Seen]] = {}
    for each in part:
        fact = each.facts.get(key)
        members.setdefault(_NOTHING if fact is None else fact.value, []).append(each)
    return [
        Group(tuple(each.name for each in alike), tuple(each.facts[key] for each in alike if key in each.facts))
        for alike in members.values()
    ]


def _consequences(node: Node, config: RegistriesConfig, odd: K3sVersion, usual: K3sVersion) -> tuple[str, ...]:
    from pierhead.upgrade import changes, made_up

    flags = node.flags(disabled=bool(node.disables_default), embedded=None)
    found = changes(config, flags, old=usual, new=odd, references=made_up(config))
    facts = dict.fromkeys(fact for image in found for change in image.changes for fact in change.facts)
    if not facts:
        return ("both releases read its registries.yaml alike",)
    return tuple(f"there {fact.holds if fact.of(odd) else fact.fails}" for fact in facts)


def _stale(seen: Sequence[Seen]) -> Iterator[Difference]:
    members: dict[Stale, list[str]] = {}
    for each in seen:
        for stale in each.rendered.stale or ():
            members.setdefault(stale, []).append(each.name)
    programs = {each.name: each.node.collected.program for each in seen}
    for stale, nodes in members.items():
        message = told_stale(stale, nodes, programs[nodes[0]])
        line = stale.span.line if stale.span else None
        yield Difference("stale", tuple(nodes), (), spoken(stale.directory), message, line)


# -- what is no drift -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Ending:
    """A certificate that is not good much longer, and where."""

    not_after: datetime
    nodes: list[str] = field(default_factory=list)


def _expiring(seen: Sequence[Seen], now: datetime) -> Iterator[Problem]:
    endings: dict[tuple[str, str], _Ending] = {}
    for each in seen:
        for path, found in each.node.files.items():
            for certificate in found or ():
                if certificate.not_after < now + SOON:
                    ending = endings.setdefault((path, certificate.sha256), _Ending(certificate.not_after))
                    ending.nodes.append(each.name)
    for (path, _), ending in endings.items():
        gone = ending.not_after < now
        word = "expired" if gone else "expires"
        message = f"{listed(ending.nodes)}: a certificate in {path!a} {word} on {ending.not_after:%Y-%m-%d}"
        yield Problem("certificate-expired" if gone else "certificate-expires-soon", "warning", message)


def _not_collected(seen: Sequence[Seen]) -> Iterator[Problem]:
    """What could not be compared, as nobody has it of these nodes, though of others."""
    for what, is_known in (
        ("registries.yaml", lambda each: each.registries_state != "unknown"),
        ("the release of K3s", lambda each: each.node.version is not None),
        ("certs.d", lambda each: each.node.tree is not None),
    ):
        unknown = [each.name for each in seen if not is_known(each)]
        if unknown and len(unknown) < len(seen):
            yield Problem("not-collected", "note", f"{listed(unknown)}: {what} was not collected or cannot be read")
    for each in seen:
        for path in sorted(each.node.collected.unreadable):
            yield Problem("unreadable", "warning", f"{plain(each.name)}: {path!a} is there and cannot be read")
