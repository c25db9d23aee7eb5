"""File systems of a test's own, to be full or read-only; for root."""

from __future__ import annotations

import subprocess
from pathlib import Path


def mount(folder: Path, options: str) -> None:
    """Let the folder be a file system in memory, or with `remount` in the options a changed one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, timeout=10)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True, timeout=10)
