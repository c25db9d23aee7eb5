"""`pierhead import`: a registries.yaml from what containerd, podman or docker were told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pierhead.cli import problem_json, show_problem, write_json
from pierhead.errors import ExitCode, PierheadError, UsageError

if TYPE_CHECKING:
    from pierhead.config.imports.draft import Draft
    from pierhead.config.imports.reading import HostFolder

F = TypeVar("F", bound=Callable[..., Any])

_STDOUT = "-"


def _output(command: F) -> F:
    """Where the file goes, and what may be in it."""
    for option in (
        click.option("--show-secrets", is_flag=True, help="Print credentials on a terminal, and in JSON."),
        click.option("--force", is_flag=True, help="Replace the file of --output if it exists."),
        click.option("--json", "as_json", is_flag=True, help="Print the file and what it cannot say as JSON."),
        click.option(
            "-o",
            "--output",
            metavar="FILE",
            default=_STDOUT,
            show_default=True,
            help="The registries.yaml to write; - is standard output.",
        ),
        click.option(
            "--authfile",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Take credentials from podman's auth.json or docker's config.json; the file then has mode 0600.",
        ),
    ):
        command = option(command)
    return command


def _certificates(command: F) -> F:
    return click.option(
        "--certs-d",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Where the certificates of registries lie. Default: certs.d beside the file, if it is there.",
    )(command)


@click.group()
def import_() -> None:
    """Make a registries.yaml of what another program was told.

    What K3s' file cannot say is in its head, on standard error and in the JSON, with the place in the source.

    Exit codes: 0 done, 1 done, but something is lost (an error in the list), 2 the call or the source is unusable.
    """


@import_.command("certs.d")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@_output
def certs_d(folder: Path, **flags: Any) -> int:
    """From containerd's certs.d, or the one that K3s wrote."""
    from pierhead.config.imports.certs_d import from_certs_d
    from pierhead.config.imports.reading import read_certs_d

    return _finish(from_certs_d(read_certs_d(folder)), f"{folder} (containerd)", flags)


@import_.command("registries.conf")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@_certificates
@_output
def registries_conf(file: Path, certs_d: Path | None, **flags: Any) -> int:
    """From registries.conf of podman, skopeo and CRI-O, and its drop-ins.

    With a file, those in FILE.d are read as well; a folder is one of drop-ins.
    """
    from pierhead.config.imports.reading import read_conf
    from pierhead.config.imports.registries_conf import from_registries_conf

    draft = from_registries_conf(read_conf(file), _host_folders(file, certs_d))
    return _finish(draft, f"{file} (podman)", flags)


@import_.command("daemon.json")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@_certificates
@_output
def daemon_json(file: Path, certs_d: Path | None, **flags: Any) -> int:
    """From docker's daemon.json."""
    from pierhead.config.imports.daemon_json import from_daemon_json
    from pierhead.config.imports.reading import read_file

    draft = from_daemon_json(read_file(file), str(file), _host_folders(file, certs_d))
    return _finish(draft, f"{file} (docker)", flags)


def _host_folders(file: Path, certs_d: Path | None) -> tuple[HostFolder, ...]:
    from pierhead.config.imports.reading import read_certs_d

    beside = file.parent / "certs.d"
    if certs_d is None and not beside.is_dir():
        return ()
    return read_certs_d(certs_d or beside)


def _finish(draft: Draft, source: str, flags: dict[str, Any]) -> int:
    """Adds the logins, writes or prints the file, and tells what it cannot say."""
    from pierhead.config.imports.written import registries_yaml

    if flags["authfile"] is not None:
        from pierhead.config.imports.authfile import take_logins
        from pierhead.config.imports.reading import read_file

        take_logins(draft, read_file(flags["authfile"]), str(flags["authfile"]))
    origin = _printable(f"Made by pierhead from {source}")
    if flags["output"] != _STDOUT:
        text = registries_yaml(draft, origin, show_secrets=True)
        _write(Path(flags["output"]), text, secret=draft.holds_secrets, force=flags["force"])
    if flags["as_json"]:
        text = registries_yaml(draft, origin, show_secrets=flags["show_secrets"])
        write_json(_json(draft, origin, text))
    elif flags["output"] == _STDOUT:
        _refuse_secrets_on_terminal(draft, show_secrets=flags["show_secrets"])
        click.echo(registries_yaml(draft, origin, show_secrets=True), nl=False)
    if not flags["as_json"]:
        for problem in draft.told:
            show_problem(problem)
    return ExitCode.FAILED if any(problem.severity == "error" for problem in draft.told) else ExitCode.DONE


def _refuse_secrets_on_terminal(draft: Draft, *, show_secrets: bool) -> None:
    if draft.holds_secrets and sys.stdout.isatty() and not show_secrets:
        raise UsageError(
            "the file holds credentials, and standard output is a terminal",
            hint="write it with -o FILE, or give --show-secrets",
        )


def _write(path: Path, text: str, *, secret: bool, force: bool) -> None:
    """The file, wholly or not at all; one with credentials is for its owner alone."""
    from pierhead.files import new_file, replace_file

    mode, data = 0o600 if secret else 0o644, text.encode()
    try:
        if not force or not path.exists():
            new_file(path, data, mode=mode)
        else:
            if secret:
                path.chmod(mode)
            replace_file(path, data)
    except FileExistsError:
        raise UsageError(f"{path} exists", hint="give --force to replace it") from None
    except OSError as error:
        raise PierheadError(f"cannot write {path}: {error.strerror or error}") from error
    click.echo(f"wrote {path}", err=True)


def _json(draft: Draft, origin: str, text: str) -> dict[str, Any]:
    from pierhead.config.imports.written import flags_text

    return {
        "origin": origin,
        "k3s_flags": flags_text(draft).split(),
        "holds_secrets": draft.holds_secrets,
        "problems": [
            {**problem_json(problem), "file": _printable(problem.span.file) if problem.span else None}
            for problem in draft.told
        ],
        "registries_yaml": text,
    }


def _printable(name: str) -> str:
    """A name of a file as JSON and terminals take it, also if it is not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
