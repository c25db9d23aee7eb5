"""YAML as Go's yaml.v2 reads it into a program's types, with a place for every key and value.

As gopkg.in/yaml.v2 v2.4.0: decode.go (decoder), resolve.go (specification, section 1.3, and differences B5).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pierhead.config.yamlnodes import Node, Unreadable, compose
from pierhead.errors import Problem, Span
from pierhead.gourl import shown
from pierhead.redact import MASK

# The parser names the line it was at; the problem has the place, which is where the mistake begins.
_WITHOUT_LINE = re.compile(r"^line \d+: ")
MERGE_DEPTH_LIMIT = 100  # yaml.v2 has none; nobody nests merge keys that deep
EXCERPT_LIMIT = 10  # bytes of a value that yaml.v2 shows in an error

_TAG = "tag:yaml.org,2002:"
_RESOLVABLE = {"", *(_TAG + name for name in ("str", "bool", "int", "float", "null", "timestamp"))}

Path = tuple[str, ...]


# -- scalars ----------------------------------------------------------------------------------------------------------

_BOOLEANS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_SPECIAL_FLOATS = frozenset(sign + text for sign in ("", "+", "-") for text in (".inf", ".Inf", ".INF")) | {
    ".nan",
    ".NaN",
    ".NAN",
}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:[Tt]([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?:[.,][0-9]+)?(?:Z|[-+][0-9]{2}:[0-9]{2})"
    r"| ([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?:[.,][0-9]+)?)?\Z"
)


def resolve(tag: str, text: str) -> tuple[str, Any]:
    """The short name of the tag that yaml.v2 gives a scalar, and its value as far as a type needs it.

    True/False for booleans, None for null, the text for all else. Raises `Unreadable` if an explicit tag does not fit.
    """
    if tag not in _RESOLVABLE:
        return tag, text
    name, value = _guess(text, tag)
    wanted = tag.removeprefix(_TAG)
    if wanted in ("", name, "str") or (wanted == "float" and name == "int"):
        return _TAG + (wanted or name), value
    raise Unreadable(
        f"cannot decode !!{name} `{text}` as a !!{wanted}", None, shown=f"cannot decode !!{name} as a !!{wanted}"
    )


def _guess(text: str, tag: str) -> tuple[str, Any]:
    if tag == _TAG + "str":
        return "str", text
    if text in _BOOLEANS:
        return "bool", _BOOLEANS[text]
    if text in _NULLS:
        return "null", None
    if text in _SPECIAL_FLOATS:
        return "float", text
    if text[0] == ".":
        return ("float" if _is_float(text) else "str"), text
    if text[0] not in "+-0123456789":
        return "str", text
    if tag in ("", _TAG + "timestamp") and _is_timestamp(text):
        return "timestamp", text
    plain = text.replace("_", "")
    if _is_integer(plain):
        return "int", text
    return ("float" if _is_float(plain) else "str"), text


def _is_float(text: str) -> bool:
    return bool(_FLOAT.match(text)) and abs(float(text)) != float("inf")


def _is_integer(plain: str) -> bool:
    """Go's ParseInt or ParseUint with base 0, in 64 bits, or yaml.v2's own 0b."""
    found = re.match(r"([-+]?)(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|[1-9][0-9]*|0)\Z", plain)
    if found is None:
        return False
    digits = found[2]
    octal = digits[0] == "0" and digits.isdigit()
    value = int(digits, 8 if octal else 0)
    if found[1] == "-":
        return value <= 2**63
    return value < (2**63 if found[1] else 2**64)


def _is_timestamp(text: str) -> bool:
    import datetime

    found = _TIMESTAMP.match(text)
    if found is None:
        return False
    numbers = [int(part) for part in found.groups() if part is not None]
    try:
        datetime.date(max(numbers[0], 1), numbers[1], numbers[2])
    except ValueError:
        return False
    return not numbers[3:] or (numbers[3] < 24 and numbers[4] < 60 and numbers[5] < 60)


# -- Go's types -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GoType:
    """A type to read into: a string, bool, slice of strings, map or struct, with Go's name for it.

    `element` is what a map's values are; `fields` what a struct holds; `pointer` says null is no struct at all.
    """

    kind: Literal["string", "bool", "strings", "map", "struct"]
    name: str
    element: GoType | None = None
    fields: Mapping[str, GoType] = field(default_factory=dict)
    pointer: bool = False


STRING = GoType("string", "string")
BOOL = GoType("bool", "bool")
STRINGS = GoType("strings", "[]string")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A decoded string or boolean and where it stands."""

    value: Any
    span: Span


@dataclass(slots=True)
class Item:
    """A key and its decoded value: `Scalar`, list of `Scalar`, dict of `Item`, or None for Go's nil."""

    key: Scalar
    value: Any
    merged: bool = False  # it came through a merge key


Decoded = dict[str, Item]


@dataclass(frozen=True, slots=True)
class Reading:
    """What yaml.v2 makes of a document. `go_error` is its whole message, values included, or None."""

    value: Decoded
    problems: tuple[Problem, ...]
    go_error: str | None
    shown_error: str | None


def read(data: bytes, file: str, wanted: GoType, *, conceal: Callable[[Path], bool]) -> Reading:
    """Go's `yaml.Unmarshal` of `data` into a zero value of the struct `wanted`; never raises on content.

    `conceal` says below which keys no value may be shown.
    """
    decoder = _Decoder(file, conceal)
    try:
        root, second = compose(data, file)
        value = decoder.root(root, wanted)
    except Unreadable as stop:
        problem = Problem(
            "yaml-syntax", "error", f"YAML: {_WITHOUT_LINE.sub('', stop.shown)}", stop.span or Span(file, 1)
        )
        return Reading({}, (*decoder.problems, problem), f"yaml: {stop.go_text}", f"yaml: {stop.shown}")
    if second is not None:
        decoder.note("second-document", "warning", "only the first YAML document is read; this one is ignored", second)
    if not decoder.errors:
        return Reading(value, tuple(decoder.problems), None, None)
    heading = "yaml: unmarshal errors:\n  "
    exact, safe = (heading + "\n  ".join(texts) for texts in zip(*decoder.errors, strict=True))
    return Reading(value, tuple(decoder.problems), exact, safe)


# What people write below `auth`, right or wrong, and no password.
_LIKELY_KEYS = frozenset(
    {"auth", "username", "user", "password", "pass", "email", "token", "registry_token", "registrytoken", "tls"}
    | {"identity_token", "identitytoken", "identity-token", "ca_file", "cert_file", "key_file", "insecure_skip_verify"}
)


class _Decoder:
    """As yaml.v2's decoder: collects type errors and goes on, stops at everything else."""

    def __init__(self, file: str, conceal: Callable[[Path], bool]) -> None:
        self.errors: list[tuple[str, str]] = []  # exact, shown
        self.problems: list[Problem] = []
        self._file = file
        self._conceal = conceal
        self._open_aliases: set[int] = set()
        self._decodes = self._alias_decodes = self._merge_depth = 0

    def root(self, node: Node | None, wanted: GoType) -> Decoded:
        if node is None:
            return {}
        self._decodes += 1  # yaml.v2 counts the document itself
        value: Decoded = self._decode(node, wanted, {}, ())[1]
        return value

    def note(self, id: str, severity: Literal["warning", "note"], message: str, span: Span) -> None:
        self.problems.append(Problem(id, severity, message, span))

    def _decode(self, node: Node, wanted: GoType, current: Any, path: Path) -> tuple[bool, Any]:
        self._count(node)
        if node.target is not None:
            return self._alias(node, wanted, current, path)
        if node.kind == "scalar":
            return self._scalar(node, wanted, path)
        if node.kind == "sequence":
            return self._sequence(node, wanted, path)
        if wanted.kind == "struct":
            return True, self._struct(node, wanted, {} if current is None else current, path)
        if wanted.kind == "map":
            return True, self._map(node, wanted, {} if current is None else current, path)
        return self._wrong_type(node, "!!map", wanted.name, path)

    def _count(self, node: Node) -> None:
        """Bounds what aliases can multiply, by the rule of yaml.v2."""
        self._decodes += 1
        self._alias_decodes += bool(self._open_aliases)
        if self._alias_decodes <= 100 or self._decodes <= 1000:
            return
        if self._alias_decodes / self._decodes > _allowed_alias_ratio(self._decodes):
            raise Unreadable("document contains excessive aliasing", node.span)

    def _alias(self, node: Node, wanted: GoType, current: Any, path: Path) -> tuple[bool, Any]:
        assert node.target is not None  # the caller looked
        if id(node) in self._open_aliases:
            raise Unreadable(f"anchor '{node.value}' value contains itself", node.span)
        self._open_aliases.add(id(node))
        result = self._decode(node.target, wanted, current, path)
        self._open_aliases.remove(id(node))
        return result

    def _scalar(self, node: Node, wanted: GoType, path: Path) -> tuple[bool, Any]:
        # Go decides twice what is null: once, by this narrower rule, before it follows a pointer.
        bare_null = node.tag == _TAG + "null" or (
            not node.tag and (node.value in ("null", "~") or (not node.value and node.implicit))
        )
        tag, value = self._resolve(node, path)
        if value is None:
            return True, _zero(wanted, node.span, nil=bare_null)
        if wanted.kind == "string":
            return True, Scalar(value if isinstance(value, str) else node.value, node.span)
        if wanted.kind == "bool" and isinstance(value, bool):
            return True, Scalar(value, node.span)
        name = f"*{wanted.name}" if wanted.pointer and bare_null else wanted.name
        return self._wrong_type(node, tag, name, path)

    def _resolve(self, node: Node, path: Path) -> tuple[str, Any]:
        if not node.tag and not node.implicit:
            return "!!str", node.value
        try:
            tag, value = resolve(node.tag, node.value)
        except Unreadable as stop:
            shown = stop.shown if self._conceal(path) else stop.go_text
            raise Unreadable(stop.go_text, node.span, shown=shown) from None
        if tag == _TAG + "binary":
            value = _decode_base64(value, node.span)
        return tag.replace(_TAG, "!!"), value

    def _sequence(self, node: Node, wanted: GoType, path: Path) -> tuple[bool, Any]:
        if wanted.kind != "strings":
            return self._wrong_type(node, "!!seq", wanted.name, path)
        decoded = [self._decode(child, STRING, None, path) for child in node.children]
        return True, [value for good, value in decoded if good]

    def _struct(self, node: Node, wanted: GoType, value: Decoded, path: Path) -> Decoded:
        for key, child in self._entries(node, wanted, value, path):
            wanted_field = wanted.fields.get(key.value)
            if wanted_field is None:
                self._unknown_key(key, wanted, path)
                continue
            known = value.get(key.value)
            self._check_repeated(key, known, path)
            below = (*path, key.value)
            good, decoded = self._decode(child, wanted_field, known.value if known else None, below)
            if good:
                value[key.value] = Item(key, decoded, bool(self._merge_depth))
        return value

    def _map(self, node: Node, wanted: GoType, value: Decoded, path: Path) -> Decoded:
        assert wanted.element is not None  # every map has one
        for key, child in self._entries(node, wanted, value, path):
            good, decoded = self._decode(child, wanted.element, None, (*path, key.value))
            if good:
                self._check_repeated(key, value.pop(key.value, None), path)
                value[key.value] = Item(key, decoded, bool(self._merge_depth))
        return value

    def _entries(self, node: Node, wanted: GoType, value: Decoded, path: Path) -> Iterator[tuple[Scalar, Node]]:
        for key, child in zip(node.children[::2], node.children[1::2], strict=True):
            if _is_merge(key):
                self._merge(child, wanted, value, path)
                continue
            good, name = self._decode(key, STRING, None, path)
            if good:
                yield Scalar(name.value, key.span), child

    def _merge(self, node: Node, wanted: GoType, value: Decoded, path: Path) -> None:
        """Unlike YAML's rule, what is merged overrides what stands before it (differences B5)."""
        # Of several, the earlier ones win, so they come last.
        sources = reversed(node.children) if node.kind == "sequence" else iter((node,))
        self._merge_depth += 1
        if self._merge_depth > MERGE_DEPTH_LIMIT:
            raise Unreadable(f"merge keys are nested deeper than {MERGE_DEPTH_LIMIT}", node.span)
        for source in sources:
            if (source.target or source).kind != "mapping":
                raise Unreadable("map merge requires map or sequence of maps as the value", source.span)
            self._decode(source, wanted, value, path)
        self._merge_depth -= 1

    def _check_repeated(self, key: Scalar, known: Item | None, path: Path) -> None:
        if known is None or known.merged:
            return
        name = self._name(key, path)
        if self._merge_depth:
            message = f"the merge key overrides {name} of line {known.key.span.line}"
            self.note("merge-overrides", "warning", message, key.span)
            return
        same = (
            "both are merged, later fields win" if path[:1] not in (("mirrors",), ("configs",)) else "the last one wins"
        )
        message = f"{name} is there twice, first in line {known.key.span.line}; {same}"
        self.note("duplicate-key", "warning", message, key.span)

    def _unknown_key(self, key: Scalar, wanted: GoType, path: Path) -> None:
        import difflib

        severity: Literal["warning", "note"] = "note" if key.value.startswith(("x-", ".")) else "warning"
        place = ".".join(map(shown, path)) or "the top level"
        near = difflib.get_close_matches(key.value.lower(), wanted.fields, 1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(wanted.fields)}"
        self.note("unknown-key", severity, f"{self._name(key, path)} is ignored in {place}; {hint}", key.span)

    def _name(self, key: Scalar, path: Path) -> str:
        """The key for people: below `auth`, where a value may stand in its place, only if it is a likely word."""
        hidden = len(path) > 1 and self._conceal(path) and key.value.lower() not in _LIKELY_KEYS
        return "this key" if hidden else repr(shown(key.value))

    def _wrong_type(self, node: Node, tag: str, name: str, path: Path) -> tuple[bool, Any]:
        tag = node.tag.replace(_TAG, "!!") or tag
        excerpt = "" if tag in ("!!seq", "!!map") else f" `{_excerpt(node.value)}`"
        safe = f" `{MASK}`" if excerpt and self._conceal(path) else excerpt
        place = f"line {node.span.line}: "
        self.errors.append(
            (f"{place}cannot unmarshal {tag}{excerpt} into {name}", f"{place}cannot unmarshal {tag}{safe} into {name}")
        )
        self.problems.append(Problem("yaml-type", "error", f"cannot unmarshal {tag}{safe} into {name}", node.span))
        return False, None


def _zero(wanted: GoType, span: Span, *, nil: bool) -> Any:
    if wanted.kind == "string":
        return Scalar("", span)
    if wanted.kind == "bool":
        return Scalar(False, span)
    if wanted.kind == "struct":
        return None if wanted.pointer and nil else {}
    return None


def _is_merge(key: Node) -> bool:
    return key.kind == "scalar" and key.value == "<<" and (key.implicit or key.tag == _TAG + "merge")


def _decode_base64(text: str, span: Span) -> str:
    try:
        data = base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable("!!binary value contains invalid base64 data", span) from None
    return data.decode("utf-8", "surrogateescape")


def _excerpt(value: str) -> str:
    data = value.encode("utf-8", "surrogateescape")
    return data[:7].decode("utf-8", "replace") + "..." if len(data) > EXCERPT_LIMIT else value


def _allowed_alias_ratio(decodes: int) -> float:
    low, high = 400_000, 4_000_000
    return 0.99 - 0.89 * min(max(decodes - low, 0) / (high - low), 1)
