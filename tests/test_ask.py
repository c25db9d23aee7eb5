"""One object asked of one route: redirects, authorization, repetitions. A scripted network, a clock that waits move."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.ask import (
    ATTEMPTS,
    BACK_OFF_CAP_SECONDS,
    CONTAINERD,
    OURS,
    RETRY_AFTER_CAP_SECONDS,
    SLOW_REST_SECONDS,
    GivenUp,
    Memory,
    Profile,
    ask,
)
from pierhead.auth import AuthorizationFailed, Wait
from pierhead.redirect import REDIRECT_LIMIT
from pierhead.transport import Cause, TransportError
from pierhead.wire import Headers, Request, Response
from scripted import Network, basic, bearer, down, lookup, route, said, token

URL = "https://a.example/v2/team/app/manifests/1"
BLOB = "https://a.example/v2/team/app/blobs/sha256:0"
ROUTE = route()


def memory_of(network: Network, profile: Profile = OURS, **passwords: str) -> Memory:
    return Memory(lookup(**passwords), profile=profile, clock=network.clock)


def asked(
    network: Network, memory: Memory | None = None, *, url: str = URL, method: str = "GET", last: bool = True
) -> Response:
    """One question; the answer is closed."""
    steps = ask(memory or memory_of(network), ROUTE, Request(method, url), last_route=last)
    response = network.play(steps)
    response.body.close()
    return response


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://cdn.example/x?sig=1", "https://cdn.example/x?sig=1"),
        ("/other/%2F?a=b", "https://a.example/other/%2F?a=b"),
        ("2", "https://a.example/v2/team/app/manifests/2"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("http://cdn.example/x#part", "http://cdn.example/x"),
        ("https://user:hunter2@cdn.example/x", "https://cdn.example/x"),
    ],
)
def test_redirects_are_followed(status: int, location: str, target: str) -> None:
    network = Network(said(status, location=location), said())
    assert asked(network).status == 200
    assert network.lines == [f"GET {URL}", f"GET {target}"]
    assert network.over


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://cdn.example/x",
        "javascript:alert(1)",
        "data:text/plain,x",
        "unix:/run/docker.sock",
        "https://",
        "https:///x",
        "http://[::1",
        "https://cdn.example/\x1b[2J",
        "https://cdn.example/a\r\nb",
        "HTTPS+x://cdn.example",
    ],
)
def test_redirects_to_unusable_places_are_refused(location: str) -> None:
    network = Network(said(307, location=location))
    memory = memory_of(network)
    with pytest.raises(TransportError) as caught:
        asked(network, memory)
    assert caught.value.cause is Cause.BAD_URL
    assert caught.value.message.isprintable()
    assert network.over
    network.replies = [said()]  # it is the target that is bad, not the host that named it
    assert asked(network, memory).status == 200


def test_a_redirect_without_a_place_is_an_answer() -> None:
    assert asked(Network(said(307))).status == 307


def test_ten_requests_are_the_limit() -> None:
    network = Network(*[said(302, location=f"/{number}") for number in range(REDIRECT_LIMIT)])
    with pytest.raises(TransportError, match="stopped after 10 redirects"):
        asked(network)
    assert len(network.requests) == REDIRECT_LIMIT == 10
    assert network.over
    network = Network(*[said(302, location=f"/{number}") for number in range(REDIRECT_LIMIT - 1)], said())
    assert asked(network).status == 200


def test_the_authorization_stays_with_its_host() -> None:
    network = Network(basic(), said(307, location="https://cdn.example/x"), said())
    memory = memory_of(network, a_example="pass", cdn_example="other")
    assert asked(network, memory).status == 200
    assert network.lines[1] == f"GET {URL} Basic dXNlcjpwYXNz"
    assert network.lines[2] == "GET https://cdn.example/x"


def test_a_redirect_target_may_ask_for_its_own() -> None:
    network = Network(
        said(307, location="https://cdn.example/x"), basic(), said(307, location="https://cdn.example/x"), said()
    )
    assert asked(network, memory_of(network, a_example="pass", cdn_example="other")).status == 200
    assert network.lines[-2:] == [f"GET {URL}", "GET https://cdn.example/x Basic dXNlcjpvdGhlcg=="]


def test_a_redirect_back_bears_the_authorization_again() -> None:
    network = Network(
        basic(), said(307, location="https://cdn.example/x"), said(307, location="https://a.example/y"), said()
    )
    assert asked(network, memory_of(network, a_example="pass")).status == 200
    assert [line.split()[2:] for line in network.lines] == [
        [],
        ["Basic", "dXNlcjpwYXNz"],
        [],
        network.lines[1].split()[2:],
    ]


def test_a_dead_redirect_target_is_not_dialled_again_and_its_host_is() -> None:
    to_cdn = said(307, location="https://cdn.example/x")
    network = Network(to_cdn, down(), to_cdn, said())
    memory = memory_of(network)
    with pytest.raises(TransportError):
        asked(network, memory, url=BLOB)
    with pytest.raises(GivenUp, match=r"not asked again: a\.example: connection refused"):
        asked(network, memory, url=BLOB)
    assert asked(network, memory).status == 200
    assert network.lines == [f"GET {BLOB}", "GET https://cdn.example/x", f"GET {BLOB}", f"GET {URL}"]


# ── authorization ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("profile", "count"), [(OURS, 2), (CONTAINERD, ATTEMPTS)])
def test_a_refused_password(profile: Profile, count: int) -> None:
    network = Network(*[basic() for _ in range(count)])
    assert asked(network, memory_of(network, profile, a_example="wrong")).status == 401
    assert len(network.requests) == count
    assert network.over


def test_a_token_goes_with_the_request_and_serves_the_next_one() -> None:
    network = Network(bearer(), token(), said(), said())
    memory = memory_of(network)
    assert [asked(network, memory).status, asked(network, memory, url=BLOB).status] == [200, 200]
    assert network.lines == [
        f"GET {URL}",
        "GET https://auth.example/token?scope=repository%3Ateam%2Fapp%3Apull&service=svc",
        f"GET {URL} Bearer t",
        f"GET {BLOB} Bearer t",
    ]


def test_a_token_that_ran_out_is_renewed_once() -> None:
    network = Network(bearer(), token("1"), said(), bearer(), token("2"), said(), bearer(), token("3"), bearer())
    memory = memory_of(network)
    assert [asked(network, memory).status for _ in range(3)] == [200, 200, 401]
    assert network.over


def test_no_credentials_at_all() -> None:
    network = Network(basic())
    with pytest.raises(AuthorizationFailed, match=r"a\.example wants a user name"):
        asked(network)
    assert network.over


def test_a_dead_token_server_does_not_condemn_the_registry() -> None:
    network = Network(bearer(), down(url="https://auth.example/"), said())
    memory = memory_of(network)
    with pytest.raises(TransportError, match=r"auth\.example"):
        asked(network, memory)
    with pytest.raises(TransportError, match=r"auth\.example"):  # and is not dialled again, either
        asked(network, memory)
    assert memory.hosts.given_up == {}
    assert network.waited == []


def test_a_foreign_host_gets_no_credentials() -> None:
    network = Network(basic())
    memory = Memory(lookup(a_example="pass"), clock=network.clock)
    foreign = replace(ROUTE, kind="foreign", order=-1)
    with pytest.raises(AuthorizationFailed):
        network.play(ask(memory, foreign, Request("GET", URL), last_route=True))
    assert network.lines == [f"GET {URL}"]


def test_a_phase_of_containerd_forgets() -> None:
    for profile, lines in ((OURS, 3), (CONTAINERD, 4)):
        network = Network(basic(), said(), *[basic()] * (lines - 3), said())
        memory = memory_of(network, profile, a_example="pass")
        asked(network, memory)
        memory.new_phase()
        asked(network, memory)
        assert len(network.requests) == lines


# ── repetitions ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_405_to_head_becomes_get_for_manifests_only() -> None:
    network = Network(said(405), said())
    assert asked(network, method="HEAD").status == 200
    assert network.lines == [f"HEAD {URL}", f"GET {URL}"]
    assert asked(Network(said(405)), method="HEAD", url=BLOB).status == 405
    assert asked(Network(said(405), said(405)), method="HEAD").status == 405


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_server_error_of_the_last_route_is_repeated_once(status: int) -> None:
    network = Network(said(status), said(status))
    assert asked(network).status == status
    assert len(network.waited) == 1
    assert network.over
    network = Network(said(status))
    assert asked(network, last=False).status == status
    assert network.waited == []


@pytest.mark.parametrize("status", [400, 402, 403, 404, 410, 418, 501, 502, 505])
def test_other_statuses_stand(status: int) -> None:
    assert asked(Network(said(status))).status == status


@pytest.mark.parametrize("status", [304, 300])
def test_other_redirections_are_answers(status: int) -> None:
    assert asked(Network(said(status, location="https://cdn.example/"))).status == status


@pytest.mark.parametrize("status", [408, 429])
def test_a_limited_last_route_is_waited_for(status: int) -> None:
    network = Network(said(status, retry_after="7"), said())
    assert asked(network).status == 200
    assert network.waited == [7.0]
    assert network.over


def test_the_last_answer_is_not_waited_for() -> None:
    network = Network(*[said(429, retry_after="7") for _ in range(ATTEMPTS)])
    assert asked(network).status == 429
    assert network.waited == [7.0] * (ATTEMPTS - 1)


def test_containerd_repeats_a_limited_request_at_once() -> None:
    network = Network(*[said(429, retry_after="7") for _ in range(ATTEMPTS)])
    assert asked(network, memory_of(network, CONTAINERD)).status == 429
    assert network.waited == []


def test_a_limited_route_with_others_behind_it_rests() -> None:
    network = Network(said(429, retry_after="9"), said())
    memory = memory_of(network)
    assert asked(network, memory, last=False).status == 429
    with pytest.raises(GivenUp, match="it said 429, try again in 9 s") as caught:
        asked(network, memory, last=False)
    assert caught.value.status == 429
    network.now += 9
    assert asked(network, memory, last=False).status == 200
    assert network.waited == []


def test_a_resting_route_is_asked_when_it_is_the_last_one() -> None:
    network = Network(said(429, retry_after="9"), said())
    memory = memory_of(network)
    asked(network, memory, last=False)
    assert asked(network, memory, last=True).status == 200


DATE = "Mon, 23 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("retry_after", "date", "seconds"),
    [
        ("5", "", 5.0),
        (" 5 ", "", 5.0),
        ("31", "", RETRY_AFTER_CAP_SECONDS),
        ("99999999999999999999", "", RETRY_AFTER_CAP_SECONDS),
        ("Mon, 23 Nov 2026 12:00:07 GMT", DATE, 7.0),
        ("Mon, 23 Nov 2099 12:00:07 GMT", DATE, RETRY_AFTER_CAP_SECONDS),
    ],
)
def test_retry_after(retry_after: str, date: str, seconds: float) -> None:
    network = Network(said(503, retry_after=retry_after, date=date), said())
    assert asked(network).status == 200
    assert network.waited == [seconds]


@pytest.mark.parametrize(
    ("retry_after", "date"),
    [
        ("0", ""),
        ("-5", ""),
        ("1e9", ""),
        ("٣", ""),
        ("soon", DATE),
        ("Mon, 23 Nov 2020 12:00:00 GMT", DATE),
        ("Mon, 23 Nov 2026 12:00:07 GMT", ""),
        ("Mon, 23 Nov 99999 12:00:07 GMT", DATE),
        ("Mon, 32 Nov 2026 12:00:07 GMT", DATE),
        ("Mon, 23 Nov 2026 12:00:07 +99999999999", DATE),
        (DATE, "nonsense"),
        (",", DATE),
    ],
)
def test_an_absurd_retry_after_is_as_good_as_none(retry_after: str, date: str) -> None:
    network = Network(said(503, retry_after=retry_after, date=date), said())
    assert asked(network).status == 200
    assert 0 < network.waited[0] <= 0.25


@settings(deadline=None)
@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [+-]?\d*"),
    st.text(max_size=30),
)
def test_any_retry_after_is_survived(retry_after: str, date: str) -> None:
    network = Network(said(503, retry_after=retry_after, date=date), said())
    assert asked(network).status == 200
    assert 0 < network.waited[0] <= RETRY_AFTER_CAP_SECONDS


@pytest.mark.parametrize("cause", [Cause.CLOSED, Cause.CUT, Cause.FIRST_BYTE_TIMEOUT])
def test_a_last_route_that_hung_up_is_asked_again_with_growing_pauses(cause: Cause) -> None:
    network = Network(*[down(cause) for _ in range(ATTEMPTS)])
    with pytest.raises(TransportError):
        asked(network)
    assert len(network.waited) == ATTEMPTS - 1
    for number, seconds in enumerate(network.waited):
        assert 0.125 * 2**number <= seconds <= min(0.25 * 2**number, BACK_OFF_CAP_SECONDS)
    assert network.over


@pytest.mark.parametrize("cause", list(Cause))
def test_a_route_with_others_behind_it_is_not_asked_twice(cause: Cause) -> None:
    network = Network(down(cause))
    with pytest.raises(TransportError):
        asked(network, last=False)
    assert network.waited == []


DEAD = [
    Cause.DNS,
    Cause.REFUSED,
    Cause.UNREACHABLE,
    Cause.CONNECT_TIMEOUT,
    Cause.TLS_TIMEOUT,
    Cause.TLS,
    Cause.CERTIFICATE,
    Cause.PLAIN_HTTP,
    Cause.CA_FILE,
    Cause.CLIENT_CERTIFICATE,
    Cause.PROXY,
]


@pytest.mark.parametrize("cause", DEAD)
def test_a_dead_host_is_not_dialled_again(cause: Cause) -> None:
    network = Network(down(cause))
    memory = memory_of(network)
    with pytest.raises(TransportError) as first:
        asked(network, memory)
    for last in (True, False):
        with pytest.raises(GivenUp) as again:
            asked(network, memory, last=last)
        assert first.value.message in again.value.message
        assert again.value.exit_code is first.value.exit_code
        assert again.value.hint == first.value.hint
    assert len(network.requests) == 1


def test_containerd_dials_a_dead_host_again() -> None:
    network = Network(down(), down())
    memory = memory_of(network, CONTAINERD)
    for _ in range(2):
        with pytest.raises(TransportError):
            asked(network, memory)
    assert network.over


def test_a_slow_host_is_left_alone_for_a_while_if_there_are_others() -> None:
    network = Network(down(Cause.FIRST_BYTE_TIMEOUT), said(), said())
    memory = memory_of(network)
    with pytest.raises(TransportError):
        asked(network, memory, last=False)
    with pytest.raises(GivenUp):
        asked(network, memory, last=False)
    assert asked(network, memory, last=True).status == 200
    network.now += SLOW_REST_SECONDS
    assert asked(network, memory, last=False).status == 200


def test_what_is_known_of_hosts_may_be_shared() -> None:
    network = Network(down())
    first = memory_of(network)
    second = Memory(lookup(), clock=network.clock, hosts=first.hosts)
    with pytest.raises(TransportError):
        asked(network, first)
    with pytest.raises(GivenUp):
        asked(network, second)


def test_a_registry_that_is_being_restarted_is_waited_for() -> None:
    network = Network(said(), down(), down(), said())
    memory = memory_of(network)
    assert [asked(network, memory).status for _ in range(2)] == [200, 200]
    assert len(network.waited) == 2


# ── http ─────────────────────────────────────────────────────────────────────────────────────────────────────────

FALLS_BACK = replace(ROUTE, http_fallback=True)


def tried(network: Network, memory: Memory, url: str = URL) -> int:
    response = network.play(ask(memory, FALLS_BACK, Request("GET", url), last_route=True))
    response.body.close()
    return response.status


@pytest.mark.parametrize("cause", [Cause.PLAIN_HTTP, Cause.TLS_TIMEOUT, Cause.REFUSED, Cause.CONNECT_TIMEOUT])
def test_http_is_tried_where_nobody_speaks_tls_and_kept(cause: Cause) -> None:
    network = Network(down(cause), said(), said())
    memory = memory_of(network)
    assert [tried(network, memory), tried(network, memory)] == [200, 200]
    plain = URL.replace("https", "http")
    assert network.lines == [f"GET {URL}", f"GET {plain}", f"GET {plain}"]


@pytest.mark.parametrize("cause", [Cause.REFUSED, Cause.CONNECT_TIMEOUT, Cause.CERTIFICATE, Cause.TLS, Cause.DNS])
def test_http_is_not_tried_for_other_reasons(cause: Cause) -> None:
    network = Network(down(cause))
    with pytest.raises(TransportError):
        tried(network, memory_of(network), "https://a.example:5000/v2/team/app/manifests/1")
    assert network.over


def test_https_is_never_given_up_where_it_was_asked_for() -> None:
    network = Network(down(Cause.PLAIN_HTTP))
    with pytest.raises(TransportError):
        asked(network)
    assert network.over


# ── what is held ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "replies",
    [
        [said(429, retry_after="9")],
        [said(503)],
        [said(307, location="/x"), said(503)],
        [basic(), said(429)],
    ],
)
def test_a_conversation_dropped_while_it_waits_holds_nothing(replies: list[Any]) -> None:
    network = Network(*replies)
    steps = ask(memory_of(network, a_example="pass"), ROUTE, Request("GET", URL), last_route=True)
    step = next(steps)
    while not isinstance(step, Wait):
        step = steps.send(network._do(step))
    assert network.open == 0  # somebody else may need the connection meanwhile
    steps.close()


def test_secrets_that_went_out_are_masked() -> None:
    network = Network(basic(), said())
    memory = memory_of(network, a_example="hunter 2/x")
    assert asked(network, memory).status == 200
    header = network.lines[1].split()[-1]
    text = f"you are hunter 2/x, hunter%202%2Fx, {header}, go away"
    assert memory.masked(text) == "you are ***, ***, ***, go away"
    assert "hunter" not in repr(memory)


def test_threads_may_ask_at_once() -> None:
    networks = [Network(said(), said()) for _ in range(4)]
    memory = memory_of(networks[0])
    errors: list[BaseException] = []

    def work(network: Network) -> None:
        try:
            for _ in range(2):
                asked(network, memory)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(network,)) for network in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert errors == []


def test_the_user_agent_is_ours() -> None:
    network = Network(said())
    memory = Memory(lookup(), user_agent="pierhead/1", clock=network.clock)
    steps = ask(memory, ROUTE, Request("GET", URL, Headers([("Accept", "x")])), last_route=True)
    network.play(steps).body.close()
    assert list(network.requests[0].headers) == [("Accept", "x"), ("User-Agent", "pierhead/1")]
