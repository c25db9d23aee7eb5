"""What stock containerd is told of a registries.yaml: the same places in the same order, and what is lost is said."""

from __future__ import annotations

import base64
import re
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pierhead.auth import from_registries
from pierhead.config import k3s
from pierhead.config.containerd import HostTree, default_host
from pierhead.config.containerd_files import IMPORTED, PASTED, inserted_prefix, render
from pierhead.config.k3s import Flags, K3sHosts
from pierhead.config.registries import Mirror, RegistriesConfig, Rewrite, parse
from pierhead.config.rendered import Rendered
from pierhead.config.versions import Behaviour
from pierhead.dialects import Client, manifest_url, plan_for
from pierhead.goregexp import compile_pattern
from pierhead.reference import InvalidReference, Reference
from pierhead.rewriting import replace_all
from pierhead.routing import Plan
from test_k3s_hosts import FLAGS, NAMES, REGISTRIES, text

NO_DEFAULT = Flags(disable_default_registry_endpoint=True)


def hosts_of(written: str, flags: Flags = Flags()) -> K3sHosts:
    return k3s.hosts(parse(written.encode(), "r.yaml"), flags)


def rendered(written: str, flags: Flags = Flags(), *, header_auth: bool = False) -> Rendered:
    return render(hosts_of(written, flags), header_auth=header_auth)


def texts(made: Rendered) -> dict[str, str]:
    return {file.path: file.text for file in made.files}


def tables(made: Rendered, path: str) -> dict[str, Any]:
    return tomllib.loads(texts(made)[path])


def hosts_toml(made: Rendered, registry: str) -> dict[str, Any]:
    return tables(made, f"certs.d/{registry}/hosts.toml")


def told(made: Rendered) -> list[tuple[str, str, int]]:
    return [(problem.id, problem.severity, problem.span.line if problem.span else 0) for problem in made.lost]


def reading(made: Rendered, hosts: K3sHosts, flags: Flags = Flags()) -> K3sHosts:
    """The written files as if K3s had written them."""
    return K3sHosts(hosts.config, HostTree.read(texts(made), root=flags.root))


def asked(client: Client, image: str, hosts: K3sHosts) -> list[tuple[object, ...]]:
    """Everything that decides what goes to whom, for every place in order."""
    plan: Plan = plan_for(client, image, hosts)
    return [
        (
            manifest_url(client, route, plan.reference),
            (route.scheme, route.host, route.path, route.repository, route.namespace, route.http_fallback),
            set(route.capabilities) & {"pull", "resolve"},  # K3s lets nobody push where containerd says nothing of it
            route.tls,
        )
        for route in plan.routes
    ]


def without_rewrites(config: RegistriesConfig) -> RegistriesConfig:
    return replace(config, mirrors={key: replace(each, rewrites=()) for key, each in config.mirrors.items()})


def image_of(registry: str) -> str:
    try:
        return str(Reference.parse(f"{registry}/team/app:1"))
    except InvalidReference:
        return "r.lan/team/app:1"


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=150)
@given(REGISTRIES.map(without_rewrites), FLAGS, NAMES)
def test_stock_containerd_asks_what_explain_says_of_it(config: RegistriesConfig, flags: Flags, registry: str) -> None:
    hosts, image = k3s.hosts(config, flags), image_of(registry)
    # K3s' own files would bring a default endpoint back that is off; ours do not.
    assume("default-endpoint-returns" not in {problem.id for problem in plan_for("containerd", image, hosts).problems})
    made = reading(render(hosts), hosts, flags)
    assert not [directory for directory in made.tree.directories.values() if directory.unusable]
    assert asked("containerd", image, made) == asked("containerd", image, hosts)


@settings(max_examples=150)
@given(REGISTRIES.map(without_rewrites), FLAGS, NAMES, st.booleans())
def test_stock_containerd_asks_what_k3s_asks(
    config: RegistriesConfig, flags: Flags, registry: str, header_auth: bool
) -> None:
    hosts, image = k3s.hosts(config, flags), image_of(registry)
    made = reading(render(hosts, header_auth=header_auth), hosts, flags)
    wanted = asked("k3s", image, hosts)
    assert asked("containerd", image, made) == wanted  # the default endpoint stays off where it is
    assert asked("k3s", image, made) == wanted


@given(REGISTRIES, FLAGS, st.booleans())
def test_every_file_is_toml_and_nothing_is_lost_in_silence(
    config: RegistriesConfig, flags: Flags, header_auth: bool
) -> None:
    hosts = k3s.hosts(config, flags)
    made = render(hosts, header_auth=header_auth)
    for file in made.files:
        assert tomllib.loads(file.text) is not None
    for directory in hosts.tree.directories.values():
        for host in directory.hosts:
            spans = {rule.pattern.span for rule in host.origin.rewrites.values()}
            if host.rewrites and spans and any(map(_compiles, host.rewrites)):
                assert {"rewrite-lost", "rewrite-as-path"} & {problem.id for problem in made.lost}
    assert len(set(made.lost)) == len(made.lost)


def _compiles(pattern: str) -> bool:
    try:
        return bool(compile_pattern(pattern))
    except Exception:
        return False


# What go-toml v1 reads in the name of a table: no escape, and no bracket within.
OLD_TABLE = re.compile(r"""(?m)^ *\[(?:header|host(?:\.(?:"[^"\\\[\]]*"|'[^'\[\]]*')(?:\.header)?)?)\]$""")


@given(REGISTRIES.map(without_rewrites), FLAGS)
def test_containerd_1_reads_the_tables_unless_it_is_said(config: RegistriesConfig, flags: Flags) -> None:
    made = render(k3s.hosts(config, flags))
    for file in made.files:
        if file.path.endswith("hosts.toml") and "IPv6" not in file.text:
            tables = [line for line in file.text.splitlines() if line.lstrip().startswith("[")]
            assert all(OLD_TABLE.fullmatch(line) for line in tables), tables
            assert "[host]" in tables


# ── rewrites ─────────────────────────────────────────────────────────────────────────────────────────────────────

PREFIXING = [
    ({"^(.*)$": "p/$1"}, "p"),
    ({"^(.+)$": "p/q/${1}"}, "p/q"),
    ({"(.*)": "proxy.cache/$0"}, "proxy.cache"),
    ({".*": "p/$0"}, "p"),
    ({"^": "p/"}, "p"),
    ({"^(.*)": "p/v2/$1"}, "p/v2"),
]
OTHER = [
    {},
    {"^library/(.*)$": "p/$1"},
    {"^(.*)$": "$1"},
    {"^(.*)$": "p-$1"},
    {"^(.*)$": "p/$2"},
    {"^(.*)$": "p/$1x"},
    {"^(.*)$": "p/$1/x"},
    {"^.*$": "p/$1"},
    {"^(.*)$": "../$1"},
    {"^(.*)$": "/$1"},
    {"^(.*)$": "p?q/$1"},
    {"^(.*)$": "p%2F/$1"},
    {"^(.*)$": "$1/$1"},
    {"^": "p"},
    {"$": "p/"},
    {"^(.*)$": "p/$1", "a": "b"},
]


@pytest.mark.parametrize(("rules", "prefix"), PREFIXING, ids=str)
def test_a_prefix_for_every_name(rules: dict[str, str], prefix: str) -> None:
    assert inserted_prefix(rules) == prefix


@pytest.mark.parametrize("rules", OTHER, ids=str)
def test_no_prefix_for_every_name(rules: dict[str, str]) -> None:
    assert inserted_prefix(rules) is None


PATTERNS = st.lists(st.sampled_from(["^", "$", "(", ")", ".", "*", "+", "a"]), max_size=6).map("".join)
REPLACEMENTS = st.lists(st.sampled_from(["p", "/", ".", "$1", "${1}", "$0", "$$", "$2", "?"]), max_size=4).map("".join)
REPOSITORIES = st.lists(st.sampled_from(["a", "b1", "library", "a.b", "x__y"]), min_size=1, max_size=3).map("/".join)


@given(st.one_of(PATTERNS, st.sampled_from([each for rules, _ in PREFIXING for each in rules])), REPLACEMENTS)
def test_a_prefix_is_what_the_rule_inserts(pattern: str, replacement: str) -> None:
    prefix = inserted_prefix({pattern: replacement})
    if prefix is not None:
        for name in ("a", "library/redis", "a.b/c-d/e__f"):
            assert replace_all(compile_pattern(pattern), replacement, name) == f"{prefix}/{name}"


@given(
    st.sampled_from(["m.lan", "http://m.lan:5000", "https://m.lan/x/", "m.lan/v2", "https://m.lan/a%2Fb"]),
    st.sampled_from([rules for rules, _ in PREFIXING]),
    st.sampled_from(["docker.io", "r.lan:5000", "*"]),
    REPOSITORIES,
    FLAGS,
)
def test_a_prefix_is_asked_for_as_k3s_does(
    endpoint: str, rules: dict[str, str], key: str, repository: str, flags: Flags
) -> None:
    written = tuple(Rewrite(text(pattern), text(replacement)) for pattern, replacement in rules.items())
    hosts = k3s.hosts(RegistriesConfig("r.yaml", {key: Mirror(text(key), (text(endpoint),), written)}), flags)
    reference = Reference.parse(f"{'quay.io' if key == '*' else key}/{repository}:1")
    made = render(hosts)
    asked_by_k3s, asked_by_stock = (
        [manifest_url("k3s", route, reference) for route in plan_for("k3s", str(reference), hosts).routes],
        [
            manifest_url("containerd", route, reference)
            for route in plan_for("containerd", str(reference), reading(made, hosts)).routes
        ],
    )
    assert asked_by_stock == asked_by_k3s
    assert "rewrite-lost" not in {problem.id for problem in made.lost}


def test_a_rewrite_that_is_lost_says_where_and_what_to_do() -> None:
    made = rendered("mirrors:\n  docker.io:\n    endpoint: [m, n]\n    rewrite:\n      ^library/: lib/\n      a: b\n")
    assert told(made) == [("rewrite-lost", "error", 5), ("rewrite-lost", "error", 6)]
    assert "pierhead serve" in made.lost[0].message
    assert list(hosts_toml(made, "docker.io")["host"]) == ["https://m/v2", "https://n/v2"]
    assert all(line in texts(made)["certs.d/docker.io/hosts.toml"] for line in ("(line 5)", "(line 6)"))


def test_a_prefix_is_told_as_the_path_it_has_become() -> None:
    made = rendered("mirrors: {r.lan: {endpoint: [m.lan], rewrite: {'^(.*)$': 'p/$1'}}}")
    assert told(made) == [("rewrite-as-path", "note", 1)]
    host = {"capabilities": ["pull", "resolve"], "override_path": True}
    assert hosts_toml(made, "r.lan")["host"] == {"https://m.lan/v2/p": host}


def test_a_rule_that_containerd_skips_is_nothing_to_lose() -> None:
    assert told(rendered("mirrors: {r.lan: {endpoint: [m.lan], rewrite: {'(': x}}}")) == []


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_file_for_a_mirror() -> None:
    made = rendered(
        "mirrors:\n"
        "  docker.io:\n"
        "    endpoint: ['https://m.lan:5000', 'http://n.lan/cache']\n"
        "configs:\n"
        "  'm.lan:5000':\n"
        "    tls: {ca_file: /ca.pem, cert_file: '/c \"x\".pem', key_file: /k.pem, insecure_skip_verify: true}\n"
    )
    assert texts(made)["certs.d/docker.io/hosts.toml"] == (
        "# Made by pierhead from r.yaml for containerd; make it again instead of editing it\n"
        'server = "https://registry-1.docker.io/v2"\n'
        'capabilities = ["pull", "resolve", "push"]\n'
        "\n"
        "[host]\n"
        "\n"
        '[host."https://m.lan:5000/v2"]\n'
        '  capabilities = ["pull", "resolve"]\n'
        '  ca = ["/ca.pem"]\n'
        '  client = [["/c \\"x\\".pem", "/k.pem"]]\n'
        "  skip_verify = true\n"
        "\n"
        '[host."http://n.lan/cache"]\n'
        '  capabilities = ["pull", "resolve"]\n'
        "  override_path = true\n"
    )
    assert made.lost == ()
    assert not made.holds_secrets


def test_a_default_endpoint_that_is_off_stays_off() -> None:
    made = rendered("mirrors:\n  docker.io:\n    endpoint: [m.lan, n.lan/x]\n", NO_DEFAULT)
    assert told(made) == [("default-endpoint-off", "note", 2)]
    file = hosts_toml(made, "docker.io")
    assert (file["server"], file["override_path"]) == ("https://n.lan/x", True)
    assert list(file["host"]) == ["https://m.lan/v2"]


def test_a_place_that_is_listed_twice_is_asked_twice() -> None:
    made = rendered("mirrors: {r.lan: {endpoint: ['m.lan/a%2Fb', m.lan/a/b, m.lan/a/b/]}}")
    assert list(hosts_toml(made, "r.lan")["host"]) == ["https://m.lan/a/b", "https://m.lan/a/b/", "https://m.lan/a/b//"]


def test_a_quote_in_a_host_needs_no_escape() -> None:
    tree = HostTree.read({"certs.d/r.lan/hosts.toml": "server = 'https://r'\n[host.'https://ca\"che']"})
    made = render(replace(hosts_of(""), tree=tree))
    assert "[host.'https://ca\"che/v2']" in texts(made)["certs.d/r.lan/hosts.toml"]


def test_what_k3s_cannot_say_is_not_said_here() -> None:
    made = rendered("mirrors:\n  r.lan:\n    endpoint: [m.lan]\n    rewrite: {'\\.': x}\n")
    assert told(made) == [("unusable-hosts-toml", "error", 2)]
    assert hosts_toml(made, "r.lan") == {"server": "", "host": {}}


@pytest.mark.parametrize(
    ("written", "flags", "id"),
    [
        ("mirrors: {r.lan: {endpoint: ['http://[::1]:5000']}}", Flags(), "ipv6-mirror"),
        ("mirrors: {r.lan: {endpoint: [m]}}\nconfigs: {m: {tls: {ca_file: ca.pem}}}", Flags(), "relative-path"),
        (
            "mirrors: {r.lan: {endpoint: ['http://m']}}\nconfigs: {m: {tls: {insecure_skip_verify: true}}}",
            Flags(),
            "plain-http-first",
        ),
        ("mirrors: {r.lan: {}}", Flags(embedded_registry="127.0.0.1:6443"), "embedded-registry"),
    ],
)
def test_what_only_nearly_does_the_same(written: str, flags: Flags, id: str) -> None:
    assert (id, "warning") in {(problem.id, problem.severity) for problem in rendered(written, flags).lost}


def test_relative_paths_stay_as_they_are_written() -> None:
    made = rendered("mirrors: {r.lan: {endpoint: [m]}}\nconfigs: {m: {tls: {ca_file: ca.pem, key_file: k}}}")
    host = hosts_toml(made, "r.lan")["host"]["https://m/v2"]
    assert (host["ca"], host["client"]) == (["ca.pem"], [["", "k"]])


def test_where_k3s_fails_so_does_this() -> None:
    made = rendered(f"mirrors: {{{'x' * 300}: {{endpoint: [m]}}}}")
    assert (made.files, told(made)) == ((), [("cannot-render", "error", 1)])


def test_a_release_without_certs_d_is_refused() -> None:
    hosts = k3s.hosts(parse(b"mirrors: {r.lan: {endpoint: [m]}}", "r.yaml"), Flags(), Behaviour(certs_d=False))
    assert told(render(hosts)) == [("no-certs-d", "error", 0)]


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────

LOGIN = "configs: {m.lan: {auth: {username: u, password: 'p\"\\'}}}\n"
PACKED = base64.b64encode(b'u:p"\\').decode()
MIRROR = "mirrors: {r.lan: {endpoint: [m.lan]}}\n"


def test_credentials_are_parts_of_config_toml() -> None:
    made = rendered(f"{MIRROR}{LOGIN}")
    expected = {"m.lan": {"auth": {"username": "u", "password": 'p"\\'}}}
    assert tables(made, IMPORTED)["version"] == 3
    assert tables(made, IMPORTED)["plugins"]["io.containerd.cri.v1.images"]["registry"]["configs"] == expected
    assert tables(made, PASTED)["plugins"]["io.containerd.grpc.v1.cri"]["registry"]["configs"] == expected
    assert {file.path for file in made.files if file.secret} == {IMPORTED, PASTED}
    assert told(made) == [("credentials-elsewhere", "warning", 2)]


def test_credentials_of_docker_io_stand_under_the_name_that_is_asked() -> None:
    made = rendered("configs: {docker.io: {auth: {username: u, password: p}}}")
    configs = tables(made, IMPORTED)["plugins"]["io.containerd.cri.v1.images"]["registry"]["configs"]
    assert set(configs) == {"docker.io", "registry-1.docker.io"}


def test_credentials_can_be_a_header() -> None:
    made = rendered(f"{MIRROR}{LOGIN}", header_auth=True)
    header = {"Authorization": f"Basic {PACKED}"}
    assert hosts_toml(made, "r.lan")["host"]["https://m.lan/v2"]["header"] == header
    assert "header" not in hosts_toml(made, "r.lan")
    assert hosts_toml(made, "m.lan")["header"] == header
    assert all(file.secret for file in made.files)
    assert set(told(made)) == {("credentials-in-header", "warning", 2)}


@pytest.mark.parametrize("flags", [Flags(), NO_DEFAULT])
def test_the_header_of_docker_io_is_found_under_all_of_its_names(flags: Flags) -> None:
    hub = "mirrors: {'*': {endpoint: [w.lan]}}\nconfigs: {index.docker.io: {auth: {auth: dTpw}}}"
    made = rendered(hub, flags, header_auth=True)
    read = reading(made, hosts_of(hub, flags)).lookup("docker.io").hosts
    assert [(host.host, sorted(host.header)) for host in read] == [
        ("w.lan", []),
        *([("registry-1.docker.io", ["Authorization"])] if flags == Flags() else []),
    ]


@given(REGISTRIES, FLAGS)
def test_a_header_goes_only_where_its_password_belongs(config: RegistriesConfig, flags: Flags) -> None:
    hosts = k3s.hosts(config, flags)
    tree = reading(render(hosts, header_auth=True), hosts, flags).tree
    for directory in tree.directories.values():
        for host in directory.hosts:
            for value in host.header.get("Authorization", ()):
                name = host.host or default_host(directory.name).host
                assert directory.name != "_default" or host.host
                entry = k3s.auth_for(hosts.config, name)
                credential = from_registries(entry)
                assert credential is not None
                assert value.reveal() == credential.basic


def test_the_wildcard_gets_nobodys_password() -> None:
    made = rendered(
        "mirrors: {'*': {endpoint: [w.lan]}}\nconfigs: {_default: {auth: {username: u, password: p}}}", header_auth=True
    )
    assert not made.holds_secrets


@pytest.mark.parametrize(
    ("auth", "id"),
    [
        ("{identity_token: t}", "identity-token-lost"),
        ("{auth: '%%%'}", "credentials-lost"),
        ("{auth: dXNlcg==}", "credentials-lost"),
        ("{username: u}", "credentials-lost"),
        ("{password: p}", "credentials-lost"),
    ],
)
def test_credentials_that_are_no_header(auth: str, id: str) -> None:
    made = rendered(f"configs:\n  m.lan: {{auth: {auth}}}\n", header_auth=True)
    assert told(made) == [(id, "error", 2)]
    assert "header" not in hosts_toml(made, "m.lan")


def test_clear_text_is_said() -> None:
    made = rendered(f"mirrors: {{r.lan: {{endpoint: ['http://m.lan']}}}}\n{LOGIN}", header_auth=True)
    assert sum("in clear text" in problem.message for problem in made.lost) == 1


def test_credentials_that_toml_cannot_hold() -> None:
    made = rendered("configs:\n  m.lan: {auth: {username: u, password: !!binary /w==}}\n")
    assert told(made) == [("credentials-lost", "error", 2)]
    assert IMPORTED not in texts(made)


def test_no_credentials_no_parts() -> None:
    assert list(texts(rendered("configs: {m.lan: {auth: {}}}"))) == ["certs.d/m.lan/hosts.toml"]


@given(st.text(min_size=1), st.text(min_size=1).filter(str.strip), st.booleans())
def test_no_password_is_shown(user: str, password: str, header_auth: bool) -> None:
    secret = f"hidden-{base64.b64encode(password.encode('utf-8', 'surrogatepass')).decode()}-hidden"
    packed = base64.b64encode(f"user:{secret}".encode()).decode()
    config = f"{MIRROR}configs:\n  m.lan: {{auth: {{username: user, password: '{secret}'}}}}\n"
    made = rendered(f"{config}  n.lan: {{auth: {{auth: {packed}}}}}\n", header_auth=header_auth)
    open_to_all = "".join(file.text for file in made.files if not file.secret) + repr(made) + str(made.lost)
    assert secret not in open_to_all
    assert packed not in open_to_all
    assert any(secret in file.text or packed in file.text for file in made.files)
