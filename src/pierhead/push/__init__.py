"""A registry as a sink: the repository of one route, written to.

What is there already is not sent: manifests and blobs are asked for by HEAD, a blob that another repository of the same
registry has is mounted, a tag that points where it should stays. What is sent is streamed (`upload`).

Conditional tags are the best that the protocol allows: it has no compare and set, so the tag is looked at just before
it is written, and somebody who moves it in between is not noticed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from pierhead.ask import OURS, Hosts, Memory, back_off, carry_out
from pierhead.auth import AuthorizationFailed
from pierhead.body import BytesBlob, read_all
from pierhead.errors import PierheadError
from pierhead.oci import (
    ACCEPT_MANIFESTS,
    MANIFEST_LIMIT_BYTES,
    Descriptor,
    Index,
    InvalidManifest,
    Manifest,
    Platform,
    parse_manifest,
)
from pierhead.push.place import Begun, Place, PushRefused, Registry
from pierhead.push.upload import DigestRefused, RemoteUpload
from pierhead.reference import Digest, InvalidDigest
from pierhead.store import (
    ContentMismatch,
    Expected,
    ManifestBlobUnknown,
    NotFound,
    RepositoryName,
    checked,
    parse_reference,
    require_expected,
)
from pierhead.transport import Timeouts
from pierhead.wire import Headers, Request, Response

if TYPE_CHECKING:
    from pierhead.auth import Lookup, Steps
    from pierhead.routing import Route
    from pierhead.transport import Transport

__all__ = ["DigestRefused", "PushRefused", "Pusher", "RemoteSink"]

PUT_ATTEMPTS: Final = 4  # of a manifest that is said to name what is not there

T = TypeVar("T")

# 405: HEAD is not for everybody. 403: who may push may not be let see (ECR without BatchGetImage, Artifactory's virtual
# repositories); if he may not push either, that is said when he does.
_ABSENT: Final = frozenset({403, 404, 405})
# CNCF distribution 2.8 answers 500 for ever where its own note of a blob, manifest or tag was left empty, as a full
# disk does. Who asks before he writes takes that for "not there": it is written anew then, and whole again.
_UNREADABLE: Final = 500
_UNLIKED: Final = frozenset({"MANIFEST_INVALID", "UNSUPPORTED"})
# What registries answer to a tag that may not be moved: ECR and Nexus 400, Artifactory 403, ACR 405, Harbor 412.
_TAG_KEPT: Final = frozenset({400, 403, 405, 409, 412})
_IMMUTABLE: Final = re.compile(r"(?i)immutab|already exists|overwrit|not allow updating|cannot be updated")
_UNKNOWN: Final = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})


class Pusher:
    """Everything that pushing needs besides names, shared by all images of a command.

    Remembers which repository of a registry has which blob, so that another one mounts it, and which registry is behind
    a proxy that refuses large bodies. Safe for several threads. `wait` lets seconds pass; what it raises ends a push.
    """

    def __init__(
        self,
        transport: Transport,
        timeouts: Timeouts = Timeouts(),
        *,
        user_agent: str = "pierhead",
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._transport = transport
        self._timeouts = timeouts
        self._user_agent = user_agent
        self._clock = clock
        self._wait = wait
        self._hosts = Hosts()
        self._registries: dict[str, Registry] = {}
        self._lock = threading.Lock()

    def sink(self, route: Route, lookup: Lookup) -> RemoteSink:
        """The repository of a route (`routing.push_route`), with credentials by the host that challenges."""
        memory = Memory(
            lookup,
            profile=OURS,
            timeouts=self._timeouts,
            user_agent=self._user_agent,
            clock=self._clock,
            hosts=self._hosts,
        )
        with self._lock:
            # A path below /v2 is part of the names, so it is one registry; what is elsewhere may be another one.
            root = "/v2" if f"{route.path}/".startswith("/v2/") else route.path
            registry = self._registries.setdefault(f"{route.origin}{root}", Registry())
        return RemoteSink(Place(route, memory, registry, self._transport, self._wait))


class RemoteSink:
    """One repository of a registry (`store.Sink`), that can also say what it has. Safe for several threads.

    `name` is the repository as the registry has it, and its host; `url` where it is.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.name = RepositoryName(place.repository, place.route.host)
        self.url = f"{place.route.url}/{place.route.repository}"
        self._manifests: dict[Digest, bool] = {}  # whether it is there, of those that were looked for or put
        self._last: tuple[Digest, str, bytes] | None = None  # the manifest that was put last
        self.lists_subject: dict[
            Digest, bool
        ] = {}  # whether the registry itself lists what was put, by its OCI-Subject

    @property
    def routes(self) -> tuple[Route, ...]:
        """The way there."""
        return (self.place.route,)

    def carry_out(self, conversation: Callable[[Memory], Steps[T]]) -> T:
        """Ask something else, with what is remembered of this host; its value, or what it raises."""
        return carry_out(conversation(self.place.memory), self.place.transport, self.place.wait)

    # ── what is there ─────────────────────────────────────────────────────────────────────────────────────────

    def resolve(self, reference: str) -> Descriptor:
        """What a tag or digest points to; raises `NotFound`, `InvalidName`, `InvalidDigest`, `PushRefused`."""
        wanted = parse_reference(reference)
        found = self._look("HEAD", wanted)
        if isinstance(found, Descriptor):
            return found
        with self._get_manifest(reference) as response:
            raw = read_all(response.body, MANIFEST_LIMIT_BYTES)
            media_type = parse_manifest(raw, _media_type(response)).media_type
        algorithm = wanted.algorithm if isinstance(wanted, Digest) else "sha256"
        return Descriptor(media_type, Digest.of(raw, algorithm), len(raw))

    def manifest(self, descriptor: Descriptor) -> bytes:
        with self._get_manifest(str(descriptor.digest)) as response:
            return checked(read_all(response.body, MANIFEST_LIMIT_BYTES), descriptor)

    def has(self, descriptor: Descriptor) -> bool:
        """As `store.Sink.has`. A blob that another repository has and this new image needs is said to be absent without
        asking: `upload` mounts it."""
        if descriptor.is_manifest:
            there = self._manifests.get(descriptor.digest)
            if there is None:
                there = self._manifests[descriptor.digest] = self._is_there("manifests", descriptor)
            return there
        registry, digest = self.place.registry, descriptor.digest
        if registry.has(digest, self.place.repository):
            return True
        if self._is_new and registry.holder(digest, besides=self.place.repository):
            return False
        there = self._is_there("blobs", descriptor)
        if there:
            registry.found(digest, self.place.repository)
        return there

    @property
    def _is_new(self) -> bool:
        """Whether something of what is to be pushed is known to be missing here."""
        return not all(self._manifests.values())

    def _is_there(self, kind: str, descriptor: Descriptor) -> bool:
        """Whether HEAD finds it, with the right size where a size is told."""
        url = self.place.route.url_of("manifests" if kind == "manifests" else "blobs", str(descriptor.digest))
        headers = [("Accept", ACCEPT_MANIFESTS)] if kind == "manifests" else []
        with self.place.get("HEAD", url, *headers) as response:
            if response.status in _ABSENT or response.status == _UNREADABLE:
                return False
            if not response.ok and response.request is not None and response.request.url != url:
                return False  # the registry sent us on to where HEAD is not answered: a URL that is signed for GET
            if not response.ok:
                raise self.place.refused(response)
            length = response.headers.get("content-length")
            return length in {"", str(descriptor.size_bytes)}

    def _look(self, method: str, wanted: Digest | str) -> Descriptor | None:
        """What the headers of an answer say; None if they say too little. Raises `NotFound`."""
        with self._get_manifest(str(wanted), method) as response:
            length, text = response.headers.get("content-length"), response.headers.get("docker-content-digest")
            try:
                digest = wanted if isinstance(wanted, Digest) else Digest.parse(text)
            except InvalidDigest:
                return None
            if not (length.isascii() and length.isdigit() and len(length) < 19 and int(length)):
                return None
            return Descriptor(_media_type(response), digest, int(length))

    @contextmanager
    def _get_manifest(self, reference: str, method: str = "GET") -> Iterator[Response]:
        url = self.place.route.url_of("manifests", reference)
        with self.place.get(method, url, ("Accept", ACCEPT_MANIFESTS)) as response:
            if response.status == 404:
                raise NotFound(f"{self.place.shown()} has no {reference}")
            if not response.ok:
                raise self.place.refused(response)
            yield response

    # ── blobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def upload(self, descriptor: Descriptor) -> Iterator[RemoteUpload]:
        """As `store.Sink.upload`. Writers do not wait for each other: every upload is its own session."""
        upload = RemoteUpload(self.place, descriptor, self._mounted(descriptor))
        try:
            yield upload
        finally:
            upload.close()
        if upload.committed:
            self.place.registry.found(descriptor.digest, self.place.repository)

    def mount(self, descriptor: Descriptor, source: RepositoryName) -> bool:
        begun = self._mount(descriptor, source.path)
        RemoteUpload(self.place, descriptor, begun).close()
        return begun.mounted

    def _mounted(self, descriptor: Descriptor) -> Begun:
        """From wherever in this registry the blob is known to be; else what came of trying."""
        holder = self.place.registry.holder(descriptor.digest, besides=self.place.repository)
        if not holder:
            return Begun()
        begun = self._mount(descriptor, holder)
        if not begun.mounted and self._is_there("blobs", descriptor):  # it was not asked before: see `has`
            RemoteUpload(self.place, descriptor, begun).close()
            return Begun(mounted=True)
        return begun

    def _mount(self, descriptor: Descriptor, holder: str) -> Begun:
        """A registry that does not let us mount is no failure: the bytes are sent then."""
        try:
            begun = self.place.begin(digest=descriptor.digest, mounted_from=holder)
        except (PushRefused, AuthorizationFailed):
            begun = Begun()
        self.place.registry.mounted(successfully=begun.mounted)
        if begun.mounted:
            self.place.registry.found(descriptor.digest, self.place.repository)
        return begun

    # ── manifests and tags ────────────────────────────────────────────────────────────────────────────────────

    def put_manifest(
        self, raw: bytes, media_type: str, *, algorithm: str = "sha256", sparse: bool = False
    ) -> Descriptor:
        descriptor = _described(raw, media_type, algorithm)
        if not self._manifests.get(descriptor.digest):
            self._put(str(descriptor.digest), descriptor, raw, sparse=sparse)
        return descriptor

    def put_named(
        self, raw: bytes, media_type: str, reference: str, *, algorithm: str = "sha256", sparse: bool = False
    ) -> Descriptor:
        """As `put_manifest` and `tag`, in one request (`store.NamingSink`); none if it is so already."""
        descriptor, wanted = _described(raw, media_type, algorithm), parse_reference(reference)
        # With another algorithm than the registry's own, the digest that it keeps a tagged manifest under is not ours.
        if isinstance(wanted, Digest) or algorithm != "sha256":
            self.put_manifest(raw, media_type, algorithm=algorithm, sparse=sparse)
            self.tag(reference, descriptor)
        elif not self._points(reference, descriptor):
            self._put(reference, descriptor, raw, sparse=sparse)
        return descriptor

    def tag(
        self,
        reference: str,
        descriptor: Descriptor,
        *,
        platforms: Sequence[Platform] = (),
        expected: Digest | Expected = Expected.ANYTHING,
    ) -> None:
        """As `store.Sink.tag`; a digest needs no name here, it only must be there. Raises `NotFound`, `TagMoved`."""
        wanted = parse_reference(reference)
        if isinstance(wanted, Digest):
            if not self.has(descriptor):
                raise NotFound(f"{self.place.shown()} has no {reference}")
            return
        if expected is not Expected.ANYTHING:
            require_expected(f"{self.place.shown()}:{reference}", expected, self._pointed_to(reference))
        if self._points(reference, descriptor):
            return
        raw = self._last[2] if self._last and self._last[0] == descriptor.digest else self.manifest(descriptor)
        self._put(reference, descriptor, raw, sparse=True)

    def _points(self, tag: str, descriptor: Descriptor) -> bool:
        """Whether the tag points there already; not asked of a manifest that was just found missing."""
        if self._manifests.get(descriptor.digest) is False:
            return False
        try:
            return self._pointed_to(tag) == descriptor.digest
        except PushRefused as error:
            if error.status not in {403, _UNREADABLE}:
                raise
            return False

    def _pointed_to(self, tag: str) -> Digest | None:
        try:
            return self.resolve(tag).digest
        except NotFound:
            return None

    def _put(
        self, reference: str, descriptor: Descriptor, raw: bytes, *, sparse: bool, attempts: int = PUT_ATTEMPTS
    ) -> None:
        try:
            self._put_once(reference, descriptor, raw, sparse=sparse)
        except PushRefused as refusal:
            self._require_tagged(reference, descriptor, refusal)
        except ManifestBlobUnknown:
            if sparse or attempts <= 1:
                raise
            # All of it is there. Where somebody else puts the same now, CNCF distribution empties the file that says so
            # before it writes it anew; and what was just put in object storage may be seen a little later.
            self.place.wait(back_off(PUT_ATTEMPTS + 1 - attempts))
            self._put(reference, descriptor, raw, sparse=sparse, attempts=attempts - 1)

    def _require_tagged(self, reference: str, descriptor: Descriptor, refusal: PushRefused) -> None:
        """A tag that cannot be moved and need not be is fine, whoever gave it; raises the refusal otherwise."""
        there = None
        if refusal.status in _TAG_KEPT and not isinstance(parse_reference(reference), Digest):
            with suppress(PierheadError):
                there = self._pointed_to(reference)
        if there == descriptor.digest:
            self._manifests[descriptor.digest] = True
            return
        if there is not None and (refusal.status in _TAG_KEPT - {400} or _IMMUTABLE.search(refusal.message)):
            refusal.hint = (
                f"the tag {reference!r} is there already, for {there}, and tags may not be moved there: "
                "push under another tag, or allow it in the registry"
            )
        raise refusal

    def _put_once(self, reference: str, descriptor: Descriptor, raw: bytes, *, sparse: bool) -> None:
        url = self.place.route.url_of("manifests", reference)
        headers = Headers([("Content-Type", descriptor.media_type)])
        with self.place.send(Request("PUT", url, headers, BytesBlob(raw))) as response:
            if not response.ok:
                raise self._manifest_refused(response, parse_manifest(raw, descriptor.media_type), sparse=sparse)
            kept = response.headers.get("docker-content-digest")
            if kept.startswith(f"{descriptor.digest.algorithm}:") and kept != str(descriptor.digest):
                raise ContentMismatch(
                    f"{self.place.shown()} keeps the manifest {descriptor.digest} as something else: {kept[:100]}",
                    hint="something on the way to the registry changes manifests",
                    descriptor=descriptor,
                )
            self.lists_subject[descriptor.digest] = "oci-subject" in response.headers
        self._manifests[descriptor.digest] = True
        self._last = (descriptor.digest, descriptor.media_type, raw)

    def _manifest_refused(
        self, response: Response, manifest: Manifest, *, sparse: bool
    ) -> PushRefused | ManifestBlobUnknown:
        refusal = self.place.refused(response, f"the manifest {Digest.of(manifest.raw)}")
        if not refusal.codes & _UNKNOWN:
            if refusal.status in {415, 422} or refusal.codes & _UNLIKED:
                kinds = " with ".join(dict.fromkeys(_kinds(manifest)))
                refusal.hint = f"this registry may take only some kinds of manifests, and this is {kinds}"
            return refusal
        missing = f" ({', '.join(refusal.digests)})" if refusal.digests else ""
        hint = "what it names was removed there meanwhile; run the same command again"
        if isinstance(manifest, Index):
            if sparse:
                hint = "this registry wants every image of an index to be there: push one platform, or all of them"
        elif any(layer.urls for layer in manifest.layers):
            hint = (
                "it has foreign layers, whose URLs the registry must allow: docker-registry's validation.manifests.urls"
            )
        return ManifestBlobUnknown(f"{refusal.message}{missing}", hint=hint)


def _kinds(manifest: Manifest) -> Iterator[str]:
    """The media types by which registries choose what they take."""
    yield manifest.media_type
    if manifest.artifact_type:
        yield manifest.artifact_type
    if isinstance(manifest, Index):
        yield from (item.media_type for item in manifest.manifests)
    else:
        yield manifest.config.media_type


def _described(raw: bytes, media_type: str, algorithm: str) -> Descriptor:
    """The descriptor of a manifest; raises `InvalidManifest` if it is none."""
    try:
        manifest = parse_manifest(raw, media_type)
    except InvalidDigest as error:
        raise InvalidManifest(error.message) from error
    return Descriptor(manifest.media_type, Digest.of(raw, algorithm), len(raw))


def _media_type(response: Response) -> str:
    return response.headers.get("content-type").partition(";")[0].strip()
