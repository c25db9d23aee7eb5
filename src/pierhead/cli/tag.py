"""`pierhead tag`: another name for an image of the store."""

from __future__ import annotations

from pathlib import Path

import click

from pierhead.cli import options, write_json


@click.command()
@click.argument("source")
@click.argument("new")
@options.root
@options.OUTPUT
def tag(source: str, new: str, root: Path, output: str) -> None:
    """Give an image of the store another name.

    NEW names what SOURCE names now; no bytes are moved. If NEW was there it is replaced. With the other registry in its
    name an image is ready for `pierhead push`.
    """
    from pierhead.cli.copying.places import registry_place
    from pierhead.cli.copying.stored import digest_of, find, repository_of
    from pierhead.layout import LayoutStore
    from pierhead.transfer import Transfer

    place, store = registry_place(new), LayoutStore(root)
    found = find(store, registry_place(source).reference)
    place.require(found.descriptor)
    target = repository_of(store, place.reference)
    before = digest_of(target, place.name)
    with store.lease(), Transfer(1, on_cancel=(store.interrupt,)) as transfer:
        origin = store.repository(found.repository)
        transfer.copy(origin, target, found.reference, found.platforms, names=[place.name])
    store.publish_index()
    digest = found.descriptor.digest
    if output == "json":
        previous = str(before) if before else None
        write_json({"reference": str(place), "digest": str(digest), "previous_digest": previous})
        return
    click.echo(f"{place}  {digest}" + (f"  was {before}" if before not in (None, digest) else ""))
