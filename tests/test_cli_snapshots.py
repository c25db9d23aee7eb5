"""What a person sees: one command, and every byte that it prints, beside the file of tests/snapshots that says so.

`SNAPSHOTS=update pytest tests/test_cli_snapshots.py` writes the files anew. A test whose file was changed by that fails
all the same, so that nothing is taken over unread.

Commands run in an empty folder; `registries.yaml` and `store` are names in it. The addresses of `ADDRESSES` stand for
registries that listen on free ports while the tests run.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from command import Ran, run_pierhead, serve
from images import make_image
from pierhead import __version__
from pierhead.cli import COMMANDS
from pierhead.cli.world import DEFAULT_FILES
from pierhead.layout import LayoutStore
from pierhead.store import RepositoryName
from staged import Staged
from stocked import stock

SNAPSHOTS: Final = Path(__file__).with_name("snapshots")
UPDATE: Final = os.environ.get("SNAPSHOTS") == "update"

REGISTRY: Final = "127.0.0.1:5000"  # `pierhead serve`, with the images of `stock_registry`
LOCKED: Final = "127.0.0.1:5001"  # refuses whoever brings no password
DEAD: Final = "127.0.0.1:1"  # nobody listens there
DAY_SECONDS: Final = 24 * 3600.0
IN_FOLDER: Final = ("sh", "-c", 'cd "$0" && exec "$@"')

# Not compressed: what gzip makes of the same bytes differs between versions of zlib, and the digests with it.
APP: Final = make_image(layers=[b"app\n", b"more of it\n"], compression="none")
MANY: Final = make_image(layers=[b"many\n"], compression="none", platforms=["linux/amd64", "linux/arm64/v8"])


@dataclass(frozen=True)
class Case:
    """A command line, without `pierhead`, in a folder with this registries.yaml and store, if any."""

    name: str
    command: str
    registries: str = ""
    store: str = ""  # "sound", "damaged", "orphaned": see `prepare_store`
    files: Mapping[str, str] = field(default_factory=dict)  # others, by name


# ── the files ────────────────────────────────────────────────────────────────────────────────────────────────────────

README: Final = re.findall(r"```yaml\n(.*?)```", (SNAPSHOTS.parents[1] / "README.md").read_text(), re.DOTALL)[0]

OVERLAPPING: Final = r"""
mirrors:
  docker.io:
    endpoint:
      - https://cache.lan
    rewrite:
      "^rancher/(.*)": "first/$1"
      "^rancher/mirrored-(.*)": "second/$1"
      "^(.*)$": "third/$1"
"""

ENDPOINTS: Final = """
mirrors:
  quay.io:
    endpoint:
      - https://cache.lan
      - "https://cache.lan:port"
      - cache.lan
      - https://cache.lan
"""

WILDCARD: Final = """
mirrors:
  "*":
    endpoint:
      - https://cache.lan/all
  docker.io:
    endpoint:
      - https://docker.lan
"""

BACKSLASH: Final = r"""
mirrors:
  docker.io:
    endpoint:
      - https://cache.lan
    rewrite:
      "^library/(.*)": 'official\q/$1'
"""

CLIENT_CERTIFICATE: Final = """
mirrors:
  docker.io:
    endpoint:
      - https://cache.lan:8443
configs:
  "cache.lan:8443":
    tls:
      cert_file: node.pem
      key_file: node-key.pem
      insecure_skip_verify: true
"""

HTTP_WITH_TLS: Final = """
mirrors:
  docker.io:
    endpoint:
      - http://cache.lan:5000
configs:
  "cache.lan:5000":
    auth:
      username: k3s
      password: not-this-one
    tls:
      ca_file: registry-ca.pem
"""

SYNTAX_ERROR: Final = """
mirrors:
  docker.io:
    endpoint: [https://cache.lan
  quay.io:
    endpoint: []
"""

TYPE_ERRORS: Final = """
mirrors:
  docker.io:
    endpoint: https://cache.lan
  quay.io: [https://cache.lan]
configs:
  cache.lan:
    tls:
      insecure_skip_verify: "yes"
"""

DEAD_FIRST: Final = f"""
mirrors:
  docker.io:
    endpoint:
      - http://{DEAD}
      - http://{REGISTRY}
"""


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────

RANCHER: Final = "rancher/mirrored-coredns:1.6.3"
NO_DEFAULT: Final = "--disable-default-registry-endpoint"

CASES: Final = (
    Case("version", "--version"),
    Case("help", "--help"),
    *(Case(f"help-{name}", f"{name} --help") for name in COMMANDS),
    Case("no-command", "pul redis:7"),
    # explain
    Case("explain-readme", "explain rancher/coredns-coredns:1.6.3", README),
    Case("explain-readme-json", "explain rancher/coredns-coredns:1.6.3 -o json", README),
    Case("explain-several", "explain redis:7 quay.io/team/app@sha256:" + "0" * 64, README),
    Case("explain-overlapping-rewrites", f"explain {RANCHER}", OVERLAPPING),
    Case("explain-overlapping-rewrites-json", f"explain {RANCHER} -o json", OVERLAPPING),
    Case("explain-unusable-endpoints", "explain quay.io/team/app", ENDPOINTS),
    Case("explain-unusable-endpoints-json", "explain quay.io/team/app -o json", ENDPOINTS),
    Case("explain-no-default-endpoint", f"explain {RANCHER} {NO_DEFAULT}", README),
    Case("explain-embedded-registry", "explain redis:7 --embedded-registry 127.0.0.1:6443", WILDCARD),
    Case("explain-wildcard", "explain ghcr.io/team/app:1", WILDCARD),
    Case("explain-backslash", "explain redis:7", BACKSLASH),
    Case("explain-backslash-json", "explain redis:7 -o json", BACKSLASH),
    Case("explain-client-certificate", "explain redis:7", CLIENT_CERTIFICATE),
    Case("explain-http-with-tls", "explain redis:7", HTTP_WITH_TLS),
    Case("explain-http-with-tls-json", "explain redis:7 -o json", HTTP_WITH_TLS),
    Case("explain-missing-file", "explain redis:7 --private-registry none.yaml"),
    Case("explain-syntax-error", "explain redis:7", SYNTAX_ERROR),
    Case("explain-type-errors", "explain redis:7", TYPE_ERRORS),
    Case("explain-bad-reference", "explain Redis:7"),
    Case("explain-bad-digest", "explain redis@sha256:12"),
    # pull; one job at a time, so that the lines come in order
    Case("pull", "pull -j1 team/app:1", DEAD_FIRST),
    Case("pull-json", "pull -j1 team/app:1 -o json", DEAD_FIRST),
    Case("pull-quiet", "pull -j1 -q team/app:1", DEAD_FIRST),
    Case("pull-again", "pull -j1 team/app:1", DEAD_FIRST, store="sound"),
    Case("pull-platform", f"pull -j1 {REGISTRY}/team/many:1 --platform linux/arm64"),
    Case("pull-no-platform", f"pull -j1 {REGISTRY}/team/many:1 --platform linux/s390x"),
    Case("pull-not-found", f"pull {NO_DEFAULT} team/none:1", DEAD_FIRST),
    Case("pull-unauthorised", f"pull {LOCKED}/team/app:1"),
    Case("pull-refused", f"pull {DEAD}/team/app:1"),
    Case("pull-partial", f"pull -j1 {REGISTRY}/team/app:1 {REGISTRY}/team/none:1"),
    Case("pull-partial-json", f"pull -j1 {REGISTRY}/team/app:1 {REGISTRY}/team/none:1 -o json"),
    Case("pull-bad-reference", "pull team/app:"),
    Case("pull-half-a-certificate", "pull redis:7 --cert-file node.pem", files={"node.pem": "nothing\n"}),
    # the store
    Case("images", "images", store="sound"),
    Case("images-json", "images -o json", store="sound"),
    Case("images-digests", "images --digests", store="sound"),
    Case("images-filter", "images '*/team/*'", store="sound"),
    Case("images-empty", "images"),
    Case("verify", "verify", store="sound"),
    Case("verify-damaged", "verify", store="damaged"),
    Case("verify-damaged-json", "verify -o json", store="damaged"),
    Case("gc-dry-run", "gc --dry-run", store="orphaned"),
    Case("gc-dry-run-json", "gc --dry-run -o json", store="orphaned"),
    Case("rmi", "rmi team/app:1", store="sound"),
    Case("rmi-absent", "rmi redis:7", store="sound"),
    Case("rmi-partial", "rmi team/app:1 redis:7", store="sound"),
    # serve
    Case("serve-bad-address", "serve --listen 5000"),
    Case("serve-bare-ipv6", "serve --listen ::1:5000"),
    Case("serve-missing-certificate", "serve --tls-cert tls.pem --tls-key tls-key.pem"),
    Case("serve-half-a-certificate", "serve --tls-cert tls.pem", files={"tls.pem": "nothing\n"}),
    Case("serve-no-certificate", "serve --tls-cert tls.pem --tls-key tls.pem", files={"tls.pem": "nothing\n"}),
    Case("serve-no-htpasswd", "serve --htpasswd users", files={"users": "k3s\n"}),
    Case("serve-not-bcrypt", "serve --htpasswd users", files={"users": "k3s:{SHA}nothing\n"}),
)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Where the registries listen, by the address that snapshots have for them."""
    root = tmp_path_factory.mktemp("registry") / "store"
    store = LayoutStore(root)
    stock(store, APP)
    stock(store, MANY, "team/many")
    with serve(root) as registry, Staged(None, challenge='Basic realm="locked"') as locked:
        yield {REGISTRY: registry.address, LOCKED: locked.address}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_command(case: Case, addresses: Mapping[str, str], tmp_path: Path) -> None:
    compare(case, tmp_path, addresses)


@pytest.mark.skipif(any(map(os.path.lexists, DEFAULT_FILES)), reason="this machine has a registries.yaml of its own")
def test_no_file_at_all(tmp_path: Path) -> None:
    compare(NO_FILE, tmp_path, {}, env={"PIERHEAD_PRIVATE_REGISTRY": ""})


NO_FILE: Final = Case("explain-no-file", "explain redis:7")


def test_every_snapshot_has_its_command() -> None:
    names = [case.name for case in (*CASES, NO_FILE)]
    assert len(names) == len(set(names))
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(names)


def test_an_update_is_never_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("version", "--version")
    monkeypatch.setitem(globals(), "SNAPSHOTS", tmp_path)
    monkeypatch.setitem(globals(), "UPDATE", True)
    with pytest.raises(pytest.fail.Exception, match="was written anew"):
        compare(case, tmp_path, {})
    compare(case, tmp_path, {})
    monkeypatch.setitem(globals(), "UPDATE", False)
    compare(case, tmp_path, {})
    (tmp_path / "version.txt").write_text("$ pierhead --version\n")
    with pytest.raises(AssertionError, match="SNAPSHOTS=update"):
        compare(case, tmp_path, {})


# ── how they are taken and compared ──────────────────────────────────────────────────────────────────────────────────


def compare(case: Case, folder: Path, addresses: Mapping[str, str], env: Mapping[str, str] = {}) -> None:
    """Run it, and look at its file; with SNAPSHOTS=update write that, and fail if it changes."""
    taken = take(case, folder, addresses, env)
    path = SNAPSHOTS / f"{case.name}.txt"
    known = path.read_text() if path.exists() else ""
    if UPDATE and taken != known:
        path.write_text(taken)
        pytest.fail(f"{path} was written anew: read it, then run the test without SNAPSHOTS=update")
    assert taken == known, f"{path}: SNAPSHOTS=update takes over what the command prints now"


def take(case: Case, folder: Path, addresses: Mapping[str, str], env: Mapping[str, str] = {}) -> str:
    """Run a command in `folder`; the text of its snapshot."""
    environment = {"COLUMNS": "80", "PIERHEAD_ROOT": "store"}
    shown = f"$ pierhead {case.command}\n"
    files = dict(case.files)
    if case.registries:
        files["registries.yaml"] = case.registries.lstrip("\n")
        environment["PIERHEAD_PRIVATE_REGISTRY"] = "registries.yaml"
    for name, text in files.items():
        (folder / name).write_text(put(addresses, text))
        shown = f"$ cat {name}\n{text}{shown}"
    if case.store:
        prepare_store(folder / "store", case.store)
    arguments = shlex.split(put(addresses, case.command))
    ran = run_pierhead(*arguments, env={**environment, **env}, code=None, prefix=(*IN_FOLDER, str(folder)))
    return shown + steady(printed_by(ran).replace(str(folder), "/srv"), addresses)


def printed_by(ran: Ran) -> str:
    """All that it printed, each stream under its name, with its exit code."""
    out, err = (
        f"[{name}]\n{text}" + ("" if text.endswith("\n") else "[no newline]\n") if text else ""
        for name, text in (("stdout", ran.out), ("stderr", ran.err))
    )
    return f"{out}{err}[exit code {ran.code}]\n"


def put(addresses: Mapping[str, str], text: str) -> str:
    """The text with the addresses at which the registries really listen."""
    return replace(text, addresses)


def steady(text: str, addresses: Mapping[str, str]) -> str:
    """Without what differs from run to run: ports, seconds, and the version of the program."""
    text = replace(text, {real: shown for shown, real in addresses.items()})
    text = re.sub(r'"seconds": [-\d.e]+', '"seconds": 0.0', text)
    return text.replace(f"pierhead {__version__}\n", "pierhead VERSION\n")


def replace(text: str, addresses: Mapping[str, str]) -> str:
    """Every address for another, in one go: one port may begin with the digits of another."""
    return re.sub(r"127\.0\.0\.1:\d+", lambda match: addresses.get(match[0], match[0]), text)


def prepare_store(root: Path, state: str) -> None:
    """Two images, a day old. "damaged": of one a layer is lost and another differs; "orphaned": one is removed."""
    store = LayoutStore(root)
    stock(store, APP, namespace="docker.io")
    stock(store, MANY, "team/many", namespace="quay.io")
    lost, differing = (root / "blobs" / layer["digest"].replace(":", "/") for layer in APP.manifest["layers"])
    if state == "damaged":
        lost.unlink()
        differing.write_bytes(bytes(differing.stat().st_size))
    elif state == "orphaned":
        store.repository(RepositoryName("team/app", "docker.io")).forget("1")
    store.publish_index()
    long_ago = time.time() - DAY_SECONDS
    for path in root.rglob("*"):
        os.utime(path, (long_ago, long_ago))
