"""The certificates a server shows, and what Go's verification would say of them, each defect by its name.

OpenSSL tells the first thing it dislikes; a person who mends a registry wants all of them at once, and wants to know
which CA is missing. As Go's crypto/x509 (1.27): Certificate.Verify and VerifyHostname, as far as people get it wrong.
"""

from __future__ import annotations

import binascii
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal

from pierhead.wire import one_line

if TYPE_CHECKING:
    from cryptography import x509

Defect = Literal["expired", "not-yet-valid", "wrong-host", "no-names", "unknown-ca"]

SYSTEM: Final = ""  # where an anchor comes from that is the system's
NAME_LIMIT_CHARS: Final = 200
_WARNINGS: Final = Lock()  # their filters are everybody's


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA by name; `sha256` is its certificate's fingerprint in hex, empty if nobody showed that certificate."""

    name: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A server's TLS: the certificate it shows, and what is wrong with it.

    `trusted_by` is the CA file whose certificate vouches for it, "" for the system's, None if nobody does; then
    `needed` is the CA that would have to.
    """

    version: str
    subject: str = ""
    issuer: str = ""
    names: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    trusted_by: str | None = None
    needed: Authority | None = None
    defects: tuple[Defect, ...] = ()


def shown_by(chain: Sequence[bytes], host: str, version: str, anchors: Mapping[str, Sequence[bytes]]) -> Shown:
    """What the PEM certificates `chain`, the server's own first, are to us; `anchors` by where they come from."""
    certificates = list(_loaded(chain))
    if not certificates:
        return Shown(version)
    leaf = certificates[0]
    names = _names(leaf)
    trusted_by, needed = _authority(certificates, anchors)
    return Shown(
        version,
        _text(leaf.subject),
        _text(leaf.issuer),
        names,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        trusted_by,
        needed,
        tuple(_defects(leaf, names, host, trusted=trusted_by is not None)),
    )


def _loaded(pems: Sequence[bytes]) -> Iterator[x509.Certificate]:
    from cryptography.x509 import load_pem_x509_certificate

    for pem in pems:
        try:
            with _WARNINGS, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old CAs' serial numbers, for which nobody here can do anything
                certificate = load_pem_x509_certificate(pem)
        except ValueError:
            continue  # what cryptography cannot read is at least not what we look for
        yield certificate


def _defects(leaf: x509.Certificate, names: Sequence[str], host: str, *, trusted: bool) -> Iterator[Defect]:
    now = datetime.now(UTC)
    if leaf.not_valid_after_utc < now:
        yield "expired"
    if leaf.not_valid_before_utc > now:
        yield "not-yet-valid"
    if not names:
        yield "no-names"
    elif not any(_matches(name, host) for name in names):
        yield "wrong-host"
    if not trusted:
        yield "unknown-ca"


def _authority(
    certificates: Sequence[x509.Certificate], anchors: Mapping[str, Sequence[bytes]]
) -> tuple[str | None, Authority | None]:
    """Who vouches for the first of them: from it upwards, whoever is trusted and issued it, or is it."""
    current, rest = certificates[0], list(certificates[1:])
    while True:
        for place, pems in anchors.items():
            if any(candidate == current or _issued(candidate, current) for candidate in _near(pems, current)):
                return place, None
        issuer = next((other for other in rest if _issued(other, current)), None)
        if issuer is None:
            return None, _needed(current)
        rest.remove(issuer)
        current = issuer


def _near(pems: Sequence[bytes], certificate: x509.Certificate) -> Iterator[x509.Certificate]:
    """Those that hold one of its names: of the hundred and fifty of a system hardly one has to be parsed."""
    names = (certificate.issuer.public_bytes(), certificate.subject.public_bytes())
    return _loaded([pem for pem in pems if any(name in _der(pem) for name in names)])


def _der(pem: bytes) -> bytes:
    return binascii.a2b_base64(b"".join(line for line in pem.splitlines() if not line.startswith(b"-")))


def _needed(top: x509.Certificate) -> Authority:
    from cryptography.hazmat.primitives import hashes

    if top.issuer == top.subject:
        return Authority(_text(top.subject), top.fingerprint(hashes.SHA256()).hex())
    return Authority(_text(top.issuer))


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    if issuer.subject != certificate.issuer:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName

    try:
        names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value
    except (ExtensionNotFound, ValueError):
        return ()
    found = (one_line(str(name.value), NAME_LIMIT_CHARS) for name in names if isinstance(name, (DNSName, IPAddress)))
    return tuple(found)


def _matches(name: str, host: str) -> bool:
    """As Go's matchHostnames: without regard to case, `*` for a whole first label, addresses as addresses."""
    try:
        return ip_address(name) == ip_address(host.partition("%")[0])
    except ValueError:
        pass
    pattern, wanted = (text.lower().rstrip(".").split(".") for text in (name, host))
    if len(pattern) != len(wanted):
        return False
    return pattern[1:] == wanted[1:] and pattern[0] in ("*", wanted[0])


def _text(name: x509.Name) -> str:
    """`CN=Test CA,O=Example`, one printable line."""
    return one_line(name.rfc4514_string(), NAME_LIMIT_CHARS)
