"""The files of a node over ssh: the program itself, one command on the node, and everything in memory.

collect.sh goes in by standard input; what it sends comes back. Host names are checked before they are arguments, as
ssh would take `-oProxyCommand=…` for an option.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import IO, Final

from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.fleet.collected import NODE_LIMIT_BYTES, Collected
from pierhead.fleet.stream import InvalidStream, read_stream

HOST: Final = re.compile(
    r"(?:[A-Za-z0-9_][\w.+-]*@)?(?:[A-Za-z0-9_][\w.-]*|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?)", re.ASCII
)
HOST_LIMIT_CHARS: Final = 255
_STREAM_LIMIT_BYTES: Final = NODE_LIMIT_BYTES * 4 // 3  # in base64
_STDERR_LIMIT_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 1 << 16
_SAID_CHARS: Final = 200
_SSH_FAILED: Final = 255


class InvalidHost(UsageError):
    """A text that ssh is not to be called with."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text[:HOST_LIMIT_CHARS]!a} is no host name for ssh",
            hint="write host, user@host or an address; ports and the rest belong into ~/.ssh/config or --ssh-option",
        )


class NodeFailed(PierheadError):
    """ssh, or the node, did not give the files."""

    exit_code = ExitCode.NETWORK


@dataclass(frozen=True, slots=True)
class Ssh:
    """How ssh is called. `options` are those of `ssh -o`; `sudo`: the node's files are read by root through sudo -n."""

    options: tuple[str, ...] = ()
    sudo: bool = False
    connect_seconds: int = 10
    answer_seconds: float = 60.0

    def command(self, host: str) -> list[str]:
        """The arguments; raises `InvalidHost`."""
        fixed = ("BatchMode=yes", f"ConnectTimeout={self.connect_seconds}", "LogLevel=ERROR")
        options = [word for option in (*self.options, *fixed) for word in ("-o", option)]  # the first one counts
        remote = "sudo -n sh -s" if self.sudo else "sh -s"
        return ["ssh", "-T", *options, "--", valid_host(host), remote]

    def collect(self, host: str, name: str) -> Collected:
        """The files of a node; raises `InvalidHost`, `NodeFailed`."""
        command = self.command(host)
        try:
            # Not a session of its own: Ctrl-C ends it with us.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise NodeFailed(f"cannot run ssh: {error.strerror}", hint="install OpenSSH's client") from None
        with process:
            try:
                out, err = _Talk(process, self.answer_seconds).run()
            finally:
                process.kill()
        if process.returncode != 0:
            raise NodeFailed(_said(err, process.returncode))
        try:
            return read_stream(out, name, f"ssh {host}")
        except InvalidStream as error:
            raise NodeFailed(error.message) from None


def valid_host(text: str) -> str:
    """`text` if it is host or user@host; raises `InvalidHost`."""
    if len(text) > HOST_LIMIT_CHARS or not HOST.fullmatch(text):
        raise InvalidHost(text)
    return text


def script() -> bytes:
    """collect.sh."""
    return files("pierhead.fleet").joinpath("collect.sh").read_bytes()


class _Talk:
    """The script in, two streams out, with limits on time and size."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process = process
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._left = memoryview(script())
        self._out = bytearray()
        self._err = bytearray()

    def run(self) -> tuple[bytes, bytes]:
        """Everything it wrote, when it has ended; raises `NodeFailed`."""
        process = self._process
        assert process.stdin
        assert process.stdout
        assert process.stderr
        with selectors.DefaultSelector() as selector:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while len(selector.get_map()):
                ready = selector.select(self._left_seconds())
                for key, _ in ready:
                    if not self._serve(key.fileobj):  # type: ignore[arg-type]  # it is what was registered
                        selector.unregister(key.fileobj)
        try:
            process.wait(self._left_seconds())
        except subprocess.TimeoutExpired:
            self._left_seconds()
        return bytes(self._out), bytes(self._err)

    def _left_seconds(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise NodeFailed(f"no answer within {self._seconds:g} seconds", hint="give it more time with --timeout")
        return left

    def _serve(self, stream: IO[bytes]) -> bool:
        """Move what can be moved; False if this stream has ended."""
        if stream is self._process.stdin:
            return self._write(stream)
        piece = os.read(stream.fileno(), _PIECE_BYTES)
        if stream is self._process.stderr:
            self._err = (self._err + piece)[-_STDERR_LIMIT_BYTES:]
            return bool(piece)
        self._out += piece
        if len(self._out) > _STREAM_LIMIT_BYTES:
            raise NodeFailed(f"it sent more than {_STREAM_LIMIT_BYTES} bytes")
        return bool(piece)

    def _write(self, stream: IO[bytes]) -> bool:
        try:
            self._left = self._left[os.write(stream.fileno(), self._left[:_PIECE_BYTES]) :]
        except BlockingIOError:
            return True
        except OSError:  # ssh has ended already, and says why
            self._left = self._left[:0]
        if not self._left:
            stream.close()
            return False
        return True


def _said(err: bytes, code: int) -> str:
    """The last line that ssh or the node wrote."""
    lines = [line.strip() for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        return f"ssh ended with {code}" if code == _SSH_FAILED else f"the command on it ended with {code}"
    return "".join(char if char.isprintable() else "?" for char in lines[-1][:_SAID_CHARS])


def known_options(options: Sequence[str]) -> tuple[str, ...]:
    """Options for `ssh -o`, each KEY=VALUE; raises `UsageError`."""
    for option in options:
        if not re.match(r"[A-Za-z]\w*[= ]", option):
            raise UsageError(f"{option!a} is no option of ssh", hint="write it as for ssh -o: User=root, Port=2222")
    return tuple(options)
