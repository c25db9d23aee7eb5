"""Lines at the end of the run: what a test says with `record_property("summary", line)`, under pytest-xdist too."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every summary, in the order in which the tests ended."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    for report in reports:
        for name, line in report.user_properties:
            if name == "summary":
                terminalreporter.write_line(str(line))
