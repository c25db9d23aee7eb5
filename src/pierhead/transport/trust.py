"""Which CAs are trusted and which certificate we show: PEM files, looked at before libcurl does.

The libcurl of our wheel brings its own OpenSSL, which does not know where this machine keeps its CAs. So the pool is
gathered here, from where Go's crypto/x509 takes it (root_linux.go, root_unix.go, Go 1.27), and given to libcurl as
one file in memory: libcurl caches a CA file once parsed (4 ms for 150 CAs), but not a CA blob or folder.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pierhead.transport.failure import Cause, TransportError

PEM_FILE_LIMIT_BYTES: Final = 16 * 1024 * 1024
CA_FOLDER_LIMIT_FILES: Final = 10_000

_SYSTEM_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Gentoo, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL 6
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/pki/tls/cacert.pem",  # OpenELEC
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # CentOS, RHEL 7
    "/etc/ssl/cert.pem",  # Alpine
)
_SYSTEM_FOLDERS: Final = ("/etc/ssl/certs", "/etc/pki/tls/certs")
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s*([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")

_Stamp = tuple[int, int, int]


class Trust:
    """The CA files and client certificates of hosts, read again whenever they change."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._system: dict[bytes, None] | None = None
        self._seen: dict[tuple[str, ...], tuple[tuple[_Stamp, ...], str]] = {}
        self._checked_pairs: dict[tuple[str, str], tuple[_Stamp, ...]] = {}
        self._bundles: dict[bytes, int] = {}

    def ca_path(self, files: Sequence[str]) -> str:
        """The path of one file with the system's CAs and those of `files`, empty if there is none at all.

        Raises `TransportError` (CA_FILE) about a file of `files`.
        """
        key = tuple(files)
        stamps = tuple(_stamp(file) for file in key)
        with self._lock:
            if key in self._seen and self._seen[key][0] == stamps:
                return self._seen[key][1]
            certificates = dict(self._system_pool())
            for file in key:
                certificates.update(dict.fromkeys(_ca_file(file)))
            path = self._bundle(b"".join(certificates)) if certificates else ""
            self._seen[key] = (stamps, path)
            return path

    def anchors(self, files: Sequence[str]) -> dict[str, list[bytes]]:
        """The certificates that are trusted, by the file they come from; "" stands for the system's.

        Raises `TransportError` (CA_FILE) about a file of `files`.
        """
        found = {file: list(_ca_file(file)) for file in files}
        with self._lock:
            return {**found, "": list(self._system_pool())}

    def check_client(self, cert: str, key: str) -> None:
        """Raises `TransportError` (CLIENT_CERTIFICATE) if this pair cannot be read, or is none."""
        pair = (cert, key or cert)
        stamps = tuple(_stamp(file) for file in pair)
        if self._checked_pairs.get(pair) == stamps:
            return
        for file in pair:
            try:
                _read(file)
            except OSError as error:
                # As containerd, which says CERT of a key too: core/remotes/docker/config/hosts.go, v2.3.4.
                detail = f'unable to read CERT file "{file}": {_reason(file, error)}'
                raise TransportError(Cause.CLIENT_CERTIFICATE, detail=detail) from error
        _check_pair(*pair)
        self._checked_pairs[pair] = stamps

    def close(self) -> None:
        """Let go of the files in memory."""
        with self._lock:
            for descriptor in self._bundles.values():
                os.close(descriptor)
            self._bundles.clear()
            self._seen.clear()

    def _bundle(self, pem: bytes) -> str:
        """A file in memory with this content.

        It stays open as long as we live: libcurl knows a CA file it has parsed by its path, so that a path must never
        come to mean another file. There are as many as different sets of CAs, so few.
        """
        if pem not in self._bundles:
            descriptor = os.memfd_create("pierhead-ca", os.MFD_CLOEXEC)
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(pem)
            self._bundles[pem] = descriptor
        return f"/proc/self/fd/{self._bundles[pem]}"

    def _system_pool(self) -> dict[bytes, None]:
        """The system's CAs, each once, in order."""
        if self._system is None:
            self._system = dict.fromkeys(self._read_system())
        return self._system

    def _read_system(self) -> Iterator[bytes]:
        """The first file that can be read, and every file of the folders, as Go does."""
        named = self._environment.get("SSL_CERT_FILE")
        for path in [named] if named else _SYSTEM_FILES:
            if (content := _try_read(path)) is not None:
                yield from _certificates(content)
                break
        folders = self._environment.get("SSL_CERT_DIR")
        for folder in folders.split(":") if folders else _SYSTEM_FOLDERS:
            for path in _entries(folder):
                yield from _certificates(_try_read(path) or b"")


def _entries(folder: str) -> list[str]:
    """The files of a CA folder, without the links by hash that lead to a file beside them."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not _beside(entry)), key=lambda entry: entry.name)
    except OSError:
        return []
    return [entry.path for entry in entries[:CA_FOLDER_LIMIT_FILES]]


def _beside(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and len(Path(entry.path).readlink().parts) == 1


def _ca_file(path: str) -> Iterable[bytes]:
    try:
        found = _certificates(_read(path))
    except OSError as error:
        detail = f'unable to read CA cert "{path}": {_reason(path, error)}'
        raise TransportError(Cause.CA_FILE, detail=detail) from error
    if not found:
        raise TransportError(Cause.CA_FILE, detail=f'unable to load CA cert "{path}"', hint="the file must be PEM")
    return found


def _check_pair(cert: str, key: str) -> None:
    """As containerd: a key that does not belong to its certificate fails before anything is asked."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        mismatch = getattr(error, "reason", "") == "KEY_VALUES_MISMATCH"
        # Go's crypto/tls says it so; of the rest we say what OpenSSL does.
        words = "tls: private key does not match public key" if mismatch else str(error)
        detail = f"failed to load X509 key pair: {words}"
        raise TransportError(Cause.CLIENT_CERTIFICATE, detail=detail) from error


def _certificates(content: bytes) -> list[bytes]:
    """The certificates of a PEM file, in one form; what is not one is passed over, as Go does."""
    blocks = []
    for match in _CERTIFICATE.finditer(content):
        try:
            der = binascii.a2b_base64(b"".join(match[1].split()), strict_mode=True)
        except binascii.Error:
            continue
        if _is_sequence(der):
            body = base64.encodebytes(der)
            blocks.append(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")
    return blocks


def _is_sequence(der: bytes) -> bool:
    """Whether this is one ASN.1 sequence from end to end, as a certificate is."""
    if len(der) < 4 or der[0] != 0x30:
        return False
    width = der[1] & 0x7F if der[1] & 0x80 else 0
    length = int.from_bytes(der[2 : 2 + width], "big") if width else der[1]
    return 2 + width + length == len(der)


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(PEM_FILE_LIMIT_BYTES)


def _try_read(path: str) -> bytes | None:
    try:
        return _read(path)
    except OSError:
        return None


def _stamp(path: str) -> _Stamp:
    """What changes when a file does; zeros if there is none."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _reason(path: str, error: OSError) -> str:
    """As Go words it: `open /x: no such file or directory`."""
    verb = "read" if isinstance(error, IsADirectoryError) else "open"
    text = os.strerror(error.errno) if error.errno else str(error)
    return f"{verb} {path}: {text[:1].lower()}{text[1:]}"
