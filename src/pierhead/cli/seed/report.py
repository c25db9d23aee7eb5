"""The proof as a file: what is where for each image and processor, and by which endpoint a node gets it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pierhead.cli.options import counted, size_text
from pierhead.errors import PierheadError
from pierhead.files import write_file

if TYPE_CHECKING:
    from pierhead.reference import Digest
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
    yield f"**{_plain(unstyle(readiness(summed))) if summed.proved else 'not verified: --no-verify'}**"
    yield ""
    if summed.unfinished is not None:
        done = f"{len(results)} of {counted(summed.images - summed.left_out, 'image')}"
        yield from (f"Interrupted before all of it was done and proved. Done by then: {done}.", "")
    yield "| image | platform | digest | size | endpoint | there | from | a node gets it from |"
    yield "|---|---|---|---:|---|---|---|---|"
    for result in results:
        yield from _rows(result)
    failed = [(result, error) for result in results for error in result.errors]
    if failed:
        yield from ("", "## Failed", "")
        yield from (f"- {_plain(str(result.mapped.wanted))}: {_plain(error.message)}" for result, error in failed)
    yield from _replaced(results)
    yield from _left_out(document, results)
    if document["problems"]:
        yield from ("", "## Not understood", "")
        yield from (f"- {_plain(_placed(item))}" for item in document["problems"])
    if document["unfinished"]:
        yield from ("", "## Not done", "", *(f"- {_plain(name)}" for name in document["unfinished"]))


def _replaced(results: Sequence[Seeded]) -> Iterator[str]:
    """What was under the same names before."""
    lines = [
        f"{put.target.endpoint} {put.target.place} was {put.replaced}, for {result.mapped.wanted}"
        for result in results
        for put in result.puts
        if put.replaced and not put.error
    ]
    if lines:
        yield from ("", "## Replaced", "", *(f"- {_plain(line)}" for line in lines))


def _left_out(document: Mapping[str, Any], results: Sequence[Seeded]) -> Iterator[str]:
    lines = [item["reason"] for item in document["left_out"]]
    lines += [
        f"{digest} that refers to {result.mapped.wanted}: {reason}"
        for result in results
        for digest, reason in dict.fromkeys(item for put in result.puts for item in put.skipped)
    ]
    if lines:
        yield from ("", "## Left out", "", *(f"- {_plain(line)}" for line in lines))


def _placed(problem: Mapping[str, Any]) -> str:
    """A line of a list that names no image, and where it is."""
    return f"{problem['file']}:{problem['line']}: {problem['message']}"


def _rows(result: Seeded) -> Iterator[str]:
    for put in result.puts:
        if put.error:
            continue
        served = (put.served.endpoint or put.served.url) if put.served else "not verified"
        for platform, digest, size_bytes in _digests(result):
            cells = (
                str(result.mapped.wanted),
                platform,
                str(digest),
                size_text(size_bytes),
                put.target.endpoint,
                put.target.place,
                result.place,
                served,
            )
            yield f"| {' | '.join(map(_plain, cells))} |"


def _digests(result: Seeded) -> Iterator[tuple[str, Digest, int]]:
    """Of an index its own, which is what the name stands for, then that of each platform."""
    whole = result.descriptor
    if whole and whole.digest not in {part.digest for part in result.parts}:
        yield "index", whole.digest, result.size_bytes
    for part in result.parts:
        yield str(part.platform or "unknown"), part.digest, part.size_bytes


# What means something in CommonMark within a line, GitHub's tables and strikethrough included; an underscore does only
# at the edge of a word, and names are full of the others.
_WITHIN: Final = re.compile(r"[\\`*\[<|~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
_FIRST: Final = re.compile(r"^(\d+)(?=[.)](?:\s|$))|^(?=[#>+=-])")


def _plain(text: str) -> str:
    """A text that stands in the report as it is: it ends no cell, begins no line, and is no markup."""
    words = "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))
    return _FIRST.sub(r"\1\\", _WITHIN.sub(r"\\\g<0>", words))
