"""Images made from nothing, as values: configurations and layers that containerd can unpack, equal on every run.

They are written with the json module alone and not with `pierhead.oci`, which tests compare with them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import struct
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

Media = Literal["oci", "docker"]
Compression = Literal["gzip", "zstd", "none"]
Content = int | bytes

INDEX: Final = {
    "oci": "application/vnd.oci.image.index.v1+json",
    "docker": "application/vnd.docker.distribution.manifest.list.v2+json",
}
MANIFEST: Final = {
    "oci": "application/vnd.oci.image.manifest.v1+json",
    "docker": "application/vnd.docker.distribution.manifest.v2+json",
}
CONFIG: Final = {
    "oci": "application/vnd.oci.image.config.v1+json",
    "docker": "application/vnd.docker.container.image.v1+json",
}
LAYER: Final = {
    ("oci", "gzip"): "application/vnd.oci.image.layer.v1.tar+gzip",
    ("oci", "zstd"): "application/vnd.oci.image.layer.v1.tar+zstd",
    ("oci", "none"): "application/vnd.oci.image.layer.v1.tar",
    ("docker", "gzip"): "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ("docker", "none"): "application/vnd.docker.image.rootfs.diff.tar",
}
REF_NAME: Final = "org.opencontainers.image.ref.name"
ZSTD_BLOCK_BYTES: Final = 128 * 1024


@dataclass(frozen=True)
class Image:
    """An image or an index of images: the descriptor of its manifest, and all content by digest."""

    descriptor: Mapping[str, Any]
    blobs: Mapping[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        """The digest of the manifest, or index, at the top."""
        return str(self.descriptor["digest"])

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, or index, at the top as JSON values."""
        return dict(json.loads(self.blobs[self.digest]))

    @property
    def manifests(self) -> dict[str, str]:
        """The media types of all manifests and indexes in it, by digest, children before parents."""
        return dict(_walk(self.descriptor, self.blobs))

    def write_layout(self, folder: Path, name: str = "latest") -> Path:
        """Write it as an OCI image layout in which it bears `name`; gives the folder back."""
        for path, data in self._layout(name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder

    def write_archive(self, path: Path, name: str = "latest") -> Path:
        """Write the same layout as one tar file; gives its path back."""
        path.write_bytes(_tar(self._layout(name)))
        return path

    def write_dir(self, folder: Path) -> Path:
        """Write it as skopeo's `dir:` has it, which takes Docker's media types too; gives the folder back."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "version").write_text("Directory Transport Version: 1.1\n")
        for digest, data in self.blobs.items():
            suffix = ".manifest.json" if digest in self.manifests else ""
            (folder / (digest.partition(":")[2] + suffix)).write_bytes(data)
        (folder / "manifest.json").write_bytes(self.blobs[self.digest])
        return folder

    def _layout(self, name: str) -> dict[str, bytes]:
        top = {**self.descriptor, "annotations": {REF_NAME: name}}
        return {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": _json({"schemaVersion": 2, "manifests": [top]}),
            **{f"blobs/{digest.replace(':', '/')}": data for digest, data in sorted(self.blobs.items())},
        }


def make_image(
    *,
    layers: Sequence[Content] = (1000,),
    media: Media = "oci",
    compression: Compression = "gzip",
    platforms: Sequence[str] = (),
) -> Image:
    """An image whose layers hold one file each: these bytes, or so many bytes that do not compress.

    With platforms (`linux/arm/v7`) it is an index of one image for each; they share all layers but the last, which
    holds the platform's name as well.
    """
    if not platforms:
        return _single(layers, media, compression, platform="linux/amd64")
    return make_index(
        *(
            _single([*layers, f"{platform}\n".encode()], media, compression, platform=platform)
            for platform in platforms
        ),
        media=media,
    )


def make_index(*images: Image, media: Media = "oci") -> Image:
    """An index of these images, which may be indexes themselves."""
    value = {
        "schemaVersion": 2,
        "mediaType": INDEX[media],
        "manifests": [dict(image.descriptor) for image in images],
    }
    blobs = {digest: data for image in images for digest, data in image.blobs.items()}
    return _image(value, blobs)


def _single(layers: Sequence[Content], media: Media, compression: Compression, *, platform: str) -> Image:
    archives = [_tar({f"layer-{number}": _content(layer)}) for number, layer in enumerate(layers)]
    packed = [_compress(archive, compression) for archive in archives]
    config = _json(_config(platform, archives))
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST[media],
        "config": _descriptor(config, CONFIG[media]),
        "layers": [_descriptor(layer, LAYER[media, compression]) for layer in packed],
    }
    return _image(value, {_digest(data): data for data in (config, *packed)}, platform=_platform(platform))


def _image(value: Mapping[str, Any], blobs: Mapping[str, bytes], **more: object) -> Image:
    raw = _json(value)
    return Image({**_descriptor(raw, value["mediaType"]), **more}, {**blobs, _digest(raw): raw})


def _config(platform: str, archives: Sequence[bytes]) -> dict[str, Any]:
    return {
        "created": "2020-01-01T00:00:00Z",
        **_platform(platform),
        "config": {"Cmd": ["/nothing"], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(archive) for archive in archives]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "pierhead's tests"} for _ in archives],
    }


def _platform(text: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


def _content(layer: Content) -> bytes:
    return layer if isinstance(layer, bytes) else random.Random(layer).randbytes(layer)


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)  # owner 0, time 0, mode 0644
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _compress(data: bytes, compression: Compression) -> bytes:
    match compression:
        case "gzip":
            return gzip.compress(data, mtime=0)
        case "zstd":
            return zstd_stored(data)
        case "none":
            return data


def zstd_stored(data: bytes) -> bytes:
    """A zstd frame that compresses nothing (RFC 8878, 3.1.1): raw blocks, so that no library is needed for it."""
    frame = struct.pack("<IBQ", 0xFD2FB528, 0b11_1_00000, len(data))  # the size in 8 bytes, a single segment
    starts = range(0, len(data), ZSTD_BLOCK_BYTES) if data else range(1)
    for start in starts:
        block = data[start : start + ZSTD_BLOCK_BYTES]
        last = start + ZSTD_BLOCK_BYTES >= len(data)
        frame += (len(block) << 3 | last).to_bytes(3, "little") + block
    return frame


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _walk(descriptor: Mapping[str, Any], blobs: Mapping[str, bytes]) -> list[tuple[str, str]]:
    value = json.loads(blobs[descriptor["digest"]])
    below = [item for child in value.get("manifests", ()) for item in _walk(child, blobs)]
    return [*below, (descriptor["digest"], descriptor["mediaType"])]
