"""The JSON files that say what is in an archive or a layout, read with care: `index.json`, `oci-layout` and the others.

As the image specification 1.1, image-layout.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pierhead.archive.invalid import InvalidArchive, shown
from pierhead.body import Blob, BodyTooLarge, read_all
from pierhead.errors import PierheadError
from pierhead.layout.published import CONTAINERD_NAME, REF_NAME
from pierhead.oci import JSON_ITEMS_LIMIT, Descriptor

MARKER: Final = "oci-layout"
INDEX: Final = "index.json"
LAYOUT_VERSION: Final = "1.0.0"
# Ours: the tag of what is no image, where containerd would make one of whatever has a name (`writing`).
TAG_NAME: Final = "io.pierhead.tag"
JSON_LIMIT_BYTES: Final = 20 * 1024 * 1024  # As containerd: core/images/archive/importer.go, jsonLimit

Entry = dict[str, Any]


def read_json(blob: Blob, path: Path, name: str) -> Any:
    """The value of a small JSON file inside of the archive at `path`; raises `InvalidArchive`."""
    try:
        return json.loads(read_all(blob, JSON_LIMIT_BYTES))
    except BodyTooLarge as error:
        raise InvalidArchive(path, f"is larger than {error.limit_bytes} bytes", member=name) from error
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(path, "is not JSON", member=name) from error


def check_marker(blob: Blob, path: Path) -> None:
    """Raises `InvalidArchive` unless this `oci-layout` is of the one version there is."""
    value = read_json(blob, path, MARKER)
    version = value.get("imageLayoutVersion") if isinstance(value, dict) else None
    if version != LAYOUT_VERSION:
        reason = f"says version {shown(str(version))}, and only {LAYOUT_VERSION} is known"
        raise InvalidArchive(path, reason, member=MARKER, hint="a newer pierhead may know it")


def read_index(blob: Blob, path: Path) -> dict[str, Any]:
    """An `index.json` of which `manifests` is a list of objects; raises `InvalidArchive`."""
    value = read_json(blob, path, INDEX)
    if not isinstance(value, dict):
        raise InvalidArchive(path, "is not a JSON object", member=INDEX)
    entries = value.setdefault("manifests", [])
    if entries is None:  # Go writes an empty list so
        value["manifests"] = entries = []
    if not isinstance(entries, list) or len(entries) > JSON_ITEMS_LIMIT:
        raise InvalidArchive(path, f"does not list at most {JSON_ITEMS_LIMIT} manifests", member=INDEX)
    if not all(isinstance(entry, dict) for entry in entries):
        raise InvalidArchive(path, "lists manifests that are no descriptors", member=INDEX)
    return value


def entry_descriptor(entry: Entry, path: Path) -> Descriptor:
    """What an entry of `index.json` points to, without what the index adds to it; raises `InvalidArchive`."""
    try:
        descriptor = Descriptor.from_json(entry)
    except PierheadError as error:
        raise InvalidArchive(path, f"has an entry that is none: {error.message}", member=INDEX) from error
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size_bytes)


def entry_name(entry: Entry) -> str:
    """What an entry calls its image: as containerd if it says so, else as skopeo, else as we do; or empty."""
    annotations = entry.get("annotations")
    if not isinstance(annotations, dict):
        return ""
    found = (annotations.get(key) for key in (CONTAINERD_NAME, REF_NAME, TAG_NAME))
    return next((name for name in found if isinstance(name, str) and name), "")
