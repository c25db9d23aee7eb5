"""What the demo shows: commands a person would type, what they really print, and what that proves."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pierhead.cli.demo.registry import MIRRORED, DemoFailed, Running, program, write_file

if TYPE_CHECKING:
    from pierhead.cli.demo.images import Image

STEP_SECONDS: Final = 60.0
IMAGE: Final = "docker.io/rancher/coredns-coredns:1.6.3"
SETTINGS: Final = {"PIERHEAD_PRIVATE_REGISTRY": "registries.yaml", "PIERHEAD_ROOT": "store"}
CREDENTIALS: Final = ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME")


def registries_yaml(dead: str, registry: Running, ca_file: Path, password: str) -> str:
    """What an administrator would write: a mirror that is down, one that is not, and how to reach it."""
    return f"""\
mirrors:
  docker.io:
    endpoint:
      - "https://{dead}"
      - "{registry.url}"
    rewrite:
      "^rancher/(.*)": "{MIRRORED}$1"
configs:
  "{registry.authority}":
    auth:
      username: {registry.credential.username}
      password: "{password}"
    tls:
      ca_file: {ca_file}
"""


@dataclass(frozen=True)
class Stage:
    """Where the story takes place: a folder with everything in it, and the environment its commands run in."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path) -> Stage:
        """The environment is ours, without settings and credentials that are no part of the story."""
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PIERHEAD_") and name not in CREDENTIALS
        }
        return cls(folder, {**ours, **SETTINGS, "DOCKER_CONFIG": str(folder), "HOME": str(folder)})

    def write_configuration(self, dead: str, registry: Running) -> None:
        """Write registries.yaml, which holds the password, and show it without."""
        ca_file = self.folder / "ca.pem"
        text = registries_yaml(dead, registry, ca_file, registry.credential.secret.reveal())
        write_file(self.folder / SETTINGS["PIERHEAD_PRIVATE_REGISTRY"], text.encode())
        for number, line in enumerate(registries_yaml(dead, registry, ca_file, "***").splitlines(), start=1):
            click.echo(click.style(f"  {number:>2}  ", dim=True) + line)

    def run(self, *arguments: str) -> None:
        """Run one command of ours, its output as it comes; a command that fails ends the demo with its exit code."""
        click.secho(f"\n$ {shlex.join(['pierhead', *arguments])}", bold=True)
        sys.stdout.flush()
        try:
            done = subprocess.run(
                [*program(), *arguments],
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,  # the story is one text, in the order in which it happened
                timeout=STEP_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"`pierhead {arguments[0]}` did not end within {STEP_SECONDS:.0f} seconds") from error
        if done.returncode:
            click.echo(f"the demo stops: this command ended with {done.returncode}", err=True)
            raise click.exceptions.Exit(done.returncode)


def _say(text: str) -> None:
    click.secho(f"\n{text}", fg="cyan")


def introduce(stage: Stage, registry: Running, images: Mapping[str, Image]) -> None:
    """The scene: what there is before the first command."""
    click.echo(f"In {stage.folder} there is now a private registry, {registry.url},")
    click.echo("which wants a password, has a certificate of a CA of its own, and holds:\n")
    width = max(map(len, images))
    for name, image in images.items():
        click.echo(f"  {name:<{width}}   {image.top.descriptor.digest}")
    _say("And this registries.yaml (the password is left out here). Its first endpoint is down.")


def tell(stage: Stage) -> None:
    """The steps."""
    click.secho(f"\n$ cd {stage.folder}", bold=True)
    click.secho(f"$ export {' '.join(f'{name}={value}' for name, value in SETTINGS.items())}", bold=True)
    _say("1. Where would the image come from? Nothing is asked of any network.")
    stage.run("explain", IMAGE)
    _say("2. Pull it, as K3s would. The first endpoint refuses; the next one has it, under the rewritten name.")
    stage.run("pull", IMAGE)
    _say("3. It is stored under the name that pods ask for.")
    stage.run("images", "--digests")
    _say("4. Hash every byte of it again.")
    stage.run("verify")
    _say("5. Pull it again: nothing is fetched that is there. Another image brings only what they do not share.")
    stage.run("pull", IMAGE, "rancher/local-path-provisioner:v0.0.11")


def conclude(more: Sequence[tuple[str, str]]) -> None:
    """What was proved, and what to try."""
    _say("What you saw, over real sockets and with the installed command:")
    click.echo(
        "  - an endpoint that is down cost one refused connection, and is named in the output;\n"
        "  - mirror, rewrite, CA and password came from registries.yaml, each with its line;\n"
        "  - the image kept its name, and every byte has the digest it should have."
    )
    _say("What to try next:")
    width = max(len(command) for command, _ in more)
    for command, about in more:
        click.echo(f"  {command:<{width}}   {about}")
