"""`pierhead push`, `tag` and `copy` as people run them, between folders, tarballs, the store and `pierhead serve`."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from command import Ran, Served, assert_sound, environment, names, run_pierhead, serve, start_pierhead, stored
from images import REF_NAME, Image, make_image
from pierhead import cli
from pierhead.archive import open_archive
from pierhead.cli.world import read_world
from pierhead.layout import LayoutStore
from pierhead.oci import OCI_INDEX, OCI_MANIFEST
from pierhead.reference import Digest, Reference
from pierhead.routing import OwnRegistry
from pierhead.store import RepositoryName
from pierhead.transport import TlsOptions
from pki import Pki
from real import eventually
from stocked import stock
from uploads import digest_of

APP = make_image(layers=[b"app", 20_000])
OTHER = make_image(layers=[b"other"])
PLATFORMS = make_image(layers=[3000], platforms=["linux/amd64", "linux/arm64"])
AMD64, ARM64 = (item["digest"] for item in PLATFORMS.manifest["manifests"])
NAME = "hub.example/team/app:1"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry that has `APP` as app:1 and `PLATFORMS` as platforms:1."""
    root = tmp_path_factory.mktemp("copying") / "registry"
    store = LayoutStore(root)
    stock(store, APP, "app")
    stock(store, PLATFORMS, "platforms")
    with serve(root) as served:
        yield served


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout that has `PLATFORMS` under its full name."""
    return PLATFORMS.write_layout(tmp_path / "layout", NAME)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine takes part."""
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str | Path, code: int = 0) -> Ran:
    """Run a command in this process, as its entry point does."""
    texts, out, err = tuple(map(str, arguments)), io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        ended = cli.run(list(texts))
    ran = Ran(texts, ended, out.getvalue(), err.getvalue())
    assert ended == code, ran.said
    return ran


def told(command: str, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """What `-o json` says."""
    return dict(json.loads(run(command, "-o", "json", *arguments, code=code).out))


def lines(registry: Served, *, method: str = "") -> list[str]:
    """What it was asked, as method, path and status."""
    parts = [line.split() for line in registry.log.read_text().splitlines()[1:]]
    return [" ".join(part[3:6]) for part in parts if part[3].startswith(method)]


def content(path: Path, name: str = "") -> dict[str, str]:
    """The names of the images in an archive or layout, with their digests."""
    with open_archive(path) as archive:
        return {image.name: str(image.descriptor.digest) for image in archive.images}


# ── between files ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_layout_into_another_one(layout: Path, tmp_path: Path) -> None:
    first = told("copy", f"oci:{layout}", f"oci:{tmp_path}/new")
    assert content(tmp_path / "new") == {NAME: PLATFORMS.digest}
    assert stored(tmp_path / "new") == PLATFORMS.blobs
    assert (first["digest"], first["platforms"]) == (PLATFORMS.digest, ["linux/amd64", "linux/arm64"])
    again = told("copy", f"oci:{layout}", f"oci:{tmp_path}/new")
    size = sum(map(len, PLATFORMS.blobs.values()))
    assert (first["copied_bytes"], first["present_bytes"]) == (size, 0)
    assert (again["copied_bytes"], again["present_bytes"]) == (0, size)
    assert again["previous_digest"] == PLATFORMS.digest


def test_a_name_is_given_or_kept(layout: Path, tmp_path: Path) -> None:
    run("copy", f"oci:{layout}", f"oci:{tmp_path}/new:v2")
    run("copy", f"oci:{layout}", f"oci:{tmp_path}/new:other.example:5000/app:3")
    run("copy", f"oci:{layout}", f"oci:{tmp_path}/new")
    assert set(content(tmp_path / "new")) == {"v2", "other.example:5000/app:3", NAME}
    APP.write_layout(tmp_path / "app", "v3")
    run("copy", f"oci:{tmp_path}/app", f"oci:{tmp_path}/new")
    assert "name one of: v2, other.example:5000/app:3" in run("copy", f"oci:{tmp_path}/new", "oci:x", code=2).err


def test_one_platform_becomes_an_image_of_its_own(layout: Path, tmp_path: Path) -> None:
    moved = told("copy", "--platform", "linux/arm64", f"oci:{layout}", f"oci:{tmp_path}/new")
    assert moved["digest"] == ARM64
    assert content(tmp_path / "new") == {NAME: ARM64}
    assert PLATFORMS.digest not in stored(tmp_path / "new")
    assert "offers" in run("copy", "--platform", "linux/s390x", f"oci:{layout}", f"oci:{tmp_path}/x", code=3).err


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_a_tarball_and_back(kind: str, tmp_path: Path) -> None:
    APP.write_layout(tmp_path / "layout", NAME)
    run("copy", f"oci:{tmp_path}/layout", f"{kind}:{tmp_path}/a.tar")
    first = (tmp_path / "a.tar").read_bytes()
    run("cp", f"oci:{tmp_path}/layout", f"{kind}:{tmp_path}/a.tar")
    assert (tmp_path / "a.tar").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir() if "tar" in path.name] == ["a.tar"]
    back = told("copy", f"{kind}:{tmp_path}/a.tar", f"oci:{tmp_path}/back")
    assert set(content(tmp_path / "back")) == {NAME}
    blobs = {digest: data for digest, data in APP.blobs.items() if digest != APP.digest}
    assert stored(tmp_path / "back").items() >= blobs.items()
    if kind == "oci-archive":  # docker's has no manifests
        assert back["digest"] == APP.digest


def test_a_tag_alone_is_a_name_for_skopeo_and_none_for_containerd(tmp_path: Path) -> None:
    APP.write_layout(tmp_path / "layout", "v1")
    for place in ("oci-archive:a.tar", "oci:folder", "docker-archive:d.tar"):
        run("copy", f"oci:{tmp_path}/layout", place)
    with tarfile.open("a.tar") as tar:
        file = tar.extractfile("index.json")
        assert file is not None
        indexes = [json.load(file), json.loads(Path("folder/index.json").read_bytes())]
    assert [index["manifests"][0]["annotations"] for index in indexes] == [{REF_NAME: "v1"}] * 2
    assert list(content(Path("d.tar"))) == [""]


def test_several_platforms_in_a_docker_archive(layout: Path, tmp_path: Path) -> None:
    ran = run("copy", f"oci:{layout}", f"docker-archive:{tmp_path}/a.tar", code=2)
    assert "--platform: linux/amd64, linux/arm64" in ran.err
    assert list(tmp_path.iterdir()) == [layout]
    run("copy", "--platform", "arm64", f"oci:{layout}", f"docker-archive:{tmp_path}/a.tar:hub.example/app:arm")
    assert set(content(tmp_path / "a.tar")) == {"hub.example/app:arm"}


def test_a_tarball_that_is_damaged_is_not_written(layout: Path, tmp_path: Path) -> None:
    config = json.loads(PLATFORMS.blobs[AMD64])["config"]["digest"].partition(":")[2]
    (layout / "blobs/sha256" / config).write_bytes(PLATFORMS.blobs[f"sha256:{config}"].replace(b"amd64", b"AMD64"))
    target = tmp_path / "a.tar"
    target.write_bytes(b"what was there")
    ran = run("copy", f"oci:{layout}", f"oci-archive:{target}", code=1)
    assert config in ran.err
    assert target.read_bytes() == b"what was there"
    assert sorted(tmp_path.iterdir()) == [target, layout]


def test_the_same_place_twice(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(layout)
    before = (layout / "index.json").read_bytes()
    assert "nothing to do" in run("copy", f"oci:{layout}", f"oci:{tmp_path}/link").out
    assert "nothing to do" in run("copy", NAME, f"docker://{NAME}").out
    assert told("copy", NAME, NAME)["copied_bytes"] == 0
    assert (layout / "index.json").read_bytes() == before


def test_an_archive_is_not_written_over_itself(tmp_path: Path) -> None:
    tar = APP.write_archive(tmp_path / "a.tar", NAME)
    before = tar.read_bytes()
    for target in (f"docker-archive:{tar}", f"oci-archive:{tar}:other"):
        assert "is the file that is read" in run("copy", f"oci-archive:{tar}", target, code=2).err
    assert tar.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("oci:nowhere", 2, "does not exist"),
        ("oci:{layout}:nobody", 3, NAME),
        ("oci-archive:{layout}/index.json", 1, "index.json"),
        ("dir:/srv", 2, "oci:DIR"),
        ("oci:{layout}:with:colon", 3, "no image"),
    ],
)
def test_what_cannot_be_read(layout: Path, tmp_path: Path, source: str, code: int, words: str) -> None:
    ran = run("copy", source.format(layout=layout), f"oci:{tmp_path}/new", code=code)
    assert words in ran.err
    assert not (tmp_path / "new").exists()


def test_the_store_is_no_plain_layout(layout: Path, tmp_path: Path) -> None:
    stock(LayoutStore(tmp_path / "store"), APP)
    assert "store of pierhead" in run("copy", f"oci:{layout}", f"oci:{tmp_path}/store", code=2).err
    LayoutStore(tmp_path / "store").publish_index()
    run("copy", f"oci:{tmp_path}/store", f"oci:{tmp_path}/new")  # but may be read
    assert APP.digest in content(tmp_path / "new").values()


# ── registries ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_from_repository_to_repository_nothing_is_sent(registry: Served) -> None:
    source, target = f"{registry.address}/platforms:1", f"{registry.address}/team/mounted:1"
    before = len(lines(registry))
    moved = told("copy", source, target)
    asked = lines(registry)[before:]
    blobs = {digest for digest in PLATFORMS.blobs if digest not in PLATFORMS.manifests}
    assert len([line for line in asked if line.startswith("POST") and "mount=" in line]) == len(blobs)
    assert not [line for line in asked if line.startswith("GET") and "/blobs/" in line]
    assert (moved["digest"], moved["route"]) == (PLATFORMS.digest, registry.url)
    assert moved["copied_bytes"] == sum(len(PLATFORMS.blobs[digest]) for digest in PLATFORMS.manifests)


def test_a_second_copy_writes_nothing(registry: Served) -> None:
    source, target = f"{registry.address}/platforms:1", f"docker://{registry.address}/twice:1"
    run("copy", source, target)
    before = len(lines(registry))
    again = run("copy", source, target)
    assert "was there" in again.out
    assert {line.split()[0] for line in lines(registry)[before:]} <= {"HEAD", "GET"}
    assert not [line for line in lines(registry)[before:] if line.startswith("GET") and "/blobs/" in line]


def test_what_the_tag_was_before(registry: Served, tmp_path: Path) -> None:
    APP.write_layout(tmp_path / "app")
    OTHER.write_layout(tmp_path / "other")
    target = f"{registry.address}/moving:1"
    assert "  was " not in run("copy", f"oci:{tmp_path}/app", target).out
    assert f"  was {APP.digest}" in run("copy", f"oci:{tmp_path}/other", target).out
    assert told("copy", f"oci:{tmp_path}/app", target)["previous_digest"] == OTHER.digest


def test_the_digest_that_is_to_be_there(registry: Served, tmp_path: Path) -> None:
    APP.write_layout(tmp_path / "app")
    target = f"{registry.address}/pinned"
    before = len(lines(registry))
    ran = run("copy", f"oci:{tmp_path}/app", f"{target}:1@{OTHER.digest}", code=1)
    assert APP.digest in ran.err
    assert len(lines(registry)) == before
    run("copy", f"oci:{tmp_path}/app", f"{target}:1@{APP.digest}")
    run("copy", f"oci:{tmp_path}/app", f"{target}-only@{APP.digest}")
    store = LayoutStore(registry.root)
    assert list(store.repository(RepositoryName("pinned")).tags()) == ["1"]
    assert list(store.repository(RepositoryName("pinned-only")).tags()) == []
    assert store.repository(RepositoryName("pinned-only")).resolve(APP.digest).digest == Digest.parse(APP.digest)


def test_one_platform_of_a_registry(registry: Served) -> None:
    target = f"{registry.address}/arm:1"
    assert told("copy", "--platform", "linux/arm64", f"{registry.address}/platforms:1", target)["digest"] == ARM64
    assert told("copy", f"{registry.address}/platforms@{ARM64}", target)["copied_bytes"] == 0


def test_from_a_registry_into_files(registry: Served, tmp_path: Path) -> None:
    source = f"{registry.address}/platforms:1"
    run("copy", source, f"oci-archive:{tmp_path}/a.tar")
    run("copy", source, f"oci:{tmp_path}/new")
    run("copy", "--platform", "linux/amd64", source, f"docker-archive:{tmp_path}/d.tar")
    assert content(tmp_path / "a.tar") == content(tmp_path / "new") == {source: PLATFORMS.digest}
    assert set(content(tmp_path / "d.tar")) == {source}
    assert stored(tmp_path / "new") == PLATFORMS.blobs


def test_a_mirror_is_read_and_the_registry_written(registry: Served, tmp_path: Path) -> None:
    """`hub.example` is nowhere; what it has comes from the mirror, and a push to it is not sent there."""
    (tmp_path / "registries.yaml").write_text(
        json.dumps(
            {
                "mirrors": {
                    "hub.example": {"endpoint": ["http://127.0.0.1:1", registry.url], "rewrite": {"^team/(.*)": "$1"}}
                }
            }
        )
    )
    option = ("--private-registry", tmp_path / "registries.yaml")
    ran = run("copy", *option, NAME, f"oci:{tmp_path}/new")
    assert content(tmp_path / "new") == {NAME: APP.digest}
    assert "not from http://127.0.0.1:1: connection refused" in ran.err
    before = len(lines(registry))
    ran = run("copy", *option, f"oci:{tmp_path}/new", NAME, code=5)
    assert "hub.example" in ran.err
    assert len(lines(registry)) == before


def signed(image: Image) -> Image:
    """Something that refers to an image, as cosign and notation write it: an artifact whose subject it is."""
    empty = b"{}"
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(empty, "sha256"), "size": 2}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": config,
        "layers": [config],
        "subject": {"mediaType": OCI_INDEX, "digest": image.digest, "size": len(image.blobs[image.digest])},
    }
    raw = json.dumps(manifest).encode()
    digest = digest_of(raw, "sha256")
    top = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(raw)}
    return Image(top, {digest: raw, digest_of(empty, "sha256"): empty})


def test_what_refers_to_an_image_goes_with_it(registry: Served, tmp_path: Path) -> None:
    """Out of a registry into a folder, and out of that into another repository."""
    signature = signed(PLATFORMS)
    store = LayoutStore(registry.root)
    stock(store, PLATFORMS, "signed")
    stock(store, signature, "signed", "signature")
    store.repository(RepositoryName("signed")).untag("signature")
    out = told("copy", "--referrers", f"{registry.address}/signed:1", f"oci:{tmp_path}/new:{NAME}")
    back = told("copy", "--referrers", f"oci:{tmp_path}/new:{NAME}", f"{registry.address}/signed-too:1")
    for moved in (out, back):
        assert moved["digest"] == PLATFORMS.digest
        assert [(item["digest"], item["subject"]) for item in moved["referrers"]] == [
            (signature.digest, PLATFORMS.digest)
        ]
    assert content(tmp_path / "new") == {NAME: PLATFORMS.digest}
    entries = json.loads((tmp_path / "new/index.json").read_bytes())["manifests"]
    assert [(entry["digest"], "annotations" in entry) for entry in entries] == [
        (PLATFORMS.digest, True),
        (signature.digest, False),
    ]
    listed = store.repository(RepositoryName("signed-too")).referrers(Digest.parse(PLATFORMS.digest))
    assert [str(item.digest) for item in listed] == [signature.digest]
    assert (
        "with 1 that refers to it"
        in run("copy", "--referrers", f"{registry.address}/signed:1", f"{registry.address}/signed-too:1").out
    )
    plain = told("copy", f"{registry.address}/signed:1", f"{registry.address}/unsigned:1")
    assert plain["referrers"] == []
    refused = run("copy", "--referrers", f"{registry.address}/signed:1", f"docker-archive:{tmp_path}/a.tar", code=2)
    assert "a docker-archive holds images alone" in refused.err
    assert not (tmp_path / "a.tar").exists()


def test_what_refers_to_an_image_goes_into_a_file_with_it(registry: Served, tmp_path: Path) -> None:
    signature, store = signed(PLATFORMS), LayoutStore(registry.root)
    stock(store, PLATFORMS, "filed")
    stock(store, signature, "filed", f"sha256-{PLATFORMS.digest[7:]}.sig")
    file = f"oci-archive:{tmp_path}/a.tar"
    out = told("copy", "--referrers", f"{registry.address}/filed:1", f"{file}:{NAME}")
    with open_archive(tmp_path / "a.tar") as archive:
        assert [image.name for image in archive.images] == [NAME]
    back = told("copy", "--referrers", file, f"{registry.address}/filed-too:1")
    for moved in (out, back):
        assert moved["digest"] == PLATFORMS.digest
        assert {(item["digest"], item["subject"], item["tag"]) for item in moved["referrers"]} == {
            (signature.digest, PLATFORMS.digest, None),
            (signature.digest, PLATFORMS.digest, f"sha256-{PLATFORMS.digest[7:]}.sig"),
        }
    own = store.repository(RepositoryName("filed-too"))
    assert [str(item.digest) for item in own.referrers(Digest.parse(PLATFORMS.digest))] == [signature.digest]
    assert str(own.resolve(f"sha256-{PLATFORMS.digest[7:]}.sig").digest) == signature.digest
    alone = told("copy", f"{file}:{signature.digest}", f"{registry.address}/signature:1")
    assert alone["digest"] == signature.digest


def test_json_of_what_failed(registry: Served, tmp_path: Path) -> None:
    told_of = told("copy", f"{registry.address}/nobody:1", f"oci:{tmp_path}/new", code=3)
    assert told_of["exit_code"] == 3
    assert "nobody" in told_of["error"]
    assert {attempt["status"] for attempt in told_of["attempts"]} == {404}
    assert (told_of["digest"], told_of["copied_bytes"]) == (None, 0)


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that has `PLATFORMS` under `NAME`, whole."""
    store = LayoutStore(tmp_path / "store")
    stock(store, PLATFORMS, "team/app", namespace="hub.example")
    store.publish_index()
    return store.path


def test_another_name(root: Path) -> None:
    before = {path: path.stat().st_ino for path in (root / "blobs").rglob("*")}
    told_of = told("tag", "--root", root, NAME, "other.example:5000/mine:2")
    assert told_of == {
        "reference": "other.example:5000/mine:2",
        "digest": PLATFORMS.digest,
        "previous_digest": None,
    }
    assert names(root) == {NAME: PLATFORMS.digest, "other.example:5000/mine:2": PLATFORMS.digest}
    assert {path: path.stat().st_ino for path in (root / "blobs").rglob("*")} == before
    assert_sound(root)


def test_a_name_that_moves(root: Path) -> None:
    stock(LayoutStore(root), APP, "team/other", namespace="hub.example")
    run("tag", "--root", root, NAME, "hub.example/team/new:1")
    ran = run("tag", "--root", root, "hub.example/team/other:1", "hub.example/team/new:1")
    assert ran.out == f"hub.example/team/new:1  {APP.digest}  was {PLATFORMS.digest}\n"
    again = run("tag", "--root", root, "hub.example/team/other:1", "hub.example/team/new:1")
    assert again.out == f"hub.example/team/new:1  {APP.digest}\n"
    assert names(root)["hub.example/team/new:1"] == APP.digest
    assert_sound(root)


def test_a_name_for_a_digest(root: Path) -> None:
    run("tag", "--root", root, f"hub.example/team/app@{ARM64}", "hub.example/team/arm:1")
    assert names(root)["hub.example/team/arm:1"] == ARM64
    assert run("tag", "--root", root, NAME, f"hub.example/team/x:1@{ARM64}", code=1).err.count(PLATFORMS.digest) == 1
    assert "pierhead pull" in run("tag", "--root", root, "hub.example/nobody:1", "hub.example/x:1", code=3).err


def test_some_platforms_keep_being_some(registry: Served, tmp_path: Path) -> None:
    root, source = tmp_path / "store", f"{registry.address}/platforms:1"
    run("pull", "--root", root, "--platform", "linux/arm64", source)
    run("tag", "--root", root, source, "hub.example/some:1")
    run("tag", "--root", root, f"{registry.address}/platforms@{PLATFORMS.digest}", "hub.example/some:2")
    for tag in ("1", "2"):
        name = LayoutStore(root).repository(RepositoryName("some", "hub.example")).named(tag)
        assert [str(platform) for platform in name.platforms] == ["linux/arm64"]
    assert_sound(root)


def test_push_to_the_registry_of_the_name(registry: Served, root: Path) -> None:
    target = f"{registry.address}/pushed:1"
    run("tag", "--root", root, NAME, target)
    first, again = (told("push", "--root", root, target) for _ in range(2))
    assert first["source"] == first["destination"] == target
    assert first["digest"] == again["digest"] == PLATFORMS.digest
    assert first["copied_bytes"] == sum(map(len, PLATFORMS.blobs.values()))
    assert again["copied_bytes"] == 0


def test_push_elsewhere(registry: Served, root: Path, tmp_path: Path) -> None:
    ran = run("push", "-q", "--root", root, NAME, f"docker://{registry.address}/elsewhere:1")
    assert ran.out.startswith(f"{registry.address}/elsewhere:1  {PLATFORMS.digest}  copied ")
    assert ran.err == ""
    assert "pierhead copy" in run("push", "--root", root, NAME, f"oci:{tmp_path}/x", code=2).err
    assert "pierhead pull" in run("push", "--root", root, "hub.example/nobody:1", code=3).err


def test_push_of_what_was_pulled_for_one_platform(registry: Served, tmp_path: Path) -> None:
    root, source = tmp_path / "store", f"{registry.address}/platforms:1"
    run("pull", "--root", root, "--platform", "linux/arm64", source)
    ran = run("push", "--root", root, source, f"{registry.address}/partly:1")
    assert f"  {ARM64}  " in ran.out
    assert f"only linux/arm64 of {source} is there" in ran.err
    told_of = told("push", "--root", root, source, f"{registry.address}/partly:2")
    assert (told_of["digest"], told_of["only_platforms"]) == (ARM64, ["linux/arm64"])
    whole = run("push", "--root", root, "--platform", "all", source, f"{registry.address}/partly:3", code=3)
    assert AMD64 in whole.err


def test_interrupted(registry: Served, tmp_path: Path) -> None:
    """Ctrl-C ends it at once, and what came is there for the next time."""
    image = make_image(layers=[400_000, 410_000, 420_000], compression="none")
    image.write_layout(tmp_path / "layout")
    target = f"{registry.address}/interrupted:1"
    with start_pierhead("copy", "--limit-rate", "100k", "-j", "1", f"oci:{tmp_path}/layout", target) as running:
        eventually(lambda: [line for line in lines(registry) if "POST /v2/interrupted/" in line], what="an upload")
        ran = running.signal(signal.SIGINT)
    assert ran.code == 130, ran.said
    assert "interrupted" in ran.err
    assert "Traceback" not in ran.err
    run("copy", f"oci:{tmp_path}/layout", target)
    assert LayoutStore(registry.root).repository(RepositoryName("interrupted")).resolve("1").digest
    assert_sound(registry.root)


def test_an_interrupted_tarball_leaves_the_old_one(tmp_path: Path) -> None:
    image = make_image(layers=[400_000], compression="none")
    image.write_layout(tmp_path / "layout")
    target = tmp_path / "out" / "a.tar"
    assert "make it first" in run("copy", f"oci:{tmp_path}/layout", f"oci-archive:{target}", code=2).err
    target.parent.mkdir()
    target.write_bytes(b"what was there")
    arguments = ("copy", "--limit-rate", "100k", f"oci:{tmp_path}/layout", f"oci-archive:{target}")

    def grows() -> bool:
        return any(path.stat().st_size > 4096 for path in target.parent.iterdir())

    with start_pierhead(*arguments) as running:
        eventually(grows, what="the new file to grow")
        ran = running.signal(signal.SIGINT)
    assert ran.code == 130, ran.said
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"what was there"]


def test_flags_win_however_registries_yaml_names_the_registry(tmp_path: Path, pki: Pki) -> None:
    """K3s is told of plain http by a mirror of the registry by its own name, and flags speak of the registry."""
    file = tmp_path / "registries.yaml"
    file.write_text(json.dumps({"mirrors": {"lan.example": {"endpoint": ["http://lan.example"]}}}))
    reference = Reference.parse("lan.example/team/app:1")
    plain = read_world(file).own_route(reference)
    assert (plain.origin, plain.repository, plain.namespace) == ("http://lan.example", "team/app", "")
    flags = OwnRegistry(tls=TlsOptions(ca_files=(pki.ca,)))
    assert replace(read_world(file), own_registry=flags).own_route(reference).tls.ca_files == (pki.ca,)
    file.write_text(json.dumps({"mirrors": {"lan.example": {"endpoint": ["https://mirror.example"]}}}))
    assert replace(read_world(file), own_registry=flags).own_route(reference).tls.ca_files == (pki.ca,)
    assert replace(read_world(file), own_registry=flags).own_route(reference).origin == "https://lan.example"


@pytest.mark.parametrize("mirror", ["lan.example", "*"])
def test_what_nodes_are_forbidden_says_nothing_of_the_registry(tmp_path: Path, pki: Pki, mirror: str) -> None:
    """K3s may be told not to ask a registry after its mirrors; who goes there himself goes by the same settings."""
    file = tmp_path / "registries.yaml"
    own = OwnRegistry(tls=TlsOptions(ca_files=(pki.other_ca,)))
    file.write_text(json.dumps({"mirrors": {mirror: {"endpoint": ["https://mirror.example"]}}}))
    world = read_world(file, disable_default_registry_endpoint=True)
    route = replace(world, own_registry=own).own_route(Reference.parse("lan.example/team/app:1"))
    assert (route.url, route.repository, route.namespace) == ("https://lan.example/v2", "team/app", "")
    assert route.tls.ca_files == (pki.other_ca,)


@pytest.mark.parametrize("disabled", [False, True])
def test_docker_hub_is_spoken_with_as_configs_says(tmp_path: Path, pki: Pki, disabled: bool) -> None:
    file = tmp_path / "registries.yaml"
    configs = {"registry-1.docker.io": {"tls": {"ca_file": pki.ca}}}
    mirrors = {"docker.io": {"endpoint": ["https://mirror.example"]}}
    file.write_text(json.dumps({"mirrors": mirrors, "configs": configs}))
    own = OwnRegistry(tls=TlsOptions(ca_files=(pki.other_ca,)))
    world = read_world(file, disable_default_registry_endpoint=disabled)
    route = replace(world, own_registry=own).own_route(Reference.parse("team/app:1"))
    assert route.url == "https://registry-1.docker.io/v2"
    assert route.tls.ca_files == (pki.ca, pki.other_ca)


def test_registries_yaml_on_standard_input_is_for_both_ends(tmp_path: Path) -> None:
    APP.write_layout(tmp_path / "layout")
    known = tmp_path / "htpasswd"
    known.write_text(f"user:{bcrypt.hashpw(b'pass', bcrypt.gensalt(4)).decode()}\n")
    with serve(tmp_path / "registry", "--htpasswd", known) as closed:
        auth = {"configs": {closed.address: {"auth": {"username": "user", "password": "pass"}}}}
        copy = ("copy", "--private-registry", "-", f"oci:{tmp_path}/layout", f"{closed.address}/app:1")
        run_pierhead(*copy, stdin=json.dumps(auth))
    assert LayoutStore(tmp_path / "registry").repository(RepositoryName("app")).resolve("1").digest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--referrers", "nobody.invalid/a:1", "docker-archive:a.tar"), "a docker-archive holds images alone"),
        (("nobody.invalid/a:1", "oci-archive:no/a.tar"), "no is no folder"),
    ],
)
def test_what_could_not_be_written_is_said_before_anybody_is_asked(arguments: Sequence[str], said: str) -> None:
    ran = run("copy", *arguments, code=2)
    assert said in ran.err
    assert "nobody.invalid: " not in ran.err
