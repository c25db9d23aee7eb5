"""registries.yaml as K3s reads it: every recorded error, every value with its place, nothing that raises or leaks."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.config import registries
from pierhead.config.registries import ConfigUnreadable, RegistriesConfig, UnusableConfig, load, parse, unusable
from pierhead.errors import ExitCode, Span

CASES = json.loads((Path(__file__).parent / "vectors" / "k3s-files.json").read_text(encoding="utf-8"))
SCANNER_LIMIT = "bufio.Scanner: token too long"  # K3s fails with it when it writes, not when it reads


def read(text: str) -> RegistriesConfig:
    return parse(text.encode(), "r.yaml")


def content(case: dict[str, Any]) -> bytes:
    return base64.b64decode(case["yaml_base64"]) if "yaml_base64" in case else case["yaml"].encode()


def ids(config: RegistriesConfig) -> list[tuple[str, str]]:
    return [(problem.id, str(problem.span)) for problem in config.problems]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_recorded_errors(case: dict[str, Any]) -> None:
    config = parse(content(case), "r.yaml")
    wanted = None if case["error"] == SCANNER_LIMIT else case["error"]
    assert (config.go_error.reveal() if config.go_error else None) == wanted
    assert (config.error is None) == (wanted is None)
    errors = [problem for problem in config.problems if problem.severity == "error"]
    assert bool(errors) == bool(wanted)
    assert all(problem.span is not None and problem.span.line > 0 for problem in errors)


def test_every_value_has_its_place() -> None:
    config = read(
        "mirrors:\n"
        "  docker.io:\n"
        "    endpoint: [a.lan, 'b.lan']\n"
        "    rewrite: {^x: y}\n"
        "configs:\n"
        "  a.lan:\n"
        "    auth: {username: u, password: 0123, auth: yes, identity_token: 1e3}\n"
        "    tls:\n"
        "      ca_file: /ca\n"
        "      insecure_skip_verify: on\n"
    )
    mirror, entry = config.mirrors["docker.io"], config.configs["a.lan"]
    assert mirror.key.span == Span("r.yaml", 2, 3, 2, 12)
    assert [(text.value, text.span) for text in mirror.endpoints] == [
        ("a.lan", Span("r.yaml", 3, 16, 3, 21)),
        ("b.lan", Span("r.yaml", 3, 23, 3, 30)),
    ]
    assert [(str(rule.pattern.span), str(rule.replacement.span)) for rule in mirror.rewrites] == [
        ("r.yaml:4:15", "r.yaml:4:19")
    ]
    assert entry.auth is not None
    assert entry.auth.username is not None
    assert str(entry.auth.span) == "r.yaml:7:5"
    secrets = [entry.auth.password, entry.auth.auth, entry.auth.identity_token]
    assert [(text.value.reveal(), str(text.span)) for text in secrets if text] == [
        ("0123", "r.yaml:7:35"),
        ("yes", "r.yaml:7:47"),
        ("1e3", "r.yaml:7:68"),
    ]
    assert entry.tls is not None
    assert entry.tls.ca_file is not None
    assert entry.tls.insecure_skip_verify
    assert str(entry.tls.insecure_skip_verify_span) == "r.yaml:10:7"
    assert config.problems == ()


def test_columns_count_code_points() -> None:
    config = read('mirrors: {"ü€😀": {endpoint: [x]}}')
    assert config.mirrors["ü€😀"].endpoints[0].span.column == 30


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "~", "{}", "mirrors:\nconfigs:\n"])
def test_nothing_is_an_empty_configuration(text: str) -> None:
    assert read(text) == RegistriesConfig("r.yaml")


def test_null_and_empty_sections_differ() -> None:
    config = read("configs: {a: {auth: , tls: ~}, b: {auth: {}, tls: {}}, c: {auth: {username: ''}}, d: }")
    assert (config.configs["a"].auth, config.configs["a"].tls) == (None, None)
    assert config.configs["b"].auth is not None
    assert config.configs["b"].auth == registries.Auth(None, None, None, None, config.configs["b"].auth.span)
    assert config.configs["b"].tls is not None
    assert config.configs["c"].auth == registries.Auth(None, None, None, None, config.configs["c"].auth.span)  # type: ignore[union-attr]  # it is there
    assert config.configs["d"] == registries.Config(config.configs["d"].key)


def test_sections_merge_and_registries_do_not() -> None:
    config = read(
        "mirrors: {a: {endpoint: [x]}, b: {rewrite: {p: q}}}\n"
        "mirrors: {b: {endpoint: [y]}}\n"
        "configs: {h: {auth: {username: u}, auth: {password: p}}}\n"
    )
    assert [text.value for text in config.mirrors["b"].endpoints] == ["y"]
    assert config.mirrors["b"].rewrites == ()
    assert list(config.mirrors) == ["a", "b"]
    auth = config.configs["h"].auth
    assert auth is not None
    assert auth.username is not None
    assert auth.password is not None
    assert ids(config) == [
        ("duplicate-key", "r.yaml:2:1"),
        ("duplicate-key", "r.yaml:2:11"),
        ("duplicate-key", "r.yaml:3:36"),
    ]


def test_a_null_section_wipes_the_one_before() -> None:
    assert read("mirrors: {a: {endpoint: [x]}}\nmirrors:\n").mirrors == {}


def test_merge_keys_override_what_stands_before_them() -> None:
    config = read("x-base: &base {endpoint: [merged]}\nmirrors: {a: {endpoint: [own], <<: *base}}\n")
    assert [text.value for text in config.mirrors["a"].endpoints] == ["merged"]
    assert ids(config) == [("unknown-key", "r.yaml:1:1"), ("merge-overrides", "r.yaml:1:16")]
    after = read("x-base: &base {endpoint: [merged]}\nmirrors: {a: {<<: *base, endpoint: [own]}}\n")
    assert [text.value for text in after.mirrors["a"].endpoints] == ["own"]
    assert [id for id, _ in ids(after)] == ["unknown-key"]


def test_of_several_merged_maps_the_first_wins() -> None:
    config = read("mirrors: {a: {<<: [{endpoint: [one]}, {endpoint: [two], rewrite: {p: q}}]}}")
    assert [text.value for text in config.mirrors["a"].endpoints] == ["one"]
    assert len(config.mirrors["a"].rewrites) == 1


def test_what_is_ignored_is_said() -> None:
    config = read("Mirrors: {}\nauths: {a: {username: u}}\nmirrors: {a: {endpoints: [x]}}\n---\nsecond: document\n")
    assert ids(config) == [
        ("unknown-key", "r.yaml:1:1"),
        ("unused-auths", "r.yaml:2:1"),
        ("unknown-key", "r.yaml:3:15"),
        ("second-document", "r.yaml:4:1"),
    ]
    assert "did you mean endpoint?" in config.problems[2].message


def test_a_broken_second_document_is_never_read() -> None:
    assert read("mirrors: {a: {endpoint: [x]}}\n---\n{[\n").error is None


def test_bytes_that_are_not_text_are_kept() -> None:
    config = read(f"configs: {{a: {{auth: {{username: !!binary {base64.b64encode(b'u' + bytes([0xFF])).decode()}}}}}}}")
    auth = config.configs["a"].auth
    assert auth is not None
    assert auth.username is not None
    assert auth.username.value.encode("utf-8", "surrogateescape") == b"u\xff"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("%YAML 1.2\n---\n{}", "yaml: found incompatible YAML document"),
        ("\n%YAML 1.2\n---\n{}", "yaml: line 1: found incompatible YAML document"),
        ("mirrors: {a: {endpoint: [h?x]}}", "yaml: did not find expected ',' or ']'"),
        ("\nmirrors: {a: h?x}", "yaml: line 1: did not find expected ',' or '}'"),
        ("mirrors: &a {a: {<<: *b}}\n", "yaml: unknown anchor 'b' referenced"),
        ("mirrors: {a: {<<: &x {<<: *x}}}", "yaml: anchor 'x' value contains itself"),
        ("configs: {a: {auth: 'null'}}", "cannot unmarshal !!str `null` into *registries.AuthConfig"),
        ("configs: {a: {tls: 2020-01-02}}", "cannot unmarshal !!timestamp `2020-01-02` into registries.TLSConfig"),
        ("configs: {a: {tls: 2020-13-02}}", "cannot unmarshal !!str `2020-13-02` into registries.TLSConfig"),
        ("configs: {a: {tls: 0x1F}}", "cannot unmarshal !!int `0x1F` into registries.TLSConfig"),
        ("configs: {a: {tls: 1_000}}", "cannot unmarshal !!int `1_000` into registries.TLSConfig"),
        ("configs: {a: {tls: 08}}", "cannot unmarshal !!float `08` into registries.TLSConfig"),
        (
            "configs: {a: {tls: 99999999999999999999}}",
            "cannot unmarshal !!float `9999999...` into registries.TLSConfig",
        ),
        ("configs: {a: {tls: .5e3}}", "cannot unmarshal !!float `.5e3` into registries.TLSConfig"),
        ("configs: {a: {tls: -.INF}}", "cannot unmarshal !!float `-.INF` into registries.TLSConfig"),
        ("configs: {a: {tls: !x y}}", "cannot unmarshal !x `y` into registries.TLSConfig"),
        ("configs: {a: {tls: ü€ü€}}", "cannot unmarshal !!str `ü€ü€` into registries.TLSConfig"),
        ("auths: {a: b}", "cannot unmarshal !!str `b` into registries.AuthConfig"),
    ],
)
def test_errors_by_the_source(text: str, error: str) -> None:
    found = read(text).go_error
    assert found is not None
    assert found.reveal().split("\n  line 1: ")[-1] == error


def test_a_quote_that_is_never_closed_is_where_it_was_opened() -> None:
    (problem,) = read('mirrors:\n  "r.example:\n    endpoint: [x]\n').problems

    assert problem.id == "yaml-syntax"
    assert problem.span
    assert (problem.span.line, problem.span.column) == (2, 3)


def test_aliases_cannot_multiply_without_end() -> None:
    levels = ["a0: &a0 {endpoint: [x]}"]
    levels += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    config = read("\n".join([*levels, "mirrors: {q: *a11}"]))
    assert config.error == "yaml: document contains excessive aliasing"


@pytest.mark.parametrize(
    "text",
    ["[" * 20_000, "{a: " * 20_000, "- " * 20_000, "mirrors: {q: " + "{<<: " * 2_000 + "{}" + "}" * 2_001],
    ids=["sequences", "mappings", "blocks", "merges"],
)
def test_depth_ends_in_an_error(text: str) -> None:
    assert read(text).error is not None


def test_depth_where_nobody_looks_is_no_error() -> None:
    config = read("x: " + "[" * 5_000 + "]" * 5_000 + "\nmirrors: {a: {endpoint: [x]}}")
    assert config.error is None
    assert list(config.mirrors) == ["a"]


SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"configs: {{a: {{auth: {SECRET}}}}}",
        f"configs: {{a: {SECRET}}}",
        f"configs: {SECRET}",
        f"auths: {SECRET}",
        f"configs: {{a: {{auth: {{password: *{SECRET}}}}}}}",
        f"configs: {{a: {{auth: {{{SECRET}: x}}}}}}",
        f"configs: {{a: {{auth: {{{SECRET}: x, {SECRET}: y}}}}}}",
        f"configs: {{a: {{auth: {{password: !!int {SECRET}}}}}}}",
        f"configs: {{a: {{auth: {{password: {SECRET}, auth: {SECRET}, identity_token: {SECRET}}}}}}}",
        f"configs: {{'https://u:{SECRET}@h': {{nonsense: 1}}, 'https://u:{SECRET}@h': 1}}",
        f"mirrors: {{a: {{endpoint: ['https://u:{SECRET}@h', 'u:{SECRET}@h']}}}}",
    ],
)
def test_no_secret_shows(text: str) -> None:
    config = read(text)
    assert SECRET not in repr(config)
    try:
        unusable(config)
    except UnusableConfig as error:
        assert SECRET not in f"{error} {error!r} {error.hint} {error.problems}"  # noqa: PT017


def test_unusable_lists_every_reason_with_its_place() -> None:
    with pytest.raises(UnusableConfig) as caught:
        unusable(read("mirrors:\n  a: {endpoint: x}\n  b: {rewrite: y}\n"))
    assert "r.yaml:2:17: cannot unmarshal" in str(caught.value)
    assert "r.yaml:3:16: cannot unmarshal" in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE
    unusable(read("mirrors: {}"))


def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "registries.yaml"
    with pytest.raises(ConfigUnreadable) as missing:
        load(file)
    assert missing.value.missing
    with pytest.raises(ConfigUnreadable, match="directory") as directory:
        load(tmp_path)
    assert not directory.value.missing
    file.write_text("mirrors: {a: {endpoint: [x]}}\n")
    config = load(str(file))
    assert config.mirrors["a"].endpoints[0].span.file == str(file)
    monkeypatch.setattr(registries, "SIZE_LIMIT_BYTES", 10)
    with pytest.raises(ConfigUnreadable, match="larger than 10 bytes"):
        load(file)


TOKENS = [
    *(b"mirrors", b"configs", b"auth", b"tls", b"endpoint", b"rewrite", b": ", b":\n  ", b"{", b"}", b"[", b"]", b", "),
    *(b"&a ", b"*a", b"<<", b"!!binary ", b"!!int ", b"- ", b"\n", b"  ", b"\t", b"? ", b"'", b'"', b"|\n", b"---\n"),
    *(b"~", b"yes", b"0x1", b"1e3", b"2020-01-01", b"%YAML 1.2\n", b"\xff\xfe", b"\xff", b"\0", b"\\x", b"#", b"x"),
]


@settings(deadline=None)
@given(st.one_of(st.binary(), st.lists(st.sampled_from(TOKENS), max_size=25).map(b"".join)))
def test_parse_never_raises(data: bytes) -> None:
    config = parse(data, "r.yaml")
    assert (config.error is None) == (config.go_error is None)
    assert config.error is None or (config.mirrors, config.configs) == ({}, {})
    assert all(problem.span is not None and problem.span.file == "r.yaml" for problem in config.problems)
