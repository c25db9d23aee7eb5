"""Keys that K3s knows, in places where it does not look for them: an indentation slip, or a wrong idea of the format.

The places are those of specification section 1.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pierhead.check.names import spoken
from pierhead.check.source import Entry, Source

SECTIONS: Final = ("mirrors", "configs")
MIRROR: Final = ("endpoint", "rewrite")
CONFIG: Final = ("auth", "tls")
AUTH: Final = ("username", "password", "auth", "identity_token")
TLS: Final = ("ca_file", "cert_file", "key_file", "insecure_skip_verify")
PARENT: Final = {
    **dict.fromkeys(MIRROR, "mirrors"),
    **dict.fromkeys(CONFIG, "configs"),
    **dict.fromkeys(("username", "password", "identity_token"), "auth"),
    **dict.fromkeys(TLS, "tls"),
}
Slipped = Literal["section", "wrapped", "shallow", "deep", "elsewhere"]
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Misplaced:
    """`how`: a section inside something ("section"); all of the file below one key ("wrapped"); a field one level too
    high ("shallow") or too low ("deep"); or one that belongs to another section ("elsewhere")."""

    entry: Entry
    how: Slipped

    @property
    def word(self) -> str:
        """The key that stands in the wrong place."""
        return str(self.entry.path[-1])


def misplaced(source: Source) -> tuple[Misplaced, ...]:
    """Everything that stands in the wrong place, in document order, without what is inside of it."""
    found: list[Misplaced] = []
    covered: set[Path] = set()
    for entry in source.entries:
        if inside(entry.path, covered):
            continue
        how = _how(entry)
        if how:
            found.append(Misplaced(entry, how))
            covered.add(entry.path)
    return tuple(found)


def slipped_from(source: Source) -> frozenset[Path]:
    """The entries of `mirrors` and `configs` that only look empty: what is in them, or was meant to be, is misplaced.

    That includes the "registry" that is a section in the wrong place, and the one above a field that slipped out.
    """
    found: set[Path] = set()
    for each in misplaced(source):
        path = each.entry.path
        found |= {path[:2]}
        if each.how == "shallow" and len(path) == 2:
            found |= {_above(each.entry)}
    return frozenset(found)


def _above(entry: Entry) -> Path:
    """The entry that stands before this one in the same map."""
    keys = [key.value for key in entry.parent.children[::2]]
    index = keys.index(str(entry.path[-1]))
    return (*entry.path[:-1], keys[index - 1]) if index else entry.path


def inside(path: Path, covered: set[Path]) -> bool:
    """Whether a path is one of these, or below one."""
    return any(path[:length] in covered for length in range(1, min(len(path), 4) + 1))


def _how(entry: Entry) -> Slipped | None:
    path, word = entry.path, entry.path[-1]
    if len(path) == 1 and word not in SECTIONS:
        return _at_top(entry)
    if path[0] not in SECTIONS or not 1 < len(path) <= 4 or entry.key is None:
        return None
    if word in SECTIONS and len(path) <= 3:
        return "section" if _is_section(str(word), entry) else None
    return _in_mirrors(entry) if path[0] == "mirrors" else _in_configs(entry)


def _at_top(entry: Entry) -> Slipped | None:
    if entry.key is None:
        return None
    below = names(entry)
    if below & set(SECTIONS) and not str(entry.path[0]).startswith(("x-", ".")):
        return "wrapped"
    if entry.path[0] == "auths" or str(entry.path[0]).startswith(("x-", ".")):
        return None
    if is_registry(str(entry.path[0])) and (below & {*MIRROR} or below & {*CONFIG}):
        return "shallow"
    return None


def _is_section(word: str, entry: Entry) -> bool:
    """Not a registry that happens to be called `configs`: what stands there is what stands in the section."""
    if entry.value.kind != "mapping":
        return False
    here = MIRROR if entry.path[0] == "mirrors" else CONFIG
    below = names(entry)
    if len(entry.path) == 2 and (not below or below & {*here}):
        return False
    inside = {name for value in entry.value.children[1::2] for name in _names(value)}
    return bool(inside & {*(MIRROR if word == "mirrors" else CONFIG)}) or not inside


def _in_mirrors(entry: Entry) -> Slipped | None:
    path, word = entry.path, entry.path[-1]
    if len(path) == 2 and word in MIRROR and not names(entry) & {*MIRROR}:
        wanted = "mapping" if word == "rewrite" else "sequence"
        return "shallow" if entry.value.kind == wanted else None
    if len(path) == 3 and word in (*CONFIG, *AUTH, *TLS):
        return "elsewhere"
    return None


def _in_configs(entry: Entry) -> Slipped | None:
    path, word = entry.path, entry.path[-1]
    if len(path) == 2 and word in CONFIG:
        fields = AUTH if word == "auth" else TLS
        return "shallow" if names(entry) & {*fields} - {*CONFIG} else None
    if len(path) == 3 and word in MIRROR:
        return "elsewhere"
    if len(path) == 3 and word not in CONFIG and word in PARENT:
        return "shallow"
    if len(path) == 4 and path[2] in CONFIG and word in (*CONFIG, *AUTH, *TLS):
        return "deep" if word not in (AUTH if path[2] == "auth" else TLS) else None
    return None


def is_registry(name: str) -> bool:
    """Whether a name looks like that of a registry, and not like a word that was misspelt."""
    return name in ("*", "localhost") or "." in name or ":" in name


def names(entry: Entry) -> set[str]:
    """The keys of what stands there."""
    return set(_names(entry.value))


def _names(node: object) -> Iterator[str]:
    from pierhead.config.yamlnodes import Node

    if isinstance(node, Node) and node.kind == "mapping":
        yield from (key.value for key in node.children[::2])


def key_shown(entry: Entry) -> str:
    """A key for people, as "the key user"; below `auth`, where a value may stand in its place, only a likely word."""
    word = str(entry.path[-1])
    if entry.path[0] in ("configs", "auths") and len(entry.path) > 3 and entry.path[2] != "tls":
        likely = {*AUTH, *TLS, "tls", "user", "pass", "passwd", "email", "token", "registry_token", "identitytoken"}
        return f"the key {word}" if word.lower() in likely else "this key"
    return f"the key {spoken(word)}" if word else "the empty name"


def value_shown(entry: Entry) -> str:
    """A value for people, by the key it stands under; below `auth` only by a key that is known."""
    word = entry.path[-1]
    if isinstance(word, int):
        return f"item {word + 1} of {spoken(str(entry.path[-2])) if len(entry.path) > 1 else 'the list'}"
    known = {*MIRROR, *CONFIG, *AUTH, *TLS, "mirrors", "configs", "auths"}
    hidden = entry.path[0] in ("configs", "auths") and len(entry.path) > 2 and word not in known
    return "this value" if hidden else word if word in known else f"the value of {spoken(word)}"
