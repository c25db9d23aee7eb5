"""The TLS of a host, out of what the sources know of it: several authorities and certificates where K3s takes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from pierhead.config.containerd import Host
from pierhead.config.imports.draft import Draft, Trust
from pierhead.config.imports.hosts_file import from_certificates
from pierhead.config.imports.reading import HostFolder
from pierhead.errors import Span


def trust_of(draft: Draft, host: Host, name: str, span_of: Callable[[str], Span]) -> Trust:
    """What K3s can be told of the TLS of `host`; what it cannot is said. `span_of` finds `ca` and `client`."""
    if len(host.ca) > 1:
        message = f"K3s takes one ca_file for {name}, here the first: put all of them into one file"
        draft.lost("several-ca", message, span_of("ca"))
    if len(host.client) > 1:
        message = f"K3s takes one client certificate for {name}, here the first"
        draft.lost("several-clients", message, span_of("client"))
    certificate, key = next(iter(host.client), ("", ""))
    if certificate and not key:
        key = certificate  # one file with both, which K3s is told twice
    return Trust(next(iter(host.ca), ""), certificate, key, host.skip_verify)


class Certificates:
    """The certificates that docker and podman keep for each host: `certs.d/<host>/*.crt`, `*.cert` and `*.key`."""

    def __init__(self, draft: Draft, folders: Iterable[HostFolder]) -> None:
        self._draft = draft
        self._known: dict[str, tuple[Trust, Span]] = {}
        for folder in folders:
            if folder.unreadable and folder.hosts_toml is None:
                draft.lost("unreadable", f"left out: {folder.unreadable}", folder.span)
                continue
            span = Span(folder.shown, 1)
            trust = trust_of(draft, from_certificates(folder), folder.name, {"ca": span, "client": span}.__getitem__)
            if trust:
                self._known[folder.name] = (trust, span)

    def trust(self, host: str, span: Span, *, insecure: bool) -> None:
        """A host that is asked: with its certificates, and unverified if the source says so."""
        trust = self._known.get(host, (Trust(), span))[0]
        if insecure:
            trust = replace(trust, insecure_skip_verify=True)
        if trust:
            self._draft.trust(host, trust, span)

    def trust_rest(self) -> None:
        """The hosts that only have certificates."""
        for host, (trust, span) in self._known.items():
            if host not in self._draft.configs:
                self._draft.trust(host, trust, span)


def insecure_hosts(draft: Draft) -> Mapping[str, bool]:
    """The hosts whose certificates are not verified."""
    return {host: True for host, config in draft.configs.items() if config.tls and config.tls.insecure_skip_verify}
