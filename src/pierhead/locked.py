"""A lock file: for every image of a list the digest that its name had, what that holds, and how large it is.

It is JSON, sorted, without a time or a place in it, so that the same images give the same bytes and a difference can be
read. `Lock.guard` makes a source that refuses to resolve a name to anything else than what was locked, before any blob
moves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pierhead.body import Blob
from pierhead.errors import ExitCode, PierheadError, Span, UsageError
from pierhead.files import write_file
from pierhead.oci import Descriptor
from pierhead.reference import Digest, InvalidDigest, InvalidReference, Reference
from pierhead.store import Source
from pierhead.tree import Read, Tree, parts

VERSION: Final = 1
LOCK_LIMIT_BYTES: Final = 64 * 1024 * 1024  # a thousand images of ten platforms are two
IMAGES_LIMIT: Final = 200_000  # as many as a list may have lines
PLATFORMS_LIMIT: Final = 1_000
SHOWN_LIMIT_CHARS: Final = 200


class UnusableLock(UsageError):
    """A file is no lock file that can be used."""


class NotLocked(PierheadError):
    """An image is asked for that the lock file does not have."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, reference: Reference, file: str) -> None:
        super().__init__(
            f"{reference} is not in the lock file {file}",
            hint=f"lock it as well: `pierhead lock LIST -o {file}` with a list that names it",
        )
        self.reference = reference


class TagMovedFromLock(PierheadError):
    """A name points to something else than when it was locked."""

    def __init__(self, reference: Reference, *, locked: Digest, found: Digest, file: str) -> None:
        super().__init__(
            f"{reference} has moved: it is {found} now, and {locked} in the lock file {file}",
            hint=f"if that is meant, run `pierhead lock` again; if not, ask for {reference.name}@{locked}",
        )
        self.reference = reference
        self.locked = locked
        self.found = found


@dataclass(frozen=True, slots=True, order=True)
class LockedPlatform:
    """One platform of an image: its own manifest, and the bytes of everything below that."""

    platform: str
    digest: str
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"platform": self.platform, "digest": self.digest, "size_bytes": self.size_bytes}


@dataclass(frozen=True, slots=True)
class LockedImage:
    """What a name was when it was locked. `size_bytes` is all of it, what platforms share counted once."""

    reference: Reference
    digest: Digest
    media_type: str
    platforms: tuple[LockedPlatform, ...]
    size_bytes: int

    @classmethod
    def of(cls, reference: Reference, tree: Tree, config: Read) -> LockedImage:
        """What to lock of an image, out of its whole tree; `config` reads configurations. Raises what that raises."""
        top = tree.manifests[tree.top.digest][0]
        platforms = sorted(
            LockedPlatform(str(part.platform), str(part.digest), part.size_bytes)
            for part in parts(tree, config)
            if part.platform
        )
        return cls(reference, top.digest, top.media_type, tuple(platforms), tree.size_bytes)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": str(self.reference),
            "digest": str(self.digest),
            "media_type": self.media_type,
            "platforms": [item.to_json() for item in self.platforms],
            "size_bytes": self.size_bytes,
        }


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Lock:
    """The images of a lock file by their full names. `file` is how it is called in messages."""

    images: Mapping[str, LockedImage]
    file: str = "images.lock"
    _digests: Mapping[tuple[str, Digest], LockedImage] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        digests = {(image.reference.name, image.digest): image for image in self.images.values()}
        object.__setattr__(self, "_digests", digests)

    @classmethod
    def of(cls, images: Iterable[LockedImage], file: str = "images.lock") -> Lock:
        """A lock of these images, in the order of their names."""
        named = {str(image.reference): image for image in images}
        return cls(dict(sorted(named.items())), file)

    @classmethod
    def read(cls, path: Path) -> Lock:
        """The lock file at `path`; raises `UnusableLock`, which says where."""
        try:
            with path.open("rb") as opened:
                data = opened.read(LOCK_LIMIT_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UnusableLock(f"the lock file {path} cannot be read: {reason}") from None
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, file: str) -> Lock:
        """The lock that `data` is; raises `UnusableLock`."""
        if len(data) > LOCK_LIMIT_BYTES:
            raise UnusableLock(f"the lock file {file} is larger than {LOCK_LIMIT_BYTES} bytes")
        document = _document(data, file)
        images: dict[str, LockedImage] = {}
        for place, item in _items(document, "images", IMAGES_LIMIT, file):
            image = _image(item, place)
            name = str(image.reference)
            if images.setdefault(name, image).digest != image.digest:
                raise UnusableLock(
                    f"{file}: {name} is locked twice, to different digests", hint="write the file anew: `pierhead lock`"
                )
        return cls(images, file)

    def text(self) -> str:
        """The file's text: the same images give the same bytes."""
        images = [image.to_json() for _, image in sorted(self.images.items())]
        return json.dumps({"version": VERSION, "images": images}, indent=2, ensure_ascii=True) + "\n"

    def write(self, path: Path) -> None:
        """Let this be the file at `path`, wholly or not at all; raises `OSError`."""
        write_file(path, self.text().encode())

    # ── asking it ────────────────────────────────────────────────────────────────────────────────────────────────

    def expected(self, reference: Reference) -> LockedImage | None:
        """What the name was when it was locked. A digest is found under whatever tag of its repository it was."""
        found = self.images.get(str(reference))
        if found is None and reference.digest is not None:
            return self._digests.get((reference.name, reference.digest))
        return found

    def require(self, reference: Reference, descriptor: Descriptor) -> None:
        """Raises `NotLocked` and `TagMovedFromLock` unless this is what was locked under the name."""
        locked = self.expected(reference)
        if locked is None:
            raise NotLocked(reference, self.file)
        if locked.digest != descriptor.digest:
            raise TagMovedFromLock(reference, locked=locked.digest, found=descriptor.digest, file=self.file)

    def guard(self, reference: Reference, source: Source) -> Source:
        """`source`, which gives nothing but what was locked; raises `NotLocked` before anything is asked."""
        if self.expected(reference) is None:
            raise NotLocked(reference, self.file)
        return Guarded(source, reference, self)

    def changes(self, newer: Lock) -> list[Change]:
        """What is otherwise in `newer`, in the order of the names."""
        names = sorted({*self.images, *newer.images})
        found = (Change(name, _digest(self.images.get(name)), _digest(newer.images.get(name))) for name in names)
        return [change for change in found if change.before != change.after]


@dataclass(frozen=True, slots=True)
class Change:
    """An image that another lock has otherwise; None where it is not."""

    name: str
    before: Digest | None
    after: Digest | None


def _digest(image: LockedImage | None) -> Digest | None:
    return image.digest if image else None


@dataclass(frozen=True, slots=True)
class Guarded:
    """A source whose image must be the locked one (`store.Source`)."""

    source: Source
    reference: Reference
    lock: Lock

    def resolve(self, reference: str) -> Descriptor:
        """As of the source; raises `TagMovedFromLock` too."""
        descriptor = self.source.resolve(reference)
        self.lock.require(self.reference, descriptor)
        return descriptor

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.source.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return self.source.blob(descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return self.source.reject(descriptor)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _document(data: bytes, file: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except json.JSONDecodeError as error:
        span = Span(file, error.lineno, error.colno)
        raise UnusableLock(f"this is not JSON: {error.msg}", hint=_ANEW, span=span) from None
    except (ValueError, RecursionError) as error:  # no UTF-8, a number without end, or nested without end
        raise UnusableLock(f"the lock file {file} is not JSON: {type(error).__name__}", hint=_ANEW) from None
    if not isinstance(value, dict) or "version" not in value or "images" not in value:
        raise UnusableLock(f"{file} is no lock file: it has no `version` and `images`", hint=_ANEW)
    if value["version"] != VERSION or isinstance(value["version"], bool):
        raise UnusableLock(
            f"{file} has the version {_shown(value['version'])}; this program knows {VERSION}",
            hint="write it anew with `pierhead lock`, or use the pierhead that wrote it",
        )
    return value


_ANEW: Final = "`pierhead lock LIST -o FILE` writes one"


def _items(value: Mapping[str, Any], key: str, limit: int, place: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The objects of a list, each with how to call it in a message."""
    items = value.get(key)
    if not isinstance(items, list) or len(items) > limit:
        raise UnusableLock(f"{place}: `{key}` is not a list of at most {limit} items")
    for number, item in enumerate(items):
        called = f"{place}: {key}[{number}]" if ": " not in place else f"{place}.{key}[{number}]"
        if not isinstance(item, dict):
            raise UnusableLock(f"{called} is not an object")
        yield called, item


def _image(item: Mapping[str, Any], place: str) -> LockedImage:
    name = _text(item, "name", place)
    try:
        reference = Reference.parse(name)
    except InvalidReference as error:
        raise UnusableLock(f"{place}: {error.message}", hint=error.hint) from None
    if str(reference) != name:
        raise UnusableLock(f"{place}: {_shown(name)} is not a full name", hint=f"write {reference}")
    digest = Digest.parse(_digest_text(item, place))
    if reference.digest not in (None, digest):
        raise UnusableLock(f"{place}: {name} is locked to another digest, {digest}")
    platforms = tuple(
        LockedPlatform(_text(each, "platform", below), _digest_text(each, below), _size(each, below))
        for below, each in _items(item, "platforms", PLATFORMS_LIMIT, place)
    )
    return LockedImage(reference, digest, _text(item, "media_type", place), platforms, _size(item, place))


def _text(item: Mapping[str, Any], key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value.isprintable():
        raise UnusableLock(f"{place}: `{key}` is not a text but {_shown(value)}")
    return value


def _digest_text(item: Mapping[str, Any], place: str) -> str:
    text = _text(item, "digest", place)
    try:
        return str(Digest.parse(text))
    except InvalidDigest as error:
        raise UnusableLock(f"{place}: {error.message}", hint=error.hint) from None


def _size(item: Mapping[str, Any], place: str) -> int:
    value = item.get("size_bytes")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UnusableLock(f"{place}: `size_bytes` is not a number of bytes but {_shown(value)}")
    return value


def _shown(value: object) -> str:
    """For a message: one short line, without what a terminal would obey."""
    text = ascii(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    return text if len(text) <= SHOWN_LIMIT_CHARS else f"{text[:SHOWN_LIMIT_CHARS]}…"
