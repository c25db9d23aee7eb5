"""Sockets around a registry: listening, TLS, draining. Granian does HTTP; `application` is what it calls.

One process, embedded: `granian.server.embed` runs inside an event loop of ours with a real object as its target, so
there is no import string, no fork, no supervisor and no second set of signal handlers. HTTP, TLS and files are Rust
threads beside the interpreter; hashing and writing release the GIL. HTTP/1.1 alone: one upload or download fills a
connection, and what only HTTP/2 suffers from (floods of streams, resets, header tables) cannot happen.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pierhead.errors import ExitCode, PierheadError
from pierhead.server.htpasswd import Htpasswd
from pierhead.server.http.application import Application, Handle
from pierhead.server.http.tls import TlsFiles, UnusableTls, usable
from pierhead.server.log import Log
from pierhead.server.registry import Registry
from pierhead.store import Store

__all__ = ["CannotListen", "HttpServer", "ServerConfig", "TlsFiles", "UnusableTls", "serve"]

if TYPE_CHECKING:
    from granian.server.embed import Server

CONNECTIONS_LIMIT: Final = 1024  # served at once; as many more wait in the kernel
IDLE_SECONDS: Final = 60  # between requests, and for the headers of one
DRAIN_SECONDS: Final = 20.0  # for what is under way when the server is told to stop

Ready = Callable[[str], None]


class CannotListen(PierheadError):
    """The address cannot be listened on."""

    exit_code = ExitCode.NETWORK


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What is served where, and to whom. `port` 0 takes a free one; `ready` then hears which."""

    store: Store
    host: str = "127.0.0.1"
    port: int = 5000
    tls: TlsFiles | None = None
    htpasswd: Path | None = None
    read_only: bool = False
    access_log: bool = False


def serve(config: ServerConfig, *, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way.

    `ready` is called once with the URL, when connections are accepted. Raises `CannotListen`, `UnusableTls`,
    `UnusableHtpasswd`; `KeyboardInterrupt` after the draining that SIGINT began.
    """
    HttpServer(Registry(config.store, read_only=config.read_only).handle, config).run(ready)


class HttpServer:
    """One run of a server. `stop` may be called from any thread."""

    def __init__(self, handle: Handle, config: ServerConfig) -> None:
        self._handle = handle
        self._config = config
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._interrupted = False

    def run(self, ready: Ready) -> None:
        """As `serve`."""
        with ExitStack() as stack:
            passwords = Htpasswd(self._config.htpasswd) if self._config.htpasswd else None
            log = Log(sys.stderr)
            stack.callback(log.close)
            app = Application(self._handle, passwords=passwords, log=log, access_log=self._config.access_log)
            stack.callback(app.close)
            asyncio.run(self._serve(app, ready))
        if self._interrupted:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Accept nothing more, finish what is under way and let `run` return."""
        if self._loop and self._stopping:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self, app: Application, ready: Ready) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        with usable(self._config.tls) as tls, _listen(self._config.host, self._config.port) as listener:
            url = _url(listener, tls)
            server = _granian(app, listener, tls)
            serving = self._loop.create_task(server.serve())
            await _first(serving, app.started.wait())
            if not server.wrks or not all(worker.is_alive() for worker in server.wrks):  # type: ignore[no-untyped-call]  # Granian
                raise PierheadError("the HTTP server did not start", hint="please report this, with how it was called")
        self._catch_signals(self._loop, self._stopping)
        ready(url)
        await _first(serving, self._stopping.wait())
        server.stop()  # type: ignore[no-untyped-call]  # Granian
        await asyncio.wait((serving,), timeout=DRAIN_SECONDS)
        serving.cancel()

    def _catch_signals(self, loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
        """The first SIGTERM or SIGINT drains; the second does what it does by default: end at once."""
        if threading.current_thread() is not threading.main_thread():
            return

        def drain(number: signal.Signals) -> None:
            self._interrupted = number == signal.SIGINT
            stopping.set()
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(each)

        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, drain, each)


async def _first(task: asyncio.Task[None], event: Coroutine[Any, Any, object]) -> None:
    """Return as soon as one of them is done."""
    waiting = asyncio.ensure_future(event)
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. We open it, not Granian: so that a port in use is an error (Granian shares ports with
    SO_REUSEPORT, and two servers would answer in turn), and so that port 0 can be told."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS_LIMIT)
    except (OSError, OverflowError, UnicodeError) as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {_why(error)}", hint=_hint(error)) from error


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _hint(error: Exception) -> str:
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return "another program listens there; take another port, or 0 for a free one"
        case errno.EACCES:
            return "ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return "no interface of this machine has that address"
    return "write the address as HOST:PORT, such as 127.0.0.1:5000"


def _url(listener: socket.socket, tls: TlsFiles | None) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _granian(app: Application, listener: socket.socket, tls: TlsFiles | None) -> Server:
    from granian._granian import SocketHolder
    from granian.constants import HTTPModes, SSLProtocols
    from granian.http import HTTP1Settings
    from granian.server.embed import Server

    class Listening(Server):
        """A server on a socket that is there already."""

        def _init_shared_socket(self) -> None:
            # As Granian's own does where SO_REUSEPORT is of no use: it hands the worker a socket, not an address.
            self._ssp: Any = None
            # Granian's type stub leaves out what its own pickling calls: descriptor, whether it is a path, backlog.
            self._shd: Any = SocketHolder(listener.detach(), False, CONNECTIONS_LIMIT)  # type: ignore[call-arg]

    return Listening(
        app,
        backlog=CONNECTIONS_LIMIT,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=int(IDLE_SECONDS * 1000)),
        websockets=False,
        log_enabled=False,
        ssl_cert=tls.cert if tls else None,
        ssl_key=tls.key if tls else None,
        ssl_ca=tls.client_ca if tls else None,
        ssl_client_verify=bool(tls and tls.client_ca),
        ssl_protocol_min=SSLProtocols.tls12,
    )
