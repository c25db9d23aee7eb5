"""What refers to an image: signatures, attestations, bills of material; found, and copied along with it.

Three ways lead to them: the referrers API, the index under the tag `sha256-<hex>` where a registry has no such API (OCI
distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema"), and the tags `sha256-<hex>.sig`, `.att`
and `.sbom` that cosign gives. A referrer may have referrers of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar, runtime_checkable
from urllib.parse import quote, urljoin

from pierhead.ask import Memory, ask
from pierhead.auth import Steps
from pierhead.body import read_all
from pierhead.chosen import Known
from pierhead.client import Remote
from pierhead.errors import PierheadError
from pierhead.oci import MANIFEST_LIMIT_BYTES, OCI_INDEX, Descriptor, Index, InvalidManifest, parse_manifest
from pierhead.push import RemoteSink
from pierhead.reference import Digest, InvalidDigest, Reference
from pierhead.refusal import Refusal, status_hint
from pierhead.routing import Route
from pierhead.store import (
    COSIGN_SUFFIXES,
    NotFound,
    Referrer,
    Sink,
    Source,
    as_referrer,
    follow_referrers,
    tag_of,
)
from pierhead.transfer import Copied, Interrupted, Transfer
from pierhead.tree import MANIFESTS_LIMIT_BYTES, Tree, read_tree
from pierhead.walk import AllRoutesFailed, resolve
from pierhead.wire import Headers, Request, Response, next_link

REFERRERS_LIMIT: Final = 1000  # in all, for one image
PAGES_LIMIT: Final = 100
# What registries answer that have no such API: 404 by the specification; 401, without a challenge, Harbor 2.7.
NO_API: Final = frozenset({400, 401, 404, 405, 406, 501})

T = TypeVar("T")


class ReferrersUnknown(PierheadError):
    """A registry does not say what refers to an image, or says it in a way that cannot be used."""


class ReferrersMissing(PierheadError):
    """An image is where it should be, and not all of what refers to it."""

    def __init__(self, name: str, error: PierheadError) -> None:
        super().__init__(f"{name} is there, but not all that refers to it: {error.message}", hint=error.hint)
        self.exit_code = error.exit_code


@contextmanager
def beside(name: str) -> Iterator[None]:
    """While what refers to the image `name`, which is there, is copied: raises `ReferrersMissing` if it cannot be."""
    try:
        yield
    except Interrupted:
        raise
    except PierheadError as error:
        raise ReferrersMissing(name, error) from error


class Asked(Protocol):
    """Something that has conversations with registries: a `client.Remote`, a `push.RemoteSink`."""

    @property
    def routes(self) -> Sequence[Route]: ...

    def carry_out(self, conversation: Callable[[Memory], Steps[T]]) -> T: ...


@runtime_checkable
class Referred(Protocol):
    """A store's repository, which knows by itself."""

    def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]: ...


@dataclass(frozen=True, slots=True)
class CopiedReferrers:
    """What came along with an image, in the order it was found; `skipped` are those that nobody here understands."""

    copied: tuple[tuple[Referrer, Copied], ...] = ()
    skipped: tuple[tuple[Referrer, str], ...] = ()


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────


def find_referrers(source: Source, subject: Digest, artifact_type: str = "") -> list[Referrer]:
    """What refers to `subject` itself; with an artifact type only what is of it (which cosign's tags do not tell).

    Raises `ReferrersUnknown`, and what asking raises.
    """
    found = [Referrer(item, subject) for item in _listed(source, subject)]
    if artifact_type:
        return [referrer for referrer in found if referrer.descriptor.artifact_type == artifact_type]
    for suffix in COSIGN_SUFFIXES:
        tag = tag_of(subject) + suffix
        descriptor = _tagged(source, tag)
        if descriptor is not None:
            found.append(Referrer(descriptor, subject, tag))
    return found


def find_all_referrers(source: Source, subjects: Iterable[Digest]) -> Iterator[Referrer]:
    """What refers to any of `subjects`, and what refers to that, each once; raises as `find_referrers`.

    Who was not read yet when something raises can still be: what was found before was given.
    """
    for number, referrer in enumerate(follow_referrers(partial(find_referrers, source), subjects)):
        if number == REFERRERS_LIMIT:
            raise ReferrersUnknown(f"more than {REFERRERS_LIMIT} artifacts refer to one image, or to each other")
        yield referrer


def _listed(source: Source, subject: Digest) -> Sequence[Descriptor]:
    if isinstance(source, (Remote, RemoteSink)):
        return _asked(source, subject)
    return source.referrers(subject) if isinstance(source, Referred) else ()


def _asked(source: Asked, subject: Digest) -> Sequence[Descriptor]:
    """By the first route that knows of any; a failure counts only if no route says anything."""
    failures: list[PierheadError] = []
    for route in source.routes:
        try:
            listed = source.carry_out(_Listing(route, subject).read)
        except PierheadError as error:
            failures.append(error)
        else:
            if listed:
                return listed
    if failures and len(failures) == len(source.routes):
        raise failures[0]
    return ()


def _tagged(source: Source, tag: str) -> Descriptor | None:
    try:
        if isinstance(source, Remote):  # without a trace in what it says of the image itself
            reference = Reference.parse(f"{source.plan.reference.name}:{tag}")
            return source.carry_out(lambda memory: resolve(memory, source.routes, reference, _unrecorded)).descriptor
        return source.resolve(tag)
    except NotFound:
        return None
    except AllRoutesFailed as error:
        if any(attempt.status == 404 for attempt in error.attempts):
            return None
        raise


def _unrecorded(_: object) -> None:
    pass


# ── asking a registry ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Listing:
    """The list of what refers to one digest, at one route."""

    route: Route
    subject: Digest

    def read(self, memory: Memory) -> Steps[Sequence[Descriptor]]:
        """By the API, else by the tag; raises `ReferrersUnknown`."""
        listed = yield from self.read_api(memory)
        return listed if listed is not None else (yield from self._by_tag(memory))

    def read_api(self, memory: Memory) -> Steps[list[Descriptor] | None]:
        """None if this registry has no such API."""
        url: str | None = self.route.url_of("referrers", str(self.subject))
        found: list[Descriptor] = []
        seen: set[str] = set()
        while url is not None:
            seen.add(url)
            with (yield from self._ask(memory, url)) as response:
                if len(seen) == 1 and response.status in NO_API:
                    return None
                found += self._index(memory, response).manifests
                url = self._next(response, url)
            if len(found) > REFERRERS_LIMIT or len(seen) > PAGES_LIMIT or url in seen:
                raise self._unknown("the list does not end")
        return found

    def _by_tag(self, memory: Memory) -> Steps[Sequence[Descriptor]]:
        url = self.route.url_of("manifests", tag_of(self.subject))
        with (yield from self._ask(memory, url)) as response:
            # GitLab takes the tag for the digest, and gives the image itself.
            if response.status == 404 or response.headers.get("docker-content-digest") == str(self.subject):
                return ()
            return self._index(memory, response).manifests

    def _ask(self, memory: Memory, url: str) -> Steps[Response]:
        request = Request("GET", url, Headers([("Accept", OCI_INDEX)]))
        return (yield from ask(memory, self.route, request, last_route=True))

    def _index(self, memory: Memory, response: Response) -> Index:
        if not response.ok:
            asked = response.request or Request("GET", self.route.url)
            refusal = Refusal.of(response, asked.method, memory.shown_url(asked.url), masked=memory.masked)
            raise self._unknown(refusal.told, hint=status_hint(self.route, response.status))
        try:
            index = parse_manifest(read_all(response.body, MANIFEST_LIMIT_BYTES), OCI_INDEX)
        except (InvalidManifest, InvalidDigest) as error:
            raise self._unknown(error.message) from None
        if not isinstance(index, Index):
            raise self._unknown("its answer is no index")
        return index

    def _next(self, response: Response, url: str) -> str | None:
        """The next page, which nobody else is asked for than who gave this one."""
        link = next_link(response.headers)
        if link is None:
            return None
        target = Request("GET", urljoin(url, link))
        if target.authority != Request("GET", url).authority:
            raise self._unknown("its next page is said to be somewhere else")
        return f"{Request('GET', url).origin}{quote(target.target, safe='/:@?&=%._~!$()*+,;-')}"

    def _unknown(self, reason: str, *, hint: str = "") -> ReferrersUnknown:
        return ReferrersUnknown(f"{self.route.host} does not say what refers to {self.subject}: {reason}", hint=hint)


# ── copying ──────────────────────────────────────────────────────────────────────────────────────────────────────


def copy_referrers(transfer: Transfer, source: Source, sink: Sink, subjects: Iterable[Digest]) -> CopiedReferrers:
    """Copy what refers to any of `subjects` (the manifests of an image that is in the sink), and what refers to that.

    Cosign's tags stay tags. A registry that has no referrers API gets the index under the tag that stands for it, whose
    foreign entries are kept. Raises what finding and copying raise; what came before is whole.
    """
    return copy_found(transfer, source, sink, find_all_referrers(source, subjects))


def copy_found(transfer: Transfer, source: Source, sink: Sink, found: Iterable[Referrer]) -> CopiedReferrers:
    """As `copy_referrers`, where somebody else says what refers to the image."""
    copied: list[tuple[Referrer, Copied]] = []
    skipped: list[tuple[Referrer, str]] = []
    for referrer in found:
        if (why := _unknown_kind(referrer)) is not None:
            skipped.append((referrer, why))
            continue
        names = (referrer.tag,) if referrer.tag else ()
        known = Known(source, referrer.descriptor)
        copied.append((referrer, transfer.copy(known, sink, str(referrer.descriptor.digest), names=names)))
    if isinstance(sink, RemoteSink):
        for subject in dict.fromkeys(referrer.subject for referrer, _ in copied):
            _keep_listed(sink, subject, [one.descriptor for one, _ in copied if one.subject == subject and not one.tag])
    return CopiedReferrers(tuple(copied), tuple(skipped))


@dataclass(frozen=True, slots=True)
class ReadReferrers:
    """What refers to an image with all that belongs to it, for whoever writes it himself; `skipped` as when copied."""

    trees: tuple[tuple[Referrer, Tree], ...] = ()
    skipped: tuple[tuple[Referrer, str], ...] = ()

    def copied(self, written: Callable[[Tree], Copied]) -> CopiedReferrers:
        """When they were written, each of them as `written` says."""
        return CopiedReferrers(tuple((referrer, written(tree)) for referrer, tree in self.trees), self.skipped)


def read_referrers(source: Source, subjects: Iterable[Digest]) -> ReadReferrers:
    """What refers to any of `subjects`, and what refers to that. Raises what finding and reading raise.

    All of their manifests are in memory at once, and together no more than those of one image may be.
    """
    trees: list[tuple[Referrer, Tree]] = []
    skipped: list[tuple[Referrer, str]] = []
    for referrer in find_all_referrers(source, subjects):
        if (why := _unknown_kind(referrer)) is not None:
            skipped.append((referrer, why))
        else:
            trees.append((referrer, read_tree(source.manifest, referrer.descriptor)))
        if sum(tree.raw_bytes for _, tree in trees) > MANIFESTS_LIMIT_BYTES:
            raise ReferrersUnknown(f"manifests of more than {MANIFESTS_LIMIT_BYTES} bytes refer to one image")
    return ReadReferrers(tuple(trees), tuple(skipped))


def _unknown_kind(referrer: Referrer) -> str | None:
    """Why nobody here understands it; None if somebody does."""
    descriptor = referrer.descriptor
    return None if descriptor.is_manifest else f"it is a {descriptor.media_type or 'thing without a media type'}"


def list_subjects(sink: Sink, tree: Tree) -> None:
    """See to it that a registry lists what was copied by a name of its own and refers to something else.

    OCI distribution specification 1.1, "Pushing Manifests with Subject". Raises as `copy_referrers`.
    """
    if not isinstance(sink, RemoteSink):
        return
    for descriptor, raw in tree.manifests.values():
        subject = parse_manifest(raw, descriptor.media_type).subject if b'"subject"' in raw else None
        if subject is not None:
            _keep_listed(sink, subject.digest, [descriptor])


def _keep_listed(sink: RemoteSink, subject: Digest, referrers: Sequence[Descriptor]) -> None:
    """See to it that the registry lists these: it does so itself, or we write the index under the tag for it.

    OCI distribution specification 1.1, "Pushing Manifests with Subject". The protocol has no compare and set: somebody
    else who writes the same index at the same moment may lose an entry, or we do.
    """
    if all(sink.lists_subject.get(item.digest) for item in referrers):
        return
    listing = _Listing(sink.routes[0], subject)
    if sink.carry_out(listing.read_api) is not None:
        return
    with sink.place.registry.listing:
        document = _read_index(sink, subject)
        listed = {item.get("digest") for item in document["manifests"] if isinstance(item, dict)}
        missing = [item for item in referrers if str(item.digest) not in listed]
        if missing:
            document["manifests"] += [_as_listed(sink, item).to_json() for item in missing]
            raw = json.dumps(document, separators=(",", ":")).encode()
            sink.put_named(raw, OCI_INDEX, tag_of(subject), sparse=True)


def _as_listed(sink: RemoteSink, descriptor: Descriptor) -> Descriptor:
    """With the artifact type and annotations of the manifest itself, whatever the list it was found in says."""
    return as_referrer(parse_manifest(sink.manifest(descriptor), descriptor.media_type), descriptor)


def _read_index(sink: RemoteSink, subject: Digest) -> dict[str, Any]:
    """The index under the tag as it is, or an empty one; raises `ReferrersUnknown` if it is something else."""
    tag, nothing = tag_of(subject), {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    try:
        tagged = sink.resolve(tag)
        if tagged.digest == subject:  # as in `_by_tag`
            return nothing
        raw = sink.manifest(tagged)
    except NotFound:
        return nothing
    if not isinstance(parse_manifest(raw, OCI_INDEX), Index):
        raise ReferrersUnknown(
            f"{sink.name.namespace}/{sink.name.path}:{tag} is no index of referrers",
            hint="somebody used the tag that stands for them; remove it",
        )
    document: dict[str, Any] = json.loads(raw)
    document["manifests"] = document.get("manifests") or []
    return document
