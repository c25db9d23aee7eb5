"""Changing a set of files as one: killed at any moment, each file is the old or the new one, and the next run ends it.

What it takes stands in the folder `.pierhead` beside the files, readable for their owner alone:

    lock            held by whoever changes anything
    journal.json    a change under way: its steps, and which way it goes
    applied.json    what was put in place last, and by which change it can be taken back
    t-<id>/         one change: new/<n>/ and old/<n>/ with the two versions of file n, each alone in its folder

A change is first staged (all of its bytes are on the disk), then written into the journal, then carried out by one
rename for each file. A journal that is found can therefore always be carried out to its end.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pierhead.apply import tree
from pierhead.apply.record import Entry, Record, Step, as_bytes, entry_of, record_of
from pierhead.apply.tree import Content, NotAFile, Print
from pierhead.errors import PierheadError

FOLDER: Final = ".pierhead"
LOCK: Final = "lock"
BEGUN: Final = "journal.json"
APPLIED: Final = "applied.json"
_SECRET_FOLDER: Final = 0o700
_SECRET_FILE: Final = 0o600


class Busy(PierheadError):
    """Somebody else is applying at this moment."""

    def __init__(self, base: Path) -> None:
        super().__init__(f"another pierhead is changing {base} at this moment", hint="run it again when that has ended")


class NothingToRollBack(PierheadError):
    """Nothing was applied here, or what was is no longer known."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file: what it holds, and what it shall hold; None is no file."""

    path: str
    old: Content | None
    new: Content | None


@dataclass(frozen=True, slots=True)
class Status:
    """How things stand. `entry`: a change that was interrupted, `done` of its files are through; `drifted`: files that
    are no longer what was put in place.
    """

    record: Record | None
    entry: Entry | None = None
    done: int = 0
    drifted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Journal:
    """The changes of the files below `base`; folders that are made get `folder_mode`."""

    base: Path
    folder_mode: int = 0o755

    @property
    def folder(self) -> Path:
        return self.base / FOLDER

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes anything meanwhile; raises `Busy`."""
        with tree.unwritable(self.base, "nothing is changed"):
            tree.make_folders(self.base, self.folder_mode)
            with suppress(FileExistsError):
                self.folder.mkdir(_SECRET_FOLDER)
            if self.folder.is_symlink():
                raise NotAFile(self.folder, "a symbolic link")
            descriptor = os.open(
                self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _SECRET_FILE
            )
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(self.base) from None
            yield
        finally:
            os.close(descriptor)

    def status(self) -> Status:
        """How things stand; changes nothing, needs no lock."""
        record, entry = self.record(), self._entry()
        if entry is not None:
            return Status(record, entry, entry.done(self.base))
        return Status(record, drifted=tuple(self._drifted(record)) if record else ())

    def _drifted(self, record: Record) -> Iterator[str]:
        left = {**{step.path: step.new for step in record.steps}, **record.origin.files}
        return (path for path, version in left.items() if tree.print_of(self.base, path) != version)

    def record(self) -> Record | None:
        """What was put in place last."""
        found = self._load(APPLIED)
        return record_of(found, self.folder / APPLIED) if found is not None else None

    # ── with the lock held ──

    def recover(self) -> Entry | None:
        """End a change that was interrupted, the way it was going; what it was."""
        entry = self._entry()
        if entry is not None:
            with tree.unwritable(self.base, "an interrupted change is still there, and the next run tries to end it"):
                self._carry_out(entry)
                self._finish(entry)
        with tree.unwritable(self.base, "nothing is changed"):
            self._sweep()
        return entry

    def commit(self, changes: Sequence[Change], record: Record) -> None:
        """Make all the changes or none; raises `PierheadError`, then everything is as it was.

        `record.transaction` and `steps` are set here.
        """
        transaction = os.urandom(6).hex()
        steps = tuple(Step(each.path, _print(each.old), _print(each.new)) for each in changes)
        entry = Entry("forward", replace(record, transaction=transaction, steps=steps))
        with tree.unwritable(self.base, "nothing is changed"):
            try:
                self._stage(transaction, changes)
                self._save(BEGUN, entry)
            except BaseException:
                self._forget_unless_begun(transaction)
                raise
        with tree.unwritable(self.base, "everything is as it was"):
            try:
                self._carry_out(entry)
            except (OSError, PierheadError):
                self._undo(entry)
                raise
        with tree.unwritable(self.base, "the files are in place, and the next run ends the change"):
            self._finish(entry)

    def note(self, record: Record) -> None:
        """Remember that what is there is what this record's origin makes; nothing else changes."""
        with tree.unwritable(self.base, "no other file is changed"):
            self._save(APPLIED, record)

    def backup(self) -> tuple[Change, ...]:
        """The changes that take back what was put in place last; raises `NothingToRollBack`."""
        record = self.record()
        if record is None or not record.steps:
            raise NothingToRollBack(
                f"nothing to roll back: pierhead has changed nothing in {self.base}",
                hint="`pierhead apply --status` says what is known",
            )
        taken = [self._taken_back(record.transaction, number, step) for number, step in enumerate(record.steps)]
        return tuple(reversed(taken))

    def _taken_back(self, transaction: str, number: int, step: Step) -> Change:
        kept = f"{_transaction(transaction)}/old/{number}/{_name(step.path)}"
        old = tree.read(self.folder, kept) if step.old else None
        if step.old and (old is None or old.print != step.old):
            raise NothingToRollBack(
                f"the backup of {step.path} is gone or damaged", hint="put it right by hand: nothing is changed"
            )
        return Change(step.path, tree.read(self.base, step.path), old)

    # ── the steps of a change ──

    def _stage(self, transaction: str, changes: Sequence[Change]) -> None:
        """Both versions of every file, on the disk before the journal speaks of them."""
        folder = self.folder / _transaction(transaction)
        folder.mkdir(_SECRET_FOLDER)
        for side in ("old", "new"):
            (folder / side).mkdir(_SECRET_FOLDER)
            for number, change in enumerate(changes):
                content = change.old if side == "old" else change.new
                if content is None:
                    continue
                alone = folder / side / str(number)
                alone.mkdir(_SECRET_FOLDER)
                tree.write_new(alone / _name(change.path), content)
                alone.chmod(self.folder_mode)  # it may become the folder of the file
                tree.settle(alone)
            tree.settle(folder / side)
        tree.settle(folder)
        tree.settle(self.folder)

    def _carry_out(self, entry: Entry) -> None:
        """Every file to its version; what is there already stays, so that it can be done again from any point.

        Forward a folder is filled before those inside it, and emptied after them; back is the same way back.
        """
        numbered = list(enumerate(entry.record.steps))
        for number, step in numbered if entry.direction == "forward" else reversed(numbered):
            self._install(entry, number, step)
        for folder in {parent for step in entry.record.steps for parent in _parents(self.base / step.path, self.base)}:
            tree.settle(folder)

    def _install(self, entry: Entry, number: int, step: Step) -> None:
        before, after = (step.old, step.new) if entry.direction == "forward" else (step.new, step.old)
        if tree.print_of(self.base, step.path) != before:
            return  # done already; or changed by somebody else since, who then knows better
        folder = self.folder / _transaction(entry.record.transaction)
        if after is None:
            tree.take(self.base, step.path, folder / f"gone-{os.urandom(4).hex()}")
        else:
            side = "new" if entry.direction == "forward" else "old"
            tree.put(folder / side / str(number) / _name(step.path), self.base, step.path)

    def _undo(self, entry: Entry) -> None:
        back = replace(entry, direction="back")
        with tree.unwritable(self.base, "some files are changed and some are not, and the next run ends that"):
            self._save(BEGUN, back)
            self._carry_out(back)
            self._finish(back)

    def _finish(self, entry: Entry) -> None:
        if entry.direction == "forward":
            self._save(APPLIED, entry.record)
        (self.folder / BEGUN).unlink()
        tree.settle(self.folder)
        self._sweep()

    def _sweep(self) -> None:
        """Nothing stays of changes that can no longer be taken back, or never began."""
        record = self.record()
        kept = {LOCK, BEGUN, APPLIED} | ({_transaction(record.transaction)} if record else set())
        for place in list(self.folder.iterdir()):
            if place.name in kept:
                continue
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()

    def _forget_unless_begun(self, transaction: str) -> None:
        """After a failure: the journal may be there although writing it failed at the very last."""
        with suppress(OSError, PierheadError):
            entry = self._entry()
            if entry is not None:
                self._carry_out(replace(entry, direction="back"))
                (self.folder / BEGUN).unlink()
            shutil.rmtree(self.folder / _transaction(transaction))

    # ── its own files ──

    def _entry(self) -> Entry | None:
        found = self._load(BEGUN)
        return entry_of(found, self.folder / BEGUN) if found is not None else None

    def _save(self, name: str, value: Record | Entry) -> None:
        tree.replace(self.folder / name, Content(as_bytes(value), _SECRET_FILE))

    def _load(self, name: str) -> bytes | None:
        found = tree.read(self.base, f"{FOLDER}/{name}")
        return found.data if found else None


def _print(content: Content | None) -> Print | None:
    return content.print if content else None


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _transaction(name: str) -> str:
    return f"t-{name}"


def _parents(place: Path, base: Path) -> list[Path]:
    return [above for above in place.parents if above == base or base in above.parents]
