"""The installed command against the real registry: every way to reach one, and every kind of image in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from command import assert_sound, names, run_pierhead, stored, write_registries
from front import Nginx
from hostile import refusing_place
from images import Image, make_image, make_index
from pki import Pki
from real import DockerRegistry, push
from tokens import TokenServer
from tunnel import tunnel
from uploads import upload

pytestmark = pytest.mark.real("docker-registry", "skopeo")

USER, PASSWORD = "alice", "s3cret"
APP = make_image(layers=[b"hello", 300_000])
PLATFORMS = make_image(layers=[2000], platforms=["linux/amd64", "linux/arm64", "linux/arm/v7"])
KINDS = {
    "oci": APP,
    "docker": make_image(layers=[b"hello", 50_000], media="docker"),
    "zstd": make_image(layers=[0, 300_000], compression="zstd"),
    "uncompressed": make_image(layers=[1000], compression="none"),
    "index": PLATFORMS,
    "list": make_image(media="docker", platforms=["linux/amd64", "linux/arm64"]),
    "nested": make_index(make_index(make_image(platforms=["linux/amd64"])), make_image(layers=[b"x"])),
}


PLATFORMS_OF = {
    "index": ["linux/amd64", "linux/arm/v7", "linux/arm64"],
    "list": ["linux/amd64", "linux/arm64"],
    "nested": ["linux/amd64"],
}


def fill(registry: DockerRegistry, folder: Path, images: dict[str, Image], *options: str) -> None:
    """Push images under their names with skopeo; nothing of that stays on record."""
    for number, (name, image) in enumerate(images.items()):
        if image is KINDS["nested"]:  # which skopeo knows nothing of
            upload(registry.url, name.partition(":")[0], image, "v1")
        else:
            push(f"dir:{image.write_dir(folder / str(number))}", registry, name, *options)
    registry.forget()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry that speaks plain http and has everything."""
    folder = tmp_path_factory.mktemp("plain")
    with DockerRegistry(folder / "registry") as registry:
        everything = {f"kinds/{kind}:v1": image for kind, image in KINDS.items()}
        fill(registry, folder, {**everything, "team/app:v1": APP, "mirrorproject/rancher-images/app:v1": APP})
        yield registry


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Another one, that has nothing."""
    with DockerRegistry(tmp_path_factory.mktemp("empty")) as registry:
        yield registry


def assert_pulled(root: Path, name: str, image: Image) -> None:
    """The store has this image under this name, every byte of it as it was pushed, and nothing else."""
    assert names(root) == {name: image.digest}
    assert stored(root) == image.blobs
    assert_sound(root)


# ── the ways to reach a registry ─────────────────────────────────────────────────────────────────────────────────


def test_plain_http(plain: DockerRegistry, tmp_path: Path) -> None:
    name = f"{plain.address}/team/app:v1"
    plain.forget()
    ran = run_pierhead("pull", "--plain-http", "-o", "json", "--root", tmp_path / "store", name)
    (image,) = ran.images
    assert (image["reference"], image["digest"], image["route"]) == (name, APP.digest, plain.url)
    assert (image["fetched_bytes"], image["reused_bytes"]) == (sum(map(len, APP.blobs.values())), 0)
    assert {attempt["outcome"] for attempt in image["attempts"]} == {"ok"}
    assert_pulled(tmp_path / "store", name, APP)
    assert len(plain.requests(5)) == 5  # HEAD and GET of the manifest, then each blob once
    again = run_pierhead("pull", "--plain-http", "-o", "json", "--root", tmp_path / "store", name).images[0]
    assert (again["fetched_bytes"], again["reused_bytes"]) == (0, image["fetched_bytes"])
    assert [served.method for served in plain.requests(6)[5:]] == ["HEAD"]


def test_a_loopback_registry_is_asked_by_http_where_nobody_speaks_tls(plain: DockerRegistry, tmp_path: Path) -> None:
    name = f"{plain.address}/team/app:v1"
    (image,) = run_pierhead("pull", "-o", "json", "--root", tmp_path / "store", name).images
    assert_pulled(tmp_path / "store", name, APP)
    assert {image["route"], *(attempt["url"].partition("/v2/")[0] for attempt in image["attempts"])} == {plain.url}


def configs(folder: Path, host: str, *, auth: dict[str, str] | None = None, tls: dict[str, str] | None = None) -> Path:
    """A registries.yaml with one entry of `configs`; JSON is YAML."""
    entry = {key: value for key, value in {"auth": auth, "tls": tls}.items() if value}
    return write_registries(folder, json.dumps({"configs": {host: entry}}, indent=1))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[DockerRegistry]:
    """A registry with TLS from a CA of its own, and a user."""
    folder = tmp_path_factory.mktemp("guarded")
    with DockerRegistry(folder / "registry", tls=pki, htpasswd=(USER, PASSWORD)) as registry:
        fill(registry, folder, {"team/app:v1": APP})
        yield registry


def test_tls_with_its_own_ca_and_a_user(guarded: DockerRegistry, tmp_path: Path, pki: Pki) -> None:
    name = f"{guarded.address}/team/app:v1"
    auth = {"username": USER, "password": PASSWORD}
    file = configs(tmp_path, guarded.address, auth=auth, tls={"ca_file": pki.ca})
    guarded.forget()
    run_pierhead("pull", "--private-registry", file, "--root", tmp_path / "store", name)
    assert_pulled(tmp_path / "store", name, APP)
    assert [served.status for served in guarded.requests(6)].count(401) == 1  # and never again in this pull
    (explained,) = run_pierhead("explain", "--private-registry", file, "-o", "json", name).images
    (route,) = explained["routes"]
    assert (route["auth"]["source"], route["auth"]["key"], route["auth"]["username"]) == (
        "configs",
        guarded.address,
        USER,
    )
    assert route["tls"]["ca_file"] == pki.ca


def test_a_wrong_password_says_whose(guarded: DockerRegistry, tmp_path: Path, pki: Pki) -> None:
    name = f"{guarded.address}/team/app:v1"
    auth = {"username": USER, "password": "wr0ng"}
    file = configs(tmp_path, guarded.address, auth=auth, tls={"ca_file": pki.ca})
    guarded.forget()
    ran = run_pierhead("pull", "--private-registry", file, "--root", tmp_path / "store", name, code=4)
    assert f"{guarded.address}: 401 Unauthorized" in ran.err
    assert "check the credentials" in ran.err
    assert "wr0ng" not in ran.said
    assert [served.status for served in guarded.requests(2)] == [401, 401]  # asked once with it, not again and again
    assert not names(tmp_path / "store")
    file = configs(tmp_path, guarded.address, tls={"ca_file": pki.ca})
    ran = run_pierhead("pull", "--private-registry", file, "--root", tmp_path / "store", name, code=4)
    assert "there is none for it" in ran.err


def test_a_ca_that_nobody_told_us_of(guarded: DockerRegistry, tmp_path: Path, pki: Pki) -> None:
    name, creds = "registry.test.example:5443/team/app:v1", ("--creds", f"{USER}:{PASSWORD}")
    with tunnel({"registry.test.example:5443": guarded.address}) as (through, env):
        guarded.forget()
        for other in ((), ("--ca-file", pki.other_ca)):
            ran = run_pierhead("pull", *other, *creds, "--root", tmp_path / "store", name, env=env, code=5)
            assert "certificate" in ran.err
            assert "hint:" in ran.err
        assert guarded.requests() == []
        for trust in (("--ca-file", pki.ca), ("--insecure",)):
            root = tmp_path / trust[0]
            stdin = ("--creds", USER, "--password-stdin")
            run_pierhead("pull", *trust, *stdin, "--root", root, name, env=env, stdin=f"{PASSWORD}\n")
            assert_pulled(root, name, APP)
        assert set(through.connected) == {"registry.test.example:5443"}


@pytest.mark.parametrize("first", [True, False], ids=["asked", "never asked"])
def test_a_missing_ca_file_fails_its_own_endpoint_and_is_told(
    plain: DockerRegistry, tmp_path: Path, first: bool
) -> None:
    broken, missing = "https://127.0.0.1:1", tmp_path / "missing.pem"
    endpoints = [broken, plain.url] if first else [plain.url, broken]
    file = tmp_path / "registries.yaml"
    file.write_text(
        f"mirrors:\n  docker.io:\n    endpoint: {json.dumps(endpoints)}\n"
        f"configs:\n  127.0.0.1:1:\n    tls:\n      ca_file: {missing}\n"
    )
    done = run_pierhead("pull", "--private-registry", file, "--root", tmp_path / "root", "team/app:v1")
    assert_pulled(tmp_path / "root", "docker.io/team/app:v1", APP)
    assert f"error: {file}:6:5: " in done.err
    assert f'unable to read CA cert "{missing}"' in done.err
    assert "containerd fails every pull of docker.io images" in done.err


def test_a_client_certificate_in_the_handshake(tmp_path: Path, pki: Pki) -> None:
    tls = {"ca_file": pki.ca, "cert_file": pki.client.cert, "key_file": pki.client.key}
    with DockerRegistry(tmp_path / "registry", tls=pki, client_ca=pki.ca) as registry:
        fill(registry, tmp_path, {"team/app:v1": APP})
        name = f"{registry.address}/team/app:v1"
        file = configs(tmp_path, registry.address, tls=tls)
        run_pierhead("pull", "--private-registry", file, "--root", tmp_path / "store", name)
        assert_pulled(tmp_path / "store", name, APP)
        registry.forget()
        without = configs(tmp_path, registry.address, tls={"ca_file": pki.ca})
        ran = run_pierhead("pull", "--private-registry", without, "--root", tmp_path / "other", name, code=5)
        assert "client certificate" in ran.err
        assert registry.requests() == []


@pytest.mark.real("nginx")
def test_a_client_certificate_that_nginx_wants(plain: DockerRegistry, tmp_path: Path, pki: Pki) -> None:
    with Nginx(tmp_path / "nginx", plain.url, tls=pki) as front:
        name = f"{front.address}/team/app:v1"
        tls = {"ca_file": pki.ca, "cert_file": pki.client.cert, "key_file": pki.client.key}
        file = configs(tmp_path, front.address, tls=tls)
        run_pierhead("pull", "--private-registry", file, "--root", tmp_path / "store", name)
        assert_pulled(tmp_path / "store", name, APP)
        foreign = {"cert_file": pki.other_client.cert, "key_file": pki.other_client.key}
        for wrong in ({}, foreign):  # nginx finishes the handshake, and refuses in HTTP
            file = configs(tmp_path, front.address, tls={"ca_file": pki.ca, **wrong})
            ran = run_pierhead("pull", "--private-registry", file, "--root", tmp_path / "other", name, code=1)
            assert f"{front.address}: 400 Bad Request" in ran.err
            assert "client certificate" in ran.err


# ── bearer tokens ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Tokened:
    registry: DockerRegistry
    tokens: TokenServer

    def pull(self, folder: Path, auth: dict[str, str], *, code: int = 0) -> list[tuple[str, str, int]]:
        """Pull with this `auth`; how the token server was asked."""
        self.tokens.requests.clear()
        name = f"{self.registry.address}/team/app:v1"
        file = configs(folder, self.registry.address, auth=auth)
        run_pierhead("pull", "--private-registry", file, "--root", folder / "store", name, code=code)
        if not code:
            assert_pulled(folder / "store", name, APP)
        return [(asked.method, asked.grant, asked.status) for asked in self.tokens.requests]


@pytest.fixture(scope="module")
def tokened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokened]:
    """A registry that sends its clients to a token server."""
    folder = tmp_path_factory.mktemp("tokened")
    with (
        TokenServer(folder, {USER: PASSWORD}) as tokens,
        DockerRegistry(folder / "registry", token=tokens) as registry,
    ):
        fill(registry, folder, {"team/app:v1": APP}, "--dest-creds", f"{USER}:{PASSWORD}")
        yield Tokened(registry, tokens)


def test_a_token_for_a_password(tokened: Tokened, tmp_path: Path) -> None:
    asked = tokened.pull(tmp_path, {"username": USER, "password": PASSWORD})
    assert asked == [("POST", "password", 200)]  # one token for the whole pull
    (request,) = tokened.tokens.requests
    assert (request.user, request.scopes) == (USER, ("repository:team/app:pull",))


def test_a_token_server_that_takes_no_post(tokened: Tokened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokened.tokens, "post", False)
    asked = tokened.pull(tmp_path, {"username": USER, "password": PASSWORD})
    assert [(method, status) for method, _, status in asked] == [("POST", 405), ("GET", 200)]
    assert asked[-1][1] == "basic"


def test_a_token_for_an_identity_token(tokened: Tokened, tmp_path: Path) -> None:
    asked = tokened.pull(tmp_path, {"identity_token": tokened.tokens.refresh_token(USER)})
    assert asked == [("POST", "refresh_token", 200)]


def test_a_token_for_anybody(tokened: Tokened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokened.tokens, "anonymous", ["pull"])
    assert tokened.pull(tmp_path, {}) == [("GET", "anonymous", 200)]


@pytest.mark.parametrize(
    "auth",
    [{"username": USER, "password": "wr0ng"}, {"identity_token": "made-up"}, {}],
    ids=["password", "token", "none"],
)
def test_no_token(tokened: Tokened, tmp_path: Path, auth: dict[str, str]) -> None:
    asked = tokened.pull(tmp_path, auth, code=4)
    assert 1 <= len(asked) <= 2  # by POST and by GET, but not for each try of the registry


# ── mirrors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_next_mirror_where_one_is_dead_and_one_has_nothing(
    plain: DockerRegistry, empty: DockerRegistry, tmp_path: Path
) -> None:
    name = "docker.io/rancher/app:v1"
    plain.forget()
    empty.forget()
    with refusing_place() as dead:
        file = write_registries(
            tmp_path,
            f"""\
mirrors:
  docker.io:
    endpoint:
      - "http://{dead}"
      - "{empty.url}"
      - "{plain.url}"
    rewrite:
      "^rancher/(.*)": "mirrorproject/rancher-images/$1"
""",
        )
        options = ("--private-registry", file, "--root", tmp_path / "store")
        (image,) = run_pierhead("pull", *options, "-o", "json", "rancher/app:v1").images
        people = run_pierhead("pull", *options, "rancher/app:v1")
        (explained,) = run_pierhead("explain", "--private-registry", file, "-o", "json", name).images
    assert_pulled(tmp_path / "store", name, APP)
    resolving = [(attempt["outcome"], attempt["status"]) for attempt in image["attempts"][:3]]
    assert resolving == [("error", None), ("status", 404), ("ok", 200)]
    assert image["route"] == plain.url
    assert f"http://{dead}: " in people.err
    assert f"{empty.url}: 404 Not Found" in people.err
    manifest = "/v2/mirrorproject/rancher-images/app/manifests/v1?ns=docker.io"
    assert [empty.requests(1)[0].uri, plain.requests(1)[0].uri] == [manifest, manifest]
    assert {served.uri.rpartition("?")[2] for served in plain.requests(5)} == {"ns=docker.io"}
    urls = [route["manifest_url"] for route in explained["routes"][:3]]
    assert [attempt["url"] for attempt in image["attempts"][:3]] == urls


@pytest.mark.real("nginx")
def test_a_mirror_below_another_path(plain: DockerRegistry, tmp_path: Path) -> None:
    with Nginx(tmp_path / "nginx", plain.url, path="/registry/api") as front:
        endpoint = f"{front.url}/registry/api"
        file = write_registries(tmp_path, f'mirrors: {{"quay.io": {{"endpoint": ["{endpoint}"]}}}}')
        run_pierhead("pull", "--private-registry", file, "--root", tmp_path / "store", "quay.io/team/app:v1")
        assert_pulled(tmp_path / "store", "quay.io/team/app:v1", APP)
        (explained,) = run_pierhead("explain", "--private-registry", file, "-o", "json", "quay.io/team/app:v1").images
        assert explained["routes"][0]["manifest_url"] == f"{endpoint}/team/app/manifests/v1?ns=quay.io"
        assert explained["routes"][0]["override_path"] is True


def test_without_the_default_endpoint(plain: DockerRegistry, empty: DockerRegistry, tmp_path: Path) -> None:
    name = f"{plain.address}/team/app:v1"
    file = write_registries(tmp_path, f'mirrors: {{"{plain.address}": {{"endpoint": ["{empty.url}"]}}}}')
    options = ("--private-registry", file, "--root", tmp_path / "store", "-o", "json")
    plain.forget()
    refused = run_pierhead("pull", *options, "--disable-default-registry-endpoint", name, code=3)
    assert [attempt["status"] for attempt in refused.images[0]["attempts"]] == [404]
    assert refused.images[0]["exit_code"] == 3
    assert plain.requests() == []
    (image,) = run_pierhead("pull", *options, name).images
    assert image["route"] == plain.url
    assert_pulled(tmp_path / "store", name, APP)


def test_one_of_two_images_fails(plain: DockerRegistry, tmp_path: Path) -> None:
    there, absent = f"{plain.address}/team/app:v1", f"{plain.address}/team/absent:v1"
    ran = run_pierhead("pull", "--root", tmp_path / "store", absent, there, code=6)
    assert f"no route gives {absent}" in ran.err
    assert_pulled(tmp_path / "store", there, APP)
    run_pierhead("pull", "--root", tmp_path / "store", absent, code=3)


# ── kinds of names and images ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tag", ["", ":v1"])
def test_a_digest(plain: DockerRegistry, tmp_path: Path, tag: str) -> None:
    name = f"{plain.address}/team/app{tag}@{APP.digest}"
    run_pierhead("pull", "--root", tmp_path / "store", name)
    assert_pulled(tmp_path / "store", f"{plain.address}/team/app@{APP.digest}", APP)
    absent = f"{plain.address}/team/app@sha256:{'0' * 64}"
    run_pierhead("pull", "--root", tmp_path / "store", absent, code=3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_kept_byte_for_byte(plain: DockerRegistry, tmp_path: Path, kind: str) -> None:
    name = f"{plain.address}/kinds/{kind}:v1"
    ran = run_pierhead("pull", "--platform", "all", "-o", "json", "--root", tmp_path / "store", name)
    assert_pulled(tmp_path / "store", name, KINDS[kind])
    image = ran.images[0]
    assert image["media_type"] == KINDS[kind].descriptor["mediaType"]
    assert sorted(image["platforms"]) == PLATFORMS_OF.get(kind, [])
    assert image["size_bytes"] == sum(map(len, KINDS[kind].blobs.values()))


def chosen(image: Image, *platforms: str) -> set[str]:
    """The digests that these platforms of an index need."""
    needed = {image.digest}
    for item in image.manifest["manifests"]:
        parts = (item["platform"].get(key) for key in ("os", "architecture", "variant"))
        if "/".join(filter(None, parts)) in platforms:
            below = json.loads(image.blobs[item["digest"]])
            needed |= {item["digest"], below["config"]["digest"], *(layer["digest"] for layer in below["layers"])}
    return needed


@pytest.mark.parametrize("platforms", [("linux/arm/v7",), ("linux/amd64", "linux/arm64")])
def test_some_platforms_of_an_index(plain: DockerRegistry, tmp_path: Path, platforms: tuple[str, ...]) -> None:
    name, root = f"{plain.address}/kinds/index:v1", tmp_path / "store"
    options = [text for platform in platforms for text in ("--platform", platform)]
    ran = run_pierhead("pull", *options, "-o", "json", "--root", root, name)
    assert ran.images[0]["platforms"] == list(platforms)
    assert stored(root).keys() == chosen(PLATFORMS, *platforms)
    found = json.loads(run_pierhead("verify", "-o", "json", "--root", root).out)["findings"]
    assert {finding["kind"] for finding in found} == {"unselected"}
    assert not any(finding["error"] for finding in found)
    more = run_pierhead("pull", "--platform", "all", "-o", "json", "--root", root, name).images[0]
    assert more["fetched_bytes"] == sum(
        len(data) for digest, data in PLATFORMS.blobs.items() if digest not in chosen(PLATFORMS, *platforms)
    )
    assert_pulled(root, name, PLATFORMS)


def test_a_platform_that_is_not_there(plain: DockerRegistry, tmp_path: Path) -> None:
    name = f"{plain.address}/kinds/index:v1"
    ran = run_pierhead("pull", "--platform", "linux/s390x", "--root", tmp_path / "store", name, code=None)
    assert ran.code in (1, 3)
    assert "linux/s390x" in ran.err
    assert "linux/arm/v7" in ran.err  # what there is instead
    assert names(tmp_path / "store") == {}
