"""`pierhead probe`: a plan asked, every route of it, and what is wrong with each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, show_problem, write_json
from pierhead.cli.lists import LISTS, fetching, read_images
from pierhead.errors import UsageError

if TYPE_CHECKING:
    from pierhead.auth import Lookup
    from pierhead.cli.world import World
    from pierhead.oci import Platform
    from pierhead.probe.places import Named
    from pierhead.probe.prober import Prober
    from pierhead.reference import Reference
    from pierhead.routing import Route
    from pierhead.transport import CurlTransport

JOBS = 8


@click.command()
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@LISTS
@click.option("--blob", is_flag=True, help="Ask for a byte of the smallest layer too.")
@options.configuration
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH[/VARIANT]",
    help="The platform to look for in an index; repeatable. Default: this machine's.",
)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=JOBS, show_default=True, help="Routes asked at once.")
@options.own_registry
@options.timeouts
@click.option("--trace", metavar="FILE|-", help="Write every request as a line of JSON; - is stderr.")
@options.OUTPUT
def probe(images: tuple[str, ...], lists: tuple[str, ...], output: str, jobs: int, **flags: Any) -> int:
    """Ask every place an image may come from, and say what is wrong with each.

    For each IMAGE every route of registries.yaml in order, not stopping at the first that works: name, connection, TLS
    and certificate, /v2/, credentials, manifest, platforms; then whether containerd would take it from there, move on
    or give up, what the kubelet would show, and what to change in which line. Without an image: every endpoint and
    every host of `configs` in the file.
    """
    platforms = _platforms(flags["platforms"])
    world = options.read_world_of(flags)
    with options.open_transport(flags["trace"]) as transport:
        references, problems = read_images(images, lists, fetching(world, transport, options.timeouts_of(flags)))
        for problem in problems:
            show_problem(problem)
        if lists and not references:
            raise UsageError("the list names no image")
        prober = _prober(transport, flags, jobs)
        if references:
            return _probe_images(world, prober, references, output, platforms=platforms, blob=flags["blob"])
        return _probe_places(world, prober, output)


def _probe_images(
    world: World,
    prober: Prober,
    references: Sequence[Reference],
    output: str,
    *,
    platforms: Sequence[Platform],
    blob: bool,
) -> int:
    from pierhead.cli.probe import form, text
    from pierhead.probe.verdict import exit_code

    plans = [world.plan(reference) for reference in references]
    probed = prober.images(plans, world.lookup, platforms=platforms, blob=blob)
    config = world.hosts.config if world.hosts else None
    if output == "json":
        write_json({"images": [form.image(item, config, world.problems(item.plan)) for item in probed]})
    else:
        _print([text.image(item, config, world.problems(item.plan)) for item in probed])
    return exit_code([item.exit_code for item in probed])


def _probe_places(world: World, prober: Prober, output: str) -> int:
    from pierhead.cli.probe import form, text
    from pierhead.probe.verdict import exit_code

    if world.hosts is None:
        raise UsageError("there is no registries.yaml, and no image is named", hint="name an image to probe")
    named = _named(world)
    visited = prober.places(named, _lookup_of(world))
    config = world.hosts.config
    problems = tuple(dict.fromkeys((*config.problems, *world.hosts.problems, *world.sources.problems)))
    if output == "json":
        write_json(form.places(visited, config, problems))
    else:
        _print([text.place(item, config) for item in visited] or [["registries.yaml names no place to ask"]])
        for problem in problems:
            show_problem(problem)
    return exit_code([item.exit_code for item in visited])


def _named(world: World) -> list[Named]:
    from pierhead.probe.named import named_places

    assert world.hosts is not None
    return named_places(world.hosts)


def _lookup_of(world: World) -> Callable[[Route], Lookup]:
    """Who we are at a place that no image is asked of: what the flags say is of an image's registry, so not that."""
    from pierhead.reference import Reference

    nothing = Reference("", "", "latest", None)
    return lambda _: world.lookup(nothing)


def _prober(transport: CurlTransport, flags: dict[str, Any], jobs: int) -> Prober:
    from pierhead.probe.places import Terms
    from pierhead.probe.prober import Prober

    terms = Terms(transport, options.timeouts_of(flags), time.monotonic, options.USER_AGENT)
    return Prober(terms, jobs, transport.interrupt)


def _platforms(names: Sequence[str]) -> tuple[Platform, ...]:
    from pierhead.oci import Platform

    return tuple(dict.fromkeys(map(Platform.parse, names))) or (Platform.here(),)


def _print(paragraphs: Sequence[Sequence[str]]) -> None:
    for number, lines in enumerate(paragraphs):
        if number:
            click.echo()
        for line in lines:
            click.echo(line)
