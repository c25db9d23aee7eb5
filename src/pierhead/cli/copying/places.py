"""SOURCE and DESTINATION of a copy, as people write them: a reference, or skopeo's word for a file or folder.

As containers/image (containers-transports(5)): `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]`,
`docker-archive:FILE[:NAME]`; the path ends at the first colon, so that a name may hold some. `docker://` before a
reference is allowed and means nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pierhead.cli.paths import refuse_path
from pierhead.errors import PierheadError, UsageError
from pierhead.oci import Descriptor
from pierhead.reference import Digest, Reference

FileKind = Literal["oci", "oci-archive", "docker-archive"]
FILE_KINDS: Final[tuple[FileKind, ...]] = ("oci", "oci-archive", "docker-archive")
FORMS: Final = "write a reference, oci:DIR[:NAME], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]"
# What else skopeo knows. An image of such a name is meant with docker:// before it.
FOREIGN_KINDS: Final = frozenset({"containers-storage", "dir", "docker-daemon", "ostree", "sif", "tarball"})
# As the image specification, annotations.md (org.opencontainers.image.ref.name), and what references hold besides.
_SEPARATOR = r"(?:[._:@+]|__|-+)"
_COMPONENT = rf"[A-Za-z0-9]+(?:{_SEPARATOR}[A-Za-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


class OtherDigest(PierheadError):
    """The image is not the one that the destination names by its digest."""

    def __init__(self, place: RegistryPlace, found: Digest) -> None:
        super().__init__(
            f"{place} is to have the digest {place.digest}, and the source is {found}",
            hint="nothing was written; leave the digest out, or take the source with that digest",
        )


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """An image in a registry. `tag` is what was written, also beside a digest, which `reference` then is."""

    reference: Reference
    tag: str | None

    @property
    def name(self) -> str:
        """What it is called there when it was copied: the tag, or by its digest alone."""
        return self.tag or self.reference.object

    @property
    def digest(self) -> Digest | None:
        """What must be under the name, if somebody said so."""
        return self.reference.digest

    def require(self, descriptor: Descriptor) -> None:
        """Raises `OtherDigest` if this is not what was written to be there."""
        if self.digest not in (None, descriptor.digest):
            raise OtherDigest(self, descriptor.digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.reference.name}{tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, slots=True)
class FilePlace:
    """An image in a layout or tarball; without a name the only one there."""

    kind: FileKind
    path: Path
    name: str = ""

    def is_same_path(self, other: FilePlace) -> bool:
        """Whether both are in the same file or folder."""
        return self.path.resolve() == other.path.resolve()

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.name}" if self.name else "")


Place = RegistryPlace | FilePlace


def parse_place(text: str) -> Place:
    """What a SOURCE or DESTINATION says. Raises `InvalidReference`, `InvalidDigest` and `UsageError`.

    The disk is looked at only for a file of that name, which is certainly meant (`paths.refuse_path`).
    """
    for kind in FILE_KINDS:
        if text.startswith(f"{kind}:"):
            return _file_place(kind, text.removeprefix(f"{kind}:"))
    word, colon, _ = text.partition(":")
    if colon and word in FOREIGN_KINDS:
        raise UsageError(f"{word}: is not understood here", hint=FORMS)
    refuse_path(text)
    return registry_place(text)


def registry_place(text: str) -> RegistryPlace:
    """A reference, with the tag that stands beside a digest. Raises `InvalidReference`."""
    text = text.removeprefix("docker://")
    reference = Reference.parse(text)
    named, at, _ = text.partition("@")
    if not at:
        return RegistryPlace(reference, reference.tag)
    tagged = ":" in named.rpartition("/")[2]
    return RegistryPlace(reference, Reference.parse(named).tag if tagged else None)


def _file_place(kind: FileKind, rest: str) -> FilePlace:
    path, _, name = rest.partition(":")
    if not path:
        raise UsageError(f"{kind}:{rest} has no path", hint=FORMS)
    if kind != "oci" and path in ("-", "/dev/stdout"):
        hint = "/dev/stdin is read as a stream; `pierhead save -o -` writes one"
        raise UsageError(f"{kind}:{path} is no file", hint=hint)
    if path.startswith("~"):
        raise UsageError(f"{kind}:{rest} begins with ~, which the shell leaves as it is here", hint='write "$HOME"')
    if kind == "docker-archive" and name:
        name = _docker_name(name)
    elif name and not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for an image in a layout", hint="write a reference or a tag")
    return FilePlace(kind, Path(path), name)


def _docker_name(name: str) -> str:
    """A name as docker's archives have it: repository and tag. As containers/image: docker/archive/transport.go."""
    reference = Reference.parse(name)
    if reference.digest:
        raise UsageError(f"{name!r}: a docker-archive has names with tags, not with digests", hint="write NAME:TAG")
    return str(reference)


def is_same(source: Place, destination: Place) -> bool:
    """Whether both are the same name in the same place."""
    if not (isinstance(source, FilePlace) and isinstance(destination, FilePlace)):
        return source == destination
    return source.is_same_path(destination) and (source.kind, source.name) == (destination.kind, destination.name)


def refuse_overwriting(source: Place, destination: Place) -> None:
    """Raises `UsageError` if an archive would be written over the one that is read, and over all that is in it."""
    if not (isinstance(source, FilePlace) and isinstance(destination, FilePlace)) or destination.kind == "oci":
        return
    if source.is_same_path(destination):
        raise UsageError(f"{destination} is the file that is read", hint="write another one, then rename it")


def refuse_cut_path(place: FilePlace) -> None:
    """Raises `UsageError` if what was taken for the path is only the beginning of one that has a colon in it."""
    if place.path.exists():
        return
    text, start = f"{place.path}:{place.name}", len(str(place.path)) + 1
    for end in (match.start() for match in re.finditer(r"[:/]|$", text[start:])):
        longer = text[: start + end]
        if os.path.lexists(longer):
            raise UsageError(
                f"{place}: the path ends at the first colon, and {longer} has one",
                hint="give the path another name, or a symbolic link without a colon",
            )
