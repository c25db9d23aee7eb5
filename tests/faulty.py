"""A reverse proxy over which some requests fail, by chance that is the same on every run.

What can happen to a request: 503 without a word to the registry; the connection reset at once; reset in the middle of
the request's body, half of which the registry gets; reset in the middle of the answer.
"""

from __future__ import annotations

import http.client
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from hostile import HostileServer, Peer

FAULTS: Final = ("503", "reset", "half request", "half answer")
TIMEOUT_SECONDS: Final = 20.0
_HEADER = re.compile(rb"(?P<name>[^:\r\n]+): *(?P<value>[^\r\n]*)")


@dataclass
class Faulty:
    """Passes requests on to `upstream` (host:port), all but the `share` of them that fails; `happened` counts those."""

    upstream: str
    share: float
    chance: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, peer: Peer) -> None:
        with suppress(OSError, http.client.HTTPException):
            while head := peer.head():
                if not self._answer(peer, head):
                    return

    def _answer(self, peer: Peer, head: bytes) -> bool:
        method, target, *_ = head.split(b"\r\n", 1)[0].decode().split(" ")
        headers = [(m["name"].decode(), m["value"].decode()) for m in _HEADER.finditer(head.partition(b"\r\n")[2])]
        known = {name.lower(): value for name, value in headers}
        fault = self._drawn()
        if fault == "reset":
            peer.reset()
            return False
        if known.get("expect"):
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunked = "chunked" in known.get("transfer-encoding", "")
        size = int(known.get("content-length", "0"))
        if fault == "half request" and size:
            self._send_half(method, target, headers, peer.body(size // 2))
            peer.reset()
            return False
        body = peer.chunked_body() if chunked else peer.body(size)
        if fault == "503":
            peer.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            return True
        answer = self._ask(method, target, headers, body)
        if fault is not None:
            peer.send(answer[: len(answer) // 2])
            peer.reset()
            return False
        peer.send(answer)
        return True

    def _drawn(self) -> str | None:
        with self.lock:
            fault = self.chance.choice(FAULTS) if self.chance.random() < self.share else None
            if fault:
                self.happened[fault] += 1
            else:
                self.passed += 1
            return fault

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.upstream, timeout=TIMEOUT_SECONDS)

    def _ask(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
        connection = self._connection()
        try:
            self._begin(connection, method, target, headers, len(body))
            connection.send(body)
            response = connection.getresponse()
            data = response.read()
            kept = [(name, value) for name, value in response.getheaders() if name.lower() != "transfer-encoding"]
            if not any(name.lower() == "content-length" for name, _ in kept) and method != "HEAD":
                kept.append(("Content-Length", str(len(data))))
            lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in kept)]
            return "\r\n".join([*lines, "", ""]).encode("latin-1") + data
        finally:
            connection.close()

    def _send_half(self, method: str, target: str, headers: list[tuple[str, str]], half: bytes) -> None:
        connection = self._connection()
        try:
            self._begin(connection, method, target, headers, 2 * len(half) + 1)
            connection.send(half)
        finally:
            connection.close()

    def _begin(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        size: int,
    ) -> None:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "expect", "connection"):
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(size))
        connection.endheaders()


@contextmanager
def faulty(upstream: str, *, share: float, seed: int) -> Iterator[tuple[Faulty, str]]:
    """The proxy while it is open, and its host:port."""
    script = Faulty(upstream, share, random.Random(seed))
    with HostileServer(script) as server:
        yield script, server.place
