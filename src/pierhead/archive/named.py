"""The images of an archive, and how one of them is found by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pierhead.archive.invalid import NOT_OURS, InvalidArchive, shown
from pierhead.errors import UsageError
from pierhead.oci import Descriptor
from pierhead.reference import Digest, InvalidReference, Reference
from pierhead.store import InvalidName, NotFound, parse_reference

NAME_LIMIT: Final = 1024  # characters; a full reference has at most about half
LISTED_LIMIT: Final = 10  # names in a hint

_DIGEST = re.compile("(?:md5|sha[0-9]+|blake[0-9][a-z0-9]*):")


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image of an archive: `name` as it stands there, a full name, a bare tag, or nothing.

    `reference` is what a full name means, None for the others.
    """

    name: str
    descriptor: Descriptor
    reference: Reference | None

    @classmethod
    def of(cls, name: str, descriptor: Descriptor) -> ArchivedImage:
        """The image of that name; a single word is a tag, as skopeo and containerd write it for `oci:DIR:TAG`."""
        return cls(name, descriptor, parse_full(name))

    def __str__(self) -> str:
        return self.name or str(self.descriptor.digest)


def parse_full(name: str) -> Reference | None:
    """What a name means that is more than a tag; None if it is a tag, or not to be understood."""
    if not any(mark in name for mark in "/:@"):
        return None
    with suppress(InvalidReference):
        return Reference.parse(name)
    return None


def is_unnamed(name: str) -> bool:
    """Whether an image of that name has none in a layout: it is known by its digest, or as the only one."""
    return not name or is_digest(name)


def is_digest(name: str) -> bool:
    """Whether a text is meant as a digest, be it one or not: `sha256` is no repository that anybody has."""
    return _DIGEST.match(name) is not None


def check_name(name: str) -> None:
    """Raises `InvalidName`, `InvalidDigest` for a text that is no tag, full name or digest; nothing will do too."""
    if is_digest(name):
        Digest.parse(name)
    elif name and parse_full(name) is None and not ("/" not in name and parse_reference(name)):
        raise InvalidName(
            "tag or image reference", name, "write a tag, or a full name such as docker.io/library/redis:7"
        )


def each_once(images: Iterable[ArchivedImage], path: Path) -> tuple[ArchivedImage, ...]:
    """The images in their order, each once; raises `InvalidArchive` for two of one name, and for what is no name."""
    found: dict[str, ArchivedImage] = {}
    for image in images:
        if not image.name.isprintable() or len(image.name) > NAME_LIMIT:
            raise InvalidArchive(path, f"it names an image {shown(image.name)}, which is no name", hint=NOT_OURS)
        key = str(image.reference or image)
        other = found.setdefault(key, image)
        if other.descriptor.digest != image.descriptor.digest:
            digests = f"{other.descriptor.digest} and {image.descriptor.digest}"
            reason = f"it has two images of the name {shown(key)}, {digests}"
            raise InvalidArchive(path, reason, hint="leave one of them out, for nobody can tell which is meant")
    return tuple(found.values())


def pick(images: Sequence[ArchivedImage], name: str, path: Path) -> ArchivedImage:
    """The image that `name` means: as it stands there, a digest, a full name however short, or a tag.

    An empty name means the only image. Raises `NotFound`, and `UsageError` if several fit.
    """
    for fits in _fits(name):
        found = {image.descriptor.digest: image for image in reversed(images) if fits(image)}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            which = f" that {shown(name)} fits" if name else ", and it is not said which is meant"
            raise UsageError(f"{path} has {len(found)} images{which}", hint=_listing(images))
    raise NotFound(f"{path} has no image {shown(name)}" if name else f"{path} has no image", hint=_listing(images))


def _fits(name: str) -> Iterable[Callable[[ArchivedImage], bool]]:
    if not name:
        return [lambda _: True]
    reference: Reference | None = None
    with suppress(InvalidReference):
        reference = Reference.parse(name)
    return [
        lambda image: image.name == name or str(image.descriptor.digest) == name,
        lambda image: image.reference is not None and image.reference == reference,
        lambda image: image.reference is not None and image.reference.tag == name,
    ]


def _listing(images: Sequence[ArchivedImage]) -> str:
    if not images:
        return "it is empty"
    names = [str(image) for image in images]
    more = f", and {len(names) - LISTED_LIMIT} more" if len(names) > LISTED_LIMIT else ""
    return f"name one of: {', '.join(names[:LISTED_LIMIT])}{more}"
