"""What skopeo, podman and containerd write, read and copied: every digest equal. And what containerd makes of files."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from images import Image, make_image
from pierhead.archive import open_archive
from pierhead.layout import LayoutStore
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_MANIFEST
from pierhead.reference import Digest
from pierhead.store import RepositoryName
from pierhead.transfer import Transfer
from real import Containerd, clean_environment, run, skopeo
from tarballs import DockerImage, docker_files, layer_of, sha256, tar_of

NAME = "docker.io/library/app:v1"
PLATFORMS = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
SINGLE = make_image(layers=[b"one", 20_000])
PLAIN = make_image(layers=[b"one", b"two"], compression="none")
MANY = make_image(layers=[b"shared"], platforms=PLATFORMS)
DOCKER = make_image(layers=[b"one", 20_000], media="docker")


def copied(path: Path, name: str, folder: Path) -> dict[str, bytes]:
    """Everything of an image by digest, copied into a store in memory and into one on disk, which have the same."""
    memory, disk, where = MemoryStore(), LayoutStore(folder), RepositoryName("library/app", "docker.io")
    with open_archive(path, scratch=folder.parent) as archive, Transfer() as transfer:
        image = archive.find(name)
        for store in (memory, disk):
            transfer.copy(archive.content, store.repository(where), str(image.descriptor.digest), names=["v1"])
    stored = {str(digest): path.read_bytes() for digest, path in disk.pool.files()}
    assert stored == {str(digest): data for digest, data in memory.pool.items()}
    assert [str(name) for name in disk.names()] == [NAME]
    return stored


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("image", [SINGLE, PLAIN, MANY], ids=["one", "not compressed", "three platforms"])
@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_what_skopeo_writes(tmp_path: Path, image: Image, kind: str) -> None:
    source = f"oci:{image.write_layout(tmp_path / 'source')}:latest"
    for number, name in enumerate((NAME, "v1")):
        target = tmp_path / f"target-{number}"
        skopeo("copy", "--all", "--preserve-digests", source, f"{kind}:{target}:{name}", home=tmp_path)
        assert copied(target, name, tmp_path / f"store-{number}") == image.blobs


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("image", [SINGLE, PLAIN, DOCKER], ids=["gzip", "not compressed", "docker"])
def test_what_skopeo_writes_for_docker(tmp_path: Path, image: Image) -> None:
    """It decompresses layers, so the image is another one; its configuration is the same, and the layers' content."""
    target = tmp_path / "docker.tar"
    source = f"dir:{image.write_dir(tmp_path / 'source')}"
    skopeo("copy", source, f"docker-archive:{target}:app:v1", home=tmp_path)
    content = copied(target, NAME, tmp_path / "store")
    config = image.manifest["config"]["digest"]
    assert content[config] == image.blobs[config]
    assert set(json.loads(image.blobs[config])["rootfs"]["diff_ids"]) | {config} == set(content) - {_top(content)}


def _top(content: dict[str, bytes]) -> str:
    (top,) = (digest for digest, data in content.items() if data.startswith(b'{"schemaVersion"'))
    return top


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """podman with a storage of its own that has `SINGLE` under `NAME`."""
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    with tempfile.TemporaryDirectory(prefix="podman-") as short:
        environment = clean_environment(tmp_path, XDG_RUNTIME_DIR=str(tmp_path))
        state = ("--root", tmp_path / "root", "--runroot", short, "--tmpdir", f"{short}/libpod")

        def call(*arguments: str) -> str:
            return run(("podman", *state, "--storage-driver", "vfs", *arguments), environment)

        source = f"oci-archive:{SINGLE.write_archive(tmp_path / 'source.tar', NAME)}"
        call("pull", "--quiet", "--signature-policy", str(tmp_path / "policy.json"), source)
        yield call


@pytest.mark.real("podman")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci-dir"])
def test_what_podman_saves(tmp_path: Path, podman: Callable[..., str], kind: str) -> None:
    """podman keeps layers unpacked, so the image is another one; its configuration is the same."""
    target = tmp_path / "saved"
    podman("save", "--quiet", "--format", kind, "--output", str(target), NAME)
    content = copied(target, NAME, tmp_path / "store")
    config = SINGLE.manifest["config"]["digest"]
    assert content[config] == SINGLE.blobs[config]
    if kind == "docker-archive":
        diff_ids = json.loads(content[config])["rootfs"]["diff_ids"]
        assert set(content) == {config, *diff_ids, _top(content)}


@pytest.mark.real("containerd", "ctr", "runc")
def test_what_containerd_exports_and_makes_of_docker_archives(tmp_path: Path) -> None:
    """An image has the same digest here as on the node that imports the file; layers compressed or not."""
    layers = [layer_of(b"base"), layer_of(b"top")]
    image = DockerImage(layers, ["plain:1", "quay.example/team/plain:2"], more={"config": {"Cmd": ["/x"]}})
    (tmp_path / "saved.tar").write_bytes(tar_of(docker_files(image)))
    with Containerd(tmp_path / "ctd") as containerd:
        containerd.ctr("images", "import", "--all-platforms", tmp_path / "saved.tar")
        for name, made in (("one", SINGLE), ("many", MANY), ("docker", DOCKER)):
            full = f"docker.io/library/{name}:v1"
            containerd.ctr("images", "import", "--all-platforms", made.write_archive(tmp_path / f"{name}.tar", full))
            containerd.ctr("images", "export", "--all-platforms", tmp_path / f"{name}-out.tar", full)
            with open_archive(tmp_path / f"{name}-out.tar") as archive:
                assert [found.name for found in archive.images] == [full]
            assert copied(tmp_path / f"{name}-out.tar", full, tmp_path / name) == made.blobs
        theirs = containerd.images()
    with open_archive(tmp_path / "saved.tar") as archive:
        ours = {str(found.reference): str(found.descriptor.digest) for found in archive.images}
    assert ours == {name: theirs[name] for name in ours}
    assert set(ours) == {"docker.io/library/plain:1", "quay.example/team/plain:2"}


@pytest.mark.real("containerd", "ctr", "runc")
@pytest.mark.parametrize("pack", ["gzip", "zstd"])
def test_containerd_makes_the_same_of_compressed_layers(tmp_path: Path, pack: str) -> None:
    layer = layer_of(b"content")
    image = DockerImage([layer], ["app:1"], [gzip.compress(layer) if pack == "gzip" else zstandard.compress(layer)])
    (tmp_path / "docker.tar").write_bytes(tar_of(docker_files(image)))
    with Containerd(tmp_path / "ctd") as containerd:
        containerd.ctr("images", "import", "--all-platforms", "--no-unpack", tmp_path / "docker.tar")
        theirs = containerd.images()
    with open_archive(tmp_path / "docker.tar") as archive:
        (found,) = archive.images
    assert {str(found.reference): str(found.descriptor.digest)} == theirs


def test_the_images_of_this_file_are_of_the_kinds_they_stand_for() -> None:
    assert SINGLE.descriptor["mediaType"] == OCI_MANIFEST
    assert len(MANY.manifest["manifests"]) == len(PLATFORMS)
    assert Digest.parse(f"sha256:{sha256(SINGLE.blobs[SINGLE.digest])}") == Digest.parse(SINGLE.digest)
