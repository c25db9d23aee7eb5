"""One repository through a plan: what routes give is checked, and what one gives wrong comes from the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from images import make_image
from loopback import Loopback
from pierhead.ask import CONTAINERD
from pierhead.body import read_all
from pierhead.client import NO_PROGRESS_LIMIT, Remote
from pierhead.oci import MANIFEST_LIMIT_BYTES, Descriptor, InvalidManifest, parse_manifest
from pierhead.reference import Digest
from pierhead.store import ContentMismatch
from pierhead.transport import Cause, TransportError
from pierhead.walk import AllRoutesFailed
from pierhead.wire import Request, Response
from stocked import Broken, Tap, cut, once, registry_of, remote_of, replaced

IMAGE = make_image(layers=[2000], compression="none")
TOP = Descriptor.from_json(IMAGE.descriptor)
PARSED = parse_manifest(IMAGE.blobs[IMAGE.digest], TOP.media_type)
LAYER = PARSED.references[-1]
CONTENT = IMAGE.blobs[str(LAYER.digest)]
SIZE = len(CONTENT)
Change = Callable[[Request, Response], Response]


def network(first: Change | None = None, second: Change | None = None, *, of: Digest = LAYER.digest) -> Loopback:
    """Two hosts with the same image; each may change one piece of content."""
    registry = registry_of(IMAGE)
    changes = [{str(of): change} if change else {} for change in (first, second)]
    return Loopback({"a.example": Tap(registry, changes[0]), "b.example": Tap(registry, changes[1])})


def flipped(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


class Taker:
    """What a store does with a blob: keep what comes, check it at the end, ask again as long as there is a way."""

    def __init__(self, remote: Remote, kept: bytes = b"") -> None:
        self.remote = remote
        self.data = bytearray(kept)

    def take(self, descriptor: Descriptor = LAYER, *, rounds: int = 10) -> bytes:
        for _ in range(rounds):
            try:
                self.remote.blob(descriptor, len(self.data)).copy_to(self.data.extend)
                if Digest.of(bytes(self.data), descriptor.digest.algorithm) != descriptor.digest:
                    raise ContentMismatch("wrong")
                return bytes(self.data)
            except ContentMismatch:
                self.data.clear()
                if not self.remote.reject(descriptor):
                    raise
        raise AssertionError("it never ends")


def gets(found: Loopback) -> list[str]:
    """Which host was asked for which range, in order."""
    return [
        f"{item.authority[0]} {item.headers.get('range')}".strip() for item in found.requests if item.method == "GET"
    ]


def outcomes(remote: Remote) -> list[tuple[int, str]]:
    return [(attempt.route.order, attempt.outcome) for attempt in remote.attempts]


# ── resolving and manifests ──────────────────────────────────────────────────────────────────────────────────────


def test_a_tag_and_its_manifest() -> None:
    found = network()
    remote = remote_of(found, "a.example", "b.example")
    descriptor = remote.resolve("1")
    assert descriptor == Descriptor(TOP.media_type, TOP.digest, TOP.size_bytes)
    assert remote.manifest(descriptor) == IMAGE.blobs[IMAGE.digest]
    assert remote.resolved is not None
    assert remote.resolved.route.order == 1
    assert found.lines == [
        "HEAD https://a.example/v2/team/app/manifests/1",
        f"GET https://a.example/v2/team/app/manifests/{TOP.digest}",
    ]


@pytest.mark.parametrize("reference", [str(TOP.digest), "1"])
def test_another_reference_than_the_plans(reference: str) -> None:
    assert remote_of(network(), "a.example").resolve(reference).digest == TOP.digest


@pytest.mark.parametrize("edit", [flipped, lambda data: data[:-1], lambda data: data + b" ", lambda data: b""])
def test_a_wrong_manifest_comes_from_the_next_route(edit: Callable[[bytes], bytes]) -> None:
    found = network(replaced(edit), of=TOP.digest)
    remote = remote_of(found, "a.example", "b.example")
    assert remote.manifest(TOP) == IMAGE.blobs[IMAGE.digest]
    assert outcomes(remote)[0] == (1, "ok")
    assert (1, "content") in outcomes(remote) or (2, "ok") in outcomes(remote)
    assert "b" in gets(found)[-1]


def test_a_wrong_manifest_everywhere() -> None:
    remote = remote_of(network(replaced(flipped), replaced(flipped), of=TOP.digest), "a.example", "b.example")
    with pytest.raises(ContentMismatch):
        remote.manifest(TOP)
    assert outcomes(remote) == [(1, "ok"), (1, "content"), (2, "ok"), (2, "content")]


def test_containerd_does_not_ask_elsewhere() -> None:
    found = network(replaced(flipped), of=TOP.digest)
    with pytest.raises(ContentMismatch):
        remote_of(found, "a.example", "b.example", profile=CONTAINERD).manifest(TOP)
    assert gets(found) == ["a"]


def test_a_manifest_that_its_descriptor_calls_too_large_is_not_asked_for() -> None:
    found = network()
    with pytest.raises(InvalidManifest, match="the limit is"):
        remote_of(found, "a.example").manifest(replace(TOP, size_bytes=MANIFEST_LIMIT_BYTES + 1))
    assert found.requests == []


@pytest.mark.parametrize("size", [0, 1, TOP.size_bytes - 1, TOP.size_bytes + 1])
def test_a_descriptor_that_lies_about_the_size_ends(size: int) -> None:
    with pytest.raises(ContentMismatch):
        remote_of(network(), "a.example", "b.example").manifest(replace(TOP, size_bytes=size))


# ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_asked_before_it_is_copied() -> None:
    found = network()
    blob = remote_of(found, "a.example").blob(LAYER, 10)
    assert blob.size_bytes == SIZE - 10
    blob.close()
    assert found.requests == []
    assert read_all(blob, SIZE) == CONTENT[10:]
    assert gets(found) == ["a bytes=10-"]


def test_a_blob_of_no_bytes_needs_no_request() -> None:
    found = network()
    empty = Descriptor("application/octet-stream", Digest.of(b""), 0)
    assert Taker(remote_of(found, "a.example")).take(empty) == b""
    assert found.requests == []


def test_a_blob_that_must_not_be_empty_and_is_said_to_be_ends() -> None:
    with pytest.raises(ContentMismatch):
        Taker(remote_of(network(), "a.example", "b.example")).take(replace(LAYER, size_bytes=0))


@pytest.mark.parametrize("cause", [Cause.CUT, Cause.CLOSED, Cause.STALLED, Cause.PROTOCOL, Cause.OTHER])
def test_the_rest_of_a_cut_body_comes_from_the_next_route(cause: Cause) -> None:
    found = network(cut(700, cause))
    remote = remote_of(found, "a.example", "b.example")
    assert Taker(remote).take() == CONTENT
    assert gets(found) == ["a", "b bytes=700-"]
    assert outcomes(remote) == [(1, "ok"), (1, "error"), (2, "ok")]
    assert remote.attempts[1].cause


def test_a_single_route_gives_the_rest_itself() -> None:
    found = network(once(cut(700)))
    assert Taker(remote_of(found, "a.example")).take() == CONTENT
    assert gets(found) == ["a", "a bytes=700-"]


@pytest.mark.parametrize("cause", [Cause.PROTOCOL, Cause.OTHER])
def test_containerd_gives_up_for_such_an_error(cause: Cause) -> None:
    found = network(cut(700, cause))
    with pytest.raises(TransportError):
        Taker(remote_of(found, "a.example", "b.example", profile=CONTAINERD)).take()
    assert gets(found) == ["a"]


def test_a_body_that_always_stops_ends() -> None:
    found = network(cut(0), cut(0))
    with pytest.raises(TransportError):
        Taker(remote_of(found, "a.example", "b.example")).take()
    assert len(gets(found)) == NO_PROGRESS_LIMIT + 1


def test_wrong_bytes_come_whole_from_the_next_route() -> None:
    found = network(replaced(flipped))
    remote = remote_of(found, "a.example", "b.example")
    assert Taker(remote).take() == CONTENT
    assert gets(found) == ["a", "b"]
    assert outcomes(remote) == [(1, "ok"), (1, "content"), (2, "ok")]


def test_more_bytes_than_there_should_be_are_not_taken() -> None:
    found = network(replaced(lambda data: data + b"x"))
    remote = remote_of(found, "a.example", "b.example")
    taker = Taker(remote)
    assert taker.take() == CONTENT
    assert gets(found) == ["a", "b"]


def test_an_endless_body_is_left_at_once() -> None:
    class Endless(Broken):
        def copy_to(self, write: Callable[[bytes], object], offset: int = 0) -> int:
            while True:
                write(b"x" * 4096)

    found = network(lambda request, response: replace(response, body=Endless(b"")))
    assert Taker(remote_of(found, "a.example", "b.example")).take() == CONTENT


def test_fewer_bytes_than_there_should_be_go_on_elsewhere() -> None:
    found = network(replaced(lambda data: data[:-10]))
    assert Taker(remote_of(found, "a.example", "b.example")).take() == CONTENT
    assert gets(found) == ["a", f"b bytes={SIZE - 10}-"]


def test_mixed_wrong_bytes_come_whole_from_one_route_after_another() -> None:
    """The first half of the first is wrong: which one lied is not known, so each is asked for all of it."""
    wrong_then_cut: Change = lambda request, response: cut(700)(request, replaced(flipped)(request, response))  # noqa: E731
    found = network(wrong_then_cut)
    remote = remote_of(found, "a.example", "b.example")
    assert Taker(remote).take() == CONTENT
    assert gets(found)[:2] == ["a", "b bytes=700-"]
    assert gets(found)[-1] == "b"
    assert outcomes(remote).count((1, "content")) >= 1


def test_a_route_that_always_cuts_is_left_when_all_must_come_from_one() -> None:
    found = network(cut(0), once(replaced(flipped)))
    assert Taker(remote_of(found, "a.example", "b.example")).take() == CONTENT


def test_a_wrong_beginning_from_an_earlier_run_is_asked_anew() -> None:
    found = network()
    assert Taker(remote_of(found, "a.example", "b.example"), kept=b"?" * 700).take() == CONTENT
    assert gets(found) == ["a bytes=700-", "a"]


def test_a_server_that_ignores_ranges_gives_all_and_the_known_part_is_dropped() -> None:
    def whole(request: Request, response: Response) -> Response:
        return Response(200, body=Tap(registry_of(IMAGE))(replace(request, headers=type(request.headers)())).body)

    found = network(whole)
    assert Taker(remote_of(found, "a.example"), kept=CONTENT[:700]).take() == CONTENT
    assert gets(found) == ["a bytes=700-"]


def test_every_route_wrong_is_the_end() -> None:
    found = network(replaced(flipped), replaced(flipped))
    remote = remote_of(found, "a.example", "b.example")
    with pytest.raises(ContentMismatch):
        Taker(remote).take()
    assert gets(found) == ["a", "b"]
    assert outcomes(remote) == [(1, "ok"), (1, "content"), (2, "ok"), (2, "content")]


def test_a_digest_of_another_kind() -> None:
    data = b"x" * 500
    descriptor = Descriptor("application/octet-stream", Digest.of(data, "sha512"), 500)

    def answer(request: Request) -> Response:
        if "range" in request.headers:
            return Response(206, body=Broken(data[100:]))  # and the connection is cut after the last byte
        return Response(200, body=Broken(data[:100]))

    found = Loopback({"a.example": answer})
    assert Taker(remote_of(found, "a.example")).take(descriptor) == data


def test_a_missing_blob_has_an_attempt_for_each_route() -> None:
    absent = Descriptor("application/octet-stream", Digest.of(b"absent"), 6)
    remote = remote_of(network(), "a.example", "b.example", "c.example")
    with pytest.raises(AllRoutesFailed) as caught:
        Taker(remote).take(absent)
    assert [attempt.status for attempt in caught.value.attempts] == [404, 404, None]
    assert list(caught.value.attempts) == remote.attempts


# ── foreign layers ───────────────────────────────────────────────────────────────────────────────────────────────


def foreign(body: bytes) -> tuple[Loopback, Descriptor]:
    found = network()
    found.hosts["cdn.example"] = lambda request: Response(
        200, body=replaced(lambda _: body)(request, Response(200)).body
    )
    return found, replace(LAYER, urls=("https://cdn.example/layer", "https://gone.example/layer"))


def test_a_foreign_layer() -> None:
    found, descriptor = foreign(CONTENT)
    assert Taker(remote_of(found, "a.example")).take(descriptor) == CONTENT
    assert found.lines == ["GET https://cdn.example/layer"]


def test_a_wrong_foreign_layer_comes_from_the_routes() -> None:
    found, descriptor = foreign(flipped(CONTENT))
    remote = remote_of(found, "a.example")
    assert Taker(remote).take(descriptor) == CONTENT
    assert found.lines[:2] == ["GET https://cdn.example/layer", "GET https://gone.example/layer"]
    assert found.lines[2].startswith("GET https://a.example/")
    assert outcomes(remote) == [(-1, "ok"), (-1, "content"), (-2, "error"), (1, "ok")]


def test_a_foreign_layer_wrong_everywhere_ends() -> None:
    found, descriptor = foreign(flipped(CONTENT))
    with pytest.raises((ContentMismatch, AllRoutesFailed)):
        Taker(remote_of(found, "x.example")).take(descriptor)


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_several_threads_use_one_remote() -> None:
    remote = remote_of(network(), "a.example", "b.example")
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(read_all(remote.blob(LAYER), SIZE))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert got == [CONTENT] * 6
