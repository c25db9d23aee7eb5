"""The command line: thin commands over the library, and the only reader of environment, arguments and clock.

stdout is data, stderr is progress and logs; every command ends with a code of `errors.ExitCode`. A command's module is
imported when that command runs: start-up time is part of the product.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pierhead import __version__

if TYPE_CHECKING:
    from pierhead.errors import PierheadError, Problem

# name: (module, what it does), in the sections and the order of --help.
_SECTIONS = {
    "Read registries.yaml": {
        "check": ("check", "Say what is wrong with registries.yaml, and correct it."),
        "explain": ("explain", "Say where an image would be asked for, in order, and why."),
        "diff": ("diff", "Say what an upgrade of K3s changes for images."),
        "probe": ("probe", "Ask every place an image may come from, and say what is wrong with each."),
        "schema": ("schema", "Print the JSON Schema of registries.yaml, for editors."),
    },
    "Change what nodes do": {
        "render": ("render", "Write the files that make K3s or another runtime do what registries.yaml says."),
        "apply": ("apply", "Put registries.yaml into effect at the next pull, without restarting K3s."),
        "import": ("import_", "Make a registries.yaml of what containerd, podman or docker were told."),
        "fleet": ("fleet", "Say what is not the same on all nodes."),
        "login": ("login", "Keep a user name and password for a registry."),
        "logout": ("login", "Forget the login to a registry."),
    },
    "Move images": {
        "pull": ("pull", "Pull images the way K3s would, by registries.yaml."),
        "push": ("push", "Put an image of the store into a registry."),
        "copy": ("copy_", "Copy an image from anywhere to anywhere: registries, layouts, tarballs."),
        "tag": ("tag", "Give an image of the store another name."),
        "seed": ("seed", "Put images exactly where the nodes will look for them, and prove it."),
        "bundle": ("bundle", "Carry images to where there is no network, in one tar."),
        "save": ("save", "Write images into one file, for machines that no registry reaches."),
        "load": ("load", "Put the images of archives into the store, or into a containerd."),
    },
    "Look at images": {
        "ls": ("ls", "List the repositories of a registry, or the tags of a repository."),
        "inspect": ("inspect_", "Say what an image is, without pulling it."),
        "digest": ("digest", "Print the digest of an image, as pull would find it."),
        "lock": ("lock", "Write down what images are now, so that a moved tag is an error."),
        "images-from": ("images_from", "List the images that Kubernetes manifests and Helm values name."),
    },
    "Keep images": {
        "images": ("images", "List the images of the store."),
        "rmi": ("images", "Remove images from the store."),
        "gc": ("images", "Remove content that no image reaches."),
        "verify": ("images", "Hash everything in the store again."),
    },
    "Serve images": {
        "serve": ("serve", "Be a private registry."),
        "demo": ("demo", "Show the whole story on this machine, in seconds."),
    },
}
COMMANDS = {name: command for section in _SECTIONS.values() for name, command in section.items()}
ALIASES = {"cp": "copy"}


class _LateCommands(click.Group):
    """A group that imports a command when it is asked for, and lists them without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = ALIASES.get(name, name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"pierhead.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, f"{name}_" if iskeyword(name) else name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and ALIASES.get(args[0], args[0]) not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section, commands in _SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:{width}}", about) for name, (_, about) in commands.items()])


@click.command(
    cls=_LateCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed or findings, 2 unusable call or file, 3 not found, 4 not authorised, "
    "5 network or TLS, 6 some images failed, 130 interrupted.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Private image registries for K3s and every other containerd, Docker or podman host."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and end the process with its exit code.

    SIGTERM, and SIGHUP of a terminal that is gone, are as Ctrl-C: what is open is put in order first. The first process
    of a container has to ask for that, for the kernel keeps from it what would end any other.
    """
    _open_missing_streams()
    received: list[int] = []

    def end(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup lets it be ignored
            signal.signal(number, end)
    code = run(arguments)
    if received:
        _die_of(received[0])
    sys.exit(code)


def _die_of(number: int) -> NoReturn:
    """End as whoever sent the signal expects; a container's first process cannot, and says so as a shell would."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _open_missing_streams() -> None:
    """Whoever closed stdout or stderr (`>&-`) wants silence: no traceback, and none of our files in their place."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # opened in this order, each gets the lowest free number: its own
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))


def run(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code. Errors become one clear paragraph on stderr, in colours unless NO_COLOR is set."""
    color = False if os.environ.get("NO_COLOR") else None
    with click.Context(cli, color=color).scope():  # for what is printed outside of any command
        return _run(arguments, color=color)


def _run(arguments: list[str] | None, *, color: bool | None) -> int:
    from pierhead.errors import ExitCode, PierheadError

    try:
        result = cli.main(args=arguments, prog_name="pierhead", standalone_mode=False, color=color)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except PierheadError as error:
        show_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return ExitCode.FAILED
    except OSError as error:
        _discard_stdout()
        show_error(PierheadError(f"cannot write {error.filename or 'the output'}: {error.strerror or error}"))
        return ExitCode.FAILED
    return int(result) if isinstance(result, int) else ExitCode.DONE


def _discard_stdout() -> None:
    """Whatever is still to be written there goes nowhere, so that Python does not complain again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_error(error: PierheadError) -> None:
    """An error on stderr: what and where, then what to do."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
    if error.hint:
        click.echo(f"{click.style('hint:', fg='cyan', bold=True)} {error.hint}", err=True)


def naming(name: str, error: PierheadError) -> PierheadError:
    """The error of one image among several: it says which."""
    from pierhead.errors import PierheadError

    return error if name in error.message else PierheadError(f"{name}: {error}", hint=error.hint)


COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def show_problem(problem: Problem) -> None:
    """A problem on stderr, with its place."""
    place = f"{problem.span}: " if problem.span else ""
    severity = click.style(f"{problem.severity}:", fg=COLOURS[problem.severity], bold=True)
    click.echo(f"{severity} {place}{problem.message}", err=True)


def problem_json(problem: Problem) -> dict[str, Any]:
    """A problem in every command's JSON."""
    known = problem.span is not None and problem.span.line > 0
    return {
        "id": problem.id,
        "severity": problem.severity,
        "message": problem.message,
        "line": problem.span.line if problem.span and known else None,
        "column": problem.span.column if problem.span and known else None,
    }


def write_json(value: Any) -> None:
    """A JSON document on stdout, for programs; what a terminal would obey, or no encoding takes, is escaped."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not text.isascii():
        text = "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
    click.echo(text.replace("\x7f", "\\u007f"))
