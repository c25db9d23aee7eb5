"""The protocol as values: what is written is read back, and what is hostile is refused with the named errors only."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pierhead.body import read_all
from pierhead.wire import (
    CHALLENGE_LIMIT_CHARS,
    ERRORS_LIMIT,
    METHODS,
    ByteRange,
    Call,
    Challenge,
    Endpoint,
    ErrorCode,
    Headers,
    MethodNotAllowed,
    Request,
    UnknownCall,
    UnsatisfiableRange,
    error_response,
    format_content_range,
    format_link,
    format_range,
    next_link,
    parse_challenge,
    parse_challenges,
    parse_content_range,
    parse_errors,
    parse_range,
    status_text,
)

# ── calls (law 2) ────────────────────────────────────────────────────────────────────────────────────────────────

COMPONENTS = st.one_of(
    st.sampled_from(["blobs", "uploads", "manifests", "tags", "list", "referrers", "_catalog", "v2", "a", "x-y"]),
    st.text("abc019._-", min_size=1, max_size=8).filter(lambda text: text not in (".", "..")),
)
REPOSITORIES = st.lists(COMPONENTS, min_size=1, max_size=5).map("/".join)
REFERENCES = st.one_of(
    st.text("abcXYZ019._-", min_size=1, max_size=20),
    st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__),
    st.sampled_from(["uploads", "list", "manifests"]),
)
QUERIES = st.lists(st.tuples(st.text(min_size=1, max_size=5), st.text(max_size=8)), max_size=3).map(tuple)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    endpoint = draw(st.sampled_from(Endpoint))
    method = draw(st.sampled_from(sorted(METHODS[endpoint])))
    bare = endpoint in (Endpoint.BASE, Endpoint.CATALOG)
    last = endpoint in (Endpoint.MANIFEST, Endpoint.BLOB, Endpoint.UPLOAD, Endpoint.REFERRERS)
    repository = "" if bare else draw(REPOSITORIES)
    reference = draw(REFERENCES) if last else ""
    if endpoint is Endpoint.BLOB and reference == "uploads":
        reference = "upload"  # a blob is named by its digest; `blobs/uploads` is where an upload begins
    return Call(endpoint, method, repository, reference, draw(QUERIES))


@given(calls())
@example(Call(Endpoint.MANIFEST, "GET", "blobs/uploads", "latest"))
@example(Call(Endpoint.TAGS, "GET", "manifests"))
@example(Call(Endpoint.UPLOADS, "POST", "tags/list", query=(("mount", "sha256:00"), ("from", "a/b"))))
@example(Call(Endpoint.MANIFEST, "PUT", "a", "1", (("tag", "2"), ("tag", "3"))))
def test_a_call_reads_back_what_it_writes(call: Call) -> None:
    """Law 2, with repositories named like parts of the protocol."""
    assert Call.parse(call.method, call.target()) == call


@given(calls(), st.sampled_from(["/v2", "/api/docker/v2", "/v2/proxy"]))
def test_a_call_reads_back_below_another_root(call: Call, root: str) -> None:
    assert Call.parse(call.method, call.target(root), root) == call


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v2", Call(Endpoint.BASE, "GET")),
        ("/v2/", Call(Endpoint.BASE, "GET")),
        ("/v2/_catalog?n=2", Call(Endpoint.CATALOG, "GET", query=(("n", "2"),))),
        ("/v2/a/b/tags/list", Call(Endpoint.TAGS, "GET", "a/b")),
        ("/v2/a/manifests/1?ns=docker.io", Call(Endpoint.MANIFEST, "GET", "a", "1", (("ns", "docker.io"),))),
        ("/v2/a/blobs/sha256:1", Call(Endpoint.BLOB, "GET", "a", "sha256:1")),
        ("/v2/a/blobs/uploads/x-1", Call(Endpoint.UPLOAD, "GET", "a", "x-1")),
        ("/v2/a/referrers/sha256:1", Call(Endpoint.REFERRERS, "GET", "a", "sha256:1")),
    ],
)
def test_the_rows_of_the_protocol(target: str, expected: Call) -> None:
    assert Call.parse("GET", target) == expected


@pytest.mark.parametrize("target", ["/v2/a/blobs/uploads", "/v2/a/blobs/uploads/"])
def test_an_upload_begins_with_or_without_the_last_slash(target: str) -> None:
    assert Call.parse("POST", target) == Call(Endpoint.UPLOADS, "POST", "a")


@pytest.mark.parametrize("target", ["", "/", "/v1/", "/v2/a", "/v2/manifests/x", "/v2/a/b/c", "/v2//manifests/x", "*"])
def test_no_row_of_the_protocol(target: str) -> None:
    with pytest.raises(UnknownCall):
        Call.parse("GET", target)


def test_a_method_that_is_not_for_this_row() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        Call.parse("POST", "/v2/a/tags/list")
    assert caught.value.allowed == {"GET"}


@given(st.text(max_size=200))
@example("/v2/" + "%" * 100)
@example("/v2/../../etc/passwd/manifests/%00")
@example("/v2/a/manifests/\ud800")
def test_a_hostile_target_is_a_call_or_a_named_error(text: str) -> None:
    for target in (text, f"/v2/{text}", f"/v2/a/manifests/{text}", f"/v2/a/tags/list?{text}"):
        try:
            call = Call.parse("GET", target)
        except (UnknownCall, MethodNotAllowed):
            continue
        assert call.method == "GET"


def test_arguments() -> None:
    call = Call.parse("PUT", "/v2/a/manifests/1?tag=2&tag=3&ns=quay.io&empty=")
    assert call.arguments("tag") == ("2", "3")
    assert (call.argument("tag"), call.argument("none", "?"), call.argument("empty", "?")) == ("2", "?", "")
    assert call.namespace == "quay.io"


# ── requests and headers ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("https://r.example:5000/v2/?n=1", "r.example:5000", "/v2/?n=1"),
        ("http://[::1]:5000/v2/", "[::1]:5000", "/v2/"),
        ("https://r.example", "r.example", "/"),
    ],
)
def test_the_parts_of_a_request(url: str, authority: str, target: str) -> None:
    request = Request("GET", url)
    assert (request.authority, request.target) == (authority, target)


def test_headers_have_several_values_and_no_case() -> None:
    headers = Headers([("Link", "a"), ("link", "b")]).plus(("X", "c"))
    assert headers.all("LINK") == ("a", "b")
    assert headers.get("x") == "c"
    assert headers.get("none", "d") == "d"
    assert "lInK" in headers
    assert "none" not in headers
    assert 3 not in headers
    assert headers == Headers([("Link", "a"), ("link", "b"), ("X", "c")])
    assert len({headers, Headers([("Link", "a"), ("link", "b"), ("X", "c")])}) == 1


def test_headers_do_not_print_their_values() -> None:
    assert "hunter2" not in repr(Headers({"Authorization": "Bearer hunter2"}))


# ── ranges (law 7 begins here) ───────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 1 << 40), st.data())
def test_a_range_lies_inside(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start, 1 << 41))
    part = parse_range(f"bytes={start}-{end}", size)
    assert part == ByteRange(start, min(end, size - 1), size)
    assert part.length == part.end - start + 1


@given(st.integers(1, 1 << 40), st.data())
def test_ranges_that_follow_each_other_make_the_whole(size: int, data: st.DataObject) -> None:
    """Law 7, for the arithmetic: cut anywhere, what is missing is asked with the client's own header."""
    cuts = sorted(data.draw(st.sets(st.integers(1, size), max_size=5)) | {size})
    have = 0
    for cut in cuts:
        part = parse_range(format_range(have), size) if cut == size else parse_range(f"bytes={have}-{cut - 1}", size)
        if have == size:
            break
        assert part is not None
        assert part.start == have
        have = part.end + 1
    assert have == size


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        ("bytes=0-", 10, (0, 9)),
        ("bytes=-3", 10, (7, 9)),
        ("bytes=-30", 10, (0, 9)),
        ("bytes=9-9", 10, (9, 9)),
        (" bytes=1-2 ", 10, (1, 2)),
        ("bytes=0-99999999999999999999", 10, None),
        ("bytes=5-4", 10, None),
        ("bytes=-", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("pages=0-1", 10, None),
        ("", 10, None),
    ],
)
def test_range_headers(header: str, size: int, expected: tuple[int, int] | None) -> None:
    part = parse_range(header, size)
    assert (part and (part.start, part.end)) == expected


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=11-20", 10), ("bytes=0-", 0), ("bytes=-0", 5)])
def test_a_range_behind_the_end(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableRange):
        parse_range(header, size)


@given(st.text(max_size=60), st.integers(0, 1 << 40))
@example("bytes=٣-٤", 10)
def test_a_hostile_range_is_ignored_or_unsatisfiable(header: str, size: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            part = parse_range(text, size)
        except UnsatisfiableRange:
            continue
        assert part is None or 0 <= part.start <= part.end < size


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.one_of(st.none(), st.integers(0, 1 << 51)))
def test_a_content_range_reads_back(start: int, length: int, size: int | None) -> None:
    part = ByteRange(start, start + length, size)
    assert parse_content_range(format_content_range(part)) == part


@pytest.mark.parametrize("header", ["", "5-4", "bytes 0-1/2/3", "x", "0-", "-1", "bytes=0-1", "0-1/x", "9" * 40 + "-1"])
def test_no_content_range(header: str) -> None:
    assert parse_content_range(header) is None


def test_the_content_range_of_an_upload() -> None:
    assert parse_content_range("0-9") == ByteRange(0, 9)


# ── challenges ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bearer_challenge() -> None:
    header = 'Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push"'
    assert parse_challenge(header) == Challenge(
        "bearer",
        {"realm": "https://auth.example/token", "service": "r.example", "scope": "repository:a/b:pull,push"},
    )


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Basic", Challenge("basic")),
        ('BASIC realm="a \\"b\\" c"', Challenge("basic", {"realm": 'a "b" c'})),
        ("Bearer realm=https://a/t , service=s", Challenge("bearer", {"realm": "https://a/t", "service": "s"})),
        ('Bearer realm="a",realm="b"', Challenge("bearer", {"realm": "a"})),
        ('Bearer realm="a", broken, service="s"', Challenge("bearer", {"realm": "a"})),
        ("", None),
        ("   ", None),
        ('"', None),
        ("Basic,", None),
    ],
)
def test_challenges(header: str, expected: Challenge | None) -> None:
    assert parse_challenge(header) == expected


@given(
    st.sampled_from(["basic", "bearer"]),
    st.dictionaries(
        st.text("abcdefgh_", min_size=1, max_size=8), st.text("abc /:.,=", min_size=0, max_size=20), max_size=4
    ),
)
def test_a_challenge_reads_back(scheme: str, parameters: dict[str, str]) -> None:
    challenge = Challenge(scheme, parameters)
    assert parse_challenge(str(challenge)) == challenge


@given(st.text(max_size=300))
@example('Bearer realm="' + "\\" * 200)
@example("Bearer " + "a=" * 100)
def test_a_hostile_challenge_never_raises(header: str) -> None:
    parse_challenge(header)
    parse_challenge(f"Bearer {header}")


def test_an_endless_challenge_is_cut() -> None:
    challenge = parse_challenge("Bearer " + ",".join(f'k{number}="v"' for number in range(100_000)))
    assert challenge is not None
    assert sum(map(len, challenge.parameters)) < CHALLENGE_LIMIT_CHARS


def test_every_challenge_of_an_answer_in_order() -> None:
    headers = Headers(
        [("WWW-Authenticate", 'Bearer realm="a"'), ("www-authenticate", ""), ("WWW-Authenticate", "Basic")]
    )
    assert [challenge.scheme for challenge in parse_challenges(headers)] == ["bearer", "basic"]


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(calls())
def test_a_link_reads_back(call: Call) -> None:
    assert next_link(Headers([format_link(call.target())])) == call.target()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("</v2/_catalog?last=a>; rel=next", "/v2/_catalog?last=a"),
        ('<https://a/1>; rel="prev", <https://a/2>; rel="next"', "https://a/2"),
        ('<a>; title="x"; rel="next"', "a"),
        ('<a>; rel="last"', None),
        ("<>; rel=next", None),
        (f"<{'a' * 5000}>; rel=next", None),
        ("", None),
    ],
)
def test_links(header: str, expected: str | None) -> None:
    assert next_link(Headers([("Link", header)] if header else [])) == expected


@given(st.text(max_size=300))
def test_a_hostile_link_never_raises(text: str) -> None:
    next_link(Headers([("Link", text), ("Link", f"<{text}>; rel=next")]))


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_reads_back(code: ErrorCode) -> None:
    response = error_response(code, "why", headers=Headers({"Allow": "GET"}))
    (error,) = parse_errors(read_all(response.body, 1000))
    assert (error.code, error.message, str(error)) == (code.name, "why", f"{code.name}: why")
    assert response.status == code.status
    assert 400 <= response.status <= 599
    assert response.headers.get("allow") == "GET"
    assert not response.ok


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'{"errors": null}', b'{"errors": {"a": 1}}', b'{"errors": [1]}', b"\xff", b"[" * 100_000],
)
def test_no_errors(body: bytes) -> None:
    assert parse_errors(body) == ()


def test_errors_are_cut_to_one_line_each() -> None:
    many = [{"code": "DENIED\x1b[31m", "message": "a\nb\r\n" + "x" * 10_000}] * 1000
    errors = parse_errors(json.dumps({"errors": many[:200]}).encode()[: 10**7])
    assert errors == ()  # above the limit of a body it is no JSON any more
    errors = parse_errors(json.dumps({"errors": [{"code": "\x1b[31m", "message": "a\nb\r\n"}] * 100}).encode())
    assert len(errors) == ERRORS_LIMIT
    assert str(errors[0]) == "[31m: a b"


@given(st.binary(max_size=200))
def test_a_hostile_error_body_never_raises(body: bytes) -> None:
    parse_errors(body)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5))
def test_errors_of_another_shape_never_raise(value: object) -> None:
    for document in (value, {"errors": value}, {"errors": [{"code": value, "message": value}]}):
        for error in parse_errors(json.dumps(document).encode()):
            assert "\n" not in str(error)


# ── small ones ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_text() -> None:
    assert (status_text(404), status_text(799)) == ("404 Not Found", "799")
