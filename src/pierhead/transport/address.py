"""Where a URL leads: what is connected to, and what is written on the request line, untouched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pierhead.transport.failure import Cause, TransportError

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[^\]]+)?\]|[^:\[\]]*)(?::([^:]*))?")
_UNSENDABLE: Final = re.compile(r"[\x00-\x20\x7f]")
_PORTS: Final = {"http": 80, "https": 443}
# quote() leaves ASCII as it is, so that only what no request line may hold is escaped, as Go does.
_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Address:
    """`host` has no brackets; `authority` is the Host header; `target` is path and query as they were given."""

    scheme: str
    host: str
    port: int
    authority: str
    target: str

    @property
    def place(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def parse_address(url: str) -> Address:
    """The parts of an absolute http or https URL; raises `TransportError` (BAD_URL).

    The path is not normalised: `//x`, `..` and `%2F` stand for themselves, as Go's programs send them.
    """
    match = _URL.fullmatch(url)
    scheme = match[1].lower() if match else ""
    if match is None or scheme not in _PORTS:
        raise _bad(url, f"unsupported protocol scheme {scheme!r}" if match else "it is not an absolute URL")
    if _UNSENDABLE.search(url):
        raise _bad(url, "it has a space or a control character")
    authority = _AUTHORITY.fullmatch(match[2].rpartition("@")[2])
    if authority is None:
        raise _bad(url, "the host cannot be understood")
    host, port = authority[1], authority[2] or ""
    if not host:
        raise _bad(url, "no Host in request URL")
    number = _port(url, port) if port else _PORTS[scheme]
    host = _ascii_host(url, host)
    target = match[3] if match[3].startswith("/") else f"/{match[3]}"
    return Address(
        scheme,
        host.strip("[]"),
        number,
        f"{_without_zone(host)}:{port}" if port else _without_zone(host),
        quote(target, safe=_ASCII),
    )


def _bad(url: str, detail: str) -> TransportError:
    return TransportError(Cause.BAD_URL, url, detail=detail)


def _port(url: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise _bad(url, f"invalid port {text!r}")
    return int(text)


def _without_zone(host: str) -> str:
    """As Go: the zone of a link-local address is nobody else's business."""
    return f"{host.partition('%')[0]}]" if host.startswith("[") and "%" in host else host


def _ascii_host(url: str, host: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise _bad(url, "the host is not a name") from error
