"""One object asked of one route: redirects, authorization, and the repetitions that are worth it.

A conversation (`auth.Steps`) like everything above it: no socket, no clock but the one it is given. Two profiles ask
in the same code: `CONTAINERD` just as containerd v2.3.4 (with K3s' patches) was recorded asking, `OURS` differs only
where we are better on purpose; docs/compatibility.md has a row for every difference.

Follows containerd v2.3.4, core/remotes/docker/resolver.go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeVar

from pierhead.auth import Answer, AuthorizationFailed, Authorizer, Inspect, Lookup, Send, Steps, Wait
from pierhead.errors import ExitCode, PierheadError
from pierhead.redact import safe_url, without_secrets
from pierhead.redirect import REDIRECT_LIMIT, location_of, redirected
from pierhead.routing import Route
from pierhead.transport import Cause, Options, Timeouts, Transport, TransportError
from pierhead.wire import Request, Response, parse_challenges

ATTEMPTS: Final = 5  # As containerd: resolver.go maxAttempts, for one host and object.
RETRY_AFTER_CAP_SECONDS: Final = 30.0
BACK_OFF_SECONDS: Final = 0.25
BACK_OFF_CAP_SECONDS: Final = 8.0
SLOW_REST_SECONDS: Final = 60.0  # how long a host that did not answer in time is left alone
FOREVER: Final = float("inf")

# What a later object of the same pull would meet again.
DEAD: Final = frozenset(
    {
        Cause.DNS,
        Cause.REFUSED,
        Cause.UNREACHABLE,
        Cause.CONNECT_TIMEOUT,
        Cause.TLS_TIMEOUT,
        Cause.TLS,
        Cause.CERTIFICATE,
        Cause.PLAIN_HTTP,
        Cause.CA_FILE,
        Cause.CLIENT_CERTIFICATE,
        Cause.BAD_URL,
        Cause.PROXY,
    }
)
_TRANSIENT: Final = frozenset({Cause.CLOSED, Cause.CUT, Cause.FIRST_BYTE_TIMEOUT})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the two ways of walking differ; every field is a row of docs/compatibility.md."""

    name: Literal["containerd", "ours"]
    keeps_tokens: bool
    repeats_refused: bool
    remembers_dead: bool
    waits: bool
    bad_file_fails_registry: bool
    bad_content_fails: bool


CONTAINERD: Final = Profile(
    "containerd",
    keeps_tokens=False,
    repeats_refused=True,
    remembers_dead=False,
    waits=False,
    bad_file_fails_registry=True,
    bad_content_fails=True,
)
OURS: Final = Profile(
    "ours",
    keeps_tokens=True,
    repeats_refused=False,
    remembers_dead=True,
    waits=True,
    bad_file_fails_registry=False,
    bad_content_fails=False,
)


@dataclass(frozen=True, slots=True)
class Manner:
    """How one object is asked for: what a token is wanted for, and how much is put up with before a failure stands.

    `scopes` are what a token is asked for, if not the one of the route. `attempts` requests in all if the connection
    fails, and the first `status_attempts` also if the answer is one of `statuses`. Without `repeats` only authorization
    is settled, and whatever fails then is the caller's to repeat: a body that comes as it is sent. `answer_seconds` is
    how long an answer is waited for at least.
    """

    scopes: tuple[str, ...] = ()
    attempts: int = ATTEMPTS
    statuses: frozenset[int] = frozenset()
    status_attempts: int = 0
    repeats: bool = True
    answer_seconds: float = 0.0


WALKING: Final = Manner()


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


class GivenUp(PierheadError):
    """A route is not asked again in this pull (or not yet): it was down, or it told us to wait."""

    def __init__(self, reason: PierheadError | str, *, status: int | None = None) -> None:
        error = reason if isinstance(reason, PierheadError) else None
        super().__init__(f"not asked again: {error.message if error else reason}", hint=error.hint if error else "")
        self.exit_code = error.exit_code if error else ExitCode.FAILED
        self.go_text = self.message  # containerd knows nothing of this
        self.status = status


@dataclass(slots=True)
class Hosts:
    """What is known of hosts, whoever's image they are asked for, by origin: who is down, who has served us.

    `plain`: by authority, who was found to speak no TLS.
    """

    given_up: dict[str, tuple[float, GivenUp]] = field(default_factory=dict)
    served: set[str] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Memory:
    """What is remembered between the questions of one pull; safe for several threads.

    `clock` gives seconds that only grow; `hosts` may be shared by the pulls of one command.
    """

    lookup: Lookup
    profile: Profile = OURS
    timeouts: Timeouts = Timeouts()
    user_agent: str = "pierhead"
    clock: Callable[[], float] = field(default=lambda: 0.0)
    hosts: Hosts = field(default_factory=Hosts)
    _authorizers: dict[int, Authorizer] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def new_phase(self) -> None:
        """Between resolving and fetching: containerd makes its hosts anew there, tokens and fallbacks included."""
        if not self.profile.keeps_tokens:
            self._authorizers.clear()
            self.hosts.plain.clear()

    def options(self, route: Route) -> Options:
        return Options(route.tls, self.timeouts)

    def authorizer(self, route: Route) -> Authorizer:
        """The authorizations of one route; every route has its own, as in containerd. A foreign layer's has none."""
        with self._lock:
            if route.order not in self._authorizers:
                self._authorizers[route.order] = Authorizer(
                    self.lookup if route.kind != "foreign" else lambda _: None,
                    self.options(route),
                    clock=self.clock,
                    repeats_refused=self.profile.repeats_refused,
                )
            return self._authorizers[route.order]

    def check(self, origin: str, *, last_route: bool) -> None:
        """Raise `GivenUp` if this host is known not to answer now."""
        until, reason = self.hosts.given_up.get(origin, (0.0, None))
        if reason is None or (until != FOREVER and (last_route or self.clock() >= until)):
            return
        raise reason.with_traceback(None)

    def give_up(self, origin: str, reason: GivenUp, *, until: float) -> None:
        """Do not ask this host before `until` (on the clock), or in this pull at all."""
        if self.profile.remembers_dead and origin:
            self.hosts.given_up[origin] = (until, reason)

    def shown_url(self, url: str) -> str:
        """`url` as it was really asked, by plain http where nobody spoke TLS; safe to print."""
        request = Request("GET", url)
        return safe_url(_plainly(request).url if request.authority in self.hosts.plain else url)

    def masked(self, text: str) -> str:
        """`text`, which somebody else may have written, without the secrets that he knows from us."""
        with self._lock:
            authorizers = tuple(self._authorizers.values())
        return without_secrets(text, {secret for authorizer in authorizers for secret in authorizer.secrets()})


# ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────


def _exchange(tries: _Tries, request: Request) -> Steps[tuple[Response, Request, str | None]]:
    """One request with its redirects: the last answer, the request it answers, and the Authorization that it bore.

    Authorization is decided for each hop anew, by the host of that hop; nothing else that is secret is carried over.
    """
    memory, route = tries.memory, tries.route
    authorizer = memory.authorizer(route)
    for _ in range(REDIRECT_LIMIT):
        origin = request.origin
        tries.dialled = ""  # a token server that is down says nothing about this host
        memory.check(origin, last_route=tries.last_route)
        authorization = yield from authorizer.header(request.authority, tries.manner.scopes or (route.scope,))
        tries.dialled = origin
        sent = request
        if authorization is not None:
            sent = replace(request, headers=request.headers.plus(("Authorization", authorization)))
        response = yield from _send(memory, tries.options(), route, sent)
        memory.hosts.served.add(origin)
        location = location_of(response)
        if not location:
            return response, request, authorization
        response.body.close()
        tries.dialled = ""
        request = replace(request, url=redirected(request.url, location, authorization))
    raise TransportError(Cause.PROTOCOL, url=request.url, detail=f"stopped after {REDIRECT_LIMIT} redirects")


def _send(memory: Memory, options: Options, route: Route, request: Request) -> Steps[Response]:
    """One request, by plain http where https was tried for an http endpoint and nobody spoke it.

    As containerd: resolver.go httpFallback.RoundTrip; once fallen back, a host stays there.
    """
    request = replace(request, headers=request.headers.plus(("User-Agent", memory.user_agent)))
    falls_back = route.http_fallback and request.url.startswith("https://")
    if falls_back and request.authority in memory.hosts.plain:
        request, falls_back = _plainly(request), False
    answer = yield Send(request, options)
    if falls_back and isinstance(answer, TransportError) and no_tls(answer, request.authority):
        memory.hosts.plain.add(request.authority)
        answer = yield Send(_plainly(request), options)
    if isinstance(answer, TransportError):
        raise answer
    assert answer is not None
    return answer


def _plainly(request: Request) -> Request:
    return replace(request, url="http://" + request.url.removeprefix("https://"))


def no_tls(error: TransportError, authority: str) -> bool:
    """Whether this failure of https makes containerd try plain http, at an endpoint where it may."""
    has_port = ":" in authority.rpartition("]")[2]
    return error.cause in {Cause.PLAIN_HTTP, Cause.TLS_TIMEOUT} or (
        not has_port and error.cause in {Cause.REFUSED, Cause.CONNECT_TIMEOUT}
    )


@dataclass(slots=True)
class _Tries:
    """How often one object was asked of one route, and what the last answer was."""

    memory: Memory
    route: Route
    last_route: bool
    manner: Manner = WALKING
    count: int = 0
    dialled: str = ""  # the origin that was asked last
    previous: tuple[str, str, int] = ("", "", 0)  # method, URL and status of the answer before

    def exhausted(self) -> bool:
        return self.count >= self.manner.attempts

    def options(self) -> Options:
        """Those of the route, with as long a wait for the answer as is called for."""
        options, seconds = self.memory.options(self.route), self.manner.answer_seconds
        if seconds <= options.timeouts.first_byte_seconds:
            return options
        return replace(options, timeouts=replace(options.timeouts, first_byte_seconds=seconds))


def ask(
    memory: Memory, route: Route, request: Request, *, last_route: bool, manner: Manner = WALKING
) -> Steps[Response]:
    """One object asked of one route, with the repetitions that are worth it; the answer that stands.

    Raises `TransportError`, `AuthorizationFailed`, `BadCredential`, `GivenUp`.
    As containerd: resolver.go doWithRetries.
    """
    tries = _Tries(memory, route, last_route, manner)
    while True:
        tries.count += 1
        try:
            response, asked, authorization = yield from _exchange(tries, request)
        except TransportError as error:
            if tries.exhausted() or not _worth_repeating(tries, error):
                _remember(tries, error)
                raise
            yield from _pause(tries, 0.05 if not memory.profile.waits else back_off(tries.count))
            continue
        except AuthorizationFailed as error:
            # Ours: a token server that is too busy now. No body was sent yet, so anything can be asked again.
            if error.busy is None or not last_route or tries.exhausted():
                raise
            yield from _pause(tries, retry_after(error.busy) or back_off(tries.count))
            continue
        try:
            again = None if tries.exhausted() else _again(tries, response, asked, authorization)
        except PierheadError:
            response.body.close()
            raise
        if again is None:
            return replace(response, request=asked)
        response.body.close()  # before any waiting: somebody else may want the connection
        yield from _pause(tries, again.pause_seconds)
        request = replace(request, method=again.method)


def _remember(tries: _Tries, error: TransportError) -> None:
    """A host that is down is not dialled again; one that is slow is left alone for a while, if there are others."""
    memory = tries.memory
    if not tries.manner.repeats:
        return
    if error.cause in DEAD:
        memory.give_up(tries.dialled, GivenUp(error), until=FOREVER)
    elif error.cause is Cause.FIRST_BYTE_TIMEOUT:
        memory.give_up(tries.dialled, GivenUp(error), until=memory.clock() + SLOW_REST_SECONDS)


def _worth_repeating(tries: _Tries, error: TransportError) -> bool:
    """As containerd: only on the last host, and only what may be gone the next moment."""
    if not tries.last_route or not tries.manner.repeats:
        return False
    if not tries.memory.profile.waits:
        return error.cause in _TRANSIENT
    if not tries.dialled:  # ours: of a token server that does not answer in time, the failure is kept
        return error.cause in _TRANSIENT - {Cause.FIRST_BYTE_TIMEOUT}
    # Ours: a registry that served us a moment ago and now refuses is being restarted.
    restarting = error.cause is Cause.REFUSED and tries.dialled in tries.memory.hosts.served
    return error.cause in _TRANSIENT or restarting


@dataclass(frozen=True, slots=True)
class _Again:
    """The request is worth repeating, by this method and after a pause."""

    method: str
    pause_seconds: float = 0.0


def _again(tries: _Tries, response: Response, asked: Request, authorization: str | None) -> _Again | None:
    """Whether, and how, the request is repeated after this answer. As containerd: resolver.go retryRequest."""
    status, previous = response.status, tries.previous
    tries.previous = (asked.method, asked.url, status)
    if status == 401:
        repeated = previous[:2] == (asked.method, asked.url)
        challenges = parse_challenges(response.headers)
        authorizer = tries.memory.authorizer(tries.route)
        retry = authorizer.challenged(asked.authority, challenges, sent=authorization, repeated=repeated)
        return _Again(asked.method) if retry else None
    if not tries.manner.repeats:
        return None
    if status == 405 and asked.method == "HEAD" and "/manifests/" in asked.url:
        return _Again("GET")
    if status in {408, 429}:
        return _rate_limited(tries, response, asked.method)
    patient = status in tries.manner.statuses and tries.count < tries.manner.status_attempts
    if patient or (status in {500, 503, 504} and tries.last_route and previous[2] != status):
        return _Again(asked.method, retry_after(response) or back_off(tries.count))
    return None


def _rate_limited(tries: _Tries, response: Response, method: str) -> _Again | None:
    """containerd repeats 408 and 429 at once. We wait for as long as we are told, and rather ask the next route."""
    if not tries.memory.profile.waits:
        return _Again(method)
    seconds = retry_after(response) or back_off(tries.count)
    if not tries.last_route:
        reason = GivenUp(f"it said {response.status}, try again in {seconds:.0f} s", status=response.status)
        tries.memory.give_up(tries.dialled, reason, until=tries.memory.clock() + seconds)
        return None
    return _Again(method, seconds)


def _pause(tries: _Tries, seconds: float) -> Steps[None]:
    if seconds and (tries.memory.profile.waits or seconds < 0.1):
        yield Wait(seconds)


def back_off(count: int) -> float:
    """Seconds to wait before whatever failed `count` times is tried again."""
    import random

    ceiling = min(BACK_OFF_CAP_SECONDS, BACK_OFF_SECONDS * 2.0 ** (count - 1))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 — jitter, not a secret


def retry_after(response: Response) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3), capped; None without one."""
    text = response.headers.get("retry-after").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_CAP_SECONDS)
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        wait = parsedate_to_datetime(text).timestamp() - parsedate_to_datetime(response.headers.get("date")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait, 0.0), RETRY_AFTER_CAP_SECONDS)


# ── doing it ─────────────────────────────────────────────────────────────────────────────────────────────────────


def carry_out(steps: Steps[T], transport: Transport, wait: Callable[[float], object] = time.sleep) -> T:
    """Do what a conversation asks for until it ends; its value, or what it raises."""
    answer: Answer = None
    try:
        while True:
            step = steps.send(answer)
            match step:
                case Send():
                    try:
                        answer = transport.send(step.request, step.options)
                    except TransportError as error:
                        answer = error
                case Wait():
                    answer = None
                    wait(step.seconds)
                case Inspect():
                    answer = transport.inspect(step.options)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()
