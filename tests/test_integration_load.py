"""`load --containerd` into a real containerd, and what others make of our bundle: ctr, skopeo, podman, buildah."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest

from busybox import make_busybox
from command import assert_sound, names, run_pierhead, serve_bundle, stored, write_registries
from components import program, runs_alone
from images import make_image
from loadable import archive_of, of_platform
from real import RUN_SECONDS, Containerd, clean_environment, run, skopeo

APP = make_image(layers=[b"app\n", 200_000], platforms=["linux/amd64", "linux/arm64"])
DOCKER = make_image(layers=[b"docker\n", 20_000], media="docker")
NAMES = {"docker.io/library/app:v1": APP, "quay.io/team/docker:1.0": DOCKER}


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with Containerd(tmp_path_factory.mktemp("containerd")) as containerd:
        yield containerd


def labels(containerd: Containerd, name: str) -> dict[str, str]:
    rows = [line.split() for line in containerd.ctr("images", "list", f"name=={name}").splitlines()[1:]]
    return dict(pair.split("=", 1) for pair in rows[0][-1].split(","))


@cache
def why_no_container() -> str:
    """Why this machine runs no container at all, measured with runc alone; empty if it does."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        (bundle / "rootfs/bin").mkdir(parents=True)
        busybox = program("busybox")
        runc = program("runc")
        assert busybox is not None
        assert runc is not None
        (bundle / "rootfs/bin/busybox").write_bytes(Path(busybox).read_bytes())
        (bundle / "rootfs/bin/busybox").chmod(0o755)
        subprocess.run([runc, "spec", "--bundle", folder], check=True, timeout=RUN_SECONDS)
        spec = json.loads((bundle / "config.json").read_text())
        spec["process"] |= {"terminal": False, "args": ["/bin/busybox", "true"], "rlimits": []}
        (bundle / "config.json").write_text(json.dumps(spec))
        done = subprocess.run(
            [runc, "--root", str(bundle / "state"), "run", "--bundle", folder, f"pierhead-{os.getpid()}"],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        return done.stderr if done.returncode else ""


# ── into containerd ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.real("containerd", "ctr")
def test_images_are_there_under_their_own_names(containerd: Containerd, tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "images.tar", NAMES)
    ran = run_pierhead("load", archive, f"--containerd={containerd.socket}", "-o", "json")
    assert {image["reference"]: image["digest"] for image in ran.images} == {
        name: image.digest for name, image in NAMES.items()
    }
    there = containerd.images()
    assert {name: there[name] for name in NAMES} == {name: image.digest for name, image in NAMES.items()}
    content = containerd.ctr("content", "list", "--quiet").split()
    assert {digest for image in NAMES.values() for digest in image.blobs} <= set(content)
    run_pierhead("load", archive, f"--containerd={containerd.socket}")  # again


@pytest.mark.real("containerd", "ctr")
def test_pinned_as_k3s_pins(containerd: Containerd, tmp_path: Path) -> None:
    image = make_image(layers=[b"pinned\n"])
    name = "docker.io/rancher/pinned:v1"
    run_pierhead("load", image.write_archive(tmp_path / "a.tar", name), f"--containerd={containerd.socket}", "--pin")
    by_digest = f"docker.io/rancher/pinned@{image.digest}"
    assert containerd.images()[by_digest] == image.digest
    for each in (name, by_digest):
        found = labels(containerd, each)
        assert found["io.cri-containerd.pinned"] == "pinned"
        assert found["io.cattle.k3s.pinned"] == "pinned"
    wanted = 'labels."containerd.io/distribution.source.docker.io"==rancher/pinned'
    content = containerd.ctr("content", "list", wanted)
    listed = {line.split()[0] for line in content.splitlines()[1:]}
    assert listed == {str(digest) for digest in image.blobs}


@pytest.mark.real("containerd", "ctr", "runc", "busybox")
def test_a_container_of_a_loaded_image_runs(containerd: Containerd, tmp_path: Path) -> None:
    archive = make_busybox().write_archive(tmp_path / "busybox.tar", "docker.io/library/busybox:static")
    run_pierhead("load", f"--containerd={containerd.socket}", archive)
    command = ("run", "--rm", "docker.io/library/busybox:static", f"box-{os.getpid()}")
    if why := why_no_container():
        # Then it gets as far as runc: the image is unpacked, and what refuses is the machine.
        with pytest.raises(AssertionError, match=r"runc|OCI runtime"):
            containerd.ctr(*command)
        assert why
        return
    assert containerd.ctr(*command) == "it runs\n"


@pytest.mark.real("containerd", "ctr")
def test_an_archive_without_some_platforms(containerd: Containerd, tmp_path: Path) -> None:
    """containerd gets the platform of this machine, as kubelet would pull it; K3s takes such archives too."""
    archive = archive_of(
        tmp_path / "a.tar", {"docker.io/team/sparse:v1": APP}, without=[of_platform(APP, "linux/arm64")]
    )
    ran = run_pierhead("load", archive, f"--containerd={containerd.socket}")
    assert "not in" in ran.err
    assert "linux/arm64 of docker.io/team/sparse:v1" in ran.err
    assert containerd.images()["docker.io/team/sparse:v1"] == APP.digest


@pytest.mark.real("containerd", "ctr")
def test_wrong_bytes_stop_only_their_image(containerd: Containerd, tmp_path: Path) -> None:
    good, bad = make_image(layers=[b"good\n", 100_000]), make_image(layers=[b"bad\n", 300_000])
    archive = archive_of(tmp_path / "a.tar", {"docker.io/team/good:v9": good, "docker.io/team/bad:v9": bad})
    layer = bad.blobs[bad.manifest["layers"][1]["digest"]]
    data = archive.read_bytes()
    at = data.index(layer) + len(layer) - 10
    archive.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    ran = run_pierhead("load", archive, f"--containerd={containerd.socket}", "-o", "json", code=6)
    assert {image["reference"]: image["exit_code"] for image in ran.images} == {
        "docker.io/team/good:v9": 0,
        "docker.io/team/bad:v9": 1,
    }
    there = containerd.images()
    assert there["docker.io/team/good:v9"] == good.digest
    assert "docker.io/team/bad:v9" not in there


# ── what others write ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.real("skopeo", "containerd", "ctr")
def test_an_archive_of_skopeo(containerd: Containerd, tmp_path: Path) -> None:
    """docker-archive is how K3s' own air-gap archives are made; the manifest is made as containerd makes it."""
    image = make_image(layers=[b"skopeo\n", 10_000])
    source, archive = f"oci:{image.write_layout(tmp_path / 'layout')}:latest", tmp_path / "skopeo.tar"
    skopeo("copy", source, f"docker-archive:{archive}:docker.io/team/skopeo:v1", home=tmp_path)
    run_pierhead("load", archive, "--root", tmp_path / "store")
    assert_sound(tmp_path / "store")
    containerd.ctr("images", "import", "--no-unpack", archive)
    by_containerd = containerd.images()["docker.io/team/skopeo:v1"]
    assert names(tmp_path / "store") == {"docker.io/team/skopeo:v1": by_containerd}
    containerd.ctr("images", "remove", "docker.io/team/skopeo:v1")
    run_pierhead("load", archive, f"--containerd={containerd.socket}")
    assert containerd.images()["docker.io/team/skopeo:v1"] == by_containerd


class Tool:
    """podman or buildah, with a home and a storage of its own: a context."""

    def __init__(self, name: str, home: Path) -> None:
        self._name, self._home = name, home
        self._as_json = ("--json",) if name == "buildah" else ("--format", "json")
        settings = home / ".config/containers"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._short = tempfile.TemporaryDirectory(prefix="pods-")  # podman wants its path to be short

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._short.cleanup()

    def __call__(self, *arguments: str | Path) -> str:
        state = ["--root", str(self._home / "root"), "--runroot", self._short.name, "--storage-driver", "vfs"]
        environment = clean_environment(self._home, XDG_RUNTIME_DIR=str(self._home))
        return run((self._name, *state, *arguments), environment)

    def names(self) -> set[str]:
        """What it has."""
        listed: list[dict[str, Any]] = json.loads(self("images", *self._as_json))
        return {name for image in listed for name in image.get("Names") or image.get("names") or ()}


@pytest.mark.real("podman")
def test_an_archive_of_podman(tmp_path: Path) -> None:
    image = make_image(layers=[b"podman\n"])
    with Tool("podman", tmp_path) as podman:
        podman("load", "-i", image.write_archive(tmp_path / "in.tar", "docker.io/team/podman:v1"))
        podman("save", "--format", "docker-archive", "-o", tmp_path / "out.tar", "docker.io/team/podman:v1")
    run_pierhead("load", tmp_path / "out.tar", "--root", tmp_path / "store")
    assert list(names(tmp_path / "store")) == ["docker.io/team/podman:v1"]
    assert_sound(tmp_path / "store")


# ── what others read ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of three images, made out of a store."""
    folder = tmp_path_factory.mktemp("bundle")
    images = {**NAMES, "docker.io/team/one:v1": make_image(layers=[b"one\n", 5000])}
    root = folder / "store"
    run_pierhead("load", "--root", root, archive_of(folder / "images.tar", images))
    run_pierhead("bundle", "create", *images, "--platform", "all", "--root", root, "-o", folder / "bundle.tar")
    return folder / "bundle.tar"


@pytest.mark.real("containerd", "ctr")
def test_containerd_imports_a_bundle_as_k3s_does(bundle: Path, containerd: Containerd) -> None:
    containerd.ctr("images", "import", "--all-platforms", "--no-unpack", bundle)
    there = containerd.images()
    assert {name: there[name] for name in NAMES} == {name: image.digest for name, image in NAMES.items()}


@pytest.mark.real("containerd", "ctr")
@pytest.mark.parametrize("platform", ["all", "linux/amd64"])
def test_what_manifests_pin_is_there_by_tag_and_by_digest(
    platform: str, containerd: Containerd, tmp_path: Path
) -> None:
    """Kubernetes' manifests say `name:tag@digest`, of which a node asks for the digest; K3s imports what has a tag."""
    image = make_image(layers=[f"pinned for {platform}\n".encode()], platforms=["linux/amd64", "linux/arm64"])
    name, root = f"docker.io/team/pinned-{platform.rpartition('/')[2]}", tmp_path / "store"
    run_pierhead("load", "--root", root, image.write_archive(tmp_path / "a.tar", f"{name}:v1"))
    pod = tmp_path / "pod.yaml"
    pod.write_text(f"containers: [{{image: '{name}:v1@{image.digest}'}}]\n")
    names = run_pierhead("images-from", pod).out
    create = ("bundle", "create", "--images", "-", "--platform", platform, "--root", root, "-o", tmp_path / "b.tar")
    run_pierhead(*create, stdin=names)
    run_pierhead("load", tmp_path / "b.tar", f"--containerd={containerd.socket}", "--pin")
    there = containerd.images()
    assert (there[f"{name}:v1"], there[f"{name}@{image.digest}"]) == (image.digest, image.digest)


@pytest.mark.real("podman")
def test_podman_loads_a_bundle(bundle: Path, tmp_path: Path) -> None:
    with Tool("podman", tmp_path) as podman:
        podman("load", "-i", bundle)
        assert podman.names() >= set(NAMES)


@pytest.mark.real("buildah")
def test_buildah_pulls_out_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    with Tool("buildah", tmp_path) as buildah:
        buildah("pull", f"docker-archive:{bundle}:docker.io/team/one:v1")
        assert buildah.names() == {"docker.io/team/one:v1"}


@pytest.mark.real("skopeo", "containerd", "ctr")
def test_skopeo_and_containerd_pull_from_a_served_bundle(bundle: Path, containerd: Containerd, tmp_path: Path) -> None:
    with serve_bundle(bundle) as served:
        source = f"docker://{served.address}/team/docker:1.0"
        skopeo(
            "copy",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            source,
            f"dir:{tmp_path}/dir",
            home=tmp_path,
        )
        assert json.loads((tmp_path / "dir/manifest.json").read_bytes()) == DOCKER.manifest
        hosts = containerd.certs_d / "docker.io/hosts.toml"
        hosts.parent.mkdir(exist_ok=True)
        hosts.write_text(
            f'server = "http://127.0.0.1:1"\n[host."{served.url}"]\n  capabilities = ["pull", "resolve"]\n'
        )
        containerd.pull("docker.io/library/app:v1", "--all-platforms")
        assert containerd.images()["docker.io/library/app:v1"] == APP.digest
        file = write_registries(tmp_path, f'mirrors: {{"*": {{"endpoint": ["{served.url}"]}}}}')
        run_pierhead("pull", *NAMES, "--platform", "all", "--private-registry", file, "--root", tmp_path / "store")
        every = {digest: data for image in NAMES.values() for digest, data in image.blobs.items()}
        assert stored(tmp_path / "store") == every


def test_what_runs_in_an_empty_image(tmp_path: Path) -> None:
    """The busybox that containers are made of must be Debian's static one."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    dynamic = shutil.which("tar")
    assert dynamic is not None
    assert not runs_alone(dynamic)
    assert not runs_alone(str(script))
