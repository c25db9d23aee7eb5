"""From an image reference and a configuration to the ordered plan of places to ask.

`plan` is pure: it opens no file and no socket. Every host of the configuration for this image is in `Plan.routes` or
in `Plan.skipped`, once, with a reason. `explain` shows a plan, `pull` walks it.

Follows containerd v2.3.4, core/remotes/docker/resolver.go, with K3s' rewrite patch; specification, sections 3.7 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pierhead.errors import Problem, Span
from pierhead.gourl import InvalidUrl, add_query, parse, path_join, request_target
from pierhead.redact import safe_url, without_userinfo
from pierhead.reference import Reference
from pierhead.transport import TlsOptions

if TYPE_CHECKING:
    from pierhead.config.containerd import Host, Lookup
    from pierhead.config.k3s import K3sHosts
    from pierhead.config.registries import Rewrite, Tls
    from pierhead.rewriting import Rewritten

Kind = Literal["mirror", "default", "embedded", "foreign"]
Operation = Literal["pull", "push"]


@dataclass(frozen=True, slots=True)
class AppliedRewrite:
    """The rule that changed the repository, as written."""

    pattern: str
    replacement: str
    span: Span | None


@dataclass(frozen=True, slots=True)
class Route:
    """One place to ask, and how.

    `endpoint` is what the file says, empty for what it does not list; `scheme`, `host` and `path` are what is really
    asked (https first where containerd does so for an http endpoint: `http_fallback`); `repository` is rewritten;
    `namespace` goes into `?ns=`, empty for none. `actions` are what tokens are asked for. `tls_as_written` is the `tls`
    that applies, for people. `alternatives` is what other rules would make of the repository, which containerd may take
    instead.
    """

    order: int
    kind: Kind
    endpoint: str
    scheme: str
    host: str
    path: str
    repository: str
    namespace: str = ""
    actions: str = "pull"
    capabilities: tuple[str, ...] = ()
    rewrite: AppliedRewrite | None = None
    alternatives: tuple[tuple[str, AppliedRewrite], ...] = ()
    tls: TlsOptions = TlsOptions()
    http_fallback: bool = False
    tls_as_written: Tls | None = None
    span: Span | None = None
    fixed_url: str = field(default="", repr=False)  # of a foreign layer, which is nowhere else

    @property
    def url(self) -> str:
        """The API root, including `/v2` or the path that overrides it."""
        return f"{self.scheme}://{self.host}{self.path}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def override_path(self) -> bool:
        """Whether the path of the endpoint stands where `/v2` would."""
        return self.path != "/v2"

    @property
    def scope(self) -> str:
        """The token scope, of the rewritten repository (as scope.go RepositoryScope)."""
        try:
            path = parse(f"dummy://host/{self.repository}").path.removeprefix("/")
        except InvalidUrl:
            path = self.repository
        return f"repository:{path}:{self.actions}"

    def url_of(self, kind: Literal["manifests", "blobs", "referrers"], reference: str) -> str:
        """The URL containerd would request, byte for byte; raises `InvalidUrl`.

        As resolver.go request and addNamespace: joined and cleaned as a path, so a rewrite may leave the API root, and
        a `?` in it begins a query.
        """
        if self.kind == "foreign":
            return self.fixed_url
        target = path_join("/", self.path, self.repository, kind, reference)
        if self.namespace:
            target = add_query(target, "ns", self.namespace)
        authority, target = request_target(f"{self.origin}{target}")
        return f"{self.scheme}://{authority}{target}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A place that is not asked; `endpoint` as written, even if it cannot be parsed."""

    endpoint: str
    reason: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class MirrorKey:
    """The key of registries.yaml that an image's registry was found under."""

    key: str
    span: Span | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Where an image would be asked for, in order, and where not."""

    reference: Reference
    routes: tuple[Route, ...]
    skipped: tuple[Skipped, ...] = ()
    mirror: MirrorKey | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnRegistry:
    """What flags say about the image's own registry, never about a mirror."""

    plain_http: bool = False
    tls: TlsOptions = TlsOptions()

    def applied(self, route: Route) -> Route:
        return self.onto(route) if route.kind == "default" else route

    def onto(self, route: Route) -> Route:
        """What is said, of whatever place this is."""
        # Whoever names a CA wants it verified, on the loopback too, where containerd verifies nobody.
        trusting = route.tls.insecure_skip_verify and not self.tls.ca_files
        merged = TlsOptions(
            ca_files=(*route.tls.ca_files, *self.tls.ca_files),
            client=self.tls.client or route.tls.client,
            insecure_skip_verify=trusting or self.tls.insecure_skip_verify,
        )
        if self.plain_http:
            # What is told of it names what is asked.
            return replace(route, scheme="http", endpoint=f"http://{route.host}", http_fallback=False, tls=merged)
        return replace(route, tls=merged)


def plan(
    reference: Reference,
    lookup: Lookup,
    *,
    skipped: Sequence[Skipped] = (),
    own_registry: OwnRegistry = OwnRegistry(),
    operation: Operation = "pull",
) -> Plan:
    """The places to ask for `reference`, in order.

    `lookup` is what containerd finds for its registry, `skipped` what the dialect left out on the way there.
    """
    needed = _needed(reference, operation)
    routes: list[Route] = []
    left_out = list(skipped)
    problems = list(lookup.problems)
    for host in lookup.hosts:
        if needed <= set(host.capabilities):
            rewritten = _rewritten(host, reference.repository)
            problems += _rewrite_problems(host, rewritten, reference.repository)
            routes.append(own_registry.applied(_route(len(routes) + 1, host, rewritten, reference)))
        else:
            missing = ", ".join(sorted(needed - set(host.capabilities)))
            left_out.append(Skipped(_endpoint(host), f"it has not the capability: {missing}", host.origin.span))
    key = lookup.directory.key if lookup.directory else None
    mirror = MirrorKey(key.value, key.span) if key else None
    return Plan(reference, tuple(routes), tuple(left_out), mirror, tuple(dict.fromkeys(problems)))


def k3s_plan(reference: Reference, hosts: K3sHosts | None, own_registry: OwnRegistry = OwnRegistry()) -> Plan:
    """Where K3s' containerd asks for an image; without `hosts`, where any containerd does."""
    if hosts is None:
        from pierhead.config.containerd import HostTree

        return plan(reference, HostTree().lookup(reference.registry), own_registry=own_registry)
    lookup = hosts.lookup(reference.registry)
    return plan(reference, lookup, skipped=skipped_places(hosts, lookup), own_registry=own_registry)


def own_route(reference: Reference, hosts: K3sHosts | None, own_registry: OwnRegistry = OwnRegistry()) -> Route:
    """The way to the image's own registry itself, under its own repository: where `push`, `ls` and `login` go.

    By what registries.yaml says of it where it does, be it as a mirror of itself (how K3s is told to speak plain http);
    whether nodes ask it after its mirrors is no matter. What flags say of it holds either way.
    """
    plans = (k3s_plan(reference, known) for known in _as_asked_anyhow(hosts))
    route = next(
        route
        for plan in plans
        for route in plan.routes
        if route.path == "/v2" and (route.kind == "default" or not is_proxy(route.host, reference.registry))
    )
    plain = replace(route, order=1, repository=reference.repository, rewrite=None, namespace="")
    return own_registry.onto(plain)


def _as_asked_anyhow(hosts: K3sHosts | None) -> Iterator[K3sHosts | None]:
    """The configuration, as if no flag disabled the default endpoints, and none: one of them has the own registry."""
    yield hosts
    if hosts is not None:
        from pierhead.config import k3s

        yield k3s.hosts(hosts.config, behaviour=hosts.behaviour)
    yield None


def push_route(route: Route) -> Route:
    """The same place, to write there: it is asked for what it has itself, and tokens must allow to push."""
    return replace(route, namespace="", actions="pull,push")


def names(route: Route) -> tuple[str, ...]:
    """How a person may call the endpoint of a route: as the file has it, by URL, by host[:port]."""
    own = ("docker.io",) if route.kind == "default" and route.host == "registry-1.docker.io" else ()
    return (*filter(None, (route.endpoint, route.url, route.origin, route.host)), *own)


def is_named(route: Route, text: str) -> bool:
    """Whether `text` means this endpoint; a slash at the end does not matter."""
    return text.rstrip("/") in {name.rstrip("/") for name in names(route)}


def skipped_places(hosts: K3sHosts, lookup: Lookup, *, without: str = "") -> list[Skipped]:
    """What K3s leaves out for the images of this lookup, but for one reason."""
    return [
        Skipped(skip.endpoint.shown if skip.endpoint else f"{lookup.registry} itself", skip.message, skip.span)
        for skip in hosts.skipped_for(lookup)
        if skip.reason != without
    ]


def _rewritten(host: Host, repository: str) -> Rewritten | None:
    """What the host's rules make of the repository; None if it has none."""
    if not host.rewrites:
        return None
    from pierhead.rewriting import Rule, rewrite

    return rewrite([Rule(*rule) for rule in host.rewrites.items()], repository)


def _needed(reference: Reference, operation: Operation) -> set[str]:
    if operation == "push":
        return {"push"}
    return {"pull"} if reference.digest else {"pull", "resolve"}


def route_to(host: Host, order: int = 1) -> Route:
    """The way to a host with no image in mind."""
    return Route(
        order=order,
        kind=host.origin.kind,
        endpoint=_endpoint(host),
        scheme="https" if host.tries_https_first else host.scheme,
        host=host.host,
        path=host.path,
        repository="",
        capabilities=host.capabilities,
        tls=TlsOptions(host.ca, host.client, host.skip_verify),
        http_fallback=host.tries_https_first,
        tls_as_written=host.origin.config.tls if host.origin.config else None,
        span=host.origin.span,
    )


def _route(order: int, host: Host, rewritten: Rewritten | None, reference: Reference) -> Route:
    return replace(
        route_to(host, order),
        repository=rewritten.repository if rewritten else reference.repository,
        namespace=reference.registry if is_proxy(host.host, reference.registry) else "",
        rewrite=_applied(host, rewritten),
        alternatives=_alternatives(host, rewritten, reference.repository),
    )


def is_proxy(host: str, registry: str) -> bool:
    """Whether `host` is asked on behalf of another registry, and is told so by `?ns=` (registry.go isProxy)."""
    return host != registry and (registry, host) != ("docker.io", "registry-1.docker.io")


def _endpoint(host: Host) -> str:
    if host.origin.endpoint:
        return host.origin.endpoint.shown
    scheme = "https" if host.tries_https_first else host.scheme
    return f"{scheme}://{host.host}" if host.host else ""


def _rule(host: Host, index: int) -> tuple[str, str, Rewrite | None]:
    pattern, replacement = list(host.rewrites.items())[index]
    return pattern, replacement, host.origin.rewrites.get(pattern)


def _applied(host: Host, rewritten: Rewritten | None) -> AppliedRewrite | None:
    if rewritten is None or rewritten.rule is None:
        return None
    return _as_written(host, rewritten.rule)


def _alternatives(host: Host, rewritten: Rewritten | None, repository: str) -> tuple[tuple[str, AppliedRewrite], ...]:
    """What each of the overlapping rules would make of the repository, where that is something else."""
    if rewritten is None or not rewritten.overlapping:
        return ()
    from pierhead.rewriting import Rule, rewrite

    rules = [Rule(*rule) for rule in host.rewrites.items()]
    found = {rewrite([rules[index]], repository).repository: index for index in reversed(rewritten.overlapping)}
    found.pop(rewritten.repository, None)
    return tuple((result, _as_written(host, index)) for result, index in sorted(found.items(), key=lambda it: it[1]))


def _as_written(host: Host, index: int) -> AppliedRewrite:
    pattern, replacement, written = _rule(host, index)
    if written:
        return AppliedRewrite(written.pattern.value, written.replacement.value, written.pattern.span)
    return AppliedRewrite(pattern, replacement, None)


def _rewrite_problems(host: Host, rewritten: Rewritten | None, repository: str) -> Iterable[Problem]:
    if rewritten is None:
        return
    for index, message in rewritten.invalid:
        pattern, _, written = _rule(host, index)
        span = written.pattern.span if written else None
        yield Problem("invalid-rewrite", "error", f"the rewrite {pattern!r} is skipped: {message}", span)
    if rewritten.rule is None or not rewritten.overlapping:
        return
    first = _rule(host, rewritten.rule)
    for index in rewritten.overlapping:
        pattern, _, written = _rule(host, index)
        message = (
            f"{repository!r} is changed by {first[0]!r} and by {pattern!r}; containerd takes either of them, at random "
            "and for every request anew; here the first of the file is taken"
        )
        yield Problem("overlapping-rewrites", "warning", message, written.pattern.span if written else None)


def foreign_route(url: str, order: int = -1) -> Route:
    """The route to a foreign layer's own URL: nothing of the configuration applies to it."""
    try:
        parts = urlsplit(without_userinfo(url))
        scheme, host, path = parts.scheme, parts.netloc, parts.path
    except ValueError:  # the transport will say what is wrong with it
        scheme, host, path = "", "", ""
    shown = safe_url(url)
    fixed_url = without_userinfo(url)
    return Route(order, "foreign", shown, scheme, host, path, "", capabilities=("pull",), fixed_url=fixed_url)
