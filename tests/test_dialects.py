"""What each client makes of one file, and that nothing of a difference between them is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pierhead.auth import BadCredential
from pierhead.config import k3s
from pierhead.config.gotls import read_file
from pierhead.config.k3s import Flags
from pierhead.config.registries import RegistriesConfig, parse
from pierhead.config.wharfie import InvalidName
from pierhead.dialects import (
    CLIENTS,
    Aspect,
    Client,
    Disagreement,
    credentials_for,
    disagreements,
    manifest_url,
    plan_for,
)
from pierhead.errors import UsageError
from pierhead.reference import InvalidReference, Reference
from pierhead.routing import OwnRegistry, Plan
from test_k3s_hosts import FLAGS, NAMES, REGISTRIES
from test_routing import planned

VECTORS = Path(__file__).parent / "vectors"
RECORDED: list[dict[str, Any]] = json.loads((VECTORS / "wharfie-endpoints.json").read_text())
HEX = "0123456789abcdef" * 4
NO_DEFAULT = Flags(disable_default_registry_endpoint=True)


def hosts_of(text: str, flags: Flags = Flags()) -> k3s.K3sHosts:
    return k3s.hosts(parse(text.encode(), "r.yaml"), flags)


def plans_of(hosts: k3s.K3sHosts | None, image: str) -> dict[Client, Plan | UsageError]:
    plans: dict[Client, Plan | UsageError] = {}
    for client in CLIENTS:
        try:
            plans[client] = plan_for(client, image, hosts)
        except UsageError as error:
            plans[client] = error
    return plans


def compared(text: str, image: str, flags: Flags = Flags()) -> dict[tuple[Aspect, str], dict[Client, tuple[str, ...]]]:
    hosts = hosts_of(text, flags)
    found = disagreements(plans_of(hosts, image), {client: credentials_for(client, hosts) for client in CLIENTS})
    assert len({(item.aspect, item.place, item.span) for item in found}) == len(found)
    return {(item.aspect, item.place): dict(item.values) for item in found}


def urls(client: Client, plan: Plan) -> list[str]:
    return [manifest_url(client, route, plan.reference) for route in plan.routes]


def ids(plan: Plan) -> set[str]:
    return {problem.id for problem in plan.problems}


def test_every_client_of_the_type_is_listed() -> None:
    assert get_args(Client) == CLIENTS


# ── k3s ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(REGISTRIES, FLAGS, NAMES)
def test_k3s_is_the_plan_of_the_other_commands(config: RegistriesConfig, flags: Flags, registry: str) -> None:
    hosts = k3s.hosts(config, flags)
    try:
        reference = Reference.parse(f"{registry}/app")
    except InvalidReference:
        reference = Reference.parse("r.lan/app")
    made, expected = plan_for("k3s", str(reference), hosts), planned(hosts, reference)
    assert (made.routes, made.mirror, made.problems) == (expected.routes, expected.mirror, expected.problems)
    assert [(item.reason, item.span) for item in made.skipped] == [(it.reason, it.span) for it in expected.skipped]


@pytest.mark.parametrize("client", CLIENTS)
def test_without_a_file_the_registry_itself_is_asked_with_nothing(client: Client) -> None:
    (route,) = plan_for(client, "reg.lan/a:1", None).routes
    assert (route.kind, route.url, route.repository, route.namespace) == ("default", "https://reg.lan/v2", "a", "")
    assert credentials_for(client, None)("reg.lan") is None


@pytest.mark.parametrize("client", CLIENTS)
def test_flags_about_the_own_registry_count_for_every_client(client: Client) -> None:
    (route,) = plan_for(client, "reg.lan/a:1", None, own_registry=OwnRegistry(plain_http=True)).routes
    assert manifest_url(client, route, Reference.parse("reg.lan/a:1")) == "http://reg.lan/v2/a/manifests/1"


# ── containerd ───────────────────────────────────────────────────────────────────────────────────────────────────

REWRITING = "mirrors:\n  docker.io:\n    endpoint: [m.lan]\n    rewrite:\n      '^library/(.*)': 'lib/$1'\n      x: y\n"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(REGISTRIES, FLAGS, NAMES)
def test_stock_containerd_rewrites_nothing_and_always_ends_at_the_registry(
    config: RegistriesConfig, flags: Flags, registry: str
) -> None:
    try:
        image = str(Reference.parse(f"{registry}/app:1"))
    except InvalidReference:
        image = "r.lan/app:1"
    hosts = k3s.hosts(config, flags)
    ours, stock = plan_for("k3s", image, hosts), plan_for("containerd", image, hosts)
    assert {route.repository for route in stock.routes} == {stock.reference.repository}
    assert all(route.rewrite is None for route in stock.routes)
    assert stock.routes[-1].kind == "default"
    assert len(stock.routes) - len(ours.routes) in (0, 1)
    named = [route.host for route in ours.routes if route.kind != "default"]
    assert [route.host for route in stock.routes][: len(named)] == named
    assert ("rewrite-lost" in ids(stock)) == any(route.rewrite for route in ours.routes)


def test_stock_containerd_names_the_rule_that_is_lost() -> None:
    plan = plan_for("containerd", "redis", hosts_of(REWRITING))
    assert urls("containerd", plan)[0] == "https://m.lan/v2/library/redis/manifests/latest?ns=docker.io"
    (problem,) = plan.problems
    assert (problem.id, problem.severity, problem.span.line if problem.span else 0) == ("rewrite-lost", "error", 5)
    assert "'^library/(.*)'" in problem.message


def test_stock_containerd_asks_the_registry_although_the_default_is_disabled() -> None:
    hosts = hosts_of(REWRITING, NO_DEFAULT)
    assert [route.host for route in plan_for("k3s", "redis", hosts).routes] == ["m.lan"]
    plan = plan_for("containerd", "redis", hosts)
    assert [route.host for route in plan.routes] == ["m.lan", "registry-1.docker.io"]
    assert plan.skipped == ()
    assert "default-endpoint-returns" in ids(plan)


def test_a_last_endpoint_without_a_host_is_asked_in_vain_by_stock_containerd() -> None:
    """K3s' build makes the registry itself of it (E28)."""
    hosts = hosts_of("mirrors: {reg.lan: {endpoint: [m.lan, '']}}", NO_DEFAULT)
    assert [route.host for route in plan_for("k3s", "reg.lan/a", hosts).routes] == ["m.lan", "reg.lan"]
    assert [route.host for route in plan_for("containerd", "reg.lan/a", hosts).routes] == ["m.lan", "", "reg.lan"]


def test_a_file_that_k3s_containerd_cannot_use_is_of_no_use_to_stock_containerd() -> None:
    hosts = hosts_of('mirrors: {reg.lan: {endpoint: [m.lan], rewrite: {"\\\\d": x}}}')
    plan = plan_for("containerd", "reg.lan/a", hosts)
    assert [route.host for route in plan.routes] == ["reg.lan"]
    assert len(plan.skipped) == 1


# ── wharfie ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", [case for case in RECORDED if not case["error"]], ids=lambda case: case["id"])
def test_wharfies_plan_asks_what_was_recorded(case: dict[str, Any], vector_pki: Path) -> None:
    hosts = hosts_of(case["yaml"].replace("{pki}", str(vector_pki)))
    plan = plan_for("wharfie", case["image"], hosts, read=read_file)
    lookup = credentials_for("wharfie", hosts)
    assert len(plan.routes) == len(case["endpoints"])
    for order, (route, recorded) in enumerate(zip(plan.routes, case["endpoints"], strict=True), start=1):
        assert route.order == order
        assert (route.kind == "default") == recorded["default"]
        assert recorded["url"].replace("u:p@", "").startswith(route.url)
        assert (route.repository, plan.reference.object) == (recorded["repository"], recorded["ref"])
        assert route.namespace == recorded.get("ns", "")
        tls = recorded.get("tls", {"client_certs": 0, "custom_ca": False, "insecure_skip_verify": False})
        assert len(route.tls.client) == tls["client_certs"]
        assert bool(route.tls.ca_files) == tls["custom_ca"]
        assert route.tls.insecure_skip_verify == tls["insecure_skip_verify"]
        if {"username", "password"} <= recorded.get("auth", {}).keys() and "identitytoken" not in recorded["auth"]:
            credential = lookup(route.host)
            assert credential is not None
            assert (credential.username, credential.secret.reveal()) == (
                recorded["auth"]["username"],
                recorded["auth"]["password"],
            )
    assert ("tls-not-used" in ids(plan)) >= any("tls_error" in recorded for recorded in case["endpoints"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(REGISTRIES, FLAGS, NAMES)
def test_every_endpoint_is_a_route_of_wharfie_or_skipped_and_the_flags_are_nothing_to_it(
    config: RegistriesConfig, flags: Flags, registry: str
) -> None:
    hosts = k3s.hosts(config, flags)
    try:
        plan = plan_for("wharfie", f"{registry}/app", hosts)
    except InvalidName:
        plan = plan_for("wharfie", "r.lan/app", hosts)
    if plan.mirror is None:
        assert (len(plan.routes), plan.skipped) == (1, ())
    else:
        written = config.mirrors[plan.mirror.key].endpoints
        listed = [route for route in plan.routes if route.span != plan.mirror.span]
        assert len(plan.routes) - 1 + len(plan.skipped) == len(written)
        assert len(listed) + len(plan.skipped) <= len(written)
    assert plan.routes[-1].kind == "default"
    assert not any(route.kind == "embedded" for route in plan.routes)


def test_nothing_of_the_embedded_registry_reaches_wharfie() -> None:
    text = "mirrors: {docker.io: {endpoint: [m.lan]}}\nconfigs: {m.lan: {auth: {username: u, password: p}}}"
    hosts = hosts_of(text, Flags(embedded_registry="127.0.0.1:6443"))
    assert plan_for("k3s", "redis", hosts).routes[0].host == "127.0.0.1:6443"
    assert [route.host for route in plan_for("wharfie", "redis", hosts).routes] == ["m.lan", "index.docker.io"]
    assert credentials_for("wharfie", hosts)("m.lan") is not None


def test_wharfie_asks_the_registry_although_the_default_is_disabled() -> None:
    plan = plan_for("wharfie", "redis", hosts_of(REWRITING, NO_DEFAULT))
    assert plan.routes[-1].host == "index.docker.io"
    assert "default-endpoint-returns" in ids(plan)


def test_wharfie_cleans_no_path_that_containerd_would_clean() -> None:
    hosts = hosts_of("mirrors: {docker.io: {endpoint: ['m.lan/a%2Fb'], rewrite: {'^library': '..'}}}")
    found = {client: urls(client, plan_for(client, "redis:7", hosts))[0] for client in CLIENTS}
    assert found == {
        "k3s": "https://m.lan/a/redis/manifests/7?ns=docker.io",
        "containerd": "https://m.lan/a/b/library/redis/manifests/7?ns=docker.io",
        "wharfie": "https://m.lan/a/b/../redis/manifests/7?ns=docker.io",
    }


def test_a_rewrite_says_where_it_stands_for_every_client_that_has_it() -> None:
    hosts = hosts_of(REWRITING)
    ours, wharfies = (plan_for(client, "redis", hosts).routes[0].rewrite for client in ("k3s", "wharfie"))
    assert ours == wharfies
    assert ours is not None
    assert ours.span is not None
    assert ours.span.line == 5


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────


def users(text: str, host: str) -> dict[Client, str | None]:
    hosts = hosts_of(text)
    found: dict[Client, str | None] = {}
    for client in CLIENTS:
        try:
            credential = credentials_for(client, hosts)(host)
        except BadCredential:
            found[client] = "unusable"
        else:
            found[client] = (credential.username or credential.kind) if credential else None
    return found


@pytest.mark.parametrize(
    ("configs", "host", "expected"),
    [
        ("'*': {auth: {username: u, password: p}}", "m.lan", (None, None, "u")),
        ("'*': {auth: {username: u, password: p}}, m.lan: {}", "m.lan", (None, None, None)),
        ("docker.io: {auth: {username: u, password: p}}", "registry-1.docker.io", ("u", None, None)),
        ("docker.io: {auth: {username: u, password: p}}", "index.docker.io", (None, None, "u")),
        ("m.lan: {auth: {username: u}}", "m.lan", ("u", "u", None)),
        (
            "m.lan: {auth: {username: u, password: p, identity_token: t}}",
            "m.lan",
            ("u", "u", "identity_token"),
        ),
        ("m.lan: {auth: {auth: dTpw}}", "m.lan", ("u", "u", "u")),
        ("m.lan: {auth: {auth: nonsense}}", "m.lan", ("unusable", "unusable", "unusable")),
        ("m.lan: {auth: {auth: nonsense, identity_token: t}}", "m.lan", 3 * ("identity_token",)),
    ],
)
def test_whose_credentials_a_host_gets(configs: str, host: str, expected: tuple[str | None, ...]) -> None:
    assert users(f"configs: {{{configs}}}", host) == dict(zip(CLIENTS, expected, strict=True))


# ── disagreements ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rewrite_and_a_hub_differ_side_by_side() -> None:
    assert compared(REWRITING, "redis") == {
        ("url", "m.lan"): {
            "k3s": ("https://m.lan/v2/lib/redis/manifests/latest?ns=docker.io",),
            "containerd": ("https://m.lan/v2/library/redis/manifests/latest?ns=docker.io",),
            "wharfie": ("https://m.lan/v2/lib/redis/manifests/latest?ns=docker.io",),
        },
        ("repository", "m.lan"): {
            "k3s": ("lib/redis",),
            "containerd": ("library/redis",),
            "wharfie": ("lib/redis",),
        },
        ("url", "https://registry-1.docker.io"): {
            "k3s": ("https://registry-1.docker.io/v2/library/redis/manifests/latest",),
            "containerd": ("https://registry-1.docker.io/v2/library/redis/manifests/latest",),
            "wharfie": ("https://index.docker.io/v2/library/redis/manifests/latest",),
        },
    }


def test_a_wildcard_credential_and_a_registry_that_comes_back_differ() -> None:
    text = "mirrors: {reg.lan: {endpoint: [m.lan]}}\nconfigs: {'*': {auth: {username: u, password: hunter2}}}"
    found = compared(text, "reg.lan/a", NO_DEFAULT)
    assert found == {
        ("places", ""): {
            "k3s": ("m.lan",),
            "containerd": ("m.lan", "https://reg.lan"),
            "wharfie": ("m.lan", "https://reg.lan"),
        },
        ("credentials", "m.lan"): {"k3s": ("none",), "containerd": ("none",), "wharfie": ("user 'u' of configs '*'",)},
        ("credentials", "https://reg.lan"): {"containerd": ("none",), "wharfie": ("user 'u' of configs '*'",)},
    }


def test_tls_on_a_plain_http_endpoint_differs() -> None:
    text = "mirrors: {reg.lan: {endpoint: ['http://m.lan:5000']}}\nconfigs: {'m.lan:5000': {tls: {ca_file: /ca}}}"
    found = compared(text, "reg.lan/a")
    assert found["tls", "http://m.lan:5000"] == {
        "k3s": ("CA /ca; plain http if that fails",),
        "containerd": ("CA /ca; plain http if that fails",),
        "wharfie": ("none: plain http",),
    }
    assert found["url", "http://m.lan:5000"]["wharfie"] == ("http://m.lan:5000/v2/a/manifests/latest?ns=reg.lan",)


def test_duplicates_and_another_key_make_other_places() -> None:
    text = "mirrors: {docker.io: {endpoint: [m.lan, 'https://m.lan']}, index.docker.io: {endpoint: [n.lan]}}"
    assert compared(text, "redis")["places", ""] == {
        "k3s": ("m.lan", "https://registry-1.docker.io"),
        "containerd": ("m.lan", "https://registry-1.docker.io"),
        "wharfie": ("n.lan", "https://index.docker.io"),
    }


def test_the_registry_listed_last_is_one_place_for_containerd_and_two_for_wharfie() -> None:
    found = compared("mirrors: {reg.lan: {endpoint: [m.lan, reg.lan]}}", "reg.lan/a")
    assert found == {
        ("places", ""): {
            "k3s": ("m.lan", "reg.lan"),
            "containerd": ("m.lan", "reg.lan"),
            "wharfie": ("m.lan", "reg.lan", "https://reg.lan"),
        }
    }


@pytest.mark.parametrize(("image", "refusing"), [(HEX, {"k3s", "containerd"}), ("UPPER/a", {"wharfie"}), ("A", set())])
def test_a_name_that_only_some_take_is_told_with_the_reason(image: str, refusing: set[str]) -> None:
    plans = plans_of(None, image)
    refused = {client for client, plan in plans.items() if isinstance(plan, UsageError)}
    if not refusing:
        assert refused == set(CLIENTS)
        assert disagreements(plans) == ()
        return
    assert refused == refusing
    first = disagreements(plans)[0]
    assert first.aspect == "reference"
    for client, plan in plans.items():
        assert first.values[client] == (str(plan) if isinstance(plan, UsageError) else str(plan.reference),)


def test_a_file_that_all_read_alike_leaves_nothing_to_compare() -> None:
    text = (
        "mirrors: {reg.lan: {endpoint: [m.lan, 'http://n.lan:5000/hub']}}\n"
        "configs: {m.lan: {auth: {username: u, password: p}, tls: {ca_file: /ca}}}"
    )
    assert compared(text, "reg.lan/a") == {}


def shape(found: Disagreement) -> tuple[Aspect, tuple[str, ...]]:
    return found.aspect, tuple(found.values)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(REGISTRIES, FLAGS, NAMES, st.sampled_from(["app", "a/b:1"]))
def test_what_is_told_differs_and_what_is_not_told_is_alike(
    config: RegistriesConfig, flags: Flags, registry: str, rest: str
) -> None:
    hosts = k3s.hosts(config, flags)
    plans = plans_of(hosts, f"{registry}/{rest}")
    found = disagreements(plans)
    assert all(len(set(item.values.values())) > 1 for item in found)
    made = {client: plan for client, plan in plans.items() if isinstance(plan, Plan)}
    if not found:
        assert len({tuple(urls(client, plan)) for client, plan in made.items()}) < 2
    assert disagreements({"k3s": plans["k3s"]}) == ()
    again = disagreements(dict(reversed(plans.items())))
    assert sorted((aspect, sorted(clients)) for aspect, clients in map(shape, again)) == sorted(
        (aspect, sorted(clients)) for aspect, clients in map(shape, found)
    )


def test_no_secret_is_in_what_is_told() -> None:
    text = (
        "mirrors: {reg.lan: {endpoint: ['https://u:hunter2@m.lan'], rewrite: {a: b}}}\n"
        "configs: {m.lan: {auth: {auth: hunter2}}, '*': {auth: {username: u, password: hunter2}}}"
    )
    hosts = hosts_of(text)
    plans = plans_of(hosts, "reg.lan/a")
    found = disagreements(plans, {client: credentials_for(client, hosts) for client in CLIENTS})
    assert found
    assert "hunter2" not in repr((plans, found))
