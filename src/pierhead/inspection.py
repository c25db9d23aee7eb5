"""An image looked at: what it is, for which platforms there is one, and what its configuration says.

Only small things are read: manifests, and the configuration of one image. Everything in them was written by somebody
else; who prints it makes it one line first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pierhead import tree
from pierhead.body import Blob, read_all
from pierhead.chosen import image_for
from pierhead.errors import PierheadError, Problem
from pierhead.oci import (
    CONFIG_TYPES,
    Descriptor,
    ImageManifest,
    Index,
    Manifest,
    NoMatchingPlatform,
    Platform,
)
from pierhead.reference import Digest
from pierhead.store import ContentMismatch, Source, checked

CONFIG_LIMIT_BYTES: Final = 4 * 1024 * 1024  # As containers/image: internal/iolimits MaxConfigBodySize.
ITEMS_READ_LIMIT: Final = 64  # manifests of one index that are read to know how large each image is
TEXTS_LIMIT: Final = 1000  # of a list or map in a configuration
ATTESTATION: Final = "vnd.docker.reference.type"  # BuildKit's annotation of what describes another item

Each = Callable[[Sequence[Descriptor], Callable[[Descriptor], int | None]], Sequence[int | None]]
"""Does something for every item, perhaps several at once; in their order."""


class ConfigTooLarge(PierheadError):
    """The configuration of an image is larger than any that is one."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an index. `image_bytes` is its manifest, configuration and layers; None if that was not read."""

    descriptor: Descriptor
    image_bytes: int | None = None

    @property
    def kind(self) -> str:
        """What it is for: a platform, or what else it is."""
        if ATTESTATION in self.descriptor.annotations:
            return "attestation"
        return str(self.descriptor.platform) if self.descriptor.platform else "any platform"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an image's configuration says (image specification 1.1, config.md); what is not well-formed is left out."""

    platform: str = ""
    created: str = ""
    author: str = ""
    user: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a name points to, and the one image of it that was looked into.

    `items` are those of an index, else none. `image` is the manifest of one image, None if there is none for the
    platform; `image_descriptor` says which it is.
    """

    descriptor: Descriptor
    manifest: Manifest
    items: tuple[Item, ...] = ()
    image: ImageManifest | None = None
    image_descriptor: Descriptor | None = None
    configuration: Configuration | None = None
    problems: tuple[Problem, ...] = ()


def inspect(source: Source, top: Descriptor, platform: Platform, each: Each) -> Inspected:
    """Look at what `top` is; of an index, into the image for `platform`. Raises what the source raises."""
    manifest = parsed(source, top)
    known = Descriptor(manifest.media_type, top.digest, top.size_bytes)
    if isinstance(manifest, ImageManifest):
        configuration, problems = _configuration(source, manifest)
        return Inspected(known, manifest, (), manifest, known, configuration, problems)
    items = _items(source, manifest, each)
    try:
        chosen = image_for(source, known, platform)
    except NoMatchingPlatform:
        return Inspected(known, manifest, items)
    image = parsed(source, chosen)
    assert isinstance(image, ImageManifest)
    configuration, problems = _configuration(source, image)
    return Inspected(known, manifest, items, image, chosen, configuration, problems)


@dataclass(frozen=True, slots=True)
class Remembering:
    """A source whose manifests are read once, however often somebody looks at them (`store.Source`)."""

    source: Source
    _manifests: dict[Digest, bytes] = field(default_factory=dict, repr=False)

    def resolve(self, reference: str) -> Descriptor:
        return self.source.resolve(reference)

    def manifest(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest not in self._manifests:
            self._manifests[descriptor.digest] = self.source.manifest(descriptor)
        return self._manifests[descriptor.digest]

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        return self.source.blob(descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return self.source.reject(descriptor)


def parsed(source: Source, descriptor: Descriptor) -> Manifest:
    """The manifest of a descriptor; raises `InvalidManifest` and what the source raises."""
    return tree.parsed(source.manifest(descriptor), descriptor.media_type)


def read_config(source: Source, descriptor: Descriptor) -> bytes:
    """The very bytes of a configuration, their size and digest checked; from elsewhere if they are wrong.

    Raises `ConfigTooLarge`, `ContentMismatch`, and what the source raises.
    """
    if descriptor.size_bytes > CONFIG_LIMIT_BYTES:
        raise ConfigTooLarge(f"the configuration has {descriptor.size_bytes} bytes; the limit is {CONFIG_LIMIT_BYTES}")
    while True:
        try:
            return checked(read_all(source.blob(descriptor), descriptor.size_bytes), descriptor)
        except ContentMismatch:
            if not source.reject(descriptor):
                raise


def parse_configuration(raw: bytes) -> Configuration | None:
    """What a configuration says; None if it is no JSON object."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    run = value.get("config")
    run = run if isinstance(run, dict) else {}
    return Configuration(
        str(Platform.of_config(value) or ""),
        _text(value, "created"),
        _text(value, "author"),
        _text(run, "User"),
        _text(run, "WorkingDir"),
        _texts(run.get("Entrypoint")),
        _texts(run.get("Cmd")),
        _texts(run.get("Env")),
        _texts(run.get("ExposedPorts")),
        _texts(run.get("Volumes")),
        _map(run.get("Labels")),
    )


def _configuration(source: Source, manifest: ImageManifest) -> tuple[Configuration | None, tuple[Problem, ...]]:
    """What an image's configuration says. That of an artifact is something else, and not looked at."""
    if manifest.config.media_type not in CONFIG_TYPES:
        return None, ()
    try:
        found = parse_configuration(read_config(source, manifest.config))
    except ConfigTooLarge as error:
        return None, (Problem("unreadable-config", "warning", error.message),)
    if found is None:
        return None, (Problem("unreadable-config", "warning", "the configuration is no JSON object"),)
    return found, ()


def _items(source: Source, index: Index, each: Each) -> tuple[Item, ...]:
    def image_bytes(item: Descriptor) -> int | None:
        if not item.is_manifest:
            return None
        manifest = parsed(source, item)
        if isinstance(manifest, Index):
            return None
        return item.size_bytes + sum(part.size_bytes for part in manifest.references)

    read = [item for item in index.references if not _is_attestation(item)][:ITEMS_READ_LIMIT]
    sizes = dict(zip((item.digest for item in read), each(read, image_bytes), strict=True))
    return tuple(Item(item, sizes.get(item.digest)) for item in index.references)


def _is_attestation(item: Descriptor) -> bool:
    return ATTESTATION in item.annotations or (item.platform is not None and item.platform.is_unknown)


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    return text if isinstance(text, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    """A list of texts, or the keys of a map that stands for a set."""
    items = list(value) if isinstance(value, (list, dict)) else []
    return tuple(item for item in items[:TEXTS_LIMIT] if isinstance(item, str))


def _map(value: object) -> dict[str, str]:
    items = list(value.items())[:TEXTS_LIMIT] if isinstance(value, dict) else []
    return {key: text for key, text in items if isinstance(text, str)}
