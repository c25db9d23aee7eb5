"""The bytes of a registries.yaml, where everything in them stands, and how to change a few of them and no others.

Lines and columns are libyaml's (every YAML 1.1 line break ends a line; columns count code points), so a span of the
parser and a span of an edit are the same thing.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from pierhead.check.finding import Edit, Fix
from pierhead.config.goyaml import resolve
from pierhead.config.yamlnodes import Node, Unreadable, compose
from pierhead.errors import Span

_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./^(][A-Za-z0-9_./:@+()*$^|\\-]*\Z")


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping with its value; `path` are the keys above it and its own (an item of a sequence: its index).

    An alias is not followed: what stands elsewhere is not this entry's to change.
    """

    path: tuple[str | int, ...]
    key: Node | None
    value: Node
    parent: Node

    @property
    def start(self) -> Span:
        """Where the key stands; of an item, where that does."""
        return (self.key or self.value).span


@dataclass(frozen=True)
class Source:
    """A file as it was read. `file` is its name in every span."""

    file: str
    data: bytes
    text: str = field(repr=False)
    encoding: str = "utf-8"
    bom: bytes = b""

    @classmethod
    def of(cls, data: bytes, file: str) -> Source:
        """`data` as text, by its byte order mark; what is no UTF-8 is kept as surrogate escapes."""
        bom, encoding = next((pair for pair in _BOMS if data.startswith(pair[0])), (b"", "utf-8"))
        body = data.removeprefix(bom)
        try:
            text = body.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError:  # half a pair of UTF-16; the parser has said so
            text, encoding = body.decode("latin-1"), "latin-1"
        return cls(file, data, text, encoding, bom)

    # ── places ──

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(found.end() for found in _BREAK.finditer(self.text))]

    @property
    def lines(self) -> int:
        """How many lines there are, the one behind the last line break included."""
        return len(self._starts)

    def line(self, number: int) -> str:
        """A line without its break; empty if there is none of this number."""
        if not 1 <= number <= self.lines:
            return ""
        start = self._starts[number - 1]
        found = _BREAK.search(self.text, start)
        return self.text[start : found.start() if found else len(self.text)]

    def offset(self, line: int, column: int) -> int:
        """The index in `text` of a place; the end of the text for a place behind it."""
        if line > self.lines:
            return len(self.text)
        return min(self._starts[line - 1] + column - 1, len(self.text))

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of an index in `text`."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def span(self, start: int, end: int) -> Span:
        """The span of `text[start:end]`."""
        return Span(self.file, *self.place(start), *self.place(end))

    def range(self, span: Span) -> tuple[int, int]:
        """The indices in `text` that a span covers; a span without an end covers nothing."""
        start = self.offset(span.line, span.column)
        end = self.offset(span.end_line, span.end_column) if span.end_line else start
        return start, max(start, end)

    def slice(self, span: Span) -> str:
        """What a span covers, as written, quotes included."""
        start, end = self.range(span)
        return self.text[start:end]

    # ── the tree ──

    @cached_property
    def root(self) -> Node | None:
        """The first document's root; None if there is none, or it cannot be parsed."""
        try:
            return compose(self.data, self.file)[0]
        except Unreadable:
            return None

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry of every mapping and sequence, in document order."""
        return tuple(_walk(self.root)) if self.root else ()

    @cached_property
    def _by_place(self) -> dict[tuple[int, int], Entry]:
        return {(entry.start.line, entry.start.column): entry for entry in reversed(self.entries)}

    def entry_at(self, span: Span) -> Entry | None:
        """The entry whose key (or item) stands at the start of `span`."""
        return self._by_place.get((span.line, span.column))

    def entry(self, *path: str | int) -> Entry | None:
        """The last entry at these keys."""
        return next((entry for entry in reversed(self.entries) if entry.path == path), None)

    # ── edits ──

    def rewritten(self, span: Span, value: str) -> Edit | None:
        """Puts another value in the place of a scalar, in its own quotes where it has some.

        None where that cannot be done faithfully: block scalars, anchors, tags, aliases.
        """
        raw = self.slice(span)
        style = raw[:1]
        if style == '"' or (style == "'" and not value.isprintable()):
            return Edit(span, double_quoted(value))
        if style == "'":
            return Edit(span, _single_quoted(value))
        if not raw or style in "&*!|>":
            return None
        return Edit(span, value if _is_plain(value) else quoted(value))

    def end(self, node: Node) -> int:
        """The index in `text` where a node ends; a block scalar's last line break is not part of it."""
        line, column = _end(node)
        if column == 1 and line > node.span.line:
            return self.offset(line - 1, len(self.line(line - 1)) + 1)
        return self.offset(line, column)

    def removed(self, entry: Entry) -> Edit | None:
        """Takes an entry away, its lines with it; None where it is not alone on them."""
        start, end = self.range(entry.start)[0], self.end(entry.value)
        first, last = self._starts[self.place(start)[0] - 1], self.place(end)[0]
        before = self.text[first:start].strip()
        rest = self.line(last)[self.place(end)[1] - 1 :].strip()
        if before.removesuffix("-" if entry.key is None else "") or (rest and not rest.startswith("#")):
            return None
        return Edit(self.span(first, self.offset(last + 1, 1)), "")

    def cut(self, entry: Entry) -> Edit | None:
        """As `removed`, and out of brackets too, with its comma; None for the only one in them."""
        if entry.parent.closed is None:
            return self.removed(entry)
        nodes = entry.parent.children
        first, last = nodes.index(entry.key or entry.value), nodes.index(entry.value)
        start, end = self.range(entry.start)[0], self.end(entry.value)
        if last + 1 < len(nodes):
            end = self.range(nodes[last + 1].span)[0]
        elif first:
            start = self.end(nodes[first - 1])
        else:
            return None
        return None if "#" in self.text[start:end] else Edit(self.span(start, end), "")

    def sibling(self, entry: Entry, text: str) -> Edit:
        """Puts another entry behind this one: as deep, or in the same brackets, where it has one line."""
        end = self.end(entry.value)
        if entry.parent.closed is not None:
            return Edit(self.span(end, end), f", {text}")
        below = self.offset(self.place(end)[0] + 1, 1)
        new_line = "\r\n" if "\r\n" in self.text else "\n"
        line = new_line.join(" " * (entry.start.column - 1) + each for each in text.split("\n"))
        ended = _BREAK.search(self.text, end, below) is not None
        return Edit(self.span(below, below), line + new_line if ended else new_line + line)

    def shared(self, entry: Entry, name: str) -> Edit | None:
        """Names an entry's value with an anchor, so that `sibling` can repeat it as `*name`; None if it has one."""
        if entry.key is None or entry.value.kind == "alias":
            return None
        start, end = self.range(entry.key.span)[1], self.range(entry.value.span)[0]
        found = re.match(r"\s*:", self.text[start:end])
        if found is None or "&" in self.text[start:end] or self.text.startswith(("&", "!"), end):
            return None
        after = start + found.end()
        return Edit(self.span(after, after), f" &{name}")

    def free_anchor(self, wanted: str) -> str:
        """An anchor's name like `wanted` that the file does not use."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", wanted).strip("-") or "shared"
        number = 1
        while f"&{name}" in self.text:
            name, number = f"{name.removesuffix(f'-{number}')}-{number + 1}", number + 1
        return name

    def fix(self, description: str, *edits: Edit | None) -> Fix | None:
        """A fix of these edits; None if one of them cannot be made."""
        made = tuple(edit for edit in edits if edit is not None)
        return Fix(description, made) if made and len(made) == len(edits) else None

    def applied(self, edits: Iterable[Edit]) -> bytes:
        """The file with these edits made; raises `ValueError` if two of them overlap."""
        text, last = self.text, len(self.text) + 1
        for start, end, new in sorted(((*self.range(edit.span), edit.text) for edit in set(edits)), reverse=True):
            if end > last:
                raise ValueError("two edits overlap")
            text, last = text[:start] + new + text[end:], start
        errors = "surrogateescape" if self.encoding == "utf-8" else "strict"
        return self.bom + text.encode(self.encoding, errors)


def quoted(value: str, style: Literal["single", "double"] = "double") -> str:
    """A YAML scalar of this text, in quotes: single ones where there is a backslash to read."""
    if value.isprintable() and "'" not in value and ("\\" in value or '"' in value or style == "single"):
        return _single_quoted(value)
    return double_quoted(value)


def _single_quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def double_quoted(value: str) -> str:
    """A YAML scalar of this text, in double quotes whatever it holds."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in value) + '"'


def _is_plain(value: str) -> bool:
    """Whether a value needs no quotes anywhere and stays a string; careful rather than complete."""
    if not _PLAIN.match(value) or value.endswith(":"):
        return False
    return resolve("", value)[0] == "tag:yaml.org,2002:str"


def _walk(root: Node) -> Iterator[Entry]:
    """Every entry in document order; with a stack of its own, so that depth costs no recursion."""
    waiting = list(reversed(_children(root, ())))
    while waiting:
        entry = waiting.pop()
        yield entry
        waiting += reversed(_children(entry.value, entry.path))


def _children(node: Node, path: tuple[str | int, ...]) -> list[Entry]:
    if node.kind == "sequence":
        return [Entry((*path, index), None, child, node) for index, child in enumerate(node.children)]
    pairs = zip(node.children[::2], node.children[1::2], strict=True)
    return [Entry((*path, key.value), key, value, node) for key, value in pairs]


def _end(node: Node) -> tuple[int, int]:
    """Where a node ends: a block collection where its last child does."""
    while node.children and not node.closed:
        node = node.children[-1]
    return node.closed or (node.span.end_line, node.span.end_column)
