"""A store in memory: the promises of `store` without a disk, for tests and for a registry that is a test transport."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from pierhead.body import Blob, Buffer, BytesBlob
from pierhead.oci import Descriptor, Platform, parse_manifest
from pierhead.reference import Digest
from pierhead.store import (
    OCTETS,
    ContentMismatch,
    Expected,
    Name,
    NotFound,
    RepositoryName,
    Session,
    StoreBusy,
    Upload,
    as_referrer,
    page,
    parse_reference,
    require_content,
    require_expected,
)

WRITER_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Growing:
    """A blob on its way: its bytes, and the lock of its one writer."""

    data: bytearray = field(default_factory=bytearray)
    writer: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Shelf:
    """What one repository shows: manifests with their media types, blobs, names and referrers."""

    manifests: dict[Digest, Descriptor] = field(default_factory=dict)
    blobs: set[Digest] = field(default_factory=set)
    names: dict[str, Name] = field(default_factory=dict)
    referrers: dict[Digest, dict[Digest, Descriptor]] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        return bool(self.manifests or self.blobs or self.names)


class MemoryStore:
    """Repositories over one pool of content, gone with the process (`store.Store`). Any number of threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pool: dict[Digest, bytes] = {}
        self.growing: dict[Digest, _Growing] = {}
        self.sessions: dict[str, tuple[RepositoryName, _Growing]] = {}
        self._shelves: dict[RepositoryName, _Shelf] = {}

    def repository(self, name: RepositoryName) -> MemoryRepository:
        """The repository of that name; raises `InvalidName`."""
        name.check()
        with self.lock:
            return MemoryRepository(self, name, self._shelves.setdefault(name, _Shelf()))

    def repositories(self, *, last: str = "", limit: int | None = None) -> Sequence[RepositoryName]:
        with self.lock:
            found = {str(name): name for name, shelf in self._shelves.items() if shelf.exists}
        return [found[text] for text in page(found, last, limit)]

    def names(self) -> Iterator[Name]:
        with self.lock:
            shelves = sorted(self._shelves.items(), key=lambda item: (str(item[0]), item[0]))
            names = [name for _, shelf in shelves for name in sorted(shelf.names.values(), key=_by_kind)]
        yield from names

    def lease(self) -> AbstractContextManager[None]:
        return nullcontext()  # nothing is ever collected


class MemoryRepository:
    """One repository in memory (`store.Repository`)."""

    def __init__(self, store: MemoryStore, name: RepositoryName, shelf: _Shelf) -> None:
        self.name = name
        self._store = store
        self._shelf = shelf

    def resolve(self, reference: str) -> Descriptor:
        parsed = parse_reference(reference)
        with self._store.lock:
            if isinstance(parsed, Digest):
                found = self._shelf.manifests.get(parsed)
            else:
                name = self._shelf.names.get(parsed)
                found = name.descriptor if name else None
        if found is None:
            raise self._absent(reference)
        return found

    def manifest(self, descriptor: Descriptor) -> bytes:
        with self._store.lock:
            if descriptor.digest not in self._shelf.manifests:
                raise self._absent(f"manifest {descriptor.digest}")
            return self._store.pool[descriptor.digest]

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        self.stat_blob(descriptor.digest)
        return BytesBlob(self._store.pool[descriptor.digest][offset:])

    def reject(self, descriptor: Descriptor) -> bool:
        return False

    def stat_blob(self, digest: Digest) -> Descriptor:
        with self._store.lock:
            if digest not in self._shelf.blobs and digest not in self._shelf.manifests:
                raise self._absent(f"blob {digest}")
            return Descriptor(OCTETS, digest, len(self._store.pool[digest]))

    def has(self, descriptor: Descriptor) -> bool:
        with self._store.lock:
            shown = descriptor.digest in self._shelf.blobs or descriptor.digest in self._shelf.manifests
            return shown and len(self._store.pool[descriptor.digest]) == descriptor.size_bytes

    @contextmanager
    def upload(self, descriptor: Descriptor) -> Iterator[Upload]:
        with self._store.lock:
            growing = self._store.growing.setdefault(descriptor.digest, _Growing())
        if not growing.writer.acquire(timeout=WRITER_SECONDS):
            raise StoreBusy(f"another thread holds the upload of {descriptor.digest}")
        try:
            yield _MemoryUpload(self, descriptor, growing)
        finally:
            growing.writer.release()

    def begin(self) -> Session:
        id, growing = os.urandom(16).hex(), _Growing()
        with self._store.lock:
            self._store.sessions[id] = (self.name, growing)
        return self.session(id)

    def session(self, id: str) -> Session:
        with self._store.lock:
            owner, growing = self._store.sessions.get(id, (None, None))
        if growing is None or owner != self.name:
            raise NotFound("there is no such upload, or it was finished", hint="begin a new one")
        if not growing.writer.acquire(timeout=WRITER_SECONDS):
            raise StoreBusy("another thread holds the upload")
        return _MemorySession(self, id, growing)

    def mount(self, descriptor: Descriptor, source: RepositoryName) -> bool:
        with self._store.lock:
            if not self._store.repository(source).has(descriptor):
                return False
            self._shelf.blobs.add(descriptor.digest)
            return True

    def keep(self, data: bytes, digest: Digest) -> None:
        """Make checked bytes, or those the store has already, a blob of this repository."""
        with self._store.lock:
            self._store.pool.setdefault(digest, data)
            self._shelf.blobs.add(digest)

    def forget_session(self, id: str) -> None:
        with self._store.lock:
            self._store.sessions.pop(id, None)

    def present(self, descriptor: Descriptor) -> bool:
        """Whether the store has the blob already, in whichever repository."""
        with self._store.lock:
            data = self._store.pool.get(descriptor.digest)
        return data is not None and len(data) == descriptor.size_bytes

    def put_manifest(
        self, raw: bytes, media_type: str, *, algorithm: str = "sha256", sparse: bool = False
    ) -> Descriptor:
        parsed = parse_manifest(raw, media_type)
        descriptor = Descriptor(parsed.media_type, Digest.of(raw, algorithm), len(raw))
        with self._store.lock:
            require_content(parsed, self.has, sparse=sparse)
            self._store.pool[descriptor.digest] = raw
            self._shelf.manifests[descriptor.digest] = descriptor
            if parsed.subject:
                listed = self._shelf.referrers.setdefault(parsed.subject.digest, {})
                listed[descriptor.digest] = as_referrer(parsed, descriptor)
        return descriptor

    def tag(
        self,
        reference: str,
        descriptor: Descriptor,
        *,
        platforms: Sequence[Platform] = (),
        expected: Digest | Expected = Expected.ANYTHING,
    ) -> None:
        parse_reference(reference)
        name = Name(self.name, reference, descriptor, tuple(platforms))
        with self._store.lock:
            current = self._shelf.names.get(reference)
            require_expected(str(name), expected, current.descriptor.digest if current else None)
            if descriptor.digest not in self._shelf.manifests:
                raise self._absent(f"manifest {descriptor.digest}")
            self._shelf.names[reference] = name

    def tags(self, *, last: str = "", limit: int | None = None) -> Sequence[str]:
        with self._store.lock:
            if not self._shelf.exists:
                raise NotFound(f"there is no repository {self.name} here")
            return page((reference for reference in self._shelf.names if ":" not in reference), last, limit)

    def untag(self, reference: str) -> None:
        parse_reference(reference)
        with self._store.lock:
            if self._shelf.names.pop(reference, None) is None:
                raise self._absent(reference)

    def delete(self, descriptor: Descriptor) -> None:
        digest, shelf = descriptor.digest, self._shelf
        with self._store.lock:
            if digest not in shelf.manifests and digest not in shelf.blobs:
                raise self._absent(str(digest))
            if descriptor.is_manifest:
                shelf.names = {key: name for key, name in shelf.names.items() if name.descriptor.digest != digest}
            shelf.manifests.pop(digest, None)
            shelf.blobs.discard(digest)
            for listed in shelf.referrers.values():
                listed.pop(digest, None)

    def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        with self._store.lock:
            found = sorted(self._shelf.referrers.get(subject, {}).values(), key=lambda item: str(item.digest))
        return [item for item in found if artifact_type in ("", item.artifact_type)]

    def _absent(self, what: str) -> NotFound:
        return NotFound(f"{what} is not in {self.name}")


class _MemoryUpload:
    def __init__(self, repository: MemoryRepository, descriptor: Descriptor, growing: _Growing) -> None:
        self._repository = repository
        self._descriptor = descriptor
        self._growing = growing
        self._present = repository.present(descriptor)

    @property
    def offset(self) -> int:
        return self._descriptor.size_bytes if self._present else len(self._growing.data)

    def write(self, data: Buffer) -> None:
        if self.offset + len(data) > self._descriptor.size_bytes:
            self._refuse("too many bytes", got_bytes=self.offset + len(data))
        self._growing.data += data

    def fill(self, blob: Blob) -> None:
        blob.copy_to(self.write)

    def restart(self) -> None:
        self._present = False
        self._growing.data.clear()

    def commit(self) -> None:
        digest = self._descriptor.digest
        data = b"" if self._present else bytes(self._growing.data)
        if not self._present and len(data) != self._descriptor.size_bytes:
            self._refuse(f"{len(data)} bytes", got_bytes=len(data))
        if not self._present and (found := _digest(data, digest)) != digest:
            self._refuse(f"the bytes are {found}", found=found)
        self._repository.keep(data, digest)
        self._growing.data.clear()

    def _refuse(self, reason: str, *, found: Digest | None = None, got_bytes: int | None = None) -> None:
        self.restart()
        raise ContentMismatch(
            f"{self._descriptor.digest} was not received as announced: {reason}",
            descriptor=self._descriptor,
            found=found,
            got_bytes=got_bytes,
        )


class _MemorySession:
    def __init__(self, repository: MemoryRepository, id: str, growing: _Growing) -> None:
        self.id = id
        self._repository = repository
        self._growing = growing
        self._held = True

    @property
    def offset(self) -> int:
        return len(self._growing.data)

    def write(self, data: Buffer) -> None:
        self._growing.data += data

    def commit(self, digest: Digest) -> Descriptor:
        data = bytes(self._growing.data)
        self.abort()
        if _digest(data, digest) != digest:
            raise ContentMismatch(f"the upload's bytes are not {digest}")
        self._repository.keep(data, digest)
        return Descriptor(OCTETS, digest, len(data))

    def abort(self) -> None:
        self._repository.forget_session(self.id)
        self.close()

    def close(self) -> None:
        if self._held:
            self._held = False
            self._growing.writer.release()


def _digest(data: bytes, wanted: Digest) -> Digest:
    return Digest.of(data, wanted.algorithm)


def _by_kind(name: Name) -> tuple[bool, str]:
    return ":" in name.reference, name.reference
