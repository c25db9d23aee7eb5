"""A scripted server over raw sockets: what no well-behaved HTTP server would send, and a count of what it got.

    with HostileServer(answer(b"HTTP/1.1 200 OK\\r\\n\\r\\n")) as server: ...

Every connection runs the next script in a thread of its own; the last script is repeated. A script that waits gives up
when the server is closed, so that no test hangs behind it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

WAIT_SECONDS = 10.0


class Peer:
    """One accepted connection, as a script sees it."""

    def __init__(self, connection: socket.socket, server: HostileServer) -> None:
        self.connection = connection
        self.server = server
        self._unread = b""

    def head(self) -> bytes:
        """The next request line and headers, recorded in `server.heads`; empty if the client closed instead."""
        while b"\r\n\r\n" not in self._unread:
            if not self._receive():
                return b""
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        self.server.heads.append(head)
        return head

    def body(self, size_bytes: int) -> bytes:
        """So many bytes of the request's body, or fewer if the client closed."""
        while len(self._unread) < size_bytes and self._receive():
            pass
        body, self._unread = self._unread[:size_bytes], self._unread[size_bytes:]
        return body

    def chunked_body(self) -> bytes:
        """A whole body in chunks."""
        body = b""
        while True:
            while b"\r\n" not in self._unread:
                if not self._receive():
                    return body
            line, _, self._unread = self._unread.partition(b"\r\n")
            size = int(line, 16)
            body += self.body(size)
            self.body(2)
            if not size:
                return body

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def closed_by_client(self) -> None:
        """Wait until the client closes (reading on), or the server is closed."""
        while self._receive():
            self._unread = b""

    def hang(self) -> None:
        """Neither read nor write until the server is closed."""
        self.server.stopping.wait(WAIT_SECONDS)

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Shake hands; what the client sent as its hello is unread so far."""
        plain = self.connection.dup()
        try:
            self.connection = context.wrap_socket(self.connection, server_side=True)
        except OSError:
            _linger(plain)
            raise
        finally:
            plain.close()

    def _receive(self) -> bool:
        while not (isinstance(self.connection, ssl.SSLSocket) and self.connection.pending()):
            if not _readable(self.connection, self.server.waker):
                return False
            break
        data = self.connection.recv(256 * 1024)
        self._unread += data
        return bool(data)


Script = Callable[[Peer], None]


class HostileServer:
    """Listens on a free loopback port from `with` to its end. `accepted` counts connections."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.accepted = 0
        self.heads: list[bytes] = []
        self.errors: list[Exception] = []
        self.stopping = threading.Event()
        self.waker, self._wake = socket.socketpair()
        self._scripts = scripts
        self._tls = tls
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.place = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.place}"

    def __enter__(self) -> HostileServer:
        accepting = threading.Thread(target=self._accept, name="hostile-accept")
        self._threads.append(accepting)
        accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._wake.close()  # readable for everybody who waits on it
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
        self._listener.close()
        self.waker.close()

    def _accept(self) -> None:
        while True:
            if not _readable(self._listener, self.waker, forever=True):
                return
            connection, _ = self._listener.accept()
            script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(connection, script), name="hostile-serve")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, script: Script) -> None:
        peer = Peer(connection, self)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(WAIT_SECONDS)
            if self._tls:
                peer.start_tls(self._tls)
            script(peer)
        except (OSError, ValueError) as error:  # the client left, or was told to
            self.errors.append(error)
        finally:
            peer.connection.close()
            connection.close()


def _linger(connection: socket.socket) -> None:
    """Read what the client still says: a close with unread bytes would be a reset, and swallow our alert."""
    connection.settimeout(WAIT_SECONDS)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass


def _readable(wanted: socket.socket, waker: socket.socket, *, forever: bool = False) -> bool:
    """Wait until there is something to read; False if the server is closed first, or it takes too long."""
    poll = select.poll()
    poll.register(wanted, select.POLLIN)
    poll.register(waker, select.POLLIN)
    ready = [descriptor for descriptor, _ in poll.poll(None if forever else WAIT_SECONDS * 1000)]
    return bool(ready) and waker.fileno() not in ready


def answer(*pieces: bytes) -> Script:
    """Answer one request with these bytes and close."""

    def script(peer: Peer) -> None:
        if peer.head():
            for piece in pieces:
                peer.send(piece)

    return script


def keep_answering(*answers: bytes) -> Script:
    """Answer each request on a connection with the next of these bytes, the last one again and again."""

    def script(peer: Peer) -> None:
        count = 0
        while peer.head():
            peer.send(answers[min(count, len(answers) - 1)])
            count += 1

    return script


def ok(body: bytes = b"", *headers: str) -> bytes:
    """A plain good answer."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def tls_context(cert: str, key: str, *, client_ca: str = "") -> ssl.SSLContext:
    """A server's context; with `client_ca` it insists on a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


@contextlib.contextmanager
def refusing_place() -> Iterator[str]:
    """A loopback host:port where nothing listens, and nothing else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
