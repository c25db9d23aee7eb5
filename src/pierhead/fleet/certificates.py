"""What two copies of a PEM file are told apart by, and until when it is good."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pierhead.config.gotls import blocks


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of a file. `sha256` is that of its DER form, as `openssl x509 -fingerprint -sha256` prints it."""

    sha256: str
    not_after: datetime


def certificates(pem: bytes) -> tuple[Certificate, ...]:
    """Those of a file, in order; what is none, or is damaged, is passed over, as by Go."""
    return tuple(found for kind, text in blocks(pem) if kind == "CERTIFICATE" for found in _read(text))


def _read(pem: bytes) -> Iterator[Certificate]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # opinions on old certificates are not ours
        try:
            read = load_pem_x509_certificate(pem)
            yield Certificate(hashlib.sha256(read.public_bytes(Encoding.DER)).hexdigest(), read.not_valid_after_utc)
        except (ValueError, UnsupportedAlgorithm):
            return
