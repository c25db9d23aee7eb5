"""Keeping a credential where others will look for it: docker's and podman's file, a helper, registries.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pierhead.auth import Credential
from pierhead.credentials import HUB_NAMES, IDENTITY_TOKEN_USER
from pierhead.errors import UsageError
from pierhead.redact import Secret, without_userinfo

HUB: Final = "docker.io"

_URL: Final = re.compile(r"(?i)(?:https?://)?(?P<host>[^/]*)(?:/(?:v[12]/?)?)?")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a credential is now, and what a person should know besides."""

    place: str
    notes: tuple[str, ...] = ()


def registry_named(text: str) -> str:
    """The host[:port] that somebody means, `docker.io` by each of its names; raises `UsageError`.

    As docker, a scheme and `/v1/` or `/v2/` are taken and left out.
    """
    match = _URL.fullmatch(text)
    host = match["host"] if match else ""
    if text != without_userinfo(text) or "@" in host:
        raise UsageError("the registry holds a user name or password", hint="name the host alone, and the user with -u")
    if not _HOST.fullmatch(host):
        hint = "write its host and port alone, as registry.example:5000"
        raise UsageError(f"{text!r} is no registry", hint=hint)
    return HUB if host.lower() in HUB_NAMES else host


def credential_of(username: str, password: Secret) -> Credential:
    """The credential of a login; raises `UsageError` for what no registry could be told or no file could hold."""
    if not username or not username.isprintable() or ":" in username:
        raise UsageError("a user name has at least one character, no colon and no control character")
    if username == IDENTITY_TOKEN_USER:
        raise UsageError("an identity token is no password", hint="put it under auth.identity_token of registries.yaml")
    text = password.reveal()
    if not text:
        raise UsageError("the password is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError("the password is not UTF-8", hint="no file of logins can hold it")
    if any(character < " " or character == "\x7f" for character in text):
        raise UsageError("the password has a line break or control character in it", hint="give it on one line")
    return Credential(username, password, source="flag", key="-u")
