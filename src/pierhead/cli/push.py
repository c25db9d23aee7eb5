"""`pierhead push`: an image of the store into a registry."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from pierhead.cli import options
from pierhead.cli.copying.flags import selection
from pierhead.errors import UsageError


@click.command()
@click.argument("image")
@click.argument("destination", required=False)
@options.configuration
@options.root
@selection
@options.transfers
@options.destination_registry
@options.timeouts
@options.OUTPUT
def push(image: str, destination: str | None, root: Path, output: str, quiet: bool, **flags: Any) -> None:
    """Put an image of the store into a registry.

    IMAGE goes to the registry of its own name, or under the name DESTINATION; never to a mirror. registries.yaml says
    how that registry is reached, --dest-creds and its like win. What is there already is not sent again.
    """
    from pierhead.cli.copying.ends import open_stored
    from pierhead.cli.copying.places import RegistryPlace, parse_place, registry_place
    from pierhead.cli.copying.running import Errand, reaching, wanted_of
    from pierhead.cli.copying.shown import show
    from pierhead.cli.paths import refuse_path

    refuse_path(image, "`pierhead copy {} DESTINATION` pushes what is in it")
    place = registry_place(image)
    target = parse_place(destination) if destination else place
    if not isinstance(target, RegistryPlace):
        raise UsageError(f"{target} is no registry", hint="`pierhead copy` and `pierhead save` write files")
    world = options.read_world_of(flags, "dest")
    errand = Errand(str(place), lambda: nullcontext(open_stored(root, place)), target, wanted_of(flags), world)
    with reaching(flags, quiet=quiet or output == "json") as reach:
        outcome = errand.run(reach)
    show(outcome, output, quiet=quiet)
