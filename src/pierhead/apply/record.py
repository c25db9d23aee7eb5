"""What is remembered of a change, as values and as the JSON of `.pierhead`: digests and modes, never bytes of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pierhead.apply import tree
from pierhead.apply.tree import Print
from pierhead.errors import PierheadError
from pierhead.files import OutsideFolder, parts_of

FORMAT: Final = 1

Direction = Literal["forward", "back"]
T = TypeVar("T")


class DamagedRecord(PierheadError):
    """What stands in `.pierhead` is not what we wrote there."""

    def __init__(self, place: Path) -> None:
        super().__init__(
            f"{place} is damaged", hint="remove it to begin anew: no other file is touched, the last backup is lost"
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A change as the journal keeps it: the versions told apart, their bytes in the folder of the transaction."""

    path: str
    old: Print | None
    new: Print | None

    def version(self, direction: Direction) -> Print | None:
        """The one that shall be there in the end."""
        return self.new if direction == "forward" else self.old


@dataclass(frozen=True, slots=True)
class Origin:
    """What the files were made from: the name and sha256 of the registries.yaml, and all files that are ours then."""

    source: str
    sha256: str
    files: Mapping[str, Print] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """What was put in place last. `steps` and `transaction`: how; `before`: what was there until then."""

    runtime: str
    at: str
    origin: Origin
    action: Literal["apply", "rollback"] = "apply"
    transaction: str = ""
    steps: tuple[Step, ...] = ()
    before: Origin | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """The journal: a change that has begun."""

    direction: Direction
    record: Record

    def done(self, base: Path) -> int:
        """How many of its files are already what they shall be."""
        return sum(tree.print_of(base, step.path) == step.version(self.direction) for step in self.record.steps)


# ── as JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _print_json(item: Print | None) -> dict[str, Any] | None:
    return {"sha256": item.sha256, "mode": f"{item.mode:04o}"} if item else None


def _origin_json(origin: Origin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    files = {path: _print_json(item) for path, item in origin.files.items()}
    return {"source": origin.source, "sha256": origin.sha256, "files": files}


def _record_json(record: Record) -> dict[str, Any]:
    steps = [{"path": step.path, "old": _print_json(step.old), "new": _print_json(step.new)} for step in record.steps]
    return {
        "runtime": record.runtime,
        "at": record.at,
        "action": record.action,
        "origin": _origin_json(record.origin),
        "before": _origin_json(record.before),
        "transaction": record.transaction,
        "steps": steps,
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {"direction": entry.direction, "record": _record_json(entry.record)}


def as_bytes(value: Record | Entry) -> bytes:
    """What is written of it."""
    form = _record_json(value) if isinstance(value, Record) else _entry_json(value)
    return json.dumps({"format": FORMAT, **form}, indent=1).encode()


def record_of(data: bytes, place: Path) -> Record:
    """What stands in the file at `place`; raises `DamagedRecord`."""
    return _parsed(data, place, _record)


def entry_of(data: bytes, place: Path) -> Entry:
    """What stands in the file at `place`; raises `DamagedRecord`."""
    return _parsed(data, place, _entry)


def _parsed(data: bytes, place: Path, read: Callable[[dict[str, Any]], T]) -> T:
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise ValueError("made by another pierhead")
        return read(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OutsideFolder) as error:
        raise DamagedRecord(place) from error


def _print_of(value: dict[str, Any] | None) -> Print | None:
    return Print(str(value["sha256"]), int(value["mode"], 8)) if value else None


def _step(value: dict[str, Any]) -> Step:
    return Step(_path(value["path"]), _print_of(value["old"]), _print_of(value["new"]))


def _path(text: str) -> str:
    parts_of(text)
    return text


def _origin_of(value: dict[str, Any]) -> Origin:
    files = {_path(path): item for path, found in value["files"].items() if (item := _print_of(found))}
    return Origin(str(value["source"]), str(value["sha256"]), files)


def _record(value: dict[str, Any]) -> Record:
    before = value["before"]
    return Record(
        str(value["runtime"]),
        str(value["at"]),
        _origin_of(value["origin"]),
        "rollback" if value["action"] == "rollback" else "apply",
        _path(value["transaction"]) if value["transaction"] else "",
        tuple(map(_step, value["steps"])),
        _origin_of(before) if before else None,
    )


def _entry(value: dict[str, Any]) -> Entry:
    return Entry("back" if value["direction"] == "back" else "forward", _record(value["record"]))
