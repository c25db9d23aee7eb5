"""Files that are replaced whole or not at all, and trees of them that stay inside their folder."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from pierhead.errors import PierheadError

NAME_LIMIT_BYTES: Final = 255


def replace_file(path: Path, data: bytes) -> None:
    """Let the file at `path` hold `data`, with the mode and the owner it has; a crash leaves the old one or the new.

    A symbolic link stays one: what it points to is replaced. Raises `OSError`; then nothing is changed.
    """
    target = path.resolve(strict=True)
    known = target.stat()
    scratch = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, known.st_uid, known.st_gid)
            os.fchmod(descriptor, known.st_mode & 0o7777)
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
