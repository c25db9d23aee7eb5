"""`pierhead check`: what is wrong with registries.yaml, with its line, its remedy, and its fix where there is one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import write_json
from pierhead.cli.options import configuration, k3s_version
from pierhead.cli.world import DEFAULT_FILES
from pierhead.errors import ExitCode, PierheadError, UsageError

if TYPE_CHECKING:
    from pierhead.check import Circumstances, Fixed, Rule, Subject
    from pierhead.cli.check.formats import Checked
    from pierhead.errors import Problem
    from pierhead.image_list import ListedImage

_FORMATS = ("text", "json", "sarif", "github")


@click.command()
@click.argument("files", metavar="[FILE|-]...", nargs=-1, type=click.Path(allow_dash=True))
@click.option("--fix", is_flag=True, help="Correct in the file what has a certain correction; nothing else changes.")
@click.option("--diff", is_flag=True, help="Print what --fix would change, secrets masked, and change nothing.")
@click.option("--images", metavar="LIST", help="Hold a list of images (k3s-images.txt) against the file; - is stdin.")
@click.option(
    "--client",
    type=click.Choice(["k3s", "wharfie", "containerd"]),
    default="k3s",
    show_default=True,
    help="Whose reading counts: K3s' containerd, RKE2's bootstrap puller, or containerd without K3s' patch.",
)
@k3s_version
@click.option("--select", metavar="RULES", multiple=True, help="Look for these rules only (R004,R016; repeatable).")
@click.option("--ignore", metavar="RULES", multiple=True, help="Leave these rules out.")
@click.option("--strict", is_flag=True, help="Warnings count as errors for the exit code.")
@click.option("--no-files", is_flag=True, help="Do not look at the files it names: they are on another machine.")
@click.option("--assert-no-egress", is_flag=True, help="A route outside the mirrors is an error.")
@click.option("--explain", "explained", metavar="RULE", help="Print all that is known about a rule, and end.")
@click.option("-o", "--output", type=click.Choice(_FORMATS), default="text", show_default=True, help="How to print.")
@configuration
def check(files: tuple[str, ...], explained: str | None, output: str, **flags: Any) -> int:
    """Say what is wrong with registries.yaml, and correct it.

    Reads each FILE as K3s does (default: the node's own) and says what will not do what it says (error), what surprises
    (warning), and the rest (note): the line, the cause, the remedy, and the correction where there is only one. Ends
    with 1 if there are errors. A comment `# pierhead: ignore R016` silences a rule for its line.
    """
    if explained is not None:
        click.echo("\n".join(_long_form(_rule(explained))))
        return ExitCode.DONE
    if flags["fix"] and flags["diff"]:
        raise UsageError("--fix changes the file and --diff does not: one of them")
    words = {name: _rules(flags[name]) for name in ("select", "ignore")}
    inputs = _inputs(files, flags)
    images = _images(flags["images"])
    subjects = [_subject(name, data, images, flags) for name, data in inputs]
    if flags["fix"] or flags["diff"]:
        return _mended(subjects, output, flags, words)
    checked = [item for subject in subjects for item in _checked(subject, _found(subject, words))]
    _print(checked, output)
    return _exit_code(checked, strict=flags["strict"])


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────


def _rules(given: Iterable[str]) -> list[str]:
    """The rules that --select or --ignore names."""
    from pierhead.check import unknown

    names = [name for words in given for name in words.replace(",", " ").split()]
    names = [name.upper() if name.upper().startswith("R") and name[1:].isdigit() else name for name in names]
    for name in unknown(names):
        _rule(name)
    return names


def _rule(name: str) -> Rule:
    """The rule of an id or name; raises `UsageError`."""
    from difflib import get_close_matches

    from pierhead.check import RULES

    by_name = {word: rule for rule in RULES.values() for word in (rule.id, rule.name)}
    found = by_name.get(name) or by_name.get(name.upper())
    if found is None:
        near = get_close_matches(name, by_name, 1)
        hint = f"did you mean {near[0]}?" if near else "docs/reference/rules.md lists them"
        raise UsageError(f"there is no rule {name!r}", hint=hint)
    return found


def _inputs(files: Sequence[str], flags: dict[str, Any]) -> list[tuple[str, bytes]]:
    """The name and the bytes of every file; raises `UsageError` if one cannot be read, before anything is done."""
    named = flags["private_registry"]
    chosen = list(files) or ([str(named)] if named else [str(path) for path in DEFAULT_FILES if os.path.lexists(path)])
    if not chosen:
        raise UsageError(
            f"there is no registries.yaml here: neither {' nor '.join(map(str, DEFAULT_FILES))}",
            hint="name the file: pierhead check FILE",
        )
    if chosen.count("-") > 1 or ("-" in chosen and flags["images"] == "-"):
        raise UsageError("standard input can be read once only")
    return [(name, _read(name)) for name in dict.fromkeys(chosen)]


def _read(name: str) -> bytes:
    from pierhead.config.registries import SIZE_LIMIT_BYTES, ConfigUnreadable, read_limited

    if name != "-":
        try:
            return read_limited(name)
        except ConfigUnreadable as error:
            error.hint = ""  # it speaks of an option; here files are arguments
            raise
    data = sys.stdin.buffer.read(SIZE_LIMIT_BYTES + 1)
    if len(data) > SIZE_LIMIT_BYTES:
        raise UsageError(f"what stands on standard input is larger than {SIZE_LIMIT_BYTES} bytes")
    return data


_List = tuple[tuple["ListedImage", ...] | None, tuple["Problem", ...]]


def _images(name: str | None) -> _List:
    if name is None:
        return None, ()
    from pierhead.image_list import load_list

    return load_list(name, sys.stdin.buffer)


def _subject(name: str, data: bytes, images: _List, flags: dict[str, Any]) -> Subject:
    from pierhead.check import Subject

    return Subject.of(data, name, _circumstances(name, images, flags))


def _circumstances(name: str, images: _List, flags: dict[str, Any]) -> Circumstances:
    from datetime import UTC, datetime

    from pierhead.check import Circumstances
    from pierhead.config.k3s import Flags

    program = "rke2" if "rke2" in Path(name).parts else "k3s"
    k3s_flags = Flags(flags["disable_default_registry_endpoint"], flags["embedded_registry"], program)
    return Circumstances(
        datetime.now(UTC),
        k3s_flags,
        flags["client"],
        flags["k3s_version"],
        *images,
        assert_no_egress=flags["assert_no_egress"],
        look_at_files=not flags["no_files"],
        path=None if name == "-" else str(Path(name).absolute()),
    )


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────


def _found(subject: Subject, words: dict[str, list[str]]) -> tuple[Any, ...]:
    from pierhead.check import check

    return check(subject, **words)


def _checked(subject: Subject, findings: Sequence[Any]) -> list[Checked]:
    """The findings of the file itself, then those of other files (the list of images)."""
    from pierhead.cli.check.excerpt import Excerpts
    from pierhead.cli.check.formats import Checked

    name = subject.source.file
    others = dict.fromkeys(finding.span.file for finding in findings if finding.span.file != name)
    own = Checked(name, tuple(found for found in findings if found.span.file == name), Excerpts(subject.source))
    return [own, *(Checked(file, tuple(f for f in findings if f.span.file == file), None) for file in others)]


def _print(checked: Sequence[Checked], output: str, *, to_stderr: bool = False) -> None:
    from pierhead.cli.check import formats

    if output == "json":
        write_json(formats.as_json(checked))
    elif output == "sarif":
        from pierhead.cli.check.sarif import as_sarif

        write_json(as_sarif(checked))
    else:
        lines: Callable[[Sequence[Checked]], Iterable[str]] = (
            formats.as_github if output == "github" else formats.as_text
        )
        for line in lines(checked):
            click.echo(line, err=to_stderr)


def _exit_code(checked: Sequence[Checked], *, strict: bool) -> int:
    counting = {"error", "warning"} if strict else {"error"}
    bad = any(finding.severity in counting for item in checked for finding in item.findings)
    return ExitCode.FAILED if bad else ExitCode.DONE


# ── fixing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _mended(subjects: Sequence[Subject], output: str, flags: dict[str, Any], words: dict[str, list[str]]) -> int:
    """Every file with its fixes: written, or shown as a difference; then what is still found in them."""
    from pierhead.check import Subject, fixed

    checked = []
    for subject in subjects:
        result = fixed(subject, **words)
        after = Subject.of(result.data, subject.source.file, subject.circumstances)
        if flags["diff"]:
            for line in _difference(subject, after):
                click.echo(line)
        else:
            _write(subject, result)
        checked += _checked(after, result.left)
    on_stdout = flags["diff"] or any(subject.source.file == "-" for subject in subjects)
    if not flags["diff"]:
        _print(checked, output, to_stderr=on_stdout)
    return _exit_code(checked, strict=flags["strict"])


def _difference(before: Subject, after: Subject) -> Iterable[str]:
    from difflib import unified_diff

    from pierhead.cli.check.excerpt import Excerpts

    name = before.source.file
    old, new = (Excerpts(subject.source).text() for subject in (before, after))
    return unified_diff(old, new, name, f"{name} (fixed)", lineterm="")


def _write(subject: Subject, result: Fixed) -> None:
    from pierhead.files import replace_file

    name = subject.source.file
    if name == "-":
        sys.stdout.buffer.write(result.data)
        sys.stdout.buffer.flush()
    elif result.data != subject.source.data:
        try:
            replace_file(Path(name), result.data)
        except OSError as error:
            raise PierheadError(f"{name} cannot be written: {error.strerror or error}; it is unchanged") from error
    for finding in result.done:
        assert finding.fix is not None  # what was done had one
        click.echo(f"{finding.span}: {finding.id} fixed: {finding.fix.description}", err=True)


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _long_form(rule: Rule) -> Iterable[str]:
    """All that is known about a rule."""
    from pierhead.check.rule import source_url

    yield f"{rule.id} {rule.name} ({rule.severity})"
    yield ""
    yield rule.title
    if rule.about:
        yield ""
        yield rule.about
    for name, example in (("bad", rule.bad), ("good", rule.good)):
        yield ""
        words = "".join(f", with {flag}" for flag in example.flags)
        yield f"{name}{words}:"
        yield from (f"    {line}".rstrip() for line in example.yaml.rstrip().split("\n"))
        if example.images:
            yield "  with the images:"
            yield from (f"    {line}" for line in example.images.strip().split("\n"))
    yield ""
    yield from (f"see {source_url(source)}" for source in dict.fromkeys(rule.sources))
