"""Listing what a registry has: pages, who may see them, and registries that mean no good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images import make_image
from loopback import Handler, Loopback
from pierhead import browse
from pierhead.ask import Memory, carry_out
from pierhead.auth import Credential, Lookup, Steps
from pierhead.browse import Listed, NotListed, repositories, tags
from pierhead.errors import ExitCode
from pierhead.memory import MemoryStore
from pierhead.redact import Secret
from pierhead.routing import Route
from pierhead.server.registry import Registry
from pierhead.wire import Headers, Request, Response
from scripted import Network, basic, bearer, lookup, route, said, token
from stocked import Ticks, stock

IMAGE = make_image(layers=[10], compression="none")
HERE = route(kind="default", host="a.example")
HUB = route(kind="default", host="registry-1.docker.io", repository="library/busybox")


def memory(who: Lookup = lambda host: None) -> Memory:
    return Memory(who, clock=Ticks())


def stocked(repository: str, *named: str) -> Registry:
    store = MemoryStore()
    for name in named:
        stock(store, IMAGE, repository, name)
    return Registry(store)


def list_of(listing: Callable[[Memory, Route], Steps[Listed]], network: Loopback, way: Route = HERE) -> Listed:
    return carry_out(listing(memory(), way), network, wait=lambda seconds: None)


def answering(*pages: Response) -> Handler:
    """A registry that gives these answers, one after the other."""
    left = list(pages)
    return lambda request: left.pop(0)


def tag_page(*names: object, link: str = "") -> Response:
    return said(200, {"name": "team/app", "tags": list(names)}, **({"link": f'<{link}>; rel="next"'} if link else {}))


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_pages_of_the_tags_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "PAGE_ITEMS", 2)
    network = Loopback({"a.example": stocked("team/app", "1", "2", "3", "4", "5")})
    assert list_of(tags, network).names == ("1", "2", "3", "4", "5")
    assert len(network.lines) == 3
    assert network.lines[0] == "GET https://a.example/v2/team/app/tags/list?n=2"


def test_all_pages_of_the_catalog_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "PAGE_ITEMS", 2)
    store = MemoryStore()
    names = [f"team/app{number}" for number in range(5)]
    for name in names:
        stock(store, IMAGE, name)
    network = Loopback({"a.example": Registry(store)})
    assert list_of(repositories, network).names == tuple(names)
    assert network.lines[0] == "GET https://a.example/v2/_catalog?n=2"
    assert len(network.lines) == 3


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.from_regex(r"\A[a-z0-9_][a-z0-9._-]{0,8}\Z"), unique=True, max_size=12).map(sorted),
    st.integers(1, 4),
    st.sampled_from(["{target}", "https://a.example{target}", "http://a.example{target}"]),
)
def test_however_the_pages_are_cut_and_linked_the_list_is_whole(names: list[str], size: int, form: str) -> None:
    def registry(request: Request) -> Response:
        last = parse_qs(urlsplit(request.url).query).get("last", [""])[0]
        rest = [name for name in names if name > last]
        more = form.format(target=f"/v2/team/app/tags/list?n={size}&last={rest[size - 1]}") if rest[size:] else ""
        return tag_page(*rest[:size], link=more)

    network = Loopback({"a.example": registry})
    assert list_of(tags, network).names == tuple(names)
    assert all(line.startswith("GET https://a.example/") for line in network.lines)


def test_a_link_relative_to_the_page_is_followed() -> None:
    network = Loopback({"a.example": answering(tag_page("1", link="list?last=1"), tag_page("2"))})
    assert list_of(tags, network).names == ("1", "2")
    assert network.lines[1] == "GET https://a.example/v2/team/app/tags/list?last=1"


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/v2/team/app/tags/list?last=1",
        "//evil.example/x",
        "https://a.example:444/v2/x",
        "https://a.example@evil.example/x",
        "file:///etc/passwd",
        "https://[",
    ],
)
def test_no_page_is_taken_from_somewhere_else(link: str) -> None:
    network = Loopback({"a.example": answering(tag_page("1", link=link)), "evil.example": lambda request: said(200)})
    with pytest.raises(NotListed, match="somewhere else"):
        list_of(tags, network)
    assert len(network.requests) == 1


def test_pages_that_go_round_in_a_circle_are_noticed() -> None:
    def registry(request: Request) -> Response:
        return tag_page("1", link="/v2/team/app/tags/list?last=1")

    network = Loopback({"a.example": registry})
    with pytest.raises(NotListed, match="circle"):
        list_of(tags, network)
    assert len(network.requests) == 2


def test_pages_without_end_come_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "PAGES_LIMIT", 5)
    pages = iter(range(1000))
    network = Loopback({"a.example": lambda request: tag_page("1", link=f"/v2/team/app/tags/list?last={next(pages)}")})
    with pytest.raises(NotListed, match="more than 5 pages"):
        list_of(tags, network)
    assert len(network.requests) == 5


def test_more_names_than_anybody_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "NAMES_LIMIT", 3)
    with pytest.raises(NotListed, match="more than 3 names"):
        list_of(tags, Loopback({"a.example": lambda request: tag_page("1", "2", 3, "4")}))


def test_a_page_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "PAGE_LIMIT_BYTES", 50)
    with pytest.raises(NotListed, match="more than 50 bytes"):
        list_of(tags, Loopback({"a.example": lambda request: tag_page("1" * 60)}))


# ── what is no list ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_repository_whose_tags_are_all_gone_has_none() -> None:
    assert list_of(tags, Loopback({"a.example": lambda request: said(200, {"tags": None})})) == Listed(())


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"tags": "1"}', b'{"names": []}', b"[" * 100_000, b"\xff{"])
def test_an_answer_that_is_no_list_says_so(body: bytes) -> None:
    with pytest.raises(NotListed, match="no list of tags") as caught:
        list_of(tags, Loopback({"a.example": lambda request: said(200, body)}))
    assert "is a.example a registry" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["\x1b[2J", "a b", "../x", "", "x" * 129, ":", 5, None, ["1"], "\u202egnp", "sha256:" + 64 * "a"]
)
def test_what_is_no_name_is_left_out_and_counted(name: object) -> None:
    listed = list_of(tags, Loopback({"a.example": lambda request: tag_page("1", name, "2")}))
    assert (listed.names, listed.refused_count) == (("1", "2"), 1)
    assert all(text.isascii() and text.isprintable() for text in listed.refused)


def test_of_many_that_are_no_names_a_few_are_shown() -> None:
    listed = list_of(tags, Loopback({"a.example": lambda request: tag_page(*range(50))}))
    assert listed == Listed((), ("int", "int", "int"), 50)


# ── who may see it ───────────────────────────────────────────────────────────────────────────────────────────────


def asked_with(listing: Callable[[Memory, Route], Steps[Listed]], *replies: Response) -> Network:
    network = Network(*replies)
    network.play(listing(memory(lookup(a_example="hunter2")), HERE))
    assert network.over
    return network


def test_the_token_for_the_catalog_is_for_nothing_else() -> None:
    network = asked_with(repositories, bearer(), token(), said(200, {"repositories": ["team/app"]}))
    assert "scope=registry%3Acatalog%3A%2A" in body_or_query(network.requests[1])
    assert "repository" not in body_or_query(network.requests[1])
    assert network.requests[2].headers.get("authorization") == "Bearer t"


def test_the_token_for_tags_is_for_pulling_from_the_repository() -> None:
    network = asked_with(tags, bearer(), token(), tag_page("1", link="/v2/team/app/tags/list?last=1"), tag_page("2"))
    assert "scope=repository%3Ateam%2Fapp%3Apull" in body_or_query(network.requests[1])
    assert network.requests[3].headers.get("authorization") == "Bearer t"  # the same one for the next page


def body_or_query(request: Request) -> str:
    if request.body is None:
        return request.url
    pieces: list[bytes] = []
    request.body.copy_to(lambda piece: pieces.append(bytes(piece)))
    return b"".join(pieces).decode()


@pytest.mark.parametrize(
    ("listing", "way", "answer", "code", "hint"),
    [
        (tags, HERE, said(404), ExitCode.NOT_FOUND, "no repository 'team/app'"),
        (tags, HERE, basic(), ExitCode.NOT_AUTHORISED, "no credentials are known"),
        (tags, HERE, said(403), ExitCode.NOT_AUTHORISED, "check the credentials"),
        (tags, HUB, said(404), ExitCode.NOT_FOUND, "docker.io has no repository 'library/busybox'"),
        (tags, HERE, said(500), ExitCode.FAILED, ""),
        (tags, replace(HERE, scheme="http"), said(400), ExitCode.FAILED, "may speak https alone"),
        (tags, replace(HERE, scheme="https"), said(400), ExitCode.FAILED, "may want a client certificate"),
        (repositories, HERE, said(404), ExitCode.NOT_FOUND, "not every registry has a catalog"),
        (repositories, HERE, said(403), ExitCode.NOT_AUTHORISED, "shows its catalog to few"),
        (repositories, HUB, said(401), ExitCode.NOT_AUTHORISED, "Docker Hub tells nobody"),
        (repositories, HUB, said(404), ExitCode.NOT_FOUND, "Docker Hub tells nobody"),
    ],
)
def test_a_refusal_says_why_and_what_to_do(
    listing: Callable[[Memory, Route], Steps[Listed]], way: Route, answer: Response, code: ExitCode, hint: str
) -> None:
    with pytest.raises(NotListed) as caught:
        list_of(listing, Loopback({way.host: lambda request: answer}), way)
    assert caught.value.exit_code is code
    assert hint in caught.value.hint
    assert caught.value.message.startswith("the ")
    assert " cannot be listed: " in caught.value.message


def test_a_registry_that_is_down_is_a_matter_of_the_network() -> None:
    with pytest.raises(
        NotListed, match=r"the tags of a\.example/team/app cannot be listed: connection refused"
    ) as caught:
        list_of(tags, Loopback({}))
    assert caught.value.exit_code is ExitCode.NETWORK


@pytest.mark.parametrize("listing", [tags, repositories])
def test_what_a_registry_repeats_of_our_password_is_not_shown(
    listing: Callable[[Memory, Route], Steps[Listed]],
) -> None:
    who = Credential("user", Secret("hunter2secret"))

    def registry(request: Request) -> Response:
        if not request.headers.get("authorization"):
            return basic()
        return said(200, {"tags": ["hunter2secret", "1"], "repositories": ["hunter2secret", "1"]})

    network = Loopback({"a.example": registry})
    listed = carry_out(listing(memory(lambda host: who), HERE), network, wait=lambda seconds: None)
    assert listed.names == ("1",)
    assert "hunter2" not in repr(listed)

    def refusing(request: Request) -> Response:
        if not request.headers.get("authorization"):
            return basic()
        return said(404, {"errors": [{"code": "X", "message": "you are hunter2secret"}]})

    with pytest.raises(NotListed) as caught:
        carry_out(listing(memory(lambda host: who), HERE), Loopback({"a.example": refusing}), wait=lambda seconds: None)
    assert "***" in caught.value.message
    assert "hunter2" not in f"{caught.value!r} {caught.value} {caught.value.hint}"


def test_every_answer_is_closed() -> None:
    for replies in ([said(404)], [tag_page("1", link="//evil.example/")], [said(200, b"x")]):
        network = Network(*replies)
        with pytest.raises(NotListed):
            network.play(tags(memory(), HERE))
        assert network.over


def test_the_headers_of_a_page_may_say_anything() -> None:
    links: Sequence[str] = ["", "x", "<>", '<>; rel="next"', '<?>; rel="prev"', "<" * 5000]
    for link in links:
        page = Response(200, Headers([("Link", link)]), tag_page("1").body)
        listed = list_of(tags, Loopback({"a.example": answering(page)}))
        assert listed.names == ("1",)
