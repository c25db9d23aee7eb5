"""One request as options of a libcurl handle."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import pycurl

from pierhead.proxy import Proxy
from pierhead.transport import Options
from pierhead.transport.address import Address, bracketed
from pierhead.transport.failure import Cause, TransportError
from pierhead.wire import Request

RECEIVE_BUFFER_BYTES: Final = 256 * 1024
SEND_BUFFER_BYTES: Final = 1024 * 1024

_SUPPRESS_CONNECT_HEADERS: Final = 265  # CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name
_QUICK_EXIT: Final = 322  # CURLOPT_QUICK_EXIT: never wait for a resolver thread
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE: Final = re.compile(r"[\x00\r\n]")
_OURS: Final = frozenset({"content-length", "transfer-encoding"})  # follow from the body
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides about one request."""

    request: Request
    options: Options
    address: Address
    user_agent: str
    ca_path: str = ""  # empty: nobody to trust
    proxy: Proxy | None = None
    connect_to: str = ""

    @property
    def tls(self) -> bool:
        return self.address.scheme == "https"

    @property
    def sends_body(self) -> bool:
        """Whether there is a body to announce, if only an empty one. As Go: POST, PUT and PATCH always have one."""
        return self.request.body is not None or self.request.method in _BODY_METHODS

    @property
    def body_bytes(self) -> int | None:
        """The length of the request's body, None if it is not known beforehand."""
        return self.request.body.size_bytes if self.request.body is not None else 0

    @property
    def origin(self) -> str:
        """What a connection is kept for."""
        return f"{self.address.scheme}://{self.address.place}"


def set_up(easy: Any, plan: Plan) -> None:
    """Make `easy` ready for the request. Callbacks are the caller's."""
    easy.reset()
    _set_manners(easy)
    _set_target(easy, plan)
    _set_method(easy, plan)
    easy.setopt(pycurl.HTTPHEADER, header_lines(plan))
    _set_route(easy, plan)
    if plan.tls or (plan.proxy and plan.proxy.tls):
        _set_tls(easy, plan)


def set_up_look(easy: Any, plan: Plan) -> None:
    """Make `easy` ready to connect only, whoever answers, to see the certificate; no request is sent."""
    easy.reset()
    _set_manners(easy)
    _set_target(easy, plan)
    _set_route(easy, plan)
    _set_tls(easy, plan)
    easy.setopt(pycurl.SSL_VERIFYPEER, 0)
    easy.setopt(pycurl.SSL_VERIFYHOST, 0)
    easy.setopt(pycurl.OPT_CERTINFO, 1)
    easy.setopt(pycurl.CONNECT_ONLY, 1)


def _set_manners(easy: Any) -> None:
    """Do what is asked and nothing on our own: no redirects, cookies, credentials or other protocols."""
    easy.setopt(pycurl.NOSIGNAL, 1)
    easy.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    easy.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
    # HTTP/1.1 although registries speak HTTP/2: a line carries one request at a time, so there is nothing to
    # multiplex, and frames and window updates cost a third of the throughput of large layers (measured over TLS).
    easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    easy.setopt(pycurl.TCP_KEEPALIVE, 1)
    easy.setopt(pycurl.BUFFERSIZE, RECEIVE_BUFFER_BYTES)
    easy.setopt(pycurl.UPLOAD_BUFFERSIZE, SEND_BUFFER_BYTES)
    easy.setopt(_SUPPRESS_CONNECT_HEADERS, 1)
    easy.setopt(_QUICK_EXIT, 1)


def _set_target(easy: Any, plan: Plan) -> None:
    """The request line as the URL has it: libcurl gets a URL without a path and the target beside it."""
    address = plan.address
    base = f"{address.scheme}://{_url_host(address.host)}:{address.port}"
    easy.setopt(pycurl.URL, f"{base}/")
    easy.setopt(pycurl.PATH_AS_IS, 1)
    through_plain_proxy = plan.proxy is not None and not plan.tls and plan.proxy.url.startswith("http")
    prefix = f"{address.scheme}://{address.authority}" if through_plain_proxy else ""
    easy.setopt(pycurl.REQUEST_TARGET, f"{prefix}{address.target}")


def _url_host(host: str) -> str:
    """A zone is written %25 in a URL."""
    name, percent, zone = host.partition("%")
    return bracketed(f"{name}%25{zone.removeprefix('25')}" if percent and ":" in name else host)


def _set_method(easy: Any, plan: Plan) -> None:
    method = plan.request.method
    if not _TOKEN.fullmatch(method):
        raise TransportError(Cause.BAD_REQUEST, plan.request.url, detail=f"invalid method {method!r}")
    if plan.sends_body:
        easy.setopt(pycurl.UPLOAD, 1)
        if plan.body_bytes is not None:  # else libcurl sends it chunked
            easy.setopt(pycurl.INFILESIZE_LARGE, plan.body_bytes)
    if method == "HEAD":
        easy.setopt(pycurl.NOBODY, 1)
    easy.setopt(pycurl.CUSTOMREQUEST, method)


def header_lines(plan: Plan) -> list[bytes]:
    """The header lines for libcurl: those of the request, and those by which libcurl leaves out its own."""
    request = plan.request
    lines = []
    for name, value in request.headers:
        if not _TOKEN.fullmatch(name) or _BAD_VALUE.search(value):
            raise TransportError(Cause.BAD_REQUEST, request.url, detail=f"invalid header field {name!r}")
        if name.lower() not in _OURS:
            lines.append(f"{name}: {value}" if value.strip() else f"{name};")
    for name, value in (("Host", plan.address.authority), ("User-Agent", plan.user_agent)):
        if name not in request.headers:
            lines.append(f"{name}: {value}")
    # "Expect" would make small uploads wait, and an early refusal ends a large one anyway.
    lines += [f"{name}:" for name in ("Accept", "Expect", "Content-Type") if name not in request.headers]
    return [line.encode("utf-8", "surrogateescape") for line in lines]


def _set_route(easy: Any, plan: Plan) -> None:
    """Which way to go: our map, else the proxy of the environment's rules, never what libcurl finds there itself."""
    timeouts = plan.options.timeouts
    # Phases are timed by us (`conversation`); this only keeps libcurl from giving up earlier.
    whole = 2 * timeouts.connect_seconds + timeouts.tls_seconds + 1
    easy.setopt(pycurl.CONNECTTIMEOUT_MS, min(math.ceil(whole * 1000), 2**31 - 1))
    easy.setopt(pycurl.NOPROXY, "")
    easy.setopt(pycurl.PROXY, plan.proxy.url if plan.proxy else "")
    easy.setopt(pycurl.HEADEROPT, pycurl.HEADER_SEPARATE)
    if plan.proxy and plan.proxy.username:
        easy.setopt(pycurl.PROXYAUTH, pycurl.HTTPAUTH_BASIC)
        easy.setopt(pycurl.PROXYUSERNAME, plan.proxy.username)
        easy.setopt(pycurl.PROXYPASSWORD, plan.proxy.password.reveal())
    if plan.connect_to:
        easy.setopt(pycurl.CONNECT_TO, [f"::{plan.connect_to}"])


def _set_tls(easy: Any, plan: Plan) -> None:
    tls = plan.options.tls
    easy.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    easy.setopt(pycurl.SSL_VERIFYPEER, 0 if tls.insecure_skip_verify else 1)
    easy.setopt(pycurl.SSL_VERIFYHOST, 0 if tls.insecure_skip_verify else 2)
    if plan.ca_path:
        easy.setopt(pycurl.PROXY_CAINFO, plan.ca_path)
        if not tls.insecure_skip_verify:
            easy.setopt(pycurl.CAINFO, plan.ca_path)
    for cert, key in tls.client[:1]:
        easy.setopt(pycurl.SSLCERT, cert)
        easy.setopt(pycurl.SSLKEY, key or cert)
