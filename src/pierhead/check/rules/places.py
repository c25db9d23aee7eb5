"""Rules about where the file is, who may read it, and what stands beside it (specification, sections 1.1 and 7.3)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final

from pierhead.check.files import Content, read_regular
from pierhead.check.finding import Hit
from pierhead.check.names import spoken
from pierhead.check.rule import DOCUMENTATION, Example, rule
from pierhead.check.secrets import auths_with_secrets
from pierhead.check.subject import Subject
from pierhead.errors import Severity, Span

TEMPLATE_LIMIT_BYTES: Final = 1024 * 1024
PROGRAMS: Final = ("k3s", "rke2")

_SHOWN: Final = {"k3s": "K3s", "rke2": "RKE2"}
_MISNAMED: Final = re.compile(r"(?i)(private-?)?registr(y|ies)(\.(ya?ml|json|txt))*")

_TEMPLATES: Final = ("config-v3.toml.tmpl", "config.toml.tmpl")  # the first that exists counts
_BASE: Final = re.compile(rb'\{\{-?\s*template\s+["`]base["`]')
_REGISTRY: Final = re.compile(rb"PrivateRegistryConfig\s*\.\s*Configs|registry\.configs")

_SECRETS: Final = """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      username: puller
      password: not-a-secret
"""
_NO_SECRETS: Final = """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
"""


def _file(subject: Subject) -> PurePath | None:
    path = subject.circumstances.path
    return None if path is None else PurePath(os.path.abspath(path))  # noqa: PTH100  # pathlib keeps the dots


def _top(subject: Subject) -> Span:
    """What to underline for the file as a whole: its first key."""
    keys = (entry.key.span for entry in subject.source.entries if entry.key is not None)
    return next(keys, subject.source.span(0, min(1, len(subject.source.text))))


def _is_in_use(path: PurePath) -> bool:
    """Whether this is where K3s or RKE2 read it."""
    return path.name == "registries.yaml" and path.parts[-4:-1] in {("etc", "rancher", each) for each in PROGRAMS}


# ── R025, R039: who can read it ──


@rule(
    "R025",
    "secret-file-mode",
    "warning",
    bad=Example(_SECRETS, name="etc/rancher/k3s/registries.yaml", mode=0o644),
    good=Example(_SECRETS, name="etc/rancher/k3s/registries.yaml", mode=0o600),
    sources=("k3s-io/k3s#1685", "rancher/rke2#10974", "k3s-io/k3s-ansible#540"),
)
def secret_file_mode(subject: Subject) -> Iterator[Hit]:
    """The file holds secrets, and others than its owner can read it.

    K3s reads the file as root, at its start, and looks at neither mode nor owner; 0600 is enough. Anywhere but in
    /etc/rancher this is a note: the mode of a copy need not be that of the file on the node.
    """
    path, auth = _file(subject), next(auths_with_secrets(subject.config), None)
    if path is None or auth is None or not subject.circumstances.look_at_files:
        return
    status = _status(path)
    if status is None:
        return
    severity: Severity = "warning" if _is_in_use(path) else "note"
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        who = "every user" if mode & 0o007 else "its group"
        message = f"the file holds secrets and has mode {mode:04o}: {who} of this machine has access to them"
        yield Hit(auth.span, message, f"run chmod 0600 {path.name}", severity=severity)
    if status.st_uid != 0 and _is_in_use(path) and not _is_own(path):
        message = f"the file holds secrets and belongs to user {status.st_uid}, who can read and change them"
        yield Hit(auth.span, message, f"run chown root:root {path.name}", severity=severity)


def _status(path: PurePath) -> os.stat_result | None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_own(path: PurePath) -> bool:
    """Whether the whole of /etc/rancher belongs to the same user: a tree for a node, not one on it, or rootless K3s."""
    above, file = _owner(path.parents[1]), _owner(path)
    return above == file


def _owner(path: PurePath) -> int | None:
    try:
        return Path(path).stat().st_uid
    except (OSError, ValueError):
        return None


@rule(
    "R039",
    "secrets-in-repository",
    "note",
    bad=Example(_SECRETS, files={".git/HEAD": "ref: refs/heads/main\n"}),
    good=Example(_NO_SECRETS, files={".git/HEAD": "ref: refs/heads/main\n"}),
    sources=("rancher/rke2#10974", "k3s-io/k3s#1685"),
)
def secrets_in_repository(subject: Subject) -> Iterator[Hit]:
    """The file holds secrets and lies in a git repository.

    What was committed once stays in the history, for everybody who can clone it. registries.yaml has no way to name a
    secret that is kept elsewhere, so the file has to be made on the way to the node. Values that only hold a place
    (`${PASSWORD}`, `<password>`, `{{ password }}`, what sops encrypted) are no secrets.
    """
    path, auth = _file(subject), next(auths_with_secrets(subject.config), None)
    if path is None or auth is None:
        return
    repository = next((folder for folder in path.parents if os.path.lexists(folder / ".git")), None)
    if repository is not None:
        message = f"the file holds secrets and lies in the git repository {repository}"
        yield Hit(auth.span, message, "keep a template there and fill it in on the way to the node, or encrypt it")


# ── R033: where it is ──


@rule(
    "R033",
    "file-place",
    "warning",
    bad=Example(_NO_SECRETS, name="etc/rancher/k3s/registries.yml"),
    good=Example(_NO_SECRETS, name="etc/rancher/k3s/registries.yaml"),
    sources=("k3s-io/k3s#2299", "k3s-io/k3s#8677"),
)
def file_place(subject: Subject) -> Iterator[Hit]:
    """Nothing reads the file where it is, or under this name.

    K3s reads /etc/rancher/k3s/registries.yaml, RKE2 /etc/rancher/rke2/registries.yaml, on each node its own, and only
    that, unless `--private-registry` names another. A file that is missing there is no error: K3s starts without any
    mirror, and nothing is logged. In server/manifests K3s takes it for a Kubernetes object ("Object 'Kind' is
    missing").
    """
    path = _file(subject)
    if path is None:
        return
    above = path.parts[:-1]
    mine = next((each for each in PROGRAMS if each in above), subject.flags.program)
    cause = _misplaced(path.name, above, _SHOWN[mine])
    if cause:
        remedy = f"call it /etc/rancher/{mine}/registries.yaml, or name it with --private-registry"
        on_a_node = "rancher" in above
        yield Hit(_top(subject), cause, remedy, severity="warning" if on_a_node else "note")


def _misplaced(name: str, above: tuple[str, ...], program: str) -> str | None:
    """What is wrong with the place."""
    if above[-2:] == ("server", "manifests"):
        return "what is in server/manifests is taken for Kubernetes objects, not for registries"
    if name == "registries.yml":
        return f"the name ends in .yml, and {program} reads registries.yaml only"
    if above[-2:] == ("etc", "rancher") and name == "registries.yaml":
        return f"{program} does not read this folder, but {program.lower()} in it"
    if _is_near(above) and _MISNAMED.fullmatch(name) and name != "registries.yaml":
        return f"{program} reads registries.yaml in this folder, not {spoken(name)}"
    if _is_near(above[:-1]) and name == "registries.yaml":
        return f"{program} does not read {spoken(above[-1])}, but the folder above it"
    return None


def _is_near(folders: tuple[str, ...]) -> bool:
    return folders[-3:-1] == ("etc", "rancher") and folders[-1] in PROGRAMS


# ── R032: what stands beside what K3s makes of it ──


@rule(
    "R032",
    "template-drops-auth",
    "warning",
    bad=Example(
        _SECRETS,
        flags=("--data-dir {here}/k3s",),
        files={"k3s/agent/etc/containerd/config-v3.toml.tmpl": 'version = 3\nroot = "/var/lib/containerd"\n'},
    ),
    good=Example(
        _SECRETS,
        flags=("--data-dir {here}/k3s",),
        files={"k3s/agent/etc/containerd/config-v3.toml.tmpl": '{{ template "base" . }}\n[debug]\n  level = "debug"\n'},
    ),
    sources=("https://docs.k3s.io/advanced#configuring-containerd", DOCUMENTATION),
)
def template_drops_auth(subject: Subject) -> Iterator[Hit]:
    """A template of config.toml on this machine leaves the credentials out.

    K3s makes config.toml from config-v3.toml.tmpl or, if that is missing, config.toml.tmpl in
    agent/etc/containerd of its data folder, if there is one of them. Mirrors, rewrites and TLS are in other files, but
    the credentials are in config.toml: a template that neither begins with K3s' own (`{{ template "base" . }}`) nor has
    a section for them loses them, and registries answer 401. Only K3s of late 2026 warns of it.
    """
    auth = next(auths_with_secrets(subject.config), None)
    if auth is None or not subject.circumstances.look_at_files:
        return
    for name in _TEMPLATES:
        path = f"{subject.flags.root}/{name}"
        if not os.path.lexists(path):
            continue
        content = read_regular(path, limit_bytes=TEMPLATE_LIMIT_BYTES)
        if isinstance(content, Content) and not _BASE.search(content.data) and not _REGISTRY.search(content.data):
            message = f"{path} replaces K3s' own config.toml and has no section for credentials: none are used"
            yield Hit(auth.span, message, 'begin the template with {{ template "base" . }}')
        return
