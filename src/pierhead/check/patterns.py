"""What a rewrite does, told from its two texts: as the client reads them, and on names that the pattern is made for.

A claim about a rewrite is proven by a repository name. `samples` invents names that a pattern matches; it may miss some
but never makes one up that does not match, because every one is tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Final

from pierhead.config.registries import Mirror, Rewrite
from pierhead.reference import is_repository
from pierhead.rewriting import (
    InvalidPattern,
    Pattern,
    UnusableToml,
    compile_pattern,
    replace_all,
    replacement_parts,
    toml_detour,
)

SAMPLES_LIMIT: Final = 12  # names invented for one pattern
NESTING_LIMIT: Final = 40  # parentheses inside parentheses; deeper patterns get no samples
CACHED: Final = 4096
SHOWN_LIMIT: Final = 100  # characters of a pattern in a message

FOREIGN_GROUP: Final = re.compile(r"\\{1,2}(?:(?P<digit>\d)|g<(?P<name>\w+)>)(?P<word>(?=\w))?")

_PIECE: Final = re.compile(
    r"\\Q.*?(?:\\E|\Z)|\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]|\(\?P?<\w+>|\(\?[imsU-]*[:)]"
    r"|\{\d+(?:,\d*)?\}|.",
    re.DOTALL,
)
_QUANTIFIER: Final = re.compile(r"[*+?]|\{\d+(?:,\d*)?\}")
_PORTABLE_CLASSES: Final = {"d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]"}


@dataclass(frozen=True, slots=True)
class ReadRewrite:
    """A rewrite as the client reads it. A text that it cannot read is None and `fault` says why; `refused`: Go's words
    for a pattern that does not compile."""

    mirror: Mirror
    written: Rewrite
    pattern: str | None
    replacement: str | None
    compiled: Pattern | None = None
    refused: str = ""

    def result(self, repository: str) -> str | None:
        """What it makes of a repository; None if it cannot be applied or changes nothing."""
        if self.compiled is None or self.replacement is None:
            return None
        result = replace_all(self.compiled, self.replacement, repository)
        return None if result == repository else result


def read_rewrites(mirror: Mirror, *, detour: bool) -> tuple[ReadRewrite, ...]:
    """The rewrites of a mirror; `detour`: they come through hosts.toml, where K3s writes them without escaping."""
    read = as_read if detour else _as_written
    return tuple(_read(mirror, rewrite, read) for rewrite in mirror.rewrites)


def _read(mirror: Mirror, rewrite: Rewrite, read: Callable[[str], str | None]) -> ReadRewrite:
    pattern, replacement = read(rewrite.pattern.value), read(rewrite.replacement.value)
    if pattern is None:
        return ReadRewrite(mirror, rewrite, pattern, replacement)
    try:
        return ReadRewrite(mirror, rewrite, pattern, replacement, compile_pattern(pattern))
    except InvalidPattern as error:
        return ReadRewrite(mirror, rewrite, pattern, replacement, refused=error.message)


def _as_written(text: str) -> str | None:
    return text


def as_read(text: str) -> str | None:
    """What containerd reads after K3s wrote `text` into hosts.toml; None if that breaks the file (section 6.3)."""
    return text if "\\" not in text and text.isprintable() and '"' not in text else _detoured(text)


def _detoured(text: str) -> str | None:
    try:
        return toml_detour(text)
    except UnusableToml:
        return None


def knows(pattern: Pattern, name: str) -> bool:
    """Whether `$name` stands for a group of the pattern (as `Pattern.group` looks it up)."""
    if name.isascii() and name.isdigit() and (name == "0" or name[0] != "0"):
        return len(name) <= 9 and int(name) < len(pattern.names)
    return name in pattern.names


def literals(replacement: str) -> str:
    """A replacement with its groups taken out, each leaving a NUL."""
    return "".join("\0" if is_name else text for is_name, text in replacement_parts(replacement))


def visible(text: str) -> str:
    """A text for a message: between backquotes, control characters escaped, not endless."""
    shown = text if len(text) <= SHOWN_LIMIT else f"{text[:SHOWN_LIMIT]}…"
    return "`" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown) + "`"


# ── the shape of a pattern ──


def is_anchored(pattern: str) -> bool:
    """Whether a pattern matches at the start of a name only; careful: False for what is not plain to see."""
    return re.match(r"(?:\^|\\A)(?![*?{])", pattern) is not None and not has_branches(pattern)


def has_branches(pattern: str) -> bool:
    """Whether there is a `|` outside all parentheses."""
    depth = 0
    for piece in _PIECE.findall(pattern):
        if piece == "|" and depth == 0:
            return True
        depth += (piece[0] == "(" and not _is_flags(piece)) - (piece == ")")
    return False


def has_slash(pattern: str) -> bool:
    """Whether a `/` may be in what a pattern of Go matches; True for what is not plain to see."""
    return any(_takes_slash(piece) for piece in _PIECE.findall(pattern))


def _takes_slash(piece: str) -> bool:
    if piece[0] == "[" and len(piece) > 1:
        return compile_pattern(piece).engine.fullmatch("/") is not None
    if piece[0] == "\\":
        return _literal(piece) in (None, "/") and piece not in (r"\d", r"\w", r"\b", r"\B", r"\A", r"\z")
    return piece in "./"


def _is_flags(piece: str) -> bool:
    return piece.startswith("(?") and piece.endswith(")")


@lru_cache(maxsize=CACHED)
def literal_prefix(pattern: str) -> str:
    """The text that every match begins with, as far as it stands there in plain characters."""
    if has_branches(pattern):
        return ""
    prefix = ""
    pieces = _PIECE.findall(pattern)
    for piece, after in zip_longest(pieces, pieces[1:], fillvalue=""):
        character = _literal(piece)
        if character is None or (after and _QUANTIFIER.fullmatch(after)):
            break
        prefix += character
    return prefix


def _literal(piece: str) -> str | None:
    """The one text that a piece stands for; "" for an anchor at the start, None for what stands for several."""
    if piece in ("^", r"\A"):
        return ""
    if len(piece) == 2 and piece[0] == "\\":
        return piece[1] if not piece[1].isalnum() else None
    if len(piece) == 3 and piece[0] == "[" and piece[1] not in "^\\":
        return piece[1]
    return piece if len(piece) == 1 and piece not in "^$.*+?()[]{}|\\" else None


# ── names that a pattern matches ──


@lru_cache(maxsize=CACHED)
def samples(pattern: str) -> tuple[str, ...]:
    """Repository names that a pattern of Go matches somewhere; () if none could be thought of."""
    compiled = compile_pattern(pattern)
    try:
        made = _Sampler(_PIECE.findall(pattern)).branches()
    except _Unsampled:
        return ()
    matching = (name for name in _completed(made) if is_repository(name) and compiled.engine.search(name))
    return tuple(dict.fromkeys(matching))[:SAMPLES_LIMIT]


def _completed(made: Iterable[str]) -> Iterable[str]:
    """The texts as they are, and with what makes names of them: `-amd64` is the end of one, `rancher/` the start."""
    texts = list(dict.fromkeys([*made, *(text.lower() for text in made)]))
    yield from texts
    for before, after in (("", "app"), ("", "/app"), ("app", ""), ("team/app", ""), ("app", "app")):
        yield from (before + text + after for text in texts)


class _Unsampled(Exception):
    """The pattern holds something that the sampler does not know."""


class _Sampler:
    """Reads a pattern's pieces and says some texts that it may match: some for `.*`, all for branches, up to a limit.

    It is sloppy on purpose; `samples` tries every text.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces
        self._at = 0
        self._depth = 0

    def branches(self) -> list[str]:
        found = self._branch()
        while self._peek() == "|":
            self._at += 1
            found += self._branch()
        return found[:SAMPLES_LIMIT]

    def _peek(self) -> str:
        return self._pieces[self._at] if self._at < len(self._pieces) else ""

    def _branch(self) -> list[str]:
        made = [""]
        while self._peek() not in ("", "|", ")"):
            atom = self._repeated(*self._atom())
            made = [start + end for end in atom for start in made][:SAMPLES_LIMIT]
        return made

    def _atom(self) -> tuple[list[str], list[str]]:
        """Some texts of the next item, and some for when it is repeated."""
        piece = self._peek()
        self._at += 1
        if piece == ".":
            return ["a"], ["app", "team/app"]
        if piece[0] == "[" and len(piece) > 1:
            return _of_class(piece)
        if piece[0] == "(" and not _is_flags(piece):
            inner = self._group()
            return inner, inner
        text = _sampled(piece)
        return [text], [text]

    def _group(self) -> list[str]:
        self._depth += 1
        if self._depth > NESTING_LIMIT:
            raise _Unsampled
        inner = self.branches()
        self._at += 1  # the closing parenthesis, which is there: Go took the pattern
        self._depth -= 1
        return inner

    def _repeated(self, once: list[str], many: list[str]) -> list[str]:
        piece = self._peek()
        if not _QUANTIFIER.fullmatch(piece):
            return once
        self._at += 1 + (self._pieces[self._at + 1 : self._at + 2] == ["?"])
        if piece[0] != "{":
            return {"*": [*many, ""], "+": many, "?": [*once, ""]}[piece]
        low = int(piece[1:-1].partition(",")[0])
        return [text * min(low or 1, NESTING_LIMIT) for text in once]


def _sampled(piece: str) -> str:
    """One text for a piece that is neither a class nor a group."""
    if piece in ("^", "$", r"\A", r"\z", r"\b", r"\B") or _is_flags(piece):
        return ""
    known = {r"\d": "0", r"\w": "a", r"\D": "a"}.get(piece)
    text = known or _literal(piece)
    if text is None:
        raise _Unsampled
    return text


def _of_class(piece: str) -> tuple[list[str], list[str]]:
    engine = compile_pattern(piece).engine
    inside = [character for character in "ab0z9-._/" if engine.fullmatch(character)]
    if not inside:
        raise _Unsampled
    word = "app" if all(engine.fullmatch(character) for character in "ap") else inside[0]
    return inside[:1], [word]


# ── the TOML detour, undone ──

_WRITTEN_PIECE: Final = re.compile(r"\\\\.|\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\\\.|\\.|[^\]\\])*\]|.", re.DOTALL)
_TOML_OWN: Final = frozenset('"uU\\')


def portable(pattern: str) -> str:
    """The same pattern without backslashes that TOML would take away: `[.]` for `\\.`, `[0-9]` for `\\d`, else two."""
    return "".join(_portable_piece(piece) for piece in _WRITTEN_PIECE.findall(pattern))


def _portable_piece(piece: str) -> str:
    if piece[0] == "[" and len(piece) > 1:
        return re.sub(r"\\\\.|\\.", lambda found: _doubled(found[0]), piece, flags=re.DOTALL)
    if len(piece) != 2 or piece[0] != "\\":
        return piece
    escaped = piece[1]
    if escaped in _PORTABLE_CLASSES:
        return _PORTABLE_CLASSES[escaped]
    if escaped in ".+*?()[]{}|$":
        return f"[{escaped}]"
    return escaped if escaped in "/-_:@=,%&~#!<> '" else _doubled(piece)


def _doubled(piece: str) -> str:
    if len(piece) == 3 or piece[1] in _TOML_OWN:
        return piece
    return "." if piece == r"\." else f"\\{piece}"
