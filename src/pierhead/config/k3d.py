"""k3d: a cluster's configuration with registries.yaml in it, and its certificates mounted into the nodes.

As k3d 46f3480d: pkg/config/v1alpha5/types.go, pkg/config/transform.go (registries.config is read with
sigs.k8s.io/yaml, whose names are those of JSON: `identitytoken`), pkg/client/cluster.go (it is written again for K3s),
cmd/util/config/config.go ($NAME is replaced in the whole file, so no dollar may stand there). Rewrites were dropped
before 5.5 (k3d-io/k3d issue 1179), which knows no v1alpha5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from pierhead.config.k3s import NO_FLAGS
from pierhead.config.k3s_hosts import Flags, K3sHosts
from pierhead.config.places import Losses
from pierhead.config.registries import Auth, Config, Mirror, Text, Tls
from pierhead.config.rendered import File, Rendered, commented, origin_line, revealed, yaml_key
from pierhead.errors import FLAGS

_RUNTIME = "k3d"
_NODES: Final = ["server:*", "agent:*"]
_PLAIN_KEY = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-zA-Z][a-zA-Z0-9_]*")
_NOT_TEXT = re.compile(r"(?<!\\)\\uD[89A-F][0-9A-F]{2}")  # a surrogate escape, as PyYAML writes it


def render(hosts: K3sHosts, flags: Flags = NO_FLAGS) -> Rendered:
    """k3d.yaml, for `k3d cluster create --config`; it holds the passwords."""
    losses = Losses(_RUNTIME)
    mirrors = {key: _mirror(mirror) for key, mirror in hosts.config.mirrors.items() if _is_written(mirror)}
    configs = {key: _config(entry) for key, entry in hosts.config.configs.items() if _is_written(entry)}
    inner = _yaml({"mirrors": mirrors, "configs": configs})
    document: dict[str, Any] = {"apiVersion": "k3d.io/v1alpha5", "kind": "Simple"}
    if _NOT_TEXT.search(inner):
        losses.lost("bytes", "k3d's YAML takes UTF-8 only, and a value in the file is not", None)
    if volumes := list(_volumes(hosts, losses)):
        document["volumes"] = [{"volume": volume, "nodeFilters": _NODES} for volume in volumes]
    if arguments := list(_arguments(flags)):
        document["options"] = {"k3s": {"extraArgs": arguments}}
    secret = any(entry.auth is not None for entry in hosts.config.configs.values())
    origin = origin_line(hosts.config.file, _RUNTIME)
    head = commented(origin, losses.problems).replace("$", "")
    block = "".join(f"    {line}\n" for line in inner.splitlines())
    text = f"{head}{_yaml(document)}registries:\n  config: |\n{block}"
    return Rendered(origin, (File("k3d.yaml", text, secret=secret),), tuple(losses.problems))


def _is_written(entry: Mirror | Config) -> bool:
    """Not what the embedded registry adds, which K3s adds itself."""
    return entry.key.span.file != FLAGS


def _mirror(mirror: Mirror) -> dict[str, Any]:
    endpoints = [text.value for text in mirror.endpoints if text.span.file != FLAGS]
    rewrites = {rule.pattern.value: rule.replacement.value for rule in mirror.rewrites}
    return {"endpoint": endpoints, **({"rewrite": rewrites} if rewrites else {})}


def _config(entry: Config) -> dict[str, Any]:
    auth = {} if entry.auth is None else {"auth": _auth(entry.auth)}
    tls = {} if entry.tls is None else {"tls": _tls(entry.tls)}
    return {**auth, **tls}


def _auth(auth: Auth) -> dict[str, str]:
    fields = {
        "username": auth.username.value if auth.username else None,
        "password": revealed(auth.password.value) if auth.password else None,
        "auth": revealed(auth.auth.value) if auth.auth else None,
        "identitytoken": revealed(auth.identity_token.value) if auth.identity_token else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _tls(tls: Tls) -> dict[str, Any]:
    files = {"ca_file": tls.ca_file, "cert_file": tls.cert_file, "key_file": tls.key_file}
    known: dict[str, Any] = {name: text.value for name, text in files.items() if text is not None}
    return known | ({"insecure_skip_verify": True} if tls.insecure_skip_verify else {})


def _volumes(hosts: K3sHosts, losses: Losses) -> Iterator[str]:
    """The files of every `tls`, at the same path inside the nodes."""
    seen: set[str] = set()
    for entry in filter(_is_written, hosts.config.configs.values()):
        tls = entry.tls
        for text in (tls.ca_file, tls.cert_file, tls.key_file) if tls is not None else ():
            if text is None or text.value in seen:
                continue
            seen.add(text.value)
            if _can_be_mounted(text):
                yield f"{text.value}:{text.value}"
            else:
                message = "k3d mounts absolute paths without a colon only: move the file, its nodes lack it"
                losses.lost("path", message, text.span)


def _can_be_mounted(text: Text) -> bool:
    return text.value.startswith("/") and ":" not in text.value


def _arguments(flags: Flags) -> Iterator[dict[str, Any]]:
    if flags.disable_default_registry_endpoint:
        yield {"arg": "--disable-default-registry-endpoint", "nodeFilters": _NODES}
    if flags.embedded_registry:
        yield {"arg": "--embedded-registry", "nodeFilters": ["server:*"]}


# -- YAML without a dollar --------------------------------------------------------------------------------------------


def _yaml(value: Mapping[str, Any]) -> str:
    return "".join(f"{line}\n" for line in _mapping(value))


def _mapping(value: Mapping[str, Any]) -> Iterator[str]:
    for key, item in value.items():
        name = key if _PLAIN_KEY.fullmatch(key.lower()) else _quoted(key)
        *above, last = yaml_key(name)
        yield from above
        if isinstance(item, dict) and item:
            yield last
            yield from (f"  {line}" for line in _mapping(item))
        elif isinstance(item, list) and item:
            yield last
            yield from _list(item)
        else:
            yield f"{last} {_scalar(item)}"


def _list(items: list[Any]) -> Iterator[str]:
    for item in items:
        lines = list(_mapping(item)) if isinstance(item, dict) else [_scalar(item)]
        yield f"  - {lines[0]}"
        yield from (f"    {line}" for line in lines[1:])


def _scalar(item: Any) -> str:
    if isinstance(item, bool):
        return str(item).lower()
    return _quoted(item) if isinstance(item, str) else str(item)  # an empty list or mapping reads the same in YAML


def _quoted(text: str) -> str:
    """A double-quoted scalar on one line, in which a dollar is an escape: k3d would take it for a variable."""
    quoted: str = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=False)
    return quoted.rstrip("\n").replace("$", "\\x24")
