"""What `render` writes for K3s: its very bytes, or what is meant where those would do harm."""

from __future__ import annotations

import base64
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.config import k3s, toml
from pierhead.config.containerd import HostTree
from pierhead.config.k3s import Flags
from pierhead.config.k3s_files import DROP_IN, PART, HarmfulFiles, Mode, render
from pierhead.config.k3s_meant import meant
from pierhead.config.k3sfile import CannotRender
from pierhead.config.registries import Mirror, RegistriesConfig, Rewrite, Text, UnusableConfig, parse
from pierhead.config.rendered import Rendered
from pierhead.errors import Span
from pierhead.gourl import go_bytes
from test_k3s_hosts import FLAGS, NASTY, REGISTRIES

CASES = json.loads((Path(__file__).parent / "vectors" / "k3s-files.json").read_text(encoding="utf-8"))
HERE = Span("r.yaml", 1)
WIPING = ["''", "~", ".", "/", "///", "..", "../x", "x/..", "a/../../b", "../../../../etc"]


def loaded(case: dict[str, Any]) -> tuple[RegistriesConfig, Flags]:
    data = base64.b64decode(case["yaml_base64"]) if "yaml_base64" in case else case["yaml"].encode()
    return parse(data, "r.yaml"), Flags(**case["flags"])


def read(text: str) -> RegistriesConfig:
    return parse(text.encode(), "r.yaml")


def texts(rendered: Rendered) -> dict[str, str]:
    return {file.path: file.text for file in rendered.files}


def certs(rendered: Rendered) -> dict[str, str]:
    return {path: text for path, text in texts(rendered).items() if path.startswith("certs.d/")}


def logins(text: str, plugin: str = "io.containerd.cri.v1.images") -> dict[str, Any]:
    configs = tomllib.loads(text)["plugins"][plugin]["registry"].get("configs", {})
    return {key: entry["auth"] for key, entry in configs.items()}


def ids(rendered: Rendered) -> list[str]:
    return [problem.id for problem in rendered.lost]


def only_file(text: str, **options: Any) -> str:
    """The one hosts.toml of a file in safe mode."""
    (found,) = certs(render(read(text), mode="safe", **options)).values()
    return found


# ── K3s' very bytes ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["as-k3s", "refuse"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_recorded_files(case: dict[str, Any], mode: Mode) -> None:
    config, flags = loaded(case)
    if case["exit"] != 0:
        with pytest.raises((UnusableConfig, CannotRender)):
            render(config, flags, mode=mode)
        return
    said = {problem.id for problem in k3s.hosts(config, flags).problems}
    breaking = {"unusable-hosts-toml", "containerd-does-not-start", "ambiguous-directory"}
    if "destructive-key" in said or (mode == "refuse" and said & breaking):
        with pytest.raises(HarmfulFiles):
            render(config, flags, mode=mode)
        return
    rendered = render(config, flags, mode=mode)
    assert certs(rendered) == case["files"]
    if case["auth"] is not None and "containerd-does-not-start" not in said:
        assert logins(texts(rendered)[PART]) == case["auth"]
    assert logins(texts(rendered)[DROP_IN]) == case["auth"]


def test_few_recorded_cases_are_refused() -> None:
    """Whoever has an ordinary file gets it written; counted, so that a wider net would show."""
    refused = []
    for case in CASES:
        try:
            render(*loaded(case))
        except HarmfulFiles as error:
            refused.append((case["id"], error.problems[0].id))
        except (UnusableConfig, CannotRender):
            continue
    counts = {id: sum(id == found for _, found in refused) for _, id in refused}
    assert counts == {"ambiguous-directory": 1, "destructive-key": 6, "unusable-hosts-toml": 61}


REGISTRY_PART = """\
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"

[plugins.'io.containerd.cri.v1.images'.registry.configs.'a.lan'.auth]

[plugins.'io.containerd.cri.v1.images'.registry.configs.'hub-cache.corp.example:5000'.auth]
  username = "puller"
  password = "s3\\"cr3t\\u00a0"
  auth = "eDp5"
  identitytoken = "abc"
"""

CREDENTIALS = (
    "configs:\n"
    '  "hub-cache.corp.example:5000":\n'
    '    auth: {identity_token: abc, auth: eDp5, password: "s3\\"cr3t\\u00a0", username: puller}\n'
    "  a.lan: {auth: {}}\n"
)


def test_the_part_of_config_toml() -> None:
    rendered = render(read(CREDENTIALS))
    assert texts(rendered)[PART] == REGISTRY_PART
    assert [file.path for file in rendered.files if file.secret] == [PART, DROP_IN]
    assert rendered.lost == ()


def test_the_part_of_config_toml_version_2() -> None:
    rendered = render(read(CREDENTIALS), Flags(program="rke2"), containerd_config="v2")
    found = texts(rendered)
    assert DROP_IN not in found
    table = '[plugins."io.containerd.grpc.v1.cri".registry'
    expected = REGISTRY_PART.replace("[plugins.'io.containerd.cri.v1.images'.registry", table)
    assert found[PART] == expected.replace("'", '"').replace("/k3s/", "/rke2/")
    assert logins(found[PART], "io.containerd.grpc.v1.cri") == logins(REGISTRY_PART)


def test_the_part_for_import_is_a_file_of_its_own() -> None:
    rendered = render(read(CREDENTIALS), Flags(data_dir="/data"))
    document = tomllib.loads(texts(rendered)[DROP_IN])
    assert document["version"] == 3
    assert document["plugins"] == tomllib.loads(REGISTRY_PART.replace("/var/lib/rancher/k3s", "/data"))["plugins"]
    assert texts(rendered)[DROP_IN].startswith("# Made by pierhead from r.yaml for k3s; ")


def test_no_credentials_no_secret() -> None:
    rendered = render(read("mirrors: {docker.io: {endpoint: [m.lan]}}"))
    assert not rendered.holds_secrets
    assert texts(rendered)[PART] == REGISTRY_PART.partition("\n\n")[0] + "\n"


def test_the_bytes_that_keep_containerd_from_starting() -> None:
    config = read("""configs: {"it's": {auth: {username: u, password: "\\x07\\x7f\\x01"}}}""")
    with pytest.raises(HarmfulFiles) as refused:
        render(config)
    assert {problem.id for problem in refused.value.problems} == {"containerd-does-not-start"}
    exact = render(config, mode="as-k3s")
    assert texts(exact)[PART].endswith("""configs.'it's'.auth]\n  username = "u"\n  password = "\\a\\x7f\\x01"\n""")
    assert "containerd-does-not-start" in ids(exact)
    for rendered in (exact, render(config, mode="safe")):
        assert logins(texts(rendered)[DROP_IN]) == {"it's": {"username": "u", "password": "\x07\x7f\x01"}}
    safe = render(config, mode="safe")
    assert logins(texts(safe)[PART]) == {"it's": {"username": "u", "password": "\x07\x7f\x01"}}
    assert set(ids(safe)) == {"credentials-escaped"}


def test_credentials_that_no_toml_can_hold() -> None:
    config = read("configs: {a.lan: {auth: {username: u, password: !!binary /w==}}, b.lan: {auth: {username: v}}}")
    rendered = render(config, mode="safe")
    assert logins(texts(rendered)[PART]) == {"b.lan": {"username": "v"}}
    assert ids(rendered) == ["credentials-left-out"]


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["refuse", "as-k3s", "safe"])
@pytest.mark.parametrize("key", WIPING)
def test_a_key_that_leaves_certs_d_is_refused_always(key: str, mode: Mode) -> None:
    with pytest.raises(HarmfulFiles) as refused:
        render(read(f"mirrors:\n  docker.io: {{endpoint: [m.lan]}}\n  {key}: {{endpoint: [m.lan]}}\n"), mode=mode)
    assert refused.value.span is not None
    assert refused.value.span.line == 3
    assert "K3s deletes" in refused.value.message


HARMFUL = [
    ("mirrors: {docker.io: {endpoint: [m.lan], rewrite: {'\\.': b}}}", "unusable-hosts-toml"),
    ("mirrors: {docker.io: {endpoint: ['::1']}}", "unusable-hosts-toml"),
    ("mirrors: {'*': {endpoint: [m.lan]}, _default: {endpoint: [n.lan]}}", "ambiguous-directory"),
    ("mirrors: {r.lan/: {endpoint: [m.lan]}, r.lan: {endpoint: [n.lan]}}", "ambiguous-directory"),
    ('configs: {a: {auth: {password: "\\x01"}}}', "containerd-does-not-start"),
    (
        'mirrors: {docker.io: {endpoint: [m.lan], rewrite: {"a\\" = \\"b\\"\\n[host.\\"https://evil\\"] #": c}}}',
        "rewrite-breaks-out",
    ),
]


@pytest.mark.parametrize(("text", "id"), HARMFUL)
def test_what_does_harm_is_refused_with_its_place(text: str, id: str) -> None:
    with pytest.raises(HarmfulFiles) as refused:
        render(read(text))
    assert [problem.id for problem in refused.value.problems] == [id]
    assert refused.value.span == refused.value.problems[0].span is not None
    assert "--safe" in refused.value.hint
    exact = render(read(text), mode="as-k3s")
    assert certs(exact) == dict(k3s.render(read(text)))
    assert id in ids(exact)
    assert ids(render(read(text), mode="safe")) != []


def test_all_findings_are_told_at_once() -> None:
    mirrors = [f"  {name}.lan: {{endpoint: [m.lan], rewrite: {{'\\d': b}}}}\n" for name in "ab"]
    with pytest.raises(HarmfulFiles) as refused:
        render(read("mirrors:\n" + "".join(mirrors)))
    lines = str(refused.value).splitlines()
    assert [line[: len("r.yaml:2")] for line in lines] == ["r.yaml:2", "r.yaml:3"]


@pytest.mark.parametrize("mode", ["refuse", "as-k3s"])
def test_what_k3s_cannot_write_is_refused_with_its_place(mode: Mode) -> None:
    text = f"mirrors:\n  docker.io: {{endpoint: [m.lan]}}\n  {'r' * 256}: {{endpoint: [m.lan]}}\n"
    with pytest.raises(CannotRender, match="file name too long") as refused:
        render(read(text), mode=mode)
    assert refused.value.span is not None
    assert refused.value.span.line == 3


def test_half_a_certificate_pair_is_written_and_told() -> None:
    text = "mirrors: {docker.io: {endpoint: [m.lan]}}\nconfigs: {m.lan: {tls: {cert_file: /c}}}"
    rendered = render(read(text))
    assert certs(rendered) == dict(k3s.render(read(text)))
    assert ids(rendered) == ["half-certificate-pair"]


# ── what is meant ────────────────────────────────────────────────────────────────────────────────────────────────


def rules_of(text: str) -> dict[str, str]:
    rendered = render(read(text), mode="safe")
    (directory,) = HostTree.read(certs(rendered)).directories.values()
    return dict(directory.hosts[0].rewrites)


@pytest.mark.parametrize(
    ("written", "arrives"),
    [
        (r"^k8s\.gcr\.io/", r"^k8s\.gcr\.io/"),
        (r"^k8s\\.gcr\\.io/", r"^k8s\.gcr\.io/"),  # as people write it for K3s: that keeps working
        (r"\d+\w\s", r"\d+\w\s"),
        (r"\bfoo", r"\bfoo"),
        (r"a\tb", "a\tb"),
        ('say "hi"', 'say "hi"'),
        ("two\nlines", "two\nlines"),
        ('a" = "b"\n[host."https://evil"]\n"x', 'a" = "b"\n[host."https://evil"]\n"x'),
        ("\x00\x7f", "\x00\x7f"),
        ("back\\", "back\\"),
        ("^plain/(.*)", "^plain/(.*)"),
    ],
)
def test_a_rewrite_arrives_as_written(written: str, arrives: str) -> None:
    rule = json.dumps({written: written})
    assert rules_of(f"mirrors: {{docker.io: {{endpoint: [m.lan], rewrite: {rule}}}}}") == {arrives: arrives}


def test_two_rewrites_of_one_pattern() -> None:
    text = "mirrors: {docker.io: {endpoint: [m.lan], rewrite: {'\\.': first, '\\\\.': second}}}"
    assert rules_of(text) == {"\\.": "first"}
    assert ids(render(read(text), mode="safe")) == ["rewrite-escaped", "rewrite-left-out"]


def test_a_rewrite_that_no_toml_can_hold() -> None:
    text = "mirrors: {docker.io: {endpoint: [m.lan], rewrite: {a: !!binary /w==, b: c}}}"
    assert rules_of(text) == {"b": "c"}
    assert ids(render(read(text), mode="safe")) == ["rewrite-left-out"]


def test_half_a_certificate_pair_is_left_out() -> None:
    text = "mirrors: {docker.io: {endpoint: [m.lan]}}\nconfigs: {m.lan: {tls: {ca_file: /ca, key_file: /k}}}"
    rendered = render(read(text), mode="safe")
    (mirror, _) = HostTree.read(certs(rendered)).directories["docker.io"].hosts
    assert (mirror.ca, mirror.client) == (("/ca",), ())
    assert ids(rendered) == ["half-pair-left-out"]


def test_file_names_that_k3s_cannot_write() -> None:
    text = 'configs: {m.lan: {tls: {ca_file: "/\\x01", cert_file: /c, key_file: /k}}}'
    rendered = render(read(text), mode="safe")
    (host,) = HostTree.read(certs(rendered)).directories["m.lan"].hosts
    assert (host.ca, host.client) == ((), (("/c", "/k"),))
    assert ids(rendered) == ["file-left-out"]


@pytest.mark.parametrize(
    ("endpoint", "address"), [("::1", "https://[::1]/v2"), ("http://[::1]:5000", "http://[::1]:5000/v2")]
)
def test_an_ipv6_endpoint_gets_its_brackets(endpoint: str, address: str) -> None:
    assert f'[host."{address}"]' in only_file(f"mirrors: {{docker.io: {{endpoint: ['{endpoint}']}}}}")


def test_an_endpoint_that_is_no_host_is_left_out() -> None:
    rendered = render(read("mirrors: {docker.io: {endpoint: ['https://ca\"che', m.lan]}}"), mode="safe")
    assert [host.host for host in HostTree.read(certs(rendered)).directories["docker.io"].hosts] == [
        "m.lan",
        "registry-1.docker.io",
    ]
    assert ids(rendered) == ["endpoint-left-out"]


def test_the_query_of_an_endpoint_stays_in_its_quotes() -> None:
    text = only_file("mirrors: {docker.io: {endpoint: ['https://m.lan/x?a\"] #\\u0061']}}")
    assert '[host."https://m.lan/x?a%22] #%5Cu0061"]' in text


def test_lines_that_are_too_long_are_left_out() -> None:
    long = "a" * 70_000
    rendered = render(
        read(
            "mirrors:\n"
            f"  docker.io: {{endpoint: ['m.lan/{long}', n.lan], rewrite: {{a: {long}, c: d}}}}\n"
            f"  ? {long}\n  : {{endpoint: [m.lan]}}\n"
            f"configs: {{n.lan: {{tls: {{ca_file: /{long}}}}}}}\n"
        ),
        mode="safe",
    )
    (mirror, _) = HostTree.read(certs(rendered)).directories["docker.io"].hosts
    assert (mirror.host, dict(mirror.rewrites), mirror.ca) == ("n.lan", {"c": "d"}, ())
    assert sorted(ids(rendered)) == ["endpoint-left-out", "file-left-out", "registry-left-out", "rewrite-left-out"]
    assert all(len(problem.message) < 200 for problem in rendered.lost)


def test_a_registry_whose_address_cannot_be_written_is_left_out() -> None:
    text = (
        "mirrors: {'ca\"che': {endpoint: [m.lan]}, r.lan/hosts.toml: {endpoint: [m.lan]}, r.lan: {endpoint: [m.lan]}}"
    )
    rendered = render(read(text), mode="safe")
    assert list(certs(rendered)) == ["certs.d/r.lan/hosts.toml"]
    assert ids(rendered) == ["registry-left-out", "registry-left-out"]


def test_directories_are_merged_in_the_order_of_the_file() -> None:
    rendered = render(
        read(
            "mirrors:\n"
            "  r.lan/: {endpoint: [a.lan]}\n"
            "  r.lan: {endpoint: [b.lan]}\n"
            "configs:\n"
            "  r.lan//: {tls: {ca_file: /ca}}\n"
            "  r.lan: {tls: {ca_file: /other}, auth: {username: u}}\n"
        ),
        mode="safe",
    )
    hosts = HostTree.read(certs(rendered)).directories["r.lan"].hosts
    assert [(host.host, host.ca) for host in hosts] == [("a.lan", ()), ("b.lan", ()), ("r.lan", ("/ca",))]
    assert logins(texts(rendered)[PART]) == {"r.lan": {"username": "u"}}
    assert [(problem.id, problem.span.line) for problem in rendered.lost if problem.span] == [
        ("directories-merged", 2),
        ("directories-merged", 5),
    ]


def test_mirrors_with_other_rewrites_are_not_merged() -> None:
    text = "mirrors: {_default: {endpoint: [a.lan], rewrite: {a: b}}, '*': {endpoint: [b.lan]}}"
    rendered = render(read(text), mode="safe")
    assert [host.host for host in HostTree.read(certs(rendered)).lookup("x.lan").hosts] == ["a.lan", "x.lan"]
    assert ids(rendered) == ["directories-merged", "mirror-left-out"]


@pytest.mark.parametrize("case", [case for case in CASES if case["exit"] == 0], ids=lambda case: case["id"])
def test_what_k3s_gets_right_is_not_touched(case: dict[str, Any]) -> None:
    config, flags = loaded(case)
    try:
        usual = render(config, flags)
    except HarmfulFiles:
        return
    if "half-certificate-pair" in ids(usual):
        return
    safe = render(config, flags, mode="safe")
    same_rules = "rewrite-escaped" not in ids(safe) and "endpoint-escaped" not in ids(safe)
    assert not same_rules or certs(safe) == certs(usual)


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(REGISTRIES, FLAGS)
def test_the_hosts_are_what_containerd_reads_from_the_files(config: RegistriesConfig, flags: Flags) -> None:
    if any(problem.id == "destructive-key" for problem in k3s.hosts(config, flags).problems):
        with pytest.raises(HarmfulFiles):
            render(config, flags, mode="as-k3s")
        return
    rendered = render(config, flags, mode="as-k3s")
    assert k3s.hosts(config, flags).tree == HostTree.read(texts(rendered), root=flags.root)
    assert all(path.startswith(("certs.d/", "config")) for path in texts(rendered))


@settings(deadline=None)
@given(REGISTRIES, FLAGS, st.sampled_from(["v2", "v3"]))
def test_containerd_reads_every_safe_file(config: RegistriesConfig, flags: Flags, generation: Any) -> None:
    if any(problem.id == "destructive-key" for problem in k3s.hosts(config, flags).problems):
        with pytest.raises(HarmfulFiles):
            render(config, flags, mode="safe")
        return
    rendered = render(config, flags, mode="safe", containerd_config=generation)
    for file in rendered.files:
        data = go_bytes(file.text)
        assert toml.read(data).root
        tomllib.loads(data.decode())
    tree = HostTree.read(certs(rendered), root=flags.root)
    assert [directory for directory in tree.directories.values() if directory.unusable is not None] == []
    assert k3s.hosts(meant(config, flags).config, flags).tree == tree


TEXTS = st.lists(st.sampled_from([*NASTY, "a", "\\.", "\\\\.", "\\d", "\\b", "(.*)", "$1"]), max_size=4).map("".join)


def by_toml(text: str) -> str | None:
    """What a TOML parser of somebody else makes of it between quotes, if that can be meant."""
    try:
        (found,) = tomllib.loads(f'k = ["{text}"]')["k"]
    except tomllib.TOMLDecodeError:
        return None
    return None if "\x08" in found else found


@settings(deadline=None)
@given(st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_rewrites_mean_what_the_file_says(rules: dict[str, str]) -> None:
    rewrites = tuple(Rewrite(Text(pattern, HERE), Text(text, HERE)) for pattern, text in rules.items())
    mirror = Mirror(Text("docker.io", HERE), (Text("https://m.lan/v2", HERE),), rewrites)
    rendered = render(RegistriesConfig("r.yaml", {"docker.io": mirror}), mode="safe")
    expected: dict[str, str] = {}
    for pattern, text in rules.items():
        if "\udcff" not in pattern + text:
            read_pattern, read_text = by_toml(pattern), by_toml(text)
            expected.setdefault(
                pattern if read_pattern is None else read_pattern, text if read_text is None else read_text
            )
    (directory,) = HostTree.read(certs(rendered)).directories.values()
    assert dict(directory.hosts[0].rewrites) == expected
    lost = sum(problem.id == "rewrite-left-out" for problem in rendered.lost)
    assert lost >= (1 if len(expected) < len(rules) else 0)
