"""`pierhead images-from`: the images that manifests, rendered charts and Helm values name, as a list."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pierhead.cli import options, problem_json, show_problem, write_json
from pierhead.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pierhead.errors import Problem
    from pierhead.image_names import FoundImage
    from pierhead.reference import Reference

FILE_LIMIT_BYTES: Final = 64 * 1024 * 1024
FILES_LIMIT: Final = 20_000  # of one folder and those below it
_SUFFIXES: Final = (".yaml", ".yml", ".json")


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@options.OUTPUT
def images_from(files: tuple[str, ...], output: str) -> int:
    """List the images that Kubernetes manifests and Helm values name, for `pull --images` and its like.

    FILE is YAML or JSON: manifests of any kind, what `helm template` or `kustomize build` printed, a values.yaml, a
    kustomization.yaml, a HelmChart with valuesContent; - is standard input, of a folder every .yaml, .yml and .json
    below it is read. One full name on each line, each once, in the order of the files. A document that cannot be read
    is told, and the others are read.

    Exit codes: 0 done, 6 something could not be read, 1 and no image was found either, 2 a file cannot be opened.
    """
    from pierhead.image_names import find_images

    found: list[FoundImage] = []
    problems: list[Problem] = []
    for name, data in _contents(files):
        images, wrong = find_images(data, name)
        found += images
        problems += wrong
    by_name = _by_name(found)
    if output == "json":
        write_json(_json(by_name, problems))
    else:
        for name in by_name:
            click.echo(name)
        for problem in problems:
            show_problem(problem)
        if not by_name:
            click.echo("no image is named", err=True)
    if all(problem.severity != "error" for problem in problems):
        return ExitCode.DONE
    return ExitCode.PARTIAL if by_name else ExitCode.FAILED


def _by_name(found: Sequence[FoundImage]) -> dict[str, list[FoundImage]]:
    """Every image once; of one that is named with and without a tag beside its digest only that with the tag."""
    tagged: dict[Reference, str] = {}
    for image in found:
        if image.tag:
            tagged.setdefault(image.reference, image.name)
    by_name: dict[str, list[FoundImage]] = {}
    for image in found:
        name = image.name if image.tag else tagged.get(image.reference, image.name)
        by_name.setdefault(name, []).append(image)
    return by_name


def _contents(files: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of every file; raises `UsageError`."""
    if files.count("-") > 1:
        raise UsageError("standard input can be read once only")
    for name in dict.fromkeys(files):
        if name != "-" and Path(name).is_dir():
            yield from ((path, _read(path)) for path in _below(name))
        else:
            yield name, _read(name)


def _below(folder: str) -> list[str]:
    """Every file of a folder that may hold manifests, in order; hidden ones and links to folders are left out."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"the folder {error.filename} cannot be read: {error.strerror}")

    found: list[str] = []
    for path, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [str(Path(path) / name) for name in names if _is_manifest(name)]
        if len(found) > FILES_LIMIT:
            raise UsageError(f"{folder} holds more than {FILES_LIMIT} files", hint="name fewer folders at once")
    return sorted(found)


def _is_manifest(name: str) -> bool:
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def _read(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(FILE_LIMIT_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(FILE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{name} cannot be read: {reason}") from None
    if len(data) > FILE_LIMIT_BYTES:
        raise UsageError(f"{name} is larger than {FILE_LIMIT_BYTES} bytes")
    return data


def _json(images: Mapping[str, Sequence[FoundImage]], problems: Iterable[Problem]) -> dict[str, Any]:
    return {
        "images": [
            {"reference": name, "places": [_place_json(place) for place in places]} for name, places in images.items()
        ],
        "problems": [
            {**problem_json(problem), "file": problem.span.file if problem.span else None} for problem in problems
        ],
    }


def _place_json(image: FoundImage) -> dict[str, Any]:
    span = image.span
    return {"file": span.file, "line": span.line, "column": span.column, "path": image.path, "text": image.text}
