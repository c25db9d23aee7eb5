"""Files that K3s cannot read: the slip that was made is named, and repaired where there is one way to."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checking import NOW, check_text
from pierhead.check import Circumstances, Finding, Subject, check, fixed
from pierhead.config.registries import parse

OURS = ("R001", "R011", "R021", "R034", "R049", "R055", "R056", "R066", "R081")
SECRET = "s3cr3t-Pw"


def subject_of(text: str | bytes) -> Subject:
    data = text.encode() if isinstance(text, str) else text
    return Subject.of(data, "registries.yaml", Circumstances(NOW))


def found(text: str | bytes) -> list[Finding]:
    return [finding for finding in check(subject_of(text)) if finding.id in OURS]


def repaired(text: str | bytes, *ids: str) -> str:
    return fixed(subject_of(text), select=ids or OURS).data.decode()


# Each: the file, with the place of the finding marked by «…», what is said, and what it becomes.
SLIPS = {
    "no colon after a registry": (
        "mirrors:\n  «registry.example.com»\n    endpoint:\n      - https://a\n",
        "has no colon after it",
        "mirrors:\n  registry.example.com:\n    endpoint:\n      - https://a\n",
    ),
    "no colon after a section": (
        "mirrors:\n  a.b:\n    endpoint: [c]\n«configs» # here\n  c:\n    tls: {}\n",
        "has no colon after it",
        "mirrors:\n  a.b:\n    endpoint: [c]\nconfigs: # here\n  c:\n    tls: {}\n",
    ),
    "no colon after endpoint": (
        "mirrors:\n  a.b:\n    «endpoint»\n      - https://a\n",
        "has no colon after it",
        "mirrors:\n  a.b:\n    endpoint:\n      - https://a\n",
    ),
    "no space after a colon": (
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password«:»{SECRET}\n    tls:\n      ca_file: /x\n",
        "no space after the colon",
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: {SECRET}\n    tls:\n      ca_file: /x\n",
    ),
    "no space after several colons": (
        f"configs:\n  a.b:\n    auth:\n      username«:»x\n      password:{SECRET}\n",
        "no space after the colon",
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: {SECRET}\n",
    ),
    "a list on the line of its key": (
        "mirrors:\n  a.b:\n    endpoint: «-» https://a  # one\n    rewrite: {}\n",
        "on the line of its key",
        "mirrors:\n  a.b:\n    endpoint:\n      - https://a  # one\n    rewrite: {}\n",
    ),
    "a list of two on the line of its key": (
        "mirrors:\n  a.b:\n    endpoint: «-» https://a\n    - https://c\n",
        "on the line of its key",
        "mirrors:\n  a.b:\n    endpoint:\n    - https://a\n    - https://c\n",
    ),
    "no space after a dash": (
        "mirrors:\n  a.b:\n    endpoint:\n      «-»https://a\n      -https://c\n",
        "no space after the dash",
        "mirrors:\n  a.b:\n    endpoint:\n      - https://a\n      - https://c\n",
    ),
    "an equals sign": (
        f"configs:\n  a.b:\n    auth:\n      username« = »x\n      password={SECRET}\n",
        "equals sign",
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: {SECRET}\n",
    ),
    "a password with @": (
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: «@{SECRET}» # vault\n",
        "the value of password has characters",
        f'configs:\n  a.b:\n    auth:\n      username: x\n      password: "@{SECRET}" # vault\n',
    ),
    "a password with a star": (
        f"configs:\n  a.b:\n    auth:\n      password: «*{SECRET}»\n      username: x\n",
        "the value of password has characters",
        f'configs:\n  a.b:\n    auth:\n      password: "*{SECRET}"\n      username: x\n',
    ),
    "a password with a backslash and %": (
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: «%\\{SECRET}»\n",
        "the value of password has characters",
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: '%\\{SECRET}'\n",
    ),
    "a password with a bracket": (
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: «{{{SECRET}»\n",
        "the value of password has characters",
        f'configs:\n  a.b:\n    auth:\n      username: x\n      password: "{{{SECRET}"\n',
    ),
    "a password with a colon": (
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: «{SECRET}: x»\n",
        "the value of password has characters",
        f'configs:\n  a.b:\n    auth:\n      username: x\n      password: "{SECRET}: x"\n',
    ),
    "a quote that is not closed": (
        'mirrors:\n  a.b:\n    endpoint:\n      - «"https://a»\n  c.d:\n    endpoint:\n      - "https://c"\n',
        "this quote is never closed",
        'mirrors:\n  a.b:\n    endpoint:\n      - "https://a"\n  c.d:\n    endpoint:\n      - "https://c"\n',
    ),
    "a quote of a key that is not closed": (
        'mirrors:\n  «"registry.gnoejuan.com»:\n    endpoint:\n      - "https://a"\n',
        "this quote is never closed",
        'mirrors:\n  "registry.gnoejuan.com":\n    endpoint:\n      - "https://a"\n',
    ),
    "a quote in brackets that is not closed": (
        'mirrors:\n  a.b:\n    endpoint: [«"https://a»]\n',
        "this quote is never closed",
        'mirrors:\n  a.b:\n    endpoint: ["https://a"]\n',
    ),
    "a bracket that is not closed": (
        'mirrors:\n  a.b:\n    endpoint: «[»"https://a"\n  c.d:\n    endpoint: ["https://c"]\n',
        "this [ is never closed",
        'mirrors:\n  a.b:\n    endpoint: ["https://a"]\n  c.d:\n    endpoint: ["https://c"]\n',
    ),
    "no comma in brackets": (
        'mirrors:\n  a.b:\n    endpoint: ["https://a"« »"https://c"]\n',
        "no comma between them",
        'mirrors:\n  a.b:\n    endpoint: ["https://a", "https://c"]\n',
    ),
    "a ends with a comma": (
        'mirrors:\n  a.b:\n    endpoint:\n      - "https://a"«,»\n      - "https://c"\n',
        "ends with a comma",
        'mirrors:\n  a.b:\n    endpoint:\n      - "https://a"\n      - "https://c"\n',
    ),
    "a registry too far right": (
        "mirrors:\n  a.b:\n    endpoint: [x]\n«   »c.d:\n    endpoint: [y]\n",
        "indented by 3 spaces",
        "mirrors:\n  a.b:\n    endpoint: [x]\n  c.d:\n    endpoint: [y]\n",
    ),
    "a section too far right": (
        "mirrors:\n  a.b:\n    endpoint: [x]\n« »configs:\n  x:\n    tls: {}\n",
        "indented by 1 space",
        "mirrors:\n  a.b:\n    endpoint: [x]\nconfigs:\n  x:\n    tls: {}\n",
    ),
    "a pattern with a backslash": (
        'mirrors:\n  a.b:\n    endpoint: [x]\n    rewrite:\n      «"^k8s\\.gcr\\.io/(\\d+)"»: "x/$1"\n',
        "between double quotes",
        'mirrors:\n  a.b:\n    endpoint: [x]\n    rewrite:\n      "^k8s[.]gcr[.]io/([0-9]+)": "x/$1"\n',
    ),
    "a password with a backslash in double quotes": (
        f'configs:\n  a.b:\n    auth:\n      username: x\n      password: «"{SECRET}\\q"»\n',
        "between double quotes",
        f"configs:\n  a.b:\n    auth:\n      username: x\n      password: '{SECRET}\\q'\n",
    ),
    "Markdown": (
        "«```yaml»\nmirrors:\n  a.b:\n    endpoint: [x]\n```\n",
        "Markdown",
        "mirrors:\n  a.b:\n    endpoint: [x]\n",
    ),
    "another YAML version": (
        "«%YAML 1.2»\n---\nmirrors:\n  a.b:\n    endpoint: [x]\n",
        "which YAML version",
        "---\nmirrors:\n  a.b:\n    endpoint: [x]\n",
    ),
    "a star as a key": (
        "mirrors:\n  «*»:\n    endpoint: [x]\n",
        "* needs quotes here",
        'mirrors:\n  "*":\n    endpoint: [x]\n',
    ),
    "a star as a key in braces": (
        "mirrors: {«*»: {endpoint: [x]}}\n",
        "* needs quotes here",
        'mirrors: {"*": {endpoint: [x]}}\n',
    ),
    "tabs": (
        "mirrors:\n«\t»a.b: # x\n\t\tendpoint: [x]\n",
        "in 1 more line",
        "mirrors:\n  a.b: # x\n    endpoint: [x]\n",
    ),
    "a tab of eight among spaces": (
        "mirrors:\n    a.b:\n«\t»endpoint:\n\t- x\n",
        "in 1 more line",
        "mirrors:\n    a.b:\n        endpoint:\n        - x\n",
    ),
}


@pytest.mark.parametrize("name", SLIPS)
@pytest.mark.parametrize("breaks", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_slip_is_named_and_repaired(name: str, breaks: str, encoding: str) -> None:
    marked, said, wanted = SLIPS[name]
    text = marked.replace("«", "").replace("»", "")
    subject = subject_of(text.replace("\n", breaks).encode(encoding))

    finding = next(each for each in check(subject) if each.id in OURS)

    start, end = marked.index("«"), marked.index("»") - 1
    assert (finding.span.line, finding.span.column) == (
        marked[:start].count("\n") + 1,
        start - marked.rfind("\n", 0, start),
    )
    assert subject.source.slice(finding.span) == text[start:end]
    assert said in finding.message
    assert finding.fix
    assert SECRET not in f"{finding.message}{finding.remedy}{[edit.text for edit in finding.fix.edits]}"
    after = fixed(subject, select=OURS)
    assert after.data == wanted.replace("\n", breaks).encode(encoding)
    assert parse(after.data, "f").error is None


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("mirrors:\n<<<<<<< HEAD\n  a.b:\n=======\n  c.d:\n>>>>>>> other\n", 2, "merge conflict"),
        ("configs:\n  a.b:\n    auth:\n      username: {{ user }}\n      password: x\n", 4, "template"),
        ("{% if x %}\nmirrors: {}\n{% endif %}\n", 1, "template"),
        ("mirrors:\n  a\x01b: {}\n", 2, "control character (U+0001)"),
        ("mirrors:\n  x: {<<: y}\n", 2, "an alias of a map"),
        ('configs:\n  a.b:\n    auth:\n      username: "a"b\n', 4, "closing quote"),
    ],
)
def test_what_nobody_can_repair_is_said(text: str, line: int, said: str) -> None:
    (finding,) = found(text)

    assert finding.span.line == line
    assert said in finding.message
    assert finding.fix is None


def test_bytes_that_are_no_utf8_are_pointed_at() -> None:
    (finding,) = found(b"mirrors:\n  a\xff: {}\n")

    assert (finding.id, finding.span.line, finding.span.column, finding.span.end_column) == ("R001", 2, 4, 5)
    assert "UTF-8" in finding.message


def test_several_slips_are_repaired_one_after_the_other() -> None:
    text = (
        'mirrors:\n  *:\n    endpoint:["https://a"]\nconfigs\n  a:\n    auth:\n      username: @x\n      password:y\n'
    )

    assert repaired(text) == (
        'mirrors:\n  "*":\n    endpoint: ["https://a"]\nconfigs:\n  a:\n    auth:\n'
        '      username: "@x"\n      password: y\n'
    )


# ── values of the wrong kind ──


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("endpoint: https://a", "endpoint: [https://a]"),
        ('endpoint: "https://a" # c', 'endpoint: ["https://a"] # c'),
        ("endpoint: https://a, https://b", "endpoint: [https://a, https://b]"),
        ("endpoint: 'https://a,https://b'", "endpoint: ['https://a', 'https://b']"),
        (
            'endpoint: [a]\n    rewrite:\n    - "^a": "b"\n    - "^c": "d"',
            'endpoint: [a]\n    rewrite:\n      "^a": "b"\n      "^c": "d"',
        ),
    ],
)
def test_a_field_of_a_mirror_gets_its_form(before: str, after: str) -> None:
    frame = "mirrors:\n  a.b:\n    {}\n"

    assert repaired(frame.format(before)) == frame.format(after)
    assert parse(frame.format(after).encode(), "f").problems == ()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("mirrors:\n  a.b: https://x\n", "mirrors:\n  a.b: {endpoint: [https://x]}\n"),
        ("mirrors:\n  a.b: [x, y]\n", "mirrors:\n  a.b: {endpoint: [x, y]}\n"),
        (
            "mirrors:\n  a.b:\n  # why\n  - x\n  - y # z\n",
            "mirrors:\n  a.b:\n  # why\n    endpoint:\n    - x\n    - y # z\n",
        ),
        ("mirrors:\n  a.b:\n    - x\n", "mirrors:\n  a.b:\n    endpoint:\n    - x\n"),
        (
            "mirrors:\n- a.b:\n    endpoint: [x]\n- c.d:\n    endpoint: [x]\n",
            "mirrors:\n  a.b:\n    endpoint: [x]\n  c.d:\n    endpoint: [x]\n",
        ),
        ("configs:\n  a.b:\n    auth: dXNlcjpwYXNz\n", "configs:\n  a.b:\n    auth: {auth: dXNlcjpwYXNz}\n"),
    ],
)
def test_an_entry_gets_its_form(before: str, after: str) -> None:
    assert repaired(before) == after
    assert parse(after.encode(), "f").problems == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- mirrors:\n", "the file is a list"),
        ("hello\n", "the file is a text"),
        ("mirrors:\n  a.b:\n    endpoint: https://a https://b\n", "endpoint is a text and should be a list"),
        ("mirrors:\n  a.b:\n    endpoint:\n      https://a: x\n", "endpoint is a map and should be a list"),
        ("mirrors:\n  a.b:\n    endpoint:\n      - {url: x}\n", "item 1 of endpoint is a map and should be a text"),
        ("mirrors:\n  a.b:\n    rewrite: x\n", "rewrite is a text and should be a map"),
        ("configs:\n  a.b:\n    tls: true\n", "tls is a text and should be a map"),
        (f"configs:\n  a.b:\n    auth: {SECRET}\n", "auth is a text and should be a map"),
        (f"configs:\n  a.b:\n    auth:\n      password: [{SECRET}]\n", "password is a list and should be a text"),
        ("configs:\n  a.b: x\n", "a.b is a text and should be a map"),
    ],
)
def test_what_can_be_meant_in_several_ways_is_only_said(text: str, said: str) -> None:
    (finding,) = found(text)

    assert said in finding.message
    assert finding.id == "R056"
    assert finding.fix is None
    assert (finding.span.end_line, finding.span.end_column) > (finding.span.line, finding.span.column)
    assert SECRET not in finding.message


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ('"true"', "true"),
        ("'False'", "false"),
        ('"YES"', "true"),
        ("1", "true"),
        ("0", "false"),
        ("tRue", "true"),
        ('"maybe"', None),
        ("2", None),
        ("!!str true", None),
    ],
)
def test_what_is_no_boolean(value: str, meant: str | None) -> None:
    text = f"configs:\n  a.b:\n    tls:\n      insecure_skip_verify: {value} # c\n"

    (finding,) = found(text)

    assert finding.id == "R011"
    assert (finding.span.line, finding.span.column) == (4, 29)
    assert repaired(text) == (text.replace(f"{value} #", f"{meant} #") if meant else text)


@pytest.mark.parametrize("value", ["true", "TRUE", "yes", "on", "y", "off", "~", "", "!!bool yes", "&x no"])
def test_booleans_of_yaml_1_1_are_sound(value: str) -> None:
    assert found(f"configs:\n  a.b:\n    tls:\n      insecure_skip_verify: {value}\n") == []


# ── values that are lost, documents that are not read ──


@pytest.mark.parametrize(
    ("value", "marked"),
    [
        (f"#{SECRET}", f"#{SECRET}"),
        (f"&{SECRET}", f"&{SECRET}"),
        (f"!{SECRET} x", f"!{SECRET} x"),
        (f'#{SECRET}" # c', f'#{SECRET}"'),
    ],
)
def test_a_value_that_yaml_takes_away(value: str, marked: str) -> None:
    text = f"configs:\n  a.b:\n    auth:\n      username: x\n      password: {value}\n"

    (finding,) = (each for each in check_text(text) if each.id == "R081")

    assert subject_of(text).source.slice(finding.span) == marked
    assert SECRET not in f"{finding.message}{finding.fix}"
    auth = parse(repaired(text).encode(), "f").configs["a.b"].auth
    assert auth
    assert auth.password
    assert auth.password.value.reveal() == marked


@pytest.mark.parametrize(
    "value", ["# a comment", "&a x", "x #y", "!!str x", '"#x"', "x#y", "", "&a x\n    tls: {ca_file: *a}"]
)
def test_comments_anchors_and_tags_are_sound(value: str) -> None:
    text = f"configs:\n  a.b:\n    auth:\n      password: u\n      username: {value}\n"

    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "severity", "after"),
    [
        ("mirrors: {}\n---\nconfigs: {}\n", "warning", "mirrors: {}\nconfigs: {}\n"),
        ("mirrors: {}\n---\n# nothing\n", "note", "mirrors: {}\n# nothing\n"),
        ("mirrors: {}\n---\nmirrors: {}\n", "warning", None),
        ("mirrors: {}\n--- {configs: {}}\n", "warning", None),
        ("mirrors: {}\n---\n: : :\n", "warning", None),
    ],
)
def test_a_second_document(text: str, severity: str, after: str | None) -> None:
    (finding,) = (each for each in found(text) if each.id == "R055")

    assert (finding.severity, finding.span.line, finding.span.end_column) == (severity, 2, 4)
    assert repaired(text, "R055") == (after or text)


@pytest.mark.parametrize("text", ["", "\n", "# x\n", "---\n", "null\n", "{}\n", "mirrors:\nconfigs:\n", "\ufeff"])
def test_a_file_without_anything(text: str) -> None:
    (finding,) = found(text)

    assert (finding.id, finding.severity, finding.span.line) == ("R066", "note", 1)


def test_merge_keys_that_come_too_late() -> None:
    text = (
        "x: &a\n  endpoint: [a]\ny: &b\n  rewrite: {a: b}\nmirrors:\n  a.b:\n    # why\n    endpoint: [c]\n"
        "    <<: [*a, *b]  # all\n  c.d:\n    endpoint: [d]\n    <<: *b\n  e.f: {endpoint: [c], <<: *a}\n"
    )

    block, flow = found(text)

    assert "endpoint" in block.message
    assert (block.span.line, block.span.column, flow.span.line) == (9, 5, 13)
    assert flow.fix is None
    after = repaired(text)
    assert "    # why\n    <<: [*a, *b]  # all\n    endpoint: [c]\n  c.d:" in after
    assert parse(after.encode(), "f").mirrors["a.b"].endpoints[0].value == "c"


# ── whatever comes ──

LINES = st.sampled_from(
    [line for text, _, after in SLIPS.values() for line in re.sub("[«»]", "", text + after).split("\n")]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(LINES, max_size=8), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_any_mixture_of_slips_gives_findings_without_secrets(lines: list[str], encoding: str) -> None:
    subject = subject_of("\n".join(lines).encode(encoding))

    for finding in check(subject, select=OURS):
        assert finding.span.end_line
        assert SECRET not in finding.message + finding.remedy
        if finding.fix:
            assert all(SECRET not in edit.text for edit in finding.fix.edits)
            subject.source.applied(finding.fix.edits)
    assert (subject.config.error is None) or check(subject, select=[*OURS, "R080"])
