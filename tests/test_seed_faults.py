"""Seeding that is killed, cut off and refused: done again it is done, nothing is corrupt, and nothing is sent twice."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pytest

from command import Served, environment, run_pierhead, serve, start_pierhead, write_registries
from disks import mount
from faulty import faulty
from images import Image, make_image
from pierhead.layout import LayoutStore
from real import DockerRegistry, eventually
from stocked import stock

ROUNDS: Final = 100
KILLS_IN_A_ROW: Final = 7
SEED: Final = 20261123
BASE: Final = [60_000, 90_000]
IMAGES: Final = {
    "team/one": make_image(layers=[*BASE, 100], compression="none"),
    "team/two": make_image(layers=[*BASE, 40_000], compression="none"),
    "team/many": make_image(layers=[70_000], platforms=["linux/amd64", "linux/arm64"], compression="none"),
}
NAMES: Final = [f"docker.io/{name}:1" for name in IMAGES]
_TAKEN = re.compile(r"/v2/(?P<repository>.+)/blobs/uploads/[^?]*\?.*digest=(?P<digest>[^&]+)")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the images."""
    root = tmp_path_factory.mktemp("store") / "root"
    for name, image in IMAGES.items():
        stock(LayoutStore(root), image, name, namespace="docker.io")
    return root


def nodes(folder: Path, url: str, prefix: str = "") -> Path:
    mirror: dict[str, Any] = {"endpoint": [url]}
    if prefix:
        mirror["rewrite"] = {"^team/(.*)": f"{prefix}/$1"}
    return write_registries(folder, json.dumps({"mirrors": {"docker.io": mirror}}))


def arguments(nodes: Path, store: Path, *more: str) -> list[str]:
    known = ("seed", "--private-registry", nodes, "--root", store, "--from", "store", "-o", "json", *more, *NAMES)
    return list(map(str, known))


# ── what a registry has ──────────────────────────────────────────────────────────────────────────────────────────


def taken(registry: DockerRegistry) -> Counter[tuple[str, str]]:
    """How often a blob was taken in whole, by repository and digest."""
    found = [
        _TAKEN.match(served.uri) for served in registry.requests() if served.method == "PUT" and served.status == 201
    ]
    return Counter((match["repository"], unquote(match["digest"])) for match in found if match)


def assert_sound(registry: DockerRegistry) -> None:
    """Whatever it has is what it is called."""
    for path in (registry.data / "docker/registry/v2/blobs/sha256").rglob("data"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name


def tagged(registry: DockerRegistry, repository: str) -> str | None:
    """What its tag points to; the registry makes the file first, and then writes into it."""
    link = registry.data / f"docker/registry/v2/repositories/{repository}/_manifests/tags/1/current/link"
    return (link.read_text() if link.exists() else "") or None


def linked(registry: DockerRegistry, repository: str) -> set[str]:
    """The blobs of one of its repositories."""
    folder = registry.data / f"docker/registry/v2/repositories/{repository}/_layers/sha256"
    return {f"sha256:{link.parent.name}" for link in folder.glob("*/link")}


def blobs(image: Image) -> set[str]:
    return {digest for digest in image.blobs if digest not in image.manifests}


def assert_whole_or_absent(registry: DockerRegistry, images: Mapping[str, Image]) -> None:
    """What has a name is all there."""
    for repository, image in images.items():
        if (digest := tagged(registry, repository)) is not None:
            assert digest == image.digest
            assert blobs(image) <= linked(registry, repository)


def assert_there(registry: DockerRegistry, images: Mapping[str, Image]) -> None:
    assert [tagged(registry, repository) for repository in images] == [image.digest for image in images.values()]
    assert_whole_or_absent(registry, images)
    assert_sound(registry)


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Mortal:
    """Runs commands that can be killed (`killed_child`)."""

    process: subprocess.Popen[str]

    def run(self, arguments: Sequence[str], *, kill_after: float | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"arguments": arguments, "kill_after": kill_after}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    child = Path(__file__).with_name("killed_child.py")
    with subprocess.Popen(
        [sys.executable, str(child)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            yield Mortal(process)
        finally:
            process.kill()


@pytest.mark.real("docker-registry")
def test_killed_at_a_hundred_moments_and_done_again(mortal: Mortal, store: Path, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with DockerRegistry(tmp_path / "mirror") as mirror:
        seconds = min(_seconds(mortal, nodes(tmp_path, mirror.url, f"whole-{turn}"), store) for turn in range(3))
        kills = turns = amid = 0
        while kills < ROUNDS:
            turns += 1
            # A repository that knows nothing yet, as a new registry would: blobs are looked for in their repository.
            file = nodes(tmp_path, mirror.url, f"turn-{turns}")
            images = {name.replace("team", f"turn-{turns}"): image for name, image in IMAGES.items()}
            for _ in range(KILLS_IN_A_ROW):  # or until it is done
                ran = mortal.run(arguments(file, store), kill_after=chance.uniform(0, seconds))
                if not ran["killed"]:
                    break
                kills += 1
                assert_whole_or_absent(mirror, images)
                amid += any(linked(mirror, name) != blobs(image) for name, image in images.items())
            else:
                ran = mortal.run(arguments(file, store))
            assert ran["code"] == 0, ran
            assert json.loads(ran["out"])["summary"]["air_gap_ready"] is True
            assert_there(mirror, images)
        assert amid > ROUNDS // 5  # and not all of them before it began, or when everything was there
        # What had arrived is not sent to its repository again, however often it is begun anew: but for what the
        # registry was still about to take in when it was asked for again.
        assert sum(count - 1 for count in taken(mirror).values()) <= ROUNDS // 10
        again = mortal.run(arguments(file, store))
        assert json.loads(again["out"])["summary"]["sent_bytes"] == 0


def _seconds(mortal: Mortal, nodes: Path, store: Path) -> float:
    """How long it takes if nobody kills it."""
    ran = mortal.run(arguments(nodes, store))
    assert ran["code"] == 0, ran
    return float(ran["seconds"])


# ── the registry ends, the network breaks, the disk is full ──────────────────────────────────────────────────────

LARGE: Final = make_image(layers=[1_500_000, 1_500_001], compression="none")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`pierhead serve` with a larger image."""
    root = tmp_path_factory.mktemp("large") / "root"
    stock(LayoutStore(root), LARGE, "team/large", namespace="docker.io")
    with serve(root, "--read-only") as served:
        yield served


@pytest.mark.real("docker-registry")
def test_a_registry_that_is_restarted_in_the_middle(large: Served, tmp_path: Path) -> None:
    mirror = DockerRegistry(tmp_path / "mirror")
    with mirror:
        file = nodes(tmp_path, mirror.url)
        command = ("seed", "--private-registry", file, "--from", large.url, "docker.io/team/large:1")
        with start_pierhead(*command, "--limit-rate", "1M", "-o", "json") as running:
            eventually(lambda: _under_way(mirror) > 300_000, what="a good part to arrive")
            mirror.kill()
            with mirror:
                ran = running.wait()
                assert ran.code == 0, ran.said
                assert json.loads(ran.out)["summary"]["air_gap_ready"] is True
                assert_there(mirror, {"team/large": LARGE})
                assert set(taken(mirror).values()) <= {1}
                assert run_pierhead(*command).out.splitlines()[1] == "nothing to do: 1 of 1 is there"


def _under_way(mirror: DockerRegistry) -> int:
    folder = mirror.data / "docker/registry/v2/repositories/team/large/_uploads"
    return sum(path.stat().st_size for path in folder.glob("*/data"))


@pytest.mark.real("docker-registry")
def test_where_one_request_of_twenty_fails_a_rerun_or_two_do_it(store: Path, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "mirror") as mirror, faulty(mirror.address, share=0.05, seed=SEED) as (proxy, place):
        for turn in range(6):
            images = {name.replace("team", f"turn-{turn}"): image for name, image in IMAGES.items()}
            file = nodes(tmp_path, f"http://{place}", f"turn-{turn}")
            for _ in range(4):
                ran = run_pierhead(*arguments(file, store, "--timeout-first-byte", "5"), code=None)
                assert ran.code in (0, 6), ran.said
                assert_whole_or_absent(mirror, images)
                if ran.code == 0:
                    break
            assert ran.code == 0, ran.said
            assert_there(mirror, images)
        assert sum(proxy.happened.values()) > 5, proxy.happened
        assert set(proxy.happened) >= {"503", "reset"}
        # A blob is taken in a second time only if the answer to the first was lost on its way.
        again = sum(count - 1 for count in taken(mirror).values())
        assert again <= proxy.happened["half answer"]


@pytest.mark.real("docker-registry", "runc")  # what needs runc needs root, as mounting does
def test_a_mirror_whose_disk_is_full(large: Served, store: Path, disk: Path, tmp_path: Path) -> None:
    with DockerRegistry(disk / "mirror") as mirror:
        file = nodes(tmp_path, mirror.url)
        common = ("seed", "--private-registry", file, "--from", large.url, "--from", "store", "--root", store)
        # One layer after the other, and no manifest: one that it wrote empty it serves as it is, and takes no other.
        ran = run_pierhead(*common, "-j", "1", "docker.io/team/large:1", code=1)
        assert "docker.io/team/large:1" in ran.err
        assert "hint: the registry's disk is full" in ran.err
        assert_sound(mirror)
        assert tagged(mirror, "team/large") is None
        before = taken(mirror)
        mount(disk, "remount,size=32m")
        ran = run_pierhead(*common, "docker.io/team/large:1", "docker.io/team/one:1")
        assert "air-gap ready: 2/2 images" in ran.out
        assert_there(mirror, {"team/large": LARGE, "team/one": IMAGES["team/one"]})
        assert {place: taken(mirror)[place] for place in before} == before
