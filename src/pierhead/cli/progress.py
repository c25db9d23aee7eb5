"""How a transfer is shown: bars on a terminal, a line for each blob elsewhere, nothing if it should be quiet."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

import click

from pierhead.cli.options import size_text
from pierhead.oci import Descriptor
from pierhead.reference import Digest
from pierhead.transfer import Observer, Unobserved

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def progress(*, quiet: bool) -> Iterator[Observer]:
    """The observer that fits where stderr goes."""
    if quiet:
        yield Unobserved()
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield _Bars(bars)
    else:
        yield _Lines()


def short(descriptor: Descriptor) -> str:
    """A digest as people compare them: its first twelve digits."""
    return descriptor.digest.hex[:12]


class _Lines:
    """One line on stderr when a blob is done."""

    def __init__(self) -> None:
        self._offsets: dict[Digest, int] = {}

    def began(self, descriptor: Descriptor, offset: int) -> None:
        self._offsets[descriptor.digest] = offset

    def advanced(self, descriptor: Descriptor, count: int) -> None:
        pass

    def finished(self, descriptor: Descriptor, how: Literal["copied", "present", "failed"]) -> None:
        offset = self._offsets.pop(descriptor.digest, 0)
        resumed = f", the first {size_text(offset)} from before" if offset and how == "copied" else ""
        with suppress(OSError):  # nobody reads it any more: no reason to stop
            click.echo(f"{short(descriptor)}  {size_text(descriptor.size_bytes)}  {how}{resumed}", err=True)


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield bars


class _Bars:
    """A bar for each blob, with its rate and the time that is left."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[Digest, TaskID] = {}
        self._lock = threading.Lock()

    def began(self, descriptor: Descriptor, offset: int) -> None:
        with self._lock:
            task = self._tasks.get(descriptor.digest)
            if task is None:
                task = self._bars.add_task(short(descriptor), total=descriptor.size_bytes)
                self._tasks[descriptor.digest] = task
        self._bars.update(task, completed=offset)

    def advanced(self, descriptor: Descriptor, count: int) -> None:
        self._bars.advance(self._tasks[descriptor.digest], count)

    def finished(self, descriptor: Descriptor, how: Literal["copied", "present", "failed"]) -> None:
        with self._lock:
            task = self._tasks.pop(descriptor.digest, None)
        if task is not None:
            self._bars.remove_task(task)
