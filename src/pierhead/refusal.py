"""An answer that gives nothing: what it says, in a line of our own and in containerd's words, and what helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pierhead.body import BodyTooLarge, read_all
from pierhead.gowords import unexpected_status
from pierhead.routing import Route
from pierhead.transport import TransportError
from pierhead.wire import (
    ERROR_BODY_LIMIT_BYTES,
    RegistryError,
    Response,
    one_line,
    parse_challenges,
    parse_errors,
    status_text,
)

CHALLENGES_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Refusal:
    """`told` for people; `go_text` as containerd reports it. Both without secrets."""

    told: str
    go_text: str

    @classmethod
    def of(cls, response: Response, method: str, url: str, *, masked: Callable[[str], str]) -> Refusal:
        """What the answer to `method` `url` says. Its body is read by that; `masked` takes secrets out."""
        errors = _body_errors(response, masked)
        go_text = unexpected_status(method, url, response.status, errors)
        return cls(masked(_line(response, errors)), masked(go_text))


def status_hint(route: Route, status: int) -> str:
    """What to do about a status; empty if there is nothing sensible to say."""
    match status:
        case 400 if route.scheme == "https":  # nginx answers so without saying why: an answer to HEAD has no body
            which = "another" if route.tls.client else "a"
            return (
                f"{route.host} may want {which} client certificate: `tls` of its `configs` names cert_file and key_file"
            )
        case 400:  # Go's server and nginx say so to http on a port of https
            return f"{route.host} may speak https alone: write https:// in its endpoint"
        case 401 | 403:
            return f"check the credentials for {route.host!r}: `configs` is looked up by just this host and port"
        case 404:
            rewritten = " (after the rewrite)" if route.rewrite else ""
            return f"{route.host} has no {route.repository!r}{rewritten}; is the image pushed there under this name?"
        case 429:
            return "the registry limits requests; log in, or put a mirror in front"
    return ""


def _body_errors(response: Response, masked: Callable[[str], str]) -> tuple[RegistryError, ...]:
    with suppress(BodyTooLarge, TransportError):  # the status says enough
        body = read_all(response.body, ERROR_BODY_LIMIT_BYTES).decode("utf-8", "replace")
        return parse_errors(masked(body).encode())
    return ()


def _line(response: Response, errors: Sequence[RegistryError]) -> str:
    parts = [status_text(response.status)]
    parts += [f"it wants {challenge.shown}" for challenge in parse_challenges(response.headers)[:CHALLENGES_SHOWN]]
    if after := response.headers.get("retry-after"):
        parts.append(f"Retry-After {one_line(after, 40)}")
    return "; ".join([*parts, *map(str, errors)])
