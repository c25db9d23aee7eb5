"""Lines for standard error, written by a thread of their own: a slow terminal or pipe never stops the server."""

from __future__ import annotations

import queue
from threading import Thread
from typing import Final, TextIO

WAITING_LIMIT: Final = 10_000
CLOSE_SECONDS: Final = 2.0


class Log:
    """What is written here appears on `stream`, unless it comes faster than that takes it: then it is counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING_LIMIT)
        self._lost = 0
        self._thread = Thread(target=self._write, name="pierhead-log", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        """Never blocks. Control characters are shown, not sent."""
        try:
            self._lines.put_nowait(text if text.isprintable() else _shown(text))
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write what is waiting, for a bounded time."""
        try:
            self._lines.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _write(self) -> None:
        while (text := self._lines.get()) is not None:
            lost, self._lost = self._lost, 0
            try:
                if lost:
                    self._stream.write(f"{lost} lines left out: they came faster than they could be written\n")
                self._stream.write(text + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                return  # nobody reads any more


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
