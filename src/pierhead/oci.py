"""Descriptors, platforms and manifests as the OCI image specification 1.1 and Docker schema 2 define them.

The raw bytes of a manifest are the truth: what is parsed here is a view of them and is never written back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.reference import Digest

# As containerd: core/remotes/docker/resolver.go MaxManifestSize = 4 * 1048 * 1048; a manifest of just this size passes.
MANIFEST_LIMIT_BYTES: Final = 4_393_216
# An index inside an index inside … : deeper than any tool writes, shallow enough to walk without care.
INDEX_DEPTH_LIMIT: Final = 8
JSON_ITEMS_LIMIT: Final = 10_000
PLATFORM_SHOWN_CHARS: Final = 100

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA_1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
SCHEMA_1_TYPES: Final = frozenset({DOCKER_SCHEMA_1, DOCKER_SCHEMA_1_SIGNED, "text/plain"})
# As containerd: resolver.go, the Accept header of a resolve.
ACCEPT_MANIFESTS: Final = ", ".join((DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"))


class InvalidManifest(PierheadError):
    """The bytes are no manifest of a kind that is understood."""


class NoMatchingPlatform(PierheadError):
    """An index has no image for a platform that was asked for."""

    exit_code = ExitCode.NOT_FOUND  # As containerd: "no match for platform in manifest: not found".


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and processor, normalised as containerd's platforms package does (x86_64 is amd64 …)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = field(default="", compare=False)

    def __str__(self) -> str:
        """As people write it. An index may say anything: of that, what can be printed."""
        text = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        if text.isprintable() and len(text) <= PLATFORM_SHOWN_CHARS:
            return text
        return "".join(char if char.isprintable() else "\ufffd" for char in text[:PLATFORM_SHOWN_CHARS])

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`os/arch[/variant]`, or `arch` alone for Linux; raises `InvalidPlatform`."""
        parts = text.strip().lower().split("/")
        if len(parts) == 1:
            parts = ["linux", *parts]
        if len(parts) > 3 or not all(part.replace("_", "").replace("-", "").isalnum() for part in parts):
            raise InvalidPlatform(text)
        return cls.of(parts[0], parts[1], parts[2] if len(parts) == 3 else "")

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "", *, os_version: str = "") -> Platform:
        """The normalised platform of the given names."""
        architecture, variant = _normal_architecture(architecture.lower(), variant.lower())
        return cls("darwin" if os == "macos" else os.lower(), architecture, variant, os_version)

    @classmethod
    def here(cls) -> Platform:
        """The platform of this machine."""
        here = os.uname()
        return cls.of(here.sysname, here.machine)

    @property
    def is_unknown(self) -> bool:
        """Whether nothing runs it: so BuildKit marks the attestations in an index."""
        return self.os == "unknown"

    @classmethod
    def of_config(cls, value: object) -> Platform | None:
        """What an image's configuration says that it is for (image specification 1.1, config.md); None if nothing."""
        named = value if isinstance(value, dict) else {}
        names = (named.get("os"), named.get("architecture"), named.get("variant") or "")
        if not all(isinstance(name, str) for name in names) or not names[0] or not names[1]:
            return None
        return cls.of(*map(str, names))

    def accepts(self, offered: Platform) -> int | None:
        """How good a match `offered` is for this machine, 0 the best; None if it does not run here.

        As containerd: platforms.Only, which also takes the older variants that a processor runs.
        """
        wanted = _runs_on(self)
        return (
            wanted.index((offered.architecture, offered.variant))
            if self.os == offered.os and ((offered.architecture, offered.variant) in wanted)
            else None
        )


class InvalidPlatform(UsageError):
    """A platform is written os/arch[/variant]."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not a platform", hint="write os/arch[/variant], such as linux/arm64 or linux/arm/v7"
        )


def _normal_architecture(architecture: str, variant: str) -> tuple[str, str]:
    # As containerd: platforms/database.go normalizeArch.
    match architecture, variant:
        case ("i386" | "i686" | "386", _):
            return "386", ""
        case ("x86_64" | "x86-64" | "amd64", "v1"):
            return "amd64", ""
        case ("x86_64" | "x86-64" | "amd64", _):
            return "amd64", variant
        case ("aarch64" | "arm64" | "armv8l", "" | "8" | "v8"):
            return "arm64", ""
        case ("aarch64", _):
            return "arm64", variant
        case ("armhf" | "armv7l", _):
            return "arm", "v7"
        case ("armel" | "armv6l", _):
            return "arm", "v6"
        case ("arm", "" | "7"):
            return "arm", "v7"
        case ("arm", "5" | "6" | "8"):
            return "arm", f"v{variant}"
    return architecture, variant


def _runs_on(machine: Platform) -> list[tuple[str, str]]:
    # As containerd: platforms/compare.go platformVector.
    architecture, variant = machine.architecture, machine.variant
    vector = [(architecture, variant)]
    older = {"arm": 5, "amd64": 1}.get(architecture)
    if older is not None and variant[1:].isdigit():
        vector += [(architecture, f"v{number}") for number in range(int(variant[1:]) - 1, older - 1, -1)]
    if architecture == "amd64":
        vector += [("amd64", ""), ("386", "")]
    if architecture == "arm64":
        vector += [("arm64", ""), *(("arm", f"v{number}") for number in (8, 7, 6, 5))]
    return list(dict.fromkeys(vector))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What content is: its media type, digest and size in bytes; `urls` are for foreign layers."""

    media_type: str
    digest: Digest
    size_bytes: int
    urls: tuple[str, ...] = ()
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    artifact_type: str = ""

    @property
    def is_manifest(self) -> bool:
        """Whether this is served under manifests/ (an index is, too)."""
        return self.media_type in INDEX_TYPES or self.media_type in MANIFEST_TYPES

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the image specification (descriptor.md)."""
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size_bytes,
        }
        if self.urls:
            value["urls"] = list(self.urls)
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform:
            names = {
                "architecture": self.platform.architecture,
                "os": self.platform.os,
                "variant": self.platform.variant,
            }
            value["platform"] = {key: name for key, name in names.items() if name}
        return value

    @classmethod
    def from_json(cls, value: object) -> Descriptor:
        """The descriptor of a parsed JSON object; raises `InvalidManifest` or `InvalidDigest`."""
        item = _object(value, "a descriptor")
        size = item.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidManifest(f"a descriptor has the size {size!r}")
        return cls(
            media_type=_text(item, "mediaType"),
            digest=Digest.parse(_text(item, "digest")),
            size_bytes=size,
            urls=tuple(url for url in _list(item, "urls") if isinstance(url, str)),
            platform=_platform(item.get("platform")),
            annotations=_annotations(item),
            artifact_type=_text(item, "artifactType"),
        )


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """One image, or one artifact: a configuration and layers."""

    raw: bytes = field(repr=False)
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)

    @property
    def references(self) -> tuple[Descriptor, ...]:
        """Everything that belongs to it, each digest once: the configuration first."""
        return tuple({item.digest: item for item in (self.config, *self.layers)}.values())


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, usually one for each platform; the items may be indexes again."""

    raw: bytes = field(repr=False)
    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)

    @property
    def references(self) -> tuple[Descriptor, ...]:
        """Everything that belongs to it, each digest once."""
        return tuple({item.digest: item for item in self.manifests}.values())

    def select(self, wanted: Platform) -> Descriptor:
        """The best match for a machine, as containerd picks it; raises `NoMatchingPlatform`.

        Items without a platform (a nested index, or an attestation-free single image) match every machine, last.
        """
        ranked = [
            (rank, position)
            for position, item in enumerate(self.manifests)
            if (rank := _rank(item, wanted)) is not None
        ]
        if not ranked:
            offered = ", ".join(sorted({str(item.platform) for item in self.manifests if item.platform})) or "none"
            raise NoMatchingPlatform(f"no image for {wanted}", hint=f"the index offers: {offered}")
        return self.manifests[min(ranked)[1]]


Manifest = ImageManifest | Index


def _rank(item: Descriptor, wanted: Platform) -> int | None:
    if item.platform is None:
        return 1000 if item.is_manifest else None
    return wanted.accepts(item.platform)


def parse_manifest(raw: bytes, media_type: str) -> Manifest:
    """The manifest in `raw`; `media_type` is what the registry or descriptor called it, the body's own word wins if it
    is one we know. Raises `InvalidManifest` (schema 1, not JSON, wrong shape), `InvalidDigest`."""
    value = _parse_json(raw)
    kind = _kind(value, media_type)
    subject = Descriptor.from_json(value["subject"]) if value.get("subject") is not None else None
    artifact_type, annotations = _text(value, "artifactType"), _annotations(value)
    if kind in INDEX_TYPES:
        items = tuple(Descriptor.from_json(item) for item in _list(value, "manifests"))
        return Index(raw, kind, items, subject, artifact_type, annotations)
    config = Descriptor.from_json(value.get("config"))
    layers = tuple(Descriptor.from_json(item) for item in _list(value, "layers"))
    return ImageManifest(raw, kind, config, layers, subject, artifact_type or config.media_type, annotations)


def _parse_json(raw: bytes) -> dict[str, Any]:
    if len(raw) > MANIFEST_LIMIT_BYTES:
        raise InvalidManifest(f"a manifest of {len(raw)} bytes; the limit is {MANIFEST_LIMIT_BYTES}")
    try:
        return _object(json.loads(raw), "a manifest")
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"a manifest that is not JSON: {type(error).__name__}") from error


def _kind(value: Mapping[str, Any], media_type: str) -> str:
    known = INDEX_TYPES | MANIFEST_TYPES
    schema, own = value.get("schemaVersion"), value.get("mediaType")
    if schema == 1 or media_type in {DOCKER_SCHEMA_1, DOCKER_SCHEMA_1_SIGNED}:
        raise InvalidManifest(
            "a Docker schema 1 manifest, which containerd no longer takes either (since 2.1)",
            hint="push the image again with a current tool; it becomes schema 2 or OCI",
        )
    for name in (own, media_type):
        if isinstance(name, str) and name in known:
            return name
    # As containerd: images/mediatypes.go and image.go tell a manifest without a usable type by its keys.
    if "manifests" in value:
        return OCI_INDEX
    if "config" in value and "layers" in value:
        return OCI_MANIFEST
    raise InvalidManifest(f"neither an image manifest nor an index (media type {media_type!r})")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidManifest(f"{what} is not a JSON object")
    return value


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key, "")
    if not isinstance(text, str):
        raise InvalidManifest(f"{key} is not a string")
    return text


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    items = value.get(key)
    if items is None:
        return []
    if not isinstance(items, list) or len(items) > JSON_ITEMS_LIMIT:
        raise InvalidManifest(f"{key} is not a list of at most {JSON_ITEMS_LIMIT} items")
    return items


def _annotations(value: Mapping[str, Any]) -> dict[str, str]:
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InvalidManifest("annotations is not an object")
    return {key: text for key, text in annotations.items() if isinstance(text, str)}


def _platform(value: object) -> Platform | None:
    if not isinstance(value, dict) or not value.get("architecture"):
        return None
    version = value.get("os.version")
    return Platform.of(
        str(value.get("os", "")),
        str(value["architecture"]),
        str(value.get("variant") or ""),
        os_version=version if isinstance(version, str) else "",
    )
