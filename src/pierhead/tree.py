"""Everything that belongs to an image: its manifests, read from the top down, and the blobs they name.

Who copies an image, writes it into a tarball or counts its bytes reads this first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from pierhead.oci import (
    CONFIG_TYPES,
    INDEX_DEPTH_LIMIT,
    Descriptor,
    ImageManifest,
    Index,
    InvalidManifest,
    Manifest,
    Platform,
    parse_manifest,
)
from pierhead.reference import Digest, InvalidDigest

# All manifests of one image are in memory at once. A real index has a few dozen, of some kilobytes each.
MANIFESTS_LIMIT_BYTES: Final = 32 * 1024 * 1024

Read = Callable[[Descriptor], bytes]
"""The raw manifest (or configuration) of a descriptor, its digest checked."""


@dataclass(slots=True)
class Tree:
    """The manifests of an image, children before parents, and its blobs, each once.

    `platforms` are those of what was chosen out of indexes; `sparse`: not everything of an index was.
    """

    top: Descriptor
    manifests: dict[Digest, tuple[Descriptor, bytes]] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    platforms: dict[Platform, None] = field(default_factory=dict)
    sparse: bool = False
    raw_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """The bytes of everything in it."""
        items = [descriptor for descriptor, _ in self.manifests.values()] + list(self.blobs.values())
        return sum(descriptor.size_bytes for descriptor in items)

    def add(self, descriptor: Descriptor, raw: bytes) -> None:
        """Take a manifest in, after its children."""
        self.manifests[descriptor.digest] = (descriptor, raw)
        self.raw_bytes += len(raw)
        if self.raw_bytes > MANIFESTS_LIMIT_BYTES:
            raise InvalidManifest(f"manifests of more than {MANIFESTS_LIMIT_BYTES} bytes in one image")

    def note_platform(self, item: Descriptor) -> None:
        """Take note of what an index says an item of it is for."""
        if item.platform is not None and not item.platform.is_unknown:
            self.platforms[item.platform] = None


@dataclass(frozen=True, slots=True)
class Part:
    """One platform of an image: its own manifest, and the bytes of everything below that."""

    platform: Platform | None
    digest: Digest
    size_bytes: int


def parts(tree: Tree, config: Read | None = None) -> tuple[Part, ...]:
    """The platforms of a tree, in its order, attestations left out.

    An image that is no index is one part, for what its configuration says if `config` reads that for us;
    raises what that raises.
    """
    found = tuple(_parts(tree, tree.manifests[tree.top.digest][0]))
    return found or (Part(_configured(tree, config) if config else None, tree.top.digest, tree.size_bytes),)


def _configured(tree: Tree, config: Read) -> Platform | None:
    """What the configuration of the image says; that of an artifact is something else, and not looked at."""
    descriptor, raw = tree.manifests[tree.top.digest]
    manifest = parsed(raw, descriptor.media_type)
    if isinstance(manifest, Index) or manifest.config.media_type not in CONFIG_TYPES:
        return None
    with suppress(ValueError, RecursionError):  # no JSON
        return Platform.of_config(json.loads(config(manifest.config)))
    return None


def _parts(tree: Tree, top: Descriptor) -> Iterator[Part]:
    manifest = parsed(tree.manifests[top.digest][1], top.media_type)
    for item in manifest.references if isinstance(manifest, Index) else ():
        if item.digest not in tree.manifests:
            continue
        if item.platform is None:
            yield from _parts(tree, tree.manifests[item.digest][0])
        elif not item.platform.is_unknown:
            below = read_tree(lambda descriptor: tree.manifests[descriptor.digest][1], item)
            yield Part(item.platform, item.digest, below.size_bytes)


def read_tree(read: Read, top: Descriptor, platforms: Sequence[Platform] = ()) -> Tree:
    """The tree below `top`, of these platforms (none: all).

    Raises `InvalidManifest`, `NoMatchingPlatform`, and what `read` raises.
    """
    tree = Tree(top)
    _add(tree, read, top, platforms, depth=0)
    return tree


def _add(tree: Tree, read: Read, descriptor: Descriptor, platforms: Sequence[Platform], *, depth: int) -> None:
    if depth > INDEX_DEPTH_LIMIT:
        raise InvalidManifest(f"an index that is nested more than {INDEX_DEPTH_LIMIT} deep")
    if descriptor.digest in tree.manifests:
        return
    raw = read(descriptor)
    manifest = parsed(raw, descriptor.media_type)
    known = Descriptor(manifest.media_type, descriptor.digest, descriptor.size_bytes)
    for child in manifest.references if isinstance(manifest, ImageManifest) else _chosen(tree, manifest, platforms):
        if child.is_manifest and isinstance(manifest, Index):
            tree.note_platform(child)
            _add(tree, read, child, platforms, depth=depth + 1)
        else:
            tree.blobs[child.digest] = child
    # After its children, which may be below another one as well: so they are all put before it.
    tree.add(known, raw)


def _chosen(tree: Tree, index: Index, platforms: Sequence[Platform]) -> Sequence[Descriptor]:
    """The items of an index that belong to the platforms asked for."""
    if not platforms:
        return index.references
    chosen = {item.digest: item for item in map(index.select, platforms)}
    tree.sparse |= len(chosen) < len(index.references)
    return list(chosen.values())


def parsed(raw: bytes, media_type: str) -> Manifest:
    """A manifest that somebody else wrote; raises `InvalidManifest`."""
    try:
        return parse_manifest(raw, media_type)
    except InvalidDigest as error:  # whose exit code says that the call was wrong
        raise InvalidManifest(f"a manifest with a digest that is none: {error.message}") from error
