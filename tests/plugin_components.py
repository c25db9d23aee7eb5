"""What the whole suite agrees on: real components, no silent skip, and how long properties may think.

- `@pytest.mark.real("skopeo", "docker-registry")` names the programs a test needs (none named: all of them). Where one
  is missing the test is skipped, and the end of the run says what to install.
- With `CI` set, a missing component fails, and so does a run in which anything at all was skipped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from components import COMPONENTS, why_not


def in_ci() -> bool:
    """Whether `CI` is set to something that means yes."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}


def pytest_configure(config: pytest.Config) -> None:
    """Properties are judged by their answers, not by how busy the machine is."""
    slow_is_fine = [HealthCheck.too_slow]
    settings.register_profile("pierhead", deadline=None, suppress_health_check=slow_is_fine, derandomize=in_ci())
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("pierhead")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or in CI fail, a test whose components are not here."""
    for marker in item.iter_markers("real"):
        names = marker.args or tuple(COMPONENTS)
        if unknown := set(names) - COMPONENTS.keys():
            raise pytest.UsageError(f"{item.nodeid}: no such component: {', '.join(sorted(unknown))}")
        if reason := why_not(names):
            stop = pytest.fail if in_ci() else pytest.skip
            stop(reason)


def _skip_reasons(reporter: pytest.TerminalReporter) -> Iterator[str]:
    for report in reporter.stats.get("skipped", []):
        place = report.longrepr
        yield place[2].removeprefix("Skipped: ") if isinstance(place, tuple) else str(place)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing is skipped: by count, whatever the reason was."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if in_ci() and reporter is not None and reporter.stats.get("skipped") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason something was skipped."""
    reasons = Counter(_skip_reasons(terminalreporter))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}", yellow=True)
    if reasons and in_ci():
        terminalreporter.write_line(f"CI skips no test, and {reasons.total()} were skipped: this run failed", red=True)
