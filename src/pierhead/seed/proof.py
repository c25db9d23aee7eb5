"""Proof that nodes get what was seeded: each image resolved as a node resolves it, and counted by processor.

A node has registries.yaml and nothing else: neither the credentials that were used to write, nor anybody's login.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pierhead.client import Network
from pierhead.errors import PierheadError
from pierhead.oci import Platform
from pierhead.reference import Digest, Reference
from pierhead.routing import Plan, Route
from pierhead.seed.mapping import Target
from pierhead.transfer import Interrupted
from pierhead.tree import Part, Read, Tree, parts

if TYPE_CHECKING:
    from pierhead.auth import Lookup


class NotProved(PierheadError):
    """A node would get something else than what was seeded, or nothing."""


@dataclass(frozen=True, slots=True)
class Prover:
    """Asks as a node would, with what `configs` knows of credentials; `lookup` is that."""

    lookup: Callable[[Reference], Lookup]
    network: Network

    def prove(self, target: Target, digest: Digest, wait: Callable[[float], object]) -> Route:
        """The route by which a node gets the image of this digest; raises `NotProved`.

        What a node would ask after the target, the internet first of all, proves nothing. Where another endpoint is
        asked before and serves it, the target itself is asked too: a node comes to it when the other one is down.
        """
        routes = tuple(route for route in target.plan.routes if route.order <= target.route.order)
        served = self._resolve(target, replace(target.plan, routes=routes), digest, wait)
        if served.order != target.route.order:
            self._resolve(target, Plan(target.plan.reference, (target.route,)), digest, wait)
        return served

    def _resolve(self, target: Target, plan: Plan, digest: Digest, wait: Callable[[float], object]) -> Route:
        remote = self.network.remote(plan, self.lookup(plan.reference), wait)
        try:
            found = remote.resolve(plan.reference.object)
        except Interrupted:
            raise
        except PierheadError as error:
            proved = NotProved(f"{plan.reference} is at {target}, but a node would not get it: {error.message}")
            proved.hint, proved.exit_code = error.hint, error.exit_code
            raise proved from error
        assert remote.resolved is not None
        route = remote.resolved.route
        if found.digest != digest:
            raise NotProved(
                f"{plan.reference}: a node would get {found.digest} from {route.endpoint or route.url}, not {digest}, "
                f"which is at {target}",
                hint="another image has this name at an endpoint that is asked before: seed that one too, --to all, or "
                "remove it there"
                if route.order != target.route.order
                else "somebody else writes there at the same time",
            )
        return route


# ── for which processors ─────────────────────────────────────────────────────────────────────────────────────────


def platforms_of(tree: Tree, config: Read) -> tuple[Part, ...]:
    """The platforms of an image; of one that is no index what its configuration says, if it can be read."""
    with suppress(PierheadError):
        return parts(tree, config)
    return parts(tree)


@dataclass(frozen=True, slots=True)
class Coverage:
    """For one platform, how many of the images have it, and which have not."""

    platform: str
    count: int
    missing: tuple[str, ...]


def coverage(images: Sequence[tuple[str, Sequence[Platform]]], wanted: Sequence[Platform] = ()) -> list[Coverage]:
    """How many of the named images have each platform: those `wanted`, else those that at least half of them have.

    (Of an image that is for everything, Windows' versions would else be missing of all the others.)
    """
    offered = {str(platform): platform for _, platforms in images for platform in platforms}
    counted = wanted or [
        platform
        for _, platform in sorted(offered.items())
        if 2 * sum(platform in platforms for _, platforms in images) >= len(images)
    ]
    return [
        Coverage(
            str(platform),
            sum(_has(platforms, platform) for _, platforms in images),
            tuple(name for name, platforms in images if not _has(platforms, platform)),
        )
        for platform in counted
    ]


def _has(offered: Sequence[Platform], wanted: Platform) -> bool:
    return any(wanted.accepts(platform) is not None for platform in offered)
