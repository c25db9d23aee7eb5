"""Options that several commands share, and what they are made into."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from pierhead import __version__
from pierhead.errors import UsageError

if TYPE_CHECKING:
    from pierhead.cli.world import World
    from pierhead.config.versions import K3sVersion
    from pierhead.transport import CurlTransport, Timeouts

F = TypeVar("F", bound=Callable[..., Any])

OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)


def configuration(command: F) -> F:
    """The options that choose a registries.yaml and how K3s would read it."""
    for option in (
        click.option(
            "--embedded-registry",
            metavar="HOST:PORT",
            help="Where K3s' embedded registry listens, as with k3s server --embedded-registry (127.0.0.1:6443).",
        ),
        click.option(
            "--disable-default-registry-endpoint",
            is_flag=True,
            help="As the K3s flag: a mirror's own registry is not asked after its endpoints.",
        ),
        click.option(
            "--private-registry",
            type=click.Path(path_type=Path),
            metavar="FILE",
            envvar="PIERHEAD_PRIVATE_REGISTRY",
            help="The registries.yaml to read. Default: /etc/rancher/k3s/registries.yaml, else "
            "/etc/rancher/rke2/registries.yaml.",
        ),
    ):
        command = option(command)
    return command


def k3s_version(command: F) -> F:
    """The option that names the release of K3s or RKE2 to go by; a `K3sVersion`, or None for the current one."""
    return click.option(
        "--k3s-version",
        metavar="VERSION",
        callback=version_of,
        help="The release of K3s or RKE2 to go by, as v1.28.6+k3s1; v1.28 is the last of that minor. "
        "Default: the current one.",
    )(command)


def version_of(_context: click.Context, _parameter: click.Parameter, text: str | None) -> K3sVersion | None:
    """A version option's value; raises `InvalidVersion`, which says how it is written."""
    if text is None:
        return None
    from pierhead.config.versions import K3sVersion

    return K3sVersion.parse(text)


def root(command: F) -> F:
    """The option that chooses the store."""
    return click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        envvar="PIERHEAD_ROOT",
        default=lambda: default_root(os.environ),
        help="The image store, an OCI image layout. Default: /var/lib/pierhead for root, else pierhead in the "
        "XDG data folder.",
    )(command)


def default_root(environment: Mapping[str, str]) -> Path:
    """Where images are kept if nobody says where."""
    if os.geteuid() == 0:
        return Path("/var/lib/pierhead")
    data = environment.get("XDG_DATA_HOME", "")
    return (Path(data) if Path(data).is_absolute() else Path.home() / ".local/share") / "pierhead"


def size_text(size_bytes: float) -> str:
    """A size for people: 45.3MB, as crictl writes it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g}{unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g}TB"


# ── the image's own registry, and the wire ───────────────────────────────────────────────────────────────────────


def own_registry(command: F) -> F:
    """The options that concern the image's own registry, never a mirror."""
    for option in (
        click.option("--insecure", is_flag=True, help="Do not verify the TLS of the image's own registry."),
        click.option("--plain-http", is_flag=True, help="Speak plain http with the image's own registry."),
        click.option("--key-file", type=_FILE, help="The key of --cert-file."),
        click.option("--cert-file", type=_FILE, help="A client certificate for the image's own registry."),
        click.option("--ca-file", type=_FILE, help="A CA for the image's own registry, beside the system's (PEM)."),
        click.option("--password-stdin", is_flag=True, help="Read the password of --creds from standard input."),
        click.option("--creds", metavar="USER[:PASS]", help="Credentials for the image's own registry."),
    ):
        command = option(command)
    return command


_FILE = click.Path(exists=True, dir_okay=False)
SECONDS_LIMIT = 1_000_000.0  # eleven days; `inf` is more
_SECONDS = click.FloatRange(min=0.0, max=SECONDS_LIMIT, min_open=True)


def timeouts(command: F) -> F:
    """How long each phase of a request may take."""
    for name, seconds, what in (
        ("stall", 60.0, "a body that stands still"),
        ("first-byte", 30.0, "the first byte of an answer"),
        ("tls", 10.0, "the TLS handshake"),
        ("connect", 30.0, "the connection"),
    ):
        command = click.option(
            f"--timeout-{name}",
            type=_SECONDS,
            callback=_finite,
            default=seconds,
            show_default=True,
            help=f"Seconds to wait for {what}.",
        )(command)
    return command


def _finite(_context: click.Context, _parameter: click.Parameter, seconds: float) -> float:
    if seconds != seconds:  # nan, which is in every range
        raise click.BadParameter("nan is no number of seconds")
    return seconds


def timeouts_of(flags: Mapping[str, Any]) -> Timeouts:
    """The time-outs that were given."""
    from pierhead.transport import Timeouts

    return Timeouts(flags["timeout_connect"], flags["timeout_tls"], flags["timeout_first_byte"], flags["timeout_stall"])


def read_world_of(flags: Mapping[str, Any]) -> World:
    """The world that the shared options describe."""
    from pierhead.cli.world import read_password, read_world
    from pierhead.credentials import flag_credential
    from pierhead.routing import OwnRegistry
    from pierhead.transport import TlsOptions

    certificate, key = flags["cert_file"], flags["key_file"]
    if bool(certificate) != bool(key):
        raise UsageError("--cert-file and --key-file go together")
    password = read_password(from_stdin=flags["password_stdin"])
    if password is not None and not flags["creds"]:
        raise UsageError("--password-stdin is the password of --creds USER", hint="give --creds USER as well")
    tls = TlsOptions(
        ca_files=(flags["ca_file"],) if flags["ca_file"] else (),
        client=((certificate, key),) if certificate else (),
        insecure_skip_verify=flags["insecure"],
    )
    return read_world(
        flags["private_registry"],
        disable_default_registry_endpoint=flags["disable_default_registry_endpoint"],
        embedded_registry=flags["embedded_registry"],
        own_registry=OwnRegistry(flags["plain_http"], tls),
        flag=flag_credential(flags["creds"], password) if flags["creds"] else None,
    )


@contextmanager
def open_transport(trace: str | None) -> Iterator[CurlTransport]:
    """The client socket, with every exchange written to `trace` as a line of JSON."""
    import json
    import threading

    from pierhead.transport import CurlTransport, Exchange

    with open_trace(trace) as file:
        lock = threading.Lock()

        def on_exchange(exchange: Exchange) -> None:
            with lock:
                print(json.dumps(exchange.to_json()), file=file, flush=True)

        transport = CurlTransport(
            user_agent=f"pierhead/{__version__}",
            environment=os.environ,
            on_exchange=on_exchange if trace else None,
        )
        try:
            yield transport
        finally:
            transport.close()


@contextmanager
def open_trace(trace: str | None) -> Iterator[TextIO]:
    """The file of --trace; only its owner may read it, for it tells who asked for what."""
    if trace in (None, "-"):
        yield sys.stderr
        return
    descriptor = os.open(str(trace), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yield file
