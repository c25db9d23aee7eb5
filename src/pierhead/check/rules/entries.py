"""Rules about what an entry of `configs` does, and does not do, to the endpoints and registries it is for."""

from __future__ import annotations

from collections.abc import Iterator

from pierhead.check.finding import Fix, Hit
from pierhead.check.lookups import HUB, holds, of_mirror, settles, tls_for
from pierhead.check.misplaced import slipped_from
from pierhead.check.names import spoken
from pierhead.check.rule import Example, rule
from pierhead.check.subject import Subject, UsedEndpoint
from pierhead.config.near import host_and_port
from pierhead.config.registries import Auth, Config, Mirror, Text, Tls

# ── TLS that is no TLS ──


def _plain_endpoints(subject: Subject) -> Iterator[tuple[UsedEndpoint, Tls]]:
    """The first http endpoint of each entry with TLS settings that no https endpoint has as well."""
    served: dict[str, list[UsedEndpoint]] = {}
    for endpoint in subject.endpoints:
        served.setdefault(endpoint.lookup, []).append(endpoint)
    for lookup, endpoints in served.items():
        tls = tls_for(subject, lookup)
        if tls is not None and all(endpoint.url.scheme == "http" for endpoint in endpoints):
            yield endpoints[0], tls


def _stays_plain(subject: Subject, endpoint: UsedEndpoint) -> bool:
    """Whether https is never tried: on port 80, and by wharfie."""
    return endpoint.url.port == "80" or subject.circumstances.client == "wharfie"


@rule(
    "R009",
    "http-endpoint-tls",
    "warning",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - "http://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    tls:
      ca_file: /etc/pki/corp-ca.pem
""",
        flags=("--no-files",),
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    tls:
      ca_file: /etc/pki/corp-ca.pem
""",
        flags=("--no-files",),
    ),
    sources=("https://github.com/containerd/containerd/blob/main/docs/hosts.md", "k3s-io/k3s#2149"),
)
def http_endpoint_with_tls(subject: Subject) -> Iterator[Hit]:
    """An endpoint is http, but its host has TLS settings.

    For an http endpoint with a certificate authority or a client certificate containerd tries https first, with these
    settings, and goes back to plain http only if the server answers in plain http. So a registry that speaks TLS works
    although the URL says http, one that does not costs a failed handshake, and a missing certificate file fails every
    image of the registry. On port 80 containerd does not try, and the settings are never used.
    """
    for endpoint, tls in _plain_endpoints(subject):
        if not (tls.ca_file or tls.cert_file or tls.key_file):
            continue
        line = endpoint.text.span.line
        then = "they are never used" if _stays_plain(subject, endpoint) else "containerd tries https first, then http"
        message = f"the endpoint in line {line} is http, yet its host {spoken(endpoint.host)} has TLS settings: {then}"
        remedy = f"write https:// in line {line} if the registry speaks TLS, or take this tls out if it does not"
        yield Hit(tls.span, message, remedy)


@rule(
    "R010",
    "skip-verify-on-http",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "http://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    tls:
      insecure_skip_verify: true
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "http://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    tls:
      insecure_skip_verify: false
""",
    sources=("k3s-io/k3s#13379", "k3s-io/k3s#11642"),
)
def skip_verify_on_http(subject: Subject) -> Iterator[Hit]:
    """`insecure_skip_verify` is set for an endpoint that is plain http.

    It does not mean "without TLS": it means TLS whose certificate nobody checks. What means "without TLS" is the
    scheme http in the endpoint, and nothing else is needed for that. With `insecure_skip_verify` containerd even tries
    https first at an http endpoint (not on port 80), and goes back to plain http if the server answers in plain http.
    """
    for endpoint, tls in _plain_endpoints(subject):
        if not tls.insecure_skip_verify or tls.ca_file or tls.cert_file or tls.key_file:
            continue
        then = "it has no effect" if _stays_plain(subject, endpoint) else "it makes containerd try https first"
        line = endpoint.text.span.line
        message = f"the endpoint in line {line} is plain http, where there is no certificate to verify: {then}"
        remedy = (
            "take insecure_skip_verify out (http:// is all that plain http needs), or write https:// in the endpoint"
        )
        yield Hit(tls.insecure_skip_verify_span or tls.span, message, remedy)


# ── the default endpoint ──


@rule(
    "R042",
    "default-endpoint-stays",
    "error",
    bad=Example(
        """\
mirrors:
  quay.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    auth:
      username: puller
      password: s3cr3t
  quay.io:
    auth:
      username: robot
      password: s3cr3t
""",
        flags=("--disable-default-registry-endpoint",),
    ),
    good=Example(
        """\
mirrors:
  quay.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    auth:
      username: puller
      password: s3cr3t
""",
        flags=("--disable-default-registry-endpoint",),
    ),
    sources=("https://docs.k3s.io/installation/private-registry#default-endpoint-fallback",),
)
def default_endpoint_stays(subject: Subject) -> Iterator[Hit]:
    """`--disable-default-registry-endpoint` has no effect on this registry.

    K3s disables the default endpoint only for a mirror whose name has no entry under `configs`, not even an empty one,
    and that has at least one endpoint it can use. Otherwise the registry itself is still asked in the end: images leave
    for the internet although they should not, or every pull of a missing image waits until that fails.
    """
    moved = slipped_from(subject.source)
    for problem in subject.problems_of("default-endpoint-stays"):
        entry = subject.source.entry_at(problem.span) if problem.span else None
        if problem.span is None or entry is None or entry.path in moved:
            continue
        name = str(entry.path[-1])
        config = subject.config.configs.get(name)
        if config is None:
            message = (
                f"the mirror {spoken(name)} has no endpoint that K3s can use, so the registry itself is still asked"
            )
            remedy = "give it an endpoint; if K3s runs with --embedded-registry, check with that flag too"
            yield Hit(problem.span, message, remedy)
        elif not _lists_itself(subject, subject.config.mirrors[name]):
            message = (
                f"the registry {spoken(name)} itself is asked in spite of --disable-default-registry-endpoint, "
                f"because configs has an entry of this name (line {config.key.span.line})"
            )
            yield Hit(problem.span, message, f"take the entry {spoken(name)} in line {config.key.span.line} out")


def _lists_itself(subject: Subject, mirror: Mirror) -> bool:
    """Whether a registry is one of its own endpoints, be it with the port spelt out: then it is asked on purpose."""
    own = host_and_port(mirror.key.value)[0]
    return any(host_and_port(endpoint.lookup)[0] == own for endpoint in of_mirror(subject, mirror))


# ── Docker Hub ──


@rule(
    "R050",
    "hub-credentials-hidden",
    "error",
    bad="""\
configs:
  registry-1.docker.io:
    auth: {}
  docker.io:
    auth:
      username: puller
      password: s3cr3t
""",
    good="""\
configs:
  registry-1.docker.io:
    tls: {}
  docker.io:
    auth:
      username: puller
      password: s3cr3t
""",
    sources=("https://github.com/containerd/containerd/pull/12053",),
)
def hub_credentials_hidden(subject: Subject) -> Iterator[Hit]:
    """Credentials for Docker Hub are hidden by those of another of its names.

    containerd looks for them under registry-1.docker.io, docker.io and index.docker.io, in this order, and takes the
    first `auth` there is, even if it is empty: then it asks without any. A `tls` alone hides nothing. It is a warning
    where the first one has credentials too, but others.
    """
    found = _hub_auths(subject)
    if not found:
        return
    key, first = found[0]
    for hidden, auth in found[1:]:
        if not holds(auth) or _same(auth, first):
            continue
        if not holds(first):
            message = (
                f"this empty auth hides the credentials of {hidden.value} in line {hidden.span.line}: none are sent"
            )
            edit = subject.source.entry_at(first.span)
            fix = subject.source.fix("take the empty auth out", subject.source.cut(edit)) if edit else None
            yield Hit(first.span, message, "take this auth out", _left(subject, key.value, fix))
        else:
            message = f"these credentials are never used: those of {key.value} in line {key.span.line} come first"
            yield Hit(auth.span, message, f"keep one of {key.value} and {hidden.value}", severity="warning")


def _hub_auths(subject: Subject) -> list[tuple[Text, Auth]]:
    """What containerd finds for Docker Hub, in the order in which it looks."""
    if subject.circumstances.client == "wharfie":
        return []
    return [(entry.key, entry.auth) for key in HUB if (entry := subject.config.configs.get(key)) and entry.auth]


def hiding(subject: Subject) -> Iterator[Auth]:
    """The empty `auth` that hides another one."""
    found = [auth for _, auth in _hub_auths(subject)]
    if found and not holds(found[0]) and any(map(holds, found)):
        yield found[0]


def _left(subject: Subject, key: str, fix: Fix | None) -> Fix | None:
    """A fix only if it leaves more than an empty entry behind; else the whole entry goes."""
    entry = subject.config.configs[key]
    if entry.tls is not None:
        return fix
    found = subject.source.entry_at(entry.key.span)
    return subject.source.fix(f"take the entry {key} out", subject.source.cut(found)) if found else None


def _same(one: Auth, other: Auth) -> bool:
    return _values(one) == _values(other)


def _values(auth: Auth) -> tuple[object, ...]:
    hidden = (auth.password, auth.auth, auth.identity_token)
    return (auth.username.value if auth.username else None, *(text.value if text else None for text in hidden))


# ── entries that do nothing ──


@rule(
    "R069",
    "config-without-effect",
    "note",
    bad=Example(
        """\
configs:
  registry-1.docker.io:
    tls:
      ca_file: /etc/pki/corp-ca.pem
""",
        flags=("--no-files",),
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  registry-1.docker.io:
    tls:
      ca_file: /etc/pki/corp-ca.pem
""",
        flags=("--no-files",),
    ),
    sources=("https://docs.k3s.io/installation/private-registry#wildcard-support",),
)
def config_without_effect(subject: Subject) -> Iterator[Hit]:
    """An entry under `configs` has no effect.

    An entry without `auth` and `tls` is as good as none. It does not exempt its registry from the TLS settings of
    `configs."*"` either, although the documentation says so: that is a warning. TLS settings for Docker Hub belong
    under docker.io: those of registry-1.docker.io are used only if there is a mirror docker.io, those of
    index.docker.io never (a warning).
    """
    if subject.hosts is None or subject.hosts.error is not None:
        return
    stays, moved = subject.flags.disable_default_registry_endpoint, slipped_from(subject.source)
    for key, entry in subject.config.configs.items():
        if ("configs", key) in moved:
            continue  # what it holds is in a wrong place
        if entry.auth is None and entry.tls is None and not (stays and key in subject.config.mirrors):
            yield from _empty(subject, entry)
    for key in HUB[::2]:
        entry_of = subject.config.configs.get(key)
        if entry_of is not None and settles(entry_of.tls) and not _reaches(subject, entry_of):
            assert entry_of.tls is not None  # it says something
            message = (
                f"pulls from Docker Hub do not get these TLS settings: they are looked for under docker.io, not {key}"
            )
            yield Hit(entry_of.tls.span, message, "put them under docker.io", severity="warning")


def _empty(subject: Subject, entry: Config) -> Iterator[Hit]:
    wildcard, name = subject.config.configs.get("*"), entry.key.value
    hides = subject.circumstances.client == "wharfie"  # it looks no further than an entry that is there
    if name != "*" and wildcard and settles(wildcard.tls) and "*" not in subject.config.mirrors and not hides:
        assert wildcard.tls is not None  # it says something
        line = wildcard.tls.span.line
        message = f'this empty entry does not exempt {spoken(name)} from the TLS settings of "*" in line {line}'
        yield Hit(entry.key.span, message, f"write `tls: {{}}` below {spoken(name)}, which does", severity="warning")
        return
    message = f"the entry {spoken(name)} is empty and has no effect"
    yield Hit(entry.key.span, message, "give it auth or tls, or take it out")


def _reaches(subject: Subject, entry: Config) -> bool:
    """Whether containerd gets an entry's TLS settings for anything but images of a registry with the entry's name."""
    assert subject.hosts is not None  # the caller looked
    return any(
        host.origin.config is entry
        for name, directory in subject.hosts.tree.directories.items()
        if name != entry.key.value
        for host in directory.hosts
    )
