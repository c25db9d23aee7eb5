"""registries.yaml as written: what yaml.v2 makes of it for K3s, every value with its line and column.

Specification, sections 1.2 and 1.3. Nothing here knows what a value means to K3s (`config.k3s` does), and nothing
raises on content: what K3s would refuse is in `RegistriesConfig.error`, what surprises in `RegistriesConfig.problems`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pierhead.config.goyaml import BOOL, STRING, STRINGS, Decoded, GoType, Item, Scalar, read
from pierhead.errors import Problem, Span, UsageError
from pierhead.gourl import shown
from pierhead.redact import Secret

SIZE_LIMIT_BYTES = 8 * 1024 * 1024

# -- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A string of the file and where it stands. `value` is exact (bytes that are not UTF-8 are surrogate escapes)."""

    value: str
    span: Span

    @property
    def shown(self) -> str:
        """The value for people: a URL's userinfo masked."""
        return shown(self.value)

    def __repr__(self) -> str:
        return f"Text({self.shown!r}, {self.span})"


@dataclass(frozen=True, slots=True)
class SecretText:
    """A string that nobody may see, and where it stands."""

    value: Secret
    span: Span


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One rule of a mirror, as written."""

    pattern: Text
    replacement: Text


@dataclass(frozen=True, slots=True)
class Mirror:
    """An entry of `mirrors`. A null entry is an empty one."""

    key: Text
    endpoints: tuple[Text, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()


@dataclass(frozen=True, slots=True)
class Auth:
    """The `auth` of a `configs` entry; `span` is that of the word `auth`. A field that is empty or null is None."""

    username: Text | None
    password: SecretText | None
    auth: SecretText | None
    identity_token: SecretText | None
    span: Span


@dataclass(frozen=True, slots=True)
class Tls:
    """The `tls` of a `configs` entry; `span` is that of the word `tls`. An empty or null path is None."""

    ca_file: Text | None
    cert_file: Text | None
    key_file: Text | None
    insecure_skip_verify: bool
    span: Span
    insecure_skip_verify_span: Span | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """An entry of `configs`. `auth: {}` and `tls: {}` count as configured, null does not."""

    key: Text
    auth: Auth | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class RegistriesConfig:
    """A whole file, in document order.

    `error` is set if K3s would refuse the file: what it logs, values that may be secrets masked; `go_error` is the
    exact text. Then the mappings are empty: K3s does not start with what remains, it waits for the file to change.
    """

    file: str
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    configs: Mapping[str, Config] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    error: str | None = None
    go_error: Secret | None = None

    def __repr__(self) -> str:
        mirrors, configs = list(self.mirrors.values()), list(self.configs.values())
        return f"RegistriesConfig({self.file!r}, {mirrors}, {configs}, {self.problems}, error={self.error!r})"


class ConfigUnreadable(UsageError):
    """The file cannot be read: it is missing, a directory, forbidden or too large. `missing` tells the first."""

    def __init__(self, path: str, reason: str, *, missing: bool = False) -> None:
        hint = "name another file with --private-registry" if missing else ""
        super().__init__(f"cannot read {path}: {reason}", hint=hint)
        self.path = path
        self.missing = missing


_HINTS = {
    "yaml-syntax": "correct what is named here; YAML indents with spaces, never with tabs",
    "yaml-type": (
        "endpoint is a list; rewrite, auth and tls are maps; insecure_skip_verify is true or false without quotes"
    ),
}


class UnusableConfig(UsageError):
    """K3s would refuse the file; `problems` are all the reasons."""

    def __init__(self, config: RegistriesConfig) -> None:
        self.problems = tuple(problem for problem in config.problems if problem.severity == "error")
        listed = [f"{problem.span}: {problem.message}" for problem in self.problems]
        lines = "\n".join([f"{config.file} cannot be used; K3s would wait until it is corrected", *listed])
        super().__init__(lines, hint=_HINTS.get(self.problems[0].id if self.problems else "", ""))


def unusable(config: RegistriesConfig) -> None:
    """Raises `UnusableConfig` if K3s would refuse the file, and does nothing otherwise."""
    if config.error is not None:
        raise UnusableConfig(config)


# -- reading ----------------------------------------------------------------------------------------------------------

_AUTH = GoType(
    "struct",
    "registries.AuthConfig",
    fields={"username": STRING, "password": STRING, "auth": STRING, "identity_token": STRING},
)
_AUTH_POINTER = GoType("struct", _AUTH.name, fields=_AUTH.fields, pointer=True)
_TLS_POINTER = GoType(
    "struct",
    "registries.TLSConfig",
    fields={"ca_file": STRING, "cert_file": STRING, "key_file": STRING, "insecure_skip_verify": BOOL},
    pointer=True,
)
_MIRROR = GoType(
    "struct",
    "registries.Mirror",
    fields={"endpoint": STRINGS, "rewrite": GoType("map", "map[string]string", element=STRING)},
)
_CONFIG = GoType("struct", "registries.RegistryConfig", fields={"auth": _AUTH_POINTER, "tls": _TLS_POINTER})
_REGISTRY = GoType(
    "struct",
    "registries.Registry",
    fields={
        "mirrors": GoType("map", "map[string]registries.Mirror", element=_MIRROR),
        "configs": GoType("map", "map[string]registries.RegistryConfig", element=_CONFIG),
        "auths": GoType("map", "map[string]registries.AuthConfig", element=_AUTH),
    },
)


def load(path: str | Path) -> RegistriesConfig:
    """Reads and parses the file at `path`; raises `ConfigUnreadable` if there is nothing to parse."""
    return parse(read_limited(path), os.fspath(path))


def read_limited(path: str | Path) -> bytes:
    """The bytes of the file at `path`; raises `ConfigUnreadable`."""
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or "it cannot be opened"
        raise ConfigUnreadable(name, reason, missing=isinstance(error, FileNotFoundError)) from error
    if len(data) > SIZE_LIMIT_BYTES:
        raise ConfigUnreadable(name, f"it is larger than {SIZE_LIMIT_BYTES} bytes")
    return data


def parse(data: bytes, file: str) -> RegistriesConfig:
    """What K3s reads from `data`, called `file` in every span; never raises on content."""
    reading = read(data, file, _REGISTRY, conceal=_is_secret)
    if reading.go_error is not None:
        error = Secret(reading.go_error)
        return RegistriesConfig(file, problems=reading.problems, error=reading.shown_error, go_error=error)
    top = reading.value
    problems = [*reading.problems, *_unused_auths(top)]
    mirrors = {key: _mirror(item) for key, item in _entries(top, "mirrors")}
    configs = {key: _config(item) for key, item in _entries(top, "configs")}
    return RegistriesConfig(file, mirrors, configs, tuple(sorted(problems, key=_place)))


def _is_secret(path: tuple[str, ...]) -> bool:
    """Whether a value below these keys may be a secret: all of `configs` and `auths` that is not `tls`."""
    return path[:1] == ("auths",) or (path[:1] == ("configs",) and path[2:3] != ("tls",))


def _place(problem: Problem) -> tuple[int, int]:
    return (problem.span.line, problem.span.column) if problem.span else (0, 0)


def _unused_auths(top: Decoded) -> list[Problem]:
    item = top.get("auths")
    if item is None:
        return []
    message = "auths is read by nothing; credentials belong under configs.<host>.auth"
    return [Problem("unused-auths", "warning", message, item.key.span)]


def _entries(holder: Decoded, name: str) -> list[tuple[str, Item]]:
    item = holder.get(name)
    return list(item.value.items()) if item is not None and item.value is not None else []


def _mirror(item: Item) -> Mirror:
    endpoint = item.value.get("endpoint")
    endpoints = endpoint.value if endpoint is not None and endpoint.value is not None else []
    rewrites = [
        Rewrite(_text(rule.key), Text(rule.value.value, rule.value.span)) for _, rule in _entries(item.value, "rewrite")
    ]
    return Mirror(_text(item.key), tuple(_text(text) for text in endpoints), tuple(rewrites))


def _config(item: Item) -> Config:
    auth, tls = item.value.get("auth"), item.value.get("tls")
    return Config(
        _text(item.key),
        _auth(auth) if auth is not None and auth.value is not None else None,
        _tls(tls) if tls is not None and tls.value is not None else None,
    )


def _auth(item: Item) -> Auth:
    fields: Decoded = item.value
    return Auth(
        _path(fields, "username"),
        _secret(fields, "password"),
        _secret(fields, "auth"),
        _secret(fields, "identity_token"),
        item.key.span,
    )


def _tls(item: Item) -> Tls:
    fields: Decoded = item.value
    skip = fields.get("insecure_skip_verify")
    return Tls(
        _path(fields, "ca_file"),
        _path(fields, "cert_file"),
        _path(fields, "key_file"),
        bool(skip is not None and skip.value.value),
        item.key.span,
        skip.key.span if skip is not None else None,
    )


def _path(fields: Decoded, name: str) -> Text | None:
    item = fields.get(name)
    return _text(item.value) if item is not None and item.value.value else None


def _secret(fields: Decoded, name: str) -> SecretText | None:
    item = fields.get(name)
    return SecretText(Secret(item.value.value), item.value.span) if item is not None and item.value.value else None


def _text(scalar: Scalar) -> Text:
    return Text(scalar.value, scalar.span)
