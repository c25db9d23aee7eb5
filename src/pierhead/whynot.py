"""Why an endpoint is not used for an image: the answer to the question that a silent fallback leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pierhead.errors import Span
from pierhead.reference import HUB, LEGACY_HUB
from pierhead.routing import is_named

if TYPE_CHECKING:
    from pierhead.config.registries import Mirror, RegistriesConfig
    from pierhead.routing import Plan, Route, Skipped
    from pierhead.whatif import Condition, WhatIf

_HUB_HOST: Final = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class WhyNot:
    """What keeps `endpoint` from being used: one sentence, and the line that decides. `order`: it is asked as that."""

    endpoint: str
    reason: str
    order: int | None = None
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """One image in its file: where it would be asked for, what would come of that under which conditions."""

    plan: Plan
    config: RegistriesConfig | None
    found: WhatIf
    conditions: dict[int, Condition]


def why_not(endpoint: str, situation: Situation) -> tuple[WhyNot, ...]:
    """The reasons, one for every place that the endpoint has; empty if nobody ever heard of it."""
    plan = situation.plan
    asked = [_asked(route, endpoint, situation) for route in plan.routes if is_named(route, endpoint)]
    skipped = [
        WhyNot(endpoint, f"it is left out: {item.reason}", span=item.span)
        for item in plan.skipped
        if _is_skipped(item, endpoint, plan)
    ]
    if asked or skipped or situation.config is None:
        return (*asked, *skipped)
    elsewhere = tuple(_elsewhere(endpoint, plan, situation.config))
    return elsewhere or tuple(_in_configs(endpoint, situation.config))


def endpoints(plan: Plan, config: RegistriesConfig | None) -> list[str]:
    """Everything that may be asked about: what would be asked, what is left out, what stands in the file."""
    known = [route.endpoint or route.url for route in plan.routes] + [item.endpoint for item in plan.skipped]
    if config is not None:
        known += [text.shown for mirror in config.mirrors.values() for text in mirror.endpoints]
        known += [entry.key.shown for entry in config.configs.values()]
    return list(dict.fromkeys(filter(None, known)))


def is_known(endpoint: str, plan: Plan, config: RegistriesConfig | None) -> bool:
    """Whether something of the file, or what it leaves out, is called so."""
    if any(_is_skipped(item, endpoint, plan) for item in plan.skipped):
        return True
    return config is not None and any(endpoint.rstrip("/") in _forms(name) for name in endpoints(plan, config))


# ── it is asked ──────────────────────────────────────────────────────────────────────────────────────────────────


def _asked(route: Route, endpoint: str, situation: Situation) -> WhyNot:
    found, plan = situation.found, situation.plan
    condition = situation.conditions.get(route.order)
    server = found.route
    if server is not None and server.order == route.order:
        reason = "nothing: it is asked first, and serves the image" if route.order == 1 else _after_failed(route)
    elif server is not None and server.order < route.order:
        name = server.endpoint or server.url
        reason = f"it comes after {server.order} ({name}), which would serve the image; it is asked only if that fails"
    elif condition is not None:
        reason = f"it is asked as number {route.order}, and fails by your condition: {condition}"
    elif found.error is not None and any(item.order == route.order for item in found.requests):
        reason = f"it is asked as number {route.order}, but the pull fails: {found.error.message.splitlines()[0]}"
    elif found.error is not None:
        reason = f"the pull ends before it is asked: {found.error.message.splitlines()[0]}"
    else:
        reason = f"it is asked as number {route.order}, and another one serves the image"
    return WhyNot(endpoint, reason, route.order, route.span or (plan.mirror.span if plan.mirror else None))


def _after_failed(route: Route) -> str:
    before = "the one before it fails" if route.order == 2 else f"the {route.order - 1} before it fail"
    return f"nothing: {before}, and it serves the image"


# ── it is left out ───────────────────────────────────────────────────────────────────────────────────────────────


def _is_skipped(item: Skipped, endpoint: str, plan: Plan) -> bool:
    if endpoint.rstrip("/") in _forms(item.endpoint):
        return True
    registry = plan.reference.registry
    own = {registry, f"https://{registry}", *((_HUB_HOST, f"https://{_HUB_HOST}") if registry == HUB else ())}
    return item.endpoint == f"{registry} itself" and endpoint.rstrip("/") in own


def _forms(written: str) -> set[str]:
    """How a person may call what stands in the file: as written, without a path, without a scheme."""
    whole = written.rstrip("/")
    scheme, mark, rest = whole.rpartition("://")
    host = rest.partition("/")[0]
    return {whole, host, f"{scheme}{mark}{host}"}


# ── it belongs to others ─────────────────────────────────────────────────────────────────────────────────────────


def _elsewhere(endpoint: str, plan: Plan, config: RegistriesConfig) -> Iterator[WhyNot]:
    for mirror in config.mirrors.values():
        for text in mirror.endpoints:
            if endpoint.rstrip("/") in _forms(text.shown):
                yield WhyNot(endpoint, _other_key(mirror, plan), span=mirror.key.span)
                break


def _other_key(mirror: Mirror, plan: Plan) -> str:
    key, registry = mirror.key.value, plan.reference.registry
    own = f"{registry!r} has the entry {plan.mirror.key!r}" if plan.mirror else f"{registry!r} has no entry"
    if key == "*":
        return f'it is an endpoint of "*", which serves only registries without an entry of their own, and {own}'
    if "/" in key:
        return f"it is an endpoint of {mirror.key.shown!r}, which no image matches: write the registry's host alone"
    if registry == HUB and key in (_HUB_HOST, LEGACY_HUB):
        return f"it is an endpoint of {key!r}, but images of Docker Hub are looked up as {HUB!r}; rename the key"
    if key.partition(":")[0].lower() == registry.partition(":")[0].lower():
        return f"it is an endpoint of {mirror.key.shown!r}, and keys are compared letter by letter with {registry!r}"
    return f"it is an endpoint of {mirror.key.shown!r}, which serves images of that registry only; {own}"


def _in_configs(endpoint: str, config: RegistriesConfig) -> Iterator[WhyNot]:
    for entry in config.configs.values():
        if endpoint.rstrip("/") in _forms(entry.key.shown) or entry.key.value in _forms(endpoint):
            reason = "`configs` gives it credentials and TLS, but no mirror lists it as an endpoint"
            yield WhyNot(endpoint, reason, span=entry.key.span)
