"""TOML as containerd reads it: what go-toml accepts and refuses, to the words of its errors.

As github.com/pelletier/go-toml/v2 v2.3.0: unstable/parser.go, unstable/scanner.go, internal/tracker/seen.go. Python's
tomllib is no substitute: it differs on `\\e`, on tables defined twice and on bytes that are not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

NESTING_LIMIT = 100  # arrays and inline tables; go-toml has none, a hosts.toml needs two

Key = tuple[str, ...]

_BARE = re.compile(rb"[A-Za-z0-9_-]+")
_SPACE = re.compile(rb"[ \t]*")
_BASIC = re.compile(rb'[^"\\\r\n]*')
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_CONTROL_IN_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DATE_OR_TIME = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
    rb"|[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?"
)
_NUMBER = re.compile(
    rb"0x[0-9A-Fa-f]+(?:_[0-9A-Fa-f]+)*|0o[0-7]+(?:_[0-7]+)*|0b[01]+(?:_[01]+)*"
    rb"|[+-]?(?:inf|nan)"
    rb"|[+-]?(?:0|[1-9](?:_?[0-9])*)(?:\.[0-9](?:_?[0-9])*)?(?:[eE][+-]?[0-9](?:_?[0-9])*)?"
)
_ESCAPES = {
    0x22: '"', 0x5C: "\\", 0x62: "\b", 0x66: "\f", 0x6E: "\n", 0x72: "\r", 0x74: "\t", 0x65: "\x1b",
}  # fmt: skip
_HEX_LENGTHS = {0x75: 4, 0x55: 8}  # \u and \U


class InvalidToml(Exception):
    """go-toml refuses the text; the message is its own, without the leading "toml: "."""


@dataclass(frozen=True, slots=True)
class Other:
    """A number or a time, which no file we read needs; `kind` is go-toml's word for it."""

    kind: Literal["number", "date or time"]


Value = Any  # str, bool, list, dict or Other


@dataclass(frozen=True, slots=True)
class Expression:
    """A line of the document: a table header or a key with its value."""

    kind: Literal["table", "array table", "value"]
    key: Key
    value: Value = None


@dataclass(frozen=True, slots=True)
class Document:
    """All keys and values, and the table headers in the order they were written."""

    root: dict[str, Value]
    tables: tuple[Key, ...]


def read(data: bytes, *, known: Callable[[Key], bool] = lambda _: True) -> Document:
    """Parses `data`; raises `InvalidToml`.

    `known` says which tables the program has a place for: go-toml skips the others without looking for repeated keys.
    """
    root: dict[str, Value] = {}
    tables: list[Key] = []
    seen, current, skipping = _Seen(), root, False
    for expression in expressions(data):
        if expression.kind == "value":
            if not skipping:
                seen.check_value(expression.key)
                _set(current, expression.key, expression.value)
            continue
        seen.check_table(expression.key, is_array=expression.kind == "array table")
        skipping = not known(expression.key)
        if expression.kind == "table":
            tables.append(expression.key)
        current = _enter(root, expression)
    return Document(root, tuple(tables))


def expressions(data: bytes) -> Iterator[Expression]:
    """The expressions of the document one by one, so that an error comes when its place is reached."""
    parser = _Parser(data)
    while not parser.at_end():
        expression = parser.expression()
        if expression is not None:
            yield expression
        if not parser.at_end():
            parser.newline()


def basic_string(data: bytes) -> str:
    """What go-toml reads of `data` between quotes, as a key; raises `InvalidToml`."""
    parser = _Parser(b'"' + data + b'"')
    text = parser.basic_string()
    if not parser.at_end():
        raise InvalidToml("the text ends before its last quote")
    return text


def _enter(root: dict[str, Value], expression: Expression) -> dict[str, Value]:
    table: Value = root
    for part in expression.key[:-1]:
        table = _last(table.setdefault(part, {}))
    last = expression.key[-1]
    if expression.kind == "array table":
        element: dict[str, Value] = {}
        table.setdefault(last, []).append(element)
        return element
    return _last(table.setdefault(last, {}))


def _last(value: Value) -> dict[str, Value]:
    table: dict[str, Value] = value[-1] if isinstance(value, list) else value
    return table


def _set(table: dict[str, Value], key: Key, value: Value) -> None:
    for part in key[:-1]:
        table = table.setdefault(part, {})
    table[key[-1]] = value


# -- which keys were seen, as internal/tracker/seen.go ---------------------------------------------------------------


@dataclass(slots=True)
class _Entry:
    kind: Literal["value", "table", "array table"]
    explicit: bool = False
    dotted: bool = False
    children: dict[str, _Entry] = field(default_factory=dict)


class _Seen:
    def __init__(self) -> None:
        self._root = self._current = _Entry("table")

    def check_table(self, key: Key, *, is_array: bool) -> None:
        _close_dotted(self._current)
        parent = self._root
        for part in key[:-1]:
            parent = parent.children.setdefault(part, _Entry("table"))
            if parent.kind == "value":
                raise InvalidToml(f"expected {part} to be a table, not a value")
        self._current = self._array(parent, key[-1]) if is_array else self._table(parent, key[-1])

    def _table(self, parent: _Entry, name: str) -> _Entry:
        entry = parent.children.get(name)
        if entry is None:
            entry = parent.children[name] = _Entry("table")
        elif entry.kind != "table":
            raise InvalidToml(f"key {name} should be a table, not a {entry.kind}")
        elif entry.explicit:
            raise InvalidToml(f"table {name} already exists")
        entry.explicit = True
        return entry

    def _array(self, parent: _Entry, name: str) -> _Entry:
        entry = parent.children.setdefault(name, _Entry("array table", explicit=True))
        if entry.kind != "array table":
            raise InvalidToml(f"key {entry.kind} already exists as a {name},  but should be an array table")
        entry.children.clear()
        return entry

    def check_value(self, key: Key) -> None:
        entry = self._current
        for index, part in enumerate(key):
            found = entry.children.get(part)
            if found is None:
                found = entry.children[part] = _Entry("table", dotted=True)
            elif index == len(key) - 1:
                raise InvalidToml(f"key {part} is already defined")
            elif found.kind != "table":
                raise InvalidToml(f"expected {part} to be a table, not a {found.kind}")
            elif found.explicit:
                raise InvalidToml(f"cannot redefine table {part} that has already been explicitly defined")
            entry = found
        entry.kind = "value"


def _close_dotted(entry: _Entry) -> None:
    for child in entry.children.values():
        if child.dotted:
            child.explicit, child.dotted = True, False
        _close_dotted(child)


# -- the parser, as unstable/parser.go and scanner.go ----------------------------------------------------------------


class _Parser:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._depth = 0

    def at_end(self) -> bool:
        return self._at >= len(self._data)

    def newline(self) -> None:
        if self._data.startswith(b"\n", self._at):
            self._at += 1
        elif self._data.startswith(b"\r\n", self._at):
            self._at += 2
        elif self._peek() == 0x0D:
            raise InvalidToml("windows new line should be \\r\\n")
        else:
            raise InvalidToml(f"expected newline but got {_code_point(self._peek())}")

    def expression(self) -> Expression | None:
        """The expression on this line, or None if it is blank or a comment."""
        self._space()
        if self.at_end() or self._peek() in b"\r\n":
            return None
        found: Expression | None = None
        if self._peek() != 0x23:
            found = self._table() if self._peek() == 0x5B else Expression("value", *self._key_value())
            self._space()
        if self._peek() == 0x23:
            self._comment()
        return found

    def _table(self) -> Expression:
        array = self._data.startswith(b"[[", self._at)
        self._at += 2 if array else 1
        self._space()
        key = self._key()
        self._space()
        for _ in range(2 if array else 1):
            self._expect("]")
        return Expression("array table" if array else "table", key)

    def _key_value(self) -> tuple[Key, Value]:
        key = self._key()
        self._space()
        if self.at_end():
            raise InvalidToml("expected = after a key, but the document ends there")
        self._expect("=")
        self._space()
        return key, self._value()

    def _key(self) -> Key:
        parts = [self._simple_key()]
        self._space()
        while self._peek() == 0x2E:
            self._at += 1
            self._space()
            parts.append(self._simple_key())
            self._space()
        return tuple(parts)

    def _simple_key(self) -> str:
        first = self._peek()
        if first == 0x27:
            return self._literal_string()
        if first == 0x22:
            return self.basic_string()
        bare = _BARE.match(self._data, self._at)
        if bare is None:
            if self.at_end():
                raise InvalidToml("expected key but found none")
            raise InvalidToml(f"invalid character at start of key: {chr(first)}")
        self._at = bare.end()
        return bare[0].decode()

    def _value(self) -> Value:
        if self.at_end():
            raise InvalidToml("expected value, not eof")
        first = self._peek()
        if first == 0x22:
            long = self._data.startswith(b'"""', self._at)
            return self._long_basic_string() if long else self.basic_string()
        if first == 0x27:
            long = self._data.startswith(b"'''", self._at)
            return self._long_literal_string() if long else self._literal_string()
        if first in b"[{":
            return self._nested(self._array if first == 0x5B else self._inline_table)
        return self._word()

    def _word(self) -> Value:
        for word, value in ((b"true", True), (b"false", False)):
            if self._peek() == word[0]:
                if not self._data.startswith(word, self._at):
                    raise InvalidToml(f"expected '{word.decode()}'")
                self._at += len(word)
                return value
        for pattern, kind in ((_DATE_OR_TIME, "date or time"), (_NUMBER, "number")):
            found = pattern.match(self._data, self._at)
            if found is not None:
                self._at = found.end()
                return Other(kind)  # type: ignore[arg-type]  # the two literals above
        raise InvalidToml("incomplete number")

    def _nested(self, parse: Callable[[], Value]) -> Value:
        self._depth += 1
        if self._depth > NESTING_LIMIT:
            raise InvalidToml(f"nested deeper than {NESTING_LIMIT}")
        value = parse()
        self._depth -= 1
        return value

    def _array(self) -> list[Value]:
        self._at += 1
        values: list[Value] = []
        while True:
            self._blank_lines()
            if self._peek() == 0x2C:
                if not values:
                    raise InvalidToml("array cannot start with comma")
                self._at += 1
                self._blank_lines()
            elif values and not self.at_end() and self._peek() != 0x5D:
                raise InvalidToml("array elements must be separated by commas")
            if self.at_end():
                raise InvalidToml("array is incomplete")
            if self._peek() == 0x5D:
                self._at += 1
                return values
            values.append(self._value())

    def _inline_table(self) -> dict[str, Value]:
        self._at += 1
        table: dict[str, Value] = {}
        seen, first = _Seen(), True
        while True:
            self._space()
            if self.at_end():
                raise InvalidToml("inline table is incomplete")
            if self._peek() == 0x7D:
                self._at += 1
                return table
            if not first:
                self._expect(",")
                self._space()
            key, value = self._key_value()
            seen.check_value(key)
            _set(table, key, value)
            first = False

    def _literal_string(self) -> str:
        start = self._at + 1
        for index in range(start, len(self._data)):
            if self._data[index] == 0x27:
                self._at = index + 1
                return _checked(self._data[start:index], "invalid character")
            if self._data[index] in b"\r\n":
                raise InvalidToml("literal strings cannot have new lines")
        raise InvalidToml("unterminated literal string")

    def basic_string(self) -> str:
        start = index = self._at + 1
        while (index := _BASIC.match(self._data, index).end()) < len(self._data):  # type: ignore[union-attr]  # always
            byte = self._data[index]
            if byte == 0x22:
                self._at = index + 1
                return _unescaped(self._data[start:index])
            if byte != 0x5C:
                raise InvalidToml("basic strings cannot have new lines")
            index += 2
        raise InvalidToml('basic string not terminated by "')

    def _long_literal_string(self) -> str:
        return _checked(self._long_token(b"'"), "invalid character", lines=True)

    def _long_basic_string(self) -> str:
        return _unescaped(self._long_token(b'"'), lines=True)

    def _long_token(self, mark: bytes) -> bytes:
        """What stands between three quotes and three; up to two more before the closing ones belong to it."""
        skip = rb"(?:\\.|[^\\])" if mark == b'"' else b"."
        found = re.compile(mark * 3 + b"\r?\n?(" + skip + b"*?" + mark + b"{0,2})" + mark * 3, re.DOTALL).match(
            self._data, self._at
        )
        if found is None:
            style = "basic" if mark == b'"' else "literal"
            raise InvalidToml(f"multiline {style} string not terminated by {mark.decode() * 3}")
        self._at = found.end()
        extra = re.compile(mark + b"{0,2}").match(self._data, self._at)
        assert extra is not None  # it matches nothing, too
        self._at = extra.end()
        if self._data.startswith(mark, self._at):
            raise InvalidToml(f"{mark.decode() * 3} not allowed in multiline string")
        if re.search(rb"\r(?!\n)", found[1]):
            raise InvalidToml("need a \\n after \\r")
        return found[1] + extra[0]

    def _blank_lines(self) -> None:
        while True:
            self._space()
            if self._peek() == 0x23:
                self._comment()
            if self.at_end() or self._peek() not in b"\r\n":
                return
            self.newline()

    def _comment(self) -> None:
        end = self._data.find(b"\n", self._at)
        end = len(self._data) if end < 0 else end
        text = self._data[self._at : end]
        # go-toml takes the \r of a \r\n into the comment.
        _checked(text.removesuffix(b"\r") if end < len(self._data) else text, "invalid character in comment")
        self._at = end

    def _space(self) -> None:
        found = _SPACE.match(self._data, self._at)
        assert found is not None  # it matches nothing, too
        self._at = found.end()

    def _expect(self, character: str) -> None:
        if not self._data.startswith(character.encode(), self._at):
            raise InvalidToml(f"expected character {character}")
        self._at += 1

    def _peek(self) -> int:
        """The next byte, or -1 at the end."""
        return self._data[self._at] if self._at < len(self._data) else -1


# -- strings ----------------------------------------------------------------------------------------------------------


def _checked(data: bytes, complaint: str, *, lines: bool = False) -> str:
    """`data` as text, without control characters other than tabs (and, with `lines`, line ends)."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidToml(complaint) from None
    if (_CONTROL_IN_LINES if lines else _CONTROL).search(text):
        raise InvalidToml(complaint)
    return text


def _unescaped(data: bytes, *, lines: bool = False) -> str:
    """The body of a basic string with its escapes resolved."""
    if b"\\" not in data:
        return _checked(data, "invalid UTF-8", lines=lines)
    pieces, index = [], 0
    while index < len(data):
        escape = data.find(b"\\", index)
        end = len(data) if escape < 0 else escape
        pieces.append(_plain(data[index:end], lines=lines))
        if escape < 0:
            break
        piece, index = _escape(data, escape, lines=lines)
        pieces.append(piece)
    return "".join(pieces)


def _plain(data: bytes, *, lines: bool) -> str:
    try:
        return _checked(data, "", lines=lines)
    except InvalidToml:
        _complain(data, lines=lines)


def _complain(data: bytes, *, lines: bool) -> NoReturn:
    for index in range(len(data)):
        try:
            _checked(data[: index + 1], "", lines=lines)
        except InvalidToml:
            whole = any(_is_text(data[index : index + size], lines=lines) for size in (2, 3, 4))
            if not whole:
                raise InvalidToml(f"invalid character {_code_point(data[index])}") from None
    raise InvalidToml("invalid UTF-8")


def _is_text(data: bytes, *, lines: bool) -> bool:
    try:
        return len(_checked(data, "", lines=lines)) == 1
    except InvalidToml:
        return False


def _escape(data: bytes, at: int, *, lines: bool) -> tuple[str, int]:
    """What the escape at `at` stands for, and where it ends."""
    code = data[at + 1]
    if lines:
        folded = re.compile(rb"\\[ \t]*\r?\n[ \t\r\n]*").match(data, at)
        if folded is not None:
            return "", folded.end()
    if code in _ESCAPES:
        return _ESCAPES[code], at + 2
    if code not in _HEX_LENGTHS:
        raise InvalidToml(f"invalid escaped character {_code_point(code)}")
    length = _HEX_LENGTHS[code]
    digits = data[at + 2 : at + 2 + length]
    if len(digits) < length:
        raise InvalidToml(f"unicode point needs {length} character, not {len(digits)}")
    if not re.fullmatch(rb"[0-9A-Fa-f]+", digits):
        raise InvalidToml("non-hex character")
    value = int(digits, 16)
    if value > 0x10FFFF or 0xD800 <= value < 0xE000:
        raise InvalidToml("escape sequence is invalid Unicode code point")
    return chr(value), at + 2 + length


def _code_point(byte: int) -> str:
    """Go's `%#U` of a byte."""
    character = chr(byte)
    return f"U+{byte:04X}" + (f" '{character}'" if character.isprintable() else "")
