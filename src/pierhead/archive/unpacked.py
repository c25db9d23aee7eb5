"""A compressed archive, or one that comes through a pipe, in a file that has no name: so it is read like any other.

The file is gone with the last who has it open, however the process ends. It never fills the disk.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from pierhead import compression
from pierhead.archive.invalid import NOT_OURS, InvalidArchive
from pierhead.archive.members import BLOCK_BYTES, is_header
from pierhead.body import write_all
from pierhead.layout.disk import unwritable
from pierhead.store import StoreUnwritable

EXPANDED_LIMIT_BYTES: Final = 64 * 1024 * 1024 * 1024  # of one archive, decompressed
# Zeros alone shrink like this; an archive of images does not, beyond a size that a layer full of zeros may have.
RATIO_LIMIT: Final = 1000
RATIO_FROM_BYTES: Final = 4 * 1024 * 1024 * 1024
RESERVE_BYTES: Final = 256 * 1024 * 1024  # left free on the disk for everybody else
PIECE_BYTES: Final = 1024 * 1024

STDIN: Final = Path("/dev/stdin")


def is_stream(path: Path) -> bool:
    """Whether it can be read only once: standard input, if that is a pipe, or the socket that sshd makes of it.

    Any other pipe is no archive: opening one that nobody writes to never ends.
    """
    if path != STDIN:
        return False
    mode = os.fstat(0).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@contextmanager
def plain(path: Path, scratch: Path | None) -> Iterator[Path]:
    """Where the bytes of a tar file can be read at any place: itself, or if it is compressed or a stream in `scratch`.

    Without a `scratch` that is where temporary files go (TMPDIR). Raises `InvalidArchive`, `StoreUnwritable`,
    `compression.UnreadableStream`, `OSError`.
    """
    if not is_stream(path) and _is_plain(path):
        yield path
        return
    folder = scratch or Path(tempfile.gettempdir())
    if not folder.is_dir():
        raise StoreUnwritable(folder, "there is no such folder", "an archive is decompressed there; make it first")
    with unwritable(folder):
        unnamed = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # what fails in it is no fault here
    with unnamed:
        _decompress(path, unnamed, folder)
        yield Path(f"/proc/self/fd/{unnamed.fileno()}")


def _is_plain(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.read(BLOCK_BYTES)
    return is_header(first) or not any(first)


@contextmanager
def _input(path: Path) -> Iterator[IO[bytes]]:
    """The bytes in order; of standard input by its descriptor, for a socket cannot be opened again."""
    with os.fdopen(os.dup(0), "rb") if path == STDIN else path.open("rb") as file:
        yield file


def _decompress(path: Path, unnamed: IO[bytes], folder: Path) -> None:
    limit = EXPANDED_LIMIT_BYTES if is_stream(path) else expansion_limit(path.stat().st_size)
    written = 0
    with _input(path) as file, compression.decompressed(file, str(path)) as stream:
        piece = stream.read(BLOCK_BYTES)
        if not piece:
            raise InvalidArchive(path, "nothing came through it", hint="did what writes to it fail?")
        if not is_header(piece):
            raise InvalidArchive(path, "it is no tar file", hint="name an OCI or docker archive, or a layout's folder")
        while piece:
            written += len(piece)
            if written > limit:
                reason = f"it decompresses to more than {limit} bytes"
                raise InvalidArchive(path, reason, hint=f"{NOT_OURS}; if you made it, decompress it yourself")
            _require_room(folder, len(piece))
            with unwritable(folder):
                write_all(unnamed.fileno(), piece)
            piece = stream.read(PIECE_BYTES)


def expansion_limit(size_bytes: int) -> int:
    """How many bytes may come out of so many compressed ones."""
    return min(EXPANDED_LIMIT_BYTES, max(RATIO_FROM_BYTES, RATIO_LIMIT * size_bytes))


def _require_room(folder: Path, count: int) -> None:
    room = os.statvfs(folder)
    if room.f_bavail * room.f_frsize < RESERVE_BYTES + count:
        raise StoreUnwritable(
            folder,
            f"less than {RESERVE_BYTES >> 20} MiB would be left free",
            "an archive is decompressed there; free some space, or let TMPDIR name a larger disk",
        )
