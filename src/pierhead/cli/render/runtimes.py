"""Which module writes for which runtime, and what it is asked for.

Every renderer of `pierhead.config` is a pure function that is imported when its runtime is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pierhead.errors import Problem, UsageError

if TYPE_CHECKING:
    from pierhead.config.k3s_files import Generation, Mode
    from pierhead.config.k3s_hosts import Flags
    from pierhead.config.registries import RegistriesConfig
    from pierhead.config.rendered import Rendered


@dataclass(frozen=True, slots=True)
class Asked:
    """A registries.yaml, K3s' own flags, and what the runtime's files are to be like."""

    runtime: str
    config: RegistriesConfig
    flags: Flags
    mode: Mode = "refuse"
    generation: Generation = "v3"
    header_auth: bool = False

    @property
    def is_k3s(self) -> bool:
        return self.runtime in _K3S

    def rendered(self) -> Rendered:
        """The runtime's files; raises `UnusableConfig`, `CannotRender` and `HarmfulFiles`."""
        found = RUNTIMES[self.runtime](self)
        return replace(found, lost=tuple(sorted(dict.fromkeys(found.lost), key=_place)))


def _place(problem: Problem) -> tuple[str, int, int]:
    return (problem.span.file, problem.span.line, problem.span.column) if problem.span else ("", 0, 0)


def asked_for(runtime: str, flags: Mapping[str, Any]) -> Asked:
    """What the options of the command describe; raises `UsageError`, `ConfigUnreadable`, `UnusableConfig`."""
    from pierhead.cli.world import flags_for, read_config

    _fitting(runtime, flags)
    config = read_config(_file(runtime, flags["private_registry"]))
    k3s_flags = flags_for(config, flags["disable_default_registry_endpoint"], flags["embedded_registry"])
    program = runtime if runtime in _K3S else k3s_flags.program
    mode: Mode = "as-k3s" if flags["as_k3s"] else "safe" if flags["safe"] else "refuse"
    return Asked(
        runtime,
        config,
        replace(k3s_flags, program=program, data_dir=flags["data_dir"]),
        mode,
        flags["containerd_config"] or "v3",
        flags["header_auth"],
    )


def _fitting(runtime: str, flags: Mapping[str, Any]) -> None:
    if flags["as_k3s"] and flags["safe"]:
        raise UsageError("--as-k3s writes what does harm and --safe does not: one of them")
    for option in ("as_k3s", "safe", "containerd_config") if runtime not in _K3S else ():
        if flags[option]:
            raise UsageError(f"--{option.replace('_', '-')} is for k3s and rke2, not for {runtime}")
    if flags["header_auth"] and runtime != "containerd":
        raise UsageError(f"--header-auth is for containerd, not for {runtime}")


def _file(runtime: str, given: Path | None) -> Path | None:
    """The file to read: RKE2's own comes first for rke2."""
    from pierhead.cli.world import DEFAULT_FILES

    own = [path for path in DEFAULT_FILES if runtime in path.parts and path.exists()]
    return given or (own[0] if own else None)


def _files_of_k3s(asked: Asked) -> Rendered:
    from pierhead.config.k3s_files import render

    return render(asked.config, asked.flags, containerd_config=asked.generation, mode=asked.mode)


def _told(module: str, **options: Callable[[Asked], Any]) -> Callable[[Asked], Rendered]:
    """A renderer that gets the hosts that are meant: where K3s itself would do harm, other runtimes need not."""

    def render(asked: Asked) -> Rendered:
        from pierhead.config.k3s import hosts
        from pierhead.config.k3s_meant import meant
        from pierhead.config.k3sfile import CannotRender

        wanted = meant(asked.config, asked.flags)
        found = hosts(wanted.config, asked.flags)
        if found.error is not None:
            raise CannotRender(found.problems[0].message, span=found.problems[0].span)
        given = {name: value(asked) for name, value in options.items()}
        rendered: Rendered = import_module(f"pierhead.config.{module}").render(found, **given)
        left_out = _OF_K3S if asked.runtime != "k3d" else ()
        known = [problem for problem in (*wanted.changes, *found.problems) if problem.id not in left_out]
        return replace(rendered, lost=(*asked.config.problems, *known, *rendered.lost))

    return render


_K3S: Final = ("k3s", "rke2")
_OF_K3S: Final = (
    "rewrite-escaped",
    "containerd-does-not-start",
)  # what comes of its missing quotes, and of nothing else

RUNTIMES: Final[dict[str, Callable[[Asked], Rendered]]] = {
    "k3s": _files_of_k3s,
    "rke2": _files_of_k3s,
    "containerd": _told("containerd_files", header_auth=lambda asked: asked.header_auth),
    "docker": _told("docker"),
    "podman": _told("podman"),
    "skopeo": _told("podman"),  # it reads the same files
    "auth": _told("authjson"),
    "k3d": _told("k3d", flags=lambda asked: asked.flags),
    "buildkit": _told("buildkit"),
}
