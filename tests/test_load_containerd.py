"""`load --containerd` with programs in the place of ctr: what it is called with, and every way it can go wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command import environment, run_pierhead, start_pierhead
from images import make_image
from loadable import archive_of, of_platform
from pierhead.errors import ExitCode
from pierhead.loading import Loaded, load
from pierhead.loading import containerd as module
from pierhead.loading.containerd import Containerd, CtrFailed, NoContainerd, find_ctr
from pierhead.loading.into import IntoContainerd
from pierhead.oci import Platform
from real import eventually
from referring import Signed, listing

APP = make_image(layers=[b"app\n", 400_000], platforms=["linux/amd64", "linux/arm64"])
NAME = "docker.io/team/app:1"

# Keeps what it is fed, and names what that has, as ctr would.
FAKE = """
    words = sys.argv[5:]
    with open(home + "/calls", "a") as calls:
        print(json.dumps(sys.argv[1:]), file=calls)
    if words[:2] == ["images", "import"]:
        data = sys.stdin.buffer.read()
        with open(home + "/fed", "ab") as fed:
            fed.write(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            index = json.load(archive.extractfile("index.json"))
        with open(home + "/images", "a") as images:
            for item in index["manifests"]:
                print(item["annotations"]["io.containerd.image.name"], item["mediaType"], item["digest"], file=images)
    if words[:2] == ["images", "list"]:
        print("REF TYPE DIGEST SIZE PLATFORMS LABELS")
        if os.path.exists(home + "/images"):
            print(open(home + "/images").read())
"""


@pytest.fixture
def listener() -> Iterator[Path]:
    """Where a containerd could listen."""
    with tempfile.TemporaryDirectory(prefix="ctd") as folder, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{folder}/sock")
        yield Path(folder) / "sock"


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a program to be called as ctr; `home` is a folder of its own."""

    def write(body: str = FAKE, name: str = "ctr") -> Path:
        (tmp_path / "bin").mkdir(exist_ok=True)
        path = tmp_path / "bin" / name
        head = f"#!{sys.executable}\nimport io, json, os, sys, tarfile, time\nhome = {str(tmp_path)!r}\n"
        path.write_text(head + textwrap.dedent(body))
        path.chmod(0o755)
        return path

    return write


def load_into(listener: Path, program: Path, *files: Path, pin: bool = False) -> list[Loaded]:
    return load(files, IntoContainerd(Containerd(listener, ctr=[str(program)]), pin=pin))


def calls(home: Path) -> list[list[str]]:
    return [json.loads(line) for line in (home / "calls").read_text().splitlines()]


def error_of(results: list[Loaded]) -> str:
    (result,) = results
    assert result.error is not None
    return str(result.error)


# ── what it is called with ───────────────────────────────────────────────────────────────────────────────────────


def test_what_ctr_is_fed_is_ours_alone(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    """Whatever stands in the archive beside its images does not reach containerd."""
    archive = archive_of(tmp_path / "a.tar", {NAME: APP})
    with tarfile.open(archive, "a") as more:
        for name in ("notes.txt", "blobs/sha256/" + 64 * "0"):
            member = tarfile.TarInfo(name)
            member.size = 5
            more.addfile(member, io.BytesIO(b"extra"))
    (result,) = load_into(listener, fake(), archive)
    assert result.error is None
    own = ["--address", str(listener), "--namespace", "k8s.io"]
    assert calls(tmp_path) == [
        [*own, "images", "import", "--no-unpack", "--all-platforms", "-"],
        [*own, "images", "list"],
    ]
    with tarfile.open(tmp_path / "fed") as fed:
        files = {member.name for member in fed if member.isfile()}
    assert files == {"oci-layout", "index.json", *(f"blobs/{digest.replace(':', '/')}" for digest in APP.blobs)}


def test_what_refers_to_an_image_stays_out_of_containerd(
    listener: Path, fake: Callable[..., Path], tmp_path: Path
) -> None:
    signed = Signed.make()
    (result,) = load_into(listener, fake(), listing(tmp_path / "a.tar", signed.entries(NAME)))
    assert (result.name, result.error, result.referrers) == (NAME, None, None)
    with tarfile.open(tmp_path / "fed") as fed:
        content = {member.name for member in fed if member.name.startswith("blobs/sha256/")}
    assert content == {f"blobs/{digest.replace(':', '/')}" for digest in signed.image.blobs}


def test_pins_are_those_of_k3s(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    one, two = make_image(layers=[b"shared\n", 10]), make_image(layers=[b"shared\n", 20])
    archive = archive_of(tmp_path / "a.tar", {"docker.io/b/two:2": two, "docker.io/a/one:1": one})
    assert [result.error for result in load_into(listener, fake(), archive, pin=True)] == [None, None]
    said = [" ".join(call[4:]) for call in calls(tmp_path)]
    labels = "io.cri-containerd.pinned=pinned io.cattle.k3s.pinned=pinned"
    assert f"images label docker.io/a/one:1 {labels}" in said
    assert f"images tag --force docker.io/a/one:1 docker.io/a/one@{one.digest}" in said
    shared = one.manifest["layers"][0]["digest"]
    source = "containerd.io/distribution.source.docker.io"
    assert f"content label {shared} {source}=a/one,b/two" in said
    assert f"content label {two.digest} {source}=b/two" in said


def test_a_label_is_never_longer_than_containerd_takes(
    listener: Path, fake: Callable[..., Path], tmp_path: Path
) -> None:
    Containerd(listener, ctr=[str(fake())]).note_source(
        APP.digest, "docker.io", [f"{n}" * 200 for n in range(100, 140)]
    )
    key, _, value = calls(tmp_path)[0][-1].partition("=")
    assert 3000 < len(key) + len(value) <= module.SOURCE_LABEL_LIMIT


def test_an_index_that_is_not_whole_goes_apart(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    here = str(Platform.here())
    other = "linux/arm64" if here != "linux/arm64" else "linux/amd64"
    sparse = make_image(layers=[b"sparse\n"], platforms=[here, other])
    files = archive_of(
        tmp_path / "a.tar",
        {NAME: APP, "docker.io/team/sparse:1": sparse},
        without=[of_platform(sparse, other)],
    )
    results = load_into(listener, fake(), files)
    assert [result.error for result in results] == [None, None]
    imports = [call[6:] for call in calls(tmp_path) if "import" in call]
    assert imports == [["--no-unpack", "--all-platforms", "-"], ["--no-unpack", "-"]]


def test_nothing_for_this_machine(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    image = make_image(layers=[b"foreign\n"], platforms=["linux/s390x", "linux/riscv64"])
    archive = archive_of(tmp_path / "a.tar", {NAME: image}, without=[of_platform(image, "linux/s390x")])
    assert "no image for" in error_of(load_into(listener, fake(), archive))
    assert not (tmp_path / "calls").exists()


# ── which ctr, and where ─────────────────────────────────────────────────────────────────────────────────────────


def test_ctr_else_the_one_in_k3s(fake: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MORE_PLACES", (str(tmp_path / "bin"),))
    nowhere = {"PATH": str(tmp_path)}
    with pytest.raises(NoContainerd, match="neither ctr nor k3s"):
        find_ctr(nowhere)
    k3s = fake(name="k3s")
    assert find_ctr(nowhere) == (str(k3s), "ctr")
    ctr = fake(name="ctr")
    assert find_ctr(nowhere) == (str(ctr),)


def test_the_socket_of_k3s_is_taken_first(listener: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOCKET", listener)
    monkeypatch.setattr(module, "K3S_SOCKET", listener.with_name("absent"))
    assert Containerd(ctr=["ctr"]).socket == listener
    monkeypatch.setattr(module, "K3S_SOCKET", listener)
    monkeypatch.setattr(module, "SOCKET", listener.with_name("absent"))
    assert Containerd(ctr=["ctr"]).socket == listener


def test_the_command_line(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.tar", {NAME: APP})
    path = {"PATH": f"{fake().parent}{os.pathsep}{environment()['PATH']}"}
    ran = run_pierhead("load", archive, f"--containerd={listener}", "--namespace", "test", env=path)
    assert ran.out == f"{NAME}  {APP.digest}  imported\n"
    assert calls(tmp_path)[0][:4] == ["--address", str(listener), "--namespace", "test"]
    run_pierhead("load", "--containerd", f"unix://{listener}", archive, env=path)
    told = run_pierhead("load", archive, f"--containerd={tmp_path}/absent", env=path, code=3)
    assert f"no containerd listens on {tmp_path}/absent" in told.err
    refused = run_pierhead("load", archive, "--namespace", "test", "--root", tmp_path / "store", code=2)
    assert "--namespace is for containerd" in refused.err
    assert not (tmp_path / "store").exists()
    assert "--pin is for containerd" in run_pierhead("load", archive, "--pin", code=2).err
    assert "no archive is named" in run_pierhead("load", f"--containerd={listener}", code=2).err


def test_a_file_behind_the_option_is_no_socket(tmp_path: Path) -> None:
    """`--containerd images.tar` means the default socket, which is not here."""
    archive = archive_of(tmp_path / "a.tar", {NAME: APP})
    told = run_pierhead("load", "--containerd", archive, code=None)
    assert "no archive is named" not in told.err


# ── going wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_ctr_says_is_told_and_nothing_more(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    script = fake("sys.stdin.buffer.read()\nsys.exit('\\x1b[31mctr: no space left\\n\\n on\\x07 device' + 'x' * 100)")
    results = load_into(listener, script, archive_of(tmp_path / "a.tar", {NAME: APP}))
    message = error_of(results)
    assert message == f"ctr ended with 1: no space left on device{'x' * 100}"
    assert results[0].error is not None
    assert "free space" in results[0].error.hint


def test_ctr_that_ends_at_once(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    script = fake("sys.exit('ctr: failed to dial \"/run/sock\": permission denied')")
    results = load_into(listener, script, archive_of(tmp_path / "a.tar", {NAME: APP}))
    assert "permission denied" in error_of(results)
    assert results[0].error is not None
    assert "run it as root" in results[0].error.hint


def test_ctr_that_takes_nothing(
    listener: Path, fake: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.2)
    results = load_into(listener, fake("time.sleep(60)"), archive_of(tmp_path / "a.tar", {NAME: APP}))
    assert error_of(results) == "ctr took nothing for 0.2 seconds"


def test_ctr_that_does_not_end(
    listener: Path, fake: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FINISH_SECONDS", 0.5)
    script = fake("sys.stdin.buffer.read()\ntime.sleep(60)")
    results = load_into(listener, script, archive_of(tmp_path / "a.tar", {NAME: APP}))
    assert error_of(results) == "ctr was not done after 0.5 seconds"


def test_ctr_that_says_without_end(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    script = fake("sys.stdin.buffer.read()\nfor n in range(2000): sys.stderr.write('y' * 1000)\nsys.exit(3)")
    message = error_of(load_into(listener, script, archive_of(tmp_path / "a.tar", {NAME: APP})))
    assert message == f"ctr ended with 3: {'y' * 500}"


@pytest.mark.parametrize("listed", ["", f"{NAME} type sha256:{'0' * 64}"])
def test_ctr_that_did_nothing(listener: Path, fake: Callable[..., Path], tmp_path: Path, listed: str) -> None:
    script = fake(f"sys.stdin.buffer.read()\nprint('REF TYPE DIGEST')\nprint({listed!r})")
    message = error_of(load_into(listener, script, archive_of(tmp_path / "a.tar", {NAME: APP})))
    found = "has sha256:000" if listed else "does not have it"
    assert message.startswith(f"containerd took {NAME} and {found}")


def test_wrong_bytes_are_never_the_end_of_the_stream(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    """ctr is ended before its input is: it cannot take what came for all there is."""
    archive = archive_of(tmp_path / "a.tar", {NAME: APP})
    layer = max(APP.blobs.values(), key=len)
    archive.write_bytes(archive.read_bytes().replace(layer, layer[:-1] + bytes([layer[-1] ^ 1])))
    script = fake("open(home + '/began', 'w')\nsys.stdin.buffer.read()\nopen(home + '/ended', 'w')")
    assert "is not what its manifest says" in error_of(load_into(listener, script, archive))
    assert not (tmp_path / "ended").exists()


def test_ctrl_c_ends_ctr_too(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.tar", {NAME: APP})
    script = fake(
        "open(home + '/pid', 'w').write(str(os.getpid()))\nos.rename(home + '/pid', home + '/ready')\ntime.sleep(60)"
    )
    path = {"PATH": f"{script.parent}{os.pathsep}{environment()['PATH']}"}
    with start_pierhead("load", archive, f"--containerd={listener}", env=path) as running:
        eventually((tmp_path / "ready").exists, what="ctr to start")
        pid = int((tmp_path / "ready").read_text())
        assert running.signal(signal.SIGINT).code == ExitCode.INTERRUPTED
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="ctr to end")


def test_several_images_of_one_failure_are_told_once(listener: Path, fake: Callable[..., Path], tmp_path: Path) -> None:
    images = {f"docker.io/team/app-{n}:1": make_image(layers=[n]) for n in range(5)}
    script = fake("sys.stdin.buffer.read()\nsys.exit('ctr: out of luck')")
    path = {"PATH": f"{script.parent}{os.pathsep}{environment()['PATH']}"}
    ran = run_pierhead("load", archive_of(tmp_path / "a.tar", images), f"--containerd={listener}", env=path, code=6)
    assert ran.err.count("out of luck") == 1
    assert "docker.io/team/app-2:1 and 2 more: ctr ended with 1" in ran.err


def test_the_error_is_one_of_ours(listener: Path, fake: Callable[..., Path]) -> None:
    with pytest.raises(CtrFailed, match="ctr ended with 7"):
        Containerd(listener, ctr=[str(fake("sys.exit(7)"))]).images()
