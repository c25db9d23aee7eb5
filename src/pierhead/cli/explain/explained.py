"""What is known of one image: its plan, the credential for each route, and what was asked about it besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from pierhead.auth import BadCredential, Credential
from pierhead.errors import Problem, UsageError
from pierhead.redact import safe_url
from pierhead.reference import Reference

if TYPE_CHECKING:
    from pierhead.auth import Lookup
    from pierhead.cli.world import World
    from pierhead.dialects import Client, Disagreement
    from pierhead.routing import Plan, Route
    from pierhead.whatif import Condition, WhatIf
    from pierhead.whynot import WhyNot


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about every image. `conditions` by the endpoint, as the user wrote it; `client` None: the usual."""

    conditions: Mapping[str, Condition] = field(default_factory=dict)
    why_not: tuple[str, ...] = ()
    client: Client | None = None
    compare: bool = False

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> Question:
        """The question of the command line; raises `UsageError`."""
        conditions = dict(_conditions(flags["down"], flags["status"]))
        if flags["client"] == "wharfie" and (conditions or flags["why_not"]):
            raise UsageError(
                "wharfie's requests are not simulated", hint="--down, --status and --why-not concern containerd"
            )
        return cls(conditions, tuple(dict.fromkeys(flags["why_not"])), flags["client"], flags["compare"])

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every endpoint that the user named."""
        return tuple(dict.fromkeys((*self.conditions, *self.why_not)))


def _conditions(down: Sequence[str], status: Sequence[str]) -> Iterator[tuple[str, Condition]]:
    if not down and not status:
        return
    from pierhead.whatif import Condition

    yield from ((endpoint, Condition("down")) for endpoint in down)
    for text in status:
        endpoint, equals, what = text.rpartition("=")
        if not equals or not endpoint:
            raise UsageError(f"--status {text!r} is not ENDPOINT=WHAT", hint="such as https://registry.lan:5000=503")
        yield endpoint, Condition.parse(what)


@dataclass(frozen=True, slots=True)
class Explained:
    """One image, explained. `found` is what the conditions come to, `compared` where clients disagree."""

    world: World
    plan: Plan
    client: Client | None
    credentials: Mapping[int, Credential | None]
    problems: tuple[Problem, ...]
    conditions: Mapping[int, Condition] = field(default_factory=dict)
    found: WhatIf | None = None
    why_not: tuple[WhyNot, ...] = ()
    compared: tuple[Disagreement, ...] | None = None


def explanations(world: World, question: Question, names: Sequence[str]) -> Iterator[Explained]:
    """Every image explained, in order; raises `UsageError` before the first one."""
    reader = _Reader(world, question.client or "k3s")
    plans: Sequence[Plan] | Iterator[Plan]
    if question.endpoints:
        plans = [reader.plan(name) for name in names]
        _check_endpoints(question.endpoints, plans, world)
    else:
        references = [Reference.parse(name) for name in names] if question.client != "wharfie" else []
        plans = (reader.plan_of(reference) for reference in references) if references else map(reader.plan, names)
    return (_explained(reader, question, name, made) for name, made in zip(names, plans, strict=True))


def _explained(reader: _Reader, question: Question, name: str, plan: Plan) -> Explained:
    world = reader.world
    credentials, bad = reader.credentials(plan)
    item = Explained(world, plan, question.client, credentials, (*reader.problems(plan), *bad))
    item = replace(item, problems=tuple(dict.fromkeys(item.problems))) if bad else item
    if question.endpoints:
        item = _supposed(item, question, reader.lookup(plan.reference))
    return replace(item, compared=reader.compare(name)) if question.compare else item


def _supposed(item: Explained, question: Question, lookup: Lookup) -> Explained:
    from pierhead.routing import is_named
    from pierhead.whatif import suppose
    from pierhead.whynot import Situation, why_not

    conditions = {
        route.order: condition
        for route in item.plan.routes
        for endpoint, condition in question.conditions.items()
        if is_named(route, endpoint)
    }
    found = suppose(item.plan, lookup, conditions)
    config = item.world.hosts.config if item.world.hosts else None
    situation = Situation(item.plan, config, found, conditions)
    reasons = tuple(reason for endpoint in question.why_not for reason in why_not(endpoint, situation))
    return replace(item, conditions=conditions, found=found if question.conditions else None, why_not=reasons)


def _check_endpoints(asked: Sequence[str], plans: Sequence[Plan], world: World) -> None:
    """Raises `UsageError` about an endpoint that is nowhere in the file and in no plan."""
    from difflib import get_close_matches

    from pierhead.routing import is_named
    from pierhead.whynot import endpoints, is_known

    config = world.hosts.config if world.hosts else None
    for endpoint in asked:
        named = (is_named(route, endpoint) for plan in plans for route in plan.routes)
        if any(named) or any(is_known(endpoint, plan, config) for plan in plans):
            continue
        known = list(dict.fromkeys(name for plan in plans for name in endpoints(plan, config)))
        near = get_close_matches(endpoint, known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        more = f" and {len(known) - KNOWN_SHOWN} more" if len(known) > KNOWN_SHOWN else ""
        raise UsageError(
            f"{safe_url(endpoint)!r} is no endpoint of these images",
            hint=f"{meant}known: {', '.join(known[:KNOWN_SHOWN])}{more}",
        )


KNOWN_SHOWN = 12


class _Reader:
    """Images as one client reads them; what is the same for many images is found out once."""

    def __init__(self, world: World, client: Client) -> None:
        self.world = world
        self._client: Client = client
        self._looked_up: dict[str, Lookup] = {}
        self._problems: dict[tuple[object, ...], tuple[Problem, ...]] = {}

    def plan(self, image: str) -> Plan:
        """Where the client asks for `image`; raises `UsageError`."""
        if self._client == "k3s":
            return self.plan_of(Reference.parse(image))
        from pierhead.dialects import plan_for

        return plan_for(self._client, image, self.world.hosts, own_registry=self.world.own_registry)

    def plan_of(self, reference: Reference) -> Plan:
        return self.world.plan(reference) if self._client == "k3s" else self.plan(str(reference))

    def lookup(self, reference: Reference) -> Lookup:
        return self._lookup_of(self._client)(reference)

    def _lookup_of(self, client: Client) -> Callable[[Reference], Lookup]:
        """Whose credentials are used: those of `configs`, then those that docker and podman keep."""
        if client == "k3s":
            return self.world.lookup
        from pierhead.credentials import chain
        from pierhead.dialects import credentials_for

        configs = credentials_for(client, self.world.hosts)
        sources = self.world.sources
        return lambda reference: chain(configs, lambda host: sources.lookup(host, reference.repository))

    def credentials(self, plan: Plan) -> tuple[dict[int, Credential | None], list[Problem]]:
        """The credential for each route, by its order, and what stands there and is none."""
        found: dict[int, Credential | None] = {}
        problems: list[Problem] = []
        lookup = self.lookup(plan.reference)
        for route in plan.routes:
            try:
                found[route.order] = lookup(route.host)
            except BadCredential as error:
                found[route.order] = None
                problems.append(Problem("bad-credential", "error", error.message, error.span))
        return found, problems

    def problems(self, plan: Plan) -> tuple[Problem, ...]:
        """What concerns the plan; the file's part is that of every image of its registry."""
        key = (plan.reference.registry, plan.mirror, plan.problems, len(self.world.sources.problems))
        if key not in self._problems:
            world = self.world
            if self._client == "wharfie" and world.hosts is not None:
                # It reads the file itself: what would be wrong with hosts.toml does not concern it.
                world = replace(world, hosts=replace(world.hosts, problems=()))
            self._problems[key] = world.problems(plan)
        return self._problems[key]

    def compare(self, image: str) -> tuple[Disagreement, ...]:
        from pierhead.dialects import Client, credentials_for, disagreements, plan_for

        plans: dict[Client, Plan | UsageError] = {}
        for client in get_args(Client):
            try:
                plans[client] = plan_for(client, image, self.world.hosts, own_registry=self.world.own_registry)
            except UsageError as error:
                plans[client] = error
        return disagreements(plans, {client: credentials_for(client, self.world.hosts) for client in plans})


def manifest_url(item: Explained, route: Route) -> str:
    """What would be requested; for a route that cannot be requested, the text the client would stumble over."""
    from pierhead.dialects import manifest_url

    return manifest_url(item.client or "k3s", route, item.plan.reference)
