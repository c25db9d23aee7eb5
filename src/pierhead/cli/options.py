"""Options that several commands share, and what they are made into."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from pierhead import __version__
from pierhead.errors import UsageError

if TYPE_CHECKING:
    from pierhead.auth import Credential
    from pierhead.cli.world import World
    from pierhead.client import Network
    from pierhead.config.versions import K3sVersion
    from pierhead.oci import Platform
    from pierhead.push import Pusher
    from pierhead.routing import OwnRegistry
    from pierhead.transfer import Transfer
    from pierhead.transport import CurlTransport, Timeouts, Transport

F = TypeVar("F", bound=Callable[..., Any])

OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)


def configuration(command: F) -> F:
    """The options that choose a registries.yaml and how K3s would read it."""
    command = one_reader(command)
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


def one_reader(command: F) -> F:
    """Let the command refuse a call by which standard input would be several things at once."""

    @wraps(command)
    def alone(*arguments: Any, **flags: Any) -> Any:
        named = [word for word, name in _READERS if _is_from_stdin(flags.get(name))]
        if len(named) > 1:
            each = "all" if len(named) > 2 else "both"
            message = f"{', '.join(named[:-1])} and {named[-1]} {each} read standard input"
            raise UsageError(message, hint="give all but one of them otherwise: a list or registries.yaml by a file")
        return command(*arguments, **flags)

    return cast(F, alone)


# What may read standard input, as it is written, and the parameter that then is "-", holds one, or is set.
_READERS = (
    ("--private-registry -", "private_registry"),
    ("--images -", "lists"),
    ("--images -", "images"),  # of the commands whose list is one file
    ("the list -", "names"),  # of `lock`
    ("--since -", "since"),
    ("--password-stdin", "password_stdin"),
    ("--src-password-stdin", "src_password_stdin"),
    ("--dest-password-stdin", "dest_password_stdin"),
)


def _is_from_stdin(value: object) -> bool:
    return value is True or str(value) == "-" or (isinstance(value, tuple) and "-" in value)


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


def counted(number: int, what: str) -> str:
    """So many of something: 1 image, 2 images."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def with_referrers(number: int) -> str:
    """How many referrers went with an image; empty if none did."""
    return f"with {number} that {'refers' if number == 1 else 'refer'} to it" if number else ""


# ── the image's own registry, and the wire ───────────────────────────────────────────────────────────────────────


def own_registry(command: F, side: str = "", what: str = "the image's own registry") -> F:
    """The options that concern the image's own registry, never a mirror; with a side, of that end of a copy."""
    dash = f"--{side}-" if side else "--"
    command = registry_tls(command, side, what)
    for option in (
        click.option(
            f"{dash}password-stdin", is_flag=True, help=f"Read the password of {dash}creds from standard input."
        ),
        click.option(f"{dash}creds", metavar="USER[:PASS]", help=f"Credentials for {what}."),
    ):
        command = option(command)
    return command


def registry_tls(command: F, side: str = "", what: str = "the registry") -> F:
    """The options that say how a registry is spoken with, by whomever."""
    dash = f"--{side}-" if side else "--"
    for option in (
        click.option(f"{dash}insecure", is_flag=True, help=f"Do not verify the TLS of {what}."),
        click.option(f"{dash}plain-http", is_flag=True, help=f"Speak plain http with {what}."),
        click.option(f"{dash}key-file", type=_FILE, help=f"The key of {dash}cert-file."),
        click.option(f"{dash}cert-file", type=_FILE, help=f"A client certificate for {what}."),
        click.option(f"{dash}ca-file", type=_FILE, help=f"A CA for {what}, beside the system's (PEM)."),
    ):
        command = option(command)
    return command


def source_registry(command: F) -> F:
    """The options that concern the registry that is read from: --src-creds and so on; `read_world_of(…, "src")`."""
    return own_registry(command, "src", "the registry that is read from")


def destination_registry(command: F) -> F:
    """The options that concern the registry that is written to: --dest-creds …; `read_world_of(…, "dest")`."""
    return own_registry(command, "dest", "the registry that is written to")


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


def read_world_of(flags: Mapping[str, Any], side: str = "") -> World:
    """The world that the shared options describe, as one side of a copy sees it."""
    from pierhead.cli.world import read_world

    own = registry_of(flags, side)
    world = read_world(
        flags["private_registry"],
        disable_default_registry_endpoint=flags["disable_default_registry_endpoint"],
        embedded_registry=flags["embedded_registry"],
    )
    return _with_own(world, own)


def read_worlds_of(flags: Mapping[str, Any]) -> tuple[World, World]:
    """The world as the source and as the destination of a copy see it; registries.yaml is read once."""
    destination = registry_of(flags, "dest")
    world = read_world_of(flags, "src")
    return world, _with_own(world, destination)


def _with_own(world: World, own: tuple[OwnRegistry, Credential | None]) -> World:
    return replace(world, own_registry=own[0], flag=own[1])


def registry_of(flags: Mapping[str, Any], side: str = "") -> tuple[OwnRegistry, Credential | None]:
    """What the flags say of the registry on one side of a copy, and as whom it is spoken to."""
    from pierhead.cli.world import read_password
    from pierhead.credentials import flag_credential
    from pierhead.routing import OwnRegistry
    from pierhead.transport import TlsOptions

    given = {name: flags[f"{side}_{name}" if side else name] for name in _OF_A_REGISTRY}
    dash = f"--{side}-" if side else "--"
    certificate, key = given["cert_file"], given["key_file"]
    if bool(certificate) != bool(key):
        raise UsageError(f"{dash}cert-file and {dash}key-file go together")
    password = read_password(from_stdin=given["password_stdin"])
    if password is not None and not given["creds"]:
        raise UsageError(
            f"{dash}password-stdin is the password of {dash}creds USER", hint=f"give {dash}creds USER as well"
        )
    tls = TlsOptions(
        ca_files=(given["ca_file"],) if given["ca_file"] else (),
        client=((certificate, key),) if certificate else (),
        insecure_skip_verify=given["insecure"],
    )
    return OwnRegistry(given["plain_http"], tls), flag_credential(given["creds"], password) if given["creds"] else None


_OF_A_REGISTRY = ("creds", "password_stdin", "ca_file", "cert_file", "key_file", "plain_http", "insecure")


# ── moving ───────────────────────────────────────────────────────────────────────────────────────────────────────

JOBS = 4
USER_AGENT = f"pierhead/{__version__}"


def transfers(command: F) -> F:
    """How much is moved at once, how fast, and what is said of it."""
    for option in (
        click.option("--trace", metavar="FILE|-", help="Write every request as a line of JSON; - is stderr."),
        click.option("-q", "--quiet", is_flag=True, help="No progress; on stderr warnings and errors alone."),
        click.option(
            "--limit-rate",
            metavar="BYTES",
            callback=_bytes_per_second,
            help="At most so many bytes a second, all transfers together; 500k, 10M and 1G are understood.",
        ),
        click.option(
            "-j",
            "--jobs",
            type=click.IntRange(1, 64),
            default=JOBS,
            show_default=True,
            help="Blobs, and images, transferred at once.",
        ),
    ):
        command = option(command)
    return command


_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}


def _bytes_per_second(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    if unit not in _UNITS or not number.isascii() or not number.isdigit() or not int(number[:18]):
        raise click.BadParameter(f"{text!r} is no number of bytes; write 500k, 10M or 1G")
    return float(int(number[:18]) * _UNITS[unit])


@contextmanager
def open_transfer(flags: Mapping[str, Any], *stops: Callable[[], object], quiet: bool) -> Iterator[Transfer]:
    """The workers that move blobs: so many, so fast, shown unless `quiet`; being interrupted calls all of `stops`."""
    from pierhead.cli.progress import progress
    from pierhead.rate import Rate
    from pierhead.transfer import Transfer

    rate = Rate(flags["limit_rate"]) if flags.get("limit_rate") else None
    with progress(quiet=quiet) as observer, Transfer(flags["jobs"], observer, rate=rate, on_cancel=stops) as transfer:
        yield transfer


def chosen_platforms(names: Sequence[str]) -> tuple[Platform, ...] | None:
    """The platforms of --platform: () for `all`, None if nothing is said. Raises `UsageError`, `InvalidPlatform`."""
    from pierhead.oci import Platform

    if "all" in names and len(names) > 1:
        raise UsageError("--platform all leaves nothing to add", hint="give either `all` or platforms")
    if not names or "all" in names:
        return () if names else None
    return tuple(dict.fromkeys(map(Platform.parse, names)))


def pusher_of(transport: Transport, transfer: Transfer, flags: Mapping[str, Any]) -> Pusher:
    """How registries are written to, as long as the transfer is not cancelled."""
    from pierhead.push import Pusher

    return Pusher(transport, timeouts_of(flags), user_agent=USER_AGENT, wait=transfer.pause)


def network_of(transport: Transport, flags: Mapping[str, Any]) -> Network:
    """How registries are asked, with a memory of its own of who is down."""
    import time

    from pierhead.client import Network

    return Network(transport, timeouts_of(flags), USER_AGENT, time.monotonic)


@contextmanager
def open_transport(trace: str | None) -> Iterator[CurlTransport]:
    """The client socket, with every exchange written to `trace` as a line of JSON."""
    import json
    import threading

    from pierhead.transport import CurlTransport, Exchange

    with open_trace(trace) as file:
        lock = threading.Lock()

        def on_exchange(exchange: Exchange) -> None:
            with lock, _naming(trace):
                print(json.dumps(exchange.to_json()), file=file, flush=True)

        transport = CurlTransport(
            user_agent=USER_AGENT,
            environment=os.environ,
            on_exchange=on_exchange if trace else None,
        )
        try:
            yield transport
        finally:
            transport.close()


@contextmanager
def _naming(trace: str | None) -> Iterator[None]:
    """An error of writing to a file that is open does not say which."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or f"the trace {trace}"
        raise


@contextmanager
def open_trace(trace: str | None) -> Iterator[TextIO]:
    """The file of --trace; only its owner may read it, for it tells who asked for what."""
    if trace in (None, "-"):
        yield sys.stderr
        return
    descriptor = os.open(str(trace), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "w", encoding="utf-8")
    try:
        yield file
    finally:
        with _naming(trace):
            file.close()
