"""What the registries that people run do otherwise than CNCF distribution, each as it was reported of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from images import make_image
from loopback import Handler
from pierhead.auth import AuthorizationFailed, Credential
from pierhead.body import BytesBlob, read_all
from pierhead.errors import ExitCode, PierheadError
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_MANIFEST, Descriptor
from pierhead.push import PUT_ATTEMPTS, PushRefused
from pierhead.redact import Secret
from pierhead.reference import Digest, Reference
from pierhead.referrers import find_referrers, list_subjects
from pierhead.server.registry import Registry
from pierhead.store import Expected, ManifestBlobUnknown, RepositoryName, tag_of
from pierhead.transfer import Transfer
from pierhead.transport import CurlTransport
from pierhead.tree import Tree, read_tree
from pierhead.wire import Request, Response
from pushing import HOST, Fault, Pieces, Pushing, Shaky, changed, cut_at, limited, says, send, times, with_header
from real import DockerRegistry
from scripted import said
from stocked import registry_of, remote_of
from store_contract import blob_of, index_of, put_image
from test_integration_push import KINDS, Sender, assert_there
from test_push import BLOB, DATA, IMAGE, NAME, new, pushing, stored, written

TAGGED = "/manifests/1"
MANIFEST = Digest.parse(IMAGE.digest)
OTHER = make_image(layers=[b"other"], compression="none")
KNOWN = Credential("user", Secret("password"))


def error(status: int, code: str, message: str = "", detail: object = None, **headers: str) -> Response:
    return said(status, {"errors": [{"code": code, "message": message, "detail": detail}]}, **headers)


def copy(pushed: Pushing, host: str = "a.example") -> None:
    with Transfer(1) as transfer:
        transfer.copy(remote_of(pushed.network, host), pushed.sink(), "1")


def stocked(*faults: Fault) -> Pushing:
    return pushing(*faults, others={"a.example": registry_of(IMAGE), "c.example": registry_of(OTHER)})


def where(accepts: Callable[[Request], bool], answer: Response) -> Fault:
    """This answer to every such request."""
    return lambda request, registry: answer if accepts(request) else None


def methods(pushed: Pushing) -> list[str]:
    return [line.split()[0] for line in pushed.lines]


# ── beginning an upload ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_an_upload_begins_with_any_success(status: int) -> None:
    pushed = pushing(times(1, "POST", changed(lambda answer: replace(answer, status=status))))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_an_upload_that_is_nowhere() -> None:
    pushed = pushing(times(9, "POST", changed(lambda answer: with_header(answer, "Location", None))))
    with pytest.raises(PushRefused, match="does not say where") as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert "Location" in caught.value.hint
    assert methods(pushed) == ["POST"]


def test_the_path_of_a_refused_mount_is_no_upload() -> None:
    """202 without a Location: the bytes must not go to where the mount was asked for."""
    pushed = pushing(times(1, "POST", says(said(202)), where="?mount="))
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    send(new(pushed.sink()), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA
    assert not [line for line in pushed.network.lines if "mount=" in line and line.startswith("PUT")]


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_chunks_are_taken_with_any_success(status: int) -> None:
    """Pulp says 204, ECR 201; neither says where it goes on, nor how far it came."""

    def edit(answer: Response) -> Response:
        return replace(with_header(with_header(answer, "Location", None), "Range", None), status=status)

    pushed = pushing(times(9, "PATCH", changed(edit)))
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = 3000
    send(sink, BLOB, Pieces(DATA))
    assert (stored(pushed), pushed.shaky.received) == (DATA, len(DATA))


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_blob_is_there_with_any_success(status: int) -> None:
    pushed = pushing(times(1, "PUT", changed(lambda answer: replace(answer, status=status))))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert methods(pushed) == ["POST", "PUT"]


# ── where an upload goes ─────────────────────────────────────────────────────────────────────────────────────────


def at(host: str, location: str) -> tuple[Pushing, list[Request]]:
    """A registry called `host` that wants a password, and says that an upload goes on at `location` + its path."""
    registry = Registry(MemoryStore())

    def door(request: Request) -> Response:
        if request.headers.get("authorization") != KNOWN.basic:
            return said(401, www_authenticate='Basic realm="r"')
        answer = registry.handle(request)
        path = answer.headers.get("location")
        return with_header(answer, "Location", f"{location}{path}") if request.method == "POST" else answer

    doors: dict[str, Registry | Handler] = dict.fromkeys((host, host.partition(":")[0]), door)
    pushed = Pushing(Shaky(registry), lambda asked: KNOWN if asked == host else None, doors)
    return pushed, pushed.network.requests


@pytest.mark.parametrize(
    ("host", "location"),
    [
        ("r.example:443", "https://r.example"),
        ("r.example", "https://r.example:443"),
        ("r.example", "https://R.example"),
        ("r.example:8443", "http://r.example"),
        ("r.example:443", "http://r.example:80"),
    ],
)
def test_the_registry_by_another_of_its_names(host: str, location: str) -> None:
    """Where there are credentials for one of them; oras-go and regclient have met the first, nginx makes the last."""
    pushed, requests = at(host, location)
    sink = pushed.pusher.sink(push_route_to(host), pushed.lookup)
    send(sink, BLOB, Pieces(DATA))
    assert {request.origin for request in requests} == {f"https://{host}"}


@pytest.mark.parametrize("location", ["https://r.example:8443", "https://other.example", "https://r.example.evil"])
def test_another_place_is_another_place(location: str) -> None:
    pushed, requests = at("r.example", location)
    pushed.network.hosts[location.removeprefix("https://")] = pushed.shaky.registry
    send(pushed.pusher.sink(push_route_to("r.example"), pushed.lookup), BLOB, Pieces(DATA))
    assert requests[-1].origin == location
    assert "authorization" not in requests[-1].headers


def test_the_session_of_an_upload_is_in_its_query() -> None:
    """ACR: `?_nouploadcache=false&_state=…`, which every answer gives anew."""

    def edit(answer: Response) -> Response:
        path = answer.headers.get("location").partition("?")[0]
        return with_header(answer, "Location", f"{path}?_nouploadcache=false&_state={answer.status}%3D%2B")

    pushed = pushing(times(9, "POST", changed(edit)), times(9, "PATCH", changed(edit)))
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = 4000
    send(sink, BLOB, Pieces(DATA))
    queries = [line.partition("?")[2].partition("&digest")[0] for line in pushed.network.lines]
    assert queries == ["", *["_nouploadcache=false&_state=202%3D%2B"] * 3]


def push_route_to(host: str):  # type: ignore[no-untyped-def]
    from pierhead.routing import push_route
    from scripted import route

    return push_route(route(1, host, repository="team/copy"))


# ── in one request, or not ───────────────────────────────────────────────────────────────────────────────────────


def with_body(request: Request) -> bool:
    return request.method == "PUT" and "/blobs/" in request.url and bool(request.body and request.body.size_bytes)


@pytest.mark.parametrize(
    "answer", [error(404, "BLOB_UNKNOWN"), *(said(status) for status in (400, 405, 409, 411, 415, 501))]
)
def test_a_registry_that_wants_patch(answer: Response) -> None:
    """Artifactory 6 has no PUT with a body: PATCH and an empty PUT, as docker pushes, for all that comes after."""
    pushed = pushing(where(with_body, answer))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA
    patches = [request for request in pushed.network.requests if request.method == "PATCH"]
    assert [request.headers.get("content-range") for request in patches] == [""]  # docker sends none
    pushed.network.clear()
    for data in (DATA[:5000], b""):
        send(pushed.sink("team/other"), blob_of(data), Pieces(data))
    assert methods(pushed) == ["POST", "PATCH", "PUT", "POST", "PUT"]


@pytest.mark.parametrize("broken_after", [700, 4200])
def test_a_patch_that_breaks_goes_on(broken_after: int) -> None:
    pushed = pushing(where(with_body, said(405)), times(1, "PATCH", cut_at(broken_after)))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert (stored(pushed), pushed.shaky.received) == (DATA, len(DATA))


def test_wrong_bytes_are_not_closed_by_the_second_request() -> None:
    pushed = pushing()
    sink = pushed.sink()
    sink.place.registry.patches = True
    with pytest.raises(PierheadError, match="the bytes have the digest"), sink.upload(BLOB) as upload:
        upload.fill(Pieces(DATA[:-1] + b"!"))
    assert "PUT" not in methods(pushed)


def test_chunks_where_patch_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.push.place.CHUNKS_BYTES", (4000, 1000))
    pushed = pushing(limited(4000), where(with_body, said(405)))
    for name, data in (("team/copy", DATA), ("team/small", DATA[:500])):
        send(pushed.sink(name), blob_of(data), Pieces(data))
        assert stored(pushed, blob_of(data), RepositoryName(name)) == data
    assert methods(pushed)[-3:] == ["POST", "PATCH", "PUT"]


def test_a_registry_that_takes_it_neither_way() -> None:
    pushed = pushing(times(99, "PUT", says(said(405))), times(99, "PATCH", says(said(405))))
    with pytest.raises(PushRefused) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert caught.value.status == 405
    assert methods(pushed).count("PUT") + methods(pushed).count("PATCH") == 2


def test_a_registry_that_was_restarted_still_gets_one_request() -> None:
    pushed = pushing(times(1, "PUT", says(error(404, "BLOB_UPLOAD_UNKNOWN"))))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert not pushed.sink().place.registry.patches
    assert "PATCH" not in methods(pushed)


def test_somebody_else_was_faster() -> None:
    """Nexus without redeploying: who comes second with the same blob is refused, and the blob is there."""

    def overtaken(request: Request, registry: Registry) -> Response:
        assert request.body is not None
        registry.handle(replace(request, body=BytesBlob(read_all(request.body, 1 << 20)))).body.close()
        return error(
            400, "BLOB_UPLOAD_INVALID", "blob upload invalid", f"hosted/v2/-/blobs/{BLOB.digest} cannot be updated"
        )

    pushed = pushing(times(1, "PUT", overtaken))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert methods(pushed) == ["POST", "PUT", "HEAD"]
    assert not pushed.sink().place.registry.patches


# ── chunks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_range_that_stands_still() -> None:
    """ECR takes every chunk and says of all of them what it said of the first."""
    pushed = pushing(times(9, "PATCH", changed(lambda answer: with_header(answer, "Range", "0-1999"))))
    sink = pushed.sink()
    sink.place.registry.chunk_bytes = 2000
    send(sink, BLOB, Pieces(DATA))
    assert (stored(pushed), pushed.shaky.received) == (DATA, len(DATA))
    assert pushed.waited == []


def test_chunks_that_are_too_large_for_their_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """GHCR refuses more than 4 MiB with a Content-Range, by 416; without one it takes any size."""
    monkeypatch.setattr("pierhead.push.place.CHUNKS_BYTES", (8000, 1000))
    monkeypatch.setattr("pierhead.push.upload.CHUNKS_BYTES", (8000, 1000))
    refusal = error(416, "REQUESTED_RANGE_NOT_SATISFIABLE", "the request body is too large and exceeds the maximum")

    def too_large(request: Request) -> bool:
        size = (request.body.size_bytes or 0) if request.body else 0
        return bool(request.headers.get("content-range")) and size > 4000

    pushed = pushing(times(1, "PUT", cut_at(2000)), where(too_large, refusal))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA
    assert len(pushed.waited) == 1  # for the connection that broke


@pytest.mark.parametrize("seconds", [None, 3])
def test_who_is_asked_to_wait_sends_no_more_requests_for_it(seconds: int | None) -> None:
    """429, with Retry-After and without, as Docker Hub: more and smaller requests would be the wrong answer."""
    busy = said(429, **({"retry_after": str(seconds)} if seconds else {}))
    pushed = pushing(times(4, "PUT", says(busy)))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert "PATCH" not in methods(pushed)
    assert len(pushed.waited) == 4
    assert seconds is None or pushed.waited == [float(seconds)] * 4


@pytest.mark.parametrize("status", [520, 521, 522, 523, 524])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
def test_cloudflare_without_what_is_behind_it(status: int, method: str) -> None:
    pushed = pushing(times(1, method, says(said(status, b"<html>cloudflare</html>"))))
    sink = pushed.sink()
    assert not sink.has(BLOB)
    send(sink, BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


# ── what is there already ────────────────────────────────────────────────────────────────────────────────────────


def test_who_may_push_but_not_look() -> None:
    """ECR without BatchGetImage, Artifactory's virtual repositories: 403 to every HEAD."""
    denied = error(403, "DENIED", "not authorized to perform: ecr:BatchGetImage")
    pushed = stocked(where(lambda request: request.method == "HEAD", denied))
    copy(pushed)
    pushed.shaky.faults.clear()
    assert pushed.sink().resolve("1").digest == MANIFEST


def test_who_may_do_neither_is_told_when_he_pushes() -> None:
    pushed = stocked(where(lambda request: True, error(403, "DENIED", "no")))
    with pytest.raises(PushRefused, match="does not take an upload") as caught:
        copy(pushed)
    assert caught.value.exit_code is ExitCode.NOT_AUTHORISED
    assert "log in" in caught.value.hint


def test_a_tag_that_must_not_move_is_not_written_unseen() -> None:
    pushed = pushing()
    descriptor = put_image(pushed.sink(), "1")
    pushed.shaky.faults.append(where(lambda request: request.method == "HEAD", said(403)))
    with pytest.raises(PushRefused):
        pushed.sink().tag("1", descriptor, expected=Expected.NOTHING)


@pytest.mark.parametrize("status", [400, 401, 403, 405])
def test_a_redirect_that_is_signed_for_get(status: int) -> None:
    """307 to object storage, where HEAD is refused: nothing is known, so the blob is sent."""
    pushed = pushing(
        times(9, "HEAD", says(said(307, location="https://store.example/blob?X-Amz-Signature=x")), where="/blobs/")
    )
    pushed.network.hosts["store.example"] = lambda request: said(status)
    sink = pushed.sink()
    assert not sink.has(BLOB)
    send(sink, BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_a_page_of_a_proxy_is_not_there() -> None:
    assert not pushing(times(1, "HEAD", says(said(404, b"<html>", content_type="text/html")))).sink().has(BLOB)


# ── mounting ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Scoped:
    """A registry whose token server gives a token for some scopes; `refuses` and `challenge` are its ways.

    A token says what it is for, and a mount needs both repositories.
    """

    def __init__(self, *, refuses: bool, challenge: str = "") -> None:
        self.registry = Registry(MemoryStore())
        self.refuses, self.challenge = refuses, challenge
        self.busy: list[Response] = []

    def __call__(self, request: Request) -> Response:
        if request.target.startswith("/token"):
            return self._token(request)
        mounts = "mount=" in request.url
        authorization = request.headers.get("authorization")
        if not authorization or (mounts and "first" not in authorization):
            scope = 'scope="repository:team/copy:pull,push repository:team/first:pull"' if mounts else 'scope=""'
            told = f",{self.challenge}" if mounts and self.challenge else ""
            return said(401, www_authenticate=f'Bearer realm="https://{HOST}/token",service="s",{scope}{told}')
        return self.registry.handle(request)

    def _token(self, request: Request) -> Response:
        if self.busy:
            return self.busy.pop(0)
        from urllib.parse import parse_qs, urlsplit

        form = read_all(request.body, 10_000).decode() if request.body else urlsplit(request.url).query
        scopes = " ".join(parse_qs(form).get("scope", [])).split(" ")
        if len(scopes) > 1 and self.refuses:
            return said(403, {"details": "no"})
        token = scopes[0].replace(":", "-").replace(",", "-").replace("first", "1st")
        return said(200, {"token": token, "access_token": token})


@pytest.mark.parametrize("refuses", [True, False], ids=["refuses", "leaves out"])
@pytest.mark.parametrize("challenge", ["", 'error="insufficient_scope"', 'error="invalid_token"'])
def test_a_token_for_one_repository_only(refuses: bool, challenge: str) -> None:
    """GitLab and Harbor gave a token for one of two scopes; another server refuses both. It is no failure of a push."""
    door = Scoped(refuses=refuses, challenge=challenge)
    pushed = Pushing(Shaky(door.registry), lambda host: KNOWN, {HOST: door})
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    sink = new(pushed.sink())
    for data in (DATA, DATA[:3000]):
        if not sink.has(blob_of(data)):
            send(sink, blob_of(data), Pieces(data))
    assert stored(pushed) == DATA
    assert stored(pushed, blob_of(DATA[:3000])) == DATA[:3000]


@pytest.mark.parametrize("status", [400, 404, 405, 409, 412, 422, 500])
def test_a_mount_is_refused_in_any_way(status: int) -> None:
    pushed = pushing(times(99, "POST", says(error(status, "UNAUTHORIZED", "project team not found")), where="?mount="))
    send(pushed.sink("team/first"), BLOB, Pieces(DATA))
    send(new(pushed.sink()), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


# ── token servers ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_token_server_that_is_too_busy_is_waited_for(status: int) -> None:
    door = Scoped(refuses=False)
    door.busy = [said(status, retry_after="5"), said(status)]
    pushed = Pushing(Shaky(door.registry), lambda host: KNOWN, {HOST: door})
    assert not pushed.sink().has(BLOB)
    assert len(pushed.waited) == 2
    assert pushed.waited[0] == 5.0


def test_a_token_server_that_stays_too_busy_is_left() -> None:
    door = Scoped(refuses=False)
    door.busy = [said(429)] * 99
    pushed = Pushing(Shaky(door.registry), lambda host: KNOWN, {HOST: door})
    with pytest.raises(AuthorizationFailed, match="429"):
        pushed.sink().has(BLOB)
    assert len(pushed.waited) < 10


def test_a_token_server_that_takes_basic_alone() -> None:
    """No POST, as GCR and Quay: the same by GET, with the password in Authorization."""
    door = Scoped(refuses=False)

    def basic(request: Request) -> Response:
        if request.target.startswith("/token"):
            if request.method == "POST":
                return said(405)
            if request.headers.get("authorization") != KNOWN.basic:
                return said(401)
        return door(request)

    pushed = Pushing(Shaky(door.registry), lambda host: KNOWN, {HOST: basic})
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


@pytest.mark.parametrize("challenge", ["", ',error="invalid_token"'])
def test_a_token_that_is_never_liked_has_an_end(challenge: str) -> None:
    """Not even while bytes are sent: the blob goes up twice, no more."""
    blob = Pieces(DATA)
    door = Scoped(refuses=False)
    refusal = said(401, www_authenticate=f'Bearer realm="https://{HOST}/token",service="s"{challenge}')

    def strict(request: Request) -> Response:
        return refusal if with_body(request) else door(request)

    pushed = Pushing(Shaky(door.registry), lambda host: KNOWN, {HOST: strict})
    with pytest.raises(PierheadError) as caught:
        send(pushed.sink(), BLOB, blob)
    assert caught.value.exit_code is ExitCode.NOT_AUTHORISED
    assert methods(pushed).count("PUT") == 2


# ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("digest", [None, f"sha512:{'0' * 128}", "junk"])
def test_a_manifest_is_there_with_any_success(status: int, digest: str | None) -> None:
    def edit(answer: Response) -> Response:
        return replace(with_header(answer, "Docker-Content-Digest", digest), status=status)

    pushed = stocked(times(1, "PUT", changed(edit), where="/manifests/"))
    copy(pushed)
    assert pushed.sink().resolve("1").digest == MANIFEST


IMMUTABLE = {
    "ECR": error(400, "TAG_INVALID", "The image tag '1' already exists and cannot be overwritten: it is immutable."),
    "Nexus": error(400, "BLOB_UPLOAD_INVALID", "blob upload invalid", "Repository does not allow updating assets: d"),
    "GAR": error(400, "MANIFEST_INVALID", "cannot update tag 1. The repository has enabled tag immutability"),
    "Artifactory": error(403, "MANIFEST_INVALID", "manifest invalid", {"description": "HTTP 403 Forbidden"}),
    "ACR": error(405, "UNSUPPORTED", "The operation is disallowed on this registry, repository or image."),
    "conflict": error(409, "CONFLICT", "tag 1 exists"),
    "Harbor": error(412, "PRECONDITION", "Failed to process request due to 'copy:1' configured as immutable."),
}


@pytest.mark.parametrize("registry", IMMUTABLE)
def test_a_tag_that_cannot_be_moved(registry: str) -> None:
    pushed = stocked()
    copy(pushed)
    pushed.shaky.faults.append(times(9, "PUT", says(IMMUTABLE[registry]), where=TAGGED))
    pushed.pusher = pushed.new_pusher()
    with pytest.raises(PushRefused) as caught:
        copy(pushed, "c.example")
    assert f"the tag '1' is there already, for {MANIFEST}" in caught.value.hint
    assert pushed.sink().resolve("1").digest == MANIFEST
    pushed.network.clear()
    pushed.pusher = pushed.new_pusher()
    copy(pushed)  # what it is already is neither written nor an error
    assert written(pushed) == []


@pytest.mark.parametrize("registry", IMMUTABLE)
def test_a_tag_that_somebody_else_has_just_given(registry: str) -> None:
    """Two that push the same image: the second is refused, and all is as he wants it."""

    def overtaken(request: Request, server: Registry) -> Response:
        server.handle(request).body.close()
        return IMMUTABLE[registry]

    pushed = stocked(times(1, "PUT", overtaken, where=TAGGED))
    copy(pushed)
    assert pushed.sink().resolve("1").digest == MANIFEST


def test_a_tag_that_cannot_be_moved_and_says_nothing_of_its_size() -> None:
    """HEAD with Content-Length 0, as proxies make it: it is not taken for absent in the end."""
    pushed = stocked()
    copy(pushed)
    pushed.pusher = pushed.new_pusher()
    pushed.shaky.faults += [
        times(99, "HEAD", changed(lambda answer: with_header(answer, "Content-Length", "0"))),
        times(9, "PUT", says(IMMUTABLE["ECR"]), where=TAGGED),
    ]
    copy(pushed)


def test_a_refusal_of_a_new_tag_is_about_something_else() -> None:
    pushed = stocked(times(9, "PUT", says(error(403, "DENIED", "no")), where=TAGGED))
    with pytest.raises(PushRefused) as caught:
        copy(pushed)
    assert "is there already" not in caught.value.hint
    assert "log in" in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        error(
            400, "MANIFEST_INVALID", "manifest invalid", "unknown media type: application/vnd.example.config.v1+json"
        ),
        error(400, "UNSUPPORTED"),
        said(415),
    ],
    ids=["GitLab", "UNSUPPORTED", "Quay"],
)
def test_a_kind_of_manifest_that_is_not_taken(answer: Response) -> None:
    config = blob_of(b"{}", "application/vnd.example.config.v1+json")
    pushed = pushing(times(9, "PUT", says(answer), where="/manifests/"))
    sink = pushed.sink()
    raw = (
        f'{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"application/vnd.example.kind",'
        f'"config":{{"mediaType":"{config.media_type}","digest":"{config.digest}","size":2}},"layers":[]}}'
    ).encode()
    with pytest.raises(PushRefused) as caught:
        sink.put_manifest(raw, OCI_MANIFEST)
    for kind in (OCI_MANIFEST, "application/vnd.example.kind", config.media_type):
        assert kind in caught.value.hint
    index = index_of(blob_of(b"x", "application/vnd.docker.distribution.manifest.v2+json"))
    with pytest.raises(PushRefused) as caught:
        sink.put_manifest(index, "application/vnd.oci.image.index.v1+json")
    assert "application/vnd.docker.distribution.manifest.v2+json" in caught.value.hint


def test_what_comes_before_what() -> None:
    """Blobs, then the configuration or together with it, then manifests, then the index that names them."""
    index = make_image(layers=[900], platforms=["linux/amd64", "linux/arm64"], compression="none")
    pushed = pushing(others={"a.example": registry_of(index)})
    copy(pushed)
    puts = [line for line in written(pushed) if line.startswith("PUT")]
    assert puts[-1] == "PUT team/copy/manifests/1"
    first = puts.index("PUT team/copy/manifests/sha")
    assert sum("/blobs/" in line for line in puts[:first]) >= 2


# ── what is said ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_quota_that_is_used_up() -> None:
    """Harbor: 403 DENIED, which no other password helps against."""
    message = "Quota exceeded when processing the request of adding 1.3 MiB of storage resource"
    pushed = pushing(times(9, "PUT", says(error(403, "DENIED", message))))
    with pytest.raises(PushRefused, match="Quota exceeded") as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert "quota" in caught.value.hint
    assert "log in" not in caught.value.hint


@pytest.mark.parametrize(
    ("body", "hinted"), [(b"<html>No required SSL certificate was sent</html>", True), (None, False)]
)
def test_a_client_certificate_is_wanted_by_proxies_alone(body: bytes | None, hinted: bool) -> None:
    answer = said(400, body) if body else error(400, "NAME_INVALID", "invalid repository name")
    pushed = pushing(times(9, "POST", says(answer)))
    with pytest.raises(PushRefused) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert ("client certificate" in caught.value.hint) is hinted


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (error(404, "NAME_UNKNOWN", "The repository with name 'x' does not exist in the registry"), "created first"),
        (error(403, "DENIED", "project team not found"), "project exists"),
        (error(405, "UNSUPPORTED", "can not push artifact to a proxy project"), "only pulls"),
    ],
    ids=["ECR", "GitLab", "Harbor"],
)
def test_a_project_that_has_to_exist(answer: Response, hint: str) -> None:
    pushed = pushing(times(9, "POST", says(answer)))
    with pytest.raises(PushRefused) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert hint in caught.value.hint
    assert "team/copy" in caught.value.message


def test_headers_are_all_that_is_needed_of_a_session() -> None:
    """zot and Harbor answer POST with bodies of their own: none of it is read."""
    pushed = pushing(times(1, "POST", changed(lambda answer: replace(answer, body=BytesBlob(b"{" * 100)))))
    send(pushed.sink(), BLOB, Pieces(DATA))
    assert stored(pushed) == DATA


def test_a_limit_that_is_told_with_403() -> None:
    """GHCR: nobody else's password helps."""
    pushed = pushing(times(9, "PUT", says(said(403, b"You have exceeded a secondary rate limit."))))
    with pytest.raises(PushRefused) as caught:
        send(pushed.sink(), BLOB, Pieces(DATA))
    assert "limits requests" in caught.value.hint


def test_what_was_just_put_may_be_seen_later() -> None:
    """Object storage that is consistent in the end; not for ever, and not what is known to be absent."""
    unknown = error(400, "MANIFEST_BLOB_UNKNOWN")
    pushed = stocked(times(3, "PUT", says(unknown), where="/manifests/"))
    copy(pushed)
    assert pushed.sink().resolve("1").digest == MANIFEST
    pushed = stocked(times(99, "PUT", says(unknown), where="/manifests/"))
    with pytest.raises(ManifestBlobUnknown):
        copy(pushed)
    assert len(pushed.waited) == PUT_ATTEMPTS - 1


# ── what refers to an image ──────────────────────────────────────────────────────────────────────────────────────


def no_referrers(status: int) -> Fault:
    return where(lambda request: "/referrers/" in request.url, said(status))


def without_subject(request: Request, registry: Registry) -> Response | None:
    return with_header(registry.handle(request), "OCI-Subject", None) if request.method == "PUT" else None


def listed(pushed: Pushing, image: Descriptor) -> list[Digest]:
    """What a reader is told that refers to the image."""
    remote = remote_of(pushed.network, HOST, reference=Reference.parse(f"{HOST}/{NAME.path}:1"))
    return [item.descriptor.digest for item in find_referrers(remote, image.digest)]


def signed(pushed: Pushing) -> tuple[Descriptor, Tree]:
    """An image there, and a signature that is copied there by itself."""
    image = put_image(pushed.sink(), "image")
    store = MemoryStore().repository(NAME)
    signature = put_image(store, "signature", subject=image.to_json(), artifactType="example/signature")
    with Transfer(1) as transfer:
        transfer.copy(store, pushed.sink(), str(signature.digest), names=())
    return image, read_tree(store.manifest, signature)


@pytest.mark.parametrize("status", [400, 401, 404, 405, 406, 501])
def test_a_registry_without_the_referrers_api(status: int) -> None:
    """404 by the specification, 406 from some, 401 without a challenge from Harbor 2.7."""
    pushed = pushing(no_referrers(status), without_subject)
    image, signature = signed(pushed)
    list_subjects(pushed.sink(), signature)
    assert listed(pushed, image) == [signature.top.digest]


def tag_is_digest(image: Digest) -> Fault:
    """As GitLab has it: `sha256-…` is the manifest of that digest, unless it is a tag."""

    def fault(request: Request, registry: Registry) -> Response | None:
        if not request.url.endswith(tag_of(image)) or request.method == "PUT":
            return None
        answer = registry.handle(request)
        if answer.status != 404:
            return answer
        answer.body.close()
        return registry.handle(replace(request, url=request.url.replace(tag_of(image), str(image))))

    return fault


def test_a_registry_that_takes_the_tag_of_referrers_for_the_image() -> None:
    pushed = pushing(no_referrers(404), without_subject)
    image, signature = signed(pushed)
    pushed.shaky.faults.append(tag_is_digest(image.digest))
    assert listed(pushed, image) == []
    list_subjects(pushed.sink(), signature)
    assert listed(pushed, image) == [signature.top.digest]


def test_the_tag_of_referrers_cannot_be_moved() -> None:
    """Immutable tags, and a second signature: said as it is, with what was listed before as it was."""
    pushed = pushing(no_referrers(404), without_subject)
    image, signature = signed(pushed)
    list_subjects(pushed.sink(), signature)
    store = MemoryStore().repository(NAME)
    second = put_image(store, "second", subject=image.to_json(), artifactType="example/second")
    with Transfer(1) as transfer:
        transfer.copy(store, pushed.sink(), str(second.digest), names=())
    pushed.shaky.faults.insert(0, times(9, "PUT", says(IMMUTABLE["ECR"]), where=tag_of(image.digest)))
    with pytest.raises(PushRefused) as caught:
        list_subjects(pushed.sink(), read_tree(store.manifest, second))
    assert tag_of(image.digest) in caught.value.hint
    assert listed(pushed, image) == [signature.top.digest]


# ── for real ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.real("docker-registry")
@pytest.mark.parametrize("chunk", [None, 20_000])
def test_patch_and_an_empty_put(transport: CurlTransport, tmp_path: Path, chunk: int | None) -> None:
    """The way that is gone where PUT with a body is refused, at a registry that minds every offset."""
    with DockerRegistry(tmp_path / "registry") as registry:
        sender = Sender(transport)
        with sender.transfer:
            sink = sender.sink(registry.address)
            sink.place.registry.patches, sink.place.registry.chunk_bytes = True, chunk
            sender.push(KINDS["index"], sink)
            sender.push(KINDS["oci"], sink)
            sender.pusher = sender.new_pusher()
            assert_there(sender, sender.sink(registry.address), KINDS["oci"])
        served = [request for request in registry.requests() if "/blobs/uploads/" in request.uri]
    asked = [request.method for request in served]
    assert asked.count("POST") == asked.count("PUT") <= asked.count("PATCH")
