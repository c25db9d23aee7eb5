"""Seeding in a network in memory: a registries.yaml, registries behind names, and what was asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images import Image
from loopback import Handler, Loopback
from pierhead.ask import Hosts
from pierhead.auth import Credential
from pierhead.body import read_all
from pierhead.cli.seed.asked import Reading, Writing
from pierhead.cli.world import World
from pierhead.client import Network
from pierhead.config import k3s
from pierhead.config.registries import parse
from pierhead.credentials import CredentialSources
from pierhead.memory import MemoryStore
from pierhead.oci import Descriptor, Platform
from pierhead.push import Pusher
from pierhead.redact import Secret
from pierhead.reference import Digest, Reference
from pierhead.routing import OwnRegistry
from pierhead.seed.mapping import Allowed, Mapped, Wanted, map_images
from pierhead.seed.proof import Prover
from pierhead.seed.seeder import Seeded, Seeder
from pierhead.seed.sources import Origin
from pierhead.server.registry import Registry
from pierhead.store import RepositoryName, Source, Store
from pierhead.transfer import Transfer
from pierhead.transport import Timeouts
from pierhead.wire import Request, Response
from scripted import basic
from stocked import Tap, Ticks, stock

HUB = "registry-1.docker.io"
JOBS = 2


class Unhurried(Transfer):
    """A transfer whose pauses take no time."""

    def pause(self, seconds: float) -> None:
        super().pause(0)


@dataclass
class Fleet:
    """Nodes with this registries.yaml, and a network; empty registries are filled by `stocked_with`."""

    text: str
    network: Loopback
    src: tuple[OwnRegistry, Credential | None] = (OwnRegistry(), None)
    dest: tuple[OwnRegistry, Credential | None] = (OwnRegistry(), None)
    root: Path = Path("/nonexistent/store")
    inner: Registry | None = None  # the one behind a host that is no registry of ours
    leaving: ExitStack = field(default_factory=ExitStack)

    @property
    def world(self) -> World:
        hosts = k3s.hosts(parse(self.text.encode(), "r.yaml"), k3s.Flags())
        return World(hosts, CredentialSources({}, Path("/nonexistent"), run_folder=Path("/nonexistent")))

    def mapped(self, *images: str, to: Sequence[str] = (), allow: Sequence[Allowed] = ()) -> list[Mapped]:
        wanted = [Wanted.of(Reference.parse(image), image) for image in images]
        return map_images(wanted, self.world.plan, to=to, allow=allow)

    def seed(
        self,
        *images: str,
        origins: Sequence[str] = ("upstream",),
        prove: bool = True,
        guard: Callable[[Reference, Source], Source] = lambda _, source: source,
        platforms: Sequence[Platform] = (),
        referrers: bool = False,
        **mapping: Any,
    ) -> list[Seeded]:
        with Unhurried(JOBS) as transfer:
            pusher = Pusher(self.network, Timeouts(), clock=Ticks(), wait=transfer.pause)
            writing = Writing(self.world, *self.dest)
            seeder = Seeder(
                self.origins(origins),
                lambda target: pusher.sink(writing.route(target), writing.lookup(target)),
                Prover(lambda _: self.world.configured, self._asking()) if prove else None,
                platforms,
                guard,
                referrers,
                clock=Ticks(),
            )
            return seeder.seed(self.mapped(*images, **mapping), transfer, jobs=JOBS)

    def origins(self, texts: Sequence[str]) -> list[Origin]:
        return Reading(self.world, *self.src, self._asking(), self.root).origins(texts, self.leaving)

    def _asking(self) -> Network:
        return Network(self.network, Timeouts(), "pierhead", Ticks(), Hosts())

    def asked(self, host: str, *methods: str) -> list[str]:
        """The requests to a host, of these methods."""
        return [
            f"{request.method} {request.target}"
            for request in self.network.requests
            if request.authority == host and request.method in methods
        ]

    def digest_at(self, host: str, name: str) -> str | None:
        """What a name of a registry points to."""
        repository, _, tag = name.partition(":")
        names = {item.reference: item for item in self._store(host).names() if item.repository.path == repository}
        return str(names[tag].descriptor.digest) if tag in names else None

    def has_all(self, host: str, repository: str, image: Image) -> bool:
        """Whether all of an image is in a repository, byte for byte."""
        found = self._store(host).repository(RepositoryName(repository))
        for digest, data in image.blobs.items():
            media_type = image.manifests.get(digest, "application/octet-stream")
            descriptor = Descriptor(media_type, Digest.parse(digest), len(data))
            is_manifest = digest in image.manifests
            given = found.manifest(descriptor) if is_manifest else read_all(found.blob(descriptor), len(data) + 1)
            if given != data:
                return False
        return True

    def _store(self, host: str) -> Store:
        behind = self.network.hosts[host]
        inner = behind if isinstance(behind, Registry) else behind.registry if isinstance(behind, Tap) else self.inner
        assert inner is not None
        return inner._store


def registry(images: Mapping[str, Image] = {}) -> Registry:
    """A registry with these images, by repository and tag."""
    store = MemoryStore()
    for name, image in images.items():
        repository, _, tag = name.partition(":")
        stock(store, image, repository, tag)
    return Registry(store)


def guarded(inner: Registry, *credentials: str, reading: Sequence[str] = ()) -> Handler:
    """A registry that wants one of these `user:password`; those of `reading` may only read."""
    known = {text: Credential(text.partition(":")[0], Secret(text.partition(":")[2])).basic for text in credentials}
    readers = {Credential(text.partition(":")[0], Secret(text.partition(":")[2])).basic for text in reading}

    def answer(request: Request) -> Response:
        sent = request.headers.get("authorization")
        if sent in known.values() or (sent in readers and request.method in ("GET", "HEAD")):
            return inner.handle(request)
        return Response(403) if sent in readers else basic()

    return answer
