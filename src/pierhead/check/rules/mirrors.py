"""Rules about a mirror as a whole: its list of endpoints, and whether containerd can read what K3s writes for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pierhead.check.finding import Hit
from pierhead.check.lookups import breaks_toml, bringing_back, is_unreadable
from pierhead.check.misplaced import slipped_from
from pierhead.check.names import spoken
from pierhead.check.rule import Example, rule
from pierhead.check.rules.endpoints import is_bare_ipv6
from pierhead.check.source import Entry
from pierhead.check.subject import Subject, UsedEndpoint
from pierhead.config.containerd import is_localhost
from pierhead.config.k3s import normalized
from pierhead.config.near import bare
from pierhead.config.registries import Mirror, Text
from pierhead.errors import Problem
from pierhead.gourl import InvalidUrl

_FATAL: Final = ("tls-without-mirror-lost", "duplicate-endpoint-fatal")  # releases that write a broken hosts.toml
_FLAG: Final = "--disable-default-registry-endpoint"

# ── what is listed ──


@rule(
    "R012",
    "default-endpoint-listed",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://registry-1.docker.io"
      - "https://cache.corp.example:5000"
      - "https://cache.corp.example:5000/v2"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
""",
    sources=("k3s-io/k3s#9626", "k3s-io/k3s#9694"),
)
def default_endpoint_listed(subject: Subject) -> Iterator[Hit]:
    """An endpoint is listed twice, or is the registry's own and need not be listed.

    K3s leaves out an endpoint that is the same URL as one before it (`cache.lan`, `https://cache.lan` and
    `https://cache.lan/v2` are the same). The registry itself is asked last in any case. Listed in last place it changes
    nothing (a note); before others it is asked first, and again at the end, so that the mirrors behind it are only
    asked when it fails. With --disable-default-registry-endpoint a listed one is asked like any other; nothing is said.
    """
    repeated = {problem.span for problem in subject.problems_of("duplicate-endpoint")}
    for mirror in subject.config.mirrors.values():
        first: dict[str, Text] = {}
        default = _default(mirror)
        for endpoint in subject.endpoints_of(mirror):
            earlier = first.setdefault(str(endpoint.url), endpoint.text)
            if earlier is not endpoint.text and endpoint.text.span in repeated:
                yield _repeated(subject, endpoint, earlier)
            elif str(endpoint.url) == default and not subject.flags.disable_default_registry_endpoint:
                yield from _own(endpoint)


def _repeated(subject: Subject, endpoint: UsedEndpoint, earlier: Text) -> Hit:
    where = f"in line {earlier.span.line}" if earlier.span.line != endpoint.text.span.line else "before it"
    entry = subject.source.entry_at(endpoint.text.span)
    fix = subject.source.fix("take the second one out", subject.source.cut(entry)) if entry else None
    message = f"this is the same endpoint as the one {where}, and K3s leaves it out"
    return Hit(endpoint.text.span, message, "take one of them out", fix)


def _own(endpoint: UsedEndpoint) -> Iterator[Hit]:
    name, mirror = spoken(endpoint.mirror.key.value), endpoint.mirror
    if mirror.endpoints[-1] is not endpoint.text:
        message = f"this is {name} itself: the mirrors behind it are asked only if it fails, and then it is asked again"
        remedy = "take it out: the registry itself is asked after its mirrors in any case"
        yield Hit(endpoint.text.span, message, remedy)
    elif not mirror.rewrites:  # that they are lost is a rule of its own
        message = f"this is {name} itself, which is asked last in any case"
        yield Hit(endpoint.text.span, message, "take it out, or leave it: it changes nothing", severity="note")


def _default(mirror: Mirror) -> str | None:
    """The URL of a registry's own endpoint, as K3s writes it; None if the key names no registry."""
    try:
        is_name = mirror.key.value != "*" and bare(mirror.key.value) == mirror.key.value
        return str(normalized(mirror.key.value)[1]) if is_name else None
    except InvalidUrl:
        return None


@rule(
    "R022",
    "mirror-without-endpoint",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint: []
""",
    good=Example(
        """\
mirrors:
  docker.io:
  registry.k8s.io:
""",
        flags=("--embedded-registry 127.0.0.1:6443",),
    ),
    sources=(
        "https://docs.k3s.io/installation/registry-mirror",
        "https://docs.k3s.io/installation/private-registry#mirrors",
    ),
)
def mirror_without_endpoint(subject: Subject) -> Iterator[Hit]:
    """A mirror has no endpoint, so it has no effect.

    K3s writes nothing for it: its images come from the registry itself, its rewrites apply to nothing, and if there is
    a mirror `"*"`, its images go there. With the embedded registry (`--embedded-registry`) a mirror without endpoints
    is right: that is how a registry is named whose images the nodes share. So a mirror that has nothing at all below it
    is only a note.
    """
    empty = [mirror for mirror in subject.config.mirrors.values() if not mirror.endpoints]
    if subject.flags.disable_default_registry_endpoint or not empty:
        return  # "default-endpoint-stays" says it
    moved = slipped_from(subject.source)
    keys = {entry.path: entry for entry in subject.source.entries if entry.path[2:] == ("endpoint",)}
    for mirror in empty:
        if ("mirrors", mirror.key.value) in moved:
            continue  # it has one, in a wrong place, or is no mirror
        if subject.flags.embedded_registry is None or is_localhost(mirror.key.value):
            yield _without_endpoint(subject, mirror, keys.get(("mirrors", mirror.key.value, "endpoint")))


def _without_endpoint(subject: Subject, mirror: Mirror, entry: Entry | None) -> Hit:
    name, wildcard = mirror.key.value, subject.config.mirrors.get("*")
    span = entry.start if entry else mirror.key.span
    if mirror.rewrites:
        message = f"the mirror {spoken(name)} has rewrites but no endpoint that they could apply to"
        return Hit(span, message, "add an endpoint")
    if wildcard and wildcard.endpoints and name != "*" and name not in subject.config.configs:
        line = wildcard.key.span.line
        message = f'without an endpoint this does not keep {spoken(name)} from the mirror "*" in line {line}'
        return Hit(span, message, f"list https://{spoken(name)} as its endpoint to have its images pulled from there")
    message = f"the mirror {spoken(name)} has no endpoint, so it has no effect"
    if entry is not None:
        return Hit(span, message, "add an endpoint to the list, or take the mirror out")
    remedy = "add an endpoint, or take the mirror out, unless K3s runs with --embedded-registry"
    return Hit(span, message, remedy, severity="note")


@rule(
    "R045",
    "last-endpoint-no-host",
    "error",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
      - "/v2"
""",
        flags=("--disable-default-registry-endpoint",),
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
      - "cache-2.corp.example"
""",
        flags=("--disable-default-registry-endpoint",),
    ),
    sources=("https://docs.k3s.io/installation/private-registry#default-endpoint-fallback",),
)
def last_endpoint_without_host(subject: Subject) -> Iterator[Hit]:
    """The last endpoint names no host, which brings the default endpoint back.

    An endpoint such as `""`, `https://` or `/v2` is written with an empty host. If it is the last one and the default
    endpoint is disabled, containerd puts the registry itself in its place: images leave for the internet although they
    should not.
    """
    lists = [mirror.endpoints for mirror in subject.config.mirrors.values()]
    alone = {endpoints[0].span for endpoints in lists if len(endpoints) == 1}
    for text in bringing_back(subject):
        entry = subject.source.entry_at(text.span)
        edit = subject.source.cut(entry) if entry and text.span not in alone else None
        fix = subject.source.fix("take it out", edit)
        message = f"this endpoint names no host: containerd asks the registry itself in its place, in spite of {_FLAG}"
        yield Hit(text.span, message, "write the host in full (https://host:port), or take the endpoint out", fix)


# ── what cannot be written or read ──


@rule(
    "R046",
    "unreadable-hosts-toml",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - 'https://cache.corp.example"'
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example"
""",
    sources=("kairos-io/kairos#3738", "https://docs.k3s.io/installation/private-registry"),
)
def unreadable_hosts_toml(subject: Subject) -> Iterator[Hit]:
    """A character in a name or an endpoint makes containerd drop the whole mirror.

    K3s writes names and endpoints between quotes as they are. A quote, a backslash or a control character among them
    makes the hosts.toml unreadable; containerd logs that and goes on as if there were none: no mirror of this registry
    is asked, but the registry itself, even if its default endpoint is disabled.
    """
    for problem in subject.problems_of("unusable-hosts-toml"):
        mirror = _mirror_at(subject, problem)
        if mirror is not None and not _is_told(subject, mirror):
            yield from _unreadable(subject, mirror)


def _is_told(subject: Subject, mirror: Mirror) -> bool:
    """Whether it is a fault of the release that was named: of the same texts others make a sound file."""
    if any(is_unreadable(text.value) for text in (mirror.key, *mirror.endpoints)):
        return False
    config = subject.config.configs.get(mirror.key.value)
    spans = {text.span for text in mirror.endpoints} | ({config.tls.span} if config and config.tls else set())
    return any(problem.span in spans for problem in subject.unsupported if problem.id in _FATAL)


def _mirror_at(subject: Subject, problem: Problem) -> Mirror | None:
    """The mirror whose key a problem points at; those that point at a rewrite are another rule's."""
    entry = subject.source.entry_at(problem.span) if problem.span else None
    if entry is None or entry.key is None or len(entry.path) != 2:
        return None
    name = str(entry.path[1])
    config = subject.config.configs.get(name)
    return subject.config.mirrors.get(name) or (Mirror(config.key) if config else None)


def _unreadable(subject: Subject, mirror: Mirror) -> Iterator[Hit]:
    ignored = "containerd cannot read what K3s writes for this mirror, and asks none of its endpoints"
    texts = [text for text in mirror.endpoints if is_unreadable(text.value)]
    for text in texts or [mirror.key]:
        if texts and is_bare_ipv6(text.value):
            continue  # a rule of its own
        bare = text.value.strip("\"'\\")
        is_stray = bare not in ("", text.value) and not is_unreadable(bare) and "@" not in bare
        edit = subject.source.rewritten(text.span, bare) if is_stray else None
        what = "a quote, backslash or control character stands here" if breaks_toml(text.value) else "this is not a URL"
        yield Hit(
            text.span,
            f"{what}: {ignored}",
            f"write {spoken(bare)}" if is_stray else "write a host and port, and nothing else",
            subject.source.fix("take the stray character out", edit),
        )


@rule(
    "R048",
    "too-long",
    "error",
    bad=f"""\
mirrors:
  {"registry." * 30}example:
    endpoint:
      - "https://cache.corp.example"
""",
    good=f"""\
mirrors:
  {"registry." * 20}example:
    endpoint:
      - "https://cache.corp.example"
""",
    sources=("https://docs.k3s.io/installation/private-registry",),
)
def too_long(subject: Subject) -> Iterator[Hit]:
    """A name or a line is too long for K3s to write its files, so that containerd does not start.

    A registry's name becomes the name of a folder (at most 255 bytes), and no line of a hosts.toml may have 64 KiB.
    K3s fails to write the files, and the node does not come up.
    """
    for problem in subject.problems_of("cannot-render"):
        if problem.span is not None:
            cause, remedy = _too_long(problem)
            yield Hit(problem.span, f"{cause}: K3s cannot write its files, and containerd does not start", remedy)


def _too_long(problem: Problem) -> tuple[str, str]:
    if "file name" in problem.message:
        return "this name is longer than the 255 bytes that a folder's name may have", "write a shorter name"
    return "a line of this mirror's hosts.toml has more than 64 KiB", "write a shorter endpoint or rewrite"
