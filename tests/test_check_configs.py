"""The rules about `configs`: which key is a slip and which is not, what a fix makes of the file, what never shows."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checking import NOW, circumstances
from pierhead.check import Circumstances, Finding, Subject, check, fixed
from pierhead.check.rule import Example
from pierhead.config import k3s
from pierhead.config.k3s import Flags
from pierhead.config.registries import parse

OURS = {"R004", "R009", "R010", "R041", "R042", "R050", "R069", "R085", "R086"}
DISABLED = "--disable-default-registry-endpoint"
AUTH = "auth: {username: puller, password: s3cr3t}"
SKIP = "tls: {insecure_skip_verify: true}"
Told = tuple[str, str, int, int]


def told(text: str, *flags: str, images: str = "") -> list[Told]:
    return [_told(finding) for finding in found(text, *flags, images=images)]


def found(text: str, *flags: str, images: str = "") -> list[Finding]:
    return list(check(_subject(text, flags, images), select=sorted(OURS)))


def _told(finding: Finding) -> Told:
    return finding.id, finding.severity, finding.span.line, finding.span.column


def corrected(text: str, *flags: str) -> str:
    return fixed(_subject(text, flags), select=sorted(OURS)).data.decode()


def _subject(text: str, flags: tuple[str, ...], images: str = "") -> Subject:
    example = Example(text, flags=("--no-files", *flags), images=images)
    return Subject.of(text.encode(), "registries.yaml", circumstances(example, None))


def file(endpoint: str, key: str, content: str = AUTH, *, mirror: str = "docker.io") -> str:
    """Line 2 is the mirror, line 3 the endpoint, line 5 the entry."""
    return f"mirrors:\n  {mirror}:\n    endpoint: [{endpoint}]\nconfigs:\n  {key}:\n    {content}\n"


# -- the documentation's examples -------------------------------------------------------------------------------------

CREDENTIALS = """\
    auth:
      username: xxxxxx # this is the registry username
      password: xxxxxx # this is the registry password
"""
CERTIFICATES = """\
    tls:
      cert_file: # path to the cert file used in the registry
      key_file:  # path to the key file used in the registry
      ca_file:   # path to the ca file used in the registry
"""


@pytest.mark.parametrize(
    ("scheme", "content", "loss"),
    [
        ("https", CREDENTIALS + CERTIFICATES, "credentials and TLS settings"),
        ("https", CERTIFICATES, "TLS settings"),
        ("http", CREDENTIALS, "credentials"),
    ],
)
def test_the_examples_of_the_documentation(scheme: str, content: str, loss: str) -> None:
    text = (
        f'mirrors:\n  docker.io:\n    endpoint:\n      - "{scheme}://mycustomreg.com:5000"\n'
        f'configs:\n  "mycustomreg:5000":\n{content}'
    )

    [finding] = found(text)

    assert _told(finding) == ("R004", "error", 6, 3)
    assert (finding.span.end_line, finding.span.end_column) == (6, 21)
    assert finding.message == (
        "the endpoint in line 4 is mycustomreg.com:5000, this key is mycustomreg:5000 (the domain differs): "
        f"K3s never uses this entry's {loss} for that endpoint"
    )
    assert "mycustomreg.com:5000" in finding.remedy
    assert corrected(text) == text.replace('"mycustomreg:5000"', '"mycustomreg.com:5000"')
    assert told(corrected(text)) == []


def test_the_corrected_entry_reaches_the_endpoint() -> None:
    text = file("https://mycustomreg.com:5000", "mycustomreg:5000", f"{AUTH}\n    tls: {{ca_file: /etc/ca.pem}}")
    before, after = parse(text.encode(), "f"), parse(corrected(text).encode(), "f")

    first = [k3s.hosts(config).lookup("docker.io").hosts[0] for config in (before, after)]

    assert [host.host for host in first] == ["mycustomreg.com:5000"] * 2
    assert [host.ca for host in first] == [(), ("/etc/ca.pem",)]
    assert k3s.auth_for(before, "mycustomreg.com:5000") is None
    assert k3s.auth_for(after, "mycustomreg.com:5000") is after.configs["mycustomreg.com:5000"]


def test_the_example_without_tls_and_without_credentials_is_sound() -> None:
    text = 'mirrors:\n  docker.io:\n    endpoint:\n      - "http://mycustomreg.com:5000"\n'

    assert found(text) == []


# -- R004: the key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "key", "right"),
    [
        ("https://reg.lan:5000", "reg.lan", "reg.lan:5000"),
        ("https://reg.lan:443", "reg.lan", "reg.lan:443"),
        ("https://reg.lan", '"reg.lan:443"', '"reg.lan"'),
        ("http://reg.lan", "'reg.lan:80'", "'reg.lan'"),
        ("http://reg.lan:5000", "'reg.lan:80'", "'reg.lan:5000'"),
        ("'reg.lan:5000'", "reg", "reg.lan:5000"),
        ("https://Reg.lan:5000", "reg.lan:5000", "Reg.lan:5000"),
        ("https://harbor.corp.example", "harbour.corp.example", "harbor.corp.example"),
        ("https://10.0.0.5:5000", "10.0.0.5", "10.0.0.5:5000"),
        ("'http://[fd00::5]:5000'", '"[fd00::5]"', '"[fd00::5]:5000"'),
        ("https://harbor.corp.example/v2/hub", "harbor.corp", "harbor.corp.example"),
        ("https://registry-1.docker.io", "docker.io:443", "docker.io"),
    ],
)
def test_a_slip_is_an_error_and_is_corrected(endpoint: str, key: str, right: str) -> None:
    text = file(endpoint, key)

    assert told(text) == [("R004", "error", 5, 3)]
    assert corrected(text) == text.replace(f"  {key}:\n", f"  {right}:\n")
    assert told(corrected(text)) == []


@pytest.mark.parametrize(
    ("endpoint", "key"),
    [
        ("https://reg.lan:5000", "reg.lan:5000"),
        ("reg.lan", "reg.lan"),
        ("https://reg.lan:443", "reg.lan:443"),
        ("https://REG.lan/v2/", "REG.lan"),
        ("https://registry-1.docker.io", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
        ("docker.io", "index.docker.io"),
        ("https://cache.lan:5000", "registry.corp.example"),
        ("https://cache-eu.corp.example", "cache-us.corp.example"),
        ("https://10.0.0.5:5000", "10.0.0.6:5000"),
        ("https://reg1.lan", "reg2.lan"),
        ("https://ghcr.io.cache.corp.example", "ghcr.io"),
        ("https://reg.lan:5000", "https://reg.lan:5000"),
        ("https://reg.lan:5000", "reg.lan:5000/v2"),
        ("'http://[::1]:5000'", "'[::1]:5000'"),
        ("https://reg.lan:5000", 'reg.lan:5000"'),  # K3s cannot read it: another rule's
    ],
)
def test_another_registry_or_the_right_key_is_silent(endpoint: str, key: str) -> None:
    assert told(file(endpoint, key)) == []


def test_an_entry_that_another_endpoint_has_is_used() -> None:
    assert told(file("https://reg.lan:5000, https://reg.lan", "reg.lan")) == []


def test_an_entry_that_says_nothing_is_no_slip() -> None:
    assert [told_[0] for told_ in told(file("https://reg.lan:5000", "reg.lan", "auth:"))] == ["R069"]


def test_two_ports_of_one_machine_may_be_two_registries() -> None:
    [finding] = found(file("https://reg.lan:5000", "reg.lan:5001"))

    assert (finding.id, finding.severity, finding.fix) == ("R004", "note", None)


def test_a_key_that_may_mean_two_endpoints_is_not_changed() -> None:
    [finding] = found(file("https://reg.lan:5000, https://reg.lan:5001", "reg.lan"))

    assert finding.fix is None
    assert "reg.lan:5000 (line 3) or reg.lan:5001 (line 3)" in finding.remedy


def test_only_the_likelier_of_two_keys_is_changed() -> None:
    text = file("https://reg.lan:5000", "reg", AUTH) + f"  reg.lan:\n    {AUTH}\n"

    assert told(text) == [("R004", "error", 7, 3)]
    assert corrected(text) == text.replace("  reg.lan:\n", "  reg.lan:5000:\n")


def test_two_keys_that_are_equally_near_are_both_told_and_left() -> None:
    text = file("https://reg.lan:5000", "reg.lan:80", AUTH) + f"  reg.lan:\n    {AUTH}\n"

    assert told(text) == [("R004", "error", 5, 3), ("R004", "error", 7, 3)]
    assert corrected(text) == text


def test_the_images_tell_that_a_registry_is_asked_itself() -> None:
    text = file("https://reg.lan:5000", "reg.lan")

    assert [it for it in told(text, images="reg.lan/app:1\n") if it[0] == "R004"] == []
    assert told(text, images="quay.io/app:1\n")[0][0] == "R004"


def test_a_key_that_is_nearly_a_mirrors_name() -> None:
    text = file("https://cache.lan", "reg.lan", mirror="reg.lan:5000")

    [finding] = found(text)

    assert _told(finding) == ("R004", "warning", 5, 3)
    assert "the mirror in line 2 is reg.lan:5000" in finding.message


def test_a_mirror_whose_endpoint_has_an_entry_needs_none_itself() -> None:
    assert told(file("https://cache.lan", "reg.lan", mirror="reg.lan:5000") + f"  cache.lan:\n    {AUTH}\n") == []


def test_http_needs_no_tls_settings_so_a_slip_in_their_key_costs_nothing() -> None:
    [finding] = found(file("http://reg.lan:5000", "reg.lan", SKIP))

    assert (finding.id, finding.severity, finding.fix) == ("R004", "warning", None)


def test_comments_order_and_quotes_stay() -> None:
    text = (
        "# top\nconfigs:  # first\n  'reg.lan' :   # the key\n    auth: {username: a, password: b}\n\n"
        "mirrors: {docker.io: {endpoint: [https://reg.lan:5000]}}  # last\n"
    )

    assert corrected(text) == text.replace("'reg.lan'", "'reg.lan:5000'")


# -- R004: the mirror's name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mirror", "content", "severity"),
    [
        ("icr.io", AUTH, "warning"),
        ("quay.io", SKIP, "warning"),
        ("docker.io", SKIP, "warning"),
        ("docker.io", AUTH, "note"),
        ("reg.corp:5000", AUTH, "warning"),
        ("customreg", AUTH, "error"),
    ],
)
def test_an_entry_called_like_the_mirror_is_not_for_its_endpoint(mirror: str, content: str, severity: str) -> None:
    [finding] = found(file("https://artifactory.example", mirror, content, mirror=mirror))

    assert _told(finding) == ("R004", severity, 5, 3)
    assert "in line 3 is artifactory.example" in finding.message
    assert "artifactory.example" in finding.remedy
    assert (finding.fix is not None) == (severity == "error")


def test_rewrites_tell_that_a_mirror_is_no_plain_cache() -> None:
    text = (
        "mirrors:\n  docker.io:\n    endpoint: [https://harbor.lan]\n    rewrite: {'^(.*)$': 'hub/$1'}\n"
        f"configs:\n  docker.io:\n    {AUTH}\n"
    )

    assert told(text) == [("R004", "warning", 6, 3)]


@pytest.mark.parametrize(
    "more", ["artifactory.example: {}", "artifactory.example:", f"artifactory.example: {{{AUTH}}}"]
)
def test_an_entry_for_the_endpoint_tells_that_its_owner_knows(more: str) -> None:
    text = file("https://artifactory.example", "icr.io", mirror="icr.io") + f"  {more}\n"

    assert [it for it in told(text) if it[0] == "R004"] == []


def test_the_registry_itself_among_its_endpoints_has_the_entry() -> None:
    assert told(file("https://cache.lan, https://icr.io", "icr.io", mirror="icr.io")) == []


def test_tls_settings_of_a_registry_behind_a_plain_http_cache_are_its_own() -> None:
    assert told(file("http://cache.lan:5000", "reg.corp.example", SKIP, mirror="reg.corp.example")) == []


@pytest.mark.parametrize("content", ["auth: {}", "tls: {}", "tls: {ca_file: }"])
def test_an_empty_entry_called_like_the_mirror_loses_nothing(content: str) -> None:
    assert told(file("https://artifactory.example", "icr.io", content, mirror="icr.io")) == []


def test_no_default_endpoint_leaves_an_entry_nothing_to_serve() -> None:
    text = file("https://artifactory.example", "icr.io", mirror="icr.io")

    assert told(text, DISABLED) == [("R042", "error", 2, 3), ("R004", "error", 5, 3)]
    after = corrected(text, DISABLED)
    assert after == text.replace("configs:\n  icr.io:", "configs:\n  artifactory.example:")
    assert told(after, DISABLED) == []


@pytest.mark.parametrize(
    ("mirror", "endpoint", "host"),
    [
        ("reg.lan", "https://reg.lan:443", "reg.lan:443"),
        ("reg.lan:5000", "https://reg.lan", "reg.lan"),
    ],
)
@pytest.mark.parametrize("content", [AUTH, "auth:\n      username: puller\n      password: s3cr3t  # mine"])
def test_the_same_host_with_another_port_shares_the_entry(mirror: str, endpoint: str, host: str, content: str) -> None:
    text = file(endpoint, mirror, content, mirror=mirror) + "  quay.io: {auth: {username: other, password: other}}\n"

    assert told(text) == [("R004", "error", 5, 3)]
    after = corrected(text)
    config = parse(after.encode(), "f")
    assert config.configs[host] == _renamed(config.configs[mirror], config.configs[host])
    assert told(after) == []
    assert after.count("s3cr3t") == 1
    assert after.count("\n") == text.count("\n") + 1


def _renamed(entry: object, like: object) -> object:
    from dataclasses import replace

    return replace(entry, key=like.key)  # type: ignore[type-var,attr-defined]  # both are entries of configs


def test_wharfie_uses_the_wildcard_for_endpoints() -> None:
    text = file("https://artifactory.example", "icr.io", mirror="icr.io") + f"  '*':\n    {AUTH}\n"

    assert "R004" in {it[0] for it in told(text)}
    assert "R004" not in {it[0] for it in told(text, "--client wharfie")}


# -- what the fix means -----------------------------------------------------------------------------------------------

HOSTS = st.sampled_from(["reg.lan", "harbor.corp.example", "mycustomreg.com", "10.0.0.5", "registry.corp.example"])
PORTS = st.sampled_from(["", ":443", ":80", ":5000", ":8443"])
KEYS = st.builds("{}{}".format, HOSTS | st.sampled_from(["reg", "mycustomreg", "harbour.corp.example", "*"]), PORTS)


@given(
    st.lists(st.builds("{}://{}{}".format, st.sampled_from(["http", "https"]), HOSTS, PORTS), max_size=3),
    st.dictionaries(KEYS, st.sampled_from([AUTH, SKIP, f"{AUTH[:-1]}}}\n    {SKIP}", "auth: {}"]), max_size=3),
    st.sampled_from(["docker.io", "reg.lan", "reg.lan:5000", "*"]),
)
@settings(deadline=None, max_examples=150)
def test_a_corrected_file_serves_the_endpoint(endpoints: list[str], entries: dict[str, str], mirror: str) -> None:
    listed = ", ".join(f'"{endpoint}"' for endpoint in endpoints)
    body = "".join(f'  "{key}":\n    {content}\n' for key, content in entries.items())
    text = f'mirrors:\n  "{mirror}":\n    endpoint: [{listed}]\nconfigs: {"" if body else "{}"}\n{body}'
    subject = Subject.of(text.encode(), "f", Circumstances(NOW, look_at_files=False))
    before = {finding.message for finding in check(subject, select=["R004"])}

    after = fixed(subject, select=["R004"])

    config = parse(after.data, "f")
    assert config.error is None
    for finding in after.done:
        assert finding.fix is not None
        host = (
            finding.fix.description.removeprefix("rename the key to ").removeprefix("add an entry ").partition(" ")[0]
        )
        assert host in config.configs
        assert host in {endpoint.lookup for endpoint in subject.endpoints}
        assert host not in subject.config.configs
        assert k3s.auth_for(config, host) is None or k3s.auth_for(config, host) is config.configs[host]
    assert len(after.left) <= len(before) - len(after.done)
    assert after.data == text.encode() or after.done
    assert not any(finding.fix for finding in after.left)


@given(st.text(alphabet="abc:/@*.[]{}\"' -\n&0123 ", max_size=80))
@settings(deadline=None)
def test_any_content_gives_findings_or_none(junk: str) -> None:
    for text in (junk, file(f"'{junk.replace(chr(39), '')}'", "reg.lan"), file("https://reg.lan:5000", f"'{junk}'")):
        for finding in found(text, DISABLED):
            assert finding.span.line >= 1


SECRET = "hunter2-is-secret"


@pytest.mark.parametrize(
    "text",
    [
        file("https://reg.lan:5000", "reg.lan", f"auth: {{username: a, password: {SECRET}}}"),
        file("https://reg.lan:443", "reg.lan", f"auth: {{username: a, password: {SECRET}}}", mirror="reg.lan"),
        file("https://reg.lan", f"'u:{SECRET}@reg.lan:5000'"),
        file("https://reg.lan", f"'u:{SECRET}@reg.lan:5000'", "{}"),
        file("https://reg.lan", f"'u:{SECRET}@reg.lan'", SKIP, mirror=f"'u:{SECRET}@reg.lan'"),
        file(f"'https://u:{SECRET}@reg.lan:5000'", "reg.lan"),
        f"configs:\n  registry-1.docker.io: {{auth: {{}}}}\n  docker.io: {{auth: {{password: {SECRET}}}}}\n",
        f"mirrors:\n  'u:{SECRET}@reg.lan':\n  '*': {{endpoint: [https://a.lan]}}\n",
    ],
)
@pytest.mark.parametrize("flags", [(), (DISABLED,)])
def test_no_finding_holds_a_secret(text: str, flags: tuple[str, ...]) -> None:
    for finding in found(text, *flags):
        assert SECRET not in repr(finding)


# -- TLS and http -----------------------------------------------------------------------------------------------------

CA = "tls: {ca_file: /etc/ca.pem}"


@pytest.mark.parametrize(
    ("endpoint", "content", "ids"),
    [
        ("http://reg.lan:5000", CA, ["R009"]),
        ("http://reg.lan:5000", SKIP, ["R010"]),
        ("http://reg.lan:5000", "tls: {ca_file: /etc/ca.pem, insecure_skip_verify: true}", ["R009"]),
        ("http://reg.lan:5000", "tls: {}", []),
        ("http://reg.lan:5000", "tls: {insecure_skip_verify: false}", []),
        ("http://reg.lan:5000", AUTH, []),
        ("https://reg.lan:5000", CA, []),
        ("https://reg.lan:5000", SKIP, []),
    ],
)
def test_tls_settings_of_an_http_endpoint(endpoint: str, content: str, ids: list[str]) -> None:
    findings = told(file(endpoint, "reg.lan:5000", content))

    assert [it[0] for it in findings] == ids
    assert all(it[1:3] == ("warning", 6) for it in findings)


def test_on_port_80_the_settings_are_never_used() -> None:
    [plain] = found(file("http://reg.lan:80", "reg.lan:80", SKIP))
    [files] = found(file("http://reg.lan:80", "reg.lan:80", CA))

    assert "no effect" in plain.message
    assert "never used" in files.message


def test_settings_that_an_https_endpoint_has_too_are_right() -> None:
    assert told(file("http://reg.lan, https://reg.lan", "reg.lan", SKIP)) == []


def test_the_place_is_the_word_that_says_it() -> None:
    text = file("http://reg.lan:1", "reg.lan:1", "tls:\n      insecure_skip_verify: yes")

    assert told(text) == [("R010", "warning", 7, 7)]


# -- the wildcard -----------------------------------------------------------------------------------------------------


def test_the_wildcards_tls_is_lost() -> None:
    [finding] = found(file("https://cache.lan:5000, https://b.lan", "'*'", SKIP, mirror="'*'"))

    assert _told(finding) == ("R041", "error", 6, 5)
    assert "cache.lan:5000, b.lan" in finding.remedy


@pytest.mark.parametrize(
    ("endpoint", "more", "ids"),
    [
        ("https://cache.lan", "", ["R085"]),
        ("http://cache.lan", "", []),
        ("https://cache.lan", f"  cache.lan:\n    {SKIP}\n", []),
    ],
)
def test_the_wildcards_tls_is_not_for_endpoints(endpoint: str, more: str, ids: list[str]) -> None:
    assert [it[0] for it in told(file(endpoint, "'*'", SKIP) + more)] == ids


@pytest.mark.parametrize(
    "text",
    [
        file("https://cache.lan", "'*'", SKIP),
        file("https://cache.lan", "'*'", SKIP, mirror="'*'"),
        f"configs:\n  registry-1.docker.io: {{auth: {{}}}}\n  docker.io: {{{AUTH}}}\n",
        file("https://cache.lan", "ghcr.io", mirror="'*'"),
    ],
)
def test_wharfie_is_another_program(text: str) -> None:
    assert {it[1] for it in told(text)} & {"error", "warning"}
    assert told(text, "--client wharfie") == []


def test_wharfie_never_tries_https_at_an_http_endpoint() -> None:
    [finding] = found(file("http://reg.lan:5000", "reg.lan:5000", SKIP), "--client wharfie")

    assert (finding.id, "no effect" in finding.message) == ("R010", True)


@pytest.mark.parametrize(
    ("key", "severity"),
    [
        ("ghcr.io", "warning"),
        ("docker.io", "warning"),
        ("registry.corp.example", "note"),
        ("cache.lan", None),
        ("registry-1.docker.io", None),
        ("index.docker.io", None),
    ],
)
def test_an_entry_hides_the_wildcard_mirror(key: str, severity: str | None) -> None:
    text = file("https://cache.lan", key, mirror="'*'")

    assert [it[1] for it in told(text) if it[0] == "R086"] == ([severity] if severity else [])
    hosts = k3s.hosts(parse(text.encode(), "f")).lookup("docker.io" if key.endswith("docker.io") else key).hosts
    assert (hosts[0].host != "cache.lan") == (severity is not None)


def test_a_slip_in_a_key_is_told_once() -> None:
    assert told(file("https://mycustomreg.com:5000", "mycustomreg:5000", mirror="'*'")) == [("R004", "error", 5, 3)]


@pytest.mark.parametrize(("content", "exempt"), [("", False), ("{}", False), ("{tls: {}}", True)])
def test_an_empty_entry_does_not_exempt_from_the_wildcards_tls(content: str, exempt: bool) -> None:
    text = f"configs:\n  docker.io: {content}\n  '*':\n    {SKIP}\n"

    assert told(text) == ([] if exempt else [("R069", "warning", 2, 3)])
    [host] = k3s.hosts(parse(text.encode(), "f")).lookup("docker.io").hosts
    assert host.skip_verify == (not exempt)


# -- the default endpoint ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [AUTH, SKIP, "auth:"])
def test_an_entry_of_the_same_name_keeps_the_default_endpoint(content: str) -> None:
    text = file("https://cache.lan", "quay.io", content, mirror="quay.io") + f"  cache.lan:\n    {AUTH}\n"

    assert told(text, DISABLED) == [("R042", "error", 2, 3)]
    assert [it for it in told(text) if it[0] == "R042"] == []
    assert k3s.hosts(parse(text.encode(), "f"), Flags(True)).lookup("quay.io").hosts[-1].host == "quay.io"


@pytest.mark.parametrize("endpoint", ["https://reg.lan", "https://reg.lan:443"])
def test_the_registry_among_its_own_endpoints_is_asked_on_purpose(endpoint: str) -> None:
    text = file(endpoint, "reg.lan", mirror="reg.lan") + f"  reg.lan:443:\n    {AUTH}\n"

    assert told(text, DISABLED) == []


@pytest.mark.parametrize("endpoint", ["", "'http://a:b'"])
def test_a_mirror_without_a_usable_endpoint_keeps_the_default(endpoint: str) -> None:
    text = f"mirrors:\n  quay.io:\n    endpoint: [{endpoint}]\n"

    assert told(text, DISABLED) == [("R042", "error", 2, 3)]


# -- Docker Hub -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("registry-1.docker.io: {auth: {}}", f"docker.io: {{{AUTH}}}", ("R050", "error", 2, 26)),
        ("docker.io: {auth: {}}", f"index.docker.io: {{{AUTH}}}", ("R050", "error", 2, 15)),
        ("registry-1.docker.io: {auth: {username: other}}", f"docker.io: {{{AUTH}}}", ("R050", "warning", 3, 15)),
    ],
)
def test_one_name_of_the_hub_hides_another(first: str, second: str, expected: Told) -> None:
    assert told(f"configs:\n  {first}\n  {second}\n") == [expected]


@pytest.mark.parametrize(
    "first",
    [f"registry-1.docker.io: {{{AUTH}}}", "registry-1.docker.io: {tls: {}}", "quay.io: {auth: {}}"],
)
def test_the_same_credentials_or_none_hide_nothing(first: str) -> None:
    assert told(f"configs:\n  {first}\n  docker.io: {{{AUTH}}}\n") == []


@pytest.mark.parametrize(
    ("first", "left"),
    [
        ("  registry-1.docker.io:\n    auth: {}\n", ""),
        ("  registry-1.docker.io: {auth: {}}\n", ""),
        ("  registry-1.docker.io:\n    auth: {}\n    tls: {}\n", "  registry-1.docker.io:\n    tls: {}\n"),
        ("  registry-1.docker.io: {auth: {}, tls: {}}\n", "  registry-1.docker.io: {tls: {}}\n"),
    ],
)
def test_the_empty_auth_is_taken_away(first: str, left: str) -> None:
    second = f"  docker.io: {{{AUTH}}}\n"

    after = corrected(f"configs:\n{first}{second}")

    assert after == f"configs:\n{left}{second}"
    assert k3s.auth_for(parse(after.encode(), "f"), "registry-1.docker.io") is not None


@pytest.mark.parametrize(
    ("key", "mirrors", "ids"),
    [
        ("registry-1.docker.io", "", ["R069"]),
        ("index.docker.io", "", ["R069"]),
        ("index.docker.io", "mirrors: {docker.io: {endpoint: [https://cache.lan]}}\n", ["R069"]),
        ("index.docker.io", "mirrors: {docker.io: {endpoint: [https://index.docker.io]}}\n", []),
        ("registry-1.docker.io", "mirrors: {docker.io: {endpoint: [https://cache.lan]}}\n", []),
        ("docker.io", "", []),
    ],
)
def test_tls_settings_for_the_hub_belong_under_docker_io(key: str, mirrors: str, ids: list[str]) -> None:
    assert [it[0] for it in told(f"{mirrors}configs:\n  {key}:\n    {SKIP}\n") if it[1] != "note"] == ids


# -- speed ------------------------------------------------------------------------------------------------------------


def test_a_thousand_mirrors_take_no_time() -> None:
    mirrors = "".join(f"  r{n:04}.example:\n    endpoint: ['https://cache-{n:04}.lan:5000']\n" for n in range(1000))
    configs = "".join(f"  cache-{n:04}.lan:\n    {AUTH}\n" for n in range(1000))
    text = f"mirrors:\n{mirrors}configs:\n{configs}"
    subject = Subject.of(text.encode(), "f", Circumstances(NOW))
    start = time.process_time()

    findings = check(subject, select=sorted(OURS))

    assert len([finding for finding in findings if finding.fix]) == 1000
    assert time.process_time() - start < 2
