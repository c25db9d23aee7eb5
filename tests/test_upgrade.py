"""What releases of K3s make of a registries.yaml, what changes between two of them, why, and at which line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.auth import from_registries
from pierhead.config.k3s import Flags, K3sHosts, auth_for, hosts
from pierhead.config.k3s_support import unsupported
from pierhead.config.registries import RegistriesConfig, UnusableConfig, parse
from pierhead.config.versions import FACTS, K3sVersion, behaviour
from pierhead.reference import Reference
from pierhead.routing import Plan, plan
from pierhead.upgrade import Change, changes, made_up
from test_k3s_hosts import CASES, FLAGS, REGISTRIES, loaded
from test_versions import VERSIONS

BOUNDARIES = sorted(
    {text for fact in FACTS for text in (*fact.since, *(text for gap in fact.lost for text in gap if text))}
)
RELEASES = st.sampled_from(
    [*map(K3sVersion.parse, BOUNDARIES), K3sVersion(1, 25), K3sVersion(1, 20), K3sVersion(1, 36)]
)


def read(text: str) -> RegistriesConfig:
    return parse(text.encode(), "r.yaml")


def release(config: RegistriesConfig, version: str, **flags: Any) -> K3sHosts:
    return hosts(config, Flags(**flags), behaviour(K3sVersion.parse(version)))


def planned(text: str, image: str, version: str, **flags: Any) -> Plan:
    reference = Reference.parse(image)
    return plan(reference, release(read(text), version, **flags).lookup(reference.registry))


def asked(text: str, image: str, version: str, **flags: Any) -> list[str]:
    """The places of an image with the name that they are asked for."""
    return [f"{route.url}/{route.repository}" for route in planned(text, image, version, **flags).routes]


def found(text: str, image: str, old: str, new: str, **flags: Any) -> list[Change]:
    versions = {"old": K3sVersion.parse(old), "new": K3sVersion.parse(new)}
    (only,) = changes(read(text), Flags(**flags), **versions, references=[Reference.parse(image)])
    return list(only.changes)


def told(text: str, image: str, old: str, new: str, **flags: Any) -> list[tuple[str, str, list[str], int | None]]:
    """Kind, place, causes and line of each change."""
    return [
        (item.kind, item.place, [fact.name for fact in item.facts], item.span.line if item.span else None)
        for item in found(text, image, old, new, **flags)
    ]


# -- the current release ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if case["exit"] == 0][::4], ids=lambda case: case["id"])
def test_the_current_release_is_as_recorded(case: dict[str, Any]) -> None:
    config, flags = loaded(case)
    assert hosts(config, flags, behaviour(K3sVersion.parse("v1.35.0+k3s1"))) == hosts(config, flags)
    assert unsupported(config, flags, K3sVersion.parse("v1.35.0+k3s1")) == ()


# -- before certs.d ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoints", "image", "places"),
    [
        ("[]", "r.lan/a", ["https://r.lan/v2/a"]),
        ("[m.lan]", "r.lan/a", ["https://m.lan/v2/a", "https://r.lan/v2/a"]),
        ("[m.lan, m.lan]", "r.lan/a", ["https://m.lan/v2/a", "https://m.lan/v2/a", "https://r.lan/v2/a"]),
        ("['http://m.lan:80', 'localhost:443']", "r.lan/a", ["http://m.lan:80/v2/a", "http://localhost:443/v2/a", "https://r.lan/v2/a"]),
        ("['https://m.lan/', 'https://m.lan/hub']", "r.lan/a", ["https://m.lan//a", "https://m.lan/hub/a", "https://r.lan/v2/a"]),
        # whatever its scheme, an endpoint with the registry's name keeps the default one away, wherever it stands
        ("['http://r.lan', m.lan]", "r.lan/a", ["http://r.lan/v2/a", "https://m.lan/v2/a"]),
    ],
)  # fmt: skip
def test_endpoints_before_certs(endpoints: str, image: str, places: list[str]) -> None:
    assert asked(f"mirrors: {{r.lan: {{endpoint: {endpoints}}}}}", image, "v1.26.12") == places


def test_docker_io_before_certs() -> None:
    text = "mirrors: {docker.io: {endpoint: ['https://registry-1.docker.io']}}"
    # the name that is compared is docker.io: the default one is asked again
    assert asked(text, "redis", "v1.26.12") == ["https://registry-1.docker.io/v2/library/redis"] * 2
    assert asked("mirrors: {docker.io: {endpoint: [docker.io]}}", "redis", "v1.26.12") == [
        "https://docker.io/v2/library/redis"
    ]


def test_the_wildcard_before_certs() -> None:
    text = "mirrors: {'*': {endpoint: [w.lan], rewrite: {a: b}}, r.lan: null}\nconfigs: {t.lan: {tls: {ca_file: /ca}}}"
    assert asked(text, "x.lan/a", "v1.26.12") == ["https://w.lan/v2/b", "https://x.lan/v2/b"]
    assert asked(text, "r.lan/a", "v1.26.12") == ["https://r.lan/v2/a"]  # an empty mirror is one
    assert asked(text, "t.lan/a", "v1.26.12") == [
        "https://w.lan/v2/b",
        "https://t.lan/v2/b",
    ]  # an entry of configs is not
    assert asked(text, "t.lan/a", "v1.28.6") == ["https://t.lan/v2/a"]


def test_tls_before_certs_is_that_of_the_endpoints_host() -> None:
    text = (
        "mirrors: {docker.io: {endpoint: [m.lan, 'http://m.lan']}}\n"
        "configs: {m.lan: {tls: {ca_file: /ca, cert_file: /c, key_file: /k}}, docker.io: {tls: {ca_file: /no}},\n"
        "          registry-1.docker.io: {tls: {insecure_skip_verify: true}}}"
    )
    first, plain, default = planned(text, "redis", "v1.26.12").routes
    assert (first.tls.ca_files, first.tls.client) == (("/ca",), (("/c", "/k"),))
    assert (plain.scheme, plain.tls.ca_files, plain.http_fallback) == ("http", (), False)  # no TLS is tried first
    assert (default.tls.ca_files, default.tls.insecure_skip_verify) == ((), True)


def test_one_endpoint_that_is_no_url_fails_the_registry_before_certs() -> None:
    text = "mirrors: {r.lan: {endpoint: [m.lan, 'https://h:port']}}"
    made = release(read(text), "v1.26.12")
    lookup = made.lookup("r.lan")
    assert lookup.hosts == ()
    assert [problem.id for problem in lookup.problems] == ["invalid-endpoint"]
    assert [(skip.endpoint and skip.endpoint.value, skip.reason) for skip in made.skipped_for(lookup)] == [
        ("m.lan", "lost-mirror"),
        ("https://h:port", "invalid-url"),
    ]
    assert asked(text, "r.lan/a", "v1.30") == ["https://m.lan/v2/a", "https://r.lan/v2/a"]


def test_a_backslash_before_certs_keeps_containerd_from_starting() -> None:
    config = read("mirrors: {r.lan: {endpoint: [m.lan], rewrite: {'a\\.b': x}}}")
    assert [(problem.id, problem.span and problem.span.column) for problem in release(config, "v1.26.12").problems] == [
        ("containerd-does-not-start", 48)
    ]
    (change, *_) = found("mirrors: {r.lan: {endpoint: [m.lan], rewrite: {'a\\.b': x}}}", "r.lan/a", "v1.26.12", "v1.30")
    assert (change.kind, [fact.name for fact in change.facts], change.after) == (
        "refused",
        ["certs_d"],
        "containerd starts",
    )


# -- what older releases do not know ----------------------------------------------------------------------------------


def test_rewrites_reach_the_default_endpoint_before_certs() -> None:
    text = "mirrors: {docker.io: {endpoint: [m.lan], rewrite: {'^library/(.*)': 'hub/$1'}}}"
    assert asked(text, "redis", "v1.20") == [
        "https://m.lan/v2/library/redis",
        "https://registry-1.docker.io/v2/library/redis",
    ]
    assert asked(text, "redis", "v1.21.0+k3s1") == [
        "https://m.lan/v2/hub/redis",
        "https://registry-1.docker.io/v2/hub/redis",
    ]
    assert asked(text, "redis", "v1.29.1") == [
        "https://m.lan/v2/hub/redis",
        "https://registry-1.docker.io/v2/library/redis",
    ]


def test_flags_that_did_not_exist_are_without_effect() -> None:
    text = "mirrors: {r.lan: {endpoint: [m.lan]}}"
    flags = {"disable_default_registry_endpoint": True, "embedded_registry": "127.0.0.1:6443"}
    assert asked(text, "r.lan/a", "v1.27.9", **flags) == ["https://m.lan/v2/a", "https://r.lan/v2/a"]
    assert asked(text, "r.lan/a", "v1.27.10", **flags) == ["https://127.0.0.1:6443/v2/a", "https://m.lan/v2/a"]


def test_settings_that_were_not_known() -> None:
    text = "configs: {r.lan: {auth: {identity_token: t}, tls: {insecure_skip_verify: true}}}"
    assert not planned(text, "r.lan/a", "v1.19.0+k3s1").routes[0].tls.insecure_skip_verify
    assert planned(text, "r.lan/a", "v1.19.1+k3s1").routes[0].tls.insecure_skip_verify
    for version, kind in (("v1.0.0", None), ("v1.0.1", "identity_token")):
        made = release(read(text), version)
        credential = from_registries(auth_for(made.config, "r.lan", made.behaviour))
        assert (credential.kind if credential else None) == kind
    assert asked("mirrors: {r.lan: {endpoint: [m.lan]}}", "r.lan/a", "v0.9.1") == ["https://r.lan/v2/a"]


def test_credentials_were_written_as_they_are() -> None:
    text = "configs: {r.lan: {auth: {username: 'a\\\\b', password: 'p\\u0041'}}, q.lan: {auth: {password: 'a\"'}}}"
    made = release(read(text), "v1.17.4+k3s1")
    credential = from_registries(auth_for(made.config, "r.lan", made.behaviour))
    assert credential is not None
    assert (credential.username, credential.secret.reveal()) == ("a\\b", "pA")
    assert [problem.id for problem in made.problems] == ["containerd-does-not-start"]
    assert release(read(text), "v1.17.5+k3s1").problems == ()
    only = text[: text.index(", q.lan")] + "}"
    (change,) = found(only, "r.lan/a", "v1.17.4+k3s1", "v1.17.5+k3s1")
    assert (change.before, change.after) == (
        "user 'a\\\\b' of configs 'r.lan', not as it is written",
        "user 'a\\\\\\\\b' of configs 'r.lan'",
    )
    assert [fact.name for fact in change.facts] == ["quoted_credentials"]


def test_docker_io_credentials() -> None:
    made = read("configs: {docker.io: {auth: {username: u}}, registry-1.docker.io: {tls: {}}}")
    old = release(made, "v1.33.2+k3s1")
    assert auth_for(old.config, "registry-1.docker.io", old.behaviour) is None
    new = release(made, "v1.33.3+k3s1")
    assert auth_for(new.config, "registry-1.docker.io", new.behaviour) is made.configs["docker.io"]


# -- certs.d in its first months --------------------------------------------------------------------------------------


def test_a_bare_endpoint_in_the_first_builds() -> None:
    text = "mirrors: {r.lan: {endpoint: [m.lan, '10.1.2.3:5000', '[::1]', 'https://n.lan', 'p.lan/hub']}}"
    old = ["https://m.lan//a", "https://n.lan/v2/a", "https://p.lan/hub/a", "https://r.lan/v2/a"]
    assert asked(text, "r.lan/a", "v1.28.6+k3s1") == old
    new = ["https://m.lan/v2/a", "https://10.1.2.3:5000/v2/a", "https://[::1]/v2/a", *old[1:]]
    assert asked(text, "r.lan/a", "v1.28.6+k3s2") == asked(text, "r.lan/a", "v1.28.6+rke2r1") == new


def test_a_listed_default_took_the_mirror_away() -> None:
    """As k3s#9626, with the file of the thread."""
    text = "mirrors: {docker.io: {endpoint: ['https://docker.nju.edu.cn/', 'https://registry-1.docker.io']}}"
    upstream = "https://registry-1.docker.io/v2/library/redis"
    assert asked(text, "redis", "v1.28.7+k3s1") == [upstream]
    assert asked(text, "redis", "v1.28.8+k3s1") == ["https://docker.nju.edu.cn/v2/library/redis", upstream]
    made = release(read(text), "v1.28.7+k3s1")
    assert [skip.reason for skip in made.skipped_for(made.lookup("docker.io"))] == ["lost-mirror"] * 2
    assert "mirror-lost" in [problem.id for problem in made.problems]


def test_a_listed_default_with_settings_stayed_where_it_was() -> None:
    text = "mirrors: {r.lan: {endpoint: [m.lan, r.lan], rewrite: {a: b}}}"
    assert asked(text, "r.lan/a", "v1.28.7") == ["https://m.lan/v2/b", "https://r.lan/v2/b"]
    assert asked(text, "r.lan/a", "v1.28.8") == ["https://m.lan/v2/b", "https://r.lan/v2/a"]
    text = "mirrors: {r.lan: {endpoint: [m.lan, r.lan]}}\nconfigs: {r.lan: {tls: {ca_file: /ca}}}"
    assert [route.tls.ca_files for route in planned(text, "r.lan/a", "v1.28.7").routes] == [(), ("/ca",)]
    text = "mirrors: {docker.io: {endpoint: [m.lan, docker.io]}}\nconfigs: {docker.io: {tls: {ca_file: /ca}}}"
    assert len(planned(text, "redis", "v1.28.7").routes) == 1  # it looked under registry-1.docker.io only
    flag = {"disable_default_registry_endpoint": True}
    assert len(planned(text, "redis", "v1.28.7", **flag).routes) == 2  # nothing was the default one then


def test_duplicates_made_containerd_ignore_the_file() -> None:
    """As k3s#9694, with the file of the thread."""
    text = "mirrors: {docker.io: {endpoint: ['https://registry.example.com', 'https://registry.example.com']}}"
    upstream = "https://registry-1.docker.io/v2/library/redis"
    assert asked(text, "redis", "v1.28.7+k3s1") == [upstream]
    assert asked(text, "redis", "v1.28.8+k3s1") == ["https://registry.example.com/v2/library/redis", upstream]
    made = release(read(text), "v1.28.7+k3s1").lookup("docker.io")
    assert made.directory is not None
    assert made.directory.unusable is not None
    assert "already exists" in made.directory.unusable


@pytest.mark.parametrize(
    ("version", "falls_back"),
    [("v1.28.5", True), ("v1.29.2+k3s1", False), ("v1.29.3", True), ("v1.31.6", False), ("v1.31.7", True)],
)
def test_the_wildcard_and_the_registry_itself(version: str, falls_back: bool) -> None:
    """As k3s#9728 and k3s#11857."""
    places = asked('mirrors: {"*": {endpoint: [m.lan]}}', "r.lan/a", version)
    assert places == ["https://m.lan/v2/a", "https://r.lan/v2/a"][: 1 + falls_back]
    made = release(read('mirrors: {"*": {endpoint: [m.lan]}}'), version)
    said = [skip.message for skip in made.skipped if skip.reason == "default-disabled"]
    assert said == ([] if falls_back else ["this release asks nobody behind the endpoints of a wildcard"])


def test_a_wildcard_under_configs_was_a_host() -> None:
    text = 'mirrors: {"*": {endpoint: [m.lan]}}\nconfigs: {"*": {tls: {insecure_skip_verify: true}}}'
    assert asked(text, "r.lan/a", "v1.28.7") == ["https://*/v2/a"]
    assert asked(text, "r.lan/a", "v1.28.8") == ["https://m.lan/v2/a", "https://r.lan/v2/a"]


@pytest.mark.parametrize(
    ("version", "loads"),
    [
        ("v1.28.5", True),
        ("v1.28.7", True),
        ("v1.28.8", False),
        ("v1.28.9", True),
        ("v1.26.15", False),
        ("v1.30.0", True),
    ],
)
def test_tls_of_a_registry_without_a_mirror(version: str, loads: bool) -> None:
    """As k3s#9983, with the file of the thread (v1.29.3); the first months wrote such a registry as an endpoint."""
    text = "configs: {registry.example.com: {auth: {username: u}, tls: {insecure_skip_verify: true}}}"
    (route,) = planned(text, "registry.example.com/a", version).routes
    assert (route.kind, route.tls.insecure_skip_verify) == ("default", loads)
    made = release(read(text), version)
    assert [skip.reason for skip in made.skipped] == []
    assert ("unusable-hosts-toml" in [problem.id for problem in made.problems]) is not loads


def test_tls_of_a_registry_behind_its_mirror() -> None:
    text = "mirrors: {r.lan: {endpoint: [m.lan]}}\nconfigs: {r.lan: {tls: {ca_file: /ca}}}"
    for version, ca_files in (("v1.28.5", ("/ca",)), ("v1.28.7", ()), ("v1.28.8", ("/ca",))):
        assert planned(text, "r.lan/a", version).routes[-1].tls.ca_files == ca_files


# -- what an upgrade changes ------------------------------------------------------------------------------------------


def test_the_upgrade_of_rke2_6447() -> None:
    """rke2#6447: v1.27.6 to v1.28.11, a registry that rewrites for itself."""
    text = (
        "mirrors:\n  myregistry.lan:\n    endpoint:\n      - https://myregistry.lan\n"
        "    rewrite:\n      '^rancher/(.*)': 'myproject/rancher/$1'\n"
    )
    (change,) = found(text, "myregistry.lan/rancher/pause", "v1.27.6+rke2r1", "v1.28.11+rke2r1")
    assert (change.kind, change.place) == ("repository", "https://myregistry.lan/v2")
    assert (change.before, change.after) == ("myproject/rancher/pause", "rancher/pause")
    assert [fact.name for fact in change.facts] == ["rewrites_spare_default"]
    assert {"rke2#6447", "rke2#7431", "k3s#7007"} <= set(change.facts[0].evidence)
    assert change.span is not None
    assert change.span.line == 6
    assert told(text, "myregistry.lan/other", "v1.27.6+rke2r1", "v1.28.11+rke2r1") == []
    trick = text.replace("https://myregistry.lan\n", "https://myregistry.lan:443\n")  # what the maintainers advise
    image = "myregistry.lan/rancher/pause"
    assert ("repository", "https://myregistry.lan:443/v2") not in [
        item[:2] for item in told(trick, image, "v1.27.6", "v1.28.11")
    ]


MIRROR = """\
mirrors:
  r.lan:
    endpoint:
      - m.lan
      - https://n.lan
"""


@pytest.mark.parametrize(
    ("text", "image", "versions", "expected"),
    [
        (MIRROR, "r.lan/a", ("v1.28.6+k3s1", "v1.28.6+k3s2"), [
            ("not-asked", "https://m.lan/", ["bare_endpoints"], 4),
            ("asked", "https://m.lan/v2", ["bare_endpoints"], 4),
        ]),
        (MIRROR + "      - r.lan\n", "r.lan/a", ("v1.28.7", "v1.28.8"), [
            ("asked", "https://m.lan/v2", ["default_listed_last"], 4),
            ("asked", "https://n.lan/v2", ["default_listed_last"], 5),
        ]),
        (MIRROR + "      - n.lan\n", "r.lan/a", ("v1.29.2", "v1.30.0"), [
            ("asked", "https://m.lan/v2", ["duplicates_harmless"], 4),
            ("asked", "https://n.lan/v2", ["duplicates_harmless"], 5),
        ]),
        (MIRROR.replace("r.lan", '"*"'), "r.lan/a", ("v1.30.11", "v1.32.2"), [
            ("not-asked", "https://r.lan/v2", ["wildcard_falls_back"], 2),
        ]),
        (MIRROR + "    rewrite:\n      a: b\n", "r.lan/a", ("v1.29.10", "v1.29.11"), [
            ("scope", "https://m.lan/v2", ["rewritten_scope"], 7),
            ("scope", "https://n.lan/v2", ["rewritten_scope"], 7),
        ]),
        (MIRROR + "    rewrite:\n      a: b\n", "r.lan/a", ("v1.20.15", "v1.21.0"), [
            ("repository", f"https://{host}.lan/v2", ["rewrites"], 7) for host in "mnr"
        ]),
        (MIRROR + "    rewrite:\n      a: b\n", "r.lan/a", ("v1.20.15", "v1.29.4"), [
            ("repository", f"https://{host}.lan/v2", ["rewrites"], 7) for host in "mn"
        ]),
        ("configs:\n  r.lan:\n    tls:\n      ca_file: /ca\n", "r.lan/a", ("v1.29.3", "v1.29.4"), [
            ("tls", "https://r.lan/v2", ["default_only_file"], 3),
        ]),
        (MIRROR + "configs:\n  r.lan:\n    tls:\n      ca_file: /ca\n", "r.lan/a", ("v1.29.2", "v1.29.3"), [
            ("tls", "https://r.lan/v2", ["config_of_default"], 8),
        ]),
        ("configs:\n  docker.io:\n    auth:\n      username: u\n", "redis", ("v1.33.2", "v1.33.3"), [
            ("credentials", "https://registry-1.docker.io/v2", ["docker_io_credentials"], 4),
        ]),
        (MIRROR.replace("      - m.lan\n", "      - https://r.lan\n"), "r.lan/a", ("v1.27.9", "v1.28.8"), [
            ("asked", "https://r.lan/v2", ["certs_d"], 2),
        ]),
    ],
)  # fmt: skip
def test_each_change_with_its_cause_and_line(
    text: str, image: str, versions: tuple[str, str], expected: list[tuple[str, str, list[str], int]]
) -> None:
    assert told(text, image, *versions) == expected


def test_the_order_of_places() -> None:
    text = "mirrors: {localhost:5000: {endpoint: [localhost:5000, localhost:5000, m.lan]}}"
    (order,) = [item for item in found(text, "localhost:5000/a", "v1.27.9", "v1.28.8") if item.kind == "order"]
    assert (order.place, [fact.name for fact in order.facts]) == ("", ["certs_d"])
    assert order.before == "http://localhost:5000/v2, http://localhost:5000/v2, https://m.lan/v2"
    assert order.after == "http://localhost:5000/v2, https://m.lan/v2, http://localhost:5000/v2"


def test_flags_count() -> None:
    flag = {"disable_default_registry_endpoint": True}
    assert told(MIRROR, "r.lan/a", "v1.27.9", "v1.28.8", **flag) == [
        ("not-asked", "https://r.lan/v2", ["disable_default_endpoint"], 2)
    ]


def test_no_secret_is_told() -> None:
    text = (
        "mirrors: {r.lan: {endpoint: ['https://u:hunter2@m.lan', 'https://u:hunter2@m.lan']}}\n"
        "configs: {docker.io: {auth: {username: u, password: hunter2}}, m.lan: {auth: {auth: hunter2}}}"
    )
    said = [
        found(text, image, old, "v1.34") for image in ("r.lan/a", "redis") for old in ("v1.17.4", "v1.28.7", "v1.33.2")
    ]
    assert any(said)
    assert "hunter2" not in repr(said)
    assert "hunter2" not in repr(unsupported(read(text), Flags(), K3sVersion.parse("v1.17.4")))


def test_a_file_that_k3s_refuses() -> None:
    with pytest.raises(UnusableConfig):
        found("mirrors: []", "a", "v1.20", "v1.30")


# Files as people have them: the names and endpoints meet each other, which those of REGISTRIES seldom do.
KEYS = st.sampled_from(["docker.io", "r.lan", "*", "localhost:5000", "registry-1.docker.io", "m.lan", "n.lan:5000"])
PLACES = st.sampled_from(
    [
        *("m.lan", "https://m.lan", "https://n.lan:5000", "docker.io", "r.lan", "https://r.lan/", "localhost:5000"),
        *("http://localhost:5000/v2", "10.0.0.1:5000", "https://registry-1.docker.io", "h:p:q"),
    ]
)
RULES = st.dictionaries(st.sampled_from(["^library/(.*)", "example", "\\."]), st.just("x/$1"), max_size=2)
PLAIN = st.builds(
    lambda mirrors, configs: read(json.dumps({"mirrors": mirrors, "configs": configs})),
    st.dictionaries(
        KEYS, st.fixed_dictionaries({"endpoint": st.lists(PLACES, max_size=3), "rewrite": RULES}), max_size=3
    ),
    st.dictionaries(
        KEYS,
        st.fixed_dictionaries(
            {},
            optional={
                "auth": st.just({"username": "u", "password": "p\\u0041"}),
                "tls": st.just({"ca_file": "/ca", "insecure_skip_verify": True}),
            },
        ),
        max_size=3,
    ),
)


@settings(deadline=None, max_examples=80)
@given(PLAIN | REGISTRIES, FLAGS, VERSIONS | RELEASES)
def test_nothing_changes_from_a_release_to_itself(config: RegistriesConfig, flags: Flags, version: K3sVersion) -> None:
    references = [*made_up(config), Reference.parse("redis"), Reference.parse("r.lan/a")]
    images = changes(config, flags, old=version, new=version, references=references)
    assert [image.reference for image in images] == references
    assert all(image.changes == () for image in images)


@settings(deadline=None, max_examples=80)
@given(PLAIN | REGISTRIES, FLAGS, RELEASES, RELEASES)
def test_changes_have_causes_and_go_both_ways(
    config: RegistriesConfig, flags: Flags, old: K3sVersion, new: K3sVersion
) -> None:
    references = [*made_up(config), Reference.parse("redis"), Reference.parse("r/a")]
    there = changes(config, flags, old=old, new=new, references=references)
    back = changes(config, flags, old=new, new=old, references=references)
    for one, other in zip(there, back, strict=True):
        assert bool(one.changes) == bool(other.changes)
        for change in one.changes:
            assert change.facts
            assert all(fact.of(old) != fact.of(new) for fact in change.facts)
        assert {(item.before, item.after) for item in one.changes} == {
            (item.after, item.before) for item in other.changes
        }


@settings(deadline=None, max_examples=80)
@given(PLAIN | REGISTRIES, FLAGS, RELEASES)
def test_every_endpoint_is_asked_or_skipped_in_every_release(
    config: RegistriesConfig, flags: Flags, version: K3sVersion
) -> None:
    made = hosts(config, flags, behaviour(version))
    assert made.error is None
    for key, mirror in config.mirrors.items():
        if not made.behaviour.certs_d and made.config.mirrors:
            lookup = made.lookup(key)
            endpoints = [host.origin.endpoint for host in lookup.hosts]
            skipped = [skip.endpoint for skip in made.skipped_for(lookup)]
            assert all((text in endpoints) != (text in skipped) for text in mirror.endpoints)
    assert unsupported(config, flags, version) is not None


# -- made-up images ---------------------------------------------------------------------------------------------------


def test_made_up_images_are_such_that_rewrites_apply() -> None:
    text = (
        "mirrors:\n  docker.io: {rewrite: {'^library/(.*)': 'x/$1'}}\n  '*': {}\n  r.lan: {rewrite: {'(?!a)': b}}\n"
        "  s.lan: {rewrite: {'^rancher/mirrored-(.*)': 'm/$1'}}\n  https://no.lan: {}\n  UPPER: {}\n"
        "configs: {t.lan:5000: {}}\n"
    )
    assert list(map(str, made_up(read(text)))) == [
        "docker.io/library/example:latest",
        "registry.example/example/image:latest",
        "r.lan/example/image:latest",
        "s.lan/rancher/mirrored-example:latest",
        "UPPER/example/image:latest",
        "t.lan:5000/example/image:latest",
    ]


# -- what a release does not support ----------------------------------------------------------------------------------

ALL = """\
mirrors:
  docker.io:
    endpoint: [m.lan, 'https://n.lan', n.lan]
    rewrite: {'^a': b}
  r.lan:
    endpoint: [m.lan, r.lan]
  "*":
    endpoint: ['https://w.lan']
configs:
  docker.io:
    auth: {username: u, password: 'a\\\\b'}
    tls: {insecure_skip_verify: true}
  t.lan:
    auth: {identity_token: t}
    tls: {ca_file: /ca}
  "*": {}
"""


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("v0.9.1", {("registries-file-unsupported", 2)}),
        ("v1.0.0", {
            ("disable-default-endpoint-unsupported", 1), ("embedded-registry-unsupported", 1),
            ("rewrite-unsupported", 4), ("docker-io-credentials-unused", 11), ("unquoted-credentials", 11),
            ("insecure-skip-verify-unsupported", 12), ("identity-token-unsupported", 14),
        }),
        ("v1.28.5", {
            ("disable-default-endpoint-unsupported", 1), ("embedded-registry-unsupported", 1),
            ("rewrite-of-default-endpoint", 4), ("token-scope-before-rewrite", 4), ("docker-io-credentials-unused", 11),
        }),
        ("v1.28.6+k3s1", {
            ("bare-endpoint-unsupported", 3), ("duplicate-endpoint-fatal", 3), ("token-scope-before-rewrite", 4),
            ("bare-endpoint-unsupported", 6), ("docker-io-credentials-unused", 11), ("default-endpoint-tls-unused", 12),
            ("wildcard-config-unsupported", 16),
        }),
        ("v1.28.8", {
            ("token-scope-before-rewrite", 4), ("docker-io-credentials-unused", 11), ("tls-without-mirror-lost", 15),
        }),
        ("v1.32.2", {("docker-io-credentials-unused", 11)}),
        ("v1.34", set()),
    ],
)  # fmt: skip
def test_what_a_release_does_not_support(version: str, expected: set[tuple[str, int]]) -> None:
    flags = Flags(disable_default_registry_endpoint=True, embedded_registry="127.0.0.1:6443")
    problems = unsupported(read(ALL), flags, K3sVersion.parse(version))
    assert {(problem.id, problem.span.line if problem.span else 0) for problem in problems} == expected


def test_what_depends_on_the_default_endpoint() -> None:
    found = unsupported(read(ALL), Flags(), K3sVersion.parse("v1.29.2+k3s1"))
    lines = {(problem.id, problem.span.line if problem.span else 0) for problem in found}
    assert {("wildcard-without-fallback", 7), ("default-endpoint-listed", 6)} <= lines


def test_problems_say_what_to_do() -> None:
    config = read("mirrors: {r.lan: {endpoint: [m.lan], rewrite: {a: b}}}")
    (problem,) = unsupported(config, Flags(), K3sVersion.parse("v1.20.4+k3s1"))
    assert problem.message == (
        "k3s v1.20.4+k3s1 has no rewrite and asks for the repository as it is; first in v1.21.0+k3s1"
    )
    (first, *_) = unsupported(config, Flags(), K3sVersion.parse("v1.20.4+rke2r1"))
    assert first.message.startswith("rke2 v1.20.4+rke2r1 has no rewrite")
    assert first.message.endswith("first in v1.21.0")
