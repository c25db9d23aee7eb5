"""Rules about the file as YAML: what keeps K3s from reading it, and what YAML makes of it that nobody expects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pierhead.check.blocks import faults, newline, surrounded, underlined
from pierhead.check.finding import Edit, Fix, Hit
from pierhead.check.misplaced import value_shown
from pierhead.check.patterns import visible
from pierhead.check.rule import DOCUMENTATION, rule
from pierhead.check.source import Entry, Source
from pierhead.check.subject import Subject
from pierhead.errors import Problem, Span
from pierhead.gourl import shown

_PLAIN_WORDS: Final = {
    "mapping values are not allowed in this context": "there is a colon where YAML expects none",
    "did not find expected key": "this line does not fit the lines above it, or something follows a closing quote",
    "did not find expected '-' indicator": "in a list every item begins with a dash and a space",
    "could not find expected ':'": "a key in this line, or in the one above it, has no colon after it",
    "found unexpected end of stream": "the file ends in the middle of something: a quote or a bracket is not closed",
    "found unknown escape character": "between double quotes a backslash begins an escape, and this is none",
    "found incompatible YAML document": "K3s reads YAML 1.1 only",
    "document contains excessive aliasing": "its aliases multiply beyond all measure",
    "map merge requires map or sequence of maps as the value": "<< takes an alias of a map, or a list of them",
    "!!binary value contains invalid base64 data": "a value tagged !!binary is not base64",
}
_GENERIC_REMEDY: Final = "look at this line and the one before it: indentation, colons, quotes and brackets"


@rule(
    "R001",
    "yaml-syntax",
    "error",
    bad="""\
mirrors:
  registry.example.com
    endpoint:
      - "https://registry.example.com:443"
    rewrite:
      "^rancher/(.*)": "mirrorproject/rancher-images/$1"
""",
    good="""\
mirrors:
  registry.example.com:
    endpoint:
      - "https://cache.example.com"
    rewrite:
      "^rancher/(.*)": "mirrorproject/rancher-images/$1"
""",
    sources=("kairos-io/kairos#3738", "k3d-io/k3d#422"),
)
def yaml_syntax(subject: Subject) -> Iterator[Hit]:
    """The file is not YAML, so K3s does not start on this node.

    K3s reads the file once, before it starts containerd. If that fails it logs `Waiting to retrieve agent
    configuration; server is not ready` and tries again every few seconds, for ever: the node does not join, and
    nothing on it runs. As soon as the file is corrected K3s goes on by itself.

    What the parser says is often far from the mistake. So the usual ones are looked for around that place, such as a
    key without a colon (the K3s documentation has had an example with one), no space after a colon, a quote or a
    bracket that is not closed, a password that begins with `@` or `%`, or a line that is indented a little too far,
    and a correction is offered if the file can be read with it.
    """
    for problem in subject.problems_of("yaml-syntax"):
        found = subject.slip
        if found is None:
            yield Hit(underlined(subject.source, problem), _plainly(problem), _GENERIC_REMEDY)
        elif found.kind in ("syntax", "indentation"):
            yield found.hit


def _plainly(problem: Problem) -> str:
    said = problem.message.removeprefix("YAML: ")
    meaning = _PLAIN_WORDS.get(said)
    return f"this is not YAML: {meaning}" if meaning else f"this is not YAML for K3s: {visible(said)[1:-1]}"


@rule(
    "R034",
    "tab",
    "error",
    bad="mirrors:\n\tdocker.io:\n\t\tendpoint:\n\t\t\t- https://cache.example.com\n",
    good="mirrors:\n  docker.io:\n    endpoint:\n      -\thttps://cache.example.com\n".replace("-\t", "- "),
    sources=("https://yaml.org/faq.html",),
)
def tab(subject: Subject) -> Iterator[Hit]:
    """A tab is used for indentation, which YAML does not allow.

    Programs show tabs with different widths, so YAML forbids them before the first character of a line. K3s cannot
    read the file and waits until it is corrected.
    """
    found = subject.slip
    if found is not None and found.kind == "tab":
        yield found.hit


# ── what is read, but not as it looks ──


@rule(
    "R049",
    "merge-overrides",
    "warning",
    bad="""\
x-cache: &cache
  endpoint: [https://cache.example.com]
mirrors:
  docker.io:
    endpoint: [https://hub.example.com]
    <<: *cache
""",
    good="""\
x-cache: &cache
  endpoint: [https://cache.example.com]
mirrors:
  docker.io:
    <<: *cache
    endpoint: [https://hub.example.com]
""",
    sources=("https://pkg.go.dev/gopkg.in/yaml.v2",),
)
def merge_overrides(subject: Subject) -> Iterator[Hit]:
    """A merge key (`<<`) overrides what is written above it in the same map.

    In YAML what a map says itself wins over what it merges, wherever the `<<` stands. K3s' parser reads from top to
    bottom instead, and a `<<` that comes later replaces what was there. Most other tools show the other value, so
    the file is read in two ways. A `<<` in the first place means the same to all of them.
    """
    source = subject.source
    lost = list(subject.problems_of("merge-overrides"))
    if not lost:
        return
    told = False
    for entry in source.entries:
        words = _overridden(entry)
        if not words or entry.key is None:
            continue
        told = True
        names = ", ".join(words)
        message = f"K3s lets this << override {names} above it, which other tools do not"
        yield Hit(entry.key.span, message, "put << first in its map", _merge_first(source, entry))
    for problem in lost if not told else ():
        assert problem.span is not None  # readers always say where
        yield Hit(problem.span, problem.message, "put << first in its map")


def _overridden(entry: Entry) -> list[str]:
    """The keys above a merge key that it brings with it; values below `auth` are no keys, so these may be shown."""
    if entry.key is None or entry.key.value != "<<" or not entry.key.implicit:
        return []
    sources = entry.value.children if entry.value.kind == "sequence" else [entry.value]
    brought = {key.value for each in sources for key in (each.target or each).children[::2]}
    above = [key.value for key in entry.parent.children[::2] if key.span < entry.key.span]
    return [shown(name) for name in above if name in brought]


def _merge_first(source: Source, entry: Entry) -> Fix | None:
    first = entry.parent.children[0]
    removed = source.removed(entry)
    if removed is None or entry.parent.closed or source.line(first.span.line)[: first.span.column - 1].strip():
        return None
    if entry.start.line != source.place(source.end(entry.value))[0]:
        return None
    text = f"{source.line(entry.start.line)}{newline(source)}"
    start = Edit(Span(source.file, first.span.line, 1, first.span.line, 1), text)
    return source.fix("put << first, so that what stands here counts", start, removed)


@rule(
    "R055",
    "second-document",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.example.com"
---
configs:
  "cache.example.com":
    tls:
      ca_file: /etc/ssl/corp-ca.pem
""",
    good="""\
---
mirrors:
  docker.io:
    endpoint:
      - "https://cache.example.com"
""",
    sources=("https://pkg.go.dev/gopkg.in/yaml.v2",),
)
def second_document(subject: Subject) -> Iterator[Hit]:
    """There is a second YAML document after `---`, and K3s reads only the first.

    A line of three dashes begins a new document. Everything after it is ignored without a word, and need not even be
    YAML.
    """
    source = subject.source
    for problem in subject.problems_of("second-document"):
        assert problem.span is not None  # readers always say where
        span = problem.span
        start = source.range(span)[0]
        rest = source.text[start:].removeprefix("---")
        empty = not re.sub(r"(?m)^\s*(#.*|---|\.\.\.)?$", "", rest).strip()
        edit = Edit(source.span(source.offset(span.line, 1), source.offset(span.line + 1, 1)), "")
        whole = source.line(span.line).strip() == "---"
        fix = Fix("take the --- out", (edit,)) if whole else None
        before, after = (faults(data, source.file) for data in (source.data, source.applied([edit])))
        if empty:
            message, severity = "a second document begins here, with nothing in it", "note"
        else:
            message, severity = "a second document begins here, and K3s reads only the first", None
        remedy = "take the --- out, and keep mirrors and configs in one document"
        yield Hit(span, message, remedy, fix if after <= before else None, severity)  # type: ignore[arg-type]


@rule(
    "R066",
    "empty-file",
    "note",
    bad="# mirrors:\n#   docker.io:\n#     endpoint: [https://cache.example.com]\n",
    good="mirrors:\n  docker.io:\n    endpoint: [https://cache.example.com]\n",
    sources=(DOCUMENTATION,),
)
def empty_file(subject: Subject) -> Iterator[Hit]:
    """The file configures nothing: it has no mirrors and no configs.

    K3s starts as if the file were not there, and containerd asks every registry itself, without credentials.
    """
    config, source = subject.config, subject.source
    said = {problem.id for problem in subject.problems}
    if config.error is not None or config.mirrors or config.configs or said & {"unknown-key", "unused-auths"}:
        return
    if "second-document" in said:
        return
    first = source.entries[0].start if source.entries else Span(source.file, 1, 1, 1, 2)
    message = "there are no mirrors and no configs in this file, so K3s takes nothing from it"
    yield Hit(first, message, "add a mirror, or delete the file")


# ── values that YAML takes away ──


@rule(
    "R081",
    "value-lost",
    "error",
    bad="""\
configs:
  "registry.example.com":
    auth:
      username: puller
      password: #s3cr3t
""",
    good="""\
configs:
  "registry.example.com":
    auth:
      username: &user puller
      password: "#s3cr3t"  # from the vault
    tls:
      ca_file: # none yet
  "mirror.example.com":
    auth:
      username: *user
      password: s3cr3t
""",
    sources=("https://yaml.org/spec/1.1/#id861700",),
)
def value_lost(subject: Subject) -> Iterator[Hit]:
    """A value without quotes begins with a character that makes YAML drop it, or a part of it.

    `#` begins a comment, `&` names an anchor, and `!` a type. A password that begins with one of them is empty or
    shorter than it was, and no error says so: the registry answers 401. In quotes every character is what it is.
    """
    source = subject.source
    for entry, span in lost_values(source):
        raw = source.slice(span)
        what = {"#": "a comment", "&": "the name of an anchor", "!": "a type"}[raw[0]]
        message = f"{value_shown(entry)} is lost: YAML takes what begins with {raw[0]} for {what}"
        quote = next((quote for quote in "\"'" if quote not in raw and (quote == "'" or "\\" not in raw)), "")
        fix = surrounded(source, span, quote, quote, "put quotes around it") if quote else None
        yield Hit(span, message, "put quotes around the value", fix)


def lost_values(source: Source) -> Iterator[tuple[Entry, Span]]:
    """The fields of `auth` and `tls` whose value YAML takes for something else, and where that text stands."""
    aliased = {id(entry.value.target) for entry in source.entries if entry.value.target is not None}
    for entry in source.entries:
        if entry.path[0] != "configs" or len(entry.path) != 4 or entry.key is None or entry.value.kind != "scalar":
            continue
        line, end = source.line(entry.key.span.line), entry.key.span.end_column
        found = _DROPPED.match(line[end - 1 :])
        if found is None or entry.key.span.end_line != entry.key.span.line or id(entry.value) in aliased:
            continue
        if found[1].startswith("!!") or not _is_lost(source, entry, found[1]):
            continue
        start = end + found.start(1)
        yield entry, Span(source.file, entry.key.span.line, start, entry.key.span.line, start + len(found[1]))


_DROPPED: Final = re.compile(r"\s*:\s+([&!#][^\s#]\S*(?: [^\s#]\S*)*)")


def _is_lost(source: Source, entry: Entry, raw: str) -> bool:
    """Whether the text is what was meant as the value, and not an anchor or a comment with a value of its own."""
    if raw[0] == "!":
        return source.slice(entry.value.span)[:1] in ("", "!")
    return not entry.value.value and entry.value.implicit
