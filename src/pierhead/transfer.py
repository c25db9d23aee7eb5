"""Moving images: the one mover behind pull, push, seed, save, load and mirror.

`Transfer.copy` takes what a name points to out of a source and puts it into a sink: manifests first, then every blob
that the sink lacks, several at once, then the manifests again from the leaves up, the name last. So an image is never
visible before it is whole, and a copy that was killed anywhere goes on where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol, TypeVar

from pierhead.body import Blob, Buffer, Write
from pierhead.crew import LOOK_SECONDS, Crew
from pierhead.errors import ExitCode, PierheadError
from pierhead.oci import Descriptor, Platform
from pierhead.rate import Rate
from pierhead.reference import Digest
from pierhead.store import ContentMismatch, NamingSink, NotFound, Sink, Source, Upload
from pierhead.tree import Read, Tree, read_tree

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


class Transfer:
    """A handful of workers that copy blobs for as many images as are given to it.

    `jobs` blobs at once, each distinct one once, all together at most at `rate`. Close it, or use it as a context.
    `on_cancel` ends the waits of what it copies with: of a transport, of a store.
    """

    def __init__(
        self,
        jobs: int = 4,
        observer: Observer | None = None,
        *,
        rate: Rate | None = None,
        on_cancel: Sequence[Callable[[], object]] = (),
    ) -> None:
        self._rate = rate
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

    def copy(
        self,
        source: Source,
        sink: Sink,
        name: str,
        platforms: Sequence[Platform] = (),
        *,
        names: Sequence[str] | None = None,
        on_tree: Callable[[Tree], object] | None = None,
    ) -> Copied:
        """Copy what `name` (a tag or digest) points to, for these platforms (none: all), and name it in the sink.

        `names` are what it is called there, if not `name`; with none of them it is there by its digest alone. `on_tree`
        is told all that belongs to it as soon as that is known. Raises what the source and the sink raise,
        `NoMatchingPlatform`, and `Interrupted`.
        """
        counted = _Counter()
        tree = read_tree(self._reader(source, sink, counted), source.resolve(name), platforms)
        if on_tree is not None:
            on_tree(tree)
        self._copy_blobs(source, sink, tree, counted)
        _put_manifests(sink, tree, platforms, (name,) if names is None else names)
        size_bytes = tree.size_bytes
        return Copied(tree.top, tuple(tree.platforms), counted.bytes, max(0, size_bytes - counted.bytes), size_bytes)

    def watched(self, source: Source) -> Source:
        """The same content for whoever writes it himself, into a tarball: shown, within the rate, ended by `cancel`."""
        return _WatchedSource(source, self)

    def _shown(self, blob: Blob, descriptor: Descriptor, offset: int) -> Blob:
        """One blob of a `watched` source."""
        return _Shown(blob, descriptor, offset, self._observer, lambda count: self._passed(descriptor, count))

    def _passed(self, descriptor: Descriptor, count: int) -> None:
        self._observer.advanced(descriptor, count)
        if self._rate:
            self._rate.spend(count, self.pause)
        self._stop_if_cancelled()

    def _reader(self, source: Source, sink: Sink, counted: _Counter) -> Read:
        """Reads a manifest from the sink if it is there already, else from the source."""

        def read(descriptor: Descriptor) -> bytes:
            self._stop_if_cancelled()
            if sink.has(descriptor):
                with suppress(ContentMismatch, NotFound):  # damaged since, or just removed: fetched again
                    return sink.manifest(descriptor)
            raw = source.manifest(descriptor)
            counted.add(len(raw))
            return raw

        return read

    def _copy_blobs(self, source: Source, sink: Sink, tree: Tree, counted: _Counter) -> None:
        """Every blob that the sink lacks; the first failure stops the others of this image."""
        stop = threading.Event()
        jobs = [_Job(source, sink, descriptor, counted, stop) for descriptor in tree.blobs.values()]
        while jobs:
            batch = self._workers.do(partial(self._blob, job) for job in jobs)
            try:
                deferred = [wait for wait in batch.results() if wait is not None]
            except BaseException:
                stop.set()
                raise
            finally:
                batch.abandon()
            jobs = [job for job, _ in deferred]
            for _, done in deferred:
                while not done.wait(LOOK_SECONDS):
                    self._stop_if_cancelled()

    def _blob(self, job: _Job) -> tuple[_Job, threading.Event] | None:
        """One blob; if another image is just copying it, what to try again when that has ended.

        Whoever waits for it is the image and no worker: those are for blobs that nobody copies yet.
        """
        digest = job.descriptor.digest
        with self._lock:
            other = self._under_way.get(digest)
            if other is not None:
                return job, other
            self._under_way[digest] = done = threading.Event()
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
        return None

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

        def came(count: int) -> None:
            job.counted.add(count)
            self._passed(job.descriptor, count)
            self._stop_if_cancelled(job.stop)  # after it: what came is kept for the next time

        while True:
            try:
                if upload.offset < job.descriptor.size_bytes:
                    upload.fill(_Watched(job.source.blob(job.descriptor, upload.offset), came))
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


def _put_manifests(sink: Sink, tree: Tree, platforms: Sequence[Platform], names: Sequence[str]) -> None:
    """The manifests of a tree, the top one last and with its first name where that is one request."""
    for descriptor, raw in tree.manifests.values():
        algorithm, media_type = descriptor.digest.algorithm, descriptor.media_type
        if names and descriptor.digest == tree.top.digest and isinstance(sink, NamingSink):
            sink.put_named(raw, media_type, names[0], algorithm=algorithm, sparse=tree.sparse)
            names = names[1:]
        else:
            sink.put_manifest(raw, media_type, algorithm=algorithm, sparse=tree.sparse)
    for name in names:
        sink.tag(name, tree.top, platforms=tuple(platforms) if tree.sparse else ())


@dataclass(frozen=True, slots=True)
class _Watched:
    """A blob that tells how many bytes of it came, after each piece was taken (`body.Blob`)."""

    blob: Blob
    came: Callable[[int], object]

    @property
    def size_bytes(self) -> int | None:
        return self.blob.size_bytes

    def copy_to(self, write: Write, offset: int = 0) -> int:
        def take(piece: Buffer) -> None:
            write(piece)
            self.came(len(piece))

        return self.blob.copy_to(take, offset)

    def close(self) -> None:
        self.blob.close()


@dataclass(frozen=True, slots=True)
class _Shown:
    """A blob whose way is shown from its beginning to its end (`body.Blob`)."""

    blob: Blob
    descriptor: Descriptor
    start: int
    observer: Observer
    came: Callable[[int], object]

    @property
    def size_bytes(self) -> int | None:
        return self.blob.size_bytes

    def copy_to(self, write: Write, offset: int = 0) -> int:
        self.observer.began(self.descriptor, self.start + offset)
        try:
            copied = _Watched(self.blob, self.came).copy_to(write, offset)
        except BaseException:
            self.observer.finished(self.descriptor, "failed")
            raise
        self.observer.finished(self.descriptor, "copied")
        return copied

    def close(self) -> None:
        self.blob.close()


@dataclass(frozen=True, slots=True)
class _WatchedSource:
    """A source whose blobs are shown as they are read (`store.Source`)."""

    source: Source
    transfer: Transfer

    def resolve(self, reference: str) -> Descriptor:
        return self.source.resolve(reference)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.source.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return self.transfer._shown(self.source.blob(descriptor, offset), descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return self.source.reject(descriptor)


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
