"""The one mover: whole images or nothing visible, each byte once, whatever goes wrong on the way."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images import Image, make_image, make_index
from loopback import Loopback
from pierhead.ask import CONTAINERD, OURS, Profile
from pierhead.body import Blob
from pierhead.errors import ExitCode, PierheadError
from pierhead.layout import LayoutStore
from pierhead.memory import MemoryStore
from pierhead.oci import (
    INDEX_DEPTH_LIMIT,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    InvalidManifest,
    NoMatchingPlatform,
    Platform,
)
from pierhead.reference import Digest, Reference
from pierhead.server.registry import Registry
from pierhead.store import ContentMismatch, Repository, RepositoryName, Store
from pierhead.transfer import Copied, Interrupted, Transfer
from pierhead.transport import Options
from pierhead.wire import Request, Response
from stocked import REFERENCE, Tap, cut, once, registry_of, remote_of, replaced

NAME = RepositoryName("team/app", "hub.example")
AMD64, ARM64, ARM7 = (Platform.parse(f"linux/{name}") for name in ("amd64", "arm64", "arm/v7"))
IMAGE = make_image(layers=[1500, 700], compression="none")
INDEX = make_image(layers=[900], platforms=["linux/amd64", "linux/arm64"], compression="none")
SMALL = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


@contextmanager
def disk() -> Iterator[LayoutStore]:
    with TemporaryDirectory() as folder:
        yield LayoutStore(Path(folder) / "root")


@contextmanager
def memory() -> Iterator[MemoryStore]:
    yield MemoryStore()


def copy(
    network: Loopback,
    store: Store,
    *platforms: Platform,
    hosts: tuple[str, ...] = ("a.example",),
    reference: Reference = REFERENCE,
    profile: Profile = OURS,
    jobs: int = 2,
) -> Copied:
    remote = remote_of(network, *hosts, profile=profile, reference=reference)
    sink = store.repository(replace(NAME, path=reference.repository))
    with Transfer(jobs) as transfer, store.lease():
        return transfer.copy(remote, sink, reference.object, platforms)


def one(tap: Registry | Callable[[Request], Response]) -> Loopback:
    return Loopback({"a.example": tap})


def content_of(store: Store, image: Image, *, without: tuple[str, ...] = ()) -> bool:
    """Whether everything of an image is visible, byte for byte."""
    repository = store.repository(NAME)
    return all(
        _bytes_of(repository, digest, data) == data for digest, data in image.blobs.items() if digest not in without
    )


def _bytes_of(repository: Repository, digest: str, data: bytes) -> bytes:
    taken = bytearray()
    repository.blob(Descriptor("", Digest.parse(digest), len(data))).copy_to(taken.extend)
    return bytes(taken)


def nothing_visible(store: Store, image: Image) -> bool:
    return not list(store.names()) and not any(
        store.repository(NAME).has(Descriptor("", Digest.parse(digest), len(data)))
        for digest, data in image.blobs.items()
        if digest in image.manifests
    )


# ── whole images ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("media", ["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_an_image_is_there_byte_for_byte(
    tmp_path: Path, media: Literal["oci", "docker"], compression: Literal["gzip", "none"]
) -> None:
    image = make_image(layers=[1500, 10], media=media, compression=compression)
    store = LayoutStore(tmp_path)
    copied = copy(one(registry_of(image)), store)
    assert content_of(store, image)
    (name,) = store.names()
    assert (str(name), str(name.descriptor.digest), name.platforms) == ("hub.example/team/app:1", image.digest, ())
    assert name.descriptor.media_type == image.descriptor["mediaType"]
    size = sum(map(len, image.blobs.values()))
    assert (copied.size_bytes, copied.fetched_bytes, copied.reused_bytes) == (size, size, 0)


def test_a_zstd_layer_is_kept_as_it_is() -> None:
    image = make_image(layers=[500], compression="zstd")
    store = MemoryStore()
    copy(one(registry_of(image)), store)
    assert content_of(store, image)


def test_one_platform_of_an_index() -> None:
    network = one(registry_of(INDEX))
    store = MemoryStore()
    copied = copy(network, store, ARM64)
    (name,) = store.names()
    assert (name.platforms, copied.platforms, str(name.descriptor.digest)) == ((ARM64,), (ARM64,), INDEX.digest)
    chosen = next(item for item in INDEX.manifest["manifests"] if item["platform"]["architecture"] == "arm64")
    other = next(item for item in INDEX.manifest["manifests"] if item["platform"]["architecture"] == "amd64")
    assert not any(other["digest"] in line for line in network.lines)
    assert any(chosen["digest"] in line for line in network.lines)


def test_all_platforms_share_their_layers() -> None:
    network = one(registry_of(INDEX))
    store = MemoryStore()
    copied = copy(network, store)
    assert content_of(store, INDEX)
    assert [str(platform) for platform in copied.platforms] == ["linux/amd64", "linux/arm64"]
    assert next(store.names()).platforms == ()
    assert len(set(network.lines)) == len(network.lines)


def test_a_platform_more_comes_beside_the_first() -> None:
    store, network = MemoryStore(), one(registry_of(INDEX))
    copy(network, store, ARM64)
    network.clear()
    copied = copy(network, store, ARM64, AMD64)
    assert content_of(store, INDEX)
    assert copied.reused_bytes > 900
    assert next(store.names()).platforms == ()  # nothing of it is absent


def test_no_matching_platform_names_what_there_is() -> None:
    store = MemoryStore()
    with pytest.raises(NoMatchingPlatform) as caught:
        copy(one(registry_of(INDEX)), store, ARM7, Platform.parse("windows/amd64"))
    assert "linux/amd64, linux/arm64" in caught.value.hint
    assert caught.value.exit_code is ExitCode.NOT_FOUND
    assert nothing_visible(store, INDEX)


def test_a_nested_index() -> None:
    nested = make_index(make_index(INDEX), make_image(layers=[10], compression="none"))
    store = MemoryStore()
    copy(one(registry_of(nested)), store)
    assert content_of(store, nested)


def test_an_image_that_stands_in_two_indexes_is_put_before_both() -> None:
    """Listed by the outer index first, so it is read before the inner one, and yet must be there before it."""
    inner = make_index(IMAGE)
    outer = make_index(IMAGE, inner)
    for make in (memory, disk):
        with make() as store:
            copy(one(registry_of(outer)), store)
            assert content_of(store, outer)


def test_an_index_nested_too_deep() -> None:
    image = IMAGE
    for _ in range(INDEX_DEPTH_LIMIT + 1):
        image = make_index(image)
    store = MemoryStore()
    with pytest.raises(InvalidManifest, match="nested more than"):
        copy(one(registry_of(image)), store)
    assert nothing_visible(store, image)


def test_manifests_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.tree.MANIFESTS_LIMIT_BYTES", 1000)
    with pytest.raises(InvalidManifest, match="manifests of more than 1000 bytes"):
        copy(one(registry_of(INDEX)), MemoryStore())


def test_an_image_by_digest() -> None:
    reference = Reference.parse(f"hub.example/team/app@{IMAGE.digest}")
    store = MemoryStore()
    copy(one(registry_of(IMAGE)), store, reference=reference)
    assert [name.reference for name in store.names()] == [IMAGE.digest]


def sha512_image() -> tuple[dict[str, bytes], bytes, str]:
    """Blobs, a manifest and its digest, everything by sha512."""

    def digest(data: bytes) -> str:
        return f"sha512:{hashlib.sha512(data).hexdigest()}"

    config, layer = b"{}", b"layer " * 50
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": "application/octet-stream", "digest": digest(layer), "size": len(layer)}],
    }
    raw = json.dumps(document).encode()
    return {digest(config): config, digest(layer): layer}, raw, digest(raw)


def test_sha512_all_the_way() -> None:
    blobs, raw, top = sha512_image()
    source = MemoryStore()
    repository = source.repository(RepositoryName("team/app"))
    for digest, data in blobs.items():
        with repository.upload(Descriptor("", Digest.parse(digest), len(data))) as upload:
            upload.write(data)
            upload.commit()
    repository.put_manifest(raw, OCI_MANIFEST, algorithm="sha512")
    reference = Reference.parse(f"hub.example/team/app@{top}")
    for make in (memory, disk):
        with make() as store:
            copy(one(Registry(source)), store, reference=reference)
            image = Image({"mediaType": OCI_MANIFEST, "digest": top, "size": len(raw)}, {**blobs, top: raw})
            assert content_of(store, image)


def test_a_layer_of_no_bytes() -> None:
    empty = Digest.of(b"")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2},
        "layers": [{"mediaType": "application/octet-stream", "digest": str(empty), "size": 0}],
    }
    raw = json.dumps(document).encode()
    image = Image(
        {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(raw)), "size": len(raw)},
        {str(Digest.of(b"{}")): b"{}", str(empty): b"", str(Digest.of(raw)): raw},
    )
    network = one(registry_of(image))
    for make in (memory, disk):
        with make() as store:
            copy(network, store)
            assert content_of(store, image)
    assert not any(str(empty) in line for line in network.lines)


# ── from elsewhere ───────────────────────────────────────────────────────────────────────────────────────────────


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[: at % len(data)] + bytes([data[at % len(data)] ^ 1]) + data[at % len(data) + 1 :]


def test_one_bad_mirror_does_not_stop_a_pull() -> None:
    registry = registry_of(IMAGE)
    bad = Tap(registry, {digest: replaced(flipped(50)) for digest in IMAGE.blobs})
    store = MemoryStore()
    copied = copy(Loopback({"a.example": bad, "b.example": Tap(registry)}), store, hosts=("a.example", "b.example"))
    assert content_of(store, IMAGE)
    assert copied.fetched_bytes > copied.size_bytes
    assert copied.reused_bytes == 0


def test_the_rest_of_a_layer_comes_from_the_next_mirror() -> None:
    registry = registry_of(IMAGE)
    layer = IMAGE.manifest["layers"][0]["digest"]
    first, second = Tap(registry, {layer: cut(640)}), Tap(registry)
    store = MemoryStore()
    copied = copy(Loopback({"a.example": first, "b.example": second}), store, hosts=("a.example", "b.example"))
    assert content_of(store, IMAGE)
    assert second.served == {layer: len(IMAGE.blobs[layer]) - 640}
    assert copied.fetched_bytes == copied.size_bytes


def test_a_damaged_manifest_of_the_store_is_fetched_again(tmp_path: Path) -> None:
    store, network = LayoutStore(tmp_path), one(registry_of(INDEX))
    copy(network, store)
    child = Digest.parse(INDEX.manifest["manifests"][0]["digest"])
    path = store.pool.path(child)
    path.chmod(0o600)
    path.write_bytes(b"?" * path.stat().st_size)
    copy(network, store)
    assert content_of(store, INDEX)


# ── law 5 ────────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGES = st.one_of(
    st.integers(0, 5000).map(lambda at: ("flip", at)),
    st.integers(1, 300).map(lambda count: ("cut", count)),
    st.integers(1, 300).map(lambda count: ("extend", count)),
)


def changed(kind: str, number: int) -> Callable[[bytes], bytes]:
    match kind:
        case "flip":
            return flipped(number)
        case "cut":
            return lambda data: data[: -min(number, len(data))]
    return lambda data: data + b"\0" * number


@SMALL
@given(st.sampled_from(sorted(IMAGE.blobs)), CHANGES, st.booleans(), st.booleans())
def test_a_changed_byte_is_refused_and_never_visible(
    digest: str, change: tuple[str, int], on_disk: bool, as_containerd: bool
) -> None:
    tap = Tap(registry_of(IMAGE), {digest: replaced(changed(*change))})
    with disk() if on_disk else memory() as store:
        with pytest.raises(PierheadError):
            copy(one(tap), store, profile=CONTAINERD if as_containerd else OURS)
        assert nothing_visible(store, IMAGE)
        assert not store.repository(NAME).has(Descriptor("", Digest.parse(digest), len(IMAGE.blobs[digest])))


@SMALL
@given(st.sampled_from(sorted(IMAGE.blobs)), CHANGES, st.booleans())
def test_a_changed_byte_comes_right_from_the_next_mirror(digest: str, change: tuple[str, int], on_disk: bool) -> None:
    registry = registry_of(IMAGE)
    network = Loopback({"a.example": Tap(registry, {digest: replaced(changed(*change))}), "b.example": registry})
    with disk() if on_disk else memory() as store:
        copy(network, store, hosts=("a.example", "b.example"))
        assert content_of(store, IMAGE)


# ── law 6 ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """The process is gone: nothing in the program expects this."""


class Fuse:
    """Lets so many events happen, then kills whatever comes."""

    def __init__(self, events: int) -> None:
        self.left = events
        self.blown = False
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.left -= 1
            self.blown = self.blown or self.left < 0
            if self.blown:
                raise Killed


class Mortal(Loopback):
    """A network in which every request may be the last thing that happens."""

    def __init__(self, hosts: Mapping[str, Any], fuse: Fuse) -> None:
        super().__init__(hosts)
        self.fuse = fuse

    def send(self, request: Request, options: Options = Options()) -> Response:
        self.fuse()
        return super().send(request, options)


def kept_of(store: Store, image: Image) -> dict[str, int]:
    """How many bytes of each blob a store has, whole or begun."""
    kept = {}
    for digest, data in image.blobs.items():
        if digest not in image.manifests:
            with store.repository(NAME).upload(Descriptor("", Digest.parse(digest), len(data))) as upload:
                kept[digest] = upload.offset
    return kept


def test_twice_is_once() -> None:
    for make in (memory, disk):
        with make() as store:
            tap = Tap(registry_of(INDEX))
            network = one(tap)
            copy(network, store)
            before = list(store.names())
            network.clear()
            tap.served.clear()
            again = copy(network, store)
            assert list(store.names()) == before
            assert network.lines == ["HEAD https://a.example/v2/team/app/manifests/1"]
            assert (tap.served, again.fetched_bytes, again.reused_bytes) == ({}, 0, again.size_bytes)


@SMALL
@given(st.integers(0, 60), st.booleans(), st.sampled_from([1, 3]))
def test_killed_anywhere_and_repeated_is_once(events: int, on_disk: bool, jobs: int) -> None:
    registry = registry_of(IMAGE)
    fuse = Fuse(events)
    with disk() if on_disk else memory() as store:
        try:
            copy(Mortal({"a.example": Tap(registry, on_piece=fuse)}, fuse), store, jobs=jobs)
        except Killed:
            assert not list(store.names())
        kept = kept_of(store, IMAGE)
        tap = Tap(registry)
        copy(one(tap), store)
        assert content_of(store, IMAGE)
        assert [str(name.descriptor.digest) for name in store.names()] == [IMAGE.digest]
        for digest, had in kept.items():
            assert tap.served.get(digest, 0) == len(IMAGE.blobs[digest]) - had


@SMALL
@given(st.lists(st.integers(0, 25), max_size=6), st.booleans())
def test_killed_again_and_again_gets_there(lives: list[int], on_disk: bool) -> None:
    registry = registry_of(INDEX)
    served: dict[str, int] = {}
    with disk() if on_disk else memory() as store:
        for events in [*lives, 10**6]:
            fuse = Fuse(events)
            try:
                copy(Mortal({"a.example": Tap(registry, served=served, on_piece=fuse)}, fuse), store, jobs=1)
            except Killed:
                continue
            break
        assert content_of(store, INDEX)


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_cancelled_in_the_middle_of_a_blob() -> None:
    transfer = Transfer(1)
    tap = Tap(registry_of(IMAGE))
    layer = IMAGE.manifest["layers"][0]["digest"]

    def stop() -> None:
        if tap.served.get(layer, 0) > 300:
            transfer.cancel()

    tap.on_piece = stop
    store = MemoryStore()
    with transfer, pytest.raises(Interrupted) as caught:
        transfer.copy(remote_of(one(tap), "a.example"), store.repository(NAME), "1")
    assert caught.value.exit_code is ExitCode.INTERRUPTED
    assert nothing_visible(store, IMAGE)
    assert 300 < kept_of(store, IMAGE)[layer] < 600


def test_cancelled_while_it_waits() -> None:
    transfer = Transfer(1)
    transfer.cancel()
    with transfer, pytest.raises(Interrupted):
        transfer.pause(60)


def test_a_failing_blob_stops_the_others_of_its_image() -> None:
    image = make_image(layers=[5000] * 1 + [100 + number for number in range(8)], compression="none")
    missing = image.manifest["layers"][0]["digest"]
    tap = Tap(registry_of(image), {missing: replaced(flipped(1))})
    store = MemoryStore()
    with pytest.raises(ContentMismatch):
        copy(one(tap), store, jobs=1)
    assert nothing_visible(store, image)


class Watching:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, object]] = []
        self._lock = threading.Lock()

    def _tell(self, what: str, descriptor: Descriptor, more: object) -> None:
        with self._lock:
            self.told.append((what, str(descriptor.digest), more))

    def began(self, descriptor: Descriptor, offset: int) -> None:
        self._tell("began", descriptor, offset)

    def advanced(self, descriptor: Descriptor, count: int) -> None:
        self._tell("advanced", descriptor, count)

    def finished(self, descriptor: Descriptor, how: Literal["copied", "present", "failed"]) -> None:
        self._tell("finished", descriptor, how)


def test_an_observer_hears_of_every_blob_from_its_beginning_to_its_end() -> None:
    watching = Watching()
    layer = IMAGE.manifest["layers"][0]["digest"]
    registry = registry_of(IMAGE)
    network = Loopback({"a.example": Tap(registry, {layer: once(replaced(flipped(9)))}), "b.example": registry})
    store = MemoryStore()
    with Transfer(2, watching) as transfer:
        transfer.copy(remote_of(network, "a.example", "b.example"), store.repository(NAME), "1")
        transfer.copy(remote_of(network, "a.example", "b.example"), store.repository(NAME), "1")
    told = [(what, more) for what, digest, more in watching.told if digest == layer and what != "advanced"]
    assert told == [("began", 0), ("began", 0), ("finished", "copied"), ("finished", "present")]
    count = sum(int(str(more)) for what, digest, more in watching.told if (what, digest) == ("advanced", layer))
    assert count == 2 * len(IMAGE.blobs[layer])


def test_images_under_way_at_once_fetch_a_shared_blob_once() -> None:
    first, second = make_image(layers=[3000, 10], compression="none"), make_image(layers=[3000, 20], compression="none")
    tap = Tap(registry_of(first, second))
    network, store = one(tap), MemoryStore()
    errors: list[BaseException] = []
    with Transfer(4) as transfer:

        def work(tag: str) -> None:
            try:
                transfer.copy(remote_of(network, "a.example"), store.repository(NAME), tag)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(tag,)) for tag in ("1", "2", "1", "2")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert errors == []
    shared = first.manifest["layers"][0]["digest"]
    assert tap.served[shared] == len(first.blobs[shared])
    assert content_of(store, first)
    assert content_of(store, second)


def test_a_shared_blob_that_fails_for_one_image_is_tried_for_the_other() -> None:
    tap = Tap(registry_of(IMAGE))
    layer = IMAGE.manifest["layers"][0]["digest"]
    bad, good = one(Tap(tap.registry, {layer: replaced(flipped(3))})), one(tap)
    store = MemoryStore()
    results: list[Copied | None] = []
    with Transfer(4) as transfer:

        def work(network: Loopback) -> None:
            try:
                results.append(transfer.copy(remote_of(network, "a.example"), store.repository(NAME), "1"))
            except ContentMismatch:
                results.append(None)

        threads = [threading.Thread(target=work, args=(network,)) for network in (bad, good)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert any(result is not None for result in results)
    assert content_of(store, IMAGE)


def test_a_sink_that_fails_is_what_is_said() -> None:
    class Full(PierheadError):
        pass

    store = MemoryStore()
    repository = store.repository(NAME)

    class Upload:
        offset = 0

        def fill(self, blob: Blob) -> None:
            raise Full("no space")

    @contextmanager
    def upload(descriptor: Descriptor) -> Iterator[Any]:
        yield Upload()

    repository.upload = upload  # type: ignore[method-assign]  # a disk that is full
    with Transfer(2) as transfer, pytest.raises(Full):
        transfer.copy(remote_of(one(registry_of(IMAGE)), "a.example"), repository, "1")
