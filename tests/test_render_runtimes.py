"""What other runtimes are told of a registries.yaml: read back by other parsers, and by models of those runtimes."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pierhead.config import authjson, buildkit, containerd_files, docker, features, k3d, k3s_files, podman
from pierhead.config.containerd import HostTree
from pierhead.config.features import FEATURES, RUNTIMES, Feature, Runtime, verdict
from pierhead.config.k3s import Flags, K3sHosts, hosts, render
from pierhead.config.places import Prefix, as_prefix
from pierhead.config.registries import RegistriesConfig, parse
from pierhead.config.rendered import File, Rendered
from pierhead.config.versions import K3sVersion, behaviour
from pierhead.files import parts_of
from pierhead.gourl import path_clean
from pierhead.reference import Reference
from pierhead.rewriting import Rule, compile_pattern, replace_all, rewrite

OFF = Flags(disable_default_registry_endpoint=True)
RENDERERS: dict[str, Callable[[K3sHosts], Rendered]] = {
    "docker": docker.render,
    "podman": podman.render,
    "buildkit": buildkit.render,
    "k3d": k3d.render,
    "auth": authjson.render,
}


def read(text: str | dict[str, Any], flags: Flags = Flags()) -> K3sHosts:
    if not isinstance(text, str):
        text = json.dumps(text)
    config = parse(text.encode(), "registries.yaml")
    assert config.error is None, config.error
    return hosts(config, flags)


def file(rendered: Rendered, path: str) -> File:
    (found,) = [each for each in rendered.files if each.path == path]
    return found


def paths(rendered: Rendered) -> list[str]:
    return [each.path for each in rendered.files]


def lost(rendered: Rendered) -> list[tuple[str, str, int]]:
    return [(each.severity, each.id, each.span.line if each.span else 0) for each in rendered.lost]


def conf(rendered: Rendered) -> list[dict[str, Any]]:
    """The tables of registries.conf."""
    document = tomllib.loads(file(rendered, "registries.conf").text)
    assert document.pop("unqualified-search-registries") == ["docker.io"]
    tables: list[dict[str, Any]] = document.pop("registry", [])
    assert document == {}
    return tables


def buildkitd(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(file(rendered, "buildkitd.toml").text).get("registry", {})
    return found


def daemon(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file(rendered, "daemon.json").text)
    return found


def auths(rendered: Rendered, path: str = "auth.json") -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(file(rendered, path).text)["auths"]
    return found


def account(pair: str) -> str:
    return base64.b64encode(pair.encode()).decode()


# ── the table of features ────────────────────────────────────────────────────────────────────────────────────────


def told(feature: Feature, runtime: Runtime) -> Rendered:
    known = read(feature.yaml, feature.flags)
    if runtime == "k3d":
        return k3d.render(known, feature.flags)
    if runtime == "containerd":
        return containerd_files.render(known)
    return RENDERERS[runtime](known)


@pytest.mark.parametrize("runtime", [runtime for runtime in RUNTIMES if runtime != "k3s"])
@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_a_cell_is_what_the_renderer_reports(feature: Feature, runtime: Runtime) -> None:
    report = told(feature, runtime).lost
    assert verdict(report) == feature.cell(runtime), [problem.message for problem in report]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_k3s_is_told_everything(feature: Feature) -> None:
    known = read(feature.yaml, feature.flags)
    config = parse(feature.yaml.encode(), "registries.yaml")
    assert feature.cell("k3s") == verdict(k3s_files.render(config, feature.flags).lost)
    assert HostTree.read(render(config, feature.flags), root=feature.flags.root) == known.tree
    assert known.problems == ()


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
@pytest.mark.parametrize("runtime", ["docker", "podman", "buildkit", "k3d"])
def test_nothing_is_lost_without_its_line(feature: Feature, runtime: Runtime) -> None:
    for problem in told(feature, runtime).lost:
        assert problem.span is not None, problem
        assert problem.message[0].islower(), problem
        assert not problem.message.endswith("."), problem
        assert problem.id.startswith(f"{runtime}-")


def test_the_table_has_a_row_for_every_feature() -> None:
    head, rule, *rows = features.table()
    assert head == "| feature | K3s, RKE2 | containerd | docker | podman, skopeo | k3d | BuildKit |"
    assert rule == "|---|---|---|---|---|---|---|"
    assert [row.split(" | ")[0] for row in rows] == [f"| {feature.name}" for feature in FEATURES]
    assert {row.count("|") for row in rows} == {8}
    assert "| wildcard mirror | exact | exact | lost | lost | exact | lost |" in rows


# ── podman ───────────────────────────────────────────────────────────────────────────────────────────────────────


def mirrored(*endpoints: str, registry: str = "docker.io", rewrite: dict[str, str] | None = None) -> dict[str, Any]:
    return {"mirrors": {registry: {"endpoint": list(endpoints), "rewrite": rewrite or {}}}}


def test_podman_splits_the_names_that_are_rewritten() -> None:
    made = podman.render(
        read(mirrored("https://a:5000", "https://b/v2/hub", rewrite={"^rancher/(.*)": "m/r/$1", "^library/": ""}))
    )
    assert conf(made) == [
        {
            "prefix": "docker.io",
            "location": "docker.io",
            "mirror": [{"location": "a:5000"}, {"location": "b:443/hub"}],
        },
        {
            "prefix": "docker.io/library",
            "location": "docker.io/library",
            "mirror": [{"location": "a:5000"}, {"location": "b:443/hub"}],
        },
        {
            "prefix": "docker.io/rancher",
            "location": "docker.io/rancher",
            "mirror": [{"location": "a:5000/m/r"}, {"location": "b:443/hub/m/r"}],
        },
    ]
    assert made.lost == ()


def test_podman_asks_the_last_mirror_as_the_registry_if_that_is_disabled() -> None:
    made = podman.render(read(mirrored("https://a.lan", "http://b.lan", registry="quay.io"), OFF))
    table = {"prefix": "quay.io", "location": "b.lan", "insecure": True, "mirror": [{"location": "a.lan"}]}
    assert conf(made) == [table]


@pytest.mark.parametrize("flags", [Flags(), OFF])
def test_podman_asks_a_registry_by_plain_http_in_its_own_name(flags: Flags) -> None:
    made = podman.render(read(mirrored("http://reg.lan:5000", registry="reg.lan:5000"), flags))
    assert conf(made) == [{"prefix": "reg.lan:5000", "location": "reg.lan:5000", "insecure": True}]
    assert lost(made) == [("warning", "podman-insecure", 1)]


def test_podman_needs_no_table_for_a_registry_with_a_login_alone() -> None:
    assert conf(podman.render(read("configs: {m.lan: {auth: {username: u, password: p}}}"))) == []


def test_podman_leaves_a_mirror_out_where_its_names_are_unknown() -> None:
    rules = {"^team/(.*)": "t/$1", "^([a-z]+)-x/(.*)$": "$1/$2"}
    made = podman.render(read(mirrored("https://a.lan", registry="quay.io", rewrite=rules), OFF))
    assert conf(made) == [
        {"prefix": "quay.io", "location": "quay.io", "blocked": True},
        {"prefix": "quay.io/team", "location": "a.lan/t"},
    ]
    assert [each for each in lost(made) if each[0] == "error"] == [("error", "podman-rewrite", 1)]


def test_podman_files_are_those_of_the_hosts_and_secret_where_they_hold_secrets() -> None:
    text = """\
mirrors:
  docker.io:
    endpoint: [https://cache, "https://m.lan:5000"]
configs:
  cache:
    auth: {identity_token: t0ken}
    tls: {ca_file: /etc/ssl/ca.pem}
  "m.lan:5000":
    auth: {username: me, password: "a:b"}
    tls: {ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem}
  docker.io:
    auth: {auth: aHViOnB3}
"""
    made = podman.render(read(text))
    copies = {each.path: (each.copy_of, each.mode) for each in made.files if each.copy_of}
    assert copies == {
        "certs.d/cache:443/ca.crt": ("/etc/ssl/ca.pem", 0o644),
        "certs.d/m.lan:5000/ca.crt": ("/ca.pem", 0o644),
        "certs.d/m.lan:5000/client.cert": ("/c.pem", 0o644),
        "certs.d/m.lan:5000/client.key": ("/k.pem", 0o600),
    }
    token = {"auth": account("<token>:"), "identitytoken": "t0ken"}
    assert auths(made) == {
        "cache": token,
        "cache:443": token,
        "cache:80": token,
        "m.lan:5000": {"auth": account("me:a:b")},
        "docker.io": {"auth": account("hub:pw")},
    }
    assert file(made, "auth.json").mode == 0o600
    assert file(made, "registries.conf").mode == 0o644


def test_podman_says_what_a_prefix_takes_besides() -> None:
    rules = {"^team/(.*)": "t/$1", "(?=never)": "$1"}  # the second is no pattern for Go: containerd skips it
    made = podman.render(read(mirrored("https://a.lan", registry="quay.io", rewrite=rules)))
    assert lost(made) == [("note", "podman-port", 1), ("note", "podman-whole", 1)]
    made = podman.render(read(mirrored("https://a.lan", rewrite=rules)))
    assert lost(made) == []


@pytest.mark.parametrize(
    ("endpoint", "rule", "wanted"),
    [
        ("https://a.lan/v2/Hub", {}, "podman-host"),
        ("https://a_b.lan", {}, "podman-host"),
        ("https://a.lan/hub", {}, "podman-path"),
        ("https://a.lan", {"(.*)": "Hub/$1"}, "podman-rewrite"),
        ("https://a.lan", {"^Team/(.*)": "hub/$1"}, "podman-rewrite"),
    ],
)
def test_podman_is_told_of_no_place_that_it_cannot_parse(endpoint: str, rule: dict[str, str], wanted: str) -> None:
    """A location that it cannot parse would fail every pull of the registry."""
    made = podman.render(read(mirrored(endpoint, rewrite=rule)))
    assert lost(made) == [("error", wanted, 1)]
    assert conf(made) == []


@dataclass(frozen=True)
class Asked:
    """One request for a manifest, as far as a runtime's configuration decides it."""

    host: str
    repository: str


def by_k3s(known: K3sHosts, registry: str, repository: str) -> list[Asked]:
    """What K3s' containerd asks."""
    asked = []
    for host in known.lookup(registry).hosts:
        rules = [Rule(pattern, text) for pattern, text in host.rewrites.items()]
        name = f"{host.path}/{rewrite(rules, repository).repository}"
        asked.append(Asked(host.host, name.removeprefix("/v2/")))
    return asked


def by_containers(tables: list[dict[str, Any]], registry: str, repository: str) -> list[Asked]:
    """What containers/image asks: the longest prefix wins, the rest of the name goes behind each location."""
    name = f"{registry}/{repository}"
    matching = [each for each in tables if name == each["prefix"] or name.startswith(f"{each['prefix']}/")]
    table = max(matching, key=lambda each: len(each["prefix"]), default={"prefix": registry, "location": registry})
    if table.get("blocked"):
        return []
    locations = [each["location"] for each in (*table.get("mirror", []), table)]
    moved = [location + name.removeprefix(table["prefix"]) for location in locations]
    return [Asked(host, rest) for host, _, rest in (each.partition("/") for each in moved)]


HOSTS = ("a.lan", "b.lan:5000", "127.0.0.1:5000", "docker.io")
RULES = {
    "^rancher/(.*)": "mirror/rancher/$1",
    "^rancher/(.*)$": "${1}",
    "^rancher/": "r/",
    "^library/(.+)$": "hub/$1",
    "(.*)": "all/$1",
    "^(.*)$": "",
    "^": "front/",
    "^a/b/(.*)": "ab/$1",
    r"^k8s[.]io/": "k8s/",
}
NAMES = st.sampled_from(
    [
        "rancher/pause",
        "rancher/x/y",
        "library/redis",
        "rancherish/z",
        "a/b/c",
        "a/bc",
        "k8s.io/p",
        "rancher",
        "team/app",
    ]
)


@st.composite
def configurations(draw: st.DrawFn, endpoint: st.SearchStrategy[str]) -> dict[str, Any]:
    """Mirrors of one or two registries; of several rules of a mirror none covers another's names."""
    mirrors = {}
    for registry in draw(st.lists(st.sampled_from(["docker.io", "quay.io", "reg.lan:5000"]), min_size=1, unique=True)):
        endpoints = draw(st.lists(endpoint, min_size=1, max_size=3, unique=True))
        rules = draw(st.lists(st.sampled_from(sorted(RULES)), max_size=2, unique=True))
        prefixes = [as_prefix(rule, RULES[rule]) for rule in rules]
        known = [prefix for prefix in prefixes if prefix is not None]
        assume(len(known) == len(rules))
        assume(len(known) < 2 or not (known[0].covers(known[1].source) or known[1].covers(known[0].source)))
        mirrors[registry] = {"endpoint": endpoints, "rewrite": {rule: RULES[rule] for rule in rules}}
    return {"mirrors": mirrors}


SECURE = st.builds("https://{}{}".format, st.sampled_from(HOSTS[:2]), st.sampled_from(["", "/v2", "/v2/p", "/v2/p/q/"]))


def is_reference(asked: Asked) -> bool:
    """An empty name, or one that is no name: containerd asks for it in vain, containers/image refuses it."""
    return asked.repository != "" and not asked.repository.endswith("/")


@settings(max_examples=150)
@given(configurations(SECURE), st.sampled_from(["docker.io", "quay.io", "reg.lan:5000"]), NAMES, st.booleans())
def test_podman_asks_what_k3s_asks(text: dict[str, Any], registry: str, name: str, disabled: bool) -> None:
    known = read(text, OFF if disabled else Flags())
    made = podman.render(known)
    assert {problem.severity for problem in made.lost} <= {"note"}
    wanted = [Asked(each.host.replace("registry-1.", ""), each.repository) for each in by_k3s(known, registry, name)]
    assume(all(map(is_reference, wanted)))
    # `prefix` takes a repository of just that name as well, which a rule with a slash behind it does not.
    assume(name != "rancher")
    assert by_containers(conf(made), registry, name) == wanted


# ── BuildKit ─────────────────────────────────────────────────────────────────────────────────────────────────────


def by_buildkit(tables: dict[str, Any], registry: str, repository: str) -> list[tuple[Asked, str]]:
    """What buildkitd asks and how; resolver.go: NewRegistryConfig, extractMirrorHostAndPath."""
    asked = []
    for mirror in tables.get(registry, {}).get("mirrors", []):
        host, _, path = mirror.partition("/")
        asked.append((Asked(host, f"{path}/{repository}".lstrip("/")), host))
    own = "registry-1.docker.io" if registry == "docker.io" else registry
    asked.append((Asked(own, repository), registry))
    return [(each, "http" if tables.get(name, {}).get("http") else "https") for each, name in asked]


BUILDKIT_RULES = ("(.*)", "^(.*)$", "^")


@settings(max_examples=100)
@given(
    st.lists(
        st.builds("{}://{}{}".format, st.sampled_from(["http", "https"]), st.sampled_from(HOSTS[:2]), st.just("/v2/p")),
        min_size=1,
        unique_by=lambda url: url.split("/")[2],
    ),
    st.sampled_from([None, "(.*)"]),
    st.sampled_from(["docker.io", "reg.lan:5000"]),
    NAMES,
)
def test_buildkit_asks_what_k3s_asks(endpoints: list[str], rule: str | None, registry: str, name: str) -> None:
    known = read(mirrored(*endpoints, registry=registry, rewrite={rule: "all/$1"} if rule else {}))
    made = buildkit.render(known)
    assert made.lost == ()
    schemes = [host.scheme for host in known.lookup(registry).hosts]
    wanted = list(zip(by_k3s(known, registry, name), schemes, strict=True))
    assert by_buildkit(buildkitd(made), registry, name) == wanted


def test_buildkit_tables() -> None:
    text = """\
mirrors:
  docker.io: {endpoint: ["https://m.lan:5000", "http://plain.lan", "http://both.lan:5000"]}
  "reg.lan:5000": {endpoint: ["http://reg.lan:5000"]}
configs:
  "m.lan:5000": {tls: {ca_file: '/a "b"/\\c.pem', cert_file: /c.pem, key_file: /k.pem}}
  plain.lan: {auth: {username: u, password: p}}
  "both.lan:5000": {tls: {insecure_skip_verify: true}}
  docker.io: {tls: {ca_file: /proxy.pem}}
"""
    made = buildkit.render(read(text))
    assert buildkitd(made) == {
        "docker.io": {"mirrors": ["m.lan:5000", "plain.lan", "both.lan:5000"], "ca": ["/proxy.pem"]},
        "m.lan:5000": {"ca": ['/a "b"/\\c.pem'], "keypair": [{"key": "/k.pem", "cert": "/c.pem"}]},
        "plain.lan": {"http": True},
        "both.lan:5000": {"http": True, "insecure": True},
        "reg.lan:5000": {"http": True},
    }
    assert auths(made, "config.json") == {"plain.lan": {"auth": account("u:p")}}
    assert ("warning", "buildkit-logins", 6) in lost(made)


def test_buildkit_asks_a_host_by_one_scheme() -> None:
    text = """\
mirrors:
  quay.io: {endpoint: ["http://m.lan:5000"]}
  ghcr.io: {endpoint: ["https://m.lan:5000", "https://localhost:5000"]}
configs:
  "m.lan:5000": {tls: {ca_file: /ca.pem}}
"""
    made = buildkit.render(read(text))
    assert buildkitd(made)["m.lan:5000"] == {"http": True}
    assert buildkitd(made)["localhost:5000"] == {"http": False}
    assert lost(made) == [
        ("warning", "buildkit-http", 2),
        ("warning", "buildkit-scheme", 3),
        ("warning", "buildkit-scheme", 5),
    ]
    made = buildkit.render(read(text.replace("ca_file: /ca.pem", "insecure_skip_verify: true")))
    assert buildkitd(made)["m.lan:5000"] == {"http": True, "insecure": True}  # it then tries both, https first
    assert lost(made) == []


def test_buildkit_has_no_words_for_two_rules() -> None:
    made = buildkit.render(read(mirrored("https://m.lan", rewrite={"(.*)": "a/$1", "^": "b/"})))
    assert lost(made) == [("error", "buildkit-rewrite", 1)]
    assert buildkitd(made) == {}


# ── docker ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_docker_files() -> None:
    text = """\
mirrors:
  docker.io: {endpoint: ["https://m.lan:5000", "http://plain.lan:5000/v2", "https://art.lan/hub/v2"]}
  "reg.lan:5000": {endpoint: ["http://reg.lan:5000"]}
  quay.io: {endpoint: ["https://m.lan:5000"]}
configs:
  "m.lan:5000": {tls: {ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem}}
  skip.lan: {tls: {insecure_skip_verify: true}}
  index.docker.io: {auth: {username: hub, password: pw}}
"""
    made = docker.render(read(text))
    assert daemon(made) == {
        "registry-mirrors": ["https://m.lan:5000", "http://plain.lan:5000", "https://art.lan/hub"],
        "insecure-registries": ["skip.lan", "reg.lan:5000"],
    }
    assert {each.path: each.copy_of for each in made.files if each.copy_of} == {
        "certs.d/m.lan:5000/ca.crt": "/ca.pem",
        "certs.d/m.lan:5000/client.cert": "/c.pem",
        "certs.d/m.lan:5000/client.key": "/k.pem",
    }
    assert auths(made, "config.json") == {"https://index.docker.io/v1/": {"auth": account("hub:pw")}}
    assert lost(made) == [
        ("warning", "docker-insecure", 7),
        ("note", "docker-path", 2),
        ("warning", "docker-insecure", 3),
        ("error", "docker-mirror", 4),
    ]
    told_beside = file(made, "daemon.json.lost.txt").text.splitlines()
    assert told_beside[0] == f"# {made.origin}"
    assert [line.rpartition("(")[2] for line in told_beside[1:]] == ["line 7)", "line 2)", "line 3)", "line 4)"]


@pytest.mark.parametrize("runtime", ["docker", "buildkit"])
def test_a_place_that_k3s_asks_by_https_first(runtime: str) -> None:
    text = (
        "mirrors:\n  docker.io:\n    endpoint: ['http://m.lan:5000']\nconfigs: {'m.lan:5000': {tls: {ca_file: /ca}}}\n"
    )
    made = RENDERERS[runtime](read(text))
    assert ("warning", f"{runtime}-http", 3) in lost(made)


def test_docker_is_not_told_of_what_it_might_ask_wrongly() -> None:
    text = """\
mirrors:
  docker.io:
    endpoint: ["https://m.lan:5000", "https://m.lan/hub", "https://m_.lan"]
    rewrite: {"(.*)": "hub/$1"}
  "*": {endpoint: ["https://w.lan"]}
configs:
  "*": {tls: {insecure_skip_verify: true}}
"""
    made = docker.render(read(text, OFF))
    assert daemon(made) == {}
    assert lost(made) == [
        ("error", "docker-wildcard", 5),
        ("error", "docker-rewrite", 4),
        ("error", "docker-path", 3),
        ("error", "docker-default-disabled", 2),
    ]


def test_docker_needs_no_word_for_this_machine_nor_for_its_own_login() -> None:
    text = """\
mirrors:
  docker.io: {endpoint: [https://docker.io, https://m.lan]}
configs:
  "localhost:5000": {auth: {username: u, password: p}}
  registry-1.docker.io: {auth: {username: u, password: p}}
"""
    made = docker.render(read(text))
    assert daemon(made) == {"registry-mirrors": ["https://registry-1.docker.io", "https://m.lan"]}
    assert lost(made) == []


# ── k3d ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ODD = "\n\r\t\0\x1b$\"'\\#{}~"
PRINTABLE = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff")
ANY_TEXT = st.text(st.sampled_from(ODD) | PRINTABLE, min_size=1)


def parsed(source: object) -> RegistriesConfig:
    config = parse(json.dumps(source, ensure_ascii=False).encode(), "registries.yaml")
    assert config.error is None, config.error
    return config


def by_k3d(text: str) -> dict[str, Any]:
    """What k3d reads: variables go first, as os.ExpandEnv; then YAML, and the YAML in it."""
    assert "$" not in text
    outer: dict[str, Any] = yaml.safe_load(text)
    assert (outer["apiVersion"], outer["kind"]) == ("k3d.io/v1alpha5", "Simple")
    assert "\n" in outer["registries"]["config"]  # or k3d takes it for the name of a file
    return outer | {"inner": yaml.safe_load(outer["registries"]["config"])}


@example("reg.lan", "u", "p", "é" * 300)  # a key that is longer, once written, than YAML looks for its colon
@settings(max_examples=60)
@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_k3d_gets_the_same_meaning(key: str, user: str, password: str, pattern: str) -> None:
    source: dict[str, Any] = {
        "mirrors": {key: {"endpoint": ["https://m.lan"], "rewrite": {pattern: "x/$1"}}, "quay.io": None},
        "configs": {key: {"auth": {"username": user, "password": password}}, "m.lan": {"tls": {"ca_file": "/$ca.pem"}}},
    }
    made = k3d.render(hosts(parsed(source), OFF), OFF)
    (written,) = made.files
    outer = by_k3d(written.text)
    assert written.mode == 0o600
    assert outer["volumes"] == [{"volume": "/$ca.pem:/$ca.pem", "nodeFilters": ["server:*", "agent:*"]}]
    arguments = [{"arg": "--disable-default-registry-endpoint", "nodeFilters": ["server:*", "agent:*"]}]
    assert outer["options"]["k3s"]["extraArgs"] == arguments
    assert outer["inner"] == source | {"mirrors": {**source["mirrors"], "quay.io": {"endpoint": []}}}


def test_k3d_reads_the_identity_token_under_its_own_name() -> None:
    made = k3d.render(read("configs: {m.lan: {auth: {identity_token: t}, tls: {insecure_skip_verify: yes}}}"))
    inner = by_k3d(made.files[0].text)["inner"]
    assert inner == {
        "mirrors": {},
        "configs": {"m.lan": {"auth": {"identitytoken": "t"}, "tls": {"insecure_skip_verify": True}}},
    }


def test_k3d_turns_on_the_embedded_registry_and_leaves_out_what_it_adds() -> None:
    flags = Flags(embedded_registry="127.0.0.1:6443")
    outer = by_k3d(k3d.render(read("mirrors: {docker.io: {endpoint: [https://m.lan]}}", flags), flags).files[0].text)
    assert outer["inner"] == {"mirrors": {"docker.io": {"endpoint": ["https://m.lan"]}}, "configs": {}}
    assert outer["options"]["k3s"]["extraArgs"] == [{"arg": "--embedded-registry", "nodeFilters": ["server:*"]}]
    assert "volumes" not in outer


def test_k3d_keeps_dollars_out_of_the_comment_as_well() -> None:
    made = k3d.render(hosts(parse(b"{}", "$HOME/registries.yaml")))
    assert by_k3d(made.files[0].text)["inner"] == {"mirrors": {}, "configs": {}}


def test_k3d_takes_text_only() -> None:
    made = k3d.render(read("configs: {m.lan: {auth: {username: u, password: !!binary gICA}}}"))
    assert lost(made) == [("error", "k3d-bytes", 0)]
    assert k3d.render(read(r"configs: {m.lan: {auth: {username: u, password: '\uDC80'}}}")).lost == ()


def test_k3d_cannot_mount_every_path() -> None:
    made = k3d.render(read("configs:\n  m.lan:\n    tls:\n      ca_file: here.pem\n      cert_file: /a:b\n"))
    assert lost(made) == [("error", "k3d-path", 4), ("error", "k3d-path", 5)]


# ── logins ───────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60)
@given(ANY_TEXT.filter(lambda text: ":" not in text), ANY_TEXT)
def test_a_password_comes_back_as_it_was(user: str, password: str) -> None:
    config = parsed({"configs": {"m.lan": {"auth": {"username": user, "password": password}}}})
    made = authjson.render(hosts(config))
    assert base64.b64decode(auths(made)["m.lan"]["auth"]).decode() == f"{user}:{password}"
    assert made.lost == ()


@pytest.mark.parametrize(
    ("auth", "wanted"),
    [
        ("{username: u, password: p, identity_token: t, auth: eDp5}", {"auth": account("u:p")}),
        ("{username: u}", {"auth": account("u:")}),
        ("{identity_token: t, auth: eDp5}", {"auth": account("<token>:"), "identitytoken": "t"}),
        ('{auth: "eD\\np5"}', {"auth": "eDp5"}),
        ("{password: p}", None),
        ("{}", None),
    ],
)
def test_the_login_is_the_one_containerd_uses(auth: str, wanted: dict[str, str] | None) -> None:
    made = authjson.render(read(f"configs: {{m.lan: {{auth: {auth}}}}}"))
    assert auths(made) == ({"m.lan": wanted} if wanted else {})
    assert made.lost == ()


@pytest.mark.parametrize(
    ("configs", "wanted"),
    [
        ('{"*": {auth: {username: u, password: p}}}', ("note", "auth-wildcard-auth", 1)),
        ('{"https://m.lan": {auth: {username: u, password: p}}}', ("note", "auth-no-host", 1)),
        ('{m.lan: {auth: {username: "a:b", password: p}}}', ("error", "auth-colon", 1)),
        ("{m.lan: {auth: {auth: eDp}}}", ("error", "auth-auth", 1)),
        ("{m.lan: {auth: {auth: eA==}}}", ("error", "auth-auth", 1)),
        ("{m.lan: {auth: {identity_token: !!binary gICA}}}", ("error", "auth-bytes", 1)),
    ],
)
def test_a_login_that_the_file_cannot_hold(configs: str, wanted: tuple[str, str, int]) -> None:
    made = authjson.render(read(f"configs: {configs}"))
    assert lost(made) == [wanted]
    assert auths(made) == {}


def test_docker_io_has_the_login_that_wins() -> None:
    text = "configs:\n" + "".join(
        f"  {host}: {{auth: {{username: {user}, password: p}}}}\n"
        for host, user in (("docker.io", "second"), ("registry-1.docker.io", "first"), ("index.docker.io", "third"))
    )
    assert auths(authjson.render(read(text))) == {"docker.io": {"auth": account("first:p")}}
    made = docker.render(read(text))
    assert auths(made, "config.json") == {"https://index.docker.io/v1/": {"auth": account("first:p")}}


# ── rewrites as prefixes ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "replacement", "wanted"),
    [
        ("^rancher/(.*)", "mirror/rancher/$1", Prefix("rancher", "mirror/rancher")),
        ("^rancher/(.*)$", "${1}", Prefix("rancher", "")),
        ("^library/", "hub/", Prefix("library", "hub")),
        ("(.*)", "/group/project/$1", Prefix("", "group/project")),
        ("^", "x/", Prefix("", "x")),
        (r"^k8s\.gcr[.]io/(.+)", "k8s/$1", Prefix("k8s.gcr.io", "k8s")),
        ("^k8s.gcr.io/(.*)", "k8s/$1", Prefix("k8s.gcr.io", "k8s", exact=False)),
        ("rancher/(.*)", "r/$1", Prefix("rancher", "r", exact=False)),
        ("^rancher/pause$", "pause/rancher", Prefix("rancher/pause", "pause/rancher", exact=False)),
        ("^rancher(.*)", "r/$1", None),
        ("^rancher/(.*)", "r-$1", None),
        ("^rancher/(.*)", "r/$1x", None),
        ("^rancher/(.*)", "r/$2", None),
        ("^rancher/(.*)", "r/$1/$1", None),
        ("^rancher/(.*)", "r/", None),
        ("^(a|b)/(.*)", "r/$2", None),
        ("^rancher/", "r/$0", None),
        ("", "x/", None),
        ("^rancher/(.*)", "r//x/$1", None),
    ],
)
def test_a_rewrite_as_a_prefix(pattern: str, replacement: str, wanted: Prefix | None) -> None:
    assert as_prefix(pattern, replacement) == wanted


PARTS = (["", "^"], ["", "a", "a/", "a/b/", "a[.]b/", "/"], ["", "(.*)", "(.+)"], ["", "$"])
REPLACEMENTS = ["$1", "x/$1", "x/", "/x/$1", "", "x$1", "x//$1"]
EXACT = {
    (pattern, replacement): prefix
    for pattern in map("".join, product(*PARTS))
    for replacement in REPLACEMENTS
    if (prefix := as_prefix(pattern, replacement)) is not None and prefix.exact
}


def test_many_of_the_rules_are_exact_prefixes() -> None:
    assert 60 < len(EXACT) < 504


@pytest.mark.parametrize("name", [*map("/".join, product(["a", "a.b", "x", "aa"], ["a", "b"], ["b", "a"]))])
def test_an_exact_prefix_is_what_go_does(name: str) -> None:
    for (pattern, replacement), prefix in EXACT.items():
        rewritten = replace_all(compile_pattern(pattern), replacement, name)
        inside = not prefix.source or name.startswith(f"{prefix.source}/")
        # containerd joins what it asks for with path.Join, which cleans the slashes
        assert path_clean(f"/{rewritten}") == f"/{prefix.moved(name) if inside else name}", (pattern, replacement)


# ── what must never happen ───────────────────────────────────────────────────────────────────────────────────────

HOSTILE = st.sampled_from(
    [
        "..",
        "/etc",
        "../../x",
        "a/../b",
        "",
        ".",
        "a\nb",
        'q"t',
        "back\\slash",
        "x" * 300,
        "*",
        "m.lan",
        "[::1]:5000",
        "é",
    ]
)


@settings(max_examples=150)
@given(HOSTILE, HOSTILE, HOSTILE, st.sampled_from(sorted(RENDERERS)))
def test_no_name_leads_out_of_the_folder_or_breaks_a_file(key: str, host: str, path: str, runtime: str) -> None:
    source = {
        "mirrors": {
            key: {"endpoint": [f"https://{host}", f"https://m.lan/v2/{path}"], "rewrite": {path: f"{path}/$1"}}
        },
        "configs": {host: {"auth": {"username": path, "password": "pässword"}, "tls": {"ca_file": path}}},
    }
    made = RENDERERS[runtime](hosts(parse(json.dumps(source).encode(), "registries.yaml")))
    for each in made.files:
        assert parts_of(each.path)
        check_format(each)
    assert "pässword" not in repr(made) + "".join(problem.message for problem in made.lost)
    assert all(
        each.secret for each in made.files if "pässword" in each.text or account(f"{path}:pässword") in each.text
    )


def check_format(each: File) -> None:
    name = each.path.rpartition("/")[2]
    if name == "registries.conf":
        for table in tomllib.loads(each.text).get("registry", []):
            for place in (table["prefix"], *(location["location"] for location in (table, *table.get("mirror", [])))):
                assert Reference.parse(f"{place}/x").registry == place.partition("/")[0]
    elif name == "buildkitd.toml":
        tomllib.loads(each.text)
    elif name.endswith(".json"):
        json.loads(each.text)
    elif name == "k3d.yaml":
        by_k3d(each.text)


@pytest.mark.parametrize("runtime", ["docker", "podman", "buildkit"])
def test_half_a_client_certificate_is_lost(runtime: str) -> None:
    text = "mirrors:\n  docker.io: {endpoint: [https://m.lan]}\nconfigs:\n  m.lan:\n    tls: {cert_file: /c.pem}\n"
    made = RENDERERS[runtime](read(text))
    assert ("error", f"{runtime}-half-pair", 5) in lost(made)
    assert not any("client" in path for path in paths(made))


@pytest.mark.parametrize("runtime", ["docker", "podman", "buildkit"])
def test_what_k3s_cannot_use_itself_is_lost(runtime: str) -> None:
    text = "mirrors:\n  docker.io:\n    endpoint: [https://m.lan]\n    rewrite: {'a\\.b': c}\n"
    assert lost(RENDERERS[runtime](read(text))) == [("error", f"{runtime}-unusable", 2)]
    failing = RENDERERS[runtime](read({"mirrors": {"x" * 300: {"endpoint": ["https://m.lan"]}}}))
    assert [problem.id for problem in failing.lost] == [f"{runtime}-k3s-fails"]


@pytest.mark.parametrize("runtime", ["docker", "podman", "buildkit"])
def test_a_release_without_certs_d_is_lost(runtime: str) -> None:
    config = parse(b"mirrors: {docker.io: {endpoint: [https://m.lan]}}", "registries.yaml")
    before = hosts(config, behaviour=behaviour(K3sVersion.parse("v1.22.1+k3s1")))
    assert lost(RENDERERS[runtime](before)) == [("error", f"{runtime}-release", 0)]


@pytest.mark.parametrize("runtime", ["docker", "podman", "buildkit"])
@pytest.mark.parametrize(
    ("name", "wanted"), [("a_b.lan", "error"), ("https://r.lan", "note"), ("r.lan/team", "note"), ("-r.lan", "note")]
)
def test_a_name_that_is_no_host(runtime: str, name: str, wanted: str) -> None:
    made = RENDERERS[runtime](read(mirrored("https://m.lan", registry=name)))
    assert [severity for severity, _, _ in lost(made)] == [wanted]
    assert not any("m.lan" in each.text for each in made.files if not each.path.endswith(".txt"))


def conflicts(tables: list[dict[str, Any]]) -> Iterator[str]:
    """As containers/image: tables of one location must agree on `insecure`, or no image can be pulled at all."""
    seen: dict[str, bool] = {}
    for table in tables:
        if seen.setdefault(table["location"], table.get("insecure", False)) != table.get("insecure", False):
            yield table["location"]


def test_podman_asks_one_place_in_one_way() -> None:
    text = """\
mirrors:
  quay.io: {endpoint: ["https://m.lan:5000"]}
  ghcr.io: {endpoint: ["http://m.lan:5000"]}
"""
    made = podman.render(read(text, OFF))
    assert [table["insecure"] for table in conf(made)] == [True, True]
    assert list(conflicts(conf(made))) == []
    assert lost(made)[-1] == ("warning", "podman-insecure", 3)
