"""Images as tar streams: what is in them, that they are always the same, and that others take them."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import program
from images import Image, make_image, make_index
from pierhead.archive import open_archive
from pierhead.archive.writing import FORMATS, Format, Packed, Unwritable, Written, write_archive
from pierhead.body import Blob, Buffer, Write
from pierhead.compression import KINDS, Kind, compressed
from pierhead.memory import MemoryStore
from pierhead.oci import Descriptor, Platform
from pierhead.reference import Digest
from pierhead.store import ContentMismatch, NotFound, RepositoryName, Source
from pierhead.tree import Tree, read_tree
from real import RUN_SECONDS, Containerd, clean_environment, skopeo
from referring import artifact, cosign, cosign_tag
from stocked import stock

PAUSE, APP, MULTI = "docker.io/rancher/pause:3.6", "reg.example:5000/team/app:v2", "docker.io/library/multi:1"
ONE = make_image(layers=[1000, 20])
OTHER = make_image(layers=[1000, 30])  # the first layer is the same
SEVERAL = make_image(layers=[1000], platforms=["linux/arm64", "linux/amd64"])


def packed(image: Image, name: str = PAUSE, platforms: Sequence[Platform] = ()) -> Packed:
    store = MemoryStore()
    top = stock(store, image)
    repository = store.repository(RepositoryName("team/app"))
    return Packed(name, repository, read_tree(repository.manifest, top, platforms))


def write(format: Format, *images: Packed) -> bytes:
    out = io.BytesIO()
    written = write_archive(images, out.write, format)
    assert written.size_bytes == len(out.getvalue())
    return out.getvalue()


def read(archive: bytes) -> dict[str, bytes | None]:
    """Every member in order, with what is in it; folders hold None."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
        assert len({member.name for member in members}) == len(members)
        files = ((member, tar.extractfile(member)) for member in members)
        return {member.name: file.read() if file else None for member, file in files}


def value(members: Mapping[str, bytes | None], name: str) -> Any:
    data = members[name]
    assert data is not None
    return json.loads(data)


def blobs(image: Image) -> dict[str, bytes]:
    return {f"blobs/{digest.replace(':', '/')}": data for digest, data in image.blobs.items()}


# ── what is in it ────────────────────────────────────────────────────────────────────────────────────────────────


def test_k3s_airgap_is_a_layout_with_full_names_and_dockers_list_beside_it() -> None:
    members = read(write("k3s-airgap", packed(ONE), packed(OTHER, APP)))
    assert list(members)[:5] == ["oci-layout", "index.json", "manifest.json", "blobs", "blobs/sha256"]
    assert dict(list(members.items())[5:]) == {**blobs(ONE), **blobs(OTHER)}
    assert value(members, "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    assert value(members, "index.json")["manifests"] == [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.digest,
            "size": len(image.blobs[image.digest]),
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
        }
        for image, name, tag in ((ONE, PAUSE, "3.6"), (OTHER, APP, "v2"))
    ]
    assert value(members, "manifest.json") == [
        {
            "Config": f"blobs/{image.manifest['config']['digest'].replace(':', '/')}",
            "RepoTags": [name],
            "Layers": [f"blobs/{layer['digest'].replace(':', '/')}" for layer in image.manifest["layers"]],
        }
        for image, name in ((ONE, PAUSE), (OTHER, APP))
    ]


def test_oci_archive_has_the_full_name_where_skopeo_looks() -> None:
    members = read(write("oci-archive", packed(ONE), packed(OTHER, "")))
    assert "manifest.json" not in members
    named = {entry["digest"]: entry.get("annotations") for entry in value(members, "index.json")["manifests"]}
    both = {"io.containerd.image.name": PAUSE, "org.opencontainers.image.ref.name": PAUSE}
    assert named == {ONE.digest: both, OTHER.digest: None}


def test_docker_archive_has_the_layers_as_they_are() -> None:
    members = read(write("docker-archive", packed(ONE)))
    config, layers = ONE.manifest["config"], ONE.manifest["layers"]
    named = {
        f"{config['digest'][7:]}.json": ONE.blobs[config["digest"]],
        **{f"{layer['digest'][7:]}.tar": ONE.blobs[layer["digest"]] for layer in layers},
    }
    (entry,) = value(members, "manifest.json")
    assert entry == {"Config": next(iter(named)), "RepoTags": [PAUSE], "Layers": list(named)[1:]}
    assert members == {"manifest.json": members["manifest.json"], **named}


def with_referrers(image: Packed, *named: tuple[str, Image]) -> Packed:
    return replace(image, referrers=tuple(packed(artifact, name) for name, artifact in named))


SIGNATURE, SIGNED = artifact(ONE), cosign("it")
TAG = cosign_tag(ONE.digest)


@pytest.mark.parametrize(
    ("format", "key"), [("k3s-airgap", "io.pierhead.tag"), ("oci-archive", "org.opencontainers.image.ref.name")]
)
def test_what_refers_to_an_image_stands_behind_all_images(format: Format, key: str) -> None:
    image, other = with_referrers(packed(ONE), (TAG, SIGNED), ("", SIGNATURE)), packed(OTHER, APP)
    data = write(format, other, image)
    members, plain = read(data), read(write(format, packed(ONE), other))
    entries = value(members, "index.json")["manifests"]
    assert entries[:2] == value(plain, "index.json")["manifests"]
    assert [(entry["digest"], entry.get("annotations")) for entry in entries[2:]] == [
        (SIGNATURE.digest, None),
        (SIGNED.digest, {key: TAG}),
    ]
    assert members.get("manifest.json") == plain.get("manifest.json")  # for docker there is nothing of it
    content = {name: data for name, data in members.items() if name.startswith("blobs/sha256/")}
    assert content == {**blobs(ONE), **blobs(OTHER), **blobs(SIGNATURE), **blobs(SIGNED)}
    turned = replace(image, referrers=image.referrers[::-1])
    again = with_referrers(packed(ONE, "docker.io/rancher/same:1"), (TAG, SIGNED))
    assert write(format, turned, other, image) == data
    assert value(read(write(format, image, other, again)), "index.json")["manifests"][-2:] == entries[-2:]


def test_containerd_makes_images_of_nothing_but_images() -> None:
    """As it names them without a translator of names, which is how K3s imports (client/import.go: imageName)."""
    image = with_referrers(packed(ONE), (TAG, SIGNED), ("", SIGNATURE))
    entries = value(read(write("k3s-airgap", image)), "index.json")["manifests"]
    keys = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    named = [next(filter(None, (entry.get("annotations", {}).get(key) for key in keys)), "") for entry in entries]
    assert named == [PAUSE, "", ""]


@pytest.mark.parametrize("format", ["k3s-airgap", "oci-archive"])
def test_what_is_written_beside_an_image_is_read_as_that(format: Format, tmp_path: Path) -> None:
    image = with_referrers(packed(ONE), (TAG, SIGNED), ("", SIGNATURE))
    (tmp_path / "a.tar").write_bytes(write(format, image, packed(OTHER, APP)))
    with open_archive(tmp_path / "a.tar") as archive:
        assert [image.name for image in archive.images] == [PAUSE, APP]
        found = archive.referrers([Digest.parse(ONE.digest)])
        assert {(str(item.descriptor.digest), item.tag) for item in found} == {
            (SIGNATURE.digest, ""),
            (SIGNED.digest, TAG),
        }
        for item in (SIGNED, SIGNATURE):
            assert archive.content.manifest(Descriptor.from_json(item.descriptor)) == item.blobs[item.digest]


def test_there_is_no_place_for_it_in_a_docker_archive() -> None:
    with pytest.raises(Unwritable, match="holds images alone"):
        write("docker-archive", with_referrers(packed(ONE), ("", SIGNATURE)))


def test_one_tag_for_two_signatures_is_refused() -> None:
    """The same image out of two registries, signed differently in each."""
    images = [with_referrers(packed(ONE, name), (TAG, cosign(name))) for name in (PAUSE, APP)]
    with pytest.raises(Unwritable, match="stands for two"):
        write("k3s-airgap", *images)


def test_what_is_small_comes_before_the_layers() -> None:
    for format in FORMATS:
        names = list(read(write(format, packed(ONE), packed(OTHER, APP))))
        layers = {layer["digest"][7:] for image in (ONE, OTHER) for layer in image.manifest["layers"]}
        is_layer = [any(layer in name for layer in layers) for name in names]
        assert sum(is_layer) == 3  # one is of both images, and there once
        assert is_layer == sorted(is_layer)


def test_no_time_owner_or_mode_is_anybodys() -> None:
    with tarfile.open(fileobj=io.BytesIO(write("k3s-airgap", packed(ONE)))) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
            assert member.mode == (0o755 if member.isdir() else 0o644)


def test_several_platforms_are_an_index_and_docker_gets_one_of_them() -> None:
    members = read(write("k3s-airgap", packed(SEVERAL, MULTI)))
    assert value(members, "index.json")["manifests"][0]["digest"] == SEVERAL.digest
    assert set(blobs(SEVERAL)) <= set(members)
    (entry,) = value(members, "manifest.json")
    amd64 = next(item for item in SEVERAL.manifest["manifests"] if item["platform"]["architecture"] == "amd64")
    config = json.loads(SEVERAL.blobs[amd64["digest"]])["config"]["digest"]
    assert entry["Config"] == f"blobs/{config.replace(':', '/')}"


def test_of_some_platforms_there_is_the_index_and_what_was_chosen() -> None:
    three = make_image(layers=[10], platforms=["linux/arm64", "linux/amd64", "linux/riscv64"])
    chosen = packed(three, MULTI, [Platform("linux", "arm64"), Platform("linux", "riscv64")])
    members = read(write("k3s-airgap", chosen))
    left_out = next(item for item in three.manifest["manifests"] if item["platform"]["architecture"] == "amd64")
    assert f"blobs/{three.digest.replace(':', '/')}" in members
    assert f"blobs/{left_out['digest'].replace(':', '/')}" not in members
    assert len(value(members, "manifest.json")) == 1


def test_an_image_with_two_names_is_there_once() -> None:
    for format in FORMATS:
        members = read(write(format, packed(ONE), packed(ONE, APP)))
        if format != "oci-archive":
            (entry,) = value(members, "manifest.json")
            assert entry["RepoTags"] == [PAUSE, APP]
        if format != "docker-archive":
            assert len(value(members, "index.json")["manifests"]) == 2


def test_an_image_by_digest_has_no_name_for_docker() -> None:
    (entry,) = value(
        read(write("docker-archive", packed(ONE, f"docker.io/rancher/pause@{ONE.digest}"))), "manifest.json"
    )
    assert entry["RepoTags"] is None


def test_an_attestation_is_no_image_to_run() -> None:
    attested = make_index(ONE, replace(OTHER, descriptor={**OTHER.descriptor, "platform": UNKNOWN}))
    (entry,) = value(read(write("docker-archive", packed(attested))), "manifest.json")
    assert entry["Config"] == f"{ONE.manifest['config']['digest'][7:]}.json"


UNKNOWN = {"os": "unknown", "architecture": "unknown"}


def test_of_no_images_there_is_an_empty_archive() -> None:
    assert value(read(write("oci-archive")), "index.json")["manifests"] == []
    assert value(read(write("docker-archive")), "manifest.json") == []


# ── what is refused before anything is written ───────────────────────────────────────────────────────────────────


def refused(format: Format, *images: Packed) -> Unwritable:
    out = io.BytesIO()
    with pytest.raises(Unwritable) as error:
        write_archive(images, out.write, format)
    assert not out.getvalue()
    return error.value


@pytest.mark.parametrize("name", ["", f"docker.io/rancher/pause@{ONE.digest}"])
def test_k3s_imports_no_image_without_a_tag(name: str) -> None:
    error = refused("k3s-airgap", packed(OTHER, APP), packed(ONE, name))
    assert "has no tag, and K3s imports no such image" in error.message


def test_docker_has_one_platform_for_each_name() -> None:
    error = refused("docker-archive", packed(SEVERAL, MULTI))
    assert error.message == f"{MULTI} is of several platforms, and docker-archive holds one for each name"
    assert error.hint == "choose one with --platform: linux/arm64, linux/amd64"


def test_docker_has_no_artifacts() -> None:
    raw = json.loads(ONE.blobs[ONE.digest])
    raw["config"]["mediaType"] = "application/vnd.dev.cosign.artifact.sig.v1+json"
    data = json.dumps(raw).encode()
    digest = str(Digest.of(data))
    described = {"mediaType": raw["mediaType"], "digest": digest, "size": len(data)}
    artifact = Image(described, {**ONE.blobs, digest: data})
    error = refused("docker-archive", packed(artifact, APP))
    assert error.message == f"{APP} is no container image, and docker-archive holds nothing else"
    assert value(read(write("k3s-airgap", packed(artifact, APP))), "manifest.json") == []


def test_a_name_stands_for_one_image() -> None:
    assert refused("oci-archive", packed(ONE), packed(OTHER)).message == f"{PAUSE} stands for two images here"


# ── the same images, the same bytes ──────────────────────────────────────────────────────────────────────────────

content = st.one_of(st.integers(0, 300), st.binary(max_size=30))
singles = st.builds(
    make_image, layers=st.lists(content, min_size=1, max_size=3), media=st.sampled_from(["oci", "docker"])
)
choices = st.builds(
    make_image,
    layers=st.lists(content, max_size=2),
    platforms=st.lists(st.sampled_from(["linux/amd64", "linux/arm64", "linux/arm/v7"]), min_size=1, unique=True),
)
names = st.sampled_from([PAUSE, APP, MULTI, "localhost/a:b", "docker.io/rancher/pause:3.7"])
collections = st.dictionaries(names, st.one_of(singles, choices), max_size=4)


@settings(deadline=None, max_examples=40)
@given(
    images=collections,
    format=st.sampled_from(["k3s-airgap", "oci-archive"]),
    kind=st.sampled_from(["none", "zstd", "gzip"]),
    data=st.data(),
)
def test_what_is_read_back_is_what_was_written_in_whatever_order(
    images: dict[str, Image], format: Format, kind: Kind, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(list(images.items())))
    archive = write(format, *(packed(image, name) for name, image in images.items()))
    assert archive == write(format, *(packed(image, name) for name, image in shuffled))
    out = io.BytesIO()
    with compressed(out.write, kind) as sink:
        sink(archive)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "archive")
        path.write_bytes(out.getvalue())
        with open_archive(path) as opened:
            found = {image.name: image.descriptor for image in opened.images}
            assert {name: str(top.digest) for name, top in found.items()} == {
                name: image.digest for name, image in images.items()
            }
            for name, top in found.items():
                assert contents(opened.content, read_tree(opened.content.manifest, top)) == dict(images[name].blobs)


@settings(deadline=None, max_examples=20)
@given(images=st.dictionaries(names, singles, min_size=1, max_size=4))
def test_docker_archives_are_read_back_with_their_names(images: dict[str, Image]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "archive.tar")
        path.write_bytes(write("docker-archive", *(packed(image, name) for name, image in images.items())))
        with open_archive(path) as opened:
            for name, image in images.items():
                tree = read_tree(opened.content.manifest, opened.find(name).descriptor)
                found = contents(opened.content, tree)
                # The manifest is made anew by whoever reads it: configuration and layers are the same bytes.
                assert image.blobs[image.manifest["config"]["digest"]] in found.values()


def contents(source: Source, tree: Tree) -> dict[str, bytes]:
    found = {str(digest): raw for digest, (_, raw) in tree.manifests.items()}
    for descriptor in tree.blobs.values():
        out = io.BytesIO()
        source.blob(descriptor).copy_to(out.write)
        found[str(descriptor.digest)] = out.getvalue()
    return found


# ── wrong bytes, and many ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Altered:
    """A source whose blobs are something else (`store.Source`)."""

    source: Source
    bodies: Mapping[Digest, Blob]

    def resolve(self, reference: str) -> Descriptor:
        return self.source.resolve(reference)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.source.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return self.bodies.get(descriptor.digest) or self.source.blob(descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return False


class Said:
    """A body in pieces that says where it was let go of."""

    def __init__(self, *pieces: bytes, times: int = 1) -> None:
        self.pieces, self.times, self.closed = pieces, times, False
        self.size_bytes = None

    def copy_to(self, write: Write, offset: int = 0) -> int:
        for _ in range(self.times):
            for piece in self.pieces:
                write(piece)
        return self.times * sum(map(len, self.pieces))

    def close(self) -> None:
        self.closed = True


LARGE = make_image(layers=[4_000_000], compression="none")


@settings(deadline=None, max_examples=30)
@given(data=st.data(), image=st.sampled_from([ONE, LARGE]))
def test_any_change_of_a_blob_is_an_error(data: st.DataObject, image: Image) -> None:
    digest = data.draw(st.sampled_from(sorted(set(image.blobs) - {image.digest})))
    right = image.blobs[digest]
    position = data.draw(st.integers(0, len(right) - 1))
    wrong = data.draw(
        st.sampled_from(
            [
                right[:position] + bytes([right[position] ^ 1]) + right[position + 1 :],
                right[:position],
                right + b"\0",
            ]
        )
    )
    image_packed = packed(image)
    body = Said(wrong)
    source = Altered(image_packed.source, {Digest.parse(digest): body})
    for format in FORMATS:
        with pytest.raises(ContentMismatch, match=f"{digest} is not what its manifest says"):
            write_archive([replace(image_packed, source=source)], lambda _: None, format)
    assert body.closed


def test_never_more_bytes_are_written_than_a_blob_has() -> None:
    image = packed(ONE)
    config = Digest.parse(ONE.manifest["config"]["digest"])
    endless = Said(bytes(100_000), times=1_000_000)
    written: list[int] = []

    def count(data: Buffer) -> None:
        written.append(len(data))

    with pytest.raises(ContentMismatch, match="more than"):
        write_archive([replace(image, source=Altered(image.source, {config: endless}))], count, "oci-archive")
    assert sum(written) < 20_000


def test_manifests_that_disagree_on_a_size_are_refused() -> None:
    raw = json.loads(ONE.blobs[ONE.digest])
    raw["layers"][0]["size"] += 1
    data = json.dumps(raw).encode()
    image = packed(ONE)
    lying = Descriptor(raw["mediaType"], Digest.of(data), len(data))
    tree = read_tree(lambda _: data, lying)
    for format in FORMATS:
        with pytest.raises(ContentMismatch, match="bytes in one manifest"):
            write_archive([image, Packed(APP, image.source, tree)], lambda _: None, format)


def test_what_a_source_raises_comes_out() -> None:
    image = packed(ONE)
    empty = MemoryStore().repository(RepositoryName("team/app"))
    with pytest.raises(NotFound):
        write_archive([replace(image, source=empty)], lambda _: None, "k3s-airgap")


def test_memory_does_not_grow_with_a_blob() -> None:
    piece, times = bytes(1024 * 1024), 48
    hashed = Digest.of(b"").new_hash()
    for _ in range(times):
        hashed.update(piece)
    layer = Digest("sha256", hashed.hexdigest())
    image = _with_layer(layer, len(piece) * times, Said(piece, times=times))
    tracemalloc.start()
    try:
        with compressed(lambda _: None, "zstd", threads=2) as out:
            written: Written = write_archive([image], out, "k3s-airgap")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written.blob_bytes > times * len(piece)
    assert peak < 24 * 1024 * 1024


def test_a_blob_that_ustar_has_no_room_for_has_a_pax_header() -> None:
    size = 9 * 1024**3
    image = _with_layer(Digest.of(b"large"), size, Said(b"cut short"))
    out = io.BytesIO()
    with pytest.raises(ContentMismatch, match=f"9 of {size} bytes"):
        write_archive([image], out.write, "k3s-airgap")
    out.seek(0)
    with tarfile.open(fileobj=out, mode="r|") as tar:
        assert next(member.size for member in tar if member.name.endswith(Digest.of(b"large").hex)) == size


def _with_layer(layer: Digest, size: int, body: Blob) -> Packed:
    """An image of one layer, which is nowhere but in `body`."""
    raw = json.loads(ONE.blobs[ONE.digest])
    raw["layers"] = [{**raw["layers"][0], "digest": str(layer), "size": size}]
    data = json.dumps(raw).encode()
    tree = read_tree(lambda _: data, Descriptor(raw["mediaType"], Digest.of(data), len(data)))
    return Packed(PAUSE, Altered(packed(ONE).source, {layer: body}), tree)


# ── other programs ───────────────────────────────────────────────────────────────────────────────────────────────


def file_of(folder: Path, format: Format, kind: Kind, *images: Packed) -> Path:
    path = folder / f"{format}.{kind}"
    with path.open("wb") as file, compressed(file.write, kind) as out:
        write_archive(images, out, format)
    return path


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("kind", KINDS)
def test_skopeo_reads_every_format(tmp_path: Path, kind: Kind) -> None:
    images = packed(ONE), packed(OTHER, APP)
    archive = file_of(tmp_path, "oci-archive", kind, *images)
    for name, image in ((PAUSE, ONE), (APP, OTHER)):
        layout = tmp_path / f"layout-{image.digest[7:17]}"
        skopeo(
            "copy", "--quiet", "--preserve-digests", f"oci-archive:{archive}:{name}", f"oci:{layout}:x", home=tmp_path
        )
        assert json.loads((layout / "index.json").read_text())["manifests"][0]["digest"] == image.digest
    # skopeo 1.9 takes no docker-archive that is gzipped, of its own making neither.
    for format in ("docker-archive", "k3s-airgap") if kind != "gzip" else ():
        archive = file_of(tmp_path, format, kind, *images)
        said = json.loads(skopeo("inspect", f"docker-archive:{archive}:{APP}", home=tmp_path))
        assert said["Name"] == "reg.example:5000/team/app"
        diff_ids = json.loads(OTHER.blobs[OTHER.manifest["config"]["digest"]])["rootfs"]["diff_ids"]
        assert said["Layers"] == diff_ids  # it decompressed the layers to know


@pytest.mark.real("podman")
def test_podman_loads_it_under_its_name(tmp_path: Path) -> None:
    path = program("podman")
    assert path is not None
    settings_folder = tmp_path / ".config/containers"
    settings_folder.mkdir(parents=True)
    (settings_folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    with tempfile.TemporaryDirectory(prefix="podman-") as run:  # podman wants its path to be short
        state = ["--root", str(tmp_path / "root"), "--runroot", run, "--tmpdir", f"{run}/libpod"]

        def podman(*arguments: str | Path) -> str:
            command = [path, *state, "--storage-driver", "vfs", *map(str, arguments)]
            environment = clean_environment(tmp_path, XDG_RUNTIME_DIR=str(tmp_path))
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=RUN_SECONDS, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        podman("load", "--input", file_of(tmp_path, "docker-archive", "zstd", packed(ONE), packed(OTHER, APP)))
        podman("load", "--input", file_of(tmp_path, "oci-archive", "none", packed(ONE, "docker.io/rancher/pause:oci")))
        listed = podman("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
    ids = {name: image.manifest["config"]["digest"] for name, image in ((PAUSE, ONE), (APP, OTHER))}
    ids["docker.io/rancher/pause:oci"] = ids[PAUSE]
    assert dict(line.split() for line in listed) == ids


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with Containerd(tmp_path_factory.mktemp("containerd")) as running:
        yield running


@pytest.mark.real("containerd", "ctr")
def test_containerd_imports_every_platform_under_the_original_names(tmp_path: Path, containerd: Containerd) -> None:
    schema_2 = make_image(layers=[77], media="docker")
    wanted = {PAUSE: ONE, MULTI: SEVERAL, APP: schema_2}
    images = [packed(image, name) for name, image in wanted.items()]
    containerd.ctr("images", "import", "--all-platforms", file_of(tmp_path, "k3s-airgap", "none", *images))
    found = containerd.images()
    assert {name: found[name] for name in wanted} == {name: image.digest for name, image in wanted.items()}
    checked = [line.split() for line in containerd.ctr("images", "check").splitlines()]
    assert {row[0] for row in checked if "complete" in row} >= set(wanted)


@pytest.mark.real("containerd", "ctr")
def test_containerd_imports_what_was_chosen_of_an_index(tmp_path: Path, containerd: Containerd) -> None:
    """As K3s does, which wants every platform that is there and misses none."""
    three = make_image(layers=[10], platforms=["linux/arm64", "linux/amd64", "linux/riscv64"])
    name = "docker.io/library/sparse:1"
    chosen = packed(three, name, [Platform("linux", "amd64"), Platform("linux", "arm64")])
    containerd.ctr("images", "import", "--no-unpack", file_of(tmp_path, "k3s-airgap", "none", chosen))
    assert containerd.images()[name] == three.digest
