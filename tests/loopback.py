"""A network in memory: a `Transport` that hands each request to the handler of its host, and remembers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

from pierhead.server.registry import Registry
from pierhead.transport import Cause, Options, TransportError
from pierhead.wire import Request, Response

Handler = Callable[[Request], Response]


class Loopback:
    """Several hosts at once, without a socket. A host is an authority as it stands in URLs: `registry.example:5000`.

    A host that is not in the mapping refuses the connection. `requests` holds every request in its order, also those
    that were refused; `options` those that came with it.
    """

    def __init__(self, hosts: Mapping[str, Registry | Handler]) -> None:
        self.hosts = dict(hosts)
        self.requests: list[Request] = []
        self.options: list[Options] = []
        self.closed = False
        self._lock = Lock()

    def send(self, request: Request, options: Options = Options()) -> Response:
        with self._lock:
            self.requests.append(request)
            self.options.append(options)
        host = self.hosts.get(request.authority)
        if host is None:
            raise TransportError(Cause.REFUSED, request.url)
        return host.handle(request) if isinstance(host, Registry) else host(request)

    def inspect(self, options: Options) -> TransportError | None:
        return None

    def close(self) -> None:
        self.closed = True

    @property
    def lines(self) -> list[str]:
        """Every request so far as `METHOD url`."""
        return [f"{request.method} {request.url}" for request in self.requests]

    def clear(self) -> None:
        """Forget what was asked so far."""
        self.requests.clear()
        self.options.clear()
