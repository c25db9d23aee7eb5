"""One at a time: a file of logins is read, changed and replaced, and nobody else's login is lost by that."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pierhead.errors import PierheadError

WAIT_SECONDS: Final = 60.0  # whoever is before us may be waiting for a credential helper
PAUSE_SECONDS: Final = 0.02


class Busy(PierheadError):
    """Somebody else has been changing the same file for too long."""

    def __init__(self, path: Path) -> None:
        hint = "end that process, or wait for it, and run this again"
        super().__init__(f"another pierhead has been changing {path} for {WAIT_SECONDS:.0f} s", hint=hint)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let no other pierhead change the file at `path`, whose folder is locked: the file itself is replaced.

    Raises `Busy`. Without a folder, and on a file system without locks, nobody waits.
    """
    try:
        descriptor = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    until = time.monotonic() + WAIT_SECONDS
    with suppress(OSError):
        while not _locked(descriptor):
            if time.monotonic() > until:
                raise Busy(path)
            time.sleep(PAUSE_SECONDS)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
