"""Why an archive or a layout folder is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pierhead.errors import PierheadError

SHOWN_LIMIT: Final = 120  # characters of a member's name in a message

MADE_ANEW: Final = "copy it again, or have its maker write it again"
NOT_OURS: Final = "no tool that saves images writes such; do not use this file"


class InvalidArchive(PierheadError):
    """An archive or layout that cannot be used; `member` is the name inside of it that is to blame (may be empty)."""

    def __init__(self, path: Path, reason: str, *, member: str = "", hint: str = MADE_ANEW) -> None:
        super().__init__(f"{path} cannot be used: {shown(member) + ' ' if member else ''}{reason}", hint=hint)
        self.path = path
        self.member = member
        self.reason = reason


def shown(text: str) -> str:
    """A name out of an archive, fit to be printed: quoted, control characters escaped, not endless."""
    return ascii(text if len(text) <= SHOWN_LIMIT else text[:SHOWN_LIMIT] + "…")
