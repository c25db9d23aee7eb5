"""Every rule on its own examples: it finds the bad one, it is silent on the good one, and its fix is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest

from checking import check_example, named
from pierhead.check import RULES, Finding, Rule, check, fixed
from pierhead.check.rule import Example
from test_check_recorded import CASES, subject_of

MESSAGE_LIMIT: Final = 300  # characters
NAMES: Final = ("K3s", "RKE2", "Go", "YAML", "TOML", "Docker")  # what may begin a sentence with a capital letter

EVERY_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: f"{rule.id}-{rule.name}")


@EVERY_RULE
def test_the_bad_example_is_found(rule: Rule, tmp_path: Path) -> None:
    subject = check_example(rule.bad, tmp_path)

    found = [finding for finding in check(subject) if finding.id == rule.id]

    assert found
    for finding in found:
        assert finding.message
        assert finding.remedy
        assert finding.span.line >= 1
        assert finding.span.end_line, "a finding underlines something"


@EVERY_RULE
def test_the_good_example_is_sound(rule: Rule, tmp_path: Path) -> None:
    """The good file is the near miss: nothing is said about it that makes a check fail."""
    findings = check(check_example(rule.good, tmp_path))

    assert [finding for finding in findings if finding.id == rule.id] == []
    assert [finding for finding in findings if finding.severity == "error"] == []


@EVERY_RULE
def test_a_fix_takes_its_finding_away(rule: Rule, tmp_path: Path) -> None:
    subject = check_example(rule.bad, tmp_path)
    fixable = [finding for finding in check(subject) if finding.id == rule.id and finding.fix]

    after = fixed(subject, select=[rule.id])

    assert len(after.left) == len(check(subject, select=[rule.id])) - len(fixable)
    known = {finding.id for finding in check(subject)}
    worse = [each for each in named(after.data, subject) if each.id not in known and each.severity != "note"]
    assert not worse, "a fix makes no new findings"


@EVERY_RULE
def test_a_rule_is_documented(rule: Rule) -> None:
    assert rule.title.endswith(".")
    assert rule.about, "the long form says what happens, and why"
    assert rule.sources
    assert rule.id[0] == "R"
    assert rule.id[1:].isdigit()
    assert rule.name == rule.name.lower()


# ── one rule for one mistake ─────────────────────────────────────────────────────────────────────────────────────────

CLOSED: Final = "--disable-default-registry-endpoint"


@pytest.mark.parametrize(
    ("example", "ids"),
    [
        (Example("mirrors:\n  docker.io:\n  configs:\n    a.lan:\n      auth: {username: u}\n"), ["R022 2", "R023 3"]),
        (Example("mirrors:\n  docker.io:\n  endpoint: [https://a.lan]\n"), ["R080 3"]),
        (Example("mirrors:\n  docker.io:\n  endpoint: [https://a.lan]\n", flags=(CLOSED,)), ["R080 3"]),
        (Example("mirrors:\n  a.lan:\n    tls: {insecure_skip_verify: true}\n"), ["R080 3"]),
        (Example("configs:\n  a.lan:\n    password: p\n"), ["R080 3"]),
        (Example("configs:\n  a.lan:\n  b.lan:\n    password: p\n"), ["R069 2", "R080 4"]),
        (Example("configs:\n  a.lan:\n    auth:\n      username: u\n      password: #p\n"), ["R081 5"]),
        (Example("configs:\n  a.lan:\n    auth:\n      username: u\n      password:\n"), ["R062 4"]),
        (
            Example(
                "configs:\n  registry-1.docker.io:\n    auth: {}\n  docker.io:\n    auth: {username: u, password: p}\n"
            ),
            ["R050 3"],
        ),
        (Example("configs:\n  a.lan:\n    auth: {}\n"), ["R062 3"]),
        (
            Example(
                "configs:\n  a.lan:\n    tls: {insecure_skip_verify: true}\n", flags=("--k3s-version v1.29.3+k3s1",)
            ),
            ["R040 3"],
        ),
    ],
)
def test_a_mistake_is_told_once(example: Example, ids: list[str], tmp_path: Path) -> None:
    findings = check(check_example(example, tmp_path))

    assert [f"{finding.id} {finding.span.line}" for finding in findings if finding.id not in ("R025", "R039")] == ids


def test_a_mirror_that_a_release_writes_wrongly_may_be_wrong_itself_too(tmp_path: Path) -> None:
    mirror = "mirrors:\n  a.lan:\n    endpoint: ['https://b\"c.lan']\n"
    text = f"{mirror}configs:\n  a.lan:\n    tls: {{insecure_skip_verify: true}}\n"

    findings = check(check_example(Example(text, flags=("--k3s-version v1.29.3+k3s1",)), tmp_path))

    assert "R046" in {finding.id for finding in findings}


# ── one author ───────────────────────────────────────────────────────────────────────────────────────────────────────


def faults(finding: Finding) -> list[str]:
    """What is not as in the rest of the texts: half a sentence in small letters, without its full stop."""
    texts = [finding.message, finding.remedy, *([finding.fix.description] if finding.fix else [])]
    found = [text for text in texts if not text or text != text.strip() or not text.isprintable()]
    found += [text for text in texts if text.endswith((".", "!", "?", ":", ";", ","))]
    found += [text for text in texts if text[:1].isupper() and not re.match(rf"({'|'.join(NAMES)})\b", text)]
    return found + [finding.message] * (len(finding.message) > MESSAGE_LIMIT)


@EVERY_RULE
def test_every_text_is_written_alike(rule: Rule, tmp_path: Path) -> None:
    findings = check(check_example(rule.bad, tmp_path))

    assert {finding.id: found for finding in findings if (found := faults(finding))} == {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_every_text_about_a_recorded_file_is_written_alike(case: dict[str, Any]) -> None:
    findings = check(subject_of(case))

    assert {finding.id: found for finding in findings if (found := faults(finding))} == {}


@EVERY_RULE
def test_the_long_form_is_written_alike(rule: Rule) -> None:
    assert rule.title[:1].isupper() or re.match(r"`|--|key_file|ca_file|cert_file|containerd|K3s", rule.title)
    assert rule.about.endswith((".", "`.", ")."))
