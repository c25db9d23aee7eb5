"""Certificates by name, for the examples of rules: `<ca>`, `<client certificate>`, `<expired client certificate>`, …

Made when first asked for, once in a process; their dates are relative to the day on which examples are checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from checking import NOW

DAY = timedelta(days=1)
_NAME = re.compile(rb"<([a-z -]+)>")


def written(content: str) -> bytes:
    """The bytes of an example's file: the text itself, with the certificates and keys that it names in their place."""
    return _NAME.sub(
        lambda found: _MADE[name]() if (name := found[1].decode()) in _MADE else found[0], content.encode()
    )


@cache
def _key(name: str) -> ec.EllipticCurvePrivateKey:
    """A key for this name; P-256, made in less than a millisecond."""
    return ec.generate_private_key(ec.SECP256R1())


@cache
def _certificate(
    name: str,
    *purposes: x509.ObjectIdentifier,
    days: tuple[int, int] = (-10, 365),
    issuer: str = "ca",
    is_ca: bool = False,
) -> x509.Certificate:
    """A certificate for the key of this name, from `days[0]` to `days[1]` after NOW."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(_subject(issuer))
        .public_key(_key(name).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_day(days[0]))
        .not_valid_after(_day(days[1]))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(_key(issuer), hashes.SHA256())


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"the {name}")])


def _day(days: int) -> datetime:
    return NOW + days * DAY


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _ca(days: tuple[int, int] = (-10, 365)) -> x509.Certificate:
    return _certificate("ca", days=days, is_ca=True)


def _client(days: tuple[int, int] = (-10, 365)) -> x509.Certificate:
    return _certificate("client", ExtendedKeyUsageOID.CLIENT_AUTH, days=days)


def _private(name: str, passphrase: bytes = b"") -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return _key(name).private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


_PAST, _SOON, _LATER = (-400, -35), (-400, 20), (5, 400)
_MADE: dict[str, Callable[[], bytes]] = {
    "ca": lambda: _pem(_ca()),
    "expired ca": lambda: _pem(_ca(_PAST)),
    "expiring ca": lambda: _pem(_ca(_SOON)),
    "future ca": lambda: _pem(_ca(_LATER)),
    "binary ca": lambda: _ca().public_bytes(serialization.Encoding.DER),
    "client certificate": lambda: _pem(_client()),
    "expired client certificate": lambda: _pem(_client(_PAST)),
    "expiring client certificate": lambda: _pem(_client(_SOON)),
    "certificate for everything": lambda: _pem(_certificate("client")),
    "client key": lambda: _private("client"),
    "locked client key": lambda: _private("client", b"sesame"),
    "server certificate": lambda: _pem(_certificate("server", ExtendedKeyUsageOID.SERVER_AUTH)),
    "self-signed certificate": lambda: _pem(_certificate("server", ExtendedKeyUsageOID.SERVER_AUTH, issuer="server")),
    "server key": lambda: _private("server"),
    "other key": lambda: _private("other"),
    "garbage": lambda: b"this is not a certificate\n",
    "damaged certificate": lambda: b"-----BEGIN CERTIFICATE-----\nMIIBIjAN\n-----END CERTIFICATE-----\n",
    "damaged key": lambda: b"-----BEGIN PRIVATE KEY-----\nMIIBIjAN\n-----END PRIVATE KEY-----\n",
}
