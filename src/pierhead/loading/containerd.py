"""A containerd that images are imported into, through its own `ctr`, or the one inside K3s.

ctr reads the archive from a pipe that we fill, so nothing but what we wrote reaches it. Nothing is unpacked, and images
are labelled, as when K3s imports from agent/images (pkg/agent/containerd/containerd.go: preloadFile, labelImages,
retagImages, labelContent): kubelet's first container of an image unpacks it.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from pierhead.body import Buffer, Write
from pierhead.errors import ExitCode, PierheadError

NAMESPACE: Final = "k8s.io"  # where kubelet looks
K3S_SOCKET: Final = Path("/run/k3s/containerd/containerd.sock")
SOCKET: Final = Path("/run/containerd/containerd.sock")
# Beside PATH: where K3s' installer links ctr, and where RKE2 keeps it.
MORE_PLACES: Final = ("/usr/local/bin", "/var/lib/rancher/rke2/bin")
PINNED: Final = ("io.cri-containerd.pinned=pinned", "io.cattle.k3s.pinned=pinned")
SOURCE_LABEL: Final = "containerd.io/distribution.source."  # and the registry: what spegel shares content by
SOURCE_LABEL_LIMIT: Final = 4096  # bytes of a label and its value: containerd's labels/validate.go

STALL_SECONDS: Final = 120.0  # a ctr that takes nothing for so long
FINISH_SECONDS: Final = 900.0  # to take note of what it has read; containerd syncs it to the disk
CALL_SECONDS: Final = 120.0
LISTED_LIMIT_BYTES: Final = 64 * 1024 * 1024
SAID_LIMIT_BYTES: Final = 4096
_PIECE_BYTES: Final = 1024 * 1024
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]+")


class NoContainerd(PierheadError):
    """There is no containerd to import into, or no program to do it with."""

    exit_code = ExitCode.NOT_FOUND


class CtrFailed(PierheadError):
    """ctr did not do what it was called for; the message has what it said."""


class Containerd:
    """The containerd behind `socket`, one of its namespaces. Raises `NoContainerd` if there is no such thing."""

    def __init__(self, socket: Path | None = None, namespace: str = NAMESPACE, *, ctr: Sequence[str] = ()) -> None:
        self.socket = socket or (K3S_SOCKET if K3S_SOCKET.exists() else SOCKET)
        self.namespace = namespace
        if not is_socket(self.socket):
            raise NoContainerd(
                f"no containerd listens on {self.socket}",
                hint="start K3s or containerd, or give the path of its socket: --containerd=SOCKET; it takes root",
            )
        self._ctr = tuple(ctr) or find_ctr()

    def images(self) -> dict[str, str]:
        """The digests of its images, by name."""
        lines = self._call("images", "list").splitlines()[1:]
        rows = [line.split(maxsplit=3) for line in lines]
        return {row[0]: row[2] for row in rows if len(row) > 2}

    def feed(self, write_archive: Callable[[Write], object], *, all_platforms: bool) -> None:
        """Import the archive that `write_archive` writes, of every platform or of this machine's alone.

        If writing fails, containerd is told of none of its images. Raises what writing raises, and `CtrFailed`.
        """
        # As K3s: nothing is unpacked, and all platforms are kept.
        options = ["--no-unpack", *(["--all-platforms"] if all_platforms else [])]
        with _Run(self._command("images", "import", *options, "-"), stdin=subprocess.PIPE) as run:
            try:
                write_archive(run.write)
            except _Ended:
                pass  # how, it is about to say
            except BaseException:
                run.kill()  # before the pipe is closed: what ends between two members looks whole to it
                raise
            run.finish(FINISH_SECONDS)

    def pin(self, name: str) -> None:
        """Keep kubelet from removing an image to free space."""
        self._call("images", "label", name, *PINNED)

    def add_name(self, name: str, more: str) -> None:
        """Give an image one more name, with the labels it has; what had it before loses it."""
        self._call("images", "tag", "--force", name, more)

    def note_source(self, digest: str, registry: str, repositories: Iterable[str]) -> None:
        """Say of content where it comes from, as if it had been pulled (containerd's distribution.source labels)."""
        key, value = f"{SOURCE_LABEL}{registry}", ""
        for repository in sorted(set(repositories)):
            longer = f"{value},{repository}" if value else repository
            if len(key) + len(longer) <= SOURCE_LABEL_LIMIT:
                value = longer
        self._call("content", "label", digest, f"{key}={value}")

    def _call(self, *arguments: str) -> str:
        """What ctr prints."""
        with _Run(self._command(*arguments), stdin=subprocess.DEVNULL) as run:
            return run.read(CALL_SECONDS)

    def _command(self, *arguments: str) -> list[str]:
        return [*self._ctr, "--address", str(self.socket), "--namespace", self.namespace, *arguments]


def is_socket(path: Path) -> bool:
    """Whether something could listen there."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def find_ctr(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The program to call: ctr, else the one inside k3s; raises `NoContainerd`."""
    path = os.pathsep.join(((environment or os.environ).get("PATH", os.defpath), *MORE_PLACES))
    if ctr := shutil.which("ctr", path=path):
        return (ctr,)
    if k3s := shutil.which("k3s", path=path):
        return (k3s, "ctr")
    raise NoContainerd(
        "neither ctr nor k3s is installed here", hint="put containerd's ctr, or k3s, where PATH leads, and run it again"
    )


class _Ended(Exception):
    """ctr ended before it had read everything."""


class _Run:
    """One run of ctr, ended with the context. What it says is read as it comes, and the end of it kept."""

    def __init__(self, command: Sequence[str], *, stdin: int) -> None:
        self._name = " ".join([Path(command[0]).name, *command[1:2]]) if command[1] == "ctr" else Path(command[0]).name
        self._command = command
        self._stdin = stdin
        self._said = bytearray()

    def __enter__(self) -> _Run:
        # In a session of its own: Ctrl-C is ours to answer, by ending it in order.
        self._process = subprocess.Popen(
            self._command, stdin=self._stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if self._process.stdin:
            os.set_blocking(self._process.stdin.fileno(), False)
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._process.wait()
        self._listener.join(1.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                with suppress(OSError):
                    stream.close()

    def write(self, data: Buffer) -> int:
        """Give it all of `data`; raises `_Ended`, and `CtrFailed` if it takes nothing more."""
        assert self._process.stdin is not None
        descriptor, view = self._process.stdin.fileno(), memoryview(data)
        waiting = select.poll()
        waiting.register(descriptor, select.POLLOUT)
        while view:
            if not waiting.poll(STALL_SECONDS * 1000):
                raise self._failed(f"took nothing for {STALL_SECONDS:g} seconds")
            try:
                view = view[os.write(descriptor, view[:_PIECE_BYTES]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise _Ended from None
        return len(data)

    def finish(self, seconds: float) -> None:
        """Say that this was all, and wait until it is done; raises `CtrFailed`."""
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self.read(seconds)

    def read(self, seconds: float) -> str:
        """What it prints until it ends; raises `CtrFailed`."""
        deadline = threading.Timer(seconds, self.kill)
        started = time.monotonic()
        deadline.start()
        try:
            assert self._process.stdout is not None
            printed = _read_end(self._process.stdout)
            code = self._process.wait()
        finally:
            deadline.cancel()
        self._listener.join(1.0)
        if code and time.monotonic() - started >= seconds:
            raise self._failed(f"was not done after {seconds:g} seconds")
        if code:
            raise self._failed(f"ended with {code}")
        return printed.decode(errors="replace")

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with suppress(OSError, ValueError):  # closed under us
            while piece := self._process.stderr.read1(SAID_LIMIT_BYTES):  # type: ignore[attr-defined]  # it is buffered
                self._said += piece
                del self._said[:-SAID_LIMIT_BYTES]

    def _failed(self, what: str) -> CtrFailed:
        words = _CONTROL.sub(" ", self._said.decode(errors="replace")).split()
        said = " ".join(words).removeprefix("ctr: ")
        return CtrFailed(f"{self._name} {what}" + (f": {said[-500:]}" if said else ""), hint=_remedy(said))


def _remedy(said: str) -> str:
    if "permission denied" in said:
        return "containerd's socket is for root alone: run it as root"
    if "failed to dial" in said or "connection refused" in said:
        return "containerd does not answer: is it running, and is --containerd its socket?"
    if "no space left" in said:
        return "free space where containerd keeps its content, and run it again"
    return "containerd's own log says more: journalctl -u k3s, or -u containerd"


def _read_end(stream: IO[bytes]) -> bytes:
    """All of it; what is over the limit is read and left out, so that the program can end."""
    kept = stream.read(LISTED_LIMIT_BYTES)
    while stream.read(_PIECE_BYTES):
        pass
    return kept
