"""Which values of a file are secrets, and which only hold the place of one. Nothing here shows any."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pierhead.config.registries import Auth, RegistriesConfig, SecretText

# <password>, ${PASSWORD}, {{ password }}, %PASSWORD%, @@PASSWORD@@, ENC[AES256_GCM,…] of sops, xxxxxx, ****
_PLACEHOLDER: Final = re.compile(
    r"(?i)<[^<>]*>|\$\{.*\}|\$[A-Z_][A-Z0-9_]*|\{\{.*\}\}|%\w+%|@@?\w+@@?|ENC\[.*\]|x{3,}|\*{3,}|\.{3}|…"
)


def is_placeholder(text: str) -> bool:
    """Whether a value is to be replaced before the file is used."""
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def secrets_of(auth: Auth) -> tuple[SecretText, ...]:
    """What an `auth` holds that nobody may see."""
    fields = (auth.password, auth.auth, auth.identity_token)
    return tuple(field for field in fields if field and not is_placeholder(field.value.reveal()))


def auths_with_secrets(config: RegistriesConfig) -> Iterator[Auth]:
    """Every `auth` of the file that holds a real secret."""
    return (entry.auth for entry in config.configs.values() if entry.auth and secrets_of(entry.auth))
