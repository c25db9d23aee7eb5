"""podman and skopeo pull through what is rendered for them; what the registries were asked is in their logs."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from components import program
from images import make_image
from pierhead.config import authjson, podman
from pierhead.config.k3s import Flags, hosts
from pierhead.config.registries import parse
from pierhead.config.rendered import Rendered
from pierhead.files import write_below
from pki import Pki
from real import RUN_SECONDS, DockerRegistry, clean_environment, push
from tokens import TokenServer

USER, PASSWORD = "puller", "s3cret: $HOME"
IMAGES = {name: make_image(layers=[f"{name}\n".encode()]) for name in ("redis", "pause", "app")}

pytestmark = pytest.mark.real("podman", "skopeo", "docker-registry")


@dataclass(frozen=True)
class Yard:
    """Two registries: `guarded` wants TLS, a client certificate and a password, `plain` nothing."""

    guarded: DockerRegistry
    plain: DockerRegistry
    pki: Pki

    def configs(self) -> str:
        tls = f"ca_file: {self.pki.ca}, cert_file: {self.pki.client.cert}, key_file: {self.pki.client.key}"
        account = f"username: {USER}, password: {json.dumps(PASSWORD)}"
        return f'configs:\n  "{self.guarded.address}":\n    auth: {{{account}}}\n    tls: {{{tls}}}\n'

    def asked(self) -> dict[str, list[tuple[str, int]]]:
        """What each was asked for manifests and answered, each once; refusals for want of a login aside."""
        return {name: _manifests(registry) for name, registry in (("guarded", self.guarded), ("plain", self.plain))}

    def forget(self) -> None:
        self.guarded.forget()
        self.plain.forget()


def _manifests(registry: DockerRegistry) -> list[tuple[str, int]]:
    found = [(line.uri, line.status) for line in registry.requests() if "/manifests/" in line.uri]
    return list(dict.fromkeys((uri, status) for uri, status in found if status != 401))


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Yard]:
    """The guarded one has library/redis and mirror/rancher/pause, the plain one hub/rancher/pause and quay/app."""
    folder = tmp_path_factory.mktemp("yard")
    sources = {name: f"dir:{image.write_dir(folder / name)}" for name, image in IMAGES.items()}
    with ExitStack() as stack:
        guarded = DockerRegistry(folder / "guarded", tls=pki, htpasswd=(USER, PASSWORD), client_ca=pki.ca)
        plain = DockerRegistry(folder / "plain")
        yard = Yard(stack.enter_context(guarded), stack.enter_context(plain), pki)
        push(sources["redis"], guarded, "library/redis:v1")
        push(sources["pause"], guarded, "hub/mirror/rancher/pause:v1")
        push(sources["pause"], plain, "mirror/rancher/pause:v1")
        push(sources["app"], plain, "team/app:v1")
        yield yard


@dataclass(frozen=True)
class Puller:
    """podman and skopeo with a home of their own, which holds what was rendered."""

    home: Path
    run: str  # podman wants its path to be short

    def install(self, rendered: Rendered) -> None:
        settings = self.home / ".config/containers"
        shutil.rmtree(settings, ignore_errors=True)
        settings.mkdir(parents=True)
        (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        for file in rendered.files:
            data = Path(file.copy_of).read_bytes() if file.copy_of else file.text.encode()
            write_below(settings, file.path, data, mode=file.mode)

    def podman(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        state = ("--root", str(self.home / "root"), "--runroot", self.run, "--tmpdir", f"{self.run}/libpod")
        return self._run("podman", *state, "--storage-driver", "vfs", *arguments)

    def skopeo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("skopeo", *arguments)

    def _run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = program(name)
        assert path is not None
        logins = {"REGISTRY_AUTH_FILE": str(self.home / ".config/containers/auth.json")}
        environment = clean_environment(self.home, XDG_RUNTIME_DIR=str(self.home), **logins)
        command = [path, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=RUN_SECONDS, check=False
        )


@pytest.fixture
def puller(tmp_path: Path) -> Iterator[Puller]:
    with tempfile.TemporaryDirectory(prefix="podman-") as run:
        yield Puller(tmp_path, run)


def rendered(text: str, *, disabled: bool = False) -> Rendered:
    flags = Flags(disable_default_registry_endpoint=disabled)
    return podman.render(hosts(parse(text.encode(), "registries.yaml"), flags))


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_mirrors_in_order_with_rewrite_tls_and_password(yard: Yard, puller: Puller) -> None:
    text = f"""\
mirrors:
  docker.io:
    endpoint: ["{yard.guarded.url}", "{yard.plain.url}"]
    rewrite: {{"^rancher/(.*)": "mirror/rancher/$1"}}
{yard.configs()}"""
    made = rendered(text)
    assert [problem.severity for problem in made.lost] == ["warning"]  # plain http
    puller.install(made)
    yard.forget()
    done(puller.podman("pull", "--quiet", "docker.io/rancher/pause:v1", "docker.io/redis:v1"))
    assert yard.asked() == {
        "guarded": [("/v2/mirror/rancher/pause/manifests/v1", 404), ("/v2/library/redis/manifests/v1", 200)],
        "plain": [("/v2/mirror/rancher/pause/manifests/v1", 200)],
    }
    listed = done(puller.podman("images", "--format", "{{.Repository}}:{{.Tag}}@{{.Digest}}")).split()
    assert sorted(listed) == [
        f"docker.io/library/redis:v1@{IMAGES['redis'].digest}",
        f"docker.io/rancher/pause:v1@{IMAGES['pause'].digest}",
    ]


def test_a_path_and_a_prefix_for_every_name(yard: Yard, puller: Puller) -> None:
    text = f"""\
mirrors:
  quay.io:
    endpoint: ["{yard.guarded.url}/v2/hub"]
    rewrite: {{"^(.*)$": "mirror/$1"}}
{yard.configs()}"""
    puller.install(rendered(text))
    yard.forget()
    raw = done(puller.skopeo("inspect", "--raw", "docker://quay.io/rancher/pause:v1"))
    assert raw.encode() == IMAGES["pause"].blobs[IMAGES["pause"].digest]
    assert yard.asked() == {"guarded": [("/v2/hub/mirror/rancher/pause/manifests/v1", 200)], "plain": []}


@pytest.mark.parametrize("disabled", [False, True])
def test_the_default_endpoint(yard: Yard, puller: Puller, disabled: bool) -> None:
    """Behind the mirrors the registry itself is asked; not if that is disabled. Public names fail in DNS here."""
    text = f'mirrors:\n  quay.example: {{endpoint: ["{yard.guarded.url}", "{yard.plain.url}"]}}\n{yard.configs()}'
    made = rendered(text, disabled=disabled)
    puller.install(made)
    yard.forget()
    failed = puller.skopeo("inspect", "docker://quay.example/no/such:v1")
    assert failed.returncode != 0
    assert yard.asked() == {
        "guarded": [("/v2/no/such/manifests/v1", 404)],
        "plain": [("/v2/no/such/manifests/v1", 404)],
    }
    assert ("https://quay.example/v2/" in failed.stderr) is not disabled


def test_a_registry_by_plain_http(yard: Yard, puller: Puller) -> None:
    puller.install(rendered(f'mirrors:\n  "{yard.plain.address}": {{endpoint: ["{yard.plain.url}"]}}\n'))
    yard.forget()
    done(puller.skopeo("inspect", "--raw", f"docker://{yard.plain.address}/team/app:v1"))
    assert yard.asked()["plain"] == [("/v2/team/app/manifests/v1", 200)]
    puller.install(rendered("mirrors: {}\n"))
    assert (
        "HTTP response to HTTPS client" in puller.skopeo("inspect", f"docker://{yard.plain.address}/team/app:v1").stderr
    )


def test_what_may_not_be_asked_is_blocked(yard: Yard, puller: Puller) -> None:
    """A mirror whose names cannot be said, and nobody else allowed: the registry must not be asked instead."""
    text = f"""\
mirrors:
  quay.example:
    endpoint: ["{yard.plain.url}"]
    rewrite: {{"^(.*)-(.*)$": "$2/$1"}}
"""
    puller.install(rendered(text, disabled=True))
    yard.forget()
    assert "is blocked in" in puller.skopeo("inspect", "docker://quay.example/team/app:v1").stderr
    assert yard.asked() == {"guarded": [], "plain": []}


def test_auth_json_alone(yard: Yard, puller: Puller) -> None:
    config = parse(f"{yard.configs()}".encode(), "registries.yaml")
    puller.install(authjson.render(hosts(config)))
    image = f"docker://{yard.guarded.address}/library/redis:v1"
    certificates = f"--cert-dir={puller.home / 'certificates'}"
    shutil.copytree(yard.guarded.folder / "certificates", puller.home / "certificates")
    raw = done(puller.skopeo("inspect", "--raw", certificates, image))
    assert raw.encode() == IMAGES["redis"].blobs[IMAGES["redis"].digest]
    (puller.home / ".config/containers/auth.json").write_text("{}")
    assert "authentication required" in puller.skopeo("inspect", certificates, image).stderr


def test_an_identity_token(tmp_path: Path, puller: Puller, pki: Pki) -> None:
    image = IMAGES["app"]
    with (
        TokenServer(tmp_path, {USER: PASSWORD}) as tokens,
        DockerRegistry(tmp_path / "registry", tls=pki, token=tokens) as registry,
    ):
        push(f"dir:{image.write_dir(tmp_path / 'app')}", registry, "team/app:v1", f"--dest-creds={USER}:{PASSWORD}")
        text = f"""\
mirrors:
  quay.io: {{endpoint: ["{registry.url}"]}}
configs:
  "{registry.address}":
    auth: {{identity_token: {tokens.refresh_token(USER)}}}
    tls: {{ca_file: {pki.ca}}}
"""
        puller.install(rendered(text, disabled=True))
        tokens.requests.clear()
        raw = done(puller.skopeo("inspect", "--raw", "docker://quay.io/team/app:v1"))
        assert raw.encode() == image.blobs[image.digest]
        assert [(request.grant, request.status) for request in tokens.requests] == [("refresh_token", 200)]
