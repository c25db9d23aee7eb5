"""Rules on a list of images: what it says of the file, and what is wrong with the list.

Every route is `Subject.plan`'s, so what is said here is what `pierhead explain` shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pierhead.check.finding import Hit
from pierhead.check.names import spoken
from pierhead.check.patterns import ReadRewrite, visible
from pierhead.check.rule import DOCUMENTATION, Example, rule
from pierhead.check.rules.egress import HUB_NAMES, NEAR_LIMIT, image_of, is_served
from pierhead.check.rules.repositories import expects_more, misses_library
from pierhead.check.subject import Subject
from pierhead.config.near import Near, nearest
from pierhead.errors import Span
from pierhead.gourl import path_clean

if TYPE_CHECKING:
    from pierhead.image_list import ListedImage
    from pierhead.routing import Route

# ── what the list says of the file ──


@rule(
    "R038",
    "unused-mirror",
    "note",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
  registry.k8s.io:
    endpoint:
      - https://harbor.lan
""",
        images="docker.io/rancher/mirrored-pause:3.6\n",
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
""",
        images="redis\n",
    ),
    sources=(DOCUMENTATION,),
)
def unused_mirror(subject: Subject) -> Iterator[Hit]:
    """No image of the list uses a mirror.

    It may be there for other images. If the list has images of a registry with nearly that name and without a mirror,
    it is a warning: registries are compared letter by letter, ports included.
    """
    if not subject.routed:
        return
    registries = {image.reference.registry for image, _ in subject.routed}
    used = registries | {plan.mirror.key for _, plan in subject.routed if plan.mirror}
    without = sorted(registries - set(subject.config.mirrors))[:NEAR_LIMIT]
    unused = [mirror for key, mirror in subject.config.mirrors.items() if key not in used and image_of(key)]
    for number, mirror in enumerate(unused):
        near = nearest(mirror.key.value, without) if number < NEAR_LIMIT else None
        if mirror.key.value not in HUB_NAMES and not (near and near.slip == "port"):  # other rules' business
            yield _unused(mirror.key.value, mirror.key.span, near)


def _unused(key: str, span: Span, near: Near | None) -> Hit:
    if near:
        message = f"no image of the list is of {spoken(key)}, but some are of {near.name}, which has no mirror"
        return Hit(span, message, f"write {near.name} if that is meant", None, "warning")
    return Hit(span, f"no image of the list is of {spoken(key)}", "take the mirror out if nothing else needs it")


@rule(
    "R059",
    "rewrite-never-applies",
    "warning",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^ranchers/(.*)": "k3s/$1"
""",
        images="docker.io/rancher/mirrored-pause:3.6\ndocker.io/rancher/k3s-upgrade:v1.32.0-k3s1\n",
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^rancher/(.*)": "k3s/$1"
""",
        images="docker.io/rancher/mirrored-pause:3.6\ndocker.io/rancher/k3s-upgrade:v1.32.0-k3s1\n",
    ),
    sources=(DOCUMENTATION,),
)
def rewrite_never_applies(subject: Subject) -> Iterator[Hit]:
    """A rewrite changes no image of the list, though its mirror serves some.

    Patterns are held against the repository: without the registry, without the tag, and of docker.io with `library/`.
    """
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for image, plan in subject.routed:
        if plan.mirror is not None and is_served(plan):
            names[plan.mirror.key][image.reference.repository] = None
    for key, repositories in names.items():
        for it in subject.rewrites.get(key, ()):
            if _may_apply(it) and not any(map(it.result, repositories)):
                pattern = it.written.pattern
                message = f"{visible(pattern.value)} changes none of the {len(repositories)} repositories of the list"
                yield Hit(
                    pattern.span, message, f"correct it: it is held against names such as {next(iter(repositories))}"
                )


def _may_apply(it: ReadRewrite) -> bool:
    """Whether no other rule says already that it does not."""
    if it.compiled is None or it.replacement is None:
        return False
    return not misses_library(it) and not expects_more(it)


@rule(
    "R058",
    "image-collision",
    "error",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^.*/": "mirror/"
""",
        images="docker.io/library/redis:7\ndocker.io/bitnami/redis:7\n",
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^(.*)/": "mirror/$1/"
""",
        images="docker.io/library/redis:7\ndocker.io/bitnami/redis:7\n",
    ),
    sources=(DOCUMENTATION,),
)
def image_collision(subject: Subject) -> Iterator[Hit]:
    """Two images of the list are asked for under one name at one endpoint.

    Only one of them can be there, so the other name gets the wrong content. Images of two registries that no rewrite
    keeps apart are told apart by `?ns=`, which pull-through caches for several registries look at and others do not:
    that is a warning.
    """
    seen: dict[tuple[str, str, str], tuple[ListedImage, Route]] = {}
    for image, plan in subject.routed:
        if image.reference.digest:  # the content is the same, wherever it is found
            continue
        for route in plan.routes:
            if route.kind != "mirror":
                continue
            place = (route.url, path_clean(f"/{route.repository}"), image.reference.object)
            other, before = seen.setdefault(place, (image, route))
            if other.reference.name != image.reference.name:
                yield _collision(image, other, route, before)
                break


def _collision(image: ListedImage, other: ListedImage, route: Route, before: Route) -> Hit:
    are_rewritten = route.rewrite is not None or before.rewrite is not None
    images = f"{image.reference.familiar} and {other.reference.familiar} (line {other.span.line})"
    return Hit(
        image.span,
        f"{images} are both asked for as {route.repository}:{image.reference.tag} at {route.host}",
        "keep the names apart by rewrites, for instance with a prefix for each registry",
        None,
        "error" if are_rewritten or image.reference.registry == other.reference.registry else "warning",
    )


# ── the list itself ──


@rule(
    "R047",
    "tag-and-digest",
    "note",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
""",
        images=f"docker.io/library/redis:7@sha256:{'0123456789abcdef' * 4}\n",
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
""",
        images=f"docker.io/library/redis@sha256:{'0123456789abcdef' * 4}\n",
    ),
    sources=(DOCUMENTATION,),
)
def tag_and_digest(subject: Subject) -> Iterator[Hit]:
    """An image of the list has a tag and a digest; the tag counts for nothing.

    containerd drops it: only the digest is asked for, and the image is not stored under the tag.
    """
    for image in subject.circumstances.images or ():
        name, at, _ = image.text.partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if at and tag:
            end = image.span.column + len(name)
            span = Span(image.span.file, image.span.line, end - len(tag), image.span.line, end)
            yield Hit(span, f"the tag {tag} is ignored: the digest behind it names the image", "leave the tag out")


@rule(
    "R060",
    "invalid-image",
    "error",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
""",
        images="docker.io/library/Redis:7\n",
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
""",
        images="# a comment\ndocker.io/library/redis:7\n",
    ),
    sources=(DOCUMENTATION,),
)
def invalid_image(subject: Subject) -> Iterator[Hit]:
    """A line of the list is not the name of an image.

    containerd would refuse it. K3s logs such a line of an image list and goes on with the next.
    """
    for problem in subject.circumstances.image_problems:
        if problem.span is not None:
            message, _, hint = problem.message.rpartition(". ")
            remedy = f"{hint[:1].lower()}{hint[1:]}, or take the line out of the list"
            yield Hit(problem.span, message, remedy)
