"""Where the images of a list are taken from: registries, archives, the store, in order of preference.

The first that knows an image gives its digest; content that it does not give after all, or gives wrong, comes from the
next one, as content is the same wherever it has that digest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, Protocol

from pierhead.body import Blob, Buffer, Write, read_all
from pierhead.client import Network
from pierhead.errors import FLAGS, ExitCode, PierheadError, Span, UsageError
from pierhead.oci import CONFIG_TYPES, Descriptor
from pierhead.redact import safe_url, without_userinfo
from pierhead.reference import Digest, Reference
from pierhead.routing import OwnRegistry, Plan, Route, k3s_plan
from pierhead.store import NotFound, RepositoryName, Source, Store, checked
from pierhead.transfer import Interrupted

if TYPE_CHECKING:
    from pierhead.archive import Archive
    from pierhead.auth import Lookup
    from pierhead.config.k3s import K3sHosts

UPSTREAM: Final = "upstream"
STORE: Final = "store"
KEPT_LIMIT_BYTES: Final = 64 * 1024  # of a manifest, or a configuration; real ones have a few thousand


@dataclass(frozen=True, slots=True)
class Offer:
    """One image at one place: `source` gives it under `name`."""

    place: str
    source: Source
    name: str


class Origin(Protocol):
    """A place where images may be had; `place` is how it is called."""

    @property
    def place(self) -> str: ...

    def offer(self, reference: Reference, wait: Callable[[float], object]) -> Offer:
        """The image there, as far as that is known without asking a registry; raises `NotFound`, `PierheadError`."""
        ...


# ── registries ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RegistryOrigin:
    """A registry, or each image's own: one route for an image, and who we are there."""

    place: str
    route: Callable[[Reference], Route]
    lookup: Callable[[Reference], Lookup]
    network: Network

    def offer(self, reference: Reference, wait: Callable[[float], object]) -> Offer:
        route = self.route(reference)
        remote = self.network.remote(Plan(reference, (route,)), self.lookup(reference), wait)
        return Offer(route.origin if self.place == UPSTREAM else self.place, remote, reference.object)


def route_at(
    url: str, hosts: K3sHosts | None, own_registry: OwnRegistry = OwnRegistry()
) -> Callable[[Reference], Route]:
    """How images are asked for at a registry's URL: as at the only mirror of their registry, so with `?ns=`.

    TLS is that of `configs` for its host where the file has it, and what the flags say. Raises `UsageError`.
    """
    if url != without_userinfo(url):
        raise UsageError(f"--from {safe_url(url)} holds a user name or password", hint="give it by --src-creds")
    mirrored = lru_cache(partial(_mirrored, url, hosts))

    def route(reference: Reference) -> Route:
        asked = k3s_plan(reference, mirrored(reference.registry)).routes
        # A registry that is its own mirror is its default endpoint, which is not listed.
        found = next((item for item in asked if item.endpoint == url), asked[-1] if asked else None)
        if found is None or found.host in ("", "registry.invalid"):
            raise UsageError(f"--from {url} is no URL of a registry", hint="such as https://registry.example:5000")
        return own_registry.onto(found)

    route(Reference("registry.invalid", "any", "tag", None))
    return route


def _mirrored(url: str, hosts: K3sHosts | None, registry: str) -> K3sHosts:
    """The configuration with this URL as the one mirror of a registry."""
    from pierhead.config import k3s
    from pierhead.config.registries import Mirror, RegistriesConfig, Text

    config = hosts.config if hosts else RegistriesConfig(FLAGS)
    key, endpoint = Text(registry, Span(FLAGS, 1)), Text(url, Span(FLAGS, 1))
    return k3s.hosts(replace(config, mirrors={registry: Mirror(key, (endpoint,))}))


# ── what is here already ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ArchiveOrigin:
    """A tarball, a bundle or a layout folder."""

    place: str
    archive: Archive

    def offer(self, reference: Reference, wait: Callable[[float], object]) -> Offer:
        if reference.digest is not None:  # whatever it is called there
            with suppress(NotFound):
                self.archive.content.resolve(str(reference.digest))
                return Offer(self.place, self.archive.content, str(reference.digest))
        found = self.archive.find(str(reference))
        return Offer(self.place, self.archive.content, str(found.descriptor.digest))


@dataclass(frozen=True, slots=True)
class StoreOrigin:
    """The store, with what `pull` put there."""

    place: str
    store: Store

    def offer(self, reference: Reference, wait: Callable[[float], object]) -> Offer:
        repository = self.store.repository(RepositoryName.of(reference))
        return Offer(self.place, repository, reference.object)


# ── the order of preference ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Told:
    """A place that did not give an image, and why."""

    place: str
    error: PierheadError


class NowhereFound(PierheadError):
    """No place gave an image: one line for each, and the exit code of the first that is not just without it."""

    def __init__(self, reference: Reference, told: Sequence[Told]) -> None:
        lines = [f"  {item.place}: {_cause(item)}" for item in told]
        super().__init__("\n".join([f"{reference} is at none of the places to take it from", *lines]))
        codes = [item.error.exit_code for item in told if item.error.exit_code != ExitCode.NOT_FOUND]
        self.exit_code = codes[0] if codes else ExitCode.NOT_FOUND
        self.hint = next((item.error.hint for item in told if item.error.hint), "")
        self.told = tuple(told)


def _cause(told: Told) -> str:
    """The sentence, or of several lines those that tell a cause, each once and without the place."""
    first, *rest = told.error.message.split("\n")
    return "; ".join(dict.fromkeys(line.strip().removeprefix(f"{told.place}: ") for line in rest)) if rest else first


class Preferred:
    """One image at several places, as a `store.Source`: from the first that has it. Safe for several threads.

    `offer` is who gave it, `told` who did not, and why.
    """

    def __init__(self, reference: Reference, origins: Sequence[Origin], wait: Callable[[float], object]) -> None:
        self.offer: Offer | None = None
        self.told: list[Told] = []
        self.reference = reference
        self._origins = list(origins)
        self._wait = wait
        self._offers: list[Offer] = []  # from the one that gave the digest on
        self._begin: dict[Digest, int] = {}  # those before were wrong about it
        self._found: Descriptor | None = None
        self._manifests: dict[Digest, bytes] = {}
        self._configs: dict[Digest, bytes] = {}  # that passed, unchecked
        self._lock = threading.Lock()

    def resolve(self, reference: str) -> Descriptor:
        """What the image is at the first place that knows it; raises `NowhereFound`.

        There is but one name, and it is asked for once.
        """
        if self._found is None:
            self._found = self._resolve()
        return self._found

    def _resolve(self) -> Descriptor:
        while self._origins:
            origin = self._origins.pop(0)
            place = origin.place
            try:
                offer = origin.offer(self.reference, self._wait)
                place = offer.place
                descriptor = offer.source.resolve(offer.name)
            except Interrupted:
                raise
            except PierheadError as error:
                self.told.append(Told(place, error))
            else:
                self.offer = offer
                self._offers.append(offer)
                return descriptor
        raise NowhereFound(self.reference, self.told)

    def manifest(self, descriptor: Descriptor) -> bytes:
        raw = self._manifests.get(descriptor.digest)
        if raw is None:
            raw = self._manifest(descriptor)
            if len(raw) <= KEPT_LIMIT_BYTES:  # who looks for a platform, and who copies, each read it
                self._manifests[descriptor.digest] = raw
        return raw

    def _manifest(self, descriptor: Descriptor) -> bytes:
        errors: list[PierheadError] = []
        for index in self._places(descriptor):
            try:
                return self._at(index).manifest(descriptor)
            except Interrupted:
                raise
            except PierheadError as error:
                errors.append(error)
        raise errors[0] if errors else NotFound(f"{descriptor.digest} is given by no place")

    def config(self, descriptor: Descriptor) -> bytes:
        """An image's configuration, its digest checked, without asking again if it was copied just now.

        Raises `BodyTooLarge`, `ContentMismatch`, and what reading it raises.
        """
        raw = self._configs.get(descriptor.digest)
        return checked(raw or read_all(self.blob(descriptor), KEPT_LIMIT_BYTES), descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return _PreferredBlob(self, descriptor, offset)

    def passed(self, descriptor: Descriptor, pieces: Sequence[bytes]) -> None:
        """Take note of a whole configuration."""
        self._configs[descriptor.digest] = b"".join(pieces)

    def reject(self, descriptor: Descriptor) -> bool:
        """Leave out who gave wrong bytes, as long as there is another place."""
        with self._lock:
            index = self._begin.get(descriptor.digest, 0)
        if not self._exists(index):
            return False
        if self._at(index).reject(descriptor):
            return True
        with self._lock:
            self._begin[descriptor.digest] = index + 1
        return self._exists(index + 1)

    def _places(self, descriptor: Descriptor) -> Sequence[int]:
        with self._lock:  # or one that is just being looked at would be in neither list
            return range(self._begin.get(descriptor.digest, 0), len(self._offers) + len(self._origins))

    def _exists(self, index: int) -> bool:
        try:
            self._at(index)
        except PierheadError:
            return False
        return True

    def _at(self, index: int) -> Source:
        """The place of that number, which is only now looked at; raises `NotFound`."""
        with self._lock:
            while index >= len(self._offers):
                if not self._origins:
                    raise NotFound(f"{self.reference} is at no other place")
                origin = self._origins.pop(0)
                with suppress(NotFound):
                    self._offers.append(origin.offer(self.reference, self._wait))
            return self._offers[index].source


@dataclass(frozen=True, slots=True)
class _PreferredBlob:
    """A blob whose rest comes from the next place if one breaks off (`body.Blob`)."""

    source: Preferred
    descriptor: Descriptor
    start: int

    @property
    def size_bytes(self) -> int:
        return self.descriptor.size_bytes - self.start

    def copy_to(self, write: Write, offset: int = 0) -> int:
        keep = self.descriptor.media_type in CONFIG_TYPES and self.descriptor.size_bytes <= KEPT_LIMIT_BYTES
        taken = _Taken(write, self.start + offset, keep=keep and not self.start + offset)
        errors: list[PierheadError] = []
        for index in self.source._places(self.descriptor):
            try:
                self.source._at(index).blob(self.descriptor, taken.position).copy_to(taken.take)
            except Interrupted:
                raise
            except PierheadError as error:
                if taken.refused:
                    raise
                errors.append(error)
            else:
                if taken.kept is not None:
                    self.source.passed(self.descriptor, taken.kept)
                return taken.position - self.start - offset
        raise errors[0] if errors else NotFound(f"{self.descriptor.digest} is given by no place")

    def close(self) -> None:
        pass


class _Taken:
    """Counts what was taken, keeps it if it should, and tells an error of the taker from one of the giver."""

    def __init__(self, write: Write, position: int, *, keep: bool) -> None:
        self._write = write
        self.kept: list[bytes] | None = [] if keep else None
        self.position = position
        self.refused = False

    def take(self, piece: Buffer) -> None:
        try:
            self._write(piece)
        except BaseException:
            self.refused = True
            raise
        self.position += len(piece)
        if self.kept is not None:
            self.kept.append(bytes(piece))
