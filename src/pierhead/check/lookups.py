"""What several rules ask about endpoints: which entry of `configs` one has, and whether containerd can use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pierhead import gourl
from pierhead.check.subject import Subject, UsedEndpoint
from pierhead.config.k3s import normalized
from pierhead.config.registries import Auth, Config, Mirror, Text, Tls
from pierhead.gourl import InvalidUrl

HUB: Final = ("registry-1.docker.io", "docker.io", "index.docker.io")  # as containerd looks for its credentials


def keys_of(lookup: str) -> tuple[str, ...]:
    """The keys of `configs` that count for an endpoint (specification, sections 4.1 and 4.2)."""
    return HUB if lookup == "docker.io" else (lookup,)


def asked(subject: Subject) -> frozenset[str]:
    """Every key that some endpoint is looked up by."""
    return frozenset(key for endpoint in subject.endpoints for key in keys_of(endpoint.lookup))


def unserved(subject: Subject) -> dict[str, UsedEndpoint]:
    """The first endpoint of each host that has no entry, by its lookup."""
    found: dict[str, UsedEndpoint] = {}
    for endpoint in subject.endpoints:
        if endpoint.host and not serves(subject, endpoint.lookup):
            found.setdefault(endpoint.lookup, endpoint)
    return found


def serves(subject: Subject, lookup: str) -> bool:
    """Whether an endpoint has an entry, be it an empty one."""
    return any(key in subject.config.configs for key in keys_of(lookup))


def of_mirror(subject: Subject, mirror: Mirror) -> Iterator[UsedEndpoint]:
    """The endpoints of a mirror that name a host."""
    return (endpoint for endpoint in subject.endpoints_of(mirror) if endpoint.host)


def tls_for(subject: Subject, lookup: str) -> Tls | None:
    """The TLS settings of an endpoint: Docker Hub's two names in this order, nothing else but the exact one."""
    keys = HUB[:2] if lookup == "docker.io" else (lookup,)
    entry = next((subject.config.configs[key] for key in keys if key in subject.config.configs), None)
    return entry.tls if entry is not None else None


def settles(tls: Tls | None) -> bool:
    """Whether there is anything in a `tls`."""
    return tls is not None and bool(tls.ca_file or tls.cert_file or tls.key_file or tls.insecure_skip_verify)


def holds(auth: Auth) -> bool:
    """Whether there is anything in an `auth`."""
    return bool(auth.username or auth.password or auth.auth or auth.identity_token)


def is_set(entry: Config) -> bool:
    """Whether K3s takes an entry for more than an empty one; `auth: {}` and `tls: {}` count."""
    return entry.auth is not None or entry.tls is not None


def bringing_back(subject: Subject) -> Iterator[Text]:
    """Endpoints without a host in last place: containerd puts the registry itself there (E28)."""
    for directory in subject.hosts.tree.directories.values() if subject.hosts else ():
        last = directory.hosts[-1] if directory.hosts else None
        if last is not None and not last.host and last.origin.kind == "mirror" and last.origin.endpoint is not None:
            yield last.origin.endpoint


def is_unreadable(endpoint: str) -> bool:
    """Whether K3s takes an endpoint and containerd then cannot read the file it is in (differences, B3)."""
    try:
        written = str(normalized(endpoint)[1])
    except InvalidUrl:
        return False  # K3s leaves it out
    try:
        gourl.parse(written)
    except InvalidUrl:
        return True
    return breaks_toml(written)


def breaks_toml(written: str) -> bool:
    """Whether a text that K3s puts between quotes as it is ends them, or is no text to TOML."""
    return any(
        character in '"\\' or (character < " " and character != "\t") or character == "\x7f" for character in written
    )
