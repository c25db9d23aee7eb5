"""The places that routes lead to, each looked at once, however many images are asked for there.

First what can be seen without asking (addresses, TLS), then `/v2/`: by nobody for a place of some image, whose own
request shows whether we are let in; as whoever `configs` says for a place that no image is asked of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pierhead.ask import CONTAINERD, DEAD, Memory, carry_out, no_tls
from pierhead.auth import Authorizer, BadCredential, Credential, Lookup, Steps, send
from pierhead.errors import ExitCode, PierheadError, Span
from pierhead.gowords import NO_NAMES
from pierhead.probe.calls import Call, Eyes, Tap
from pierhead.routing import Route
from pierhead.transport import Cause, Options, Timeouts, TlsOptions, TransportError
from pierhead.transport.look import Look
from pierhead.wire import NO_HEADERS, Headers, Request, Response, parse_challenges, status_text

# containerd's rules, without the repetitions of what was refused: five wrong passwords would lock an account.
PROFILE: Final = replace(CONTAINERD, repeats_refused=False)
_MAYBE_TLS: Final = frozenset({Cause.CLOSED, Cause.CUT, Cause.PROTOCOL})  # what comes of plain http at a TLS port


@dataclass(frozen=True, slots=True)
class Terms:
    """How to ask: the transport, how long to wait, and the clock that times it."""

    eyes: Eyes
    timeouts: Timeouts
    clock: Callable[[], float]
    user_agent: str = "pierhead"


@dataclass(frozen=True, slots=True)
class Place:
    """What routes have in common that lead to the same place in the same way."""

    scheme: str
    host: str
    path: str
    tls: TlsOptions
    http_fallback: bool

    @classmethod
    def of(cls, route: Route) -> Place:
        # Where a path stands for /v2, or goes on behind it, the root of the API is still where the registry is.
        path = "/v2" if route.path == "/v2" or route.path.startswith("/v2/") else route.path.rstrip("/")
        return cls(route.scheme, route.host, path, route.tls, route.http_fallback)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}/"

    @property
    def plain_url(self) -> str:
        return f"http://{self.host}{self.path}/"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a place shows. `answer` is what `/v2/` says to nobody in particular, `error` why it says nothing.

    `plain`: it was asked by plain http because it speaks no TLS, which failed with `tls_error`. `speaks_tls`: it was
    asked by plain http, and speaks TLS. `files`: our own certificate files for it cannot be used.
    """

    place: Place
    look: Look = field(default_factory=Look)
    answer: Call | None = None
    error: TransportError | None = None
    files: TransportError | None = None
    tls_error: TransportError | None = None
    speaks_tls: bool = False

    @property
    def plain(self) -> bool:
        return self.tls_error is not None

    @property
    def known(self) -> dict[str, TransportError]:
        """The failures that need no second look, by origin."""
        found = {}
        if self.tls_error is not None:
            found[f"https://{self.place.host}"] = self.tls_error
        if self.error is not None and self.error.cause in DEAD:
            scheme = "http" if self.plain else self.place.scheme
            found[f"{scheme}://{self.place.host}"] = self.error
        return found


def see(place: Place, terms: Terms) -> Seen:
    """Look at a place, then ask for `/v2/`."""
    options = Options(place.tls, terms.timeouts)
    if error := terms.eyes.inspect(options):
        return Seen(place, error=error, files=error)
    look, tls_error, url = terms.eyes.look(place.url, options), None, place.url
    if place.http_fallback and look.error and no_tls(look.error, place.host):
        tls_error, url = look.error, place.plain_url
        look = terms.eyes.look(url, options)
    error = look.error or _refused_by_go(look, place, url)
    if error is not None:
        return Seen(place, look, error=error, tls_error=tls_error)
    tap = Tap(terms.eyes, place.host, terms.clock)
    request = Request("GET", url, Headers([("User-Agent", terms.user_agent)]))
    try:
        tap.send(request, options).body.close()
    except TransportError as failure:
        error = failure
    answer = tap.calls[-1]
    seen = Seen(place, look, answer if answer.status else None, error, tls_error=tls_error)
    return replace(seen, speaks_tls=_speaks_tls(seen, terms))


def _refused_by_go(look: Look, place: Place, url: str) -> TransportError | None:
    """Go wants a name in the right place of a certificate; libcurl takes it from the subject too."""
    if look.shown is None or place.tls.insecure_skip_verify or "no-names" not in look.shown.defects:
        return None
    return TransportError(Cause.CERTIFICATE, url, detail=NO_NAMES)


def _speaks_tls(seen: Seen, terms: Terms) -> bool:
    """Whether what goes wrong with plain http goes wrong because the port speaks TLS."""
    place, error = seen.place, seen.error
    if place.scheme != "http" or not (
        (seen.answer and seen.answer.status == 400) or (error and error.cause in _MAYBE_TLS)
    ):
        return False
    look = terms.eyes.look(f"https://{place.host}/", Options(place.tls, terms.timeouts))
    return look.shown is not None or look.client_wanted


# ── a place without an image ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Named:
    """A place that the file names, perhaps in several lines: an endpoint, or a key of `configs` that is none.

    `meant` is then the endpoint host that the key is nearly the name of.
    """

    route: Route
    spans: tuple[Span, ...] = ()
    what: Literal["endpoint", "configs"] = "endpoint"
    meant: str = ""


@dataclass(frozen=True, slots=True)
class Visited:
    """What a place says to us; `cause` and `exit_code` say why it does not let us in."""

    named: Named
    seen: Seen
    calls: tuple[Call, ...] = ()
    credential: Credential | None = None
    status: int | None = None
    cause: str = ""
    hint: str = ""
    exit_code: ExitCode = ExitCode.DONE

    @property
    def works(self) -> bool:
        return self.exit_code is ExitCode.DONE


def visit(named: Named, lookup: Lookup, terms: Terms) -> Visited:
    """Look at a place and, if it wants to know who we are, say so."""
    route = named.route
    seen = see(Place.of(route), terms)
    credential, bad = known_credential(lookup, route.host)
    if seen.error or seen.answer is None:
        error = seen.error or TransportError(Cause.OTHER, route.url)
        return Visited(named, seen, (), credential, None, at(route, error), error.hint, error.exit_code)
    if seen.answer.status != 401:
        return _judged(Visited(named, seen, (), credential, seen.answer.status))
    if bad is not None:
        return Visited(named, seen, (), None, 401, bad.message, bad.hint, bad.exit_code)
    memory = Memory(lookup, PROFILE, terms.timeouts, terms.user_agent, terms.clock)
    tap = Tap(terms.eyes, route.host, terms.clock, seen.known)
    url = seen.place.plain_url if seen.plain else seen.place.url
    request = Request("GET", url, Headers([("User-Agent", terms.user_agent)]))
    try:
        with carry_out(_enter(memory.authorizer(route), request, memory.options(route)), tap) as response:
            status = response.status
    except PierheadError as error:
        cause = memory.masked(at(route, error))
        return Visited(
            named, seen, tap.told(memory.masked), credential, 401, cause, memory.masked(error.hint), error.exit_code
        )
    return _judged(Visited(named, seen, tap.told(memory.masked), credential, status))


def _enter(authorizer: Authorizer, request: Request, options: Options) -> Steps[Response]:
    """The request, and again as whoever it wants us to be."""
    host, sent = request.authority, None
    headers = request.headers
    while True:
        answer = yield from send(request, options)
        if answer.status != 401:
            return answer
        challenges = parse_challenges(answer.headers)
        answer.body.close()
        if not authorizer.challenged(host, challenges, sent=sent, repeated=sent is not None) or sent is not None:
            return replace(answer, headers=NO_HEADERS)
        sent = yield from authorizer.header(host, ())
        request = replace(request, headers=headers.plus(("Authorization", sent or "")))


def _judged(visited: Visited) -> Visited:
    status = visited.status or 0
    if status < 400 or (status == 404 and visited.named.route.override_path):
        return visited
    code = {401: ExitCode.NOT_AUTHORISED, 403: ExitCode.NOT_AUTHORISED, 404: ExitCode.NOT_FOUND}.get(status)
    return replace(visited, cause=status_text(status), exit_code=code or ExitCode.FAILED)


def known_credential(lookup: Lookup, host: str) -> tuple[Credential | None, BadCredential | None]:
    """Who we would be there; or what stands in the way of knowing."""
    try:
        return lookup(host), None
    except BadCredential as error:
        return None, error


def at(route: Route, error: PierheadError) -> str:
    """The message of an error without the host, which is said already."""
    return error.message.removeprefix(f"{route.host}: ")
