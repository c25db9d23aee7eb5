"""`pierhead lock`: the digests of a list of images, in a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import naming, show_error, show_problem
from pierhead.cli.attempts import show_failures
from pierhead.cli.looking import asking, jobs, looking
from pierhead.cli.options import counted
from pierhead.cli.paths import is_archive
from pierhead.errors import ExitCode, PierheadError, UsageError

if TYPE_CHECKING:
    from pierhead.cli.looking import Looking
    from pierhead.locked import Lock, LockedImage
    from pierhead.reference import Reference

_A_LIST = re.compile(r"(?i)-|https?://.*|.*\.(?:txt|list)")  # no image of Docker Hub is called so


@click.command()
@click.argument("names", metavar="[IMAGE|LIST]...", nargs=-1)
@click.option(
    "--images", "lists", multiple=True, metavar="LIST", help="Images from a file or URL, one a line; repeatable."
)
@click.option(
    "-o",
    "--output",
    default="-",
    metavar="FILE",
    show_default=True,
    help="Where to write the lock; - is standard output.",
)
@click.option("--partial", is_flag=True, help="Write it even if some images could not be looked at.")
@jobs
@asking
def lock(names: tuple[str, ...], lists: tuple[str, ...], output: str, jobs: int, **flags: Any) -> int:
    """Write down what images are now: name, digest, platforms, size.

    Every name is resolved as pull would find it. What is a file, a URL, - or ends in .txt is a LIST of images. With
    pull, seed and save --locked FILE an image that has moved since is an error. A lock that is written again says what
    has moved.
    """
    from pierhead.locked import Lock

    images = [name for name in names if not _is_list(name)]
    lists = (*(name for name in names if _is_list(name)), *lists)
    if not images and not lists:
        raise UsageError("there is nothing to lock", hint="name images, or a list of them")
    target = None if output == "-" else Path(output)
    before = _known(target)
    locked, code = _looked_at(images, lists, jobs, flags)
    if code is not ExitCode.DONE and not (flags["partial"] and locked):
        click.echo("nothing is written" + ("; with --partial the others are" if locked else ""), err=True)
        return code
    after = Lock.of(locked, output)
    if target is None:
        click.echo(after.text(), nl=False)
    else:
        after.write(target)
    _tell(before, after, target)
    return code


def _is_list(name: str) -> bool:
    return _A_LIST.fullmatch(name) is not None or (Path(name).is_file() and not is_archive(name))


def _known(target: Path | None) -> Lock | None:
    """The lock that is there already. Anything else is not replaced: it may be the list."""
    from pierhead.locked import Lock, UnusableLock

    if target is None:
        return None
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}")
    if not target.exists():
        return None
    try:
        return Lock.read(target)
    except UnusableLock as error:
        raise UsageError(
            f"{target} is there, and no lock file that could be written anew: {error}",
            hint="give -o another name, or remove the file first",
        ) from None


def _looked_at(
    images: Sequence[str], lists: Sequence[str], at_once: int, flags: dict[str, Any]
) -> tuple[list[LockedImage], ExitCode]:
    """What could be locked, and how the command ends; a line of a list that names no image is a failure too."""
    from pierhead.cli.lists import fetching, read_images
    from pierhead.transfer import each

    with looking(flags) as look:
        references, problems = read_images(images, lists, fetching(look.world, look.transport, look.network.timeouts))
        for problem in problems:
            show_problem(problem)
        if not references:
            raise UsageError("the list names no image")
        found = each(
            references, lambda reference: _lock(look, reference), at_once=at_once, stop=look.transport.interrupt
        )
    for reference, item in zip(references, found, strict=True):
        if isinstance(item, PierheadError):
            show_error(naming(str(reference), item))
    locked = [item for item in found if not isinstance(item, PierheadError)]
    code = ExitCode.of_all([item if isinstance(item, PierheadError) else None for item in found])
    return locked, ExitCode.PARTIAL if problems else code


def _lock(look: Looking, reference: Reference) -> LockedImage | PierheadError:
    from pierhead.inspection import read_config
    from pierhead.locked import LockedImage
    from pierhead.tree import read_tree

    try:
        remote = look.remote(reference)
        tree = read_tree(remote.manifest, remote.resolve(reference.object))
        locked = LockedImage.of(reference, tree, partial(read_config, remote))
    except PierheadError as error:
        return error
    show_failures(remote.attempts)
    return locked


def _tell(before: Lock | None, after: Lock, target: Path | None) -> None:
    """What is otherwise than in the file that was there, and what is there now."""
    for change in before.changes(after) if before else ():
        if change.before is None:
            click.echo(f"new    {change.name}  {change.after}", err=True)
        elif change.after is None:
            click.echo(f"gone   {change.name}  {change.before}", err=True)
        else:
            click.echo(f"moved  {change.name}  {change.before} -> {change.after}", err=True)
    where = f" in {target}" if target else ""
    click.echo(f"locked {counted(len(after.images), 'image')}{where}", err=True)
