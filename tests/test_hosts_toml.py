"""hosts.toml and certs.d as containerd reads them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.config import toml
from pierhead.config.containerd import (
    CAPABILITIES,
    DEFAULT_ROOT,
    Directory,
    Host,
    HostTree,
    UnusableHosts,
    default_host,
    directory_name,
    is_localhost,
    parse_hosts_toml,
)
from pierhead.redact import Secret

CASES = [
    (f"{case['id']}:{path}", text, path, case["containerd_reads"][path])
    for case in json.loads((Path(__file__).parent / "vectors" / "k3s-files.json").read_text(encoding="utf-8"))
    for path, text in case["files"].items()
]


def as_recorded(host: Host) -> dict[str, Any]:
    """The host in the form of the vectors, where what is empty is left out."""
    always = {"scheme": host.scheme, "host": host.host, "path": host.path, "capabilities": list(host.capabilities)}
    sometimes = {
        "ca": list(host.ca),
        "client": [list(pair) for pair in host.client],
        "skip_verify": host.skip_verify,
        "rewrites": dict(host.rewrites),
    }
    return always | {name: value for name, value in sometimes.items() if value}


def read(text: str) -> tuple[Host, ...]:
    return parse_hosts_toml(text, "/certs.d/r")


def refusal(text: str) -> str:
    with pytest.raises(UnusableHosts) as caught:
        read(text)
    return caught.value.go_text.reveal()


@pytest.mark.parametrize(("text", "path", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_recorded_readings(text: str, path: str, wanted: Any) -> None:
    directory = f"<out>/{path.removesuffix('/hosts.toml')}"
    if isinstance(wanted, dict):
        with pytest.raises(UnusableHosts) as caught:
            parse_hosts_toml(text, directory)
        assert caught.value.go_text.reveal() == wanted["error"]
    else:
        assert [as_recorded(host) for host in parse_hosts_toml(text, directory)] == wanted


def test_all_that_a_person_can_write() -> None:
    (host, root) = read(
        """
        server = 'https://up.lan'  # the upstream
        capabilities = [ 'pull', "RESOLVE", # twice
          "push", ]
        [ host . "http://m.lan:5000" ]
        ca = "ca.pem"
        client = ["one.pem", ["c.pem", "/k.pem"]]
        skip_verify = false
        override_path = true
        dial_timeout = "1m2.5s"
        header = { x-a = "1", x-b = ["2", "3"] }
        unknown = 2020-01-02T03:04:05Z
        [host."http://m.lan:5000".rewrite]
        '^a\\.b' = "c\\u0064\\x20" # literal pattern
        """.replace("\\x20", "")
    )
    assert (host.scheme, host.host, host.path) == ("http", "m.lan:5000", "")
    assert host.ca == ("/certs.d/r/ca.pem",)
    assert host.client == (("/certs.d/r/one.pem", ""), ("/certs.d/r/c.pem", "/k.pem"))
    assert host.explicit_tls
    assert host.tries_https_first
    assert not host.skip_verify
    assert host.dial_timeout_seconds == 62.5
    assert host.header == {"x-a": (Secret("1"),), "x-b": (Secret("2"), Secret("3"))}
    assert host.rewrites == {"^a\\.b": "cd"}
    assert host.capabilities == CAPABILITIES
    assert (root.host, root.path, root.capabilities) == ("up.lan", "/v2", ("pull", "resolve", "push"))
    assert not root.tries_https_first


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", [("", "")]),
        ("ca = 'x'", [("", "")]),
        ("[host]", [("", "")]),
        ("[host.'a']", [("a", "/v2")]),
        ("server = ''\n[host.a]", [("a", "/v2"), ("", "")]),
        ("SERVER = 'b'\n[host.a]", [("a", "/v2"), ("b", "/v2")]),
        ("[host.b]\n[host.a]\n[host.a.rewrite]", [("b", "/v2"), ("a", "/v2")]),
        ("[host.a]\n[host.b]\n[host.a.rewrite]", [("a", "/v2"), ("b", "/v2"), ("a", "/v2")]),
        ("[host.'ftp://a/x']", [("ftp:", "/a/x/v2")]),
        ("[host.'https://a/v2/../x/']", [("a", "/x/v2")]),
        ("[host.'https://a/']\noverride_path = true", [("a", "/")]),
    ],
)
def test_which_hosts_in_which_order(text: str, hosts: list[tuple[str, str]]) -> None:
    assert [(host.host, host.path) for host in read(text)] == hosts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a", "toml: expected = after a key, but the document ends there"),
        ("= 1", "toml: invalid character at start of key: ="),
        ("a 1", "toml: expected character ="),
        ("a = ", "toml: expected value, not eof"),
        ("a = b", "toml: incomplete number"),
        ("a = tru", "toml: expected 'true'"),
        ("a = 1 b", "toml: expected newline but got U+0062 'b'"),
        ("a = 'x\ny'", "toml: literal strings cannot have new lines"),
        ("a = 'x", "toml: unterminated literal string"),
        ('a = "x', 'toml: basic string not terminated by "'),
        ('a = "\\x"', "toml: invalid escaped character U+0078 'x'"),
        ('a = "\\ud800"', "toml: escape sequence is invalid Unicode code point"),
        ('a = "\\u12"', "toml: unicode point needs 4 character, not 2"),
        ('a = "\\u12xy"', "toml: non-hex character"),
        ('a = "\x01"', "toml: invalid UTF-8"),
        ('a = "\udcff"', "toml: invalid UTF-8"),
        ('a = "\\t\x01"', "toml: invalid character U+0001"),
        ("# \x01", "toml: invalid character in comment"),
        ("a = [1 2]", "toml: array elements must be separated by commas"),
        ("a = [,1]", "toml: array cannot start with comma"),
        ("a = [1", "toml: array is incomplete"),
        ("a = {", "toml: inline table is incomplete"),
        ("a = {b = 1 c = 2}", "toml: expected character ,"),
        ("[a", "toml: expected character ]"),
        ("[[a]", "toml: expected character ]"),
        ("server = 'a'\nserver = 'b'", "toml: key server is already defined"),
        ("[host.a]\n[host.a]", "toml: table a already exists"),
        ("[host.a]\nca='x'\n[host.a.ca]", "toml: key ca should be a table, not a value"),
        ("server = 'a'\n[server.x]", "toml: expected server to be a table, not a value"),
        ("[host.a]\n[[host.a]]", "toml: key table already exists as a a,  but should be an array table"),
        ("host.a.ca = 'x'\n[host.a]", "toml: table a already exists"),
        ("a\r= 1", "toml: expected character ="),
        ("a = 1\r", "toml: windows new line should be \\r\\n"),
        (
            "[host.'http://h:1:2']",
            'unable to parse server http://h:1:2: parse "http://h:1:2": invalid port ":1:2" after host',
        ),
        ("capabilities = ['fly']", "unknown capability fly"),
        ("client = [['a']]", 'invalid pair for "client"'),
        ("client = [1]", 'invalid type for "client"'),
        ("ca = 1", 'invalid type for "ca"'),
        ("ca = [1]", "unable to cast a value to string"),
        ("dial_timeout = '1 s'", "time: invalid duration"),
        ("host = 1", "toml: cannot decode host into a value of type map[string]config.hostFileConfig"),
        ("[host]\na = 1", "toml: cannot decode host into a value of type config.hostFileConfig"),
        ("[rewrite]\na = 1", "toml: cannot decode rewrite into a value of type map[string]string"),
        ("server = ['a']", "toml: cannot decode server into a value of type string"),
        ("skip_verify = 'yes'", "toml: cannot decode skip_verify into a value of type *bool"),
        ("override_path = 1", "toml: cannot decode override_path into a value of type bool"),
        ("a = " + "[" * 1000, "toml: nested deeper than 100"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    assert refusal(text) == reason


def test_repeated_keys_of_unknown_tables_are_skipped() -> None:
    assert read("[other]\na = 1\na = 2\n[host.m]\n")[0].host == "m"


def test_escape_that_tomllib_refuses() -> None:
    assert read('[host.a]\n[host.a.rewrite]\n"\\e" = "x"')[0].rewrites == {"\x1b": "x"}


def test_multiline_strings() -> None:
    text = "server = \"\"\"\nhttps://\\\n   a\"\"\" # end\nca = '''\n/it's''''\n"
    (root,) = read(text)
    assert root.host == "a"
    assert root.ca == ("/it's'",)


def test_no_userinfo_in_a_refusal() -> None:
    with pytest.raises(UnusableHosts) as caught:
        read("[host.'http://u:hunter2@h:p']")
    assert "hunter2" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("LOCALHOST", False),
        ("127.8.9.1", True),
        ("127.0.0.1:80", True),
        ("[::1]:5000", True),
        ("[::1]", False),  # the brackets are not taken off without a port
        ("::1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("[::1%25lo]:1", False),
        ("10.0.0.1", False),
        ("localhost.lan", False),
    ],
)
def test_localhost(name: str, local: bool) -> None:
    assert is_localhost(name) is local


@pytest.mark.parametrize(
    ("registry", "scheme", "host", "skip_verify", "https_first"),
    [
        ("docker.io", "https", "registry-1.docker.io", False, False),
        ("r.lan:5000", "https", "r.lan:5000", False, False),
        ("localhost", "https", "localhost", True, False),
        ("localhost:443", "https", "localhost:443", True, False),
        ("localhost:80", "http", "localhost:80", False, False),
        ("localhost:5000", "http", "localhost:5000", True, True),
    ],
)
def test_default_hosts(registry: str, scheme: str, host: str, skip_verify: bool, https_first: bool) -> None:
    found = default_host(registry)
    assert (found.scheme, found.host, found.path) == (scheme, host, "/v2")
    assert (found.skip_verify, found.tries_https_first) == (skip_verify, https_first)
    assert found.origin.kind == "default"


def tree(**files: str) -> HostTree:
    return HostTree.read({f"certs.d/{name}/hosts.toml": text for name, text in files.items()})


def test_lookup_takes_the_first_directory() -> None:
    found = tree(**{"r.lan_5000_": "[host.one]", "r.lan:5000": "[host.two]", "_default": "[host.three]"})
    assert [host.host for host in found.lookup("r.lan:5000").hosts] == ["one"]
    assert [host.host for host in found.lookup("R.lan:5000").hosts] == ["three"]
    assert [host.host for host in HostTree().lookup("r.lan").hosts] == ["r.lan"]


def test_the_wildcard_fills_in_the_registry() -> None:
    lookup = tree(_default='server = ""\nskip_verify = true\n[host.m]').lookup("r.lan")
    assert [(host.host, host.skip_verify, host.origin.kind) for host in lookup.hosts] == [
        ("m", False, "mirror"),
        ("r.lan", True, "default"),
    ]
    assert lookup.directory is not None
    assert lookup.directory.name == "_default"


def test_an_unusable_file_leads_to_the_registry_itself() -> None:
    lookup = tree(**{"r.lan": '[host."m"]\n"\\."="x"', "_default": "[host.m]"}).lookup("r.lan")
    assert lookup.hosts == (default_host("r.lan"),)
    assert [problem.id for problem in lookup.problems] == ["unusable-hosts-toml"]


def test_a_directory_around_another_hides_the_wildcard() -> None:
    lookup = tree(**{"r.lan/sub": "[host.m]", "_default": "[host.m]"}).lookup("r.lan")
    assert lookup.hosts == (default_host("r.lan"),)
    assert [problem.id for problem in lookup.problems] == ["empty-directory"]


def test_a_last_host_without_name_is_the_registry() -> None:
    lookup = tree(**{"docker.io": "[host.m]\n[host.'https:///v2']\n[host.'https:///v2'.rewrite]\na='b'"}).lookup(
        "docker.io"
    )
    assert [host.host for host in lookup.hosts] == ["m", "registry-1.docker.io"]
    assert lookup.hosts[-1].rewrites == {"a": "b"}


def test_only_what_is_below_certs_d_counts() -> None:
    assert directory_name("certs.d/hosts.toml") is None
    assert directory_name("hosts.toml") is None
    assert directory_name("certs.d/a/b/hosts.toml") == "a/b"
    assert HostTree.read({"certs.d/hosts.toml": ""}).directories == {}


def test_relative_paths_start_in_the_directory() -> None:
    found = HostTree.read({"certs.d/r/hosts.toml": "client = [['c', '']]"})
    assert found.directories == {
        "r": Directory(
            "r", (Host(client=((f"{DEFAULT_ROOT}/certs.d/r/c", f"{DEFAULT_ROOT}/certs.d/r"),), explicit_tls=True),)
        )
    }


PIECES = [
    *(
        "[",
        "]",
        "[host]\n",
        '[host."https://a"]\n',
        "host",
        ".",
        "=",
        '"',
        "'",
        "\\",
        "\n",
        "\r\n",
        " ",
        "\t",
        "#",
        ",",
    ),
    *("{", "}", "server", "ca", "client", "rewrite", "true", "1", "1.5", "2020-01-01", '"""', "'''", "\\u00", "a", "é"),
    *("\x00", "\x7f", "\udcff", "\ud800", 'server = ""\n', "capabilities = ['pull']\n", "_", "-", ":", "[[", "inf"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@settings(deadline=None)
@given(st.one_of(st.text(), TEXTS))
def test_nothing_but_the_documented_error(text: str) -> None:
    try:
        hosts = read(text)
    except UnusableHosts:
        return
    assert hosts
    assert all(set(host.capabilities) <= set(CAPABILITIES) for host in hosts)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_plain_documents_read_as_tomllib_reads_them(values: dict[str, str]) -> None:
    """JSON strings are TOML strings, once U+007F is escaped; there the two readers agree."""
    text = "\n".join(f"{quoted(key)} = [{quoted(value)}, {{x = {quoted(value)}}}]" for key, value in values.items())
    assert toml.read(text.encode()).root == tomllib.loads(text)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
