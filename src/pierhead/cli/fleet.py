"""`pierhead fleet`: what is not the same on all nodes of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import problem_json, show_problem, write_json
from pierhead.cli.options import OUTPUT
from pierhead.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pierhead.fleet.compare import Difference, Report, Seen
    from pierhead.fleet.sources import Failed
    from pierhead.fleet.ssh import Ssh

_NAMES_SHOWN = 3
_STATES = {"usable": "as the others", "unusable": "refused by K3s", "missing": "none", "unknown": "-"}


@click.group()
def fleet() -> None:
    """Say what is not the same on all nodes."""


@fleet.command()
@click.argument("more", metavar="[FILE|DIR|HOST]...", nargs=-1)
@click.option(
    "--nodes",
    metavar="FILE|DIR",
    multiple=True,
    help="A folder with a node's files, a folder of such folders, or a file with a node on each line. May be repeated.",
)
@click.option("--ssh", "over_ssh", is_flag=True, help="The nodes are hosts: fetch their files with ssh.")
@click.option("--ssh-option", metavar="KEY=VALUE", multiple=True, help="As ssh -o: Port=2222, User=root, …")
@click.option("--sudo", is_flag=True, help="Read the nodes' files as root, with sudo -n.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=3600),
    default=60.0,
    show_default=True,
    help="Seconds that one node may take.",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 256), default=16, show_default=True, help="How many nodes to ask at once."
)
@click.option("--reference", metavar="NODE", help="Hold the others against this node. Default: what most nodes have.")
@OUTPUT
def check(
    more: tuple[str, ...],
    nodes: tuple[str, ...],
    over_ssh: bool,
    ssh_option: tuple[str, ...],
    sudo: bool,
    timeout: float,
    jobs: int,
    reference: str | None,
    output: str,
) -> int:
    """Say what is not the same on all nodes, by what it means: registries.yaml, the hosts.toml that K3s wrote, CAs and
    client certificates, the release of K3s and its flags.

    A node is a folder with files as they lie on it (etc/rancher/k3s/registries.yaml, var/lib/rancher/k3s/agent/etc/
    containerd/certs.d, k3s-version with what `k3s --version` prints), a registries.yaml alone, or with --ssh a host.
    Nothing is written on a host, and neither K3s' tokens nor private keys leave it.

    Exit codes: 0 no difference, 1 nodes differ, 2 the call is unusable, 6 some nodes could not be read (if none could:
    4 not authorised, 5 not reached, 2 no folder of a node).
    """
    from datetime import UTC, datetime

    from pierhead.fleet.compare import compare
    from pierhead.fleet.sources import collect, sources

    arguments = (*nodes, *more)
    if not arguments:
        raise UsageError("no nodes are named", hint="give --nodes a folder with a folder for each node, or use --ssh")
    ssh = _ssh(ssh_option, sudo=sudo, seconds=timeout) if over_ssh else None
    if ssh is None and (ssh_option or sudo):
        raise UsageError("--ssh-option and --sudo are of use with --ssh only")
    collected, failed = collect(sources(arguments, ssh), jobs)
    report = compare(collected, now=datetime.now(UTC), reference=reference if collected else None)
    if output == "json":
        write_json(_json(report, failed))
    else:
        click.echo("\n".join(_text(report, failed)))
        for note in report.notes:
            show_problem(note)
    return _exit_code(report, failed)


def _ssh(options: tuple[str, ...], *, sudo: bool, seconds: float) -> Ssh:
    from pierhead.fleet.ssh import Ssh, known_options

    return Ssh(known_options(options), sudo, connect_seconds=max(1, min(10, int(seconds))), answer_seconds=seconds)


def _exit_code(report: Report, failed: list[Failed]) -> ExitCode:
    if failed and not report.seen:
        codes = {each.exit_code for each in failed}
        return codes.pop() if len(codes) == 1 else ExitCode.PARTIAL
    if failed:
        return ExitCode.PARTIAL
    return ExitCode.FAILED if report.differences else ExitCode.DONE


# -- text -------------------------------------------------------------------------------------------------------------


def _text(report: Report, failed: list[Failed]) -> Iterator[str]:
    yield from _table(report)
    for difference in report.differences:
        yield f"{click.style('differs', fg='red')}  {difference.message}"
        yield from (click.style(f"         {detail}", dim=True) for detail in difference.details)
    for each in failed:
        yield f"{click.style('no answer', fg='red')}  {_shown(each.name)}: {each.reason}"
    if report.differences or failed:
        yield ""
    yield _summary(report, failed)


def _table(report: Report) -> Iterator[str]:
    """A row for all nodes of which the same is to be said."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for each in report.seen:
        rows.setdefault(_cells(each, report), []).append(_shown(each.name))
    table: list[tuple[str, ...]] = [("NODES", "K3S", "REGISTRIES.YAML", "CERTS.D")]
    for cells, names in rows.items():
        more = len(names) - _NAMES_SHOWN
        named = ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        table.append((named, *cells))
    if len(table) > 1:
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield ""


def _cells(each: Seen, report: Report) -> tuple[str, str, str]:
    version = str(each.node.version) if each.node.version else "-"
    return version, _registries_cell(each, report), _hosts_cell(each)


def _registries_cell(each: Seen, report: Report) -> str:
    if each.registries_state != "usable":
        return _STATES[each.registries_state]
    from pierhead.fleet.compare import OF_REGISTRIES

    count = sum(each.name in found.nodes for found in report.differences if found.kind in OF_REGISTRIES)
    if not count:
        return _STATES["usable"]
    return f"{count} difference{'' if count == 1 else 's'}"


def _hosts_cell(each: Seen) -> str:
    if each.node.tree is None:
        return "-"
    if each.rendered.stale is None:
        return "not compared"
    return "older" if each.rendered.stale else "follows it"


def _summary(report: Report, failed: list[Failed]) -> str:
    total = len(report.seen) + len(failed)
    parts = [f"{total} node{'' if total == 1 else 's'}"]
    if report.seen:
        parts.append(f"{len(report.differing)} differ" if report.differing else "no difference")
    if failed:
        parts.append(f"{len(failed)} could not be read")
    return ", ".join(parts)


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)


# -- JSON; the form is documented in docs/reference/fleet.md ----------------------------------------------------------


def _json(report: Report, failed: list[Failed]) -> dict[str, Any]:
    return {
        "nodes": [
            *(_node_json(each) for each in report.seen),
            *({"name": each.name, "error": each.reason} for each in failed),
        ],
        "differences": [_difference_json(difference) for difference in report.differences],
        "notes": [problem_json(note) for note in report.notes],
        "summary": {
            "nodes": len(report.seen) + len(failed),
            "differing": list(report.differing),
            "unreadable": len(failed),
            "differences": len(report.differences),
        },
    }


def _node_json(each: Seen) -> dict[str, Any]:
    node = each.node
    return {
        "name": each.name,
        "source": node.collected.source,
        "program": node.collected.program,
        "version": str(node.version) if node.version else None,
        "registries_yaml": {"path": node.collected.registries_path, "state": each.registries_state},
        "certs_d": None if node.tree is None else _hosts_cell(each),
        "certificates": {
            path: None
            if found is None
            else [{"sha256": each.sha256, "not_after": each.not_after.isoformat()} for each in found]
            for path, found in node.files.items()
        },
        "disable_default_registry_endpoint": node.disables_default,
        "error": None,
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "kind": difference.kind,
        "nodes": list(difference.nodes),
        "others": list(difference.others),
        "subject": difference.subject,
        "message": difference.message,
        "line": difference.line,
        "reference_line": difference.reference_line,
        "details": list(difference.details),
    }
