"""Rules about sections and fields that K3s knows, in places where it does not look for them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from pierhead.check.blocks import Block, believed, inner_indent, is_null, last_line, newline, raised, trials
from pierhead.check.finding import Edit, Fix, Hit
from pierhead.check.misplaced import CONFIG, MIRROR, PARENT, SECTIONS, Misplaced, Slipped, misplaced, names
from pierhead.check.names import spoken
from pierhead.check.rule import DOCUMENTATION, rule
from pierhead.check.source import Entry, Source
from pierhead.check.subject import Subject
from pierhead.config.near import bare
from pierhead.errors import Severity, Span


@rule(
    "R023",
    "nested-section",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
  # who may pull
  configs:
    "cache.corp.example:5000":
      auth:
        username: puller
        password: s3cr3t
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example"
  configs.example:
    endpoint:
      - "https://cache.corp.example"
configs:
  "cache.corp.example":
    tls: {}
""",
    sources=("k3s-io/k3s#10135",),
)
def nested_section(subject: Subject) -> Iterator[Hit]:
    """A section stands inside of another one, so K3s takes it for the name of a registry.

    `configs:` that is indented below `mirrors:` is a mirror of a registry called `configs`, and what it holds is
    unknown there: credentials and certificates are dropped, nothing is logged, and pulls fail for want of them. The
    same goes for a file of which everything stands below one more key.
    """
    source = subject.source
    for found in misplaced(source):
        if found.how == "section":
            yield _section(source, found)
        elif found.how == "wrapped":
            yield _wrapped(source, found.entry)


def _section(source: Source, found: Misplaced) -> Hit:
    entry, word = found.entry, found.word
    outer = ".".join(spoken(str(part)) for part in entry.path[:-1])
    message = f"{word} is indented below {outer}, so K3s does not see it as a section and drops what it holds"
    fix = None
    top = next(each for each in source.entries if each.path == entry.path[:1])
    if word not in {key.value for key in top.parent.children[::2]}:
        edits = raised(source, entry, to=top.start.column - 1, until=last_line(source, top))
        fix = believed(source, Fix(f"move {word} to the left edge", edits) if edits else None, (word,), entry)
    return Hit(entry.start, message, f"move {word} to the left edge, where {entry.path[0]} is", fix)


def _wrapped(source: Source, entry: Entry) -> Hit:
    name = spoken(str(entry.path[0]))
    message = f"the whole file stands below {name}, which K3s does not know, so K3s reads nothing"
    inner, block = names(entry), Block.of(source, entry)
    fix = None
    around = {key.value for key in entry.parent.children[::2]}
    depth = inner_indent(entry)
    if block and depth and inner <= {*SECTIONS} and not inner & around and not entry.value.closed:
        lines = Block(source, block.head, block.head + 1, block.last, depth).shifted(block.indent - depth)
        head = Edit(source.span(source.offset(block.head, 1), source.offset(block.head + 1, 1)), "")
        first = next(each for each in source.entries if len(each.path) == 2 and each.path[0] == entry.path[0])
        fix = believed(
            source, Fix(f"take {name} out and move the rest to the left edge", (head, *lines)), first.path[1:], first
        )
    return Hit(entry.start, message, "move mirrors and configs to the left edge", fix)


@rule(
    "R080",
    "misplaced-field",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    username: puller
    password: s3cr3t
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    auth:
      username: puller
      password: s3cr3t
""",
    sources=(DOCUMENTATION,),
)
def misplaced_field(subject: Subject) -> Iterator[Hit]:
    """A field stands under the wrong key, where K3s does not look for it.

    `endpoint` and `rewrite` belong below the name of a registry in `mirrors`; `auth` and `tls` below a host in
    `configs`; `username`, `password`, `auth` and `identity_token` below that `auth`, and the certificates with
    `insecure_skip_verify` below that `tls`. Anywhere else they are dropped without a word, or, where something else
    is expected, K3s refuses the whole file and waits until it is corrected.
    """
    source = subject.source
    found = [each for each in misplaced(source) if each.how in ("shallow", "deep", "elsewhere")]
    if not found:
        return
    wrong = {id(each.entry.key): (each.how, _belongs(each.entry)) for each in found}
    beside: dict[int, list[Entry]] = {}
    for entry in source.entries:
        beside.setdefault(id(entry.parent), []).append(entry)
    told: set[int] = set()
    left = trials(source)
    for each in found:
        if id(each.entry.key) in told:
            continue
        family = beside[id(each.entry.parent)]
        run = _run(each.entry, family, wrong)
        told |= {id(entry.key) for entry in run}
        left -= 1
        if each.how == "elsewhere":
            yield _elsewhere(source, run)
        elif each.how == "deep":
            yield _deep(source, run[0], fixable=left >= 0)
        elif len(each.entry.path) == 2:
            above = [other for other in family if other.start < each.entry.start and id(other.key) not in wrong]
            yield _slipped(source, each.entry, above[-1] if above and left >= 0 else None)
        else:
            yield _shallow(source, run, family, fixable=left >= 0)


def _run(first: Entry, family: list[Entry], wrong: dict[int, tuple[Slipped, str]]) -> list[Entry]:
    """The misplaced entries that follow one another and belong below the same key."""
    kind = wrong[id(first.key)]
    start = next(index for index, each in enumerate(family) if each.key is first.key)
    if kind[0] == "shallow" and len(first.path) == 2:
        return [first]
    return list(takewhile(lambda each: wrong.get(id(each.key)) == kind, family[start:]))


def _belongs(entry: Entry) -> str:
    """The key below which an entry belongs."""
    word = str(entry.path[-1])
    if len(entry.path) == 1 and word not in PARENT:
        return "mirrors" if names(entry) & {*MIRROR} else "configs"
    return PARENT[word]


def _slipped(source: Source, entry: Entry, above: Entry | None) -> Hit:
    """A field beside the registry that it was meant for."""
    parent, word = _belongs(entry), str(entry.path[-1])
    where = "registry" if parent == "mirrors" else "host"
    message = f"{word} stands right below {parent}, so K3s takes it for the name of a {where}"
    fix = _adopted(source, [entry], above) if above else None
    return Hit(entry.start, message, f"indent it so that it stands below the name of a {where}", fix)


def _shallow(source: Source, run: list[Entry], family: list[Entry], *, fixable: bool) -> Hit:
    """Fields beside the key that they belong below, or without it."""
    parent = _belongs(run[0])
    words = _listed([spoken(str(each.path[-1])) for each in run])
    them, stands = ("it", "it stands") if len(run) == 1 else ("them", "they stand")
    message = f"K3s drops {words}: {stands} one level too high"
    holder = next((each for each in family if each.path[-1] == parent), None)
    fix = _adopted(source, run, holder) if fixable else None
    return Hit(run[0].start, message, f"put {them} below {parent}", fix)


def _adopted(source: Source, run: list[Entry], parent: Entry | None) -> Fix | None:
    """Puts entries below a key that stands above them, or below a new one."""
    entry, word, them = run[0], _belongs(run[0]), "it" if len(run) == 1 else "them"
    blocks = [block for block in (Block.of(source, each) for each in run) if block]
    path = (*(parent.path if parent else (*entry.path[:-1], word)), entry.path[-1])
    if parent is not None and (not is_null(parent) and (parent.value.closed or parent.value.kind != "mapping")):
        return None
    if len(blocks) != len(run):
        return _wrapped_in_brackets(source, run, path) if parent is None else None
    depth = inner_indent(parent) if parent else None
    by = (depth if depth is not None else blocks[0].indent + 2) - blocks[0].indent
    edits = [edit for block in blocks for edit in block.shifted(by)]
    if parent is None:
        start = source.span(blocks[0].start, blocks[0].start)
        edits.append(Edit(start, f"{' ' * blocks[0].indent}{word}:{newline(source)}"))
        description = f"put {them} below a new {word}"
        edits = _joined(edits)
    else:
        description = f"indent {them} below {spoken(str(parent.path[-1]))}"
    return believed(source, Fix(description, tuple(edits)), path, entry)


def _wrapped_in_brackets(source: Source, run: list[Entry], path: tuple[str | int, ...]) -> Fix | None:
    if not run[0].parent.closed:
        return None
    start, end = source.range(run[0].start)[0], source.end(run[-1].value)
    edits = Edit(source.span(start, start), f"{_belongs(run[0])}: {{"), Edit(source.span(end, end), "}")
    return believed(
        source, Fix(f"put {'it' if len(run) == 1 else 'them'} below a new {_belongs(run[0])}", edits), path, run[0]
    )


def _joined(edits: list[Edit]) -> list[Edit]:
    """Insertions at one place as a single one, the longest text first: a new line goes before what it indents."""
    texts: dict[Span, list[str]] = {}
    for edit in edits:
        texts.setdefault(edit.span, []).append(edit.text)
    return [Edit(span, "".join(sorted(parts, key=len, reverse=True))) for span, parts in texts.items()]


def _deep(source: Source, entry: Entry, *, fixable: bool) -> Hit:
    word, outer = str(entry.path[-1]), str(entry.path[2])
    message = f"K3s drops {word}: it stands below {outer}"
    if word not in CONFIG:
        return Hit(entry.start, message, f"move it below {PARENT.get(word, 'auth')} of the same host")
    fix = None
    above = next(each for each in source.entries if each.path == entry.path[:-1])
    if fixable and word not in {key.value for key in above.parent.children[::2]}:
        edits = raised(source, entry, to=above.start.column - 1, until=last_line(source, above))
        path = (*entry.path[:2], word)
        fix = believed(source, Fix(f"move {word} beside {outer}", edits) if edits else None, path, entry)
    return Hit(entry.start, message, f"give {word} the indentation of {outer}", fix)


def _elsewhere(source: Source, run: list[Entry]) -> Hit:
    entry = run[0]
    words = _listed([str(each.path[-1]) for each in run])
    section, name = entry.path[0], str(entry.path[1])
    them, stands = ("it", "it stands") if len(run) == 1 else ("them", "they stand")
    if section == "configs":
        message = f"K3s drops {words} of {spoken(name)}: {stands} in configs"
        return Hit(entry.start, message, f"put {them} into mirrors, below {spoken(name)}")
    endpoints = source.entry("mirrors", name, "endpoint")
    host = next((bare(each.value) for each in endpoints.value.children), name) if endpoints else name
    message = f"K3s drops {words} of {spoken(name)}: {stands} in mirrors"
    remedy = f"put {them} into configs at the left edge of the file, below the endpoint's host ({spoken(host)})"
    return Hit(entry.start, message, remedy)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


@rule(
    "R054",
    "unused-auths",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.example.com"
auths:
  "cache.example.com":
    username: puller
    password: s3cr3t
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.example.com"
configs:
  "cache.example.com":
    auth:
      username: puller
      password: s3cr3t
""",
    sources=(DOCUMENTATION,),
)
def unused_auths(subject: Subject) -> Iterator[Hit]:
    """The credentials stand under `auths`, which nothing reads.

    `auths` is what Docker's config.json has. K3s accepts the section for old times' sake and does nothing with it, so
    pulls are made without credentials. They belong under `configs.<host>.auth`.
    """
    for problem in subject.problems_of("unused-auths"):
        assert problem.span is not None  # readers always say where
        entry = subject.source.entry_at(problem.span)
        message = "K3s does nothing with auths, so what stands below it is never used"
        remedy = "put each host under configs, and its credentials below auth there"
        fix = _as_configs(subject.source, entry) if entry else None
        severity: Severity = "error" if entry and entry.value.children else "note"
        yield Hit(problem.span, message, remedy, fix, severity)


def _as_configs(source: Source, entry: Entry) -> Fix | None:
    """`auths` as `configs`, with `auth:` between each host and its fields."""
    if not entry.value.children:
        return source.fix("take it out", source.removed(entry))
    if entry.key is None or source.entry("configs") is not None:
        return None
    edits = [source.rewritten(entry.key.span, "configs")]
    for host in (each for each in source.entries if len(each.path) == 2 and each.path[0] == entry.path[0]):
        if host.value.closed:
            start, end = source.range(host.value.span)[0], source.end(host.value)
            edits += [Edit(source.span(start, start), "{auth: "), Edit(source.span(end, end), "}")]
            continue
        fields = [each for each in source.entries if each.parent is host.value]
        blocks = [block for block in (Block.of(source, each) for each in fields) if block]
        if host.value.kind != "mapping" or len(blocks) != len(fields):
            return None
        indent = blocks[0].indent
        top = Span(source.file, blocks[0].first, 1, blocks[0].first, 1)
        edits.append(Edit(top, f"{' ' * indent}auth:{newline(source)}  "))
        edits += [edit for block in blocks for edit in block.shifted(2) if edit.span != top]
    return source.fix("make it configs, with auth below each host", *edits)
