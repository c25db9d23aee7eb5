"""Requests to the network: what is asked of it (`Transport`), with which options, and how it can fail.

The one implementation that opens sockets is `CurlTransport`; `server.registry` behind the same method is the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pierhead.transport.exchange import Exchange
from pierhead.transport.failure import Cause, Certificate, TransportError
from pierhead.wire import Request, Response

if TYPE_CHECKING:
    from pierhead.transport.curl import CurlTransport

__all__ = [
    "Cause",
    "Certificate",
    "CurlTransport",
    "Exchange",
    "Options",
    "Timeouts",
    "TlsOptions",
    "Transport",
    "TransportError",
]


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How one host is trusted and what we show it, as paths of PEM files.

    `ca_files` are trusted besides the system's CAs; `client` are pairs of certificate and key (an empty key: the
    certificate's file holds both; only the first pair is shown); `insecure_skip_verify` trusts anyone.
    """

    ca_files: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for each phase. The defaults are containerd's (core/remotes/docker/registry.go, v2.3.4).

    `first_byte_seconds` runs from the end of the request to the end of the answer's headers; `stall_seconds` is how
    long a body may stand still while we wait for it, not while whoever takes or gives it is busy.
    """

    connect_seconds: float = 30.0
    tls_seconds: float = 10.0
    first_byte_seconds: float = 30.0
    stall_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a request needs to know about the host that it goes to."""

    tls: TlsOptions = TlsOptions()
    timeouts: Timeouts = Timeouts()


class Transport(Protocol):
    """Something that answers requests. Several threads may send at once."""

    def send(self, request: Request, options: Options = ...) -> Response:
        """The answer as soon as its headers are there; its body is read while it is copied.

        Raises `TransportError`. Redirects and challenges are answers like any other.
        """
        ...

    def inspect(self, options: Options) -> TransportError | None:
        """What `send` would raise about the certificate files of these options, without sending."""
        ...

    def close(self) -> None:
        """Let go of idle connections. Answers still under way can be read to their end."""
        ...


def __getattr__(name: str) -> Any:
    """`CurlTransport` on first use: `explain` and `check` never send, and should not wait for libcurl to load."""
    if name == "CurlTransport":
        from pierhead.transport.curl import CurlTransport

        return CurlTransport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
