"""A registries.yaml on its way: what the sources say so far, in their order, and what could not be said."""

from __future__ import annotations

from dataclasses import dataclass, field

from pierhead.config.k3s_hosts import Flags
from pierhead.errors import Problem, Severity, Span
from pierhead.redact import Secret


@dataclass(frozen=True, slots=True)
class Trust:
    """The `tls` of an entry of `configs`; an empty one is `tls: {}`."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure_skip_verify: bool = False

    def __bool__(self) -> bool:
        return self != Trust()


@dataclass(frozen=True, slots=True)
class Login:
    """The `auth` of an entry of `configs`: base64 of user:password, or an identity token."""

    auth: Secret | None = None
    identity_token: Secret | None = None


@dataclass(slots=True)
class Mirror:
    """An entry of `mirrors`."""

    endpoints: list[str] = field(default_factory=list)
    rewrites: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Config:
    """An entry of `configs`; with neither of both it is `{}`, which means something to K3s, too."""

    auth: Login | None = None
    tls: Trust | None = None


@dataclass(slots=True)
class Draft:
    """What a registries.yaml is to hold. `flags` is what K3s must be told besides."""

    mirrors: dict[str, Mirror] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)
    flags: Flags = field(default_factory=Flags)
    told: list[Problem] = field(default_factory=list)

    def mirror(self, key: str) -> Mirror:
        return self.mirrors.setdefault(key, Mirror())

    def config(self, key: str) -> Config:
        return self.configs.setdefault(key, Config())

    def ask(self, key: str, endpoint: str) -> None:
        """One more endpoint of a mirror, unless it is there."""
        endpoints = self.mirror(key).endpoints
        if endpoint not in endpoints:
            endpoints.append(endpoint)

    def trust(self, host: str, trust: Trust, span: Span) -> None:
        """How the TLS of a host is verified: one answer for all its uses, and the first that says anything stays."""
        config = self.config(host)
        if not config.tls:
            config.tls = trust
        elif not trust:
            message = f"the TLS settings of {host} elsewhere are used for it here as well"
            self.remark("tls-elsewhere", message, span)
        elif config.tls != trust:
            message = f"{host} has other TLS settings elsewhere, and K3s knows one for each host: these are left out"
            self.lost("two-tls-settings", message, span)

    def login(self, host: str, login: Login, span: Span) -> None:
        """The credentials for a host; the first ones stay."""
        config = self.config(host)
        if config.auth is None:
            config.auth = login
        elif config.auth != login:
            message = f"there are other credentials for {host} as well, and K3s knows one for each host"
            self.lost("two-logins", message, span)

    def lost(self, id: str, message: str, span: Span) -> None:
        """K3s cannot say it: images come from elsewhere, or not at all."""
        self._tell(id, "error", message, span)

    def nearly(self, id: str, message: str, span: Span) -> None:
        """What K3s can say comes close."""
        self._tell(id, "warning", message, span)

    def remark(self, id: str, message: str, span: Span) -> None:
        """Nothing is lost, yet a person may wonder."""
        self._tell(id, "note", message, span)

    def _tell(self, id: str, severity: Severity, message: str, span: Span) -> None:
        problem = Problem(f"import-{id}", severity, message, span)
        if problem not in self.told:
            self.told.append(problem)

    @property
    def holds_secrets(self) -> bool:
        return any(config.auth is not None for config in self.configs.values())
