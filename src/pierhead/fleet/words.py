"""Differences in the words of those who run the nodes: who, what, for which registry, in which line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pierhead.check.names import spoken
from pierhead.check.patterns import visible
from pierhead.fleet.facts import Fact, Key
from pierhead.fleet.stale import Stale

_NAMES_SHOWN: Final = 4
_PRINT_CHARS: Final = 16
_TEXT_LIMIT_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that have a fact alike, or lack it alike (`facts` is then empty); one fact for each node, in order."""

    nodes: tuple[str, ...]
    facts: tuple[Fact, ...] = ()

    @property
    def fact(self) -> Fact | None:
        return self.facts[0] if self.facts else None

    @property
    def line(self) -> int | None:
        """Where it stands on the first of them."""
        return self.facts[0].line if self.facts else None

    @property
    def lines(self) -> set[int]:
        return {fact.line for fact in self.facts if fact.line}


@dataclass(frozen=True, slots=True)
class Sides:
    """Two groups that differ: `odd`, of which is told, and `usual`. `is_all`: there are no other nodes but these."""

    key: Key
    odd: Group
    usual: Group
    is_all: bool

    @property
    def who(self) -> str:
        return listed(self.odd.nodes)

    @property
    def others(self) -> str:
        nodes = self.usual.nodes
        if len(nodes) == 1:
            return plain(nodes[0])
        return "the others" if self.is_all else f"{len(nodes)} others"

    def verb(self, one: str, several: str) -> str:
        return one if len(self.odd.nodes) == 1 else several

    @property
    def name(self) -> str:
        """The mirror, registry or file that it is about."""
        return spoken(self.key[1]) if len(self.key) > 1 else ""

    @property
    def their_line(self) -> str:
        """Where it stands on the usual side: " (line 7 on the others)"."""
        where = self.others if len(self.usual.lines) == 1 else plain(self.usual.nodes[0])
        return f" (line {self.usual.line} on {where})" if self.usual.line else ""

    @property
    def own_line(self) -> str:
        """Where it stands on the odd side: " (line 9)"."""
        where = "" if len(self.odd.lines) == 1 else f" on {plain(self.odd.nodes[0])}"
        return f" (line {self.odd.line}{where})" if self.odd.line else ""

    def lacks(self, what: str) -> str:
        return f"{self.who} {self.verb('lacks', 'lack')} {what}{self.their_line}"

    def has(self, what: str) -> str:
        lack = "lacks" if len(self.usual.nodes) == 1 else "lack"
        return f"{self.who} {self.verb('has', 'have')} {what}{self.own_line} that {self.others} {lack}"

    def differs(self, what: str, odd: str, usual: str) -> str:
        return f"{self.who}: {what} {odd}{self.own_line}, on {self.others} {usual}{self.their_line_number}"

    @property
    def their_line_number(self) -> str:
        return f" (line {self.usual.line})" if self.usual.line else ""


def listed(nodes: Sequence[str]) -> str:
    """Names for a sentence: "worker1, worker2 and 3 more"."""
    names = [plain(name) for name in nodes]
    more = len(names) - _NAMES_SHOWN
    if more > 0:
        return f"{', '.join(names[:_NAMES_SHOWN])} and {more} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def plain(text: str) -> str:
    """A node, a user or a path: nothing in it is masked, and nothing in it disturbs a terminal."""
    short = text if len(text) <= _TEXT_LIMIT_CHARS else f"{text[:_TEXT_LIMIT_CHARS]}…"
    return short if short.isprintable() and short else visible(short)


def told(sides: Sides) -> str:
    """A difference in one sentence; no secret is in it."""
    return TELLERS[sides.key[0]](sides)


def _presence(what: str) -> Callable[[Sides], str]:
    """A thing that is there or not: the name of its registry follows."""

    def tell(sides: Sides) -> str:
        text = f"{what}{sides.name}" if what.endswith(" ") else what
        return sides.has(text) if sides.odd.fact else sides.lacks(text)

    return tell


def _valued(what: str) -> Callable[[Sides], str]:
    """A thing with a value that may be shown."""

    def tell(sides: Sides) -> str:
        text = f"{what} for {sides.name}"
        odd, usual = sides.odd.fact, sides.usual.fact
        if odd is None or usual is None:
            return _presence(text)(sides)
        return sides.differs(text, f"is {plain(odd.shown[0])}", plain(usual.shown[0]))

    return tell


def _secret(what: str) -> Callable[[Sides], str]:
    def tell(sides: Sides) -> str:
        text = f"{what} for {sides.name}"
        if sides.odd.fact is None or sides.usual.fact is None:
            return _presence(text)(sides)
        has = sides.verb("has", "have")
        return f"{sides.who} {has} another {text}{sides.own_line} than {sides.others}{sides.their_line_number}"

    return tell


def _config(sides: Sides) -> str:
    fact = sides.odd.fact or sides.usual.fact
    assert fact
    held = f" with {', '.join(fact.shown)}" if fact.shown else ""
    return _presence(f"configs {sides.name}{held}")(sides)


def _registries(sides: Sides) -> str:
    odd, usual = (group.fact.value if group.fact else None for group in (sides.odd, sides.usual))
    have = sides.verb("has", "have")
    if odd == "missing":
        return f"{sides.who} {have} no registries.yaml, {sides.others} {_have(sides)} one"
    if odd == "unusable":
        why = f": {sides.odd.fact.shown[0]}" if sides.odd.fact and sides.odd.fact.shown else ""
        return f"{sides.who} {have} a registries.yaml that K3s refuses{why}"
    state = "none" if usual == "missing" else "one that K3s refuses"
    return f"{sides.who} {have} a registries.yaml that can be used, {sides.others} {state}"


def _endpoints(sides: Sides) -> str:
    odd, usual = sides.odd.fact, sides.usual.fact
    assert odd
    assert usual
    ours, theirs = (tuple(map(spoken, fact.shown)) for fact in (odd, usual))
    what = f"mirror {sides.name}"
    fewer, more = [x for x in theirs if x not in ours], [x for x in ours if x not in theirs]
    if ours == theirs:
        return f"{sides.who}: {what} has other credentials in a URL{sides.own_line} than on {sides.others}"
    if fewer and not more and [x for x in theirs if x in ours] == list(ours):
        return sides.lacks(f"the {_endpoint(fewer)} of {what}")
    if more and not fewer and [x for x in ours if x in theirs] == list(theirs):
        return sides.has(f"the {_endpoint(more)} of {what}")
    if ours[:1] != theirs[:1] and ours and theirs:
        return sides.differs(what, f"asks {ours[0]} first", theirs[0])
    return sides.differs(what, f"asks {', '.join(ours) or 'nobody'}", ", ".join(theirs) or "nobody")


def _endpoint(urls: Sequence[str]) -> str:
    return f"endpoint{'s' if len(urls) > 1 else ''} {', '.join(urls)}"


def _rewrite(sides: Sides) -> str:
    odd, usual = sides.odd.fact, sides.usual.fact
    text = f"the rewrite of {spoken(sides.key[2])} for mirror {sides.name}"
    if odd is None or usual is None:
        return _presence(text)(sides)
    ours, theirs = (spoken(fact.shown[0]) for fact in (odd, usual))
    return sides.differs(f"mirror {sides.name} rewrites {spoken(sides.key[2])}", f"to {ours}", f"to {theirs}")


def _content(what: str) -> Callable[[Sides], str]:
    def tell(sides: Sides) -> str:
        odd, usual = sides.odd.fact, sides.usual.fact
        assert odd
        assert usual
        text = f"{what} {plain(sides.key[1])}"
        if odd.value is None:
            return f"{sides.who}: {text} is named{sides.own_line} and missing; {sides.others} {_have(sides)} it"
        if usual.value is None:
            return f"{sides.who}: {text} is there; it is missing on {sides.others}"
        ours, theirs = _prints(odd), _prints(usual)
        return f"{sides.who}: {text} differs: {ours} here, {theirs} on {sides.others}"

    return tell


def _have(sides: Sides) -> str:
    return "has" if len(sides.usual.nodes) == 1 else "have"


def _prints(fact: Fact) -> str:
    if not fact.shown:
        return "no certificate"
    more = f" and {len(fact.shown) - 1} more" if len(fact.shown) > 1 else ""
    return f"sha256 {fact.shown[0][:_PRINT_CHARS]}…{more}"


def _version(sides: Sides) -> str:
    odd, usual = sides.odd.fact, sides.usual.fact
    assert odd
    assert usual
    return f"{sides.who} {sides.verb('runs', 'run')} {odd.shown[0]}, {sides.others} {usual.shown[0]}"


def _flag(sides: Sides) -> str:
    odd = sides.odd.fact
    verb = sides.verb("has", "have") if odd and odd.value else sides.verb("lacks", "lack")
    return f"{sides.who} {verb} {sides.key[0]}, unlike {sides.others}"


def _path_flag(sides: Sides) -> str:
    odd, usual = sides.odd.fact, sides.usual.fact
    assert odd
    assert usual
    reads = sides.verb("reads", "read")
    return f"{sides.who} {reads} {plain(odd.shown[0])} as registries.yaml, {sides.others} {plain(usual.shown[0])}"


def _hosts(sides: Sides) -> str:
    odd, usual = sides.odd.fact, sides.usual.fact
    path = f"certs.d/{sides.name}/hosts.toml"
    if odd is None or usual is None:
        return _presence(f"a {path} that K3s did not write")(sides)
    if odd.shown == usual.shown:
        return f"{sides.who}: {path} asks the same hosts as on {sides.others}, with other settings"
    return sides.differs(path, f"asks {', '.join(odd.shown) or 'nobody'}", ", ".join(usual.shown) or "nobody")


TELLERS: Final[dict[str, Callable[[Sides], str]]] = {
    "registries.yaml": _registries,
    "mirror": _presence("the mirror "),
    "endpoints": _endpoints,
    "rewrite": _rewrite,
    "config": _config,
    "empty auth": _presence("an empty auth for "),
    "username": _valued("username"),
    "password": _secret("password"),
    "auth": _secret("auth"),
    "identity_token": _secret("identity_token"),
    "empty tls": _presence("an empty tls for "),
    "ca_file": _valued("ca_file"),
    "cert_file": _valued("cert_file"),
    "key_file": _valued("key_file"),
    "insecure_skip_verify": _presence("insecure_skip_verify for "),
    "content of ca_file": _content("CA"),
    "content of cert_file": _content("client certificate"),
    "version": _version,
    "--disable-default-registry-endpoint": _flag,
    "--embedded-registry": _flag,
    "--private-registry": _path_flag,
    "hosts.toml": _hosts,
}


def told_stale(stale: Stale, nodes: Sequence[str], program: str) -> str:
    """A certs.d that does not follow its own registries.yaml, in one sentence."""
    path = f"certs.d/{spoken(stale.directory)}/hosts.toml"
    line = f" (line {stale.span.line})" if stale.span and stale.span.line else ""
    cause = f"{program} was not restarted after a change: restart it, or run pierhead apply"
    asks, would_ask = (", ".join(map(spoken, urls)) or "nobody" for urls in (stale.asks, stale.would_ask))
    if stale.kind == "missing":
        what = f"{path} is missing, registries.yaml asks for {would_ask}{line}"
    elif stale.kind == "unusable":
        what = f"containerd cannot read {path}, registries.yaml asks for {would_ask}{line}"
    elif stale.kind == "left-over":
        what = f"{path} is left over and asks {asks}, registries.yaml does not ask for it"
    elif stale.asks == stale.would_ask:
        what = f"{path} differs in {', '.join(stale.fields) or 'its settings'} from what registries.yaml asks for{line}"
    else:
        what = f"{path} {_otherwise(stale)}{line}"
    return f"{listed(nodes)}: {what}; {cause}"


def _otherwise(stale: Stale) -> str:
    """What is asked and should not be, and the other way round; all of it if only the order differs."""
    ours = [spoken(url) for url in stale.asks if url not in stale.would_ask]
    theirs = [spoken(url) for url in stale.would_ask if url not in stale.asks]
    if ours and not theirs:
        return f"asks {', '.join(ours)} as well, which registries.yaml does not"
    if theirs and not ours:
        return f"does not ask {', '.join(theirs)}, which registries.yaml does"
    if not ours:
        ours, theirs = ([spoken(url) for url in urls] for urls in (stale.asks, stale.would_ask))
    return f"asks {', '.join(ours)}, registries.yaml {', '.join(theirs)}"
