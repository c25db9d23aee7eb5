"""`pierhead explain`: a pull, stopped before the first request; with --down and --status, one in a supposed network."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, show_problem
from pierhead.errors import ExitCode, Problem, UsageError

if TYPE_CHECKING:
    from pierhead.cli.explain.explained import Explained, Question

CHUNK_CHARS = 256 * 1024


@click.command()
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@click.option(
    "--images",
    "lists",
    multiple=True,
    metavar="LIST",
    help="Images from a file too, one a line (- is standard input); repeatable.",
)
@click.option("--down", multiple=True, metavar="ENDPOINT", help="What if nobody listens there; repeatable.")
@click.option(
    "--status",
    multiple=True,
    metavar="ENDPOINT=WHAT",
    help="What if it answers so: statuses in order, the last one for ever after (401,503), timeout, tls (a certificate "
    "nobody trusts) or wrong-bytes; repeatable.",
)
@click.option("--why-not", multiple=True, metavar="ENDPOINT", help="What keeps it from being used; repeatable.")
@click.option(
    "--client",
    type=click.Choice(["k3s", "containerd", "wharfie"]),
    help="Whose reading counts: K3s' containerd (the default), containerd without K3s' patch, or RKE2's bootstrap "
    "puller.",
)
@click.option("--compare", is_flag=True, help="Say where these clients disagree.")
@options.k3s_version
@options.configuration
@options.OUTPUT
@click.pass_context
def explain(
    context: click.Context, /, images: tuple[str, ...], lists: tuple[str, ...], output: str, **flags: Any
) -> int:
    """Say where an image would be asked for, in order, and why.

    Reads registries.yaml as K3s does, and asks nobody: for each IMAGE every place containerd would try, with the URL,
    the rewrite, the TLS and the credentials that would be used and the line each comes from; then what is left out and
    why.

    With --down and --status: every request that containerd would make then, who would serve the image, or what the
    kubelet would show. An ENDPOINT is written as in the file, as a URL, or as host[:port].
    """
    if not images and not lists:
        raise click.MissingParameter(ctx=context, param_hint="'IMAGE...'", param_type="argument")
    from pierhead.cli.explain.explained import Question, explanations
    from pierhead.cli.world import read_world

    question = Question.of(flags)
    names, problems = _names(images, lists)
    for problem in problems:
        show_problem(problem)
    if lists and not names:
        raise UsageError("the list names no image")
    world = read_world(
        flags["private_registry"],
        disable_default_registry_endpoint=flags["disable_default_registry_endpoint"],
        embedded_registry=flags["embedded_registry"],
        k3s_version=flags["k3s_version"],
    )
    explained = explanations(world, question, names)
    _write(_json(explained, problems if lists else None) if output == "json" else _text(explained, question))
    return ExitCode.PARTIAL if problems else ExitCode.DONE


def _names(images: Sequence[str], lists: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """The images to explain as they are written, and the lines of the lists that name none."""
    from pierhead.image_list import load_list

    names = list(images)
    problems: list[Problem] = []
    for file in lists:
        listed, wrong = load_list(file, sys.stdin.buffer)
        names += [item.text for item in listed]
        problems += wrong
    return names, problems


def _text(explained: Iterable[Explained], question: Question) -> Iterator[str]:
    from pierhead.cli.explain.text import Writer

    writer = Writer(question)
    for number, item in enumerate(explained):
        if number:
            yield "\n"
        for line in writer.lines(item):
            yield line + "\n"


def _json(explained: Iterable[Explained], problems: Sequence[Problem] | None) -> Iterator[str]:
    """One document, an image at a time: a long list is never whole in memory."""
    import json

    from pierhead.cli import problem_json
    from pierhead.cli.explain.form import image_json

    def dumped(value: Any) -> str:
        return json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n    ")

    yield '{\n  "images": ['
    separator = "\n    "
    for item in explained:
        yield separator + dumped(image_json(item))
        separator = ",\n    "
    yield "\n  ]"
    if problems is not None:
        listed = [
            {"file": problem.span.file if problem.span else None, **problem_json(problem)} for problem in problems
        ]
        yield ',\n  "problems": ' + json.dumps(listed, indent=2, ensure_ascii=False).replace("\n", "\n  ")
    yield "\n}\n"


def _write(pieces: Iterable[str]) -> None:
    """In large pieces: `click.echo` costs more than a line of text."""
    buffer: list[str] = []
    size = 0
    for piece in pieces:
        buffer.append(piece)
        size += len(piece)
        if size > CHUNK_CHARS:
            click.echo("".join(buffer), nl=False)
            buffer, size = [], 0
    click.echo("".join(buffer), nl=False)
