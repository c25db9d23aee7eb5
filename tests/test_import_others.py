"""registries.conf, daemon.json and logins as registries.yaml."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.config.imports.authfile import UnusableAuthFile, take_logins
from pierhead.config.imports.daemon_json import UnusableDaemonJson, from_daemon_json
from pierhead.config.imports.draft import Draft
from pierhead.config.imports.reading import HostFolder, Unreadable, read_conf
from pierhead.config.imports.registries_conf import UnusableRegistriesConf, from_registries_conf
from pierhead.config.imports.written import registries_yaml
from pierhead.config.k3s import hosts
from pierhead.config.registries import parse
from pierhead.rewriting import compile_pattern, replace_all


def value(draft: Draft) -> dict[str, Any]:
    """The file as YAML says it, and K3s reads it without a complaint."""
    text = registries_yaml(draft, "Made for a test", show_secrets=True)
    config = parse(text.encode(), "registries.yaml")
    assert (config.error, config.problems) == (None, ())
    read: dict[str, Any] = yaml.safe_load(text) or {}
    return read


def told(draft: Draft) -> list[tuple[str, str, int]]:
    return [
        (problem.severity, problem.id.removeprefix("import-"), problem.span.line if problem.span else 0)
        for problem in draft.told
    ]


def podman(text: str, *certificates: HostFolder) -> Draft:
    return from_registries_conf([("registries.conf", text.encode())], certificates)


INSECURE = {"tls": {"insecure_skip_verify": True}}

# -- registries.conf --------------------------------------------------------------------------------------------------


def test_mirrors_of_a_whole_registry() -> None:
    draft = podman(
        "[[registry]]\n"
        'location = "quay.io"\n'
        "[[registry.mirror]]\n"
        'location = "m.lan:5000"\n'
        "insecure = true\n"
        "[[registry.mirror]]\n"
        'location = "n.lan"\n'
    )
    assert value(draft) == {
        "mirrors": {"quay.io": {"endpoint": ["http://m.lan:5000", "https://n.lan"]}},
        "configs": {"m.lan:5000": INSECURE},
    }
    assert told(draft) == []


def test_insecure_means_https_and_then_http_without_verification() -> None:
    draft = podman('[[registry]]\nlocation = "r.lan:5000"\ninsecure = true\n')
    config = parse(registries_yaml(draft, "x", show_secrets=True).encode(), "r.yaml")
    first, default = hosts(config).lookup("r.lan:5000").hosts
    assert first.tries_https_first
    assert (first.scheme, first.host, first.skip_verify) == ("http", "r.lan:5000", True)
    assert default.skip_verify


NAMESPACES = [
    ("docker.io/rancher", "m.lan/rancher", "rancher/k3s", "rancher/k3s"),
    ("docker.io/rancher", "m.lan/hub/rancher", "rancher/k3s", "hub/rancher/k3s"),
    ("docker.io/rancher", "m.lan/hub/rancher", "rancher2/k3s", "rancher2/k3s"),
    ("docker.io/rancher", "m.lan", "rancher/a/b", "a/b"),
    ("docker.io/library/alpine", "m.lan/alpine", "library/alpine", "alpine"),
    ("docker.io/library/alpine", "m.lan/alpine", "library/alpine/x", "alpine/x"),
    ("docker.io/library/alpine", "m.lan/alpine", "library/alpine3", "library/alpine3"),
    ("q.lan/a.b", "m.lan/c", "a.b/x", "c/x"),
    ("q.lan/a.b", "m.lan/c", "axb/x", "axb/x"),
    ("q.lan", "m.lan/c/d", "a/x", "c/d/a/x"),
]


@pytest.mark.parametrize(("prefix", "mirror", "repository", "wanted"), NAMESPACES)
def test_a_prefix_becomes_a_rewrite(prefix: str, mirror: str, repository: str, wanted: str) -> None:
    draft = podman(f'[[registry]]\nlocation = "{prefix}"\n[[registry.mirror]]\nlocation = "{mirror}"\n')
    registry, _, _ = prefix.partition("/")
    config = parse(registries_yaml(draft, "x", show_secrets=True).encode(), "r.yaml")
    host = hosts(config).lookup(registry).hosts[0]
    assert (host.host, host.path) == ("m.lan", "/v2")
    rules = [(compile_pattern(old), new) for old, new in host.rewrites.items()]
    assert next((replace_all(old, new, repository) for old, new in rules), repository) == wanted
    assert told(draft) == ([("warning", "namespace", 1)] if "/" in prefix else [])


def test_mirrors_below_different_names_get_paths() -> None:
    draft = podman(
        '[[registry]]\nlocation = "q.lan"\n'
        '[[registry.mirror]]\nlocation = "m.lan/quay"\n'
        '[[registry.mirror]]\nlocation = "n.lan"\n'
    )
    assert value(draft) == {"mirrors": {"q.lan": {"endpoint": ["https://m.lan/v2/quay", "https://n.lan"]}}}


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('unqualified-search-registries = ["r.lan", "docker.io"]\n', [("warning", "search-registries", 1)]),
        ('unqualified-search-registries = ["docker.io"]\n', []),
        ('[aliases]\n"a" = "r.lan/a"\n', [("warning", "aliases", 1)]),
        ('credential-helpers = ["pass"]\n', [("warning", "credential-helpers", 1)]),
        ('[[registry]]\nlocation = "r.lan"\nblocked = true\n', [("error", "blocked", 3)]),
        ('[[registry]]\nprefix = "*.lan"\n', [("error", "prefix", 1)]),
        ('[[registry]]\nlocation = "https://r.lan"\n', [("error", "prefix", 1)]),
        ('[[registry]]\nlocation = "r.lan/a:tag"\n', [("error", "prefix", 1)]),
        ('[[registry]]\nprefix = "r.lan"\nlocation = "s.lan"\n', [("warning", "moved", 3)]),
        (
            '[[registry]]\nlocation = "r.lan"\n[[registry.mirror]]\nlocation = "u:hunter2@m"\n',
            [("error", "location", 4)],
        ),
        (
            '[[registry]]\nlocation = "r.lan"\nmirror-by-digest-only = true\n'
            '[[registry.mirror]]\nlocation = "m.lan"\npull-from-mirror = "tag-only"\n',
            [("warning", "partial-mirror", 3), ("warning", "partial-mirror", 6)],
        ),
        (
            '[[registry]]\nlocation = "r.lan/a"\n[[registry.mirror]]\nlocation = "m.lan/b"\n'
            '[[registry.mirror]]\nlocation = "n.lan/c"\n',
            [("error", "names-differ", 6), ("warning", "namespace", 1)],
        ),
        (
            '[[registry]]\nlocation = "r.lan/a"\n[[registry.mirror]]\nlocation = "m.lan/b"\n'
            '[[registry]]\nlocation = "r.lan/a/x"\n',
            [("error", "rewrites-overlap", 1)],
        ),
        (
            '[[registry]]\nlocation = "m.lan"\ninsecure = true\n'
            '[[registry]]\nlocation = "r.lan"\n[[registry.mirror]]\nlocation = "m.lan"\n',
            [("warning", "unverified", 7)],
        ),
    ],
)
def test_what_k3s_cannot_say_of_registries_conf(text: str, problems: list[tuple[str, str, int]]) -> None:
    draft = podman(text)
    assert told(draft) == problems
    assert "hunter2" not in " ".join(problem.message for problem in draft.told)
    value(draft)


def test_version_1() -> None:
    draft = podman(
        "[registries.search]\n"
        "registries = ['docker.io', 'quay.io']\n"
        "[registries.insecure]\n"
        "registries = ['r.lan:5000']\n"
        "[registries.block]\n"
        "registries = ['evil.lan']\n"
    )
    assert value(draft) == {
        "mirrors": {"r.lan:5000": {"endpoint": ["http://r.lan:5000"]}},
        "configs": {"r.lan:5000": INSECURE},
    }
    assert told(draft) == [("warning", "search-registries", 1), ("error", "blocked", 6)]


def test_drop_ins(tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    below = tmp_path / "registries.conf.d"
    below.mkdir()
    table = '[[registry]]\nlocation = "{}"\n[[registry.mirror]]\nlocation = "{}"\n'
    conf.write_text(table.format("a.lan", "first.lan") + table.format("b.lan", "first.lan"))
    (below / "20-b.conf").write_text(table.format("b.lan", "third.lan"))
    (below / "10-b.conf").write_text(table.format("b.lan", "second.lan"))
    (below / "30-broken.conf").write_text("[[registry]\n")
    (below / "40-loop.conf").symlink_to("40-loop.conf")
    (below / "ignored.txt").write_text("?")
    draft = from_registries_conf(read_conf(conf))
    assert {name: mirror["endpoint"] for name, mirror in value(draft)["mirrors"].items()} == {
        "a.lan": ["https://first.lan"],
        "b.lan": ["https://third.lan"],
    }
    assert told(draft) == [("error", "unusable-toml", 1), ("error", "unreadable", 1)]
    assert value(from_registries_conf(read_conf(below)))["mirrors"] == {"b.lan": {"endpoint": ["https://third.lan"]}}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[[registry]\n", "c:1:1"),
        ("registry = 1\n", "c:1:1"),
        ('[[registry]]\nlocation = "a"\ninsecure = "yes"\n', "c:3:1"),
        ("[[registry]]\nmirror = [1]\n", "c:2:1"),
        ("[registries.search]\nregistries = 'a'\n", "c:2:1"),
        ("[registries]\nsearch = 1\n", "c:2:1"),
    ],
)
def test_a_registries_conf_that_podman_refuses(text: str, place: str) -> None:
    with pytest.raises(UnusableRegistriesConf) as caught:
        from_registries_conf([("c", text.encode())])
    assert str(caught.value.span) == place


def certificates(name: str, *files: str) -> HostFolder:
    at = f"/etc/containers/certs.d/{name}"
    return HostFolder(name, at, at, certificates=tuple(f"{at}/{file}" for file in files))


def test_certificates_of_podman() -> None:
    draft = podman(
        '[[registry]]\nlocation = "q.lan"\n[[registry.mirror]]\nlocation = "m.lan"\ninsecure = true\n',
        certificates("m.lan", "a.crt"),
        certificates("other.lan", "a.crt", "b.crt", "c.cert", "c.key", "d.cert"),
    )
    at = "/etc/containers/certs.d"
    assert value(draft)["configs"] == {
        "m.lan": {"tls": {"ca_file": f"{at}/m.lan/a.crt", "insecure_skip_verify": True}},
        "other.lan": {
            "tls": {
                "ca_file": f"{at}/other.lan/a.crt",
                "cert_file": f"{at}/other.lan/c.cert",
                "key_file": f"{at}/other.lan/c.key",
            }
        },
    }
    assert told(draft) == [("error", "several-ca", 1)]


# -- daemon.json ------------------------------------------------------------------------------------------------------


def docker(content: object) -> Draft:
    return from_daemon_json(json.dumps(content, indent=1).encode(), "daemon.json")


def test_mirrors_and_insecure_registries_of_docker() -> None:
    draft = docker(
        {
            "registry-mirrors": ["https://m.lan/", "http://10.0.0.5:5000", "https://n.lan/hub"],
            "insecure-registries": ["r.lan:5000", "10.0.0.5:5000", "127.0.0.0/8"],
        }
    )
    assert value(draft) == {
        "mirrors": {
            "docker.io": {"endpoint": ["https://m.lan", "http://10.0.0.5:5000", "https://n.lan/hub/v2"]},
            "r.lan:5000": {"endpoint": ["http://r.lan:5000"]},
            "10.0.0.5:5000": {"endpoint": ["http://10.0.0.5:5000"]},
        },
        "configs": {"10.0.0.5:5000": INSECURE, "r.lan:5000": INSECURE},
    }
    assert told(draft) == []


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ({"insecure-registries": ["10.0.0.0/8"]}, [("error", "insecure-network", 3)]),
        ({"insecure-registries": ["http://r.lan"]}, [("error", "no-registry", 3)]),
        ({"registry-mirrors": ["m.lan"]}, [("error", "no-endpoint", 3)]),
        ({"registry-mirrors": ["https://h:port"]}, [("error", "no-endpoint", 3)]),
        ({"registry-mirrors": ["https://u:hunter2@m.lan"]}, [("error", "userinfo", 3)]),
        ({"proxies": {"http-proxy": "http://u:hunter2@p"}}, [("note", "elsewhere", 2)]),
        ({"log-driver": "journald"}, []),
    ],
)
def test_what_k3s_cannot_say_of_daemon_json(content: object, problems: list[tuple[str, str, int]]) -> None:
    draft = docker(content)
    assert told(draft) == problems
    assert "hunter2" not in registries_yaml(draft, "x", show_secrets=True)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"{\n ?", "d:2:2"),
        (b"[]", "d:1:1"),
        (b'{\n"registry-mirrors": "x"}', "d:2:1"),
        (b'{"insecure-registries": [1]}', "d:1:2"),
        (b"[" * 100_000, "d:1:1"),
    ],
)
def test_a_daemon_json_that_docker_refuses(data: bytes, place: str) -> None:
    with pytest.raises(UnusableDaemonJson) as caught:
        from_daemon_json(data, "d")
    assert str(caught.value.span) == place


def test_an_empty_daemon_json() -> None:
    assert value(from_daemon_json(b"", "d")) == {}


# -- logins -----------------------------------------------------------------------------------------------------------

PACKED = base64.b64encode(b"u:hunter2").decode()


def logins(content: object) -> Draft:
    draft = Draft()
    take_logins(draft, json.dumps(content).encode(), "auth.json")
    return draft


def test_logins() -> None:
    draft = logins(
        {
            "auths": {
                "r.lan:5000": {"auth": PACKED},
                "https://index.docker.io/v1/": {"auth": PACKED},
                "t.lan": {"auth": "MDA6", "identitytoken": "hunter3"},
                "u.lan": {"username": "u", "password": "hunter2"},
                "q.lan/team": {"auth": PACKED},
                "bad.lan": {"auth": "!!"},
                "helped.lan": {},
            },
            "credsStore": "pass",
        }
    )
    assert {host: config["auth"] for host, config in value(draft)["configs"].items()} == {
        "r.lan:5000": {"auth": PACKED},
        "docker.io": {"auth": PACKED},
        "t.lan": {"identity_token": "hunter3"},
        "u.lan": {"auth": PACKED},
    }
    assert [id for _, id, _ in told(draft)] == ["credential-helpers", "hub-login", "namespace-login", "unusable-login"]
    shown = registries_yaml(draft, "x", show_secrets=False) + repr(draft)
    assert not [secret for secret in (PACKED, "hunter") if secret in shown]


def test_two_logins_of_one_host() -> None:
    draft = logins({"auths": {"https://r.lan": {"auth": PACKED}, "r.lan": {"identitytoken": "t"}}})
    assert value(draft) == {"configs": {"r.lan": {"auth": {"auth": PACKED}}}}
    assert told(draft) == [("error", "two-logins", 1)]


@pytest.mark.parametrize("data", [b'{"auths": "hunter2"}', b"hunter2", b"\xff", b'["hunter2"]', b"[" * 100_000])
def test_a_file_that_holds_no_logins(data: bytes) -> None:
    with pytest.raises(UnusableAuthFile) as caught:
        take_logins(Draft(), data, "auth.json")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__context__


# -- whatever it is ---------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=6,
)
DAEMON = st.dictionaries(
    st.sampled_from(["registry-mirrors", "insecure-registries", "proxies"]), JSON | st.lists(st.text())
)
AUTHS = st.fixed_dictionaries({"auths": st.dictionaries(st.text(max_size=6), JSON)})


@settings(deadline=None)
@given(DAEMON | JSON)
def test_any_json_makes_a_file_or_a_clear_refusal(content: object) -> None:
    with suppress(UnusableDaemonJson):
        value(docker(content))


@settings(deadline=None)
@given(AUTHS | JSON)
def test_any_logins_make_a_file_or_a_clear_refusal(content: object) -> None:
    with suppress(UnusableAuthFile):
        value(logins(content))


LINES = st.sampled_from(
    [
        *(
            'location = "r.lan/a"',
            'prefix = "r.lan"',
            "[[registry]]",
            "[[registry.mirror]]",
            "insecure = true",
            "x = 1",
        ),
        *(
            "[aliases]",
            "registry = 1",
            "mirror = []",
            "[registry]",
            "[registries.insecure]",
            'registries = ["a b", "c"]',
        ),
    ]
)


@settings(deadline=None)
@given(st.lists(LINES | st.text(max_size=10), max_size=12))
def test_any_registries_conf_makes_a_file_or_a_clear_refusal(lines: list[str]) -> None:
    with suppress(UnusableRegistriesConf):
        value(podman("\n".join(lines)))


def test_nothing_to_read() -> None:
    with pytest.raises(UnusableRegistriesConf, match="not a regular file"):
        from_registries_conf([("c", Unreadable("c", "it is not a regular file"))])
