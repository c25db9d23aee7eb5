"""`pierhead login`, `logout`: a credential tried, and kept where docker, podman, K3s and pierhead look for it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pierhead.cli import options, write_json
from pierhead.errors import ExitCode, PierheadError, UsageError

if TYPE_CHECKING:
    from pierhead.auth import Credential
    from pierhead.cli.world import World
    from pierhead.login import Kept
    from pierhead.login.auth_file import AuthFile
    from pierhead.redact import Secret
    from pierhead.reference import Reference
    from pierhead.routing import Route

F = TypeVar("F", bound=Callable[..., Any])

_RESTART = "K3s reads it when it starts: `systemctl restart k3s`, or k3s-agent, rke2-server, rke2-agent"


def _kept_where(command: F) -> F:
    """The options that say where a login is kept."""
    command = options.one_reader(command)
    for option in (
        click.option(
            "--private-registry",
            type=click.Path(path_type=Path),
            metavar="FILE",
            envvar="PIERHEAD_PRIVATE_REGISTRY",
            help="The registries.yaml that says how the registry is spoken with, and is meant by --registries-yaml.",
        ),
        click.option(
            "--registries-yaml",
            is_flag=False,
            flag_value="",
            metavar="[FILE]",
            help="In registries.yaml instead, under `configs`. Default: the file of --private-registry, else K3s' own.",
        ),
        click.option(
            "--authfile",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="In this file instead, as podman and skopeo keep it.",
        ),
    ):
        command = option(command)
    return command


def _refuse_password(_context: click.Context, _parameter: click.Parameter, password: str | None) -> None:
    if password is not None:
        hint = "give it on standard input: --password-stdin; or wait to be asked for it"
        raise UsageError("a password among the arguments can be read by everyone on this machine", hint=hint)


@click.command()
@click.argument("registry")
@click.option("-u", "--username", metavar="USER", help="The user name. Default: it is asked for.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("-p", "--password", hidden=True, expose_value=False, callback=_refuse_password)
@_kept_where
@click.option("--no-verify", is_flag=True, help="Keep it without trying it at the registry.")
@options.registry_tls
@options.timeouts
@click.option("--trace", metavar="FILE|-", help="Write every request as a line of JSON; - is stderr.")
@options.OUTPUT
def login(registry: str, output: str, **flags: Any) -> int:
    """Keep a user name and password for REGISTRY, if the registry takes them.

    They go to docker's config.json, which pierhead, podman and skopeo read as well, or to the credential helper named
    there; with --authfile or --registries-yaml to that file instead. The password is asked for, or read from standard
    input; it is never an argument.
    """
    from pierhead.login import credential_of, registry_named

    name = registry_named(registry)
    keeping = _Keeping.of(flags)
    world = _world(flags, keeping, plain=registry.lower().startswith("http://"))
    credential = credential_of(*_user(flags))
    tried = None if flags["no_verify"] else _try(world, name, credential, flags)
    kept = keeping.keep(name, credential)
    notes = [*kept.notes, *keeping.after(world, name, credential)]
    if tried is False:
        notes.insert(0, f"{name} lets everybody in, so the password was not tried")
    if output == "json":
        answer = {"registry": name, "username": credential.username, "verified": bool(tried)}
        write_json({**answer, "kept": kept.place, "notes": notes})
    else:
        click.echo(f"{name}: {credential.username} is kept in {kept.place}")
        for note in notes:
            click.echo(f"note: {note}", err=True)
    return ExitCode.DONE


@click.command()
@click.argument("registry")
@_kept_where
@options.OUTPUT
def logout(registry: str, output: str, **flags: Any) -> int:
    """Forget the login to REGISTRY.

    It is taken out of docker's config.json and the credential helper named there; with --authfile or --registries-yaml
    out of that file instead. No login is no error.
    """
    from pierhead.login import registry_named

    name = registry_named(registry)
    keeping = _Keeping.of(flags)
    places = keeping.forget(name)
    notes = [_RESTART] if places and keeping.registries is not None else []
    notes += _still_known(name) if keeping.registries is None else []
    if output == "json":
        write_json({"registry": name, "removed": list(places), "notes": notes})
    else:
        for place in places:
            click.echo(f"{name}: taken out of {place}")
        if not places:
            click.echo(f"{name}: there was no login")
        for note in notes:
            click.echo(f"note: {note}", err=True)
    return ExitCode.DONE


# ── where it is kept ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Keeping:
    """The one place a login is kept in: registries.yaml, or a file of logins."""

    registries: Path | None
    file: AuthFile

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> _Keeping:
        from pierhead.credentials import docker_config
        from pierhead.login.auth_file import AuthFile

        authfile, registries = flags["authfile"], flags["registries_yaml"]
        if authfile is not None and registries is not None:
            raise UsageError("--authfile and --registries-yaml are two places", hint="log in once for each")
        if authfile is not None:
            return cls(None, AuthFile(authfile, "podman", os.environ))
        path = None if registries is None else _registries_file(registries, flags["private_registry"])
        return cls(path, AuthFile(docker_config(os.environ, Path.home()), "docker", os.environ))

    def keep(self, registry: str, credential: Credential) -> Kept:
        if self.registries is None:
            return self.file.keep(registry, credential)
        from pierhead.login import registries_file

        return registries_file.keep(self.registries, registry, credential)

    def forget(self, registry: str) -> tuple[str, ...]:
        if self.registries is None:
            return self.file.forget(registry)
        from pierhead.login import registries_file

        return registries_file.forget(self.registries, registry)

    def after(self, world: World, registry: str, credential: Credential) -> list[str]:
        """What keeps the login from being used, or is still to be done."""
        if self.registries is not None:
            return [_RESTART]
        found = _found(world, registry)
        if found is None:
            return [f"nobody looks into {self.file.path} unless told to: set REGISTRY_AUTH_FILE to it"]
        if (found.username, found.secret) == (credential.username, credential.secret):
            return []
        place = f" of {found.span}" if found.span else ""
        return [f"pierhead goes on using another login to {registry}, which comes first: {found.key}{place}"]


def _registries_file(given: str, private_registry: Path | None) -> Path:
    """The file of --registries-yaml: the one it names, that of --private-registry, or where K3s has its own."""
    from pierhead.cli.world import DEFAULT_FILES

    path = Path(given) if given else private_registry
    if path is None:
        path = next((file for file in DEFAULT_FILES if os.path.lexists(file)), DEFAULT_FILES[0])
    if str(path) == "-":
        raise UsageError("a login is not written to standard output", hint="name the file: --registries-yaml=FILE")
    return path


def _found(world: World, registry: str) -> Credential | None:
    """Whom pierhead takes itself for now, at this registry."""
    from pierhead.credentials import CredentialSources

    fresh = replace(world, sources=CredentialSources(os.environ, Path.home()), flag=None)
    with suppress(PierheadError):  # what is wrong with another file is told when it is used
        return fresh.lookup(_nothing_of(registry))("registry-1.docker.io" if registry == "docker.io" else registry)
    return None


def _still_known(registry: str) -> list[str]:
    """What other files of logins still say."""
    from pierhead.cli.world import World
    from pierhead.credentials import CredentialSources

    found = _found(World(None, CredentialSources(os.environ, Path.home())), registry)
    if found is None:
        return []
    place = f" of {found.span}" if found.span else ""
    return [f"there is still a login of {found.username or 'an identity token'}: {found.key}{place}"]


# ── whose it is ──────────────────────────────────────────────────────────────────────────────────────────────────


def _user(flags: Mapping[str, Any]) -> tuple[str, Secret]:
    """The user name and the password, asked for where they were not given."""
    from pierhead.cli.world import read_password
    from pierhead.redact import Secret

    username = flags["username"]
    if flags["password_stdin"]:
        if username is None:
            raise UsageError("--password-stdin needs a user name", hint="give -u USER as well")
        return username, read_password(from_stdin=True) or Secret("")
    if not sys.stdin.isatty():
        hint = "give -u USER, and the password on standard input: --password-stdin"
        raise UsageError("there is no terminal to ask for the password on", hint=hint)
    username = username if username is not None else click.prompt("user name", err=True)
    return username, Secret(click.prompt("password", hide_input=True, err=True))


# ── trying it ────────────────────────────────────────────────────────────────────────────────────────────────────


def _world(flags: Mapping[str, Any], keeping: _Keeping, *, plain: bool) -> World:
    """How the registry is spoken with; a registries.yaml that is still to be written says nothing of it."""
    from pierhead.cli.world import World
    from pierhead.credentials import CredentialSources

    own_registry, _ = options.registry_of({**flags, "creds": None, "password_stdin": False})
    own_registry = replace(own_registry, plain_http=own_registry.plain_http or plain)
    file = keeping.registries
    if file is not None and not file.exists():
        return World(None, CredentialSources(os.environ, Path.home()), own_registry)
    from pierhead.cli.world import read_world

    return replace(read_world(file or flags["private_registry"]), own_registry=own_registry)


def _try(world: World, registry: str, credential: Credential, flags: Mapping[str, Any]) -> bool:
    """Whether the registry asked for a login, and took this one; raises `LoginRefused`."""
    from pierhead.probe.places import Named, Terms, visit

    route = _route(world, registry)
    with options.open_transport(flags["trace"]) as transport:
        terms = Terms(transport, options.timeouts_of(flags), time.monotonic, options.USER_AGENT)
        visited = visit(Named(route), lambda host: credential if host == route.host else None, terms)
    if not visited.works:
        raise LoginRefused(route.host, visited.cause, visited.exit_code, hint=visited.hint)
    return visited.seen.answer is not None and visited.seen.answer.status == 401


class LoginRefused(PierheadError):
    """The registry does not take the login, or cannot be asked; nothing was written."""

    def __init__(self, host: str, cause: str, exit_code: ExitCode, *, hint: str) -> None:
        if exit_code is ExitCode.NOT_AUTHORISED:
            message, usual = f"{host} refuses the login", "check the user name and the password; nothing was written"
        else:
            message, usual = f"{host} cannot be asked", "--no-verify keeps the login without asking"
        super().__init__(f"{message}: {cause}", hint=f"{hint}; {usual}" if hint else usual)
        self.exit_code = exit_code


def _route(world: World, registry: str) -> Route:
    """The way to the registry itself: as the endpoint that it is, else as images' own registry; by the flags."""
    from pierhead.login.registries_file import key_of
    from pierhead.probe.named import named_places

    if world.hosts is not None:
        hosts = {registry, key_of(world.hosts.config, registry)[0]}
        named = (item.route for item in named_places(world.hosts) if item.what == "endpoint")
        if (route := next((route for route in named if route.host in hosts), None)) is not None:
            return world.own_registry.onto(replace(route, kind="default"))
    return replace(world.own_route(_nothing_of(registry)), kind="default")


def _nothing_of(registry: str) -> Reference:
    """The registry, no image in mind."""
    from pierhead.reference import Reference

    return Reference(registry, "", "latest", None)
