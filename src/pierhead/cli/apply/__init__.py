"""`pierhead apply`: put registries.yaml into effect at the next pull, without restarting K3s."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, show_problem, write_json
from pierhead.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pierhead.apply.journal import Journal
    from pierhead.apply.target import Target

RUNTIMES = ["k3s", "rke2", "containerd", "podman", "docker"]  # as `apply.target.Runtime`, which is not imported for it


@click.command()
@click.option("--runtime", type=click.Choice(RUNTIMES), help="The runtime to tell. Default: the first that is here.")
@options.configuration
@click.option("--data-dir", metavar="DIR", help="The data folder of K3s or RKE2, as its own --data-dir.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    metavar="DIR",
    help="Where the machine's own / is, if it is mounted elsewhere (/host in a pod): every path is taken below it.",
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--prove", metavar="IMAGE", help="Ask the registries for this image first; change nothing if that fails.")
@click.option("--force", is_flag=True, help="Apply a file with errors, and replace what an administrator made.")
@click.option("--watch", is_flag=True, help="Apply it now and after each change of the file, until SIGTERM or Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05, max=3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch looks at the file.",
)
@click.option("--rollback", is_flag=True, help="Restore what was there before the last apply.")
@click.option("--status", is_flag=True, help="Say what was applied, and whether it is still so.")
@options.OUTPUT
def apply(runtime: Any, data_dir: str | None, root: Path, output: str, **flags: Any) -> int:
    """Put registries.yaml into effect at the next pull, without restarting K3s.

    Checks the file, shows what changes, and writes the files that the runtime reads at every pull: all of them or, if
    anything fails, none, with a backup. Says what only a restart brings. Without an option it applies; --status,
    --rollback and --dry-run do just that.
    """
    _at_most_one(flags, "watch", "rollback", "status", "dry_run")
    from pierhead.apply.effect import journal_of
    from pierhead.apply.target import target

    found = target(runtime, root=root, data_dir=data_dir)
    journal = journal_of(found)
    if flags["status"]:
        return _status(found, journal, flags, output)
    if flags["rollback"]:
        return _rollback(found, journal, output)
    if flags["watch"]:
        from pierhead.cli.apply.watching import watch

        return watch(found, journal, flags, output)
    return _once(found, journal, flags, output)


def _at_most_one(flags: dict[str, Any], *names: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if flags[name]]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} do different things: one of them")


def _once(target: Target, journal: Journal, flags: dict[str, Any], output: str) -> int:
    from pierhead.cli.apply import form, text
    from pierhead.cli.apply.once import Call, apply_once

    report = apply_once(target, journal, Call.of(flags))
    if output == "json":
        write_json(form.report(report))
        return report.exit_code
    for line in text.report(report):
        click.echo(line)
    for problem in report.problems:
        show_problem(problem)
    for line in text.ending(report):
        click.echo(line)
    return report.exit_code


def _status(target: Target, journal: Journal, flags: dict[str, Any], output: str) -> int:
    from pierhead.cli.apply import form, text
    from pierhead.cli.apply.once import source_file
    from pierhead.cli.apply.standing import Standing

    standing = Standing.of(target, journal.status(), source_file(target, flags["private_registry"]))
    if output == "json":
        write_json(form.standing(standing))
    else:
        for line in text.standing(standing):
            click.echo(line)
    return ExitCode.DONE if standing.is_sound else ExitCode.FAILED


def _rollback(target: Target, journal: Journal, output: str) -> int:
    from pierhead.apply.effect import take_back
    from pierhead.cli.apply import form, text
    from pierhead.cli.apply.once import now_text

    with journal.locked():
        recovered = journal.recover()
        changes = take_back(journal, target, now_text())
    if output == "json":
        write_json(form.rollback(target, changes, recovered))
    else:
        for line in text.rollback(target, changes, recovered):
            click.echo(line)
    return ExitCode.DONE
