"""`pierhead bundle`: created, served as it lies, put where nodes look, and into K3s' folder of images."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command import names, run_pierhead, serve, serve_bundle, stored, write_registries
from images import Image, make_image
from loadable import archive_of, of_platform
from pierhead.archive import open_archive
from pierhead.archive.store import ArchiveStore
from pierhead.body import FileBlob
from pierhead.errors import UsageError
from pierhead.loading.airgap import CACHE_NAME, CannotPlace, NotNamedTar, place
from pierhead.oci import Descriptor
from pierhead.reference import Digest
from pierhead.server.registry import Registry
from pierhead.store import NotFound, RepositoryName, StoreUnwritable
from pierhead.wire import Headers, Request, Response
from stocked import body_of

APP = make_image(layers=[b"app\n", 9000], platforms=["linux/amd64", "linux/arm64"])
PAUSE = make_image(layers=[b"pause\n"], media="docker")
OTHER = make_image(layers=[b"other\n"])
NAMES = {"docker.io/library/app:v1": APP, "registry.lan:5000/rancher/pause:3.1": PAUSE}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with both images."""
    folder = tmp_path_factory.mktemp("stored")
    run_pierhead("load", archive_of(folder / "a.tar", NAMES), "--root", folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def bundle(root: Path) -> Path:
    file = root.with_name("bundle.tar")
    run_pierhead("bundle", "create", *NAMES, "--platform", "all", "--root", root, "-o", file)
    return file


# ── create ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bundle_is_a_plain_tar_that_is_a_layout(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle, "r:") as archive:
        archive.extractall(tmp_path, filter="data")
    assert json.loads((tmp_path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert (tmp_path / "manifest.json").exists()  # for docker load
    run_pierhead("load", tmp_path, "--root", tmp_path / "store")
    assert names(tmp_path / "store") == {name: image.digest for name, image in NAMES.items()}


def test_the_same_bundle_again(bundle: Path, root: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    run_pierhead("bundle", "create", *reversed(NAMES), "--platform", "all", "--root", root, "-o", again)
    assert again.read_bytes() == bundle.read_bytes()


@pytest.mark.parametrize("name", ["images.tar.zst", "images.TAR", "images", "images.oci"])
def test_a_name_that_k3s_takes_for_something_else_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    ran = run_pierhead("bundle", "create", *NAMES, "--root", root, "-o", tmp_path / name, code=2)
    assert f"a bundle is a plain tar, and the name {name!r} does not end in .tar" in ran.err
    assert not list(tmp_path.iterdir())


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────

Ask = Callable[..., Response]


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Callable[..., Ask]]:
    """Serves an archive of these images without a socket, and gives who asks it."""
    with ExitStack() as opened:

        def start(images: dict[str, Image], **how: list[str]) -> Ask:
            archive = opened.enter_context(open_archive(archive_of(tmp_path / "served.tar", images, **how)))
            registry = Registry(ArchiveStore(archive), read_only=True, strict=True)

            def ask(target: str, method: str = "GET", **headers: str) -> Response:
                fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
                return registry.handle(Request(method, f"http://r.test{target}", Headers(fields)))

            return ask

        yield start


def pulled(ask: Ask, path: str, tag: str, ns: str = "") -> dict[str, bytes]:
    """Everything of an image, as a client gets it."""
    query = f"?ns={ns}" if ns else ""
    top = body_of(ask(f"/v2/{path}/manifests/{tag}{query}"))
    pending, found = [json.loads(top)], {str(Digest.of(top)): top}
    while pending:
        manifest = pending.pop()
        for item in manifest.get("manifests", ()):
            raw = body_of(ask(f"/v2/{path}/manifests/{item['digest']}{query}"))
            found[item["digest"]] = raw
            pending.append(json.loads(raw))
        for item in [manifest["config"], *manifest["layers"]] if "config" in manifest else ():
            found[item["digest"]] = body_of(ask(f"/v2/{path}/blobs/{item['digest']}{query}"))
    return found


def test_every_byte_with_its_registry_and_without(asking: Callable[..., Ask]) -> None:
    ask = asking(NAMES)
    for ns in ("docker.io", ""):
        assert pulled(ask, "library/app", "v1", ns) == dict(APP.blobs)
    for ns in ("registry.lan:5000", ""):
        assert pulled(ask, "rancher/pause", "3.1", ns) == dict(PAUSE.blobs)
    head = ask("/v2/rancher/pause/manifests/3.1", "HEAD")
    assert head.headers.get("content-type") == PAUSE.descriptor["mediaType"]
    assert head.headers.get("docker-content-digest") == PAUSE.digest


def test_what_is_asked_of_another_registry_is_not_there(asking: Callable[..., Ask]) -> None:
    ask = asking(NAMES)
    assert ask("/v2/library/app/manifests/v1?ns=quay.io").status == 404
    assert ask(f"/v2/library/app/manifests/{APP.digest}?ns=quay.io").status == 404
    assert ask("/v2/library/app/manifests/v2?ns=docker.io").status == 404
    assert ask(f"/v2/rancher/pause/manifests/{APP.digest}").status == 404
    layer = PAUSE.manifest["layers"][0]["digest"]
    assert ask(f"/v2/library/app/blobs/{layer}").status == 404


def test_lists_are_those_of_any_registry(asking: Callable[..., Ask]) -> None:
    ask = asking({**NAMES, "docker.io/library/app:v2": OTHER})
    assert json.loads(body_of(ask("/v2/_catalog"))) == {"repositories": ["library/app", "rancher/pause"]}
    assert json.loads(body_of(ask("/v2/_catalog?ns=docker.io"))) == {"repositories": ["library/app"]}
    assert json.loads(body_of(ask("/v2/library/app/tags/list")))["tags"] == ["v1", "v2"]
    assert json.loads(body_of(ask("/v2/library/app/tags/list?n=1&ns=docker.io")))["tags"] == ["v1"]
    assert ask("/v2/none/tags/list").status == 404


def test_one_path_in_two_registries(asking: Callable[..., Ask], tmp_path: Path) -> None:
    images = {"docker.io/team/app:1": APP, "quay.io/team/app:1": OTHER, "quay.io/team/app:2": OTHER}
    ask = asking(images)
    assert pulled(ask, "team/app", "1", "docker.io") == dict(APP.blobs)
    assert pulled(ask, "team/app", "1", "quay.io") == dict(OTHER.blobs)
    assert ask("/v2/team/app/manifests/1").status == 404
    assert pulled(ask, "team/app", "2") == dict(OTHER.blobs)
    assert pulled(ask, "team/app", APP.digest) == dict(APP.blobs)
    with open_archive(tmp_path / "served.tar") as archive:
        assert [problem.id for problem in ArchiveStore(archive).problems] == ["ambiguous-name"]


def test_images_that_cannot_be_served_are_told(tmp_path: Path) -> None:
    layer = PAUSE.manifest["layers"][0]["digest"]
    file = archive_of(tmp_path / "a.tar", {**NAMES, "v7": OTHER}, without=[layer])
    with open_archive(file) as archive:
        store = ArchiveStore(archive)
    assert [problem.id for problem in store.problems] == ["unusable-image", "unnamed-image"]
    assert [str(name) for name in store.names()] == ["docker.io/library/app:v1"]
    nothing = archive_of(tmp_path / "b.tar", {"v7": OTHER})
    assert "no image that can be served" in run_pierhead("bundle", "serve", nothing, code=1).err


def test_platforms_that_are_not_there_are_not_found(asking: Callable[..., Ask]) -> None:
    absent = of_platform(APP, "linux/arm64")
    ask = asking({"docker.io/library/app:v1": APP}, without=[absent])
    assert body_of(ask("/v2/library/app/manifests/v1")) == APP.blobs[APP.digest]
    assert ask(f"/v2/library/app/manifests/{absent}").status == 404
    assert ask(f"/v2/library/app/manifests/{of_platform(APP, 'linux/amd64')}").status == 200


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/v2/library/app/manifests/v2"),
        ("DELETE", "/v2/library/app/manifests/v1"),
        ("POST", "/v2/library/app/blobs/uploads/"),
        ("POST", "/v2/new/blobs/uploads/"),
    ],
)
def test_nothing_can_be_pushed(asking: Callable[..., Ask], method: str, target: str) -> None:
    assert asking(NAMES)(target, method).status == 405


def test_who_would_write_is_refused(tmp_path: Path) -> None:
    with open_archive(archive_of(tmp_path / "a.tar", NAMES)) as archive:
        repository = ArchiveStore(archive).repository(RepositoryName("library/app"))
        top = repository.resolve("v1")
        writes: list[Callable[[], object]] = [
            lambda: repository.upload(top),
            repository.begin,
            lambda: repository.session("1"),
            lambda: repository.mount(top, repository.name),
            lambda: repository.put_manifest(b"", ""),
            lambda: repository.tag("v2", top),
            lambda: repository.untag("v1"),
            lambda: repository.delete(top),
        ]
        for write in writes:
            with pytest.raises(StoreUnwritable):
                write()
        assert repository.has(top)
        assert not repository.has(Descriptor(top.media_type, top.digest, 1))
        with pytest.raises(NotFound):
            repository.manifest(Descriptor.from_json(PAUSE.descriptor))


def test_referrers_of_what_is_in_it(asking: Callable[..., Ask]) -> None:
    subject = {key: OTHER.descriptor[key] for key in ("mediaType", "digest", "size")}
    raw = json.dumps({**PAUSE.manifest, "subject": subject, "artifactType": "application/x"}).encode()
    digest = str(Digest.of(raw))
    signature = Image(
        {"mediaType": PAUSE.descriptor["mediaType"], "digest": digest, "size": len(raw)}, {**PAUSE.blobs, digest: raw}
    )
    ask = asking({"docker.io/team/app:1": OTHER, "docker.io/team/app:sha256-1.sig": signature})
    listed = json.loads(body_of(ask(f"/v2/team/app/referrers/{OTHER.digest}")))["manifests"]
    assert [item["digest"] for item in listed] == [digest]
    assert not json.loads(body_of(ask(f"/v2/team/app/referrers/{OTHER.digest}?artifactType=y")))["manifests"]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 8999), max_size=4, unique=True))
def test_ranges_of_a_blob_inside_the_tar_are_the_whole(bundle: Path, cuts: list[int]) -> None:
    layer = max((item for item in APP.blobs.values()), key=len)
    digest = str(Digest.of(layer))
    with open_archive(bundle) as archive:
        registry = Registry(ArchiveStore(archive), read_only=True, strict=True)
        edges = [0, *sorted(cuts), len(layer)]
        got = b""
        for start, end in pairwise(edges):
            headers = Headers({"Range": f"bytes={start}-{end - 1}"})
            answer = registry.handle(Request("GET", f"http://r.test/v2/library/app/blobs/{digest}", headers))
            assert answer.status == 206
            assert isinstance(answer.body, FileBlob)  # straight from the tar, for the kernel to send
            assert answer.body.path == bundle
            got += body_of(answer)
    assert got == layer


def test_a_served_bundle_is_pulled_from(bundle: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle.parent.iterdir() if path.suffix == ".tar"}
    with serve_bundle(bundle) as served:
        file = write_registries(tmp_path, f'mirrors: {{"*": {{"endpoint": ["{served.url}"]}}}}')
        run_pierhead(
            "pull",
            *NAMES,
            "--platform",
            "all",
            "--private-registry",
            file,
            "--root",
            tmp_path / "store",
            "--disable-default-registry-endpoint",
        )
    assert stored(tmp_path / "store") == {**APP.blobs, **PAUSE.blobs}
    assert {path: path.stat().st_mtime_ns for path in bundle.parent.iterdir() if path.suffix == ".tar"} == before


def test_a_compressed_archive_and_a_folder_are_served_too(bundle: Path, tmp_path: Path) -> None:
    packed = tmp_path / "bundle.tar.gz"
    packed.write_bytes(gzip.compress(bundle.read_bytes(), 1))
    folder = PAUSE.write_layout(tmp_path / "layout", "registry.lan:5000/rancher/pause:3.1")
    for number, file in enumerate((packed, folder)):
        with serve_bundle(file) as served:
            registries = write_registries(
                tmp_path, f'mirrors: {{"registry.lan:5000": {{"endpoint": ["{served.url}"]}}}}'
            )
            root = tmp_path / f"store-{number}"
            run_pierhead(
                "pull", "registry.lan:5000/rancher/pause:3.1", "--private-registry", registries, "--root", root
            )
            assert stored(root) == dict(PAUSE.blobs)


def test_only_whom_it_may_concern(bundle: Path, tmp_path: Path) -> None:
    ran = run_pierhead(
        "bundle", "serve", bundle, "--htpasswd", tmp_path / "absent", "--listen", "127.0.0.1:0", code=None
    )
    assert ran.code != 0
    assert "absent" in ran.err
    assert "go together" in run_pierhead("bundle", "serve", bundle, "--tls-cert", bundle, code=2).err


# ── apply ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_image_comes_to_where_nodes_look(bundle: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "mirror") as mirror:
        text = f"""\
mirrors:
  docker.io: {{endpoint: ["{mirror.url}"], rewrite: {{"^library/(.*)": "hub/$1"}}}}
  "registry.lan:5000": {{endpoint: ["{mirror.url}"]}}
"""
        file = write_registries(tmp_path, text)
        run_pierhead("bundle", "apply", bundle, "--private-registry", file)
        again = run_pierhead("bundle", "apply", bundle, "--private-registry", file, "-o", "json")
        assert json.loads(again.out)
    assert stored(tmp_path / "mirror") == {**APP.blobs, **PAUSE.blobs}
    assert names(tmp_path / "mirror") == {"hub/app:v1": APP.digest, "rancher/pause:3.1": PAUSE.digest}


def test_an_image_without_a_name_is_told(tmp_path: Path) -> None:
    told = run_pierhead("bundle", "apply", archive_of(tmp_path / "a.tar", {"v7": OTHER}), code=1)
    assert "v7 has no full name" in told.err
    assert "has no image with a full name" in told.err


def test_a_bundle_that_comes_through_a_pipe_cannot_be_read_twice(bundle: Path) -> None:
    ran = run_pierhead("bundle", "apply", "-", prefix=("sh", "-c", f'cat {bundle} | "$0" "$@"'), code=2)
    assert "write what comes into a file first" in ran.err


def test_into_the_folder_of_k3s(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "agent/images"
    ran = run_pierhead("bundle", "apply", bundle, "--images-dir", folder)
    assert ran.out == f"{folder}/bundle.tar  2 images\n"
    assert [path.name for path in folder.iterdir()] == ["bundle.tar"]
    assert (folder / "bundle.tar").read_bytes() == bundle.read_bytes()
    before = (folder / "bundle.tar").stat()
    ran = run_pierhead("bundle", "apply", bundle, "--images-dir", folder, "--cache", "-o", "json")
    assert json.loads(ran.out) == {"path": f"{folder}/bundle.tar", "changed": False, "made_cache": True}
    assert (folder / CACHE_NAME).read_text() == "{}"
    assert (folder / "bundle.tar").stat() == before
    assert "--cache is about" in run_pierhead("bundle", "apply", bundle, "--cache", code=2).err


def test_a_bundle_of_the_same_size_is_one_that_k3s_imports(bundle: Path, tmp_path: Path) -> None:
    """K3s passes over a file whose size it knows, so the new one must have another."""
    folder = tmp_path / "images"
    place(bundle, folder)
    changed = tmp_path / "bundle.tar"
    layer = max(APP.blobs.values(), key=len)
    changed.write_bytes(bundle.read_bytes().replace(layer, layer[::-1]))
    placed = place(changed, folder)
    assert placed.changed
    assert placed.path.stat().st_size == bundle.stat().st_size + 512
    with tarfile.open(placed.path) as ours, tarfile.open(changed) as theirs:
        assert ours.getnames() == theirs.getnames()
    assert not place(changed, folder).changed


def test_a_size_that_k3s_remembers_is_avoided(bundle: Path, tmp_path: Path) -> None:
    size = bundle.stat().st_size
    known = {"/elsewhere/bundle.tar": {"size": size, "modTime": "2026-01-01T00:00:00Z", "images": []}}
    (tmp_path / CACHE_NAME).write_text(json.dumps(known))
    placed = place(bundle, tmp_path, remember=True)
    assert placed.path.stat().st_size == size + 512
    assert not placed.made_cache
    assert json.loads((tmp_path / CACHE_NAME).read_text()) == known


@pytest.mark.parametrize("cache", ["", "[]", "null", "{", '{"bundle.tar": 3}', '{"bundle.tar": {}}'])
def test_any_memory_of_k3s_is_left_alone(bundle: Path, tmp_path: Path, cache: str) -> None:
    (tmp_path / CACHE_NAME).write_text(cache)
    assert place(bundle, tmp_path, remember=True).changed
    assert (tmp_path / CACHE_NAME).read_text() == cache


def test_what_k3s_would_misread_is_not_put_there(bundle: Path, tmp_path: Path) -> None:
    folder, source = tmp_path / "images", tmp_path / "source"
    source.mkdir()
    odd, packed = source / "bundle.oci", source / "bundle.tar"
    odd.write_bytes(bundle.read_bytes())
    packed.write_bytes(gzip.compress(bundle.read_bytes()))
    with pytest.raises(NotNamedTar):
        place(odd, folder)
    with pytest.raises(UsageError, match="no plain tar"):
        place(packed, folder)
    with pytest.raises(CannotPlace):
        place(source / "absent.tar", folder)
    assert not any(path.is_file() for path in folder.rglob("*"))


def test_a_copy_that_breaks_off_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    limited = ("prlimit", f"--fsize={bundle.stat().st_size // 2}")
    ran = run_pierhead("bundle", "apply", bundle, "--images-dir", folder, prefix=limited, code=1)
    assert "cannot put" in ran.err
    assert "free some space" in ran.err
    assert not list(folder.iterdir())
