"""Images as one tar stream, written from front to end: what K3s, `docker load`, podman and skopeo take.

`k3s-airgap` is an OCI image layout (image-layout.md) whose `index.json` has every image's full name, with Docker's
`manifest.json` beside it, as `ctr images export` writes it (containerd, core/images/archive/exporter.go): what K3s
takes from /var/lib/rancher/k3s/agent/images. `oci-archive` is the same layout in the words of skopeo and podman.
`docker-archive` is what `docker save` wrote before it knew of OCI (Docker image specification v1.2, "Combined Image
JSON + Filesystem Changeset Format"); the layers stay compressed as they are, which every reader of it takes.

What refers to an image stands in `index.json` behind all images, and for docker there is none of it. In an oci-archive
it is as `LayoutFolder` lists it: without a name, or under the tag that cosign gives. containerd's import, which K3s
calls without a translator of names, makes an image of every entry that has either of the two annotations of a name, and
K3s gives up on a file with one whose name has no repository and tag (containerd, client/import.go: imageName; K3s,
pkg/agent/containerd: preloadFile, retagImages). So in a k3s-airgap the tag is in an annotation of our own.

The names come first, then what is small, then the layers: a reader knows what comes before it comes. The same images
give the same bytes: they are sorted, and no time, owner or mode is anybody's.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pierhead.archive.json_files import INDEX, LAYOUT_VERSION, MARKER, TAG_NAME
from pierhead.archive.named import parse_full
from pierhead.body import Buffer, Write
from pierhead.errors import UsageError
from pierhead.layout.hashing import BATCH_BYTES, RunningHash
from pierhead.layout.published import CONTAINERD_NAME, REF_NAME
from pierhead.oci import CONFIG_TYPES, OCI_INDEX, Descriptor, ImageManifest, Index, Platform, parse_manifest
from pierhead.reference import Digest, Reference
from pierhead.store import ContentMismatch, Source
from pierhead.tree import Tree

Format = Literal["k3s-airgap", "oci-archive", "docker-archive"]

DOCKER_MANIFEST: Final = "manifest.json"
FILE_MODE: Final = 0o644
FOLDER_MODE: Final = 0o755
END: Final = bytes(2 * tarfile.BLOCKSIZE)
# Of several platforms `docker load` gets this one, wherever the archive is written.
DOCKERS_CHOICE: Final = Platform("linux", "amd64")


@dataclass(frozen=True, slots=True)
class Packed:
    """An image to be written: its full name (may be empty), where it is, and what belongs to it (`tree.read_tree`).

    `referrers` are what refers to it; their names are the tags that cosign gives, or empty.
    """

    name: str
    source: Source
    tree: Tree
    referrers: tuple[Packed, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What a tar has come to: `blobs` and `blob_bytes` are the distinct configurations and layers in it."""

    size_bytes: int
    blobs: int
    blob_bytes: int


class Unwritable(UsageError):
    """An image that this format has no place for."""


def write_archive(images: Sequence[Packed], write: Write, format: Format) -> Written:
    """Write these images, each distinct blob once, its size and digest checked as it passes.

    Raises `Unwritable` before anything is written; `ContentMismatch` and what the sources raise in the middle, when
    what was written is worth nothing.
    """
    members = _MEMBERS[format](_sorted(images))
    tar = _Tar(write)
    for path, content in members.items():
        if content is None:
            tar.add_folder(path)
        elif isinstance(content, bytes):
            tar.add_file(path, content)
        else:
            tar.add_blob(path, content)
    tar.end()
    blobs = [content.descriptor.size_bytes for content in members.values() if isinstance(content, _Content)]
    return Written(tar.size_bytes, len(blobs), sum(blobs))


def _sorted(images: Iterable[Packed]) -> list[Packed]:
    """In the order of their names, each once."""
    found: dict[tuple[str, Digest | None], Packed] = {}
    for image in images:
        known = found.setdefault((image.name, None if image.name else image.tree.top.digest), image)
        if known.tree.top.digest != image.tree.top.digest:
            raise Unwritable(
                f"{image.name} stands for two images here", hint="give one of them another name, or write two files"
            )
    return sorted(found.values(), key=lambda image: (image.name, str(image.tree.top.digest)))


def _referrers(images: Iterable[Packed]) -> list[Packed]:
    """What refers to any of them, in order, each once."""
    return _sorted(referrer for image in images for referrer in image.referrers)


def refuse_referrers(format: Format) -> None:
    """Raises `Unwritable` if there is no place in this format for what refers to an image."""
    if format == "docker-archive":
        raise Unwritable(
            "a docker-archive holds images alone, and not what refers to them",
            hint="write it with --format oci-archive",
        )


# ── what stands in it ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Content:
    descriptor: Descriptor
    source: Source


# All members of a tar by their paths, in this order: files, blobs, and (None) folders.
_Members = dict[str, bytes | _Content | None]
_Blobs = dict[str, _Content]


def tag_for_k3s(name: str) -> str:
    """The tag that K3s needs (pkg/agent/containerd: parseNamedTagged); raises `Unwritable`."""
    tag = Reference.parse(name).tag if name else None
    if tag is None:
        raise Unwritable(
            f"{name or 'an image without a name'} has no tag, and K3s imports no such image",
            hint="name it with its tag, or write another --format",
        )
    return tag


def _k3s_airgap(images: Sequence[Packed]) -> _Members:
    def named(image: Packed) -> dict[str, str]:
        # As containerd: ociReferenceName.
        return {CONTAINERD_NAME: image.name, REF_NAME: tag_for_k3s(image.name)}

    index = _index(images, named, TAG_NAME)
    chosen = [(image, manifest) for image in images if (manifest := _dockers_choice(image.tree)) is not None]
    return _layout(images, {INDEX: index, DOCKER_MANIFEST: _docker_manifest(chosen, _blob_path, _blob_path)})


def _oci_archive(images: Sequence[Packed]) -> _Members:
    def named(image: Packed) -> dict[str, str]:
        full = {CONTAINERD_NAME: image.name} if parse_full(image.name) else {}  # a tag alone is no name to containerd
        return {**full, REF_NAME: image.name} if image.name else {}

    return _layout(images, {INDEX: _index(images, named, REF_NAME)})


def _layout(images: Sequence[Packed], files: Mapping[str, bytes]) -> _Members:
    """An OCI image layout: the manifests among the files, the configurations before the layers."""
    images = [*images, *_referrers(images)]
    items = [item for image in images for item in image.tree.manifests.values()]
    manifests = {_blob_path(descriptor): raw for descriptor, raw in items}
    blobs: _Blobs = {}
    for image in images:
        for manifest in _image_manifests(image.tree):
            _add(blobs, _blob_path(manifest.config), manifest.config, image.source)
    for image in images:
        for descriptor in image.tree.blobs.values():
            _add(blobs, _blob_path(descriptor), descriptor, image.source)
    blobs = {path: content for path, content in blobs.items() if path not in manifests}
    folders = {f"{path.rpartition('/')[0]}/" for path in (*manifests, *blobs)}
    marker = _json({"imageLayoutVersion": LAYOUT_VERSION})
    return {MARKER: marker, **files, "blobs/": None, **dict.fromkeys(sorted(folders)), **manifests, **blobs}


def _docker_archive(images: Sequence[Packed]) -> _Members:
    if any(image.referrers for image in images):
        refuse_referrers("docker-archive")
    chosen = [(image, _only(image)) for image in images]
    blobs: _Blobs = {}
    for image, manifest in chosen:
        _add(blobs, _config_path(manifest.config), manifest.config, image.source)
    for image, manifest in chosen:
        for layer in manifest.layers:
            _add(blobs, _layer_path(layer), layer, image.source)
    return {DOCKER_MANIFEST: _docker_manifest(chosen, _config_path, _layer_path), **blobs}


_MEMBERS: Final[Mapping[Format, Callable[[Sequence[Packed]], _Members]]] = {
    "k3s-airgap": _k3s_airgap,
    "oci-archive": _oci_archive,
    "docker-archive": _docker_archive,
}
FORMATS: Final = tuple(_MEMBERS)


def _add(blobs: _Blobs, path: str, descriptor: Descriptor, source: Source) -> None:
    known = blobs.setdefault(path, _Content(descriptor, source)).descriptor
    if known.size_bytes != descriptor.size_bytes:
        raise ContentMismatch(
            f"{descriptor.digest} has {known.size_bytes} bytes in one manifest, {descriptor.size_bytes} in another",
            hint="one of the two images is broken",
            descriptor=descriptor,
        )


def _blob_path(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.hex}"


def _config_path(descriptor: Descriptor) -> str:
    return f"{descriptor.digest.hex}.json"


def _layer_path(descriptor: Descriptor) -> str:
    # As containers/image and crane, whatever the layer is compressed with: readers look at its first bytes.
    return f"{descriptor.digest.hex}.tar"


def _index(images: Sequence[Packed], named: Callable[[Packed], Mapping[str, str]], tag_name: str) -> bytes:
    """The `index.json`: the images as `named`, then what refers to them, with its tag as the annotation `tag_name`."""
    manifests = [_entry(image, named(image)) for image in images]
    manifests += [
        _entry(referrer, {tag_name: referrer.name} if referrer.name else {}) for referrer in _referrers(images)
    ]
    return _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def _entry(image: Packed, said: Mapping[str, str]) -> dict[str, Any]:
    top = image.tree.manifests[image.tree.top.digest][0]
    return Descriptor(top.media_type, top.digest, top.size_bytes, annotations=said).to_json()


def _docker_manifest(
    chosen: Iterable[tuple[Packed, ImageManifest]],
    config_path: Callable[[Descriptor], str],
    layer_path: Callable[[Descriptor], str],
) -> bytes:
    """The `manifest.json`: an image that has several names is there once."""
    entries: dict[Digest, dict[str, Any]] = {}
    for image, manifest in chosen:
        layers = [layer_path(layer) for layer in manifest.layers]
        entry = {"Config": config_path(manifest.config), "RepoTags": None, "Layers": layers}
        entry = entries.setdefault(Digest.of(manifest.raw), entry)
        if image.name and Reference.parse(image.name).tag is not None:
            # The full name, as podman writes it: short ones it takes for those of localhost.
            entry["RepoTags"] = [*(entry["RepoTags"] or ()), image.name]
    return _json(list(entries.values()))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


# ── what an image is ─────────────────────────────────────────────────────────────────────────────────────────────


def _image_manifests(tree: Tree) -> Iterator[ImageManifest]:
    """Every manifest of it that is no index."""
    for descriptor, raw in tree.manifests.values():
        manifest = parse_manifest(raw, descriptor.media_type)
        if isinstance(manifest, ImageManifest):
            yield manifest


def _runnable(tree: Tree) -> list[tuple[Platform | None, ImageManifest]]:
    """What a container can be made of, in the order of the index: attestations and artifacts are left out."""
    found: dict[Digest, tuple[Platform | None, ImageManifest]] = {}

    def look(digest: Digest, platform: Platform | None) -> None:
        if digest not in tree.manifests:
            return
        descriptor, raw = tree.manifests[digest]
        manifest = parse_manifest(raw, descriptor.media_type)
        if isinstance(manifest, Index):
            for item in manifest.references:
                look(item.digest, item.platform)
        elif manifest.config.media_type in CONFIG_TYPES and not (platform and platform.is_unknown):
            found[digest] = (platform, manifest)

    look(tree.top.digest, None)
    return list(found.values())


def _dockers_choice(tree: Tree) -> ImageManifest | None:
    found = _runnable(tree)
    first = found[0][1] if found else None
    return next((manifest for platform, manifest in found if platform == DOCKERS_CHOICE), first)


def _only(image: Packed) -> ImageManifest:
    """The one image that a name of a docker-archive can stand for."""
    found = _runnable(image.tree)
    if len(found) == 1:
        return found[0][1]
    if not found:
        raise Unwritable(
            f"{image.name or image.tree.top.digest} is no container image, and docker-archive holds nothing else",
            hint="write it with --format oci-archive",
        )
    offered = ", ".join(str(platform or "one of no platform") for platform, _ in found)
    raise Unwritable(
        f"{image.name or image.tree.top.digest} is of several platforms, and docker-archive holds one for each name",
        hint=f"choose one with --platform: {offered}",
    )


# ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Tar:
    """A tar stream (POSIX.1-2001, pax headers only where ustar has no room)."""

    def __init__(self, write: Write) -> None:
        self._out = write
        self.size_bytes = 0

    def add_file(self, path: str, data: bytes) -> None:
        self._begin(path, len(data), tarfile.REGTYPE, FILE_MODE)
        self._write(data)
        self._pad(len(data))

    def add_folder(self, path: str) -> None:
        self._begin(path, 0, tarfile.DIRTYPE, FOLDER_MODE)

    def add_blob(self, path: str, content: _Content) -> None:
        """Raises `ContentMismatch`, and what reading it raises."""
        self._begin(path, content.descriptor.size_bytes, tarfile.REGTYPE, FILE_MODE)
        checked = _Checked(content.descriptor, self._write)
        try:
            blob = content.source.blob(content.descriptor)
            try:
                blob.copy_to(checked.write)
            finally:
                blob.close()
            checked.finish()
        finally:
            checked.abandon()
        self._pad(content.descriptor.size_bytes)

    def end(self) -> None:
        self._write(END)

    def _begin(self, path: str, size_bytes: int, kind: bytes, mode: int) -> None:
        member = tarfile.TarInfo(path)  # of owner 0 and time 0
        member.size, member.type, member.mode = size_bytes, kind, mode
        self._write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))

    def _pad(self, size_bytes: int) -> None:
        self._write(bytes(-size_bytes % tarfile.BLOCKSIZE))

    def _write(self, data: Buffer) -> None:
        self._out(data)
        self.size_bytes += len(data)


class _Checked:
    """The bytes of one blob on their way, hashed beside it; never more of them than its descriptor says."""

    def __init__(self, descriptor: Descriptor, write: Write) -> None:
        self._descriptor = descriptor
        self._write = write
        self._hash = RunningHash(descriptor.digest.new_hash())
        self._passed = 0

    def write(self, data: Buffer) -> None:
        self._passed += len(data)
        if self._passed > self._descriptor.size_bytes:
            self._refuse(f"more than {self._descriptor.size_bytes} bytes", None)
        view = memoryview(data)
        for start in range(0, len(view), BATCH_BYTES):  # small pieces: so many of them may wait for the hash
            self._hash.update(view[start : start + BATCH_BYTES])
        self._write(data)

    def finish(self) -> None:
        if self._passed != self._descriptor.size_bytes:
            self._refuse(f"{self._passed} of {self._descriptor.size_bytes} bytes", None)
        found = self._hash.digest()
        if found != self._descriptor.digest:
            self._refuse(f"the bytes are {found}", found)

    def abandon(self) -> None:
        self._hash.abandon()

    def _refuse(self, reason: str, found: Digest | None) -> None:
        raise ContentMismatch(
            f"{self._descriptor.digest} is not what its manifest says: {reason}",
            hint="it is damaged where it was read from; `pierhead verify` looks through a store",
            descriptor=self._descriptor,
            found=found,
            got_bytes=self._passed,
        )
