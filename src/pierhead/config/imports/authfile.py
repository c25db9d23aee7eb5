"""What a login left: auth.json of podman, config.json of docker, as the credentials of registries.yaml.

As containers-auth.json(5) and docker's documentation of `docker login`. K3s knows credentials by host, so what is kept
for a namespace, or by a helper, has no place.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pierhead.config.imports.draft import Draft, Login
from pierhead.config.imports.places import JsonPlaces
from pierhead.errors import Span, UsageError
from pierhead.gourl import shown
from pierhead.redact import Secret

_SERVER_KEY: Final = re.compile(r"(?:https?://)?(?P<host>[^/]+)(?:/(?:v[12]/?)?)?")
_HUB_NAMES: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")


class UnusableAuthFile(UsageError):
    """The file holds no logins."""


def take_logins(draft: Draft, data: bytes, file: str) -> None:
    """Gives the draft the credentials of this file; raises `UnusableAuthFile`, which never holds any of it."""
    value, text = _parsed(data, file)
    places = JsonPlaces(text, file)
    for name in ("credHelpers", "credsStore"):
        if value.get(name):
            message = "credentials that a helper keeps are left out: K3s asks no helpers"
            draft.lost("credential-helpers", message, places.span(name))
    auths = value.get("auths") or {}
    if not isinstance(auths, dict):
        raise UnusableAuthFile("auths is a JSON object", span=places.span("auths"))
    for key, entry in auths.items():
        _take(draft, key, entry if isinstance(entry, dict) else {}, places.span(key, after="auths"))


def _parsed(data: bytes, file: str) -> tuple[Mapping[str, Any], str]:
    try:
        text = data.decode()
        value = json.loads(text) if text.strip() else {}
    except (RecursionError, ValueError):  # JSON's and Unicode's errors are the latter
        value = None
    if isinstance(value, dict):
        return value, text
    # Outside of the handler: its error carries the document, and with it every secret.
    raise UnusableAuthFile("this is no JSON object", hint="name an auth.json or config.json", span=Span(file, 1))


def _take(draft: Draft, key: str, entry: Mapping[str, Any], span: Span) -> None:
    found = _SERVER_KEY.fullmatch(key)
    if found is None:
        message = f"K3s knows credentials for a host, not for {shown(key)}: these are left out"
        draft.lost("namespace-login", message, span)
        return
    login = _login(entry)
    if login is None:
        if any(entry.values()):
            draft.lost("unusable-login", f"the credentials for {shown(key)} cannot be read: log in again", span)
        return
    host = found["host"]
    if host in _HUB_NAMES:
        host = "docker.io"
        message = "K3s before v1.31.11, v1.32.7 and v1.33.3 looks under registry-1.docker.io for these credentials"
        draft.remark("hub-login", message, span)
    draft.login(host, login, span)


def _login(entry: Mapping[str, Any]) -> Login | None:
    """The credentials in the order that docker prefers them; None if there are none, or none that can be."""
    fields = {name: text for name, text in entry.items() if isinstance(text, str) and text}
    if token := fields.get("identitytoken"):
        return Login(identity_token=Secret(token))
    if packed := fields.get("auth"):
        return Login(auth=Secret(packed)) if is_packed(packed) else None
    if fields.get("username") and fields.get("password"):
        pair = f"{fields['username']}:{fields['password']}"
        return Login(auth=Secret(base64.b64encode(pair.encode("utf-8", "surrogatepass")).decode()))
    return None


def is_packed(text: str) -> bool:
    """Whether this is base64 of user:password."""
    try:
        return b":" in base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
