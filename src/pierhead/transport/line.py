"""A line to the network: one libcurl handle with a connection cache of its own, driven by whoever holds it."""

from __future__ import annotations

import select
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import pycurl

# Connections that one line keeps: a registry, its token server, where it redirects blobs to, and one more.
CONNECTIONS_PER_LINE: Final = 4
# poll() takes milliseconds; this bounds a wait whatever libcurl thinks.
STEP_LIMIT_SECONDS: Final = 60.0

_WATCHED: Final = {
    pycurl.POLL_IN: select.POLLIN,
    pycurl.POLL_OUT: select.POLLOUT,
    pycurl.POLL_INOUT: select.POLLIN | select.POLLOUT,
    pycurl.POLL_NONE: 0,
}


class Line:
    """One transfer at a time: `begin`, then `step` until `outcome` is there, then `end`.

    The multi interface hands control back while a transfer is under way, so that an answer is returned before its
    body is read and Python's signal handlers run between steps. libcurl's own waiting would go through select(2),
    which fails beyond 1024 open files, so we watch its sockets ourselves.
    """

    def __init__(self) -> None:
        self.easy = pycurl.Curl()
        self.outcome: tuple[int, str] | None = None  # libcurl's code (0: done) and words
        self.origins: dict[str, None] = {}  # where it may have connections to, oldest first
        self.connected_at: float | None = None  # when a new connection stood, before TLS
        self.sockets: set[int] = set()  # that were opened for this transfer
        self._multi = pycurl.CurlMulti()
        self._poll = select.poll()
        self._due: float | None = None
        self._busy = False
        self._raised: BaseException | None = None
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, CONNECTIONS_PER_LINE)

    def begin(self, origin: str = "") -> None:
        """Start the transfer that `easy` is set up for."""
        self.outcome = self._raised = self.connected_at = None
        self.sockets.clear()
        self.easy.setopt(pycurl.SOCKOPTFUNCTION, self._opened)
        self.origins.pop(origin, None)
        self.origins[origin] = None
        if len(self.origins) > CONNECTIONS_PER_LINE:
            self.origins.pop(next(iter(self.origins)))
        self._multi.add_handle(self.easy)
        self._busy = True

    def step(self, wait_seconds: float) -> bool:
        """Wait for a socket or a timer at most so long, and let libcurl act; whether a socket was ready."""
        now = monotonic()
        wait = min(wait_seconds, STEP_LIMIT_SECONDS)
        if self._due is not None:
            wait = min(wait, self._due - now)
        ready = self._poll.poll(max(0.0, wait * 1000))
        for descriptor, events in ready:
            self._act(descriptor, _happened(events))
        if self._due is not None and self._due <= monotonic():
            self._due = None
            self._act(pycurl.SOCKET_TIMEOUT, 0)
        self._raise()
        return bool(ready)

    def resume(self) -> None:
        """Go on with what a callback paused; may call callbacks."""
        self.easy.pause(pycurl.PAUSE_CONT)
        self._raise()

    def guarded(self, callback: Callable[[bytes], int | None]) -> Callable[[bytes], int | None]:
        """`callback` for libcurl: what it raises ends the transfer and is raised by `step` or `resume`.

        pycurl itself lets a KeyboardInterrupt through and prints anything else.
        """

        def call(data: bytes) -> int | None:
            try:
                return callback(data)
            except BaseException as error:
                self._raised = error
                return -1

        return call

    def _raise(self) -> None:
        error, self._raised = self._raised, None
        if error is not None:
            raise error

    def end(self) -> None:
        """Take the transfer off the line; a connection in the middle of one is closed."""
        if self._busy:
            self._busy = False
            self._multi.remove_handle(self.easy)

    def close(self) -> None:
        """Close every connection."""
        self.end()
        self.easy.close()
        self._multi.close()

    def _act(self, descriptor: int, events: int) -> None:
        _, running = self._multi.socket_action(descriptor, events)
        if running == 0 and self.outcome is None:
            _, done, failed = self._multi.info_read()
            if done:
                self.outcome = (pycurl.E_OK, "")
            for _, code, words in failed:
                self.outcome = (code, words)

    def _opened(self, descriptor: int, _purpose: int) -> int:
        self.sockets.add(descriptor)
        return int(pycurl.SOCKOPT_OK)

    def _watch(self, what: int, descriptor: int, *_: Any) -> None:
        if what == pycurl.POLL_REMOVE:
            self._poll.unregister(descriptor)
        else:
            self._poll.register(descriptor, _WATCHED[what])
            # libcurl's own times come only when TLS stands too. A socket that is waited on for input is connected.
            if self.connected_at is None and descriptor in self.sockets and what != pycurl.POLL_OUT:
                self.connected_at = monotonic()

    def _set_timer(self, milliseconds: int) -> None:
        self._due = None if milliseconds < 0 else monotonic() + milliseconds / 1000


def _happened(events: int) -> int:
    """poll's events for libcurl. Of an error or a hang-up it learns best by reading and writing."""
    happened = pycurl.CSELECT_IN if events & ~select.POLLOUT else 0
    return happened | (pycurl.CSELECT_OUT if events & ~select.POLLIN else 0)


def drive(line: Line, until: Callable[[], bool], seconds: float) -> bool:
    """Step until `until()` or the end of the transfer; False if it took longer than `seconds`."""
    deadline = monotonic() + seconds
    while line.outcome is None and not until():
        left = deadline - monotonic()
        if left <= 0:
            return False
        line.step(left)
    return True
