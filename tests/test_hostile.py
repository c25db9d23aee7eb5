"""Servers that mean harm, over real sockets: a pull ends soon, says why, keeps nothing wrong, and stays small."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hostile import HostileServer, Peer, Script
from images import make_image
from pierhead.auth import Credential, Lookup
from pierhead.layout import LayoutStore
from pierhead.oci import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Platform
from pierhead.pull import Pulled, Puller
from pierhead.redact import Secret
from pierhead.reference import Digest, Reference
from pierhead.routing import Plan
from pierhead.transfer import Transfer
from pierhead.transport import CurlTransport, Timeouts
from pierhead.walk import AllRoutesFailed
from scripted import route

IMAGE = make_image(layers=[3000], compression="none")
LAYER = IMAGE.manifest["layers"][0]["digest"]
MEMORY_LIMIT_BYTES = 16 * 1024 * 1024
Answers = Callable[[str, str], bytes | Script | None]


def message(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


NOT_FOUND = message(status="404 Not Found")


def routed(answers: Answers) -> Script:
    """Answer each request on a connection by method and target; None closes it, a script takes it over."""

    def script(peer: Peer) -> None:
        while head := peer.head():
            method, target = head.decode("latin-1").split(" ")[:2]
            found = answers(method, target)
            if callable(found):
                return found(peer)
            if found is None:
                return None
            peer.send(found.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else found)
        return None

    return script


def honest(blobs: Mapping[str, bytes], top: str, *, media_type: str = OCI_MANIFEST) -> Answers:
    """A registry that has this content, and one tag."""

    def answers(method: str, target: str) -> bytes:
        reference = target.partition("?")[0].rpartition("/")[2]
        reference = top if reference == "1" else reference
        if reference not in blobs:
            return NOT_FOUND
        return message(blobs[reference], f"Content-Type: {media_type}", f"Docker-Content-Digest: {reference}")

    return answers


HONEST = honest(IMAGE.blobs, IMAGE.digest)


def instead(change: Callable[[str, str], bytes | Script | bool | None], rest: Answers = HONEST) -> Answers:
    """Something else for some requests; True for those that are answered as they should be."""

    def answers(method: str, target: str) -> bytes | Script | None:
        found = change(method, target)
        return rest(method, target) if isinstance(found, bool) else found

    return answers


def streaming(head: bytes, piece: bytes, *, times: int = 10**9) -> Script:
    """Headers, then a piece again and again, until the client has had enough."""

    def script(peer: Peer) -> None:
        peer.send(head)
        for _ in range(times):
            peer.send(piece)

    return script


def on(part: str, found: bytes | Script | None) -> Answers:
    """This, to every GET of something that has `part` in its path."""
    return instead(lambda method, target: found if method == "GET" and part in target else True)


@contextmanager
def serving(*answers: Answers) -> Iterator[list[HostileServer]]:
    servers = [HostileServer(routed(item)) for item in answers]
    entered: list[HostileServer] = []
    try:
        for server in servers:
            entered.append(server.__enter__())
        yield servers
    finally:
        for server in entered:
            server.__exit__(None, None, None)


def pull(folder: Path, *answers: Answers, lookup: Lookup = lambda host: None) -> tuple[Pulled, LayoutStore]:
    """Pull one image from servers that answer so, asked in this order."""
    store = LayoutStore(folder)
    with serving(*answers) as servers:
        routes = [
            route(number, server.place, scheme="http", repository="team/app")
            for number, server in enumerate(servers, 1)
        ]
        transport = CurlTransport(environment={})
        puller = Puller(
            lambda reference: Plan(reference, tuple(routes)),
            lambda reference: lookup,
            transport,
            store,
            Timeouts(5, 5, 0.5, 0.5),
            (Platform.parse("linux/amd64"),),
        )
        try:
            with Patient(2) as transfer:
                (result,) = puller.pull([Reference.parse("hub.example/team/app:1")], transfer)
        finally:
            transport.close()
    return result, store


class Patient(Transfer):
    """A transfer whose pauses take no time."""

    def pause(self, seconds: float) -> None:
        pass


@contextmanager
def small() -> Iterator[None]:
    """Whatever happens inside does not need much memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_LIMIT_BYTES
    finally:
        tracemalloc.stop()


def nothing_kept(store: LayoutStore, folder: Path) -> bool:
    """No name, and no file whose name says something else than its bytes."""
    wrong = [
        path
        for path in (folder / "blobs").rglob("*")
        if path.is_file() and Digest.of(path.read_bytes(), path.parent.name).hex != path.name
    ]
    return not list(store.names()) and not wrong


def causes(result: Pulled) -> str:
    return " | ".join(attempt.cause for attempt in result.attempts if attempt.outcome != "ok")


# ── a bad first mirror, a good second one ────────────────────────────────────────────────────────────────────────


def bad_length(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello")


def drip(head: bytes) -> Script:
    """A little of it, then silence."""

    def script(peer: Peer) -> None:
        peer.send(head)
        peer.hang()

    return script


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS_BODY = streaming(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n")
HOSTILE: dict[str, tuple[Answers, str]] = {
    "endless headers": (lambda method, target: streaming(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 100), "headers"),
    "one endless header": (lambda method, target: streaming(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536), ""),
    "endless status line": (lambda method, target: streaming(b"HTTP/1.1 200 ", b"x" * 65536), ""),
    "endless interim answers": (lambda method, target: streaming(b"", b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" * 50), ""),
    "endless manifest": (on("/manifests/", ENDLESS_BODY), "not what their descriptor says"),
    "endless layer": (on(LAYER, ENDLESS_BODY), "not what their descriptor says"),
    "two lengths": (lambda method, target: bad_length, "not proper HTTP"),
    "not http": (lambda method, target: streaming(b"SSH-2.0-x\r\n", b"", times=1), ""),
    "closed": (lambda method, target: None, "closed without an answer"),
    "too long a length": (on(LAYER, message(IMAGE.blobs[LAYER][:500], length=3 * 10**9)), ""),
    "too short a length": (on(LAYER, message(IMAGE.blobs[LAYER], length=500)), ""),
    "a negative length": (on(LAYER, message(IMAGE.blobs[LAYER], length=-1)), "not proper HTTP"),
    "bad chunks": (on(LAYER, CHUNKED + b"zz\r\nhello\r\n"), ""),
    "a slow layer": (on(LAYER, drip(message(IMAGE.blobs[LAYER][:700], length=len(IMAGE.blobs[LAYER])))), "stood still"),
    "a slow manifest": (on("/manifests/", drip(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")), "stood still"),
    "slow headers": (lambda method, target: drip(b"HTTP/1.1 200 OK\r\nX-A: "), "no answer in time"),
    "a redirect loop": (lambda method, target: message(b"", f"Location: {target}", status="307 T"), "10 redirects"),
    "a file": (on(LAYER, message(b"", "Location: file:///etc/passwd", status="302 Found")), "unusable place"),
    "ftp": (on(LAYER, message(b"", "Location: ftp://127.0.0.1/x", status="302 Found")), "unusable place"),
    "a socket": (on(LAYER, message(b"", "Location: unix:///run/docker.sock", status="302 Found")), "unusable place"),
    "invalid utf-8": (on("/manifests/", message(b"\xff\xfe" + b"\x80" * 50)), "not what their descriptor says"),
    "an error in invalid utf-8": (
        lambda method, target: message(b'{"errors": [{"message": "\xff\x1b[2J"}]}', status="404 N"),
        "404 Not Found",
    ),
    "an endless error": (
        lambda method, target: streaming(b"HTTP/1.1 404 N\r\n\r\n", b'{"errors": [' * 5000),
        "404 Not Found",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_next_mirror_gives_what_a_hostile_one_does_not(name: str, tmp_path: Path) -> None:
    answers, cause = HOSTILE[name]
    with small():
        result, store = pull(tmp_path, answers, HONEST)
    assert result.error is None, result.error
    assert result.copied is not None
    assert str(result.copied.descriptor.digest) == IMAGE.digest
    assert cause in causes(result)
    assert all(attempt.cause.isprintable() for attempt in result.attempts)
    assert len(result.attempts) < 30
    assert not list(store.verify())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_mirror_alone_ends_with_a_reason(name: str, tmp_path: Path) -> None:
    answers, _ = HOSTILE[name]
    with small():
        result, store = pull(tmp_path, answers)
    if name in {"too long a length", "too short a length"}:  # its layer can be had by asking for the rest
        return
    assert result.error is not None
    assert result.error.message
    assert len(result.attempts) < 30
    assert nothing_kept(store, tmp_path)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────


BOMB = gzip.compress(b'{"token": "' + b"0" * 50_000_000 + b'"}')


@pytest.mark.parametrize(
    "answer",
    [
        message(BOMB, "Content-Encoding: gzip", "Content-Type: application/json"),
        message(BOMB),
        message(b'{"a":' * 100_000),
        message(b'{"token": "a\\r\\nX-Evil: 1"}'),
        message(b'{"token": "' + b"x" * 2_000_000 + b'"}'),
        streaming(CHUNKED, b"10000\r\n" + b"[" * 65536 + b"\r\n"),
        streaming(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 100),
    ],
    ids=["gzip bomb", "bare gzip bomb", "deep", "header injection", "long", "endless", "endless headers"],
)
def test_a_hostile_token_server(answer: bytes | Script, tmp_path: Path) -> None:
    with HostileServer(routed(lambda method, target: answer)) as tokens:
        challenge = f'WWW-Authenticate: Bearer realm="{tokens.url}/token",service="s"'
        wants = instead(lambda method, target: message(b"", challenge, status="401 Unauthorized"))
        with small():
            result, store = pull(tmp_path, wants, HONEST, lookup=lambda host: Credential("u", Secret("hunter2")))
        assert result.error is None
        assert result.attempts[0].outcome in {"auth", "error"}
        assert "hunter2" not in repr(result)
        assert len(tokens.heads) <= 2
        assert not list(store.verify())


# ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────


def described(data: bytes, media_type: str = "application/octet-stream", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data), **more}


def image(**more: Any) -> bytes:
    value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described(b"{}", OCI_CONFIG), "layers": []}
    return json.dumps({**value, **more}).encode()


def layers(count: int) -> bytes:
    return image(layers=[described(b"x")] * count)


EVIL_DIGESTS = ["../../x", "sha256:../../../../tmp/x", "sha256:" + "g" * 64, "sha256:", "", "/etc/passwd", "sha256:\0"]
MANIFESTS: dict[str, bytes] = {
    **{f"a layer {digest!r}": image(layers=[described(b"x", digest=digest)]) for digest in EVIL_DIGESTS},
    **{f"a config {digest!r}": image(config=described(b"x", digest=digest)) for digest in EVIL_DIGESTS},
    "100,000 layers": layers(20_000),
    "a layer without a size": image(layers=[{"mediaType": "x", "digest": str(Digest.of(b"x"))}]),
    "a negative size": image(layers=[described(b"x", size=-1)]),
    "a size of a text": image(layers=[described(b"x", size="1")]),
    "a size of no end": image(layers=[described(b"x", size=10**30)]),
    "layers that are none": image(layers="x"),
    "deep": b'{"config": ' + b"[" * 100_000,
    "a list": b"[]",
    "nothing": b"null",
    "not json": b"<html>",
    "utf-8": b'{"schemaVersion": 2, "x": "\xff"}',
    "schema 1": b'{"schemaVersion": 1, "fsLayers": []}',
    "a layer that is absent": image(layers=[described(b"absent")]),
    "a foreign layer of a file": image(layers=[described(b"x", urls=["file:///etc/passwd", "http://[::1", "\0"])]),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_manifest(name: str, tmp_path: Path) -> None:
    raw = MANIFESTS[name]
    answers = honest({str(Digest.of(raw)): raw, str(Digest.of(b"{}")): b"{}"}, str(Digest.of(raw)))
    outside = set(tmp_path.iterdir())
    result, store = pull(tmp_path / "root", answers)
    assert result.error is not None
    assert result.error.exit_code != 2  # which says that the call was wrong
    assert result.error.message.isprintable() or isinstance(result.error, AllRoutesFailed)
    assert nothing_kept(store, tmp_path / "root")
    assert set(tmp_path.iterdir()) - outside <= {tmp_path / "root"}


def test_an_index_that_nests_without_end(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    raw = image()
    for depth in range(40):
        blobs[str(Digest.of(raw))] = raw
        child = described(raw, OCI_INDEX if depth else OCI_MANIFEST)
        raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}).encode()
    top = str(Digest.of(raw))
    result, store = pull(tmp_path, honest({**blobs, top: raw}, top, media_type=OCI_INDEX))
    assert result.error is not None
    assert "nested more than" in result.error.message
    assert nothing_kept(store, tmp_path)


@pytest.mark.parametrize("size", [0, 1])
def test_an_index_that_lies_about_its_children_ends(size: int, tmp_path: Path) -> None:
    child = image()
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [described(child, OCI_MANIFEST, size=size)]}
    ).encode()
    answers = honest(
        {str(Digest.of(raw)): raw, str(Digest.of(child)): child}, str(Digest.of(raw)), media_type=OCI_INDEX
    )
    result, store = pull(tmp_path, answers, answers)
    assert result.error is not None
    assert nothing_kept(store, tmp_path)


def test_a_registry_that_says_one_thing_and_gives_another(tmp_path: Path) -> None:
    """HEAD promises 3 GB, GET gives an endless body: refused before and after."""
    head = message(b"", f"Docker-Content-Digest: {IMAGE.digest}", f"Content-Type: {OCI_MANIFEST}", length=3 * 10**9)
    with small():
        result, _ = pull(tmp_path, lambda method, target: head if method == "HEAD" else ENDLESS_BODY)
    assert isinstance(result.error, AllRoutesFailed)
    assert "the limit is" in result.error.message
