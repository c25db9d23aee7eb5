"""An address that refuses: a port that nobody else can take, and where nobody listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def refusing_port(host: str = "127.0.0.1") -> Iterator[tuple[int, int]]:
    """A port of `host` that is held without listening, and the descriptor that holds it.

    The kernel refuses every connection to it, as it does for a registry that is down. A child process that is given
    the descriptor goes on holding the port.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.bind((host, 0))
        yield held.getsockname()[1], held.fileno()
