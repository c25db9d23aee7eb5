"""certs.d for containerd as its project releases it: the places K3s asks, said without K3s' patches.

As containerd: core/remotes/docker/config/hosts.go (v2.3.4), remotes/docker/config/hosts.go (v1.6.20; `override_path`
came with 1.6). The root of a hosts.toml is always asked last, whether it says so or not. So the last place of K3s' list
is the root of ours: the default endpoint or, where that is off, a mirror, and nobody is asked behind it.

Files of containerd 1.x pass through go-toml v1: it wants a `[host]` table, takes no escapes in the name of a table and
no brackets either, and an imported config.toml replaces all settings of a plugin (services/server/config/config.go).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pierhead.config.containerd import CAPABILITIES, DEFAULT_DIRECTORY, Directory, Host, default_host
from pierhead.config.k3s import auth_for, credentials
from pierhead.config.k3s_hosts import K3sHosts
from pierhead.config.registries import Config
from pierhead.config.rendered import File, Rendered, commented, is_text, origin_line, revealed, toml_string
from pierhead.errors import Problem
from pierhead.gourl import GoUrl, shown
from pierhead.redact import Secret
from pierhead.rewriting import InvalidPattern, compile_pattern, replacement_parts

IMPORTED: Final = "config.toml.d/pierhead-auth.toml"
PASTED: Final = "config.toml.part"

_HUB: Final = "docker.io"
_HUB_HOST: Final = "registry-1.docker.io"

_IMPORTED_HEAD: Final = """\
# for containerd 2: config.toml names this file in its imports; containerd reads it when it starts
version = 3

[plugins."io.containerd.cri.v1.images".registry.configs]
"""
_PASTED_HEAD: Final = """\
# for containerd 1.x: put these lines into config.toml (version = 2) itself and restart containerd; if they were
# imported, they would replace everything else that config.toml says of the plugin
[plugins."io.containerd.grpc.v1.cri".registry.configs]
"""


def render(hosts: K3sHosts, *, header_auth: bool = False) -> Rendered:
    """A hosts.toml for every registry that K3s writes one for, and the credentials beside them.

    They are in two files, as only containerd's own configuration has a place for them: `IMPORTED` and `PASTED`. With
    `header_auth` they are in hosts.toml instead, as a header that containerd always sends.
    """
    origin = origin_line(hosts.config.file, "containerd")
    if hosts.error is not None:
        return Rendered(origin, lost=tuple(item for item in hosts.problems if item.severity == "error"))
    if hosts.before_certs is not None:
        message = "the K3s release asked for has no certs.d; render for a release that has"
        return Rendered(origin, lost=(Problem("no-certs-d", "error", message),))
    headers = _Headers(hosts) if header_auth else None
    files: list[File] = []
    lost: list[Problem] = []
    for directory in _directories(hosts, headers):
        file, told = _hosts_file(directory, origin, headers)
        files.append(file)
        lost += told
    if headers is None:
        parts, told = _credential_files(hosts, origin)
        files += parts
        lost += told
    return Rendered(origin, tuple(files), tuple(dict.fromkeys(lost)))


def _directories(hosts: K3sHosts, headers: _Headers | None) -> Iterator[Directory]:
    for directory in hosts.tree.directories.values():
        if directory.hosts or directory.unusable is not None:
            yield directory
    if headers is None or _HUB in hosts.tree.directories:
        return
    # K3s' containerd finds docker.io's credentials under its other names too, where nothing makes it a directory.
    entry = headers.entry(_HUB_HOST)
    if entry is not None:
        yield Directory(_HUB, hosts.lookup(_HUB).hosts, key=entry.key)


# ── hosts.toml ───────────────────────────────────────────────────────────────────────────────────────────────────


def _hosts_file(directory: Directory, origin: str, headers: _Headers | None) -> tuple[File, list[Problem]]:
    lost = list(_lost_directory(directory))
    places = []
    for host in _places(directory):
        asked = _asked(host, directory)
        entry = headers.entry(asked) if headers else None
        header = headers.value(entry) if headers and entry else None
        place = _Place(_prefixed(host) or replace(host, rewrites={}), header)
        places.append(place)
        lost += _lost_rewrites(host, directory)
        lost += _lost_settings(place)
        lost += headers.told(place, entry, asked) if headers and entry else ()
    *mirrors, root = places
    if not all(_OLD_NAME.fullmatch(mirror.address) for mirror in mirrors):
        lost.append(_no_brackets(directory))
    lost = list(dict.fromkeys(lost))
    text = commented(origin, lost) + "".join(f"{line}\n" for line in _file_lines(mirrors, root))
    secret = any(place.header for place in places)
    return File(f"certs.d/{directory.name}/hosts.toml", text, secret=secret), lost


def _places(directory: Directory) -> Iterator[Host]:
    """Its hosts; a last one without a name is the registry itself, and has no path of its own either."""
    *mirrors, root = directory.hosts or (Host(),)
    yield from mirrors
    yield root if root.host else replace(root, scheme="", path="", capabilities=CAPABILITIES)


def _asked(host: Host, directory: Directory) -> str:
    """Whom containerd asks there; empty for all the registries behind the wildcard, which nobody's password is for."""
    if host.host or directory.name == DEFAULT_DIRECTORY:
        return host.host
    return default_host(directory.name).host


@dataclass(frozen=True, slots=True)
class _Place:
    """A host without rewrites, and the header that goes with every request to it."""

    host: Host
    header: Secret | None = None

    @property
    def address(self) -> str:
        """Empty for the registry itself, whichever that is."""
        host = self.host
        return str(GoUrl(scheme=host.scheme, host=host.host, path=host.path)) if host.scheme else ""

    def lines(self) -> Iterator[str]:
        """Its settings, as they stand below the name of a table or at the top of the file."""
        host = self.host
        if host.capabilities != CAPABILITIES:
            yield f"capabilities = {_strings(host.capabilities)}"
        if host.scheme and not host.path.endswith("/v2"):
            yield "override_path = true"
        authorities, pairs = _certificates(host)
        if authorities:
            yield f"ca = {_strings(authorities)}"
        if pairs:
            yield f"client = [{', '.join(map(_strings, pairs))}]"
        if host.skip_verify:
            yield "skip_verify = true"


def _file_lines(mirrors: list[_Place], root: _Place) -> Iterator[str]:
    yield f"server = {toml_string(root.address)}"
    yield from root.lines()
    if root.header:
        yield from ("", "[header]", _header_line(root.header))
    yield from ("", "[host]")
    taken: set[str] = set()
    for place in mirrors:
        address = place.address
        while address in taken:  # a place may be listed twice, a table may not; containerd takes the slash off again
            address += "/"
        taken.add(address)
        yield from ("", f"[host.{_table_name(address)}]")
        yield from (f"  {line}" for line in place.lines())
        if place.header:
            yield from (f"  [host.{_table_name(address)}.header]", f"    {_header_line(place.header)}")


def _header_line(header: Secret) -> str:
    return f"Authorization = {toml_string(revealed(header))}"


def _certificates(host: Host) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The files as the configuration names them: a relative path is for containerd to complete."""
    tls = host.origin.config.tls if host.origin.config else None
    if tls is None:
        return host.ca, host.client
    authorities = (tls.ca_file.value,) if tls.ca_file else ()
    pair = tuple(text.value if text else "" for text in (tls.cert_file, tls.key_file))
    return authorities, (pair,) if any(pair) else ()


# ── rewrites ─────────────────────────────────────────────────────────────────────────────────────────────────────

_WHOLE_NAME = re.compile(r"\^?(?P<group>\()?\.[*+](?(group)\))\$?")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)+")  # what a path keeps as it is, without a dot to clean away


def _rules(host: Host) -> dict[str, str]:
    """The rules that do something: containerd skips those that are no patterns."""
    return {pattern: replacement for pattern, replacement in host.rewrites.items() if _is_pattern(pattern)}


def _is_pattern(pattern: str) -> bool:
    try:
        compile_pattern(pattern)
    except InvalidPattern:
        return False
    return True


def inserted_prefix(rules: Mapping[str, str]) -> str | None:
    """What the only rule puts before every name whatsoever, without its last slash; None if it does anything else."""
    if len(rules) != 1:
        return None
    ((pattern, replacement),) = rules.items()
    parts = [part for part in replacement_parts(replacement) if part != (False, "")]
    found = _WHOLE_NAME.fullmatch(pattern)
    if found:
        whole = {(True, "0"), (True, "1")} if found["group"] else {(True, "0")}
        if not parts or parts.pop() not in whole:
            return None
    elif pattern != "^":
        return None
    prefix = "".join(text for _, text in parts)
    plain = not any(is_name for is_name, _ in parts) and _PREFIX.fullmatch(prefix)
    return prefix.removesuffix("/") if plain else None


def _prefixed(host: Host) -> Host | None:
    """The host with its only rewrite said as a path: `/v2/prefix` + `name` is `/v2` + `prefix/name`."""
    prefix = inserted_prefix(_rules(host))
    if prefix is None or not host.host:
        return None
    return replace(host, path=f"{host.path.rstrip('/')}/{prefix}", rewrites={})


def _lost_rewrites(host: Host, directory: Directory) -> Iterator[Problem]:
    prefixed = _prefixed(host)
    for pattern, replacement in _rules(host).items():
        rule = host.origin.rewrites.get(pattern)
        span = rule.pattern.span if rule else None
        if prefixed is not None:
            message = (
                f"containerd has no rewrites: {pattern!r} is said as the path {prefixed.path} of {host.host}, which "
                "asks for the same; tokens are asked for under both names"
            )
            yield Problem("rewrite-as-path", "note", message, span)
        else:
            message = (
                f"containerd has no rewrites: {pattern!r} to {replacement!r} is lost, and the endpoints of "
                f"{_named(directory)} are asked for the images' own names; "
                "fill a `pierhead serve` by `pierhead pull`, which rewrites, and name that as the endpoint"
            )
            yield Problem("rewrite-lost", "error", message, span)


# ── what else is not said ────────────────────────────────────────────────────────────────────────────────────────


def _named(directory: Directory) -> str:
    """The registry as the configuration names it."""
    return directory.key.shown if directory.key else shown(directory.name)


def _lost_directory(directory: Directory) -> Iterator[Problem]:
    span = directory.key.span if directory.key else None
    name = _named(directory)
    if directory.unusable is not None:
        message = (
            f"the mirrors of {name} are not written for containerd, as its K3s build cannot read them either "
            f"({directory.unusable}) and asks {name} itself; `pierhead check` says what to correct"
        )
        yield Problem("unusable-hosts-toml", "error", message, span)
    elif directory.hosts[-1].host and directory.hosts[-1].origin.kind != "default":
        message = (
            f"the default endpoint of {name} is off: the last mirror is the `server` for containerd, "
            "so that nobody is asked behind it"
        )
        yield Problem("default-endpoint-off", "note", message, span)


def _lost_settings(place: _Place) -> Iterator[Problem]:
    host, span = place.host, place.host.origin.span
    if host.origin.kind == "embedded":
        message = f"the embedded registry {host.host} is K3s' own: without K3s nobody answers containerd there"
        yield Problem("embedded-registry", "warning", message, span)
    if host.tries_https_first:
        message = (
            f"{host.host} is http with TLS settings: containerd before 1.6.25 and 1.7.7 never tries https there; "
            "write it as an endpoint with https:// if that is meant"
        )
        yield Problem("plain-http-first", "warning", message, span)
    authorities, pairs = _certificates(host)
    for path in (*authorities, *(path for pair in pairs for path in pair)):
        if path and not path.startswith("/"):
            message = f"containerd looks for {shown(path)} beside this hosts.toml; write a path that starts with /"
            yield Problem("relative-path", "warning", message, span)


def _no_brackets(directory: Directory) -> Problem:
    message = (
        "containerd 1.x cannot read the brackets of an IPv6 address in the name of a mirror and ignores the mirrors "
        f"of {_named(directory)}; give the mirror a host name, or use containerd 2"
    )
    return Problem("ipv6-mirror", "warning", message, directory.key.span if directory.key else None)


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────


def _credential_files(hosts: K3sHosts, origin: str) -> tuple[list[File], list[Problem]]:
    """The parts of config.toml that hold the credentials."""
    written = credentials(hosts.config)
    hub = auth_for(hosts.config, _HUB_HOST, hosts.behaviour)
    if hub is not None:  # containerd looks for them under this very name only
        written[_HUB_HOST] = written[hub.key.value]
    rows: list[str] = []
    lost: list[Problem] = []
    for key, fields in written.items():
        entry = hosts.config.configs.get(key, hub)
        if fields and entry is not None and entry.auth is not None:
            problem = _told_of(key, fields, entry)
            lost.append(problem)
            rows += [_credential_line(key, fields)] if problem.severity != "error" else []
    if not rows:
        return [], lost
    text = "".join(f"{row}\n" for row in rows)
    heads = {IMPORTED: _IMPORTED_HEAD, PASTED: _PASTED_HEAD}
    files = [File(path, f"{commented(origin, ())}{head}{text}", secret=True) for path, head in heads.items()]
    return files, lost


def _credential_line(key: str, fields: Mapping[str, Secret]) -> str:
    # One line: go-toml v1 reads the name of a table without escapes and brackets, the name of a value with both.
    auth = ", ".join(f"{name} = {toml_string(revealed(value))}" for name, value in fields.items())
    return f"{toml_string(key)} = {{ auth = {{ {auth} }} }}"


def _told_of(key: str, fields: Mapping[str, Secret], entry: Config) -> Problem:
    span = entry.auth.span if entry.auth else entry.key.span
    if not all(map(is_text, (key, *map(revealed, fields.values())))):
        message = (
            f"the credentials of {shown(key)} hold bytes that are not UTF-8, which no config.toml can; change them"
        )
        return Problem("credentials-lost", "error", message, span)
    message = (
        f"containerd takes the credentials of {shown(key)} from its own configuration, after a restart: "
        f"name {IMPORTED} in `imports` (containerd 2), or put {PASTED} into config.toml (1.x); "
        "--header-auth puts them into hosts.toml instead"
    )
    return Problem("credentials-elsewhere", "warning", message, span)


@dataclass(frozen=True, slots=True)
class _Headers:
    """Which header goes to which host, as far as credentials can be said that way."""

    hosts: K3sHosts

    def entry(self, host: str) -> Config | None:
        """The entry of `configs` whose credentials K3s' containerd uses at `host`."""
        found = auth_for(self.hosts.config, host, self.hosts.behaviour) if host else None
        auth = found.auth if found else None
        return found if auth and (auth.username or auth.password or auth.auth or auth.identity_token) else None

    def value(self, entry: Config) -> Secret | None:
        """The value of Authorization: Basic takes a user name and a password, neither of them empty."""
        pair = _pair(entry)
        return Secret(f"Basic {base64.b64encode(pair.reveal().encode(*_BYTES)).decode()}") if pair else None

    def told(self, place: _Place, entry: Config, asked: str) -> Iterator[Problem]:
        key, span = entry.key.shown, entry.auth.span if entry.auth else entry.key.span
        if place.header is not None:
            where = place.address or asked
            clear = ", in clear text" if place.host.scheme == "http" else ""
            message = (
                f"containerd sends the password of {key} with every request to {where}{clear}, whoever answers there, "
                "and to where it redirects within that host; a registry that wants tokens takes it from containerd 2.1 "
                "on only, and its token server gets it too"
            )
            yield Problem("credentials-in-header", "warning", message, span)
        elif entry.auth is not None and entry.auth.identity_token:
            message = f"the identity token of {key} cannot be a header for containerd; render without --header-auth"
            yield Problem("identity-token-lost", "error", message, span)
        else:
            message = (
                f"the auth of {key} holds no user name and password, so containerd sends nothing; "
                "write a username and a password"
            )
            yield Problem("credentials-lost", "error", message, span)


_BYTES: Final = ("utf-8", "surrogateescape")


def _pair(entry: Config) -> Secret | None:
    """`user:password` of an entry; None if it has another kind of credential, or none that is whole.

    Precedence and decoding as containerd: ParseAuth in internal/cri/server/images/image_pull.go.
    """
    auth = entry.auth
    if auth is None:
        return None
    if auth.username:
        password = revealed(auth.password.value if auth.password else None)
        return Secret(f"{auth.username.value}:{password}") if password else None
    if auth.identity_token or not auth.auth:
        return None
    try:
        packed = re.sub(r"[\r\n]", "", revealed(auth.auth.value))
        user, _, password = base64.b64decode(packed, validate=True).decode(*_BYTES).partition(":")
    except (binascii.Error, ValueError):
        return None
    password = password.strip("\0")
    return Secret(f"{user}:{password}") if user and password else None


# ── TOML ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _strings(texts: tuple[str, ...]) -> str:
    return f"[{', '.join(map(toml_string, texts))}]"


_OLD_NAME: Final = re.compile(r"""[^"\\\[\]]*|[^'\[\]]*""")  # what go-toml v1 reads in the name of a table


def _table_name(text: str) -> str:
    """Quoted with or without escapes: go-toml v1 reads none here."""
    return f"'{text}'" if re.search(r'["\\]', text) and "'" not in text else toml_string(text)
