"""A certificate and its key as Go's crypto/tls takes them: `LoadX509KeyPair`, with the words it refuses them in.

As Go 1.27: src/crypto/tls/tls.go, X509KeyPair. For content that is PEM of the right kind and does not parse, the text
is our own: Go has dozens.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from typing import Final

PEM_LIMIT_BYTES: Final = 4 * 1024 * 1024

ReadFile = Callable[[str], bytes]
"""The content of the file at a path; raises `OSError`."""

_EDGE: Final = re.compile(rb"^-----(BEGIN|END) ([^\n-]+)-----[ \t]*\r?$", re.MULTILINE)


def read_file(path: str) -> bytes:
    """The content of `path`, which may be a pipe that nobody writes to: that is empty. Raises `OSError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL, or a surrogate that stands for no byte
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(PEM_LIMIT_BYTES + 1)
    if len(data) > PEM_LIMIT_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def file_error(path: str, error: OSError) -> str:
    """As Go words what `os.ReadFile` ran into."""
    action = "read" if error.errno == errno.EISDIR else "open"
    reason = error.strerror or "input/output error"
    return f"{action} {path}: {reason[:1].lower()}{reason[1:]}"


def pair_error(certificate_file: str, key_file: str, read: ReadFile) -> str | None:
    """Why Go refuses the pair, None if it takes it."""
    contents = []
    for path in (certificate_file, key_file):
        try:
            contents.append(read(path))
        except OSError as error:
            return file_error(path, error)
    certificate, key = contents
    return _certificate_error(certificate) or _key_error(key) or _match_error(certificate, key)


def blocks(pem: bytes) -> Iterator[tuple[str, bytes]]:
    """The blocks of a PEM file, each with its type; what stands between them is passed over."""
    kind, start = b"", 0
    for edge in _EDGE.finditer(pem):
        if edge[1] == b"BEGIN":
            kind, start = edge[2], edge.start()
        elif edge[2] == kind:
            yield kind.decode("utf-8", "replace"), pem[start : edge.end()] + b"\n"
            kind = b""


def is_key(kind: str) -> bool:
    """Whether a block of this type is taken for a private key."""
    return kind == "PRIVATE KEY" or kind.endswith(" PRIVATE KEY")


def _types(pem: bytes) -> list[str]:
    return [kind for kind, _ in blocks(pem)]


def _listed(types: list[str]) -> str:
    return f"[{' '.join(types)}]"  # Go's %v of a slice


def _certificate_error(pem: bytes) -> str | None:
    types = _types(pem)
    if "CERTIFICATE" in types:
        return None
    if not types:
        return "tls: failed to find any PEM data in certificate input"
    if len(types) == 1 and types[0].endswith("PRIVATE KEY"):
        return (
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; "
            "PEM inputs may have been switched"
        )
    start = 'tls: failed to find "CERTIFICATE" PEM block in certificate input after skipping PEM blocks'
    return f"{start} of the following types: {_listed(types)}"


def _key_error(pem: bytes) -> str | None:
    types = _types(pem)
    if any(is_key(kind) for kind in types):
        return None
    if not types:
        return "tls: failed to find any PEM data in key input"
    if types == ["CERTIFICATE"]:
        return "tls: found a certificate rather than a key in the PEM for the private key"
    start = 'tls: failed to find PEM block with type ending in "PRIVATE KEY" in key input after skipping PEM blocks'
    return f"{start} of the following types: {_listed(types)}"


def _match_error(certificate: bytes, key: bytes) -> str | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate

    try:
        ours = load_pem_x509_certificate(_first(certificate, lambda kind: kind == "CERTIFICATE")).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "x509: malformed certificate"
    try:
        theirs = load_pem_private_key(_first(key, is_key), password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        return "tls: failed to parse private key"
    if type(ours) is not type(theirs):
        return "tls: private key type does not match public key type"
    return None if ours == theirs else "tls: private key does not match public key"


def _first(pem: bytes, wanted: Callable[[str], bool]) -> bytes:
    """The first block of a wanted type, alone: what stands before it need not be of use."""
    return next((text for kind, text in blocks(pem) if wanted(kind)), b"")
