"""Throws broken files at `pierhead check` for some minutes, and keeps the smallest input of every failure.

    python tools/fuzz.py [MINUTES] [SEED]

What fails is written to tests/corpus/fuzz, where the tests find it from then on. Ends with 1 if anything failed.
"""

from __future__ import annotations

import hashlib
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fuzzing import CIRCUMSTANCES, FOUND, documents, exercise  # after the path above

BATCH: Final = 500
FAILURES_LIMIT: Final = 5  # then it is time to mend something


def batch(number: int) -> tuple[int, bytes | None]:
    """How many inputs were tried, and the smallest one that fails."""
    tried = 0
    failing: bytes | None = None

    @seed(number)
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(documents(), st.sampled_from(CIRCUMSTANCES))
    def attempt(data: bytes, circumstances: object) -> None:
        nonlocal tried, failing
        tried += 1
        try:
            exercise(data, circumstances)  # type: ignore[arg-type]  # sampled_from has no types here
        except Exception:
            failing = data  # the last one is the smallest
            raise

    try:
        attempt()
    except Exception:
        traceback.print_exc(limit=-3)
    return tried, failing


def main(minutes: float = 10.0, first: int | None = None) -> int:
    """Fuzz for so long; the number of batches that failed."""
    start, number = time.monotonic(), time.time_ns() % 1_000_000 if first is None else first
    print(f"seeds from {number}", flush=True)
    tried = failed = 0
    while time.monotonic() - start < minutes * 60 and failed < FAILURES_LIMIT:
        more, failing = batch(number)
        tried, number = tried + more, number + 1
        if failing is not None:
            failed += 1
            FOUND.mkdir(parents=True, exist_ok=True)
            file = FOUND / hashlib.sha256(failing).hexdigest()[:16]
            file.write_bytes(failing)
            print(f"failed: {file}", flush=True)
    print(f"{tried} inputs in {time.monotonic() - start:.0f} s, {failed} batches failed")
    return failed


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(bool(main(float(arguments[0]) if arguments else 10.0, int(arguments[1]) if arguments[1:] else None)))
