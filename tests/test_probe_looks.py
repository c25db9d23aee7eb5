"""What can be seen of a place without asking it for anything: addresses, TLS, certificates, and whose they are."""

from __future__ import annotations

import datetime as dt
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import HostileServer, Peer, Script, answer, keep_answering, ok, refusing_place, tls_context
from pierhead.probe.places import Place, Terms, see
from pierhead.probe.routes import Inquiry, probe
from pierhead.transport import Cause, CurlTransport, Options, Timeouts, TlsOptions
from pierhead.transport.chain import SYSTEM, shown_by
from pki import DAY, NOW, Pki
from scripted import route
from stocked import REFERENCE

QUICK = Timeouts(0.4, 0.4, 0.4, 0.4)


def closing(peer: Peer) -> None:
    """Shake hands if there is TLS, and wait for the client to leave."""
    peer.closed_by_client()


def fingerprint(path: str) -> str:
    return x509.load_pem_x509_certificate(Path(path).read_bytes()).fingerprint(hashes.SHA256()).hex()


def test_a_look_asks_for_nothing_and_sees_everything(transport: CurlTransport, pki: Pki) -> None:
    with HostileServer(closing, tls=tls_context(pki.server.cert, pki.server.key)) as server:
        look = transport.look(f"{server.url}/v2/", Options(TlsOptions((pki.ca,))))
    assert server.heads == []
    assert (look.addresses, look.peer, look.error) == (("127.0.0.1",), server.place, None)
    assert 0 < look.timings.dns <= look.timings.connect <= look.timings.tls
    assert look.shown is not None
    assert (look.shown.version, look.shown.subject, look.shown.issuer) == (
        "TLSv1.3",
        "CN=pierhead test server",
        "CN=Test CA",
    )
    assert (look.shown.trusted_by, look.shown.needed, look.shown.defects) == (pki.ca, None, ())
    assert look.client_wanted is False


def test_the_cas_of_the_system(pki: Pki) -> None:
    transport = CurlTransport(environment={"SSL_CERT_FILE": pki.ca, "SSL_CERT_DIR": "/nonexistent"})
    with HostileServer(closing, tls=tls_context(pki.server.cert, pki.server.key)) as server:
        shown = transport.look(server.url, Options(TlsOptions((pki.other_ca,)))).shown
    transport.close()
    assert shown is not None
    assert (shown.trusted_by, shown.defects) == (SYSTEM, ())


def test_all_addresses_of_a_name(transport: CurlTransport) -> None:
    with HostileServer(closing) as server:
        look = transport.look(f"http://localhost:{server.port}/v2/")
    assert "127.0.0.1" in look.addresses
    assert (look.peer, look.shown, look.error) == (server.place, None, None)


def test_an_older_version_of_tls(transport: CurlTransport, pki: Pki) -> None:
    context = tls_context(pki.server.cert, pki.server.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with HostileServer(closing, tls=context) as server:
        look = transport.look(server.url)
    assert look.shown is not None
    assert look.shown.version == "TLSv1.2"


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_is_wanted(transport: CurlTransport, pki: Pki, newest: ssl.TLSVersion) -> None:
    context = tls_context(pki.server.cert, pki.server.key, client_ca=pki.ca)
    context.maximum_version = newest
    with HostileServer(closing, tls=context) as server:
        look = transport.look(server.url, Options(TlsOptions((pki.ca,))))
        seen = see(
            Place("https", server.place, "/v2", TlsOptions((pki.ca,)), False),
            Terms(transport, Timeouts(), time.monotonic),
        )
    assert look.client_wanted is True
    assert seen.error is not None
    assert seen.error.cause in (Cause.CLIENT_CERTIFICATE, Cause.TLS)


def test_no_connection_of_several_kinds(transport: CurlTransport) -> None:
    with refusing_place() as place:
        refused = transport.look(f"https://{place}/")
    assert refused.error is not None
    assert (refused.error.cause, refused.addresses, refused.shown) == (Cause.REFUSED, ("127.0.0.1",), None)
    unknown = transport.look("https://no-such-name.invalid/")
    assert unknown.error is not None
    assert (unknown.error.cause, unknown.addresses) == (Cause.DNS, ())
    nonsense = transport.look("https:///v2/")
    assert nonsense.error is not None
    assert nonsense.error.cause is Cause.BAD_URL
    files = transport.look("https://127.0.0.1:1/", Options(TlsOptions(("/nonexistent.pem",))))
    assert files.error is not None
    assert files.error.cause is Cause.CA_FILE


def test_a_handshake_that_does_not_end(transport: CurlTransport) -> None:
    with HostileServer(lambda peer: peer.hang()) as server:
        look = transport.look(server.url.replace("http", "https"), Options(TlsOptions(), QUICK))
    assert look.error is not None
    assert (look.error.cause, look.peer) == (Cause.TLS_TIMEOUT, "")
    assert "timed out after 0.4 s" in look.error.message


def test_a_look_ends_when_it_is_told_to(transport: CurlTransport) -> None:
    def interrupting(peer: Peer) -> None:
        transport.interrupt()
        peer.hang()

    with HostileServer(interrupting) as server:
        look = transport.look(server.url.replace("http", "https"))
    assert look.error is not None
    assert look.error.cause is Cause.INTERRUPTED


def test_plain_http_behind_https(transport: CurlTransport) -> None:
    def plain(peer: Peer) -> None:
        peer.connection.recv(65536)
        peer.send(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with HostileServer(plain) as server:
        look = transport.look(server.url.replace("http", "https"))
    assert look.error is not None
    assert look.error.cause is Cause.PLAIN_HTTP


# ── chains ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Maker:
    """Certificates in memory: a root, what it issued, and what that issued."""

    def __init__(self) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}

    def make(self, subject: str, issuer: str, *names: str, days: tuple[int, int] = (-1, 30), ca: bool = False) -> bytes:
        key = self.keys.setdefault(subject, ec.generate_private_key(ec.SECP256R1()))
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name(subject))
            .issuer_name(self._name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + days[0] * DAY)
            .not_valid_after(NOW + days[1] * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
        signer = self.keys.setdefault(issuer, ec.generate_private_key(ec.SECP256R1()))
        return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)

    @staticmethod
    def _name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker()


def test_who_vouches_for_a_chain(maker: Maker) -> None:
    root = maker.make("root", "root", ca=True)
    middle = maker.make("middle", "root", ca=True)
    leaf = maker.make("leaf", "middle", "reg.lan")
    impostor = Maker().make("root", "root", ca=True)  # the name alone is not enough

    def trusted_by(chain: list[bytes], **anchors: bytes) -> str | None:
        places = {SYSTEM if name == "system" else name: [pem] for name, pem in anchors.items()}
        return shown_by(chain, "reg.lan", "TLSv1.3", places).trusted_by

    assert trusted_by([leaf, middle], ours=root) == "ours"
    assert trusted_by([leaf, middle], system=root) == SYSTEM
    assert trusted_by([leaf, middle, root], ours=middle) == "ours"
    assert trusted_by([leaf], ours=leaf) == "ours"
    assert trusted_by([leaf], ours=root) is None  # the server forgot to send what is between
    assert trusted_by([leaf, middle], ours=impostor) is None
    assert trusted_by([leaf, middle], ours=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") is None


def test_which_ca_is_needed(maker: Maker) -> None:
    root = maker.make("root", "root", ca=True)
    middle = maker.make("middle", "root", ca=True)
    leaf = maker.make("leaf", "middle", "reg.lan")
    whole = shown_by([leaf, middle, root], "reg.lan", "TLSv1.3", {})
    assert whole.needed is not None
    parsed = x509.load_pem_x509_certificate(root)
    assert (whole.needed.name, whole.needed.sha256) == ("CN=root", parsed.fingerprint(hashes.SHA256()).hex())
    cut = shown_by([leaf, middle], "reg.lan", "TLSv1.3", {})
    assert cut.needed is not None
    assert (cut.needed.name, cut.needed.sha256) == ("CN=root", "")
    assert shown_by([], "reg.lan", "TLSv1.3", {}).defects == ()
    assert shown_by([b"no certificate"], "reg.lan", "TLSv1.3", {}).subject == ""


def test_the_fingerprint_of_a_ca_that_a_server_sends(transport: CurlTransport, pki: Pki, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(Path(pki.other_server.cert).read_bytes() + Path(pki.other_ca).read_bytes())
    with HostileServer(closing, tls=tls_context(str(chain), pki.other_server.key)) as server:
        shown = transport.look(server.url, Options(TlsOptions((pki.ca,)))).shown
    assert shown is not None
    assert shown.needed is not None
    assert (shown.needed.name, shown.needed.sha256) == ("CN=Other CA", fingerprint(pki.other_ca))


@pytest.mark.parametrize(
    ("names", "host", "fits"),
    [
        (["reg.lan"], "reg.lan", True),
        (["REG.lan"], "reg.LAN", True),
        (["reg.lan"], "reg.lan.", True),
        (["*.lan"], "reg.lan", True),
        (["*.lan"], "a.reg.lan", False),
        (["*.lan"], "lan", False),
        (["r*.lan"], "reg.lan", False),  # Go wants the whole label
        (["reg.lan"], "other.lan", False),
        (["other.lan", "reg.lan"], "reg.lan", True),
        (["reg.lan"], "192.0.2.1", False),
    ],
)
def test_names_as_go_compares_them(maker: Maker, names: list[str], host: str, fits: bool) -> None:
    leaf = maker.make("leaf", "leaf", *names)
    shown = shown_by([leaf], host, "TLSv1.3", {"own": [leaf]})
    assert shown.defects == (() if fits else ("wrong-host",))


def test_several_defects_at_once(maker: Maker) -> None:
    old = maker.make("old", "someone", days=(-20, -10))
    assert shown_by([old], "reg.lan", "TLSv1.3", {}).defects == ("expired", "no-names", "unknown-ca")
    young = maker.make("young", "someone", "reg.lan", days=(5, 10))
    shown = shown_by([young], "reg.lan", "TLSv1.3", {})
    assert shown.defects == ("not-yet-valid", "unknown-ca")
    assert shown.not_before is not None
    assert shown.not_before > dt.datetime.now(dt.UTC)


@given(st.binary(max_size=300), st.text(max_size=30))
@settings(deadline=None, max_examples=100)
def test_nothing_a_server_sends_is_too_much(junk: bytes, host: str) -> None:
    pem = b"-----BEGIN CERTIFICATE-----\n" + junk + b"\n-----END CERTIFICATE-----\n"
    assert shown_by([pem, junk], host, "TLSv1.3", {}).trusted_by is None


# ── hostile answers ──────────────────────────────────────────────────────────────────────────────────────────────


def endless_header(peer: Peer) -> None:
    peer.head()
    peer.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        peer.send(b"X-More: " + b"x" * 8000 + b"\r\n")


def endless_body(peer: Peer) -> None:
    while head := peer.head():
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not head.startswith(b"HEAD"):
            peer.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


@pytest.fixture
def terms(transport: CurlTransport) -> Terms:
    return Terms(transport, Timeouts(2.0, 0.5, 2.0, 2.0), time.monotonic)


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (endless_header, "headers are too large"),
        (endless_body, "a manifest of 4393217 bytes; the limit is 4393216"),
        (answer(b"SSH-2.0-OpenSSH_9.2\r\n"), "not proper HTTP"),
        (answer(b""), "closed without an answer"),
        (keep_answering(b"HTTP/1.1 302 Found\r\nLocation: /v2/\r\nContent-Length: 0\r\n\r\n"), "stopped after"),
        (keep_answering(ok(b"", "Content-Type: text/html")), "a manifest of no bytes"),
        (keep_answering(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer x\r\nContent-Length: 0\r\n\r\n"), "token server"),
    ],
)
def test_what_no_registry_would_say(terms: Terms, script: Script, cause: str) -> None:
    with HostileServer(script) as server:
        made = route(1, server.place, scheme="http", endpoint=server.url)
        seen = see(Place.of(made), terms)
        result = probe(Inquiry(REFERENCE, lambda _: None), made, seen, terms, last_route=True)
    assert result.failure is not None
    assert cause in result.failure.attempt.cause
