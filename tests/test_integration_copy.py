"""`pierhead copy`, `push` and `tag` between the real registry and what skopeo, podman and containerd write and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from command import run_pierhead, write_registries
from images import Image, make_image, make_index
from pki import Pki
from real import Containerd, DockerRegistry, clean_environment, push, run, skopeo
from uploads import upload

pytestmark = pytest.mark.real("docker-registry", "skopeo")

KINDS = {
    "oci": make_image(layers=[b"hello", 300_000]),
    "docker": make_image(layers=[b"hello", 50_000], media="docker"),
    "zstd": make_image(layers=[0, 300_000], compression="zstd"),
    "uncompressed": make_image(layers=[1000], compression="none"),
    "index": make_image(layers=[2000], platforms=["linux/amd64", "linux/arm64", "linux/arm/v7"]),
    "list": make_image(media="docker", platforms=["linux/amd64", "linux/arm64"]),
    "nested": make_index(make_index(make_image(platforms=["linux/amd64"])), make_image(layers=[b"x"])),
}
APP = KINDS["index"]
NAME = "hub.example/team/app:1"


@dataclass(frozen=True)
class Pair:
    """Two registries: everything is in the first, and the second is empty at first."""

    full: DockerRegistry
    empty: DockerRegistry

    def forget(self) -> None:
        self.full.forget()
        self.empty.forget()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("copy")
    with DockerRegistry(folder / "full") as full, DockerRegistry(folder / "empty") as empty:
        for kind, image in KINDS.items():
            upload(full.url, f"kinds/{kind}", image, "v1")
        yield Pair(full, empty)


def kept(registry: DockerRegistry) -> dict[str, bytes]:
    """Every blob on the disk of a registry."""
    files = (registry.data / "docker/registry/v2/blobs").glob("*/*/*/data")
    return {f"{file.parts[-4]}:{file.parts[-2]}": file.read_bytes() for file in files}


def tagged(registry: DockerRegistry, repository: str, tag: str) -> str:
    """The digest that a tag points to, read from the disk of a registry."""
    tags = registry.data / "docker/registry/v2/repositories" / repository / "_manifests/tags"
    return (tags / tag / "current/link").read_text()


def assert_kept(registry: DockerRegistry, image: Image, repository: str, tag: str = "v1") -> None:
    """The registry has every byte of the image, and the tag points to it."""
    there = kept(registry)
    assert {digest: there.get(digest) for digest in image.blobs} == image.blobs
    assert tagged(registry, repository, tag) == image.digest


def uploads(registry: DockerRegistry) -> list[str]:
    """What was written to it, by method and path."""
    return [f"{line.method} {line.uri}" for line in registry.requests() if line.method not in ("GET", "HEAD")]


# ── registry to registry ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_keeps_its_bytes(pair: Pair, kind: str) -> None:
    source, target = f"{pair.full.address}/kinds/{kind}:v1", f"{pair.empty.address}/to/{kind}:v1"
    run_pierhead("copy", "-q", source, target)
    assert_kept(pair.empty, KINDS[kind], f"to/{kind}")


def test_a_second_copy_sends_nothing(pair: Pair, tmp_path: Path) -> None:
    source, target = f"{pair.full.address}/kinds/index:v1", f"{pair.empty.address}/twice/app:v1"
    run_pierhead("copy", source, target)
    pair.forget()
    again = json.loads(run_pierhead("copy", "-o", "json", source, target).out)
    assert (again["copied_bytes"], again["digest"]) == (0, APP.digest)
    manifests, blobs = len(APP.manifests), len(APP.blobs) - len(APP.manifests)
    asked = pair.empty.requests(1 + 2 * manifests + blobs)
    assert len(asked) == 1 + 2 * manifests + blobs  # the tag, HEAD and GET of each manifest, HEAD of each blob
    assert {line.method for line in asked} == {"HEAD", "GET"}
    assert [(line.method, line.uri) for line in pair.full.requests(1)] == [("HEAD", "/v2/kinds/index/manifests/v1")]


def test_blobs_are_mounted_in_the_same_registry(pair: Pair) -> None:
    pair.forget()
    source, target = f"{pair.full.address}/kinds/oci:v1", f"{pair.full.address}/mounted/app:v1"
    run_pierhead("copy", source, target)
    assert_kept(pair.full, KINDS["oci"], "mounted/app")
    written = uploads(pair.full)
    assert all("mount=" in line or line.startswith("PUT /v2/mounted/app/manifests/") for line in written), written
    assert len([line for line in written if "mount=" in line]) == 3


def test_one_platform_of_several(pair: Pair, tmp_path: Path) -> None:
    source, target = f"{pair.full.address}/kinds/index:v1", f"{pair.empty.address}/one/app:v1"
    run_pierhead("copy", "--platform", "linux/arm64", source, target)
    item = APP.manifest["manifests"][1]
    assert item["platform"]["architecture"] == "arm64"
    assert tagged(pair.empty, "one/app", "v1") == item["digest"]
    assert (
        skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{target}", home=tmp_path).encode()
        == (APP.blobs[item["digest"]])
    )
    both = ("--platform", "linux/arm64", "--platform", "linux/amd64")
    refused = run_pierhead("copy", *both, source, f"{pair.empty.address}/two/app:v1", code=1)
    assert "push one platform, or all of them" in refused.err  # this registry wants whole indexes


# ── whom we are, on each side ────────────────────────────────────────────────────────────────────────────────────

FROM, TO = ("reader", "hunter2-from"), ("writer", "hunter2-to")


def test_tls_and_a_login_on_both_sides(tmp_path: Path, pki: Pki) -> None:
    """One from registries.yaml, the other from flags; and no secret is shown anywhere."""
    with (
        DockerRegistry(tmp_path / "from", tls=pki, htpasswd=FROM) as source,
        DockerRegistry(tmp_path / "to", tls=pki, htpasswd=TO) as target,
    ):
        push(f"oci:{APP.write_layout(tmp_path / 'layout')}:latest", source, "team/app:v1")
        config = {"auth": dict(zip(("username", "password"), FROM, strict=True)), "tls": {"ca_file": pki.ca}}
        file = write_registries(tmp_path, json.dumps({"configs": {source.address: config}}))
        own = ("--dest-creds", TO[0], "--dest-password-stdin", "--dest-ca-file", pki.ca)
        trace = tmp_path / "trace"
        names = (f"{source.address}/team/app:v1", f"{target.address}/team/app:v1")
        ran = run_pierhead("copy", "--private-registry", file, "--trace", trace, *own, *names, stdin=f"{TO[1]}\n")
        assert_kept(target, APP, "team/app")
        assert trace.read_text().count('"Basic ***"') > 5
        wrong = ("--dest-creds", "writer:hunter2-wrong", "--dest-ca-file", pki.ca)
        failed = run_pierhead("copy", "--private-registry", file, *wrong, names[0], f"{names[1]}-too", code=4)
        json_of = run_pierhead("copy", "-o", "json", "--private-registry", file, *wrong, *names, code=4)
        said = (trace.read_text(), *(one.out + one.err for one in (ran, failed, json_of)))
    assert not [text for text in said if "hunter2" in text]


def test_push_by_registries_yaml(tmp_path: Path, pki: Pki) -> None:
    """Pulled, given the name of the private registry, pushed: with the `configs` of that registry."""
    with DockerRegistry(tmp_path / "to", tls=pki, htpasswd=TO) as target:
        config = {"auth": dict(zip(("username", "password"), TO, strict=True)), "tls": {"ca_file": pki.ca}}
        # The mirror would be asked first by a pull; a push must not go there.
        mirrors = {target.address: {"endpoint": ["https://mirror.invalid"], "rewrite": {"(.*)": "elsewhere/$1"}}}
        text = json.dumps({"mirrors": mirrors, "configs": {target.address: config}})
        option = ("--private-registry", write_registries(tmp_path, text))
        push(f"oci:{APP.write_layout(tmp_path / 'layout')}:latest", target, "source/app:v1")
        root, name = tmp_path / "store", f"{target.address}/team/app:v1"
        run_pierhead("pull", *option, "--platform", "all", "--root", root, f"{target.address}/source/app:v1")
        run_pierhead("tag", "--root", root, f"{target.address}/source/app:v1", name)
        run_pierhead("push", *option, "--root", root, name)
        assert_kept(target, APP, "team/app")


# ── skopeo, podman, containerd ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["oci", "index"])
def test_a_layout_of_ours_is_skopeos(pair: Pair, tmp_path: Path, kind: str) -> None:
    """And the other way round: an archive that skopeo wrote goes into a registry with the same digest."""
    source = f"{pair.full.address}/kinds/{kind}:v1"
    run_pierhead("copy", source, f"oci:{tmp_path}/ours:{NAME}")
    run_pierhead("copy", source, f"oci-archive:{tmp_path}/ours.tar:{NAME}")
    for number, place in enumerate((f"oci:{tmp_path}/ours:{NAME}", f"oci-archive:{tmp_path}/ours.tar:{NAME}")):
        skopeo("copy", "-q", "--all", "--preserve-digests", place, f"dir:{tmp_path}/{number}", home=tmp_path)
        assert (tmp_path / str(number) / "manifest.json").read_bytes() == KINDS[kind].blobs[KINDS[kind].digest]
    theirs = f"oci-archive:{tmp_path}/theirs.tar:{NAME}"
    skopeo("copy", "-q", "--all", "--preserve-digests", f"oci:{tmp_path}/ours:{NAME}", theirs, home=tmp_path)
    run_pierhead("copy", f"oci-archive:{tmp_path}/theirs.tar", f"{pair.empty.address}/from-skopeo/{kind}:v1")
    assert_kept(pair.empty, KINDS[kind], f"from-skopeo/{kind}")


def test_a_docker_archive_of_skopeos_and_ours(pair: Pair, tmp_path: Path) -> None:
    """It has no manifest, so the digest is another one; the configuration and what the layers hold are the same."""
    image = KINDS["uncompressed"]
    config = image.manifest["config"]["digest"]
    run_pierhead("copy", f"{pair.full.address}/kinds/uncompressed:v1", f"docker-archive:{tmp_path}/ours.tar:{NAME}")
    skopeo("copy", "-q", f"docker-archive:{tmp_path}/ours.tar:{NAME}", f"oci:{tmp_path}/read:x", home=tmp_path)
    skopeo("copy", "-q", f"oci:{tmp_path}/read:x", f"docker-archive:{tmp_path}/theirs.tar:{NAME}", home=tmp_path)
    for number, tar in enumerate(("ours.tar", "theirs.tar")):
        run_pierhead("copy", f"docker-archive:{tmp_path}/{tar}", f"{pair.empty.address}/docker-archive/{number}:v1")
        raw = kept(pair.empty)[tagged(pair.empty, f"docker-archive/{number}", "v1")]
        diffs = json.loads(image.blobs[config])["rootfs"]["diff_ids"]
        there = json.loads(raw)
        assert json.loads(kept(pair.empty)[there["config"]["digest"]])["rootfs"]["diff_ids"] == diffs
    assert tagged(pair.empty, "docker-archive/0", "v1") != image.digest


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """podman with a storage of its own; what it printed."""
    settings = tmp_path / ".config/containers"
    settings.mkdir(parents=True)
    (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    with TemporaryDirectory(prefix="pods-") as short:  # it wants this path to be short
        own = ("podman", "--root", tmp_path / "root", "--runroot", short, "--tmpdir", f"{short}/libpod")
        environment = clean_environment(tmp_path, XDG_RUNTIME_DIR=str(tmp_path))
        yield lambda *arguments: run((*own, "--storage-driver", "vfs", *arguments), environment)


@pytest.mark.real("podman")
@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_podman_loads_ours_and_we_take_what_it_saves(
    pair: Pair, podman: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    image = KINDS["oci"]
    run_pierhead("copy", f"{pair.full.address}/kinds/oci:v1", f"{kind}:{tmp_path}/ours.tar:{NAME}")
    assert NAME in podman("load", "-q", "-i", tmp_path / "ours.tar")
    identity = podman("images", "--no-trunc", "--format", "{{.ID}}").strip()
    assert identity == image.manifest["config"]["digest"]
    podman("save", "-q", "--format", kind, "-o", tmp_path / "theirs.tar", NAME)
    run_pierhead("copy", f"{kind}:{tmp_path}/theirs.tar", f"{pair.empty.address}/from-podman/{kind}:v1")
    manifest = json.loads(kept(pair.empty)[tagged(pair.empty, f"from-podman/{kind}", "v1")])
    assert manifest["config"]["digest"] == identity


@pytest.mark.real("containerd", "ctr")
def test_containerd_takes_ours_and_we_take_what_it_exports(pair: Pair, tmp_path: Path) -> None:
    with Containerd(tmp_path / "containerd") as containerd:
        for kind in ("index", "list"):
            name, tar = f"hub.example/team/{kind}:1", tmp_path / f"{kind}.tar"
            run_pierhead("copy", f"{pair.full.address}/kinds/{kind}:v1", f"oci-archive:{tar}:{name}")
            containerd.ctr("images", "import", "--all-platforms", "--no-unpack", tar)
            assert containerd.images()[name] == KINDS[kind].digest
            containerd.ctr("images", "export", "--all-platforms", tmp_path / f"theirs-{kind}.tar", name)
            run_pierhead(
                "copy", f"oci-archive:{tmp_path}/theirs-{kind}.tar:{name}", f"{pair.empty.address}/from-ctr/{kind}:v1"
            )
            assert_kept(pair.empty, KINDS[kind], f"from-ctr/{kind}")
