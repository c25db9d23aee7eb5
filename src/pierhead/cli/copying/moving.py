"""One image from the opened end of a copy into the other, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pierhead.chosen import Known, chosen
from pierhead.cli.copying.ends import Origin, Reach, open_registry
from pierhead.cli.copying.places import FilePlace, Place, RegistryPlace, refuse_cut_path
from pierhead.errors import UsageError
from pierhead.oci import Descriptor, Platform
from pierhead.reference import Digest
from pierhead.store import ContentMismatch, NotFound, Sink, Source
from pierhead.transfer import Copied
from pierhead.tree import Tree, read_tree

if TYPE_CHECKING:
    from pierhead.archive import LayoutFolder
    from pierhead.cli.world import World
    from pierhead.push import RemoteSink
    from pierhead.referrers import CopiedReferrers, ReadReferrers

ArchiveKind = Literal["oci-archive", "docker-archive"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of an image is to be copied; `platforms` None: what there is of it, () all of it."""

    platforms: Sequence[Platform] | None = None
    referrers: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """An image that is at its destination now.

    `before` is what was there under the name. `partly` are the platforms of it that the source has, if it has not all
    and nobody chose.
    """

    copied: Copied
    before: Digest | None = None
    partly: tuple[Platform, ...] = ()
    referrers: CopiedReferrers | None = None


def move(origin: Origin, target: Place, wanted: Wanted, world: World, reach: Reach) -> Moved:
    """Copy an image to a place, which `world` says how to reach.

    Raises what reading and writing raise, and `OtherDigest` before anything is written.
    """
    if not isinstance(target, RegistryPlace):
        _refuse_unwritable(target, wanted)
    asked = origin.platforms if wanted.platforms is None else wanted.platforms
    source, platforms = chosen(origin.source, asked)
    top = source.resolve(origin.name)
    partly = origin.platforms if wanted.platforms is None else ()
    copying = _Copying(origin, Known(source, top), top, tuple(platforms), partly, wanted.referrers, reach)
    if isinstance(target, RegistryPlace):
        target.require(top)
        return copying.to_registry(target, world)
    return copying.to_layout(target) if target.kind == "oci" else copying.to_archive(target, target.kind)


def _refuse_unwritable(target: FilePlace, wanted: Wanted) -> None:
    """Raises `UsageError` for what could not be written in the end, before anybody is asked for anything."""
    from pierhead.archive.writing import refuse_referrers

    refuse_cut_path(target)
    if target.kind == "oci":
        return
    if wanted.referrers:
        refuse_referrers(target.kind)
    if not target.path.parent.is_dir():
        raise UsageError(f"{target.path.parent} is no folder", hint="make it first")


@dataclass(frozen=True, slots=True)
class _Copying:
    """A copy under way: what the image's name means is known, and one platform of it is an image of its own."""

    origin: Origin
    source: Source
    top: Descriptor
    platforms: tuple[Platform, ...]
    partly: tuple[Platform, ...]
    wants_referrers: bool
    reach: Reach

    def to_registry(self, target: RegistryPlace, world: World) -> Moved:
        sink = open_registry(target, world, self.reach)
        before = _pointed_to(sink, target.name)
        names = [target.tag] if target.tag and before != self.top.digest else []
        copied, referrers = self._into(sink, names, lambda tree: _tell_neighbours(self.origin, sink, tree))
        return Moved(copied, before, self.partly, referrers)

    def to_layout(self, target: FilePlace) -> Moved:
        """Under the name that was given, else the one that it has."""
        from pierhead.archive import LayoutFolder

        folder = LayoutFolder(target.path)
        name = target.name or self.origin.called or str(self.top.digest)
        before = _pointed_to(folder, name)
        copied, referrers = self._into(folder, [name])
        for referrer, came in referrers.copied if referrers else ():
            # As ORAS: what refers to something is found in a layout by being listed in its index.json.
            folder.tag(referrer.tag or str(came.descriptor.digest), came.descriptor)
        return Moved(copied, before, self.partly, referrers)

    def to_archive(self, target: FilePlace, format: ArchiveKind) -> Moved:
        """The file is there when it is whole, in place of what was there."""
        from pierhead.archive.writing import Packed, write_archive
        from pierhead.files import whole_file

        tree = read_tree(self.source.manifest, self.top, self.platforms)
        name, content = target.name or _name_for(format, self.origin), self.reach.transfer.watched(self.source)
        found = self._read_referrers(tree)
        beside = tuple(Packed(referrer.tag, content, below) for referrer, below in found.trees) if found else ()
        while True:
            try:
                with whole_file(target.path) as write:
                    write_archive([Packed(name, content, tree, beside)], write, format)
                break
            except ContentMismatch as error:  # a tar cannot go back: it begins anew, with what another place has
                if error.descriptor is None or not self.source.reject(error.descriptor):
                    raise
        return Moved(_written(tree), partly=self.partly, referrers=found.copied(_written) if found else None)

    def _read_referrers(self, tree: Tree) -> ReadReferrers | None:
        if not self.wants_referrers:
            return None
        from pierhead.referrers import read_referrers

        return read_referrers(self.origin.source, tree.manifests)

    def _into(
        self, sink: Sink, names: Sequence[str], on_tree: Callable[[Tree], object] | None = None
    ) -> tuple[Copied, CopiedReferrers | None]:
        """The image, and then what refers to it if that is wanted."""
        trees: list[Tree] = []

        def take(tree: Tree) -> None:
            trees.append(tree)
            if on_tree is not None:
                on_tree(tree)

        copy = self.reach.transfer.copy
        copied = copy(self.source, sink, self.origin.name, self.platforms, names=names, on_tree=take)
        from pierhead.referrers import copy_referrers, list_subjects

        list_subjects(sink, trees[0])
        if not self.wants_referrers:
            return copied, None
        return copied, copy_referrers(self.reach.transfer, self.origin.source, sink, trees[0].manifests)


def _written(tree: Tree) -> Copied:
    """All of it went into a file."""
    return Copied(tree.top, tuple(tree.platforms), tree.size_bytes, 0, tree.size_bytes)


def _pointed_to(sink: RemoteSink | LayoutFolder, name: str) -> Digest | None:
    """What a name points to at the destination, before it is written."""
    try:
        return sink.resolve(name).digest
    except NotFound:
        return None


def _tell_neighbours(origin: Origin, sink: RemoteSink, tree: Tree) -> None:
    """If the image comes out of another repository of the same registry, its blobs can be mounted from there."""
    resolved = origin.remote.resolved if origin.remote else None
    here = sink.place.route
    if resolved and (resolved.route.host, resolved.route.path) == (here.host, here.path):
        for digest in tree.blobs:
            sink.place.registry.found(digest, replace(sink.place, route=resolved.route).repository)


def _name_for(kind: ArchiveKind, origin: Origin) -> str:
    """The name that the image has, if that kind of archive has room for it: docker's has names, and no tags alone."""
    from pierhead.archive.named import parse_full

    return origin.called if kind == "oci-archive" or parse_full(origin.called) else ""
