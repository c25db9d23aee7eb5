"""Releases of K3s and RKE2, and what changed between them in the meaning of registries.yaml.

One table, `FACTS`, dates every change: specification, section 1.4, the threads named there, and for the first three
months of certs.d K3s' pkg/agent/containerd/config.go as released. Each fact is worded so that it holds in current K3s.
A fix is in the releases of each minor branch that got it, in every later branch, and never in an earlier one.

Left out, as they change no meaning: the embedded registry's way from experimental to general availability, the watched
images directory, conditional import, containerd 2.0 as such (its error texts differ), imports of the v3 template, the
warning about templates without credentials.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import lru_cache, total_ordering
from typing import Final, Literal

from pierhead.errors import UsageError

Program = Literal["k3s", "rke2"]

_VERSION = re.compile(
    r"v?(?P<major>0|[1-9]\d{0,3})\.(?P<minor>0|[1-9]\d{0,3})"
    r"(?:\.(?P<patch>0|[1-9]\d{0,3})(?:-(?P<stage>alpha|beta|rc)\.?(?P<number>\d{1,3}))?"
    r"(?:[+-](?P<program>k3s|rke2)(?P<r>r?)\.?(?P<build>\d{1,3}))?)?",
    re.ASCII,
)
_PROGRAMS: Final[dict[str, Program]] = {"k3s": "k3s", "rke2": "rke2"}
_SHOWN_LIMIT: Final = 60
_LAST: Final = 1 << 30  # what is left out of a version is the newest there is


class InvalidVersion(UsageError):
    """A text that names no release of K3s or RKE2."""

    def __init__(self, text: str) -> None:
        shown = text if len(text) <= _SHOWN_LIMIT else f"{text[:_SHOWN_LIMIT]}…"
        super().__init__(
            f"{shown!r} is not a version of K3s or RKE2",
            hint="write it as v1.31.4+k3s1, v1.31.4+rke2r1, 1.31.4 or v1.31; `k3s --version` prints it",
        )


@total_ordering
@dataclass(frozen=True, slots=True)
class K3sVersion:
    """A release: `v1.28.6+k3s1`, also `1.28.6`, `v1.28`, `v1.30.0-rc1+k3s1`, `v1.28.6+rke2r1`, `v1.28.6-k3s1` (a tag).

    What is left out is the newest there is, as in K3s' release channels: `v1.28` is the last release of that minor, and
    `v1.28.6` the last build of it. Ordered by release, then build; candidates stand before their release.
    """

    major: int
    minor: int
    patch: int | None = None
    candidate: tuple[str, int] | None = None
    program: Program | None = None
    build: int | None = None

    @classmethod
    def parse(cls, text: str) -> K3sVersion:
        """Raises `InvalidVersion`."""
        found = _VERSION.fullmatch(text.strip())
        if found is None or (found["program"] == "rke2") != bool(found["r"]):
            raise InvalidVersion(text)
        return cls(
            int(found["major"]),
            int(found["minor"]),
            int(found["patch"]) if found["patch"] else None,
            (found["stage"], int(found["number"])) if found["stage"] else None,
            _PROGRAMS.get(found["program"]),
            int(found["build"]) if found["build"] else None,
        )

    def __str__(self) -> str:
        patch = "" if self.patch is None else f".{self.patch}"
        candidate = "-{}{}".format(*self.candidate) if self.candidate else ""
        build = {"k3s": f"+k3s{self.build}", "rke2": f"+rke2r{self.build}", None: ""}[self.program]
        return f"v{self.major}.{self.minor}{patch}{candidate}{build}"

    @property
    def branch(self) -> tuple[int, int]:
        """Major and minor: fixes come to each of them apart."""
        return self.major, self.minor

    @property
    def release(self) -> tuple[int, int, int, int]:
        """What a candidate is one of: a fix is in its candidates too (they are what it is validated with)."""
        patch = _LAST if self.patch is None else self.patch
        return self.major, self.minor, patch, _LAST if self.build is None else self.build

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, K3sVersion):
            return NotImplemented
        return self._key() < other._key()

    def _key(self) -> tuple[int, int, int, bool, tuple[str, int], int, str]:
        major, minor, patch, build = self.release
        return major, minor, patch, self.candidate is None, self.candidate or ("", 0), build, self.program or ""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a release does, as the facts of `FACTS` by name; current K3s has all of them."""

    registries_file: bool = True
    identity_token: bool = True
    quoted_credentials: bool = True
    insecure_skip_verify: bool = True
    rewrites: bool = True
    certs_d: bool = True
    rewrites_spare_default: bool = True
    disable_default_endpoint: bool = True
    embedded_registry: bool = True
    bare_endpoints: bool = True
    wildcard_falls_back: bool = True
    default_listed_last: bool = True
    duplicates_harmless: bool = True
    config_of_default: bool = True
    default_only_file: bool = True
    foreign_directories: bool = True
    rewritten_scope: bool = True
    docker_io_credentials: bool = True


CURRENT: Final = Behaviour()


@dataclass(frozen=True, slots=True)
class Fact:
    """One difference between releases. `holds` and `fails` say what K3s does with it and without it.

    `since`: the first release with it, for each minor branch that got it; empty: from the beginning. `lost`: where it
    failed again: the first release without it, and the first of that branch with it again ("": none). `evidence`:
    commits of K3s unless another repository is named, and threads.
    """

    name: str
    holds: str
    fails: str
    since: tuple[str, ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    evidence: tuple[str, ...] = ()
    only: Program | None = None

    def of(self, version: K3sVersion) -> bool:
        """Whether it holds in this release."""
        if self.only is not None and (version.program or "k3s") != self.only:
            return True
        return self._reached(version) and not any(_within(version, *gap) for gap in self.lost)

    def _reached(self, version: K3sVersion) -> bool:
        firsts = {K3sVersion.parse(text).branch: text for text in self.since}
        if not firsts or version.branch > max(firsts):
            return True
        return version.branch in firsts and version.release >= _first(firsts[version.branch])

    def cures(self, version: K3sVersion) -> tuple[str, ...]:
        """The later releases in which it came or was corrected: of the branch of `version`, else of each."""
        return _nearest(tuple(text for text in self._cures() if _first(text) > version.release), version)

    def turns(self, old: K3sVersion, new: K3sVersion) -> tuple[str, ...]:
        """The releases on the way in which it came, was lost or corrected: of the newer one's branch, else of each.

        If the newer one has it not yet: those that it comes with.
        """
        lower, upper = sorted((old, new))
        if not self._reached(upper):
            return self.cures(upper)
        texts = self._cures() if self.of(upper) else tuple(start for start, _ in self.lost)
        return _nearest(tuple(text for text in texts if lower.release < _first(text) <= upper.release), upper)

    def dated(self, old: K3sVersion, new: K3sVersion) -> str:
        """Since or until when it is as it is in `new`, for people: "since v1.28.6+k3s1"."""
        texts = self.turns(old, new)
        word = "since" if old < new and self._reached(new) else "until"
        return f"{word} {', '.join(texts)}" if texts else ""

    def _cures(self) -> tuple[str, ...]:
        return (*self.since, *(end for _, end in self.lost if end))


def _nearest(texts: tuple[str, ...], version: K3sVersion) -> tuple[str, ...]:
    own = tuple(text for text in texts if K3sVersion.parse(text).branch == version.branch)
    found = own or texts
    # The table counts builds of K3s; RKE2 takes the same release over.
    return tuple(text.partition("+")[0] for text in found) if version.program == "rke2" else found


def _within(version: K3sVersion, start: str, end: str) -> bool:
    if version.branch != K3sVersion.parse(start).branch or version.release < _first(start):
        return False
    return not end or version.release < _first(end)


def _first(text: str) -> tuple[int, int, int, int]:
    """The release of a row of the table: without a build, its first one."""
    version = K3sVersion.parse(text)
    return version.release if version.build is not None else (*version.release[:3], 0)


@lru_cache(maxsize=256)
def behaviour(version: K3sVersion) -> Behaviour:
    """What this release does."""
    return Behaviour(**{fact.name: fact.of(version) for fact in FACTS})


def differing(old: Behaviour, new: Behaviour) -> tuple[Fact, ...]:
    """The facts that are not the same in both."""
    return tuple(fact for fact in FACTS if getattr(old, fact.name) != getattr(new, fact.name))


_JANUARY_2024: Final = ("v1.26.13+k3s1", "v1.27.10+k3s1", "v1.28.6+k3s1", "v1.29.1+k3s1")
_MARCH_2024: Final = ("v1.26.15+k3s1", "v1.27.12+k3s1", "v1.28.8+k3s1", "v1.29.3+k3s1")
_WINTER: Final = tuple(zip(_JANUARY_2024, _MARCH_2024, strict=True))

FACTS: Final = (
    Fact(
        "registries_file",
        "registries.yaml is read",
        "registries.yaml is not read",
        since=("v0.10.0",),
        evidence=("5ccc880dd",),
    ),
    Fact(
        "identity_token",
        "identity_token is used",
        "identity_token is written under a name that containerd does not know, and never used",
        since=("v1.0.1", "v1.17.2+k3s1"),
        evidence=("6875b11dd",),
    ),
    Fact(
        "quoted_credentials",
        "a user name or password may hold quotes and backslashes",
        'a backslash in a user name or password is read as an escape of TOML, and a " keeps containerd from starting',
        since=("v1.17.5+k3s1", "v1.18.2+k3s1"),
        evidence=("cd0b58e92 (April 2020; the first releases after it)",),
    ),
    Fact(
        "insecure_skip_verify",
        "insecure_skip_verify is known",
        "insecure_skip_verify is not known, and certificates are verified",
        since=("v1.19.1+k3s1",),
        evidence=("cf8c101b7", "k3s#2097"),
    ),
    Fact(
        "rewrites",
        "rewrite is known",
        "rewrite is not known, and repositories keep their names",
        since=("v1.21.0+k3s1",),
        evidence=("618b0f98b", "k3s#3064"),
    ),
    Fact(
        "certs_d",
        'mirrors are written to certs.d, a hosts.toml for each name; one under configs keeps "*" away from its images',
        "mirrors are written into config.toml, with containerd's older rules for them",
        since=_JANUARY_2024,
        evidence=("c45524e66", "k3s#5568"),
    ),
    Fact(
        "rewrites_spare_default",
        "rewrites do not apply to the registry's own default endpoint",
        "rewrites apply to the registry's own default endpoint as well",
        since=_JANUARY_2024,
        evidence=("c45524e66", "k3s#7007", "rke2#6447", "rke2#7431"),
    ),
    Fact(
        "disable_default_endpoint",
        "--disable-default-registry-endpoint exists",
        "--disable-default-registry-endpoint does not exist",
        since=_JANUARY_2024,
        evidence=("c45524e66",),
    ),
    Fact(
        "embedded_registry",
        "--embedded-registry exists",
        "--embedded-registry does not exist",
        since=_JANUARY_2024,
        evidence=("37e9b87f6",),
    ),
    Fact(
        "bare_endpoints",
        "an endpoint may be a bare host name or IP address",
        "an endpoint that is a bare host name is asked without /v2, a bare IP address is dropped",
        lost=tuple((first, first.replace("+k3s1", "+k3s2")) for first in _JANUARY_2024),
        evidence=("29848dea3", "k3s#9322", "rke2#5348"),
        only="k3s",  # the same releases of RKE2 came out with the fix in them
    ),
    Fact(
        "wildcard_falls_back",
        'behind the endpoints of "*" the registry itself is asked',
        'behind the endpoints of "*" nobody is asked, not even the registry itself',
        lost=(*_WINTER, ("v1.31.6+k3s1", "v1.31.7+k3s1"), ("v1.32.2+k3s1", "v1.32.3+k3s1")),
        evidence=("bba3e3c66", "k3s#9728", "k3s#11857"),
    ),
    Fact(
        "default_listed_last",
        "a mirror may list its registry's own endpoint in last place",
        "a mirror that lists its registry's own endpoint in last place loses all of its endpoints",
        lost=_WINTER,
        evidence=("b164d7a27", "k3s#9341", "k3s#9626"),
    ),
    Fact(
        "duplicates_harmless",
        "an endpoint that is listed twice does no harm",
        "an endpoint that is listed twice makes containerd ignore the mirror (duplicated tables)",
        lost=_WINTER,
        evidence=("fe2ca9ecf", "k3s#9693", "k3s#9694"),
    ),
    Fact(
        "config_of_default",
        "the tls of an entry of configs is used for the registry itself, also behind its mirrors",
        "the tls of an entry of configs is not used for the registry behind its mirrors",
        lost=_WINTER,
        evidence=("b164d7a27", "k3s#9341", "k3s#9556"),
    ),
    Fact(
        "default_only_file",
        "the tls of a registry without a mirror is used",
        "the tls of a registry without a mirror is lost: containerd ignores a hosts.toml without a host",
        lost=(
            ("v1.26.15+k3s1", ""),
            ("v1.27.12+k3s1", "v1.27.13+k3s1"),
            ("v1.28.8+k3s1", "v1.28.9+k3s1"),
            ("v1.29.3+k3s1", "v1.29.4+k3s1"),
        ),
        evidence=("f2961fb5d", "k3s#9839", "k3s#9983", "containerd#10027"),
    ),
    Fact(
        "foreign_directories",
        "directories of certs.d that K3s did not make survive a restart",
        "everything in certs.d is removed at each start of K3s",
        since=("v1.28.14+k3s1", "v1.29.9+k3s1", "v1.30.5+k3s1", "v1.31.1+k3s1"),
        evidence=("270f85e46", "d6c20b745"),
    ),
    Fact(
        "rewritten_scope",
        "the token for a rewritten image is asked for the rewritten repository",
        "the token for a rewritten image is asked for the repository before the rewrite",
        since=("v1.29.11+k3s1", "v1.30.7+k3s1", "v1.31.3+k3s1", "v1.32.0+k3s1"),
        evidence=("k3s-io/containerd 48894d6f5", "k3s#11191"),
    ),
    Fact(
        "docker_io_credentials",
        "credentials under docker.io or index.docker.io are used for registry-1.docker.io",
        "credentials for docker.io are used only if they stand under registry-1.docker.io",
        since=("v1.31.11+k3s1", "v1.32.7+k3s1", "v1.33.3+k3s1"),
        evidence=("0d48c8eb4", "k3s#12561", "containerd#12053"),
    ),
)

assert [fact.name for fact in FACTS] == [field.name for field in fields(Behaviour)]
