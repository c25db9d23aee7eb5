"""`pierhead bundle`: one plain tar that is an OCI layout, a registry that is only read, and K3s' air-gap archive."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "create": "Write images into a bundle.",
    "serve": "Be a registry of what is in a bundle.",
    "apply": "Put the images of a bundle where the nodes will look for them.",
}


class _LateCommands(click.Group):
    """Imports a command when it is asked for: each of them stands on another one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"pierhead.cli.bundle.{name}"), name)
        return command


@click.command(cls=_LateCommands)
def bundle() -> None:
    """Carry images to where there is no network: one plain tar, used as it lies.

    A bundle is an OCI image layout in a tar. `bundle serve` is a registry over it, `bundle apply` fills the nodes'
    mirrors from it, K3s imports it from agent/images, and podman, skopeo and ctr read it.
    """
