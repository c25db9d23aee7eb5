"""A plain OCI image layout in a folder, as other tools read and write it: `oci:DIR`, to write as well.

It has one pool of content and no repositories. What is on its way stands in `.pierhead` beside the layout's own files:
blobs that came in part, which the next try goes on with, and locks. Whoever is last in it takes it away when nothing
waits in it; to be in it is to hold the layout's folder locked, shared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from pierhead.archive.contents import Contents
from pierhead.archive.json_files import INDEX, MARKER, Entry, check_marker, entry_descriptor, read_index
from pierhead.archive.layouts import FolderFiles, blob_in, read_layout
from pierhead.archive.named import ArchivedImage, check_name, is_unnamed, parse_full, pick
from pierhead.body import Blob, FileBlob
from pierhead.errors import UsageError
from pierhead.layout import LAYOUT_VERSION
from pierhead.layout.disk import Root, listing, outside_store, take_lock, try_lock, unwritable
from pierhead.layout.ingest import Pool
from pierhead.layout.published import CONTAINERD_NAME, REF_NAME
from pierhead.oci import OCI_INDEX, Descriptor, Platform, parse_manifest
from pierhead.reference import Digest
from pierhead.store import (
    Expected,
    NotFound,
    RepositoryName,
    Upload,
    require_content,
    require_expected,
)

WORK: Final = ".pierhead"


class LayoutFolder:
    """The layout in the folder `path` (`store.Source`, `store.Sink`), which comes to be with the first thing written.

    Names are tags or full references, as written; what else stands in `index.json` is kept. Raises `UsageError` for a
    folder that is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._refuse_others()
        self._root = Root(self.path, work=self.path / WORK)
        self._pool = Pool(self._root)
        self._blobs = Contents(self.path, (), partial(blob_in, FolderFiles(self.path)))  # whatever index.json says

    # Reading

    @property
    def images(self) -> tuple[ArchivedImage, ...]:
        """What it lists now; nothing if it is not there yet. Raises `InvalidArchive`."""
        return self.content.entries

    @property
    def content(self) -> Contents:
        """All content of it. Raises `InvalidArchive`."""
        return read_layout(FolderFiles(self.path), self.path) if (self.path / INDEX).exists() else self._blobs

    def find(self, name: str) -> ArchivedImage:
        """As `Archive.find`."""
        return pick(self.images, name, self.path)

    def resolve(self, reference: str) -> Descriptor:
        """What a tag, a full name or a digest points to, as `tag` would change it.

        Raises `NotFound`, `InvalidName`, `InvalidDigest`.
        """
        check_name(reference)
        if is_unnamed(reference):
            return self.content.resolve(reference)
        for image in self.images:
            if str(image.reference or image.name) == str(parse_full(reference) or reference):
                return image.descriptor
        raise NotFound(f"{self.path} has no image {reference}")

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._blobs.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return self._blobs.blob(descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return False

    # Writing

    def has(self, descriptor: Descriptor) -> bool:
        return self._pool.holds(descriptor)

    @contextmanager
    def upload(self, descriptor: Descriptor) -> Iterator[Upload]:
        with self._inside(), self._pool.upload(descriptor, _link_nothing) as upload:
            yield upload

    def mount(self, descriptor: Descriptor, source: RepositoryName) -> bool:
        return self.has(descriptor)  # there is one pool

    def put_manifest(
        self, raw: bytes, media_type: str, *, algorithm: str = "sha256", sparse: bool = False
    ) -> Descriptor:
        parsed = parse_manifest(raw, media_type)
        descriptor = Descriptor(parsed.media_type, Digest.of(raw, algorithm), len(raw))
        require_content(parsed, self.has, sparse=sparse)
        with self._inside(), unwritable(self.path):
            self._pool.keep(raw, descriptor.digest)
            self._root.settle()
        return descriptor

    def tag(
        self,
        reference: str,
        descriptor: Descriptor,
        *,
        platforms: Sequence[Platform] = (),
        expected: Digest | Expected = Expected.ANYTHING,
    ) -> None:
        """Name an image in `index.json`; by a digest, or by nothing, it is listed without a name.

        A full reference goes into containerd's annotation too, whole as its import wants it.
        """
        check_name(reference)
        if not self.has(descriptor):
            raise NotFound(f"{self.path} does not have the manifest {descriptor.digest}")
        entry = _entry(reference, descriptor)
        with self._inside(), self._root.locked(self._root.work / "index.lock"), unwritable(self.path):
            index = self._index()
            entries = index["manifests"]
            current = [entry_descriptor(item, self.path).digest for item in entries if _is_replaced(item, entry)]
            require_expected(f"{self.path}:{reference}", expected, current[0] if current else None)
            self._replace_index({**index, "manifests": _put(entries, entry)})

    def _index(self) -> dict[str, Any]:
        path = self.path / INDEX
        if not path.exists():
            return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        return read_index(FileBlob.whole(path), self.path)

    def _replace_index(self, index: dict[str, Any]) -> None:
        """The marker first, so that a layout with images is one."""
        if not (self.path / MARKER).exists():
            self._root.replace(self.path / MARKER, LAYOUT_VERSION)
        self._root.settle()  # the content, before its name
        raw = json.dumps(index, separators=(",", ":")).encode()
        path = self.path / INDEX
        if not (path.exists() and path.read_bytes() == raw):
            self._root.replace(path, raw)
            self._root.settle()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """While something is being written: nobody takes the folder of work away."""
        with outside_store(), unwritable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            take_lock(descriptor, self._root.patience(f"the lock of {self.path}"), shared=True)
            try:
                with outside_store():
                    yield
            finally:
                if try_lock(descriptor):
                    _tidy(self._root.work)
        finally:
            os.close(descriptor)

    def _refuse_others(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file", hint="oci: takes a folder; for a tar file write oci-archive:")
        if (self.path / "repositories").is_dir():
            hint = "name another folder; into the store goes what is pulled or pushed there"
            raise UsageError(f"{self.path} is a store of pierhead and no plain layout", hint=hint)
        if (self.path / MARKER).exists():
            check_marker(FileBlob.whole(self.path / MARKER), self.path)
        elif any(path.name not in (WORK, "blobs") for path in listing(self.path)):
            raise UsageError(f"{self.path} is neither empty nor an OCI image layout", hint="name another folder")


def _link_nothing(_: Digest) -> None:
    """A blob is visible by being there."""


def _entry(reference: str, descriptor: Descriptor) -> Entry:
    """An entry of `index.json` as other programs find it."""
    entry = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size_bytes).to_json()
    if is_unnamed(reference):
        return entry
    full = parse_full(reference)
    # skopeo asks for what is written, containerd's import takes what it is: docker.io/library/redis:7
    return {**entry, "annotations": {REF_NAME: reference, **({CONTAINERD_NAME: str(full)} if full else {})}}


def _put(entries: Sequence[Entry], entry: Entry) -> list[Entry]:
    """The entries with this one in the place of those it replaces."""
    at = next((position for position, item in enumerate(entries) if _is_replaced(item, entry)), len(entries))
    kept = [item for item in entries[at:] if not _is_replaced(item, entry)]
    return [*entries[:at], entry, *kept]


def _is_replaced(item: Entry, entry: Entry) -> bool:
    """Whether an entry has the name of another, for any program; one without a name replaces itself alone."""
    names, others = _names(item), _names(entry)
    return bool(names & others) if others else not names and item.get("digest") == entry["digest"]


def _names(entry: Entry) -> set[str]:
    annotations = entry.get("annotations")
    found = [annotations.get(key) for key in (REF_NAME, CONTAINERD_NAME)] if isinstance(annotations, dict) else []
    return {str(parse_full(name) or name) for name in found if isinstance(name, str) and name}


def _tidy(work: Path) -> None:
    """Remove the folder of work, unless parts of blobs wait in it."""
    for path in (work / "lock", work / "index.lock", *listing(work / "tmp")):
        path.unlink(missing_ok=True)
    for folder in (*listing(work / "ingest"), work / "ingest", work / "tmp", work):
        with suppress(OSError):
            folder.rmdir()
