"""The rules on lists of images and on what comes from outside the mirrors, each against the plan that explains it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checking import circumstances
from pierhead.check import Finding, Subject, check
from pierhead.check.rule import Example

RULES = ("R031", "R038", "R047", "R057", "R058", "R059", "R060")
DISABLED = "--disable-default-registry-endpoint"
STRICT = "--assert-no-egress"
DIGEST = "sha256:" + "0123456789abcdef" * 4
MIRROR = """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
"""
WILDCARD = """\
  "*":
    endpoint:
      - https://harbor.lan
"""


def subject_of(text: str, images: str = "", flags: tuple[str, ...] = ()) -> Subject:
    example = Example(text, images=images, flags=flags)
    return Subject.of(text.encode(), "registries.yaml", circumstances(example, None))


def found(text: str, images: str = "", *flags: str) -> tuple[Finding, ...]:
    return check(subject_of(text, images, flags), select=RULES)


def told(findings: tuple[Finding, ...]) -> list[tuple[str, str, int]]:
    return [(finding.id, finding.severity, finding.span.line) for finding in findings]


# ── no egress, without a list ──


@pytest.mark.parametrize(
    ("text", "flags", "lines"),
    [
        pytest.param(MIRROR, (), [1, 2], id="default after mirrors, and any other registry"),
        pytest.param(MIRROR, (DISABLED,), [1], id="any other registry"),
        pytest.param(MIRROR + WILDCARD, (), [2, 5], id="defaults after both"),
        pytest.param(MIRROR + WILDCARD, (DISABLED,), [], id="closed"),
        pytest.param(MIRROR.replace("docker.io", '"*"'), (DISABLED,), [], id="wildcard alone"),
        pytest.param(
            MIRROR + WILDCARD + "configs:\n  docker.io:\n    auth: {username: u, password: p}\n",
            (DISABLED,),
            [2],
            id="E36: configs of the same name",
        ),
        pytest.param(MIRROR + "      - https://\n" + WILDCARD, (DISABLED,), [2], id="E28: no host in last place"),
        pytest.param(
            MIRROR + WILDCARD + "  ghcr.io: {}\n", (DISABLED,), [], id="without an endpoint the wildcard applies"
        ),
        pytest.param(MIRROR.replace("https://harbor.lan", "'::1'") + WILDCARD, (DISABLED,), [2], id="unreadable file"),
        pytest.param(
            MIRROR + WILDCARD + "configs:\n  ghcr.io:\n    tls: {ca_file: /ca.pem}\n",
            (DISABLED,),
            [9],
            id="configs takes a registry out of the wildcard",
        ),
        pytest.param(
            MIRROR + WILDCARD + "configs:\n  harbor.lan:\n    tls: {ca_file: /ca.pem}\n",
            (DISABLED,),
            [],
            id="the mirror's own settings",
        ),
        pytest.param(MIRROR + "      - https://quay.io\n" + WILDCARD, (DISABLED,), [5], id="a public endpoint"),
        pytest.param(
            MIRROR + WILDCARD + "  harbor.lan:\n    endpoint: [https://harbor.lan:443]\n",
            (DISABLED,),
            [],
            id="the mirror's own name",
        ),
        pytest.param(
            MIRROR + WILDCARD + "  reg.lan:\n    endpoint: [https://reg.lan]\n", (), [2, 5], id="itself its endpoint"
        ),
        pytest.param(
            MIRROR + WILDCARD + "  localhost:5000:\n    endpoint: [http://harbor.lan]\n", (), [2, 5], id="loopback"
        ),
        pytest.param("configs: {}\n", (), [1], id="no mirrors"),
        pytest.param("", (), [1], id="empty"),
    ],
)
def test_no_egress_without_a_list(text: str, flags: tuple[str, ...], lines: list[int]) -> None:
    assert told(found(text, "", STRICT, *flags)) == [("R031", "error", line) for line in lines]


def test_nothing_is_said_without_the_flag_and_without_a_list() -> None:
    assert found(MIRROR) == ()


@pytest.mark.parametrize(
    ("text", "flags", "remedy"),
    [
        (MIRROR, (), f"run K3s with {DISABLED}"),
        (MIRROR + "configs:\n  docker.io: {}\n", (DISABLED,), "take docker.io out of configs"),
        (MIRROR + "      - https://\n", (DISABLED,), "give the last endpoint a host"),
        (MIRROR.replace("https://harbor.lan", "'::1'"), (DISABLED,), "unreadable to containerd"),
        ("mirrors:\n  docker.io:\n", (DISABLED,), "list an endpoint for docker.io"),
        (MIRROR + "      - https://quay.io\n", (DISABLED,), "take the endpoint out"),
        (MIRROR + "      - docker.io\n", (), f"take the default endpoint out, and run K3s with {DISABLED}"),
        (MIRROR, (DISABLED, "--client containerd"), "containerd always asks it last"),
    ],
)
def test_the_remedy_follows_the_cause(text: str, flags: tuple[str, ...], remedy: str) -> None:
    remedies = [finding.remedy for finding in found(text, "", STRICT, *flags) if finding.span.line != 1]

    assert any(remedy in told for told in remedies), remedies


# ── no egress, with a list ──


@pytest.mark.parametrize(
    ("text", "flags", "images", "expected"),
    [
        (MIRROR, (), "redis\nacme/app:1\n", [("R031", "error", 2)]),
        (MIRROR, (DISABLED,), "redis\nacme/app:1\n", []),
        (MIRROR, (DISABLED,), "redis\nquay.io/a/b:1\n", [("R057", "error", 2)]),
        (MIRROR + WILDCARD, (DISABLED,), "redis\nquay.io/a/b:1\n", []),
        (MIRROR + WILDCARD, (), "quay.io/a/b:1\nghcr.io/a/b:2\n", [("R031", "error", 5)]),
        (MIRROR, (DISABLED,), "redis\nharbor.lan/a/b:1\nlocalhost/a:1\nlocalhost:5000/a:1\n", []),
        (MIRROR, (DISABLED,), "redis\nharbor.lan:443/a/b:1\n", []),
        (MIRROR, (DISABLED,), "redis\nharbor.lan:5000/a/b:1\n", [("R057", "error", 2)]),
        (MIRROR + "      - https://quay.io\n", (DISABLED,), "redis\n", [("R031", "error", 5)]),
        (MIRROR + "configs:\n  reg.lan: {tls: {}}\n", (DISABLED,), "redis\nreg.lan/a:1\n", [("R057", "error", 2)]),
    ],
)
def test_no_egress_with_a_list(
    text: str, flags: tuple[str, ...], images: str, expected: list[tuple[str, str, int]]
) -> None:
    findings = tuple(finding for finding in found(text, images, STRICT, *flags) if finding.id in ("R031", "R057"))

    assert told(findings) == expected


def test_a_leak_counts_its_images_once_for_each_mirror() -> None:
    (leak,) = found(MIRROR, "acme/app:1\nredis\nacme/db:2\n", STRICT)

    assert leak.message.startswith("acme/app:1 and 2 more images of the list may come from registry-1.docker.io itself")


def test_with_a_list_a_leak_is_worth_a_note() -> None:
    assert told(found(MIRROR, "redis\n")) == [("R031", "note", 2)]
    assert told(found(MIRROR, "redis\n", DISABLED)) == []


@given(st.sets(st.sampled_from(["redis", "quay.io/a/b", "harbor.lan/x", "ghcr.io/a"]), min_size=1), st.data())
@settings(deadline=None, max_examples=60)
def test_strict_silence_means_that_every_route_is_inside(images: set[str], data: st.DataObject) -> None:
    """Against the routes themselves: nothing is said exactly if all of them lead to the one mirror that there is."""
    keys = data.draw(st.sets(st.sampled_from(["docker.io", "quay.io", '"*"', "ghcr.io", "harbor.lan"]), min_size=1))
    configs = data.draw(st.sets(st.sampled_from(["docker.io", "quay.io", "harbor.lan"])))
    text = "mirrors:\n" + "".join(f"  {key}:\n    endpoint: [https://harbor.lan]\n" for key in sorted(keys))
    text += "configs:\n" + "".join(f"  {key}:\n    tls: {{ca_file: /ca.pem}}\n" for key in sorted(configs))
    flags = (STRICT, *data.draw(st.sampled_from([(), (DISABLED,)])))
    subject = subject_of(text, "\n".join(sorted(images)), flags)

    hosts = {route.host for _, plan in subject.routed for route in plan.routes}
    assert bool(check(subject, select=["R031", "R057"])) == (hosts != {"harbor.lan"})


# ── images without a mirror ──


def test_every_image_without_a_mirror_is_found_at_its_place() -> None:
    findings = found(MIRROR, "redis\n\n  quay.io/a/b:1  # why\nquay.io/c:2\nghcr.io/x/y\n", DISABLED)

    spans = [
        (finding.span.file, finding.span.line, finding.span.column, finding.span.end_column) for finding in findings
    ]
    assert [finding.id for finding in findings] == ["R057"] * 3
    assert spans == [("images.txt", 3, 3, 16), ("images.txt", 4, 1, 12), ("images.txt", 5, 1, 12)]
    assert {finding.severity for finding in findings} == {"warning"}
    assert findings[2].remedy == "add a mirror for ghcr.io"


def test_a_registry_that_configs_names_is_pulled_from_on_purpose() -> None:
    text = MIRROR + "configs:\n  reg.lan:\n    tls: {ca_file: /ca.pem}\n"

    assert told(found(text, "redis\nreg.lan/a:1\n", DISABLED)) == []


@pytest.mark.parametrize("configs", ["", "configs:\n  reg.lan:5000: {auth: {username: u, password: p}}\n"])
def test_a_plain_endpoint_is_asked_with_tls_under_its_own_name(configs: str) -> None:
    text = MIRROR.replace("https://harbor.lan", "http://reg.lan:5000")
    (finding,) = found(text + configs, "reg.lan:5000/press/hmi:2\n", DISABLED)

    assert told((finding,)) == [("R057", "warning", 1)]
    assert "https://reg.lan:5000, while the endpoint in line 4 speaks plain HTTP" in finding.message
    assert finding.remedy == "add a mirror for reg.lan:5000 with the endpoint http://reg.lan:5000"
    mirrored = text + "  reg.lan:5000:\n    endpoint: [http://reg.lan:5000]\n"
    assert "R057" not in [hit.id for hit in found(mirrored, "reg.lan:5000/press/hmi:2\n", DISABLED)]


def test_the_mirror_that_was_meant_is_named() -> None:
    text = MIRROR.replace("docker.io", "images.corp.lan")
    findings = [finding for finding in found(text, "image.corp.lan/a:1\n", DISABLED) if finding.id == "R057"]

    assert [finding.remedy for finding in findings] == [
        "mirrors has images.corp.lan: write image.corp.lan if that is meant"
    ]


def test_another_port_is_told_at_the_mirror_and_not_for_each_image() -> None:
    text = MIRROR.replace("docker.io", "reg.lan").replace("https://harbor.lan", "http://reg.lan:5000")
    findings = check(subject_of(text, "reg.lan:5000/a:1\nreg.lan:5000/b:1\n"))

    assert [finding.id for finding in findings] == ["R006"]
    strict = check(subject_of(text.replace(":5000", ":5001"), "reg.lan:5000/a:1\n", (STRICT,)), select=RULES)
    assert told(strict) == [("R057", "error", 1)], "no egress is about images"


def test_a_registry_that_configs_takes_out_of_the_wildcard() -> None:
    text = "mirrors:\n" + WILDCARD + "configs:\n  ghcr.io:\n    tls: {ca_file: /ca.pem}\n"
    (finding,) = found(text, "ghcr.io/a/b:1\n", DISABLED, STRICT)

    assert (finding.id, finding.severity) == ("R057", "error")
    assert "the entry of configs takes it out" in finding.remedy


# ── what the list says of the mirrors ──


@pytest.mark.parametrize(
    ("key", "images", "expected"),
    [
        ("quay.io", "redis\n", [("R038", "note", 5)]),
        ("quay.io", "redis\nquay.io/a:1\n", []),
        ('"*"', "redis\n", []),
        ("harbour.corp.lan", "redis\nharbor.corp.lan/a:1\n", [("R038", "warning", 5)]),
        ("reg.lan", "redis\nreg.lan:5000/a:1\n", []),
        ("index.docker.io", "redis\n", []),
        ("https://quay.io", "redis\n", []),
    ],
)
def test_unused_mirrors(key: str, images: str, expected: list[tuple[str, str, int]]) -> None:
    text = MIRROR + WILDCARD.replace('"*"', key)
    findings = found(text, images, DISABLED)

    assert [finding for finding in told(findings) if finding[0] == "R038"] == expected


@pytest.mark.parametrize(
    ("pattern", "images", "expected"),
    [
        ("^rancher/(.*)", "redis\nacme/app\n", [("R059", "warning", 6)]),
        ("^rancher/(.*)", "redis\nrancher/k3s\n", []),
        ("^rancher/(.*)", "quay.io/rancher/k3s\n", []),
        ("^redis$", "redis\n", []),
        ("^docker.io/(.*)", "redis\n", []),
        ("^(?!x)", "redis\n", []),
    ],
)
def test_rewrites_that_never_apply(pattern: str, images: str, expected: list[tuple[str, str, int]]) -> None:
    """Those that another rule explains are left to it."""
    text = f'{MIRROR}    rewrite:\n      "{pattern}": "k3s/$1"\n'
    findings = found(text, images, DISABLED)

    assert [finding for finding in told(findings) if finding[0] == "R059"] == expected


def test_a_rewrite_that_never_applies_shows_a_name() -> None:
    text = f'{MIRROR}    rewrite:\n      "^rancher/(.*)": "k3s/$1"\n'
    (finding,) = found(text, "redis\nredis:6\nacme/app\n", DISABLED)

    assert finding.message == "`^rancher/(.*)` changes none of the 2 repositories of the list"
    assert finding.remedy.endswith("library/redis")


# ── collisions ──


def collisions(text: str, images: str) -> list[tuple[str, int]]:
    return [(finding.severity, finding.span.line) for finding in found(text, images) if finding.id == "R058"]


FLAT = f"{MIRROR}    rewrite:\n      '^.*/': 'hub/'\n"


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        (FLAT, "redis:7\nbitnami/redis:7\n", [("error", 2)]),
        (FLAT, "redis:7\nbitnami/redis:6\n", []),
        (FLAT, f"redis@{DIGEST}\nbitnami/redis@{DIGEST}\n", []),
        (FLAT, "redis:7\nlibrary/redis:7\ndocker.io/library/redis:7\n", []),
        (MIRROR + WILDCARD, "docker.io/a/b:1\nquay.io/a/b:1\n", [("warning", 2)]),
        (MIRROR + WILDCARD, "docker.io/a/b:1\nquay.io/a/b:2\n", []),
        (MIRROR + WILDCARD.replace("harbor", "other"), "docker.io/a/b:1\nquay.io/a/b:1\n", []),
        (FLAT + WILDCARD, "docker.io/a/b:1\nquay.io/hub/b:1\n", [("error", 2)]),
        (FLAT.replace("'hub/'", "'/hub/'"), "a/b:1\nc/b:1\nd/b:1\n", [("error", 2), ("error", 3)]),
    ],
)
def test_collisions(text: str, images: str, expected: list[tuple[str, int]]) -> None:
    assert collisions(text, images) == expected


def test_a_collision_names_both_images() -> None:
    (finding,) = (finding for finding in found(FLAT, "redis:7\nbitnami/redis:7\n") if finding.id == "R058")

    assert finding.message == "bitnami/redis:7 and redis:7 (line 1) are both asked for as hub/redis:7 at harbor.lan"


# ── the list itself ──


@pytest.mark.parametrize(
    ("line", "tag"),
    [
        (f"redis:7@{DIGEST}", (7, 8)),
        (f"  reg.lan:5000/a/b:v1.0@{DIGEST}", (20, 24)),
        (f"reg.lan:5000/a/b@{DIGEST}", None),
        ("redis:7", None),
    ],
)
def test_a_tag_beside_a_digest(line: str, tag: tuple[int, int] | None) -> None:
    spans = [finding.span for finding in found("mirrors: {}\n", f"{line}\n") if finding.id == "R047"]

    assert [(span.column, span.end_column) for span in spans] == ([tag] if tag else [])


def test_lines_that_name_no_image() -> None:
    findings = found("mirrors: {}\n", "# list\nRedis:7\n docker.io/a/b:1\na b\n")
    invalid = [finding for finding in findings if finding.id == "R060"]

    assert told(tuple(invalid)) == [("R060", "error", 2), ("R060", "error", 4)]
    assert "upper-case" in invalid[0].message


def test_a_file_that_k3s_refuses_says_nothing_of_images() -> None:
    assert found("mirrors: [\n", "redis\n", STRICT) == ()


def test_ten_thousand_images_cost_little() -> None:
    text = FLAT + WILDCARD + "".join(f"  reg{number}.lan:\n    endpoint: [harbor.lan]\n" for number in range(500))
    images = "".join(f"reg{number % 600}.lan/team/app{number}:v1\nacme/a{number}\n" for number in range(5000))
    subject = subject_of(text, images, (STRICT,))
    assert subject.hosts

    begun = time.process_time()
    check(subject, select=RULES)
    assert time.process_time() - begun < 6, "far from quadratic"
