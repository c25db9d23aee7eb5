"""An image that really runs: busybox, which needs no libraries, and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, Final

from components import program
from images import CONFIG, LAYER, MANIFEST, Image
from pierhead.oci import Platform

APPLETS: Final = ("sh", "echo", "cat", "uname")


def make_busybox() -> Image:
    """An image of /bin/busybox and some of its applets, for this machine; it says `it runs`."""
    layer = _layer()
    here = Platform.here()
    config = {
        "created": "2020-01-01T00:00:00Z",
        "os": here.os,
        "architecture": here.architecture,
        "config": {"Cmd": ["/bin/echo", "it runs"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = [(json.dumps(config).encode(), CONFIG["oci"]), (gzip.compress(layer, 1, mtime=0), LAYER["oci", "gzip"])]
    described = [_descriptor(data, kind) for data, kind in blobs]
    value = {"schemaVersion": 2, "mediaType": MANIFEST["oci"], "config": described[0], "layers": described[1:]}
    raw = json.dumps(value).encode()
    top = _descriptor(raw, MANIFEST["oci"])
    return Image(top, {_digest(data): data for data in (raw, *(data for data, _ in blobs))})


def _layer() -> bytes:
    path = program("busybox")
    assert path is not None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("bin")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        data = Path(path).read_bytes()
        member = tarfile.TarInfo("bin/busybox")
        member.size, member.mode = len(data), 0o755
        archive.addfile(member, io.BytesIO(data))
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return buffer.getvalue()


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
