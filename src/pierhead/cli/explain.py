"""`pierhead explain`: a pull, stopped before the first request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pierhead.auth import BadCredential, Credential
from pierhead.cli import COLOURS, problem_json, write_json
from pierhead.cli.options import OUTPUT, configuration
from pierhead.cli.world import DEFAULT_FILES, World, read_world
from pierhead.errors import FLAGS, Problem, Span
from pierhead.gourl import InvalidUrl
from pierhead.redact import safe_url
from pierhead.reference import Reference
from pierhead.routing import Plan, Route


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@configuration
@OUTPUT
def explain(
    images: tuple[str, ...],
    private_registry: Path | None,
    disable_default_registry_endpoint: bool,
    embedded_registry: str | None,
    output: str,
) -> None:
    """Say where an image would be asked for, in order, and why.

    Reads registries.yaml as K3s does, and asks nobody: for each IMAGE every place containerd would try, with the URL,
    the rewrite, the TLS and the credentials that would be used and the line each comes from; then what is left out and
    why.
    """
    world = read_world(
        private_registry,
        disable_default_registry_endpoint=disable_default_registry_endpoint,
        embedded_registry=embedded_registry,
    )
    explained = [_Explained(world, Reference.parse(image)) for image in images]
    if output == "json":
        write_json({"images": [item.as_json() for item in explained]})
        return
    for number, item in enumerate(explained):
        if number:
            click.echo()
        for line in item.as_text():
            click.echo(line)


class _Explained:
    """One image: its plan, the credential for each route, and what a person should know."""

    def __init__(self, world: World, reference: Reference) -> None:
        self.world = world
        self.plan: Plan = world.plan(reference)
        self.credentials: dict[int, Credential | None] = {}
        self.problems: list[Problem] = []
        lookup = world.lookup(reference)
        for route in self.plan.routes:
            try:
                self.credentials[route.order] = lookup(route.host)
            except BadCredential as error:
                self.credentials[route.order] = None
                self.problems.append(Problem("bad-credential", "error", error.message, error.span))
        self.problems = list(dict.fromkeys([*world.problems(self.plan), *self.problems]))

    # ── JSON; the form is documented in docs/reference/explain.md ──

    def as_json(self) -> dict[str, Any]:
        mirror = self.plan.mirror
        return {
            "reference": str(self.plan.reference),
            "stored_as": str(self.plan.reference),
            "mirror": {"key": mirror.key, "line": _line(mirror.span)} if mirror else None,
            "routes": [self._route_json(route) for route in self.plan.routes],
            "skipped": [
                {"endpoint": item.endpoint, "reason": item.reason, "line": _line(item.span)}
                for item in self.plan.skipped
            ],
            "problems": [problem_json(problem) for problem in self.problems],
        }

    def _route_json(self, route: Route) -> dict[str, Any]:
        return {
            "order": route.order,
            "kind": route.kind,
            "endpoint": route.endpoint,
            "url": route.url,
            "repository": route.repository,
            "manifest_url": manifest_url(route, self.plan.reference),
            "namespace": route.namespace or None,
            "override_path": route.override_path,
            "capabilities": list(route.capabilities),
            "rewrite": _rewrite_json(route),
            "auth": _auth_json(self.credentials[route.order]),
            "tls": _tls_json(route),
            "line": _line(route.span),
        }

    # ── text ──

    def as_text(self) -> Iterator[str]:
        mirror = self.plan.mirror
        yield click.style(str(self.plan.reference), bold=True)
        if mirror:
            yield f"  mirror {mirror.key!r}{_at(mirror.span)}"
        elif self.world.hosts is None:
            yield f"  there is no registries.yaml: neither {' nor '.join(map(str, DEFAULT_FILES))}"
        else:
            yield "  no mirror of registries.yaml serves it"
        for route in self.plan.routes:
            yield from self._route_text(route)
        for item in self.plan.skipped:
            yield f"  -  skipped  {item.endpoint or '(no endpoint)'}: {item.reason}{_at(item.span)}"
        skipped = {item.span for item in self.plan.skipped}
        for problem in self.problems:
            if problem.span in skipped:
                continue  # said already
            severity = click.style(problem.severity, fg=COLOURS[problem.severity])
            yield f"  {severity}: {problem.message}{_at(problem.span)}"
        yield f"  stored as {self.plan.reference}"

    def _route_text(self, route: Route) -> Iterator[str]:
        number = click.style(str(route.order), bold=True)
        yield f"  {number}  {route.kind:<8} {route.endpoint or route.url}{_at(route.span)}"
        yield f"     asks     {manifest_url(route, self.plan.reference)}"
        if route.rewrite:
            rule = f"{route.rewrite.pattern} -> {route.rewrite.replacement}"
            yield f"     rewrite  {rule}{_at(route.rewrite.span)}"
        yield f"     tls      {_tls_text(route)}"
        credential = self.credentials[route.order]
        yield f"     auth     {_auth_text(credential)}"


def manifest_url(route: Route, reference: Reference) -> str:
    """What containerd would request; for a route that it cannot request, the text it would stumble over."""
    try:
        return safe_url(route.url_of("manifests", reference.object))
    except InvalidUrl:
        return safe_url(f"{route.url}/{route.repository}/manifests/{reference.object}")


def _line(span: Span | None) -> int | None:
    return span.line or None if span and span.file != FLAGS else None


def _at(span: Span | None) -> str:
    if span is None or not span.line:
        return ""
    place = "--embedded-registry" if span.file == FLAGS else f"{span.file}:{span.line}"
    return click.style(f"   {place}", dim=True)


def _rewrite_json(route: Route) -> dict[str, Any] | None:
    if not route.rewrite:
        return None
    rule = route.rewrite
    return {"pattern": rule.pattern, "replacement": rule.replacement, "line": _line(rule.span)}


def _auth_json(credential: Credential | None) -> dict[str, Any] | None:
    if credential is None:
        return None
    return {
        "source": credential.source,
        "key": credential.key,
        "kind": credential.kind,
        "username": credential.username or None,
        "line": _line(credential.span),
    }


def _auth_text(credential: Credential | None) -> str:
    if credential is None:
        return "none"
    who = f"user {credential.username!r}" if credential.username else "an identity token"
    kind = {"basic": "", "auth": ", from `auth`", "identity_token": ""}[credential.kind]
    where = f"{credential.source} {credential.key!r}" if credential.key else credential.source
    return f"{who} ({where}{kind}){_at(credential.span)}"


def _tls_json(route: Route) -> dict[str, Any] | None:
    if not (route.tls_as_written or route.tls.ca_files or route.tls.client or route.tls.insecure_skip_verify):
        return None
    certificate, key = next(iter(route.tls.client), ("", ""))
    return {
        "ca_file": next(iter(route.tls.ca_files), None),
        "cert_file": certificate or None,
        "key_file": key or None,
        "insecure_skip_verify": route.tls.insecure_skip_verify,
        "line": _line(route.tls_as_written.span) if route.tls_as_written else None,
    }


def _tls_text(route: Route) -> str:
    if route.scheme == "http":
        return "none: plain http"
    parts = []
    if route.tls.insecure_skip_verify:
        parts.append(click.style("not verified", fg="yellow"))
    parts += [f"CA {file} beside the system's" for file in route.tls.ca_files]
    parts += [f"client certificate {certificate}" for certificate, _ in route.tls.client]
    if route.http_fallback:
        parts.append("plain http if the server speaks no TLS")
    where = _at(route.tls_as_written.span) if route.tls_as_written else ""
    return (", ".join(parts) or "the system's CAs") + where
