"""Passwords from an htpasswd file: bcrypt only, verified off the event loop, successes remembered.

The file is read again when it changes, so a password can be withdrawn without a restart. One verification costs tens of
milliseconds by design; what succeeded is therefore kept as a keyed hash, in memory only and for this process only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from pierhead.errors import Span, UsageError
from pierhead.redact import Secret

FILE_LIMIT_BYTES: Final = 4 * 1024 * 1024
REMEMBERED_LIMIT: Final = 1024
RECHECK_SECONDS: Final = 1.0  # how long a change of the file may go unseen
BCRYPT_LIMIT_BYTES: Final = 72  # bcrypt looks no further; htpasswd cuts, and so did every server so far
_BCRYPT = re.compile(rb"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
# Spent on an unknown user, so that the time of an answer does not tell who exists. The hash of a random text.
_NOBODY: Final = b"$2b$%s$KUkTkQOdUlgIqxSHK/6C4OvDlyKKYI7IzZ1vSPbVcCIkaIDnKpvBK"


class UnusableHtpasswd(UsageError):
    """The htpasswd file cannot be read, or an entry of it cannot be used."""


@dataclass(frozen=True, slots=True)
class _Entries:
    hashes: dict[str, bytes]
    nobody: bytes
    version: tuple[int, int, int]  # modification time, size and inode of the file these were read from


class Htpasswd:
    """Who may come in. Raises `UnusableHtpasswd` when made of a file that cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)
        self._checked = time.monotonic()
        self._salt = os.urandom(32)
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def remembers(self, user: str, password: Secret) -> bool:
        """Whether this was verified before, against the file as it is now. Never blocks; False decides nothing."""
        if time.monotonic() - self._checked > RECHECK_SECONDS:
            return False
        key = self._key(user, password)
        with self._lock:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                return True
        return False

    def verify(self, user: str, password: Secret) -> bool:
        """Whether the password is right. Takes tens of milliseconds, and the same for a user who does not exist."""
        self._refresh()
        if self.remembers(user, password):
            return True
        expected = self._entries.hashes.get(user)
        right = _matches(password, expected or self._entries.nobody) and expected is not None
        if right:
            self._remember(self._key(user, password))
        return right

    def _refresh(self) -> None:
        """Read the file again if it changed; one that cannot be used now leaves things as they were."""
        if time.monotonic() - self._checked <= RECHECK_SECONDS:
            return
        try:
            if _version(self._path.stat()) != self._entries.version:
                self._entries = _read(self._path)
        except (UnusableHtpasswd, OSError):
            pass  # in the middle of being written: the next check sees the rest
        self._checked = time.monotonic()

    def _key(self, user: str, password: Secret) -> bytes:
        """Holds the stored hash too: with another hash in the file, nothing is remembered of the user."""
        stored = self._entries.hashes.get(user, b"")
        text = b"\0".join((user.encode("utf-8", "surrogatepass"), stored, _bytes(password)))
        return hmac.digest(self._salt, text, hashlib.sha256)

    def _remember(self, key: bytes) -> None:
        with self._lock:
            self._remembered[key] = None
            while len(self._remembered) > REMEMBERED_LIMIT:
                self._remembered.popitem(last=False)


def _matches(password: Secret, stored: bytes) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(_bytes(password)[:BCRYPT_LIMIT_BYTES], stored)
    except ValueError:  # a NUL in the password
        return False


def _bytes(password: Secret) -> bytes:
    return password.reveal().encode("utf-8", "surrogatepass")


def _read(path: Path) -> _Entries:
    try:
        with path.open("rb") as file:
            version = _version(os.fstat(file.fileno()))
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        hint = "make one with: htpasswd -Bc FILE USER"
        raise UnusableHtpasswd(f"cannot read the htpasswd file {path}: {error.strerror}", hint=hint) from error
    if len(data) > FILE_LIMIT_BYTES:
        raise UnusableHtpasswd(f"the htpasswd file {path} is larger than {FILE_LIMIT_BYTES} bytes")
    hashes = dict(_entry(path, number, line) for number, line in enumerate(data.splitlines(), 1) if _is_entry(line))
    costs = [stored[4:6] for stored in hashes.values()] or [b"10"]
    return _Entries(hashes, _NOBODY % max(costs), version)


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _is_entry(line: bytes) -> bool:
    return bool(line.strip()) and not line.startswith(b"#")


def _entry(path: Path, number: int, line: bytes) -> tuple[str, bytes]:
    """User and hash; the error names the line and the user, never the hash."""
    span = Span(str(path), number)
    user, colon, stored = line.strip().partition(b":")
    try:
        name = user.decode()
    except UnicodeDecodeError:
        raise UnusableHtpasswd("a user name that is not UTF-8", span=span) from None
    if not colon or not user:
        raise UnusableHtpasswd("not an entry of the form user:hash", span=span)
    if not _BCRYPT.fullmatch(stored):
        hint = f"set it again with: htpasswd -B {path} {name}"
        raise UnusableHtpasswd(f"the password of {name!r} is not stored with bcrypt", hint=hint, span=span)
    return name, stored
