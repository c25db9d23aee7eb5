"""What the routes come to: which of them containerd would get to, where it would stop, and what would be reported.

The rules of a single answer are `walk`'s; this puts answers in the order in which containerd would have met them
(specification, sections 8.3 to 8.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pierhead.errors import ExitCode, PierheadError
from pierhead.probe.routes import Failure, Fetched, Probed
from pierhead.reference import Digest
from pierhead.reported import kubelet_text
from pierhead.routing import Plan
from pierhead.walk import unresolved

Verdict = Literal["works", "skipped", "fails"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A route and what containerd would make of it: it works, it would be passed over, or it would fail the pull.

    `reached`: a pull would come to this route.
    """

    probed: Probed
    verdict: Verdict
    reached: bool


@dataclass(frozen=True, slots=True)
class ProbedImage:
    """What became of an image. `source` is the route containerd would have it from; without one, `error` says why."""

    plan: Plan
    routes: tuple[Judged, ...]
    source: Judged | None = None
    error: PierheadError | None = None

    @property
    def exit_code(self) -> ExitCode:
        return self.error.exit_code if self.error else ExitCode.DONE

    @property
    def reported(self) -> str:
        """What the kubelet would show; empty if the image would come."""
        text = kubelet_text(self.plan.reference, self.error) if self.error else ""
        for judged in self.routes:
            text = judged.probed.safe(text)
        return text

    @property
    def contents(self) -> dict[Digest, list[int]]:
        """The digests that the name has, with the orders of the routes where it has them."""
        found: dict[Digest, list[int]] = {}
        for judged in self.routes:
            if judged.probed.descriptor:
                found.setdefault(judged.probed.descriptor.digest, []).append(judged.probed.route.order)
        return found


def to_fetch(probed: Sequence[Probed]) -> Probed | None:
    """The route that resolves the name, if who gives the content cannot be told from what it said itself."""
    stop = _stop(probed)
    if stop == len(probed) or probed[stop].descriptor is None or _unusable(probed):
        return None
    failure = probed[stop].failure
    return probed[stop] if stop > 0 or (failure is not None and not failure.final) else None


def judge(plan: Plan, probed: Sequence[Probed], fetched: Fetched | None = None) -> ProbedImage:
    """The image, from all that its routes said, in their order; `fetched` if there was something `to_fetch`."""
    unusable = _unusable(probed)
    stop = 0 if unusable else _stop(probed)
    given = fetched is not None and fetched.route is not None
    routes = tuple(
        Judged(item, _verdict(item.failure, given=given), unusable is None and index <= stop)
        for index, item in enumerate(probed)
    )
    if unusable:
        return ProbedImage(plan, routes, error=unusable.error)
    if stop == len(probed):
        return ProbedImage(plan, routes, error=unresolved(plan.reference, [item.attempt for item in probed]))
    if fetched is not None:
        source = next((route for route in routes if route.probed.route == fetched.route), None)
        return ProbedImage(plan, routes, source, fetched.error)
    failure = probed[stop].failure
    return ProbedImage(plan, routes, None, failure.error) if failure else ProbedImage(plan, routes, routes[stop])


def exit_code(codes: Sequence[ExitCode]) -> ExitCode:
    """How a probe of several ends: of one its own code, of several PARTIAL if any failed."""
    if not any(codes):
        return ExitCode.DONE
    return codes[0] if len(codes) == 1 else ExitCode.PARTIAL


def _stop(probed: Sequence[Probed]) -> int:
    """Where resolving would end: at the first route that knows the name, or that is final about it."""
    ends = (index for index, item in enumerate(probed) if item.descriptor or (item.failure and item.failure.final))
    return next(ends, len(probed))


def _unusable(probed: Sequence[Probed]) -> Failure | None:
    """Certificate files that cannot be used, of whichever route: with them a pull does not begin."""
    return next((item.failure for item in probed if item.failure and item.failure.stage == "files"), None)


def _verdict(failure: Failure | None, *, given: bool) -> Verdict:
    if failure is None:
        return "works"
    # What knows the name and does not give the content is passed over if another gives it.
    return "skipped" if not failure.final and (failure.stage == "resolve" or given) else "fails"
