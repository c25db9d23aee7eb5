"""Certificates and keys in files, as far as a check needs them: the one border to `cryptography` here.

What counts is what Go takes, as containerd is written in it: blocks that do not parse are passed over
(crypto/x509, AppendCertsFromPEM), and the first certificate and the first key make a pair (crypto/tls, X509KeyPair).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from pierhead.check.files import Trouble, read_regular
from pierhead.config.gotls import PEM_LIMIT_BYTES, blocks, is_key

if TYPE_CHECKING:
    from cryptography import x509

_ANY_PURPOSE: Final = "2.5.29.37.0"
_SERVER: Final = "1.3.6.1.5.5.7.3.1"
_CLIENT: Final = "1.3.6.1.5.5.7.3.2"
_ASN1_SEQUENCE: Final = 0x30


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. `purposes`: the extended key usages as dotted numbers, None if it is for all.

    `public`: its public key, in one form for all who have the same.
    """

    subject: str
    not_before: datetime
    not_after: datetime
    is_ca: bool
    is_self_issued: bool
    purposes: frozenset[str] | None
    public: bytes = field(repr=False)

    @property
    def for_servers(self) -> bool:
        """Whether it may show who a server is (RFC 5280, extended key usage)."""
        return self.purposes is None or not self.purposes.isdisjoint({_SERVER, _ANY_PURPOSE})

    @property
    def for_clients(self) -> bool:
        """Whether it may show who a client is."""
        return self.purposes is None or not self.purposes.isdisjoint({_CLIENT, _ANY_PURPOSE})


@dataclass(frozen=True, slots=True)
class PemFile:
    """What a file holds, or the `trouble` that there is with it.

    `key`: the public half of its first private key. `unreadable_key`: there is a key, and Go cannot use it: it has a
    passphrase or is damaged. `is_binary`: not PEM, but perhaps the same without its wrapping (DER).
    """

    trouble: Trouble | None = None
    mode: int = 0
    certificates: tuple[Certificate, ...] = ()
    key: bytes | None = field(default=None, repr=False)
    unreadable_key: str = ""
    is_binary: bool = False

    @property
    def holds_key(self) -> bool:
        """Whether a private key is in it, one that can be read or not."""
        return self.key is not None or bool(self.unreadable_key)


def read_pem(path: str) -> PemFile:
    """What is in the file at `path`; never raises."""
    content = read_regular(path, limit_bytes=PEM_LIMIT_BYTES)
    if isinstance(content, Trouble):
        return PemFile(content)
    certificates: list[Certificate] = []
    key: bytes | None = None
    unreadable = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cryptography's opinions on old certificates are not our findings
        for kind, text in blocks(content.data):
            if kind == "CERTIFICATE":
                certificates += _certificate(text)
            elif is_key(kind) and key is None and not unreadable:
                key, unreadable = _public(text)
    binary = not certificates and not key and content.data[:1] == bytes([_ASN1_SEQUENCE])
    return PemFile(None, content.mode, tuple(certificates), key, unreadable, binary)


def _certificate(pem: bytes) -> Iterator[Certificate]:
    """The certificate of a block; none if it is damaged."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_pem_x509_certificate

    try:
        read = load_pem_x509_certificate(pem)
        yield Certificate(
            read.subject.rfc4514_string() or "(no subject)",
            read.not_valid_before_utc,
            read.not_valid_after_utc,
            _is_ca(read),
            read.subject == read.issuer,
            _purposes(read),
            read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return


def _is_ca(read: x509.Certificate) -> bool:
    """As Go's CheckSignatureFrom: version 1 has no extensions to say so; a key usage must allow signing."""
    from cryptography.x509 import BasicConstraints, ExtensionNotFound, KeyUsage

    if read.version.name == "v1":
        return True
    try:
        if not read.extensions.get_extension_for_class(BasicConstraints).value.ca:
            return False
        return read.extensions.get_extension_for_class(KeyUsage).value.key_cert_sign
    except ExtensionNotFound as missing:
        return missing.oid == KeyUsage.oid


def _purposes(read: x509.Certificate) -> frozenset[str] | None:
    from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound

    try:
        usage = read.extensions.get_extension_for_class(ExtendedKeyUsage).value
    except ExtensionNotFound:
        return None
    return frozenset(purpose.dotted_string for purpose in usage)


def _public(pem: bytes) -> tuple[bytes | None, str]:
    """The public half of a key, or why Go cannot use it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
        return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), ""
    except TypeError:
        return None, "it has a passphrase, and nobody is there to type it"
    except (ValueError, UnsupportedAlgorithm):
        return None, "it is damaged or of an unknown kind"


class PemFiles:
    """Files by path, each read once: several rules look at the same ones."""

    def __init__(self) -> None:
        self._read: dict[str, PemFile] = {}

    def __getitem__(self, path: str) -> PemFile:
        if path not in self._read:
            self._read[path] = read_pem(path)
        return self._read[path]
