"""The command in surroundings that are not as usual, and what it then says."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import click
import pytest

from command import PIERHEAD, RUN_SECONDS, environment, run_pierhead, serve, write_registries
from images import make_image
from pierhead import cli
from pierhead.archive.writing import FORMATS
from pierhead.cli.save import save
from pierhead.cli.seed import seed
from pierhead.compression import KINDS
from pierhead.layout import LayoutStore
from pierhead.seed.mapping import ALLOWED
from stocked import stock


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [("--version",), ("explain", "redis:7"), ("images",)], ids=lambda a: a[0])
def test_a_closed_standard_stream_is_silence(arguments: tuple[str, ...], closed: str, tmp_path: Path) -> None:
    prefix = ("sh", "-c", f'exec "$0" "$@" {closed}')
    ran = run_pierhead(*arguments, env={"PIERHEAD_ROOT": str(tmp_path)}, prefix=prefix)
    assert not ran.err
    assert bool(ran.out) == (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_colour_on_a_terminal_for_who_wants_none(no_color: str, coloured: bool) -> None:
    ours, theirs = os.openpty()
    try:
        command = [str(PIERHEAD), "digest", "not:a:name"]
        environ = environment({"NO_COLOR": no_color, "TERM": "xterm"})
        subprocess.run(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, timeout=RUN_SECONDS, check=False
        )
        said = os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"error:" in said
    assert (b"\x1b" in said) == coloured


def test_a_trace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with serve(tmp_path / "registry") as registry:
        ran = run_pierhead("ls", registry.address, "--trace", "/dev/full", code=1)
    assert "cannot write the trace /dev/full: No space left on device" in ran.err


def test_removing_what_is_not_there_touches_nothing(tmp_path: Path) -> None:
    ran = run_pierhead("rmi", "redis:7", "--root", tmp_path / "store", code=3)
    assert "no image 'redis:7'" in ran.err
    assert not (tmp_path / "store").exists()


def test_an_error_of_one_image_among_several_names_it(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "registry")
    stock(store, make_image(platforms=["linux/s390x"]), "team/other")
    stock(store, make_image(), "team/app")
    with serve(tmp_path / "registry") as registry:
        good, other = f"{registry.address}/team/app:1", f"{registry.address}/team/other:1"
        options = ("--root", tmp_path / "store", "--platform", "linux/amd64")
        ran = run_pierhead("pull", good, other, *options, code=6)
    assert f"error: {other}: no image for linux/amd64" in ran.err
    assert good in ran.out


@pytest.mark.parametrize("root", ["/dev/null/store", "/proc/nowhere/store"])
def test_serve_does_not_listen_over_a_store_it_cannot_write(root: str) -> None:
    ran = run_pierhead("serve", "--root", root, "--listen", "127.0.0.1:0", code=1)
    assert "listening" not in ran.err
    assert ran.err.startswith("error: ")
    assert root.rpartition("/")[0] in ran.err


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e300", "0", "-1", "soon"])
def test_a_time_out_is_a_number_of_seconds(seconds: str) -> None:
    ran = run_pierhead("pull", "redis:7", "--timeout-connect", seconds, code=2)
    assert "--timeout-connect" in ran.err


def test_verify_tells_of_a_damaged_name_and_goes_on(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path)
    stock(store, make_image(), "team/app")
    stock(store, make_image(), "team/other")
    (damaged,) = store.path.glob("repositories/_/team/app/_tags/1")
    damaged.write_text("garbage")
    ran = run_pierhead("verify", "--root", tmp_path, code=1)
    assert not ran.err
    assert f"{damaged} is damaged" in ran.out
    assert ran.out.endswith("2 images, 1 problem\n")


def test_a_damaged_name_hides_no_other(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path)
    for path in ("team/app", "team/other"):
        stock(store, make_image(), path)
    (damaged,) = store.path.glob("repositories/_/team/app/_tags/1")
    damaged.write_text("garbage")
    ran = run_pierhead("images", "--root", tmp_path, code=1)
    assert "team/other" in ran.out
    assert f"{damaged} is damaged" in ran.err
    # Of what is removed index.json must tell, and that cannot be derived.
    assert "removed team/other:1" in run_pierhead("rmi", "--root", tmp_path, "team/other:1", code=1).out


def test_a_damaged_index_is_told_once(tmp_path: Path) -> None:
    stock(LayoutStore(tmp_path), make_image(), "team/app")
    (tmp_path / "index.json").write_text("{")
    ran = run_pierhead("gc", "--root", tmp_path, code=1)
    assert ran.err.count("is damaged") == 1


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("quay.io/a/b:1", {"key-never-matches", "destructive-key"}),
        ("ghcr.io/a/b:1", {"key-never-matches", "destructive-key", "unknown-key"}),
        ("redis:7", {"key-never-matches", "destructive-key"}),
    ],
)
def test_explain_tells_what_is_wrong_with_the_key_that_was_meant(
    image: str, expected: set[str], tmp_path: Path
) -> None:
    text = """
mirrors:
  docker.io: {endpoint: [m.lan]}
  "https://quay.io": {endpoint: [m.lan]}
  "..": {endpoint: [m.lan]}
  ghcr.io:
    endpoints: [m.lan]
"""
    ran = run_pierhead("explain", image, "--private-registry", write_registries(tmp_path, text), "-o", "json")
    (explained,) = ran.images
    assert {problem["id"] for problem in explained["problems"]} == expected


def _readers(command: click.Command) -> list[tuple[str, ...]]:
    """What a command can be given that reads standard input, besides registries.yaml."""
    passwords: list[tuple[str, ...]] = [
        (word,) for option in command.params for word in option.opts if word.endswith("password-stdin")
    ]
    lists = [(option.opts[0], "-") for option in command.params if option.opts[0] in ("--images", "--since")]
    return [*passwords, *lists]


def _reading_twice() -> Iterator[tuple[str, ...]]:
    """Every call of a command that would read registries.yaml and something else from standard input."""
    context = click.Context(cli.cli)
    for name in cli.COMMANDS:
        command = cli.cli.get_command(context, name)
        assert command is not None
        if any("--private-registry" in option.opts for option in command.params):
            yield from ((name, *words) for words in _readers(command))


def test_every_command_that_could_read_standard_input_twice_is_looked_at() -> None:
    names = {call[0] for call in _reading_twice()}
    wanted = {"pull", "push", "copy", "seed", "save", "lock", "ls", "inspect", "digest", "login", "probe"}
    assert names >= wanted | {"explain", "check", "diff"}


@pytest.mark.parametrize("call", list(_reading_twice()), ids=" ".join)
def test_standard_input_is_one_thing(call: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    name, word, *value = call
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"mirrors: {}\n")))
    needed = {"copy": ("a.example/a", "b.example/b"), "save": ("-o", "/nonexistent/a.tar", "a.example/a")}
    needed["login"] = ("a.example", "-u", "alice", "--no-verify", "--authfile", "/nonexistent/auth.json")
    needed["diff"] = ("--from", "v1.30", "--to", "v1.31", "a.example/a")
    arguments = [name, *needed.get(name, ("a.example/a",) if name != "check" else ()), word, *value]
    said = io.StringIO()
    with redirect_stderr(said):
        code = cli.run([*arguments, "--private-registry", "-"])
    assert code == 2
    shown = " ".join([word, *value])
    assert "read standard input" in said.getvalue()
    assert shown in said.getvalue()
    assert "--private-registry -" in said.getvalue()
    assert sys.stdin.read() == "mirrors: {}\n"  # and nobody has


@pytest.mark.parametrize(
    "arguments",
    [
        ("copy", "a.example/a", "b.example/b", "--src-password-stdin", "--dest-password-stdin"),
        ("pull", "--images", "-", "--creds", "alice", "--password-stdin"),
        ("lock", "-", "--creds", "alice", "--password-stdin"),
        ("lock", "-", "--private-registry", "-"),
        ("seed", "--images", "-", "--dest-password-stdin"),
    ],
    ids=" ".join,
)
def test_a_list_and_a_password_do_not_come_on_one_standard_input(arguments: tuple[str, ...]) -> None:
    said = io.StringIO()
    with redirect_stderr(said):
        assert cli.run(list(arguments)) == 2
    assert "read standard input" in said.getvalue()


def test_choices_are_those_of_the_modules_behind_them() -> None:
    """The command line names them itself, so that help costs no import."""
    choices = {
        (command.name, parameter.name): tuple(parameter.type.choices)
        for command in (save, seed)
        for parameter in command.params
        if isinstance(parameter.type, click.Choice)
    }
    assert choices["save", "format"] == FORMATS
    assert set(choices["save", "compress"]) == set(KINDS)
    assert choices["seed", "allow"] == ALLOWED
