"""Which proxy is used, as Go's programs decide it, and requests that go through one."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading

import pytest

from hostile import HostileServer, Peer, answer, keep_answering, ok, refusing_place, tls_context
from pierhead.body import read_all
from pierhead.proxy import InvalidProxy, ProxyRules
from pierhead.transport import Cause, CurlTransport, Exchange, Options, Timeouts, TlsOptions, TransportError
from pierhead.wire import Headers, Request
from pki import Pki


def rules(**environment: str) -> ProxyRules:
    return ProxyRules.from_environment(environment)


# ── the decision ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("environment", "scheme", "url"),
    [
        ({}, "http", None),
        ({"HTTP_PROXY": "http://p:1"}, "http", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "http", "http://p:1"),
        ({"HTTP_PROXY": "http://upper:1", "http_proxy": "http://lower:1"}, "http", "http://upper:1"),
        ({"HTTP_PROXY": "", "http_proxy": "http://lower:1"}, "http", "http://lower:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https", "http://p:1"),
        ({"https_proxy": "http://p:1"}, "https", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "all_proxy": "http://p:1"}, "https", None),
        ({"HTTPS_PROXY": "p"}, "https", "http://p:80"),
        ({"HTTPS_PROXY": "p:3128"}, "https", "http://p:3128"),
        ({"HTTPS_PROXY": "10.0.0.1:3128"}, "https", "http://10.0.0.1:3128"),
        ({"HTTPS_PROXY": "https://p"}, "https", "https://p:443"),
        ({"HTTPS_PROXY": "socks5://p"}, "https", "socks5h://p:1080"),
        ({"HTTPS_PROXY": "http://[::1]:3128/"}, "https", "http://[::1]:3128"),
        ({"HTTPS_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "https", "http://p:1"),
    ],
)
def test_which_variable_counts(environment: dict[str, str], scheme: str, url: str | None) -> None:
    proxy = ProxyRules.from_environment(environment).proxy_for(scheme, "registry.example", 443)
    assert (proxy and proxy.url) == url


# The table of golang.org/x/net/http/httpproxy, proxy_test.go: UseProxyTests, with this NO_PROXY.
GO_NO_PROXY = "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30, " + (
    "2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64"
)


@pytest.mark.parametrize(
    ("host", "port", "used"),
    [
        ("localhost", 80, False),
        ("127.0.0.1", 80, False),
        ("127.0.0.2", 80, False),
        ("::1", 80, False),
        ("::2", 80, True),
        ("barbaz.net", 80, True),
        ("www.barbaz.net", 80, False),
        ("foobar.com", 80, False),
        ("www.foobar.com", 80, False),
        ("foofoobar.com", 80, True),
        ("baz.com", 80, True),
        ("localhost.net", 80, True),
        ("local.localhost", 80, True),
        ("barbarbaz.net", 80, True),
        ("wildcard.io", 80, True),
        ("nested.wildcard.io", 80, False),
        ("awildcard.io", 80, True),
        ("192.168.1.1", 80, False),
        ("192.168.1.2", 80, True),
        ("192.168.1.2", 81, False),
        ("192.168.1.3", 80, False),
        ("192.168.1.4", 80, True),
        ("10.0.0.2", 80, False),
        ("10.0.0.4", 80, True),
        ("::ffff:10.0.0.2", 80, False),
        ("2001:db8::52:0:1", 80, False),
        ("2001:db8::52:0:2", 443, False),
        ("2001:db8::52:0:2", 80, True),
        ("2001:db8::52:0:3", 80, False),
        ("2002:db8:a::123", 80, False),
        ("2001:db8::52:0:9", 80, True),
        ("FOOBAR.com", 80, False),
    ],
)
def test_who_is_excepted(host: str, port: int, used: bool) -> None:
    proxy = rules(HTTP_PROXY="p:1", NO_PROXY=GO_NO_PROXY).proxy_for("http", host, port)
    assert (proxy is not None) is used


@pytest.mark.parametrize(
    ("no_proxy", "used"),
    [
        ("*", False),
        ("other.example,*", False),
        ("*.example", False),
        ("example", False),
        (".example", False),
        ("registry.example:443", False),
        ("registry.example:80", True),
        (":443", True),
        ("", True),
        (" , ,", True),
        ("10.0.0.0/255.0.0.0", True),
        ("[::1", True),
        ("registry.example.", True),
        ("*registry.example", True),
    ],
)
def test_entries_of_no_proxy(no_proxy: str, used: bool) -> None:
    proxy = rules(HTTPS_PROXY="p:1", no_proxy=no_proxy).proxy_for("https", "registry.example", 443)
    assert (proxy is not None) is used


def test_a_name_never_matches_an_address() -> None:
    assert rules(HTTP_PROXY="p", NO_PROXY="0.0.1,1").proxy_for("http", "10.0.0.1", 80)


def test_credentials_are_taken_out_and_decoded() -> None:
    proxy = rules(HTTP_PROXY="http://us%65r:planted%3Asecret@p:3128").proxy_for("http", "h", 80)
    assert proxy is not None
    assert (proxy.url, proxy.username, proxy.password.reveal()) == ("http://p:3128", "user", "planted:secret")
    assert "planted" not in repr(proxy) + repr(rules(HTTP_PROXY="http://user:planted@p"))


@pytest.mark.parametrize("value", ["ftp://user:planted@p", "http://user:planted@:80"])
def test_a_proxy_that_cannot_be_used(value: str) -> None:
    with pytest.raises(InvalidProxy) as caught:
        rules(HTTP_PROXY=value).proxy_for("http", "h", 80)
    assert "planted" not in str(caught.value)


def test_a_clients_header_is_no_proxy() -> None:
    with pytest.raises(InvalidProxy, match="CGI"):
        rules(HTTP_PROXY="p", REQUEST_METHOD="GET").proxy_for("http", "h", 80)


# ── the way ──────────────────────────────────────────────────────────────────────────────────────────────────────


def tunnel_to(port: int, *, answer_first: bytes = b"HTTP/1.1 200 OK\r\nX-Proxy: yes\r\n\r\n") -> HostileServer:
    """A proxy that connects every tunnel to this loopback port."""

    def script(peer: Peer) -> None:
        peer.head()
        with socket.create_connection(("127.0.0.1", port)) as beyond:
            peer.send(answer_first)
            forth = threading.Thread(target=_pump, args=(peer.connection, beyond))
            forth.start()
            _pump(beyond, peer.connection)
            forth.join()

    return HostileServer(script)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def test_plain_http_through_a_proxy() -> None:
    exchanges: list[Exchange] = []
    with HostileServer(keep_answering(ok(b"proxied"))) as proxy:
        environment = {"HTTP_PROXY": f"http://user:planted@{proxy.place}"}
        transport = CurlTransport(environment=environment, on_exchange=exchanges.append)
        request = Request("GET", "http://reg.invalid:5000/v2//a/../b?c", Headers({"Authorization": "Basic x"}))
        for _ in range(2):
            assert read_all(transport.send(request).body, 10) == b"proxied"
        transport.close()
        assert proxy.accepted == 1
    lines = proxy.heads[0].decode().split("\r\n")
    assert lines[0] == "GET http://reg.invalid:5000/v2//a/../b?c HTTP/1.1"
    credentials = base64.b64encode(b"user:planted").decode()
    assert {"Host: reg.invalid:5000", "Authorization: Basic x", f"Proxy-Authorization: Basic {credentials}"} < set(
        lines
    )
    told = json.dumps([exchange.to_json() for exchange in exchanges])
    assert "planted" not in told
    assert credentials not in told


def test_https_through_a_tunnel(pki: Pki) -> None:
    tls = tls_context(pki.server.cert, pki.server.key)
    with (
        HostileServer(keep_answering(ok(b"tunnelled", "X-Own: yes")), tls=tls) as server,
        tunnel_to(server.port) as proxy,
    ):
        transport = CurlTransport(environment={"HTTPS_PROXY": proxy.place})
        request = Request("GET", "https://reg.test.example/v2/", Headers({"Authorization": "Basic x"}))
        options = Options(TlsOptions((pki.ca,)))
        for _ in range(2):
            with transport.send(request, options) as response:
                assert read_all(response.body, 10) == b"tunnelled"
                assert [name for name, _ in response.headers] == ["Content-Length", "X-Own"]
        transport.close()
        assert (proxy.accepted, server.accepted) == (1, 1)
    (connect,) = proxy.heads
    assert connect.startswith(b"CONNECT reg.test.example:443 HTTP/1.1\r\n")
    assert b"Authorization" not in connect
    assert b"Authorization: Basic x" in server.heads[0]


def test_a_certificate_is_looked_at_through_the_tunnel(pki: Pki) -> None:
    tls = tls_context(pki.expired.cert, pki.expired.key)
    with HostileServer(keep_answering(ok()), tls=tls) as server, tunnel_to(server.port) as proxy:
        transport = CurlTransport(environment={"HTTPS_PROXY": proxy.place})
        with pytest.raises(TransportError) as caught:
            transport.send(Request("GET", "https://reg.test.example/"), Options(TlsOptions((pki.ca,))))
        transport.close()
    assert caught.value.cause is Cause.CERTIFICATE
    assert "expired 2020-01-02" in str(caught.value)


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_refused_tunnel(status: int) -> None:
    with HostileServer(answer(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)) as proxy:
        transport = CurlTransport(environment={"HTTPS_PROXY": f"http://user:planted@{proxy.place}"})
        with pytest.raises(TransportError) as caught:
            transport.send(Request("GET", "https://reg.invalid/"))
        transport.close()
    assert caught.value.cause is Cause.PROXY
    assert str(status) in caught.value.detail
    assert "planted" not in str(caught.value)


def test_a_407_of_plain_http_is_an_answer() -> None:
    with HostileServer(answer(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
        transport = CurlTransport(environment={"HTTP_PROXY": proxy.place})
        assert transport.send(Request("GET", "http://reg.invalid/")).status == 407
        transport.close()


def test_a_proxy_that_is_not_there() -> None:
    with refusing_place() as place:
        transport = CurlTransport(environment={"HTTPS_PROXY": place, "HTTP_PROXY": "no-such-proxy.invalid:1"})
        for scheme in ("https", "http"):
            with pytest.raises(TransportError) as caught:
                transport.send(Request("GET", f"{scheme}://reg.invalid/"))
            assert caught.value.cause is Cause.PROXY
        transport.close()


def test_a_tunnel_that_never_stands() -> None:
    options = Options(timeouts=Timeouts(connect_seconds=0.1, tls_seconds=0.1))
    with HostileServer(Peer.hang) as proxy:
        transport = CurlTransport(environment={"HTTPS_PROXY": proxy.place})
        with pytest.raises(TransportError) as caught:
            transport.send(Request("GET", "https://reg.invalid/"), options)
        transport.close()
    assert caught.value.cause is Cause.TLS_TIMEOUT


def test_an_unusable_proxy_is_told_when_it_is_needed() -> None:
    transport = CurlTransport(environment={"HTTP_PROXY": "ftp://user:planted@p"})
    with HostileServer(answer(ok(b"direct"))) as server:
        assert read_all(transport.send(Request("GET", server.url)).body, 10) == b"direct"  # loopback
    with pytest.raises(TransportError) as caught:
        transport.send(Request("GET", "http://reg.invalid/"))
    assert caught.value.cause is Cause.PROXY
    assert "planted" not in str(caught.value)
    transport.close()


def test_the_environment_of_the_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_place() as place:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{place}")
        with HostileServer(answer(ok(b"direct"))) as server:
            transport = CurlTransport(connect_to={"reg.invalid:80": server.place})
            assert read_all(transport.send(Request("GET", "http://reg.invalid/")).body, 10) == b"direct"
            transport.close()


def test_no_proxy_of_the_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with HostileServer(answer(ok(b"proxied"))) as proxy:
        transport = CurlTransport(environment={"HTTP_PROXY": proxy.place})
        assert read_all(transport.send(Request("GET", "http://reg.invalid/")).body, 10) == b"proxied"
        transport.close()


def test_a_mapped_place_is_dialled_whatever_the_proxy() -> None:
    with refusing_place() as place, HostileServer(answer(ok(b"direct"))) as server:
        transport = CurlTransport(environment={"HTTP_PROXY": place}, connect_to={"reg.invalid:80": server.place})
        assert read_all(transport.send(Request("GET", "http://reg.invalid/")).body, 10) == b"direct"
        transport.close()
