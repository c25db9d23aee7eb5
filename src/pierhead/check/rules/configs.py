"""The rule about the keys of `configs`: whether an entry reaches the endpoint it was written for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pierhead.check.finding import Fix, Hit
from pierhead.check.lookups import asked, holds, is_set, of_mirror, serves, settles, unserved
from pierhead.check.names import spoken
from pierhead.check.rule import Example, rule
from pierhead.check.source import quoted
from pierhead.check.subject import Subject
from pierhead.config.k3s import normalized
from pierhead.config.near import Names, Near, Slip, bare, host_and_port
from pierhead.config.registries import Config, Mirror, Text
from pierhead.errors import Severity
from pierhead.gourl import InvalidUrl

_NAMED_LIMIT: Final = 4
_DIFFERENCE: Final[dict[Slip, str]] = {
    "address": "one is a URL",
    "case": "capitals differ",
    "port": "the port differs",
    "domain": "the domain differs",
    "spelling": "the spelling differs",
}


# ── R004 ──


@rule(
    "R004",
    "config-matches-no-endpoint",
    "error",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - "https://mycustomreg.com:5000"
configs:
  "mycustomreg:5000":
    auth:
      username: puller  # this is the registry username
      password: s3cr3t  # this is the registry password
    tls:
      ca_file: /etc/pki/corp-ca.pem
""",
        flags=("--no-files",),
    ),
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://mycustomreg.com:5000"
configs:
  "mycustomreg.com:5000":
    auth:
      username: puller
      password: s3cr3t
  registry.corp.example:  # has no mirror: for images that are pulled from there
    auth:
      username: puller
      password: s3cr3t
""",
    sources=("k3s-io/k3s#11185", "rancher/rke2#915", "k3d-io/k3d#192", "k3s-io/k3s#1148", "rancher/docs#3834"),
)
def config_matches_no_endpoint(subject: Subject) -> Iterator[Hit]:
    """The key of a `configs` entry is not the host of the endpoint that it is meant for.

    K3s and containerd find an entry by the exact host and port of the endpoint's URL: no other port, no shorter or
    longer name, no capitals instead of small letters. They know neither that 443 is the port of https (`reg.lan` and
    `reg.lan:443` are two names) nor the name of the mirror: an entry called `icr.io` is for icr.io itself, not for the
    endpoints of the mirror `icr.io`. Only `docker.io`, `registry-1.docker.io` and `index.docker.io` are one to it.

    An entry that does not match is dropped without a word. The endpoint is then asked without credentials and with
    the system's certificates, answers 401 or fails in TLS, and containerd goes on to the next one, which is often the
    internet. The error that a pod shows is that of the registry's own endpoint.

    An entry for a host that is no endpoint is sound where images are pulled from that host directly. So it is only
    found if it nearly is the name of an endpoint that has none: an error, and the key is corrected; a note if both have
    a port of their own, for these may be two registries on one machine. Or if it is called like a mirror none of whose
    endpoints has an entry: a warning, because the registry itself is asked in the end; an error if its default
    endpoint is disabled, or no image can have a registry of that name; and a note for a Docker Hub account, which a
    cache in front of Docker Hub often does not need.
    """
    if subject.config.error is not None:
        return
    misses = list(_misses(subject))
    best: dict[str, tuple[int, bool]] = {}
    for miss in misses:
        best[miss.host] = min(miss.rank, best.get(miss.host, miss.rank))
    chosen = [miss for miss in misses if miss.rank == best[miss.host]]
    rivals = Counter(near.name for miss in chosen for near in miss.near)
    for miss in chosen:
        yield _misnamed(subject, miss, alone=rivals[miss.host] == 1 == len(miss.near))
    for key, mirror in subject.config.mirrors.items():
        entry = subject.config.configs.get(key)
        if entry is not None and key != "*" and bare(key) == key and is_set(entry):
            yield from _called_like_a_mirror(subject, entry, mirror)


@dataclass(frozen=True, slots=True)
class _Miss:
    """An entry that nearly is the one for endpoints, or mirrors, that have none; `places` is where these are."""

    entry: Config
    near: tuple[Near, ...]
    places: Mapping[str, Text]
    of_mirror: bool = False
    https: bool = True

    @property
    def host(self) -> str:
        return self.near[0].name

    @property
    def is_certain(self) -> bool:
        """Two ports may be two registries on one machine; one that is left out, or is the scheme's own, is a slip."""
        ports = {host_and_port(self.entry.key.value)[1], host_and_port(self.host)[1]}
        return self.near[0].slip != "port" or not ports.isdisjoint({"", "80", "443"})

    @property
    def severity(self) -> Severity:
        if not self.is_certain:
            return "note"
        return "error" if _loss(self.entry, https=self.https) and not self.of_mirror else "warning"

    @property
    def rank(self) -> tuple[int, bool]:
        return list(_DIFFERENCE).index(self.near[0].slip), not self.is_certain


def _misses(subject: Subject) -> Iterator[_Miss]:
    """Entries that no endpoint, mirror or listed image has, and whose key nearly is the name of one."""
    mirrors, without = subject.config.mirrors, unserved(subject)
    used = {*asked(subject), *mirrors, *(image.reference.registry for image in subject.circumstances.images or ())}
    endpoints = Names(without)
    places = {host: endpoint.text for host, endpoint in without.items()}
    registries = {key: mirror.key for key, mirror in mirrors.items() if _lacks_all(subject, mirror)}
    names = Names(registries)
    for key, entry in subject.config.configs.items():
        if key in used or key == "*" or bare(key) != key or not is_set(entry) or not _is_read(key):
            continue
        if near := endpoints.nearest(key):
            https = any(without[one.name].url.scheme == "https" for one in near)
            yield _Miss(entry, near, places, https=https)
        elif (near := names.nearest(key)) and (miss := _Miss(entry, near, registries, of_mirror=True)).is_certain:
            yield miss


def _is_read(key: str) -> bool:
    """Whether K3s takes a key for a name; what it cannot read is another rule's."""
    try:
        return bool(normalized(key))
    except InvalidUrl:
        return False


def _lacks_all(subject: Subject, mirror: Mirror) -> bool:
    """Whether neither a mirror's registry nor any of its endpoints has an entry."""
    if serves(subject, mirror.key.value) or mirror.key.value == "*":
        return False
    return not any(serves(subject, endpoint.lookup) for endpoint in of_mirror(subject, mirror))


def _misnamed(subject: Subject, miss: _Miss, *, alone: bool) -> Hit:
    key, host, loss = miss.entry.key, miss.host, _loss(miss.entry)
    what = "mirror" if miss.of_mirror else "endpoint"
    message = (
        f"the {what} in line {miss.places[host].span.line} is {spoken(host)}, this key is {spoken(key.value)} "
        f"({_DIFFERENCE[miss.near[0].slip]}): K3s never uses this entry's {loss} for that {what}"
    )
    remedy = f"call this entry {spoken(host)}, exactly as the {what}'s host and port{_about_443(key.value, host)}"
    if not miss.is_certain:
        remedy = f"if it is meant for that {what}, call it {host}"
    if len(miss.near) > 1:
        choices = [
            f"{spoken(near.name)} (line {miss.places[near.name].span.line})" for near in miss.near[:_NAMED_LIMIT]
        ]
        remedy = f"call this entry exactly as the {what} it is for: {' or '.join(choices)}"
    fix = None
    if alone and miss.severity == "error":
        fix = subject.source.fix(f"rename the key to {spoken(host)}", subject.source.rewritten(key.span, host))
    return Hit(key.span, message, remedy, fix, miss.severity)


def _about_443(key: str, host: str) -> str:
    (name, port), (other, other_port) = host_and_port(key), host_and_port(host)
    if name == other and {port, other_port} in ({"", "443"}, {"", "80"}):
        return f"; K3s takes {spoken(key)} and {spoken(host)} for two hosts"
    return ""


def _called_like_a_mirror(subject: Subject, entry: Config, mirror: Mirror) -> Iterator[Hit]:
    """The entry serves the registry itself; say so if that is all it serves."""
    hosts = {endpoint.lookup: endpoint for endpoint in reversed(list(of_mirror(subject, mirror)))}
    says_something = settles(entry.tls) or (entry.auth is not None and holds(entry.auth))
    loss = _loss(entry, https=any(endpoint.url.scheme == "https" for endpoint in hosts.values()))
    wildcard = subject.circumstances.client == "wharfie" and "*" in subject.config.configs
    if wildcard or not says_something or not loss or any(serves(subject, lookup) for lookup in hosts):
        return
    if not hosts:
        return
    key, ordered = entry.key.value, list(reversed(hosts))
    near = Names(hosts).nearest(key)
    host = near[0].name if near else ordered[0]
    message = (
        f"this entry is for {spoken(key)} itself, but the endpoint of its mirror in line "
        f"{hosts[host].text.span.line} is {spoken(host)}: that endpoint gets no {loss.replace(' and ', ' and no ')}"
    )
    remedy = f"rename the key to {spoken(host)} if they are meant for it"
    fix = None
    if len(near) == 1 and near[0].slip == "port":
        fix, remedy = _repeated(subject, entry, host), f"add an entry {spoken(host)} with the same content"
    elif len(hosts) > 1:
        remedy = (
            f"give each endpoint that needs them an entry of its own: {', '.join(map(spoken, ordered[:_NAMED_LIMIT]))}"
        )
    elif subject.flags.disable_default_registry_endpoint or not _is_registry(key):
        fix = subject.source.fix(f"rename the key to {spoken(host)}", subject.source.rewritten(entry.key.span, host))
    yield Hit(entry.key.span, message, remedy, fix, _severity(subject, entry, mirror, bool(near)))


def _severity(subject: Subject, entry: Config, mirror: Mirror, near: bool) -> Severity:
    key = mirror.key.value
    if near or subject.flags.disable_default_registry_endpoint or not _is_registry(key):
        return "error"
    is_account = key == "docker.io" and not settles(entry.tls) and not mirror.rewrites
    return "note" if is_account else "warning"


def _is_registry(name: str) -> bool:
    """Whether an image can have a registry of this name: without a dot or a port it is a part of Docker Hub."""
    return "." in name or ":" in name or name == "localhost" or name != name.lower()


def _repeated(subject: Subject, entry: Config, host: str) -> Fix | None:
    """The same content under another key, by an anchor, so that nothing secret is copied."""
    source = subject.source
    found = source.entry_at(entry.key.span)
    if found is None:
        return None
    name = source.free_anchor(entry.key.value)
    edits = source.shared(found, name), source.sibling(found, f"{quoted(host)}: *{name}")
    return source.fix(f"add an entry {spoken(host)} with the same content", *edits)


def _loss(entry: Config, *, https: bool = True) -> str:
    """What of an entry an endpoint misses."""
    parts = ["credentials"] * bool(entry.auth) + ["TLS settings"] * bool(entry.tls and https)
    return " and ".join(parts)
