"""The check on every file that was recorded: what explain calls a problem, what K3s refuses, is found at its line."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from checking import NOW
from pierhead.check import Circumstances, Subject, check, fixed
from pierhead.config.k3s import Flags
from pierhead.errors import FLAGS

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors/k3s-files.json").read_text())
ANCHORS = {"x", "y", "z", "base", "common"}


def subject_of(case: dict[str, Any]) -> Subject:
    data = b64decode(case["yaml_base64"]) if "yaml_base64" in case else case["yaml"].encode()
    flags = case["flags"]
    k3s_flags = Flags(flags["disable_default_registry_endpoint"], flags["embedded_registry"], flags["program"])
    return Subject.of(data, "registries.yaml", Circumstances(NOW, k3s_flags, look_at_files=False))


# Which rules speak for a problem of the reader or the dialect; which one depends on what a person did.
SPEAKERS = {
    "yaml-syntax": "R001 R021 R034",
    "yaml-type": "R001 R011 R023 R056",
    "duplicate-key": "R002",
    "unknown-key": "R003 R023",
    "merge-overrides": "R049",
    "second-document": "R055",
    "unused-auths": "R054",
    "invalid-endpoint": "R051 R028",
    "duplicate-endpoint": "R012",
    "invalid-registry": "R052 R053 R005",
    "unusable-hosts-toml": "R015 R018 R028 R046",
    "default-endpoint-stays": "R042 R045 R023 R080",
    "rewrites-not-for-default": "R013",
    "wildcard-tls-lost": "R041",
    "ambiguous-directory": "R035",
    "destructive-key": "R043",
    "key-never-matches": "R005 R053",
    "containerd-does-not-start": "R037",
    "cannot-render": "R048",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_every_problem_is_found(case: dict[str, Any]) -> None:
    """A rule may be milder than the dialect, or know a better place; none may be silent."""
    subject = subject_of(case)
    found = {finding.id for finding in check(subject)}

    for problem in subject.problems:
        if problem.severity == "note" or problem.span is None or problem.span.file == FLAGS:
            continue
        if problem.id == "duplicate-endpoint" and str(subject.flags.embedded_registry) in problem.message:
            continue  # nobody is asked twice, and K3s itself lists the first one
        if problem.id == "unknown-key" and subject.source.slice(problem.span) in ANCHORS:
            continue  # it holds what others refer to
        assert not found.isdisjoint(SPEAKERS[problem.id].split()), problem


@pytest.mark.parametrize("case", [case for case in CASES if case["exit"]], ids=lambda case: str(case["id"]))
def test_what_k3s_refuses_is_an_error(case: dict[str, Any]) -> None:
    assert any(finding.severity == "error" for finding in check(subject_of(case)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_what_was_fixed_is_gone(case: dict[str, Any]) -> None:
    subject = subject_of(case)
    before = Counter((finding.id, finding.message) for finding in check(subject))

    after = fixed(subject)

    left = Counter((finding.id, finding.message) for finding in after.left)
    done = {(finding.id, finding.message) for finding in after.done} & set(before)
    assert all(left[said] < before[said] for said in done)
