"""Moving images: the one mover behind pull, push, seed, save, load and mirror.

`Transfer.copy` takes what a name points to out of a source and puts it into a sink: manifests first, then every blob
that the sink lacks, several at once, then the manifests again from the leaves up, the name last. So an image is never
visible before it is whole, and a copy that was killed anywhere goes on where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, Protocol, TypeVar

from pierhead.body import Buffer
from pierhead.crew import Crew
from pierhead.errors import ExitCode, PierheadError
from pierhead.oci import (
    INDEX_DEPTH_LIMIT,
    Descriptor,
    ImageManifest,
    Index,
    InvalidManifest,
    Manifest,
    Platform,
    parse_manifest,
)
from pierhead.reference import Digest, InvalidDigest
from pierhead.store import ContentMismatch, NotFound, Sink, Source, Upload

# All manifests of one image are in memory at once. A real index has a few dozen, of some kilobytes each.
MANIFESTS_LIMIT_BYTES: Final = 32 * 1024 * 1024

# How long threads that were told to stop are waited for; the store is sound whenever they end.
FAREWELL_SECONDS: Final = 2.0

T = TypeVar("T")
R = TypeVar("R")


class Interrupted(PierheadError):
    """The transfer was told to stop. What came so far is kept for the next time."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self) -> None:
        super().__init__("interrupted", hint="run the same command again: it goes on where it was")


class Observer(Protocol):
    """Whoever wants to see how a transfer goes on. Called from several threads."""

    def began(self, descriptor: Descriptor, offset: int) -> None:
        """A blob is about to be copied from `offset` on."""
        ...

    def advanced(self, descriptor: Descriptor, count: int) -> None:
        """So many bytes of it came."""
        ...

    def finished(self, descriptor: Descriptor, how: Literal["copied", "present", "failed"]) -> None:
        """It is there (or was already, or will not be)."""
        ...


class Unobserved:
    """Nobody looks."""

    def began(self, descriptor: Descriptor, offset: int) -> None:
        pass

    def advanced(self, descriptor: Descriptor, count: int) -> None:
        pass

    def finished(self, descriptor: Descriptor, how: Literal["copied", "present", "failed"]) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy moved: `fetched_bytes` came over, `reused_bytes` were there.

    `platforms` are those of what was taken out of an index; empty for an image that has none.
    """

    descriptor: Descriptor
    platforms: tuple[Platform, ...]
    fetched_bytes: int
    reused_bytes: int
    size_bytes: int


@dataclass(slots=True)
class _Tree:
    """The manifests of an image, children before parents, and its blobs, each once."""

    manifests: dict[Digest, tuple[Descriptor, bytes]] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    platforms: dict[Platform, None] = field(default_factory=dict)  # of what was chosen out of indexes
    sparse: bool = False  # not everything of an index was chosen
    raw_bytes: int = 0

    def add(self, descriptor: Descriptor, raw: bytes) -> None:
        self.manifests[descriptor.digest] = (descriptor, raw)
        self.raw_bytes += len(raw)
        if self.raw_bytes > MANIFESTS_LIMIT_BYTES:
            raise InvalidManifest(f"manifests of more than {MANIFESTS_LIMIT_BYTES} bytes in one image")

    def note_platform(self, item: Descriptor) -> None:
        if item.platform is not None and item.platform.os != "unknown":  # as attestations are marked
            self.platforms[item.platform] = None

    @property
    def size_bytes(self) -> int:
        items = [descriptor for descriptor, _ in self.manifests.values()] + list(self.blobs.values())
        return sum(descriptor.size_bytes for descriptor in items)


class Transfer:
    """A handful of workers that copy blobs for as many images as are given to it.

    `jobs` blobs at once, each distinct one once. Close it, or use it as a context. `on_cancel` ends the waits of what
    it copies with: of a transport, of a store.
    """

    def __init__(
        self, jobs: int = 4, observer: Observer | None = None, *, on_cancel: Sequence[Callable[[], object]] = ()
    ) -> None:
        self._on_cancel = on_cancel
        self._workers = Crew(jobs, "blob")
        self._observer = observer or Unobserved()
        self._cancelled = threading.Event()
        self._under_way: dict[Digest, threading.Event] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()
        self._workers.close(FAREWELL_SECONDS)

    def cancel(self) -> None:
        """Stop at the next piece; everything under way raises `Interrupted`."""
        self._cancelled.set()
        for stop in self._on_cancel:
            stop()

    def pause(self, seconds: float) -> None:
        """Let time pass, unless the transfer is cancelled meanwhile; raises `Interrupted`."""
        if self._cancelled.wait(seconds):
            raise Interrupted

    def copy(self, source: Source, sink: Sink, name: str, platforms: Sequence[Platform] = ()) -> Copied:
        """Copy what `name` (a tag or digest) points to, for these platforms (none: all), and name it in the sink.

        Raises what the source and the sink raise, `NoMatchingPlatform`, and `Interrupted`.
        """
        top = source.resolve(name)
        tree = _Tree()
        counted = _Counter()
        self._read(_Reading(source, sink, tree, tuple(platforms), counted), top, depth=0)
        self._copy_blobs(source, sink, tree, counted)
        for descriptor, raw in tree.manifests.values():
            algorithm = descriptor.digest.algorithm
            sink.put_manifest(raw, descriptor.media_type, algorithm=algorithm, sparse=tree.sparse)
        chosen = tuple(platforms) if tree.sparse else ()
        sink.tag(name, top, platforms=chosen)
        return Copied(
            top, tuple(tree.platforms), counted.bytes, max(0, tree.size_bytes - counted.bytes), tree.size_bytes
        )

    def _read(self, reading: _Reading, descriptor: Descriptor, *, depth: int) -> None:
        """Collect a manifest and everything below it that was chosen."""
        if depth > INDEX_DEPTH_LIMIT:
            raise InvalidManifest(f"an index that is nested more than {INDEX_DEPTH_LIMIT} deep")
        if descriptor.digest in reading.tree.manifests:
            return
        self._stop_if_cancelled()
        raw = reading.raw(descriptor)
        manifest = _parsed(raw, descriptor.media_type)
        known = Descriptor(manifest.media_type, descriptor.digest, descriptor.size_bytes)
        for child in manifest.references if isinstance(manifest, ImageManifest) else reading.chosen(manifest):
            if child.is_manifest and isinstance(manifest, Index):
                reading.tree.note_platform(child)
                self._read(reading, child, depth=depth + 1)
            else:
                reading.tree.blobs[child.digest] = child
        # After its children, which may be below another one as well: so they are all put before it.
        reading.tree.add(known, raw)

    def _copy_blobs(self, source: Source, sink: Sink, tree: _Tree, counted: _Counter) -> None:
        """Every blob that the sink lacks; the first failure stops the others of this image."""
        stop = threading.Event()
        jobs = [_Job(source, sink, descriptor, counted, stop) for descriptor in tree.blobs.values()]
        batch = self._workers.do(partial(self._blob, job) for job in jobs)
        try:
            batch.results()
        finally:
            stop.set()
            batch.abandon()

    def _blob(self, job: _Job) -> None:
        """One blob; if another image is just copying it, its end is awaited and the blob then found."""
        digest = job.descriptor.digest
        while True:
            with self._lock:
                other = self._under_way.get(digest)
                if other is None:
                    self._under_way[digest] = done = threading.Event()
                    break
            while not other.wait(0.2):
                self._stop_if_cancelled(job.stop)
        try:
            self._stop_if_cancelled(job.stop)
            how = self._copy_blob(job)
        except BaseException:
            self._observer.finished(job.descriptor, "failed")
            raise
        finally:
            with self._lock:
                del self._under_way[digest]
            done.set()
        self._observer.finished(job.descriptor, how)

    def _copy_blob(self, job: _Job) -> Literal["copied", "present"]:
        if job.sink.has(job.descriptor):
            return "present"
        with job.sink.upload(job.descriptor) as upload:
            if upload.offset == job.descriptor.size_bytes:
                return self._settle(job, upload, "present")
            self._observer.began(job.descriptor, upload.offset)
            return self._settle(job, upload, "copied")

    def _settle(self, job: _Job, upload: Upload, how: Literal["copied", "present"]) -> Literal["copied", "present"]:
        """Copy what is missing and commit; wrong bytes begin anew from elsewhere, as long as there is an elsewhere."""

        def take(piece: Buffer) -> None:
            upload.write(piece)
            job.counted.add(len(piece))
            self._observer.advanced(job.descriptor, len(piece))
            self._stop_if_cancelled(job.stop)  # after it: what came is kept for the next time

        while True:
            try:
                if upload.offset < job.descriptor.size_bytes:
                    job.source.blob(job.descriptor, upload.offset).copy_to(take)
                upload.commit()
                return how
            except ContentMismatch:
                upload.restart()
                if not job.source.reject(job.descriptor):
                    raise
                how = "copied"
                self._observer.began(job.descriptor, 0)

    def _stop_if_cancelled(self, *others: threading.Event) -> None:
        if self._cancelled.is_set() or any(other.is_set() for other in others):
            raise Interrupted


@dataclass(frozen=True, slots=True)
class _Reading:
    source: Source
    sink: Sink
    tree: _Tree
    platforms: tuple[Platform, ...]
    counted: _Counter

    def raw(self, descriptor: Descriptor) -> bytes:
        """The manifest, from the sink if it is there already."""
        if self.sink.has(descriptor):
            with suppress(ContentMismatch, NotFound):  # damaged since, or just removed: fetched again
                return self.sink.manifest(descriptor)
        raw = self.source.manifest(descriptor)
        self.counted.add(len(raw))
        return raw

    def chosen(self, index: Index) -> Sequence[Descriptor]:
        """The items of an index that belong to the platforms asked for."""
        if not self.platforms:
            return index.references
        chosen = {item.digest: item for item in map(index.select, self.platforms)}
        self.tree.sparse |= len(chosen) < len(index.references)
        return list(chosen.values())


@dataclass(frozen=True, slots=True)
class _Job:
    source: Source
    sink: Sink
    descriptor: Descriptor
    counted: _Counter
    stop: threading.Event


class _Counter:
    """Bytes, counted by several threads."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count


def _parsed(raw: bytes, media_type: str) -> Manifest:
    try:
        return parse_manifest(raw, media_type)
    except InvalidDigest as error:  # whose exit code says that the call was wrong
        raise InvalidManifest(f"a manifest with a digest that is none: {error.message}") from error


def each(items: Sequence[T], work: Callable[[T], R], *, at_once: int, stop: Callable[[], object]) -> list[R]:
    """`work` of each item, so many at once; the results in the order of the items.

    `stop` tells those under way to end if one of them fails or this one is interrupted; nobody waits for them then.
    """
    crew = Crew(max(1, min(at_once, len(items))), "image")
    try:
        return crew.do(partial(work, item) for item in items).results()
    except BaseException:
        stop()
        raise
    finally:
        crew.close(FAREWELL_SECONDS)
