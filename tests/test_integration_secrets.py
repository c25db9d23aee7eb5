"""Credentials: where they are found, to whom they go, and that they go nowhere else (law 8)."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from command import Ran, run_pierhead, stored, write_registries
from hostile import tls_context
from images import Image, make_image
from pki import Pki
from real import DockerRegistry, push
from staged import Asked, Staged
from tokens import TokenServer
from tunnel import tunnel

pytestmark = pytest.mark.real("docker-registry", "skopeo")

USER = "alice"
APP = make_image(layers=[b"hello", 50_000])
BASIC = 'Basic realm="staged"'


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def authorizations(asked: Iterable[Asked]) -> set[str | None]:
    """What requests bore, None for nothing."""
    return {request.headers.get("Authorization") for request in asked}


# ── the flags, and whom they concern ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def own() -> Iterator[Staged]:
    """The image's own registry; it wants a user and a password."""
    with Staged(APP, challenge=BASIC) as staged:
        yield staged


def mirrored(folder: Path, own: Staged, endpoint: str, more: str = "") -> tuple[str, Path]:
    """`--private-registry` and a file that puts this endpoint before the image's own registry."""
    text = f'mirrors: {{"{own.address}": {{"endpoint": ["{endpoint}"]}}}}\n{more}'
    return "--private-registry", write_registries(folder, text)


def test_creds_are_for_the_registry_itself(own: Staged, tmp_path: Path) -> None:
    name, creds = f"{own.address}/team/app:v1", ("--creds", f"{USER}:flag-password")
    with Staged(APP, challenge=BASIC) as mirror:
        options = mirrored(tmp_path, own, mirror.url)
        (image,) = run_pierhead(
            "pull", *options, *creds, "--plain-http", "-o", "json", "--root", tmp_path / "store", name
        ).images
        assert image["route"] == own.url
        assert image["attempts"][0]["outcome"] == "auth"
        assert mirror.asked
        assert authorizations(mirror.asked) == {None}
    assert authorizations(own.asked[1:]) == {basic(USER, "flag-password")}
    assert stored(tmp_path / "store") == APP.blobs


def test_creds_do_not_go_to_the_token_server_of_a_mirror(own: Staged, tmp_path: Path) -> None:
    name, stdin = f"{own.address}/team/app:v1", ("--creds", USER, "--password-stdin")
    with TokenServer(tmp_path, {USER: "stdin-password"}, anonymous=["pull"]) as tokens:
        challenge = f'Bearer realm="{tokens.url}",service="mirror"'
        with Staged(None, challenge=challenge) as mirror:
            options = mirrored(tmp_path, own, mirror.url)
            arguments = ("pull", *options, *stdin, "--plain-http", "--root", tmp_path / "store", name)
            run_pierhead(*arguments, stdin="stdin-password\n")
            assert {request.grant for request in tokens.requests} == {"anonymous"}
            tokens_seen = authorizations(mirror.asked) - {None}
            assert len(tokens_seen) == 1
            assert all(str(value).startswith("Bearer ") for value in tokens_seen)
    assert authorizations(own.asked[1:]) == {basic(USER, "stdin-password")}


def test_trust_is_for_the_registry_itself(own: Staged, tmp_path: Path, pki: Pki) -> None:
    name = f"{own.address}/team/app:v1"
    flags = ("--creds", f"{USER}:flag-password", "--plain-http", "--insecure", "--ca-file", pki.ca)
    with Staged(APP, tls=tls_context(pki.server.cert, pki.server.key)) as mirror:
        options = mirrored(tmp_path, own, mirror.url)
        ran = run_pierhead("pull", *options, *flags, "-o", "json", "--root", tmp_path / "store", name)
        (image,) = ran.images
        assert image["attempts"][0]["outcome"] == "error"
        assert "certificate" in image["attempts"][0]["cause"]
        assert image["attempts"][0]["url"].startswith("https://")  # nor is it asked in plain http
        assert mirror.asked == []
        assert image["route"] == own.url
        trusting = mirrored(
            tmp_path, own, mirror.url, f'configs: {{"{mirror.address}": {{tls: {{ca_file: {pki.ca}}}}}}}'
        )
        run_pierhead("pull", *trusting, "--root", tmp_path / "other", name)  # it was fit to be trusted
        assert len(mirror.asked) > 1


# ── what logins have left behind ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Login:
    """One place of credentials: the environment that leads to it."""

    source: str
    env: Mapping[str, str]


def docker_login(folder: Path, host: str, password: str) -> Login:
    entry = {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    _write_private(folder / "config.json", {"auths": {host: entry}})
    return Login("docker", {"DOCKER_CONFIG": str(folder)})


def podman_login(folder: Path, host: str, password: str) -> Login:
    entry = {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    _write_private(folder / "auth.json", {"auths": {host: entry}})
    return Login("podman", {"REGISTRY_AUTH_FILE": str(folder / "auth.json")})


def helper_login(folder: Path, host: str, password: str) -> Login:
    _write_private(folder / "config.json", {"credHelpers": {host: "planted"}})
    answer = json.dumps({"ServerURL": host, "Username": USER, "Secret": password})
    helper = folder / "docker-credential-planted"
    helper.write_text(f"#!/bin/sh\ncat >/dev/null\n[ \"$1\" = get ] && printf '%s' '{answer}'\n")
    helper.chmod(0o700)
    return Login("helper", {"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:/usr/bin:/bin"})


def _write_private(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    path.chmod(0o600)


@pytest.mark.parametrize("log_in", [docker_login, podman_login, helper_login])
def test_a_login_is_used_and_shown(own: Staged, tmp_path: Path, log_in: Callable[[Path, str, str], Login]) -> None:
    name = f"{own.address}/team/app:v1"
    place = log_in(tmp_path / "login", own.address, "kept-password")
    (explained,) = run_pierhead("explain", "-o", "json", name, env=place.env).images
    auth = explained["routes"][0]["auth"]
    assert (auth["source"], auth["username"]) == (place.source, USER)
    text = run_pierhead("explain", name, env=place.env)
    assert f"user '{USER}' ({place.source}" in text.out
    assert "kept-password" not in text.said
    run_pierhead("pull", "--root", tmp_path / "store", name, env=place.env)
    assert authorizations(own.asked[1:]) == {basic(USER, "kept-password")}
    assert stored(tmp_path / "store") == APP.blobs


def test_the_order_of_the_places(own: Staged, tmp_path: Path) -> None:
    name, root = f"{own.address}/team/app:v1", tmp_path / "store"
    docker = docker_login(tmp_path / "docker", own.address, "docker-password")
    podman = podman_login(tmp_path / "podman", own.address, "podman-password")
    env = {**docker.env, **podman.env}
    auth = {"auth": {"username": USER, "password": "configs-password"}}
    configs = ("--private-registry", write_registries(tmp_path, json.dumps({"configs": {own.address: auth}})))
    for options, password in (
        ((), "docker-password"),
        (configs, "configs-password"),
        ((*configs, "--creds", f"{USER}:flag-password"), "flag-password"),
    ):
        own.forget()
        run_pierhead("pull", *options, "--root", root, name, env=env)
        assert authorizations(own.asked) == {None, basic(USER, password)}


# ── nothing of it anywhere else ──────────────────────────────────────────────────────────────────────────────────


@dataclass
class RememberingTokenServer(TokenServer):
    """A token server that knows what it gave out."""

    issued: list[str] = field(default_factory=list, repr=False)

    def token(self, user: str, scopes: Iterable[str]) -> str:
        token = super().token(user, scopes)
        self.issued.append(token)
        return token


def forms(secret: str) -> set[str]:
    """How a secret may come to light: as it is, quoted for a URL or a form, as JSON, in base64."""
    packed = {base64.b64encode(text.encode()).decode() for text in (secret, f"{USER}:{secret}", f":{secret}")}
    return {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], *packed}


def assert_nowhere(secrets: Iterable[str], runs: Iterable[Ran], folder: Path) -> None:
    """None of these shows in what was printed or in any file of this folder."""
    texts = {ran.out + ran.err: " ".join(ran.arguments) for ran in runs}
    texts |= {path.read_bytes().decode("latin-1"): str(path) for path in folder.rglob("*") if path.is_file()}
    assert len(texts) > 1
    for secret in secrets:
        for form in forms(secret):
            assert not (found := [place for text, place in texts.items() if form in text]), (form, found)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder that everything a command writes goes to, its temporary files too."""
    folder = tmp_path / "written"
    (folder / "tmp").mkdir(parents=True)
    return folder


def every_way(file: Path, name: str, written: Path, *, code: int = 0, env: Mapping[str, str] = {}) -> list[Ran]:
    """The commands that have to do with credentials, each in every kind of output; one writes a trace."""
    env = {"TMPDIR": str(written / "tmp"), **env}
    options = ("--private-registry", file)
    trace = written / f"trace-{code}.jsonl"
    return [
        run_pierhead("explain", *options, name, env=env),
        run_pierhead("explain", *options, "-o", "json", name, env=env),
        run_pierhead("pull", *options, "--root", written / "one", "--trace", trace, name, env=env, code=code),
        run_pierhead(
            "pull", *options, "--root", written / "two", "--trace", "-", "-o", "json", name, env=env, code=code
        ),
    ]


def traced(text: str) -> list[dict[str, Any]]:
    """The exchanges of a trace."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def configs(folder: Path, host: str, auth: Mapping[str, str]) -> Path:
    return write_registries(folder, json.dumps({"configs": {host: {"auth": auth}}}))


PLANTED = 'pl@nted/pa"ss+word=&é'


def planted_auth(kind: str, password: str) -> dict[str, str]:
    match kind:
        case "password":
            return {"username": USER, "password": password}
        case "auth":
            return {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    raise ValueError(kind)


@pytest.mark.parametrize("kind", ["password", "auth"])
def test_a_password_shows_nowhere(tmp_path: Path, written: Path, kind: str) -> None:
    with DockerRegistry(tmp_path / "registry", htpasswd=(USER, PLANTED)) as registry:
        push_app(registry, tmp_path, APP)
        name = f"{registry.address}/team/app:v1"
        good = every_way(configs(tmp_path, registry.address, planted_auth(kind, PLANTED)), name, written)
        wrong = f"wrong-{PLANTED}"
        bad = every_way(configs(tmp_path, registry.address, planted_auth(kind, wrong)), name, written, code=4)
        assert_nowhere([PLANTED, wrong], [*good, *bad], written)
    assert stored(written / "one") == APP.blobs
    trace = written / "trace-0.jsonl"
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    exchanges = traced(trace.read_text())
    assert [exchange["status"] for exchange in exchanges][:2] == [401, 200]
    assert len(exchanges) == len(traced(good[3].err))
    headers = [dict(exchange["request_headers"]) for exchange in exchanges]
    assert [each.get("Authorization") for each in headers][:2] == [None, "Basic ***"]
    assert all(exchange["timings"] and exchange["method"] for exchange in exchanges)


def push_app(registry: DockerRegistry, folder: Path, image: Image) -> None:
    push(f"dir:{image.write_dir(folder / 'made')}", registry, "team/app:v1")


def test_tokens_show_nowhere(tmp_path: Path, written: Path) -> None:
    with (
        RememberingTokenServer(tmp_path, {USER: PLANTED}) as tokens,
        DockerRegistry(tmp_path / "registry", token=tokens) as registry,
    ):
        source = f"dir:{APP.write_dir(tmp_path / 'made')}"
        push(source, registry, "team/app:v1", "--dest-creds", f"{USER}:{PLANTED}")
        tokens.issued.clear()
        tokens_url = tokens.url
        name = f"{registry.address}/team/app:v1"
        identity = tokens.refresh_token(USER)
        runs = every_way(configs(tmp_path, registry.address, {"identity_token": identity}), name, written)
        runs += every_way(configs(tmp_path, registry.address, {"username": USER, "password": PLANTED}), name, written)
        bad = {"identity_token": "made-up-identity-token"}
        runs += every_way(configs(tmp_path, registry.address, bad), name, written, code=4)
        assert len(tokens.issued) == 4
        assert_nowhere([PLANTED, identity, "made-up-identity-token", *tokens.issued], runs, written)
    exchanges = traced((written / "trace-0.jsonl").read_text())
    assert [exchange["url"] for exchange in exchanges if exchange["method"] == "POST"] == [tokens_url]


def test_a_credential_that_cannot_be_read_shows_nowhere(own: Staged, tmp_path: Path, written: Path) -> None:
    name, broken = f"{own.address}/team/app:v1", "not-base64-but-secret!"
    runs = every_way(configs(tmp_path, own.address, {"auth": broken}), name, written, code=4)
    assert "`auth` is not base64" in runs[0].out
    assert_nowhere([broken], runs, written)


def test_logins_and_flags_show_nowhere(own: Staged, tmp_path: Path, written: Path) -> None:
    name = f"{own.address}/team/app:v1"
    runs = []
    for log_in in (docker_login, podman_login, helper_login):
        env = log_in(tmp_path / log_in.__name__, own.address, PLANTED).env
        trace = written / f"{log_in.__name__}.jsonl"
        runs.append(run_pierhead("explain", "-o", "json", name, env=env))
        runs.append(run_pierhead("pull", "--root", written / "one", "--trace", trace, name, env=env))
    pull = ("pull", "--root", written / "three", "--trace", written / "trace-flag.jsonl", name)
    runs.append(run_pierhead(*pull, "--creds", USER, "--password-stdin", stdin=PLANTED))
    flag = run_pierhead(*pull, "--creds", f"{USER}:{PLANTED}")
    assert_nowhere([PLANTED], [*runs, flag], written)


def test_the_proxy_and_its_password_show_nowhere(tmp_path: Path, written: Path) -> None:
    with tunnel({}) as (through, environment):
        proxy = environment["HTTPS_PROXY"].replace("//", "//somebody:pr0xy-planted@")
        env = {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
        file = write_registries(tmp_path, "")
        runs = every_way(file, "registry.test.example/team/app:v1", written, code=5, env=env)
        assert through.connected
    assert "proxy" in runs[2].err
    assert_nowhere(["pr0xy-planted", "somebody:pr0xy-planted"], runs, written)


def test_userinfo_of_an_endpoint_shows_nowhere(own: Staged, tmp_path: Path, written: Path) -> None:
    file = write_registries(
        tmp_path, f'mirrors: {{"quay.io": {{"endpoint": ["http://{USER}:userinfo-planted@{own.address}"]}}}}'
    )
    env = {"TMPDIR": str(written / "tmp")}
    options = ("--private-registry", file, "--disable-default-registry-endpoint")
    runs = [
        run_pierhead("explain", *options, *output, "quay.io/team/app:v1", env=env) for output in ((), ("-o", "json"))
    ]
    pull = ("pull", *options, "--root", written / "one", "--trace", written / "trace.jsonl")
    runs += [run_pierhead(*pull, *output, "quay.io/team/app:v1", env=env, code=None) for output in ((), ("-o", "json"))]
    assert_nowhere(["userinfo-planted"], runs, written)
