"""The two ends of a copy, opened: where an image is read from, and what it is written into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pierhead.cli.copying.places import Place, RegistryPlace, refuse_cut_path
from pierhead.client import Remote
from pierhead.oci import Platform
from pierhead.store import Source

if TYPE_CHECKING:
    from pathlib import Path

    from pierhead.cli.world import World
    from pierhead.client import Network
    from pierhead.push import Pusher, RemoteSink
    from pierhead.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Reach:
    """What registries are reached with, at both ends."""

    network: Network
    pusher: Pusher
    transfer: Transfer


@dataclass(frozen=True, slots=True)
class Origin:
    """An image where it is: `name` is what its source calls it, `called` what people do; empty if they do not.

    `platforms` are those of its index that are there, if not all are.
    """

    source: Source
    name: str
    called: str = ""
    platforms: tuple[Platform, ...] = ()

    @property
    def remote(self) -> Remote | None:
        """The registry, if it is one, which knows what was asked for it."""
        return self.source if isinstance(self.source, Remote) else None


@contextmanager
def open_origin(place: Place, world: World, reach: Reach) -> Iterator[Origin]:
    """The image at a place; a registry is asked nothing yet. Raises `NotFound` and what is wrong with an archive."""
    if isinstance(place, RegistryPlace):
        reference = place.reference  # read wherever registries.yaml says that images of this name are pulled from
        remote = reach.network.remote(world.plan(reference), world.lookup(reference), reach.transfer.pause)
        yield Origin(remote, reference.object, str(reference))
        return
    from pierhead.archive import open_archive
    from pierhead.archive.present import present

    refuse_cut_path(place)
    with open_archive(place.path) as archive:
        image = archive.find(place.name)
        there = present(archive.content, image.descriptor)
        called = str(image.reference) if image.reference else image.name
        yield Origin(archive.content, str(image.descriptor.digest), called, there.platforms)


def open_stored(root: Path, place: RegistryPlace) -> Origin:
    """An image of the store; raises `NotFound`."""
    from pierhead.cli.copying.stored import find
    from pierhead.layout import LayoutStore

    store = LayoutStore(root)
    found = find(store, place.reference)
    return Origin(store.repository(found.repository), found.reference, str(place.reference), found.platforms)


def open_registry(place: RegistryPlace, world: World, reach: Reach) -> RemoteSink:
    """The repository of the registry itself, to write to: never a mirror of it."""
    from pierhead.routing import push_route

    return reach.pusher.sink(push_route(world.own_route(place.reference)), world.lookup(place.reference))
