"""`pierhead ls`: what a registry has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, show_error, write_json
from pierhead.cli.looking import asking, jobs, looking
from pierhead.errors import ExitCode, PierheadError, UsageError

if TYPE_CHECKING:
    from pierhead.ask import Memory
    from pierhead.browse import Listed
    from pierhead.cli.looking import Looking
    from pierhead.reference import Reference
    from pierhead.routing import Route


@click.command()
@click.argument("what", metavar="REGISTRY[/REPOSITORY]")
@click.option("--digests", is_flag=True, help="What each tag points to as well; one request for each.")
@jobs
@asking
@options.OUTPUT
def ls(what: str, digests: bool, jobs: int, output: str, **flags: Any) -> int:
    """List the repositories of a registry, or the tags of a repository.

    The registry itself is asked, no mirror; to see what a mirror has, name the mirror. A repository without a registry
    is one of docker.io. Not every registry lists its repositories: Docker Hub does not.
    """
    from pierhead.ask import carry_out
    from pierhead.browse import repositories, tags

    reference = _named(what)
    if digests and not reference.repository:
        raise UsageError("--digests is for the tags of a repository", hint="name one: REGISTRY/REPOSITORY")
    with looking(flags) as look:
        way = look.own(reference)
        listed = carry_out((tags if reference.repository else repositories)(*way), look.transport)
        tagged = [replace(reference, tag=name) for name in listed.names] if digests else []
        found = dict(zip(listed.names, _digests(look, way, tagged, at_once=jobs), strict=False))
    _warn(listed, reference)
    failed = {name: item for name, item in found.items() if isinstance(item, PierheadError)}
    if output == "json":
        write_json(_json(reference, listed, found))
    else:
        for name in listed.names:
            if name not in failed:
                click.echo(f"{name} {found[name]}" if digests else name)
    for name, error in failed.items():
        show_error(PierheadError(f"{reference.name}:{name}: {error}", hint=error.hint))
    return ExitCode.PARTIAL if failed else ExitCode.DONE


def _named(text: str) -> Reference:
    """The repository that is meant, or with an empty one the registry: whatever could not begin an image's name else.

    `registry.lan:5000`, `localhost` and `docker.io` are registries; `busybox` and `rancher/pause` are Docker Hub's.
    """
    from pierhead.reference import InvalidReference, Reference

    name = text.removesuffix("/")
    try:
        below = Reference.parse(f"{name}/x")
    except InvalidReference:
        below = None
    if below is not None and below.repository in ("x", "library/x"):
        return Reference(below.registry, "", below.tag, None)
    reference = Reference.parse(name)
    if reference.digest or ":" in name.rpartition("/")[2]:
        raise UsageError(f"{text!r} names an image", hint=f"write {reference.name} for the tags of its repository")
    return reference


def _digests(
    look: Looking, way: tuple[Memory, Route], tagged: Sequence[Reference], *, at_once: int
) -> list[str | PierheadError]:
    """What each tag points to there, or why nobody knows."""
    from pierhead.ask import carry_out
    from pierhead.transfer import each
    from pierhead.walk import resolve_at, unresolved

    memory, route = way

    def digest(reference: Reference) -> str | PierheadError:
        asked = carry_out(resolve_at(memory, route, reference, last_route=True), look.transport)
        if asked.descriptor is not None:
            return str(asked.descriptor.digest)
        return asked.final or unresolved(reference, [asked.attempt])

    return each(tagged, digest, at_once=at_once, stop=look.transport.interrupt) if tagged else []


def _warn(listed: Listed, reference: Reference) -> None:
    if listed.refused_count:
        some = ", ".join(listed.refused) + (" …" if listed.refused_count > len(listed.refused) else "")
        click.echo(
            f"{reference.registry} lists {listed.refused_count} that cannot be names, left out here: {some}", err=True
        )


def _json(reference: Reference, listed: Listed, found: dict[str, str | PierheadError]) -> dict[str, Any]:
    if not reference.repository:
        return {"registry": reference.registry, "repositories": list(listed.names)}
    document: dict[str, Any] = {
        "registry": reference.registry,
        "repository": reference.repository,
        "tags": list(listed.names),
    }
    if found:
        digests = {name: None if isinstance(item, PierheadError) else item for name, item in found.items()}
        document["digests"] = digests
    return document
