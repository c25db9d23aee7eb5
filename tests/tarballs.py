"""Tar files made by hand for tests: layouts, docker archives, and members that no honest tool writes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from images import REF_NAME, Image

CONTAINERD_NAME: Final = "io.containerd.image.name"
MARKER: Final = b'{"imageLayoutVersion":"1.0.0"}'


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = "", **more: Any) -> bytes:
    """One member: its header, and its bytes in whole blocks. `more` are fields of the header, `format` its format."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    written = more.pop("format", tarfile.PAX_FORMAT)
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(written, errors="surrogateescape") + data + bytes(-len(data) % 512)


def tar(*members: bytes) -> bytes:
    """A tar file of these members."""
    return b"".join(members) + bytes(1024)


def tar_of(files: Mapping[str, bytes], **more: Any) -> bytes:
    """A tar file of these files."""
    return tar(*(member(name, data, **more) for name, data in files.items()))


def layout_files(named: Iterable[tuple[Mapping[str, str], Image]], *, marker: bytes = MARKER) -> dict[str, bytes]:
    """The files of a layout of these images, each with the annotations of its entry in `index.json`."""
    entries, blobs = [], {}
    for noted, image in named:
        entries.append({**image.descriptor, **({"annotations": dict(noted)} if noted else {})})
        blobs.update({f"blobs/{digest.replace(':', '/')}": data for digest, data in image.blobs.items()})
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return {"oci-layout": marker, "index.json": index, **dict(sorted(blobs.items()))}


def by_tag(tag: str, image: Image) -> tuple[dict[str, str], Image]:
    """As skopeo names an image in `index.json`."""
    return {REF_NAME: tag}, image


def by_full_name(name: str, image: Image) -> tuple[dict[str, str], Image]:
    """As containerd does when it exports."""
    return {CONTAINERD_NAME: name, REF_NAME: name.rpartition(":")[2]}, image


@dataclass(frozen=True)
class DockerImage:
    """What a docker archive has of one image: a configuration and layers, as they stand in it."""

    layers: Sequence[bytes]
    tags: Sequence[str] = ()
    stored: Sequence[bytes] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> bytes:
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}" for layer in self.layers]}
        value = {"architecture": "arm64", "os": "linux", "rootfs": rootfs, **self.more}
        return json.dumps(value).encode()

    @property
    def packed(self) -> Sequence[bytes]:
        """The layers as the archive has them; `stored` if they are compressed."""
        return self.stored or self.layers


def docker_files(*images: DockerImage) -> dict[str, bytes]:
    """The files of a docker archive, named as podman and crane do."""
    files: dict[str, bytes] = {}
    listed = []
    for image in images:
        names = [f"{sha256(layer)}.tar" for layer in image.packed]
        files |= dict(zip(names, image.packed, strict=True))
        files[f"{sha256(image.config)}.json"] = image.config
        tags = list(image.tags) or None
        listed.append({"Config": f"{sha256(image.config)}.json", "RepoTags": tags, "Layers": names})
    return {**files, "manifest.json": json.dumps(listed).encode()}


def expected_manifest(image: DockerImage) -> bytes:
    """The manifest that containerd makes of it (core/images/archive/importer.go), written out."""
    kind = "application/vnd.docker.image.rootfs.diff.tar" + (".gzip" if image.stored else "")
    described = [_described("application/vnd.docker.container.image.v1+json", image.config)]
    described += [_described(kind, layer) for layer in image.packed]
    return (
        '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        f'"config":{described[0]},"layers":[{",".join(described[1:])}]}}'
    ).encode()


def _described(kind: str, data: bytes) -> str:
    return f'{{"mediaType":"{kind}","digest":"sha256:{sha256(data)}","size":{len(data)}}}'


def layer_of(content: bytes, name: str = "file") -> bytes:
    """A layer, not compressed, of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    """Its digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
