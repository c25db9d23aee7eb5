"""Rewrites: the recorded answers of Go's regexp, independent models of its parts, and the TOML detour."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pierhead.rewriting import (
    InvalidPattern,
    Rewritten,
    Rule,
    UnusableToml,
    compile_pattern,
    replace_all,
    rewrite,
    toml_detour,
    unescape_basic,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "rewrites.json").read_text(encoding="utf-8"))


def replaced(pattern: str, replacement: str, repository: str) -> tuple[str | None, str | None]:
    try:
        return replace_all(compile_pattern(pattern), replacement, repository), None
    except InvalidPattern as error:
        return None, error.message


def test_every_recorded_rewrite_is_as_in_go() -> None:
    assert len(VECTORS) == 275
    failures = []
    for case in VECTORS:
        ours = replaced(case["pattern"], case["replacement"], case["repository"])
        if ours != (case["result"], case["error"]):
            failures.append((case["id"], case["pattern"], ours, case["result"], case["error"]))
    assert failures == []


def test_changed_is_what_lets_a_rule_win() -> None:
    failures = []
    for case in VECTORS:
        rewritten = rewrite([Rule(case["pattern"], case["replacement"])], case["repository"])
        if (rewritten.rule == 0) != case["changed"] or bool(rewritten.invalid) != (case["error"] is not None):
            failures.append((case["id"], rewritten))
    assert failures == []


# Patterns: what Go takes, and how it refuses the rest


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"a\C", r"invalid escape sequence: `\C`"),
        (r"*\C", "missing argument to repetition operator: `*`"),  # the leftmost fault is reported
        ("(?P<naïve>a)", "invalid named capture: `(?P<naïve>`"),
        ("(?<=a>b)", "invalid named capture: `(?<=a>`"),
        ("(?<", "invalid or unsupported Perl syntax: `(?<`"),
        ("a{9999999999}", "invalid repeat count: `{9999999999}`"),
        ("a{2,1}*", "invalid repeat count: `{2,1}`"),
        ("(?:a{40}){30}?", "invalid repeat count: `{30}?`"),
        ("a|*", "missing argument to repetition operator: `*`"),
        (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
        (r"\x{0010FFFFF}", r"invalid escape sequence: `\x{0010FFFFF`"),
        (r"\x{10FFFFg}", r"invalid escape sequence: `\x{10FFFFg`"),
        (r"\x{", r"invalid escape sequence: `\x{`"),
        (r"\x4", r"invalid escape sequence: `\x4`"),
        (r"[\p", r"invalid character class range: `\p`"),
        (r"\p{^^L}", r"invalid character class range: `\p{^^L}`"),
        (r"\p{Größe}", r"invalid character class range: `\p{Größe}`"),
        ("a\ud800b", "invalid UTF-8: `?b`"),
        ("(" * 1000 + ")" * 1000, "expression nests too deeply: `" + "(" * 1000 + ")" * 1000 + "`"),
        ("(?:" + "ab" * 2000 + "){1000}", "expression too large: `(?:" + "ab" * 2000 + "){1000}`"),
        ("x(" + "?" * 3, "invalid or unsupported Perl syntax: `(??`"),
    ],
)
def test_refused_in_gos_words(pattern: str, message: str) -> None:
    assert replaced(pattern, "", "") == (None, f"error parsing regexp: {message}")


@pytest.mark.parametrize(
    ("pattern", "subject", "result"),
    [
        (r"\p{Letter}", "a1é", "x1x"),
        (r"\p{lower case_letter}", "aB", "xB"),
        (r"\p{GREEK}", "aβ", "ax"),
        (r"\p{Old_Italic}", "a\U00010300", "ax"),
        (r"\pl", "a1", "x1"),
        (r"[^\P{ASCII}-]", "aé-", "xé-"),
        (r"(?i)[\P{ascii}]", "kK\u212aé", "kK\u212ax"),  # folding adds the Kelvin sign to ASCII, as in Go
        (r"\p{Assigned}", "a\u0378", "x\u0378"),
        (r"[\p{Cn}]", "a\u0378", "ax"),
        (r"\p{LC}", "aªB", "xªx"),
        (r"\P{^Other}", "a\x01\u0378", "axx"),
        (r"\p{Any}", "a", "x"),
        (r"(?:(?:a{1000}){0}){2}b", "ab", "ax"),  # RE2 counts what is repeated zero times, Go does not
        (r"\Qa.*\E+", "a.**", "x"),
        (r"a\Q", "ab", "xb"),
        (r"a*(?i)*b", "AaaB", "Ax"),
        ("(?:" * 5000 + "a" + ")" * 5000, "aba", "xbx"),
        ("(" * 998 + "a" + ")" * 998, "ab", "xb"),
    ],
)
def test_taken_as_go_takes_it(pattern: str, subject: str, result: str) -> None:
    assert replaced(pattern, "x", subject) == (result, None)


def test_groups_that_are_repeated_zero_times_still_count() -> None:
    assert replaced("(a)(?i)(?P<gone>(b)){0}(?P<last>c)", "$1,$gone,$3,$4,$last", "aC") == ("a,,,C,C", None)


def test_a_class_may_be_repeated_a_thousand_times() -> None:
    assert replaced(r"^\pL{1000}$", "x", "é" * 1000) == ("x", None)


@given(st.text() | st.text("ab(|)[]^-*+?{}12,\\.:$dpPQExCzi<>=!é", max_size=25))
@example("(?P<")
@example("[[:")
@example("\\")
@example("\x00{0}")
@settings(deadline=None, max_examples=500)
def test_any_text_compiles_or_is_an_invalid_pattern(pattern: str) -> None:
    result, message = replaced(pattern, "$0", "acme/app")
    assert (result is None) != (message is None)
    assert message is None or message.startswith("error parsing regexp: ")
    assert result in (None, "acme/app")  # every match put back
    assert "too large" not in (message or "")  # which is also what RE2 refusing our spelling would read


def test_every_character_can_be_quoted() -> None:
    for code in range(1, 0x250):
        assert replaced(rf"\Q{chr(code)}\E", "", f"{chr(code)}/") == ("/" if chr(code) != "/" else "", None)


RE2_WORDS = {
    "missing ]": "missing closing ]",
    "missing )": "missing closing )",
    "unexpected )": "unexpected )",
    "invalid escape sequence": "invalid escape sequence",
    "invalid character class range": "invalid character class range",
    "no argument for repetition operator": "missing argument to repetition operator",
    "invalid repetition size": "invalid repeat count",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid named capture group": "invalid named capture",
    "trailing \\": "trailing backslash at end of expression",
}
TOKENS = [
    *("a", "b", "1", "2", ",", ".", ":", "$", "^", "-", "*", "+", "?", "{", "}", "(", ")", "|", "[", "]", "é", "\\"),
    *("(?:", "(?i", "(?i)", "(?P<a>", "[:alpha:]", "[^", "[[:", r"\d", r"\Q", r"\E", r"\7", r"\0", r"\x41"),
    *("{2}", "{2,}", "{1,3}", "{30}", "{40}", r"\pL", r"\P{Greek}", r"\A", r"\b", "a-"),
]


def re2_says(pattern: str) -> tuple[list[object], str | None]:
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        code, _, expression = error.args[0].decode().partition(": ")
        return [], f"error parsing regexp: {RE2_WORDS[code]}: `{expression}`"
    return [match.span() for match in compiled.finditer("aab(a)é1,2-")], None


@given(st.lists(st.sampled_from(TOKENS), max_size=10).map("".join))
@settings(deadline=None, max_examples=600)
def test_the_reader_agrees_with_re2_where_re2_is_go(pattern: str) -> None:
    spans, message = re2_says(pattern)
    assert replaced(pattern, "", "")[1] == message
    if message is None:
        matches = compile_pattern(pattern).engine.finditer("aab(a)é1,2-")
        assert [match.span() for match in matches] == spans


# Replacing


def go_replace_all(pattern: re.Pattern[str], replacement: str, source: str) -> str:
    """Go's loop (Regexp.replaceAll), step by step, over Python's matcher; the replacement is put around each match."""
    out, last_end, position = "", 0, 0
    while position <= len(source):
        found = pattern.search(source, position)
        if not found:
            break
        start, end = found.span()
        out += source[last_end:start]
        if end > last_end or start == 0:
            out += f"<{replacement}{found[0]}>"
        last_end = end
        position = end if end > position else position + 1
    return out + source[last_end:]


atoms = st.sampled_from(["a", "b", "/", ".", "[ab]", "[^a]", "é"])
items = st.builds(str.__add__, atoms, st.sampled_from(["", "", "*", "+", "?", "*?", "+?", "{1,2}"]))
branches = st.lists(items, max_size=3).map("".join)
patterns = st.builds(
    lambda first, group, last: f"{first}({group}){last}",
    st.sampled_from(["", "^", "a*", r"\b"]),
    st.lists(branches, min_size=1, max_size=3).map("|".join),
    branches,
)


@given(patterns, st.text("ab/é", max_size=12))
@settings(deadline=None, max_examples=400)
def test_replacing_follows_gos_loop(pattern: str, source: str) -> None:
    expected = go_replace_all(re.compile(pattern, re.ASCII), "$", source)
    assert replace_all(compile_pattern(pattern), "<$$$0>", source) == expected


@pytest.mark.parametrize(
    ("replacement", "result"),
    [
        ("$1²", "acme²"),  # "²" is no decimal digit, so the name ends before it
        ("${1²}", "${1²}"),
        ("$2x$$", "$"),
        ("$", "$"),
        ("$$$", "$$"),
        ("${}$-", "${}$-"),
        ("${1", "${1"),
        ("$01", "zero"),
        ("$1234567890", "long"),
        ("$dup", "e"),
        ("$999999999$0", "acme/zerolong"),
    ],
)
def test_the_replacements_names(replacement: str, result: str) -> None:
    pattern = compile_pattern("^(acm(?:(?P<dup>x)|(?P<dup>e)))/?(?P<01>zero)(?P<1234567890>long)$")
    assert replace_all(pattern, replacement, "acme/zerolong") == result


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|aa)+$", "(x+x+)+y", "(?:a?){500}a{500}", "(.*)(.*)(.*)(.*)z"])
def test_hostile_patterns_end(pattern: str) -> None:
    subject = "a" * 20_000
    assert len(replace_all(compile_pattern(pattern), "", subject)) <= len(subject)


def test_nothing_is_logged_and_re2_is_loaded_late(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidPattern):
        compile_pattern("(?!x)")
    assert capfd.readouterr() == ("", "")
    program = "import sys, pierhead.rewriting; sys.exit('re2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Rules


def test_the_first_rule_that_changes_something_wins() -> None:
    rules = [
        Rule("^acme/", "acme/"),  # matches, changes nothing
        Rule("(?!x)", "y"),
        Rule("^acme/(.*)$", "hub/$1"),
        Rule("other", "x"),
        Rule("app", "image"),
        Rule("hub", "never: results are not rewritten again"),
    ]
    message = "error parsing regexp: invalid or unsupported Perl syntax: `(?!`"
    assert rewrite(rules, "acme/app") == Rewritten("hub/app", 2, (4,), ((1, message),))
    assert rewrite(rules, "team/tool") == Rewritten("team/tool", None, (), ((1, message),))
    assert rewrite([], "acme/app") == Rewritten("acme/app")


# The TOML detour


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("^library/(.*)$", "^library/(.*)$"),
        (r"^a\\.b", r"^a\.b"),
        (r"a\bb", "a\bb"),
        (r"\u0041\U0001F44D", "A👍"),
        (r"say \"hi\"", 'say "hi"'),
        (r"\f\n\r\t\e\\", "\f\n\r\t\x1b\\"),
        ("tab\there \u2028 \x85 ä", "tab\there \u2028 \x85 ä"),
        ("", ""),
    ],
)
def test_what_the_detour_makes_of_a_text(text: str, value: str) -> None:
    assert toml_detour(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (r"^a\.b", r"invalid escaped character \."),
        (r"\w", r"invalid escaped character \w"),
        (r"\1", r"invalid escaped character \1"),
        (r"\x41", r"invalid escaped character \x"),
        ("\\\n", "invalid escaped character \\\n"),
        (r"\u12", "4 hexadecimal digits"),
        (r"\U0001F44", "8 hexadecimal digits"),
        (r"\ud800", r"invalid Unicode code point \ud800"),
        (r"\U00110000", "invalid Unicode code point"),
        ('say "hi"', "a quote ends the string early"),
        ('"\n', "a quote"),
        ('\n"', "new lines"),
        ("a\nb", "new lines"),
        ("a\rb", "new lines"),
        ("b\\", "the last backslash escapes the closing quote"),
        ("a\x00b", "invalid character U+0000"),
        ("a\x7fb", "invalid character U+007F"),
        ("\ud800", "invalid character U+D800"),
    ],
)
def test_what_does_not_survive_the_detour(text: str, reason: str) -> None:
    with pytest.raises(UnusableToml) as caught:
        toml_detour(text)
    assert reason in caught.value.reason
    assert caught.value.hint


@given(st.text(st.characters(codec="utf-8")))
@settings(deadline=None)
def test_an_escaped_text_comes_back(text: str) -> None:
    escaped = "".join(f"\\U{ord(character):08x}" for character in text)
    assert toml_detour(escaped) == unescape_basic(escaped) == text


@given(st.text() | st.text('\\"ubt0aF\n\x7f', max_size=20))
@settings(deadline=None, max_examples=300)
def test_the_detour_gives_a_value_or_unusable_toml(text: str) -> None:
    try:
        value = toml_detour(text)
    except UnusableToml:
        return
    assert "\\" in text or value == text
    value.encode()  # no lone surrogates
