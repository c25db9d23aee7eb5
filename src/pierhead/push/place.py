"""One repository of one registry, for whoever writes there: how it is asked, and what is known of the registry."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from pierhead.ask import Manner, Memory, ask, carry_out
from pierhead.body import BodyTooLarge, BytesBlob, read_all
from pierhead.errors import ExitCode, PierheadError
from pierhead.redirect import redirected
from pierhead.reference import Digest
from pierhead.refusal import Refusal
from pierhead.routing import Route
from pierhead.transport import Transport, TransportError
from pierhead.wire import ERROR_BODY_LIMIT_BYTES, Headers, Request, Response, one_line, parse_errors

AGAIN: Final = frozenset({500, 502, 503, 504, *range(520, 525)})  # 520 to 524: Cloudflare, of what is behind it
# About 18 s: a registry that served us and refuses connections now is being restarted. An error 500 may be for good.
PERSISTENT: Final = Manner(attempts=8, statuses=AGAIN, status_attempts=4)
# A body that comes as it is sent is repeated by whoever has it. To check a large blob takes a registry its time.
STREAMING: Final = Manner(repeats=False, answer_seconds=300.0)
MOUNTS_REFUSED_LIMIT: Final = 2  # in a row: then this registry does not mount
HOLDERS_LIMIT: Final = 4  # repositories remembered for one blob
CHUNKS_BYTES: Final = (8 * 1024 * 1024, 1024 * 1024, 256 * 1024)

_DISK_FULL = re.compile(r"(?i)no space left|disk full|disk quota|insufficient storage|\"Err\": ?28\b")
_BEGUN: Final = frozenset({200, 201, 202, 204})  # as containerd takes the answers to POST
_DIGEST = re.compile(r"sha(?:256|384|512):[0-9a-f]{64,128}")


class PushRefused(PierheadError):
    """A registry does not take what we bring. `status` is its answer, `codes` are those of its error body."""

    def __init__(
        self, message: str, *, hint: str, status: int, codes: Iterable[str] = (), digests: Iterable[str] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.codes = frozenset(codes)
        self.digests = tuple(digests)
        self.exit_code = _EXIT_CODES.get(status, ExitCode.FAILED)


_EXIT_CODES: Final = {401: ExitCode.NOT_AUTHORISED, 403: ExitCode.NOT_AUTHORISED, 404: ExitCode.NOT_FOUND}


class Registry:
    """What was found out about one registry while pushing to it; shared by all of its repositories and all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[Digest, dict[str, None]] = {}
        self._mounts_refused = 0
        self.listing = threading.Lock()  # held while an index of referrers is read and written again
        self.patches = False  # PATCH and an empty PUT, as docker pushes: it did not take a PUT with a body
        self.chunk_bytes: int | None = None  # the largest body that the way there lets through, if one was too large

    def found(self, digest: Digest, repository: str) -> None:
        """This repository has the blob."""
        with self._lock:
            holders = self._holders.setdefault(digest, {})
            if len(holders) < HOLDERS_LIMIT:
                holders[repository] = None

    def has(self, digest: Digest, repository: str) -> bool:
        with self._lock:
            return repository in self._holders.get(digest, ())

    def holder(self, digest: Digest, *, besides: str) -> str:
        """Another repository from which the blob may be mounted; empty if none is known or nothing is mounted here."""
        with self._lock:
            if self._mounts_refused >= MOUNTS_REFUSED_LIMIT:
                return ""
            return next((name for name in self._holders.get(digest, ()) if name != besides), "")

    def mounted(self, *, successfully: bool) -> None:
        with self._lock:
            self._mounts_refused = 0 if successfully else self._mounts_refused + 1

    def shrink(self, chunk_bytes: int) -> None:
        """Send no larger bodies to this registry."""
        with self._lock:
            self.chunk_bytes = min(chunk_bytes, self.chunk_bytes or chunk_bytes)


@dataclass(frozen=True, slots=True)
class Begun:
    """What came of the request for an upload: the blob is `mounted`, or there is a session to send it to."""

    url: str = ""
    shortest_chunk_bytes: int = 0
    mounted: bool = False


NOT_BEGUN: Final = Begun()


@dataclass(frozen=True, slots=True)
class Place:
    """One repository, by one route. Safe for several threads."""

    route: Route
    memory: Memory
    registry: Registry
    transport: Transport = field(repr=False)
    wait: Callable[[float], object] = field(repr=False)

    @property
    def repository(self) -> str:
        """Its name as the registry itself has it: a path such as `/v2/project` is the beginning of the name."""
        below = self.route.path.removeprefix("/v2/")
        return f"{below}/{self.route.repository}" if below != self.route.path else self.route.repository

    def shown(self) -> str:
        """For people."""
        return f"{self.route.host}/{self.repository}"

    def send(self, request: Request, *, manner: Manner = PERSISTENT) -> Response:
        """The answer that stands; raises `TransportError`, `AuthorizationFailed`, `BadCredential`, `GivenUp`."""
        steps = ask(self.memory, self.route, request, last_route=True, manner=manner)
        return carry_out(steps, self.transport, self.wait)

    def get(self, method: str, url: str, *headers: tuple[str, str]) -> Response:
        """An answer that has nothing to be sent for it."""
        return self.send(Request(method, url, Headers(headers)))

    def begin(self, *, digest: Digest | None = None, mounted_from: str = "") -> Begun:
        """Ask for an upload, or to mount a blob instead; raises `PushRefused` and what `send` raises.

        As OCI distribution specification 1.1, "Mounting a blob from another repository": 202 is a session after all.
        """
        scopes: tuple[str, ...] = (self.route.scope,)
        url = f"{self.route.url_of('blobs', 'uploads')}/"
        if digest and mounted_from:
            url += f"?mount={quote(str(digest), safe='')}&from={quote(mounted_from, safe='')}"
            scopes += (f"repository:{mounted_from}:pull",)
        request, manner = Request("POST", url, body=BytesBlob(b"")), replace(PERSISTENT, scopes=scopes)
        with self.send(request, manner=manner) as response:
            if response.status == 201 and mounted_from:
                return Begun(mounted=True)
            if response.status not in _BEGUN:
                raise self.refused(response, "an upload")
            if not response.headers.get("location"):
                raise PushRefused(
                    f"{self.route.host} takes an upload for {self.repository!r} and does not say where",
                    hint="its answer has no Location: look at the proxies in front of the registry",
                    status=response.status,
                )
            shortest = response.headers.get("oci-chunk-min-length").strip()
            return Begun(self.located(response, url), int(shortest) if re.fullmatch("[0-9]{1,12}", shortest) else 0)

    def located(self, response: Response, url: str) -> str:
        """Where an answer says that the upload goes on; `url` if it says nothing.

        Relative, absolute, or on another host, with all of its query; never from https to plain http of the same host,
        which is what a registry says that does not know of the TLS in front of it, and to the same port by the same
        name, for which there are credentials (`host:443` may be called `host`). Raises `TransportError`.
        """
        location = response.headers.get("location")
        if not location:
            return url
        asked = response.request or Request("POST", url)
        target = redirected(asked.url, location, None)
        ours, theirs = urlsplit(asked.url), urlsplit(target)
        downgraded = (ours.scheme, theirs.scheme) == ("https", "http") and ours.hostname == theirs.hostname
        if downgraded or _authority(ours) == _authority(theirs):
            return f"{ours.scheme}://{ours.netloc}{target.partition('//')[2].removeprefix(theirs.netloc)}"
        return target

    def refused(self, response: Response, what: str = "") -> PushRefused:
        """The error for an answer that takes nothing (or, without `what`, says nothing); reads its body."""
        asked = response.request or Request("PUT", self.route.url)
        raw = b""
        with suppress(BodyTooLarge, TransportError):  # the status says enough
            raw = read_all(response.body, ERROR_BODY_LIMIT_BYTES)
        told = Refusal.of(
            replace(response, body=BytesBlob(raw)),
            asked.method,
            self.memory.shown_url(asked.url),
            masked=self.memory.masked,
        ).told
        text = raw.decode("utf-8", "replace")
        full = response.status == 507 or (response.status >= 500 and _DISK_FULL.search(text) is not None)
        codes = [error.code for error in parse_errors(raw)]
        hint = _hint(self.route, response.status, explained=bool(codes))
        told = "; ".join([told.rstrip("."), *_details(self.memory.masked(text))])
        does_not = f"take {what} for" if what else "say what it has of"
        return PushRefused(
            f"{self.route.host} does not {does_not} {self.repository!r}: {told.rstrip('.')}",
            hint=_FULL if full else next((words for said, words in _SAID if said.search(text)), hint),
            status=response.status,
            codes=codes,
            digests=_DIGEST.findall(text)[:DIGESTS_SHOWN],
        )


DIGESTS_SHOWN: Final = 3
DETAILS_SHOWN: Final = 3
_FULL: Final = "the registry's disk is full: free some space there, then run the same command again"
_LIMITED: Final = "the registry limits requests: try again later, with fewer at once (-j)"
_QUOTA: Final = "the quota there is used up: remove something or have it raised, then run the same command again"
# Harbor says the first with 403, GHCR the second.
_SAID: Final = (
    (re.compile(r"(?i)\bquota\b"), _QUOTA),
    (re.compile(r"(?i)\brate limit"), _LIMITED),
)


def _details(body: str) -> Iterator[str]:
    """What registries say of an error in its details, where they say it in words."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        for error in json.loads(body)["errors"][:DETAILS_SHOWN]:
            detail = error.get("detail")
            if isinstance(detail, dict):  # Quay: message, Artifactory: description
                detail = detail.get("message") or detail.get("description")
            if isinstance(detail, str) and detail.strip():
                yield one_line(detail, 200)


def _authority(url: SplitResult) -> tuple[str, str]:
    """Scheme and authority, the port left out that everybody leaves out."""
    return url.scheme, url.netloc.lower().removesuffix(":443" if url.scheme == "https" else ":80")


def _hint(route: Route, status: int, *, explained: bool) -> str:
    """What to do about an answer to a push; `explained` if it was a registry that said it, and no proxy."""
    match status:
        case 400 if route.scheme == "https" and not explained:
            return f"{route.host} may want a client certificate: `tls` of its `configs`, or --dest-cert-file"
        case 401 | 403:
            return (
                "log in as somebody who may push there (and see that the project exists): `configs` of registries.yaml "
                f"is looked up by {route.host!r}; or give --dest-creds"
            )
        case 404:
            return f"{route.host} may want the project or repository to be created first"
        case 405:
            return f"{route.host} is read only, or a mirror that only pulls; push to the registry behind it"
        case 413:
            return "a proxy in front of the registry refuses large bodies: in nginx it is client_max_body_size"
        case 429:
            return _LIMITED
    return "the registry's own log says more" if status >= 500 else ""


def with_digest(url: str, digest: Digest) -> str:
    """The URL of an upload that is to be finished: all of its query stays as it is."""
    return f"{url}{'&' if '?' in url else '?'}digest={quote(str(digest), safe='')}"


def smaller_chunk(than_bytes: int, at_least: int) -> int | None:
    """The next smaller size of chunks to try."""
    sizes: Sequence[int] = [size for size in CHUNKS_BYTES if size < than_bytes and size >= at_least]
    return sizes[0] if sizes else None
