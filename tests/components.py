"""The real programs that tests run against, and the packages of Debian and Ubuntu that bring them.

Run as a program it prints the packages that are missing here, one line each; `tools/components.sh` installs them.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Component:
    """One program, the package it comes in, whether it runs for root only, and whether it must need no libraries."""

    program: str
    package: str
    needs_root: bool = False
    is_static: bool = False


COMPONENTS: Final = {
    component.program: component
    for component in (
        Component("docker-registry", "docker-registry"),
        Component("containerd", "containerd", needs_root=True),
        Component("ctr", "containerd", needs_root=True),
        Component("runc", "runc", needs_root=True),
        Component("skopeo", "skopeo"),
        Component("podman", "podman", needs_root=True),
        Component("buildah", "buildah", needs_root=True),
        Component("nginx", "nginx-light"),
        Component("htpasswd", "apache2-utils"),
        Component("openssl", "openssl"),
        Component("zstd", "zstd"),
        Component("curl", "curl"),
        Component("busybox", "busybox-static", is_static=True),  # it takes the place of Debian's package `busybox`
        Component("sshd", "openssh-server"),
        Component("ssh-keygen", "openssh-client"),
        Component("systemd-analyze", "systemd"),
    )
}

PT_INTERP: Final = 3

# Debian's nginx is where ordinary users do not look.
SYSTEM_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def program(name: str) -> str | None:
    """The path of the component of that name on this machine, or None."""
    component = COMPONENTS[name]
    path = shutil.which(component.program, path=SYSTEM_PATH)
    return None if path and component.is_static and not runs_alone(path) else path


def runs_alone(path: str) -> bool:
    """Whether a program names no interpreter to load libraries with, so that it runs in an empty image.

    As elf(5): the program headers, none of which is PT_INTERP.
    """
    with Path(path).open("rb") as file:
        header = file.read(64)
        if header[:4] != b"\x7fELF":
            return False
        wide, order = header[4] == 2, "<" if header[5] == 1 else ">"
        at, size, count = struct.unpack_from(f"{order}{'32xQ14xHH' if wide else '28xI10xHH'}", header)
        file.seek(at)
        table = file.read(size * count)
    return PT_INTERP not in (struct.unpack_from(f"{order}I", table, size * index)[0] for index in range(count))


def missing_packages(names: Iterable[str]) -> tuple[str, ...]:
    """The packages that would bring those of the components that are not here, each once."""
    return tuple(dict.fromkeys(COMPONENTS[name].package for name in names if program(name) is None))


def why_not(names: Iterable[str]) -> str:
    """Why a test that needs these components cannot run here, with what to do about it; empty if it can."""
    wanted = tuple(names)
    if packages := missing_packages(wanted):
        return f"to run it: sudo apt-get install {' '.join(packages)}"
    root_only = [name for name in wanted if COMPONENTS[name].needs_root]
    if root_only and os.geteuid() != 0:
        return f"to run it: be root, as {' and '.join(root_only)} must"
    return ""


if __name__ == "__main__":
    for package in missing_packages(COMPONENTS):
        print(package)
