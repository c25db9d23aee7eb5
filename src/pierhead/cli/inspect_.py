"""`pierhead inspect`: what an image is, without pulling it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, problem_json, show_problem, write_json
from pierhead.cli.attempts import show_failures
from pierhead.cli.looking import asking, jobs, looking
from pierhead.errors import UsageError
from pierhead.wire import one_line

if TYPE_CHECKING:
    from pierhead.cli.looking import Seen
    from pierhead.inspection import Configuration, Inspected, Item
    from pierhead.oci import Descriptor, ImageManifest, Platform
    from pierhead.store import Source

VALUE_LIMIT_CHARS = 200
MAP_LINES_LIMIT = 50


@click.command()
@click.argument("image")
@click.option("--raw", is_flag=True, help="The manifest's very bytes, and nothing else.")
@click.option("--config", is_flag=True, help="The very bytes of the image's configuration, and nothing else.")
@click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="The image of an index to look at. Default: this machine's."
)
@jobs
@asking
@options.OUTPUT
def inspect(image: str, platform: str | None, jobs: int, output: str, **flags: Any) -> None:
    """Say what an image is, without pulling it.

    IMAGE is asked for as pull would, or is oci:DIR[:NAME], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]. With
    --platform the image for that platform is shown alone, as if it were IMAGE. --raw and --config write what was
    checked against its digest, byte for byte.
    """
    from pierhead.chosen import image_for
    from pierhead.cli.copying.places import parse_place
    from pierhead.inspection import Remembering
    from pierhead.inspection import inspect as inspected
    from pierhead.oci import Platform
    from pierhead.transfer import each

    if flags["raw"] and flags["config"]:
        raise UsageError("--raw and --config are two different things", hint="give one of them")
    place = parse_place(image)
    wanted = Platform.parse(platform) if platform else None
    with looking(flags) as look, look.open(place, image) as seen:
        show_failures(seen.attempts)
        source = Remembering(seen.source)
        top = image_for(source, seen.descriptor, wanted) if wanted else seen.descriptor
        if flags["raw"] or flags["config"]:
            _write(source.manifest(top) if flags["raw"] else _config(source, top, wanted or Platform.here()))
            return
        found = inspected(
            source,
            top,
            wanted or Platform.here(),
            lambda items, work: each(items, work, at_once=jobs, stop=look.transport.interrupt),
        )
    if output == "json":
        write_json(_json(seen, found))
        return
    click.echo("\n".join(_text(seen, found)))
    for problem in found.problems:
        show_problem(problem)


def _config(source: Source, top: Descriptor, platform: Platform) -> bytes:
    from pierhead.chosen import image_for
    from pierhead.inspection import parsed, read_config
    from pierhead.oci import ImageManifest

    manifest = parsed(source, image_for(source, top, platform))
    assert isinstance(manifest, ImageManifest)
    return read_config(source, manifest.config)


def _write(raw: bytes) -> None:
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────


def _text(seen: Seen, found: Inspected) -> Iterator[str]:
    manifest = found.manifest
    yield one_line(seen.name)
    yield from _rows(
        {
            "digest": str(found.descriptor.digest),
            "type": found.descriptor.media_type,
            "artifact": manifest.artifact_type if _is_artifact(found) else "",
            "from": seen.place,
            "subject": str(manifest.subject.digest) if manifest.subject else "",
        }
    )
    yield from _map("annotations", manifest.annotations)
    if found.items:
        yield "  platforms"
        width = max(len(item.kind) for item in found.items)
        yield from (_item(item, width) for item in found.items)
    if found.image is not None:
        yield from _image(found, found.image)


def _item(item: Item, width: int) -> str:
    size = options.size_text(item.image_bytes) if item.image_bytes is not None else ""
    return f"    {one_line(item.kind):{width}}  {item.descriptor.digest}  {size}".rstrip()


def _image(found: Inspected, image: ImageManifest) -> Iterator[str]:
    configuration, descriptor = found.configuration, found.image_descriptor
    if found.items and descriptor is not None:
        platform = configuration.platform if configuration else ""
        yield f"image for {platform or 'this platform'}"
        yield from _rows({"digest": str(descriptor.digest), "type": image.media_type})
        yield from _map("annotations", image.annotations)
    if configuration is not None:
        yield from _configuration(configuration, alone=not found.items)
    yield f"  layers       {len(image.layers)}, {options.size_text(sum(layer.size_bytes for layer in image.layers))}"
    for layer in image.layers:
        yield f"    {layer.digest}  {options.size_text(layer.size_bytes):>7}  {one_line(layer.media_type)}"


def _configuration(configuration: Configuration, *, alone: bool) -> Iterator[str]:
    yield from _rows(
        {
            "platform": configuration.platform if alone else "",
            "created": configuration.created,
            "author": configuration.author,
            "user": configuration.user,
            "directory": configuration.working_dir,
            "entrypoint": _command(configuration.entrypoint),
            "cmd": _command(configuration.cmd),
            "ports": " ".join(configuration.exposed_ports),
            "volumes": " ".join(configuration.volumes),
            "env": f"{len(configuration.env)} set" if configuration.env else "",
        }
    )
    yield from _map("labels", configuration.labels)


def _command(words: Sequence[str]) -> str:
    from shlex import join

    return join(words)


def _rows(values: Mapping[str, str]) -> Iterator[str]:
    """What is there of these, a line each; somebody else wrote the values."""
    for name, value in values.items():
        if value:
            yield f"  {name:12} {one_line(value, VALUE_LIMIT_CHARS)}"


def _map(name: str, values: Mapping[str, str]) -> Iterator[str]:
    if values:
        yield f"  {name}"
    for key, value in list(values.items())[:MAP_LINES_LIMIT]:
        yield f"    {one_line(key, VALUE_LIMIT_CHARS)}={one_line(value, VALUE_LIMIT_CHARS)}"
    if len(values) > MAP_LINES_LIMIT:
        yield f"    and {len(values) - MAP_LINES_LIMIT} more"


def _is_artifact(found: Inspected) -> bool:
    """Whether it says that it is something else than an image. (An image manifest has its configuration's type.)"""
    from pierhead.oci import CONFIG_TYPES

    return bool(found.manifest.artifact_type) and found.manifest.artifact_type not in CONFIG_TYPES


# ── for programs ─────────────────────────────────────────────────────────────────────────────────────────────────


def _json(seen: Seen, found: Inspected) -> dict[str, Any]:
    subject = found.manifest.subject
    return {
        "name": seen.name,
        "digest": str(found.descriptor.digest),
        "media_type": found.descriptor.media_type,
        "size_bytes": found.descriptor.size_bytes,
        "artifact_type": found.manifest.artifact_type if _is_artifact(found) else None,
        "route": seen.place,
        "subject": _descriptor(subject) if subject else None,
        "annotations": dict(found.manifest.annotations),
        "platforms": [_item_json(item) for item in found.items],
        "image": _image_json(found) if found.image is not None else None,
        "problems": [problem_json(problem) for problem in found.problems],
    }


def _item_json(item: Item) -> dict[str, Any]:
    return {
        "platform": item.kind,
        "digest": str(item.descriptor.digest),
        "media_type": item.descriptor.media_type,
        "image_bytes": item.image_bytes,
    }


def _image_json(found: Inspected) -> dict[str, Any]:
    image, descriptor, configuration = found.image, found.image_descriptor, found.configuration
    assert image is not None
    assert descriptor is not None
    return {
        "digest": str(descriptor.digest),
        "media_type": image.media_type,
        "image_bytes": descriptor.size_bytes + sum(item.size_bytes for item in image.references),
        "annotations": dict(image.annotations),
        "config": _descriptor(image.config),
        "layers": [_descriptor(layer) for layer in image.layers],
        "configuration": _configuration_json(configuration) if configuration else None,
    }


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type,
        "size_bytes": descriptor.size_bytes,
    }


def _configuration_json(configuration: Configuration) -> dict[str, Any]:
    return {
        "platform": configuration.platform or None,
        "created": configuration.created or None,
        "author": configuration.author or None,
        "user": configuration.user or None,
        "working_dir": configuration.working_dir or None,
        "entrypoint": list(configuration.entrypoint),
        "cmd": list(configuration.cmd),
        "env": list(configuration.env),
        "exposed_ports": list(configuration.exposed_ports),
        "volumes": list(configuration.volumes),
        "labels": dict(configuration.labels),
    }
