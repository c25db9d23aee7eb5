"""Keeps what is written in step with what is programmed.

    python tools/docs.py           write the generated pages of docs/reference
    python tools/docs.py --check   say what is out of step, one line each, and exit with 1 if anything is

A check is one function that yields complaints, each beginning with the file it is about.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import click

    from pierhead.check.rule import Example

ROOT: Final = Path(__file__).resolve().parent.parent
HELP_WIDTH: Final = 100
GENERATED: Final = "<!-- Written by `make docs`. Change the code instead. -->\n\n"
NOT_OURS: Final = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache"}

# ── what is generated ────────────────────────────────────────────────────────────────────────────────────────────────


def exit_codes() -> str:
    """The table of exit codes, with the comments of `ExitCode` as their meaning."""
    from pierhead.errors import ExitCode

    comments = dict(re.findall(r"^ +([A-Z_]+) = \d+(?:  # (.*))?$", inspect.getsource(ExitCode), re.MULTILINE))
    rows = [f"| {code.value} | {comments[code.name] or code.name.lower().replace('_', ' ')} |" for code in ExitCode]
    ended = "SIGTERM and SIGHUP end a command as Ctrl-C does, with the status of the signal: 143 or 129 in a shell."
    return "\n".join([GENERATED + "# Exit codes", "", "| code | meaning |", "|---|---|", *rows, "", ended, ""])


def _commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    import click

    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _commands(child, click.Context(child, info_name=name, parent=context))


def command_line() -> str:
    """Every command with the help it prints."""
    import click

    for name in [name for name in os.environ if name.startswith("PIERHEAD_")]:
        del os.environ[name]
    commands = import_module("pierhead.cli").cli
    width = {"terminal_width": HELP_WIDTH, "max_content_width": HELP_WIDTH}
    top = click.Context(commands, info_name="pierhead", **{**commands.context_settings, **width})
    parts = [GENERATED + "# Command line", "Exit codes are in [exit-codes.md](exit-codes.md)."]
    for context in _commands(commands, top):
        parts += [f"## {context.command_path}", f"```text\n{context.get_help().strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def rules() -> str:
    """Every rule of `pierhead check`: what it finds, why, an example that it finds and one that it does not."""
    known = import_module("pierhead.check").RULES.values()
    parts = [
        GENERATED + "# Rules of `pierhead check`",
        "**error**: it will not do what it says; **warning**: it surprises; **note**: the rest. "
        "`pierhead check --explain R004` prints the same. A comment `# pierhead: ignore R004` silences a rule there.",
        "\n".join(
            ["| id | name | severity | what |", "|---|---|---|---|"]
            + [
                f"| [{rule.id}](#{rule.id.lower()}-{rule.name}) | {rule.name} | {rule.severity} | {rule.title} |"
                for rule in known
            ]
        ),
    ]
    for rule in sorted(known, key=lambda rule: int(rule.id[1:])):
        parts += [f"## {rule.id} {rule.name}", f"*{rule.severity}.* {rule.title}", rule.about]
        parts += [
            part for name, example in (("Bad", rule.bad), ("Good", rule.good)) for part in _example(name, example)
        ]
        parts.append("Sources: " + ", ".join(_source(source) for source in dict.fromkeys(rule.sources)) + ".")
    return "\n\n".join(part for part in parts if part) + "\n"


def _example(name: str, example: Example) -> Iterator[str]:
    given = [f"`{flag}`" for flag in example.flags]
    given += [f"the file is called `{example.name}`"] if example.name != "registries.yaml" else []
    given += [f"its mode is {example.mode:o}"] if example.mode != 0o600 else []
    given += (
        [f"beside it is {', '.join(f'`{file}`: {content.strip()}' for file, content in example.files.items())}"]
        if example.files
        else []
    )
    yield f"{name}{' (' + '; '.join(given) + ')' if given else ''}:"
    yield f"```yaml\n{example.yaml.rstrip()}\n```"
    if example.images:
        yield f"with the images\n\n```text\n{example.images.strip()}\n```"


def _source(source: str) -> str:
    from pierhead.check.rule import source_url

    return f"[{source.removeprefix('https://')}]({source_url(source)})"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/reference/rules.md": rules,
    "docs/reference/exit-codes.md": exit_codes,
    "docs/reference/cli.md": command_line,
}


def features() -> str:
    """What each runtime can be told, feature by feature."""
    return "\n".join(import_module("pierhead.config.features").table())


# What is written between `<!-- NAME: written by make docs -->` and `<!-- NAME: end -->` of a page.
SECTIONS: Final[dict[str, tuple[str, Callable[[], str]]]] = {"features": ("docs/compatibility.md", features)}


def _with_section(name: str, text: str, written: str) -> str:
    begin, end = f"<!-- {name}: written by make docs -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    return f"{before}{begin}\n\n{written}\n\n{end}{after}" if found else text


def write_pages() -> None:
    """Write every generated page, and every generated section."""
    for name, page in PAGES.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(), encoding="utf-8")
        print(name)
    for name, (file, section) in SECTIONS.items():
        path = ROOT / file
        path.write_text(_with_section(name, path.read_text(encoding="utf-8"), section()), encoding="utf-8")
        print(f"{file}: {name}")


def stale_pages() -> Iterator[str]:
    """A generated page, or section, equals what the code says."""
    for name, page in PAGES.items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != page():
            yield f"{name}: not what the code says; run `make docs`"
    for name, (file, section) in SECTIONS.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        if section() not in text or _with_section(name, text, section()) != text:
            yield f"{file}: the section {name} is not what the code says; run `make docs`"


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _in_git() -> list[Path] | None:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name]


@cache
def project_files() -> tuple[Path, ...]:
    """The files of the project: those that git knows or would take, or all, where there is no git."""
    files = _in_git()
    if files is None:
        files = [path for path in ROOT.rglob("*") if not NOT_OURS & set(path.relative_to(ROOT).parts)]
    return tuple(sorted(path for path in files if path.is_file()))


def pages() -> Iterator[Path]:
    """Every Markdown page."""
    return (path for path in project_files() if path.suffix == ".md")


def shown(path: Path) -> str:
    """A path as complaints name it."""
    return str(path.relative_to(ROOT))


FENCE: Final = re.compile(r"^(```|~~~)[^\n]*\n.*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)


@cache
def prose(path: Path) -> str:
    """A page without its code blocks; lines keep their numbers."""
    return FENCE.sub(lambda block: "\n" * block[0].count("\n"), path.read_text(encoding="utf-8"))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


# ── links and names ──────────────────────────────────────────────────────────────────────────────────────────────────

HEADING: Final = re.compile(r"^(#{1,6}) +(.*?) *#*$", re.MULTILINE)
LINK: Final = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
INLINE_CODE: Final = re.compile(r"`[^`\n]*`")
OUTSIDE: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@cache
def anchors(path: Path) -> frozenset[str]:
    """The fragments that a page's headings can be reached by, as GitHub makes them."""
    plain = (
        re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading[2]).strip().lower() for heading in HEADING.finditer(prose(path))
    )
    return frozenset(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain)


def broken_links() -> Iterator[str]:
    """A link inside the project leads to a file, and to a heading if it names one."""
    for page in pages():
        text = INLINE_CODE.sub(lambda code: " " * len(code[0]), prose(page))
        for link in LINK.finditer(text):
            if OUTSIDE.match(link[1]):
                continue
            name, _, fragment = link[1].partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
                yield f"{shown(page)}:{_line(text, link.start())}: {link[1]} leads nowhere"


PATH: Final = re.compile(r"`((?:src|tests|tools|docs|bench)/[\w./-]+)(?:::([\w:]+))?`")


@cache
def definitions(path: Path) -> frozenset[str]:
    """The classes and functions of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds))


def unknown_names() -> Iterator[str]:
    """A file that a page names in code type exists, and so does the test behind its `::`."""
    for page in pages():
        text = prose(page)
        for name in PATH.finditer(text):
            path = ROOT / name[1]
            known = path.exists() and (not name[2] or set(name[2].split("::")) <= definitions(path))
            if not known:
                yield f"{shown(page)}:{_line(text, name.start())}: there is no {name[0]}"


# ── the architecture page ────────────────────────────────────────────────────────────────────────────────────────────

ARCHITECTURE: Final = ROOT / "docs/architecture.md"


def unproved_laws() -> Iterator[str]:
    """A law names the test that proves it, or says what it waits for."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    laws = text.partition("\n## Laws\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| *(\d+) *\|.*\|(.*)\|$", laws, re.MULTILINE)
    if not rows:
        yield "docs/architecture.md: the table of laws is missing"
    for number, proof in rows:
        if "`tests/" not in proof and "not yet:" not in proof:
            yield f"docs/architecture.md: law {number} names no test"


def unlisted_modules() -> Iterator[str]:
    """The layout lists every module of the package, and none that is not there."""
    layout = ARCHITECTURE.read_text(encoding="utf-8").partition("\n## Layout\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^  ([\w.]+/?) ", layout, re.MULTILINE))
    package = ROOT / "src/pierhead"
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    for name in sorted(listed ^ (modules | folders)):
        yield f"docs/architecture.md: {name} is {'listed but not there' if name in listed else 'there but not listed'}"


# ── readme, changelog, pins, places ──────────────────────────────────────────────────────────────────────────────────


def readmes_apart() -> Iterator[str]:
    """The Chinese README has the headings and the very code blocks of the English one."""
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    if not chinese.exists():
        yield "README.zh-CN.md: missing"
        return
    levels = [[len(heading[1]) for heading in HEADING.finditer(prose(path))] for path in (english, chinese)]
    if levels[0] != levels[1]:
        yield "README.zh-CN.md: its headings are not those of README.md"
    blocks = [[block[0] for block in FENCE.finditer(path.read_text("utf-8"))] for path in (english, chinese)]
    if blocks[0] != blocks[1]:
        yield "README.zh-CN.md: its code blocks are not those of README.md"


def changelog_behind() -> Iterator[str]:
    """The changelog has a place for what comes, and a section for a version that is out."""
    from pierhead import __version__

    wanted = ["Unreleased"] if ".dev" in __version__ else ["Unreleased", __version__]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for section in wanted:
        if not re.search(rf"^## \[?{re.escape(section)}\]?", text, re.MULTILINE):
            yield f"CHANGELOG.md: no section {section}"


def _same(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def loose_pins() -> Iterator[str]:
    """Everything installed here, pip itself aside, is in constraints.txt at that version."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {_same(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    installed = {_same(each.name): each.version for each in distributions()}
    for name in sorted(installed.keys() - {"pierhead", "pip", "setuptools", "wheel"}):
        if pins.get(name) != installed[name]:
            yield f"constraints.txt: {name} is installed at {installed[name]}, pinned at {pins.get(name, 'nothing')}"


# Places that exist on one machine only, and addresses of package registries: neither belongs in a file of the project.
FORBIDDEN: Final = re.compile(
    r"(?<![\w.})\]*-])/(?:root|work|home/\w+)/|pypi\.org|pythonhosted\.org|--(?:extra-)?index[-]url|npmjs\.org"
)


def forbidden_places() -> Iterator[str]:
    """No file names a place of one machine or the address of a package registry."""
    for path in project_files():
        text = path.read_bytes().decode("utf-8", "replace")
        for match in FORBIDDEN.finditer(text):
            yield f"{shown(path)}:{_line(text, match.start())}: names {match[0]}"


CHECKS: Final[tuple[Callable[[], Iterable[str]], ...]] = (
    stale_pages,
    broken_links,
    unknown_names,
    unproved_laws,
    unlisted_modules,
    readmes_apart,
    changelog_behind,
    loose_pins,
    forbidden_places,
)


def main(arguments: list[str]) -> int:
    """Write, or check; the exit code."""
    if arguments == ["--check"]:
        complaints = [complaint for check in CHECKS for complaint in check()]
        print(*complaints, sep="\n", end="\n" if complaints else "", file=sys.stderr)
        return 1 if complaints else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    write_pages()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
