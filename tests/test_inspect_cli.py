"""`pierhead inspect`, `digest` and `ls`: what an image is and what a registry has, without pulling."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command import PIERHEAD, RUN_SECONDS, Served, environment, run_pierhead, serve
from images import CONFIG, MANIFEST, Image, make_image, make_index
from pierhead.body import Blob, BytesBlob
from pierhead.inspection import (
    CONFIG_LIMIT_BYTES,
    ConfigTooLarge,
    Configuration,
    Remembering,
    inspect,
    parse_configuration,
    read_config,
)
from pierhead.layout import LayoutStore
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_CONFIG, Descriptor, Platform
from pierhead.reference import Digest
from pierhead.store import ContentMismatch, RepositoryName
from stocked import stock

APP = make_image(layers=[1000, 20], compression="none")
PLATFORMS = make_image(layers=[2000], platforms=["linux/amd64", "linux/arm64"], compression="none")
AMD64, ARM64 = (item["digest"] for item in PLATFORMS.manifest["manifests"])


def made(config: bytes, *, config_type: str = CONFIG["oci"], **more: object) -> Image:
    """An image with just this configuration, and more in its manifest."""
    layer = b"layer"
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST["oci"],
        "config": described(config, config_type),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar")],
        **more,
    }
    raw = json.dumps(value).encode()
    blobs = {described(data, "")["digest"]: data for data in (config, layer, raw)}
    return Image(described(raw, MANIFEST["oci"]), blobs)


def described(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


RICH = made(
    json.dumps(
        {
            "os": "linux",
            "architecture": "arm64",
            "created": "2020-01-01T00:00:00Z",
            "author": "somebody\x1b[2J",
            "config": {
                "User": "65534",
                "WorkingDir": "/srv",
                "Entrypoint": ["/bin/app", "--say", "hello you"],
                "Cmd": ["serve"],
                "Env": ["A=1", "B=2"],
                "ExposedPorts": {"80/tcp": {}},
                "Volumes": {"/data": {}},
                "Labels": {"org.example.name": "app", "half": "\ud800", "evil": "\x1b]0;owned\x07\u202e\nsecond line"},
            },
        }
    ).encode(),
    annotations={"org.opencontainers.image.source": "https://example.org\x9b31m"},
)
SIGNATURE = made(
    b"{}",
    config_type="application/vnd.oci.empty.v1+json",
    artifactType="application/vnd.example.signature",
    subject=described(b"something else", MANIFEST["oci"]),
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("inspect") / "store"
    store = LayoutStore(root)
    images = {"app": APP, "index": PLATFORMS, "rich": RICH, "signature": SIGNATURE, "broken": made(b"no json")}
    for name, image in images.items():
        stock(store, image, f"team/{name}")
    stock(store, APP, "team/app", "2")
    with serve(root) as served:
        yield served


def raw_output(*arguments: str) -> bytes:
    done = subprocess.run(
        [str(PIERHEAD), *arguments], capture_output=True, env=environment(), timeout=RUN_SECONDS, check=True
    )
    return done.stdout


def inspected(registry: Served, name: str, *arguments: str) -> dict[str, Any]:
    ran = run_pierhead("inspect", "--plain-http", "-o", "json", *arguments, f"{registry.address}/team/{name}:1")
    return dict(json.loads(ran.out))


# ── inspect ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_image_is_told_as_json(registry: Served) -> None:
    found = inspected(registry, "rich")
    image = found["image"]
    assert (found["name"], found["digest"]) == (f"{registry.address}/team/rich:1", RICH.digest)
    assert (found["route"], found["platforms"], found["subject"]) == (registry.url, [], None)
    assert (image["digest"], image["image_bytes"]) == (RICH.digest, sum(map(len, RICH.blobs.values())))
    assert image["layers"] == [
        {
            "digest": RICH.manifest["layers"][0]["digest"],
            "media_type": "application/vnd.oci.image.layer.v1.tar",
            "size_bytes": 5,
        }
    ]
    configuration = image["configuration"]
    assert configuration["platform"] == "linux/arm64"
    assert configuration["entrypoint"] == ["/bin/app", "--say", "hello you"]
    assert configuration["env"] == ["A=1", "B=2"]
    assert configuration["exposed_ports"] == ["80/tcp"]
    assert configuration["labels"]["org.example.name"] == "app"
    assert configuration["labels"]["half"] == "\ud800"
    out = run_pierhead("inspect", "--plain-http", "-o", "json", f"{registry.address}/team/rich:1").out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "\\u009b" in out


def test_an_image_is_told_to_people_and_cannot_write_over_their_terminal(registry: Served) -> None:
    out = run_pierhead("inspect", "--plain-http", f"{registry.address}/team/rich:1").out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert f"from         {registry.url}" in out
    assert "entrypoint   /bin/app --say 'hello you'" in out
    assert "env          2 set" in out
    assert "    evil=]0;owned second line" in out
    assert "platform     linux/arm64" in out
    assert f"{RICH.manifest['layers'][0]['digest']}       5B" in out


def test_an_index_has_its_platforms_and_the_image_for_one_of_them(registry: Served) -> None:
    found = inspected(registry, "index", "--platform", "linux/arm64")
    assert (found["digest"], found["platforms"]) == (ARM64, [])  # as if it were the image
    found = inspected(registry, "index")
    assert found["digest"] == PLATFORMS.digest
    assert [(item["platform"], item["digest"]) for item in found["platforms"]] == [
        ("linux/amd64", AMD64),
        ("linux/arm64", ARM64),
    ]
    for item in found["platforms"]:
        parts = json.loads(PLATFORMS.blobs[item["digest"]])
        size = len(PLATFORMS.blobs[item["digest"]]) + sum(part["size"] for part in (parts["config"], *parts["layers"]))
        assert item["image_bytes"] == size
    here = {"linux/amd64": AMD64, "linux/arm64": ARM64}.get(str(Platform.here()))
    assert found["image"]["digest"] == here
    out = run_pierhead("inspect", "--plain-http", f"{registry.address}/team/index:1").out
    assert f"    linux/arm64  {ARM64}" in out
    assert f"image for {Platform.here()}" in out


def test_raw_is_the_manifest_byte_for_byte(registry: Served) -> None:
    name = f"{registry.address}/team/index:1"
    assert raw_output("inspect", "--plain-http", "--raw", name) == PLATFORMS.blobs[PLATFORMS.digest]
    arguments = ("inspect", "--plain-http", "--raw", "--platform", "arm64", name)
    assert raw_output(*arguments) == PLATFORMS.blobs[ARM64]


def test_config_is_the_configuration_byte_for_byte(registry: Served) -> None:
    config = RICH.blobs[RICH.manifest["config"]["digest"]]
    assert raw_output("inspect", "--plain-http", "--config", f"{registry.address}/team/rich:1") == config
    digest = json.loads(PLATFORMS.blobs[ARM64])["config"]["digest"]
    arguments = ("inspect", "--plain-http", "--config", "--platform", "arm64", f"{registry.address}/team/index:1")
    assert raw_output(*arguments) == PLATFORMS.blobs[digest]


def test_an_artifact_says_what_it_is_and_whom_it_is_about(registry: Served) -> None:
    found = inspected(registry, "signature")
    assert found["artifact_type"] == "application/vnd.example.signature"
    assert found["subject"]["digest"] == SIGNATURE.manifest["subject"]["digest"]
    assert found["image"]["configuration"] is None
    assert found["problems"] == []
    out = run_pierhead("inspect", "--plain-http", f"{registry.address}/team/signature:1").out
    assert "artifact     application/vnd.example.signature" in out


def test_a_configuration_that_is_none_is_a_warning(registry: Served) -> None:
    ran = run_pierhead("inspect", "--plain-http", f"{registry.address}/team/broken:1")
    assert "warning: the configuration is no JSON object" in ran.err
    assert raw_output("inspect", "--plain-http", "--config", f"{registry.address}/team/broken:1") == b"no json"


def test_an_image_in_a_folder_is_looked_at_as_well(tmp_path: Path) -> None:
    PLATFORMS.write_layout(tmp_path / "layout", "team/app:1")
    found = json.loads(run_pierhead("inspect", "-o", "json", f"oci:{tmp_path}/layout").out)
    assert (found["digest"], found["route"]) == (PLATFORMS.digest, f"oci:{tmp_path}/layout")
    assert run_pierhead("digest", f"oci:{tmp_path}/layout").out == f"{PLATFORMS.digest}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["inspect", "{address}/team/gone:1"], 3, "no route gives"),
        (["inspect", "--platform", "linux/s390x", "{address}/team/index:1"], 3, "no image for linux/s390x"),
        (["inspect", "--raw", "--config", "{address}/team/app:1"], 2, "two different things"),
        (["inspect", "oci:/nonexistent/layout"], 2, "/nonexistent/layout"),
        (["digest", "{address}/team/gone:1"], 3, "no route gives"),
        (["digest", "{address}/team/gone:1", "{address}/team/app:1"], 6, "no route gives"),
        (["digest", "NO"], 2, "is not an image reference"),
        (["ls", "{address}/team/gone"], 3, "has no repository 'team/gone'"),
        (["ls", "{address}/team/app:1"], 2, "write {address}/team/app"),
        (["ls", "--digests", "{address}"], 2, "name one"),
    ],
)
def test_what_does_not_work_says_why(registry: Served, arguments: list[str], code: int, said: str) -> None:
    command, *rest = (argument.format(address=registry.address) for argument in arguments)
    assert said.format(address=registry.address) in run_pierhead(command, "--plain-http", *rest, code=code).err


# ── digest ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_digest_of_one_image_stands_alone_and_those_of_several_after_their_names(registry: Served) -> None:
    app, index = f"{registry.address}/team/app:1", f"{registry.address}/team/index:1"
    assert run_pierhead("digest", "--plain-http", app).out == f"{APP.digest}\n"
    both = run_pierhead("digest", "--plain-http", index, app).out
    assert both == f"{index} {PLATFORMS.digest}\n{app} {APP.digest}\n"
    assert run_pierhead("digest", "--plain-http", "--platform", "arm64", index).out == f"{ARM64}\n"
    assert run_pierhead("digest", "--plain-http", f"{registry.address}/team/app@{APP.digest}").out == f"{APP.digest}\n"
    ran = run_pierhead("digest", "--plain-http", "-o", "json", app, f"{registry.address}/team/gone:1", code=6)
    assert [(image["digest"], image["exit_code"]) for image in ran.images] == [(APP.digest, 0), (None, 3)]


def test_a_digest_is_found_where_a_pull_would_find_the_image(registry: Served, tmp_path: Path) -> None:
    file = tmp_path / "registries.yaml"
    mirrors = {"hub.example": {"endpoint": ["http://127.0.0.1:1", registry.url], "rewrite": {"^(.*)": "team/$1"}}}
    file.write_text(json.dumps({"mirrors": mirrors}))
    ran = run_pierhead("digest", "--private-registry", file, "hub.example/app:1")
    assert ran.out == f"{APP.digest}\n"
    assert "not from http://127.0.0.1:1: connection refused" in ran.err


# ── ls ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_registry_lists_its_repositories_and_a_repository_its_tags(registry: Served) -> None:
    names = ["team/app", "team/broken", "team/index", "team/rich", "team/signature"]
    assert run_pierhead("ls", "--plain-http", registry.address).out.split() == names
    assert run_pierhead("ls", "--plain-http", f"{registry.address}/").out.split() == names
    assert run_pierhead("ls", "--plain-http", f"{registry.address}/team/app").out == "1\n2\n"
    found = json.loads(run_pierhead("ls", "--plain-http", "-o", "json", registry.address).out)
    assert found == {"registry": registry.address, "repositories": names}


def test_tags_come_with_their_digests_if_asked(registry: Served) -> None:
    name = f"{registry.address}/team/app"
    assert run_pierhead("ls", "--plain-http", "--digests", name).out == f"1 {APP.digest}\n2 {APP.digest}\n"
    found = json.loads(run_pierhead("ls", "--plain-http", "--digests", "-o", "json", name).out)
    assert found["digests"] == {"1": APP.digest, "2": APP.digest}


@pytest.mark.parametrize(
    ("text", "registry", "repository"),
    [
        ("registry.lan:5000", "registry.lan:5000", ""),
        ("registry.lan/", "registry.lan", ""),
        ("localhost", "localhost", ""),
        ("[::1]:5000", "[::1]:5000", ""),
        ("docker.io", "docker.io", ""),
        ("index.docker.io", "docker.io", ""),
        ("busybox", "docker.io", "library/busybox"),
        ("rancher/pause", "docker.io", "rancher/pause"),
        ("docker.io/busybox", "docker.io", "library/busybox"),
        ("registry.lan:5000/team/app", "registry.lan:5000", "team/app"),
    ],
)
def test_a_registry_is_told_from_a_repository(text: str, registry: str, repository: str) -> None:
    from pierhead.cli.ls import _named

    named = _named(text)
    assert (named.registry, named.repository) == (registry, repository)


# ── looking, without a command ───────────────────────────────────────────────────────────────────────────────────


class Lying:
    """A source whose blobs are not what they are called; `honest` is what comes after a rejection, if anything."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def resolve(self, reference: str) -> Descriptor:
        raise NotImplementedError

    def manifest(self, descriptor: Descriptor) -> bytes:
        raise NotImplementedError

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return BytesBlob(self.answers.pop(0))

    def reject(self, descriptor: Descriptor) -> bool:
        return bool(self.answers)


def test_a_configuration_is_checked_and_taken_from_elsewhere_if_it_is_wrong() -> None:
    right = Descriptor(OCI_CONFIG, Digest.of(b"right"), 5)
    assert read_config(Lying(b"wrong", b"right"), right) == b"right"
    with pytest.raises(ContentMismatch):
        read_config(Lying(b"wrong"), right)
    with pytest.raises(ContentMismatch):
        read_config(Lying(b"righ"), right)


def test_a_configuration_without_end_is_not_read() -> None:
    huge = Descriptor(OCI_CONFIG, Digest.of(b""), CONFIG_LIMIT_BYTES + 1)
    with pytest.raises(ConfigTooLarge):
        read_config(Lying(), huge)


@pytest.mark.parametrize(
    "value",
    [
        {"os": 5, "architecture": "amd64"},
        {"config": "text"},
        {"config": {"Entrypoint": "text", "Env": [1, None], "Labels": [], "ExposedPorts": 3, "User": []}},
        {"created": {}, "os": "linux"},
    ],
)
def test_what_is_not_well_formed_in_a_configuration_is_left_out(value: Mapping[str, object]) -> None:
    assert parse_configuration(json.dumps(value).encode()) == Configuration()


@pytest.mark.parametrize("raw", [b"", b"[]", b"[" * 100_000, b"\xff", b"9" * 5000])
def test_a_configuration_that_is_no_object_is_none(raw: bytes) -> None:
    assert parse_configuration(raw) is None


def test_each_manifest_is_read_once_and_attestations_not_at_all() -> None:
    attestation = make_image(layers=[3], compression="none")
    about = {
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    marked = replace(attestation, descriptor={**attestation.descriptor, **about})
    store = MemoryStore()
    top = stock(store, make_index(make_image(platforms=["linux/amd64"]), marked))
    read: list[str] = []
    repository = store.repository(RepositoryName("team/app"))

    class Counting:
        def resolve(self, reference: str) -> Descriptor:
            return repository.resolve(reference)

        def manifest(self, descriptor: Descriptor) -> bytes:
            read.append(str(descriptor.digest))
            return repository.manifest(descriptor)

        def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
            return repository.blob(descriptor, offset)

        def reject(self, descriptor: Descriptor) -> bool:
            return False

    source = Remembering(Counting())
    found = inspect(source, top, Platform.parse("amd64"), lambda items, work: [work(item) for item in items])
    assert len(read) == len(set(read))
    assert marked.digest not in read
    assert [(item.kind, item.image_bytes is None) for item in found.items] == [
        ("any platform", True),
        ("attestation", True),
    ]
    assert found.configuration is not None
    assert found.configuration.platform == "linux/amd64"
