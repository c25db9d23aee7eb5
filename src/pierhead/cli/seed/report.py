"""The proof as a file: what is where for each image and processor, and by which endpoint a node gets it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pierhead.cli.options import size_text
from pierhead.errors import PierheadError
from pierhead.files import write_file

if TYPE_CHECKING:
    from pierhead.seed.seeder import Seeded, Summary


class Unwritable(PierheadError):
    """A report cannot be written. What was seeded is."""


def write(
    paths: Sequence[Path], document: Mapping[str, Any], results: Sequence[Seeded], summed: Summary
) -> list[PierheadError]:
    """Write the report to each file, whole or not at all; what went wrong with that."""
    failed: list[PierheadError] = []
    for path in paths:
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n" if path.suffix == ".json" else ""
        data = (text or "\n".join(markdown(document, results, summed)) + "\n").encode("utf-8", "replace")
        try:
            write_file(path, data)
        except OSError as error:
            failed.append(Unwritable(f"cannot write the report {path}: {error.strerror or error}"))
    return failed


def markdown(document: Mapping[str, Any], results: Sequence[Seeded], summed: Summary) -> Iterator[str]:
    """The report for people: the line it comes to, a table, what failed, what is left out."""
    from click import unstyle

    from pierhead.cli.seed.text import readiness

    yield from ("# Seeded images", "")
    yield f"**{unstyle(readiness(summed)) if summed.proved else 'not verified: --no-verify'}**"
    yield ""
    yield "| image | platform | digest | size | endpoint | there | from | a node gets it from |"
    yield "|---|---|---|---:|---|---|---|---|"
    for result in results:
        yield from _rows(result)
    failed = [(result, error) for result in results for error in result.errors]
    if failed:
        yield from ("", "## Failed", "")
        yield from (f"- {_cell(str(result.mapped.wanted))}: {_cell(error.message)}" for result, error in failed)
    yield from _left_out(document, results)
    if document["problems"]:
        yield from ("", "## Not understood", "")
        yield from (f"- {_cell(_placed(item))}" for item in document["problems"])


def _left_out(document: Mapping[str, Any], results: Sequence[Seeded]) -> Iterator[str]:
    lines = [item["reason"] for item in document["left_out"]]
    lines += [
        f"{digest} that refers to {result.mapped.wanted}: {reason}"
        for result in results
        for digest, reason in dict.fromkeys(item for put in result.puts for item in put.skipped)
    ]
    if lines:
        yield from ("", "## Left out", "", *(f"- {_cell(line)}" for line in lines))


def _placed(problem: Mapping[str, Any]) -> str:
    """A line of a list that names no image, and where it is."""
    return f"{problem['file']}:{problem['line']}: {problem['message']}"


def _rows(result: Seeded) -> Iterator[str]:
    for put in result.puts:
        if put.error:
            continue
        served = (put.served.endpoint or put.served.url) if put.served else "not verified"
        for part in result.parts:
            cells = (
                str(result.mapped.wanted),
                str(part.platform or "unknown"),
                str(part.digest),
                size_text(part.size_bytes),
                put.target.endpoint,
                put.target.place,
                result.place,
                served,
            )
            yield f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """A text that ends no cell and begins no line."""
    return " ".join(text.replace("|", "\\|").split())
