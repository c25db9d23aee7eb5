"""Go's regular expressions over RE2: `compile_pattern` takes what Go's `regexp.Compile` takes, and means the same.

RE2 and Go share a dialect, a matching rule (leftmost-first) and linear time, but not every verdict on a pattern. So a
pattern is read by Go's grammar first (regexp/syntax/parse.go, Go 1.27): what Go refuses is refused in Go's words, and
RE2 gets an equal pattern in the spelling it knows.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, Literal

from pierhead.errors import PierheadError

MAX_REPEAT: Final = 1000  # copies, nested repetitions multiplied; Go: maxRepeat
MAX_HEIGHT: Final = 1000  # of the syntax tree; Go: maxHeight
MAX_SIZE: Final = (128 << 20) // 40  # instructions; Go: maxSize
ENGINE_MEMORY_BYTES: Final = 256 << 20  # RE2's own budget for one pattern; its default would refuse \pL{1000}
CACHED_PATTERNS: Final = 128


class InvalidPattern(PierheadError):
    """A pattern that Go refuses to compile; the message is Go's. containerd skips such a rule with a warning."""

    def __init__(self, code: str, expression: str) -> None:
        shown = expression.encode("utf-8", "replace").decode()
        super().__init__(
            f"error parsing regexp: {code}: `{shown}`",
            hint="Patterns are Go's (RE2): no look-around, no back-references.",
        )
        self.code = code
        self.expression = shown


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern: Go's meaning of `text`. `names` holds each group's name ("" if it has none), by number."""

    text: str
    names: tuple[str, ...]
    engine: Any = field(repr=False, compare=False)  # re2's object; re2 has no types

    def group(self, match: Any, name: str) -> str:
        """What `$name` stands for. Of several groups with one name, the first that took part. As Go: Regexp.expand."""
        if name.isascii() and name.isdigit() and len(name) <= 9 and (name == "0" or name[0] != "0"):
            numbers = [int(name)] if int(name) < len(self.names) else []
        else:
            numbers = [number for number, other in enumerate(self.names) if other == name]
        return next((text for number in numbers if (text := match.group(number)) is not None), "")


@lru_cache(maxsize=CACHED_PATTERNS)
def compile_pattern(pattern: str) -> Pattern:
    """What Go's `regexp.Compile` makes of `pattern`. Raises InvalidPattern where Go refuses, with Go's message."""
    reader = _Reader(pattern)
    spelling = reader.read()
    engine = _engine(spelling)
    if engine is None:  # Go's limits are checked above; what is left is RE2's memory
        raise InvalidPattern("expression too large", pattern)
    return Pattern(pattern, tuple(reader.names), engine)


@lru_cache(maxsize=1)
def _options() -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = ENGINE_MEMORY_BYTES
    return options


def _engine(spelling: str) -> Any:
    """RE2's object for `spelling`, or None if RE2 refuses it."""
    import re2  # late: most commands rewrite nothing

    try:
        return re2.compile(spelling, _options())
    except re2.error:
        return None


@dataclass(slots=True)
class _Node:
    """A part of the syntax tree, as far as Go's limits need it, and where its spelling stands in the output."""

    start: int
    end: int
    first_group: int  # number of groups opened before it
    kind: Literal["literal", "concatenation", "alternation", "other"] = "other"
    height: int = 1
    size: int = 1  # instructions
    copies: int = 1  # the largest product of nested counts


@dataclass(slots=True)
class _Group:
    """An open parenthesis, or the whole pattern: finished branches and the items of the current one."""

    captures: bool
    start: int
    first_group: int
    branches: list[_Node] = field(default_factory=list)
    items: list[_Node] = field(default_factory=list)


_PERL_CLASSES: Final = frozenset({r"\d", r"\D", r"\s", r"\S", r"\w", r"\W"})
_ASSERTIONS: Final = frozenset({r"\A", r"\b", r"\B", r"\z"})
_POSIX_CLASSES: Final = frozenset(
    f"[:{sign}{name}:]"
    for sign in ("", "^")
    for name in (
        *("alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph"),
        *("lower", "print", "punct", "space", "upper", "word", "xdigit"),
    )
)
_FLAGS = re.compile(r"\(\?[imsU]*(?:-[imsU]+)?[:)]")
_BAD_FLAGS = re.compile(r"\(\?[imsU]*(?:-[imsU]*)?.?", re.DOTALL)
_GROUP_NAME = re.compile(r"[A-Za-z0-9_]+")
_COUNT = re.compile(r"\{(?P<low>0|[1-9][0-9]*)(?P<range>,(?P<high>0|[1-9][0-9]*)?)?\}")
_ESCAPE = re.compile(
    r"\\(?:(?P<octal>0[0-7]{0,2}|[1-7][0-7]{1,2})|x(?P<hex>[0-9A-Fa-f]{2})|x\{(?P<braced>[0-9A-Fa-f]+)\}"
    r"|(?P<control>[afnrtv])|(?P<itself>[\x00-/:-@\[-`{-\x7f]))"
)
_BAD_ESCAPE = re.compile(r"\\(?:x\{[0-9A-Fa-f]*.?|x(?!\{).{0,2}|.)", re.DOTALL)
_CONTROLS: Final = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}


class _Reader:
    """Reads a pattern as Go's parser does: collects the names of groups and spells the pattern for RE2.

    Most of a pattern is spelled as it stands. Not so: groups lose their names, Unicode classes get a name RE2 knows,
    and what is repeated {0} times shrinks to its groups, because RE2 counts the repetitions inside it and Go does not.
    The height is Go's but for its factoring of common prefixes of branches.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.names = [""]
        self.out: list[str] = []
        self.groups = [_Group(False, 0, 1)]
        self.last_repeat: int | None = None  # where the repetition stands that was read just before, if one was

    def read(self) -> str:
        if odd := re.search("[\ud800-\udfff]", self.text):
            raise InvalidPattern("invalid UTF-8", self.text[odd.start() :])
        while self.at < len(self.text):
            start = self.at
            repeated = self._step(self.text[start])
            self.last_repeat = start if repeated else None
        self._limited(self._alternation(self.groups[-1]))
        if len(self.groups) > 1:
            raise InvalidPattern("missing closing )", self.text)
        return "".join(self.out)

    def _step(self, character: str) -> bool:
        """Reads what starts with `character`; True if that was a repetition."""
        match character:
            case "(":
                self._open()
            case ")":
                self._close()
            case "|":
                group = self.groups[-1]
                group.branches.append(self._concatenation(group))
                self._spell(self.at + 1)
            case "[":
                self._class()
            case "\\":
                self._backslash()
            case "*" | "+" | "?":
                self._repeat(self.at + 1)
                return True
            case "{" if count := _COUNT.match(self.text, self.at):
                self._repeat_counted(count)
                return True
            case _:
                self._item(self.at + 1, kind="other" if character in "^$." else "literal")
        return False

    def _spell(self, end: int, spelling: str | None = None) -> None:
        self.out.append(self.text[self.at : end] if spelling is None else spelling)
        self.at = end

    def _item(self, end: int, spelling: str | None = None, *, kind: Literal["literal", "other"] = "other") -> None:
        start = len(self.out)
        self._spell(end, spelling)
        self.groups[-1].items.append(_Node(start, start + 1, len(self.names), kind))

    def _limited(self, node: _Node) -> None:
        if node.size > MAX_SIZE:
            raise InvalidPattern("expression too large", self.text)
        if node.height > MAX_HEIGHT:
            raise InvalidPattern("expression nests too deeply", self.text)

    # Groups and branches

    def _open(self) -> None:
        text, at = self.text, self.at
        rest = len(text) - at
        name = ""
        if (text.startswith("(?P<", at) and rest > 4) or (text.startswith("(?<", at) and rest > 3):
            end = text.find(">", at) + 1
            name = text[text.index("<", at) + 1 : end - 1] if end else ""
            if not _GROUP_NAME.fullmatch(name):
                raise InvalidPattern("invalid named capture", text[at : end or len(text)])
        elif text.startswith("(?", at):
            self._flags()
            return
        else:
            end = at + 1
        self.groups.append(_Group(True, len(self.out), len(self.names)))
        self.names.append(name)
        self._spell(end, "(")

    def _flags(self) -> None:
        flags = _FLAGS.match(self.text, self.at)
        if flags is None:
            wrong = _BAD_FLAGS.match(self.text, self.at)
            raise InvalidPattern("invalid or unsupported Perl syntax", wrong[0] if wrong else "")
        if flags[0].endswith(":"):
            self.groups.append(_Group(False, len(self.out), len(self.names)))
        self._spell(flags.end())

    def _close(self) -> None:
        if len(self.groups) == 1:
            raise InvalidPattern("unexpected )", self.text)
        group = self.groups.pop()
        node = self._alternation(group)
        self._spell(self.at + 1)
        if group.captures:
            node = replace(node, kind="other", height=node.height + 1, size=node.size + 2)
        node = replace(node, start=group.start, end=len(self.out), first_group=group.first_group)
        self._limited(node)
        self.groups[-1].items.append(node)

    def _alternation(self, group: _Group) -> _Node:
        branches = [*group.branches, self._concatenation(group)]
        return self._collapse("alternation", branches, size=sum(node.size for node in branches) + len(branches) - 1)

    def _concatenation(self, group: _Group) -> _Node:
        items, group.items = group.items, []
        size = sum(node.size for node in items)
        joined = [
            node
            for before, node in zip([None, *items], items, strict=False)
            if not (before and before.kind == node.kind == "literal")  # Go makes one literal of neighbours
        ]
        copies = max((node.copies for node in items), default=1)
        return replace(self._collapse("concatenation", joined, size=max(1, size)), copies=copies)

    def _collapse(self, kind: Literal["concatenation", "alternation"], nodes: list[_Node], *, size: int) -> _Node:
        """One node of several; a node of the same kind among them gives up its own level."""
        if not nodes:
            return _Node(len(self.out), len(self.out), len(self.names))
        if len(nodes) == 1:
            return replace(nodes[0], size=size)
        height = max(node.height + (node.kind != kind) for node in nodes)
        copies = max(node.copies for node in nodes)
        return _Node(nodes[0].start, len(self.out), nodes[0].first_group, kind, height, size, copies)

    # Repetitions

    def _repeat(self, end: int) -> None:
        operator = self.text[self.at]
        node, _ = self._repeated(end)
        node = replace(node, kind="other", height=node.height + 1, size=node.size + (2 if operator == "*" else 1))
        self._put_repeated(node)

    def _repeat_counted(self, count: re.Match[str]) -> None:
        low = _count(count["low"])
        high = low if count["range"] is None else _count(count["high"]) if count["high"] else None
        if low > MAX_REPEAT or (high is not None and (high > MAX_REPEAT or low > high)):
            raise InvalidPattern("invalid repeat count", count[0])
        node, expression = self._repeated(count.end())
        if high == 0:
            groups = "()" * (len(self.names) - node.first_group)
            self.out[node.start : node.end] = [f"(?:{groups}){{0}}"]
            self.out.pop()
        self._put_repeated(_counted(node, low, high))
        if max(low, high or 0) >= 2 and self.groups[-1].items[-1].copies > MAX_REPEAT:
            raise InvalidPattern("invalid repeat count", expression)

    def _repeated(self, end: int) -> tuple[_Node, str]:
        """What the repetition that ends at `end` repeats, and its text with a "?" behind it. Spells it, too."""
        text, start = self.text, self.at
        end += text.startswith("?", end)
        if self.last_repeat is not None:
            raise InvalidPattern("invalid nested repetition operator", text[self.last_repeat : end])
        if not self.groups[-1].items:
            raise InvalidPattern("missing argument to repetition operator", text[start:end])
        self._spell(end)
        return self.groups[-1].items[-1], text[start:end]

    def _put_repeated(self, node: _Node) -> None:
        node = replace(node, end=len(self.out))
        self._limited(node)
        self.groups[-1].items[-1] = node

    # Escapes and classes

    def _backslash(self) -> None:
        text, at = self.text, self.at
        pair = text[at : at + 2]
        if pair == r"\C":
            raise InvalidPattern("invalid escape sequence", pair)
        if pair == r"\Q":
            self._quoted()
        elif pair in (r"\p", r"\P"):
            spelling, end = self._unicode(at)
            self._item(end, f"[{spelling}]")
        elif pair in _ASSERTIONS or pair in _PERL_CLASSES:
            self._item(at + 2)
        else:
            self._item(self._escape(at)[1], kind="literal")

    def _quoted(self) -> None:
        end = self.text.find(r"\E", self.at + 2)
        stop = len(self.text) if end < 0 else end
        self.at += 2
        while self.at < stop:
            self._item(self.at + 1, re.escape(self.text[self.at]), kind="literal")
        self.at = stop if end < 0 else stop + 2

    def _escape(self, at: int) -> tuple[int, int]:
        """The code point of the escape at `at`, and where it ends."""
        if at + 1 == len(self.text):
            raise InvalidPattern("trailing backslash at end of expression", "")
        found = _ESCAPE.match(self.text, at)
        value = _code_point(found) if found else None
        if found is None or value is None:
            wrong = _BAD_ESCAPE.match(self.text, at)
            raise InvalidPattern("invalid escape sequence", _up_to_overflow(wrong[0] if wrong else ""))
        return value, found.end()

    def _class(self) -> None:
        text, start = self.text, self.at
        at = start + 2 if text.startswith("^", start + 1) else start + 1
        spelling = [text[start:at]]
        while len(spelling) == 1 or not text.startswith("]", at):  # a "]" that comes first is an ordinary character
            item, at = self._class_item(at)
            spelling.append(item)
        self._item(at + 1, "".join(spelling) + "]")

    def _class_item(self, at: int) -> tuple[str, int]:
        text = self.text
        pair = text[at : at + 2]
        if pair == "[:" and (end := text.find(":]", at + 2) + 2) > 1:
            if text[at:end] not in _POSIX_CLASSES:
                raise InvalidPattern("invalid character class range", text[at:end])
            return text[at:end], end
        if pair in (r"\p", r"\P"):
            return self._unicode(at)
        if pair in _PERL_CLASSES:
            return pair, at + 2
        low, end = self._class_character(at)
        if text.startswith("-", end) and end + 1 < len(text) and text[end + 1] != "]":
            high, end = self._class_character(end + 1)
            if high < low:
                raise InvalidPattern("invalid character class range", text[at:end])
        return text[at:end], end

    def _class_character(self, at: int) -> tuple[int, int]:
        if at >= len(self.text):
            raise InvalidPattern("missing closing ]", self.text[self.at :])
        if self.text[at] == "\\":
            return self._escape(at)
        return ord(self.text[at]), at + 1

    def _unicode(self, at: int) -> tuple[str, int]:
        r"""The class `\pL` or `\p{Greek}` at `at`, spelled to stand between brackets, and where it ends."""
        text = self.text
        end = at + 3
        name = text[at + 2 : end]
        if name == "{":
            end = text.find("}", at) + 1 or len(text) + 1
            name = text[at + 3 : end - 1]
        negated = (text[at + 1] == "P") != name.startswith("^")
        spelling = _unicode_class(name.removeprefix("^"), negated=negated) if end <= len(text) else None
        if spelling is None:
            raise InvalidPattern("invalid character class range", text[at:end])
        return spelling, end


def _count(digits: str) -> int:
    return int(digits) if len(digits) <= 9 else MAX_REPEAT + 1


def _counted(node: _Node, low: int, high: int | None) -> _Node:
    """`node` repeated; its size as Go: calcSize, its copies as Go: repeatIsValid."""
    if high is None:
        times, size = low, 1 + low * node.size if low else 2 + node.size
    else:
        times, size = high, max(1, high * node.size + high - low)
    copies = 1 if high == 0 else node.copies * max(1, times)
    return replace(node, kind="other", height=node.height + 1, size=size, copies=copies)


def _code_point(escape: re.Match[str]) -> int | None:
    if escape["octal"]:
        return int(escape["octal"], 8)
    if digits := escape["hex"] or escape["braced"]:
        value = int(digits, 16)
        return value if value <= sys.maxunicode else None
    return _CONTROLS[escape["control"]] if escape["control"] else ord(escape["itself"])


def _up_to_overflow(escape: str) -> str:
    r"""Go stops reading `\x{…}` at the digit that makes it too large."""
    digits = escape[3:].lstrip("0")
    if not (escape.startswith(r"\x{") and re.match("[0-9A-Fa-f]{6}", digits)):
        return escape
    length = 6 if int(digits[:6], 16) > sys.maxunicode else 7
    return escape[: len(escape) - len(digits) + length]


# Unicode classes

_ALIASES: Final = {
    alias: category
    for category, aliases in {
        "C": "Other", "Cc": "Control Cntrl", "Cf": "Format", "Cn": "Unassigned", "Co": "Privateuse", "Cs": "Surrogate",
        "L": "Letter", "Lc": "Casedletter", "Ll": "Lowercaseletter", "Lm": "Modifierletter", "Lo": "Otherletter",
        "Lt": "Titlecaseletter", "Lu": "Uppercaseletter",
        "M": "Mark Combiningmark", "Mc": "Spacingmark", "Me": "Enclosingmark", "Mn": "Nonspacingmark",
        "N": "Number", "Nd": "Decimalnumber Digit", "Nl": "Letternumber", "No": "Othernumber",
        "P": "Punctuation Punct", "Pc": "Connectorpunctuation", "Pd": "Dashpunctuation", "Pe": "Closepunctuation",
        "Pf": "Finalpunctuation", "Pi": "Initialpunctuation", "Po": "Otherpunctuation", "Ps": "Openpunctuation",
        "S": "Symbol", "Sc": "Currencysymbol", "Sk": "Modifiersymbol", "Sm": "Mathsymbol", "So": "Othersymbol",
        "Z": "Separator", "Zl": "Lineseparator", "Zp": "Paragraphseparator", "Zs": "Spaceseparator",
    }.items()
    for alias in aliases.split()
}  # fmt: skip
_UNKNOWN_TO_RE2: Final = {  # "C" it knows, but without the unassigned code points
    "C": ("Cc", "Cf", "Cn", "Co", "Cs"),
    "Cn": ("Cn",),
    "Lc": ("Ll", "Lt", "Lu"),
}


@lru_cache(maxsize=CACHED_PATTERNS)
def _unicode_class(name: str, *, negated: bool) -> str | None:
    """A class that Go calls `name`, spelled for RE2, or None if there is none. As Go ≥ 1.26: unicodeTable.

    Names are compared without case, underscores, hyphens and spaces. RE2 knows the scripts of Unicode 15, Go some more.
    """
    bare = re.sub("[_ -]", "", name).capitalize()
    if not name.isascii():
        return None
    if bare == "Ascii":
        return "[:^ascii:]" if negated else "[:ascii:]"
    if bare == "Assigned":
        return _unicode_class("Cn", negated=not negated)
    bare = _ALIASES.get(bare, bare)
    if bare in _UNKNOWN_TO_RE2:
        return _ranges(_UNKNOWN_TO_RE2[bare], negated=negated)
    known = next((spelling for spelling in (bare, name) if _is_known(spelling)), None)
    return known and rf"\{'P' if negated else 'p'}{{{known}}}"


def _is_known(name: str) -> bool:
    return bool(re.fullmatch("[A-Za-z_]+", name)) and _engine(rf"\p{{{name}}}") is not None


def _ranges(categories: tuple[str, ...], *, negated: bool) -> str:
    """All code points of `categories` (or all others), from Python's own tables."""
    pieces = []
    for inside, run in groupby(range(sys.maxunicode + 1), lambda code: unicodedata.category(chr(code)) in categories):
        if inside != negated:
            first, *_, last = [*run] * 2
            pieces.append(rf"\x{{{first:X}}}-\x{{{last:X}}}")
    return "".join(pieces)
