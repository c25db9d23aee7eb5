"""The walk over routes as a pure conversation: a scripted network, no socket, no clock but the script's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pierhead.ask import CONTAINERD, Memory
from pierhead.errors import ExitCode
from pierhead.oci import DOCKER_SCHEMA_1_SIGNED, MANIFEST_LIMIT_BYTES, Descriptor, InvalidManifest
from pierhead.reference import Digest, Reference
from pierhead.routing import Route
from pierhead.transport import Cause
from pierhead.walk import (
    AllRoutesFailed,
    Attempt,
    Opened,
    Resolved,
    ResolveFailed,
    content_routes,
    open_content,
    resolve,
)
from scripted import MANIFEST, Network, Reply, basic, bearer, down, lookup, manifest, route, said, token

A, B, C = (route(number, f"{name}.example") for number, name in enumerate("abc", 1))
TAG = Reference.parse("hub.example/team/app:1")
RAW = b'{"schemaVersion": 2}'
DIGEST = Digest.of(RAW)
PINNED = Reference.parse(f"hub.example/team/app@{DIGEST}")
BLOB = Descriptor("application/octet-stream", Digest.of(b"0123456789"), 10)


class Walk:
    """A network, a memory and what was recorded."""

    def __init__(self, *replies: Reply, containerd: bool = False) -> None:
        self.network = Network(*replies)
        self.memory = Memory(lookup(), clock=self.network.clock)
        if containerd:
            self.memory = Memory(lookup(), profile=CONTAINERD, clock=self.network.clock)
        self.attempts: list[Attempt] = []

    def resolve(self, *routes: Route, reference: Reference = TAG) -> Resolved:
        return self.network.play(resolve(self.memory, routes, reference, self.attempts.append))

    def open(self, *routes: Route, descriptor: Descriptor = BLOB, offset: int = 0) -> Opened:
        asked = content_routes(routes, descriptor)
        return self.network.play(open_content(self.memory, asked, descriptor, self.attempts.append, offset=offset))

    def fails(self, *routes: Route, reference: Reference = TAG) -> AllRoutesFailed:
        with pytest.raises(AllRoutesFailed) as caught:
            self.resolve(*routes, reference=reference)
        assert self.network.over
        assert list(caught.value.attempts) == self.attempts
        return caught.value

    @property
    def outcomes(self) -> list[tuple[int, str, int | None]]:
        return [(attempt.route.order, attempt.outcome, attempt.status) for attempt in self.attempts]


# ── resolving ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_route_that_knows_is_taken() -> None:
    walk = Walk(down(), said(404), manifest(str(DIGEST), 20), said())
    found = walk.resolve(A, B, C)
    assert found == Resolved(Descriptor(MANIFEST, DIGEST, 20), C)
    assert walk.outcomes == [(1, "error", None), (2, "status", 404), (3, "ok", 200)]
    assert walk.network.lines == [f"HEAD https://{host}.example/v2/team/app/manifests/1" for host in "abc"]
    assert [attempt.url for attempt in walk.attempts] == [line[5:] for line in walk.network.lines]


@pytest.mark.parametrize(
    ("replies", "exit_code", "endpoint"),
    [
        ([said(404), said(500), said(500)], ExitCode.FAILED, "b"),
        ([said(403), said(403), said(404)], ExitCode.NOT_AUTHORISED, "a"),
        ([down(), said(404)], ExitCode.NOT_FOUND, "b"),
        ([said(404), down()], ExitCode.NOT_FOUND, "a"),
        ([down(), down(Cause.DNS)], ExitCode.NETWORK, "a"),
        ([basic(), down()], ExitCode.NOT_AUTHORISED, "a"),
        ([down(), basic()], ExitCode.NETWORK, "a"),
        ([said(401), said(404)], ExitCode.NOT_AUTHORISED, "a"),
        ([said(418), said(403), said(403)], ExitCode.FAILED, "a"),
        ([manifest(str(DIGEST), MANIFEST_LIMIT_BYTES + 1), said(403), said(403)], ExitCode.NOT_FOUND, "a"),
        ([said(502), manifest(str(DIGEST), MANIFEST_LIMIT_BYTES + 1)], ExitCode.NOT_FOUND, "b"),
    ],
)
def test_the_decisive_failure(replies: list[Reply], exit_code: ExitCode, endpoint: str) -> None:
    walk = Walk(*replies)
    error = walk.fails(A, B)
    assert error.exit_code is exit_code
    lines = error.message.splitlines()
    assert lines[0] == "no route gives hub.example/team/app:1"
    assert [line.split(": ")[0].strip() for line in lines[1:]] == ["https://a.example", "https://b.example"]
    decisive = max(error.attempts, key=lambda attempt: attempt.priority)
    assert decisive.route.host == f"{endpoint}.example"
    assert error.hint == decisive.hint


def test_no_place_to_ask() -> None:
    for routes in ([], [replace(A, capabilities=("pull",))], [replace(A, capabilities=("push", "resolve"))]):
        error = Walk().fails(*routes)
        assert error.exit_code is ExitCode.NOT_FOUND
        assert "explain" in error.hint


def test_a_digest_needs_no_resolving_capability() -> None:
    walk = Walk(manifest(str(DIGEST), 20))
    assert walk.resolve(replace(A, capabilities=("pull",)), reference=PINNED).descriptor.digest == DIGEST


def test_a_digest_may_be_among_the_blobs() -> None:
    walk = Walk(said(404), down(), said(content_type=MANIFEST, content_length="20"))
    found = walk.resolve(A, B, reference=PINNED)
    assert found.route is A
    assert walk.network.lines[-1] == f"HEAD https://a.example/v2/team/app/blobs/{DIGEST}"


def test_the_blobs_are_not_asked_after_worse_than_not_found() -> None:
    walk = Walk(said(404), said(502))
    walk.fails(A, B, reference=PINNED)
    assert all("/manifests/" in line for line in walk.network.lines)


@pytest.mark.parametrize("status", [304, 300, 307])
def test_an_answer_that_containerd_takes_for_final(status: int) -> None:
    walk = Walk(said(status))
    with pytest.raises(ResolveFailed, match=f"a.example answers {status}"):
        walk.resolve(A, B)
    assert walk.outcomes == [(1, "content", status)]
    assert walk.network.over


def test_the_reason_of_a_403_is_asked_for() -> None:
    errors = {"errors": [{"code": "DENIED", "message": "plan\x1b[1m expired"}]}
    walk = Walk(said(403), said(403, errors))
    error = walk.fails(A)
    assert walk.network.lines[1] == "GET https://a.example/v2/team/app/manifests/1"
    assert "DENIED: plan [1m expired" in error.message
    assert Walk(said(403), down()).fails(A).exit_code is ExitCode.NOT_AUTHORISED


def test_a_failure_says_what_the_registry_wants_and_when() -> None:
    walk = Walk(said(401, www_authenticate='Digest realm="\x1b[31mx"', retry_after="soon\x07"))
    error = walk.fails(A)
    assert '401 Unauthorized; it wants Digest realm=" [31mx"; Retry-After soon' in error.message
    assert "a.example" in error.hint


# ── descriptors ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_get_where_head_says_too_little() -> None:
    for head in (said(content_type=MANIFEST, content_length="20"), said(docker_content_digest=str(DIGEST))):
        walk = Walk(head, said(200, RAW, content_type=f"{MANIFEST}; charset=utf-8"))
        assert walk.resolve(A).descriptor == Descriptor(MANIFEST, DIGEST, len(RAW))
        assert walk.network.over


@pytest.mark.parametrize(
    ("answer", "message", "exit_code"),
    [
        (said(404), "HEAD succeeded, but GET: 404", ExitCode.NOT_FOUND),
        (said(403), "HEAD succeeded, but GET: 403", ExitCode.NOT_AUTHORISED),
        (said(500), "HEAD succeeded, but GET: 500", ExitCode.FAILED),
        (said(200, b""), "a manifest of no bytes", ExitCode.FAILED),
        (down(Cause.DNS), "HEAD succeeded, but GET: a.example: no address found", ExitCode.NETWORK),
    ],
)
def test_a_get_that_fails_after_a_head_ends_it(answer: Reply, message: str, exit_code: ExitCode) -> None:
    again = [said(500)] if "500" in message else []
    walk = Walk(said(), answer, *again)
    with pytest.raises(ResolveFailed, match=message) as caught:
        walk.resolve(A, B)
    assert caught.value.exit_code is exit_code
    assert [(attempt.route.order, attempt.outcome) for attempt in walk.attempts] == [(1, "content")]
    assert walk.network.over


@pytest.mark.parametrize(
    "digest", ["sha256:../../etc/passwd", "../../x", "sha256:", "md5:00", "SHA256:" + "0" * 64, "é"]
)
def test_a_digest_that_is_none_ends_it(digest: str) -> None:
    walk = Walk(manifest(digest))
    with pytest.raises(ResolveFailed, match="Docker-Content-Digest is no digest"):
        walk.resolve(A, B)
    assert walk.network.over


@pytest.mark.parametrize("media_type", [DOCKER_SCHEMA_1_SIGNED, "text/plain; charset=utf-8"])
def test_schema_1_is_refused_with_a_way_out(media_type: str) -> None:
    walk = Walk(manifest(str(DIGEST), media_type=media_type))
    with pytest.raises(InvalidManifest, match="schema 1") as caught:
        walk.resolve(A, B)
    assert "push the image again" in caught.value.hint
    assert walk.outcomes == [(1, "content", None)]


def test_the_largest_manifest_and_one_byte_more() -> None:
    assert Walk(manifest(str(DIGEST), MANIFEST_LIMIT_BYTES)).resolve(A).route is A
    walk = Walk(manifest(str(DIGEST), MANIFEST_LIMIT_BYTES + 1), manifest(str(DIGEST), 20))
    assert walk.resolve(A, B).route is B
    assert walk.outcomes == [(1, "content", 200), (2, "ok", 200)]


def test_a_manifest_that_never_ends_is_too_large() -> None:
    endless = said(200, b" " * (MANIFEST_LIMIT_BYTES + 1), content_type=MANIFEST)
    walk = Walk(said(content_type=MANIFEST), endless, manifest(str(DIGEST), 20))
    assert walk.resolve(A, B).route is B
    assert walk.network.over


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "9" * 30, "0x10", ""])
def test_an_odd_length_is_none(length: str) -> None:
    head = said(content_type=MANIFEST, content_length=length, docker_content_digest=str(DIGEST))
    walk = Walk(head, said(200, RAW, content_type=MANIFEST))
    assert walk.resolve(A).descriptor.size_bytes == len(RAW)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dead_route_is_skipped_for_the_content() -> None:
    walk = Walk(down(), manifest(str(DIGEST), 20), said(200, b"0123456789"))
    walk.resolve(A, B)
    walk.open(A, B).response.body.close()
    assert walk.outcomes == [(1, "error", None), (2, "ok", 200), (1, "skipped", None), (2, "ok", 200)]
    assert walk.attempts[2].cause == "not asked again: a.example: connection refused"
    assert walk.network.over


def test_a_limited_route_is_left_for_the_next_one() -> None:
    walk = Walk(said(429, retry_after="20"), manifest(str(DIGEST), 20), said(200, b"0123456789"))
    walk.resolve(A, B)
    walk.open(A, B).response.body.close()
    assert walk.outcomes == [(1, "status", 429), (2, "ok", 200), (1, "skipped", 429), (2, "ok", 200)]
    assert walk.network.waited == []


# ── content ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_content_comes_from_the_first_route_that_gives_it() -> None:
    walk = Walk(said(404), down(), said(200, b"0123456789"))
    opened = walk.open(A, B, C)
    assert opened.attempt == walk.attempts[-1]
    assert (opened.attempt.route, opened.skip_bytes) == (C, 0)
    assert walk.network.requests[0].headers.get("accept") == "application/octet-stream, */*"
    opened.response.body.close()
    assert walk.network.over


@pytest.mark.parametrize(
    ("answer", "skip"),
    [
        (said(206, b"456789", content_range="bytes 4-9/10"), 0),
        (said(206, b"456789"), 0),
        (said(200, b"456789", content_range="bytes 4-9/10"), 0),
        (said(200, b"0123456789"), 4),
    ],
)
def test_the_rest_of_content(answer: Reply, skip: int) -> None:
    walk = Walk(answer)
    opened = walk.open(A, offset=4)
    assert opened.skip_bytes == skip
    assert walk.network.requests[0].headers.get("range") == "bytes=4-"


@pytest.mark.parametrize("content_range", ["bytes 0-9/10", "bytes 5-9/10", "bytes 3-9/10"])
def test_another_part_than_asked_for_is_refused(content_range: str) -> None:
    walk = Walk(said(206, b"0123456789", content_range=content_range), said(416))
    with pytest.raises(AllRoutesFailed, match="206 Partial Content; not the part asked for"):
        walk.open(A, B, offset=4)
    assert walk.network.over


def test_the_first_failure_decides_for_content() -> None:
    walk = Walk(down(), said(404))
    with pytest.raises(AllRoutesFailed) as caught:
        walk.open(A, B)
    assert caught.value.exit_code is ExitCode.NETWORK


def test_a_push_only_route_is_not_asked_for_content() -> None:
    walk = Walk(said())
    walk.open(replace(A, capabilities=("push",)), B).response.body.close()
    assert walk.network.lines == [f"GET https://b.example/v2/team/app/blobs/{BLOB.digest}"]


# ── foreign layers ───────────────────────────────────────────────────────────────────────────────────────────────

FOREIGN = replace(BLOB, urls=("https://u:hunter2@cdn.example/layer?sig=hunter2", "ftp://cdn.example/x", "http://[::1"))


def test_a_foreign_layer_comes_from_its_own_url_and_gets_no_credentials() -> None:
    walk = Walk(said(200, b"0123456789"))
    walk.memory = Memory(lookup(cdn_example="pass"), clock=walk.network.clock)
    opened = walk.open(A, descriptor=FOREIGN)
    assert opened.attempt.route.kind == "foreign"
    assert walk.network.lines == ["GET https://cdn.example/layer?sig=hunter2"]
    assert "hunter2" not in repr(opened.attempt)


def test_a_foreign_host_that_asks_for_credentials_gets_none() -> None:
    walk = Walk(basic(), down(Cause.BAD_URL), down(Cause.BAD_URL), said(200, b"0123456789"))
    walk.memory = Memory(lookup(cdn_example="pass", a_example="pass"), clock=walk.network.clock)
    walk.open(A, descriptor=FOREIGN)
    assert not any("authorization" in request.headers for request in walk.network.requests)
    assert walk.outcomes[0] == (-1, "auth", None)
    assert "hunter2" not in repr(walk.attempts)


def test_a_foreign_host_may_give_tokens_to_anybody() -> None:
    walk = Walk(bearer(), token(), said(200, b"0123456789"))
    walk.open(A, descriptor=replace(BLOB, urls=("https://cdn.example/layer",)))
    assert walk.network.lines[-1] == "GET https://cdn.example/layer Bearer t"


def test_a_foreign_layer_is_asked_of_the_routes_at_last() -> None:
    walk = Walk(said(404), said(200, b"0123456789"))
    opened = walk.open(A, descriptor=replace(BLOB, urls=("https://cdn.example/layer",)))
    assert opened.attempt.route is A


# ── secrets in what registries say ───────────────────────────────────────────────────────────────────────────────


def test_what_a_registry_echoes_is_masked() -> None:
    def echo(status: int) -> Reply:
        return lambda request: said(status, {"errors": [{"message": "x" * 290 + request.headers.get("authorization")}]})

    walk = Walk(basic(), echo(403), echo(403))
    walk.memory = Memory(lookup(a_example="hunter2hunter2"), clock=walk.network.clock)
    error = walk.fails(A)
    assert "Basic ***" in error.message
    secret = walk.network.lines[1].split()[-1]
    assert secret[:8] not in error.message
