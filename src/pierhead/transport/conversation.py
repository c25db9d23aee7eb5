"""One request and its answer on a line: the body goes out, the head comes in, the body comes when it is copied."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from threading import Event
from time import monotonic
from typing import Final

import pycurl

from pierhead.body import Buffer, Write
from pierhead.redact import safe_url
from pierhead.transport.address import bracketed
from pierhead.transport.answer import Head, Incoming
from pierhead.transport.diagnosis import explain
from pierhead.transport.exchange import Exchange, masked
from pierhead.transport.failure import Cause, TransportError
from pierhead.transport.line import Line
from pierhead.transport.setup import Plan, set_up
from pierhead.wire import Response, Timings

# The rest of a body that nobody wants is read if it is as short and quick as this: a new connection costs more.
DRAIN_LIMIT_BYTES: Final = 256 * 1024
DRAIN_LIMIT_SECONDS: Final = 0.25
STOP_SECONDS: Final = 0.25  # how late a wait may notice that it should end


class _Enough(Exception):
    """The server has answered before it had the whole body: no more of it is asked for."""


class Outgoing:
    """The request's body, pushed out as it comes.

    The source calls `Conversation._feed` with a piece, and the line is driven until libcurl has taken it. So any Blob
    can be sent without a thread and with one piece in memory, and time spent in the source is no stall.
    """

    def __init__(self, plan: Plan) -> None:
        self.complete = not plan.sends_body
        self.paused = False
        self.piece: bytes | memoryview = b""
        self._plan = plan
        self._given_bytes = 0

    def give(self, piece: Buffer) -> None:
        """The next piece; raises `TransportError` (BAD_REQUEST) if that is more than was announced."""
        self.piece = piece if isinstance(piece, bytes) else memoryview(piece).cast("B")
        self._given_bytes += len(self.piece)
        if self._plan.body_bytes is not None and self._given_bytes > self._plan.body_bytes:
            raise self._wrong_length("more")

    def end(self) -> None:
        """That was all; raises `TransportError` (BAD_REQUEST) if it is less than was announced."""
        if self._plan.body_bytes is not None and self._given_bytes < self._plan.body_bytes:
            raise self._wrong_length("less")
        self.complete = True

    def take(self, limit_bytes: int) -> bytes | int:
        """libcurl's callback."""
        if self.piece:
            whole = memoryview(self.piece) if len(self.piece) > limit_bytes else self.piece
            self.piece = whole[limit_bytes:]
            return bytes(whole[:limit_bytes])  # of `bytes` that fit, no copy
        if self.complete:
            return b""
        self.paused = True
        return int(pycurl.READFUNC_PAUSE)

    def _wrong_length(self, word: str) -> TransportError:
        detail = f"its body has {word} than the {self._plan.body_bytes} bytes that were announced"
        return TransportError(Cause.BAD_REQUEST, self._plan.request.url, detail=detail)


class Conversation:
    """Used by one thread at a time, from `send` to the end of the answer's body.

    `done` gets the line back, once, with whether it is fit for another request; then `told`, if there is anybody who
    wants to hear of it, the record of this one. `stop` ends it wherever it is.
    """

    def __init__(
        self,
        line: Line,
        plan: Plan,
        *,
        done: Callable[[Line, bool], object],
        told: Callable[[Exchange], object] | None,
        stop: Event,
    ) -> None:
        self._line = line
        self._plan = plan
        self._done = done
        self._told = told
        self._stop = stop
        self._started = 0.0
        self._outgoing = Outgoing(plan)
        self._head = Head(plan.request.url)
        self._incoming = Incoming()
        self._timings = Timings()
        self._error: TransportError | None = None
        self._finished = False  # from then on the line belongs to somebody else

    def send(self) -> Response:
        """Everything up to the end of the answer's head."""
        try:
            self._begin()
            self._send_body()
            self._drive(lambda: self._head.status > 0)
            if not self._head.status:
                raise self._error or TransportError(Cause.PROTOCOL, self._plan.request.url)
        except BaseException as error:
            self._finish(error)
            raise
        if not self._finished:
            self._timings = self._measure()
        head = self._head
        return Response(head.status, head.headers, Body(self, self._body_bytes()), head.reason, self._timings)

    def copy_to(self, write: Write) -> int:
        """The body; raises `TransportError` after the last byte that came."""
        try:
            self._incoming.copy_to(write)
            if not self._finished:
                self._line.resume()
                self._drive(lambda: False)
        except TransportError as error:
            self._error = error
        except BaseException as error:
            self._finish(error)
            raise
        self._finish(self._error)
        self._incoming.flush()
        if self._error:
            raise self._error
        return self._incoming.copied_bytes

    def close(self) -> None:
        """Give up what is left of the body, or read it if that is cheaper."""
        self._incoming.discard()
        size = self._body_bytes()
        if not self._finished and size is not None and size - self._incoming.received_bytes <= DRAIN_LIMIT_BYTES:
            deadline = monotonic() + DRAIN_LIMIT_SECONDS
            with suppress(TransportError):
                self._line.resume()
                self._drive(lambda: monotonic() > deadline, longest_step=DRAIN_LIMIT_SECONDS)
        self._finish(None)

    def abandon(self) -> None:
        """Drop everything, in whatever thread the garbage is collected: no lock, no record."""
        if not self._finished:
            self._finished = True
            self._line.close()

    def _body_bytes(self) -> int | None:
        """The size of the answer's body, None if it does not tell beforehand."""
        if self._plan.request.method == "HEAD" or self._head.status in {204, 304}:
            return 0
        return self._head.length_bytes

    # ── driving ───────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        easy = self._line.easy
        set_up(easy, self._plan)
        easy.setopt(pycurl.HEADERFUNCTION, self._line.guarded(self._head.take))
        easy.setopt(pycurl.WRITEFUNCTION, self._line.guarded(self._incoming.take))
        easy.setopt(pycurl.READFUNCTION, self._outgoing.take)
        self._started = monotonic()
        self._line.begin(self._plan.origin)

    def _drive(self, until: Callable[[], bool], longest_step: float = inf) -> None:
        """Step until `until()` or the end of the transfer; raises what a callback or a clock has to say."""
        moved = monotonic()
        while not self._finished and not until():
            cause, deadline = self._limit(moved)
            left = deadline - monotonic()
            if left <= 0:
                raise self._too_late(cause)
            if self._stop.is_set():
                raise TransportError(Cause.INTERRUPTED, self._plan.request.url)
            if self._line.step(min(left, longest_step, STOP_SECONDS)):
                moved = monotonic()
            if self._line.outcome is not None:
                self._end(*self._line.outcome)

    def _end(self, code: int, words: str) -> None:
        """The transfer has ended by itself."""
        self._error = explain(self._plan, self._line.easy, code, words, in_body=self._head.status > 0)
        self._finish(self._error)

    def _limit(self, moved: float) -> tuple[Cause, float]:
        """The clock that runs now, and when it runs out; `moved` is when a socket was last ready for us."""
        timeouts, easy = self._plan.options.timeouts, self._line.easy
        if not self._head.status:
            if not easy.getinfo(pycurl.PRETRANSFER_TIME):
                return self._connect_limit()
            if self._outgoing.complete and (sent := easy.getinfo(pycurl.POSTTRANSFER_TIME_T)):
                return Cause.FIRST_BYTE_TIMEOUT, self._started + sent / 1e6 + timeouts.first_byte_seconds
        return Cause.STALLED, moved + timeouts.stall_seconds

    def _connect_limit(self) -> tuple[Cause, float]:
        timeouts, line = self._plan.options.timeouts, self._line
        if line.connected_at is None:
            return Cause.CONNECT_TIMEOUT if line.sockets else Cause.DNS, self._started + timeouts.connect_seconds
        # Behind a proxy the tunnel comes before the handshake, and nothing tells when it stands.
        tunnel_seconds = timeouts.connect_seconds if self._plan.proxy else 0.0
        return Cause.TLS_TIMEOUT, line.connected_at + tunnel_seconds + timeouts.tls_seconds

    def _too_late(self, cause: Cause) -> TransportError:
        timeouts = self._plan.options.timeouts
        seconds = {
            Cause.TLS_TIMEOUT: timeouts.tls_seconds,
            Cause.FIRST_BYTE_TIMEOUT: timeouts.first_byte_seconds,
            Cause.STALLED: timeouts.stall_seconds,
        }.get(cause, timeouts.connect_seconds)
        return TransportError(cause, self._plan.request.url, detail=f"timed out after {seconds:g} s")

    # ── the request's body ────────────────────────────────────────────────────────────────────────────────────

    def _send_body(self) -> None:
        body = self._plan.request.body
        if body is not None and self._plan.body_bytes != 0:
            try:
                body.copy_to(self._feed)
            except _Enough:
                return
        self._outgoing.end()
        self._resume_sending()

    def _feed(self, piece: Buffer) -> None:
        self._outgoing.give(piece)
        self._resume_sending()
        self._drive(lambda: not self._outgoing.piece or self._refused())
        if self._outgoing.piece or self._refused():  # of a piece that was taken the last may be answered already
            raise _Enough

    def _refused(self) -> bool:
        """From 300 on libcurl itself stops sending; a success may come early, and the rest is still wanted."""
        return self._head.status >= 300

    def _resume_sending(self) -> None:
        if self._outgoing.paused and not self._finished:
            self._outgoing.paused = False
            self._line.resume()

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self, error: BaseException | None) -> None:
        """Once: take the transfer off the line, hand the line back, and tell what happened."""
        if self._finished:
            return
        self._finished = True
        self._timings = self._measure()
        exchange = self._record(error) if self._told else None
        self._line.end()
        self._done(self._line, error is None or isinstance(error, Exception))
        if self._told and exchange:
            self._told(exchange)

    def _record(self, error: BaseException | None) -> Exchange:
        easy, request = self._line.easy, self._plan.request
        address = easy.getinfo(pycurl.PRIMARY_IP) or ""
        return Exchange(
            method=request.method,
            url=safe_url(request.url),
            status=self._head.status or None,
            request_headers=masked(request.headers),
            response_headers=masked(self._head.headers, sent=request.headers.get("authorization")),
            timings=self._timings,
            received_bytes=self._incoming.received_bytes,
            sent_bytes=int(easy.getinfo(pycurl.SIZE_UPLOAD_T)),
            reused=bool(address) and easy.getinfo(pycurl.NUM_CONNECTS) == 0,
            peer=f"{bracketed(address)}:{easy.getinfo(pycurl.PRIMARY_PORT)}" if address else "",
            cause=error.cause if isinstance(error, TransportError) else None,
            detail=error.message if isinstance(error, TransportError) else "",
        )

    def _measure(self) -> Timings:
        info = self._line.easy.getinfo
        return Timings(
            dns=info(pycurl.NAMELOOKUP_TIME),
            connect=info(pycurl.CONNECT_TIME),
            tls=info(pycurl.APPCONNECT_TIME),
            first_byte=info(pycurl.STARTTRANSFER_TIME),
            total=monotonic() - self._started,
        )


class Body:
    """The body of an answer, as it comes from the network: copied once, from the start."""

    def __init__(self, conversation: Conversation, size_bytes: int | None) -> None:
        self.size_bytes = size_bytes
        self._conversation: Conversation | None = conversation

    def copy_to(self, write: Write, offset: int = 0) -> int:
        """As `Blob`. A piece is valid only during the call of `write`; raises `TransportError` where the body ends
        too early, stands still or is not well formed, after everything before that was written.
        """
        if offset:
            raise ValueError("a body from the network is not read again from an offset")
        if self._conversation is None:
            raise ValueError("the body is closed")
        return self._conversation.copy_to(write)

    def close(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None

    def __del__(self) -> None:
        """For whoever forgets to close: the handles of libcurl refer to each other, so nobody else would."""
        if self._conversation is not None:
            self._conversation.abandon()
