"""docs/reference/apply.md as a play: its commands run one after the other on a node, and what they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

from applying import HEADER, Node
from command import run_pierhead

AT: Final = "2026-11-23T09:00:00Z"
_FENCE: Final = re.compile(r"^```(yaml|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND: Final = re.compile(r"^\$ (.*)$", re.MULTILINE)
_TIME: Final = re.compile(r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CONFIG_TOML: Final = """\
version = 3
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"
"""


def filled(page: str, root: Path) -> str:
    """The page with what each of its commands prints; what it says of a yaml block is then the node's file."""
    node = Node.made(root)
    (node.base / "config.toml").write_text(CONFIG_TOML)
    mirror = '\n[host]\n\n[host."https://old-cache.corp.example:5000/v2"]\n  capabilities = ["pull", "resolve"]\n'
    for name, server in {"docker.io": "registry-1.docker.io", "quay.io": "quay.io"}.items():
        server_lines = f'server = "https://{server}/v2"\ncapabilities = ["pull", "resolve", "push"]\n'
        node.write(name, HEADER + server_lines + mirror)
    return _FENCE.sub(lambda block: _played(block[1], block[2], root), page)


def _played(language: str, text: str, root: Path) -> str:
    file = root / "etc/rancher/k3s/registries.yaml"
    if language == "yaml":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)
        return f"```yaml\n{text}```"
    shown = "".join(f"$ {command}\n{_printed(command, root)}" for command in _COMMAND.findall(text))
    return f"```console\n{shown}```"


def _printed(command: str, root: Path) -> str:
    program, name, *options = shlex.split(command)
    assert (program, name) == ("pierhead", "apply")
    ran = run_pierhead("apply", "--root", root, *options, code=None)
    return _TIME.sub(AT, ran.out.replace(str(root), ""))
