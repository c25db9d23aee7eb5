"""Pulling into an empty OCI layout, beside skopeo and curl; and the commands that ask nobody."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from contents import SKOPEO, Image, push
from measuring import MIB, PIERHEAD, Aim, Case, Figures, Tool, alone, measure
from real import DockerRegistry


def pierhead(*images: Image) -> Tool:
    """One command for all the images."""
    names = [f"{image.name}:v1" for image in images]
    return lambda out: measure([PIERHEAD, "pull", "-q", "--plain-http", "--root", str(out), *names])


def skopeo(*images: Image) -> Tool:
    """A call for each image."""

    def run(out: Path) -> Figures:
        out.mkdir()
        sources = [f"docker://{image.name}:v1" for image in images]
        targets = [f"oci:{out}/{number}:v1" for number in range(len(images))]
        return measure(
            *(
                [*SKOPEO, "--src-tls-verify=false", source, target]
                for source, target in zip(sources, targets, strict=True)
            )
        )

    return run


def curl(image: Image) -> Tool:
    """The bare bytes: for each layer curl into a file and through a hash at once, and an fsync, as we do."""

    def run(out: Path) -> Figures:
        out.mkdir()
        host, _, repository = image.name.partition("/")
        lines = []
        for number, digest in enumerate(image.layers):
            url, file = f"http://{host}/v2/{repository}/blobs/{digest}", f"{out}/{number}"
            lines.append(f"( curl -sSf {url} | tee {file} | openssl dgst -sha256 >/dev/null && sync {file} ) &")
        return measure(["sh", "-c", "\n".join([*lines, "wait"])])

    return run


def cases(registry: DockerRegistry, scratch: Path, *, scale: float) -> Iterator[Case]:
    """The comparisons; `scale` makes the large ones smaller for a trial."""
    large = int(256 * MIB * scale)
    for letter, title, sizes in (
        ("a", "4 layers of 256 MiB", [large] * 4),
        ("b", "one layer of 1 GiB", [large * 4]),
    ):
        image = push(registry, scratch, f"bench/{letter}", sizes)
        tools = {"pierhead": pierhead(image), "skopeo": skopeo(image), "curl": curl(image)}
        # At least 80 % of curl's speed is at most 1.25 times its wall time.
        aims = (Aim("skopeo", "wall", 1.0), Aim("skopeo", "cpu", 1.0), Aim("curl", "wall", 1.25))
        yield Case(f"({letter}) {title}", tools, aims)
    small = push(registry, scratch, "bench/c", [20_000])
    yield Case(
        "(c) an image of 20 KB",
        {"pierhead": pierhead(small), "skopeo": skopeo(small)},
        (Aim("skopeo", "wall", 2.5),),
    )
    many = push(registry, scratch, "bench/d", [4000] * 200)
    yield Case("(d) 200 small layers", {"pierhead": pierhead(many), "skopeo": skopeo(many)}, ())
    images = [push(registry, scratch, f"bench/e{number}", [20_000, 50_000]) for number in range(30)]
    yield Case(
        "(e) 30 small images: one command against 30 calls",
        {"pierhead": pierhead(*images), "skopeo": skopeo(*images)},
        (Aim("skopeo", "wall", 1.0),),
    )
    yield from offline_cases(scratch)


def offline_cases(scratch: Path) -> Iterator[Case]:
    """What asks nobody; nothing else does the same, so the yardstick is Python reading the file as YAML."""
    file, images = scratch / "registries.yaml", scratch / "images.txt"
    file.write_text(registries(1000))
    file.chmod(0o600)
    images.write_text("".join(f"reg{n % 20}.example.com/team{n % 7}/app{n}:v{n}\n" for n in range(10_000)))
    few = scratch / "few.yaml"
    few.write_text(registries(20))
    load = "import sys, yaml; yaml.load(open(sys.argv[1]), yaml.CSafeLoader)"
    yield Case(
        "(f) check of 1,000 mirrors in 5,000 lines, beside reading the YAML",
        {"pierhead": alone(PIERHEAD, "check", str(file)), "python": alone(sys.executable, "-c", load, str(file))},
        (),
        seconds_at_most=1.0,
    )
    explain = alone(PIERHEAD, "explain", "--private-registry", str(few), "--images", str(images))
    reading = alone(sys.executable, "-c", "import sys; open(sys.argv[1]).read().split()", str(images))
    yield Case(
        "(g) explain of 10,000 images, 20 mirrors, beside reading the list",
        {"pierhead": explain, "python": reading},
        (),
        peak_mib_at_most=None,
        seconds_at_most=3.0,
    )
    version, bare = alone(PIERHEAD, "--version"), alone(sys.executable, "-c", "pass")
    yield Case(
        "(h) pierhead --version, beside an empty Python",
        {"pierhead": version, "python": bare},
        (),
        seconds_at_most=0.08,
    )


def registries(mirrors: int) -> str:
    """A sound file with two endpoints and a rewrite for each mirror, five lines each."""
    return "mirrors:\n" + "".join(
        f'  reg{n}.example.com:\n    endpoint: ["https://cache{n % 7}.lan:5000", "https://spare.lan"]\n'
        f"    # for team {n % 7}\n    rewrite:\n      '^team{n % 7}/(.*)$': 'mirror/team{n % 7}/$1'\n"
        for n in range(mirrors)
    )
