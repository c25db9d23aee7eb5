"""Doing something whenever a file changes: looked at by name, so that links that are switched over count as changes.

Kubernetes switches the link `..data` of a mounted ConfigMap or Secret from one folder to the next; the name then leads
to another file. Editors and `mv` do the same without a link. Looking every second or two is enough for both, works on
every file system, and needs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pierhead.errors import PierheadError

RETRY_SECONDS: Final = 30.0  # after a failure, if the file stays the same: a disk may get space, a CA file may come


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a name leads to another file, or that the file was written to."""

    device: int
    inode: int
    size_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """That of the file a name leads to; None if it leads to none."""
        try:
            found = path.stat()
        except (OSError, ValueError):
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(slots=True)
class Watch:
    """`act` is called at first and after each change of `path`; its failures are told once and tried again.

    It is called too when somebody else changes one of `others`, which `act` itself may change. `wait` waits that many
    seconds and says whether to end; `clock` is monotonic.
    """

    path: Path
    act: Callable[[], object]
    tell: Callable[[PierheadError], object]
    wait: Callable[[float], bool]
    clock: Callable[[], float]
    others: tuple[Path, ...] = ()
    told: str = ""

    def run(self, interval_seconds: float) -> None:
        """Until `wait` says so. A change is acted on when the file has stood still from one look to the next."""
        file = Stamp.of(self.path)
        due = self._try()
        seen = (file, self._beside())
        while not self.wait(interval_seconds):
            now = (Stamp.of(self.path), self._beside())
            if now != seen:
                seen, due = now, self.clock()
            elif due is not None and self.clock() >= due:
                due = self._try()
                seen = (seen[0], self._beside())

    def _beside(self) -> list[Stamp | None]:
        return [Stamp.of(path) for path in self.others]

    def _try(self) -> float | None:
        """Act; when to try again if it fails."""
        try:
            self.act()
        except PierheadError as error:
            if str(error) != self.told:
                self.tell(error)
                self.told = str(error)
            return self.clock() + RETRY_SECONDS
        self.told = ""
        return None
