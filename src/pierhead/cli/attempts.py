"""What was asked of registries on the way, as commands show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pierhead.routing import Route
    from pierhead.walk import Attempt


def failures(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts that failed, each place and cause once."""
    asked = [attempt for attempt in attempts if attempt.outcome not in ("ok", "skipped")]
    failed = {(attempt.place, attempt.cause): attempt for attempt in asked}
    return list(failed.values())


def show_failures(attempts: Sequence[Attempt]) -> None:
    """Where an image did not come from, each place and cause once, on stderr."""
    for attempt in failures(attempts):
        click.echo(f"not from {attempt.place}: {attempt.cause}", err=True)


def served_by(attempts: Sequence[Attempt], route: Route | None) -> str | None:
    """The place that resolved the image by this route."""
    served = (attempt for attempt in attempts if attempt.route is route and attempt.outcome == "ok")
    return next((attempt.place for attempt in served), None)


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """An attempt in every command's JSON."""
    from pierhead.redact import safe_url

    return {
        "url": safe_url(attempt.url),
        "outcome": attempt.outcome,
        "status": attempt.status,
        "cause": attempt.cause or None,
        "seconds": round(attempt.seconds, 6),
    }
