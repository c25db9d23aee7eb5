"""Names as people write them: the recorded answers of distribution/reference, and the laws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pierhead.errors import ExitCode
from pierhead.reference import HEX_LENGTHS, Digest, InvalidDigest, InvalidReference, Reference

VECTORS = json.loads((Path(__file__).parent / "vectors" / "references.json").read_text(encoding="utf-8"))
HEX = "0123456789abcdef" * 4


def read_by_containerd(case: dict[str, str | None]) -> bool:
    """The recorder had no hash linked in, so every digest reads "unsupported digest algorithm" there.

    containerd has them: it pulls by digest in the recorded requests (cr-ref-09, cr-ref-10, cr-ref-digest-wrong,
    whose digest is that of ref-208). So a refusal of a whole digest is the recorder's, not containerd's.
    """
    algorithm, _, value = str(case["reference"]).partition("@")[2].partition(":")
    return case.get("error") == "unsupported digest algorithm" and len(value) == HEX_LENGTHS.get(algorithm)


def outcome(text: str) -> dict[str, str | None]:
    try:
        r = Reference.parse(text)
    except InvalidReference as error:
        return {"error": error.go_text}
    return {
        "normalized": str(r),
        "registry": r.registry,
        "repository": r.repository,
        "tag": r.tag,
        "digest": str(r.digest) if r.digest else None,
        "familiar": r.familiar,
    }


def test_every_recorded_reference_reads_as_in_go() -> None:
    assert len(VECTORS) == 126
    failures = []
    for case in VECTORS:
        expected = {key: value for key, value in case.items() if key not in ("id", "reference")}
        if not read_by_containerd(case) and outcome(case["reference"]) != expected:
            failures.append((case["id"], outcome(case["reference"]), expected))
    assert failures == []


def test_recorded_digests_are_read_as_containerd_does() -> None:
    cases = [case["reference"] for case in VECTORS if read_by_containerd(case)]
    assert len(cases) == 12
    for text in cases:
        reference = Reference.parse(text)
        assert reference.tag is None
        assert reference.object == text.partition("@")[2]
        assert str(reference).endswith("@" + reference.object)


def test_a_tag_beside_a_digest_is_dropped() -> None:
    reference = Reference.parse(f"index.docker.io/redis:7@sha256:{HEX}")
    assert reference == Reference("docker.io", "library/redis", None, Digest("sha256", HEX))
    assert str(reference) == f"docker.io/library/redis@sha256:{HEX}"
    assert reference.familiar == f"redis@sha256:{HEX}"
    assert reference.name == "docker.io/library/redis"


def test_a_registry_with_an_underscore_is_the_host_containerd_asks() -> None:
    reference = Reference.parse("my_reg.lan/app")
    assert (reference.registry, reference.repository) == ("my_reg.lan", "app")
    assert str(reference) == "my_reg.lan/app:latest"


def test_official_images_keep_their_prefix_below_the_first_level() -> None:
    assert Reference.parse("library/distros/debian").familiar == "library/distros/debian:latest"


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("", "it is empty", "redis:7"),
        ("re dis", "character 3 is ' '", "Remove"),
        ("redis\n", r"character 6 is '\n'", "Remove"),
        ("https://reg.example/app", "the scheme https://", "without https://"),
        ("user:pw@reg.example/app", "user name", "credentials"),
        (HEX, "image id", "@sha256:"),
        ("a//b", "between slashes is empty", "'/'"),
        ("reg.x:/a", "'reg.x:' before the first '/' is not a registry", "host name"),
        ("::1/app", "'::1' before", "brackets"),
        ("a@sha256:xyz", "'sha256:xyz' after '@' is not a digest", "64"),
        ("a@sha256:" + "ab" * 16, "sha256 has 64 hexadecimal digits, not 32", "64"),
        ("a@md5:" + "ab" * 16, "the algorithm 'md5' is not one of", "sha256"),
        ("a@sha256:" + HEX.upper(), "lower case", "sha256"),
        ("a:", "tag after ':' is empty", "128"),
        ("a:" + "t" * 129, "129 characters, more than 128", "128"),
        ("a:-x", "'-x' after ':' is not a tag", "128"),
        ("team/App", "upper-case", "'team/app'"),
        ("a/_b", "'_b' is not a part", "'_'"),
        ("a/ü", "'ü' is not a part", "a-z"),
        ("a_b/" + "n" * 252, "256 characters", "shorter"),
    ],
)
def test_the_error_names_the_rule_and_the_way_out(text: str, reason: str, hint: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert reason in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("text", ["https://user:hunter2@reg.example/app", "user:hunter2@reg.example/app"])
def test_pasted_credentials_are_not_repeated(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in caught.value.hint
    assert "reg.example" in str(caught.value)


def test_an_endless_text_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("x" * 1_000_000)
    assert len(str(caught.value)) < 500


labels = st.text("abz019", min_size=1, max_size=4)
components = st.lists(labels, min_size=1, max_size=3).flatmap(
    lambda parts: st.sampled_from([".", "_", "__", "-", "---"]).map(lambda separator: separator.join(parts))
)
registries = st.sampled_from(
    ["", "docker.io/", "index.docker.io/", "localhost/", "Corp/", "reg.lan:5000/", "[::1]:5000/", "a_b.c/", "10.0.0.1/"]
)
suffixes = st.sampled_from(["", ":latest", ":1.0-rc_1", f"@sha256:{HEX}", f":t@sha512:{HEX * 2}"])
references = st.builds(
    lambda registry, path, suffix: registry + "/".join(path) + suffix,
    registries,
    st.lists(components, min_size=1, max_size=3),
    suffixes,
)


@given(references)
@settings(deadline=None)
def test_law_1_the_normal_form_reads_as_itself(text: str) -> None:
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference or reference.registry == "docker.io"
    assert (reference.tag is None) != (reference.digest is None)


@given(st.text() | st.text("aA0./:@-_[]é \n", max_size=20))
@example("A_b/x")
@example("\ud800")
@example("İ/x")
@settings(deadline=None, max_examples=400)
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference as error:
        refusal = error
    else:
        assert Reference.parse(str(reference)) == reference
        return
    assert str(refusal).isprintable()
    assert all((refusal.reason, refusal.hint, refusal.go_text))


@given(st.binary(), st.sampled_from(sorted(HEX_LENGTHS)))
@settings(deadline=None)
def test_digest_of_content(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    assert str(digest) == f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    assert Digest.parse(str(digest)) == digest
    hashed = digest.new_hash()
    hashed.update(data)
    assert hashed.hexdigest() == digest.hex


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        f"sha256{HEX}",
        "sha256:",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha256:{HEX}\n",
        f"sha1:{HEX[:40]}",
        f":{HEX}",
        f"sha256::{HEX[:-1]}",
        f"sha256:{'٣' * 64}",
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidDigest) as caught:
        Digest.parse(text)
    assert caught.value.exit_code is ExitCode.USAGE


def test_an_unknown_algorithm_hashes_nothing() -> None:
    with pytest.raises(InvalidDigest, match="md5"):
        Digest.of(b"", "md5")
