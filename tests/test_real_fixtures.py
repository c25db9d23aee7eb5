"""The fixtures that other tests trust: images made from nothing, a token server, and the real programs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from images import CONFIG, INDEX, LAYER, MANIFEST, REF_NAME, Image, make_image, make_index
from pierhead.oci import ImageManifest, Index, parse_manifest
from pki import Pki
from real import Containerd, DockerRegistry, RealProgram, clean_environment, pull, push, run
from tokens import Algorithm, TokenRequest, TokenServer

USER, PASSWORD = "alice", "s3cret"
Start = Callable[[DockerRegistry], DockerRegistry]


@pytest.fixture
def start() -> Iterator[Start]:
    """Enters registries; they end with the test."""
    with ExitStack() as stack:
        yield stack.enter_context


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def every_image() -> dict[str, Image]:
    """One of every kind that the makers know."""
    return {
        "oci": make_image(layers=[0, b"hello", 300_000]),
        "docker": make_image(layers=[1000], media="docker"),
        "zstd": make_image(layers=[0, 300_000], compression="zstd"),
        "none": make_image(layers=[1000], compression="none"),
        "platforms": make_image(platforms=["linux/amd64", "linux/arm/v7"]),
        "list": make_image(media="docker", platforms=["linux/amd64", "linux/arm64"]),
        "nested": make_index(make_index(make_image(platforms=["linux/amd64"])), make_image(layers=[b"x"])),
    }


@pytest.mark.parametrize("kind", every_image())
def test_an_image_is_whole_and_the_same_on_every_run(kind: str) -> None:
    image, again = every_image()[kind], every_image()[kind]
    assert (image.descriptor, image.blobs) == (again.descriptor, again.blobs)
    assert all(digest == "sha256:" + hashlib.sha256(data).hexdigest() for digest, data in image.blobs.items())
    reached = set(image.manifests)
    for digest, media_type in image.manifests.items():
        parsed = parse_manifest(image.blobs[digest], media_type)
        assert parsed.media_type == media_type
        assert all(len(image.blobs[str(item.digest)]) == item.size_bytes for item in parsed.references)
        reached |= {str(item.digest) for item in parsed.references}
    assert reached == set(image.blobs)


def test_the_configuration_names_the_layers_unpacked() -> None:
    image = make_image(layers=[b"hello", 5000])
    parsed = parse_manifest(image.blobs[image.digest], MANIFEST["oci"])
    assert isinstance(parsed, ImageManifest)
    config = json.loads(image.blobs[str(parsed.config.digest)])
    unpacked = [gzip.decompress(image.blobs[str(layer.digest)]) for layer in parsed.layers]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(data).hexdigest() for data in unpacked]
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


def test_the_media_types_of_both_families() -> None:
    image = make_image(media="docker", platforms=["linux/amd64"])
    (child,) = image.manifest["manifests"]
    below = json.loads(image.blobs[child["digest"]])
    types = [image.manifest["mediaType"], child["mediaType"], below["config"]["mediaType"]]
    assert types == [INDEX["docker"], MANIFEST["docker"], CONFIG["docker"]]
    assert {layer["mediaType"] for layer in below["layers"]} == {LAYER["docker", "gzip"]}


def test_platforms_share_all_layers_but_the_last() -> None:
    image = make_image(layers=[2000], platforms=["linux/amd64", "linux/arm/v7"])
    index = parse_manifest(image.blobs[image.digest], INDEX["oci"])
    assert isinstance(index, Index)
    assert [str(item.platform) for item in index.manifests] == ["linux/amd64", "linux/arm/v7"]
    first, second = (json.loads(image.blobs[str(item.digest)])["layers"] for item in index.manifests)
    assert (first[:-1], first[-1] == second[-1]) == (second[:-1], False)


def test_an_archive_is_the_layout(tmp_path: Path) -> None:
    image = make_image()
    layout = image.write_layout(tmp_path / "layout", "v1")
    with tarfile.open(image.write_archive(tmp_path / "image.tar", "v1")) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        content = {name: file.read() for name, file in members.items() if file is not None}
    assert content == {str(path.relative_to(layout)): path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    (top,) = json.loads(content["index.json"])["manifests"]
    assert (top["digest"], top["annotations"]) == (image.digest, {REF_NAME: "v1"})


# ── the token server ─────────────────────────────────────────────────────────────────────────────────────────────


def ask(url: str, *, form: dict[str, str] | None = None, basic: str = "") -> tuple[int, dict[str, Any]]:
    """Status and JSON of a GET, or of a POST if there is a form."""
    headers = {"Authorization": "Basic " + base64.b64encode(basic.encode()).decode()} if basic else {}
    request = urllib.request.Request(url, urlencode(form).encode() if form else None, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def access(token: str) -> list[dict[str, object]]:
    """What a token allows, by its own words."""
    part = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return list(claims["access"])


SCOPE = "repository:team/app:pull,push"
BOTH = [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}]


def test_a_token_allows_what_its_user_may_do(tmp_path: Path) -> None:
    with TokenServer(tmp_path, {USER: PASSWORD}, anonymous=["pull"]) as server:
        query = urlencode({"service": "s", "scope": SCOPE})
        _, anybody = ask(f"{server.url}?{query}")
        _, alice = ask(f"{server.url}?{query}", basic=f"{USER}:{PASSWORD}")
        status, _ = ask(f"{server.url}?{query}", basic=f"{USER}:wrong")
        assert access(anybody["token"]) == [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
        assert access(alice["token"]) == BOTH
        assert status == 401
        assert server.requests == [
            TokenRequest("GET", "anonymous", "", "s", (SCOPE,), "", 200),
            TokenRequest("GET", "basic", USER, "s", (SCOPE,), "", 200),
            TokenRequest("GET", "basic", "", "s", (SCOPE,), "", 401),
        ]


def test_a_refresh_token_stands_for_its_user(tmp_path: Path) -> None:
    with TokenServer(tmp_path, {USER: PASSWORD}) as server:
        fields = {"service": "s", "client_id": "c", "scope": SCOPE}
        password = {"grant_type": "password", "username": USER, "password": PASSWORD, "access_type": "offline"}
        _, first = ask(server.url, form={**fields, **password})
        refresh = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
        _, second = ask(server.url, form={**fields, **refresh})
        status, _ = ask(server.url, form={**fields, **refresh, "refresh_token": "made-up"})
        assert access(second["access_token"]) == BOTH
        assert (status, "token" in second) == (401, False)
        assert [request.grant for request in server.requests] == ["password", "refresh_token", "refresh_token"]
        assert server.requests[1].user == USER


def test_a_server_that_takes_no_post(tmp_path: Path) -> None:
    with TokenServer(tmp_path, {USER: PASSWORD}, post=False) as server:
        assert ask(server.url, form={"grant_type": "password"})[0] == 405


# ── docker-registry and skopeo ───────────────────────────────────────────────────────────────────────────────────


def roundtrip(registry: DockerRegistry, folder: Path) -> None:
    """Push an image with skopeo and pull it again: equal to the byte, and on record."""
    image = make_image(layers=[b"hello", 200_000])
    push(f"oci:{image.write_layout(folder / 'made', 'v1')}:v1", registry, "team/app:v1")
    registry.forget()
    pull(registry, "team/app:v1", f"oci:{folder / 'pulled'}:v1")
    for digest, data in image.blobs.items():
        assert (folder / "pulled" / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes() == data
    fetched = {served.uri: served.status for served in registry.requests(4) if served.method == "GET"}
    assert fetched["/v2/team/app/manifests/v1"] == 200
    layers = {f"/v2/team/app/blobs/{layer['digest']}" for layer in image.manifest["layers"]}
    assert {uri for uri in fetched if "/blobs/" in uri} >= layers


@pytest.mark.real("docker-registry", "skopeo")
def test_a_plain_registry(tmp_path: Path, start: Start) -> None:
    roundtrip(start(DockerRegistry(tmp_path / "registry")), tmp_path)


@pytest.mark.real("docker-registry", "skopeo")
def test_a_registry_with_tls_and_a_user(tmp_path: Path, start: Start, pki: Pki) -> None:
    registry = start(DockerRegistry(tmp_path / "registry", tls=pki, htpasswd=(USER, PASSWORD)))
    roundtrip(registry, tmp_path)
    assert [served.status for served in registry.requests() if served.uri == "/v2/"][:1] == [401]
    registry.htpasswd = (USER, "wrong")
    with pytest.raises(AssertionError, match=r"unauthorized|authentication required"):
        pull(registry, "team/app:v1", f"dir:{tmp_path / 'refused'}")


@pytest.mark.real("docker-registry", "skopeo", "curl")
def test_a_registry_that_wants_client_certificates(tmp_path: Path, start: Start, pki: Pki) -> None:
    registry = start(DockerRegistry(tmp_path / "registry", tls=pki, client_ca=pki.ca))
    roundtrip(registry, tmp_path)
    ask = ("curl", "--silent", "--show-error", "--fail", "--cacert", pki.ca, f"{registry.url}/v2/")
    client = ("--cert", pki.client.cert, "--key", pki.client.key)
    assert run((*ask, *client), clean_environment(tmp_path)) == "{}"
    registry.forget()
    # In TLS 1.3 the refusal comes after the client's own handshake: while it connects, sends or receives.
    with pytest.raises(AssertionError, match=r"curl: \((35|55|56)\)"):
        run(ask, clean_environment(tmp_path))
    assert registry.requests() == []


@pytest.mark.real("docker-registry", "skopeo")
@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_registry_that_wants_bearer_tokens(tmp_path: Path, start: Start, algorithm: Algorithm) -> None:
    with TokenServer(tmp_path, {USER: PASSWORD}, anonymous=["pull"], algorithm=algorithm) as tokens:
        registry = start(DockerRegistry(tmp_path / "registry", token=tokens))
        image = make_image()
        source = f"oci:{image.write_layout(tmp_path / 'made', 'v1')}:v1"
        with pytest.raises(AssertionError, match=r"denied|unauthorized|authentication required"):
            push(source, registry, "team/app:v1")
        push(source, registry, "team/app:v1", "--dest-creds", f"{USER}:{PASSWORD}")
        pull(registry, "team/app:v1", f"oci:{tmp_path / 'pulled'}:v1")
        assert {(request.user, request.status) for request in tokens.requests} == {("", 200), (USER, 200)}


@pytest.mark.real("docker-registry", "skopeo")
@pytest.mark.parametrize("kind", ["docker", "list", "platforms", "zstd", "none"])
def test_every_kind_of_image_goes_in_and_comes_out(tmp_path: Path, start: Start, kind: str) -> None:
    image = every_image()[kind]
    registry = start(DockerRegistry(tmp_path / "registry"))
    push(f"dir:{image.write_dir(tmp_path / 'made')}", registry, "team/app:v1")
    pull(registry, "team/app:v1", f"dir:{tmp_path / 'pulled'}")
    names = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert names.items() >= {path.name: path.read_bytes() for path in (tmp_path / "pulled").iterdir()}.items()
    assert (tmp_path / "pulled" / "manifest.json").read_bytes() == image.blobs[image.digest]


@pytest.mark.real("docker-registry", "skopeo")
def test_a_registry_comes_back_where_it_was(tmp_path: Path) -> None:
    registry, image = DockerRegistry(tmp_path / "registry"), make_image()
    with registry:
        address = registry.address
        push(f"dir:{image.write_dir(tmp_path / 'made')}", registry, "team/app:v1")
    with pytest.raises(AssertionError, match="connection refused"):
        pull(registry, "team/app:v1", f"dir:{tmp_path / 'refused'}")
    with registry:
        assert registry.address == address
        assert registry.requests() == []
        pull(registry, "team/app:v1", f"dir:{tmp_path / 'pulled'}")


@pytest.mark.real("docker-registry")
def test_a_program_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("version: nonsense\n")
    registry = RealProgram(
        ("docker-registry", "serve", tmp_path / "bad.yml"), tmp_path / "log", clean_environment(tmp_path)
    )
    try:
        registry.start()
        with pytest.raises(ChildProcessError, match="docker-registry ended with") as caught:
            registry.wait_until(lambda: None, what="nothing")
        assert "nonsense" in "".join(caught.value.__notes__)
    finally:
        registry.stop()


# ── containerd ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.real("containerd", "ctr")
def test_containerd_imports_and_unpacks_what_we_make(tmp_path: Path) -> None:
    with Containerd(tmp_path / "containerd") as containerd:
        for kind, image in every_image().items():
            archive = image.write_archive(tmp_path / f"{kind}.tar", "v1")
            containerd.ctr("images", "import", "--base-name", f"made.example/{kind}", archive)
            assert containerd.images()[f"made.example/{kind}:v1"] == image.digest
        mounted = tmp_path / "mounted"
        mounted.mkdir()
        containerd.ctr("images", "mount", "made.example/zstd:v1", mounted)
        try:
            assert (mounted / "layer-1").stat().st_size == 300_000
        finally:
            containerd.ctr("images", "unmount", mounted)


@pytest.mark.real("containerd", "ctr", "docker-registry", "skopeo")
def test_containerd_pulls_through_a_mirror(tmp_path: Path, start: Start, pki: Pki) -> None:
    image = make_image(platforms=["linux/amd64", "linux/arm64"])
    registry = start(DockerRegistry(tmp_path / "registry", tls=pki, client_ca=pki.ca))
    push(f"dir:{image.write_dir(tmp_path / 'made')}", registry, "team/app:v1")
    registry.forget()
    with Containerd(tmp_path / "containerd") as containerd:
        hosts = containerd.certs_d / "quay.io" / "hosts.toml"
        hosts.parent.mkdir()
        hosts.write_text(
            f'[host."{registry.url}"]\n  ca = "{pki.ca}"\n  client = [["{pki.client.cert}", "{pki.client.key}"]]\n'
        )
        containerd.pull("quay.io/team/app:v1")
        assert containerd.images() == {"quay.io/team/app:v1": image.digest}
    assert {served.uri.rpartition("?")[2] for served in registry.requests(1)} == {"ns=quay.io"}
