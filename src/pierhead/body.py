"""Bytes on their way: of a known size or not, copied in pieces, never held whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from pierhead.errors import PierheadError

COPY_CHUNK_BYTES: Final = 1024 * 1024

Buffer = bytes | bytearray | memoryview
Write = Callable[[Buffer], object]


class Blob(Protocol):
    """Bytes somewhere: of a known size (or None), copied out in pieces, never held whole."""

    @property
    def size_bytes(self) -> int | None: ...

    def copy_to(self, write: Write, offset: int = 0) -> int:
        """Call `write` with each piece from `offset` on; the number of bytes written.

        A `StreamBlob` starts at 0 only.
        """
        ...

    def close(self) -> None:
        """Let go of what is behind it. Calling it twice is fine."""
        ...


@dataclass(frozen=True, slots=True)
class BytesBlob:
    """A small body in memory: a manifest, a token answer, an error."""

    data: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def copy_to(self, write: Write, offset: int = 0) -> int:
        piece = memoryview(self.data)[offset:]
        if piece:
            write(piece)
        return len(piece)

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class FileBlob:
    """`size_bytes` bytes of a file from `offset` on; can be handed to the kernel without being read."""

    path: Path
    offset: int
    size_bytes: int

    @classmethod
    def whole(cls, path: Path) -> FileBlob:
        return cls(path, 0, path.stat().st_size)

    def part(self, start: int, size_bytes: int) -> FileBlob:
        """The `size_bytes` bytes from `start` of this blob."""
        return FileBlob(self.path, self.offset + start, size_bytes)

    def copy_to(self, write: Write, offset: int = 0) -> int:
        buffer = bytearray(COPY_CHUNK_BYTES)
        view = memoryview(buffer)
        left = max(0, self.size_bytes - offset)
        copied = 0
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + offset)
            while left and (count := file.readinto(view[: min(left, COPY_CHUNK_BYTES)])):
                write(view[:count])
                left -= count
                copied += count
        return copied

    def close(self) -> None:
        pass


@dataclass(slots=True)
class StreamBlob:
    """A body that comes once, piece by piece, such as an upload or a download under way."""

    pieces: Iterator[Buffer] = field(repr=False)
    size_bytes: int | None = None
    on_close: Callable[[], object] | None = field(default=None, repr=False)

    def copy_to(self, write: Write, offset: int = 0) -> int:
        if offset:
            raise ValueError("a stream is not read again from an offset")
        copied = 0
        for piece in self.pieces:
            write(piece)
            copied += len(piece)
        return copied

    def close(self) -> None:
        if self.on_close:
            self.on_close()
            self.on_close = None


class BodyTooLarge(PierheadError):
    """A body is larger than what it may be at this place."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


def read_all(blob: Blob, limit_bytes: int) -> bytes:
    """The whole body; raises `BodyTooLarge` as soon as it is known to exceed the limit."""
    if blob.size_bytes is not None and blob.size_bytes > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    data = bytearray()

    def take(piece: Buffer) -> None:
        if len(data) + len(piece) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        data.extend(piece)

    blob.copy_to(take)
    return bytes(data)


def write_all(descriptor: int, data: Buffer) -> int:
    """`os.write` until everything is written; the number of bytes."""
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.write(descriptor, view[written:])
    return written
