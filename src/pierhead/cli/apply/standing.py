"""How things stand at a runtime: what was applied, by which file, and whether that is still so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pierhead.config.registries import ConfigUnreadable, read_limited

if TYPE_CHECKING:
    from pierhead.apply.journal import Status
    from pierhead.apply.target import Target

State = Literal["clean", "never", "interrupted", "drifted"]


@dataclass(frozen=True, slots=True)
class Standing:
    """`file_sha256`: of the registries.yaml as it is now; empty if there is none."""

    target: Target
    status: Status
    file: str = ""
    file_sha256: str = ""

    @classmethod
    def of(cls, target: Target, status: Status, file: Path | None) -> Standing:
        try:
            data = read_limited(file) if file is not None and str(file) != "-" else None
        except ConfigUnreadable:
            data = None
        return cls(target, status, str(file or ""), hashlib.sha256(data).hexdigest() if data is not None else "")

    @property
    def state(self) -> State:
        if self.status.entry is not None:
            return "interrupted"
        if self.status.drifted:
            return "drifted"
        return "clean" if self.status.record else "never"

    @property
    def is_sound(self) -> bool:
        return self.state in ("clean", "never")

    @property
    def source_changed(self) -> bool:
        """Whether the registries.yaml is no longer what was applied."""
        record = self.status.record
        return record is not None and bool(self.file_sha256) and record.origin.sha256 != self.file_sha256
