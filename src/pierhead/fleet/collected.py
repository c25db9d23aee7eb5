"""What was collected of a node, before anybody reads it: bytes by path, wherever they came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pierhead.config.registries import SIZE_LIMIT_BYTES

FILE_LIMIT_BYTES: Final = SIZE_LIMIT_BYTES  # of one file; collect.sh has the same number
NODE_LIMIT_BYTES: Final = 16 * 1024 * 1024  # of all that one node may send
FILES_LIMIT: Final = 1024  # of one node
NODES_LIMIT: Final = 10_000

# What is no file on a node: the first line of `k3s --version`, and what stands on K3s' command line.
VERSION: Final = "k3s-version"
ARGUMENTS: Final = "k3s-args"
PROGRAMS: Final = ("k3s", "rke2")

_SETTINGS: Final = "disable-default-registry-endpoint|embedded-registry|private-registry|data-dir"
_WORD: Final = re.compile(rf"--?({_SETTINGS})(?:=(.*))?", re.DOTALL)
_LINE: Final = re.compile(rf"""^["']?({_SETTINGS})["']?[ \t]*:[ \t]*(.*?)(?:[ \t]#.*)?[ \t\r]*$""", re.MULTILINE)
_TAKES_VALUE: Final = ("private-registry", "data-dir")


@dataclass(frozen=True, slots=True)
class Collected:
    """The files of one node: absolute path on it (or VERSION, ARGUMENTS) to bytes.

    `missing` and `unreadable` were looked for; `directories` are there, whatever is in them. `source` is where all of
    this is from, for people.
    """

    name: str
    source: str
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    directories: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()

    @property
    def program(self) -> str:
        """k3s or rke2: whose folders these are."""
        for path in (*self.files, *self.directories, *self.missing, *self.unreadable):
            if path.startswith(("/etc/rancher/rke2", "/var/lib/rancher/rke2")):
                return "rke2"
        return "k3s"

    @property
    def settings(self) -> Mapping[str, str] | None:
        """K3s' own settings that bear on registries, by name; None if nobody looked.

        The command line wins over config.yaml, and a later file of config.yaml.d over an earlier one.
        """
        configured = sorted(path for path in self.files if is_config(path, self.program))
        if ARGUMENTS not in self.files and not configured:
            return None
        found: dict[str, str] = {}
        for path in configured:
            found.update(_configured(self.files[path].decode("utf-8", "replace")))
        return {**found, **_arguments(self.files.get(ARGUMENTS, b"").decode("utf-8", "replace"))}

    @property
    def registries_path(self) -> str:
        return (self.settings or {}).get("private-registry") or f"/etc/rancher/{self.program}/registries.yaml"

    @property
    def data_dir(self) -> str | None:
        return (self.settings or {}).get("data-dir") or None

    @property
    def root(self) -> str:
        """The folder that holds certs.d."""
        return f"{self.data_dir or f'/var/lib/rancher/{self.program}'}/agent/etc/containerd"


def is_config(path: str, program: str) -> bool:
    """Whether K3s reads its own settings there."""
    above, _, name = path.rpartition("/")
    folder = f"/etc/rancher/{program}"
    return path == f"{folder}/config.yaml" or (above == f"{folder}/config.yaml.d" and name.endswith(".yaml"))


def is_on(value: str | None) -> bool:
    """Whether a setting without a value, or with one, is on: as strconv.ParseBool reads it."""
    return value is not None and value in ("", "1", "t", "T", "true", "True", "TRUE")


def _arguments(text: str) -> dict[str, str]:
    """The settings on a command line or in a systemd unit; nothing else of it is looked at."""
    words = iter(re.sub(r"[\"'\\]", " ", text).split())
    found: dict[str, str] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            continue
        name, value = match[1], match[2]
        found[name] = (next(words, "") if value is None and name in _TAKES_VALUE else value) or ""
    return found


def _configured(text: str) -> dict[str, str]:
    return {name: value.strip("\"'") for name, value in _LINE.findall(text)}
