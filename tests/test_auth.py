"""Who we are to a registry, played by hand: no network, every answer is fed to the conversation."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.auth import (
    TOKEN_ANSWER_LIMIT_BYTES,
    Answer,
    AuthorizationFailed,
    Authorizer,
    BadCredential,
    Credential,
    Lookup,
    Send,
    Steps,
    T,
    decode_auth,
    from_registries,
)
from pierhead.body import BytesBlob, StreamBlob, read_all
from pierhead.config.registries import parse
from pierhead.errors import ExitCode
from pierhead.redact import Secret
from pierhead.redirect import REDIRECT_LIMIT
from pierhead.transport import Cause, Options, TransportError
from pierhead.wire import Challenge, Headers, Request, Response

HOST = "r.example:5000"
REALM = "https://auth.example/token"
BEARER = Challenge("bearer", {"realm": REALM, "service": "svc", "scope": "repository:a/b:pull"})
BASIC = Challenge("basic", {"realm": "r"})
SCOPES = ("repository:a/b:pull",)
USER = Credential("user", Secret("pass"))
IDENTITY = Credential("", Secret("refresh-me"), "identity_token")


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TokenServer:
    """Answers what is asked with the next of these, the last one again and again; remembers the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.answers[min(len(self.requests), len(self.answers)) - 1]

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.requests]


def play(steps: Steps[T], server: Callable[[Request], Answer]) -> T:
    """Carry a conversation out against a function."""
    answer: Answer = None
    try:
        while True:
            step = steps.send(answer)
            assert isinstance(step, Send)
            answer = server(step.request)
    except StopIteration as end:
        value: T = end.value
        return value


def answered(body: object, status: int = 200) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, body=BytesBlob(raw))


def authorizer(credential: Credential | None = None, *, clock: Clock | None = None, **more: bool) -> Authorizer:
    return Authorizer(lambda host: credential, Options(), clock=clock or Clock(), **more)


def challenged(found: Authorizer, *challenges: Challenge, sent: str | None = None, repeated: bool = False) -> bool:
    return found.challenged(HOST, challenges, sent=sent, repeated=repeated)


def form(request: Request) -> dict[str, list[str]]:
    assert request.body is not None
    return parse_qs(read_all(request.body, 10_000).decode(), keep_blank_values=True)


def query(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.url).query)


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────


def packed(data: bytes) -> Secret:
    return Secret(base64.b64encode(data).decode())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (packed(b"user:pass"), ("user", "pass")),
        (packed(b"user:pa:ss"), ("user", "pa:ss")),
        (packed(b"user:"), ("user", "")),
        (packed(b":pass"), ("", "pass")),
        (packed(b"user:pass\0\0"), ("user", "pass")),
        (packed(b"user:\0pa\0ss\0"), ("user", "pa\0ss")),
        (Secret("dXNl\ncjpw\r\nYXNz\n"), ("user", "pass")),
        (packed("josé:pässword".encode()), ("josé", "pässword")),
        (Secret("dTq="), ("u", "")),  # bits behind the end: Go's decoder does not look at them either
    ],
)
def test_auth_is_base64_of_user_and_password(text: Secret, expected: tuple[str, str]) -> None:
    user, password = decode_auth(text)
    assert (user, password.reveal()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "dXNlcjpwYXN",  # no padding
        "dXNlcjpwYXNz=",
        "dXNlcjpwYXNz====",
        "dXNl cjpwYXNz",
        "dXNl\tcjpwYXNz",
        "fn5-fn5_Og==",  # urlsafe
        "user:password",
        "ü" * 4,
        "dXNlcjpwYXNz\0",
        "=dXNlcjpwYXNz",
        "\ud800",
    ],
)
def test_auth_that_is_not_base64_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(BadCredential, match="not base64") as caught:
        decode_auth(Secret(text))
    assert caught.value.__context__ is None  # which would hold the text
    assert caught.value.exit_code is ExitCode.NOT_AUTHORISED


@pytest.mark.parametrize("data", [b"", b"nocolon", b"\xff\xfe"])
def test_auth_without_a_colon_is_refused(data: bytes) -> None:
    with pytest.raises(BadCredential, match="not of user:password") as caught:
        decode_auth(packed(data))
    assert "nocolon" not in str(caught.value) + caught.value.hint


@settings(deadline=None)
@given(st.binary(max_size=20).filter(lambda data: b":" not in data), st.binary(max_size=20))
def test_any_bytes_go_to_the_wire_as_they_were_encoded(user: bytes, password: bytes) -> None:
    password = password.strip(b"\0")
    name, secret = decode_auth(packed(user + b":" + password))
    sent = Credential(name, secret).basic
    assert base64.b64decode(sent.removeprefix("Basic ")) == user + b":" + password


def test_a_lone_surrogate_is_sent_as_go_would() -> None:
    sent = Credential("u", Secret("\ud800")).basic
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"u:\xef\xbf\xbd"


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("{username: u, password: p, identity_token: t, auth: dTpw}", ("u", "p", "basic")),
        ("{username: u}", ("u", "", "basic")),
        ("{identity_token: t, auth: dTpw}", ("", "t", "identity_token")),
        ("{auth: dTpw, password: p}", ("u", "p", "auth")),
        ("{password: p}", None),
        ("{}", None),
    ],
)
def test_the_precedence_of_configs(auth: str, expected: tuple[str, str, str] | None) -> None:
    config = parse(f"configs: {{r: {{auth: {auth}}}}}".encode(), "r.yaml").configs["r"]
    found = from_registries(config)
    assert (found and (found.username, found.secret.reveal(), found.kind)) == expected
    assert found is None or (found.key == "r" and found.span is not None)
    assert from_registries(None) is None


def test_a_bad_auth_of_configs_says_where() -> None:
    config = parse(b"configs:\n  r:\n    auth: {auth: hunter2}\n", "r.yaml").configs["r"]
    with pytest.raises(BadCredential, match=r"r\.yaml:3:\d+: configs 'r': `auth` is not base64") as caught:
        from_registries(config)
    assert "hunter2" not in str(caught.value)


# ── basic ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_sent_before_somebody_asks() -> None:
    assert play(authorizer(USER).header(HOST, SCOPES), TokenServer()) is None


def test_basic_after_a_challenge() -> None:
    found = authorizer(USER)
    assert challenged(found, BASIC)
    assert play(found.header(HOST, SCOPES), TokenServer()) == USER.basic
    assert play(found.header("other.example", SCOPES), TokenServer()) is None


@pytest.mark.parametrize(("repeats", "again"), [(False, False), (True, True)])
def test_a_refused_password_is_repeated_by_containerd_only(repeats: bool, again: bool) -> None:
    found = authorizer(USER, repeats_refused=repeats)
    assert challenged(found, BASIC)
    assert challenged(found, BASIC, sent=USER.basic, repeated=True) is again


@pytest.mark.parametrize("credential", [None, Credential("user", Secret("")), IDENTITY])
def test_basic_without_a_password_fails(credential: Credential | None) -> None:
    with pytest.raises(AuthorizationFailed, match="wants a user name and password") as caught:
        challenged(authorizer(credential), BASIC)
    assert caught.value.hint


def test_bearer_wins_over_basic_and_digest_over_neither() -> None:
    found = authorizer(USER)
    assert challenged(found, BASIC, Challenge("digest"), BEARER)
    assert token(found, TokenServer(answered({"access_token": "t"}))) == "t"
    assert not challenged(authorizer(USER), Challenge("negotiate"), Challenge("digest"))
    assert not challenged(authorizer(USER))


def test_a_challenge_in_an_error_is_short_and_printable() -> None:
    noisy = Challenge("basic", {"realm": "\x1b[31m" + "x" * 5000, "hint": "https://u:hunter2@h/"})
    with pytest.raises(AuthorizationFailed) as caught:
        challenged(authorizer(), noisy)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500
    assert "hunter2" not in caught.value.message


def test_a_bad_credential_is_raised_when_it_is_needed() -> None:
    def lookup(host: str) -> Credential | None:
        raise BadCredential("no base64")

    for challenge in (BASIC, BEARER):
        found = Authorizer(lookup, Options(), clock=Clock())
        with pytest.raises(BadCredential):
            challenged(found, challenge)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────


def token(found: Authorizer, server: Callable[[Request], Answer], scopes: Sequence[str] = SCOPES) -> str:
    header = play(found.header(HOST, scopes), server)
    assert header is not None
    scheme, _, value = header.partition(" ")
    assert scheme == "Bearer"
    return value


def ready(credential: Credential | None = None, challenge: Challenge = BEARER, **more: Any) -> Authorizer:
    found = authorizer(credential, **more)
    assert challenged(found, challenge)
    return found


def test_an_anonymous_token_is_got() -> None:
    server = TokenServer(answered({"token": "t", "access_token": "a"}))
    assert token(ready(), server) == "a"
    (request,) = server.requests
    assert request.method == "GET"
    assert "Authorization" not in request.headers
    assert query(request) == {"service": ["svc"], "scope": ["repository:a/b:pull"]}


def test_a_token_for_a_password_is_posted_for() -> None:
    server = TokenServer(answered({"access_token": "t", "refresh_token": "not kept"}))
    assert token(ready(USER), server) == "t"
    (request,) = server.requests
    assert request.method == "POST"
    assert request.url == REALM
    assert form(request) == {
        "client_id": ["containerd-client"],
        "service": ["svc"],
        "scope": ["repository:a/b:pull"],
        "grant_type": ["password"],
        "username": ["user"],
        "password": ["pass"],
    }


def test_a_token_for_an_identity_token() -> None:
    server = TokenServer(answered({"access_token": "t"}))
    assert token(ready(IDENTITY), server) == "t"
    assert form(server.requests[0])["grant_type"] == ["refresh_token"]
    assert form(server.requests[0])["refresh_token"] == ["refresh-me"]
    assert "username" not in form(server.requests[0])


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_a_post_that_is_not_understood_becomes_a_get(status: int) -> None:
    server = TokenServer(answered({}, status), answered({"token": "t"}))
    assert token(ready(USER), server) == "t"
    assert server.methods == ["POST", "GET"]
    assert server.requests[1].headers.get("Authorization") == USER.basic


@pytest.mark.parametrize(("credential", "status"), [(USER, 403), (USER, 500), (USER, 429), (IDENTITY, 405)])
def test_other_refusals_of_a_post_stand(credential: Credential, status: int) -> None:
    server = TokenServer(answered({}, status))
    with pytest.raises(AuthorizationFailed, match=f"the token server {REALM} answers {status}"):
        token(ready(credential), server)
    assert server.methods == ["POST"]


def test_a_user_without_a_password_is_anonymous() -> None:
    server = TokenServer(answered({"token": "t"}))
    assert token(ready(Credential("user", Secret(""))), server) == "t"
    assert server.methods == ["GET"]
    assert "Authorization" not in server.requests[0].headers


def test_scopes_are_united_and_sorted() -> None:
    challenge = Challenge("bearer", {"realm": REALM, "scope": "repository:z:pull repository:a/b:pull"})
    server = TokenServer(answered({"token": "t"}))
    assert token(ready(None, challenge), server, ["repository:m:pull"]) == "t"
    assert query(server.requests[0])["scope"] == ["repository:a/b:pull", "repository:m:pull", "repository:z:pull"]
    assert "service" not in query(server.requests[0])


def test_the_query_of_a_realm_stays_and_its_fragment_does_not() -> None:
    challenge = Challenge("bearer", {"realm": f"{REALM}?z=1&account=x#part", "service": "s v"})
    server = TokenServer(answered({"token": "t"}))
    assert token(ready(None, challenge), server, ()) == "t"
    assert server.requests[0].url == f"{REALM}?account=x&service=s+v&z=1"


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "token",
        "/token",
        "file:///etc/passwd",
        "ftp://h/t",
        "javascript:alert(1)",
        "https://",
        "https:///t",
        "//h/t",
    ],
)
def test_a_realm_must_be_an_http_url(realm: str) -> None:
    with pytest.raises(AuthorizationFailed, match="no usable token server"):
        challenged(authorizer(USER), Challenge("bearer", {"realm": realm}))


def test_a_token_is_kept_by_scope() -> None:
    server = TokenServer(answered({"token": "1"}), answered({"token": "2"}))
    found = ready()
    assert [token(found, server) for _ in range(3)] == ["1", "1", "1"]
    assert token(found, server, ["repository:other:pull"]) == "2"
    assert len(server.requests) == 2


def test_a_token_is_renewed_when_it_has_run_out() -> None:
    clock = Clock()
    server = TokenServer(answered({"token": "1", "expires_in": 60}), answered({"token": "2"}))
    found = ready(clock=clock)
    assert token(found, server) == "1"
    clock.now += 59
    assert token(found, server) == "1"
    clock.now += 1
    assert token(found, server) == "2"
    clock.now += 1e9
    assert token(found, server) == "2"  # nothing said how long it lasts


def test_a_refused_token_is_renewed_once() -> None:
    server = TokenServer(answered({"token": "1"}), answered({"token": "2"}))
    found = ready()
    assert token(found, server) == "1"
    assert challenged(found, BEARER, sent="Bearer 1")
    assert token(found, server) == "2"
    assert not challenged(found, BEARER, sent="Bearer 2", repeated=True)


def test_a_token_that_another_thread_renewed_stays() -> None:
    server = TokenServer(answered({"token": "1"}), answered({"token": "2"}), answered({"token": "3"}))
    found = ready()
    assert token(found, server) == "1"
    assert challenged(found, BEARER, sent="Bearer 1")
    assert token(found, server) == "2"
    assert challenged(found, BEARER, sent="Bearer 1")  # the other request, which was under way with the old one
    assert token(found, server) == "2"


def test_a_token_refused_with_a_reason_ends_it() -> None:
    refused = Challenge("bearer", {**BEARER.parameters, "error": "invalid_token\x1b[1m" + "x" * 100})
    found = ready(USER)
    assert token(found, TokenServer(answered({"access_token": "1"}))) == "1"
    assert challenged(found, refused, sent="Bearer 1")
    with pytest.raises(AuthorizationFailed, match="refuses our token: invalid_token") as caught:
        challenged(found, refused, sent="Bearer 1", repeated=True)
    assert caught.value.message.isprintable()
    assert "user" in caught.value.hint


def test_a_refused_login_is_not_tried_again() -> None:
    server = TokenServer(answered({}, 403))
    found = ready(USER)
    for _ in range(3):
        with pytest.raises(AuthorizationFailed) as caught:
            token(found, server)
        assert HOST in caught.value.hint  # the host that challenged is where the credential is looked up
    assert len(server.requests) == 1


def test_a_token_server_that_hung_up_is_asked_again_but_not_by_containerd() -> None:
    closed = TransportError(Cause.CLOSED, REALM)
    for repeats, count in ((False, 2), (True, 1)):
        server = TokenServer(closed)
        found = ready(repeats_refused=repeats)
        for _ in range(2):
            with pytest.raises(TransportError):
                token(found, server)
        assert len(server.requests) == count


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_token_server_that_is_too_busy_is_asked_again_but_not_by_containerd(status: int) -> None:
    for repeats, count in ((False, 2), (True, 1)):
        server = TokenServer(answered({}, status))
        found = ready(USER, repeats_refused=repeats)
        for _ in range(2):
            with pytest.raises(AuthorizationFailed, match=str(status)) as caught:
                token(found, server)
            assert (caught.value.busy is not None) is not repeats
        assert len(server.requests) == count


def test_a_token_server_that_is_down_is_not_dialled_again() -> None:
    server = TokenServer(TransportError(Cause.REFUSED, REALM))
    found = ready()
    for _ in range(3):
        with pytest.raises(TransportError, match=r"auth\.example: connection refused"):
            token(found, server)
    assert len(server.requests) == 1


def test_several_threads_fetch_one_token() -> None:
    found, calls, all_here = ready(), [], threading.Barrier(8, timeout=10)

    def server(request: Request) -> Answer:
        calls.append(request)
        return answered({"token": f"t{len(calls)}"})

    got: list[str] = []

    def work() -> None:
        all_here.wait()
        got.append(token(found, server))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert got == ["t1"] * 8
    assert len(calls) == 1


def test_a_conversation_that_is_dropped_lets_others_have_the_token() -> None:
    found = ready()
    dropped = found.header(HOST, SCOPES)
    assert isinstance(next(dropped), Send)
    dropped.close()
    assert token(found, TokenServer(answered({"token": "t"}))) == "t"


# ── hostile token servers ────────────────────────────────────────────────────────────────────────────────────────


def endless(taken: list[int]) -> Response:
    def pieces() -> Any:
        while True:
            taken.append(65536)
            yield b"[" * 65536

    return Response(200, body=StreamBlob(pieces()))


def test_an_endless_token_answer_is_cut_off() -> None:
    taken: list[int] = []
    with pytest.raises(AuthorizationFailed, match="not a token"):
        token(ready(), TokenServer(endless(taken)))
    assert sum(taken) <= TOKEN_ANSWER_LIMIT_BYTES + 65536


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"token"',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        gzip.compress(b'{"token": "' + b"0" * 10_000_000 + b'"}'),
        b'{"token": "' + b"0" * TOKEN_ANSWER_LIMIT_BYTES + b'"}',
        b"{'token': 't'}",
        b"1" * 5000,
        b'{"expires_in": ' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_not_json_is_no_token(body: bytes) -> None:
    with pytest.raises(AuthorizationFailed, match="not a token") as caught:
        token(ready(), TokenServer(answered(body)))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None  # which would hold the answer


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"token": ""},
        {"token": None},
        {"token": 7},
        {"token": ["t"]},
        {"token": {"t": 1}},
        {"token": "a\r\nX-Evil: 1"},
        {"token": "a\nb"},
        {"token": "a\0b"},
        {"token": "\x1b[2J"},
        {"token": "a\u2028b"},
        {"TOKEN": "t"},
    ],
)
def test_a_token_is_a_printable_text(body: object) -> None:
    with pytest.raises(AuthorizationFailed, match="has no access_token"):
        token(ready(), TokenServer(answered(body)))


@pytest.mark.parametrize("seconds", ["300", None, [], {}, -1, 0, 10**400, 1e308, float("inf"), float("nan"), True])
def test_odd_lifetimes_do_no_harm(seconds: object) -> None:
    raw = json.dumps({"token": "t", "expires_in": seconds}).encode()
    assert token(ready(), TokenServer(answered(raw))) == "t"


@pytest.mark.parametrize("status", [199, 400, 401, 403, 404, 429, 500, 503, 999])
def test_a_refusal_of_an_anonymous_token(status: int) -> None:
    with pytest.raises(AuthorizationFailed, match=rf"answers {status}") as caught:
        token(ready(), TokenServer(answered({"token": "t"}, status)))
    assert caught.value.exit_code is ExitCode.NOT_AUTHORISED


def test_a_body_that_breaks_off_is_a_transport_error() -> None:
    def pieces() -> Any:
        yield b'{"token":'
        raise TransportError(Cause.CUT, REALM)

    closed: list[bool] = []
    answer = Response(200, body=StreamBlob(pieces(), on_close=lambda: closed.append(True)))
    with pytest.raises(TransportError):
        token(ready(), TokenServer(answer))
    assert closed


def test_every_answer_of_a_token_server_is_closed() -> None:
    closed: list[int] = []

    def answer(status: int) -> Response:
        body = StreamBlob(iter([b'{"token": "t"}']), on_close=lambda: closed.append(status))
        return Response(status, Headers(), body)

    assert token(ready(USER), TokenServer(answer(404), answer(200))) == "t"
    assert closed == [404, 200]


def moved(location: str, status: int = 307) -> Response:
    return Response(status, Headers([("Location", location)]))


def test_a_token_server_that_moved_is_followed() -> None:
    server = TokenServer(moved("/new/token?scope=s"), answered({"token": "t"}))
    assert token(ready(), server) == "t"
    assert server.requests[1].url.endswith("/new/token?scope=s")


@pytest.mark.parametrize(("location", "kept"), [("/elsewhere", True), ("https://other.example/token", False)])
def test_a_password_stays_with_the_token_server_it_is_for(location: str, kept: bool) -> None:
    server = TokenServer(answered(b"", 404), moved(location), answered({"token": "t"}))
    assert token(ready(USER), server) == "t"
    assert server.requests[1].headers.get("authorization") == USER.basic
    assert ("authorization" in server.requests[2].headers) is kept


def test_a_form_with_a_password_is_not_sent_on() -> None:
    server = TokenServer(moved("https://other.example/token"), answered({"token": "t"}))
    assert token(ready(USER), server) == "t"
    assert [request.method for request in server.requests] == ["POST", "GET"]
    assert server.requests[1].url.startswith(REALM)


def test_a_token_server_that_sends_us_in_circles_is_left() -> None:
    server = TokenServer(*[moved("/again") for _ in range(REDIRECT_LIMIT)])
    with pytest.raises(TransportError, match="stopped after 10 redirects"):
        token(ready(), server)


def test_nothing_secret_in_what_an_authorizer_shows() -> None:
    lookup: Lookup = lambda host: USER  # noqa: E731
    found = Authorizer(lookup, Options(), clock=Clock())
    assert challenged(found, BEARER)
    assert token(found, TokenServer(answered({"access_token": "hunter2"}))) == "hunter2"
    shown = repr(found) + repr(vars(found)) + repr(USER)
    assert "hunter2" not in shown
    assert "pass'" not in shown
    assert found.secrets() >= {"hunter2", "pass", USER.basic.removeprefix("Basic ")}
