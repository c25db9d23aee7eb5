"""The rules about endpoints: what is told where, what stays silent, and that a corrected file means what it said."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checking import NOW, circumstances
from pierhead.check import Circumstances, Finding, Subject, check, fixed
from pierhead.check.rule import Example
from pierhead.config import k3s
from pierhead.config.containerd import Host
from pierhead.config.k3s import Flags
from pierhead.config.registries import parse
from pierhead.errors import FLAGS

OURS = ["R007", "R008", "R012", "R022", "R027", "R028", "R045", "R046", "R048", "R051", "R061", "R063"]
DISABLED = "--disable-default-registry-endpoint"
Told = tuple[str, str, int, int]


def found(text: str, *flags: str) -> list[Finding]:
    return list(check(_subject(text, flags), select=OURS))


def told(text: str, *flags: str) -> list[Told]:
    return [(it.id, it.severity, it.span.line, it.span.column) for it in found(text, *flags)]


def corrected(text: str, *flags: str) -> str:
    return fixed(_subject(text, flags), select=OURS).data.decode()


def _subject(text: str, flags: tuple[str, ...]) -> Subject:
    example = Example(text, flags=("--no-files", *flags))
    return Subject.of(text.encode(), "registries.yaml", circumstances(example, None))


def mirror(*endpoints: str, key: str = "docker.io") -> str:
    """The first endpoint is in line 4, in column 9."""
    return f"mirrors:\n  {key}:\n    endpoint:\n" + "".join(f"      - {endpoint}\n" for endpoint in endpoints)


def hosts(text: str, registry: str = "docker.io", *, disabled: bool = False) -> tuple[Host, ...]:
    return k3s.hosts(parse(text.encode(), "f"), Flags(disabled)).lookup(registry).hosts


SOUND = [
    "https://cache.lan",
    "https://cache.lan/",
    "https://cache.lan/v2",
    "https://cache.lan/v2/",
    "https://cache.lan//v2",
    "https://cache.lan:5000/v2/hub",
    "https://cache.lan/artifactory/api/docker/hub/v2",
    "https://cache.lan/hub/v2/",
    "http://127.0.0.1:5000",
    '"https://[::1]:5000"',
    '"http://[fd00::5]"',
    "https://my_cache.lan",
    "HTTPS://Cache.lan",
    "https://https.lan",
    "https://svc.corp.example",
]


@pytest.mark.parametrize("endpoint", SOUND)
@pytest.mark.parametrize("flags", [(), (DISABLED,)])
def test_a_sound_endpoint_is_silent(endpoint: str, flags: tuple[str, ...]) -> None:
    assert told(mirror(endpoint, "https://other.lan"), *flags) == []
    assert told(mirror("https://other.lan", endpoint), *flags) == []


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    ["https://h.lan/hub", "https://h.lan:5000/a/b/", "h.lan/V2", "https://h.lan/artifactory/api/docker/hub"],
)
def test_a_path_takes_the_place_of_v2(endpoint: str) -> None:
    text = mirror(endpoint, "https://other.lan")

    assert ("R007", "warning", 4, 9) in told(text)
    assert not hosts(text)[0].path.startswith("/v2")


def test_a_plain_prefix_becomes_a_rewrite() -> None:
    text = mirror("'https://h.lan:5000/proxy/hub/' # here") + "  quay.io: {endpoint: [https://q.lan]}\n"

    after = corrected(text)

    assert after == text.replace("/proxy/hub/", "").replace(
        "  quay.io", "    rewrite:\n      '^(.*)$': 'proxy/hub/$1'\n  quay.io"
    )
    first = hosts(after)[0]
    assert (first.host, first.path, dict(first.rewrites)) == ("h.lan:5000", "/v2", {"^(.*)$": "proxy/hub/$1"})


def test_a_plain_prefix_becomes_a_rewrite_in_braces() -> None:
    text = "mirrors: {docker.io: {endpoint: [https://h.lan/hub]}}\n"

    after = corrected(text)

    assert after == 'mirrors: {docker.io: {endpoint: [https://h.lan], rewrite: {"^(.*)$": "hub/$1"}}}\n'
    assert hosts(after)[0].rewrites == {"^(.*)$": "hub/$1"}


@pytest.mark.parametrize(
    "text",
    [
        mirror("https://h.lan/hub", "https://other.lan"),
        mirror("https://h.lan/hub") + "    rewrite: {'^a/': 'b/'}\n",
        mirror("https://h.lan/artifactory/api/docker/hub"),
        mirror("https://h.lan/Hub"),
        mirror("https://h.lan/hub?x=y"),
        "x-list: &list [https://h.lan/hub]\nmirrors:\n  docker.io: {endpoint: *list}\n  quay.io: {endpoint: *list}\n",
    ],
)
def test_a_path_with_two_meanings_is_not_moved(text: str) -> None:
    assert "R007" in {it.id for it in found(text)}
    assert corrected(text) == text


@pytest.mark.parametrize(("length", "is_moved"), [(243, True), (244, False)])
def test_a_path_is_not_moved_where_names_would_get_too_long(length: int, is_moved: bool) -> None:
    """A repository's name has at most 255 characters: `library/app` behind the path is just that, or one more."""
    [finding] = found(mirror(f"https://cache.lan/{'p' * length}"))

    assert finding.id == "R007"
    assert (finding.fix is not None) == is_moved


def test_the_images_of_the_list_tell_how_long_names_get() -> None:
    example = Example(mirror(f"https://cache.lan/{'p' * 200}"), images=f"docker.io/acme/{'a' * 60}:1\n")
    subject = Subject.of(example.yaml.encode(), "registries.yaml", circumstances(example, None))

    [finding] = check(subject, select=["R007"])

    assert finding.fix is None


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [
        ("https://h.lan/a%2Fb", "/a/b/<repository>"),
        ("https://h.lan/.", "for /<repository>"),
        ("https://h.lan/..", "for /<repository>"),
        ("https://h.lan/a/../v2", "/v2/<repository>"),
    ],
)
def test_an_escaped_path_is_told_as_it_is_asked(endpoint: str, asked: str) -> None:
    [finding] = found(mirror(endpoint))

    assert (finding.id, finding.severity, finding.span.line, finding.span.column) == ("R061", "warning", 4, 9)
    assert asked in finding.message


# -- what is no endpoint ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "meant"),
    [
        ("https:/h.lan:5000", "https://h.lan:5000"),
        ("https//h.lan/v2", "https://h.lan/v2"),
        ("http:h.lan", "http://h.lan"),
        ("'https:// h.lan'", None),
        ("https:///h.lan", "https://h.lan"),
        ("'https:;//h.lan'", "https://h.lan"),
        ("htp://h.lan", "http://h.lan"),
        ("htttps://h.lan", "https://h.lan"),
        ('" https://h.lan"', "https://h.lan"),
        ('"https://h.lan\\n"', "https://h.lan"),
        ("'\"https://h.lan\"'", "https://h.lan"),
        ("tcp://h.lan", None),
        ("https://h:port", None),
        ("https://h.lan:99999", None),
        ("https://<registry>", None),
        ("'https://a.lan,https://b.lan'", None),
        ("'https://a.lan https://b.lan'", None),
        ("'*'", None),
        ("https://", None),
        ("''", None),
        ("/v2", None),
    ],
)
def test_what_is_no_endpoint_is_an_error(endpoint: str, meant: str | None) -> None:
    text = mirror(endpoint, "https://other.lan")

    [finding] = found(text)

    assert (finding.id, finding.severity, finding.span.line, finding.span.column) == ("R051", "error", 4, 9)
    assert (finding.fix is not None) == (meant is not None)
    if meant is not None:
        assert meant in finding.remedy
        assert parse(corrected(text).encode(), "f").mirrors["docker.io"].endpoints[0].value == meant
        assert told(corrected(text)) == []


def test_what_containerd_drops_is_told() -> None:
    assert told(mirror("https://h.lan/v2?a=b", "https://g.lan#x")) == [
        ("R051", "warning", 4, 9),
        ("R051", "warning", 5, 9),
    ]


@pytest.mark.parametrize(
    ("endpoint", "scheme"),
    [
        ("h.lan:5000", "https://h.lan:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("localhost", "https://localhost"),
    ],
)
def test_the_scheme_that_k3s_chooses_is_told(endpoint: str, scheme: str) -> None:
    [finding] = found(mirror(endpoint))

    assert (finding.id, finding.severity) == ("R008", "note")
    assert f"K3s asks {scheme}," in finding.message


SECRET = "hunter2"


@pytest.mark.parametrize(
    "endpoint",
    [
        f"https://u:{SECRET}@h.lan",
        f"u:{SECRET}@h.lan/hub",
        f"' https://u:{SECRET}@h.lan'",
        f"'https://u:{SECRET}{{@h'",
        f"https:/u:{SECRET}@h.lan",
        f"https://a,https://u:{SECRET}@h.lan",
        f"'https://u:{SECRET}@h.lan\"'",
        f"https://h.lan/u:{SECRET}@x",
        f"'u:{SECRET}@::1'",
    ],
)
@pytest.mark.parametrize("flags", [(), (DISABLED,)])
def test_a_secret_in_an_endpoint_never_shows(endpoint: str, flags: tuple[str, ...]) -> None:
    findings = found(mirror(endpoint, endpoint), *flags)

    assert {finding.id for finding in findings} & {"R063", "R051", "R046", "R007"}
    assert SECRET not in repr(findings)


def test_credentials_in_an_endpoint_are_never_sent() -> None:
    text = mirror("https://u:p@h.lan:5000")

    assert told(text) == [("R063", "error", 4, 9)]
    assert k3s.auth_for(parse(text.encode(), "f"), "h.lan:5000") is None


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://registry.tools.svc:5000",
        "https://registry.tools.svc.cluster.local",
        "r.cluster.local",
        "http://r.a.svc.cluster.corp",
    ],
)
def test_a_name_of_the_cluster_is_told(endpoint: str) -> None:
    assert ("R027", "warning", 4, 9) in told(mirror(endpoint))


@pytest.mark.parametrize(
    ("endpoint", "meant"),
    [
        ("'::1'", "[::1]"),
        ("'fd00:10::5'", "[fd00:10::5]"),
        ("https://fd00:10::5", "https://[fd00:10::5]"),
        ("'1:2:3:4:5:6:7:8:5000'", "[1:2:3:4:5:6:7:8]:5000"),
        ("http://fd00::5:30500/v2", "http://[fd00::5]:30500/v2"),
        ("'fd00::5:5000'", None),
    ],
)
def test_an_address_needs_brackets(endpoint: str, meant: str | None) -> None:
    text = mirror(endpoint, "https://other.lan")

    [finding] = found(text)

    assert (finding.id, finding.severity, finding.span.line, finding.span.column) == ("R028", "error", 4, 9)
    if meant is None:
        assert finding.fix is None
        return
    after = parse(corrected(text).encode(), "f")
    assert after.mirrors["docker.io"].endpoints[0].value == meant
    assert len(hosts(corrected(text))) == 3


# -- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["https://cache.lan", "cache.lan", "https://cache.lan/v2", "HTTPS://cache.lan/"])
def test_the_second_of_two_is_taken_away(second: str) -> None:
    text = mirror("https://cache.lan", second, "https://other.lan")
    [finding] = [finding for finding in found(text) if finding.id == "R012"]

    assert (finding.severity, finding.span.line, finding.span.column) == ("warning", 5, 9)
    assert "in line 4" in finding.message
    assert corrected(text) == mirror("https://cache.lan", "https://other.lan")


def test_the_second_of_two_in_brackets_is_taken_away() -> None:
    text = "mirrors: {docker.io: {endpoint: [https://a.lan, https://a.lan/, https://b.lan]}}\n"

    assert corrected(text) == "mirrors: {docker.io: {endpoint: [https://a.lan, https://b.lan]}}\n"


@pytest.mark.parametrize(
    "second", ["https://cache.lan:443", "http://cache.lan", "https://cache.lan/v2/", "https://Cache.lan"]
)
def test_endpoints_that_differ_are_two(second: str) -> None:
    assert told(mirror("https://cache.lan", second)) == []


@pytest.mark.parametrize("own", ["docker.io", "https://registry-1.docker.io", "https://registry-1.docker.io/v2"])
def test_the_registry_itself_before_its_mirrors(own: str) -> None:
    text = mirror(own, "https://cache.lan")

    assert ("R012", "warning", 4, 9) in told(text)
    assert [host.host for host in hosts(text)] == ["registry-1.docker.io", "cache.lan", "registry-1.docker.io"]
    assert "R012" not in {it[0] for it in told(text, DISABLED)}


def test_the_registry_itself_in_last_place_is_a_note() -> None:
    assert told(mirror("https://cache.lan", "https://registry-1.docker.io")) == [("R012", "note", 5, 9)]
    assert told(mirror("https://reg.lan:5000", key="reg.lan:5000")) == [("R012", "note", 4, 9)]
    assert told(mirror("https://index.docker.io")) == []


def test_lost_rewrites_are_for_another_rule_to_tell() -> None:
    assert told(mirror("https://reg.lan", key="reg.lan") + "    rewrite: {'^a/': 'b/'}\n") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mirrors:\n  docker.io:\n", ("R022", "note", 2, 3)),
        ("mirrors:\n  docker.io: {}\n", ("R022", "note", 2, 3)),
        ("mirrors:\n  docker.io:\n    endpoint: []\n", ("R022", "warning", 3, 5)),
        ("mirrors:\n  docker.io:\n    endpoint:\n", ("R022", "warning", 3, 5)),
        ("mirrors:\n  docker.io:\n    rewrite: {a: b}\n", ("R022", "warning", 2, 3)),
        ("mirrors:\n  docker.io:\n  '*': {endpoint: [https://a.lan]}\n", ("R022", "warning", 2, 3)),
        ("mirrors:\n  '*':\n", ("R022", "note", 2, 3)),
    ],
)
def test_a_mirror_without_endpoints(text: str, expected: Told) -> None:
    assert told(text) == [expected]
    assert told(text, "--embedded-registry 127.0.0.1:6443") == []
    assert told(text, DISABLED) == []


def test_a_registry_with_an_entry_does_not_go_to_the_wildcard() -> None:
    text = "mirrors:\n  quay.io:\n  '*': {endpoint: [https://a.lan]}\nconfigs:\n  quay.io: {auth: {username: a}}\n"

    assert told(text) == [("R022", "note", 2, 3)]
    assert hosts(text, "quay.io")[0].host == "quay.io"


@pytest.mark.parametrize("endpoint", ["''", "https://", "/v2", "/hub", "http:///x"])
def test_a_last_endpoint_without_a_host_brings_the_default_back(endpoint: str) -> None:
    text = mirror("https://cache.lan", endpoint)

    assert told(text, DISABLED) == [("R045", "error", 5, 9)]
    assert hosts(text, disabled=True)[-1].host == "registry-1.docker.io"
    after = corrected(text, DISABLED)
    assert after == mirror("https://cache.lan")
    assert [host.host for host in hosts(after, disabled=True)] == ["cache.lan"]
    assert [it[0] for it in told(text)] == ["R051"]


def test_an_only_endpoint_without_a_host_is_not_taken_away() -> None:
    [finding] = found(mirror("/v2"), DISABLED)

    assert (finding.id, finding.fix) == ("R045", None)


# -- what cannot be read or written -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "meant"),
    [("'https://cache.lan\"'", "https://cache.lan"), ("'https://ca\"che.lan'", None), ("'http::1'", None)],
)
def test_a_quote_in_an_endpoint_loses_the_mirror(endpoint: str, meant: str | None) -> None:
    text = mirror("https://other.lan", endpoint)

    [finding] = found(text)

    assert (finding.id, finding.severity, finding.span.line, finding.span.column) == ("R046", "error", 5, 9)
    assert [host.host for host in hosts(text)] == ["registry-1.docker.io"]
    if meant:
        assert [host.host for host in hosts(corrected(text))] == ["other.lan", "cache.lan", "registry-1.docker.io"]
    else:
        assert finding.fix is None


def test_a_quote_in_a_name_loses_the_mirror() -> None:
    assert told(mirror("https://other.lan", key="'reg.lan\"'")) == [("R046", "error", 2, 3)]
    assert told("configs:\n  'reg.lan\"': {tls: {}}\n") == [("R046", "error", 2, 3)]


def test_a_rewrite_that_loses_the_mirror_is_for_another_rule_to_tell() -> None:
    assert told(mirror("https://other.lan") + "    rewrite: {'^a\\.b': 'c'}\n") == []


def test_a_line_that_is_too_long_keeps_containerd_from_starting() -> None:
    assert told(mirror("https://h.lan/v2/" + "a" * 70_000)) == [("R048", "error", 2, 3)]


# -- any endpoint -----------------------------------------------------------------------------------------------------

PARTS = st.lists(
    st.sampled_from(
        [
            "http",
            "https",
            "htp",
            ":",
            "/",
            "//",
            "h.lan",
            "[",
            "]",
            "::1",
            ":5000",
            "/v2",
            "@",
            "?",
            "%2F",
            ".",
            " ",
            '"',
            "\\",
        ]
    ),
    max_size=7,
).map("".join)


@given(st.lists(PARTS, max_size=3), st.booleans())
@settings(deadline=None, max_examples=300)
def test_every_endpoint_that_is_not_asked_is_told(endpoints: list[str], disabled: bool) -> None:
    text = mirror(*("'" + endpoint + "'" for endpoint in endpoints)) if endpoints else "mirrors: {}\n"
    flags = (DISABLED,) if disabled else ()
    read = k3s.hosts(parse(text.encode(), "registries.yaml"), Flags(disabled))
    lost = {skip.span for skip in read.skipped if skip.endpoint and skip.reason in ("invalid-url", "duplicate")}

    findings = found(text, *flags)

    assert lost <= {finding.span for finding in findings}
    after = corrected(text, *flags)
    assert parse(after.encode(), "f").error is None
    assert after != text or not any(finding.fix for finding in findings)


# -- every recorded file ----------------------------------------------------------------------------------------------

RECORDED = json.loads((Path(__file__).parent / "vectors" / "k3s-files.json").read_text())
CLAIMED = {"duplicate-endpoint", "invalid-endpoint", "cannot-render", "wildcard-tls-lost"}


def _recorded(case: dict[str, Any]) -> Subject:
    data = base64.b64decode(case["yaml_base64"]) if "yaml_base64" in case else case["yaml"].encode()
    flags = Flags(case["flags"]["disable_default_registry_endpoint"], case["flags"]["embedded_registry"])
    return Subject.of(data, "registries.yaml", Circumstances(NOW, flags, look_at_files=False))


def test_what_the_dialect_says_of_a_recorded_file_is_told_at_its_place() -> None:
    ours = [*OURS, "R004", "R041", "R042"]
    for case in RECORDED:
        subject = _recorded(case)
        spans = {problem.span for problem in subject.problems if problem.id in CLAIMED}
        said = {span for span in spans if span is not None and span.file != FLAGS}

        places = {finding.span for finding in check(subject, select=ours)}

        assert said <= places, case["id"]


def test_a_corrected_recorded_file_is_no_worse() -> None:
    ours = [*OURS, "R004", "R050"]
    for case in RECORDED:
        subject = _recorded(case)
        errors = [finding for finding in check(subject, select=ours) if finding.severity == "error"]

        after = fixed(subject, select=ours)

        assert len([finding for finding in after.left if finding.severity == "error"]) <= len(errors), case["id"]
        assert parse(after.data, "f").error is None or subject.config.error is not None, case["id"]
