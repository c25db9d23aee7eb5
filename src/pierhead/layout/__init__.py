"""A store on disk that is an OCI image layout: skopeo, crane, podman and containerd's import read it as it stands.

Beside the layout's own `oci-layout`, `index.json` and `blobs/` (image-layout.md) stands what is ours; other programs
ignore it::

    ingest/<algorithm>/<hex>       blobs on their way, one path for each digest
    uploads/<hex>                  pushes whose digest is not known yet
    repositories/<registry or _>/<path>/_blobs/<algorithm>/<hex>       empty: the blob is visible in this repository
                                        _manifests/<algorithm>/<hex>   media type and size
                                        _tags/<tag>  _digests/<algorithm>-<hex>   names: descriptor, chosen platforms
                                        _referrers/<algorithm>-<hex>/<algorithm>-<hex>   subject, referrer
    leases/  tmp/  lock  index.lock

The names are the truth, `index.json` is derived from them (`published`). A registry's name and a repository's path
are folders as they are: their grammar allows no `..`, no empty part and no leading `_` or `.`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pierhead.body import Blob
from pierhead.errors import PierheadError
from pierhead.layout.disk import Root, listing
from pierhead.layout.ingest import Pool, file_blob
from pierhead.oci import MANIFEST_LIMIT_BYTES, Descriptor, Platform, parse_manifest
from pierhead.reference import Digest
from pierhead.store import (
    OCTETS,
    Expected,
    InvalidName,
    Name,
    NotFound,
    RepositoryName,
    Session,
    StoreDamaged,
    StoreUnwritable,
    Upload,
    as_referrer,
    page,
    parse_reference,
    require_content,
    require_expected,
)

if TYPE_CHECKING:
    from pierhead.layout.collect import Report
    from pierhead.layout.verify import Finding

OWN_NAMESPACE: Final = "_"  # the folder of what was pushed to this store itself; no registry is named so
LAYOUT_VERSION: Final = b'{"imageLayoutVersion":"1.0.0"}'
LINK_LIMIT_BYTES: Final = 4 * MANIFEST_LIMIT_BYTES  # a referrer's link repeats the annotations of its manifest, escaped
GRACE_SECONDS: Final = 3600.0


class LayoutStore:
    """The store in the folder `root` (`store.Store`); several processes may use one at once.

    The folder comes to be with the first thing written; reading an absent one finds an empty store.
    """

    def __init__(self, root: Path) -> None:
        self.root = Root(Path(root).absolute())
        self.pool = Pool(self.root)

    @property
    def path(self) -> Path:
        return self.root.path

    def repository(self, name: RepositoryName) -> LayoutRepository:
        """The repository of that name; raises `InvalidName`."""
        name.check()
        return LayoutRepository(self, name)

    def repositories(self, *, last: str = "", limit: int | None = None) -> Sequence[RepositoryName]:
        found = {str(name): name for name in self.walk()}
        return [found[text] for text in page(found, last, limit)]

    def walk(self) -> Iterator[RepositoryName]:
        """Every repository, in no particular order."""
        for registry in listing(self.path / "repositories"):
            namespace = "" if registry.name == OWN_NAMESPACE else registry.name
            yield from _repositories_under(registry, "", namespace)

    def names(self) -> Iterator[Name]:
        """Every name (tags, and images kept by digest), in order. Raises `StoreDamaged`."""
        for name in sorted(self.walk(), key=lambda name: (str(name), name)):
            yield from self.repository(name).names()

    def names_or_damage(self) -> Iterator[Name | StoreDamaged]:
        """As `names`, with the error in the place of a name that cannot be read; what was just removed is left out."""
        for name in sorted(self.walk(), key=lambda name: (str(name), name)):
            repository = self.repository(name)
            for path in repository.name_files():
                try:
                    yield repository.read_name(path)
                except FileNotFoundError:
                    continue
                except StoreDamaged as error:
                    yield error

    def lease(self) -> AbstractContextManager[None]:
        return self.root.lease()

    def interrupt(self) -> None:
        """End every wait for another process, in all threads, with `StoreBusy`."""
        self.root.stop.set()

    def publish_index(self) -> bool:
        """Derive `index.json` from the names, for other programs; whether it changed. Call it when a command ends."""
        from pierhead.layout.published import publish

        return publish(self)

    def gc(self, *, dry_run: bool = False, untagged: bool = False, grace_seconds: float = GRACE_SECONDS) -> Report:
        """Remove what no name reaches; see `collect.gc`."""
        from pierhead.layout.collect import gc

        return gc(self, dry_run=dry_run, untagged=untagged, grace_seconds=grace_seconds)

    def verify(self) -> Iterator[Finding]:
        """Hash everything again and follow every name; see `verify.verify`."""
        from pierhead.layout.verify import verify

        return verify(self)

    def prepare(self) -> None:
        """Make this folder a layout; call it inside `Root.changing`."""
        marker = self.path / "oci-layout"
        if not marker.exists():
            self.root.replace(marker, LAYOUT_VERSION)


class LayoutRepository:
    """One repository of a layout (`store.Repository`)."""

    def __init__(self, store: LayoutStore, name: RepositoryName) -> None:
        self._store = store
        self._root = store.root
        self._pool = store.pool
        self.name = name
        self.path = store.path / "repositories" / (name.namespace or OWN_NAMESPACE) / name.path

    # Reading

    def resolve(self, reference: str) -> Descriptor:
        parsed = parse_reference(reference)
        if isinstance(parsed, str):
            return self.named(parsed).descriptor
        try:
            link = _read_json(self.manifest_link(parsed))
            return Descriptor(link["mediaType"], parsed, link["size"])
        except FileNotFoundError:
            raise self._absent(f"manifest {parsed}") from None

    def named(self, reference: str) -> Name:
        """The name itself, with the platforms that were chosen for it; raises `NotFound`."""
        try:
            return self.read_name(self._name_path(reference))
        except FileNotFoundError:
            raise self._absent(reference) from None

    def manifest(self, descriptor: Descriptor) -> bytes:
        if not self.manifest_link(descriptor.digest).exists():
            raise self._absent(f"manifest {descriptor.digest}")
        return self._pool.read_manifest(descriptor.digest)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        try:
            if self._is_linked(descriptor):
                return file_blob(self._pool.path(descriptor.digest), offset)
        except FileNotFoundError:
            pass
        raise self._absent(f"blob {descriptor.digest}")

    def reject(self, descriptor: Descriptor) -> bool:
        return False

    def stat_blob(self, digest: Digest) -> Descriptor:
        size = self._pool.size(digest)
        if size is None or not self._rely(Descriptor(OCTETS, digest, size)):
            raise self._absent(f"blob {digest}")
        return Descriptor(OCTETS, digest, size)

    def tags(self, *, last: str = "", limit: int | None = None) -> Sequence[str]:
        if not _is_repository(self.path):
            raise NotFound(f"there is no repository {self.name} here")
        return page((path.name for path in listing(self.path / "_tags")), last, limit)

    def names(self) -> Iterator[Name]:
        """The names of this repository in order: tags, then images kept by digest."""
        for path in self.name_files():
            yield self.read_name(path)

    def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        links = listing(self.path / "_referrers" / _flat(subject))
        found = (Descriptor.from_json(_read_json(link)) for link in links)
        here = (item for item in found if self._is_manifest_linked(item))
        return [item for item in here if artifact_type in ("", item.artifact_type)]

    # Writing

    def has(self, descriptor: Descriptor) -> bool:
        return self._pool.holds(descriptor) and self._rely(descriptor)

    def upload(self, descriptor: Descriptor) -> AbstractContextManager[Upload]:
        return self._pool.upload(descriptor, self._link_blob)

    def begin(self) -> Session:
        return self._pool.begin(str(self.path), self._link_blob)

    def session(self, id: str) -> Session:
        return self._pool.session(id, str(self.path), self._link_blob)

    def mount(self, descriptor: Descriptor, source: RepositoryName) -> bool:
        if not self._store.repository(source).has(descriptor):
            return False
        with self._root.changing():
            if not self._pool.holds(descriptor):
                return False
            self._link_blob(descriptor.digest)
        return True

    def put_manifest(
        self, raw: bytes, media_type: str, *, algorithm: str = "sha256", sparse: bool = False
    ) -> Descriptor:
        parsed = parse_manifest(raw, media_type)
        descriptor = Descriptor(parsed.media_type, Digest.of(raw, algorithm), len(raw))
        with self._root.changing():
            require_content(parsed, self.holds, sparse=sparse)
            self._pool.keep(raw, descriptor.digest)
            if parsed.subject:
                listed = as_referrer(parsed, descriptor).to_json()
                self._root.replace(self.referrer_link(parsed.subject.digest, descriptor.digest), _json(listed))
            self._root.settle()  # the content, before what says that it is here
            link = {"mediaType": descriptor.media_type, "size": descriptor.size_bytes}
            self._root.replace(self.manifest_link(descriptor.digest), _json(link))
            self._root.settle()
        return descriptor

    def tag(
        self,
        reference: str,
        descriptor: Descriptor,
        *,
        platforms: Sequence[Platform] = (),
        expected: Digest | Expected = Expected.ANYTHING,
    ) -> None:
        name = Name(self.name, reference, descriptor, tuple(platforms))
        with self._naming():
            current = self._current(reference)
            require_expected(str(name), expected, current.descriptor.digest if current else None)
            if not (self._is_manifest_linked(descriptor) and self._pool.holds(descriptor)):
                raise self._absent(f"manifest {descriptor.digest}")
            self._store.prepare()
            self._root.settle()  # the content, before its name
            if current == name:
                return
            value = {"descriptor": descriptor.to_json(), "platforms": [str(platform) for platform in platforms]}
            self._root.replace(self._name_path(reference), _json(value))
            self._root.settle()

    def untag(self, reference: str) -> None:
        with self._naming():
            if not self._root.remove(self._name_path(reference)):
                raise self._absent(reference)
            self._root.settle()

    def delete(self, descriptor: Descriptor) -> None:
        with self._naming():
            if not self._is_linked(descriptor):
                raise self._absent(str(descriptor.digest))
            if descriptor.is_manifest:
                for name in [name for name in self.names() if name.descriptor.digest == descriptor.digest]:
                    self._root.remove(self._name_path(name.reference))
            self.unlink(descriptor.digest)
            self._root.settle()

    def forget(self, reference: str) -> None:
        """Untag, and let go of what no other name of this repository needs; raises `NotFound`. See `collect.forget`."""
        from pierhead.layout.collect import forget

        forget(self._store, self, reference)

    def remove_name(self, reference: str) -> Name:
        """Remove a name while nothing else changes (`Root.collecting`); raises `NotFound`."""
        name = self.named(reference)
        self._root.remove(self._name_path(reference))
        return name

    def unlink(self, digest: Digest) -> None:
        """Make content invisible in this repository, as blob, as manifest and as referrer."""
        self._root.remove(self.manifest_link(digest))
        self._root.remove(self.blob_link(digest))
        for subject in listing(self.path / "_referrers"):
            self._root.remove(subject / _flat(digest))

    # Files

    def holds(self, descriptor: Descriptor) -> bool:
        """As `has`, but as a look only: nothing is spared from gc for it."""
        return self._is_linked(descriptor) and self._pool.holds(descriptor)

    def blob_link(self, digest: Digest) -> Path:
        return self.path / "_blobs" / digest.algorithm / digest.hex

    def manifest_link(self, digest: Digest) -> Path:
        return self.path / "_manifests" / digest.algorithm / digest.hex

    def referrer_link(self, subject: Digest, referrer: Digest) -> Path:
        return self.path / "_referrers" / _flat(subject) / _flat(referrer)

    def name_files(self) -> list[Path]:
        """The files behind `names`, in the same order."""
        return [*listing(self.path / "_tags"), *listing(self.path / "_digests")]

    def read_name(self, path: Path) -> Name:
        """The name in a file; raises `StoreDamaged`, `FileNotFoundError`."""
        reference = path.name if path.parent.name == "_tags" else path.name.replace("-", ":", 1)
        value = _read_json(path)
        try:
            platforms = tuple(Platform.parse(text) for text in value["platforms"])
            parse_reference(reference)
            return Name(self.name, reference, Descriptor.from_json(value["descriptor"]), platforms)
        except (KeyError, TypeError, AttributeError, PierheadError) as error:
            raise StoreDamaged(path, f"it is no name file ({error})") from error

    def links(self) -> Iterator[tuple[Digest, Path]]:
        """Everything that is visible here, with its link; what it is stands in the link's folder."""
        for kind in ("_manifests", "_blobs"):
            for algorithm in listing(self.path / kind):
                for path in listing(algorithm):
                    with suppress(PierheadError):
                        yield Digest(algorithm.name, path.name), path

    def _name_path(self, reference: str) -> Path:
        parsed = parse_reference(reference)
        return self.path / "_tags" / parsed if isinstance(parsed, str) else self.path / "_digests" / _flat(parsed)

    def _link_blob(self, digest: Digest) -> None:
        self._root.touch(self.blob_link(digest))

    def _rely(self, descriptor: Descriptor) -> bool:
        """Whether content is visible here; if so gc spares it for a while, for the caller counts on it."""
        links = [link for link in self._links_of(descriptor) if link.exists()]
        if not links:
            return False
        with suppress(StoreUnwritable), self._root.changing():  # on a disk that is read-only nothing is collected
            if not self._pool.holds(descriptor):
                return False
            self._root.unsettle(self._pool.path(descriptor.digest).parent)
            return self._renew(links)
        return True

    def _renew(self, links: list[Path]) -> bool:
        renewed = 0
        for link in links:
            with suppress(FileNotFoundError):
                os.utime(link)
                self._root.unsettle(link.parent)
                renewed += 1
        return renewed > 0

    def _links_of(self, descriptor: Descriptor) -> tuple[Path, ...]:
        return self.manifest_link(descriptor.digest), self.blob_link(descriptor.digest)

    def _is_linked(self, descriptor: Descriptor) -> bool:
        return any(link.exists() for link in self._links_of(descriptor))

    def _is_manifest_linked(self, descriptor: Descriptor) -> bool:
        return self.manifest_link(descriptor.digest).exists()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        with self._root.changing(), self._root.locked(self.path / "_lock"):
            yield

    def _current(self, reference: str) -> Name | None:
        try:
            return self.named(reference)
        except NotFound:
            return None

    def _absent(self, what: str) -> NotFound:
        return NotFound(f"{what} is not in {self.name}")


def _repositories_under(folder: Path, path: str, namespace: str) -> Iterator[RepositoryName]:
    if path and _is_repository(folder):
        name = RepositoryName(path, namespace)
        with suppress(InvalidName):  # somebody else's folder; `verify` reports it
            name.check()
            yield name
    with suppress(NotADirectoryError, FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("_") and entry.is_dir(follow_symlinks=False):
                yield from _repositories_under(
                    folder / entry.name, f"{path}/{entry.name}" if path else entry.name, namespace
                )


def _is_repository(folder: Path) -> bool:
    return (folder / "_manifests").is_dir() or (folder / "_blobs").is_dir()


def _flat(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _read_json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        raw = file.read(LINK_LIMIT_BYTES + 1)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(path, "it is not JSON") from error
    if not isinstance(value, dict) or len(raw) > LINK_LIMIT_BYTES:
        raise StoreDamaged(path, "it is not a small JSON object")
    return value
