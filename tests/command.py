"""The installed `pierhead` command, run as people run it: a process of its own, in an environment that holds nothing.

`run_pierhead` runs it to its end, `start_pierhead` gives it while it runs, `serve` is `pierhead serve` listening. What
a command may read of the machine (logins, proxies, certificates, a registries.yaml, a store) it is given here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from components import SYSTEM_PATH
from pierhead.layout import LayoutStore
from real import eventually

PIERHEAD: Final = Path(sys.executable).with_name("pierhead")
RUN_SECONDS: Final = 60.0
NOWHERE: Final = "/nonexistent"
_LISTENING = re.compile(r"^listening on (\S+)$", re.MULTILINE)


def environment(more: Mapping[str, str] = {}) -> dict[str, str]:
    """No home, no logins, no proxies, no certificates but the system's, no registries.yaml, and no store to spoil."""
    kept = {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    return {
        "PATH": SYSTEM_PATH,
        "LC_ALL": "C.UTF-8",
        "HOME": NOWHERE,
        "XDG_RUNTIME_DIR": NOWHERE,  # podman's logins, which root would else have in /run
        "PIERHEAD_PRIVATE_REGISTRY": os.devnull,
        "PIERHEAD_ROOT": f"{os.devnull}/store",
        **kept,
        **more,
    }


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All of it, for the message of an assertion."""
        return f"pierhead {' '.join(self.arguments)}\nended with {self.code}\n{self.out}{self.err}"

    @cached_property
    def images(self) -> list[dict[str, Any]]:
        """What `-o json` of explain, pull and images printed."""
        return list(json.loads(self.out)["images"])


def run_pierhead(
    *arguments: str | Path,
    env: Mapping[str, str] = {},
    stdin: str = "",
    code: int | None = 0,
    prefix: Sequence[str] = (),
) -> Ran:
    """Run the command to its end and expect an exit code (None: any); `prefix` is what runs it, `prlimit` say."""
    texts = tuple(map(str, arguments))
    done = subprocess.run(
        [*prefix, str(PIERHEAD), *texts],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(env),
        timeout=RUN_SECONDS,
        check=False,
    )
    ran = Ran(texts, done.returncode, done.stdout, done.stderr)
    assert code is None or ran.code == code, ran.said
    assert "Traceback" not in ran.err, ran.said
    return ran


@dataclass(frozen=True)
class Running:
    """A command that has not ended yet."""

    arguments: tuple[str, ...]
    process: subprocess.Popen[str]

    def signal(self, number: signal.Signals) -> Ran:
        """Send it a signal and wait for its end."""
        self.process.send_signal(number)
        return self.wait()

    def stand_still(self) -> None:
        """Stop it where it is, as Ctrl-Z does; a SIGKILL still ends it."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def wait(self) -> Ran:
        out, err = self.process.communicate(timeout=RUN_SECONDS)
        return Ran(self.arguments, self.process.returncode, out, err)


@contextmanager
def start_pierhead(*arguments: str | Path, env: Mapping[str, str] = {}) -> Iterator[Running]:
    """Start the command; what is left of it is killed at the end."""
    texts = tuple(map(str, arguments))
    with subprocess.Popen(
        [str(PIERHEAD), *texts],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(env),
        start_new_session=True,
    ) as process:
        try:
            yield Running(texts, process)
        finally:
            process.kill()


@dataclass(frozen=True)
class Served:
    """A `pierhead serve` that listens."""

    url: str
    root: Path
    log: Path

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.partition("://")[2]


@contextmanager
def serve(root: Path, *options: str | Path) -> Iterator[Served]:
    """`pierhead serve` over the store at `root` on a free port; ended by SIGTERM, and in order."""
    with _serving(root, "serve", "--root", root, *options) as served:
        yield served


@contextmanager
def serve_bundle(file: Path, *options: str | Path) -> Iterator[Served]:
    """`pierhead bundle serve` of an archive on a free port; ended by SIGTERM, and in order."""
    with _serving(file, "bundle", "serve", file, *options) as served:
        yield served


@contextmanager
def _serving(root: Path, *arguments: str | Path) -> Iterator[Served]:
    log = root.with_name(f"{root.name}.log")
    command = [PIERHEAD, *arguments, "--listen", "127.0.0.1:0"]
    with log.open("w") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
    try:
        url = eventually(lambda: _listening(process, log), what="pierhead serve to listen")
        yield Served(url, root, log)
        process.terminate()
        assert process.wait(RUN_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(RUN_SECONDS)
        print(log.read_text())


def _listening(process: subprocess.Popen[bytes], log: Path) -> str | None:
    assert process.poll() is None, log.read_text()
    match = _LISTENING.search(log.read_text())
    return match[1] if match else None


# ── what the command finds and leaves behind ─────────────────────────────────────────────────────────────────────


def write_registries(folder: Path, text: str) -> Path:
    """A registries.yaml with this text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "registries.yaml"
    path.write_text(text)
    return path


def stored(root: Path) -> dict[str, bytes]:
    """Every blob of a store by its digest."""
    return {
        f"{path.parent.name}:{path.name}": path.read_bytes() for path in (root / "blobs").rglob("*") if path.is_file()
    }


def names(root: Path) -> dict[str, str]:
    """What `index.json` of a store names, with the digests."""
    entries = json.loads((root / "index.json").read_bytes())["manifests"]
    return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}


def assert_sound(root: Path) -> None:
    """What the store has is whole: every blob hashed again, every name followed, as `pierhead verify` does."""
    errors = [finding for finding in LayoutStore(root).verify() if finding.is_error]
    assert not errors, errors
