"""What libcurl's failures mean: its code, its words and what the handle knows become a `TransportError`."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from datetime import date
from ipaddress import ip_address
from typing import Any, Final

import pycurl

from pierhead.transport.failure import Cause, Certificate, TransportError, certificate_hint
from pierhead.transport.line import Line, drive
from pierhead.transport.setup import Plan, set_up_look

_CAUSES: Final[dict[int, Cause]] = {
    pycurl.E_UNSUPPORTED_PROTOCOL: Cause.PROTOCOL,  # "Received HTTP/0.9 when not allowed"
    pycurl.E_URL_MALFORMAT: Cause.BAD_URL,
    pycurl.E_COULDNT_RESOLVE_PROXY: Cause.PROXY,
    pycurl.E_COULDNT_RESOLVE_HOST: Cause.DNS,
    pycurl.E_COULDNT_CONNECT: Cause.REFUSED,
    8: Cause.PROTOCOL,  # CURLE_WEIRD_SERVER_REPLY
    pycurl.E_PARTIAL_FILE: Cause.CUT,
    pycurl.E_OPERATION_TIMEDOUT: Cause.CONNECT_TIMEOUT,
    pycurl.E_SSL_CONNECT_ERROR: Cause.TLS,
    pycurl.E_GOT_NOTHING: Cause.CLOSED,
    pycurl.E_SEND_ERROR: Cause.CLOSED,
    pycurl.E_RECV_ERROR: Cause.CLOSED,
    pycurl.E_SEND_FAIL_REWIND: Cause.CLOSED,
    pycurl.E_SSL_CIPHER: Cause.TLS,
    pycurl.E_PEER_FAILED_VERIFICATION: Cause.CERTIFICATE,
    pycurl.E_BAD_CONTENT_ENCODING: Cause.PROTOCOL,
    pycurl.E_SSL_CACERT_BADFILE: Cause.CA_FILE,
    pycurl.E_SSL_ISSUER_ERROR: Cause.CERTIFICATE,
    97: Cause.PROXY,  # CURLE_PROXY
    100: Cause.TOO_LARGE,  # CURLE_TOO_LARGE
}
_CONNECT_ERRORS: Final[dict[int, Cause]] = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ETIMEDOUT: Cause.CONNECT_TIMEOUT,
    errno.ENETUNREACH: Cause.UNREACHABLE,
    errno.EHOSTUNREACH: Cause.UNREACHABLE,
    errno.ENETDOWN: Cause.UNREACHABLE,
    errno.EHOSTDOWN: Cause.UNREACHABLE,
    errno.EADDRNOTAVAIL: Cause.UNREACHABLE,
    errno.ECONNRESET: Cause.CLOSED,
}
# Our sentence says as much as libcurl's words.
_PLAIN: Final = frozenset({pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_CONNECT, pycurl.E_GOT_NOTHING})
_BROKEN: Final = frozenset({pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR})
# OpenSSL's and libcurl's words where a code says too little, in this order.
_WORDS: Final[tuple[tuple[str, Cause], ...]] = (
    ("wrong version number", Cause.PLAIN_HTTP),
    ("http request", Cause.PLAIN_HTTP),
    ("response headers", Cause.TOO_LARGE),
    ("alert certificate required", Cause.CLIENT_CERTIFICATE),
    ("alert bad certificate", Cause.CLIENT_CERTIFICATE),
    ("alert unknown ca", Cause.CLIENT_CERTIFICATE),
    ("alert handshake failure", Cause.TLS),
    ("alert", Cause.TLS),
    ("chunk", Cause.PROTOCOL),
)
# libcurl calls a key that does not belong to its certificate a bad argument.
_BAD_PAIR: Final = frozenset({pycurl.E_SSL_CERTPROBLEM, pycurl.E_BAD_FUNCTION_ARGUMENT})
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def explain(plan: Plan, easy: Any, code: int, words: str, *, in_body: bool) -> TransportError | None:
    """What the end of a transfer means; None if it went well. May connect once more to see a refused certificate."""
    if code == pycurl.E_OK:
        return None
    url = plan.request.url
    cause = _cause(plan, easy, code, words, in_body=in_body)
    if cause is Cause.CERTIFICATE:
        certificate = presented_certificate(plan)
        words = words.rpartition("SSL certificate problem: ")[2].rpartition("verify result: ")[2]
        return TransportError(
            cause, url, detail=words, certificate=certificate, hint=certificate_hint(words, certificate)
        )
    if cause is Cause.CLIENT_CERTIFICATE and code in _BAD_PAIR:
        # As containerd: core/remotes/docker/config/hosts.go, v2.3.4.
        return TransportError(cause, url, detail=f"failed to load X509 key pair: {words}")
    if cause is Cause.CLIENT_CERTIFICATE and not plan.options.tls.client:
        hint = "name one in tls.cert_file and tls.key_file of this host's configs"
        return TransportError(cause, url, detail="the server wants one and none is given", hint=hint)
    if cause is Cause.CA_FILE:
        files = ", ".join(f'"{file}"' for file in plan.options.tls.ca_files)
        return TransportError(cause, url, detail=f"unable to load CA cert {files}")
    plain = code in _PLAIN and cause is not Cause.PROXY
    return TransportError(cause, url, detail="" if plain else words)


def _cause(plan: Plan, easy: Any, code: int, words: str, *, in_body: bool) -> Cause:
    if plan.proxy and not in_body and _failed_at_proxy(easy, code):
        return Cause.PROXY
    if code in _BAD_PAIR and plan.tls and plan.options.tls.client:
        return Cause.CLIENT_CERTIFICATE
    if code == pycurl.E_COULDNT_CONNECT:
        return _CONNECT_ERRORS.get(easy.getinfo(pycurl.OS_ERRNO), Cause.REFUSED)
    if code in _BROKEN or code == pycurl.E_SSL_CONNECT_ERROR:
        lowered = words.lower()
        found = next((cause for text, cause in _WORDS if text in lowered), None)
        if found:
            return found
        if plan.tls and not easy.getinfo(pycurl.PRETRANSFER_TIME):
            return Cause.TLS  # broken off in the handshake
    cause = _CAUSES.get(code, Cause.OTHER)
    return Cause.CUT if in_body and cause is Cause.CLOSED else cause


def _failed_at_proxy(easy: Any, code: int) -> bool:
    """Whether we never got beyond the proxy: no connection to it, or no tunnel."""
    unreached = code in {pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_PROXY}
    return unreached or easy.getinfo(pycurl.HTTP_CONNECTCODE) >= 300


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────


def presented_certificate(plan: Plan) -> Certificate | None:
    """What the server shows: it is asked once more for its certificate, and for nothing else.

    libcurl tells about a certificate only if the handshake succeeds, so this one trusts anyone; no request is sent.
    """
    timeouts = plan.options.timeouts
    line = Line()
    try:
        set_up_look(line.easy, plan)
        line.begin()
        drive(line, lambda: False, timeouts.connect_seconds + timeouts.tls_seconds)
        chain = line.easy.getinfo(pycurl.INFO_CERTINFO) if line.outcome and line.outcome[0] == pycurl.E_OK else []
    except pycurl.error:
        return None
    finally:
        line.close()
    return _certificate(chain[0]) if chain else None


def _certificate(fields: Sequence[tuple[str, str]]) -> Certificate:
    values = dict(fields)
    return Certificate(
        values.get("Subject", ""),
        values.get("Issuer", ""),
        _date(values.get("Expire date", "")),
        _names(values.get("X509v3 Subject Alternative Name", "")),
    )


def _names(text: str) -> tuple[str, ...]:
    """`DNS:a.example, IP Address:0:0:0:0:0:0:0:1`."""
    parts = [part.strip().partition(":") for part in text.split(",")]
    return tuple(_short(name) if kind == "IP Address" else name for kind, _, name in parts if name)


def _short(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def _date(text: str) -> date | None:
    """`Jan  2 00:00:00 2020 GMT`, whatever the locale."""
    parts = text.split()
    try:
        return date(int(parts[3]), _MONTHS.index(parts[0]) + 1, int(parts[1]))
    except (IndexError, ValueError):
        return None
