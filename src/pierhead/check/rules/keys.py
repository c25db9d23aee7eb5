"""Rules about the names of registries: the keys of `mirrors` and `configs`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pierhead.check.finding import Hit
from pierhead.check.names import HUB, HUB_ALIASES, WILDCARDS, Named, listed, renamed, spoken
from pierhead.check.rule import DOCUMENTATION, Example, rule
from pierhead.check.subject import Subject
from pierhead.config import k3s
from pierhead.config.near import bare
from pierhead.config.registries import Mirror, Text
from pierhead.gourl import InvalidUrl
from pierhead.reference import InvalidReference, Reference

_NAME: Final = re.compile(r"[^./\s]")  # what has nothing but dots and slashes is not even meant as a name
_QUOTES: Final = "'\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb`"


def _sections(subject: Subject) -> tuple[tuple[str, Named], ...]:
    return ("mirrors", subject.config.mirrors), ("configs", subject.config.configs)


def _split(name: str) -> tuple[str, str]:
    """Host and port; Go's own function refuses a name without a port."""
    host, _, port = name.rpartition(":")
    return (host, port) if host and port.isdigit() else (name, "")


# ── addresses ──


@rule(
    "R005",
    "address-as-key",
    "error",
    bad="""\
mirrors:
  "http://registry.lan:5000":
    endpoint:
      - "http://registry.lan:5000"
configs:
  "http://registry.lan:5000":
    auth:
      username: puller
      password: s3cr3t
""",
    good="""\
mirrors:
  "registry.lan:5000":
    endpoint:
      - "http://registry.lan:5000"
configs:
  "registry.lan:5000":
    auth:
      username: puller
      password: s3cr3t
""",
    sources=("k3s-io/k3s#13255", "rancher/rke2#4206", "k3s-io/k3s#12438"),
)
def address_as_key(subject: Subject) -> Iterator[Hit]:
    """The name of a registry is written as an address, with a scheme or a path.

    Names are what stands before the first slash of an image: `registry.lan:5000`, never `https://registry.lan:5000`
    and never `registry.lan/team`. K3s writes an entry with an address into a folder that containerd never looks into,
    so the mirror, the credentials and the certificates are not used, and nothing is logged. A mirror cannot serve a
    part of a registry either: what should happen to one path is a matter of `rewrite`.
    """
    # Rules of their own.
    others = {problem.span for problem in subject.problems_of("ambiguous-directory", "destructive-key")}
    for section, entries in _sections(subject):
        targets = [_without_address(key, section) for key in entries if _is_address(key)]
        for name, entry in entries.items():
            if not _is_address(name) or entry.key.span in others:
                continue
            target = _without_address(name, section)
            yield _address(subject, entry.key, section=section, target=target if targets.count(target) == 1 else "")


def _is_address(name: str) -> bool:
    return "/" in name and bool(_NAME.search(name))


def _without_address(name: str, section: str) -> str:
    """The name that was meant; empty if that cannot be told."""
    host = bare(name.lstrip("/"))
    path = name.strip().partition("://")[2] or name.strip()
    path = path.lstrip("/").partition("/")[2].strip("/")
    if section == "mirrors" and path not in ("", "v1", "v2"):
        return ""  # a part of a registry: perhaps all of it was not meant
    try:
        Reference.parse(f"{host}/a")
    except InvalidReference:
        return ""
    return HUB if host in HUB_ALIASES else host


def _address(subject: Subject, key: Text, *, section: str, target: str) -> Hit:
    taken: Named = dict(_sections(subject))[section]
    host = spoken(bare(key.value.lstrip("/")))
    fix = renamed(subject, key, target, taken=taken)
    if "://" not in key.value and key.value.endswith("/") and key.value.count("/") == 1:
        message = f"the key {spoken(key.value)} ends with a slash: its folder is found by luck, its credentials are not"
        return Hit(key.span, message, f"write {host}", fix, "warning")
    what = "is an address, not the name of a registry"
    if "://" not in key.value:
        what = "has a path, which no name of a registry has"
    message = f"the key {spoken(key.value)} {what}: the entry is never used"
    name = target or host
    remedy = f"write {name}" if target else f"write {name} without the path; to change paths, use rewrite"
    if target and target in taken:
        remedy = f"move what it holds into the entry {name}, which is there already"
    return Hit(key.span, message, remedy, fix)


@rule(
    "R006",
    "mirror-key-port",
    "warning",
    bad=Example(
        """\
mirrors:
  registry.lan:
    endpoint:
      - "http://registry.lan:5000"
""",
        images="registry.lan:5000/team/app:1\n",
    ),
    good=Example(
        """\
mirrors:
  "registry.lan:5000":
    endpoint:
      - "http://registry.lan:5000"
""",
        images="registry.lan:5000/team/app:1\n",
    ),
    sources=("k3s-io/k3s#10358", "k3s-io/k3s#1713"),
)
def mirror_key_port(subject: Subject) -> Iterator[Hit]:
    """The name of a mirror has another port than the images, or than its own endpoint, or none.

    The port is part of a registry's name: a mirror `registry.lan` serves `registry.lan/app` and never
    `registry.lan:5000/app`, not even if its endpoint has that port. For such an image K3s' file says nothing, and
    containerd asks https://registry.lan:5000 as if there were no mirror: `http: server gave HTTP response to HTTPS
    client`. With a list of images this is certain and a warning; without one it is a note, for images may well be
    named without the port.
    """
    images = listed(subject)
    by_host: dict[str, list[str]] = {}
    for registry in sorted(images):
        by_host.setdefault(_split(registry)[0], []).append(registry)
    for name, mirror in subject.config.mirrors.items():
        if name in images or name in WILDCARDS or _is_address(name):
            continue
        host, port = _split(name)
        unserved = [other for other in by_host.get(host, []) if other not in subject.config.mirrors]
        if unserved:
            message = (
                f"the images are called {_and(unserved)}, but the mirror is {spoken(name)}: it serves none of them"
            )
            target = unserved[0] if len(unserved) == 1 else ""
            fix = renamed(subject, mirror.key, target, taken=subject.config.mirrors)
            yield Hit(mirror.key.span, message, f"call the mirror {_or(unserved)}", fix)
        elif subject.circumstances.images is None and not port:
            yield from _port_of_endpoint(subject, mirror, host)


def _port_of_endpoint(subject: Subject, mirror: Mirror, host: str) -> Iterator[Hit]:
    for text in mirror.endpoints:
        other = bare(text.value)
        if _split(other)[0] != host or other == host or other in subject.config.mirrors:
            continue
        if _split(other)[1] in ("80", "443"):
            continue
        message = f"this mirror serves images called {spoken(host)}/…, and none that are called {spoken(other)}/…"
        remedy = f"call the mirror {spoken(other)} if your images are named with the port"
        yield Hit(mirror.key.span, message, remedy, severity="note")
        return


def _and(names: list[str]) -> str:
    shown_names = [f"{spoken(name)}/…" for name in names[:3]]
    return " and ".join(shown_names) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _or(names: list[str]) -> str:
    return " or ".join(spoken(name) for name in names[:3])


# ── names that are another registry's, or nobody's ──


@rule(
    "R043",
    "destructive-key",
    "error",
    bad="""\
mirrors:
  "..":
    endpoint:
      - "https://cache.example.com"
""",
    good="""\
mirrors:
  "*":
    endpoint:
      - "https://cache.example.com"
""",
    sources=(DOCUMENTATION,),
)
def destructive_key(subject: Subject) -> Iterator[Hit]:
    """The name leads out of the folder that K3s writes to, and K3s deletes what is there.

    K3s joins the name to the path of `certs.d` without a look at it, and empties the folder before it writes. An empty
    name, `~`, `.` or `/` is all of `certs.d`, the folders that you made yourself included; `..` is the folder above,
    with containerd's own configuration.
    """
    for problem in subject.problems_of("destructive-key"):
        assert problem.span is not None  # the dialect always says where
        span = problem.span
        entry = subject.source.entry_at(span)
        if entry is not None and not subject.source.slice(span) and entry.value.span.line == span.line:
            span = subject.source.span(*(subject.source.range(span)[0] + more for more in (0, 1)))
        deleted = problem.message.partition(" because of")[0]
        message = f"{deleted}, because this name does not stand for a folder of its own in certs.d"
        yield Hit(span, message, 'write the name of a registry, or "*" for all of them, or take the entry out')


@rule(
    "R052",
    "invalid-registry-key",
    "error",
    bad="""\
mirrors:
  "registry.lan:5000 ":
    endpoint:
      - "https://cache.example.com"
""",
    good="""\
mirrors:
  "registry.lan:5000":
    endpoint:
      - "https://cache.example.com"
""",
    sources=(DOCUMENTATION,),
)
def invalid_registry_key(subject: Subject) -> Iterator[Hit]:
    """K3s cannot read the name as that of a registry, and ignores the entry.

    It logs `Failed to generate config for registry` and goes on: images of that registry are pulled as if the entry
    were not there.
    """
    sections = dict(_sections(subject))
    seen = set()
    for problem in subject.problems_of("invalid-registry"):
        assert problem.span is not None  # the dialect always says where
        if problem.span in seen:
            continue
        seen.add(problem.span)
        for entries in sections.values():
            entry = next((each for each in entries.values() if each.key.span == problem.span), None)
            if entry is None or _is_address(entry.key.value):
                continue
            message = f"K3s cannot read {spoken(entry.key.value)} as the name of a registry and ignores the entry"
            meant = re.sub(r"[\s\"']+", "", entry.key.value)
            fix = renamed(subject, entry.key, meant, taken=entries) if _is_usable(meant) else None
            remedy = "write the name with at most a port after it, without spaces and quotes"
            yield Hit(entry.key.span, message, remedy, fix)


def _is_usable(name: str) -> bool:
    """Whether images can be called so, and K3s takes it for a name."""
    try:
        return Reference.parse(f"{name}/a/b").registry == name and bool(k3s.normalized(name)[0])
    except (InvalidReference, InvalidUrl):
        return False


@rule(
    "R053",
    "key-never-matches",
    "error",
    bad="""\
mirrors:
  "*.example.com":
    endpoint:
      - "https://cache.example.com"
""",
    good="""\
mirrors:
  "localhost":
    endpoint:
      - "http://localhost:5000"
  "[fd00::5]:5000":
    endpoint:
      - "http://[fd00::5]:5000"
""",
    sources=("https://github.com/distribution/reference", DOCUMENTATION),
)
def key_never_matches(subject: Subject) -> Iterator[Hit]:
    """No image can have this name before its first slash, so the mirror is never used.

    What stands before the first slash of an image is a registry only if it has a dot, a port or a capital letter, or
    is `localhost`: `team/app` is `docker.io/team/app`, so a mirror called `team` serves nothing. `*` stands for every
    registry, but only by itself: there are no patterns such as `*.example.com`. Names are compared letter by letter, so
    a capital letter serves only images that are written with it, which is a warning.
    """
    images = listed(subject)
    for name, mirror in subject.config.mirrors.items():
        if name in WILDCARDS or name in images or _is_address(name) or '"' in name:
            continue
        if not _NAME.search(name) or name in HUB_ALIASES or not mirror.endpoints:
            continue
        if name != name.lower() and _is_usable(name):
            message = f"the mirror {spoken(name)} serves only images that are written with these capitals"
            lower = HUB if name.lower() in HUB_ALIASES else name.lower()
            if not _is_usable(lower):  # in small letters it would be a part of Docker Hub
                yield Hit(mirror.key.span, message, _AS_IMAGES, severity="warning")
                continue
            fix = renamed(subject, mirror.key, lower, taken=subject.config.mirrors)
            yield Hit(mirror.key.span, message, f"write {spoken(lower)}", fix, "warning")
        elif not _is_usable(name) and _is_host(name):
            yield _never(subject, mirror, name)
    for name, config in subject.config.configs.items():
        if "*" in name and name != "*" and not _is_address(name) and _is_host(name):
            message = f"K3s takes {spoken(name)} literally: it knows no patterns, so no endpoint gets what stands here"
            yield Hit(config.key.span, message, "name the host of each endpoint")


def _is_host(name: str) -> bool:
    """Whether K3s makes an entry of it at all."""
    try:
        return bool(k3s.normalized(name)[1].host)
    except InvalidUrl:
        return False


_AS_IMAGES: Final = "write what stands before the first slash of your images"
_SHORT: Final = {"docker": HUB, "dockerhub": HUB, "ghcr": "ghcr.io", "quay": "quay.io", "gcr": "gcr.io"}


def _never(subject: Subject, mirror: Mirror, name: str) -> Hit:
    stripped = name.strip(_QUOTES).rstrip(":.")
    meant = _SHORT.get(name.lower(), stripped if stripped != name and _is_usable(stripped) else "")
    fix = renamed(subject, mirror.key, meant, taken=subject.config.mirrors)
    if "*" in name:
        message = f"K3s takes {spoken(name)} literally: it knows no patterns but * alone, so no image matches"
        return Hit(mirror.key.span, message, 'name each registry, or write "*" for all of them', fix)
    if re.fullmatch(r"[a-z0-9-]+", name):
        message = (
            f"{name} has no dot and no port, so {name}/app is an image of Docker Hub and this mirror is never used"
        )
        hosts = [bare(text.value) for text in mirror.endpoints]
        near = next((host for host in hosts if host.startswith((f"{name}.", f"{name}:"))), "")
        remedy = f"write {spoken(meant or near)}" if meant or near else _AS_IMAGES
        return Hit(mirror.key.span, message, remedy, fix)
    message = f"no image can have {spoken(name)} before its first slash, so this mirror is never used"
    remedy = f"write {spoken(meant)}" if meant else _AS_IMAGES
    return Hit(mirror.key.span, message, remedy, fix)
