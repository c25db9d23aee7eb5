"""`pierhead demo`: the whole story on loopback, in seconds."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pierhead.cli.demo.registry import Running

ON_A_NODE = (
    ("pierhead explain IMAGE", "on a K3s or RKE2 node: reads its registries.yaml, asks nobody"),
    ("pierhead pull IMAGE --trace -", "every request of a pull, as lines of JSON"),
    ("pierhead serve --help", "a registry for your own images"),
)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the files and the registry for exploring, and say how to end it.")
def demo(keep: bool) -> None:
    """Show the whole story on this machine, in seconds.

    In a temporary folder, on free ports of the loopback interface: a private registry with TLS and a password, a
    registries.yaml whose first endpoint is down, and the commands that explain it, pull by it and check what came.
    Nothing else is touched, and no network is needed.
    """
    from pierhead.cli.demo.images import demo_images
    from pierhead.cli.demo.registry import HOST, MIRRORED, push, running_registry
    from pierhead.cli.demo.story import Stage, conclude, introduce, tell
    from pierhead.server.http.refusing import refusing_port

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    images = {MIRRORED + name: image for name, image in demo_images().items()}
    with (
        _folder(keep=keep) as folder,
        refusing_port(HOST) as (dead_port, held),
        running_registry(folder, (stage := Stage.of(folder)).environment, held=held, keep=keep) as registry,
    ):
        push(images, registry, folder / "ca.pem")
        introduce(stage, registry, images)
        stage.write_configuration(f"{HOST}:{dead_port}", registry)
        tell(stage)
        conclude(ON_A_NODE if keep else (*ON_A_NODE, ("pierhead demo --keep", "leaves all this for exploring")))
        if keep:
            _say_what_is_left(folder, registry)


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    """A folder that only we can read; gone at the end, unless it is to be kept and all went well."""
    folder = Path(tempfile.mkdtemp(prefix="pierhead-demo-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder)
        raise
    if not keep:
        shutil.rmtree(folder)


def _say_what_is_left(folder: Path, registry: Running) -> None:
    user = registry.credential.username
    click.secho("\nKept for exploring:", fg="cyan")
    click.echo(f"  {folder} (registries.yaml holds the password of {user!r}; registry.log tells who asked for what)")
    click.echo(f"  {registry.url} (process {registry.process_id})")
    click.echo(f"  curl --cacert {folder}/ca.pem --user {user} {registry.url}/v2/_catalog")
    click.secho("\nTo end it:", fg="cyan")
    click.echo(f"  kill {registry.process_id}; sleep 1; rm -r {folder}")
