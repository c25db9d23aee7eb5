"""What a check says: where, what, why it matters, what to do, and, where it can be told, the very bytes to change."""

from __future__ import annotations

from dataclasses import dataclass

from pierhead.errors import Severity, Span


@dataclass(frozen=True, slots=True)
class Edit:
    """Put `text` in the place of what `span` covers; a span that ends where it begins inserts. Never holds a secret."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Fix:
    """Edits that belong together, and what they do, in the imperative: "quote the asterisk"."""

    description: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule yields. `message`: one sentence of cause; `remedy`: one sentence that says what to do.

    `severity` None is the rule's own.
    """

    span: Span
    message: str
    remedy: str
    fix: Fix | None = None
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A hit with the rule that made it. No field holds a secret."""

    id: str
    severity: Severity
    span: Span
    message: str
    remedy: str
    fix: Fix | None
    url: str
