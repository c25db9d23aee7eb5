"""From what a route said to the case that `remedy` judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pierhead.errors import ExitCode
from pierhead.probe.places import Visited
from pierhead.probe.remedy import Case
from pierhead.probe.verdict import Judged, ProbedImage

if TYPE_CHECKING:
    from pierhead.config.registries import RegistriesConfig


def case_of(judged: Judged, item: ProbedImage, config: RegistriesConfig | None) -> Case:
    """A route of an image that failed."""
    probed = judged.probed
    failure = probed.failure
    assert failure is not None
    attempt = failure.attempt
    return Case(
        probed.route,
        probed.seen,
        config,
        probed.credential,
        attempt.status,
        attempt.outcome == "auth" or attempt.status in (401, 403),
        attempt.hint,
        item.plan.reference.repository,
        probed.found_as,
    )


def case_of_place(item: Visited, config: RegistriesConfig | None) -> Case:
    """A place that did not let us in."""
    denied = item.exit_code is ExitCode.NOT_AUTHORISED
    return Case(
        item.named.route, item.seen, config, item.credential, item.status, denied, item.hint, meant=item.named.meant
    )
