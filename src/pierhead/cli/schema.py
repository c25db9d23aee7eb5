"""`pierhead schema`: the form of registries.yaml, for editors."""

from __future__ import annotations

import click

from pierhead.cli import write_json


@click.command()
def schema() -> None:
    """Print the JSON Schema of registries.yaml, for editors.

    With yaml-language-server, write it to a file and put `# yaml-language-server: $schema=FILE` in the first line.
    """
    from pierhead.config.schema import schema as registries_schema

    write_json(registries_schema())
