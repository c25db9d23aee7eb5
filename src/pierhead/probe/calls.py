"""A transport that listens in: what was asked of whom while a question was asked, and how long each answer took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

from pierhead.redact import safe_url
from pierhead.transport import Cause, Options, Transport, TransportError
from pierhead.transport.look import Look
from pierhead.wire import Request, Response, parse_challenges

CALLS_LIMIT: Final = 200  # of one question; a route is asked for a handful of objects, at most five times each
CHALLENGES_SHOWN: Final = 4


class Eyes(Transport, Protocol):
    """A transport that can also look at a place without asking for anything."""

    def look(self, url: str, options: Options = ...) -> Look:
        """Connect to where `url` leads; what was seen, failures included."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request and what came of it: a `status`, or the `cause` that there is none.

    `what`: to the registry, for a token, or to where an answer sent us on. `challenge` is what a 401 wants.
    """

    what: Literal["registry", "token", "redirect"]
    method: str
    url: str
    status: int | None
    seconds: float
    challenge: str = ""
    cause: str = ""


@dataclass(slots=True)
class Tap:
    """`transport` for one question to `host`, in one thread; `calls` is what went through.

    A place that is `known` (by origin) not to answer is not dialled again, and what did not answer in time (`slow`, by
    method and URL) is not waited for a second time: both fail as they did before.
    """

    transport: Transport
    host: str
    clock: Callable[[], float]
    known: Mapping[str, TransportError] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    _realms: set[str] = field(default_factory=set)
    slow: dict[tuple[str, str], TransportError] = field(default_factory=dict)

    def send(self, request: Request, options: Options = Options()) -> Response:
        """As `Transport.send`."""
        known = self.known.get(request.origin) or self.slow.get((request.method, request.url))
        if known is not None:
            raise again(known, request.url)
        started = self.clock()
        try:
            response = self.transport.send(request, options)
        except TransportError as error:
            if error.cause is Cause.FIRST_BYTE_TIMEOUT:
                self.slow[request.method, request.url] = error
            self._note(request, started, cause=error.message)
            raise
        challenges = parse_challenges(response.headers)[:CHALLENGES_SHOWN] if response.status == 401 else ()
        shown = ", ".join(challenge.shown for challenge in challenges)
        self._note(request, started, status=response.status, challenge=shown)
        self._realms |= {
            item.parameters["realm"].partition("?")[0] for item in challenges if "realm" in item.parameters
        }
        return response

    def inspect(self, options: Options) -> TransportError | None:
        """As `Transport.inspect`."""
        return self.transport.inspect(options)

    def close(self) -> None:
        """The transport belongs to somebody else."""

    def told(self, masked: Callable[[str], str]) -> tuple[Call, ...]:
        """The calls, with what anybody may have repeated of our secrets masked."""
        return tuple(
            replace(call, url=masked(call.url), challenge=masked(call.challenge), cause=masked(call.cause))
            for call in self.calls
        )

    def _note(
        self, request: Request, started: float, *, status: int | None = None, challenge: str = "", cause: str = ""
    ) -> None:
        if len(self.calls) >= CALLS_LIMIT:
            return
        what: Literal["registry", "token", "redirect"] = "redirect"
        if request.url.partition("?")[0] in self._realms:
            what = "token"
        elif request.authority == self.host:
            what = "registry"
        seconds = self.clock() - started
        self.calls.append(Call(what, request.method, safe_url(request.url), status, seconds, challenge, cause))


def again(error: TransportError, url: str) -> TransportError:
    """The same failure, to be raised once more: an exception belongs to one thread and one traceback."""
    return TransportError(error.cause, url, detail=error.detail, certificate=error.certificate, hint=error.hint)
