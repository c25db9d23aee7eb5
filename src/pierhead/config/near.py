"""Which name was meant: the entry of `configs`, or the endpoint, that is almost the one that is looked for.

K3s looks `configs` up by the exact host[:port] of the endpoint (specification, section 4), so nearly right is wrong.
The kinds of nearly right are those that people write: a scheme, another port or none, the first label of the domain,
capitals, a slip of the finger.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pierhead.config.registries import Config, RegistriesConfig
from pierhead.gourl import split_host_port

Slip = Literal["address", "case", "port", "domain", "spelling"]

PUBLIC: Final = frozenset(
    {
        "docker.io",
        "registry-1.docker.io",
        "index.docker.io",
        "ghcr.io",
        "quay.io",
        "gcr.io",
        "k8s.gcr.io",
        "registry.k8s.io",
        "lscr.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
        "registry.gitlab.com",
        "nvcr.io",
        "icr.io",
        "registry.access.redhat.com",
        "registry.redhat.io",
        "registry.suse.com",
        "registry.rancher.com",
        "docker.elastic.co",
    }
)
_ORDER: Final[tuple[Slip, ...]] = ("address", "case", "port", "domain", "spelling")
_SEPARATORS: Final = re.compile(r"[._-]")
_LONG_ENOUGH: Final = 5  # of a word to be misspelt: `eu` and `us`, `ghcr` and `gcr` are names of their own
_COUNTING: Final = frozenset("abcdef")  # at the end of a word they tell machines apart, as digits do
_NAME_LIMIT_CHARS: Final = 300  # longer ones are nobody's host
_BUCKET_LIMIT: Final = 32  # of names that differ in one and the same word


@dataclass(frozen=True, slots=True)
class Near:
    """A name that is nearly another one, and in what it differs."""

    name: str
    slip: Slip


class Names:
    """Names (host[:port]) to choose from; indexed, so that a thousand questions cost a thousand look-ups."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._index: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for name in sorted(self._names):
            for key in set(_traits(name)):
                self._index[key].append(name)

    def nearest(self, wanted: str) -> tuple[Near, ...]:
        """Those that most likely mean `wanted`, all with the same slip; none if one is equal."""
        if wanted in self._names:
            return ()
        names = {name for key in _questions(wanted) for name in self._index.get(key, ())[:_BUCKET_LIMIT]}
        found = [Near(name, slip) for name in sorted(names) if (slip := _slip(wanted, name))]
        best = min((_ORDER.index(near.slip) for near in found), default=0)
        return tuple(near for near in found if near.slip == _ORDER[best])


def nearest(wanted: str, candidates: Iterable[str]) -> Near | None:
    """The candidate that most likely means `wanted` (host[:port]); None if none does, or if one is equal."""
    return next(iter(Names(candidates).nearest(wanted)), None)


def meant(config: RegistriesConfig, host: str) -> tuple[Config, Slip] | None:
    """The entry of `configs` that was probably written for `host`, which has none of its own."""
    near = nearest(host, config.configs)
    return (config.configs[near.name], near.slip) if near else None


def bare(name: str) -> str:
    """host[:port] of something that may be a URL: without scheme, userinfo and path."""
    rest = name.strip().partition("://")[2] or name.strip()
    return rest.partition("/")[0].rpartition("@")[2]


def host_and_port(name: str) -> tuple[str, str]:
    """The two parts of host[:port], without the brackets of an address; the port is empty if there is none."""
    host, port = split_host_port(name)
    if host:
        return host, port
    return (name[1:-1], "") if name.startswith("[") and name.endswith("]") else (name, "")


def _slip(wanted: str, candidate: str) -> Slip | None:
    one, other = bare(wanted), bare(candidate)
    if not _is_name(one) or not _is_name(other):
        return None
    if one == other:
        return "address"
    if one.lower() == other.lower():
        return "case"
    (host, port), (other_host, other_port) = host_and_port(one.lower()), host_and_port(other.lower())
    if host == other_host:
        return "port"
    if port != other_port and port and other_port:
        return None
    short, long = sorted((host, other_host), key=len)
    if long.startswith(f"{short}."):
        return None if short in PUBLIC else "domain"
    return "spelling" if _misspelt(host, other_host) else None


def _is_name(text: str) -> bool:
    return text not in ("", "*") and len(text) <= _NAME_LIMIT_CHARS


def _misspelt(host: str, other: str) -> bool:
    """Whether two names are one but for a separator, or but for one letter of one word."""
    if host in PUBLIC and other in PUBLIC:
        return False
    if _joined(host) == _joined(other):
        return True
    words, others = _SEPARATORS.split(host), _SEPARATORS.split(other)
    if len(words) != len(others):
        return False
    differing = [(word, wrong) for word, wrong in zip(words, others, strict=True) if word != wrong]
    return len(differing) == 1 and _one_slip(*differing[0])


def _one_slip(one: str, other: str) -> bool:
    """One letter too many, too few, another one, or two that changed places; never in a digit."""
    short, long = sorted((one, other), key=len)
    if len(long) < _LONG_ENOUGH or len(long) - len(short) > 1 or _digits(one) != _digits(other):
        return False
    start = next((at for at, letter in enumerate(short) if letter != long[at]), len(short))
    rest, longer = short[start:], long[start:]
    if len(longer) == 1 and _COUNTING.issuperset(rest + longer):
        return False
    if len(short) < len(long):
        return rest == longer[1:]
    return rest[1:] == longer[1:] or (rest[:2] == longer[1::-1] and rest[2:] == longer[2:])


def _digits(word: str) -> str:
    return "".join(filter(str.isdigit, word))


def _joined(host: str) -> str:
    return _SEPARATORS.sub("", host)


# -- the index: what two names that are near each other have in common ------------------------------------------------


def _traits(name: str) -> Iterator[tuple[str, ...]]:
    """What a name can be found by."""
    host = _host(name)
    yield from _common(host)
    for end in _dots(host):
        yield "beginning", host[:end]


def _questions(name: str) -> Iterator[tuple[str, ...]]:
    """What to look a name's neighbours up by."""
    host = _host(name)
    yield from _common(host)
    yield "beginning", host
    for end in _dots(host):
        yield "host", host[:end]


def _host(name: str) -> str:
    text = bare(name)
    return host_and_port(text.lower())[0] if _is_name(text) else ""


def _common(host: str) -> Iterator[tuple[str, ...]]:
    yield "host", host
    yield "joined", _joined(host)
    words = _SEPARATORS.split(host)
    for index, word in enumerate(words):
        if len(word) >= _LONG_ENOUGH - 1:
            yield "words", *words[:index], f"*{_digits(word)}", *words[index + 1 :]


def _dots(host: str) -> Iterator[int]:
    return (index for index, character in enumerate(host) if character == ".")
