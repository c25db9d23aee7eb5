"""Registries in memory with images in them, and what stands in front of them and goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from images import Image
from loopback import Loopback
from pierhead.ask import OURS, Memory, Profile
from pierhead.client import Remote
from pierhead.memory import MemoryStore
from pierhead.oci import Descriptor, Index, parse_manifest
from pierhead.reference import Digest, Reference
from pierhead.routing import Plan
from pierhead.server.registry import Registry
from pierhead.store import RepositoryName, Store
from pierhead.transport import Cause, TransportError
from pierhead.wire import Headers, Request, Response
from scripted import route

REFERENCE = Reference.parse("hub.example/team/app:1")
PIECE_BYTES = 64


def stock(store: Store, image: Image, name: str = "team/app", tag: str = "1", *, namespace: str = "") -> Descriptor:
    """Put an image into a store, its leaves first."""
    repository = store.repository(RepositoryName(name, namespace))
    for digest, media_type in image.manifests.items():
        parsed = parse_manifest(image.blobs[digest], media_type)
        if not isinstance(parsed, Index):
            for item in parsed.references:
                with repository.upload(item) as upload:
                    if not upload.offset:
                        upload.write(image.blobs[str(item.digest)])
                    upload.commit()
        algorithm = Digest.parse(digest).algorithm
        repository.put_manifest(image.blobs[digest], media_type, algorithm=algorithm)
    top = Descriptor.from_json(image.descriptor)
    repository.tag(tag, replace(top, platform=None))
    return top


def registry_of(*images: Image, name: str = "team/app") -> Registry:
    """A registry with these images, whose tags are 1, 2, …"""
    store = MemoryStore()
    for number, image in enumerate(images, 1):
        stock(store, image, name, str(number))
    return Registry(store)


@dataclass
class Tap:
    """A registry behind a thing that counts, and changes answers: `change` by the reference that was asked for.

    Bodies come in small pieces. `served` counts the bytes of blobs that were taken, by digest.
    """

    registry: Registry
    change: Mapping[str, Callable[[Request, Response], Response]] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    on_piece: Callable[[], object] = lambda: None
    lock: Lock = field(default_factory=Lock)

    def __call__(self, request: Request) -> Response:
        response = self.registry.handle(request)
        reference = request.target.partition("?")[0].rpartition("/")[2]
        if request.method == "GET" and (change := self.change.get(reference)):
            response = change(request, response)
        return replace(response, body=self._counted(response, reference if "/blobs/" in request.target else ""))

    def _counted(self, response: Response, digest: str) -> Body:
        return Body(response, lambda count: self._count(digest, count))

    def _count(self, digest: str, count: int) -> None:
        self.on_piece()
        if digest:
            with self.lock:
                self.served[digest] = self.served.get(digest, 0) + count


class Body:
    """The body of another answer, in small pieces."""

    def __init__(self, response: Response, count: Callable[[int], object]) -> None:
        self.size_bytes = response.body.size_bytes
        self._response = response
        self._count = count

    def copy_to(self, write: Callable[[bytes], object], offset: int = 0) -> int:
        copied = 0

        def take(data: bytes | bytearray | memoryview) -> None:
            nonlocal copied
            for start in range(0, len(data), PIECE_BYTES):
                piece = bytes(data[start : start + PIECE_BYTES])
                write(piece)
                copied += len(piece)
                self._count(len(piece))

        self._response.body.copy_to(take, offset)
        return copied

    def close(self) -> None:
        self._response.body.close()


@dataclass
class Broken:
    """These bytes, then the connection is cut."""

    data: bytes
    size_bytes: int | None = None
    cause: Cause = Cause.CUT

    def copy_to(self, write: Callable[[bytes], object], offset: int = 0) -> int:
        write(self.data)
        raise TransportError(self.cause, "https://a.example/")

    def close(self) -> None:
        pass


def body_of(response: Response) -> bytes:
    taken: list[bytes] = []
    response.body.copy_to(lambda piece: taken.append(bytes(piece)))
    return b"".join(taken)


def replaced(edit: Callable[[bytes], bytes]) -> Callable[[Request, Response], Response]:
    """The body, edited; its length is told accordingly."""

    def change(request: Request, response: Response) -> Response:
        data = edit(body_of(response))
        headers = Headers([item for item in response.headers if item[0].lower() != "content-length"])
        return Response(response.status, headers, Stream(data))

    return change


@dataclass
class Stream:
    """Bytes of which nobody knows the length beforehand."""

    data: bytes
    size_bytes: int | None = None

    def copy_to(self, write: Callable[[bytes], object], offset: int = 0) -> int:
        if self.data:
            write(self.data)
        return len(self.data)

    def close(self) -> None:
        pass


def cut(at: int, cause: Cause = Cause.CUT) -> Callable[[Request, Response], Response]:
    """Only so many bytes of whatever was asked for, then the connection is gone."""
    return lambda request, response: replace(response, body=Broken(body_of(response)[:at], cause=cause))


def once(change: Callable[[Request, Response], Response]) -> Callable[[Request, Response], Response]:
    """For the first request only."""
    changes = iter([change])
    return lambda request, response: next(changes, lambda _, same: same)(request, response)


def plan_for(*hosts: str, reference: Reference = REFERENCE) -> Plan:
    """Ask these hosts in this order."""
    routes = [route(number, host, repository=reference.repository) for number, host in enumerate(hosts, 1)]
    return Plan(reference, tuple(routes))


def remote_of(network: Loopback, *hosts: str, profile: Profile = OURS, reference: Reference = REFERENCE) -> Remote:
    """The repository of a reference behind these hosts, with the conversation's pauses left out."""
    memory = Memory(lambda host: None, profile=profile, clock=Ticks())
    return Remote(plan_for(*hosts, reference=reference), network, memory, wait=lambda seconds: None)


class Ticks:
    """A clock that moves a little each time it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now
