"""What is in an archive or a layout, to read: one pool of content for all of its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pierhead.archive.invalid import InvalidArchive
from pierhead.archive.named import ArchivedImage, is_digest, pick
from pierhead.archive.referring import Referring
from pierhead.body import Blob, BytesBlob, FileBlob, read_all
from pierhead.errors import PierheadError
from pierhead.oci import MANIFEST_LIMIT_BYTES, Descriptor, parse_manifest
from pierhead.reference import Digest
from pierhead.store import ContentMismatch, NotFound, checked, cut_short

Locate = Callable[[Digest], FileBlob | None]
"""Where the bytes of a digest are, unchecked; None if they are not in it."""


class Contents:
    """Everything in the archive at `path` (`store.Source`); a name is resolved too, as `named.pick` does.

    What is missing is so only when asked for: K3s and containerd take archives of some platforms of an index.
    """

    def __init__(
        self,
        path: Path,
        entries: Sequence[ArchivedImage],
        locate: Locate,
        *,
        made: Mapping[Digest, bytes] | None = None,
    ) -> None:
        """`entries` are what is listed in it, `made` manifests that stand in no file."""
        self.path = path
        self.entries = tuple(entries)
        self._locate = locate
        self._made = made or {}

    @cached_property
    def images(self) -> tuple[ArchivedImage, ...]:
        """The entries that are images: what merely refers to one of them is none, unless it has a full name."""
        if all(entry.reference for entry in self.entries):  # for which no manifest has to be read
            return self.entries
        return self.referring.images()

    @cached_property
    def referring(self) -> Referring:
        """What its entries refer to."""
        return Referring(self, self.entries)

    def resolve(self, reference: str) -> Descriptor:
        for image in self.entries:
            if reference == str(image.descriptor.digest):
                return image.descriptor
        if is_digest(reference):
            return self._by_digest(Digest.parse(reference))
        return pick(self.entries, reference, self.path).descriptor

    def manifest(self, descriptor: Descriptor) -> bytes:
        raw = self._small(descriptor.digest)
        try:
            return checked(raw, descriptor)
        except ContentMismatch as error:
            raise self._wrong(error) from error

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        blob = self._find(descriptor.digest)
        if blob.size_bytes != descriptor.size_bytes:
            raise self._wrong(cut_short(descriptor, blob.size_bytes))
        if isinstance(blob, BytesBlob):
            return BytesBlob(blob.data[offset:])
        return blob.part(offset, max(0, blob.size_bytes - offset))

    def reject(self, descriptor: Descriptor) -> bool:
        return False

    def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        """As `store.Repository.referrers`; raises what an entry cannot be read for that might refer to anything."""
        if self.referring.unread:
            raise self.referring.unread[0]
        return [item for item in self.referring.listed(subject) if artifact_type in ("", item.artifact_type)]

    def _by_digest(self, digest: Digest) -> Descriptor:
        raw = self._small(digest)
        found = Descriptor(parse_manifest(raw, "").media_type, digest, len(raw))
        self.manifest(found)
        return found

    def _small(self, digest: Digest) -> bytes:
        blob = self._find(digest)
        if blob.size_bytes > MANIFEST_LIMIT_BYTES:
            reason = f"a manifest of {blob.size_bytes} bytes; the limit is {MANIFEST_LIMIT_BYTES}"
            raise InvalidArchive(self.path, reason)
        return read_all(blob, MANIFEST_LIMIT_BYTES)

    def _find(self, digest: Digest) -> FileBlob | BytesBlob:
        if digest in self._made:
            return BytesBlob(self._made[digest])
        if blob := self._locate(digest):
            return blob
        raise NotFound(
            f"{self.path} does not have {digest}",
            hint="it was written without it, for other platforms perhaps; choose a platform that it has",
        )

    def _wrong(self, error: ContentMismatch) -> PierheadError:
        return ContentMismatch(
            f"{self.path} is damaged: {error.message}",
            hint="copy it again, or have its maker write it again",
            descriptor=error.descriptor,
            found=error.found,
            got_bytes=error.got_bytes,
        )
