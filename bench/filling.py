"""Filling a registry from another one, beside skopeo in a shell loop and `skopeo sync`.

Every run fills an empty docker-registry of its own, whose log tells the requests, and the kernel what it has read.
Ours also asks for every image by the nodes' own plan afterwards; that is part of its time.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

from contents import Image, push_sharing
from measuring import MIB, PIERHEAD, Aim, Case, Figures, Tool, alone, measure
from pulling import registries
from real import DockerRegistry

IMAGES = 40
BASES = 8
BASE_MIB = 70
OWN_MIB = 1
DRY_RUN_IMAGES = 1000


def cases(registry: DockerRegistry, scratch: Path, *, scale: float) -> Iterator[Case]:
    """The comparisons of moving many images."""
    bases = [int(BASE_MIB * MIB * scale)] * BASES
    images = push_sharing(registry, scratch, "bench/i", bases, [int(OWN_MIB * MIB * scale)] * IMAGES)
    yield Case(
        f"(i) seeding {IMAGES} images on {BASES} bases, {BASES * BASE_MIB + IMAGES * OWN_MIB} MiB in all",
        {
            "pierhead": into_empty(ours(registry, images, scratch)),
            "skopeo loop": into_empty(loop(images)),
            "skopeo sync": into_empty(sync(registry, images, scratch)),
        },
        (Aim("skopeo loop", "wall", 0.6), Aim("skopeo sync", "wall", 0.67)),
        peak_mib_at_most=100.0,
    )
    names = scratch / "thousand.txt"
    names.write_text("".join(f"reg{n % 20}.example.com/team{n % 7}/app{n}:v{n}\n" for n in range(DRY_RUN_IMAGES)))
    file = scratch / "seed.yaml"
    file.write_text(registries(20))
    dry_run = alone(PIERHEAD, "seed", "--private-registry", str(file), "--images", str(names), "--dry-run")
    yield Case(
        "(j) seed --dry-run of 1,000 images, 20 mirrors",
        {"pierhead": dry_run},
        (),
        peak_mib_at_most=100.0,
        seconds_at_most=2.0,
    )


Command = Callable[[DockerRegistry], Sequence[str]]


def into_empty(command: Command) -> Tool:
    """The command that fills a registry, given an empty one; with what that registry saw."""

    def run(out: Path) -> Figures:
        with redirect_stdout(StringIO()), DockerRegistry(out) as destination:  # it prints its log when it ends
            figures = measure(command(destination))
            requests, sent = len(destination.requests()), destination.read_bytes()
        return replace(figures, requests=requests, sent_mib=sent / MIB)

    return run


def ours(source: DockerRegistry, images: Sequence[Image], scratch: Path) -> Command:
    names = scratch / "seed.txt"
    names.write_text("".join(f"docker.io/{image.repository}:v1\n" for image in images))

    def command(destination: DockerRegistry) -> Sequence[str]:
        file = scratch / "seed-registries.yaml"
        mirrors = {"docker.io": {"endpoint": [destination.url]}}
        file.write_text(json.dumps({"mirrors": mirrors}))  # JSON is YAML
        options = ["--private-registry", str(file), "--from", source.url, "--images", str(names)]
        return [PIERHEAD, "seed", "-q", *options]

    return command


def loop(images: Sequence[Image]) -> Command:
    """What people write over k3s-images.txt."""

    def command(destination: DockerRegistry) -> Sequence[str]:
        copy = "skopeo copy --quiet --insecure-policy --all --src-tls-verify=false --dest-tls-verify=false"
        names = " ".join(shlex.quote(image.repository) for image in images)
        host = images[0].name.partition("/")[0]
        step = f"{copy} docker://{host}/$name:v1 docker://{destination.address}/$name:v1"
        return ["sh", "-c", f"set -e; for name in {names}; do {step}; done"]

    return command


def sync(source: DockerRegistry, images: Sequence[Image], scratch: Path) -> Command:
    listed = scratch / "sync.yaml"
    tags = {image.repository: ["v1"] for image in images}
    listed.write_text(json.dumps({source.address: {"tls-verify": False, "images": tags}}))

    def command(destination: DockerRegistry) -> Sequence[str]:
        options = ["--all", "--src", "yaml", "--dest", "docker", "--dest-tls-verify=false"]
        return ["skopeo", "--insecure-policy", "sync", *options, str(listed), destination.address]

    return command
