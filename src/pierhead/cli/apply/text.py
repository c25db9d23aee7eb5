"""An application for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from pierhead.cli.apply.diffs import difference, printable
from pierhead.cli.told import at

if TYPE_CHECKING:
    from pierhead.apply.journal import Change
    from pierhead.apply.node import Stale
    from pierhead.apply.record import Entry
    from pierhead.apply.target import Target
    from pierhead.cli.apply.once import Report
    from pierhead.cli.apply.standing import Standing

NAMES_SHOWN = 6
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def report(item: Report) -> Iterator[str]:
    """What changes, and what the proof says."""
    prepared = item.prepared
    changes = prepared.changes
    if item.recovered is not None:
        yield _recovered(item.recovered)
    yield click.style(f"{prepared.target.runtime}, {prepared.target.base}", bold=True)
    for change in changes.changes:
        yield from map(_coloured, difference(change, secret=change.path in changes.secret))
    for left in changes.left_alone:
        label = click.style("left alone", fg="yellow")
        yield f"{label}: {printable(left.path)}: {printable(left.reason)}; {left.remedy}"
    if item.proof is not None:
        from pierhead.cli.probe import text as probe

        yield from probe.image(item.proof, prepared.source.config, ())


def ending(item: Report) -> Iterator[str]:
    """How it ended, and what only a restart brings."""
    if item.result == "refused":
        why = "the proof failed" if item.proof is not None else "the file has errors (--force applies it all the same)"
        yield f"{click.style('nothing is changed', fg='red', bold=True)}: {why}"
        return
    yield _result(item)
    if item.result == "applied" and item.prepared.target.runtime != "docker":
        stale = item.prepared.node.stale
        yield "the next pull asks these places" if stale else "the next pull goes by it, without a restart"
    yield from restart(item)


def _result(item: Report) -> str:
    changes = item.prepared.changes
    if not changes:
        but = "; what is left alone is not" if changes.left_alone else ""
        return f"nothing to change: the files are as this registries.yaml makes them{but}"
    if item.result == "dry-run":
        return f"would change {_count(changes.changes)}; nothing is changed (--dry-run)"
    return f"{click.style('applied', fg='green', bold=True)}: {_count(changes.changes)}"


def _files(number: int) -> str:
    return f"{number} file{'' if number == 1 else 's'}"


def _count(changes: Sequence[Change]) -> str:
    made = sum(change.old is None for change in changes)
    removed = sum(change.new is None for change in changes)
    parts = {"made": made, "changed": len(changes) - made - removed, "removed": removed}
    listed = ", ".join(f"{number} {what}" for what, number in parts.items() if number)
    return f"{_files(len(changes))} ({listed})"


def restart(item: Report) -> Iterator[str]:
    """What a running runtime does not notice, and the ways round."""
    prepared = item.prepared
    if prepared.target.runtime == "docker":
        if any(change.path == "daemon.json" for change in prepared.changes.changes):
            yield f"dockerd reads daemon.json when it is told to: {prepared.node.command} (containers go on running)"
        return
    stale = prepared.node.stale
    if not stale:
        return
    label = click.style("needs a restart", fg="yellow", bold=True)
    yield f"{label}: credentials, which {prepared.target.runtime} writes into config.toml when it starts"
    for credentials in stale:
        yield f"  {_stale(credentials)}{at(credentials.span)}"
    yield f"  until then pulls go on with those of the last start; to bring them: {prepared.node.command}"
    yield "  or, without a restart: name an endpoint without password (`pierhead serve`, filled by `pierhead pull`),"
    yield "  or place them in hosts.toml, for whoever can read that to see: `pierhead render containerd --header-auth`"
    if item.proof is not None and item.proof.plan.reference.registry in {name for s in stale for name in s.registries}:
        yield "  the proof was made with the new credentials, which containerd has after the restart"


_WHAT = {
    "new": "are new, nobody sends them yet",
    "changed": "are others, the old ones are sent",
    "gone": "are gone from the file, and still sent",
}


def _stale(item: Stale) -> str:
    names = ", ".join(item.registries[:NAMES_SHOWN]) + (", …" if len(item.registries) > NAMES_SHOWN else "")
    users = f" (images of {names})" if names else ""
    return f"{printable(item.key)}{users}: they {_WHAT[item.what]}"


def rollback(target: Target, changes: Sequence[Change], recovered: Entry | None) -> Iterator[str]:
    """What was restored."""
    if recovered is not None:
        yield _recovered(recovered)
    yield click.style(f"{target.runtime}, {target.base}", bold=True)
    for change in changes:
        word = "made again" if change.old is None else "removed" if change.new is None else "restored"
        yield f"{word}: {printable(change.path)}"
    if changes:
        yield "rolled back; --rollback once more would apply it again"
    else:
        yield "nothing to change: the files are as they were before the last apply"


def _recovered(entry: Entry) -> str:
    word = "completed" if entry.direction == "forward" else "taken back"
    return f"a change that had been interrupted was {word} first ({_files(len(entry.record.steps))})"


def log_line(item: Report) -> str:
    """An application in one line."""
    source = item.prepared.source
    if item.result == "unchanged":
        return f"nothing to change by {source.name} (sha256 {source.sha256[:12]})"
    left = f", {len(item.prepared.changes.left_alone)} left alone" if item.prepared.changes.left_alone else ""
    return f"applied {source.name} (sha256 {source.sha256[:12]}): {_count(item.prepared.changes.changes)}{left}"


def standing(item: Standing) -> Iterator[str]:
    """How things stand."""
    target, status = item.target, item.status
    yield click.style(f"{target.runtime}, {target.base}", bold=True)
    if status.entry is not None:
        total = len(status.entry.record.steps)
        way = "completes" if status.entry.direction == "forward" else "takes back"
        yield f"interrupted: {status.done} of {total} files are through; the next apply or --rollback {way} it first"
    record = status.record
    if record is None:
        if status.entry is None:
            yield "nothing was applied here yet"
        return
    word = "rolled back" if record.action == "rollback" else "applied"
    name = f" {record.origin.source} (sha256 {record.origin.sha256[:12]})" if record.origin.source else ""
    yield f"{word} at {record.at}:{name or ' to what was there before'}, {_files(len(record.origin.files))}"
    for path in status.drifted:
        yield f"{click.style('drifted', fg='yellow')}: {printable(path)} is not what was put there"
    if item.source_changed:
        yield f"{item.file} has changed since (sha256 {item.file_sha256[:12]}): `pierhead apply` goes by it"
    if item.state == "clean":
        yield "clean: every file is as it was put there"


def _coloured(line: str) -> str:
    colour = _COLOURS.get(line[:1])
    return click.style(line, fg=colour) if colour else line
