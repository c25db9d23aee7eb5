"""K3s' folder of images, agent/images: what K3s imports when it starts, and two seconds after something changes there.

As K3s' pkg/agent/containerd/watcher.go (watchImages, processImageEvent, syncCache, loadCache).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pierhead.archive.members import BLOCK_BYTES, is_header
from pierhead.errors import PierheadError, UsageError
from pierhead.files import new_file, replacing

CACHE_NAME: Final = ".cache.json"
CACHE_LIMIT_BYTES: Final = 16 * 1024 * 1024
_PIECE_BYTES: Final = 1024 * 1024


class NotNamedTar(UsageError):
    """A bundle that K3s would not take for a plain tar: it goes by the end of the name alone, in lower case.

    As wharfie's pkg/tarfile (SupportedExtensions, GetOpener).
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"a bundle is a plain tar, and the name {path.name!r} does not end in .tar",
            hint="let it end in .tar, in lower case: K3s goes by the end of the name; for another use `pierhead save`",
        )


class CannotPlace(PierheadError):
    """The folder of images cannot be written."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a bundle is now. `changed`: K3s will import it; `made_cache`: from now on K3s remembers what it has."""

    path: Path
    changed: bool
    made_cache: bool


def require_bundle_name(path: Path) -> None:
    """Raises `NotNamedTar` unless K3s would take a plain tar of this name."""
    if not path.name.endswith(".tar"):
        raise NotNamedTar(path)


def place(bundle: Path, folder: Path, *, remember: bool = False) -> Placed:
    """Let K3s find a plain tar in its folder of images, whole or not at all; nothing is done if it is there.

    It is a copy, not a link: what K3s imports must not change when somebody writes over the original. With `remember`
    there is a `.cache.json`, without which K3s imports every file at every start. Releases before mid-2026 then lose
    the pins of what they do not import again (k3s#14265), so it is nothing to do unasked.

    Raises `NotNamedTar`, `CannotPlace`.
    """
    require_bundle_name(bundle)
    target = folder / bundle.name
    try:
        _require_plain(bundle)
        folder.mkdir(parents=True, exist_ok=True)
        changed = not _is_there(bundle, target)
        made_cache = remember and _make_cache(folder)  # first: K3s reads it when it starts, and writes to it if it is
        if changed:
            _copy(bundle, target, _known_sizes(target))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotPlace(f"cannot put {bundle} into {folder}: {reason}", hint=_hint(error.errno)) from error
    return Placed(target, changed, made_cache)


def _hint(number: int | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space there and run it again; what was there before is as it was"
    return "K3s' folders are root's"


def _require_plain(bundle: Path) -> None:
    with bundle.open("rb") as file:
        if not is_header(file.read(BLOCK_BYTES)):
            raise UsageError(
                f"{bundle} is no plain tar, and K3s takes what is named .tar for one",
                hint="make a bundle with `pierhead bundle create`, or give the name of what it is compressed with",
            )


def _make_cache(folder: Path) -> bool:
    with suppress(FileExistsError):
        new_file(folder / CACHE_NAME, b"{}")
        return True
    return False


def _copy(bundle: Path, target: Path, known_sizes: set[int]) -> None:
    """Copy under a name that K3s does not look at, then rename. The time of the new file is now.

    K3s imports a file again only if it is newer and has another size (processImageEvent), so one of a size that K3s
    knows by this name gets longer by empty blocks.
    """
    size = 0
    with bundle.open("rb") as source, replacing(target) as write:
        while piece := source.read(_PIECE_BYTES):
            write(piece)
            size += len(piece)
        while size in known_sizes:
            write(bytes(BLOCK_BYTES))  # a tar may end with any number of empty ones
            size += BLOCK_BYTES


def _known_sizes(target: Path) -> set[int]:
    """The sizes under which K3s may know a file of this name: of what is there, and by its memory."""
    sizes = set()
    with suppress(OSError):
        sizes.add(target.stat().st_size)
    with (
        suppress(OSError, ValueError, AttributeError, TypeError, RecursionError),
        (target.parent / CACHE_NAME).open("rb") as file,
    ):
        entries = json.loads(file.read(CACHE_LIMIT_BYTES))
        sizes |= {
            entry["size"] for path, entry in entries.items() if Path(path).name == target.name and "size" in entry
        }
    return sizes


def _is_there(bundle: Path, target: Path) -> bool:
    """Whether the file there is this bundle, with or without more empty blocks at its end."""
    try:
        with bundle.open("rb") as ours, target.open("rb") as theirs:
            if os.fstat(theirs.fileno()).st_size < os.fstat(ours.fileno()).st_size:
                return False
            return all(mine == yours for mine, yours in _pieces(ours, theirs)) and not any(_rest(theirs))
    except FileNotFoundError:
        if bundle.exists():
            return False
        raise


def _pieces(ours: BinaryIO, theirs: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    while piece := ours.read(_PIECE_BYTES):
        yield piece, theirs.read(len(piece))


def _rest(theirs: BinaryIO) -> Iterator[int]:
    """The highest byte of each piece that follows."""
    while piece := theirs.read(_PIECE_BYTES):
        yield max(piece)
