"""How findings are printed: for people, for programs, and for what annotates pull requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from pierhead.check import Finding
from pierhead.cli import COLOURS
from pierhead.cli.check.excerpt import Excerpts
from pierhead.errors import Span


@dataclass(frozen=True, slots=True)
class Checked:
    """A file and what was found in it; `excerpts` show its lines, None if there are none to show."""

    file: str
    findings: tuple[Finding, ...]
    excerpts: Excerpts | None


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_text(checked: Sequence[Checked]) -> Iterator[str]:
    """Each finding with its line underlined, then how many there are."""
    for item in checked:
        for finding in item.findings:
            yield from _paragraph(finding, item.excerpts)
            yield ""
    yield from (_summary(item) for item in checked)


def _paragraph(finding: Finding, excerpts: Excerpts | None) -> Iterator[str]:
    from pierhead.check import RULES

    severity = click.style(finding.severity, fg=COLOURS[finding.severity], bold=True)
    name = RULES[finding.id].name
    yield f"{click.style(str(finding.span), bold=True)}: {severity} {finding.id} {name}"
    if excerpts is not None and finding.span.file == excerpts.source.file and excerpts.source.line(finding.span.line):
        line, underline = excerpts.underlined(finding.span)
        number = str(finding.span.line)
        yield click.style(f"  {number} | ", dim=True) + line
        yield click.style(f"  {' ' * len(number)} | ", dim=True) + click.style(underline, fg=COLOURS[finding.severity])
    yield f"  {finding.message}"
    yield f"  {click.style('do:', fg='green', bold=True)} {finding.remedy}"
    if finding.fix:
        yield f"  {click.style('--fix:', fg='green', bold=True)} {finding.fix.description}"


def _summary(item: Checked) -> str:
    counts = Counter(finding.severity for finding in item.findings)
    if not counts:
        return f"{item.file}: nothing to say against it"
    parts = [_count(counts[severity], severity) for severity in COLOURS if counts[severity]]  # type: ignore[index]  # its keys are the severities
    fixable = sum(finding.fix is not None for finding in item.findings)
    ending = f"; --fix mends {'it' if len(item.findings) == 1 else fixable}" if fixable else ""
    return f"{item.file}: {', '.join(parts)}{ending}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_json(checked: Sequence[Checked]) -> dict[str, Any]:
    """The form of docs/reference/check.md."""
    return {
        "files": [{"file": item.file, "findings": [_finding(found) for found in item.findings]} for item in checked]
    }


def _finding(finding: Finding) -> dict[str, Any]:
    fix = finding.fix
    return {
        "id": finding.id,
        "severity": finding.severity,
        **_place(finding.span),
        "message": finding.message,
        "remedy": finding.remedy,
        "fix": {
            "description": fix.description,
            "edits": [{**_place(edit.span), "text": edit.text} for edit in fix.edits],
        }
        if fix
        else None,
        "url": finding.url,
    }


def _place(span: Span) -> dict[str, int]:
    return {
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line or span.line,
        "end_column": span.end_column or span.column,
    }


# ── GitHub ───────────────────────────────────────────────────────────────────────────────────────────────────────

_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def as_github(checked: Sequence[Checked]) -> Iterator[str]:
    """Workflow commands, which GitHub shows beside the line in a pull request."""
    from pierhead.check import RULES

    for finding in (finding for item in checked for finding in item.findings):
        span = finding.span
        line, column, end_line, end_column = _place(span).values()
        title = _property(f"{finding.id} {RULES[finding.id].name}")
        where = f"line={line},col={column},endLine={end_line},endColumn={end_column},file={_property(span.file)}"
        message = _escaped(f"{finding.message}\n{finding.remedy}")
        yield f"::{_COMMANDS[finding.severity]} {where},title={title}::{message}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
