"""One route asked for all that a pull needs of an image: the name, the manifest, the platforms, a byte of a layer.

The requests, and what each answer means, are those of `walk`; only where containerd would be content and stop, this
goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeVar

from pierhead.ask import Memory, carry_out
from pierhead.auth import Credential, Lookup, Steps
from pierhead.body import BodyTooLarge, read_all
from pierhead.errors import PierheadError
from pierhead.oci import (
    INDEX_DEPTH_LIMIT,
    MANIFEST_LIMIT_BYTES,
    Descriptor,
    Index,
    InvalidManifest,
    Manifest,
    Platform,
    parse_manifest,
)
from pierhead.probe.calls import Call, Tap
from pierhead.probe.places import PROFILE, Seen, Terms, at, known_credential
from pierhead.reference import OFFICIAL, Reference
from pierhead.routing import Route
from pierhead.store import checked
from pierhead.transport import TransportError
from pierhead.walk import AllRoutesFailed, Asked, Attempt, Opened, ResolveFailed, open_content, resolve, resolve_at
from pierhead.wire import Request, one_line

PLATFORMS_SHOWN: Final = 64
RANGE_LIMIT_BYTES: Final = 4096  # of an answer that should be one byte

T = TypeVar("T")

Stage = Literal["files", "resolve", "fetch"]


@dataclass(frozen=True, slots=True)
class Inquiry:
    """An image, whose credentials to use for it, and how much of it to ask for."""

    reference: Reference
    lookup: Lookup
    platforms: Sequence[Platform] = ()
    blob: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a route does not give the image.

    `attempt` is the question that failed; `error` what containerd would end with if this were the end. `final`: it is,
    whatever routes come after.
    """

    stage: Stage
    attempt: Attempt
    error: PierheadError
    final: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """The last byte of the smallest layer. `ranges`: the registry gave just that, and not all of it from the start."""

    layer: Descriptor
    status: int
    ranges: bool
    url: str  # where it came from, redirects followed
    seconds: float


@dataclass(frozen=True, slots=True)
class Probed:
    """All that one route said. What was not reached is None or empty.

    `platforms` are those of an index; `found_as` is another repository that has the image where the one asked for has
    not.
    """

    route: Route
    seen: Seen
    attempt: Attempt
    calls: tuple[Call, ...] = ()
    credential: Credential | None = None
    descriptor: Descriptor | None = None
    platforms: tuple[str, ...] | None = None
    sample: Sample | None = None
    found_as: str = ""
    failure: Failure | None = None
    fetch_seconds: float | None = None
    masked: Memory | None = field(default=None, repr=False)
    slow: Mapping[str, TransportError] = field(default_factory=dict, repr=False)  # by origin: no answer in time

    def safe(self, text: str) -> str:
        """`text` without what this route's hosts know from us and may have repeated."""
        return self.masked.masked(text) if self.masked else text


def probe(inquiry: Inquiry, route: Route, seen: Seen, terms: Terms, *, last_route: bool) -> Probed:
    """Ask `route`, whose place was `seen`; raises nothing that concerns a single route."""
    memory = Memory(inquiry.lookup, PROFILE, terms.timeouts, terms.user_agent, terms.clock)
    tap = Tap(terms.eyes, route.host, terms.clock, seen.known)
    asking = _Asking(inquiry, route, (route,), last_route, memory, tap)
    probed = asking.files(seen) if seen.files else asking.whole(seen)
    credential, _ = known_credential(inquiry.lookup, route.host)
    slow = {Request(method, url).origin: error for (method, url), error in tap.slow.items()}
    return replace(probed, calls=tap.told(memory.masked), credential=credential, masked=memory, slow=slow)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What fetching comes to over all routes: the one that gave the last of it, or what it ends with."""

    route: Route | None
    error: PierheadError | None = None


def fetch(inquiry: Inquiry, probed: Sequence[Probed], resolved: Probed, terms: Terms) -> Fetched:
    """The content, once `resolved` has said what the name is: containerd then begins at the first route again."""
    memory = Memory(inquiry.lookup, PROFILE, terms.timeouts, terms.user_agent, terms.clock)
    known = {origin: error for item in probed for origin, error in {**item.seen.known, **item.slow}.items()}
    tap = Tap(terms.eyes, resolved.route.host, terms.clock, known)
    asking = _Asking(inquiry, resolved.route, [item.route for item in probed], False, memory, tap)
    assert resolved.descriptor is not None
    try:
        asking.content(resolved, resolved.descriptor)
    except PierheadError as error:
        return Fetched(None, error)
    return Fetched(asking.attempts[-1].route)


@dataclass(slots=True)
class _Asking:
    """One image asked for at `route`, its content at `routes`."""

    inquiry: Inquiry
    route: Route
    routes: Sequence[Route]
    last_route: bool
    memory: Memory
    tap: Tap
    attempts: list[Attempt] = field(default_factory=list)

    def files(self, seen: Seen) -> Probed:
        """Certificate files that cannot be used: containerd does not even begin."""
        steps = resolve(self.memory, [self.route], self.inquiry.reference, self.attempts.append)
        try:
            self._do(steps)
        except ResolveFailed as error:
            attempt = self._attempt(error)
            return Probed(self.route, seen, attempt, failure=Failure("files", attempt, error, final=True))
        return self.whole(replace(seen, files=None))  # somebody has just put them right

    def whole(self, seen: Seen) -> Probed:
        asked = self._do(
            resolve_at(self.memory, self.route, self.inquiry.reference, last_route=self.last_route),
        )
        probed = Probed(self.route, seen, asked.attempt, descriptor=self._safe(asked.descriptor))
        if asked.descriptor is None:
            error = asked.final or PierheadError(asked.attempt.cause)
            failure = Failure("resolve", asked.attempt, error, final=asked.final is not None)
            return replace(probed, failure=failure, found_as=self._elsewhere(asked))
        started = self.memory.clock()
        try:
            probed = self.content(probed, asked.descriptor)
        except PierheadError as error:
            # Another route may have what this one does not give; what it gives and is wrong ends the pull.
            final = not isinstance(error, AllRoutesFailed)
            attempt = self._attempt(error) if final else self.attempts[-1]
            probed = replace(probed, failure=Failure("fetch", attempt, error, final=final))
        return replace(probed, fetch_seconds=self.memory.clock() - started)

    def _safe(self, descriptor: Descriptor | None) -> Descriptor | None:
        """To be kept and shown: the media type is a header, and may say anything."""
        if descriptor is None:
            return None
        return replace(descriptor, media_type=one_line(self.memory.masked(descriptor.media_type), 200))

    def content(self, probed: Probed, descriptor: Descriptor) -> Probed:
        """The manifest, what it is for, and a byte of a layer if that is wanted."""
        manifest = self._manifest(descriptor)
        if isinstance(manifest, Index):
            probed = replace(probed, platforms=_platforms(manifest, self.memory))
        chosen = [self._chosen(manifest, platform) for platform in self.inquiry.platforms] or [manifest]
        layers = [layer for item in chosen if not isinstance(item, Index) for layer in item.layers if not layer.urls]
        if self.inquiry.blob and layers:
            smallest = min(layers, key=lambda layer: layer.size_bytes)
            probed = replace(probed, sample=self._sample(smallest))
        return probed

    def _manifest(self, descriptor: Descriptor) -> Manifest:
        opened = self._open(descriptor)
        try:
            with opened.response as response:
                raw = read_all(response.body, MANIFEST_LIMIT_BYTES)
        except BodyTooLarge as error:
            raise InvalidManifest(error.message) from error
        return parse_manifest(checked(raw, descriptor), descriptor.media_type)

    def _chosen(self, manifest: Manifest, platform: Platform) -> Manifest:
        """The manifest for a machine; raises `NoMatchingPlatform`."""
        for _ in range(INDEX_DEPTH_LIMIT):
            if not isinstance(manifest, Index):
                return manifest
            manifest = self._manifest(manifest.select(platform))
        raise InvalidManifest("an index inside an index, too deep")

    def _sample(self, layer: Descriptor) -> Sample:
        started = self.memory.clock()
        opened = self._open(layer, offset=max(0, layer.size_bytes - 1))
        with opened.response as response:
            ranges = response.status == 206
            if ranges:
                read_all(response.body, RANGE_LIMIT_BYTES)
        place = self.memory.masked(self.tap.calls[-1].url)
        return Sample(layer, response.status, ranges, place, self.memory.clock() - started)

    def _open(self, descriptor: Descriptor, *, offset: int = 0) -> Opened:
        return self._do(open_content(self.memory, self.routes, descriptor, self.attempts.append, offset=offset))

    def _elsewhere(self, asked: Asked) -> str:
        """Whether the image is there under the name that people mix up with the one asked for; costs one HEAD."""
        name = _other_name(self.route, self.inquiry.reference)
        if asked.attempt.status != 404 or not name:
            return ""
        route = replace(self.route, repository=name)
        found = self._do(resolve_at(self.memory, route, self.inquiry.reference, last_route=False))
        return name if found.descriptor is not None else ""

    def _attempt(self, error: PierheadError) -> Attempt:
        cause = self.memory.masked(at(self.route, error))
        return Attempt(
            self.route, self.route.url, "content", None, cause, 0.0, 0, self.memory.masked(error.hint), error.exit_code
        )

    def _do(self, steps: Steps[T]) -> T:
        return carry_out(steps, self.tap)


def _other_name(route: Route, reference: Reference) -> str:
    """The un-rewritten name; or the one without `library/`, which Docker puts before a single word and nobody sees."""
    if route.rewrite and route.repository != reference.repository:
        return reference.repository
    return route.repository.removeprefix(OFFICIAL) if route.repository.startswith(OFFICIAL) else ""


def _platforms(index: Index, memory: Memory) -> tuple[str, ...]:
    found = dict.fromkeys(str(item.platform) for item in index.manifests if item.platform)
    names = [memory.masked(one_line(name, 100)) for name in found if not name.startswith("unknown/")]
    return tuple(names[:PLATFORMS_SHOWN])
