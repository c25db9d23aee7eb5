"""The folder under a store: files that appear whole or not at all, locks between processes, and what a full disk says.

Two promises carry the store. A file becomes visible by a rename, after its bytes are on the disk (`Root.replace`,
`Root.adopt`). The folder entries of such renames reach the disk no later than anything that names them: they are
remembered and synced together (`Root.settle`), because one sync of a folder serves all files in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pierhead.body import write_all
from pierhead.store import StoreBusy, StoreUnwritable

LOCK_SECONDS: Final = 60.0  # how long a lock that is held for moments may take
FIRST_PAUSE_SECONDS: Final = 0.001
LONGEST_PAUSE_SECONDS: Final = 0.01

_SPACE = (
    "free some space and run it again, what was stored is kept; `pierhead gc` removes what no name needs, "
    "and with --grace 0 unfinished blobs too"
)
_RIGHTS = "check owner and mount of the folder, or choose another with --root"
# What these come to where no store is: `pierhead gc` and --root are about that.
_ELSEWHERE: Final = {
    _SPACE: "free some space on that disk and run it again, what was written is kept; or write to another one",
    _RIGHTS: "check owner and mount of the folder, or name another one",
}
_REASONS: Final = {
    errno.ENOSPC: ("no space left on the device", _SPACE),
    errno.EDQUOT: ("the disk quota is used up", _SPACE),
    errno.EFBIG: ("the file exceeds the size limit of the process or file system", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", _RIGHTS),
    errno.EACCES: ("permission denied", _RIGHTS),
    errno.EPERM: ("operation not permitted", _RIGHTS),
    errno.ENOTDIR: ("a file stands where a folder must be", _RIGHTS),
    errno.EISDIR: ("a folder stands where a file must be", _RIGHTS),
    errno.EEXIST: ("a file stands where a folder must be", _RIGHTS),
    errno.EIO: ("the device reports an input/output error", "check the disk (dmesg)"),
}


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a refused write into `StoreUnwritable`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise StoreUnwritable(path, *_REASONS[error.errno]) from error


@contextmanager
def outside_store() -> Iterator[None]:
    """Around what is written into some other folder than a store: the hints are about that one."""
    try:
        yield
    except StoreUnwritable as error:
        error.hint = _ELSEWHERE.get(error.hint, error.hint)
        raise


def take_lock(descriptor: int, patience: Patience, *, shared: bool = False) -> None:
    """Lock an open file against other openings of it, in this process and in others; raises `StoreBusy`."""
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    while True:
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            patience.wait()
        else:
            return


def try_lock(descriptor: int) -> bool:
    """Lock an open file if nobody else holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still is what stands at `path`; it may have been renamed or removed meanwhile."""
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


class Patience:
    """How long to wait for another holder: `seconds` without progress, or until `stop` is set."""

    def __init__(
        self, what: str, seconds: float, stop: threading.Event, *, progress: Callable[[], int] = lambda: 0
    ) -> None:
        self._what, self._seconds, self._stop = what, seconds, stop
        self._progress = progress
        self._seen = progress()
        self._until = time.monotonic() + seconds
        self._pause = FIRST_PAUSE_SECONDS

    def wait(self) -> None:
        """Wait a moment; raises `StoreBusy` when it has been long enough, or the store was told to stop."""
        if (now := self._progress()) != self._seen:
            self._seen, self._until = now, time.monotonic() + self._seconds
        if self._stop.wait(self._pause):
            raise StoreBusy(f"stopped while waiting for {self._what}")
        if time.monotonic() > self._until:
            raise StoreBusy(
                f"another process holds {self._what} and made no progress for {self._seconds:.0f} s",
                hint="end that process, or wait for it, and run this again",
            )
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)


class Root:
    """The folder of one store, and everything about files that is not about images.

    Locks and files on their way are in `work`, a folder below `path`, if not in `path` itself.
    """

    def __init__(self, path: Path, *, work: Path | None = None) -> None:
        self.path = path
        self.work = work or path
        self.stop = threading.Event()
        self._known: set[Path] = set()
        self._unsettled: set[Path] = set()
        self._settling = threading.Lock()

    def patience(
        self, what: str, seconds: float = LOCK_SECONDS, *, progress: Callable[[], int] = lambda: 0
    ) -> Patience:
        """The wait for something of this store; `stop` of the store ends it."""
        return Patience(what, seconds, self.stop, progress=progress)

    def create(self, path: Path, flags: int) -> int:
        """Open a file, made with its folder if missing."""
        flags |= os.O_CREAT | os.O_CLOEXEC
        if path.parent not in self._known:
            self._make_folder(path.parent)
        try:
            return os.open(path, flags, 0o644)
        except FileNotFoundError:  # gc took the folder away, empty
            self._make_folder(path.parent)
            return os.open(path, flags, 0o644)

    def touch(self, path: Path) -> None:
        """Make an empty file, or renew the time of the one that is there."""
        descriptor = self.create(path, os.O_WRONLY)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)
        self.unsettle(path.parent)

    def replace(self, path: Path, data: bytes) -> None:
        """Let `path` hold `data`: wholly or, after a crash, not at all. Its folder is left to `settle`."""
        scratch = self.work / "tmp" / os.urandom(16).hex()
        descriptor = self.create(scratch, os.O_WRONLY | os.O_EXCL)
        try:
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self.adopt(scratch, path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise

    def adopt(self, source: Path, path: Path) -> None:
        """Rename a file, whose bytes are on the disk, to `path`. The folder is left to `settle`."""
        if path.parent not in self._known:
            self._make_folder(path.parent)
        try:
            source.rename(path)
        except FileNotFoundError:
            self._make_folder(path.parent)
            source.rename(path)
        self.unsettle(path.parent)

    def remove(self, path: Path) -> bool:
        """Remove a file; whether it was there. The folder is left to `settle`."""
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        self.unsettle(path.parent)
        return True

    def unsettle(self, folder: Path) -> None:
        """Remember that entries of this folder, ours or those of another process, may not be on the disk yet."""
        self._unsettled.add(folder)

    def settle(self) -> None:
        """Every entry made or relied on so far is on the disk when this returns."""
        with self._settling:  # a second caller waits: what it relies on may be under way in the first
            while self._unsettled:
                folder = self._unsettled.pop()
                try:
                    _sync_folder(folder)
                except BaseException:
                    self._unsettled.add(folder)
                    raise

    def _make_folder(self, folder: Path) -> None:
        with unwritable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # Another process may have made it a moment ago, so all the way up may still be unsettled.
        self._known.add(folder)
        while folder != self.path:
            folder = folder.parent
            self.unsettle(folder)

    @contextmanager
    def locked(self, path: Path, *, shared: bool = False) -> Iterator[None]:
        """Hold the lock that is the file at `path`, for moments; raises `StoreBusy`, `StoreUnwritable`."""
        with unwritable(path):
            descriptor = self.create(path, os.O_RDONLY)
        try:
            take_lock(descriptor, self.patience(f"the lock {path}"), shared=shared)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around every change that gc must not run through. Many at once; short."""
        with self.locked(self.work / "lock", shared=True), unwritable(self.path):
            yield

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Around a collection: nothing changes meanwhile."""
        with self.locked(self.work / "lock"), unwritable(self.path):
            yield

    @contextmanager
    def lease(self) -> Iterator[None]:
        """A file that is locked while something is under way; its time says since when."""
        path = self.work / "leases" / os.urandom(16).hex()
        with unwritable(path):
            descriptor = self._open_lease(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def _open_lease(self, path: Path) -> int:
        with self.changing():  # gc removes leases nobody holds, and must not see this one before it is locked
            descriptor = self.create(path, os.O_RDONLY | os.O_EXCL)
            try_lock(descriptor)  # nobody else can know it yet
            return descriptor

    def leased_since(self) -> float:
        """When the oldest lease that is held began, in seconds of the epoch; infinity if none is.

        Ask while `collecting` only: to look at a lease is to lock it for a moment.
        """
        since = float("inf")
        for path in listing(self.work / "leases"):
            with contextlib.suppress(FileNotFoundError):
                if is_held(path):
                    since = min(since, path.stat().st_mtime)
        return since


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock on a file; raises `FileNotFoundError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def listing(folder: Path) -> list[Path]:
    """What is in a folder, in order; empty if there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return  # removed meanwhile, so nothing in it is relied on
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
