"""What of an image is in an archive: all of it, or whole platforms of it, as K3s' and docker's tarballs may have it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from pierhead.errors import PierheadError
from pierhead.oci import Descriptor, Index, Platform, parse_manifest
from pierhead.store import NotFound, Source, cut_short
from pierhead.tree import Tree, read_tree


@dataclass(frozen=True, slots=True)
class Present:
    """An image as far as an archive has it. `absent` are platforms that its index names and that are not whole."""

    tree: Tree
    platforms: tuple[Platform, ...] = ()
    absent: tuple[Platform, ...] = ()

    @property
    def is_whole(self) -> bool:
        return not self.tree.sparse


class Incomplete(NotFound):
    """An archive has an image of which no platform is whole."""


def present(content: Source, top: Descriptor) -> Present:
    """What is there of the image `top`: all of it, else those platforms of its index that are whole.

    As containerd's import with WithSkipMissing, which is how K3s imports; but an image of which nothing is whole is an
    error here (`Incomplete`), for it could never run. Also raises what reading a manifest raises.
    """
    try:
        return Present(whole(content, top))
    except NotFound as error:
        missing = error
    manifest = _index(content, top)
    platforms = tuple(dict.fromkeys(_platforms(manifest))) if manifest else ()
    there = tuple(platform for platform in platforms if _has(content, top, platform))
    if not there:
        raise Incomplete(
            f"the archive does not have all of it: {missing}", hint="make the archive again, for the platforms you need"
        )
    absent = tuple(platform for platform in platforms if platform not in there)
    return Present(whole(content, top, there), there, absent)


def whole(content: Source, top: Descriptor, platforms: tuple[Platform, ...] = ()) -> Tree:
    """The tree of these platforms, every blob of which is there in the size it should have."""
    tree = read_tree(content.manifest, top, platforms)
    for descriptor in tree.blobs.values():
        blob = content.blob(descriptor)
        blob.close()
        if blob.size_bytes not in (None, descriptor.size_bytes):
            raise cut_short(descriptor, blob.size_bytes or 0)
    return tree


def _has(content: Source, top: Descriptor, platform: Platform) -> bool:
    with suppress(NotFound):
        whole(content, top, (platform,))
        return True
    return False


def _index(content: Source, top: Descriptor) -> Index | None:
    with suppress(PierheadError):
        manifest = parse_manifest(content.manifest(top), top.media_type)
        return manifest if isinstance(manifest, Index) else None
    return None


def _platforms(index: Index) -> list[Platform]:
    """What the items are for; an attestation is for nothing."""
    return [item.platform for item in index.manifests if item.platform and not item.platform.is_unknown]
