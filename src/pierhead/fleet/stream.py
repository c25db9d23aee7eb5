"""What collect.sh writes, read again: lines from a machine that may be anybody's, with limits on all of it.

Nothing of it is ever written to a disk: a path is only the name of some bytes.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator
from typing import Final

from pierhead.errors import PierheadError
from pierhead.fleet.collected import FILE_LIMIT_BYTES, FILES_LIMIT, Collected

_FIRST: Final = b"pierhead-node 1"
_LAST: Final = b"end"
_PATH_LIMIT_BYTES: Final = 4096


class InvalidStream(PierheadError):
    """A node sent something else than collect.sh writes."""


def read_stream(data: bytes, name: str, source: str) -> Collected:
    """The files in `data`; raises `InvalidStream`."""
    lines = iter(data.splitlines())
    if _FIRST not in lines:  # goes on until it is found
        raise InvalidStream("it sent nothing that begins as its files do")
    reading = _Reading()
    for line in lines:
        if line == _LAST:
            return reading.collected(name, source)
        reading.take(line, lines)
    raise InvalidStream("what it sent is cut off")


class _Reading:
    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._said: dict[bytes, set[str]] = {b"directory": set(), b"missing": set(), b"unreadable": set()}
        self._count = 0

    def take(self, line: bytes, lines: Iterator[bytes]) -> None:
        word, _, encoded = line.partition(b" ")
        self._count += 1
        if self._count > FILES_LIMIT:
            raise InvalidStream(f"it sent more than {FILES_LIMIT} files")
        path = _path(encoded)
        if word == b"file":
            self._files[path] = _content(path, lines)
        elif word in self._said:
            self._said[word].add(path)
        else:
            raise InvalidStream("it sent a line that is none of collect.sh")

    def collected(self, name: str, source: str) -> Collected:
        directories, missing, unreadable = map(frozenset, self._said.values())
        return Collected(name, source, self._files, directories, missing, unreadable)


def _content(path: str, lines: Iterator[bytes]) -> bytes:
    encoded = []
    for line in lines:
        if line == b".":
            break
        encoded.append(line)
    else:
        raise InvalidStream("what it sent is cut off")
    content = _decoded(b"".join(encoded))
    if len(content) > FILE_LIMIT_BYTES:
        raise InvalidStream(f"{path!a} is larger than {FILE_LIMIT_BYTES} bytes")
    return content


def _path(encoded: bytes) -> str:
    path = _decoded(encoded)
    if not path or len(path) > _PATH_LIMIT_BYTES:
        raise InvalidStream("it sent a path that can be none")
    return path.decode("utf-8", "surrogateescape")


def _decoded(encoded: bytes) -> bytes:
    try:
        return b64decode(encoded, validate=True)
    except binascii.Error:
        raise InvalidStream("it sent a line that is no base64") from None
