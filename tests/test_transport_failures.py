"""The client socket against servers that misbehave: each failure has its own cause, sentence and limit."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from hostile import HostileServer, Peer, answer, keep_answering, ok, refusing_place
from pierhead.body import BodyTooLarge, BytesBlob, StreamBlob, read_all
from pierhead.errors import ExitCode
from pierhead.transport import Cause, CurlTransport, Exchange, Options, Timeouts, TransportError
from pierhead.transport.answer import HEAD_LIMIT_BYTES, HEAD_LIMIT_LINES
from pierhead.wire import Headers, Request

SHORT = 0.2
MIB = 1024 * 1024


def failure(transport: CurlTransport, url: str, options: Options = Options()) -> TransportError:
    """What a GET of `url` fails with."""
    with pytest.raises(TransportError) as caught:
        read_all(transport.send(Request("GET", url), options).body, 64 * MIB)
    assert caught.value.exit_code is ExitCode.NETWORK
    return caught.value


# ── no connection ────────────────────────────────────────────────────────────────────────────────────────────────


def test_refused(transport: CurlTransport, exchanges: list[Exchange]) -> None:
    with refusing_place() as place:
        error = failure(transport, f"http://{place}/x?token=planted-secret")
        assert error.cause is Cause.REFUSED
        assert str(error) == f"{place}: connection refused"
        assert "registry is running" in error.hint
        assert error.url == f"http://{place}/x?token=***"
    assert [(each.status, each.cause) for each in exchanges] == [(None, Cause.REFUSED)]
    assert exchanges[0].to_json()["cause"] == "refused"


def test_a_name_without_address(transport: CurlTransport) -> None:
    error = failure(transport, "http://no-such-host.invalid/")
    assert error.cause is Cause.DNS
    assert str(error) == "no-such-host.invalid: no address found"


def test_unreachable(transport: CurlTransport) -> None:
    # An address that no machine may send to: the kernel refuses at once.
    assert failure(transport, "http://255.255.255.255:81/").cause in {Cause.UNREACHABLE, Cause.REFUSED}


def test_connect_timeout(transport: CurlTransport) -> None:
    """A listener whose backlog is full drops what comes, as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(place)
        error = failure(transport, f"http://127.0.0.1:{place[1]}/", Options(timeouts=Timeouts(connect_seconds=SHORT)))
        for each in waiting:
            each.close()
    assert error.cause is Cause.CONNECT_TIMEOUT
    assert error.detail == "timed out after 0.2 s"


# ── no answer ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_first_byte_timeout(transport: CurlTransport) -> None:
    with HostileServer(Peer.hang) as server:
        error = failure(transport, server.url, Options(timeouts=Timeouts(first_byte_seconds=SHORT)))
    assert error.cause is Cause.FIRST_BYTE_TIMEOUT


def test_headers_that_trickle_count_as_no_answer(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        while not peer.server.stopping.wait(SHORT / 4):
            peer.send(b"X-More: yes\r\n")

    with HostileServer(script) as server:
        error = failure(transport, server.url, Options(timeouts=Timeouts(first_byte_seconds=SHORT)))
    assert error.cause is Cause.FIRST_BYTE_TIMEOUT


@pytest.mark.parametrize("script", [answer(), lambda peer: (peer.head(), peer.reset())], ids=["fin", "rst"])
def test_closed_without_an_answer(transport: CurlTransport, script: object) -> None:
    assert callable(script)
    with HostileServer(script) as server:
        assert failure(transport, server.url).cause is Cause.CLOSED


def test_closed_inside_the_headers(transport: CurlTransport) -> None:
    with HostileServer(answer(b"HTTP/1.1 200 OK\r\nContent-Le")) as server:
        assert failure(transport, server.url).cause in {Cause.CLOSED, Cause.PROTOCOL}


# ── a broken body ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 10, 100_000, 1_000_000])
def test_a_body_that_is_cut_gives_what_came(transport: CurlTransport, exchanges: list[Exchange], size: int) -> None:
    got = bytearray()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n"
    with HostileServer(answer(head, b"x" * size)) as server:
        response = transport.send(Request("GET", server.url))
        assert response.status == 200
        with pytest.raises(TransportError) as caught:
            response.body.copy_to(got.extend)
        response.body.close()
    assert caught.value.cause is Cause.CUT
    assert bytes(got) == b"x" * size
    assert [(each.status, each.cause, each.received_bytes) for each in exchanges] == [(200, Cause.CUT, size)]


def test_a_reset_inside_the_body_is_a_cut(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n12345")
        assert copying.wait(10)
        peer.reset()

    copying = threading.Event()
    with HostileServer(script) as server:
        response = transport.send(Request("GET", server.url))
        copying.set()
        with pytest.raises(TransportError) as caught:
            response.body.copy_to(len)
    assert caught.value.cause is Cause.CUT


def test_chunks_that_end_too_early(transport: CurlTransport) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\nab"
    with HostileServer(answer(raw)) as server:
        assert failure(transport, server.url).cause is Cause.CUT


def test_chunks_that_are_none(transport: CurlTransport) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nzz\r\n"
    with HostileServer(answer(raw)) as server:
        assert failure(transport, server.url).cause is Cause.PROTOCOL


def test_bytes_behind_the_body_are_not_the_next_answer(transport: CurlTransport) -> None:
    smuggled = ok(b"good") + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with HostileServer(answer(smuggled), keep_answering(ok(b"next"))) as server:
        assert read_all(transport.send(Request("GET", server.url)).body, 10) == b"good"
        assert read_all(transport.send(Request("GET", server.url)).body, 10) == b"next"


def test_a_body_that_stands_still(transport: CurlTransport) -> None:
    got = bytearray()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        peer.hang()

    with HostileServer(script) as server:
        options = Options(timeouts=Timeouts(stall_seconds=SHORT))
        response = transport.send(Request("GET", server.url), options)
        with pytest.raises(TransportError) as caught:
            response.body.copy_to(got.extend)
    assert caught.value.cause is Cause.STALLED
    assert got == b"half"


def test_an_upload_that_stands_still(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.hang()

    body = StreamBlob((b"x" * MIB for _ in range(200)), 200 * MIB)
    options = Options(timeouts=Timeouts(stall_seconds=SHORT))
    with HostileServer(script) as server, pytest.raises(TransportError) as caught:
        transport.send(Request("PUT", server.url, body=body), options)
    assert caught.value.cause is Cause.STALLED


def test_an_endless_body_is_for_its_reader_to_limit(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.send(b"x" * MIB)

    with HostileServer(script) as server:
        response = transport.send(Request("GET", server.url))
        with response, pytest.raises(BodyTooLarge):
            read_all(response.body, 10 * MIB)
    assert isinstance(server.errors[0], OSError)  # the connection was closed on it


# ── answers that are none ────────────────────────────────────────────────────────────────────────────────────────


def test_headers_without_end(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            peer.send(b"X-Header: yes\r\n" * 100)

    with HostileServer(script) as server:
        assert failure(transport, server.url).cause is Cause.TOO_LARGE


@pytest.mark.parametrize(
    "head",
    [
        b"X: y\r\n" * (HEAD_LIMIT_LINES + 1),
        (b"X: " + b"y" * 50_000 + b"\r\n") * 6,
        b"X: " + b"y" * (HEAD_LIMIT_BYTES + 1) + b"\r\n",
    ],
    ids=["lines", "bytes", "line"],
)
def test_too_many_headers(transport: CurlTransport, head: bytes) -> None:
    with HostileServer(answer(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 0\r\n\r\n")) as server:
        error = failure(transport, server.url)
    assert error.cause is Cause.TOO_LARGE
    assert len(str(error)) < 700


def test_many_headers_are_fine_up_to_the_limit(transport: CurlTransport) -> None:
    head = b"X: y\r\n" * (HEAD_LIMIT_LINES - 10)
    with HostileServer(answer(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 0\r\n\r\n")) as server:
        response = transport.send(Request("GET", server.url))
        assert len(response.headers.all("X")) == HEAD_LIMIT_LINES - 10


def test_interim_answers_without_end(transport: CurlTransport) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        while True:
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)

    with HostileServer(script) as server:
        assert failure(transport, server.url).cause is Cause.TOO_LARGE


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"<html>hello</html>",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 20\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/9.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\0" * 1000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_a_status_line_that_is_none(transport: CurlTransport, raw: bytes) -> None:
    with HostileServer(answer(raw)) as server:
        assert failure(transport, server.url).cause is Cause.PROTOCOL


@pytest.mark.parametrize("lengths", ["5\r\nContent-Length: 6", "-1", "99999999999999999999999999", "five", "5, 6"])
def test_lengths_that_are_none(transport: CurlTransport, lengths: str) -> None:
    raw = f"HTTP/1.1 200 OK\r\nContent-Length: {lengths}\r\n\r\nhello".encode()
    with HostileServer(answer(raw)) as server:
        error = failure(transport, server.url)
    assert error.cause is Cause.PROTOCOL


def test_a_plain_request_to_a_tls_port_says_so_somehow(transport: CurlTransport) -> None:
    with HostileServer(answer(b"\x15\x03\x03\x00\x02\x02\x16")) as server:
        error = failure(transport, server.url)
    assert error.cause is Cause.PROTOCOL
    assert "belongs to a registry" in error.hint


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "script",
    [
        answer(),
        answer(b"garbage planted-answer\r\n"),
        answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"),
        answer(b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: planted-cookie\r\n" * 1000),
    ],
)
def test_no_secret_in_any_failure(transport: CurlTransport, exchanges: list[Exchange], script: object) -> None:
    assert callable(script)
    headers = Headers({"Authorization": "Basic planted-basic", "Cookie": "planted-cookie"})
    with HostileServer(script) as server:
        url = server.url.replace("://", "://user:planted-password@") + "/x?X-Amz-Signature=planted-signature"
        request = Request("POST", url, headers, BytesBlob(b"refresh_token=planted-body"))
        with pytest.raises(TransportError) as caught:
            read_all(transport.send(request).body, MIB)
    error = caught.value
    told = [str(error), repr(error), error.hint, error.detail, error.url, repr(exchanges)]
    told += [json.dumps(exchange.to_json()) for exchange in exchanges]
    assert "planted" not in " ".join(told).replace("planted-answer", "")


def test_a_failed_line_works_again(transport: CurlTransport) -> None:
    """After every kind of end the same line serves the next request as if nothing had happened."""
    scripts = (answer(), answer(b"junk"), answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"))
    with HostileServer(*scripts, keep_answering(ok(b"good"))) as server:
        for _ in scripts:
            failure(transport, server.url)
        for _ in range(3):
            assert read_all(transport.send(Request("GET", server.url)).body, 10) == b"good"
        assert server.accepted == len(scripts) + 1
