"""ls, inspect, digest and lock against the real registry: in pages, with TLS and a user, and with tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import run_pierhead, write_registries
from images import make_image
from pierhead.ask import Memory, carry_out
from pierhead.browse import PAGE_ITEMS, repositories, tags
from pierhead.locked import Lock
from pierhead.reference import Reference
from pierhead.routing import Route
from pierhead.transport import CurlTransport
from pki import Pki
from real import DockerRegistry, push
from scripted import route
from tokens import TokenServer
from uploads import upload

pytestmark = pytest.mark.real("docker-registry", "skopeo")

USER, PASSWORD = "alice", "hunter2-s3cret"
APP = make_image(layers=[100], compression="none")
PLATFORMS = make_image(layers=[200], platforms=["linux/amd64", "linux/arm64"], compression="none")
REPOSITORIES = [f"team/app{number}" for number in range(5)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry with a few repositories, one of them with a few tags."""
    with DockerRegistry(tmp_path_factory.mktemp("plain")) as registry:
        for name in REPOSITORIES:
            upload(registry.url, name, APP, "v1")
        for tag in ("v2", "v3", "v4"):
            upload(registry.url, REPOSITORIES[0], APP, tag)
        upload(registry.url, "team/platforms", PLATFORMS, "v1")
        yield registry


def here(registry: DockerRegistry, repository: str = "") -> Route:
    return route(kind="default", scheme="http", host=registry.address, repository=repository)


def test_every_page_of_the_real_registry_is_read(plain: DockerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.browse.PAGE_ITEMS", 2)
    transport = CurlTransport(user_agent="tests", environment={})
    plain.forget()
    try:
        listed = carry_out(repositories(Memory(lambda host: None), here(plain)), transport)
        tagged = carry_out(tags(Memory(lambda host: None), here(plain, REPOSITORIES[0])), transport)
    finally:
        transport.close()
    assert listed.names == (*REPOSITORIES, "team/platforms")
    assert tagged.names == ("v1", "v2", "v3", "v4")
    asked = [served.uri for served in plain.requests(4)]
    assert asked[0] == "/v2/_catalog?n=2"
    assert sum(uri.startswith("/v2/_catalog") for uri in asked) >= 3


def test_the_real_registry_gives_as_many_at_once_as_we_ask_for(plain: DockerRegistry) -> None:
    assert PAGE_ITEMS <= 1000  # it answers 400 to more
    assert run_pierhead("ls", "--plain-http", plain.address).out.split() == [*REPOSITORIES, "team/platforms"]
    ran = run_pierhead("ls", "--plain-http", "--digests", f"{plain.address}/{REPOSITORIES[0]}")
    assert ran.out == "".join(f"v{number} {APP.digest}\n" for number in range(1, 5))
    ran = run_pierhead("ls", "--plain-http", f"{plain.address}/team/gone", code=3)
    assert "404 Not Found; NAME_UNKNOWN" in ran.err
    assert f"{plain.address} has no repository 'team/gone'" in ran.err


def test_a_tag_that_moves_in_the_real_registry_is_seen(plain: DockerRegistry, tmp_path: Path) -> None:
    name, file, newer = f"{plain.address}/team/moving:v1", tmp_path / "images.lock", make_image(layers=[101])
    upload(plain.url, "team/moving", PLATFORMS, "v1")
    run_pierhead("lock", "--plain-http", name, "-o", file)
    assert [item.platform for item in Lock.read(file).images[name].platforms] == ["linux/amd64", "linux/arm64"]
    assert run_pierhead("digest", "--plain-http", name).out.strip() == PLATFORMS.digest
    upload(plain.url, "team/moving", newer, "v1")
    plain.forget()
    pull = ("pull", "--plain-http", "--platform", "all", "--root", tmp_path / "store", "--locked", file)
    ran = run_pierhead(*pull, name, code=1)
    assert PLATFORMS.digest in ran.err
    assert newer.digest in ran.err
    assert [served.method for served in plain.requests(1)] == ["HEAD"]  # nothing of it was fetched
    run_pierhead(*pull, f"{Reference.parse(name).name}@{PLATFORMS.digest}")


# ── with a user, by registries.yaml ──────────────────────────────────────────────────────────────────────────────


def test_tls_and_a_user_come_from_the_configuration(tmp_path: Path, pki: Pki) -> None:
    with DockerRegistry(tmp_path / "registry", tls=pki, htpasswd=(USER, PASSWORD)) as registry:
        push(f"dir:{APP.write_dir(tmp_path / 'app')}", registry, "team/app:v1")
        auth = {"username": USER, "password": PASSWORD}
        entry = {"auth": auth, "tls": {"ca_file": pki.ca}}
        file = write_registries(tmp_path, json.dumps({"configs": {registry.address: entry}}))
        trace = tmp_path / "trace.jsonl"
        known = ("--private-registry", file, "--trace", trace)
        name = f"{registry.address}/team/app"
        said = [
            run_pierhead("ls", *known, registry.address),
            run_pierhead("ls", *known, name),
            run_pierhead("digest", *known, f"{name}:v1"),
            run_pierhead("inspect", *known, f"{name}:v1"),
            run_pierhead("lock", *known, f"{name}:v1"),
        ]
        assert [ran.out for ran in said[:3]] == ["team/app\n", "v1\n", f"{APP.digest}\n"]
        assert PASSWORD not in trace.read_text() + "".join(ran.out + ran.err for ran in said)

        flags = ("--ca-file", pki.ca, "--creds", USER, "--password-stdin")
        assert run_pierhead("ls", *flags, registry.address, stdin=PASSWORD).out == "team/app\n"
        ran = run_pierhead("ls", *flags, registry.address, stdin="wr0ng-s3cret", code=4)
        assert f"the repositories of {registry.address} cannot be listed: 401 Unauthorized" in ran.err
        assert "s3cret" not in ran.err
        assert "wants a user name and password" in run_pierhead("ls", registry.address, code=4).err


# ── with tokens ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_asked_for_just_what_is_needed(tmp_path: Path) -> None:
    with (
        TokenServer(tmp_path, {USER: PASSWORD}, anonymous=("pull",)) as server,
        DockerRegistry(tmp_path / "registry", token=server) as registry,
    ):
        push(f"dir:{APP.write_dir(tmp_path / 'app')}", registry, "team/app:v1", "--dest-creds", f"{USER}:{PASSWORD}")
        server.requests.clear()
        name = f"{registry.address}/team/app"
        assert run_pierhead("ls", "--plain-http", name).out == "v1\n"
        assert [asked.scopes for asked in server.requests] == [("repository:team/app:pull",)]

        server.requests.clear()
        flags = ("--plain-http", "--creds", USER, "--password-stdin")
        assert run_pierhead("ls", *flags, registry.address, stdin=PASSWORD).out == "team/app\n"
        assert [(asked.user, asked.scopes) for asked in server.requests] == [(USER, ("registry:catalog:*",))]

        ran = run_pierhead("ls", "--plain-http", registry.address, code=4)  # anybody may pull, and not look around
        assert "shows its catalog to few, or to nobody" in ran.err or "refuses our token" in ran.err
