"""Things that refer to images, as values: artifacts with a subject, cosign's tags, and archives that hold both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from images import MANIFEST, Image, make_image
from pierhead.oci import Descriptor
from pierhead.reference import Reference
from pierhead.store import RepositoryName, Store
from stocked import stock
from tarballs import by_full_name, by_tag, layout_files, tar_of

UNTAGGED: Final = "unasked"


def artifact(subject: Image | Mapping[str, Any], kind: str = "signature") -> Image:
    """An artifact about an image, as notation and ORAS write it, with bytes of its own."""
    about = subject.descriptor if isinstance(subject, Image) else subject
    data = f"{kind} of {about['digest']}".encode()
    config = b"{}"
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST["oci"],
        "artifactType": f"application/vnd.example.{kind}",
        "config": _described(config, "application/vnd.oci.empty.v1+json"),
        "layers": [_described(data, "application/octet-stream")],
        "subject": {key: about[key] for key in ("mediaType", "digest", "size")},
    }
    raw = json.dumps(value).encode()
    top = _described(raw, MANIFEST["oci"])
    return Image(top, {top["digest"]: raw, _digest(config): config, _digest(data): data})


def cosign(said: str) -> Image:
    """What cosign puts under its tag: an image whose layers say something of another one."""
    return make_image(layers=[f"signed: {said}".encode()], compression="none")


def cosign_tag(digest: str, suffix: str = ".sig") -> str:
    """The tag that cosign gives to what it says of a digest."""
    return digest.replace(":", "-") + suffix


@dataclass(frozen=True)
class Signed:
    """An image of two platforms, and all there is about it: what refers to it is `artifacts` and, by tag, `tagged`."""

    image: Image
    artifacts: Sequence[Image]
    tagged: Mapping[str, Image]

    @classmethod
    def make(cls, said: bytes = b"app\n") -> Signed:
        """Signed, countersigned, with a bill of material for one of its platforms, and a tag of cosign's."""
        image = make_image(layers=[said, 3000], platforms=["linux/amd64", "linux/arm64"])
        signature = artifact(image)
        bill = artifact(image.manifest["manifests"][0], "bill")
        artifacts = (signature, artifact(signature, "countersignature"), bill)
        return cls(image, artifacts, {cosign_tag(image.digest): cosign(image.digest)})

    @property
    def referrers(self) -> set[str]:
        """The digests of everything that refers to it."""
        return {item.digest for item in (*self.artifacts, *self.tagged.values())}

    @property
    def blobs(self) -> dict[str, bytes]:
        """Every byte of it and of what refers to it."""
        images = (self.image, *self.artifacts, *self.tagged.values())
        return {digest: data for image in images for digest, data in image.blobs.items()}

    def put_into(self, store: Store, name: str, *, namespace: bool = False) -> None:
        """As a registry has it under that name, or (`namespace`) the store of who pulled it."""
        reference = Reference.parse(name)
        where = reference.registry if namespace else ""
        named = {str(reference.tag): self.image, **self.tagged, UNTAGGED: self.image}
        for tag, image in named.items():
            stock(store, image, reference.repository, tag, namespace=where)
        for image in self.artifacts:
            stock(store, image, reference.repository, UNTAGGED, namespace=where)
        store.repository(RepositoryName(reference.repository, where)).untag(UNTAGGED)

    def entries(self, name: str) -> list[tuple[str, Image]]:
        """As `index.json` lists it: the image under its name, what refers to it without one or by its tag."""
        return [(name, self.image), *(("", image) for image in self.artifacts), *self.tagged.items()]


def listing(path: Path, entries: Sequence[tuple[str, Image]], *, without: Collection[str] = ()) -> Path:
    """Write an archive with these entries, each by its full name, by a tag or without a name; gives the path back."""
    named = [
        ({}, image) if not name else by_full_name(name, image) if "/" in name else by_tag(name, image)
        for name, image in entries
    ]
    files = layout_files(named)
    left_out = {f"blobs/{digest.replace(':', '/')}" for digest in without}
    path.write_bytes(tar_of({name: data for name, data in files.items() if name not in left_out}))
    return path


def descriptor_of(image: Image) -> Descriptor:
    """What a list says of it."""
    return Descriptor.from_json(image.descriptor)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _described(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}
