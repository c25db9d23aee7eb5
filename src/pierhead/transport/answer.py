"""What comes in: the head of an answer, then its body in pieces. The methods `take` are libcurl's callbacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pycurl

from pierhead.body import Buffer, Write
from pierhead.transport.failure import Cause, TransportError
from pierhead.wire import NO_HEADERS, Headers

HEAD_LIMIT_BYTES: Final = 256 * 1024  # interim answers and trailers included
HEAD_LIMIT_LINES: Final = 500
# A body as small as this is taken in at once, so that the line is free again before anybody copies it.
PREFETCH_LIMIT_BYTES: Final = 64 * 1024
# libcurl hands over 16 KiB at a time; the consumer gets pieces of about this size: fewer calls, and they fit the cache.
# They are `bytes` of their own, so that whoever hashes or sends them need not copy them once more.
PIECE_BYTES: Final = 256 * 1024

_STATUS_LINE: Final = re.compile(r"HTTP/[0-9.]+ +([1-9][0-9][0-9])( .*)?", re.DOTALL)
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


class Head:
    """The status line and headers of the final answer, and of none before it."""

    def __init__(self, url: str) -> None:
        self.status = 0  # until the head is complete
        self.reason = ""
        self.headers: Headers = NO_HEADERS
        self.length_bytes: int | None = None  # what Content-Length says
        self._url = url
        self._lines: list[str] = []
        self._bytes = 0
        self._count = 0

    def take(self, line: bytes) -> None:
        self._bytes += len(line)
        self._count += 1
        if self._bytes > HEAD_LIMIT_BYTES or self._count > HEAD_LIMIT_LINES:
            limits = f"more than {HEAD_LIMIT_BYTES // 1024} KiB or {HEAD_LIMIT_LINES} lines"
            raise TransportError(Cause.TOO_LARGE, self._url, detail=limits)
        if self.status:
            return  # a trailer
        if text := line.rstrip(b"\r\n"):
            self._lines.append(_decode(text))
        else:
            self._complete()

    def _complete(self) -> None:
        match = _STATUS_LINE.fullmatch(self._lines[0]) if self._lines else None
        if match is None or match[1] == "101":  # which nobody asked for
            raise self._malformed("status line", self._lines[0] if self._lines else "")
        if int(match[1]) >= 200:  # otherwise it is interim, and another one follows
            self.headers = Headers(_fields(self._lines[1:]))
            self.length_bytes = self._length()
            self.reason = (match[2] or "").strip()
            self.status = int(match[1])
        self._lines = []

    def _length(self) -> int | None:
        """RFC 9112, section 6.3: one number, the same one if it is repeated; without meaning beside a coding."""
        if "Transfer-Encoding" in self.headers:
            return None
        values = set(self.headers.all("Content-Length"))
        if not values:
            return None
        value = values.pop()
        if values or not _LENGTH.fullmatch(value):
            raise self._malformed("Content-Length", value)
        return int(value)

    def _malformed(self, what: str, text: str) -> TransportError:
        return TransportError(Cause.PROTOCOL, self._url, detail=f"malformed {what} {text[:100]!r}")


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    """Name and value of each header line; a folded line belongs to the one before (RFC 9112, section 5.2)."""
    fields: list[tuple[str, str]] = []
    for line in lines:
        if line[0] in " \t" and fields:
            name, value = fields[-1]
            fields[-1] = (name, f"{value} {line.strip()}".strip())
        else:
            name, _, value = line.partition(":")
            fields.append((name.strip(), value.strip()))
    return fields


class Incoming:
    """The body: a little of it kept until somebody copies, then collected into pieces for whoever does."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.copied_bytes = 0
        self._next: Callable[[bytes], int | None] = self._keep
        self._pieces: list[bytes] = []
        self._size = 0  # of the pieces
        self._write: Write = _nowhere

    def take(self, data: bytes) -> int | None:
        return self._next(data)

    def copy_to(self, write: Write) -> None:
        """From now on everything goes to `write`, beginning with what was kept; `flush` at the end."""
        self._write = write
        self._next = self._collect
        self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        pieces = self._forget()
        if pieces:
            data = b"".join(pieces)
            self._write(data)
            self.copied_bytes += len(data)

    def discard(self) -> None:
        """From now on nobody wants it."""
        self._forget()
        self._next = self._count

    def _keep(self, data: bytes) -> int | None:
        if self._size + len(data) > PREFETCH_LIMIT_BYTES:
            return int(pycurl.WRITEFUNC_PAUSE)  # the rest waits in libcurl, the kernel and the network
        self._pieces.append(data)
        self._size += len(data)
        self.received_bytes += len(data)
        return None

    def _collect(self, data: bytes) -> None:
        size = len(data)
        self._pieces.append(data)
        self._size += size
        self.received_bytes += size
        if self._size >= PIECE_BYTES:
            self.flush()

    def _count(self, data: bytes) -> None:
        self.received_bytes += len(data)

    def _forget(self) -> list[bytes]:
        pieces, self._pieces, self._size = self._pieces, [], 0
        return pieces


def _nowhere(_: Buffer) -> None:
    raise AssertionError("nobody copies")
