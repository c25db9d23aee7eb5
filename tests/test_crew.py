"""The threads behind a transfer: results in order, the first failure at once, and no thread that keeps us waiting."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pierhead.crew import Batch, Crew

SECONDS = 20.0


def test_results_come_in_the_order_of_the_work() -> None:
    gate = threading.Event()

    def late() -> int:
        assert gate.wait(SECONDS)
        return 1

    def early() -> int:
        gate.set()
        return 2

    assert Crew(2, "test").do([late, early]).results() == [1, 2]


def test_no_more_threads_than_asked_for() -> None:
    names: set[str] = set()
    both = threading.Barrier(2, timeout=SECONDS)

    def meet() -> None:
        names.add(threading.current_thread().name)
        both.wait()

    Crew(2, "test").do([meet] * 8).results()
    assert names == {"test-0", "test-1"}


def test_a_failure_is_raised_while_others_still_work() -> None:
    hold = threading.Event()

    def fail() -> None:
        raise LookupError("gone")

    crew = Crew(2, "test")
    batch = crew.do([lambda: hold.wait(SECONDS), fail])
    with pytest.raises(LookupError, match="gone"):
        batch.results()
    hold.set()
    batch.abandon()


def test_abandoned_work_is_not_begun_and_begun_work_is_awaited() -> None:
    begun, hold, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        assert hold.wait(SECONDS)
        done.append("first")

    batch = Crew(1, "test").do([first, lambda: done.append("second")])
    assert begun.wait(SECONDS)
    threading.Timer(0.01, hold.set).start()
    batch.abandon()
    assert done == ["first"]


def test_closing_gives_up_on_a_thread_that_does_not_come_back() -> None:
    hold = threading.Event()
    crew = Crew(1, "test")
    crew.do([lambda: hold.wait(SECONDS)])
    crew.close(wait_seconds=0.01)
    assert not hold.is_set()
    hold.set()


def test_a_process_ends_although_a_thread_hangs() -> None:
    program = "import threading; from pierhead.crew import Batch, Crew; Crew(1, 'x').do([threading.Event().wait])"
    ended = subprocess.run([sys.executable, "-c", program], timeout=SECONDS, check=False)
    assert ended.returncode == 0


def test_an_empty_batch_is_finished() -> None:
    batch: Batch[None] = Crew(1, "test").do([])
    assert batch.results() == []
    batch.abandon()
