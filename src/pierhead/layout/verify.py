"""What is missing or wrong in a layout: every blob hashed again, every name followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pierhead.errors import PierheadError
from pierhead.layout.disk import listing
from pierhead.layout.published import foreign_entries
from pierhead.oci import Descriptor, ImageManifest, Index, Manifest, NoMatchingPlatform, Platform, parse_manifest
from pierhead.reference import Digest
from pierhead.store import StoreDamaged

if TYPE_CHECKING:
    from pierhead.layout import LayoutStore
    from pierhead.layout.ingest import Pool

READ_BYTES: Final = 1024 * 1024

Kind = Literal["corrupt", "lost", "unselected", "damaged", "foreign"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What `verify` found.

    corrupt
        stored bytes are not what their digest says.
    lost
        a name needs content that is not there.
    unselected
        an image of an index is not there because its platform was not chosen: nothing is wrong.
    damaged
        a name, link or index file that cannot be read.
    foreign
        a file that has no business where it is: nothing is wrong with the images.

    `names` are the names that suffer from it.
    """

    kind: Kind
    message: str
    digest: Digest | None = None
    path: Path | None = None
    names: tuple[str, ...] = ()

    @property
    def is_error(self) -> bool:
        return self.kind in ("corrupt", "lost", "damaged")


def verify(store: LayoutStore) -> Iterator[Finding]:
    """Hash every blob again and follow every name: first the files that are wrong, then what the names lack.

    May run beside anything else; what is removed meanwhile is no finding.
    """
    yield from _foreign_files(store)
    corrupt = {digest: path for digest, path in store.pool.files() if not _is_sound(digest, path)}
    found = list(_names(store, set(corrupt)))
    for digest, path in corrupt.items():
        names = tuple(sorted({name for item in found if item.digest == digest for name in item.names}))
        message = f"{path} does not hold what its name says; remove it and pull or push it again"
        yield Finding("corrupt", message, digest, path, names)
    yield from (item for item in found if item.digest not in corrupt)


def _foreign_files(store: LayoutStore) -> Iterator[Finding]:
    ours = {path for _, path in store.pool.files()}
    for algorithm in listing(store.path / "blobs"):
        for path in listing(algorithm) if algorithm.is_dir() else [algorithm]:
            if path not in ours and path.exists():
                yield Finding("foreign", f"{path} is not named by a digest", path=path)


def _is_sound(digest: Digest, path: Path) -> bool:
    hashed = digest.new_hash()
    buffer = memoryview(bytearray(READ_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                hashed.update(buffer[:count])
    except FileNotFoundError:
        return True  # collected a moment ago
    except OSError:
        return False  # the disk cannot read it, or it is no file
    return hashed.hexdigest() == digest.hex


def _names(store: LayoutStore, corrupt: set[Digest]) -> Iterator[Finding]:
    for name in store.names_or_damage():
        if isinstance(name, StoreDamaged):
            yield Finding("damaged", name.message, path=name.path)
            continue
        walk = _Walk(store.pool, store.repository(name.repository).holds, corrupt)
        yield from (replace(item, names=(str(name),)) for item in walk.follow(name.descriptor, name.platforms))
    yield from _foreign_names(store, corrupt)


def _foreign_names(store: LayoutStore, corrupt: set[Digest]) -> Iterator[Finding]:
    walk = _Walk(store.pool, store.pool.holds, corrupt)
    try:
        entries = foreign_entries(store)
    except StoreDamaged as error:
        yield Finding("damaged", error.message, path=error.path)
        return
    for name, descriptor in entries:
        named = (name or f"(unnamed) {descriptor.digest}",)
        yield from (replace(item, names=named) for item in walk.follow(descriptor, ()))


@dataclass(frozen=True, slots=True)
class _Walk:
    """Follows a name through indexes and manifests to what it lacks."""

    pool: Pool
    holds: Callable[[Descriptor], bool]
    corrupt: set[Digest]

    def follow(self, descriptor: Descriptor, platforms: tuple[Platform, ...]) -> Iterator[Finding]:
        digest = descriptor.digest
        if digest in self.corrupt:
            yield Finding("corrupt", "", digest)
        elif not self.holds(descriptor):
            if not descriptor.urls:
                yield Finding(
                    "lost", f"{digest} ({descriptor.media_type}) is not in the store; pull or push it", digest
                )
        elif descriptor.is_manifest:
            yield from self._into(descriptor, platforms)

    def _into(self, descriptor: Descriptor, platforms: tuple[Platform, ...]) -> Iterator[Finding]:
        try:
            manifest = parse_manifest(self.pool.read_manifest(descriptor.digest), descriptor.media_type)
        except PierheadError as error:
            yield Finding("damaged", f"{descriptor.digest} cannot be read: {error.message}", descriptor.digest)
            return
        for item in manifest.references:
            if _is_chosen(manifest, item, platforms):
                yield from self.follow(item, platforms)
            elif not self.holds(item):
                yield Finding("unselected", f"{item.platform or item.digest} was not chosen", item.digest)


def _is_chosen(manifest: Manifest, item: Descriptor, platforms: tuple[Platform, ...]) -> bool:
    if isinstance(manifest, ImageManifest) or not platforms:
        return True
    return any(_selected(manifest, platform) == item.digest for platform in platforms)


def _selected(index: Index, platform: Platform) -> Digest | None:
    try:
        return index.select(platform).digest
    except NoMatchingPlatform:
        return None
