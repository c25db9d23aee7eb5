"""What would happen if: a pull in a network that only exists as conditions, with containerd's own walk.

Nothing here knows how containerd moves from host to host: `pull.Puller` does a real pull, by the same `walk`, with the
profile CONTAINERD, of a small invented image, over a transport that opens no socket (`Supposed`, or a test's). So a
what-if and a pull cannot disagree. Nobody sleeps: waits are noted, and time is what the timeouts would take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from pierhead.ask import CONTAINERD, Profile
from pierhead.body import BytesBlob
from pierhead.errors import PierheadError, UsageError
from pierhead.gourl import path_join
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_CONFIG, OCI_MANIFEST, Platform
from pierhead.pull import Puller
from pierhead.redact import safe_url
from pierhead.reference import Digest
from pierhead.reported import kubelet_text
from pierhead.transfer import Transfer
from pierhead.transport import Cause, Options, Timeouts, Transport, TransportError
from pierhead.wire import Headers, Request, Response

if TYPE_CHECKING:
    from pierhead.auth import Lookup
    from pierhead.routing import Plan, Route

STATUSES_LIMIT: Final = 100
PLAIN_HTTP_TO_TLS: Final = b"Client sent an HTTP request to an HTTPS server.\n"  # as Go's servers answer, with 400
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"


# ── conditions ───────────────────────────────────────────────────────────────────────────────────────────────────

Kind = Literal["down", "timeout", "tls", "wrong-bytes", "status"]


@dataclass(frozen=True, slots=True)
class Condition:
    """What is wrong with an endpoint.

    "down": nobody listens. "timeout": no connection in time. "tls": a certificate that nobody trusts. "wrong-bytes":
    content of the right size and the wrong digest. "status": these answers in their order, the last one for ever after;
    a 2xx is the answer of a registry in order.
    """

    kind: Kind
    statuses: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Condition:
        """`timeout`, `tls`, `wrong-bytes`, or statuses with commas between them; raises `UsageError`."""
        match text.strip():
            case "timeout" | "tls" | "wrong-bytes" | "down" as kind:
                return cls(kind)
            case numbers:
                statuses = [int(part) for part in numbers.split(",") if part.strip().isdecimal() and len(part) < 9]
        if len(statuses) != numbers.count(",") + 1 or not all(200 <= status <= 599 for status in statuses):
            hint = "write timeout, tls, wrong-bytes, or statuses from 200 to 599 such as 401,503"
            raise UsageError(f"{text!r} is nothing that can be wrong with an endpoint", hint=hint)
        if len(statuses) > STATUSES_LIMIT:
            raise UsageError(f"{len(statuses)} statuses; the limit is {STATUSES_LIMIT}")
        return cls("status", tuple(statuses))

    def __str__(self) -> str:
        return ",".join(map(str, self.statuses)) if self.kind == "status" else self.kind


# ── the invented image ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Invented:
    """An image of one layer: its manifest, and everything by digest. `shown` is what a person reads for a digest."""

    manifest: Digest
    contents: Mapping[str, tuple[str, bytes]]
    shown: Mapping[str, str]

    def content(self, kind: str, reference: str) -> tuple[str, str, bytes] | None:
        """Digest, media type and bytes of what stands under `manifests/` or `blobs/`."""
        digest = reference if ":" in reference or kind == "blobs" else str(self.manifest)
        found = self.contents.get(digest)
        if found is None or (kind == "manifests") != (digest == str(self.manifest)):
            return None
        return digest, *found

    def told(self, text: str) -> str:
        """`text` without digests of things that do not exist."""
        for digest, shown in self.shown.items():
            text = text.replace(digest, shown)
        return text


@cache
def invented(wanted: Digest | None = None) -> Invented:
    """An image for a tag, or for a digest: nothing we invent has that, so its own is told as `wanted`."""
    config, layer = b'{"architecture":"amd64","os":"linux"}', b"what if"
    parts = [(OCI_CONFIG, config), (_LAYER, layer)]
    entries = [
        {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)} for media_type, data in parts
    ]
    value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}
    raw = json.dumps(value).encode()
    digest = Digest.of(raw, wanted.algorithm if wanted else "sha256")
    contents = {str(Digest.of(data)): (media_type, data) for media_type, data in parts}
    contents[str(digest)] = (OCI_MANIFEST, raw)
    shown = dict(zip(contents, ("sha256:<config>", "sha256:<layer>", str(wanted or "sha256:<manifest>")), strict=True))
    wrong = {str(Digest.of(_spoiled(data), digest.algorithm)): "<another digest>" for _, data in contents.values()}
    return Invented(digest, contents, {**wrong, **shown})


def _spoiled(data: bytes) -> bytes:
    return bytes(byte ^ 1 for byte in data)


# ── the supposed network ─────────────────────────────────────────────────────────────────────────────────────────


class Supposed:
    """A `Transport` to registries that have the invented image, but for those whose route has a condition."""

    def __init__(self, routes: Sequence[Route], conditions: Mapping[int, Condition], image: Invented) -> None:
        """`conditions` by the order of the route."""
        self._routes = routes
        self._conditions = conditions
        self._image = image
        self._answered: dict[int, int] = {}  # how many statuses were given, by the order of the route

    def send(self, request: Request, options: Options = Options()) -> Response:
        if not request.authority:
            raise TransportError(Cause.BAD_URL, request.url, detail="no Host in request URL")
        route = route_of(self._routes, request.url)
        condition = self._conditions.get(route.order) if route else None
        if condition is not None and condition.kind == "down":
            raise TransportError(Cause.REFUSED, request.url)
        if condition is not None and condition.kind == "timeout":
            raise TransportError(Cause.CONNECT_TIMEOUT, request.url)
        refusal = self._handshake(request, options, route, condition)
        if refusal is not None:
            return refusal
        if route is not None and condition is not None and condition.statuses:
            count = self._answered[route.order] = self._answered.get(route.order, 0) + 1
            status = condition.statuses[min(count, len(condition.statuses)) - 1]
            if status > 299:
                return _refused(status)
        return self._content(request, route, spoiled=condition is not None and condition.kind == "wrong-bytes")

    def _handshake(
        self, request: Request, options: Options, route: Route | None, condition: Condition | None
    ) -> Response | None:
        """What TLS comes to: an endpoint written with http:// speaks none, one with the condition "tls" does."""
        untrusted = condition is not None and condition.kind == "tls"
        if request.url.startswith("http://"):
            return Response(400, body=BytesBlob(PLAIN_HTTP_TO_TLS)) if untrusted else None
        if untrusted and not options.tls.insecure_skip_verify:
            raise TransportError(Cause.CERTIFICATE, request.url, detail="unable to get local issuer certificate")
        if route is not None and not untrusted and route.endpoint.startswith("http://"):
            raise TransportError(Cause.PLAIN_HTTP, request.url)
        return None

    def _content(self, request: Request, route: Route | None, *, spoiled: bool) -> Response:
        """As a registry with its API at the root that the route names, and nothing outside of it."""
        root = path_join("/", route.path, "/") if route else "/"
        match = re.fullmatch(rf"{re.escape(root.rstrip('/'))}/.+/(manifests|blobs)/([^/]+)", _path(request))
        found = self._image.content(match[1], match[2]) if match else None
        if found is None:
            return _refused(404)
        digest, media_type, data = found
        if spoiled:
            data = _spoiled(data)
        headers = Headers(
            [("Content-Type", media_type), ("Content-Length", str(len(data))), ("Docker-Content-Digest", digest)]
        )
        return Response(200, headers, BytesBlob(b"" if request.method == "HEAD" else data))

    def inspect(self, options: Options) -> TransportError | None:
        """Files are not looked at: they are those of another machine perhaps."""
        return None

    def close(self) -> None:
        pass


def _path(request: Request) -> str:
    return request.target.partition("?")[0]


def _refused(status: int) -> Response:
    """A registry that says 401 wants a user name and password."""
    challenge = [("WWW-Authenticate", 'Basic realm="what if"')] if status == 401 else []
    return Response(status, Headers(challenge))


def route_of(routes: Sequence[Route], url: str) -> Route | None:
    """The route that a request belongs to; None for a token server or the target of a redirect."""
    _, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    here = [route for route in routes if route.host == authority]
    under = [route for route in here if f"{slash}{path}".startswith(f"{route.path.rstrip('/')}/")]
    return max(under, key=lambda route: len(route.path), default=next(iter(here), None))


# ── the pull ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what came of it: a status, or the cause of having none.

    `order` is that of the route, None elsewhere; `authorization` how we said who we are; `seconds` how long one waits
    for it at least: a timeout.
    """

    order: int | None
    method: str
    url: str
    status: int | None
    failure: Cause | None
    authorization: Literal["none", "basic", "bearer"]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What a pull would come to.

    `route` is the one that knows the name and `sources` all that gave bytes, by order; with `error` the pull fails, and
    `kubelet` is what `kubectl describe pod` shows. `seconds` is the time lost with timeouts and `waits`.
    """

    requests: tuple[Asked, ...]
    route: Route | None
    sources: tuple[int, ...]
    waits: tuple[float, ...]
    seconds: float
    error: PierheadError | None = None
    kubelet: str | None = None


@dataclass(slots=True)
class _Notebook:
    """A `Transport` that notes what is asked of another one, and how much time would pass."""

    network: Transport
    routes: Sequence[Route]
    timeouts: Timeouts
    now: float = 0.0
    requests: list[Asked] = field(default_factory=list)

    def send(self, request: Request, options: Options = Options()) -> Response:
        route = route_of(self.routes, request.url)
        scheme = request.headers.get("authorization").partition(" ")[0].lower()
        asked = Asked(
            route.order if route else None,
            request.method,
            safe_url(request.url),
            None,
            None,
            "basic" if scheme == "basic" else "bearer" if scheme == "bearer" else "none",
        )
        try:
            response = self.network.send(request, options)
        except TransportError as error:
            seconds = self._lost_seconds(error.cause)
            self.now += seconds
            self.requests.append(replace(asked, failure=error.cause, seconds=seconds))
            raise
        self.requests.append(replace(asked, status=response.status))
        return response

    def _lost_seconds(self, cause: Cause) -> float:
        lost = {
            Cause.CONNECT_TIMEOUT: self.timeouts.connect_seconds,
            Cause.TLS_TIMEOUT: self.timeouts.tls_seconds,
            Cause.FIRST_BYTE_TIMEOUT: self.timeouts.first_byte_seconds,
        }
        return lost.get(cause, 0.0)

    def inspect(self, options: Options) -> TransportError | None:
        return self.network.inspect(options)

    def close(self) -> None:
        pass


class _Patient(Transfer):
    """A transfer that lets time pass only in the notebook."""

    def __init__(self, notebook: _Notebook) -> None:
        super().__init__(1)  # one blob after the other: the order of the requests is always the same
        self._notebook = notebook
        self.waits: list[float] = []

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._notebook.now += seconds


def what_if(
    plan: Plan,
    lookup: Lookup,
    network: Transport,
    *,
    platforms: Sequence[Platform] = (),
    profile: Profile = CONTAINERD,
) -> WhatIf:
    """A pull of the plan's image over `network`, as `profile` walks. `lookup` gives credentials; it may raise."""
    timeouts = Timeouts()
    notebook = _Notebook(network, plan.routes, timeouts)
    puller = Puller(
        lambda _: plan,
        lambda _: lookup,
        notebook,
        MemoryStore(),
        timeouts,
        platforms,
        profile,
        clock=lambda: notebook.now,
    )
    transfer = _Patient(notebook)
    with transfer:
        (pulled,) = puller.pull([plan.reference], transfer, at_once=1)
    return WhatIf(
        tuple(notebook.requests),
        pulled.route if pulled.error is None else None,
        tuple(dict.fromkeys(attempt.route.order for attempt in pulled.attempts if attempt.outcome == "ok")),
        tuple(transfer.waits),
        notebook.now,
        pulled.error,
        kubelet_text(plan.reference, pulled.error) if pulled.error else None,
    )


def suppose(plan: Plan, lookup: Lookup, conditions: Mapping[int, Condition]) -> WhatIf:
    """A pull of the plan's image as containerd does it, if these are the conditions of its routes (by their order).

    The image's digests are told as `sha256:<manifest>`, `sha256:<config>` and `sha256:<layer>`.
    """
    image = invented(plan.reference.digest)
    asked_for = replace(plan.reference, digest=image.manifest) if plan.reference.digest else plan.reference
    found = what_if(replace(plan, reference=asked_for), lookup, Supposed(plan.routes, conditions, image))
    requests = tuple(replace(asked, url=image.told(asked.url)) for asked in found.requests)
    return replace(found, requests=requests, kubelet=image.told(found.kubelet) if found.kubelet else None)
