"""Where the images of an archive go: a store, or a containerd (`loading.Target`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pierhead.archive.present import whole
from pierhead.archive.writing import Packed, write_archive
from pierhead.errors import PierheadError
from pierhead.loading import Arrived, Item, Outcome
from pierhead.oci import Platform
from pierhead.referrers import beside, copy_found
from pierhead.store import ContentMismatch, RepositoryName, Source, Store
from pierhead.transfer import Interrupted, Transfer, each

if TYPE_CHECKING:
    from pierhead.loading.containerd import Containerd
    from pierhead.reference import Digest
    from pierhead.tree import Tree

Failed = dict[Item, PierheadError]


class IntoStore:
    """Into repositories named as the images' own, with what refers to them; each blob is hashed, and there once."""

    def __init__(self, store: Store, transfer: Transfer, *, at_once: int = 4) -> None:
        self._store = store
        self._transfer = transfer
        self._at_once = at_once

    def take(self, content: Source, items: Sequence[Item]) -> list[Outcome]:
        with self._store.lease():
            return each(items, partial(self._take, content), at_once=self._at_once, stop=self._transfer.cancel)

    def _take(self, content: Source, item: Item) -> Outcome:
        reference = item.reference
        try:
            sink = self._store.repository(RepositoryName.of(reference))
            digest, names = str(item.descriptor.digest), (reference.object,)
            copied = self._transfer.copy(content, sink, digest, item.present.platforms, names=names)
            with beside(str(reference)):
                return Arrived(copied, copy_found(self._transfer, content, sink, item.referrers))
        except Interrupted:
            raise
        except PierheadError as error:
            return error


# ── into a containerd ────────────────────────────────────────────────────────────────────────────────────────────


class NotThere(PierheadError):
    """containerd took an archive and does not have what was in it."""

    def __init__(self, name: str, wanted: Digest, found: str) -> None:
        has = f"has {found} under this name" if found else "does not have it"
        super().__init__(
            f"containerd took {name} and {has}, not {wanted}",
            hint="did somebody else change it? run it again, and look into containerd's log",
        )


class IntoContainerd:
    """Into a containerd, in one stream for each archive; with `pin` labelled and named as K3s does with its own.

    What refers to an image stays out: a node runs images, and has no use for it.
    """

    def __init__(self, containerd: Containerd, *, pin: bool = False) -> None:
        self._containerd = containerd
        self._pin = pin

    def take(self, content: Source, items: Sequence[Item]) -> list[Outcome]:
        failed: Failed = {}
        trees = {item: item.present.tree for item in items}
        for item in items:
            if not item.present.is_whole:
                with _noting(failed, [item]):
                    trees[item] = whole(content, item.descriptor, (Platform.here(),))
        for all_platforms in (True, False):
            # containerd asked for all platforms of an index wants every one of them, so that those go apart.
            group = [item for item in items if item.present.is_whole == all_platforms and item not in failed]
            self._feed(content, group, trees, failed)
        with _noting(failed, [item for item in items if item not in failed]):
            self._check([item for item in items if item not in failed], failed)
        if self._pin:
            self._label([item for item in items if item not in failed], trees, failed)
        return [failed.get(item) or Arrived() for item in items]

    def _feed(self, content: Source, items: Sequence[Item], trees: dict[Item, Tree], failed: Failed) -> None:
        """Import these; where bytes turn out to be wrong on the way, again without the images they belong to."""
        pending = list(items)
        while pending:
            packed = [Packed(str(item.reference), content, trees[item]) for item in pending]
            try:
                # Not as K3s' own archives, which have no place for an image without a tag.
                write = partial(write_archive, packed, format="oci-archive")
                self._containerd.feed(write, all_platforms=pending[0].present.is_whole)
                return
            except Interrupted:
                raise
            except PierheadError as error:
                wrong = error.descriptor if isinstance(error, ContentMismatch) else None
                bad = [item for item in pending if wrong and wrong.digest in trees[item].blobs] or pending
                failed.update(dict.fromkeys(bad, error))
                pending = [item for item in pending if item not in failed]

    def _check(self, items: Sequence[Item], failed: Failed) -> None:
        there = self._containerd.images() if items else {}
        for item in items:
            name, wanted = str(item.reference), item.descriptor.digest
            if (found := there.get(name, "")) != str(wanted):
                failed[item] = NotThere(name, wanted, found)

    def _label(self, items: Sequence[Item], trees: dict[Item, Tree], failed: Failed) -> None:
        """As K3s: pinned, named by digest as well, and all content labelled with where it comes from."""
        sources: dict[tuple[Digest, str], dict[str, Item]] = {}
        for item in items:
            reference, tree = item.reference, trees[item]
            with _noting(failed, [item]):
                self._containerd.pin(str(reference))
                if reference.tag:
                    self._containerd.add_name(str(reference), f"{reference.name}@{item.descriptor.digest}")
            for digest in (*tree.manifests, *tree.blobs):
                sources.setdefault((digest, reference.registry), {})[reference.repository] = item
        for (digest, registry), repositories in sources.items():
            with _noting(failed, list(repositories.values())):
                self._containerd.note_source(str(digest), registry, repositories)


@contextmanager
def _noting(failed: Failed, items: Sequence[Item]) -> Iterator[None]:
    """What goes wrong inside is what became of these images."""
    try:
        yield
    except Interrupted:
        raise
    except PierheadError as error:
        failed.update(dict.fromkeys(items, error))
