"""SOURCE and DESTINATION as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.cli.copying.places import FileKind, FilePlace, RegistryPlace, parse_place, refuse_cut_path
from pierhead.errors import ExitCode, UsageError
from pierhead.reference import Digest, InvalidReference, Reference

DIGEST = Digest.of(b"content")


@pytest.mark.parametrize("text", ["redis", "docker.io/library/redis:latest", "docker://redis"])
def test_a_reference(text: str) -> None:
    assert parse_place(text) == RegistryPlace(Reference.parse("redis"), "latest")


@pytest.mark.parametrize("repository", ["hub.example/app", "hub.example:5000/app", "localhost:5000/team/app"])
def test_the_tag_beside_a_digest_is_kept(repository: str) -> None:
    reference = Reference.parse(f"{repository}@{DIGEST}")
    bare = parse_place(f"{repository}@{DIGEST}")
    tagged = parse_place(f"{repository}:1.0@{DIGEST}")
    latest = parse_place(f"{repository}:latest@{DIGEST}")
    assert bare == RegistryPlace(reference, None)
    assert tagged == RegistryPlace(reference, "1.0")
    assert latest == RegistryPlace(reference, "latest")
    assert isinstance(bare, RegistryPlace)
    assert isinstance(tagged, RegistryPlace)
    assert (bare.name, tagged.name) == (str(DIGEST), "1.0")
    assert bare.digest == tagged.digest == DIGEST


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("oci:dir", FilePlace("oci", Path("dir"))),
        ("oci:/srv/images:7", FilePlace("oci", Path("/srv/images"), "7")),
        (
            "oci:dir:registry.lan:5000/team/app:1",
            FilePlace("oci", Path("dir"), "registry.lan:5000/team/app:1"),
        ),
        ("oci-archive:a.tar", FilePlace("oci-archive", Path("a.tar"))),
        ("oci-archive:a.tar:team/app:1", FilePlace("oci-archive", Path("a.tar"), "team/app:1")),
        ("docker-archive:a.tar", FilePlace("docker-archive", Path("a.tar"))),
        ("docker-archive:a.tar:redis", FilePlace("docker-archive", Path("a.tar"), "docker.io/library/redis:latest")),
        ("oci:a.tar:", FilePlace("oci", Path("a.tar"))),
        ("docker:27-cli", RegistryPlace(Reference.parse("docker.io/library/docker:27-cli"), "27-cli")),
        ("docker://oci:1", RegistryPlace(Reference.parse("docker.io/library/oci:1"), "1")),
    ],
)
def test_files_and_folders(text: str, place: object) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("oci:", "no path"),
        ("oci::name", "no path"),
        ("oci:~/images", "~"),
        ("oci:dir:a name", "no name"),
        ("oci:dir:/name", "no name"),
        (f"docker-archive:a.tar:app@{DIGEST}", "digests"),
        ("oci-archive:-", "save -o -"),
        ("docker-archive:/dev/stdout", "save -o -"),
        ("dir:/srv", "dir:"),
        ("containers-storage:redis", "containers-storage:"),
    ],
)
def test_what_is_no_place(text: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_place(text)
    assert words in f"{raised.value} {raised.value.hint}"
    assert raised.value.hint
    assert raised.value.exit_code is ExitCode.USAGE


def test_no_credentials_in_an_error() -> None:
    with pytest.raises(InvalidReference) as raised:
        parse_place("docker://alice:hunter2@hub.example/app:1")
    assert "hunter2" not in f"{raised.value} {raised.value.hint}"


_PATHS = st.text("abc/._- ~é", min_size=1, max_size=12).filter(
    lambda text: text[0] != "~" and text != "-" and str(Path(text)) == text
)
_NAMES = st.from_regex(r"[a-z0-9]{1,5}([:/@.][a-z0-9]{1,5}){0,4}", fullmatch=True)


@settings(deadline=None)
@given(st.sampled_from(["oci", "oci-archive"]), _PATHS, st.one_of(st.just(""), _NAMES))
def test_what_is_printed_reads_as_itself(kind: FileKind, path: str, name: str) -> None:
    place = FilePlace(kind, Path(path), name)
    assert parse_place(str(place)) == place


@settings(deadline=None)
@given(st.sampled_from(["a.example/b", "a.example:5/b/c", "docker.io/library/b"]), st.booleans(), st.booleans())
def test_a_printed_reference_reads_as_itself(name: str, tagged: bool, digested: bool) -> None:
    text = name + (":7" if tagged or not digested else "") + (f"@{DIGEST}" if digested else "")
    place = parse_place(text)
    assert str(place) == text
    assert parse_place(str(place)) == place


@pytest.mark.parametrize("written", ["{0}/a:b", "{0}/a:b/c", "{0}/a:b:name", "{0}/a:b/c:team/app:1"])
def test_a_path_with_a_colon(tmp_path: Path, written: str) -> None:
    place = parse_place(f"oci:{written.format(tmp_path)}")
    assert isinstance(place, FilePlace)
    refuse_cut_path(place)  # nothing there has a colon in it
    (tmp_path / "a:b").mkdir()
    with pytest.raises(UsageError, match="first colon"):
        refuse_cut_path(place)


def test_a_name_that_only_looks_like_a_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a:b").mkdir()
    place = parse_place(f"oci:{tmp_path}/a:b")
    assert isinstance(place, FilePlace)
    refuse_cut_path(place)  # the folder without the colon is there, and is what is meant
