"""The push side of blobs: sessions, chunks, single requests and mounts.

OCI distribution specification 1.1, "Pushing blobs"; where it is silent (the Range of an upload that has nothing yet,
Docker-Upload-UUID) as CNCF distribution: registry/handlers/blobupload.go.
"""

from __future__ import annotations

import re
from contextlib import closing
from typing import Final

from pierhead.body import BodyTooLarge, Buffer
from pierhead.reference import HEX_LENGTHS, Digest
from pierhead.server.visit import Refused, Visit, empty, repository_name
from pierhead.store import NotFound, Session
from pierhead.wire import Endpoint, ErrorCode, Headers, Response, parse_content_range

BLOB_LIMIT_BYTES: Final = 1 << 40  # far above any layer; what ends an upload without end before the disk does
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def begin(visit: Visit) -> Response:
    """POST: mount a blob, take one whole, or open a session."""
    call = visit.call
    if call.argument("mount") and (mounted := _mount(visit)):
        return _created(visit, mounted)
    algorithm = call.argument("digest-algorithm", "sha256")
    if algorithm not in HEX_LENGTHS:
        raise Refused(ErrorCode.DIGEST_INVALID, f"no digest algorithm of that name: {algorithm[:40]!r}")
    digest = Digest.parse(call.argument("digest")) if call.argument("digest") else None
    with closing(visit.repository.begin()) as session:
        if digest is None:
            return _progress(visit, session, 202)
        return _take_whole(visit, session, digest)


def append(visit: Visit) -> Response:
    """PATCH: one more chunk."""
    with closing(_session(visit)) as session:
        _receive(visit, session)
        return _progress(visit, session, 202)


def finish(visit: Visit) -> Response:
    """PUT: perhaps a last chunk, then the digest of the whole."""
    digest = Digest.parse(visit.call.argument("digest"))
    with closing(_session(visit)) as session:
        _receive(visit, session)
        session.commit(digest)
    return _created(visit, digest)


def status(visit: Visit) -> Response:
    """GET: how far the upload has come."""
    with closing(_session(visit)) as session:
        return _progress(visit, session, 204)


def cancel(visit: Visit) -> Response:
    """DELETE: throw away what was received."""
    with closing(_session(visit)) as session:
        session.abort()
    return empty(204)


def _session(visit: Visit) -> Session:
    if not _SESSION_ID.fullmatch(visit.call.reference):
        raise NotFound("no such upload")
    return visit.repository.session(visit.call.reference)


def _take_whole(visit: Visit, session: Session, digest: Digest) -> Response:
    try:
        _receive(visit, session)
        session.commit(digest)
    except BaseException:
        session.abort()  # nobody has been told its id, so nobody could go on with it
        raise
    return _created(visit, digest)


def _mount(visit: Visit) -> Digest | None:
    """The digest, if the blob is now visible here. Without `from` we do not search: what is not linked is not shown."""
    digest = Digest.parse(visit.call.argument("mount"))
    origin = visit.call.argument("from")
    if not origin:
        return None
    name = repository_name(origin)
    try:
        blob = visit.store.repository(name).stat_blob(digest)
        return digest if visit.repository.mount(blob, name) else None
    except NotFound:
        return None


def _receive(visit: Visit, session: Session) -> None:
    """Write the body behind what the session has; raises `Refused` for a chunk out of order or of the wrong length."""
    expected = _expected_length(visit, session)
    room = BLOB_LIMIT_BYTES - session.offset
    if expected is not None and expected > room:
        raise BodyTooLarge(BLOB_LIMIT_BYTES)

    def write(piece: Buffer) -> None:
        nonlocal room
        room -= len(piece)
        if room < 0:
            raise BodyTooLarge(BLOB_LIMIT_BYTES)
        session.write(piece)

    received = visit.body.copy_to(write)
    if expected is not None and received != expected:
        raise Refused(ErrorCode.SIZE_INVALID, f"{received} bytes came where {expected} were announced")


def _expected_length(visit: Visit, session: Session) -> int | None:
    size = visit.body.size_bytes
    header = visit.request.headers.get("content-range")
    if not header:
        return size
    chunk = parse_content_range(header)
    if chunk is None or chunk.start != session.offset:
        message = f"the chunk does not begin at {session.offset}"
        headers = _progress(visit, session, 416).headers
        raise Refused(ErrorCode.BLOB_UPLOAD_INVALID, message, headers=_without_length(headers))
    if size is not None and size != chunk.length:
        raise Refused(ErrorCode.SIZE_INVALID, f"Content-Range says {chunk.length} bytes, Content-Length {size}")
    return chunk.length


def _without_length(headers: Headers) -> Headers:
    return Headers(item for item in headers if item[0] != "Content-Length")


def _progress(visit: Visit, session: Session, code: int) -> Response:
    return empty(
        code,
        visit.location(Endpoint.UPLOAD, session.id),
        ("Range", f"0-{max(0, session.offset - 1)}"),
        ("Docker-Upload-UUID", session.id),
    )


def _created(visit: Visit, digest: Digest) -> Response:
    return empty(201, visit.location(Endpoint.BLOB, digest), ("Docker-Content-Digest", str(digest)))
