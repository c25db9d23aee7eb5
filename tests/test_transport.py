"""The client socket against servers that behave: streaming, uploads, connections, and what goes on the wire."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import HostileServer, Peer, answer, keep_answering, ok, tls_context
from pierhead.body import Blob, Buffer, BytesBlob, FileBlob, StreamBlob, Write, read_all
from pierhead.transport import Cause, CurlTransport, Exchange, Options, Timeouts, TlsOptions, TransportError
from pierhead.transport.address import parse_address
from pierhead.wire import Headers, Request
from pki import Pki

MIB = 1024 * 1024
HASTY = Options(timeouts=Timeouts(connect_seconds=5, tls_seconds=5, first_byte_seconds=5, stall_seconds=5))


class Recorder(list[Exchange]):
    """Every exchange of one transport, in the order in which they ended."""


@pytest.fixture
def exchanges() -> Recorder:
    return Recorder()


@pytest.fixture
def transport(exchanges: Recorder) -> Iterator[CurlTransport]:
    transport = CurlTransport(on_exchange=exchanges.append)
    yield transport
    transport.close()


def get(url: str) -> Request:
    return Request("GET", url)


def large(size_bytes: int, piece: bytes = b"x" * MIB) -> HostileServer:
    """A server whose every answer has so many bytes."""

    def script(peer: Peer) -> None:
        while peer.head():
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size_bytes)
            for _ in range(size_bytes // len(piece)):
                peer.send(piece)

    return HostileServer(script)


def echo(peer: Peer) -> None:
    """Answer with the body of each request."""
    while head := peer.head():
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"content-length" in fields:
            peer.send(ok(peer.body(int(fields[b"content-length"]))))
        else:
            peer.send(ok(peer.chunked_body()))


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_has_status_reason_headers_and_body(transport: CurlTransport) -> None:
    raw = b"HTTP/1.1 404 Not Here\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 4\r\n\r\nbody"
    with HostileServer(answer(raw)) as server, transport.send(get(server.url)) as response:
        assert (response.status, response.reason) == (404, "Not Here")
        assert response.headers.all("X-A") == ("1", "2")
        assert response.body.size_bytes == 4
        assert read_all(response.body, 10) == b"body"


def test_headers_come_before_the_body_does(transport: CurlTransport) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        assert go.wait(10)
        peer.send(b"late")

    with HostileServer(script) as server, transport.send(get(server.url)) as response:
        go.set()
        assert read_all(response.body, 10) == b"late"


def test_a_chunked_answer_has_no_size(transport: CurlTransport) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    with HostileServer(answer(raw)) as server, transport.send(get(server.url)) as response:
        assert response.body.size_bytes is None
        assert read_all(response.body, 10) == b"abcde"
        assert "Trailer" not in response.headers


def test_an_answer_without_length_ends_with_the_connection(transport: CurlTransport) -> None:
    with HostileServer(answer(b"HTTP/1.0 200 OK\r\n\r\n", b"to the end")) as server:
        response = transport.send(get(server.url))
        assert response.body.size_bytes is None
        assert read_all(response.body, 20) == b"to the end"


def test_only_the_final_head_counts(transport: CurlTransport) -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok(b"", "X-Final: yes")
    with HostileServer(answer(raw)) as server, transport.send(get(server.url)) as response:
        assert response.status == 200
        assert [name for name, _ in response.headers] == ["Content-Length", "X-Final"]


def test_head_has_the_headers_of_a_body_and_none(transport: CurlTransport) -> None:
    with HostileServer(keep_answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")) as server:
        for _ in range(2):
            with transport.send(Request("HEAD", server.url)) as response:
                assert response.headers.get("content-length") == "5000"
                assert response.body.size_bytes == 0
                assert read_all(response.body, 10) == b""
        assert server.accepted == 1


def test_redirects_and_challenges_are_answers_like_any_other(transport: CurlTransport) -> None:
    redirect = b"HTTP/1.1 307 Moved\r\nLocation: http://elsewhere.invalid/\r\nContent-Length: 0\r\n\r\n"
    challenge = b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
    with HostileServer(keep_answering(redirect, challenge)) as server:
        with transport.send(get(server.url)) as response:
            assert (response.status, response.headers.get("Location")) == (307, "http://elsewhere.invalid/")
        with transport.send(get(server.url)) as response:
            assert response.status == 401
        assert len(server.heads) == 2


def test_a_coded_body_is_left_as_it_is(transport: CurlTransport) -> None:
    body = b"\x1f\x8b\x08 not even gzip"
    with HostileServer(answer(ok(body, "Content-Encoding: gzip"))) as server:
        response = transport.send(get(server.url))
        assert read_all(response.body, 100) == body
    assert b"accept-encoding" not in server.heads[0].lower()


@pytest.mark.parametrize(
    ("raw", "text"), [(b"caf\xc3\xa9", "café"), (b"caf\xe9", "café"), (b"a\r\n b", "a b"), (b"", "")]
)
def test_header_values_of_any_bytes(transport: CurlTransport, raw: bytes, text: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-V: " + raw + b"\r\nContent-Length: 0\r\n\r\n"
    with HostileServer(answer(head)) as server, transport.send(get(server.url)) as response:
        assert response.headers.get("X-V", "missing") == text


@settings(deadline=None, max_examples=25)
@given(body=st.binary(max_size=300_000), chunk=st.integers(1, 100_000))
def test_any_body_comes_as_it_was_sent(body: bytes, chunk: int) -> None:
    """Whatever its size in relation to the limits inside, with a length or in chunks."""
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[i : i + chunk]), body[i : i + chunk]) for i in range(0, len(body), chunk)
    )
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    transport = CurlTransport()
    with HostileServer(keep_answering(ok(body), chunked)) as server:
        for _ in range(2):
            with transport.send(get(server.url)) as response:
                assert read_all(response.body, len(body)) == body
        assert server.accepted == 1
        transport.close()


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_large_body_does_not_fill_memory(transport: CurlTransport) -> None:
    with large(MIB) as server:  # what the machinery itself takes
        transport.send(get(server.url)).body.copy_to(len)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with large(64 * MIB) as server:
        response = transport.send(get(server.url))
        assert response.body.copy_to(len) == 64 * MIB
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 16 * 1024


def test_a_body_that_nobody_copies_waits_at_the_server(transport: CurlTransport) -> None:
    sent = 0

    def script(peer: Peer) -> None:
        nonlocal sent
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (256 * MIB))
        peer.connection.settimeout(0.5)
        while sent < 256 * MIB:
            sent += peer.connection.send(b"x" * MIB)

    with HostileServer(script) as server:
        response = transport.send(get(server.url))
    assert isinstance(server.errors[0], TimeoutError)
    assert sent < 32 * MIB  # the kernel's buffers
    response.body.close()


def test_pieces_are_large(transport: CurlTransport) -> None:
    sizes: list[int] = []
    with large(16 * MIB) as server:
        transport.send(get(server.url)).body.copy_to(lambda piece: sizes.append(len(piece)))
    assert sum(sizes) == 16 * MIB
    assert len(sizes) < 80


def test_a_slow_consumer_is_no_stall(transport: CurlTransport) -> None:
    options = Options(timeouts=Timeouts(stall_seconds=0.2))
    busy = threading.Event()
    with large(4 * MIB) as server:
        response = transport.send(get(server.url), options)
        assert response.body.copy_to(lambda _: busy.wait(0.02)) == 4 * MIB
        assert not busy.wait(0.3)
        response = transport.send(get(server.url), options)
        assert not busy.wait(0.3)  # nor is somebody who begins late
        assert response.body.copy_to(len) == 4 * MIB


def test_what_the_consumer_raises_comes_through(transport: CurlTransport, exchanges: Recorder) -> None:
    def refuse(piece: Buffer) -> None:
        raise LookupError("enough")

    with large(4 * MIB) as server:
        with transport.send(get(server.url)) as response, pytest.raises(LookupError, match="enough"):
            response.body.copy_to(refuse)
        assert len(exchanges) == 1
        with transport.send(get(server.url)) as response:  # on a new connection, for the old one was in the middle
            assert response.body.copy_to(len) == 4 * MIB
        assert server.accepted == 2


def test_a_body_is_copied_once(transport: CurlTransport) -> None:
    with HostileServer(keep_answering(ok(b"once"))) as server:
        response = transport.send(get(server.url))
        with pytest.raises(ValueError, match="offset"):
            response.body.copy_to(len, 1)
        assert read_all(response.body, 10) == b"once"
        assert read_all(response.body, 10) == b""
        response.body.close()
        response.body.close()
        with pytest.raises(ValueError, match="closed"):
            response.body.copy_to(len)


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dropped_answer_closes_its_connection(transport: CurlTransport, pki: Pki) -> None:
    """Now, not when the transport is closed; over TLS too, where a polite end would wait for the server's."""
    gone = threading.Event()

    def endless(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                peer.send(b"x" * 65536)
        except OSError:
            gone.set()

    for tls in (None, tls_context(pki.server.cert, pki.server.key)):
        gone.clear()
        with HostileServer(endless, tls=tls) as server:
            transport.send(get(server.url), Options(TlsOptions((pki.ca,)))).body.close()
            assert gone.wait(5)


def test_an_answer_that_everybody_forgot_takes_nothing_along(transport: CurlTransport) -> None:
    """Somebody never closes a body: its line is lost, and only that."""
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
        try:
            peer.closed_by_client()
        finally:
            gone.set()

    with HostileServer(script) as server:
        transport.send(get(server.url))
        assert gone.wait(5)


def test_connections_are_used_again(transport: CurlTransport, exchanges: Recorder) -> None:
    with HostileServer(keep_answering(ok(b"x" * 200_000))) as server:
        for _ in range(5):
            transport.send(get(server.url)).body.copy_to(len)
        assert server.accepted == 1
    assert [exchange.reused for exchange in exchanges] == [False, True, True, True, True]
    assert {exchange.peer for exchange in exchanges} == {server.place}


def test_each_origin_keeps_its_connection(transport: CurlTransport) -> None:
    with HostileServer(keep_answering(ok())) as one, HostileServer(keep_answering(ok())) as other:
        for _ in range(3):
            for server in (one, other):
                transport.send(get(server.url)).body.close()
        assert (one.accepted, other.accepted) == (1, 1)


@pytest.mark.parametrize(("size", "connections"), [(100, 1), (200_000, 1), (20 * MIB, 2)])
def test_closing_early_keeps_the_connection_if_little_is_left(
    transport: CurlTransport, size: int, connections: int
) -> None:
    with HostileServer(keep_answering(ok(b"x" * size), ok(b"small"))) as server:
        transport.send(get(server.url)).body.close()
        script_goes_on = transport.send(get(server.url))
        assert read_all(script_goes_on.body, 30 * MIB)
        assert server.accepted == connections


def test_closing_early_does_not_wait_for_a_slow_rest(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        peer.closed_by_client()

    with HostileServer(script) as server:
        transport.send(get(server.url)).body.close()  # or the test takes as long as the stall timeout


def test_a_connection_that_died_while_idle_is_replaced(transport: CurlTransport) -> None:
    def once(peer: Peer) -> None:
        peer.head()
        peer.send(ok(b"first"))
        closing.wait(10)

    closing = threading.Event()
    with HostileServer(once, keep_answering(ok(b"second"))) as server:
        assert read_all(transport.send(get(server.url)).body, 10) == b"first"
        closing.set()
        assert read_all(transport.send(get(server.url)).body, 10) == b"second"
        assert server.accepted == 2


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_request_is_repeated_if_the_old_connection_closes_on_it(transport: CurlTransport, method: str) -> None:
    def closes_on_the_second(peer: Peer) -> None:
        peer.head()
        peer.send(ok(b""))
        peer.head()

    with HostileServer(closes_on_the_second, keep_answering(ok(b""))) as server:
        transport.send(Request(method, server.url)).body.close()
        with transport.send(Request(method, server.url)) as response:
            assert response.status == 200
        assert (server.accepted, len(server.heads)) == (2, 3)


def test_a_request_on_a_new_connection_is_not_repeated(transport: CurlTransport) -> None:
    with HostileServer(answer()) as server, pytest.raises(TransportError) as caught:
        transport.send(get(server.url))
    assert caught.value.cause is Cause.CLOSED
    assert server.accepted == 1


def test_several_threads_at_once(transport: CurlTransport, exchanges: Recorder) -> None:
    together = threading.Barrier(4, timeout=10)

    def script(peer: Peer) -> None:
        while head := peer.head():
            together.wait()
            peer.send(ok(head.split()[1] * 30_000))

    def fetch(number: int) -> bytes:
        return read_all(transport.send(get(f"{server.url}/{number}")).body, MIB)

    with HostileServer(script) as server, ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(fetch, range(4))) == [b"/%d" % number * 30_000 for number in range(4)]
        assert server.accepted == 4
    assert len(exchanges) == 20


def test_an_answer_may_be_read_by_another_thread_and_after_close(exchanges: Recorder) -> None:
    transport = CurlTransport(on_exchange=exchanges.append)
    with large(4 * MIB) as server:
        response = transport.send(get(server.url))
        transport.close()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(response.body.copy_to, len).result() == 4 * MIB
    assert len(exchanges) == 1


def test_many_open_files_are_no_obstacle(transport: CurlTransport) -> None:
    """select(2) fails from descriptor 1024 on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    with contextlib.ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server = opened.enter_context(HostileServer(answer(ok(b"high"))))
        for _ in range(1050):
            opened.enter_context(socket.socket())
        assert read_all(transport.send(get(server.url), HASTY).body, 10) == b"high"


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tail", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("?x=1", "/?x=1"),
        ("//x/./a/../b", "//x/./a/../b"),
        ("/v2/a%2Fb/%2e%2E/c", "/v2/a%2Fb/%2e%2E/c"),
        ("/v2/a?b%2Fapp/manifests/latest=&ns=docker.io", "/v2/a?b%2Fapp/manifests/latest=&ns=docker.io"),
        ('/v2/[x]{y}|^`"<>\\', '/v2/[x]{y}|^`"<>\\'),
        ("/a#fragment", "/a"),
        ("/caf\u00e9", "/caf%C3%A9"),
    ],
)
def test_the_target_goes_out_as_it_is(transport: CurlTransport, tail: str, target: str) -> None:
    with HostileServer(answer(ok())) as server:
        transport.send(get(server.url + tail)).body.close()
    assert server.heads[0].split(b"\r\n")[0] == f"GET {target} HTTP/1.1".encode()


def test_the_request_has_its_headers_and_few_others(transport: CurlTransport) -> None:
    headers = Headers([("Accept", "a"), ("Accept", "b"), ("X-Empty", ""), ("User-Agent", "me")])
    with HostileServer(answer(ok())) as server:
        transport.send(Request("GET", server.url, headers)).body.close()
    lines = sorted(server.heads[0].decode().split("\r\n")[1:])
    assert lines == ["Accept: a", "Accept: b", f"Host: {server.place}", "User-Agent: me", "X-Empty:"]


def test_credentials_in_a_url_are_not_used(transport: CurlTransport, exchanges: Recorder) -> None:
    with HostileServer(answer(ok())) as server:
        transport.send(get(server.url.replace("://", "://user:planted-secret@"))).body.close()
    assert b"Authorization" not in server.heads[0]
    assert "planted-secret" not in json.dumps([exchange.to_json() for exchange in exchanges])


@pytest.mark.parametrize("header", [("X-A", "1\r\nX-B: 2"), ("X A", "1"), ("", "1"), ("X-A\n", "1"), ("X-A", "\0")])
def test_headers_cannot_be_smuggled(transport: CurlTransport, header: tuple[str, str]) -> None:
    with pytest.raises(TransportError) as caught:
        transport.send(Request("GET", "http://127.0.0.1:1/", Headers([header])))
    assert caught.value.cause is Cause.BAD_REQUEST


def test_a_method_cannot_smuggle(transport: CurlTransport) -> None:
    with pytest.raises(TransportError) as caught:
        transport.send(Request("GET / HTTP/1.1\r\nX:", "http://127.0.0.1:1/"))
    assert caught.value.cause is Cause.BAD_REQUEST


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
def test_no_body_is_announced_as_go_does(transport: CurlTransport, method: str) -> None:
    with HostileServer(answer(ok())) as server:
        transport.send(Request(method, server.url)).body.close()
    announced = b"content-length: 0" in server.heads[0].lower()
    assert announced == (method in {"POST", "PUT", "PATCH"})


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Anything:
    """A blob of a kind that the transport has never seen."""

    def __init__(self, data: bytes, size_bytes: int | None) -> None:
        self.data = data
        self.size_bytes = size_bytes

    def copy_to(self, write: Write, offset: int = 0) -> int:
        for at in range(offset, len(self.data), 70_000):
            write(bytearray(self.data[at : at + 70_000]))
        return len(self.data) - offset

    def close(self) -> None:
        pass


def _blobs(folder: Path, data: bytes) -> list[Blob]:
    (folder / "file").write_bytes(b"??" + data)
    return [
        BytesBlob(data),
        FileBlob(folder / "file", 2, len(data)),
        StreamBlob(iter([data[:7], b"", memoryview(data)[7:]])),
        StreamBlob(iter([data]), len(data)),
        Anything(data, None),
        Anything(data, len(data)),
    ]


@pytest.mark.parametrize("size", [0, 1, 5000, 3 * MIB + 17])
def test_every_kind_of_blob_is_sent(transport: CurlTransport, tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"r" * (size % 256)
    with HostileServer(echo) as server:
        for blob in _blobs(tmp_path, data):
            response = transport.send(Request("PUT", server.url, body=blob))
            assert read_all(response.body, size) == data
        assert server.accepted == 1
        assert not any(b"Expect" in head for head in server.heads)
        chunked = [b"Transfer-Encoding: chunked" in head for head in server.heads]
        assert chunked == [False, False, True, False, True, False]


def test_an_upload_does_not_fill_memory(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        for _ in range(64):
            assert len(peer.body(MIB)) == MIB
        peer.send(ok())

    piece = b"x" * MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with HostileServer(script) as server:
        body = StreamBlob((piece for _ in range(64)), 64 * MIB)
        assert transport.send(Request("PUT", server.url, body=body)).status == 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 * 1024


def test_an_answer_can_be_sent_on_as_it_comes(transport: CurlTransport) -> None:
    """From one server to another with nothing in between, both lines driven by one thread."""
    with large(8 * MIB) as source, HostileServer(echo) as sink:
        response = transport.send(get(source.url))
        assert isinstance(response.body.size_bytes, int)
        answer = transport.send(Request("PUT", sink.url, body=response.body))
        assert read_all(answer.body, 8 * MIB) == b"x" * (8 * MIB)


@pytest.mark.parametrize("status", [401, 413, 307])
def test_an_early_answer_ends_an_upload(transport: CurlTransport, status: int) -> None:
    given = 0

    def pieces() -> Iterator[bytes]:
        nonlocal given
        for _ in range(1000):
            given += 1
            yield b"x" * MIB

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % status)
        peer.closed_by_client()

    with HostileServer(script) as server:
        response = transport.send(Request("PUT", server.url, body=StreamBlob(pieces(), 1000 * MIB)))
        assert (response.status, read_all(response.body, 10)) == (status, b"no")
        assert given < 100


def test_an_early_answer_counts_even_if_the_server_then_closes(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        peer.connection.shutdown(socket.SHUT_WR)
        peer.closed_by_client()

    with HostileServer(script) as server:
        body = StreamBlob((b"x" * MIB for _ in range(100)), 100 * MIB)
        assert transport.send(Request("PUT", server.url, body=body)).status == 413


def test_every_piece_of_an_upload_that_is_taken_returns(transport: CurlTransport) -> None:
    """However quick the answer: who counts what was sent counts the last piece too."""
    answered, returned = threading.Event(), []

    class Counted(Anything):
        def copy_to(self, write: Write, offset: int = 0) -> int:
            for piece in (b"first", b"last"):
                write(piece)
                returned.append(piece)
                answered.wait(5)
            return len(self.data)

    def script(peer: Peer) -> None:
        peer.head()
        peer.body(5)
        peer.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        answered.set()
        peer.body(4)

    with HostileServer(script) as server:
        body = Counted(b"firstlast", 9)
        assert transport.send(Request("PUT", server.url, body=body)).status == 201
    assert returned == [b"first", b"last"]


def test_what_the_source_raises_comes_through(transport: CurlTransport, exchanges: Recorder) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * MIB
        raise LookupError("source")

    with HostileServer(lambda peer: peer.closed_by_client()) as server:
        with pytest.raises(LookupError, match="source"):
            transport.send(Request("PUT", server.url, body=StreamBlob(pieces())))
        assert len(exchanges) == 1


@pytest.mark.parametrize("announced", [MIB - 1, MIB + 1])
def test_a_body_of_another_length_than_announced_is_not_sent(transport: CurlTransport, announced: int) -> None:
    with HostileServer(lambda peer: peer.closed_by_client()) as server, pytest.raises(TransportError) as caught:
        transport.send(Request("PUT", server.url, body=StreamBlob(iter([b"x" * MIB]), announced)))
    assert caught.value.cause is Cause.BAD_REQUEST


def test_a_slow_source_is_no_stall(transport: CurlTransport) -> None:
    waiting = threading.Event()

    def pieces() -> Iterator[bytes]:
        for _ in range(2):
            assert not waiting.wait(0.3)
            yield b"x"

    with HostileServer(echo) as server:
        options = Options(timeouts=Timeouts(stall_seconds=0.2, first_byte_seconds=5))
        response = transport.send(Request("PUT", server.url, body=StreamBlob(pieces())), options)
        assert read_all(response.body, 10) == b"xx"


# ── where it goes ────────────────────────────────────────────────────────────────────────────────────────────────


def test_connect_to_dials_elsewhere_and_changes_nothing_else(pki: Pki, exchanges: Recorder) -> None:
    names: list[str | None] = []
    context = tls_context(pki.server.cert, pki.server.key)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with HostileServer(keep_answering(ok()), tls=context) as server:
        transport = CurlTransport(connect_to={"Reg.test.example:443": server.place}, on_exchange=exchanges.append)
        options = Options(TlsOptions(ca_files=(pki.ca,)))
        for _ in range(2):
            transport.send(get("https://reg.test.example/v2/"), options).body.close()
        transport.close()
        assert server.accepted == 1
    assert names == ["reg.test.example"]
    assert b"Host: reg.test.example\r\n" in server.heads[0]
    assert exchanges[0].peer == server.place
    assert 0 < exchanges[0].timings.connect < exchanges[0].timings.tls < exchanges[0].timings.first_byte


def test_connect_to_understands_ipv6_on_both_sides(exchanges: Recorder) -> None:
    with HostileServer(keep_answering(ok()), host="::1") as server:
        places = {"[2001:db8::1]:5000": server.place, "plain.test:80": server.place}
        transport = CurlTransport(connect_to=places, on_exchange=exchanges.append)
        transport.send(get("http://[2001:db8::1]:5000/v2/")).body.close()
        transport.send(get("http://plain.test/v2/")).body.close()
        transport.send(get(f"{server.url}/v2/")).body.close()
        transport.close()
    hosts = [head.split(b"\r\n")[1] for head in server.heads]
    assert hosts == [b"Host: [2001:db8::1]:5000", b"Host: plain.test", f"Host: {server.place}".encode()]
    assert {exchange.peer for exchange in exchanges} == {server.place}


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "target"),
    [
        ("http://h", "h", 80, "h", "/"),
        ("HTTPS://H:443/x", "H", 443, "H:443", "/x"),
        ("http://h:/x", "h", 80, "h", "/x"),
        ("https://[::1]/", "::1", 443, "[::1]", "/"),
        ("http://[fe80::1%25eth0]:5000/", "fe80::1%25eth0", 5000, "[fe80::1]:5000", "/"),
        ("http://u:p@h:1/@x", "h", 1, "h:1", "/@x"),
        ("http://h?a/b", "h", 80, "h", "/?a/b"),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/"),
    ],
)
def test_addresses(url: str, host: str, port: int, authority: str, target: str) -> None:
    address = parse_address(url)
    assert (address.host, address.port, address.authority, address.target) == (host, port, authority, target)


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("https:///v2/x", "no Host in request URL"),
        ("https://:5000/v2", "no Host in request URL"),
        ("https://user@/", "no Host in request URL"),
        ("https://////v2", "no Host in request URL"),
        ("ftp://h/", "unsupported protocol scheme 'ftp'"),
        ("file:///etc/passwd", "unsupported protocol scheme 'file'"),
        ("/v2/", "not an absolute URL"),
        ("", "not an absolute URL"),
        ("http://h:99999/", "invalid port '99999'"),
        ("http://h:0x50/", "invalid port '0x50'"),
        ("http://::1/", "cannot be understood"),
        ("http://[::1/", "cannot be understood"),
        ("http://h/a b", "a space or a control character"),
        ("http://h/a\r\nX: y", "a space or a control character"),
        ("http://h\0/", "a space or a control character"),
    ],
)
def test_urls_that_lead_nowhere(transport: CurlTransport, url: str, detail: str) -> None:
    with pytest.raises(TransportError) as caught:
        transport.send(get(url))
    assert caught.value.cause is Cause.BAD_URL
    assert detail in caught.value.message


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with contextlib.suppress(TransportError):
        address = parse_address(f"http://{text}")
        assert address.host
        assert address.target.isascii()
        assert address.target.startswith("/")


# ── the record ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_exchange_tells_everything_but_secrets(transport: CurlTransport, exchanges: Recorder) -> None:
    headers = Headers(
        [
            ("Authorization", "Bearer planted-1"),
            ("Proxy-Authorization", "planted-2"),
            ("Cookie", "planted-3"),
            ("X-Registry-Auth", "planted-4"),
            ("Accept", "application/json"),
        ]
    )
    raw = ok(
        b"planted-5",
        "Set-Cookie: planted-6",
        "Location: https://cdn.example/b?X-Amz-Signature=planted-7&a=b",
        'WWW-Authenticate: Bearer realm="https://auth.example/"',
    )
    with HostileServer(answer(raw)) as server:
        request = Request("GET", f"{server.url}/x?token=planted-8&n=1", headers)
        assert read_all(transport.send(request).body, 20) == b"planted-5"
    (exchange,) = exchanges
    told = exchange.to_json()
    assert "planted" not in json.dumps(told) + repr(exchange)
    assert told["method"] == "GET"
    assert told["url"] == f"{server.url}/x?token=***&n=1"
    assert told["status"] == 200
    assert told["request_headers"][0] == ["Authorization", "Bearer ***"]
    assert told["request_headers"][4] == ["Accept", "application/json"]
    assert ["WWW-Authenticate", 'Bearer realm="https://auth.example/"'] in told["response_headers"]
    assert told["received_bytes"] == 9
    assert told["cause"] is None
    assert told["timings"]["total"] >= told["timings"]["first_byte"] >= told["timings"]["connect"] > 0


def test_an_exchange_ends_with_its_body(transport: CurlTransport, exchanges: Recorder) -> None:
    with large(4 * MIB) as server:
        response = transport.send(get(server.url))
        assert exchanges == []
        response.body.copy_to(len)
        assert [(each.status, each.received_bytes, each.sent_bytes) for each in exchanges] == [(200, 4 * MIB, 0)]


def test_ctrl_c_interrupts_a_wait() -> None:
    """In a process of its own: the signal comes while the main thread waits for an answer that never comes."""
    code = """
        import sys, os, signal, threading
        sys.path.insert(0, sys.argv[1])
        from hostile import HostileServer
        from pierhead.transport import CurlTransport
        from pierhead.wire import Request

        def script(peer):
            peer.head()
            os.kill(os.getpid(), signal.SIGINT)
            peer.closed_by_client()

        told = []
        transport = CurlTransport(on_exchange=told.append)
        with HostileServer(script) as server:
            try:
                transport.send(Request("GET", server.url))
            except KeyboardInterrupt:
                print("interrupted", len(told))
            transport.close()
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("interrupted 1\n", "")


def test_importing_the_protocol_does_not_load_libcurl() -> None:
    code = "import sys, pierhead.transport; print('pycurl' in sys.modules, 'ssl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "False False\n"
