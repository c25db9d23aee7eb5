"""Asking a credential helper: `docker-credential-NAME get`, by docker's protocol.

As docker-credential-helpers (client/client.go, credentials/credentials.go): the server on standard input, never in the
arguments; the answer is JSON. Loaded when a helper is asked: most machines have none.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from pierhead.auth import BadCredential
from pierhead.body import COPY_CHUNK_BYTES, BodyTooLarge

HELPER_TIMEOUT_SECONDS: Final = 30.0
HELPER_ANSWER_LIMIT_BYTES: Final = 1024 * 1024
NOT_FOUND: Final = b"credentials not found in native keychain"  # docker-credential-helpers: credentials/error.go


def run_helper(
    path: str, server: str, environment: Mapping[str, str], *, timeout_seconds: float = HELPER_TIMEOUT_SECONDS
) -> bytes | None:
    """What a credential helper answers to `get` for a server; None if it knows none.

    Raises `BadCredential`. What the helper says is never shown, as it may hold a secret.
    """
    name = Path(path).name
    try:
        status, answer = _converse(path, server, environment, time.monotonic() + timeout_seconds)
    except (TimeoutError, subprocess.TimeoutExpired):
        raise BadCredential(
            f"{name} did not answer for {server} in {timeout_seconds:g} s",
            hint=f"see whether `{name} list` answers; a locked keychain may be waiting for its owner",
        ) from None
    except BodyTooLarge as error:
        raise BadCredential(f"{name} answers more than {error.limit_bytes} bytes for {server}") from None
    except OSError as error:
        raise BadCredential(f"{name} cannot be run: {error.strerror}") from error
    if status and NOT_FOUND in answer:
        return None
    if status:
        raise BadCredential(f"{name} failed for {server} (exit status {status})", hint=f"see what `{name} list` says")
    return answer


def _converse(path: str, server: str, environment: Mapping[str, str], deadline: float) -> tuple[int, bytes]:
    process = _start(path, environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _tell(process.stdin, server)
        answer = _read_until(process.stdout, deadline)
        return process.wait(max(0.0, deadline - time.monotonic())), answer
    finally:
        _end(process)


def _start(path: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The helper, in a session of its own: when it must be killed, what it started goes with it."""
    return subprocess.Popen(
        [path, "get"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environment),
        start_new_session=True,
        bufsize=0,
    )


def _tell(stdin: IO[bytes], server: str) -> None:
    """A name fits into the pipe's buffer; a helper that does not listen is judged by how it ends."""
    os.set_blocking(stdin.fileno(), False)
    with contextlib.suppress(BrokenPipeError), stdin:
        stdin.write(server.encode())


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
