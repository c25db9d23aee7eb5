"""Rules about the shape of the file: keys that are there twice, unknown, or in the wrong place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pierhead.check.blocks import Block, inner_indent, is_null
from pierhead.check.finding import Edit, Fix, Hit
from pierhead.check.misplaced import (
    AUTH,
    CONFIG,
    MIRROR,
    SECTIONS,
    TLS,
    inside,
    key_shown,
    misplaced,
)
from pierhead.check.rule import rule
from pierhead.check.slips import odd_spaces
from pierhead.check.source import Entry, Source
from pierhead.check.subject import Subject
from pierhead.config.registries import parse
from pierhead.errors import Severity, Span

# ── what is there twice ──


@rule(
    "R002",
    "duplicate-key",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example"
configs:
  "cache.corp.example":
    auth:
      username: puller
      password: s3cr3t
  "cache.corp.example":
    tls:
      ca_file: /etc/ssl/corp-ca.pem
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example"
configs:
  "cache.corp.example":
    auth:
      username: puller
      password: s3cr3t
    tls:
      insecure_skip_verify: false
""",
    sources=("https://pkg.go.dev/gopkg.in/yaml.v2",),
)
def duplicate_key(subject: Subject) -> Iterator[Hit]:
    """A key is there twice, and K3s uses only one of them or mixes both.

    A registry that is named twice under `mirrors` or `configs` is read whole from its last entry: what the first one
    says is dropped without a word. A section or a field that is there twice is different: the second `configs:`,
    `auth:` or `tls:` is read into the first, so fields add up and later ones win; but if the second is empty, it
    wipes the first. Nothing of this is logged.
    """
    for problem in subject.problems_of("duplicate-key"):
        assert problem.span is not None  # readers always say where
        entry = subject.source.entry_at(problem.span)
        first = _first(subject.source, entry) if entry else None
        if entry is None or first is None:
            yield Hit(problem.span, problem.message, "keep one of the two")
            continue
        outcome, severity = _outcome(entry)
        message = f"{key_shown(entry)} is there twice, first in line {first.start.line}: {outcome}"
        remedy = "keep one entry that has the contents of both"
        yield Hit(problem.span, message, remedy, _merged(subject.source, first, entry), severity)


def _first(source: Source, entry: Entry) -> Entry | None:
    same = [each for each in source.entries if each.parent is entry.parent and each.path == entry.path]
    return next((each for each in same if each.key is not entry.key), None)


def _outcome(entry: Entry) -> tuple[str, Severity]:
    if is_null(entry) and len(entry.path) != 2:
        return "this one is empty and wipes the first", "error"
    if len(entry.path) == 2 or entry.value.kind != "mapping":
        return "K3s uses only this one and drops the first", "error"
    return "K3s reads both, and where they disagree this one wins", "warning"


def _merged(source: Source, first: Entry, second: Entry) -> Fix | None:
    """One entry out of two, if they say the same, or different things that add up."""
    below = len(first.path)
    one, other = ([each.path[below:] for each in _under(source, entry)] for entry in (first, second))
    if _same(source, first, second) or is_null(second):
        return source.fix("take the repeated key out", source.removed(second))
    if is_null(first):
        return source.fix("take the empty key out", source.removed(first))
    kinds = {first.value.kind, second.value.kind}
    lists = kinds == {"sequence"}
    if len(kinds) > 1 or not (lists or kinds == {"mapping"}) or (not lists and set(one) & set(other)):
        return None
    blocks = Block.of(source, first), Block.of(source, second)
    above, below_it = blocks
    inner = [inner_indent(each) for each in (first, second)]
    if above is None or below_it is None or inner[0] != inner[1] or above.last >= below_it.head:
        return None
    between = source.text[above.end : source.offset(below_it.head, 1)]
    if any(line.strip() and not line.strip().startswith("#") for line in between.splitlines()):
        return None
    rest = source.line(below_it.head).partition(":")[2].strip()
    if second.value.closed or first.value.closed or (rest and not rest.startswith("#")):
        return None
    head = Edit(source.span(source.offset(below_it.head, 1), source.offset(below_it.head + 1, 1)), "")
    return source.fix("put both under one key", head)


def _under(source: Source, entry: Entry) -> list[Entry]:
    """The entries right below this one, and not below its namesake."""
    return [each for each in source.entries if each.parent is entry.value]


def _same(source: Source, first: Entry, second: Entry) -> bool:
    return _text(source, first).split() == _text(source, second).split()


def _text(source: Source, entry: Entry) -> str:
    return source.text[source.range(entry.value.span)[0] : source.end(entry.value)]


# ── what K3s does not know ──


_FIELDS: Final = {"top": SECTIONS, "mirror": MIRROR, "config": CONFIG, "auth": AUTH, "tls": TLS}
_SYNONYMS: Final = {
    "top": {"config": "configs", "mirror": "mirrors"},
    "mirror": {"endpoints": "endpoint", "rewrites": "rewrite", "replace": "rewrite"},
    "config": {"authentication": "auth", "authorization": "auth", "ssl": "tls", "credentials": "auth"},
    "auth": {"user": "username", "pass": "password", "passwd": "password", "token": "identity_token"},
    "tls": {
        "ca": "ca_file",
        "cacert": "ca_file",
        "cert": "cert_file",
        "key": "key_file",
        "skipverify": "insecure_skip_verify",
        "insecure": "insecure_skip_verify",
        "tlsskipverify": "insecure_skip_verify",
        "skiptlsverify": "insecure_skip_verify",
    },
}
_ELSEWHERE: Final = re.compile(r"file|path|from|command|helper|stdin|(?:^|[_-])(?:env|ref|exec)(?:$|[_-])")
_NEEDLESS: Final = ("override_path", "email")
_KNOWN_ELSEWHERE: Final = {
    "override_path": "K3s sets it by itself for an endpoint with a path",
    "skip_verify": "it is a key of containerd's hosts.toml; here it is configs.<host>.tls.insecure_skip_verify",
    "capabilities": "it is a key of containerd's hosts.toml, and K3s has no setting for it",
    "server": "it is a key of containerd's hosts.toml; K3s asks the registry itself last unless that is disabled",
    "header": "it is a key of containerd's hosts.toml, and K3s has no setting for it",
    "email": "Docker once had it; no registry looks at it",
    "registry_token": "Docker has it; K3s knows username, password, auth and identity_token",
}


@rule(
    "R003",
    "unknown-key",
    "error",
    bad="""\
mirrros:
  docker.io:
    endpoint:
      - "https://cache.corp.example"
""",
    good="""\
x-endpoint: &cache "https://cache.corp.example"
mirrors:
  docker.io:
    endpoint:
      - *cache
""",
    sources=("k3s-io/k3s#5502", "k3s-io/k3s#1802", "rancher/cluster-api-provider-rke2#686"),
)
def unknown_key(subject: Subject) -> Iterator[Hit]:
    """K3s does not know this key and drops it, with everything below it, without a word.

    The file is read in a way that ignores what is unknown: `mirrros:`, `config:`, `endpoints:`, `rewrites:` and
    `insecure-skip-verify:` are no error, they are nothing. Keys are matched exactly, capitals included.

    `token` below `auth` is a special case: the K3s documentation shows it, and no version of K3s has ever read it. The
    field for a token is `identity_token`; a personal access token goes into `password`, together with a `username`.

    Keys that begin with `x-` or a dot are taken for notes or for holders of anchors, and so is any key of the top
    level whose anchors are used elsewhere.
    """
    source = subject.source
    lost = list(subject.problems_of("unknown-key"))
    if not lost:
        return
    covered = {each.entry.path for each in misplaced(source)}
    holders, spaces = _holders(source), odd_spaces(source)
    for problem in lost:
        assert problem.span is not None  # readers always say where
        entry = source.entry_at(problem.span)
        if problem.severity == "note" or entry is None or inside(entry.path, covered) or entry.path in holders:
            continue
        if spaces and _ODD.match(source.slice(problem.span)):
            yield _oddly_indented(source, problem.span, spaces)
        else:
            yield _unknown(source, problem.span, entry)


def _holders(source: Source) -> set[tuple[str | int, ...]]:
    """The keys of the top level that hold what aliases elsewhere stand for."""
    aliased = {id(each.value.target) for each in source.entries if each.value.target is not None}
    found = {each.path[:1] for each in source.entries if id(each.value) in aliased}
    return {path for path in found if path and path[0] not in SECTIONS}


_ODD: Final = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000]")


def _oddly_indented(source: Source, span: Span, spaces: tuple[Edit, ...]) -> Hit:
    message = "what looks like indentation here are other characters than spaces, and YAML takes them for a name"
    after = parse(source.applied(spaces), source.file)
    readable = not any(problem.id == "yaml-syntax" for problem in after.problems)
    fix = Fix("put ordinary spaces in their place", spaces) if readable else None
    return Hit(span, message, "indent with ordinary spaces", fix)


def _unknown(source: Source, span: Span, entry: Entry) -> Hit:
    level = _level(entry)
    name, word = key_shown(entry), str(entry.path[-1])
    meant = _meant(word, level)
    unknown = f"K3s does not know {name} and drops it{' with all that is below it' if entry.value.children else ''}"
    if word.lower() == "token" and level == "auth":
        message = "K3s drops token: its documentation shows the key, but no version of K3s reads it"
        remedy = "use identity_token, or put a personal access token into password together with a username"
        alone = "username" not in {str(key.value) for key in entry.parent.children[::2]}
        return Hit(span, message, remedy, _renamed(source, entry, "identity_token") if alone else None)
    if meant:
        return Hit(span, unknown, f"write {meant} if that is meant", _renamed(source, entry, meant))
    if level == "auth" and _ELSEWHERE.search(word.lower()):
        message = f"K3s drops {name}: it takes no credentials from files, variables or programs"
        return Hit(span, message, "let what writes this file put the value itself into it")
    if word.lower() in _KNOWN_ELSEWHERE:
        severity: Severity = "warning" if word.lower() == "email" else "error"
        message = f"K3s drops {name}: {_KNOWN_ELSEWHERE[word.lower()]}"
        fix = source.fix("take it out", source.removed(entry)) if word.lower() in _NEEDLESS else None
        return Hit(span, message, "take it out", fix, severity)
    known = " and ".join(_FIELDS[level]) if len(_FIELDS[level]) == 2 else ", ".join(_FIELDS[level])
    return Hit(span, unknown, f"take it out, or use what K3s knows here ({known}); begin the name of a note with x-")


def _level(entry: Entry) -> str:
    """Which keys would be known here: by the place, or, where an anchor stands, by the neighbours."""
    path = entry.path
    if len(path) == 1:
        return "top"
    if path[0] == "mirrors":
        return "mirror"
    if path[0] == "configs":
        return {3: "config"}.get(len(path), str(path[2]) if path[2:3] and path[2] in CONFIG else "auth")
    around = {key.value for key in entry.parent.children[::2]}
    return max(("mirror", "config", "auth", "tls"), key=lambda level: len(around & {*_FIELDS[level]}))


def _meant(word: str, level: str) -> str | None:
    from difflib import get_close_matches

    if level == "auth" and _ELSEWHERE.search(word.lower()):
        return None  # password_file holds no password
    plain = re.sub(r"[\s_-]", "", word.lower())
    for field in _FIELDS[level]:
        if plain == field.replace("_", ""):
            return field
    synonym = _SYNONYMS[level].get(plain)
    close = get_close_matches(word.lower(), _FIELDS[level], 1, 0.75)
    return synonym or (close[0] if close else None)


def _renamed(source: Source, entry: Entry, name: str) -> Fix | None:
    taken = {key.value for key in entry.parent.children[::2]}
    if entry.key is None or name in taken:
        return None
    return source.fix(f"rename the key to {name}", source.rewritten(entry.key.span, name))
