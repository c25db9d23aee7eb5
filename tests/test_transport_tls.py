"""The client socket and certificates: whom it trusts, what it shows, and what it says when that fails."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from hostile import HostileServer, Peer, answer, keep_answering, ok, tls_context
from pierhead.body import read_all
from pierhead.transport import Cause, CurlTransport, Exchange, Options, Timeouts, TlsOptions, TransportError
from pierhead.transport.failure import Certificate
from pierhead.transport.trust import Trust
from pierhead.wire import Request
from pki import Pair, Pki

NO_CA_FILES = {"SSL_CERT_FILE": "/nonexistent", "SSL_CERT_DIR": "/nonexistent"}


def server_with(pair: Pair, *, client_ca: str = "") -> HostileServer:
    return HostileServer(keep_answering(ok(b"secure")), tls=tls_context(pair.cert, pair.key, client_ca=client_ca))


def trusting(*ca_files: str, client: Sequence[tuple[str, str]] = (), skip: bool = False) -> Options:
    return Options(TlsOptions(ca_files, tuple(client), skip))


def fetch(transport: CurlTransport, url: str, options: Options) -> bytes:
    return read_all(transport.send(Request("GET", url), options).body, 1000)


def failure(transport: CurlTransport, url: str, options: Options = Options()) -> TransportError:
    with pytest.raises(TransportError) as caught:
        fetch(transport, url, options)
    return caught.value


# ── the server's certificate ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_ca_file_is_trusted(transport: CurlTransport, pki: Pki, host: str) -> None:
    with server_with(pki.server) as server:
        for _ in range(3):
            assert fetch(transport, f"https://{host}:{server.port}/", trusting(pki.ca)) == b"secure"
        assert server.accepted == 1


def test_several_ca_files_are_trusted(transport: CurlTransport, pki: Pki) -> None:
    both = trusting(pki.ca, pki.other_ca)
    with server_with(pki.server) as one, server_with(pki.other_server) as other:
        assert fetch(transport, one.url, both) == fetch(transport, other.url, both) == b"secure"


def test_an_unknown_ca(transport: CurlTransport, pki: Pki, exchanges: list[Exchange]) -> None:
    with server_with(pki.server) as server:
        error = failure(transport, server.url)
    assert error.cause is Cause.CERTIFICATE
    assert error.certificate is not None
    assert "pierhead test server" in error.certificate.subject
    assert "Test CA" in error.certificate.issuer
    assert error.certificate.not_after is not None
    assert error.certificate.not_after > date.today()
    assert set(error.certificate.names) == {"127.0.0.1", "::1", "localhost", "*.test.example", "test.example"}
    assert "tls.ca_file" in error.hint
    assert exchanges[0].cause is Cause.CERTIFICATE
    assert server.heads == []  # neither the first look nor the second said anything


def test_a_ca_of_another_host_is_not_trusted(transport: CurlTransport, pki: Pki) -> None:
    """Not even after a good request: neither a connection nor a parsed pool passes from one to the other."""
    with server_with(pki.server) as server:
        assert fetch(transport, server.url, trusting(pki.ca)) == b"secure"
        assert failure(transport, server.url).cause is Cause.CERTIFICATE
        assert failure(transport, server.url, trusting(pki.other_ca)).cause is Cause.CERTIFICATE
        assert fetch(transport, server.url, trusting(pki.ca)) == b"secure"


def test_trusting_anyone_does_not_pass_to_others(transport: CurlTransport, pki: Pki) -> None:
    with server_with(pki.server) as server:
        assert fetch(transport, server.url, trusting(skip=True)) == b"secure"
        assert failure(transport, server.url).cause is Cause.CERTIFICATE


def test_an_expired_certificate(transport: CurlTransport, pki: Pki) -> None:
    with server_with(pki.expired) as server:
        error = failure(transport, server.url, trusting(pki.ca))
    assert error.cause is Cause.CERTIFICATE
    assert "expired 2020-01-02" in str(error)
    assert "renew" in error.hint


def test_a_certificate_for_another_name(transport: CurlTransport, pki: Pki) -> None:
    with server_with(pki.wrong_name) as server:
        error = failure(transport, server.url, trusting(pki.ca))
    assert error.cause is Cause.CERTIFICATE
    assert error.certificate is not None
    assert error.certificate.names == ("wrong.invalid",)
    assert "wrong.invalid" in error.hint


def test_a_mapped_name_is_verified_as_itself(pki: Pki) -> None:
    with server_with(pki.server) as server:
        places = {"a.test.example:443": server.place, "elsewhere.invalid:443": server.place}
        transport = CurlTransport(connect_to=places)
        assert fetch(transport, "https://a.test.example/", trusting(pki.ca)) == b"secure"
        error = failure(transport, "https://elsewhere.invalid/", trusting(pki.ca))
        transport.close()
    assert error.cause is Cause.CERTIFICATE
    assert error.certificate is not None  # the second look went to the same place


@pytest.mark.parametrize("pair", ["server", "expired", "wrong_name", "other_server"])
def test_whoever_skips_verification_trusts_anyone(transport: CurlTransport, pki: Pki, pair: str) -> None:
    with server_with(getattr(pki, pair)) as server:
        assert fetch(transport, server.url, trusting(skip=True)) == b"secure"


def test_tls_below_1_2_is_refused(transport: CurlTransport, pki: Pki) -> None:
    context = tls_context(pki.server.cert, pki.server.key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with HostileServer(keep_answering(ok()), tls=context) as server:
        assert failure(transport, server.url, trusting(pki.ca)).cause is Cause.TLS


def test_plain_http_behind_https(transport: CurlTransport) -> None:
    refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    with HostileServer(lambda peer: peer.send(refusal)) as server:
        error = failure(transport, server.url.replace("http:", "https:"))
    assert error.cause is Cause.PLAIN_HTTP
    assert error.hint == "write http:// in the endpoint"


def test_tls_timeout(transport: CurlTransport) -> None:
    options = Options(timeouts=Timeouts(tls_seconds=0.2))
    with HostileServer(Peer.hang) as server:
        error = failure(transport, server.url.replace("http:", "https:"), options)
    assert error.cause is Cause.TLS_TIMEOUT
    assert error.detail == "timed out after 0.2 s"


@pytest.mark.parametrize("script", [lambda peer: None, lambda peer: peer.reset()], ids=["fin", "rst"])
def test_a_handshake_that_breaks_off(transport: CurlTransport, script: object) -> None:
    assert callable(script)
    with HostileServer(script) as server:
        # A reset can overtake the end of connect(2).
        assert failure(transport, server.url.replace("http:", "https:")).cause in {Cause.TLS, Cause.CLOSED}


def test_a_body_over_tls_that_is_cut(transport: CurlTransport, pki: Pki) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with HostileServer(answer(raw), tls=tls_context(pki.server.cert, pki.server.key)) as server:
        assert failure(transport, server.url, trusting(pki.ca)).cause is Cause.CUT


# ── CA files ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("skip", [False, True])
def test_ca_files_that_cannot_be_used(transport: CurlTransport, tmp_path: Path, pki: Pki, skip: bool) -> None:
    (tmp_path / "none.pem").write_text("not a certificate")
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n")
    (tmp_path / "short.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    expected = {
        "missing.pem": f'unable to read CA cert "{tmp_path}/missing.pem": open {tmp_path}/missing.pem: '
        "no such file or directory",
        "": f'unable to read CA cert "{tmp_path}/": read {tmp_path}/: is a directory',
        "none.pem": f'unable to load CA cert "{tmp_path}/none.pem"',
        "empty.pem": f'unable to load CA cert "{tmp_path}/empty.pem"',
        "broken.pem": f'unable to load CA cert "{tmp_path}/broken.pem"',
        "short.pem": f'unable to load CA cert "{tmp_path}/short.pem"',
    }
    for name, detail in expected.items():
        options = trusting(pki.ca, f"{tmp_path}/{name}", skip=skip)
        error = failure(transport, "https://127.0.0.1:1/", options)
        assert (error.cause, error.detail) == (Cause.CA_FILE, detail)
        inspected = transport.inspect(options)
        assert inspected is not None
        assert (inspected.cause, inspected.detail) == (Cause.CA_FILE, detail)


def test_a_file_of_the_right_shape_with_nonsense_inside(transport: CurlTransport, tmp_path: Path) -> None:
    """What only OpenSSL can tell is found at the handshake."""
    (tmp_path / "odd.pem").write_text("-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n")
    with HostileServer(Peer.hang) as server:
        error = failure(transport, server.url.replace("http:", "https:"), trusting(str(tmp_path / "odd.pem")))
    assert error.cause is Cause.CA_FILE
    assert "odd.pem" in error.detail


def test_good_files_pass_inspection(transport: CurlTransport, pki: Pki) -> None:
    assert transport.inspect(trusting(pki.ca, client=[(pki.client.cert, pki.client.key)])) is None
    assert transport.inspect(Options()) is None


def test_ca_files_are_read_again_when_they_change(transport: CurlTransport, tmp_path: Path, pki: Pki) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Path(pki.other_ca).read_bytes())
    with server_with(pki.server) as server:
        assert failure(transport, server.url, trusting(str(ca))).cause is Cause.CERTIFICATE
        ca.write_bytes(Path(pki.ca).read_bytes() + b"\n")
        assert fetch(transport, server.url, trusting(str(ca))) == b"secure"


def test_ca_files_do_not_matter_to_plain_http(transport: CurlTransport) -> None:
    with HostileServer(answer(ok(b"plain"))) as server:
        assert fetch(transport, server.url, trusting("/nonexistent")) == b"plain"


def test_the_systems_pool_is_found_as_go_finds_it(pki: Pki, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "other.pem").write_bytes(Path(pki.other_ca).read_bytes())
    (folder / "1234abcd.0").symlink_to("other.pem")
    (folder / "readme.txt").write_text("no certificate here")
    (folder / "dangling.pem").symlink_to("/nonexistent/x.pem")
    places = {"SSL_CERT_FILE": pki.ca, "SSL_CERT_DIR": f"/nonexistent:{folder}"}
    transport = CurlTransport(environment=places)
    with server_with(pki.server) as one, server_with(pki.other_server) as other:
        assert fetch(transport, one.url, Options()) == fetch(transport, other.url, Options()) == b"secure"
    transport.close()


def test_without_any_ca_nobody_is_trusted(pki: Pki) -> None:
    transport = CurlTransport(environment=NO_CA_FILES)
    with server_with(pki.server) as server:
        error = failure(transport, server.url)
        assert (error.cause, error.detail) == (Cause.CA_FILE, "this machine has no CA certificates")
        assert "install ca-certificates" in error.hint
        for options in (trusting(pki.ca), trusting(skip=True)):
            assert fetch(transport, server.url, options) == b"secure"
    transport.close()


def test_this_machines_pool_has_each_ca_once() -> None:
    trust = Trust({})
    content = Path(trust.ca_path(())).read_text()
    blocks = content.split("-----BEGIN CERTIFICATE-----\n")[1:]
    assert len(blocks) == len(set(blocks))
    assert trust.ca_path(()) == trust.ca_path(())
    trust.close()


# ── the client's certificate ─────────────────────────────────────────────────────────────────────────────────────


def test_a_client_certificate_is_shown(transport: CurlTransport, pki: Pki) -> None:
    with server_with(pki.server, client_ca=pki.ca) as server:
        options = trusting(pki.ca, client=[(pki.client.cert, pki.client.key)])
        assert fetch(transport, server.url, options) == b"secure"


def test_one_file_may_hold_certificate_and_key(transport: CurlTransport, pki: Pki, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(pki.client.cert).read_bytes() + Path(pki.client.key).read_bytes())
    with server_with(pki.server, client_ca=pki.ca) as server:
        assert fetch(transport, server.url, trusting(pki.ca, client=[(str(both), "")])) == b"secure"


def test_a_server_that_wants_a_client_certificate(transport: CurlTransport, pki: Pki) -> None:
    wrong = (pki.other_client.cert, pki.other_client.key)
    with server_with(pki.server, client_ca=pki.ca) as server:
        for options in (trusting(pki.ca), trusting(pki.ca, client=[wrong])):
            error = failure(transport, server.url, options)
            assert error.cause is Cause.CLIENT_CERTIFICATE
            assert "tls.cert_file" in error.hint


def test_client_files_that_cannot_be_read(transport: CurlTransport, pki: Pki, tmp_path: Path) -> None:
    missing = f"{tmp_path}/missing.pem"
    for pair in ((missing, pki.client.key), (pki.client.cert, missing)):
        error = failure(transport, "https://127.0.0.1:1/", trusting(client=[pair]))
        assert error.cause is Cause.CLIENT_CERTIFICATE
        assert error.detail == f'unable to read CERT file "{missing}": open {missing}: no such file or directory'
    error = failure(transport, "https://127.0.0.1:1/", trusting(client=[(str(tmp_path), "")]))
    assert error.detail == f'unable to read CERT file "{tmp_path}": read {tmp_path}: is a directory'


def test_client_files_that_do_not_belong_together(transport: CurlTransport, pki: Pki) -> None:
    pairs = ((pki.client.cert, pki.other_client.key), (pki.client.key, pki.client.key), (pki.client.cert, ""))
    with server_with(pki.server, client_ca=pki.ca) as server:
        for pair in pairs:
            error = failure(transport, server.url, trusting(pki.ca, client=[pair]))
            assert error.cause is Cause.CLIENT_CERTIFICATE
            assert error.detail.startswith("failed to load X509 key pair")


def test_a_certificate_in_words() -> None:
    expired = Certificate("CN = a", "CN = b", date(2020, 1, 2), ("a.example", "b.example"))
    assert str(expired) == "CN = a, issued by CN = b, expired 2020-01-02, for a.example, b.example"
    assert str(Certificate("", "", None)) == "no subject, issued by nobody"


def test_the_timings_of_a_handshake(transport: CurlTransport, pki: Pki, exchanges: list[Exchange]) -> None:
    with server_with(pki.server) as server:
        for _ in range(2):
            fetch(transport, server.url, trusting(pki.ca))
    first, second = (exchange.timings for exchange in exchanges)
    assert 0 < first.dns <= first.connect < first.tls < first.first_byte <= first.total
    assert (second.connect, second.tls) == (0, 0)
    assert json.dumps(exchanges[0].to_json())
