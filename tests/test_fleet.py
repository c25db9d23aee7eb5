"""Nodes beside each other: what is no difference, what is one, and in which words it is told."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from command import Ran, run_pierhead
from pierhead.config.k3s import Flags, render
from pierhead.config.registries import parse
from pierhead.errors import UsageError
from pierhead.fleet.collected import ARGUMENTS, VERSION, Collected, is_on
from pierhead.fleet.compare import Report, compare
from pierhead.fleet.folders import UnreadableNode, from_folder
from pierhead.fleet.sources import Source, collect, sources
from pierhead.fleet.words import TELLERS
from pki import make_pki

NOW = datetime(2026, 6, 1, tzinfo=UTC)
REGISTRIES = "/etc/rancher/k3s/registries.yaml"
CERTS = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"
TEXT = """\
mirrors:
  docker.io:
    endpoint:
      - https://a.lan
      - https://b.lan
    rewrite:
      "^library/(.*)$": "hub/$1"
configs:
  reg.lan:5000:
    auth:
      username: puller
      password: planted-secret
    tls:
      ca_file: /etc/pki/ca.pem
      insecure_skip_verify: true
"""


def node(name: str, text: str | None = TEXT, /, **more: Any) -> Collected:
    """A node with this registries.yaml and perhaps more files."""
    files: dict[str, bytes] = {path: data.encode() for path, data in more.get("files", {}).items()}
    if text is not None:
        files[REGISTRIES] = text.encode()
    missing = frozenset({REGISTRIES} if text is None else ())
    directories = frozenset(
        {"/etc/rancher/k3s"} | ({CERTS} if any(path.startswith(CERTS) for path in files) else set())
    )
    return Collected(name, name, files, directories, missing | more.get("missing", frozenset()))


def report(*nodes: Collected, reference: str | None = None) -> Report:
    return compare(nodes, now=NOW, reference=reference)


def messages(*nodes: Collected, reference: str | None = None) -> list[str]:
    return [difference.message for difference in report(*nodes, reference=reference).differences]


def with_odd(odd: str | None, **more: Any) -> list[str]:
    """What is told of worker3, which has another registries.yaml than three others."""
    return messages(node("server1"), node("worker1"), node("worker3", odd, **more), node("worker2"))


# -- the words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "      insecure_skip_verify: true\n",
            "",
            "worker3 lacks insecure_skip_verify for reg.lan:5000 (line 15 on the others)",
        ),
        (
            "      - https://a.lan\n      - https://b.lan\n",
            "      - https://b.lan\n      - https://a.lan\n",
            "worker3: mirror docker.io asks https://b.lan first (line 4), on the others https://a.lan (line 4)",
        ),
        (
            "      - https://b.lan\n",
            "",
            "worker3 lacks the endpoint https://b.lan of mirror docker.io (line 4 on the others)",
        ),
        (
            "      - https://b.lan\n",
            "      - https://b.lan\n      - https://c.lan\n",
            "worker3 has the endpoint https://c.lan of mirror docker.io (line 4) that the others lack",
        ),
        (
            "https://b.lan",
            "https://c.lan",
            "worker3: mirror docker.io asks https://a.lan, https://c.lan (line 4), "
            "on the others https://a.lan, https://b.lan (line 4)",
        ),
        (
            '"hub/$1"',
            '"docker/$1"',
            "worker3: mirror docker.io rewrites ^library/(.*)$ to docker/$1 (line 7), on the others to hub/$1 (line 7)",
        ),
        (
            '    rewrite:\n      "^library/(.*)$": "hub/$1"\n',
            "",
            "worker3 lacks the rewrite of ^library/(.*)$ for mirror docker.io (line 7 on the others)",
        ),
        (
            "planted-secret",
            "planted-other",
            "worker3 has another password for reg.lan:5000 (line 12) than the others (line 12)",
        ),
        (
            "username: puller",
            "username: pusher",
            "worker3: username for reg.lan:5000 is pusher (line 11), on the others puller (line 11)",
        ),
        (
            "/etc/pki/ca.pem",
            "/etc/pki/old.pem",
            "worker3: ca_file for reg.lan:5000 is /etc/pki/old.pem (line 14), on the others /etc/pki/ca.pem (line 14)",
        ),
        (
            "configs:\n",
            "  quay.io:\n    endpoint: [https://a.lan]\nconfigs:\n",
            "worker3 has the mirror quay.io (line 8) that the others lack",
        ),
        (
            "  reg.lan:5000:\n",
            "  reg.lan:\n",
            "worker3 lacks configs reg.lan:5000 with username, password, ca_file, insecure_skip_verify "
            "(line 9 on the others)",
        ),
    ],
)
def test_what_one_node_has_otherwise_is_told_with_its_line(old: str, new: str, told: str) -> None:
    assert TEXT.count(old) == 1
    found = with_odd(TEXT.replace(old, new))
    assert told in found
    assert "planted" not in "".join(found)


def test_a_password_in_a_url_is_compared_and_not_shown() -> None:
    text = TEXT.replace("https://a.lan", "https://u:{}@a.lan")
    one, other = (text.replace("{}", password) for password in ("planted-1", "planted-2"))
    found = messages(node("a", one), node("b", one), node("c", other))
    assert found == ["c: mirror docker.io has other credentials in a URL (line 4) than on the others"]


def test_a_key_that_was_pasted_as_a_path_is_not_shown() -> None:
    key = "|\n        -----BEGIN PRIVATE KEY-----\n        planted\n"
    [told] = with_odd(TEXT.replace("/etc/pki/ca.pem\n", key))
    assert told == (
        "worker3: ca_file for reg.lan:5000 is no path but a pasted text (line 14), "
        "on the others /etc/pki/ca.pem (line 14)"
    )


def test_names_of_users_are_told_whole() -> None:
    [told] = messages(node("root@a", TEXT), node("root@b", TEXT.replace("puller", "robot@acme")))
    assert told == "root@b: username for reg.lan:5000 is robot@acme (line 11), on root@a puller (line 11)"


def test_nodes_that_differ_alike_are_told_of_together() -> None:
    odd = TEXT.replace("      insecure_skip_verify: true\n", "")
    usual = [node(f"server{number}") for number in range(9)]
    [told] = messages(*usual, *(node(f"worker{number}", odd) for number in (3, 7)))
    assert told == "worker3 and worker7 lack insecure_skip_verify for reg.lan:5000 (line 15 on the others)"
    [told] = messages(*usual, *(node(f"worker{number}", odd) for number in range(1, 8)))
    assert told.startswith("worker1, worker2, worker3, worker4 and 3 more lack insecure_skip_verify ")


def test_with_two_nodes_the_first_is_the_reference_and_another_can_be_named() -> None:
    odd = TEXT.replace("      insecure_skip_verify: true\n", "")
    assert messages(node("a"), node("b", odd)) == ["b lacks insecure_skip_verify for reg.lan:5000 (line 15 on a)"]
    many = (node("a"), node("b", odd), node("c"))
    assert messages(*many, reference="b") == [
        "a and c have insecure_skip_verify for reg.lan:5000 (line 15) that b lacks"
    ]
    with pytest.raises(UsageError, match="none of the nodes"):
        report(*many, reference="d")


def test_each_of_three_different_slips_is_found_though_no_file_is_like_another() -> None:
    slips = {
        "a": TEXT.replace("      insecure_skip_verify: true\n", ""),
        "b": TEXT.replace("https://b.lan", "https://c.lan"),
        "c": TEXT.replace("planted-secret", "planted-other"),
    }
    found = report(*(node(name, text) for name, text in slips.items())).differences
    assert [(each.nodes, each.kind) for each in found] == [
        (("a",), "insecure_skip_verify"),
        (("b",), "endpoints"),
        (("c",), "password"),
    ]


def test_a_node_without_the_file_or_with_one_that_k3s_refuses() -> None:
    assert with_odd(None) == ["worker3 has no registries.yaml, the others have one"]
    [told] = with_odd("mirrors:\n  docker.io:\n    endpoint: https://a.lan\n")
    assert told.startswith("worker3 has a registries.yaml that K3s refuses: ")
    assert messages(node("a", None), node("b", None)) == []


def test_names_of_nodes_and_registries_cannot_disturb_a_terminal() -> None:
    text = TEXT.replace("docker.io:", '"evil\\e[31m\\nregistry":')
    [told] = messages(node("a\x1b[0m\nb", text), node("c", text.replace("https://a.lan", "https://z.lan")))
    assert told.isprintable()


# -- other things than registries.yaml --------------------------------------------------------------------------------


def test_another_release_is_told_with_what_that_means_for_the_file() -> None:
    wildcard = (
        TEXT.replace("docker.io:", '"*":')
        .replace("    rewrite:\n", "")
        .replace('      "^library/(.*)$": "hub/$1"\n', "")
    )
    new, old = ({"files": {VERSION: f"k3s version {text} (0a1b)\n"}} for text in ("v1.31.4+k3s1", "v1.28.6+k3s1"))
    [found] = report(node("a", wildcard, **new), node("b", wildcard, **new), node("c", wildcard, **old)).differences
    assert found.message == "c runs v1.28.6+k3s1, the others v1.31.4+k3s1"
    assert found.details == ('there behind the endpoints of "*" nobody is asked, not even the registry itself',)
    [found] = report(node("a", TEXT, **new), node("b", TEXT, files={VERSION: "v1.31.5+k3s1"})).differences
    assert found.details == ("both releases read its registries.yaml alike",)


def test_a_ca_that_differs_or_is_missing_and_one_that_runs_out(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    right, wrong = Path(pki.ca).read_text(), Path(pki.other_ca).read_text()
    good = {"files": {"/etc/pki/ca.pem": right}}
    two = (node("a", TEXT, **good), node("b", TEXT, **good))
    [told] = messages(*two, node("c", TEXT, files={"/etc/pki/ca.pem": wrong}))
    assert told.startswith("c: CA /etc/pki/ca.pem differs: sha256 ")
    [told] = messages(*two, node("c", TEXT, missing=frozenset({"/etc/pki/ca.pem"})))
    assert told == "c: CA /etc/pki/ca.pem is named (line 14) and missing; the others have it"
    bundle = {"files": {"/etc/pki/ca.pem": right + wrong}}, {"files": {"/etc/pki/ca.pem": wrong + "# note\n" + right}}
    assert messages(*(node(str(index), TEXT, **each) for index, each in enumerate(bundle))) == []
    later = compare(two, now=datetime.now(UTC) + timedelta(days=350), reference=None)
    assert [(note.id, note.severity) for note in later.notes] == [("certificate-expires-soon", "warning")]
    much_later = compare(two, now=datetime.now(UTC) + timedelta(days=400), reference=None)
    assert [note.id for note in much_later.notes] == ["certificate-expired"]
    assert much_later.notes[0].message.startswith("a and b: a certificate in '/etc/pki/ca.pem' expired on ")


def test_a_client_certificate_of_its_own_on_each_node_is_no_drift(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    text = TEXT.replace("ca_file: /etc/pki/ca.pem", "cert_file: /etc/pki/node.pem")
    pems = [Path(pair.cert).read_text() for pair in (pki.client, pki.server, pki.other_client)]
    own = [node(f"n{index}", text, files={"/etc/pki/node.pem": pem}) for index, pem in enumerate(pems)]
    found = report(*own)
    assert found.differences == ()
    assert "own-certificates" in [note.id for note in found.notes]
    shared = node("n3", text, files={"/etc/pki/node.pem": pems[0]})
    assert [each.nodes for each in report(*own, shared).differences] == [("n1",), ("n2",)]


def written(text: str, flags: Flags = Flags()) -> dict[str, str]:
    """What K3s writes for this registries.yaml, as files of a node."""
    files = render(parse(text.encode(), REGISTRIES), flags)
    return {f"{CERTS.removesuffix('/certs.d')}/{path}": content for path, content in files.items()}


def test_a_node_that_was_not_restarted_after_a_change() -> None:
    new = TEXT.replace("https://a.lan", "https://new.lan")
    usual = node("a", new, files=written(new))
    assert messages(usual, node("b", new, files=written(new))) == []
    [told] = messages(usual, node("b", new, files=written(TEXT)))
    assert told == (
        "b: certs.d/docker.io/hosts.toml asks https://a.lan/v2, registries.yaml https://new.lan/v2 (line 2); "
        "k3s was not restarted after a change: restart it, or run pierhead apply"
    )


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", TEXT, "certs.d/reg.lan:5000/hosts.toml is missing, registries.yaml asks for https://reg.lan:5000/v2"),
        (TEXT, "configs: {}", "certs.d/docker.io/hosts.toml is left over and asks https://a.lan/v2, "),
        (
            TEXT.replace("      - https://b.lan\n", ""),
            TEXT,
            "certs.d/docker.io/hosts.toml does not ask https://b.lan/v2, ",
        ),
        (
            TEXT,
            TEXT.replace("      - https://b.lan\n", ""),
            "certs.d/docker.io/hosts.toml asks https://b.lan/v2 as well",
        ),
        (
            TEXT.replace("a.lan", "c.lan").replace("b.lan", "a.lan").replace("c.lan", "b.lan"),
            TEXT,
            "certs.d/docker.io/hosts.toml asks https://b.lan/v2, https://a.lan/v2, https://registry-1.docker.io/v2, ",
        ),
        (TEXT.replace("ca.pem", "old.pem"), TEXT, "certs.d/reg.lan:5000/hosts.toml differs in CA from what "),
        (TEXT.replace("hub/$1", "h/$1"), TEXT, "certs.d/docker.io/hosts.toml differs in rewrites from what "),
    ],
)
def test_what_is_stale_is_named(before: str, after: str, told: str) -> None:
    files = {f"{CERTS}/other.lan/hosts.toml": '[host."https://x"]\n', **(written(before) if before else {})}
    assert any(f"a: {told}" in message for message in messages(node("a", after, files=files)))


def test_the_flags_that_certs_d_was_written_with_are_believed_if_nobody_looked() -> None:
    flags = Flags(disable_default_registry_endpoint=True, embedded_registry="127.0.0.1:6443")
    files = written(TEXT, flags)
    assert messages(node("a", TEXT, files=files), node("b", TEXT, files=files)) == []
    [told] = messages(node("a", TEXT, files={**files, ARGUMENTS: "k3s server"}))
    assert "registry-1.docker.io" in told  # K3s runs without the flag, so it would ask it


def test_flags_and_directories_of_an_administrator_are_compared() -> None:
    own = {f"{CERTS}/own.lan/hosts.toml": 'server = "https://own.lan"\n'}
    other = {f"{CERTS}/own.lan/hosts.toml": '# mine\nserver   = "https://elsewhere.lan"\n'}
    two = (node("a", TEXT, files={**written(TEXT), **own}), node("b", TEXT, files={**written(TEXT), **own}))
    [told] = messages(*two, node("c", TEXT, files={**written(TEXT), **other}))
    assert told.startswith("c: certs.d/own.lan/hosts.toml asks https://elsewhere.lan/v2, on the others ")
    [told] = messages(*two, node("c", TEXT, files=written(TEXT)))
    assert told == "c lacks a certs.d/own.lan/hosts.toml that K3s did not write"
    with_flag = {ARGUMENTS: "--disable-default-registry-endpoint"}
    [told] = messages(node("a", TEXT, files={ARGUMENTS: ""}), node("b", TEXT, files=with_flag))
    assert told == "b has --disable-default-registry-endpoint, unlike a"


@pytest.mark.parametrize(
    ("files", "settings_found"),
    [
        (
            {ARGUMENTS: "ExecStart=/usr/local/bin/k3s \\\n  server \\\n  '--private-registry' \\\n  '/x.yaml' \\\n"},
            "/x.yaml",
        ),
        ({ARGUMENTS: "--token secret --private-registry=/y.yaml"}, "/y.yaml"),
        ({"/etc/rancher/k3s/config.yaml": 'token: secret\n"private-registry": "/z.yaml" # ours\n'}, "/z.yaml"),
        ({ARGUMENTS: "--private-registry /a", "/etc/rancher/k3s/config.yaml": "private-registry: /b\n"}, "/a"),
    ],
)
def test_settings_are_read_from_where_k3s_takes_them(files: dict[str, str], settings_found: str) -> None:
    collected = node("a", None, files=files)
    assert collected.registries_path == settings_found
    assert "secret" not in str(collected.settings)


def test_a_setting_is_on_as_go_reads_it() -> None:
    assert [is_on(text) for text in ("", "true", "1", "T", "false", "0", None, "yes")] == [True] * 4 + [False] * 4


# -- laws -------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["docker.io", "quay.io", "reg.lan:5000", "*", "a.example"])
URLS = st.sampled_from(["https://a.lan", "http://b.lan:5000", "https://c.lan/proxy", "d.lan"])
WORDS = st.sampled_from(["alpha", "no", "1e3", "a b", "ü", "x: y", "#z", "null"])
MIRROR = st.fixed_dictionaries(
    {"endpoint": st.lists(URLS, min_size=1, max_size=4, unique=True)},
    optional={"rewrite": st.dictionaries(st.sampled_from(["^a", "b$", "(.*)"]), WORDS, min_size=1, max_size=3)},
)
AUTH = st.fixed_dictionaries({"username": WORDS}, optional={"password": WORDS, "identity_token": WORDS})
TLS = st.fixed_dictionaries(
    {"insecure_skip_verify": st.booleans()}, optional={"ca_file": WORDS, "cert_file": WORDS, "key_file": WORDS}
)
CONFIG = st.fixed_dictionaries({}, optional={"auth": AUTH, "tls": TLS})
FILES = st.fixed_dictionaries(
    {
        "mirrors": st.dictionaries(NAMES, MIRROR, min_size=1, max_size=4),
        "configs": st.dictionaries(NAMES, CONFIG, max_size=3),
    }
)


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same, with the keys of every mapping in another order."""
    if not isinstance(value, dict):
        return value
    keys = list(value)
    chance.shuffle(keys)
    return {key: shuffled(value[key], chance) for key in keys}


def spelled(file: dict[str, Any], chance: random.Random) -> str:
    """The same file as somebody else would write it."""
    style = chance.choice([None, '"', "'"])
    text: str = yaml.safe_dump(
        shuffled(file, chance),
        sort_keys=False,
        default_style=None if style is None else style,
        default_flow_style=chance.choice([True, False, None]),
        allow_unicode=chance.choice([True, False]),
        indent=chance.choice([2, 4, 7]),
        width=chance.choice([20, 80, 1000]),
    )
    if style is not None:  # `"true"` is no bool to Go
        text = (
            text.replace("!!bool ", "").replace(f"{style}true{style}", "true").replace(f"{style}false{style}", "false")
        )
    if chance.random() < 0.5 and not text.startswith("{"):
        text = "".join(f"{line}\n" for line in ["# a comment", *text.splitlines(), "", "# the end"])
    return text


@settings(deadline=None, max_examples=60)
@given(FILES, st.randoms(use_true_random=False))
def test_the_same_file_in_any_spelling_is_no_drift(file: dict[str, Any], chance: random.Random) -> None:
    found = report(*(node(f"n{number}", spelled(file, chance)) for number in range(4)))
    assert {each.registries_state for each in found.seen} == {"usable"}
    assert found.differences == ()


Change = Callable[[dict[str, Any], random.Random], None]


def _drop_mirror(file: dict[str, Any], chance: random.Random) -> None:
    del file["mirrors"][chance.choice(sorted(file["mirrors"]))]


def _turn_endpoints(file: dict[str, Any], chance: random.Random) -> None:
    file["mirrors"][chance.choice(sorted(file["mirrors"]))]["endpoint"].insert(0, "https://new.lan")


def _add_rewrite(file: dict[str, Any], chance: random.Random) -> None:
    file["mirrors"][chance.choice(sorted(file["mirrors"]))].setdefault("rewrite", {})["^new"] = "x"


def _change_rewrite(file: dict[str, Any], chance: random.Random) -> None:
    for mirror in file["mirrors"].values():
        for pattern in mirror.get("rewrite", {}):
            mirror["rewrite"][pattern] += "x"
            return
    _add_rewrite(file, chance)


def _change_config(file: dict[str, Any], chance: random.Random) -> None:
    """One value under `configs`, whichever there is; else a new entry."""
    blocks = [entry[name] for entry in file["configs"].values() for name in ("auth", "tls") if name in entry]
    if not blocks:
        file["configs"]["new.lan"] = {"auth": {"username": "u"}}
        return
    block = chance.choice(blocks)
    name = chance.choice(sorted(block))
    block[name] = not block[name] if isinstance(block[name], bool) else f"{block[name]}x"


@settings(deadline=None, max_examples=80)
@given(
    FILES,
    st.sampled_from([_drop_mirror, _turn_endpoints, _add_rewrite, _change_rewrite, _change_config]),
    st.randoms(use_true_random=False),
)
def test_any_one_change_is_found_and_names_the_node(
    file: dict[str, Any], change: Change, chance: random.Random
) -> None:
    changed = copy.deepcopy(file)
    change(changed, chance)
    texts = [file, file, changed, file]
    found = report(*(node(f"n{number}", spelled(each, chance)) for number, each in enumerate(texts)))
    assert found.differing == ("n2",)
    assert all("n2" in difference.message for difference in found.differences)


# -- folders ----------------------------------------------------------------------------------------------------------


def plant(folder: Path, text: str = TEXT, version: str = "v1.31.4+k3s1") -> Path:
    """A folder with the files of a node, as they lie on it."""
    for path, data in {REGISTRIES: text, **written(text)}.items():
        (folder / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (folder / path[1:]).write_text(data)
    (folder / VERSION).write_text(f"k3s version {version} (a562d090)\ngo version go1.22.9\n")
    return folder


def fleet(*arguments: str | Path, code: int) -> Ran:
    return run_pierhead("fleet", "check", *arguments, code=code)


def test_a_folder_of_folders_is_a_fleet(tmp_path: Path) -> None:
    for name in ("server1", "worker1", "worker10", "worker2"):
        plant(tmp_path / "nodes" / name)
    same = fleet("--nodes", tmp_path / "nodes", code=0)
    assert "server1, worker1, worker2 and 1 more  v1.31.4+k3s1  as the others    follows it" in same.out
    assert same.out.endswith("\n4 nodes, no difference\n")
    plant(tmp_path / "nodes" / "worker2", TEXT.replace("      insecure_skip_verify: true\n", ""))
    drift = fleet("--nodes", tmp_path / "nodes", code=1)
    assert "differs  worker2 lacks insecure_skip_verify for reg.lan:5000 (line 15 on the others)\n" in drift.out
    assert "planted" not in drift.said


def test_json_holds_all_of_it_and_no_secret(tmp_path: Path) -> None:
    plant(tmp_path / "a")
    plant(tmp_path / "b", TEXT.replace("planted-secret", "planted-other"), "v1.30.4+k3s1")
    ran = fleet("--nodes", tmp_path / "a", tmp_path / "b", "-o", "json", code=1)
    assert "planted" not in ran.said
    document = json.loads(ran.out)
    assert {name: document["nodes"][0][name] for name in ("name", "program", "version", "certs_d", "error")} == {
        "name": "a",
        "program": "k3s",
        "version": "v1.31.4+k3s1",
        "certs_d": "follows it",
        "error": None,
    }
    assert [each["kind"] for each in document["differences"]] == ["version", "password"]
    assert document["differences"][1]["line"] == 12
    assert document["differences"][1]["nodes"] == ["b"]
    assert document["summary"] == {"nodes": 2, "differing": ["b"], "unreadable": 0, "differences": 2}


def test_a_file_lists_nodes_and_plain_files_are_nodes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(TEXT)
    plant(tmp_path / "three")
    (tmp_path / "nodes.txt").write_text("# the fleet\nfirst one.yaml\n\ntwo.yaml  # as it is called\nthree\n")
    ran = fleet("--nodes", tmp_path / "nodes.txt", "-o", "json", code=0)
    assert [each["name"] for each in json.loads(ran.out)["nodes"]] == ["first", "two", "three"]


def test_nodes_that_cannot_be_read_are_named_and_end_with_6(tmp_path: Path) -> None:
    plant(tmp_path / "nodes" / "a")
    (tmp_path / "nodes" / "b").mkdir()
    ran = fleet("--nodes", tmp_path / "nodes", code=6)
    assert "no answer  b: " in ran.out
    assert ran.out.endswith("2 nodes, no difference, 1 could not be read\n")
    shutil.rmtree(tmp_path / "nodes" / "a")
    assert "1 could not be read" in fleet("--nodes", tmp_path / "nodes", code=2).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no nodes are named"),
        (("--nodes", "/nonexistent/nodes.txt"), "cannot read /nonexistent/nodes.txt"),
        (("--nodes", "/nonexistent/nodes.txt", "--sudo"), "of use with --ssh only"),
    ],
)
def test_a_call_that_makes_no_sense_says_so(arguments: tuple[str, ...], said: str) -> None:
    assert said in fleet(*arguments, code=2).err


def test_two_nodes_of_one_name_are_refused(tmp_path: Path) -> None:
    plant(tmp_path / "x" / "node")
    plant(tmp_path / "y" / "node")
    with pytest.raises(UsageError, match="two nodes are called 'node'"):
        sources([str(tmp_path / "x" / "node"), str(tmp_path / "y" / "node")], None)


def test_nothing_outside_of_a_folder_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("planted-outside")
    folder = plant(tmp_path / "node", TEXT.replace("/etc/pki/ca.pem", "/etc/pki/../../../secret"))
    (folder / "etc/rancher/k3s/config.yaml").symlink_to(secret)
    hosts = folder / CERTS[1:] / "docker.io/hosts.toml"
    hosts.unlink()
    hosts.symlink_to("../" * 12 + str(secret))
    collected = from_folder(folder, "node")
    assert b"planted-outside" not in collected.files.values()
    assert {"/etc/rancher/k3s/config.yaml", f"{CERTS}/docker.io/hosts.toml"} <= collected.unreadable


def test_a_pipe_and_a_folder_in_place_of_a_file_hang_nothing(tmp_path: Path) -> None:
    import os

    folder = plant(tmp_path / "node")
    (folder / VERSION).unlink()
    os.mkfifo(folder / VERSION)
    hosts = folder / CERTS[1:] / "docker.io/hosts.toml"
    hosts.unlink()
    hosts.mkdir()
    collected = from_folder(folder, "node")
    assert VERSION not in collected.files
    assert collected.unreadable == {VERSION, f"{CERTS}/docker.io/hosts.toml"}
    with pytest.raises(UnreadableNode):
        from_folder(tmp_path / "node/etc", "node")


def test_two_hundred_nodes_take_no_two_seconds(tmp_path: Path) -> None:
    """Each written in another way, so that nothing can be read once for all."""
    for number in range(200):
        text = f"# node {number}\n{TEXT}" if number != 150 else TEXT.replace("https://b.lan", "https://c.lan")
        plant(tmp_path / f"node{number}", text)
    start = time.process_time()  # of all threads; how busy the machine is does not count
    collected, failed = collect(sources([str(tmp_path)], None), 16)
    found = report(*collected)
    assert time.process_time() - start < 2
    assert not failed
    assert found.differing == ("node150",)


def test_work_is_done_for_at_most_so_many_nodes_at_once() -> None:
    import threading

    lock, now, most = threading.Lock(), 0, 0
    gate = threading.Barrier(3, timeout=10)

    def work() -> Collected:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        gate.wait()
        with lock:
            now -= 1
        return node("x")

    collected, _ = collect([Source(str(number), work) for number in range(9)], 3)
    assert len(collected) == 9
    assert most == 3


# -- the documentation ------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs/reference/fleet.md").read_text(encoding="utf-8")


def documented(folder: Path) -> None:
    """The five nodes of the page."""
    text = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
    for name in ("server1", "worker1", "worker2", "worker3", "worker4"):
        plant(folder / "nodes" / name, text, "v1.31.2+k3s1" if name == "worker4" else "v1.32.4+k3s1")
    second = text.replace('"https://a.lan"', '"https://x.lan"').replace("not-this-one", "nor-this-one")
    (folder / "nodes/worker2" / REGISTRIES[1:]).write_text(second)
    (folder / "nodes/worker3" / REGISTRIES[1:]).write_text(text.replace("      insecure_skip_verify: true\n", ""))


@pytest.mark.parametrize("shown", re.findall(r"```console\n\$ pierhead fleet check (.*?)```", PAGE, re.DOTALL))
def test_the_documentation_shows_real_output(tmp_path: Path, shown: str) -> None:
    command, output = shown.split("\n", 1)
    documented(tmp_path)
    ran = run_pierhead(
        "fleet", "check", *command.split(), code=1, prefix=("sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path))
    )
    assert ran.out == output


def test_the_documentation_names_every_kind_of_difference() -> None:
    kinds = PAGE.rpartition("Kinds: ")[2]
    assert all(f"`{kind}`" in kinds for kind in TELLERS if not kind.startswith("--"))
