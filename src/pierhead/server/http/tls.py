"""The certificate, key and client CA of the server: checked with clear words, and in the form that rustls reads.

Granian ends the whole process when rustls cannot use a file (it unwraps the error), so nothing reaches it unread.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from pierhead.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

FILE_LIMIT_BYTES: Final = 4 * 1024 * 1024
# What rustls with ring can sign with; ring's limits for RSA are those of its rsa::KeyPair.
KEY_HINT: Final = "take a key of P-256, P-384, Ed25519, or RSA with 2048 to 4096 bits"
_RSA_BITS: Final = range(2048, 4097)
_RSA_EXPONENT: Final = 65_537
# keyUsage, subjectAltName, basicConstraints, nameConstraints, cRLDistributionPoints, extKeyUsage
_EXTENSIONS: Final = frozenset(f"2.5.29.{number}" for number in (15, 17, 19, 30, 31, 37))
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 — only as the parent of a folder made for us alone


class UnusableTls(UsageError):
    """A certificate, key or CA file that cannot be used to serve."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate with its chain, its key, and the CA that clients' certificates must come from."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@contextmanager
def usable(files: TlsFiles | None) -> Iterator[TlsFiles | None]:
    """Copies of the files, checked and in the plainest form (PKCS#8 for the key); raises `UnusableTls`.

    They are in a folder that only we can enter, in memory where there is such a place, and gone when this context
    ends: by then the server has read them.
    """
    if files is None:
        yield None
        return
    certs, key = _read_certs(files.cert, "certificate"), _read_key(files.key)
    if certs[0].public_key() != key.public_key():
        hint = "give the key that the certificate was made for; the server's own certificate stands first in its file"
        raise UnusableTls(f"the key {files.key} does not belong to the certificate {files.cert}", hint=hint)
    _check_parsable(certs[0], files.cert)
    authorities = _read_certs(files.client_ca, "client CA") if files.client_ca else []
    with TemporaryDirectory(prefix="pierhead-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as folder:
        ready = TlsFiles(
            _write(folder, "cert.pem", _certs_as_pem(certs)),
            _write(folder, "key.pem", _key_as_pem(key)),
            _write(folder, "ca.pem", _certs_as_pem(authorities)) if authorities else None,
        )
        _check_openssl(files, ready)
        yield ready


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise UnusableTls(f"cannot read the {what} {path}: {error.strerror}") from error
    if len(data) > FILE_LIMIT_BYTES:
        raise UnusableTls(f"the {what} {path} is larger than {FILE_LIMIT_BYTES} bytes")
    return data


def _read_certs(path: Path, what: str) -> Sequence[Certificate]:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(_read(path, what))
    except ValueError as error:
        raise UnusableTls(f"the {what} {path} holds no certificate in PEM", hint="give a PEM file") from error


def _check_parsable(cert: Certificate, path: Path) -> None:
    """As rustls-webpki: src/cert.rs, where version 1 or an unknown critical extension ends the reading."""
    if cert.version.name != "v3":
        raise UnusableTls(f"the certificate {path} is of version 1", hint="make one with a subjectAltName")
    try:
        critical = [each.oid.dotted_string for each in cert.extensions if each.critical]
    except ValueError as error:
        raise UnusableTls(f"the certificate {path} has extensions that cannot be read") from error
    if strange := [oid for oid in critical if oid not in _EXTENSIONS]:
        raise UnusableTls(f"the certificate {path} has a critical extension that is not known: {strange[0]}")


def _read_key(path: Path) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_without_parameters(_read(path, "key")), None)
    except TypeError as error:
        hint = f"write one without: openssl pkey -in {path} -out FILE, and keep it readable for the server alone"
        raise UnusableTls(f"the key {path} has a passphrase", hint=hint) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableTls(f"the file {path} holds no private key in PEM", hint=KEY_HINT) from error
    if not _is_known_kind(key):
        raise UnusableTls(f"the key {path} is of a kind that is not served", hint=KEY_HINT)
    return key


def _without_parameters(key: bytes) -> bytes:
    """From the key's own block on: `openssl ecparam -genkey` writes the curve before it, others the certificate."""
    start = key.find(b"PRIVATE KEY-----")
    return key[key.rfind(b"-----BEGIN", 0, start) :] if start > 0 else key


def _is_known_kind(key: PrivateKeyTypes) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPrivateKey):
        return key.key_size in _RSA_BITS and key.public_key().public_numbers().e >= _RSA_EXPONENT
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(key, ed25519.Ed25519PrivateKey)


def _certs_as_pem(certs: Sequence[Certificate]) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(cert.public_bytes(Encoding.PEM) for cert in certs)


def _key_as_pem(key: PrivateKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(folder: str, name: str, data: bytes) -> Path:
    path = Path(folder) / name
    path.touch(0o600, exist_ok=False)
    path.write_bytes(data)
    return path


def _check_openssl(files: TlsFiles, ready: TlsFiles) -> None:
    """Granian loads the pair into OpenSSL first, which has opinions of its own: a signature with SHA-1, for one."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(ready.cert, ready.key)
    except ssl.SSLError as error:
        why = (error.reason or "unknown").replace("_", " ").lower()
        raise UnusableTls(f"OpenSSL refuses {files.cert} with {files.key}: {why}") from error
