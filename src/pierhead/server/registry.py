"""A registry over a store: one request in, one response out, no sockets.

Follows the OCI distribution specification 1.1 in full (pull, push, content discovery, content management), with the
`_catalog` of CNCF distribution. `?ns=docker.io` names the repositories that were pulled under that registry's name;
without it a request concerns what was pushed here, and nothing is ever guessed from one to the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from pierhead.body import BodyTooLarge, BytesBlob
from pierhead.errors import PierheadError
from pierhead.oci import OCI_INDEX, InvalidManifest
from pierhead.reference import Digest, InvalidDigest
from pierhead.server import content, uploads
from pierhead.server.visit import Refused, Visit, page_size, repository_name
from pierhead.store import ContentMismatch, InvalidName, ManifestBlobUnknown, NotFound, RepositoryName, Store, StoreBusy
from pierhead.wire import (
    Call,
    Endpoint,
    ErrorCode,
    Headers,
    MethodNotAllowed,
    Request,
    Response,
    UnknownCall,
    error_response,
    format_link,
)

TARGET_LIMIT_CHARS: Final = 8 * 1024  # path and query
PAGE_LIMIT: Final = 10_000  # items of a list in one answer
REFERRERS_PAGE_LIMIT: Final = 1_000  # each has annotations; a page stays below what clients take as a manifest
API_VERSION: Final = ("Docker-Distribution-Api-Version", "registry/2.0")

_READING: Final = frozenset({"GET", "HEAD"})
_NOT_FOUND: Final[Mapping[Endpoint, ErrorCode]] = {
    Endpoint.TAGS: ErrorCode.NAME_UNKNOWN,
    Endpoint.MANIFEST: ErrorCode.MANIFEST_UNKNOWN,
    Endpoint.BLOB: ErrorCode.BLOB_UNKNOWN,
    Endpoint.UPLOAD: ErrorCode.BLOB_UPLOAD_UNKNOWN,
}
_REFUSALS: Final[tuple[tuple[type[PierheadError], ErrorCode, int], ...]] = (
    (UnknownCall, ErrorCode.NAME_UNKNOWN, 404),
    (InvalidName, ErrorCode.NAME_INVALID, 400),
    (InvalidDigest, ErrorCode.DIGEST_INVALID, 400),
    (InvalidManifest, ErrorCode.MANIFEST_INVALID, 400),
    (ManifestBlobUnknown, ErrorCode.MANIFEST_BLOB_UNKNOWN, 404),
    (BodyTooLarge, ErrorCode.SIZE_INVALID, 413),
    (StoreBusy, ErrorCode.UNAVAILABLE, 503),
)


class Registry:
    """The protocol over `store`; with `read_only` every writing method is refused.

    What is not in the namespace that `?ns=` names is looked for among what has none, unless `strict`.
    """

    def __init__(self, store: Store, *, read_only: bool = False, strict: bool = False) -> None:
        self._store = store
        self._read_only = read_only
        self._strict = strict

    def handle(self, request: Request) -> Response:
        """The answer, whose body must be copied or closed.

        What the protocol has words for becomes an answer; what it has not (a broken disk) is raised.
        """
        try:
            response = self._answer(request)
        except PierheadError as error:
            response = _refusal(request, error)
        return _finished(request, response)

    def _answer(self, request: Request) -> Response:
        call = _read_call(request)
        if call.endpoint is Endpoint.BASE:
            return _json({})
        if call.endpoint is Endpoint.CATALOG:
            return self._catalog(call)
        name = repository_name(call.repository, call.namespace)
        if call.method not in _READING and (self._read_only or name.namespace):
            raise _unwritable(name.namespace)
        if not name.namespace:
            return self._answer_from(name, call, request)
        try:
            if call.endpoint is Endpoint.REFERRERS and not self._strict:
                self._require_subject(name, call)
            return _with(self._answer_from(name, call, request), ("OCI-Namespace", name.namespace))
        except NotFound:
            if self._strict:
                raise
            # A mirror that was filled by pushing: containerd adds ?ns= to what it asks of any mirror, and registries
            # that know nothing of it serve what they have. Without OCI-Namespace, for that is not what decided.
            return self._answer_from(repository_name(call.repository), call, request)

    def _require_subject(self, name: RepositoryName, call: Call) -> None:
        """Raises `NotFound` for what is not here: that nobody refers to it would be no error."""
        self._store.repository(name).resolve(str(Digest.parse(call.reference)))

    def _answer_from(self, name: RepositoryName, call: Call, request: Request) -> Response:
        return _ANSWERS[call.endpoint, call.method](Visit(call, request, self._store, self._store.repository(name)))

    def _catalog(self, call: Call) -> Response:
        """GET: the repositories of this store itself, or of one namespace, in order."""
        limit = page_size(call, PAGE_LIMIT)
        if call.namespace:
            repository_name("any", call.namespace)
        paths = list(islice(self._paths(call.namespace, call.argument("last")), limit + 1))
        return _page(call, {"repositories": paths[:limit]}, paths, limit)

    def _paths(self, namespace: str, last: str) -> Iterator[str]:
        """The paths of a namespace after `last`; the store has those of every namespace in one order."""
        prefix = f"{namespace}/" if namespace else ""
        cursor = prefix + last
        while page := self._store.repositories(last=cursor, limit=PAGE_LIMIT):
            yield from (name.path for name in page if name.namespace == namespace)
            cursor = str(page[-1])
            if not cursor.startswith(prefix):
                return


def _tags(visit: Visit) -> Response:
    """GET: the tags of a repository, in order."""
    limit = page_size(visit.call, PAGE_LIMIT)
    tags = visit.repository.tags(last=visit.call.argument("last"), limit=limit + 1)
    return _page(visit.call, {"name": visit.call.repository, "tags": tags[:limit]}, tags, limit)


def _referrers(visit: Visit) -> Response:
    """GET: an index of what says that this digest is its subject; empty for what nobody refers to."""
    wanted, last = visit.call.argument("artifactType"), visit.call.argument("last")
    limit = page_size(visit.call, REFERRERS_PAGE_LIMIT)
    found = {str(item.digest): item for item in visit.repository.referrers(visit.digest, wanted)}
    digests = sorted(digest for digest in found if digest > last)[: limit + 1]
    manifests = [found[digest].to_json() for digest in digests[:limit]]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    response = _page(visit.call, document, digests, limit, media_type=OCI_INDEX)
    return _with(response, ("OCI-Filters-Applied", "artifactType")) if wanted else response


_ANSWERS: Final[Mapping[tuple[Endpoint, str], Callable[[Visit], Response]]] = {
    (Endpoint.TAGS, "GET"): _tags,
    (Endpoint.REFERRERS, "GET"): _referrers,
    (Endpoint.MANIFEST, "GET"): content.get_manifest,
    (Endpoint.MANIFEST, "HEAD"): content.get_manifest,
    (Endpoint.MANIFEST, "PUT"): content.put_manifest,
    (Endpoint.MANIFEST, "DELETE"): content.delete_manifest,
    (Endpoint.BLOB, "GET"): content.get_blob,
    (Endpoint.BLOB, "HEAD"): content.get_blob,
    (Endpoint.BLOB, "DELETE"): content.delete_blob,
    (Endpoint.UPLOADS, "POST"): uploads.begin,
    (Endpoint.UPLOAD, "GET"): uploads.status,
    (Endpoint.UPLOAD, "PATCH"): uploads.append,
    (Endpoint.UPLOAD, "PUT"): uploads.finish,
    (Endpoint.UPLOAD, "DELETE"): uploads.cancel,
}


def _read_call(request: Request) -> Call:
    if len(request.target) > TARGET_LIMIT_CHARS:
        raise Refused(ErrorCode.UNSUPPORTED, f"a path of more than {TARGET_LIMIT_CHARS} characters", status=414)
    try:
        return Call.parse(request.method, request.target)
    except MethodNotAllowed as error:
        raise _unsupported(error.message, error.allowed) from error


def _unwritable(namespace: str) -> Refused:
    what = f"what was pulled from {namespace}" if namespace else "this registry"
    return _unsupported(f"{what} is read only", _READING)


def _unsupported(message: str, allowed: frozenset[str]) -> Refused:
    """405, as CNCF distribution answers in its read-only mode too."""
    return Refused(ErrorCode.UNSUPPORTED, message, headers=Headers({"Allow": ", ".join(sorted(allowed))}))


def _refusal(request: Request, error: PierheadError) -> Response:
    """The answer for an error that the protocol has words for; any other is raised again."""
    if isinstance(error, Refused):
        return error_response(error.code, error.message, status=error.status, headers=error.headers)
    if isinstance(error, NotFound):
        endpoint = Call.parse(request.method, request.target).endpoint
        return error_response(_NOT_FOUND.get(endpoint, ErrorCode.NAME_UNKNOWN), error.message)
    if isinstance(error, ContentMismatch) and request.method not in _READING:
        return error_response(ErrorCode.DIGEST_INVALID, error.message)  # what was sent; when reading it is our disk
    for kind, code, status in _REFUSALS:
        if isinstance(error, kind):
            return error_response(code, error.message, status=status)
    raise error


def _json(document: object, media_type: str = "application/json") -> Response:
    return Response(200, Headers({"Content-Type": media_type}), BytesBlob(json.dumps(document).encode()))


def _page(
    call: Call, document: Mapping[str, Any], found: Sequence[str], limit: int, *, media_type: str = "application/json"
) -> Response:
    """One page of a list. `found` are its keys and, if there is more, the next one; Link then says how to go on."""
    response = _json(document, media_type)
    if not 0 < limit < len(found):
        return response
    query = [(key, value) for key, value in call.query if key not in ("n", "last")]
    query += [("n", str(limit)), ("last", found[limit - 1])]
    return _with(
        response, format_link(Call(call.endpoint, "GET", call.repository, call.reference, tuple(query)).target())
    )


def _with(response: Response, *headers: tuple[str, str]) -> Response:
    return Response(response.status, response.headers.plus(*headers), response.body)


def _finished(request: Request, response: Response) -> Response:
    """With what every answer has; a HEAD keeps the headers of its GET and loses the body."""
    size = response.body.size_bytes
    known = "content-length" in response.headers or size is None or response.status in (204, 304)
    headers = response.headers.plus(API_VERSION, *([] if known else [("Content-Length", str(size))]))
    if request.method != "HEAD":
        return Response(response.status, headers, response.body)
    response.body.close()
    return Response(response.status, headers)
