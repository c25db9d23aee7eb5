"""Reads the files of other programs, within limits: regular files only, one level of folders, so many bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from pierhead.config.containerd import directory_name
from pierhead.errors import Span, UsageError
from pierhead.gourl import path_clean

FILE_LIMIT_BYTES: Final = 1024 * 1024
FOLDERS_LIMIT: Final = 20_000
NAMES_LIMIT: Final = 1_000  # files in one folder

HOSTS_FILE: Final = "hosts.toml"
_CERTIFICATES: Final = (".crt", ".cert", ".key")


class Unreadable(UsageError):
    """A file cannot be read, or not whole; `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read {path}: {reason}", hint="name a regular file that you may read")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class HostFolder:
    """A folder below certs.d: its hosts.toml, if there is one, and the certificates that lie beside it.

    `path` is where it lies, absolute; relative paths in hosts.toml start there. `shown` is how a person named it.
    """

    name: str
    path: str
    shown: str
    hosts_toml: bytes | None = None
    certificates: tuple[str, ...] = ()
    unreadable: str = ""

    @property
    def span(self) -> Span:
        return Span(f"{self.shown}/{HOSTS_FILE}" if self.hosts_toml is not None else self.shown, 1)


def read_file(path: Path) -> bytes:
    """The bytes of a regular file; raises `Unreadable`."""
    shown = os.fspath(path)
    try:
        # Not blocking: a named pipe that nobody writes to would otherwise hold us here for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable(shown, "it is not a regular file")
            data = file.read(FILE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or "it cannot be opened"
        raise Unreadable(shown, reason) from error
    if len(data) > FILE_LIMIT_BYTES:
        raise Unreadable(shown, f"it is larger than {FILE_LIMIT_BYTES} bytes")
    return data


def read_certs_d(folder: Path) -> tuple[HostFolder, ...]:
    """Every folder of certs.d, by name; what cannot be read of one is said in it. Raises `Unreadable` for the whole."""
    names = _names(folder, FOLDERS_LIMIT)
    return tuple(found for name in names if (found := _host_folder(folder / name)) is not None)


def read_conf(path: Path) -> tuple[tuple[str, bytes | Unreadable], ...]:
    """registries.conf and its drop-ins in `<path>.d`, or those of a folder, in podman's order, with their names.

    Raises `Unreadable` for the file or the folder that was named.
    """
    if path.is_dir():
        return tuple(_drop_ins(path))
    below = path.with_name(f"{path.name}.d")
    return ((os.fspath(path), read_file(path)), *(_drop_ins(below) if below.is_dir() else ()))


def _drop_ins(folder: Path) -> Iterator[tuple[str, bytes | Unreadable]]:
    for name in _names(folder, NAMES_LIMIT):
        path = folder / name
        if not name.endswith(".conf") or path.is_dir():
            continue
        try:
            yield os.fspath(path), read_file(path)
        except Unreadable as error:
            yield os.fspath(path), error


def _host_folder(folder: Path) -> HostFolder | None:
    """The folder, also through a symbolic link; None if it is none."""
    name, path, shown = folder.name, os.fspath(folder.absolute()), os.fspath(folder)
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            return None
        files = _names(folder, NAMES_LIMIT)
    except (OSError, Unreadable) as error:
        reason = error.reason if isinstance(error, Unreadable) else error.strerror
        return HostFolder(name, path, shown, unreadable=reason or "it cannot be opened")
    if not is_text(path):
        return HostFolder(name, path, shown, unreadable="its path is not UTF-8, and YAML cannot name it")
    certificates = tuple(f"{path}/{file}" for file in files if file.endswith(_CERTIFICATES) and is_text(file))
    if HOSTS_FILE not in files:
        return HostFolder(name, path, shown, certificates=certificates)
    try:
        data = read_file(folder / HOSTS_FILE)
    except Unreadable as error:
        return HostFolder(name, path, shown, b"", certificates, unreadable=error.reason)
    return HostFolder(name, path, shown, data, certificates)


def is_text(name: str) -> bool:
    """Whether the name of a file is UTF-8, as YAML needs it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names(folder: Path, limit: int) -> list[str]:
    """The names in a folder, sorted; raises `Unreadable`, also if there are more than `limit`."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in islice(entries, limit + 1))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Unreadable(os.fspath(folder), reason or "it cannot be opened") from error
    if len(names) > limit:
        raise Unreadable(os.fspath(folder), f"it holds more than {limit} names")
    return names


def folders_of(files: Mapping[str, str], root: str) -> tuple[HostFolder, ...]:
    """The folders that `files` (path below `root` to text, as `k3s.render` gives them) would make."""
    named = {name: text for path, text in files.items() if (name := directory_name(path)) is not None}
    return tuple(
        HostFolder(
            name,
            path_clean(f"{root}/certs.d/{name}"),
            f"certs.d/{name}",
            text.encode("utf-8", "surrogateescape"),
        )
        for name, text in sorted(named.items())
        if "/" not in name
    )
