"""One image and one registries.yaml as each client understands them: where it would ask, and what they disagree on.

- `k3s`: containerd as K3s builds and configures it (`config.k3s`), docker.io's credentials under any of its names.
- `containerd`: the same files under containerd as its project releases it (v2.3.4): it knows no rewrites and always
  asks the registry itself last (specification, section 3.5), and it takes credentials only from under the very host.
- `wharfie`: RKE2's bootstrap puller, which reads registries.yaml itself (`config.wharfie`; specification, section 9).

Nothing here opens a socket; a file is read only by the `read` that a caller gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from pierhead.auth import BadCredential, Credential, Lookup, decode_auth, from_registries
from pierhead.errors import FLAGS, Problem, Span, UsageError
from pierhead.gourl import GoUrl, InvalidUrl, encode_query
from pierhead.redact import safe_url
from pierhead.reference import Digest, Reference
from pierhead.routing import (
    AppliedRewrite,
    MirrorKey,
    OwnRegistry,
    Plan,
    Route,
    Skipped,
    k3s_plan,
    plan,
    skipped_places,
)
from pierhead.transport import TlsOptions

if TYPE_CHECKING:
    from pierhead.config import wharfie
    from pierhead.config.containerd import Lookup as HostLookup
    from pierhead.config.k3s import K3sHosts
    from pierhead.config.registries import RegistriesConfig, Rewrite

Client = Literal["k3s", "containerd", "wharfie"]
CLIENTS: Final[tuple[Client, ...]] = ("k3s", "containerd", "wharfie")


def plan_for(
    client: Client,
    image: str,
    hosts: K3sHosts | None,
    *,
    own_registry: OwnRegistry = OwnRegistry(),
    read: Callable[[str], bytes] | None = None,
) -> Plan:
    """The places `client` asks for `image`, in order; `hosts` None: there is no registries.yaml.

    `image` is read as the client reads it, and they differ: raises `InvalidReference` or, for wharfie, `InvalidName`,
    both `UsageError`. With `read` (raising `OSError`) wharfie's certificate files are looked at, which decides what it
    does with them; else they are taken to be in order.
    """
    if client == "wharfie":
        return _wharfie_plan(image, hosts, own_registry, read)
    reference = Reference.parse(image)
    made = k3s_plan(reference, hosts, own_registry)
    return _stock_plan(made, hosts, own_registry) if client == "containerd" else made


def credentials_for(client: Client, hosts: K3sHosts | None) -> Lookup:
    """Whose credentials of `configs` the client uses, by the host[:port] of a route; the lookup raises `BadCredential`.

    Only `configs`: what kubelet or docker's own file adds is the same for every client.
    """
    if hosts is None:
        return lambda _: None
    if client == "wharfie":
        written = _as_written(hosts.config)
        return lambda host: _wharfie_credential(written, host)
    config = hosts.config
    if client == "containerd" or not hosts.behaviour.docker_io_credentials:
        return lambda host: from_registries(config.configs.get(host))
    from pierhead.config.k3s import auth_for

    return lambda host: from_registries(auth_for(config, host))


def manifest_url(client: Client, route: Route, reference: Reference) -> str:
    """What the client requests for the manifest, safe to show; if that cannot be, the text it stumbles over."""
    if client == "wharfie":
        return safe_url(_wharfie_url(route, reference))
    try:
        return safe_url(route.url_of("manifests", reference.object))
    except InvalidUrl:
        return safe_url(f"{route.url}/{route.repository}/manifests/{reference.object}")


# ── what they disagree on ────────────────────────────────────────────────────────────────────────────────────────

Aspect = Literal["reference", "places", "url", "repository", "credentials", "tls"]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One thing that clients do differently for one image.

    `values` holds what each does, one text for `url`, `repository`, `credentials` and `tls`, a list in order for
    `places`, the reason or the name for `reference`. `place` is the endpoint concerned as written, "" for the image as
    a whole; a client that does not ask there is not in `values`.
    """

    aspect: Aspect
    place: str
    values: Mapping[Client, tuple[str, ...]]
    span: Span | None = None


def disagreements(
    plans: Mapping[Client, Plan | UsageError], credentials: Mapping[Client, Lookup] | None = None
) -> tuple[Disagreement, ...]:
    """What differs between the clients' plans for one image; a client that refuses it has its error as the plan.

    Places are the same if the same line of registries.yaml makes them, and so are the registries themselves.
    `credentials` by client, as of `credentials_for`; without them none are compared.
    """
    found = [_reference_disagreement(plans)]
    made = {client: value for client, value in plans.items() if isinstance(value, Plan)}
    places = {client: _places(value) for client, value in made.items()}
    if len({tuple(routes) for routes in places.values()}) > 1:
        shown = {client: tuple(_place_name(route) for route in routes.values()) for client, routes in places.items()}
        found.append(Disagreement("places", "", shown))
    for key in dict.fromkeys(key for routes in places.values() for key in routes):
        asked = {client: (made[client], routes[key]) for client, routes in places.items() if key in routes}
        found += _place_disagreements(asked, credentials or {})
    return tuple(item for item in found if item is not None)


_Place = tuple[Span | None, int]  # the line of the file, None for the registry itself; which one of those there


def _places(made: Plan) -> dict[_Place, Route]:
    routes: dict[_Place, Route] = {}
    seen: Counter[Span | None] = Counter()
    for route in made.routes:
        unlisted = route.span is None or (made.mirror is not None and route.span == made.mirror.span)
        span = None if unlisted else route.span
        routes[span, seen[span]] = route
        seen[span] += 1
    return routes


def _place_name(route: Route) -> str:
    return safe_url(route.endpoint or route.url)


def _reference_disagreement(plans: Mapping[Client, Plan | UsageError]) -> Disagreement | None:
    read = {client: (str(made.reference) if isinstance(made, Plan) else "refused",) for client, made in plans.items()}
    if len(set(read.values())) < 2:
        return None
    told = {client: read[client] if isinstance(made, Plan) else (str(made),) for client, made in plans.items()}
    return Disagreement("reference", "", told)


def _place_disagreements(
    asked: Mapping[Client, tuple[Plan, Route]], credentials: Mapping[Client, Lookup]
) -> Iterator[Disagreement]:
    values: dict[Aspect, dict[Client, str]] = {"url": {}, "repository": {}, "credentials": {}, "tls": {}}
    for client, (made, route) in asked.items():
        values["url"][client] = manifest_url(client, route, made.reference)
        values["repository"][client] = route.repository
        values["tls"][client] = _tls_text(route)
        if client in credentials:
            values["credentials"][client] = _credential_text(credentials[client], route.host)
    _, first = next(iter(asked.values()))
    for aspect, by_client in values.items():
        if len(set(by_client.values())) > 1:
            told = {client: (text,) for client, text in by_client.items()}
            yield Disagreement(aspect, _place_name(first), told, first.span)


def _tls_text(route: Route) -> str:
    if route.scheme != "https":
        return "none: plain http"
    tls = route.tls
    parts = [f"CA {file}" for file in tls.ca_files]
    parts += [f"client certificate {certificate}" for certificate, _ in tls.client]
    parts += ["not verified"] if tls.insecure_skip_verify else []
    return ", ".join(parts or ["the system's CAs"]) + ("; plain http if that fails" if route.http_fallback else "")


def _credential_text(lookup: Lookup, host: str) -> str:
    try:
        credential = lookup(host)
    except BadCredential as error:
        return f"unusable: {error.message}"
    if credential is None:
        return "none"
    who = "identity token" if credential.kind == "identity_token" else f"user {credential.username!r}"
    return f"{who} of {credential.source} {credential.key!r}"


# ── containerd ───────────────────────────────────────────────────────────────────────────────────────────────────


def _stock_plan(made: Plan, hosts: K3sHosts | None, own_registry: OwnRegistry) -> Plan:
    """`made` is K3s' plan: what it rewrites is what is lost."""
    if hosts is None:
        return made
    lookup = _stock_lookup(hosts.lookup(made.reference.registry))
    skipped = skipped_places(hosts, lookup, without="default-disabled")
    stock = plan(made.reference, lookup, skipped=skipped, own_registry=own_registry)
    problems = (*stock.problems, *_lost_rewrites(made), *_returned_default(made, stock))
    return replace(stock, problems=tuple(dict.fromkeys(problems)))


def _stock_lookup(found: HostLookup) -> HostLookup:
    """As hosts.go of containerd v2.3.4: `rewrite` is no field of a host, and the root is always the last one."""
    from pierhead.config.containerd import Host, HostTree, Origin

    directory = found.directory
    if directory is None or not directory.hosts:
        return replace(found, hosts=tuple(replace(host, rewrites={}) for host in found.hosts))
    hosts = [replace(host, rewrites={}) for host in directory.hosts]
    if hosts[-1].origin.kind != "default":
        hosts.append(Host(origin=Origin("default", span=directory.key.span if directory.key else None)))
    return HostTree({directory.name: replace(directory, hosts=tuple(hosts))}).lookup(found.registry)


def _lost_rewrites(made: Plan) -> Iterator[Problem]:
    for route in made.routes:
        if route.rewrite is not None:
            message = (
                f"containerd outside K3s has no rewrites: the rule {route.rewrite.pattern!r} is lost, and "
                f"{made.reference.repository!r} is asked for instead of {route.repository!r}; "
                "serve the images under their own names, or put a mirror in between that rewrites"
            )
            yield Problem("rewrite-lost", "error", message, route.rewrite.span)


def _returned_default(made: Plan, stock: Plan) -> Iterator[Problem]:
    if len(stock.routes) > len(made.routes):
        message = (
            f"containerd outside K3s asks {stock.routes[-1].host} last although the default endpoint is disabled; "
            "keep it from the network in another way"
        )
        yield Problem("default-endpoint-returns", "warning", message, stock.mirror.span if stock.mirror else None)


# ── wharfie ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _wharfie_plan(
    image: str, hosts: K3sHosts | None, own_registry: OwnRegistry, read: Callable[[str], bytes] | None
) -> Plan:
    from pierhead.config import wharfie
    from pierhead.config.registries import RegistriesConfig

    config = _as_written(hosts.config) if hosts is not None else RegistriesConfig("")
    found = wharfie.resolve(config, image, read=read)
    reference = _wharfie_reference(found.name)
    mirror = MirrorKey(found.mirror.key.value, found.mirror.key.span) if found.mirror else None
    routes = tuple(
        own_registry.applied(_wharfie_route(order, endpoint, mirror))
        for order, endpoint in enumerate(found.endpoints, start=1)
    )
    skipped = tuple(Skipped(item.text.shown, item.message, item.text.span) for item in found.ignored)
    problems = (*found.problems, *_unknown_flag(reference, hosts))
    return Plan(reference, routes, skipped, mirror, problems)


def _as_written(config: RegistriesConfig) -> RegistriesConfig:
    """The file itself, as wharfie reads it: without what --embedded-registry puts into K3s' view of it."""
    if not any(entry.key.span.file == FLAGS for entry in config.configs.values()):
        return config
    mirrors = {
        key: replace(mirror, endpoints=tuple(text for text in mirror.endpoints if text.span.file != FLAGS))
        for key, mirror in config.mirrors.items()
        if mirror.key.span.file != FLAGS
    }
    configs = {key: entry for key, entry in config.configs.items() if entry.key.span.file != FLAGS}
    return replace(config, mirrors=mirrors, configs=configs)


def _wharfie_reference(name: wharfie.Name) -> Reference:
    """The name as the others write it; wharfie takes names that they refuse, which stay as they are."""
    from pierhead.config.wharfie import HUB, HUB_ALIAS

    registry = HUB_ALIAS if name.registry == HUB else name.registry
    if name.is_digest:
        return Reference(registry, name.repository, None, Digest.parse(name.ref))
    return Reference(registry, name.repository, name.ref, None)


def _wharfie_route(order: int, endpoint: wharfie.Endpoint, mirror: MirrorKey | None) -> Route:
    url, files = endpoint.url, endpoint.tls
    unlisted = mirror.span if mirror else None
    return Route(
        order=order,
        kind="default" if endpoint.is_default else "mirror",
        endpoint=endpoint.text.shown if endpoint.text else f"{url.scheme}://{url.host}",
        scheme=url.scheme,
        host=url.host,
        path=url.path,
        repository=endpoint.repository,
        namespace=endpoint.namespace,
        capabilities=("pull", "resolve"),
        rewrite=_written_rule(endpoint.rule),
        tls=_tls_options(files) if files else TlsOptions(),
        tls_as_written=endpoint.config.tls if endpoint.config and files else None,
        span=endpoint.text.span if endpoint.text else unlisted,
    )


def _written_rule(rule: Rewrite | None) -> AppliedRewrite | None:
    return AppliedRewrite(rule.pattern.value, rule.replacement.value, rule.pattern.span) if rule else None


def _tls_options(files: wharfie.TlsFiles) -> TlsOptions:
    authorities = (files.ca_file,) if files.ca_file else ()
    return TlsOptions(authorities, (files.client,) if files.client else (), files.insecure_skip_verify)


def _unknown_flag(reference: Reference, hosts: K3sHosts | None) -> Iterator[Problem]:
    if hosts is None:
        return
    for skip in hosts.skipped_for(hosts.lookup(reference.registry)):
        if skip.reason == "default-disabled":
            message = (
                f"wharfie asks {reference.registry} itself last although the default endpoint is disabled; "
                "keep it from the network in another way"
            )
            yield Problem("default-endpoint-returns", "warning", message, skip.span)


def _wharfie_credential(config: RegistriesConfig, host: str) -> Credential | None:
    """As go-containerregistry answers a token server, which is asked with the identity token if there is one."""
    from pierhead.config.wharfie import config_for

    entry = config_for(config, host)
    if entry is None or entry.auth is None:
        return None
    auth, key = entry.auth, entry.key.value
    if auth.identity_token is not None:
        return Credential("", auth.identity_token.value, "identity_token", "configs", key, auth.identity_token.span)
    if auth.username is not None and auth.password is not None:
        return Credential(auth.username.value, auth.password.value, "basic", "configs", key, auth.username.span)
    if auth.auth is None:
        return None
    try:
        username, password = decode_auth(auth.auth.value)
    except BadCredential as error:
        message = f"configs {key!r}: {error.message}; wharfie sends it all the same"
        raise BadCredential(message, hint=error.hint, span=auth.auth.span) from None
    return Credential(username, password, "auth", "configs", key, auth.auth.span)


def _wharfie_url(route: Route, reference: Reference) -> str:
    """As endpoint.go RoundTrip: the endpoint's path in the place of /v2, and nothing cleaned."""
    path = f"{route.path}/{route.repository}/manifests/{reference.object}"
    query = encode_query([("ns", route.namespace)]) if route.namespace else ""
    return str(GoUrl(scheme=route.scheme, host=route.host.removesuffix(":"), path=path, raw_query=query))
