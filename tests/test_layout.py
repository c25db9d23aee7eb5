"""The store on disk beyond the contract: what other programs see of it, and what gc, forget and verify do."""

from __future__ import annotations

import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from images import Image, make_image
from pierhead.body import read_all
from pierhead.layout import GRACE_SECONDS, LayoutStore
from pierhead.layout.collect import PARTIAL_GRACES
from pierhead.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Platform, parse_manifest
from pierhead.reference import Digest
from pierhead.store import InvalidName, NotFound, Repository, RepositoryName, StoreBusy, StoreDamaged
from real import Containerd, skopeo
from store_contract import (
    HOSTILE_NAMESPACES,
    HOSTILE_PATHS,
    LIMIT,
    blob_of,
    index_of,
    manifest_of,
    put,
    put_image,
)

PULLED = RepositoryName("library/app", "docker.io")
AMD64 = Platform.parse("linux/amd64")


@pytest.fixture
def store(tmp_path: Path) -> LayoutStore:
    return LayoutStore(tmp_path / "root")


def put_whole(repository: Repository, image: Image, *, only: Platform | None = None) -> Descriptor:
    """Everything of an image, or of an index what one platform needs of it."""
    return _put_tree(repository, image, Descriptor.from_json(image.descriptor), only)


def _put_tree(repository: Repository, image: Image, descriptor: Descriptor, only: Platform | None) -> Descriptor:
    raw = image.blobs[str(descriptor.digest)]
    manifest = parse_manifest(raw, descriptor.media_type)
    if isinstance(manifest, Index):
        for item in [manifest.select(only)] if only else manifest.manifests:
            _put_tree(repository, image, item, only)
    else:
        for item in manifest.references:
            put(repository, image.blobs[str(item.digest)])
    return repository.put_manifest(raw, descriptor.media_type, sparse=only is not None)


def published(store: LayoutStore) -> list[dict[str, object]]:
    found = json.loads((store.path / "index.json").read_bytes())["manifests"]
    assert isinstance(found, list)
    return found


def age(path: Path, seconds: float = 10 * PARTIAL_GRACES * GRACE_SECONDS) -> None:
    """Make a file older."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class TestFiles:
    def test_reading_makes_nothing(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        assert not repository.has(blob_of(b"x"))
        assert list(store.names()) == []
        assert store.repositories() == []
        assert list(store.verify()) == []
        with pytest.raises(NotFound):
            repository.tags()
        assert not store.path.exists()

    def test_is_an_image_layout(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        descriptor = put_image(repository)
        repository.tag("7", descriptor)
        store.publish_index()
        assert json.loads((store.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
        index = json.loads((store.path / "index.json").read_bytes())
        assert (index["schemaVersion"], index["mediaType"]) == (2, OCI_INDEX)
        name = "docker.io/library/app:7"
        assert index["manifests"] == [
            {
                "mediaType": OCI_MANIFEST,
                "digest": str(descriptor.digest),
                "size": descriptor.size_bytes,
                "annotations": {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name},
            }
        ]
        for path in (store.path / "blobs" / "sha256").iterdir():
            assert Digest.of(path.read_bytes()).hex == path.name
        assert not list((store.path / "ingest" / "sha256").iterdir())
        assert not list((store.path / "tmp").iterdir())

    def test_index_is_written_only_when_it_changes(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        assert store.publish_index()
        for number in (3, 1, 2):
            repository.tag(str(number), put_image(repository, str(number)))
        assert store.publish_index()
        before = (store.path / "index.json").stat()
        raw = (store.path / "index.json").read_bytes()
        assert not store.publish_index()
        assert (store.path / "index.json").stat().st_ino == before.st_ino
        (store.path / "index.json").unlink()
        assert LayoutStore(store.path).publish_index()
        assert (store.path / "index.json").read_bytes() == raw

    def test_another_instance_reads_the_same(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        descriptor = put_image(repository)
        repository.tag("7", descriptor, platforms=[AMD64])
        other = LayoutStore(store.path)
        assert list(other.names()) == list(store.names())
        assert other.repository(PULLED).resolve("7") == descriptor

    def test_hostile_names_touch_nothing(self, store: LayoutStore, tmp_path: Path) -> None:
        repository = store.repository(PULLED)
        put_image(repository)
        (tmp_path / "etc").mkdir()
        before = everything(tmp_path)
        for path in HOSTILE_PATHS:
            with pytest.raises(InvalidName):
                store.repository(RepositoryName(path))
        for namespace in HOSTILE_NAMESPACES:
            with pytest.raises(InvalidName):
                store.repository(RepositoryName("app", namespace))
        for id in ("../../etc", "..", "/etc/passwd"):
            with pytest.raises(NotFound):
                repository.session(id)
        with pytest.raises(InvalidName):
            repository.mount(blob_of(b"image layer 0"), RepositoryName("../library/app"))
        assert everything(tmp_path) == before

    def test_names_on_disk_do_not_collide(self, store: LayoutStore) -> None:
        """Names that would be one, were they joined or escaped carelessly."""
        names = [
            RepositoryName("a/b", "c"),
            RepositoryName("c/a/b"),
            RepositoryName("b", "c"),
            RepositoryName("a/b", "c:1"),
            RepositoryName("a/b", "[::1]:1"),
            RepositoryName("a/b", "[::1]"),
            RepositoryName("a__b", "c"),
            RepositoryName("a--b", "c"),
            RepositoryName("a.b", "c"),
            RepositoryName("a_b", "c"),
        ]
        paths = {store.repository(name).path for name in names}
        assert len(paths) == len(names)
        for name in names:
            put_image(store.repository(name), str(name) + name.namespace)
        assert sorted(store.walk()) == sorted(names)

    def test_damaged_name_file_is_said(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        repository.tag("7", put_image(repository))
        (repository.path / "_tags" / "7").write_bytes(b"{")
        with pytest.raises(StoreDamaged) as damaged:
            repository.resolve("7")
        assert damaged.value.path == repository.path / "_tags" / "7"
        for action in (store.gc, store.publish_index, lambda: list(store.names())):
            with pytest.raises(StoreDamaged):
                action()
        assert [finding.kind for finding in store.verify()] == ["damaged"]


class TestForeignLayout:
    """A root that another program made, or writes to as well."""

    @pytest.fixture
    def foreign(self, tmp_path: Path) -> tuple[LayoutStore, Image]:
        image = make_image()
        return LayoutStore(image.write_layout(tmp_path / "root", "theirs")), image

    def test_is_kept_as_it_is(self, foreign: tuple[LayoutStore, Image]) -> None:
        store, image = foreign
        theirs = published(store)
        repository = store.repository(PULLED)
        repository.tag("7", put_image(repository))
        assert store.publish_index()
        assert [entry for entry in published(store) if entry in theirs] == theirs
        assert len(published(store)) == 2
        repository.forget("7")
        store.publish_index()
        assert published(store) == theirs
        store.gc(grace_seconds=0)
        assert {str(digest) for digest, _ in store.pool.files()} == set(image.blobs)
        assert list(store.verify()) == []

    def test_lost_blob_of_theirs_is_found(self, foreign: tuple[LayoutStore, Image]) -> None:
        store, image = foreign
        layer = Digest.parse(image.manifest["layers"][0]["digest"])
        store.pool.path(layer).unlink()
        (finding,) = store.verify()
        assert (finding.kind, finding.digest, finding.names) == ("lost", layer, ("theirs",))

    def test_our_name_wins(self, foreign: tuple[LayoutStore, Image]) -> None:
        store, _ = foreign
        repository = store.repository(RepositoryName("app"))
        descriptor = put_image(repository)
        repository.tag("theirs", descriptor)
        entries = published_with(store, "app:theirs", {"org.opencontainers.image.ref.name": "app:theirs"})
        assert [entry["digest"] for entry in entries] == [str(descriptor.digest)]

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"manifests":3}', b'{"manifests":[3]}'], ids=repr)
    def test_unreadable_index_is_not_overwritten(self, foreign: tuple[LayoutStore, Image], raw: bytes) -> None:
        store, image = foreign
        (store.path / "index.json").write_bytes(raw)
        with pytest.raises(StoreDamaged):
            store.publish_index()
        with pytest.raises(StoreDamaged):
            store.gc(grace_seconds=0)
        assert (store.path / "index.json").read_bytes() == raw
        assert {str(digest) for digest, _ in store.pool.files()} == set(image.blobs)


def published_with(store: LayoutStore, name: str, annotations: dict[str, str]) -> list[dict[str, object]]:
    """The entries of a name after all entries of index.json were given these annotations by somebody else."""
    index = json.loads((store.path / "index.json").read_bytes())
    for entry in index["manifests"]:
        entry["annotations"] = annotations
    (store.path / "index.json").write_text(json.dumps(index))
    store.publish_index()
    return [
        entry
        for entry in published(store)
        if isinstance(entry["annotations"], dict)
        and entry["annotations"].get("org.opencontainers.image.ref.name") == name
    ]


class TestCollection:
    def test_only_what_no_name_reaches_goes(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        kept, gone = put_image(repository, "kept"), put_image(repository, "gone")
        shared = put(repository, b"kept layer 0")
        repository.tag("kept", kept)
        repository.tag("gone", gone)
        assert store.gc(grace_seconds=0).blobs == ()

        repository.untag("gone")
        dry = store.gc(dry_run=True, grace_seconds=0)
        assert repository.has(gone)
        done = store.gc(grace_seconds=0)

        assert (dry.dry_run, dry.blobs, dry.freed_bytes) == (True, done.blobs, done.freed_bytes)
        assert len(done.blobs) == 4
        assert done.freed_bytes == sum(size for _, size in done.blobs) > 0
        assert gone.digest in [digest for digest, _ in done.blobs]
        assert not repository.has(gone)
        assert repository.has(kept)
        assert repository.has(shared)
        assert list(store.verify()) == []
        assert store.gc(grace_seconds=0).blobs == ()

    def test_pushed_manifests_stay_without_a_tag(self, store: LayoutStore) -> None:
        own = store.repository(RepositoryName("team/app"))
        untagged, tagged = put_image(own, "untagged"), put_image(own, "tagged")
        own.tag("t", tagged)
        for subject in (untagged, tagged):
            put_image(own, f"signature of {subject.digest}", subject=subject.to_json())
        assert store.gc(grace_seconds=0).blobs == ()
        removed = store.gc(untagged=True, grace_seconds=0)
        assert len(removed.blobs) == 8  # an image of four blobs, and its signature
        assert not own.has(untagged)
        assert own.referrers(untagged.digest) == []
        assert own.has(tagged)
        assert len(own.referrers(tagged.digest)) == 1
        assert list(store.verify()) == []

    def test_referrers_of_pulled_images_stay_with_them(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        image = put_image(repository)
        signature = put_image(repository, "signature", subject=image.to_json())
        countersigned = put_image(repository, "countersignature", subject=signature.to_json())
        repository.tag("7", image)
        assert store.gc(grace_seconds=0).blobs == ()
        repository.forget("7")
        assert not repository.has(countersigned)
        assert len(store.gc(grace_seconds=0).blobs) == 12

    def test_all_of_an_index_is_kept(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        image = make_image(platforms=["linux/amd64", "linux/arm64"])
        repository.tag("7", put_whole(repository, image, only=AMD64), platforms=[AMD64])
        assert store.gc(grace_seconds=0).blobs == ()
        assert all(finding.kind == "unselected" for finding in store.verify())

    def test_folders_of_what_is_gone_go(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        repository.tag("7", put_image(repository))
        repository.forget("7")
        store.gc()
        assert list((store.path / "repositories").iterdir()) == [] if (store.path / "repositories").exists() else True
        assert store.repositories() == []
        repository.tag("8", put_image(repository))
        assert repository.tags() == ["8"]

    def test_what_came_lately_is_spared(self, store: LayoutStore) -> None:
        repository = store.repository(RepositoryName("team/app"))
        layer, old = put(repository, b"layer"), put(repository, b"old")
        age(repository.blob_link(old.digest))
        assert [digest for digest, _ in store.gc().blobs] == [old.digest]
        assert repository.has(layer)

    def test_what_was_relied_upon_is_spared(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        descriptors = [put(repository, bytes([number])) for number in range(3)]
        for descriptor in descriptors:
            age(repository.blob_link(descriptor.digest))
        assert repository.has(descriptors[0])
        assert repository.stat_blob(descriptors[1].digest)
        assert [digest for digest, _ in store.gc().blobs] == [descriptors[2].digest]

    def test_lease_spares_what_was_written_since(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        before = put(repository, b"before")
        age(store.pool.path(before.digest))
        with store.lease():
            layer = put(repository, b"layer")
            with repository.upload(blob_of(b"growing")) as upload:
                upload.write(b"grow")
                age(repository.blob_link(before.digest))
                assert [digest for digest, _ in store.gc(grace_seconds=0).blobs] == [before.digest]
                upload.write(b"ing")
                upload.commit()
            descriptor = repository.put_manifest(index_of(), OCI_INDEX)
            store.gc(grace_seconds=0)
            assert repository.has(layer)
            assert repository.has(descriptor)
        store.gc(grace_seconds=0)
        assert not repository.has(layer)

    def test_lease_spares_what_is_about_to_be_linked(self, store: LayoutStore) -> None:
        here, there = (store.repository(RepositoryName("app", registry)) for registry in ("a.example", "b.example"))
        descriptor = put(here, b"shared")
        here.delete(descriptor)
        age(store.pool.path(descriptor.digest))
        with store.lease(), there.upload(descriptor) as upload:
            assert store.gc(grace_seconds=0).blobs == ()
            upload.commit()
        assert there.has(descriptor)

    def test_lease_of_a_dead_process_holds_nothing(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        put(repository, b"layer")
        (store.path / "leases").mkdir()
        (store.path / "leases" / ("0" * 32)).touch()
        age(store.path / "leases" / ("0" * 32))
        assert len(store.gc(grace_seconds=0).blobs) == 1
        assert list((store.path / "leases").iterdir()) == []

    def test_partial_files_go_after_a_day(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        old, young = blob_of(b"old one"), blob_of(b"young one")
        for descriptor in (old, young):
            with repository.upload(descriptor) as upload:
                upload.write(b"yo")
        age(store.pool.ingest_path(old.digest))
        session = repository.begin()
        session.write(b"data")
        (path,) = (store.path / "uploads").iterdir()
        age(path)
        report = store.gc()
        assert [path for path, _ in report.partials] == [store.pool.ingest_path(old.digest)]
        assert report.freed_bytes == 2
        with repository.upload(young) as upload:
            assert upload.offset == 2
        session.close()
        assert [path for path, _ in store.gc().partials] == [path]
        with pytest.raises(NotFound):
            repository.session(session.id)

    def test_partial_in_use_is_left_alone(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        with repository.upload(blob_of(b"data")) as upload:
            upload.write(b"da")
            age(store.pool.ingest_path(blob_of(b"data").digest))
            assert store.gc().partials == ()
            upload.write(b"ta")
            upload.commit()
        assert repository.has(blob_of(b"data"))

    def test_beside_writers(self, store: LayoutStore) -> None:
        """Images put together under a lease while gc runs all the time are whole in the end."""
        stop = threading.Event()
        errors: list[BaseException] = []

        def collect() -> None:
            try:
                while not stop.wait(0.001):  # locks are not fair: leave writers a chance
                    LayoutStore(store.path).gc(grace_seconds=0)
            except BaseException as error:
                errors.append(error)

        collector = threading.Thread(target=collect)
        collector.start()
        try:
            for number in range(25):
                writer = LayoutStore(store.path)
                repository = writer.repository(PULLED)
                with writer.lease():
                    put(repository, b"shared by all, and unreferenced between two of them")
                    repository.tag("t", put_image(repository, str(number)))
        finally:
            stop.set()
            collector.join(60)
        assert errors == []
        assert list(store.verify()) == []
        assert store.repository(PULLED).has(store.repository(PULLED).resolve("t"))


class TestForget:
    def test_lets_go_of_what_only_it_needs(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        layer = put(repository, b"shared")
        config = {name: put(repository, name.encode()) for name in ("a", "b")}
        images = {
            name: repository.put_manifest(manifest_of(config[name], [layer]), OCI_MANIFEST) for name in ("a", "b")
        }
        for name, image in images.items():
            repository.tag(name, image)
        repository.forget("a")
        assert repository.tags() == ["b"]
        assert not repository.has(config["a"])
        assert repository.has(layer)
        assert {digest for digest, _ in store.gc().blobs} == {images["a"].digest, config["a"].digest}
        with pytest.raises(NotFound):
            repository.forget("a")

    def test_second_name_keeps_all(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        descriptor = put_image(repository)
        repository.tag("7", descriptor)
        repository.tag(str(descriptor.digest), descriptor)
        repository.forget("7")
        store.gc(grace_seconds=0)
        assert list(store.verify()) == []
        assert repository.has(descriptor)
        repository.forget(str(descriptor.digest))
        assert len(store.gc().blobs) == 4

    def test_other_repositories_are_not_concerned(self, store: LayoutStore) -> None:
        here, there = (store.repository(RepositoryName("app", registry)) for registry in ("a.example", "b.example"))
        for repository in (here, there):
            repository.tag("7", put_image(repository))
        here.forget("7")
        assert store.gc().blobs == ()
        assert list(store.verify()) == []

    def test_untagged_push_keeps_shared_layers(self, store: LayoutStore) -> None:
        own = store.repository(RepositoryName("app"))
        layer, config = put(own, b"shared"), put(own, b"config")
        tagged = put_image(own, "tagged")
        own.tag("t", own.put_manifest(manifest_of(config, [layer], annotations={"a": "b"}), OCI_MANIFEST))
        untagged = own.put_manifest(manifest_of(config, [layer]), OCI_MANIFEST)
        own.forget("t")
        assert own.has(layer)
        assert own.has(untagged)
        assert own.has(tagged)

    def test_transfer_under_way_keeps_what_it_relies_upon(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        descriptor = put_image(repository)
        repository.tag("old", descriptor)
        with store.lease():
            manifest = parse_manifest(repository.manifest(descriptor), OCI_MANIFEST)
            assert all(repository.has(item) for item in (descriptor, *manifest.references))
            LayoutStore(store.path).repository(PULLED).forget("old")
            LayoutStore(store.path).gc(grace_seconds=0)
            repository.tag("new", descriptor)
        store.gc(grace_seconds=0)
        assert list(store.verify()) == []


class TestVerify:
    @pytest.fixture
    def image(self, store: LayoutStore) -> Descriptor:
        repository = store.repository(PULLED)
        descriptor = put_image(repository)
        repository.tag("7", descriptor)
        return descriptor

    def test_sound_store(self, store: LayoutStore, image: Descriptor) -> None:
        assert list(store.verify()) == []

    def test_corrupt_blob(self, store: LayoutStore, image: Descriptor) -> None:
        digest = Digest.of(b"image layer 0")
        store.pool.path(digest).write_bytes(b"image layer X")
        put(store.repository(PULLED), b"nobody's")
        store.pool.path(Digest.of(b"nobody's")).write_bytes(b"nobody'x")
        found = {finding.digest: finding for finding in store.verify()}
        assert found[digest].names == ("docker.io/library/app:7",)
        assert found[Digest.of(b"nobody's")].names == ()
        assert all(finding.kind == "corrupt" and finding.is_error for finding in found.values())

    def test_corrupt_manifest(self, store: LayoutStore, image: Descriptor) -> None:
        path = store.pool.path(image.digest)
        path.write_bytes(path.read_bytes().replace(b"layers", b"LAYERS"))
        (finding,) = store.verify()
        assert (finding.kind, finding.digest, finding.path) == ("corrupt", image.digest, path)
        assert finding.names == ("docker.io/library/app:7",)

    @pytest.mark.parametrize("where", ["pool", "link"])
    def test_lost_blob(self, store: LayoutStore, image: Descriptor, where: str) -> None:
        digest = Digest.of(b"image layer 1")
        path = store.pool.path(digest) if where == "pool" else store.repository(PULLED).blob_link(digest)
        path.unlink()
        (finding,) = store.verify()
        assert (finding.kind, finding.digest) == ("lost", digest)
        assert finding.names == ("docker.io/library/app:7",)
        put(store.repository(PULLED), b"image layer 1")
        assert list(store.verify()) == []

    def test_platform_not_chosen_is_not_lost(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        image = make_image(platforms=["linux/amd64", "linux/arm64", "linux/arm/v7"])
        descriptor = put_whole(repository, image, only=AMD64)
        repository.tag("7", descriptor, platforms=[AMD64])
        found = list(store.verify())
        assert {finding.kind for finding in found} == {"unselected"}
        assert len(found) == 2
        _put_tree(repository, image, parse_manifest(repository.manifest(descriptor), OCI_INDEX).references[1], None)
        assert len(list(store.verify())) == 1
        assert not any(finding.is_error for finding in found)
        repository.tag("all", descriptor)
        lost = [finding for finding in store.verify() if finding.names == ("docker.io/library/app:all",)]
        assert [finding.kind for finding in lost] == ["lost"]

    def test_foreign_files(self, store: LayoutStore, image: Descriptor) -> None:
        strange = {store.path / "blobs" / name for name in ("sha256/note.txt", "sha256/" + "g" * 64, "md5")}
        for path in strange:
            path.write_bytes(b"")
        found = list(store.verify())
        assert {finding.path for finding in found} == strange
        assert {finding.kind for finding in found} == {"foreign"}

    def test_blob_cut_short_is_fetched_again(self, store: LayoutStore, image: Descriptor) -> None:
        """What a power failure may leave: the size gives it away, and the next pull mends it."""
        repository = store.repository(PULLED)
        layer = blob_of(b"image layer 0")
        store.pool.path(layer.digest).write_bytes(b"")
        assert not repository.has(layer)
        put(repository, b"image layer 0")
        assert list(store.verify()) == []


class TestSeveralAtOnce:
    def test_waiting_ends_when_told(self, store: LayoutStore) -> None:
        repository = store.repository(PULLED)
        descriptor = blob_of(b"data")
        waiting = LayoutStore(store.path)
        with repository.upload(descriptor) as upload:
            upload.write(b"da")
            timer = threading.Timer(0.05, waiting.interrupt)
            timer.start()
            with pytest.raises(StoreBusy), waiting.repository(PULLED).upload(descriptor):
                pass
            timer.join()

    def test_session_has_one_holder(self, store: LayoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pierhead.layout.ingest.SESSION_SECONDS", 0.05)
        own = store.repository(RepositoryName("app"))
        session = own.begin()
        session.write(b"data")
        with pytest.raises(StoreBusy):
            own.session(session.id)
        session.close()
        again = own.session(session.id)
        assert again.offset == 4
        again.abort()

    def test_session_moves_between_processes(self, store: LayoutStore) -> None:
        """What another instance wrote is hashed again at the end."""
        name = RepositoryName("app")
        session = store.repository(name).begin()
        session.write(b"one ")
        session.close()
        other = LayoutStore(store.path).repository(name).session(session.id)
        assert other.offset == 4
        other.write(b"two ")
        other.close()
        session = store.repository(name).session(session.id)
        session.write(b"three")
        descriptor = session.commit(Digest.of(b"one two three"))
        assert read_all(store.repository(name).blob(descriptor), LIMIT) == b"one two three"

    def test_large_blob_in_two_tries(self, store: LayoutStore) -> None:
        """Large enough for a hash beside the writing, and for one over what is there already."""
        repository = store.repository(PULLED)
        data = os.urandom(1024 * 1024) * 5
        descriptor = blob_of(data)
        with repository.upload(descriptor) as upload:
            upload.write(data[:3_000_000])
        with LayoutStore(store.path).repository(PULLED).upload(descriptor) as upload:
            assert upload.offset == 3_000_000
            for start in range(3_000_000, len(data), 100_000):
                upload.write(data[start : start + 100_000])
            upload.commit()
        assert repository.has(descriptor)
        assert list(store.verify()) == []


# ── Other programs ───────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def both(store: LayoutStore, *, only: Platform | None = None) -> Iterator[dict[str, Image]]:
    """A store with an image and an index of two, in index.json."""
    images = {
        "docker.io/library/app:single": make_image(layers=(1000, 2000, 3000)),
        "docker.io/library/app:many": make_image(layers=(1000, 2000), platforms=["linux/amd64", "linux/arm64"]),
    }
    repository = store.repository(PULLED)
    for name, image in images.items():
        platforms = [only] if only and image.descriptor["mediaType"] == OCI_INDEX else []
        descriptor = put_whole(repository, image, only=only if platforms else None)
        repository.tag(name.rpartition(":")[2], descriptor, platforms=platforms)
    store.publish_index()
    yield images


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("only", [None, AMD64], ids=["all", "chosen"])
def test_skopeo_reads_it(store: LayoutStore, tmp_path: Path, only: Platform | None) -> None:
    with both(store, only=only) as images:
        for name, image in images.items():
            source = f"oci:{store.path}:{name}"
            told = json.loads(skopeo("--override-arch", "amd64", "inspect", source, home=tmp_path))
            assert told["Digest"] == image.digest
            assert len(told["Layers"]) == 3
            target = tmp_path / "copied" / name.rpartition(":")[2]
            target.parent.mkdir(exist_ok=True)
            everything_there = [] if only else ["--all"]
            skopeo(
                "--override-arch",
                "amd64",
                "copy",
                "--quiet",
                *everything_there,
                source,
                f"oci:{target}:x",
                home=tmp_path,
            )
            copied = {path.name for path in (target / "blobs" / "sha256").iterdir()}
            assert copied <= {digest.partition(":")[2] for digest in image.blobs}
            assert len(copied) == (len(image.blobs) if not only else 5)


@pytest.mark.real("skopeo")
def test_skopeo_writes_beside_us(store: LayoutStore, tmp_path: Path) -> None:
    theirs = make_image(layers=(500, 700))
    with both(store) as images:
        source = theirs.write_layout(tmp_path / "theirs", "v1")
        skopeo("copy", "--quiet", f"oci:{source}:v1", f"oci:{store.path}:theirs", home=tmp_path)
        store.publish_index()
        store.gc(grace_seconds=0)
        assert list(store.verify()) == []
        expected = {"theirs": theirs.digest, **{name: image.digest for name, image in images.items()}}
        for name, digest in expected.items():
            told = json.loads(skopeo("inspect", f"oci:{store.path}:{name}", home=tmp_path))
            assert told["Digest"] == digest


@pytest.mark.real("containerd", "ctr")
@pytest.mark.parametrize("only", [None, AMD64], ids=["all", "chosen"])
def test_containerd_imports_it(store: LayoutStore, tmp_path: Path, only: Platform | None) -> None:
    archive = tmp_path / "store.tar"
    with both(store, only=only) as images, Containerd(tmp_path / "containerd") as containerd:
        with tarfile.open(archive, "w") as tar:
            for name in ("oci-layout", "index.json", "blobs"):
                tar.add(store.path / name, name)
        containerd.ctr("images", "import", "--platform", "linux/amd64", "--no-unpack", archive)
        assert containerd.images() == {name: image.digest for name, image in images.items()}
