"""The map and a seeding as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pierhead.cli import problem_json
from pierhead.errors import ExitCode, PierheadError

if TYPE_CHECKING:
    from pierhead.cli.seed.asked import Images
    from pierhead.seed.mapping import Mapped, Target
    from pierhead.seed.seeder import Put, Seeded, Summary


def map_json(mapped: Sequence[Mapped], found: Images) -> dict[str, Any]:
    """`--dry-run -o json`."""
    return {
        "images": [
            {
                "reference": str(item.wanted),
                "destinations": [_place(target) for target in item.targets],
                "left_out": item.left_out or None,
                "problem": problem_json(item.problem) if item.problem else None,
            }
            for item in mapped
        ],
        "known_before": found.known,
        "problems": _listed(found),
    }


def seeded_json(results: Sequence[Seeded], mapped: Sequence[Mapped], found: Images, summed: Summary) -> dict[str, Any]:
    """`-o json`, and the report."""
    return {
        "images": [_image(result) for result in results],
        "left_out": [{"reference": str(item.wanted), "reason": item.left_out} for item in mapped if item.left_out],
        "known_before": found.known,
        "problems": _listed(found),
        "interrupted": summed.unfinished is not None,
        "unfinished": [str(item) for item in summed.unfinished or ()],
        "summary": {
            "images": summed.images,
            "seeded": summed.seeded,
            "present": summed.present,
            "failed": summed.failed,
            "left_out": summed.left_out,
            "sent_bytes": summed.sent_bytes,
            "verified": summed.ready if summed.proved else None,
            "air_gap_ready": summed.is_ready if summed.proved else None,
            "platforms": [
                {"platform": item.platform, "images": item.count, "missing": list(item.missing)}
                for item in summed.platforms
            ],
        },
    }


def _listed(found: Images) -> list[dict[str, Any]]:
    return [{"file": item.span.file if item.span else None, **problem_json(item)} for item in found.problems]


def _image(result: Seeded) -> dict[str, Any]:
    descriptor = result.descriptor
    return {
        "reference": str(result.mapped.wanted),
        "digest": str(descriptor.digest) if descriptor else None,
        "media_type": descriptor.media_type if descriptor else None,
        "size_bytes": result.size_bytes if result.parts else None,
        "platforms": [
            {
                "platform": str(part.platform) if part.platform else None,
                "digest": str(part.digest),
                "size_bytes": part.size_bytes,
            }
            for part in result.parts
        ],
        "outcome": result.outcome,
        "source": result.place or None,
        "tried": [{"source": told.place, "error": told.error.message} for told in result.told],
        "destinations": [_put(put) for put in result.puts],
        "seconds": round(result.seconds, 6),
        **_error(result.error),
    }


def _put(put: Put) -> dict[str, Any]:
    served = put.served
    return {
        **_place(put.target),
        "outcome": put.outcome,
        "sent_bytes": put.sent_bytes,
        "reused_bytes": put.reused_bytes,
        "referrers": put.referrers,
        "referrers_left_out": [{"digest": str(digest), "reason": reason} for digest, reason in put.skipped],
        "replaced": str(put.replaced) if put.replaced else None,
        "verified": {"order": served.order, "endpoint": served.endpoint or served.url} if served else None,
        "seconds": round(put.seconds, 6),
        **_error(put.error),
    }


def _place(target: Target) -> dict[str, Any]:
    rewrite = target.route.rewrite
    return {
        "endpoint": target.endpoint,
        "url": target.route.url,
        "repository": target.route.repository,
        "names": list(target.names),
        "rewrite": {
            "pattern": rewrite.pattern,
            "replacement": rewrite.replacement,
            "line": (rewrite.span.line or None) if rewrite.span else None,
        }
        if rewrite
        else None,
    }


def _error(error: PierheadError | None) -> dict[str, Any]:
    return {
        "error": error.message if error else None,
        "hint": (error.hint or None) if error else None,
        "exit_code": int(error.exit_code if error else ExitCode.DONE),
    }
