"""Pushing and copying that is killed or has no room: done again it is done, and nothing of what is there is corrupt."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Final

import pytest

from command import run_pierhead, stored
from images import make_image
from pierhead.archive import LayoutFolder
from pierhead.layout import LayoutStore
from real import DockerRegistry
from stocked import stock
from tarballs import by_full_name, layout_files, tar_of
from test_seed_faults import (
    Mortal,
    assert_there,
    assert_whole_or_absent,
    blobs,
    linked,
    mortal,
    taken,
)

ROUNDS: Final = 100
KILLS_IN_A_ROW: Final = 5
SEED: Final = 20261124
IMAGE: Final = make_image(
    layers=[60_000, 90_000, 70_000, 100], platforms=["linux/amd64", "linux/arm64"], compression="none"
)

__all__ = ["mortal"]


@pytest.mark.real("docker-registry")
def test_killed_at_a_hundred_moments_and_done_again(mortal: Mortal, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    stock(LayoutStore(tmp_path / "store"), IMAGE, "team/app", "1", namespace="docker.io")
    with DockerRegistry(tmp_path / "registry") as registry:

        def push(name: str, kill_after: float | None = None) -> dict[str, object]:
            place = f"{registry.address}/{name}:1"
            arguments = ["push", "docker.io/team/app:1", place, "--root", str(tmp_path / "store"), "-o", "json"]
            return mortal.run([*arguments, "--dest-plain-http"], kill_after=kill_after)

        seconds = min(float(str(push(f"whole-{turn}")["seconds"])) for turn in range(2))
        kills = turns = amid = 0
        while kills < ROUNDS:
            turns += 1
            name = f"turn-{turns}"
            for _ in range(KILLS_IN_A_ROW):
                ran = push(name, chance.uniform(0, seconds))
                if not ran["killed"]:
                    break
                kills += 1
                assert_whole_or_absent(registry, {name: IMAGE})
                amid += linked(registry, name) != blobs(IMAGE)
            else:
                ran = push(name)
            assert ran["code"] == 0, ran
            assert_there(registry, {name: IMAGE})
        assert amid > ROUNDS // 5
        assert sum(count - 1 for count in taken(registry).values()) <= ROUNDS // 10


def test_a_layout_that_has_no_room(tmp_path: Path) -> None:
    archive, layout = tmp_path / "image.tar", tmp_path / "layout"
    archive.write_bytes(tar_of(layout_files([by_full_name("docker.io/team/app:1", IMAGE)])))
    copy = ("copy", f"oci-archive:{archive}:docker.io/team/app:1", f"oci:{layout}:1", "-o", "json")
    ran = run_pierhead(*copy, prefix=("prlimit", f"--fsize={80_000}"), code=1)
    assert ran.err.startswith("error: cannot write")
    assert LayoutFolder(layout).images == ()
    arrived = stored(layout)
    assert arrived
    assert arrived.items() <= IMAGE.blobs.items()
    again = json.loads(run_pierhead(*copy).out)
    assert stored(layout) == IMAGE.blobs
    assert again["copied_bytes"] <= sum(map(len, IMAGE.blobs.values())) - sum(map(len, arrived.values()))
    assert [str(image.descriptor.digest) for image in LayoutFolder(layout).images] == [IMAGE.digest]
