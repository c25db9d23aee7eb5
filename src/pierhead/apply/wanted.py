"""What should be below a runtime's folder for a registries.yaml: the renderers' files, each where this machine has it.

Only what takes effect by being there is put there. Credentials that a runtime reads from elsewhere (config.toml,
auth.json, a login) are told, not placed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from pierhead.apply import tree
from pierhead.apply.changes import CERTS_D, Wanted
from pierhead.apply.target import Runtime, Target
from pierhead.apply.tree import READ_LIMIT_BYTES, Content, Unreadable
from pierhead.config import k3s
from pierhead.config.k3s_hosts import Flags, K3sHosts
from pierhead.config.registries import RegistriesConfig
from pierhead.config.rendered import PUBLIC_MODE, File, Rendered
from pierhead.errors import PierheadError, Problem
from pierhead.gourl import go_bytes

DROP_IN: Final = "registries.conf.d/50-pierhead.conf"
DAEMON_JSON: Final = "daemon.json"
OWNED_KEYS: Final = ("registry-mirrors", "insecure-registries")  # of daemon.json; what else is there stays
_SEARCH: Final = re.compile(rb"^unqualified-search-registries = .*\n+", re.MULTILINE)


def wanted(target: Target, config: RegistriesConfig, flags: Flags, hosts: K3sHosts) -> Wanted:
    """The files of this runtime; raises `CannotRender`, `Unreadable`, `PierheadError`."""
    if target.is_k3s:
        files = {path: Content(go_bytes(text), PUBLIC_MODE) for path, text in k3s.render(config, flags).items()}
        return Wanted(files)
    return _BY_RUNTIME[target.runtime](target, hosts)


def _containerd(target: Target, hosts: K3sHosts) -> Wanted:
    from pierhead.config import containerd_files

    made = containerd_files.render(hosts)
    return _with(target, made, (file for file in made.files if file.path.startswith(f"{CERTS_D}/")))


def _podman(target: Target, hosts: K3sHosts) -> Wanted:
    """A drop-in, which leaves registries.conf alone, and without the search list, which is the machine's own."""
    from pierhead.config import podman

    made = podman.render(hosts)
    found = _with(target, made, (file for file in made.files if file.path.startswith(f"{CERTS_D}/")))
    (conf,) = (file for file in made.files if file.path == "registries.conf")
    data = _SEARCH.sub(b"", go_bytes(conf.text))
    logins = [_login_problem("podman", "auth.json", "podman login")] if made.holds_secrets and _logins(made) else []
    return replace(found, files={DROP_IN: Content(data, PUBLIC_MODE), **found.files}, lost=(*found.lost, *logins))


def _docker(target: Target, hosts: K3sHosts) -> Wanted:
    from pierhead.config import docker

    made = docker.render(hosts)
    found = _with(target, made, (file for file in made.files if file.path.startswith(f"{CERTS_D}/")))
    (daemon,) = (file for file in made.files if file.path == DAEMON_JSON)
    merged = _merged(target, json.loads(daemon.text))
    logins = [_login_problem("docker", "config.json", "docker login")] if _logins(made) else []
    lost = (*found.lost, *logins)
    if merged is None:
        return replace(found, lost=lost)
    return replace(found, files={DAEMON_JSON: merged, **found.files}, lost=lost, merged=frozenset({DAEMON_JSON}))


_BY_RUNTIME: Final[Mapping[Runtime, Callable[[Target, K3sHosts], Wanted]]] = {
    "containerd": _containerd,
    "podman": _podman,
    "docker": _docker,
}


def _with(target: Target, made: Rendered, files: Iterable[File]) -> Wanted:
    kept = tuple(files)
    secret = frozenset(file.path for file in kept if file.secret)
    return Wanted({file.path: _content(target, file) for file in kept}, made.lost, secret=secret)


def _content(target: Target, file: File) -> Content:
    if file.copy_of is None:
        return Content(go_bytes(file.text), file.mode)
    place = target.here(file.copy_of)
    try:
        with place.open("rb") as opened:
            data = opened.read(READ_LIMIT_BYTES + 1)
    except OSError as error:
        raise Unreadable(place, error) from error
    if len(data) > READ_LIMIT_BYTES:
        raise PierheadError(f"{place} is larger than {READ_LIMIT_BYTES} bytes", hint="name a PEM file")
    return Content(data, file.mode)


def _logins(made: Rendered) -> bool:
    return any(file.path in ("auth.json", "config.json") for file in made.files)


def _login_problem(runtime: str, file: str, command: str) -> Problem:
    message = (
        f"{runtime} takes credentials from the {file} of whoever pulls, which is not touched: use `{command}`, or "
        f"`pierhead render {runtime}`, which writes one"
    )
    return Problem(f"{runtime}-logins", "warning", message)


def _merged(target: Target, settings: Mapping[str, Any]) -> Content | None:
    """daemon.json with our keys, and all that others wrote there; None if there is none and none is needed."""
    old = tree.read(target.base, DAEMON_JSON)
    if old is None:
        data = json.dumps(dict(settings), indent=2) + "\n"
        return Content(data.encode(), PUBLIC_MODE) if settings else None
    try:
        known = json.loads(old.data or b"{}")
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        place = target.base / DAEMON_JSON
        raise PierheadError(f"{place} is no JSON object", hint="correct it first: dockerd does not start with it")
    others = {name: value for name, value in known.items() if name not in OWNED_KEYS}
    if {name: known[name] for name in OWNED_KEYS if name in known} == dict(settings):
        return old
    data = json.dumps({**others, **settings}, indent=2, ensure_ascii=False) + "\n"
    return Content(data.encode("utf-8", "surrogatepass"), old.mode)


def foreign_settings(target: Target, new: Content, record_knows: bool) -> str:
    """What of daemon.json would be lost that an administrator wrote under our keys; empty if nothing."""
    if record_knows:
        return ""
    old = tree.read(target.base, DAEMON_JSON)
    before, after = (json.loads(content.data or b"{}") if content else {} for content in (old, new))
    gone = [name for name in OWNED_KEYS for text in before.get(name, ()) if text not in after.get(name, ())]
    return ", ".join(dict.fromkeys(gone))
