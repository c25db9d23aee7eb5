"""`pierhead apply --watch`: one line on stderr for everything that happens, as a journal wants it."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import click

from pierhead.apply.changes import CERTS_D
from pierhead.apply.watch import Watch
from pierhead.cli.apply import text
from pierhead.cli.apply.once import Call, apply_once, refusal, source_file
from pierhead.errors import ExitCode, PierheadError, UsageError

if TYPE_CHECKING:
    from pierhead.apply.journal import Journal
    from pierhead.apply.target import Target

_ENDS = (signal.SIGTERM, signal.SIGINT)


def watch(target: Target, journal: Journal, flags: dict[str, Any], output: str) -> int:
    """Apply now and after each change, until a signal; it waits for what is under way."""
    call = Call.of(flags)
    file = source_file(target, call.file) or next(iter(target.registries_files))
    if output == "json" or str(file) == "-":
        raise UsageError("--watch looks at a file and writes lines", hint="leave out --output, and name a file")
    # Held back, and taken where we wait: a signal never comes in the middle of a change.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        _say(f"watching {file} for {target.runtime} ({target.base})")
        # When K3s starts, it makes certs.d anew from the node's own file.
        others = (target.base / CERTS_D,) if target.is_k3s else ()
        Watch(file, lambda: _act(target, journal, call), _tell, _ended, time.monotonic, others).run(flags["interval"])
        _say("ended")
    finally:
        while signal.sigtimedwait(_ENDS, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ExitCode.DONE


def _act(target: Target, journal: Journal, call: Call) -> None:
    report = apply_once(target, journal, call)
    failed = refusal(report)
    if failed is not None:
        raise failed
    _say(text.log_line(report))
    for problem in report.problems:
        _say(f"{problem.severity}: {' '.join(problem.message.split())}")
    for line in text.restart(report):
        _say(line.strip())


def _tell(error: PierheadError) -> None:
    hint = f"; {' '.join(error.hint.split())}" if error.hint else ""
    _say(f"error: {' '.join(str(error).split())}{hint}; what was applied before stays")


def _ended(seconds: float) -> bool:
    return signal.sigtimedwait(_ENDS, seconds) is not None


def _say(line: str) -> None:
    click.echo(line, err=True)
