"""Lock files: what is written down, what is read of it again, and that nothing else is pulled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command import Served, names, run_pierhead, serve, stored
from images import Image, make_image, make_index
from pierhead.body import Blob
from pierhead.errors import ExitCode
from pierhead.layout import LayoutStore
from pierhead.locked import Lock, LockedImage, LockedPlatform, NotLocked, TagMovedFromLock, UnusableLock
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_MANIFEST, Descriptor
from pierhead.reference import Digest, Reference
from pierhead.store import RepositoryName
from pierhead.transfer import Transfer
from pierhead.tree import read_tree
from stocked import stock

APP = make_image(layers=[1000, 20], compression="none")
NEWER = make_image(layers=[1000, 21], compression="none")
PLATFORMS = make_image(layers=[2000], platforms=["linux/amd64", "linux/arm64"], compression="none")
NAME = Reference.parse("hub.example/team/app:1")


def digest(character: str) -> Digest:
    return Digest("sha256", character * 64)


def locked(name: str = str(NAME), of: str = "a") -> LockedImage:
    return LockedImage(Reference.parse(name), digest(of), OCI_MANIFEST, (), 10)


def lock_of(image: Image, platform: str = "") -> LockedImage:
    store = MemoryStore()
    top = stock(store, image)
    repository = store.repository(RepositoryName("team/app"))
    os, _, architecture = platform.partition("/")
    config = json.dumps({"os": os, "architecture": architecture}).encode()
    return LockedImage.of(NAME, read_tree(repository.manifest, top), lambda _: config)


# ── what is written down ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_index_has_the_size_of_each_platform_and_of_all_of_it() -> None:
    image = lock_of(PLATFORMS)
    assert (str(image.digest), image.size_bytes) == (PLATFORMS.digest, sum(map(len, PLATFORMS.blobs.values())))
    assert [item.platform for item in image.platforms] == ["linux/amd64", "linux/arm64"]
    for item, child in zip(image.platforms, PLATFORMS.manifest["manifests"], strict=True):
        parts = json.loads(PLATFORMS.blobs[child["digest"]])
        sizes = [child["size"], parts["config"]["size"], *(layer["size"] for layer in parts["layers"])]
        assert (item.digest, item.size_bytes) == (child["digest"], sum(sizes))
    below = image.size_bytes - len(PLATFORMS.blobs[PLATFORMS.digest])
    assert sum(item.size_bytes for item in image.platforms) > below  # they share a layer


def test_an_image_without_an_index_has_the_platform_of_its_configuration() -> None:
    image = lock_of(APP, "linux/amd64")
    assert image.platforms == (LockedPlatform("linux/amd64", APP.digest, image.size_bytes),)
    assert image.size_bytes == sum(map(len, APP.blobs.values()))
    assert lock_of(APP).platforms == ()


def test_platforms_below_another_index_are_found_and_attestations_are_none() -> None:
    attestation = make_image(layers=[7], compression="none")
    unknown = replace(
        attestation,
        descriptor={**attestation.descriptor, "platform": {"os": "unknown", "architecture": "unknown"}},
    )
    inner = make_index(make_image(platforms=["linux/s390x"]))
    image = lock_of(make_index(inner, unknown))
    assert [item.platform for item in image.platforms] == ["linux/s390x"]


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────

DIGESTS = st.sampled_from("0123456789abcdef").map(digest)
NAMES = st.from_regex(r"\A[a-z]{1,5}\.example/[a-z]{1,4}:[a-z0-9]{1,3}\Z").map(Reference.parse)
PLATFORM_ITEMS = st.builds(
    LockedPlatform, st.sampled_from(["linux/amd64", "linux/arm/v7"]), DIGESTS.map(str), st.integers(0, 2**50)
)
IMAGES = st.builds(
    LockedImage,
    NAMES,
    DIGESTS,
    st.just(OCI_MANIFEST),
    st.lists(PLATFORM_ITEMS, max_size=2).map(tuple),
    st.integers(0, 2**60),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(IMAGES, max_size=6, unique_by=lambda image: image.reference), st.randoms())
def test_what_is_written_is_read_again_and_its_order_does_not_matter(images: list[LockedImage], random: Any) -> None:
    lock = Lock.of(images)
    assert Lock.parse(lock.text().encode(), lock.file) == lock
    random.shuffle(images)
    assert Lock.of(images).text() == lock.text()


def test_the_text_has_a_version_and_nothing_of_the_day(tmp_path: Path) -> None:
    document = json.loads(Lock.of([locked(), locked("a.example/x:2")]).text())
    assert document["version"] == 1
    assert [image["name"] for image in document["images"]] == ["a.example/x:2", str(NAME)]
    assert set(document) == {"version", "images"}
    assert set(document["images"][0]) == {"name", "digest", "media_type", "platforms", "size_bytes"}


ENTRY = locked().to_json()


def with_image(**changes: object) -> dict[str, Any]:
    return {"version": 1, "images": [{**ENTRY, **changes}]}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no lock file"),
        ({"images": []}, "no lock file"),
        ({"version": 2, "images": []}, "version 2"),
        ({"version": True, "images": []}, "version True"),
        ({"version": "\x1b[2J", "images": []}, r"\x1b[2J"),
        ({"version": 1, "images": {}}, "`images` is not a list"),
        ({"version": 1, "images": [1]}, "images[0] is not an object"),
        (with_image(name=5), "images[0]: `name` is not a text"),
        (with_image(name="app"), "is not a full name"),
        (with_image(name="A B"), "is not an image reference"),
        (with_image(digest="sha256:1"), "is not a digest"),
        (with_image(digest=None), "`digest` is not a text"),
        (with_image(media_type="\x1b[2J"), "`media_type` is not a text"),
        (with_image(size_bytes=-1), "`size_bytes` is not a number"),
        (with_image(size_bytes=True), "`size_bytes` is not a number"),
        (with_image(platforms=None), "`platforms` is not a list"),
        (with_image(platforms=[{}]), "images[0].platforms[0]: `platform`"),
        (with_image(name=f"hub.example/team/app@{digest('b')}"), "locked to another digest"),
        ({"version": 1, "images": [ENTRY, {**ENTRY, "digest": str(digest("b"))}]}, "locked twice"),
    ],
)
def test_a_file_that_is_no_lock_says_where(document: object, said: str) -> None:
    with pytest.raises(UnusableLock) as caught:
        Lock.parse(json.dumps(document).encode(), "images.lock")
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_broken_line_is_named() -> None:
    with pytest.raises(UnusableLock) as caught:
        Lock.parse(b'{\n "version": 1,\n "images": [}\n', "images.lock")
    assert str(caught.value).startswith("images.lock:3:")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b""])
def test_bytes_that_are_no_json_are_refused(data: bytes) -> None:
    with pytest.raises(UnusableLock):
        Lock.parse(data, "images.lock")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([1, str(NAME)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["version", "images", *ENTRY, "platform"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(JSON, st.dictionaries(st.sampled_from(list(ENTRY)), JSON, max_size=2))
def test_whatever_stands_in_the_file_is_a_lock_or_refused(value: object, changes: dict[str, object]) -> None:
    for document in (value, {"version": 1, "images": value}, with_image(**changes)):
        try:
            lock = Lock.parse(json.dumps(document).encode(), "images.lock")
        except UnusableLock:
            continue
        assert Lock.parse(lock.text().encode(), "images.lock") == lock


def test_a_lock_that_is_too_large_or_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnusableLock, match="cannot be read: No such file"):
        Lock.read(tmp_path / "images.lock")
    monkeypatch.setattr("pierhead.locked.LOCK_LIMIT_BYTES", 10)
    (tmp_path / "images.lock").write_bytes(b" " * 11)
    with pytest.raises(UnusableLock, match="larger than 10 bytes"):
        Lock.read(tmp_path / "images.lock")


def test_a_lock_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "images.lock"
    Lock.of([locked()]).write(path)
    path.chmod(0o640)
    Lock.of([locked(of="b")]).write(path)
    assert Lock.read(path).images[str(NAME)].digest == digest("b")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [item.name for item in tmp_path.iterdir()] == ["images.lock"]


# ── holding somebody to it ───────────────────────────────────────────────────────────────────────────────────────


class Untouched:
    """A source that nobody may ask anything."""

    def resolve(self, reference: str) -> Descriptor:
        raise AssertionError(reference)

    def manifest(self, descriptor: Descriptor) -> bytes:
        raise AssertionError(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        raise AssertionError(descriptor)

    def reject(self, descriptor: Descriptor) -> bool:
        raise AssertionError(descriptor)


class NoBlobs(Untouched):
    """A source that resolves a name, and must not be asked for more."""

    def __init__(self, found: Digest) -> None:
        self.found = found

    def resolve(self, reference: str) -> Descriptor:
        return Descriptor(OCI_MANIFEST, self.found, 10)


def test_an_image_that_is_not_locked_is_not_even_asked_for() -> None:
    with pytest.raises(NotLocked, match=r"hub\.example/other:1 is not in the lock file images\.lock"):
        Lock.of([locked()]).guard(Reference.parse("hub.example/other:1"), Untouched())


def test_a_tag_that_moved_is_refused_before_anything_of_it_comes() -> None:
    source = Lock.of([locked()]).guard(NAME, NoBlobs(digest("b")))
    sink = MemoryStore().repository(RepositoryName("team/app"))
    with Transfer(1) as transfer, pytest.raises(TagMovedFromLock) as caught:
        transfer.copy(source, sink, "1")
    assert (caught.value.locked, caught.value.found) == (digest("a"), digest("b"))
    assert str(digest("a")) in caught.value.message
    assert str(digest("b")) in caught.value.message
    assert f"hub.example/team/app@{digest('a')}" in caught.value.hint


def test_what_is_as_it_was_locked_is_copied() -> None:
    store, target = MemoryStore(), MemoryStore()
    stock(store, APP)
    image = replace(lock_of(APP), reference=NAME)
    source = Lock.of([image]).guard(NAME, store.repository(RepositoryName("team/app")))
    with Transfer(1) as transfer:
        copied = transfer.copy(source, target.repository(RepositoryName("team/app")), "1")
    assert str(copied.descriptor.digest) == APP.digest


def test_a_digest_is_locked_by_itself_and_by_a_tag_of_its_repository() -> None:
    by_digest = Reference.parse(f"hub.example/team/app@{digest('a')}")
    elsewhere = Reference.parse(f"hub.example/team/other@{digest('a')}")
    lock = Lock.of([locked()])
    assert lock.expected(by_digest) == locked()
    assert lock.expected(elsewhere) is None
    assert lock.expected(Reference.parse(f"hub.example/team/app@{digest('b')}")) is None
    assert Lock.of([locked(str(by_digest))]).expected(NAME) is None


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Served]:
    """A registry with an image and an index."""
    store = LayoutStore(tmp_path / "registry")
    stock(store, APP, "team/app")
    stock(store, PLATFORMS, "team/index")
    with serve(tmp_path / "registry") as served:
        yield served


def write_list(folder: Path, *lines: str) -> Path:
    path = folder / "images.txt"
    path.write_text("\n".join(lines))
    return path


def pulled(root: Path, *arguments: str | Path, code: int = 0) -> str:
    return run_pierhead("pull", "--plain-http", "--root", root, "--platform", "all", *arguments, code=code).err


def test_a_list_is_locked_and_a_tag_that_moves_is_told_and_refused(registry: Served, tmp_path: Path) -> None:
    app, index = f"{registry.address}/team/app:1", f"{registry.address}/team/index:1"
    images, file, root = (
        write_list(tmp_path, index, "# comment", "", app, app),
        tmp_path / "images.lock",
        tmp_path / "s",
    )
    ran = run_pierhead("lock", "--plain-http", images, "-o", file)
    assert "locked 2 images" in ran.err
    lock = Lock.read(file)
    assert {name: str(image.digest) for name, image in lock.images.items()} == {
        app: APP.digest,
        index: PLATFORMS.digest,
    }
    assert [item.platform for item in lock.images[app].platforms] == ["linux/amd64"]
    assert run_pierhead("lock", "--plain-http", index, app).out == file.read_text()

    stock(LayoutStore(registry.root), NEWER, "team/app")
    err = pulled(root, "--locked", file, app, code=1)
    assert APP.digest in err
    assert NEWER.digest in err
    assert stored(root) == {}
    pulled(root, "--locked", file, index, f"{registry.address}/team/app@{APP.digest}")

    err = run_pierhead("lock", "--plain-http", images, "-o", file).err
    assert f"moved  {app}  {APP.digest} -> {NEWER.digest}" in err
    assert err.count("moved") == 1
    pulled(root, "--locked", file, "--images", images)
    assert names(root)[app] == NEWER.digest


def test_an_image_that_fails_does_not_stop_the_others_but_nothing_is_written(registry: Served, tmp_path: Path) -> None:
    app, gone = f"{registry.address}/team/app:1", f"{registry.address}/team/gone:1"
    images, file = write_list(tmp_path, app, gone), tmp_path / "images.lock"
    ran = run_pierhead("lock", "--plain-http", "--images", images, "-o", file, code=6)
    assert gone in ran.err
    assert "nothing is written; with --partial the others are" in ran.err
    assert not file.exists()
    run_pierhead("lock", "--plain-http", "--images", images, "-o", file, "--partial", code=6)
    assert list(Lock.read(file).images) == [app]
    err = pulled(tmp_path / "s", "--locked", file, gone, code=3)
    assert f"{gone} is not in the lock file" in err
    run_pierhead("lock", "--plain-http", gone, "-o", tmp_path / "other.lock", "--partial", code=3)
    assert not (tmp_path / "other.lock").exists()


def test_a_line_that_is_no_image_is_named_and_the_rest_is_not_taken_for_all(registry: Served, tmp_path: Path) -> None:
    app = f"{registry.address}/team/app:1"
    ran = run_pierhead("lock", "--plain-http", "-", stdin=f"{app}\nNO IMAGE\n", code=6)
    assert "-:2:1" in ran.err
    assert ran.out == ""
    err = pulled(tmp_path / "s", "--images", write_list(tmp_path, "NO IMAGE", app), code=6)
    assert "images.txt:1:1" in err
    assert list(names(tmp_path / "s")) == [app]


def test_what_is_no_lock_is_not_written_over(registry: Served, tmp_path: Path) -> None:
    app = f"{registry.address}/team/app:1"
    images = write_list(tmp_path, app)
    ran = run_pierhead("lock", "--plain-http", images, "-o", images, code=2)
    assert "no lock file that could be written anew" in ran.err
    assert images.read_text() == app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lock"], "nothing to lock"),
        (["lock", "no-such-list.txt"], "cannot be read"),
        (["lock", "--images", "/dev/null"], "names no image"),
        (["lock", "nobody.invalid/a:1", "-o", "/nonexistent/images.lock"], "there is no folder /nonexistent"),
        (["pull"], "nothing to pull"),
        (["pull", "--images", "/dev/null"], "names no image"),
        (["pull", "--locked", "/nonexistent/images.lock", "busybox"], "cannot be read"),
    ],
)
def test_a_call_that_means_nothing_says_so(arguments: list[str], said: str, tmp_path: Path) -> None:
    root = ["--root", str(tmp_path / "s")] if arguments[0] == "pull" else []
    assert said in run_pierhead(*arguments, *root, code=2).err
