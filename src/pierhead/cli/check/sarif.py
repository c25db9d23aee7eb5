"""Findings as SARIF 2.1.0, which code scanning reads (OASIS, Static Analysis Results Interchange Format)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from pierhead import __version__
from pierhead.check import RULES, Finding, Rule
from pierhead.cli.check.formats import Checked
from pierhead.errors import Span

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS: Final = {"error": "error", "warning": "warning", "note": "note"}


def as_sarif(checked: Sequence[Checked]) -> dict[str, Any]:
    """One run with the rules that found something, and a result for each finding."""
    findings = [finding for item in checked for finding in item.findings]
    used = sorted({finding.id for finding in findings})
    driver = {
        "name": "pierhead",
        "semanticVersion": _semantic(__version__),
        "rules": [_rule(RULES[id]) for id in used],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "artifacts": [{"location": {"uri": _uri(item.file)}} for item in checked],
        "results": [_result(finding, used.index(finding.id)) for finding in findings],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.about or rule.title},
        "helpUri": rule.url,
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(finding: Finding, index: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.id,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}. {finding.remedy}"},
        "locations": [
            {"physicalLocation": {"artifactLocation": _artifact(finding.span), "region": _region(finding.span)}}
        ],
    }
    if finding.fix:
        edits = [
            {"deletedRegion": _region(edit.span), "insertedContent": {"text": edit.text}} for edit in finding.fix.edits
        ]
        change = {"artifactLocation": _artifact(finding.span), "replacements": edits}
        result["fixes"] = [{"description": {"text": finding.fix.description}, "artifactChanges": [change]}]
    return result


def _artifact(span: Span) -> dict[str, str]:
    return {"uri": _uri(span.file)}


def _uri(file: str) -> str:
    """A relative reference for a relative path, else a file URL."""
    if file == "-":
        return "stdin"
    return Path(file).as_uri() if Path(file).is_absolute() else quote(file)


def _region(span: Span) -> dict[str, int]:
    return {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line or span.line,
        "endColumn": span.end_column or span.column,
    }


def _semantic(version: str) -> str:
    """1.2.3.dev0 is no semantic version, 1.2.3-dev0 is one."""
    return version.replace(".dev", "-dev")
