"""Rules on images that come from outside the mirrors: those of a list, or, without one, whatever there may be.

Every route is `Subject.plan`'s, so what is said here is what `pierhead explain` shows. Specification, sections 2 and
3.5; differences, E28 and E36.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from pierhead.check.finding import Hit
from pierhead.check.names import spoken
from pierhead.check.rule import Example, rule
from pierhead.check.subject import Subject, UsedEndpoint
from pierhead.config.containerd import DEFAULT_DIRECTORY, is_localhost
from pierhead.config.near import nearest
from pierhead.errors import Severity, Span
from pierhead.gourl import split_host_port
from pierhead.reference import HUB, InvalidReference, Reference

if TYPE_CHECKING:
    from pierhead.image_list import ListedImage
    from pierhead.routing import Plan, Route

NEAR_LIMIT: Final = 40  # names compared with each other for a "did you mean"

HUB_NAMES: Final = frozenset({HUB, "registry-1.docker.io", "index.docker.io"})
_PUBLIC: Final = HUB_NAMES | {
    *("quay.io", "ghcr.io", "gcr.io", "k8s.gcr.io", "registry.k8s.io", "mcr.microsoft.com", "public.ecr.aws"),
    *("nvcr.io", "registry.gitlab.com", "docker.elastic.co", "lscr.io", "cgr.dev", "registry.suse.com"),
    *("registry.rancher.com", "registry.redhat.io", "registry.access.redhat.com"),
}
_PUBLIC_DOMAINS: Final = (".gcr.io", ".pkg.dev")
_ANY: Final = Reference("registry.invalid", "library/any", "latest", None)  # stands for one that the file never names

Leaks = Callable[["Route"], bool]


@rule(
    "R031",
    "default-endpoint-leak",
    "error",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
""",
        flags=("--assert-no-egress", "--disable-default-registry-endpoint"),
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
""",
        flags=("--assert-no-egress", "--disable-default-registry-endpoint"),
        images="docker.io/library/redis:7\nharbor.lan/team/app:1\n",
    ),
    sources=("https://docs.k3s.io/installation/private-registry#default-endpoint-fallback", "k3s-io/k3s#7007"),
)
def default_endpoint_leak(subject: Subject) -> Iterator[Hit]:
    """Images can come from outside the mirrors.

    With `--assert-no-egress` every place that is asked has to be an endpoint of a mirror, and none that is on the
    internet. What is not in order then:

    - The registry itself is asked last, after all mirrors, unless K3s runs with `--disable-default-registry-endpoint`.
    - The flag does not help a mirror whose key is a key of `configs`, too, nor one that has no endpoint, nor one whose
      last endpoint has no host, nor one whose hosts.toml containerd cannot read.
    - A registry without a mirror is asked itself, unless there is a mirror `"*"`. An entry of `configs` takes its
      registry out of the mirror `"*"`.

    Only the images of the list are looked at if there is one. With a list, and without `--assert-no-egress`, this is a
    note.
    """
    leaks = _leaks(subject)
    if subject.circumstances.images is not None:
        yield from _listed_leaks(subject, leaks)
    elif subject.circumstances.assert_no_egress:
        yield from _possible_leaks(subject, leaks)


def _leaks(subject: Subject) -> Leaks:
    """Whether a route leads out: to a public registry, or to the image's own one that no mirror lists."""
    inside = {_place(used.url.scheme, used.host) for used in subject.endpoints}

    def leads_out(route: Route) -> bool:
        if _is_public(route.host):
            return True
        if route.kind != "default" or is_localhost(route.host):
            return False
        return _place(route.scheme, route.host) not in inside

    return leads_out


def _place(scheme: str, host: str) -> str:
    return host.lower().removesuffix(":443" if scheme == "https" else ":80")


def _is_public(host: str) -> bool:
    name = host.lower().partition(":")[0]
    return name in _PUBLIC or name.endswith(_PUBLIC_DOMAINS)


def is_served(plan: Plan) -> bool:
    """Whether some mirror is asked at all."""
    return any(route.kind != "default" for route in plan.routes)


def _listed_leaks(subject: Subject, leaks: Leaks) -> Iterator[Hit]:
    """One hit for each mirror; images without a mirror are another rule's."""
    found: dict[Span, tuple[Route, ListedImage, Plan]] = {}
    counted: Counter[Span] = Counter()
    for image, plan in subject.routed:
        if not is_served(plan):
            continue
        for route in filter(leaks, plan.routes):
            span = route.span if route.kind != "default" or plan.mirror is None else plan.mirror.span
            if span is not None:
                found.setdefault(span, (route, image, plan))
                counted[span] += 1
    for span, (route, image, plan) in found.items():
        more = counted[span] - 1
        others = f" and {more} more image{'s' if more > 1 else ''} of the list" if more else ""
        yield _leak(subject, span, route, plan, f"{image.reference.familiar}{others}")


def _leak(subject: Subject, span: Span, route: Route, plan: Plan, images: str) -> Hit:
    severity: Severity = "error" if subject.circumstances.assert_no_egress else "note"
    if route.kind != "default":
        message = f"{images} may come from {route.host}, which is a public registry and not a mirror of yours"
        return Hit(span, message, "take the endpoint out", None, severity)
    them = "them" if images.startswith("images of ") or " more image" in images else "it"
    last = "" if len(plan.routes) == 1 else f" if no endpoint before it has {them}"
    message = f"{images} may come from {route.host} itself{last}"
    listed = "take the default endpoint out, and " if plan.mirror and route.span != plan.mirror.span else ""
    return Hit(span, message, listed + _cure(subject, plan), None, severity)


def _cure(subject: Subject, plan: Plan) -> str:
    """Why the default endpoint is asked, as what to do about it."""
    key = plan.mirror.key if plan.mirror else plan.reference.registry
    mirror, hosts = subject.config.mirrors.get(key), subject.hosts
    directory = hosts.tree.directories.get(DEFAULT_DIRECTORY if key == "*" else key) if hosts else None
    if directory is not None and directory.unusable:
        return "correct what makes its hosts.toml unreadable to containerd"
    if mirror is None or not mirror.endpoints:
        return f"list an endpoint for {key} under mirrors"
    if subject.circumstances.client != "k3s":
        return f"{subject.circumstances.client} always asks it last: keep it from the network in another way"
    if not subject.flags.disable_default_registry_endpoint:
        return "run K3s with --disable-default-registry-endpoint"
    if key in subject.config.configs:
        return f"take {key} out of configs: while it is there, --disable-default-registry-endpoint does nothing for it"
    return "give the last endpoint a host: without one, --disable-default-registry-endpoint does nothing"


def _possible_leaks(subject: Subject, leaks: Leaks) -> Iterator[Hit]:
    """Without a list: each registry that the file names, and one that it does not."""
    if subject.hosts is None or subject.hosts.error is not None:
        return
    told: set[Span] = set()
    for key, mirror in subject.config.mirrors.items():
        for hit in _leaks_of(subject, image_of(key), mirror.key.span, leaks):
            if hit.span not in told:
                told.add(hit.span)
                yield hit
    others = list(_leaks_of(subject, _ANY, _mirrors_span(subject), leaks))
    yield from others or _configured_leaks(subject, leaks)


def _configured_leaks(subject: Subject, leaks: Leaks) -> Iterator[Hit]:
    """Registries that only `configs` names: that takes them out of the wildcard mirror."""
    for key, config in subject.config.configs.items():
        if key not in subject.config.mirrors:
            yield from _leaks_of(subject, image_of(key), config.key.span, leaks)


def image_of(key: str) -> Reference | None:
    """Some image of a registry; None if no image has such a one."""
    try:
        reference = Reference.parse(f"{key}/library/any")
    except InvalidReference:
        return None
    return reference if reference.registry == key else None


def _mirrors_span(subject: Subject) -> Span:
    """What to point at for a registry that is not there: the wildcard, `mirrors`, or the file."""
    wildcard = subject.config.mirrors.get("*")
    if wildcard is not None:
        return wildcard.key.span
    entries = subject.source.entries
    at = next((entry for entry in entries if entry.path == ("mirrors",)), entries[0] if entries else None)
    return at.start if at else Span(subject.source.file, 1, 1, 1, 1)


def _leaks_of(subject: Subject, reference: Reference | None, span: Span, leaks: Leaks) -> Iterator[Hit]:
    plan = subject.plan(reference) if reference else None
    if plan is None:
        return
    for route in filter(leaks, plan.routes):
        if plan.reference.registry == _ANY.registry:
            yield _other_leak(subject, span, plan)
        else:
            images = f"images of {plan.reference.registry}"
            yield _leak(subject, span if route.kind == "default" else route.span or span, route, plan, images)


def _other_leak(subject: Subject, span: Span, plan: Plan) -> Hit:
    if is_served(plan):
        message = 'after the endpoints of the mirror "*" every registry is asked itself'
        return Hit(span, message, _cure(subject, plan))
    message = "images of a registry that has no mirror here come from that registry itself"
    return Hit(span, message, 'add a mirror "*", or say with --images which images there are')


@rule(
    "R057",
    "image-not-mirrored",
    "warning",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
""",
        images="docker.io/rancher/mirrored-pause:3.6\nquay.io/jetstack/cert-manager-controller:v1.16.0\n",
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
  quay.io:
    endpoint:
      - https://harbor.lan
""",
        images=(
            "docker.io/rancher/mirrored-pause:3.6\nquay.io/jetstack/cert-manager-controller:v1.16.0\n"
            "harbor.lan/team/app:1\n"
        ),
    ),
    sources=("k3s-io/k3s#12022",),
)
def image_not_mirrored(subject: Subject) -> Iterator[Hit]:
    """No mirror serves an image of the list.

    It comes from its own registry, and on a node without a way there it does not come at all. A registry that is
    itself an endpoint of some mirror counts as one of yours, as does one that `configs` names; with
    `--assert-no-egress`, where this is an error, the latter does not. An endpoint with `http://` serves the images of
    the mirror that lists it: under its own name the same registry is asked with https.
    """
    leaks, strict = _leaks(subject), subject.circumstances.assert_no_egress
    plain, elsewhere = _plain_endpoints(subject), _other_ports(subject)
    near: dict[str, str] = {}
    for image, plan in subject.routed:
        registry = image.reference.registry
        if is_served(plan) or (not strict and _bare_host(registry) in elsewhere):
            continue
        if plan.routes[-1].scheme == "https" and (used := plain.get(plan.routes[-1].host)):
            yield _asked_with_tls(image, used)
        elif any(map(leaks, plan.routes)) and (strict or registry not in subject.config.configs):
            if registry not in near:
                near[registry] = _mirror_remedy(subject, plan, bounded=len(near) < NEAR_LIMIT)
            message = f"no mirror serves {image.reference.familiar}: it comes from {plan.routes[-1].host} itself"
            yield Hit(image.span, message, near[registry], None, "error" if strict else "warning")


def _plain_endpoints(subject: Subject) -> Mapping[str, UsedEndpoint]:
    """The hosts that are endpoints with plain HTTP only."""
    secure = {used.host for used in subject.endpoints if used.url.scheme != "http"}
    return {used.host: used for used in subject.endpoints if used.host not in secure}


def _other_ports(subject: Subject) -> set[str]:
    """Hosts of mirrors that no image uses: for an image of such a host another rule says that its port differs."""
    registries = {image.reference.registry for image, _ in subject.routed}
    return {_bare_host(key) for key in subject.config.mirrors if key not in registries}


def _bare_host(registry: str) -> str:
    return split_host_port(registry)[0] or registry


def _asked_with_tls(image: ListedImage, used: UsedEndpoint) -> Hit:
    registry = image.reference.registry
    message = (
        f"no mirror serves {image.reference.familiar}: it is asked for at https://{used.host}, while the endpoint in "
        f"line {used.text.span.line} speaks plain HTTP"
    )
    return Hit(
        image.span, message, f"add a mirror for {registry} with the endpoint {spoken(used.text.value)}", None, "warning"
    )


def _mirror_remedy(subject: Subject, plan: Plan, *, bounded: bool) -> str:
    registry, keys = plan.reference.registry, subject.config.mirrors
    if registry in keys:
        return _cure(subject, plan)
    near = nearest(registry, keys) if bounded and len(keys) <= NEAR_LIMIT else None
    if near:
        return f"mirrors has {near.name}: write {registry} if that is meant"
    if "*" in keys and registry in subject.config.configs:
        return f'add a mirror for {registry}: the entry of configs takes it out of the mirror "*"'
    return f"add a mirror for {registry}"
