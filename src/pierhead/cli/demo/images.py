"""The images of the demo: small, and real. Layers that unpack, configurations whose diff_ids are right, an index for
several platforms, and a program that runs. Equal on every run, so their digests can be compared.

Follows the OCI image specification 1.1: manifest.md, image-index.md, config.md, layer.md.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pierhead.cli.demo.programs import printing_program
from pierhead.oci import Descriptor, Platform
from pierhead.reference import Digest

CREATED: Final = "2020-01-01T00:00:00Z"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
PLATFORMS: Final = (Platform("linux", "amd64"), Platform("linux", "arm64"), Platform("linux", "arm", "v7"))

OS_RELEASE: Final = b'ID=pierhead-demo\nNAME="pierhead demo"\nPRETTY_NAME="a base layer that images share"\n'
PASSWD: Final = b"root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"


@dataclass(frozen=True)
class Content:
    """A blob or a manifest, with its descriptor."""

    descriptor: Descriptor
    data: bytes

    @classmethod
    def of(cls, media_type: str, data: bytes) -> Content:
        return cls(Descriptor(media_type, Digest.of(data), len(data)), data)

    @classmethod
    def of_json(cls, media_type: str, value: Mapping[str, Any]) -> Content:
        return cls.of(media_type, json.dumps(value, separators=(",", ":")).encode())


@dataclass(frozen=True)
class Image:
    """What belongs to one tag: `contents` in the order in which a registry takes them, the manifest or index last."""

    contents: tuple[Content, ...]

    @property
    def top(self) -> Content:
        return self.contents[-1]


@dataclass(frozen=True)
class Layer:
    """A tar archive as it unpacks, and as it travels."""

    archive: bytes
    packed: Content

    @classmethod
    def of(cls, files: Mapping[str, tuple[bytes, int]]) -> Layer:
        """Files by path, with their modes; owner root, time 0."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, (data, mode) in sorted(files.items()):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), mode
                archive.addfile(member, io.BytesIO(data))
        tar = buffer.getvalue()
        return cls(tar, Content.of(LAYER, gzip.compress(tar, mtime=0)))


def demo_images() -> dict[str, Image]:
    """By repository and tag as an air-gapped registry would hold them."""
    base = Layer.of({"etc/os-release": (OS_RELEASE, 0o644), "etc/passwd": (PASSWD, 0o644)})
    platforms = tuple(dict.fromkeys([*PLATFORMS, Platform.here()]))
    return {
        "coredns-coredns:1.6.3": _index("coredns", "1.6.3", base, platforms),
        "local-path-provisioner:v0.0.11": _index("local-path-provisioner", "v0.0.11", base, platforms),
        "pause:3.1": _single("pause", "3.1", base, Platform.here()),
    }


def _index(program: str, version: str, base: Layer, platforms: Sequence[Platform]) -> Image:
    """An index of one image for each platform."""
    contents: dict[Digest, Content] = {}
    entries = []
    for platform in platforms:
        image = _single(program, version, base, platform)
        contents |= {content.descriptor.digest: content for content in image.contents}
        entries.append({**image.top.descriptor.to_json(), "platform": _platform(platform)})
    index = Content.of_json(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    return Image((*contents.values(), index))


def _single(program: str, version: str, base: Layer, platform: Platform) -> Image:
    layers = (base, Layer.of(dict(_program_files(program, version, platform))))
    config = Content.of_json(CONFIG, _config(program, layers, platform))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor.to_json(),
        "layers": [layer.packed.descriptor.to_json() for layer in layers],
        "annotations": {"org.opencontainers.image.title": program, "org.opencontainers.image.version": version},
    }
    return Image((*(layer.packed for layer in layers), config, Content.of_json(MANIFEST, manifest)))


def _program_files(program: str, version: str, platform: Platform) -> Iterator[tuple[str, tuple[bytes, int]]]:
    about = f"A stand-in for {program} {version} on {platform}, made by `pierhead demo`.\n"
    yield "README", (about.encode(), 0o644)
    if executable := printing_program(platform.architecture, about):
        yield program, (executable, 0o755)


def _config(program: str, layers: Sequence[Layer], platform: Platform) -> dict[str, Any]:
    return {
        "created": CREATED,
        **_platform(platform),
        "config": {"User": "65534", "Env": ["PATH=/"], "Entrypoint": [f"/{program}"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer.archive)) for layer in layers]},
        "history": [{"created": CREATED, "created_by": "pierhead demo"} for _ in layers],
    }


def _platform(platform: Platform) -> dict[str, str]:
    named = {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}
    return {key: value for key, value in named.items() if value}
