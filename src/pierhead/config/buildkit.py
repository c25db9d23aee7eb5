"""BuildKit's daemon: buildkitd.toml, and config.json with the logins, which come from its client.

As buildkit 73ed6825c: docs/buildkitd.toml.md; util/resolver/resolver.go (NewRegistryConfig: mirrors in order, then
always the registry; a mirror's path goes behind /v2; TLS is that of the table under the mirror's own host);
util/resolver/config/config.go (the keys); session/auth/authprovider (credentials are asked of the client, by host).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pierhead.config import authjson
from pierhead.config.containerd import Host, is_localhost
from pierhead.config.k3s_hosts import K3sHosts
from pierhead.config.places import (
    LOCAL_MIRROR,
    WILDCARD,
    Losses,
    Registry,
    as_prefix,
    below_api,
    client_pair,
    is_place,
    joined,
    line,
    named,
    registries,
    rule_line,
    toml_list,
)
from pierhead.config.rendered import File, Rendered, commented, origin_line, toml_string

_RUNTIME = "buildkit"


@dataclass(slots=True)
class _Table:
    """One `[registry."…"]`."""

    mirrors: list[str] = field(default_factory=list)
    http: bool | None = None
    insecure: bool = False
    authorities: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    host: Host | None = None  # the one its TLS is of

    def lines(self, name: str) -> Iterator[str]:
        table = f"registry.{toml_string(name)}"
        yield f"[{table}]"
        if self.mirrors:
            yield f"  mirrors = {toml_list(self.mirrors)}"
        if self.http is not None:
            yield f"  http = {str(self.http).lower()}"
        if self.insecure:
            yield "  insecure = true"
        if self.authorities:
            yield f"  ca = {toml_list(self.authorities)}"
        for certificate, key in self.pairs:
            yield f"  [[{table}.keypair]]"
            yield f"    key = {toml_string(key)}"
            yield f"    cert = {toml_string(certificate)}"


def render(hosts: K3sHosts) -> Rendered:
    """buildkitd.toml for /etc/buildkit, and config.json for ~/.docker of who builds."""
    losses = Losses(_RUNTIME)
    tables: dict[str, _Table] = {}
    known = list(registries(hosts, losses))
    for registry in known:
        _tell(tables, registry, losses)
    asked = [(registry, host) for registry in known if registry.name != WILDCARD for host in registry.hosts]
    # Of two ways to ask a host the mirror's wins: a default may be there for its login alone.
    for registry, host in sorted(asked, key=lambda pair: pair[1].origin.kind == "default"):
        if is_place(host.host):
            _add_tls(tables, registry, host, losses)
    origin = origin_line(hosts.config.file, _RUNTIME)
    logins = authjson.beside("config.json", hosts, losses, origin, flavour="docker")
    if logins:
        message = "buildkitd.toml has no logins: the client that builds sends those of the config.json beside it"
        losses.nearly("logins", message, next(entry.auth.span for entry in hosts.config.configs.values() if entry.auth))
    text = "\n".join(text for name, table in tables.items() for text in ("", *table.lines(name)))
    file = File("buildkitd.toml", f"{commented(origin, losses.problems)}{text}\n")
    return Rendered(origin, (file, *logins), tuple(losses.problems))


def _tell(tables: dict[str, _Table], registry: Registry, losses: Losses) -> None:
    if registry.name == WILDCARD:
        if registry.mirrors or (registry.default is not None and registry.default.explicit_tls):
            message = "buildkit has no table for every registry: name each one"
            losses.lost("wildcard", message, registry.key.span)
        return
    if registry.is_never_asked:
        message = f"buildkit asks {registry.key.shown} itself in the end, though its default endpoint is disabled"
        losses.lost("default-disabled", message, registry.key.span)
    elsewhere = registry.mirrors_elsewhere
    mirrors = [text for host in elsewhere if (text := _mirror(host, registry, losses)) is not None]
    if mirrors:
        tables.setdefault(registry.name, _Table()).mirrors = mirrors


def _mirror(host: Host, registry: Registry, losses: Losses) -> str | None:
    path = below_api(host)
    if path is None:
        message = f"buildkit asks every mirror below /v2, so {named(host)} is not asked; {LOCAL_MIRROR}"
        losses.lost("path", message, line(host, registry))
        return None
    if not is_place(host.host):
        losses.lost("host", f"buildkit cannot ask {named(host)}", line(host, registry))
        return None
    for pattern, replacement in host.rewrites.items():
        prefix = as_prefix(pattern, replacement)
        if prefix is None or prefix.source or len(host.rewrites) > 1:
            message = (
                "buildkit can put one path before all names and change none, so no mirror of "
                f"{registry.key.shown} is asked; {LOCAL_MIRROR}"
            )
            losses.lost("rewrite", message, rule_line(host, pattern, registry))
            return None
        path = joined(path, prefix.target)
    return joined(host.host, path)


def _add_tls(tables: dict[str, _Table], registry: Registry, host: Host, losses: Losses) -> None:
    """How a host is asked stands under its own name, or under the registry's that it is."""
    own = host.origin.kind == "default"
    name = registry.name if own or registry.is_itself(host) else host.host
    http = host.scheme == "http"
    if not (http or host.explicit_tls or is_localhost(name)):
        return
    table = tables.setdefault(name, _Table())
    if table.host is not None:
        _compare(table.host, host, registry, losses)
        return
    table.host = host
    table.insecure = host.skip_verify
    if http or is_localhost(name):
        table.http = http
    if not http or host.skip_verify:
        table.authorities = list(host.ca)
        pair = client_pair(host, losses)
        table.pairs = [pair] if pair else []
    elif host.tries_https_first:
        message = f"buildkit asks {named(host)} by plain http only, K3s by https first"
        losses.nearly("http", message, line(host, registry))


def _compare(first: Host, host: Host, registry: Registry, losses: Losses) -> None:
    """Say if a host is asked as it was first said, by another scheme than this."""
    tries_both = first.scheme == "http" and first.skip_verify
    if first.scheme == host.scheme or tries_both:
        return
    if first in registry.mirrors and registry.is_itself(first):
        message = f"buildkit asks {registry.key.shown} as {named(first)} only, K3s then by {host.scheme} as well"
        losses.note("scheme", message, line(first, registry))
    else:
        message = f"buildkit asks a host by one scheme: {named(host)} is asked as {named(first)}"
        losses.nearly("scheme", message, line(host, registry))
