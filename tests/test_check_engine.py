"""The engine of the check: places, edits, rounds of fixing, silencing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pierhead.check import Circumstances, Subject, fixed
from pierhead.check.finding import Edit
from pierhead.check.source import Source
from pierhead.config.yamlnodes import compose
from pierhead.errors import Span

NOW = datetime(2026, 11, 23, tzinfo=UTC)
FILE = """\
# top
mirrors:
  a.example:   # why
    endpoint: [ "https://one", two ]
    rewrite:
      '^x': y
  b.example: &b
    endpoint:
      - three
configs: {}
"""


def source(text: str = FILE) -> Source:
    return Source.of(text.encode(), "f")


def test_entries_have_paths_and_places() -> None:
    found = {entry.path: (entry.start.line, entry.start.column) for entry in source().entries}

    assert found[("mirrors", "a.example", "endpoint", 1)] == (4, 32)
    assert found[("mirrors", "b.example", "endpoint", 0)] == (9, 9)


def test_a_value_keeps_its_quotes() -> None:
    it = source()
    entry = it.entry("mirrors", "a.example", "endpoint", 0)
    rule = it.entry("mirrors", "a.example", "rewrite", "^x")
    assert entry
    assert rule
    assert rule.key

    edits = [it.rewritten(entry.value.span, "https://uno"), it.rewritten(rule.key.span, r"^x\d")]

    text = it.applied([edit for edit in edits if edit]).decode()
    assert text == FILE.replace('"https://one"', '"https://uno"').replace("'^x'", r"'^x\d'")


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        (
            ("mirrors", "a.example"),
            "  a.example:   # why\n    endpoint: [ \"https://one\", two ]\n    rewrite:\n      '^x': y\n",
        ),
        (("mirrors", "a.example", "rewrite"), "    rewrite:\n      '^x': y\n"),
        (("mirrors", "b.example", "endpoint", 0), "      - three\n"),
        (("configs",), "configs: {}\n"),
    ],
)
def test_an_entry_is_taken_away_with_its_lines(path: tuple[str | int, ...], gone: str) -> None:
    it = source()
    entry = it.entry(*path)
    assert entry
    edit = it.removed(entry)
    assert edit

    assert it.applied([edit]).decode() == FILE.replace(gone, "")


def test_an_item_in_brackets_is_not_taken_away() -> None:
    it = source()
    entry = it.entry("mirrors", "a.example", "endpoint", 1)
    assert entry

    assert it.removed(entry) is None


def test_overlapping_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        source("abcdef").applied([Edit(Span("f", 1, 1, 1, 4), "x"), Edit(Span("f", 1, 3, 1, 5), "y")])


@given(st.text(), st.data())
def test_places_and_offsets_are_the_same_thing(text: str, data: st.DataObject) -> None:
    it = Source.of(text.encode(errors="surrogatepass"), "f")
    offset = data.draw(st.integers(0, len(it.text)))

    assert it.offset(*it.place(offset)) == offset
    assert it.applied([]) == it.data


@given(st.binary())
def test_any_bytes_make_a_subject(data: bytes) -> None:
    subject = Subject.of(data, "f", Circumstances(NOW))

    assert subject.source.applied([]) == data
    assert subject.endpoints is not None


@given(st.text(min_size=1))
def test_a_rewritten_scalar_reads_as_what_it_was_given(value: str) -> None:
    it = source("a: b\n")
    entry = it.entry("a")
    assert entry
    edit = it.rewritten(entry.value.span, value)
    assert edit

    root, _ = compose(it.applied([edit]), "f")
    assert root
    assert root.children[1].value == value
    assert root.children[1].kind == "scalar"


def test_depth_costs_no_recursion() -> None:
    assert len(source("[" * 5000 + "]" * 5000).entries) == 4999


def test_findings_that_say_the_same_are_all_fixed() -> None:
    """Neighbours cannot be taken out in one round; those of the next round say what those of the first said."""
    lines = "".join(f"      - {spelling}\n" for spelling in ("https://a", "a", "https://a/", "https://a/v2", "b"))
    text = f"mirrors:\n  r.example:\n    endpoint:\n{lines}"
    circumstances = Circumstances(NOW)

    result = fixed(Subject.of(text.encode(), "f", circumstances), select=["R012"])

    assert result.data.decode() == "mirrors:\n  r.example:\n    endpoint:\n      - https://a\n      - b\n"
    assert len(result.done) == 3
    assert result.left == ()


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        (("mirrors", "a.example", "endpoint", 0), '[ "https://one", two ]', "[ two ]"),
        (("mirrors", "a.example", "endpoint", 1), '[ "https://one", two ]', '[ "https://one" ]'),
        (("mirrors", "b.example", "endpoint", 0), "      - three\n", ""),
    ],
)
def test_an_item_is_cut_out_of_lines_or_brackets(path: tuple[str | int, ...], before: str, after: str) -> None:
    it = source()
    entry = it.entry(*path)
    assert entry
    edit = it.cut(entry)
    assert edit

    assert it.applied([edit]).decode() == FILE.replace(before, after)


@pytest.mark.parametrize("text", ["a: [x]\n", "a: [x,  # why\n    y]\n"])
def test_an_item_that_is_not_alone_in_what_goes_is_not_cut(text: str) -> None:
    it = source(text)
    entry = it.entry("a", 0)
    assert entry

    assert it.cut(entry) is None


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("m:\n  a:  # why\n    x: 1  # end\n  b: 2\n", "m:\n  a: &n  # why\n    x: 1  # end\n  c: *n\n  b: 2\n"),
        ("m:\n  a: {x: 1}", "m:\n  a: &n {x: 1}\n  c: *n"),
        ("m: {a: {x: 1}, b: 2}\n", "m: {a: &n {x: 1}, c: *n, b: 2}\n"),
        ("m:\r\n  a :\r\n    x: 1\r\n", "m:\r\n  a : &n\r\n    x: 1\r\n  c: *n\r\n"),
        ("m:\n  a: |\n    x\n", "m:\n  a: &n |\n    x\n  c: *n\n"),
    ],
)
def test_an_entry_is_repeated_beside_itself(text: str, after: str) -> None:
    it = source(text)
    entry = it.entry("m", "a")
    assert entry
    shared = it.shared(entry, "n")
    assert shared

    assert it.applied([shared, it.sibling(entry, "c: *n")]).decode() == after
    assert compose(after.encode(), "f")[0]


def test_an_entry_of_two_lines_is_as_deep_as_the_one_before_it() -> None:
    it = source("m:\r\n  a: 1\r\nz: 2\r\n")
    entry = it.entry("m", "a")
    assert entry

    assert it.applied([it.sibling(entry, "b:\n  c: 2")]).decode() == "m:\r\n  a: 1\r\n  b:\r\n    c: 2\r\nz: 2\r\n"


@pytest.mark.parametrize(
    "text", ["x: &x {}\nm:\n  a: *x\n", "m:\n  a: &y {}\n", "m:\n  a: &y\n    b: c\n", "m:\n  a: !!map {}\n"]
)
def test_what_has_a_name_is_given_no_other(text: str) -> None:
    it = source(text)
    entry = it.entry("m", "a")
    assert entry

    assert it.shared(entry, "n") is None


def test_a_free_anchor_is_free() -> None:
    assert source("a: 1\n").free_anchor("reg.lan:5000") == "reg-lan-5000"
    assert source("a: &reg-lan 1\nb: &reg-lan-2 1\n").free_anchor("reg.lan") == "reg-lan-3"
    assert source("a: 1\n").free_anchor("...") == "shared"
