"""A login in docker's config.json or podman's auth.json, or with the helper that such a file names.

As docker/cli (cli/config/credentials/file_store.go, native_store.go; cli/config/configfile/file.go) and, for podman's
file, containers/image (pkg/docker/config/config.go SetCredentials). Everything else in the file stays as it is.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pierhead.auth import Credential
from pierhead.credential_helper import erase_with_helper, run_helper, store_with_helper
from pierhead.credentials import FILE_LIMIT_BYTES, HUB_SERVERS, helper_path, holds_secret, server_keys
from pierhead.credentials import server_names as names_of
from pierhead.errors import Span, UsageError
from pierhead.files import new_file, replace_file
from pierhead.login import HUB, Kept
from pierhead.login.alone import alone

_INDENT: Final = re.compile(r"\n([ \t]+)\"")


class UnusableAuthFile(UsageError):
    """The file of logins cannot be read, or is not one; nothing was changed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be used: {reason}", hint="correct it, or move it away and log in again")


@dataclass(frozen=True, slots=True)
class AuthFile:
    """Where logins are kept, by whose rules; `environment` is what a helper is run with."""

    path: Path
    kind: Literal["docker", "podman"]
    environment: Mapping[str, str] = field(repr=False)

    def keep(self, registry: str, credential: Credential) -> Kept:
        """Keep a credential for a registry, in place of what is known of it.

        Raises `UnusableAuthFile`, `BadCredential` (of the helper), `Busy` and `OSError`; then the file is as before.
        """
        if not self.path.parent.exists():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(self.path):
            return self._keep(registry, credential)

    def _keep(self, registry: str, credential: Credential) -> Kept:
        document = _Document.read(self.path)
        server, helper = self._server(registry), self._helper(document, registry)
        notes: list[str] = []
        entry: dict[str, str] = {}
        if helper:
            store_with_helper(helper, server, credential, self.environment)
        else:
            packed = f"{credential.username}:{credential.secret.reveal()}".encode()
            entry["auth"] = base64.b64encode(packed).decode()
        others = [key for key in server_keys(document.auths, names_of(registry)) if key != server]
        if others:
            notes.append(f"{', '.join(others)}: an older login to the same registry, taken out of {self.path}")
        auths = {key: value for key, value in document.auths.items() if key not in others}
        notes += document.write({**auths, server: entry})
        return Kept(Path(helper).name if helper else str(self.path), tuple(notes))

    def forget(self, registry: str) -> tuple[str, ...]:
        """Where a login to this registry was, and is no longer; raises as `keep`."""
        with alone(self.path):
            return self._forget(registry)

    def _forget(self, registry: str) -> tuple[str, ...]:
        document = _Document.read(self.path)
        places = []
        if known := list(server_keys(document.auths, names_of(registry))):
            document.write({key: value for key, value in document.auths.items() if key not in known})
            places.append(str(self.path))
        if helper := self._helper(document, registry):
            servers = HUB_SERVERS if registry == HUB else (registry, f"https://{registry}", f"http://{registry}")
            for server in servers:
                if run_helper(helper, server, self.environment) is not None:
                    erase_with_helper(helper, server, self.environment)
                    places.append(Path(helper).name)
        return tuple(dict.fromkeys(places))

    def _server(self, registry: str) -> str:
        """The key of a registry; Docker Hub's is another one in docker's own file."""
        return HUB_SERVERS[0] if registry == HUB and self.kind == "docker" else registry

    def _helper(self, document: _Document, registry: str) -> str:
        """The program that keeps this registry's logins; empty if the file itself does.

        podman knows nothing of `credsStore`.
        """
        names = names_of(registry)
        if key := next(server_keys(document.helpers, names), ""):
            return helper_path(document.helpers[key], self.environment, document.span)
        everything = document.value.get("credsStore")
        if self.kind == "docker" and isinstance(everything, str) and everything:
            return helper_path(everything, self.environment, document.span)
        return ""


@dataclass(frozen=True, slots=True)
class _Document:
    """A file as it was read; `mode` None: there is none yet. No part of it is shown."""

    path: Path
    value: dict[str, Any] = field(default_factory=dict, repr=False)
    mode: int | None = None
    indent: str = "\t"  # as docker and podman write it

    @property
    def auths(self) -> dict[str, Any]:
        return self.value.get("auths") or {}

    @property
    def helpers(self) -> dict[str, str]:
        helpers: dict[str, Any] = self.value.get("credHelpers") or {}
        return {key: text for key, text in helpers.items() if isinstance(text, str)}

    @property
    def span(self) -> Span:
        return Span(str(self.path), 1)

    @classmethod
    def read(cls, path: Path) -> _Document:
        try:
            # Not blocking: a named pipe that nobody writes to would otherwise hold us here for ever.
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    raise UnusableAuthFile(path, "it is not a regular file")
                raw = file.read(FILE_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise UnusableAuthFile(path, error.strerror or "it cannot be read") from None
        if len(raw) > FILE_LIMIT_BYTES:
            raise UnusableAuthFile(path, f"it is larger than {FILE_LIMIT_BYTES} bytes")
        found = _INDENT.search(raw.decode("utf-8", "replace"))
        return cls(path, _parsed(raw, path), stat.S_IMODE(mode), found[1] if found else "\t")

    def write(self, auths: Mapping[str, Any]) -> list[str]:
        """Write it with other logins, for its owner alone if there is a secret in it; what to say of that."""
        value = {**self.value, "auths": dict(auths)}
        data = json.dumps(value, indent=self.indent).encode() + b"\n"
        secret = any(isinstance(entry, dict) and holds_secret(entry) for entry in auths.values())
        if self.mode is None:
            new_file(self.path, data, mode=0o600)
            return []
        tightened = secret and bool(self.mode & 0o077)
        replace_file(self.path, data, mode=0o600 if tightened else None)
        return [f"others could read {self.path} (mode {self.mode:04o}); it has mode 0600 now"] if tightened else []


def _parsed(raw: bytes, path: Path) -> dict[str, Any]:
    """A JSON object whose sections are objects. An error never holds the text, as that holds secrets."""
    try:
        value = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UnusableAuthFile(path, "it is not a JSON object")
    for section in ("auths", "credHelpers"):
        if not isinstance(value.get(section), dict | None):
            raise UnusableAuthFile(path, f"{section!r} in it is not a JSON object")
    return value
