"""The distribution protocol as values, shared by the client and the server.

`Call` is one row of the protocol: the client writes it as a target, the server reads it back, and they cannot
disagree because there is one table. `Request` and `Response` have the same shape on both sides, which is why our own
registry can stand in for the network (`Transport.send` and `Registry.handle` are the same function). Follows the
OCI distribution specification 1.1 and, for `_catalog` and error bodies, CNCF distribution.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from pierhead.body import Blob, BytesBlob
from pierhead.errors import PierheadError
from pierhead.redact import safe_url

ERROR_BODY_LIMIT_BYTES: Final = 64 * 1024
ERRORS_LIMIT: Final = 20
CHALLENGE_LIMIT_CHARS: Final = 8 * 1024


# ── requests and responses ───────────────────────────────────────────────────────────────────────────────────────


class Headers:
    """Header fields in order, several of one name allowed, names compared without case. Immutable."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] | Mapping[str, str] = ()) -> None:
        pairs = items.items() if isinstance(items, Mapping) else items
        self._items = tuple((name, value) for name, value in pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(key.lower() == name.lower() for key, _ in self._items)

    def get(self, name: str, default: str = "") -> str:
        """The first value of `name`."""
        return next(iter(self.all(name)), default)

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of `name`, in order."""
        wanted = name.lower()
        return tuple(value for key, value in self._items if key.lower() == wanted)

    def plus(self, *items: tuple[str, str]) -> Headers:
        """These and more."""
        return Headers((*self._items, *items))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._items == other._items

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        """Without the values: one of them may be a credential."""
        return f"Headers({', '.join(name for name, _ in self._items)})"


NO_HEADERS: Final = Headers()


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `url` is absolute; on the server side its authority is the Host header."""

    method: str
    url: str
    headers: Headers = NO_HEADERS
    body: Blob | None = None

    @property
    def target(self) -> str:
        """Path and query, as on the request line."""
        rest = self.url.split("://", 1)[-1]
        slash = rest.find("/")
        return rest[slash:] if slash >= 0 else "/"

    @property
    def authority(self) -> str:
        """host[:port] as written."""
        return self.url.split("://", 1)[-1].split("/", 1)[0]

    @property
    def origin(self) -> str:
        """Scheme and authority."""
        return f"{self.url.partition('://')[0]}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the start of a request to the end of each phase; 0.0 for a phase that did not happen."""

    dns: float = 0.0
    connect: float = 0.0
    tls: float = 0.0
    first_byte: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. The body must be copied or closed; `with response:` closes it.

    `request` is what it answers, after repetitions and redirects, where somebody noted that.
    """

    status: int
    headers: Headers = NO_HEADERS
    body: Blob = field(default_factory=lambda: BytesBlob(b""))
    reason: str = ""
    timings: Timings = Timings()
    request: Request | None = field(default=None, repr=False, compare=False)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *exc: object) -> None:
        self.body.close()

    @property
    def ok(self) -> bool:
        return 200 <= self.status <= 299


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Endpoint(Enum):
    """The paths of the protocol; `Call.reference` is what stands in the last place."""

    BASE = "base"
    CATALOG = "catalog"
    TAGS = "tags"
    MANIFEST = "manifests"
    BLOB = "blobs"
    UPLOADS = "uploads"  # where an upload begins
    UPLOAD = "upload"  # one upload under way; the reference is its session
    REFERRERS = "referrers"


METHODS: Final[Mapping[Endpoint, frozenset[str]]] = {
    Endpoint.BASE: frozenset({"GET", "HEAD"}),
    Endpoint.CATALOG: frozenset({"GET"}),
    Endpoint.TAGS: frozenset({"GET"}),
    Endpoint.MANIFEST: frozenset({"GET", "HEAD", "PUT", "DELETE"}),
    Endpoint.BLOB: frozenset({"GET", "HEAD", "DELETE"}),
    Endpoint.UPLOADS: frozenset({"POST"}),
    Endpoint.UPLOAD: frozenset({"GET", "PATCH", "PUT", "DELETE"}),
    Endpoint.REFERRERS: frozenset({"GET"}),
}


class UnknownCall(PierheadError):
    """No row of the protocol has this path."""


class MethodNotAllowed(PierheadError):
    """The path is of the protocol, the method is not for it. `allowed` is for the Allow header."""

    def __init__(self, method: str, allowed: frozenset[str]) -> None:
        super().__init__(f"{method} is not a method of this path")
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the distribution protocol.

    `reference` is a tag, a digest or an upload session, empty where the row has none; `query` keeps its order and
    repeated names. `Call.parse(call.method, call.target()) == call`.
    """

    endpoint: Endpoint
    method: str
    repository: str = ""
    reference: str = ""
    query: tuple[tuple[str, str], ...] = ()

    def target(self, root: str = "/v2") -> str:
        """Path and query below `root`, the path of the API (`/v2`, or the path that overrides it)."""
        path = root + self._path()
        return f"{path}?{urlencode(self.query)}" if self.query else path

    def _path(self) -> str:
        name, last = _quote(self.repository), _quote(self.reference)
        match self.endpoint:
            case Endpoint.BASE:
                return "/"
            case Endpoint.CATALOG:
                return "/_catalog"
            case Endpoint.TAGS:
                return f"/{name}/tags/list"
            case Endpoint.UPLOADS:
                return f"/{name}/blobs/uploads/"
            case Endpoint.UPLOAD:
                return f"/{name}/blobs/uploads/{last}"
        return f"/{name}/{self.endpoint.value}/{last}"

    @classmethod
    def parse(cls, method: str, target: str, root: str = "/v2") -> Call:
        """The call of a request line; raises `UnknownCall` or `MethodNotAllowed`."""
        path, _, query = target.partition("?")
        if not path.startswith(root):
            raise UnknownCall(f"no path of the protocol: {path[:200]!r}")
        endpoint, repository, reference = _read_path(path[len(root) :])
        if method not in METHODS[endpoint]:
            raise MethodNotAllowed(method, METHODS[endpoint])
        return cls(endpoint, method, unquote(repository), unquote(reference), tuple(parse_qsl(query, True)))

    def argument(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return next((value for key, value in self.query if key == name), default)

    def arguments(self, name: str) -> tuple[str, ...]:
        """Every value of a query parameter."""
        return tuple(value for key, value in self.query if key == name)

    @property
    def namespace(self) -> str:
        """The registry of the image's own name, as `?ns=` says it; empty if this is no proxied request."""
        return self.argument("ns")


def _quote(text: str) -> str:
    return quote(text, safe="/:@._-~!$&'()*+,;=")


def _read_path(path: str) -> tuple[Endpoint, str, str]:
    """Endpoint, repository and reference: told by the last segments, so a repository may be named like any of them."""
    if path in ("", "/"):
        return Endpoint.BASE, "", ""
    if path == "/_catalog":
        return Endpoint.CATALOG, "", ""
    head, _, last = path.removeprefix("/").rpartition("/")
    head, _, second = head.rpartition("/")
    if second == "tags" and last == "list" and head:
        return Endpoint.TAGS, head, ""
    if second == "uploads" and head.endswith("/blobs"):
        return (Endpoint.UPLOAD if last else Endpoint.UPLOADS), head.removesuffix("/blobs"), last
    if second == "blobs" and last == "uploads" and head:  # written without the last slash, as some clients do
        return Endpoint.UPLOADS, head, ""
    if head and last and second in ("manifests", "blobs", "referrers"):
        return Endpoint(second), head, last
    raise UnknownCall(f"no path of the protocol: {path[:200]!r}")


# ── ranges ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `end` (both in it) of something `size_bytes` long, or of unknown length (None)."""

    start: int
    end: int
    size_bytes: int | None = None

    @property
    def length(self) -> int:
        return self.end - self.start + 1


class UnsatisfiableRange(PierheadError):
    """The range begins behind the end."""


_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,19})-(\d{1,19})(?:/(\d{1,19}|\*))?")


def parse_range(header: str, size_bytes: int) -> ByteRange | None:
    """The one range that a Range header asks for; None for no range, several, or one we need not follow (RFC 9110).

    Raises `UnsatisfiableRange`.
    """
    match = _RANGE.fullmatch(header.strip())
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes - 1
    else:
        start, end = int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1
        if last and int(last) < start:
            return None
    if start >= size_bytes:
        raise UnsatisfiableRange(f"bytes {start}- of {size_bytes}")
    return ByteRange(start, end, size_bytes)


def format_range(start: int) -> str:
    """A Range header for everything from `start` on."""
    return f"bytes={start}-"


def parse_content_range(header: str) -> ByteRange | None:
    """`bytes 0-9/100` of an answer, or `0-9` of an upload; None if it is neither."""
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if not match or int(match[2]) < int(match[1]):
        return None
    return ByteRange(int(match[1]), int(match[2]), int(match[3]) if match[3] and match[3] != "*" else None)


def format_content_range(part: ByteRange) -> str:
    return f"bytes {part.start}-{part.end}/{'*' if part.size_bytes is None else part.size_bytes}"


# ── challenges ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Challenge:
    """One WWW-Authenticate header: a scheme in lower case and its parameters (RFC 9110, section 11)."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = ", ".join(f'{key}="{value}"' for key, value in self.parameters.items())
        return f"{self.scheme.capitalize()} {parts}".strip()

    @property
    def shown(self) -> str:
        """For people: one short printable line, without what a URL may hide."""
        return one_line(str(Challenge(self.scheme, {key: safe_url(value) for key, value in self.parameters.items()})))


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 — the grammar's word for a name
_PARAMETER = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def parse_challenge(header: str) -> Challenge | None:
    """The challenge of one header line; None if it has no scheme. Parameters after a malformed one are left out.

    As containerd: core/remotes/docker/auth/parse.go understands one challenge for each header line.
    """
    match = re.match(rf"\s*({_TOKEN})(?:\s|$)", header[:CHALLENGE_LIMIT_CHARS])
    if not match:
        return None
    parameters: dict[str, str] = {}
    position = match.end()
    while found := _PARAMETER.match(header[:CHALLENGE_LIMIT_CHARS], position):
        quoted = found[2]
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else found[3]
        parameters.setdefault(found[1].lower(), value)
        position = found.end()
    return Challenge(match[1].lower(), parameters)


def parse_challenges(headers: Headers) -> tuple[Challenge, ...]:
    """Every challenge of an answer, in its order."""
    found = (parse_challenge(value) for value in headers.all("www-authenticate"))
    return tuple(challenge for challenge in found if challenge)


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────

_LINK = re.compile(r'<([^>]{1,4096})>\s*;[^,]*\brel="?next"?')


def next_link(headers: Headers) -> str | None:
    """The target of a Link header with rel="next" (RFC 5988); may be relative."""
    match = _LINK.search(", ".join(headers.all("link")))
    return match[1] if match else None


def format_link(target: str) -> tuple[str, str]:
    """The Link header for the next page."""
    return "Link", f'<{target}>; rel="next"'


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


class ErrorCode(Enum):
    """The codes of the distribution specification and of CNCF distribution, with the status each is sent with."""

    BLOB_UNKNOWN = 404
    BLOB_UPLOAD_INVALID = 416
    BLOB_UPLOAD_UNKNOWN = (404, "upload")
    DIGEST_INVALID = 400
    MANIFEST_BLOB_UNKNOWN = (404, "blob")
    MANIFEST_INVALID = (400, "manifest")
    MANIFEST_UNKNOWN = (404, "manifest")
    NAME_INVALID = (400, "name")
    NAME_UNKNOWN = (404, "name")
    PAGINATION_NUMBER_INVALID = (400, "page")
    SIZE_INVALID = (400, "size")
    UNAUTHORIZED = 401
    DENIED = 403
    UNSUPPORTED = 405
    TOOMANYREQUESTS = 429
    UNKNOWN = 500
    UNAVAILABLE = 503

    @property
    def status(self) -> int:
        value = self.value
        return value if isinstance(value, int) else value[0]


def error_response(
    code: ErrorCode, message: str, *, status: int | None = None, headers: Headers = NO_HEADERS
) -> Response:
    """An answer with the specification's JSON error body."""
    body = json.dumps({"errors": [{"code": code.name, "message": message}]}).encode()
    return Response(status or code.status, headers.plus(("Content-Type", "application/json")), BytesBlob(body))


@dataclass(frozen=True, slots=True)
class RegistryError:
    """One error of a registry's JSON body, cut to what fits a line; `detailed` if it had details."""

    code: str
    message: str
    detailed: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.code, self.message) if part)


def parse_errors(body: bytes) -> tuple[RegistryError, ...]:
    """The errors of a body; empty if it is not in the specification's form. Never raises."""
    try:
        errors = json.loads(body[:ERROR_BODY_LIMIT_BYTES])["errors"]
        found = [
            (str(item.get("code", "")), str(item.get("message", "")), item.get("detail") is not None)
            for item in errors[:ERRORS_LIMIT]
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ()
    return tuple(RegistryError(one_line(code), one_line(message), detailed) for code, message, detailed in found)


def one_line(text: str, limit: int = 300) -> str:
    """What somebody else wrote, fit to be shown: one printable line, not endless."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[: limit * 2]).split())[:limit]


def status_text(status: int) -> str:
    """`404 Not Found`."""
    from http import HTTPStatus

    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
