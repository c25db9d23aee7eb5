"""What `pull` and `save` have in common: images brought into the store by registries.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pierhead.cli import options
from pierhead.errors import PierheadError

if TYPE_CHECKING:
    from pierhead.image_list import Fetch
    from pierhead.layout import LayoutStore
    from pierhead.oci import Platform
    from pierhead.pull import Pulled, Puller
    from pierhead.reference import Reference
    from pierhead.store import Source
    from pierhead.transfer import Transfer

Guard = Callable[["Reference", "Source"], "Source"]

LOCKED: Final = click.option(
    "--locked",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Take nothing but what `pierhead lock` wrote into this file.",
)
PLATFORMS: Final = click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH[/VARIANT]",
    help="The platform to take out of an index; repeatable; `all` for every one. Default: this machine's.",
)
REFERRERS: Final = click.option(
    "--referrers", is_flag=True, help="What refers to an image comes with it: signatures, SBOMs, attestations."
)


@dataclass(frozen=True, slots=True)
class Pulling:
    """A store, and what it is filled with. `fetch` gets lists of images; `referrers`: what refers to them comes too."""

    store: LayoutStore
    fetch: Fetch
    platforms: Sequence[Platform]
    guard: Guard | None
    referrers: bool
    _puller: Puller
    _transfer: Transfer
    _at_once: int

    def pull(self, references: Sequence[Reference]) -> tuple[list[Pulled], PierheadError | None]:
        """What became of each image, and why index.json could not be written; it is, after an interrupt too."""
        try:
            results = self._puller.pull(references, self._transfer, at_once=self._at_once)
        finally:
            unpublished = _publish(self.store)
        return results, unpublished


@contextmanager
def pulling(flags: Mapping[str, Any], *, quiet: bool) -> Iterator[Pulling]:
    """What the shared options describe; `quiet`: without progress."""
    from pierhead.cli.lists import fetching
    from pierhead.layout import LayoutStore
    from pierhead.oci import Platform
    from pierhead.pull import Puller

    chosen, guard = options.chosen_platforms(flags["platforms"]), guard_of(flags["locked"])
    platforms = (Platform.here(),) if chosen is None else chosen
    world, timeouts = options.read_world_of(flags), options.timeouts_of(flags)
    store = LayoutStore(flags["root"])
    with (
        options.open_transport(flags["trace"]) as transport,
        options.open_transfer(flags, transport.interrupt, store.interrupt, quiet=quiet) as transfer,
    ):
        puller = Puller(
            world.plan,
            world.lookup,
            transport,
            store,
            timeouts,
            platforms,
            user_agent=options.USER_AGENT,
            guard=guard,
            referrers=flags["referrers"],
        )
        fetch, referrers = fetching(world, transport, timeouts), flags["referrers"]
        yield Pulling(store, fetch, platforms, guard, referrers, puller, transfer, flags["jobs"])


def guard_of(file: Path | None) -> Guard | None:
    """What lets through only what was locked."""
    if file is None:
        return None
    from pierhead.locked import Lock

    return Lock.read(file).guard


def _publish(store: LayoutStore) -> PierheadError | None:
    """Derive index.json. What goes wrong comes after what became of the images."""
    try:
        store.publish_index()
    except PierheadError as error:
        return error
    return None
