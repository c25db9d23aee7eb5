"""Rules about names that mean something special: the wildcard, Docker Hub, and registries that were given up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pierhead.check.finding import Hit
from pierhead.check.names import HUB, HUB_ALIASES, NEVER_HUB, WILDCARDS, listed, renamed
from pierhead.check.rule import DOCUMENTATION, rule
from pierhead.check.subject import Subject
from pierhead.errors import Severity


@rule(
    "R021",
    "wildcard",
    "error",
    bad="""\
mirrors:
  *:
    endpoint:
      - "https://cache.example.com"
""",
    good="""\
mirrors:
  "*":
    endpoint:
      - "https://cache.example.com"
""",
    sources=("https://docs.k3s.io/installation/private-registry#wildcard-support",),
)
def wildcard(subject: Subject) -> Iterator[Hit]:
    """The `*` has no quotes around it, so the file is not YAML.

    A `*` begins a reference to an anchor in YAML. Without quotes the file cannot be read, K3s does not start on this
    node, and waits until it is corrected.
    """
    found = subject.slip
    if found is not None and found.kind == "wildcard":
        yield found.hit


@rule(
    "R035",
    "wildcard-overlap",
    "warning",
    bad="""\
mirrors:
  "*":
    endpoint:
      - "https://cache.example.com"
  _default:
    endpoint:
      - "https://other.example.com"
""",
    good="""\
mirrors:
  "*":
    endpoint:
      - "https://cache.example.com"
  quay.io:
    endpoint:
      - "https://other.example.com"
""",
    sources=(DOCUMENTATION,),
)
def wildcard_overlap(subject: Subject) -> Iterator[Hit]:
    """Two entries are written to the same folder, or one to that of the wildcard.

    K3s writes `"*"` to a folder called `_default`, and `registry.lan/` to that of `registry.lan`. If both names of a
    folder are there, one of them is lost, and which one changes from start to start. An entry called `_default` alone
    works like the wildcard, but has the endpoint `https://_default/v2` in the last place, which nobody can ask.
    """
    seen = set()
    for problem in subject.problems_of("ambiguous-directory"):
        assert problem.span is not None  # the dialect always says where
        if problem.span in seen:
            continue
        seen.add(problem.span)
        yield Hit(problem.span, problem.message, "keep one of the two")
    mirrors = subject.config.mirrors
    lone = mirrors.get("_default")
    if lone is not None and lone.endpoints and lone.key.span not in seen and "*" not in subject.config.configs:
        message = "no registry is called _default: K3s adds https://_default/v2 to its endpoints"
        yield Hit(lone.key.span, message, 'write "*"', renamed(subject, lone.key, "*", taken=mirrors))


DEPRECATED: Final = {
    "k8s.gcr.io": (
        "registry.k8s.io",
        "has been frozen since April 2023; Kubernetes' images come from registry.k8s.io",
    ),
    "docker.pkg.github.com": ("ghcr.io", "has been replaced by ghcr.io"),
}


@rule(
    "R029",
    "deprecated-registry",
    "note",
    bad="""\
mirrors:
  k8s.gcr.io:
    endpoint:
      - "https://cache.example.com"
""",
    good="""\
mirrors:
  registry.k8s.io:
    endpoint:
      - "https://cache.example.com"
""",
    sources=("https://kubernetes.io/blog/2023/02/06/k8s-gcr-io-freeze-announcement/",),
)
def deprecated_registry(subject: Subject) -> Iterator[Hit]:
    """The registry has been given up in favour of another one.

    Old images may still be asked for by the old name, so a mirror for it does no harm; but it does not serve the new
    name, under which everything recent is published. Only if the new name has no mirror, and there is no wildcard, is
    this a warning: those images are fetched past the mirror. An image of a list that has the old name is a note.
    """
    mirrors = subject.config.mirrors
    for name, (successor, why) in DEPRECATED.items():
        mirror = mirrors.get(name)
        if mirror is not None:
            bypassed = bool(mirror.endpoints) and not {successor, *WILDCARDS} & {*mirrors}
            severity: Severity = "warning" if bypassed else "note"
            remedy = f"add a mirror for {successor}" if bypassed else f"keep it as long as images are called {name}/…"
            yield Hit(mirror.key.span, f"{name} {why}", remedy, severity=severity)
    for image in subject.circumstances.images or ():
        found = DEPRECATED.get(image.reference.registry)
        if found:
            yield Hit(image.span, f"{image.reference.registry} {found[1]}", f"take the image from {found[0]}")


@rule(
    "R030",
    "docker-hub-alias",
    "error",
    bad="""\
mirrors:
  registry-1.docker.io:
    endpoint:
      - "https://cache.example.com"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.example.com"
configs:
  registry-1.docker.io:
    auth:
      username: puller
      password: s3cr3t
""",
    sources=("k3s-io/k3s#12438", DOCUMENTATION),
)
def docker_hub_alias(subject: Subject) -> Iterator[Hit]:
    """Docker Hub has a name that no image has: it is called `docker.io`.

    `nginx`, `library/nginx` and even `index.docker.io/library/nginx` all become `docker.io/library/nginx` before a
    mirror is looked for, so a mirror called `index.docker.io` is never used, and one called `registry-1.docker.io` or
    `registry.hub.docker.com` only for images that are spelled so. `hub.docker.com` is a web page. If `docker.io` has a
    mirror as well, the other names do no harm. In `configs` all but the web page are names that can be meant.
    """
    mirrors, configs = subject.config.mirrors, subject.config.configs
    for name in HUB_ALIASES:
        mirror = mirrors.get(name)
        if mirror is not None and name not in listed(subject):
            harmless = HUB in mirrors
            message = f"images of Docker Hub are called docker.io/…, so a mirror called {name} does not serve them"
            remedy = "take it out: docker.io has a mirror" if harmless else "call the mirror docker.io"
            fix = renamed(subject, mirror.key, HUB, taken=mirrors)
            yield Hit(mirror.key.span, message, remedy, fix, "note" if harmless else None)
    used = {endpoint.lookup for endpoint in subject.endpoints}
    for name in NEVER_HUB:
        config = configs.get(name)
        if config is not None and name not in used:
            message = f"{name} is a web page, and no image is pulled from it"
            fix = renamed(subject, config.key, HUB, taken=configs)
            yield Hit(config.key.span, message, "call the entry docker.io, as Docker Hub is called here", fix)
