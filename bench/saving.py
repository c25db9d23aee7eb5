"""Writing images of a store into one compressed file, beside `zstd -T0 -3` on the same tar.

Ours also hashes every byte, and has the file on the disk when it ends; so a `sync` is part of zstd's time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from random import Random

from contents import CONFIG, LAYER, MANIFEST
from measuring import MIB, PIERHEAD, Aim, Case, Figures, Tool, check, measure
from pierhead.layout import LayoutStore
from pierhead.oci import Descriptor
from pierhead.reference import Digest
from pierhead.store import RepositoryName
from real import DockerRegistry

LAYERS = 8
LAYER_MIB = 128
SPEED = 0.7  # of zstd's
Mibs = Callable[[str], Iterator[bytes]]


def cases(_: DockerRegistry, scratch: Path, *, scale: float) -> Iterator[Case]:
    """The comparisons of writing archives."""
    size = max(1, int(LAYER_MIB * scale))
    contents: Sequence[tuple[str, str, Mibs]] = (
        ("k", "layers that are compressed already", noise),
        ("l", "layers that are not", text),
    )
    for letter, title, mibs in contents:
        root, tar = scratch / f"store-{letter}", scratch / f"{letter}.tar"
        name = fill(root, mibs, size)
        check([PIERHEAD, "save", "--root", str(root), name, "-o", str(tar)])
        yield Case(
            f"({letter}) save of {LAYERS * size} MiB as .tar.zst: {title}",
            {"pierhead": save(root, name), "zstd": zstd(tar)},
            (Aim("zstd", "wall", round(1 / SPEED, 2)),),
            peak_mib_at_most=100.0,
        )
        tar.unlink()


def save(root: Path, name: str) -> Tool:
    def run(out: Path) -> Figures:
        out.mkdir()
        return measure([PIERHEAD, "save", "-q", "--root", str(root), name, "-o", f"{out}/it.tar.zst"])

    return run


def zstd(tar: Path) -> Tool:
    def run(out: Path) -> Figures:
        out.mkdir()
        return measure(["sh", "-c", f"zstd -q -T0 -3 {tar} -o {out}/it.tar.zst && sync {out}/it.tar.zst"])

    return run


def fill(root: Path, mibs: Mibs, layer_mib: int) -> str:
    """A store with one image; its name."""
    repository = LayoutStore(root).repository(RepositoryName("bench/save", "docker.io"))

    def keep(pieces: Callable[[], Iterator[bytes]], media_type: str) -> dict[str, object]:
        hashed, size = hashlib.sha256(), 0
        for piece in pieces():
            hashed.update(piece)
            size += len(piece)
        descriptor = Descriptor(media_type, Digest("sha256", hashed.hexdigest()), size)
        with repository.upload(descriptor) as upload:
            for piece in pieces():
                upload.write(piece)
            upload.commit()
        return descriptor.to_json()

    def layer(number: int) -> Iterator[bytes]:
        return (piece for piece, _ in zip(mibs(f"layer {number}"), range(layer_mib), strict=False))

    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": keep(lambda: iter([config]), CONFIG),
        "layers": [keep(lambda number=number: layer(number), LAYER) for number in range(LAYERS)],  # type: ignore[misc]
    }
    repository.tag("v1", repository.put_manifest(json.dumps(manifest).encode(), MANIFEST))
    return "docker.io/bench/save:v1"


def noise(seed: str) -> Iterator[bytes]:
    """MiB after MiB that does not compress, as what was compressed."""
    random = Random(seed)
    while True:
        yield random.randbytes(MIB)


def text(seed: str) -> Iterator[bytes]:
    """MiB after MiB of which zstd makes two fifths, as fast as of a distribution's programs."""
    random = Random(seed)
    words = [random.randbytes(random.randint(8, 40)) for _ in range(4096)]
    pool = [
        b"".join(b"".join(random.choices(words, k=200)) + random.randbytes(1500) for _ in range(200)) for _ in range(8)
    ]
    return cycle(piece[:MIB] for piece in pool)
