"""How an exchange with the network can fail: one error with a cause, a sentence and a hint."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from pierhead.errors import ExitCode, PierheadError
from pierhead.redact import safe_url

DETAIL_LIMIT_CHARS: Final = 500
NAMES_SHOWN: Final = 5


class Cause(Enum):
    """Why there is no answer, or no whole one. The values are stable and appear in JSON."""

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CONNECT_TIMEOUT = "connect-timeout"
    TLS_TIMEOUT = "tls-timeout"
    FIRST_BYTE_TIMEOUT = "first-byte-timeout"
    STALLED = "stalled"  # a body, ours or theirs, stood still
    CERTIFICATE = "certificate"  # the server's does not convince us
    TLS = "tls"
    PLAIN_HTTP = "plain-http"  # the server answered our TLS hello in plain text
    CLIENT_CERTIFICATE = "client-certificate"  # ours is unusable, or did not convince the server
    CA_FILE = "ca-file"
    PROTOCOL = "protocol"  # what came is not HTTP as it should be
    CLOSED = "closed"  # the connection ended before there was an answer
    CUT = "cut"  # the connection ended inside the answer's body
    TOO_LARGE = "too-large"  # more headers than we read
    PROXY = "proxy"
    BAD_URL = "bad-url"
    BAD_REQUEST = "bad-request"  # a method, header or body of ours that cannot be sent
    INTERRUPTED = "interrupted"  # we were told to stop
    OTHER = "other"

    def __str__(self) -> str:
        return self.value


# What happened, and what to do about it. {host} is the authority of the URL.
_TEXTS: Final[dict[Cause, tuple[str, str]]] = {
    Cause.DNS: ("{host}: no address found", "check the name, and how this machine resolves names"),
    Cause.REFUSED: ("{host}: connection refused", "check the port, and that the registry is running"),
    Cause.UNREACHABLE: ("{host}: unreachable", "check the route and the firewall between here and there"),
    Cause.CONNECT_TIMEOUT: ("{host}: no connection in time", "check the address and the firewalls on the way"),
    Cause.TLS_TIMEOUT: ("{host}: no TLS handshake in time", "check that the port speaks https"),
    Cause.FIRST_BYTE_TIMEOUT: ("{host}: connected, but no answer in time", "the registry may be overloaded"),
    Cause.STALLED: ("{host}: the transfer stood still", "try again; the connection or the registry hangs"),
    Cause.CERTIFICATE: ("{host}: the server's certificate is not accepted", ""),
    Cause.TLS: ("{host}: the TLS connection failed", ""),
    Cause.PLAIN_HTTP: (
        "{host}: the server speaks plain http where https was asked",
        "write http:// in the endpoint",
    ),
    Cause.CLIENT_CERTIFICATE: ("{host}: the client certificate does not do", "check tls.cert_file and tls.key_file"),
    Cause.CA_FILE: ("the CA file is not usable", "check tls.ca_file"),
    Cause.PROTOCOL: ("{host}: the answer is not proper HTTP", "check that the port belongs to a registry"),
    Cause.CLOSED: ("{host}: the connection was closed without an answer", "try again, or see the registry's log"),
    Cause.CUT: ("{host}: the connection was cut inside the body", "try again"),
    Cause.TOO_LARGE: ("{host}: the answer's headers are too large", "check that the port belongs to a registry"),
    Cause.PROXY: ("{host}: the proxy refused or failed", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"),
    Cause.BAD_URL: ("the URL cannot be requested", ""),
    Cause.BAD_REQUEST: ("the request cannot be sent", ""),
    Cause.INTERRUPTED: ("{host}: interrupted", ""),
    Cause.OTHER: ("{host}: the request failed", ""),
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the server showed us, as far as a person needs it. `names` are the host names and addresses it is for."""

    subject: str
    issuer: str
    not_after: date | None = None
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.subject or "no subject", f"issued by {self.issuer or 'nobody'}"]
        if self.not_after:
            parts.append(f"{'expired' if self.not_after < date.today() else 'valid until'} {self.not_after}")
        if self.names:
            more = f" and {len(self.names) - NAMES_SHOWN} more" if len(self.names) > NAMES_SHOWN else ""
            parts.append(f"for {', '.join(self.names[:NAMES_SHOWN])}{more}")
        return ", ".join(parts)


class TransportError(PierheadError):
    """No answer, or no whole one. `url` is safe to print; `detail` is what the machinery below said.

    `go_text` is what containerd says instead, where that depends on more than the cause; else it is empty.
    """

    exit_code = ExitCode.NETWORK

    def __init__(
        self, cause: Cause, url: str = "", *, detail: str = "", certificate: Certificate | None = None, hint: str = ""
    ) -> None:
        self.cause = cause
        self.url = safe_url(url)
        self.detail = safe_url(" ".join(detail.split()))[:DETAIL_LIMIT_CHARS]
        self.certificate = certificate
        self.go_text = ""
        sentence, usual_hint = _TEXTS[cause]
        message = sentence.format(host=_host(self.url)).removeprefix(": ")
        if self.detail:
            message = f"{message}: {self.detail}"
        if certificate:
            message = f"{message} ({certificate})"
        super().__init__(message, hint=hint or usual_hint)


def _host(url: str) -> str:
    """The authority of `url`, without what may be secret."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def certificate_hint(detail: str, certificate: Certificate | None) -> str:
    """What to do about a certificate that OpenSSL refused with the words `detail`."""
    if "match" in detail:
        names = f": it is for {', '.join(certificate.names)}" if certificate and certificate.names else ""
        return f"ask for the registry by a name of its certificate{names}"
    if "expired" in detail:
        return "renew the server's certificate, or set this machine's clock"
    if "not yet valid" in detail:
        return "set this machine's clock"
    return "name the CA that issued it in tls.ca_file of this host"
