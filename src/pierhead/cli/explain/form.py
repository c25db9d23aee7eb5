"""The JSON of `pierhead explain`; its form is documented in docs/reference/explain.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pierhead.cli import problem_json
from pierhead.cli.explain.explained import manifest_url
from pierhead.cli.told import credential_json, line_of

if TYPE_CHECKING:
    from pierhead.cli.explain.explained import Explained
    from pierhead.dialects import Disagreement
    from pierhead.routing import Route
    from pierhead.whatif import Asked, WhatIf


def image_json(item: Explained) -> dict[str, Any]:
    """One image. What only an option asks for is there only with that option."""
    mirror = item.plan.mirror
    value: dict[str, Any] = {
        "reference": str(item.plan.reference),
        "stored_as": str(item.plan.reference),
        "mirror": {"key": mirror.key, "line": line_of(mirror.span)} if mirror else None,
        "routes": [_route_json(item, route) for route in item.plan.routes],
        "skipped": [
            {"endpoint": skip.endpoint, "reason": skip.reason, "line": line_of(skip.span)} for skip in item.plan.skipped
        ],
        "problems": [problem_json(problem) for problem in item.problems],
    }
    if item.client:
        value["client"] = item.client
    if item.found:
        value["what_if"] = _what_if_json(item, item.found)
    if item.why_not:
        value["why_not"] = [
            {"endpoint": why.endpoint, "order": why.order, "reason": why.reason, "line": line_of(why.span)}
            for why in item.why_not
        ]
    if item.compared is not None:
        value["disagreements"] = [_disagreement_json(found) for found in item.compared]
    return value


def _route_json(item: Explained, route: Route) -> dict[str, Any]:
    return {
        "order": route.order,
        "kind": route.kind,
        "endpoint": route.endpoint,
        "url": route.url,
        "repository": route.repository,
        "manifest_url": manifest_url(item, route),
        "namespace": route.namespace or None,
        "override_path": route.override_path,
        "capabilities": list(route.capabilities),
        "rewrite": _rewrite_json(route),
        "auth": credential_json(item.credentials[route.order]),
        "tls": _tls_json(route),
        "line": line_of(route.span),
    }


def _rewrite_json(route: Route) -> dict[str, Any] | None:
    if not route.rewrite:
        return None
    rule = route.rewrite
    return {"pattern": rule.pattern, "replacement": rule.replacement, "line": line_of(rule.span)}


def _tls_json(route: Route) -> dict[str, Any] | None:
    if not (route.tls_as_written or route.tls.ca_files or route.tls.client or route.tls.insecure_skip_verify):
        return None
    certificate, key = next(iter(route.tls.client), ("", ""))
    return {
        "ca_file": next(iter(route.tls.ca_files), None),
        "cert_file": certificate or None,
        "key_file": key or None,
        "insecure_skip_verify": route.tls.insecure_skip_verify,
        "line": line_of(route.tls_as_written.span) if route.tls_as_written else None,
    }


def _what_if_json(item: Explained, found: WhatIf) -> dict[str, Any]:
    return {
        "conditions": [{"order": order, "condition": str(what)} for order, what in sorted(item.conditions.items())],
        "requests": [_asked_json(asked) for asked in found.requests],
        "resolved_by": found.route.order if found.route else None,
        "sources": list(found.sources) if found.error is None else [],
        "waits": [round(seconds, 3) for seconds in found.waits],
        "seconds": round(found.seconds, 3),
        "kubelet": found.kubelet,
    }


def _asked_json(asked: Asked) -> dict[str, Any]:
    return {
        "order": asked.order,
        "method": asked.method,
        "url": asked.url,
        "status": asked.status,
        "failure": str(asked.failure) if asked.failure else None,
        "authorization": asked.authorization,
    }


def _disagreement_json(found: Disagreement) -> dict[str, Any]:
    return {
        "aspect": found.aspect,
        "endpoint": found.place or None,
        "line": line_of(found.span),
        "clients": {client: list(values) for client, values in found.values.items()},
    }
