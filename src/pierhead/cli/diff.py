"""`pierhead diff`: two releases of K3s, one registries.yaml, and what is different for each image."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import show_problem, write_json
from pierhead.cli.options import OUTPUT, configuration, version_of
from pierhead.cli.world import flags_for, read_config
from pierhead.config.versions import Fact, K3sVersion, behaviour, differing
from pierhead.errors import FLAGS, ExitCode, Problem, Span, UsageError
from pierhead.reference import Reference

if TYPE_CHECKING:
    from pierhead.upgrade import Change, ImageChanges

_WORDS = {"order": "order", "repository": "name", "credentials": "auth", "tls": "tls", "scope": "scope of a token"}
_SIGNS = {"asked": ("+", "green"), "not-asked": ("-", "red"), "refused": ("!", "red")}


@click.command()
@click.argument("arguments", metavar="[FILE] [IMAGE]...", nargs=-1)
@click.option("--from", "old", metavar="VERSION", required=True, callback=version_of, help="The release to leave.")
@click.option("--to", "new", metavar="VERSION", required=True, callback=version_of, help="The release to go to.")
@click.option("--images", metavar="LIST", help="A file with an image on each line (k3s-images.txt), or -.")
@configuration
@OUTPUT
@click.pass_context
def diff(
    context: click.Context,
    arguments: tuple[str, ...],
    old: K3sVersion,
    new: K3sVersion,
    images: str | None,
    private_registry: Path | None,
    disable_default_registry_endpoint: bool,
    embedded_registry: str | None,
    output: str,
) -> int:
    """Say what an upgrade of K3s changes for images.

    Reads registries.yaml as both releases of K3s (or RKE2) do, and says for each image which places are asked no more
    or anew, and where the order, the name, the TLS or the credentials differ; which change of K3s is the cause, since
    which release it is in, and which line is concerned. Asks no registry.

    A first argument that ends in .yaml or .yml, or is -, is the file. Without images, one is made up for each name in
    the file. A version is written as v1.28.6+k3s1; v1.28 is the last release of that minor.

    Exit codes: 0 nothing changes, 1 something does, 2 the call, a line of the list or the file is unusable.
    """
    from pierhead.upgrade import changes, made_up

    given = context.get_parameter_source("private_registry") is click.core.ParameterSource.COMMANDLINE
    file, names = _file_and_images(arguments, private_registry, given=given)
    if str(file) == images == "-":
        raise UsageError("the file and the list of images cannot both come from standard input")
    config = read_config(file)
    listed, problems = _listed(images)
    references = tuple(dict.fromkeys([*map(Reference.parse, names), *listed]))
    is_made_up = not names and images is None
    flags = flags_for(config, disable_default_registry_endpoint, embedded_registry)
    found = changes(config, flags, old=old, new=new, references=made_up(config) if is_made_up else references)
    report = _Report(old, new, config.file, found, is_made_up=is_made_up)
    if output == "json":
        write_json(report.as_json())
    else:
        click.echo("\n".join(report.as_text()))
    for problem in problems:
        show_problem(problem)
    if problems:
        return ExitCode.USAGE
    return ExitCode.FAILED if report.changed else ExitCode.DONE


def _file_and_images(
    arguments: tuple[str, ...], private_registry: Path | None, *, given: bool
) -> tuple[Path | None, tuple[str, ...]]:
    first = arguments[0] if arguments else ""
    if first != "-" and not first.endswith((".yaml", ".yml")):
        return private_registry, arguments
    if given:
        raise UsageError(f"{first} and --private-registry both name a file", hint="leave one of them out")
    return Path(first), arguments[1:]


def _listed(images: str | None) -> tuple[list[Reference], tuple[Problem, ...]]:
    if images is None:
        return [], ()
    from pierhead.image_list import load_list

    listed, problems = load_list(images, sys.stdin.buffer)
    return [item.reference for item in listed], problems


class _Report:
    """What was found, for people and for programs."""

    def __init__(
        self, old: K3sVersion, new: K3sVersion, file: str, found: Sequence[ImageChanges], *, is_made_up: bool
    ) -> None:
        self.old, self.new, self.file, self.found, self.is_made_up = old, new, file, found, is_made_up
        self.changed = [image for image in found if image.changes]
        facts = [fact for image in self.changed for change in image.changes for fact in change.facts]
        self.causes = tuple(dict.fromkeys(facts))
        self.differing = differing(behaviour(old), behaviour(new))

    @property
    def notes(self) -> list[str]:
        """What changes beside the images."""
        return [self._fact_text(fact) for fact in self.differing if fact.name == "foreign_directories"]

    # ── JSON; the form is documented in docs/reference/diff.md ──

    def as_json(self) -> dict[str, Any]:
        return {
            "from": str(self.old),
            "to": str(self.new),
            "file": self.file,
            "images": [
                {"reference": str(image.reference), "changes": [_change_json(change) for change in image.changes]}
                for image in self.found
            ],
            "causes": [self._fact_json(fact) for fact in self.causes],
            "notes": self.notes,
            "summary": {
                "images": len(self.found),
                "made_up": self.is_made_up,
                "changed": len(self.changed),
                "differences": len(self.differing),
            },
        }

    def _fact_json(self, fact: Fact) -> dict[str, Any]:
        after = fact.of(self.new)
        return {
            "name": fact.name,
            "before": fact.fails if after else fact.holds,
            "after": fact.holds if after else fact.fails,
            "dated": fact.dated(self.old, self.new),
            "releases": list(fact.turns(self.old, self.new)),
            "evidence": list(fact.evidence),
        }

    # ── text ──

    def as_text(self) -> Iterator[str]:
        for image in self.changed:
            yield click.style(str(image.reference), bold=True)
            last: tuple[Fact, ...] = ()
            for change in image.changes:
                if last and change.facts != last:
                    yield from self._why(last)
                last = change.facts
                yield _change_text(change)
            yield from self._why(last)
            yield ""
        yield from (f"{click.style('note', fg='cyan')}: {note}" for note in self.notes)
        yield self._summary()

    def _why(self, facts: tuple[Fact, ...]) -> Iterator[str]:
        for fact in facts:
            yield click.style(f"      because {self._fact_text(fact)}", dim=True)

    def _fact_text(self, fact: Fact) -> str:
        now = fact.holds if fact.of(self.new) else fact.fails
        evidence = ", ".join(name for name in fact.evidence if "#" in name)
        details = "; ".join(filter(None, (fact.dated(self.old, self.new), evidence)))
        return f"{now} ({details})" if details else now

    def _summary(self) -> str:
        upgrade = f"from {self.old} to {self.new}"
        what = "made-up image" if self.is_made_up else "image"
        total = f"{len(self.found)} {what}{'' if len(self.found) == 1 else 's'}"
        if self.changed:
            return f"{upgrade}, {len(self.changed)} of {total} changed"
        if not self.found:
            return f"nothing to compare: {self.file} names no registry"
        count = len(self.differing)
        if not count:
            return f"nothing changes {upgrade} for {total}: registries.yaml means the same in both"
        said = (
            "1 difference between the releases does" if count == 1 else f"{count} differences between the releases do"
        )
        return f"nothing changes {upgrade} for {total}: the {said} not concern them"


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "place": change.place or None,
        "before": change.before,
        "after": change.after,
        "line": _line(change.span),
        "causes": [fact.name for fact in change.facts],
    }


def _change_text(change: Change) -> str:
    sign, colour = _SIGNS.get(change.kind, ("~", "yellow"))
    place = f"{change.place}  " if change.place else ""
    if change.kind == "asked":
        what = f"asked as {change.after}"
    elif change.kind == "not-asked":
        what = f"was asked as {change.before}"
    elif change.kind == "refused":
        what = f"{change.before} -> {change.after}"
    else:
        what = f"{_WORDS[change.kind]}: {change.before} -> {change.after}"
    return f"  {click.style(sign, fg=colour, bold=True)} {place}{what}{_at(change.span)}"


def _line(span: Span | None) -> int | None:
    return span.line or None if span and span.file != FLAGS else None


def _at(span: Span | None) -> str:
    place = f"{span.file}:{span.line}" if span is not None and _line(span) else ""
    return click.style(f"   {place}", dim=True) if place else ""
