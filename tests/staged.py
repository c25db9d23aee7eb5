"""A registry that serves one image and stops where a test wants it to.

    with Staged(image) as server:
        with server.held(digest, at=1000):  # the answer with that content stands still after 1000 bytes
            … start a pull …
            server.is_held(digest)  # so far it came

It is also a recorder: `asked` has every request with its headers, in order, and where its Range began.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from images import Image

WAIT_SECONDS: Final = 30.0
PIECE_BYTES: Final = 64 * 1024
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/?]+)(?:\?.*)?")
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Asked:
    """One request; `start` is where its Range begins."""

    method: str
    path: str
    reference: str  # the tag or digest at its end
    start: int
    headers: Mapping[str, str] = field(repr=False)


@dataclass
class _Hold:
    at: int
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Staged:
    """Serves `image`, under any repository and tag, from `with` to its end.

    Without an image it has nothing: 404. `challenge` is what whoever brings no Authorization is answered, with 401.
    """

    def __init__(
        self,
        image: Image | None,
        *,
        challenge: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.image, self.challenge = image, challenge
        self.asked: list[Asked] = []
        self._tls = tls
        self._holds: dict[str, _Hold] = {}

    def __enter__(self) -> Self:
        handler = type("_HandlerOfOne", (_Handler,), {"staged": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        if self._tls:
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for hold in self._holds.values():
            hold.released.set()
        self._server.shutdown()
        self._thread.join(WAIT_SECONDS)
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}"

    def is_held(self, digest: str) -> bool:
        """Whether an answer stands still there."""
        return self._holds[digest].held.is_set()

    def release_now(self, digest: str) -> None:
        """Let it go on before the end of `held`."""
        self._holds[digest].released.set()

    @contextmanager
    def held(self, digest: str, *, at: int) -> Iterator[None]:
        """An answer with this content stands still before its byte number `at`, as long as this lasts."""
        self._holds[digest] = _Hold(at)
        try:
            yield
        finally:
            self._holds.pop(digest).released.set()

    def forget(self) -> None:
        """Forget what was asked."""
        self.asked.clear()

    def starts(self, digest: str) -> list[int]:
        """Where the GETs of this content began, in order."""
        return [asked.start for asked in self.asked if asked.method == "GET" and asked.reference == digest]


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves, or dislikes our certificate, is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    staged: Staged
    protocol_version = "HTTP/1.1"
    timeout = WAIT_SECONDS
    disable_nagle_algorithm = True  # or head and body, written apart, wait 40 ms for each other

    def do_GET(self) -> None:
        staged = self.staged
        match = _PATH.fullmatch(self.path)
        reference = match["reference"] if match else ""
        wanted = _RANGE.match(self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        staged.asked.append(Asked(self.command, self.path, reference, start, dict(self.headers.items())))
        if staged.challenge and "Authorization" not in self.headers:
            self._answer(401, {"WWW-Authenticate": staged.challenge, "Content-Length": "0"})
        elif staged.image is None or (digest := _digest(staged.image, reference)) is None:
            self._answer(404, {"Content-Length": "0"})
        else:
            self._content(staged.image, digest, start)

    do_HEAD = do_GET  # noqa: N815  the library's way of naming

    def _content(self, image: Image, digest: str, start: int) -> None:
        data = image.blobs[digest]
        headers = {
            "Content-Type": image.manifests.get(digest, "application/octet-stream"),
            "Content-Length": str(len(data) - start),
            "Docker-Content-Digest": digest,
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(206 if start else 200, headers)
        if self.command == "HEAD":
            return
        hold = self.staged._holds.get(digest)
        if hold is None:
            self._send(data[start:])
            return
        self._send(data[start : hold.at])
        hold.held.set()
        if hold.released.wait(WAIT_SECONDS):
            self._send(data[max(start, hold.at) :])

    def _answer(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        for position in range(0, len(data), PIECE_BYTES):
            self.wfile.write(data[position : position + PIECE_BYTES])

    def log_message(self, format: str, *args: object) -> None:
        """`asked` is the log."""


def _digest(image: Image, reference: str) -> str | None:
    if ":" not in reference:
        return image.digest
    return reference if reference in image.blobs else None
