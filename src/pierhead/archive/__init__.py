"""Archives of images and layout folders: what tools save and load, read where it lies.

`open_archive` takes an OCI image layout, in a folder or a tar file, and what `docker save` writes, compressed or not;
which it is, its content tells. `LayoutFolder` writes a layout that other tools read. Writing tar files is
`archive.writing`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

from pierhead.archive.contents import Contents
from pierhead.archive.docker import MANIFESTS, DockerArchive
from pierhead.archive.folder import LayoutFolder
from pierhead.archive.invalid import InvalidArchive
from pierhead.archive.json_files import INDEX, MARKER
from pierhead.archive.layouts import FolderFiles, read_layout
from pierhead.archive.members import Members
from pierhead.archive.named import ArchivedImage, pick
from pierhead.archive.unpacked import is_stream, plain
from pierhead.errors import UsageError
from pierhead.reference import Digest
from pierhead.store import Referrer, Source

__all__ = ["Archive", "ArchivedImage", "InvalidArchive", "LayoutFolder", "open_archive"]


class Archive(Protocol):
    """An open archive; a context, or close it."""

    @property
    def path(self) -> Path: ...

    @property
    def images(self) -> tuple[ArchivedImage, ...]:
        """Its images; what only refers to them is none (`referring`)."""
        ...

    @property
    def content(self) -> Source:
        """Everything in it, whichever image it belongs to; it knows what refers to what (`referrers.Referred`)."""
        ...

    def find(self, name: str) -> ArchivedImage:
        """The image of that name; raises `NotFound`, `UsageError`. See `named.pick`."""
        ...

    def referrers(self, subjects: Iterable[Digest]) -> list[Referrer]:
        """What in it refers to any of these manifests, and what refers to that; what cannot be read does not."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class _Opened:
    """An archive of any kind; `leaving` holds what is to be let go of."""

    def __init__(self, path: Path, content: Contents, leaving: ExitStack) -> None:
        self.path = path
        self.content = content
        self._leaving = leaving

    @property
    def images(self) -> tuple[ArchivedImage, ...]:
        return self.content.images

    def find(self, name: str) -> ArchivedImage:
        return pick(self.content.entries if name else self.images, name, self.path)

    def referrers(self, subjects: Iterable[Digest]) -> list[Referrer]:
        return list(self.content.referring.to(subjects))

    def close(self) -> None:
        self._leaving.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_archive(path: Path, *, scratch: Path | None = None) -> Archive:
    """The archive or layout at `path`. Of one that is not compressed only headers and lists are read.

    A compressed one is decompressed once into an unnamed file in the folder `scratch` (default: TMPDIR), and there goes
    what a pipe gives. Raises `InvalidArchive` for what is hostile, cut, or none; `UnreadableStream`, `StoreUnwritable`,
    `NotFound`.
    """
    with ExitStack() as undo:
        return _Opened(path, _read(path, scratch, undo), undo.pop_all())


def _read(path: Path, scratch: Path | None, leaving: ExitStack) -> Contents:
    if path.is_dir():
        return read_layout(FolderFiles(path), path)
    if not path.is_file() and not is_stream(path):
        reason = "is no file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {reason}", hint="name an OCI or docker archive, or the folder of a layout")
    members = Members(leaving.enter_context(plain(path, scratch)), shown_as=path)
    if MARKER in members:  # as containerd: the OCI side wins
        return read_layout(members, path)
    if MANIFESTS in members:
        return DockerArchive(members).content
    raise InvalidArchive(
        path,
        f"it has neither {MARKER} nor {MANIFESTS}" + (f", though {INDEX}" if INDEX in members else ""),
        hint="it is no archive of images; have one written by docker, podman, skopeo, ctr or `pierhead save`",
    )
