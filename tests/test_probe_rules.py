"""What a probe makes of what it meets, on a network in memory: verdicts as the walk gives them, remedies, limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Barrier, BrokenBarrierError, Lock
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images import Image, make_image, make_index
from loopback import Handler, Loopback
from pierhead.ask import CONTAINERD, Memory
from pierhead.auth import Credential, from_registries
from pierhead.body import BytesBlob
from pierhead.cli.probe import form, text
from pierhead.client import Remote
from pierhead.config import k3s, registries
from pierhead.errors import ExitCode, PierheadError
from pierhead.oci import MANIFEST_LIMIT_BYTES, Descriptor, Platform, parse_manifest
from pierhead.probe.cases import case_of
from pierhead.probe.named import named_places
from pierhead.probe.places import Place, Seen, Terms, visit
from pierhead.probe.prober import HOST_LIMIT, Prober
from pierhead.probe.remedy import Case, remedies
from pierhead.probe.routes import probe
from pierhead.probe.verdict import ProbedImage, exit_code
from pierhead.redact import Secret
from pierhead.reference import Reference
from pierhead.reported import kubelet_text
from pierhead.routing import AppliedRewrite, Plan, plan
from pierhead.server.registry import Registry
from pierhead.transport import Cause, Options, Timeouts, TransportError
from pierhead.transport.chain import Authority, Shown
from pierhead.transport.look import Look
from pierhead.wire import Headers, Request, Response
from scripted import route
from stocked import REFERENCE, Stream, registry_of

AMD64 = Platform.parse("linux/amd64")
APP = make_image(layers=[b"app", b"a longer layer"])
OTHER = make_image(layers=[b"other"])
INDEX = make_image(platforms=["linux/amd64", "linux/arm64"])
PASSWORD = "pa55word-of-ours"


class Network(Loopback):
    """Hosts in memory that can be looked at: `looks` by URL, else nothing in particular is seen."""

    def __init__(self, hosts: Mapping[str, Registry | Handler], looks: Mapping[str, Look] = {}) -> None:
        super().__init__(hosts)
        self.looks = looks
        self.looked: list[str] = []

    def look(self, url: str, options: Options = Options()) -> Look:
        self.looked.append(url)
        seen = next((look for start, look in self.looks.items() if url.startswith(start)), None)
        host = url.partition("://")[2].partition("/")[0]
        if seen is None and host not in self.hosts:
            return Look(error=TransportError(Cause.REFUSED, url))
        return seen or Look(("192.0.2.1",), "192.0.2.1:443")


def names(*hosts: str) -> Plan:
    """A plan over these hosts, in order."""
    return Plan(REFERENCE, tuple(route(order, host) for order, host in enumerate(hosts, 1)))


def tagged(made: Plan, tags: Iterable[int]) -> list[Plan]:
    """The same plan for these tags of the image."""
    return [replace(made, reference=Reference.parse(f"hub.example/team/app:{tag}")) for tag in tags]


def probed(network: Network, *hosts: str, blob: bool = False, made: Plan | None = None) -> ProbedImage:
    """What a probe of the image at these hosts comes to."""
    prober = Prober(Terms(network, Timeouts(), lambda: 0.0), 4, lambda: None)
    images = prober.images([made or names(*hosts)], lambda _: credential, platforms=[AMD64], blob=blob)
    return images[0]


def credential(host: str) -> Credential | None:
    return Credential("user", Secret(PASSWORD), key=host) if host == "locked.example" else None


def verdicts(image: ProbedImage) -> list[str]:
    return [judged.verdict for judged in image.routes]


def status(code: int, body: bytes = b"", **headers: str) -> Handler:
    """A host that answers everything so."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return lambda _: Response(code, Headers([("Content-Length", str(len(body))), *pairs]), BytesBlob(body))


def but(image: Image, change: Callable[[Request, Response], Response], *, only: str = "GET") -> Handler:
    """A registry with this image whose answers to one method are changed, those under manifests/ and blobs/."""
    registry = registry_of(image)

    def handle(request: Request) -> Response:
        answer = registry.handle(request)
        return change(request, answer) if request.method == only and request.target != "/v2/" else answer

    return handle


# ── the verdict is the walk's ────────────────────────────────────────────────────────────────────────────────────

KINDS: dict[str, Callable[[], Registry | Handler | None]] = {
    "has it": lambda: registry_of(APP),
    "has another": lambda: registry_of(OTHER),
    "has not": lambda: registry_of(),
    "refuses": lambda: None,
    "401": lambda: status(401, WWW_Authenticate='Basic realm="r"'),
    "401 without a word": lambda: status(401),
    "403": lambda: status(403),
    "429": lambda: status(429),
    "500": lambda: status(500),
    "502": lambda: status(502),
    "204": lambda: status(204),
    "304": lambda: status(304),
    "schema 1": lambda: status(200, b"{}", Content_Type="text/plain"),
    "no digest": lambda: but(APP, lambda _, answer: without(answer, "docker-content-digest"), only="HEAD"),
    "no digest, GET 500": lambda: _no_digest_and_500(),
    "bad digest": lambda: status(200, Docker_Content_Digest="sha256:short"),
    "no GET": lambda: but(APP, lambda request, _: status(503)(request)),
    "wrong bytes": lambda: but(APP, lambda _, answer: replace(answer, body=Stream(b"not it"))),
    "too large": lambda: but(APP, lambda _, answer: huge(answer), only="HEAD"),
}


def without(answer: Response, name: str) -> Response:
    return replace(answer, headers=Headers([item for item in answer.headers if item[0].lower() != name]))


def huge(answer: Response) -> Response:
    bare = without(answer, "content-length")
    return replace(bare, headers=bare.headers.plus(("Content-Length", str(MANIFEST_LIMIT_BYTES + 1))))


def _no_digest_and_500() -> Handler:
    registry = registry_of(APP)

    def handle(request: Request) -> Response:
        if request.method == "GET" and request.target != "/v2/":
            return status(500)(request)
        return without(registry.handle(request), "docker-content-digest")

    return handle


@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=150)
def test_the_end_is_that_of_the_one_walk(kinds: Sequence[str]) -> None:
    """What a probe says of a pull is what the walk with containerd's profile does on the same network."""
    hosts = {f"h{number}.example": KINDS[kind]() for number, kind in enumerate(kinds)}
    there = {name: host for name, host in hosts.items() if host is not None}
    image = probed(Network(there), *hosts)

    remote = Remote(names(*hosts), Loopback(there), Memory(lambda _: None, CONTAINERD), wait=lambda _: None)
    error: PierheadError | None = None
    asked: set[int] = set()
    try:
        try:
            descriptor = remote.resolve(REFERENCE.object)
        finally:
            asked = {attempt.route.order for attempt in remote.attempts}
        parse_manifest(remote.manifest(descriptor), descriptor.media_type)
    except PierheadError as caught:
        error = caught
    if error is None:
        assert image.source is not None
        assert image.source.probed.route == remote.attempts[-1].route
        assert image.exit_code is ExitCode.DONE
    else:
        assert image.source is None
        assert image.reported == kubelet_text(REFERENCE, error)
        assert image.exit_code == error.exit_code
    assert {judged.probed.route.order for judged in image.routes if judged.reached} == asked


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("has it", "works"),
        ("has not", "skipped"),
        ("refuses", "skipped"),
        ("401", "skipped"),
        ("403", "skipped"),
        ("500", "skipped"),
        ("too large", "skipped"),
        ("no digest", "works"),
        ("204", "fails"),
        ("304", "fails"),
        ("schema 1", "fails"),
        ("no digest, GET 500", "fails"),
        ("bad digest", "fails"),
        ("wrong bytes", "fails"),
    ],
)
def test_each_verdict_before_a_route_that_works(kind: str, verdict: str) -> None:
    first = KINDS[kind]()
    hosts = {"b.example": registry_of(APP)} | ({"a.example": first} if first is not None else {})
    image = probed(Network(hosts), "a.example", "b.example")
    assert verdicts(image) == [verdict, "works"]
    assert image.routes[1].reached is (verdict == "skipped")
    assert (image.source is None) is (verdict == "fails")


def test_a_route_that_knows_the_name_and_does_not_give_the_manifest() -> None:
    broken = but(APP, lambda request, _: status(503)(request))
    alone = probed(Network({"a.example": broken}), "a.example")
    assert (verdicts(alone), alone.source) == (["fails"], None)
    assert "httpReadSeeker: failed open: unexpected status from GET request" in alone.reported
    helped = probed(Network({"a.example": broken, "b.example": registry_of(APP)}), "a.example", "b.example")
    assert verdicts(helped) == ["skipped", "works"]
    assert helped.source is helped.routes[1]
    other = probed(Network({"a.example": broken, "b.example": registry_of(OTHER)}), "a.example", "b.example")
    assert (verdicts(other), other.source) == (["fails", "works"], None)
    assert other.reported == alone.reported


def test_no_route_at_all() -> None:
    image = probed(Network({}), made=Plan(REFERENCE, ()))
    assert (image.routes, image.source, image.exit_code) == ((), None, ExitCode.NOT_FOUND)


def test_exit_codes() -> None:
    assert exit_code([]) == exit_code([ExitCode.DONE, ExitCode.DONE]) == ExitCode.DONE
    assert exit_code([ExitCode.NETWORK]) == ExitCode.NETWORK
    assert exit_code([ExitCode.NETWORK, ExitCode.NETWORK]) == ExitCode.PARTIAL


# ── content ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_registry_that_knows_no_ranges_is_not_read_to_the_end() -> None:
    taken: list[int] = []

    @dataclass
    class Endless:
        size_bytes: int | None = None
        closed: list[bool] = field(default_factory=list)

        def copy_to(self, write: Callable[[bytes], object], offset: int = 0) -> int:
            while True:
                taken.append(1)
                write(b"x" * 65536)

        def close(self) -> None:
            self.closed.append(True)

    body = Endless()

    def change(request: Request, answer: Response) -> Response:
        return Response(200, Headers(), body) if "/blobs/" in request.url else answer

    image = probed(Network({"a.example": but(APP, change)}), "a.example", blob=True)
    sample = image.routes[0].probed.sample
    assert sample is not None
    assert (sample.status, sample.ranges, taken, body.closed) == (200, False, [], [True])


def test_a_manifest_without_end_is_cut_off() -> None:
    class Endless(Stream):
        def copy_to(self, write: Callable[[bytes], object], offset: int = 0) -> int:
            while True:
                write(b"x" * 65536)

    image = probed(Network({"a.example": but(APP, lambda _, answer: replace(answer, body=Endless(b"")))}), "a.example")
    assert verdicts(image) == ["fails"]
    failure = image.routes[0].probed.failure
    assert failure is not None
    assert f"larger than {MANIFEST_LIMIT_BYTES} bytes" in failure.attempt.cause


def test_an_index_in_an_index_in_an_index() -> None:
    deep = APP
    for _ in range(10):
        deep = make_index(deep)
    image = probed(Network({"a.example": registry_of(deep)}), "a.example")
    failure = image.routes[0].probed.failure
    assert failure is not None
    assert (verdicts(image), failure.attempt.cause) == (["fails"], "an index inside an index, too deep")
    fine = probed(Network({"a.example": registry_of(make_index(INDEX))}), "a.example", blob=True)
    assert verdicts(fine) == ["works"]


def test_a_blob_behind_a_redirect() -> None:
    registry = registry_of(APP)

    def front(request: Request) -> Response:
        if "/blobs/" in request.url:
            return Response(307, Headers([("Location", f"https://cdn.example{request.target}&signature=abcdef")]))
        return registry.handle(request)

    hosts: dict[str, Registry | Handler] = {"a.example": front, "cdn.example": registry}
    made = Plan(REFERENCE, (route(1, "a.example", namespace="hub.example"),))
    image = probed(Network(hosts), made=made, blob=True)
    sample = image.routes[0].probed.sample
    assert sample is not None
    assert sample.status == 206
    assert sample.url.startswith("https://cdn.example/v2/")
    assert "abcdef" not in str(form.image(image, None, ())) + "\n".join(text.image(image, None, ()))
    del hosts["cdn.example"]
    gone = probed(Network(hosts), made=made, blob=True)
    assert verdicts(gone) == ["fails"]
    failure = gone.routes[0].probed.failure
    assert failure is not None
    assert "connection refused" in failure.attempt.cause


def test_a_descriptor_that_is_none() -> None:
    manifest = json.dumps({"schemaVersion": 2, "config": {}, "layers": [{"digest": "sha256:zz", "size": -1}]}).encode()

    def handle(request: Request) -> Response:
        digest = Descriptor.from_json(make_index().descriptor).digest.of(manifest)
        headers = {"Docker_Content_Digest": str(digest), "Content_Type": "application/json"}
        return status(200, manifest, **headers)(request)

    assert verdicts(probed(Network({"a.example": handle}), "a.example")) == ["fails"]


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_registry_that_repeats_our_secrets_everywhere() -> None:
    """A hostile registry knows what we sent it; nothing of what it says with that reaches a person or a file."""
    told = Credential("user", Secret(PASSWORD)).basic

    def handle(request: Request) -> Response:
        sent = request.headers.get("authorization")
        if not sent:
            return status(401, WWW_Authenticate='Basic realm="r"')(request)
        return Response(
            200 if request.method == "HEAD" else 404,
            Headers(
                [
                    ("Content-Type", f"application/{PASSWORD}; {sent}"),
                    ("Docker-Content-Digest", APP.digest),
                    ("Content-Length", str(len(APP.blobs[APP.digest]))),
                    ("WWW-Authenticate", f'Basic realm="{sent} {PASSWORD}"'),
                ]
            ),
            BytesBlob(json.dumps({"errors": [{"code": sent, "message": PASSWORD}]}).encode()),
        )

    image = probed(Network({"locked.example": handle}), "locked.example", blob=True)
    shown = json.dumps(form.image(image, None, ())) + "\n".join(text.image(image, None, ())) + repr(image)
    assert PASSWORD not in shown
    assert told.partition(" ")[2] not in shown
    assert "***" in shown


def test_a_place_that_repeats_our_secrets() -> None:
    def handle(request: Request) -> Response:
        return status(401, WWW_Authenticate=f'Basic realm="{request.headers.get("authorization")}"')(request)

    config = registries.parse(
        f"mirrors: {{x: {{endpoint: ['https://locked.example']}}}}\n"
        f"configs: {{locked.example: {{auth: {{username: u, password: {PASSWORD}}}}}}}".encode(),
        "registries.yaml",
    )
    hosts = k3s.hosts(config)
    terms = Terms(Network({"locked.example": handle}), Timeouts(), lambda: 0.0)
    visited = [
        visit(named, lambda host: from_registries(k3s.auth_for(config, host)), terms) for named in named_places(hosts)
    ]
    shown = json.dumps(form.places(visited, config, ())) + "".join("\n".join(text.place(v, config)) for v in visited)
    assert PASSWORD not in shown + repr(visited)
    assert Credential("u", Secret(PASSWORD)).basic.partition(" ")[2] not in shown + repr(visited)
    assert [item.exit_code for item in visited] == [ExitCode.NOT_AUTHORISED]


# ── many at once ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_place_is_looked_at_once_and_a_dead_one_is_not_dialled_again() -> None:
    network = Network({"b.example": registry_of(APP)})
    prober = Prober(Terms(network, Timeouts(), lambda: 0.0), 8, lambda: None)
    plans = tagged(names("a.example", "b.example"), range(1, 30))
    images = prober.images(plans, lambda _: lambda _: None)
    assert sorted(network.looked) == ["https://a.example/v2/", "https://b.example/v2/"]
    assert [request.authority for request in network.requests].count("a.example") == 0
    assert [image.plan.reference for image in images] == [made.reference for made in plans]
    assert [image.exit_code for image in images] == [ExitCode.DONE] + [ExitCode.NOT_FOUND] * 28


def test_one_host_is_not_asked_more_at_once_than_it_should_be() -> None:
    registry, lock, meeting = registry_of(APP), Lock(), Barrier(HOST_LIMIT)
    now, most = 0, 0

    def handle(request: Request) -> Response:
        nonlocal now, most
        if request.target == "/v2/":
            return registry.handle(request)
        with lock:
            now += 1
            most = max(most, now)
        with suppress(BrokenBarrierError):
            meeting.wait(5)  # until as many are here as may be
        with lock:
            now -= 1
        return registry.handle(request)

    plans = tagged(names("a.example"), range(2, 2 + 4 * HOST_LIMIT))
    prober = Prober(Terms(Network({"a.example": handle}), Timeouts(), lambda: 0.0), 16, lambda: None)
    prober.images(plans, lambda _: lambda _: None)
    assert most == HOST_LIMIT


def test_what_did_not_answer_in_time_is_not_waited_for_again() -> None:
    """containerd asks the last host five times; at thirty seconds each, nobody wants to watch that."""
    asked: list[str] = []

    def slow(request: Request) -> Response:
        asked.append(f"{request.method} {request.target}")
        raise TransportError(Cause.FIRST_BYTE_TIMEOUT, request.url)

    image = probed(Network({"a.example": slow}), "a.example")
    assert asked == ["GET /v2/", "HEAD /v2/team/app/manifests/1"]
    assert (verdicts(image), image.exit_code) == (["skipped"], ExitCode.NETWORK)


# ── remedies ─────────────────────────────────────────────────────────────────────────────────────────────────────

FILE = """\
mirrors:
  docker.io:
    endpoint: ["https://reg.lan:5000"]
configs:
  reg.lan:
    auth: {username: u, password: secret-one}
    tls: {ca_file: /etc/ca.pem}
"""


ELSEWHERE = FILE.replace("  reg.lan:", "  elsewhere.example:")


def case(**more: Any) -> Case:
    config = registries.parse(more.pop("file", FILE).encode(), "registries.yaml")
    lookup = k3s.hosts(config).lookup("docker.io")
    made = plan(Reference.parse("redis:7"), lookup).routes[more.pop("which", 0)]
    made = replace(made, **more.pop("route", {}))
    seen = more.pop("seen", {})
    error = TransportError(more.pop("cause"), made.url) if "cause" in more else None
    return Case(made, Seen(Place.of(made), **{"error": error, **seen}), config, original="library/redis", **more)


def shown(*defects: Any, **more: Any) -> dict[str, Look]:
    return {"look": Look(shown=Shown("TLSv1.3", "CN=r", "CN=My CA", defects=defects, **more))}


@pytest.mark.parametrize(
    ("case", "text", "line"),
    [
        (case(cause=Cause.DNS), "correct `reg.lan`, or make it known to this machine's DNS or /etc/hosts", 3),
        (
            case(cause=Cause.DNS, route={"host": "registry.kube-system.svc.cluster.local:5000"}),
            "the cluster's own DNS",
            3,
        ),
        (case(cause=Cause.DNS, route={"host": "registry.infra.svc"}), "the node does not ask", 3),
        (case(cause=Cause.DNS, which=1), "is where these images are by their name", 2),
        (case(cause=Cause.REFUSED), "nothing listens on port 5000 of that address", 3),
        (case(cause=Cause.REFUSED, route={"host": "reg.lan"}), "port 443 of that address (the endpoint names none)", 3),
        (case(cause=Cause.REFUSED, route={"host": "reg.lan", "scheme": "http"}), "port 80 of that address", 3),
        (case(cause=Cause.CONNECT_TIMEOUT), "the firewalls on the way", 3),
        (case(cause=Cause.UNREACHABLE), "the route and the firewalls", 3),
        (case(cause=Cause.PROXY, seen={"look": Look(proxy="http://proxy:3128")}), "the proxy http://proxy:3128", None),
        (case(cause=Cause.PLAIN_HTTP), "write http://reg.lan:5000 in the endpoint, or enable TLS", 3),
        (case(cause=Cause.PLAIN_HTTP, which=1), 'an endpoint in `mirrors`, "http://registry-1.docker.io"', 2),
        (case(cause=Cause.CLOSED, seen={"speaks_tls": True}), "write https://reg.lan:5000 in the endpoint", 3),
        (
            case(cause=Cause.CERTIFICATE, seen=shown("unknown-ca", needed=Authority("CN=My CA"))),
            "`configs` has `reg.lan`, the endpoint is `reg.lan:5000`, so its TLS settings are not used (the port",
            5,
        ),
        (
            case(
                cause=Cause.CERTIFICATE, seen=shown("unknown-ca", needed=Authority("CN=My CA", "ab12")), file=ELSEWHERE
            ),
            'CN=My CA (sha256 ab12): name that CA\'s PEM file in ca_file of configs."reg.lan:5000".tls',
            3,
        ),
        (case(cause=Cause.CERTIFICATE, seen=shown("not-yet-valid")), "set this machine's clock", 3),
        (case(denied=True, status=401), "so its credentials are not used (the port counts): write `reg.lan:5000`", 5),
        (
            case(denied=True, file=FILE.replace("  reg.lan:", "  https://reg.lan:5000:")),
            "a key of `configs` is host[:port] alone",
            5,
        ),
        (case(denied=True, file=FILE.replace("  reg.lan:", "  Reg.lan:5000:")), "capitals count", 5),
        (case(denied=True, file=ELSEWHERE), 'no credentials are known for it: add configs."reg.lan:5000".auth', 3),
        (
            case(denied=True, file=FILE.replace("  reg.lan:", '  "*":')),
            'containerd never uses the `auth` of configs."*"',
            6,
        ),
        (
            case(status=403, credential=Credential("u", Secret("x"), key="k")),
            "user 'u' (configs 'k') is not let in",
            None,
        ),
        (
            case(status=403, credential=Credential("", Secret("x"), "identity_token")),
            "the identity token (configs) is not let in",
            None,
        ),
        (case(status=404), "push it there as 'library/redis', or correct its name or tag", 3),
        (case(status=404, found_as="redis"), "it is there as 'redis': push it as 'library/redis'", 3),
        (
            case(status=404, route={"repository": "x/redis", "rewrite": AppliedRewrite("^library/", "x/", None)}),
            "the rewrite '^library/' makes 'x/redis' of 'library/redis'",
            None,
        ),
        (
            case(
                status=404,
                found_as="library/redis",
                route={"repository": "x/redis", "rewrite": AppliedRewrite("^library/", "x/", None)},
            ),
            "it is there as 'library/redis', without the rewrite '^library/'",
            None,
        ),
        (case(status=404, route={"repository": ""}), "there is no registry at this path", 3),
        (case(status=429), "the registry limits requests", 3),
        (case(status=503), "the registry itself, or what stands before it, fails", 3),
        (case(hint="what the failure itself knows"), "what the failure itself knows", 3),
        (case(cause=Cause.REFUSED, meant="reg.lan:5000"), "and the endpoint `reg.lan:5000` has no entry", 3),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_remedy_and_its_line(case: Case, text: str, line: int | None) -> None:
    found = remedies(case)
    assert len(found) == 1
    assert text in found[0].text
    assert (found[0].span.line if found[0].span else None) == line


def test_a_half_entry_beside_the_one_that_was_meant() -> None:
    file = FILE + '  "reg.lan:5000": {tls: {ca_file: /etc/other.pem}}\n'
    found = remedies(case(denied=True, status=401, file=file))
    assert "so its credentials are not used (the port counts): write `reg.lan:5000`" in found[0].text
    unknown = remedies(case(cause=Cause.CERTIFICATE, seen=shown("unknown-ca"), file=file))
    assert "/etc/other.pem is another CA" in unknown[0].text
    assert [remedy.span.line for remedy in (*found, *unknown) if remedy.span] == [5, 8]


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert remedies(case()) == ()


def test_every_defect_of_a_certificate_is_named() -> None:
    seen = shown("expired", "wrong-host", "unknown-ca", names=tuple(f"n{number}.example" for number in range(12)))
    found = remedies(case(cause=Cause.CERTIFICATE, seen=seen, file=ELSEWHERE))
    assert len(found) == 1
    for part in ("expired on", "n7.example and 4 more, not for reg.lan", "a CA that this machine does not know"):
        assert part in found[0].text


def test_a_name_that_only_the_cluster_knows() -> None:
    """K3s' nodes do not ask the cluster's DNS: the commonest way to an endpoint that never works."""
    look = Look(error=TransportError(Cause.DNS, "https://registry.infra.svc.cluster.local"))
    network = Network({}, {"https://registry.infra.svc.cluster.local": look})
    image = probed(network, "registry.infra.svc.cluster.local")
    found = remedies(case_of(image.routes[0], image, None))
    assert "the cluster's own DNS" in found[0].text
    assert image.exit_code is ExitCode.NETWORK


def test_a_certificate_without_names_is_refused_as_go_refuses_it() -> None:
    look = Look(shown=Shown("TLSv1.3", "CN=a.example", "CN=a.example", defects=("no-names",)))
    network = Network({"a.example": registry_of(APP)}, {"https://a.example": look})
    image = probed(network, "a.example")
    assert verdicts(image) == ["skipped"]
    assert network.requests == []
    unverified = route(1, "a.example", tls=replace(Options().tls, insecure_skip_verify=True))
    assert verdicts(probed(network, made=Plan(REFERENCE, (unverified,)))) == ["works"]


def test_a_token_server_that_is_down() -> None:
    challenge = 'Bearer realm="https://auth.example/token",service="s"'
    image = probed(Network({"a.example": status(401, WWW_Authenticate=challenge)}), "a.example")
    failure = image.routes[0].probed.failure
    assert failure is not None
    assert failure.attempt.cause == "auth.example: connection refused"
    assert [(call.what, call.status) for call in image.routes[0].probed.calls] == [("registry", 401), ("token", None)]
    lines = click.unstyle("\n".join(text.image(image, None, ())))
    assert "token     not got from https://auth.example/token: auth.example: connection refused" in lines
    assert "failed to fetch anonymous token" in image.reported


# ── places that the file names ───────────────────────────────────────────────────────────────────────────────────


def test_the_places_of_a_file() -> None:
    config = registries.parse(
        b"""\
mirrors:
  docker.io:
    endpoint: ["https://a.lan:5000", "http://b.lan", "https://a.lan:5000/v2/proxy", "%zz"]
  quay.io:
    endpoint: ["https://a.lan:5000"]
configs:
  "a.lan": {auth: {username: u, password: p}}
  "b.lan": {auth: {username: u, password: p}}
  "c.lan:5000": {tls: {insecure_skip_verify: true}}
  "*": {tls: {insecure_skip_verify: true}}
  docker.io: {auth: {username: u, password: p}}
""",
        "registries.yaml",
    )
    named = named_places(k3s.hosts(config))
    assert [(item.what, item.route.url, [span.line for span in item.spans], item.meant) for item in named] == [
        ("endpoint", "https://a.lan:5000/v2", [3, 5], ""),
        ("endpoint", "http://b.lan/v2", [3], ""),
        ("endpoint", "https://a.lan:5000/v2/proxy", [3], ""),
        ("configs", "https://a.lan/v2", [7], "a.lan:5000"),
        ("configs", "https://c.lan:5000/v2", [9], ""),
        ("configs", "https://registry-1.docker.io/v2", [11], ""),
    ]
    assert [item.route.order for item in named] == [1, 2, 3, 4, 5, 6]
    assert [Place.of(item.route).url for item in named][:3] == [
        "https://a.lan:5000/v2/",
        "http://b.lan/v2/",
        "https://a.lan:5000/v2/",
    ]


@pytest.mark.parametrize(
    ("answer", "path", "works", "code"),
    [
        (status(200), "/v2", True, ExitCode.DONE),
        (status(404), "/v2", False, ExitCode.NOT_FOUND),
        (status(404), "/hub", True, ExitCode.DONE),  # what stands for /v2 need not answer there
        (status(403), "/v2", False, ExitCode.NOT_AUTHORISED),
        (status(500), "/v2", False, ExitCode.FAILED),
        (status(401), "/v2", False, ExitCode.NOT_AUTHORISED),
        (status(401, WWW_Authenticate="Digest x"), "/v2", False, ExitCode.NOT_AUTHORISED),
    ],
)
def test_a_place_without_an_image(answer: Handler, path: str, works: bool, code: ExitCode) -> None:
    from pierhead.probe.places import Named

    terms = Terms(Network({"a.example": answer}), Timeouts(), lambda: 0.0)
    visited = visit(Named(route(1, "a.example", path=path, repository="")), lambda _: None, terms)
    assert (visited.works, visited.exit_code) == (works, code)


def test_a_password_that_cannot_be_read() -> None:
    from pierhead.auth import BadCredential
    from pierhead.probe.places import Named

    def lookup(_: str) -> Credential | None:
        raise BadCredential("`auth` is not base64", hint="it is base64 of user:password")

    terms = Terms(Network({"a.example": status(401, WWW_Authenticate="Basic r")}), Timeouts(), lambda: 0.0)
    visited = visit(Named(route(1, "a.example", repository="")), lookup, terms)
    assert (visited.cause, visited.exit_code) == ("`auth` is not base64", ExitCode.NOT_AUTHORISED)
    inquiry_route = route(1, "a.example")
    from pierhead.probe.places import see
    from pierhead.probe.routes import Inquiry

    seen = see(Place.of(inquiry_route), terms)
    result = probe(Inquiry(REFERENCE, lookup), inquiry_route, seen, terms, last_route=True)
    assert result.failure is not None
    assert result.failure.attempt.cause == "`auth` is not base64"
