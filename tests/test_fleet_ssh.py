"""Nodes over ssh: the script runs for real in the shells that nodes have, only the wire is a program of ours.

The fake ssh finds a host's root file system as a folder and runs the shell there with the script that it gets, as ssh
would on the host.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import time
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command import Ran, run_pierhead
from components import program
from pierhead.fleet.collected import FILE_LIMIT_BYTES, FILES_LIMIT, Collected
from pierhead.fleet.ssh import InvalidHost, NodeFailed, Ssh, known_options, script, valid_host
from pierhead.fleet.stream import InvalidStream, read_stream
from pki import make_pki
from test_fleet import CERTS, REGISTRIES, TEXT, plant

FAKE_SSH = """\
#!/bin/sh
echo "$@" >>"$FAKE_LOG"
while [ "$1" != -- ]; do shift; done
case $2 in
dead) echo 'ssh: connect to host dead port 22: Connection refused' >&2; exit 255 ;;
slow) exec sleep 100 ;;
mute) cat >/dev/null; exit 0 ;;
endless) exec tr '\\0' 'x' </dev/zero ;;
noisy) echo 'Welcome to this node'; echo 'warning: motd' >&2 ;;
cut) sh -s "$FAKE_NODES/server1" | head -n 5; exit 0 ;;
esac
case $3 in sudo*) echo 'sudo: a password is required' >&2; exit 1 ;; esac
exec $FAKE_SHELL -s "$FAKE_NODES/$2"
"""


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the root file systems of hosts, which the fake ssh first on PATH goes to."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(FAKE_SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_NODES", str(tmp_path / "hosts"))
    monkeypatch.setenv("FAKE_SHELL", "sh")
    return tmp_path / "hosts"


def node(folder: Path, text: str = TEXT, version: str = "v1.31.4+k3s1") -> Path:
    """The root of a node with K3s on it: a program that tells its version, a unit, a config.yaml."""
    plant(folder, text, version)
    (folder / "k3s-version").unlink()
    (folder / "usr/local/bin").mkdir(parents=True)
    (folder / "usr/local/bin/k3s").write_text(f"#!/bin/sh\necho 'k3s version {version} (a562d090)'\necho go\n")
    (folder / "usr/local/bin/k3s").chmod(0o755)
    (folder / "etc/systemd/system").mkdir(parents=True)
    (folder / "etc/systemd/system/k3s.service").write_text(
        "[Service]\nEnvironment=K3S_TOKEN=planted-token\nExecStart=/usr/local/bin/k3s \\\n    server \\\n"
        "\t'--token' \\\n\t'planted-token' \\\n\t'--embedded-registry' \\\n"
    )
    (folder / "etc/rancher/k3s/config.yaml").write_text('token: planted-token\n"embedded-registry": true\n')
    return folder


def run_script(shell: list[str], root: Path, path: str | None = None) -> bytes:
    env = {"PATH": path or os.environ["PATH"]}
    done = subprocess.run([*shell, "-s", str(root)], input=script(), capture_output=True, timeout=30, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout


def busybox(tmp_path: Path) -> str:
    """A PATH on which every program is busybox."""
    folder = tmp_path / "applets"
    folder.mkdir()
    subprocess.run([str(program("busybox")), "--install", "-s", str(folder)], check=True)
    return str(folder)


SHELLS = [
    pytest.param(["/bin/sh"], id="sh"),
    pytest.param(["bash"], id="bash"),
    pytest.param(["bash", "--posix"], id="posix"),
    pytest.param([program("busybox") or "busybox", "sh"], id="busybox", marks=pytest.mark.real("busybox")),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_sends_what_is_wanted_and_nothing_else(shell: list[str], tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    names = TEXT.replace(
        "ca_file: /etc/pki/ca.pem", "{ca_file: '/etc/pki/my ca.pem', cert_file: \"/etc/pki/pair.pem\"}"
    )
    text = names.replace("tls:\n      {", "tls: {").replace("\n      insecure_skip_verify: true\n", "\n")
    root = node(tmp_path / "root", TEXT)
    (root / REGISTRIES[1:]).write_text(text)
    (root / "etc/pki").mkdir()
    ca, pair = Path(pki.ca).read_bytes(), Path(pki.client.cert).read_bytes()
    (root / "etc/pki/my ca.pem").write_bytes(b"# ours\n" + ca)
    (root / "etc/pki/pair.pem").write_bytes(pair + Path(pki.client.key).read_bytes())
    odd = root / CERTS[1:] / "odd\nname [1]"
    odd.mkdir()
    (odd / "hosts.toml").write_bytes(b"\x00\xff binary\r\n")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    out = run_script(shell, root, busybox(tmp_path) if shell[-1] == "sh" and len(shell) > 1 else None)

    collected = read_stream(out, "a", "test")
    assert collected.files[REGISTRIES] == text.encode()
    assert collected.files["k3s-version"] == b"k3s version v1.31.4+k3s1 (a562d090)\n"
    assert collected.settings == {"embedded-registry": ""}
    assert collected.files["/etc/pki/my ca.pem"] == ca
    assert collected.files["/etc/pki/pair.pem"] == pair
    assert collected.files[f"{CERTS}/odd\nname [1]/hosts.toml"] == b"\x00\xff binary\r\n"
    assert collected.files[f"{CERTS}/docker.io/hosts.toml"] == (root / CERTS[1:] / "docker.io/hosts.toml").read_bytes()
    everything = b"".join(collected.files.values())
    assert b"planted-token" not in everything
    assert b"PRIVATE KEY" not in everything
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_says_what_is_not_there(shell: list[str], tmp_path: Path) -> None:
    applets = busybox(tmp_path) if shell[-1] == "sh" and len(shell) > 1 else None
    (tmp_path / "empty").mkdir()
    found = read_stream(run_script(shell, tmp_path / "empty", applets), "a", "test")
    assert not found.files
    assert found.missing == {REGISTRIES, CERTS}
    root = node(tmp_path / "rke2")
    for folder in ("etc/rancher", "var/lib/rancher"):
        (root / folder / "k3s").rename(root / folder / "rke2")
    (root / "etc/rancher/rke2/config.yaml").write_text("private-registry: '/etc/my registries.yaml'\ndata-dir: /data\n")
    (root / "etc/my registries.yaml").write_text(TEXT)
    (root / "data/agent/etc/containerd/certs.d/x").mkdir(parents=True)
    (root / "data/agent/etc/containerd/certs.d/x/hosts.toml").write_text("server = 'x'\n")
    found = read_stream(run_script(shell, root, applets), "a", "test")
    assert found.program == "rke2"
    assert found.files["/etc/my registries.yaml"] == TEXT.encode()
    assert "/data/agent/etc/containerd/certs.d/x/hosts.toml" in found.files
    assert found.missing == {"/etc/pki/ca.pem"}


def test_what_a_user_may_not_read_is_not_called_missing(tmp_path: Path) -> None:
    """As nobody if we are root, who may read everything."""
    root = node(tmp_path / "root")
    closed = (root / REGISTRIES[1:], root / "var/lib/rancher/k3s/agent")
    for above in (*tmp_path.parents[:2], tmp_path):
        above.chmod(0o755)
    for path in closed:
        path.chmod(0)
    nobody = 65534 if os.geteuid() == 0 else None
    try:
        sent = subprocess.run(
            ["sh", "-s", str(root)], input=script(), stdout=subprocess.PIPE, timeout=30, check=True, user=nobody
        )
    finally:
        for path in closed:
            path.chmod(0o700)
    assert read_stream(sent.stdout, "a", "test").unreadable == {REGISTRIES, CERTS}


# -- the command ------------------------------------------------------------------------------------------------------


def fleet(*arguments: str | Path, code: int) -> Ran:
    names = ("PATH", "FAKE_LOG", "FAKE_NODES", "FAKE_SHELL")
    return run_pierhead(
        "fleet", "check", "--ssh", *arguments, code=code, env={name: os.environ[name] for name in names}
    )


def test_a_fleet_over_ssh(hosts: Path, tmp_path: Path) -> None:
    for name in ("server1", "worker1", "worker3"):
        node(hosts / name)
    odd = TEXT.replace("      insecure_skip_verify: true\n", "")
    (hosts / "worker3" / REGISTRIES[1:]).write_text(odd)
    (tmp_path / "nodes.txt").write_text("server1\nw1 worker1\n# gone\nroot@worker3 worker3\n")
    ran = fleet("--nodes", tmp_path / "nodes.txt", "--ssh-option", "Port=2222", code=1)
    assert "root@worker3 lacks insecure_skip_verify for reg.lan:5000 (line 15 on the others)" in ran.out
    assert "root@worker3: certs.d/reg.lan:5000/hosts.toml differs in verification from" in ran.out
    assert "planted" not in ran.said
    options = "-o Port=2222 -o BatchMode=yes -o ConnectTimeout=10 -o LogLevel=ERROR"
    assert f"-T {options} -- worker1 sh -s\n" in (tmp_path / "log").read_text()


def test_hosts_can_be_named_on_the_command_line(hosts: Path) -> None:
    node(hosts / "server1")
    node(hosts / "noisy")
    assert fleet("server1", "noisy", code=0).out.endswith("2 nodes, no difference\n")


def test_hosts_that_do_not_answer_are_told_with_what_ssh_said(hosts: Path) -> None:
    node(hosts / "server1")
    ran = fleet("server1", "dead", "mute", "cut", "-o", "json", code=6)
    errors = {each["name"]: each["error"] for each in json.loads(ran.out)["nodes"]}
    assert errors == {
        "server1": None,
        "dead": "ssh: connect to host dead port 22: Connection refused",
        "mute": "it sent nothing that begins as its files do",
        "cut": "what it sent is cut off",
    }
    assert "no answer  dead: ssh: connect" in fleet("dead", code=5).out
    assert "sudo: a password is required" in fleet("server1", "--sudo", code=5).out


def test_a_host_that_hangs_and_one_that_never_ends_are_given_up(hosts: Path) -> None:
    start = time.monotonic()
    assert "no answer within 0.3 seconds" in fleet("slow", "--timeout", "0.3", code=5).out
    with pytest.raises(NodeFailed, match="it sent more than"):
        Ssh(answer_seconds=60).collect("endless", "endless")
    assert time.monotonic() - start < 30


def test_no_process_is_left_behind(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*arguments: object, **named: object) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **named))  # type: ignore[call-overload]  # passed on as they are
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(NodeFailed):
        Ssh(answer_seconds=0.2).collect("slow", "slow")
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_without_ssh_on_the_machine_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NodeFailed, match="cannot run ssh"):
        Ssh().collect("server1", "server1")


@pytest.mark.real("sshd", "ssh-keygen")
def test_a_real_sshd_and_the_real_ssh(tmp_path: Path) -> None:
    """sshd as inetd would start it, over the standard streams of a ProxyCommand: no port, no server that stays."""
    root = node(tmp_path / "root")
    for name in ("host", "user"):
        command = [str(program("ssh-keygen")), "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True, timeout=30)
    (tmp_path / "known").write_text(f"server1 {(tmp_path / 'host.pub').read_text()}")
    (tmp_path / "sshd_config").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin yes\nForceCommand echo Welcome; sh -s {root}\nPidFile none\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists
    options = (
        f"ProxyCommand={program('sshd')} -i -f {tmp_path}/sshd_config",
        f"IdentityFile={tmp_path}/user",
        f"UserKnownHostsFile={tmp_path}/known",
        f"User={getpass.getuser()}",
    )
    collected = Ssh(known_options(options)).collect("server1", "server1")
    assert collected.files[REGISTRIES] == TEXT.encode()
    assert collected.files["k3s-version"].startswith(b"k3s version v1.31.4+k3s1")
    with pytest.raises(NodeFailed, match="Host key verification failed"):
        Ssh(known_options(options)).collect("stranger", "stranger")


@pytest.mark.parametrize(
    "host", ["worker1", "root@worker-3.lan", "10.0.0.7", "k3s_admin@fd00::1", "fe80::1%eth0", "_x"]
)
def test_names_that_ssh_may_get(host: str) -> None:
    assert Ssh().command(valid_host(host))[-2:] == [host, "sh -s"]


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand=id",
        "root@-oProxyCommand=id",
        "-l",
        "a b",
        "a;id",
        "$(id)",
        "a\nb",
        "",
        "a/b",
        "ssh://a",
        "`x`",
        "é",
    ],
)
def test_names_that_ssh_never_gets(host: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidHost):
        Ssh().command(host)


def test_a_list_with_a_hostile_name_is_refused_as_a_whole(hosts: Path, tmp_path: Path) -> None:
    (tmp_path / "nodes.txt").write_text("server1\n-oProxyCommand=id\n")
    assert "nodes.txt:2: '-oProxyCommand=id' is no host name" in fleet("--nodes", tmp_path / "nodes.txt", code=2).err
    assert not (tmp_path / "log").exists()


def test_options_are_those_of_ssh() -> None:
    assert known_options(["Port=22", "User root"]) == ("Port=22", "User root")
    assert "is no option of ssh" in fleet_error("-F/etc/passwd")


def fleet_error(option: str) -> str:
    return run_pierhead("fleet", "check", "--ssh", "a", f"--ssh-option={option}", code=2).err


# -- what a hostile node may send -------------------------------------------------------------------------------------


def encoded(data: bytes) -> bytes:
    return b64encode(data)


def stream(*lines: bytes) -> bytes:
    return b"\n".join((b"pierhead-node 1", *lines, b"end", b""))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"pierhead-node 1\n",
        b"pierhead-node 2\nend\n",
        stream(b"file " + encoded(b"/x"), b"AAAA"),
        stream(b"file ???", b"AAAA", b"."),
        stream(b"file ", b"."),
        stream(b"file " + encoded(b"/x"), b"not base64!", b"."),
        stream(b"file " + encoded(b"x" * 5000), b"."),
        stream(b"exec " + encoded(b"/bin/sh")),
        stream(b"file " + encoded(b"/x"), encoded(bytes(FILE_LIMIT_BYTES + 1)), b"."),
        stream(*(b"missing " + encoded(b"%d" % number) for number in range(FILES_LIMIT + 1))),
    ],
)
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidStream):
        read_stream(data, "a", "test")


def test_a_path_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [b"../../evil", b"/etc/passwd", b"a\nb", b"\xff\xfe", b"-rf"]
    data = stream(*(line for path in paths for line in (b"file " + encoded(path), encoded(b"x"), b".")))
    assert len(read_stream(data, "a", "test").files) == len(paths)
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"file L3g=", b".", b"eA==", b"missing L3k="]))))
def test_whatever_is_sent_gives_files_or_a_refusal(lines: list[bytes]) -> None:
    with suppress(InvalidStream):
        assert isinstance(read_stream(stream(*lines), "a", "test"), Collected)
