"""The files below one folder, by relative path: read, put in place and taken away without following a link."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pierhead.errors import PierheadError
from pierhead.files import parts_of

READ_LIMIT_BYTES: Final = 8 * 1024 * 1024  # of one file; K3s' own are a few kilobytes, a daemon.json too


class NotAFile(PierheadError):
    """Something other than a plain file in plain folders: a link, a folder, a device, or more than anybody reads."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} is {what}", hint="put a plain file or nothing in its place")
        self.path, self.what = path, what


class Unreadable(PierheadError):
    """What the operating system does not let us read."""

    def __init__(self, path: Path, error: OSError) -> None:
        reason = error.strerror or str(error)
        super().__init__(f"{path} cannot be read: {reason}", hint="run it as the owner of the folder, mostly root")


@dataclass(frozen=True, slots=True)
class Print:
    """What tells one version of a file from another."""

    sha256: str
    mode: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds, and its mode."""

    data: bytes = field(repr=False)
    mode: int

    @property
    def print(self) -> Print:
        return Print(hashlib.sha256(self.data).hexdigest(), self.mode)

    @property
    def first_line(self) -> bytes:
        return self.data.partition(b"\n")[0].removesuffix(b"\r")


@contextmanager
def unwritable(base: Path, consequence: str) -> Iterator[None]:
    """What the operating system says about a refused write, in one sentence; `consequence` is what that leaves."""
    try:
        yield
    except OSError as error:
        place = error.filename2 or error.filename or base
        place = base if isinstance(place, int) else os.fsdecode(place)
        reason = error.strerror or str(error)
        hint = "free some space, or check the owner and the mount of the folder, and run it again"
        raise PierheadError(f"{place} cannot be written: {reason}; {consequence}", hint=hint) from error


def place_of(base: Path, path: str) -> Path:
    """Where `path` is below `base`; raises `OutsideFolder`, and `NotAFile` if a link or a file is on the way."""
    place = base
    for part in parts_of(path)[:-1]:
        place /= part
        with suppress(FileNotFoundError):
            mode = place.lstat().st_mode
            if not stat.S_ISDIR(mode):
                raise NotAFile(place, "a symbolic link" if stat.S_ISLNK(mode) else "no folder")
    return base / path


def read(base: Path, path: str) -> Content | None:
    """The file at `path`, or None if there is none; raises `NotAFile`, `OutsideFolder`, `Unreadable`."""
    try:
        place = place_of(base, path)
        mode = place.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise NotAFile(place, "a symbolic link" if stat.S_ISLNK(mode) else "no plain file")
        with place.open("rb") as file:
            data = file.read(READ_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(base / path, error) from error
    if len(data) > READ_LIMIT_BYTES:
        raise NotAFile(place, f"larger than {READ_LIMIT_BYTES} bytes")
    return Content(data, stat.S_IMODE(mode))


def names(base: Path, folder: str) -> tuple[str, ...]:
    """What stands in a folder, in order; nothing if it is none. Raises `Unreadable`."""
    try:
        return tuple(sorted(entry.name for entry in place_of(base, f"{folder}/x").parent.iterdir()))
    except (FileNotFoundError, NotADirectoryError, NotAFile):
        return ()
    except OSError as error:
        raise Unreadable(base / folder, error) from error


def print_of(base: Path, path: str) -> Print | None:
    """What tells the version that is there; None for no file, or for something that is none."""
    try:
        found = read(base, path)
    except NotAFile:
        return None
    return found.print if found else None


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_new(place: Path, content: Content) -> None:
    """A file that was not there, on the disk when this returns."""
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(content.data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fchmod(descriptor, content.mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(place: Path, content: Content) -> None:
    """A file with this content, whatever was there; on the disk when this returns."""
    scratch = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
    try:
        write_new(scratch, content)
        scratch.rename(place)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    settle(place.parent)


def settle(folder: Path) -> None:
    """The names in a folder are on the disk when this returns; one that is gone needs nothing."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folders(folder: Path, mode: int) -> None:
    """The folder and those above it that are missing."""
    if not folder.is_dir():
        make_folders(folder.parent, mode)
        with suppress(FileExistsError):
            folder.mkdir(mode)


def put(staged: Path, base: Path, path: str) -> None:
    """Let the staged file be at `path`. `staged` is alone in its folder: where `path`'s own folder is missing, that
    one is put there, so that nobody ever sees the folder without the file (to containerd that is a registry without
    endpoints).
    """
    place = place_of(base, path)
    if place.parent.is_dir():
        staged.rename(place)
    else:
        make_folders(place.parent.parent, stat.S_IMODE(staged.parent.stat().st_mode))
        staged.parent.rename(place.parent)


def take(base: Path, path: str, aside: Path) -> None:
    """Let nothing be at `path`: its folder goes with it, to `aside`, if it holds nothing else and lies in another."""
    place = place_of(base, path)
    folder = place.parent
    if path.count("/") < 2 or len(list(folder.iterdir())) > 1:
        place.unlink()
        return
    folder.rename(aside)
    with suppress(OSError):  # those above it, as far as they are empty now; never the first below `base`
        for above in list(folder.relative_to(base).parents)[:-2]:
            (base / above).rmdir()
