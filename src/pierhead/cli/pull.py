"""`pierhead pull`: images into the store, by registries.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pierhead import __version__
from pierhead.cli import options, problem_json, show_error, show_problem, write_json
from pierhead.errors import ExitCode, PierheadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pierhead.layout import LayoutStore
    from pierhead.oci import Platform
    from pierhead.pull import Pulled
    from pierhead.reference import Reference
    from pierhead.transfer import Copied
    from pierhead.walk import Attempt


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@options.configuration
@options.root
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH[/VARIANT]",
    help="The platform to take out of an index; repeatable; `all` for every one. Default: this machine's.",
)
@options.transfers
@options.own_registry
@options.timeouts
@options.OUTPUT
def pull(images: tuple[str, ...], output: str, quiet: bool, jobs: int, **flags: Any) -> int:
    """Pull images the way K3s would, by registries.yaml.

    Every IMAGE is asked for at each place containerd would try, in order, and stored under its original name. What was
    interrupted goes on where it was. --creds, --ca-file, --plain-http and --insecure concern the image's own registry,
    never a mirror.
    """
    from pierhead.cli.progress import progress
    from pierhead.layout import LayoutStore
    from pierhead.pull import Puller, exit_code
    from pierhead.reference import Reference
    from pierhead.transfer import Transfer

    references = [Reference.parse(image) for image in dict.fromkeys(images)]
    platforms = _platforms(flags["platforms"])
    world = options.read_world_of(flags)
    store = LayoutStore(flags["root"])
    with (
        options.open_transport(flags["trace"]) as transport,
        progress(quiet=quiet or output == "json") as observer,
        Transfer(
            jobs, observer, rate=options.rate_of(flags), on_cancel=(transport.interrupt, store.interrupt)
        ) as transfer,
    ):
        puller = Puller(
            world.plan,
            world.lookup,
            transport,
            store,
            options.timeouts_of(flags),
            platforms,
            user_agent=f"pierhead/{__version__}",
        )
        try:
            results = puller.pull(references, transfer, at_once=jobs)
        finally:
            unpublished = _publish(store)
    if output == "json":
        write_json({"images": [_pulled_json(result) for result in results]})
    else:
        _show(results, quiet=quiet)
    for problem in dict.fromkeys(problem for result in results for problem in result.problems):
        show_problem(problem)
    for result in results:
        if result.error:
            show_error(_naming(result.reference, result.error))
    if unpublished:
        show_error(unpublished)
        return unpublished.exit_code
    return exit_code(results)


def _publish(store: LayoutStore) -> PierheadError | None:
    """Derive index.json; of an interrupted pull too. What goes wrong comes after what became of the images."""
    try:
        store.publish_index()
    except PierheadError as error:
        return error
    return None


def _naming(reference: Reference, error: PierheadError) -> PierheadError:
    """The error of one image among several: it says which."""
    if str(reference) in error.message:
        return error
    return PierheadError(f"{reference}: {error}", hint=error.hint)


def _platforms(names: Sequence[str]) -> tuple[Platform, ...]:
    from pierhead.oci import Platform

    if "all" in names:
        if len(names) > 1:
            raise UsageError("--platform all leaves nothing to add", hint="give either `all` or platforms")
        return ()
    return tuple(dict.fromkeys(map(Platform.parse, names))) or (Platform.here(),)


def _show(results: Sequence[Pulled], *, quiet: bool) -> None:
    """One line for each image that is there; where it did not come from on stderr."""
    for result in results:
        if result.copied is None or result.route is None:
            continue
        if not quiet:
            for attempt in _failures(result):
                click.echo(f"not from {attempt.place}: {attempt.cause}", err=True)
        copied = result.copied
        click.echo(f"{result.reference}  {copied.descriptor.digest}  from {_source(result)}  {_amount(copied)}")


def _amount(copied: Copied) -> str:
    if not copied.fetched_bytes:
        return f"had all {options.size_text(copied.reused_bytes)}"
    return f"fetched {options.size_text(copied.fetched_bytes)}, had {options.size_text(copied.reused_bytes)}"


def _failures(result: Pulled) -> list[Attempt]:
    """The attempts that failed, each place and cause once."""
    asked = [attempt for attempt in result.attempts if attempt.outcome not in ("ok", "skipped")]
    failed = {(attempt.place, attempt.cause): attempt for attempt in asked}
    return list(failed.values())


def _source(result: Pulled) -> str | None:
    """The place that resolved the image."""
    served = (attempt for attempt in result.attempts if attempt.route is result.route and attempt.outcome == "ok")
    return next((attempt.place for attempt in served), None)


def _pulled_json(result: Pulled) -> dict[str, Any]:
    copied = result.copied
    return {
        "reference": str(result.reference),
        "digest": str(copied.descriptor.digest) if copied else None,
        "media_type": copied.descriptor.media_type if copied else None,
        "size_bytes": copied.size_bytes if copied else None,
        "platforms": [str(platform) for platform in copied.platforms] if copied else [],
        "route": _source(result),
        "attempts": [_attempt_json(attempt) for attempt in result.attempts],
        "fetched_bytes": copied.fetched_bytes if copied else 0,
        "reused_bytes": copied.reused_bytes if copied else 0,
        "seconds": round(result.seconds, 6),
        "problems": [problem_json(problem) for problem in result.problems],
        "error": result.error.message if result.error else None,
        "exit_code": int(result.error.exit_code if result.error else ExitCode.DONE),
    }


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    from pierhead.redact import safe_url

    return {
        "url": safe_url(attempt.url),
        "outcome": attempt.outcome,
        "status": attempt.status,
        "cause": attempt.cause or None,
        "seconds": round(attempt.seconds, 6),
    }
