"""`pierhead render`: the files that make K3s, or another runtime, do what registries.yaml says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import problem_json, show_problem, write_json
from pierhead.cli.options import OUTPUT, configuration
from pierhead.cli.render.runtimes import RUNTIMES, asked_for
from pierhead.errors import ExitCode

if TYPE_CHECKING:
    from pierhead.config.rendered import File, Rendered


@click.command()
@click.argument("runtime", type=click.Choice(list(RUNTIMES)), metavar="RUNTIME")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write the files below DIR."
)
@click.option("--data-dir", metavar="DIR", help="As the K3s flag. Default: /var/lib/rancher/k3s, or …/rke2.")
@click.option(
    "--containerd-config",
    type=click.Choice(["v2", "v3"]),
    help="The version of containerd's config.toml (k3s, rke2). Default: v3.",
)
@click.option("--as-k3s", is_flag=True, help="K3s' very bytes, even where they do harm (k3s, rke2).")
@click.option("--safe", is_flag=True, help="What is meant, where K3s' own bytes would do harm (k3s, rke2).")
@click.option("--header-auth", is_flag=True, help="Basic credentials as a header in hosts.toml (containerd).")
@click.option("--strict", is_flag=True, help="End with 1 if something is lost.")
@OUTPUT
@configuration
def render(runtime: str, out: Path | None, output: str, **flags: Any) -> int:
    """Write the files that make a runtime do what registries.yaml says.

    RUNTIME is k3s or rke2 (exactly the files that they write), containerd, docker, podman, skopeo, auth (logins alone),
    k3d or buildkit. Without --out, prints what would be written, credentials masked, and writes nothing. What a runtime
    cannot be told is said on stderr with its line: nothing is lost in silence.
    """
    asked = asked_for(runtime, flags)
    rendered = asked.rendered()
    if out is not None:
        from pierhead.cli.render.writing import write

        rendered = write(rendered, out, asked)
    if output == "json":
        write_json(_json(runtime, rendered))
    else:
        for line in _previews(rendered) if out is None else ():
            click.echo(line, nl=False)
        for problem in rendered.lost:
            show_problem(problem)
    lost = any(problem.severity == "error" for problem in rendered.lost)
    return ExitCode.FAILED if lost and flags["strict"] else ExitCode.DONE


def _previews(rendered: Rendered) -> Iterator[str]:
    """Every file under a head with its name, as `tail` and `head` print several."""
    for index, file in enumerate(rendered.files):
        yield f"{'' if index == 0 else chr(10)}==> {readable(file.path)}\n"
        text = _preview(file)
        yield text if text.endswith("\n") or not text else f"{text}\n"


def _preview(file: File) -> str:
    from pierhead.config.rendered import masked

    if file.copy_of is not None:
        return f"(a copy of {readable(file.copy_of)})\n"
    return readable(masked(file)) + (" (credentials: --out writes them, with mode 0600)" if file.secret else "")


def _json(runtime: str, rendered: Rendered) -> dict[str, Any]:
    return {
        "runtime": runtime,
        "origin": readable(rendered.origin),
        "files": [_file_json(file) for file in rendered.files],
        "lost": [problem_json(problem) for problem in rendered.lost],
    }


def _file_json(file: File) -> dict[str, Any]:
    """`text` is null for credentials and for copies; `copy_of` names the file that is copied."""
    hidden = file.secret or file.copy_of is not None
    return {
        "path": readable(file.path),
        "mode": f"{file.mode:04o}",
        "text": None if hidden else readable(file.text),
        "copy_of": None if file.copy_of is None else readable(file.copy_of),
    }


def readable(text: str) -> str:
    """`text` for a stream of UTF-8: what YAML took from other bytes is shown as U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
