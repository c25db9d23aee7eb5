"""Rules about credentials: what containerd makes of them; and that none of it shows."""

from __future__ import annotations

import base64
import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checking import circumstances
from pierhead import auth
from pierhead.auth import BadCredential, from_registries
from pierhead.check import Finding, Subject, check, fixed
from pierhead.check.rule import Example
from pierhead.check.rules import credentials
from pierhead.check.secrets import is_placeholder
from pierhead.config import k3s

OURS = ("R026", "R037", "R062", "R064", "R067", "R070")
SECRET = "hunter2-is-secret"
PAIR = base64.b64encode(f"puller:{SECRET}".encode()).decode()  # of 24 bytes, so without padding
SHORT = base64.b64encode(f"pull:{SECRET}".encode()).decode()  # ends in "=="
FILE = """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
"""

# A value that is one of these words by chance is not told by them.
OUR_WORDS = inspect.getsource(credentials) + inspect.getsource(auth)


def subject_of(text: str, *flags: str) -> Subject:
    return Subject.of(text.encode(), "f", circumstances(Example(text, flags), None))


def found(text: str, *flags: str) -> tuple[Finding, ...]:
    """What these rules find in a file; none of it shows the secret."""
    findings = check(subject_of(text, *flags), select=OURS)
    for finding in findings:
        assert SECRET not in repr(finding)
        assert PAIR not in repr(finding)
        assert SHORT.rstrip("=") not in repr(finding)
    return findings


def entry(auth: str) -> str:
    return FILE + "".join(f"      {line}\n" for line in auth.splitlines())


def said(findings: tuple[Finding, ...]) -> list[tuple[str, str, int, int]]:
    return [(each.id, each.severity, each.span.line, each.span.column) for each in findings]


# ── R026 ──


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (PAIR, None),
        (f'"{PAIR}"', None),
        (f"|\n  {PAIR[:8]}\n  {PAIR[8:]}", None),  # Go passes line breaks over
        (encoded("puller:with:colons"), None),
        (f"puller:{SECRET}", "as it is"),
        (f"dckr_pat_{SECRET}", "access token"),
        (SHORT.rstrip("="), "lacks the = signs"),
        (f'"{PAIR} "', "spaces"),
        (f">\n  {PAIR[:8]}\n  {PAIR[8:]}", "spaces"),  # folded into one line, with a space
        (f"{SECRET}!", "not base64"),
        (encoded(SECRET), "not of user:password"),
        (encoded(f"puller:{SECRET}\n"), "line break"),
        (encoded(f'{{"auths": {{"r": {{"auth": "{PAIR}"}}}}}}'), "configuration file"),
    ],
)
def test_auth_as_containerd_decodes_it(value: str, words: str | None) -> None:
    findings = found(entry(f"auth: {value}"))

    assert said(findings) == ([("R026", "error", 8, 13)] if words else [])
    assert (words or "") in "".join(each.message for each in findings)


@pytest.mark.parametrize("value", ["<base64 of user:password>", "${AUTH}", "'{{ auth }}'", "ENC[AES256_GCM,data:x]"])
def test_a_placeholder_is_a_note(value: str) -> None:
    assert said(found(entry(f"auth: {value}"))) == [("R026", "note", 8, 13)]


@pytest.mark.parametrize("other", ["username: u\npassword: p", "identity_token: t"])
def test_auth_that_is_not_used_is_not_decoded(other: str) -> None:
    assert "R026" not in {each.id for each in found(entry(f"auth: '???'\n{other}"))}


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_padding_is_put_back_without_touching_the_rest(quote: str) -> None:
    bare = SHORT.rstrip("=")
    subject = subject_of(entry(f"auth: {quote}{bare}{quote}  # of the robot"))
    (finding,) = check(subject, select=OURS)

    after = fixed(subject, select=OURS)

    assert finding.fix
    assert [edit.text for edit in finding.fix.edits] == ["=="]
    assert after.data.decode() == entry(f"auth: {quote}{SHORT}{quote}  # of the robot")
    credential = from_registries(Subject.of(after.data, "f", subject.circumstances).config.configs["mirror.example"])
    assert credential
    assert (credential.username, credential.secret.reveal()) == ("pull", SECRET)


@pytest.mark.parametrize("value", [f"&a {SHORT.rstrip('=')}", f"|\n  {SHORT.rstrip('=')}"])
def test_padding_is_not_put_where_it_would_not_fit(value: str) -> None:
    (finding,) = found(entry(f"auth: {value}"))

    assert finding.fix is None


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1, max_size=60))
def test_only_what_containerd_cannot_decode_is_found(value: str) -> None:
    text = entry(f"auth: '{value.replace(chr(39), chr(39) * 2)}'")
    config = subject_of(text).config.configs["mirror.example"]
    try:
        from_registries(config)
        refused = False
    except BadCredential:
        refused = True

    findings = check(subject_of(text), select=["R026"])

    assert bool(findings) == refused or not refused  # what decodes may be wrong for another reason
    assert not refused or findings
    told = " ".join(each.message + each.remedy for each in findings)
    assert len(value) < 4 or value in OUR_WORDS or value not in told


# ── R037 ──


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (entry(f'username: u\npassword: "{SECRET}\\x7f"'), (9, 17)),
        (entry(f'username: "u\\a"\npassword: {SECRET}'), (8, 17)),
        (entry(f'identity_token: "{SECRET}\\v"'), (8, 23)),
        (entry(f"username: u\npassword: '{SECRET}\\\"é{{'"), None),
        (entry(f'username: u\npassword: "{SECRET}\\n\\t"'), None),
        ('configs:\n  "it\'s":\n    auth: {username: u, password: p}\n', (2, 3)),
        ('configs:\n  "it\'s":\n    tls: {}\n', None),
    ],
)
def test_what_keeps_containerd_from_starting(text: str, place: tuple[int, int] | None) -> None:
    findings = found(text)

    assert said(findings) == ([("R037", "error", *place)] if place else [])
    hosts = subject_of(text).hosts
    assert hosts
    assert bool(findings) == any(problem.id == "containerd-does-not-start" for problem in hosts.problems)


@pytest.mark.parametrize("key", ["\"'mirror.example'\"", '"mirror.example\\n"', "'''mirror.example'''"])
def test_what_surrounds_a_key_is_taken_off(key: str) -> None:
    text = FILE.replace("  mirror.example:", f"  {key}:") + "      username: u\n      password: p\n"
    subject = subject_of(text)

    after = fixed(subject, select=["R037"])

    assert not after.left
    again = Subject.of(after.data, "f", subject.circumstances)
    assert k3s.auth_for(again.config, "mirror.example")


def test_a_key_with_a_quote_inside_is_left() -> None:
    (finding,) = found("configs:\n  it's.example: {auth: {username: u, password: p}}\n")

    assert (finding.id, finding.fix) == ("R037", None)


# ── R062, R064 ──


@pytest.mark.parametrize(
    ("auth", "expected", "words"),
    [
        (f"username: u\npassword: {SECRET}", [], ""),
        (f"identity_token: {SECRET}", [], ""),
        (f"password: {SECRET}", [("R062", "error", 8, 17)], "asks as nobody"),
        ("username: u", [("R062", "error", 8, 17)], "cannot log in"),
        ("username: u\npassword:", [("R062", "error", 8, 17)], "cannot log in"),
        (f"username: u\nidentity_token: {SECRET}", [("R062", "error", 8, 17)], "hides identity_token"),
        (f"username: u\nauth: {PAIR}", [("R062", "error", 8, 17)], "hides auth"),
        (f"auth: {encoded('puller:')}", [("R062", "error", 8, 13)], "without a password"),
        ("username:\npassword:", [("R062", "note", 7, 5)], "is empty"),
        ("token: abc", [], ""),  # K3s does not know it: another rule
        (f"username: puller\npassword: {SECRET}\nauth: {PAIR}", [], ""),
        (
            f"username: other\npassword: {SECRET}\nauth: {PAIR}",
            [("R064", "warning", 10, 13)],
            "takes username and password",
        ),
        (
            f"username: u\npassword: p\nidentity_token: {SECRET}\nauth: {PAIR}",
            [("R064", "warning", 10, 23), ("R064", "warning", 11, 13)],
            "never used",
        ),
        (f"identity_token: t\nauth: {PAIR}", [("R064", "warning", 9, 13)], "takes identity_token"),
        (f"password: {SECRET}\nauth: {PAIR}", [("R064", "warning", 8, 17)], "takes auth"),
        (f"password: {SECRET}\nidentity_token: t", [("R064", "warning", 8, 17)], "takes identity_token"),
    ],
)
def test_too_little_and_too_much(auth: str, expected: list[tuple[str, str, int, int]], words: str) -> None:
    findings = found(entry(auth))

    assert said(findings) == expected
    assert words in " ".join(each.message for each in findings)


FIELDS = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(["", "u", PAIR]) for name in ("username", "password", "identity_token", "auth")}
)


@settings(deadline=None, max_examples=150)
@given(FIELDS)
def test_each_field_is_used_or_told_of(fields: dict[str, str]) -> None:
    """Whatever stands in an `auth`: it is the login that containerd takes, or a finding says that it is not."""
    text = FILE.rstrip("\n") + " {" + ", ".join(f'{name}: "{value}"' for name, value in fields.items()) + "}\n"
    subject = subject_of(text)
    config = subject.config.configs["mirror.example"]
    ids = {each.id for each in check(subject, select=["R026", "R062", "R064"])}
    try:
        credential = from_registries(config)
    except BadCredential:
        assert "R026" in ids
        return
    given = {name for name, value in fields.items() if value}
    used = {"basic": {"username", "password"}, "auth": {"auth"}, "identity_token": {"identity_token"}}
    taken = used[credential.kind] if credential else set()
    assert (credential is not None and bool(credential.secret) and given <= taken) == (not ids)


# ── R067, R070 ──

WILDCARD = f"""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example:5000
configs:
  '*':
    auth: {{username: puller, password: {SECRET}}}
"""


def test_the_only_host_that_can_be_meant_gets_the_entry_of_the_wildcard() -> None:
    subject = subject_of(WILDCARD)

    after = fixed(subject, select=OURS)

    assert said(found(WILDCARD)) == [("R067", "error", 7, 5)]
    assert after.data.decode() == WILDCARD.replace("'*'", "'mirror.example:5000'")
    again = Subject.of(after.data, "f", subject.circumstances)
    assert k3s.auth_for(subject.config, "mirror.example:5000") is None
    assert k3s.auth_for(again.config, "mirror.example:5000") is not None


@pytest.mark.parametrize(
    "text",
    [
        WILDCARD.replace("      - https", "      - https://other.example\n      - https"),
        WILDCARD + "    tls: {insecure_skip_verify: true}\n",
        WILDCARD + "  mirror.example:5000: {}\n",
        WILDCARD.replace("mirrors", "x-mirrors"),
    ],
)
def test_where_several_can_be_meant_there_is_no_fix(text: str) -> None:
    (finding,) = found(text)

    assert (finding.id, finding.fix) == ("R067", None)


def test_wharfie_uses_the_wildcard() -> None:
    assert not found(WILDCARD, "--client wharfie")
    assert said(found(WILDCARD.replace("puller", "''"), "--client wharfie")) == [("R062", "error", 7, 36)]


@pytest.mark.parametrize(
    ("endpoint", "key", "extra", "told"),
    [
        ("http://mirror.lan:5000", "mirror.lan:5000", "", True),
        ("http://10.0.0.5:5000", "10.0.0.5:5000", "", True),
        ("https://mirror.lan:5000", "mirror.lan:5000", "", False),
        ("http://mirror.lan:5000", "mirror.lan", "", False),  # never sent
        ("http://127.0.0.1:5000", "127.0.0.1:5000", "", False),
        ("http://mirror.lan:5000", "mirror.lan:5000", "    tls: {insecure_skip_verify: true}\n", False),  # https first
    ],
)
def test_logins_over_plain_http(endpoint: str, key: str, extra: str, *, told: bool) -> None:
    login = f"    auth: {{username: u, password: {SECRET}}}\n"
    text = f"mirrors:\n  docker.io:\n    endpoint:\n      - {endpoint}\nconfigs:\n  {key}:\n{login}{extra}"

    assert said(found(text)) == ([("R070", "note", 4, 9)] if told else [])


@pytest.mark.parametrize(
    ("text", "placeholder"),
    [
        ("<password>", True),
        ("${PASSWORD}", True),
        ("$REGISTRY_PASSWORD", True),
        ("{{ vault_password }}", True),
        ("ENC[AES256_GCM,data:x,type:str]", True),
        ("xxxxxx", True),
        ("***", True),
        ("@@PASSWORD@@", True),
        ("hunter2", False),
        ("$ecret!", False),
        ("<3 kubernetes", False),
        ("xx", False),
    ],
)
def test_placeholders(text: str, *, placeholder: bool) -> None:
    assert is_placeholder(text) == placeholder
