"""Who the nodes are: folders, files that list them, and host names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pierhead.crew import Crew
from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.fleet.collected import NODES_LIMIT, Collected
from pierhead.fleet.folders import from_file, from_folder, is_node
from pierhead.fleet.ssh import Ssh, valid_host

LIST_LIMIT_BYTES: Final = 1024 * 1024
_CLOSE_SECONDS: Final = 5.0
_YAML: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Source:
    """A node that is to be collected: how it is called, and how that is done."""

    name: str
    collect: Callable[[], Collected]


@dataclass(frozen=True, slots=True)
class Failed:
    """A node that could not be read, and why; `exit_code` as of the error."""

    name: str
    reason: str
    exit_code: ExitCode


def sources(arguments: Iterable[str], ssh: Ssh | None) -> tuple[Source, ...]:
    """The nodes that the arguments of the command name, in order; raises `UsageError`."""
    found = [source for argument in arguments for source in _sources(argument, ssh)]
    if len(found) > NODES_LIMIT:
        raise UsageError(f"these are {len(found)} nodes; the limit is {NODES_LIMIT}")
    seen: set[str] = set()
    for source in found:
        if source.name in seen:
            hint = "give each node a name of its own: a line `NAME PATH` or `NAME HOST` in a file"
            raise UsageError(f"two nodes are called {source.name!a}", hint=hint)
        seen.add(source.name)
    return tuple(found)


def collect(sources: Iterable[Source], workers: int) -> tuple[list[Collected], list[Failed]]:
    """What could be read, and what not, in the order given."""
    crew = Crew(workers, "fleet")
    try:
        results = crew.do([partial(_collected, source) for source in sources]).results()
    finally:
        crew.close(_CLOSE_SECONDS)
    return (
        [result for result in results if isinstance(result, Collected)],
        [result for result in results if isinstance(result, Failed)],
    )


def _collected(source: Source) -> Collected | Failed:
    try:
        collected = source.collect()
    except PierheadError as error:
        return Failed(source.name, error.message, error.exit_code)
    except OSError as error:
        return Failed(source.name, error.strerror or str(error), ExitCode.FAILED)
    if collected.registries_path in collected.unreadable:
        reason = f"{collected.registries_path} cannot be read: be root there, or use --sudo"
        return Failed(source.name, reason, ExitCode.NOT_AUTHORISED)
    return collected


def _sources(argument: str, ssh: Ssh | None) -> Iterator[Source]:
    path = Path(argument)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.suffix in _YAML and path.exists():
        yield _yaml(path)
    elif ssh is not None and "/" not in argument and not path.exists():
        yield _host(argument, argument, ssh)
    else:
        yield from _listed(path, ssh)


def _in_folder(folder: Path) -> Iterator[Source]:
    if is_node(folder):
        yield _folder(folder)
        return
    below = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_natural)
    nodes = [path for path in below if path.is_dir() or path.suffix in _YAML]
    if not nodes:
        raise UsageError(f"{folder} holds no node", hint="put a folder for each node below it, as ssh would find it")
    for path in nodes:
        yield _folder(path) if path.is_dir() else _yaml(path)


def _natural(path: Path) -> list[tuple[int, str]]:
    """worker2 before worker10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _folder(folder: Path, name: str | None = None) -> Source:
    name = name or folder.name or folder.resolve().name
    return Source(name, partial(from_folder, folder, name))


def _yaml(path: Path, name: str | None = None) -> Source:
    name = name or (path.resolve().parent.name if path.stem == "registries" else path.stem)
    return Source(name, partial(from_file, path, name))


def _host(host: str, name: str, ssh: Ssh) -> Source:
    return Source(name, partial(ssh.collect, valid_host(host), name))


def _listed(path: Path, ssh: Ssh | None) -> Iterator[Source]:
    """The nodes of a file: on each line a host or path, or a name and that."""
    for number, line in enumerate(_read_list(path).splitlines(), 1):
        words = line.partition("#")[0].split(None, 1)
        if not words:
            continue
        name, where = words[0], words[-1].strip()
        try:
            yield _host(where, name, ssh) if ssh else _at(path.parent / where, name if len(words) > 1 else None)
        except UsageError as error:
            raise UsageError(f"{path}:{number}: {error.message}", hint=error.hint) from None


def _at(path: Path, name: str | None) -> Source:
    return _yaml(path, name) if path.suffix in _YAML and not path.is_dir() else _folder(path, name)


def _read_list(path: Path) -> str:
    hint = "give a folder, or a file with a node on each line; with --ssh also the names of hosts"
    try:
        with path.open("rb") as file:
            data = file.read(LIST_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read {os.fspath(path)}: {reason}", hint=hint) from None
    if len(data) > LIST_LIMIT_BYTES:
        raise UsageError(f"{path} is larger than {LIST_LIMIT_BYTES} bytes")
    return data.decode("utf-8", "replace")
