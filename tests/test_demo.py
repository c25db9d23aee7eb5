"""The demo, run for real: its story, what it leaves, and that its images are images."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pierhead.auth import Credential
from pierhead.cli.demo import images as demo_images
from pierhead.cli.demo.programs import printing_program
from pierhead.cli.demo.registry import DemoFailed, Running, program, push, running_registry
from pierhead.cli.demo.story import Stage
from pierhead.config.registries import parse
from pierhead.redact import Secret
from pierhead.server.http.refusing import refusing_port
from pierhead.transport import Cause, CurlTransport, Options, TlsOptions, TransportError
from pierhead.wire import Headers, Request

COMMAND = program()
SECONDS = 60.0
NAMES = ("coredns-coredns:1.6.3", "local-path-provisioner:v0.0.11", "pause:3.1")


@dataclass(frozen=True)
class Told:
    """A demo that has ended."""

    text: str
    folder: Path
    url: str


def environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), "PYTHONWARNINGS": "error"}


def tell(temporary: Path, *flags: str) -> Told:
    done = subprocess.run(
        [*COMMAND, "demo", *flags],
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    begin = re.match(r"In (\S+) there is now a private registry, (https://127\.0\.0\.1:\d+),", done.stdout)
    assert begin, done.stdout
    return Told(done.stdout, Path(begin[1]), begin[2])


def part(text: str, command: str) -> str:
    """What a command of the story printed."""
    return text.partition(f"\n$ pierhead {command}\n")[2].partition("\n\n")[0]


def end(process_id: int) -> None:
    """Ask a process that is no child of ours to end, and wait until it has."""
    process = os.pidfd_open(process_id)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        ended, _, _ = select.select([process], [], [], SECONDS)
        assert ended, f"process {process_id} goes on"
    finally:
        os.close(process)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return tell(tmp_path_factory.mktemp("demo"))


def test_explain_shows_every_place_with_its_lines(told: Told) -> None:
    explained = part(told.text, "explain docker.io/rancher/coredns-coredns:1.6.3")
    dead, working = re.findall(r"^  \d  mirror   (\S+)   registries\.yaml:(\d+)$", explained, re.MULTILINE)
    assert working == (told.url, "5")
    assert dead[1] == "4"
    asked = f"{told.url}/v2/mirrorproject/rancher-images/coredns-coredns/manifests/1.6.3?ns=docker.io"
    assert asked in explained
    assert "user 'demo' (configs " in explained
    assert "stored as docker.io/rancher/coredns-coredns:1.6.3" in explained


def test_pull_names_the_endpoint_that_is_down_and_the_one_that_served(told: Told) -> None:
    pulled = part(told.text, "pull docker.io/rancher/coredns-coredns:1.6.3")
    assert re.search(r"^not from https://127\.0\.0\.1:\d+: .*connection refused$", pulled, re.MULTILINE)
    digest = demo_images.demo_images()["coredns-coredns:1.6.3"].top.descriptor.digest
    assert re.search(rf"{digest}  from {re.escape(told.url)}  fetched \d\S*, had 0B$", pulled, re.MULTILINE)


def test_the_image_is_listed_under_its_original_name_and_whole(told: Told) -> None:
    listed = part(told.text, "images --digests")
    assert re.search(r"^docker\.io/rancher/coredns-coredns +1\.6\.3 ", listed, re.MULTILINE)
    assert "mirrorproject" not in listed
    assert part(told.text, "verify").endswith("all whole")


def test_the_second_pull_fetches_only_what_is_not_there(told: Told) -> None:
    again = part(told.text, "pull docker.io/rancher/coredns-coredns:1.6.3 rancher/local-path-provisioner:v0.0.11")
    found = dict(re.findall(r"^docker\.io/rancher/(\S+)  sha256.*  (had all|fetched) \S+", again, re.MULTILINE))
    assert found == {"coredns-coredns:1.6.3": "had all", "local-path-provisioner:v0.0.11": "fetched"}
    base = demo_images.demo_images()["coredns-coredns:1.6.3"].contents[0].descriptor.digest
    assert len(re.findall(rf"^{base.hex[:12]}  .*  present$", again, re.MULTILINE)) == 2


def test_nothing_is_left(told: Told) -> None:
    assert not told.folder.exists()
    with pytest.raises(TransportError) as caught:
        ask(f"{told.url}/v2/", Options())
    assert caught.value.cause is Cause.REFUSED


def ask(url: str, options: Options, authorization: str = "") -> int:
    transport = CurlTransport()
    headers = Headers({"Authorization": authorization} if authorization else {})
    try:
        with transport.send(Request("GET", url, headers), options) as response:
            return response.status
    finally:
        transport.close()


# ── --keep ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Kept:
    """A demo that left its registry running."""

    told: Told
    process_id: int

    @property
    def registries(self) -> Any:
        return parse((self.told.folder / "registries.yaml").read_bytes(), "registries.yaml")

    @property
    def password(self) -> str:
        text = (self.told.folder / "registries.yaml").read_text()
        found = re.search(r'password: "(.{32})"', text)
        assert found
        return found[1]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    told = tell(tmp_path_factory.mktemp("kept"), "--keep")
    found = re.search(r"^  kill (\d+); sleep 1; rm -r (\S+)$", told.text, re.MULTILINE)
    assert found
    assert found[2] == str(told.folder)
    process_id = int(found[1])
    try:
        yield Kept(told, process_id)
    finally:
        end(process_id)
        shutil.rmtree(told.folder)


def test_the_registry_that_is_kept_answers(kept: Kept) -> None:
    options = Options(TlsOptions(ca_files=(str(kept.told.folder / "ca.pem"),)))
    base = f"{kept.told.url}/v2/"
    assert ask(base, options) == 401
    assert ask(base, options, Credential("demo", Secret("wrong")).basic) == 401
    authorization = Credential("demo", Secret(kept.password)).basic
    for name in NAMES:
        repository, _, tag = name.rpartition(":")
        url = f"{base}mirrorproject/rancher-images/{repository}/manifests/{tag}"
        assert ask(url, options, authorization) == 200


def test_the_dead_endpoint_stays_dead_as_long_as_the_registry_lives(kept: Kept) -> None:
    dead = re.search(r"127\.0\.0\.1:(\d+): connection refused", kept.told.text)
    assert dead
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", int(dead[1])))
    with pytest.raises(TransportError) as caught:
        ask(f"https://127.0.0.1:{dead[1]}/v2/", Options())
    assert caught.value.cause is Cause.REFUSED


def test_the_password_is_in_no_output_log_or_process_list(kept: Kept) -> None:
    password = kept.password.encode()
    assert password not in kept.told.text.encode()
    assert password not in Path(f"/proc/{kept.process_id}/cmdline").read_bytes()
    assert password not in Path(f"/proc/{kept.process_id}/environ").read_bytes()
    files = [path for path in kept.told.folder.rglob("*") if path.is_file()]
    holders = [path.name for path in files if password in path.read_bytes()]
    assert holders == ["registries.yaml"]


def test_files_with_secrets_are_for_their_owner_alone(kept: Kept) -> None:
    assert stat.S_IMODE(kept.told.folder.stat().st_mode) == 0o700
    for name in ("registries.yaml", "registry.key", "htpasswd", "registry.log"):
        assert stat.S_IMODE((kept.told.folder / name).stat().st_mode) == 0o600
    assert b"PRIVATE KEY" not in (kept.told.folder / "ca.pem").read_bytes()
    assert not list(kept.told.folder.glob("ca*.key"))  # the CA signed once


def test_the_pulled_image_unpacks_to_what_its_configuration_says(kept: Kept, tmp_path: Path) -> None:
    store = kept.told.folder / "store"
    config = unpack(store, "docker.io/rancher/coredns-coredns:1.6.3", tmp_path)
    assert (tmp_path / "etc/os-release").read_bytes() == demo_images.OS_RELEASE
    assert (tmp_path / "README").read_text().startswith("A stand-in for coredns 1.6.3 on linux/")
    if config["architecture"] in ("amd64", "arm64"):
        entrypoint = tmp_path / config["config"]["Entrypoint"][0].lstrip("/")
        ran = subprocess.run([entrypoint], capture_output=True, timeout=SECONDS, check=True)
        assert ran.stdout == (tmp_path / "README").read_bytes()


def unpack(store: Path, name: str, target: Path) -> dict[str, Any]:
    """Unpack an image of a layout with nothing of ours, its diff_ids checked; its configuration."""

    def blob(descriptor: dict[str, Any]) -> bytes:
        algorithm, _, digest = descriptor["digest"].partition(":")
        data: bytes = (store / "blobs" / algorithm / digest).read_bytes()
        assert hashlib.new(algorithm, data).hexdigest() == digest
        return data

    tops = json.loads((store / "index.json").read_bytes())["manifests"]
    [top] = [item for item in tops if item["annotations"]["io.containerd.image.name"] == name]
    entries = json.loads(blob(top))["manifests"]
    [entry] = [item for item in entries if (store / "blobs" / item["digest"].replace(":", "/")).exists()]
    manifest = json.loads(blob(entry))
    config: dict[str, Any] = json.loads(blob(manifest["config"]))
    archives = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(archive).hexdigest()}" for archive in archives]
    for archive in archives:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(target, filter="data")
    return config


# ── when it does not go well ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout
        first = process.stdout.readline()  # the registry runs, the story begins
        process.send_signal(number)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert first.startswith(b"In ")
    assert list(tmp_path.iterdir()) == []
    url = first.split()[-1].decode().rstrip(",")
    with pytest.raises(TransportError) as caught:
        ask(f"{url}/v2/", Options())
    assert caught.value.cause is Cause.REFUSED


def test_a_step_that_fails_ends_the_demo_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import click

    stage = Stage.of(tmp_path)
    with pytest.raises(click.exceptions.Exit) as caught:
        stage.run("rmi", "docker.io/library/nothing:1")
    assert caught.value.exit_code == 3
    captured = capfd.readouterr()
    assert captured.out.startswith("\n$ pierhead rmi docker.io/library/nothing:1\nerror: no image")
    assert "ended with 3" in captured.err


def test_a_registry_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registry").write_text("no folder")
    with (
        refusing_port() as (_, held),
        pytest.raises(DemoFailed, match="registry ended with"),
        running_registry(tmp_path, Stage.of(tmp_path).environment, held=held, keep=False),
    ):
        raise AssertionError("it started")


def test_a_refused_push_says_why(kept: Kept) -> None:
    registry = Running(kept.told.url, Credential("demo", Secret("wrong")), kept.process_id)
    images = demo_images.demo_images()
    with pytest.raises(DemoFailed, match=r"did not take x .*UNAUTHORIZED"):
        push({"x:1": images["pause:3.1"]}, registry, kept.told.folder / "ca.pem")


def test_settings_and_credentials_of_this_machine_play_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIERHEAD_ROOT", "/elsewhere")
    monkeypatch.setenv("PIERHEAD_TIMEOUT", "1")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/elsewhere/auth.json")
    seen = Stage.of(tmp_path).environment
    assert seen["PIERHEAD_ROOT"] == "store"
    assert not {"PIERHEAD_TIMEOUT", "REGISTRY_AUTH_FILE"} & seen.keys()
    assert seen["PATH"] == os.environ["PATH"]


# ── the images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_images_are_equal_on_every_run() -> None:
    assert demo_images.demo_images() == demo_images.demo_images()


def test_an_index_offers_the_common_platforms() -> None:
    index = json.loads(demo_images.demo_images()["coredns-coredns:1.6.3"].top.data)
    offered = {"/".join(item["platform"].values()) for item in index["manifests"]}
    assert {"linux/amd64", "linux/arm64", "linux/arm/v7"} <= offered


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", 62), ("arm64", 183)])
def test_a_program_is_one_segment_that_holds_its_text(architecture: str, machine: int) -> None:
    data = printing_program(architecture, "hello\n")
    assert data is not None
    assert (data[:7], data[18]) == (b"\x7fELF\x02\x01\x01", machine)
    assert int.from_bytes(data[96:104], "little") == len(data)  # p_filesz
    assert data.endswith(b"hello\n")


def test_arm64_counts_right_to_its_text() -> None:
    """adr is taken apart by hand: most machines that run these tests cannot run the program."""
    data = printing_program("arm64", "hello\n")
    assert data is not None
    place = 120 + 4  # the second instruction
    word = int.from_bytes(data[place : place + 4], "little")
    assert word & 0x9F00001F == 0x10000001  # adr x1
    text = place + ((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3)
    assert data[text:] == b"hello\n"


def test_no_program_for_a_machine_we_do_not_know() -> None:
    assert printing_program("riscv64", "hello\n") is None


def test_the_command_is_the_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program() == (str(Path(sys.executable).with_name("pierhead")),)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert program() == (str(tmp_path / "python"), "-m", "pierhead")
