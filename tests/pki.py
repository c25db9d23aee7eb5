"""Certificates for tests: a CA, servers of several kinds of fitness, and clients, as PEM files in one folder.

Keys are P-256 so that making the whole set takes milliseconds.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER_NAMES = ("127.0.0.1", "::1", "localhost", "*.test.example", "test.example")
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key: two PEM files."""

    cert: str
    key: str


@dataclass(frozen=True)
class Pki:
    """`ca` signed everything but `other_*`; `wrong_name` is for wrong.invalid; `expired` ended 2020-01-02."""

    ca: str
    other_ca: str
    server: Pair
    expired: Pair
    wrong_name: Pair
    other_server: Pair  # the good names, signed by other_ca
    client: Pair
    other_client: Pair  # signed by other_ca


@dataclass(frozen=True)
class _Authority:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    cert: x509.Certificate


def make_pki(folder: Path) -> Pki:
    """All of `Pki` as files in `folder`."""
    ca, other = _authority("Test CA"), _authority("Other CA")
    _write_cert(folder / "ca.pem", ca.cert)
    _write_cert(folder / "other-ca.pem", other.cert)
    past = (dt.datetime(2019, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 2, tzinfo=dt.UTC))
    return Pki(
        ca=str(folder / "ca.pem"),
        other_ca=str(folder / "other-ca.pem"),
        server=_leaf(folder, "server", ca, SERVER_NAMES),
        expired=_leaf(folder, "expired", ca, SERVER_NAMES, valid=past),
        wrong_name=_leaf(folder, "wrong-name", ca, ("wrong.invalid",)),
        other_server=_leaf(folder, "other-server", other, SERVER_NAMES),
        client=_leaf(folder, "client", ca),
        other_client=_leaf(folder, "other-client", other),
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _authority(common_name: str) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    cert = (
        _builder(name, name, key, valid=(NOW - DAY, NOW + 365 * DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_usage(), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Authority(name, key, cert)


def _leaf(
    folder: Path,
    name: str,
    authority: _Authority,
    names: Sequence[str] = (),
    *,
    valid: tuple[dt.datetime, dt.datetime] = (NOW - DAY, NOW + 90 * DAY),
) -> Pair:
    """One certificate with its key: for a server if it has names, else for a client."""
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(_name(f"pierhead test {name}"), authority.name, key, valid=valid)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(issuer_identifier, critical=False)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False
        )
    pair = Pair(str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
    _write_cert(Path(pair.cert), builder.sign(authority.key, hashes.SHA256()))
    _write_key(Path(pair.key), key)
    return pair


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    valid: tuple[dt.datetime, dt.datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_cert(path: Path, cert: x509.Certificate) -> None:
    path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def make_vector_pki(folder: Path) -> None:
    """The files that the recorded cases name: see tests/vectors/README.md."""
    ca, other = _authority("vectors test CA"), _authority("another CA")
    _write_cert(folder / "ca.pem", ca.cert)
    _write_key(folder / "ca.key", ca.key)
    _write_cert(folder / "other-ca.pem", other.cert)
    addresses = [f"127.0.0.{number}" for number in range(1, 31)]
    names = [*addresses, "::1", "localhost", "registry-1.docker.io", "index.docker.io", "*.test.example"]
    _leaf(folder, "server", ca, names)
    _leaf(folder, "wrongname", ca, ["elsewhere.test"])
    _leaf(folder, "client", ca)
    _leaf(folder, "otherclient", other)
    (folder / "bad.pem").write_text("this is not a certificate\n")
    (folder / "empty.pem").write_bytes(b"")
