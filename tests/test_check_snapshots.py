"""What `pierhead check` prints for the bad example of every rule, as text and as JSON, beside the file that says so.

`SNAPSHOTS=update pytest tests/test_check_snapshots.py` writes tests/rule_snapshots anew; a test whose file was changed
by that fails all the same.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from checking import check_example
from pierhead.check import RULES, Rule, check, fixed
from pierhead.cli.check.excerpt import Excerpts
from pierhead.cli.check.formats import Checked, as_json, as_text

SNAPSHOTS: Final = Path(__file__).with_name("rule_snapshots")
UPDATE: Final = os.environ.get("SNAPSHOTS") == "update"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One whose name is as long everywhere: some lines that are underlined hold it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="rule-") as name:
        yield Path(name)


def printed(rule: Rule, folder: Path) -> str:
    """The file, what is said about it, and what a program is told."""
    subject = check_example(rule.bad, folder)
    findings = check(subject)
    checked = [Checked(subject.source.file, findings, Excerpts(subject.source))]
    text = click.unstyle("\n".join(as_text(checked)))
    parts = [text, json.dumps(as_json(checked), indent=2, ensure_ascii=False)]
    after = fixed(subject)
    if after.done:
        mended = type(subject).of(after.data, subject.source.file, subject.circumstances)
        parts.append("with --fix:\n" + "\n".join(Excerpts(mended.source).text()))
    return "\n\n".join(parts).replace(str(folder), "FOLDER") + "\n"


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: f"{rule.id}-{rule.name}")
def test_what_a_rule_says(rule: Rule, folder: Path) -> None:
    file = SNAPSHOTS / f"{rule.id}-{rule.name}.txt"
    found = printed(rule, folder)
    known = file.read_text("utf-8") if file.exists() else ""
    if UPDATE and found != known:
        file.parent.mkdir(exist_ok=True)
        file.write_text(found, "utf-8")

    assert found == known


def test_every_snapshot_has_its_rule() -> None:
    assert {file.stem for file in SNAPSHOTS.iterdir()} == {f"{rule.id}-{rule.name}" for rule in RULES.values()}
