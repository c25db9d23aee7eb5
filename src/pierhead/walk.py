"""The walk over the routes of a plan: what is asked next, given what came of the last question.

`resolve` finds out what a name points to, `open_content` finds a route that gives the content. Both are conversations
that somebody else carries out (`client.Remote`, `probe`, a what-if), and both are pure but for the `Memory` they share.

Follows containerd v2.3.4, core/remotes/docker/resolver.go Resolve and fetcher.go Fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from pierhead.ask import GivenUp, Memory, ask
from pierhead.auth import AuthorizationFailed, BadCredential, Inspect, Steps
from pierhead.body import BodyTooLarge, read_all
from pierhead.errors import ExitCode, PierheadError
from pierhead.gourl import InvalidUrl
from pierhead.oci import ACCEPT_MANIFESTS, MANIFEST_LIMIT_BYTES, SCHEMA_1_TYPES, Descriptor, InvalidManifest
from pierhead.reference import Digest, InvalidDigest, Reference
from pierhead.routing import Route, foreign_route
from pierhead.transport import TransportError
from pierhead.wire import (
    ERROR_BODY_LIMIT_BYTES,
    Headers,
    Request,
    Response,
    format_range,
    one_line,
    parse_challenges,
    parse_content_range,
    parse_errors,
    status_text,
)

# ── what came of it ──────────────────────────────────────────────────────────────────────────────────────────────


Outcome = Literal["ok", "status", "error", "auth", "content", "skipped"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One route asked for one thing, and what came of it.

    `outcome` is "ok", "status" (an answer that moves on), "error" (no answer), "auth", "content" (an answer that cannot
    be used) or "skipped" (not asked again); `priority` is containerd's relevance of the failure, 0 for none.
    """

    route: Route
    url: str
    outcome: Outcome
    status: int | None
    cause: str
    seconds: float
    priority: int = 0
    hint: str = ""
    exit_code: ExitCode = ExitCode.DONE

    @property
    def place(self) -> str:
        """The endpoint as the file writes it; else where it was really asked."""
        if self.route.kind == "mirror" and self.route.endpoint:
            return self.route.endpoint
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}" if rest else self.route.endpoint or self.route.host


Record = Callable[[Attempt], object]


class AllRoutesFailed(PierheadError):
    """No route gave what was asked for: one line for each, and the exit code of the cause containerd would report."""

    def __init__(self, what: str, attempts: Sequence[Attempt], *, decisive: Attempt | None) -> None:
        lines = [f"  {attempt.place}: {attempt.cause}" for attempt in attempts]
        hint = decisive.hint if decisive else ""
        if not lines:
            hint = "there is no place to ask; `pierhead explain` says what is left out, and why"
        super().__init__("\n".join([f"no route gives {what}", *lines]), hint=hint)
        self.what = what
        self.attempts = tuple(attempts)
        self.exit_code = decisive.exit_code if decisive else ExitCode.NOT_FOUND


def cause_at(route: Route, error: PierheadError) -> str:
    """The message of an error without the host: whoever shows an attempt has named its route already."""
    return error.message.removeprefix(f"{route.host}: ")


class ResolveFailed(PierheadError):
    """A route answered what containerd does not move on from; the pull ends here."""

    def __init__(self, message: str, *, status: int | None = None, cause: PierheadError | None = None) -> None:
        super().__init__(message, hint=cause.hint if cause else "")
        self.status = status
        self.exit_code = cause.exit_code if cause else _STATUS_EXIT_CODES.get(status, ExitCode.FAILED)


_STATUS_EXIT_CODES: Final[Mapping[int | None, ExitCode]] = {
    401: ExitCode.NOT_AUTHORISED,
    403: ExitCode.NOT_AUTHORISED,
    404: ExitCode.NOT_FOUND,
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference points to, and the route that said so."""

    descriptor: Descriptor
    route: Route


# ── resolving ────────────────────────────────────────────────────────────────────────────────────────────────────

_Kind = Literal["manifests", "blobs"]
_ABOVE_NOT_FOUND: Final = 2
CHALLENGES_SHOWN: Final = 4
FOREIGN_URLS_LIMIT: Final = 16


def resolve(memory: Memory, routes: Sequence[Route], reference: Reference, record: Record) -> Steps[Resolved]:
    """What `reference` points to, by the first route that knows; raises `AllRoutesFailed`, `ResolveFailed`."""
    needed = {"pull"} if reference.digest else {"pull", "resolve"}
    capable = [route for route in routes if needed <= set(route.capabilities)]
    if not capable:
        raise AllRoutesFailed(str(reference), (), decisive=None)
    yield from _inspect(memory, routes)
    failures: list[Attempt] = []
    # A digest may also name something that old registries only have among the blobs; never after a worse failure.
    kinds: tuple[_Kind, ...] = ("manifests", "blobs") if reference.digest else ("manifests",)
    for kind in kinds:
        if any(failure.priority > _ABOVE_NOT_FOUND for failure in failures):
            break
        for route in capable:
            question = _Question(memory, route, kind, route is capable[-1])
            started = memory.clock()
            try:
                found = yield from _resolve_at(question, reference)
            except (ResolveFailed, InvalidManifest) as error:
                record(question.failed(route.url, error, started))
                raise
            record(found.attempt)
            if found.descriptor is not None:
                return Resolved(found.descriptor, route)
            failures.append(found.attempt)
    raise AllRoutesFailed(str(reference), failures, decisive=_decisive(failures))


def _inspect(memory: Memory, routes: Sequence[Route]) -> Steps[None]:
    """containerd reads every host's certificate files first, and one that it cannot use fails them all."""
    if not memory.profile.bad_file_fails_registry:
        return
    for route in routes:
        error = yield Inspect(memory.options(route))
        if isinstance(error, TransportError):
            raise ResolveFailed(error.message, cause=error)


def _decisive(failures: Sequence[Attempt]) -> Attempt | None:
    """The failure that containerd reports: the first of the most relevant ones."""
    return max(failures, key=lambda failure: failure.priority, default=None)


@dataclass(frozen=True, slots=True)
class _Question:
    memory: Memory
    route: Route
    kind: _Kind
    last_route: bool

    def failed(self, url: str, error: PierheadError, started: float, priority: int = 1) -> Attempt:
        """The attempt that an exception makes of it."""
        outcome: Outcome = "error"
        if isinstance(error, GivenUp):
            outcome = "skipped"
        elif isinstance(error, (AuthorizationFailed, BadCredential)):
            outcome = "auth"
        elif isinstance(error, (ResolveFailed, InvalidManifest)):
            outcome = "content"
        status = error.status if isinstance(error, (GivenUp, ResolveFailed)) else None
        seconds = self.memory.clock() - started
        cause = self.memory.masked(cause_at(self.route, error))
        return Attempt(
            self.route,
            self.memory.shown_url(url),
            outcome,
            status,
            cause,
            seconds,
            priority,
            error.hint,
            error.exit_code,
        )

    def told(self, response: Response) -> str:
        """An answer in one line, without what it knows from us."""
        return self.memory.masked(explain_status(response, self.memory.masked))


@dataclass(frozen=True, slots=True)
class _Found:
    attempt: Attempt
    descriptor: Descriptor | None = None


def _resolve_at(question: _Question, reference: Reference) -> Steps[_Found]:
    memory, route = question.memory, question.route
    started, url = memory.clock(), route.url
    try:
        url = route.url_of(question.kind, reference.object)
        request = Request("HEAD", url, Headers([("Accept", ACCEPT_MANIFESTS)]))
        with (yield from ask(memory, route, request, last_route=question.last_route)) as response:
            if response.status > 299:
                return _Found((yield from _refused(question, request, response, started)))
        descriptor = yield from _described(question, request, response, reference)
    except _UNANSWERED as error:
        return _Found(question.failed(url, error, started))
    seconds = memory.clock() - started
    if descriptor.size_bytes > MANIFEST_LIMIT_BYTES:
        cause = f"a manifest of {descriptor.size_bytes} bytes; the limit is {MANIFEST_LIMIT_BYTES}"
        return _Found(
            Attempt(route, memory.shown_url(url), "content", response.status, cause, seconds, 4, "", ExitCode.NOT_FOUND)
        )
    return _Found(Attempt(route, memory.shown_url(url), "ok", response.status, "", seconds), descriptor)


_UNANSWERED = (TransportError, AuthorizationFailed, BadCredential, GivenUp, InvalidUrl)


def _refused(question: _Question, request: Request, response: Response, started: float) -> Steps[Attempt]:
    """The attempt of an answer that moves on to the next route; raises `ResolveFailed` for one that does not."""
    status = response.status
    if status <= 399:
        told = f"{question.route.host} answers {status_text(status)}, which containerd takes for final"
        raise ResolveFailed(told, status=status)
    told = question.told(response)
    if status == 403 and request.method == "HEAD":
        told = yield from _reason_of_403(question, request, told)
    priority = 2 if status == 404 else 3
    return _status_attempt(question, request.url, status, told, started, priority=priority)


def _reason_of_403(question: _Question, request: Request, told: str) -> Steps[str]:
    """As containerd since 2.3.3: an answer to HEAD has no body, so the reason is asked for with one GET."""
    try:
        again = Request("GET", request.url, request.headers)
        with (yield from ask(question.memory, question.route, again, last_route=False)) as response:
            return question.told(response) if response.status > 399 else told
    except _UNANSWERED:
        return told


def _status_attempt(question: _Question, url: str, status: int, told: str, started: float, *, priority: int) -> Attempt:
    return Attempt(
        question.route,
        question.memory.shown_url(url),
        "status",
        status,
        told,
        question.memory.clock() - started,
        priority,
        _hint(question.route, status),
        _STATUS_EXIT_CODES.get(status, ExitCode.FAILED),
    )


def _hint(route: Route, status: int) -> str:
    match status:
        case 400 if route.scheme == "https":  # nginx answers so without saying why: an answer to HEAD has no body
            which = "another" if route.tls.client else "a"
            return (
                f"{route.host} may want {which} client certificate: `tls` of its `configs` names cert_file and key_file"
            )
        case 401 | 403:
            return f"check the credentials for {route.host!r}: `configs` is looked up by just this host and port"
        case 404:
            rewritten = " (after the rewrite)" if route.rewrite else ""
            return f"{route.host} has no {route.repository!r}{rewritten}; is the image pushed there under this name?"
        case 429:
            return "the registry limits requests; log in, or put a mirror in front"
    return ""


def explain_status(response: Response, masked: Callable[[str], str] = str) -> str:
    """An answer in one line: status, what it wants for authorization, what its error body says.

    `masked` takes secrets out of that body, before anything of it is cut short.
    """
    parts = [status_text(response.status)]
    parts += [f"it wants {challenge.shown}" for challenge in parse_challenges(response.headers)[:CHALLENGES_SHOWN]]
    if after := response.headers.get("retry-after"):
        parts.append(f"Retry-After {one_line(after, 40)}")
    with suppress(BodyTooLarge, TransportError):  # the status says enough
        body = read_all(response.body, ERROR_BODY_LIMIT_BYTES).decode("utf-8", "replace")
        parts += [str(error) for error in parse_errors(masked(body).encode())]
    return "; ".join(parts)


def _described(question: _Question, request: Request, response: Response, reference: Reference) -> Steps[Descriptor]:
    """The descriptor that an answer to HEAD gives, or that a GET gives where HEAD says too little.

    As containerd: a failure of that GET ends the pull (no next route).
    """
    digest = reference.digest or _digest_header(response)
    size = _length(response)
    media_type = _media_type(response)
    if digest is not None and size is not None:
        return Descriptor(media_type, digest, size)
    try:
        again = Request("GET", request.url, request.headers)
        answer = yield from ask(question.memory, question.route, again, last_route=True)
        with answer:
            if answer.status >= 400:
                told = f"{question.route.host}: HEAD succeeded, but GET: {question.told(answer)}"
                raise ResolveFailed(told, status=answer.status)
            raw = read_all(answer.body, MANIFEST_LIMIT_BYTES)
    except BodyTooLarge as error:
        return Descriptor(media_type, reference.digest or Digest.of(b""), error.limit_bytes + 1)
    except _UNANSWERED as error:
        told = question.memory.masked(error.message)
        raise ResolveFailed(f"{question.route.host}: HEAD succeeded, but GET: {told}", cause=error) from error
    if not raw:
        raise ResolveFailed(f"{question.route.host} gives a manifest of no bytes")
    return Descriptor(_media_type(answer), reference.digest or Digest.of(raw), len(raw))


def _digest_header(response: Response) -> Digest | None:
    text = response.headers.get("docker-content-digest")
    if not text or _length(response) is None:
        return None
    try:
        return Digest.parse(text)
    except InvalidDigest as error:
        raise ResolveFailed(f"the answer's Docker-Content-Digest is no digest: {error.message}", cause=error) from error


def _length(response: Response) -> int | None:
    text = response.headers.get("content-length").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _media_type(response: Response) -> str:
    media_type = response.headers.get("content-type").partition(";")[0].strip()
    if media_type in SCHEMA_1_TYPES:
        raise InvalidManifest(
            "the registry has this image only as Docker schema 1, which containerd no longer takes either (since 2.1)",
            hint="push the image again with a current tool; it becomes schema 2 or OCI",
        )
    return media_type


# ── fetching ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer whose body is the content from some offset on, once `skip_bytes` of it are thrown away."""

    response: Response
    attempt: Attempt
    skip_bytes: int = 0


def open_content(
    memory: Memory, routes: Sequence[Route], descriptor: Descriptor, record: Record, *, offset: int = 0
) -> Steps[Opened]:
    """The content of a descriptor from `offset` on, by the first of these `content_routes` that gives it.

    Raises `AllRoutesFailed`.
    """
    kind: _Kind = "manifests" if descriptor.is_manifest else "blobs"
    headers = Headers([("Accept", f"{descriptor.media_type}, */*" if descriptor.media_type else "*/*")])
    if offset:
        headers = headers.plus(("Range", format_range(offset)))
    failures: list[Attempt] = []
    for route in routes:
        question = _Question(memory, route, kind, route is routes[-1])
        started, url = memory.clock(), route.url
        try:
            url = route.url_of(kind, str(descriptor.digest))
            response = yield from ask(memory, route, Request("GET", url, headers), last_route=question.last_route)
        except _UNANSWERED as error:
            failures.append(question.failed(url, error, started))
        else:
            skip_bytes = _skipped_bytes(response, offset)
            if skip_bytes is not None:
                attempt = Attempt(route, memory.shown_url(url), "ok", response.status, "", memory.clock() - started)
                record(attempt)
                return Opened(response, attempt, skip_bytes)
            with response:
                told = f"{question.told(response)}{'' if response.status > 299 else '; not the part asked for'}"
            failures.append(_status_attempt(question, url, response.status, told, started, priority=3))
        record(failures[-1])
    # As containerd: here it is the first route's failure that is reported.
    raise AllRoutesFailed(str(descriptor.digest), failures, decisive=failures[0] if failures else None)


def content_routes(routes: Sequence[Route], descriptor: Descriptor) -> list[Route]:
    """Where this content may be had, in order: a foreign layer first at its own URLs."""
    foreign = [foreign_route(url, order=-1 - index) for index, url in enumerate(descriptor.urls[:FOREIGN_URLS_LIMIT])]
    return foreign + [route for route in routes if "pull" in route.capabilities]


def _skipped_bytes(response: Response, offset: int) -> int | None:
    """How much of the answer's body comes before `offset`; None if it is not what was asked for.

    As containerd: fetcher.go withOffsetCheck.
    """
    if response.status > 299:
        return None
    part = parse_content_range(response.headers.get("content-range"))
    if part is not None:
        return 0 if part.start == offset else None
    return 0 if response.status == 206 else offset
