"""The one client socket of pierhead: requests over libcurl."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

from pierhead import __version__
from pierhead.proxy import InvalidProxy, Proxy, ProxyRules
from pierhead.transport import Options, TlsOptions
from pierhead.transport.address import Address, parse_address
from pierhead.transport.conversation import Conversation
from pierhead.transport.exchange import Exchange
from pierhead.transport.failure import Cause, TransportError
from pierhead.transport.line import Line
from pierhead.transport.look import Look, look
from pierhead.transport.setup import Plan
from pierhead.transport.trust import Trust
from pierhead.wire import Request, Response

IDLE_LINES_LIMIT: Final = 16
USER_AGENT: Final = f"pierhead/{__version__}"
_NO_CAS: Final = "install ca-certificates, or name the registry's CA in tls.ca_file"


class CurlTransport:
    """`Transport` over the network.

    Several threads may send at once: each request has a line of its own, and idle lines are used again, those first
    that have a connection to where the request goes. A connection that died while idle is replaced without a word:
    libcurl then repeats the request if it had no body and nothing of an answer had come.

    `connect_to` maps "host:port" of URLs to the "host:port" that is dialled instead; URL, Host header and the name in
    TLS stay. `environment` tells proxies and system CAs (SSL_CERT_FILE, SSL_CERT_DIR). `on_exchange` hears of every
    exchange that ended, in the thread that ended it.
    """

    def __init__(
        self,
        *,
        connect_to: Mapping[str, str] | None = None,
        user_agent: str = USER_AGENT,
        environment: Mapping[str, str] | None = None,
        on_exchange: Callable[[Exchange], None] | None = None,
    ) -> None:
        self._connect_to = {place.lower(): target for place, target in (connect_to or {}).items()}
        self._user_agent = user_agent
        self._proxies = ProxyRules.from_environment(environment or {})
        self._trust = Trust(environment or {})
        self._on_exchange = on_exchange
        self._lock = threading.Lock()
        self._idle: list[Line] = []  # the one used last is last
        self._closed = False
        self._stop = threading.Event()

    def send(self, request: Request, options: Options = Options()) -> Response:
        """As `Transport.send`."""
        plan = self._plan(request, options)
        line = self._line(plan.origin)
        return Conversation(line, plan, done=self._done, told=self._on_exchange, stop=self._stop).send()

    def inspect(self, options: Options) -> TransportError | None:
        """As `Transport.inspect`."""
        try:
            self._trust.ca_path(options.tls.ca_files)
            self._check_client(options.tls)
        except TransportError as error:
            return error
        return None

    def look(self, url: str, options: Options = Options()) -> Look:
        """What there is to see where `url` leads, without asking for it; failures are in the result."""
        try:
            plan = self._plan(Request("GET", url), options)
        except TransportError as error:
            return Look(error=error)
        return look(plan, lambda: self._trust.anchors(options.tls.ca_files), self._stop.is_set)

    def interrupt(self) -> None:
        """End every exchange under way, and every later one, with `Cause.INTERRUPTED`; from any thread."""
        self._stop.set()

    def close(self) -> None:
        """As `Transport.close`."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()
        self._trust.close()

    # ── what decides about a request ──────────────────────────────────────────────────────────────────────────

    def _plan(self, request: Request, options: Options) -> Plan:
        address = parse_address(request.url)
        connect_to = self._connect_to.get(address.place.lower(), "")
        # A place that is mapped is dialled there, whatever proxies the environment names.
        proxy = None if connect_to else self._proxy(request.url, address)
        try:
            ca_path = self._certificates(address, options.tls, proxy)
        except TransportError as error:
            raise TransportError(error.cause, request.url, detail=error.detail, hint=error.hint) from error
        return Plan(request, options, address, self._user_agent, ca_path, proxy, connect_to)

    def _certificates(self, address: Address, tls: TlsOptions, proxy: Proxy | None) -> str:
        """Whom to trust on this way, as a file; files that cannot be used are an error even if nobody is verified."""
        if address.scheme == "https":
            self._check_client(tls)
        elif not (proxy and proxy.tls):
            return ""
        path = self._trust.ca_path(tls.ca_files)
        if not path and not tls.insecure_skip_verify:
            raise TransportError(Cause.CA_FILE, detail="this machine has no CA certificates", hint=_NO_CAS)
        return path

    def _proxy(self, url: str, address: Address) -> Proxy | None:
        try:
            return self._proxies.proxy_for(address.scheme, address.host, address.port)
        except InvalidProxy as error:
            raise TransportError(Cause.PROXY, url, detail=str(error)) from error

    def _check_client(self, tls: TlsOptions) -> None:
        for cert, key in tls.client:
            self._trust.check_client(cert, key)

    # ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _line(self, origin: str) -> Line:
        """An idle line that has been to `origin`, else any idle one (it has parsed the CAs), else a new one."""
        with self._lock:
            for line in reversed(self._idle):
                if origin in line.origins:
                    break
            else:
                if not self._idle:
                    return Line()
                line = self._idle[-1]
            self._idle.remove(line)
        return line

    def _done(self, line: Line, fit: bool) -> None:
        with self._lock:
            keep = fit and not self._closed
            surplus = line if not keep else None
            if keep:
                self._idle.append(line)
                surplus = self._idle.pop(0) if len(self._idle) > IDLE_LINES_LIMIT else None
        if surplus:
            surplus.close()
