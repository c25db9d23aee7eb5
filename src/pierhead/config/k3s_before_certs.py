"""Before certs.d (January 2024): mirrors in containerd's config.toml, by the older rules of its CRI plugin.

As containerd 1.6 and 1.7, pkg/cri/server/image_pull.go: registryHosts and registryEndpoints, with K3s' rewrite patch
(specification, sections 1.4, 6.3 and 7.3). The key of the image's registry, else "*"; its endpoints as listed, then the
registry itself, unless the *host* of an endpoint is the registry's name; TLS and credentials by the endpoint's host;
rewrites on all of them. One endpoint that is no URL fails every image of its mirror.

Not modelled: relative paths of certificates (they start in containerd's working directory), TLS paths that are no TOML
string, the stargz snapshotter, configurations of containerd that a template adds. That the rewrites of "*" go with its
endpoints is by analogy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pierhead.config.containerd import (
    Directory,
    Host,
    HostTree,
    Lookup,
    Origin,
    is_localhost,
)
from pierhead.config.k3s_hosts import K3sHosts, SkippedEndpoint
from pierhead.config.k3s_problems import as_read
from pierhead.config.registries import Config, Mirror, RegistriesConfig, Rewrite, Text
from pierhead.config.versions import Behaviour
from pierhead.errors import Problem
from pierhead.gourl import GoUrl, InvalidUrl, parse, path_clean, shown

_CAPABILITIES = ("pull", "resolve")


def before_certs(config: RegistriesConfig, behaviour: Behaviour) -> K3sHosts:
    """What containerd gets from a release without certs.d."""
    skipped = [skip for mirror in config.mirrors.values() for skip in _refused(mirror)]
    problems = (*_unreadable(config), *(_refused_problem(skip) for skip in skipped if skip.reason == "invalid-url"))
    tables = MirrorTables(config)
    return K3sHosts(config, HostTree(), tuple(skipped), problems=problems, behaviour=behaviour, before_certs=tables)


@dataclass(frozen=True, slots=True)
class MirrorTables:
    """The tables `registry.mirrors` and `registry.configs` of config.toml."""

    config: RegistriesConfig

    def lookup(self, registry: str) -> Lookup:
        """What containerd asks for images of `registry`; no host at all if one of its endpoints is no URL."""
        mirror = self.config.mirrors.get(registry) or self.config.mirrors.get("*")
        if mirror is None:
            return Lookup(registry, None, (self._default(registry, None),))
        try:
            urls = [_endpoint_url(text) for text in mirror.endpoints]
        except InvalidUrl as error:
            message = f"containerd refuses every image of {registry}, as an endpoint is no URL: {error.message}"
            problem = Problem("invalid-endpoint", "error", message, mirror.key.span)
            return Lookup(registry, _table(mirror, ()), (), (problem,))
        hosts = [self._host(url, mirror, text) for url, text in zip(urls, mirror.endpoints, strict=True)]
        if all(url.host != registry for url in urls):
            hosts.append(self._default(registry, mirror))
        return Lookup(registry, _table(mirror, tuple(hosts)), tuple(hosts))

    def _default(self, registry: str, mirror: Mirror | None) -> Host:
        host = "registry-1.docker.io" if registry == "docker.io" else registry
        url = GoUrl(scheme="http" if is_localhost(host) else "https", host=host)
        return self._host(url, mirror, None)

    def _host(self, url: GoUrl, mirror: Mirror | None, text: Text | None) -> Host:
        config = self.config.configs.get(url.host)
        tls = config.tls if config is not None and url.scheme == "https" else None
        rules = {
            pattern: rule
            for rule in (mirror.rewrites if mirror else ())
            if (pattern := as_read(rule.pattern.value)) is not None
        }
        pair = (
            tls.cert_file.value if tls and tls.cert_file else "",
            tls.key_file.value if tls and tls.key_file else "",
        )
        return Host(
            scheme=url.scheme,
            host=url.host,
            path=path_clean(url.path) if url.path else "/v2",
            capabilities=_CAPABILITIES,
            ca=(tls.ca_file.value,) if tls and tls.ca_file else (),
            client=(pair,) if any(pair) else (),
            skip_verify=bool(tls and tls.insecure_skip_verify),
            rewrites={pattern: _replacement(rule) for pattern, rule in rules.items()},
            origin=_origin(mirror, text, config, rules),
        )


def _origin(mirror: Mirror | None, text: Text | None, config: Config | None, rules: dict[str, Rewrite]) -> Origin:
    place = text or (mirror.key if mirror else None)
    return Origin("mirror" if text else "default", text, config, rules, place.span if place else None)


def _replacement(rule: Rewrite) -> str:
    read = as_read(rule.replacement.value)
    return rule.replacement.value if read is None else read


def _table(mirror: Mirror, hosts: tuple[Host, ...]) -> Directory:
    return Directory(mirror.key.value, hosts, key=mirror.key)


def _endpoint_url(text: Text) -> GoUrl:
    """As addDefaultScheme: http for localhost, whatever the port; https else. Raises `InvalidUrl`."""
    if "://" in text.value:
        return parse(text.value)
    bare = parse(f"dummy://{text.value}")
    return replace(bare, scheme="http" if is_localhost(bare.host) else "https")


def _refused(mirror: Mirror) -> Iterator[SkippedEndpoint]:
    """The endpoints of a mirror that has one that is no URL: none of them is asked."""
    errors: dict[Text, str] = {}
    for text in mirror.endpoints:
        try:
            _endpoint_url(text)
        except InvalidUrl as error:
            errors[text] = error.message
    for text in mirror.endpoints if errors else ():
        if text in errors:
            message = f"it is no URL, and this release refuses every image of the mirror for it: {errors[text]}"
            yield SkippedEndpoint(mirror.key, text, "invalid-url", message)
        else:
            message = "another endpoint of this mirror is no URL, and this release refuses every image for it"
            yield SkippedEndpoint(mirror.key, text, "lost-mirror", message)


def _refused_problem(skip: SkippedEndpoint) -> Problem:
    return Problem("invalid-endpoint", "error", skip.message, skip.span)


def _unreadable(config: RegistriesConfig) -> Iterator[Problem]:
    """What the unescaped template made of a value: one that is no TOML string kept containerd from starting."""
    for mirror in config.mirrors.values():
        texts = [mirror.key, *(text for rule in mirror.rewrites for text in (rule.pattern, rule.replacement))]
        for text in texts:
            if as_read(text.value) is None:
                message = f"containerd does not start: config.toml cannot hold {shown(text.value)!r}"
                yield Problem("containerd-does-not-start", "error", message, text.span)
