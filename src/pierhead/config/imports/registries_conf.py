"""registries.conf of podman, skopeo, buildah and CRI-O, as registries.yaml.

As containers-registries.conf(5) and containers-registries.conf.d(5), versions 2 and 1 of the format. There a table is
chosen by the longest prefix of an image's name, and each of its mirrors may hold the images below another name. K3s
has one list of endpoints for each registry, and rewrites that count for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pierhead.config import toml
from pierhead.config.imports.draft import Draft
from pierhead.config.imports.places import TomlPlaces
from pierhead.config.imports.reading import HostFolder, Unreadable
from pierhead.config.imports.trusting import Certificates, insecure_hosts
from pierhead.errors import Span, UsageError
from pierhead.gourl import shown

_PLACE: Final = re.compile(
    r"(?P<host>(?:\*\.)?[A-Za-z0-9._-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?)"
    r"(?:/(?P<path>[a-z0-9._-]+(?:/[a-z0-9._-]+)*))?"
)
_HUB: Final = "docker.io"


@dataclass(frozen=True, slots=True)
class Place:
    """A `location` or `prefix`: a host, and a name below which its repositories are (or are looked for)."""

    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.host}/{self.path}" if self.path else self.host


@dataclass(frozen=True, slots=True)
class Source:
    """Where the images of a table are asked for."""

    place: Place
    insecure: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Table:
    """A `[[registry]]`: the images whose names begin with `prefix`, and where they are, in order.

    `moved`: the last source is a `location` that is not the registry itself.
    """

    prefix: Place
    sources: tuple[Source, ...]
    moved: bool
    span: Span


class UnusableRegistriesConf(UsageError):
    """None of the files can be read as registries.conf."""


def from_registries_conf(
    files: Sequence[tuple[str, bytes | Unreadable]], certificates: Iterable[HostFolder] = ()
) -> Draft:
    """The draft that these files (name and bytes, the main one first, then the drop-ins) make together.

    A later file replaces the tables of an earlier one that have the same prefix. Raises `UnusableRegistriesConf` if
    none can be read.
    """
    draft = Draft()
    reading = _Reading(draft)
    for name, data in files:
        reading.take(name, data)
    if not reading.usable:
        first = draft.told[0] if draft.told else None
        message = first.message if first else "there is no file to read"
        raise UnusableRegistriesConf(message, hint="podman refuses it, too", span=first.span if first else None)
    trusted = Certificates(draft, certificates)
    groups: dict[str, list[Table]] = {}
    for table in reading.tables.values():
        groups.setdefault(table.prefix.host, []).append(table)
    for host, tables in groups.items():
        _Registry(draft, trusted, host, tables).take()
    for host, span in reading.insecure.items():
        _ask_insecure(draft, trusted, host, span)
    trusted.trust_rest()
    _note_unverified(draft, groups)
    return draft


# -- the files --------------------------------------------------------------------------------------------------------


class _Reading:
    """The tables of all files, by their prefix; what K3s has no words for is said at once."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.tables: dict[str, Table] = {}
        self.insecure: dict[str, Span] = {}
        self.usable = 0

    def take(self, name: str, data: bytes | Unreadable) -> None:
        if isinstance(data, Unreadable):
            self.draft.lost("unreadable", f"this file is left out: {data.reason}", Span(name, 1))
            return
        places = TomlPlaces(data, name)
        try:
            root = toml.read(data).root
            _check_shape(root)
        except (toml.InvalidToml, _Misshapen) as error:
            self.draft.lost("unusable-toml", f"this file is left out: {error}", places.span(*error.args[1:]))
            return
        self.usable += 1
        self._take_names(root, places)
        self._take_version_1(root.get("registries", {}), places)
        for number, table in enumerate(root.get("registry", [])):
            self._take_table(table, places, ("registry", str(number)))

    def _take_names(self, root: Mapping[str, Any], places: TomlPlaces) -> None:
        key = "unqualified-search-registries"
        _tell_searched(self.draft, root.get(key, []), places.span(key))
        if aliases := root.get("aliases"):
            message = f"short names are left out ({len(aliases)}): the kubelet takes them for images of docker.io"
            self.draft.nearly("aliases", message, places.span("aliases"))
        if root.get("credential-helpers"):
            message = "K3s asks no credential helpers; the kubelet has credential providers"
            self.draft.nearly("credential-helpers", message, places.span("credential-helpers"))

    def _take_version_1(self, lists: Mapping[str, Any], places: TomlPlaces) -> None:
        def listed(name: str) -> Iterator[tuple[str, Span]]:
            span = places.span("registries", name, "registries")
            return ((host, span) for host in lists.get(name, {}).get("registries", []))

        _tell_searched(self.draft, [host for host, _ in listed("search")], places.span("registries", "search"))
        for host, span in listed("block"):
            self._tell_blocked(host, span)
        for host, span in listed("insecure"):
            place = _place(host)
            if place is None or place.path or place.host.startswith("*."):
                self.draft.lost("no-registry", f"left out: {shown(host)!r} is the name of no registry", span)
            else:
                self.insecure[host] = span

    def _take_table(self, table: Mapping[str, Any], places: TomlPlaces, path: tuple[str, ...]) -> None:
        written = table.get("prefix") or table.get("location", "")
        span = places.span(*path)
        prefix = _place(written.rstrip("/"))
        if prefix is None or prefix.host.startswith("*."):
            why = "K3s knows registries by their whole names, or all of them at once"
            self.draft.lost("prefix", f"left out: {shown(written)!r} names no registry or namespace; {why}", span)
            return
        if table.get("blocked"):
            self._tell_blocked(str(prefix), places.span(*path, "blocked"))
            self.tables.pop(str(prefix), None)
            return
        location = Source(prefix, bool(table.get("insecure")), places.span(*path, "insecure"))
        if moved := (table.get("location") or written).rstrip("/") != written.rstrip("/"):
            found = self._source(table, places, path)
            if found is None:
                return
            location = found
        mirrors = list(self._mirrors(table, places, path))
        sources = [*mirrors, location] if moved or location.insecure else mirrors
        self.tables[str(prefix)] = Table(prefix, tuple(sources), moved, span)

    def _mirrors(self, table: Mapping[str, Any], places: TomlPlaces, path: tuple[str, ...]) -> Iterator[Source]:
        by_digest = bool(table.get("mirror-by-digest-only"))
        if by_digest:
            self._tell_partial("digest-only", places.span(*path, "mirror-by-digest-only"))
        for number, mirror in enumerate(table.get("mirror", [])):
            below = (*path, "mirror", str(number))
            partial = mirror.get("pull-from-mirror", "")
            if partial not in ("", "all"):
                self._tell_partial(partial, places.span(*below, "pull-from-mirror"))
            found = self._source(mirror, places, below)
            if found is not None:
                yield found

    def _source(self, table: Mapping[str, Any], places: TomlPlaces, path: tuple[str, ...]) -> Source | None:
        written, span = table.get("location", ""), places.span(*path, "location")
        place = _place(written.rstrip("/"))
        if place is None or place.host.startswith("*."):
            self.draft.lost("location", f"left out: {shown(written)!r} is no host with a name below it", span)
            return None
        return Source(place, bool(table.get("insecure")), span)

    def _tell_blocked(self, name: str, span: Span) -> None:
        message = f"K3s cannot forbid the images of {name}: let an admission policy do it"
        self.draft.lost("blocked", message, span)

    def _tell_partial(self, kind: str, span: Span) -> None:
        message = f"K3s asks a mirror for tags and for digests, and this one is {kind}"
        self.draft.nearly("partial-mirror", message, span)


class _Misshapen(Exception):
    """A value of another type than registries.conf has there; behind the message the keys that lead to it."""


_FIELDS: Final = {
    **dict.fromkeys(("prefix", "location", "pull-from-mirror"), str),
    **dict.fromkeys(("insecure", "blocked", "mirror-by-digest-only"), bool),
}
_ROOT_FIELDS: Final = {
    "registry": list, "aliases": dict, "registries": dict, "unqualified-search-registries": list,
    "credential-helpers": list,
}  # fmt: skip
_WORDS: Final = {str: "a string", bool: "true or false", list: "a list", dict: "a table"}


def _check_shape(root: Mapping[str, Any]) -> None:
    """Raises `_Misshapen`, as podman refuses the whole file."""
    _check_fields(root, _ROOT_FIELDS, ())
    _check_strings(root.get("unqualified-search-registries", []), ("unqualified-search-registries",))
    for name, section in root.get("registries", {}).items():
        path = ("registries", name)
        if not isinstance(section, dict):
            raise _Misshapen(f"{name} is a table", *path)
        _check_fields(section, {"registries": list}, path)
        _check_strings(section.get("registries", []), path)
    for number, table in enumerate(root.get("registry", [])):
        path = ("registry", str(number))
        _check_fields(table, {**_FIELDS, "mirror": list}, path)
        for index, mirror in enumerate(table.get("mirror", [])):
            _check_fields(mirror, _FIELDS, (*path, "mirror", str(index)))


def _check_fields(table: Any, types: Mapping[str, type], path: tuple[str, ...]) -> None:
    if not isinstance(table, dict):
        raise _Misshapen(f"{path[-2]} is a list of tables", *path)
    for name, wanted in types.items():
        if name in table and not isinstance(table[name], wanted):
            raise _Misshapen(f"{name} is {_WORDS[wanted]}", *path, name)


def _check_strings(values: Iterable[Any], path: tuple[str, ...]) -> None:
    if any(not isinstance(value, str) for value in values):
        raise _Misshapen("registries are strings", *path)


def _place(text: str) -> Place | None:
    found = _PLACE.fullmatch(text)
    return Place(found["host"], found["path"] or "") if found else None


def _tell_searched(draft: Draft, hosts: Sequence[str], span: Span) -> None:
    if any(host != _HUB for host in hosts):
        message = (
            f"images without a registry are not searched for in {', '.join(map(repr, map(shown, hosts)))}: "
            "the kubelet takes them for images of docker.io, so write whole names"
        )
        draft.nearly("search-registries", message, span)


# -- the registries ---------------------------------------------------------------------------------------------------


class _Registry:
    """All tables of one registry on their way into one mirror."""

    def __init__(self, draft: Draft, trusted: Certificates, host: str, tables: Sequence[Table]) -> None:
        self.draft = draft
        self.trusted = trusted
        self.host = host
        self.tables = tables

    def take(self) -> None:
        for table in self.tables:
            if table.prefix.path:
                self._take_namespace(table)
            else:
                self._take_whole(table)
            self._tell_moved(table)

    def _take_whole(self, table: Table) -> None:
        """A table for the registry as a whole: a mirror's namespace is a rewrite, or a path where they differ."""
        below = {source.place.path for source in table.sources}
        path = below.pop() if len(below) == 1 and len(self.tables) == 1 else ""
        if path:
            self.draft.mirror(self.host).rewrites["^(.*)$"] = f"{path}/$1"
        for source in table.sources:
            self._ask(source, source.place.path if source.place.path != path else "")

    def _take_namespace(self, table: Table) -> None:
        """A table for the images below a name; K3s asks its endpoints for all images of the registry."""
        if not table.sources:
            return
        path = table.sources[0].place.path
        if not self._rewrite(table, path):
            return
        for source in table.sources:
            if source.place.path == path:
                self._ask(source, "")
                continue
            message = f"left out: {source.place} has the images below another name than the mirror before it"
            self.draft.lost("names-differ", message, source.span)
        message = (
            f"K3s has no mirrors for a part of a registry: {table.sources[0].place.host} is asked for all images of "
            f"{self.host}, not only for those below {table.prefix}"
        )
        self.draft.nearly("namespace", message, table.span)

    def _rewrite(self, table: Table, path: str) -> bool:
        """Whether names below the table's prefix become names below `path`."""
        name = table.prefix.path
        if path == name:
            return True
        inner = next((other for other in self.tables if _overlap(table, other)), None)
        if inner is not None:
            message = (
                f"left out: {inner.prefix} is for some of its images, and K3s' rewrites do not know the longest prefix"
            )
            self.draft.lost("rewrites-overlap", message, table.span)
            return False
        quoted = name.replace(".", "[.]")  # no backslash: K3s and RKE2's own puller read those differently
        rule = (f"^{quoted}(/.*)?$", f"{path}$1") if path else (f"^{quoted}/(.*)$", "$1")
        self.draft.mirror(self.host).rewrites[rule[0]] = rule[1]
        return True

    def _ask(self, source: Source, path: str) -> None:
        """An endpoint; with `path`, which goes before every repository."""
        host, insecure = source.place.host, source.insecure
        scheme = "http" if insecure else "https"  # with http and any TLS setting containerd tries https first
        self.draft.ask(self.host, f"{scheme}://{host}" + (f"/v2/{path}" if path else ""))
        self.trusted.trust(host, source.span, insecure=insecure)

    def _tell_moved(self, table: Table) -> None:
        if table.moved:
            message = (
                f"the location is not {table.prefix} itself: K3s asks it last of the endpoints, and then {self.host} "
                "unless it runs with --disable-default-registry-endpoint"
            )
            self.draft.nearly("moved", message, table.sources[-1].span)


def _overlap(table: Table, other: Table) -> bool:
    """Whether the other table is chosen for some of the images below this one's prefix."""
    return other.prefix.path.startswith(f"{table.prefix.path}/")


def _ask_insecure(draft: Draft, trusted: Certificates, host: str, span: Span) -> None:
    """A registry that may have any certificate, or none: containerd tries https, and http if that is what answers."""
    draft.ask(host, f"http://{host}")
    trusted.trust(host, span, insecure=True)


def _note_unverified(draft: Draft, groups: Mapping[str, Sequence[Table]]) -> None:
    """K3s keeps TLS by host: who is insecure in one place is so in all."""
    insecure = insecure_hosts(draft)
    for source in (source for tables in groups.values() for table in tables for source in table.sources):
        if not source.insecure and source.place.host in insecure:
            message = f"{source.place.host} is insecure elsewhere, and so it is here: K3s knows one setting for a host"
            draft.nearly("unverified", message, source.span)
