"""podman, skopeo and buildah: registries.conf (version 2), certs.d and auth.json.

As containers-registries.conf(5), containers-certs.d(5) and containers/image df7e80d2:
pkg/sysregistriesv2/system_registries_v2.go (the table with the longest prefix is the only one that is used; its mirrors
come in order, then its own location; what follows the prefix is put behind the location), docker/docker_client.go (TLS
and logins are those of the location's host). One table that cannot be parsed fails every pull, so what is written is
what `reference` takes; and tables of one location must agree on `insecure`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pierhead.config import authjson
from pierhead.config.containerd import Host
from pierhead.config.k3s_hosts import K3sHosts
from pierhead.config.places import (
    HUB,
    LOCAL_MIRROR,
    WILDCARD,
    Losses,
    Prefix,
    Registry,
    as_prefix,
    below_api,
    certificates,
    is_place,
    joined,
    line,
    named,
    registries,
    rule_line,
    tls_line,
)
from pierhead.config.rendered import File, Rendered, commented, origin_line, toml_string
from pierhead.reference import InvalidReference, Reference

_RUNTIME = "podman"
_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class _Location:
    """Where images are asked for: host[:port], and a path before what follows the prefix."""

    place: str
    path: str = ""

    def __str__(self) -> str:
        return joined(self.place, self.path)


@dataclass(frozen=True, slots=True)
class _Table:
    """One `[[registry]]`. Without a location of its own nothing but mirrors may be asked."""

    prefix: str
    location: _Location
    mirrors: tuple[_Location, ...] = ()
    blocked: bool = False

    def lines(self, insecure: frozenset[str]) -> Iterator[str]:
        yield "[[registry]]"
        yield f"prefix = {toml_string(self.prefix)}"
        yield from _location_lines(self.location, insecure)
        if self.blocked:
            yield "blocked = true"
        for mirror in self.mirrors:
            yield ""
            yield "[[registry.mirror]]"
            yield from _location_lines(mirror, insecure)


def _location_lines(location: _Location, insecure: frozenset[str]) -> Iterator[str]:
    yield f"location = {toml_string(str(location))}"
    if location.place in insecure:
        yield "insecure = true"


def render(hosts: K3sHosts) -> Rendered:
    """The files for /etc/containers, or ~/.config/containers."""
    losses = Losses(_RUNTIME)
    known = list(registries(hosts, losses))
    tables = [table for registry in known for table in _tables(registry, losses)]
    insecure = frozenset(place for registry in known for place in _insecure(registry, losses))
    own = {file.path: file for registry in known for file in _certificates(registry, losses)}
    tables = [table for table in tables if table.mirrors or table.blocked or _matters(table, insecure)]
    origin = origin_line(hosts.config.file, _RUNTIME)
    logins = authjson.beside("auth.json", hosts, losses, origin, flavour="containers")
    texts = ["\n".join(table.lines(insecure)) for table in tables]
    body = "\n\n".join(['unqualified-search-registries = ["docker.io"]', *texts])
    conf = File("registries.conf", f"{commented(origin, losses.problems)}\n{body}\n")
    return Rendered(origin, (conf, *own.values(), *logins), tuple(losses.problems))


def _matters(table: _Table, insecure: frozenset[str]) -> bool:
    return str(table.location) != table.prefix or table.location.place in insecure


# -- tables -----------------------------------------------------------------------------------------------------------


def _tables(registry: Registry, losses: Losses) -> Iterator[_Table]:
    """A table for the registry, and one for each part of its names that a mirror rewrites."""
    if registry.name == WILDCARD:
        _lose_wildcard(registry, losses)
        return
    if not _is_valid(registry.name):
        if registry.mirrors:
            message = f"no image has {registry.key.shown} as its registry, so its mirrors are never asked"
            losses.note("no-registry", message, registry.key.span)
        return
    if ":" not in registry.name and registry.name != HUB and registry.mirrors:
        message = f"podman takes the mirrors of {registry.name} for any port of it as well"
        losses.note("port", message, registry.key.span)
    mirrors = [mirror for host in registry.mirrors if (mirror := _mirror(host, registry, losses)) is not None]
    sources = {prefix.source for mirror in mirrors for prefix in mirror.prefixes}
    for source in sorted({"", *sources}):
        yield _table(registry, source, [at for mirror in mirrors if (at := mirror.at(source)) is not None])


def _lose_wildcard(registry: Registry, losses: Losses) -> None:
    if registry.mirrors:
        message = "podman has no mirror for every registry (`*.` needs a domain behind it): name each one"
        losses.lost("wildcard", message, registry.key.span)
    if registry.default is not None and registry.default.explicit_tls:
        message = "podman has no TLS settings for every registry: name each host under configs"
        losses.lost("wildcard-tls", message, registry.key.span)


def _table(registry: Registry, source: str, mirrors: list[_Location]) -> _Table:
    prefix, own = joined(registry.name, source), _Location(registry.name, source)
    if registry.default is not None:
        if mirrors and mirrors[-1] == own:
            mirrors = mirrors[:-1]
        return _Table(prefix, own, tuple(mirrors))
    if mirrors:  # what is asked last is the location itself: then the registry is never asked
        return _Table(prefix, mirrors[-1], tuple(mirrors[:-1]))
    return _Table(prefix, own, blocked=True)


@dataclass(frozen=True, slots=True)
class _Mirror:
    """A mirror of a registry, its path and its rewrites. `whole`: all its rewrites are known, so names may stay."""

    place: str
    path: str
    prefixes: tuple[Prefix, ...] = ()
    whole: bool = True

    def at(self, source: str) -> _Location | None:
        """Where it has the names that start with `source`; None if that cannot be told."""
        for prefix in self.prefixes:
            if prefix.covers(source):
                return _Location(self.place, joined(self.path, prefix.moved(source)))
        return _Location(self.place, joined(self.path, source)) if self.whole else None


def _mirror(host: Host, registry: Registry, losses: Losses) -> _Mirror | None:
    path, place = below_api(host), _place(host)
    span = line(host, registry)
    if path is None:
        message = f"podman asks every mirror below /v2, so {named(host)} is not asked; {LOCAL_MIRROR}"
        losses.lost("path", message, span)
        return None
    if not _is_valid(joined(place, path)):
        losses.lost("host", f"podman cannot ask {named(host)}: it is no name of a registry", span)
        return None
    prefixes = tuple(_prefixes(host, registry, losses))
    return _Mirror(place, path, prefixes, whole=len(prefixes) == len(host.rewrites))


def _prefixes(host: Host, registry: Registry, losses: Losses) -> Iterator[Prefix]:
    known: list[Prefix] = []
    for pattern, replacement in host.rewrites.items():
        prefix, span = as_prefix(pattern, replacement), rule_line(host, pattern, registry)
        if prefix is None or not _is_valid(joined("r.example", prefix.source, prefix.target)):
            message = (
                "podman replaces the start of a name only: no mirror of "
                f"{registry.key.shown} is asked for what this rule might match; {LOCAL_MIRROR}"
            )
            losses.lost("rewrite", message, span)
            continue
        if not prefix.exact or any(other.covers(prefix.source) or prefix.covers(other.source) for other in known):
            message = f"podman puts {prefix.target or 'nothing'} for {prefix.source or 'no prefix'}, which is nearly it"
            losses.nearly("rewrite", message, span)
        if prefix.source and registry.name != HUB:  # where no repository has a name of one part
            message = f"podman moves the repository {prefix.source} itself as well, not only what is below it"
            losses.note("whole", message, span)
        known.append(prefix)
        yield prefix


def _place(host: Host) -> str:
    """The host as a reference names it: docker.io for the Hub, and a bare name with its port."""
    name = host.host
    if name == _HUB_HOST:
        return HUB
    if "." in name or ":" in name or name == "localhost":
        return name
    return f"{name}:{80 if host.scheme == 'http' else 443}"


def _is_valid(location: str) -> bool:
    """Whether a reference may start with it, its first part being the registry."""
    if not is_place(location.partition("/")[0]):
        return False
    try:
        parsed = Reference.parse(f"{location}/image")
    except InvalidReference:
        return False
    return parsed.registry == location.partition("/")[0]


# -- TLS --------------------------------------------------------------------------------------------------------------


def _hosts(registry: Registry) -> Iterator[tuple[str, Host]]:
    """Every host that a table may name, by the place it has there; in that of the registry itself, its mirror wins."""
    if registry.name == WILDCARD:
        return
    for host in registry.hosts:
        yield (registry.name if host.origin.kind == "default" else _place(host)), host


def _insecure(registry: Registry, losses: Losses) -> Iterator[str]:
    for place, host in _hosts(registry):
        is_local_default = host.origin.kind == "default" and host.scheme == "http"
        if not _is_valid(place) or (host.scheme != "http" and not host.skip_verify):
            continue
        if not is_local_default:
            span = tls_line(host, registry) if host.skip_verify else line(host, registry)
            message = f"podman has one word for both: {place} may answer by plain http, or with any certificate"
            losses.nearly("insecure", message, span)
        yield place


def _certificates(registry: Registry, losses: Losses) -> Iterator[File]:
    for place, host in _hosts(registry):
        if _is_valid(place):
            yield from certificates(place, host, losses)
