"""A few threads that do what they are given, and never keep a process from ending.

Not `concurrent.futures`: its threads are joined when the interpreter ends, so that Ctrl-C would wait for a connection
that nobody answers; ours are daemons (the store is sound whenever a process dies). It also takes longer to import than
all of this to run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

# How long a wait goes on before it looks around: a lock is only sometimes interrupted by a signal.
LOOK_SECONDS: Final = 0.5

R = TypeVar("R")


class Task(Generic[R]):
    """A piece of work that a thread does: its result, or what it raised."""

    def __init__(self, work: Callable[[], R], finished: SimpleQueue[Task[Any]]) -> None:
        self._work = work
        self._finished = finished
        self._result: R
        self._error: BaseException | None = None
        self._claimed = threading.Lock()

    def run(self) -> None:
        """Do the work, unless it was cancelled or is being done."""
        if not self._claimed.acquire(blocking=False):
            return
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error  # raised again for whoever asks for the result
        self._finished.put(self)

    def cancel(self) -> bool:
        """See to it that the work is not begun; False if it was."""
        return self._claimed.acquire(blocking=False)

    def result(self) -> R:
        """What the work came to; call it when the task is finished."""
        if self._error is not None:
            raise self._error
        return self._result


class Crew:
    """At most `size` threads, started as they are needed."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._tasks: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def do(self, works: Iterable[Callable[[], R]]) -> Batch[R]:
        """Begin all these pieces of work, in this order."""
        finished: SimpleQueue[Task[Any]] = SimpleQueue()
        tasks = [Task(work, finished) for work in works]
        for task in tasks:
            self._tasks.put(task)
        with self._lock:
            for _ in range(min(len(tasks), self._size - len(self._threads))):
                thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return Batch(tasks, finished)

    def close(self, wait_seconds: float) -> None:
        """Let the threads go when they are done with what they do now; wait for them at most so long in all."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(wait_seconds / len(self._threads))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()


class Batch(Generic[R]):
    """Pieces of work that were begun together."""

    def __init__(self, tasks: Sequence[Task[R]], finished: SimpleQueue[Task[R]]) -> None:
        self._tasks = tasks
        self._finished = finished
        self._left = len(tasks)

    def results(self) -> list[R]:
        """Every result, in the order the work was given; raises the first failure as soon as it is one."""
        for task in self._as_finished():
            task.result()
        return [task.result() for task in self._tasks]

    def abandon(self) -> None:
        """Begin nothing more of it, and wait for what was begun."""
        self._left -= sum(task.cancel() for task in self._tasks)
        for _ in self._as_finished():
            pass

    def _as_finished(self) -> Iterator[Task[R]]:
        while self._left > 0:
            try:
                task = self._finished.get(timeout=LOOK_SECONDS)
            except Empty:
                continue
            self._left -= 1
            yield task
