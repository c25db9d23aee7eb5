"""What commands have in common that only look at images: how to ask for one, and what to say of where it was not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from pierhead import __version__
from pierhead.ask import Hosts, Memory
from pierhead.cli import options
from pierhead.cli.attempts import failures, served_by
from pierhead.client import Remote
from pierhead.errors import ExitCode, PierheadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pierhead.cli.copying.places import Place
    from pierhead.cli.world import World
    from pierhead.oci import Descriptor
    from pierhead.reference import Reference
    from pierhead.routing import Route
    from pierhead.store import Source
    from pierhead.transport import CurlTransport, Timeouts
    from pierhead.walk import Attempt

JOBS = 8  # questions are small: more at once than blobs


@dataclass(slots=True)
class Looking:
    """A world, and the wire to ask over; what is found out about hosts holds for all images of the command."""

    world: World
    transport: CurlTransport
    timeouts: Timeouts
    _hosts: Hosts = field(default_factory=Hosts, init=False, repr=False)

    def remote(self, reference: Reference) -> Remote:
        """The image's repository, as `pull` would find it."""
        return Remote(self.world.plan(reference), self.transport, self._memory(reference))

    def own(self, reference: Reference) -> tuple[Memory, Route]:
        """The way to the image's own registry, whatever mirrors there are, and what to remember on it."""
        from pierhead.routing import k3s_plan, own_route

        route = own_route(k3s_plan(reference, self.world.hosts))
        return self._memory(reference), self.world.own_registry.onto(route)

    @contextmanager
    def open(self, place: Place) -> Iterator[Seen]:
        """An image wherever it is, resolved; a tarball's scratch files are gone afterwards."""
        from pierhead.cli.copying.places import FilePlace, refuse_cut_path

        if isinstance(place, FilePlace):
            from pierhead.archive import open_archive

            refuse_cut_path(place)
            with open_archive(place.path) as archive:
                found = archive.find(place.name)
                yield Seen(found.name or str(place), archive.content, found.descriptor, str(place))
            return
        remote = self.remote(place.reference)
        descriptor = remote.resolve(place.reference.object)
        where = served_by(remote.attempts, remote.resolved.route if remote.resolved else None)
        yield Seen(str(place.reference), remote, descriptor, where or "", remote.attempts)

    def _memory(self, reference: Reference) -> Memory:
        return Memory(
            self.world.lookup(reference),
            timeouts=self.timeouts,
            user_agent=f"pierhead/{__version__}",
            clock=time.monotonic,
            hosts=self._hosts,
        )


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
        yield Looking(world, transport, options.timeouts_of(flags))


def asking(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that asks registries and moves nothing."""
    trace = click.option("--trace", metavar="FILE|-", help="Write every request as a line of JSON; - is stderr.")
    return options.configuration(options.own_registry(options.timeouts(trace(command))))


def jobs(command: Callable[..., Any]) -> Callable[..., Any]:
    """How many questions are asked at once."""
    return click.option(
        "-j", "--jobs", type=click.IntRange(1, 64), default=JOBS, show_default=True, help="Questions asked at once."
    )(command)


def show_failures(attempts: Sequence[Attempt]) -> None:
    """Where an image did not come from, each place and cause once, on stderr."""
    for attempt in failures(attempts):
        click.echo(f"not from {attempt.place}: {attempt.cause}", err=True)


def naming(name: str, error: PierheadError) -> PierheadError:
    """The error of one image among several: it says which."""
    if name in error.message:
        return error
    named = PierheadError(f"{name}: {error}", hint=error.hint)
    named.exit_code = error.exit_code
    return named


def exit_code(errors: Sequence[PierheadError | None]) -> ExitCode:
    """How a command ends: of one image its own code, of several PARTIAL if any failed."""
    failed = [error for error in errors if error is not None]
    if not failed:
        return ExitCode.DONE
    return failed[0].exit_code if len(errors) == 1 else ExitCode.PARTIAL
