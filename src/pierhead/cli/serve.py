"""`pierhead serve`: be a private registry over a store."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pierhead.cli import options
from pierhead.errors import UsageError

if TYPE_CHECKING:
    from pierhead.server.http import ServerConfig, TlsFiles
    from pierhead.store import Store

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
PORT_LIMIT = 65_535


def listening(command: F) -> F:
    """Where to listen, how, and for whom; `config_of` reads them."""
    for option in (
        click.option(
            "--log/--no-log", default=True, show_default=True, help="Write a line for each request to stderr."
        ),
        click.option(
            "--htpasswd", type=_FILE, metavar="FILE", help="Require a user and password of this file (bcrypt)."
        ),
        click.option("--client-ca", type=_FILE, metavar="FILE", help="Require client certificates from this CA (PEM)."),
        click.option("--tls-key", type=_FILE, metavar="FILE", help="The key of --tls-cert (PEM)."),
        click.option("--tls-cert", type=_FILE, metavar="FILE", help="Certificate and its chain (PEM): serve https."),
        click.option(
            "--listen",
            metavar="HOST:PORT",
            default="127.0.0.1:5000",
            show_default=True,
            help="Where to listen; port 0 takes a free one, and no host means every interface.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@options.root
@listening
@click.option("--read-only", is_flag=True, help="Serve what is there; refuse every push and deletion.")
def serve(root: Path, read_only: bool, **flags: Any) -> None:
    """Be a private registry: what is pulled into the store, and what is pushed to it.

    Docker, containerd, K3s, podman and skopeo can push to it and pull from it. What `pierhead pull` brought is served
    as containerd asks its mirrors: docker.io/a/b as /v2/a/b/…?ns=docker.io. Ends on SIGTERM or Ctrl-C, after finishing
    what is under way.
    """
    from pierhead.layout import LayoutStore
    from pierhead.server import http

    store = LayoutStore(root)
    config = config_of(store, flags, read_only=read_only)
    if not read_only:
        with store.root.changing():  # a folder that cannot be written is told before the first connection
            store.prepare()
    try:
        http.serve(config, ready=ready)
    finally:
        store.interrupt()
        if not read_only:
            store.publish_index()


def config_of(store: Store, flags: Mapping[str, Any], *, read_only: bool) -> ServerConfig:
    """What the options of `listening` say; what a person should know of it goes to stderr."""
    host, port = parse_listen(flags["listen"])
    tls = _tls(flags["tls_cert"], flags["tls_key"], flags["client_ca"])
    known_users = bool(flags["htpasswd"] or flags["client_ca"])
    for warning in warnings(host, tls=tls is not None, known_users=known_users, read_only=read_only):
        click.secho(f"warning: {warning}", fg="yellow", bold=True, err=True)
    from pierhead.server.http import ServerConfig

    return ServerConfig(
        store, host, port, tls=tls, htpasswd=flags["htpasswd"], read_only=read_only, access_log=flags["log"]
    )


def ready(url: str) -> None:
    """Say that connections are accepted, and where."""
    click.echo(f"listening on {url}", err=True)


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[IPV6]:PORT` or `:PORT`; raises `UsageError`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port[:6]) > PORT_LIMIT:
        raise UsageError(f"{text!r} is no address to listen on", hint="write HOST:PORT, such as 127.0.0.1:5000")
    if ":" in host and not bracketed:
        raise UsageError(
            f"{text!r} is no address to listen on", hint=f"put the IPv6 address in brackets: [{host}]:{port}"
        )
    return (host[1:-1] if bracketed else host), int(port)


def warnings(host: str, *, tls: bool, known_users: bool, read_only: bool) -> Iterator[str]:
    """What a person should know before others can reach the registry."""
    if _is_loopback(host):
        return
    can = "read" if read_only else "read, overwrite and delete"
    if not known_users:
        yield f"anyone who reaches {host or 'this machine'} can {can} every image: give --htpasswd or --client-ca"
    if not tls:
        what = "passwords and images" if known_users else "images"
        yield f"without --tls-cert and --tls-key {what} cross the network unprotected"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    if cert and key:
        from pierhead.server.http import TlsFiles

        return TlsFiles(cert, key, client_ca)
    if cert or key:
        raise UsageError("--tls-cert and --tls-key go together", hint="give both, or neither to serve plain http")
    if client_ca:
        raise UsageError("--client-ca needs https", hint="give --tls-cert and --tls-key too")
    return None
