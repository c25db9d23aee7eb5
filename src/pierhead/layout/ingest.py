"""The pool of content of a layout (`blobs/`), and how bytes get into it.

A blob on its way has one path, `ingest/<algorithm>/<hex>`, and one writer, who holds the file's lock; what is written
there survives the death of its process and is gone on with by the next, after hashing it again. The same file may be
read while it grows. A push whose digest is not yet known writes to `uploads/` instead. Either becomes visible in one
rename, after its digest and size were checked and its bytes are on the disk.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from pierhead.body import Blob, Buffer, FileBlob
from pierhead.layout.disk import Root, is_at, listing, take_lock, unwritable
from pierhead.layout.hashing import RunningHash
from pierhead.oci import MANIFEST_LIMIT_BYTES, Descriptor
from pierhead.reference import Digest, InvalidDigest
from pierhead.store import OCTETS, ContentMismatch, NotFound, StoreUnwritable, Upload

WRITE_BACK_BYTES: Final = (
    16 * 1024 * 1024
)  # the disk starts on each such stretch early, so the sync at the end is short
WRITER_SECONDS: Final = 300.0  # without a byte of progress, after which another writer is given up on
SESSION_SECONDS: Final = 10.0  # for the request before on the same session to let go of it
SESSIONS_REMEMBERED: Final = 1024  # hashes of sessions between two requests; the others are hashed again

Link = Callable[[Digest], None]


class Pool:
    """Content by digest. What is in it is whole; which repository shows it is not decided here."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._hashes: dict[str, tuple[RunningHash, int]] = {}
        self._remembering = threading.Lock()

    def path(self, digest: Digest) -> Path:
        return self.root.path / "blobs" / digest.algorithm / digest.hex

    def ingest_path(self, digest: Digest) -> Path:
        return self.root.work / "ingest" / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None if it is not here."""
        try:
            return self.path(digest).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here; one of another size does not count, it can only be damaged."""
        return self.size(descriptor.digest) == descriptor.size_bytes

    def read_manifest(self, digest: Digest) -> bytes:
        """A manifest's bytes, checked; raises `NotFound`, `ContentMismatch`."""
        try:
            with self.path(digest).open("rb") as file:
                raw = file.read(MANIFEST_LIMIT_BYTES + 1)
        except FileNotFoundError:
            raise NotFound(f"{digest} is not in the store") from None
        if Digest.of(raw, digest.algorithm) != digest:
            raise ContentMismatch(f"the stored bytes of {digest} are damaged", hint="pull or push it again")
        return raw

    def files(self) -> Iterator[tuple[Digest, Path]]:
        """Every file of the pool that is named by a digest."""
        for algorithm in listing(self.root.path / "blobs"):
            for path in listing(algorithm):
                with suppress(InvalidDigest):
                    yield Digest(algorithm.name, path.name), path

    def keep(self, raw: bytes, digest: Digest) -> None:
        """Put a small blob, whose digest was computed from it, into the pool."""
        if self.size(digest) == len(raw) and self.path(digest).read_bytes() == raw:  # not one that was damaged since
            self.root.unsettle(self.path(digest).parent)
        else:
            self.root.replace(self.path(digest), raw)

    @contextmanager
    def upload(self, descriptor: Descriptor, link: Link) -> Iterator[Upload]:
        """Write a blob of known digest; `link` makes it visible and runs in one step with the rename."""
        claimed = self._claim(descriptor)
        if claimed is None:
            yield PresentUpload(self, descriptor, link)
            return
        try:
            yield BlobUpload(self, descriptor, claimed, link)
        finally:
            if claimed.offset == 0:
                claimed.remove()
            claimed.close()

    def _claim(self, descriptor: Descriptor) -> Partial | None:
        """The locked file of a blob on its way; None if the blob is there, perhaps since we waited for its writer."""
        path = self.ingest_path(descriptor.digest)
        while not self._pin(descriptor):
            claimed = Partial.lock(self.root, path, WRITER_SECONDS)
            if claimed is None:
                continue
            if self._pin(descriptor):  # its writer ended after we looked, so that the file we hold is a new one
                claimed.remove()
                claimed.close()
                return None
            if claimed.offset > descriptor.size_bytes:
                claimed.restart()
            claimed.go_on(descriptor.digest.algorithm)
            return claimed
        return None

    def _pin(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here; if so gc spares it, though no repository shows it yet, while a lease is held."""
        if not self.holds(descriptor):
            return False
        with suppress(StoreUnwritable), self.root.changing(), suppress(FileNotFoundError):
            os.utime(self.path(descriptor.digest))
        return self.holds(descriptor)

    def adopt(self, checked: Partial, digest: Digest, link: Link) -> None:
        """Make the checked bytes of a partial file the blob of that digest."""
        with unwritable(checked.path):
            os.fsync(checked.descriptor)
        with self.root.changing():
            self.root.adopt(checked.path, self.path(digest))
            link(digest)

    def begin(self, owner: str, link: Link) -> BlobSession:
        """A new session; only the same owner can take it up again."""
        return self._session(os.urandom(16).hex(), owner, link, new=True)

    def session(self, id: str, owner: str, link: Link) -> BlobSession:
        """The session of that id; raises `NotFound`, and `StoreBusy` while somebody else holds it."""
        if not re.fullmatch("[0-9a-f]{32}", id):
            raise NotFound("there is no such upload", hint="begin a new one")
        return self._session(id, owner, link, new=False)

    def _session(self, id: str, owner: str, link: Link, *, new: bool) -> BlobSession:
        # The file's name binds the session to its repository, and lets a listing of the folder reveal no session.
        path = self.root.work / "uploads" / Digest.of(f"{owner}\0{id}".encode()).hex
        if not new and not path.exists():
            raise NotFound("there is no such upload, or it was finished", hint="begin a new one")
        claimed = Partial.lock(self.root, path, SESSION_SECONDS, create=new)
        if claimed is None:
            raise NotFound("the upload was finished meanwhile", hint="begin a new one")
        claimed.hash = self._recall(id, claimed.offset)
        return BlobSession(self, id, claimed, link)

    def remember(self, id: str, hashed: RunningHash, offset: int) -> None:
        """Keep the hash of a session until its next request."""
        with self._remembering:
            self._hashes[id] = (hashed, offset)
            if len(self._hashes) > SESSIONS_REMEMBERED:
                del self._hashes[next(iter(self._hashes))]

    def _recall(self, id: str, offset: int) -> RunningHash | None:
        with self._remembering:
            hashed, seen = self._hashes.pop(id, (None, -1))
        if seen == offset:
            return hashed
        # Another process wrote meanwhile; the whole is hashed at the end then.
        return None if offset else new_hash("sha256")


def new_hash(algorithm: str) -> RunningHash:
    """A hash of nothing yet."""
    import hashlib  # late: it loads OpenSSL

    return RunningHash(hashlib.new(algorithm))


class Partial:
    """A locked file that grows, and the hash of what is in it as long as that is known."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.offset = _file_size(descriptor)
        self.hash: RunningHash | None = None
        self._written_back = self.offset

    @classmethod
    def lock(cls, root: Root, path: Path, seconds: float, *, create: bool = True) -> Partial | None:
        """The file at `path`, when no other writer holds it any more; None if it is gone by then."""
        with unwritable(path):
            descriptor = root.create(path, os.O_RDWR) if create else _open_existing(path)
        if descriptor is None:
            return None
        kept = False
        try:
            size = partial(_file_size, descriptor)
            take_lock(descriptor, root.patience(f"the upload {path}", seconds, progress=size))
            kept = is_at(descriptor, path)
            return cls(path, descriptor) if kept else None
        finally:
            if not kept:
                os.close(descriptor)

    def go_on(self, algorithm: str) -> None:
        """Begin the hash over what is there already, beside what follows."""
        self.hash = new_hash(algorithm)
        self.hash.update_from(self.descriptor, self.offset)

    def write(self, data: Buffer) -> None:
        """Append; after an error too, `offset` is what the file holds."""
        view = memoryview(data)
        done = 0
        try:
            with unwritable(self.path):
                while done < len(view):
                    done += os.pwrite(self.descriptor, view[done:], self.offset + done)
        except BaseException:
            self._forget_hash()
            self.offset = _file_size(self.descriptor)
            raise
        self.offset += done
        if self.hash:
            self.hash.update(data)
        if self.offset - self._written_back >= WRITE_BACK_BYTES:
            self._start_write_back()

    def _start_write_back(self) -> None:
        # "Don't need" makes Linux begin to write the stretch out, and returns at once (mm/fadvise.c); it cannot drop
        # what is not written yet. The sync at the end then takes a hundredth of a second instead of a third, per GiB.
        length = self.offset - self._written_back
        with suppress(OSError):
            os.posix_fadvise(self.descriptor, self._written_back, length, os.POSIX_FADV_DONTNEED)
        self._written_back = self.offset

    def digest(self, algorithm: str) -> Digest:
        """The digest of the whole file."""
        if self.hash is None or self.hash.algorithm != algorithm:
            self._forget_hash()
            self.go_on(algorithm)
        assert self.hash is not None
        with unwritable(self.path):
            return self.hash.digest()

    def restart(self) -> None:
        """Forget what was written."""
        algorithm = self.hash.algorithm if self.hash else "sha256"
        self._forget_hash()
        with unwritable(self.path):
            os.ftruncate(self.descriptor, 0)
        self.offset = self._written_back = 0
        self.hash = new_hash(algorithm)

    def remove(self) -> None:
        """Take the file away; its lock is held, so nobody else is in it."""
        if is_at(self.descriptor, self.path):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock. Calling it twice is fine."""
        self._forget_hash()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _forget_hash(self) -> None:
        if self.hash:
            self.hash.abandon()
            self.hash = None


class BlobUpload:
    """A blob of known digest on its way into the pool (`store.Upload`)."""

    def __init__(self, pool: Pool, descriptor: Descriptor, partial: Partial, link: Link) -> None:
        self._pool = pool
        self._descriptor = descriptor
        self._partial = partial
        self._link = link

    @property
    def offset(self) -> int:
        return self._partial.offset

    def write(self, data: Buffer) -> None:
        if self.offset + len(data) > self._descriptor.size_bytes:
            self._refuse(f"more than the {self._descriptor.size_bytes} bytes that were announced")
        self._partial.write(data)

    def fill(self, blob: Blob) -> None:
        blob.copy_to(self.write)

    def restart(self) -> None:
        self._partial.restart()

    def commit(self) -> None:
        if self.offset != self._descriptor.size_bytes:
            self._refuse(f"{self.offset} of {self._descriptor.size_bytes} bytes", got_bytes=self.offset)
        found = self._partial.digest(self._descriptor.digest.algorithm)
        if found != self._descriptor.digest:
            self._refuse(f"the bytes are {found}", found=found)
        self._pool.adopt(self._partial, found, self._link)

    def _refuse(self, reason: str, *, found: Digest | None = None, got_bytes: int | None = None) -> None:
        self._partial.restart()
        raise ContentMismatch(
            f"{self._descriptor.digest} was not received as announced: {reason}",
            hint="what came was thrown away; the source, or something on the way, changes the bytes",
            descriptor=self._descriptor,
            found=found,
            got_bytes=got_bytes,
        )


class PresentUpload:
    """The upload of a blob that the pool has already: nothing is left to write, only to make it visible."""

    def __init__(self, pool: Pool, descriptor: Descriptor, link: Link) -> None:
        self._pool = pool
        self._descriptor = descriptor
        self._link = link
        self.offset = descriptor.size_bytes

    def write(self, data: Buffer) -> None:
        if self.offset + len(data) > self._descriptor.size_bytes:
            raise ContentMismatch(f"more bytes than {self._descriptor.digest} has")
        self.offset += len(data)  # after a restart; the bytes are here, so these are not needed

    def fill(self, blob: Blob) -> None:
        blob.copy_to(self.write)

    def restart(self) -> None:
        self.offset = 0

    def commit(self) -> None:
        if self.offset != self._descriptor.size_bytes:
            raise ContentMismatch(f"{self.offset} of {self._descriptor.size_bytes} bytes of {self._descriptor.digest}")
        with self._pool.root.changing():
            if not self._pool.holds(self._descriptor):
                raise NotFound(f"{self._descriptor.digest} was removed meanwhile", hint="run this again")
            self._pool.root.unsettle(self._pool.path(self._descriptor.digest).parent)
            self._link(self._descriptor.digest)


class BlobSession:
    """An upload whose digest is told at the end (`store.Session`)."""

    def __init__(self, pool: Pool, id: str, partial: Partial, link: Link) -> None:
        self.id = id
        self._pool = pool
        self._partial = partial
        self._link = link

    @property
    def offset(self) -> int:
        return self._partial.offset

    def write(self, data: Buffer) -> None:
        self._partial.write(data)

    def commit(self, digest: Digest) -> Descriptor:
        found = self._partial.digest(digest.algorithm)
        size_bytes = self.offset
        if found != digest:
            self.abort()
            raise ContentMismatch(
                f"the upload's bytes are {found}, not {digest}", hint="what came was thrown away; upload it again"
            )
        self._pool.adopt(self._partial, digest, self._link)
        self._partial.close()
        return Descriptor(OCTETS, digest, size_bytes)

    def abort(self) -> None:
        self._partial.remove()
        self._partial.close()

    def close(self) -> None:
        hashed, self._partial.hash = self._partial.hash, None
        try:
            if hashed:
                hashed.wait()
                self._pool.remember(self.id, hashed, self.offset)
        finally:
            self._partial.close()


def _file_size(descriptor: int) -> int:
    return os.fstat(descriptor).st_size


def _open_existing(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def file_blob(path: Path, offset: int) -> FileBlob:
    """The bytes of a file from `offset` on; raises `FileNotFoundError`."""
    whole = FileBlob.whole(path)
    return whole.part(offset, max(0, whole.size_bytes - offset))
