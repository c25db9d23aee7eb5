"""One repository seen through a plan, with the verbs of a store: the routes are walked, and what they give is checked.

`Remote` carries out the conversations of `walk` over a `Transport`. With the profile `OURS` a route that sends wrong
bytes, or stops in the middle, is not the end: the rest, or the whole, comes from the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from pierhead.ask import Hosts, Memory, carry_out
from pierhead.auth import Lookup, Steps
from pierhead.body import Buffer, Write, read_all
from pierhead.gowords import short_read
from pierhead.oci import MANIFEST_LIMIT_BYTES, Descriptor, InvalidManifest
from pierhead.reference import Digest, Reference
from pierhead.routing import Plan, Route
from pierhead.store import ContentMismatch, checked, cut_short
from pierhead.transport import Cause, Timeouts, Transport, TransportError
from pierhead.walk import AllRoutesFailed, Attempt, Opened, Resolved, cause_at, content_routes, open_content, resolve

ANSWERS_LIMIT: Final = 1000  # for one blob: a server that gives it byte by byte is no server
NO_PROGRESS_LIMIT: Final = 3  # As containerd: httpreadseeker.go maxRetry.
_WRONG: Final = "the bytes are not what their descriptor says"
# A body that broke off: what came is good, the rest is worth asking for. (For us: after whatever error.)
_BROKEN_OFF: Final = frozenset({Cause.CUT, Cause.CLOSED, Cause.STALLED})

T = TypeVar("T")


@dataclass(slots=True)
class _Trust:
    """Which routes may still give a piece of content, and which gave bytes of it since it was last begun."""

    gave: dict[int, Attempt] = field(default_factory=dict)  # by the order of the route
    resumed: bool = False  # its beginning came from an earlier run
    excluded: set[int] = field(default_factory=set)
    whole: bool = False  # mixed bytes were wrong once: from now on all of it from one route


@dataclass(frozen=True, slots=True)
class Network:
    """How registries are reached. `clock` gives seconds that only grow; `hosts` knows for all images who is down."""

    transport: Transport
    timeouts: Timeouts
    user_agent: str
    clock: Callable[[], float]
    hosts: Hosts = field(default_factory=Hosts)

    def memory(self, lookup: Lookup) -> Memory:
        """What is remembered of one image, with credentials by the host that challenges."""
        return Memory(lookup, timeouts=self.timeouts, user_agent=self.user_agent, clock=self.clock, hosts=self.hosts)

    def remote(self, plan: Plan, lookup: Lookup, wait: Callable[[float], object] = time.sleep) -> Remote:
        """The repository of the plan's image, behind its routes."""
        return Remote(plan, self.transport, self.memory(lookup), wait=wait)


class Remote:
    """A repository somewhere else, as a `store.Source`. Safe for several threads.

    `attempts` is every question that was asked and what came of it, in order.
    """

    def __init__(
        self, plan: Plan, transport: Transport, memory: Memory, *, wait: Callable[[float], object] = time.sleep
    ) -> None:
        self.plan = plan
        self.attempts: list[Attempt] = []
        self.resolved: Resolved | None = None
        self._transport = transport
        self._memory = memory
        self._wait = wait
        self._trust: dict[Digest, _Trust] = {}
        self._lock = threading.Lock()

    def resolve(self, reference: str) -> Descriptor:
        """What a tag or digest points to; raises `AllRoutesFailed`, `ResolveFailed`, `InvalidManifest`."""
        wanted = self.plan.reference
        if reference != wanted.object:
            wanted = Reference.parse(f"{wanted.name}{'@' if ':' in reference else ':'}{reference}")
        self.resolved = self._do(resolve(self._memory, self.plan.routes, wanted, self.attempts.append))
        self._memory.new_phase()
        return self.resolved.descriptor

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw manifest, its size and digest checked; from the next route if one gives something else."""
        if descriptor.size_bytes > MANIFEST_LIMIT_BYTES:
            raise InvalidManifest(f"a manifest of {descriptor.size_bytes} bytes; the limit is {MANIFEST_LIMIT_BYTES}")
        while True:
            try:
                return checked(read_all(self.blob(descriptor), MANIFEST_LIMIT_BYTES), descriptor)
            except ContentMismatch:
                if not self.reject(descriptor):
                    raise

    def blob(self, descriptor: Descriptor, offset: int = 0) -> RemoteBlob:
        """The content from `offset` on; nothing is asked before it is copied."""
        return RemoteBlob(self, descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        """What came for this content was wrong: leave out the route it came from, or take it whole from one."""
        if self._memory.profile.bad_content_fails:
            return False
        with self._lock:
            trust = self._trust.setdefault(descriptor.digest, _Trust())
            if trust.whole and not trust.gave:
                return False  # no route was asked, and still it is wrong: the descriptor is
            if len(trust.gave) == 1 and not trust.resumed:
                trust.excluded |= set(trust.gave)
            else:
                trust.whole = True
            given = [attempt for attempt in trust.gave.values() if attempt.outcome == "ok"]
            self.attempts += [replace(attempt, outcome="content", cause=_WRONG) for attempt in given]
            trust.gave, trust.resumed = {}, False
            return bool(self._routes(descriptor, trust))

    @property
    def routes(self) -> tuple[Route, ...]:
        """Where it may ask for content, in order."""
        return tuple(route for route in self.plan.routes if "pull" in route.capabilities)

    def carry_out(self, conversation: Callable[[Memory], Steps[T]]) -> T:
        """Ask something else, with what is remembered of these hosts; its value, or what it raises."""
        return self._do(conversation(self._memory))

    def _do(self, steps: Steps[T]) -> T:
        return carry_out(steps, self._transport, self._wait)

    def _routes(self, descriptor: Descriptor, trust: _Trust) -> list[Route]:
        routes = content_routes(self.plan.routes, descriptor)
        return [route for route in routes if route.order not in trust.excluded]

    def _open(self, descriptor: Descriptor, offset: int, *, after: Route | None) -> tuple[Opened, _Trust]:
        """An answer that gives the content from `offset` on; the route `after` which is asked last."""
        with self._lock:
            trust = self._trust.setdefault(descriptor.digest, _Trust())
            trust.resumed |= bool(offset) and not trust.gave
            routes = self._routes(descriptor, trust)
        if trust.whole:
            routes = routes[:1]
        elif after is not None:
            routes.sort(key=lambda route: route.order == after.order)
        opened = self._do(open_content(self._memory, routes, descriptor, self.attempts.append, offset=offset))
        trust.gave[opened.attempt.route.order] = opened.attempt
        return opened, trust


@dataclass(slots=True)
class RemoteBlob:
    """The content of one descriptor, from wherever it can be had; a `body.Blob`."""

    remote: Remote
    descriptor: Descriptor
    start: int = 0

    @property
    def size_bytes(self) -> int:
        return self.descriptor.size_bytes - self.start

    def close(self) -> None:
        pass

    def copy_to(self, write: Write, offset: int = 0) -> int:
        """Copy the content from `offset` on, over as many answers as it takes.

        Raises `ContentMismatch` if a route gives more than there is, and what the last route failed with.
        """
        progress = _Progress(write, self.start + offset, self.descriptor)
        broken: Route | None = None
        without_progress = answers = 0
        while progress.position < progress.size_bytes:
            answers += 1
            before = progress.position
            opened, trust = self._open(progress, after=broken)
            progress.skip_bytes = opened.skip_bytes
            error = self._copy(opened, progress)
            if error is None and progress.position >= progress.size_bytes:
                break
            if error is None and self.remote._memory.profile.bad_content_fails:
                raise cut_short(self.descriptor, progress.position)
            broken = None if self.remote._memory.profile.bad_content_fails else opened.attempt.route
            without_progress = 0 if progress.position > before else without_progress + 1
            given_up = without_progress > NO_PROGRESS_LIMIT or answers >= ANSWERS_LIMIT
            if given_up and error is not None and not trust.whole:
                error.go_text = short_read(self.descriptor.size_bytes, progress.position)
                raise error
            if given_up or (trust.whole and error is None):
                raise cut_short(self.descriptor, progress.position)
        return progress.position - self.start - offset

    def _open(self, progress: _Progress, *, after: Route | None) -> tuple[Opened, _Trust]:
        try:
            return self.remote._open(self.descriptor, progress.position, after=after)
        except AllRoutesFailed as error:
            trust = self.remote._trust.setdefault(self.descriptor.digest, _Trust())
            if not trust.whole:
                raise
            # One route at a time by now: this one is out of the question too, and the content begins anew.
            trust.gave = {attempt.route.order: attempt for attempt in error.attempts}
            trust.resumed = False
            raise ContentMismatch(error.message, hint=error.hint) from error

    def _copy(self, opened: Opened, progress: _Progress) -> TransportError | None:
        """Copy one answer; the error that it broke off with, if its rest may be had elsewhere."""
        with opened.response as response:
            try:
                response.body.copy_to(progress.take)
            except TransportError as error:
                cause = cause_at(opened.attempt.route, error)
                told = replace(opened.attempt, outcome="error", cause=cause, hint=error.hint)
                self.remote.attempts.append(told)
                if self.remote._memory.profile.bad_content_fails and error.cause not in _BROKEN_OFF:
                    raise
                return error
        return None


@dataclass(slots=True)
class _Progress:
    """Where a copy is; refuses more bytes than there should be."""

    write: Write
    position: int
    descriptor: Descriptor
    skip_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        return self.descriptor.size_bytes

    def take(self, piece: Buffer) -> None:
        if self.skip_bytes:
            skipped = min(self.skip_bytes, len(piece))
            self.skip_bytes -= skipped
            piece = memoryview(piece)[skipped:]
        if self.position + len(piece) > self.size_bytes:
            raise ContentMismatch(
                f"more than the {self.size_bytes} bytes there should be",
                descriptor=self.descriptor,
                got_bytes=self.position + len(piece),
            )
        if piece:
            self.write(piece)
            self.position += len(piece)
