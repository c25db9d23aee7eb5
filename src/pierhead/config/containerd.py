"""certs.d and hosts.toml as containerd reads them (K3s' build of it: with rewrites, and its rule for the root host).

As containerd v2.3.4, core/remotes/docker/config/hosts.go, with K3s' patches; specification, sections 2.2, 5 and 8.1.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Literal

from pierhead.errors import PierheadError, Problem, Span
from pierhead.gourl import InvalidUrl, go_bytes, parse, path_clean, shown, split_host_port
from pierhead.redact import Secret

if TYPE_CHECKING:
    from pierhead.config import toml
    from pierhead.config.registries import Config, Rewrite, Text

CAPABILITIES = ("pull", "resolve", "push", "referrers")
DEFAULT_ROOT = "/var/lib/rancher/k3s/agent/etc/containerd"
DEFAULT_DIRECTORY = "_default"

HostKind = Literal["mirror", "default", "embedded"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a host comes from, for people; never part of what a host is.

    `endpoint`: as the mirror lists it, None if it does not (a default, the embedded registry). `config`: the entry of
    `configs` whose TLS the host has. `rewrites`: for a pattern of `Host.rewrites` the rule as written.
    """

    kind: HostKind = "mirror"
    endpoint: Text | None = None
    config: Config | None = None
    rewrites: Mapping[str, Rewrite] = field(default_factory=dict)
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """A place to ask, as containerd understands it.

    `host` may be empty: containerd then fails with "no Host in request URL" and goes on, unless it is the last one.
    `path` is decoded and cleaned; requests go to `path.Join("/", path, repository, …)`. `rewrites` maps pattern to
    replacement, in document order where it is known (Go's own order is random). `explicit_tls`: some TLS setting was
    given, even an empty one.
    """

    scheme: str = ""
    host: str = ""
    path: str = ""
    capabilities: tuple[str, ...] = CAPABILITIES
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False
    rewrites: Mapping[str, str] = field(default_factory=dict, hash=False)
    header: Mapping[str, tuple[Secret, ...]] = field(default_factory=dict, hash=False)
    dial_timeout_seconds: float | None = None
    explicit_tls: bool = False
    origin: Origin = field(default_factory=Origin, compare=False)

    @property
    def tries_https_first(self) -> bool:
        """Whether containerd tries https at this http host and falls back if plain HTTP answers (section 5)."""
        return self.scheme == "http" and self.explicit_tls and split_host_port(self.host)[1] != "80"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory below certs.d. Without hosts and without `unusable` it has no hosts.toml, yet hides `_default`.

    `unusable`: why containerd ignores its hosts.toml. `key`: the word in registries.yaml it was made for.
    """

    name: str
    hosts: tuple[Host, ...] = ()
    unusable: str | None = None
    key: Text | None = field(default=None, compare=False)

    @property
    def path(self) -> str:
        """Where its hosts.toml is, for people."""
        return f"certs.d/{shown(self.name)}/hosts.toml"

    def __repr__(self) -> str:
        return f"Directory({shown(self.name)!r}, {self.hosts}, unusable={self.unusable!r})"


@dataclass(frozen=True, slots=True)
class Lookup:
    """What containerd asks for images of `registry`: `hosts` in order. `directory`: the one that was hit, if any."""

    registry: str
    directory: Directory | None
    hosts: tuple[Host, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class HostTree:
    """All of certs.d: directory name (relative, cleaned) to what is in it."""

    directories: Mapping[str, Directory] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"HostTree({list(self.directories.values())})"

    @classmethod
    def read(cls, files: Mapping[str, str], *, root: str = DEFAULT_ROOT) -> HostTree:
        """The tree that `files` (path below `root` to text) make; what is not below certs.d is left out."""
        directories = []
        for path, text in files.items():
            name = directory_name(path)
            if name is not None:
                directories.append(read_directory(name, text, root=root))
        return cls.of(directories)

    @classmethod
    def of(cls, directories: Iterable[Directory]) -> HostTree:
        """The tree of these directories and of those that they lie in."""
        found = {directory.name: directory for directory in directories}
        for name in list(found):
            while name := posixpath.dirname(name):
                found.setdefault(name, Directory(name))
        return cls(found)

    def lookup(self, registry: str) -> Lookup:
        """What containerd would do for images of `registry` (sections 2.2 and 8.1)."""
        directory = next(filter(None, map(self.directories.get, _directory_names(registry))), None)
        if directory is None:
            return Lookup(registry, None, (default_host(registry),))
        problems = tuple(_directory_problems(directory, registry))
        hosts = directory.hosts or (Host(origin=Origin("default")),)
        if not hosts[-1].host:
            hosts = (*hosts[:-1], _filled(hosts[-1], registry))
        return Lookup(registry, directory, hosts, problems)


class UnusableHosts(PierheadError):
    """containerd cannot use a hosts.toml. `go_text` is what it logs; `message` the same without userinfo."""

    def __init__(self, go_text: str, safe: str | None = None) -> None:
        self.go_text = Secret(go_text)
        super().__init__(shown(go_text) if safe is None else safe)


def directory_name(path: str) -> str | None:
    """The directory below certs.d that the hosts.toml at `path` belongs to; None if it is not below certs.d."""
    found = re.fullmatch(r"certs\.d/(.+)/hosts\.toml", path, re.DOTALL)
    return found[1] if found else None


def read_directory(name: str, text: str, *, root: str = DEFAULT_ROOT) -> Directory:
    """The directory `name` with `text` as its hosts.toml; an unusable file is a value, not an error."""
    try:
        return Directory(name, parse_hosts_toml(text, f"{root}/certs.d/{name}"))
    except UnusableHosts as error:
        return Directory(name, unusable=error.message)


def is_localhost(host: str) -> bool:
    """containerd's `IsLocalhost`: `localhost` or a loopback address, with or without a port; case matters."""
    name = split_host_port(host)[0] or host
    if name == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    if "%" in name:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def default_host(registry: str) -> Host:
    """Where images of `registry` come from when nothing is configured."""
    return _filled(Host(), registry)


def _directory_names(registry: str) -> list[str]:
    """Where containerd looks, in order; as hosts.go: hostPaths and hostDirectory."""
    name, colon, port = registry.rpartition(":")
    windows = [f"{name}_{port}_"] if colon and name else []
    return [*windows, registry, DEFAULT_DIRECTORY]


def _directory_problems(directory: Directory, registry: str) -> Iterable[Problem]:
    span = directory.key.span if directory.key else None
    if directory.unusable is not None:
        message = (
            f"containerd cannot use {directory.path} ({directory.unusable}) and ignores it: "
            f"images of {registry} come from {registry} itself, without any mirror"
        )
        yield Problem("unusable-hosts-toml", "error", message, span)
    elif not directory.hosts:
        message = f"certs.d/{shown(directory.name)} exists without a hosts.toml and hides the wildcard mirror"
        yield Problem("empty-directory", "warning", message, span)


def _filled(host: Host, registry: str) -> Host:
    """The last host, which names none, as the registry's own default; TLS settings stay."""
    scheme, name, skip_verify, explicit = "https", registry, host.skip_verify, host.explicit_tls
    if registry == "docker.io":
        name = "registry-1.docker.io"
    elif is_localhost(registry):
        port = split_host_port(registry)[1]
        scheme = "https" if port in ("", "443") else "http"
        if port != "80":
            skip_verify = explicit = True
    return replace(
        host,
        scheme=scheme,
        host=name,
        path="/v2",
        capabilities=CAPABILITIES,
        skip_verify=skip_verify,
        explicit_tls=explicit,
        origin=replace(host.origin, kind="default"),
    )


# -- hosts.toml -------------------------------------------------------------------------------------------------------

_Table = dict[str, Any]


def parse_hosts_toml(text: str, directory: str) -> tuple[Host, ...]:
    """The hosts in the order containerd asks them; raises `UnusableHosts`.

    `directory` is where the file lies: relative paths in it start there.
    """
    return tuple(host for _, host in parse_entries(text, directory))


def parse_entries(text: str, directory: str) -> list[tuple[str | None, Host]]:
    """As `parse_hosts_toml`, each host with the name of its table; None is the root host."""
    from pierhead.config import toml

    try:
        document = toml.read(go_bytes(text), known=_is_known)
    except toml.InvalidToml as error:
        raise UnusableHosts(f"toml: {error}") from None
    root = _fields(document.root)
    tables = _table(root, "host", "map[string]config.hostFileConfig")
    if any(not isinstance(table, dict) for table in tables.values()):
        raise _mismatch("host", "config.hostFileConfig")
    entries: list[tuple[str | None, Host]] = []
    for name in _host_order(document.tables):
        entries.append((name, _host(name, _fields(tables.get(name, {})), directory)))
    server = _string(root, "server")
    # K3s' fork: the root is a host only if it has a server line, or if there is no other.
    if "server" in root or not entries:
        entries.append((None, replace(_host(server, root, directory), origin=Origin("default"))))
    return entries


def _is_known(key: toml.Key) -> bool:
    """Whether containerd has a place for this table."""
    own = ("header", "rewrite")
    if key[0].lower() != "host":
        return len(key) == 1 and key[0].lower() in own
    return len(key) <= 2 or (len(key) == 3 and key[2].lower() in own)


def _host_order(tables: tuple[toml.Key, ...]) -> list[str]:
    """As hosts.go: getSortedHosts, which compares a table only with the one before."""
    order, before = [], ""
    for key in tables:
        if len(key) >= 2 and key[0] == "host" and key[1] != before:
            before = key[1]
            order.append(before)
    return order


def _host(server: str, table: _Table, directory: str) -> Host:
    """As hosts.go: parseHostConfig."""
    override = table.get("override_path", False)
    if not isinstance(override, bool):
        raise _mismatch("override_path", "bool")
    scheme, host, path = _address(server, override=override) if server else ("", "", "")
    skip_verify = table.get("skip_verify")
    if not isinstance(skip_verify, bool | None):
        raise _mismatch("skip_verify", "*bool")
    authorities, pairs = _authorities(table.get("ca"), directory), _pairs(table.get("client"), directory)
    return Host(
        scheme=scheme,
        host=host,
        path=path,
        capabilities=_capabilities(table),
        ca=authorities,
        client=pairs,
        skip_verify=bool(skip_verify),
        rewrites=_rewrites(table),
        header=_header(table),
        dial_timeout_seconds=_duration(_string(table, "dial_timeout")),
        explicit_tls="ca" in table or bool(pairs) or skip_verify is not None,
    )


def _address(server: str, *, override: bool) -> tuple[str, str, str]:
    if not server.startswith("http"):
        server = f"https://{server}"
    try:
        url = parse(server)
    except InvalidUrl as error:
        exact = f"unable to parse server {server}: {error.go_text.reveal()}"
        raise UnusableHosts(exact, f"unable to parse server {shown(server)}: {error.message}") from None
    path = path_clean(url.path) if url.path else ""
    if not override and not (path and path.endswith("/v2")):
        path += "/v2"
    return url.scheme, url.host, path


def _capabilities(table: _Table) -> tuple[str, ...]:
    named = _strings(table, "capabilities")
    for name in named:
        if name.lower() not in CAPABILITIES:
            raise UnusableHosts(f"unknown capability {name}")
    lowered = {name.lower() for name in named}
    return tuple(name for name in CAPABILITIES if name in lowered) if named else CAPABILITIES


def _authorities(value: Any, directory: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (_absolute(value, directory),)
    if isinstance(value, list):
        return tuple(_absolute(path, directory) for path in _only_strings(value))
    raise UnusableHosts('invalid type for "ca"')


def _pairs(value: Any, directory: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return ((_absolute(value, directory), ""),)
    if isinstance(value, list):
        return tuple(_pair(element, directory) for element in value)
    raise UnusableHosts('invalid type for "client"')


def _pair(value: Any, directory: str) -> tuple[str, str]:
    if isinstance(value, str):
        return _absolute(value, directory), ""
    if not isinstance(value, list):
        raise UnusableHosts('invalid type for "client"')
    paths = [_absolute(path, directory) for path in _only_strings(value)]
    if len(paths) != 2:
        raise UnusableHosts('invalid pair for "client"')
    return paths[0], paths[1]


def _absolute(path: str, directory: str) -> str:
    """As hosts.go: makeAbsPath; an empty path is the directory itself."""
    return path if path.startswith("/") else path_clean(f"{directory}/{path}")


def _rewrites(table: _Table) -> dict[str, str]:
    rewrites = _table(table, "rewrite", "map[string]string")
    if any(not isinstance(replacement, str) for replacement in rewrites.values()):
        raise _mismatch("rewrite", "map[string]string")
    return rewrites


def _header(table: _Table) -> dict[str, tuple[Secret, ...]]:
    header = {}
    for name, value in _table(table, "header", "map[string]interface {}").items():
        if not isinstance(value, str | list):
            raise UnusableHosts(f"invalid type for header {name!r}")
        header[name] = tuple(map(Secret, (value,) if isinstance(value, str) else _only_strings(value)))
    return header


_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(text: str) -> float | None:
    """Go's `time.ParseDuration`, in seconds."""
    if not text:
        return None
    sign = -1.0 if text.startswith("-") else 1.0
    unsigned = text[1:] if text[0] in "+-" else text
    if unsigned == "0":
        return 0.0
    parts = re.findall(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", unsigned)
    if not parts or "".join(number + unit for number, unit in parts) != unsigned:
        raise UnusableHosts("time: invalid duration")
    return sign * sum(float(number) * _UNIT_SECONDS[re.sub("[µμ]", "u", unit)] for number, unit in parts)


def _fields(table: _Table) -> _Table:
    """A struct's fields: go-toml finds them in any case of letters."""
    return {name.lower(): value for name, value in table.items()}


def _table(table: _Table, name: str, go_type: str) -> _Table:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise _mismatch(name, go_type)
    return value


def _string(table: _Table, name: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise _mismatch(name, "string")
    return value


def _strings(table: _Table, name: str) -> list[str]:
    value = table.get(name, [])
    if not isinstance(value, list) or any(not isinstance(element, str) for element in value):
        raise _mismatch(name, "[]string")
    return value


def _only_strings(values: list[Any]) -> list[str]:
    if any(not isinstance(value, str) for value in values):
        raise UnusableHosts("unable to cast a value to string")
    return values


def _mismatch(name: str, go_type: str) -> UnusableHosts:
    return UnusableHosts(f"toml: cannot decode {name} into a value of type {go_type}")
