"""One call on its way through the registry, what it may be refused for, and the small readings of it."""

from __future__ import annotations

from dataclasses import dataclass

from pierhead.body import Blob, BytesBlob
from pierhead.errors import PierheadError, UsageError
from pierhead.reference import Digest
from pierhead.store import Repository, RepositoryName, Store, parse_reference
from pierhead.wire import NO_HEADERS, Call, Endpoint, ErrorCode, Headers, Request, Response


class Refused(PierheadError):
    """A call that is answered with an error of the protocol. `status` is set where it is not the code's own."""

    def __init__(
        self, code: ErrorCode, message: str, *, status: int | None = None, headers: Headers = NO_HEADERS
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status or code.status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Visit:
    """What was asked, and the repository it concerns."""

    call: Call
    request: Request
    store: Store
    repository: Repository

    @property
    def body(self) -> Blob:
        return self.request.body or BytesBlob(b"")

    @property
    def digest(self) -> Digest:
        """The last part of the path as a digest; raises `InvalidDigest`."""
        return Digest.parse(self.call.reference)

    def location(self, endpoint: Endpoint, reference: object) -> tuple[str, str]:
        """The Location header of something in this repository.

        It is relative: behind a proxy, or with several names, we cannot know what the client calls us.
        """
        return "Location", Call(endpoint, "GET", self.call.repository, str(reference)).target()


def repository_name(path: str, namespace: str = "") -> RepositoryName:
    """The repository of a call, with what `?ns=` says; raises `InvalidName`."""
    name = RepositoryName(path, namespace)
    name.check()
    return name


def page_size(call: Call, limit: int) -> int:
    """The value of `?n=`, at most `limit`, which is also what goes without one; raises `Refused`."""
    text = call.argument("n")
    if not text:
        return limit
    if not text.isascii() or not text.isdigit():
        raise Refused(ErrorCode.PAGINATION_NUMBER_INVALID, f"{text[:20]!r} is not a number of items (n)")
    return min(int(text), limit) if len(text) < 10 else limit


def is_tag(reference: str) -> bool:
    try:
        return parse_reference(reference) == reference
    except UsageError:
        return False


def empty(status: int, *headers: tuple[str, str]) -> Response:
    """An answer without a body."""
    length = () if status in (204, 304) else (("Content-Length", "0"),)  # RFC 9110, section 8.6
    return Response(status, Headers((*headers, *length)))
