"""An archive, or a layout others wrote, as a store that is only read: a registry serves it where it lies.

Every image stands under its own name, `docker.io/library/redis:7` as `library/redis` of `?ns=docker.io`, and under its
path alone, as a plain registry that was filled with it would have it. Where two registries have images of one path and
tag, that tag is nobody's without `?ns=`: nothing is guessed. What refers to an image stands in the image's repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pierhead.archive.invalid import InvalidArchive
from pierhead.archive.present import present
from pierhead.body import Blob, FileBlob
from pierhead.errors import PierheadError, Problem
from pierhead.oci import Descriptor, Platform, parse_manifest
from pierhead.reference import Digest, Reference
from pierhead.store import (
    OCTETS,
    Expected,
    Name,
    NotFound,
    Referrer,
    RepositoryName,
    Session,
    Source,
    StoreUnwritable,
    Upload,
    as_referrer,
    page,
    parse_reference,
)

if TYPE_CHECKING:
    from pierhead.archive import Archive
    from pierhead.tree import Tree


@dataclass(slots=True)
class _Shelf:
    """What one repository shows. `unclear` are tags that two images of different registries claim."""

    names: dict[str, Descriptor] = field(default_factory=dict)
    manifests: dict[Digest, Descriptor] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    referrers: dict[Digest, dict[Digest, Descriptor]] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)

    def take(self, tree: Tree) -> None:
        """Show everything of an image."""
        self.blobs |= tree.blobs
        for descriptor, raw in tree.manifests.values():
            self.manifests[descriptor.digest] = descriptor
            manifest = parse_manifest(raw, descriptor.media_type)
            if manifest.subject:
                listed = self.referrers.setdefault(manifest.subject.digest, {})
                listed[descriptor.digest] = as_referrer(manifest, descriptor)

    def name(self, reference: str, descriptor: Descriptor) -> bool:
        """Let a tag point to an image; False if it points to another one, and from now on to none."""
        if ":" in reference:
            return True  # a digest, which its manifest answers to
        known = self.names.setdefault(reference, descriptor)
        if known.digest == descriptor.digest and reference not in self.unclear:
            return True
        del self.names[reference]
        self.unclear.add(reference)
        return False


class ArchiveStore:
    """The images of an open archive (`store.Store`, to read). All manifests are read, and checked, at once.

    `problems` says what cannot be served, and why: no full name, damaged, one name for two images.
    """

    def __init__(self, archive: Archive) -> None:
        self.path = archive.path
        self.content: Source = archive.content
        self._shelves: dict[RepositoryName, _Shelf] = {}
        self.problems = tuple(self._fill(archive))

    def repository(self, name: RepositoryName) -> ArchiveRepository:
        """The repository of that name; raises `InvalidName`."""
        name.check()
        return ArchiveRepository(self, name, self._shelves.get(name))

    def repositories(self, *, last: str = "", limit: int | None = None) -> Sequence[RepositoryName]:
        found = {str(name): name for name in sorted(self._shelves, key=lambda name: bool(name.namespace))}
        return [found[text] for text in page(found, last, limit)]

    def names(self) -> Iterator[Name]:
        for name, shelf in sorted(self._shelves.items(), key=lambda item: str(item[0])):
            if name.namespace:
                yield from (Name(name, tag, descriptor) for tag, descriptor in sorted(shelf.names.items()))

    def lease(self) -> AbstractContextManager[None]:
        return nullcontext()  # nothing is ever collected

    def _fill(self, archive: Archive) -> Iterator[Problem]:
        for image in archive.images:
            reference = image.reference
            if reference is None:
                name = image.name or str(image.descriptor.digest)
                yield _problem("unnamed-image", f"{name} has no full name, so nobody can ask for it")
                continue
            try:
                tree = self._read(image.descriptor)
            except PierheadError as error:
                yield _problem("unusable-image", f"{reference} is not served: {error}")
                continue
            yield from self._add(reference, reference.object, tree)
            for referrer in archive.referrers(tree.manifests):
                yield from self._add_referrer(reference, referrer)

    def _add_referrer(self, to: Reference, referrer: Referrer) -> Iterator[Problem]:
        digest = str(referrer.descriptor.digest)
        try:
            tree = self._read(referrer.descriptor)
        except PierheadError as error:
            yield _problem("unusable-image", f"{digest}, which refers to {to}, is not served: {error}")
            return
        yield from self._add(to, referrer.tag or digest, tree)

    def _read(self, top: Descriptor) -> Tree:
        tree = present(self.content, top).tree
        self._require_own(tree)
        return tree

    def _require_own(self, tree: Tree) -> None:
        """Raises `InvalidArchive` if a file of a folder is a link: it could show any file of this machine to others.

        Who copies it hashes it, and may follow it; here nobody does before it is sent.
        """
        for descriptor in tree.blobs.values():
            blob = self.content.blob(descriptor)
            if isinstance(blob, FileBlob) and self.path in blob.path.parents and blob.path.is_symlink():
                name = str(blob.path.relative_to(self.path))
                raise InvalidArchive(
                    self.path, "is a link", member=name, hint="copy the layout with its links followed"
                )

    def _add(self, of: Reference, name: str, tree: Tree) -> Iterator[Problem]:
        """Show something in the repository of an image, under this tag or digest."""
        for namespace in (of.registry, ""):
            repository = RepositoryName(of.repository, namespace)
            shelf = self._shelves.setdefault(repository, _Shelf())
            shelf.take(tree)
            if not shelf.name(name, tree.top):
                yield _problem(
                    "ambiguous-name", f"{repository}:{name} is the name of two images, and served as neither"
                )


def _problem(id: str, message: str) -> Problem:
    return Problem(id, "warning", message)


class ArchiveRepository:
    """One repository of an archive (`store.Repository`, to read: everything that writes raises `StoreUnwritable`)."""

    def __init__(self, store: ArchiveStore, name: RepositoryName, shelf: _Shelf | None) -> None:
        self.name = name
        self._store = store
        self._shelf = shelf or _Shelf()
        self._exists = shelf is not None

    def resolve(self, reference: str) -> Descriptor:
        parsed = parse_reference(reference)
        found = self._shelf.manifests.get(parsed) if isinstance(parsed, Digest) else self._shelf.names.get(parsed)
        return found or self._absent(reference)

    def manifest(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest not in self._shelf.manifests:
            self._absent(f"manifest {descriptor.digest}")
        return self._store.content.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return self._store.content.blob(self._shown(descriptor.digest), offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return False

    def stat_blob(self, digest: Digest) -> Descriptor:
        return Descriptor(OCTETS, digest, self._shown(digest).size_bytes)

    def has(self, descriptor: Descriptor) -> bool:
        known = self._shelf.blobs.get(descriptor.digest) or self._shelf.manifests.get(descriptor.digest)
        return known is not None and known.size_bytes == descriptor.size_bytes

    def tags(self, *, last: str = "", limit: int | None = None) -> Sequence[str]:
        if not self._exists:
            raise NotFound(f"there is no repository {self.name} here")
        return page(self._shelf.names, last, limit)

    def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        found = self._shelf.referrers.get(subject, {}).values()
        return [item for item in found if artifact_type in ("", item.artifact_type)]

    def upload(self, descriptor: Descriptor) -> AbstractContextManager[Upload]:
        self._refuse()

    def begin(self) -> Session:
        self._refuse()

    def session(self, id: str) -> Session:
        self._refuse()

    def mount(self, descriptor: Descriptor, source: RepositoryName) -> bool:
        self._refuse()

    def put_manifest(
        self, raw: bytes, media_type: str, *, algorithm: str = "sha256", sparse: bool = False
    ) -> Descriptor:
        self._refuse()

    def tag(
        self,
        reference: str,
        descriptor: Descriptor,
        *,
        platforms: Sequence[Platform] = (),
        expected: Digest | Expected = Expected.ANYTHING,
    ) -> None:
        self._refuse()

    def untag(self, reference: str) -> None:
        self._refuse()

    def delete(self, descriptor: Descriptor) -> None:
        self._refuse()

    def _shown(self, digest: Digest) -> Descriptor:
        """The blob, or manifest, of that digest."""
        found = self._shelf.blobs.get(digest) or self._shelf.manifests.get(digest)
        return found or self._absent(f"blob {digest}")

    def _absent(self, what: str) -> NoReturn:
        raise NotFound(f"{what} is not in {self.name}")

    def _refuse(self) -> NoReturn:
        raise _unwritable(self._store.path)


def _unwritable(path: Path) -> StoreUnwritable:
    return StoreUnwritable(path, "an archive is only read", "load it into a store, and write there")
