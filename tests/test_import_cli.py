"""The command `import`: what it writes where, what it says, and what it keeps to itself."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from command import PIERHEAD, environment, run_pierhead
from pierhead.cli import run
from pierhead.files import new_file

ROOT = Path(__file__).parent.parent
SECRET = "dTpodW50ZXIy"  # u:hunter2
HOSTS = f"""\
server = "https://registry-1.docker.io"
[host."https://m.lan:5000"]
  capabilities = ["pull", "resolve"]
  ca = ["/etc/pki/a.pem", "/etc/pki/b.pem"]
  [host."https://m.lan:5000".header]
    Authorization = "Basic {SECRET}"
"""
PUBLIC = '[host."https://m.lan"]\n'


def certs_d(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        below = folder / "certs.d" / name.replace("_", ".")
        below.mkdir(parents=True)
        (below / "hosts.toml").write_text(text)
    return folder / "certs.d"


def test_the_file_is_on_stdout_and_the_rest_on_stderr(tmp_path: Path) -> None:
    folder = certs_d(tmp_path, docker_io=HOSTS)
    ran = run_pierhead("import", "certs.d", folder, code=1)
    assert ran.out.startswith(f"# Made by pierhead from {folder} (containerd)\n")
    assert yaml.safe_load(ran.out)["configs"]["m.lan:5000"]["auth"] == {"auth": SECRET}
    message = "K3s takes one ca_file for m.lan:5000, here the first: put all of them into one file"
    place = f"{folder}/docker.io/hosts.toml:4"
    assert f"#   error: {place}: {message}\n" in ran.out
    assert f"error: {place}:1: {message}\n" in ran.err


def test_nothing_lost_is_done(tmp_path: Path) -> None:
    ran = run_pierhead("import", "certs.d", certs_d(tmp_path, r_lan=PUBLIC))
    assert (yaml.safe_load(ran.out), ran.err) == ({"mirrors": {"r.lan": {"endpoint": ["https://m.lan"]}}}, "")


@pytest.mark.parametrize(("text", "mode"), [(HOSTS, 0o600), (PUBLIC, 0o644)])
def test_a_file_with_credentials_is_for_its_owner(tmp_path: Path, text: str, mode: int) -> None:
    path = tmp_path / "registries.yaml"
    run_pierhead("import", "certs.d", certs_d(tmp_path, docker_io=text), "-o", path, code=None)
    assert path.stat().st_mode & 0o777 == mode
    assert (SECRET in path.read_text()) == (mode == 0o600)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["certs.d", "registries.yaml"]


def test_what_is_there_stays_without_force(tmp_path: Path) -> None:
    folder, path = certs_d(tmp_path, docker_io=HOSTS), tmp_path / "registries.yaml"
    path.write_text("mine")
    ran = run_pierhead("import", "certs.d", folder, "-o", path, code=2)
    assert (path.read_text(), "--force" in ran.err) == ("mine", True)
    run_pierhead("import", "certs.d", folder, "-o", path, "--force", code=1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SECRET in path.read_text()


def test_json_masks_credentials(tmp_path: Path) -> None:
    folder = certs_d(tmp_path, docker_io=HOSTS)
    ran = run_pierhead("import", "certs.d", folder, "--json", code=1)
    printed = json.loads(ran.out)
    assert SECRET not in ran.out
    assert (printed["holds_secrets"], printed["k3s_flags"]) == (True, [])
    (problem,) = printed["problems"]
    assert problem == {
        "id": "import-several-ca",
        "severity": "error",
        "message": "K3s takes one ca_file for m.lan:5000, here the first: put all of them into one file",
        "line": 4,
        "column": 1,
        "file": f"{folder}/docker.io/hosts.toml",
    }
    shown = run_pierhead("import", "certs.d", folder, "--json", "--show-secrets", code=1)
    assert SECRET in json.loads(shown.out)["registries_yaml"]


def on_terminal(*arguments: str | Path) -> tuple[int, str]:
    """What the command prints on a terminal."""
    ours, theirs = pty.openpty()
    try:
        command = [str(PIERHEAD), *map(str, arguments)]
        done = subprocess.run(
            command, stdout=theirs, stderr=subprocess.PIPE, env=environment(), timeout=60, check=False
        )
        os.write(theirs, b"\x04\n")  # so that there is something to read
        return done.returncode, os.read(ours, 65536).decode() + done.stderr.decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_credentials_are_not_shown_on_a_terminal(tmp_path: Path) -> None:
    folder = certs_d(tmp_path, docker_io=HOSTS)
    code, said = on_terminal("import", "certs.d", folder)
    assert (code, SECRET in said, "-o FILE" in said) == (2, False, True)
    code, said = on_terminal("import", "certs.d", folder, "--show-secrets")
    assert (code, SECRET in said) == (1, True)


def test_logins_of_an_authfile(tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {"m.lan": {"auth": SECRET}}}))
    folder = certs_d(tmp_path, r_lan=PUBLIC)
    ran = run_pierhead("import", "certs.d", folder, "--authfile", tmp_path / "auth.json")
    assert yaml.safe_load(ran.out)["configs"] == {"m.lan": {"auth": {"auth": SECRET}}}


def test_podman_and_docker_with_the_certificates_beside_them(tmp_path: Path) -> None:
    (tmp_path / "certs.d" / "m.lan").mkdir(parents=True)
    (tmp_path / "certs.d" / "m.lan" / "ca.crt").touch()
    (tmp_path / "registries.conf").write_text(
        '[[registry]]\nlocation = "q.lan"\n[[registry.mirror]]\nlocation = "m.lan"\n'
    )
    (tmp_path / "daemon.json").write_text('{"registry-mirrors": ["https://m.lan"]}')
    tls = {"m.lan": {"tls": {"ca_file": f"{tmp_path}/certs.d/m.lan/ca.crt"}}}
    for name, registry in (("registries.conf", "q.lan"), ("daemon.json", "docker.io")):
        ran = run_pierhead("import", name, tmp_path / name)
        assert yaml.safe_load(ran.out) == {"mirrors": {registry: {"endpoint": ["https://m.lan"]}}, "configs": tls}
    elsewhere = tmp_path / "none"
    elsewhere.mkdir()
    ran = run_pierhead("import", "daemon.json", tmp_path / "daemon.json", "--certs-d", elsewhere)
    assert "configs" not in yaml.safe_load(ran.out)


def test_certificates_are_named_by_their_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "certs.d" / "m.lan").mkdir(parents=True)
    (tmp_path / "certs.d" / "m.lan" / "ca.crt").touch()
    monkeypatch.chdir(tmp_path)
    assert run(["import", "certs.d", "certs.d"]) == 0
    assert (
        yaml.safe_load(capsys.readouterr().out)["configs"]["m.lan"]["tls"]["ca_file"]
        == f"{tmp_path}/certs.d/m.lan/ca.crt"
    )


@pytest.mark.parametrize("kind", ["certs.d", "registries.conf", "daemon.json"])
@pytest.mark.parametrize("what", ["missing", "fifo", "loop", "file", "folder"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, kind: str, what: str) -> None:
    path = tmp_path / what
    if what == "fifo":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    elif what == "file":
        path.write_text("\x00")
    elif what == "folder":
        path.mkdir()
    fine = (kind, what) == ("certs.d", "folder")
    ran = run_pierhead("import", kind, path, code=0 if fine else 2)
    assert fine or ran.err.startswith("error: ")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for name in (b"\xff.lan", b"r.lan"):
        below = tmp_path / "certs.d" / os.fsdecode(name)
        below.mkdir(parents=True)
        (below / os.fsdecode(b"\xfe.crt")).touch()
        (below / "ca.crt").touch()
    ran = run_pierhead("import", "certs.d", tmp_path / "certs.d", "--json", code=1)
    printed = json.loads(ran.out)
    tls = {"ca_file": f"{tmp_path}/certs.d/r.lan/ca.crt"}
    assert yaml.safe_load(printed["registries_yaml"]) == {"configs": {"r.lan": {"tls": tls}}}
    assert [problem["file"] for problem in printed["problems"]] == [f"{tmp_path}/certs.d/\\udcff.lan"]


def test_the_wrong_file_of_logins(tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text("hunter2")
    folder = certs_d(tmp_path, r_lan=PUBLIC)
    ran = run_pierhead("import", "certs.d", folder, "--authfile", tmp_path / "auth.json", code=2)
    assert "hunter2" not in ran.out + ran.err


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    new_file(path, b"one", mode=0o600)
    with pytest.raises(FileExistsError):
        new_file(path, b"two")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        new_file(tmp_path / "dangling", b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dangling", "file"]


# -- the page ---------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "reference" / "import.md").read_text("utf-8")
BLOCK = re.compile(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```console\n\$ pierhead (import [^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[tuple[str, str]]:
    return ((command, shown) for command, shown in COMMAND.findall(PAGE))


def test_the_page_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in BLOCK.findall(PAGE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    shown = list(examples())
    assert len(shown) == 3
    for command, output in shown:
        run(command.split())
        assert capsys.readouterr().out == output
        (tmp_path / "registries.yaml").write_text(output)
        (tmp_path / "registries.yaml").chmod(0o600)
        run(["check", "--no-files", "--private-registry", "registries.yaml", "-o", "json"])
        findings = json.loads(capsys.readouterr().out)["files"][0]["findings"]
        assert not [finding for finding in findings if finding["severity"] == "error"]


def test_every_problem_is_on_the_page() -> None:
    sources = (ROOT / "src" / "pierhead" / "config" / "imports").glob("*.py")
    making = re.compile(r'(?:lost|nearly|remark)\(\s*"([a-z0-9-]+)"')
    ids = {id for source in sources for id in making.findall(source.read_text("utf-8"))}
    assert len(ids) > 25
    assert ids == set(re.findall(r"^\| `import-([a-z0-9-]+)` \|", PAGE, re.MULTILINE))
