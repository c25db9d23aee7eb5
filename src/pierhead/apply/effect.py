"""One application from beginning to end: what it comes to, as a value, and the act.

`prepare` looks and decides and changes nothing; `carry_out` makes the change; `take_back` undoes the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pierhead.apply.changes import Changes, LeftAlone, Wanted, changes
from pierhead.apply.journal import Change, Journal
from pierhead.apply.node import Node, node
from pierhead.apply.record import Origin, Record
from pierhead.apply.target import Target
from pierhead.apply.tree import Content
from pierhead.apply.wanted import DAEMON_JSON, foreign_settings, wanted
from pierhead.config import k3s
from pierhead.config.k3s_hosts import Flags, K3sHosts
from pierhead.config.k3sfile import CannotRender
from pierhead.config.registries import RegistriesConfig
from pierhead.errors import Problem

NO_FLAGS: Final = Flags()

Result = Literal["applied", "unchanged"]


@dataclass(frozen=True, slots=True)
class Source:
    """The registries.yaml: as read, the sha256 of its bytes, and how K3s was told to read it."""

    config: RegistriesConfig
    sha256: str
    flags: Flags = NO_FLAGS

    @property
    def name(self) -> str:
        return self.config.file


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an application would do: the changes, what it cannot say, and what a running runtime does not notice."""

    target: Target
    source: Source
    hosts: K3sHosts
    wanted: Wanted
    changes: Changes
    node: Node

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (*self.wanted.lost, *self.node.problems)


def journal_of(target: Target) -> Journal:
    return Journal(target.base, target.folder_mode)


def prepare(target: Target, source: Source, record: Record | None, *, force: bool = False) -> Prepared:
    """What applying `source` would do; raises `UnusableConfig`, `CannotRender`, `UnsafeName`, `Unreadable`."""
    hosts = k3s.hosts(source.config, source.flags)
    if hosts.error:
        raise CannotRender(hosts.error)
    files = wanted(target, source.config, source.flags, hosts)
    found = changes(target, files, record, force=force)
    if target.runtime == "docker" and not force:
        found = _without_foreign(target, found, record)
    return Prepared(target, source, hosts, files, found, node(target, hosts, source.flags))


def _without_foreign(target: Target, found: Changes, record: Record | None) -> Changes:
    """An administrator's own mirrors in daemon.json are not replaced before somebody said so."""
    knows = record is not None and DAEMON_JSON in record.origin.files
    for change in found.changes:
        gone = foreign_settings(target, change.new, knows) if change.path == DAEMON_JSON and change.new else ""
        if gone:
            left = LeftAlone(DAEMON_JSON, f"its {gone} would be lost", "give --force to replace them, or remove them")
            kept = tuple(item for item in found.changes if item is not change)
            return replace(found, changes=kept, left_alone=(*found.left_alone, left))
    return found


def carry_out(journal: Journal, prepared: Prepared, at: str) -> Result:
    """Make the changes, all or none; with nothing to change only the record may. The lock is held."""
    record = journal.record()
    origin = _origin(prepared)
    if not prepared.changes:
        if record is None or _differs(record.origin, origin):
            kept = record or Record(prepared.target.runtime, at, origin)
            journal.note(replace(kept, origin=origin))
        return "unchanged"
    before = record.origin if record else Origin("", "")
    journal.commit(prepared.changes.changes, Record(prepared.target.runtime, at, origin, before=before))
    return "applied"


def take_back(journal: Journal, target: Target, at: str) -> Sequence[Change]:
    """Restore what was there before the last change, which is a change like any other; the lock is held.

    Raises `NothingToRollBack`. What is as it was already is left out of the result.
    """
    record = journal.record()
    wanted_changes = tuple(change for change in journal.backup() if change.old != change.new)
    assert record is not None  # else there is no backup
    before = record.before or Origin("", "")
    if wanted_changes:
        journal.commit(wanted_changes, Record(target.runtime, at, before, "rollback", before=record.origin))
    return wanted_changes


def _origin(prepared: Prepared) -> Origin:
    left = {item.path for item in prepared.changes.left_alone}
    written = {change.path: change.new for change in prepared.changes.changes}
    held: dict[str, Content] = {}
    for path, content in prepared.wanted.files.items():
        if path in written or path in prepared.changes.unchanged or path not in left:
            held[path] = written.get(path) or content
    source = prepared.source
    return Origin(source.name, source.sha256, {path: content.print for path, content in held.items()})


def _differs(one: Origin, other: Origin) -> bool:
    return (one.source, one.sha256, dict(one.files)) != (other.source, other.sha256, dict(other.files))
