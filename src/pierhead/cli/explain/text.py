"""`pierhead explain` for people."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import click

from pierhead.cli import COLOURS
from pierhead.cli.explain.explained import manifest_url
from pierhead.cli.told import at
from pierhead.cli.world import DEFAULT_FILES
from pierhead.wire import status_text

if TYPE_CHECKING:
    from pierhead.auth import Credential
    from pierhead.cli.explain.explained import Explained, Question
    from pierhead.dialects import Disagreement
    from pierhead.routing import Route
    from pierhead.whatif import Asked, WhatIf

_FAILURES: Final = {
    "refused": "connection refused",
    "connect-timeout": "no connection",
    "certificate": "certificate refused",
    "plain-http": "speaks plain http",
    "bad-url": "no host to ask",
}
_CLIENT_WIDTH: Final = len("containerd")


class Writer:
    """The lines about images; what concerns the question as a whole is said with each."""

    def __init__(self, question: Question) -> None:
        self._question = question

    def lines(self, item: Explained) -> Iterator[str]:
        """An image: its routes in order, what is left out, what is wrong, then what else was asked."""
        yield click.style(str(item.plan.reference), bold=True)
        yield from self._origin(item)
        for route in item.plan.routes:
            yield from _route(item, route)
        for skip in item.plan.skipped:
            yield f"  -  skipped  {skip.endpoint or '(no endpoint)'}: {skip.reason}{at(skip.span)}"
        skipped = {skip.span for skip in item.plan.skipped}
        for problem in item.problems:
            if problem.span in skipped:
                continue  # said already
            severity = click.style(problem.severity, fg=COLOURS[problem.severity])
            yield f"  {severity}: {problem.message}{at(problem.span)}"
        yield f"  stored as {item.plan.reference}"
        if item.found is not None:
            yield from self._what_if(item, item.found)
        for why in item.why_not:
            yield f"  why not {why.endpoint}: {why.reason}{at(why.span)}"
        if item.compared is not None:
            yield from _compared(item.compared)

    def _origin(self, item: Explained) -> Iterator[str]:
        mirror = item.plan.mirror
        if item.client:
            yield f"  as {item.client} reads it"
        if mirror:
            yield f"  mirror {mirror.key!r}{at(mirror.span)}"
        elif item.world.hosts is None:
            yield f"  there is no registries.yaml: neither {' nor '.join(map(str, DEFAULT_FILES))}"
        else:
            yield "  no mirror of registries.yaml serves it"

    def _what_if(self, item: Explained, found: WhatIf) -> Iterator[str]:
        from pierhead.routing import is_named

        yield "  what if"
        named = [
            ([route.order for route in item.plan.routes if is_named(route, endpoint)], endpoint, condition)
            for endpoint, condition in self._question.conditions.items()
        ]
        for orders, endpoint, condition in sorted(named, key=lambda one: one[0] or [len(item.plan.routes) + 1]):
            where = f"number {' and '.join(map(str, orders))}" if orders else "not asked for this image"
            yield f"     {endpoint}: {condition} ({where})"
        for asked in found.requests:
            yield _asked(asked)
        yield from _outcome(found)


# ── a route ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _route(item: Explained, route: Route) -> Iterator[str]:
    number = click.style(str(route.order), bold=True)
    yield f"  {number}  {route.kind:<8} {route.endpoint or route.url}{at(route.span)}"
    yield f"     asks     {manifest_url(item, route)}"
    if route.rewrite:
        rule = f"{route.rewrite.pattern} -> {route.rewrite.replacement}"
        yield f"     rewrite  {rule}{at(route.rewrite.span)}"
    yield f"     tls      {_tls(route)}"
    yield f"     auth     {_auth(item.credentials[route.order])}"


@lru_cache(maxsize=4096)
def _auth(credential: Credential | None) -> str:
    if credential is None:
        return "none"
    who = f"user {credential.username!r}" if credential.username else "an identity token"
    kind = {"basic": "", "auth": ", from `auth`", "identity_token": ""}[credential.kind]
    where = f"{credential.source} {credential.key!r}" if credential.key else credential.source
    return f"{who} ({where}{kind}){at(credential.span)}"


def _tls(route: Route) -> str:
    if route.scheme == "http":
        return "none: plain http"
    parts = []
    if route.tls.insecure_skip_verify:
        parts.append(click.style("not verified", fg="yellow"))
    parts += [f"CA {file} beside the system's" for file in route.tls.ca_files]
    parts += [f"client certificate {certificate}" for certificate, _ in route.tls.client]
    if route.http_fallback:
        parts.append("plain http if the server speaks no TLS")
    where = at(route.tls_as_written.span) if route.tls_as_written else ""
    return (", ".join(parts) or "the system's CAs") + where


# ── what if ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _asked(asked: Asked) -> str:
    if asked.failure is not None:
        word = str(asked.failure)
        result = _FAILURES.get(word, word)
        result += f", {asked.seconds:.0f} s" if asked.seconds else ""
    else:
        result = status_text(asked.status or 0)
    who = f"   with {asked.authorization} credentials" if asked.authorization != "none" else ""
    return f"     {asked.order or '-'}  {asked.method:<4} {result:<25} {asked.url}{who}"


def _outcome(found: WhatIf) -> Iterator[str]:
    lost = f", {found.seconds:.0f} s of waiting later" if found.seconds >= 1 else ""
    if found.route is not None:
        served = click.style(f"served by {found.route.order}", fg="green")
        yield f"     {served}  {found.route.endpoint or found.route.url}{lost}"
        others = [order for order in found.sources if order != found.route.order]
        if others:
            yield f"     with content from {' and '.join(map(str, others))}"
        return
    yield f"     {click.style('the pull fails', fg='red')}{lost}; the kubelet shows:"
    yield from (f"       {line}" for line in (found.kubelet or "").splitlines())


def _compared(found: tuple[Disagreement, ...]) -> Iterator[str]:
    if not found:
        yield "  k3s, containerd and wharfie agree"
        return
    yield "  clients disagree"
    urls = {item.place for item in found if item.aspect == "url"}
    for item in found:
        if item.aspect == "repository" and item.place in urls:
            continue  # it shows in the URL
        yield f"     {item.aspect}{f' of {item.place}' if item.place else ''}{at(item.span)}"
        for client, values in item.values.items():
            yield f"       {client:<{_CLIENT_WIDTH}}  {', '.join(values) or 'nowhere'}"
