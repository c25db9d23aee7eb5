"""A path where the name of an image is wanted: a file of this machine, and no image of Docker Hub that is called so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pierhead.errors import UsageError
from pierhead.reference import HUB, InvalidReference, Reference

_BEGINNINGS: Final = ("/", "./", "../", "~/")  # of what is no name at all
_ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst")


def refuse_path(text: str, instead: str = "") -> None:
    """Raises `UsageError` if `text` is there as a file or folder, and reads like a path.

    What may as well be a name, like the folder `redis`, is one. `instead` is the hint, in which {} is the path as a
    place (`copying.places`); else it is to write that.
    """
    if (_is_path(text) or is_archive(text)) and os.path.lexists(text):
        what, kind = ("folder", "oci") if Path(text).is_dir() else ("file", "oci-archive")
        hint = instead.replace("{}", f"{kind}:{text}") or _written(text)
        raise UsageError(f"{text} is a {what} here, and no image's name", hint=hint)


def refuse_path_to_write(text: str) -> None:
    """Raises `UsageError` if `text` reads like a path, there or not, and would be pushed to Docker Hub at best."""
    if _is_path(text) or (is_archive(text) and _is_on_hub(text)):
        raise UsageError(f"{text} reads like a path, and not like an image's name", hint=_written(text))


def layout_hint(text: str) -> str:
    """What to say when no registry has an image of this name, which is that of a layout's folder; else nothing."""
    return f"{text} is a folder here: write oci:{text}" if (Path(text) / "oci-layout").is_file() else ""


def _is_path(text: str) -> bool:
    return text.startswith(_BEGINNINGS)


def is_archive(text: str) -> bool:
    """Whether the name says that it is a tarball."""
    return text.lower().endswith(_ARCHIVES)


def _is_on_hub(text: str) -> bool:
    """Whether Docker Hub would be meant without being named, and without a tag; a colon is also after `oci-archive`."""
    try:
        return ":" not in text and Reference.parse(text).registry == HUB and not text.startswith(f"{HUB}/")
    except InvalidReference:
        return True


def _written(text: str) -> str:
    if Path(text).is_dir() or not (is_archive(text) or Path(text).exists()):
        return f"write oci:{text}"
    named = "" if _is_path(text) else f"; if an image is called so, name its tag: {text}:latest"
    return f"write oci-archive:{text} or docker-archive:{text}{named}"
