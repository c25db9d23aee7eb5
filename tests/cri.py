"""A client of the CRI's image service, the door by which kubelet pulls: containerd's own plugin, over its socket.

Messages are written by hand, for these few fields need no generated code (kubernetes/cri-api, runtime/v1/api.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it brings no types, and stubs for three names are not worth a package

CALL_SECONDS: Final = 60.0
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class CallFailed(Exception):
    """The service refused; the text is its own, as kubelet would show it."""


@dataclass(frozen=True)
class CriImage:
    """An image as the service lists it."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]


class ImageService:
    """PullImage, ListImages and RemoveImage of runtime.v1."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def pull(self, name: str) -> str:
        """Pull an image without credentials of kubelet's; gives the image's id. Raises `CallFailed`."""
        answer = self._call("PullImage", _field(1, _field(1, name.encode())))
        return dict(_fields(answer))[1].decode()

    def images(self) -> list[CriImage]:
        """Every image it has."""
        return [_image(value) for number, value in _fields(self._call("ListImages", b"")) if number == 1]

    def remove(self, name: str) -> None:
        """Forget an image under all of its names."""
        self._call("RemoveImage", _field(1, _field(1, name.encode())))

    def _call(self, method: str, message: bytes) -> bytes:
        call = self._channel.unary_unary(f"/runtime.v1.ImageService/{method}")
        try:
            answer = call(message, timeout=CALL_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            raise CallFailed(error.details()) from None
        assert isinstance(answer, bytes)
        return answer


@contextmanager
def image_service(socket: Path) -> Iterator[ImageService]:
    """The service behind containerd's socket."""
    # Go's server refuses the socket's path as the name of a host.
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        yield ImageService(channel)


def _image(message: bytes) -> CriImage:
    fields = list(_fields(message))

    def texts(wanted: int) -> tuple[str, ...]:
        return tuple(value.decode() for number, value in fields if number == wanted)

    return CriImage(texts(1)[0], texts(2), texts(3))


# ── protobuf ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and the content of every field of a message; of numbers, which nothing here needs, the bytes."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _read_varint(message, at)
            end = at + size
        elif kind == _VARINT:
            end = _read_varint(message, at)[1]
        else:
            end = at + {_FIXED64: 8, _FIXED32: 4}[kind]
        assert end <= len(message), "a message that is cut short"
        yield tag >> 3, message[at:end]
        at = end


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at
