"""What K3s is told besides registries.yaml, and what it gives containerd: the values around `config.k3s`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pierhead.config.containerd import HostTree, Lookup
from pierhead.config.registries import RegistriesConfig, Text
from pierhead.config.versions import CURRENT, Behaviour
from pierhead.errors import Problem, Span
from pierhead.redact import Secret


@dataclass(frozen=True, slots=True)
class Flags:
    """K3s' own settings that bear on registries; `program` is k3s or rke2."""

    disable_default_registry_endpoint: bool = False
    embedded_registry: str | None = None
    program: str = "k3s"
    data_dir: str | None = None

    @property
    def agent_directory(self) -> str:
        """The directory of K3s' agent."""
        return f"{self.data_dir or f'/var/lib/rancher/{self.program}'}/agent"

    @property
    def root(self) -> str:
        """The directory that holds config.toml and certs.d."""
        return f"{self.agent_directory}/etc/containerd"


SkipReason = Literal[
    "invalid-url", "duplicate", "invalid-registry", "only-default", "default-disabled", "unusable-file", "lost-mirror"
]


@dataclass(frozen=True, slots=True)
class SkippedEndpoint:
    """A place that is configured, or would be asked by default, and that containerd never hears of.

    `endpoint` is as written; None for a registry's own default endpoint. `message` holds no secret.
    """

    mirror: Text
    endpoint: Text | None
    reason: SkipReason
    message: str

    @property
    def span(self) -> Span:
        """The endpoint's place, else its mirror's."""
        return self.endpoint.span if self.endpoint else self.mirror.span


class Registries(Protocol):
    """What containerd knows of registries: a tree of directories, or the tables of its older config.toml."""

    def lookup(self, registry: str) -> Lookup:
        """What containerd asks for images of a registry, in order."""
        ...


@dataclass(frozen=True, slots=True)
class K3sHosts:
    """All that K3s gives containerd. `config` is the configuration with the embedded registry in it.

    `log` holds what K3s itself logs, as "level: message", userinfo of endpoints included. `error`: why K3s would fail
    to write the files (it then does not start containerd); the tree is empty.
    """

    config: RegistriesConfig
    tree: HostTree
    skipped: tuple[SkippedEndpoint, ...] = ()
    log: tuple[Secret, ...] = ()
    problems: tuple[Problem, ...] = ()
    error: str | None = None
    behaviour: Behaviour = CURRENT
    before_certs: Registries | None = None

    def lookup(self, registry: str) -> Lookup:
        """What containerd asks for images of `registry`, in order."""
        return (self.tree if self.before_certs is None else self.before_certs).lookup(registry)

    def skipped_for(self, lookup: Lookup) -> tuple[SkippedEndpoint, ...]:
        """What was configured for the images of this lookup and is not asked."""
        keys = {lookup.registry}
        if lookup.directory is not None and lookup.directory.key is not None:
            keys.add(lookup.directory.key.value)
        return tuple(skip for skip in self.skipped if skip.mirror.value in keys)
