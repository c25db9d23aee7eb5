"""What the fuzzer throws at the check, and what must hold whatever comes.

`make fuzz` runs it for minutes, the tests for seconds and over every input that ever failed (tests/corpus/fuzz).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import strategies as st

from pierhead.check import Circumstances, Subject, check, fixed
from pierhead.cli.check import excerpt, formats, sarif
from pierhead.config.k3s import Flags
from pierhead.errors import PierheadError
from pierhead.image_list import read_list

ROOT = Path(__file__).parent
CORPUS = ROOT / "corpus"
FOUND = CORPUS / "fuzz"
PLANTED = "pl4nted-S3cret"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
IMAGES = "docker.io/library/busybox:1\nreg.lan:5000/a/b@sha256:" + "0" * 64 + "\nrancher/pause:3.1\n"

# ── what is thrown ───────────────────────────────────────────────────────────────────────────────────────────────

_KEYS = """\
docker.io * _default reg.lan reg.lan:5000 https://reg.lan .. . ~ a/b REG.lan localhost:5000 [::1]:5000 ::1
registry-1.docker.io index.docker.io k8s.gcr.io a"b a'b"""
_URLS = f"""\
https://reg.lan:5000 http://reg.lan reg.lan https:// /v2 //h https://h/a%2Fb https://h/.. ::1 %zz https://h:99999
https://registry-1.docker.io https://index.docker.io/v2 http://[::1]:5000 https://reg.lan/v2/ https://reg.lan/hub
http://reg.default.svc.cluster.local:5000 https://u:{PLANTED}@reg.lan"""
_NAMES = st.sampled_from([*_KEYS.split(), "", "x" * 300]) | st.text(max_size=8)
_ENDPOINTS = st.sampled_from([*_URLS.split(), "", "h y"]) | st.text(max_size=12)
_PATTERNS = st.sampled_from(
    [
        "^(.*)$",
        "(.*)",
        "^library/(.*)",
        "library/",
        r"^a\.b",
        r"\d+",
        "(?=x)",
        "(",
        "[",
        "^rancher/(.*)$",
        r"(a)\1",
        "",
        "^",
    ]
) | st.text(max_size=8)
_REPLACEMENTS = st.sampled_from(
    ["$1", "${1}", "$1x", r"\1", "/x/$1", "X/$1", "a b", "", "$2", "$name", "hub/$1", "?"]
) | st.text(max_size=8)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


@st.composite
def _mirror(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from(["~", "{}", "[]", "text", "{endpoint: ~}", "{endpoint: []}", "*a", "&a {}"]))
    endpoints = ", ".join(map(_quoted, draw(st.lists(_ENDPOINTS, max_size=4))))
    rules = ", ".join(
        f"{_quoted(pattern)}: {_quoted(text)}"
        for pattern, text in draw(st.lists(st.tuples(_PATTERNS, _REPLACEMENTS), max_size=3))
    )
    return f"{{endpoint: [{endpoints}], rewrite: {{{rules}}}}}"


@st.composite
def _config(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(["~", "{}", "text", "{auth: {}}", "{tls: {}}", "{auth: ~, tls: ~}", "[1]"]))
    secret = draw(st.sampled_from([PLANTED, PLANTED + "\x7f", PLANTED + "'", ""]))
    name = draw(st.sampled_from(["username: u, password", "password", "auth", "identity_token", "token", "pasword"]))
    ca, cert = (
        draw(st.sampled_from(["/no/ca.pem", "ca.pem", "", "/dev/null"])),
        draw(st.sampled_from(["", "/no/c.pem"])),
    )
    skip = draw(st.sampled_from(["true", "false", '"true"', "TRUE", "yes", "1", "~"]))
    tls = f"{{ca_file: {_quoted(ca)}, cert_file: {_quoted(cert)}, insecure_skip_verify: {skip}}}"
    return f"{{auth: {{{name}: {_quoted(secret)}}}, tls: {tls}}}"


@st.composite
def registries(draw: st.DrawFn) -> bytes:
    """A file of the right form with all that goes wrong in one."""
    mirrors = draw(st.lists(st.tuples(_NAMES, _mirror()), max_size=4))
    configs = draw(st.lists(st.tuples(_NAMES, _config()), max_size=4))
    top = draw(st.sampled_from(["mirrors", "mirrors", "mirrors", "mirrros", "mirror"]))
    lines = [f"{top}:", *(f"  {_quoted(name)}: {text}" for name, text in mirrors)]
    indent = draw(st.sampled_from(["", "", "", "  "]))
    lines += [f"{indent}configs:", *(f"{indent}  {_quoted(name)}: {text}" for name, text in configs)]
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


_PIECES = b"\t|\n|\r\n|:|- |#|'|\"|&a |*a|<<: |!!str |>\n|? |{|]|---\n|\x00|\xff|\xef\xbb\xbf|\xe2\x80\xa8|%YAML 1.2\n"
_TOKENS = st.sampled_from(_PIECES.split(b"|"))


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """A file with a few of its bytes cut, doubled or replaced."""
    data = draw(originals)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 30)))
        what = draw(st.sampled_from(["cut", "double", "put"]))
        middle = {"cut": b"", "double": data[start:end] * 2, "put": draw(_TOKENS)}[what]
        data = data[:start] + middle + data[end:]
    return data


def documents() -> st.SearchStrategy[bytes]:
    """Anything a file can hold, mostly what is nearly a registries.yaml."""
    files = sorted(path for path in CORPUS.rglob("*.y*ml") if path.is_file())
    seeds = st.sampled_from([path.read_bytes() for path in files]) if files else registries()
    return st.one_of(registries(), mutated(registries()), mutated(seeds), st.binary(max_size=200))


# ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────────

_IMAGES = read_list(IMAGES, "images.txt")
CIRCUMSTANCES = (
    Circumstances(NOW, look_at_files=False),
    Circumstances(NOW, Flags(disable_default_registry_endpoint=True), images=_IMAGES[0], assert_no_egress=True),
    Circumstances(NOW, Flags(embedded_registry="127.0.0.1:6443"), client="wharfie", look_at_files=False),
)


def exercise(data: bytes, circumstances: Circumstances) -> None:
    """Check `data` in every way there is; an exception or a failed assertion is a bug."""
    subject = Subject.of(data, "registries.yaml", circumstances)
    try:
        findings = check(subject)
        mended = fixed(subject)
    except PierheadError as error:
        raise AssertionError(f"the check gave up: {error}") from error
    shown = excerpt.Excerpts(subject.source)
    checked = [formats.Checked("registries.yaml", findings, shown)]
    told = "\n".join(
        [
            *formats.as_text(checked),
            json.dumps([formats.as_json(checked), sarif.as_sarif(checked)]),
            *formats.as_github(checked),
            *shown.text(),
        ]
    )
    assert subject.config.error is None or findings, "what K3s refuses is found"
    for finding in findings:
        assert finding.span.line >= 1
        assert finding.span.column >= 1
        assert finding.remedy
        for edit in finding.fix.edits if finding.fix else ():
            start, end = subject.source.range(edit.span)
            assert 0 <= start <= end <= len(subject.source.text)
    if _secret_in_its_place(subject):
        assert PLANTED not in told
    assert len(mended.data) < 4 * len(data) + 1000, "fixing ends"


def _secret_in_its_place(subject: Subject) -> bool:
    """Whether the planted secret stands where a secret is expected: a fuzzer may put it into a key or a comment."""
    text = subject.source.text
    if PLANTED not in text or subject.config.error is not None:
        return False
    entries = [entry for entry in subject.source.entries if entry.value.kind == "scalar"]
    below_auth = [entry for entry in entries if "auth" in entry.path and entry.path[-1] != "username"]
    known = [entry for entry in entries if f"://u:{PLANTED}@" in entry.value.value] + below_auth
    return sum(entry.value.value.count(PLANTED) for entry in known) == text.count(PLANTED)
