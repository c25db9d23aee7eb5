"""Docker's daemon.json as registries.yaml: mirrors of docker.io, and registries that may be insecure.

As docker's documentation of dockerd, and moby: registry/config.go (mirrors are for docker.io alone; an insecure
registry is asked by https without verification, then by http).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any, Final

from pierhead.config.containerd import is_localhost
from pierhead.config.imports.draft import Draft
from pierhead.config.imports.hosts_file import asked
from pierhead.config.imports.places import JsonPlaces
from pierhead.config.imports.reading import HostFolder
from pierhead.config.imports.trusting import Certificates
from pierhead.errors import Span, UsageError
from pierhead.gourl import GoUrl, InvalidUrl, parse, shown

_MIRRORS: Final = "registry-mirrors"
_INSECURE: Final = "insecure-registries"
_ELSEWHERE: Final = {
    "proxies": "K3s takes proxies from its environment: HTTPS_PROXY and NO_PROXY in k3s.service.env",
    "allow-nondistributable-artifacts": "K3s never pushes, so these registries need no entry",
}


class UnusableDaemonJson(UsageError):
    """The file is not a daemon.json that docker would start with."""


def from_daemon_json(data: bytes, file: str, certificates: Iterable[HostFolder] = ()) -> Draft:
    """The draft that the file makes, with docker's certificates; raises `UnusableDaemonJson`."""
    text = data.decode("utf-8", "surrogateescape")
    value, places = _parsed(text, file), JsonPlaces(text, file)
    draft = Draft()
    trusted = Certificates(draft, certificates)
    insecure = _insecure(draft, _strings(value, _INSECURE, places), places)
    for url in _strings(value, _MIRRORS, places):
        _take_mirror(draft, trusted, url, places.span(url, after=_MIRRORS), insecure=insecure)
    for host, span in insecure.items():
        draft.ask(host, f"http://{host}")
        trusted.trust(host, span, insecure=True)
    trusted.trust_rest()
    for key, message in _ELSEWHERE.items():
        if value.get(key):
            draft.remark("elsewhere", f"{key} is left out: {message}", places.span(key))
    return draft


def _parsed(text: str, file: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        span, reason = Span(file, error.lineno, error.colno), f"not JSON: {error.msg.lower()}"
    except (RecursionError, ValueError):
        span, reason = Span(file, 1), "not JSON that can be read"
    else:
        if isinstance(value, dict):
            return value
        span, reason = Span(file, 1), "not a JSON object"
    # Outside of the handler: a JSONDecodeError carries the whole document, which may hold a proxy's password.
    raise UnusableDaemonJson(reason, hint="docker does not start with this file either", span=span)


def _strings(value: Mapping[str, Any], name: str, places: JsonPlaces) -> list[str]:
    listed = value.get(name) or []
    if not isinstance(listed, list) or any(not isinstance(text, str) for text in listed):
        raise UnusableDaemonJson(
            f"{name} is a list of strings", hint="docker does not start with this file either", span=places.span(name)
        )
    return listed


def _insecure(draft: Draft, names: Iterable[str], places: JsonPlaces) -> dict[str, Span]:
    """The hosts; networks, which K3s does not know, are said. Loopback is insecure to containerd anyway."""
    hosts: dict[str, Span] = {}
    for name in names:
        span = places.span(name, after=_INSECURE)
        if _is_network(name):
            if not is_localhost(name.partition("/")[0]):
                message = f"K3s knows no networks: list the registries of {name} one by one"
                draft.lost("insecure-network", message, span)
        elif (found := asked(f"http://{name}")) is None or found.host != name or found.path != "/v2":
            draft.lost("no-registry", f"left out: {shown(name)!r} is the name of no registry", span)
        else:
            hosts[name] = span
    return hosts


def _is_network(name: str) -> bool:
    if "/" not in name:
        return False
    try:
        ip_network(name, strict=False)
    except ValueError:
        return False
    return True


def _take_mirror(
    draft: Draft, trusted: Certificates, written: str, span: Span, *, insecure: Mapping[str, Span]
) -> None:
    try:
        url = parse(written)
    except InvalidUrl as error:
        draft.lost("no-endpoint", f"left out: {error.message}", span)
        return
    if url.scheme not in ("http", "https") or not url.host:
        draft.lost("no-endpoint", f"left out: {shown(written)!r} is no http or https URL with a host", span)
        return
    if url.userinfo is not None:
        message = f"the credentials in the URL of {url.host} are left out: write them under configs"
        draft.lost("userinfo", message, span)
    path = url.path.rstrip("/")
    endpoint = GoUrl(scheme=url.scheme, host=url.host, path=f"{path}/v2" if path else "")
    draft.ask("docker.io", str(endpoint))
    trusted.trust(url.host, span, insecure=url.host in insecure)
