"""Files that are replaced whole or not at all, and trees of them that stay inside their folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from pierhead.errors import PierheadError

NAME_LIMIT_BYTES: Final = 255
HAND_OVER_BYTES: Final = 16 * 1024 * 1024
# For 2 MiB at once Linux looks for a huge page to cache them in (ext4 with large folios): twice the time in the kernel.
WRITE_BYTES: Final = 512 * 1024


def replace_file(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Let the file at `path` hold `data`, with the mode and the owner it has; a crash leaves the old one or the new.

    `mode` is what it gets instead of the mode it has. A symbolic link stays one: what it points to is replaced. Raises
    `OSError`; then nothing is changed.
    """
    with _naming(path):
        _replace(path.resolve(strict=True), data, mode)


def _replace(target: Path, data: bytes, mode: int | None) -> None:
    known = target.stat()
    scratch = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, known.st_uid, known.st_gid)
            os.fchmod(descriptor, known.st_mode & 0o7777 if mode is None else mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        scratch.replace(target)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    _settle(target.parent)


def new_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Let there be a file at `path` that holds `data`, wholly or not at all; what is there stays.

    Raises `FileExistsError`, also for a symbolic link that leads nowhere, and `OSError`; then nothing is changed.
    """
    with _naming(path):
        _create(path, data, mode)


def _create(path: Path, data: bytes, mode: int) -> None:
    scratch = path.with_name(f".{os.urandom(8).hex()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.link(scratch, path)  # unlike a rename it replaces nothing
    finally:
        scratch.unlink(missing_ok=True)
    _settle(path.parent)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an `OSError` name the file that was meant: not the scratch file, and not none, as write(2) does."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = os.fspath(path), None
        raise


def write_file(path: Path, data: bytes) -> None:
    """Let there be a file at `path` that holds `data`: `replace_file` if it is there, else `new_file`."""
    if path.exists():
        replace_file(path, data)
    else:
        new_file(path, data)


class OutsideFolder(PierheadError):
    """A path that would leave the folder it is to be written in, or that no file system takes."""


def parts_of(path: str) -> list[str]:
    """The names in a relative path; raises `OutsideFolder` for `..`, an absolute one, and what cannot be a name."""
    parts = path.split("/")
    for part in parts:
        if part in ("", ".", "..") or "\0" in part or not _is_name(part):
            raise OutsideFolder(f"{path!r} is no path below a folder", hint="rename what it is made of")
    return parts


def _is_name(part: str) -> bool:
    try:
        return len(os.fsencode(part)) <= NAME_LIMIT_BYTES
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return False


def write_below(folder: Path, path: str, data: bytes, *, mode: int = 0o644, folder_mode: int = 0o755) -> None:
    """Let the file at `path` below `folder` hold `data`, wholly or not at all; makes the folders on the way.

    No symbolic link on the way is followed, so nothing outside of `folder` is touched. Raises `OutsideFolder`,
    `OSError`.
    """
    *above, name = parts_of(path)
    with ExitStack() as leaving:
        inside = _opened(os.fspath(folder), leaving)
        for part in above:
            with suppress(FileExistsError):
                os.mkdir(part, folder_mode, dir_fd=inside)
            inside = _opened(part, leaving, dir_fd=inside)
        _write_in(inside, name, data, mode)


def _opened(name: str, leaving: ExitStack, *, dir_fd: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if dir_fd is not None else 0)
    descriptor = os.open(name, flags, dir_fd=dir_fd)
    leaving.callback(os.close, descriptor)
    return descriptor


def _write_in(folder: int, name: str, data: bytes, mode: int) -> None:
    scratch = f".{os.urandom(8).hex()}"
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(scratch, dir_fd=folder)
        raise
    os.fsync(folder)


def _settle(folder: Path) -> None:
    """The new name is on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[Callable[[bytes | bytearray | memoryview], object]]:
    """Write in pieces what takes the place of the file at `path` when the `with` ends well, and not before or else.

    A file that is there keeps its mode; a symbolic link stays one. What is no file, a pipe or a device, is written to
    as it is. Raises `OSError`; `IsADirectoryError` before anything is written.
    """
    target = path.resolve()
    known = target.stat() if target.exists() else None
    if known is not None and not stat.S_ISREG(known.st_mode):
        with target.open("wb", buffering=0) as file:  # IsADirectoryError comes from here
            yield lambda data: _write_whole(file.fileno(), data)
        return
    scratch = target.with_name(f".{os.urandom(8).hex()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchmod(descriptor, known.st_mode & 0o7777 if known else mode)
            yield _Growing(descriptor).write
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        scratch.replace(target)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    _settle(target.parent)


class CannotWrite(PierheadError):
    """A file cannot be written as a whole."""

    def __init__(self, path: Path, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space on that disk, or write to another one; " if full else ""
        message = f"cannot write {path}: {error.strerror or error}"
        super().__init__(message, hint=f"{hint}what was there before is as it was")


@contextmanager
def whole_file(path: Path) -> Iterator[Callable[[bytes | bytearray | memoryview], object]]:
    """As `replacing`; raises `CannotWrite` for what is wrong with this file, not with one read meanwhile."""
    try:
        with replacing(path) as write:
            yield write
    except OSError as error:
        if error.filename is not None and Path(error.filename).parent != path.resolve().parent:
            raise
        raise CannotWrite(path, error) from error


class _Growing:
    """A file that is written from front to end, which the disk begins to take long before that end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = self._handed_over = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        _write_whole(self._descriptor, data)
        self._size += len(data)
        if self._size - self._handed_over >= HAND_OVER_BYTES:
            with suppress(OSError):  # as layout.ingest: it begins to write the stretch out, and returns at once
                length = self._size - self._handed_over
                os.posix_fadvise(self._descriptor, self._handed_over, length, os.POSIX_FADV_DONTNEED)
            self._handed_over = self._size


def _write_whole(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.write(descriptor, view[written : written + WRITE_BYTES])
