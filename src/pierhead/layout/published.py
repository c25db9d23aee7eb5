"""`index.json`: the names of a layout as other programs read them (image-layout.md, "index.json file").

It is derived from the name files whenever a command ends. An entry of ours has the full name, such as
`docker.io/library/redis:7`, in both annotations; no other program writes it so. Entries that are not ours, by skopeo
for instance, are kept as they are, count as names for gc, and give way only to a name of ours that reads the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pierhead.errors import PierheadError
from pierhead.layout.disk import unwritable
from pierhead.oci import OCI_INDEX, Descriptor
from pierhead.store import Name, StoreDamaged

if TYPE_CHECKING:
    from pierhead.layout import LayoutStore

REF_NAME: Final = "org.opencontainers.image.ref.name"  # what skopeo, crane and podman go by
CONTAINERD_NAME: Final = "io.containerd.image.name"  # what containerd's import goes by
INDEX_LIMIT_BYTES: Final = 64 * 1024 * 1024

Entry = dict[str, Any]


def publish(store: LayoutStore) -> bool:
    """Write `index.json` if the names say otherwise than it does; whether they did.

    Raises `StoreDamaged` rather than to overwrite entries that cannot be read.
    """
    path = store.path / "index.json"
    with unwritable(path), store.root.changing(), store.root.locked(store.path / "index.lock"):
        store.prepare()
        raw, entries = _read(path)
        ours = [_entry(name) for name in store.names()]
        taken = {_ref_name(entry) for entry in ours}
        kept = [entry for entry in entries if not _is_ours(entry) and _ref_name(entry) not in taken]
        wanted = _index([*ours, *kept])
        if wanted == raw:
            return False
        store.root.replace(path, wanted)
        store.root.settle()
        return True


def foreign_entries(store: LayoutStore) -> list[tuple[str, Descriptor]]:
    """What other programs put into `index.json`: the name they gave it (may be empty) and the descriptor.

    Raises `StoreDamaged`.
    """
    path = store.path / "index.json"
    try:
        return [(_ref_name(item), Descriptor.from_json(item)) for item in _read(path)[1] if not _is_ours(item)]
    except StoreDamaged:
        raise
    except PierheadError as error:
        raise StoreDamaged(path, error.message) from error


def _read(path: Path) -> tuple[bytes, list[Entry]]:
    try:
        with path.open("rb") as file:
            raw = file.read(INDEX_LIMIT_BYTES)
    except FileNotFoundError:
        return b"", []
    try:
        entries = json.loads(raw).get("manifests") or []
    except (ValueError, AttributeError, RecursionError) as error:
        raise StoreDamaged(path, "it is not a JSON object") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise StoreDamaged(path, "its manifests are not a list of descriptors")
    return raw, entries


def _entry(name: Name) -> Entry:
    entry = name.descriptor.to_json()
    entry["annotations"] = {**entry.get("annotations", {}), REF_NAME: str(name), CONTAINERD_NAME: str(name)}
    return entry


def _is_ours(entry: Entry) -> bool:
    annotations = entry.get("annotations")
    return (
        isinstance(annotations, dict)
        and isinstance(annotations.get(REF_NAME), str)
        and annotations[REF_NAME] == annotations.get(CONTAINERD_NAME)
    )


def _ref_name(entry: Entry) -> str:
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def _index(entries: list[Entry]) -> bytes:
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(index, sort_keys=True, separators=(",", ":")).encode() + b"\n"
