"""Archives of several images, as one tar that is an OCI layout, with or without some of their content."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from images import REF_NAME, Image
from tarballs import CONTAINERD_NAME, layout_files, tar_of


def archive_of(path: Path, images: Mapping[str, Image], *, without: Collection[str] = ()) -> Path:
    """Write these images under their names, without the blobs of these digests; gives the path back."""
    files = layout_files(
        ({CONTAINERD_NAME: name, REF_NAME: name} if name else {}, image) for name, image in images.items()
    )
    left_out = {f"blobs/{digest.replace(':', '/')}" for digest in without}
    path.write_bytes(tar_of({name: data for name, data in files.items() if name not in left_out}))
    return path


def of_platform(image: Image, platform: str) -> str:
    """The digest of an index's manifest for a platform such as `linux/arm64`."""
    (digest,) = (
        item["digest"]
        for item in image.manifest["manifests"]
        if f"{item['platform']['os']}/{item['platform']['architecture']}" == platform
    )
    return str(digest)
