"""What commands have in common that only look at images: how to ask for one, and what to say of where it was not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options
from pierhead.cli.attempts import served_by
from pierhead.cli.paths import layout_hint
from pierhead.errors import PierheadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pierhead.ask import Memory
    from pierhead.cli.copying.places import Place
    from pierhead.cli.world import World
    from pierhead.client import Network, Remote
    from pierhead.oci import Descriptor
    from pierhead.reference import Reference
    from pierhead.routing import Route
    from pierhead.store import Source
    from pierhead.transport import CurlTransport
    from pierhead.walk import Attempt

JOBS = 8  # questions are small: more at once than blobs


@dataclass(frozen=True, slots=True)
class Looking:
    """A world, and the wire to ask over; what is found out about hosts holds for all images of the command."""

    world: World
    transport: CurlTransport
    network: Network

    def remote(self, reference: Reference) -> Remote:
        """The image's repository, as `pull` would find it."""
        return self.network.remote(self.world.plan(reference), self.world.lookup(reference))

    def own(self, reference: Reference) -> tuple[Memory, Route]:
        """The way to the image's own registry, whatever mirrors there are, and what to remember on it."""
        return self.network.memory(self.world.lookup(reference)), self.world.own_route(reference)

    @contextmanager
    def open(self, place: Place, text: str = "") -> Iterator[Seen]:
        """An image wherever it is, resolved; a tarball's scratch files are gone afterwards.

        `text` is how the place was written, to think of a folder that is called so.
        """
        from pierhead.cli.copying.places import FilePlace, refuse_cut_path

        if isinstance(place, FilePlace):
            from pierhead.archive import open_archive

            refuse_cut_path(place)
            with open_archive(place.path) as archive:
                found = archive.find(place.name)
                yield Seen(found.name or str(place), archive.content, found.descriptor, str(place))
            return
        remote = self.remote(place.reference)
        try:
            descriptor = remote.resolve(place.reference.object)
        except PierheadError as error:
            error.hint = layout_hint(text) or error.hint
            raise
        where = served_by(remote.attempts, remote.resolved.route if remote.resolved else None)
        yield Seen(str(place.reference), remote, descriptor, where or "", remote.attempts)


@dataclass(frozen=True, slots=True)
class Seen:
    """An image that was found: under which name, what it is, and where (`place`: the endpoint, or the file)."""

    name: str
    source: Source
    descriptor: Descriptor
    place: str
    attempts: Sequence[Attempt] = ()


@contextmanager
def looking(flags: Mapping[str, Any]) -> Iterator[Looking]:
    """The world and the wire that the shared options describe."""
    world = options.read_world_of(flags)
    with options.open_transport(flags["trace"]) as transport:
        yield Looking(world, transport, options.network_of(transport, flags))


def asking(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that asks registries and moves nothing."""
    trace = click.option("--trace", metavar="FILE|-", help="Write every request as a line of JSON; - is stderr.")
    return options.configuration(options.own_registry(options.timeouts(trace(command))))


def jobs(command: Callable[..., Any]) -> Callable[..., Any]:
    """How many questions are asked at once."""
    return click.option(
        "-j", "--jobs", type=click.IntRange(1, 64), default=JOBS, show_default=True, help="Questions asked at once."
    )(command)
