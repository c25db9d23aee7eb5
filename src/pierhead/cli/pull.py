"""`pierhead pull`: images into the store, by registries.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import naming, options, problem_json, show_error, show_problem, write_json
from pierhead.cli.attempts import attempt_json, served_by, show_failures
from pierhead.cli.copying.shown import referrers_json, show_left_out, with_referrers
from pierhead.cli.lists import LISTS, read_images
from pierhead.cli.pulling import LOCKED, PLATFORMS, REFERRERS, pulling
from pierhead.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pierhead.pull import Pulled
    from pierhead.transfer import Copied


@click.command()
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@LISTS
@LOCKED
@options.configuration
@options.root
@PLATFORMS
@REFERRERS
@options.transfers
@options.own_registry
@options.timeouts
@options.OUTPUT
def pull(images: tuple[str, ...], lists: tuple[str, ...], output: str, quiet: bool, **flags: Any) -> int:
    """Pull images the way K3s would, by registries.yaml.

    Every image is asked for at each place containerd would try, in order, and stored under its original name. What was
    interrupted goes on where it was. --creds, --ca-file, --plain-http and --insecure concern the image's own registry,
    never a mirror.
    """
    from pierhead.pull import exit_code

    if not images and not lists:
        raise UsageError("there is nothing to pull", hint="name images, or a list of them with --images")
    with pulling(flags, quiet=quiet or output == "json") as brought:
        references, unread = read_images(images, lists, brought.fetch)
        for problem in unread:
            show_problem(problem)
        if not references:
            raise UsageError("the list names no image")
        results, unpublished = brought.pull(references)
    _report(results, output, quiet=quiet)
    if unpublished:
        show_error(unpublished)
        return unpublished.exit_code
    return ExitCode.PARTIAL if unread else exit_code(results)


def _report(results: Sequence[Pulled], output: str, *, quiet: bool) -> None:
    """What became of each image."""
    if output == "json":
        write_json({"images": [_pulled_json(result) for result in results]})
    else:
        _show(results, quiet=quiet)
    for problem in dict.fromkeys(problem for result in results for problem in result.problems):
        show_problem(problem)
    for result in results:
        if result.error:
            show_error(naming(str(result.reference), result.error))


def _show(results: Sequence[Pulled], *, quiet: bool) -> None:
    """One line for each image that is there; where it did not come from on stderr."""
    for result in results:
        if result.copied is None or result.route is None:
            continue
        if not quiet:
            show_failures(result.attempts)
        show_left_out(result.referrers, str(result.reference))
        copied, place = result.copied, served_by(result.attempts, result.route)
        came = with_referrers(len(result.referrers.copied) if result.referrers else 0)
        click.echo(f"{result.reference}  {copied.descriptor.digest}  from {place}  {_amount(copied)}{came}")


def _amount(copied: Copied) -> str:
    if not copied.fetched_bytes:
        return f"had all {options.size_text(copied.reused_bytes)}"
    return f"fetched {options.size_text(copied.fetched_bytes)}, had {options.size_text(copied.reused_bytes)}"


def _pulled_json(result: Pulled) -> dict[str, Any]:
    copied = result.copied
    return {
        "reference": str(result.reference),
        "digest": str(copied.descriptor.digest) if copied else None,
        "media_type": copied.descriptor.media_type if copied else None,
        "size_bytes": copied.size_bytes if copied else None,
        "platforms": [str(platform) for platform in copied.platforms] if copied else [],
        "route": served_by(result.attempts, result.route),
        "attempts": [attempt_json(attempt) for attempt in result.attempts],
        "fetched_bytes": copied.fetched_bytes if copied else 0,
        "reused_bytes": copied.reused_bytes if copied else 0,
        **referrers_json(result.referrers),
        "seconds": round(result.seconds, 6),
        "problems": [problem_json(problem) for problem in result.problems],
        "error": result.error.message if result.error else None,
        "exit_code": int(result.error.exit_code if result.error else ExitCode.DONE),
    }
