"""The project's own promises: skips are seen, CI has none, and documents that fall out of step are found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import components

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS.parent / "tools"))

import docs  # noqa: E402  (the folder of tools is no package, so its place is named first)

CONFTEST = """
import os
import components

pytest_plugins = ["plugin_components"]
components.SYSTEM_PATH = os.environ["PATH"]
"""

SUITE = """
import pytest

@pytest.mark.real("skopeo")
def test_needs_skopeo():
    pass

@pytest.mark.{marker}
def test_other():
    pass
"""


# ── components ───────────────────────────────────────────────────────────────────────────────────────────────────────


def run_suite(folder: Path, *, ci: str, path: str = "", marker: str = "filterwarnings") -> tuple[int, str]:
    """Run a small suite under the plugin, with `path` as the places where programs are found."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_suite.py").write_text(SUITE.format(marker=marker))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  real: needs a component\n")
    environment = {**os.environ, "CI": ci, "PATH": path, "PYTHONPATH": str(TESTS)}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.fixture
def with_skopeo(tmp_path: Path) -> str:
    """A folder in which a program named skopeo is found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "skopeo").touch(mode=0o755)
    return str(folder)


def test_missing_component_is_skipped_with_what_to_install(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, ci="")
    assert code == 0
    assert "skipped 1: to run it: sudo apt-get install skopeo" in output
    assert output.rstrip().splitlines()[-1].startswith("1 passed, 1 skipped")


def test_missing_component_fails_in_ci(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, ci="true")
    assert code == 1
    assert "Failed: to run it: sudo apt-get install skopeo" in output
    assert "1 passed, 1 error" in output


def test_any_skip_fails_in_ci(tmp_path: Path, with_skopeo: str) -> None:
    code, output = run_suite(tmp_path, ci="1", path=with_skopeo, marker="skip('not today')")
    assert code == 1
    assert "CI skips no test, and 1 were skipped" in output
    assert run_suite(tmp_path, ci="false", path=with_skopeo, marker="skip('not today')")[0] == 0


def test_component_that_is_here_is_used(tmp_path: Path, with_skopeo: str) -> None:
    code, output = run_suite(tmp_path, ci="true", path=with_skopeo)
    assert (code, output.rstrip().splitlines()[-1][:8]) == (0, "2 passed")


def test_every_package_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "SYSTEM_PATH", "")
    assert components.missing_packages(["containerd", "ctr", "skopeo"]) == ("containerd", "skopeo")


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project for `tools/docs.py` to look at."""
    for cached in (docs.project_files, docs.prose, docs.anchors, docs.definitions):
        cached.cache_clear()
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "ARCHITECTURE", tmp_path / "docs/architecture.md")
    return tmp_path


def write(project: Path, name: str, text: str) -> None:
    """A file of the project."""
    path = project / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def complaints(check: Callable[[], Iterable[str]]) -> list[str]:
    """What a check says, with all that earlier looks have kept forgotten."""
    for cached in (docs.project_files, docs.prose, docs.anchors, docs.definitions):
        cached.cache_clear()
    return list(check())


def test_links_lead_somewhere(project: Path) -> None:
    write(project, "docs/b.md", "# One `two`: three\n\n```\n# no heading\n```\n")
    write(
        project, "a.md", "[x](docs/b.md#one-two-three) `[y](z.md)`\n\n```\n[y](z.md)\n```\n[out](https://example.com)"
    )
    assert complaints(docs.broken_links) == []
    write(project, "a.md", "[gone](c.md)\n\n[no](docs/b.md#no-heading)\n[self](#nothing)\n")
    assert complaints(docs.broken_links) == [
        "a.md:1: c.md leads nowhere",
        "a.md:3: docs/b.md#no-heading leads nowhere",
        "a.md:4: #nothing leads nowhere",
    ]


def test_named_tests_exist(project: Path) -> None:
    write(project, "tests/test_a.py", "class TestA:\n    def test_b(self): ...\n")
    write(project, "a.md", "`tests/test_a.py::TestA::test_b` and `tests/test_a.py`")
    assert complaints(docs.unknown_names) == []
    write(project, "a.md", "`tests/test_a.py::test_c` `src/gone.py`")
    assert complaints(docs.unknown_names) == [
        "a.md:1: there is no `tests/test_a.py::test_c`",
        "a.md:1: there is no `src/gone.py`",
    ]


def test_laws_are_proved(project: Path) -> None:
    table = (
        "# A\n\n## Laws\n\n| # | law | proof |\n|---|---|---|\n| 1 | x | `tests/test_a.py::test_b` |\n| 2 | y | {} |\n"
    )
    write(project, "docs/architecture.md", table.format("not yet: comes with z"))
    assert complaints(docs.unproved_laws) == []
    write(project, "docs/architecture.md", table.format("surely"))
    assert complaints(docs.unproved_laws) == ["docs/architecture.md: law 2 names no test"]
    write(project, "docs/architecture.md", "# A\n")
    assert complaints(docs.unproved_laws) == ["docs/architecture.md: the table of laws is missing"]


def test_layout_lists_the_modules(project: Path) -> None:
    write(project, "src/pierhead/wire.py", "")
    write(project, "src/pierhead/cli/__init__.py", "")
    write(project, "docs/architecture.md", "# A\n\n## Layout\n\n```text\nsrc/\n  wire.py  x\n  gone.py  y\n```\n")
    assert complaints(docs.unlisted_modules) == [
        "docs/architecture.md: cli/ is there but not listed",
        "docs/architecture.md: gone.py is listed but not there",
    ]


def test_readmes_are_compared(project: Path) -> None:
    write(project, "README.md", "# A\n\n## B\n\n```sh\nmake\n```\n")
    assert complaints(docs.readmes_apart) == ["README.zh-CN.md: missing"]
    write(project, "README.zh-CN.md", "# 甲\n\n## 乙\n\n```sh\nmake\n```\n")
    assert complaints(docs.readmes_apart) == []
    write(project, "README.zh-CN.md", "# 甲\n\n### 乙\n\n```sh\nmake test\n```\n")
    assert len(complaints(docs.readmes_apart)) == 2


# Spelled so that this file has none of them.
PLACES = ["/{}/.cache".format("root"), "see /{}/ann/x".format("home"), "https://{}.org/simple".format("pypi")]


@pytest.mark.parametrize("place", PLACES)
def test_places_of_one_machine_are_found(project: Path, place: str) -> None:
    write(project, "a.txt", f"fine: a/{'root'}/b, ${{HOME}}/work/x\n{place}\n")
    found = complaints(docs.forbidden_places)
    assert [line.partition(" ")[0] for line in found] == ["a.txt:2:"]


def test_stale_page_is_found_and_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: dict[str, Any] = {"docs/reference/exit-codes.md": docs.exit_codes}
    monkeypatch.setattr(docs, "PAGES", pages)
    monkeypatch.setattr(docs, "SECTIONS", {})
    assert complaints(docs.stale_pages) == ["docs/reference/exit-codes.md: not what the code says; run `make docs`"]
    docs.write_pages()
    assert complaints(docs.stale_pages) == []
    assert "| 130 | interrupted |" in (project / "docs/reference/exit-codes.md").read_text()


def test_pins_are_compared(project: Path) -> None:
    write(project, "constraints.txt", "pytest==0.0.1\n")
    found = complaints(docs.loose_pins)
    assert any(line.startswith("constraints.txt: pytest is installed at") and "0.0.1" in line for line in found)
    assert any("click" in line and "pinned at nothing" in line for line in found)
