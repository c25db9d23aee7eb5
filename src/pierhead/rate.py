"""A limit on bytes per second that several threads share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

BURST_SECONDS: Final = 0.1  # what was not used is saved up for so long


class Rate:
    """At most so many bytes a second, whoever moves them.

    Bytes are spent after they came: whoever spends waits until they were due, and the network is held up by it.
    """

    def __init__(self, bytes_per_second: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds_per_byte = 1 / bytes_per_second
        self._clock = clock
        self._due = clock()
        self._lock = threading.Lock()

    def spend(self, count: int, wait: Callable[[float], object]) -> None:
        """Take note of `count` bytes, and `wait` for as many seconds as it takes until they were due."""
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now - BURST_SECONDS) + count * self._seconds_per_byte
            ahead = self._due - now
        if ahead > 0:
            wait(ahead)
