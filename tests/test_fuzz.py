"""The check never crashes: every input that ever failed, and some hundred new ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import CIRCUMSTANCES, FOUND, documents, exercise

FILES = sorted(FOUND.glob("*")) if FOUND.is_dir() else []


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("circumstances", CIRCUMSTANCES, ids=["plain", "air-gap", "wharfie"])
def test_what_once_failed(file: Path, circumstances: object) -> None:
    exercise(file.read_bytes(), circumstances)  # type: ignore[arg-type]  # parametrize has no types


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.sampled_from(CIRCUMSTANCES))
def test_any_bytes_give_findings(data: bytes, circumstances: object) -> None:
    exercise(data, circumstances)  # type: ignore[arg-type]  # sampled_from has no types here
