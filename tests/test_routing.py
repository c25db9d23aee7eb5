"""The plan: every host is asked or skipped, and each route asks for just what containerd would ask."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pierhead.config import k3s
from pierhead.config.k3s import Flags
from pierhead.config.registries import RegistriesConfig, parse
from pierhead.gourl import InvalidUrl
from pierhead.reference import InvalidReference, Reference
from pierhead.routing import OwnRegistry, Plan, Skipped, foreign_route, is_proxy, own_route, plan
from pierhead.transport import TlsOptions
from scripted import route
from test_k3s_hosts import FLAGS, NAMES, REGISTRIES

VECTORS = Path(__file__).parent / "vectors"
CASES: list[dict[str, Any]] = [
    case
    for name in ("containerd-requests.json", "containerd-requests-names.json")
    for case in json.loads((VECTORS / name).read_text())
    if not case["outcome"].get("containerd_failed_to_start")
]
REDIRECTS = {301, 302, 303, 307, 308}
DIGEST = "sha256:" + "0" * 64


def planned(hosts: k3s.K3sHosts, reference: Reference, **more: Any) -> Plan:
    """A plan as the commands make it: what the dialect left out for this image goes along."""
    lookup = hosts.lookup(reference.registry)
    skipped = [
        Skipped(item.endpoint.shown if item.endpoint else "", item.message, item.span)
        for item in hosts.skipped_for(lookup)
    ]
    return plan(reference, lookup, skipped=skipped, **more)


def plan_of(text: str, image: str, *, flags: Flags = Flags(), **more: Any) -> Plan:
    return planned(k3s.hosts(parse(text.encode(), "r.yaml"), flags), Reference.parse(image), **more)


# ── law 4 ────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(REGISTRIES, FLAGS, NAMES)
def test_every_endpoint_is_a_route_or_skipped_once_with_a_reason(
    config: RegistriesConfig, flags: Flags, registry: str
) -> None:
    try:
        reference = Reference.parse(f"{registry}/team/app:1")
    except InvalidReference:
        reference = Reference.parse("r.lan/team/app:1")
    hosts = k3s.hosts(config, flags)
    lookup = hosts.lookup(reference.registry)
    found = planned(hosts, reference)
    assert len(found.routes) + len(found.skipped) == len(lookup.hosts) + len(hosts.skipped_for(lookup))
    assert [route.order for route in found.routes] == list(range(1, len(found.routes) + 1))
    assert all(item.reason for item in found.skipped)
    if lookup.directory is not None and lookup.directory.key is not None and not lookup.directory.unusable:
        # Of `hosts.config`: a mirror under the embedded registry's own address is replaced by K3s.
        mirror = next((item for key, item in hosts.config.mirrors.items() if key == lookup.directory.key.value), None)
        written = Counter(text.shown for text in mirror.endpoints) if mirror else Counter[str]()
        told = Counter([item.endpoint for item in found.routes] + [item.endpoint for item in found.skipped])
        assert not written - told


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(REGISTRIES, FLAGS)
def test_a_plan_is_pure(config: RegistriesConfig, flags: Flags) -> None:
    reference = Reference.parse("r.lan/team/app:1")
    hosts = k3s.hosts(config, flags)
    assert planned(hosts, reference) == planned(hosts, reference)


def test_what_lacks_a_capability_is_skipped() -> None:
    hosts = k3s.hosts(parse(b"mirrors: {r.lan: {endpoint: [m.lan]}}", "r.yaml"), Flags())
    pushed = planned(hosts, Reference.parse("r.lan/a:1"), operation="push")
    for item in pushed.skipped:
        assert item.reason == "it has not the capability: push"
    assert len(pushed.routes) + len(pushed.skipped) == 2


# ── ?ns= ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("registry", "host", "query"),
    [  # the table of the specification, section 3.7
        ("docker.io", "registry-1.docker.io", ""),
        ("docker.io", "index.docker.io", "?ns=docker.io"),
        ("docker.io", "cache.example:5000", "?ns=docker.io"),
        ("reg.example:5000", "cache.example", "?ns=reg.example%3A5000"),
        ("reg.example", "reg.example:443", "?ns=reg.example"),
        ("reg.example", "reg.example", ""),
    ],
)
def test_the_namespace_goes_along_where_it_is_not_the_host(registry: str, host: str, query: str) -> None:
    assert is_proxy(host, registry) is bool(query)
    found = plan_of(f"mirrors: {{'{registry}': {{endpoint: ['https://{host}']}}}}", f"{registry}/team/app:1")
    mirror = found.routes[0]
    assert mirror.host == host
    for kind in ("manifests", "blobs"):
        url = mirror.url_of("manifests" if kind == "manifests" else "blobs", "1")
        assert url == f"https://{host}/v2/team/app/{kind}/1{query}"


# ── URLs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked_of(case: dict[str, Any]) -> set[str]:
    """Every URL of manifests that a plan for this case can ask for, as `host path query`."""
    flags = case["flags"]
    text = case["yaml"].replace("{pki}", "/pki")
    hosts = k3s.hosts(
        parse(text.encode(), "r.yaml"),
        Flags(flags["disable_default_registry_endpoint"], flags["embedded_registry"], flags["program"]),
    )
    reference = Reference.parse(case["reference"])
    lines = set()
    for item in planned(hosts, reference).routes:
        try:
            url = item.url_of("manifests", reference.object)
        except InvalidUrl:
            continue
        lines.add(url.partition("://")[2].partition("/")[2])
    return lines


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_the_recorded_manifest_requests_are_planned(case: dict[str, Any]) -> None:
    """The host of a record is the address that a name led to, so paths and queries are compared."""
    asked = [
        request
        for before, request in pairwise([{"status": 0}, *case["requests"]])
        if request["method"] == "HEAD" and "/blobs/" not in request["path"] and before["status"] not in REDIRECTS
    ]
    if not asked:
        return
    lines = asked_of(case)
    for request in asked:
        query = f"?{request['query']}" if request.get("query") else ""
        target = f"{request['path']}{query}".removeprefix("/")
        assert target in lines


@pytest.mark.parametrize(
    ("path", "repository", "target"),
    [
        ("/v2", "a/b", "/v2/a/b/manifests/1"),
        ("/v2", "../x", "/x/manifests/1"),
        ("/v2", "../../../x", "/x/manifests/1"),
        ("/hub/", "a//b", "/hub/a/b/manifests/1"),
        ("/v2", "a b", "/v2/a%20b/manifests/1"),
        ("/v2", "a?x=1&y", "/v2/a?x=1&y/manifests/1"),
        ("", "a", "/a/manifests/1"),
    ],
)
def test_odd_paths(path: str, repository: str, target: str) -> None:
    assert route(path=path, repository=repository).url_of("manifests", "1") == f"https://a.example{target}"


def test_a_repository_that_no_url_can_hold() -> None:
    with pytest.raises(InvalidUrl):
        route(repository="a%zz").url_of("manifests", "1")


def test_the_scope_is_of_the_rewritten_repository() -> None:
    text = "mirrors: {r.lan: {endpoint: [m.lan], rewrite: {'^team/(.*)': 'mirror/$1'}}}"
    first, default = plan_of(text, "r.lan/team/app:1").routes
    assert (first.scope, default.scope) == ("repository:mirror/app:pull", "repository:team/app:pull")
    assert first.rewrite is not None
    assert (first.rewrite.pattern, first.rewrite.replacement) == ("^team/(.*)", "mirror/$1")
    assert str(first.rewrite.span) == "r.yaml:1:48"
    assert default.rewrite is None


def test_overlapping_rules_take_the_first_and_say_so() -> None:
    text = "mirrors: {r.lan: {endpoint: [m.lan], rewrite: {'^team': a, 'app$': b, '(': c}}}"
    found = plan_of(text, "r.lan/team/app:1")
    assert found.routes[0].repository == "a/app"
    assert {problem.id for problem in found.problems} >= {"overlapping-rewrites", "invalid-rewrite"}
    assert all(problem.span for problem in found.problems)


# ── flags ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flags_concern_the_images_own_registry_only() -> None:
    own = OwnRegistry(plain_http=True, tls=TlsOptions(("/ca.pem",), insecure_skip_verify=True))
    text = "mirrors: {r.lan: {endpoint: ['https://m.lan']}}"
    mirror, default = plan_of(text, "r.lan/a:1", own_registry=own).routes
    assert mirror == plan_of(text, "r.lan/a:1").routes[0]
    assert (default.url, default.endpoint, default.tls) == ("http://r.lan/v2", "http://r.lan", own.tls)


def test_flags_add_to_the_file() -> None:
    text = "configs: {r.lan: {tls: {ca_file: /a.pem, cert_file: /c.pem, key_file: /k.pem}}}"
    own = OwnRegistry(tls=TlsOptions(("/b.pem",)))
    (default,) = plan_of(text, "r.lan/a:1", own_registry=own).routes
    assert default.tls == TlsOptions(("/a.pem", "/b.pem"), (("/c.pem", "/k.pem"),))


def test_a_plan_knows_the_mirror_it_was_found_under() -> None:
    found = plan_of("mirrors:\n  '*': {endpoint: [m.lan]}\n", "r.lan/a:1")
    assert found.mirror is not None
    assert (found.mirror.key, str(found.mirror.span)) == ("*", "r.yaml:2:3")
    assert plan_of("mirrors: {}", "r.lan/a:1").mirror is None


@pytest.mark.parametrize("url", ["http://[::1", "", "nonsense", "https://u:hunter2@h/x", "ftp://h/x", "\0"])
def test_any_text_makes_a_foreign_route(url: str) -> None:
    found = foreign_route(url)
    assert found.kind == "foreign"
    assert "hunter2" not in repr(found) + found.url_of("blobs", DIGEST)


def test_a_ca_that_is_named_is_verified_on_the_loopback_too() -> None:
    """Where containerd verifies nobody unless it is told whom."""
    reference = Reference.parse("127.0.0.1:5000/team/app:1")
    assert own_route(reference, None).tls.insecure_skip_verify
    named = OwnRegistry(tls=TlsOptions(ca_files=("/ca.pem",)))
    assert not own_route(reference, None, named).tls.insecure_skip_verify
    both = OwnRegistry(tls=TlsOptions(ca_files=("/ca.pem",), insecure_skip_verify=True))
    assert own_route(reference, None, both).tls.insecure_skip_verify
