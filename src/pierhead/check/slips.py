"""Why a file is no YAML: the slips that people make, looked for in the text near the place where the parser gave up.

The parser says what it missed, which is seldom what went wrong. So each slip proposes a repair, the repair is tried on
the file, and the one after which the file reads best was the slip (specification, section 1.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pierhead.check.blocks import newline, shifted
from pierhead.check.finding import Edit, Fix, Hit
from pierhead.check.source import Source
from pierhead.config.registries import parse
from pierhead.errors import Problem, Span

TRIALS_LIMIT: Final = 60  # repairs that are tried on one file
LARGE_BYTES: Final = 256 * 1024  # above this a trial costs so much that only a few are made
TRIALS_OF_LARGE: Final = 6
NEAR_LINES: Final = 3  # above the place of the error, where a slip is looked for
QUOTE_LINES: Final = 200  # a quote that is never closed is noticed far below
QUOTE_SLIPS: Final = 5
INDENT_LINES: Final = 40  # whose indentation a stray line may have been meant to have

Kind = Literal["syntax", "indentation", "tab", "wildcard"]

_SCALARS: Final = "username|password|auth|identity_token|ca_file|cert_file|key_file|insecure_skip_verify"
_FIELDS: Final = f"mirrors|configs|endpoint|rewrite|tls|{_SCALARS}"
_COMMENT: Final = r"(?:\s+#.*)?$"
_KEY: Final = r"""(?:[^\s"'#\[\]{},:]+|"[^"]*"|'[^']*')"""
_WHITE: Final = re.compile(r"[ \t]*")
_BARE: Final = re.compile(rf"(\s*)([^\s#\[\]{{}},:-][^\s#\[\]{{}},]*[^\s#\[\]{{}},:]|[^\s#\[\]{{}},:-])\s*{_COMMENT}")
_GLUED: Final = re.compile(rf"\s*(?:- )?(?:{_FIELDS}):(?=[^\s:])")
_DASH: Final = re.compile(r"\s*-(?=[^\s-])")
_EQUALS: Final = re.compile(rf"(\s*(?:{_FIELDS}))\s*=\s*(?=\S)")
_STAR_KEY: Final = re.compile(r"(?:^\s*|[{,]\s*)(\*[^\s:,{}]*)(?=\s*:(?:\s|$))")
_FIRST_ITEM: Final = re.compile(r"""(\s*)(["']?endpoint["']?\s*:)\s+(?=-\s)""")
_ITEM: Final = re.compile(r"(\s*)-\s")
_VALUE: Final = re.compile(rf"\s*(?:- )*(?:({_KEY})\s*:\s+|- +)(?![\"'#])(\S.*?)\s*{_COMMENT}")
_UNCLOSED_KEY: Final = re.compile(rf"""\s*(?:- )?(["'])[^"']*?(?=:\s*{_COMMENT})""")
_UNCLOSED: Final = re.compile(rf"""(?:.*[\s\[,])?(["'])[^"']*?(?=\s*[\],]*\s*{_COMMENT})""")
_COMMA: Final = re.compile(rf"""\s*(?:- )?.*["']\s*(,)\s*{_COMMENT}""")
_BETWEEN: Final = re.compile(r"""(?<=["'])\s+(?=["'])""")
_DOUBLE_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_ODD_SPACES: Final = re.compile(r"[ \t]*[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000][\s\u200b]*")
_CONFLICT: Final = re.compile(r"<{7} |>{7} |={7}$")
_TEMPLATE: Final = re.compile(r"\{\{|\{%")
_CONTROL: Final = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\U0010ffff]")
_REGEX_ESCAPES: Final = {r"\.": "[.]", r"\d": "[0-9]", r"\-": "-", r"\/": "/"}


@dataclass(frozen=True, slots=True)
class Slip:
    """What went wrong, in words for people, and the edits that repair it (none: nobody can know how)."""

    span: Span
    message: str
    remedy: str
    description: str = ""
    edits: tuple[Edit, ...] = ()
    kind: Kind = "syntax"

    @property
    def hit(self) -> Hit:
        """What a rule says of it."""
        return Hit(self.span, self.message, self.remedy, self.fix)

    @property
    def fix(self) -> Fix | None:
        """The repair, if there is one."""
        return Fix(self.description, self.edits) if self.edits else None


def slip(source: Source, problem: Problem) -> Slip | None:
    """The slip behind a `yaml-syntax` or `yaml-type` problem; None if none is known that would explain it."""
    assert problem.span is not None  # readers always say where
    certain = next(_certain(source, problem.span), None)
    if certain:
        return certain
    repairs = [*_tabs(source, problem.span), *_repairs(source, problem.span), *_indentations(source, problem.span)]
    limit = TRIALS_LIMIT if len(source.data) <= LARGE_BYTES else TRIALS_OF_LARGE
    before = sum(each.id == "yaml-type" for each in parse(source.data, source.file).problems)
    tried = ((_outcome(source, each, problem, before=before), each) for each in repairs[:limit])
    better = [(outcome, each) for outcome, each in tried if outcome is not None]
    if better:
        return min(better, key=lambda pair: pair[0])[1]
    return next(_bad_characters(source, problem.span), None)


def _outcome(source: Source, repair: Slip, problem: Problem, *, before: int) -> tuple[int, int] | None:
    """How well the file reads after a repair, less is better; None if it does not help.

    `before`: how many values of a wrong type there were.

    A repair that takes away this error and leaves others that were there is one: the next round finds those.
    """
    assert problem.span is not None  # readers always say where
    after = parse(source.applied(repair.edits), source.file)
    wrong = [each for each in after.problems if each.id in ("yaml-syntax", "yaml-type", "unknown-key")]
    stopped = next((each.span for each in wrong if each.id == "yaml-syntax"), None)
    if stopped is not None:
        beyond = problem.id == "yaml-syntax" and stopped.line > problem.span.line + 1
        return (1, -stopped.line) if beyond and repair.kind != "indentation" else None
    if problem.id == "yaml-type" and sum(each.id == "yaml-type" for each in wrong) >= before:
        return None
    faults = sum(each.severity != "note" for each in wrong)
    # A stray line has many places to go: only a perfect result is believed.
    return None if faults and repair.kind == "indentation" else (0, faults)


# ── what is certain without a trial ──


def _certain(source: Source, at: Span) -> Iterator[Slip]:
    for number in range(1, min(source.lines, 10_000) + 1):
        if _CONFLICT.match(source.line(number)):
            message = "the file still holds the marks of a merge conflict"
            yield Slip(_line(source, number), message, "keep one of the two versions and take the marks out")
            return
    for number in _near(source, at):
        if _TEMPLATE.search(source.line(number)):
            message = "this line is part of a template that nothing has filled in"
            remedy = "render the template and give K3s the result; quotes around {{ … }} keep it valid YAML"
            yield Slip(_line(source, number), message, remedy)


def _bad_characters(source: Source, at: Span) -> Iterator[Slip]:
    place = source.offset(at.line, at.column)
    if source.text[place : place + 1] == "\t":
        span = source.span(place, place + 1)
        yield Slip(span, "a tab stands here, and YAML indents with spaces only", _TAB_REMEDY, kind="tab")
    found = _CONTROL.search(source.text.removeprefix("\ufeff"))
    if found is None:
        return
    shift = len(source.text) - len(source.text.removeprefix("\ufeff"))
    span = source.span(found.start() + shift, found.end() + shift)
    if "\udc80" <= found[0] <= "\udcff":
        yield Slip(span, "this byte is not UTF-8, so the file cannot be read", "save the file as UTF-8")
    else:
        message = f"a control character (U+{ord(found[0]):04X}) stands here, and YAML allows none"
        yield Slip(span, message, "take the character out, or write it as an escape between double quotes")


_TAB_REMEDY: Final = "indent with spaces; most editors can replace the tabs of a whole file"


# ── repairs that are tried ──


def _tabs(source: Source, at: Span) -> Iterator[Slip]:
    """Every tab before a line's first character, as two, four or eight spaces."""
    lines = [(number, _WHITE.match(source.line(number))) for number in range(1, source.lines + 1)]
    white = [(number, found[0]) for number, found in lines if found and "\t" in found[0]]
    place = source.offset(at.line, at.column)
    if not white and source.text[place : place + 1] != "\t":
        return
    message = "a tab stands here, and YAML indents with spaces only"
    if not white:
        edit = Edit(source.span(place, place + 1), " ")
        yield Slip(edit.span, message, _TAB_REMEDY, "put a space in the place of the tab", (edit,), "tab")
        return
    first, lead = white[0]
    start = source.offset(first, lead.index("\t") + 1)
    span = source.span(start, source.offset(first, len(lead.rstrip(" ")) + 1))
    if len(white) > 1:
        message = f"tabs stand here and in {_count(len(white) - 1, 'more line')}, and YAML indents with spaces only"
    for width in (2, 4, 8):
        edits = tuple(
            Edit(Span(source.file, number, 1, number, len(lead) + 1), lead.replace("\t", " " * width))
            for number, lead in white
        )
        yield Slip(span, message, _TAB_REMEDY, f"put {width} spaces in the place of each tab", edits, "tab")


def _repairs(source: Source, at: Span) -> Iterator[Slip]:
    near = _near(source, at)
    yield from _fences(source)
    yield from _directives(source)
    yield from _odd_spaces(source)
    for number in near:
        yield from _star_keys(source, number)
    yield from _glued(source, [*near, *range(at.line + 1, (at.end_line or at.line) + NEAR_LINES)])
    for number in near:
        yield from _missing_colon(source, number)
    for number in near:
        yield from _list_on_key_line(source, number)
        yield from _plain_values(source, number)
        yield from _brackets(source, number)
    yield from _escapes(source, at)
    yield from _quotes(source, at)


def _fences(source: Source) -> Iterator[Slip]:
    numbers = [number for number in range(1, source.lines + 1) if source.line(number).startswith("```")]
    if numbers:
        message = "this line is Markdown, not YAML: it was copied together with the example"
        edits = tuple(_without_line(source, number) for number in numbers)
        yield Slip(
            _line(source, numbers[0]), message, "take the lines with ``` out", "take the lines with ``` out", edits
        )


def _directives(source: Source) -> Iterator[Slip]:
    for number in range(1, min(source.lines, 20) + 1):
        if source.line(number).startswith("%YAML"):
            message = "K3s refuses a file that says which YAML version it is in, unless that is 1.1"
            edits = (_without_line(source, number),)
            yield Slip(_line(source, number), message, "take this line out", "take the %YAML line out", edits)


def _odd_spaces(source: Source) -> Iterator[Slip]:
    edits = odd_spaces(source)
    if edits:
        message = "what looks like a space here is another character, and YAML takes it for a part of the name"
        yield Slip(edits[0].span, message, "indent with ordinary spaces", "put ordinary spaces in its place", edits)


def odd_spaces(source: Source) -> tuple[Edit, ...]:
    """Puts ordinary spaces in the place of all others that lines begin with."""
    found = ((number, _ODD_SPACES.match(source.line(number))) for number in range(1, source.lines + 1))
    return tuple(
        Edit(Span(source.file, number, 1, number, len(each[0]) + 1), " " * len(each[0].replace("\u200b", "")))
        for number, each in found
        if each
    )


def _star_keys(source: Source, number: int) -> Iterator[Slip]:
    line = source.line(number)
    found = _STAR_KEY.search(line)
    if found is None:
        return
    span = Span(source.file, number, found.start(1) + 1, number, found.end(1) + 1)
    message = f"{found[1]} needs quotes here: without them a * begins a reference to an anchor in YAML"
    remedy = f'put quotes around it: "{found[1]}"'
    yield Slip(span, message, remedy, "put quotes around it", _around(span, '"', '"'), "wildcard")


def _glued(source: Source, numbers: Iterable[int]) -> Iterator[Slip]:
    """What lacks a space, or has an equals sign for a colon, in all of these lines at once."""
    lines = [(number, source.line(number)) for number in sorted(set(numbers))]
    colons = [(number, found.end()) for number, line in lines if (found := _GLUED.match(line))]
    dashes = [(number, found.end()) for number, line in lines if (found := _DASH.match(line))]
    for what, places in (("colon", colons), ("dash", dashes)):
        if places:
            edits = tuple(_insertion(source, number, index, " ") for number, index in places)
            number, index = places[0]
            span = Span(source.file, number, index, number, index + 1)
            message = f"there is no space after the {what}, so YAML reads the whole as one text"
            yield Slip(span, message, f"put a space after the {what}", f"put a space after the {what}", edits)
    equals = [(number, found) for number, line in lines if (found := _EQUALS.match(line))]
    if equals:
        spans = [Span(source.file, number, found.end(1) + 1, number, found.end() + 1) for number, found in equals]
        edits = tuple(Edit(span, ": ") for span in spans)
        message = "an equals sign stands here, and YAML separates a key from its value by a colon"
        yield Slip(spans[0], message, "write a colon and a space", "put a colon in its place", edits)


def _missing_colon(source: Source, number: int) -> Iterator[Slip]:
    found = _BARE.match(source.line(number))
    if found is None:
        return
    span = Span(source.file, number, found.start(2) + 1, number, found.end(2) + 1)
    message = "this key has no colon after it"
    edit = _insertion(source, number, found.end(2), ":")
    yield Slip(span, message, "put a colon after the key", "put a colon after the key", (edit,))


def _list_on_key_line(source: Source, number: int) -> Iterator[Slip]:
    found = _FIRST_ITEM.match(source.line(number))
    if found is None:
        return
    below = _ITEM.match(source.line(number + 1))
    indent = below[1] if below and len(below[1]) >= len(found[1]) else found[1] + "  "
    span = Span(source.file, number, found.end() + 1, number, found.end() + 2)
    edit = Edit(Span(source.file, number, found.end(2) + 1, number, found.end() + 1), newline(source) + indent)
    message = "a list cannot begin on the line of its key"
    yield Slip(span, message, "put the first item on a line of its own", "put it on the next line", (edit,))


def _plain_values(source: Source, number: int) -> Iterator[Slip]:
    found = _VALUE.match(source.line(number))
    if found is None:
        return
    key, value = found[1], found[2]
    field = key if key and re.fullmatch(_FIELDS, key) else None
    if value[0] in "[{" and not re.fullmatch(_SCALARS, key or ""):
        return
    quote = next((quote for quote in "\"'" if quote not in value and (quote == "'" or "\\" not in value)), None)
    if quote is None:
        return
    span = Span(source.file, number, found.start(2) + 1, number, found.end(2) + 1)
    name = f"the value of {field}" if field else "this value"
    message = f"{name} has characters that mean something else in YAML, so it cannot stand without quotes"
    yield Slip(span, message, "put quotes around the value", "put quotes around it", _around(span, quote, quote))


def _brackets(source: Source, number: int) -> Iterator[Slip]:
    line = source.line(number)
    text = re.sub(r"\s+#.*", "", line).rstrip()
    for opening, closing in ("[]", "{}"):
        if text.count(opening) > text.count(closing):
            index = line.index(opening)
            span = Span(source.file, number, index + 1, number, index + 2)
            message = f"this {opening} is never closed"
            edit = _insertion(source, number, len(text), closing)
            yield Slip(span, message, f"close it with {closing}", f"close it with {closing}", (edit,))
    between = list(_BETWEEN.finditer(text)) if "[" in text else []
    if between:
        spans = [Span(source.file, number, each.start() + 1, number, each.end() + 1) for each in between]
        message = "the items of this list have no comma between them"
        edits = tuple(Edit(span, ", ") for span in spans)
        yield Slip(spans[0], message, "put commas between the items", "put commas between the items", edits)
    comma = _COMMA.match(line)
    if comma:
        span = Span(source.file, number, comma.start(1) + 1, number, comma.end(1) + 1)
        message = "this line ends with a comma, which YAML knows only between brackets"
        yield Slip(span, message, "take the comma out", "take the comma out", (Edit(span, ""),))


def _escapes(source: Source, at: Span) -> Iterator[Slip]:
    """A backslash that begins no escape between double quotes: a regular expression, or a Windows path."""
    for found in _DOUBLE_QUOTED.finditer(source.line(at.line)):
        if not found.start() < at.column <= found.end() + 1:
            continue
        body = found[0][1:-1]
        span = Span(source.file, at.line, found.start() + 1, at.line, found.end() + 1)
        message = "between double quotes a backslash begins an escape, and YAML does not know this one"
        wanted = re.sub(r"\\.", lambda escape: _REGEX_ESCAPES.get(escape[0], escape[0]), body)
        if "\\" not in wanted and re.search(r"[\^$(]", body):
            edits = tuple(
                Edit(Span(source.file, at.line, place, at.line, place + 2), _REGEX_ESCAPES[each[0]])
                for each in re.finditer(r"\\.", body)
                for place in [found.start() + 2 + each.start()]
            )
            remedy = "write [.] for a dot and [0-9] for a digit; no backslash reaches containerd unharmed"
            yield Slip(span, message, remedy, "write the pattern without backslashes", edits)
        elif "'" not in body and not re.search(r'\\[\\"]', body):
            left = Span(source.file, at.line, found.start() + 1, at.line, found.start() + 2)
            right = Span(source.file, at.line, found.end(), at.line, found.end() + 1)
            edits = (Edit(left, "'"), Edit(right, "'"))
            yield Slip(span, message, "use single quotes, which leave it alone", "use single quotes", edits)


def _quotes(source: Source, at: Span) -> Iterator[Slip]:
    """A quote that is opened and not closed on its line; the parser notices it where the next one stands."""
    found = 0
    for number in range(max(1, at.line - QUOTE_LINES), at.line + 1):
        line = source.line(number)
        if found >= QUOTE_SLIPS or (line.count('"') % 2 == 0 and line.count("'") % 2 == 0):
            continue
        for pattern in (_UNCLOSED_KEY, _UNCLOSED):
            opened = pattern.match(line)
            if opened is None or line.count(opened[1]) % 2 == 0:
                continue
            found += 1
            end = len(opened[0].rstrip())
            span = Span(source.file, number, opened.start(1) + 1, number, end + 1)
            message = "this quote is never closed"
            edit = _insertion(source, number, end, opened[1])
            yield Slip(span, message, "close the quote", "close the quote", (edit,))


def _indentations(source: Source, at: Span) -> Iterator[Slip]:
    """The line of the error, with what is deeper below it, at the indentation of a line above it."""
    indent = _indent(source.line(at.line))
    if not source.line(at.line).strip() or indent < 0:
        return
    above = {_indent(source.line(number)) for number in range(max(1, at.line - INDENT_LINES), at.line)}
    last = at.line
    while last < source.lines and _indent(source.line(last + 1)) > indent:
        last += 1
    span = Span(source.file, at.line, 1, at.line, indent + 1) if indent else _line(source, at.line)
    message = f"this line is indented by {_count(indent, 'space')}, which fits none of the lines above it"
    remedy = "give keys that belong together the same indentation"
    for wanted in sorted(above - {indent, -1}, key=lambda each: abs(each - indent)):
        description = f"indent it by {_count(wanted, 'space')}" if wanted else "take its indentation away"
        for end in dict.fromkeys((at.line, last)):
            lines = range(at.line, end + 1)
            edits = tuple(edit for number in lines for edit in shifted(source, number, wanted - indent))
            yield Slip(span, message, remedy, description, edits, "indentation")


# ── lines ──


def _near(source: Source, at: Span) -> list[int]:
    """The line of an error and the few before it that say something, nearest first."""
    numbers = [min(at.line, source.lines)]
    number = at.line - 1
    while number > 0 and len(numbers) <= NEAR_LINES and number > at.line - 20:
        if source.line(number).strip() and not source.line(number).lstrip().startswith("#"):
            numbers.append(number)
        number -= 1
    return numbers


def _indent(line: str) -> int:
    """Spaces before a line's first character; -1 if it has none."""
    return len(line) - len(line.lstrip(" ")) if line.strip() else -1


def _line(source: Source, number: int) -> Span:
    line = source.line(number)
    start = len(line) - len(line.lstrip())
    return Span(source.file, number, start + 1, number, max(len(line.rstrip()), start + 1) + 1)


def _without_line(source: Source, number: int) -> Edit:
    return Edit(source.span(source.offset(number, 1), source.offset(number + 1, 1)), "")


def _insertion(source: Source, number: int, index: int, text: str) -> Edit:
    return Edit(Span(source.file, number, index + 1, number, index + 1), text)


def _around(span: Span, left: str, right: str) -> tuple[Edit, ...]:
    """Puts something before and after what a span covers, which itself may be a secret."""
    start = Span(span.file, span.line, span.column, span.line, span.column)
    end = Span(span.file, span.end_line, span.end_column, span.end_line, span.end_column)
    return Edit(start, left), Edit(end, right)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
