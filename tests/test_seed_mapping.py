"""Where images go: registries.yaml run forwards. No network."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.config import k3s
from pierhead.config.registries import parse
from pierhead.errors import UsageError
from pierhead.reference import Reference
from pierhead.routing import Plan, k3s_plan
from pierhead.seed.mapping import ALLOWED, Allowed, Mapped, Wanted, check_endpoints, map_images, unreached

DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"

MIRRORS = """
mirrors:
  docker.io:
    endpoint: [https://a.example, "https://b.example:5000/v2/cache"]
    rewrite: {"^rancher/(.*)": "mirror/rancher/$1"}
  quay.io:
    endpoint: [https://a.example]
  nowhere.example:
    endpoint: ["https://nowhere.example"]
"""


def mapped(
    text: str, *images: str, to: Sequence[str] = (), allow: Sequence[Allowed] = (), flags: k3s.Flags = k3s.Flags()
) -> list[Mapped]:
    hosts = k3s.hosts(parse(text.encode(), "r.yaml"), flags)

    def plan(reference: Reference) -> Plan:
        return k3s_plan(reference, hosts)

    wanted = [Wanted.of(Reference.parse(image), image) for image in images]
    return map_images(wanted, plan, to=to, allow=allow)


def places(item: Mapped) -> list[str]:
    return [str(target) for target in item.targets]


# ── where a node asks first ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("rancher/pause:3.6", "https://a.example mirror/rancher/pause:3.6"),
        ("redis", "https://a.example library/redis:latest"),
        (f"redis@{DIGEST}", f"https://a.example library/redis@{DIGEST}"),
        ("quay.io/rancher/pause:3.6", "https://a.example rancher/pause:3.6"),
    ],
)
def test_an_image_goes_to_the_mirror_that_a_node_asks_first_under_its_rewritten_name(image: str, place: str) -> None:
    (item,) = mapped(MIRRORS, image)
    assert item.problem is None
    assert places(item) == [place]


def test_the_rule_that_rewrote_is_known_with_its_line() -> None:
    (item,) = mapped(MIRRORS, "rancher/pause:3.6")
    rewrite = item.targets[0].route.rewrite
    assert rewrite is not None
    assert (rewrite.pattern, rewrite.span and rewrite.span.line) == ("^rancher/(.*)", 5)


def test_all_goes_to_every_mirror_and_a_path_override_stays_one() -> None:
    (item,) = mapped(MIRRORS, "rancher/pause:3.6", to=["all"])
    assert places(item) == [
        "https://a.example mirror/rancher/pause:3.6",
        "https://b.example:5000/v2/cache mirror/rancher/pause:3.6",
    ]
    assert item.targets[1].route.url == "https://b.example:5000/v2/cache"


@pytest.mark.parametrize(
    "name", ["b.example:5000", "https://b.example:5000", "https://b.example:5000/v2/cache", "https://b.example:5000/"]
)
def test_an_endpoint_is_named_as_in_the_file_by_url_or_by_host(name: str) -> None:
    (item,) = mapped(MIRRORS, "redis:7", to=[name])
    assert places(item) == ["https://b.example:5000/v2/cache library/redis:7"]


def test_neither_the_embedded_registry_nor_the_registry_itself_is_filled() -> None:
    embedded = k3s.Flags(embedded_registry="127.0.0.1:6443")
    (item,) = mapped(MIRRORS, "redis:7", to=["all"], flags=embedded)
    assert [target.route.kind for target in item.targets] == ["mirror", "mirror"]
    assert [route.kind for route in item.plan.routes] == ["embedded", "mirror", "mirror", "default"]


def test_a_tag_beside_a_digest_is_given_too() -> None:
    (item,) = mapped(MIRRORS, f"redis:7@{DIGEST}")
    assert item.targets[0].names == (DIGEST, "7")


def test_a_port_is_no_tag() -> None:
    assert Wanted.of(Reference.parse(f"r.example:5000/a@{DIGEST}"), f"r.example:5000/a@{DIGEST}").tag == ""


def test_a_tag_beside_a_digest_makes_way_for_the_tag_itself() -> None:
    pinned, tagged, again = mapped(MIRRORS, f"redis:7@{DIGEST}", "redis:7", f"redis:7@{OTHER}")
    assert pinned.targets[0].names == (DIGEST,)
    assert tagged.targets[0].names == ("7",)
    assert again.targets[0].names == (OTHER,)


# ── what is wrong with that ──────────────────────────────────────────────────────────────────────────────────────


def test_two_images_at_one_place_are_a_collision_for_both() -> None:
    first, second, third = mapped(MIRRORS, "redis:7", "quay.io/library/redis:7", "quay.io/library/redis:8")
    for item in (first, second):
        assert item.problem is not None
        assert item.problem.id == "collision"
        assert "docker.io/library/redis:7 and quay.io/library/redis:7 both end at" in item.problem.message
        assert item.problem.span is not None
    assert third.problem is None


def test_if_a_collision_is_allowed_the_first_of_the_list_has_the_place() -> None:
    first, second = mapped(MIRRORS, "redis:7", "quay.io/library/redis:7", allow=["collision"])
    assert first.problem is None
    assert places(first) == ["https://a.example library/redis:7"]
    assert second.problem is None
    assert second.targets == ()
    assert "docker.io/library/redis:7 stands first" in second.left_out


def test_the_same_digest_at_one_place_is_no_collision() -> None:
    first, second = mapped(MIRRORS, f"redis@{DIGEST}", f"quay.io/library/redis@{DIGEST}")
    assert (first.problem, second.problem) == (None, None)


def test_an_image_without_a_mirror_is_an_error_unless_allowed() -> None:
    (item,) = mapped(MIRRORS, "ghcr.io/a/b:1")
    assert item.problem is not None
    assert item.problem.id == "unmirrored"
    (item,) = mapped(MIRRORS, "ghcr.io/a/b:1", allow=["unmirrored"])
    assert item.problem is None
    assert "ghcr.io has no mirror" in item.left_out


def test_an_entry_that_leads_only_to_the_registry_itself_is_an_error_of_its_own() -> None:
    for text, image in (
        ("mirrors: {quay.io: {endpoint: ['https://[bad']}}", "quay.io/a/b:1"),
        (MIRRORS, "nowhere.example/a:1"),
    ):
        (item,) = mapped(text, image, allow=["unmirrored"])
        assert item.problem is not None
        assert item.problem.id == "internet-only"
        assert item.problem.span is not None
        (item,) = mapped(text, image, allow=["internet-only"])
        assert item.problem is None
        assert item.left_out
    assert "https://nowhere.example: it is the default endpoint" in item.left_out


def test_an_image_that_no_node_asks_for_at_the_endpoint_is_not_put_there() -> None:
    hub, quay = mapped(MIRRORS, "redis:7", "quay.io/a/b:1", to=["b.example:5000"])
    assert places(hub) == ["https://b.example:5000/v2/cache library/redis:7"]
    assert quay.problem is not None
    assert quay.problem.message == "quay.io/a/b:1: no node asks b.example:5000 for it, but https://a.example"


@pytest.mark.parametrize("replacement", ["../../$1", "Mirror/$1", "a//$1", "$1?x=y", "", "x" * 300])
def test_a_rewrite_that_makes_no_repository_name_is_an_error_of_that_image(replacement: str) -> None:
    text = f'mirrors: {{docker.io: {{endpoint: [https://a.example], rewrite: {{"^bad/(.*)": "{replacement}"}}}}}}'
    bad, good = mapped(text, "bad/app:1", "good/app:1")
    assert bad.problem is not None
    assert bad.problem.id == "invalid-destination"
    assert bad.problem.span is not None
    assert bad.problem.span.line == 1
    assert bad.targets == ()
    assert good.problem is None


def test_where_two_rules_overlap_the_image_goes_to_what_each_makes_of_it() -> None:
    text = """
mirrors:
  docker.io:
    endpoint: [https://a.example]
    rewrite:
      "^team/(.*)": "one/$1"
      "^team/app": "two/app"
      "^team": "one"
"""
    (item,) = mapped(text, "team/app:1")
    assert places(item) == ["https://a.example one/app:1", "https://a.example two/app:1"]
    # Each is what one of the plans has that containerd may walk.
    assert [target.plan.routes[0].repository for target in item.targets] == ["one/app", "two/app"]
    assert {problem.id for problem in item.plan.problems} == {"overlapping-rewrites"}


def test_an_endpoint_without_a_host_is_passed_over_as_containerd_does() -> None:
    (item,) = mapped("mirrors: {docker.io: {endpoint: ['https:///v2/x', https://a.example]}}", "redis:7")
    assert places(item) == ["https://a.example library/redis:7"]


ODD = [
    ("ftp://m.lan", "ftp"),
    ("TCP://m.lan:5000", "tcp"),
    ("httpx://m.lan", "httpx"),
    ("http:/m.lan", "http"),
    ("https:/m.lan", "https"),
    ("unix:///run/m.sock", "unix"),
]


@pytest.mark.parametrize(("endpoint", "scheme"), ODD)
def test_an_endpoint_whose_scheme_is_taken_for_its_host_is_no_place(endpoint: str, scheme: str) -> None:
    text = f"mirrors:\n  docker.io:\n    endpoint:\n      - {endpoint}\n"
    for to in ([], ["all"], [endpoint]):
        (item,) = mapped(text, "redis:7", to=to)
        check_endpoints(to, [item], [endpoint])
        assert item.problem is not None
        assert (item.targets, item.problem.id) == ((), "internet-only")
        assert f"a node asks only docker.io itself ({endpoint}: " in item.problem.message
        assert scheme in item.problem.message.rpartition(endpoint)[2]
        assert item.problem.span is not None
        assert item.problem.span.line == 4
    (item,) = mapped(text, "redis:7", allow=["internet-only"])
    assert endpoint in item.left_out


@pytest.mark.parametrize(("endpoint", "scheme"), ODD)
def test_such_an_endpoint_is_left_behind_for_the_next_one_and_told(endpoint: str, scheme: str) -> None:
    (item,) = mapped(f"mirrors: {{docker.io: {{endpoint: ['{endpoint}', https://a.example]}}}}", "redis:7")
    assert places(item) == ["https://a.example library/redis:7"]
    (problem,) = unreached(item.plan)
    assert (problem.id, problem.severity) == ("invalid-endpoint", "warning")
    assert problem.message.startswith(f"no node gets to {endpoint}: ")
    assert scheme in problem.message
    assert problem.span is not None


@pytest.mark.parametrize(
    "endpoint", ["https://m.lan:", "m.lan:", "http://[::1]", "http://m.lan:80", "https://https:5000"]
)
def test_an_empty_port_is_no_scheme(endpoint: str) -> None:
    (item,) = mapped(f"mirrors: {{docker.io: {{endpoint: ['{endpoint}']}}}}", "redis:7")
    assert len(item.targets) == 1
    assert not unreached(item.plan)


def test_an_unknown_endpoint_is_an_error_that_lists_those_of_the_file() -> None:
    items = mapped(MIRRORS, "redis:7", to=["https://c.example"])
    with pytest.raises(UsageError) as error:
        check_endpoints(["https://c.example"], items, ["https://a.example", "https://b.example:5000/v2/cache"])
    assert "'https://c.example' is no endpoint" in error.value.message
    assert "https://a.example" in error.value.hint


def test_an_endpoint_of_another_registry_is_known() -> None:
    items = mapped(MIRRORS, "quay.io/a/b:1", to=["b.example:5000"])
    check_endpoints(["b.example:5000", "all"], items, ["https://a.example", "https://b.example:5000/v2/cache"])


def test_a_thousand_images_take_no_time() -> None:
    images = [f"rancher/image-{number}:1" for number in range(1000)]
    started = time.process_time()
    items = mapped(MIRRORS, *images, to=["all"])
    assert time.process_time() - started < 1.5
    assert sum(len(item.targets) for item in items) == 2000


# ── whatever the list and the file are ───────────────────────────────────────────────────────────────────────────

_NAMES = st.sampled_from(
    ["redis:7", "a/b:1", "quay.io/a/b:1", "quay.io/library/redis:7", f"a/b:1@{DIGEST}", "ghcr.io/c:1"]
)


@settings(deadline=None)
@given(st.lists(_NAMES, unique=True), st.sets(st.sampled_from(ALLOWED)), st.sampled_from([(), ("all",)]))
def test_a_place_belongs_to_one_image_and_every_image_has_places_or_a_reason(
    images: list[str], allow: set[Allowed], to: tuple[str, ...]
) -> None:
    items = mapped(MIRRORS, *images, to=to, allow=sorted(allow))
    assert [str(item.wanted) for item in items] == [str(Reference.parse(image)) for image in images]
    taken: dict[tuple[str, str, str], Mapped] = {}
    for item in items:
        assert bool(item.targets and not item.problem) + bool(item.problem) + bool(item.left_out) == 1
        for target in () if item.problem else item.targets:
            for name in target.names:
                assert taken.setdefault((target.route.url, target.route.repository, name), item) is item
