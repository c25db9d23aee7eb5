"""What a run costs, tools in turn, and the tables that come of it.

Figures are those of whole processes as the operating system accounts them, their medians, and medians of the runs'
ratios. A missed aim is printed as missed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from real import clean_environment  # beside this folder, on the path just set

MIB: Final = 1024 * 1024
PIERHEAD: Final = str(Path(sys.executable).parent / "pierhead")


@dataclass(frozen=True)
class Figures:
    """What one run of one tool cost. `peak_mib` is the largest single process.

    `requests` and `sent_mib`: what the registry that was filled answered, and what it read.
    """

    wall: float
    cpu: float
    peak_mib: float
    requests: int | None = None
    sent_mib: float | None = None


Tool = Callable[[Path], Figures]


@dataclass(frozen=True)
class Aim:
    """What a ratio to a peer should be; `figure` is a field of Figures."""

    peer: str
    figure: str
    at_most: float


@dataclass(frozen=True)
class Case:
    """One comparison: the tools by name, ours first, and what we aim at."""

    title: str
    tools: dict[str, Tool]
    aims: tuple[Aim, ...]
    peak_mib_at_most: float | None = 80.0
    seconds_at_most: float | None = None


def environment() -> dict[str, str]:
    return clean_environment(Path(tempfile.gettempdir()))


def check(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)


def measure(*commands: Sequence[str]) -> Figures:
    """What these commands cost, one after the other."""
    one = [_measure(command) for command in commands]
    return Figures(sum(run.wall for run in one), sum(run.cpu for run in one), max(run.peak_mib for run in one))


def _measure(command: Sequence[str]) -> Figures:
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{said.read().decode(errors='replace')}{command[0]} failed with {process.returncode}")
    return Figures(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def alone(*command: str) -> Tool:
    """A command that writes nothing."""
    return lambda _: measure(command)


def run_case(case: Case, scratch: Path, runs: int) -> dict[str, list[Figures]]:
    """Every tool in turn, `runs` times after a warm-up."""
    figures: dict[str, list[Figures]] = {name: [] for name in case.tools}
    for number in range(runs + 1):
        for name, tool in case.tools.items():
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            os.sync()
            measured = tool(out)
            if number:
                figures[name].append(measured)
    return figures


def table(case: Case, figures: dict[str, list[Figures]]) -> list[str]:
    """The case as a Markdown table, and its aims."""
    ours = figures["pierhead"]
    moved = ours[0].requests is not None
    columns = ["tool", "wall s", "CPU s", "peak MiB", "wall, ours to it", "CPU, ours to it"]
    columns += ["requests", "MiB sent"] if moved else []
    lines = [f"## {case.title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, runs in figures.items():
        cells = [f"{median(getattr(run, figure) for run in runs):.3f}" for figure in ("wall", "cpu")]
        peak = f"{median(run.peak_mib for run in runs):.0f}"
        ratios = ["", ""] if name == "pierhead" else [f"{ratio(ours, runs, figure):.2f}" for figure in ("wall", "cpu")]
        counts = [f"{median(run.requests or 0 for run in runs):.0f}"] if moved else []
        counts += [f"{median(run.sent_mib or 0 for run in runs):.1f}"] if moved else []
        lines.append(f"| {' | '.join([name, *cells, peak, *ratios, *counts])} |")
    lines.append("")
    lines += [f"- {verdict(aim, ratio(ours, figures[aim.peer], aim.figure))}" for aim in case.aims]
    if case.peak_mib_at_most is not None:
        peak_mib = max(run.peak_mib for run in ours)
        word = "met" if peak_mib < case.peak_mib_at_most else "**missed**"
        lines.append(f"- peak memory under {case.peak_mib_at_most:.0f} MiB: {word} ({peak_mib:.0f})")
    if case.seconds_at_most is not None:
        seconds = median(run.wall for run in ours)
        word = "met" if seconds < case.seconds_at_most else "**missed**"
        lines.append(f"- under {case.seconds_at_most:g} s: {word} ({seconds:.3f})")
    return [*lines, ""]


def ratio(ours: Sequence[Figures], theirs: Sequence[Figures], figure: str) -> float:
    """The median over the runs of what we took as a part of what they took."""
    pairs = zip(ours, theirs, strict=True)
    return float(median(getattr(our, figure) / max(getattr(their, figure), 1e-9) for our, their in pairs))


def verdict(aim: Aim, found: float) -> str:
    word = "met" if found <= aim.at_most else "**missed**"
    return f"{aim.figure} at most {aim.at_most:g} × {aim.peer}'s: {word} ({found:.2f})"
