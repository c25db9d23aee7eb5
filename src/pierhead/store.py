"""Where images are kept: what every source, sink and store promises, and what all stores have in common.

A `Source` gives the content of one repository, a `Sink` takes it; a `Repository` is both and more. A remote
repository (`client.Remote`), a layout on disk (`layout.LayoutStore`) and one in memory (`memory.MemoryStore`) keep the
same promises, and one contract suite holds them to it. `transfer.copy` is written against these protocols alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from pierhead.body import Blob, Buffer
from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.oci import Descriptor, Index, Manifest, Platform
from pierhead.reference import REPOSITORY_LIMIT, TAG_LIMIT, Digest, Reference

if TYPE_CHECKING:
    from pathlib import Path

OCTETS: Final = "application/octet-stream"  # the type of a blob of which nothing else is known
NAMESPACE_LIMIT: Final = 255  # characters: a registry's name is one folder on disk

# The distribution specification's grammar of <name> and <reference> (spec.md, "Pulling manifests"). A part never starts
# with "." or "_", so no repository is "..", and none collides with what a store keeps beside repositories.
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{TAG_LIMIT - 1}}}")
_NAMESPACE = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::[0-9]+)?")

COSIGN_SUFFIXES: Final = (".sig", ".att", ".sbom")  # of the tags that cosign gives to what refers to a digest


class InvalidName(UsageError):
    """A repository, tag or registry name that no store takes."""

    def __init__(self, what: str, text: str, hint: str) -> None:
        shown = text if len(text) <= NAMESPACE_LIMIT else text[:NAMESPACE_LIMIT] + "…"
        super().__init__(f"{shown!r} is not a {what}", hint=hint)
        self.text = text


class StoreUnwritable(PierheadError):
    """The store's disk refuses to take more: full, read-only, or not ours. What is stored stays sound."""

    def __init__(self, path: Path, reason: str, hint: str) -> None:
        super().__init__(f"cannot write {path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason


class StoreBusy(PierheadError):
    """Another process holds what is needed here, and did so for too long."""


class StoreDamaged(PierheadError):
    """A file of the store is not what it must be; nothing was changed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}", hint="`pierhead verify` lists what is wrong with the store")
        self.path = path


class NotFound(PierheadError):
    """The repository, tag, manifest or blob is not there."""

    exit_code = ExitCode.NOT_FOUND


class ContentMismatch(PierheadError):
    """Bytes are not what their descriptor says: the wrong digest, or too few or too many. Nothing of them is kept.

    `found` is the digest they have, `got_bytes` how many there are, where that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        descriptor: Descriptor | None = None,
        found: Digest | None = None,
        got_bytes: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.descriptor = descriptor
        self.found = found
        self.got_bytes = got_bytes


class TagMoved(PierheadError):
    """A conditional tag was refused: the tag does not point where the caller said."""


class ManifestBlobUnknown(PierheadError):
    """A manifest names content that its repository does not have."""


@dataclass(frozen=True, slots=True, order=True)
class RepositoryName:
    """A repository of a store: its path, and the registry whose name its images bear.

    `namespace` is "docker.io" for what was pulled under that name, and empty for what was pushed to this store itself;
    on the wire it is `?ns=`.
    """

    path: str
    namespace: str = ""

    @classmethod
    def of(cls, reference: Reference) -> RepositoryName:
        """Where images of this name are kept once they were pulled, or loaded."""
        return cls(reference.repository, reference.registry)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.path}" if self.namespace else self.path

    def check(self) -> None:
        """Raises `InvalidName` if no store may keep a repository of this name."""
        if len(self.path) > REPOSITORY_LIMIT or not _PATH.fullmatch(self.path):
            raise InvalidName("repository name", self.path, "parts of a-z, 0-9 and single . _ - between, joined by /")
        if self.namespace and (len(self.namespace) > NAMESPACE_LIMIT or not _NAMESPACE.fullmatch(self.namespace)):
            raise InvalidName("registry name", self.namespace, "a registry reads host or host:port")


@dataclass(frozen=True, slots=True)
class Name:
    """A name of a store: repository and tag (or the digest itself, for an image that was pulled by digest).

    `platforms` are those that were chosen out of an index; empty means all. What was not chosen may be absent.
    """

    repository: RepositoryName
    reference: str
    descriptor: Descriptor
    platforms: tuple[Platform, ...] = ()

    def __str__(self) -> str:
        return f"{self.repository}{'@' if ':' in self.reference else ':'}{self.reference}"


class Expected(Enum):
    """What a conditional tag may be told instead of a digest."""

    ANYTHING = "anything"
    NOTHING = "nothing"


class Upload(Protocol):
    """One blob on its way into a sink.

    `offset` is what is there already (from an earlier, interrupted try); write on from there. Leaving the context
    without `commit` keeps what was written for the next try; `restart` throws it away.
    """

    @property
    def offset(self) -> int: ...

    def write(self, data: Buffer) -> None: ...

    def fill(self, blob: Blob) -> None:
        """Write all of `blob`, which is what follows on `offset`, as it comes; raises what reading it raises.

        What came before an error counts: `offset` says how much. A remote sink streams it in one request.
        """
        ...

    def restart(self) -> None:
        """Forget everything written; `offset` is 0 again."""
        ...

    def commit(self) -> None:
        """Check size and digest over the whole and make the blob visible, durably.

        Raises `ContentMismatch`, after which nothing is kept.
        """
        ...


class Session(Protocol):
    """One upload whose digest the sender tells at the end, as the push side of the protocol has it."""

    @property
    def id(self) -> str:
        """A name that cannot be guessed; it stands in the upload's URL."""
        ...

    @property
    def offset(self) -> int:
        """Bytes received so far."""
        ...

    def write(self, data: Buffer) -> None: ...

    def commit(self, digest: Digest) -> Descriptor:
        """Check the digest over the whole and make the blob visible, durably. Raises `ContentMismatch`."""
        ...

    def abort(self) -> None:
        """Throw away what was received."""
        ...

    def close(self) -> None:
        """Let go of it; it can be taken up again by its id."""
        ...


class Source(Protocol):
    """The content of one repository, to read."""

    def resolve(self, reference: str) -> Descriptor:
        """What a tag or digest points to; raises `NotFound`."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw manifest or index, its digest checked; raises `NotFound`, `ContentMismatch`."""
        ...

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        """The bytes from `offset` on. Not checked here: the sink checks the whole. Raises `NotFound`."""
        ...

    def reject(self, descriptor: Descriptor) -> bool:
        """What was given for this content is not it: give it from elsewhere the next time, and whole.

        False if there is nowhere else.
        """
        ...


class Sink(Protocol):
    """The content of one repository, to write."""

    def manifest(self, descriptor: Descriptor) -> bytes:
        """A raw manifest or index that is there already, its digest checked; raises `NotFound`, `ContentMismatch`."""
        ...

    def has(self, descriptor: Descriptor) -> bool:
        """Whether this repository already has the manifest or blob, whole."""
        ...

    def upload(self, descriptor: Descriptor) -> AbstractContextManager[Upload]:
        """Begin or go on with the upload of a blob. One writer at a time: a second one waits for the first."""
        ...

    def mount(self, descriptor: Descriptor, source: RepositoryName) -> bool:
        """Make a blob of another repository visible here without moving bytes; False if that cannot be done."""
        ...

    def put_manifest(
        self, raw: bytes, media_type: str, *, algorithm: str = "sha256", sparse: bool = False
    ) -> Descriptor:
        """Keep a manifest or index under its digest of that algorithm; everything it needs must be there before.

        `sparse`: items of an index may be missing, because only some platforms of it were chosen.
        Raises `ManifestBlobUnknown`.
        """
        ...

    def tag(
        self,
        reference: str,
        descriptor: Descriptor,
        *,
        platforms: Sequence[Platform] = (),
        expected: Digest | Expected = Expected.ANYTHING,
    ) -> None:
        """Let a tag (or the digest itself, to keep an image by its digest) point to a manifest that is there.

        `expected` makes it conditional: the digest it points to now, or NOTHING; raises `TagMoved`.
        """
        ...


@runtime_checkable
class NamingSink(Sink, Protocol):
    """A sink to which a manifest and its name are one thing to put."""

    def put_named(
        self, raw: bytes, media_type: str, reference: str, *, algorithm: str = "sha256", sparse: bool = False
    ) -> Descriptor:
        """As `put_manifest`, and as `tag` of what that gives."""
        ...


class Repository(Source, Sink, Protocol):
    """One repository of a store: to read, to write, to list and to prune."""

    @property
    def name(self) -> RepositoryName: ...

    def begin(self) -> Session:
        """A new upload session."""
        ...

    def session(self, id: str) -> Session:
        """The upload session of that id, for one holder at a time; raises `NotFound`."""
        ...

    def tags(self, *, last: str = "", limit: int | None = None) -> Sequence[str]:
        """Tags in lexical order after `last`, at most `limit`; raises `NotFound` if there is no such repository."""
        ...

    def untag(self, reference: str) -> None:
        """Remove a tag; the manifest stays. Raises `NotFound`."""
        ...

    def delete(self, descriptor: Descriptor) -> None:
        """Unlink a manifest (with its tags) or a blob from this repository; its bytes go at the next gc.

        Raises `NotFound`.
        """
        ...

    def stat_blob(self, digest: Digest) -> Descriptor:
        """Size and type of a blob of this repository; raises `NotFound`."""
        ...

    def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        """The manifests of this repository whose subject this is; empty if none."""
        ...


class Store(Protocol):
    """Many repositories over one pool of content."""

    def repository(self, name: RepositoryName) -> Repository:
        """The repository of that name; it comes to be with the first thing written."""
        ...

    def repositories(self, *, last: str = "", limit: int | None = None) -> Sequence[RepositoryName]:
        """The repositories in order of their printed names after `last`, at most `limit`."""
        ...

    def names(self) -> Iterator[Name]:
        """Every name (tags, and images kept by digest), in order."""
        ...

    def lease(self) -> AbstractContextManager[None]:
        """While held, gc removes nothing that was written since."""
        ...


def parse_reference(text: str) -> Digest | str:
    """The digest or tag that `text` is; raises `InvalidName`, `InvalidDigest`."""
    if ":" in text:
        return Digest.parse(text)
    if not _TAG.fullmatch(text):
        raise InvalidName("tag", text, f"1 to {TAG_LIMIT} of A-Z a-z 0-9 _ . - and neither . nor - first")
    return text


def require_expected(name: str, expected: Digest | Expected, current: Digest | None) -> None:
    """Raises `TagMoved` unless the name points where a conditional tag said."""
    if expected is Expected.ANYTHING or expected == current or (expected is Expected.NOTHING and current is None):
        return
    found = str(current) if current else "nothing"
    raise TagMoved(
        f"{name} points to {found}, not to {expected.value if isinstance(expected, Expected) else expected}",
        hint="somebody else moved it; look at what it is now and decide again",
    )


def require_content(manifest: Manifest, has: Callable[[Descriptor], bool], *, sparse: bool) -> None:
    """Raises `ManifestBlobUnknown` unless everything that a manifest needs is there."""
    missing = [item for item in _needs(manifest, sparse) if not has(item)]
    if missing:
        digests = ", ".join(str(item.digest) for item in missing[:3]) + (" …" if missing[3:] else "")
        raise ManifestBlobUnknown(
            f"the manifest names content that is not in this repository: {digests}",
            hint="upload its configuration and layers, or an index's images, before it",
        )


def _needs(manifest: Manifest, sparse: bool) -> Iterable[Descriptor]:
    if isinstance(manifest, Index):
        return () if sparse else manifest.manifests
    return (item for item in (manifest.config, *manifest.layers) if not item.urls)


def as_referrer(manifest: Manifest, descriptor: Descriptor) -> Descriptor:
    """How a manifest is listed among the referrers of its subject: with its artifact type and annotations.

    As the distribution specification 1.1, "Listing Referrers".
    """
    return Descriptor(
        descriptor.media_type,
        descriptor.digest,
        descriptor.size_bytes,
        annotations=manifest.annotations,
        artifact_type=manifest.artifact_type,
    )


@dataclass(frozen=True, slots=True)
class Referrer:
    """Something that refers to `subject`: by its manifest, or, where there is a `tag`, by being named after it."""

    descriptor: Descriptor
    subject: Digest
    tag: str = ""


def tag_of(subject: Digest) -> str:
    """The tag that stands for what refers to a digest (OCI distribution specification 1.1, "Referrers Tag Schema")."""
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def follow_referrers(find: Callable[[Digest], Iterable[Referrer]], subjects: Iterable[Digest]) -> Iterator[Referrer]:
    """What refers to any of `subjects`, and what refers to that, each once; `find` gives what refers to one digest."""
    waiting, seen = list(dict.fromkeys(subjects)), set[tuple[Digest, str]]()
    asked = set(waiting)
    while waiting:
        for referrer in find(waiting.pop(0)):
            key = referrer.descriptor.digest, referrer.tag
            if key in seen:
                continue
            seen.add(key)
            yield referrer
            if referrer.descriptor.digest not in asked:
                asked.add(referrer.descriptor.digest)
                waiting.append(referrer.descriptor.digest)


def cut_short(descriptor: Descriptor, got_bytes: int) -> ContentMismatch:
    """The error for content of which fewer bytes came than there should be."""
    message = f"{descriptor.digest}: expected {descriptor.size_bytes} bytes but got {got_bytes}"
    return ContentMismatch(message, descriptor=descriptor, got_bytes=got_bytes)


def checked(raw: bytes, descriptor: Descriptor) -> bytes:
    """`raw`, if it is what the descriptor says; raises `ContentMismatch`."""
    if len(raw) != descriptor.size_bytes:
        raise cut_short(descriptor, len(raw))
    found = Digest.of(raw, descriptor.digest.algorithm)
    if found != descriptor.digest:
        message = f"the bytes have the digest {found}, not {descriptor.digest}"
        raise ContentMismatch(message, descriptor=descriptor, found=found)
    return raw


def page(items: Iterable[str], last: str, limit: int | None) -> list[str]:
    """The items in lexical order after `last`, at most `limit`."""
    return sorted(item for item in items if item > last)[:limit]
