"""What releases of K3s other than the current one make of single values of registries.yaml.

What a release does not know is as if it were not written. The rest is certs.d in its first months, January to March
2024: K3s' pkg/agent/containerd/config.go of then (29848dea3 to before b164d7a27), where the hosts of a mirror were
made before `configs` was looked at. Each function is one fact of `versions.FACTS`.

Not modelled: that the root of a hosts.toml had no capabilities line (nothing a pull asks depends on it), that a
mirror with an impossible name was written all the same, and how the very first builds read `host:port` without scheme
(here as the maintainers say of a bare host, k3s#9322).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from pierhead.config.k3s_hosts import Flags
from pierhead.config.k3s_problems import as_read
from pierhead.config.k3sfile import Endpoint, HostsFile
from pierhead.config.registries import Auth, Config, RegistriesConfig, SecretText, Text
from pierhead.config.versions import CURRENT, Behaviour
from pierhead.errors import Problem
from pierhead.gourl import GoUrl, split_host_port
from pierhead.redact import Secret

__all__ = ["asked_bare", "is_dropped_bare", "known", "own_endpoint", "unquoted_problems", "without_listed_default"]


def known(config: RegistriesConfig, flags: Flags, behaviour: Behaviour) -> tuple[RegistriesConfig, Flags]:
    """The file and the flags as this release understands them: without what it does not know."""
    if behaviour == CURRENT:
        return config, flags
    flags = replace(
        flags,
        disable_default_registry_endpoint=flags.disable_default_registry_endpoint
        and behaviour.disable_default_endpoint,
        embedded_registry=flags.embedded_registry if behaviour.embedded_registry else None,
    )
    if not behaviour.registries_file:
        return replace(config, mirrors={}, configs={}), flags
    mirrors = config.mirrors
    if not behaviour.rewrites:
        mirrors = {name: replace(mirror, rewrites=()) for name, mirror in mirrors.items()}
    configs = {name: _known_config(entry, behaviour) for name, entry in config.configs.items()}
    return replace(config, mirrors=mirrors, configs=configs), flags


def _known_config(entry: Config, behaviour: Behaviour) -> Config:
    auth, tls = entry.auth, entry.tls
    if auth is not None and not behaviour.identity_token:
        auth = replace(auth, identity_token=None)
    if auth is not None and not behaviour.quoted_credentials:
        auth = replace(auth, username=_unquoted(auth.username), password=_unquoted_secret(auth.password))
    if tls is not None and not behaviour.insecure_skip_verify:
        tls = replace(tls, insecure_skip_verify=False)
    return replace(entry, auth=auth, tls=tls)


def _unquoted(text: Text | None) -> Text | None:
    """What containerd reads of a value that was written between quotes as it is; unreadable ones stay."""
    read = as_read(text.value) if text is not None else None
    return text if text is None or read is None else replace(text, value=read)


def _unquoted_secret(text: SecretText | None) -> SecretText | None:
    read = as_read(text.value.reveal()) if text is not None else None
    return text if text is None or read is None else replace(text, value=Secret(read))


def unquoted_problems(config: RegistriesConfig) -> Iterator[Problem]:
    """User names and passwords that a release without quoting could not write."""
    for entry in config.configs.values():
        for name, text in _unquotable(entry.auth):
            message = f"containerd does not start: this release writes the {name} between quotes as it is"
            yield Problem("containerd-does-not-start", "error", message, text.span)


def _unquotable(auth: Auth | None) -> Iterator[tuple[str, Text | SecretText]]:
    if auth is not None and auth.username is not None and as_read(auth.username.value) is None:
        yield "username", auth.username
    if auth is not None and auth.password is not None and as_read(auth.password.value.reveal()) is None:
        yield "password", auth.password


# -- certs.d in its first months --------------------------------------------------------------------------------------


def is_dropped_bare(text: str) -> bool:
    """Whether an endpoint was one of the bare IP addresses that K3s dropped (k3s#9322)."""
    if "://" in text:
        return False
    host = text.partition("/")[0]
    name = split_host_port(host)[0] or host
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def asked_bare(text: str, url: GoUrl) -> tuple[GoUrl, bool]:
    """(URL, whether its path is taken as it is) of a bare host name, which was asked without /v2 (k3s#9322)."""
    return (url, url.path != "/v2") if "://" in text or url.path != "/v2" else (replace(url, path="/"), True)


def without_listed_default(made: HostsFile) -> HostsFile:
    """A mirror whose last endpoint is the default one: nothing was written for it, unless that had settings.

    With settings the endpoint stayed where it is, rewrites and all, and the default was not asked again.
    """
    last = made.endpoints[-1] if made.endpoints else None
    if last is None or made.default is None or last.address != made.default.address:
        return made
    if last.rewrites or (last.config is not None and (last.config.auth or last.config.tls)):
        return replace(made, default=None, endpoints=(*made.endpoints[:-1], replace(last, kind="default")))
    return replace(made, default=None, endpoints=())


def own_endpoint(entry: Config, url: GoUrl) -> HostsFile:
    """What was written for an entry of `configs` without mirrors: its own endpoint, listed. "*" became `https://*`."""
    return HostsFile(entry.key, None, (Endpoint(url, entry, kind="default"),))
