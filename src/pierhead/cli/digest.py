"""`pierhead digest`: what names point to now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import naming, options, show_error, write_json
from pierhead.cli.attempts import show_failures
from pierhead.cli.looking import asking, jobs, looking
from pierhead.errors import ExitCode, PierheadError

if TYPE_CHECKING:
    from pierhead.cli.copying.places import Place
    from pierhead.cli.looking import Looking
    from pierhead.oci import Descriptor, Platform


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="The digest of the image for this platform.")
@jobs
@asking
@options.OUTPUT
def digest(images: tuple[str, ...], platform: str | None, jobs: int, output: str, **flags: Any) -> int:
    """Print the digest of an image, as pull would find it.

    One request is made, and nothing is moved. Of several images each line has the name and the digest.
    """
    from pierhead.cli.copying.places import parse_place
    from pierhead.oci import Platform
    from pierhead.transfer import each

    images = tuple(dict.fromkeys(images))
    places = [parse_place(image) for image in images]
    wanted = Platform.parse(platform) if platform else None
    with looking(flags) as look:
        found = each(
            list(zip(places, images, strict=True)),
            lambda named: _digest(look, *named, wanted),
            at_once=jobs,
            stop=look.transport.interrupt,
        )
    if output == "json":
        write_json({"images": [_json(place, item) for place, item in zip(places, found, strict=True)]})
    errors = [item if isinstance(item, PierheadError) else None for item in found]
    for place, item in zip(places, found, strict=True):
        if isinstance(item, PierheadError):
            show_error(naming(str(place), item))
        elif output == "text":
            click.echo(f"{place} {item.digest}" if len(places) > 1 else str(item.digest))
    return ExitCode.of_all(errors)


def _digest(look: Looking, place: Place, text: str, platform: Platform | None) -> Descriptor | PierheadError:
    try:
        with look.open(place, text) as seen:
            show_failures(seen.attempts)
            if platform is None:
                return seen.descriptor
            from pierhead.chosen import image_for

            return image_for(seen.source, seen.descriptor, platform)
    except PierheadError as error:
        return error


def _json(place: Place, found: Descriptor | PierheadError) -> dict[str, Any]:
    error = found if isinstance(found, PierheadError) else None
    descriptor = found if not isinstance(found, PierheadError) else None
    return {
        "name": str(place),
        "digest": str(descriptor.digest) if descriptor else None,
        "media_type": descriptor.media_type if descriptor else None,
        "size_bytes": descriptor.size_bytes if descriptor else None,
        "error": error.message if error else None,
        "exit_code": int(error.exit_code if error else 0),
    }
