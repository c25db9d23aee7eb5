"""How containerd and Go's libraries word what went wrong: the texts that end up in `kubectl describe pod`.

Pure, from values that our errors carry. Follows containerd v2.3.4 (core/remotes/docker, core/remotes/errors,
core/content, plugins/content/local) and Go 1.27's net/http, net and crypto/tls. What only Go knows (the address a name
resolved to, the clock it compared a certificate with) is said without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from pierhead.redact import safe_url
from pierhead.transport import Cause, TransportError
from pierhead.wire import RegistryError, status_text

if TYPE_CHECKING:
    from pierhead.store import ContentMismatch

REDACTED: Final = "[REDACTED]"
NOT_FOUND: Final = "not found"
UNAUTHORISED: Final = "authorization failed"  # docker.ErrInvalidAuthorization
GO_REASONS: Final = {413: "Request Entity Too Large", 416: "Requested Range Not Satisfiable", 418: "I'm a teapot"}

# errdesc.go: an error whose message is that of its code is shown by its code alone.
_CODE_MESSAGES: Final = {
    "UNKNOWN": "unknown error",
    "UNSUPPORTED": "The operation is unsupported.",
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "UNAVAILABLE": "service unavailable",
    "TOOMANYREQUESTS": "too many requests",
}


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def unexpected_status(method: str, url: str, status: int, errors: Sequence[RegistryError] = ()) -> str:
    """As errors.go ErrUnexpectedStatus, joined with the errors of the body (errcode.go unexpectedResponseErr)."""
    text = f"unexpected status from {method} request to {url}: {_status(status)}"
    return f"{text}\n{_registry_errors(errors)}" if errors else text


def _status(status: int) -> str:
    return f"{status} {GO_REASONS[status]}" if status in GO_REASONS else status_text(status)


def _registry_errors(errors: Sequence[RegistryError]) -> str:
    if len(errors) == 1:
        return _registry_error(errors[0])
    return "errors:\n" + "".join(f"{_registry_error(error)}\n" for error in errors)


def _registry_error(error: RegistryError) -> str:
    # containerd knows six codes; any other is "unknown" to it.
    code = error.code if error.code in _CODE_MESSAGES else "UNKNOWN"
    if not error.detailed and error.message in ("", _CODE_MESSAGES[code]):
        return code.lower()
    return f"{code.lower()}: {error.message}"


# ── no answer ────────────────────────────────────────────────────────────────────────────────────────────────────


def request_failed(method: str, url: str, error: TransportError) -> str:
    """As resolver.go: a request that got no answer. The values of its query are not shown (since 2.1)."""
    if error.go_text:
        return error.go_text
    return f"failed to do request: {client_error(method, _asked(url, error), error)}"


def client_error(method: str, url: str, error: TransportError) -> str:
    """As net/http's url.Error: `Head "https://r/…": dial tcp …`."""
    return f'{method.capitalize()} "{_without_values(url)}": {transport_words(error)}'


def _asked(url: str, error: TransportError) -> str:
    """Where Go's client says it happened: after redirects, but not after a fall back to plain http."""
    failed = error.url.partition("://")[2]
    return url if not failed or failed.partition("/")[0] == url.partition("://")[2].partition("/")[0] else error.url


def _without_values(url: str) -> str:
    start, mark, query = safe_url(url).partition("?")
    names = sorted(name for name, _ in parse_qsl(query, keep_blank_values=True))
    return start + mark + urlencode([(name, REDACTED) for name in names])


def transport_words(error: TransportError) -> str:
    """A failure below HTTP in Go's words."""
    words = _WORDS[error.cause]
    return words if isinstance(words, str) else words(error)


def _dialled(error: TransportError) -> str:
    parts = urlsplit(error.url)
    authority = parts.netloc.rpartition("@")[2]
    if ":" in authority.rpartition("]")[2]:
        return authority
    return f"{authority}:{80 if parts.scheme == 'http' else 443}"


def _dial(reason: str) -> Callable[[TransportError], str]:
    return lambda error: f"dial tcp {_dialled(error)}: {reason}"


def _no_such_host(error: TransportError) -> str:
    host = _dialled(error).rpartition(":")[0]
    return f"dial tcp: lookup {host}: no such host"


def _is_address(name: str) -> bool:
    from ipaddress import ip_address  # only a certificate for somebody else needs it

    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _for_others(host: str, names: Sequence[str]) -> str:
    """A certificate for other hosts; as HostnameError.Error in crypto/x509, which looks at names of one kind only."""
    alike = [name for name in names if _is_address(name) == _is_address(host)]
    if alike:
        return f"certificate is valid for {', '.join(alike)}, not {host}"
    if _is_address(host):
        return f"cannot validate certificate for {host} because it doesn't contain any IP SANs"
    return f"certificate is not valid for any names, but wanted to match {host}"


NO_NAMES: Final = "certificate relies on legacy Common Name field, use SANs instead"  # crypto/x509


def _certificate(error: TransportError) -> str:
    """OpenSSL's reason in the words of crypto/x509."""
    detail = error.detail.lower()
    names = error.certificate.names if error.certificate else ()
    host = _dialled(error).rpartition(":")[0].strip("[]")
    if NO_NAMES.lower() in detail:
        reason = NO_NAMES
    elif "match" in detail:
        reason = _for_others(host, names)
    elif "expired" in detail or "not yet valid" in detail:
        reason = "certificate has expired or is not yet valid"
    else:
        reason = "certificate signed by unknown authority"
    return f"tls: failed to verify certificate: x509: {reason}"


def _client_certificate(error: TransportError) -> str:
    detail = error.detail.lower()
    if "unknown ca" in detail:
        return "remote error: tls: unknown certificate authority"
    if "bad certificate" in detail:
        return "remote error: tls: bad certificate"
    return "remote error: tls: certificate required"


def _tls(error: TransportError) -> str:
    found = re.search(r"alert ([a-z ]+)", error.detail.lower())
    return f"remote error: tls: {found[1].strip()}" if found else "EOF"


def _protocol(error: TransportError) -> str:
    if "redirects" in error.detail:
        return error.detail
    return f"net/http: HTTP/1.x transport connection broken: {error.detail or 'malformed HTTP response'}"


_WORDS: Final[dict[Cause, str | Callable[[TransportError], str]]] = {
    Cause.DNS: _no_such_host,
    Cause.REFUSED: _dial("connect: connection refused"),
    Cause.UNREACHABLE: _dial("connect: no route to host"),
    Cause.CONNECT_TIMEOUT: _dial("i/o timeout"),
    Cause.TLS_TIMEOUT: "net/http: TLS handshake timeout",
    Cause.FIRST_BYTE_TIMEOUT: "net/http: timeout awaiting response headers",
    Cause.STALLED: "context canceled",  # by the image_pull_progress_timeout of the CRI plugin
    Cause.CERTIFICATE: _certificate,
    Cause.TLS: _tls,
    Cause.PLAIN_HTTP: "http: server gave HTTP response to HTTPS client",
    Cause.CLIENT_CERTIFICATE: _client_certificate,
    Cause.CA_FILE: lambda error: error.detail,
    Cause.PROTOCOL: _protocol,
    Cause.CLOSED: "EOF",
    Cause.CUT: "unexpected EOF",
    Cause.TOO_LARGE: "net/http: server response headers exceeded 10485760 bytes; aborted",
    Cause.PROXY: lambda error: f"proxyconnect tcp: {error.detail or 'EOF'}",
    Cause.BAD_URL: "http: no Host in request URL",
    Cause.BAD_REQUEST: "net/http: invalid request",
    Cause.INTERRUPTED: "context canceled",
    Cause.OTHER: "EOF",
}


# ── content ──────────────────────────────────────────────────────────────────────────────────────────────────────


def short_read(expected_bytes: int, got_bytes: int) -> str:
    """As core/content/helpers.go Copy."""
    return f"short read: expected {expected_bytes} bytes but got {got_bytes}: unexpected EOF"


def content_mismatch(error: ContentMismatch) -> str:
    """As plugins/content/local/writer.go Commit; empty if the error does not say enough."""
    descriptor = error.descriptor
    if descriptor is None:
        return ""
    ref = f'"{_kind(descriptor.media_type)}-{descriptor.digest}"'
    if error.found is not None:
        reason = f"unexpected commit digest {error.found}, expected {descriptor.digest}"
    elif error.got_bytes is None:
        return ""
    elif error.got_bytes < descriptor.size_bytes:
        return short_read(descriptor.size_bytes, error.got_bytes)
    else:
        reason = f"{ref} failed size validation: {error.got_bytes} != {descriptor.size_bytes}"
    return f"failed commit on ref {ref}: {reason}: failed precondition"


def _kind(media_type: str) -> str:
    """As remotes/handlers.go MakeRefKey."""
    for kind, pattern in _KINDS:
        if re.search(pattern, media_type):
            return kind
    return "unknown"


_KINDS: Final = (
    ("index", r"manifest\.list|image\.index"),
    ("manifest", r"manifest\.v[12]\+"),
    ("layer", r"rootfs\.(foreign\.)?diff|image\.layer"),
    ("config", r"container\.image\.v1\+json|image\.config\.v1\+json"),
)


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────


def corrupt_base64(text: str) -> str:
    """As encoding/base64: where StdEncoding stops reading `text` (decodeQuantum)."""
    data = text.encode("ascii", "replace")  # what is not ASCII ends it, wherever it is
    return f"illegal base64 data at input byte {_corrupt_byte(data)}"


_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_BREAKS: Final = frozenset(b"\r\n")


def _corrupt_byte(data: bytes) -> int:
    digits = 0  # of the group of four that is being read
    for index, byte in enumerate(data):
        if byte in _ALPHABET:
            digits = (digits + 1) % 4
        elif byte == ord("=") and digits >= 2:
            return _corrupt_padding(data, index + 1, wanted=3 - digits)
        elif byte not in _BREAKS:
            return index
    return len(data) - digits


def _corrupt_padding(data: bytes, start: int, *, wanted: int) -> int:
    """Where it goes wrong after the first `=`, if `wanted` more belong there."""
    rest = [index for index in range(start, len(data)) if data[index] not in _BREAKS]
    if wanted and (not rest or data[rest[0]] != ord("=")):
        return rest[0] - 1 if rest else len(data)
    return rest[wanted] if len(rest) > wanted else len(data)
