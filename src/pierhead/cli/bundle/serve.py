"""`pierhead bundle serve`: a registry over a bundle, which is not unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pierhead.cli import show_problem
from pierhead.cli.serve import config_of, listening, ready
from pierhead.errors import PierheadError


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@listening
def serve(file: Path, **flags: Any) -> None:
    """Be a registry of what is in a bundle, or in any other archive of images or folder of an OCI layout.

    Nothing is unpacked (unless FILE is compressed), and nothing can be pushed. containerd asks for docker.io/a/b as
    /v2/a/b/…?ns=docker.io and gets that image alone; who does not say whose a/b is meant gets it if there is only one.
    """
    from pierhead.archive import open_archive
    from pierhead.archive.store import ArchiveStore
    from pierhead.server.http import HttpServer
    from pierhead.server.registry import Registry

    with open_archive(file) as archive:
        store = ArchiveStore(archive)
        for problem in store.problems:
            show_problem(problem)
        if not store.repositories(limit=1):
            raise PierheadError(
                f"{file} has no image that can be served",
                hint="write it with `pierhead bundle create`, which gives every image its full name",
            )
        # Strict, because the images without ?ns= are the same ones: another registry's image would be given.
        registry = Registry(store, read_only=True, strict=True)
        HttpServer(registry.handle, config_of(store, flags, read_only=True)).run(ready)
