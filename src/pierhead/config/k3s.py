"""What K3s makes of registries.yaml: the hosts that containerd gets, and the files it gets them through.

As K3s 866d743e5: pkg/agent/containerd/config.go, pkg/agent/templates/templates.go, pkg/spegel/registry.go
(specification, sections 3, 4 and 7). K3s talks to containerd through hosts.toml, written without escaping; so do we,
in memory, because what that does to a value is part of the behaviour.

Go ranges over its maps in random order. Where that changes the result, this is the result for the order of the
document, and a `Problem` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pierhead.config.containerd import (
    DEFAULT_DIRECTORY,
    Directory,
    Host,
    HostTree,
    Origin,
    UnusableHosts,
    directory_name,
    is_localhost,
    parse_entries,
)
from pierhead.config.k3s_before_certs import before_certs
from pierhead.config.k3s_hosts import Flags, K3sHosts, SkippedEndpoint, SkipReason
from pierhead.config.k3s_problems import as_read, auth_problems, key_problems, unusable_problem
from pierhead.config.k3s_releases import (
    asked_bare,
    is_dropped_bare,
    known,
    own_endpoint,
    unquoted_problems,
    without_listed_default,
)
from pierhead.config.k3sfile import CannotRender, Endpoint, HostsFile, rendered
from pierhead.config.registries import Config, Mirror, RegistriesConfig, Text, Tls, unusable
from pierhead.config.versions import CURRENT, Behaviour
from pierhead.errors import FLAGS, Problem, Span
from pierhead.gourl import GoUrl, InvalidUrl, go_bytes, parse, path_clean
from pierhead.redact import Secret

__all__ = [
    "Flags",
    "K3sHosts",
    "SkipReason",
    "SkippedEndpoint",
    "auth_for",
    "credentials",
    "hosts",
    "normalized",
    "render",
]

NO_FLAGS: Final = Flags()

NAME_LIMIT_BYTES = 255  # NAME_MAX of Linux file systems
PATH_LIMIT_BYTES = 4096  # PATH_MAX, the final NUL included

_NO_ADDRESS = ":"  # K3s' address of the embedded registry while that is off: an empty host and port, joined
_HUB = "registry-1.docker.io"
_HUB_ALIASES = (_HUB, "docker.io", "index.docker.io")


def hosts(config: RegistriesConfig, flags: Flags = NO_FLAGS, behaviour: Behaviour = CURRENT) -> K3sHosts:
    """The hosts of every registry, exactly as containerd gets them; raises `UnusableConfig`.

    Of other releases than the current one (`behaviour`): as far as section 1.4 and the modules `k3s_releases` and
    `k3s_before_certs` say. YAML is read, and containerd's own rules for certs.d are, as today's.
    """
    unusable(config)
    config, flags = known(config, flags, behaviour)
    found = _hosts(config, flags, behaviour) if behaviour.certs_d else before_certs(config, behaviour)
    if behaviour.quoted_credentials:
        return found
    return replace(found, problems=(*found.problems, *unquoted_problems(config)))


def _hosts(config: RegistriesConfig, flags: Flags, behaviour: Behaviour) -> K3sHosts:
    plan = _Plan.of(config, flags, behaviour)
    try:
        written = plan.write()
    except CannotRender as error:
        problem = Problem("cannot-render", "error", f"K3s cannot write its files: {error.message}", error.span)
        skipped, log = tuple(plan.skipped), tuple(plan.log)
        return K3sHosts(plan.config, HostTree(), skipped, log, (problem,), error.message, behaviour)
    directories = {directory.name: directory for directory in map(plan.read, written) if directory}
    unread = [skip for directory in directories.values() for skip in _unread(directory, plan)]
    disabled = [skip for directory in directories.values() for skip in _disabled(directory, plan)]
    problems = (*plan.problems, *auth_problems(plan.config, credentials(plan.config)))
    tree = HostTree.of(directories.values())
    skipped = (*plan.skipped, *unread, *disabled)
    return K3sHosts(plan.config, tree, skipped, tuple(plan.log), problems, behaviour=behaviour)


def render(config: RegistriesConfig, flags: Flags = NO_FLAGS) -> Mapping[str, str]:
    """The text of every hosts.toml by its path below `flags.root`, byte for byte.

    Raises `UnusableConfig`, and `CannotRender` with the message that K3s fails with. A path that leaves the root
    (a key like `../../x`) is absolute.
    """
    unusable(config)
    return {_path(written.path, flags): written.text for written in _Plan.of(config, flags, CURRENT).write()}


def auth_for(config: RegistriesConfig, host: str, behaviour: Behaviour = CURRENT) -> Config | None:
    """The entry of `configs` whose credentials containerd uses when `host` (name[:port]) challenges (section 4.2).

    Pass `K3sHosts.config`: the embedded registry replaces an entry under its own address.
    """
    for key in _HUB_ALIASES if host == _HUB and behaviour.docker_io_credentials else (host,):
        entry = config.configs.get(key)
        if entry is not None and entry.auth is not None:
            return entry
    return None


def credentials(config: RegistriesConfig) -> dict[str, dict[str, Secret]]:
    """What config.toml holds of `configs`: for each key with an `auth` the fields that are not empty."""
    written: dict[str, dict[str, Secret]] = {}
    for key, entry in config.configs.items():
        if entry.auth is None:
            continue
        auth = entry.auth
        fields = {
            "username": Secret(auth.username.value) if auth.username else None,
            "password": auth.password.value if auth.password else None,
            "auth": auth.auth.value if auth.auth else None,
            "identitytoken": auth.identity_token.value if auth.identity_token else None,
        }
        written[key] = {name: value for name, value in fields.items() if value is not None}
    return written


# -- from endpoints to hosts, as getHostConfigs -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Written:
    """One hosts.toml: what it was made of, the absolute path of its directory, and its text."""

    made: HostsFile
    path: str
    text: str


@dataclass(slots=True)
class _Plan:
    """What K3s decides, collected while it does: the files by name, and what it said and skipped."""

    config: RegistriesConfig
    flags: Flags
    behaviour: Behaviour
    files: dict[str, HostsFile] = field(default_factory=dict)
    skipped: list[SkippedEndpoint] = field(default_factory=list)
    log: list[Secret] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, config: RegistriesConfig, flags: Flags, behaviour: Behaviour) -> _Plan:
        plan = cls(_with_embedded(config, flags), flags, behaviour)
        for entry in plan.config.configs.values() if behaviour.config_of_default else ():
            plan._add_config(entry)
        for mirror in plan.config.mirrors.values():
            plan._add_mirror(mirror)
        for entry in plan.config.configs.values() if not behaviour.config_of_default else ():
            plan._add_own_endpoint(entry)
        if not behaviour.default_listed_last:
            plan.files = {name: plan._without_listed_default(made) for name, made in plan.files.items()}
        plan._drop_defaults()
        plan.problems.extend(key_problems(plan.config, plan.files))
        return plan

    @property
    def address(self) -> str:
        return self.flags.embedded_registry or _NO_ADDRESS

    def _add_config(self, entry: Config) -> None:
        made = self._default_file(entry.key, entry)
        if made is not None:
            self.files[_file_name(entry.key)] = made

    def _add_own_endpoint(self, entry: Config) -> None:
        """As K3s did before it made the default endpoint of `configs` first; it looked for the literal key here too."""
        found = self.files.get(entry.key.value)
        made = found or self._default_file(entry.key, entry)
        if made is None or made.endpoints:
            return
        if entry.key.value == "*" or entry.auth is not None or entry.tls is not None:
            made = own_endpoint(entry, normalized(entry.key.value, self.address)[1])
        self.files[_file_name(entry.key)] = made

    def _add_mirror(self, mirror: Mirror) -> None:
        key = mirror.key
        # K3s looks for the literal key here, so what configs."*" made (under "_default") is lost to mirrors."*".
        made = self.files.get(key.value)
        if made is None:
            config = _config_for(self.config, key.value) if self.behaviour.config_of_default else None
            made = self._default_file(key, config)
            if made is None:
                self.skipped.extend(
                    SkippedEndpoint(key, text, "invalid-registry", f"the mirror name {key.shown} is no address")
                    for text in mirror.endpoints
                )
                return
            if self.flags.disable_default_registry_endpoint:
                made = replace(made, default=None)
        elif self.flags.disable_default_registry_endpoint and key.value in self.config.configs:
            message = f"the default endpoint of {key.shown} stays: configs has an entry of the same name"
            self.problems.append(Problem("default-endpoint-stays", "warning", message, key.span))
        if key.value == "*" and made.default is not None:
            made = replace(made, default=Endpoint(GoUrl(), kind="default"))
        made = self._with_endpoints(replace(made, key=key), mirror)
        if key.value == "*" and made.endpoints and not self.behaviour.wildcard_falls_back:
            made = replace(made, default=None)
        self.files[_file_name(key)] = made

    def _default_file(self, key: Text, config: Config | None) -> HostsFile | None:
        try:
            _, url, _ = normalized(key.value, self.address)
        except InvalidUrl as error:
            start = f"error: Failed to generate config for registry {key.value}: invalid endpoint URL {key.value}"
            self.log.append(Secret(f"{start} for {key.value}: {error.go_text.reveal()}"))
            message = f"K3s cannot use {key.shown} as a registry name and ignores the entry: {error.message}"
            self.problems.append(Problem("invalid-registry", "error", message, key.span))
            return None
        return HostsFile(key, Endpoint(None if key.value == "*" else url, config, kind="default"))

    def _with_endpoints(self, made: HostsFile, mirror: Mirror) -> HostsFile:
        seen: set[str] = set()
        endpoints = list(made.endpoints)
        for index, text in enumerate(mirror.endpoints):
            endpoint = self._endpoint(index, text, mirror)
            if endpoint is None:
                continue
            if endpoint.address in seen and self.behaviour.duplicates_harmless:
                self._skip_duplicate(index, text, mirror)
                continue
            seen.add(endpoint.address)
            last = index + 1 == len(mirror.endpoints) and self.behaviour.default_listed_last
            if last and endpoint.address == (made.default.address if made.default else ""):
                made = replace(made, default=replace(endpoint, kind="default"))
                self._note_lost_rewrites(text, mirror)
            else:
                endpoints.append(endpoint)
        if made.default is not None and not self.behaviour.rewrites_spare_default:
            made = replace(made, default=replace(made.default, rewrites=mirror.rewrites))
        return replace(made, endpoints=tuple(endpoints))

    def _without_listed_default(self, made: HostsFile) -> HostsFile:
        kept = without_listed_default(made)
        if made.endpoints and not kept.endpoints:
            message = "the mirror lists its registry's own endpoint last: this release writes nothing for it"
            self.problems.append(Problem("mirror-lost", "error", message, made.key.span))
            texts = [endpoint.text for endpoint in made.endpoints if endpoint.text is not None]
            self.skipped.extend(SkippedEndpoint(made.key, text, "lost-mirror", message) for text in texts)
        return kept

    def _endpoint(self, index: int, text: Text, mirror: Mirror) -> Endpoint | None:
        if not self.behaviour.bare_endpoints and is_dropped_bare(text.value):
            message = "this release drops an endpoint that is a bare IP address"
            self._skip(SkippedEndpoint(mirror.key, text, "invalid-url", message), "invalid-endpoint", "error")
            return None
        try:
            registry, url, override = normalized(text.value, self.address)
        except InvalidUrl as error:
            start = f"warning: Ignoring invalid endpoint URL {index}={text.value} for {mirror.key.value}"
            self.log.append(Secret(f"{start}: {error.go_text.reveal()}"))
            message = f"K3s cannot use the endpoint and ignores it: {error.message}"
            self._skip(SkippedEndpoint(mirror.key, text, "invalid-url", message), "invalid-endpoint", "error")
            return None
        if not self.behaviour.bare_endpoints:
            url, override = asked_bare(text.value, url)
        embedded = url.host == self.address
        by_name = self.behaviour.config_of_default
        return Endpoint(
            url,
            _config_for(self.config, registry) if by_name else self.config.configs.get(url.host),
            text,
            () if embedded else mirror.rewrites,
            override,
            "embedded" if embedded and self.flags.embedded_registry else "mirror",
        )

    def _skip_duplicate(self, index: int, text: Text, mirror: Mirror) -> None:
        line = f"warning: Skipping duplicate endpoint URL {index}={text.value} for {mirror.key.value}"
        self.log.append(Secret(line))
        message = f"{text.shown} is the same endpoint as one before it"
        self._skip(SkippedEndpoint(mirror.key, text, "duplicate", message), "duplicate-endpoint", "warning")

    def _skip(self, skip: SkippedEndpoint, id: str, severity: Literal["error", "warning"]) -> None:
        self.skipped.append(skip)
        self.problems.append(Problem(id, severity, skip.message, skip.span))

    def _note_lost_rewrites(self, text: Text, mirror: Mirror) -> None:
        if mirror.rewrites:
            message = f"{text.shown} is the default endpoint, in last place: rewrites do not apply to it"
            self.problems.append(Problem("rewrites-not-for-default", "warning", message, text.span))

    def _drop_defaults(self) -> None:
        """Nothing is written for a registry of which only the default is known, without any setting of its own."""
        for name, made in list(self.files.items()):
            if made.endpoints or (made.default is not None and made.default.is_configured):
                continue
            del self.files[name]
            if made.default is None:
                message = f"no endpoint of {made.key.shown} is usable, so nothing is written and the registry is asked"
                self.problems.append(Problem("default-endpoint-stays", "warning", message, made.key.span))
            if made.default is not None and made.default.text is not None:
                message = "it is the default endpoint, and nothing else is set: K3s writes nothing for this registry"
                self.skipped.append(SkippedEndpoint(made.key, made.default.text, "only-default", message))

    def write(self) -> list[_Written]:
        """Every file, its directory and its text; raises `CannotRender`."""
        return [
            _Written(made, text=rendered(made, self.flags.program), path=self._directory_path(name, made.key))
            for name, made in self.files.items()
        ]

    def _directory_path(self, name: str, key: Text) -> str:
        path = path_clean(f"{self.flags.root}/certs.d/{name}")
        start = 0
        while start >= 0:
            start = path.find("/", start + 1)
            above = go_bytes(path if start < 0 else path[:start])
            if len(above.rpartition(b"/")[2]) > NAME_LIMIT_BYTES or len(above) >= PATH_LIMIT_BYTES:
                failed = path if start < 0 else path[:start]
                raise CannotRender(f"mkdir {failed}: file name too long", span=key.span)
        return path

    def read(self, written: _Written) -> Directory | None:
        """What containerd reads from the file; None if that is not below certs.d."""
        made = written.made
        name = directory_name(_path(written.path, self.flags))
        if name is None:
            return None
        if not self.behaviour.default_only_file and not made.endpoints:
            directory = Directory(name, unusable="invalid `host` tree", key=made.key)
            self.problems.append(unusable_problem(made, directory))
            return directory
        try:
            entries = parse_entries(written.text, written.path)
        except UnusableHosts as error:
            directory = Directory(name, unusable=error.message, key=made.key)
            self.problems.append(unusable_problem(made, directory))
            return directory
        if not self.behaviour.rewrites_spare_default:  # in no release, as certs.d came with it: to tell the two apart
            entries = [(table, _rewriting(made, host) if table is None else host) for table, host in entries]
        return Directory(name, tuple(_annotated(made, entries)), key=made.key)


def _file_name(key: Text) -> str:
    return DEFAULT_DIRECTORY if key.value == "*" else key.value


def normalized(endpoint: str, address: str = _NO_ADDRESS) -> tuple[str, GoUrl, bool]:
    """(name to look for in configs, URL, whether its path is taken as it is); as normalizeEndpointAddress.

    `address` is that of the embedded registry. Raises `InvalidUrl`.
    """
    url = parse(endpoint if "://" in endpoint else f"//{endpoint}")
    scheme = url.scheme
    if not scheme:
        plain = is_localhost(url.host) and url.port not in ("", "443") and url.host != address
        scheme = "http" if plain else "https"
    host = _HUB if url.host == "docker.io" else url.host
    registry = "docker.io" if host == _HUB else url.host
    url = replace(url, scheme=scheme, host=host)
    if url.path in ("", "/", "/v2"):
        return registry, replace(url, path="/v2"), False  # a raw path stays, as K3s sets only this field
    return registry, url, True


def _config_for(config: RegistriesConfig, host: str) -> Config | None:
    """As configForHost: docker.io looks under registry-1.docker.io first; no wildcard, no default ports."""
    if host == "docker.io" and _HUB in config.configs:
        return config.configs[_HUB]
    return config.configs.get(host)


def _with_embedded(config: RegistriesConfig, flags: Flags) -> RegistriesConfig:
    """As spegel's InjectMirror."""
    address = flags.embedded_registry
    if address is None:
        return config
    nowhere = Span(FLAGS, 1)
    files = (f"{flags.agent_directory}/{name}" for name in _EMBEDDED_FILES)
    ca, certificate, key = (Text(path, nowhere) for path in files)
    endpoint = Text(f"https://{address}/v2", nowhere)
    configs = {**config.configs, address: Config(Text(address, nowhere), tls=Tls(ca, certificate, key, False, nowhere))}
    mirrors = {
        name: mirror if is_localhost(name) else replace(mirror, endpoints=(endpoint, *mirror.endpoints))
        for name, mirror in config.mirrors.items()
    }
    mirrors[address] = Mirror(Text(address, nowhere), (endpoint,))
    return replace(config, configs=configs, mirrors=mirrors)


_EMBEDDED_FILES = ("server-ca.crt", "client-k3s-controller.crt", "client-k3s-controller.key")


def _path(directory: str, flags: Flags) -> str:
    """The hosts.toml of `directory`, relative to the root if it is below."""
    path = f"{directory.rstrip('/')}/hosts.toml"
    return path.removeprefix(f"{path_clean(flags.root)}/")


# -- for people -------------------------------------------------------------------------------------------------------


def _annotated(made: HostsFile, entries: list[tuple[str | None, Host]]) -> Iterator[Host]:
    """The hosts that containerd read, each with the endpoint it was written for."""
    named = [name for name, _ in entries if name is not None]
    if len(named) == len(made.endpoints):
        known = dict(zip(named, made.endpoints, strict=True))
    else:  # a rewrite with line breaks made tables of its own
        known = {endpoint.address: endpoint for endpoint in made.endpoints}
    for name, host in entries:
        endpoint = made.default if name is None else known.get(name)
        yield host if endpoint is None else _with_origin(host, endpoint, made.key)


def _rewriting(made: HostsFile, host: Host) -> Host:
    """The default host with the rewrites of its mirror."""
    rules = made.default.rewrites if made.default else ()
    read = {as_read(rule.pattern.value): as_read(rule.replacement.value) for rule in rules}
    texts = {pattern: text for pattern, text in read.items() if pattern is not None and text is not None}
    return replace(host, rewrites=texts)


def _with_origin(host: Host, endpoint: Endpoint, key: Text) -> Host:
    rules = {pattern: rule for rule in endpoint.rewrites if (pattern := as_read(rule.pattern.value)) in host.rewrites}
    ordered = {pattern: host.rewrites[pattern] for pattern in rules if pattern is not None} | dict(host.rewrites)
    written = {pattern: rule for pattern, rule in rules.items() if pattern is not None}
    origin = Origin(
        endpoint.kind, endpoint.text, endpoint.config, written, endpoint.text.span if endpoint.text else key.span
    )
    return replace(host, rewrites=ordered, origin=origin)


def _unread(directory: Directory, plan: _Plan) -> Iterator[SkippedEndpoint]:
    """The endpoints that K3s writes and containerd does not find in its file: all of them, or those it misreads."""
    if directory.key is None:
        return
    made = plan.files[_file_name(directory.key)]
    found = [host.origin.endpoint for host in directory.hosts]
    why = directory.unusable or "a quote in it makes this endpoint part of another text"
    message = f"containerd cannot use the file K3s writes for this registry: {why}"
    for endpoint in (*made.endpoints, made.default):
        if endpoint is None or endpoint.text is None:
            continue
        if directory.unusable is not None or not any(endpoint.text is text for text in found):
            yield SkippedEndpoint(directory.key, endpoint.text, "unusable-file", message)


def _disabled(directory: Directory, plan: _Plan) -> Iterator[SkippedEndpoint]:
    """The default endpoint, unless containerd asks it for want of a host in last place, or of a file (E28)."""
    if not directory.hosts or not directory.hosts[-1].host or directory.key is None:
        return
    made = plan.files[_file_name(directory.key)]
    if made.default is None and all(endpoint.kind != "default" for endpoint in made.endpoints):
        message = "the default registry endpoint is disabled"
        if not plan.flags.disable_default_registry_endpoint:
            message = "this release asks nobody behind the endpoints of a wildcard"
        yield SkippedEndpoint(directory.key, None, "default-disabled", message)
