"""A registry to push to, on a network in memory, and what goes wrong on the way there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from loopback import Handler, Loopback
from pierhead.auth import Credential
from pierhead.body import Blob, Buffer, BytesBlob, Write
from pierhead.oci import Descriptor
from pierhead.push import Pusher, RemoteSink
from pierhead.routing import push_route
from pierhead.server.registry import Registry
from pierhead.transport import Cause, TransportError
from pierhead.wire import Headers, Request, Response
from scripted import route
from stocked import Ticks

HOST = "b.example"
Fault = Callable[[Request, Registry], Response | None]


@dataclass
class Shaky:
    """A registry behind a connection with faults: each is asked in turn, and gives None for what does not concern it.

    `received` counts the bytes of bodies that came through.
    """

    registry: Registry
    faults: list[Fault] = field(default_factory=list)
    received: int = 0

    def __call__(self, request: Request) -> Response:
        if request.body is not None:
            request = replace(request, body=Seen(request.body, self._count))
        for fault in self.faults:
            answer = fault(request, self.registry)
            if answer is not None:
                return answer
        return self.registry.handle(request)

    def _count(self, count: int) -> None:
        self.received += count


@dataclass
class Seen:
    """A body that is counted, and may break off after `at` bytes of it went through."""

    body: Blob
    count: Callable[[int], object]
    at: int | None = None

    @property
    def size_bytes(self) -> int | None:
        return self.body.size_bytes

    def copy_to(self, write: Write, offset: int = 0) -> int:
        done = 0

        def take(piece: Buffer) -> None:
            nonlocal done
            room = len(piece) if self.at is None else min(len(piece), self.at - done)
            write(bytes(piece[:room]))
            self.count(room)
            done += room
            if room < len(piece):
                raise TransportError(Cause.CLOSED, f"https://{HOST}/")

        return self.body.copy_to(take, offset)

    def close(self) -> None:
        self.body.close()


def times(count: int, method: str, act: Callable[[Request, Registry], Response], *, where: str = "") -> Fault:
    """`act` instead of the first `count` requests of this method whose URL holds `where`."""
    left = [count]

    def fault(request: Request, registry: Registry) -> Response | None:
        if request.method != method or where not in request.url or not left[0]:
            return None
        left[0] -= 1
        return act(request, registry)

    return fault


def cut_at(at: int) -> Callable[[Request, Registry], Response]:
    """So much of the body arrives, then the connection is gone; a shorter one arrives whole."""

    def act(request: Request, registry: Registry) -> Response:
        assert isinstance(request.body, Seen)
        return registry.handle(replace(request, body=replace(request.body, at=at)))

    return act


def unheard(request: Request, registry: Registry) -> Response:
    """It is done, and the answer does not arrive."""
    registry.handle(request).body.close()
    raise TransportError(Cause.CLOSED, request.url)


def broken(cause: Cause = Cause.CLOSED) -> Callable[[Request, Registry], Response]:
    def act(request: Request, registry: Registry) -> Response:
        raise TransportError(cause, request.url)

    return act


def says(answer: Response) -> Callable[[Request, Registry], Response]:
    return lambda request, registry: answer


def changed(edit: Callable[[Response], Response]) -> Callable[[Request, Registry], Response]:
    """The registry's own answer, edited."""
    return lambda request, registry: edit(registry.handle(request))


def with_header(response: Response, name: str, value: str | None) -> Response:
    """With another value of a header, or without it."""
    kept = [item for item in response.headers if item[0].lower() != name.lower()]
    return replace(response, headers=Headers(kept if value is None else [*kept, (name, value)]))


def limited(largest_bytes: int) -> Fault:
    """A proxy that refuses larger bodies, by what Content-Length says."""

    def fault(request: Request, registry: Registry) -> Response | None:
        size = request.body.size_bytes if request.body else 0
        page = b"<html><head><title>413 Request Entity Too Large</title></head></html>"
        return Response(413, Headers(), BytesBlob(page)) if (size or 0) > largest_bytes else None

    return fault


def forgetful(request: Request, registry: Registry) -> Response | None:
    """As CNCF distribution 2.x: what it had of a request that broke is gone, and so is the session."""
    if request.method == "GET" and "/blobs/uploads/" in request.url:
        registry.handle(replace(request, method="DELETE")).body.close()
    return None


@dataclass
class Pushing:
    """A network with one registry that is pushed to, and somebody who pushes."""

    shaky: Shaky
    lookup: Callable[[str], Credential | None] = lambda host: None
    others: dict[str, Registry | Handler] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = Loopback({HOST: self.shaky, **self.others})
        self.pusher = self.new_pusher()

    def new_pusher(self) -> Pusher:
        """As another run of the program has it: it remembers nothing."""
        return Pusher(self.network, clock=Ticks(), wait=self.waited.append)

    def sink(self, repository: str = "team/copy", **more: Any) -> RemoteSink:
        return self.pusher.sink(push_route(route(1, HOST, repository=repository, **more)), self.lookup)

    @property
    def lines(self) -> list[str]:
        """Every request as `METHOD path`, session and digests left out."""
        return [_short(request) for request in self.network.requests]


def _short(request: Request) -> str:
    path, _, query = request.target.partition("?")
    head, _, last = path.rpartition("/")
    if "/blobs/uploads/" in path and last:
        path = f"{head}/…"
    elif ":" in last:
        path = f"{head}/sha"
    return f"{request.method} {path.removeprefix('/v2/')}" + (f"?{query.partition('=')[0]}" if query else "")


@dataclass
class Pieces:
    """A blob in pieces of one size, that notes from where it was read; `then` is raised in the place of the end."""

    data: bytes
    piece_bytes: int = 1000
    starts: list[int] = field(default_factory=list)
    then: Exception | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def copy_to(self, write: Write, offset: int = 0) -> int:
        self.starts.append(offset)
        for start in range(offset, len(self.data), self.piece_bytes):
            write(self.data[start : start + self.piece_bytes])
        if self.then:
            raise self.then
        return len(self.data) - offset

    def close(self) -> None:
        pass


def send(sink: RemoteSink, descriptor: Descriptor, blob: Blob) -> int:
    """As `Transfer` does it; how much was there before."""
    with sink.upload(descriptor) as upload:
        there = upload.offset
        if there < descriptor.size_bytes:
            upload.fill(blob)
        upload.commit()
        assert upload.offset == descriptor.size_bytes
    return there
