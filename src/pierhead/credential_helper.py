"""Speaking with a credential helper: `docker-credential-NAME get`, `store` and `erase`, by docker's protocol.

As docker-credential-helpers (client/client.go, credentials/credentials.go): the server on standard input, never in the
arguments; the answer is JSON. Loaded when a helper is asked: most machines have none.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from pierhead.auth import BadCredential, Credential
from pierhead.body import COPY_CHUNK_BYTES, BodyTooLarge

HELPER_TIMEOUT_SECONDS: Final = 30.0
HELPER_ANSWER_LIMIT_BYTES: Final = 1024 * 1024
NOT_FOUND: Final = b"credentials not found in native keychain"  # docker-credential-helpers: credentials/error.go

Action = Literal["get", "store", "erase"]


def run_helper(
    path: str, server: str, environment: Mapping[str, str], *, timeout_seconds: float = HELPER_TIMEOUT_SECONDS
) -> bytes | None:
    """What a credential helper answers to `get` for a server; None if it knows none.

    Raises `BadCredential`. What the helper says is never shown, as it may hold a secret.
    """
    conversation = _Conversation(path, "get", server, environment, timeout_seconds)
    return conversation.answer(server.encode())


def store_with_helper(
    path: str,
    server: str,
    credential: Credential,
    environment: Mapping[str, str],
    *,
    timeout_seconds: float = HELPER_TIMEOUT_SECONDS,
) -> None:
    """Have a credential helper keep a credential for a server; raises `BadCredential`."""
    told = {"ServerURL": server, "Username": credential.username, "Secret": credential.secret.reveal()}
    conversation = _Conversation(path, "store", server, environment, timeout_seconds)
    conversation.answer(json.dumps(told).encode())


def erase_with_helper(
    path: str, server: str, environment: Mapping[str, str], *, timeout_seconds: float = HELPER_TIMEOUT_SECONDS
) -> None:
    """Have a credential helper forget a server, if it knows it; raises `BadCredential`."""
    _Conversation(path, "erase", server, environment, timeout_seconds).answer(server.encode())


@dataclass(frozen=True, slots=True)
class _Conversation:
    """One run of a helper: what it is told on standard input, and what it answers."""

    path: str
    action: Action
    server: str
    environment: Mapping[str, str]
    timeout_seconds: float

    def answer(self, told: bytes) -> bytes | None:
        """What it answers; None if it knows no such server. Raises `BadCredential`."""
        name, server = Path(self.path).name, self.server
        try:
            status, answer = self._converse(told, time.monotonic() + self.timeout_seconds)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise BadCredential(
                f"{name} did not answer for {server} in {self.timeout_seconds:g} s",
                hint=f"see whether `{name} list` answers; a locked keychain may be waiting for its owner",
            ) from None
        except BodyTooLarge as error:
            raise BadCredential(f"{name} answers more than {error.limit_bytes} bytes for {server}") from None
        except OSError as error:
            raise BadCredential(f"{name} cannot be run: {error.strerror}") from error
        if status and NOT_FOUND in answer:
            return None
        if status:
            what = f"failed for {server}" if self.action == "get" else f"could not {self.action} {server}"
            raise BadCredential(f"{name} {what} (exit status {status})", hint=f"see what `{name} list` says")
        return answer

    def _converse(self, told: bytes, deadline: float) -> tuple[int, bytes]:
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _tell(process.stdin, told, deadline)
            answer = _read_until(process.stdout, deadline)
            return process.wait(max(0.0, deadline - time.monotonic())), answer
        finally:
            _end(process)

    def _start(self) -> subprocess.Popen[bytes]:
        """The helper, in a session of its own: when it must be killed, what it started goes with it."""
        return subprocess.Popen(
            [self.path, self.action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(self.environment),
            start_new_session=True,
            bufsize=0,
        )


def _tell(stdin: IO[bytes], told: bytes, deadline: float) -> None:
    """Write all of it as the pipe takes it; a helper that does not listen is judged by how it ends."""
    os.set_blocking(stdin.fileno(), False)
    with contextlib.suppress(BrokenPipeError), stdin, selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE)
        while told:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            told = told[stdin.write(told) or 0 :]


def _read_until(stdout: IO[bytes], deadline: float) -> bytes:
    """Everything up to the end; raises `TimeoutError` and `BodyTooLarge`."""
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(stdout.fileno(), COPY_CHUNK_BYTES)
            if not piece:
                return bytes(answer)
            answer += piece
            if len(answer) > HELPER_ANSWER_LIMIT_BYTES:
                raise BodyTooLarge(HELPER_ANSWER_LIMIT_BYTES)
    raise TimeoutError


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    if process.returncode is None:  # not waited for, so the number of its group is still its own
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(HELPER_TIMEOUT_SECONDS)
