"""The files of a node from a folder that somebody collected: a tree as on the node, or a registries.yaml alone.

A folder may have been filled by a hostile node: no symbolic link leads out of it, no pipe or device is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pierhead.config.registries import parse
from pierhead.errors import UsageError
from pierhead.fleet.collected import ARGUMENTS, FILE_LIMIT_BYTES, FILES_LIMIT, PROGRAMS, VERSION, Collected, is_config

_UNITS: Final = tuple(
    f"/{folder}/{unit}.service"
    for folder in ("etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")
    for unit in ("k3s", "k3s-agent", "rke2-server", "rke2-agent")
)
_MARKS: Final = ("etc/rancher", "var/lib/rancher", "registries.yaml", "certs.d", VERSION, ARGUMENTS)


class UnreadableNode(UsageError):
    """Nothing of a node can be read where it is said to be."""


def is_node(folder: Path) -> bool:
    """Whether something of a node lies in the folder itself."""
    return any((folder / mark).exists() for mark in _MARKS)


def from_file(path: Path, name: str) -> Collected:
    """A node of which only registries.yaml is known; raises `UnreadableNode`."""
    try:
        data = _read_regular(path)
    except OSError as error:
        raise UnreadableNode(f"cannot read {path}: {error.strerror}") from None
    program = "rke2" if "rke2" in path.parts else "k3s"
    return Collected(name, os.fspath(path), {f"/etc/rancher/{program}/registries.yaml": data})


def from_folder(folder: Path, name: str) -> Collected:
    """All that the folder has of a node; raises `UnreadableNode`."""
    if not folder.is_dir():
        raise UnreadableNode(f"{folder} is no folder")
    if not is_node(folder):
        raise UnreadableNode(f"{folder} holds nothing of a node", hint="put etc/rancher/k3s/registries.yaml below it")
    tree = _Tree(folder)
    tree.collect()
    return Collected(
        name,
        os.fspath(folder),
        tree.files,
        frozenset(tree.directories),
        frozenset(tree.missing),
        frozenset(tree.unreadable),
    )


class _Tree:
    """A folder as the root of a node's file system, and what was read of it so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._real = folder.resolve()
        self.files: dict[str, bytes] = {}
        self.directories: set[str] = set()
        self.missing: set[str] = set()
        self.unreadable: set[str] = set()

    def collect(self) -> None:
        program = next(
            (name for name in PROGRAMS if self._has(f"etc/rancher/{name}", f"var/lib/rancher/{name}")), "k3s"
        )
        if self._has(f"etc/rancher/{program}"):
            self.directories.add(f"/etc/rancher/{program}")
        self._read(VERSION, VERSION)
        self._collect_settings(program)
        so_far = self._collected()
        registries = so_far.registries_path
        self._collect_registries(registries, looked=self._has(f"etc/rancher/{program}"))
        if registries in self.files:
            self._collect_certificates(self.files[registries])
        self._collect_hosts(
            "certs.d" if self._has("certs.d") else f"{so_far.root[1:]}/certs.d", f"{so_far.root}/certs.d"
        )

    def _collected(self) -> Collected:
        return Collected("", "", self.files, frozenset(self.directories))

    def _collect_settings(self, program: str) -> None:
        if not self._read(ARGUMENTS, ARGUMENTS):
            for unit in _UNITS:
                if self._read(unit[1:], ARGUMENTS):
                    break
        for path in (f"etc/rancher/{program}/config.yaml", *self._below(f"etc/rancher/{program}/config.yaml.d")):
            if is_config(f"/{path}", program):
                self._read(path, f"/{path}")

    def _collect_registries(self, path: str, *, looked: bool) -> None:
        found = self._read("registries.yaml", path) or self._read(path[1:], path)
        if looked and not found and path not in self.unreadable:
            self.missing.add(path)

    def _collect_certificates(self, registries: bytes) -> None:
        for entry in parse(registries, "").configs.values():
            for text in (entry.tls.ca_file, entry.tls.cert_file) if entry.tls else ():
                if text is not None and text.value.startswith("/") and not self._read(text.value[1:], text.value):
                    self.missing.add(text.value)

    def _collect_hosts(self, folder: str, path: str) -> None:
        inside = self._inside(folder)
        if inside is None or not inside.is_dir():
            return
        self.directories.add(path)
        for name in self._below(folder):
            for found in (name, *self._below(name)):
                below = found.removeprefix(f"{folder}/")
                self._read(f"{found}/hosts.toml", f"{path}/{below}/hosts.toml")

    def _has(self, *names: str) -> bool:
        return any((self._folder / name).exists() for name in names)

    def _inside(self, name: str) -> Path | None:
        """Where the path leads, links followed; None if that is out of the folder, or no path at all."""
        try:
            found = (self._folder / name).resolve()
        except (OSError, ValueError, RuntimeError):  # RuntimeError: a link that leads to itself
            return None
        return found if found.is_relative_to(self._real) else None

    def _below(self, name: str) -> Iterator[str]:
        inside = self._inside(name)
        if inside is None or not inside.is_dir():
            return iter(())
        return iter(sorted(f"{name}/{below.name}" for below in inside.iterdir()))

    def _read(self, name: str, path: str) -> bool:
        """Whether the file is there and was read; what is there and cannot be read is remembered."""
        if len(self.files) >= FILES_LIMIT or not os.path.lexists(self._folder / name):
            return False
        inside = self._inside(name)
        try:
            if inside is None:
                raise OSError("it leads out of the folder")
            self.files[path] = _read_regular(inside)
        except OSError:
            self.unreadable.add(path)
            return False
        return True


def _read_regular(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no file")
        data = file.read(FILE_LIMIT_BYTES + 1)
    if len(data) > FILE_LIMIT_BYTES:
        raise OSError(0, f"it is larger than {FILE_LIMIT_BYTES} bytes")
    return data
