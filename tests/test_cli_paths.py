"""A path where an image's name is wanted: nobody is asked for an image of Docker Hub that is called `b.tar`."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from command import run_pierhead
from images import make_image
from pierhead import cli
from pierhead.cli.copying.places import RegistryPlace, parse_place
from pierhead.cli.paths import refuse_path, refuse_path_to_write
from pierhead.errors import UsageError

APP = make_image(layers=[100])
NAMES = ("b.tar", "b.tar.gz", "B.TGZ", "b.tar.zst", "b.tzst", "images/b.tar")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with archives and a layout called `redis`; nothing of the machine is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIERHEAD_PRIVATE_REGISTRY", "/dev/null")
    monkeypatch.setenv("PIERHEAD_ROOT", str(tmp_path / "store"))
    (tmp_path / "images").mkdir()
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    APP.write_layout(tmp_path / "redis", "hub.example/team/app:1")
    return tmp_path


def refused(*arguments: str) -> str:
    said, out = io.StringIO(), io.StringIO()
    with redirect_stderr(said), redirect_stdout(out):
        assert cli.run(list(arguments)) == 2, said.getvalue()
    assert not out.getvalue()
    return said.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_that_is_there_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="is a file here, and no image's name") as error:
        refuse_path(name)
    assert error.value.hint.startswith(f"write oci-archive:{name} or docker-archive:{name}; ")


@pytest.mark.parametrize("path", ["./redis", "../{here}/redis", "{whole}/redis"])
def test_a_path_to_a_folder_is_one(path: str, folder: Path) -> None:
    path = path.format(here=folder.name, whole=folder)
    with pytest.raises(UsageError, match="is a folder here") as error:
        refuse_path(path)
    assert error.value.hint == f"write oci:{path}"


@pytest.mark.parametrize(
    "name", ["redis", "c.tar", "b.tar:latest", "docker.io/library/b.tar", "docker://b.tar", "images"]
)
def test_what_may_be_a_name_is_one(name: str) -> None:
    refuse_path(name)
    assert isinstance(parse_place(name), RegistryPlace) or name == "images"


def test_what_would_be_written_need_not_be_there() -> None:
    for path in ("out.tar", "new/out.tar.gz", "./out", "/tmp/out.tar", "~/out.tar"):
        with pytest.raises(UsageError, match="reads like a path") as error:
            refuse_path_to_write(path)
        assert path in error.value.hint
    for name in ("redis", "out.tar:1", "docker.io/library/out.tar", "registry.lan/out.tar", "oci:out.tar", "out"):
        refuse_path_to_write(name)
    for kind in ("oci", "oci-archive", "docker-archive"):
        for path in ("out.tar", "/tmp/out.tar", "./out.tar"):
            refuse_path_to_write(f"{kind}:{path}")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("inspect b.tar", "write oci-archive:b.tar"),
        ("digest redis:7 b.tar", "write oci-archive:b.tar"),
        ("copy b.tar oci:new", "write oci-archive:b.tar"),
        ("copy oci:redis out.tar", "write oci-archive:out.tar"),
        ("pull b.tar", "`pierhead load b.tar`"),
        ("save -o x.tar b.tar", "`pierhead load b.tar`"),
        ("lock b.tar", "`pierhead inspect oci-archive:b.tar`"),
        ("push b.tar registry.lan/app", "`pierhead copy oci-archive:b.tar DESTINATION`"),
        ("push registry.lan/app ./b.tar", "write oci-archive:./b.tar"),
        ("seed --private-registry nodes.yaml b.tar", "`--from b.tar`"),
    ],
)
def test_every_command_refuses_it_before_anything_is_asked(command: str, said: str, folder: Path) -> None:
    (folder / "nodes.yaml").write_text("mirrors: {docker.io: {endpoint: [https://m.lan]}}\n")
    assert said in refused(*command.split())
    assert not (folder / "store").exists()


@pytest.mark.parametrize("command", ["inspect", "digest"])
def test_a_folder_called_like_an_image_that_nobody_has_is_thought_of(
    command: str, folder: Path, closed_port: str
) -> None:
    nodes = folder / "nodes.yaml"
    nodes.write_text(f'mirrors: {{docker.io: {{endpoint: ["http://{closed_port}"]}}}}\n')
    arguments = ("--disable-default-registry-endpoint", "--private-registry", nodes)
    for name, found in (("redis", True), ("images", False)):
        ran = run_pierhead(command, *arguments, name, code=5, prefix=("env", "-C", str(folder)))
        assert (f"{name} is a folder here: write oci:{name}" in ran.err) is found, ran.said
