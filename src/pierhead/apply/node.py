"""What a running K3s or containerd was started with, and so does not notice while it runs.

Hosts, TLS and rewrites are in certs.d, which containerd reads at every pull. Credentials are in config.toml, which it
reads when it starts; K3s writes that file when it starts (specification, sections 7.3 and 10.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pierhead.apply import tree
from pierhead.apply.changes import CERTS_D, HOSTS_TOML
from pierhead.apply.target import Target
from pierhead.apply.tree import Content, NotAFile
from pierhead.config import k3s, toml
from pierhead.config.k3s_hosts import Flags, K3sHosts
from pierhead.errors import Problem, Span
from pierhead.gourl import shown
from pierhead.redact import Secret

CONFIG_TOML: Final = "config.toml"
DROP_INS: Final = "config-v3.toml.d"
TEMPLATES: Final = ("config-v3.toml.tmpl", "config.toml.tmpl")  # the first that exists counts
_FIELDS: Final = ("username", "password", "auth", "identitytoken")
_EMBEDDED: Final = b"/client-k3s-controller.crt"  # only K3s' own registry is asked with it
_MIRROR: Final = re.compile(rb'^\[host\."', re.MULTILINE)
_SERVER: Final = re.compile(rb"^server = ", re.MULTILINE)
_BASE: Final = re.compile(rb'\{\{-?\s*template\s+"base"')
_AUTH: Final = re.compile(rb"\.auth\b|PrivateRegistryConfig")

_Auths = Mapping[str, Mapping[str, Secret]]


@dataclass(frozen=True, slots=True)
class Stale:
    """Credentials that a running containerd has otherwise: for the host `key`, asked for images of `registries`."""

    key: str
    what: Literal["new", "changed", "gone"]
    registries: tuple[str, ...] = ()
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """What keeps a change from taking effect on this machine.

    `command` is what makes all of it take effect. Problems of severity "error" mean that what is written would not do
    what the file says.
    """

    command: str
    stale: tuple[Stale, ...] = ()
    problems: tuple[Problem, ...] = ()


def node(target: Target, hosts: K3sHosts, flags: Flags) -> Node:
    """What this machine's runtime does not notice, or was told besides; raises `Unreadable`."""
    if target.is_k3s:
        config = _config(target)
        stale = tuple(_stale(hosts, _auths(config))) if config is not None else ()
        problems = (*_unread(target, config), *_template(target, hosts), *_flags(target, flags))
        return Node(f"systemctl restart {_unit(target)}", stale, problems)
    if target.runtime == "containerd":
        return Node("systemctl restart containerd", problems=tuple(_unread(target, _config(target))))
    return Node("systemctl reload docker" if target.runtime == "docker" else "")


def _unit(target: Target) -> str:
    """The systemd unit: a server and an agent have different ones."""
    names = [f"{target.runtime}-server", f"{target.runtime}-agent", target.runtime]
    folders = [target.here(f"/{folder}/systemd/system") for folder in ("etc", "usr/local/lib", "usr/lib", "lib")]
    known = (name for name in names for folder in folders if (folder / f"{name}.service").exists())
    return next(known, target.runtime)


# ── config.toml ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _config(target: Target) -> list[dict[str, Any]] | None:
    """config.toml and what it imports, as far as they can be parsed; None without one: it has never started."""
    paths = [CONFIG_TOML]
    if target.is_k3s:
        paths += [f"{DROP_INS}/{name}" for name in tree.names(target.base, DROP_INS) if name.endswith(".toml")]
    found = [document for path in paths if (document := _document(target, path)) is not None]
    return found or None


def _document(target: Target, path: str) -> dict[str, Any] | None:
    content = _content(target, path)
    if content is None:
        return None
    try:
        return toml.read(content.data).root
    except toml.InvalidToml:
        return {}


def _content(target: Target, path: str) -> Content | None:
    try:
        return tree.read(target.base, path)
    except NotAFile:
        return None


def _registries(config: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The `registry` table of every plugin that has one: the CRI's, in both generations, and the snapshotter's."""
    for document in config:
        plugins = document.get("plugins")
        for plugin in plugins.values() if isinstance(plugins, dict) else ():
            registry = plugin.get("registry") if isinstance(plugin, dict) else None
            if isinstance(registry, dict):
                yield registry


def _auths(config: list[dict[str, Any]]) -> _Auths:
    """The credentials that containerd was started with, by host."""
    found: dict[str, dict[str, Secret]] = {}
    for registry in _registries(config):
        configs = registry.get("configs")
        for key, entry in configs.items() if isinstance(configs, dict) else ():
            auth = entry.get("auth") if isinstance(entry, dict) else None
            if isinstance(auth, dict):
                texts = {name: auth[name] for name in _FIELDS if isinstance(auth.get(name), str) and auth[name]}
                found[key] = {name: Secret(text) for name, text in texts.items()}
    return found


def _stale(hosts: K3sHosts, known: _Auths) -> Iterator[Stale]:
    written = k3s.credentials(hosts.config)
    for key in dict.fromkeys((*written, *known)):
        new, old = written.get(key) or None, known.get(key) or None
        if new == old:
            continue
        what: Literal["new", "changed", "gone"] = "gone" if new is None else "new" if old is None else "changed"
        entry = hosts.config.configs.get(key)
        span = entry.auth.span if entry and entry.auth else None
        yield Stale(key, what, tuple(_asked_for(hosts, key)), span)


def _asked_for(hosts: K3sHosts, key: str) -> Iterator[str]:
    """The registries whose images are asked for at a host that these credentials are for."""
    for name, directory in hosts.tree.directories.items():
        for host in directory.hosts:
            entry = k3s.auth_for(hosts.config, host.host, hosts.behaviour)
            if host.host == key or (entry is not None and entry.key.value == key):
                yield "*" if directory.key is None or directory.key.value == "*" else shown(name)
                break


def _unread(target: Target, config: list[dict[str, Any]] | None) -> Iterator[Problem]:
    """Whether containerd was told to look into certs.d at all."""
    place = f"{target.folder}/{CERTS_D}"
    paths = [registry.get("config_path") for registry in _registries(config or [])]
    named = {path for text in paths if isinstance(text, str) for path in text.split(":")}
    if place in {path.rstrip("/") for path in named} or (target.is_k3s and config is None):
        return
    if target.is_k3s:
        message = (
            f"{target.folder}/{CONFIG_TOML} does not send containerd to {place}: this {target.runtime} is older than "
            "certs.d, or a template leaves it out; only a restart brings a change to it"
        )
        yield Problem("certs-d-unread", "error", message)
    else:
        message = (
            f"kubelet's pulls read {place} only if {target.folder}/{CONFIG_TOML} names it as `config_path` of the "
            f"registry (containerd 2.2 does so by itself): name it and restart containerd once"
        )
        yield Problem("certs-d-unread", "warning", message)


def _template(target: Target, hosts: K3sHosts) -> Iterator[Problem]:
    """A template of the administrator's that leaves the credentials out: no restart brings them then."""
    for name in TEMPLATES:
        content = _content(target, name)
        if content is None:
            continue
        if k3s.credentials(hosts.config) and not _BASE.search(content.data) and not _AUTH.search(content.data):
            message = (
                f"{target.folder}/{name} replaces config.toml and leaves the credentials out, so no restart brings "
                'them: begin it with {{ template "base" . }}'
            )
            yield Problem("template-drops-auth", "warning", message)
        return


# ── the flags that K3s was started with, as far as its files tell ────────────────────────────────────────────────────


def _flags(target: Target, flags: Flags) -> Iterator[Problem]:
    disabled = None
    for name in tree.names(target.base, CERTS_D):
        content = _content(target, f"{CERTS_D}/{name}/{HOSTS_TOML}")
        if content is None or content.first_line != target.header:
            continue
        if _EMBEDDED in content.data and flags.embedded_registry is None and _is_address(name):
            yield _flag_problem(target, name, f"--embedded-registry {name}", "its embedded registry is on")
        elif name != "_default" and _MIRROR.search(content.data) and not _SERVER.search(content.data):
            disabled = disabled or name
    if disabled and not flags.disable_default_registry_endpoint:
        option = "--disable-default-registry-endpoint"
        yield _flag_problem(target, disabled, option, "it asks nobody behind the mirrors")


def _is_address(name: str) -> bool:
    host, _, port = name.rpartition(":")
    return bool(host) and port.isdigit()


def _flag_problem(target: Target, name: str, option: str, what: str) -> Problem:
    message = (
        f"{target.runtime} runs with {option.partition(' ')[0]}, as {CERTS_D}/{shown(name)} shows ({what}), and would "
        f"write other files than these: give {option} here too"
    )
    return Problem("flag-missing", "error", message)
