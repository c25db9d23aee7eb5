"""Logins tried at real registries, with a password file and with tokens; podman and skopeo pull with what is kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from command import Ran, run_pierhead, write_registries
from images import make_image
from pki import Pki
from real import DockerRegistry, clean_environment, push, run
from tokens import TokenServer

pytestmark = pytest.mark.real("docker-registry", "skopeo", "podman")

USER, PASSWORD = "alice", "pl4nted \"s3cret\" \\ 'of: $alice'"
APP = make_image(layers=[b"hello"])
IMAGE = "team/app:v1"


@dataclass(frozen=True)
class Registries:
    """`users` has TLS and a password file, `tokens` sends to a token server."""

    users: DockerRegistry
    tokens: DockerRegistry
    token_server: TokenServer


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Registries]:
    folder = tmp_path_factory.mktemp("registries")
    (folder / "token-server").mkdir()
    source = f"dir:{APP.write_dir(folder / 'app')}"
    with ExitStack() as running:
        token_server = running.enter_context(TokenServer(folder / "token-server", {USER: PASSWORD}))
        users = running.enter_context(DockerRegistry(folder / "users", tls=pki, htpasswd=(USER, PASSWORD)))
        tokens = running.enter_context(DockerRegistry(folder / "tokens", token=token_server))
        push(source, users, IMAGE)
        push(source, tokens, IMAGE, "--dest-creds", f"{USER}:{PASSWORD}")
        yield Registries(users, tokens, token_server)


@dataclass(frozen=True)
class Person:
    """Somebody with a home, who has no login yet."""

    home: Path
    state: str  # of podman, which wants its path to be short

    @property
    def config(self) -> Path:
        return self.home / ".docker" / "config.json"

    def login(self, registry: DockerRegistry, *options: str | Path, password: str = PASSWORD, code: int = 0) -> Ran:
        arguments = ("login", registry.address, "-u", USER, "--password-stdin", *options)
        ran = run_pierhead(*arguments, env={"HOME": str(self.home)}, stdin=f"{password}\n", code=code)
        assert password not in ran.out + ran.err
        return ran

    def run(self, *arguments: str | Path, **more: str) -> str:
        return run(arguments, clean_environment(self.home, XDG_RUNTIME_DIR=str(self.home / "run"), **more))

    def inspected(self, registry: DockerRegistry, **more: str) -> str:
        """The digest that skopeo finds, with whatever login it knows of."""
        options = ("--tls-verify=false",)
        found = self.run("skopeo", "inspect", *options, f"docker://{registry.address}/{IMAGE}", **more)
        return str(json.loads(found)["Digest"])

    def podman(self, *arguments: str, **more: str) -> str:
        places = ("--root", str(self.home / "root"), "--runroot", self.state, "--tmpdir", f"{self.state}/libpod")
        settings = self.home / ".config" / "containers"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        return self.run("podman", *places, "--storage-driver", "vfs", *arguments, **more)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    with tempfile.TemporaryDirectory(prefix="podman-") as state:
        yield Person(tmp_path, state)


def test_a_password_file(person: Person, registries: Registries, pki: Pki) -> None:
    users = registries.users
    refused = person.login(users, "--ca-file", pki.ca, password="wrong-s3cret", code=4)
    assert "refuses the login" in refused.err
    assert not person.config.exists()
    person.login(users, "--ca-file", pki.ca)
    assert person.inspected(users) == APP.digest
    pulled = run_pierhead(
        *("pull", f"{users.address}/{IMAGE}", "--ca-file", pki.ca, "-o", "json", "--root", person.home / "store"),
        env={"HOME": str(person.home)},
    )
    assert pulled.images[0]["digest"] == APP.digest


def test_tokens_by_whom_they_are_given(person: Person, registries: Registries) -> None:
    tokens, server = registries.tokens, registries.token_server
    server.requests.clear()
    assert "refuses the login" in person.login(tokens, "--plain-http", password="wrong-s3cret", code=4).err
    assert {request.status for request in server.requests} == {401}
    assert not person.config.exists()
    person.login(tokens, "--plain-http")
    assert (server.requests[-1].user, server.requests[-1].status) == (USER, 200)
    assert person.inspected(tokens) == APP.digest


def test_podman_pulls_with_the_file_and_skopeo_takes_it_out(person: Person, registries: Registries) -> None:
    tokens = registries.tokens
    person.login(tokens, "--plain-http")
    login = {"REGISTRY_AUTH_FILE": str(person.config)}
    assert person.podman("login", "--get-login", tokens.address, **login) == f"{USER}\n"
    person.podman("pull", "--quiet", "--tls-verify=false", f"{tokens.address}/{IMAGE}", **login)
    person.run("skopeo", "logout", tokens.address, **login)
    assert json.loads(person.config.read_text()).get("auths", {}) == {}


def test_what_podman_wrote_is_taken_out_and_the_other_way_round(person: Person, registries: Registries) -> None:
    tokens, file = registries.tokens, person.home / "auth.json"
    person.login(tokens, "--plain-http", "--authfile", file)
    ours = json.loads(file.read_text())
    person.run("skopeo", "logout", "--authfile", file, tokens.address)
    options = ("--authfile", file, "--tls-verify=false", "-u", USER, "-p", PASSWORD)
    person.run("skopeo", "login", *options, tokens.address)
    assert json.loads(file.read_text()) == ours
    run_pierhead("logout", tokens.address, "--authfile", file, env={"HOME": str(person.home)})
    assert json.loads(file.read_text()) == {"auths": {}}


def test_a_login_in_registries_yaml_is_what_a_pull_uses(person: Person, registries: Registries, pki: Pki) -> None:
    users = registries.users
    text = f"""\
mirrors:
  hub.example:
    endpoint: [{users.url}]  # ours
configs:
  {users.address!r}:
    tls:
      ca_file: {pki.ca}
"""
    file = write_registries(person.home, text.partition("configs:")[0])
    refused = person.login(users, f"--registries-yaml={file}", code=5)
    assert "certificate is not accepted" in refused.err
    file.write_text(text)
    pull = ("pull", f"hub.example/{IMAGE}", "--private-registry", file, "--root", person.home / "store")
    assert run_pierhead(*pull, code=None).code != 0
    person.login(users, f"--registries-yaml={file}")
    assert file.read_text().startswith(text)
    ran = run_pierhead(*pull)
    assert APP.digest in ran.out
    run_pierhead("logout", users.address, f"--registries-yaml={file}")
    assert file.read_text() == text
