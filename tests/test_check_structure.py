"""Keys that are there twice, unknown, or in the wrong place: what is said, and that the corrected file means it."""

from __future__ import annotations

import pytest

from checking import NOW
from pierhead.check import Circumstances, Finding, Subject, check, fixed
from pierhead.config.k3s import render
from pierhead.config.registries import parse

OURS = ("R002", "R003", "R023", "R054", "R080")
SECRET = "s3cr3t-Pw"


def subject_of(text: str | bytes) -> Subject:
    data = text.encode() if isinstance(text, str) else text
    return Subject.of(data, "registries.yaml", Circumstances(NOW))


def found(text: str) -> list[Finding]:
    return list(check(subject_of(text), select=OURS))


def repaired(text: str, *ids: str) -> str:
    return fixed(subject_of(text), select=ids or OURS).data.decode()


NESTED = f"""\
# all of it
mirrors:
  docker.io:
    endpoint:
      - "https://cache.lan:5000"

  # who may pull
  # (from the vault)
  configs:
    "cache.lan:5000":
      # a robot
      auth:
        username: puller  # of March
        password: "{SECRET}"
      tls: {{ca_file: /etc/ca.pem,
            insecure_skip_verify: false}}
    # the end
"""
LIFTED = f"""\
# all of it
mirrors:
  docker.io:
    endpoint:
      - "https://cache.lan:5000"

# who may pull
# (from the vault)
configs:
  "cache.lan:5000":
    # a robot
    auth:
      username: puller  # of March
      password: "{SECRET}"
    tls: {{ca_file: /etc/ca.pem,
          insecure_skip_verify: false}}
  # the end
"""
AROUND = f"""\
mirrors:
  configs:
    "cache.lan":
      auth: {{username: puller, password: {SECRET}}}
  # the hub
  docker.io:
    endpoint: [https://cache.lan]
  quay.io:
    endpoint: [https://cache.lan]
"""
BEHIND = f"""\
mirrors:
  # the hub
  docker.io:
    endpoint: [https://cache.lan]
  quay.io:
    endpoint: [https://cache.lan]
configs:
  "cache.lan":
    auth: {{username: puller, password: {SECRET}}}
"""


@pytest.mark.parametrize("breaks", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("before", "after"), [(NESTED, LIFTED), (AROUND, BEHIND)])
def test_a_nested_section_moves_out_with_its_comments(before: str, after: str, breaks: str, encoding: str) -> None:
    subject = subject_of(before.replace("\n", breaks).encode(encoding))

    (finding,) = check(subject, select=OURS)

    assert finding.id == "R023"
    assert subject.source.slice(finding.span) == "configs"
    assert finding.fix
    assert all(SECRET not in edit.text for edit in finding.fix.edits)
    data = fixed(subject, select=OURS).data
    assert data == after.replace("\n", breaks).encode(encoding)
    entry = parse(data, "f").configs[next(iter(parse(data, "f").configs))]
    assert entry.auth
    assert entry.auth.password
    assert entry.auth.password.value.reveal() == SECRET


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (  # inside of one registry
            "mirrors:\n  a.b:\n    endpoint: [x]\n    configs:\n      x:\n        tls: {}\n  c.d:\n    endpoint: [x]\n",
            "mirrors:\n  a.b:\n    endpoint: [x]\n  c.d:\n    endpoint: [x]\nconfigs:\n  x:\n    tls: {}\n",
        ),
        (  # mirrors inside of configs
            "configs:\n  x:\n    tls: {}\n  mirrors:\n    a.b:\n      endpoint: [x]\n",
            "configs:\n  x:\n    tls: {}\nmirrors:\n  a.b:\n    endpoint: [x]\n",
        ),
        (  # without a line break at the end, and a section after it
            "mirrors:\n  configs:\n    x:\n      tls: {}\n  a.b:\n    endpoint: [x]\nx-y: 1",
            "mirrors:\n  a.b:\n    endpoint: [x]\nconfigs:\n  x:\n    tls: {}\nx-y: 1",
        ),
        (  # without a line break at the end of what moves
            "mirrors:\n  configs:\n    x:\n      tls: {}\n  a.b:\n    endpoint: [x]",
            "mirrors:\n  a.b:\n    endpoint: [x]\nconfigs:\n  x:\n    tls: {}\n",
        ),
        (  # all of it below one word
            "registries:\n  # why\n  mirrors:\n    a.b:\n      endpoint: [x]\n  configs:\n    x:\n      tls: {}\n",
            "# why\nmirrors:\n  a.b:\n    endpoint: [x]\nconfigs:\n  x:\n    tls: {}\n",
        ),
    ],
)
def test_sections_move_to_the_left_edge(before: str, after: str) -> None:
    (finding,) = found(before)

    assert finding.id == "R023"
    assert repaired(before) == after
    assert [problem for problem in parse(after.encode(), "f").problems if problem.severity != "note"] == []


@pytest.mark.parametrize(
    "text",
    [
        "mirrors: {a.b: {endpoint: [x]}, configs: {x: {tls: {}}}}\n",
        "mirrors:\n  configs:\n    x:\n      tls: {}\nconfigs:\n  y: {tls: {}}\n",
        "mirrors:\n  configs: &c\n    x:\n      tls: {}\n  a.b: {endpoint: ['https://u:p@h']}\n",
    ],
)
def test_a_section_that_cannot_move_is_only_said(text: str) -> None:
    (finding,) = (each for each in found(text) if each.id == "R023")

    assert finding.fix is None


@pytest.mark.parametrize(
    "text",
    [
        "mirrors:\n  configs:\n    endpoint: [x]\n",
        "mirrors:\n  configs:\n",
        "configs:\n  mirrors:\n    tls: {}\n",
        "x-all:\n  mirrors: {}\nmirrors: {a.b: {endpoint: [x]}}\n",
    ],
)
def test_a_registry_of_that_name_is_sound(text: str) -> None:
    assert found(text) == []


# ── fields ──


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "mirrors:\n  a.b:\n  endpoint:\n    - x\n  # why\n  rewrite:\n    ^a: b\n",
            "mirrors:\n  a.b:\n    endpoint:\n      - x\n    # why\n    rewrite:\n      ^a: b\n",
        ),
        ("mirrors:\n  a.b:\n  endpoint:\n  - x\n", "mirrors:\n  a.b:\n    endpoint:\n    - x\n"),
        (
            "mirrors:\n    a.b:\n        endpoint: [x]\n    rewrite:\n        ^a: b\n",
            "mirrors:\n    a.b:\n        endpoint: [x]\n        rewrite:\n            ^a: b\n",
        ),
        (
            f"configs:\n  a.b:\n  auth:\n    username: x\n    password: {SECRET}\n",
            f"configs:\n  a.b:\n    auth:\n      username: x\n      password: {SECRET}\n",
        ),
        (
            f"configs:\n  a.b:\n    # robot\n    username: x\n    password: {SECRET}\n    tls: {{}}\n",
            f"configs:\n  a.b:\n    auth:\n      # robot\n      username: x\n      password: {SECRET}\n    tls: {{}}\n",
        ),
        (
            f"configs:\n  a.b:\n    auth:\n    username: x\n    password: {SECRET}\n",
            f"configs:\n  a.b:\n    auth:\n      username: x\n      password: {SECRET}\n",
        ),
        (
            f"configs: {{a.b: {{username: x, password: {SECRET}}}}}\n",
            f"configs: {{a.b: {{auth: {{username: x, password: {SECRET}}}}}}}\n",
        ),
        (
            "configs:\n  a.b:\n    insecure_skip_verify: true\n",
            "configs:\n  a.b:\n    tls:\n      insecure_skip_verify: true\n",
        ),
        (
            "configs:\n  a.b:\n    auth:\n      username: x\n      tls:\n        ca_file: /x\n      password: y\n",
            None,
        ),
        (
            "configs:\n  a.b:\n    auth:\n      username: x\n      tls:\n        ca_file: /x\n  c.d:\n    tls: {}\n",
            "configs:\n  a.b:\n    auth:\n      username: x\n    tls:\n      ca_file: /x\n  c.d:\n    tls: {}\n",
        ),
        (
            "mirrors:\na.b:\n  endpoint: [x]\nc.d:\n  endpoint: [x]\n",
            "mirrors:\n  a.b:\n    endpoint: [x]\n  c.d:\n    endpoint: [x]\n",
        ),
        ("a.b:\n  endpoint: [x]\n", "mirrors:\n  a.b:\n    endpoint: [x]\n"),
    ],
)
def test_a_field_moves_below_what_it_belongs_to(before: str, after: str | None) -> None:
    findings = found(before)

    assert {finding.id for finding in findings} == {"R080"}
    assert SECRET not in str(findings)
    assert repaired(before) == (after or before)
    assert after is None or parse(after.encode(), "f").problems == ()


def test_tls_in_a_mirror_is_sent_to_the_host_of_the_endpoint() -> None:
    text = f"mirrors:\n  a.b:\n    endpoint: [https://c.lan:5000/v2]\n    tls: {{}}\n    auth: {{password: {SECRET}}}\n"

    (finding,) = found(text)

    assert (finding.id, finding.span.line, finding.span.column) == ("R080", 4, 5)
    assert "tls and auth of a.b" in finding.message
    assert "c.lan:5000" in finding.remedy


# ── unknown keys ──


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("mirrros:\n  a.b: {endpoint: [x]}\n", "mirrors:\n  a.b: {endpoint: [x]}\n"),
        ('"config":\n  a.b: {tls: {}}\n', '"configs":\n  a.b: {tls: {}}\n'),
        ("Mirrors:\n  a.b: {endpoint: [x]}\n", "mirrors:\n  a.b: {endpoint: [x]}\n"),
        ("mirrors:\n  a.b: {endpoints: [x]}\n", "mirrors:\n  a.b: {endpoint: [x]}\n"),
        ("mirrors:\n  a.b:\n    rewrites: {a: b}\n", "mirrors:\n  a.b:\n    rewrite: {a: b}\n"),
        ("mirrors:\n  a.b:\n    endpoint: [x]\n    override_path: true\n", "mirrors:\n  a.b:\n    endpoint: [x]\n"),
        (
            "configs:\n  a.b:\n    TLS:\n      'insecure-skip-verify': true\n",
            "configs:\n  a.b:\n    tls:\n      'insecure_skip_verify': true\n",
        ),
        ("configs:\n  a.b:\n    tls: {caFile: /x}\n", "configs:\n  a.b:\n    tls: {ca_file: /x}\n"),
        (
            f"configs:\n  a.b:\n    auth:\n      user: x\n      pass: {SECRET}\n",
            f"configs:\n  a.b:\n    auth:\n      username: x\n      password: {SECRET}\n",
        ),
        (
            f"configs:\n  a.b:\n    auth:\n      token: {SECRET}\n",
            f"configs:\n  a.b:\n    auth:\n      identity_token: {SECRET}\n",
        ),
        (
            "mirrors:\n\u00a0\u00a0a.b:\n\u00a0\u00a0\u00a0\u00a0endpoint: [x]\n",
            "mirrors:\n  a.b:\n    endpoint: [x]\n",
        ),
    ],
)
def test_an_unknown_key_gets_its_name(before: str, after: str) -> None:
    findings = found(before)

    assert {finding.id for finding in findings} == {"R003"}
    assert SECRET not in str(findings)
    assert repaired(before) == after
    assert parse(after.encode(), "f").problems == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mirrors: {a.b: {endpoint: [x]}}\nsomething: 1\n", "does not know the key something"),
        ("mirrors:\n  a.b: {endpoint: [x], endpoints: [y]}\n", "does not know the key endpoints"),
        ("mirrors:\n  a.b: {endpoint: [x], capabilities: [pull]}\n", "hosts.toml"),
        (f"configs:\n  a.b:\n    auth: {{username: x, token: {SECRET}}}\n", "its documentation shows the key"),
        (f"configs:\n  a.b:\n    auth: {{{SECRET}: x}}\n", "does not know this key"),
        ("configs:\n  a.b:\n    auth: {username: x, password_file: /run/secrets/y}\n", "no credentials from files"),
        ("configs:\n  a.b:\n    auth: {username: x, passwordFromEnv: Y}\n", "no credentials from files"),
    ],
)
def test_an_unknown_key_without_a_single_meaning_is_only_said(text: str, said: str) -> None:
    (finding,) = found(text)

    assert finding.id == "R003"
    assert said in finding.message
    assert SECRET not in finding.message + finding.remedy
    assert finding.fix is None


@pytest.mark.parametrize(
    "text",
    [
        "x-cache: &c\n  endpoints: 1\nmirrors: {}\n",
        ".hidden: 1\nmirrors: {}\n",
        "cache: &c https://x\nmirrors:\n  a.b: {endpoint: [*c]}\n",
        "common:\n  one: &one {endpoint: [x]}\nmirrors:\n  a.b: *one\n",
        "mirrors:\n  a.b: {endpoint: [x], x-note: why}\n",
    ],
)
def test_notes_and_holders_of_anchors_are_sound(text: str) -> None:
    assert found(text) == []


# ── twice ──


@pytest.mark.parametrize(
    ("before", "severity", "after"),
    [
        (
            f"configs:\n  a.b:\n    auth: {{password: {SECRET}}}\n  # why\n  a.b:\n    tls: {{}}\n",
            "error",
            f"configs:\n  a.b:\n    auth: {{password: {SECRET}}}\n  # why\n    tls: {{}}\n",
        ),
        ("mirrors:\n  a.b: {endpoint: [x]}\n  a.b: {endpoint: [x]}\n", "error", "mirrors:\n  a.b: {endpoint: [x]}\n"),
        ("mirrors:\n  a.b: {endpoint: [x]}\n  a.b:\n", "error", "mirrors:\n  a.b: {endpoint: [x]}\n"),
        ("mirrors:\n  a.b:\n  a.b: {endpoint: [x]}\n", "error", "mirrors:\n  a.b: {endpoint: [x]}\n"),
        ("mirrors:\n  a.b: {endpoint: [x]}\n  a.b: {endpoint: [y]}\n", "error", None),
        ("mirrors:\n  a.b:\n    endpoint: [x]\n  a.b:\n    endpoint: [y]\n", "error", None),
        (
            "mirrors:\n  a.b:\n    endpoint:\n      - x\n    endpoint:\n      - y\n",
            "error",
            "mirrors:\n  a.b:\n    endpoint:\n      - x\n      - y\n",
        ),
        (
            "mirrors:\n  a.b: {endpoint: [x]}\nmirrors:\n  c.d: {endpoint: [x]}\n",
            "warning",
            "mirrors:\n  a.b: {endpoint: [x]}\n  c.d: {endpoint: [x]}\n",
        ),
        ("mirrors:\n  a.b: {endpoint: [x]}\nmirrors:\n", "error", "mirrors:\n  a.b: {endpoint: [x]}\n"),
        (f"configs:\n  a.b:\n    auth:\n      password: x\n      password: {SECRET}\n", "error", None),
        ("mirrors:\n  '': {endpoint: [x]}\n  ~: {endpoint: [x]}\n", "error", None),
    ],
)
def test_a_repeated_key(before: str, severity: str, after: str | None) -> None:
    (finding,) = found(before)

    assert (finding.id, finding.severity) == ("R002", severity)
    assert SECRET not in finding.message
    assert repaired(before, "R002") == (after or before)
    assert after is None or parse(after.encode(), "f").problems == ()


def test_what_is_merged_into_one_key_is_what_both_said() -> None:
    before = "mirrors:\n  a.b:\n    endpoint: [x]\nmirrors:\n  c.d:\n    endpoint: [y]\n"

    assert render(parse(repaired(before).encode(), "f")) == render(parse(before.encode(), "f"))


# ── auths ──


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            f"auths:\n  # hub\n  a.b:\n    # robot\n    username: x\n    password: {SECRET}\n"
            f"  c.d: {{auth: {SECRET}}}\n",
            f"configs:\n  # hub\n  a.b:\n    auth:\n      # robot\n      username: x\n      password: {SECRET}\n"
            f"  c.d: {{auth: {{auth: {SECRET}}}}}\n",
        ),
        ("mirrors: {}\nauths: {}\n", "mirrors: {}\n"),
        ("auths:\n  a.b: {auth: x}\nconfigs:\n  c.d: {tls: {}}\n", None),
        ("auths:\n  a.b: &a {auth: x}\n  c.d: *a\n", None),
    ],
)
def test_auths_become_configs(before: str, after: str | None) -> None:
    (finding,) = found(before)

    assert finding.id == "R054"
    assert SECRET not in str(finding)
    assert repaired(before, "R054") == (after or before)
    assert after is None or parse(after.encode(), "f").problems == ()
