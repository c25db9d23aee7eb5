"""What several commands tell of a route: where it stands in the file, and whose credentials are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pierhead.errors import FLAGS, Span

if TYPE_CHECKING:
    from pierhead.auth import Credential


def line_of(span: Span | None) -> int | None:
    """The line of a file; None if it is not in one."""
    return span.line or None if span and span.file != FLAGS else None


def at(span: Span | None) -> str:
    """Where it stands, for the end of a line."""
    if span is None or not span.line:
        return ""
    place = "--embedded-registry" if span.file == FLAGS else f"{span.file}:{span.line}"
    return click.style(f"   {place}", dim=True)


def credential_json(credential: Credential | None) -> dict[str, Any] | None:
    """Whose credentials, never which."""
    if credential is None:
        return None
    return {
        "source": credential.source,
        "key": credential.key,
        "kind": credential.kind,
        "username": credential.username or None,
        "line": line_of(credential.span),
    }
