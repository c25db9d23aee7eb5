"""What became of a copy, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, write_json
from pierhead.cli.attempts import attempt_json, served_by, show_failures
from pierhead.errors import ExitCode, PierheadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pierhead.cli.copying.moving import Moved
    from pierhead.cli.copying.places import Place
    from pierhead.client import Remote
    from pierhead.referrers import CopiedReferrers
    from pierhead.store import Referrer
    from pierhead.walk import Attempt


@dataclass(slots=True)
class Outcome:
    """A copy, and how it ended. `remote` is the registry that was read, if it is one."""

    source: str
    destination: str
    seconds: float = 0.0
    remote: Remote | None = None
    moved: Moved | None = None
    error: PierheadError | None = None

    @property
    def attempts(self) -> Sequence[Attempt]:
        return tuple(self.remote.attempts) if self.remote else ()

    @property
    def place(self) -> str | None:
        """Where the image was read."""
        resolved = self.remote.resolved if self.remote else None
        return served_by(self.attempts, resolved.route) if resolved else None


def show(outcome: Outcome, output: str, *, quiet: bool) -> None:
    """Say it, and raise its error if it has one."""
    if output == "json":
        write_json(_json(outcome))
    elif outcome.moved:
        _show_moved(outcome, outcome.moved, quiet=quiet)
    if outcome.error:
        raise outcome.error


def show_same(place: Place, output: str) -> None:
    """Source and destination are one: nothing was asked and nothing written."""
    if output == "json":
        write_json(_json(Outcome(str(place), str(place))))
    click.echo(f"{place} is both source and destination: nothing to do", err=output == "json")


def _show_moved(outcome: Outcome, moved: Moved, *, quiet: bool) -> None:
    """One line on stdout; on stderr where the image did not come from, and what was left out of it."""
    if not quiet:
        show_failures(outcome.attempts)
        if moved.partly:
            names = ", ".join(map(str, moved.partly))
            be, it = ("is", "that was") if len(moved.partly) == 1 else ("are", "those were")
            click.echo(f"only {names} of {outcome.source} {be} there, so only {it} copied", err=True)
    show_left_out(moved.referrers)
    digest = moved.copied.descriptor.digest
    was = f"  was {moved.before}" if moved.before not in (None, digest) else ""
    came = with_referrers(len(moved.referrers.copied) if moved.referrers else 0)
    click.echo(f"{outcome.destination}  {digest}  {_amount(moved)}{was}{came}")


def with_referrers(count: int) -> str:
    """How many things come along with an image, for the end of its line."""
    return f"  {options.with_referrers(count)}" if count else ""


def show_left_out(came: CopiedReferrers | None, image: str = "") -> None:
    """What refers to an image, which is named if it is one of several, and did not come along."""
    for referrer, reason in came.skipped if came else ():
        of = f"{image}: " if image else ""
        click.echo(f"{of}not copied with it: {referrer.descriptor.digest}: {reason}", err=True)


def _amount(moved: Moved) -> str:
    sent, there = moved.copied.fetched_bytes, moved.copied.reused_bytes
    if not sent:
        return f"all {options.size_text(there)} was there"
    return f"copied {options.size_text(sent)}, {options.size_text(there)} was there"


def _json(outcome: Outcome) -> dict[str, Any]:
    moved, error = outcome.moved, outcome.error
    copied, came = (moved.copied, moved.referrers) if moved else (None, None)
    return {
        "source": outcome.source,
        "destination": outcome.destination,
        "digest": str(copied.descriptor.digest) if copied else None,
        "previous_digest": str(moved.before) if moved and moved.before else None,
        "media_type": copied.descriptor.media_type if copied else None,
        "size_bytes": copied.size_bytes if copied else None,
        "platforms": [str(platform) for platform in copied.platforms] if copied else [],
        "only_platforms": [str(platform) for platform in moved.partly] if moved else [],
        **referrers_json(came),
        "route": outcome.place,
        "attempts": [attempt_json(attempt) for attempt in outcome.attempts],
        "copied_bytes": copied.fetched_bytes if copied else 0,
        "present_bytes": copied.reused_bytes if copied else 0,
        "seconds": round(outcome.seconds, 6),
        "error": error.message if error else None,
        "exit_code": int(error.exit_code if error else ExitCode.DONE),
    }


def referrers_json(came: CopiedReferrers | None) -> dict[str, Any]:
    """What came along with an image and what did not, in the JSON of every command that copies it."""
    return {
        "referrers": [
            {**referrer_json(referrer), "copied_bytes": copied.fetched_bytes}
            for referrer, copied in (came.copied if came else ())
        ],
        "referrers_left_out": left_out_json(came),
    }


def referrer_json(referrer: Referrer) -> dict[str, Any]:
    """What something is that refers to an image."""
    return {
        "digest": str(referrer.descriptor.digest),
        "artifact_type": referrer.descriptor.artifact_type or None,
        "subject": str(referrer.subject),
        "tag": referrer.tag or None,
    }


def left_out_json(came: CopiedReferrers | None) -> list[dict[str, Any]]:
    """What did not come along, and why."""
    skipped = came.skipped if came else ()
    return [{"digest": str(referrer.descriptor.digest), "reason": reason} for referrer, reason in skipped]
