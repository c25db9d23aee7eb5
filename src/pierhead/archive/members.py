"""What is in a tar file, and where: its headers, read one after the other; nothing is ever extracted.

The formats are POSIX ustar and pax (IEEE Std 1003.1, "pax Interchange Format"), and what GNU tar and the ancients did
beside them (GNU tar manual, "Basic Tar Format"). The reader is strict where two readers could see two archives: what is
checked is then what a node imports. As Go's archive/tar, which containerd imports with, global pax headers are passed
over; one that would matter is refused.
"""

from __future__ import annotations

import os
import posixpath
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pierhead.archive.invalid import MADE_ANEW, NOT_OURS, InvalidArchive, shown
from pierhead.body import FileBlob

BLOCK_BYTES: Final = 512
MEMBERS_LIMIT: Final = 100_000  # headers of any kind; all images of an RKE2 release need some hundred
NAME_LIMIT_BYTES: Final = 4096  # of a member, as PATH_MAX
EXTENSION_LIMIT_BYTES: Final = 1024 * 1024  # one pax header, as Go's archive/tar: maxSpecialFileSize
LINKS_LIMIT: Final = 8  # from a link to the next
COMPARE_BYTES: Final = 1024 * 1024

_WHOLE = "write it again without --sparse"
_KINDS: Final = {  # what a member is that no image's archive has, by its typeflag
    b"3": "is a character device",
    b"4": "is a block device",
    b"6": "is a named pipe",
    b"M": "is the rest of a file that began in another volume",
}


@dataclass(frozen=True, slots=True)
class Header:
    """One member as the tar says: `offset` is where its `size_bytes` bytes begin."""

    name: str
    kind: bytes
    offset: int
    size_bytes: int
    target: str = ""


class Members:
    """The files and links of one tar file by their names, without `./` before them. Reads it through `path`.

    Raises `InvalidArchive` for all that is hostile or cut; see `scan`.
    """

    def __init__(self, path: Path, *, shown_as: Path | None = None) -> None:
        self.path = path
        self.shown_as = shown_as or path
        self._files: dict[str, FileBlob] = {}
        self._links: dict[str, str] = {}
        with path.open("rb", buffering=0) as file:
            for header in _Scan(file.fileno(), self.shown_as).headers():
                self._take(header)

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._links

    def __iter__(self) -> Iterator[str]:
        yield from self._files
        yield from self._links

    def file(self, name: str) -> FileBlob | None:
        """The bytes of a member, following links inside of the archive; None if there is none of that name."""
        at = _normal(name)
        for _ in range(LINKS_LIMIT):
            if at not in self._links:
                return self._files.get(at)
            at = self._links[at]
        raise InvalidArchive(self.shown_as, "is a link to a link that does not end", member=name, hint=NOT_OURS)

    def _take(self, header: Header) -> None:
        name = self._name(header.name)
        match header.kind:
            case b"0":
                self._add_file(name, FileBlob(self.path, header.offset, header.size_bytes))
            case b"1" | b"2":
                self._add_link(name, header)

    def _add_file(self, name: str, blob: FileBlob) -> None:
        if name in self._links or (name in self._files and not _same(self._files[name], blob)):
            raise self._twice(name)
        self._files.setdefault(name, blob)

    def _add_link(self, name: str, header: Header) -> None:
        folder = posixpath.dirname(name) if header.kind == b"2" else ""  # a hard link's target is a member's name
        target = _normal(posixpath.join(folder, header.target))
        if not header.target or _leads_out(posixpath.normpath(posixpath.join(folder, header.target))):
            reason = f"is a link that leads out of it, to {shown(header.target)}"
            raise InvalidArchive(self.shown_as, reason, member=header.name, hint=NOT_OURS)
        if name in self._files or self._links.get(name, target) != target:
            raise self._twice(name)
        self._links[name] = target

    def _name(self, name: str) -> str:
        if not name or name.startswith("/") or ".." in name.split("/"):
            reason = f"{shown(name)} is no name of a file inside of it"
            raise InvalidArchive(self.shown_as, reason, hint=NOT_OURS)
        return _normal(name)

    def _twice(self, name: str) -> InvalidArchive:
        reason = "is in it twice, with different content"
        return InvalidArchive(self.shown_as, reason, member=name, hint="write it again as a new file")


def _normal(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _leads_out(path: str) -> bool:
    return path == ".." or path.startswith(("/", "../"))


def _same(one: FileBlob, other: FileBlob) -> bool:
    """Whether two members have the same bytes."""
    if one.size_bytes != other.size_bytes:
        return False
    with one.path.open("rb", buffering=0) as file:
        read = file.fileno()
        return all(
            os.pread(read, COMPARE_BYTES, one.offset + at)[: one.size_bytes - at]
            == os.pread(read, COMPARE_BYTES, other.offset + at)[: one.size_bytes - at]
            for at in range(0, one.size_bytes, COMPARE_BYTES)
        )


class _Scan:
    """One pass over the headers of an open file."""

    def __init__(self, descriptor: int, shown_as: Path) -> None:
        self._descriptor = descriptor
        self._path = shown_as
        self._end = os.fstat(descriptor).st_size
        self._at = 0

    def headers(self) -> Iterator[Header]:
        """Every member that is a file, a folder or a link."""
        extended: dict[str, str] = {}
        for count in range(MEMBERS_LIMIT + 1):
            raw = self._block()
            if raw is None:
                return
            if count == MEMBERS_LIMIT:
                raise InvalidArchive(self._path, f"it has more than {MEMBERS_LIMIT} members", hint=NOT_OURS)
            header = self._parse(raw, extended)
            if header.kind in _EXTENSIONS:
                extended |= _EXTENSIONS[header.kind](self, header)
            else:
                yield from self._plain(header, extended)
                extended = {}

    def _block(self) -> bytes | None:
        """The next header; None at the end mark."""
        raw = os.pread(self._descriptor, BLOCK_BYTES, self._at)
        if len(raw) < BLOCK_BYTES:
            raise self._cut("it ends without the end mark of a tar file")
        if not any(raw):
            return None
        self._at += BLOCK_BYTES
        return raw

    def _parse(self, raw: bytes, extended: dict[str, str]) -> Header:
        """The header in a block, with what extended headers before it say instead."""
        if not is_header(raw):
            raise self._cut(f"at byte {self._at - BLOCK_BYTES} there is no tar header where one must be")
        kind = raw[156:157]
        if kind in _EXTENSIONS:  # it is about the next one as well, so that nothing before applies to it
            extended = {}
        name = extended.get("path") or _joined(raw)
        size = self._number(extended["size"]) if "size" in extended else self._size(raw, name)
        # The ancients marked a folder by its name alone. As Go's archive/tar: these kinds have no bytes (isHeaderOnly).
        if kind in (b"\0", b"7"):
            kind = b"5" if name.endswith("/") else b"0"
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            size = 0
        self._advance(name, size)
        return Header(name, kind, self._at - _padded(size), size, extended.get("linkpath") or _text(raw[157:257]))

    def _plain(self, header: Header, extended: dict[str, str]) -> Iterator[Header]:
        name = header.name
        if len(os.fsencode(name)) > NAME_LIMIT_BYTES or len(os.fsencode(header.target)) > NAME_LIMIT_BYTES:
            raise InvalidArchive(self._path, f"is a name of more than {NAME_LIMIT_BYTES} bytes", member=name)
        if header.kind == b"S" or any(key.startswith("GNU.sparse.") for key in extended):
            raise InvalidArchive(self._path, "is written with holes", member=name, hint=_WHOLE)
        if header.kind == b"V":  # the volume's label
            return
        if header.kind not in (b"0", b"1", b"2", b"5"):
            reason = _KINDS.get(header.kind, f"is of an unknown kind ({header.kind.decode('latin-1')!a})")
            raise InvalidArchive(self._path, reason, member=name, hint=NOT_OURS)
        yield header

    def _advance(self, name: str, size: int) -> None:
        """Go on behind the bytes of a member."""
        if self._at + size > self._end:
            raise self._cut(f"has {size} bytes, of which {max(0, self._end - self._at)} are there", member=name)
        self._at += _padded(size)

    def _size(self, raw: bytes, name: str) -> int:
        field = raw[124:136]
        if field[0] & 0x80:  # base 256, as GNU tar writes what does not fit
            number = int.from_bytes(field, "big", signed=False) - (0x80 << 88)
            negative = field[0] & 0x40
        else:
            number, negative = _octal(field), 0
        if negative or number < 0:
            raise InvalidArchive(self._path, "has a size that is none", member=name, hint=NOT_OURS)
        return number

    def _number(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InvalidArchive(self._path, f"a pax header says size {shown(text)}", hint=NOT_OURS)
        return int(text)

    def _cut(self, reason: str, *, member: str = "") -> InvalidArchive:
        hint = MADE_ANEW if self._at > BLOCK_BYTES else "it is no tar file either"
        return InvalidArchive(self._path, reason, member=member, hint=hint)

    # Headers that say more about the next one

    def _content(self, header: Header) -> bytes:
        if header.size_bytes > EXTENSION_LIMIT_BYTES:
            reason = f"a tar header of {header.size_bytes} bytes; the limit is {EXTENSION_LIMIT_BYTES}"
            raise InvalidArchive(self._path, reason, hint=NOT_OURS)
        return os.pread(self._descriptor, header.size_bytes, header.offset)

    def _long_name(self, header: Header) -> dict[str, str]:
        return {"path": _text(self._content(header))}

    def _long_target(self, header: Header) -> dict[str, str]:
        return {"linkpath": _text(self._content(header))}

    def _records(self, header: Header) -> dict[str, str]:
        """The records of a pax header: `<length> <key>=<value>` and a line feed each."""
        data, records = self._content(header), {}
        while data:
            digits, _, _ = data.partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
            key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
            if not equals or not key or data[length - 1 : length] != b"\n" or b"\0" in key + value:
                raise InvalidArchive(self._path, "a pax header of it is damaged")
            records[os.fsdecode(key)] = os.fsdecode(value)
            data = data[length:]
        return records

    def _global(self, header: Header) -> dict[str, str]:
        records = self._records(header)
        if changing := [key for key in records if key in ("path", "linkpath", "size") or key.startswith("GNU.sparse")]:
            raise InvalidArchive(self._path, f"a global pax header sets {shown(changing[0])} for all", hint=NOT_OURS)
        return {}


_EXTENSIONS: Final[dict[bytes, Callable[[_Scan, Header], dict[str, str]]]] = {
    b"L": _Scan._long_name,
    b"K": _Scan._long_target,
    b"x": _Scan._records,
    b"g": _Scan._global,
}


def is_header(raw: bytes) -> bool:
    """Whether a block is a tar header: its checksum says so (of signed bytes, as some ancient tars summed)."""
    if len(raw) < BLOCK_BYTES:
        return False
    claimed = _octal(raw[148:156])
    body = raw[:148] + b" " * 8 + raw[156:BLOCK_BYTES]
    return sum(body) == claimed or sum(struct.unpack(f"{BLOCK_BYTES}b", body)) == claimed


def _octal(field: bytes) -> int:
    """A number in octal digits; -1 if it is none."""
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    return int(text, 8) if all(0x30 <= digit <= 0x37 for digit in text) else -1


def _joined(raw: bytes) -> str:
    """The name in a header; POSIX's has its beginning elsewhere if it is long."""
    name, prefix = _text(raw[:100]), _text(raw[345:500])
    return f"{prefix}/{name}" if prefix and raw[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
