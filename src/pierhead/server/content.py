"""Manifests and blobs: what is pulled, and manifests as they are pushed and deleted.

OCI distribution specification 1.1, "Pull", "Pushing manifests" and "Content management".
"""

from __future__ import annotations

from typing import Final

from pierhead.body import Blob, BytesBlob, FileBlob, read_all
from pierhead.oci import MANIFEST_LIMIT_BYTES, Descriptor, InvalidManifest, Manifest, parse_manifest
from pierhead.reference import Digest, InvalidDigest
from pierhead.server.visit import Refused, Visit, empty, is_tag
from pierhead.store import NotFound
from pierhead.wire import (
    ByteRange,
    Endpoint,
    ErrorCode,
    Headers,
    Response,
    UnsatisfiableRange,
    format_content_range,
    parse_range,
)

TAGS_PER_PUT_LIMIT: Final = 100
# Content under a digest never changes. As CNCF distribution: registry/storage/blobserver.go, blobCacheControlMaxAge.


# ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────


def get_manifest(visit: Visit) -> Response:
    """GET and HEAD by tag or digest, as it was stored whatever Accept says: the digest is over these bytes."""
    descriptor = _resolve(visit)
    headers = _headers(descriptor, descriptor.media_type)
    if _is_known(visit, descriptor.digest):
        return Response(304, headers)
    headers = headers.plus(("Content-Length", str(descriptor.size_bytes)))
    if visit.call.method == "HEAD":
        return Response(200, headers)
    return Response(200, headers, BytesBlob(visit.repository.manifest(descriptor)))


def put_manifest(visit: Visit) -> Response:
    """PUT by tag or digest, with more tags as `?tag=`."""
    digest, tags = _destination(visit)
    raw = read_all(visit.body, MANIFEST_LIMIT_BYTES)
    manifest = _read_manifest(raw, visit.request.headers.get("content-type"))
    algorithm = digest.algorithm if digest else "sha256"
    if digest and Digest.of(raw, algorithm) != digest:
        raise Refused(ErrorCode.DIGEST_INVALID, f"the manifest is not {digest}")
    descriptor = visit.repository.put_manifest(raw, manifest.media_type, algorithm=algorithm)
    for tag in tags:
        visit.repository.tag(tag, descriptor)
    return empty(
        201,
        visit.location(Endpoint.MANIFEST, descriptor.digest),
        ("Docker-Content-Digest", str(descriptor.digest)),
        *([("OCI-Subject", str(manifest.subject.digest))] if manifest.subject else []),
        *([("OCI-Tag", tag) for tag in tags] if digest else []),
    )


def delete_manifest(visit: Visit) -> Response:
    """DELETE by tag takes the tag away, by digest the manifest with its tags; the bytes go at the next gc."""
    if is_tag(visit.call.reference):
        visit.repository.untag(visit.call.reference)
    else:
        visit.repository.delete(_resolve(visit))
    return empty(202)


def _resolve(visit: Visit) -> Descriptor:
    """What the last part of the path points to; raises `NotFound`, also for what could never be a tag."""
    reference = visit.call.reference
    if ":" in reference:
        reference = str(visit.digest)
    elif not is_tag(reference):
        raise NotFound("no such manifest")
    return visit.repository.resolve(reference)


def _destination(visit: Visit) -> tuple[Digest | None, tuple[str, ...]]:
    """The digest that the manifest must have, if the path says one, and the tags it gets."""
    reference, more = visit.call.reference, visit.call.arguments("tag")
    if len(more) > TAGS_PER_PUT_LIMIT:
        raise Refused(ErrorCode.MANIFEST_INVALID, f"more than {TAGS_PER_PUT_LIMIT} tags at once", status=414)
    tags = tuple(dict.fromkeys(more if ":" in reference else (reference, *more)))
    wrong = next((tag for tag in tags if not is_tag(tag)), None)
    if wrong is not None:
        raise Refused(ErrorCode.MANIFEST_INVALID, f"{wrong[:128]!r} is not a tag")
    return (visit.digest if ":" in reference else None), tags


def _read_manifest(raw: bytes, content_type: str) -> Manifest:
    """The manifest; raises `Refused` if header and body name different types, `InvalidManifest` if it is none."""
    declared = content_type.partition(";")[0].strip()
    try:
        manifest = parse_manifest(raw, declared)
    except InvalidDigest as error:
        raise InvalidManifest(error.message) from error
    if declared and declared != manifest.media_type:
        raise InvalidManifest(f"the body is {manifest.media_type}, Content-Type says {declared[:200]!r}")
    return manifest


# ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def get_blob(visit: Visit) -> Response:
    """GET and HEAD, whole or one range of it (RFC 9110, section 14)."""
    descriptor = visit.repository.stat_blob(visit.digest)
    headers = _headers(descriptor, "application/octet-stream").plus(("Accept-Ranges", "bytes"))
    if _is_known(visit, descriptor.digest):
        return Response(304, headers)
    part = _range(visit, descriptor)
    blob = _no_bytes() if visit.call.method == "HEAD" else visit.repository.blob(descriptor)
    piece = _slice(blob, part) if part else None
    if part and piece:
        headers = headers.plus(("Content-Range", format_content_range(part)), ("Content-Length", str(part.length)))
        return Response(206, headers, piece)
    return Response(200, headers.plus(("Content-Length", str(descriptor.size_bytes))), blob)


def delete_blob(visit: Visit) -> Response:
    """DELETE unlinks the blob from this repository; others keep it."""
    visit.repository.delete(visit.repository.stat_blob(visit.digest))
    return empty(202)


def _range(visit: Visit, descriptor: Descriptor) -> ByteRange | None:
    header, condition = visit.request.headers.get("range"), visit.request.headers.get("if-range")
    if not header or condition not in ("", _etag(descriptor.digest)):
        return None
    try:
        return parse_range(header, descriptor.size_bytes)
    except UnsatisfiableRange as error:
        headers = Headers({"Content-Range": f"bytes */{descriptor.size_bytes}"})
        raise Refused(ErrorCode.SIZE_INVALID, error.message, status=416, headers=headers) from error


def _no_bytes() -> Blob:
    return BytesBlob(b"")


def _slice(blob: Blob, part: ByteRange) -> Blob | None:
    """A part of a blob that can be read anywhere; None for one that cannot, whose whole is as good an answer."""
    if isinstance(blob, FileBlob):
        return blob.part(part.start, part.length)
    if isinstance(blob, BytesBlob):
        return BytesBlob(blob.data[part.start : part.end + 1])
    return None


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


def _headers(descriptor: Descriptor, media_type: str) -> Headers:
    return Headers(
        (
            ("Content-Type", media_type),
            ("Docker-Content-Digest", str(descriptor.digest)),
            ("ETag", _etag(descriptor.digest)),
        )
    )


def _is_known(visit: Visit, digest: Digest) -> bool:
    """Whether the client said with If-None-Match that it has this already."""
    known = ",".join(visit.request.headers.all("if-none-match"))
    return bool(known) and any(tag.strip().removeprefix("W/") in (_etag(digest), "*") for tag in known.split(","))
