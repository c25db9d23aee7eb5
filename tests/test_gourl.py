"""URLs as Go reads and writes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.gourl import (
    GoUrl,
    InvalidUrl,
    add_query,
    parse,
    parse_query,
    path_clean,
    path_join,
    query_escape,
    quote,
    request_target,
    shown,
    split_host_port,
)

PIECES = [
    *("http", "https", "ftp", "HTTP", ":", "//", "/", "/v2", ".", "..", "a.b", "docker.io", "127.0.0.1", ":5000", ":p"),
    *(
        "[::1]",
        "[",
        "]",
        "[fe80::1%25eth0]",
        "[::ffff:1.2.3.4]",
        "[1.2.3.4]",
        "u:p@",
        "@",
        "%2F",
        "%zz",
        "%41",
        "%C3%A9",
    ),
    *("é", "?", "#", "=", "&", ";", "+", "*", "!", "$", "'", "(", "<", '"', "\\", "^", "`", "{", "|", "~", "-", "_"),
    *(" ", "\t", "\x7f", "\udcff", "\ud800"),
]
URL_PIECES = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://cache.lan/%zz", 'parse "https://cache.lan/%zz": invalid URL escape "%zz"'),
        ("https://cache.lan/%", 'parse "https://cache.lan/%": invalid URL escape "%"'),
        ("https://u:bad{@cache.lan", 'parse "https://u:bad{@cache.lan": net/url: invalid userinfo'),
        ("https://::1", 'parse "https://::1": invalid port "::1" after host'),
        ("https://h:1:2", 'parse "https://h:1:2": invalid port ":1:2" after host'),
        ("ftp://h:1:x", 'parse "ftp://h:1:x": invalid port ":x" after host'),
        ("://cache.lan", 'parse "://cache.lan": missing protocol scheme'),
        (" https://h", 'parse " https://h": first path segment in URL cannot contain colon'),
        ("\thttps://h", 'parse "\\thttps://h": net/url: invalid control character in URL'),
        ("https://h\x7f", 'parse "https://h\\x7f": net/url: invalid control character in URL'),
        ("https://ca che", 'parse "https://ca che": invalid character " " in host name'),
        ("//back\\slash", 'parse "//back\\\\slash": invalid character "\\\\" in host name'),
        ("https://%41.lan", 'parse "https://%41.lan": invalid URL escape "%41"'),
        ("https://[::1", "parse \"https://[::1\": missing ']' in host"),
        ("https://[::1]x", 'parse "https://[::1]x": invalid port "x" after host'),
        ("https://a[::1]", 'parse "https://a[::1]": invalid IP-literal'),
        ("https://[1.2.3.4]", 'parse "https://[1.2.3.4]": invalid IP-literal'),
        ("https://[h]", 'parse "https://[h]": invalid host: ParseAddr("h"): unable to parse IP'),
        ("https://[%25]", 'parse "https://[%25]": invalid host: ParseAddr("%"): missing IPv6 address'),
        (
            "https://[v1.x]",
            'parse "https://[v1.x]": invalid host: ParseAddr("v1.x"): unexpected character (at "v1.x")',
        ),
        (
            "https://[1:2]",
            'parse "https://[1:2]": invalid host: ParseAddr("1:2"): address string too short',
        ),
        (
            "https://[::1%25]",
            'parse "https://[::1%25]": invalid host: ParseAddr("::1%"): zone must be a non-empty string',
        ),
        (
            "https://[1::2::3]",
            'parse "https://[1::2::3]": invalid host: ParseAddr("1::2::3"): multiple :: in address (at ":3")',
        ),
        (
            "https://[12345::]",
            'parse "https://[12345::]": invalid host: ParseAddr("12345::"): '
            'each group must have 4 or less digits (at "12345::")',
        ),
        (
            "https://[::1.2.3]",
            'parse "https://[::1.2.3]": invalid host: ParseAddr("::1.2.3"): IPv4 address too short',
        ),
        (
            "https://[1:2:3:4:5:6:7:8:9]",
            'parse "https://[1:2:3:4:5:6:7:8:9]": invalid host: ParseAddr("1:2:3:4:5:6:7:8:9"): '
            'trailing garbage after address (at "9")',
        ),
    ],
)
def test_refuses_what_go_refuses_in_its_words(text: str, reason: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        parse(text)
    assert caught.value.go_text.reveal() == reason


@pytest.mark.parametrize(
    ("text", "written", "host", "path"),
    [
        ("//::1", "//::1", "::1", ""),  # two colons are refused for http and https only
        ("https:///v2", "https:///v2", "", "/v2"),
        ("https:/h", "https:/h", "", "/h"),
        ("HTTPS://Cache.Lan/%2f?a b#f g", "https://Cache.Lan/%2f?a b#f%20g", "Cache.Lan", "//"),
        ("https://h/%41", "https://h/%41", "h", "/A"),
        ("https://h/é b", "https://h/%C3%A9%20b", "h", "/é b"),
        ("https://h?", "https://h?", "h", ""),
        ("http://[fe80::1%25eth0]:80/", "http://[fe80::1%25eth0]:80/", "[fe80::1%eth0]:80", "/"),
        ("http://[::ffff:1.2.3.4]", "http://[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", ""),
        ("https://h:/x", "https://h:/x", "h:", "/x"),
        ("mailto:x@y", "mailto:x@y", "", ""),
        ("https://u%20v:p%2Fw@h", "https://u%20v:p%2Fw@h", "h", ""),
        ("https://u:p@ss@h", "https://u:p%40ss@h", "h", ""),
        ('https://ca"che', 'https://ca"che', 'ca"che', ""),
        ("https://xn%C3%A9", "https://xn%C3%A9", "xné", ""),
        ("*", "*", "", "*"),
        ("", "", "", ""),
        ("a/b:c", "a/b:c", "", "a/b:c"),
        ("h/[x]?#", "h/[x]?", "", "h/[x]"),
    ],
)
def test_parses_and_writes_as_go(text: str, written: str, host: str, path: str) -> None:
    url = parse(text)
    assert (str(url), url.host, url.path) == (written, host, path)


def test_a_relative_path_with_a_colon_is_written_with_a_dot() -> None:
    assert str(GoUrl(path="a:b")) == "./a:b"


def test_no_password_is_shown() -> None:
    url = parse("https://user:hunter2@h/x")
    assert "hunter2" not in repr(url)
    assert url.userinfo is not None
    assert "hunter2" not in repr(url.userinfo)


@pytest.mark.parametrize(
    "text",
    ["https://u:hunter2{@h", "https://u:hunter2/x@h", "u:hunter2@h o", "https://u:hunter2@h:p", "//u:%hunter2@h"],
)
def test_no_password_is_shown_in_an_error(text: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        parse(text if "//" in text else f"//{text}")
    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.args}"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("https://h:5000/v2/a/manifests/1", ("h:5000", "/v2/a/manifests/1")),
        ("https://h:/v2", ("h", "/v2")),
        ("https://[::1]:/v2", ("[::1]", "/v2")),
        ("https://h", ("h", "/")),
        ("https://h/a%2Fb?x=1", ("h", "/a%2Fb?x=1")),
        ("https://h/a b/é%2Fc", ("h", "/a%20b/%C3%A9/c")),  # what must be escaped anyway loses the %2F
        ("https:opaque", ("", "opaque")),
    ],
)
def test_request_target(text: str, target: tuple[str, str]) -> None:
    assert request_target(text) == target


@pytest.mark.parametrize(
    ("path", "clean"),
    [("", "."), ("/", "/"), ("a//b/", "a/b"), ("/../a", "/a"), ("../a/..", ".."), ("a/../..", ".."), ("./.", ".")],
)
def test_path_clean(path: str, clean: str) -> None:
    assert path_clean(path) == clean


def test_path_join_leaves_empty_parts_out() -> None:
    assert path_join("/", "/v2", "", "../x", "manifests", "1") == "/x/manifests/1"
    assert path_join("", "") == ""


def test_queries() -> None:
    assert query_escape("[::1]:5000 é+") == "%5B%3A%3A1%5D%3A5000+%C3%A9%2B"
    assert add_query("/v2/a?b/app/manifests/latest", "ns", "docker.io") == (
        "/v2/a?b%2Fapp%2Fmanifests%2Flatest=&ns=docker.io"
    )
    assert add_query("/v2/a", "ns", "r:5000") == "/v2/a?ns=r%3A5000"
    assert parse_query("b=1&a=%20+&&c") == [("b", "1"), ("a", "  "), ("c", "")]


@pytest.mark.parametrize("query", ["a;b", "%zz", "&" * 10_000])
def test_refuses_malformed_queries(query: str) -> None:
    with pytest.raises(InvalidUrl):
        parse_query(query)


def test_quote_is_gos() -> None:
    assert quote('a"\\\x07\x1f\x7fé\u2028\u200b\U000e0001\udcff日') == (
        '"a\\"\\\\\\a\\x1f\\x7fé\\u2028\\u200b\\U000e0001\\xff日"'
    )


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("h:1", ("h", "1")),
        ("[::1]:1", ("::1", "1")),
        ("[::1]", ("", "")),
        ("::1", ("", "")),
        ("h", ("", "")),
        ("h:", ("h", "")),
        ("a]:1", ("", "")),
    ],
)
def test_split_host_port(address: str, parts: tuple[str, str]) -> None:
    assert split_host_port(address) == parts


def test_shown_masks_all_that_may_be_userinfo() -> None:
    assert shown("https://u:p/w@h/x") == "https://***@h/x"
    assert shown("u:p@h") == "***@h"
    assert shown("https://h/x") == "https://h/x"


@settings(deadline=None)
@given(st.one_of(st.text(), URL_PIECES))
def test_parse_raises_nothing_else_and_writing_is_stable(text: str) -> None:
    try:
        url = parse(text)
    except InvalidUrl:
        return
    assert repr(url)
    if url.host:  # without one, an escaped path can look like an authority
        assert str(parse(str(url))) == str(url)


@settings(deadline=None)
@given(URL_PIECES)
def test_path_clean_is_idempotent(path: str) -> None:
    clean = path_clean(path)
    assert path_clean(clean) == clean
    assert "//" not in clean
    assert clean.startswith("/") == path.startswith("/")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_query_escape_round_trips(text: str) -> None:
    assert parse_query("x=" + query_escape(text)) == [("x", text)]
