"""Pulling a list of images: plan, walk, move, and say what happened to each.

One failing image does not stop the others; what became of each is a value (`Pulled`), which the command shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pierhead.ask import OURS, Hosts, Memory, Profile
from pierhead.auth import Lookup
from pierhead.client import Remote
from pierhead.errors import ExitCode, PierheadError, Problem
from pierhead.oci import Descriptor, Platform
from pierhead.reference import Reference
from pierhead.routing import Plan, Route
from pierhead.store import RepositoryName, Sink, Source, Store
from pierhead.transfer import Copied, Interrupted, Transfer, each
from pierhead.transport import Options
from pierhead.walk import Attempt

if TYPE_CHECKING:
    from pierhead.referrers import CopiedReferrers
    from pierhead.transport import Timeouts, Transport
    from pierhead.tree import Tree


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of one image. `error` is None if it is there, whole; `route` is the one that resolved it.

    With an error and `copied` the image is there, and not all of what refers to it, which was wanted too. `problems`:
    what would be otherwise with containerd, and a person should know.
    """

    reference: Reference
    attempts: tuple[Attempt, ...]
    seconds: float
    copied: Copied | None = None
    route: Route | None = None
    error: PierheadError | None = None
    problems: tuple[Problem, ...] = ()
    referrers: CopiedReferrers | None = None

    @property
    def descriptor(self) -> Descriptor | None:
        return self.copied.descriptor if self.copied else None


@dataclass(slots=True)
class Puller:
    """Everything that pulling needs besides the names: where to plan, how to ask, where to keep.

    `guard`: what may still refuse what a name resolves to. With `referrers` what refers to an image comes with it.
    """

    plan: Callable[[Reference], Plan]
    lookup: Callable[[Reference], Lookup]
    transport: Transport
    store: Store
    timeouts: Timeouts
    platforms: Sequence[Platform] = ()
    profile: Profile = OURS
    user_agent: str = "pierhead"
    clock: Callable[[], float] = field(default=time.monotonic)
    guard: Callable[[Reference, Source], Source] | None = None
    referrers: bool = False
    _hosts: Hosts = field(default_factory=Hosts, init=False, repr=False)  # of all images: a dead mirror costs once

    def pull(self, references: Sequence[Reference], transfer: Transfer, *, at_once: int = 4) -> list[Pulled]:
        """Pull every image, so many at once; the results are in the order of the references.

        Raises nothing that concerns a single image; KeyboardInterrupt stops all of them.
        """
        with self.store.lease():
            return each(
                references,
                lambda reference: self._pull(reference, transfer),
                at_once=at_once,
                stop=transfer.cancel,
            )

    def _pull(self, reference: Reference, transfer: Transfer) -> Pulled:
        started = self.clock()
        pulled = Pulled(reference, (), 0.0)
        trees: list[Tree] = []
        remote: Remote | None = None
        try:
            remote = self._remote(reference, transfer)
            pulled = replace(pulled, problems=tuple(self._unusable_files(remote.plan)))
            sink = self.store.repository(RepositoryName.of(reference))
            source = self.guard(reference, remote) if self.guard else remote
            copied = transfer.copy(source, sink, reference.object, self.platforms, on_tree=trees.append)
            pulled = replace(pulled, copied=copied, route=remote.resolved.route if remote.resolved else None)
            if self.referrers:
                pulled = replace(pulled, referrers=_with_referrers(transfer, remote, sink, trees[0]))
        except Interrupted:
            raise
        except PierheadError as error:
            pulled = replace(pulled, error=error)
        attempts = tuple(remote.attempts) if remote else ()
        return replace(pulled, attempts=attempts, seconds=self.clock() - started)

    def _unusable_files(self, plan: Plan) -> Iterator[Problem]:
        """Certificate files that fail one route here, reached or not, and every pull of the registry in containerd."""
        for route in plan.routes:
            error = self.transport.inspect(Options(route.tls)) if route.tls.ca_files or route.tls.client else None
            if error is not None:
                message = (
                    f"{error.message}; containerd fails every pull of {plan.reference.registry} images for it, "
                    "whichever endpoint has them"
                )
                span = route.tls_as_written.span if route.tls_as_written else None
                yield Problem("unusable-tls-file", "error", message, span)

    def _remote(self, reference: Reference, transfer: Transfer) -> Remote:
        memory = Memory(
            self.lookup(reference),
            profile=self.profile,
            timeouts=self.timeouts,
            user_agent=self.user_agent,
            clock=self.clock,
            hosts=self._hosts if self.profile.remembers_dead else Hosts(),
        )
        return Remote(self.plan(reference), self.transport, memory, wait=transfer.pause)


def _with_referrers(transfer: Transfer, remote: Remote, sink: Sink, tree: Tree) -> CopiedReferrers:
    """What refers to an image that is there; raises `ReferrersMissing`."""
    from pierhead.referrers import beside, copy_referrers

    with beside(str(remote.plan.reference)):
        return copy_referrers(transfer, remote, sink, tree.manifests)


def exit_code(results: Sequence[Pulled]) -> ExitCode:
    """How a pull of these ends: of one image its own code, of several PARTIAL if any failed."""
    return ExitCode.of_all([result.error for result in results])
