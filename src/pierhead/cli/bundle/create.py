"""`pierhead bundle create`: `save` as one plain tar that can be used as it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pierhead.cli.save import STDOUT, save


@click.command()
def create(**flags: Any) -> int:
    """Write images into a bundle: a plain tar, so that all of it can be read where it lies.

    This is `pierhead save --format k3s-airgap --compress none`, with its options: what is not in the store is pulled
    into it first, by registries.yaml. FILE must end in .tar, or K3s would not import it.
    """
    from pierhead.loading.airgap import require_bundle_name

    if flags["file"] != STDOUT:
        require_bundle_name(Path(flags["file"]))
    assert save.callback is not None
    code: int = save.callback(format="k3s-airgap", compress="none", **flags)
    return code


# Whom a bundle is for is not known where it is made, and its images keep the digests that they have everywhere.
_PLATFORMS = click.Option(
    ["--platform", "platforms"],
    multiple=True,
    default=("all",),
    metavar="OS/ARCH[/VARIANT]",
    help="The platform to take out of an index; repeatable. Default: `all`.",
)
_OTHERWISE = {"format": None, "compress": None, "platforms": _PLATFORMS}
create.params += filter(None, (_OTHERWISE.get(str(option.name), option) for option in save.params))
