"""`pierhead save`, run as people run it: images from the store and from registries, in one file or in none."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from command import PIERHEAD, RUN_SECONDS, Ran, Served, environment, run_pierhead, serve, start_pierhead
from images import Image, make_image
from pierhead.archive import open_archive
from pierhead.archive.present import present
from pierhead.layout import LayoutStore
from pierhead.reference import Reference
from stocked import stock

PAUSE, APP, MULTI = "docker.io/rancher/pause:3.6", "reg.example/team/app:v2", "docker.io/library/multi:1"
IMAGES: Mapping[str, Image] = {
    PAUSE: make_image(layers=[1000, 20]),
    APP: make_image(layers=[1000, 30], media="docker"),
    MULTI: make_image(layers=[1000], platforms=["linux/amd64", "linux/arm64", "linux/riscv64"]),
}


def fill(root: Path, images: Mapping[str, Image]) -> Path:
    store = LayoutStore(root)
    for name, image in images.items():
        reference = Reference.parse(name)
        stock(store, image, reference.repository, str(reference.tag), namespace=reference.registry)
    store.publish_index()
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all of them; tests only read it."""
    return fill(tmp_path_factory.mktemp("full") / "store", IMAGES)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry with team/app:v2 and team/multi:1."""
    store = LayoutStore(tmp_path_factory.mktemp("registry") / "store")
    stock(store, IMAGES[APP], "team/app", "v2")
    stock(store, IMAGES[MULTI], "team/multi", "1")
    store.publish_index()
    with serve(store.path) as served:
        yield served


def save(root: Path, *arguments: str | Path, code: int = 0, **more: Any) -> Ran:
    return run_pierhead("save", "--root", root, *arguments, code=code, **more)


def digests(archive: Path) -> dict[str, str]:
    with open_archive(archive) as opened:
        return {image.name: str(image.descriptor.digest) for image in opened.images}


def of_platform(image: Image, architecture: str) -> str:
    items = image.manifest["manifests"]
    return next(str(item["digest"]) for item in items if item["platform"]["architecture"] == architecture)


# ── out of the store ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_images_of_the_store_under_their_full_names(root: Path, tmp_path: Path) -> None:
    ran = save(root, "rancher/pause:3.6", APP, "--platform", "all", "-o", tmp_path / "it.tar")
    assert digests(tmp_path / "it.tar") == {name: IMAGES[name].digest for name in (PAUSE, APP)}
    size = (tmp_path / "it.tar").stat().st_size
    first, second, last = ran.out.splitlines()
    assert first == f"{PAUSE}  {IMAGES[PAUSE].digest}  from the store"
    assert second == f"{APP}  {IMAGES[APP].digest}  from the store"
    assert last.startswith(f"wrote {tmp_path / 'it.tar'}: 2 images, 5 blobs of ")
    assert last.endswith(f" in {size / 1000:.3g}kB")
    assert not ran.err


def test_the_end_of_the_name_says_how_it_is_compressed(root: Path, tmp_path: Path) -> None:
    tar = tmp_path / "it.tar"
    save(root, PAUSE, "-o", tar)
    for suffix, decompress in {
        ".tar.gz": gzip.decompress,
        ".tgz": gzip.decompress,
        ".tar.zst": unzstd,
        ".tzst": unzstd,
    }.items():
        file = tmp_path / f"it{suffix}"
        assert not save(root, PAUSE, "-o", file).err
        assert decompress(file.read_bytes()) == tar.read_bytes()


def unzstd(data: bytes) -> bytes:
    return bytes(zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read())


@pytest.mark.parametrize(
    ("name", "compress", "said"),
    [
        ("images", [], "K3s does not look at a file called images; name it images.tar"),
        ("it.bin", ["--compress", "zstd"], "K3s does not look at a file called it.bin; name it it.tar.zst"),
        (
            "it.tar",
            ["--compress", "gzip"],
            "K3s goes by the end of the name, and it.tar holds gzip; name it it.tar.gz",
        ),
        (
            "it.tar.lz4",
            ["--compress", "none"],
            "K3s goes by the end of the name, and it.tar.lz4 is not compressed; name it it.tar",
        ),
    ],
)
def test_a_name_that_k3s_would_not_take_is_warned_of(
    root: Path, tmp_path: Path, name: str, compress: Sequence[str], said: str
) -> None:
    assert save(root, PAUSE, "-o", tmp_path / name, *compress).err == f"warning: {said}\n"
    assert not save(
        root, PAUSE, "-o", tmp_path / name, *(compress or ["--compress", "none"]), "--format", "oci-archive"
    ).err


def test_an_oci_archive_that_skopeo_would_not_take_is_warned_of(root: Path, tmp_path: Path) -> None:
    ran = save(root, PAUSE, APP, "--format", "oci-archive", "-o", tmp_path / "it.tar")
    assert ran.err == (
        f"warning: {APP} has Docker's media types, which skopeo and podman do not take from an oci-archive; "
        "write a docker-archive for them\n"
    )


def test_of_one_platform_it_is_the_image_and_of_several_the_index(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "it.tar"
    ran = save(root, MULTI, "--platform", "linux/arm64", "-o", file)
    assert digests(file) == {MULTI: of_platform(IMAGES[MULTI], "arm64")}
    assert "  linux/arm64  from the store" in ran.out
    ran = save(root, MULTI, "--platform", "linux/arm64", "--platform", "linux/amd64", "-o", file)
    assert digests(file) == {MULTI: IMAGES[MULTI].digest}
    assert "linux/arm64" in ran.out
    assert "riscv64" not in ran.out
    save(root, MULTI, "--platform", "all", "-o", file)
    assert digests(file) == {MULTI: IMAGES[MULTI].digest}


def test_the_same_images_are_the_same_bytes_in_whatever_order(root: Path, tmp_path: Path) -> None:
    for number, names in enumerate(
        ([PAUSE, MULTI, APP], [APP, PAUSE, MULTI, PAUSE], [MULTI, APP, "rancher/pause:3.6"])
    ):
        save(root, *names, "-o", tmp_path / f"{number}.tar.zst")
    assert len({(tmp_path / f"{number}.tar.zst").read_bytes() for number in range(3)}) == 1


@pytest.mark.parametrize("called", ["-", "/dev/stdout"])
def test_standard_output_takes_the_archive_and_nothing_else(root: Path, tmp_path: Path, called: str) -> None:
    save(root, PAUSE, "-o", tmp_path / "it.tar")
    command = [str(PIERHEAD), "save", "--root", str(root), PAUSE, "-o", called]
    with (tmp_path / "piped.tar").open("wb") as out, (tmp_path / "err").open("wb") as err:
        subprocess.run(command, stdout=out, stderr=err, env=environment(), check=True, timeout=RUN_SECONDS)
    assert (tmp_path / "piped.tar").read_bytes() == (tmp_path / "it.tar").read_bytes()
    assert (tmp_path / "err").read_text().splitlines()[-1].startswith("wrote standard output: 1 image, 3 blobs of ")


def test_json(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "it"
    ran = save(root, MULTI, "--platform", "linux/arm64", "-o", file, "--json")
    said = json.loads(ran.out)
    digest = of_platform(IMAGES[MULTI], "arm64")
    blobs = json.loads(IMAGES[MULTI].blobs[digest])
    blob_bytes = sum(item["size"] for item in (blobs["config"], *blobs["layers"]))
    assert said == {
        "file": str(file),
        "format": "k3s-airgap",
        "compress": "none",
        "size_bytes": file.stat().st_size,
        "blobs": 3,
        "blob_bytes": blob_bytes,
        "images": [
            {
                "reference": MULTI,
                "digest": digest,
                "media_type": "application/vnd.oci.image.manifest.v1+json",
                "size_bytes": blob_bytes + len(IMAGES[MULTI].blobs[digest]),
                "platforms": ["linux/arm64"],
                "route": None,
                "fetched_bytes": 0,
                "referrers": [],
                "referrers_left_out": [],
                "error": None,
                "exit_code": 0,
            }
        ],
        "problems": [
            {
                "id": "unwatched-name",
                "severity": "warning",
                "message": "K3s does not look at a file called it; name it it.tar",
                "line": None,
                "column": None,
            }
        ],
    }


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([PAUSE, "-o", "{}"], "error: {} is a folder\nhint: give the file a name: {}/images.tar.zst\n"),
        ([PAUSE, "-o", "{}/no/it.tar"], "error: there is no folder {}/no\n"),
        (
            [PAUSE, "-o", "{}/it.tar.bz2"],
            "error: {}/it.tar.bz2 ends in .tar.bz2, which is not written here\n"
            "hint: end it in .tar.zst, .tar.gz or .tar, or say --compress\n",
        ),
        (
            [PAUSE, "-o", "-", "--json"],
            "error: standard output cannot take both the archive and --json\nhint: give -o FILE\n",
        ),
        (
            [PAUSE, "-o", "json"],
            "error: -o json would write a file of that name\nhint: --json prints JSON; or write ./json.tar\n",
        ),
        (
            ["-o", "{}/it.tar"],
            "error: there is nothing to save\nhint: name images, or a list of them with --images\n",
        ),
        (
            [PAUSE, "nowhere.invalid/a@sha256:" + 64 * "0", "-o", "{}/it.tar"],
            "error: nowhere.invalid/a@sha256:" + 64 * "0" + " has no tag, and K3s imports no such image\n"
            "hint: name it with its tag, or write another --format\n",
        ),
        (
            [MULTI, "--platform", "all", "--format", "docker-archive", "-o", "{}/it.tar"],
            f"error: {MULTI} is of several platforms, and docker-archive holds one for each name\n"
            "hint: choose one with --platform: linux/amd64, linux/arm64, linux/riscv64\n",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    root: Path, tmp_path: Path, arguments: Sequence[str], said: str
) -> None:
    ran = save(root, *(argument.replace("{}", str(tmp_path)) for argument in arguments), code=2)
    assert ran.err == said.replace("{}", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_damaged_blob_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    root = fill(tmp_path / "store", {PAUSE: IMAGES[PAUSE]})
    layer = IMAGES[PAUSE].manifest["layers"][0]["digest"]
    blob = root / "blobs" / layer.replace(":", "/")
    blob.chmod(0o644)
    blob.write_bytes(bytes(blob.stat().st_size))
    (tmp_path / "out").mkdir()
    file = tmp_path / "out/it.tar"
    file.write_text("what was there")
    ran = save(root, PAUSE, "-o", file, code=1)
    assert f"{layer} is not what its manifest says: the bytes are sha256:" in ran.err
    assert file.read_text() == "what was there"
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_leaves_the_old_file_and_no_other(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "it.tar"
    file.write_text("what was there")
    ran = save(root, PAUSE, "-o", file, code=1, prefix=("prlimit", "--fsize=2000"))
    assert ran.err == f"error: cannot write {file}: File too large\nhint: what was there before is as it was\n"
    assert file.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [file]
    assert "cannot write /dev/full: No space left on device" in save(root, PAUSE, "-o", "/dev/full", code=1).err


def test_a_file_that_is_there_keeps_its_mode_and_a_link_stays_one(root: Path, tmp_path: Path) -> None:
    file, link = tmp_path / "it.tar", tmp_path / "link.tar"
    file.touch(0o600)
    file.chmod(0o640)
    link.symlink_to(file.name)
    save(root, PAUSE, "-o", link)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert digests(file) == {PAUSE: IMAGES[PAUSE].digest}
    save(root, PAUSE, "-o", tmp_path / "new.tar")
    assert (tmp_path / "new.tar").stat().st_mode & 0o777 == 0o644


# ── what is not in the store ─────────────────────────────────────────────────────────────────────────────────────


def test_what_is_not_in_the_store_is_pulled_and_only_that(registry: Served, tmp_path: Path) -> None:
    root, file, trace = fill(tmp_path / "store", {PAUSE: IMAGES[PAUSE]}), tmp_path / "it.tar", tmp_path / "trace"
    name = f"{registry.address}/team/app:v2"
    ran = save(root, PAUSE, name, "-o", file, "--json", "--trace", trace)
    assert digests(file) == {PAUSE: IMAGES[PAUSE].digest, name: IMAGES[APP].digest}
    pause, app = json.loads(ran.out)["images"]
    assert (pause["route"], pause["fetched_bytes"]) == (None, 0)
    assert app["route"] == registry.url
    new = set(IMAGES[APP].blobs) - set(IMAGES[PAUSE].blobs)
    assert app["fetched_bytes"] == sum(len(IMAGES[APP].blobs[digest]) for digest in new)
    assert registry.address in trace.read_text()
    trace.unlink()
    again = save(root, PAUSE, name, "-o", file, "--trace", trace)  # everything is there now: nobody is asked
    assert f"{name}  {IMAGES[APP].digest}  from the store" in again.out
    assert not trace.read_text()
    assert (root / "index.json").read_text().count(name) == 2


def test_an_index_of_the_store_that_cannot_be_written_is_told_and_the_file_is_whole(
    registry: Served, tmp_path: Path
) -> None:
    root, file, name = tmp_path / "store", tmp_path / "it.tar", f"{registry.address}/team/app:v2"
    root.mkdir()
    (root / "index.json").write_text("somebody else's")
    ran = save(root, name, "-o", file, "--json")
    (problem,) = json.loads(ran.out)["problems"]
    assert (problem["id"], problem["severity"]) == ("index-not-written", "warning")
    assert f"warning: {problem['message']}" in ran.err
    assert digests(file) == {name: IMAGES[APP].digest}


def test_a_platform_that_is_not_in_the_store_is_pulled(registry: Served, tmp_path: Path) -> None:
    root, file, name = tmp_path / "store", tmp_path / "it.tar", f"{registry.address}/team/multi:1"
    for architecture in ("amd64", "arm64"):
        ran = save(root, name, "--platform", architecture, "-o", file)
        assert f"linux/{architecture}  from {registry.url}" in ran.out
        assert digests(file) == {name: of_platform(IMAGES[MULTI], architecture)}


def test_by_registries_yaml(registry: Served, tmp_path: Path) -> None:
    config = tmp_path / "registries.yaml"
    config.write_text(
        f"mirrors:\n  docker.io:\n    endpoint: ['{registry.url}']\n    rewrite: {{'^rancher/(.*)': 'team/$1'}}\n"
    )
    images = tmp_path / "images.txt"
    images.write_text("# ours\r\nrancher/app:v2\r\n\r\ndocker.io/rancher/app:v2\n")
    save(
        tmp_path / "store",
        "--images",
        images,
        "--private-registry",
        config,
        "-o",
        tmp_path / "it.tar",
        "--platform",
        "all",
    )
    assert digests(tmp_path / "it.tar") == {"docker.io/rancher/app:v2": IMAGES[APP].digest}


def test_a_tag_beside_a_digest_is_the_name_that_k3s_imports(root: Path, tmp_path: Path) -> None:
    """K3s needs a tag, and adds `repository@digest` itself: so a node finds the image by both."""
    image, file = IMAGES[MULTI], tmp_path / "it.tar"
    pinned = f"multi:1@{image.digest}"
    for platform in ("all", "linux/amd64"):  # a name by digest stays what it is, whatever is left out of it
        ran = save(root, "--images", "-", "--platform", platform, "-o", file, stdin=f"{pinned}\n")
        assert digests(file) == {MULTI: image.digest}
        assert ran.out.startswith(f"docker.io/library/multi@{image.digest}  {image.digest}  linux/amd64")
    with open_archive(file) as archive:
        (found,) = archive.images
        assert [str(item) for item in present(archive.content, found.descriptor).platforms] == ["linux/amd64"]
    save(root, MULTI, pinned, "--platform", "all", "-o", file)
    assert digests(file) == {MULTI: image.digest}
    ran = save(root, MULTI, pinned, "--platform", "linux/amd64", "-o", tmp_path / "two.tar", code=2)
    assert f"{MULTI} stands for two images here" in ran.err
    save(root, f"multi@{image.digest}", "-o", tmp_path / "two.tar", code=2)
    assert not (tmp_path / "two.tar").exists()


def test_other_archives_have_the_name_by_digest_where_there_is_one(root: Path, tmp_path: Path) -> None:
    image, file = IMAGES[MULTI], tmp_path / "it.tar"
    pinned = (f"multi:1@{image.digest}", "--platform", "linux/amd64", "-o", file)
    save(root, *pinned, "--format", "oci-archive")
    assert digests(file) == {f"docker.io/library/multi@{image.digest}": image.digest}
    save(root, *pinned, "--format", "docker-archive")
    assert list(digests(file)) == [MULTI]


def test_one_that_fails_leaves_no_file_and_with_partial_the_others(
    root: Path, registry: Served, tmp_path: Path
) -> None:
    file, absent = tmp_path / "it.tar", f"{registry.address}/team/absent:1"
    ran = save(root, PAUSE, absent, "-o", file, code=6)
    assert f"error: no route gives {absent}" in ran.err
    assert ran.err.endswith("nothing is written; with --partial the others are\n")
    assert not ran.out
    assert not file.exists()
    ran = save(root, PAUSE, absent, "-o", file, "--partial", code=6)
    assert digests(file) == {PAUSE: IMAGES[PAUSE].digest}
    assert ran.out.splitlines()[-1].startswith(f"wrote {file}: 1 image, ")
    file.unlink()
    ran = save(root, absent, "-o", file, "--partial", "--json", code=3)
    assert json.loads(ran.out)["file"] is None
    assert ran.err.endswith("nothing is written\n")
    assert not file.exists()


def test_a_bad_line_of_the_list_is_told_and_nothing_is_written_unless_partly(root: Path, tmp_path: Path) -> None:
    images, file = tmp_path / "images.txt", tmp_path / "it.tar"
    images.write_text(f"{PAUSE}\nNot/An/Image\n")
    ran = save(root, "--images", images, "-o", file, code=6)
    assert f"{images}:2:1: " in ran.err
    assert not file.exists()
    save(root, "--images", "-", "-o", file, "--partial", code=6, stdin=images.read_text())
    assert digests(file) == {PAUSE: IMAGES[PAUSE].digest}


def test_locked(registry: Served, tmp_path: Path) -> None:
    """What the store has may be old: then what was locked is pulled. What has moved since is an error."""
    name, lock, file = f"{registry.address}/team/app:v2", tmp_path / "images.lock", tmp_path / "it.tar"
    run_pierhead("lock", name, "-o", lock)
    root = fill(tmp_path / "store", {name: IMAGES[PAUSE]})
    save(root, name, "-o", file)
    assert digests(file) == {name: IMAGES[PAUSE].digest}
    save(root, name, "--locked", lock, "-o", file)
    assert digests(file) == {name: IMAGES[APP].digest}
    lock.write_text(lock.read_text().replace(IMAGES[APP].digest, IMAGES[PAUSE].digest))
    ran = save(root, name, "--locked", lock, "-o", file, code=1)
    assert f"{name} has moved: it is {IMAGES[APP].digest} now, and {IMAGES[PAUSE].digest} in" in ran.err
    assert "is not in the lock file" in save(root, MULTI, "--locked", lock, "-o", file, code=3).err


def test_whoever_reads_the_pipe_may_stop(root: Path) -> None:
    with start_pierhead("save", "--root", root, PAUSE, MULTI, "--platform", "all", "-o", "-") as running:
        assert running.process.stdout is not None
        running.process.stdout.close()
        code = running.process.wait(RUN_SECONDS)
        assert running.process.stderr is not None
        said = running.process.stderr.read()
    assert "Traceback" not in said
    assert code == 1
