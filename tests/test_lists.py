"""Lists of images that commands are given: on the command line, in files, behind URLs."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from command import run_pierhead, write_registries
from loopback import Loopback
from pierhead.auth import AuthorizationFailed
from pierhead.body import BytesBlob
from pierhead.cli.lists import ListUnavailable, fetching, read_images
from pierhead.cli.world import World
from pierhead.config import k3s, registries
from pierhead.credentials import CredentialSources
from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.image_list import LIST_LIMIT_BYTES, load_list
from pierhead.reference import InvalidReference
from pierhead.transport import Timeouts
from pierhead.wire import Headers, Request, Response
from pki import Pki

PLANTED = "pl4nted-s3cret"
LIST = b"redis:7\n# the web\nnginx\r\n"
NAMES = ["docker.io/library/redis:7", "docker.io/library/nginx:latest"]
BASIC = "Basic " + base64.b64encode(f"alice:{PLANTED}".encode()).decode()


def world(text: str = "", tmp_path: Path = Path("/nonexistent")) -> World:
    config = registries.parse(text.encode(), "r.yaml")
    return World(k3s.hosts(config), CredentialSources({}, tmp_path))


def answer(body: bytes = LIST, status: int = 200, **headers: str) -> Callable[[Request], Response]:
    named = Headers([(name.replace("_", "-"), value) for name, value in headers.items()])
    return lambda _: Response(status, named, BytesBlob(body))


def guarded(request: Request) -> Response:
    """A server that gives its list to alice only."""
    if request.headers.get("authorization") == BASIC:
        return Response(200, body=BytesBlob(LIST))
    return Response(401, Headers([("WWW-Authenticate", 'Basic realm="lists"')]))


def read(network: Loopback, url: str, text: str = "") -> list[str]:
    references, problems = read_images((), (url,), fetching(world(text), network, Timeouts()))
    assert not problems
    return [str(reference) for reference in references]


# ── names and files ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_comes_first_and_each_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(b"\xef\xbb\xbfnginx\r\n\r\nquay.io/a/b  # twice\r\nquay.io/a/b:latest\r\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"ghcr.io/c/d:1\nredis:7\n")))
    references, problems = read_images(("redis:7", "nginx:latest"), (str(file), "-"))
    assert [reference.familiar for reference in references] == [
        "redis:7",
        "nginx:latest",
        "quay.io/a/b:latest",
        "ghcr.io/c/d:1",
    ]
    assert not problems


def test_a_bad_line_is_a_problem_with_its_number_and_a_bad_argument_an_error(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes("redis\n# größer\nbüro/app:1\nnginx\n".encode("cp1252"))
    references, problems = read_images((), (str(file),))
    assert [reference.familiar for reference in references] == ["redis:latest", "nginx:latest"]
    assert [(problem.severity, problem.span.line if problem.span else 0) for problem in problems] == [("error", 3)]
    with pytest.raises(InvalidReference):
        read_images(("Redis",), ())


# ── URLs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_url_is_fetched() -> None:
    network = Loopback({"lists.example": answer()})
    assert read(network, "https://lists.example/k3s-images.txt") == NAMES
    assert network.lines == ["GET https://lists.example/k3s-images.txt"]
    assert "authorization" not in network.requests[0].headers


def test_problems_name_the_url_without_what_is_secret_in_it() -> None:
    fetch = fetching(world(), Loopback({"lists.example": answer(b"a\nB C\n")}), Timeouts())
    _, problems = read_images((), ("http://lists.example/l?X-Amz-Signature=abc",), fetch)
    assert [str(problem.span) for problem in problems] == ["http://lists.example/l?X-Amz-Signature=***:2:1"]


def test_without_a_network_a_url_is_refused() -> None:
    with pytest.raises(UsageError, match="uses no network") as caught:
        load_list("HTTPS://lists.example/l", io.BytesIO())
    assert "curl" in caught.value.hint


def test_redirects_are_followed_to_a_bound() -> None:
    network = Loopback(
        {
            "lists.example": answer(status=302, Location="https://cdn.example/l"),
            "cdn.example": answer(),
            "round.example": answer(status=302, Location="/again"),
        }
    )
    assert read(network, "https://lists.example/l") == NAMES
    with pytest.raises(ListUnavailable, match="more than 10 times"):
        read(network, "https://round.example/")


def test_a_redirect_does_not_leave_tls() -> None:
    network = Loopback({"lists.example": answer(status=302, Location="http://lists.example/l")})
    with pytest.raises(ListUnavailable, match="redirected to plain http"):
        read(network, "https://lists.example/l")
    assert len(network.requests) == 1


CONFIGS = f"""
configs:
  lists.example:
    auth: {{username: alice, password: {PLANTED}}}
    tls: {{ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem}}
"""


def test_a_password_is_told_to_the_host_that_it_is_for_and_only_if_asked() -> None:
    network = Loopback({"lists.example": guarded})
    assert read(network, "https://lists.example/l", CONFIGS) == NAMES
    assert [request.headers.get("authorization") for request in network.requests] == ["", BASIC]
    network = Loopback({"lists.example": answer()})
    assert read(network, "https://lists.example/l", CONFIGS) == NAMES
    assert [request.headers.get("authorization") for request in network.requests] == [""]


@pytest.mark.parametrize("other", ["other.example", "lists.example:8443"])
def test_no_other_host_gets_the_password(other: str) -> None:
    network = Loopback({other: guarded, "lists.example": answer(status=302, Location=f"https://{other}/l")})
    with pytest.raises(AuthorizationFailed, match="known users only") as caught:
        read(network, "https://lists.example/l", CONFIGS)
    assert repr(other) in caught.value.hint
    assert all("authorization" not in request.headers for request in network.requests)


def test_a_redirect_after_the_password_goes_without_it() -> None:
    def signed(request: Request) -> Response:
        if "authorization" in request.headers:
            return Response(307, Headers([("Location", "https://cdn.example/l")]))
        return guarded(request)

    network = Loopback({"lists.example": signed, "cdn.example": answer()})
    assert read(network, "https://lists.example/l", CONFIGS) == NAMES
    assert "authorization" not in network.requests[-1].headers


def test_a_bearer_challenge_gets_nothing() -> None:
    challenge = 'Bearer realm="https://evil.example/token"'
    network = Loopback({"lists.example": answer(b"", 401, WWW_Authenticate=challenge)})
    with pytest.raises(ListUnavailable, match="401 Unauthorized") as caught:
        read(network, "https://lists.example/l", CONFIGS)
    assert caught.value.exit_code is ExitCode.NOT_AUTHORISED
    assert network.lines == ["GET https://lists.example/l"]


def test_the_tls_of_configs_is_for_its_host_only() -> None:
    network = Loopback({"lists.example": answer(status=302, Location="https://cdn.example/l"), "cdn.example": answer()})
    read(network, "https://lists.example/l", CONFIGS)
    first, second = (options.tls for options in network.options)
    assert (first.ca_files, first.client, first.insecure_skip_verify) == (("/ca.pem",), (("/c.pem", "/k.pem"),), False)
    assert (second.ca_files, second.client) == ((), ())


@pytest.mark.parametrize(
    ("handler", "said", "code"),
    [
        (answer(b"", 404), "404 Not Found", ExitCode.NOT_FOUND),
        (answer(b"", 403), "403 Forbidden", ExitCode.NOT_AUTHORISED),
        (answer(b"", 503), "503 Service", ExitCode.FAILED),
        (answer(b"<html>", Content_Type="text/html; charset=utf-8"), "it is a web page", ExitCode.FAILED),
        (answer(b"\x1f\x8b", Content_Encoding="gzip"), "it comes compressed", ExitCode.FAILED),
        (answer(b"#" * (LIST_LIMIT_BYTES + 1)), "is larger than", ExitCode.USAGE),
    ],
)
def test_what_is_no_list_is_refused(handler: Callable[[Request], Response], said: str, code: ExitCode) -> None:
    with pytest.raises(PierheadError, match=said) as caught:
        read(Loopback({"lists.example": handler}), "https://lists.example/l")
    assert caught.value.exit_code is code


def test_who_cannot_be_reached_is_named_with_the_list() -> None:
    with pytest.raises(
        ListUnavailable, match=r"list of images https://gone\.example/l .* connection refused"
    ) as caught:
        read(Loopback({}), "https://gone.example/l")
    assert caught.value.exit_code is ExitCode.NETWORK


def test_a_url_with_a_password_in_it_is_refused_without_showing_it() -> None:
    network = Loopback({"lists.example": answer()})
    with pytest.raises(UsageError, match="holds a user name or password") as caught:
        read(network, f"https://alice:{PLANTED}@lists.example/l")
    assert PLANTED not in str(caught.value)
    assert not network.requests


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class ListServer:
    """Gives lists over http, also through itself as a proxy; `seen` are the request lines."""

    url: str = ""
    seen: list[str] = field(default_factory=list)


@contextmanager
def list_server(lists: dict[str, bytes], tls: Pki | None = None) -> Iterator[ListServer]:
    served = ListServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.seen.append(self.path)
            body = lists.get("/" + self.path.rpartition("/")[2])
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server.cert, tls.server.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    served.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_probe_takes_its_list_from_a_url_by_an_own_ca(tmp_path: Path, pki: Pki) -> None:
    with list_server({"/images.txt": b"hub.example/team/app:v1\nB A D\n"}, pki) as lists:
        url = f"{lists.url}/images.txt"
        place = lists.url.removeprefix("https://")
        file = write_registries(tmp_path, f"mirrors:\n  hub.example:\nconfigs:\n  {place!r}:\n    tls: {{}}\n")
        ran = run_pierhead("probe", "--images", url, "--private-registry", file, code=5)
        assert "certificate is not accepted" in ran.err
        trusting = {"SSL_CERT_FILE": pki.ca}
        ran = run_pierhead("probe", "--images", url, "-o", "json", "--private-registry", file, env=trusting, code=None)
        assert [image["reference"] for image in ran.images] == ["hub.example/team/app:v1"]
        assert f"{url}:2:1" in ran.err
        file.write_text(f"configs:\n  {place!r}:\n    tls: {{ca_file: {pki.ca}}}\n")
        ran = run_pierhead("probe", "--images", url, "-o", "json", "--private-registry", file, code=None)
        assert [image["reference"] for image in ran.images] == ["hub.example/team/app:v1"]


def test_a_proxy_of_the_environment_is_used() -> None:
    with list_server({"/images.txt": b"127.0.0.1:1/app:v1\n"}) as proxy:
        env = {"http_proxy": proxy.url}
        ran = run_pierhead("probe", "--images", "http://lists.invalid/images.txt", "-o", "json", env=env, code=None)
        assert [image["reference"] for image in ran.images] == ["127.0.0.1:1/app:v1"]
        assert proxy.seen[0] == "http://lists.invalid/images.txt"


def test_a_command_without_network_says_so() -> None:
    ran = run_pierhead("explain", "--images", "https://lists.example/k3s-images.txt", code=2)
    assert "this command uses no network" in ran.err
