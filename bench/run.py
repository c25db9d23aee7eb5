"""How fast pierhead is beside its peers, in one run: `make bench` prints the tables and writes bench/RESULTS.md.

Each case runs its tools in turn (A B C, A B C, …), so that a machine whose speed drifts is fair to all.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import filling
import pulling
import saving
from measuring import PIERHEAD, Case, run_case, table
from real import DockerRegistry

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"


def version_of(*command: str) -> str:
    words = subprocess.run(command, capture_output=True, text=True, check=False)
    return (words.stdout or words.stderr).splitlines()[0].strip()


def head(runs: int) -> list[str]:
    """What was measured, where and with what."""
    return [
        "# Results of `make bench`",
        "",
        f"{os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}, "
        f"{version_of(PIERHEAD, '--version')}, {version_of('skopeo', '--version')}, "
        f"{version_of('docker-registry', '--version')}. Medians of {runs} runs of each tool in turn, after a warm-up. "
        "Peak memory is the largest single process; the system counts at least what measures it, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB.",
        "",
    ]


@contextmanager
def scratch_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pierhead-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def source_registry(folder: Path) -> Iterator[DockerRegistry]:
    """The registry that the images come from."""
    with ExitStack() as running:
        yield running.enter_context(DockerRegistry(folder))
        with redirect_stdout(StringIO()):  # it prints its log when it ends
            running.close()


def all_cases(registry: DockerRegistry, scratch: Path, scale: float, only: str) -> Iterator[Case]:
    """The cases of those letters (none: all); images are made for no other."""
    for letters, module in (("abcdefgh", pulling), ("ij", filling), ("kl", saving)):
        if not only or set(only) & set(letters):
            yield from module.cases(registry, scratch, scale=scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the large layers, 1.0 = as the title says")
    parser.add_argument("--only", default="", help="letters of the cases to run, such as ab")
    options = parser.parse_args()
    lines = head(options.runs)
    with scratch_folder() as scratch, source_registry(scratch / "registry") as registry:
        for case in all_cases(registry, scratch, options.scale, options.only):
            if options.only and case.title[1:2] not in options.only:
                continue
            found = table(case, run_case(case, scratch, options.runs))
            print("\n".join(found), flush=True)
            lines += found
    if options.scale == 1.0 and not options.only:
        RESULTS.write_text("\n".join(lines))
        print(f"written to {RESULTS.name}")


if __name__ == "__main__":
    main()
