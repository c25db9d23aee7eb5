"""Probing many routes at once: every place is looked at once, then every route of every image is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import BoundedSemaphore, Lock
from typing import Final, TypeVar

from pierhead.auth import Lookup
from pierhead.oci import Platform
from pierhead.probe.places import Named, Place, Seen, Terms, Visited, see, visit
from pierhead.probe.routes import Fetched, Inquiry, Probed, fetch, probe
from pierhead.probe.verdict import ProbedImage, judge, to_fetch
from pierhead.reference import Reference
from pierhead.routing import Plan, Route
from pierhead.transfer import each

HOST_LIMIT: Final = 4  # questions at once to one host: a probe should not be what overloads it

R = TypeVar("R")
T = TypeVar("T")


@dataclass(slots=True)
class Prober:
    """How to ask, and how much at once. `stop` ends what is under way when the rest is given up."""

    terms: Terms
    at_once: int
    stop: Callable[[], object]
    _gates: dict[str, BoundedSemaphore] = field(default_factory=dict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def images(
        self,
        plans: Sequence[Plan],
        lookup: Callable[[Reference], Lookup],
        *,
        platforms: Sequence[Platform] = (),
        blob: bool = False,
    ) -> list[ProbedImage]:
        """Every route of every image, in order; KeyboardInterrupt stops all of them."""
        seen = self._see(route for plan in plans for route in plan.routes)
        questions: list[tuple[Inquiry, Route, bool]] = []
        inquiries = [Inquiry(plan.reference, lookup(plan.reference), platforms, blob) for plan in plans]
        for plan, inquiry in zip(plans, inquiries, strict=True):
            questions += [(inquiry, route, route is plan.routes[-1]) for route in plan.routes]
        answers = iter(self._each(questions, partial(self._ask, seen)))
        probed = [[next(answers) for _ in plan.routes] for plan in plans]
        fetched = self._each(list(zip(inquiries, probed, strict=True)), self._fetch)
        return [judge(*item) for item in zip(plans, probed, fetched, strict=True)]

    def places(self, named: Sequence[Named], lookup: Callable[[Route], Lookup]) -> list[Visited]:
        """Every place that the file names, in order."""
        return self._each(named, lambda item: self._gated(item.route.host, partial(self._visit, item, lookup)))

    def _visit(self, named: Named, lookup: Callable[[Route], Lookup]) -> Visited:
        return visit(named, lookup(named.route), self.terms)

    def _see(self, routes: Iterable[Route]) -> dict[Place, Seen]:
        places = list(dict.fromkeys(map(Place.of, routes)))
        look = self._each(places, lambda place: self._gated(place.host, partial(see, place, self.terms)))
        return dict(zip(places, look, strict=True))

    def _ask(self, seen: dict[Place, Seen], question: tuple[Inquiry, Route, bool]) -> Probed:
        inquiry, route, last_route = question
        place = seen[Place.of(route)]
        return self._gated(route.host, partial(probe, inquiry, route, place, self.terms, last_route=last_route))

    def _fetch(self, asked: tuple[Inquiry, Sequence[Probed]]) -> Fetched | None:
        inquiry, probed = asked
        resolved = to_fetch(probed)
        if resolved is None:
            return None
        return self._gated(resolved.route.host, partial(fetch, inquiry, probed, resolved, self.terms))

    def _gated(self, host: str, work: Callable[[], T]) -> T:
        with self._lock:
            gate = self._gates.setdefault(host, BoundedSemaphore(HOST_LIMIT))
        with gate:
            return work()

    def _each(self, items: Sequence[R], work: Callable[[R], T]) -> list[T]:
        return each(items, work, at_once=self.at_once, stop=self.stop) if items else []
