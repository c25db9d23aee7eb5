"""A proxy that leads every name to one place on the loopback, for registries that must not be called localhost.

containerd trusts anybody on the loopback; what it does with certificates shows only under another name.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from hostile import HostileServer, Peer

PIECE_BYTES: Final = 64 * 1024


@dataclass
class Tunnel:
    """CONNECT (RFC 9110, section 9.3.6) to the places that `leads` has for `host:port`; 502 for others."""

    leads: Mapping[str, str]
    connected: list[str] = field(default_factory=list)

    def __call__(self, peer: Peer) -> None:
        method, target, *_ = (peer.head().decode() or "- -").split(" ")
        self.connected.append(target)
        place = self.leads.get(target)
        if method != "CONNECT" or place is None:
            peer.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = place.rpartition(":")
        with socket.create_connection((host, int(port))) as beyond:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pass_on, args=(beyond, peer.connection))
            back.start()
            _pass_on(peer.connection, beyond)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def tunnel(leads: Mapping[str, str]) -> Iterator[tuple[Tunnel, dict[str, str]]]:
    """The tunnel while it is open, and the environment that sends a program through it."""
    script = Tunnel(leads)
    with HostileServer(script) as server:
        yield script, {"HTTPS_PROXY": server.url, "HTTP_PROXY": server.url}
