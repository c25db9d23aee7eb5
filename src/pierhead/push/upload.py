"""One blob on its way into a registry: in one streaming request, or in chunks where a proxy refuses large bodies.

OCI distribution specification 1.1, "Pushing a blob monolithically" and "Pushing a blob in chunks". As containerd
(core/remotes/docker/pusher.go): POST, then one PUT that carries the whole and its digest.

What is done about a connection that breaks: the registry is asked how far it came, and the rest is sent. CNCF
distribution 2.x keeps nothing of a request that broke (the offset in its `_state` is wrong then, and it cancels the
upload for it), so there the blob begins anew, as after a restart that lost the upload.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from pierhead.ask import back_off, retry_after
from pierhead.body import Blob, Buffer, BytesBlob, Write
from pierhead.errors import ExitCode, PierheadError
from pierhead.push.place import (
    AGAIN,
    CHUNKS_BYTES,
    NOT_BEGUN,
    STREAMING,
    Begun,
    Place,
    PushRefused,
    smaller_chunk,
    with_digest,
)
from pierhead.reference import Digest
from pierhead.store import OCTETS, ContentMismatch, cut_short
from pierhead.transport import Cause, TransportError
from pierhead.wire import Headers, Request, Response

if TYPE_CHECKING:
    import hashlib

    from pierhead.oci import Descriptor

FAILURES_LIMIT: Final = 5  # in a row, without the registry having got further
BEGINNINGS_LIMIT: Final = 6  # of one blob
CHUNKED_AFTER_FAILURES: Final = 3  # a proxy may answer a body that is too large by hanging up
MARK_BYTES: Final = 16 * 1024 * 1024  # how far apart the places are from which the digest can be computed again

_WAITING: Final = AGAIN | {408, 429}
_DONE: Final = frozenset({200, 201, 204})  # as containerd takes the answers to the last PUT
_TAKEN: Final = frozenset({200, 201, 202, 204})
# How a registry answers that has no PUT with a body (Artifactory 6: 404), or to which somebody else has just given the
# same blob (Nexus without redeploying: 400).
_OTHERWISE: Final = frozenset({400, 405, 409, 411, 415, 501})
_LARGE = re.compile(r"(?i)too large|maximum permissible")  # GHCR says so with 416, of chunks over 4 MiB
_HOPELESS: Final = frozenset({Cause.INTERRUPTED, Cause.BAD_URL, Cause.BAD_REQUEST, Cause.CA_FILE, Cause.CERTIFICATE})
_RANGE = re.compile(r"(?:bytes[= ])?0-([0-9]{1,18})")


class _Lost(Exception):
    """The registry no longer has this upload; `error` is what is said if nothing helps.

    `closing`: bytes came in one request with the digest, which may be what was not liked.
    """

    def __init__(self, error: PierheadError, *, closing: bool = False) -> None:
        self.error = error
        self.closing = closing


class _TooLarge(Exception):
    """A body of so many bytes was refused on the way."""

    def __init__(self, error: PushRefused, size_bytes: int) -> None:
        self.error = error
        self.size_bytes = size_bytes


class _SourceFailed(Exception):
    """What reading the source raised while its bytes were being sent: no failure of the registry's."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _SinkFailed(Exception):
    """What sending raised, on its way through the source: no failure of the source's."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class DigestRefused(PushRefused):
    """The registry says that what arrived has another digest, and it was right when it left here."""


class Checksum:
    """Size and digest of a blob as it passes; can go back to where it has been."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.position = 0
        self._descriptor = descriptor
        self._hash = descriptor.digest.new_hash()
        self._marks: list[tuple[int, hashlib._Hash]] = [(0, self._hash.copy())]

    def take(self, piece: Buffer) -> None:
        """The next bytes; raises `ContentMismatch` if they are too many."""
        self.position += len(piece)
        if self.position > self._descriptor.size_bytes:
            message = f"{self._descriptor.digest}: more than the {self._descriptor.size_bytes} bytes there should be"
            raise ContentMismatch(message, descriptor=self._descriptor, got_bytes=self.position)
        self._hash.update(piece)
        if self.position - self._marks[-1][0] >= MARK_BYTES:
            self.mark()

    def mark(self) -> None:
        """Be able to come back to here."""
        self._marks.append((self.position, self._hash.copy()))

    def back_to(self, offset: int) -> int:
        """Forget what came after `offset`, and a little before it: the place to go on from."""
        while self._marks[-1][0] > offset:
            self._marks.pop()
        self.position, kept = self._marks[-1]
        self._hash = kept.copy()
        return self.position

    def require_whole(self) -> None:
        """Raises `ContentMismatch` unless everything has passed and was right."""
        if self.position < self._descriptor.size_bytes:
            raise cut_short(self._descriptor, self.position)
        found = Digest(self._descriptor.digest.algorithm, self._hash.hexdigest())
        if found != self._descriptor.digest:
            message = f"the bytes have the digest {found}, not {self._descriptor.digest}"
            raise ContentMismatch(message, descriptor=self._descriptor, found=found)


class RemoteUpload:
    """`store.Upload` into a registry; for one thread at a time.

    Nothing wrong is ever made visible: the digest is computed here as well, and before the last byte leaves it must be
    right. `fill` does everything, the commit included; what is given to `write` is collected and goes out in chunks.
    """

    def __init__(self, place: Place, descriptor: Descriptor, begun: Begun = NOT_BEGUN) -> None:
        self._place = place
        self._descriptor = descriptor
        self._url = begun.url
        self._shortest_chunk = begun.shortest_chunk_bytes
        self._done = begun.mounted
        self._checksum = Checksum(descriptor)
        self._sent = descriptor.size_bytes if begun.mounted else 0  # what the registry has
        self._given = 0  # what the registry may have: it cannot have more
        self._buffer = bytearray()  # what comes after `_sent`, not sent yet
        self._unsure = False  # whether the registry has more or less than we think
        self._largest: int | None = None  # the body that may get through, after larger ones broke
        self._failures = self._beginnings = self._garbled = 0
        self._closed_in_vain = False  # whether a PUT with the digest was refused before

    @property
    def offset(self) -> int:
        return self._sent + len(self._buffer)

    @property
    def committed(self) -> bool:
        """Whether the registry has the whole blob."""
        return self._done

    def write(self, data: Buffer) -> None:
        self._checksum.take(data)
        self._buffer += data
        self._send_collected(all_of_it=False)

    def fill(self, blob: Blob) -> None:
        if self._buffer:
            self._send_collected(all_of_it=True)
        base = self.offset
        self._checksum.mark()  # the blob gives nothing from before it
        while not self._done:
            try:
                self._stream(blob, base) if self._streams() else self._collect(blob, base)
            except _SourceFailed as failure:
                self._unsure = _interrupts(failure.error)
                raise failure.error from None
            except _TooLarge as refusal:
                self._shrink(refusal)
            except _Lost as lost:
                self._begin_anew(lost, again=base == 0)

    def restart(self) -> None:
        self._abandon()
        self._checksum.back_to(0)
        self._done = False

    def commit(self) -> None:
        if self._done:
            return
        try:
            self._checksum.require_whole()
        except ContentMismatch:
            self.restart()
            raise
        self._send_collected(all_of_it=True, last=True)

    def close(self) -> None:
        """Let go of it: an upload that will not be finished is cancelled, if that costs only one request."""
        if not self._done and not self._unsure:
            self._abandon()

    # ── streaming ─────────────────────────────────────────────────────────────────────────────────────────────

    def _streams(self) -> bool:
        return not self._largest and not self._place.registry.chunk_bytes

    def _stream(self, blob: Blob, base: int) -> None:
        """All that is missing in one request, the digest with it, or in a second one."""
        patches = self._place.registry.patches
        if patches and self._sent == self._descriptor.size_bytes:
            self._send_chunks(last=True)
        else:
            self._deliver(lambda: _Outflow(self, blob, base), last=not patches)

    def flow(self, blob: Blob, base: int, write: Write) -> None:
        """`blob`, which begins at `base`, from where the registry is, through the checksum and into `write`.

        The last piece is held back until the whole is known to be right.
        """
        start = self._checksum.back_to(self._sent)
        skip, size = self._sent - start, self._descriptor.size_bytes

        def take(piece: Buffer) -> None:
            nonlocal skip
            self._checksum.take(piece)
            if self._checksum.position == size:
                self._checksum.require_whole()
            if skip:
                skipped = min(skip, len(piece))
                skip -= skipped
                piece = memoryview(piece)[skipped:]
            if piece:
                self._given = max(self._given, self._checksum.position)
                _guarded(write, piece)

        blob.copy_to(take, start - base)
        if self._checksum.position < size:
            raise cut_short(self._descriptor, self._checksum.position)

    # ── chunks ────────────────────────────────────────────────────────────────────────────────────────────────

    def _collect(self, blob: Blob, base: int) -> None:
        """All that is missing in chunks, one of them in memory at a time."""
        self._buffer.clear()

        def take(piece: Buffer) -> None:
            self._buffer += piece
            self._send_chunks(at_least=self._chunk_bytes() + 1)

        try:
            self.flow(blob, base, take)
        except _SinkFailed as failure:
            raise failure.error from None
        self._send_chunks(last=True)

    def _chunk_bytes(self) -> int:
        limits = (self._place.registry.chunk_bytes, self._largest, CHUNKS_BYTES[0])
        return max(min(limit for limit in limits if limit), self._shortest_chunk)

    def _send_chunks(self, *, at_least: int = 1, last: bool = False) -> None:
        """Send what is collected as long as that is so much; with `last`, the digest with the last of it."""
        while not self._done and (last or len(self._buffer) >= at_least):
            size = min(len(self._buffer), self._chunk_bytes())
            closes = last and size == len(self._buffer) and not (size and self._place.registry.patches)
            self._deliver(partial(self._collected, size), last=closes)

    def _collected(self, size: int) -> Blob:
        return BytesBlob(bytes(memoryview(self._buffer)[:size]))

    def _send_collected(self, *, all_of_it: bool, last: bool = False) -> None:
        """As `_send_chunks`, where there is nobody who could give the blob again."""
        while True:
            try:
                return self._send_chunks(at_least=1 if all_of_it else self._chunk_bytes() + 1, last=last)
            except _TooLarge as refusal:
                self._shrink(refusal)
            except _Lost as lost:
                self._begin_anew(lost, again=self._sent == 0)

    # ── one request ───────────────────────────────────────────────────────────────────────────────────────────

    def _deliver(self, body: Callable[[], Blob], *, last: bool) -> None:
        """One request with what comes after `_sent`; then `_sent` is what the registry has.

        Raises `_Lost`, `_TooLarge`, `_SourceFailed`, `PushRefused`, and `TransportError` if nothing helps.
        """
        if self._unsure:
            self._look()
        if not self._url:
            self._begin()
        blob = body()
        size = blob.size_bytes or 0
        headers = [("Content-Type", OCTETS)]
        if size and (self._sent or not (last or isinstance(blob, _Outflow))):
            headers.append(("Content-Range", f"{self._sent}-{self._sent + size - 1}"))
        url = with_digest(self._url, self._descriptor.digest) if last else self._url
        if not isinstance(blob, _Outflow):
            self._given = max(self._given, self._sent + size)
        self._unsure = True
        try:
            request = Request("PUT" if last else "PATCH", url, Headers(headers), blob)
            with self._place.send(request, manner=STREAMING) as response:
                self._unsure = False
                self._answered(response, size, last=last)
        except TransportError as error:
            self._failed(error, size)

    def _begin(self) -> None:
        begun = self._place.begin()
        self._url, self._shortest_chunk = begun.url, begun.shortest_chunk_bytes
        self._given = 0

    def _answered(self, response: Response, size: int, *, last: bool) -> None:
        status = response.status
        if last and status in _DONE:
            self._done, self._sent = True, self._descriptor.size_bytes
            self._buffer.clear()
        elif not last and status in _TAKEN:
            self._url = self._place.located(response, self._url)
            # ECR takes every chunk, and says of each but the first that it came no further: what it took counts.
            told = _offset(response, self._sent + size) or 0
            self._reached(told if told > self._sent else self._sent + size)
        else:
            refusal = self._place.refused(response, f"the blob {self._descriptor.digest}")
            self._unsure = True
            self._refused(response, refusal, size, last=last)

    def _refused(self, response: Response, refusal: PushRefused, size: int, *, last: bool) -> None:
        """After an answer that takes nothing of a body; raises unless it is worth another try."""
        status = response.status
        if status == 413 or (status == 416 and _LARGE.search(refusal.message)):
            raise _TooLarge(refusal, size)
        if status == 400 and "DIGEST_INVALID" in refusal.codes:
            raise _Lost(self._not_ours(refusal))
        again = self._closed_in_vain
        if status == 404 or (last and status in _OTHERWISE and not again):
            self._closed_in_vain = again or last
            # A registry that was restarted answers 404 too, but not twice.
            raise _Lost(refusal, closing=last and size > 0 and (again or status != 404))
        if status == 416 and not self._sent and _offset(response, self._given) == 0:
            raise _Lost(refusal)  # it has one byte, of which it says the same as of none
        if status not in _WAITING and status != 416:
            self._unsure = False
            raise refusal
        self._failed(refusal, size, retry_after(response))

    def _failed(self, error: PierheadError, size: int, seconds: float | None = None) -> None:
        """Wait a little; raises `error` if that did not help often enough. `size` is that of the body."""
        if isinstance(error, TransportError) and error.cause in _HOPELESS:
            raise error
        self._failures += 1
        if self._failures > FAILURES_LIMIT:
            raise error
        too_busy = isinstance(error, PushRefused) and error.status == 429  # more requests would not help
        if self._failures >= CHUNKED_AFTER_FAILURES and not too_busy:
            self._largest = smaller_chunk(size, self._shortest_chunk) or self._largest
        self._place.wait(seconds or back_off(self._failures))

    def _look(self) -> None:
        """Ask the registry how far it came; raises `_Lost`.

        Where that is "0-0" it may be one byte, or none, as CNCF distribution says it: then it is none.
        """
        with self._place.get("GET", self._url) as response:
            offset = _offset(response, self._given) if response.status in _TAKEN else None
            if offset is None:
                raise _Lost(self._place.refused(response, f"the blob {self._descriptor.digest}"))
            self._url = self._place.located(response, self._url)
        self._reached(offset)
        self._unsure = False

    def _reached(self, offset: int) -> None:
        """The registry has so much. In chunks there is no way back but from the beginning."""
        if offset > self._sent:
            self._failures = 0
        if self._buffer or not self._streams():
            if offset < self._sent:
                raise _Lost(cut_short(self._descriptor, offset))
            del self._buffer[: offset - self._sent]
        self._sent = offset

    # ── beginning anew ────────────────────────────────────────────────────────────────────────────────────────

    def _begin_anew(self, lost: _Lost, *, again: bool) -> None:
        """What the registry had is gone, unless it has the whole blob: the answer that said so may have been lost."""
        collected = bytes(self._buffer)
        self._forget()
        if not isinstance(lost.error, DigestRefused) and self._place_has_it():
            self._done, self._sent = True, self._descriptor.size_bytes
            return
        self._place.registry.patches |= lost.closing
        self._beginnings += 1
        if not again or self._beginnings >= BEGINNINGS_LIMIT:
            raise lost.error
        self._buffer += collected
        self._place.wait(back_off(self._beginnings))

    def _place_has_it(self) -> bool:
        with self._place.get("HEAD", self._place.route.url_of("blobs", str(self._descriptor.digest))) as response:
            length = response.headers.get("content-length")
            return response.ok and length in {"", str(self._descriptor.size_bytes)}

    def _not_ours(self, refusal: PushRefused) -> PierheadError:
        """The registry finds another digest than we did. Once is an accident."""
        self._garbled += 1
        error = DigestRefused(
            f"{refusal.message}; the bytes were right when they left here",
            hint="something on the way to the registry changes them, or its disk does: look at the proxies between"
            if self._descriptor.digest.algorithm == "sha256"
            else f"the registry may not know {self._descriptor.digest.algorithm}",
            status=refusal.status,
            codes=refusal.codes,
        )
        if self._garbled > 1:
            raise error
        return error

    def _shrink(self, refusal: _TooLarge) -> None:
        """Smaller bodies from now on, to this whole registry; raises the refusal if there are none."""
        smaller = smaller_chunk(refusal.size_bytes, self._shortest_chunk)
        if smaller is None:
            self._unsure = False
            raise refusal.error
        self._place.registry.shrink(smaller)

    def _abandon(self) -> None:
        """Cancel the upload, if there is one."""
        url = self._url
        self._forget()
        if url:
            with suppress(PierheadError):
                self._place.send(Request("DELETE", url), manner=STREAMING).body.close()

    def _forget(self) -> None:
        self._url, self._sent, self._given, self._unsure = "", 0, 0, False
        self._buffer.clear()


@dataclass(frozen=True, slots=True)
class _Outflow:
    """What is missing of a blob as the body of a request, which may be sent more than once."""

    upload: RemoteUpload
    blob: Blob
    base: int

    @property
    def size_bytes(self) -> int:
        return self.upload._descriptor.size_bytes - self.upload._sent

    def copy_to(self, write: Write, offset: int = 0) -> int:
        try:
            self.upload.flow(self.blob, self.base, write)
        except _SinkFailed as failure:
            raise failure.error from None
        except BaseException as error:
            raise _SourceFailed(error) from error
        return self.size_bytes

    def close(self) -> None:
        pass


def _interrupts(error: BaseException) -> bool:
    """Whether somebody wants us to end at once."""
    if isinstance(error, PierheadError):
        return error.exit_code is ExitCode.INTERRUPTED
    return not isinstance(error, Exception)


def _guarded(write: Write, piece: Buffer) -> None:
    """A source must not take for its own what the sink raises: it would go on from elsewhere."""
    try:
        write(piece)
    except BaseException as error:
        raise _SinkFailed(error) from error


def _offset(response: Response, most: int) -> int | None:
    """How many bytes an answer says were received; None if it says nothing that could be."""
    match = _RANGE.fullmatch(response.headers.get("range").strip())
    if match is None:
        return None
    end = int(match[1])
    offset = end + 1 if end else 0
    return offset if offset <= most else None
