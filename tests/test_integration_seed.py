"""`pierhead seed` between real registries, and the real containerd pulling what it put there."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from command import Ran, run_pierhead, serve, stored, write_registries
from images import Image, make_image
from pierhead.layout import LayoutStore
from pki import Pki
from real import Containerd, DockerRegistry
from stocked import stock
from uploads import upload

USER, PASSWORD = "alice", "s3cret"
PAUSE = make_image(layers=[b"hello", 20_000])
REDIS = make_image(layers=[2000, 30_000], platforms=["linux/amd64", "linux/arm64"])
DOCKER = make_image(layers=[b"docker", 5000], media="docker", platforms=["linux/amd64", "linux/arm64"])
NAMES = {"rancher/pause:3.6": PAUSE, "library/redis:7": REDIS, "team/app:1": DOCKER}
REWRITE = {"^rancher/(.*)": "mirror/rancher/$1"}
_BLOB = re.compile(r"[?&]digest=(?P<digest>[^& ]+)")


@pytest.fixture
def mirror(tmp_path: Path, pki: Pki) -> Iterator[DockerRegistry]:
    """A mirror that wants TLS of its own CA and a password."""
    with DockerRegistry(tmp_path / "mirror", tls=pki, htpasswd=(USER, PASSWORD)) as registry:
        yield registry


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`pierhead serve` with images of Docker Hub, which it gives to whoever asks with `?ns=`."""
    root = tmp_path_factory.mktemp("source") / "root"
    store = LayoutStore(root)
    for name, image in NAMES.items():
        stock(store, image, *name.split(":"), namespace="docker.io")
    with serve(root, "--read-only") as served:
        yield served.url


def nodes(folder: Path, mirror: DockerRegistry, pki: Pki, *, registry: str = "docker.io", **more: Any) -> Path:
    """The registries.yaml of the nodes; JSON is YAML."""
    auth = {"username": USER, "password": PASSWORD}
    document = {
        "mirrors": {registry: {"endpoint": [mirror.url], **more}},
        "configs": {mirror.address: {"auth": auth, "tls": {"ca_file": pki.ca}}},
    }
    return write_registries(folder, json.dumps(document, indent=1))


def seed(nodes: Path, *arguments: str | Path, code: int = 0) -> Ran:
    return run_pierhead("seed", "--private-registry", nodes, *arguments, code=code)


def uploaded(mirror: DockerRegistry) -> Counter[str]:
    """How often each blob was taken in, by digest."""
    taken = [served for served in mirror.requests() if served.method == "PUT" and "/blobs/uploads/" in served.uri]
    found = [_BLOB.search(served.uri) for served in taken if served.status == 201]
    return Counter(unquote(match["digest"]) for match in found if match)


def blobs(*images: Image) -> set[str]:
    return {digest for image in images for digest in image.blobs if digest not in image.manifests}


@pytest.mark.real("docker-registry")
def test_what_is_seeded_is_what_a_node_pulls_under_its_rewritten_name(
    mirror: DockerRegistry, source: str, pki: Pki, tmp_path: Path
) -> None:
    file = nodes(tmp_path, mirror, pki, rewrite=REWRITE)
    images = tmp_path / "images.txt"
    images.write_text("\n".join(NAMES) + "\n")
    ran = seed(file, "--images", images, "--from", source, "--report", tmp_path / "proof.json")
    assert "air-gap ready: 3/3 images, linux/amd64 3, linux/arm64 2 (missing: docker.io/rancher/pause:3.6)" in ran.out
    assert uploaded(mirror) == Counter(blobs(*NAMES.values()))
    assert [
        served.uri for served in mirror.requests() if "ns=docker.io" in served.uri and served.method != "HEAD"
    ] == []

    again = seed(file, "--images", images, "--from", source)
    assert "nothing to do: 3 of 3 are there" in again.out
    assert uploaded(mirror) == Counter(blobs(*NAMES.values()))

    node = tmp_path / "node"
    pulled = run_pierhead(
        *("pull", "--private-registry", file, "--disable-default-registry-endpoint", "--root", node),
        *("--platform", "all", "-o", "json", *NAMES),
    )
    assert [image["digest"] for image in pulled.images] == [image.digest for image in NAMES.values()]
    assert stored(node) == {digest: data for image in NAMES.values() for digest, data in image.blobs.items()}


@pytest.mark.real("docker-registry", "containerd", "ctr", "runc")
def test_containerd_pulls_what_was_seeded_by_the_files_that_k3s_writes(
    mirror: DockerRegistry, source: str, pki: Pki, tmp_path: Path
) -> None:
    file = nodes(tmp_path, mirror, pki)  # stock containerd knows nothing of rewrites
    seed(file, *NAMES, "--from", source)
    run_pierhead("render", "k3s", "--private-registry", file, "--out", tmp_path / "k3s")
    with Containerd(tmp_path / "containerd") as containerd:
        shutil.copytree(tmp_path / "k3s/certs.d", containerd.certs_d, dirs_exist_ok=True)
        mirror.forget()
        for name in NAMES:
            containerd.pull(f"docker.io/{name}", "--user", f"{USER}:{PASSWORD}", "--local", "--all-platforms")
        assert containerd.images() == {f"docker.io/{name}": image.digest for name, image in NAMES.items()}
        assert {served.status for served in mirror.requests()} <= {200, 401}


@pytest.mark.real("docker-registry")
def test_from_one_registry_to_another_each_blob_is_sent_once_and_mounted_elsewhere(
    mirror: DockerRegistry, pki: Pki, tmp_path: Path
) -> None:
    bases = [make_image(layers=[40_000 + base, 50_000 + base], compression="none") for base in range(2)]
    images = {
        f"team/app-{number}": make_image(layers=[40_000 + number % 2, 50_000 + number % 2, number], compression="none")
        for number in range(12)
    }
    with DockerRegistry(tmp_path / "upstream") as upstream:
        for name, image in images.items():
            upload(upstream.url, name, image, "v1")
        upstream.forget()
        file = nodes(tmp_path, mirror, pki, registry=upstream.address)
        ran = seed(file, *(f"{upstream.address}/{name}:v1" for name in images), "-o", "json", "-j", "4")
        asked = Counter(
            served.uri for served in upstream.requests() if served.method == "GET" and "/blobs/" in served.uri
        )
    document = json.loads(ran.out)
    assert document["summary"]["air_gap_ready"] is True
    assert uploaded(mirror) == Counter(blobs(*images.values()))
    layers = {layer["digest"] for image in (*bases,) for layer in image.manifest["layers"]}
    assert {uri.rpartition("/")[2] for uri in asked} >= layers
    assert all(count == 1 for uri, count in asked.items() if uri.rpartition("/")[2] in layers)
    distinct = {digest: data for image in images.values() for digest, data in image.blobs.items()}
    assert document["summary"]["sent_bytes"] == sum(map(len, distinct.values()))


@pytest.mark.real("docker-registry")
def test_nodes_that_may_not_write_and_a_person_who_may(pki: Pki, source: str, tmp_path: Path) -> None:
    with (
        DockerRegistry(tmp_path / "open") as open_mirror,
        DockerRegistry(tmp_path / "mirror", tls=pki, htpasswd=(USER, PASSWORD)) as mirror,
    ):
        document: dict[str, Any] = {
            "mirrors": {"docker.io": {"endpoint": [open_mirror.url, mirror.url]}},
            "configs": {mirror.address: {"tls": {"ca_file": pki.ca}}},
        }
        file = write_registries(tmp_path, json.dumps(document))
        arguments = ("rancher/pause:3.6", "--from", source, "--to", mirror.address)
        ran = seed(file, *arguments, code=4)
        assert "--dest-creds" in ran.err
        assert PASSWORD not in ran.err
        # It is there then, and no node gets it: configs has no password for the mirror, the first one has no image.
        ran = seed(file, *arguments, "--dest-creds", f"{USER}:{PASSWORD}", code=3)
        assert "but a node would not get it" in ran.err
        document["configs"][mirror.address]["auth"] = {"username": USER, "password": PASSWORD}
        ran = seed(write_registries(tmp_path, json.dumps(document)), *arguments)
        assert ran.out.splitlines()[1:] == [
            "nothing to do: 1 of 1 is there",
            "air-gap ready: 1/1 image, linux/amd64 1",
        ]
