"""What a registries.yaml asks of K3s that one release of it does not do, at the word that asks for it.

Each function looks for one fact of `versions.FACTS` that the release does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pierhead.config.k3s import Flags, K3sHosts, hosts, normalized
from pierhead.config.k3s_problems import as_read
from pierhead.config.registries import Config, Mirror, RegistriesConfig, Text
from pierhead.config.versions import FACTS, Fact, K3sVersion, behaviour
from pierhead.errors import FLAGS, Problem, Severity, Span
from pierhead.gourl import InvalidUrl

_HUB_NAMES: Final = ("docker.io", "index.docker.io")
_FACTS: Final = {fact.name: fact for fact in FACTS}


def unsupported(config: RegistriesConfig, flags: Flags, version: K3sVersion) -> tuple[Problem, ...]:
    """What this release of K3s does not do, or does otherwise than the current one, in the order of the file.

    Raises `UnusableConfig`. Nothing for the current release.
    """
    asked = _Asked(config, flags, version, hosts(config, flags, behaviour(version)))
    lacking = [fact for fact in FACTS if not fact.of(version)]
    if any(fact.name == "registries_file" for fact in lacking):
        lacking = [_FACTS["registries_file"]]  # what else it lacks is of no use to know
    found = [problem for fact in lacking if fact.name in _LOOKS for problem in _LOOKS[fact.name](asked, fact)]
    return tuple(sorted(dict.fromkeys(found), key=lambda problem: (problem.span is not None, problem.span or _NOWHERE)))


_NOWHERE: Final = Span("", 0)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A file, the flags, and the release; `hosts` is what that makes of the file."""

    config: RegistriesConfig
    flags: Flags
    version: K3sVersion
    hosts: K3sHosts

    def problem(self, id: str, fact: Fact, span: Span, *, message: str, severity: Severity = "error") -> Problem:
        """What is not done, and since when it is."""
        return Problem(id, severity, f"{self.program} {self.version} {message}; {self._first(fact)}", span)

    @property
    def program(self) -> str:
        return self.version.program or self.flags.program

    def _first(self, fact: Fact) -> str:
        """The releases to upgrade to, newest minor last."""
        releases = fact.cures(self.version)
        if not releases:
            return "no later release of this minor does otherwise, the next minor does"
        return f"first in {', '.join(releases)}" if fact.since else f"corrected in {', '.join(releases)}"

    def endpoints(self) -> Iterator[tuple[Mirror, Text, str]]:
        """Each endpoint with its mirror and the URL that K3s makes of it; what it cannot use is left out."""
        for mirror in self.config.mirrors.values():
            for text in mirror.endpoints:
                try:
                    yield mirror, text, str(normalized(text.value)[1])
                except InvalidUrl:
                    continue


_Look = Callable[[_Asked, Fact], Iterator[Problem]]


def _registries_file(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    keys = [mirror.key for mirror in asked.config.mirrors.values()]
    keys += [entry.key for entry in asked.config.configs.values()]
    if keys:
        span = min(key.span for key in keys)
        yield asked.problem("registries-file-unsupported", fact, span, message="does not read registries.yaml")


def _identity_token(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    for entry in asked.config.configs.values():
        if entry.auth is not None and entry.auth.identity_token is not None:
            span = entry.auth.identity_token.span
            yield asked.problem("identity-token-unsupported", fact, span, message="never uses an identity_token")


def _quoted_credentials(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    message = "writes it between quotes as it is: a quote or backslash in it does harm"
    for entry in asked.config.configs.values():
        username, password = (entry.auth.username, entry.auth.password) if entry.auth else (None, None)
        if username is not None and as_read(username.value) != username.value:
            yield asked.problem("unquoted-credentials", fact, username.span, message=message)
        if password is not None and as_read(password.value.reveal()) != password.value.reveal():
            yield asked.problem("unquoted-credentials", fact, password.span, message=message)


def _insecure_skip_verify(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    for entry in asked.config.configs.values():
        if entry.tls is not None and entry.tls.insecure_skip_verify:
            span = entry.tls.insecure_skip_verify_span or entry.tls.span
            message = "has no insecure_skip_verify and verifies the certificate"
            yield asked.problem("insecure-skip-verify-unsupported", fact, span, message=message)


def _rewrites(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    for mirror in asked.config.mirrors.values():
        for rule in mirror.rewrites[:1]:
            message = "has no rewrite and asks for the repository as it is"
            yield asked.problem("rewrite-unsupported", fact, rule.pattern.span, message=message)


def _rewrites_spare_default(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    if asked.hosts.behaviour.rewrites:
        for mirror in asked.config.mirrors.values():
            for rule in mirror.rewrites[:1]:
                message = "rewrites for the registry's own default endpoint as well, so that falling back to it fails"
                span = rule.pattern.span
                yield asked.problem("rewrite-of-default-endpoint", fact, span, message=message, severity="warning")


def _disable_default_endpoint(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    if asked.flags.disable_default_registry_endpoint:
        message = "has no --disable-default-registry-endpoint and always asks the registry itself last"
        yield asked.problem("disable-default-endpoint-unsupported", fact, Span(FLAGS, 1), message=message)


def _embedded_registry(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    if asked.flags.embedded_registry is not None:
        message = "has no embedded registry"
        yield asked.problem("embedded-registry-unsupported", fact, Span(FLAGS, 1), message=message)


def _bare_endpoints(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    for mirror in asked.config.mirrors.values():
        for text in mirror.endpoints:
            if "://" not in text.value:
                message = f"cannot use {text.shown} without a scheme: write https:// or http:// in front"
                yield asked.problem("bare-endpoint-unsupported", fact, text.span, message=message)


def _wildcard_falls_back(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    wildcard = asked.config.mirrors.get("*")
    if wildcard is not None and wildcard.endpoints and not asked.flags.disable_default_registry_endpoint:
        message = 'asks nobody behind the endpoints of "*", not even the registry itself'
        yield asked.problem("wildcard-without-fallback", fact, wildcard.key.span, message=message)


def _default_listed_last(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    lost = {skip.mirror.value for skip in asked.hosts.skipped if skip.reason == "lost-mirror"}
    for mirror in asked.config.mirrors.values():
        if mirror.key.value in lost:
            message = "writes nothing for a mirror that lists its registry's own endpoint last: leave that one out"
            yield asked.problem("default-endpoint-listed", fact, mirror.endpoints[-1].span, message=message)


def _duplicates_harmless(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    seen: set[tuple[str, str]] = set()
    for mirror, text, url in asked.endpoints():
        if (mirror.key.value, url) in seen:
            message = "writes a hosts.toml that containerd ignores if an endpoint is listed twice: leave this one out"
            yield asked.problem("duplicate-endpoint-fatal", fact, text.span, message=message)
        seen.add((mirror.key.value, url))


def _config_of_default(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    for entry in asked.config.configs.values():
        if entry.key.value == "*":
            message = 'takes "*" under configs for the name of a registry, and asks https://* for every image'
            yield asked.problem("wildcard-config-unsupported", fact, entry.key.span, message=message)
        elif entry.tls is not None and _serves_behind_mirrors(entry, asked.config):
            message = f"does not use this tls for {entry.key.shown} behind its mirrors"
            yield asked.problem(
                "default-endpoint-tls-unused", fact, entry.tls.span, message=message, severity="warning"
            )


def _serves_behind_mirrors(entry: Config, config: RegistriesConfig) -> bool:
    mirror = config.mirrors.get(entry.key.value)
    return mirror is not None and bool(mirror.endpoints)


def _default_only_file(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    for entry in asked.config.configs.values():
        directory = asked.hosts.tree.directories.get("_default" if entry.key.value == "*" else entry.key.value)
        if entry.tls is not None and directory is not None and directory.unusable is not None:
            message = f"loses this tls, as {entry.key.shown} has no other endpoint: list one under mirrors"
            yield asked.problem("tls-without-mirror-lost", fact, entry.tls.span, message=message)


def _rewritten_scope(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    if asked.hosts.behaviour.rewrites:
        for mirror in asked.config.mirrors.values():
            for rule in mirror.rewrites[:1]:
                message = "asks for tokens for the name before the rewrite, which many registries refuse"
                span = rule.pattern.span
                yield asked.problem("token-scope-before-rewrite", fact, span, message=message, severity="warning")


def _docker_io_credentials(asked: _Asked, fact: Fact) -> Iterator[Problem]:
    for key in _HUB_NAMES:
        entry = asked.config.configs.get(key)
        if entry is not None and entry.auth is not None:
            message = f"uses no credentials under {key}: write registry-1.docker.io"
            yield asked.problem("docker-io-credentials-unused", fact, entry.auth.span, message=message)


_LOOKS: Final[dict[str, _Look]] = {
    "registries_file": _registries_file,
    "identity_token": _identity_token,
    "quoted_credentials": _quoted_credentials,
    "insecure_skip_verify": _insecure_skip_verify,
    "rewrites": _rewrites,
    "rewrites_spare_default": _rewrites_spare_default,
    "disable_default_endpoint": _disable_default_endpoint,
    "embedded_registry": _embedded_registry,
    "bare_endpoints": _bare_endpoints,
    "wildcard_falls_back": _wildcard_falls_back,
    "default_listed_last": _default_listed_last,
    "duplicates_harmless": _duplicates_harmless,
    "config_of_default": _config_of_default,
    "default_only_file": _default_only_file,
    "rewritten_scope": _rewritten_scope,
    "docker_io_credentials": _docker_io_credentials,
}
