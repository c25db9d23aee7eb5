"""The registry without sockets: every row of the distribution specification 1.1, over every store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopback import Loopback
from pierhead.body import BytesBlob, FileBlob, StreamBlob, read_all
from pierhead.layout import LayoutStore
from pierhead.memory import MemoryStore
from pierhead.oci import DOCKER_LIST, DOCKER_MANIFEST, MANIFEST_LIMIT_BYTES, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from pierhead.reference import Digest
from pierhead.server import registry as registry_module
from pierhead.server.registry import TARGET_LIMIT_CHARS, Registry
from pierhead.store import ContentMismatch, RepositoryName, Store, StoreBusy
from pierhead.transport import Cause, TransportError
from pierhead.wire import Headers, Request, Response, next_link, parse_errors

BODY_LIMIT = 8 * 1024 * 1024
LAYER = b"layer " * 100
CONFIG = b"{}"


class Client:
    """Requests as a person would write them, and their answers."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __call__(
        self, method: str, target: str, body: bytes | StreamBlob | None = None, **headers: str | int
    ) -> Response:
        fields = [(name.replace("_", "-"), str(value)) for name, value in headers.items()]
        blob = BytesBlob(body) if isinstance(body, bytes) else body
        return self.registry.handle(Request(method, f"http://r.test{target}", Headers(fields), blob))

    def push_blob(self, data: bytes, repository: str = "team/app", algorithm: str = "sha256") -> Digest:
        digest = Digest.of(data, algorithm)
        assert self("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data).status == 201
        return digest

    def push_manifest(
        self, document: dict[str, Any], reference: str = "1", repository: str = "team/app", **headers: str
    ) -> Response:
        raw = json.dumps(document).encode()
        headers.setdefault("Content_Type", document.get("mediaType", OCI_MANIFEST))
        return self("PUT", f"/v2/{repository}/manifests/{reference}", raw, **headers)

    def push_image(self, reference: str = "1", repository: str = "team/app", **more: Any) -> Digest:
        """A small image; the digest of its manifest."""
        self.push_blob(CONFIG, repository)
        self.push_blob(LAYER, repository)
        response = self.push_manifest(image(**more), reference, repository)
        assert response.status == 201
        return Digest.parse(response.headers.get("docker-content-digest"))


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data), **more}


def image(**more: Any) -> dict[str, Any]:
    layers = [descriptor(LAYER, "application/vnd.oci.image.layer.v1.tar")]
    config = descriptor(CONFIG, OCI_CONFIG)
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers, **more}


def index(*manifests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests), **more}


def content(response: Response) -> bytes:
    with response:
        return read_all(response.body, BODY_LIMIT)


def document(response: Response) -> Any:
    return json.loads(content(response))


def refused(response: Response) -> tuple[int, str]:
    """Status and code of an error."""
    (error,) = parse_errors(content(response))
    assert error.message
    assert response.headers.get("content-type") == "application/json"
    return response.status, error.code


@pytest.fixture(params=["memory", "layout"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else LayoutStore(tmp_path / "store")


@pytest.fixture
def client(store: Store) -> Client:
    return Client(Registry(store))


# ── base ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("target", ["/v2/", "/v2"])
def test_base(client: Client, target: str) -> None:
    response = client("GET", target)
    assert (response.status, document(response)) == (200, {})
    assert response.headers.get("docker-distribution-api-version") == "registry/2.0"


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/v2/", "GET, HEAD"),
        ("PUT", "/v2/a/tags/list", "GET"),
        ("PATCH", "/v2/a/manifests/1", "DELETE, GET, HEAD, PUT"),
        ("BREW", "/v2/a/blobs/uploads/", "POST"),
    ],
)
def test_a_method_that_a_path_has_not(client: Client, method: str, target: str, allowed: str) -> None:
    response = client(method, target)
    assert refused(response) == (405, "UNSUPPORTED")
    assert response.headers.get("allow") == allowed


@pytest.mark.parametrize("target", ["/", "/v1/_ping", "/v2/a", "/favicon.ico", "*", "/v2/manifests/1"])
def test_a_path_outside_the_protocol(client: Client, target: str) -> None:
    assert client("GET", target).status == 404


@pytest.mark.parametrize(
    "name",
    ["A", "../../etc/passwd", "a//b", "a/../b", ".a", "a.", "a..b", "%2e%2e/a", "a%00b", "a b", "é", "a" * 256, "_x"],
)
@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", "manifests/1"), ("POST", "blobs/uploads/"), ("GET", "tags/list"), ("DELETE", "blobs/x")],
)
def test_a_name_outside_the_grammar(client: Client, store: Store, name: str, method: str, rest: str) -> None:
    assert refused(client(method, f"/v2/{quote(name, safe='/%')}/{rest}")) == (400, "NAME_INVALID")
    assert list(store.repositories()) == []


def test_a_name_may_be_like_the_protocol(client: Client) -> None:
    for name in ("blobs/uploads", "manifests", "tags/list", "a__b/c--d", "a" * 255):
        digest = client.push_image("1", name)
        assert client("HEAD", f"/v2/{name}/manifests/1").headers.get("docker-content-digest") == str(digest)


def test_an_endless_target(client: Client) -> None:
    assert client("GET", "/v2/a/tags/list?n=1&x=" + "a" * TARGET_LIMIT_CHARS).status == 414


# ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_manifest_comes_back_byte_for_byte(client: Client, by: str) -> None:
    raw = json.dumps(image(), indent=3).encode() + b"\n"
    client.push_blob(CONFIG)
    client.push_blob(LAYER)
    put = client("PUT", "/v2/team/app/manifests/1.0", raw, Content_Type=OCI_MANIFEST)
    digest = Digest.of(raw)
    assert put.status == 201
    assert put.headers.get("location") == f"/v2/team/app/manifests/{digest}"
    assert put.headers.get("docker-content-digest") == str(digest)
    target = f"/v2/team/app/manifests/{'1.0' if by == 'tag' else digest}"
    head, got = client("HEAD", target), client("GET", target)
    assert content(got) == raw
    assert content(head) == b""
    for response in (head, got):
        assert response.status == 200
        assert response.headers.get("content-type") == OCI_MANIFEST
        assert response.headers.get("content-length") == str(len(raw))
        assert response.headers.get("docker-content-digest") == str(digest)
        assert response.headers.get("etag") == f'"{digest}"'
    assert head.headers == got.headers


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_the_media_type_is_kept(client: Client, media_type: str) -> None:
    digest = client.push_image(mediaType=media_type)
    client("DELETE", "/v2/team/app/manifests/1")
    for target in (f"/v2/team/app/manifests/{digest}",):
        assert client("GET", target, Accept="text/html").headers.get("content-type") == media_type


def test_a_manifest_without_its_own_media_type_is_what_the_header_says(client: Client) -> None:
    client.push_image()
    bare = {key: value for key, value in image().items() if key != "mediaType"}
    assert client.push_manifest(bare, "bare", Content_Type=f"{DOCKER_MANIFEST}; charset=utf-8").status == 201
    assert client("HEAD", "/v2/team/app/manifests/bare").headers.get("content-type") == DOCKER_MANIFEST


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"", OCI_MANIFEST, (400, "MANIFEST_INVALID")),
        (b"[]", OCI_MANIFEST, (400, "MANIFEST_INVALID")),
        (b"{}", "application/json", (400, "MANIFEST_INVALID")),
        (b'{"schemaVersion": 1}', "application/json", (400, "MANIFEST_INVALID")),
        (b"[" * 10_000, OCI_MANIFEST, (400, "MANIFEST_INVALID")),
        (b'{"config": {"digest": "md5:00", "size": 1}, "layers": []}', OCI_MANIFEST, (400, "MANIFEST_INVALID")),
        (b'{"mediaType": "%b", "manifests": []}' % OCI_INDEX.encode(), OCI_MANIFEST, (400, "MANIFEST_INVALID")),
        (b'{"mediaType": "%b", "manifests": []}' % OCI_INDEX.encode(), DOCKER_LIST, (400, "MANIFEST_INVALID")),
        (b" " * (MANIFEST_LIMIT_BYTES + 1), OCI_MANIFEST, (413, "SIZE_INVALID")),
    ],
)
def test_what_is_no_manifest(client: Client, body: bytes, content_type: str, expected: tuple[int, str]) -> None:
    client.push_image("0")
    assert refused(client("PUT", "/v2/team/app/manifests/1", body, Content_Type=content_type)) == expected
    assert document(client("GET", "/v2/team/app/tags/list"))["tags"] == ["0"]


def test_an_endless_manifest_is_not_read_to_its_end(client: Client) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1 << 20
            yield bytes(1 << 20)

    response = client("PUT", "/v2/team/app/manifests/1", StreamBlob(endless()), Content_Type=OCI_MANIFEST)
    assert refused(response) == (413, "SIZE_INVALID")
    assert read <= MANIFEST_LIMIT_BYTES + (1 << 20)


def test_a_manifest_of_4_mib_is_taken(client: Client) -> None:
    client.push_image("0")
    big = image(annotations={"filling": "x" * (4 * 1024 * 1024 - 1000)})
    assert client.push_manifest(big, "big").status == 201


@pytest.mark.parametrize("missing", ["config", "layers"])
def test_a_manifest_whose_content_is_not_here(client: Client, missing: str) -> None:
    client.push_blob(LAYER if missing == "config" else CONFIG)
    client.push_blob(CONFIG if missing == "config" else LAYER, "another/repository")
    assert refused(client.push_manifest(image())) == (404, "MANIFEST_BLOB_UNKNOWN")


def test_an_index_needs_its_manifests(client: Client) -> None:
    raw = json.dumps(image()).encode()
    listed = index(descriptor(raw, OCI_MANIFEST))
    assert refused(client.push_manifest(listed, "all")) == (404, "MANIFEST_BLOB_UNKNOWN")
    client.push_image(str(Digest.of(raw)))
    assert client.push_manifest(listed, "all").status == 201
    nested = json.dumps(listed).encode()
    assert client.push_manifest(index(descriptor(nested, OCI_INDEX)), "nested").status == 201


def test_layers_kept_elsewhere_need_not_be_here(client: Client) -> None:
    client.push_blob(CONFIG)
    foreign = descriptor(
        b"far away", "application/vnd.oci.image.layer.nondistributable.v1.tar", urls=["https://x.test"]
    )
    assert client.push_manifest(image(layers=[foreign])).status == 201


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_pushed_by_digest(client: Client, algorithm: str) -> None:
    client.push_image("0")
    raw = json.dumps(image(annotations={"a": "b"})).encode()
    digest = Digest.of(raw, algorithm)
    put = client("PUT", f"/v2/team/app/manifests/{digest}", raw, Content_Type=OCI_MANIFEST)
    assert (put.status, put.headers.get("docker-content-digest")) == (201, str(digest))
    assert content(client("GET", put.headers.get("location"))) == raw
    assert document(client("GET", "/v2/team/app/tags/list"))["tags"] == ["0"]


def test_a_manifest_that_is_not_what_its_digest_says(client: Client) -> None:
    client.push_image("0")
    other = Digest.of(b"other")
    assert refused(client.push_manifest(image(), str(other))) == (400, "DIGEST_INVALID")
    assert client("HEAD", f"/v2/team/app/manifests/{other}").status == 404


def test_several_tags_at_once(client: Client) -> None:
    digest = client.push_image("0")
    put = client.push_manifest(image(), f"{digest}?tag=1.2.3&tag=1.2&tag=1&tag=1")
    assert put.status == 201
    assert put.headers.all("oci-tag") == ("1.2.3", "1.2", "1")
    assert document(client("GET", "/v2/team/app/tags/list"))["tags"] == ["0", "1", "1.2", "1.2.3"]


def test_too_many_or_impossible_tags(client: Client) -> None:
    digest = client.push_image("0")
    many = "&".join(f"tag={number}" for number in range(101))
    assert client.push_manifest(image(), f"{digest}?{many}").status == 414
    assert refused(client.push_manifest(image(), f"{digest}?tag=ok&tag=-no")) == (400, "MANIFEST_INVALID")
    assert refused(client.push_manifest(image(), "-no")) == (400, "MANIFEST_INVALID")
    assert document(client("GET", "/v2/team/app/tags/list"))["tags"] == ["0"]


@pytest.mark.parametrize("reference", ["2", "latest", ".INVALID", "a%2fb", "sha256:" + "0" * 64])
def test_a_manifest_that_is_not_here(client: Client, reference: str) -> None:
    client.push_image()
    assert refused(client("GET", f"/v2/team/app/manifests/{reference}")) == (404, "MANIFEST_UNKNOWN")
    assert refused(client("GET", f"/v2/nothing/manifests/{reference}")) == (404, "MANIFEST_UNKNOWN")
    head = client("HEAD", f"/v2/team/app/manifests/{reference}")
    assert (head.status, content(head)) == (404, b"")


@pytest.mark.parametrize("known", ['"{}"', 'W/"{}"', '"sha256:1", "{}"', "*"])
def test_a_manifest_that_the_client_has(client: Client, known: str) -> None:
    digest = client.push_image()
    response = client("GET", "/v2/team/app/manifests/1", If_None_Match=known.format(digest))
    assert (response.status, content(response)) == (304, b"")
    assert response.headers.get("docker-content-digest") == str(digest)
    assert client("GET", "/v2/team/app/manifests/1", If_None_Match='"sha256:1"').status == 200


def test_deleting_a_tag_keeps_the_manifest(client: Client) -> None:
    digest = client.push_image("1")
    client.push_manifest(image(), "2")
    assert client("DELETE", "/v2/team/app/manifests/1").status == 202
    assert client("GET", "/v2/team/app/manifests/1").status == 404
    assert client("GET", "/v2/team/app/manifests/2").status == 200
    assert client("GET", f"/v2/team/app/manifests/{digest}").status == 200
    assert refused(client("DELETE", "/v2/team/app/manifests/1")) == (404, "MANIFEST_UNKNOWN")


def test_deleting_a_manifest_takes_its_tags(client: Client) -> None:
    digest = client.push_image("1")
    client.push_image("1", "other/app")
    client.push_manifest(image(annotations={"a": "b"}), "2")
    assert client("DELETE", f"/v2/team/app/manifests/{digest}").status == 202
    assert document(client("GET", "/v2/team/app/tags/list"))["tags"] == ["2"]
    assert client("GET", f"/v2/team/app/manifests/{digest}").status == 404
    assert client("GET", f"/v2/other/app/manifests/{digest}").status == 200
    assert client("DELETE", f"/v2/team/app/manifests/{digest}").status == 404


# ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [b"", LAYER], ids=["empty", "layer"])
def test_a_blob_comes_back(client: Client, data: bytes, algorithm: str) -> None:
    digest = client.push_blob(data, algorithm=algorithm)
    head, got = (client(method, f"/v2/team/app/blobs/{digest}") for method in ("HEAD", "GET"))
    assert (content(head), content(got)) == (b"", data)
    for response in (head, got):
        assert response.status == 200
        assert response.headers.get("content-length") == str(len(data))
        assert response.headers.get("docker-content-digest") == str(digest)
        assert response.headers.get("accept-ranges") == "bytes"
        assert response.headers.get("content-type") == "application/octet-stream"
    assert client("GET", f"/v2/team/app/blobs/{digest}", If_None_Match=f'"{digest}"').status == 304


def test_a_blob_is_visible_where_it_was_pushed(client: Client) -> None:
    digest = client.push_blob(LAYER)
    assert refused(client("GET", f"/v2/other/app/blobs/{digest}")) == (404, "BLOB_UNKNOWN")
    assert client("HEAD", f"/v2/other/app/blobs/{digest}").status == 404


@pytest.mark.parametrize(
    "digest", ["x", "sha256:xyz", "md5:" + "0" * 32, "sha256:" + "0" * 63, "sha256:" + "A" * 64, "sha256:..%2f..%2fx"]
)
def test_a_digest_that_is_none(client: Client, digest: str) -> None:
    assert client("GET", f"/v2/a/blobs/{digest}").status in (400, 404)
    for method, target in (
        ("GET", f"/v2/a/manifests/{digest}" if ":" in digest and "%" not in digest else "/v2/a/blobs/x"),
        ("GET", f"/v2/a/referrers/{quote(digest)}"),
        ("POST", f"/v2/a/blobs/uploads/?digest={digest}"),
        ("POST", f"/v2/a/blobs/uploads/?mount={digest}&from=b"),
    ):
        assert refused(client(method, target)) == (400, "DIGEST_INVALID"), target


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(data=st.binary(min_size=1, max_size=300), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_served_ranges_concatenate_to_the_whole(client: Client, data: bytes, cuts: list[int]) -> None:
    """Law 7."""
    digest = client.push_blob(data)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = []
    for start, end in pairwise(edges):
        response = client("GET", f"/v2/team/app/blobs/{digest}", Range=f"bytes={start}-{end - 1}")
        assert response.status == 206
        assert response.headers.get("content-range") == f"bytes {start}-{end - 1}/{len(data)}"
        assert response.headers.get("content-length") == str(end - start)
        pieces.append(content(response))
    assert b"".join(pieces) == data


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=-5", LAYER[-5:]), ("bytes=590-", LAYER[590:]), ("bytes=0-0", LAYER[:1]), ("bytes=598-9999", LAYER[598:])],
)
def test_ranges(client: Client, asked: str, expected: bytes) -> None:
    digest = client.push_blob(LAYER)
    response = client("GET", f"/v2/team/app/blobs/{digest}", Range=asked)
    assert (response.status, content(response)) == (206, expected)
    head = client("HEAD", f"/v2/team/app/blobs/{digest}", Range=asked)
    assert (head.status, head.headers.get("content-length")) == (206, str(len(expected)))


@pytest.mark.parametrize(
    "headers",
    [{"Range": "bytes=0-1,4-5"}, {"Range": "lines=1-2"}, {"Range": "bytes=0-1", "If_Range": '"sha256:other"'}],
)
def test_ranges_that_are_not_followed(client: Client, headers: dict[str, str]) -> None:
    digest = client.push_blob(LAYER)
    response = client("GET", f"/v2/team/app/blobs/{digest}", None, **headers)
    assert (response.status, content(response)) == (200, LAYER)


def test_if_range_with_the_right_tag(client: Client) -> None:
    digest = client.push_blob(LAYER)
    response = client("GET", f"/v2/team/app/blobs/{digest}", Range="bytes=0-1", If_Range=f'"{digest}"')
    assert (response.status, content(response)) == (206, LAYER[:2])


def test_a_range_behind_the_end(client: Client) -> None:
    digest = client.push_blob(LAYER)
    response = client("GET", f"/v2/team/app/blobs/{digest}", Range="bytes=600-")
    assert response.status == 416
    assert response.headers.get("content-range") == "bytes */600"


def test_a_file_range_is_handed_on_without_being_read(tmp_path: Path) -> None:
    client = Client(Registry(LayoutStore(tmp_path)))
    digest = client.push_blob(LAYER)
    body = client("GET", f"/v2/team/app/blobs/{digest}", Range="bytes=10-19").body
    assert isinstance(body, FileBlob)
    assert (body.offset, body.size_bytes) == (10, 10)


def test_deleting_a_blob_unlinks_it_here(client: Client) -> None:
    digest = client.push_blob(LAYER)
    client.push_blob(LAYER, "other/app")
    assert client("DELETE", f"/v2/team/app/blobs/{digest}").status == 202
    assert client("GET", f"/v2/team/app/blobs/{digest}").status == 404
    assert content(client("GET", f"/v2/other/app/blobs/{digest}")) == LAYER
    assert refused(client("DELETE", f"/v2/team/app/blobs/{digest}")) == (404, "BLOB_UNKNOWN")


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_post_then_put(client: Client) -> None:
    begun = client("POST", "/v2/team/app/blobs/uploads/")
    place = begun.headers.get("location")
    assert (begun.status, begun.headers.get("range")) == (202, "0-0")
    assert place.endswith(begun.headers.get("docker-upload-uuid"))
    digest = Digest.of(LAYER)
    done = client("PUT", f"{place}?digest={digest}", LAYER)
    assert (done.status, done.headers.get("docker-content-digest")) == (201, str(digest))
    assert content(client("GET", done.headers.get("location"))) == LAYER
    assert refused(client("GET", place)) == (404, "BLOB_UPLOAD_UNKNOWN")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    pieces=st.lists(st.binary(max_size=50), min_size=1, max_size=5),
    with_range=st.booleans(),
    streamed=st.booleans(),
    last_in_put=st.booleans(),
)
def test_chunks_make_the_blob(
    client: Client, pieces: list[bytes], with_range: bool, streamed: bool, last_in_put: bool
) -> None:
    data = b"".join(pieces)
    place = client("POST", "/v2/team/app/blobs/uploads/").headers.get("location")
    have = 0

    def send(method: str, target: str, piece: bytes) -> Response:
        span = {"Content_Range": f"{have}-{have + len(piece) - 1}"} if with_range and piece else {}
        return client(method, target, StreamBlob(iter([piece])) if streamed else piece, **span)

    for piece in pieces[:-1] if last_in_put else pieces:
        response = send("PATCH", place, piece)
        have += len(piece)
        assert (response.status, response.headers.get("range")) == (202, f"0-{max(0, have - 1)}")
        place = response.headers.get("location")
        status = client("GET", place)
        assert (status.status, status.headers.get("range")) == (204, f"0-{max(0, have - 1)}")
        assert "content-length" not in status.headers
    digest = Digest.of(data)
    done = send("PUT", f"{place}?digest={digest}", pieces[-1] if last_in_put else b"")
    assert done.status == 201
    assert content(client("GET", f"/v2/team/app/blobs/{digest}")) == data


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("span", ["3-5", "6-8", "0-2", "x-y", "bytes 9-1"])
def test_a_chunk_out_of_order(client: Client, method: str, span: str) -> None:
    place = client("POST", "/v2/a/blobs/uploads/").headers.get("location")
    client("PATCH", place, b"0123", Content_Range="0-3")
    query = f"?digest={Digest.of(b'0123abc')}" if method == "PUT" else ""
    response = client(method, place + query, b"abc", Content_Range=span)
    assert refused(response) == (416, "BLOB_UPLOAD_INVALID")
    assert (response.headers.get("range"), response.headers.get("location")) == ("0-3", place)
    assert client(method, place + query, b"abc", Content_Range="4-6").status in (201, 202)


def test_a_chunk_of_another_length_than_announced(client: Client) -> None:
    place = client("POST", "/v2/a/blobs/uploads/").headers.get("location")
    assert refused(client("PATCH", place, b"abc", Content_Range="0-3")) == (400, "SIZE_INVALID")
    assert client("GET", place).headers.get("range") == "0-0"
    cut = StreamBlob(iter([b"ab"]), 4)
    assert refused(client("PATCH", place, cut)) == (400, "SIZE_INVALID")
    assert client("GET", place).headers.get("range") == "0-1"
    assert client("PUT", f"{place}?digest={Digest.of(b'abcd')}", b"cd").status == 201


def test_a_sender_that_fails_can_go_on(client: Client) -> None:
    def failing() -> Iterator[bytes]:
        yield b"abc"
        raise ConnectionError

    place = client("POST", "/v2/a/blobs/uploads/").headers.get("location")
    with pytest.raises(ConnectionError):
        client("PATCH", place, StreamBlob(failing()))
    assert client("GET", place).headers.get("range") == "0-2"
    assert client("PUT", f"{place}?digest={Digest.of(b'abcd')}", b"d").status == 201


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("way", ["whole", "session"])
def test_bytes_that_are_not_what_the_digest_says(client: Client, algorithm: str, way: str) -> None:
    digest = Digest.of(b"announced", algorithm)
    place = "/v2/a/blobs/uploads/"
    method = "POST"
    if way == "session":
        method, place = "PUT", client("POST", place).headers.get("location")
    assert refused(client(method, f"{place}?digest={digest}", b"something else")) == (400, "DIGEST_INVALID")
    assert client("GET", f"/v2/a/blobs/{digest}").status == 404
    assert client("GET", f"/v2/a/blobs/{Digest.of(b'something else')}").status == 404


@pytest.mark.parametrize("query", ["", "?digest=", "?digest=md5:00", "?digest=sha256:00"])
def test_an_upload_ends_with_a_digest(client: Client, query: str) -> None:
    place = client("POST", "/v2/a/blobs/uploads/").headers.get("location")
    client("PATCH", place, b"abc")
    assert refused(client("PUT", place + query)) == (400, "DIGEST_INVALID")
    assert client("PUT", f"{place}?digest={Digest.of(b'abc')}").status == 201


def test_the_algorithm_of_an_upload(client: Client) -> None:
    begun = client("POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512")
    digest = Digest.of(b"abc", "sha512")
    assert client("PUT", f"{begun.headers.get('location')}?digest={digest}", b"abc").status == 201
    assert refused(client("POST", "/v2/a/blobs/uploads/?digest-algorithm=crc32")) == (400, "DIGEST_INVALID")


def test_a_cancelled_upload(client: Client) -> None:
    place = client("POST", "/v2/a/blobs/uploads/").headers.get("location")
    client("PATCH", place, b"abc")
    assert client("DELETE", place).status == 204
    for method in ("GET", "PATCH", "DELETE"):
        assert refused(client(method, place)) == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("session", ["x", "00000000-0000-0000-0000-000000000000", "0" * 32, "%2e%2e", "a%00", "é" * 9])
def test_an_upload_that_is_not_here(client: Client, session: str) -> None:
    client.push_blob(LAYER, "a")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        query = f"?digest={Digest.of(b'')}"
        response = client(method, f"/v2/a/blobs/uploads/{quote(session, safe='%')}{query}")
        assert refused(response) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_belongs_to_its_repository(client: Client) -> None:
    session = client("POST", "/v2/a/blobs/uploads/").headers.get("docker-upload-uuid")
    assert client("GET", f"/v2/b/blobs/uploads/{session}").status == 404


def test_a_failed_single_request_leaves_nothing(tmp_path: Path) -> None:
    client = Client(Registry(LayoutStore(tmp_path)))
    client("POST", f"/v2/a/blobs/uploads/?digest={Digest.of(b'x')}", StreamBlob(iter([b"only"]), 100))
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == 4] == []


def test_an_upload_has_a_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.server.uploads.BLOB_LIMIT_BYTES", 10)
    place = client("POST", "/v2/a/blobs/uploads/").headers.get("location")
    assert refused(client("PATCH", place, b"12345678901")) == (413, "SIZE_INVALID")
    assert client("PATCH", place, b"12345").status == 202
    assert refused(client("PATCH", place, StreamBlob(iter([b"6789", b"01"])))) == (413, "SIZE_INVALID")


def test_mounting(client: Client) -> None:
    digest = client.push_blob(LAYER, "from/here")
    response = client("POST", f"/v2/to/there/blobs/uploads/?mount={digest}&from=from%2Fhere")
    assert (response.status, response.headers.get("location")) == (201, f"/v2/to/there/blobs/{digest}")
    assert response.headers.get("docker-content-digest") == str(digest)
    client("DELETE", f"/v2/from/here/blobs/{digest}")
    assert content(client("GET", f"/v2/to/there/blobs/{digest}")) == LAYER


@pytest.mark.parametrize("origin", ["&from=nothing", "&from=other", ""])
def test_mounting_what_cannot_be_mounted_begins_an_upload(client: Client, origin: str) -> None:
    digest = client.push_blob(LAYER, "from/here")
    client.push_blob(b"x", "other")
    response = client("POST", f"/v2/to/there/blobs/uploads/?mount={digest}{origin}")
    assert (response.status, response.headers.get("range")) == (202, "0-0")
    assert client("GET", f"/v2/to/there/blobs/{digest}").status == 404
    assert client("PUT", f"{response.headers.get('location')}?digest={digest}", LAYER).status == 201


def test_mounting_from_a_name_outside_the_grammar(client: Client) -> None:
    response = client("POST", f"/v2/a/blobs/uploads/?mount={Digest.of(b'')}&from=../x")
    assert refused(response) == (400, "NAME_INVALID")


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pages(client: Client, target: str, key: str) -> list[list[str]]:
    """Every page of a list, by its links."""
    found = []
    following: str | None = target
    while following:
        response = client("GET", following)
        found.append(document(response)[key])
        following = next_link(response.headers)
        assert len(found) < 20
    return found


def test_tags_in_pages(client: Client) -> None:
    for tag in ("b", "a", "C", "1.10", "1.9"):
        client.push_image(tag)
    target = "/v2/team/app/tags/list"
    assert document(client("GET", target)) == {"name": "team/app", "tags": ["1.10", "1.9", "C", "a", "b"]}
    assert pages(client, f"{target}?n=2", "tags") == [["1.10", "1.9"], ["C", "a"], ["b"]]
    assert pages(client, f"{target}?n=5", "tags") == [["1.10", "1.9", "C", "a", "b"]]
    assert pages(client, f"{target}?last=C", "tags") == [["a", "b"]]
    assert pages(client, f"{target}?last=B&n=1", "tags") == [["C"], ["a"], ["b"]]
    assert pages(client, f"{target}?n=0", "tags") == [[]]
    assert pages(client, f"{target}?n=99999999999999999999", "tags") == [["1.10", "1.9", "C", "a", "b"]]


def test_ten_thousand_tags(client: Client, store: Store) -> None:
    """In pages of a thousand, as clients ask for them, and in one answer, the largest there is."""
    client.push_image("0000")
    repository = store.repository(RepositoryName("team/app"))
    tags = [f"{number:04}" for number in range(10_000)]
    for tag in tags[1:]:
        repository.tag(tag, repository.resolve("0000"))
    found = pages(client, "/v2/team/app/tags/list?n=1000", "tags")
    assert [len(page) for page in found] == [1000] * 10
    assert [tag for page in found for tag in page] == tags
    assert pages(client, "/v2/team/app/tags/list", "tags") == [tags]


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "%D9%A3", " 1"])
def test_a_page_of_no_number(client: Client, number: str) -> None:
    client.push_image()
    for target in ("/v2/team/app/tags/list", "/v2/_catalog", f"/v2/team/app/referrers/{Digest.of(b'')}"):
        assert refused(client("GET", f"{target}?n={quote(number, safe='%')}")) == (400, "PAGINATION_NUMBER_INVALID")


def test_tags_of_no_repository_and_of_one_without_tags(client: Client) -> None:
    assert refused(client("GET", "/v2/nothing/tags/list")) == (404, "NAME_UNKNOWN")
    client.push_blob(LAYER, "something")
    assert document(client("GET", "/v2/something/tags/list")) == {"name": "something", "tags": []}


def test_the_page_has_a_limit_of_its_own(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "PAGE_LIMIT", 2)
    for tag in "abc":
        client.push_image(tag)
        client.push_image("1", f"r/{tag}")
    assert pages(client, "/v2/team/app/tags/list?n=1000", "tags") == [["a", "b"], ["c"]]
    assert pages(client, "/v2/_catalog", "repositories") == [["r/a", "r/b"], ["r/c", "team/app"]]


def test_catalog(client: Client, store: Store) -> None:
    assert document(client("GET", "/v2/_catalog")) == {"repositories": []}
    for name in ("z", "a/b", "m"):
        client.push_blob(LAYER, name)
    for path in ("rancher/x", "library/y"):
        keep(store, RepositoryName(path, "docker.io"))
    keep(store, RepositoryName("library/y", "docker.io.example"))
    assert document(client("GET", "/v2/_catalog")) == {"repositories": ["a/b", "m", "z"]}
    assert pages(client, "/v2/_catalog?n=2", "repositories") == [["a/b", "m"], ["z"]]
    assert pages(client, "/v2/_catalog?n=1&ns=docker.io", "repositories") == [["library/y"], ["rancher/x"]]
    assert pages(client, "/v2/_catalog?ns=quay.io", "repositories") == [[]]
    assert refused(client("GET", "/v2/_catalog?ns=../x")) == (400, "NAME_INVALID")


def test_referrers(client: Client) -> None:
    subject = client.push_image()
    pointer = {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": len(json.dumps(image()).encode())}
    notes = {"org.example.note": "hello"}
    signed = client.push_manifest(image(subject=pointer, artifactType="a/signature", annotations=notes), "sig")
    assert signed.headers.get("oci-subject") == str(subject)
    plain = client.push_manifest(image(subject=pointer, annotations={"n": "2"}), "plain")
    listed = client.push_manifest(index(subject=pointer), "list")
    response = client("GET", f"/v2/team/app/referrers/{subject}")
    assert (response.status, response.headers.get("content-type")) == (200, OCI_INDEX)
    answer = document(response)
    assert (answer["schemaVersion"], answer["mediaType"]) == (2, OCI_INDEX)
    found = {item["digest"]: item for item in answer["manifests"]}
    assert set(found) == {put.headers.get("docker-content-digest") for put in (signed, plain, listed)}
    item = found[signed.headers.get("docker-content-digest")]
    assert (item["artifactType"], item["annotations"], item["mediaType"]) == ("a/signature", notes, OCI_MANIFEST)
    assert found[plain.headers.get("docker-content-digest")]["artifactType"] == OCI_CONFIG
    assert "artifactType" not in found[listed.headers.get("docker-content-digest")]
    assert pages(client, f"/v2/team/app/referrers/{subject}?n=2", "manifests")[1:] != []
    only = client("GET", f"/v2/team/app/referrers/{subject}?artifactType=a/signature")
    assert only.headers.get("oci-filters-applied") == "artifactType"
    assert [each["artifactType"] for each in document(only)["manifests"]] == ["a/signature"]
    client("DELETE", f"/v2/team/app/manifests/{signed.headers.get('docker-content-digest')}")
    assert document(client("GET", f"/v2/team/app/referrers/{subject}?artifactType=a/signature"))["manifests"] == []


def test_referrers_of_what_is_not_here(client: Client) -> None:
    absent = Digest.of(b"absent")
    for name in ("nothing", "team/app"):
        assert document(client("GET", f"/v2/{name}/referrers/{absent}"))["manifests"] == []
        client.push_image()


def test_a_subject_may_come_after_what_refers_to_it(client: Client) -> None:
    raw = json.dumps(image(annotations={"later": "yes"})).encode()
    client.push_image("0", subject=descriptor(raw, OCI_MANIFEST))
    assert client("PUT", "/v2/team/app/manifests/later", raw, Content_Type=OCI_MANIFEST).status == 201
    assert len(document(client("GET", f"/v2/team/app/referrers/{Digest.of(raw)}"))["manifests"]) == 1


# ── namespaces and read-only ─────────────────────────────────────────────────────────────────────────────────────


def keep(store: Store, name: RepositoryName) -> Digest:
    """A small image in a repository that was pulled into, as a pull leaves it."""
    repository = store.repository(name)
    for data in (CONFIG, LAYER):
        session = repository.begin()
        session.write(data)
        session.commit(Digest.of(data))
        session.close()
    kept = repository.put_manifest(json.dumps(image()).encode(), OCI_MANIFEST)
    repository.tag("1", kept)
    return kept.digest


def test_what_was_pulled_is_served_under_its_registry(client: Client, store: Store) -> None:
    digest = keep(store, RepositoryName("a/b", "docker.io"))
    for method, target in (
        ("GET", "manifests/1"),
        ("HEAD", f"manifests/{digest}"),
        ("GET", f"blobs/{Digest.of(LAYER)}"),
        ("GET", "tags/list"),
        ("GET", f"referrers/{digest}"),
    ):
        response = client(method, f"/v2/a/b/{target}?ns=docker.io")
        assert (response.status, response.headers.get("oci-namespace")) == (200, "docker.io")
        response.body.close()
        bare = client(method, f"/v2/a/b/{target}")
        assert bare.status == (200 if target.startswith("referrers") else 404)
        assert "oci-namespace" not in bare.headers
        assert client(method, f"/v2/docker.io/a/b/{target}").status == bare.status
        assert client(method, f"/v2/a/b/{target}?ns=quay.io").status == bare.status


def test_what_was_pushed_serves_a_mirror_too(client: Client) -> None:
    """containerd adds ?ns= to what it asks of any mirror, also of one that was filled by pushing."""
    digest = client.push_image("1", "a/b")
    for target in ("manifests/1", f"manifests/{digest}", f"blobs/{Digest.of(LAYER)}", "tags/list"):
        response = client("GET", f"/v2/a/b/{target}?ns=docker.io")
        assert (response.status, "oci-namespace" in response.headers) == (200, False)
        response.body.close()
    assert client("GET", "/v2/a/b/manifests/2?ns=docker.io").status == 404


def test_what_refers_to_a_pushed_image_is_listed_with_its_namespace_too(client: Client) -> None:
    subject = client.push_image("1", "a/b")
    about = {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": len(json.dumps(image()).encode())}
    signature = client.push_image("2", "a/b", subject=about)
    listed = [
        [item["digest"] for item in document(client("GET", f"/v2/{name}/referrers/{subject}{query}"))["manifests"]]
        for name, query in (("a/b", ""), ("a/b", "?ns=docker.io"), ("c", "?ns=docker.io"))
    ]
    assert listed == [[str(signature)], [str(signature)], []]


def test_what_was_pulled_comes_before_what_was_pushed(client: Client, store: Store) -> None:
    pushed = client.push_image("1", "a/b", annotations={"pushed": "yes"})
    pulled = keep(store, RepositoryName("a/b", "docker.io"))
    answers = [client("HEAD", f"/v2/a/b/manifests/1{query}") for query in ("", "?ns=docker.io", "?ns=quay.io")]
    assert [answer.headers.get("docker-content-digest") for answer in answers] == [
        str(pushed),
        str(pulled),
        str(pushed),
    ]


@pytest.mark.parametrize("namespace", ["../..", "a/b", "-x", "a b", "a" * 256, "x\x00"])
def test_a_namespace_that_is_no_registry(client: Client, namespace: str) -> None:
    assert refused(client("GET", f"/v2/a/manifests/1?ns={quote(namespace, safe='')}")) == (400, "NAME_INVALID")


WRITES: tuple[tuple[str, Callable[[Digest], str]], ...] = (
    ("PUT", lambda digest: "manifests/1"),
    ("DELETE", lambda digest: "manifests/1"),
    ("DELETE", lambda digest: f"manifests/{digest}"),
    ("DELETE", lambda digest: f"blobs/{Digest.of(LAYER)}"),
    ("POST", lambda digest: "blobs/uploads/"),
    ("POST", lambda digest: f"blobs/uploads/?mount={Digest.of(LAYER)}&from=a/b"),
    ("PATCH", lambda digest: "blobs/uploads/x"),
    ("PUT", lambda digest: f"blobs/uploads/x?digest={Digest.of(LAYER)}"),
    ("DELETE", lambda digest: "blobs/uploads/x"),
)


@pytest.mark.parametrize(("method", "place"), WRITES)
def test_nothing_is_written_to_what_was_pulled(
    client: Client, store: Store, method: str, place: Callable[[Digest], str]
) -> None:
    digest = keep(store, RepositoryName("a/b", "docker.io"))
    target = f"/v2/a/b/{place(digest)}"
    response = client(method, f"{target}{'&' if '?' in target else '?'}ns=docker.io", b"x")
    assert refused(response) == (405, "UNSUPPORTED")
    assert response.headers.get("allow") == "GET, HEAD"
    assert client("GET", "/v2/a/b/manifests/1?ns=docker.io").status == 200


@pytest.mark.parametrize(("method", "place"), WRITES)
def test_a_registry_that_is_read_only(store: Store, method: str, place: Callable[[Digest], str]) -> None:
    digest = Client(Registry(store)).push_image("1", "a/b")
    client = Client(Registry(store, read_only=True))
    assert refused(client(method, f"/v2/a/b/{place(digest)}", b"x")) == (405, "UNSUPPORTED")
    assert client("GET", "/v2/a/b/manifests/1").status == 200
    assert content(client("GET", f"/v2/a/b/blobs/{Digest.of(LAYER)}")) == LAYER


# ── failures below ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_damaged_store_is_not_the_clients_fault(tmp_path: Path) -> None:
    client = Client(Registry(LayoutStore(tmp_path)))
    digest = client.push_image()
    blob = tmp_path / "blobs" / "sha256" / digest.hex
    blob.write_bytes(blob.read_bytes().replace(b"2", b"3", 1))
    with pytest.raises(ContentMismatch):
        client("GET", "/v2/team/app/manifests/1")


def test_a_busy_store_says_come_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> Any:
        raise StoreBusy("somebody else writes to this")

    monkeypatch.setattr(type(store), "repository", busy)
    assert refused(Client(Registry(store))("GET", "/v2/a/manifests/1")) == (503, "UNAVAILABLE")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "X"]),
    path=st.lists(
        st.one_of(
            st.sampled_from(
                ["v2", "a", "manifests", "blobs", "uploads", "tags", "list", "referrers", "..", "%2e%2e", ""]
            ),
            st.text(max_size=6).map(lambda text: quote(text, errors="replace")),
            st.sampled_from(["sha256:" + "0" * 64, "%00", "%ff", "_catalog"]),
        ),
        max_size=6,
    ),
    query=st.sampled_from(
        ["", "?n=x", "?ns=%00", "?digest=sha256:0", "?mount=x&from=y", "?tag=%ff", "?last=%ff", "?&=&"]
    ),
)
def test_hostile_requests_get_an_answer_and_leave_nothing(
    client: Client, tmp_path: Path, method: str, path: list[str], query: str
) -> None:
    response = client(method, "/v2/" + "/".join(path) + query, b"body", Range="bytes=x", Content_Range="1-")
    assert 200 <= response.status <= 499
    response.body.close()
    assert sorted(each.name for each in tmp_path.iterdir()) in ([], ["store"])


# ── the registry as a network ────────────────────────────────────────────────────────────────────────────────────


def test_loopback_is_several_hosts() -> None:
    first, second = Registry(MemoryStore()), Registry(MemoryStore())
    network = Loopback({"one.test": first, "two.test:5000": second.handle})
    Client(first).push_image("1", "a")
    assert network.send(Request("GET", "https://one.test/v2/a/manifests/1")).status == 200
    assert network.send(Request("GET", "https://two.test:5000/v2/a/manifests/1")).status == 404
    with pytest.raises(TransportError) as caught:
        network.send(Request("GET", "https://three.test/v2/"))
    assert caught.value.cause is Cause.REFUSED
    assert network.lines == [
        "GET https://one.test/v2/a/manifests/1",
        "GET https://two.test:5000/v2/a/manifests/1",
        "GET https://three.test/v2/",
    ]
    network.clear()
    assert network.lines == []


def test_a_store_stays_when_its_registry_goes() -> None:
    with TemporaryDirectory() as folder:
        digest = Client(Registry(LayoutStore(Path(folder)))).push_image()
        again = Client(Registry(LayoutStore(Path(folder))))
        assert again("HEAD", "/v2/team/app/manifests/1").headers.get("docker-content-digest") == str(digest)
