"""The nodes of a YAML document as yaml.v2's parser makes them, each with its place.

As gopkg.in/yaml.v2 v2.4.0: decode.go (parser), scannerc.go, parserc.go. Scanning and parsing are libyaml's, of which
yaml.v2 is a port; where the two differ (`%YAML 1.2`, a `?` inside a plain scalar of a flow collection) the difference
is made up here. One is not: a `:` right before `,`, `[`, `]`, `{` or `}` in an unquoted flow scalar is an error here
and part of the scalar there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import yaml

from pierhead.errors import Span

DEPTH_LIMIT = 10_000  # as yaml.v2: max_flow_level and max_indents

Kind = Literal["scalar", "sequence", "mapping", "alias"]

_Event = Any  # PyYAML's stubs know less of events than its parser gives them


class Unreadable(Exception):
    """yaml.v2 stops here. `go_text` is its message without the "yaml: "; `shown` the same without values."""

    def __init__(self, go_text: str, span: Span | None, *, shown: str = "") -> None:
        super().__init__(go_text)
        self.go_text = go_text
        self.span = span
        self.shown = shown or go_text


# -- the node tree ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Node:
    """A node of the document. `implicit`: a plain scalar, or one tagged `!`. `target`: what an alias stands for.

    The span of a collection is where it begins; `closed` is where one in brackets ends (line, column).
    """

    kind: Kind
    span: Span
    value: str = ""
    tag: str = ""
    implicit: bool = False
    children: list[Node] = field(default_factory=list)
    target: Node | None = None
    closed: tuple[int, int] | None = None


def compose(data: bytes, file: str) -> tuple[Node | None, Span | None]:
    """The first document's root (None: no document) and where a second document starts; raises `Unreadable`."""
    loader = yaml.CSafeLoader(data or b"\n")
    try:
        return _Composer(loader, file).document(data)
    finally:
        loader.dispose()


class _Composer:
    """Builds the tree from libyaml's events with a stack of its own, so that depth costs no recursion."""

    def __init__(self, loader: yaml.CSafeLoader, file: str) -> None:
        self._events = partial(_next_event, loader, file)
        self._file = file
        self._anchors: dict[str, Node] = {}

    def document(self, data: bytes) -> tuple[Node | None, Span | None]:
        self._events()  # stream start
        start = self._events()
        if isinstance(start, yaml.StreamEndEvent):
            return None, None
        self._check_version(start, data)
        root = self._tree()
        self._events()  # document end
        return root, self._second_document()

    def _check_version(self, start: _Event, data: bytes) -> None:
        if getattr(start, "version", None) in (None, (1, 1)):
            return
        before = data.partition(b"%YAML")[0]
        line = before.count(b"\n")
        place = f"line {line}: " if line else ""
        raise Unreadable(f"{place}found incompatible YAML document", Span(self._file, line + 1))

    def _tree(self) -> Node:
        root: Node | None = None
        open_nodes: list[tuple[Node, str]] = []  # with the bracket that closes it, if it is a flow collection
        while True:
            event = self._events()
            if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                node, bracket = open_nodes.pop()
                if bracket:
                    end = _span(event, self._file)
                    node.closed = (end.end_line, end.end_column)
            else:
                parent, inside = open_nodes[-1] if open_nodes else (None, "")
                node = self._node(event, inside)
                if parent:
                    parent.children.append(node)
                root = root or node
                if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                    closing = "]" if node.kind == "sequence" else "}"
                    open_nodes.append((node, closing if event.flow_style else ""))
                    self._check_depth(len(open_nodes), node)
            if not open_nodes:
                assert root is not None  # the first event made it
                return root

    def _check_depth(self, depth: int, node: Node) -> None:
        if depth > DEPTH_LIMIT:
            place = f"line {node.span.line}: " if node.span.line > 1 else ""
            raise Unreadable(f"{place}exceeded max depth of {DEPTH_LIMIT}", node.span)

    def _node(self, event: _Event, inside: str) -> Node:
        span = _span(event, self._file)
        if isinstance(event, yaml.AliasEvent):
            anchor: str = event.anchor or ""
            target = self._anchors.get(anchor)
            if target is None:
                # The name is not shown: it may be a password that starts with `*` and lacks its quotes.
                shown = "unknown anchor referenced: a value that starts with * needs quotes"
                raise Unreadable(f"unknown anchor '{anchor}' referenced", span, shown=shown)
            return Node("alias", span, value=anchor, target=target)
        if isinstance(event, yaml.ScalarEvent):
            if inside and event.implicit[0] and not event.style and "?" in event.value:
                raise _question_mark(event, inside, self._file)
            node = Node("scalar", span, event.value or "", event.tag or "", event.implicit[0])
        else:
            node = Node("sequence" if isinstance(event, yaml.SequenceStartEvent) else "mapping", span)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _second_document(self) -> Span | None:
        try:
            event = self._events()
        except Unreadable:
            return None  # yaml.v2 never looks there
        return _span(event, self._file) if isinstance(event, yaml.DocumentStartEvent) else None


def _question_mark(event: _Event, inside: str, file: str) -> Unreadable:
    """yaml.v2 ends a plain scalar of a flow collection at `?` and then misses the comma."""
    line = event.start_mark.line
    place = f"line {line}: " if line else ""
    return Unreadable(f"{place}did not find expected ',' or '{inside}'", _span(event, file))


def _next_event(loader: yaml.CSafeLoader, file: str) -> _Event:
    try:
        return loader.get_event()
    except yaml.reader.ReaderError as error:
        raise Unreadable(error.reason, Span(file, 1)) from None
    except yaml.MarkedYAMLError as error:
        raise _marked(error, file) from None


def _marked(error: yaml.MarkedYAMLError, file: str) -> Unreadable:
    """As yaml.v2's parser.fail: scanner errors count lines from 1, parser errors from 0, and line 0 is not shown."""
    line = error.problem_mark.line if error.problem_mark else 0
    if line:
        line += isinstance(error, yaml.scanner.ScannerError)
    elif error.context_mark:
        line = error.context_mark.line
    place = f"line {line}: " if line else ""
    where = error.problem_mark or error.context_mark
    if error.problem == "found unexpected end of stream":
        where = error.context_mark or where  # where the quote was opened that nobody closed
    span = Span(file, where.line + 1, where.column + 1) if where else Span(file, 1)
    return Unreadable(place + (error.problem or "unknown problem parsing YAML content"), span)


def _span(event: _Event, file: str) -> Span:
    start, end = event.start_mark, event.end_mark
    return Span(file, start.line + 1, start.column + 1, end.line + 1, end.column + 1)
