"""An OCI image layout, in a folder or in a tar file, to read (image specification 1.1, image-layout.md)."""

from __future__ import annotations

import stat
from functools import partial
from pathlib import Path
from typing import Protocol

from pierhead.archive.contents import Contents
from pierhead.archive.invalid import InvalidArchive
from pierhead.archive.json_files import INDEX, MARKER, check_marker, entry_descriptor, entry_name, read_index
from pierhead.archive.named import ArchivedImage, each_once
from pierhead.body import FileBlob
from pierhead.reference import Digest


class Files(Protocol):
    """The files of a layout by their names in it, as `members.Members` has those of a tar file."""

    def file(self, name: str) -> FileBlob | None: ...


class FolderFiles:
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, name: str) -> FileBlob | None:
        path = self._folder / name
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):  # a pipe would never end
            raise InvalidArchive(self._folder, "is no regular file", member=name)
        return FileBlob(path, 0, found.st_size)


def read_layout(files: Files, path: Path) -> Contents:
    """What is in a layout; raises `InvalidArchive`."""
    check_marker(_needed(files, path, MARKER), path)
    index = read_index(_needed(files, path, INDEX), path)
    entries = [(entry_name(entry), entry_descriptor(entry, path)) for entry in index["manifests"]]
    listed = each_once((ArchivedImage.of(name, descriptor) for name, descriptor in entries), path)
    return Contents(path, listed, partial(blob_in, files))


def _needed(files: Files, path: Path, name: str) -> FileBlob:
    found = files.file(name)
    if found is None:
        raise InvalidArchive(
            path, f"it is no OCI image layout, for it has no {name}", hint="name a layout or an archive"
        )
    return found


def blob_in(files: Files, digest: Digest) -> FileBlob | None:
    """Where a layout has the bytes of a digest."""
    return files.file(f"blobs/{digest.algorithm}/{digest.hex}")
