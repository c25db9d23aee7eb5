"""Files as people have them: their mistakes are found, all of them and nothing else, and the corrections are right.

tests/corpus/README.md says what stands there and how to add a case.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from casebook import CORPUS, GROUPS, Case, Score, Verdict, alarming, cases, images_of, meaning, places
from pierhead.check import RULES, Subject, check, fixed
from pierhead.check.secrets import auths_with_secrets, secrets_of

BROKEN: Final = cases("broken")
SOUND: Final = cases("sound")
NEAR_MISSES: Final = cases("near-misses")
EVERY: Final = (*BROKEN, *SOUND, *NEAR_MISSES)
# What takes certificates to be wrong: tests/test_check_tls.py makes them.
OF_CERTIFICATES: Final = frozenset({"R071", "R072", "R073", "R074", "R076"})
THREAD: Final = re.compile(r"[\w.-]+/[\w.-]+#\d+")
HEAD: Final = b"# from the node in the attic\n\n"
SECRET_CHARS: Final = 8  # a shorter one may be a word of any message


def each(cases: tuple[Case, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


# -- what is found ----------------------------------------------------------------------------------------------------


def test_precision_and_recall(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """The score over all files, in one line at the end of the run; rule by rule in what this test prints."""
    verdicts = [Verdict.of(case, tmp_path / str(case)) for case in EVERY]
    score = Score.of(verdicts)

    print("\n".join(score.lines()))
    record_property(
        "summary",
        f"corpus: precision {score.precision():.3f}, recall {score.recall():.3f} ({score.right.total()} findings of "
        f"{len(score.right)} rules in {len(BROKEN)} broken files; {len(SOUND)} sound, {len(NEAR_MISSES)} near misses)",
    )
    assert not {str(verdict.case): verdict.mistakes for verdict in verdicts if verdict.mistakes}


@each(BROKEN)
def test_a_broken_file(case: Case, tmp_path: Path) -> None:
    verdict = Verdict.of(case, tmp_path)

    assert case.expected
    assert verdict.mistakes == set(), verdict.findings


@each(SOUND)
def test_a_sound_file(case: Case, tmp_path: Path) -> None:
    assert alarming(check(case.subject(tmp_path))) == []


@each(NEAR_MISSES)
def test_a_near_miss(case: Case, tmp_path: Path) -> None:
    """The rule that the case is named after has nothing to say, and no other has much."""
    findings = check(case.subject(tmp_path))

    assert [finding for finding in findings if finding.id == case.name.partition("-")[0]] == []
    assert alarming(findings) == []


@each(EVERY)
def test_line_ends_and_comments_change_nothing(case: Case, tmp_path: Path) -> None:
    """With CRLF, a byte order mark or comments in front the same is found, and a fix changes the same bytes."""
    subject = case.subject(tmp_path)
    told, after = told_of(subject), fixed(subject).data
    windows = case.subject(tmp_path, data=to_windows(subject.source.data))
    marked = case.subject(tmp_path, data=codecs.BOM_UTF8 + subject.source.data)
    below = case.subject(tmp_path, data=HEAD + subject.source.data)

    assert told_of(windows) == told_of(marked) == told
    assert told_of(below, lines=HEAD.count(b"\n")) == told
    assert fixed(windows).data == to_windows(after)
    assert fixed(marked).data == codecs.BOM_UTF8 + after
    assert fixed(below).data == HEAD + after


def told_of(subject: Subject, *, lines: int = 0) -> list[tuple[str, str, int, int, bool]]:
    """The findings in the file, as many lines further up."""
    return [
        (found.id, found.severity, max(found.span.line - lines, 1), found.span.column, found.fix is not None)
        for found in check(subject)
        if found.span.file == subject.source.file
    ]


def to_windows(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


@each(BROKEN)
def test_no_secret_is_told(case: Case, tmp_path: Path) -> None:
    subject = case.subject(tmp_path)
    secrets = [text.value.reveal() for auth in auths_with_secrets(subject.config) for text in secrets_of(auth)]

    told = repr(check(subject))

    assert [secret for secret in secrets if len(secret) >= SECRET_CHARS and secret in told] == []


# -- what is corrected ------------------------------------------------------------------------------------------------


@each(BROKEN)
def test_what_fix_does(case: Case, tmp_path: Path) -> None:
    """All that the operator would have done, a part of it, or nothing; to the byte."""
    subject = case.subject(tmp_path)
    kind = {"all": "corrected", "part": "fixed", "none": ""}[case.told["fix"]]

    result = fixed(subject)

    assert result.data.decode() == case.path(kind).read_bytes().decode()
    assert bool(alarming(result.left)) == (case.told["fix"] != "all" and bool(alarming(check(subject))))


@each(BROKEN)
def test_the_corrected_file_is_clean(case: Case, tmp_path: Path) -> None:
    assert alarming(check(case.subject(tmp_path, "corrected"))) == []


@each(BROKEN)
def test_the_mistake_matters(case: Case, tmp_path: Path) -> None:
    """K3s does something else with the corrected file, unless the case says why it does not."""
    broken, corrected = case.subject(tmp_path / "broken"), case.subject(tmp_path / "corrected", "corrected")
    images = images_of(case, broken, corrected)

    assert meaning(corrected, images) != "K3s refuses the file"
    assert (meaning(broken, images) == meaning(corrected, images)) == ("same" in case.told)


@each(tuple(case for case in BROKEN if case.told["fix"] == "all"))
def test_the_fixed_file_means_what_the_corrected_one_does(case: Case, tmp_path: Path) -> None:
    data = fixed(case.subject(tmp_path / "broken")).data
    mended, corrected = case.subject(tmp_path, data=data), case.subject(tmp_path / "corrected", "corrected")
    images = images_of(case, mended, corrected)

    assert meaning(mended, images) == meaning(corrected, images)


# -- the corpus itself ------------------------------------------------------------------------------------------------


def test_every_rule_has_a_broken_file_and_a_near_miss() -> None:
    rules = RULES.keys() - OF_CERTIFICATES
    found = {place.split()[0] for case in BROKEN for place in case.expected}
    near = {case.name.partition("-")[0] for case in NEAR_MISSES}

    assert sorted(rules - found) == []
    assert sorted(rules - near) == []


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(BROKEN) >= 65
    assert len(SOUND) >= 36


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_is_in_its_index(group: str) -> None:
    known = {case.name for case in EVERY if case.group == group}

    assert {path.name.split(".")[0] for path in (CORPUS / group).iterdir()} - {"index"} == known


@each(BROKEN)
def test_a_broken_file_names_its_thread(case: Case) -> None:
    assert THREAD.fullmatch(case.told["thread"])
    assert case.told["about"].endswith(".")


def test_a_wrong_expectation_costs_both(tmp_path: Path) -> None:
    """The score counts: a finding expected elsewhere is one missed and one too many."""
    case = next(case for case in BROKEN if case.name == "documentation-tls-and-auth")
    moved = Case(case.group, case.name, {**case.told, "expect": ["R004 7:3"]})
    verdict = Verdict.of(moved, tmp_path)
    score = Score.of([verdict, Verdict.of(case, tmp_path)])

    assert case.expected == {"R004 6:3"} == places(alarming(verdict.findings), verdict.subject)
    assert verdict.mistakes == {"missed R004 7:3", "extra R004 6:3"}
    assert score.precision() == score.recall("R004") == 0.5
