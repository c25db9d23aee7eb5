"""wharfie: every recorded case, and what holds for any configuration and any text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pierhead.config.gotls import PEM_LIMIT_BYTES, pair_error, read_file
from pierhead.config.registries import RegistriesConfig, UnusableConfig, parse
from pierhead.config.wharfie import HUB, Endpoint, InvalidName, Resolution, parse_name, resolve
from pki import make_vector_pki
from test_k3s_hosts import NAMES, REGISTRIES

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "wharfie-endpoints.json").read_text())


def as_recorded(endpoint: Endpoint, vector_pki: Path) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "url": str(endpoint.url),
        "default": endpoint.is_default,
        "repository": endpoint.repository,
        "ref": endpoint.ref,
    }
    if endpoint.namespace:
        shown["ns"] = endpoint.namespace
    if endpoint.auth:
        shown["auth"] = {name: value.reveal() for name, value in endpoint.auth.items()}
    if endpoint.tls:
        shown["tls"] = {
            "insecure_skip_verify": endpoint.tls.insecure_skip_verify,
            "client_certs": 1 if endpoint.tls.client else 0,
            "custom_ca": endpoint.tls.ca_file is not None,
        }
    if endpoint.tls_error:
        shown["tls_error"] = endpoint.tls_error.replace(str(vector_pki), "{pki}")
    return shown


def resolved(text: str, image: str, **more: Any) -> Resolution:
    return resolve(parse(text.encode(), "r.yaml"), image, **more)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_it_does_what_was_recorded(case: dict[str, Any], vector_pki: Path) -> None:
    text = case["yaml"].replace("{pki}", str(vector_pki))
    if case["error"]:
        with pytest.raises(InvalidName) as refused:
            resolved(text, case["image"])
        assert refused.value.go_text == case["error"]
        return
    found = resolved(text, case["image"], read=read_file)
    assert str(found.name) == case["name"]
    assert [as_recorded(endpoint, vector_pki) for endpoint in found.endpoints] == case["endpoints"]
    assert sorted(line.reveal() for line in found.log) == sorted(case["warnings"])


# -- names ------------------------------------------------------------------------------------------------------------

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("redis", "index.docker.io/library/redis:latest"),
        ("docker.io/redis:7", "index.docker.io/library/redis:7"),
        ("index.docker.io/acme/app", "index.docker.io/acme/app:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("reg:5000/a/b:1", "reg:5000/a/b:1"),
        ("reg.lan:5000", "index.docker.io/library/reg.lan:5000"),  # no slash: a tag, not a port
        (f"reg.lan/a:7@sha256:{HEX}", f"reg.lan/a@sha256:{HEX}"),
        ("a-_b", "index.docker.io/library/a-_b:latest"),  # containerd refuses this one and those that follow
        ("a._b", "index.docker.io/library/a._b:latest"),
        ("_/__", "index.docker.io/_/__:latest"),
        ("/a", "index.docker.io//a:latest"),
        ("a/", "index.docker.io/a/:latest"),
        ("a:-1", "index.docker.io/library/a:-1"),
        (HEX, f"index.docker.io/library/{HEX}:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("a" * 255, f"index.docker.io/library/{'a' * 255}:latest"),
    ],
)
def test_a_name_is_what_go_containerregistry_makes_of_it(text: str, name: str) -> None:
    assert str(parse_name(text)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        "UPPER/a",
        "reg.lan/",
        "foo:bar/a",
        "u:p@reg.lan/a",
        "reg.lan?x/a",
        "a" * 256,
        f"a:{'t' * 129}",
        "a@sha256:0123",
        f"a@sha256:{HEX.upper()}",
        f"a@sha512:{HEX}{HEX}",
        f"a@sha256:{HEX}@sha256:{HEX}",
        f"{'a' * 250}@sha256:{HEX}",  # library/ is put before it, then it is measured again
    ],
)
def test_a_text_that_is_no_name_is_refused_with_go_containerregistrys_words(text: str) -> None:
    with pytest.raises(InvalidName) as refused:
        parse_name(text)
    assert refused.value.go_text == f"could not parse reference: {text}"


def test_a_refused_name_does_not_show_credentials_nor_endless_text() -> None:
    with pytest.raises(InvalidName) as refused:
        parse_name("https://me:hunter2@reg.lan/a")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InvalidName) as refused:
        parse_name("a" * 100_000)
    assert len(str(refused.value)) < 200


@settings(deadline=None)
@given(st.text() | st.text("aZ0.:/@-_[]", max_size=12))
def test_any_text_is_a_name_that_reads_the_same_again_or_is_refused(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidName:
        return
    assert parse_name(str(name)) == name or len(name.repository) > 255


# -- laws -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(REGISTRIES, NAMES, st.sampled_from(["app", "team/app:1", f"a/b@sha256:{HEX}"]))
def test_every_listed_endpoint_is_asked_or_ignored_and_the_registry_comes_last(
    config: RegistriesConfig, registry: str, rest: str
) -> None:
    image = f"{registry}/{rest}"
    try:
        found = resolve(config, image, read=lambda path: b"")
    except InvalidName:
        found = resolve(config, rest)
    *listed, last = found.endpoints
    assert last.text is None
    assert last.is_default
    assert last.repository == found.name.repository
    asked = [endpoint.text for endpoint in listed if endpoint.text is not None]
    ignored = [item.text for item in found.ignored]
    written = list(found.mirror.endpoints) if found.mirror else []
    assert len(asked) == len(listed)
    assert sorted(map(id, [*asked, *ignored])) == sorted(map(id, written))
    assert asked == [text for text in written if not any(text is other for other in ignored)]
    assert len([line for line in found.log if "Ignoring invalid endpoint" in line.reveal()]) == len(ignored)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(REGISTRIES, st.text(max_size=8))
def test_no_text_and_no_configuration_raise_anything_else(config: RegistriesConfig, text: str) -> None:
    for image in (text, f"r.lan/{text}", f"docker.io/{text}"):
        try:
            resolve(config, image, read=read_file)
        except InvalidName:
            continue


# -- what the vectors leave out ---------------------------------------------------------------------------------------


def ids(found: Resolution) -> set[str]:
    return {problem.id for problem in found.problems}


def test_a_file_that_does_not_parse_stops_it() -> None:
    with pytest.raises(UnusableConfig):
        resolved("mirrors: [", "redis")


def test_without_read_no_file_is_looked_at() -> None:
    text = "configs: {reg.lan: {tls: {ca_file: /missing/ca, cert_file: /missing/c, key_file: /missing/k}}}"
    (endpoint,) = resolved(text, "reg.lan/a").endpoints
    assert endpoint.tls is not None
    assert (endpoint.tls.ca_file, endpoint.tls.client) == ("/missing/ca", ("/missing/c", "/missing/k"))
    assert endpoint.tls_error is None


def test_a_tls_that_cannot_be_used_is_reported_where_it_stands() -> None:
    found = resolved("configs:\n  reg.lan:\n    tls: {key_file: /k}\n", "reg.lan/a")
    assert found.endpoints[0].tls_error == 'key file "/k" was specified, but no corresponding cert file was specified'
    (problem,) = found.problems
    assert (problem.id, problem.span.line if problem.span else 0) == ("tls-not-used", 3)


def test_no_configured_auth_is_not_the_same_as_an_empty_one() -> None:
    """With an empty one docker's own configuration is not consulted."""
    text = "configs: {a.lan: {auth: {}}, b.lan: {}}"
    assert [resolved(text, f"{host}/x").endpoints[0].auth for host in ("a.lan", "b.lan")] == [{}, None]


def test_a_mirror_found_by_port_gives_its_endpoints_but_not_its_rewrites() -> None:
    text = 'mirrors:\n  "reg.lan:80": {endpoint: [m.lan], rewrite: {a: b}}\n'
    found = resolved(text, "reg.lan/a")
    assert [endpoint.repository for endpoint in found.endpoints] == ["a", "a"]
    assert ids(found) == {"mirror-by-port", "rewrites-not-used"}


def test_rules_that_both_apply_are_reported_and_the_first_of_the_file_is_taken() -> None:
    found = resolved("mirrors: {reg.lan: {endpoint: [m.lan], rewrite: {z: '', a: b, '^a': c}}}", "reg.lan/a")
    assert found.endpoints[0].repository == "b"
    assert found.endpoints[0].rule is not None
    assert found.endpoints[0].rule.pattern.value == "a"
    assert ids(found) == {"overlapping-rewrites"}


def test_a_refused_result_leaves_the_next_rule_its_turn() -> None:
    found = resolved("mirrors: {reg.lan: {endpoint: [m.lan, n.lan], rewrite: {a: A, '^a': c}}}", "reg.lan/a")
    assert [endpoint.repository for endpoint in found.endpoints] == ["c", "c", "a"]
    assert ids(found) == {"refused-rewrite"}
    assert [line.reveal() for line in found.log] == 2 * ["warning: Invalid repository rewrite A for reg.lan"]


def test_nothing_is_rewritten_and_nothing_said_where_only_the_registry_itself_is_asked() -> None:
    found = resolved("mirrors: {docker.io: {endpoint: [docker.io], rewrite: {'(': x, library: y}}}", "redis")
    assert [(endpoint.url.host, endpoint.repository) for endpoint in found.endpoints] == [
        ("docker.io", "library/redis"),
        (HUB, "library/redis"),
    ]
    assert (found.log, found.problems) == ((), ())


def test_credentials_of_the_wildcard_and_halves_of_them_are_reported() -> None:
    text = "configs: {'*': {auth: {username: u, password: p}}, m.lan: {auth: {username: u}}}\n"
    found = resolved(text + "mirrors: {reg.lan: {endpoint: [m.lan, ftp://f.lan]}}", "reg.lan/a")
    assert ids(found) == {"incomplete-credentials", "unsupported-scheme", "wildcard-auth"}


def test_no_secret_is_shown() -> None:
    text = (
        "mirrors: {reg.lan: {endpoint: ['https://u:hunter2@m.lan', 'https://u:hunter2@m.lan:x']}}\n"
        "configs: {'*': {auth: {username: u, password: hunter2, auth: hunter2, identity_token: hunter2}}}\n"
    )
    found = resolved(text, "reg.lan/a")
    assert "hunter2" not in repr(found)
    assert any("hunter2" in line.reveal() for line in found.log)


# -- certificates, as Go takes them -----------------------------------------------------------------------------------

PAIRS = [
    ("client.pem", "client.key", None),
    ("client.pem", "otherclient.key", "tls: private key does not match public key"),
    ("client.pem", "missing.key", "open {pki}/missing.key: no such file or directory"),
    ("missing.pem", "client.key", "open {pki}/missing.pem: no such file or directory"),
    (".", "client.key", "read {pki}/.: is a directory"),
    ("bad.pem", "client.key", "tls: failed to find any PEM data in certificate input"),
    ("client.pem", "empty.pem", "tls: failed to find any PEM data in key input"),
    ("client.pem", "ca.pem", "tls: found a certificate rather than a key in the PEM for the private key"),
    (
        "client.key",
        "client.key",
        "tls: failed to find certificate PEM data in certificate input, but did find a private key; "
        "PEM inputs may have been switched",
    ),
    ("both.pem", "both.pem", None),
    ("broken.pem", "client.key", "x509: malformed certificate"),
    ("client.pem", "broken.key", "tls: failed to parse private key"),
    ("client.pem", "rsa.key", "tls: private key type does not match public key type"),
    (
        "client.pem",
        "odd.pem",
        'tls: failed to find PEM block with type ending in "PRIVATE KEY" in key input after skipping PEM blocks '
        "of the following types: [ODD CERTIFICATE]",
    ),
    (
        "oddest.pem",
        "client.key",
        'tls: failed to find "CERTIFICATE" PEM block in certificate input after skipping PEM blocks '
        "of the following types: [ODD]",
    ),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pki = tmp_path_factory.mktemp("pairs")
    make_vector_pki(pki)
    certificate, key = ((pki / name).read_text() for name in ("client.pem", "client.key"))
    odd = "-----BEGIN ODD-----\nAAAA\n-----END ODD-----\n"
    pem, pkcs8, clear = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    rsa_key = rsa.generate_private_key(65537, 2048).private_bytes(pem, pkcs8, clear)
    (pki / "both.pem").write_text(f"a comment\n{odd}{key}{certificate}")
    (pki / "broken.pem").write_text(odd.replace("ODD", "CERTIFICATE"))
    (pki / "broken.key").write_text(odd.replace("ODD", "EC PRIVATE KEY"))
    (pki / "rsa.key").write_bytes(rsa_key)
    (pki / "odd.pem").write_text(odd + certificate)
    (pki / "oddest.pem").write_text(odd)
    return pki


@pytest.mark.parametrize(("certificate", "key", "error"), PAIRS)
def test_a_pair_is_taken_or_refused_with_gos_words(pairs: Path, certificate: str, key: str, error: str | None) -> None:
    found = pair_error(f"{pairs}/{certificate}", f"{pairs}/{key}", read_file)
    assert (found or "").replace(str(pairs), "{pki}") == (error or "")


def test_a_file_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    assert read_file(str(tmp_path / "pipe")) == b""
    for path in ("\0", "\ud800"):
        with pytest.raises(OSError, match="Invalid argument"):
            read_file(path)
    (tmp_path / "large").write_bytes(b"x" * (PEM_LIMIT_BYTES + 1))
    with pytest.raises(OSError, match="too large"):
        read_file(str(tmp_path / "large"))
