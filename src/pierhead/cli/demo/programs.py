"""The smallest programs that Linux runs: they print a text and end. No C library, no linker, a few hundred bytes.

So the images of the demo are real: a container runtime that unpacks one can start it. The format is that of elf(5),
with one segment that holds everything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

LOAD_ADDRESS: Final = 0x400000
FILE_HEADER_BYTES: Final = 64
SEGMENT_HEADER_BYTES: Final = 56
CODE_OFFSET: Final = FILE_HEADER_BYTES + SEGMENT_HEADER_BYTES
X86_64, AARCH64 = 62, 183  # e_machine


def printing_program(architecture: str, text: str) -> bytes | None:
    """A Linux program for this architecture that prints `text`; None where we do not know how."""
    if architecture not in _MACHINES:
        return None
    machine, write_text = _MACHINES[architecture]
    data = text.encode()
    code = write_text(len(data)) + data
    size = CODE_OFFSET + len(code)
    entry = LOAD_ADDRESS + CODE_OFFSET
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian, version 1
    header = struct.pack(
        "<HHIQQQIHHHHHH",
        *(2, machine, 1, entry, FILE_HEADER_BYTES, 0, 0),  # 2: an executable
        *(FILE_HEADER_BYTES, SEGMENT_HEADER_BYTES, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000)  # loaded; r-x
    return ident + header + segment + code


def _x86_64(length: int) -> bytes:
    """write(1, text, length); exit(0). The text follows the code."""
    tail = bytes.fromhex("0f05 b83c000000 31ff 0f05")  # syscall; mov eax,60; xor edi,edi; syscall
    set_length = b"\xba" + struct.pack("<I", length)  # mov edx,length
    to_text = len(set_length) + len(tail)
    return bytes.fromhex("b801000000 bf01000000 488d35") + struct.pack("<i", to_text) + set_length + tail


def _aarch64(length: int) -> bytes:
    """The same, in eight instructions; `adr`, the second, counts from its own place."""
    to_text = 7 * 4
    instructions = (
        0xD2800020,  # mov x0, #1
        0x10000001 | (to_text >> 2) << 5,  # adr x1, text
        0xD2800002 | length << 5,  # mov x2, #length
        0xD2800808,  # mov x8, #64: write
        0xD4000001,  # svc #0
        0xD2800000,  # mov x0, #0
        0xD2800BA8,  # mov x8, #93: exit
        0xD4000001,  # svc #0
    )
    return struct.pack(f"<{len(instructions)}I", *instructions)


_MACHINES: Final[Mapping[str, tuple[int, Callable[[int], bytes]]]] = {
    "amd64": (X86_64, _x86_64),
    "arm64": (AARCH64, _aarch64),
}
