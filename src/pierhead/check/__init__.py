"""What is wrong with a registries.yaml: rules over the file, each finding with its line, its remedy and often its fix.

Opinions live here; what K3s and containerd do is told by `pierhead.config` (law 9 of docs/architecture.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pierhead.check import rules
from pierhead.check.finding import Edit, Finding, Fix
from pierhead.check.rule import RULES, Rule
from pierhead.check.source import Source
from pierhead.check.subject import Circumstances, Subject

__all__ = ["RULES", "Circumstances", "Edit", "Finding", "Fix", "Fixed", "Rule", "Subject", "check", "fixed", "unknown"]

_Attempt = tuple[
    str, str, int
]  # id and message, and how many findings say just this: places move as lines are taken out
ROUNDS_LIMIT: Final = 20  # of fixing: one fix may uncover another finding
_IGNORED: Final = re.compile(r"#\s*pierhead:\s*ignore\s+([\w,\s-]+)")

rules.load()


def unknown(names: Collection[str]) -> list[str]:
    """Those of these words that name no rule, by id or by name."""
    known = {word for rule in RULES.values() for word in (rule.id, rule.name)}
    return [name for name in names if name not in known]


def check(subject: Subject, *, select: Collection[str] = (), ignore: Collection[str] = ()) -> tuple[Finding, ...]:
    """The findings, in the order of the file; never raises on content.

    `select` and `ignore` name rules by id or name; a comment `# pierhead: ignore R016` silences them for its line.
    """
    wanted = [rule for rule in RULES.values() if _wanted(rule, select, ignore)]
    found = {finding for rule in wanted for finding in _findings(rule, subject)}
    ordered = sorted(found, key=lambda finding: (finding.span, finding.id, finding.message))
    return tuple(finding for finding in ordered if not _silenced(finding, subject.source))


def _wanted(rule: Rule, select: Collection[str], ignore: Collection[str]) -> bool:
    words = {rule.id, rule.name}
    return (not select or not words.isdisjoint(select)) and words.isdisjoint(ignore)


def _findings(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for hit in rule.look(subject):
        severity = hit.severity or rule.severity
        yield Finding(rule.id, severity, hit.span, hit.message, hit.remedy, hit.fix, rule.url)


def _silenced(finding: Finding, source: Source) -> bool:
    found = _IGNORED.search(source.line(finding.span.line)) if finding.span.file == source.file else None
    if found is None:
        return False
    rule = RULES[finding.id]
    return not {rule.id, rule.name}.isdisjoint(re.split(r"[\s,]+", found[1].strip()))


@dataclass(frozen=True, slots=True)
class Fixed:
    """A file after its fixes: its bytes, what was done, and what is still found."""

    data: bytes
    done: tuple[Finding, ...]
    left: tuple[Finding, ...]


def fixed(subject: Subject, *, select: Collection[str] = (), ignore: Collection[str] = ()) -> Fixed:
    """Applies every fix, round after round, until no finding has one. Only the faulty bytes change.

    A fix that takes its finding away nowhere is not tried twice.
    """
    done: list[Finding] = []
    tried: set[_Attempt] = set()
    for _ in range(ROUNDS_LIMIT):
        findings = check(subject, select=select, ignore=ignore)
        alike = Counter((finding.id, finding.message) for finding in findings)
        attempts = {finding: (finding.id, finding.message, alike[finding.id, finding.message]) for finding in findings}
        chosen = _compatible([each for each in findings if each.fix and attempts[each] not in tried], subject)
        if not chosen:
            break
        tried.update(attempts[finding] for finding in chosen)
        done += chosen
        edits = [edit for finding in chosen if finding.fix for edit in finding.fix.edits]
        subject = Subject.of(subject.source.applied(edits), subject.source.file, subject.circumstances)
    return Fixed(subject.source.data, tuple(done), check(subject, select=select, ignore=ignore))


def _compatible(findings: list[Finding], subject: Subject) -> list[Finding]:
    """As many as can be made in one round: no two that touch the same bytes in different ways."""
    taken: dict[tuple[int, int], str] = {}
    chosen = []
    for finding in findings:
        assert finding.fix is not None  # the caller chose
        wanted = {subject.source.range(edit.span): edit.text for edit in finding.fix.edits}
        if all(_fits(place, text, taken) for place, text in wanted.items()):
            taken |= wanted
            chosen.append(finding)
    return chosen


def _fits(place: tuple[int, int], text: str, taken: Mapping[tuple[int, int], str]) -> bool:
    if place in taken:
        return taken[place] == text
    return all(place[1] < start or end < place[0] for start, end in taken)
