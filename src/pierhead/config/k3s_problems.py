"""What a person should know of the files that K3s writes: values that break them, keys that hit the wrong place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pierhead.config import toml
from pierhead.config.containerd import DEFAULT_DIRECTORY, Directory
from pierhead.config.k3sfile import HostsFile
from pierhead.config.registries import Config, Mirror, RegistriesConfig, Text
from pierhead.errors import Problem
from pierhead.gourl import go_bytes, path_clean, quote, shown
from pierhead.redact import Secret

Credentials = Mapping[str, Mapping[str, Secret]]

_FIELDS: Final = {"identitytoken": "identity_token"}  # of config.toml, where registries.yaml has another name


def as_read(text: str) -> str | None:
    """What containerd reads of a text that K3s writes between quotes without escaping; None if it cannot."""
    try:
        return toml.basic_string(go_bytes(text))
    except toml.InvalidToml:
        return None


def unusable_problem(made: HostsFile, directory: Directory) -> Problem:
    """Points at the first value that TOML cannot hold, or at the registry."""
    for endpoint in made.endpoints:
        for rule in endpoint.rewrites:
            for text in (rule.pattern, rule.replacement):
                if as_read(text.value) is None:
                    message = f"containerd ignores {directory.path} because of this rewrite: {directory.unusable}"
                    return Problem("unusable-hosts-toml", "error", message, text.span)
    message = f"containerd ignores {directory.path}: {directory.unusable}"
    return Problem("unusable-hosts-toml", "error", message, made.key.span)


def key_problems(config: RegistriesConfig, files: Mapping[str, HostsFile]) -> Iterator[Problem]:
    """What is wrong with the keys of `mirrors` and `configs`, and with the places their files get."""
    keys: dict[str, Config | Mirror] = {**config.configs, **config.mirrors}
    if "*" in keys and DEFAULT_DIRECTORY in keys:
        message = f'"*" and {DEFAULT_DIRECTORY} are written to the same file: K3s picks one at random'
        yield Problem("ambiguous-directory", "warning", message, keys[DEFAULT_DIRECTORY].key.span)
    wildcard = config.configs.get("*")
    if "*" in config.mirrors and wildcard is not None and wildcard.tls is not None:
        message = 'the tls of configs."*" is lost because mirrors."*" exists'
        yield Problem("wildcard-tls-lost", "warning", message, wildcard.tls.span)
    places: dict[str, Text] = {}
    for name, made in files.items():
        place = path_clean(f"/certs.d/{name}")
        yield from _place_problems(made.key, place)
        other = places.setdefault(place, made.key)
        if other is not made.key:
            message = f"{made.key.shown} and {other.shown} are written to the same file: K3s picks one at random"
            yield Problem("ambiguous-directory", "warning", message, made.key.span)


def _place_problems(key: Text, place: str) -> Iterator[Problem]:
    if not place.startswith("/certs.d/"):
        what = "all of certs.d" if place == "/certs.d" else "files outside certs.d, config.toml among them"
        yield Problem("destructive-key", "error", f"K3s deletes {what} because of the key {key.shown!r}", key.span)
    elif "/" in place.removeprefix("/certs.d/"):
        message = f"{key.shown} never matches an image: a registry name has no scheme and no path"
        yield Problem("key-never-matches", "warning", message, key.span)


def auth_problems(config: RegistriesConfig, credentials: Credentials) -> Iterator[Problem]:
    """Values that K3s writes into config.toml in a way that keeps containerd from starting (differences B1)."""
    for key, fields in credentials.items():
        entry = config.configs[key]
        assert entry.auth is not None  # credentials has no others
        if "'" in key or any(character != "\t" and (character < " " or character == "\x7f") for character in key):
            message = f"containerd does not start: it cannot read the key {shown(key)!r} in config.toml"
            yield Problem("containerd-does-not-start", "error", message, entry.key.span)
        for name, value in fields.items():
            if as_read(quote(value.reveal())[1:-1]) is None:
                message = f"containerd does not start: a control character in {name} makes config.toml unreadable"
                field = getattr(entry.auth, _FIELDS.get(name, name))
                yield Problem("containerd-does-not-start", "error", message, field.span)
