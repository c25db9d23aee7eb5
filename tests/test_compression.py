"""Compressed streams: the same bytes whoever writes them, and read whole or refused."""

from __future__ import annotations

import bz2
import gzip
import io
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from components import program
from pierhead import compression
from pierhead.body import Buffer
from pierhead.compression import KINDS, Kind, UnreadableStream, compressed, decompressed, opened

STRETCH = 64  # small here, so that a few bytes are several frames
K3S_WINDOW_BYTES = 32 * 1024 * 1024
LOREM = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(2000))

pieces = st.lists(st.binary(max_size=3 * STRETCH), max_size=8)
packed_kinds = st.sampled_from([kind for kind in KINDS if kind != "none"])


def pack(data: list[bytes], kind: Kind, *, threads: int = 1, stretch: int = STRETCH) -> bytes:
    out = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "STRETCH_BYTES", stretch)
        with compressed(out.write, kind, threads=threads) as write:
            for piece in data:
                write(piece)
    return out.getvalue()


def unpack(data: bytes) -> bytes:
    with decompressed(io.BytesIO(data), "it") as stream:
        return stream.read()


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None, max_examples=60)
@given(data=pieces, kind=st.sampled_from(KINDS), threads=st.integers(1, 4))
def test_what_is_read_is_what_was_written_and_the_bytes_depend_on_nothing_else(
    data: list[bytes], kind: Kind, threads: int
) -> None:
    whole = b"".join(data)
    written = pack(data, kind, threads=threads)
    assert written == pack([whole], kind)
    # What was written without compression may look as if it were compressed: then it is read as such.
    if kind != "none":
        assert unpack(written) == whole


@settings(deadline=None, max_examples=30)
@given(data=st.binary(max_size=4 * STRETCH))
def test_other_readers_read_it(data: bytes) -> None:
    assert gzip.decompress(pack([data], "gzip")) == data
    reader = zstandard.ZstdDecompressor().stream_reader(pack([data], "zstd"), read_across_frames=True)
    assert reader.read() == data


def test_a_gzip_header_says_neither_when_nor_what() -> None:
    header = pack([LOREM], "gzip")[:9]
    assert header[3] == 0  # flags: no name, no comment
    assert header[4:8] == bytes(4)  # time


def test_every_zstd_frame_has_a_checksum_and_a_window_that_k3s_takes() -> None:
    written = pack([LOREM * 60], "zstd", stretch=compression.STRETCH_BYTES)
    frames = written.split(b"\x28\xb5\x2f\xfd")[1:]
    assert len(frames) == 2
    for frame in frames:
        said = zstandard.get_frame_parameters(b"\x28\xb5\x2f\xfd" + frame)
        assert said.has_checksum
        assert said.window_size <= compression.STRETCH_BYTES <= K3S_WINDOW_BYTES


def test_several_threads_compress_at_once() -> None:
    """With two threads the first stretch is not waited for before the second is begun."""
    begun: list[int] = []
    both = threading.Barrier(2, timeout=30)

    def slow(data: Buffer) -> bytes:
        begun.append(len(data))
        both.wait()
        return bytes(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "STRETCH_BYTES", STRETCH)
        patch.setattr(compression, "_packer", lambda _: slow)
        out = io.BytesIO()
        with compressed(out.write, "zstd", threads=2) as write:
            write(LOREM[: 2 * STRETCH])
    assert begun == [STRETCH, STRETCH]
    assert out.getvalue() == LOREM[: 2 * STRETCH]


def test_a_failure_while_writing_ends_it() -> None:
    def full(_: Buffer) -> None:
        raise OSError(28, "No space left on device")

    def fill() -> None:
        with compressed(full, "zstd", threads=2) as write:
            while True:
                write(bytes(compression.STRETCH_BYTES))

    with pytest.raises(OSError, match="No space left"):
        fill()


def test_what_is_broken_off_is_not_finished() -> None:
    out = io.BytesIO()

    def break_off() -> None:
        with compressed(out.write, "zstd", threads=1) as write:
            write(bytes(3 * compression.STRETCH_BYTES + 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert len(unpack(out.getvalue())) <= 3 * compression.STRETCH_BYTES


def test_nothing_follows_on_what_could_not_be_written() -> None:
    """Else there would be a hole in a stream that somebody reads as it comes."""
    written: list[int] = []

    def fail_once(data: Buffer) -> None:
        written.append(len(data))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), compressed(fail_once, "zstd", threads=4) as write:
        write(bytes(4 * compression.STRETCH_BYTES))
    assert len(written) == 1


@pytest.mark.real("zstd")
def test_the_programs_of_the_formats_take_it(tmp_path: Path) -> None:
    for kind, command in (("zstd", "zstd"), ("gzip", "gzip")):
        file = tmp_path / f"it.{kind}"
        file.write_bytes(pack([LOREM], kind, threads=2))  # type: ignore[arg-type]  # the literals of a tuple are str
        with file.open("rb") as stdin:
            path = program("zstd") if command == "zstd" else command
            done = subprocess.run([str(path), "-dc"], stdin=stdin, capture_output=True, check=True, timeout=60)
        assert done.stdout == LOREM


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "gzip": lambda data: gzip.compress(data, mtime=1),
    "bzip2": bz2.compress,
}
MAGIC = {"zstd": 4, "gzip": 2, "bzip2": 3}  # so many bytes say what it is


@pytest.mark.parametrize("name", PACKERS)
def test_members_and_frames_that_follow_each_other_are_one_stream(name: str) -> None:
    one = PACKERS[name]
    assert unpack(one(b"first") + one(b"") + one(LOREM)) == b"first" + LOREM


def test_the_kind_is_told_by_the_bytes_and_never_by_a_name(tmp_path: Path) -> None:
    for name, one in (*PACKERS.items(), ("none", bytes)):
        file = tmp_path / "it.tar.gz"
        file.write_bytes(one(LOREM))
        with opened(file) as stream:
            assert stream.read() == LOREM, name


@pytest.mark.parametrize("data", [b"", b"B", b"\x1f", b"\x28\xb5", b"a tar file"])
def test_what_is_not_compressed_is_what_it_is(data: bytes) -> None:
    assert unpack(data) == data


@pytest.mark.parametrize("name", PACKERS)
def test_cut_anywhere_is_an_error_and_no_end(name: str) -> None:
    whole = PACKERS[name](LOREM[:300])
    for length in range(MAGIC[name], len(whole)):
        with pytest.raises(UnreadableStream, match="it is cut short: it ends in the middle"):
            unpack(whole[:length])


@pytest.mark.parametrize("name", PACKERS)
def test_a_changed_byte_gives_an_error_or_changes_nothing(name: str) -> None:
    """Where nothing is changed it was no content: the time in a gzip header, say."""
    content = LOREM[:300]
    whole = PACKERS[name](content)
    refused = 0
    for position in range(MAGIC[name], len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x55
        try:
            assert unpack(bytes(changed)) == content
        except UnreadableStream:
            refused += 1
    assert refused > len(whole) // 2


@pytest.mark.parametrize("name", PACKERS)
def test_what_follows_and_is_none_of_it_is_an_error(name: str) -> None:
    with pytest.raises(UnreadableStream, match=r"it is damaged|it is cut short"):
        unpack(PACKERS[name](LOREM) + b"something else")


def test_skippable_frames_are_skipped_also_at_the_beginning() -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"index"
    assert unpack(skippable + PACKERS["zstd"](LOREM) + skippable) == LOREM
    with pytest.raises(UnreadableStream, match="cut short"):
        unpack(PACKERS["zstd"](LOREM) + skippable[:-1])


@settings(deadline=None, max_examples=40)
@given(
    data=st.binary(max_size=500),
    level=st.integers(1, 19),
    checksum=st.booleans(),
    content_size=st.booleans(),
    window_log=st.integers(10, 20),
)
def test_frames_of_every_shape_are_read(
    data: bytes, level: int, checksum: bool, content_size: bool, window_log: int
) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, write_checksum=checksum, write_content_size=content_size, window_log=window_log
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    written = stream.compress(data * 20) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    written += stream.compress(data) + stream.flush()
    assert unpack(written) == data * 21


@pytest.mark.parametrize(
    ("head", "what"), [(b"\x04\x22\x4d\x18", "lz4"), (b"\x02\x21\x4c\x18", "lz4"), (b"\xfd7zXZ\0", "xz")]
)
def test_other_kinds_are_refused_with_the_way_out(head: bytes, what: str) -> None:
    with pytest.raises(UnreadableStream, match=f"it is compressed with {what}") as refused:
        unpack(head + bytes(100))
    assert refused.value.hint == f"use {what} -d on it"


def test_a_window_that_would_take_all_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(UnreadableStream, match=r"it is damaged: .*memory"):
        unpack(stream.compress(b"x") + stream.flush())


def bombs() -> dict[str, bytes]:
    """Little that becomes 64 MiB of zeroes."""
    size = 64 * 1024 * 1024
    block = 128 * 1024
    # RFC 8878, 3.1.1.2: blocks of one byte that is repeated, the densest there are.
    repeated = (block << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (block << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    header = b"\x28\xb5\x2f\xfd\x00\x58"  # no checksum, no size, a window of 2 MiB
    zeroes = bytes(size)
    return {
        "zstd": header + repeated * (size // block - 1) + last,
        "gzip": zlib.compress(zeroes, 9, 31),
        "bzip2": bz2.compress(zeroes),
    }


def test_a_bomb_is_read_in_pieces_that_are_no_larger_than_others() -> None:
    for name, bomb in bombs().items():
        assert len(bomb) < 100_000
        tracemalloc.start()
        try:
            with decompressed(io.BytesIO(bomb), "it") as stream:
                count = 0
                while piece := stream.read1(compression.PIECE_BYTES):
                    count += len(piece)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == 64 * 1024 * 1024, name
        assert peak < 12 * 1024 * 1024, name


def test_bytes_come_before_all_of_it_is_read() -> None:
    """Whoever reads the names at the front of a tarball needs not the rest."""
    with decompressed(io.BytesIO(bombs()["zstd"] + b"never looked at"), "it") as stream:
        assert stream.read(10) == bytes(10)
