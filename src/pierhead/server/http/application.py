"""Between Granian and a handler of requests: bodies in and out, passwords, the access log.

The handler is blocking code (`Registry.handle`) and runs on threads. The event loop here only moves pieces of uploads
to them, a few at a time, and hands files to Granian, which sends them without Python.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pierhead.body import Blob, Buffer, BytesBlob, FileBlob, StreamBlob
from pierhead.errors import PierheadError
from pierhead.redact import Secret, safe_url
from pierhead.server.htpasswd import Htpasswd
from pierhead.server.log import Log
from pierhead.server.registry import API_VERSION
from pierhead.store import StoreUnwritable
from pierhead.wire import NO_HEADERS, Challenge, ErrorCode, Headers, Request, Response, error_response

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol as HTTPProtocol
    from granian._granian import RSGIHTTPStreamTransport
    from granian.rsgi import Scope

HEADERS_LIMIT_CHARS: Final = 64 * 1024
SMALL_BODY_BYTES: Final = 64 * 1024  # read at once, without a thread waiting for it
PIECE_BYTES: Final = 256 * 1024  # of an upload, handed to its thread at once; Granian's own reach from 16 to 400 KB
PIECES_WAITING: Final = 4
STALL_SECONDS: Final = 60.0  # without a byte of a body, in or out
UNREAD_LIMIT_BYTES: Final = (
    16 * 1024 * 1024
)  # of a body that nobody wants: read all the same, so that the answer arrives
UNREAD_SECONDS: Final = 2.0
READ_THREADS: Final = 16
UPLOAD_THREADS: Final = 64
PASSWORD_THREADS: Final = 2
PASSWORDS_WAITING: Final = 64
CREDENTIALS_LIMIT_CHARS: Final = 8 * 1024
REALM: Final = "pierhead"
SERVER: Final = ("server", "pierhead")
_PATH_SAFE: Final = "/:@._-~!$&'()*+,;="

Handle = Callable[[Request], Response]


class BodyCut(PierheadError):
    """The client went away, or fell silent, in the middle of a body."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Application:
    """The RSGI application. `passwords` None lets everybody in; `access_log` None writes no line for a request."""

    def __init__(
        self, handle: Handle, *, passwords: Htpasswd | None = None, log: Log, access_log: bool = False
    ) -> None:
        self._handle = handle
        self._passwords = passwords
        self._log = log
        self._access_log = access_log
        self._readers = ThreadPoolExecutor(READ_THREADS, "pierhead-read")
        self._uploaders = ThreadPoolExecutor(UPLOAD_THREADS, "pierhead-upload")
        self._verifiers = ThreadPoolExecutor(PASSWORD_THREADS, "pierhead-password")
        self._verifying = 0
        self.started = asyncio.Event()

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Called in the very step that starts Granian's worker: what is called soon finds it started, or failed.
        loop.call_soon(self.started.set)

    def close(self) -> None:
        """Start nothing more."""
        for threads in (self._readers, self._uploaders, self._verifiers):
            threads.shutdown(wait=False, cancel_futures=True)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        began = time.monotonic()
        headers = Headers(scope.headers.items())
        target = _target(scope)
        user = ""
        incoming = _Incoming(protocol, headers)
        try:
            user = await self._authenticate(headers)
            response = await self._answer(scope, target, headers, incoming)
        except Exception as error:
            response = self._failure(scope.method, target, error)
        await incoming.finish()
        await _send(protocol, scope.method, response, self._uploaders)
        if self._access_log:
            self._log.line(_access_line(scope, target, user, response, time.monotonic() - began))

    async def _answer(self, scope: Scope, target: str, headers: Headers, incoming: _Incoming) -> Response:
        url = f"{scope.scheme}://{headers.get('host') or scope.authority or 'localhost'}{target}"
        body = await incoming.start()
        threads = self._uploaders if isinstance(body, StreamBlob) else self._readers
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self._handle, Request(scope.method, url, headers, body))

    async def _authenticate(self, headers: Headers) -> str:
        """The name of the user, empty if nobody need say; raises `_Stopped`."""
        if sum(len(name) + len(value) for name, value in headers) > HEADERS_LIMIT_CHARS:
            raise _Stopped(_error(ErrorCode.UNSUPPORTED, "too many headers", status=431))
        if self._passwords is None:
            return ""
        credentials = _basic(headers.get("authorization"))
        if credentials and await self._verify(self._passwords, *credentials):
            return credentials[0]
        challenge = Headers({"WWW-Authenticate": str(Challenge("basic", {"realm": REALM}))})
        raise _Stopped(_error(ErrorCode.UNAUTHORIZED, "a user name and password are needed", headers=challenge))

    async def _verify(self, passwords: Htpasswd, user: str, password: Secret) -> bool:
        if passwords.remembers(user, password):
            return True
        if self._verifying >= PASSWORDS_WAITING:
            later = Headers({"Retry-After": "1"})
            raise _Stopped(_error(ErrorCode.TOOMANYREQUESTS, "too many passwords at once", headers=later))
        self._verifying += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._verifiers, passwords.verify, user, password)
        finally:
            self._verifying -= 1

    def _failure(self, method: str, target: str, error: Exception) -> Response:
        """The answer to what went wrong, which is logged unless the client did it."""
        if isinstance(error, _Stopped):
            return error.response
        if isinstance(error, BodyCut):
            # The rest of the body may never come, and must not be waited for before the connection ends.
            close = Headers([("Connection", "close")])
            return _error(ErrorCode.SIZE_INVALID, error.message, status=error.status, headers=close)
        self._log.line(f"error: {method} {safe_url(target)}: {type(error).__name__}: {error}")
        if isinstance(error, StoreUnwritable):
            return _error(ErrorCode.UNAVAILABLE, "the registry's disk takes no more", status=507)
        return _error(ErrorCode.UNKNOWN, "the registry failed; its log says why")


class _Stopped(Exception):
    """The answer is known before the handler was asked."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _error(code: ErrorCode, message: str, *, status: int | None = None, headers: Headers = NO_HEADERS) -> Response:
    """An answer of our own, with what a registry's answers have."""
    response = error_response(code, message, status=status, headers=headers.plus(API_VERSION))
    length = ("Content-Length", str(response.body.size_bytes))
    return Response(response.status, response.headers.plus(length), response.body)


# ── bodies coming in ─────────────────────────────────────────────────────────────────────────────────────────────


class _Incoming:
    """The body of one request, on its way from the event loop to the thread that reads it.

    Granian ends a body that was cut as if it were complete, so the count is ours to check. (Of a chunked body that was
    cut there is no telling; a digest, or the sender's next look at the offset, does.)
    """

    def __init__(self, protocol: HTTPProtocol, headers: Headers) -> None:
        length = headers.get("content-length")
        self._size = int(length) if length.isascii() and length.isdigit() else None
        self._present = bool(self._size) or "transfer-encoding" in headers
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._pieces: queue.SimpleQueue[bytes | BodyCut | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(PIECES_WAITING)
        self._received = 0
        self._unwanted = False
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> Blob | None:
        """The body: at once if it is small, else as a stream that one other thread may read."""
        if not self._present:
            return None
        if self._size is not None and self._size <= SMALL_BODY_BYTES:
            self._present = False
            return BytesBlob(await self._small())
        self._pump = self._loop.create_task(self._fill())
        return StreamBlob(self._drain(), self._size)

    async def finish(self) -> None:
        """Take a little more of what was not read, for a client that looks for an answer only after sending."""
        if not self._present:
            return
        self._unwanted = True
        self._room.release()
        pump = self._pump or self._loop.create_task(self._fill())
        await asyncio.wait((pump,), timeout=UNREAD_SECONDS)
        pump.cancel()

    async def _small(self) -> bytes:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                body = await self._protocol()
        except TimeoutError:
            raise _stalled() from None
        self._received = len(body)
        if self._received != self._size:
            raise self._cut()
        return body

    async def _fill(self) -> None:
        """On the loop: hand on what arrives, then how it ended."""
        end: BodyCut | None = BodyCut("the server is going down", 503)
        try:
            async with asyncio.timeout(STALL_SECONDS) as patience:
                await self._forward(patience)
            end = self._cut() if self._size is not None and self._received != self._size else None
        except TimeoutError:
            end = _stalled()
        except Exception as error:
            end = BodyCut(f"the connection broke: {type(error).__name__}")
        finally:
            self._pieces.put(end)

    async def _forward(self, patience: asyncio.Timeout) -> None:
        """In pieces worth a switch of threads; no faster than they are read, and with no end to patience meanwhile."""
        waiting: list[bytes] = []
        size = 0
        try:
            async for piece in self._protocol:
                self._received += len(piece)
                size += len(piece)
                waiting.append(piece)
                if size >= PIECE_BYTES:
                    patience.reschedule(None)
                    await self._room.acquire()
                    self._hand_on(waiting)
                    size = 0
                self._renew(patience)
                if self._unwanted and self._received > UNREAD_LIMIT_BYTES:
                    return
        finally:
            self._hand_on(waiting)  # also when it ends badly: an upload goes on from what was received

    def _hand_on(self, waiting: list[bytes]) -> None:
        if self._unwanted:
            self._room.release()
        else:
            self._pieces.put(waiting[0] if len(waiting) == 1 else b"".join(waiting))
        waiting.clear()

    def _renew(self, patience: asyncio.Timeout) -> None:
        now = self._loop.time()
        if (patience.when() or now) < now + STALL_SECONDS - 1:  # once a second, not for each of many small pieces
            patience.reschedule(now + STALL_SECONDS)

    def _drain(self) -> Iterator[Buffer]:
        """On the thread: what `_fill` read, making room for more."""
        while (piece := self._pieces.get(timeout=STALL_SECONDS * 2)) is not None:
            if isinstance(piece, BodyCut):
                raise piece
            yield piece
            with suppress(RuntimeError):  # the loop is closed: the server went down, what waits here is still kept
                self._loop.call_soon_threadsafe(self._room.release)

    def _cut(self) -> BodyCut:
        return BodyCut(f"{self._received} bytes came where {self._size} were announced")


def _stalled() -> BodyCut:
    return BodyCut(f"nothing came for {STALL_SECONDS:.0f} s", 408)


# ── answers going out ────────────────────────────────────────────────────────────────────────────────────────────


async def _send(protocol: HTTPProtocol, method: str, response: Response, threads: ThreadPoolExecutor) -> None:
    body = response.body
    headers = [(name.lower(), value) for name, value in response.headers]
    headers.append(SERVER)
    if method == "HEAD" or body.size_bytes == 0:
        body.close()
        protocol.response_empty(response.status, headers)
    elif isinstance(body, FileBlob):
        end = body.offset + body.size_bytes
        protocol.response_file_range(response.status, headers, str(body.path), body.offset, end)
    elif isinstance(body, BytesBlob):
        protocol.response_bytes(response.status, headers, body.data)
    else:
        await _stream(protocol, response.status, headers, body, threads)


async def _stream(
    protocol: HTTPProtocol, status: int, headers: list[tuple[str, str]], body: Blob, threads: ThreadPoolExecutor
) -> None:
    """A body that is neither file nor bytes: a thread reads it, at the pace of the client."""
    loop = asyncio.get_running_loop()
    transport = protocol.response_stream(status, headers)

    def write(piece: Buffer) -> None:
        asyncio.run_coroutine_threadsafe(_sent(transport, bytes(piece)), loop).result(STALL_SECONDS)

    try:
        await loop.run_in_executor(threads, body.copy_to, write)
    finally:
        body.close()


async def _sent(transport: RSGIHTTPStreamTransport, piece: bytes) -> None:
    await transport.send_bytes(piece)


# ── readings ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _target(scope: Scope) -> str:
    """Path and query as they might have stood on the request line: Granian gives the path decoded."""
    path = quote(scope.path, safe=_PATH_SAFE)
    return f"{path}?{scope.query_string}" if scope.query_string else path


def _basic(header: str) -> tuple[str, Secret] | None:
    """User and password of `Authorization: Basic …` (RFC 7617); None if it is none."""
    scheme, _, token = header[:CREDENTIALS_LIMIT_CHARS].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, Secret(password)) if colon else None


def _access_line(scope: Scope, target: str, user: str, response: Response, seconds: float) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    who = scope.client.rpartition(":")[0]
    size = response.headers.get("content-length", "-")
    name = quote(user, safe="") or "-"
    return f"{when} {who} {name} {scope.method} {safe_url(target)} {response.status} {size} {seconds:.3f}"
