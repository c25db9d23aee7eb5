"""`pierhead seed`: every image of a list put exactly where the nodes will ask for it, and proved to be there."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, show_error, show_problem, write_json
from pierhead.cli.lists import LISTS
from pierhead.cli.pulling import LOCKED, guard_of
from pierhead.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pierhead.cli.seed.asked import Images
    from pierhead.cli.world import World
    from pierhead.seed.mapping import Mapped
    from pierhead.seed.seeder import Seeded, Summary
    from pierhead.transport import CurlTransport


def _report(_context: click.Context, _parameter: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    for path in paths:
        if path.suffix not in (".json", ".md"):
            raise click.BadParameter(f"{path} ends neither in .json nor in .md")
        if not path.parent.is_dir():
            raise click.BadParameter(f"{path.parent} is no folder")
    return paths


@click.command()
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@LISTS
@click.option("--since", multiple=True, metavar="OLD-LIST", help="Leave out the images of this list; repeatable.")
@click.option(
    "--to",
    multiple=True,
    metavar="ENDPOINT",
    help="The mirror to fill: as in the file, as a URL, as host[:port], or `all`; repeatable. Default: the one that a "
    "node asks first.",
)
@click.option(
    "--from",
    "origins",
    multiple=True,
    metavar="SOURCE",
    help="Where to take images from: a registry's URL, oci:DIR, a tarball or bundle, `store`, or `upstream` (the "
    "default: each image's own registry); repeatable, in order of preference.",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["collision", "unmirrored", "internet-only"]),
    help="Leave out what has no place, or none of its own, and go on; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Only print where everything would go, and what is wrong with that.")
@click.option("--no-verify", is_flag=True, help="Do not ask afterwards what a node would get.")
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_report,
    metavar="FILE",
    help="Write what is where, and proved to be: FILE.json or FILE.md; repeatable.",
)
@LOCKED
@click.option("--referrers", is_flag=True, help="What refers to an image (signatures, SBOMs) goes with it.")
@options.configuration
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH[/VARIANT]",
    help="The platform to take out of an index; repeatable. Default: `all`.",
)
@options.root
@options.transfers
@options.source_registry
@options.destination_registry
@options.timeouts
@options.OUTPUT
def seed(images: tuple[str, ...], lists: tuple[str, ...], **flags: Any) -> int:
    """Put every image of a list where the nodes will look for it, and prove that they find it.

    For each IMAGE registries.yaml is run forwards: which mirror would a node ask first, and under which rewritten name?
    There it is put, with what `configs` says of that mirror (or --dest-creds and so on). Then each image is resolved as
    a node would, and the digests are compared. What is there already is not sent again; a second run does the rest.
    """
    from pierhead.cli.lists import fetching
    from pierhead.cli.seed import asked

    world = asked.nodes_world(flags)
    with options.open_transport(flags["trace"]) as transport:
        fetch = fetching(world, transport, options.timeouts_of(flags))
        found = asked.read(images, lists, flags["since"], fetch)
        mapped = asked.mapped(world, found.wanted, flags)
        for problem in (*found.problems, *_file_problems(world, mapped)):
            show_problem(problem)
        if flags["dry_run"]:
            guard_of(flags["locked"])  # a file that is none, and no platform, is said now and not by the real run
            options.chosen_platforms(flags["platforms"])
            return _show_map(mapped, found, flags["output"])
        done: list[Seeded] = []
        try:
            results = _seed(world, mapped, transport, flags, done)
        except KeyboardInterrupt:
            _report_interrupted(done, mapped, found, flags)
            raise
    return _show(results, mapped, found, flags)


def _report_interrupted(done: Sequence[Seeded], mapped: Sequence[Mapped], found: Images, flags: dict[str, Any]) -> None:
    """Write the report of what was `done` by then, which is not all; of an image what was told last."""
    from pierhead.cli.seed import form, report

    last = {seeded.mapped.wanted.reference: seeded for seeded in tuple(done)}  # which others may still add to
    results = [last[item.wanted.reference] for item in mapped if item.wanted.reference in last]
    summed = _summed(results, mapped, found, flags, interrupted=True)
    for wrong in report.write(flags["reports"], form.seeded_json(results, mapped, found, summed), results, summed):
        show_error(wrong)


def _file_problems(world: World, mapped: Sequence[Mapped]) -> list[Any]:
    """What is wrong with the file for these images, each thing once."""
    from pierhead.seed.mapping import unreached

    plans = {(item.plan.reference.registry, item.plan.mirror, item.plan.problems): item.plan for item in mapped}
    of_places = [problem for item in mapped if item.targets for problem in unreached(item.plan)]
    return list(dict.fromkeys([*(problem for plan in plans.values() for problem in world.problems(plan)), *of_places]))


def _seed(
    world: World,
    mapped: Sequence[Mapped],
    transport: CurlTransport,
    flags: dict[str, Any],
    done: list[Seeded],
) -> list[Seeded]:
    """What becomes of each image; added to `done` as soon as it is known."""
    from pierhead.cli.seed import asked
    from pierhead.seed.proof import Prover
    from pierhead.seed.seeder import Seeder

    reading = asked.Reading(
        world, *options.registry_of(flags, "src"), options.network_of(transport, flags), flags["root"]
    )
    writing = asked.Writing(world, *options.registry_of(flags, "dest"))
    prover = None if flags["no_verify"] else Prover(lambda _: world.configured, options.network_of(transport, flags))
    with (
        ExitStack() as leaving,
        options.open_transfer(
            flags, transport.interrupt, quiet=flags["quiet"] or flags["output"] == "json"
        ) as transfer,
    ):
        pusher = options.pusher_of(transport, transfer, flags)
        seeder = Seeder(
            reading.origins(flags["origins"] or ("upstream",), leaving),
            lambda target: pusher.sink(writing.route(target), writing.lookup(target)),
            prover,
            options.chosen_platforms(flags["platforms"]) or (),
            guard_of(flags["locked"]),
            flags["referrers"],
        )
        return seeder.seed(mapped, transfer, jobs=flags["jobs"], keep=done.append)


def _show_map(mapped: Sequence[Mapped], found: Images, output: str) -> int:
    from pierhead.cli.seed import form, text

    problems = [item.problem for item in mapped if item.problem]
    if output == "json":
        write_json(form.map_json(mapped, found))
    else:
        click.echo("\n".join(text.table(mapped)))
        text.show_problems(problems)
        click.echo(text.map_summary(mapped, found))
    return ExitCode.FAILED if problems or found.problems else ExitCode.DONE


def _summed(
    results: Sequence[Seeded],
    mapped: Sequence[Mapped],
    found: Images,
    flags: dict[str, Any],
    *,
    interrupted: bool = False,
) -> Summary:
    from pierhead.seed.seeder import summary

    return summary(
        results,
        mapped,
        options.chosen_platforms(flags["platforms"]) or (),
        proved=not flags["no_verify"],
        unread=len(found.problems),
        interrupted=interrupted,
    )


def _show(results: Sequence[Seeded], mapped: Sequence[Mapped], found: Images, flags: dict[str, Any]) -> int:
    from pierhead.cli.seed import form, report, text
    from pierhead.seed.seeder import exit_code

    summed = _summed(results, mapped, found, flags)
    document = form.seeded_json(results, mapped, found, summed)
    if flags["output"] == "json":
        write_json(document)
    elif not flags["quiet"]:
        text.show(results, mapped)
    text.show_skipped(results)
    errors = [text.naming(result, error) for result in results for error in result.errors]
    for error in {str(error): error for error in errors}.values():  # a collision is one of all its images
        show_error(error)
    unwritten = report.write(flags["reports"], document, results, summed)
    for wrong in unwritten:
        show_error(wrong)
    if flags["output"] != "json":
        click.echo("\n".join(text.summary(summed, found)))
    code = exit_code(results, also_failed=bool(found.problems) or summed.lacking)
    return unwritten[0].exit_code if unwritten and code == ExitCode.DONE else code
