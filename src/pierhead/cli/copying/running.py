"""One copy, from its options to its outcome."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pierhead.cli import options
from pierhead.cli.copying.ends import Origin, Reach
from pierhead.cli.copying.moving import Wanted, move
from pierhead.cli.copying.places import Place
from pierhead.cli.copying.shown import Outcome
from pierhead.errors import PierheadError
from pierhead.transfer import Interrupted, each

if TYPE_CHECKING:
    from collections.abc import Callable

    from pierhead.cli.world import World


@contextmanager
def reaching(flags: Mapping[str, Any], *, quiet: bool) -> Iterator[Reach]:
    """What registries are reached with, by the options that commands share; `quiet`: without progress."""
    with (
        options.open_transport(flags["trace"]) as transport,
        options.open_transfer(flags, transport.interrupt, quiet=quiet) as transfer,
    ):
        pusher = options.pusher_of(transport, transfer, flags)
        yield Reach(options.network_of(transport, flags), pusher, transfer)


def wanted_of(flags: Mapping[str, Any]) -> Wanted:
    """What --platform and --referrers say."""
    return Wanted(options.chosen_platforms(flags["platforms"]), flags["referrers"])


@dataclass(frozen=True, slots=True)
class Errand:
    """A copy that is to be made; `origin` opens its source, which is called `source`, `world` is of its target."""

    source: str
    origin: Callable[[], AbstractContextManager[Origin]]
    target: Place
    wanted: Wanted
    world: World

    def run(self, reach: Reach) -> Outcome:
        """Make it, in a thread that an interrupt does not wait for; what fails is in the outcome."""
        return each([self], lambda errand: errand._run(reach), at_once=1, stop=reach.transfer.cancel)[0]

    def _run(self, reach: Reach) -> Outcome:
        started = time.monotonic()
        outcome = Outcome(self.source, str(self.target))
        try:
            with self.origin() as origin:
                outcome.remote = origin.remote
                outcome.moved = move(origin, self.target, self.wanted, self.world, reach)
        except Interrupted:
            raise
        except PierheadError as error:
            outcome.error = error
        outcome.seconds = time.monotonic() - started
        return outcome
