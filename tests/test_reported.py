"""What the kubelet would show, beside what it was recorded to show: every recorded pull that failed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pierhead import gowords
from pierhead.ask import CONTAINERD
from pierhead.auth import AuthorizationFailed, BadCredential, decode_auth
from pierhead.oci import OCI_INDEX, Descriptor
from pierhead.redact import Secret
from pierhead.reference import Digest, InvalidReference, Reference
from pierhead.reported import kubelet_text, unparsed_text
from pierhead.store import ContentMismatch
from pierhead.transport import Cause, Certificate, TransportError
from pierhead.wire import RegistryError
from replayed import CASES, Case, replay

FAILED = [case for case in CASES if not case["outcome"]["ok"] and not case["outcome"].get("containerd_failed_to_start")]
NAME = Reference.parse("redis:7")

# Where the text differs from the recorded one, and why it must.
INEXACT = {
    # The folder of hosts.toml does not exist on this machine; where it does, it is a directory.
    "cr-tls-e54-own": (r"read (\S*): is a directory", r"open \1: no such file or directory"),
    # Go says which address a name led to; we say the name.
    "cr-name-case": (r"dial tcp 127\.0\.0\.11:", "dial tcp Reg.test.example:"),
}
K3S_FOLDER = "/var/lib/rancher/k3s/agent/etc/containerd"


def expected(case: Case) -> str:
    """What the kubelet was recorded to show, but for what cannot be the same here."""
    error: str = case["outcome"]["error"]
    if case["id"] not in INEXACT:
        return error
    changed = re.sub(*INEXACT[case["id"]], error)
    assert changed != error, "this case needs no exception"
    return changed


def placed(text: str, pki: Path) -> str:
    """Paths of this machine as the vectors write them."""
    return text.replace(str(pki), "{pki}").replace(K3S_FOLDER, "<out>")


@pytest.mark.parametrize("case", FAILED, ids=lambda case: str(case["id"]))
def test_the_text_is_the_recorded_one(case: Case, vector_pki: Path, closed_port: str) -> None:
    played = replay(case, CONTAINERD, vector_pki, closed_port)
    assert played.error is not None
    if isinstance(played.error, InvalidReference):
        text = unparsed_text(played.error)
    else:
        text = kubelet_text(Reference.parse(case["reference"]), played.error)
    assert placed(text, vector_pki) == expected(case)


def test_almost_all_texts_are_exact() -> None:
    assert len(FAILED) == 79
    assert len(INEXACT) == 2


# ── words for what no case has ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cause", "detail", "words"),
    [
        (Cause.DNS, "", "dial tcp: lookup reg.lan: no such host"),
        (Cause.REFUSED, "", "dial tcp reg.lan:443: connect: connection refused"),
        (Cause.UNREACHABLE, "", "dial tcp reg.lan:443: connect: no route to host"),
        (Cause.CONNECT_TIMEOUT, "", "dial tcp reg.lan:443: i/o timeout"),
        (Cause.TLS_TIMEOUT, "", "net/http: TLS handshake timeout"),
        (Cause.FIRST_BYTE_TIMEOUT, "", "net/http: timeout awaiting response headers"),
        (Cause.PLAIN_HTTP, "", "http: server gave HTTP response to HTTPS client"),
        (Cause.CLOSED, "", "EOF"),
        (Cause.PROTOCOL, "stopped after 10 redirects", "stopped after 10 redirects"),
        (Cause.TLS, "tlsv1 alert protocol version", "remote error: tls: protocol version"),
        (Cause.CLIENT_CERTIFICATE, "alert unknown ca", "remote error: tls: unknown certificate authority"),
        (
            Cause.CERTIFICATE,
            "certificate has expired",
            "tls: failed to verify certificate: x509: certificate has expired or is not yet valid",
        ),
        (
            Cause.CERTIFICATE,
            gowords.NO_NAMES,
            "tls: failed to verify certificate: x509: certificate relies on legacy Common Name field, use SANs instead",
        ),
    ],
)
def test_a_failure_below_http_in_the_words_of_go(cause: Cause, detail: str, words: str) -> None:
    error = TransportError(cause, "https://reg.lan/v2/a/manifests/1?ns=docker.io", detail=detail)
    url = "https://reg.lan/v2/a/manifests/1?ns=%5BREDACTED%5D"
    told = gowords.request_failed("HEAD", "https://reg.lan/v2/a/manifests/1?ns=docker.io", error)
    assert told == f'failed to do request: Head "{url}": {words}'


def test_every_cause_has_words() -> None:
    for cause in Cause:
        assert isinstance(gowords.transport_words(TransportError(cause, "https://reg.lan/v2/")), str)


def test_a_certificate_for_somebody_else() -> None:
    certificate = Certificate("CN=a", "CN=b", None, ("a.lan", "b.lan"))
    error = TransportError(
        Cause.CERTIFICATE, "https://reg.lan:5000/", detail="no name matches", certificate=certificate
    )
    told = "x509: certificate is valid for a.lan, b.lan, not reg.lan"
    assert gowords.transport_words(error) == f"tls: failed to verify certificate: {told}"
    bare = TransportError(Cause.CERTIFICATE, "https://10.0.0.1:5000/", detail="IP address mismatch")
    assert "cannot validate certificate for 10.0.0.1 because it doesn't contain" in gowords.transport_words(bare)


@pytest.mark.parametrize(
    ("host", "names", "words"),
    [
        ("10.0.0.1", ("a.lan",), "cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs"),
        ("10.0.0.1", ("a.lan", "10.0.0.2"), "certificate is valid for 10.0.0.2, not 10.0.0.1"),
        ("b.lan", ("a.lan", "10.0.0.2"), "certificate is valid for a.lan, not b.lan"),
        ("b.lan", ("10.0.0.2",), "certificate is not valid for any names, but wanted to match b.lan"),
        ("[fd00::1]", ("fd00::2",), "certificate is valid for fd00::2, not fd00::1"),
    ],
)
def test_a_certificate_is_compared_with_names_of_one_kind(host: str, names: tuple[str, ...], words: str) -> None:
    """As HostnameError.Error of Go's crypto/x509."""
    certificate = Certificate("CN=a", "CN=b", None, names)
    error = TransportError(Cause.CERTIFICATE, f"https://{host}:5000/", detail="no match", certificate=certificate)
    assert gowords.transport_words(error) == f"tls: failed to verify certificate: x509: {words}"


def test_a_redirect_that_fails_is_told_with_its_own_url() -> None:
    error = TransportError(Cause.REFUSED, "https://blobs.lan/x?sig=secret")
    told = gowords.request_failed("GET", "https://reg.lan/v2/a", error)
    assert 'Get "https://blobs.lan/x?sig=%5BREDACTED%5D"' in told
    fallen_back = TransportError(Cause.REFUSED, "http://reg.lan/v2/a")
    assert 'Get "https://reg.lan/v2/a"' in gowords.request_failed("GET", "https://reg.lan/v2/a", fallen_back)


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        ([RegistryError("UNAUTHORIZED", "authentication required")], "unauthorized"),
        ([RegistryError("UNAUTHORIZED", "authentication required", detailed=True)],
         "unauthorized: authentication required"),
        ([RegistryError("DENIED", "no")], "denied: no"),
        ([RegistryError("MANIFEST_UNKNOWN", "unknown to registry")], "unknown: unknown to registry"),
        ([RegistryError("DENIED", "a"), RegistryError("DENIED", "")], "errors:\ndenied: a\ndenied\n"),
    ],
)  # fmt: skip
def test_the_errors_of_a_body(errors: list[RegistryError], text: str) -> None:
    told = gowords.unexpected_status("HEAD", "https://r/v2/", 403, errors)
    assert told == f"unexpected status from HEAD request to https://r/v2/: 403 Forbidden\n{text}"


@pytest.mark.parametrize(
    ("text", "byte"),
    [("dT pw", 2), ("_-__", 0), ("abc", 0), ("YWJjZ", 4), ("YWJj=", 4), ("YQ=a", 2), ("YQ=", 3), ("YQ==a", 4)],
)
def test_where_go_stops_reading_base64(text: str, byte: int) -> None:
    with pytest.raises(BadCredential) as caught:
        decode_auth(Secret(text))
    assert caught.value.go_text == f"illegal base64 data at input byte {byte}"


def test_a_secret_that_containerd_shows_is_not_shown() -> None:
    with pytest.raises(BadCredential) as caught:
        decode_auth(Secret("dXNlcg=="))
    assert caught.value.go_text == 'invalid decoded auth: "***"'


def test_content_that_is_not_what_it_should_be() -> None:
    digest = Digest.of(b"a")
    descriptor = Descriptor(OCI_INDEX, digest, 10)
    ref = f'"index-{digest}"'
    assert kubelet_text(NAME, ContentMismatch("x", descriptor=descriptor, got_bytes=3)).endswith(
        "short read: expected 10 bytes but got 3: unexpected EOF"
    )
    assert kubelet_text(NAME, ContentMismatch("x", descriptor=descriptor, got_bytes=12)).endswith(
        f"failed commit on ref {ref}: {ref} failed size validation: 12 != 10: failed precondition"
    )
    assert kubelet_text(NAME, ContentMismatch("what we know")).endswith(": what we know")
    assert kubelet_text(NAME, AuthorizationFailed("ours")).endswith(": ours")
