"""Archives that are hostile or damaged: refused with a word on what is wrong, and nothing outside is touched."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images import make_image, zstd_stored
from pierhead.archive import InvalidArchive, docker, json_files, members, open_archive, unpacked
from pierhead.archive.members import Members
from pierhead.compression import UnreadableStream
from pierhead.errors import PierheadError, UsageError
from pierhead.memory import MemoryStore
from pierhead.oci import Descriptor, InvalidManifest
from pierhead.reference import Digest
from pierhead.store import ContentMismatch, NotFound, RepositoryName, StoreUnwritable
from pierhead.transfer import Transfer
from tarballs import (
    DockerImage,
    by_full_name,
    by_tag,
    docker_files,
    layer_of,
    layout_files,
    member,
    sha256,
    tar,
    tar_of,
)

IMAGE = make_image(layers=[b"one"])
OTHER = make_image(layers=[b"other"])
FILES = layout_files([by_tag("v1", IMAGE)])
LAYER = layer_of(b"content")
DOCKER = DockerImage([LAYER], ["redis:7"])


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file beside the archive, at which hostile names and links aim; it must be as it was, and nothing beside it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("root:x:0:0")
    before = _state(tmp_path)
    yield tmp_path / "in"
    assert _state(tmp_path) == before


def _state(folder: Path) -> list[tuple[str, bytes]]:
    others = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tar")
    return sorted((str(path), path.read_bytes()) for path in others)


def refused(folder: Path, data: bytes, error: type[PierheadError] = InvalidArchive) -> PierheadError:
    """The error with which these bytes are refused as an archive, everything in it having been asked for."""
    path = folder / "hostile.tar"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        everything(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert caught.value.message.isprintable()
    return caught.value


def everything(path: Path) -> dict[str, dict[str, bytes]]:
    """Every image that an archive has, by name: all its content by digest, as a store checked it."""
    found = {}
    with open_archive(path, scratch=path.parent) as archive, Transfer(1) as transfer:
        for image in archive.images:
            store = MemoryStore()
            sink = store.repository(RepositoryName("a"))
            transfer.copy(archive.content, sink, str(image.descriptor.digest))
            found[image.name] = {str(digest): data for digest, data in store.pool.items()}
    return found


# Members that no image needs

MEMBERS: dict[str, tuple[bytes, str]] = {
    "absolute name": (member("/etc/cron.d/x", b"x"), "'/etc/cron.d/x' is no name of a file inside of it"),
    "name that leads out": (member("../../secret", b"x"), "'../../secret' is no name of a file inside of it"),
    "name that leads out and back": (member("blobs/../../x", b"x"), "is no name of a file inside of it"),
    "name of control characters": (member("../\x1b[2J", b"x"), r"'../\x1b[2J' is no name"),
    "symlink out": (member("blobs/x", kind=tarfile.SYMTYPE, target="../../secret"), "a link that leads out of it"),
    "absolute symlink": (member("x", kind=tarfile.SYMTYPE, target="/etc/shadow"), "out of it, to '/etc/shadow'"),
    "hard link out": (member("x", kind=tarfile.LNKTYPE, target="../secret"), "a link that leads out of it"),
    "absolute hard link": (member("x", kind=tarfile.LNKTYPE, target="/etc/shadow"), "a link that leads out of it"),
    "link to nothing": (member("x", kind=tarfile.SYMTYPE, target=""), "a link that leads out of it"),
    "character device": (member("x", kind=tarfile.CHRTYPE, devmajor=1, devminor=5), "is a character device"),
    "block device": (member("x", kind=tarfile.BLKTYPE, devmajor=8), "is a block device"),
    "pipe": (member("x", kind=tarfile.FIFOTYPE), "is a named pipe"),
    "continued file": (member("x", b"rest", kind=b"M", format=tarfile.GNU_FORMAT), "another volume"),
    "unknown kind": (member("x", kind=b"\xff", format=tarfile.GNU_FORMAT), "is of an unknown kind"),
    "sparse file": (member("x", b"x", kind=tarfile.GNUTYPE_SPARSE, format=tarfile.GNU_FORMAT), "written with holes"),
    "sparse file of pax": (member("x", b"x", pax_headers={"GNU.sparse.major": "1"}), "written with holes"),
    "long name": (member("n" * 5000, b"x"), "is a name of more than 4096 bytes"),
}


@pytest.mark.parametrize("case", MEMBERS)
@pytest.mark.parametrize("last", [True, False])
def test_members_that_no_image_needs_are_refused(outside: Path, case: str, last: bool) -> None:
    hostile, says = MEMBERS[case]
    honest = [member(name, data) for name, data in FILES.items()]
    assert says in refused(outside, tar(*([*honest, hostile] if last else [hostile, *honest]))).message


def test_the_same_members_without_the_hostile_one_are_fine(outside: Path) -> None:
    path = outside / "honest.tar"
    path.write_bytes(tar(*(member(name, data) for name, data in FILES.items())))
    assert everything(path) == {"v1": IMAGE.blobs}


def test_a_link_inside_of_it_is_followed_and_no_further(outside: Path) -> None:
    rounds = [
        member(name, kind=tarfile.SYMTYPE, target=target) for name, target in (("index.json", "b"), ("b", "index.json"))
    ]
    error = refused(outside, tar(member("oci-layout", FILES["oci-layout"]), *rounds))
    assert "'index.json' is a link to a link that does not end" in error.message


@pytest.mark.parametrize("name", ["index.json", "oci-layout", next(name for name in FILES if name.startswith("blobs"))])
@pytest.mark.parametrize("other", [b"{}", "same size"])
def test_two_members_of_one_name_are_refused_if_they_differ(outside: Path, name: str, other: Any) -> None:
    again = bytes(len(FILES[name])) if other == "same size" else other
    for data in ([*FILES.items(), (name, again)], [(name, again), *FILES.items()]):
        error = refused(outside, tar(*(member(*item) for item in data)))
        assert f"'{name}' is in it twice, with different content" in error.message


def test_two_members_of_one_name_and_content_are_one(outside: Path) -> None:
    path = outside / "twice.tar"
    path.write_bytes(tar(*(member(*item) for item in [*FILES.items(), *FILES.items()])))
    assert everything(path) == {"v1": IMAGE.blobs}


def test_a_file_and_a_link_of_one_name_are_refused(outside: Path) -> None:
    link = member("index.json", kind=tarfile.SYMTYPE, target="oci-layout")
    honest = [member(*item) for item in FILES.items()]
    for data in ([*honest, link], [link, *honest]):
        assert "twice" in refused(outside, tar(*data)).message


# Sizes


def _sized(field: bytes) -> bytes:
    """A header that claims a size."""
    head = bytearray(member("blobs/x"))
    head[124:136] = field.ljust(12, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (b"77777777777", "'blobs/x' has 8589934591 bytes, of which"),
        (b"\x80" + b"\xff" * 11, "bytes, of which"),
        (b"\xff" * 12, "'blobs/x' has a size that is none"),
        (b"-1", "'blobs/x' has a size that is none"),
        (b"9", "'blobs/x' has a size that is none"),
    ],
)
def test_sizes_that_cannot_be(outside: Path, field: bytes, says: str) -> None:
    assert says in refused(outside, tar(*(member(*item) for item in FILES.items()), _sized(field))).message


@pytest.mark.parametrize("size", ["-5", "x", "1" * 30, "٣"])
def test_sizes_of_pax_that_are_none(outside: Path, size: str) -> None:
    hostile = member("x", b"x", pax_headers={"size": size})
    assert "a pax header says size" in refused(outside, tar(hostile)).message


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (b"x", b"17 path=blobs/x\n", "a pax header of it is damaged"),
        (b"x", b"0 path=x\n", "a pax header of it is damaged"),
        (b"x", b"path", "a pax header of it is damaged"),
        (b"x", b"12 path=a\0b\n", "a pax header of it is damaged"),
        (b"g", b"11 path=x/\n", "a global pax header sets 'path' for all"),
        (b"g", b"10 size=5\n", "a global pax header sets 'size' for all"),
        (b"x", b"16 path=../../x\n", "'../../x' is no name"),
        (b"x", b"15 path=/etc/x\n", "'/etc/x' is no name"),
        (b"L", b"../../x\0", "'../../x' is no name"),
    ],
)
def test_headers_that_change_the_next_one(outside: Path, kind: bytes, data: bytes, says: str) -> None:
    headers = member("header", data, kind=kind, format=tarfile.USTAR_FORMAT)
    assert says in refused(outside, tar(headers, member("innocent", b"x"))).message


def test_a_global_header_that_says_nothing_is_passed_over(outside: Path) -> None:
    """As git archive writes its commit."""
    path = outside / "git.tar"
    header = member("pax_global_header", b"13 comment=x\n", kind=b"g", format=tarfile.USTAR_FORMAT)
    path.write_bytes(tar(header, *(member(*item) for item in FILES.items())))
    assert everything(path) == {"v1": IMAGE.blobs}


def test_a_header_that_is_too_large_is_not_read(outside: Path) -> None:
    huge = member("x", b"", kind=b"x", size=members.EXTENSION_LIMIT_BYTES + 1, format=tarfile.USTAR_FORMAT)
    data = huge + bytes(members.EXTENSION_LIMIT_BYTES + 512)
    assert "a tar header of 1048577 bytes" in refused(outside, tar(data)).message


def test_more_members_than_anybody_needs(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MEMBERS_LIMIT", 100)
    many = [member(f"{number}") for number in range(100)]
    (outside / "many.tar").write_bytes(tar(*many))
    assert len(list(Members(outside / "many.tar"))) == 100
    assert "more than 100 members" in refused(outside, tar(*many, member("one"))).message


# Cuts and damage


@pytest.mark.parametrize("end", [-1024, -700, -1536, -2000, 512, 700, 100])
def test_a_tar_that_is_cut(outside: Path, end: int) -> None:
    refused(outside, tar_of(FILES)[:end])


@pytest.mark.parametrize("data", [b"", b"\0", bytes(100), b"some text\n" * 100, b"PK\3\4" + bytes(1000)])
def test_what_is_no_archive(outside: Path, data: bytes) -> None:
    refused(outside, data)


@pytest.mark.parametrize("data", [bytes(1024), tar(member("a.txt", b"text")), tar_of({"index.json": b"{}"})])
def test_a_tar_of_something_else(outside: Path, data: bytes) -> None:
    assert "has neither oci-layout nor manifest.json" in refused(outside, data).message


@pytest.mark.parametrize("magic", [b"\x04\x22\x4d\x18", b"\xfd7zXZ\0"])
def test_compressions_that_are_not_read(outside: Path, magic: bytes) -> None:
    assert " -d" in refused(outside, magic + bytes(1000), UnreadableStream).hint


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, zstd_stored], ids=["gzip", "zstd", "stored"])
def test_a_compressed_archive_that_is_cut_or_damaged(outside: Path, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(tar_of(FILES))
    for cut in (len(whole) - 1, len(whole) - 9, len(whole) // 2, 20):
        refused(outside, whole[:cut], PierheadError)


def test_what_decompresses_to_no_tar(outside: Path) -> None:
    assert "it is no tar file" in refused(outside, gzip.compress(b"text" * 1000)).message


def test_a_bomb_is_stopped(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked, "RATIO_FROM_BYTES", 3 << 20)
    bomb = zstandard.compress(tar(member("blobs/x", bytes(30 << 20))))
    assert len(bomb) < 10_000
    assert f"it decompresses to more than {max(3 << 20, 1000 * len(bomb))} bytes" in refused(outside, bomb).message


def test_an_archive_may_expand_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpacked.expansion_limit(1) == unpacked.RATIO_FROM_BYTES
    assert unpacked.expansion_limit(10 << 20) == 10_000 << 20
    assert unpacked.expansion_limit(1 << 40) == unpacked.EXPANDED_LIMIT_BYTES


def test_the_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(gzip.compress(tar_of(FILES)))
    room = os.statvfs(tmp_path)
    monkeypatch.setattr(unpacked, "RESERVE_BYTES", room.f_bavail * room.f_frsize + (1 << 30))
    with pytest.raises(StoreUnwritable, match="would be left free") as refusal:
        open_archive(tmp_path / "a.tar", scratch=tmp_path)
    assert "TMPDIR" in refusal.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_scratch_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(gzip.compress(tar_of(FILES)))
    with pytest.raises(StoreUnwritable, match="no such folder"):
        open_archive(tmp_path / "a.tar", scratch=tmp_path / "absent")


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo], ids=["absent", "pipe"])
def test_a_path_that_is_no_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "a.tar")
    with pytest.raises(UsageError, match=r"a\.tar (is no file|does not exist)"):
        open_archive(tmp_path / "a.tar")


# Lists of a layout


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}', "says version '2.0.0', and only 1.0.0 is known"),
        ("oci-layout", b"{}", "says version"),
        ("oci-layout", b"[]", "says version"),
        ("oci-layout", b"not json", "'oci-layout' is not JSON"),
        ("index.json", b"not json", "'index.json' is not JSON"),
        ("index.json", b"\xff\xfe", "'index.json' is not JSON"),
        ("index.json", b"[" * 100_000, "'index.json' is not JSON"),
        ("index.json", b'{"a":' * 100_000, "'index.json' is not JSON"),
        ("index.json", b"9" * 10_000, "'index.json' is not JSON"),
        ("index.json", b"[]", "'index.json' is not a JSON object"),
        ("index.json", b'{"manifests": 5}', "does not list"),
        ("index.json", b'{"manifests": [5]}', "no descriptors"),
        ("index.json", b'{"manifests": [{}]}', "has an entry that is none"),
        ("index.json", b'{"manifests": [{"digest": "md5:00", "size": 1}]}', "the algorithm 'md5' is not one of"),
        ("index.json", b'{"manifests": [{"digest": "sha256:../../x", "size": 1}]}', "has an entry that is none"),
        ("index.json", b'{"manifests": [' + b"{}," * 10_000 + b"{}]}", "at most 10000 manifests"),
    ],
)
def test_lists_that_are_none(outside: Path, name: str, data: bytes, says: str) -> None:
    assert says in refused(outside, tar_of({**FILES, name: data})).message


def test_a_list_that_is_too_large(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "JSON_LIMIT_BYTES", 1000)
    assert (
        "'index.json' is larger than 1000 bytes"
        in refused(outside, tar_of({**FILES, "index.json": bytes(1001)})).message
    )


def test_a_layout_without_its_index(outside: Path) -> None:
    assert "has no index.json" in refused(outside, tar_of({"oci-layout": FILES["oci-layout"]})).message


@pytest.mark.parametrize("name", ["\x1b]0;x\a", "a\nb", "n" * 2000])
def test_names_that_are_none(outside: Path, name: str) -> None:
    error = refused(outside, tar_of(layout_files([by_tag(name, IMAGE)])))
    assert "which is no name" in error.message
    assert len(error.message) < 600


def test_two_images_of_one_name(outside: Path) -> None:
    named = [by_full_name("docker.io/library/redis:7", IMAGE), by_tag("redis:7", OTHER)]
    error = refused(outside, tar_of(layout_files(named)))
    assert "two images of the name 'docker.io/library/redis:7'" in error.message
    assert IMAGE.digest in error.message
    assert OTHER.digest in error.message


# Content that is not what it is called


def _with_blob(digest: str, data: bytes) -> dict[str, bytes]:
    return {**FILES, f"blobs/{digest.replace(':', '/')}": data}


def test_wrong_bytes_under_a_digest(outside: Path) -> None:
    for digest, data in IMAGE.blobs.items():
        other = bytes([data[0] ^ 1]) + data[1:]
        path = outside / "wrong.tar"
        path.write_bytes(tar_of(_with_blob(digest, other)))
        with pytest.raises(ContentMismatch, match=digest):
            everything(path)
        for size in (data + b"x", data[:-1]):
            path.write_bytes(tar_of(_with_blob(digest, size)))
            with pytest.raises(ContentMismatch, match="is damaged"):
                everything(path)


def test_a_blob_under_another_algorithm_is_none(outside: Path) -> None:
    files = {name.replace("sha256", "sha512"): data for name, data in FILES.items()}
    refused(outside, tar_of(files), NotFound)


def test_a_huge_manifest_is_not_read(outside: Path) -> None:
    data = bytes(5 << 20)
    path = outside / "huge.tar"
    path.write_bytes(tar_of(_with_blob(f"sha256:{sha256(data)}", data)))
    with open_archive(path) as archive, pytest.raises(InvalidArchive, match="a manifest of 5242880 bytes"):
        archive.content.manifest(Descriptor("a/b", Digest("sha256", sha256(data)), len(data)))


def test_a_layer_is_no_manifest(outside: Path) -> None:
    (outside / "a.tar").write_bytes(tar_of(FILES))
    with open_archive(outside / "a.tar") as archive, pytest.raises(InvalidManifest):
        archive.content.resolve(IMAGE.manifest["layers"][0]["digest"])


# Folders


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_folder_with_something_else_for_a_file(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    IMAGE.write_layout(tmp_path)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(InvalidArchive, match="is no regular file"):
        open_archive(tmp_path)


def test_a_folder_with_a_pipe_for_a_blob(tmp_path: Path) -> None:
    IMAGE.write_layout(tmp_path)
    path = tmp_path / "blobs" / IMAGE.digest.replace(":", "/")
    path.unlink()
    os.mkfifo(path)
    with open_archive(tmp_path) as archive, pytest.raises(InvalidArchive, match="is no regular file"):
        archive.content.manifest(archive.find("").descriptor)


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_a_folder_that_is_no_layout(tmp_path: Path, name: str) -> None:
    IMAGE.write_layout(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InvalidArchive, match=f"has no {name}"):
        open_archive(tmp_path)


# Docker archives


def _docker(change: Callable[[list[Any]], object]) -> bytes:
    files = docker_files(DOCKER)
    listed = json.loads(files["manifest.json"])
    change(listed)
    return tar_of({**files, "manifest.json": json.dumps(listed).encode()})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda listed: listed.append(5), "an image without a configuration"),
        (lambda listed: listed[0].pop("Config"), "an image without a configuration"),
        (lambda listed: listed[0]["RepoTags"].append("Not A Name"), "names an image 'Not A Name'"),
        (lambda listed: listed[0]["RepoTags"].append("-"), "names an image '-'"),
        (lambda listed: listed[0]["Layers"].append("x.tar"), "has 1 layers, and manifest.json lists 2 for it"),
        (lambda listed: listed[0].update(Layers=None), "has 1 layers, and manifest.json lists 0 for it"),
    ],
)
def test_docker_lists_that_are_none(outside: Path, change: Callable[[list[Any]], object], says: str) -> None:
    assert says in refused(outside, _docker(change)).message


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "absent.tar"])
def test_docker_lists_that_name_what_is_not_in_it(outside: Path, name: str) -> None:
    for change in (lambda listed: listed[0].update(Config=name), lambda listed: listed[0].update(Layers=[name])):
        assert "does not have" in refused(outside, _docker(change), NotFound).message


@pytest.mark.parametrize("data", [b"{}", b"5", b"[", b"[" * 100_000])
def test_docker_lists_of_another_shape(outside: Path, data: bytes) -> None:
    refused(outside, tar_of({**docker_files(DOCKER), "manifest.json": data}))


@pytest.mark.parametrize(
    "config",
    [b"[]", b"{}", b'{"rootfs":5}', b'{"rootfs":{"diff_ids":["md5:0"]}}', b'{"rootfs":{"diff_ids":[7]}}', b"x"],
)
def test_docker_configurations_that_are_none(outside: Path, config: bytes) -> None:
    listed = [{"Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}]
    files = {"config.json": config, "layer.tar": LAYER, "manifest.json": json.dumps(listed).encode()}
    refused(outside, tar_of(files))


def test_a_docker_configuration_that_is_not_what_it_is_called(outside: Path) -> None:
    files = docker_files(DOCKER)
    name = f"{sha256(DOCKER.config)}.json"
    files[name] = files[name].replace(b"arm64", b"amd64")
    assert f"'{name}' is damaged" in refused(outside, tar_of(files)).message


def test_a_compressed_layer_with_other_content(outside: Path) -> None:
    image = DockerImage([LAYER], ["a:1"], [gzip.compress(layer_of(b"other"))])
    assert "is damaged: it decompresses to" in refused(outside, tar_of(docker_files(image))).message


def test_a_compressed_layer_that_is_a_bomb(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "expansion_limit", lambda size: 1 << 20)
    layer = layer_of(bytes(5 << 20))
    image = DockerImage([layer], ["a:1"], [zstandard.compress(layer)])
    assert "decompresses to more than 1048576 bytes" in refused(outside, tar_of(docker_files(image))).message


# Law 5

ARCHIVES = {
    "layout": tar_of(layout_files([by_tag("v1", IMAGE), by_full_name("docker.io/library/redis:7", OTHER)])),
    "docker": tar_of(docker_files(DOCKER)),
}
ARCHIVES["zstd"] = zstandard.ZstdCompressor(write_checksum=True).compress(ARCHIVES["layout"])
ARCHIVES["gzip"] = gzip.compress(ARCHIVES["layout"])


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, bytes]:
    """An archive with one byte changed, or cut."""
    kind = draw(st.sampled_from(sorted(ARCHIVES)))
    data = ARCHIVES[kind]
    position = draw(st.integers(0, len(data) - 1))
    if draw(st.booleans()):
        return kind, data[:position]
    return kind, data[:position] + bytes([data[position] ^ draw(st.integers(1, 255))]) + data[position + 1 :]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=spoiled())
def test_a_spoiled_archive_gives_no_wrong_image(tmp_path: Path, case: tuple[str, bytes]) -> None:
    """Law 5. It is refused, or the byte did not matter: every image in it is whole, one of those that were there.

    What no digest covers is what an image is called: a changed byte there is another name for the right image.
    """
    kind, data = case
    (tmp_path / "whole.tar").write_bytes(ARCHIVES[kind])
    (tmp_path / "spoiled.tar").write_bytes(data)
    right = list(everything(tmp_path / "whole.tar").values())
    found: dict[str, dict[str, bytes]] = {}
    with suppress(PierheadError):
        found = everything(tmp_path / "spoiled.tar")
    for content in found.values():
        assert content in right


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=24)), min_size=1, max_size=4),
    kind=st.sampled_from([b"0", b"1", b"2", b"5", b"x", b"g", b"L", b"K", b"7", b"\0", b"S", b"V"]),
    data=st.binary(max_size=40),
)
def test_headers_of_any_kind_are_read_or_refused(
    tmp_path: Path, changes: list[tuple[int, bytes]], kind: bytes, data: bytes
) -> None:
    """Anything may stand in a header whose checksum is right; nothing but an error of ours comes out of it."""
    head = bytearray(member("blobs/x", data, kind=kind, format=tarfile.USTAR_FORMAT))
    for position, change in changes:
        end = min(512, position + len(change))
        head[position:end] = change[: end - position]
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    path = tmp_path / "any.tar"
    path.write_bytes(tar(bytes(head), member("y", b"y")))
    with suppress(InvalidArchive):
        for name in (found := Members(path)):
            blob = found.file(name)
            assert blob is None or blob.offset + blob.size_bytes <= path.stat().st_size
            assert not name.startswith("/")
            assert ".." not in name.split("/")
