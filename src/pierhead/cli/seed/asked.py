"""What the command line of `pierhead seed` comes to: the images, the places they are taken from, and where they go."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pierhead.auth import Credential, Lookup
from pierhead.cli.copying.places import FILE_KINDS
from pierhead.cli.paths import refuse_path
from pierhead.credentials import chain
from pierhead.errors import UsageError
from pierhead.redact import safe_url
from pierhead.routing import OwnRegistry, Route, push_route
from pierhead.seed.mapping import Mapped, Target, Wanted, check_endpoints, map_images
from pierhead.seed.sources import (
    STORE,
    UPSTREAM,
    ArchiveOrigin,
    Origin,
    RegistryOrigin,
    StoreOrigin,
    route_at,
)
from pierhead.transport import TlsOptions

if TYPE_CHECKING:
    from pierhead.cli.world import World
    from pierhead.client import Network
    from pierhead.errors import Problem
    from pierhead.image_list import Fetch
    from pierhead.reference import Reference

ARCHIVE_WORDS: Final = tuple(f"{kind}:" for kind in FILE_KINDS)


@dataclass(frozen=True, slots=True)
class Images:
    """What is to be seeded: `wanted`, without the `known` ones of an older list; `problems`: lines that name none."""

    wanted: list[Wanted]
    problems: list[Problem]
    known: int = 0


def read(images: Sequence[str], lists: Sequence[str], since: Sequence[str], fetch: Fetch) -> Images:
    """The images of the command line and of the lists, each once, without those of the lists `since`."""
    from pierhead.image_list import load_list
    from pierhead.reference import Reference

    for text in images:
        refuse_path(text, f"`--from {text}` takes images from it")
    found = {item.reference: item for item in (Wanted.of(Reference.parse(text), text) for text in images)}
    problems: list[Problem] = []
    for file in lists:
        listed, wrong = load_list(file, sys.stdin.buffer, fetch)
        for each in listed:
            found.setdefault(each.reference, Wanted.of(each.reference, each.text, each.span))
        problems += wrong
    if not found:
        raise UsageError("no image is named", hint="name images, or a list of them with --images FILE")
    old = {each.reference for file in since for each in load_list(file, sys.stdin.buffer, fetch)[0]}
    wanted = [item for reference, item in found.items() if reference not in old]
    return Images(wanted, problems, len(found) - len(wanted))


def nodes_world(flags: Mapping[str, Any]) -> World:
    """What the nodes have; they know nothing of the flags for either side of the copy."""
    from pierhead.cli.world import read_world

    return read_world(
        flags["private_registry"],
        disable_default_registry_endpoint=flags["disable_default_registry_endpoint"],
        embedded_registry=flags["embedded_registry"],
    )


# ── where to ─────────────────────────────────────────────────────────────────────────────────────────────────────


def mapped(world: World, wanted: Sequence[Wanted], flags: Mapping[str, Any]) -> list[Mapped]:
    """Where every image goes. Raises `UsageError`."""
    if world.hosts is None:
        raise UsageError(
            "there is no registries.yaml, so nothing says where the nodes look",
            hint="name the nodes' file with --private-registry",
        )
    to = tuple(dict.fromkeys(flags["to"]))
    found = map_images(wanted, world.plan, to=to, allow=flags["allow"])
    endpoints = [text.shown for mirror in world.hosts.config.mirrors.values() for text in mirror.endpoints]
    check_endpoints(to, found, list(dict.fromkeys(endpoints)))
    return found


@dataclass(frozen=True, slots=True)
class Writing:
    """How the mirrors are written to: as registries.yaml says, but for what the --dest- flags say instead."""

    world: World
    own: OwnRegistry
    flag: Credential | None

    def route(self, target: Target) -> Route:
        """The way to a target. Its own trust and certificate are not added to: what nodes have may be nowhere here."""
        route, own = target.route, self.own
        tls = TlsOptions(
            own.tls.ca_files or route.tls.ca_files,
            own.tls.client or route.tls.client,
            own.tls.insecure_skip_verify or route.tls.insecure_skip_verify,
        )
        if own.plain_http:
            route = replace(route, scheme="http", http_fallback=False)
        return push_route(replace(route, tls=tls))

    def lookup(self, target: Target) -> Lookup:
        return chain(_only(target.route.host, self.flag), self.world.lookup(target.plan.reference))


def _only(host: str, credential: Credential | None) -> Lookup:
    return lambda asked: credential if asked == host else None


# ── where from ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Reading:
    """What the places of --from are opened with: the flags concern registries that are named, else the images' own."""

    world: World
    own: OwnRegistry
    flag: Credential | None
    network: Network
    root: Path

    def origins(self, texts: Sequence[str], leaving: ExitStack) -> list[Origin]:
        """The places, in order; archives are open until `leaving`. Raises `UsageError` and what opening raises."""
        named = any(map(_is_url, texts))
        return [self._origin(text, leaving, named=named) for text in dict.fromkeys(texts)]

    def _origin(self, text: str, leaving: ExitStack, *, named: bool) -> Origin:
        if text == UPSTREAM:
            return self._upstream() if named else self._upstream(self.own, self.flag)
        if text == STORE:
            from pierhead.layout import LayoutStore

            return StoreOrigin(f"the store {self.root}", LayoutStore(self.root))
        return self._registry(text) if _is_url(text) else _archive(text, leaving)

    def _upstream(self, own: OwnRegistry = OwnRegistry(), flag: Credential | None = None) -> Origin:
        world = replace(self.world, own_registry=own, flag=flag)
        return RegistryOrigin(UPSTREAM, world.own_route, world.lookup, self.network)

    def _registry(self, url: str) -> Origin:
        route = route_at(url, self.world.hosts, self.own)

        def lookup(reference: Reference) -> Lookup:
            return chain(_only(route(reference).host, self.flag), self.world.lookup(reference))

        return RegistryOrigin(url, route, lookup, self.network)


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _archive(text: str, leaving: ExitStack) -> Origin:
    from pierhead.archive import open_archive

    word = next((word for word in ARCHIVE_WORDS if text.startswith(word)), "")
    path = Path(text.removeprefix(word))
    if not path.exists():
        shown = safe_url(f"//{text}").removeprefix("//")
        raise UsageError(
            f"--from {shown}: there is no such file or folder",
            hint=f"write a registry with its scheme (https://{shown}), oci:DIR, a tarball, {STORE} or {UPSTREAM}"
            if not word
            else "name a folder with an OCI layout, or a tarball",
        )
    return ArchiveOrigin(text, leaving.enter_context(open_archive(path)))
