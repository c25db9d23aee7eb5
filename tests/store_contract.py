"""What every store promises, as tests: subclass `RepositoryContract` with a `repository` fixture, or `StoreContract`
with a `store` fixture that gives a fresh store for each test.

`RepositoryContract` is written against the protocols `Source` and `Sink` and little more, so that it also runs over a
remote repository.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pierhead.body import read_all
from pierhead.errors import UsageError
from pierhead.oci import (
    DOCKER_MANIFEST,
    INDEX_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    InvalidManifest,
    Platform,
)
from pierhead.reference import Digest
from pierhead.store import (
    ContentMismatch,
    Expected,
    InvalidName,
    ManifestBlobUnknown,
    NotFound,
    Repository,
    RepositoryName,
    Sink,
    Store,
    TagMoved,
)

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
LIMIT = 64 * 1024 * 1024

HOSTILE_PATHS = [
    "",
    ".",
    "..",
    "../etc",
    "a/../b",
    "/etc/passwd",
    "a//b",
    "a/",
    "/a",
    "a\0b",
    "_tags",
    "a/_blobs/b",
    "A",
    "a b",
    "é",
    "a\n",
    "a/b\n",
    "-a",
    "a..b",
    "a/.",
    "x" * 300,
    "~root",
    "a\\b",
]
HOSTILE_NAMESPACES = ["..", ".", "_", "../x", "/", "a/b", "a\0", "é.example", "-x", "x" * 300, "a:b", "[::1", "a\n"]
HOSTILE_TAGS = ["", ".", "..", "../x", "a/b", "-a", ".a", "a\0", "é", "a" * 129, "a\n", "a b", "/etc/passwd"]


def blob_of(data: bytes, media_type: str = LAYER, algorithm: str = "sha256") -> Descriptor:
    return Descriptor(media_type, Digest.of(data, algorithm), len(data))


def put(sink: Sink, data: bytes, media_type: str = LAYER, *, algorithm: str = "sha256") -> Descriptor:
    """Upload `data` whole."""
    descriptor = blob_of(data, media_type, algorithm)
    with sink.upload(descriptor) as upload:
        if upload.offset < len(data):
            upload.write(data[upload.offset :])
        upload.commit()
    return descriptor


def manifest_of(
    config: Descriptor, layers: Sequence[Descriptor], *, media_type: str = OCI_MANIFEST, **more: Any
) -> bytes:
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
        **more,
    }
    return json.dumps(value).encode()


def index_of(*items: Descriptor) -> bytes:
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [item.to_json() for item in items]}
    return json.dumps(value).encode()


def put_image(sink: Sink, seed: str = "image", *, layers: int = 2, **more: Any) -> Descriptor:
    """A small image that differs by `seed`, untagged."""
    parts = [put(sink, f"{seed} layer {number}".encode()) for number in range(layers)]
    rootfs = {"type": "layers", "diff_ids": [str(part.digest) for part in parts]}
    config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {"Labels": {"seed": seed}}}
    described = put(sink, json.dumps(config).encode(), OCI_CONFIG)
    return sink.put_manifest(manifest_of(described, parts, **more), OCI_MANIFEST)


class RepositoryContract:
    """What a repository promises as source and sink. Subclasses give the fixture `repository`, empty and fresh."""

    @pytest.fixture
    def repository(self) -> Repository:
        raise NotImplementedError

    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    @pytest.mark.parametrize("data", [b"", b"x", b"layer " * 100_000], ids=["empty", "one", "many"])
    def test_blob_comes_back(self, repository: Repository, data: bytes, algorithm: str) -> None:
        descriptor = blob_of(data, algorithm=algorithm)
        assert not repository.has(descriptor)
        with pytest.raises(NotFound):
            repository.blob(descriptor)

        assert put(repository, data, algorithm=algorithm) == descriptor

        assert repository.has(descriptor)
        blob = repository.blob(descriptor)
        assert read_all(blob, LIMIT) == data
        blob.close()

    def test_blob_from_an_offset(self, repository: Repository) -> None:
        descriptor = put(repository, b"0123456789")
        for offset in range(11):
            blob = repository.blob(descriptor, offset)
            assert read_all(blob, LIMIT) == b"0123456789"[offset:]
            blob.close()

    @pytest.mark.parametrize("wrong", [b"0123456788", b"012345678", b"01234567890", b"", b"1123456789"], ids=str)
    def test_wrong_bytes_are_refused_whole(self, repository: Repository, wrong: bytes) -> None:
        descriptor = blob_of(b"0123456789")

        def send() -> None:
            with repository.upload(descriptor) as upload:
                upload.write(wrong)
                upload.commit()

        with pytest.raises(ContentMismatch):
            send()
        assert not repository.has(descriptor)
        with pytest.raises(NotFound):
            repository.blob(descriptor)
        with repository.upload(descriptor) as upload:
            assert upload.offset == 0
            upload.write(b"0123456789")
            upload.commit()
        assert repository.has(descriptor)

    def test_refused_upload_can_be_sent_again_at_once(self, repository: Repository) -> None:
        descriptor = blob_of(b"0123456789")
        with repository.upload(descriptor) as upload:
            upload.write(b"0123456780")
            with pytest.raises(ContentMismatch):
                upload.commit()
            upload.restart()
            assert upload.offset == 0
            upload.write(memoryview(b"01234"))
            upload.write(bytearray(b"56789"))
            upload.commit()
        assert read_all(repository.blob(descriptor), LIMIT) == b"0123456789"

    def test_buffer_may_be_reused_after_write(self, repository: Repository) -> None:
        data = bytes(range(256)) * 40_000
        descriptor = blob_of(data)
        buffer = bytearray(65_536)
        with repository.upload(descriptor) as upload:
            for start in range(0, len(data), len(buffer)):
                piece = data[start : start + len(buffer)]
                buffer[: len(piece)] = piece
                upload.write(memoryview(buffer)[: len(piece)])
                buffer[:] = bytes(len(buffer))
            upload.commit()
        assert repository.has(descriptor)

    def test_image_by_tag_and_by_digest(self, repository: Repository) -> None:
        descriptor = put_image(repository)
        repository.tag("1.0", descriptor)
        assert repository.resolve("1.0") == descriptor
        assert repository.resolve(str(descriptor.digest)) == descriptor
        assert repository.has(descriptor)
        raw = repository.manifest(descriptor)
        assert Digest.of(raw) == descriptor.digest
        assert len(raw) == descriptor.size_bytes

    def test_tag_moves(self, repository: Repository) -> None:
        old, new = put_image(repository, "old"), put_image(repository, "new")
        repository.tag("latest", old)
        repository.tag("latest", new)
        assert repository.resolve("latest") == new
        assert repository.resolve(str(old.digest)) == old

    def test_nothing_is_found_in_an_empty_repository(self, repository: Repository) -> None:
        absent = blob_of(b"absent", OCI_MANIFEST)
        with pytest.raises(NotFound):
            repository.resolve("latest")
        with pytest.raises(NotFound):
            repository.resolve(str(absent.digest))
        with pytest.raises(NotFound):
            repository.manifest(absent)
        assert not repository.has(absent)

    def test_manifest_needs_its_content(self, repository: Repository) -> None:
        layer, config = put(repository, b"layer"), blob_of(b"config", OCI_CONFIG)
        raw = manifest_of(config, [layer])
        with pytest.raises(ManifestBlobUnknown, match=str(config.digest)):
            repository.put_manifest(raw, OCI_MANIFEST)
        assert not repository.has(blob_of(raw, OCI_MANIFEST))
        put(repository, b"config", OCI_CONFIG)
        assert repository.put_manifest(raw, OCI_MANIFEST) == blob_of(raw, OCI_MANIFEST)

    def test_foreign_layer_need_not_be_here(self, repository: Repository) -> None:
        config = put(repository, b"config", OCI_CONFIG)
        foreign = Descriptor(LAYER, Digest.of(b"foreign"), 7, urls=("https://example.com/layer",))
        descriptor = repository.put_manifest(manifest_of(config, [foreign]), OCI_MANIFEST)
        assert repository.has(descriptor)

    def test_docker_manifest_keeps_its_type_and_bytes(self, repository: Repository) -> None:
        config, layer = put(repository, b"config"), put(repository, b"layer")
        raw = manifest_of(config, [layer], media_type=DOCKER_MANIFEST)
        descriptor = repository.put_manifest(raw, DOCKER_MANIFEST)
        assert descriptor.media_type == DOCKER_MANIFEST
        assert repository.resolve(str(descriptor.digest)).media_type == DOCKER_MANIFEST
        assert repository.manifest(descriptor) == raw

    @pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"not json", b'{"schemaVersion":1}'], ids=repr)
    def test_what_is_no_manifest_is_refused(self, repository: Repository, raw: bytes) -> None:
        with pytest.raises(InvalidManifest):
            repository.put_manifest(raw, OCI_MANIFEST)

    @pytest.mark.parametrize("tag", HOSTILE_TAGS, ids=repr)
    def test_hostile_tags_are_refused(self, repository: Repository, tag: str) -> None:
        descriptor = put_image(repository)
        with pytest.raises(InvalidName):
            repository.tag(tag, descriptor)
        with pytest.raises(InvalidName):
            repository.resolve(tag)

    @pytest.mark.parametrize("reference", ["sha256:", "sha256:../../x", "md5:" + "0" * 32, "sha256:" + "A" * 64, ":"])
    def test_hostile_digests_are_refused(self, repository: Repository, reference: str) -> None:
        with pytest.raises(UsageError):
            repository.resolve(reference)


class StoreContract(RepositoryContract):
    """What a whole store promises. Subclasses give the fixture `store`."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def repository(self, store: Store) -> Repository:
        return store.repository(RepositoryName("library/app", "docker.io"))

    @pytest.fixture
    def own(self, store: Store) -> Repository:
        return store.repository(RepositoryName("team/app"))

    # Uploads

    def test_interrupted_upload_goes_on(self, repository: Repository) -> None:
        descriptor = blob_of(b"0123456789")
        with repository.upload(descriptor) as upload:
            upload.write(b"0123")
        assert not repository.has(descriptor)
        with repository.upload(descriptor) as upload:
            assert upload.offset == 4
            upload.write(b"456789")
            upload.commit()
        assert read_all(repository.blob(descriptor), LIMIT) == b"0123456789"

    def test_upload_left_by_an_error_goes_on(self, repository: Repository) -> None:
        descriptor = blob_of(b"0123456789")

        def cut() -> None:
            with repository.upload(descriptor) as upload:
                upload.write(b"012")
                raise ConnectionError

        with pytest.raises(ConnectionError):
            cut()
        with repository.upload(descriptor) as upload:
            assert upload.offset == 3

    def test_wrong_beginning_is_not_kept(self, repository: Repository) -> None:
        descriptor = blob_of(b"0123456789")
        with repository.upload(descriptor) as upload:
            upload.write(b"wrong")
        with repository.upload(descriptor) as upload:
            assert upload.offset == 5
            upload.write(b"56789")
            with pytest.raises(ContentMismatch):
                upload.commit()
        with repository.upload(descriptor) as upload:
            assert upload.offset == 0

    def test_blob_of_another_repository_needs_no_bytes(self, repository: Repository, own: Repository) -> None:
        descriptor = put(repository, b"shared")
        assert not own.has(descriptor)
        with own.upload(descriptor) as upload:
            assert upload.offset == descriptor.size_bytes
            upload.commit()
        assert own.has(descriptor)

    def test_present_blob_can_be_sent_anyway(self, repository: Repository, own: Repository) -> None:
        descriptor = put(repository, b"shared")
        with own.upload(descriptor) as upload:
            upload.restart()
            assert upload.offset == 0
            upload.write(b"shared")
            upload.commit()
        assert read_all(own.blob(descriptor), LIMIT) == b"shared"

    def test_one_writer_at_a_time(self, repository: Repository) -> None:
        data = bytes(100_000)
        descriptor = blob_of(data)
        sent: list[int] = []
        barrier = threading.Barrier(4)

        def send() -> None:
            barrier.wait(10)
            with repository.upload(descriptor) as upload:
                rest = data[upload.offset :]
                sent.append(len(rest))
                for start in range(0, len(rest), 1000):
                    upload.write(rest[start : start + 1000])
                upload.commit()

        in_threads(send, 4)
        assert sorted(sent) == [0, 0, 0, len(data)]
        assert repository.has(descriptor)

    # Sessions

    def test_session_from_begin_to_commit(self, own: Repository) -> None:
        session = own.begin()
        session.write(b"012")
        session.write(b"345")
        session.close()
        session = own.session(session.id)
        assert session.offset == 6
        session.write(b"6789")
        descriptor = session.commit(Digest.of(b"0123456789"))
        session.close()
        assert descriptor.size_bytes == 10
        assert read_all(own.blob(descriptor), LIMIT) == b"0123456789"
        assert own.stat_blob(descriptor.digest) == descriptor
        with pytest.raises(NotFound):
            own.session(session.id)

    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    @pytest.mark.parametrize("data", [b"", b"data"])
    def test_session_of_any_algorithm(self, own: Repository, data: bytes, algorithm: str) -> None:
        session = own.begin()
        session.close()
        session = own.session(session.id)
        session.write(data)
        assert own.has(session.commit(Digest.of(data, algorithm)))

    def test_session_with_the_wrong_digest_is_gone(self, own: Repository) -> None:
        session = own.begin()
        session.write(b"data")
        with pytest.raises(ContentMismatch):
            session.commit(Digest.of(b"other"))
        session.close()
        for data in (b"data", b"other"):
            with pytest.raises(NotFound):
                own.stat_blob(Digest.of(data))
        with pytest.raises(NotFound):
            own.session(session.id)

    def test_aborted_session_is_gone(self, own: Repository) -> None:
        session = own.begin()
        session.write(b"data")
        session.abort()
        with pytest.raises(NotFound):
            own.session(session.id)

    def test_session_belongs_to_its_repository(self, own: Repository, repository: Repository) -> None:
        session = own.begin()
        session.close()
        with pytest.raises(NotFound):
            repository.session(session.id)
        own.session(session.id).abort()

    @pytest.mark.parametrize("id", ["", "..", "../../oci-layout", "x" * 300, "a\0b", "é", "0" * 32, "/etc/passwd"])
    def test_no_session_of_a_made_up_id(self, own: Repository, id: str) -> None:
        with pytest.raises(NotFound):
            own.session(id)

    def test_session_ids_differ(self, own: Repository) -> None:
        sessions = [own.begin() for _ in range(20)]
        assert len({session.id for session in sessions}) == 20
        for session in sessions:
            session.abort()

    # Visibility

    def test_blob_is_visible_only_where_it_was_put(self, repository: Repository, own: Repository) -> None:
        descriptor = put(repository, b"here")
        assert not own.has(descriptor)
        with pytest.raises(NotFound):
            own.blob(descriptor)
        with pytest.raises(NotFound):
            own.stat_blob(descriptor.digest)

    def test_mount(self, repository: Repository, own: Repository) -> None:
        descriptor = put(repository, b"here")
        assert not own.mount(blob_of(b"absent"), repository.name)
        assert not own.mount(descriptor, RepositoryName("no/such"))
        assert own.mount(descriptor, repository.name)
        assert read_all(own.blob(descriptor), LIMIT) == b"here"

    def test_delete_blob_here_only(self, repository: Repository, own: Repository) -> None:
        descriptor = put(repository, b"here")
        own.mount(descriptor, repository.name)
        own.delete(descriptor)
        assert not own.has(descriptor)
        assert repository.has(descriptor)
        with pytest.raises(NotFound):
            own.delete(descriptor)

    def test_delete_manifest_with_its_tags(self, own: Repository) -> None:
        gone, kept = put_image(own, "gone"), put_image(own, "kept")
        for tag in ("a", "b"):
            own.tag(tag, gone)
        own.tag("c", kept)
        own.delete(gone)
        assert own.tags() == ["c"]
        for reference in ("a", str(gone.digest)):
            with pytest.raises(NotFound):
                own.resolve(reference)
        with pytest.raises(NotFound):
            own.manifest(gone)
        with pytest.raises(NotFound):
            own.delete(gone)

    def test_index_needs_its_images_unless_sparse(self, own: Repository) -> None:
        here = put_image(own, "here")
        raw = index_of(here, blob_of(b"absent", OCI_MANIFEST))
        with pytest.raises(ManifestBlobUnknown):
            own.put_manifest(raw, OCI_INDEX)
        descriptor = own.put_manifest(raw, OCI_INDEX, sparse=True)
        assert descriptor.media_type in INDEX_TYPES
        assert own.manifest(descriptor) == raw
        assert own.put_manifest(index_of(here), OCI_INDEX).media_type in INDEX_TYPES

    def test_manifest_by_sha512(self, own: Repository) -> None:
        raw = index_of(put_image(own))
        descriptor = own.put_manifest(raw, OCI_INDEX, algorithm="sha512")
        assert descriptor.digest == Digest.of(raw, "sha512")
        assert own.manifest(own.resolve(str(descriptor.digest))) == raw

    # Names

    def test_tag_needs_its_manifest(self, own: Repository, repository: Repository) -> None:
        elsewhere = put_image(repository)
        with pytest.raises(NotFound):
            own.tag("latest", elsewhere)

    def test_compare_and_set(self, own: Repository) -> None:
        first, second = put_image(own, "first"), put_image(own, "second")
        with pytest.raises(TagMoved):
            own.tag("t", first, expected=second.digest)
        own.tag("t", first, expected=Expected.NOTHING)
        with pytest.raises(TagMoved):
            own.tag("t", second, expected=Expected.NOTHING)
        with pytest.raises(TagMoved):
            own.tag("t", second, expected=second.digest)
        assert own.resolve("t") == first
        own.tag("t", second, expected=first.digest)
        assert own.resolve("t") == second

    def test_one_winner_of_a_race(self, own: Repository) -> None:
        images = [put_image(own, str(number)) for number in range(4)]
        barrier = threading.Barrier(len(images))
        waiting = iter(images)
        won: list[Descriptor] = []

        def claim() -> None:
            image = next(waiting)
            barrier.wait(10)
            try:
                own.tag("t", image, expected=Expected.NOTHING)
            except TagMoved:
                return
            won.append(image)

        in_threads(claim, len(images))
        assert won == [own.resolve("t")]

    def test_untag(self, own: Repository) -> None:
        descriptor = put_image(own)
        own.tag("t", descriptor)
        own.untag("t")
        assert own.tags() == []
        assert own.resolve(str(descriptor.digest)) == descriptor
        with pytest.raises(NotFound):
            own.untag("t")

    def test_tags_by_pages(self, own: Repository) -> None:
        with pytest.raises(NotFound):
            own.tags()
        descriptor = put_image(own)
        for tag in ("b", "a", "C", "_x", "1.10", "1.9"):
            own.tag(tag, descriptor)
        own.tag(str(descriptor.digest), descriptor)
        everything = sorted(["b", "a", "C", "_x", "1.10", "1.9"])
        assert own.tags() == everything
        assert own.tags(limit=2) == everything[:2]
        assert own.tags(last=everything[1], limit=3) == everything[2:5]
        assert own.tags(last="zzz") == []
        assert own.tags(last="1.5", limit=1) == ["1.9"]
        assert own.tags(limit=0) == []

    def test_repositories_by_pages(self, store: Store) -> None:
        names = [
            RepositoryName("a"),
            RepositoryName("a/b"),
            RepositoryName("a/b/c"),
            RepositoryName("library/redis", "docker.io"),
            RepositoryName("app", "[::1]:5000"),
            RepositoryName("blobs/uploads", "localhost:5000"),
        ]
        assert store.repositories() == []
        for name in names:
            put_image(store.repository(name))
        ordered = sorted(names, key=str)
        assert store.repositories() == ordered
        assert store.repositories(limit=2) == ordered[:2]
        assert store.repositories(last=str(ordered[1]), limit=2) == ordered[2:4]

    def test_names_of_the_store(self, store: Store, repository: Repository, own: Repository) -> None:
        pulled, pushed = put_image(repository), put_image(own)
        platforms = (Platform.parse("linux/amd64"), Platform.parse("linux/arm/v7"))
        repository.tag("7", pulled, platforms=platforms)
        repository.tag(str(pulled.digest), pulled)
        own.tag("b", pushed)
        own.tag("a", pushed)
        names = list(store.names())
        assert [str(name) for name in names] == [
            "docker.io/library/app:7",
            f"docker.io/library/app@{pulled.digest}",
            "team/app:a",
            "team/app:b",
        ]
        assert names[0].platforms == platforms
        assert names[0].descriptor == pulled
        assert names[1].platforms == ()

    def test_repository_within_a_repository(self, store: Store) -> None:
        outer, inner = (store.repository(RepositoryName(path)) for path in ("tags/list", "tags/list/manifests"))
        put_image(outer)
        with pytest.raises(NotFound):
            inner.tags()
        descriptor = put_image(inner, "inner")
        inner.tag("t", descriptor)
        assert outer.tags() == []

    def test_same_name_with_and_without_registry(self, store: Store) -> None:
        plain = store.repository(RepositoryName("docker.io/library/redis"))
        pulled = store.repository(RepositoryName("library/redis", "docker.io"))
        plain.tag("7", put_image(plain, "plain"))
        with pytest.raises(NotFound):
            pulled.resolve("7")

    # Referrers

    def test_referrers(self, own: Repository) -> None:
        subject = put_image(own)
        signature = put_image(
            own, "signature", subject=subject.to_json(), artifactType="example/signature", annotations={"k": "v"}
        )
        sbom = put_image(own, "sbom", subject=subject.to_json(), artifactType="example/sbom")
        assert {item.digest for item in own.referrers(subject.digest)} == {signature.digest, sbom.digest}
        (found,) = own.referrers(subject.digest, "example/signature")
        assert (found, found.annotations, found.artifact_type) == (
            Descriptor(OCI_MANIFEST, signature.digest, signature.size_bytes, artifact_type="example/signature"),
            {"k": "v"},
            "example/signature",
        )
        assert own.referrers(subject.digest, "example/other") == []
        own.delete(signature)
        assert [item.digest for item in own.referrers(subject.digest)] == [sbom.digest]

    def test_subject_may_come_later(self, own: Repository) -> None:
        absent = blob_of(b"absent", OCI_MANIFEST)
        early = put_image(own, "early", subject=absent.to_json())
        assert [item.digest for item in own.referrers(absent.digest)] == [early.digest]
        assert own.referrers(early.digest) == []

    # Names that are none

    @pytest.mark.parametrize("path", HOSTILE_PATHS, ids=lambda path: repr(path[:20]))
    def test_hostile_repositories_are_refused(self, store: Store, path: str) -> None:
        with pytest.raises(InvalidName) as refused:
            store.repository(RepositoryName(path))
        assert refused.value.hint

    @pytest.mark.parametrize("namespace", HOSTILE_NAMESPACES, ids=lambda name: repr(name[:20]))
    def test_hostile_registries_are_refused(self, store: Store, namespace: str) -> None:
        with pytest.raises(InvalidName):
            store.repository(RepositoryName("app", namespace))

    @pytest.mark.parametrize("namespace", ["docker.io", "[::1]:5000", "localhost:5000", "LOCALHOST", "my_host:1"])
    def test_registries_that_containerd_takes(self, store: Store, namespace: str) -> None:
        repository = store.repository(RepositoryName("app", namespace))
        repository.tag("t", put_image(repository))
        assert [str(name) for name in store.names()] == [f"{namespace}/app:t"]

    def test_lease_is_a_context(self, store: Store, own: Repository) -> None:
        with store.lease(), store.lease():
            put_image(own)


def in_threads(action: Callable[[], None], count: int) -> None:
    """Run `action` in `count` threads at once; the first error of any is raised."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
