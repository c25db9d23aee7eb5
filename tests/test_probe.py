"""The installed `pierhead probe` against real registries: every kind of broken TLS, of credentials and of content."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from command import Ran, run_pierhead, start_pierhead, write_registries
from front import Nginx
from hostile import HostileServer, refusing_place
from images import Image, make_image
from pki import Pair, Pki
from real import DockerRegistry, eventually, push
from tokens import TokenServer
from tunnel import tunnel

pytestmark = pytest.mark.real("docker-registry", "skopeo")

USER, PASSWORD = "alice", "s3cret-of-alice"
APP = make_image(layers=[b"hello", 300_000])
OTHER = make_image(layers=[b"something else"])
PLATFORMS = make_image(layers=[2000], platforms=["linux/amd64", "linux/arm64"])


def fill(registry: DockerRegistry, folder: Path, images: dict[str, Image]) -> DockerRegistry:
    for number, (name, image) in enumerate(images.items()):
        push(f"dir:{image.write_dir(folder / f'{registry.port}-{number}')}", registry, name)
    registry.forget()
    return registry


@dataclass(frozen=True)
class Registries:
    """Docker's registry in every state; `tls` and those after it speak TLS."""

    plain: DockerRegistry
    second: DockerRegistry
    tls: DockerRegistry
    users: DockerRegistry
    expired: DockerRegistry
    wrong_name: DockerRegistry
    other_ca: DockerRegistry
    unnamed: DockerRegistry
    unnamed_certificate: str
    clients: DockerRegistry
    tokens: DockerRegistry
    token_server: TokenServer


def unnamed_pair(folder: Path) -> Pair:
    """A certificate as people made them in old times: for itself, its host in the CN only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.now(UTC), timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day)
    made = builder.not_valid_after(now + 90 * day).sign(key, hashes.SHA256())
    pair = Pair(str(folder / "unnamed.pem"), str(folder / "unnamed.key"))
    Path(pair.cert).write_bytes(made.public_bytes(Encoding.PEM))
    Path(pair.key).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return pair


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Registries]:
    folder = tmp_path_factory.mktemp("registries")
    with ExitStack() as running:

        def start(name: str, images: dict[str, Image], **settings: Any) -> DockerRegistry:
            registry = running.enter_context(DockerRegistry(folder / name, **settings))
            return fill(registry, folder, images)

        (folder / "token-server").mkdir()
        token_server = running.enter_context(TokenServer(folder / "token-server", {USER: PASSWORD}))
        app, unnamed = {"team/app:v1": APP}, unnamed_pair(folder)
        yield Registries(
            plain=start(
                "plain",
                {**app, "team/multi:v1": PLATFORMS, "mirror/app:v1": APP, "library/redis:7": APP, "nginx:1": APP},
            ),
            second=start("second", {"team/app:v1": OTHER}),
            tls=start("tls", app, tls=pki),
            users=start("users", app, tls=pki, htpasswd=(USER, PASSWORD)),
            expired=start("expired", {}, tls=replace(pki, server=pki.expired)),
            wrong_name=start("wrong-name", {}, tls=replace(pki, server=pki.wrong_name)),
            other_ca=start("other-ca", {}, tls=replace(pki, server=pki.other_server)),
            unnamed=start("unnamed", {}, tls=replace(pki, server=unnamed)),
            unnamed_certificate=unnamed.cert,
            clients=start("clients", {}, tls=pki, client_ca=pki.ca),
            tokens=start("tokens", {}, token=token_server),
            token_server=token_server,
        )


@dataclass(frozen=True)
class Prober:
    """Writes a registries.yaml for hub.example and probes; the registry itself is out of it unless told otherwise."""

    folder: Path

    def write(self, *endpoints: str, configs: str = "", rewrite: str = "", registry: str = "hub.example") -> Path:
        lines = ["mirrors:", f"  {registry}:", "    endpoint:", *(f"      - {endpoint}" for endpoint in endpoints)]
        lines += ["    rewrite:", f"      {rewrite}"] if rewrite else []
        lines += ["configs:", *(f"  {line}" for line in configs.splitlines())] if configs else []
        return write_registries(self.folder, "\n".join(lines) + "\n")

    def run(self, file: Path, *arguments: str, code: int = 0, **more: Any) -> Ran:
        flags = ("--private-registry", file, "--disable-default-registry-endpoint")
        ran = run_pierhead("probe", *arguments, *flags, code=code, **more)
        assert PASSWORD not in ran.out + ran.err
        return ran

    def image(self, file: Path, *arguments: str, code: int = 0, image: str = "hub.example/team/app:v1") -> Any:
        return self.run(file, image, "-o", "json", *arguments, code=code).images[0]

    def route(self, file: Path, *arguments: str, code: int = 0, image: str = "hub.example/team/app:v1") -> Any:
        """The first route of an image."""
        return self.image(file, *arguments, code=code, image=image)["routes"][0]


@pytest.fixture
def prober(tmp_path: Path) -> Prober:
    return Prober(tmp_path)


def remedy_of(route: dict[str, Any]) -> tuple[str, int]:
    """The first remedy and its line."""
    first = route["remedies"][0]
    return first["message"], first["line"]


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_everything_there_is_to_say_of_a_route_that_works(prober: Prober, registries: Registries, pki: Pki) -> None:
    host = registries.users.address
    file = prober.write(
        f"https://{host}",
        configs=f'"{host}":\n  auth: {{username: {USER}, password: {PASSWORD}}}\n  tls: {{ca_file: {pki.ca}}}',
    )
    image = prober.image(file, "--blob")
    route = image["routes"][0]
    times = [
        route[phase].pop("ms") for phase in ("dns", "tcp", "tls", "api", "manifest", "blob") if route[phase] is not None
    ]
    assert all(time >= 0 for time in times)
    assert route["manifest"].pop("fetch_ms") > 0
    not_after = route["tls"].pop("not_after")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", not_after)
    smallest = min(APP.manifest["layers"], key=lambda layer: layer["size"])
    assert route == {
        "order": 1,
        "kind": "mirror",
        "endpoint": f"https://{host}",
        "url": f"https://{host}/v2",
        "repository": "team/app",
        "dns": {"addresses": ["127.0.0.1"]},
        "tcp": {"peer": host, "proxy": None},
        "tls": {
            "version": "TLSv1.3",
            "subject": "CN=pierhead test server",
            "issuer": "CN=Test CA",
            "names": ["127.0.0.1", "::1", "localhost", "*.test.example", "test.example"],
            "trusted_by": pki.ca,
            "needed_ca": None,
            "defects": [],
            "verified": True,
            "client_certificate_wanted": False,
        },
        "api": {
            "url": f"https://{host}/v2/",
            "status": 401,
            "challenge": 'Basic realm="pierhead"',
            "error": None,
        },
        "auth": {
            "credential": {"source": "configs", "key": host, "kind": "basic", "username": USER, "line": 7},
            "token": None,
        },
        "manifest": {
            "url": f"https://{host}/v2/team/app/manifests/v1?ns=hub.example",
            "status": 200,
            "digest": APP.digest,
            "media_type": "application/vnd.oci.image.manifest.v1+json",
            "size_bytes": len(APP.blobs[APP.digest]),
            "found_as": None,
        },
        "platforms": None,
        "blob": {
            "digest": smallest["digest"],
            "size_bytes": smallest["size"],
            "status": 206,
            "ranges": True,
            "url": f"https://{host}/v2/team/app/blobs/{smallest['digest']}?ns=hub.example",
        },
        "verdict": "works",
        "reached": True,
        "stage": None,
        "cause": None,
        "exit_code": 0,
        "remedies": [],
        "line": 4,
    }
    assert {key: value for key, value in image.items() if key not in ("routes", "problems")} == {
        "reference": "hub.example/team/app:v1",
        "mirror": {"key": "hub.example", "line": 2},
        "works": True,
        "route": 1,
        "digest": APP.digest,
        "differing": [],
        "skipped": [
            {"endpoint": "hub.example itself", "reason": "the default registry endpoint is disabled", "line": 2}
        ],
        "reported": None,
        "exit_code": 0,
    }


@pytest.mark.parametrize(
    ("kind", "tls", "defects", "remedy", "line"),
    [
        ("tls", "", ["unknown-ca"], 'CN=Test CA: name that CA\'s PEM file in ca_file of configs."{host}".tls', 4),
        ("tls", "{{ca_file: {other_ca}}}", ["unknown-ca"], "from CN=Test CA, and {other_ca} is another CA", 6),
        ("other_ca", "{{ca_file: {ca}}}", ["unknown-ca"], "from CN=Other CA, and {ca} is another CA", 6),
        ("expired", "{{ca_file: {ca}}}", ["expired"], "expired on 2020-01-02: renew it", 4),
        ("expired", "", ["expired", "unknown-ca"], "expired on 2020-01-02", 4),
        ("wrong_name", "{{ca_file: {ca}}}", ["wrong-host"], "is for wrong.invalid, not for 127.0.0.1: write", 4),
        ("unnamed", "{{ca_file: {own}}}", ["no-names"], "has no subjectAltName", 4),
    ],
)
def test_a_certificate_that_is_not_accepted(
    prober: Prober, registries: Registries, pki: Pki, kind: str, tls: str, defects: list[str], remedy: str, line: int
) -> None:
    host = getattr(registries, kind).address
    names = {"ca": pki.ca, "other_ca": pki.other_ca, "own": registries.unnamed_certificate, "host": host}
    file = prober.write(f"https://{host}", configs=f'"{host}": {{tls: {tls.format(**names)}}}' if tls else "")
    image = prober.image(file, code=5)
    route = image["routes"][0]
    assert route["tls"]["defects"] == defects
    assert route["tls"]["verified"] is False
    assert (route["verdict"], route["exit_code"], route["stage"]) == ("skipped", 5, "resolve")
    message, at = remedy_of(route)
    assert remedy.format(**names) in message
    assert at == line
    assert "tls: failed to verify certificate: x509: " in image["reported"]


def test_an_unverified_certificate_works_and_its_faults_are_shown(prober: Prober, registries: Registries) -> None:
    host = registries.tls.address
    file = prober.write(f"https://{host}", configs=f'"{host}": {{tls: {{insecure_skip_verify: true}}}}')
    route = prober.route(file)
    assert (route["verdict"], route["tls"]["verified"], route["tls"]["defects"]) == ("works", False, ["unknown-ca"])
    assert "not verified (insecure_skip_verify)" in prober.run(file, "hub.example/team/app:v1").out


def test_the_flagship_configs_has_another_name_than_the_endpoint(
    prober: Prober, registries: Registries, pki: Pki
) -> None:
    host = registries.tls.address
    file = prober.write(f"https://{host}", configs=f'"127.0.0.1":\n  tls: {{ca_file: {pki.ca}}}')
    route = prober.route(file, code=5)
    assert route["remedies"] == [
        {
            "message": f"`configs` has `127.0.0.1`, the endpoint is `{host}`, so its TLS settings are not used "
            f"(the port counts): write `{host}`",
            "line": 6,
            "column": 3,
        }
    ]


def test_plain_http_at_an_https_endpoint(prober: Prober, registries: Registries) -> None:
    host = registries.plain.address
    image = prober.image(prober.write(f"https://{host}"), code=5)
    message, line = remedy_of(image["routes"][0])
    assert "server gave an HTTP response to an HTTPS client" in message
    assert f"write http://{host} in the endpoint" in message
    assert line == 4
    assert image["reported"].endswith("http: server gave HTTP response to HTTPS client")


def test_tls_at_an_http_endpoint(prober: Prober, registries: Registries) -> None:
    host = registries.tls.address
    route = prober.route(prober.write(f"http://{host}"), code=1)
    assert remedy_of(route) == (
        f"the port speaks TLS, and is asked by plain http: write https://{host} in the endpoint",
        4,
    )


def test_an_http_endpoint_with_tls_settings_falls_back_as_in_containerd(prober: Prober, registries: Registries) -> None:
    host = registries.plain.address
    file = prober.write(f"http://{host}", configs=f'"{host}": {{tls: {{insecure_skip_verify: true}}}}')
    route = prober.route(file)
    assert (route["verdict"], route["api"]["url"], route["tls"]) == ("works", f"http://{host}/v2/", None)
    assert "the server speaks plain http, as the endpoint says" in prober.run(file, "hub.example/team/app:v1").out


@pytest.mark.parametrize(
    ("client", "remedy", "line"),
    [
        ("", 'wants a client certificate: name one in cert_file and key_file of configs."{host}".tls', 6),
        (", cert_file: {other.cert}, key_file: {other.key}", "does not accept the client certificate {other.cert}", 6),
    ],
)
def test_a_client_certificate_that_is_wanted(
    prober: Prober, registries: Registries, pki: Pki, client: str, remedy: str, line: int
) -> None:
    host = registries.clients.address
    settings = client.format(other=pki.other_client)
    file = prober.write(f"https://{host}", configs=f'"{host}": {{tls: {{ca_file: {pki.ca}{settings}}}}}')
    route = prober.route(file, code=5)
    assert route["tls"]["client_certificate_wanted"] is True
    message, at = remedy_of(route)
    assert remedy.format(host=host, other=pki.other_client) in message
    assert at == line


def test_a_client_certificate_that_is_accepted(prober: Prober, registries: Registries, pki: Pki) -> None:
    host = registries.clients.address
    tls = f"{{ca_file: {pki.ca}, cert_file: {pki.client.cert}, key_file: {pki.client.key}}}"
    file = prober.write(f"https://{host}", configs=f'"{host}": {{tls: {tls}}}')
    assert prober.route(file, code=3)["api"]["status"] == 200  # and the image is not there


@pytest.mark.real("nginx")
def test_nginx_answers_400_where_it_wants_a_client_certificate(
    prober: Prober, registries: Registries, pki: Pki, tmp_path: Path
) -> None:
    with Nginx(tmp_path / "nginx", registries.plain.url, tls=pki) as front:
        host = f"127.0.0.1:{front.port}"
        file = prober.write(f"https://{host}", configs=f'"{host}": {{tls: {{ca_file: {pki.ca}}}}}')
        route = prober.route(file, code=1)
    assert route["api"]["status"] == 400
    assert "wants a client certificate: name one" in remedy_of(route)[0]


def test_an_unreadable_ca_file_fails_the_pull_whichever_endpoint_has_the_image(
    prober: Prober, registries: Registries
) -> None:
    plain, broken = registries.plain.address, registries.tls.address
    file = prober.write(
        f"http://{plain}", f"https://{broken}", configs=f'"{broken}": {{tls: {{ca_file: /nonexistent/ca.pem}}}}'
    )
    image = prober.image(file, code=5)
    works, fails = image["routes"]
    assert (works["verdict"], works["reached"]) == ("works", False)
    assert (fails["verdict"], fails["stage"], fails["api"]["status"]) == ("fails", "files", None)
    assert "every pull of this registry fails" in remedy_of(fails)[0]
    assert remedy_of(fails)[1] == 7
    assert 'unable to read CA cert "/nonexistent/ca.pem"' in image["reported"]


def test_through_a_proxy(prober: Prober, registries: Registries, pki: Pki) -> None:
    host = "reg.test.example:5000"
    file = prober.write(f"https://{host}", configs=f'"{host}": {{tls: {{ca_file: {pki.ca}}}}}')
    with tunnel({host: registries.tls.address}) as (_, environment):
        route = prober.run(file, "hub.example/team/app:v1", "-o", "json", env=environment).images[0]["routes"][0]
        proxy = environment["HTTPS_PROXY"]
    assert (route["verdict"], route["tls"]["verified"], route["tcp"]["proxy"]) == ("works", True, proxy)
    with tunnel({}) as (_, environment):
        ran = prober.run(file, "hub.example/team/app:v1", "-o", "json", env=environment, code=5)
    message, _ = remedy_of(ran.images[0]["routes"][0])
    assert f"the way goes through the proxy {environment['HTTPS_PROXY']}: correct HTTP_PROXY" in message
    assert "put reg.test.example into NO_PROXY" in message


# ── who we are ───────────────────────────────────────────────────────────────────────────────────────────────────


def with_auth(prober: Prober, host: str, pki: Pki, auth: str, *, scheme: str = "https") -> Path:
    tls = f"  tls: {{ca_file: {pki.ca}}}" if scheme == "https" else ""
    return prober.write(f"{scheme}://{host}", configs=f'"{host}":\n{auth}\n{tls}'.rstrip())


def test_a_wrong_password(prober: Prober, registries: Registries, pki: Pki) -> None:
    host = registries.users.address
    registries.users.forget()
    file = with_auth(prober, host, pki, f"  auth: {{username: {USER}, password: not-it-at-all}}")
    ran = prober.run(file, "hub.example/team/app:v1", "-o", "json", code=4)
    assert "not-it-at-all" not in ran.out
    route = ran.images[0]["routes"][0]
    message, line = remedy_of(route)
    assert f"user '{USER}' (configs '{host}') is not let in: correct the password" in message
    assert line == 7
    asked = [served.method for served in registries.users.requests(3)]
    assert asked.count("HEAD") == 2  # a wrong password is not repeated as containerd does, it would lock the account


def test_no_credentials(prober: Prober, registries: Registries, pki: Pki) -> None:
    host = registries.users.address
    image = prober.image(prober.write(f"https://{host}", configs=f'"{host}": {{tls: {{ca_file: {pki.ca}}}}}'), code=4)
    assert remedy_of(image["routes"][0]) == (f'`configs` has "{host}" without usable credentials: add `auth` to it', 6)
    assert image["reported"].endswith("authorization failed: no basic auth credentials")


def test_credentials_under_another_port(prober: Prober, registries: Registries) -> None:
    host = registries.tokens.address
    file = prober.write(f"http://{host}", configs='"127.0.0.1:1":\n  auth: {username: alice, password: unused-one}')
    image = prober.image(file, code=4)
    assert image["routes"][0]["remedies"][0]["message"] == (
        f"`configs` has `127.0.0.1:1`, the endpoint is `{host}`, so its credentials are not used (the port counts): "
        f"write `{host}`"
    )


def test_wildcard_credentials_are_never_used(prober: Prober, registries: Registries) -> None:
    host = registries.tokens.address
    file = prober.write(f"http://{host}", configs=f'"*":\n  auth: {{username: {USER}, password: {PASSWORD}}}')
    message, line = remedy_of(prober.route(file, code=4))
    assert message == f'containerd never uses the `auth` of configs."*": write it under "{host}"'
    assert line == 7


def test_a_token_that_is_got(prober: Prober, registries: Registries, pki: Pki) -> None:
    host = registries.tokens.address
    file = with_auth(prober, host, pki, f"  auth: {{username: {USER}, password: {PASSWORD}}}", scheme="http")
    route = prober.route(file, code=3)
    token = route["auth"]["token"]
    assert token.pop("ms") > 0
    assert token == {"url": registries.token_server.url, "status": 200, "error": None}
    assert route["api"]["challenge"].startswith(f'Bearer realm="{registries.token_server.url}"')
    assert route["manifest"]["status"] == 404


def test_a_token_that_is_refused(prober: Prober, registries: Registries, pki: Pki) -> None:
    host = registries.tokens.address
    file = with_auth(prober, host, pki, f"  auth: {{username: {USER}, password: not-it-at-all}}", scheme="http")
    route = prober.route(file, code=4)
    assert route["auth"]["token"]["status"] == 401
    assert "is not let in: correct the password" in remedy_of(route)[0]


# ── what is there ────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_image_that_is_not_there(prober: Prober, registries: Registries) -> None:
    image = prober.image(prober.write(registries.plain.url), code=3, image="hub.example/team/none:v1")
    route = image["routes"][0]
    assert (route["verdict"], route["manifest"]["status"], route["exit_code"]) == ("skipped", 404, 3)
    assert remedy_of(route) == ("push it there as 'team/none', or correct its name or tag", 4)
    assert image["reported"].endswith(
        'failed to resolve reference "hub.example/team/none:v1": hub.example/team/none:v1: not found'
    )


def test_a_rewrite_that_leads_past_the_image(prober: Prober, registries: Registries) -> None:
    file = prober.write(registries.plain.url, rewrite='"^team/(.*)": "missing/$1"')
    route = prober.route(file, code=3)
    assert route["manifest"]["found_as"] == "team/app"
    message, line = remedy_of(route)
    assert message.startswith("it is there as 'team/app', without the rewrite '^team/(.*)'")
    assert line == 6


def test_a_rewrite_to_where_the_image_is_and_one_that_finds_nothing_at_all(
    prober: Prober, registries: Registries
) -> None:
    file = prober.write(registries.plain.url, rewrite='"^team/(.*)": "mirror/$1"')
    assert prober.route(file)["repository"] == "mirror/app"
    message, line = remedy_of(prober.route(file, code=3, image="hub.example/team/none:v1"))
    assert message.startswith("the rewrite '^team/(.*)' makes 'mirror/none' of 'team/none', and that is not there")
    assert line == 6


def test_an_image_that_was_pushed_without_library(prober: Prober, registries: Registries) -> None:
    file = prober.write(registries.plain.url, registry="docker.io")
    route = prober.route(file, code=3, image="nginx:1")
    assert route["manifest"]["found_as"] == "nginx"
    assert (
        remedy_of(route)[0] == "it is there as 'nginx': push it as 'library/nginx', which is what containerd asks for"
    )
    assert prober.route(file, image="redis:7")["verdict"] == "works"


def test_the_platforms_of_an_index(prober: Prober, registries: Registries) -> None:
    file = prober.write(registries.plain.url)
    image = "hub.example/team/multi:v1"
    good = prober.route(file, "--platform", "linux/arm64", "--platform", "linux/amd64", "--blob", image=image)
    assert good["platforms"] == ["linux/amd64", "linux/arm64"]
    assert good["blob"]["status"] == 206
    result = prober.image(file, "--platform", "linux/s390x", code=3, image=image)
    route = result["routes"][0]
    assert (route["verdict"], route["stage"]) == ("fails", "fetch")
    assert remedy_of(route)[0] == "the index offers: linux/amd64, linux/arm64"
    assert result["reported"].endswith("no match for platform in manifest: not found")


def test_the_first_endpoint_down_and_another_digest_under_the_same_tag(prober: Prober, registries: Registries) -> None:
    with refusing_place() as down:
        file = prober.write(f"http://{down}", registries.plain.url, registries.second.url)
        image = prober.image(file)
    assert [route["verdict"] for route in image["routes"]] == ["skipped", "works", "works"]
    assert [route["reached"] for route in image["routes"]] == [True, True, False]
    assert (image["route"], image["digest"], image["exit_code"]) == (2, APP.digest, 0)
    assert image["differing"] == [{"digest": APP.digest, "routes": [2]}, {"digest": OTHER.digest, "routes": [3]}]
    assert f"nothing listens on port {down.partition(':')[2]}" in remedy_of(image["routes"][0])[0]


def test_by_digest(prober: Prober, registries: Registries) -> None:
    file = prober.write(registries.second.url, registries.plain.url)
    image = prober.image(file, image=f"hub.example/team/app@{APP.digest}")
    assert [route["verdict"] for route in image["routes"]] == ["skipped", "works"]
    assert image["route"] == 2


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_several_images_in_order_from_a_list(prober: Prober, registries: Registries) -> None:
    file = prober.write(registries.plain.url)
    names = ["hub.example/team/none:v1", "hub.example/team/app:v1", "hub.example/mirror/app:v1"]
    listed = "# what the node needs\n" + "\n".join(names[1:]) + "\nNOT AN IMAGE\n"
    ran = prober.run(file, names[0], "--images", "-", "-o", "json", "-j", "3", stdin=listed, code=6)
    assert [image["reference"] for image in ran.images] == names
    assert [image["exit_code"] for image in ran.images] == [3, 0, 0]
    assert "error: -:4:1: " in ran.err
    registries.plain.forget()
    prober.run(file, "--images", "-", stdin="\n".join(names[1:]))
    assert [served.uri for served in registries.plain.requests(5)].count("/v2/") == 1  # a place is looked at once


def test_every_endpoint_and_config_host_of_the_file(prober: Prober, registries: Registries, pki: Pki) -> None:
    users, plain = registries.users.address, registries.plain.address
    with refusing_place() as down:
        file = prober.write(
            f"https://{users}",
            f"http://{plain}",
            configs=f'"{users}":\n  auth: {{username: {USER}, password: {PASSWORD}}}\n  tls: {{ca_file: {pki.ca}}}\n'
            f'"{down}": {{tls: {{insecure_skip_verify: true}}}}\n'
            f'"127.0.0.1": {{auth: {{username: x, password: unused-one}}}}',
        )
        ran = prober.run(file, "-o", "json", code=6)
    places = json.loads(ran.out)["places"]
    assert [(place["named_by"], place["url"], place["verdict"], place["lines"]) for place in places] == [
        ("endpoint", f"https://{users}/v2", "works", [4]),
        ("endpoint", f"http://{plain}/v2", "works", [5]),
        ("configs", f"https://{down}/v2", "fails", [10]),
        ("configs", "https://127.0.0.1/v2", "fails", [11]),
    ]
    assert places[0]["status"] == 200
    assert places[0]["auth"]["credential"]["username"] == USER
    assert remedy_of(places[3]) == (
        f"`configs` has `127.0.0.1`, which is no endpoint, and the endpoint `{plain}` has no entry: write `{plain}`",
        11,
    )


def test_wrong_credentials_without_an_image(prober: Prober, registries: Registries, pki: Pki) -> None:
    for host, scheme in ((registries.users.address, "https"), (registries.tokens.address, "http")):
        auth = f"  auth: {{username: {USER}, password: not-it-at-all}}"
        file = with_auth(prober, host, pki, auth, scheme=scheme)
        out = prober.run(file, code=4).out
        assert "verdict   fails: " in out
        assert f"user '{USER}' (configs '{host}') is not let in: correct the password" in out
        good = with_auth(prober, host, pki, auth.replace("not-it-at-all", PASSWORD), scheme=scheme)
        assert "verdict   works" in prober.run(good).out


def test_a_time_out_and_what_comes_after_it(prober: Prober, registries: Registries) -> None:
    with HostileServer(lambda peer: peer.hang()) as silent:
        file = prober.write(silent.url, registries.plain.url)
        image = prober.image(file, "--timeout-first-byte", "0.3")
        connections = silent.accepted
    first, second = image["routes"]
    assert (first["verdict"], first["exit_code"], second["verdict"]) == ("skipped", 5, "works")
    assert "no answer in time" in first["cause"]
    assert connections == 3  # a look, /v2/ and the manifest


def test_ctrl_c(prober: Prober) -> None:
    with HostileServer(lambda peer: peer.hang()) as silent:
        file = prober.write(silent.url)
        arguments = ("probe", "hub.example/team/app:v1", "--private-registry", file)
        with start_pierhead(*arguments) as running:
            eventually(lambda: silent.accepted >= 2, what="a request under way")
            ran = running.signal(signal.SIGINT)
    assert ran.code == 130
    assert "Traceback" not in ran.err


def test_without_a_file_or_with_a_bad_call(tmp_path: Path) -> None:
    assert "names no place" in run_pierhead("probe", "--private-registry", "/dev/null").out
    assert "the list names no image" in run_pierhead("probe", "--images", "-", stdin="\n", code=2).err
    assert "NO/IMAGE" in run_pierhead("probe", "NO/IMAGE", code=2).err


# ── what people read ─────────────────────────────────────────────────────────────────────────────────────────────


def normalised(text: str, names: dict[str, str]) -> str:
    """Ports, paths, times, dates and digests as words."""
    for name, word in names.items():
        text = text.replace(name, word)
    text = re.sub(r"\d+\.\d ms", "T ms", text)
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:DIGEST", text)
    text = re.sub(r"\b[0-9.]+k?B\b", "SIZE", text)
    return re.sub(r"until 20[2-9]\d-\d\d-\d\d", "until DATE", text)


def assert_snapshot(name: str, text: str) -> None:
    """The file says just this; `SNAPSHOTS=update` writes it anew, and fails all the same so that it is read."""
    path = Path(__file__).with_name("probe_snapshots") / name
    known = path.read_text() if path.exists() else ""
    if os.environ.get("SNAPSHOTS") == "update" and known != text:
        path.write_text(text)
    assert text == known


def test_the_text(prober: Prober, registries: Registries, pki: Pki, tmp_path: Path) -> None:
    users = registries.users.address
    with refusing_place() as down:
        file = prober.write(
            f"http://{down}",
            f"https://{users}",
            registries.plain.url,
            configs=f'"127.0.0.1":\n  auth: {{username: {USER}, password: {PASSWORD}}}\n'
            f'"{users}":\n  tls: {{ca_file: {pki.ca}}}',
        )
        out = prober.run(file, "hub.example/team/multi:v1", "--blob", "--platform", "linux/amd64").out
        names = {
            down: "127.0.0.1:1111",
            down.partition(":")[2]: "1111",
            users: "127.0.0.1:2222",
            registries.plain.address: "127.0.0.1:3333",
            str(tmp_path): "DIR",
            str(Path(pki.ca).parent): "PKI",
        }
    assert_snapshot("works.txt", normalised(out, names))


def test_the_text_of_a_failure(prober: Prober, registries: Registries, pki: Pki, tmp_path: Path) -> None:
    other = registries.other_ca.address
    file = prober.write(f"https://{other}", configs=f'"{other}": {{tls: {{ca_file: {pki.ca}}}}}')
    out = prober.run(file, "hub.example/team/app:v1", code=5).out
    names = {other: "127.0.0.1:4444", str(tmp_path): "DIR", str(Path(pki.ca).parent): "PKI"}
    assert_snapshot("fails.txt", normalised(out, names))
