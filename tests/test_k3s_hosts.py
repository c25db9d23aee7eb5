"""What K3s gives containerd: every recorded file, log line, host and credential, and the law that ties them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.config.containerd import Directory, Host, HostTree
from pierhead.config.k3s import Flags, K3sHosts, auth_for, credentials, hosts, render
from pierhead.config.k3sfile import CannotRender
from pierhead.config.registries import (
    Auth,
    Config,
    Mirror,
    RegistriesConfig,
    Rewrite,
    SecretText,
    Text,
    Tls,
    UnusableConfig,
    parse,
)
from pierhead.errors import Span
from pierhead.redact import Secret

CASES = json.loads((Path(__file__).parent / "vectors" / "k3s-files.json").read_text(encoding="utf-8"))
ACCEPTED = [case for case in CASES if case["exit"] == 0]


def read(text: str) -> RegistriesConfig:
    return parse(text.encode(), "r.yaml")


def loaded(case: dict[str, Any]) -> tuple[RegistriesConfig, Flags]:
    data = base64.b64decode(case["yaml_base64"]) if "yaml_base64" in case else case["yaml"].encode()
    return parse(data, "r.yaml"), Flags(**case["flags"])


def given_hosts(text: str, **flags: Any) -> K3sHosts:
    return hosts(read(text), Flags(**flags))


def as_recorded(host: Host, root: str) -> dict[str, Any]:
    always = {"scheme": host.scheme, "host": host.host, "path": host.path, "capabilities": list(host.capabilities)}
    sometimes = {
        "ca": [path.replace(root, "<out>") for path in host.ca],
        "client": [[path.replace(root, "<out>") for path in pair] for pair in host.client],
        "skip_verify": host.skip_verify,
        "rewrites": dict(host.rewrites),
    }
    return always | {name: value for name, value in sometimes.items() if value}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_recorded_files(case: dict[str, Any]) -> None:
    config, flags = loaded(case)
    error = None
    files: dict[str, str] = {}
    try:
        files = dict(render(config, flags))
    except UnusableConfig:
        assert config.go_error is not None
        error = config.go_error.reveal()
    except CannotRender as failed:
        error = failed.message
        assert hosts(config, flags).error == error
    assert (files, error) == (case["files"], case["error"])


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["id"])
def test_recorded_hosts(case: dict[str, Any]) -> None:
    config, flags = loaded(case)
    tree = hosts(config, flags).tree
    wanted = {
        path.removeprefix("certs.d/").removesuffix("/hosts.toml"): reading
        for path, reading in case.get("containerd_reads", {}).items()
        if path != "certs.d/hosts.toml"  # no image's registry leads there
    }
    for name, reading in wanted.items():
        directory = tree.directories[name]
        if isinstance(reading, dict):
            assert directory.unusable == reading["error"]
        else:
            assert [as_recorded(host, flags.root) for host in directory.hosts] == reading
    assert {name for name, found in tree.directories.items() if found.hosts or found.unusable} == set(wanted)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["id"])
def test_recorded_log(case: dict[str, Any]) -> None:
    config, flags = loaded(case)
    found = hosts(config, flags)
    assert sorted(line.reveal() for line in found.log) == case["stderr_warnings"]
    said = {problem.id for problem in found.problems}
    for line in case["stderr_warnings"]:
        assert {"Ign": "invalid-endpoint", "Ski": "duplicate-endpoint", "Fai": "invalid-registry"}[
            line.split(": ")[1][:3]
        ] in said


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["id"])
def test_recorded_credentials(case: dict[str, Any]) -> None:
    config, flags = loaded(case)
    written = credentials(hosts(config, flags).config)
    assert {key: {name: value.reveal() for name, value in fields.items()} for key, fields in written.items()} == case[
        "auth"
    ]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["id"])
def test_every_endpoint_is_a_host_or_skipped(case: dict[str, Any]) -> None:
    config, flags = loaded(case)
    found = hosts(config, flags)
    asked = [host.origin.endpoint for directory in found.tree.directories.values() for host in directory.hosts]
    skipped = [skip.endpoint for skip in found.skipped]
    for mirror in found.config.mirrors.values():
        if "certs.d/hosts.toml" in case["files"]:
            continue  # written where no lookup leads
        for text in mirror.endpoints:
            if text.span.file != "<flags>":
                assert sum(text is other for other in [*asked, *skipped]) == 1


# -- the law ----------------------------------------------------------------------------------------------------------

HERE = Span("r.yaml", 1)
NASTY = [
    "",
    " ",
    "/",
    "\\",
    '"',
    "'",
    "\n",
    "\r\n",
    "\t",
    "\x00",
    "\x7f",
    "\x85",
    "é",
    "😀",
    "\udcff",
    "#",
    "%41",
    "\\u0041",
]
NAMES = st.one_of(
    st.sampled_from(
        ["docker.io", "r.lan", "r.lan:5000", "*", "_default", "localhost:5000", "r.lan_5000_", "[::1]:5000"]
    ),
    st.sampled_from(
        ["", ".", "..", "///", "r.lan/", "https://r.lan", "r.lan/sub", "::1", "a b", "../../x", "127.0.0.1:6443"]
    ),
    st.lists(st.sampled_from([*NASTY, "r", ".lan", ":5", "@"]), max_size=5).map("".join),
)
ENDPOINTS = st.one_of(
    st.sampled_from(
        ["docker.io", "https://registry-1.docker.io", "m.lan", "HTTPS://m.lan/v2", "http://m.lan:5000/hub/"]
    ),
    st.sampled_from(
        ["", "/v2", "https:///x", "::1", "https://u:p@m.lan", "m.lan/x?y=\\d#f", 'https://m"x', "h:port", "r.lan"]
    ),
    st.sampled_from(['m?"] #', 'm?x"].rewrite]', "m?\\u0061", "m?a", "127.0.0.1:6443", "m/%2F/..", "m/%76%32"]),
    st.lists(st.sampled_from([*NASTY, "https", "://", "m", ":1", "?", "/v2", "[", "]", "@"]), max_size=6).map("".join),
)
RULES = st.one_of(
    st.sampled_from(
        ["^a/(.*)", "b/$1", "\\\\.", "\\.", "\\d", "\\u0061", "a", '"', 'a" = "b"\n[host."https://evil"]\n"x', "\\e"]
    ),
    st.lists(st.sampled_from([*NASTY, "a", "(", ".*", "$1"]), max_size=4).map("".join),
)
PATHS = st.one_of(st.none(), st.sampled_from(["/ca.pem", "rel/b.pem", "/x y", "/\x7f", '/"', "/é\u2028", "/\udcff"]))


def text(value: str) -> Text:
    return Text(value, HERE)


def optional(value: str | None) -> Text | None:
    return text(value) if value else None


MIRRORS = st.builds(
    lambda endpoints, rules: (tuple(map(text, endpoints)), tuple(Rewrite(text(a), text(b)) for a, b in rules.items())),
    st.lists(ENDPOINTS, max_size=4),
    st.dictionaries(RULES, RULES, max_size=3),
)
AUTHS = st.builds(
    lambda name, password: Auth(optional(name), SecretText(Secret(password), HERE), None, None, HERE), RULES, RULES
)
TLS = st.builds(
    lambda ca, certificate, key, skip: Tls(optional(ca), optional(certificate), optional(key), skip, HERE),
    PATHS,
    PATHS,
    PATHS,
    st.booleans(),
)
CONFIGS = st.tuples(st.none() | AUTHS, st.none() | TLS)
REGISTRIES = st.builds(
    lambda mirrors, configs: RegistriesConfig(
        "r.yaml",
        {name: Mirror(text(name), *parts) for name, parts in mirrors.items()},
        {name: Config(text(name), *parts) for name, parts in configs.items()},
    ),
    st.dictionaries(NAMES, MIRRORS, max_size=4),
    st.dictionaries(NAMES, CONFIGS, max_size=3),
)
FLAGS = st.builds(Flags, st.booleans(), st.sampled_from([None, None, "127.0.0.1:6443", "[::1]:6443"]), st.just("k3s"))


@settings(deadline=None)
@given(REGISTRIES, FLAGS)
def test_hosts_are_what_containerd_reads_from_the_files(config: RegistriesConfig, flags: Flags) -> None:
    found = hosts(config, flags)
    assert found.error is None
    files = render(config, flags)
    assert found.tree == HostTree.read(files, root=flags.root)
    assert all(line.endswith("\n") for line in files.values())


@settings(deadline=None)
@given(REGISTRIES, FLAGS, NAMES)
def test_lookups_end_somewhere_and_hide_nothing(config: RegistriesConfig, flags: Flags, registry: str) -> None:
    found = hosts(config, flags)
    lookup = found.lookup(registry)
    assert lookup.hosts
    assert lookup.hosts[-1].host or not registry
    assert all(skip in found.skipped for skip in found.skipped_for(lookup))
    for host in lookup.hosts:
        assert set(host.origin.rewrites) <= set(host.rewrites)


# -- by the specification ---------------------------------------------------------------------------------------------


def test_hosts_know_where_they_come_from() -> None:
    found = given_hosts(
        "mirrors:\n"
        "  docker.io:\n"
        "    endpoint: [m.lan, docker.io]\n"
        "    rewrite: {'z\\\\\\\\.': q, a: b}\n"
        "configs:\n"
        "  m.lan: {tls: {ca_file: /ca}}\n"
        "  docker.io: {tls: {insecure_skip_verify: true}}\n"
    )
    mirror, default = found.lookup("docker.io").hosts
    assert mirror.origin.kind == "mirror"
    assert mirror.origin.endpoint is not None
    assert str(mirror.origin.endpoint.span) == "r.yaml:3:16"
    assert mirror.origin.config is not None
    assert mirror.origin.config.key.value == "m.lan"
    assert mirror.rewrites == {"z\\\\.": "q", "a": "b"}
    assert list(mirror.rewrites) == list(mirror.origin.rewrites)
    assert default.origin.kind == "default"
    assert default.origin.endpoint is not None
    assert default.skip_verify
    assert default.rewrites == {}
    assert [problem.id for problem in found.problems] == ["rewrites-not-for-default"]


def test_rules_keep_the_order_of_the_document() -> None:
    found = given_hosts(r"mirrors: {r: {endpoint: [m], rewrite: {z: '1', 'b\\.': '2', a: '3'}}}")
    host = found.lookup("r").hosts[0]
    assert list(host.rewrites) == ["z", "b\\.", "a"]
    assert [rule.pattern.value for rule in host.origin.rewrites.values()] == ["z", "b\\\\.", "a"]


def test_a_rule_can_make_a_host_of_its_own() -> None:
    injected = 'a" = "b"\n[host."https://evil"]\n"x'
    config = RegistriesConfig("r.yaml", {"r": Mirror(text("r"), (text("m"),), (Rewrite(text(injected), text("c")),))})
    names = [(host.host, host.origin.endpoint) for host in hosts(config).tree.directories["r"].hosts]
    assert names == [("m", text("m")), ("evil", None), ("r", None)]


def test_skipped_endpoints_have_a_reason() -> None:
    found = given_hosts(
        "mirrors:\n"
        "  r: {endpoint: ['h:port', m, 'https://m/v2']}\n"
        "  's p': {endpoint: [m]}\n"
        "  q: {endpoint: [q]}\n"
        "  u: {endpoint: [m], rewrite: {'\\.': x}}\n"
        "  d: {endpoint: [m]}\n",
        disable_default_registry_endpoint=False,
    )
    assert [
        (skip.mirror.value, skip.endpoint.value if skip.endpoint else None, skip.reason) for skip in found.skipped
    ] == [
        ("r", "h:port", "invalid-url"),
        ("r", "https://m/v2", "duplicate"),
        ("s p", "m", "invalid-registry"),
        ("q", "q", "only-default"),
        ("u", "m", "unusable-file"),
    ]
    assert [skip.reason for skip in found.skipped_for(found.lookup("r"))] == ["invalid-url", "duplicate"]
    unusable = next(problem for problem in found.problems if problem.id == "unusable-hosts-toml")
    assert str(unusable.span) == "r.yaml:5:32"


def test_a_disabled_default_is_said_only_where_it_is_true() -> None:
    found = given_hosts(
        "mirrors:\n"
        "  a: {endpoint: [m]}\n"
        "  empty: {endpoint: [m, '']}\n"
        "  bad: {endpoint: ['h:port']}\n"
        "  own: {endpoint: [m]}\n"
        "configs: {own: {}}\n",
        disable_default_registry_endpoint=True,
    )
    assert [skip.mirror.value for skip in found.skipped if skip.reason == "default-disabled"] == ["a"]
    assert [host.host for host in found.lookup("a").hosts] == ["m"]
    assert [host.host for host in found.lookup("empty").hosts] == ["m", "empty"]
    assert [host.host for host in found.lookup("bad").hosts] == ["bad"]
    assert [host.host for host in found.lookup("own").hosts] == ["m", "own"]
    stays = [problem for problem in found.problems if problem.id == "default-endpoint-stays"]
    assert {str(problem.span) for problem in stays} == {"r.yaml:4:3", "r.yaml:5:3"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mirrors: {'*': {endpoint: [m]}, _default: {endpoint: [n]}}", "ambiguous-directory"),
        ("mirrors: {r: {endpoint: [m]}, 'r/': {endpoint: [n]}}", "ambiguous-directory"),
        ("mirrors: {'*': {endpoint: [m]}}\nconfigs: {'*': {tls: {}}}", "wildcard-tls-lost"),
        ("mirrors: {'https://r': {endpoint: [m]}}", "key-never-matches"),
        ("mirrors: {'..': {endpoint: [m]}}", "destructive-key"),
        ("mirrors: {'': {endpoint: [m]}}", "destructive-key"),
        ('configs: {r: {auth: {password: "\\x7f"}}}', "containerd-does-not-start"),
        ('configs: {r: {auth: {username: "\\a"}}}', "containerd-does-not-start"),
        ('configs: {"r\'": {auth: {}}}', "containerd-does-not-start"),
        ("configs: {'r:x': {tls: {}}}", "invalid-registry"),
    ],
)
def test_hazards_are_problems(text: str, problem: str) -> None:
    assert problem in [found.id for found in given_hosts(text).problems]


def test_a_name_that_no_directory_can_have() -> None:
    name = "r" * 300
    with pytest.raises(CannotRender) as caught:
        render(read(f"mirrors: {{{name}: {{endpoint: [m]}}}}"), Flags(data_dir="/d"))
    assert caught.value.message == f"mkdir /d/agent/etc/containerd/certs.d/{name}: file name too long"


@pytest.mark.parametrize(("length", "fits"), [(65_535, True), (65_536, False)])
def test_the_longest_line(length: int, fits: bool) -> None:
    pattern = "a" * (length - len('    "" = "b"'))
    found = given_hosts(f"mirrors: {{r: {{endpoint: [m], rewrite: {{? {pattern} : b}}}}}}")
    assert (found.error is None) is fits


def test_credentials_by_host() -> None:
    config = read(
        "configs:\n"
        "  docker.io: {auth: {username: hub}}\n"
        "  registry-1.docker.io: {tls: {}}\n"
        "  index.docker.io: {auth: {username: index}}\n"
        "  m.lan: {auth: {username: m}}\n"
        "  '*': {auth: {username: star}}\n"
    )

    def key(host: str) -> str | None:
        entry = auth_for(config, host)
        return entry.key.value if entry else None

    assert key("registry-1.docker.io") == "docker.io"
    assert key("index.docker.io") == "index.docker.io"
    assert key("m.lan") == "m.lan"
    assert key("m.lan:443") is None
    assert key("other") is None
    empty = read("configs: {docker.io: {auth: {username: u}}, registry-1.docker.io: {auth: {}}}")
    found = auth_for(empty, "registry-1.docker.io")
    assert found is not None
    assert found.key.value == "registry-1.docker.io"


def test_the_embedded_registry_replaces_an_entry_of_its_own_address() -> None:
    found = given_hosts(
        "mirrors: {docker.io: {endpoint: [m], rewrite: {a: b}}, 'localhost:5000': {endpoint: [m]}}\n"
        "configs: {'127.0.0.1:6443': {auth: {username: u}}}\n",
        embedded_registry="127.0.0.1:6443",
    )
    assert auth_for(found.config, "127.0.0.1:6443") is None
    embedded, mirror, _ = found.lookup("docker.io").hosts
    assert (embedded.origin.kind, dict(embedded.rewrites)) == ("embedded", {})
    assert (mirror.origin.kind, dict(mirror.rewrites)) == ("mirror", {"a": "b"})
    assert [host.host for host in found.lookup("localhost:5000").hosts] == ["m", "localhost:5000"]


def test_nothing_is_made_of_an_unusable_file() -> None:
    for make in (hosts, render):
        with pytest.raises(UnusableConfig):
            make(read("mirrors: []"))


def test_no_secret_shows() -> None:
    found = given_hosts(
        "mirrors: {docker.io: {endpoint: ['https://u:hunter2@m', 'https://u:hunter2@m', 'https://u:hunter2@h:p']}}\n"
        "configs: {'u:hunter2@h': {auth: {password: hunter2}}}\n"
    )
    assert "hunter2" not in repr(found)
    assert "hunter2" not in " ".join([problem.message for problem in found.problems])


def test_a_tree_of_directories_equals_itself_without_origins() -> None:
    assert Directory("r", (Host(host="m"),), key=text("r")) == Directory("r", (Host(host="m"),))


def test_an_endpoint_that_a_quote_swallows_is_skipped() -> None:
    """Two lines `"^a/(.*)" = \"\"\"` make one long text in TOML, and what stands between them is part of it."""
    found = given_hosts("""
mirrors:
  docker.io:
    endpoint: ["https://docker.io", "https://m.lan"]
    rewrite: {"^a/(.*)": '"'}
""")
    lookup = found.lookup("docker.io")
    assert "m.lan" not in {host.host for host in lookup.hosts}
    assert [(skip.endpoint.value, skip.reason) for skip in found.skipped_for(lookup) if skip.endpoint] == [
        ("https://m.lan", "unusable-file")
    ]
