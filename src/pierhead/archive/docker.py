"""What `docker save` wrote before it wrote OCI layouts, and podman, skopeo, crane and kaniko still write.

There is no manifest in such an archive, so one is made, byte for byte as containerd's import makes it: an image has the
same digest here as on the node that imports the file. The layers stay as they are. What an image must be is in its
configuration: the digests of its layers when they are not compressed (`rootfs.diff_ids`). So a layer that is not
compressed has its digest from there, and who copies it checks that; a compressed one is read through once, to check
what it decompresses to and to know its own digest.

As containerd: core/images/archive/importer.go, v2.1; Docker: image/spec/v1.2.md.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pierhead.archive.contents import Contents
from pierhead.archive.invalid import MADE_ANEW, InvalidArchive, shown
from pierhead.archive.json_files import JSON_LIMIT_BYTES, read_json
from pierhead.archive.members import BLOCK_BYTES, Members, is_header
from pierhead.archive.named import ArchivedImage, each_once
from pierhead.archive.unpacked import expansion_limit
from pierhead.body import Buffer, FileBlob, read_all
from pierhead.compression import decompressed
from pierhead.errors import PierheadError
from pierhead.oci import DOCKER_CONFIG, DOCKER_MANIFEST, JSON_ITEMS_LIMIT, Descriptor
from pierhead.reference import Digest
from pierhead.store import NotFound

MANIFESTS: Final = "manifest.json"
LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
LAYER_COMPRESSED: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"  # whatever the compression, as containerd
PIECE_BYTES: Final = 1024 * 1024

_HEX_NAME = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?")


class DockerArchive:
    """The images of a docker archive, with manifests made for them. Raises `InvalidArchive`."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._path = members.shown_as
        self._places: dict[Digest, FileBlob] = {}
        self._layers: dict[tuple[int, str], Descriptor] = {}
        self._made: dict[Digest, bytes] = {}
        self.content = Contents(self._path, each_once(self._read(), self._path), self._places.get, made=self._made)

    def _read(self) -> Iterator[ArchivedImage]:
        value = read_json(self._file(MANIFESTS), self._path, MANIFESTS)
        if not isinstance(value, list) or len(value) > JSON_ITEMS_LIMIT:
            raise self._refused("is not a list of images")
        for item in value:
            if not isinstance(item, dict) or not isinstance(item.get("Config"), str):
                raise self._refused("lists an image without a configuration")
            descriptor = self._make(item["Config"], _texts(item.get("Layers")))
            for name in _texts(item.get("RepoTags")) or [""]:
                image = ArchivedImage.of(name, descriptor)
                if name and image.reference is None:
                    raise self._refused(f"names an image {shown(name)}, which is no image reference")
                yield image

    def _make(self, config_name: str, layer_names: list[str]) -> Descriptor:
        """The manifest of an image, as Go writes JSON."""
        config, diff_ids = self._config(config_name)
        if len(diff_ids) != len(layer_names):
            reason = f"has {len(diff_ids)} layers, and {MANIFESTS} lists {len(layer_names)} for it"
            raise self._refused(reason, config_name)
        layers = [self._layer(name, diff_id) for name, diff_id in zip(layer_names, diff_ids, strict=True)]
        value = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        raw = json.dumps(value, separators=(",", ":")).encode()
        descriptor = Descriptor(DOCKER_MANIFEST, Digest.of(raw), len(raw))
        self._made[descriptor.digest] = raw
        return descriptor

    def _config(self, name: str) -> tuple[Descriptor, list[Digest]]:
        """An image's configuration, and the digests of its layers without compression."""
        blob = self._file(name)
        value = read_json(blob, self._path, name)
        digest = Digest.of(read_all(blob, JSON_LIMIT_BYTES))
        named = _HEX_NAME.fullmatch(name)
        if named and named[1] != digest.hex:
            raise self._refused(f"is damaged: its bytes are {digest}", name)
        self._places[digest] = blob
        return Descriptor(DOCKER_CONFIG, digest, blob.size_bytes), self._diff_ids(value, name)

    def _diff_ids(self, config: Any, name: str) -> list[Digest]:
        rootfs = config.get("rootfs") if isinstance(config, dict) else None
        found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        try:
            return [Digest.parse(text) for text in _texts(found)]
        except PierheadError as error:
            raise self._refused(f"names a layer by what is no digest: {error.message}", name) from error

    def _layer(self, name: str, diff_id: Digest) -> Descriptor:
        blob = self._file(name)
        known = self._layers.get((blob.offset, str(diff_id)))
        if known is None:
            known = self._layers[blob.offset, str(diff_id)] = self._look_at(blob, name, diff_id)
            self._places[known.digest] = blob
        return known

    def _look_at(self, blob: FileBlob, name: str, diff_id: Digest) -> Descriptor:
        with _Window(blob) as window:
            first = window.read(BLOCK_BYTES)
        if is_header(first) or not any(first):
            return Descriptor(LAYER, diff_id, blob.size_bytes)
        inner, outer = self._both_digests(blob, name, diff_id)
        if inner != diff_id:
            raise self._refused(f"is damaged: it decompresses to {inner}, not to {diff_id}", name)
        return Descriptor(LAYER if inner == outer else LAYER_COMPRESSED, outer, blob.size_bytes)

    def _both_digests(self, blob: FileBlob, name: str, like: Digest) -> tuple[Digest, Digest]:
        """The digests of a layer, decompressed and as it is."""
        inner = like.new_hash()
        count, limit = 0, expansion_limit(blob.size_bytes)
        with _Window(blob) as window:
            stream = decompressed(io.BufferedReader(window), f"{shown(name)} in {self._path}")
            while piece := stream.read(PIECE_BYTES):
                count += len(piece)
                if count > limit:
                    raise self._refused(f"decompresses to more than {limit} bytes", name)
                inner.update(piece)
            return Digest(like.algorithm, inner.hexdigest()), window.digest()

    def _file(self, name: str) -> FileBlob:
        blob = self._members.file(name)
        if blob is None:
            raise NotFound(f"{self._path} does not have {shown(name)}, which its {MANIFESTS} names", hint=MADE_ANEW)
        return blob

    def _refused(self, reason: str, member: str = MANIFESTS) -> InvalidArchive:
        return InvalidArchive(self._path, reason, member=member)


class _Window(io.RawIOBase):
    """A part of a file, as a file that is read in order; its digest when it was read to its end."""

    def __init__(self, blob: FileBlob) -> None:
        self._file = blob.path.open("rb", buffering=0)
        self._file.seek(blob.offset)
        self._left = blob.size_bytes
        import hashlib  # late: it loads OpenSSL

        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is no runtime name
        view = memoryview(buffer)[: self._left]
        count = self._file.readinto(view)
        self._left -= count
        self._hash.update(view[:count])
        return count

    def digest(self) -> Digest:
        return Digest("sha256", self._hash.hexdigest())

    def close(self) -> None:
        self._file.close()
        super().close()


def _texts(value: object) -> list[str]:
    """A list of texts in a JSON value; others are as none."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
