"""A certs.d as registries.yaml: what K3s wrote comes back, and what K3s cannot say is said."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.check import Circumstances, Subject, check
from pierhead.config.containerd import Directory
from pierhead.config.imports.certs_d import from_certs_d
from pierhead.config.imports.draft import Config, Draft, Login, Mirror, Trust
from pierhead.config.imports.reading import HostFolder, folders_of, read_certs_d
from pierhead.config.imports.written import registries_yaml, scalar
from pierhead.config.k3s import Flags, K3sHosts, hosts, render
from pierhead.config.registries import RegistriesConfig, parse
from pierhead.errors import Span
from pierhead.redact import Secret

CASES = json.loads((Path(__file__).parent / "vectors" / "k3s-files.json").read_text(encoding="utf-8"))
ACCEPTED = [case for case in CASES if case["exit"] == 0]


def text_of(draft: Draft) -> str:
    return registries_yaml(draft, "Made for a test", show_secrets=True)


def reread(draft: Draft) -> RegistriesConfig:
    """The file as K3s reads it; PyYAML, which knows nothing of K3s, reads the same values."""
    text = text_of(draft)
    config = parse(text.encode(), "registries.yaml")
    assert config.error is None, (config.error, text)
    assert config.problems == ()
    assert (yaml.safe_load(text) or {}) == by_hand(draft)
    return config


def by_hand(draft: Draft) -> dict[str, Any]:
    mirrors = {
        key: {name: value for name, value in (("endpoint", mirror.endpoints), ("rewrite", mirror.rewrites)) if value}
        for key, mirror in draft.mirrors.items()
    }
    configs: dict[str, dict[str, Any]] = {}
    for key, config in draft.configs.items():
        configs[key] = {}
        if config.auth is not None:
            fields = {"auth": config.auth.auth, "identity_token": config.auth.identity_token}
            configs[key]["auth"] = {name: secret.reveal() for name, secret in fields.items() if secret is not None}
        if config.tls is not None:
            names = ("ca_file", "cert_file", "key_file", "insecure_skip_verify")
            configs[key]["tls"] = {name: value for name in names if (value := getattr(config.tls, name))}
    return {name: section for name, section in (("mirrors", mirrors), ("configs", configs)) if section}


def told(draft: Draft) -> list[tuple[str, str, int]]:
    return [(problem.severity, problem.id, problem.span.line if problem.span else 0) for problem in draft.told]


# -- the law ----------------------------------------------------------------------------------------------------------


def used(found: K3sHosts) -> Mapping[str, Directory]:
    """What containerd can use: of a nested directory, or of a file that it refuses, nothing comes back."""
    return {
        name: directory for name, directory in found.tree.directories.items() if "/" not in name and directory.hosts
    }


def assert_comes_back(config: RegistriesConfig, flags: Flags) -> None:
    before = hosts(config, flags)
    draft = from_certs_d(folders_of(render(config, flags), flags.root))
    after = used(hosts(reread(draft), replace(draft.flags, data_dir=flags.data_dir)))
    assert {name: after.get(name) for name in used(before)} == used(before), text_of(draft)
    refused = {name for name, directory in before.tree.directories.items() if directory.unusable}
    assert set(after) - set(used(before)) <= refused
    assert "import-differs" not in {problem.id for problem in draft.told}


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["id"])
def test_what_k3s_wrote_comes_back(case: dict[str, Any]) -> None:
    data = base64.b64decode(case["yaml_base64"]) if "yaml_base64" in case else case["yaml"].encode()
    assert_comes_back(parse(data, "r.yaml"), Flags(**case["flags"]))


NAMES = ["docker.io", "r.lan", "r.lan:5000", "*", "localhost:5000", "m.lan", "_default", "registry-1.docker.io", "R_1"]
ENDPOINTS = [
    "m.lan", "http://m.lan:5000", "https://m.lan/v2/", "https://m.lan/hub/v2", "docker.io", "registry-1.docker.io",
    "r.lan", "https://r.lan:5000", "http://[::1]:5001/x y", "https://m.lan?a=1", "https://m.lan#f", "", "ftp://m.lan",
    "localhost:5000", "https://m.lan/.", "https://M.lan/a%2Fb", "h:port",
]  # fmt: skip
PATTERNS = ["^library/(.*)$", "^a\\\\.b/", "(", 'x\\u0001\\"', "é", "^", "${y}", "\\t", "# '"]
PATHS = [None, "/ca.pem", "/x y", "/é'\"", "rel/ca.pem"]


def registries(draw: st.DrawFn) -> dict[str, Any]:
    """A registries.yaml as a value: of names that are registries, with the odd spellings that people use."""
    mirror = st.fixed_dictionaries(
        {},
        optional={
            "endpoint": st.lists(st.sampled_from(ENDPOINTS), max_size=4),
            "rewrite": st.dictionaries(st.sampled_from(PATTERNS), st.sampled_from(PATTERNS), max_size=3),
        },
    )
    tls = st.fixed_dictionaries(
        {},
        optional={
            **{name: st.sampled_from(PATHS) for name in ("ca_file", "cert_file", "key_file")},
            "insecure_skip_verify": st.booleans(),
        },
    )
    auth = st.just({"username": "u", "password": "p"})
    config = st.fixed_dictionaries({}, optional={"tls": tls, "auth": auth})
    names = st.sampled_from(NAMES)
    mirrors, configs = st.dictionaries(names, mirror, max_size=4), st.dictionaries(names, config, max_size=3)
    return {"mirrors": draw(mirrors), "configs": draw(configs)}


FLAGS = st.builds(
    Flags,
    st.booleans(),
    st.sampled_from([None, "127.0.0.1:6443", "[::1]:6443"]),
    st.sampled_from(["k3s", "rke2"]),
    st.sampled_from([None, "/data"]),
)


@settings(deadline=None, max_examples=150)
@given(st.composite(registries)(), FLAGS)
def test_what_k3s_would_write_comes_back(value: dict[str, Any], flags: Flags) -> None:
    if {"*", "_default"} <= {*value["mirrors"], *value["configs"]}:
        del value["mirrors"]  # one directory for both: which of them K3s writes is random
        value["configs"].pop("_default", None)
    assert_comes_back(parse(json.dumps(value).encode(), "r.yaml"), flags)


# -- the text ---------------------------------------------------------------------------------------------------------

WORDS = st.one_of(
    st.sampled_from(
        ["yes", "n", "~", "", "0x1", "1_0", "1:30", "=", "<<", "*", "10.0.0.1:5000", "- a", "a: b", "a #b"]
    ),
    st.text(max_size=20).filter(lambda text: text.isascii() or text.encode("utf-8", "ignore").decode() == text),
    st.text(alphabet="ab.:/-_@# '\"\\\n\t\x07\x7f\x85\u2028\ufeff", max_size=8),
)


@settings(deadline=None, max_examples=300)
@given(WORDS)
def test_a_scalar_is_read_as_it_was(text: str) -> None:
    assert yaml.safe_load(f"{scalar(text)}: [{scalar(text)}]") == {text: [text]}


@settings(deadline=None)
@given(
    st.dictionaries(WORDS, st.builds(Mirror, st.lists(WORDS, max_size=3), st.dictionaries(WORDS, WORDS, max_size=2)))
)
def test_every_mirror_is_read_as_it_was(mirrors: dict[str, Mirror]) -> None:
    config = reread(Draft(mirrors))
    found = {
        key: Mirror(
            [endpoint.value for endpoint in mirror.endpoints],
            {rule.pattern.value: rule.replacement.value for rule in mirror.rewrites},
        )
        for key, mirror in config.mirrors.items()
    }
    assert found == mirrors


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("r.lan:5000", "r.lan:5000"),
        ("https://m.lan/v2/x", "https://m.lan/v2/x"),
        ("/etc/pki/ca.pem", "/etc/pki/ca.pem"),
        ("10.9.8.7:5001", "10.9.8.7:5001"),
        ("*", '"*"'),
        ("no", '"no"'),
        ("5000", '"5000"'),
        ("^a/(.*)$", '"^a/(.*)$"'),
        ("a\\.b", "'a\\.b'"),
        ("a\n", '"a\\n"'),
    ],
)
def test_quotes_only_where_they_are_needed(text: str, written: str) -> None:
    assert scalar(text) == written


@pytest.mark.parametrize("length", [990, 1000, 1020, 5000])
def test_a_pattern_longer_than_yaml_looks_for_its_colon(length: int) -> None:
    config = reread(Draft({"docker.io": Mirror(["https://m.lan"], {"^" + "a" * length: "b", "^c": "d"})}))

    assert [rule.replacement.value for rule in config.mirrors["docker.io"].rewrites] == ["b", "d"]


def test_a_whole_file() -> None:
    draft = Draft(
        {"docker.io": Mirror(["https://m.lan:5000"], {"^a": "b/$1"}), "r.lan": Mirror()},
        {
            "m.lan:5000": Config(Login(auth=Secret("dTpw")), Trust("/ca.pem", insecure_skip_verify=True)),
            "r.lan": Config(tls=Trust()),
            "q.lan": Config(),
        },
        Flags(disable_default_registry_endpoint=True),
    )
    draft.lost("header", "no\nheaders\x85", Span("c/hosts.toml", 3))
    assert text_of(draft) == (
        "# Made for a test\n"
        "# K3s must run with: --disable-default-registry-endpoint\n"
        "#\n"
        "# Not said here, or not quite:\n"
        "#   error: c/hosts.toml:3: no\\nheaders\\x85\n"
        "mirrors:\n"
        "  docker.io:\n"
        "    endpoint:\n"
        "      - https://m.lan:5000\n"
        "    rewrite:\n"
        '      "^a": "b/$1"\n'
        "  r.lan: {}\n"
        "configs:\n"
        "  m.lan:5000:\n"
        "    auth:\n"
        "      auth: dTpw\n"
        "    tls:\n"
        "      ca_file: /ca.pem\n"
        "      insecure_skip_verify: true\n"
        "  r.lan:\n"
        "    tls: {}\n"
        "  q.lan: {}\n"
    )
    assert "dTpw" not in registries_yaml(draft, "x", show_secrets=False)
    assert "dTpw" not in repr(draft)


# -- certs.d by hand --------------------------------------------------------------------------------------------------


def folder(name: str, text: str) -> HostFolder:
    return HostFolder(name, f"/c/{name}", f"/c/{name}", text.encode())


def tree(files: Mapping[str, str]) -> Draft:
    return from_certs_d([folder(name, text) for name, text in files.items()])


def test_the_usual_file_of_containerd() -> None:
    draft = tree(
        {
            "docker.io": (
                'server = "https://registry-1.docker.io"\n'
                '[host."https://m.lan:5000"]\n'
                '  capabilities = ["pull", "resolve"]\n'
                '  ca = "certs/ca.pem"\n'
                '  client = [["/c.pem", "/k.pem"]]\n'
                '[host."http://n.lan/v2/hub"]\n'
                "  override_path = true\n"
            ),
            "reg.lan_5000_": '[host."https://reg.lan:5000"]\nskip_verify = true\n',
            "_default": '[host."https://all.lan"]\n',
        }
    )
    assert by_hand(draft) == {
        "mirrors": {
            "docker.io": {"endpoint": ["https://m.lan:5000", "http://n.lan/v2/hub"]},
            "*": {"endpoint": ["https://all.lan"]},
        },
        "configs": {
            "m.lan:5000": {
                "tls": {"ca_file": "/c/docker.io/certs/ca.pem", "cert_file": "/c.pem", "key_file": "/k.pem"}
            },
            "reg.lan:5000": {"tls": {"insecure_skip_verify": True}},
        },
    }
    assert told(draft) == []
    reread(draft)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('[host."https://m.lan"]\nca = ["/a.pem", "/b.pem"]\n', [("error", "several-ca", 2)]),
        ('[host."https://m.lan"]\nclient = [["/a", "/b"], ["/c", "/d"]]\n', [("error", "several-clients", 2)]),
        ('[host."https://m.lan"]\n[host."https://m.lan".header]\nx = "y"\n', [("error", "header", 2)]),
        ('[host."https://m.lan"]\ndial_timeout = "3s"\n', [("note", "dial-timeout", 2)]),
        ('[host."https://m.lan"]\ncapabilities = ["push"]\n', [("note", "push-only", 2)]),
        ('[host."https://m.lan"]\ncapabilities = ["resolve"]\n', [("warning", "capabilities", 2)]),
        ('# x\nserver = "https://other.lan"\n', [("warning", "server", 2)]),
        ('server = "http://r.lan"\n', [("note", "server", 1)]),
        ("[rewrite]\na = 'b'\n", [("error", "rewrite-of-server", 1)]),
        (
            "[host.'https://m.lan'.rewrite]\na = 'b'\n[host.'https://n.lan'.rewrite]\na = 'c'\n",
            [("error", "rewrites-differ", 3)],
        ),
        ('[host."https://m.lan"]\n[host."http://m.lan/v2"]\n[host."https://m.lan/v2"]\n', [("note", "twice", 3)]),
        ('[host."https://m.lan', [("error", "unusable-hosts-toml", 1)]),
        ('[host."https://m.lan"]\nskip_verify = "no"\n', [("error", "unusable-hosts-toml", 1)]),
    ],
)
def test_what_k3s_cannot_say_is_said_at_its_line(text: str, problems: list[tuple[str, str, int]]) -> None:
    draft = tree({"r.lan": text})
    assert told(draft) == [(severity, f"import-{id}", line) for severity, id, line in problems]
    reread(draft)


def test_the_tls_of_a_host_is_one() -> None:
    draft = tree(
        {
            "a.lan": '[host."https://m.lan"]\nca = "/a.pem"\n',
            "b.lan": '[host."https://m.lan"]\nca = "/b.pem"\n',
            "c.lan": '[host."https://m.lan"]\n',
        }
    )
    assert told(draft) == [("error", "import-two-tls-settings", 1), ("note", "import-tls-elsewhere", 1)]
    assert by_hand(draft)["configs"] == {"m.lan": {"tls": {"ca_file": "/a.pem"}}}


def test_a_host_that_loses_its_verification_is_told() -> None:
    draft = tree({"a.lan": '[host."https://m.lan"]\n', "b.lan": '[host."https://m.lan"]\nskip_verify = true\n'})
    (problem,) = draft.told
    assert (problem.severity, problem.id) == ("warning", "import-differs")
    assert problem.message == "K3s would ask https://m.lan/v2 with other TLS settings or rewrites than here"
    assert problem.span == Span("/c/a.lan/hosts.toml", 1)


def test_basic_credentials_become_auth() -> None:
    draft = tree({"r.lan": '[host."https://m.lan".header]\nAuthorization = "Basic dTpodW50ZXIy"\n'})
    assert by_hand(draft)["configs"] == {"m.lan": {"auth": {"auth": "dTpodW50ZXIy"}}}
    assert draft.holds_secrets
    assert told(draft) == []
    assert "aHVudGVyMg" not in repr(draft)


@pytest.mark.parametrize("value", ['"Bearer abc"', '"Basic !!"', '["Basic dTpw", "Basic dTpw"]', '"Basic dQ=="'])
def test_other_authorizations_are_lost_and_not_shown(value: str) -> None:
    draft = tree({"r.lan": f'[host."https://m.lan".header]\nauthorization = {value}\n'})
    assert told(draft) == [("error", "import-header", 1)]
    assert value.strip('"[]') not in draft.told[0].message
    assert not draft.holds_secrets


def test_userinfo_of_a_host_does_not_come_along() -> None:
    draft = tree({"r.lan": '[host."https://u:hunter2@m.lan"]\n[host."https://m.lan/v2"]\n'})
    assert "hunter2" not in text_of(draft) + repr(draft)
    assert by_hand(draft)["mirrors"] == {"r.lan": {"endpoint": ["https://m.lan"]}}


def test_a_folder_with_a_port_hides_the_plain_one() -> None:
    draft = tree({"r.lan:5": '[host."https://a.lan"]\n', "r.lan_5_": '[host."https://b.lan"]\n'})
    assert by_hand(draft)["mirrors"] == {"r.lan:5": {"endpoint": ["https://b.lan"]}}
    assert [(problem.id, str(problem.span)) for problem in draft.told] == [
        ("import-hidden-folder", "/c/r.lan:5/hosts.toml:1:1")
    ]


@pytest.mark.parametrize("name", ["a b", "r:x", "\udcff"])
def test_a_folder_that_no_registry_has(name: str) -> None:
    draft = tree({name: '[host."https://a.lan"]\n', "r.lan": '[host."https://a.lan"]\n'})
    assert [problem.id for problem in draft.told] == ["import-no-registry"]
    assert list(draft.mirrors) == ["r.lan"]


# -- folders ----------------------------------------------------------------------------------------------------------


def test_certificates_without_a_hosts_toml(tmp_path: Path) -> None:
    for name in ("ca.crt", "client.cert", "client.key", "lonely.cert", "readme"):
        (tmp_path / "r.lan:5000").mkdir(exist_ok=True)
        (tmp_path / "r.lan:5000" / name).touch()
    (tmp_path / "empty.lan").mkdir()
    (tmp_path / "file").touch()
    at = tmp_path / "r.lan:5000"
    trust = {"ca_file": f"{at}/ca.crt", "cert_file": f"{at}/client.cert", "key_file": f"{at}/client.key"}
    draft = from_certs_d(read_certs_d(tmp_path))
    assert by_hand(draft) == {"configs": {"r.lan:5000": {"tls": trust}}}
    assert told(draft) == []


def test_an_empty_folder_hides_the_wildcard_here_and_there(tmp_path: Path) -> None:
    (tmp_path / "empty.lan").mkdir()
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://m.lan"]\n')
    draft = from_certs_d(read_certs_d(tmp_path))
    assert [host.host for host in hosts(reread(draft)).lookup("empty.lan").hosts] == ["empty.lan"]
    assert [host.host for host in hosts(reread(draft)).lookup("other.lan").hosts] == ["m.lan", "other.lan"]


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    import os

    good = tmp_path / "good.lan"
    good.mkdir()
    (good / "hosts.toml").write_text('[host."https://m.lan"]\n')
    (tmp_path / "loop.lan").symlink_to("loop.lan")
    (tmp_path / "link.lan").symlink_to("good.lan")
    for name in ("fifo.lan", "folder.lan", "self.lan", "big.lan"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo.lan" / "hosts.toml")
    (tmp_path / "folder.lan" / "hosts.toml").mkdir()
    (tmp_path / "self.lan" / "hosts.toml").symlink_to("hosts.toml")
    (tmp_path / "big.lan" / "hosts.toml").write_bytes(b"#" * (1024 * 1024 + 1))
    draft = from_certs_d(read_certs_d(tmp_path))
    assert list(draft.mirrors) == ["good.lan", "link.lan"]
    assert {problem.span.file.removeprefix(f"{tmp_path}/").split("/")[0] for problem in draft.told if problem.span} == {
        "loop.lan", "fifo.lan", "folder.lan", "self.lan", "big.lan"
    }  # fmt: skip
    assert {problem.id for problem in draft.told} == {"import-unreadable"}


def test_ten_thousand_folders() -> None:
    """Most of them empty; one is broken."""
    text = b'[host."https://m.lan"]\nskip_verify = true\n'
    folders = [
        HostFolder(f"r{number}.lan", f"/c/r{number}.lan", f"/c/r{number}.lan", None if number % 20 else text)
        for number in range(10_000)
    ]
    draft = from_certs_d([*folders, folder("broken.lan", "[")])
    config = parse(text_of(draft).encode(), "r.yaml")
    assert list(config.mirrors) == [f"r{number}.lan" for number in range(0, 10_000, 20)]
    assert [problem.id for problem in draft.told] == ["import-unusable-hosts-toml"]


# -- check ------------------------------------------------------------------------------------------------------------


def errors(data: bytes, flags: Flags) -> set[str]:
    circumstances = Circumstances(datetime(2026, 11, 1, tzinfo=UTC), flags, look_at_files=False)
    subject = Subject.of(data, "registries.yaml", circumstances)
    return {finding.id for finding in check(subject) if finding.severity == "error"}


@pytest.mark.parametrize("case", ACCEPTED[::4], ids=lambda case: case["id"])
def test_check_finds_no_error_that_was_not_there(case: dict[str, Any]) -> None:
    data = base64.b64decode(case["yaml_base64"]) if "yaml_base64" in case else case["yaml"].encode()
    flags = Flags(**case["flags"])
    draft = from_certs_d(folders_of(render(parse(data, "r.yaml"), flags), flags.root))
    assert errors(text_of(draft).encode(), draft.flags) <= errors(data, flags)
