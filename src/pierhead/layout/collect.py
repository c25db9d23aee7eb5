"""What can go: `gc` and `forget` over a layout.

What is kept, and why:

- everything that a name reaches, and every entry of `index.json` that another program put there;
- in repositories that were pushed to (no registry in their name), every manifest, tagged or not, unless `untagged`
  is asked for; what was pulled is kept by its names alone;
- the referrers (signatures, attestations) of every manifest that is kept;
- whatever was linked or relied upon lately: since the oldest lease that is held, or within the grace time. That is
  what a pull or push under way has put together before its manifest is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pierhead.errors import PierheadError
from pierhead.layout.disk import is_held, listing, try_lock, unwritable
from pierhead.layout.ingest import Pool
from pierhead.layout.published import foreign_entries
from pierhead.oci import Descriptor, Manifest, parse_manifest
from pierhead.reference import Digest
from pierhead.store import NotFound

if TYPE_CHECKING:
    from pierhead.layout import LayoutRepository, LayoutStore

PARTIAL_GRACES: Final = 24  # an interrupted download is worth going on with for a day, where an hour is the grace


@dataclass(frozen=True, slots=True)
class Report:
    """What a collection removed, or would remove: content, abandoned partial files, and links in repositories."""

    dry_run: bool
    blobs: tuple[tuple[Digest, int], ...] = ()
    partials: tuple[tuple[Path, int], ...] = ()
    links: int = 0
    kept_blobs: int = 0
    kept_bytes: int = 0

    @property
    def freed_bytes(self) -> int:
        return sum(size for _, size in self.blobs) + sum(size for _, size in self.partials)


def gc(store: LayoutStore, *, dry_run: bool, untagged: bool, grace_seconds: float) -> Report:
    """Remove what nothing keeps; safe beside anything that runs. Raises `StoreDamaged` rather than to guess."""
    with store.root.collecting():
        leased_since = store.root.leased_since()
        spared_since = min(leased_since, time.time() - grace_seconds)
        keep = _Closure(store.pool)
        keep.reach(descriptor for _, descriptor in foreign_entries(store))
        stale: list[Path] = []
        for name in store.walk():
            stale += _stale_links(store.repository(name), keep, untagged=untagged, since=spared_since)
        blobs = list(_unneeded(store.pool, keep.reached, leased_since))
        partials = list(_abandoned(store, PARTIAL_GRACES * grace_seconds))
        report = _report(store, dry_run, blobs, partials, len(stale))
        if not dry_run:
            _remove(store, [*stale, *(path for path, _ in blobs), *(path for path, _ in partials)])
        return report


def _stale_links(repository: LayoutRepository, keep: _Closure, *, untagged: bool, since: float) -> list[Path]:
    """The links of a repository that nothing keeps; what the others need is added to `keep`."""
    links = list(repository.links())
    here = _Closure(keep.pool)
    here.reach(name.descriptor for name in repository.names())
    keeps_all = not untagged and not repository.name.namespace
    roots = [
        digest
        for digest, path in links
        if path.stat().st_mtime >= since or (keeps_all and path.parent.parent.name == "_manifests")
    ]
    here.reach(_visible(repository, roots))
    here.reach_referrers(repository)
    keep.reached |= here.reached
    stale = [path for digest, path in links if digest not in here.reached]
    return stale + [path for digest, path in _referrer_links(repository) if digest not in here.reached]


def _visible(repository: LayoutRepository, digests: Iterable[Digest]) -> Iterator[Descriptor]:
    for digest in digests:
        try:
            yield repository.resolve(str(digest))
        except NotFound:
            yield Descriptor("", digest, 0)


def _referrer_links(repository: LayoutRepository) -> Iterator[tuple[Digest, Path]]:
    for subject in listing(repository.path / "_referrers"):
        for path in listing(subject):
            with suppress(PierheadError):
                yield Digest.parse(path.name.replace("-", ":", 1)), path


class _Closure:
    """The digests of some descriptors and of everything they need, as far as it is in the pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.reached: set[Digest] = set()

    def reach(self, descriptors: Iterable[Descriptor]) -> None:
        waiting = list(descriptors)
        while waiting:
            descriptor = waiting.pop()
            if descriptor.digest in self.reached:
                continue
            self.reached.add(descriptor.digest)
            if descriptor.is_manifest and (manifest := _read(self.pool, descriptor)):
                waiting += manifest.references

    def reach_referrers(self, repository: LayoutRepository) -> None:
        """Also the referrers of what is reached, and theirs."""
        before = -1
        while before != len(self.reached):
            before = len(self.reached)
            for subject in list(self.reached):
                self.reach(repository.referrers(subject))


def _read(pool: Pool, descriptor: Descriptor) -> Manifest | None:
    # What cannot be read reaches nothing: its name is broken already, and only a new pull mends it.
    try:
        return parse_manifest(pool.read_manifest(descriptor.digest), descriptor.media_type)
    except PierheadError:
        return None


def _unneeded(pool: Pool, keep: set[Digest], leased_since: float) -> Iterator[tuple[Path, int]]:
    """Blobs that nothing keeps. One without a link may still be what a transfer is about to link: that renewed it."""
    for digest, path in pool.files():
        status = path.stat()
        if digest not in keep and status.st_mtime < leased_since:
            yield path, status.st_size


def _abandoned(store: LayoutStore, age_seconds: float) -> Iterator[tuple[Path, int]]:
    """Partial files that nobody writes and that are so old, and what crashed processes left in tmp/ and leases/."""
    before = time.time() - age_seconds
    folders = [*listing(store.path / "ingest"), *(store.path / name for name in ("uploads", "tmp", "leases"))]
    for folder in folders:
        for path in listing(folder):
            with suppress(FileNotFoundError):
                status = path.stat()
                done = folder.parent.name == "ingest" and (store.path / "blobs" / folder.name / path.name).exists()
                if (done or folder.name == "leases" or status.st_mtime < before) and not is_held(path):
                    yield path, status.st_size


def _report(
    store: LayoutStore, dry_run: bool, blobs: list[tuple[Path, int]], partials: list[tuple[Path, int]], links: int
) -> Report:
    gone = {path for path, _ in blobs}
    kept = [path.stat().st_size for _, path in store.pool.files() if path not in gone]
    named = tuple((Digest(path.parent.name, path.name), size) for path, size in blobs)
    return Report(dry_run, named, tuple(partials), links, len(kept), sum(kept))


def _remove(store: LayoutStore, paths: list[Path]) -> None:
    for path in paths:
        with unwritable(path):
            _remove_unless_held(path)
    for folder, _, files in os.walk(store.path / "repositories", topdown=False):
        if files == ["_lock"]:  # whoever uses it holds the store's lock, too, so now nobody does
            Path(folder, "_lock").unlink()
        with suppress(OSError):  # not empty
            Path(folder).rmdir()


def _remove_unless_held(path: Path) -> None:
    """Remove a file while holding its lock, so that no writer finds itself in a file without a name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if try_lock(descriptor):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def forget(store: LayoutStore, repository: LayoutRepository, reference: str) -> None:
    """Remove a name, and the links of its repository that nothing else there needs.

    What a transfer under way relies upon stays. Raises `NotFound`.
    """
    with store.root.collecting():
        since = store.root.leased_since()
        removed = repository.remove_name(reference)
        gone, rest = _Closure(store.pool), _Closure(store.pool)
        gone.reach([removed.descriptor])
        gone.reach_referrers(repository)
        rest.reach(name.descriptor for name in repository.names())
        if not repository.name.namespace:
            others = (digest for digest, path in repository.links() if path.parent.parent.name == "_manifests")
            rest.reach(_visible(repository, set(others) - gone.reached))
        rest.reach_referrers(repository)
        for digest, path in list(repository.links()):
            if digest in gone.reached - rest.reached and path.stat().st_mtime < since:
                repository.unlink(digest)
        store.root.settle()
