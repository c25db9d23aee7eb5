"""`pierhead explain` as people call it: lists, conditions, why not, other clients, and calls that are wrong."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.cli import run
from pierhead.config.containerd import HostTree
from pierhead.errors import ExitCode, UsageError
from pierhead.gourl import _ORDINARY, parse, request_target
from pierhead.reference import Digest, Reference
from pierhead.routing import Plan, Route, plan
from pierhead.transport import Cause
from pierhead.whatif import Condition, WhatIf, invented, suppose
from scripted import lookup, route

FILE = """
mirrors:
  docker.io:
    endpoint:
      - "https://old.lan:5000"
      - "https://registry.lan:5000"
      - "https://bad.lan:port"
  quay.io:
    endpoint: ["https://quay-cache.lan"]
  "https://ghcr.io":
    endpoint: ["https://ghcr-cache.lan"]
  registry-1.docker.io:
    endpoint: ["https://hub-cache.lan"]
  "docker.io:443":
    endpoint: ["https://port-cache.lan"]
  "*":
    endpoint: ["http://star.lan:5000"]
configs:
  "registry.lan:5000":
    auth: {username: k3s, password: "not-this-one"}
  "only.lan":
    auth: {username: a, password: b}
"""
PAGE = Path(__file__).parents[1] / "docs/reference/explain.md"


class Shell:
    """`pierhead explain` on a file, in this process."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = file
        self.capsys = capsys
        self.code = 0
        self.err = ""

    def text(self, *arguments: str) -> str:
        self.code = run(["explain", *arguments, "--private-registry", str(self.file)])
        out, self.err = self.capsys.readouterr()
        return out

    def json(self, *arguments: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.text(*arguments, "-o", "json"))
        return value

    def why_not(self, endpoint: str, *arguments: str) -> tuple[int | None, str, int | None]:
        """Order, reason and line."""
        (image,) = self.json("redis:7", "--why-not", endpoint, *arguments)["images"]
        (why,) = image["why_not"]
        return why["order"], why["reason"], why["line"]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "PIERHEAD_PRIVATE_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "registries.yaml"
    file.write_text(FILE)
    return Shell(file, capsys)


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_is_explained_like_its_images(shell: Shell, tmp_path: Path) -> None:
    names = tmp_path / "images.txt"
    names.write_text("redis:7\n# no more of it\nquay.io/a/b:1\nredis:7\n")
    one_by_one = shell.text("redis:7", "quay.io/a/b:1")
    assert shell.text("--images", str(names)) == one_by_one
    assert shell.code == ExitCode.DONE
    assert shell.text("redis:7", "--images", str(names)).count("stored as docker.io/library/redis:7") == 2


def test_a_line_that_is_no_image_does_not_stop_the_others(shell: Shell, tmp_path: Path) -> None:
    names = tmp_path / "images.txt"
    names.write_text("redis:7\nRedis:7\n")
    value = shell.json("--images", str(names))
    assert shell.code == ExitCode.PARTIAL
    assert "images.txt:2:1: " in shell.err
    assert [image["reference"] for image in value["images"]] == ["docker.io/library/redis:7"]
    assert [(item["file"], item["line"], item["id"]) for item in value["problems"]] == [
        (str(names), 2, "invalid-image")
    ]


def test_a_list_on_standard_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"redis:7\r\n")))
    assert [image["reference"] for image in shell.json("--images", "-")["images"]] == ["docker.io/library/redis:7"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'IMAGE...'"),
        (["--images", "/dev/null"], "names no image"),
        (["--images", "/nonexistent/list"], "cannot be read"),
        (["redis:7", "--status", "old.lan:5000"], "is not ENDPOINT=WHAT"),
        (["redis:7", "--status", "=503"], "is not ENDPOINT=WHAT"),
        (["redis:7", "--status", "old.lan:5000=often"], "nothing that can be wrong"),
        (["redis:7", "--status", "old.lan:5000=503,"], "nothing that can be wrong"),
        (["redis:7", "--status", "old.lan:5000=99"], "nothing that can be wrong"),
        (["redis:7", "--down", "https://old.lan:500"], "did you mean https://old.lan:5000?"),
        (["redis:7", "--why-not", "elsewhere.example"], "known: https://old.lan:5000, https://registry.lan:5000"),
        (["redis:7", "--client", "wharfie", "--down", "old.lan:5000"], "wharfie's requests are not simulated"),
        (["redis:7", "--client", "docker"], "'docker' is not one of"),
    ],
)
def test_a_wrong_call_prints_nothing_and_says_why(shell: Shell, arguments: list[str], message: str) -> None:
    assert shell.text(*arguments) == ""
    assert shell.code == ExitCode.USAGE
    assert message in shell.err


# ── why not ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("endpoint", "order", "reason", "line"),
    [
        ("https://old.lan:5000", 1, "nothing: it is asked first", 5),
        ("old.lan:5000", 1, "nothing: it is asked first", 5),
        ("https://registry.lan:5000/v2", 2, r"comes after 1 \(https://old.lan:5000\), which would serve", 6),
        ("https://registry-1.docker.io", 3, "comes after 1", 3),
        ("docker.io", 3, "comes after 1", 3),
        ("https://bad.lan:port", None, "left out: .*port", 7),
        ("https://quay-cache.lan", None, "endpoint of 'quay.io', .*'docker.io' has the entry 'docker.io'", 8),
        ("ghcr-cache.lan", None, "no image matches: write the registry's host alone", 10),
        ("hub-cache.lan", None, "looked up as 'docker.io'; rename the key", 12),
        ("port-cache.lan", None, "compared letter by letter with 'docker.io'", 14),
        ("http://star.lan:5000", None, "only registries without an entry of their own", 16),
        ("only.lan", None, "no mirror lists it as an endpoint", 21),
    ],
)
def test_what_keeps_an_endpoint_from_being_used(
    shell: Shell, endpoint: str, order: int | None, reason: str, line: int
) -> None:
    found = shell.why_not(endpoint)
    assert (found[0], found[2]) == (order, line)
    assert re.search(reason, found[1]), found[1]


def test_why_not_under_conditions(shell: Shell) -> None:
    down = ("--down", "old.lan:5000")
    assert shell.why_not("old.lan:5000", *down)[1] == "it is asked as number 1, and fails by your condition: down"
    assert shell.why_not("registry.lan:5000", *down)[1] == "nothing: the one before it fails, and it serves the image"
    wrong = ("--status", "old.lan:5000=wrong-bytes")
    assert shell.why_not("registry.lan:5000", *wrong)[1].startswith("the pull ends before it is asked: ")


def test_why_not_the_disabled_default(shell: Shell) -> None:
    order, reason, _ = shell.why_not("docker.io", "--disable-default-registry-endpoint")
    assert (order, reason) == (None, "it is left out: the default registry endpoint is disabled")


def test_why_not_in_text(shell: Shell) -> None:
    last = shell.text("redis:7", "--why-not", "only.lan").splitlines()[-1]
    assert last == (
        "  why not only.lan: `configs` gives it credentials and TLS, but no mirror lists it as an endpoint"
        f"   {shell.file}:21"
    )


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_other_clients(shell: Shell) -> None:
    (image,) = shell.json("redis:7", "--client", "containerd", "--disable-default-registry-endpoint")["images"]
    assert image["client"] == "containerd"
    assert [item["endpoint"] for item in image["routes"]][-1] == "https://registry-1.docker.io"
    text = shell.text("redis:7", "--client", "wharfie")
    assert text.splitlines()[1] == "  as wharfie reads it"


def test_another_release(shell: Shell) -> None:
    """What K3s of before 2024 did: rewrites reached the registry itself, credentials of docker.io reached nothing."""
    shell.file.write_text(
        "mirrors: {docker.io: {endpoint: [https://a.lan], rewrite: {'^rancher/': x/}}}\n"
        "configs: {docker.io: {auth: {username: u, password: p}}}\n"
    )

    routes = {
        version: shell.json("rancher/pause:3", "--k3s-version", version)["images"][0]["routes"][-1]
        for version in ("v1.22.17+k3s1", "v1.33.3+k3s1")
    }

    assert [route["repository"] for route in routes.values()] == ["x/pause", "rancher/pause"]
    assert [bool(route["auth"]) for route in routes.values()] == [False, True]


def test_without_an_option_nothing_is_said_of_it(shell: Shell) -> None:
    value = shell.json("redis:7")
    assert set(value) == {"images"}
    assert set(value["images"][0]) == {"reference", "stored_as", "mirror", "routes", "skipped", "problems"}


def test_where_clients_disagree(shell: Shell) -> None:
    (image,) = shell.json("redis:7", "--compare", "--disable-default-registry-endpoint")["images"]
    places = next(item for item in image["disagreements"] if item["aspect"] == "places")
    assert places["endpoint"] is None
    assert places["clients"]["k3s"] == ["https://old.lan:5000", "https://registry.lan:5000"]
    assert places["clients"]["containerd"][-1] == "https://registry-1.docker.io"
    assert "  clients disagree\n     places\n       k3s  " in shell.text(
        "redis:7", "--compare", "--disable-default-registry-endpoint"
    )
    shell.file.write_text("")
    assert shell.text("quay.io/a/b:1", "--compare").endswith("  k3s, containerd and wharfie agree\n")


# ── what if ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_shows_what_the_json_holds(shell: Shell) -> None:
    page = PAGE.read_text("utf-8").partition("## What if")[2]
    registries = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    shown = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    shell.file.write_text(registries)
    (image,) = shell.json("redis:7", "--down", "old.lan:5000")["images"]
    assert json.loads(shown) == {"what_if": image["what_if"]}


def test_a_condition_holds_for_the_images_that_know_the_endpoint(shell: Shell) -> None:
    text = shell.text("redis:7", "quay.io/a/b:1", "--down", "quay-cache.lan")
    assert "     quay-cache.lan: down (not asked for this image)\n" in text
    assert "     quay-cache.lan: down (number 1)\n" in text


def at(*hosts: str, **more: Any) -> Plan:
    routes = tuple(route(order, host, **more) for order, host in enumerate(hosts, 1))
    return Plan(Reference.parse("quay.io/team/app:1"), routes)


def asked(found: WhatIf) -> list[tuple[int | None, str, int | Cause | None]]:
    return [(item.order, item.method, item.failure or item.status) for item in found.requests]


def test_everything_is_served_without_conditions() -> None:
    found = suppose(at("a.example"), lookup(), {})
    assert asked(found) == [(1, "HEAD", 200), (1, "GET", 200), (1, "GET", 200), (1, "GET", 200)]
    assert found.route is not None
    assert (found.error, found.kubelet, found.sources, found.seconds) == (None, None, (1,), 0.0)


def test_a_timeout_costs_time_for_every_object() -> None:
    found = suppose(at("a.example", "b.example"), lookup(), {1: Condition("timeout")})
    assert [item for item in asked(found) if item[0] == 1] == [
        (1, "HEAD", Cause.CONNECT_TIMEOUT), *[(1, "GET", Cause.CONNECT_TIMEOUT)] * 3
    ]  # fmt: skip
    assert found.seconds == 120.0


def test_the_last_status_stays() -> None:
    found = suppose(at("a.example"), lookup(a_example="pw"), {1: Condition.parse("401,503")})
    assert [item.status for item in found.requests] == [401, 503, 503]
    assert [item.authorization for item in found.requests] == ["none", "basic", "basic"]
    assert found.kubelet is not None
    assert found.kubelet.endswith("503 Service Unavailable")
    assert suppose(at("a.example"), lookup(a_example="pw"), {1: Condition.parse("401,200")}).error is None


def test_nobody_trusts_the_certificate_unless_told_to() -> None:
    from pierhead.transport import TlsOptions

    distrusted = suppose(at("a.example"), lookup(), {1: Condition("tls")})
    assert distrusted.kubelet is not None
    assert distrusted.kubelet.endswith("x509: certificate signed by unknown authority")
    trusting = at("a.example", tls=TlsOptions(insecure_skip_verify=True))
    assert suppose(trusting, lookup(), {1: Condition("tls")}).error is None
    plain = suppose(at("a.example", scheme="http", endpoint="http://a.example"), lookup(), {1: Condition("tls")})
    assert asked(plain) == [(1, "HEAD", 400)]


def test_an_endpoint_with_http_speaks_no_tls() -> None:
    found = suppose(at("a.example:5000", endpoint="http://a.example:5000", http_fallback=True), lookup(), {})
    assert asked(found)[:2] == [(1, "HEAD", Cause.PLAIN_HTTP), (1, "HEAD", 200)]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_is_told_as_it_was_asked_for(algorithm: str) -> None:
    digest = Digest.of(b"what people really want", algorithm)
    reference = Reference.parse(f"quay.io/team/app@{digest}")
    made = plan(reference, HostTree().lookup("quay.io"))
    found = suppose(made, lookup(), {})
    assert found.error is None
    assert [item.url.rpartition("/")[2] for item in found.requests[:2]] == [str(digest)] * 2
    wrong = suppose(made, lookup(), {1: Condition("wrong-bytes")})
    assert wrong.kubelet is not None
    assert f"expected {digest}: failed precondition" in wrong.kubelet
    assert str(invented(digest).manifest) not in wrong.kubelet


def test_a_registry_has_nothing_outside_of_its_api() -> None:
    found = suppose(at("a.example", path="/hub", repository="../escaped"), lookup(), {})
    assert asked(found) == [(1, "HEAD", 404)]


def test_two_endpoints_on_one_host_are_told_apart() -> None:
    first, second = route(1, path="/v2/one"), route(2, path="/v2/two", endpoint="https://a.example/v2/two")
    both = Plan(Reference.parse("quay.io/team/app:1"), (first, second))
    found = suppose(both, lookup(), {1: Condition.parse("404")})
    assert asked(found)[:2] == [(1, "HEAD", 404), (2, "HEAD", 200)]


def test_too_many_statuses_are_refused() -> None:
    with pytest.raises(UsageError, match="the limit is"):
        Condition.parse(",".join(["503"] * 101))


CONDITIONS = st.one_of(
    st.sampled_from(["down", "timeout", "tls", "wrong-bytes"]).map(Condition.parse),
    st.lists(st.integers(200, 599), min_size=1, max_size=4).map(lambda codes: Condition("status", tuple(codes))),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(CONDITIONS, min_size=1, max_size=3), st.booleans())
def test_every_pull_ends_with_a_route_or_a_reason(conditions: list[Condition], known: bool) -> None:
    hosts = [f"h{number}.example" for number, _ in enumerate(conditions)]
    passwords = {host.replace(".", "_"): "pw" for host in hosts} if known else {}
    found = suppose(at(*hosts), lookup(**passwords), dict(enumerate(conditions, 1)))
    assert (found.route is None) == (found.error is not None) == bool(found.kubelet)
    assert len(found.requests) <= 5 * len(hosts) * 8
    assert all((item.status is None) != (item.failure is None) for item in found.requests)


@settings(deadline=None, max_examples=300)
@given(st.from_regex(_ORDINARY, fullmatch=True))
def test_an_ordinary_url_is_requested_as_it_is(text: str) -> None:
    url = parse(text)
    assert request_target(text) == (url.host.removesuffix(":"), url.request_uri())


def test_routes_are_named_as_people_write_them() -> None:
    from pierhead.routing import is_named

    mirror: Route = route(host="a.example:5000", endpoint="https://a.example:5000/v2/proxy", path="/v2/proxy")
    for name in ("https://a.example:5000/v2/proxy/", "https://a.example:5000", "a.example:5000"):
        assert is_named(mirror, name)
    assert not is_named(mirror, "a.example")
