"""`pierhead diff`: what it prints, how it ends, and that its page in the documentation shows what it does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Final

import pytest

from command import Ran, run_pierhead, write_registries
from pierhead.config.versions import FACTS

PAGE: Final = (Path(__file__).parents[1] / "docs" / "reference" / "diff.md").read_text(encoding="utf-8")
EXAMPLE: Final = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
LISTED: Final = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)[0]
IN_FOLDER: Final = ("sh", "-c", 'cd "$0" && exec "$@"')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_registries(tmp_path, EXAMPLE)
    (tmp_path / "images.txt").write_text(LISTED)
    return tmp_path


def diff(folder: Path, *arguments: str, code: int | None = 1, stdin: str = "") -> Ran:
    return run_pierhead("diff", *arguments, code=code, stdin=stdin, prefix=(*IN_FOLDER, str(folder)))


@pytest.mark.parametrize("shown", re.findall(r"```console\n\$ pierhead diff (.*?)```", PAGE, re.DOTALL))
def test_the_documentation_shows_real_output(folder: Path, shown: str) -> None:
    command, output = shown.split("\n", 1)
    assert diff(folder, *shlex.split(command), code=None).out == output


def test_the_documentation_has_every_row_of_the_table() -> None:
    rows = {line.split("|")[1].strip(" `"): line for line in PAGE.splitlines() if line.startswith("| `")}
    for fact in FACTS:
        row = rows[fact.name]
        wanted = (fact.holds, fact.fails, *fact.since, *(text for gap in fact.lost for text in gap), *fact.evidence)
        assert all(text in row for text in wanted), fact.name


def test_the_file_can_be_named_in_each_way(folder: Path) -> None:
    versions = ("--from", "v1.30", "--to", "v1.31.6", "-o", "json")
    ran = [
        diff(folder, *versions, "registries.yaml", "ghcr.io/a/b"),
        diff(folder, *versions, "ghcr.io/a/b", "--private-registry", "registries.yaml"),
        diff(folder, *versions, "-", "ghcr.io/a/b", stdin=EXAMPLE),
        diff(folder, *versions, "registries.yaml", "--images", "-", stdin="ghcr.io/a/b\n"),
    ]
    reports = [json.loads(one.out) for one in ran]
    assert [report.pop("file") for report in reports] == ["registries.yaml", "registries.yaml", "-", "registries.yaml"]
    assert all(report == reports[0] for report in reports)
    (image,) = reports[0]["images"]
    assert [change["kind"] for change in image["changes"]] == ["not-asked"]
    assert reports[0]["summary"]["made_up"] is False


def test_nothing_changes(folder: Path) -> None:
    same = diff(folder, "registries.yaml", "--from", "v1.33.3", "--to", "v1.34", code=0)
    assert same.out == (
        "nothing changes from v1.33.3 to v1.34 for 3 made-up images: registries.yaml means the same in both\n"
    )
    other = diff(folder, "registries.yaml", "quay.io/a/b", "--from", "v1.28.9", "--to", "v1.29.11", code=0)
    assert other.out.splitlines()[-1] == (
        "nothing changes from v1.28.9 to v1.29.11 for 1 image: "
        "the 2 differences between the releases do not concern them"
    )
    assert other.out.startswith("note: directories of certs.d")


def test_a_file_without_a_name_is_nothing_to_compare(folder: Path) -> None:
    (folder / "empty.yaml").write_text("")
    assert diff(folder, "empty.yaml", "--from", "v1.20", "--to", "v1.34", code=0).out.endswith(
        "nothing to compare: empty.yaml names no registry\n"
    )


def test_containerd_that_does_not_start(folder: Path) -> None:
    (folder / "r.yaml").write_text("mirrors: {r.lan: {endpoint: [m.lan], rewrite: {'a\\.b': x}}}\n")
    out = diff(folder, "r.yaml", "--from", "v1.27.9", "--to", "v1.27.10").out
    assert "  ! containerd does not start: config.toml cannot hold 'a\\\\.b' -> containerd starts" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "v1.30"), "Missing option '--from'"),
        (("--from", "v1.30", "--to", "latest"), "'latest' is not a version of K3s or RKE2"),
        (("--from", "v1.29", "--to", "v1.30", "r.yaml", "--private-registry", "s.yaml"), "both name a file"),
        (("--from", "v1.29", "--to", "v1.30", "-", "--images", "-"), "cannot both come from standard input"),
        (("--from", "v1.29", "--to", "v1.30", "none.yaml"), "cannot read none.yaml"),
        (("--from", "v1.29", "--to", "v1.30", "registries.yaml", "a:b:c"), "is not an image reference"),
        (("--from", "v1.29", "--to", "v1.30", "registries.yaml", "--images", "none.txt"), "none.txt"),
    ],
)
def test_wrong_calls(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = diff(folder, *arguments, code=2)
    assert said in ran.err
    assert not ran.out


def test_an_unusable_file(folder: Path) -> None:
    (folder / "bad.yaml").write_text("mirrors: []\n")
    ran = diff(folder, "bad.yaml", "--from", "v1.29", "--to", "v1.30", code=2)
    assert "bad.yaml:1:10" in ran.err


def test_a_line_that_is_no_image_does_not_hide_the_others(folder: Path) -> None:
    (folder / "images.txt").write_text("ghcr.io/a/b\nno image\n")
    versions = ("--from", "v1.30", "--to", "v1.31.6")
    ran = diff(folder, "registries.yaml", "--images", "images.txt", *versions, code=2)
    assert "1 of 1 image changed" in ran.out
    assert "images.txt:2:1" in ran.err


def test_no_secret_shows(folder: Path) -> None:
    for form in ("text", "json"):
        ran = diff(folder, "registries.yaml", "redis", "--from", "v1.33.2", "--to", "v1.33.3", "-o", form)
        assert "puller" in ran.out
        assert "not-this-one" not in ran.out + ran.err
