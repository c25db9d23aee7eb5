"""The JSON form of a probe; documented in docs/reference/probe.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pierhead.auth import Credential
from pierhead.cli import problem_json
from pierhead.cli.told import credential_json, line_of
from pierhead.errors import ExitCode, Problem
from pierhead.probe.calls import Call
from pierhead.probe.cases import case_of, case_of_place
from pierhead.probe.places import Named, Seen, Visited
from pierhead.probe.remedy import Remedy, remedies
from pierhead.probe.routes import Probed, Sample
from pierhead.probe.verdict import Judged, ProbedImage
from pierhead.redact import safe_url
from pierhead.routing import Route
from pierhead.transport.chain import SYSTEM, Shown
from pierhead.transport.look import Look

if TYPE_CHECKING:
    from pierhead.config.registries import RegistriesConfig


def image(item: ProbedImage, config: RegistriesConfig | None, problems: Sequence[Problem]) -> dict[str, Any]:
    """One image with all its routes."""
    mirror, source = item.plan.mirror, item.source
    return {
        "reference": str(item.plan.reference),
        "mirror": {"key": mirror.key, "line": line_of(mirror.span)} if mirror else None,
        "works": source is not None,
        "route": source.probed.route.order if source else None,
        "digest": str(next(iter(item.contents))) if source else None,
        "differing": _differing(item),
        "routes": [_route(judged, item, config) for judged in item.routes],
        "skipped": [
            {"endpoint": skipped.endpoint, "reason": skipped.reason, "line": line_of(skipped.span)}
            for skipped in item.plan.skipped
        ],
        "problems": [problem_json(problem) for problem in problems],
        "reported": item.reported or None,
        "exit_code": int(item.exit_code),
    }


def places(visited: Sequence[Visited], config: RegistriesConfig | None, problems: Sequence[Problem]) -> dict[str, Any]:
    """Every place that a file names."""
    return {
        "places": [_place(item, config) for item in visited],
        "problems": [problem_json(problem) for problem in problems],
    }


def _route(judged: Judged, item: ProbedImage, config: RegistriesConfig | None) -> dict[str, Any]:
    probed = judged.probed
    failure = probed.failure
    return {
        **_way(probed.route, probed.seen),
        "auth": _auth(probed.credential, probed.calls),
        "manifest": _manifest(probed),
        "platforms": list(probed.platforms) if probed.platforms is not None else None,
        "blob": _sample(probed.sample),
        "verdict": judged.verdict,
        "reached": judged.reached,
        "stage": failure.stage if failure else None,
        "cause": failure.attempt.cause if failure else None,
        "exit_code": int(failure.attempt.exit_code if failure else ExitCode.DONE),
        "remedies": _remedies(remedies(case_of(judged, item, config)) if failure else (), probed),
        "line": line_of(probed.route.span),
    }


def _place(item: Visited, config: RegistriesConfig | None) -> dict[str, Any]:
    return {
        **_way(item.named.route, item.seen),
        "named_by": item.named.what,
        "auth": _auth(item.credential, item.calls),
        "status": item.status,
        "verdict": "works" if item.works else "fails",
        "cause": item.cause or None,
        "exit_code": int(item.exit_code),
        "remedies": _remedies(() if item.works else remedies(case_of_place(item, config))),
        "lines": _lines(item.named),
    }


def _lines(named: Named) -> list[int]:
    return [line for span in named.spans if (line := line_of(span)) is not None]


def _way(route: Route, seen: Seen) -> dict[str, Any]:
    """What a route is, and what its place shows."""
    look = seen.look
    return {
        "order": route.order,
        "kind": route.kind,
        "endpoint": route.endpoint,
        "url": safe_url(route.url),
        "repository": route.repository or None,
        "dns": _dns(look),
        "tcp": _tcp(look),
        "tls": _tls(seen),
        "api": _api(seen),
    }


def milliseconds(seconds: float) -> float:
    """Seconds as JSON tells them."""
    return round(max(seconds, 0.0) * 1000, 3)


def _dns(look: Look) -> dict[str, Any] | None:
    if not look.addresses:
        return None
    return {"addresses": list(look.addresses), "ms": milliseconds(look.timings.dns)}


def _tcp(look: Look) -> dict[str, Any] | None:
    if not look.timings.connect:
        return None
    return {
        "peer": look.peer,
        "proxy": safe_url(look.proxy) or None,
        "ms": milliseconds(look.timings.connect - look.timings.dns),
    }


def _tls(seen: Seen) -> dict[str, Any] | None:
    look, shown = seen.look, seen.look.shown
    if shown is None and not look.client_wanted:
        return None
    return {
        **_certificate(shown or Shown("")),
        "verified": shown is not None and not shown.defects and not seen.place.tls.insecure_skip_verify,
        "client_certificate_wanted": look.client_wanted,
        "ms": milliseconds(look.timings.tls - look.timings.connect) if look.timings.tls else None,
    }


def _certificate(shown: Shown) -> dict[str, Any]:
    needed = shown.needed
    return {
        "version": shown.version or None,
        "subject": shown.subject or None,
        "issuer": shown.issuer or None,
        "names": list(shown.names),
        "not_after": shown.not_after.isoformat().replace("+00:00", "Z") if shown.not_after else None,
        "trusted_by": "system" if shown.trusted_by == SYSTEM else shown.trusted_by,
        "needed_ca": {"name": needed.name, "sha256": needed.sha256 or None} if needed else None,
        "defects": list(shown.defects),
    }


def _api(seen: Seen) -> dict[str, Any]:
    answer = seen.answer
    return {
        "url": safe_url(seen.place.plain_url if seen.plain else seen.place.url),
        "status": answer.status if answer else None,
        "challenge": (answer.challenge or None) if answer else None,
        "error": seen.error.message if seen.error else None,
        "ms": milliseconds(answer.seconds) if answer else None,
    }


def _auth(credential: Credential | None, calls: Iterable[Call]) -> dict[str, Any]:
    token = next((call for call in reversed(list(calls)) if call.what == "token"), None)
    return {
        "credential": credential_json(credential),
        "token": {
            "url": token.url.partition("?")[0],
            "status": token.status,
            "error": token.cause or None,
            "ms": milliseconds(token.seconds),
        }
        if token
        else None,
    }


def _manifest(probed: Probed) -> dict[str, Any]:
    attempt, descriptor = probed.attempt, probed.descriptor
    return {
        "url": safe_url(attempt.url),
        "status": attempt.status,
        "digest": _digest(probed),
        "media_type": descriptor.media_type if descriptor else None,
        "size_bytes": descriptor.size_bytes if descriptor else None,
        "ms": milliseconds(attempt.seconds),
        "fetch_ms": milliseconds(probed.fetch_seconds) if probed.fetch_seconds is not None else None,
        "found_as": probed.found_as or None,
    }


def _digest(probed: Probed) -> str | None:
    return str(probed.descriptor.digest) if probed.descriptor else None


def _sample(sample: Sample | None) -> dict[str, Any] | None:
    if sample is None:
        return None
    return {
        "digest": str(sample.layer.digest),
        "size_bytes": sample.layer.size_bytes,
        "status": sample.status,
        "ranges": sample.ranges,
        "url": sample.url,
        "ms": milliseconds(sample.seconds),
    }


def _differing(item: ProbedImage) -> list[dict[str, Any]]:
    contents = item.contents
    if len(contents) < 2:
        return []
    return [{"digest": str(digest), "routes": orders} for digest, orders in contents.items()]


def _remedies(found: Sequence[Remedy], probed: Probed | None = None) -> list[dict[str, Any]]:
    return [
        {
            "message": probed.safe(remedy.text) if probed else remedy.text,
            "line": line_of(remedy.span),
            "column": remedy.span.column if remedy.span and line_of(remedy.span) else None,
        }
        for remedy in found
    ]
