"""The embedded registry over real sockets: TLS, passwords, large bodies, hostile clients, going down in order."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from pierhead.body import BytesBlob, FileBlob, StreamBlob
from pierhead.cli.serve import parse_listen, warnings
from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.memory import MemoryStore
from pierhead.oci import MANIFEST_LIMIT_BYTES, OCI_CONFIG, OCI_MANIFEST
from pierhead.redact import Secret
from pierhead.server import htpasswd, log
from pierhead.server import http as server_http
from pierhead.server.htpasswd import Htpasswd, UnusableHtpasswd
from pierhead.server.http import CannotListen, HttpServer, ServerConfig, TlsFiles, UnusableTls, application
from pierhead.server.http.tls import usable
from pierhead.server.registry import Registry
from pierhead.store import StoreUnwritable
from pierhead.wire import Headers, Request, Response
from pki import Pki

WAIT_SECONDS = 20.0
MIB = 1024 * 1024
PASSWORD = "correct horse battery staple"


# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Process:
    """`pierhead serve` as a person starts it."""

    def __init__(self, root: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "pierhead", "serve", "--root", str(root), "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._ready.wait(WAIT_SECONDS), self.lines
        line = next(line for line in self.lines if line.startswith("listening on "))
        self.url = line.removeprefix("listening on ")
        self.host, self.port = "127.0.0.1", int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                if line.startswith("listening on "):
                    self._ready.set()
        self._ready.set()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return code

    def memory(self, field: str) -> int:
        """A field of the process's memory, in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
        assert found
        return int(found[1]) * 1024


@contextlib.contextmanager
def started(root: Path, *arguments: str) -> Iterator[Process]:
    server = Process(root, *arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


@contextlib.contextmanager
def running(handle: Callable[[Request], Response], **options: Any) -> Iterator[tuple[str, int]]:
    """A server in a thread of this process, around any handler."""
    options = {"store": MemoryStore(), "port": 0, **options}
    server = HttpServer(handle, ServerConfig(**options))
    ready, failures = threading.Event(), []
    urls: list[str] = []

    def listening(url: str) -> None:
        urls.append(url)
        ready.set()

    def run() -> None:
        try:
            server.run(listening)
        except BaseException as error:
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(WAIT_SECONDS)
    if failures:
        raise failures[0]
    try:
        yield "127.0.0.1", int(urls[0].rpartition(":")[2])
    finally:
        server.stop()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def noting(asked: list[Request]) -> Callable[[Request], Response]:
    """A handler that says yes and remembers what it was asked."""

    def handle(request: Request) -> Response:
        asked.append(request)
        return Response(200)

    return handle


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with started(tmp_path_factory.mktemp("plain")) as server:
        yield server


def ask(
    at: tuple[str, int] | Process,
    method: str,
    target: str,
    body: Any = None,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> tuple[http.client.HTTPResponse, bytes]:
    host, port = (at.host, at.port) if isinstance(at, Process) else at
    kind: Any = partial(http.client.HTTPSConnection, context=tls) if tls else http.client.HTTPConnection
    with contextlib.closing(kind(host, port, timeout=WAIT_SECONDS)) as connection:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body, fields)
        response = connection.getresponse()
        return response, response.read()


def first_bytes(at: Process | tuple[str, int], data: bytes) -> bytes:
    """What comes back first for these bytes: the head of the answer, whenever the server closes."""
    with connected(at) as connection:
        connection.sendall(data)
        return connection.recv(65536)


def raw(at: Process | tuple[str, int], data: bytes) -> bytes:
    """What comes back for these bytes until the server closes."""
    with connected(at) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        received = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
        return bytes(received)


def connected(at: Process | tuple[str, int]) -> socket.socket:
    return socket.create_connection((at.host, at.port) if isinstance(at, Process) else at, timeout=WAIT_SECONDS)


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not check():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def push_blob(server: Process, data: bytes, repository: str = "team/app") -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    response, body = ask(server, "POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
    assert response.status == 201, body
    return digest


def begin(server: Process) -> str:
    response, _ = ask(server, "POST", "/v2/team/app/blobs/uploads/")
    assert response.status == 202
    return str(response.headers["location"])


# ── plain http ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_base_over_a_socket(plain: Process) -> None:
    response, body = ask(plain, "GET", "/v2/")
    assert (response.status, body) == (200, b"{}")
    assert response.headers["server"] == "pierhead"
    assert response.headers["date"]


def test_get_head_and_ranges_of_a_file(plain: Process) -> None:
    data = os.urandom(3 * MIB)
    digest = push_blob(plain, data)
    target = f"/v2/team/app/blobs/{digest}"
    response, body = ask(plain, "GET", target)
    assert (response.status, body) == (200, data)
    assert response.headers["content-length"] == str(len(data))
    assert response.headers["transfer-encoding"] is None
    response, body = ask(plain, "GET", target, Range="bytes=1000000-1999999")
    assert (response.status, body) == (206, data[1_000_000:2_000_000])
    assert response.headers["content-range"] == f"bytes 1000000-1999999/{len(data)}"
    assert response.headers["content-length"] == "1000000"
    response, body = ask(plain, "GET", target, Range=f"bytes={len(data)}-")
    assert (response.status, response.headers["content-range"]) == (416, f"bytes */{len(data)}")


def test_head_has_the_length_and_no_body(plain: Process) -> None:
    digest = push_blob(plain, b"0123456789")
    for status, reference in ((200, digest), (404, "sha256:" + "0" * 64)):
        head = f"HEAD /v2/team/app/blobs/{reference} HTTP/1.1\r\nHost: r\r\n\r\n".encode()
        base = b"GET /v2/ HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n"
        first, second, rest = raw(plain, head + base).split(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 %d" % status)
        assert re.search(rb"\r\ncontent-length: [1-9]", first)
        assert second.startswith(b"HTTP/1.1 200")  # no body came between them
        assert rest == b"{}"
    assert b"content-length: 10\r\n" in raw(
        plain, f"HEAD /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode()
    )


def test_empty_blobs(plain: Process) -> None:
    digest = push_blob(plain, b"")
    for method in ("GET", "HEAD"):
        response, body = ask(plain, method, f"/v2/team/app/blobs/{digest}")
        assert (response.status, response.headers["content-length"], body) == (200, "0", b"")


def test_statuses_without_a_body(plain: Process) -> None:
    place = begin(plain)
    response, body = ask(plain, "GET", place)
    assert (response.status, body, response.headers["content-length"]) == (204, b"", None)
    digest = push_blob(plain, b"known")
    response, body = ask(plain, "GET", f"/v2/team/app/blobs/{digest}", If_None_Match=f'"{digest}"')
    assert (response.status, body) == (304, b"")


def test_pipelined_requests_on_one_connection(plain: Process) -> None:
    digest = push_blob(plain, b"0123456789")
    one = f"GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: r\r\n\r\n".encode()
    last = one.replace(b"Host: r", b"Host: r\r\nConnection: close")
    answer = raw(plain, one * 19 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 20
    assert answer.count(b"\r\n\r\n0123456789") == 20


def test_a_connection_is_kept_for_many_requests(plain: Process) -> None:
    with contextlib.closing(http.client.HTTPConnection(plain.host, plain.port, timeout=WAIT_SECONDS)) as connection:
        connection.connect()
        first = connection.sock
        for number in range(10):
            connection.request("PATCH", begin(plain), b"x" * number)
            assert connection.getresponse().read() == b""
            assert connection.sock is first


def test_expect_100_continue(plain: Process) -> None:
    place = begin(plain)
    with connected(plain) as connection:
        head = f"PATCH {place} HTTP/1.1\r\nHost: r\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(b"abc")
        assert connection.recv(1000).startswith(b"HTTP/1.1 202")


def test_the_namespace_reaches_the_registry(tmp_path: Path) -> None:
    asked: list[Request] = []
    with running(noting(asked)) as at:
        ask(at, "GET", "/v2/a/b/manifests/1?ns=docker.io&x=%2F%ff")
        ask(at, "GET", "/v2/a%2fb/%3fx%25/manifests/1")
        ask(at, "GET", "/v2/a/manifests/%ff%00")
    assert [request.target for request in asked] == [
        "/v2/a/b/manifests/1?ns=docker.io&x=%2F%ff",
        "/v2/a/b/%3Fx%25/manifests/1",
        "/v2/a/manifests/%EF%BF%BD%00",
    ]
    assert asked[0].authority == f"127.0.0.1:{at[1]}"
    assert asked[0].url.startswith("http://")


def test_bodies_of_every_kind_go_out(tmp_path: Path) -> None:
    closed: list[str] = []
    bodies: dict[str, Callable[[], Response]] = {
        "/known": lambda: Response(200, body=StreamBlob(iter([b"ab", b"", b"c"]), 3, lambda: closed.append("known"))),
        "/unknown": lambda: Response(200, body=StreamBlob(iter([b"x" * MIB] * 3), None, lambda: closed.append("un"))),
        "/bytes": lambda: Response(203, Headers([("X-One", "1"), ("X-One", "2")]), BytesBlob(b"abc")),
    }
    with running(lambda request: bodies[request.target]()) as at:
        assert ask(at, "GET", "/known")[1] == b"abc"
        assert ask(at, "GET", "/unknown")[1] == b"x" * 3 * MIB
        response, body = ask(at, "GET", "/bytes")
        assert (response.status, response.headers.get_all("x-one"), body) == (203, ["1", "2"], b"abc")
        assert ask(at, "HEAD", "/known")[1] == b""
    assert closed == ["known", "un", "known"]


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "length"])
def test_a_large_upload_in_flat_memory(tmp_path: Path, chunked: bool) -> None:
    piece, count = os.urandom(MIB), 64
    whole = hashlib.sha256(piece * count)
    with started(tmp_path / "root") as server:
        push_blob(server, os.urandom(8 * MIB))  # what every upload needs once: threads, buffers
        before = server.memory("VmHWM")
        place = begin(server)
        length = {} if chunked else {"Content_Length": str(count * MIB)}
        response, body = ask(server, "PATCH", place, iter([piece] * count), None, **length)
        assert (response.status, response.headers["range"]) == (202, f"0-{count * MIB - 1}"), body
        response, _ = ask(server, "PUT", f"{place}?digest=sha256:{whole.hexdigest()}")
        assert response.status == 201
        received = hashlib.sha256(ask(server, "GET", response.headers["location"])[1])
        assert received.digest() == whole.digest()
        assert server.memory("VmHWM") - before < 24 * MIB


@pytest.mark.parametrize("framing", ["Content-Length: 10485760", "Transfer-Encoding: chunked"])
def test_a_client_that_vanishes_goes_on_later(plain: Process, framing: str) -> None:
    data = os.urandom(10 * MIB)
    have, cut = 3 * MIB, data[: 3 * MIB]
    place = begin(plain)
    with connected(plain) as connection:
        connection.sendall(f"PATCH {place} HTTP/1.1\r\nHost: r\r\n{framing}\r\n\r\n".encode())
        connection.sendall(cut if "Length" in framing else b"%x\r\n%b\r\n" % (have, cut))
    eventually(lambda: ask(plain, "GET", place)[0].headers["range"] == f"0-{have - 1}")
    response, _ = ask(plain, "PATCH", place, data[have:], Content_Range=f"{have}-{len(data) - 1}")
    assert response.status == 202
    response, _ = ask(plain, "PUT", f"{place}?digest=sha256:{hashlib.sha256(data).hexdigest()}")
    assert response.status == 201


def test_a_put_that_is_cut_does_not_end_the_upload(plain: Process) -> None:
    """Granian ends a cut body as if it were whole; a commit of it would throw away what is there."""
    data = os.urandom(2 * MIB)
    place = begin(plain)
    target = f"{place}?digest=sha256:{hashlib.sha256(data).hexdigest()}"
    with connected(plain) as connection:
        connection.sendall(f"PUT {target} HTTP/1.1\r\nHost: r\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        connection.sendall(data[:MIB])
    eventually(lambda: ask(plain, "GET", place)[0].headers["range"] == f"0-{MIB - 1}")
    assert ask(plain, "PUT", target, data[MIB:])[0].status == 201


def test_a_client_that_falls_silent_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "STALL_SECONDS", 0.2)
    store = MemoryStore()
    with running(Registry(store).handle) as at:
        for head in (
            b"POST /v2/a/blobs/uploads/?digest=sha256:%b HTTP/1.1\r\nHost: r\r\nContent-Length: 10\r\n\r\nabc"
            % (b"0" * 64),
            b"POST /v2/a/blobs/uploads/?digest=sha256:%b HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000\r\n\r\nabc"
            % (b"0" * 64),
        ):
            answer = first_bytes(at, head)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"connection: close" in answer.lower()


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_http, "IDLE_SECONDS", 0.2)
    with running(lambda request: Response(200)) as at:
        assert raw(at, b"GET / HTTP/1.1\r\nHost: r\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert raw(at, b"GET / HTTP/1.1\r\nHos") == b""


def test_many_uploads_at_once(plain: Process) -> None:
    results: list[int] = []

    def push(number: int) -> None:
        data = bytes([number]) * MIB
        digest = hashlib.sha256(data).hexdigest()
        results.append(
            ask(plain, "PUT", f"{begin(plain)}?digest=sha256:{digest}", iter([data[: MIB // 2]] * 2))[0].status
        )

    threads = [threading.Thread(target=push, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert results == [201] * 12


def test_slow_uploads_do_not_stop_reading(plain: Process) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(application.READ_THREADS + 4):
            slow = stack.enter_context(connected(plain))
            slow.sendall(f"PATCH {begin(plain)} HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000\r\n\r\nab".encode())
        assert ask(plain, "GET", "/v2/")[0].status == 200


# ── hostile clients ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /v2/../../etc/passwd/manifests/x HTTP/1.1", 400),
        (b"GET /v2/%2e%2e/%2e%2e/etc/passwd/manifests/x HTTP/1.1", 400),
        (b"GET /v2/%252e%252e/manifests/x HTTP/1.1", 400),
        (b"GET /v2/a/manifests/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1", 404),
        (b"GET /v2/a/blobs/sha256:..%2f..%2fx HTTP/1.1", 404),
        (b"GET /v2/a%00b/manifests/x HTTP/1.1", 400),
        (b"GET /v2/a/manifests/%00 HTTP/1.1", 404),
        (b"GET /v2/%ff%fe/manifests/x HTTP/1.1", 400),
        (b"GET /v2/\xff\xfe/manifests/x HTTP/1.1", 400),
        (b"GET /v2/a%0d%0aX-Evil:%201/manifests/x HTTP/1.1", 400),
        (b"GET //v2/ HTTP/1.1", 404),
        (b"GET http://elsewhere.test/v2/ HTTP/1.1", 200),
        (b"OPTIONS * HTTP/1.1", 404),
        (b"BREW /v2/ HTTP/1.1", 405),
        (b"GET /v2/?" + b"a" * 9000 + b" HTTP/1.1", 414),
        (b"GET /v2/?" + b"a" * 70_000 + b" HTTP/1.1", 414),
        (b"GET /v2/ HTTP/9.9", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET", 400),
    ],
)
def test_hostile_request_lines(plain: Process, request_line: bytes, status: int) -> None:
    answer = raw(plain, request_line + b"\r\nHost: r\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"\r\nx-evil" not in answer.lower()
    assert b"root:" not in answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"X: " + b"a" * 100_000, 431),
        (b"X: " + b"a" * 600_000, 431),
        (b"\r\n".join(b"X%d: 1" % number for number in range(500)), 431),
        (b"Content-Length: abc", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: 3\r\nContent-Length: 4", 400),
        (b"Content-Length: 99999999999999999999", 400),
        (b"X\x00: 1", 400),
        (b"X: \xff\xfe\xe9", 200),
        (b"Range: bytes=" + b"9" * 5000, 200),
    ],
)
def test_hostile_headers(plain: Process, headers: bytes, status: int) -> None:
    answer = raw(plain, b"GET /v2/ HTTP/1.1\r\nHost: r\r\nConnection: close\r\n" + headers + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]


def test_a_body_framed_twice_is_one_request(plain: Process) -> None:
    """Request smuggling: what follows the chunked body must not be read as part of it, nor as a request."""
    place = begin(plain)
    smuggled = b"0\r\n\r\nDELETE /v2/a/manifests/1 HTTP/1.1\r\nHost: r\r\n\r\n"
    head = f"PATCH {place} HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert raw(plain, head + b"3\r\nabc\r\n" + smuggled).count(b"HTTP/1.1") == 1


def test_an_endless_manifest_is_answered_and_cut_off(plain: Process) -> None:
    sent = 0
    with connected(plain) as connection:
        connection.sendall(b"PUT /v2/team/app/manifests/1 HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 100 * MIB:
                connection.sendall(b"100000\r\n" + b" " * MIB + b"\r\n")
                sent += MIB
    assert sent < 100 * MIB
    response, body = ask(plain, "PUT", "/v2/team/app/manifests/1", b" " * (MANIFEST_LIMIT_BYTES + 1))
    assert (response.status, json.loads(body)["errors"][0]["code"]) == (413, "SIZE_INVALID")


def test_random_bytes_leave_the_server_standing(plain: Process) -> None:
    for _ in range(20):
        raw(plain, os.urandom(2000))
    assert ask(plain, "GET", "/v2/")[0].status == 200
    assert not [line for line in plain.lines if line.startswith(("error", "Traceback"))]


def test_what_breaks_inside_is_a_500_without_details(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(request: Request) -> Response:
        if "full" in request.target:
            raise StoreUnwritable(Path("/secret/place"), "no space left on device", "")
        raise RuntimeError("secret place")

    with running(broken) as at:
        for target, status in (("/v2/x?token=hunter2", 500), ("/v2/full", 507)):
            response, body = ask(at, "GET", target)
            assert (response.status, b"secret" in body) == (status, False)
            assert json.loads(body)["errors"]
    logged = capfd.readouterr().err
    assert "RuntimeError: secret place" in logged
    assert "hunter2" not in logged


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def trusting(pki: Pki, client: Any = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pki.ca)
    if client:
        context.load_cert_chain(client.cert, client.key)
    return context


def files(pki: Pki, client_ca: str | None = None) -> TlsFiles:
    return TlsFiles(Path(pki.server.cert), Path(pki.server.key), Path(client_ca) if client_ca else None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_https(pki: Pki, version: ssl.TLSVersion) -> None:
    context = trusting(pki)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    asked: list[Request] = []
    with running(noting(asked), tls=files(pki)) as at:
        assert ask(at, "GET", "/v2/", tls=context)[0].status == 200
        with context.wrap_socket(connected(at), server_hostname="localhost") as connection:
            assert (connection.version(), connection.selected_alpn_protocol()) == (
                version.name.replace("_", "."),
                "http/1.1",
            )
    assert asked[0].url.startswith("https://")


def test_tls_1_1_is_refused(pki: Pki) -> None:
    context = trusting(pki)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with running(lambda request: Response(200), tls=files(pki)) as at, pytest.raises((ssl.SSLError, ConnectionError)):
        ask(at, "GET", "/v2/", tls=context)


def test_plain_http_to_an_https_port(pki: Pki) -> None:
    with running(lambda request: Response(200), tls=files(pki)) as at:
        assert not raw(at, b"GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n").startswith(b"HTTP/1.1 2")


def test_client_certificates_are_required(pki: Pki) -> None:
    with running(lambda request: Response(200), tls=files(pki, pki.ca)) as at:
        assert ask(at, "GET", "/v2/", tls=trusting(pki, pki.client))[0].status == 200
        for wrong in (None, pki.other_client):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(at, "GET", "/v2/", tls=trusting(pki, wrong))
        assert ask(at, "GET", "/v2/", tls=trusting(pki, pki.client))[0].status == 200


def pem(key: Any, form: serialization.PrivateFormat) -> bytes:
    data: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return data


KEY_FORMS = {
    "sec1": (serialization.PrivateFormat.TraditionalOpenSSL, b""),
    "parameters": (
        serialization.PrivateFormat.TraditionalOpenSSL,
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
    ),
    "pkcs8": (serialization.PrivateFormat.PKCS8, b""),
}


@pytest.mark.parametrize("form", KEY_FORMS)
def test_keys_in_every_form(pki: Pki, tmp_path: Path, form: str) -> None:
    key = serialization.load_pem_private_key(Path(pki.server.key).read_bytes(), None)
    written_as, before = KEY_FORMS[form]
    (tmp_path / "key.pem").write_bytes(before + pem(key, written_as))
    tls = TlsFiles(Path(pki.server.cert), tmp_path / "key.pem")
    with running(lambda request: Response(200), tls=tls) as at:
        assert ask(at, "GET", "/v2/", tls=trusting(pki))[0].status == 200


def test_a_converted_key_is_for_us_alone_and_gone_afterwards(pki: Pki, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(Path(pki.server.key).read_bytes(), None)
    (tmp_path / "key.pem").write_bytes(pem(key, serialization.PrivateFormat.TraditionalOpenSSL))
    with usable(TlsFiles(Path(pki.server.cert), tmp_path / "key.pem")) as ready:
        assert ready is not None
        assert b"BEGIN PRIVATE KEY" in ready.key.read_bytes()
        assert ready.key.stat().st_mode & 0o777 == 0o600
        assert ready.key.parent.stat().st_mode & 0o777 == 0o700
    assert not ready.key.exists()


def unusable_tls(pki: Pki, folder: Path) -> dict[str, tuple[TlsFiles, str]]:
    """Files that cannot be used, and a word of what is said about them."""
    cert, key = Path(pki.server.cert), Path(pki.server.key)
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    (folder / "locked.pem").write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    (folder / "text.pem").write_text("not a key")
    (folder / "large.pem").write_bytes(b"x" * (5 * MIB))
    return {
        "no cert": (TlsFiles(folder / "absent", key), "No such file"),
        "no key": (TlsFiles(cert, folder / "absent"), "No such file"),
        "folder": (TlsFiles(cert, folder), "Is a directory"),
        "passphrase": (TlsFiles(cert, folder / "locked.pem"), "passphrase"),
        "another key": (TlsFiles(cert, Path(pki.client.key)), "does not belong"),
        "text": (TlsFiles(cert, folder / "text.pem"), "holds no private key"),
        "text cert": (TlsFiles(folder / "text.pem", key), "holds no certificate"),
        "large": (TlsFiles(cert, folder / "large.pem"), "larger"),
        "text ca": (TlsFiles(cert, key, folder / "text.pem"), "holds no certificate"),
        "no ca": (TlsFiles(cert, key, folder / "absent"), "No such file"),
    }


@pytest.mark.parametrize(
    "case",
    ["no cert", "no key", "folder", "passphrase", "another key", "text", "text cert", "large", "text ca", "no ca"],
)
def test_files_that_cannot_be_used(pki: Pki, tmp_path: Path, case: str) -> None:
    tls, word = unusable_tls(pki, tmp_path)[case]
    with pytest.raises(UnusableTls, match=word) as caught, running(lambda request: Response(200), tls=tls):
        pass
    assert caught.value.exit_code is ExitCode.USAGE


def self_signed(folder: Path, key: Any, *extensions: tuple[x509.ExtensionType, bool]) -> TlsFiles:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    cert = builder.sign(key, None if isinstance(key, ed448.Ed448PrivateKey) else hashes.SHA256())
    (folder / "cert").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(pem(key, serialization.PrivateFormat.PKCS8))
    return TlsFiles(folder / "cert", folder / "key")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256K1()),
        lambda: ec.generate_private_key(ec.SECP521R1()),
        ed448.Ed448PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 1024),
        lambda: rsa.generate_private_key(3, 2048),
    ],
    ids=["secp256k1", "p521", "ed448", "rsa-1024", "rsa-3"],
)
def test_a_kind_of_key_that_is_not_served(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Granian would end the whole process for it."""
    with pytest.raises(UnusableTls, match="not served") as caught, usable(self_signed(tmp_path, make())):
        pass
    assert "P-256" in caught.value.hint


def test_a_critical_extension_that_is_not_known(tmp_path: Path) -> None:
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)])
    key = ec.generate_private_key(ec.SECP256R1())
    with usable(self_signed(tmp_path, key, (policies, False))):
        pass
    with pytest.raises(UnusableTls, match=r"2\.5\.29\.32"), usable(self_signed(tmp_path, key, (policies, True))):
        pass


# ── passwords ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(f"# people\n\nalice:{hashed(PASSWORD)}\nbob:{hashed('ö' * 50)}\n", encoding="utf-8")
    return path


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4, b"2b")).decode().replace("$2b$", "$2y$")


@pytest.mark.parametrize(
    ("credentials", "status"),
    [
        (basic("alice", PASSWORD), 200),
        (basic("alice", PASSWORD).replace("Basic", "bAsIc"), 200),
        (basic("bob", "ö" * 50), 200),
        (basic("alice", "wrong"), 401),
        (basic("alice", ""), 401),
        (basic("Alice", PASSWORD), 401),
        (basic("mallory", PASSWORD), 401),
        (basic("", ""), 401),
        (basic("# people", ""), 401),
        (basic("alice", "x\0y"), 401),
        ("", 401),
        ("Basic", 401),
        ("Basic ???", 401),
        ("Basic " + base64.b64encode(b"\xff\xfe").decode(), 401),
        ("Basic " + base64.b64encode(b"alice").decode(), 401),
        ("Bearer " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode(), 401),
        ("Basic " + "a" * 9000, 401),
    ],
)
def test_who_comes_in(passwords: Path, credentials: str, status: int) -> None:
    handled: list[Request] = []
    with running(noting(handled), htpasswd=passwords) as at:
        for target in ("/v2/", "/v2/a/manifests/1"):
            headers = {"Authorization": credentials} if credentials else {}
            response, body = ask(at, "GET", target, None, None, **headers)
            assert response.status == status
            if status == 401:
                assert response.headers["www-authenticate"] == 'Basic realm="pierhead"'
                assert json.loads(body)["errors"][0]["code"] == "UNAUTHORIZED"
                assert ask(at, "HEAD", target, None, None, **headers)[1] == b""
    assert len(handled) == (2 if status == 200 else 0)


def test_a_refused_push_hears_so_although_it_sent_a_body(passwords: Path) -> None:
    with running(lambda request: Response(200), htpasswd=passwords) as at:
        for size in (10, 500_000):
            assert ask(at, "PUT", "/v2/a/manifests/1", b"x" * size)[0].status == 401
        assert ask(at, "PUT", "/v2/a/manifests/1", iter([b"x" * 1000] * 50))[0].status == 401


def test_a_password_is_verified_once_and_then_remembered(passwords: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[bytes] = []
    check = bcrypt.checkpw

    def noted(password: bytes, stored: bytes) -> bool:
        verified.append(stored)
        return check(password, stored)

    monkeypatch.setattr(bcrypt, "checkpw", noted)
    users = Htpasswd(passwords)
    for _ in range(3):
        assert users.verify("alice", Secret(PASSWORD))
        assert not users.verify("alice", Secret("wrong"))
        assert not users.verify("nobody", Secret(PASSWORD))
    assert len(verified) == 1 + 3 + 3
    assert users.remembers("alice", Secret(PASSWORD))
    assert not users.remembers("alice", Secret("wrong"))
    costs = {stored[4:6] for stored in verified}
    assert costs == {b"04"}  # an unknown user costs as much time as a known one


def test_what_is_remembered_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htpasswd, "REMEMBERED_LIMIT", 2)
    path = tmp_path / "htpasswd"
    path.write_text("".join(f"user{number}:{hashed('x')}\n" for number in range(3)))
    users = Htpasswd(path)
    assert [users.verify(f"user{number}", Secret("x")) for number in range(3)] == [True] * 3
    assert [users.remembers(f"user{number}", Secret("x")) for number in range(3)] == [False, True, True]


def test_a_changed_file_counts_at_once(passwords: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htpasswd, "RECHECK_SECONDS", -1.0)
    users = Htpasswd(passwords)
    assert users.verify("alice", Secret(PASSWORD))
    passwords.write_text(f"alice:{hashed('another')}\ncarol:{hashed('third')}\n")
    assert not users.verify("alice", Secret(PASSWORD))
    assert users.verify("alice", Secret("another"))
    assert users.verify("carol", Secret("third"))
    passwords.write_text("alice:half a line")  # somebody is writing it: the last good one counts
    assert users.verify("alice", Secret("another"))
    passwords.unlink()
    assert users.verify("alice", Secret("another"))
    assert not users.verify("mallory", Secret("another"))


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("alice:$apr1$abc$def\n", 1, "not stored with bcrypt"),
        ("alice:{SHA}hunter2hash\n", 1, "not stored with bcrypt"),
        ("\nalice\n", 2, "not an entry"),
        (":x\n", 1, "not an entry"),
        ("alice:$2y$05$short\n", 1, "not stored with bcrypt"),
        ("\xff:x\n", 1, "not UTF-8"),
    ],
)
def test_entries_that_cannot_be_used(tmp_path: Path, text: str, line: int, word: str) -> None:
    path = tmp_path / "htpasswd"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UnusableHtpasswd, match=word) as caught:
        Htpasswd(path)
    assert caught.value.span is not None
    assert (caught.value.span.line, caught.value.exit_code) == (line, ExitCode.USAGE)
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnusableHtpasswd, match="No such file"):
        Htpasswd(tmp_path / "absent")
    (tmp_path / "large").write_bytes(b"#" * (5 * MIB))
    with pytest.raises(UnusableHtpasswd, match="larger"):
        Htpasswd(tmp_path / "large")


def test_a_flood_of_passwords_is_told_to_wait(passwords: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "PASSWORDS_WAITING", 0)
    with running(lambda request: Response(200), htpasswd=passwords) as at:
        response, _ = ask(at, "GET", "/v2/", Authorization=basic("alice", PASSWORD))
        assert (response.status, response.headers["retry-after"]) == (429, "1")


# ── the command, its log and its end ─────────────────────────────────────────────────────────────────────────────


def test_the_access_log_tells_all_but_secrets(pki: Pki, passwords: Path, tmp_path: Path) -> None:
    tls = ["--tls-cert", pki.server.cert, "--tls-key", pki.server.key]
    with started(tmp_path / "root", *tls, "--htpasswd", str(passwords)) as server:
        assert server.url.startswith("https://")
        context = trusting(pki)
        ask(server, "GET", "/v2/?token=hunter2", tls=context, Authorization=basic("alice", PASSWORD))
        ask(server, "GET", "/v2/%1b%5b31m/manifests/x", tls=context, Authorization=basic("alice", "wrong-hunter2"))
        assert server.end() == 0
    text = "\n".join(server.lines)
    first, second = server.lines[1:]
    assert re.fullmatch(r"\S+Z 127\.0\.0\.1 alice GET /v2/\?token=\*\*\* 200 2 \d\.\d{3}", first)
    assert re.fullmatch(r"\S+Z 127\.0\.0\.1 - GET /v2/%1B%5B31m/manifests/x 401 \d+ \d\.\d{3}", second)
    assert PASSWORD not in text
    assert "hunter2" not in text


def test_no_log(tmp_path: Path) -> None:
    with started(tmp_path, "--no-log") as server:
        ask(server, "GET", "/v2/")
        assert server.end() == 0
    assert len(server.lines) == 1


def test_read_only(tmp_path: Path) -> None:
    with started(tmp_path / "root", "--read-only") as server:
        assert ask(server, "POST", "/v2/a/blobs/uploads/")[0].status == 405
        assert ask(server, "GET", "/v2/_catalog")[1] == b'{"repositories": []}'
    assert not (tmp_path / "root").exists()


def test_what_is_under_way_is_finished(tmp_path: Path) -> None:
    with started(tmp_path / "root") as server:
        place = begin(server)
        with connected(server) as idle, connected(server) as connection:
            idle.sendall(b"GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n")
            assert idle.recv(1000).startswith(b"HTTP/1.1 200")
            connection.sendall(f"PATCH {place} HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000\r\n\r\nab".encode())
            eventually(lambda: any("GET /v2/ " in line for line in server.lines))
            server.process.send_signal(signal.SIGTERM)
            assert idle.recv(1000) == b""  # closed: nothing was asked on it
            eventually(lambda: refuses(server))
            connection.sendall(b"c" * 999_998)
            assert connection.recv(1000).startswith(b"HTTP/1.1 202")
        assert server.process.wait(WAIT_SECONDS) == 0
    with started(tmp_path / "root") as again:
        assert ask(again, "GET", place)[0].headers["range"] == "0-999999"


def refuses(server: Process) -> bool:
    try:
        connected(server).close()
    except ConnectionRefusedError:
        return True
    return False


def test_nobody_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a client that stops sending nor one that stops reading."""
    monkeypatch.setattr(server_http, "DRAIN_SECONDS", 0.3)
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(64 * MIB)
    received: list[bytes] = []
    cut: list[BaseException] = []

    def handle(request: Request) -> Response:
        if request.body is None:
            return Response(200, body=FileBlob.whole(big))
        try:
            request.body.copy_to(lambda piece: received.append(bytes(piece)))
        except application.BodyCut as error:
            cut.append(error)
        return Response(200)

    with contextlib.ExitStack() as stack:
        with running(handle) as at:
            sending, reading = (stack.enter_context(connected(at)) for _ in range(2))
            sending.sendall(b"PATCH / HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 600_000)
            reading.sendall(b"GET / HTTP/1.1\r\nHost: r\r\n\r\n")
            assert reading.recv(10).startswith(b"HTTP/1.1")
            eventually(lambda: bool(received))
            began = time.monotonic()
        assert time.monotonic() - began < WAIT_SECONDS / 2
    eventually(lambda: bool(cut))
    assert sum(map(len, received)) == 600_000  # what had come was handed on before the end


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_how_it_ends(tmp_path: Path, how: signal.Signals, code: int) -> None:
    with started(tmp_path) as server:
        assert server.end(how) == code
    assert not [line for line in server.lines if "Traceback" in line]


def test_a_port_in_use(plain: Process, tmp_path: Path) -> None:
    config = ServerConfig(MemoryStore(), port=plain.port)
    with pytest.raises(CannotListen, match=f"127.0.0.1:{plain.port}") as caught:
        HttpServer(lambda request: Response(200), config).run(lambda url: None)
    assert (caught.value.exit_code, bool(caught.value.hint)) == (ExitCode.NETWORK, True)
    command = [
        sys.executable,
        "-m",
        "pierhead",
        "serve",
        "--root",
        str(tmp_path),
        "--listen",
        f"127.0.0.1:{plain.port}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == ExitCode.NETWORK
    assert "cannot listen" in done.stderr
    assert "hint" in done.stderr


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "\udcff"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(CannotListen):
        HttpServer(lambda request: Response(200), ServerConfig(MemoryStore(), host=host, port=0)).run(lambda url: None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("[::1]:0", ("::1", 0)),
        (":5000", ("", 5000)),
        ("registry.test:65535", ("registry.test", 65535)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text", ["", "5000", "host", "host:", "host:x", "host:65536", "::1:5000", "h:-1", "h:٣", "h:9999999"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_listen(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("host", "tls", "known_users", "read_only", "words"),
    [
        ("127.0.0.1", False, False, False, []),
        ("::1", False, False, False, []),
        ("localhost", False, False, False, []),
        ("0.0.0.0", False, False, False, ["overwrite", "unprotected"]),
        ("", False, False, True, ["read", "images cross"]),
        ("10.0.0.1", True, False, False, ["overwrite"]),
        ("::", False, True, False, ["passwords"]),
        ("registry.test", True, True, False, []),
    ],
)
def test_what_others_could_do(host: str, tls: bool, known_users: bool, read_only: bool, words: list[str]) -> None:
    found = list(warnings(host, tls=tls, known_users=known_users, read_only=read_only))
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [["--tls-cert", "x"], ["--tls-key", "x"], ["--client-ca", "x"], ["--listen", "x"], ["--htpasswd", "/x"]],
)
def test_calls_that_make_no_sense(tmp_path: Path, arguments: list[str]) -> None:
    from pierhead.cli import run

    assert run(["serve", "--root", str(tmp_path), "--listen", "127.0.0.1:0", *arguments]) == ExitCode.USAGE


def test_the_log_never_blocks() -> None:
    written = threading.Event()

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            written.wait(WAIT_SECONDS)
            return super().write(text)

    stream = Slow()
    lines = log.Log(stream)
    for number in range(log.WAITING_LIMIT + 100):
        lines.line(f"line {number} \x1b[31m")
    written.set()
    lines.close()
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.startswith("line 0 \\x1b[31m\n")
    assert re.search(r"^\d+ lines left out", text, re.MULTILINE)


def test_a_log_that_nobody_reads() -> None:
    stream = io.StringIO()
    lines = log.Log(stream)
    stream.close()
    lines.line("x")
    lines.close()


# ── a real client ────────────────────────────────────────────────────────────────────────────────────────────────


def image_layout(folder: Path) -> str:
    """A small image with real layers as an OCI layout; the digest of its manifest."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def keep(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layers, ids = [], []
    for number in range(3):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            entry = tarfile.TarInfo(f"file{number}")
            entry.size = 3 * MIB
            archive.addfile(entry, io.BytesIO(os.urandom(entry.size)))
        layers.append(keep(gzip.compress(stream.getvalue(), 1), "application/vnd.oci.image.layer.v1.tar+gzip"))
        ids.append(f"sha256:{hashlib.sha256(stream.getvalue()).hexdigest()}")
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": keep(json.dumps(config).encode(), OCI_CONFIG),
        "layers": layers,
    }
    listed = keep(json.dumps(manifest).encode(), OCI_MANIFEST)
    listed["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [listed]}))
    return str(listed["digest"])


def skopeo(*arguments: str) -> str:
    command = ["skopeo", "--insecure-policy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls-and-password"])
def test_skopeo_pushes_and_pulls(pki: Pki, passwords: Path, tmp_path: Path, secured: bool) -> None:
    digest = image_layout(tmp_path / "image")
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.crt").write_bytes(Path(pki.ca).read_bytes())
    arguments = ["--tls-cert", pki.server.cert, "--tls-key", pki.server.key, "--htpasswd", str(passwords)]
    with started(tmp_path / "root", *(arguments if secured else [])) as server:
        place = f"docker://127.0.0.1:{server.port}/team/app:1"

        def options(end: str) -> list[str]:
            if not secured:
                return [f"--{end}tls-verify=false"]
            return [f"--{end}creds", f"alice:{PASSWORD}", f"--{end}cert-dir", str(tmp_path / "certs")]

        skopeo("copy", *options("dest-"), f"oci:{tmp_path / 'image'}:1", place)
        assert json.loads(skopeo("inspect", *options(""), place))["Digest"] == digest
        assert json.loads(skopeo("list-tags", *options(""), place.removesuffix(":1")))["Tags"] == ["1"]
        mounted = place.replace("team/app", "other/app")
        skopeo("copy", *options("src-"), *options("dest-"), place, mounted)
        skopeo("copy", *options("src-"), mounted, f"oci:{tmp_path / 'back'}:1")
        skopeo("delete", *options(""), place)
    back = json.loads((tmp_path / "back" / "index.json").read_text())
    assert [each["digest"] for each in back["manifests"]] == [digest]
    for blob in (tmp_path / "image" / "blobs" / "sha256").iterdir():
        assert (tmp_path / "back" / "blobs" / "sha256" / blob.name).read_bytes() == blob.read_bytes()


def test_errors_are_of_the_family() -> None:
    for kind in (CannotListen, UnusableTls, UnusableHtpasswd):
        assert issubclass(kind, PierheadError)
