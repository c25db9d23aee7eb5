"""A registry as a sink: each byte once, nothing wrong ever visible, whatever goes wrong on the way there."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from images import make_image
from loopback import Loopback
from pierhead.ask import OURS, Memory
from pierhead.auth import AuthorizationFailed, Credential
from pierhead.body import Blob, BytesBlob, read_all
from pierhead.client import Remote
from pierhead.errors import ExitCode, PierheadError
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, InvalidManifest, Platform
from pierhead.push import DigestRefused, Pusher, PushRefused, RemoteSink
from pierhead.push.place import CHUNKS_BYTES
from pierhead.push.upload import BEGINNINGS_LIMIT, FAILURES_LIMIT
from pierhead.redact import Secret
from pierhead.reference import Digest
from pierhead.routing import Plan, push_route
from pierhead.server.registry import Registry
from pierhead.store import (
    ContentMismatch,
    Expected,
    InvalidName,
    ManifestBlobUnknown,
    NotFound,
    Repository,
    RepositoryName,
)
from pierhead.transfer import Interrupted, Transfer
from pierhead.transport import Cause, TransportError
from pierhead.wire import Headers, Request, Response
from pushing import (
    HOST,
    Fault,
    Pieces,
    Pushing,
    Shaky,
    broken,
    changed,
    cut_at,
    forgetful,
    limited,
    says,
    send,
    times,
    unheard,
    with_header,
)
from scripted import route, said
from stocked import REFERENCE, Tap, Ticks, registry_of, remote_of, replaced
from store_contract import RepositoryContract, blob_of, index_of, manifest_of, put_image

DATA = random.Random(5).randbytes(10_000)
BLOB = blob_of(DATA)
IMAGE = make_image(layers=[1500, 700], compression="none")
NAME = RepositoryName("team/copy")


def pushing(*faults: Fault, **more: object) -> Pushing:
    return Pushing(Shaky(Registry(MemoryStore()), list(faults)), **more)  # type: ignore[arg-type]


def stored(pushed: Pushing, descriptor: Descriptor = BLOB, name: RepositoryName = NAME) -> bytes | None:
    """What the registry has of a blob; None if it has none."""
    repository = pushed.shaky.registry._store.repository(name)
    try:
        return read_all(repository.blob(descriptor), 1 << 24)
    except NotFound:
        return None


def sessions(pushed: Pushing) -> int:
    """Uploads that the registry still waits for."""
    store = pushed.shaky.registry._store
    assert isinstance(store, MemoryStore)
    return len(store.sessions)


# ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_blob_is_one_post_and_one_put() -> None:
    pushed = pushing()
    assert send(pushed.sink(), BLOB, Pieces(DATA)) == 0
    assert pushed.lines == ["POST team/copy/blobs/uploads/", "PUT team/copy/blobs/uploads/…?digest"]
    assert stored(pushed) == DATA
    assert pushed.shaky.received == len(DATA)


def test_an_empty_blob() -> None:
    pushed, empty = pushing(), blob_of(b"")
    send(pushed.sink(), empty, Pieces(b""))
    assert stored(pushed, empty) == b""


def test_what_is_there_is_asked_for_once() -> None:
    pushed = pushing()
    sink = pushed.sink()
    assert not sink.has(BLOB)
    send(sink, BLOB, Pieces(DATA))
    pushed.network.clear()
    assert sink.has(BLOB)
    assert pushed.lines == []
    pushed.pusher = pushed.new_pusher()
    assert pushed.sink().has(BLOB)
    assert pushed.sink().has(BLOB)
    assert pushed.lines == ["HEAD team/copy/blobs/sha"]


def test_a_blob_of_another_size_is_not_there() -> None:
    pushed = pushing()
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert not pushing(times(1, "HEAD", says(said(200, content_length="9999")))).sink().has(BLOB)
    assert pushing(times(1, "HEAD", says(said(200)))).sink().has(BLOB)


def test_without_head_everything_is_sent() -> None:
    pushed = pushing(times(1, "HEAD", says(said(405))))
    assert not pushed.sink().has(BLOB)


@pytest.mark.parametrize("what", ["/blobs/", "/manifests/sha", "/manifests/1"])
def test_what_the_registry_cannot_read_is_written_anew(what: str) -> None:
    """As CNCF distribution 2.8 with a link file that a full disk left empty: 500 whenever it is asked for."""
    pushed = pushing(times(1000, "HEAD", says(said(500)), where=what), others={"a.example": registry_of(IMAGE)})
    for _ in range(2):
        with Transfer(1) as transfer:
            transfer.copy(remote_of(pushed.network, "a.example"), pushed.sink(), "1")
        pushed.pusher = pushed.new_pusher()
    pushed.shaky.faults.clear()
    assert pushed.sink().resolve("1").digest == Digest.parse(IMAGE.digest)


def test_a_tag_that_must_not_move_is_not_written_unread() -> None:
    pushed = pushing(others={"a.example": registry_of(IMAGE)})
    with Transfer(1) as transfer:
        copied = transfer.copy(remote_of(pushed.network, "a.example"), pushed.sink(), "1")
    pushed.shaky.faults.append(times(1000, "HEAD", says(said(500)), where="/manifests/1"))
    with pytest.raises(PushRefused):
        pushed.sink().tag("1", copied.descriptor, expected=Expected.NOTHING)


def test_an_upload_that_is_left_is_cancelled() -> None:
    pushed = pushing()
    with pushed.sink().upload(BLOB) as upload:
        upload.write(DATA[:100])
        assert upload.offset == 100
    assert pushed.lines == []
    with pytest.raises(ZeroDivisionError), pushed.sink().upload(BLOB) as upload:
        upload.fill(Pieces(DATA, then=ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError), pushed.sink().upload(BLOB) as upload:
        upload.fill(Pieces(DATA[:5000], then=ZeroDivisionError()))
    assert (sessions(pushed), stored(pushed)) == (0, None)


# ── mounting ─────────────────────────────────────────────────────────────────────────────────────────────────────


def new(sink: RemoteSink) -> RemoteSink:
    """A repository that an image is missing from."""
    assert not sink.has(blob_of(b"its manifest", OCI_MANIFEST))
    return sink


def test_a_blob_of_another_repository_is_mounted() -> None:
    pushed = pushing()
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    pushed.network.clear()
    sink = new(pushed.sink())
    assert not sink.has(BLOB)
    assert send(sink, BLOB, Pieces(b"")) == len(DATA)
    assert pushed.lines == ["HEAD team/copy/manifests/sha", "POST team/copy/blobs/uploads/?mount"]
    assert f"?mount={str(BLOB.digest).replace(':', '%3A')}&from=team%2Ffirst" in pushed.network.lines[-1]
    assert stored(pushed) == DATA
    assert sink.has(BLOB)


def test_a_blob_that_was_only_found_is_mounted_too() -> None:
    pushed = pushing()
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    pushed.pusher = pushed.new_pusher()
    assert pushed.sink("team/first").has(BLOB)
    assert send(new(pushed.sink()), BLOB, Pieces(b"")) == len(DATA)


def test_where_nothing_is_new_nothing_is_mounted_unasked() -> None:
    """A second run asks, and writes nothing."""
    pushed = pushing()
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    send(new(pushed.sink()), BLOB, Pieces(b""))
    pushed.pusher = pushed.new_pusher()
    pushed.network.clear()
    assert pushed.sink("team/first").has(BLOB)
    assert pushed.sink().has(BLOB)
    assert {request.method for request in pushed.network.requests} == {"HEAD"}


def without_mount(request: Request, registry: Registry) -> Response | None:
    return registry.handle(replace(request, url=request.url.partition("?")[0])) if "?mount=" in request.url else None


def test_the_session_of_a_refused_mount_is_used() -> None:
    pushed = pushing(without_mount)
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    sink = new(pushed.sink())
    pushed.network.clear()
    assert send(sink, BLOB, Pieces(DATA)) == 0
    assert pushed.lines == [
        "POST team/copy/blobs/uploads/?mount",
        "HEAD team/copy/blobs/sha",
        "PUT team/copy/blobs/uploads/…?digest",
    ]


def test_a_registry_that_does_not_mount_is_left_alone_with_it() -> None:
    pushed = pushing(without_mount)
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    for number in range(4):
        sink = new(pushed.sink(f"team/app{number}"))
        if not sink.has(BLOB):
            send(sink, BLOB, Pieces(DATA))
    assert len([line for line in pushed.lines if line.endswith("?mount")]) == 2


def test_what_is_there_is_not_sent_where_nothing_is_mounted() -> None:
    pushed = pushing(without_mount)
    for name in ("team/first", "team/copy"):
        send(pushed.sink(name), BLOB, Pieces(DATA))
    pushed.pusher = pushed.new_pusher()
    assert pushed.sink("team/first").has(BLOB)
    received = pushed.shaky.received
    assert send(new(pushed.sink()), BLOB, Pieces(b"")) == len(DATA)
    assert (pushed.shaky.received, sessions(pushed)) == (received, 0)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 400])
def test_a_mount_that_is_forbidden_is_no_failure(status: int) -> None:
    pushed = pushing(times(1, "POST", says(said(status)), where="?mount="))
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    send(new(pushed.sink()), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_mount_as_a_store_has_it() -> None:
    pushed = pushing()
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    assert pushed.sink().mount(BLOB, RepositoryName("team/first"))
    assert not pushed.sink().mount(blob_of(b"none"), RepositoryName("team/first"))
    assert sessions(pushed) == 0


def test_the_path_of_an_endpoint_is_part_of_the_name() -> None:
    """Harbor: `https://harbor/v2/project`; what is mounted is named as the registry names it."""
    pushed = pushing()
    first = pushed.sink("one", path="/v2/project")
    assert first.name == RepositoryName("project/one", HOST)
    send(first, BLOB, Pieces(DATA))
    send(new(pushed.sink("two")), BLOB, Pieces(b""))
    assert "from=project%2Fone" in pushed.network.lines[-1]
    assert stored(pushed, name=RepositoryName("project/one")) == DATA


# ── broken connections ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_arrived_is_not_sent_again() -> None:
    pushed, blob = pushing(times(1, "PUT", cut_at(4200))), Pieces(DATA)
    send(pushed.sink(), BLOB, blob)
    assert stored(pushed) == DATA
    assert pushed.shaky.received == len(DATA)
    assert [line.partition(" ")[0] for line in pushed.lines] == ["POST", "PUT", "GET", "PUT"]
    assert pushed.network.requests[-1].headers.get("content-range") == "4200-9999"
    assert len(pushed.waited) == 1


@settings(deadline=None, max_examples=60)
@given(
    cuts=st.lists(st.integers(2, 2500), max_size=4),  # "0-0" may be one byte, or none
    piece=st.integers(200, 3000),
    mark=st.integers(100, 6000),
    losing=st.booleans(),
)
def test_any_cuts_are_survived(cuts: list[int], piece: int, mark: int, losing: bool) -> None:
    faults = [times(1, "PUT", cut_at(at)) for at in cuts]
    pushed, blob = pushing(*([forgetful] if losing else []), *faults), Pieces(DATA, piece)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pierhead.push.upload.MARK_BYTES", mark)
        send(pushed.sink(), BLOB, blob)
    assert stored(pushed) == DATA
    if not losing and len(cuts) < 3:  # with three in a row without getting on it would be chunks
        assert pushed.shaky.received == len(DATA)
    assert sessions(pushed) == 0 or losing


def test_a_blob_begins_anew_where_the_registry_keeps_nothing() -> None:
    pushed, blob = pushing(forgetful, times(1, "PUT", cut_at(4200))), Pieces(DATA)
    send(pushed.sink(), BLOB, blob)
    assert stored(pushed) == DATA
    assert blob.starts == [0, 0]
    assert [line.split()[0] for line in pushed.lines] == ["POST", "PUT", "GET", "HEAD", "POST", "PUT"]


def test_beginning_anew_has_an_end() -> None:
    pushed, blob = pushing(forgetful, times(1000, "PUT", cut_at(4200)), times(1000, "PATCH", cut_at(10))), Pieces(DATA)
    with pytest.raises(PierheadError):
        send(pushed.sink(), BLOB, blob)
    assert len(blob.starts) <= BEGINNINGS_LIMIT + FAILURES_LIMIT
    assert stored(pushed) is None


def test_an_answer_that_got_lost_is_found_out() -> None:
    pushed, blob = pushing(times(1, "PUT", unheard)), Pieces(DATA)
    send(pushed.sink(), BLOB, blob)
    assert pushed.shaky.received == len(DATA)
    assert pushed.lines[-1] == "HEAD team/copy/blobs/sha"


def test_connections_that_always_break_are_given_up() -> None:
    pushed = pushing(times(100, "PUT", broken()))
    with pytest.raises(TransportError) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert caught.value.cause is Cause.CLOSED
    assert len(pushed.waited) == FAILURES_LIMIT


def test_a_proxy_that_hangs_up_on_large_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.push.place.CHUNKS_BYTES", (4000, 1000))

    def hang_up(request: Request, registry: Registry) -> Response | None:
        if request.body is not None and (request.body.size_bytes or 0) > 4000:
            raise TransportError(Cause.CLOSED, request.url)
        return None

    pushed = pushing(hang_up)
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_interrupted_at_once() -> None:
    pushed = pushing(times(1, "PUT", broken(Cause.INTERRUPTED)))
    with pytest.raises(TransportError) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert caught.value.cause is Cause.INTERRUPTED
    assert (pushed.waited, pushed.lines[2:]) == ([], [])


def test_interrupted_by_whoever_waits() -> None:
    def stop(_: float) -> None:
        raise Interrupted

    pushed = pushing(times(1, "PUT", broken()))
    pushed.pusher = Pusher(pushed.network, clock=Ticks(), wait=stop)
    with pytest.raises(Interrupted):
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert len(pushed.lines) == 2


def test_interrupted_by_the_transfer() -> None:
    pushed = pushing()
    with pytest.raises(Interrupted):
        send(pushed.sink(), BLOB, Pieces(DATA[:5000], then=Interrupted()))
    assert len(pushed.lines) == 2  # nobody waits for a goodbye


def test_a_registry_that_is_restarted() -> None:
    """Refused for a moment, and the upload is unknown then."""
    pushed = pushing(
        forgetful, times(1, "PUT", cut_at(3000)), times(3, "GET", broken(Cause.REFUSED), where="/blobs/uploads/")
    )
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


# ── the source ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "wrong", [DATA[:-1] + b"!", b"!" + DATA[1:], DATA[:-1], DATA + b"!", b""], ids=["end", "begin", "cut", "more", "no"]
)
@pytest.mark.parametrize("chunk", [None, 3000])
def test_wrong_bytes_are_never_committed(wrong: bytes, chunk: int | None) -> None:
    pushed = pushing()
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = chunk
    with sink.upload(BLOB) as upload:
        with pytest.raises(ContentMismatch):
            upload.fill(Pieces(wrong))
        upload.restart()
        assert upload.offset == 0
        assert (stored(pushed), sessions(pushed)) == (None, 0)
        upload.fill(Pieces(DATA))
        upload.commit()
    assert stored(pushed) == DATA


def test_wrong_bytes_are_taken_from_elsewhere() -> None:
    layer = IMAGE.manifest["layers"][0]["digest"]
    bad = Tap(registry_of(IMAGE), {layer: replaced(lambda data: data[:-1] + bytes([data[-1] ^ 1]))})
    pushed = pushing(others={"a.example": bad, "c.example": registry_of(IMAGE)})
    remote = remote_of(pushed.network, "a.example", "c.example")
    with Transfer(2) as transfer:
        transfer.copy(remote, pushed.sink(), "1")
    assert pushed.sink().resolve("1").digest == Digest.parse(IMAGE.digest)
    assert sessions(pushed) == 0


def test_a_source_that_breaks_is_not_taken_for_the_registry() -> None:
    pushed, error = pushing(), TransportError(Cause.CUT, "https://a.example/")
    with pytest.raises(TransportError) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA[:5000], then=error))
    assert caught.value is error
    assert pushed.waited == []
    assert sessions(pushed) == 0


def test_a_registry_that_breaks_is_not_taken_for_the_source() -> None:
    """Or the remote would ask its next route for a rest that nobody misses."""
    tap = Tap(registry_of(IMAGE))
    pushed = pushing(times(2, "PUT", cut_at(700), where="/blobs/"), others={"a.example": tap})
    with Transfer(1) as transfer:
        transfer.copy(remote_of(pushed.network, "a.example"), pushed.sink(), "1")
    assert {attempt.outcome for attempt in remote_of(pushed.network, "a.example").attempts} <= {"ok"}
    assert pushed.sink().resolve("1").digest == Digest.parse(IMAGE.digest)


def test_a_digest_that_the_registry_refuses_once() -> None:
    invalid = said(400, {"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]})
    pushed = pushing(times(1, "PUT", says(invalid)))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_a_digest_that_the_registry_always_refuses() -> None:
    invalid = said(400, {"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]})
    pushed, blob = pushing(times(9, "PUT", says(invalid))), Pieces(DATA)
    with pytest.raises(DigestRefused) as caught:
        send(pushed.sink(), BLOB, blob)
    assert len(blob.starts) <= 2
    assert "right when they left" in caught.value.message
    assert "on the way" in caught.value.hint


def test_bytes_are_changed_on_the_way() -> None:
    """Really changed: what arrives is not what was sent."""

    def change(request: Request, registry: Registry) -> Response | None:
        if request.method != "PUT" or request.body is None:
            return None
        data = bytearray(read_all(request.body, 1 << 20))
        data[0] ^= 1
        return registry.handle(replace(request, body=BytesBlob(bytes(data))))

    pushed = pushing(change)
    with pytest.raises(DigestRefused):
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) is None


# ── large bodies ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_chunks_where_a_proxy_refuses_large_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.push.place.CHUNKS_BYTES", (8000, 1000, 250))
    pushed = pushing(limited(1000))
    send(pushed.sink(), BLOB, Pieces(DATA, 700))
    assert stored(pushed) == DATA
    assert pushed.shaky.received == len(DATA)
    ranges = [item.headers.get("content-range") for item in pushed.network.requests if item.method == "PATCH"]
    assert ranges[-2:] == ["7000-7999", "8000-8999"]
    # Once it is known, it is known for all images of this registry.
    pushed.network.clear()
    other = blob_of(DATA[:2500])
    send(pushed.sink("team/other"), other, Pieces(DATA[:2500]))
    assert [line.split()[0] for line in pushed.lines] == ["POST", "PATCH", "PATCH", "PUT"]


def test_the_sizes_of_chunks() -> None:
    assert CHUNKS_BYTES == (8 << 20, 1 << 20, 256 << 10)


def test_a_proxy_that_refuses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.push.place.CHUNKS_BYTES", (8000, 1000, 250))
    pushed = pushing(limited(100))
    with pytest.raises(PushRefused, match="413") as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert "client_max_body_size" in caught.value.hint
    assert sessions(pushed) == 0


@pytest.mark.parametrize(("shortest", "fits"), [(2000, True), (5000, False)])
def test_the_shortest_chunk_that_a_registry_takes(monkeypatch: pytest.MonkeyPatch, shortest: int, fits: bool) -> None:
    monkeypatch.setattr("pierhead.push.place.CHUNKS_BYTES", (3000, 1000, 250))
    told = times(9, "POST", changed(lambda answer: with_header(answer, "OCI-Chunk-Min-Length", str(shortest))))
    pushed = pushing(told, limited(4000))
    if fits:
        send(pushed.sink(), BLOB, Pieces(DATA))
        assert stored(pushed) == DATA
    else:
        with pytest.raises(PushRefused, match="413"):
            send(pushed.sink(), BLOB, Pieces(DATA))


@settings(deadline=None, max_examples=40)
@example(chunk=300, piece=100, cuts=[1], losing=False)
@given(
    chunk=st.integers(300, 4000),
    piece=st.integers(100, 5000),
    cuts=st.lists(st.integers(0, 280), max_size=3),
    losing=st.booleans(),
)
def test_any_cuts_in_chunks_are_survived(chunk: int, piece: int, cuts: list[int], losing: bool) -> None:
    faults = [times(1, "PATCH", cut_at(at)) for at in cuts]
    pushed = pushing(*([forgetful] if losing else []), *faults)
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = chunk
    send(sink, BLOB, Pieces(DATA, piece))
    assert stored(pushed) == DATA
    if not losing:
        # "0-0" may be one byte, or none: where it is one, that one is sent again.
        assert pushed.shaky.received - len(DATA) in ({0, 1} if 1 in cuts else {0})


def test_pieces_that_are_written_one_by_one_go_out_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.push.upload.CHUNKS_BYTES", (3000,))
    pushed = pushing()
    with pushed.sink().upload(BLOB) as upload:
        for start in range(0, len(DATA), 900):
            upload.write(DATA[start : start + 900])
            assert upload.offset == min(start + 900, len(DATA))
        upload.commit()
    assert [line.split()[0] for line in pushed.lines] == ["POST", "PATCH", "PATCH", "PATCH", "PUT"]
    assert stored(pushed) == DATA


def test_what_was_written_comes_before_what_fills() -> None:
    pushed = pushing()
    with pushed.sink().upload(BLOB) as upload:
        upload.write(DATA[:4000])
        upload.fill(Pieces(DATA[4000:]))
        upload.commit()
    assert stored(pushed) == DATA


# ── what registries say of an upload ─────────────────────────────────────────────────────────────────────────────


def test_a_range_that_is_behind() -> None:
    """The registry kept less of a chunk than it took: the rest is sent again."""

    def keep_less(request: Request, registry: Registry) -> Response:
        assert request.body is not None
        kept = read_all(request.body, 1 << 20)[:1500]
        return registry.handle(Request("PATCH", request.url, Headers(), BytesBlob(kept)))

    pushed = pushing(times(1, "PATCH", keep_less))
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = 4000
    send(sink, BLOB, Pieces(DATA))
    assert stored(pushed) == DATA
    assert pushed.network.requests[2].headers.get("content-range") == "1500-5499"


def test_a_registry_that_takes_nothing_of_it() -> None:
    take_nothing = changed(lambda answer: answer)

    def refuse(request: Request, registry: Registry) -> Response:
        return registry.handle(Request("PATCH", request.url, Headers(), BytesBlob(b"")))

    pushed = pushing(times(1, "PATCH", take_nothing), times(99, "PATCH", refuse))
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = 4000
    with pytest.raises(PierheadError):
        send(sink, BLOB, Pieces(DATA))


@pytest.mark.parametrize("lie", ["0-9998", "0-99999999", "5-2", "x", "0--1", "bytes=0-9999999", ""])
def test_a_lying_range_is_not_believed(lie: str) -> None:
    """After a break the registry says that it has what it cannot have, or nothing that has a meaning."""
    pushed = pushing(
        times(1, "PUT", cut_at(4200)),
        times(1, "GET", changed(lambda answer: with_header(answer, "Range", lie)), where="/blobs/uploads/"),
    )
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_a_range_that_lies_plausibly_is_found_out() -> None:
    pushed = pushing(
        times(1, "PUT", cut_at(4200)),
        times(1, "GET", changed(lambda answer: with_header(answer, "Range", "0-3999")), where="/blobs/uploads/"),
    )
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_416_says_where_to_go_on() -> None:
    pushed = pushing(times(1, "PATCH", says(said(416, range="0-0"))))
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = 4000
    send(sink, BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
def test_what_may_pass_is_repeated(status: int, method: str) -> None:
    pushed = pushing(times(3, method, says(said(status))))
    sink = pushed.sink()
    assert not sink.has(BLOB)
    send(sink, BLOB, Pieces(DATA))
    assert stored(pushed) == DATA
    assert len(pushed.waited) >= 3


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_as_long_as_the_registry_says(method: str) -> None:
    pushed = pushing(times(1, method, says(said(503, retry_after="7"))))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert pushed.waited == [7.0]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_one_request_in_twenty_fails(seed: int) -> None:
    chance = random.Random(seed)

    def fault(request: Request, registry: Registry) -> Response | None:
        what = chance.random()
        if what < 0.05:
            return said(chance.choice([500, 502, 503]))
        if what < 0.1:
            if request.body is not None and (request.body.size_bytes or 0) > 10:
                return cut_at(chance.randrange(1, 9))(request, registry)
            raise TransportError(Cause.CLOSED, request.url)
        return None

    pushed = pushing(fault, others={"a.example": registry_of(IMAGE)})
    with Transfer(1) as transfer:
        transfer.copy(remote_of(pushed.network, "a.example"), pushed.sink(), "1")
    pushed.shaky.faults.clear()
    assert pushed.sink().resolve("1").digest == Digest.parse(IMAGE.digest)


# ── where to send it ─────────────────────────────────────────────────────────────────────────────────────────────


def located(edit: Callable[[str], str]) -> Fault:
    def change(answer: Response) -> Response:
        return with_header(answer, "Location", edit(answer.headers.get("location")))

    return times(9, "POST", changed(change))


def test_the_query_of_an_upload_is_kept() -> None:
    pushed = pushing(located(lambda path: f"{path}?_state=a%2Fb%3D%3D&x"))
    send(pushed.sink(), BLOB, Pieces(DATA))
    digest = str(BLOB.digest).replace(":", "%3A")
    assert pushed.network.lines[-1].endswith(f"?_state=a%2Fb%3D%3D&x&digest={digest}")


def test_an_absolute_location() -> None:
    pushed = pushing(located(lambda path: f"https://{HOST}{path}"))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_a_registry_that_does_not_know_of_its_tls() -> None:
    pushed = pushing(located(lambda path: f"http://{HOST}{path}"))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert {request.origin for request in pushed.network.requests} == {f"https://{HOST}"}


def test_a_location_on_another_host_gets_no_credentials() -> None:
    registry = Registry(MemoryStore())

    def door(request: Request) -> Response:
        if request.headers.get("authorization") != "Basic dXNlcjpwYXNzd29yZA==":
            return said(401, www_authenticate='Basic realm="r"')
        answer = registry.handle(request)
        location = answer.headers.get("location")
        return with_header(answer, "Location", f"https://store.example{location}") if location else answer

    pushed = Pushing(
        Shaky(registry),
        lambda host: Credential("user", Secret("password")) if host == HOST else None,
        {HOST: door, "store.example": registry},
    )
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA
    elsewhere = [request for request in pushed.network.requests if request.authority == "store.example"]
    assert [request.method for request in elsewhere] == ["PUT"]
    assert "authorization" not in elsewhere[0].headers


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "https:///x", "gopher://b.example/", "https://[", "ht\ntp://x/"]
)
def test_hostile_locations(location: str) -> None:
    pushed = pushing(located(lambda path: location))
    with pytest.raises(TransportError) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert caught.value.cause is Cause.BAD_URL


def test_names_and_passwords_in_a_location_are_not_used() -> None:
    pushed = pushing(located(lambda path: f"https://who:secret@{HOST}{path}"))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert not any("secret" in line for line in pushed.network.lines)


def test_redirects_without_end() -> None:
    pushed = pushing(lambda request, registry: said(307, location=request.url) if request.method == "POST" else None)
    with pytest.raises(TransportError, match="redirects"):
        send(pushed.sink(), BLOB, Pieces(DATA))


def test_an_upload_that_is_redirected() -> None:
    def redirect(request: Request, registry: Registry) -> Response:
        return said(307, location=request.url.replace("uploads/", "uploads//").replace("//", "/", 0) + "&again=1")

    pushed = pushing(times(1, "PUT", redirect))
    pushed.shaky.faults.append(
        lambda request, registry: (
            registry.handle(replace(request, url=request.url.replace("uploads//", "uploads/")))
            if "again=1" in request.url
            else None
        )
    )
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


# ── who we are ───────────────────────────────────────────────────────────────────────────────────────────────────


class Guarded:
    """A registry that wants bearer tokens, each good for some requests; `scopes` are what was asked for."""

    def __init__(self, lasts: int = 1000) -> None:
        self.registry = Registry(MemoryStore())
        self.lasts, self.left, self.number = lasts, 0, 0
        self.scopes: list[str] = []

    def __call__(self, request: Request) -> Response:
        if request.target.startswith("/token"):
            from urllib.parse import parse_qs, urlsplit

            body = read_all(request.body, 10_000).decode() if request.body else urlsplit(request.url).query
            self.scopes.append(" ".join(parse_qs(body).get("scope", [])))
            self.number, self.left = self.number + 1, self.lasts
            return said(200, {"token": f"token-{self.number}", "access_token": f"token-{self.number}"})
        if request.headers.get("authorization") != f"Bearer token-{self.number}" or not self.left:
            return said(401, www_authenticate=f'Bearer realm="https://{HOST}/token",service="s"')
        self.left -= 1
        return self.registry.handle(request)


def guarded(lasts: int = 1000) -> tuple[Guarded, Pushing]:
    door = Guarded(lasts)
    return door, Pushing(Shaky(door.registry), lambda host: Credential("user", Secret("password")), {HOST: door})


def test_tokens_are_asked_for_with_what_they_are_for() -> None:
    door, pushed = guarded()
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    send(new(pushed.sink()), BLOB, Pieces(b""))
    assert door.scopes == [
        "repository:team/first:pull,push",
        "repository:team/copy:pull,push",
        "repository:team/copy:pull,push repository:team/first:pull",
    ]


@pytest.mark.parametrize("lasts", [1, 2, 3])
def test_a_token_that_runs_out_in_the_middle(lasts: int) -> None:
    door, pushed = guarded(lasts)
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = 1500
    send(sink, BLOB, Pieces(DATA))
    assert stored(pushed) == DATA
    assert len(door.scopes) > 2


def test_a_stream_that_is_challenged_is_sent_again_whole() -> None:
    _, pushed = guarded(1)
    blob = Pieces(DATA)
    send(pushed.sink(), BLOB, blob)
    assert stored(pushed) == DATA


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────

DENIED = {"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}
READ_ONLY = {"errors": [{"code": "UNSUPPORTED", "message": "The operation is unsupported."}]}
FULL = {"errors": [{"code": "UNKNOWN", "message": "unknown error", "detail": {"Op": "write", "Path": "/x", "Err": 28}}]}


@pytest.mark.parametrize(
    ("answer", "code", "told", "hint"),
    [
        (said(403, DENIED), ExitCode.NOT_AUTHORISED, "DENIED: requested access", "--dest-creds"),
        (said(401), ExitCode.NOT_AUTHORISED, "401", "configs"),
        (said(404, {"errors": [{"code": "NAME_UNKNOWN"}]}), ExitCode.NOT_FOUND, "NAME_UNKNOWN", "created first"),
        (said(405, READ_ONLY), ExitCode.FAILED, "UNSUPPORTED", "read only"),
        (said(507), ExitCode.FAILED, "507", "disk is full"),
        (said(500, FULL), ExitCode.FAILED, "500", "disk is full"),
        (said(500, b"oops"), ExitCode.FAILED, "500", "own log"),
        (said(418), ExitCode.FAILED, "418", ""),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_refusal_says_what_and_why(answer: Response, code: ExitCode, told: str, hint: str, method: str) -> None:
    pushed = pushing(times(99, method, says(answer)))
    with pytest.raises(PushRefused) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert (caught.value.exit_code, caught.value.status) == (code, answer.status)
    assert told in caught.value.message
    assert "team/copy" in caught.value.message
    assert hint in caught.value.hint
    assert not caught.value.message.endswith(".")


def test_no_secret_is_repeated() -> None:
    def tell(request: Request) -> Response:
        sent = request.headers.get("authorization")
        if not sent:
            return said(401, www_authenticate='Basic realm="r"')
        return said(400, {"errors": [{"code": "UNKNOWN", "message": f"you said {sent} and hunter22"}]})

    pushed = Pushing(Shaky(Registry(MemoryStore())), lambda host: Credential("user", Secret("hunter22")), {HOST: tell})
    with pytest.raises(PushRefused) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert "hunter22" not in caught.value.message
    assert "dXNlc" not in caught.value.message


def test_nobody_is_known_there() -> None:
    pushed = pushing(lambda request, registry: said(401, www_authenticate='Basic realm="r"'))
    with pytest.raises(AuthorizationFailed) as caught:
        pushed.sink().has(BLOB)
    assert HOST in caught.value.hint


def test_a_registry_that_is_not_there() -> None:
    pushed = pushing()
    del pushed.network.hosts[HOST]
    with pytest.raises(TransportError) as caught:
        pushed.sink().has(BLOB)
    assert caught.value.exit_code is ExitCode.NETWORK
    assert pushed.waited == []  # nobody was ever there


# ── manifests and tags ───────────────────────────────────────────────────────────────────────────────────────────


def copy(pushed: Pushing, image_host: str = "a.example", **more: object) -> None:
    with Transfer(2) as transfer:
        transfer.copy(remote_of(pushed.network, image_host), pushed.sink(), "1", **more)  # type: ignore[arg-type]


def written(pushed: Pushing) -> list[str]:
    return [line for line in pushed.lines if line.split()[0] in {"PUT", "POST", "PATCH", "DELETE"}]


def test_the_manifest_and_its_tag_are_one_request() -> None:
    pushed = pushing(others={"a.example": registry_of(IMAGE)})
    copy(pushed)
    assert [line for line in written(pushed) if "/manifests/" in line] == ["PUT team/copy/manifests/1"]
    assert not [line for line in pushed.lines if line == "HEAD team/copy/manifests/1"]
    assert pushed.sink().resolve("1").digest == Digest.parse(IMAGE.digest)


def test_a_second_run_writes_nothing() -> None:
    pushed = pushing(others={"a.example": registry_of(IMAGE)})
    copy(pushed)
    pushed.pusher = pushed.new_pusher()
    pushed.network.clear()
    copy(pushed)
    assert written(pushed) == []


def test_by_digest_alone() -> None:
    pushed = pushing(others={"a.example": registry_of(IMAGE)})
    copy(pushed, names=())
    assert [line for line in written(pushed) if "/manifests/" in line] == ["PUT team/copy/manifests/sha"]
    with pytest.raises(NotFound):
        pushed.sink().resolve("1")
    assert pushed.sink().resolve(IMAGE.digest).size_bytes == len(IMAGE.blobs[IMAGE.digest])


def test_by_digest_as_a_name() -> None:
    pushed = pushing(others={"a.example": registry_of(IMAGE)})
    copy(pushed, names=(IMAGE.digest,))
    assert [line for line in written(pushed) if "/manifests/" in line] == ["PUT team/copy/manifests/sha"]


def test_several_names() -> None:
    pushed = pushing(others={"a.example": registry_of(IMAGE)})
    copy(pushed, names=("1", "latest"))
    assert [line for line in written(pushed) if "/manifests/" in line] == [
        "PUT team/copy/manifests/1",
        "PUT team/copy/manifests/latest",
    ]
    assert not [line for line in pushed.lines if line.startswith("GET team/copy")]


def test_an_index_goes_up_from_its_leaves() -> None:
    index = make_image(layers=[900], platforms=["linux/amd64", "linux/arm64"], compression="none")
    pushed = pushing(others={"a.example": registry_of(index)})
    copy(pushed)
    puts = [line for line in written(pushed) if "/manifests/" in line]
    assert puts == ["PUT team/copy/manifests/sha"] * 2 + ["PUT team/copy/manifests/1"]
    assert pushed.sink().resolve("1").media_type == OCI_INDEX


def test_a_tag_moves() -> None:
    other = make_image(layers=[b"other"], compression="none")
    pushed = pushing(others={"a.example": registry_of(IMAGE), "c.example": registry_of(other)})
    copy(pushed)
    copy(pushed, "c.example")
    assert pushed.sink().resolve("1").digest == Digest.parse(other.digest)


def test_a_tag_for_what_is_there_already() -> None:
    pushed = pushing()
    descriptor = put_image(pushed.sink())
    sink = pushed.sink()
    sink.tag("new", descriptor)
    assert sink.resolve("new") == descriptor
    with pytest.raises(NotFound):
        sink.tag("other", blob_of(b"absent", OCI_MANIFEST))
    with pytest.raises(NotFound):
        sink.tag(str(blob_of(b"absent").digest), blob_of(b"absent", OCI_MANIFEST))


def test_an_index_with_holes() -> None:
    pushed = pushing()
    sink = pushed.sink()
    raw = index_of(put_image(sink), blob_of(b"absent", OCI_MANIFEST))
    with pytest.raises(ManifestBlobUnknown) as caught:
        sink.put_named(raw, OCI_INDEX, "t", sparse=True)
    assert "one platform, or all" in caught.value.hint
    with pytest.raises(ManifestBlobUnknown) as caught:
        sink.put_manifest(raw, OCI_INDEX)
    assert "again" in caught.value.hint


def test_what_somebody_else_is_just_putting_there_is_waited_for() -> None:
    unknown = said(400, {"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]})
    pushed = pushing(times(1, "PUT", says(unknown), where="/manifests/"))
    sink = pushed.sink()
    manifest = put_image(sink)
    assert sink.has(manifest)
    assert len(pushed.waited) == 1


@pytest.mark.parametrize("raw", [b"{}", b"no", b'{"schemaVersion":2,"config":{"digest":"sha256:x"}}'])
def test_what_is_no_manifest_is_not_sent(raw: bytes) -> None:
    pushed = pushing()
    with pytest.raises(InvalidManifest):
        pushed.sink().put_manifest(raw, OCI_MANIFEST)
    assert pushed.lines == []


def test_a_registry_that_rewrites_manifests() -> None:
    other = f"sha256:{'0' * 64}"
    kept = times(9, "PUT", changed(lambda answer: with_header(answer, "Docker-Content-Digest", other)), where="/manif")
    with pytest.raises(ContentMismatch, match="as something else"):
        put_image(pushing(kept).sink())


def test_a_manifest_that_is_not_what_was_asked_for() -> None:
    pushed = pushing()
    descriptor = put_image(pushed.sink())
    pushed.shaky.faults.append(times(1, "GET", says(said(200, b"x" * descriptor.size_bytes)), where="/manifests/"))
    with pytest.raises(ContentMismatch):
        pushed.sink().manifest(descriptor)


def test_resolving_where_head_says_too_little() -> None:
    pushed = pushing(times(9, "HEAD", changed(lambda answer: with_header(answer, "Docker-Content-Digest", None))))
    descriptor = put_image(pushed.sink())
    pushed.sink().tag("t", descriptor)
    assert pushed.sink().resolve("t") == descriptor


def test_names_that_are_none() -> None:
    pushed = pushing()
    descriptor = put_image(pushed.sink())
    for name in ("", "../x", "a b", "x" * 129):
        with pytest.raises(InvalidName):
            pushed.sink().tag(name, descriptor)


def test_one_platform_of_an_index_as_its_own_manifest() -> None:
    index = make_image(layers=[900], platforms=["linux/amd64", "linux/arm64"], compression="none")
    chosen = index.manifest["manifests"][1]["digest"]
    pushed = pushing(others={"a.example": registry_of(index)})
    with Transfer(1) as transfer:
        transfer.copy(remote_of(pushed.network, "a.example"), pushed.sink(), chosen, names=("1",))
    assert str(pushed.sink().resolve("1").digest) == chosen


def test_some_platforms_of_an_index_are_refused_with_a_remedy() -> None:
    index = make_image(layers=[900], platforms=["linux/amd64", "linux/arm64"], compression="none")
    pushed = pushing(others={"a.example": registry_of(index)})
    remote = remote_of(pushed.network, "a.example")
    with Transfer(1) as transfer, pytest.raises(ManifestBlobUnknown):
        transfer.copy(remote, pushed.sink(), "1", [Platform.parse("linux/arm64")])


# ── as any other repository ──────────────────────────────────────────────────────────────────────────────────────


class Both:
    """A registry, read through `Remote` and written through `RemoteSink`, as one `store.Repository`."""

    def __init__(self, sink: RemoteSink, remote: Remote) -> None:
        self._remote = remote
        for name in ("has", "upload", "mount", "put_manifest", "put_named", "tag", "resolve", "manifest", "name"):
            setattr(self, name, getattr(sink, name))

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        if not self.has(descriptor):  # type: ignore[attr-defined]
            raise NotFound(str(descriptor.digest))
        return self._remote.blob(descriptor, offset)

    def reject(self, descriptor: Descriptor) -> bool:
        return self._remote.reject(descriptor)


class TestContract(RepositoryContract):
    @pytest.fixture
    def repository(self) -> Repository:
        network = Loopback({HOST: Registry(MemoryStore())})
        way = route(1, HOST, repository="library/app")
        sink = Pusher(network, clock=Ticks(), wait=lambda _: None).sink(push_route(way), lambda _: None)
        memory = Memory(lambda _: None, profile=OURS, clock=Ticks())
        return Both(sink, Remote(Plan(REFERENCE, (way,)), network, memory))  # type: ignore[return-value]


def test_a_sink_is_what_transfer_wants() -> None:
    sink = pushing().sink()
    assert sink.url == f"https://{HOST}/v2/team/copy"
    assert (sink.name.path, sink.name.namespace) == ("team/copy", HOST)


def test_configurations_are_blobs() -> None:
    pushed = pushing()
    config = blob_of(b"{}", OCI_CONFIG)
    send(pushed.sink(), config, Pieces(b"{}"))
    raw = manifest_of(config, [])
    assert json.loads(raw)["config"]["mediaType"] == OCI_CONFIG
    pushed.sink().put_manifest(raw, OCI_MANIFEST)
    assert pushed.sink().has(blob_of(raw, OCI_MANIFEST))
