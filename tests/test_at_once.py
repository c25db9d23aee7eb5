"""The same thing done twice at once: nothing is lost, nothing is corrupt, and nobody waits without end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard

from command import Ran, assert_sound, names, start_pierhead, write_registries
from images import make_image
from pierhead.archive import LayoutFolder, open_archive
from pierhead.auth import Credential
from pierhead.layout import LayoutStore
from pierhead.login import alone, registries_file
from pierhead.login.auth_file import AuthFile
from pierhead.redact import Secret
from real import DockerRegistry
from stocked import stock
from tarballs import by_full_name, layout_files, tar_of
from test_seed_faults import assert_there, taken

ONE = make_image(layers=[200_000, 300_000], compression="none")
OTHER = make_image(layers=[200_000, 300_001], platforms=["linux/amd64", "linux/arm64"], compression="none")
IMAGES = {"docker.io/team/one:1": ONE, "docker.io/team/other:1": OTHER}


def at_once(*commands: Sequence[str | Path]) -> list[Ran]:
    """What came of commands that were started together."""
    with ExitStack() as leaving:
        running = [leaving.enter_context(start_pierhead(*command)) for command in commands]
        return [command.wait() for command in running]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the images."""
    root = tmp_path_factory.mktemp("store") / "root"
    for name, image in IMAGES.items():
        stock(LayoutStore(root), image, name.removeprefix("docker.io/").partition(":")[0], "1", namespace="docker.io")
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "images.tar"
    path.write_bytes(tar_of(layout_files(by_full_name(name, image) for name, image in IMAGES.items())))
    return path


@pytest.mark.real("docker-registry")
def test_two_seed_the_same_mirror(root: Path, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "mirror") as mirror:
        nodes = write_registries(tmp_path, json.dumps({"mirrors": {"docker.io": {"endpoint": [mirror.url]}}}))
        seed: tuple[str | Path, ...] = ("seed", "--private-registry", nodes, "--root", root, "--from", "store", *IMAGES)
        for ran in at_once(seed, seed):
            assert ran.code == 0, ran.said
            assert "air-gap ready: 2/2 images" in ran.out
        assert_there(mirror, {"team/one": ONE, "team/other": OTHER})
        assert max(taken(mirror).values()) <= 2  # each may have looked before the other was done


def test_two_copy_into_one_layout(archive: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    commands = [("copy", f"oci-archive:{archive}:{name}", f"oci:{layout}:{name}") for name in IMAGES]
    for ran in at_once(*commands, *commands):
        assert ran.code == 0, ran.said
    assert {image.name: str(image.descriptor.digest) for image in LayoutFolder(layout).images} == {
        name: image.digest for name, image in IMAGES.items()
    }
    run = at_once(("copy", f"oci:{layout}:docker.io/team/other:1", f"oci-archive:{tmp_path / 'back.tar'}"))
    assert run[0].code == 0, run[0].said


def test_two_save_to_one_file(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "images.tar"
    commands = [("save", name, "-o", file, "--root", root, "--platform", "all") for name in IMAGES]
    for ran in at_once(*commands):
        assert ran.code == 0, ran.said
    with open_archive(file) as archive:  # the last one's, and whole
        (image,) = archive.images
        assert str(image.descriptor.digest) == IMAGES[image.name].digest
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_loaded_while_gc_runs_is_whole(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    LayoutStore(root).publish_index()
    done = threading.Event()

    def collect() -> int:
        rounds = 0
        while not done.is_set():
            LayoutStore(root).gc(grace_seconds=0)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as pool:
        collecting = pool.submit(collect)
        try:
            packed = tmp_path / "images.tar.zst"  # unpacked into the store's own tmp
            packed.write_bytes(zstandard.ZstdCompressor(level=1).compress(archive.read_bytes()))
            for ran in at_once(("load", archive, "--root", root), ("load", packed, "--root", root)):
                assert ran.code == 0, ran.said
        finally:
            done.set()
        assert collecting.result() > 0
    assert_sound(root)
    assert set(names(root).values()) == {image.digest for image in IMAGES.values()}


# ── logins ───────────────────────────────────────────────────────────────────────────────────────────────────────


def in_docker(folder: Path) -> tuple[Path, Callable[[str], object]]:
    path = folder / "docker" / "config.json"
    file = AuthFile(path, "docker", {})
    return path, lambda registry: file.keep(registry, Credential("alice", Secret("s3cret")))


def in_registries(folder: Path) -> tuple[Path, Callable[[str], object]]:
    path = folder / "registries.yaml"
    return path, lambda registry: registries_file.keep(path, registry, Credential("alice", Secret("s3cret")))


@pytest.mark.parametrize("made", [in_docker, in_registries])
def test_no_login_gets_lost(made: Callable[[Path], tuple[Path, Callable[[str], object]]], tmp_path: Path) -> None:
    path, keep = made(tmp_path)
    registries = [f"registry-{number}.lan:5000" for number in range(12)]
    with ThreadPoolExecutor(len(registries)) as pool:
        list(pool.map(keep, registries))
    assert [registry for registry in registries if registry not in path.read_text()] == []


def test_who_is_waited_for_without_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "WAIT_SECONDS", 0.05)
    path, keep = in_registries(tmp_path)
    with alone.alone(path), pytest.raises(alone.Busy, match=r"another pierhead has been changing .*registries\.yaml"):
        keep("registry.lan")
    keep("registry.lan")
