"""Sources that mean something else by a name: one platform of an image as an image of its own, above all.

What is copied for a single platform is that platform's manifest under the name, as crane does it, and not an index
with holes, which most registries refuse. For several platforms out of more it can only be the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pierhead.body import Blob
from pierhead.oci import INDEX_DEPTH_LIMIT, MANIFEST_TYPES, Descriptor, Index, InvalidManifest, Platform, parse_manifest
from pierhead.store import Source


def chosen(source: Source, platforms: Sequence[Platform]) -> tuple[Source, tuple[Platform, ...]]:
    """What to copy from, and for which platforms, so that one platform is one image.

    A name may then resolve to another digest than the source has for it: who copies by digest says what the copy is
    called (`names` of `Transfer.copy`).
    """
    if len(platforms) != 1:
        return source, tuple(platforms)
    return OnePlatform(source, platforms[0]), ()


@dataclass(frozen=True, slots=True)
class OnePlatform:
    """A source in which every name stands for its image of one platform (`store.Source`)."""

    source: Source
    platform: Platform

    def resolve(self, reference: str) -> Descriptor:
        """The image of the platform; an image that has no choice is itself. Raises `NoMatchingPlatform` too."""
        return image_for(self.source, self.source.resolve(reference), self.platform)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.source.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return self.source.blob(descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return self.source.reject(descriptor)


def image_for(source: Source, descriptor: Descriptor, platform: Platform) -> Descriptor:
    """The image of a platform at or below `descriptor`; one that has no choice is itself.

    Raises `NoMatchingPlatform`, `InvalidManifest`, and what the source raises.
    """
    for _ in range(INDEX_DEPTH_LIMIT + 1):
        if descriptor.media_type in MANIFEST_TYPES:
            return descriptor
        manifest = parse_manifest(source.manifest(descriptor), descriptor.media_type)
        if not isinstance(manifest, Index):
            return Descriptor(manifest.media_type, descriptor.digest, descriptor.size_bytes)
        item = manifest.select(platform)
        descriptor = Descriptor(item.media_type, item.digest, item.size_bytes)
    raise InvalidManifest(f"an index that is nested more than {INDEX_DEPTH_LIMIT} deep")


@dataclass(frozen=True, slots=True)
class Known:
    """A source in which every name stands for what was looked up before (`store.Source`)."""

    source: Source
    top: Descriptor

    def resolve(self, reference: str) -> Descriptor:
        return Descriptor(self.top.media_type, self.top.digest, self.top.size_bytes)  # whatever a list says besides

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.source.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return self.source.blob(descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return self.source.reject(descriptor)
