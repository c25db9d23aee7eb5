"""Seeding a list of images: each taken from the first place that has it, put where its nodes look, and proved.

One failing image does not stop the others; what became of each is a value (`Seeded`), which the command shows. Doing
it again does the rest: what is there already is only asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal, Protocol, TypeVar

from pierhead.chosen import chosen
from pierhead.errors import ExitCode, PierheadError, Problem
from pierhead.oci import Descriptor, Platform
from pierhead.reference import Digest, Reference
from pierhead.referrers import CopiedReferrers, copy_referrers, list_subjects
from pierhead.routing import Route
from pierhead.seed.mapping import REMEDIES, Mapped, Target, Wanted
from pierhead.seed.proof import Coverage, Prover, coverage, platforms_of
from pierhead.seed.sources import Origin, Preferred, Told
from pierhead.store import NotFound, Sink, Source
from pierhead.transfer import Interrupted, Transfer, each
from pierhead.tree import Part, Tree

IMAGES_LIMIT: Final = 32  # at once; more would only wait for each other
Outcome = Literal["seeded", "present", "failed"]
T = TypeVar("T")


class Unplaced(PierheadError):
    """registries.yaml has no place for an image, or not one of its own."""

    exit_code = ExitCode.USAGE

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message, hint=REMEDIES.get(problem.id, ""), span=problem.span)


class Destination(Sink, Protocol):
    """A repository of a registry, to write to, that says what its names point to."""

    def resolve(self, reference: str) -> Descriptor: ...


@dataclass(frozen=True, slots=True)
class Put:
    """What became of one image at one of its places. "present": nothing had to be written.

    `replaced` is what the name pointed to before; `skipped` what refers to the image and did not come along, and why;
    `served` the route by which a node gets it, once that is proved.
    """

    target: Target
    outcome: Outcome
    sent_bytes: int = 0
    reused_bytes: int = 0
    seconds: float = 0.0
    replaced: Digest | None = None
    referrers: int = 0
    skipped: tuple[tuple[Digest, str], ...] = ()
    served: Route | None = None
    error: PierheadError | None = None


@dataclass(frozen=True, slots=True)
class Seeded:
    """What became of one image. `place` is where it was taken from, `told` where it was not and why.

    `error`: it got to no place at all; each of `puts` may have one of its own.
    """

    mapped: Mapped
    puts: tuple[Put, ...] = ()
    descriptor: Descriptor | None = None
    size_bytes: int = 0
    parts: tuple[Part, ...] = ()
    place: str = ""
    told: tuple[Told, ...] = ()
    seconds: float = 0.0
    error: PierheadError | None = None

    @property
    def errors(self) -> tuple[PierheadError, ...]:
        own = (self.error,) if self.error else ()
        return (*own, *(put.error for put in self.puts if put.error))

    @property
    def outcome(self) -> Outcome:
        """The worst of what became of it."""
        if self.errors:
            return "failed"
        return "seeded" if any(put.outcome == "seeded" for put in self.puts) else "present"


@dataclass(slots=True)
class Seeder:
    """Everything that seeding needs besides the map: where to take images from, how to write and to prove.

    `guard` makes a source that gives only what may be seeded (a lock file's). `prover` None: nothing is proved. With
    `referrers` what refers to an image goes with it.
    """

    origins: Sequence[Origin]
    into: Callable[[Target], Destination]
    prover: Prover | None = None
    platforms: Sequence[Platform] = ()
    guard: Callable[[Reference, Source], Source] | None = None
    referrers: bool = False
    clock: Callable[[], float] = field(default=time.monotonic)

    def seed(
        self,
        mapped: Sequence[Mapped],
        transfer: Transfer,
        *,
        jobs: int = 4,
        keep: Callable[[Seeded], object] = lambda _: None,
    ) -> list[Seeded]:
        """Seed every image, in the order of the map; those that are left out are not among the results.

        Raises nothing that concerns a single image; KeyboardInterrupt stops all of them. `keep` is told of each when it
        is seeded, and again when it is proved, by several threads: so what was done is known then too.
        """
        wanted = [item for item in mapped if not item.left_out]
        # Images that share a base wait for each other, and their workers for them, if there are no others.
        at_once = min(IMAGES_LIMIT, 4 * jobs)
        work = _kept(partial(self._seed, transfer), transfer, keep)
        seeded = each(wanted, work, at_once=at_once, stop=transfer.cancel)
        if self.prover is None:
            return seeded
        # When everything is there: what one image did to another one's name would show.
        proof = _kept(partial(self._prove, self.prover, transfer), transfer, keep)
        return each(seeded, proof, at_once=at_once, stop=transfer.cancel)

    def _seed(self, transfer: Transfer, mapped: Mapped) -> Seeded:
        if mapped.problem:
            return Seeded(mapped, error=Unplaced(mapped.problem))
        started = self.clock()
        reference = mapped.wanted.reference
        source = Preferred(reference, self.origins, transfer.pause)
        made = Seeded(mapped)
        try:
            image = self._image(reference, source)
            made = replace(made, descriptor=image.resolve())
            made = self._put_all(transfer, made, image)
        except Interrupted:
            raise
        except PierheadError as error:
            made = replace(made, error=error)
        place = source.offer.place if source.offer else ""
        return replace(made, place=place, told=tuple(source.told), seconds=self.clock() - started)

    def _image(self, reference: Reference, source: Preferred) -> _Image:
        guarded = self.guard(reference, source) if self.guard else source
        if reference.digest:  # which must stay what it is: an index is copied without what was not chosen
            return _Image(source, guarded, tuple(self.platforms))
        return _Image(source, *chosen(guarded, self.platforms))

    def _put_all(self, transfer: Transfer, made: Seeded, image: _Image) -> Seeded:
        puts: list[Put] = []
        for target in made.mapped.targets:
            started = self.clock()
            try:
                put = self._put(transfer, target, image)
            except Interrupted:
                raise
            except PierheadError as error:
                put = Put(target, "failed", error=error)
            puts.append(replace(put, seconds=self.clock() - started))
        if image.tree is None:
            return replace(made, puts=tuple(puts))
        return replace(
            made,
            puts=tuple(puts),
            size_bytes=image.tree.size_bytes,
            parts=platforms_of(image.tree, image.preferred.config),
        )

    def _put(self, transfer: Transfer, target: Target, image: _Image) -> Put:
        descriptor = image.resolve()
        sink = self.into(target)
        known = {name: _resolved(sink, name) for name in target.names}
        names = [name for name, found in known.items() if found != descriptor.digest]
        own = target.plan.reference.object
        copied = [transfer.copy(image.source, sink, own, image.platforms, names=names, on_tree=image.keep)]
        if image.tree is not None:
            list_subjects(sink, image.tree)
        came = image.copy_referrers(transfer, sink) if self.referrers else CopiedReferrers()
        copied += [one for _, one in came.copied]
        sent_bytes = sum(one.fetched_bytes for one in copied)
        return Put(
            target,
            "seeded" if sent_bytes or names else "present",
            sent_bytes,
            sum(one.reused_bytes for one in copied),
            replaced=known[target.names[0]] if target.names[0] in names else None,
            referrers=len(came.copied),
            skipped=tuple((referrer.descriptor.digest, reason) for referrer, reason in came.skipped),
        )

    def _prove(self, prover: Prover, transfer: Transfer, seeded: Seeded) -> Seeded:
        if seeded.descriptor is None:
            return seeded
        digest = seeded.descriptor.digest
        puts = tuple(_proved(prover, transfer, put, digest) for put in seeded.puts)
        return replace(seeded, puts=puts)


def _kept(work: Callable[[T], Seeded], transfer: Transfer, keep: Callable[[Seeded], object]) -> Callable[[T], Seeded]:
    """The work, whose result is told of as soon as there is one; once it is cancelled, that may be the reason."""

    def done(item: T) -> Seeded:
        seeded = work(item)
        transfer.pause(0)
        keep(seeded)
        return seeded

    return done


@dataclass(slots=True)
class _Image:
    """One image as its places get it: `source` gives just that, for these platforms, out of what is `preferred`."""

    preferred: Preferred
    source: Source
    platforms: Sequence[Platform]
    tree: Tree | None = None
    _descriptor: Descriptor | None = None

    def resolve(self) -> Descriptor:
        if self._descriptor is None:
            self._descriptor = self.source.resolve(self.preferred.reference.object)
        return self._descriptor

    def keep(self, tree: Tree) -> None:
        self.tree = tree

    def copy_referrers(self, transfer: Transfer, sink: Destination) -> CopiedReferrers:
        """What refers to any manifest of the image, where that came from."""
        assert self.tree is not None
        assert self.preferred.offer is not None
        return copy_referrers(transfer, self.preferred.offer.source, sink, self.tree.manifests)


def _resolved(sink: Destination, name: str) -> Digest | None:
    try:
        return sink.resolve(name).digest
    except NotFound:
        return None


def _proved(prover: Prover, transfer: Transfer, put: Put, digest: Digest) -> Put:
    if put.error:
        return put
    try:
        return replace(put, served=prover.prove(put.target, digest, transfer.pause))
    except Interrupted:
        raise
    except PierheadError as error:
        return replace(put, outcome="failed", error=error)


def exit_code(results: Sequence[Seeded], *, also_failed: bool = False) -> ExitCode:
    """How seeding ends: of one image its own code, of several PARTIAL if any failed, or a line of the list did."""
    if also_failed:
        return ExitCode.PARTIAL
    return ExitCode.of_all([result.errors[0] if result.errors else None for result in results])


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a list of `images`; `ready` are those that every node gets, `proved`: it was looked at.

    `unread` lines of the list name no image, so nobody knows what they stand for. `lacking`: some image has not each of
    the platforms that were asked for (an image without an index is taken whatever it is for). `unfinished` are the
    images that an interrupted run did not come to the end of; None if it was not interrupted.
    """

    images: int
    seeded: int
    present: int
    failed: int
    left_out: int
    sent_bytes: int
    ready: int
    proved: bool
    unread: int
    platforms: tuple[Coverage, ...]
    lacking: bool = False
    unfinished: tuple[Wanted, ...] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the nodes can do without the internet for these images."""
        whole = not self.unread and not self.lacking and self.unfinished is None
        return self.proved and self.ready == self.images and whole


def summary(
    results: Sequence[Seeded],
    mapped: Sequence[Mapped],
    wanted: Sequence[Platform] = (),
    *,
    proved: bool = True,
    unread: int = 0,
    interrupted: bool = False,
) -> Summary:
    """The numbers; `wanted` are the platforms that were asked for, `proved`: a node's view was to be looked at.

    If it was `interrupted` the results are those that there were by then.
    """
    outcomes = [result.outcome for result in results]
    ready = [result for result in results if result.puts and all(put.served for put in result.puts)]
    offered = [(str(item.mapped.wanted), [part.platform for part in item.parts if part.platform]) for item in ready]
    covered = coverage(offered, wanted)
    return Summary(
        images=len(mapped),
        seeded=outcomes.count("seeded"),
        present=outcomes.count("present"),
        failed=outcomes.count("failed"),
        left_out=sum(bool(item.left_out) for item in mapped),
        sent_bytes=sum(put.sent_bytes for result in results for put in result.puts),
        ready=len(ready),
        proved=proved,
        unread=unread,
        platforms=tuple(covered),
        lacking=bool(wanted) and any(item.missing for item in covered),
        unfinished=_unfinished(mapped, results) if interrupted else None,
    )


def _unfinished(mapped: Sequence[Mapped], results: Sequence[Seeded]) -> tuple[Wanted, ...]:
    done = {result.mapped.wanted.reference for result in results}
    return tuple(item.wanted for item in mapped if not item.left_out and item.wanted.reference not in done)
