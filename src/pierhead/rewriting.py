"""Rewrite rules of registries.yaml: which rule changes a repository's name, into what, and what K3s' files do to rules.

Patterns are Go's (`goregexp`); replacements follow `Regexp.expand` and `ReplaceAllString` of Go's regexp/regexp.go.
`toml_detour` is what containerd reads after K3s has written a rule unescaped into hosts.toml.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pierhead.errors import PierheadError
from pierhead.goregexp import CACHED_PATTERNS, InvalidPattern, Pattern, compile_pattern

__all__ = [
    "InvalidPattern",
    "Pattern",
    "Rewritten",
    "Rule",
    "UnusableToml",
    "compile_pattern",
    "group_names",
    "replace_all",
    "replacement_parts",
    "rewrite",
    "toml_detour",
    "unescape_basic",
]


class UnusableToml(PierheadError):
    """A text that does not survive being put unescaped between the quotes of a TOML basic string."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"hosts.toml would not parse: {reason}",
            hint="K3s writes rewrites unescaped: write [.] for \\., or double every backslash.",
        )
        self.reason = reason


def replace_all(pattern: Pattern, replacement: str, repository: str) -> str:
    """`repository` with every match replaced. As Go: Regexp.ReplaceAllString.

    Python's `re.sub` differs: Go ignores an empty match right behind the match before it, so `(.*)` matches once.
    """
    parts = replacement_parts(replacement)
    pieces: list[str] = []
    end = 0
    for match in pattern.engine.finditer(repository):
        pieces.append(repository[end : match.start()])
        if match.end() > end or match.start() == 0:
            pieces += [pattern.group(match, text) if is_name else text for is_name, text in parts]
        end = match.end()
    pieces.append(repository[end:])
    return "".join(pieces)


@lru_cache(maxsize=CACHED_PATTERNS)
def replacement_parts(replacement: str) -> tuple[tuple[bool, str], ...]:
    """Literal texts and group names in their order, as (is it a name, text). As Go: extract in regexp.go."""
    parts: list[tuple[bool, str]] = []
    at = 0
    while (dollar := replacement.find("$", at)) >= 0:
        parts.append((False, replacement[at:dollar]))
        braced = replacement.startswith("{", dollar + 1)
        start = dollar + 1 + braced
        at = end = _name_end(replacement, start)
        if end > start and not (braced and not replacement.startswith("}", end)):
            parts.append((True, replacement[start:end]))
            at = end + braced
        else:  # no name: the dollar is itself, and of two dollars one
            parts.append((False, "$"))
            at = dollar + 1 + replacement.startswith("$", dollar + 1)
    return (*parts, (False, replacement[at:]))


def group_names(replacement: str) -> tuple[str, ...]:
    """The groups that a replacement uses, by name or number, in their order."""
    return tuple(text for is_name, text in replacement_parts(replacement) if is_name)


def _name_end(text: str, start: int) -> int:
    """Where the longest run of letters, decimal digits and underscores ends (`\\w` would take "²" as well)."""
    end = start
    while end < len(text) and (text[end] == "_" or unicodedata.category(text[end])[0] == "L" or text[end].isdecimal()):
        end += 1
    return end


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of `rewrite:`; both texts as containerd gets them (after `toml_detour`)."""

    pattern: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What a mirror's rules make of a repository, and which rule did it (None: it stays as it was).

    containerd walks the rules in random order, so the `overlapping` ones might have won instead. `invalid` holds the
    rules it skips with a warning, and why.
    """

    repository: str
    rule: int | None = None
    overlapping: tuple[int, ...] = ()
    invalid: tuple[tuple[int, str], ...] = ()


def rewrite(rules: Sequence[Rule], repository: str) -> Rewritten:
    """The first rule in document order that changes `repository` wins; its result is not rewritten again.

    As K3s' containerd: withRewritesFromHost in core/remotes/docker/resolver.go; the order is ours, its own is random.
    """
    changed: list[tuple[int, str]] = []
    invalid: list[tuple[int, str]] = []
    for number, rule in enumerate(rules):
        try:
            result = replace_all(compile_pattern(rule.pattern), rule.replacement, repository)
        except InvalidPattern as error:
            invalid.append((number, error.message))
        else:
            changed += [(number, result)] if result != repository else []
    if not changed:
        return Rewritten(repository, invalid=tuple(invalid))
    (winner, result), *others = changed
    return Rewritten(result, winner, tuple(number for number, _ in others), tuple(invalid))


# The TOML detour

_ESCAPES: Final = {'"': '"', "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "e": "\x1b"}
_TOML_PIECE = re.compile(r"\\.|[^\\]|\\", re.DOTALL)
_TOML_SPECIAL = re.compile(
    r"\\(?:u(?P<short>[0-9A-Fa-f]{4})|U(?P<long>[0-9A-Fa-f]{8})|(?P<kind>.?))"
    r"|(?P<forbidden>[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff])",
    re.DOTALL,
)


def toml_detour(text: str) -> str:
    """What containerd reads back after K3s wrote `text` unescaped between double quotes. Raises UnusableToml.

    A bare quote always raises here; whether the rest of its line happens to be TOML is for the reader of whole lines.
    """
    for piece in _TOML_PIECE.finditer(text):
        if piece[0] == '"':
            raise UnusableToml("a quote ends the string early")
        if piece[0] in "\n\r":
            raise UnusableToml("basic strings cannot have new lines")
        if piece[0] == "\\":
            raise UnusableToml("the last backslash escapes the closing quote")
    return unescape_basic(text)


def unescape_basic(text: str) -> str:
    """The value of a basic string with `text` between its quotes. As go-toml 2.3.0: parseBasicString; it takes `\\e`.

    Raises UnusableToml for an escape go-toml does not know and for control characters.
    """
    return _TOML_SPECIAL.sub(_unescape, text)


def _unescape(match: re.Match[str]) -> str:
    if match["forbidden"]:
        raise UnusableToml(f"invalid character U+{ord(match['forbidden']):04X}")
    digits = match["short"] or match["long"]
    if digits:
        code = int(digits, 16)
        if code > sys.maxunicode or 0xD800 <= code < 0xE000:
            raise UnusableToml(f"escape sequence is invalid Unicode code point {match[0]}")
        return chr(code)
    kind = match["kind"]
    if kind in _ESCAPES:
        return _ESCAPES[kind]
    if kind in ("u", "U"):
        raise UnusableToml(f"\\{kind} needs {4 if kind == 'u' else 8} hexadecimal digits")
    raise UnusableToml(f"invalid escaped character {match[0]}" if kind else "need a character after \\")
