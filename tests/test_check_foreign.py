"""Patterns of shells and of sed, and those that only look so."""

from __future__ import annotations

import pytest

from checking import NOW, check_text
from pierhead.check import Circumstances, Subject, fixed
from pierhead.check.patterns import read_rewrites


def mirror(pattern: str, replacement: str) -> str:
    return f"mirrors:\n  docker.io:\n    endpoint: [https://h.lan]\n    rewrite:\n      {pattern}: {replacement} # c\n"


@pytest.mark.parametrize(
    "pattern", ["rancher/*", "^rancher/*", "^rancher/*$", "rancher*", "'a/*/b'", "'/^library/'", "'/library$/'"]
)
def test_a_pattern_of_another_language(pattern: str) -> None:
    (finding,) = [finding for finding in check_text(mirror(pattern, "hub/x")) if finding.id == "R092"]

    assert (finding.severity, finding.span.line, finding.span.column, finding.fix) == ("warning", 5, 7, None)


@pytest.mark.parametrize(
    "pattern",
    [
        "^rancher/(.*)$",
        "'^(.*)$'",
        "'.*'",
        "'^rancher/.*'",
        "'^[a-z]*/(.*)'",
        "'^library/*(.*)$'",
        "'^(a/)*b'",
        "'^a/b'",
        "'/'",
        "'*'",
    ],
)
def test_a_pattern_of_go_is_silent(pattern: str) -> None:
    assert "R092" not in [finding.id for finding in check_text(mirror(pattern, "'hub/x'"))]


@pytest.mark.parametrize(
    ("pattern", "replacement", "after"),
    [
        ("'rancher/*'", "'hub/rancher/*'", ("'^rancher/(.*)$'", "'hub/rancher/$1'")),
        ('"^rancher*"', '"hub/*"', ('"^rancher(.*)$"', '"hub/$1"')),
        ("rancher/*$", "hub/*", ("^rancher/(.*)$", "hub/$1")),
    ],
)
def test_both_sides_are_written_anew(pattern: str, replacement: str, after: tuple[str, str]) -> None:
    subject = Subject.of(mirror(pattern, replacement).encode(), "f", Circumstances(NOW))

    result = fixed(subject)

    assert result.data.decode() == mirror(*after)
    assert result.left == ()
    (mirrored,) = Subject.of(result.data, "f", Circumstances(NOW)).config.mirrors.values()
    (rule,) = read_rewrites(mirrored, detour=True)
    assert (rule.result("rancher/pause") or "").startswith("hub/")
    assert (rule.result("rancher/pause") or "").endswith("pause")
    assert rule.result("team/rancher/pause") is None


def test_a_rule_that_is_there_already_is_not_written_again() -> None:
    text = mirror("rancher/*", "hub/*") + "      '^rancher/(.*)$': 'x/$1'\n"

    assert fixed(Subject.of(text.encode(), "f", Circumstances(NOW)), select=["R092"]).data.decode() == text
