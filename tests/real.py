"""The real programs, run for tests: on free ports of the loopback, ready when entered, ended when left.

A test that uses one bears `@pytest.mark.real("docker-registry", …)`. What a program said is printed when it ends, so
that pytest shows it beside a failure.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import bcrypt
import yaml

from components import SYSTEM_PATH, program
from pki import Pki
from tokens import ISSUER, SERVICE, TokenServer

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
RUN_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.01
SHOWN_LOG_BYTES: Final = 6 * 1024
# Little of the machine's own environment, so that neither its proxies, its certificates nor its logins take part.
KEPT_VARIABLES: Final = ("TMPDIR",)

T = TypeVar("T")

_LISTENING = re.compile(rb"listening on 127\.0\.0\.1:(\d+)")
_ACCESS = re.compile(
    r'^\S+ - \S+ \[[^]]*\] "(?P<method>[A-Z]+) (?P<uri>\S+) \S+" (?P<status>\d+) (?P<size>\d+) '
    r'"[^"]*" "(?P<agent>[^"]*)"$',
    re.MULTILINE,
)


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a real program: the way to other programs, a home of its own, and what is given here."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {"PATH": SYSTEM_PATH, "HOME": str(home), "LC_ALL": "C.UTF-8", **kept, **more}


def eventually(look: Callable[[], T | None], *, what: str, seconds: float = READY_SECONDS) -> T:
    """What `look` gives as soon as it is something; raises `TimeoutError` naming `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(POLL_SECONDS)
    return found


class RealProgram:
    """A program that runs until the `with` is left, what it says going to a file."""

    def __init__(self, arguments: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self._arguments = [str(argument) for argument in arguments]
        self._environment = environment
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is not ready yet."""
        path = program(self._arguments[0])
        assert path is not None, f"{self._arguments[0]} is not installed"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [path, *self._arguments[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self._environment),
                start_new_session=True,  # an interrupted pytest ends it in order
            )

    def wait_until(self, look: Callable[[], T | None], *, what: str) -> T:
        """As `eventually`, but a program that ended is not waited for; what it said is part of the error."""
        process = self._process
        assert process is not None

        def look_while_it_runs() -> T | None:
            if process.poll() is not None:
                raise ChildProcessError(f"{self._arguments[0]} ended with {process.returncode}")
            return look()

        try:
            return eventually(look_while_it_runs, what=what)
        except (TimeoutError, ChildProcessError) as error:
            error.add_note(self.said())
            raise

    def said(self) -> str:
        """The end of what it has said."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - SHOWN_LOG_BYTES))
            return f"── {' '.join(self._arguments)}\n{log.read().decode(errors='replace')}"

    def read_bytes(self) -> int:
        """What it has read since it runs, from sockets and files (proc(5), rchar)."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Ask it to end; if it does not, make it and its session end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
        print(self.said())


def run(arguments: Sequence[str | Path], environment: Mapping[str, str]) -> str:
    """Run one of the real programs to its end and give what it printed; raises `AssertionError` with all it said."""
    name, *rest = (str(argument) for argument in arguments)
    path = program(name)
    assert path is not None, f"{name} is not installed"
    done = subprocess.run(
        [path, *rest], capture_output=True, text=True, env=dict(environment), timeout=RUN_SECONDS, check=False
    )
    assert done.returncode == 0, f"{name} {' '.join(rest)}\nended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


# ── docker-registry ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Served:
    """One line of the registry's access log."""

    method: str
    uri: str
    status: int
    size_bytes: int
    agent: str


class DockerRegistry:
    """Docker's registry: plain, or with TLS, Basic users, client certificates (`client_ca`) or bearer tokens.

    Entered again, it is back at the same address with the same content.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: Pki | None = None,
        htpasswd: tuple[str, str] | None = None,
        client_ca: str | None = None,
        token: TokenServer | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.tls, self.htpasswd = folder, tls, htpasswd
        self._client_ca, self._token = client_ca, token
        self._program = RealProgram(
            ("docker-registry", "serve", folder / "registry.yml"), folder / "registry.log", clean_environment(folder)
        )
        self._forgotten = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._forgotten = 0
        (self.folder / "registry.yml").write_text(yaml.safe_dump(self._configuration()))
        with contextlib.ExitStack() as undo:
            undo.callback(self._program.stop)
            self._program.start()
            self.port = self._program.wait_until(self._listening, what="docker-registry to listen")
            undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._program.stop()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where its API is, without the /v2."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    @property
    def data(self) -> Path:
        """Where it keeps its content (`docker/registry/v2/…`)."""
        return self.folder / "data"

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does; enter it again for it to be back."""
        self._program.kill()

    def requests(self, at_least: int = 0) -> list[Served]:
        """What it has answered since the last `forget`, in order.

        An answer can reach the client before it is in the log: say how many lines there must be at least.
        """
        eventually(lambda: len(self._served()) >= at_least, what=f"{at_least} requests")
        return self._served()

    def forget(self) -> None:
        """Leave out of `requests` what was answered up to now."""
        self._forgotten += len(self._served())

    def read_bytes(self) -> int:
        """What it has read since it was entered: hardly more than what was sent to it."""
        return self._program.read_bytes()

    def skopeo_options(self, side: Literal["src", "dest"]) -> list[str]:
        """What `skopeo copy` must be told to use this registry as its source or destination."""
        options = [] if self.tls else [f"--{side}-tls-verify=false"]
        if self.tls:
            options += [f"--{side}-cert-dir", str(_certificates(self.folder / "certificates", self.tls))]
        if self.htpasswd:
            options += [f"--{side}-creds", ":".join(self.htpasswd)]
        return options

    def _listening(self) -> int | None:
        match = _LISTENING.search(self._program.log.read_bytes())
        return int(match[1]) if match else None

    def _served(self) -> list[Served]:
        text = self._program.log.read_text(errors="replace")
        lines = [
            Served(line["method"], line["uri"], int(line["status"]), int(line["size"]), line["agent"])
            for line in _ACCESS.finditer(text)
        ]
        return lines[self._forgotten :]

    def _configuration(self) -> dict[str, Any]:
        return {
            "version": "0.1",
            "log": {"level": "info"},  # or it would not say where it listens
            "storage": {"filesystem": {"rootdirectory": str(self.data)}, "delete": {"enabled": True}},
            # With a secret of its own an upload survives that it is started again.
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "of these tests", **self._tls_configuration()},
            **self._auth_configuration(),
        }

    def _tls_configuration(self) -> dict[str, Any]:
        if self.tls is None:
            return {}
        tls: dict[str, Any] = {"certificate": self.tls.server.cert, "key": self.tls.server.key}
        if self._client_ca:
            tls["clientcas"] = [self._client_ca]
        return {"tls": tls}

    def _auth_configuration(self) -> dict[str, Any]:
        if self.htpasswd:
            path = self.folder / "htpasswd"
            user, password = self.htpasswd
            path.write_text(f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n")
            return {"auth": {"htpasswd": {"realm": "pierhead", "path": str(path)}}}
        if self._token:
            names = {"realm": self._token.url, "service": SERVICE, "issuer": ISSUER}
            return {"auth": {"token": {**names, "rootcertbundle": str(self._token.certificate)}}}
        return {}


def _certificates(folder: Path, pki: Pki) -> Path:
    """A folder as docker, podman and skopeo want it: ca.crt, client.cert, client.key."""
    folder.mkdir(exist_ok=True)
    for name, source in {"ca.crt": pki.ca, "client.cert": pki.client.cert, "client.key": pki.client.key}.items():
        shutil.copyfile(source, folder / name)
    return folder


# ── skopeo ───────────────────────────────────────────────────────────────────────────────────────────────────────


def skopeo(*arguments: str | Path, home: Path) -> str:
    """Run skopeo with these arguments and a home of its own; what it printed."""
    return run(("skopeo", "--insecure-policy", *arguments), clean_environment(home))


def push(source: str, registry: DockerRegistry, name: str, *options: str) -> None:
    """Copy with skopeo what `source` names (`oci:FOLDER:TAG`, `dir:FOLDER`) into a registry, all platforms of it."""
    target = f"docker://{registry.address}/{name}"
    _copy(source, target, *registry.skopeo_options("dest"), *options, home=registry.folder)


def pull(registry: DockerRegistry, name: str, target: str, *options: str) -> None:
    """Copy with skopeo what a registry has under `name` to where `target` says, all platforms of it."""
    source = f"docker://{registry.address}/{name}"
    _copy(source, target, *registry.skopeo_options("src"), *options, home=registry.folder)


def _copy(source: str, target: str, *options: str, home: Path) -> None:
    # Without --preserve-digests it compresses layers that are not compressed.
    skopeo("copy", "--quiet", "--all", "--preserve-digests", *options, source, target, home=home)


# ── containerd ───────────────────────────────────────────────────────────────────────────────────────────────────

_CONTAINERD = """\
version = 2
root = "{folder}/root"
state = "{short}/state"
[grpc]
  address = "{short}/sock"
[ttrpc]
  address = "{short}/sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/certs.d"
"""


class Containerd:
    """A containerd of its own, for root: `certs_d` is where it looks for hosts.toml, `ctr` speaks to it.

    `more` is what its config.toml says besides.
    """

    def __init__(self, folder: Path, namespace: str = "k8s.io", *, more: str = "") -> None:
        self.folder, self.namespace, self._more = folder, namespace, more
        self.certs_d = folder / "certs.d"
        self.certs_d.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as leaving:
            # A socket's path has at most 107 bytes, and pytest's folders are long.
            self._short = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="ctd")))
            configuration = self.folder / "config.toml"
            configuration.write_text(_CONTAINERD.format(folder=self.folder, short=self._short) + self._more)
            self._program = RealProgram(
                ("containerd", "--config", configuration), self.folder / "containerd.log", self._environment()
            )
            leaving.callback(self._unmount)
            leaving.callback(self._program.stop)
            self._program.start()
            self._program.wait_until(self._answers, what="containerd to answer")
            self._leaving = leaving.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leaving.close()

    @property
    def socket(self) -> Path:
        """Where its API is, the CRI's too."""
        return self._short / "sock"

    def ctr(self, *arguments: str | Path) -> str:
        """Run ctr against it in its namespace; what it printed."""
        own = ("ctr", "--address", self.socket, "--namespace", self.namespace)
        return run((*own, *arguments), self._environment())

    def pull(self, name: str, *options: str) -> str:
        """Pull an image by the hosts.toml files of `certs_d`; what ctr printed."""
        return self.ctr("images", "pull", "--hosts-dir", self.certs_d, *options, name)

    def images(self) -> dict[str, str]:
        """The digests of the images it has, by name; the CRI's second name for each, its image id, is left out."""
        rows = [line.split() for line in self.ctr("images", "list").splitlines()[1:]]
        return {row[0]: row[2] for row in rows if not row[0].startswith("sha256:")}

    def said(self) -> str:
        """The end of its log."""
        return self._program.said()

    def _environment(self) -> dict[str, str]:
        return clean_environment(self.folder)

    def _answers(self) -> bool:
        """Whether it takes calls: the socket is there before, but everything behind it is loaded with it."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0 and b"containerd successfully booted" in self._log()

    def _log(self) -> bytes:
        return self._program.log.read_bytes()

    def _unmount(self) -> None:
        """Take away what an interrupted unpacking or container has left mounted."""
        for point in _mounts_below(self.folder, self._short):
            subprocess.run(["umount", "--lazy", point], check=False, timeout=STOP_SECONDS)


def _mounts_below(*folders: Path) -> Iterator[str]:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(points):
        if any(point.startswith(f"{folder}/") for folder in folders):
            yield point
