"""`pierhead load` into the store."""

from __future__ import annotations

import errno
import gzip
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from command import PIERHEAD, RUN_SECONDS, assert_sound, environment, names, run_pierhead, stored
from images import Image, make_image, make_index
from loadable import archive_of, of_platform
from pierhead.archive import open_archive
from pierhead.archive.present import Incomplete, present
from pierhead.errors import ExitCode
from pierhead.layout import LayoutStore
from pierhead.loading import exit_code, load
from pierhead.loading.into import IntoStore
from pierhead.oci import Descriptor, Platform
from pierhead.reference import Digest
from pierhead.referrers import find_all_referrers
from pierhead.store import ContentMismatch, RepositoryName
from pierhead.transfer import Transfer
from referring import Signed, artifact, listing

APP = make_image(layers=[b"app\n", 9000], platforms=["linux/amd64", "linux/arm64"])
PAUSE = make_image(layers=[b"pause\n"], media="docker")
NAMES = {"docker.io/library/app:v1": APP, "registry.lan:5000/rancher/pause:3.1": PAUSE}


def every_blob(*images: Image) -> dict[str, bytes]:
    return {digest: data for image in images for digest, data in image.blobs.items()}


def test_every_image_gets_its_full_name_and_every_byte(tmp_path: Path) -> None:
    root = tmp_path / "store"
    ran = run_pierhead("load", archive_of(tmp_path / "a.tar", NAMES), "--root", root)
    assert names(root) == {name: image.digest for name, image in NAMES.items()}
    assert stored(root) == every_blob(*NAMES.values())
    assert [line.split()[:2] for line in ran.out.splitlines()] == [[name, NAMES[name].digest] for name in NAMES]
    assert_sound(root)


def test_a_second_time_nothing_is_written(tmp_path: Path) -> None:
    root, archive = tmp_path / "store", archive_of(tmp_path / "a.tar", NAMES)
    run_pierhead("load", archive, "--root", root)
    before = {path: path.stat().st_mtime_ns for path in (root / "blobs").rglob("*")}
    ran = run_pierhead("load", archive, "--root", root, "-o", "json")
    assert [image["written_bytes"] for image in ran.images] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in (root / "blobs").rglob("*")} == before


def test_compressed_archives_and_folders(tmp_path: Path) -> None:
    root = tmp_path / "store"
    plain = archive_of(tmp_path / "a.tar", {"docker.io/library/app:v1": APP})
    packed = tmp_path / "b.anything"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    folder = PAUSE.write_layout(tmp_path / "layout", "registry.lan:5000/rancher/pause:3.1")
    run_pierhead("load", packed, folder, "--root", root)
    assert names(root) == {name: image.digest for name, image in NAMES.items()}
    assert not list((root / "tmp").iterdir())


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_archive_that_comes_through_a_pipe(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    root, archive = tmp_path / "store", archive_of(tmp_path / "a.tar", NAMES)
    archive.write_bytes(compress(archive.read_bytes()))
    run_pierhead("load", "-", "--root", root, prefix=("sh", "-c", f'cat {archive} | "$0" "$@"'))
    assert names(root) == {name: image.digest for name, image in NAMES.items()}
    assert_sound(root)
    assert not list((root / "tmp").iterdir())


def test_standard_input_may_be_a_file_or_a_socket(tmp_path: Path) -> None:
    """sshd gives a socket to what it runs, and a socket cannot be opened by its name."""
    root, archive = tmp_path / "store", archive_of(tmp_path / "a.tar", NAMES)
    ours, theirs = socket.socketpair()
    with theirs, ours, archive.open("rb") as file:
        command = [str(PIERHEAD), "load", "-", "--root", str(root), "-o", "json"]
        with subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.PIPE, env=environment()) as running:
            ours.sendfile(file)
            ours.shutdown(socket.SHUT_WR)
            out, _ = running.communicate(timeout=RUN_SECONDS)
    assert running.returncode == 0
    assert [image["written_bytes"] > 0 for image in json.loads(out)["images"]] == [True, True]
    again = run_pierhead("load", "-", "--root", root, prefix=("sh", "-c", f'exec "$0" "$@" < {archive}'))
    assert again.out.count("had all") == len(NAMES)


def test_nothing_and_rubbish_through_a_pipe(tmp_path: Path) -> None:
    ran = run_pierhead("load", "-", "--root", tmp_path / "store", code=1)
    assert "/dev/stdin cannot be used: nothing came through it" in ran.err
    ran = run_pierhead("load", "-", "--root", tmp_path / "store", stdin="rubbish" * 1000, code=1)
    assert "/dev/stdin cannot be used: it is no tar file" in ran.err


def test_one_bad_archive_stops_no_other(tmp_path: Path) -> None:
    root = tmp_path / "store"
    rubbish = tmp_path / "rubbish.tar"
    rubbish.write_bytes(b"rubbish" * 1000)
    archive = archive_of(tmp_path / "a.tar", NAMES)
    ran = run_pierhead("load", rubbish, tmp_path / "absent.tar", archive, "--root", root, "-o", "json", code=6)
    assert [(Path(image["file"]).name, image["exit_code"]) for image in ran.images] == [
        ("rubbish.tar", 1),
        ("absent.tar", 2),
        ("a.tar", 0),
        ("a.tar", 0),
    ]
    assert "rubbish.tar cannot be used" in ran.err
    assert names(root) == {name: image.digest for name, image in NAMES.items()}
    run_pierhead("load", rubbish, "--root", root, code=1)
    run_pierhead("load", tmp_path / "absent.tar", "--root", root, code=2)


def test_an_archive_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_of(tmp_path / "a.tar", NAMES)

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("pierhead.loading.open_archive", refuse)
    with Transfer() as transfer:
        (result,) = load([archive], IntoStore(LayoutStore(tmp_path / "store"), transfer))
    assert result.error is not None
    assert result.error.message == f"{archive} cannot be read: Permission denied"


def test_an_archive_without_images(tmp_path: Path) -> None:
    ran = run_pierhead("load", archive_of(tmp_path / "a.tar", {}), "--root", tmp_path / "store", code=3)
    assert "has no images" in ran.err


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_image_without_a_name_is_told_and_left_out(tmp_path: Path) -> None:
    root = tmp_path / "store"
    ran = run_pierhead("load", archive_of(tmp_path / "a.tar", {**NAMES, "v9": make_image()}), "--root", root, code=6)
    assert "has no full name in the archive: it is called 'v9' there" in ran.err
    assert set(names(root)) == set(NAMES)


@pytest.mark.parametrize("called", ["", "v9"])
def test_a_single_image_can_be_named(tmp_path: Path, called: str) -> None:
    root, archive = tmp_path / "store", archive_of(tmp_path / "a.tar", {called: APP})
    assert "--name" in run_pierhead("load", archive, "--root", root, code=2).err
    run_pierhead("load", archive, "--name", "team/app:1", "--root", root)
    assert names(root) == {"docker.io/team/app:1": APP.digest}


def test_a_name_is_for_one_that_needs_it(tmp_path: Path) -> None:
    named, both = archive_of(tmp_path / "a.tar", NAMES), archive_of(tmp_path / "b.tar", {"": APP, "v1": PAUSE})
    for files in ([named], [both], [both, named]):
        ran = run_pierhead("load", *files, "--name", "team/app:1", "--root", tmp_path / "store", code=2)
        assert "--name is for one archive with a single image" in ran.err
    assert run_pierhead("load", both, "--name", "Team", "--root", tmp_path / "store", code=2)


def test_an_image_named_by_its_digest(tmp_path: Path) -> None:
    root, name = tmp_path / "store", f"docker.io/team/app@{APP.digest}"
    run_pierhead("load", archive_of(tmp_path / "a.tar", {name: APP}), "--root", root)
    assert names(root) == {name: APP.digest}


# ── what refers to an image ──────────────────────────────────────────────────────────────────────────────────────


def test_what_refers_to_an_image_comes_into_its_repository(tmp_path: Path) -> None:
    signed, root = Signed.make(), tmp_path / "store"
    other = "quay.io/team/same:2"
    archive = listing(tmp_path / "a.tar", [*signed.entries("docker.io/team/app:1"), (other, signed.image)])
    ran = run_pierhead("load", archive, "--root", root, "-q")
    assert [line.rpartition("  ")[2] for line in ran.out.splitlines()] == ["with 4 that refer to it"] * 2
    assert not ran.err
    (tag,) = signed.tagged
    assert names(root) == {
        "docker.io/team/app:1": signed.image.digest,
        other: signed.image.digest,
        f"docker.io/team/app:{tag}": signed.tagged[tag].digest,
        f"quay.io/team/same:{tag}": signed.tagged[tag].digest,
    }
    for name in (RepositoryName("team/app", "docker.io"), RepositoryName("team/same", "quay.io")):
        subjects = [Digest.parse(digest) for digest in signed.image.manifests]
        found = find_all_referrers(LayoutStore(root).repository(name), subjects)
        assert {str(item.descriptor.digest) for item in found} == signed.referrers
    assert stored(root) == signed.blobs
    assert_sound(root)
    said = run_pierhead("load", archive, "--root", root, "-o", "json").images[0]
    assert {item["digest"] for item in said["referrers"]} == signed.referrers
    assert {item["copied_bytes"] for item in said["referrers"]} == {0}
    assert said["referrers_left_out"] == []


def test_what_has_no_name_and_refers_to_nothing_there_is_still_told(tmp_path: Path) -> None:
    signed, orphan = Signed.make(), artifact(make_image())
    archive = listing(tmp_path / "a.tar", [*signed.entries("docker.io/team/app:1"), ("", orphan)])
    ran = run_pierhead("load", archive, "--root", tmp_path / "store", code=6)
    assert f"the image {orphan.digest} has no full name in the archive" in ran.err
    assert ran.err.count("error:") == 1
    assert orphan.digest not in stored(tmp_path / "store")


def test_a_name_for_an_image_that_something_refers_to(tmp_path: Path) -> None:
    signed, root = Signed.make(), tmp_path / "store"
    ran = run_pierhead(
        "load", listing(tmp_path / "a.tar", signed.entries("v1")), "--name", "team/app:1", "--root", root
    )
    assert ran.out.endswith("  with 4 that refer to it\n")
    assert names(root)["docker.io/team/app:1"] == signed.image.digest


def test_a_signature_that_is_not_whole_is_told_and_its_image_is_there(tmp_path: Path) -> None:
    image, root = make_image(layers=[b"app\n"]), tmp_path / "store"
    signature = artifact(image)
    layer = signature.manifest["layers"][0]["digest"]
    archive = listing(tmp_path / "a.tar", [("docker.io/team/app:1", image), ("", signature)], without=[layer])
    ran = run_pierhead("load", archive, "--root", root, code=3)
    assert "docker.io/team/app:1 is there, but not all that refers to it: " in ran.err
    assert layer in ran.err
    assert names(root) == {"docker.io/team/app:1": image.digest}
    assert_sound(root)


# ── what is not there ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_index_without_some_platforms_is_kept_with_the_others(tmp_path: Path) -> None:
    root, absent = tmp_path / "store", of_platform(APP, "linux/arm64")
    archive = archive_of(tmp_path / "a.tar", {"docker.io/library/app:v1": APP}, without=[absent])
    ran = run_pierhead("load", archive, "--root", root, "-o", "json")
    assert ran.images[0]["absent_platforms"] == ["linux/arm64"]
    assert absent not in stored(root)
    assert names(root) == {"docker.io/library/app:v1": APP.digest}
    listed = run_pierhead("images", "-o", "json", "--root", root).images
    assert listed[0]["platforms"] == ["linux/amd64"]
    assert_sound(root)
    told = run_pierhead("load", archive, "--root", root)
    assert told.err.splitlines()[-1] == f"not in {archive}: linux/arm64 of docker.io/library/app:v1"


def test_an_image_without_a_layer_stops_no_other(tmp_path: Path) -> None:
    root, layer = tmp_path / "store", PAUSE.manifest["layers"][0]["digest"]
    ran = run_pierhead("load", archive_of(tmp_path / "a.tar", NAMES, without=[layer]), "--root", root, code=6)
    assert f"does not have {layer}" in ran.err
    assert names(root) == {"docker.io/library/app:v1": APP.digest}
    assert_sound(root)


def test_attestations_may_be_absent(tmp_path: Path) -> None:
    image = make_image(layers=[b"real\n"])
    image = Image({**image.descriptor, "platform": {"os": "linux", "architecture": "amd64"}}, image.blobs)
    attestation = make_image(layers=[b"attested\n"])
    attestation = Image(
        {**attestation.descriptor, "platform": {"os": "unknown", "architecture": "unknown"}}, attestation.blobs
    )
    index = make_index(image, attestation)
    archive = archive_of(tmp_path / "a.tar", {"docker.io/team/app:1": index}, without=list(attestation.blobs))
    ran = run_pierhead("load", archive, "--root", tmp_path / "store", "-o", "json")
    assert ran.images[0]["absent_platforms"] == []
    assert names(tmp_path / "store") == {"docker.io/team/app:1": index.digest}


def test_what_is_present_of_an_index(tmp_path: Path) -> None:
    """Every way of leaving out one of its manifests, configurations or layers."""
    image = make_image(layers=[b"shared\n"], platforms=["linux/amd64", "linux/arm64", "linux/arm/v7"])
    top = Descriptor.from_json(image.descriptor)
    platforms = {
        str(platform): platform for platform in map(Platform.parse, ("linux/amd64", "linux/arm64", "linux/arm/v7"))
    }
    parts = {
        name: set(json.loads(image.blobs[item["digest"]])["layers"][-1]["digest"].split()) | {item["digest"]}
        for name, item in zip(platforms, image.manifest["manifests"], strict=True)
    }
    for name, digests in parts.items():
        for digest in digests:
            path = archive_of(tmp_path / "a.tar", {"docker.io/team/app:1": image}, without=[digest])
            with open_archive(path) as archive:
                found = present(archive.content, top)
            assert found.absent == (platforms[name],)
            assert set(found.platforms) == set(platforms.values()) - {platforms[name]}
            assert digest not in map(str, (*found.tree.blobs, *found.tree.manifests))
    (shared,) = set.intersection(*({item["digest"] for item in _layers(image, digest)} for digest in _items(image)))
    with (
        open_archive(archive_of(tmp_path / "a.tar", {"docker.io/team/app:1": image}, without=[shared])) as archive,
        pytest.raises(Incomplete, match="does not have all of it"),
    ):
        present(archive.content, top)


def _items(image: Image) -> list[str]:
    return [item["digest"] for item in image.manifest["manifests"]]


def _layers(image: Image, digest: str) -> list[dict[str, str]]:
    return list(json.loads(image.blobs[digest])["layers"])


# ── going wrong in the middle ────────────────────────────────────────────────────────────────────────────────────


def test_the_codes_of_one_and_of_several(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "store")
    archive = archive_of(tmp_path / "a.tar", NAMES)
    layer = APP.manifest["manifests"][0]["digest"]
    damaged = archive.read_bytes().replace(APP.blobs[layer], APP.blobs[layer][::-1])
    (tmp_path / "b.tar").write_bytes(damaged)
    with Transfer(2) as transfer:
        target = IntoStore(store, transfer)
        assert exit_code(load([archive], target)) is ExitCode.DONE
        results = load([archive, tmp_path / "b.tar"], target)
        single = load([archive_of(tmp_path / "c.tar", {"": APP})], target)
    assert [type(result.error) for result in results] == [type(None), type(None), ContentMismatch, type(None)]
    assert exit_code(results) is ExitCode.PARTIAL
    assert exit_code(single) is ExitCode.USAGE


def test_a_full_disk_is_told_and_leaves_a_sound_store(tmp_path: Path) -> None:
    image = make_image(layers=[500_000])
    archive = archive_of(tmp_path / "a.tar", {"docker.io/team/big:1": image})
    limited = ("prlimit", f"--fsize={200_000}")
    ran = run_pierhead("load", archive, "--root", tmp_path / "store", prefix=limited, code=1)
    assert "cannot write" in ran.err
    run_pierhead("load", archive, "--root", tmp_path / "store")
    assert stored(tmp_path / "store") == dict(image.blobs)


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("kilobytes", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    image = make_image(layers=[100_000_000], compression="none")
    archive = archive_of(tmp_path / "a.tar", {"docker.io/team/big:1": image})
    ran = run_pierhead("load", archive, "--root", tmp_path / "store", prefix=(sys.executable, "-c", MEASURED))
    assert int(ran.err.split()[-1]) < 100_000
