"""`pierhead copy`: an image from anywhere to anywhere."""

from __future__ import annotations

from typing import Any

import click

from pierhead.cli import options
from pierhead.cli.copying.flags import selection


@click.command()
@click.argument("source")
@click.argument("destination")
@options.configuration
@selection
@click.option(
    "--preserve-digests",
    is_flag=True,
    expose_value=False,
    help="The only behaviour there is: bytes are never compressed or rewritten on the way.",
)
@options.transfers
@options.source_registry
@options.destination_registry
@options.timeouts
@options.OUTPUT
def copy(source: str, destination: str, output: str, quiet: bool, **flags: Any) -> None:
    """Copy an image from anywhere to anywhere.

    SOURCE and DESTINATION are references, oci:DIR[:NAME], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]. A
    reference is read where registries.yaml has it pulled from, and written to its own registry. From registry to
    registry nothing touches the disk.
    """
    from pierhead.cli.copying.ends import open_origin
    from pierhead.cli.copying.places import is_same, parse_place, refuse_overwriting
    from pierhead.cli.copying.running import Errand, reaching, wanted_of
    from pierhead.cli.copying.shown import show, show_same
    from pierhead.cli.paths import refuse_path_to_write

    refuse_path_to_write(destination)
    place, target, wanted = parse_place(source), parse_place(destination), wanted_of(flags)
    if is_same(place, target) and wanted.platforms is None:
        show_same(place, output)
        return
    refuse_overwriting(place, target)
    from_world, to_world = options.read_worlds_of(flags)
    with reaching(flags, quiet=quiet or output == "json") as reach:
        errand = Errand(str(place), lambda: open_origin(place, from_world, reach), target, wanted, to_world)
        outcome = errand.run(reach)
    show(outcome, output, quiet=quiet)
