"""Files that are not ours: looked at with a limit, and only if they are files; what cannot be read is said in words."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Content:
    """What a regular file holds. `mode` are its permission bits."""

    data: bytes = field(repr=False)
    mode: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no content, to follow the file's name: "does not exist".

    `ours`: it is this check that cannot read the file; the program that it is for, which is root, perhaps can.
    `missing`: there is none on this machine; there may be on another.
    """

    words: str
    ours: bool = False
    missing: bool = False


_WORDS: Final = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist: a part of its path is a file",
    errno.EISDIR: "is a directory",
    errno.ELOOP: "is a link that leads to itself",
    errno.ENAMETOOLONG: "is too long for a path",
    errno.EINVAL: "is no possible path",
    errno.ENXIO: "is not a file",  # a socket
    errno.ENODEV: "is not a file",
}
_OURS: Final = {errno.EACCES: "cannot be read by the user who runs this check", errno.EPERM: "cannot be read here"}


def read_regular(path: str, *, limit_bytes: int) -> Content | Trouble:
    """The content of a regular file; never waits for a pipe, never reads a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Trouble(_WORDS[errno.ENXIO])
            data = file.read(limit_bytes + 1)
    except ValueError:  # a NUL, or a surrogate that stands for no byte
        return Trouble(_WORDS[errno.EINVAL])
    except OSError as error:
        return _trouble(error)
    if len(data) > limit_bytes:
        return Trouble(f"is larger than {limit_bytes} bytes and was not looked at", ours=True)
    return Content(data, stat.S_IMODE(status.st_mode))


def _trouble(error: OSError) -> Trouble:
    code = error.errno or 0
    if code in _WORDS:
        return Trouble(_WORDS[code], missing=code in (errno.ENOENT, errno.ENOTDIR))
    return Trouble(_OURS.get(code, f"cannot be read here: {error.strerror}"), ours=True)
