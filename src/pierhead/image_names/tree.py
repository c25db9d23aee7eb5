"""The nodes of YAML documents, each with its place; read with limits, and with no recursion for hostile files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pierhead.errors import Span

if TYPE_CHECKING:
    import yaml

DEPTH_LIMIT: Final = 500  # of nesting; a manifest has a dozen
MERGES_LIMIT: Final = 50  # of `<<` that one lookup goes through
# The keys that are ever looked up; the others of a mapping are only gone through.
ASKED: Final = frozenset(
    {"<<", "digest", "global", "imageRegistry", "imageTag", "name", "newName", "newTag", "reference", "registry"}
    | {"repository", "tag", "value"}
)

# YAML 1.2's core schema: a plain scalar like these is no string.
_NUMBER: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9A-Fa-f]+")
_NOT_TEXT: Final = re.compile(r"(?:~|null|true|false|yes|no|on|off|[-+]?\.inf|\.nan|)\Z", re.IGNORECASE)


@dataclass(slots=True, eq=False)
class Node:
    """A node of a document. `children` of a mapping are keys and values in turn; `target` is an alias' node."""

    kind: Literal["scalar", "sequence", "mapping", "alias"]
    place: Place
    lines: tuple[int, int]  # of its beginning and its end, from 0, in the text that stands at `place`
    columns: tuple[int, int]
    start: int  # the index in that text
    value: str = ""
    plain: bool = False
    children: Sequence[Node] = ()
    target: Node | None = None
    index: dict[str, Node] | None = None

    @property
    def span(self) -> Span:
        """Where it stands in the file."""
        return self.place.span(self.lines, self.columns)

    @property
    def resolved(self) -> Node:
        """What stands for it, if it is an alias."""
        return self.target or self if self.kind == "alias" else self

    def pairs(self) -> Iterator[tuple[Node, Node]]:
        """Keys and values of a mapping."""
        if self.kind != "mapping":
            return iter(())
        return zip(self.children[::2], self.children[1::2], strict=False)

    def get(self, name: str) -> Node | None:
        """The value of a key out of `ASKED`, from what is merged in (`<<`) too."""
        assert name in ASKED
        waiting, looked = [self.resolved], 0
        while waiting and looked < MERGES_LIMIT:
            node, looked = waiting.pop(0).resolved, looked + 1
            if node.kind == "sequence":
                waiting += node.children[:MERGES_LIMIT]
                continue
            if node.index is None:  # asked for again and again, where many mappings merge in the same one
                node.index = {
                    key.value: value for key, value in node.pairs() if key.kind == "scalar" and key.value in ASKED
                }
            if name in node.index:
                return node.index[name].resolved
            if "<<" in node.index:
                waiting.append(node.index["<<"])
        return None

    def text(self, name: str) -> str:
        """The text of a key; empty if it has none."""
        node = self.get(name)
        return node.string if node is not None else ""

    @property
    def string(self) -> str:
        """A scalar's text, a number's too; empty for what is no text (null, true)."""
        node = self.resolved
        if node.kind != "scalar" or (node.plain and _NOT_TEXT.match(node.value)):
            return ""
        return node.value.strip()

    @property
    def is_number(self) -> bool:
        node = self.resolved
        return node.kind == "scalar" and node.plain and _NUMBER.fullmatch(node.value) is not None


class TooMuch(Exception):
    """A file is deeper or larger than any manifest."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text stands in the file, if it is not the file itself: lines above it, columns left of it, its key.

    `fixed`: where all of it is said to be, if its lines are not lines of the file.
    """

    file: str
    line: int = 0
    column: int = 0
    above: Path | None = None
    fixed: Span | None = None

    def span(self, lines: tuple[int, int], columns: tuple[int, int]) -> Span:
        """Where in the file is what begins and ends in these lines and columns of the text, counted from 0."""
        if self.fixed is not None:
            return self.fixed
        line, column = self.line + 1, self.column + 1
        return Span(self.file, line + lines[0], column + columns[0], line + lines[1], column + columns[1])


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """A key below another, as a chain: most of them are never shown."""

    parent: Path | None
    key: str | int

    def __str__(self) -> str:
        parts: list[str] = []
        path: Path | None = self
        while path is not None:
            parts.append(_shown(path.key))
            path = path.parent
        return "".join(reversed(parts)).removeprefix(".")

    def ends(self, names: frozenset[str]) -> bool:
        """Whether this is an item of one of these sequences."""
        return isinstance(self.key, int) and self.parent is not None and self.parent.key in names


def _shown(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if re.fullmatch(r"[\w/-]{1,100}", key) else f"[{key[:100]!r}]"


def compose(text: str, place: Place, limit: int) -> Iterator[Node]:
    """The roots of the documents of `text`; raises `yaml.YAMLError` and `TooMuch`."""
    import yaml

    loader, count = yaml.CSafeLoader(text), 0
    try:
        open_nodes: list[Node] = []
        anchors: dict[str, Node] = {}
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                node = open_nodes.pop()
                if not open_nodes:
                    yield node
            elif isinstance(event, yaml.NodeEvent):
                count += 1
                if count > limit:
                    raise TooMuch(f"it has more than {limit} values")
                node = _node(event, place, anchors)
                if open_nodes:
                    children = open_nodes[-1].children
                    assert isinstance(children, list)
                    children.append(node)
                if node.kind in ("sequence", "mapping"):
                    open_nodes.append(node)
                    if len(open_nodes) > DEPTH_LIMIT:
                        raise TooMuch(f"it is nested deeper than {DEPTH_LIMIT}")
                elif not open_nodes:
                    yield node
            else:
                anchors.clear()
    finally:
        loader.dispose()


def _node(event: yaml.NodeEvent, place: Place, anchors: dict[str, Node]) -> Node:
    import yaml

    begins, ends = event.start_mark, event.end_mark
    assert begins is not None
    assert ends is not None
    at = (place, (begins.line, ends.line), (begins.column, ends.column), begins.index)
    if isinstance(event, yaml.AliasEvent):
        return Node("alias", *at, target=anchors.get(event.anchor or ""))
    if isinstance(event, yaml.ScalarEvent):
        node = Node("scalar", *at, event.value or "", bool(event.implicit[0]) and not event.style)
    else:
        node = Node("sequence" if isinstance(event, yaml.SequenceStartEvent) else "mapping", *at, children=[])
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node
