"""What an upgrade of K3s changes for images: where they are asked for, in which order, under which name and as whom.

`changes` plans each image by both releases (`config.versions`) and compares. The cause of a difference is found by
trial: the facts of the table that make it go away if they alone are taken back, or come if they alone are brought
forward. Pure: no file and no socket is opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal

from pierhead.auth import BadCredential, Credential, from_registries
from pierhead.config.containerd import Lookup
from pierhead.config.k3s import Flags, K3sHosts, auth_for, hosts
from pierhead.config.registries import Mirror, RegistriesConfig
from pierhead.config.versions import Behaviour, Fact, K3sVersion, behaviour, differing
from pierhead.errors import Span
from pierhead.gourl import shown
from pierhead.reference import InvalidReference, Reference
from pierhead.rewriting import Rule, rewrite
from pierhead.routing import Plan, Route, plan

Kind = Literal["refused", "asked", "not-asked", "order", "repository", "credentials", "tls", "scope"]

_MADE_UP: Final = "example/image"
_BESIDE_HOSTS: Final = {"identity_token", "quoted_credentials", "rewritten_scope", "docker_io_credentials"}
_FATAL: Final = {"containerd-does-not-start", "cannot-render"}  # nothing at all can be pulled then
_REGISTRY: Final = "registry.example"  # what "*" stands for, in images that are made up
_PLAIN: Final = re.compile(r"[a-z0-9][a-z0-9/_-]*")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference for one image. `place`: the URL concerned, empty for the image as a whole.

    "order" is that of the places that both releases ask. `facts`: what changed in K3s; `span`: the line of the file
    that is concerned. No text holds a secret.
    """

    kind: Kind
    place: str
    before: str
    after: str
    facts: tuple[Fact, ...]
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class ImageChanges:
    """All that changes for an image; nothing, often."""

    reference: Reference
    changes: tuple[Change, ...] = ()


def changes(
    config: RegistriesConfig, flags: Flags, *, old: K3sVersion, new: K3sVersion, references: Iterable[Reference]
) -> tuple[ImageChanges, ...]:
    """What changes for each image from release `old` to `new`; raises `UnusableConfig`."""
    facts = differing(behaviour(old), behaviour(new))
    before, after = _Release(config, flags, behaviour(old)), _Release(config, flags, behaviour(new))
    comparison = _Comparison(before, after, facts)
    return tuple(ImageChanges(reference, tuple(comparison.changes(reference))) for reference in references)


def made_up(config: RegistriesConfig) -> tuple[Reference, ...]:
    """An image for each name under `mirrors` and `configs`: one that a rewrite changes, if such a one can be found."""
    found: dict[Reference, None] = {}
    for key in dict.fromkeys([*config.mirrors, *config.configs]):
        registry = _REGISTRY if key == "*" else key
        for repository in _repositories(config.mirrors.get(key)):
            try:
                reference = Reference.parse(f"{registry}/{repository}")
            except InvalidReference:
                continue
            if reference.registry == registry:
                found.setdefault(reference)
                break
    return tuple(found)


def _repositories(mirror: Mirror | None) -> Iterator[str]:
    """Names to try: those that a rewrite changes, then any."""
    rules = mirror.rewrites if mirror else ()
    starts = [found[0] for rule in rules if (found := _PLAIN.match(rule.pattern.value.removeprefix("^")))]
    names = [_MADE_UP, "library/example", *(f"{start}{end}" for start in starts for end in ("example", "/example", ""))]
    for rule in rules:
        only = [Rule(rule.pattern.value, rule.replacement.value)]
        yield from (name for name in names if rewrite(only, name).rule is not None)
    yield _MADE_UP


# -- one release ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """One of the places that are asked, as far as it can change."""

    route: Route
    repository: str
    credentials: str
    tls: str
    scope: str
    credential: Credential | None = field(default=None, repr=False)


_Name = tuple[str, int]  # the URL, and which of several alike


@dataclass(frozen=True, slots=True)
class _View:
    """An image in one release: the places in order, and why nothing can be pulled, if so."""

    plan: Plan
    places: Mapping[_Name, _Place]
    refused: tuple[str, ...] = ()

    def value(self, kind: Kind, name: _Name, common: Collection[_Name]) -> Any:
        """What two releases are compared by; a place that is not asked has no values."""
        place = self.places.get(name)
        if kind in ("asked", "not-asked"):
            return place is not None
        if kind == "order":
            return tuple(other for other in self.places if other in common)
        if kind == "refused":
            return self.refused
        if place is None:
            return None
        return (place.credentials, place.credential) if kind == "credentials" else getattr(place, kind)


class _Release:
    """What one release makes of the file."""

    def __init__(self, config: RegistriesConfig, flags: Flags, behaviour: Behaviour) -> None:
        self.config, self.flags, self.behaviour = config, flags, behaviour
        self.hosts: K3sHosts = hosts(config, flags, behaviour)
        self.refused = tuple(problem.message for problem in self.hosts.problems if problem.id in _FATAL)
        self._views: dict[Reference, _View] = {}
        self._lookups: dict[str, Lookup] = {}

    def view(self, reference: Reference) -> _View:
        if reference not in self._views:
            self._views = {reference: self._view(reference)}  # images are asked for one after the other
        return self._views[reference]

    def _view(self, reference: Reference) -> _View:
        made = plan(reference, self._lookup(reference.registry))
        places: dict[_Name, _Place] = {}
        for route in made.routes if not self.refused else ():
            name = (route.url, sum(url == route.url for url, _ in places))
            places[name] = self._place(route, reference)
        return _View(made, places, self.refused)

    def _place(self, route: Route, reference: Reference) -> _Place:
        credential, text = None, "none"
        entry = auth_for(self.hosts.config, route.host, self.behaviour)
        try:
            credential = from_registries(entry)
        except BadCredential as error:
            text = f"unusable: {error.message}"
        if credential is not None:
            text = _credential_text(credential)
            if entry is not None and entry.auth != self.config.configs[entry.key.value].auth:
                text += ", not as it is written"  # read with the escapes of TOML
        scope = route.scope if self.behaviour.rewritten_scope else replace(route, repository=reference.repository).scope
        return _Place(route, route.repository, text, _tls_text(route), scope, credential)

    def asks_alike(self, other: _Release, registry: str) -> bool:
        """Whether both give containerd the same hosts for a registry."""
        return self.refused == other.refused and self._lookup(registry).hosts == other._lookup(registry).hosts

    def _lookup(self, registry: str) -> Lookup:
        if registry not in self._lookups:
            self._lookups[registry] = self.hosts.lookup(registry)
        return self._lookups[registry]

    def with_fact(self, fact: Fact, other: Behaviour) -> _Release:
        """This release with one fact as another has it."""
        return _Release(self.config, self.flags, replace(self.behaviour, **{fact.name: getattr(other, fact.name)}))


def _credential_text(credential: Credential) -> str:
    who = f"user {credential.username!r}" if credential.username else "an identity token"
    return f"{who} of configs {shown(credential.key)!r}"


def _tls_text(route: Route) -> str:
    if route.scheme == "http":
        return "plain http"
    parts = [] if not route.tls.insecure_skip_verify else ["not verified"]
    parts += [f"CA {path}" for path in route.tls.ca_files]
    parts += [f"client certificate {certificate}" for certificate, _ in route.tls.client]
    parts += ["plain http if the server speaks no TLS"] if route.http_fallback else []
    return ", ".join(parts) or "the system's CAs"


# -- two releases -----------------------------------------------------------------------------------------------------


class _Comparison:
    """Two releases, and those in between them by one fact, made when first needed."""

    def __init__(self, before: _Release, after: _Release, facts: tuple[Fact, ...]) -> None:
        self._before, self._after, self._facts = before, after, facts
        self._between: dict[str, tuple[_Release, _Release]] = {}
        self._relevant: dict[str, tuple[Fact, ...]] = {}

    def changes(self, reference: Reference) -> Iterator[Change]:
        before, after = self._before.view(reference), self._after.view(reference)
        common = before.places.keys() & after.places.keys()
        for kind, name in _candidates(before, after):
            if before.value(kind, name, common) != after.value(kind, name, common):
                facts = self._causes(reference, partial(_View.value, kind=kind, name=name, common=common))
                texts = _text(before, kind, name), _text(after, kind, name)
                yield Change(kind, shown(name[0]), *texts, facts, _span(before, after, kind, name))

    def _causes(self, reference: Reference, value: Callable[[_View], Any]) -> tuple[Fact, ...]:
        """The facts that alone make the difference; else those that have a part in it."""
        old, new = value(self._before.view(reference)), value(self._after.view(reference))
        alone, part = [], []
        for fact in self._facts_for(reference.registry):
            forward, back = (value(release.view(reference)) for release in self._toggled(fact))
            if forward == new or back == old:
                alone.append(fact)
            elif forward not in (old, None) or back not in (new, None):  # None: it is about another change
                part.append(fact)
        found = alone or part or self._facts
        # The move to certs.d is what most others came with: it is the cause if none of them is.
        return tuple(fact for fact in found if fact.name != "certs_d") or tuple(found)

    def _facts_for(self, registry: str) -> tuple[Fact, ...]:
        """The facts that can make a difference for images of a registry; found once for all of them."""
        if registry not in self._relevant:
            self._relevant[registry] = tuple(fact for fact in self._facts if self._matters(fact, registry))
        return self._relevant[registry]

    def _matters(self, fact: Fact, registry: str) -> bool:
        if fact.name in _BESIDE_HOSTS:
            return True
        forward, back = self._toggled(fact)
        return not (self._before.asks_alike(forward, registry) and self._after.asks_alike(back, registry))

    def _toggled(self, fact: Fact) -> tuple[_Release, _Release]:
        if fact.name not in self._between:
            forward = self._before.with_fact(fact, self._after.behaviour)
            back = self._after.with_fact(fact, self._before.behaviour)
            self._between[fact.name] = forward, back
        return self._between[fact.name]


_OF_PLACES: Final[tuple[Kind, ...]] = ("repository", "credentials", "tls", "scope")


def _candidates(before: _View, after: _View) -> Iterator[tuple[Kind, _Name]]:
    """What may differ, in the order to tell it."""
    yield "refused", ("", 0)
    for name in before.places:
        if name not in after.places:
            yield "not-asked", name
    for name in after.places:
        if name not in before.places:
            yield "asked", name
    yield "order", ("", 0)
    for name in after.places:
        if name in before.places:
            yield from ((kind, name) for kind in _OF_PLACES)


def _text(view: _View, kind: Kind, name: _Name) -> str:
    place = view.places.get(name)
    if kind == "refused":
        return "; ".join(view.refused) or "containerd starts"
    if kind == "order":
        return ", ".join(shown(url) for url, _ in view.places)
    if kind in ("asked", "not-asked"):
        return f"number {list(view.places).index(name) + 1}" if place else "not asked"
    return str(getattr(place, kind))


def _span(before: _View, after: _View, kind: Kind, name: _Name) -> Span | None:
    """The line that is concerned: of the release that does something because of it."""
    mirror = after.plan.mirror or before.plan.mirror
    routes = [view.places[name].route for view in (after, before) if name in view.places]
    found: list[Span | None] = []
    if kind in ("repository", "scope"):
        found = [route.rewrite.span for route in routes if route.rewrite]
    elif kind == "tls":
        found = [route.tls_as_written.span for route in routes if route.tls_as_written]
    elif kind == "credentials":
        credentials = [view.places[name].credential for view in (after, before) if name in view.places]
        found = [credential.span for credential in credentials if credential]
    found += [route.span for route in routes]
    return next((span for span in found if span is not None), mirror.span if mirror else None)
