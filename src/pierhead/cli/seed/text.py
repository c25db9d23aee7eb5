"""A seeding for people: the map as a table, a line for each image at each place, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from pierhead.auth import AuthorizationFailed
from pierhead.cli import show_problem
from pierhead.cli.options import counted, size_text, with_referrers
from pierhead.errors import PierheadError, Problem
from pierhead.seed.mapping import REMEDIES

if TYPE_CHECKING:
    from pierhead.cli.seed.asked import Images
    from pierhead.seed.mapping import Mapped, Target
    from pierhead.seed.seeder import Put, Seeded, Summary

HEADINGS: Final = ("IMAGE", "ENDPOINT", "THERE", "RULE")
MISSING_SHOWN: Final = 5


# ── the map ──────────────────────────────────────────────────────────────────────────────────────────────────────


def table(mapped: Sequence[Mapped]) -> Iterator[str]:
    """Where everything goes, and by which rule it bears another name there."""
    rows = [HEADINGS, *(row for item in mapped for row in _rows(item))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield click.style(line, bold=True) if number == 0 else line


def _rows(item: Mapped) -> Iterator[tuple[str, ...]]:
    image = _shortened(str(item.wanted))
    problem = f"error: {item.problem.id}" if item.problem else ""
    if not item.targets:
        yield image, "-", "left out" if item.left_out else problem, ""
    for target in item.targets:
        yield image, target.endpoint, _shortened(target.place) + (f"  {problem}" if problem else ""), rule(target)


def _shortened(name: str) -> str:
    """A name whose digest people compare by its first digits."""
    before, colon, digits = name.partition("@sha256:")
    return f"{before}{colon}{digits[:12]}"


def rule(target: Target) -> str:
    """The rule that rewrote the repository, and its line."""
    rewrite = target.route.rewrite
    if rewrite is None:
        return ""
    line = f" (line {rewrite.span.line})" if rewrite.span and rewrite.span.line else ""
    return f"{rewrite.pattern} -> {rewrite.replacement}{line}"


def show_problems(problems: Sequence[Problem]) -> None:
    """Each on stderr, and what to do about them once."""
    for problem in dict.fromkeys(problems):
        show_problem(problem)
    for id in dict.fromkeys(problem.id for problem in problems):
        click.echo(f"{click.style('hint:', fg='cyan', bold=True)} {REMEDIES[id]}", err=True)


def map_summary(mapped: Sequence[Mapped], found: Images) -> str:
    """How many images, and how many of them have no place."""
    errors = sum(item.problem is not None for item in mapped) + len(found.problems)
    parts = [counted(len(mapped), "image")]
    parts += [f"{found.known} known from before"] if found.known else []
    parts += [f"{left} left out"] if (left := sum(bool(item.left_out) for item in mapped)) else []
    return ", ".join([*parts, counted(errors, "error") if errors else "no errors"])


# ── what became of it ────────────────────────────────────────────────────────────────────────────────────────────


def show(results: Sequence[Seeded], mapped: Sequence[Mapped]) -> None:
    """A line on stdout for each image at each place; on stderr where it did not come from, and what is left out."""
    for result in results:
        for told in result.told if not result.error else ():
            click.echo(f"{result.mapped.wanted}: not from {told.place}: {_short(told.error)}", err=True)
        for put in result.puts:
            click.echo(_line(result, put))
    for item in mapped:
        if item.left_out:
            click.echo(f"left out: {item.left_out}", err=True)


def show_skipped(results: Sequence[Seeded]) -> None:
    """What refers to an image and did not go with it."""
    for result in results:
        for digest, reason in dict.fromkeys(item for put in result.puts for item in put.skipped):
            click.echo(f"{result.mapped.wanted}: not copied with it: {digest}: {reason}", err=True)


def _line(result: Seeded, put: Put) -> str:
    words = [str(result.mapped.wanted), put.outcome, str(put.target)]
    if put.outcome == "seeded":
        had = f", had {size_text(put.reused_bytes)}" if put.reused_bytes else ""
        words += [f"sent {size_text(put.sent_bytes)}{had}", f"from {result.place}"]
    if put.replaced:
        words.append(f"was {put.replaced.algorithm}:{put.replaced.hex[:12]}")
    if put.referrers:
        words.append(with_referrers(put.referrers))
    if put.served and put.served.order != put.target.route.order:
        words.append(f"a node gets it from {put.served.endpoint or put.served.url} first")
    return "  ".join(words)


def _short(error: PierheadError) -> str:
    """An error in one line."""
    return "; ".join(line.strip() for line in error.message.split("\n"))


def naming(result: Seeded, error: PierheadError) -> PierheadError:
    """The error of one image among several: it says which, and where it was not let in, how somebody else is."""
    name, hint = str(result.mapped.wanted), error.hint
    if isinstance(error, AuthorizationFailed) and error is not result.error:
        hint = f"{hint}; nodes need not be able to write: --dest-creds is for this alone" if hint else ""
    message = error.message if name in error.message else f"{name}: {error.message}"
    return PierheadError(message, hint=hint, span=error.span)


def summary(summed: Summary, found: Images) -> Iterator[str]:
    """What was done, and whether the nodes can do without the internet."""
    of = f"of {summed.images}"
    if not summed.images:
        yield f"nothing to do: {counted(found.known, 'image')} known from before"
        return
    if summed.present == summed.images:
        yield f"nothing to do: {summed.present} {of} {'is' if summed.present == 1 else 'are'} there"
    else:
        parts = [f"seeded {summed.seeded} {of}"]
        parts += [f"{summed.present} {'was' if summed.present == 1 else 'were'} there"] if summed.present else []
        parts += [f"{summed.left_out} left out"] if summed.left_out else []
        parts += [f"{summed.failed} failed"] if summed.failed else []
        yield f"{', '.join(parts)}; sent {size_text(summed.sent_bytes)}"
    if summed.proved:
        yield readiness(summed)
    if found.known:
        yield f"not looked at: {counted(found.known, 'image')} known from before"


def readiness(summed: Summary) -> str:
    """The line that the proof comes to."""
    words = "air-gap ready" if summed.is_ready else click.style("not air-gap ready", fg="red")
    parts = [f"{summed.ready}/{counted(summed.images, 'image')}"]
    for item in summed.platforms:
        missing = ", ".join(item.missing[:MISSING_SHOWN])
        more = f" and {len(item.missing) - MISSING_SHOWN} more" if len(item.missing) > MISSING_SHOWN else ""
        parts.append(f"{item.platform} {item.count}" + (f" (missing: {missing}{more})" if missing else ""))
    parts += [f"{counted(summed.unread, 'line')} of the list without an image"] if summed.unread else []
    return f"{words}: {', '.join(parts)}"
