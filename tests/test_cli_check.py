"""`pierhead check` as a command: its four outputs, fixing, what may be shown, and how it ends."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import run_pierhead
from command import write_registries as write_open_registries
from pierhead.check.source import Source
from pierhead.cli.check.excerpt import Excerpts
from pierhead.config.registries import _REGISTRY
from pierhead.config.schema import schema
from schemas import published

MISMATCH = """\
mirrors:
  docker.io:
    endpoint:
      - "https://mycustomreg.com:5000"
configs:
  "mycustomreg:5000":  # the private registry
    auth: {username: mia, password: S3cr3t-Wert}
"""
SOUND = MISMATCH.replace('"mycustomreg:5000"', '"mycustomreg.com:5000"')


def write_registries(folder: Path, text: str) -> Path:
    """The file as an administrator should keep it."""
    file = write_open_registries(folder, text)
    file.chmod(0o600)
    return file


def test_text_shows_the_line_the_cause_and_the_remedy(tmp_path: Path) -> None:
    file = write_registries(tmp_path, MISMATCH)

    ran = run_pierhead("check", file, code=1)

    lines = ran.out.replace(str(file), "FILE").split("\n")
    assert lines[0] == "FILE:6:3: error R004 config-matches-no-endpoint"
    assert lines[1:3] == ['  6 |   "mycustomreg:5000":  # the private registry', "    |   ^^^^^^^^^^^^^^^^^^"]
    assert "mycustomreg.com:5000" in lines[3]
    assert lines[-2] == "FILE: 1 error; --fix mends it"


def test_json_has_the_documented_form(tmp_path: Path) -> None:
    file = write_registries(tmp_path, MISMATCH)

    told = json.loads(run_pierhead("check", "-o", "json", file, code=1).out)

    [item] = told["files"]
    [finding] = item["findings"]
    assert item["file"] == str(file)
    assert list(finding) == [
        "id", "severity", "line", "column", "end_line", "end_column", "message", "remedy", "fix", "url",
    ]  # fmt: skip
    assert (finding["id"], finding["severity"]) == ("R004", "error")
    assert (finding["line"], finding["column"], finding["end_line"], finding["end_column"]) == (6, 3, 6, 21)
    assert finding["fix"]["edits"] == [
        {"line": 6, "column": 3, "end_line": 6, "end_column": 21, "text": '"mycustomreg.com:5000"'}
    ]
    assert finding["url"].startswith("https://")


def test_a_file_without_findings_is_in_the_json_too(tmp_path: Path) -> None:
    file = write_registries(tmp_path, SOUND)

    assert json.loads(run_pierhead("check", "-o", "json", file).out) == {"files": [{"file": str(file), "findings": []}]}


def test_sarif_is_valid_by_its_schema(tmp_path: Path) -> None:
    file = write_registries(tmp_path, MISMATCH)

    sarif = json.loads(run_pierhead("check", "-o", "sarif", file, code=1).out)

    jsonschema.validate(sarif, published("Static Analysis Results Format (SARIF) Version 2.1.0 JSON Schema"))
    [result] = sarif["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 6
    assert result["fixes"][0]["artifactChanges"][0]["replacements"][0]["insertedContent"]["text"]


def test_github_annotates_the_line(tmp_path: Path) -> None:
    file = write_registries(tmp_path, MISMATCH)

    out = run_pierhead("check", "-o", "github", file, code=1).out

    assert out.startswith(f"::error line=6,col=3,endLine=6,endColumn=21,file={file},title=R004 ")
    assert len(out.splitlines()) == 1, "a finding is one line, whatever it says"


# ── fixing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fix_changes_the_faulty_bytes_and_no_others(tmp_path: Path) -> None:
    file = write_registries(tmp_path, MISMATCH)
    file.chmod(0o640)

    ran = run_pierhead("check", "--fix", file)

    assert file.read_text() == SOUND
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert "R004 fixed" in ran.err
    assert list(tmp_path.iterdir()) == [file], "no scratch file stays"


def test_fix_replaces_what_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file = write_registries(tmp_path / "real", MISMATCH)
    link = tmp_path / "registries.yaml"
    link.symlink_to(file)

    run_pierhead("check", "--fix", link)

    assert link.is_symlink()
    assert file.read_text() == SOUND


def test_fix_of_standard_input_is_printed(tmp_path: Path) -> None:
    ran = run_pierhead("check", "--fix", "-", stdin=MISMATCH)

    assert ran.out == SOUND


def test_diff_changes_nothing_and_hides_secrets(tmp_path: Path) -> None:
    file = write_registries(tmp_path, MISMATCH)

    ran = run_pierhead("check", "--diff", file)

    assert file.read_text() == MISMATCH
    assert '-  "mycustomreg:5000":  # the private registry' in ran.out
    assert '+  "mycustomreg.com:5000":  # the private registry' in ran.out
    assert "S3cr3t" not in ran.said


def test_a_file_that_cannot_be_written_stays_as_it_is(tmp_path: Path) -> None:
    """A full disk: nothing is half-written, and nothing is left behind."""
    file = write_registries(tmp_path, MISMATCH)

    ran = run_pierhead("check", "--fix", file, code=1, prefix=["prlimit", "--fsize=10"])

    assert file.read_text() == MISMATCH
    assert "unchanged" in ran.err
    assert list(tmp_path.iterdir()) == [file]


# ── choosing ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words", [("--ignore", "R004"), ("--select", "R016,R017"), ("--ignore", "config-matches-no-endpoint")]
)
def test_rules_are_chosen_by_id_or_name(tmp_path: Path, words: tuple[str, str]) -> None:
    run_pierhead("check", *words, write_registries(tmp_path, MISMATCH))


def test_an_unknown_rule_is_a_wrong_call(tmp_path: Path) -> None:
    ran = run_pierhead("check", "--select", "R999", write_registries(tmp_path, MISMATCH), code=2)

    assert "R999" in ran.err


def test_a_comment_silences_a_rule_for_its_line(tmp_path: Path) -> None:
    file = write_registries(tmp_path, MISMATCH.replace("# the private registry", "# pierhead: ignore R004"))

    run_pierhead("check", file)


def test_strict_makes_warnings_count(tmp_path: Path) -> None:
    file = write_registries(tmp_path, "mirrors:\n  reg.lan:\n    endpoint: [https://a.lan]\n---\nmirrors: {}\n")

    run_pierhead("check", file)
    run_pierhead("check", "--strict", file, code=1)


def test_several_files_are_checked_in_their_order(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.yaml", "two.yaml")]
    files[0].write_text(MISMATCH)
    files[1].write_text(SOUND)

    told = json.loads(run_pierhead("check", "-o", "json", "--no-files", *files, code=1).out)

    assert [item["file"] for item in told["files"]] == [str(file) for file in files]


@pytest.mark.parametrize(
    "words",
    [
        ("/nowhere/registries.yaml",),
        ("--fix", "--diff", "-"),
        ("-", "-"),
        ("--images", "-", "-"),
        ("--explain", "R999"),
        ("--k3s-version", "soon", "-"),
        ("--images", "/nowhere", "-"),
    ],
)
def test_a_wrong_call_ends_with_2(words: tuple[str, ...]) -> None:
    run_pierhead("check", *words, code=2)


def test_explain_prints_the_long_form() -> None:
    out = run_pierhead("check", "--explain", "r004").out

    assert out.startswith("R004 config-matches-no-endpoint (error)\n")
    assert "\nbad, with --no-files:\n" in out
    assert "see https://github.com/" in out


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────

PLANTED = "Xy7-planted-Zq9"


@pytest.mark.parametrize(
    "text",
    [
        f"configs:\n  reg.lan:\n    auth: {{username: a, password: {PLANTED}, mirrros: 1}}\n",
        f"configs:\n  reg.lan:\n    auth:\n      password: {PLANTED}\n      pasword: {PLANTED}\n",
        f"configs:\n  reg.lan:\n    auth: {PLANTED}\n",
        f"configs:\n  reg.lan:\n    password: {PLANTED}\n",
        f"config:\n  reg.lan:\n    auth:\n      password: {PLANTED}\n",
        f"mirrors:\n  reg.lan:\n    endpoint: ['https://mia:{PLANTED}@reg.lan']\n",
        f'configs:\n  reg.lan:\n    auth:\n      password: "{PLANTED}\n      username: a\n',
        f"configs:\n  reg.lan:\n    auth:\n      password: *{PLANTED}\n",
        f"configs:\n  reg.lan:\n    auth:\n      password: @{PLANTED}\n",
        f"configs:\n  reg.lan:\n    auth:\n\tpassword: {PLANTED}\n",
        f"configs:\n  reg.lan:\n    auth:\n      password: >\n        {PLANTED}\n      email: x\n",
        f"configs:\n  reg.lan:\n    auth:\n      auth: '{PLANTED}'\n",
        f"mirrors:\n  a:\n    endpoint: [x]\n  configs:\n    reg.lan:\n      auth: {{password: {PLANTED}}}\n",
        f"auths:\n  reg.lan:\n    password: {PLANTED}\n    username: mia\n",
        f"configs:\n  reg.lan:\n    tls:\n      key_file: '-----BEGIN PRIVATE KEY----- {PLANTED}'\n",
        f"configs:\n  reg.lan:\n    tls:\n      key_file: LS0tLS1CRUdJTi{PLANTED}\n",
        f"configs:\n  reg.lan:\n    tls:\n      key_file: |\n        -----BEGIN PRIVATE KEY-----\n        {PLANTED}\n",
        f"configs:\n  reg.lan:\n    auth: &a {{password: {PLANTED}}}\n  b: {{auth: *a, auth: *a}}\n",
    ],
)
@pytest.mark.parametrize("words", [("-o", "text"), ("-o", "json"), ("-o", "sarif"), ("-o", "github"), ("--diff",)])
def test_no_secret_is_shown(text: str, words: tuple[str, ...]) -> None:
    ran = run_pierhead("check", *words, "-", stdin=text, code=None)

    assert ran.code in (0, 1)
    assert PLANTED not in ran.said


@given(st.text(max_size=80), st.integers(1, 3), st.integers(1, 90), st.integers(0, 30))
def test_any_line_can_be_underlined(text: str, line: int, column: int, width: int) -> None:
    from pierhead.errors import Span

    source = Source.of(text.encode(errors="replace"), "f")
    shown, underline = Excerpts(source).underlined(Span("f", line, column, line, column + width))

    assert underline.strip("^ ") == ""
    assert "^" in underline
    assert shown.isprintable()


# ── for editors ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_schema_names_what_is_read() -> None:
    """The keys of the schema are the keys that the reader knows."""
    told = json.loads(run_pierhead("schema").out)

    def keys(form: dict[str, Any]) -> set[str]:
        return set(form.get("properties", ()))

    jsonschema.Draft7Validator.check_schema(told)
    mirror = told["properties"]["mirrors"]["additionalProperties"]
    config = told["properties"]["configs"]["additionalProperties"]
    read = _REGISTRY.fields
    assert keys(told) == set(read) - {"auths"}
    assert read["mirrors"].element
    assert read["configs"].element
    assert keys(mirror) == set(read["mirrors"].element.fields)
    assert keys(config) == set(read["configs"].element.fields)
    for name in ("auth", "tls"):
        assert keys(config["properties"][name]) == set(read["configs"].element.fields[name].fields)


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({"mirrors": {"docker.io": {"endpoint": ["https://a"]}}}, True),
        ({"mirrors": {"*": None}, "configs": {"a:5000": {"auth": {"username": "u"}}}, "x-anchors": {}}, True),
        (None, True),
        ({"mirrros": {}}, False),
        ({"mirrors": {"https://a": {}}}, False),
        ({"configs": {"a": {"tls": {"cert_file": "c.pem"}}}}, False),
        ({"configs": {"a": {"tls": {"insecure_skip_verify": "true"}}}}, False),
    ],
)
def test_the_schema_accepts_what_is_sound(document: Any, valid: bool) -> None:
    assert jsonschema.Draft7Validator(schema()).is_valid(document) == valid
