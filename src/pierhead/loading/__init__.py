"""Images out of archives: into the store, or straight into a containerd, under their own names.

Every archive is read and checked before anything of it is written. One image, or one archive, that cannot be used stops
no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pierhead.archive import open_archive
from pierhead.archive.present import Present, present
from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.oci import Descriptor, Platform
from pierhead.store import NotFound, Referrer, Source
from pierhead.transfer import Copied, Interrupted

if TYPE_CHECKING:
    from pierhead.archive import Archive, ArchivedImage
    from pierhead.reference import Reference
    from pierhead.referrers import CopiedReferrers


class Unnamed(UsageError):
    """An image that its archive gives no full name, so that nobody could ask for it."""

    def __init__(self, image: ArchivedImage) -> None:
        called = f"it is called {image.name!r} there" if image.name else "it has none"
        super().__init__(
            f"the image {image.descriptor.digest} has no full name in the archive: {called}",
            hint="give --name REGISTRY/REPOSITORY:TAG, if it is the only one",
        )


class NameNotWanted(UsageError):
    """A name was given where there is not exactly one image that needs it."""

    def __init__(self) -> None:
        super().__init__(
            "--name is for one archive with a single image that has no name of its own",
            hint="leave it out: the others keep the names they have",
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of one image; without a `name`, of a whole archive that cannot be used.

    `absent` are platforms that its index names and its archive has not; `copied` says what came into the store, and
    `referrers` what came with it.
    """

    file: Path
    name: str = ""
    descriptor: Descriptor | None = None
    absent: tuple[Platform, ...] = ()
    copied: Copied | None = None
    referrers: CopiedReferrers | None = None
    error: PierheadError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """An image of an archive, as it is about to be loaded, and what refers to it there; equal to itself alone."""

    reference: Reference
    descriptor: Descriptor
    present: Present
    referrers: tuple[Referrer, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrived:
    """An image that is where it was loaded into; None: nobody counts, and nothing that refers to it was taken."""

    copied: Copied | None = None
    referrers: CopiedReferrers | None = None


Outcome = Arrived | PierheadError
"""What became of an image, or why it is not there."""


class Target(Protocol):
    """Where images are loaded into."""

    def take(self, content: Source, items: Sequence[Item]) -> list[Outcome]:
        """Take these images of one archive; the outcome of each."""
        ...


def load(
    files: Sequence[Path], target: Target, *, name: Reference | None = None, scratch: Path | None = None
) -> list[Loaded]:
    """Load the images of all archives, in order; `scratch` is where compressed ones are unpacked.

    `name` is for the only image of the only archive, if it has none. Raises `NameNotWanted`, `Interrupted`.
    """
    if name and len(files) > 1:
        raise NameNotWanted
    return [result for file in files for result in _load(file, target, name, scratch)]


def exit_code(results: Sequence[Loaded]) -> ExitCode:
    """How a run with these results ends: of one image its own code, of several PARTIAL if any failed."""
    return ExitCode.of_all([result.error for result in results])


def _load(file: Path, target: Target, name: Reference | None, scratch: Path | None) -> list[Loaded]:
    try:
        with open_archive(file, scratch=scratch) as archive:
            return _load_images(archive, target, name)
    except (Interrupted, NameNotWanted):
        raise
    except PierheadError as error:
        return [Loaded(file, error=error)]
    except OSError as error:
        reason = error.strerror or str(error)
        return [
            Loaded(
                file, error=PierheadError(f"{error.filename or file} cannot be read: {reason}", hint="may you read it?")
            )
        ]


def _load_images(archive: Archive, target: Target, name: Reference | None) -> list[Loaded]:
    if not archive.images:
        raise NotFound(f"{archive.path} has no images", hint="was it written by docker save, skopeo or pierhead save?")
    if name and (len(archive.images) > 1 or archive.images[0].reference):
        raise NameNotWanted
    found = [_read(archive, image, name) for image in archive.images]
    items = [item for item in found if isinstance(item, Item)]
    outcomes = iter(target.take(archive.content, items))
    return [item if isinstance(item, Loaded) else _loaded(archive.path, item, next(outcomes)) for item in found]


def _read(archive: Archive, image: ArchivedImage, name: Reference | None) -> Item | Loaded:
    """The image as far as it is there, or why it cannot be loaded."""
    reference = image.reference or name
    try:
        if reference is None:
            raise Unnamed(image)
        found = present(archive.content, image.descriptor)
        return Item(reference, image.descriptor, found, tuple(archive.referrers(found.tree.manifests)))
    except PierheadError as error:
        return Loaded(archive.path, str(reference or image.name), image.descriptor, error=error)


def _loaded(file: Path, item: Item, outcome: Outcome) -> Loaded:
    loaded = Loaded(file, str(item.reference), item.descriptor, item.present.absent)
    if isinstance(outcome, PierheadError):
        return replace(loaded, error=outcome)
    return replace(loaded, copied=outcome.copied, referrers=outcome.referrers)
