"""Image references and digests: names as people write them, and what they mean.

`Reference.parse` accepts and normalises exactly what containerd's CRI does (distribution/reference v0.6.0,
`ParseDockerRef`): `redis` is `docker.io/library/redis:latest`, `index.docker.io` is `docker.io`, and a tag beside a
digest is dropped. A refused text gets the reason, where it is and what to do, beside Go's own words (`go_text`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pierhead.errors import UsageError
from pierhead.redact import MASK, safe_url

if TYPE_CHECKING:
    import hashlib

HUB: Final = "docker.io"
LEGACY_HUB: Final = "index.docker.io"
OFFICIAL: Final = "library/"
DEFAULT_TAG: Final = "latest"
REPOSITORY_LIMIT: Final = 255  # characters, as distribution/reference: RepositoryNameTotalLengthMax
TAG_LIMIT: Final = 128
HEX_LENGTHS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
SHOWN_LIMIT: Final = 500  # characters; an error does not repeat a longer text

# The grammar of distribution/reference v0.6.0 (its doc comment), as expressions of our own.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{TAG_LIMIT - 1}}}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?:(?P<registry>{_REGISTRY})/)?(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?"
)
_REPOSITORY = re.compile(_PATH)
_IMAGE_ID = re.compile(r"[a-f0-9]{64}")
_HEX = re.compile(r"[0-9a-f]+")
_ALGORITHM = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USERINFO = re.compile(r"[^/]*@(?=[^@]*/)")  # a digest holds no "/", so what stands before this "@" is no name


class InvalidDigest(UsageError):
    """A text that is not a digest of a supported algorithm. `go_text` is how Go's libraries word it."""

    def __init__(self, text: str, reason: str, *, go_text: str = "unsupported digest algorithm") -> None:
        super().__init__(
            f"{_shown(text)} is not a digest: {reason}",
            hint="A digest reads sha256: and 64 hexadecimal digits in lower case.",
        )
        self.text = text
        self.reason = reason
        self.go_text = go_text


class InvalidReference(UsageError):
    """A text that containerd would not take as an image reference: `reason` is the rule, `go_text` Go's error."""

    def __init__(self, text: str, reason: str, *, hint: str, go_text: str) -> None:
        super().__init__(f"{_shown(text)} is not an image reference: {reason}", hint=hint)
        self.text = text
        self.reason = reason
        self.go_text = go_text


@dataclass(frozen=True, slots=True)
class Digest:
    """The name of content: an algorithm and its value in lower-case hexadecimal; `str` gives `sha256:…`.

    Only sha256, sha384 and sha512 exist, with exactly their length; anything else raises InvalidDigest.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        length = HEX_LENGTHS.get(self.algorithm)
        if length is None:
            raise InvalidDigest(str(self), _why_no_algorithm(self.algorithm), go_text=_go_digest_text(self.algorithm))
        if not _HEX.fullmatch(self.hex):
            raise InvalidDigest(str(self), "its value is not hexadecimal in lower case")
        if len(self.hex) != length:
            raise InvalidDigest(str(self), f"{self.algorithm} has {length} hexadecimal digits, not {len(self.hex)}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest that `text` names. Raises InvalidDigest."""
        algorithm, colon, value = text.partition(":")
        if not colon:
            raise InvalidDigest(text, "it has no ':'", go_text="invalid checksum digest format")
        return cls(algorithm, value)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`. For content that is not in memory feed `new_hash`."""
        hashed = _hasher(algorithm)
        hashed.update(data)
        return cls(algorithm, hashed.hexdigest())

    def new_hash(self) -> hashlib._Hash:
        """A fresh hash object of this digest's algorithm, to verify content as it passes."""
        return _hasher(self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's full name: a registry, a repository in it, and a tag or (winning over it) a digest.

    `Reference.parse(str(r)) == r`. Exactly one of `tag` and `digest` is set.
    """

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """What containerd's CRI makes of `text`. Raises InvalidReference.

        As distribution/reference v0.6.0: ParseDockerRef in normalize.go.
        """
        if _IMAGE_ID.fullmatch(text):
            raise _refused(text, f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
        registry, remainder = _split(text)
        path = remainder.partition(":")[0]
        if path.lower() != path:
            raise _refused(text, f"invalid reference format: repository name ({path}) must be lowercase")
        match = _REFERENCE.fullmatch(f"{registry}/{remainder}")
        if match is None:
            raise _refused(text, _go_format_text(f"{registry}/{remainder}"))
        if len(match["path"]) > REPOSITORY_LIMIT:
            raise _refused(text, f"repository name must not be more than {REPOSITORY_LIMIT} characters")
        # A registry with an underscore is none in the grammar, so all of the name is its path there; containerd then
        # asks the host before the first slash all the same (core/remotes: reference.Spec.Hostname).
        repository = match["path"] if match["registry"] else match["path"].partition("/")[2]
        return cls._made(text, registry, repository, match)

    @classmethod
    def _made(cls, text: str, registry: str, repository: str, match: re.Match[str]) -> Reference:
        if match["digest"] is None:
            return cls(registry, repository, match["tag"] or DEFAULT_TAG, None)
        try:
            return cls(registry, repository, None, Digest.parse(match["digest"]))
        except InvalidDigest as error:
            reason = f"the digest after '@' is unusable, {error.reason}"
            raise InvalidReference(text, reason, hint=error.hint, go_text=error.go_text) from None

    @property
    def name(self) -> str:
        """Registry and repository, as in `docker.io/library/redis`."""
        return f"{self.registry}/{self.repository}"

    @property
    def object(self) -> str:
        """What a registry is asked for after `manifests/`: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else str(self.tag)

    @property
    def familiar(self) -> str:
        """The short form that Docker shows: without docker.io, and without library/ before a single name."""
        name = self.name
        if self.registry == HUB:
            short = self.repository.removeprefix(OFFICIAL)
            name = self.repository if "/" in short else short
        return name + self._suffix()

    def _suffix(self) -> str:
        return f"@{self.digest}" if self.digest else f":{self.tag}"

    def __str__(self) -> str:
        return self.name + self._suffix()


def tag_beside_digest(text: str) -> str:
    """The tag that a name writes beside its digest, which containerd drops and `Reference` with it; empty if none."""
    name, at, _ = text.partition("@")
    return name.rpartition("/")[2].partition(":")[2] if at else ""


def is_repository(text: str) -> bool:
    """Whether a text is a repository's name, without a registry and without a tag."""
    return len(text) <= REPOSITORY_LIMIT and _REPOSITORY.fullmatch(text) is not None


def _hasher(algorithm: str) -> hashlib._Hash:
    import hashlib  # late: it loads OpenSSL

    if algorithm not in HEX_LENGTHS:
        raise InvalidDigest(f"{algorithm}:", _why_no_algorithm(algorithm))
    return hashlib.new(algorithm)


def _split(text: str) -> tuple[str, str]:
    """The registry and the rest, before anything is checked. As distribution/reference: splitDockerDomain."""
    first, slash, rest = text.partition("/")
    if not slash:
        return HUB, OFFICIAL + text
    if first == LEGACY_HUB:
        first = HUB
    elif not (first == "localhost" or "." in first or ":" in first or first.lower() != first):
        first, rest = HUB, text
    if first == HUB and "/" not in rest:
        rest = OFFICIAL + rest
    return first, rest


# Why a text is refused. Go says little more than "invalid reference format"; what follows only words the refusal.


def _refused(text: str, go_text: str) -> InvalidReference:
    reason, hint = next(finding for rule in _RULES if (finding := rule(text)))
    return InvalidReference(text, reason, hint=hint, go_text=go_text)


def _go_format_text(full: str) -> str:
    if _REFERENCE.fullmatch(full.lower()):
        return "repository name must be lowercase"
    return "invalid reference format"


def _go_digest_text(algorithm: str) -> str:
    return "unsupported digest algorithm" if _ALGORITHM.fullmatch(algorithm) else "invalid checksum digest format"


def _why_no_algorithm(algorithm: str) -> str:
    return f"the algorithm {_shown(algorithm)} is not one of {', '.join(HEX_LENGTHS)}"


def _shown(text: str) -> str:
    """`text` fit to be printed: control characters escaped, no credentials, not endless."""
    if len(text) > SHOWN_LIMIT:
        return f"a text of {len(text)} characters"
    userinfo = _USERINFO.match(text)
    safe = f"{MASK}@{text[userinfo.end() :]}" if userinfo else safe_url(text) if _SCHEME.match(text) else text
    return repr(safe)


Finding = tuple[str, str] | None  # the reason and a hint


def _odd_character(text: str) -> Finding:
    for position, character in enumerate(text, 1):
        if character.isspace() or not character.isprintable():
            return f"character {position} is {character!r}", "Remove white space and control characters."
    return None


def _empty(text: str) -> Finding:
    return None if text else ("it is empty", "Write a name such as redis:7 or registry.example/team/app:1.0.")


def _scheme(text: str) -> Finding:
    if not (match := _SCHEME.match(text)):
        return None
    return f"it starts with the scheme {match[0]}", f"Write it without {match[0]}; the scheme belongs to an endpoint."


def _userinfo(text: str) -> Finding:
    if not _USERINFO.match(text):
        return None
    return "it holds a user name before '@'", "Leave credentials out; they belong under configs.<host>.auth."


def _image_id(text: str) -> Finding:
    if not _IMAGE_ID.fullmatch(text):
        return None
    return "64 hexadecimal digits alone are an image id", "Write name@sha256:<digits> to pull by digest."


def _slashes(text: str) -> Finding:
    if "//" in text or text.startswith("/") or text.endswith("/"):
        return "a part between slashes is empty", "Remove the extra '/'."
    return None


def _registry(text: str) -> Finding:
    first, slash, _ = text.partition("/")
    registry = _split(text)[0]
    if not slash or registry == HUB or re.fullmatch(_REGISTRY, registry) or re.fullmatch(_COMPONENT, registry):
        return None
    return (
        f"{_shown(first)} before the first '/' is not a registry",
        "A registry is a host name, an IPv4 address or an IPv6 address in brackets, and may end in ':' and a port.",
    )


def _digest(text: str) -> Finding:
    _, at, digest = text.partition("@")
    if not at or re.fullmatch(_DIGEST, digest):
        return None
    return f"{_shown(digest)} after '@' is not a digest", "A digest reads sha256: and 64 hexadecimal digits."


def _tag(text: str) -> Finding:
    last = text.partition("@")[0].rpartition("/")[2]
    _, colon, tag = last.partition(":")
    if not colon or re.fullmatch(_TAG, tag):
        return None
    hint = f"A tag is 1 to {TAG_LIMIT} of A-Z a-z 0-9 _ . - and does not start with '.' or '-'."
    if not tag:
        return "the tag after ':' is empty", hint
    if len(tag) > TAG_LIMIT:
        return f"the tag has {len(tag)} characters, more than {TAG_LIMIT}", hint
    return f"{_shown(tag)} after ':' is not a tag", hint


def _repository(text: str) -> Finding:
    path = re.split("[:@]", _split(text)[1], maxsplit=1)[0]
    if path.lower() != path:
        return f"the repository {_shown(path)} has upper-case letters", f"Write {_shown(path.lower())}."
    for component in path.split("/"):
        if not re.fullmatch(_COMPONENT, component):
            return (
                f"{_shown(component)} is not a part of a repository name",
                "Each part is a-z and 0-9, joined by one '.', one or two '_', or any number of '-'.",
            )
    if len(path) > REPOSITORY_LIMIT:
        return f"the repository has {len(path)} characters, more than {REPOSITORY_LIMIT}", "Use a shorter name."
    return None


def _otherwise(text: str) -> Finding:
    return "it does not read [registry/]repository[:tag][@digest]", f"Compare {_shown(text)} with redis:7."


_RULES: Final[tuple[Callable[[str], Finding], ...]] = (
    _empty,
    _odd_character,
    _scheme,
    _userinfo,
    _image_id,
    _slashes,
    _registry,
    _digest,
    _tag,
    _repository,
    _otherwise,
)
