"""Which proxy a request goes through: the rules of Go's programs, which are not those of libcurl.

As golang.org/x/net/http/httpproxy (proxy.go, v0.44.0), which net/http and so containerd use.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from pierhead.redact import Secret

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_Match = Callable[[str, str, Ip | None], bool]

# Go's "socks5" lets the proxy resolve names, which libcurl calls "socks5h".
_SCHEMES: Final = {"http": "http", "https": "https", "socks5": "socks5h", "socks5h": "socks5h"}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy to connect to. `url` has scheme, host and port only, so it can be shown."""

    url: str
    username: str = ""
    password: Secret = Secret("")

    @property
    def tls(self) -> bool:
        return self.url.startswith("https:")


class InvalidProxy(ValueError):
    """The environment names a proxy that cannot be used. The text does not repeat it: it may hold a password."""


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY (or in lower case) of an environment."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    no_proxy: str = ""
    cgi: bool = False  # HTTP_PROXY may then be a client's header: https://golang.org/s/cgihttpproxy

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ProxyRules:
        def either(name: str) -> str:
            return environment.get(name) or environment.get(name.lower(), "")

        return cls(
            either("HTTP_PROXY"), either("HTTPS_PROXY"), either("NO_PROXY"), bool(environment.get("REQUEST_METHOD"))
        )

    def proxy_for(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for requests to `host` (no brackets), or None; raises `InvalidProxy`."""
        text = self.https if scheme == "https" else self.http
        if not text:
            return None
        if scheme == "http" and self.cgi:
            raise InvalidProxy("refusing to use HTTP_PROXY value in CGI environment")
        return _parse(text) if self._uses_proxy(host, str(port)) else None

    def _uses_proxy(self, host: str, port: str) -> bool:
        if host == "localhost":
            return False
        ip = _ip(host)
        if ip is not None and ip.is_loopback:
            return False
        host = host.strip().lower()
        return not any(match(host, port, ip) for match in _matches(self.no_proxy))


def _parse(text: str) -> Proxy | None:
    """The proxy of one variable: a URL, or a bare host[:port], which means http. None if Go ignores it."""
    parts = _split(text)
    if parts is None or not parts.scheme or not parts.netloc:
        parts = _split(f"http://{text}") or parts
    if parts is None:
        return None
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise InvalidProxy(f"the proxy of the environment has an unknown scheme: {parts.scheme}")
    if not parts.hostname:
        raise InvalidProxy("the proxy of the environment has no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Proxy(
        f"{scheme}://{host}:{parts.port or _DEFAULT_PORTS[scheme]}",
        unquote(parts.username or ""),
        Secret(unquote(parts.password or "")),
    )


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        return None
    return parts


def _ip(text: str) -> Ip | None:
    """An address, IPv4 if it is one in IPv6's clothes (Go's net.IP does not tell them apart)."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _matches(no_proxy: str) -> list[_Match]:
    """One test for each usable entry of NO_PROXY."""
    entries = [entry.strip().lower() for entry in no_proxy.split(",")]
    if "*" in entries:
        return [lambda _host, _port, _ip: True]
    return [match for entry in entries if entry and (match := _match(entry))]


def _match(entry: str) -> _Match | None:
    if "/" in entry and (network := _network(entry)):
        return lambda _host, _port, ip: ip is not None and ip in network
    host, port = _host_and_port(entry)
    if not host:
        return None
    if (wanted := _ip(host)) is not None:
        return lambda _host, at, ip: ip == wanted and port in {"", at}
    return _domain_match(host.removeprefix("*") if host.startswith("*.") else host, port)


def _domain_match(domain: str, port: str) -> _Match:
    """`foo.com` is that name and those below it, `.foo.com` only those below it."""
    suffix = domain if domain.startswith(".") else f".{domain}"
    exact = "" if domain.startswith(".") else domain
    return lambda host, at, ip: (
        ip is None and (host.endswith(suffix) or (bool(exact) and host == exact)) and port in {"", at}
    )


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address, _, prefix = entry.partition("/")
    if not (prefix.isascii() and prefix.isdigit()):  # Go knows no netmasks here
        return None
    try:
        return ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    except ValueError:
        return None


def _host_and_port(entry: str) -> tuple[str, str]:
    """As net.SplitHostPort; an entry that is not host:port is a host. An empty host means: ignore the entry."""
    if entry.startswith("["):
        host, closed, port = entry[1:].partition("]:")
        return (host, port) if closed else (entry, "")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""
