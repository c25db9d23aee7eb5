"""The real programs that tests run against, and the packages of Debian and Ubuntu that bring them.

Run as a program it prints the packages that are missing here, one line each; `tools/components.sh` installs them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Component:
    """One program, the package it comes in, and whether it runs for root only."""

    program: str
    package: str
    needs_root: bool = False


COMPONENTS: Final = {
    component.program: component
    for component in (
        Component("docker-registry", "docker-registry"),
        Component("containerd", "containerd", needs_root=True),
        Component("ctr", "containerd", needs_root=True),
        Component("runc", "runc", needs_root=True),
        Component("skopeo", "skopeo"),
        Component("podman", "podman", needs_root=True),
        Component("nginx", "nginx-light"),
        Component("htpasswd", "apache2-utils"),
        Component("openssl", "openssl"),
        Component("curl", "curl"),
        Component("busybox", "busybox"),
        Component("sshd", "openssh-server"),
        Component("ssh-keygen", "openssh-client"),
        Component("systemd-analyze", "systemd"),
    )
}

# Debian's nginx is where ordinary users do not look.
SYSTEM_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def program(name: str) -> str | None:
    """The path of the component of that name on this machine, or None."""
    return shutil.which(COMPONENTS[name].program, path=SYSTEM_PATH)


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
