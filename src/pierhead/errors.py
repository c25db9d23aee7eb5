"""What can go wrong, as values: where it is (`Span`), what it is (`Problem`), and the one exception family.

An error carries its values; the sentence is made from them. It says what happened, where, why, and what to do
next, and knows the exit code of the command that ends with it (`ExitCode`). Leaf errors live beside the code
that raises them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

FLAGS: Final = "<flags>"  # the file of a span that is on the command line
Severity = Literal["error", "warning", "note"]


class ExitCode(IntEnum):
    """How every command ends; documented in docs/reference/exit-codes.md."""

    DONE = 0
    FAILED = 1  # findings, or a failure that no other code names
    USAGE = 2  # the call, the reference or registries.yaml is unusable
    NOT_FOUND = 3
    NOT_AUTHORISED = 4
    NETWORK = 5  # network or TLS
    PARTIAL = 6  # several images, some failed
    INTERRUPTED = 130

    @classmethod
    def of_all(cls, errors: Sequence[PierheadError | None]) -> ExitCode:
        """How a command ends whose images ended so: of one its own code, of several PARTIAL if any failed."""
        failed = [error for error in errors if error is not None]
        if not failed:
            return cls.DONE
        return failed[0].exit_code if len(errors) == 1 else cls.PARTIAL


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A place in a text file. Lines and columns count from 1; columns count code points; the end is exclusive.

    `file` is the path as the user named it, or "-" for standard input, or FLAGS for the command line.
    """

    file: str
    line: int
    column: int = 1
    end_line: int = 0
    end_column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a person should know about their input; collected, never raised one by one.

    `id` is stable kebab-case ("duplicate-endpoint"); `severity` "error" means it will not do what it says,
    "warning" that it surprises, "note" the rest. `message` never holds a secret.
    """

    id: str
    severity: Severity
    message: str
    span: Span | None = None


class PierheadError(Exception):
    """Every error that pierhead raises on purpose.

    `message` is one sentence; `hint` says what to do next (may be empty); `span` is where, if it is in a file.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "", span: Span | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.span = span

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span else ""
        return f"{place}{self.message}"


class UsageError(PierheadError):
    """The call itself, a reference or a configuration file cannot be used."""

    exit_code = ExitCode.USAGE
