"""The private registry of the demo: `pierhead serve` with TLS and a password, and images pushed to it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pierhead.auth import Credential
from pierhead.body import BytesBlob, read_all
from pierhead.errors import PierheadError
from pierhead.redact import Secret
from pierhead.wire import ERROR_BODY_LIMIT_BYTES, Call, Endpoint, Headers, Request, parse_errors, status_text

if TYPE_CHECKING:
    from pierhead.cli.demo.images import Content, Image
    from pierhead.transport import Options, Transport

HOST: Final = "127.0.0.1"
MIRRORED: Final = "mirrorproject/rancher-images/"
USER: Final = "demo"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 25.0  # more than a registry may take to finish what is under way
LOOK_SECONDS: Final = 0.02
BCRYPT_ROUNDS: Final = 8  # enough for a password of 192 random bits, and quick to check
LOG: Final = "registry.log"
LOG_LIMIT_BYTES: Final = 64 * 1024
LISTENING: Final = "listening on "


class DemoFailed(PierheadError):
    """A part of the demo did not do what it does everywhere else."""


@dataclass(frozen=True)
class Running:
    """A registry that accepts connections: where, and as which process."""

    url: str
    credential: Credential
    process_id: int

    @property
    def authority(self) -> str:
        return self.url.partition("://")[2]


def program() -> tuple[str, ...]:
    """The command that was installed with us; the module where it was not, as in a checkout on PYTHONPATH."""
    installed = Path(sys.executable).with_name("pierhead")
    return (str(installed),) if os.access(installed, os.X_OK) else (sys.executable, "-m", "pierhead")


def write_file(path: Path, data: bytes) -> None:
    """A new file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


@contextmanager
def running_registry(folder: Path, environment: Mapping[str, str], *, held: int, keep: bool) -> Iterator[Running]:
    """A registry in `folder`; stopped at the end, unless it is to be kept and all went well.

    `held` is a descriptor that it keeps open as long as it lives.
    """
    import bcrypt

    from pierhead.cli.demo.certificates import make_identity

    password = Secret(secrets.token_urlsafe(24))
    identity = make_identity(HOST)
    hashed = bcrypt.hashpw(password.reveal().encode(), bcrypt.gensalt(BCRYPT_ROUNDS))
    for name, data in (
        ("ca.pem", identity.ca),
        ("registry.pem", identity.certificate),
        ("registry.key", identity.key),
        ("htpasswd", f"{USER}:".encode() + hashed + b"\n"),
        (LOG, b""),
    ):
        write_file(folder / name, data)
    process = _start(folder, environment, held)
    try:
        url = _wait_for_url(folder / LOG, process)
        yield Running(url, Credential(USER, password), process.pid)
    except BaseException:
        _stop(process)
        raise
    if keep:
        process.returncode = 0  # it lives on; Python need not warn of that
    else:
        _stop(process)


def _start(folder: Path, environment: Mapping[str, str], held: int) -> subprocess.Popen[bytes]:
    files = ("--tls-cert", "registry.pem", "--tls-key", "registry.key", "--htpasswd", "htpasswd")
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [*program(), "serve", "--root", "registry", "--listen", f"{HOST}:0", *files],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(held,),
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the registry
        )


def _wait_for_url(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        with log.open("rb") as file:
            text = file.read(LOG_LIMIT_BYTES).decode("utf-8", "replace")
        for line in text.splitlines(keepends=True):
            if line.startswith(LISTENING) and line.endswith("\n"):
                return line.removeprefix(LISTENING).strip()
        if ended:
            raise DemoFailed(f"the registry ended with {process.returncode}: {text.strip()}")
        time.sleep(LOOK_SECONDS)
    raise DemoFailed(f"the registry did not start within {START_SECONDS:.0f} seconds")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ── pushing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def push(images: Mapping[str, Image], registry: Running, ca_file: Path) -> None:
    """Put images there as any client would: blobs first, then manifests, the tag last. Raises `DemoFailed`."""
    from pierhead.transport import CurlTransport, Options, TlsOptions

    options = Options(TlsOptions(ca_files=(str(ca_file),)))
    transport = CurlTransport()
    try:
        for name, image in images.items():
            repository, _, tag = name.rpartition(":")
            for content in image.contents:
                reference = tag if content is image.top else str(content.descriptor.digest)
                _send(_putting(content, repository, reference), content, registry, transport, options)
    finally:
        transport.close()


def _putting(content: Content, repository: str, reference: str) -> Call:
    if content.descriptor.is_manifest:
        return Call(Endpoint.MANIFEST, "PUT", repository, reference)
    return Call(Endpoint.UPLOADS, "POST", repository, query=(("digest", reference),))  # a blob in one request


def _send(call: Call, content: Content, registry: Running, transport: Transport, options: Options) -> None:
    headers = Headers(
        {
            "Authorization": registry.credential.basic,
            "Content-Type": content.descriptor.media_type
            if content.descriptor.is_manifest
            else "application/octet-stream",
        }
    )
    request = Request(call.method, registry.url + call.target(), headers, BytesBlob(content.data))
    with transport.send(request, options) as response:
        answer = read_all(response.body, ERROR_BODY_LIMIT_BYTES)
    if response.status != 201:
        why = "; ".join(map(str, parse_errors(answer))) or status_text(response.status)
        raise DemoFailed(f"the registry did not take {call.repository} {call.reference}: {why}")
