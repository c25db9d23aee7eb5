"""The other programs at our side: skopeo and containerd read our store, push to our registry and pull from it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Served, assert_sound, names, run_pierhead, serve, stored, write_registries
from images import Image, make_image
from pki import Pki
from real import Containerd, clean_environment, run, skopeo
from uploads import digest_of, put_manifest, upload_blob

USER, PASSWORD = "alice", "s3cret"
APP = make_image(layers=[b"hello", 300_000])
OCI = {
    "oci": APP,
    "zstd": make_image(layers=[0, 300_000], compression="zstd"),
    "uncompressed": make_image(layers=[1000], compression="none"),
    "index": make_image(layers=[2000], platforms=["linux/amd64", "linux/arm64"]),
}
DOCKER = {
    "docker": make_image(layers=[b"hello", 50_000], media="docker"),
    "list": make_image(media="docker", platforms=["linux/amd64", "linux/arm64"]),
}
EVERY = OCI | DOCKER


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Our registry, over plain http, with every image pushed to it by skopeo."""
    folder = tmp_path_factory.mktemp("ours")
    with serve(folder / "store") as registry:
        for kind, image in EVERY.items():
            source = f"dir:{image.write_dir(folder / kind)}"
            copy(source, f"docker://{registry.address}/kinds/{kind}:v1", "--dest-tls-verify=false", home=folder)
        yield registry


def copy(source: str, target: str, *options: str, home: Path) -> None:
    """skopeo copy of everything, as it is."""
    skopeo("copy", "--quiet", "--all", "--preserve-digests", *options, source, target, home=home)


def in_dir(folder: Path) -> dict[str, bytes]:
    """The content of skopeo's `dir:`, by digest; each file hashed, whatever it is called."""
    contents = [path.read_bytes() for path in folder.iterdir() if path.name != "version"]
    return {f"sha256:{hashlib.sha256(data).hexdigest()}": data for data in contents}


@pytest.fixture(scope="module")
def pulled(ours: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all of them, pulled through a mirror in one command."""
    folder = tmp_path_factory.mktemp("pulled")
    file = write_registries(folder, f'mirrors: {{"quay.io": {{"endpoint": ["{ours.url}"]}}}}')
    images = [f"quay.io/kinds/{kind}:v1" for kind in EVERY]
    run_pierhead("pull", "--private-registry", file, "--platform", "all", "--root", folder / "store", *images)
    return folder / "store"


# ── our store ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_store_has_every_byte_that_was_pushed(pulled: Path) -> None:
    assert names(pulled) == {f"quay.io/kinds/{kind}:v1": image.digest for kind, image in EVERY.items()}
    assert stored(pulled) == {digest: data for image in EVERY.values() for digest, data in image.blobs.items()}
    assert_sound(pulled)
    listed = run_pierhead("images", "-o", "json", "--root", pulled).images
    assert {image["name"]: image["digest"] for image in listed} == names(pulled)


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("kind", OCI)
def test_skopeo_reads_our_store(pulled: Path, tmp_path: Path, kind: str) -> None:
    image, source = OCI[kind], f"oci:{pulled}:quay.io/kinds/{kind}:v1"
    assert skopeo("inspect", "--raw", source, home=tmp_path).encode() == image.blobs[image.digest]
    copy(source, f"dir:{tmp_path / 'copied'}", home=tmp_path)
    assert in_dir(tmp_path / "copied") == image.blobs


@pytest.mark.real("skopeo")
def test_skopeo_reads_the_platforms_that_were_chosen(ours: Served, tmp_path: Path) -> None:
    name, root = f"{ours.address}/kinds/index:v1", tmp_path / "store"
    run_pierhead("pull", "--platform", "linux/arm64", "--root", root, name)
    choice = ("--override-os", "linux", "--override-arch", "arm64")
    skopeo(*choice, "copy", "--quiet", f"oci:{root}:{name}", f"dir:{tmp_path / 'copied'}", home=tmp_path)
    arm64 = next(item for item in OCI["index"].manifest["manifests"] if item["platform"]["architecture"] == "arm64")
    raw = (tmp_path / "copied" / "manifest.json").read_bytes()
    assert raw == OCI["index"].blobs[arm64["digest"]]
    assert in_dir(tmp_path / "copied").keys() < stored(root).keys()


@pytest.mark.real("skopeo")
def test_what_skopeo_adds_to_our_store_stays(ours: Served, tmp_path: Path) -> None:
    name, root = f"{ours.address}/kinds/oci:v1", tmp_path / "store"
    run_pierhead("pull", "--root", root, name)
    other = make_image(layers=[b"by skopeo"])
    copy(f"dir:{other.write_dir(tmp_path / 'other')}", f"oci:{root}:other", home=tmp_path)
    run_pierhead("pull", "--root", root, f"{ours.address}/kinds/zstd:v1")
    run_pierhead("gc", "--root", root)
    assert names(root)["other"] == other.digest
    assert stored(root).items() >= other.blobs.items()
    assert skopeo("inspect", "--raw", f"oci:{root}:{name}", home=tmp_path).encode() == APP.blobs[APP.digest]
    assert_sound(root)


@pytest.mark.real("containerd", "ctr")
def test_containerd_imports_our_store(pulled: Path, ours: Served, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    run_pierhead("pull", "--platform", "linux/amd64", "--root", sparse, f"{ours.address}/kinds/list:v1")
    with Containerd(tmp_path / "containerd") as containerd:
        for root in (pulled, sparse):
            archive = tmp_path / f"{root.name}.tar"
            parts = ("oci-layout", "index.json", "blobs")
            subprocess.run(["tar", "-C", str(root), "-cf", str(archive), *parts], check=True, timeout=60)
            containerd.ctr("images", "import", "--digests", archive)
        assert containerd.images().items() >= {**names(pulled), **names(sparse)}.items()
        for kind in ("oci", "docker", "zstd"):
            mounted = tmp_path / kind
            mounted.mkdir()
            containerd.ctr("images", "mount", f"quay.io/kinds/{kind}:v1", mounted)
            try:
                assert (mounted / "layer-1").stat().st_size == {"docker": 50_000}.get(kind, 300_000)
            finally:
                containerd.ctr("images", "unmount", mounted)


# ── our registry ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("kind", EVERY)
def test_skopeo_gets_back_what_it_pushed(ours: Served, tmp_path: Path, kind: str) -> None:
    copy(
        f"docker://{ours.address}/kinds/{kind}:v1", f"dir:{tmp_path / 'back'}", "--src-tls-verify=false", home=tmp_path
    )
    assert in_dir(tmp_path / "back") == EVERY[kind].blobs


@pytest.mark.real("skopeo", "htpasswd")
def test_skopeo_logs_in_to_our_registry(tmp_path: Path, pki: Pki) -> None:
    users = tmp_path / "htpasswd"
    run(("htpasswd", "-cbB", "-C", "5", users, USER, PASSWORD), clean_environment(tmp_path))
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(Path(pki.ca).read_bytes())
    tls = ("--tls-cert", pki.server.cert, "--tls-key", pki.server.key)
    source = f"dir:{APP.write_dir(tmp_path / 'made')}"
    with serve(tmp_path / "store", *tls, "--htpasswd", users) as registry:
        target = f"docker://{registry.address}/team/app:v1"
        trust = ("--dest-cert-dir", str(certificates))
        with pytest.raises(AssertionError, match=r"unauthorized|authentication required"):
            copy(source, target, *trust, "--dest-creds", f"{USER}:wrong", home=tmp_path)
        copy(source, target, *trust, "--dest-creds", f"{USER}:{PASSWORD}", home=tmp_path)
        login = ("login", "--cert-dir", certificates, "--authfile", tmp_path / "auth.json")
        skopeo(*login, "--username", USER, "--password", PASSWORD, registry.address, home=tmp_path)
        reading = ("--src-cert-dir", str(certificates), "--src-authfile", str(tmp_path / "auth.json"))
        copy(target, f"dir:{tmp_path / 'back'}", *reading, home=tmp_path)
        assert in_dir(tmp_path / "back") == APP.blobs
        name, env = f"{registry.address}/team/app:v1", {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
        run_pierhead("pull", "--ca-file", pki.ca, "--root", tmp_path / "ours", name, env=env)
        assert stored(tmp_path / "ours") == APP.blobs
    assert PASSWORD not in registry.log.read_text()


def test_our_registry_wants_client_certificates(tmp_path: Path, pki: Pki) -> None:
    tls = ("--tls-cert", pki.server.cert, "--tls-key", pki.server.key, "--client-ca", pki.ca)
    with serve(tmp_path / "store", *tls) as registry:
        name = f"{registry.address}/team/app:v1"
        client = ("--ca-file", pki.ca, "--cert-file", pki.client.cert, "--key-file", pki.client.key)
        run_pierhead("pull", *client, "--root", tmp_path / "ours", name, code=3)
        ran = run_pierhead("pull", *client[:2], "--root", tmp_path / "ours", name, code=5)
        assert "client certificate" in ran.err


def sha512(image: Image) -> tuple[dict[str, bytes], str, bytes]:
    """The blobs of a simple image under sha512 digests; the digest of the manifest that names them so, and itself."""
    manifest = image.manifest
    blobs = {}
    for item in (manifest["config"], *manifest["layers"]):
        data = image.blobs[item["digest"]]
        item["digest"] = digest_of(data, "sha512")
        blobs[item["digest"]] = data
    raw = json.dumps(manifest).encode()
    return blobs, digest_of(raw, "sha512"), raw


def test_sha512_from_our_registry(ours: Served, tmp_path: Path) -> None:
    blobs, digest, raw = sha512(APP)
    for each, data in blobs.items():
        upload_blob(ours.url, "team/sha512", each, data)
    put_manifest(ours.url, "team/sha512", digest, raw, APP.manifest["mediaType"])
    name = f"{ours.address}/team/sha512@{digest}"
    run_pierhead("pull", "--root", tmp_path / "store", name)
    assert stored(tmp_path / "store") == {**blobs, digest: raw}
    assert names(tmp_path / "store") == {name: digest}
    assert_sound(tmp_path / "store")


@pytest.mark.real("containerd", "ctr")
def test_containerd_pulls_from_us_what_we_pulled(ours: Served, tmp_path: Path) -> None:
    root = tmp_path / "store"
    mirror = write_registries(
        tmp_path,
        f"""\
mirrors:
  docker.io:
    endpoint: ["{ours.url}"]
    rewrite: {{"^rancher/(.*)": "kinds/$1"}}
""",
    )
    run_pierhead(
        "pull", "--private-registry", mirror, "--platform", "all", "--root", root, "rancher/oci:v1", "rancher/list:v1"
    )
    with serve(root, "--read-only") as registry, Containerd(tmp_path / "containerd") as containerd:
        hosts = containerd.certs_d / "docker.io" / "hosts.toml"
        hosts.parent.mkdir()
        hosts.write_text(f'[host."{registry.url}"]\n')
        for kind in ("oci", "list"):
            containerd.pull(f"docker.io/rancher/{kind}:v1")
        expected = {f"docker.io/rancher/{kind}:v1": EVERY[kind].digest for kind in ("oci", "list")}
        assert containerd.images() == expected
        assert "ns=docker.io" in registry.log.read_text()


@pytest.mark.real("skopeo")
def test_a_registry_that_only_serves(tmp_path: Path) -> None:
    source = f"dir:{APP.write_dir(tmp_path / 'made')}"
    with serve(tmp_path / "store", "--read-only") as registry:
        with pytest.raises(AssertionError, match="ended with 1"):
            copy(source, f"docker://{registry.address}/team/app:v1", "--dest-tls-verify=false", home=tmp_path)
        assert stored(tmp_path / "store") == {}
