"""`pierhead bundle apply`: `seed` of everything in a bundle, or the bundle itself into K3s' folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, show_problem, write_json
from pierhead.cli.seed import seed
from pierhead.errors import ExitCode, PierheadError, Problem, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pierhead.archive import ArchivedImage

# What a bundle says itself: which images, and where they come from.
_OF_THE_BUNDLE = frozenset({"images", "lists", "since", "origins"})


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--images-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put the bundle into K3s' folder of images, such as /var/lib/rancher/k3s/agent/images, and seed nothing.",
)
@click.option(
    "--cache",
    is_flag=True,
    help="With --images-dir: let there be a .cache.json, so that K3s does not import everything at every start. "
    "Releases of K3s before mid-2026 then unpin the images at the next start.",
)
def apply(file: Path, images_dir: Path | None, cache: bool, **flags: Any) -> int:
    """Put the images of a bundle where the nodes will look for them.

    Without --images-dir this is `pierhead seed --from FILE` for every image in FILE, with its options: each goes to the
    mirror that a node asks first, by registries.yaml, straight out of the bundle. With it K3s on this machine imports
    the bundle: at once if it runs (from v1.32 on), else when it starts.
    """
    from pierhead.archive import open_archive
    from pierhead.archive.unpacked import is_stream

    if str(file) == "-" or is_stream(file):
        raise UsageError("a bundle is read more than once, where it lies", hint="write what comes into a file first")
    if cache and not images_dir:
        raise UsageError("--cache is about K3s' folder of images", hint="give --images-dir as well")
    with open_archive(file) as archive:
        images = archive.images
    names = _names(images)
    if not names:
        raise PierheadError(f"{file} has no image with a full name", hint="write it with `pierhead bundle create`")
    if images_dir:
        return _place(file, images_dir, images, cache=cache, output=flags["output"])
    assert seed.callback is not None
    code = int(seed.callback(images=names, lists=(), since=(), origins=(str(file),), **flags))
    return ExitCode.PARTIAL if code == ExitCode.DONE and len(names) < len(images) else code


apply.params += [parameter for parameter in seed.params if parameter.name not in _OF_THE_BUNDLE]


def _names(images: Sequence[ArchivedImage]) -> tuple[str, ...]:
    """The full names; what has none is told."""
    for image in images:
        if image.reference is None:
            message = f"{image} has no full name, so no node can ask for it"
            show_problem(Problem("unnamed-image", "warning", message))
    return tuple(str(image.reference) for image in images if image.reference)


def _place(file: Path, folder: Path, images: Sequence[ArchivedImage], *, cache: bool, output: str) -> int:
    from pierhead.loading.airgap import place

    for image in images:
        if image.reference and image.reference.digest:
            message = f"{image.reference} has no tag, for which K3s reports an error after importing it"
            show_problem(Problem("untagged-image", "warning", message))
    made = not folder.is_dir()
    placed = place(file, folder, remember=cache)
    if made:
        click.echo(f"made the folder {folder}", err=True)
    if output == "json":
        write_json({"path": str(placed.path), "changed": placed.changed, "made_cache": placed.made_cache})
        return ExitCode.DONE
    already = "" if placed.changed else ", there already"
    click.echo(f"{placed.path}  {options.counted(len(images), 'image')}{already}")
    if placed.made_cache:
        click.echo("K3s remembers from now on what it has imported", err=True)
    return ExitCode.DONE
