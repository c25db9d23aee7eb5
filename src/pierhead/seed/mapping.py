"""Which mirror a node asks first for each image, and under which name: registries.yaml run forwards. Pure.

A mirror is a place to pull from, so it is a pull that is planned (`routing.k3s_plan`), and its answer is where to
write. containerd takes either of two overlapping rewrite rules at random, so the image goes to what each makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal, get_args

from pierhead.errors import Problem, Span, UsageError
from pierhead.redact import safe_url
from pierhead.reference import Reference, tag_beside_digest
from pierhead.routing import AppliedRewrite, Plan, Route, Skipped, is_named
from pierhead.store import InvalidName, RepositoryName

Allowed = Literal["collision", "unmirrored", "internet-only"]
ALLOWED: Final[tuple[Allowed, ...]] = get_args(Allowed)
EVERY: Final = "all"
REMEDIES: Final = {
    "collision": "a rewrite for one of them keeps them apart; --allow collision seeds the first alone",
    "unmirrored": "give its registry a mirror in registries.yaml; --allow unmirrored leaves it out",
    "internet-only": "correct its entry of `mirrors`; --allow internet-only leaves it out",
    "invalid-destination": "correct the rewrite: parts of a-z, 0-9 and single . _ - between, joined by /",
}
KNOWN_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image of the list: what it means, the tag that stood beside a digest, and where it stands."""

    reference: Reference
    tag: str = ""
    span: Span | None = None

    @classmethod
    def of(cls, reference: Reference, text: str, span: Span | None = None) -> Wanted:
        """The image of that text, whose reference holds a digest or a tag but not both."""
        return cls(reference, tag_beside_digest(text), span)

    def __str__(self) -> str:
        return str(self.reference)


@dataclass(frozen=True, slots=True)
class Target:
    """One place an image goes to: `route` as a node asks it, in its own repository, under these names.

    `plan` is what the node walks; with rules that overlap it is one of the plans it may have.
    """

    plan: Plan
    route: Route
    names: tuple[str, ...]

    @property
    def endpoint(self) -> str:
        """The endpoint as the file writes it."""
        return self.route.endpoint or self.route.url

    @property
    def place(self) -> str:
        """Repository and name there."""
        first = self.names[0]
        return f"{self.route.repository}{'@' if ':' in first else ':'}{first}"

    def __str__(self) -> str:
        return f"{self.endpoint} {self.place}"


@dataclass(frozen=True, slots=True)
class Mapped:
    """One image and where it goes. `problem` keeps it from being seeded; `left_out`: why it is not, as was allowed.

    With a collision `targets` is where it would go.
    """

    wanted: Wanted
    plan: Plan
    targets: tuple[Target, ...] = ()
    problem: Problem | None = None
    left_out: str = ""


def map_images(
    wanted: Sequence[Wanted],
    plan: Callable[[Reference], Plan],
    *,
    to: Sequence[str] = (),
    allow: Sequence[Allowed] = (),
) -> list[Mapped]:
    """Where each image goes, in order. `to`: only these endpoints, or EVERY; none: the first that a node asks."""
    plans = [(item, plan(item.reference)) for item in wanted]
    return _apart([_mapped(item, planned, to, allow) for item, planned in plans], allow)


def check_endpoints(to: Sequence[str], mapped: Sequence[Mapped], known: Sequence[str]) -> None:
    """Raises `UsageError` about an endpoint of `to` that no image is asked for at and that is not `known`."""
    for endpoint in to:
        if endpoint == EVERY or any(is_named(route, endpoint) for item in mapped for route in item.plan.routes):
            continue
        if endpoint.rstrip("/") in {form for name in known for form in _forms(name)}:
            continue
        near = get_close_matches(endpoint, known, 1)
        more = f" and {len(known) - KNOWN_SHOWN} more" if len(known) > KNOWN_SHOWN else ""
        listed = ", ".join(known[:KNOWN_SHOWN]) + more if known else "none"
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"{safe_url(endpoint)!r} is no endpoint of registries.yaml", hint=f"{meant}it has: {listed}")


def _forms(written: str) -> tuple[str, ...]:
    whole = written.rstrip("/")
    scheme, mark, rest = whole.rpartition("://")
    host = rest.partition("/")[0]
    return whole, host, f"{scheme}{mark}{host}"


# ── one image ────────────────────────────────────────────────────────────────────────────────────────────────────


def _mapped(wanted: Wanted, plan: Plan, to: Sequence[str], allow: Sequence[Allowed]) -> Mapped:
    mirrors = [route for route in plan.routes if route.kind == "mirror" and not _oddity(route)]
    routes = _chosen(mirrors, to)
    if not routes:
        nowhere = _nowhere(plan, [route.endpoint for route in mirrors], to)
        left_out = nowhere.message if nowhere.id in allow else ""
        return Mapped(wanted, plan, problem=None if left_out else nowhere, left_out=left_out)
    targets = [target for route in routes for target in _targets(wanted, plan, route)]
    problem = next((found for target in targets if (found := _unusable(target))), None)
    return Mapped(wanted, plan, () if problem else tuple(targets), problem)


def _chosen(mirrors: Sequence[Route], to: Sequence[str]) -> Sequence[Route]:
    if not to:
        return mirrors[:1]
    return mirrors if EVERY in to else [route for route in mirrors if any(is_named(route, name) for name in to)]


def _nowhere(plan: Plan, mirrors: Sequence[str], to: Sequence[str]) -> Problem:
    """Why there is no mirror to write to."""
    reference = plan.reference
    if mirrors:
        message = f"{reference}: no node asks {' or '.join(to)} for it, but {', '.join(mirrors)}"
        return Problem("unmirrored", "error", message, plan.mirror.span if plan.mirror else None)
    itself = f"only {reference.registry} itself" if plan.routes else "nobody"
    if plan.mirror is None and not plan.skipped:
        return Problem("unmirrored", "error", f"{reference}: {reference.registry} has no mirror, a node asks {itself}")
    odd = [Skipped(route.endpoint, reason, route.span) for route in plan.routes if (reason := _oddity(route))]
    passed_over = (*odd, *plan.skipped)
    reasons = "; ".join(dict.fromkeys(f"{item.endpoint}: {item.reason}" for item in passed_over))
    message = f"{reference}: its entry in the file names no mirror that is asked, a node asks {itself}"
    span = odd[0].span if odd else plan.mirror.span if plan.mirror else plan.skipped[0].span
    return Problem("internet-only", "error", f"{message} ({reasons})" if reasons else message, span)


def unreached(plan: Plan) -> tuple[Problem, ...]:
    """The endpoints that a node has to leave behind before it comes to one that is a place."""
    return tuple(
        Problem("invalid-endpoint", "warning", f"no node gets to {route.endpoint}: {reason}", route.span)
        for route in plan.routes
        if (reason := _oddity(route))
    )


def _oddity(route: Route) -> str:
    """Why containerd gets nowhere by an endpoint, and moves on; empty if it may be a place.

    What does not begin with `http` gets `https://` in front, so that its own scheme is the host, and its port is empty.
    As containerd: core/remotes/docker/config/hosts.go, parseHostConfig, v2.3.4; K3s does so before for `http:/host`.
    """
    name, colon, port = route.host.partition(":")
    has_empty_port = colon != "" and not port
    scheme = name.lower() if has_empty_port else route.scheme
    if not route.host:
        return "it names no host"
    if has_empty_port and scheme in ("http", "https"):
        return f"K3s takes {route.host} for the host"
    if scheme not in ("http", "https") and route.endpoint.lower().startswith(f"{scheme}://"):
        return f"its scheme is {scheme}, and containerd knows only http and https"
    return ""


def _targets(wanted: Wanted, plan: Plan, route: Route) -> Iterator[Target]:
    """The target behind a route, and one more for each other rule that containerd may take instead."""
    names = (wanted.reference.object, *filter(None, (wanted.tag,)))
    yield Target(plan, route, names)
    for repository, rewrite in route.alternatives:
        other = replace(route, repository=repository, rewrite=rewrite)
        routes = tuple(other if item is route else item for item in plan.routes)
        yield Target(replace(plan, routes=routes), other, names)


def _unusable(target: Target) -> Problem | None:
    """What a rewrite made of the repository is no name of one: it would leave the endpoint's API, or be refused."""
    try:
        RepositoryName(target.route.repository).check()
    except InvalidName as error:
        rewrite = target.route.rewrite
        cause = f"the rewrite {rewrite.pattern!r} makes {error.message}" if rewrite else error.message
        message = f"{target.plan.reference}: {cause}, so no node gets it from {target.endpoint}"
        return Problem("invalid-destination", "error", message, _line(target))
    return None


def _line(target: Target) -> Span | None:
    """The line of registries.yaml that decides."""
    rewrite: AppliedRewrite | None = target.route.rewrite
    return rewrite.span if rewrite and rewrite.span else target.route.span


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────

_Place = tuple[str, str, str]


def _apart(mapped: Sequence[Mapped], allow: Sequence[Allowed]) -> list[Mapped]:
    """Every place belongs to one image: a second one that would end there is a problem, or left out if allowed.

    A tag that stood beside a digest is only for people, and for a registry's garbage collection: it makes way.
    """
    owners: dict[_Place, Reference] = {}
    clashes: dict[_Place, list[Reference]] = {}
    for item in mapped:
        for place in _places(item):
            owner = owners.setdefault(place, item.wanted.reference)
            if owner.name != item.wanted.reference.name and item.wanted.reference.tag:
                clashes.setdefault(place, [owner]).append(item.wanted.reference)
    found = [_settled(item, clashes, "collision" in allow) for item in mapped] if clashes else mapped
    for item in found:  # the tags beside digests, now that every tag that is asked for has its place
        for target in item.targets if item.wanted.tag else ():
            owners.setdefault((target.route.url, target.route.repository, item.wanted.tag), item.wanted.reference)
    return [_without_taken_tag(item, owners) if item.wanted.tag else item for item in found]


def _places(item: Mapped) -> Iterator[_Place]:
    for target in item.targets:
        yield target.route.url, target.route.repository, target.names[0]


def _settled(item: Mapped, clashes: dict[_Place, list[Reference]], allowed: bool) -> Mapped:
    for target, place in zip(item.targets, _places(item), strict=True):
        if place not in clashes:
            continue
        first, *_ = others = clashes[place]
        if allowed and first == item.wanted.reference:
            continue
        named = " and ".join(map(str, others))
        message = f"{named} all end at {target}" if len(others) > 2 else f"{named} both end at {target}"
        if allowed:
            return replace(item, targets=(), left_out=f"{item.wanted}: {message}, and {first} stands first")
        return replace(item, problem=Problem("collision", "error", message, _line(target)))
    return item


def _without_taken_tag(item: Mapped, owners: dict[_Place, Reference]) -> Mapped:
    def own(target: Target) -> Target:
        owner = owners[target.route.url, target.route.repository, item.wanted.tag]
        return target if owner == item.wanted.reference else replace(target, names=target.names[:1])

    return replace(item, targets=tuple(map(own, item.targets)))
