"""Names of registries as the rules speak of them: what stands for Docker Hub, what for all, what images are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pierhead.check.finding import Fix
from pierhead.check.patterns import visible
from pierhead.check.subject import Subject
from pierhead.config.registries import Config, Mirror, Text
from pierhead.gourl import shown

SPOKEN_LIMIT: Final = 100  # characters of a name in a message

HUB: Final = "docker.io"
NEVER_HUB: Final = ("hub.docker.com", "www.docker.com", "docker.com")  # no registry answers there
HUB_ALIASES: Final = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", *NEVER_HUB)
WILDCARDS: Final = ("*", "_default")

_MISLEADING: Final = re.compile(r"[\s\"'\\]|^$")

Named = Mapping[str, Mirror] | Mapping[str, Config]


def spoken(text: str) -> str:
    """A name, an address or a path in a message: as it is, or between backquotes where that would mislead.

    The middle of a long one is left out.
    """
    if text == "*":
        return '"*"'
    plain = shown(text)
    if len(plain) > SPOKEN_LIMIT:
        plain = f"{plain[: SPOKEN_LIMIT // 2]}…{plain[-SPOKEN_LIMIT // 2 :]}"
    return plain if plain.isprintable() and not _MISLEADING.search(plain) else visible(plain)


def renamed(subject: Subject, key: Text, name: str, *, taken: Named) -> Fix | None:
    """Another name for an entry, if it is free."""
    if not name or name in taken:
        return None
    return subject.source.fix(f"rename the key to {spoken(name)}", subject.source.rewritten(key.span, name))


def listed(subject: Subject) -> set[str]:
    """The registries of the list of images."""
    return {image.reference.registry for image in subject.circumstances.images or ()}
