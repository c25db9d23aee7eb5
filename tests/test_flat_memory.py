"""However large an image is, what moves it has little of it in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from command import run_pierhead, serve, write_registries
from images import make_image
from pierhead.layout import LayoutStore
from real import DockerRegistry
from stocked import stock
from test_load import MEASURED

SIZE_BYTES: Final = 64_000_000
LIMIT_KILOBYTES: Final = 80_000  # of which Python and what is imported are 35,000


def measured(*arguments: str | Path) -> int:
    """The most memory that a command had, in kilobytes."""
    return int(run_pierhead(*arguments, prefix=(sys.executable, "-c", MEASURED)).err.split()[-1])


@pytest.mark.real("docker-registry")
def test_seed_copy_and_push(tmp_path: Path) -> None:
    image = make_image(layers=[SIZE_BYTES], compression="none")
    stock(LayoutStore(tmp_path / "root"), image, "team/big", "1", namespace="docker.io")
    with serve(tmp_path / "root", "--read-only") as source, DockerRegistry(tmp_path / "mirror") as mirror:
        nodes = write_registries(tmp_path, f'mirrors: {{docker.io: {{endpoint: ["{mirror.url}"]}}}}\n')
        seed = ("seed", "--private-registry", nodes, "--from", source.url, "docker.io/team/big:1", "-q")
        assert measured(*seed) < LIMIT_KILOBYTES
        place = f"{mirror.address}/team/big:1"
        assert measured("copy", place, f"oci:{tmp_path / 'layout'}:x", "-q", "--src-plain-http") < LIMIT_KILOBYTES
        there = ("docker.io/team/big:1", f"{mirror.address}/team/pushed:1", "--root", tmp_path / "root")
        assert measured("push", *there, "-q", "--dest-plain-http") < LIMIT_KILOBYTES
