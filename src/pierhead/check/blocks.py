"""Whole entries as lines: to give them another indentation, or another place, with the comments that belong to them.

An edit holds no secret, so what may hold one is never copied: what stands around it moves, or nothing does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pierhead.check.finding import Edit, Fix
from pierhead.check.source import Entry, Source
from pierhead.config.registries import parse
from pierhead.errors import Problem, Span

TRIALS_BYTES: Final = 400_000  # of all the files that are read again to see what a fix does
TRIALS_LIMIT: Final = 50
_SECRETIVE: Final = re.compile(r"@|auth|pass|token|secret|://[^/\s]*:[^/\s]*@", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Block:
    """The lines of an entry in block style, `first` to `last`, with the comments right above its key.

    `head` is the line of the key, `indent` the spaces before it.
    """

    source: Source
    head: int
    first: int
    last: int
    indent: int

    @classmethod
    def of(cls, source: Source, entry: Entry) -> Block | None:
        """None if the entry is in brackets, shares its lines with others, or is no key."""
        if entry.key is None or entry.parent.closed:
            return None
        head, indent = entry.key.span.line, entry.key.span.column - 1
        line, column = source.place(source.end(entry.value))
        rest = source.line(line)[column - 1 :].strip()
        if source.line(head)[:indent].strip(" ") or (rest and not rest.startswith("#")):
            return None
        first = head
        while _is_comment(source.line(first - 1), indent):
            first -= 1
        return cls(source, head, first, _with_comments(source, line, indent), indent)

    @property
    def start(self) -> int:
        """Where its first line begins."""
        return self.source.offset(self.first, 1)

    @property
    def end(self) -> int:
        """Where the line after its last one begins."""
        return self.source.offset(self.last + 1, 1)

    def shifted(self, by: int) -> tuple[Edit, ...]:
        """Every line further right, or further left."""
        return tuple(edit for number in range(self.first, self.last + 1) for edit in shifted(self.source, number, by))


def shifted(source: Source, number: int, by: int) -> Iterator[Edit]:
    """Moves a line to the right, or to the left as far as its spaces allow; blank lines stay."""
    line = source.line(number)
    spaces = len(line) - len(line.lstrip(" "))
    if by > 0 and line.strip():
        yield Edit(Span(source.file, number, 1, number, 1), " " * by)
    elif by < 0 and spaces:
        yield Edit(Span(source.file, number, 1, number, min(-by, spaces) + 1), "")


def raised(source: Source, entry: Entry, *, to: int, until: int) -> tuple[Edit, ...] | None:
    """Moves an entry out to the column after `to` spaces, behind everything up to the line `until`.

    What stands between moves up, not the entry: that one may hold secrets. None if it cannot be done.
    """
    block = Block.of(source, entry)
    if block is None or block.indent <= to:
        return None
    edits = block.shifted(to - block.indent)
    if block.last >= until:
        return edits
    tail = source.span(block.end, source.offset(until + 1, 1))
    text = source.slice(tail)
    if not text.strip():
        return edits
    if _SECRETIVE.search(text):
        return None
    if not text.endswith(("\n", "\r")):
        text += newline(source)
    start = source.span(block.start, block.start)
    return (*edits, Edit(start, text), Edit(tail, ""))


def trials(source: Source) -> int:
    """How many fixes of one rule may be tried on a file of this size; the rest have their turn in the next round."""
    return max(3, min(TRIALS_LIMIT, TRIALS_BYTES // (len(source.data) + 1)))


def believed(source: Source, fix: Fix | None, path: tuple[str | int, ...], entry: Entry) -> Fix | None:
    """The fix if after it the value of `entry` stands at `path`, whole; None otherwise."""
    if fix is None:
        return None
    after = Source.of(source.applied(fix.edits), source.file)
    return fix if contents(after, path) == contents(source, entry.path) else None


def contents(source: Source, path: tuple[str | int, ...]) -> list[tuple[object, ...]]:
    """What stands at and below a path, without its place."""
    depth = len(path)
    return [
        (each.path[depth:], each.value.kind, each.value.value, each.value.tag, each.value.implicit)
        for each in source.entries
        if each.path[:depth] == path
    ]


def newline(source: Source) -> str:
    """The line break that the file uses."""
    return "\r\n" if "\r\n" in source.text else "\n"


def last_line(source: Source, entry: Entry) -> int:
    """The last line of what stands below a key, its comments included."""
    line = source.place(source.end(entry.value))[0]
    return _with_comments(source, line, entry.start.column - 1)


def _with_comments(source: Source, last: int, indent: int) -> int:
    """The last line, or the last of the comments below it that are indented as if they belonged to it."""
    number, found = last + 1, last
    while number <= source.lines and (not source.line(number).strip() or _comment_indent(source.line(number)) > indent):
        if source.line(number).strip():
            found = number
        number += 1
    return found


def _is_comment(line: str, indent: int) -> bool:
    return _comment_indent(line) == indent


def _comment_indent(line: str) -> int:
    return len(line) - len(line.lstrip(" ")) if line.lstrip(" ").startswith("#") else -1


def inner_indent(entry: Entry) -> int | None:
    """How far what stands below a key in block style is indented."""
    return entry.value.children[0].span.column - 1 if entry.value.children else None


def is_null(entry: Entry) -> bool:
    """Whether nothing stands there, or YAML's word for nothing."""
    return entry.value.kind == "scalar" and entry.value.implicit and entry.value.value in ("", "~", "null")


def underlined(source: Source, problem: Problem) -> Span:
    """The place that the parser names, with something to underline."""
    assert problem.span is not None  # readers always say where
    span = problem.span
    if span.end_line and (span.end_line, span.end_column) > (span.line, span.column):
        return span
    rest = source.line(span.line)[span.column - 1 :].split("#")[0].rstrip()
    return Span(span.file, span.line, span.column, span.line, span.column + max(len(rest), 1))


def surrounded(source: Source, span: Span, left: str, right: str, description: str) -> Fix:
    """Puts text before and after a span, so that what it covers, a secret perhaps, is in no edit."""
    start, end = source.range(span)
    return Fix(description, (Edit(source.span(start, start), left), Edit(source.span(end, end), right)))


def faults(data: bytes, file: str) -> tuple[int, int]:
    """How badly K3s reads `data`: what keeps it from reading at all, then what it drops."""
    found = [problem.id for problem in parse(data, file).problems]
    types = found.count("yaml-type") + 1000 * found.count("yaml-syntax")
    return types, found.count("unknown-key") + found.count("duplicate-key")
