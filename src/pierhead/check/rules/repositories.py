"""Rules on what rewrites do to names: which ones they change, and into what.

What is said here is proven by a repository name: one of the list of images, or one that the pattern was made for
(`patterns.samples`). Specification, section 6.1; differences, B15.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from pierhead.check.finding import Fix, Hit
from pierhead.check.names import spoken
from pierhead.check.patterns import (
    FOREIGN_GROUP,
    ReadRewrite,
    has_slash,
    is_anchored,
    knows,
    literal_prefix,
    literals,
    samples,
    visible,
)
from pierhead.check.rule import rule
from pierhead.check.subject import Subject
from pierhead.gourl import split_host_port
from pierhead.reference import HUB, OFFICIAL, is_repository
from pierhead.rewriting import compile_pattern, group_names

NAMES_LIMIT: Final = 4000  # invented names that the rewrites of one mirror are tried on
TRIES_LIMIT: Final = 40_000  # of a rewrite on such a name, for one mirror

_FOLDER: Final = re.compile(r"[a-z0-9][a-z0-9._-]*/")
_START: Final = re.compile(r"\^?([^/()^]+)/")
_SUFFIXES: Final = ("", "app")


def _usable(rewrites: Sequence[ReadRewrite]) -> list[ReadRewrite]:
    return [it for it in rewrites if it.compiled is not None and it.replacement is not None]


def _every(subject: Subject) -> Iterator[ReadRewrite]:
    for rewrites in subject.rewrites.values():
        yield from _usable(rewrites)


def _samples(it: ReadRewrite) -> list[str]:
    """Names of the mirror's registry that the pattern matches."""
    assert it.pattern is not None  # the caller has usable ones
    return [name for name in samples(it.pattern) if _exists(it.mirror.key.value, name)]


def _exists(registry: str, repository: str) -> bool:
    """Whether there can be such a repository; docker.io has none without a folder."""
    return registry != HUB or "/" in repository


def _listed(subject: Subject) -> Mapping[str, list[str]]:
    """The repositories of the list by the mirror that serves them, each once."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for image, plan in subject.routed:
        if plan.mirror is not None:
            found[plan.mirror.key][image.reference.repository] = None
    return {key: list(names) for key, names in found.items()}


# ── which names ──


@rule(
    "R016",
    "rewrite-unanchored",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "library/(.*)": "dockerhub/$1"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^library/(.*)": "dockerhub/$1"
""",
    sources=("k3s-io/k3s#11191",),
)
def rewrite_unanchored(subject: Subject) -> Iterator[Hit]:
    """The pattern looks like the start of a name, and matches in the middle of others, too.

    A pattern matches anywhere in the repository unless it starts with `^`: `library/(.*)` also changes
    `team/library/app`. Every match is replaced, not the first only.
    """
    listed = _listed(subject)
    for it in _every(subject):
        pattern = it.pattern or ""
        if not _lacks_anchor(pattern):
            continue
        inner = next((name for name in map("team/{}".format, _samples(it)) if it.result(name)), None)
        if inner and is_repository(inner):
            shown, result = visible(it.written.pattern.value), visible(it.result(inner) or "")
            message = f"{shown} matches anywhere in a name: it turns {inner} into {result[1:-1]}"
            fix = _anchored(subject, it, listed.get(it.mirror.key.value, ()))
            yield Hit(it.written.pattern.span, message, "begin the pattern with `^`", fix)


def _lacks_anchor(pattern: str) -> bool:
    """Whether a pattern looks like the start of a name, and is not held to it."""
    return not is_anchored(pattern) and _FOLDER.match(literal_prefix(pattern)) is not None


def _anchored(subject: Subject, it: ReadRewrite, listed: Sequence[str]) -> Fix | None:
    text = it.written.pattern
    new = f"^{text.value}"
    if _is_taken(it, new):
        return None
    anchored = compile_pattern(f"^{it.pattern}").engine
    if any(it.result(name) and not anchored.search(name) for name in listed):
        return None  # it may be meant so
    return subject.source.fix("begin the pattern with `^`", subject.source.rewritten(text.span, new))


@rule(
    "R017",
    "overlapping-rewrites",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^rancher/(.*)$": "k3s/$1"
      "^(.*)$": "dockerhub/$1"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^rancher/(.*)$": "k3s/$1"
      "^library/(.*)$": "dockerhub/$1"
""",
    sources=("rancher/rke2#3227",),
)
def overlapping_rewrites(subject: Subject) -> Iterator[Hit]:
    """Two rewrites can change the same name, and which one does is left to chance.

    The first rule that changes a name wins, but there is no first: containerd holds the rules in a map and walks it in
    a new random order for every request, whatever their order in the file. The requests of a single pull can take
    different rules, so that the manifest is found and a layer is not. Rules that come to the same result do no harm.

    Make the patterns exclude each other. There is no look-ahead to say "all but rancher": name what each rule is for.
    """
    listed = _listed(subject)
    for key, rewrites in subject.rewrites.items():
        usable = _usable(rewrites)
        if len(usable) > 1:
            yield from _overlaps(usable, [*listed.get(key, ()), *_invented(usable)])


def _invented(rewrites: Sequence[ReadRewrite]) -> list[str]:
    """Names to try the rules on: those each is made for, and what begins as one rule wants and goes on as another."""
    own = {name: None for it in rewrites for name in _samples(it)[:4]}
    loose = [it for it in rewrites if not _fixed_start(it)]
    starts = {start for it in rewrites if (start := _fixed_start(it))}
    inner = [name for it in loose for name in (*_samples(it)[:2], literal_prefix(it.pattern or ""))]
    joined = (start + end + more for start in sorted(starts) for end in inner for more in _SUFFIXES)
    registry = rewrites[0].mirror.key.value
    limit = min(NAMES_LIMIT, TRIES_LIMIT // (len(loose) + 1))
    return [name for name in islice(chain(own, joined), limit) if is_repository(name) and _exists(registry, name)]


def _fixed_start(it: ReadRewrite) -> str:
    """How every name begins that a rule is for. One that only lacks its anchor is for such names, too: that others
    match is another rule's finding."""
    pattern = it.pattern or ""
    return literal_prefix(pattern) if is_anchored(pattern) or _lacks_anchor(pattern) else ""


def _overlaps(rewrites: Sequence[ReadRewrite], names: Sequence[str]) -> Iterator[Hit]:
    """A hit for each rule that may take a name from a rule before it, with the first name that shows it."""
    index = _Index(rewrites)
    told: set[int] = set()
    for name in names:
        changed = [(number, result) for number in index.candidates(name) if (result := rewrites[number].result(name))]
        for number, result in changed[1:]:
            first, wanted = changed[0]
            if result != wanted and number not in told:
                told.add(number)
                yield _overlap(rewrites[first], rewrites[number], name, (wanted, result))


class _Index:
    """Which rules may change a name: those without a fixed start, and those whose start it has."""

    def __init__(self, rewrites: Sequence[ReadRewrite]) -> None:
        self._starting: dict[str, list[int]] = defaultdict(list)
        for number, it in enumerate(rewrites):
            self._starting[_fixed_start(it)].append(number)
        self._lengths = sorted({len(start) for start in self._starting})

    def candidates(self, name: str) -> list[int]:
        starts = (name[:length] for length in self._lengths if length <= len(name))
        return sorted(number for start in starts for number in self._starting.get(start, ()))


def _overlap(first: ReadRewrite, second: ReadRewrite, name: str, results: tuple[str, str]) -> Hit:
    place = first.written.pattern.span.line
    return Hit(
        second.written.pattern.span,
        f"{name} becomes {visible(results[1])[1:-1]} by {visible(second.written.pattern.value)} or "
        f"{visible(results[0])[1:-1]} by {visible(first.written.pattern.value)} (line {place}): containerd takes "
        "either, at random for every request",
        "make the patterns exclude each other; the order of the file does not count",
    )


@rule(
    "R020",
    "docker-library",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^nginx$": "web/nginx"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^library/nginx$": "web/nginx"
""",
    sources=("docker/for-linux#754",),
)
def docker_library(subject: Subject) -> Iterator[Hit]:
    """The pattern matches no image of docker.io, whose short names are below `library/`.

    `nginx` is `docker.io/library/nginx`, and `library/nginx` is what the pattern is held against. There is no
    repository of docker.io without a slash. So the endpoint is asked for the image under its own name.
    """
    for it in subject.rewrites.get(HUB, ()):
        if names := misses_library(it):
            shown = visible(it.written.pattern.value)
            yield Hit(
                it.written.pattern.span,
                f"{shown} matches no image of docker.io, where {names[0]} is {OFFICIAL}{names[0]}",
                f"begin the pattern with `^{OFFICIAL}`",
                _with_library(subject, it, names[0]),
            )


def misses_library(it: ReadRewrite) -> Sequence[str]:
    """The short names that a rewrite of docker.io is written for, and misses; () if it is not that kind."""
    pattern = it.pattern or ""
    if it.mirror.key.value != HUB or it.compiled is None or not pattern.endswith("$"):
        return ()
    return samples(pattern) if is_anchored(pattern) and not has_slash(pattern) else ()


def _with_library(subject: Subject, it: ReadRewrite, name: str) -> Fix | None:
    text, pattern = it.written.pattern, it.pattern or ""
    new = f"^{OFFICIAL}{text.value.removeprefix('^')}"
    if not (text.value.startswith("^") and pattern.startswith("^")) or _is_taken(it, new):
        return None
    if not compile_pattern(f"^{OFFICIAL}{pattern.removeprefix('^')}").engine.search(f"{OFFICIAL}{name}"):
        return None
    return subject.source.fix(f"write {visible(new)}", subject.source.rewritten(text.span, new))


def _is_taken(it: ReadRewrite, pattern: str) -> bool:
    """Whether the mirror has a rewrite with this pattern already."""
    return any(other.pattern.value == pattern for other in it.mirror.rewrites)


@rule(
    "R091",
    "rewrite-expects-more-than-repository",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^docker.io/(.*)": "dockerhub/$1"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^(.*)": "docker.io/$1"
""",
    sources=("k3s-io/k3s#11191",),
)
def rewrite_expects_more(subject: Subject) -> Iterator[Hit]:
    """The pattern expects what is not in a repository's name: a registry, a tag, or capitals.

    A pattern is held against the repository only: of `docker.io/library/redis:7` that is `library/redis`. The registry
    is the mirror's key, and the tag stays as it is. A pattern that wants more matches nothing, so the endpoint is asked
    for the image under its own name.
    """
    for it in (it for rewrites in subject.rewrites.values() for it in rewrites):
        key, text = it.mirror.key.value, it.written.pattern
        if start := _registry_start(it):
            message = (
                f"{visible(text.value)} expects the registry {key}, but patterns see only the repository behind it"
            )
            yield Hit(text.span, message, f"leave `{start[1]}/` out", _without_start(subject, it, start))
        elif odd := _never(it):
            message = f"{visible(text.value)} matches nothing: no repository's name has {_character(odd[0])} in it"
            yield Hit(text.span, message, "write lower case, without the registry's port and without the tag")


def expects_more(it: ReadRewrite) -> bool:
    """Whether a rewrite expects what is in no repository's name."""
    return bool(_registry_start(it) or _never(it))


def _registry_start(it: ReadRewrite) -> re.Match[str] | None:
    start = _START.match(it.written.pattern.value)
    if start is None or re.sub(r"\\{1,2}\.|\[\.\]", ".", start[1]) != it.mirror.key.value:
        return None
    return start


def _never(it: ReadRewrite) -> re.Match[str] | None:
    return re.search("[^a-z0-9._/\x00-\x1f\x7f-]", literal_prefix(it.pattern or "") if it.compiled else "")


def _without_start(subject: Subject, it: ReadRewrite, start: re.Match[str]) -> Fix | None:
    text = it.written.pattern
    new = f"^{text.value[start.end() :]}"
    if _is_taken(it, new) or not text.value[start.end() :]:
        return None
    return subject.source.fix(f"write {visible(new)}", subject.source.rewritten(text.span, new))


# ── into what ──


@dataclass(frozen=True, slots=True)
class _Flaw:
    """What is wrong with what comes out; `new` is the replacement without it, if that is plain."""

    message: str
    remedy: str
    new: str | None = None
    is_error: bool = True


@rule(
    "R019",
    "rewrite-invalid-repository",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan:8443
    rewrite:
      "^library/(.*)": "harbor.lan:8443/DockerHub/$1"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan:8443
    rewrite:
      "^library/(.*)": "docker.io/docker-hub/$1"
""",
    sources=("k3d-io/k3d#1179",),
)
def rewrite_invalid_repository(subject: Subject) -> Iterator[Hit]:
    """A rewrite makes a name that no repository can have.

    containerd does not look at what comes out. It is put into the path of the request: capitals are sent as they are,
    and registries refuse them; a `?` begins the query; a space is escaped. Slashes at the start and doubled ones
    vanish, which does no harm there, but RKE2's bootstrap puller refuses such a name. Nothing at all asks for
    `/v2/manifests/…`. The registry is no part of the name, for the endpoint says it.
    """
    listed, hosts = _listed(subject), _hosts(subject)
    for it in _every(subject):
        if FOREIGN_GROUP.search(it.written.replacement.value):
            continue  # another rule's
        flaw = _host_flaw(it, hosts) or _character_flaw(it) or _slash_flaw(it) or _result_flaw(it, listed)
        if flaw is None:
            continue
        text = it.written.replacement
        fix = None
        if flaw.new and "\\" not in text.value:
            edit = subject.source.rewritten(text.span, flaw.new)
            fix = subject.source.fix(f"write {visible(flaw.new)}", edit)
        yield Hit(text.span, flaw.message, flaw.remedy, fix, "error" if flaw.is_error else "warning")


def _host_flaw(it: ReadRewrite, hosts: Mapping[str, set[str]]) -> _Flaw | None:
    text = it.written.replacement.value
    start, slash, rest = text.partition("/")
    name = start.lower()
    if not slash or not rest or name not in hosts.get(it.mirror.key.value, ()):
        return None
    message = f"{visible(text)} begins with {spoken(start)}, the endpoint: it becomes a folder of that registry"
    return _Flaw(message, f"leave {spoken(start)}/ out", rest, is_error=":" in start)


def _hosts(subject: Subject) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for endpoint in subject.endpoints:
        host = endpoint.host.lower()
        found[endpoint.mirror.key.value] |= {host, split_host_port(host)[0] or host}
    return found


def _character_flaw(it: ReadRewrite) -> _Flaw | None:
    # A group is a NUL in the literals; control characters come from backslashes, another rule's business.
    odd = re.search(r"[^a-z0-9._/\x00-\x1f\x7f-]", literals(it.replacement or ""))
    if odd is None:
        return None
    text = it.written.replacement.value
    shown = visible(text)
    if odd[0].isupper() and odd[0].isascii():
        lower = re.sub(r"\$\$|\$\{[^}]*\}|\$\w+|[A-Z]+", lambda found: _lowered(found[0]), text)
        return _Flaw(f"{shown} has capitals, which no registry takes in a name", f"write {visible(lower)}", lower)
    what = {"?": "begins the query of the request", ":": "belongs to a port or a tag"}.get(odd[0], "is not allowed")
    return _Flaw(f"{shown} puts {_character(odd[0])} into the repository's name, where it {what}", "leave it out")


def _character(text: str) -> str:
    return "a space" if text == " " else visible(text)


def _lowered(piece: str) -> str:
    return piece if piece.startswith("$") else piece.lower()


def _slash_flaw(it: ReadRewrite) -> _Flaw | None:
    text, literal = it.written.replacement.value, literals(it.replacement or "")
    new = re.sub("/{2,}", "/", text)
    shown = visible(text)
    if literal.startswith("/") and _starts_names(it):
        new = new.removeprefix("/")
        return _Flaw(f"{shown} makes a name that starts with a slash", "leave the slash out", new, is_error=False)
    if new != text:
        return _Flaw(f"{shown} makes a name with an empty part", "leave one slash out", new, is_error=False)
    if any(part in (".", "..") for part in literal.split("/")):
        message = f"{shown} has a part of dots, which takes the request out of its folder, maybe out of the API"
        return _Flaw(message, "write the name without such a part", is_error=False)
    return None


def _starts_names(it: ReadRewrite) -> bool:
    names = _samples(it)
    return bool(names) and all((it.result(name) or "").startswith("/") for name in names)


def _result_flaw(it: ReadRewrite, listed: Mapping[str, Sequence[str]]) -> _Flaw | None:
    """What a look at the replacement alone does not tell. Unknown groups are the business of another rule."""
    assert it.compiled is not None  # it is usable
    if not all(knows(it.compiled, name) for name in group_names(it.replacement or "")):
        return None
    for name in listed.get(it.mirror.key.value, ()):
        result = it.result(name)
        if result is not None and not is_repository(result.strip("/")):
            return _unusable_result(name, result)
    results = [(name, result) for name in _samples(it) if (result := it.result(name)) is not None]
    if results and not any(is_repository(result.strip("/")) for _, result in results):
        return _unusable_result(*results[0])
    return None


def _unusable_result(name: str, result: str) -> _Flaw:
    if not result.strip("/"):
        return _Flaw(f"nothing is left of {name}", "keep a part of the name in a group, as $1")
    return _Flaw(f"{name} becomes {visible(result)}, which is no repository's name", "correct the replacement")
