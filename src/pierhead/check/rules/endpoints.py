"""Rules about the endpoints of a mirror: URLs that K3s drops, reads otherwise than they look, or that lead nowhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Final, Literal

from pierhead.check.finding import Edit, Fix, Hit
from pierhead.check.lookups import bringing_back, is_unreadable
from pierhead.check.names import SPOKEN_LIMIT, spoken
from pierhead.check.patterns import visible
from pierhead.check.rule import rule
from pierhead.check.source import Entry, Source, quoted
from pierhead.check.subject import Subject, UsedEndpoint
from pierhead.config.k3s import normalized
from pierhead.config.near import host_and_port
from pierhead.config.registries import Text
from pierhead.errors import Span
from pierhead.gourl import GoUrl, InvalidUrl, path_clean, shown
from pierhead.reference import is_repository

_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")  # of a repository's name
_ROOTS: Final = frozenset({"api", "artifactory", "repository", "nexus", "registry"})  # in paths of product's own APIs
_BEFORE_PATH: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/?#]*")
_AUTHORITY: Final = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)?([^/?#]*)(.*)", re.DOTALL)
_HOST: Final = re.compile(r"[\w.-]+(?::[0-9]*)?|\[[0-9A-Fa-f:.%\w]+\](?::[0-9]*)?")
_MISTYPED_SCHEME: Final = re.compile(r"([hH]?[tThHpP]{2,5})([sS]{0,2})[:;/\\]{1,5}([A-Za-z0-9\[].*)")
_PARSE: Final = re.compile(r'^parse "(?:[^"\\]|\\.)*": (?:parse "(?:[^"\\]|\\.)*": )?(?:net/url: )?')
_PORT_LIMIT: Final = 65535
_WRITE_URL: Final = "write a URL such as https://host:port"


def _rewritten(subject: Subject, span: Span, value: str | None, description: str) -> Fix | None:
    return subject.source.fix(description, subject.source.rewritten(span, value)) if value is not None else None


# ── paths ──


@rule(
    "R007",
    "endpoint-path",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://harbor.corp.example/dockerhub"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://harbor.corp.example"
    rewrite:
      "^(.*)$": "dockerhub/$1"
  quay.io:
    endpoint:
      - "https://harbor.corp.example/v2/quay"
""",
    sources=("k3s-io/k3s#5502", "https://docs.k3s.io/installation/private-registry#rewrites"),
)
def endpoint_path(subject: Subject) -> Iterator[Hit]:
    """An endpoint has a path, which replaces /v2 and is not put before the repository.

    The path of an endpoint says where the registry's API begins. K3s adds /v2 only where there is no path at all (or
    `/`), so `https://harbor.lan/dockerhub` is asked for `/dockerhub/library/nginx/manifests/latest`, which no registry
    knows; a 404 from there makes containerd go on to the next endpoint without a word.

    Images that lie in a project or a proxy cache are found with a rewrite (`"^(.*)$": "dockerhub/$1"`), or with a path
    that begins with `/v2/` (`https://harbor.lan/v2/dockerhub`). An API below a path of its own, as Artifactory's or
    Nexus', ends in `/v2`.
    """
    shared = Counter(endpoint.text.span for endpoint in subject.endpoints)
    longest: dict[str, int] = {}  # repository of the list, by the mirror that serves it
    for image, plan in subject.routed:
        if plan.mirror is not None:
            longest[plan.mirror.key] = max(len(image.reference.repository), longest.get(plan.mirror.key, 0))
    for endpoint in subject.endpoints:
        path = shown(path_clean(endpoint.url.path))
        parts = path.strip("/").split("/")
        if (
            not endpoint.override_path
            or not endpoint.host
            or "v2" in parts
            or _escapes(endpoint.url)
            or _is_odd(endpoint)
        ):
            continue
        is_name = all(map(_COMPONENT.fullmatch, parts)) and len(path) <= SPOKEN_LIMIT
        rewrite = f' ("^(.*)$": "{path[1:]}/$1")' if is_name else ""
        asked = spoken(f"{path}/<repository>/manifests/<tag>")
        message = f"the path replaces /v2: images are asked for as {asked}"
        remedy = f"use a rewrite{rewrite} if it is a project, or write {spoken(f'{path}/v2')} if an API begins there"
        name = longest.get(endpoint.mirror.key.value, len("library/app"))
        fix = _prefix(subject, endpoint, parts, longest=name) if shared[endpoint.text.span] == 1 else None
        yield Hit(endpoint.text.span, message, remedy, fix)


def _prefix(subject: Subject, endpoint: UsedEndpoint, parts: list[str], *, longest: int) -> Fix | None:
    """The path as a rewrite. Only for a lone endpoint, for a rewrite is for all endpoints of its mirror."""
    if endpoint.url.userinfo is not None:
        return None
    mirror, found = endpoint.mirror, subject.source.entry_at(endpoint.text.span)
    if len(mirror.endpoints) > 1 or mirror.rewrites or not _ROOTS.isdisjoint(parts) or found is None:
        return None
    is_plain = all(_COMPONENT.fullmatch(part) for part in parts) and not (
        endpoint.url.raw_query or endpoint.url.fragment
    )
    above = subject.source.entry(*found.path[:3])
    if not is_plain or above is None or found.path[:3] != ("mirrors", mirror.key.value, "endpoint"):
        return None
    before, prefix = _BEFORE_PATH.match(endpoint.text.value), "/".join(parts)
    if not is_repository(f"{prefix}/{'a' * longest}"):
        return None  # no registry takes so long a name
    edit = subject.source.rewritten(endpoint.text.span, before[0] if before else "")
    style: Literal["single", "double"] = "single" if subject.source.slice(found.start)[:1] == "'" else "double"
    rule = f"{quoted('^(.*)$', style)}: {quoted(f'{prefix}/$1', style)}"
    rewrite = _rewrite_entry(subject.source, above, rule)
    return subject.source.fix("move the path into a rewrite", edit, rewrite)


def _rewrite_entry(source: Source, endpoint: Entry, rule: str) -> Edit:
    """A rewrite behind the `endpoint` of its mirror, in a block or in braces as that is."""
    mirror = source.entry(*endpoint.path[:2])
    if endpoint.parent.closed is not None or mirror is None:
        return source.sibling(endpoint, f"rewrite: {{{rule}}}")
    step = endpoint.start.column - mirror.start.column
    return source.sibling(endpoint, f"rewrite:\n{' ' * step}{rule}")


@rule(
    "R061",
    "path-escape",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example/proxy%2Fhub/v2"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example/proxy/hub/v2"
""",
    sources=("https://docs.k3s.io/installation/private-registry",),
)
def path_escape(subject: Subject) -> Iterator[Hit]:
    """The path of an endpoint is not asked as it is written.

    containerd decodes the path (`%2F` becomes `/`) and resolves `.` and `..` in it before it asks. A path that comes to
    nothing, as `/.`, still counts as a path: then /v2 is not added either, and images are asked for at the root. What
    is not found there is looked for at the next endpoint.
    """
    for endpoint in subject.endpoints:
        if endpoint.host and endpoint.override_path and _escapes(endpoint.url) and not _is_odd(endpoint):
            path = shown(path_clean(endpoint.url.path)).rstrip("/")
            asked = spoken(f"{path}/<repository>/manifests/<tag>")
            message = f"containerd decodes and resolves this path: it asks for {asked}"
            remedy = "write the path as it is to be asked, with /v2 if the API begins there"
            yield Hit(endpoint.text.span, message, remedy)


def _escapes(url: GoUrl) -> bool:
    return bool(url.raw_path) or not {".", ".."}.isdisjoint(url.path.split("/"))


# ── schemes and hosts ──


@rule(
    "R008",
    "endpoint-without-scheme",
    "note",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "cache.corp.example:5000"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
""",
    sources=("k3s-io/k3s#6219", "k3s-io/k3s#9322"),
)
def endpoint_without_scheme(subject: Subject) -> Iterator[Hit]:
    """An endpoint has no scheme, so K3s chooses one.

    It is https, except for localhost and loopback addresses with a port other than 443, where it is http. If the
    registry speaks the other one, the pull fails there, and containerd goes on to the next endpoint.
    """
    for endpoint in subject.endpoints:
        if "://" in endpoint.text.value or not endpoint.host or _is_odd(endpoint) or is_unreadable(endpoint.text.value):
            continue
        scheme, other = ("https", "http") if endpoint.url.scheme == "https" else ("http", "https")
        message = f"K3s asks {spoken(f'{scheme}://{endpoint.host}')}, because this endpoint has no scheme"
        yield Hit(endpoint.text.span, message, f"write {scheme}:// in front, or {other}:// if that is meant")


@rule(
    "R051",
    "invalid-endpoint",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https:/cache.corp.example:5000"
      - " https://cache-2.corp.example"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
      - "https://cache-2.corp.example/"
""",
    sources=("https://docs.k3s.io/installation/private-registry#mirrors",),
)
def invalid_endpoint(subject: Subject) -> Iterator[Hit]:
    """An endpoint is not the URL of a registry.

    K3s leaves out what Go cannot parse (a space in front, a port that is no number), with a warning in its log that
    nobody reads, and takes the rest as it comes: `https:/cache.lan` is the host `https:` with the path `/cache.lan`,
    `tcp://cache.lan` a host called `tcp:`. Either way the endpoint is never asked and the next one is, which is the
    registry itself in the end. A query or fragment is dropped (a warning).
    """
    back = {text.span for text in bringing_back(subject)}
    for mirror in subject.config.mirrors.values():
        for text in mirror.endpoints:
            if text.span not in back and not is_bare_ipv6(text.value) and not is_unreadable(text.value):
                yield from _invalid(subject, text)


def _invalid(subject: Subject, text: Text) -> Iterator[Hit]:
    try:
        _, url, _ = normalized(text.value)
    except InvalidUrl as error:
        message, remedy = f"K3s cannot use this endpoint and ignores it: {_refusal(text.value, error)}", _WRITE_URL
    else:
        odd = _oddity(url)
        if odd is None:
            if url.raw_query or url.fragment or url.force_query:
                message = "what follows the ? or # of an endpoint is dropped"
                yield Hit(text.span, message, "take it out", severity="warning")
            return
        message, remedy = f"this endpoint is never reached: {odd}", _WRITE_URL
    meant = _meant(text.value)
    if meant is not None:
        remedy = f"write {spoken(meant)}"
    yield Hit(text.span, message, remedy, _rewritten(subject, text.span, meant, "correct the URL"))


def _refusal(value: str, error: InvalidUrl) -> str:
    """What Go says, without the endpoint itself; a space around it gets a wrong excuse from Go."""
    if value.strip(" ") != value and value.strip(" "):
        return "there is a space before or after it"
    return visible(_PARSE.sub("", error.message))[1:-1]


def _oddity(url: GoUrl) -> str | None:
    """Why a URL that K3s takes leads nowhere; None if it may lead somewhere."""
    name, port = host_and_port(url.host)
    if not url.host:
        return "it names no host"
    if url.scheme not in ("http", "https"):
        return f"its scheme is {spoken(url.scheme)}, and containerd knows only http and https"
    if name.rstrip(":") in ("http", "https") and not port:
        return f"K3s takes {spoken(url.host)} for the host"
    if port.isdecimal() and int(port[:6]) > _PORT_LIMIT:
        return f"there is no port {port[:6]}"
    if not _HOST.fullmatch(url.host):
        return f"{spoken(url.host)} is not the name of a host"
    return None


def _is_odd(endpoint: UsedEndpoint) -> bool:
    return _oddity(endpoint.url) is not None


def _meant(value: str) -> str | None:
    """The endpoint that a mistyped one stands for, if there is one plausible meaning; never one with a secret in it."""
    if "@" in value:
        return None
    stripped = value.strip().strip("\"'").strip()
    found = None if re.match(r"https?://[^/]", stripped) else _MISTYPED_SCHEME.fullmatch(stripped)
    if found and not found[3].isdecimal() and {"t", "p"} <= set(found[1].lower()):
        stripped = f"http{'s' if found[2] else ''}://{found[3]}"
    try:
        _, url, _ = normalized(stripped)
    except InvalidUrl:
        return None
    return stripped if stripped != value and _oddity(url) is None and not is_unreadable(stripped) else None


@rule(
    "R063",
    "secret-in-endpoint",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://puller:s3cr3t@cache.corp.example:5000"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    auth:
      username: puller
      password: s3cr3t
""",
    sources=("https://docs.k3s.io/installation/private-registry#configs",),
)
def secret_in_endpoint(subject: Subject) -> Iterator[Hit]:
    """An endpoint holds credentials, which containerd does not send.

    K3s writes the URL as it is into hosts.toml, and into its log if something is wrong with it; containerd takes only
    host and path from it. So the registry is asked without credentials, and the password lies in places that nobody
    guards. Credentials belong under `configs`, called by the endpoint's host and port.
    """
    for endpoint in subject.endpoints:
        if endpoint.url.userinfo is not None:
            message = (
                f"the credentials in this URL are never sent to {spoken(endpoint.host) if endpoint.host else 'anybody'}"
            )
            host = spoken(endpoint.lookup) if endpoint.lookup else "its host"
            remedy = (
                f"put them under configs as auth of {host}, and change them: hosts.toml holds them once K3s has run"
            )
            yield Hit(endpoint.text.span, message, remedy)


@rule(
    "R027",
    "cluster-name",
    "warning",
    bad="""\
mirrors:
  registry.corp.example:
    endpoint:
      - "http://registry.kube-system.svc.cluster.local:5000"
""",
    good="""\
mirrors:
  registry.kube-system.svc.cluster.local:5000:
    endpoint:
      - "http://127.0.0.1:30500"
""",
    sources=("k3s-io/k3s#10358", "rancher/rke2#4206"),
)
def cluster_name(subject: Subject) -> Iterator[Hit]:
    """An endpoint is a name that only pods can resolve.

    containerd runs on the node and asks the node's resolver, which knows nothing of Services. The endpoint fails with
    "no such host", and at a cold start there is no cluster yet that could answer.
    """
    for endpoint in subject.endpoints:
        name = host_and_port(endpoint.host)[0].lower().rstrip(".")
        if name.endswith((".svc", ".cluster.local")) or ".svc.cluster." in name:
            message = f"only pods can resolve {spoken(name)}, and containerd runs on the node"
            remedy = "use an address that the node reaches, such as that of a NodePort (http://127.0.0.1:<port>)"
            yield Hit(endpoint.text.span, message, remedy)


@rule(
    "R028",
    "ipv6-literal",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - "https://fd00:10::5"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - "https://[fd00:10::5]:5000"
      - "[::1]:5000"
""",
    sources=("k3s-io/k3s#9897", "rancher/rke2#5947"),
)
def ipv6_literal(subject: Subject) -> Iterator[Hit]:
    """An IPv6 address stands in an endpoint without brackets.

    With a scheme in front K3s cannot parse the URL and leaves the endpoint out. Without one it writes the address as
    it is, and containerd then cannot read the hosts.toml: all endpoints of the mirror are lost, and the registry itself
    is asked, even if its default endpoint is disabled.
    """
    for mirror in subject.config.mirrors.values():
        for text in mirror.endpoints:
            if is_bare_ipv6(text.value):
                meant = _bracketed(text.value)
                ignored = "K3s ignores the endpoint" if "://" in text.value else "containerd drops the whole mirror"
                message = f"an IPv6 address needs brackets in a URL: without them {ignored}"
                remedy = f"write {spoken(meant)}" if meant else "write the address as [address]:port"
                fix = _rewritten(subject, text.span, meant, "put the address in brackets")
                yield Hit(text.span, message, remedy, fix)


def is_bare_ipv6(value: str) -> bool:
    """Whether an endpoint's host is an IPv6 address without its brackets."""
    found = _AUTHORITY.fullmatch(value.strip())
    authority = found[2] if found else ""
    return authority.count(":") > 1 and (_is_ipv6(authority) or _is_ipv6(authority.rpartition(":")[0]))


def _bracketed(value: str) -> str | None:
    """The endpoint with brackets, if it can be told where the address ends."""
    found = _AUTHORITY.fullmatch(value.strip())
    if found is None:
        return None
    start, authority, rest = found[1] or "", found[2], found[3]
    address, _, port = authority.rpartition(":")
    with_port = _is_ipv6(address) and port.isdecimal() and int(port[:6]) <= _PORT_LIMIT
    if with_port == _is_ipv6(authority):
        return None
    return f"{start}[{address}]:{port}{rest}" if with_port else f"{start}[{authority}]{rest}"


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text
