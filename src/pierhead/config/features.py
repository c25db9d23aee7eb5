"""What each runtime can be told of registries.yaml, feature by feature; tests hold the renderers to it.

A feature is a small registries.yaml that has it and nothing else. What a renderer reports as lost for that file is the
cell: an error is lost, a warning approximated, anything less exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pierhead.config.k3s import NO_FLAGS, Flags
from pierhead.errors import Problem

Runtime = Literal["k3s", "containerd", "docker", "podman", "k3d", "buildkit"]
Cell = Literal["exact", "approximated", "lost"]

RUNTIMES: Final[dict[Runtime, str]] = {
    "k3s": "K3s, RKE2",
    "containerd": "containerd",
    "docker": "docker",
    "podman": "podman, skopeo",
    "k3d": "k3d",
    "buildkit": "BuildKit",
}
_CELLS: Final[dict[str, Cell]] = {"=": "exact", "~": "approximated", "-": "lost"}


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that registries.yaml, or a flag beside it, can say. `marks`: a mark of `_CELLS` for each runtime."""

    name: str
    marks: str
    yaml: str
    flags: Flags = NO_FLAGS

    def cell(self, runtime: Runtime) -> Cell:
        """How much of it the runtime can be told."""
        return _CELLS[self.marks[list(RUNTIMES).index(runtime)]]


def verdict(lost: Iterable[Problem]) -> Cell:
    """The cell that a renderer's report amounts to."""
    severities = {problem.severity for problem in lost}
    return "lost" if "error" in severities else "approximated" if "warning" in severities else "exact"


def table() -> Iterator[str]:
    """The lines of the table in Markdown."""
    yield f"| feature | {' | '.join(RUNTIMES.values())} |"
    yield f"|---|{'---|' * len(RUNTIMES)}"
    for feature in FEATURES:
        yield f"| {feature.name} | {' | '.join(map(feature.cell, RUNTIMES))} |"


def _hub(*endpoints: str, more: str = "") -> str:
    """A registries.yaml with these mirrors of docker.io."""
    return f"mirrors:\n  docker.io:\n    endpoint: [{', '.join(endpoints)}]\n{more}"


def _rewrite(pattern: str, replacement: str) -> str:
    return _hub(_MIRROR, more=f"    rewrite:\n      '{pattern}': '{replacement}'\n")


def _configs(host: str, kind: str, settings: str) -> str:
    return f"configs:\n  {host}:\n    {kind}: {{{settings}}}\n"


_MIRROR: Final = "https://mirror.example"
_NO_DEFAULT: Final = Flags(disable_default_registry_endpoint=True)
_EMBEDDED: Final = Flags(embedded_registry="127.0.0.1:6443")
_CA: Final = "ca_file: /etc/ssl/mirror-ca.pem"
_PAIR: Final = "cert_file: /etc/ssl/node.pem, key_file: /etc/ssl/node.key"
_SKIP: Final = "insecure_skip_verify: true"
_ACCOUNT: Final = "username: puller, password: example"

# The columns of the marks: k3s, containerd, docker, podman, k3d, buildkit.
FEATURES: Final = (
    Feature("mirror of docker.io, then docker.io itself", "======", _hub(_MIRROR)),
    Feature("order of several mirrors", "======", _hub(_MIRROR, "https://other.example")),
    Feature("default endpoint disabled", "==-==-", _hub(_MIRROR), _NO_DEFAULT),
    Feature("mirror of another registry", "==-===", "mirrors:\n  quay.io:\n    endpoint: [https://mirror.example]\n"),
    Feature("wildcard mirror", "==--=-", 'mirrors:\n  "*":\n    endpoint: [https://mirror.example]\n'),
    Feature("embedded registry", "=~~~=~", "mirrors:\n  docker.io:\n", _EMBEDDED),
    Feature("endpoint path below `/v2` (`/v2/hub`)", "==-===", _hub(f"{_MIRROR}/v2/hub")),
    Feature("endpoint path before `/v2` (`/hub/v2`)", "===-=-", _hub(f"{_MIRROR}/hub/v2")),
    Feature("endpoint path without `/v2` (`/hub`)", "==--=-", _hub(f"{_MIRROR}/hub")),
    Feature("rewrite that prefixes every name (`(.*)`)", "==-===", _rewrite("^(.*)$", "hub/$1")),
    Feature("rewrite of names with a prefix (`^rancher/(.*)`)", "=--==-", _rewrite("^rancher/(.*)", "mirror/r/$1")),
    Feature("rewrite by any other pattern", "=---=-", _rewrite("^([a-z]+)/(.*)$", "$1-$2")),
    Feature("mirror by plain http", "===~==", _hub("http://mirror.example:5000")),
    Feature(
        "registry itself by plain http",
        "==~~==",
        'mirrors:\n  "reg.example:5000":\n    endpoint: [http://reg.example:5000]\n',
    ),
    Feature("CA of a mirror", "======", _hub(_MIRROR, more=_configs("mirror.example", "tls", _CA))),
    Feature("CA of docker.io itself", "==-===", _configs("docker.io", "tls", _CA)),
    Feature("client certificate", "======", _hub(_MIRROR, more=_configs("mirror.example", "tls", _PAIR))),
    Feature("TLS settings of every registry", "==--=-", _configs('"*"', "tls", _CA)),
    Feature("`insecure_skip_verify`", "==~~==", _hub(_MIRROR, more=_configs("mirror.example", "tls", _SKIP))),
    Feature(
        "`insecure_skip_verify` and a client certificate",
        "==-~==",
        _hub(_MIRROR, more=_configs("mirror.example", "tls", f"{_SKIP}, {_PAIR}")),
    ),
    Feature("password of a registry", "=~===~", _configs("reg.example", "auth", _ACCOUNT)),
    Feature("password of a mirror", "=~-==~", _hub(_MIRROR, more=_configs("mirror.example", "auth", _ACCOUNT))),
    Feature("identity token", "=~===~", _configs("reg.example", "auth", "identity_token: example")),
    Feature(
        "another account at a mirror than at docker.io",
        "=~-==~",
        _hub(_MIRROR, more=_configs("mirror.example", "auth", _ACCOUNT))
        + "  docker.io:\n    auth: {username: other, password: example}\n",
    ),
)
