"""What the commands read from outside: the configuration, the credentials, the flags. Read once, then only values."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pierhead.auth import Credential, Lookup, from_registries
from pierhead.credentials import CredentialSources, chain
from pierhead.errors import Problem, Span, UsageError
from pierhead.redact import Secret
from pierhead.reference import Reference
from pierhead.routing import OwnRegistry, Plan, Route, k3s_plan, own_route

if TYPE_CHECKING:
    from pierhead.config import k3s
    from pierhead.config.registries import RegistriesConfig, Text
    from pierhead.config.versions import K3sVersion

DEFAULT_FILES = (Path("/etc/rancher/k3s/registries.yaml"), Path("/etc/rancher/rke2/registries.yaml"))
SECRET_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class World:
    """A configuration as K3s reads it, and who we are. `hosts` None: there is no configuration at all."""

    hosts: k3s.K3sHosts | None
    sources: CredentialSources
    own_registry: OwnRegistry = OwnRegistry()
    flag: Credential | None = None

    def plan(self, reference: Reference) -> Plan:
        """Where this image would be asked for."""
        return k3s_plan(reference, self.hosts, self.own_registry)

    def own_route(self, reference: Reference) -> Route:
        """The way to the image's own registry itself; what flags say of it holds however registries.yaml names it."""
        return own_route(reference, self.hosts, self.own_registry)

    def lookup(self, reference: Reference) -> Lookup:
        """Whose credentials are used, by the host that challenges.

        --creds for the image's own registry, then `configs`, then where docker and podman keep theirs.
        """
        own = {reference.registry, "registry-1.docker.io" if reference.registry == "docker.io" else reference.registry}

        def flag(host: str) -> Credential | None:
            return self.flag if host in own else None

        def elsewhere(host: str) -> Credential | None:
            return self.sources.lookup(host, reference.repository)

        return chain(flag, self.configured, elsewhere)

    def configured(self, host: str) -> Credential | None:
        """Whom `configs` of registries.yaml has for a host that challenges: all that a node knows."""
        if self.hosts is None:
            return None
        from pierhead.config.k3s import auth_for

        return from_registries(auth_for(self.hosts.config, host, self.hosts.behaviour))

    def problems(self, plan: Plan) -> tuple[Problem, ...]:
        """What a person should know about this plan: what is wrong with its mirror, or with the file as a whole."""
        found = (*plan.problems, *self.sources.problems)
        if self.hosts is not None:
            config = self.hosts.config
            mirrors = [mirror.key for mirror in config.mirrors.values()]
            keys = [*mirrors, *(entry.key for entry in config.configs.values())]
            of_file = (*config.problems, *self.hosts.problems)
            concerned = [problem for problem in of_file if _concerns(problem, plan, mirrors, keys)]
            known = {problem.id for problem in concerned} & {"unusable-hosts-toml"}  # said already, with its place
            found = (*concerned, *(problem for problem in found if problem.id not in known))
        return tuple(dict.fromkeys(found))


def _concerns(problem: Problem, plan: Plan, mirrors: Sequence[Text], keys: Sequence[Text]) -> bool:
    """Whether a problem of the file is not one inside another mirror, told by the key it stands under.

    What is wrong with a key itself concerns every image: it may be meant to serve this one, or break what does.
    """
    if problem.span is None:
        return True
    owner = max((key for key in keys if key.span <= problem.span), key=_place, default=None)
    if owner is None or not any(owner is key for key in mirrors) or _place(owner) == problem.span:
        return True
    return owner.value == plan.reference.registry or (plan.mirror is not None and plan.mirror.key == owner.value)


def _place(key: Text) -> Span:
    return key.span


def read_world(
    file: Path | None,
    *,
    disable_default_registry_endpoint: bool = False,
    embedded_registry: str | None = None,
    k3s_version: K3sVersion | None = None,
) -> World:
    """The world of a command, as that release of K3s makes it, else the current one.

    Raises `ConfigUnreadable`, `UnusableConfig`, `CannotRender`.
    """
    if file is None and not embedded_registry and not any(map(os.path.lexists, DEFAULT_FILES)):
        hosts = None  # as K3s: no file, no registries
    else:
        config = read_config(file)
        flags = flags_for(config, disable_default_registry_endpoint, embedded_registry)
        hosts = _hosts(config, flags, k3s_version)
    return World(hosts, CredentialSources(os.environ, Path.home()))


def flags_for(config: RegistriesConfig, disable_default_endpoint: bool, embedded_registry: str | None) -> k3s.Flags:
    """K3s' own settings, for the program that the file belongs to."""
    from pierhead.config import k3s

    program = "rke2" if "rke2" in Path(config.file).parts else "k3s"
    return k3s.Flags(disable_default_endpoint, embedded_registry, program)


def _hosts(config: RegistriesConfig, flags: k3s.Flags, k3s_version: K3sVersion | None) -> k3s.K3sHosts:
    from pierhead.config import k3s
    from pierhead.config.k3sfile import CannotRender
    from pierhead.config.versions import CURRENT, behaviour

    hosts = k3s.hosts(config, flags, behaviour(k3s_version) if k3s_version else CURRENT)
    if hosts.error:
        raise CannotRender(hosts.error)
    return hosts


def read_config(file: Path | None) -> RegistriesConfig:
    """The file, "-" for standard input, or the first default one that exists (none: an empty one).

    Raises `ConfigUnreadable`, and `UnusableConfig` if K3s would refuse it.
    """
    from pierhead.config.registries import unusable

    config = _read(file)
    unusable(config)
    return config


def _read(file: Path | None) -> RegistriesConfig:
    from pierhead.config.registries import SIZE_LIMIT_BYTES, ConfigUnreadable, load, parse

    if file is not None and str(file) == "-":
        data = sys.stdin.buffer.read(SIZE_LIMIT_BYTES + 1)
        if len(data) > SIZE_LIMIT_BYTES:
            raise UsageError(f"what stands on standard input is larger than {SIZE_LIMIT_BYTES} bytes")
        return parse(data, "-")
    for candidate in DEFAULT_FILES if file is None else ():
        try:
            return load(candidate)
        except ConfigUnreadable as error:
            if not error.missing:
                raise
    return parse(b"", str(DEFAULT_FILES[0])) if file is None else load(file)


def read_password(*, from_stdin: bool) -> Secret | None:
    """The password of --password-stdin."""
    if not from_stdin:
        return None
    data = sys.stdin.buffer.read(SECRET_LIMIT_BYTES + 1)
    if len(data) > SECRET_LIMIT_BYTES:
        raise UsageError("the password on standard input is too long")
    # What is no UTF-8 goes out as it came in (`auth.Credential.basic`).
    return Secret(data.decode("utf-8", "surrogateescape").rstrip("\r\n"))
