"""`apply` under a running containerd: the next pull of the CRI goes by the new files, and nothing was restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command import Ran, run_pierhead, write_registries
from cri import ImageService, image_service
from real import Containerd
from recorder import ScriptedImage, Stage, play

pytestmark = pytest.mark.real("containerd", "ctr", "runc")

IMAGES = ScriptedImage.load()
NAME = "docker.io/team/app:v1"
HOSTS: dict[str, dict[str, Any]] = {"one": {"image": "oci"}, "two": {"image": "oci"}, "none": {"image": None}}


@pytest.fixture
def stage(vector_pki: Path) -> Iterator[Stage]:
    """Two mirrors that have the image, and one that has not."""
    with play(HOSTS, IMAGES, vector_pki) as stage:
        yield stage


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The data folder of a K3s."""
    (tmp_path / "k3s/agent/etc/containerd").mkdir(parents=True)
    return tmp_path / "k3s"


@pytest.fixture
def containerd(data_dir: Path) -> Iterator[Containerd]:
    """A containerd whose config.toml is where K3s has it, and names certs.d as K3s' does."""
    with Containerd(data_dir / "agent/etc/containerd") as running:
        yield running


@pytest.fixture
def cri(containerd: Containerd) -> Iterator[ImageService]:
    """By which the kubelet pulls: it is the daemon that reads certs.d."""
    with image_service(containerd.socket) as service:
        yield service


def apply(data_dir: Path, mirror: str, *options: str, code: int = 0) -> Ran:
    file = write_registries(data_dir.parent, f'mirrors: {{docker.io: {{endpoint: ["{mirror}"]}}}}\n')
    where = ("--runtime", "k3s", "--data-dir", data_dir, "--private-registry", file)
    return run_pierhead("apply", *where, "--disable-default-registry-endpoint", *options, code=code)


def url(stage: Stage, name: str) -> str:
    return f"http://{stage.places[name]}"


def asked(stage: Stage) -> set[str]:
    """The hosts that were asked for something since the last time."""
    found = {str(request["host"]) for request in stage.record.requests}
    stage.record.requests.clear()
    return found


def pull(cri: ImageService) -> None:
    cri.pull(NAME)
    assert [image.tags for image in cri.images()] == [(NAME,)]
    cri.remove(NAME)


def test_the_next_pull_asks_the_new_mirror(
    stage: Stage, data_dir: Path, containerd: Containerd, cri: ImageService
) -> None:
    apply(data_dir, url(stage, "one"))
    pull(cri)
    assert asked(stage) == {"one"}
    ran = apply(data_dir, url(stage, "two"))
    assert "the next pull goes by it" in ran.out
    pull(cri)
    assert asked(stage) == {"two"}
    run_pierhead("apply", "--runtime", "k3s", "--data-dir", data_dir, "--rollback")
    pull(cri)
    assert asked(stage) == {"one"}


def test_a_proof_that_fails_keeps_the_mirror_that_works(
    stage: Stage, data_dir: Path, containerd: Containerd, cri: ImageService
) -> None:
    apply(data_dir, url(stage, "one"), "--prove", NAME)
    assert asked(stage) == {"one"}
    ran = apply(data_dir, url(stage, "none"), "--prove", NAME, code=3)
    assert "nothing is changed: the proof failed" in ran.out
    assert asked(stage) == {"none"}
    pull(cri)
    assert asked(stage) == {"one"}


def test_credentials_wait_for_a_restart_as_it_says(
    stage: Stage, data_dir: Path, containerd: Containerd, cri: ImageService
) -> None:
    """containerd goes on without credentials that only its config.toml could give it, and apply names them."""
    host = stage.places["one"]
    text = f'mirrors: {{docker.io: {{endpoint: ["{url(stage, "one")}"]}}}}\n'
    text += f'configs: {{"{host}": {{auth: {{username: me, password: n3w}}}}}}\n'
    file = write_registries(data_dir.parent, text)
    ran = run_pierhead("apply", "--runtime", "k3s", "--data-dir", data_dir, "--private-registry", file)
    assert "needs a restart" in ran.out
    assert f"{host} (images of " in ran.out
    pull(cri)
    assert {request["auth"] for request in stage.record.requests} == {"none"}
