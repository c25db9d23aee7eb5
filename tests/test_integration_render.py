"""The files of `pierhead render containerd` under the real containerd: ctr and the CRI ask what `explain` prints."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from command import run_pierhead, write_registries
from cri import CallFailed, ImageService, image_service
from pierhead.config.containerd_files import IMPORTED, PASTED
from real import Containerd, clean_environment, run
from recorder import Record, ScriptedImage, play

pytestmark = pytest.mark.real("containerd", "ctr", "runc")

IMAGES = ScriptedImage.load()
APP: Final = {"image": "oci"}
TLS: Final = {**APP, "scheme": "https"}
NOTHING: Final[dict[str, Any]] = {"image": None}
CRI_NAMESPACE: Final = "k8s.io"
NAME: Final = "docker.io/team/app:v1"
LOGIN: Final = "configs: {'<one>': {auth: {username: u, password: 'p\"'}}}\n"


@dataclass(frozen=True)
class Case:
    """A registries.yaml in which `<one>`, `<two>` and `<dead>` are addresses and `<pki>` a folder, and who answers.

    `client`: whose `explain` says what stock containerd then asks.
    """

    yaml: str
    hosts: dict[str, dict[str, Any]]
    image: str = NAME
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    client: str = "containerd"
    pulled: bool = True
    basic: str | None = None


def mirror(*endpoints: str, key: str = "docker.io") -> str:
    return f"mirrors: {{'{key}': {{endpoint: {list(endpoints)}}}}}\n"


def tls(**settings: str) -> str:
    return f"configs: {{'<one>': {{tls: {settings}}}}}\n"


OWN_CA: Final = tls(ca_file="<pki>/ca.pem")
CLIENT: Final = tls(ca_file="<pki>/ca.pem", cert_file="<pki>/client.pem", key_file="<pki>/client.key")
UNCHECKED: Final = "configs: {'<one>': {tls: {insecure_skip_verify: true}}}\n"
PREFIX: Final = "mirrors: {docker.io: {endpoint: ['http://<one>'], rewrite: {'^(.*)$': 'p/q/$1'}}}\n"
HEADER: Final = ("--header-auth",)
OFF: Final = ("--disable-default-registry-endpoint",)

CASES = {
    "mirror": Case(mirror("http://<one>"), {"one": APP}),
    "dead first": Case(mirror("http://<dead>", "http://<one>"), {"one": APP}),
    "empty first": Case(mirror("http://<one>", "http://<two>"), {"one": NOTHING, "two": APP}),
    "own CA": Case(mirror("https://<one>") + OWN_CA, {"one": TLS}),
    "client certificate": Case(mirror("https://<one>") + CLIENT, {"one": {**TLS, "client_ca": "ca"}}),
    "not verified": Case(mirror("https://<one>") + UNCHECKED, {"one": {**TLS, "cert": "wrongname"}}),
    "path": Case(mirror("http://<one>/hub/x"), {"one": {**APP, "prefix": "/hub/x"}}),
    "wildcard": Case(mirror("http://<one>", key="*"), {"one": APP}, image="quay.io/team/app:v1"),
    "no mirror": Case(
        LOGIN,
        {"one": {**APP, "auth": {"type": "basic", "credentials": 'u:p"'}}},
        image="<one>/team/app:v1",
        options=HEADER,
        basic='u:p"',
    ),
    "fallback": Case(mirror("http://<one>", key="<two>"), {"one": NOTHING, "two": APP}, image="<two>/team/app:v1"),
    "default off": Case(
        mirror("http://<one>", key="<two>"),
        {"one": NOTHING, "two": APP},
        image="<two>/team/app:v1",
        flags=OFF,
        client="k3s",
        pulled=False,
    ),
    "default off, last mirror": Case(
        mirror("http://<one>", "https://<two>/hub", key="*") + "configs: {'<two>': {tls: {ca_file: <pki>/ca.pem}}}\n",
        {"one": NOTHING, "two": {**TLS, "prefix": "/hub"}},
        image="quay.io/team/app:v1",
        flags=OFF,
        client="k3s",
    ),
    "prefix": Case(PREFIX, {"one": {**APP, "repos": ["p/q/team/app"]}}, client="k3s"),
    "header": Case(
        mirror("http://<one>") + LOGIN,
        {"one": {**APP, "auth": {"type": "basic", "credentials": 'u:p"'}}},
        options=HEADER,
        basic='u:p"',
    ),
}


@dataclass(frozen=True)
class Staged:
    """A case with its hosts listening: real addresses in its file, and everything that is asked."""

    folder: Path
    case: Case
    record: Record
    places: dict[str, str]
    behaviours: dict[str, dict[str, Any]]
    dead: str

    @property
    def image(self) -> str:
        return self.real(self.case.image)

    def real(self, text: str) -> str:
        """`text` with the real addresses in it."""
        for name, place in self.places.items():
            text = text.replace(f"<{name}>", place)
        return text

    def explained(self) -> list[str]:
        """The manifest URLs that `explain` prints, in order, but for those where nobody listens."""
        options = (*self._options(), "--client", self.case.client, "-o", "json")
        routes = run_pierhead("explain", *options, self.image).images[0]["routes"]
        return [route["manifest_url"] for route in routes if self.dead not in route["manifest_url"]]

    def render(self) -> Path:
        """What `pierhead render` makes of the file."""
        out = self.folder / "out"
        run_pierhead("render", "containerd", *self._options(), *self.case.options, "--out", out)
        return out

    def urls(self, requests: Sequence[dict[str, Any]]) -> list[str]:
        schemes = {name: behaviour.get("scheme", "http") for name, behaviour in self.behaviours.items()}
        return [
            f"{schemes[request['host']]}://{self.places[request['host']]}{request['path']}"
            + (f"?{request['query']}" if request["query"] else "")
            for request in requests
        ]

    def _options(self) -> tuple[str | Path, ...]:
        return "--private-registry", self.folder / "registries.yaml", *self.case.flags


Stage = Callable[[Case], Staged]


@pytest.fixture(scope="module")
def stages() -> Iterator[ExitStack]:
    """Hosts that listen until containerd has ended: it keeps connections, and closing waits for them."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def stage(stages: ExitStack, tmp_path: Path, vector_pki: Path, closed_port: str) -> Stage:
    """Brings a case on stage."""

    def enter(case: Case) -> Staged:
        behaviours = {name: dict(behaviour) for name, behaviour in case.hosts.items()}
        played = stages.enter_context(play(behaviours, IMAGES, vector_pki))
        places = {**played.places, "dead": closed_port, "pki": str(vector_pki)}
        staged = Staged(tmp_path, case, played.record, places, behaviours, closed_port)
        write_registries(tmp_path, staged.real(case.yaml))
        return staged

    return enter


@pytest.fixture(scope="module")
def containerd(stages: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """One for all: certs.d is read anew for every pull. ctr's namespace is one that the CRI takes no notice of."""
    with Containerd(tmp_path_factory.mktemp("containerd"), "default") as running:
        yield running


@pytest.fixture(scope="module")
def cri(containerd: Containerd) -> Iterator[ImageService]:
    with image_service(containerd.socket) as service:
        yield service


def install(rendered: Path, containerd: Containerd) -> None:
    """Let containerd read these files from its next pull on."""
    shutil.rmtree(containerd.certs_d)
    shutil.copytree(rendered / "certs.d", containerd.certs_d)


def by_ctr(containerd: Containerd, image: str) -> bool:
    """Whether ctr pulls the image; it is listed under its own name, and forgotten."""
    try:
        containerd.pull(image)
    except AssertionError:
        return False
    assert list(containerd.images()) == [image]
    forget_all(containerd, containerd.namespace)
    return True


def by_cri(containerd: Containerd, cri: ImageService, image: str) -> bool:
    """Whether the CRI pulls the image; it is listed under its own name, and forgotten."""
    try:
        cri.pull(image)
    except CallFailed:
        return False
    (listed,) = cri.images()
    repository, _, _ = image.rpartition(":")
    assert (listed.tags, listed.digests) == ((image,), (f"{repository}@{IMAGES['oci'].target}",))
    forget_all(containerd, CRI_NAMESPACE)
    return True


def forget_all(containerd: Containerd, namespace: str) -> None:
    """Remove every image with its content, so that the next pull, by whom ever, fetches all of it."""
    own = ("ctr", "--address", containerd.socket, "--namespace", namespace, "images")
    names = run((*own, "list", "--quiet"), clean_environment(containerd.folder)).split()
    run((*own, "remove", "--sync", *names), clean_environment(containerd.folder))


def assert_asked(staged: Staged, requests: Sequence[dict[str, Any]], wanted: Sequence[str]) -> None:
    """The tag was looked for at these places in this order until one had it, and all content was fetched there."""
    case = staged.case
    heads = staged.urls([request for request in requests if request["method"] == "HEAD"])
    assert heads == list(wanted[: len(heads)])
    assert case.pulled or len(heads) == len(wanted)
    found = staged.urls([request for request in requests if request["status"] == 200])
    assert len(found) == (1 + 1 + 1 + len(IMAGES["oci"].layers) if case.pulled else 0)  # HEAD, manifest, config
    assert all(url.startswith(heads[-1].partition("manifests/")[0]) for url in found)
    assert {request.get("basic") for request in requests} == {case.basic}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_containerd_asks_what_explain_prints(
    case: Case, stage: Stage, containerd: Containerd, cri: ImageService
) -> None:
    staged = stage(case)
    wanted = staged.explained()
    install(staged.render(), containerd)
    assert by_ctr(containerd, staged.image) == case.pulled
    asked = len(staged.record.requests)
    assert by_cri(containerd, cri, staged.image) == case.pulled
    assert_asked(staged, staged.record.requests[:asked], wanted)
    assert_asked(staged, staged.record.requests[asked:], wanted)


# ── what is said of containerd ───────────────────────────────────────────────────────────────────────────────────


def test_a_redirect_to_another_host_does_not_get_the_header(stage: Stage, containerd: Containerd) -> None:
    staged = stage(replace(CASES["header"], hosts={**CASES["header"].hosts, "two": APP}))
    elsewhere = staged.places["two"].replace("127.0.0.1", "localhost")
    redirect = {"kind": "blob", "do": {"redirect": f"http://{elsewhere}/store/{{digest}}"}}
    staged.behaviours["one"]["rules"] = [redirect]
    install(staged.render(), containerd)
    assert by_ctr(containerd, staged.image)
    sent = {(request["host"], request["auth"]) for request in staged.record.requests}
    assert sent == {("one", "basic"), ("two", "none")}


def test_the_header_is_not_for_token_servers_in_containerd_1(stage: Stage, containerd: Containerd) -> None:
    staged = stage(CASES["header"])
    realm = f"http://{staged.places['one']}/token"
    staged.behaviours["one"] |= {"auth": {"type": "bearer", "realm": realm}, "token": {"credentials": 'u:p"'}}
    install(staged.render(), containerd)
    assert not by_ctr(containerd, staged.image)
    assert {request["auth"] for request in staged.record.requests if request["path"] == "/token"} == {"none"}


def test_an_ipv6_mirror_makes_containerd_1_ignore_the_file(
    stage: Stage, containerd: Containerd, cri: ImageService
) -> None:
    staged = stage(Case(mirror("http://<[::1]>"), {"[::1]": APP}))
    install(staged.render(), containerd)
    assert not by_cri(containerd, cri, staged.image)
    assert staged.record.requests == []
    assert "table key cannot contain ']'" in containerd.said()


def test_http_with_tls_settings_stays_http_in_old_containerd(stage: Stage, containerd: Containerd) -> None:
    staged = stage(Case(mirror("http://<one>") + OWN_CA, {"one": TLS}))
    assert staged.explained()[0].startswith("https://")
    install(staged.render(), containerd)
    assert not by_ctr(containerd, staged.image)
    assert staged.record.events == {"one": {"plain_http_on_tls": 1}}


def test_credentials_in_config_toml_are_for_the_cri(stage: Stage, tmp_path: Path) -> None:
    staged = stage(replace(CASES["header"], options=()))
    out = staged.render()
    with Containerd(tmp_path / "containerd", "default", more=(out / PASTED).read_text()) as containerd:
        install(out, containerd)
        assert not by_ctr(containerd, staged.image)
        asked = len(staged.record.requests)
        with image_service(containerd.socket) as cri:
            assert by_cri(containerd, cri, staged.image)
    assert {request["auth"] for request in staged.record.requests[:asked]} == {"none"}
    assert {request.get("basic") for request in staged.record.requests[asked:]} == {None, 'u:p"'}


def test_containerd_1_loses_its_settings_to_an_imported_part(stage: Stage, tmp_path: Path) -> None:
    out = stage(replace(CASES["header"], options=())).render()
    part = (out / PASTED).read_text()
    settings = '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/certs.d"\n'
    assert '"/certs.d"' in dumped(tmp_path, f"version = 2\n{settings}{part}")
    (tmp_path / "part.toml").write_text(f"version = 2\n{part}")
    merged = dumped(tmp_path, f'version = 2\nimports = ["{tmp_path}/part.toml"]\n{settings}')
    assert 'username = "u"' in merged
    assert '"/certs.d"' not in merged


@pytest.mark.parametrize("options", [(), HEADER])
def test_only_root_reads_the_credentials(options: tuple[str, ...], stage: Stage) -> None:
    out = stage(replace(CASES["header"], options=options)).render()
    secret = out.rglob("hosts.toml") if options else map(out.joinpath, (IMPORTED, PASTED))
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}


def dumped(folder: Path, text: str) -> str:
    """The configuration that containerd makes of this one."""
    (folder / "config.toml").write_text(text)
    return run(("containerd", "--config", folder / "config.toml", "config", "dump"), clean_environment(folder))
