"""The walk over the routes of a plan: what is asked next, given what came of the last question.

`resolve` finds out what a name points to, `open_content` finds a route that gives the content. Both are conversations
that somebody else carries out (`client.Remote`, `probe`, a what-if), and both are pure but for the `Memory` they share.

Follows containerd v2.3.4, core/remotes/docker/resolver.go Resolve and fetcher.go Fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pierhead import gowords
from pierhead.ask import GivenUp, Memory, ask
from pierhead.auth import AuthorizationFailed, BadCredential, Inspect, Steps
from pierhead.body import BodyTooLarge, read_all
from pierhead.errors import ExitCode, PierheadError
from pierhead.gourl import InvalidUrl
from pierhead.gowords import NOT_FOUND
from pierhead.oci import ACCEPT_MANIFESTS, MANIFEST_LIMIT_BYTES, SCHEMA_1_TYPES, Descriptor, InvalidManifest
from pierhead.redact import safe_url
from pierhead.reference import Digest, InvalidDigest, Reference
from pierhead.refusal import Refusal, status_hint
from pierhead.routing import Route, foreign_route
from pierhead.transport import TransportError
from pierhead.wire import (
    Headers,
    Request,
    Response,
    format_range,
    one_line,
    parse_content_range,
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
    go_text: str = field(default="", repr=False)  # of a failure, as containerd words it

    @property
    def place(self) -> str:
        """The endpoint as the file writes it; else where it was really asked."""
        if self.route.kind == "mirror" and self.route.endpoint:
            return self.route.endpoint
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}" if rest else self.route.endpoint or self.route.host


Record = Callable[[Attempt], object]


class AllRoutesFailed(PierheadError):
    """No route gave what was asked for: one line for each, and the exit code of the cause containerd would report.

    `decisive` is the attempt with that cause, `go_text` containerd's words.
    """

    def __init__(
        self, what: str, attempts: Sequence[Attempt], *, decisive: Attempt | None, go_text: str | None = None
    ) -> None:
        lines = [f"  {attempt.place}: {attempt.cause}" for attempt in attempts]
        hint = decisive.hint if decisive else ""
        if not lines:
            hint = "there is no place to ask; `pierhead explain` says what is left out, and why"
        super().__init__("\n".join([f"no route gives {what}", *lines]), hint=hint)
        self.what = what
        self.attempts = tuple(attempts)
        self.decisive = decisive
        self.go_text = go_text if go_text is not None else decisive.go_text if decisive else ""
        self.exit_code = decisive.exit_code if decisive else ExitCode.NOT_FOUND


def cause_at(route: Route, error: PierheadError) -> str:
    """The message of an error without the host: whoever shows an attempt has named its route already."""
    return error.message.removeprefix(f"{route.host}: ")


class ResolveFailed(PierheadError):
    """A route answered what containerd does not move on from; the pull ends here. `go_text`: containerd's words."""

    def __init__(
        self, message: str, *, status: int | None = None, cause: PierheadError | None = None, go_text: str = ""
    ) -> None:
        super().__init__(message, hint=cause.hint if cause else "")
        self.status = status
        self.go_text = go_text
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
FOREIGN_URLS_LIMIT: Final = 16


def resolve(memory: Memory, routes: Sequence[Route], reference: Reference, record: Record) -> Steps[Resolved]:
    """What `reference` points to, by the first route that knows; raises `AllRoutesFailed`, `ResolveFailed`."""
    needed = {"pull"} if reference.digest else {"pull", "resolve"}
    capable = [route for route in routes if needed <= set(route.capabilities)]
    if not capable:
        raise AllRoutesFailed(
            str(reference), (), decisive=None, go_text=f"{resolving(reference)}no resolve hosts: not found"
        )
    yield from _inspect(memory, routes, reference)
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
    raise unresolved(reference, failures)


def unresolved(reference: Reference, failures: Sequence[Attempt]) -> AllRoutesFailed:
    """What these failures of all routes come to; containerd reports the first of the most relevant ones."""
    decisive = max(failures, key=lambda failure: failure.priority, default=None)
    go_text = decisive.go_text if decisive else f"{reference}: {NOT_FOUND}"
    return AllRoutesFailed(str(reference), failures, decisive=decisive, go_text=f"{resolving(reference)}{go_text}")


def resolving(reference: Reference) -> str:
    """What containerd's client puts before whatever ends a resolve (client/pull.go)."""
    return f'failed to resolve reference "{reference}": '


@dataclass(frozen=True, slots=True)
class Asked:
    """What one route says to a name; `final` is what containerd does not move on from, whatever comes after it."""

    attempt: Attempt
    descriptor: Descriptor | None = None
    final: PierheadError | None = None


def resolve_at(memory: Memory, route: Route, reference: Reference, *, last_route: bool) -> Steps[Asked]:
    """What `reference` points to at one route, as `resolve` would ask it there, whatever the others say."""
    kinds: tuple[_Kind, ...] = ("manifests", "blobs") if reference.digest else ("manifests",)
    asked: Asked | None = None
    for kind in kinds:
        question, started = _Question(memory, route, kind, last_route), memory.clock()
        try:
            found = yield from _resolve_at(question, reference)
        except (ResolveFailed, InvalidManifest) as error:
            return Asked(question.failed(route.url, error, started), final=error)
        if asked is None or found.descriptor is not None:
            asked = Asked(found.attempt, found.descriptor)
        if asked.attempt.priority > _ABOVE_NOT_FOUND or asked.descriptor is not None:
            break
    assert asked is not None
    return asked


def _inspect(memory: Memory, routes: Sequence[Route], reference: Reference) -> Steps[None]:
    """containerd reads every host's certificate files first, and one that it cannot use fails them all."""
    if not memory.profile.bad_file_fails_registry:
        return
    for route in routes:
        error = yield Inspect(memory.options(route))
        if isinstance(error, TransportError):
            go_text = resolving(reference) + error.detail
            raise ResolveFailed(error.message, cause=error, go_text=go_text)


@dataclass(frozen=True, slots=True)
class _Question:
    memory: Memory
    route: Route
    kind: _Kind
    last_route: bool
    method: Literal["HEAD", "GET"] = "HEAD"  # the first one: HEAD resolves, GET fetches

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
            self.memory.masked(self._go_text(url, error)),
        )

    def _go_text(self, url: str, error: PierheadError) -> str:
        match error:
            case TransportError():
                return gowords.request_failed(self.method, url, error)
            case AuthorizationFailed() if self.method == "HEAD" and gowords.UNAUTHORISED in error.go_text:
                return f"{_DENIED}{error.go_text}"
            case AuthorizationFailed() | BadCredential() | ResolveFailed() | GivenUp():
                return error.go_text
        return error.message

    def refused(self, response: Response, request: Request) -> Refusal:
        """What an answer says, and whom it was asked of in the end."""
        asked = response.request or request
        url = self.memory.shown_url(asked.url)
        return Refusal.of(response, asked.method, url, masked=self.memory.masked)


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
                return _Found((yield from _refused(question, request, response, started, reference)))
        descriptor = yield from _described(question, request, response, reference)
    except _UNANSWERED as error:
        return _Found(question.failed(url, error, started))
    seconds = memory.clock() - started
    if descriptor.size_bytes > MANIFEST_LIMIT_BYTES:
        cause = f"a manifest of {descriptor.size_bytes} bytes; the limit is {MANIFEST_LIMIT_BYTES}"
        go_text = f"rejecting {descriptor.size_bytes} byte manifest for {reference}: {NOT_FOUND}"
        return _Found(
            Attempt(
                route,
                memory.shown_url(url),
                "content",
                response.status,
                cause,
                seconds,
                4,
                exit_code=ExitCode.NOT_FOUND,
                go_text=go_text,
            )
        )
    return _Found(Attempt(route, memory.shown_url(url), "ok", response.status, "", seconds), descriptor)


_DENIED: Final = "pull access denied, repository does not exist or may require authorization: "
_FETCHING: Final = "failed to copy: httpReadSeeker: failed open: "
_UNANSWERED = (TransportError, AuthorizationFailed, BadCredential, GivenUp, InvalidUrl)


def _refused(
    question: _Question, request: Request, response: Response, started: float, reference: Reference
) -> Steps[Attempt]:
    """The attempt of an answer that moves on to the next route; raises `ResolveFailed` for one that does not."""
    status = response.status
    if status <= 399:
        told = f"{question.route.host} answers {status_text(status)}, which containerd takes for final"
        go_text = resolving(reference) + question.refused(response, request).go_text
        raise ResolveFailed(told, status=status, go_text=go_text)
    refusal = question.refused(response, request)
    if status == 403:
        refusal = yield from _reason_of_403(question, request, refusal)
    if status == 404:
        refusal = replace(refusal, go_text=f"{reference}: {NOT_FOUND}")
    return _status_attempt(question, request.url, status, refusal, started, priority=2 if status == 404 else 3)


def _reason_of_403(question: _Question, request: Request, refusal: Refusal) -> Steps[Refusal]:
    """As containerd since 2.3.3: an answer to HEAD has no body, so the reason is asked for with one GET."""
    try:
        again = Request("GET", request.url, request.headers)
        with (yield from ask(question.memory, question.route, again, last_route=False)) as response:
            if response.status <= 399:
                return refusal
            reason = question.refused(response, again)
            # The first line stays that of the HEAD, the body is the GET's.
            return Refusal(reason.told, "\n".join([refusal.go_text, *reason.go_text.split("\n")[1:]]))
    except _UNANSWERED:
        return refusal


def _status_attempt(
    question: _Question, url: str, status: int, refusal: Refusal, started: float, *, priority: int
) -> Attempt:
    return Attempt(
        question.route,
        question.memory.shown_url(url),
        "status",
        status,
        refusal.told,
        question.memory.clock() - started,
        priority,
        status_hint(question.route, status),
        _STATUS_EXIT_CODES.get(status, ExitCode.FAILED),
        refusal.go_text,
    )


def _described(question: _Question, request: Request, response: Response, wanted: Reference) -> Steps[Descriptor]:
    """The descriptor that an answer to HEAD gives, or that a GET gives where HEAD says too little.

    As containerd: a failure of that GET ends the pull (no next route).
    """
    digest = wanted.digest or _digest_header(response, wanted)
    size = _length(response)
    media_type = _media_type(response)
    if digest is not None and size is not None:
        return Descriptor(media_type, digest, size)
    try:
        again = Request("GET", request.url, request.headers)
        answer = yield from ask(question.memory, question.route, again, last_route=True)
        with answer:
            if answer.status >= 400:
                refusal = question.refused(answer, again)
                told = f"{question.route.host}: HEAD succeeded, but GET: {refusal.told}"
                raise ResolveFailed(told, status=answer.status, go_text=resolving(wanted) + refusal.go_text)
            raw = read_all(answer.body, MANIFEST_LIMIT_BYTES)
    except BodyTooLarge as error:
        return Descriptor(media_type, wanted.digest or Digest.of(b""), error.limit_bytes + 1)
    except _UNANSWERED as error:
        told = question.memory.masked(error.message)
        message = f"{question.route.host}: HEAD succeeded, but GET: {told}"
        go_text = resolving(wanted) + replace(question, method="GET").failed(request.url, error, 0.0).go_text
        raise ResolveFailed(message, cause=error, go_text=go_text) from error
    if not raw:
        empty = f"unable to fetch descriptor ({Digest.of(raw)}) which reports content size of zero: invalid argument"
        raise ResolveFailed(f"{question.route.host} gives a manifest of no bytes", go_text=empty)
    return Descriptor(_media_type(answer), wanted.digest or Digest.of(raw), len(raw))


def _digest_header(response: Response, wanted: Reference) -> Digest | None:
    text = response.headers.get("docker-content-digest")
    if not text or _length(response) is None:
        return None
    try:
        return Digest.parse(text)
    except InvalidDigest as error:
        message = f"the answer's Docker-Content-Digest is no digest: {error.message}"
        go_text = f'{resolving(wanted)}"{one_line(text)}" in header not a valid digest: {error.go_text}'
        raise ResolveFailed(message, cause=error, go_text=go_text) from error


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
        question = _Question(memory, route, kind, route is routes[-1], "GET")
        started, url = memory.clock(), route.url
        try:
            url = route.url_of(kind, str(descriptor.digest))
            request = Request("GET", url, headers)
            response = yield from ask(memory, route, request, last_route=question.last_route)
        except _UNANSWERED as error:
            failures.append(question.failed(url, error, started))
        else:
            skip_bytes = _skipped_bytes(response, offset)
            if skip_bytes is not None:
                attempt = Attempt(route, memory.shown_url(url), "ok", response.status, "", memory.clock() - started)
                record(attempt)
                return Opened(response, attempt, skip_bytes)
            with response:
                refusal = _no_content(question, request, response)
            failures.append(_status_attempt(question, url, response.status, refusal, started, priority=3))
        record(failures[-1])
    # As containerd: here it is the first route's failure that is reported.
    first = failures[0] if failures else None
    go_text = first.go_text if first else f"no pull hosts: {NOT_FOUND}"
    if first is not None and first.status == 404 and kind == "blobs":
        missing = f"{descriptor.digest} ({descriptor.media_type})"
        go_text = f"could not fetch content descriptor {missing} from remote: {NOT_FOUND}"
    raise AllRoutesFailed(str(descriptor.digest), failures, decisive=first, go_text=f"{_FETCHING}{go_text}")


def _no_content(question: _Question, request: Request, response: Response) -> Refusal:
    """An answer that is not the content, or not the part of it that was asked for."""
    refusal = question.refused(response, request)
    if response.status <= 299:
        part = one_line(response.headers.get("content-range"))
        go_text = f"unhandled content range in response: {part}"
        return Refusal(f"{refusal.told}; not the part asked for", go_text)
    if response.status == 404:
        return replace(refusal, go_text=f"content at {safe_url(request.url)} not found: {NOT_FOUND}")
    return refusal


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
