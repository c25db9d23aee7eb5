"""Compressed streams, written and read in pieces: zstd (RFC 8878), gzip (RFC 1952), bzip2, and none at all.

What is written depends on nothing but the bytes: the stream is cut into stretches of one size, and each becomes a frame
of its own (zstd), or a member of its own (gzip), made by whichever thread is free. The formats say that such frames
read as one stream, and so do Go's and everybody's readers. (zstd's own threads are no way to it: the end of what they
write depends on how fast they were.)

What is read is told by its first bytes, never by a name. Each piece given has at most `PIECE_BYTES`, however little
came in for it; how many of them are too many is the caller's to say.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal, Protocol

from pierhead.body import Buffer, Write
from pierhead.crew import Batch, Crew
from pierhead.errors import PierheadError

if TYPE_CHECKING:
    import zstandard

Kind = Literal["zstd", "gzip", "none"]
KINDS: Final[tuple[Kind, ...]] = ("zstd", "gzip", "none")

# Two MiB: a third of a per cent larger than what `zstd -3` makes of it, and a few of them weigh little. A frame's
# window is at most its content, far below the 32 MiB that K3s allows itself (wharfie, pkg/tarfile: MaxDecoderMemory).
STRETCH_BYTES: Final = 2 * 1024 * 1024
ZSTD_LEVEL: Final = 3
GZIP_LEVEL: Final = 6
THREADS_LIMIT: Final = 5  # each takes ten megabytes
FAREWELL_SECONDS: Final = 2.0
# glibc gives memory back to the kernel whenever a large piece is let go of, and fetching it again page by page takes as
# long as zstd does for what cannot be compressed. It holds on to pieces up to the size of the largest one that it ever
# gave back (mallopt(3), M_MMAP_THRESHOLD), so it gives one back first, which nobody has touched.
_HELD_BYTES: Final = 8 * STRETCH_BYTES

PIECE_BYTES: Final = 1024 * 1024
READ_BYTES: Final = 64 * 1024
# As much as zstd itself takes by default (ZSTD_WINDOWLOG_LIMIT_DEFAULT); more is said by `--long=28` and above alone.
WINDOW_LIMIT_BYTES: Final = 128 * 1024 * 1024


class UnreadableStream(PierheadError):
    """A compressed stream that is cut short, damaged, or of a kind that is not read here."""


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def compressed(write: Write, kind: Kind, *, threads: int | None = None) -> Iterator[Write]:
    """What is written into this comes out of `write` compressed, all of it by the end of a `with` that ends well.

    The same bytes in any pieces, and any number of threads (default: one for each processor, up to a limit), come out
    as the same bytes. An exception leaves the stream cut short.
    """
    bytes(_HELD_BYTES)
    if kind == "none":
        yield write
        return
    stretches = _Stretches(write, _packer(kind), threads or min(os.cpu_count() or 1, THREADS_LIMIT))
    try:
        yield stretches.write
        stretches.finish()
    finally:
        stretches.close()


class _Stretches:
    """Bytes in stretches, several being compressed at once, written in their order by one thread beside them."""

    def __init__(self, write: Write, pack: Callable[[Buffer], bytes], threads: int) -> None:
        self._write = write
        self._pack = pack
        self._packers = Crew(threads, "compress")
        self._writer = Crew(1, "write")
        self._under_way: deque[tuple[bytearray, Batch[None]]] = deque()
        self._free = [bytearray(STRETCH_BYTES) for _ in range(threads + 2)]
        self._filled = 0
        self._wrote = False
        self._failed = False  # in the writing thread

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            count = min(len(view), STRETCH_BYTES - self._filled)
            self._free[-1][self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == STRETCH_BYTES:
                self._begin()

    def finish(self) -> None:
        if self._filled or not self._wrote:  # of nothing too there is a frame
            self._begin()
        while self._under_way:
            self._await_first()

    def close(self) -> None:
        for _, written in reversed(self._under_way):
            written.abandon()
        for crew in (self._writer, self._packers):
            crew.close(FAREWELL_SECONDS)

    def _begin(self) -> None:
        stretch = self._free.pop()
        packed = self._packers.do([partial(self._pack, memoryview(stretch)[: self._filled])])
        self._under_way.append((stretch, self._writer.do([partial(self._write_packed, packed)])))
        self._filled, self._wrote = 0, True
        if not self._free:
            self._await_first()

    def _write_packed(self, packed: Batch[bytes]) -> None:
        if self._failed:  # a hole would follow, in a stream that somebody may be reading
            return
        self._failed = True
        self._write(packed.results()[0])
        self._failed = False

    def _await_first(self) -> None:
        stretch, written = self._under_way.popleft()
        written.results()
        self._free.append(stretch)


def _packer(kind: Literal["zstd", "gzip"]) -> Callable[[Buffer], bytes]:
    if kind == "gzip":
        import zlib

        # 15 + 16: a gzip header, which zlib writes with no name and time 0.
        return lambda data: zlib.compress(data, GZIP_LEVEL, 15 + 16)
    own = threading.local()  # a compressor is for one thread

    def pack(data: Buffer) -> bytes:
        compressor: zstandard.ZstdCompressor | None = getattr(own, "compressor", None)
        if compressor is None:
            compressor = own.compressor = _zstd_compressor()
        return compressor.compress(data)

    return pack


def _zstd_compressor() -> zstandard.ZstdCompressor:
    import zstandard

    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed if its first bytes say that they are compressed; to be read in order.

    Raises `OSError`, and `UnreadableStream`, which reading from it may raise too.
    """
    with path.open("rb") as file, decompressed(file, str(path)) as stream:
        yield stream


def decompressed(file: IO[bytes], name: str) -> io.BufferedReader:
    """As `opened`, of a file that is open, buffered and at its beginning; `name` is for errors."""
    head = file.read(HEAD_BYTES)
    decoder = _decoder(head, name)
    return io.BufferedReader(_Decompressed(decoder(_Input(file, head, name))), PIECE_BYTES)


class _Decompressed(io.RawIOBase):
    """A file over pieces that come one after the other."""

    def __init__(self, pieces: Iterator[Buffer]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is no runtime name
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        memoryview(buffer)[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Input:
    """What is decompressed, with a few bytes of it read already."""

    def __init__(self, file: IO[bytes], head: bytes, name: str) -> None:
        self._file = file
        self._head = head
        self.name = name

    def read(self, count: int) -> bytes:
        """At most so many bytes; none at the end."""
        if not self._head:
            return self._file.read(count)
        piece, self._head = self._head[:count], self._head[count:]
        return piece

    def exactly(self, count: int) -> bytes:
        """Just so many bytes; raises `UnreadableStream` if it ends before."""
        data = self.read(count)
        while len(data) < count:
            more = self.read(count - len(data))
            if not more:
                raise self.cut()
            data += more
        return data

    def cut(self) -> UnreadableStream:
        return UnreadableStream(f"{self.name} is cut short: it ends in the middle", hint="fetch or write it again")

    def damaged(self, reason: object) -> UnreadableStream:
        return UnreadableStream(f"{self.name} is damaged: {reason}", hint="fetch or write it again")


Decoder = Callable[[_Input], Iterator[Buffer]]


def _plain(source: _Input) -> Iterator[Buffer]:
    while piece := source.read(PIECE_BYTES):
        yield piece


class _Member(Protocol):
    """A gzip member or bzip2 stream that is being read."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _members(source: _Input, new: Callable[[], _Member]) -> Iterator[Buffer]:
    """The content of one member after the other."""
    data = source.read(READ_BYTES)
    while data:
        member = new()
        while not member.eof:
            piece = member.decompress(data, PIECE_BYTES)
            data = getattr(member, "unconsumed_tail", b"")  # what zlib did not look at yet; bzip2 keeps it itself
            if piece:
                yield piece
            if not (data or piece or member.eof):
                data = source.read(READ_BYTES)
                if not data:
                    raise source.cut()
        data = member.unused_data or source.read(READ_BYTES)


def _gzip(source: _Input) -> Iterator[Buffer]:
    import zlib

    try:
        yield from _members(source, lambda: zlib.decompressobj(15 + 16))
    except zlib.error as error:
        raise source.damaged(error) from error


def _bzip2(source: _Input) -> Iterator[Buffer]:
    import bz2

    try:
        yield from _members(source, bz2.BZ2Decompressor)
    except OSError as error:
        raise source.damaged(error) from error


# ── zstd, block by block (RFC 8878, 3.1.1), so that a few bytes never become more than a block at once ──────────────


def _zstd(source: _Input) -> Iterator[Buffer]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT_BYTES)
    while magic := source.read(4):
        magic += source.exactly(4 - len(magic))
        if magic[1:] == _SKIPPABLE[1:] and magic[0] & 0xF0 == _SKIPPABLE[0]:
            _skip(source, int.from_bytes(source.exactly(4), "little"))
            continue
        if magic != _ZSTD_MAGIC:
            raise source.damaged("what follows on a zstd frame is none")
        frame = decompressor.decompressobj()
        try:
            for part in _frame_parts(source, magic):
                if piece := frame.decompress(part):
                    yield piece
        except zstandard.ZstdError as error:
            raise source.damaged(error) from error


def _skip(source: _Input, count: int) -> None:
    while count:
        count -= len(source.exactly(min(count, READ_BYTES)))


def _frame_parts(source: _Input, magic: bytes) -> Iterator[bytes]:
    """The header of a frame, each of its blocks, and the checksum."""
    flags = source.exactly(1)
    single_segment, checksum = flags[0] >> 5 & 1, flags[0] >> 2 & 1
    content_size = (single_segment, 2, 4, 8)[flags[0] >> 6]
    dictionary = (0, 1, 2, 4)[flags[0] & 3]
    yield magic + flags + source.exactly((1 - single_segment) + dictionary + content_size)
    last = 0
    while not last:
        head = source.exactly(3)
        value = int.from_bytes(head, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        if size > _BLOCK_LIMIT_BYTES:
            raise source.damaged(f"a block of {size} bytes")
        yield head + source.exactly(1 if kind == _RUN else size)
    if checksum:
        yield source.exactly(4)


_RUN: Final = 1  # a block that is one byte, repeated
_BLOCK_LIMIT_BYTES: Final = 128 * 1024
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x50\x2a\x4d\x18"  # and up to 5f

HEAD_BYTES: Final = 6
_DECODERS: Final[tuple[tuple[bytes, Decoder], ...]] = (
    (_ZSTD_MAGIC, _zstd),
    (b"\x1f\x8b", _gzip),
    (b"BZh", _bzip2),
)
_REFUSED: Final = (
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    (b"\x02\x21\x4c\x18", "lz4", "lz4 -d"),
    (b"\xfd7zXZ\0", "xz", "xz -d"),
)


def _decoder(head: bytes, name: str) -> Decoder:
    for magic, what, program in _REFUSED:
        if head.startswith(magic):
            raise UnreadableStream(
                f"{name} is compressed with {what}, which is not read here", hint=f"use {program} on it"
            )
    if head[1:4] == _SKIPPABLE[1:] and head[0] & 0xF0 == _SKIPPABLE[0]:  # as pzstd and other seekable writers begin
        return _zstd
    return next((decoder for magic, decoder in _DECODERS if head.startswith(magic)), _plain)
