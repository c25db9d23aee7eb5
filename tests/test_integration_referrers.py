"""Signatures by file between real registries that have no referrers API, and a bundle of them in a real containerd."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command import Ran, run_pierhead, serve_bundle, write_registries
from images import INDEX, Image
from real import Containerd, DockerRegistry, skopeo
from referring import Signed, cosign_tag
from test_integration_load import Tool
from uploads import put_manifest, upload

NAME, REPOSITORY = "docker.io/team/app:1", "team/app"
SIGNED = Signed.make()
TAG = cosign_tag(SIGNED.image.digest)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """The image with all that refers to it, as cosign and ORAS leave it in a registry without the API."""
    with DockerRegistry(tmp_path_factory.mktemp("outside")) as registry:
        upload(registry.url, REPOSITORY, SIGNED.image, "1")
        for tag, image in SIGNED.tagged.items():
            upload(registry.url, REPOSITORY, image, tag)
        for image in SIGNED.artifacts:
            upload(registry.url, REPOSITORY, image, "unasked")
            subject = image.manifest["subject"]["digest"]
            raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX["oci"], "manifests": [image.descriptor]}).encode()
            put_manifest(registry.url, REPOSITORY, cosign_tag(subject, ""), raw, INDEX["oci"])
        yield registry


@pytest.fixture(scope="module")
def bundle(outside: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of that in one file, made where there is a network."""
    folder = tmp_path_factory.mktemp("bundle")
    file = folder / "it.tar"
    arguments = ("--referrers", "--root", folder / "store", "-o", file)
    ran = by(outside.url, folder, "bundle", "create", NAME, *arguments)
    assert ran.out.splitlines()[0].endswith("  with 4 that refer to it")
    return file


def by(url: str, folder: Path, *arguments: str | Path) -> Ran:
    """Run a command with a registries.yaml that leads to this registry alone."""
    file = write_registries(folder, f'mirrors: {{"docker.io": {{"endpoint": ["{url}"]}}}}')
    return run_pierhead(*arguments, "--private-registry", file, "--disable-default-registry-endpoint")


def ask(url: str) -> bytes:
    """What stands there."""
    accept = {"Accept": f"{INDEX['oci']}, application/vnd.oci.image.manifest.v1+json"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=accept), timeout=10) as answer:
        return bytes(answer.read())


def manifests(url: str) -> list[dict[str, Any]]:
    """The entries of an index that stands there."""
    return list(json.loads(ask(url))["manifests"])


def assert_there(url: str, image: Image) -> None:
    for digest, data in image.blobs.items():
        kind = "manifests" if digest in image.manifests else "blobs"
        assert ask(f"{url}/v2/{REPOSITORY}/{kind}/{digest}") == data


@pytest.mark.real("docker-registry")
def test_from_one_registry_by_file_into_another(bundle: Path, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "inside") as inside:
        by(inside.url, tmp_path, "bundle", "apply", bundle, "--referrers")
        for image in (SIGNED.image, *SIGNED.artifacts, *SIGNED.tagged.values()):
            assert_there(inside.url, image)
        where = f"{inside.url}/v2/{REPOSITORY}/manifests"
        assert ask(f"{where}/{TAG}") == SIGNED.tagged[TAG].blobs[SIGNED.tagged[TAG].digest]
        for image in SIGNED.artifacts:
            (entry,) = manifests(f"{where}/{cosign_tag(image.manifest['subject']['digest'], '')}")
            assert (entry["digest"], entry["artifactType"]) == (image.digest, image.manifest["artifactType"])
        again = by(inside.url, tmp_path, "pull", NAME, "--referrers", "--platform", "all", "--root", tmp_path / "node")
        assert again.out.endswith("  with 4 that refer to it\n")


@pytest.mark.real("docker-registry", "skopeo")
def test_a_served_bundle_says_what_refers_to_an_image(bundle: Path, tmp_path: Path) -> None:
    with serve_bundle(bundle) as served:
        for query in ("", "?ns=docker.io"):
            for image in SIGNED.artifacts:
                subject = image.manifest["subject"]["digest"]
                (entry,) = manifests(f"{served.url}/v2/{REPOSITORY}/referrers/{subject}{query}")
                assert (entry["digest"], entry["artifactType"]) == (image.digest, image.manifest["artifactType"])
        for image in (*SIGNED.artifacts, *SIGNED.tagged.values()):
            assert_there(served.url, image)
        source = f"docker://{served.address}/{REPOSITORY}:{TAG}"
        skopeo("copy", "--src-tls-verify=false", source, f"dir:{tmp_path}/signature", home=tmp_path)
    assert json.loads((tmp_path / "signature/manifest.json").read_bytes()) == SIGNED.tagged[TAG].manifest


@pytest.mark.real("docker-registry", "containerd", "ctr")
def test_containerd_sees_the_image_alone(bundle: Path, tmp_path: Path) -> None:
    """ctr names what has a name, and only then by its own rules; K3s takes the names as they are (see `writing`)."""
    with Containerd(tmp_path / "containerd") as containerd:
        containerd.ctr("images", "import", "--all-platforms", "--no-unpack", bundle)
        assert containerd.images() == {NAME: SIGNED.image.digest}
        containerd.ctr("images", "remove", NAME)
        run_pierhead("load", bundle, f"--containerd={containerd.socket}", "--pin")
        by_digest = f"docker.io/team/app@{SIGNED.image.digest}"
        assert containerd.images() == {NAME: SIGNED.image.digest, by_digest: SIGNED.image.digest}


@pytest.mark.real("docker-registry", "podman")
def test_podman_loads_the_image_alone(bundle: Path, tmp_path: Path) -> None:
    with Tool("podman", tmp_path) as podman:
        podman("load", "-i", bundle)
        assert podman.names() == {NAME}
