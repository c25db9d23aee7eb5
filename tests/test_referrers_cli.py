"""Signatures and the like on their whole way by file: pulled, saved, loaded, served and put where nodes look."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command import Ran, Served, assert_sound, names, run_pierhead, serve, serve_bundle, stored, write_registries
from images import make_image
from pierhead.archive import open_archive
from pierhead.layout import LayoutStore
from pierhead.reference import Digest
from pierhead.referrers import find_all_referrers
from pierhead.store import RepositoryName, Source
from referring import Signed, artifact, cosign_tag, listing
from stocked import stock

NAME, PLAIN = "docker.io/team/app:1", "docker.io/team/plain:1"
SIGNED, OTHER = Signed.make(), make_image(layers=[b"plain\n"])
SUBJECTS = [Digest.parse(digest) for digest in SIGNED.image.manifests]
TAG = cosign_tag(SIGNED.image.digest)
WITH = "with 4 that refer to it"
EVERY = {**SIGNED.blobs, **OTHER.blobs}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry with both images, and with what refers to one of them."""
    store = LayoutStore(tmp_path_factory.mktemp("upstream") / "store")
    SIGNED.put_into(store, NAME)
    stock(store, OTHER, "team/plain", "1")
    store.publish_index()
    with serve(store.path) as served:
        yield served


@pytest.fixture
def online(upstream: Served, tmp_path: Path) -> Path:
    """A registries.yaml that leads to it."""
    return mirrored(tmp_path / "online", upstream.url)


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    """A registries.yaml that leads nowhere."""
    return mirrored(tmp_path / "offline", "http://127.0.0.1:1")


def mirrored(folder: Path, url: str) -> Path:
    return write_registries(folder, f'mirrors: {{"docker.io": {{"endpoint": ["{url}"]}}}}')


def run(command: str, registries: Path, *arguments: str | Path, code: int = 0) -> Ran:
    by = ("--private-registry", registries, "--disable-default-registry-endpoint")
    return run_pierhead(*command.split(), *by, *arguments, code=code)


def found_in(source: Source) -> set[str]:
    return {str(item.descriptor.digest) for item in find_all_referrers(source, SUBJECTS)}


def in_store(root: Path) -> set[str]:
    """What a store knows to refer to the image."""
    return found_in(LayoutStore(root).repository(RepositoryName("team/app", "docker.io")))


def in_file(path: Path) -> set[str]:
    with open_archive(path) as archive:
        assert [image.name for image in archive.images if image.name != PLAIN] == [NAME]
        return found_in(archive.content)


def bundle_of(path: Path) -> Path:
    """A bundle of both images with all that refers to them, as it is in the archive of another program."""
    return listing(path, [*SIGNED.entries(NAME), (PLAIN, OTHER)])


# ── pull ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pull(online: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    ran = run("pull", online, NAME, PLAIN, "--platform", "all", "--referrers", "--root", root)
    signed, plain = ran.out.splitlines()
    assert signed.endswith(f"  {WITH}")
    assert "refer to it" not in plain
    assert in_store(root) == SIGNED.referrers
    assert names(root)[f"docker.io/team/app:{TAG}"] == SIGNED.tagged[TAG].digest
    assert stored(root) == EVERY
    assert_sound(root)
    said = run("pull", online, NAME, "--platform", "all", "--referrers", "--root", root, "-o", "json").images[0]
    assert {item["digest"] for item in said["referrers"]} == SIGNED.referrers
    assert {item["tag"] for item in said["referrers"]} == {None, TAG}
    assert (said["referrers_left_out"], {item["copied_bytes"] for item in said["referrers"]}) == ([], {0})


def test_pull_without_it(online: Path, tmp_path: Path) -> None:
    ran = run(
        "pull", online, NAME, "--platform", "all", "--root", tmp_path, "-o", "json", "--trace", tmp_path / "trace"
    )
    assert (ran.images[0]["referrers"], ran.images[0]["referrers_left_out"]) == ([], [])
    assert "referrers" not in (tmp_path / "trace").read_text()
    assert stored(tmp_path) == dict(SIGNED.image.blobs)


def test_pull_of_what_does_not_come_whole(upstream: Served, tmp_path: Path) -> None:
    """The image is there and is shown; what is not is its error."""
    damaged = tmp_path / "damaged"
    shutil.copytree(upstream.root, damaged)
    layer = SIGNED.artifacts[0].manifest["layers"][0]["digest"]
    (damaged / "blobs" / layer.replace(":", "/")).unlink()
    with serve(damaged) as served:
        ran = run("pull", mirrored(tmp_path, served.url), NAME, "--referrers", "--root", tmp_path / "store", code=3)
    assert ran.out.startswith(f"{NAME}  {SIGNED.image.digest}  from {served.url}  ")
    assert f"error: {NAME} is there, but not all that refers to it: " in ran.err


# ── save and bundle create ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", ["save", "save --format oci-archive", "bundle create"])
def test_save(command: str, online: Path, tmp_path: Path) -> None:
    file = tmp_path / "it.tar"
    more = ("--platform", "all") if command != "bundle create" else ()
    ran = run(command, online, NAME, PLAIN, "--referrers", *more, "--root", tmp_path / "store", "-o", file)
    assert ran.out.splitlines()[0].endswith(f"  {WITH}")
    assert "refer to it" not in ran.out.splitlines()[1]
    assert in_file(file) == SIGNED.referrers
    first = file.read_bytes()
    run(command, online, PLAIN, NAME, "--referrers", *more, "--root", tmp_path / "other", "-o", file)
    assert file.read_bytes() == first


def test_what_was_pulled_without_its_signatures_is_not_saved_without_them(online: Path, tmp_path: Path) -> None:
    root, file = tmp_path / "store", tmp_path / "it.tar"
    run("pull", online, NAME, "--platform", "all", "--root", root)
    ran = run("bundle create", online, NAME, "--referrers", "--root", root, "-o", file, "--json")
    (image,) = json.loads(ran.out)["images"]
    assert {item["digest"] for item in image["referrers"]} == SIGNED.referrers == in_file(file)
    assert {item["digest"]: item["subject"] for item in image["referrers"]}[
        SIGNED.artifacts[0].digest
    ] == SIGNED.image.digest
    assert all(item["size_bytes"] for item in image["referrers"])
    assert (image["fetched_bytes"], image["referrers_left_out"]) == (0, [])


def test_where_nobody_can_be_asked_the_store_is_believed_and_that_is_said(
    online: Path, offline: Path, tmp_path: Path
) -> None:
    root, file = tmp_path / "store", tmp_path / "it.tar"
    run("pull", online, NAME, "--platform", "all", "--referrers", "--root", root)
    ran = run("bundle create", offline, NAME, "--referrers", "--root", root, "-o", file, "--json")
    (problem,) = json.loads(ran.out)["problems"]
    assert (problem["id"], problem["severity"]) == ("referrers-not-asked", "warning")
    assert f"warning: {problem['message']}" in ran.err
    assert f"{NAME}: only what the store knows to refer to it is written" in ran.err
    assert "connection refused" in problem["message"]
    assert json.loads(ran.out)["images"][0]["route"] is None
    assert in_file(file) == SIGNED.referrers
    ran = run("bundle create", offline, NAME, "--referrers", "--root", root, "-o", file)
    assert f"  from the store  {WITH}\n" in ran.out
    ran = run("bundle create", offline, NAME, PLAIN, "--referrers", "--root", root, "-o", file, code=6)
    assert f"error: no route gives {PLAIN}" in ran.err


def test_a_registry_that_will_not_say_leaves_no_file(upstream: Served, tmp_path: Path) -> None:
    """It can be asked, so what the store knows is not good enough."""
    damaged = tmp_path / "damaged"
    shutil.copytree(upstream.root, damaged)
    layer = SIGNED.artifacts[0].manifest["layers"][0]["digest"]
    (damaged / "blobs" / layer.replace(":", "/")).unlink()
    with serve(damaged) as served:
        registries = mirrored(tmp_path, served.url)
        file, root = tmp_path / "it.tar", tmp_path / "store"
        ran = run("bundle create", registries, NAME, "--referrers", "--root", root, "-o", file, code=3)
    assert f"{NAME} is there, but not all that refers to it: " in ran.err
    assert not file.exists()


def test_docker_has_no_place_for_it_and_nothing_is_pulled(online: Path, tmp_path: Path) -> None:
    more = ("--format", "docker-archive", "--root", tmp_path / "store", "-o", tmp_path / "it.tar")
    ran = run("save", online, NAME, "--referrers", *more, code=2)
    assert "a docker-archive holds images alone" in ran.err
    assert not (tmp_path / "store").exists()


def test_without_it_a_file_has_the_images_alone(online: Path, tmp_path: Path) -> None:
    root, file = tmp_path / "store", tmp_path / "it.tar"
    run("pull", online, NAME, "--platform", "all", "--referrers", "--root", root)
    run("bundle create", online, NAME, "--root", root, "-o", file)
    with open_archive(file) as archive:
        assert [image.name for image in archive.images] == [NAME]
    assert in_file(file) == set()


# ── from there ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def bundle(upstream: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    arguments = (NAME, PLAIN, "--referrers", "--root", folder / "store", "-o", folder / "it.tar")
    run("bundle create", mirrored(folder, upstream.url), *arguments)
    return folder / "it.tar"


def test_load(bundle: Path, tmp_path: Path) -> None:
    ran = run_pierhead("load", bundle, "--root", tmp_path)
    assert ran.out.splitlines()[0].endswith(f"  {WITH}")
    assert stored(tmp_path) == EVERY
    assert in_store(tmp_path) == SIGNED.referrers
    assert_sound(tmp_path)


def test_a_served_bundle_is_pulled_from(bundle: Path, tmp_path: Path) -> None:
    with serve_bundle(bundle) as served:
        assert "warning" not in served.log.read_text()
        registries = mirrored(tmp_path, served.url)
        run("pull", registries, NAME, PLAIN, "--platform", "all", "--referrers", "--root", tmp_path / "store")
    assert in_store(tmp_path / "store") == SIGNED.referrers
    assert stored(tmp_path / "store") == EVERY


@pytest.mark.parametrize("made", ["ours", "by others"])
def test_apply(made: str, bundle: Path, tmp_path: Path) -> None:
    """What is taken out of a bundle, with the option and without; neither way is anything told to be left out."""
    file = bundle if made == "ours" else bundle_of(tmp_path / "it.tar")
    with serve(tmp_path / "mirror") as mirror:
        registries = mirrored(tmp_path, mirror.url)
        own = LayoutStore(tmp_path / "mirror").repository(RepositoryName("team/app"))
        ran = run("bundle apply", registries, file, "-q")
        assert (ran.err, "air-gap ready: 2/2 images" in ran.out) == ("", True)
        assert found_in(own) == set()
        ran = run("bundle apply", registries, file, "--referrers", "-q", "-o", "json")
        put = json.loads(ran.out)["images"][0]["destinations"][0]
        assert (ran.err, put["referrers"], put["referrers_left_out"]) == ("", 4, [])
        assert found_in(own) == SIGNED.referrers
        again = run("pull", registries, NAME, "--platform", "all", "--referrers", "--root", tmp_path / "node")
        assert again.out.endswith(f"  {WITH}\n")
    assert stored(tmp_path / "mirror") == EVERY


def test_seed_takes_it_from_a_file(bundle: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "mirror") as mirror:
        ran = run("seed", mirrored(tmp_path, mirror.url), NAME, "--from", bundle, "--referrers")
    assert WITH in ran.out
    assert found_in(LayoutStore(tmp_path / "mirror").repository(RepositoryName("team/app"))) == SIGNED.referrers


def test_into_the_folder_of_k3s(bundle: Path, tmp_path: Path) -> None:
    ran = run_pierhead("bundle", "apply", bundle, "--images-dir", tmp_path / "images", code=0)
    assert ran.out == f"{tmp_path}/images/it.tar  2 images\n"
    assert "warning" not in ran.err


def test_a_real_image_without_a_name_is_still_left_out(tmp_path: Path) -> None:
    orphan = artifact(OTHER, "orphan")
    file = listing(tmp_path / "it.tar", [*SIGNED.entries(NAME), ("", orphan)])
    with serve(tmp_path / "mirror") as mirror:
        ran = run("bundle apply", mirrored(tmp_path, mirror.url), file, code=6)
    assert f"{orphan.digest} has no full name" in ran.err
    assert ran.err.count("has no full name") == 1


def test_copy_out_of_it(bundle: Path, upstream: Served, tmp_path: Path) -> None:
    with serve(tmp_path / "there") as there:
        ran: Any = run_pierhead("copy", "--referrers", f"oci-archive:{bundle}:{NAME}", f"{there.address}/any/where:2")
    assert WITH in ran.out
    assert found_in(LayoutStore(tmp_path / "there").repository(RepositoryName("any/where"))) == SIGNED.referrers
