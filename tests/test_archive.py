"""Archives that are as they should be: layouts and docker archives, in every dress that tools give them."""

from __future__ import annotations

import bz2
import gzip
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from images import REF_NAME, Image, make_image
from pierhead.archive import Archive, open_archive
from pierhead.body import FileBlob, read_all
from pierhead.errors import UsageError
from pierhead.memory import MemoryStore
from pierhead.oci import DOCKER_MANIFEST, Descriptor
from pierhead.reference import Digest, InvalidDigest
from pierhead.store import ContentMismatch, NotFound, RepositoryName
from pierhead.transfer import Transfer
from tarballs import (
    CONTAINERD_NAME,
    DockerImage,
    by_full_name,
    by_tag,
    docker_files,
    expected_manifest,
    layer_of,
    layout_files,
    member,
    sha256,
    tar,
    tar_of,
)

IMAGE = make_image(layers=[b"one", 5000], platforms=["linux/amd64", "linux/arm64"])
OTHER = make_image(layers=[b"other"], media="docker")
LAYERS = (layer_of(b"base"), layer_of(b"top"))
LIMIT = 1 << 24


def pulled(archive: Archive, name: str) -> dict[str, bytes]:
    """Everything that belongs to an image, copied out of an archive, by digest."""
    store = MemoryStore()
    with Transfer() as transfer:
        transfer.copy(archive.content, store.repository(RepositoryName("a")), str(archive.find(name).descriptor.digest))
    return {str(digest): data for digest, data in store.pool.items()}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


FULL = "docker.io/library/redis:7"
DRESSES: dict[str, Callable[[Path], Path]] = {
    "folder": lambda at: IMAGE.write_layout(at / "layout", FULL),
    "tar": lambda at: IMAGE.write_archive(at / "a.tar", FULL),
    "gzip": lambda at: written(at / "a.tar", gzip.compress(tar_of(layout_files([by_tag(FULL, IMAGE)])))),
    "zstd": lambda at: written(at / "a.gz", zstandard.compress(tar_of(layout_files([by_tag(FULL, IMAGE)])))),
    "bzip2": lambda at: written(at / "a", bz2.compress(tar_of(layout_files([by_tag(FULL, IMAGE)])))),
    "docker save since 25": lambda at: written(
        at / "a.tar", tar_of({"manifest.json": b"[]", **layout_files([by_full_name(FULL, IMAGE)])})
    ),
    "GNU tar of .": lambda at: gnu_tar(IMAGE.write_layout(at / "layout", FULL), at / "a.tar", "--format=gnu", "."),
    "pax": lambda at: gnu_tar(IMAGE.write_layout(at / "layout", FULL), at / "a.tar", "--format=pax", "."),
    "v7": lambda at: gnu_tar(IMAGE.write_layout(at / "layout", FULL), at / "a.tar", "--format=v7", "."),
    "hard links": lambda at: written(at / "a.tar", hard_linked()),
}


def gnu_tar(folder: Path, path: Path, *options: str) -> Path:
    subprocess.run(["tar", "-C", folder, "-cf", path, *options], check=True)
    return path


def hard_linked() -> bytes:
    """As GNU tar stores a layout whose blobs are links to those of another: each a link to a name in the archive."""
    files = layout_files([by_tag(FULL, IMAGE)])
    moved = {f"pool/{name}": data for name, data in files.items() if name.startswith("blobs/")}
    links = [member(name, kind=tarfile.LNKTYPE, target=f"pool/{name}") for name in files if f"pool/{name}" in moved]
    plain = {name: data for name, data in files.items() if f"pool/{name}" not in moved}
    return tar(*(member(name, data) for name, data in (moved | plain).items()), *links)


@pytest.mark.parametrize("dress", DRESSES)
def test_every_digest_of_a_layout_is_equal(tmp_path: Path, dress: str) -> None:
    with open_archive(DRESSES[dress](tmp_path), scratch=tmp_path) as archive:
        (image,) = archive.images
        assert (image.name, str(image.reference)) == (FULL, FULL)
        assert image.descriptor.media_type == IMAGE.descriptor["mediaType"]
        for name in ("", "redis:7", FULL, "7", IMAGE.digest):
            assert archive.find(name) == image
        assert archive.content.resolve(FULL) == image.descriptor
        assert pulled(archive, FULL) == IMAGE.blobs


@pytest.mark.parametrize("dress", ["gzip", "zstd", "bzip2"])
def test_a_compressed_archive_leaves_nothing_behind(tmp_path: Path, dress: str) -> None:
    path, scratch = DRESSES[dress](tmp_path), tmp_path / "scratch"
    scratch.mkdir()
    opened = _open_files()
    archive = open_archive(path, scratch=scratch)
    assert _open_files() == opened + 1
    assert list(scratch.iterdir()) == []
    archive.close()
    archive.close()
    assert _open_files() == opened


def test_a_blob_is_a_stretch_of_the_file_that_can_be_read_from_anywhere(tmp_path: Path) -> None:
    with open_archive(IMAGE.write_archive(tmp_path / "a.tar")) as archive:
        for digest, data in IMAGE.blobs.items():
            descriptor = Descriptor("any/type", Digest.parse(digest), len(data))
            blob = archive.content.blob(descriptor, 7)
            assert isinstance(blob, FileBlob)
            assert blob.path == tmp_path / "a.tar"
            assert read_all(blob, LIMIT) == data[7:]
            assert read_all(archive.content.blob(descriptor, len(data) + 5), LIMIT) == b""


def test_a_digest_is_resolved_wherever_it_stands(tmp_path: Path) -> None:
    with open_archive(IMAGE.write_layout(tmp_path)) as archive:
        for digest, kind in IMAGE.manifests.items():
            found = archive.content.resolve(digest)
            assert (found.media_type, found.size_bytes) == (kind, len(IMAGE.blobs[digest]))
            assert archive.content.manifest(found) == IMAGE.blobs[digest]
        with pytest.raises(NotFound):
            archive.content.resolve(f"sha256:{'0' * 64}")
        with pytest.raises(InvalidDigest):
            archive.content.resolve("sha256:../../etc/passwd")
        assert not archive.content.reject(found)


def test_what_is_missing_is_missed_when_it_is_asked_for(tmp_path: Path) -> None:
    """As containerd exports an index of which it has one platform, and K3s imports it."""
    arm = IMAGE.manifest["manifests"][1]["digest"]
    files = {name: data for name, data in layout_files([by_tag("v1", IMAGE)]).items() if arm[7:] not in name}
    with open_archive(written(tmp_path / "a.tar", tar_of(files))) as archive:
        descriptor = archive.find("v1").descriptor
        assert archive.content.manifest(descriptor) == IMAGE.blobs[IMAGE.digest]
        with pytest.raises(NotFound, match=f"a.tar does not have {arm}"):
            archive.content.resolve(arm)


# Names


def names_archive(tmp_path: Path) -> Archive:
    named = [
        by_full_name("docker.io/library/redis:7", IMAGE),
        by_full_name("quay.io/team/redis:7", OTHER),
        by_tag("v1", IMAGE),
        by_tag("registry.example:5000/app:v2", OTHER),
        ({}, OTHER),
    ]
    return open_archive(written(tmp_path / "a.tar", tar_of(layout_files(named))))


def test_names_as_the_field_writes_them(tmp_path: Path) -> None:
    with names_archive(tmp_path) as archive:
        assert [(image.name, str(image.reference or "")) for image in archive.images] == [
            ("docker.io/library/redis:7", "docker.io/library/redis:7"),
            ("quay.io/team/redis:7", "quay.io/team/redis:7"),
            ("v1", ""),
            ("registry.example:5000/app:v2", "registry.example:5000/app:v2"),
            ("", ""),
        ]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("redis:7", IMAGE),
        ("docker.io/redis:7", IMAGE),
        ("quay.io/team/redis:7", OTHER),
        ("v1", IMAGE),
        ("v2", OTHER),
        (IMAGE.digest, IMAGE),
        (OTHER.digest, OTHER),
    ],
)
def test_an_image_is_found_by_any_of_its_names(tmp_path: Path, name: str, found: Image) -> None:
    with names_archive(tmp_path) as archive:
        assert str(archive.find(name).descriptor.digest) == found.digest


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("", UsageError, "has 2 images, and it is not said which is meant"),
        ("7", UsageError, "has 2 images that '7' fits"),
        ("redis", NotFound, "has no image 'redis'"),
        ("docker.io/team/redis:7", NotFound, "has no image"),
        ("v1\x1b[31m", NotFound, r"'v1\\x1b\[31m'"),
    ],
)
def test_what_is_not_found_says_what_there_is(tmp_path: Path, name: str, error: Any, says: str) -> None:
    with names_archive(tmp_path) as archive, pytest.raises(error, match=says) as refused:
        archive.find(name)
    assert "docker.io/library/redis:7, quay.io/team/redis:7, v1" in refused.value.hint


def test_an_empty_layout_has_no_image(tmp_path: Path) -> None:
    with open_archive(written(tmp_path / "a.tar", tar_of(layout_files([])))) as archive:
        assert archive.images == ()
        with pytest.raises(NotFound, match="has no image") as refused:
            archive.find("")
    assert refused.value.hint == "it is empty"


def test_one_image_listed_twice_is_one(tmp_path: Path) -> None:
    named = [by_tag("v1", IMAGE), by_tag("v1", IMAGE), by_full_name("docker.io/library/redis:7", IMAGE)]
    with open_archive(written(tmp_path / "a.tar", tar_of(layout_files(named)))) as archive:
        assert [image.name for image in archive.images] == ["v1", "docker.io/library/redis:7"]


def test_the_index_of_go_programs_that_have_nothing(tmp_path: Path) -> None:
    files = {**layout_files([]), "index.json": b'{"schemaVersion":2,"manifests":null}'}
    with open_archive(written(tmp_path / "a.tar", tar_of(files))) as archive:
        assert archive.images == ()


def test_annotations_that_are_no_names(tmp_path: Path) -> None:
    odd = [({CONTAINERD_NAME: "", REF_NAME: "v1"}, IMAGE), ({CONTAINERD_NAME: 5, REF_NAME: ["x"]}, OTHER)]
    with open_archive(written(tmp_path / "a.tar", tar_of(layout_files(odd)))) as archive:  # type: ignore[arg-type]  # JSON has no types
        assert [image.name for image in archive.images] == ["v1", ""]


# Docker archives


def docker_archive(tmp_path: Path, *images: DockerImage) -> Archive:
    return open_archive(written(tmp_path / "docker.tar", tar_of(docker_files(*images))))


@pytest.mark.parametrize("pack", [None, gzip.compress, zstandard.compress])
def test_the_manifest_is_the_one_that_containerd_makes(tmp_path: Path, pack: Callable[[bytes], bytes] | None) -> None:
    stored = [pack(layer) for layer in LAYERS] if pack else []
    image = DockerImage(LAYERS, ["redis:7", "quay.io/team/redis:7"], stored)
    with docker_archive(tmp_path, image) as archive:
        assert [str(found.reference) for found in archive.images] == [FULL, "quay.io/team/redis:7"]
        assert archive.images[0].name == "redis:7"
        descriptor = archive.find("redis:7").descriptor
        raw = archive.content.manifest(descriptor)
        assert raw == expected_manifest(image)
        assert descriptor == Descriptor(DOCKER_MANIFEST, Digest.of(raw), len(raw))
        assert archive.content.resolve(str(descriptor.digest)) == descriptor
        content = {f"sha256:{sha256(data)}": data for data in (raw, image.config, *image.packed)}
        assert pulled(archive, "") == content


def test_a_made_manifest_is_read_from_any_place(tmp_path: Path) -> None:
    with docker_archive(tmp_path, DockerImage(LAYERS, ["redis:7"])) as archive:
        descriptor = archive.find("").descriptor
        raw = archive.content.manifest(descriptor)
        assert read_all(archive.content.blob(descriptor, 10), LIMIT) == raw[10:]


def test_images_that_share_layers_and_one_without_a_name(tmp_path: Path) -> None:
    images = [DockerImage(LAYERS, ["a:1"]), DockerImage(LAYERS[:1], ["b:1"]), DockerImage(LAYERS[1:])]
    with docker_archive(tmp_path, *images) as archive:
        assert [image.name for image in archive.images] == ["a:1", "b:1", ""]
        for image, found in zip(images, archive.images, strict=True):
            assert archive.content.manifest(found.descriptor) == expected_manifest(image)


def test_the_archive_of_old_docker_with_links_for_equal_layers(tmp_path: Path) -> None:
    image = DockerImage([LAYERS[0], LAYERS[1], LAYERS[0]], ["old:1"])
    config = sha256(image.config)
    listed = [{"Config": f"{config}.json", "RepoTags": ["old:1"], "Layers": [f"{name}/layer.tar" for name in "abc"]}]
    data = tar(
        member("a/", kind=tarfile.DIRTYPE),
        member("a/VERSION", b"1.0"),
        member("a/json", b"{}"),
        member("a/layer.tar", LAYERS[0]),
        member("b/layer.tar", LAYERS[1]),
        member("c/layer.tar", kind=tarfile.SYMTYPE, target="../a/layer.tar"),
        member(f"{config}.json", image.config),
        member("manifest.json", json.dumps(listed).encode()),
        member("repositories", b"{}"),
    )
    with open_archive(written(tmp_path / "old.tar", data)) as archive:
        assert archive.content.manifest(archive.find("old:1").descriptor) == expected_manifest(image)
        assert len(pulled(archive, "old:1")) == 4


@pytest.mark.parametrize("config", ["sha256:{}", "{}.json", "config.json", "blobs/sha256/{}"])
def test_configurations_by_the_names_that_tools_give_them(tmp_path: Path, config: str) -> None:
    """crane, podman, jib, docker."""
    image = DockerImage(LAYERS, ["redis:7"])
    name = config.format(sha256(image.config))
    files = docker_files(image)
    files[name] = files.pop(f"{sha256(image.config)}.json")
    listed = json.loads(files["manifest.json"])
    listed[0]["Config"] = name
    files["manifest.json"] = json.dumps(listed).encode()
    with open_archive(written(tmp_path / "a.tar", tar_of(files))) as archive:
        assert archive.content.manifest(archive.find("").descriptor) == expected_manifest(image)


def test_a_layer_of_nothing(tmp_path: Path) -> None:
    image = DockerImage([b"", bytes(1024)], ["empty:1"])
    with docker_archive(tmp_path, image) as archive:
        assert archive.content.manifest(archive.find("").descriptor) == expected_manifest(image)


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(tmp_path: Path) -> None:
    """One that is not compressed when it is copied, for it is not read before; a compressed one at once."""
    image = DockerImage(LAYERS, ["redis:7"])
    files = docker_files(image)
    files[f"{sha256(LAYERS[1])}.tar"] = layer_of(b"tox")
    with open_archive(written(tmp_path / "a.tar", tar_of(files))) as archive, pytest.raises(ContentMismatch):
        pulled(archive, "redis:7")


# Cost


def test_opening_a_large_archive_reads_its_headers_alone(tmp_path: Path) -> None:
    """A blob of 1 GiB that takes no place on the disk: read it, and this takes seconds; hold it, and memory grows."""
    path = tmp_path / "a.tar"
    size, digest = 1 << 30, "f" * 64
    files = layout_files([by_tag("v1", OTHER)])
    head = member(f"blobs/sha256/{digest}", b"", size=size)
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + size)
        file.write(tar_of(files))
    read = _bytes_read()
    with open_archive(path) as archive:
        assert archive.find("v1").descriptor.size_bytes == len(OTHER.blobs[OTHER.digest])
        assert _bytes_read() - read < 1 << 20
        blob = archive.content.blob(Descriptor("any/type", Digest("sha256", digest), size), size - 5)
        assert read_all(blob, LIMIT) == bytes(5)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """A process of its own copies 200 MB out of a compressed archive in less than 60 MB over what it has at first."""
    image = make_image(layers=[b"x" * (200 << 20)], compression="none")
    path = written(tmp_path / "a.tar.zst", zstandard.compress(tar_of(layout_files([by_tag("v1", image)]))))
    program = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from pierhead.archive import LayoutFolder, open_archive
from pierhead.transfer import Transfer
import zstandard
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_archive(Path({str(path)!r}), scratch=Path({str(tmp_path)!r})) as archive, Transfer() as transfer:
    transfer.copy(archive.content, LayoutFolder(Path({str(tmp_path / "out")!r})), "v1")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 60 * 1024
    (blob,) = (tmp_path / "out/blobs/sha256").glob(image.manifest["layers"][0]["digest"][7:])
    assert blob.stat().st_size == image.manifest["layers"][0]["size"]


def _bytes_read() -> int:
    counters = Path("/proc/self/io").read_text().splitlines()
    return int(counters[0].removeprefix("rchar: "))


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
