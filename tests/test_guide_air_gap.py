"""The guide "Air-gapped K3s in five commands", executed: what it shows is what is printed, and then a node can pull."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from command import Ran, run_pierhead
from images import Image, make_image
from pki import Pki
from real import DockerRegistry, push

GUIDE: Final = Path(__file__).parent.parent / "docs/guides/air-gap.md"
FENCE: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOST: Final = "registry.lan:5000"
CA_FILE: Final = "/etc/rancher/k3s/registry-ca.pem"
PASSWORD: Final = "not-this-one"


@dataclass(frozen=True)
class Guide:
    """The blocks of the page, in order."""

    images: str
    registries: str
    commands: tuple[tuple[str, str], ...]  # and what each prints

    @classmethod
    def read(cls) -> Guide:
        blocks = FENCE.findall(GUIDE.read_text("utf-8"))
        texts = dict(reversed(blocks))  # the first of each
        console = [text.partition("\n") for language, text in blocks if language == "console"]
        commands = tuple((first.removeprefix("$ "), shown) for first, _, shown in console)
        return cls(texts["text"], texts["yaml"], commands)

    def write(self, printed: Sequence[str]) -> None:
        """Let the page show what was printed."""
        page = GUIDE.read_text("utf-8")
        for (command, shown), printed_now in zip(self.commands, printed, strict=True):
            first, _, more = printed_now.partition("\n\n")  # the others read alike
            text = f"{first}\n\n…\n" if more else printed_now
            page = page.replace(f"$ {command}\n{shown}```", f"$ {command}\n{text}```")
        GUIDE.write_text(page, "utf-8")


@dataclass(frozen=True)
class Site:
    """Where the guide is followed: a folder, the registry outside (as docker.io), the one inside, and their names."""

    folder: Path
    network: ExitStack
    outside: DockerRegistry
    inside: DockerRegistry
    ca: str

    def follow(self, command: str) -> Ran:
        """Run a command of the guide in the folder; what it prints with the guide's own names."""
        name, *arguments = shlex.split(command)
        assert name == "pierhead"
        env = {"PIERHEAD_PRIVATE_REGISTRY": "outside.yaml", "PIERHEAD_ROOT": "store"}
        prefix = ("env", "-C", str(self.folder))
        ran = run_pierhead(*map(self.really, arguments), env=env, prefix=prefix, code=None)
        return Ran(ran.arguments, ran.code, self.as_shown(ran.out), self.as_shown(ran.err))

    def really(self, text: str) -> str:
        return text.replace(HOST, self.inside.address).replace(CA_FILE, self.ca)

    def as_shown(self, text: str) -> str:
        shown = text.replace(self.inside.address, HOST).replace(self.ca, CA_FILE)
        shown = shown.replace(self.outside.url, "https://registry-1.docker.io")
        shown = re.sub(r"CN=pierhead test server for .*?, until \S+", "CN=registry.lan, until 2027-02-21", shown)
        return re.sub(r"\b[0-9.]+ m?s\b", "… ms", shown)


@pytest.fixture(scope="module")
def images() -> Mapping[str, Image]:
    """Stand-ins for the images of the list: two architectures each, on one base."""
    names = Guide.read().images.split()
    sizes = range(600, 600 * (len(names) + 1), 600)
    return {
        name: make_image(layers=[4000, size], platforms=["linux/amd64", "linux/arm64"], compression="none")
        for name, size in zip(names, sizes, strict=True)
    }


@pytest.fixture
def site(tmp_path: Path, pki: Pki, images: Mapping[str, Image]) -> Iterator[Site]:
    guide = Guide.read()
    with (
        ExitStack() as network,
        DockerRegistry(tmp_path / "inside", tls=pki, htpasswd=("k3s", PASSWORD)) as inside,
    ):
        outside = network.enter_context(DockerRegistry(tmp_path / "outside"))
        folder = tmp_path / "site"
        folder.mkdir()
        site = Site(folder, network, outside, inside, str(pki.ca))
        for name, image in images.items():
            repository, _, tag = name.removeprefix("docker.io/").rpartition(":")
            layout = image.write_layout(tmp_path / "images" / tag, tag)
            push(f"oci:{layout}:{tag}", outside, f"{repository}:{tag}")
        (folder / "k3s-images.txt").write_text(guide.images)
        (folder / "outside.yaml").write_text(json.dumps({"mirrors": {"docker.io": {"endpoint": [outside.url]}}}))
        registries = folder / "registries.yaml"
        registries.write_text(site.really(guide.registries))
        registries.chmod(0o600)
        yield site


def as_listed(text: str) -> str:
    """Without which of several images at once sent what they share."""
    return re.sub(r"sent \w[^ ,]*B(, had \S+)?  ", "sent …  ", text)


@pytest.mark.real("docker-registry", "skopeo")
def test_five_commands(site: Site, images: Mapping[str, Image]) -> None:
    guide = Guide.read()
    commands = [command for command, _ in guide.commands]
    followed = [site.follow(command) for command in commands[:2]]
    site.network.close()  # here one crosses the gap
    followed += [site.follow(command) for command in commands[2:]]
    assert [ran.code for ran in followed] == [0] * 5, "".join(ran.said for ran in followed)
    if os.environ.get("SNAPSHOTS") == "update":
        guide.write([ran.out for ran in followed])
    for ran, (_, shown) in zip(followed, Guide.read().commands, strict=True):
        assert as_listed(ran.out).startswith(as_listed(shown.removesuffix("…\n")))
    pulled = site.follow("pierhead pull --images k3s-images.txt --private-registry registries.yaml --root node -o json")
    assert {image["reference"]: image["digest"] for image in pulled.images} == {
        name: image.digest for name, image in images.items()
    }
    assert all(name in (site.folder / "proof.md").read_text() for name in images)
