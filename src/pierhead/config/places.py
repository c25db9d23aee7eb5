"""The places that K3s asks, registry by registry, in the words that the renderers for other runtimes share.

Here is what more than one of them needs: what a mirror's path and rewrites come to as prefixes, the layout of `certs.d`
that docker and podman read, and the list of what is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from pierhead.config.containerd import DEFAULT_DIRECTORY, Directory, Host
from pierhead.config.k3s_hosts import K3sHosts
from pierhead.config.registries import Text
from pierhead.config.rendered import File, commented, toml_string
from pierhead.errors import FLAGS, Problem, Severity, Span
from pierhead.gourl import shown
from pierhead.rewriting import InvalidPattern, compile_pattern, replacement_parts

WILDCARD: Final = "*"
HUB: Final = "docker.io"
LOCAL_MIRROR: Final = "fill a `pierhead serve` by `pierhead pull`, and name that instead"

_API: Final = "/v2"
_PLACE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")


@dataclass(slots=True)
class Losses:
    """What one runtime cannot be told, in the order it was found, each once."""

    runtime: str
    problems: list[Problem] = field(default_factory=list)

    def lost(self, what: str, message: str, span: Span | None) -> None:
        """Images come from elsewhere, or not at all."""
        self._say(what, "error", message, span)

    def nearly(self, what: str, message: str, span: Span | None) -> None:
        """It is said, but it does not mean quite the same."""
        self._say(what, "warning", message, span)

    def note(self, what: str, message: str, span: Span | None) -> None:
        """It is said; there is something to know about it."""
        self._say(what, "note", message, span)

    def _say(self, what: str, severity: Severity, message: str, span: Span | None) -> None:
        problem = Problem(f"{self.runtime}-{what}", severity, message, span)
        if problem not in self.problems:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Registry:
    """Where images of the registry `name` come from: `mirrors` in order, then `default` (None: it is disabled)."""

    name: str
    key: Text
    mirrors: tuple[Host, ...]
    default: Host | None

    @property
    def hosts(self) -> tuple[Host, ...]:
        return self.mirrors if self.default is None else (*self.mirrors, self.default)

    @property
    def mirrors_elsewhere(self) -> tuple[Host, ...]:
        """The mirrors without a last one that is the registry itself: that only says how the registry is asked."""
        return self.mirrors[:-1] if self._ends_with_itself else self.mirrors

    @property
    def is_never_asked(self) -> bool:
        """Whether nobody may ask the registry itself."""
        return self.default is None and not self._ends_with_itself

    @property
    def _ends_with_itself(self) -> bool:
        return bool(self.mirrors) and self.is_itself(self.mirrors[-1])

    def is_itself(self, host: Host) -> bool:
        """Whether a mirror is the registry under its own name, all names as they are."""
        own = self.default.host if self.default is not None else self.name
        return host.host in (own, self.name) and host.path == _API and not host.rewrites


def registries(hosts: K3sHosts, losses: Losses) -> Iterator[Registry]:
    """Every registry that K3s is told something of, the wildcard among them, in the order of the document.

    What K3s' own containerd cannot use is lost here as well, and so is the embedded registry.
    """
    if hosts.before_certs is not None:
        losses.lost("release", "the K3s release asked for has no certs.d: render for one that has", None)
    if hosts.error is not None:
        losses.lost("k3s-fails", f"K3s itself fails with this file, so nothing is said here: {hosts.error}", None)
    for directory in hosts.tree.directories.values():
        key = directory.key
        if key is None or key.span.file == FLAGS:
            continue
        if directory.unusable is not None:
            message = f"K3s' own file for {key.shown} is unusable, so no mirror of it is named here: correct it first"
            losses.lost("unusable", message, key.span)
        elif directory.name == DEFAULT_DIRECTORY or is_place(directory.name):
            yield _registry(hosts, directory, key, losses)
        elif "/" not in directory.name and "_" in directory.name and is_place(directory.name.replace("_", "-")):
            losses.lost("name", f"only containerd takes {key.shown} for a registry: a host has no underscore", key.span)
        else:
            message = f"{key.shown} is no name of a registry, so no image is ever asked there"
            losses.note("no-registry", message, key.span)
    for skip in hosts.skipped:  # named without need: K3s asks it as it would anyway, others may ask by another scheme
        if skip.reason == "only-default" and is_place(skip.mirror.value):
            (default,) = hosts.tree.lookup(skip.mirror.value).hosts[-1:]
            yield Registry(skip.mirror.value, skip.mirror, (), default)


def _registry(hosts: K3sHosts, directory: Directory, key: Text, losses: Losses) -> Registry:
    if directory.name == DEFAULT_DIRECTORY:
        name, found = WILDCARD, directory.hosts
    else:
        name, found = directory.name, hosts.tree.lookup(directory.name).hosts
    listed = tuple(host for host in found if host.origin.kind == "mirror")
    if any(host.origin.kind == "embedded" for host in found):
        losses.nearly("embedded", "the embedded registry is K3s' own: only its agents can ask it", key.span)
    default = next((host for host in found if host.origin.kind == "default"), None)
    return Registry(name, key, tuple(_without_dead_rules(host) for host in listed), default)


def _without_dead_rules(host: Host) -> Host:
    """Without the rules that containerd skips, because Go cannot compile them."""
    return replace(host, rewrites={each: host.rewrites[each] for each in host.rewrites if _compiles(each)})


def _compiles(pattern: str) -> bool:
    try:
        compile_pattern(pattern)
    except InvalidPattern:
        return False
    return True


def is_place(host: str) -> bool:
    """Whether other programs can take this for host[:port]; it is then safe as the name of a folder too."""
    return _PLACE.fullmatch(host) is not None


def line(host: Host, registry: Registry) -> Span:
    """Where a host is written."""
    return host.origin.endpoint.span if host.origin.endpoint else registry.key.span


def rule_line(host: Host, pattern: str, registry: Registry) -> Span:
    """Where a rewrite of a host is written."""
    rule = host.origin.rewrites.get(pattern)
    return rule.pattern.span if rule else line(host, registry)


def tls_line(host: Host, registry: Registry) -> Span:
    """Where the TLS settings of a host are written."""
    config = host.origin.config
    return config.tls.span if config is not None and config.tls is not None else line(host, registry)


def named(host: Host) -> str:
    """A host for people."""
    return host.origin.endpoint.shown if host.origin.endpoint else shown(f"{host.scheme}://{host.host}{host.path}")


def below_api(host: Host) -> str | None:
    """The path of an endpoint below /v2, without slashes; None if its API is somewhere else."""
    if host.path == _API:
        return ""
    return host.path.removeprefix(f"{_API}/") if host.path.startswith(f"{_API}/") else None


def before_api(host: Host) -> str | None:
    """The path of an endpoint before its /v2, without slashes; None if it does not end so."""
    return host.path.removesuffix(_API).strip("/") if host.path.endswith(_API) else None


# -- rewrites as prefixes ---------------------------------------------------------------------------------------------

# A name, or the start of one, and what may follow it.
_RULE = re.compile(r"(\^?)((?:[A-Za-z0-9_/.-]|\\\.|\[\.\])*)(\(\.[*+]\))?(\$?)")


@dataclass(frozen=True, slots=True)
class Prefix:
    """A rewrite that puts `target` in place of `source` at the start of a repository's name; both without slashes.

    `exact` is false where the rule means a little more or less than that.
    """

    source: str
    target: str
    exact: bool = True

    def covers(self, source: str) -> bool:
        return not self.source or source == self.source or source.startswith(f"{self.source}/")

    def moved(self, source: str) -> str:
        """What becomes of the names that start with `source`, which this prefix covers."""
        return joined(self.target, source[len(self.source) :])


def joined(*parts: str) -> str:
    """Parts of a path with one slash between them."""
    return "/".join(part.strip("/") for part in parts if part.strip("/"))


def as_prefix(pattern: str, replacement: str) -> Prefix | None:
    """The rewrite as a prefix, if it is nearly one: `^rancher/(.*)` to `mirror/rancher/$1`, `(.*)` to `hub/$1` …"""
    found = _RULE.fullmatch(pattern)
    target = _literal(replacement, rest=bool(found and found[3]))
    if found is None or target is None:
        return None
    anchor, text, rest, end = found.groups()
    source = text.replace("\\.", ".").replace("[.]", ".")
    whole = bool(end) and not rest
    if (not whole and not (_is_folder(source) and _is_folder(target))) or (whole and not (source and target)):
        return None
    if source.startswith("/") or (not anchor and not source and not rest):
        return None  # no name starts so; and nothing at all matches between all letters
    plain_dot = "." in text.replace("\\.", "").replace("[.]", "")
    prefix = Prefix(source.strip("/"), target.strip("/"), not whole and not plain_dot and bool(anchor or not source))
    return prefix if _is_path(prefix.source) and _is_path(prefix.target) else None


def _is_folder(text: str) -> bool:
    return not text or text.endswith("/")


def _is_path(text: str) -> bool:
    return re.fullmatch(r"(?:[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)?", text) is not None


def _literal(replacement: str, *, rest: bool) -> str | None:
    """What a replacement puts in front of its only group, or all of it if there is none to repeat."""
    parts = [part for part in replacement_parts(replacement) if part != (False, "")]
    if rest and (not parts or parts.pop() != (True, "1")):
        return None
    if any(is_name for is_name, _ in parts):
        return None
    return "".join(text for _, text in parts)


# -- files ------------------------------------------------------------------------------------------------------------


def certificates(place: str, host: Host, losses: Losses) -> Iterator[File]:
    """The files of `certs.d/<place>` for docker and podman: ca.crt, client.cert, client.key."""
    for number, path in enumerate(host.ca):
        yield File(f"certs.d/{place}/ca{number or ''}.crt", copy_of=path)
    pair = client_pair(host, losses)
    if pair is not None:
        yield File(f"certs.d/{place}/client.cert", copy_of=pair[0])
        yield File(f"certs.d/{place}/client.key", copy_of=pair[1], secret=True)


def client_pair(host: Host, losses: Losses) -> tuple[str, str] | None:
    """The client certificate and key of a host; half a pair is lost, as K3s' containerd fails with it."""
    tls = host.origin.config.tls if host.origin.config else None
    if tls is not None and (tls.cert_file is None) != (tls.key_file is None):
        present = "cert_file" if tls.cert_file else "key_file"
        losses.lost("half-pair", f"{present} of {shown(host.host)} is alone: a client certificate needs both", tls.span)
        return None
    return host.client[0] if host.client else None


def toml_list(texts: Iterable[str]) -> str:
    """An array of basic strings."""
    return f"[{', '.join(map(toml_string, texts))}]"


def json_files(path: str, text: str, about: str, lost: Iterable[Problem], *, secret: bool = False) -> tuple[File, File]:
    """A JSON file and, as JSON has no comments, another beside it that says where it is from and what it lacks."""
    return File(path, f"{text}\n", secret=secret), File(f"{path}.lost.txt", commented(about, lost))
