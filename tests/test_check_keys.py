"""Names of registries: those that nothing matches, and what they were meant to be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checking import NOW
from pierhead.check import Circumstances, Finding, Subject, check, fixed
from pierhead.config.k3s import hosts
from pierhead.config.registries import parse
from pierhead.image_list import read_list

OURS = ("R005", "R006", "R021", "R029", "R030", "R035", "R043", "R052", "R053")
CLAIMED = {"ambiguous-directory", "destructive-key", "key-never-matches", "invalid-registry"}


def subject_of(text: str, images: str = "") -> Subject:
    listed = read_list(images, "images.txt")[0] if images else None
    return Subject.of(text.encode(), "registries.yaml", Circumstances(NOW, images=listed))


def mirror(key: str, endpoint: str = "https://cache.example.com") -> str:
    return f"mirrors:\n  {key}:\n    endpoint: ['{endpoint}'] # c\n"


def found(text: str, images: str = "") -> list[Finding]:
    return list(check(subject_of(text, images), select=OURS))


def repaired(text: str, images: str = "") -> str:
    return fixed(subject_of(text, images), select=OURS).data.decode()


@pytest.mark.parametrize(
    ("key", "id", "severity", "meant"),
    [
        ("https://reg.example", "R005", "error", "reg.example"),
        ("'http://reg.example:5000'", "R005", "error", "'reg.example:5000'"),
        ("https://reg.example:5000/v2/", "R005", "error", "reg.example:5000"),
        ("//reg.example", "R005", "error", "reg.example"),
        ("https://u:p@reg.example", "R005", "error", "reg.example"),
        ("https://index.docker.io/v1/", "R005", "error", "docker.io"),
        ("reg.example/", "R005", "warning", "reg.example"),
        ("reg.example/team", "R005", "error", None),
        ("https://reg.example/team", "R005", "error", None),
        ('"reg.example "', "R052", "error", '"reg.example"'),
        ('"reg.example: 5000"', "R052", "error", '"reg.example:5000"'),
        ("reg.example:port", "R052", "error", None),
        ('reg.example:5000"', "R052", "error", "reg.example:5000"),
        ("Reg.Example", "R053", "warning", "reg.example"),
        ("CON", "R053", "warning", None),  # in small letters it would be a part of Docker Hub
        ("Index.Docker.IO", "R053", "warning", "docker.io"),
        ("'*.example'", "R053", "error", None),
        ("docker", "R053", "error", "docker.io"),
        ("team", "R053", "error", None),
        ("“reg.example”", "R053", "error", "reg.example"),
        ('"reg.example:"', "R053", "error", '"reg.example"'),
        ("index.docker.io", "R030", "error", "docker.io"),
        ("'registry-1.docker.io'", "R030", "error", "'docker.io'"),
        ("hub.docker.com", "R030", "error", "docker.io"),
        ("_default", "R035", "warning", '"*"'),
        ("..", "R043", "error", None),
        ("../x", "R043", "error", None),
        ("''", "R043", "error", None),
        ("~", "R043", "error", None),
        (".", "R043", "error", None),
        ("///", "R043", "error", None),
        ("k8s.gcr.io", "R029", "warning", None),
    ],
)
def test_a_name_that_nothing_matches(key: str, id: str, severity: str, meant: str | None) -> None:
    text = mirror(key)

    (finding,) = found(text)

    assert (finding.id, finding.severity, finding.span.line, finding.span.column) == (id, severity, 2, 3)
    assert subject_of(text).source.slice(finding.span) == key
    assert (finding.fix is not None) == (meant is not None)
    if meant:
        after = repaired(text)
        assert after == text.replace(key, meant, 1)
        assert found(after) == []


@pytest.mark.parametrize(
    "key",
    [
        "docker.io",
        "'*'",
        "localhost",
        "localhost:5000",
        "reg.example:5000",
        "'[::1]:5000'",
        "10.0.0.1",
        "reg:5000",
        "k3d-reg.localhost:5000",
        "registry.k8s.io",
    ],
)
def test_names_that_images_have_are_sound(key: str) -> None:
    assert found(mirror(key)) == []


def test_the_corrected_name_is_found_by_containerd() -> None:
    text = mirror("https://reg.example:5000")
    before, after = hosts(parse(text.encode(), "f")), hosts(parse(repaired(text).encode(), "f"))

    assert before.lookup("reg.example:5000").directory is None
    directory = after.lookup("reg.example:5000").directory
    assert directory is not None
    assert [host.host for host in directory.hosts] == ["cache.example.com", "reg.example:5000"]


def test_an_address_does_not_replace_an_entry_that_is_there() -> None:
    text = "configs:\n  https://reg.example: {tls: {}}\n  reg.example: {auth: {username: x}}\n"

    (finding,) = found(text)

    assert finding.fix is None
    assert "reg.example, which is there already" in finding.remedy


def test_two_addresses_of_one_registry_have_no_single_name() -> None:
    text = "configs:\n  https://reg.example: {tls: {}}\n  http://reg.example: {tls: {}}\n"

    assert [(each.id, each.fix) for each in found(text)] == [("R005", None), ("R005", None)]


def test_a_path_below_a_host_of_configs_is_taken_away() -> None:
    text = "configs:\n  reg.example/team: {auth: {username: x, password: y}}\n"

    assert repaired(text) == text.replace("/team", "")


def test_configs_know_no_patterns_either() -> None:
    text = "configs:\n  '*.example': {auth: {username: x, password: y}}\n  '*': {tls: {insecure_skip_verify: true}}\n"

    (finding,) = found(text)

    assert (finding.id, finding.severity, finding.span.line, finding.fix) == ("R053", "error", 2, None)


# ── ports ──


@pytest.mark.parametrize(
    ("key", "images", "meant"),
    [
        ("reg.example", "reg.example:5000/a:1", "reg.example:5000"),
        ("reg.example:443", "reg.example/a:1", "reg.example"),
        ("'reg.example:5000'", "reg.example:5001/a\nreg.example:5001/b\n", "'reg.example:5001'"),
        ("reg.example", "reg.example:1/a\nreg.example:2/b\n", None),
    ],
)
def test_a_port_that_the_images_do_not_have(key: str, images: str, meant: str | None) -> None:
    text = mirror(key)

    (finding,) = found(text, images)

    assert (finding.id, finding.severity, finding.span.line) == ("R006", "warning", 2)
    assert repaired(text, images) == (text.replace(key, meant, 1) if meant else text)


@pytest.mark.parametrize(
    ("key", "images"),
    [("reg.example", "reg.example/a\nreg.example:5000/b\n"), ("reg.example", "other.example:5000/a"), ("'*'", "a:1")],
)
def test_a_name_that_some_images_have_is_sound(key: str, images: str) -> None:
    assert found(mirror(key), images) == []


def test_without_a_list_a_port_of_the_own_endpoint_is_a_note() -> None:
    (finding,) = found(mirror("reg.example", "http://reg.example:5000"))

    assert (finding.id, finding.severity, finding.fix) == ("R006", "note", None)
    assert found(mirror("reg.example", "https://reg.example:443")) == []
    assert found(mirror("reg.example:5000", "http://reg.example:5000")) == []


# ── names with a meaning ──


def test_aliases_beside_docker_io_do_no_harm() -> None:
    findings = found("mirrors:\n  docker.io: {endpoint: [a]}\n  index.docker.io: {endpoint: [a]}\n")

    assert [(each.id, each.severity, each.span.line, each.fix) for each in findings] == [("R030", "note", 3, None)]


def test_an_alias_that_images_are_spelled_with_is_sound() -> None:
    assert found(mirror("registry-1.docker.io"), "registry-1.docker.io/a/b:1\n") == []


def test_the_web_page_of_docker_hub_has_no_credentials() -> None:
    text = "configs:\n  hub.docker.com: {auth: {username: x, password: y}}\n  index.docker.io: {auth: {username: x}}\n"

    (finding,) = found(text)

    assert finding.id == "R030"
    assert repaired(text) == text.replace("hub.docker.com", "docker.io")


def test_a_registry_that_was_given_up() -> None:
    served = "mirrors:\n  k8s.gcr.io: {endpoint: [a]}\n  registry.k8s.io: {endpoint: [a]}\n"

    findings = found(served, "k8s.gcr.io/pause:3.1\nregistry.k8s.io/pause:3.9\n")

    assert [(each.id, each.severity, each.span.file) for each in findings] == [
        ("R029", "note", "images.txt"),
        ("R029", "note", "registries.yaml"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "mirrors:\n  '*': {endpoint: [a]}\n  _default: {endpoint: [b]}\n",
        "mirrors:\n  reg.example: {endpoint: [a]}\n  reg.example/: {endpoint: [b]}\n",
    ],
)
def test_two_names_of_one_folder(text: str) -> None:
    (finding,) = found(text)

    assert (finding.id, finding.span.line, finding.fix) == ("R035", 3, None)


KEYS = st.one_of(
    st.text("ab.:/*_ -\t\"'@%[]A1\u00e9", max_size=8),
    st.sampled_from(["docker.io", "index.docker.io", "_default", "*", "..", "../..", "", "https://a.b", "a.b/"]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(KEYS, unique=True, max_size=4), st.lists(KEYS, unique=True, max_size=2))
def test_what_the_dialect_says_of_a_name_is_always_told(mirrors: list[str], configs: list[str]) -> None:
    import json

    content = {
        "mirrors": {key: {"endpoint": ["https://cache.example.com"]} for key in mirrors},
        "configs": {key: {"tls": {"insecure_skip_verify": True}} for key in configs},
    }
    subject = subject_of(json.dumps(content))

    findings = check(subject)

    told = {finding.span for finding in findings if finding.severity != "note"}
    assert {problem.span for problem in subject.problems if problem.id in CLAIMED} <= told
    for finding in findings:
        if finding.fix and finding.id in OURS:
            after = fixed(subject, select=[finding.id])
            assert parse(after.data, "f").error is None
