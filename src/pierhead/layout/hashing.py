"""A digest over bytes as they pass, beside the writing of them.

Hashing and writing both release the interpreter's lock, so a large body is hashed in a thread of its own while the
caller writes: the two take as long as the slower one. A small body is not worth a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Queue
from typing import TYPE_CHECKING, Final

from pierhead.body import Buffer
from pierhead.reference import Digest

if TYPE_CHECKING:
    import hashlib

THREAD_FROM_BYTES: Final = 2 * 1024 * 1024  # below, a thread costs more than it saves
BATCH_BYTES: Final = 256 * 1024  # what is handed over at once; network pieces may be as small as 16 KiB
BATCHES_WAITING: Final = 16  # so at most 4 MiB wait for the hash, unless the pieces are larger
READ_BYTES: Final = 1024 * 1024

Job = Callable[[], None]


class RunningHash:
    """The digest of all bytes given to it so far; for one caller at a time."""

    def __init__(self, hashed: hashlib._Hash) -> None:
        self.algorithm = hashed.name
        self._hash = hashed
        self._passed = 0
        self._batch: list[bytes] = []
        self._batched = 0
        self._jobs: Queue[Job | None] = Queue(BATCHES_WAITING)
        self._thread: threading.Thread | None = None
        self._abandoned = False
        self._error: Exception | None = None

    def update(self, data: Buffer) -> None:
        """Take the next bytes. `data` may be reused by the caller as soon as this returns."""
        self._passed += len(data)
        if self._passed < THREAD_FROM_BYTES:
            self._hash.update(data)
            return
        self._batch.append(data if isinstance(data, bytes) else bytes(data))
        self._batched += len(data)
        if self._batched >= BATCH_BYTES:
            self._hand_over()

    def update_from(self, descriptor: int, size_bytes: int) -> None:
        """Take the first `size_bytes` of an open file, which must stay open until `wait` or `abandon`."""
        self._passed += size_bytes
        if self._passed < THREAD_FROM_BYTES:
            self._read(descriptor, size_bytes)
        else:
            self._do(lambda: self._read(descriptor, size_bytes))

    def wait(self) -> None:
        """Until everything given is hashed; more can be given afterwards. Raises `OSError` of a failed read."""
        if self._batch:
            self._hand_over()
        self._stop()
        if self._error:
            raise self._error

    def digest(self) -> Digest:
        """The digest of everything given."""
        self.wait()
        return Digest(self.algorithm, self._hash.hexdigest())

    def abandon(self) -> None:
        """Let go of thread and file without finishing; the digest is worthless then. Calling it twice is fine."""
        self._abandoned = True
        self._batch.clear()
        self._stop()

    def _hand_over(self) -> None:
        batch, self._batch, self._batched = self._batch, [], 0
        self._do(lambda: self._take(batch))

    def _do(self, job: Job) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="pierhead-hash", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _stop(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._abandoned or self._error:
                continue
            try:
                job()
            except Exception as error:
                self._error = error  # raised again where the digest is asked for

    def _take(self, batch: list[bytes]) -> None:
        for piece in batch:
            self._hash.update(piece)

    def _read(self, descriptor: int, size_bytes: int) -> None:
        offset = 0
        while offset < size_bytes and not self._abandoned:
            piece = os.pread(descriptor, min(READ_BYTES, size_bytes - offset), offset)
            if not piece:
                raise OSError(f"the file ends at {offset} of {size_bytes} bytes")
            self._hash.update(piece)
            offset += len(piece)
