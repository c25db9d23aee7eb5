"""Subjects for the check: an example of a rule laid out in a folder, with the files that it names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from pierhead.check import Circumstances, Finding, Subject, check
from pierhead.check.rule import Example
from pierhead.config.k3s import Flags
from pierhead.image_list import read_list

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@click.command()
@click.option("--disable-default-registry-endpoint", is_flag=True)
@click.option("--embedded-registry")
@click.option("--k3s-version")
@click.option("--client", default="k3s")
@click.option("--assert-no-egress", is_flag=True)
@click.option("--no-files", is_flag=True)
@click.option("--data-dir")
def _flags(**flags: object) -> None:
    """The flags of `pierhead check` that an example may have."""


def circumstances(example: Example, file: Path | None) -> Circumstances:
    """What the flags and the list of an example say."""
    words = [word for flag in example.flags for word in flag.split()]
    given = _flags.make_context("check", words).params
    version = None
    if given["k3s_version"]:
        from pierhead.config.versions import K3sVersion

        version = K3sVersion.parse(given["k3s_version"])
    images, problems = read_list(example.images, "images.txt") if example.images else (None, ())
    return Circumstances(
        NOW,
        Flags(given["disable_default_registry_endpoint"], given["embedded_registry"], data_dir=given["data_dir"]),
        given["client"],
        version,
        images,
        problems,
        given["assert_no_egress"],
        not given["no_files"],
        str(file) if file else None,
    )


def check_example(example: Example, folder: Path) -> Subject:
    """An example laid out in `folder`, read as the command reads it."""
    from certificates import written

    file = folder / example.name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(example.yaml.replace("{here}", str(folder)))
    file.chmod(example.mode)
    for name, content in example.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written(content))
        (folder / name).chmod(example.mode)
    flags = tuple(flag.replace("{here}", str(folder)) for flag in example.flags)
    return Subject.of(file.read_bytes(), str(file), circumstances(replace(example, flags=flags), file))


def check_text(text: str, **more: object) -> tuple[Finding, ...]:
    """The findings of a file that stands nowhere."""
    example = Example(text, **more)  # type: ignore[arg-type]  # the fields of Example, checked at run time
    return check(Subject.of(text.encode(), "registries.yaml", circumstances(example, None)))


def named(data: bytes, like: Subject) -> tuple[Finding, ...]:
    """The findings of other bytes under the same circumstances."""
    return check(Subject.of(data, like.source.file, like.circumstances))
