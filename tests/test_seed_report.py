"""The report of a seeding, for people: whatever somebody else called something, a table stays a table."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pierhead.cli.seed import asked, form, report
from pierhead.config import k3s
from pierhead.config.registries import parse
from pierhead.errors import PierheadError, Problem, Span
from pierhead.oci import Descriptor, Platform
from pierhead.reference import Digest, Reference
from pierhead.routing import k3s_plan
from pierhead.seed.mapping import Wanted, map_images
from pierhead.seed.seeder import Put, Seeded, summary
from pierhead.tree import Part

COLUMNS = 8
DIGEST = Digest.of(b"image")
HOSTS = k3s.hosts(parse(b"mirrors: {docker.io: {endpoint: [https://a.example]}}", "r.yaml"), k3s.Flags())
ODD = [
    "a|b",
    "a\\|b",
    "a\\\\|b",
    "`a`|`b",
    "a\n| b |",
    "<b>|</b>",
    "*a* **b**",
    "x\\",
    "|",
    "- a",
    "1. a",
    "# a",
    "> a",
    "---",
    "a\r\n\r\n# b",
    "a\u2028b",
]


def rendered(text: str) -> str:
    """What GitHub and others make of it: CommonMark with tables."""
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


def cells(html: str) -> list[str]:
    return re.findall(r"<td[^>]*>(.*?)</td>", html, re.DOTALL)


def shown(text: str) -> str:
    """A text as a reader of HTML gets it."""
    words = " ".join(text.split())
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def reported(odd: str) -> str:
    """A report in which this stands wherever somebody else chose the words."""
    (mapped,) = map_images([Wanted(Reference.parse("redis:7"))], lambda reference: k3s_plan(reference, HOSTS))
    part = Part(Platform(odd, "amd64"), DIGEST, 10)
    target = mapped.targets[0]
    put = Put(target, "seeded", skipped=((DIGEST, odd),), served=target.route)
    failed = Seeded(mapped, error=PierheadError(odd))
    results = [Seeded(mapped, (put,), parts=(part,), place=odd), failed]
    found = asked.Images([], [Problem("invalid-image", "error", odd, Span("x.txt", 1))])
    summed = summary(results, [mapped, mapped], [Platform("windows", odd)])
    return "\n".join(report.markdown(form.seeded_json(results, [mapped], found, summed), results, summed))


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_odd_word_is_a_word_in_its_cell(odd: str) -> None:
    html = rendered(reported(odd))
    row = cells(html)
    assert len(row) == COLUMNS
    assert row[1] == shown(str(Platform(odd, "amd64")))
    assert row[6] == shown(odd)
    assert html.count("<table>") == 1
    assert re.findall(r"<h\d>(.*)</h\d>", html) == ["Seeded images", "Failed", "Left out", "Not understood"]
    assert html.count("<li>") == 3
    assert (
        not set(re.findall(r"</?(\w+)", html))
        - {"h1", "h2", "p", "strong", "table", "thead", "tbody"}
        - {*("tr", "th", "td", "ul", "li")}
    )


def test_an_index_has_its_own_digest_and_what_was_replaced_is_told() -> None:
    (mapped,) = map_images([Wanted(Reference.parse("redis:7"))], lambda reference: k3s_plan(reference, HOSTS))
    target, old = mapped.targets[0], Digest.of(b"old")
    put = Put(target, "seeded", served=target.route, replaced=old)
    top = Descriptor("application/vnd.oci.image.index.v1+json", Digest.of(b"index"), 5)
    part = Part(Platform("linux", "amd64"), DIGEST, 10)
    results = [Seeded(mapped, (put,), descriptor=top, size_bytes=15, parts=(part,), place="upstream")]
    summed = summary(results, [mapped], [])
    text = "\n".join(
        report.markdown(form.seeded_json(results, [mapped], asked.Images([], []), summed), results, summed)
    )
    assert f"| docker.io/library/redis:7 | index | {top.digest} | 15B |" in text
    assert f"| docker.io/library/redis:7 | linux/amd64 | {DIGEST} | 10B |" in text
    assert f"## Replaced\n\n- https://a.example library/redis:7 was {old}, for docker.io/library/redis:7" in text


@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from("|\\`*_<>&[]()!#-+= \n\r1ab\x00\x1b~:/."), max_size=12))
def test_no_word_ends_a_cell_or_begins_a_line(odd: str) -> None:
    html = rendered(reported(odd))
    assert len(cells(html)) == COLUMNS
    assert html.count("<li>") == 3
    assert html.count("<table>") == 1
