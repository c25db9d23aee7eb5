"""Images to measure with: bytes that do not compress, the same in every run."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from measuring import MIB, check
from real import DockerRegistry

SKOPEO: Final = ("skopeo", "copy", "--quiet", "--insecure-policy")
LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True)
class Image:
    """An image in the registry: its name there and the digests of its layers."""

    name: str
    layers: tuple[str, ...]

    @property
    def repository(self) -> str:
        """The name without the registry's address."""
        return self.name.partition("/")[2]


def push(registry: DockerRegistry, scratch: Path, name: str, sizes: Sequence[int]) -> Image:
    """An image with layers of such sizes, which differ from image to image."""
    return _push(registry, scratch, name, [(f"{name}/{number}", size) for number, size in enumerate(sizes)])


def push_sharing(
    registry: DockerRegistry, scratch: Path, name: str, bases: Sequence[int], own: Sequence[int]
) -> list[Image]:
    """An image for each size of `own`, on one of the bases in turn."""
    images = []
    for number, size in enumerate(own):
        base = number % len(bases)
        layers = [(f"{name}/base{base}", bases[base]), (f"{name}/own{number}", size)]
        images.append(_push(registry, scratch, f"{name}/app{number}", layers))
    return images


def _push(registry: DockerRegistry, scratch: Path, name: str, sizes: Sequence[tuple[str, int]]) -> Image:
    """An image whose layers have these seeds and sizes."""
    layout = Path(tempfile.mkdtemp(dir=scratch))
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def keep(pieces: Iterator[bytes], media_type: str) -> dict[str, object]:
        hashed, size, path = hashlib.sha256(), 0, layout / "piece"
        with path.open("wb") as file:
            for piece in pieces:
                hashed.update(piece)
                size += file.write(piece)
        path.rename(blobs / hashed.hexdigest())
        return {"mediaType": media_type, "digest": f"sha256:{hashed.hexdigest()}", "size": size}

    layers = [keep(_noise(seed, size), LAYER) for seed, size in sizes]
    config = {"os": "linux", "architecture": "amd64", "name": name, "rootfs": {"type": "layers", "diff_ids": []}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": keep(iter([json.dumps(config).encode()]), CONFIG),
        "layers": layers,
    }
    top = keep(iter([json.dumps(manifest).encode()]), MANIFEST)
    top["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    target = f"docker://{registry.address}/{name}:v1"
    check([*SKOPEO, "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:v1", target])
    shutil.rmtree(layout)
    return Image(f"{registry.address}/{name}", tuple(str(layer["digest"]) for layer in layers))


def _noise(seed: str, size: int) -> Iterator[bytes]:
    random = Random(seed)
    for start in range(0, size, MIB):
        yield random.randbytes(min(MIB, size - start))
