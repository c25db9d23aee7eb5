"""A probe for people: a paragraph for each image, a block for each route, the remedy at the end of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from pierhead.auth import Credential
from pierhead.cli import COLOURS
from pierhead.cli.options import size_text
from pierhead.cli.told import at
from pierhead.errors import Problem
from pierhead.probe.calls import Call
from pierhead.probe.cases import case_of, case_of_place
from pierhead.probe.places import Seen, Visited
from pierhead.probe.remedy import Remedy, remedies
from pierhead.probe.routes import Probed
from pierhead.probe.verdict import Judged, ProbedImage
from pierhead.redact import safe_url
from pierhead.routing import Route
from pierhead.transport.chain import SYSTEM, Shown
from pierhead.wire import status_text

if TYPE_CHECKING:
    from pierhead.config.registries import RegistriesConfig

NAMES_SHOWN = 6
WIDTH = 10
_VERDICTS = {
    "works": click.style("works", fg="green"),
    "skipped": click.style("would be skipped", fg="yellow"),
    "fails": click.style("would fail the pull", fg="red"),
}


def image(item: ProbedImage, config: RegistriesConfig | None, problems: Sequence[Problem]) -> list[str]:
    """The paragraph of one image."""
    return list(_image(item, config, problems))


def place(item: Visited, config: RegistriesConfig | None) -> list[str]:
    """The block of a place that the file names."""
    return list(_place(item, config))


def _image(item: ProbedImage, config: RegistriesConfig | None, problems: Sequence[Problem]) -> Iterator[str]:
    mirror = item.plan.mirror
    yield click.style(str(item.plan.reference), bold=True)
    if mirror:
        yield f"  mirror {mirror.key!r}{at(mirror.span)}"
    for judged in item.routes:
        yield from _route(judged, item, config)
    for skipped in item.plan.skipped:
        yield f"  -  left out  {skipped.endpoint or '(no endpoint)'}: {skipped.reason}{at(skipped.span)}"
    told = {skipped.span for skipped in item.plan.skipped}
    for problem in problems:
        if problem.span not in told:
            severity = click.style(problem.severity, fg=COLOURS[problem.severity])
            yield f"  {severity}: {problem.message}{at(problem.span)}"
    yield from _contents(item)
    yield from _end(item)


def _contents(item: ProbedImage) -> Iterator[str]:
    contents = item.contents
    if len(contents) > 1:
        warning = click.style("warning", fg=COLOURS["warning"])
        listed = "; ".join(f"{digest} at {' and '.join(map(str, orders))}" for digest, orders in contents.items())
        yield f"  {warning}: the same name is not the same image everywhere: {listed}"


def _end(item: ProbedImage) -> Iterator[str]:
    if item.source is not None:
        route = item.source.probed.route
        yield f"  containerd takes it from {route.order}, {route.endpoint or safe_url(route.url)}"
        return
    yield f"  {click.style('the pull would fail', fg='red')}; the kubelet would show:"
    for line in item.reported.splitlines():
        yield f"    {line}"


def _route(judged: Judged, item: ProbedImage, config: RegistriesConfig | None) -> Iterator[str]:
    probed, failure = judged.probed, judged.probed.failure
    yield _head(probed.route)
    yield from _seen(probed.seen)
    yield from _auth(probed.credential, probed.calls, wanted=_challenged(probed))
    if failure is None or failure.stage != "files":
        yield from _content(probed)
    cause = f": {_cause(probed.seen, failure.attempt.cause)}" if failure else ""
    stops_all = failure is not None and failure.stage == "files"  # though no pull comes to it, for it fails before
    reached = "" if judged.reached or stops_all else "; a pull does not come to it"
    yield _row("verdict", f"{_VERDICTS[judged.verdict]}{cause}{reached}")
    if failure:
        found = remedies(case_of(judged, item, config))
        yield from (_remedy(remedy, probed.safe(remedy.text)) for remedy in found)


def _place(item: Visited, config: RegistriesConfig | None) -> Iterator[str]:
    named = item.named
    more = "".join(at(span) for span in named.spans[1:])
    yield _head(named.route, named.what) + more
    yield from _seen(item.seen)
    yield from _auth(item.credential, item.calls, wanted=bool(item.seen.answer and item.seen.answer.status == 401))
    verdict = _VERDICTS["works"] if item.works else f"{click.style('fails', fg='red')}: {_cause(item.seen, item.cause)}"
    yield _row("verdict", verdict)
    if not item.works:
        yield from (_remedy(remedy, remedy.text) for remedy in remedies(case_of_place(item, config)))


def _cause(seen: Seen, cause: str) -> str:
    """Without the certificate, of which two lines above say all."""
    return cause.removesuffix(f" ({seen.error.certificate})") if seen.error and seen.look.shown else cause


def _head(route: Route, what: str = "") -> str:
    number = click.style(str(route.order), bold=True)
    shown = route.endpoint or safe_url(route.url)
    rewrite = f"   as {route.repository!r}{at(route.rewrite.span)}" if route.rewrite else ""
    return f"  {number}  {what or route.kind:<8} {shown}{at(route.span)}{rewrite}"


def _row(name: str, text: str, seconds: float | None = None) -> str:
    time = click.style(f"   {_time(seconds)}", dim=True) if seconds is not None else ""
    return f"     {name:<{WIDTH}}{text}{time}"


def _time(seconds: float) -> str:
    return f"{max(seconds, 0.0) * 1000:.1f} ms"


def _remedy(remedy: Remedy, text: str) -> str:
    return _row("remedy", f"{click.style(text, fg='cyan')}{at(remedy.span)}")


# ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _seen(seen: Seen) -> Iterator[str]:
    look, timings = seen.look, seen.look.timings
    if look.addresses:
        yield _row("dns", ", ".join(look.addresses), timings.dns)
    if timings.connect:
        proxy = f" (the proxy {safe_url(look.proxy)})" if look.proxy else ""
        yield _row("tcp", f"{look.peer}{proxy}", timings.connect - timings.dns)
    if seen.plain:
        yield _row("tls", "none, the server speaks plain http, as the endpoint says")
    if look.shown is not None:
        yield _row("tls", _certificate(look.shown), timings.tls - timings.connect)
        yield _row("", _trust(look.shown, seen))
    if look.client_wanted:
        given = "is given" if seen.place.tls.client else "is not given"
        yield _row("", f"the server asks for a client certificate, which {given}")
    if seen.answer is not None and seen.answer.status is not None:
        challenge = f", wants {seen.answer.challenge}" if seen.answer.challenge else ""
        yield _row("/v2/", f"{status_text(seen.answer.status)}{challenge}", seen.answer.seconds)


def _certificate(shown: Shown) -> str:
    until = f", until {shown.not_after.date()}" if shown.not_after else ""
    more = f" and {len(shown.names) - NAMES_SHOWN} more" if len(shown.names) > NAMES_SHOWN else ""
    names = f" for {', '.join(shown.names[:NAMES_SHOWN])}{more}" if shown.names else ", for no name"
    return f"{shown.version or 'TLS'}, {shown.subject or 'no subject'}{names}{until}"


def _trust(shown: Shown, seen: Seen) -> str:
    if shown.trusted_by is None:
        needed = shown.needed.name if shown.needed else shown.issuer
        text = f"issued by {shown.issuer}; no CA here vouches for it, {needed} would be needed"
    else:
        whose = "the system's CAs" if shown.trusted_by == SYSTEM else f"the ca_file {shown.trusted_by}"
        text = f"issued by {shown.issuer}, verified by {whose}"
    defects = [_DEFECTS[defect] for defect in shown.defects if defect in _DEFECTS]
    unverified = ["not verified (insecure_skip_verify)"] if seen.place.tls.insecure_skip_verify else []
    return "; ".join([text, *(click.style(defect, fg="red") for defect in defects), *unverified])


_DEFECTS = {
    "expired": "expired",
    "not-yet-valid": "not yet valid",
    "wrong-host": "not for this host",
    "no-names": "without names (subjectAltName)",
}


def _challenged(probed: Probed) -> bool:
    calls = any(call.status == 401 for call in probed.calls if call.what == "registry")
    return calls or bool(probed.seen.answer and probed.seen.answer.status == 401)


def _auth(credential: Credential | None, calls: Iterable[Call], *, wanted: bool) -> Iterator[str]:
    """Who we are there, if that was asked; and what the token server said."""
    if not wanted:
        return
    yield _row("auth", _who(credential))
    token = next((call for call in reversed(list(calls)) if call.what == "token"), None)
    if token is not None:
        said = status_text(token.status) if token.status is not None else token.cause
        got = "got" if token.status == 200 else click.style("not got", fg="red")
        yield _row("token", f"{got} from {token.url.partition('?')[0]}: {said}", token.seconds)


def _who(credential: Credential | None) -> str:
    if credential is None:
        return "no credentials are known for it"
    who = f"user {credential.username!r}" if credential.username else "an identity token"
    where = f"{credential.source} {credential.key!r}" if credential.key else credential.source
    return f"{who} ({where}){at(credential.span)}"


def _content(probed: Probed) -> Iterator[str]:
    attempt, descriptor = probed.attempt, probed.descriptor
    if descriptor is not None:
        size = size_text(descriptor.size_bytes)
        yield _row("manifest", f"{descriptor.digest}  {descriptor.media_type}  {size}", attempt.seconds)
    elif attempt.status is not None:
        yield _row("manifest", f"{status_text(attempt.status)}  {safe_url(attempt.url)}", attempt.seconds)
    if probed.platforms is not None:
        yield _row("platforms", ", ".join(probed.platforms) or "none")
    sample = probed.sample
    if sample is not None:
        got = "the last byte" if sample.ranges else "all of it, the registry knows no ranges"
        size = size_text(sample.layer.size_bytes)
        yield _row("blob", f"{status_text(sample.status)}, {got} of {size} from {_origin(sample.url)}", sample.seconds)


def _origin(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
