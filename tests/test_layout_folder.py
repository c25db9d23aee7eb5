"""A plain layout folder as a sink: what it promises, and what other programs find in it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from images import Image, make_image
from pierhead.archive import LayoutFolder, open_archive
from pierhead.archive.folder import WORK
from pierhead.archive.invalid import InvalidArchive
from pierhead.body import read_all
from pierhead.errors import PierheadError, UsageError
from pierhead.layout import LayoutStore
from pierhead.oci import OCI_MANIFEST, Descriptor
from pierhead.reference import Digest
from pierhead.store import (
    ContentMismatch,
    Expected,
    InvalidName,
    NotFound,
    Repository,
    RepositoryName,
    StoreUnwritable,
    TagMoved,
)
from pierhead.transfer import Transfer
from real import clean_environment, run, skopeo
from store_contract import HOSTILE_TAGS, LIMIT, RepositoryContract, blob_of, in_threads, put, put_image

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
# What is no tag, and is a name all the same: the only image, and a full reference.
NAMES_HERE = {"", "a/b"}


class TestLayoutFolderKeepsTheContract(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Any:
        return LayoutFolder(tmp_path / "layout")

    @pytest.mark.parametrize("tag", [tag for tag in HOSTILE_TAGS if tag not in NAMES_HERE], ids=repr)
    def test_hostile_tags_are_refused(self, repository: Repository, tag: str) -> None:
        descriptor = put_image(repository)
        with pytest.raises(InvalidName):
            repository.tag(tag, descriptor)
        with pytest.raises(InvalidName):
            repository.resolve(tag)


@pytest.fixture
def folder(tmp_path: Path) -> LayoutFolder:
    return LayoutFolder(tmp_path / "layout")


def entries(folder: LayoutFolder) -> list[dict[str, Any]]:
    index: dict[str, Any] = json.loads((folder.path / "index.json").read_bytes())
    return list(index["manifests"])


def copy_into(folder: LayoutFolder, image: Image, *names: str, work: Path) -> None:
    with open_archive(image.write_layout(work)) as archive, Transfer() as transfer:
        transfer.copy(archive.content, folder, image.digest, names=names)


def test_an_empty_layout_is_not_made_before_it_is_written_to(folder: LayoutFolder) -> None:
    assert folder.images == ()
    with pytest.raises(NotFound):
        folder.resolve("latest")
    assert not folder.path.exists()


def test_a_layout_has_its_own_files_and_no_others(folder: LayoutFolder, tmp_path: Path) -> None:
    image = make_image(platforms=["linux/amd64", "linux/arm64"])
    copy_into(folder, image, "v1", work=tmp_path / "source")
    files = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    assert files == {"oci-layout", "index.json", *(f"blobs/{digest.replace(':', '/')}" for digest in image.blobs)}
    assert [path.name for path in folder.path.iterdir() if path.name.startswith(".")] == []
    for digest, data in image.blobs.items():
        assert (folder.path / "blobs" / digest.replace(":", "/")).read_bytes() == data


def test_a_tag_and_a_full_name_in_the_annotations_that_other_programs_read(folder: LayoutFolder) -> None:
    descriptor = put_image(folder)
    plain = {"mediaType": OCI_MANIFEST, "digest": str(descriptor.digest), "size": descriptor.size_bytes}
    folder.tag("v1", descriptor)
    folder.tag("redis:7", descriptor)
    assert entries(folder) == [
        {**plain, "annotations": {REF_NAME: "v1"}},
        {**plain, "annotations": {REF_NAME: "redis:7", CONTAINERD_NAME: "docker.io/library/redis:7"}},
    ]
    assert [str(image.reference or image.name) for image in folder.images] == ["v1", "docker.io/library/redis:7"]
    assert folder.resolve("docker.io/library/redis:7") == folder.find("redis:7").descriptor == descriptor


@pytest.mark.parametrize("by", ["nothing", "digest"])
def test_an_image_without_a_name_is_listed_once(folder: LayoutFolder, by: str) -> None:
    descriptor = put_image(folder)
    name = "" if by == "nothing" else str(descriptor.digest)
    for _ in range(2):
        folder.tag(name, descriptor)
    assert [set(entry) for entry in entries(folder)] == [{"mediaType", "digest", "size"}]
    assert folder.resolve("") == descriptor


def test_entries_of_other_programs_are_kept_as_they_are(folder: LayoutFolder) -> None:
    old, new = put_image(folder, "old"), put_image(folder, "new")
    foreign = {**old.to_json(), "annotations": {REF_NAME: "theirs", "k": "v"}, "platform": {"os": "x", "odd": [1]}}
    replaced = {**old.to_json(), "annotations": {REF_NAME: "library/redis:7"}}
    folder.tag("first", old)
    index = {"schemaVersion": 2, "manifests": [foreign, replaced, *entries(folder)], "annotations": {"a": "b"}}
    (folder.path / "index.json").write_text(json.dumps(index))
    folder.tag("docker.io/library/redis:7", new)
    value = json.loads((folder.path / "index.json").read_bytes())
    assert value["annotations"] == {"a": "b"}
    assert value["manifests"][0] == foreign
    assert [entry["annotations"][REF_NAME] for entry in value["manifests"]] == [
        "theirs",
        "docker.io/library/redis:7",
        "first",
    ]
    assert folder.resolve("library/redis:7") == new
    assert folder.resolve("theirs") == folder.resolve("first") == old


def test_a_name_that_containerd_has_gives_way_to_the_same_name(folder: LayoutFolder) -> None:
    old, new = put_image(folder, "old"), put_image(folder, "new")
    folder.tag("first", old)
    exported = {**old.to_json(), "annotations": {CONTAINERD_NAME: "docker.io/library/redis:7", REF_NAME: "7"}}
    (folder.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [exported]}))
    folder.tag("redis:7", new)
    assert [entry["digest"] for entry in entries(folder)] == [str(new.digest)]


def test_tagging_twice_writes_once(folder: LayoutFolder) -> None:
    descriptor = put_image(folder)
    folder.tag("a", descriptor)
    folder.tag("b", descriptor)
    before = (folder.path / "index.json").stat()
    folder.tag("a", descriptor)
    after = (folder.path / "index.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_compare_and_set(folder: LayoutFolder) -> None:
    first, second = put_image(folder, "first"), put_image(folder, "second")
    folder.tag("t", first, expected=Expected.NOTHING)
    with pytest.raises(TagMoved):
        folder.tag("t", second, expected=Expected.NOTHING)
    with pytest.raises(TagMoved):
        folder.tag("t", second, expected=second.digest)
    folder.tag("t", second, expected=first.digest)
    assert folder.resolve("t") == second


def test_a_blob_that_came_in_part_is_gone_on_with(folder: LayoutFolder) -> None:
    descriptor = blob_of(b"0123456789")
    with folder.upload(descriptor) as upload:
        upload.write(b"0123")
    assert (folder.path / WORK).is_dir()
    again = LayoutFolder(folder.path)
    with again.upload(descriptor) as upload:
        assert upload.offset == 4
        upload.write(b"456789")
        upload.commit()
    assert read_all(again.blob(descriptor), LIMIT) == b"0123456789"
    assert not (folder.path / WORK).exists()


def test_a_part_of_one_blob_outlives_the_copy_of_others(folder: LayoutFolder) -> None:
    descriptor = blob_of(b"0123456789")
    with folder.upload(descriptor) as upload:
        upload.write(b"0123")
    folder.tag("v1", put_image(folder))
    with folder.upload(descriptor) as upload:
        assert upload.offset == 4


def test_many_writers_at_once_lose_no_name(folder: LayoutFolder) -> None:
    numbers = iter(range(8))

    def write() -> None:
        number = next(numbers)
        own = LayoutFolder(folder.path)
        put(own, b"shared" * 1000)
        own.tag(f"v{number}", put_image(own, str(number)))

    in_threads(write, 8)
    assert {image.name for image in folder.images} == {f"v{number}" for number in range(8)}
    assert not (folder.path / WORK).exists()


def _write_in_a_process(path: Path, number: int) -> None:
    folder = LayoutFolder(path)
    for again in range(5):
        folder.tag(f"p{number}-{again}", put_image(folder, f"{number} {again}"))


def test_processes_at_once_lose_no_name(folder: LayoutFolder) -> None:
    spawning = multiprocessing.get_context("spawn")
    processes = [spawning.Process(target=_write_in_a_process, args=(folder.path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert {image.name for image in folder.images} == {f"p{n}-{again}" for n in range(3) for again in range(5)}
    assert not (folder.path / WORK).exists()


def test_a_damaged_blob_is_sent_again_when_its_size_is_wrong(folder: LayoutFolder) -> None:
    descriptor = put(folder, b"0123456789")
    path = folder.path / "blobs/sha256" / descriptor.digest.hex
    path.write_bytes(b"0123")
    assert not folder.has(descriptor)
    with pytest.raises(ContentMismatch, match="damaged"):
        folder.blob(descriptor)
    put(folder, b"0123456789")
    assert path.read_bytes() == b"0123456789"


def test_a_damaged_manifest_is_no_manifest(folder: LayoutFolder) -> None:
    descriptor = put_image(folder)
    path = folder.path / "blobs/sha256" / descriptor.digest.hex
    path.write_bytes(b"x" * descriptor.size_bytes)
    with pytest.raises(ContentMismatch, match="damaged"):
        folder.manifest(descriptor)


def _someone_elses(path: Path) -> None:
    path.mkdir()
    (path / "letters.txt").write_text("dear")


def _a_store(path: Path) -> None:
    own = LayoutStore(path).repository(RepositoryName("app"))
    own.tag("v1", put_image(own))


def _of_tomorrow(path: Path) -> None:
    path.mkdir()
    (path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (_someone_elses, UsageError),
        (_a_store, UsageError),
        (_of_tomorrow, InvalidArchive),
        (lambda path: path.write_text("a file"), UsageError),
    ],
)
def test_what_is_no_layout_is_not_written_to(tmp_path: Path, make: Any, error: type[PierheadError]) -> None:
    make(tmp_path / "there")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error) as refused:
        LayoutFolder(tmp_path / "there")
    assert refused.value.hint
    assert sorted(tmp_path.rglob("*")) == before


def test_an_index_that_cannot_be_read_is_not_written_over(folder: LayoutFolder) -> None:
    descriptor = put_image(folder)
    folder.tag("v1", descriptor)
    (folder.path / "index.json").write_text('{"manifests": [')
    with pytest.raises(InvalidArchive, match="index"):
        folder.tag("v2", descriptor)
    assert (folder.path / "index.json").read_text() == '{"manifests": ['


def test_a_killed_first_writer_leaves_a_folder_that_can_be_written(tmp_path: Path) -> None:
    folder = LayoutFolder(tmp_path / "layout")
    put(folder, b"a blob, and then the process died")
    assert not (folder.path / "oci-layout").exists()
    again = LayoutFolder(folder.path)
    again.tag("v1", put_image(again))
    assert [image.name for image in again.images] == ["v1"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["pwrite", "write", "fsync", "rename", "mkdir"])
def test_a_refusal_speaks_of_this_folder_and_of_no_store(
    folder: LayoutFolder, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    def refused(*arguments: Any, **more: Any) -> Any:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refused)
        with pytest.raises(StoreUnwritable) as caught:
            folder.tag("7", put_image(folder))
    assert str(folder.path) in caught.value.message
    assert caught.value.hint
    assert "gc" not in caught.value.hint
    assert "--root" not in caught.value.hint
    if error in (errno.ENOSPC, errno.EDQUOT):
        assert "free some space on that disk" in caught.value.hint
    folder.tag("7", put_image(folder))


def test_a_store_is_read_as_a_layout(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path)
    own = store.repository(RepositoryName("library/redis", "docker.io"))
    own.tag("7", put_image(own))
    store.publish_index()
    with open_archive(tmp_path) as archive:
        assert archive.find("redis:7").descriptor.digest == own.resolve("7").digest


@pytest.mark.real("skopeo")
def test_skopeo_reads_what_is_written_and_writes_beside_it(tmp_path: Path) -> None:
    folder, image = LayoutFolder(tmp_path / "layout"), make_image(platforms=["linux/amd64", "linux/arm64"])
    copy_into(folder, image, "docker.io/library/redis:7", work=tmp_path / "source")
    read = f"oci:{folder.path}:docker.io/library/redis:7"
    skopeo("copy", "--all", "--preserve-digests", read, f"dir:{tmp_path / 'out'}", home=tmp_path)
    assert (tmp_path / "out/manifest.json").read_bytes() == image.blobs[image.digest]
    other = make_image(layers=[b"other"])
    source = f"oci:{other.write_layout(tmp_path / 'other')}:latest"
    skopeo("copy", "--preserve-digests", source, f"oci:{folder.path}:v2", home=tmp_path)
    assert folder.resolve("v2") == Descriptor(OCI_MANIFEST, Digest.parse(other.digest), other.descriptor["size"])
    assert str(folder.resolve("redis:7").digest) == image.digest


def test_docker_manifests_keep_their_types(folder: LayoutFolder, tmp_path: Path) -> None:
    """containerd imports such; skopeo finds only OCI's own types in an index.json (oci_transport.go)."""
    image = make_image(media="docker", platforms=["linux/amd64", "linux/arm64"])
    copy_into(folder, image, "redis:7", work=tmp_path / "source")
    assert entries(folder)[0]["mediaType"] == image.descriptor["mediaType"]
    assert {str(digest): kind for digest, kind in image.manifests.items()} == {
        digest: folder.resolve(digest).media_type for digest in image.manifests
    }


@pytest.mark.real("podman")
def test_podman_pulls_from_what_is_written(tmp_path: Path) -> None:
    folder, image = LayoutFolder(tmp_path / "layout"), make_image(layers=[b"one", b"two"])
    copy_into(folder, image, "docker.io/library/redis:7", work=tmp_path / "source")
    with tempfile.TemporaryDirectory(prefix="podman-") as short:
        state = ("--root", tmp_path / "root", "--runroot", short, "--tmpdir", f"{short}/libpod")
        source = f"oci:{folder.path}:docker.io/library/redis:7"
        trusting = ("--signature-policy", _policy(tmp_path))
        printed = run(
            ("podman", *state, "--storage-driver", "vfs", "pull", "--quiet", *trusting, source),
            clean_environment(tmp_path, XDG_RUNTIME_DIR=str(tmp_path)),
        )
    assert printed.strip() == image.manifest["config"]["digest"].partition(":")[2]


def _policy(folder: Path) -> Path:
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return folder / "policy.json"
