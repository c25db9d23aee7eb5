"""auth.json, with the credentials of registries.yaml, for skopeo, podman and buildah; docker's config.json is the same.

As containers-auth.json(5) and containers/image df7e80d2, pkg/docker/config/config.go (decodeDockerAuth: an identity
token counts only beside a user name and a colon); docker/cli, cli/config/configfile/file.go (the user name must not be
empty). Which of several credentials is used: as containerd, internal/cri/server/images/image_pull.go: ParseAuth.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as InvalidBase64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pierhead.config.k3s import auth_for
from pierhead.config.k3s_hosts import K3sHosts
from pierhead.config.places import HUB, WILDCARD, Losses, is_place, json_files
from pierhead.config.registries import Auth
from pierhead.config.rendered import File, Rendered, is_text, origin_line, revealed
from pierhead.errors import FLAGS
from pierhead.redact import Secret

Flavour = Literal["containers", "docker"]

_HUB_NAMES: Final = ("registry-1.docker.io", HUB, "index.docker.io")
_HUB_KEY: Final = {"containers": HUB, "docker": "https://index.docker.io/v1/"}
_NOBODY: Final = "<token>"  # docker's own user name for an identity token


@dataclass(frozen=True, slots=True)
class Login:
    """What is known of a host: `basic` is base64 of user:password."""

    basic: Secret
    identity_token: Secret | None = None

    def fields(self) -> dict[str, str]:
        """As the file has them."""
        token = {"identitytoken": revealed(self.identity_token)} if self.identity_token else {}
        return {"auth": revealed(self.basic), **token}


def render(hosts: K3sHosts) -> Rendered:
    """auth.json alone: for `skopeo --authfile`, `podman login`'s file, or REGISTRY_AUTH_FILE."""
    losses, origin = Losses("auth"), origin_line(hosts.config.file, "auth.json")
    known = logins(hosts, losses)
    return Rendered(
        origin, json_files("auth.json", _text(known), origin, losses.problems, secret=True), tuple(losses.problems)
    )


def beside(path: str, hosts: K3sHosts, losses: Losses, origin: str, *, flavour: Flavour) -> tuple[File, ...]:
    """The file of logins at `path` that goes with another runtime's files; none if nobody has a login."""
    before = len(losses.problems)
    known = logins(hosts, losses, flavour)
    return json_files(path, _text(known), origin, losses.problems[before:], secret=True) if known else ()


def _text(known: Mapping[str, Login]) -> str:
    return json.dumps({"auths": {key: login.fields() for key, login in known.items()}}, indent=2, ensure_ascii=False)


def logins(hosts: K3sHosts, losses: Losses, flavour: Flavour = "containers") -> dict[str, Login]:
    """The login of every host that K3s has credentials for, by the key of its file."""
    found: dict[str, Login] = {}
    hub = auth_for(hosts.config, _HUB_NAMES[0], hosts.behaviour)
    for name, entry in hosts.config.configs.items():
        if entry.auth is None or entry.key.span.file == FLAGS or (name in _HUB_NAMES and entry is not hub):
            continue
        if name == WILDCARD:
            message = 'credentials under "*" are never sent by containerd, and are not written: name each host instead'
            losses.note("wildcard-auth", message, entry.key.span)
        elif not is_place(name):
            losses.note("no-host", f"{entry.key.shown} is no host, so its credentials are never sent", entry.key.span)
        elif login := _login(entry.auth, name, losses):
            found.update(dict.fromkeys(_keys(name, flavour), login))
    return found


def _keys(name: str, flavour: Flavour) -> tuple[str, ...]:
    if name in _HUB_NAMES:
        return (_HUB_KEY[flavour],)
    # A bare name is no registry in a reference: `podman` writes it with its port.
    if flavour == "containers" and "." not in name and ":" not in name and name != "localhost":
        return name, f"{name}:443", f"{name}:80"
    return (name,)


def _login(auth: Auth, name: str, losses: Losses) -> Login | None:
    """User name and password, else the identity token, else `auth`."""
    if auth.username is not None:
        user = auth.username.value
        if ":" in user:
            losses.lost(
                "colon", f"the user name for {name} has a colon, which ends it in this file", auth.username.span
            )
            return None
        password = revealed(auth.password.value if auth.password else None)
        return Login(_basic(f"{user}:{password}"))
    if auth.identity_token is not None:
        token = auth.identity_token.value
        if not is_text(revealed(token)):
            losses.lost("bytes", f"the identity token for {name} is not UTF-8", auth.identity_token.span)
            return None
        return Login(_basic(f"{_NOBODY}:"), token)
    if auth.auth is not None:
        if not _is_pair(auth.auth.value):
            losses.lost("auth", f"auth for {name} is not base64 of user:password", auth.auth.span)
            return None
        return Login(Secret(_packed(auth.auth.value)))
    return None


def _packed(encoded: Secret) -> str:
    """Go's base64 skips line breaks."""
    return revealed(encoded).replace("\r", "").replace("\n", "")


def _basic(pair: str) -> Secret:
    return Secret(b64encode(pair.encode("utf-8", "surrogateescape")).decode())


def _is_pair(encoded: Secret) -> bool:
    try:
        return b":" in b64decode(_packed(encoded), validate=True)
    except (InvalidBase64, ValueError):
        return False
