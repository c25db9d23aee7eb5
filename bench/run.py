"""How fast pierhead is beside its peers, in one run: `make bench` prints the tables and writes bench/RESULTS.md.

The first five cases pull the same image from the same docker-registry on loopback into an empty OCI layout, with each
tool in turn (A B C, A B C, …), so that a machine whose speed drifts is fair to all; then come the commands that ask
nobody. Figures are medians of whole processes as the operating system accounts them; ratios are medians of the runs'
ratios. A missed aim is printed as missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from real import DockerRegistry, clean_environment  # beside this folder, on the path just set

MIB = 1024 * 1024
RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
PIERHEAD = str(Path(sys.executable).parent / "pierhead")
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True)
class Image:
    """An image in the registry: its name there and the digests of its layers."""

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Figures:
    """What one run of one tool cost. `peak_mib` is the largest single process."""

    wall: float
    cpu: float
    peak_mib: float


Tool = Callable[[Path], Figures]


@dataclass(frozen=True)
class Aim:
    """What a ratio to a peer should be; `figure` is a field of Figures."""

    peer: str
    figure: str
    at_most: float


@dataclass(frozen=True)
class Case:
    """One comparison: the tools by name, ours first, and what we aim at."""

    title: str
    tools: dict[str, Tool]
    aims: tuple[Aim, ...]
    peak_mib_at_most: float | None = 80.0
    seconds_at_most: float | None = None


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def push(registry: DockerRegistry, scratch: Path, name: str, sizes: Sequence[int]) -> Image:
    """An image with layers of such sizes, of bytes that do not compress and differ from image to image."""
    layout = Path(tempfile.mkdtemp(dir=scratch))
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def keep(pieces: Iterator[bytes], media_type: str) -> dict[str, object]:
        hashed, size, path = hashlib.sha256(), 0, layout / "piece"
        with path.open("wb") as file:
            for piece in pieces:
                hashed.update(piece)
                size += file.write(piece)
        path.rename(blobs / hashed.hexdigest())
        return {"mediaType": media_type, "digest": f"sha256:{hashed.hexdigest()}", "size": size}

    layers = [keep(_noise(f"{name}/{number}", size), LAYER) for number, size in enumerate(sizes)]
    config = {"os": "linux", "architecture": "amd64", "name": name, "rootfs": {"type": "layers", "diff_ids": []}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": keep(iter([json.dumps(config).encode()]), CONFIG),
        "layers": layers,
    }
    top = keep(iter([json.dumps(manifest).encode()]), MANIFEST)
    top["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    target = f"docker://{registry.address}/{name}:v1"
    check([*SKOPEO, "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:v1", target])
    shutil.rmtree(layout)
    return Image(f"{registry.address}/{name}", tuple(str(layer["digest"]) for layer in layers))


def _noise(seed: str, size: int) -> Iterator[bytes]:
    random = Random(seed)
    for start in range(0, size, MIB):
        yield random.randbytes(min(MIB, size - start))


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────

SKOPEO = ("skopeo", "copy", "--quiet", "--insecure-policy")


def environment() -> dict[str, str]:
    return clean_environment(Path(tempfile.gettempdir()))


def check(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)


def measure(*commands: Sequence[str]) -> Figures:
    """What these commands cost, one after the other."""
    wall = cpu = peak = 0.0
    for command in commands:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall += time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{command[0]} failed with {process.returncode}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss / 1024)
    return Figures(wall, cpu, peak)


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


def alone(*command: str) -> Tool:
    """A command that writes nothing."""
    return lambda _: measure(command)


# ── cases ────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def run_case(case: Case, scratch: Path, runs: int) -> dict[str, list[Figures]]:
    """Every tool in turn, `runs` times after a warm-up."""
    figures: dict[str, list[Figures]] = {name: [] for name in case.tools}
    for number in range(runs + 1):
        for name, tool in case.tools.items():
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            os.sync()
            measured = tool(out)
            if number:
                figures[name].append(measured)
    return figures


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────


def table(case: Case, figures: dict[str, list[Figures]]) -> list[str]:
    """The case as a Markdown table, and its aims."""
    ours = figures["pierhead"]
    lines = [f"## {case.title}", "", "| tool | wall s | CPU s | peak MiB | wall, ours to it | CPU, ours to it |"]
    lines.append("|---|---|---|---|---|---|")
    for name, runs in figures.items():
        cells = [f"{median(getattr(run, figure) for run in runs):.3f}" for figure in ("wall", "cpu")]
        peak = f"{median(run.peak_mib for run in runs):.0f}"
        ratios = ["", ""] if name == "pierhead" else [f"{ratio(ours, runs, figure):.2f}" for figure in ("wall", "cpu")]
        lines.append(f"| {' | '.join([name, *cells, peak, *ratios])} |")
    lines.append("")
    lines += [f"- {verdict(aim, ratio(ours, figures[aim.peer], aim.figure))}" for aim in case.aims]
    if case.peak_mib_at_most is not None:
        peak_mib = max(run.peak_mib for run in ours)
        word = "met" if peak_mib < case.peak_mib_at_most else "**missed**"
        lines.append(f"- peak memory under {case.peak_mib_at_most:.0f} MiB: {word} ({peak_mib:.0f})")
    if case.seconds_at_most is not None:
        seconds = median(run.wall for run in ours)
        word = "met" if seconds < case.seconds_at_most else "**missed**"
        lines.append(f"- under {case.seconds_at_most:g} s: {word} ({seconds:.3f})")
    return [*lines, ""]


def ratio(ours: Sequence[Figures], theirs: Sequence[Figures], figure: str) -> float:
    """The median over the runs of what we took as a part of what they took."""
    pairs = zip(ours, theirs, strict=True)
    return float(median(getattr(our, figure) / max(getattr(their, figure), 1e-9) for our, their in pairs))


def verdict(aim: Aim, found: float) -> str:
    word = "met" if found <= aim.at_most else "**missed**"
    return f"{aim.figure} at most {aim.at_most:g} × {aim.peer}'s: {word} ({found:.2f})"


def version_of(*command: str) -> str:
    words = subprocess.run(command, capture_output=True, text=True, check=False)
    return (words.stdout or words.stderr).splitlines()[0].strip()


def head(runs: int) -> list[str]:
    """What was measured, where and with what."""
    return [
        "# Results of `make bench`",
        "",
        f"{os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}, "
        f"{version_of(PIERHEAD, '--version')}, {version_of('skopeo', '--version')}, "
        f"{version_of('docker-registry', '--version')}. Medians of {runs} runs of each tool in turn, after a warm-up. "
        "Peak memory is the largest single process; the system counts at least what measures it, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB.",
        "",
    ]


@contextmanager
def scratch_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pierhead-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the large layers, 1.0 = as the title says")
    parser.add_argument("--only", default="", help="letters of the cases to run, such as ab")
    options = parser.parse_args()
    lines = head(options.runs)
    with scratch_folder() as scratch, DockerRegistry(scratch / "registry") as registry:
        for case in cases(registry, scratch, scale=options.scale):
            if options.only and case.title[1:2] not in options.only:
                continue
            found = table(case, run_case(case, scratch, options.runs))
            print("\n".join(found), flush=True)
            lines += found
    if options.scale == 1.0 and not options.only:
        RESULTS.write_text("\n".join(lines))
        print(f"written to {RESULTS.name}")


if __name__ == "__main__":
    main()
