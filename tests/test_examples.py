"""What the pages show is what the program prints: what asks no network runs on the file shown before it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pierhead.cli import run

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
EXECUTED = "air-gap.md"  # whole, by test_guide_air_gap
PAGES = ("README.md", "README.zh-CN.md", *(str(page.relative_to(ROOT)) for page in DOCS if page.name != EXECUTED))
OFFLINE = ("explain", "check", "render")
DRY = ("seed", "--dry-run")  # asks nobody, and is shown with what it says on stderr
IMAGES_FILE = "k3s-images.txt"
NODE_FILE = "/etc/rancher/k3s/registries.yaml"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A command of a page, what it shows under it, and the registries.yaml and list of images that it stands under."""

    page: str
    registries: str
    images: str
    arguments: tuple[str, ...]
    shown: str

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.arguments)}"


def examples(page: str) -> Iterator[Example]:
    registries = images = ""
    for language, text in FENCE.findall((ROOT / page).read_text("utf-8")):
        if language == "yaml":
            registries = text
        if language == "text":
            images = text
        if language != "console":
            continue
        for command, shown in COMMAND.findall(text):
            words = shlex.split(command)
            if words[:1] == ["pierhead"] and asks_nobody(words[1:]) and "--private-registry" not in words:
                yield Example(page, registries, images, tuple(words[1:]), shown)


def asks_nobody(arguments: list[str]) -> bool:
    return arguments[0] in OFFLINE or set(arguments) >= set(DRY)


EXAMPLES = [example for page in PAGES for example in examples(page)]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file of an example goes; no credential of this machine is found."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "registries.yaml"


def explain(node: Path, registries: str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    node.write_text(registries)
    node.chmod(0o600)
    code = run([*arguments, "--private-registry", str(node)])
    assert code in ((0, 1) if arguments[0] in ("check", "seed") else (0,))
    return capsys.readouterr().out.replace(str(node), NODE_FILE)


def test_there_are_examples() -> None:
    assert {example.page for example in EXAMPLES} >= {
        "README.md",
        "README.zh-CN.md",
        "docs/guides/image-pull-backoff.md",
        "docs/guides/mirror-for-a-fleet.md",
        "docs/reference/seed.md",
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_page_shows_what_is_printed(
    example: Example, node: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(node.parent)
    Path(IMAGES_FILE).write_text(example.images)
    if example.arguments[0] in DRY:
        monkeypatch.setattr(sys, "stderr", sys.stdout)
    assert explain(node, example.registries, *example.arguments, capsys=capsys) == example.shown


def test_the_json_of_the_reference_is_what_explain_prints(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = dict(reversed(FENCE.findall((ROOT / "docs/reference/explain.md").read_text("utf-8"))))  # the first of each
    printed = json.loads(explain(node, blocks["yaml"], "explain", "nginx:1.27", "-o", "json", capsys=capsys))
    printed["images"][0]["routes"] = [printed["images"][0]["routes"][1]]  # the page says that it leaves out the others
    assert blocks["json"] == json.dumps(printed, indent=2) + "\n"


def test_every_problem_is_documented() -> None:
    """An id is what stands first in a Problem, or in the two functions that make one."""
    making = re.compile(r'(?:Problem|note|_skip)\((?:[^()]|\([^()]*\))*?"([a-z]+(?:-[a-z]+)+)", *(?:"|severity)')
    sources = [path.read_text("utf-8") for path in (ROOT / "src/pierhead").rglob("*.py")]
    ids = {id for source in sources for id in making.findall(source)}
    pages = [path.read_text("utf-8") for path in (ROOT / "docs/reference").glob("*.md")]
    assert len(ids) > 15
    assert not {id for id in ids if not any(f"`{id}`" in page for page in pages)}
