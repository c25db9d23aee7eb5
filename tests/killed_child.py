"""`pierhead` commands that are killed at a given moment: forked by a process that has everything imported.

`python killed_child.py` reads a JSON object per line: `arguments`, and `kill_after` seconds (null: never). It answers
with one per line: `killed`, `code`, `seconds`, `out`, `err`. A fresh interpreter for each of hundreds of commands would
take minutes; this process has no threads, so that it can fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TextIO

WAIT_SECONDS: Final = 60.0
PRELOADED: Final = (
    "cryptography.x509",
    "hashlib",
    "pierhead.archive",
    "pierhead.cli.copying.ends",
    "pierhead.cli.copying.running",
    "pierhead.cli.copying.shown",
    "pierhead.cli.copying.stored",
    "pierhead.cli.lists",
    "pierhead.cli.progress",
    "pierhead.cli.push",
    "pierhead.cli.seed.asked",
    "pierhead.cli.seed.form",
    "pierhead.cli.seed.report",
    "pierhead.cli.seed.text",
    "pierhead.cli.world",
    "pierhead.config.k3s",
    "pierhead.layout",
    "pierhead.push",
    "pierhead.rewriting",
    "pierhead.seed.seeder",
    "pierhead.transport.curl",
    "re2",
)


def run(arguments: Sequence[str], kill_after: float | None) -> dict[str, Any]:
    """Fork a command, and kill it if it still runs then."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _be(arguments, out, err)
        descriptor = os.pidfd_open(pid)
        try:
            ended = select.select([descriptor], [], [], WAIT_SECONDS if kill_after is None else kill_after)[0]
            if not ended:
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        finally:
            os.close(descriptor)
        out.seek(0)
        err.seek(0)
        return {
            "killed": os.WIFSIGNALED(status),
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started,
            "out": out.read(),
            "err": err.read(),
        }


def _be(arguments: Sequence[str], out: TextIO, err: TextIO) -> None:
    """Be the command, and never come back."""
    code = 99
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        from pierhead.cli import run as run_command

        code = run_command(list(arguments))
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # or every collection in a child copies what it shares with us
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(asked["arguments"], asked["kill_after"])), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
