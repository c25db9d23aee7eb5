"""Rules about certificate files: what is looked at, what is said of it, and that nothing else happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certificates import written
from checking import check_example, circumstances
from pierhead.check import Finding, Subject, check, fixed
from pierhead.check.files import Content, Trouble, read_regular
from pierhead.check.pem import read_pem
from pierhead.check.rule import Example
from pierhead.config import k3s
from pierhead.config.gotls import blocks, pair_error, read_file

OURS = ("R024", "R044", "R071", "R072", "R073", "R074", "R075", "R076")
FILE = """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    tls:
"""


def found(tls: str, folder: Path, *flags: str, mode: int = 0o600, **files: str) -> list[Finding]:
    """What these rules find of an entry with this `tls`, beside these files (`ca_pem` is ca.pem)."""
    lines = "".join(f"      {line}\n" for line in tls.splitlines())
    named = {name.replace("_", "."): content for name, content in files.items()}
    subject = check_example(Example(FILE + lines, flags, files=named, mode=mode), folder)
    return list(check(subject, select=OURS))


def found_in(text: str, *flags: str) -> list[Finding]:
    """What they find in a file that stands nowhere."""
    subject = Subject.of(text.encode(), "registries.yaml", circumstances(Example(text, flags), None))
    return list(check(subject, select=OURS))


def said(findings: list[Finding]) -> list[tuple[str, str, int, int]]:
    return [(each.id, each.severity, each.span.line, each.span.column) for each in findings]


@pytest.mark.parametrize(
    ("content", "expected", "words"),
    [
        ("<ca>", None, ""),
        ("<garbage><ca>", None, ""),
        ("<damaged certificate><ca>", None, ""),
        ("<expired ca><ca>", ("R071", "note"), "1 of the 2"),
        ("", ("R024", "error"), "no certificate"),
        ("<garbage>", ("R024", "error"), "no certificate"),
        ("<damaged certificate>", ("R024", "error"), "no certificate"),
        ("<other key>", ("R024", "error"), "no certificate"),
        ("<expired ca>", ("R071", "error"), "expired on 2026-10-19"),
        ("<expiring ca>", ("R071", "warning"), "in 20 days, on 2026-12-13"),
        ("<future ca>", ("R071", "error"), "not valid before 2026-11-28"),
        ("<server certificate>", ("R073", "warning"), "the server"),
        ("<server certificate><ca>", None, ""),
        ("<self-signed certificate>", ("R073", "note"), "one certificate"),
        ("<client certificate>", ("R073", "error"), "the client"),
    ],
)
def test_ca_files(content: str, expected: tuple[str, str] | None, words: str, tmp_path: Path) -> None:
    findings = found("ca_file: {here}/ca.pem", tmp_path, ca_pem=content)

    assert said(findings) == ([(*expected, 8, 16)] if expected else [])
    assert words in "".join(each.message for each in findings)


@pytest.mark.parametrize("content", ["<expired ca>", "<server certificate>", "<client certificate>", "<future ca>"])
def test_without_verification_it_is_all_the_same_what_the_ca_is(content: str, tmp_path: Path) -> None:
    assert not found("ca_file: {here}/ca.pem\ninsecure_skip_verify: true", tmp_path, ca_pem=content)


def test_without_verification_a_missing_file_still_breaks_the_registry(tmp_path: Path) -> None:
    (finding,) = found("ca_file: {here}/ca.pem\ninsecure_skip_verify: true", tmp_path)

    assert (finding.id, finding.severity) == ("R024", "error")
    assert "every pull of docker.io, mirror.example fails" in finding.message


def test_binary_ca(tmp_path: Path) -> None:
    (tmp_path / "ca.der").write_bytes(written_binary())

    (finding,) = found("ca_file: {here}/ca.der", tmp_path)

    assert finding.id == "R024"
    assert "openssl x509 -inform der" in finding.remedy


def written_binary() -> bytes:
    return written("<binary ca>")


@pytest.mark.parametrize(
    ("certificate", "key", "expected"),
    [
        ("<client certificate>", "<client key>", []),
        ("<client certificate><ca>", "<client key>", []),
        ("<certificate for everything>", "<client key>", []),
        ("<client certificate><client key>", "<client certificate><client key>", []),
        ("<client certificate>", "<other key>", [("R072", "error", 9, 17)]),
        ("<ca><client certificate>", "<client key>", [("R072", "error", 9, 17)]),
        ("<server certificate>", "<server key>", [("R074", "warning", 8, 18)]),
        ("<server certificate>", "<client key>", [("R074", "warning", 8, 18), ("R072", "error", 9, 17)]),
        ("<expired client certificate>", "<client key>", [("R071", "error", 8, 18)]),
        ("<expiring client certificate>", "<client key>", [("R071", "warning", 8, 18)]),
        ("<client certificate><expired ca>", "<client key>", []),
        ("<client certificate>", "<locked client key>", [("R024", "error", 9, 17)]),
        ("<client certificate>", "<damaged key>", [("R024", "error", 9, 17)]),
        ("<client certificate>", "<garbage>", [("R024", "error", 9, 17)]),
        ("<client key>", "<client certificate>", [("R024", "error", 8, 18), ("R024", "error", 9, 17)]),
    ],
)
def test_pairs(certificate: str, key: str, expected: list[tuple[str, str, int, int]], tmp_path: Path) -> None:
    findings = found("cert_file: {here}/c.pem\nkey_file: {here}/k.pem", tmp_path, c_pem=certificate, k_pem=key)

    assert said(findings) == expected
    refused = pair_error(str(tmp_path / "c.pem"), str(tmp_path / "k.pem"), read_file)
    assert bool(refused) == any(each.id in ("R024", "R072") for each in findings), "as Go says"


def test_exchanged_halves_are_put_right(tmp_path: Path) -> None:
    text = FILE + "      cert_file: '{here}/k.pem' # the key\n      key_file: {here}/c.pem\n"
    subject = check_example(Example(text, files={"c.pem": "<client certificate>", "k.pem": "<client key>"}), tmp_path)

    after = fixed(subject, select=["R024"])

    meant = FILE + "      cert_file: '{here}/c.pem' # the key\n      key_file: {here}/k.pem\n"
    assert after.data.decode() == meant.replace("{here}", str(tmp_path))
    assert not after.left


def test_exchanged_halves_of_two_pairs_are_not(tmp_path: Path) -> None:
    pair = "cert_file: {here}/k.pem\nkey_file: {here}/c.pem"

    assert not any(each.fix for each in found(pair, tmp_path, c_pem="<client certificate>", k_pem="<other key>"))


@pytest.mark.parametrize("there", ["cert_file", "key_file"])
def test_half_a_pair(there: str, tmp_path: Path) -> None:
    findings = found(f"{there}: {{here}}/c.pem", tmp_path, c_pem="<client certificate><client key>")

    absent = {"cert_file": "key_file", "key_file": "cert_file"}[there]
    assert said(findings) == [("R044", "error", 8, 9 + len(there))]
    assert f"{there} stands without {absent}: every pull of docker.io" in findings[0].message


@pytest.mark.parametrize(
    "text",
    [
        FILE + "      cert_file: {here}/c.pem  # both\n",
        FILE + '      cert_file: "{here}/c.pem"\n      insecure_skip_verify: false\n',
        FILE.removesuffix("\n") + " {cert_file: '{here}/c.pem'}\n",
    ],
)
def test_one_file_with_both_halves_is_named_twice(text: str, tmp_path: Path) -> None:
    subject = check_example(Example(text, files={"c.pem": "<client certificate><client key>"}), tmp_path)

    after = fixed(subject, select=["R044"])

    assert not after.left
    hosts = k3s.hosts(Subject.of(after.data, "f", subject.circumstances).config)
    path = str(tmp_path / "c.pem")
    assert [host.client for host in hosts.lookup("docker.io").hosts] == [((path, path),), ()]


def test_an_empty_half_is_not_written_a_second_time(tmp_path: Path) -> None:
    (finding,) = found("cert_file: {here}/c.pem\nkey_file:", tmp_path, c_pem="<client certificate><client key>")

    assert finding.id == "R044"
    assert finding.fix is None


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
def test_pasted_text_is_named_and_never_shown(field: str, tmp_path: Path) -> None:
    lines = "\n".join(f"  {line}" for line in written("<client key>").decode().splitlines())
    findings = found(f"{field}: |\n{lines}", tmp_path)

    assert [each.id for each in findings if each.span.line == 8] == ["R024"] + ["R044"] * (field != "ca_file")
    body = written("<client key>").decode().splitlines()[1]
    assert not any(body in each.message + each.remedy for each in findings)


def _missing(folder: Path) -> None:
    pass


def _folder(folder: Path) -> None:
    (folder / "ca.pem").mkdir()


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "ca.pem")


def _device(folder: Path) -> None:
    (folder / "ca.pem").symlink_to("/dev/zero")


def _loop(folder: Path) -> None:
    (folder / "ca.pem").symlink_to(folder / "ca.pem")


def _dangling(folder: Path) -> None:
    (folder / "ca.pem").symlink_to(folder / "nowhere")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_missing, "does not exist"),
        (_dangling, "does not exist"),
        (_folder, "is a directory"),
        (_pipe, "is not a file"),
        (_device, "is not a file"),
        (_loop, "leads to itself"),
    ],
)
def test_what_is_no_file(make: object, words: str, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path)

    (finding,) = found("ca_file: {here}/ca.pem", tmp_path)

    assert (finding.id, finding.severity) == ("R024", "error")
    assert words in finding.message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ('"/etc/a\\0b.pem"', "no possible path"),
        (f"/etc/{'x' * 300}.pem", "too long"),
        ("{here}/registries.yaml/ca.pem", "does not exist"),
    ],
)
def test_impossible_paths(path: str, words: str, tmp_path: Path) -> None:
    findings = found(f"ca_file: {path}", tmp_path)

    assert [each.id for each in findings] == ["R024"]
    assert words in findings[0].message
    assert len(findings[0].message) < 300


def test_what_is_missing_may_be_on_the_nodes(tmp_path: Path) -> None:
    text = FILE + "      ca_file: /nowhere/ca.pem\n"

    for data, folder in (("no-k3s", tmp_path / "1"), ("k3s", tmp_path / "2")):
        files = {"k3s/agent/images/README": "a node"}
        example = Example(text, (f"--data-dir {{here}}/{data}",), files=files)
        (finding,) = check(check_example(example, folder), select=OURS)
        assert (finding.severity, "where a node lacks it too, every pull" in finding.message) == (
            ("error", False) if data == "k3s" else ("note", True)
        )


def test_what_is_missing_beside_others_is_missing(tmp_path: Path) -> None:
    pair = "cert_file: {here}/c.pem\nkey_file: /nowhere/k.pem"

    assert said(found(pair, tmp_path, c_pem="<client certificate>")) == [("R024", "error", 9, 17)]


def test_what_only_root_can_read_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Example(FILE + "      ca_file: {here}/ca.pem\n", files={"ca.pem": "<ca>"})
    subject = check_example(example, tmp_path)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    (finding,) = check(subject, select=["R024"])

    assert finding.severity == "note"
    assert "root" in finding.remedy


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "ca.pem").open("wb") as file:
        file.truncate(1 << 40)

    (finding,) = found("ca_file: {here}/ca.pem", tmp_path)

    assert finding.severity == "note"
    assert "larger than" in finding.message


def test_nothing_is_opened_where_the_files_are_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = FILE + "      cert_file: /nowhere/c.pem\n      key_file: /nowhere/k.pem\n      ca_file: ssl/ca.pem\n"
    subject = check_example(Example(text, ("--no-files",)), tmp_path)

    def never(*_: object) -> int:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(os, "open", never)

    assert [each.id for each in check(subject, select=OURS)] == ["R075"]


@pytest.mark.parametrize(
    ("path", "severity", "where"),
    [
        ("ca.pem", "error", "/var/lib/rancher/k3s/agent/etc/containerd/certs.d/docker.io/ca.pem"),
        ("~/ca.pem", "error", "/var/lib/rancher/k3s/agent/etc/containerd/certs.d/docker.io/~/ca.pem"),
        ("../../ca.pem", "warning", "/var/lib/rancher/k3s/agent/etc/containerd/ca.pem"),
        ("file:///etc/ca.pem", "error", "certs.d"),
    ],
)
def test_relative_paths(path: str, severity: str, where: str, tmp_path: Path) -> None:
    (finding,) = found(f"ca_file: {path}", tmp_path)

    assert (finding.id, finding.severity, finding.span.line) == ("R075", severity, 8)
    assert where in finding.message
    assert finding.fix is None
    hosts = check_example(Example(FILE + f"      ca_file: {path}\n"), tmp_path).hosts
    assert hosts
    if path.startswith("."):
        assert hosts.lookup("docker.io").hosts[0].ca[0] in finding.message, "as containerd reads it"


def test_a_relative_path_is_made_whole_if_the_file_lies_beside(tmp_path: Path) -> None:
    text = FILE + "      ca_file: 'ssl/ca.pem'  # ours\n"
    subject = check_example(Example(text, files={"ssl/ca.pem": "<ca>"}), tmp_path)

    after = fixed(subject, select=["R075"])

    assert after.data.decode() == text.replace("ssl/ca.pem", f"{tmp_path}/ssl/ca.pem")
    assert not after.left


@pytest.mark.parametrize("path", [r"C:\certs\ca.pem", "c:/certs/ca.pem", "<path of the CA>", "${CA_FILE}"])
def test_paths_of_windows_and_placeholders_are_left_alone(path: str, tmp_path: Path) -> None:
    assert not found(f"ca_file: '{path}'", tmp_path)


def test_wharfie_only_warns(tmp_path: Path) -> None:
    tls = "ca_file: {here}/missing.pem\ncert_file: {here}/c.pem"

    findings = found(tls, tmp_path, "--client wharfie", c_pem="<client certificate>")

    assert [(each.id, each.severity) for each in findings] == [("R024", "warning"), ("R044", "warning")]
    assert all("default TLS" in each.message for each in findings)


def test_wharfie_passes_over_a_ca_file_without_certificates(tmp_path: Path) -> None:
    (finding,) = found("ca_file: {here}/ca.pem", tmp_path, "--client wharfie", ca_pem="<garbage>")

    assert finding.severity == "warning"
    assert "says nothing" in finding.message


def test_halves_with_relative_paths_are_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pair = "cert_file: {here}/k.pem\nkey_file: c.pem"

    (tmp_path / "c.pem").write_bytes(written("<client certificate>"))

    findings = found(pair, tmp_path / "work", k_pem="<client key>")

    assert [(each.id, each.fix) for each in findings] == [("R024", None), ("R075", None)]


def test_the_wildcard_breaks_every_registry_without_an_entry() -> None:
    text = "configs:\n  '*':\n    tls:\n      ca_file: /etc\n"

    (finding,) = found_in(text)

    assert (finding.span.line, finding.span.column) == (4, 16)
    assert "every pull of each registry without an entry of its own fails" in finding.message


def test_a_wildcard_that_is_lost_breaks_nothing() -> None:
    text = "mirrors:\n  '*':\n    endpoint: [m.example]\nconfigs:\n  '*': {tls: {ca_file: /etc}}\n"

    (finding,) = found_in(text)

    assert finding.severity == "warning"
    assert "no registry uses this entry" in finding.message


def test_files_of_the_embedded_registry_are_not_looked_at() -> None:
    text = "mirrors:\n  docker.io:\n"

    assert not found_in(text, "--embedded-registry 127.0.0.1:6443")


def test_a_shared_tls_is_told_of_once() -> None:
    entries = "".join(f"  m{number}.example:\n    tls: *tls\n" for number in range(50))
    text = f"configs:\n  m.example:\n    tls: &tls\n      ca_file: /etc\n{entries}"

    (finding,) = found_in(text)

    assert "and 48 more fails" in finding.message


@pytest.mark.parametrize(
    ("mode", "severity"), [(0o600, None), (0o400, None), (0o640, "note"), (0o644, "warning"), (0o606, "warning")]
)
def test_modes_of_a_key(mode: int, severity: str | None, tmp_path: Path) -> None:
    pair = "cert_file: {here}/c.pem\nkey_file: {here}/k.pem"

    findings = found(pair, tmp_path, mode=mode, c_pem="<client certificate>", k_pem="<client key>")

    assert said(findings) == ([("R076", severity, 9, 17)] if severity else [])


def test_a_regular_file_is_read_with_its_mode(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "f").chmod(0o640)

    assert read_regular(str(tmp_path / "f"), limit_bytes=3) == Content(b"abc", 0o640)
    assert isinstance(read_regular(str(tmp_path / "f"), limit_bytes=2), Trouble)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_raise(data: st.DataObject, tmp_path: Path) -> None:
    whole = bytearray(written("<client certificate><ca><client key>"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "f").write_bytes(whole)

    read = read_pem(str(tmp_path / "f"))

    assert read.trouble is None
    assert len(read.certificates) <= 2


def test_many_edges_of_blocks_cost_no_more_than_few() -> None:
    lines = b"".join(b"-----BEGIN A%d-----\n" % number for number in range(100_000))

    assert list(blocks(lines)) == []
    assert [kind for kind, _ in blocks(lines + b"-----END A99999-----\n")] == ["A99999"]
