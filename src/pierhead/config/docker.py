"""Docker's daemon: daemon.json, certs.d, and config.json with the logins of its client.

As moby b985e2313a: daemon/pkg/registry/config.go (ValidateMirror, loadInsecureRegistries), service_v2.go
(lookupV2Endpoints: mirrors are for docker.io alone, and it is always asked behind them), registry.go (newTLSConfig: no
certificates for an insecure host), daemon/internal/distribution/registry.go and daemon/containerd/resolver.go (a mirror
gets no login of its own). A path in a mirror's URL came with Docker 25; /v2 is put behind it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pierhead.config import authjson
from pierhead.config.containerd import Host, is_localhost
from pierhead.config.k3s import auth_for
from pierhead.config.k3s_hosts import K3sHosts
from pierhead.config.places import (
    HUB,
    LOCAL_MIRROR,
    WILDCARD,
    Losses,
    Registry,
    before_api,
    certificates,
    is_place,
    json_files,
    line,
    named,
    registries,
    rule_line,
    tls_line,
)
from pierhead.config.rendered import File, Rendered, origin_line
from pierhead.errors import Span
from pierhead.gourl import shown

_RUNTIME = "docker"


@dataclass(slots=True)
class _Daemon:
    """What the daemon is told, collected registry by registry."""

    losses: Losses
    mirrors: list[str] = field(default_factory=list)
    insecure: list[str] = field(default_factory=list)
    certificates: dict[str, File] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        known = {"registry-mirrors": self.mirrors, "insecure-registries": self.insecure}
        return {name: texts for name, texts in known.items() if texts}


def render(hosts: K3sHosts) -> Rendered:
    """The files for /etc/docker, and config.json for the home of who pulls."""
    losses = Losses(_RUNTIME)
    daemon = _Daemon(losses)
    for registry in registries(hosts, losses):
        _tell(daemon, registry, hosts)
    origin = origin_line(hosts.config.file, _RUNTIME)
    logins = authjson.beside("config.json", hosts, losses, origin, flavour="docker")
    files = [
        *json_files("daemon.json", json.dumps(daemon.settings(), indent=2), origin, losses.problems),
        *daemon.certificates.values(),
        *logins,
    ]
    return Rendered(origin, tuple(files), tuple(losses.problems))


def _tell(daemon: _Daemon, registry: Registry, hosts: K3sHosts) -> None:
    losses = daemon.losses
    if registry.name == WILDCARD:
        _lose_wildcard(registry, losses)
        return
    if registry.name == HUB:
        asked = [host for host in registry.mirrors if _add_mirror(daemon, registry, host, hosts)]
    else:
        asked = [host for host in registry.mirrors if registry.is_itself(host)]
    if registry.name != HUB and registry.mirrors_elsewhere:
        message = f"docker has mirrors for docker.io only: {registry.key.shown} is asked itself; {LOCAL_MIRROR}"
        losses.lost("mirror", message, registry.key.span)
    if registry.is_never_asked:
        message = f"docker asks {registry.key.shown} itself in the end, though its default endpoint is disabled"
        losses.lost("default-disabled", message, registry.key.span)
    for host in (*asked, *((registry.default,) if registry.default is not None else ())):
        _add_tls(daemon, registry, host)


def _lose_wildcard(registry: Registry, losses: Losses) -> None:
    if registry.mirrors:
        message = f"docker has no mirror for every registry, for docker.io only; {LOCAL_MIRROR}"
        losses.lost("wildcard", message, registry.key.span)
    if registry.default is not None and registry.default.explicit_tls:
        message = "docker has no TLS settings for every registry: name each host under configs"
        losses.lost("wildcard-tls", message, registry.key.span)


def _add_mirror(daemon: _Daemon, registry: Registry, host: Host, hosts: K3sHosts) -> bool:
    """Name a mirror of docker.io, if docker can ask it; whether it can."""
    losses, path, span = daemon.losses, before_api(host), line(host, registry)
    if path is None:
        message = f"docker asks every mirror below /v2, so {named(host)} is not asked; {LOCAL_MIRROR}"
        losses.lost("path", message, span)
    elif host.rewrites:
        _lose_rewrites(host, registry, losses)
    elif not is_place(host.host):
        losses.lost("host", f"docker cannot ask {named(host)}", span)
    else:
        if path:
            losses.note("path", f"docker takes the path of {named(host)} from version 25 on", span)
        if host.tries_https_first:
            losses.nearly("http", f"docker asks {named(host)} by plain http only, K3s by https first", span)
        _lose_login(host, hosts, losses)
        daemon.mirrors.append(f"{host.scheme}://{host.host}/{path}".rstrip("/"))
        return True
    return False


def _lose_rewrites(host: Host, registry: Registry, losses: Losses) -> None:
    """A mirror that is asked for other names might give other images: it is left out."""
    for pattern in host.rewrites:
        message = f"docker rewrites no names, so no mirror of docker.io is asked; {LOCAL_MIRROR}"
        losses.lost("rewrite", message, rule_line(host, pattern, registry))


def _lose_login(host: Host, hosts: K3sHosts, losses: Losses) -> None:
    entry = auth_for(hosts.config, host.host, hosts.behaviour)
    if entry is not None and entry.auth is not None and host.host != "registry-1.docker.io":
        message = f"docker sends no login to a mirror, so {shown(host.host)} gets none; {LOCAL_MIRROR}"
        losses.lost("login", message, entry.auth.span)


def _add_tls(daemon: _Daemon, registry: Registry, host: Host) -> None:
    losses, place = daemon.losses, host.host
    is_own_hub = registry.name == HUB and host.origin.kind == "default"
    span = tls_line(host, registry)
    if not is_place(place):
        return
    if is_own_hub and host.explicit_tls:
        message = "docker reads no TLS settings for docker.io itself: put its CA into the machine's own certificates"
        losses.lost("hub-tls", message, span)
        return
    if not host.skip_verify and (host.scheme == "https" or host.explicit_tls):
        daemon.certificates.update({file.path: file for file in certificates(place, host, losses)})
    # It takes a mirror's scheme from its URL, and on this machine any certificate and plain http unasked.
    is_own_http = host.scheme == "http" and registry.is_itself(host)
    if (is_own_http or host.skip_verify) and not is_localhost(place):
        _add_insecure(daemon, host, line(host, registry) if is_own_http else span)


def _add_insecure(daemon: _Daemon, host: Host, span: Span | None) -> None:
    losses, place = daemon.losses, host.host
    if place not in daemon.insecure:
        daemon.insecure.append(place)
    message = f"docker has one word for both: {place} may answer by plain http, or with any certificate"
    losses.nearly("insecure", message, span)
    if host.client:
        message = f"docker shows no client certificate to {place}, whose own certificate is not checked: name its CA"
        losses.lost("client-certificate", message, span)
