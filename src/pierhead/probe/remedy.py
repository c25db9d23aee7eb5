"""What to do about a route that does not work, tied to the line of registries.yaml that is to be changed.

Each rule looks at what was seen and says its sentence, or nothing; the first that knows is the one that is told, but
for the entry of `configs` that was meant for another host: that one explains many failures, and is always told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pierhead.auth import Credential
from pierhead.errors import Span
from pierhead.probe.places import Seen
from pierhead.routing import Route
from pierhead.transport import Cause

if TYPE_CHECKING:
    from pierhead.config.near import Slip
    from pierhead.config.registries import Config, RegistriesConfig
    from pierhead.transport.chain import Shown

CLUSTER_NAMES: Final = (".svc", ".cluster.local")
NAMES_SHOWN: Final = 8
_TIMEOUTS: Final = frozenset({Cause.CONNECT_TIMEOUT, Cause.UNREACHABLE})
_SLIPS: Final[dict[Slip, str]] = {
    "address": "a key of `configs` is host[:port] alone, without scheme and path",
    "case": "capitals count",
    "port": "the port counts",
    "domain": "the whole name counts",
    "spelling": "it must be the same name",
}


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change, in one sentence, and where."""

    text: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A route that does not work, and all that is known of it.

    `status` is the answer that it fails with, if it is one; `denied`: it fails because we are not let in; `hint`: what
    the failure itself knows; `original`: the repository of the image's own name; `found_as`: one that would be there;
    `meant`: the endpoint that this key of `configs` is nearly the name of.
    """

    route: Route
    seen: Seen
    config: RegistriesConfig | None = None
    credential: Credential | None = None
    status: int | None = None
    denied: bool = False
    hint: str = ""
    original: str = ""
    found_as: str = ""
    meant: str = ""

    @property
    def own(self) -> Config | None:
        """The entry of `configs` for just this host."""
        return self.config.configs.get(self.route.host) if self.config else None

    @property
    def cause(self) -> Cause | None:
        return self.seen.error.cause if self.seen.error else None

    @property
    def tls_span(self) -> Span | None:
        return self.route.tls_as_written.span if self.route.tls_as_written else self.route.span


def remedies(case: Case) -> tuple[Remedy, ...]:
    """What to do, the most telling first; empty if nobody knows."""
    found = [*_meant_entry(case)]
    said = next((remedy for rule in _RULES for remedy in rule(case)), None)
    if said is not None and not (found and _is_about_configs(case)):
        found.append(said)
    if not found and case.hint:
        found.append(Remedy(case.hint, case.route.span))
    return tuple(found)


# ── an entry of `configs` under nearly the right name ────────────────────────────────────────────────────────────


def _is_about_configs(case: Case) -> bool:
    """Whether the failure is one that an entry of `configs` would mend."""
    shown = case.seen.look.shown
    unknown_ca = case.cause is Cause.CERTIFICATE and shown is not None and "unknown-ca" in shown.defects
    return unknown_ca or case.denied or _wants_client(case)


def _meant_entry(case: Case) -> Iterator[Remedy]:
    """The flagship: `configs` is looked up by the endpoint's own host[:port], and nearly right is wrong."""
    from pierhead.config.near import nearest

    if case.config is None or not _is_about_configs(case) or _would_help(case, case.own):
        return
    others = [key for key, entry in case.config.configs.items() if entry is not case.own and _would_help(case, entry)]
    near = nearest(case.route.host, others)
    if near is None:
        return
    entry, slip = case.config.configs[near.name], near.slip
    what = "credentials" if case.denied else "TLS settings"
    yield Remedy(
        f"`configs` has `{entry.key.shown}`, the endpoint is `{case.route.host}`, so its {what} are not used "
        f"({_SLIPS[slip]}): write `{case.route.host}`",
        entry.key.span,
    )


def _would_help(case: Case, entry: Config | None) -> bool:
    """Whether an entry has what is missing."""
    return entry is not None and (entry.auth if case.denied else entry.tls) is not None


def _no_endpoint(case: Case) -> Iterator[Remedy]:
    if case.meant:
        yield Remedy(
            f"`configs` has `{case.route.host}`, which is no endpoint, and the endpoint `{case.meant}` has no entry: "
            f"write `{case.meant}`",
            case.route.span,
        )


# ── no connection ────────────────────────────────────────────────────────────────────────────────────────────────


def _no_address(case: Case) -> Iterator[Remedy]:
    if case.cause is not Cause.DNS:
        return
    name = case.route.host.partition(":")[0]
    if name.endswith(CLUSTER_NAMES):
        text = (
            f"`{name}` is a name of the cluster's own DNS, which the node does not ask: write an address that the node "
            "itself can reach (a NodePort, an ingress, a name in its /etc/hosts)"
        )
    elif case.route.kind == "default" and case.route.repository:
        text = (
            f"`{name}` is where these images are by their name: that is in order if an endpoint in `mirrors` is to "
            "give them, else make it known to this machine's DNS or /etc/hosts"
        )
    else:
        text = f"correct `{name}`, or make it known to this machine's DNS or /etc/hosts"
    yield Remedy(text, case.route.span)


def _not_there(case: Case) -> Iterator[Remedy]:
    if case.cause is Cause.REFUSED:
        port = case.route.host.rpartition(":")[2] if ":" in case.route.host else _default_port(case.route)
        missing = "" if ":" in case.route.host else " (the endpoint names none)"
        yield Remedy(
            f"nothing listens on port {port} of that address{missing}: start the registry there, or correct the port",
            case.route.span,
        )
    elif case.cause in _TIMEOUTS:
        yield Remedy(
            "no answer at all from that address: check the address, the route and the firewalls on the way",
            case.route.span,
        )


def _default_port(route: Route) -> str:
    return "80" if route.scheme == "http" else "443"


def _proxy(case: Case) -> Iterator[Remedy]:
    if case.cause is Cause.PROXY:
        yield Remedy(
            f"the way goes through the proxy {case.seen.look.proxy or 'of the environment'}: correct HTTP_PROXY or "
            f"HTTPS_PROXY, or put {case.route.host.partition(':')[0]} into NO_PROXY"
        )


# ── http and https ───────────────────────────────────────────────────────────────────────────────────────────────


def _plain_http(case: Case) -> Iterator[Remedy]:
    if case.cause is not Cause.PLAIN_HTTP:
        return
    if case.route.kind == "default":
        text = f'give it an endpoint in `mirrors`, "http://{case.route.host}", or enable TLS on the registry'
    else:
        text = f"write http://{case.route.host} in the endpoint, or enable TLS on the registry"
    if case.route.tls.insecure_skip_verify:
        text += "; insecure_skip_verify is about certificates, it does not turn TLS off"
    yield Remedy(f"the server gave an HTTP response to an HTTPS client: {text}", case.route.span)


def _speaks_tls(case: Case) -> Iterator[Remedy]:
    if case.seen.speaks_tls:
        yield Remedy(
            f"the port speaks TLS, and is asked by plain http: write https://{case.route.host} in the endpoint",
            case.route.span,
        )


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────


def _files(case: Case) -> Iterator[Remedy]:
    if case.seen.files is None:
        return
    tls = case.route.tls_as_written
    written = None
    if tls is not None:
        written = tls.ca_file if case.seen.files.cause is Cause.CA_FILE else tls.cert_file or tls.key_file
    yield Remedy(
        "put the PEM file there, readable for containerd, or correct its path: as long as it cannot be used every pull "
        "of this registry fails, whichever endpoint has the image",
        written.span if written else case.tls_span,
    )


def _wants_client(case: Case) -> bool:
    refused = case.cause in (Cause.CLIENT_CERTIFICATE, Cause.TLS, Cause.CLOSED) and case.seen.look.client_wanted
    return refused or case.cause is Cause.CLIENT_CERTIFICATE


def _client_certificate(case: Case) -> Iterator[Remedy]:
    asks = case.status == 400 and case.route.scheme == "https" and case.seen.look.client_wanted
    if not (_wants_client(case) or asks):
        return
    if case.route.tls.client:
        tls = case.route.tls_as_written
        yield Remedy(
            f"the server does not accept the client certificate {case.route.tls.client[0][0]}: "
            "give one of a CA that it knows in cert_file and key_file",
            tls.cert_file.span if tls and tls.cert_file else case.tls_span,
        )
    else:
        yield Remedy(
            f"the server wants a client certificate: name one in cert_file and key_file of {_tls_of(case)}",
            case.tls_span,
        )


def _tls_of(case: Case) -> str:
    """The place of a TLS setting that is not there yet."""
    return f"configs.{case.route.host!r}.tls".replace("'", '"')


def _certificate(case: Case) -> Iterator[Remedy]:
    shown = case.seen.look.shown
    if case.cause is not Cause.CERTIFICATE or shown is None:
        return
    sentences = [sentence for defect in shown.defects for sentence in _DEFECTS[defect](case, shown)]
    if sentences:
        yield Remedy("; ".join(sentence for sentence, _ in sentences), sentences[0][1])


_Sentence = tuple[str, "Span | None"]


def _expired(case: Case, shown: Shown) -> Iterator[_Sentence]:
    day = shown.not_after.date() if shown.not_after else "some time ago"
    yield f"the certificate expired on {day}: renew it on the registry (or set this machine's clock)", case.route.span


def _not_yet_valid(case: Case, shown: Shown) -> Iterator[_Sentence]:
    day = shown.not_before.date() if shown.not_before else "later"
    yield f"the certificate is valid from {day}: set this machine's clock", case.route.span


def _wrong_host(case: Case, shown: Shown) -> Iterator[_Sentence]:
    names = ", ".join(shown.names[:NAMES_SHOWN])
    more = f" and {len(shown.names) - NAMES_SHOWN} more" if len(shown.names) > NAMES_SHOWN else ""
    yield (
        f"the certificate is for {names}{more}, not for {case.route.host.rpartition(':')[0] or case.route.host}: "
        "write one of these names in the endpoint, or have the certificate made for this one",
        case.route.span,
    )


def _no_names(case: Case, _shown: Shown) -> Iterator[_Sentence]:
    yield (
        "the certificate has no subjectAltName, and containerd does not look at the CN: have it made with one "
        "(openssl req -addext subjectAltName=DNS:…)",
        case.route.span,
    )


def _unknown_ca(case: Case, shown: Shown) -> Iterator[_Sentence]:
    needed = shown.needed
    which = f"{needed.name}{f' (sha256 {needed.sha256})' if needed.sha256 else ''}" if needed else shown.issuer
    tls = case.route.tls_as_written
    if case.route.tls.ca_files:
        yield (
            f"the certificate is from {which}, and {case.route.tls.ca_files[0]} is another CA: "
            "put the right one there, or name it in ca_file",
            tls.ca_file.span if tls and tls.ca_file else case.tls_span,
        )
    else:
        yield (
            f"the certificate is from a CA that this machine does not know, {which}: "
            f"name that CA's PEM file in ca_file of {_tls_of(case)}",
            case.tls_span,
        )


_DEFECTS: Final[dict[str, Callable[[Case, Shown], Iterator[_Sentence]]]] = {
    "expired": _expired,
    "not-yet-valid": _not_yet_valid,
    "wrong-host": _wrong_host,
    "no-names": _no_names,
    "unknown-ca": _unknown_ca,
}


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _denied(case: Case) -> Iterator[Remedy]:
    if not case.denied and case.status not in (401, 403):
        return
    host, credential = case.route.host, case.credential
    if credential is not None:
        who = f"user {credential.username!r}" if credential.username else "the identity token"
        where = f"{credential.source} {credential.key!r}" if credential.key else credential.source
        text = f"{who} ({where}) is not let in: correct the password, or let it read {case.route.repository!r}"
        yield Remedy(text if case.route.repository else text.partition(", or")[0], credential.span)
        return
    wildcard = case.config.configs.get("*") if case.config else None
    if wildcard is not None and wildcard.auth is not None:
        yield Remedy(f'containerd never uses the `auth` of configs."*": write it under "{host}"', wildcard.auth.span)
    elif case.own is not None:
        yield Remedy(f'`configs` has "{host}" without usable credentials: add `auth` to it', case.own.key.span)
    else:
        yield Remedy(f'no credentials are known for it: add configs."{host}".auth', case.route.span)


def _missing(case: Case) -> Iterator[Remedy]:
    if case.status != 404:
        return
    route = case.route
    if not route.repository:
        yield Remedy("there is no registry at this path: correct the path of the endpoint, or the port", route.span)
    elif case.found_as and route.rewrite:
        yield Remedy(
            f"it is there as {case.found_as!r}, without the rewrite {route.rewrite.pattern!r} that made "
            f"{route.repository!r} of it: change the rewrite, or push it under the rewritten name",
            route.rewrite.span,
        )
    elif case.found_as:
        yield Remedy(
            f"it is there as {case.found_as!r}: push it as {route.repository!r}, which is what containerd asks for",
            route.span,
        )
    elif route.override_path:
        yield Remedy(
            f"the path {route.path} of the endpoint stands in the place of /v2: if it is meant to go before the "
            "repository, take it off and add a rewrite that puts it there",
            route.span,
        )
    elif route.rewrite:
        yield Remedy(
            f"the rewrite {route.rewrite.pattern!r} makes {route.repository!r} of {case.original!r}, and that is not "
            "there: change the rewrite, or push it under this name",
            route.rewrite.span,
        )
    else:
        yield Remedy(f"push it there as {route.repository!r}, or correct its name or tag", route.span)


def _busy(case: Case) -> Iterator[Remedy]:
    if case.status == 429:
        yield Remedy("the registry limits requests: log in, or put a mirror in front", case.route.span)
    elif case.status is not None and case.status >= 500:
        yield Remedy("the registry itself, or what stands before it, fails: see its log", case.route.span)


_RULES: Final = (
    _no_endpoint,
    _files,
    _proxy,
    _no_address,
    _not_there,
    _plain_http,
    _speaks_tls,
    _certificate,
    _client_certificate,
    _denied,
    _missing,
    _busy,
)
