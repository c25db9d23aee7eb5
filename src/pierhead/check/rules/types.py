"""Rules about values of the wrong kind, for which K3s refuses the whole file."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final

from pierhead.check.blocks import Block, faults, newline, surrounded, trials, underlined
from pierhead.check.finding import Edit, Fix, Hit
from pierhead.check.misplaced import AUTH, CONFIG, MIRROR, TLS, inside, is_registry, misplaced, value_shown
from pierhead.check.names import spoken
from pierhead.check.rule import DOCUMENTATION, rule
from pierhead.check.slips import slip
from pierhead.check.source import Entry, Source
from pierhead.check.subject import Subject
from pierhead.config.yamlnodes import Node
from pierhead.errors import Problem, Span

_TRUE: Final = frozenset(("true", "yes", "on", "y", "1", "t", "enabled", "enable"))
_FALSE: Final = frozenset(("false", "no", "off", "n", "0", "f", "disabled", "disable"))


@rule(
    "R011",
    "not-a-boolean",
    "error",
    bad="""\
configs:
  "registry.example.com:5000":
    tls:
      insecure_skip_verify: "true"
""",
    good="""\
configs:
  "registry.example.com:5000":
    tls:
      insecure_skip_verify: yes
""",
    sources=(DOCUMENTATION,),
)
def not_a_boolean(subject: Subject) -> Iterator[Hit]:
    """`insecure_skip_verify` is a text or a number instead of true or false.

    `true` and `false` without quotes are right, and so are `yes`, `no`, `on` and `off` in YAML 1.1. In quotes they are
    a text, and `1` is a number: K3s cannot read the file, does not start on this node, and waits until it is corrected.
    """
    entries = _by_value(subject.source)
    for problem in subject.problems_of("yaml-type"):
        entry = _boolean(entries, problem)
        if entry is None:
            continue
        raw = entry.value.value.strip()
        meant = "true" if raw.lower() in _TRUE else "false" if raw.lower() in _FALSE else None
        kind = f'"{spoken(raw)}" in quotes' if subject.source.slice(entry.value.span)[:1] in "\"'" else spoken(raw)
        kind = "this text" if kind == meant else kind
        message = f"insecure_skip_verify is true or false, and {kind} is neither: K3s refuses the whole file"
        remedy = f"write {meant or 'true or false'} without quotes"
        plain = subject.source.slice(entry.value.span)[:1] not in "&*!|>"
        fix = Fix(f"write {meant}", (Edit(entry.value.span, meant),)) if meant and plain else None
        yield Hit(entry.value.span, message, remedy, fix)


def _boolean(entries: dict[Span, Entry], problem: Problem) -> Entry | None:
    """The entry of a type error if it is a scalar where a boolean belongs."""
    assert problem.span is not None  # readers always say where
    if not problem.message.endswith(" into bool"):
        return None
    entry = entries.get(problem.span)
    return entry if entry and entry.value.kind == "scalar" else None


def _by_value(source: Source) -> dict[Span, Entry]:
    """Entries by the place of their value."""
    return {entry.value.span: entry for entry in reversed(source.entries)}


@rule(
    "R056",
    "yaml-type",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint: https://cache.example.com
""",
    good="""\
mirrors:
  docker.io:
    endpoint: [https://cache.example.com]
""",
    sources=(DOCUMENTATION,),
)
def yaml_type(subject: Subject) -> Iterator[Hit]:
    """A value is of the wrong kind, such as a text where a list belongs, so K3s refuses the whole file.

    `mirrors`, `configs` and what stands below them are maps; `endpoint` is a list, even of one; `rewrite` is a map of
    patterns to replacements; all else is text, and `insecure_skip_verify` true or false. If one value is of another
    kind, K3s does not start on this node: it logs what it could not read and waits until the file is corrected.
    """
    source, entries = subject.source, _by_value(subject.source)
    covered = {each.entry.path for each in misplaced(source)}
    left = trials(source)
    for problem in subject.problems_of("yaml-type"):
        assert problem.span is not None  # readers always say where
        entry = entries.get(problem.span)
        if _boolean(entries, problem) or (entry and inside(entry.path, covered)):
            continue
        left -= 1
        found = slip(source, problem) if left >= 0 and _looks_like_a_slip(source, problem.span) else None
        if found is not None:
            yield found.hit
        elif entry is None:
            yield _not_a_file(source, problem)
        else:
            yield _wrong_kind(source, problem, entry, fixable=left >= 0)


def _looks_like_a_slip(source: Source, span: Span) -> bool:
    """A text that goes over lines, or holds what looks like a key, was not meant as one."""
    if "{{" in source.line(span.line):
        return True
    raw = source.slice(span)
    if raw[:1] in "\"'":
        return False
    fields = "|".join((*MIRROR, *CONFIG, *AUTH, *TLS))
    return len(raw.splitlines()) > 1 or bool(re.match(rf"-\S|({fields})(:\S|\s*=)", raw))


def _not_a_file(source: Source, problem: Problem) -> Hit:
    root = source.root
    span = underlined(source, problem)
    kind = "a list" if root and root.kind == "sequence" else "a text"
    message = f"the file is {kind} and should be a map with mirrors and configs in it: K3s refuses it"
    return Hit(span, message, "begin with mirrors at the left edge, without a dash")


def _wrong_kind(source: Source, problem: Problem, entry: Entry, *, fixable: bool) -> Hit:
    wanted, remedy = _wanted(entry)
    has = {"sequence": "a list", "mapping": "a map"}.get(_target(entry.value).kind, "a text")
    name = value_shown(entry)
    span = underlined(source, problem) if entry.value.children else (problem.span or entry.start)
    if entry.value.children and entry.key is not None:
        span = entry.key.span
    message = f"{name} is {has} and should be {wanted}: K3s refuses the whole file"
    return Hit(span, message, remedy, _as_wanted(source, entry) if fixable else None)


def _target(node: Node) -> Node:
    return node.target or node


def _wanted(entry: Entry) -> tuple[str, str]:
    """What kind of value belongs there, and how to write it."""
    path, word = entry.path, entry.path[-1]
    if word in ("mirrors", "configs") and len(path) == 1:
        return "a map", "write each registry as a key with a colon, without a dash before it"
    if len(path) == 2 and path[0] == "mirrors":
        return "a map with endpoint and rewrite", "put endpoint below the registry's name, and the list below that"
    if len(path) == 2:
        return "a map with auth and tls", "put auth or tls below the name, and the fields below that"
    if word == "endpoint":
        return "a list", "put it in brackets, or on a line of its own after a dash and a space"
    if word == "rewrite":
        return "a map of patterns to replacements", 'write each rule as "pattern": "replacement", without a dash'
    if word == "auth" and len(path) == 3:
        return "a map with username and password", "put the fields below auth, each on a line of its own"
    if word == "tls":
        return "a map with ca_file and the like", "put the fields below tls, each on a line of its own"
    if word == "insecure_skip_verify":
        return "true or false", "write true or false"
    return "a text", "write one text here, in quotes if it has brackets or braces"


def _as_wanted(source: Source, entry: Entry) -> Fix | None:
    """The same in the right form, if there is only one way to read it."""
    value, path, word = entry.value, entry.path, entry.path[-1]
    if value.kind == "sequence" and (word == "rewrite" or (len(path) == 1 and word in ("mirrors", "configs"))):
        return _believed(source, _without_dashes(source, value))
    if value.kind == "sequence" and len(path) == 2 and path[0] == "mirrors" and is_registry(str(word)):
        return _believed(source, _under_endpoint(source, entry))
    raw = source.slice(value.span)
    if value.kind != "scalar" or not raw or raw[0] in "&*!|>" or value.span.line != value.span.end_line:
        return None
    if word == "endpoint":
        return _believed(source, _bracketed(source, value.span, raw))
    if len(path) == 2 and path[0] == "mirrors" and re.match(r"""["']?https?://[^\s,\[\]{}]+\Z""", raw):
        return _believed(source, surrounded(source, value.span, "{endpoint: [", "]}", "make it its endpoint"))
    if len(path) == 3 and path[0] == "configs" and word == "auth" and _is_pair(value.value):
        return _believed(source, surrounded(source, value.span, "{auth: ", "}", "put auth before it"))
    return None


def _bracketed(source: Source, span: Span, raw: str) -> Fix | None:
    """One endpoint, or several with commas between them, as a list."""
    quote = raw[0] if raw[0] in "\"'" else ""
    if re.search(r"[\s\[\]{}]", re.sub(r",\s*", "", raw)):
        return None
    start, end = source.range(span)
    edits = [Edit(source.span(start, start), "["), Edit(source.span(end, end), "]")]
    for comma in re.finditer(r",\s*", raw):
        place = source.span(start + comma.start(), start + comma.end())
        edits.append(Edit(place, f"{quote}, {quote}"))
    return Fix("put it in brackets", tuple(edits))


def _is_pair(text: str) -> bool:
    """Whether it is base64 of user:password."""
    try:
        return b":" in base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError):
        return False


def _without_dashes(source: Source, value: Node) -> Fix | None:
    """Makes one map of a list of maps."""
    edits = []
    for item in value.children:
        line = source.line(item.span.line)[: item.span.column - 1]
        if item.kind != "mapping" or item.closed or not re.fullmatch(r" *- +", line):
            return None
        column = line.index("-") + 1
        edits.append(Edit(Span(source.file, item.span.line, column, item.span.line, column + 1), " "))
    return Fix("take the dashes out", tuple(edits))


def _under_endpoint(source: Source, entry: Entry) -> Fix | None:
    """Puts the list that stands right below a registry's name below `endpoint:`."""
    block, items = Block.of(source, entry), entry.value.children
    if entry.value.closed:
        end = source.end(entry.value)
        start = source.range(entry.value.span)[0]
        spans = source.span(start, start), source.span(end, end)
        return Fix("put endpoint before the list", (Edit(spans[0], "{endpoint: "), Edit(spans[1], "}")))
    if block is None or not items or items[0].span.line == block.head:
        return None
    first = items[0].span.line
    dash = source.line(first).index("-")
    by = max(block.indent + 2 - dash, 0)
    lines = [Edit(Span(source.file, number, 1, number, 1), " " * by) for number in range(first + 1, block.last + 1)]
    head = f"{' ' * (dash + by)}endpoint:{newline(source)}{' ' * by}"
    top = Edit(Span(source.file, first, 1, first, 1), head)
    return Fix("put endpoint before the list", (top, *(edit for edit in lines if by)))


def _believed(source: Source, fix: Fix | None) -> Fix | None:
    """The fix if K3s reads more of the file with it: a type error less, and nothing unknown."""
    if fix is None:
        return None
    before, after = (faults(data, source.file) for data in (source.data, source.applied(fix.edits)))
    return fix if after[0] < before[0] and after[1] <= before[1] else None
