"""The files that the `tls` of entries names, and what it means if one of them is of no use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pierhead.check.names import spoken
from pierhead.check.pem import Certificate, PemFile
from pierhead.check.subject import Subject
from pierhead.config.registries import Config, Text
from pierhead.errors import Severity, Span

SHOWN_LIMIT: Final = 200  # characters of a path in a message
REGISTRIES_SHOWN: Final = 3

_INLINE: Final = ("-----BEGIN", "LS0tLS1CRUdJTi")  # PEM, and the same once more in base64
_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")

Field = Literal["ca_file", "cert_file", "key_file"]
FIELDS: Final[tuple[Field, ...]] = ("ca_file", "cert_file", "key_file")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that the `tls` of an entry names."""

    config: Config
    field: Field
    text: Text

    @property
    def span(self) -> Span:
        """Where the file names it."""
        return self.text.span

    @property
    def path(self) -> str:
        """The path as written."""
        return self.text.value

    @property
    def is_inline(self) -> bool:
        """Whether the file itself was pasted where its path belongs."""
        return self.path.lstrip().startswith(_INLINE)

    @property
    def can_be_looked_at(self) -> bool:
        """Whether it is a path of this kind of machine."""
        return self.path.startswith("/") and not self.is_inline

    @property
    def is_absolute(self) -> bool:
        """Whether it is absolute on Linux or on Windows."""
        return self.path.startswith("/") or _WINDOWS.match(self.path) is not None

    def __str__(self) -> str:
        """For people; a key that was pasted here is not shown."""
        if self.is_inline or len(self.path) > SHOWN_LIMIT:
            return f"the value of {self.field}"
        return f"{self.field} {spoken(self.path)}"


def named_files(subject: Subject) -> Iterator[NamedFile]:
    """The files that `configs` names, in the order of the file."""
    for config in subject.config.configs.values():
        for field in FIELDS if config.tls else ():
            text = getattr(config.tls, field)
            if text is not None:
                yield NamedFile(config, field, text)


def looked_at(subject: Subject, *fields: Field) -> Iterator[tuple[NamedFile, PemFile]]:
    """The files of these fields that are to be looked at, with what is in them."""
    if not subject.circumstances.look_at_files:
        return
    for named in named_files(subject):
        if named.field in fields and named.can_be_looked_at:
            yield named, subject.pem_files[named.path]


def certificates_of(subject: Subject, field: Field) -> Iterator[tuple[NamedFile, tuple[Certificate, ...]]]:
    """The files of this field that hold certificates."""
    return ((named, file.certificates) for named, file in looked_at(subject, field) if file.certificates)


def failure(subject: Subject, text: Text) -> tuple[str, Severity]:
    """What a file that cannot be used leads to: E53 and E54 of the specification, section 9 for wharfie."""
    if subject.circumstances.client == "wharfie":
        return "wharfie then falls back to its default TLS settings with a warning", "warning"
    registries = subject.tls_users.get(text.span, ())
    if not registries:
        return "nothing breaks yet, as no registry uses this entry", "warning"
    return f"every pull of {_listed(registries)} fails, even if another endpoint has the image", "error"


def _listed(registries: tuple[str, ...]) -> str:
    names = ["each registry without an entry of its own" if name == "*" else spoken(name) for name in registries]
    first, more = names[:REGISTRIES_SHOWN], len(names) - REGISTRIES_SHOWN
    return f"{', '.join(first)} and {more} more" if more > 0 else ", ".join(first)
