"""A connection that breaks: what is sent goes through, up to some byte, and then both ends hear nothing but a reset."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from real import RUN_SECONDS

PIECE_BYTES: Final = 64 * 1024


class Cutting:
    """Forwards connections to a port of the loopback, from `with` on.

    `allowance` is asked for each connection how many bytes of the client's go through before it is reset; None for all.
    At most so many are cut.
    """

    def __init__(self, port: int, allowance: Callable[[], int | None], *, at_most: int = 1000) -> None:
        self.upstream, self._allowance, self._at_most = port, allowance, at_most
        self.cut = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._waker, self._wake = socket.socketpair()
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._wake.close()
        for thread in self._threads:
            thread.join(RUN_SECONDS)
        self._listener.close()
        self._waker.close()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="cutting")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._waker not in select.select([self._listener, self._waker], [], [])[0]:
            client, _ = self._listener.accept()
            left = self._allowance()
            self._start(lambda client=client, left=left: self._forward(client, left))  # type: ignore[misc]

    def _forward(self, client: socket.socket, left: int | None) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.upstream)) as server:
            while True:
                ready = select.select([client, server, self._waker], [], [])[0]
                if self._waker in ready:
                    return
                if server in ready and not _pass_on(server, client):
                    return
                if client in ready:
                    data = client.recv(PIECE_BYTES)
                    if not data:
                        return
                    if left is not None and len(data) >= left and self._may_cut():
                        server.sendall(data[:left])
                        _reset(client)
                        return
                    server.sendall(data)
                    left = None if left is None else max(0, left - len(data))

    def _may_cut(self) -> bool:
        with self._lock:
            if self.cut >= self._at_most:
                return False
            self.cut += 1
            return True


def _pass_on(origin: socket.socket, target: socket.socket) -> bool:
    data = origin.recv(PIECE_BYTES)
    target.sendall(data)
    return bool(data)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
