"""An application for programs: the form of docs/reference/apply.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pierhead.cli import problem_json
from pierhead.cli.apply.diffs import difference
from pierhead.cli.told import line_of

if TYPE_CHECKING:
    from pierhead.apply.journal import Change
    from pierhead.apply.record import Entry
    from pierhead.apply.target import Target
    from pierhead.apply.tree import Content
    from pierhead.cli.apply.once import Report
    from pierhead.cli.apply.standing import Standing


def report(item: Report) -> dict[str, Any]:
    """All of an application."""
    prepared = item.prepared
    return {
        **_target(prepared.target),
        "result": item.result,
        "source": {"file": prepared.source.name, "sha256": prepared.source.sha256},
        "recovered": _entry(item.recovered),
        "changes": [_change(change, change.path in prepared.changes.secret) for change in prepared.changes.changes],
        "unchanged": list(prepared.changes.unchanged),
        "left_alone": [
            {"path": left.path, "reason": left.reason, "remedy": left.remedy} for left in prepared.changes.left_alone
        ],
        "problems": [problem_json(problem) for problem in item.problems],
        "restart": {
            "command": prepared.node.command,
            "credentials": [
                {"key": one.key, "what": one.what, "registries": list(one.registries), "line": line_of(one.span)}
                for one in prepared.node.stale
            ],
        },
        "proof": _proof(item),
    }


def _target(target: Target) -> dict[str, Any]:
    return {"runtime": target.runtime, "folder": str(target.base)}


def _change(change: Change, secret: bool) -> dict[str, Any]:
    action = "make" if change.old is None else "remove" if change.new is None else "change"
    return {
        "path": change.path,
        "action": action,
        "before": _content(change.old),
        "after": _content(change.new),
        "diff": difference(change, secret=secret),
    }


def _content(content: Content | None) -> dict[str, Any] | None:
    return {"sha256": content.print.sha256, "mode": f"{content.mode:04o}"} if content else None


def _proof(item: Report) -> dict[str, Any] | None:
    if item.proof is None:
        return None
    from pierhead.cli.probe import form

    found: dict[str, Any] = form.image(item.proof, item.prepared.source.config, ())
    return found


def _entry(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {"direction": entry.direction, "files": [step.path for step in entry.record.steps]}


def rollback(target: Target, changes: Sequence[Change], recovered: Entry | None) -> dict[str, Any]:
    """What was restored."""
    return {
        **_target(target),
        "result": "rolled-back" if changes else "unchanged",
        "recovered": _entry(recovered),
        "changes": [_change(change, _is_closed(change.old) or _is_closed(change.new)) for change in changes],
    }


def _is_closed(content: Content | None) -> bool:
    """Whether only its owner may read it: what is in it is then not shown."""
    return content is not None and not content.mode & 0o044


def standing(item: Standing) -> dict[str, Any]:
    """How things stand."""
    record, entry = item.status.record, item.status.entry
    return {
        **_target(item.target),
        "state": item.state,
        "interrupted": {**(_entry(entry) or {}), "done": item.status.done} if entry else None,
        "applied": None
        if record is None
        else {
            "at": record.at,
            "action": record.action,
            "source": {"file": record.origin.source, "sha256": record.origin.sha256},
            "files": {path: found.sha256 for path, found in record.origin.files.items()},
        },
        "drifted": list(item.status.drifted),
        "source_changed": item.source_changed,
    }
