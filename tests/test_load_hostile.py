"""Hostile and damaged archives through `load` and `bundle`: refused, told, and nothing outside of the store touched.

What each of them is refused for is tested beside the reader (test_archive_hostile.py); here it is what becomes of a
whole command, with an honest archive beside it.
"""

from __future__ import annotations

import gzip
import json
import socket
import tarfile
import tempfile
from pathlib import Path

import pytest
import zstandard

from command import assert_sound, names, run_pierhead, serve_bundle
from images import make_image
from loadable import archive_of
from pierhead.archive import open_archive
from pierhead.archive.store import ArchiveStore
from pierhead.loading import load
from pierhead.loading.containerd import Containerd
from pierhead.loading.into import IntoContainerd
from pierhead.oci import OCI_INDEX, Platform
from tarballs import by_full_name, layout_files, member, sha256, tar, tar_of

IMAGE = make_image(layers=[b"one", 50_000])
HONEST = make_image(layers=[b"honest"])
FILES = layout_files([by_full_name("docker.io/team/hostile:1", IMAGE)])
LAYER = "blobs/" + IMAGE.manifest["layers"][1]["digest"].replace(":", "/")
MANIFEST = "blobs/" + IMAGE.digest.replace(":", "/")
MEMBERS = [member(name, data) for name, data in FILES.items()]
WHOLE = tar(*MEMBERS)
HUGE = member("blobs/x", size=8**11 - 1)
OTHERS = bytes(len(FILES[LAYER]))

ARCHIVES: dict[str, bytes] = {
    "absolute": tar(member("/tmp/pierhead-was-here", b"x"), *MEMBERS),
    "dots": tar(*MEMBERS, member("../outside", b"x")),
    "dots in a layout's own folder": tar(*MEMBERS, member("blobs/sha256/../../../outside", b"x")),
    "symlink": tar(*MEMBERS, member("blobs/link", kind=tarfile.SYMTYPE, target="../../outside")),
    "hard link": tar(*MEMBERS, member("blobs/link", kind=tarfile.LNKTYPE, target="/etc/passwd")),
    "device": tar(*MEMBERS, member("blobs/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "pipe": tar(*MEMBERS, member("blobs/pipe", kind=tarfile.FIFOTYPE)),
    "huge": tar(*MEMBERS, HUGE),
    "twice": tar(*MEMBERS, member(LAYER, OTHERS)),
    "cut": WHOLE[: len(WHOLE) // 2],
    "cut at a member": b"".join(MEMBERS[:-1]),
    "zstd, cut": zstandard.compress(WHOLE)[:-100],
    "zstd, damaged": zstandard.ZstdCompressor(write_checksum=True).compress(WHOLE)[:-4] + b"\0\0\0\0",
    "gzip, cut": gzip.compress(WHOLE)[:-100],
    "wrong layer": tar_of(FILES | {LAYER: OTHERS}),
    "short layer": tar_of(FILES | {LAYER: FILES[LAYER][:-1]}),
    "long layer": tar_of(FILES | {LAYER: FILES[LAYER] + b"x"}),
    "wrong manifest": tar_of(FILES | {MANIFEST: FILES[MANIFEST].replace(b"2", b"3", 1)}),
    "no layer": tar_of({name: data for name, data in FILES.items() if name != LAYER}),
    "name that leads out": tar_of(layout_files([by_full_name("../../etc/passwd:1", IMAGE)])),
    "name with control characters": tar_of(layout_files([by_full_name("docker.io/a\x1b[2J:1", IMAGE)])),
    "index that is none": tar_of(FILES | {"index.json": b"[" * 100_000}),
    "nothing": b"",
    "rubbish": bytes(range(256)) * 40,
}


def around(folder: Path, but: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a folder, with its mode, its time and its content; what is below `but` left out."""
    found = {}
    for path in folder.rglob("*"):
        if path == but or but in path.parents:
            continue
        known = path.lstat()
        found[str(path)] = (known.st_mode, known.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the archive is, with a file beside it that hostile names aim at, and an honest archive."""
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "in").mkdir()
    archive_of(tmp_path / "in/honest.tar", {"docker.io/team/honest:1": HONEST})
    return tmp_path


@pytest.mark.parametrize("case", ARCHIVES)
def test_nothing_of_it_comes_into_the_store(folder: Path, case: str) -> None:
    hostile, root = folder / "in/hostile.tar", folder / "store"
    hostile.write_bytes(ARCHIVES[case])
    scratch = folder / "scratch"
    scratch.mkdir()
    before = around(folder, root)
    files, own = (hostile, folder / "in/honest.tar"), {"TMPDIR": str(scratch)}
    ran = run_pierhead("load", *files, "--root", root, "-o", "json", env=own, code=6)
    assert [image["exit_code"] for image in ran.images] == [ran.images[0]["exit_code"] or 1, 0]
    assert around(folder, root) == before
    assert not Path("/tmp/pierhead-was-here").exists()
    assert names(root) == {"docker.io/team/honest:1": HONEST.digest}
    assert_sound(root)
    assert not list((root / "tmp").iterdir())
    assert sum(line.startswith("error: ") for line in ran.err.splitlines()) == 1
    assert "hint:" in ran.err
    assert "\x1b" not in ran.err


@pytest.fixture
def fed(folder: Path) -> Path:
    """A ctr that keeps what it was fed to the end, and says that it has the honest image."""
    program = folder / "ctr"
    program.write_text(
        f"""#!/bin/sh
case "$*" in
  *import*) cat > {folder}/feeding; cat {folder}/feeding >> {folder}/fed;;
  *) echo REF TYPE DIGEST; echo docker.io/team/honest:1 x {HONEST.digest};;
esac
"""
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("case", ARCHIVES)
def test_nothing_of_it_comes_to_containerd(folder: Path, fed: Path, case: str) -> None:
    hostile = folder / "in/hostile.tar"
    hostile.write_bytes(ARCHIVES[case])
    with tempfile.TemporaryDirectory(prefix="ctd") as short, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{short}/sock")
        target = IntoContainerd(Containerd(Path(short) / "sock", ctr=[str(fed)]))
        refused, honest = load([hostile, folder / "in/honest.tar"], target)
    assert refused.error is not None
    assert honest.error is None
    with tarfile.open(folder / "fed") as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        named = json.load(index)["manifests"]
    assert [item["digest"] for item in named] == [HONEST.digest]
    assert b"team/hostile" not in (folder / "fed").read_bytes()


def test_a_served_folder_shows_no_file_beside_it(tmp_path: Path) -> None:
    """A link in the place of a layer, with a manifest that says its size: nobody hashes what is sent."""
    secret = tmp_path / "secret"
    secret.write_bytes(FILES[LAYER])
    layout = IMAGE.write_layout(tmp_path / "layout", "docker.io/team/app:1")
    (layout / LAYER).unlink()
    (layout / LAYER).symlink_to(secret)
    with open_archive(layout) as archive:
        store = ArchiveStore(archive)
    assert [problem.id for problem in store.problems] == ["unusable-image"]
    assert "is a link" in store.problems[0].message
    run_pierhead("load", layout, "--root", tmp_path / "store")  # who hashes may follow it
    assert names(tmp_path / "store") == {"docker.io/team/app:1": IMAGE.digest}


def test_what_is_damaged_in_a_bundle_does_not_reach_a_store(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar"
    bundle.write_bytes(tar_of(FILES | {LAYER: OTHERS}))
    with serve_bundle(bundle) as served:
        ran = run_pierhead(
            "pull", f"{served.address}/team/hostile:1", "--plain-http", "--root", tmp_path / "store", code=None
        )
    assert ran.code != 0
    assert not names(tmp_path / "store")


@pytest.mark.parametrize("case", ["symlink", "wrong manifest", "cut", "rubbish"])
def test_a_hostile_bundle_is_neither_served_nor_applied(folder: Path, case: str) -> None:
    hostile = folder / "in/hostile.tar"
    hostile.write_bytes(ARCHIVES[case])
    before = around(folder, folder / "none")
    run_pierhead("bundle", "serve", hostile, "--listen", "127.0.0.1:0", code=1)
    if case != "wrong manifest":  # which nobody has read yet
        run_pierhead("bundle", "apply", hostile, "--images-dir", folder / "images", code=1)
    assert around(folder, folder / "none") == before


# ── what others wrote, on a terminal ─────────────────────────────────────────────────────────────────────────────


def test_a_platform_cannot_write_over_the_terminal(tmp_path: Path) -> None:
    """An index and a configuration may say anything of what they are for; none of it is obeyed."""
    evil = "linux\x1b[2J\x9b\u202e\r\nerror: nothing"
    image = make_image(layers=[b"x"])
    platforms = [{"os": evil, "architecture": "amd64" * 100, "variant": evil}, {"os": "linux", "architecture": "arm64"}]
    manifests = [{**image.descriptor, "platform": platform} for platform in platforms]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    raw = json.dumps(index).encode()
    files = layout_files([by_full_name("docker.io/team/app:1", image)])
    files[f"blobs/sha256/{sha256(raw)}"] = raw
    entry = {"mediaType": OCI_INDEX, "digest": f"sha256:{sha256(raw)}", "size": len(raw)}
    named = {**entry, "annotations": {"io.containerd.image.name": "docker.io/team/app:1"}}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()
    archive = tmp_path / "index.tar"
    archive.write_bytes(tar_of(files))
    place = f"oci-archive:{archive}:docker.io/team/app:1"
    for arguments in (
        ["load", str(archive), "--root", str(tmp_path / "store")],
        ["copy", place, f"oci:{tmp_path / 'layout'}:1", "--platform", "linux/s390x"],
        ["copy", place, f"docker-archive:{tmp_path / 'docker.tar'}:team/app:1"],
        ["inspect", f"oci:{tmp_path / 'store'}:docker.io/team/app:1"],
        ["images", "--root", str(tmp_path / "store")],
        ["save", "docker.io/team/app:1", "--root", str(tmp_path / "store"), "-o", str(tmp_path / "saved.tar")],
    ):
        ran = run_pierhead(*arguments, code=None)
        lines = f"{ran.out}{ran.err}".split("\n")
        assert [line for line in lines if not line.isprintable() or line.startswith("error: nothing")] == []
    shown = str(Platform.of(evil, "amd64" * 100))
    assert shown.isprintable()
    assert len(shown) <= 100
