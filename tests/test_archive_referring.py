"""What of an archive is an image, and what merely refers to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images import Image, make_image
from pierhead.archive import LayoutFolder, open_archive
from pierhead.archive.store import ArchiveStore
from pierhead.errors import UsageError
from pierhead.reference import Digest
from pierhead.referrers import find_all_referrers
from pierhead.store import NotFound, RepositoryName
from referring import Signed, artifact, cosign, cosign_tag, listing

NAME = "docker.io/library/app:v1"
SIGNED = Signed.make()
APP = SIGNED.image
CHILD = str(APP.manifest["manifests"][1]["digest"])
SUBJECTS = [Digest.parse(digest) for digest in APP.manifests]
SIGNATURE, LONELY = artifact(APP), make_image(layers=[b"lonely\n"])
ORPHAN = artifact(LONELY)
SIG, ATT = cosign("it"), cosign("more")

Entries = Sequence[tuple[str, Image]]


def images(path: Path, entries: Entries, **how: Sequence[str]) -> list[str]:
    """What stands in the archive as an image: its name, else its digest."""
    with open_archive(listing(path, entries, **how)) as archive:
        return [str(image) for image in archive.images]


@pytest.mark.parametrize(
    "entries",
    [
        [("", SIGNATURE)],
        [("", SIGNATURE), ("", artifact(SIGNATURE))],
        [("", artifact(APP.manifest["manifests"][1]))],
        [("called-so", SIGNATURE)],
        [(cosign_tag(APP.digest), SIG)],
        [(cosign_tag(CHILD, ".att"), SIG)],
        [(cosign_tag(APP.digest), SIG), (cosign_tag(SIG.digest, ".sbom"), ATT), ("", artifact(ATT))],
        SIGNED.entries(NAME)[1:],
    ],
    ids=["subject", "of another", "of a platform", "with a tag", "cosign", "cosign of a platform", "chain", "all"],
)
@pytest.mark.parametrize("turn", [list, lambda entries: entries[::-1]], ids=["behind", "before"])
def test_what_refers_to_an_image_is_none(tmp_path: Path, entries: Entries, turn: Callable[[Entries], Entries]) -> None:
    every = turn([(NAME, APP), *entries])
    assert images(tmp_path / "a.tar", every) == [NAME]
    with open_archive(tmp_path / "a.tar") as archive:
        assert archive.find("").name == NAME
        found = archive.referrers(SUBJECTS)
        assert {str(item.descriptor.digest) for item in found} == {image.digest for _, image in entries}
        assert found == list(find_all_referrers(archive.content, SUBJECTS))  # as of any repository
        for name, image in entries:  # each can still be asked for
            assert str(archive.find(name if "-" in name else image.digest).descriptor.digest) == image.digest


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("", LONELY),
        ("v7", LONELY),
        ("", ORPHAN),
        (cosign_tag(LONELY.digest), SIG),
        (cosign_tag(APP.digest, ".other"), SIG),
        (cosign_tag(APP.digest).removeprefix("sha256-"), SIG),
        ("docker.io/library/app:signature", SIGNATURE),
        (f"docker.io/library/app:{cosign_tag(APP.digest)}", SIG),
    ],
    ids=[
        "no name",
        "tag",
        "subject elsewhere",
        "cosign's elsewhere",
        "suffix",
        "no algorithm",
        "named",
        "cosign named",
    ],
)
def test_anything_else_is_an_image(tmp_path: Path, name: str, image: Image) -> None:
    assert images(tmp_path / "a.tar", [(NAME, APP), (name, image)]) == [NAME, name or image.digest]


def test_what_refers_to_an_image_without_a_name_belongs_to_that(tmp_path: Path) -> None:
    assert images(tmp_path / "a.tar", [("", LONELY), ("", ORPHAN)]) == [LONELY.digest]
    with open_archive(tmp_path / "a.tar") as archive:
        assert archive.find("").descriptor.digest == archive.images[0].descriptor.digest


def test_a_circle_of_tags_leads_to_no_image(tmp_path: Path) -> None:
    one, two = cosign("one"), cosign("two")
    names = [cosign_tag(two.digest), cosign_tag(one.digest)]
    assert images(tmp_path / "a.tar", [(NAME, APP), (names[0], one), (names[1], two)]) == [NAME, *names]


def test_what_cannot_be_read_stays_an_image_and_is_told(tmp_path: Path) -> None:
    """It might refer to anything, so whoever wants all that refers to something cannot have it."""
    path = tmp_path / "a.tar"
    assert images(path, [(NAME, APP), ("", SIGNATURE)], without=[SIGNATURE.digest]) == [NAME, SIGNATURE.digest]
    with open_archive(path) as archive:
        assert archive.referrers([Digest.parse(APP.digest)]) == []
        with pytest.raises(NotFound, match=SIGNATURE.digest):
            list(find_all_referrers(archive.content, [Digest.parse(APP.digest)]))
        assert [problem.id for problem in ArchiveStore(archive).problems] == ["unnamed-image"]
    named = [(NAME, APP), ("docker.io/library/other:1", LONELY), ("", SIGNATURE)]
    assert images(path, named, without=[LONELY.digest]) == [NAME, "docker.io/library/other:1"]
    with open_archive(path) as archive:  # another image's own trouble
        (found,) = find_all_referrers(archive.content, [Digest.parse(APP.digest)])
        assert str(found.descriptor.digest) == SIGNATURE.digest


def test_a_platform_that_was_left_out_is_not_referred_to(tmp_path: Path) -> None:
    bill = artifact(APP.manifest["manifests"][1])
    assert images(tmp_path / "a.tar", [(NAME, APP), ("", bill)], without=[CHILD]) == [NAME, bill.digest]


def test_names_alone_cost_no_look_into_manifests(tmp_path: Path) -> None:
    path = listing(tmp_path / "a.tar", [(NAME, APP)], without=list(APP.blobs))
    with open_archive(path) as archive:
        assert [image.name for image in archive.images] == [NAME]


def test_a_folder_lists_everything_to_who_writes_it(tmp_path: Path) -> None:
    folder = APP.write_layout(tmp_path / "layout", NAME)
    for digest, data in SIGNATURE.blobs.items():
        (folder / f"blobs/{digest.replace(':', '/')}").write_bytes(data)
    with open_archive(folder) as archive:
        assert [image.name for image in archive.images] == [NAME]
    own = LayoutFolder(folder)
    with open_archive(folder) as archive:
        own.tag(SIGNATURE.digest, archive.content.resolve(SIGNATURE.digest))
    with open_archive(folder) as archive:
        assert [image.name for image in archive.images] == [NAME]
        assert archive.find("").name == NAME
    assert len(own.images) == 2


def test_two_images_are_still_two(tmp_path: Path) -> None:
    path = listing(tmp_path / "a.tar", [*SIGNED.entries(NAME), ("docker.io/library/other:1", LONELY)])
    with open_archive(path) as archive, pytest.raises(UsageError, match="has 2 images"):
        archive.find("")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(about=st.lists(st.integers(-2, 7), max_size=8), by_tag=st.lists(st.booleans(), min_size=8, max_size=8))
def test_an_entry_is_an_image_exactly_if_nothing_leads_from_one_to_it(
    tmp_path: Path, about: list[int], by_tag: list[bool]
) -> None:
    """Each refers to the image (-1), to nothing (-2), or to one of those before it."""
    made: list[Image] = []
    entries: list[tuple[str, Image]] = [(NAME, APP)]
    reached: list[bool] = []
    for number, chosen in enumerate(about):
        target = chosen if chosen < number else -1
        subject = APP if target == -1 else LONELY if target == -2 else made[target]
        reached.append(target == -1 or (target >= 0 and reached[target]))
        made.append(cosign(f"{number}") if by_tag[number] else artifact(subject, f"kind-{number}"))
        name = cosign_tag(subject.digest, (".sig", ".att", ".sbom")[number % 3]) if by_tag[number] else ""
        if name in dict(entries) and name:
            made[-1], name = artifact(subject, f"kind-{number}"), ""
        entries.append((name, made[-1]))
    wanted = [
        NAME,
        *(name or image.digest for (name, image), gone in zip(entries[1:], reached, strict=True) if not gone),
    ]
    assert images(tmp_path / "a.tar", entries) == wanted


# ── served ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_shows_them_in_the_repository_of_their_image(tmp_path: Path) -> None:
    other = "quay.io/team/same:2"
    path = listing(tmp_path / "a.tar", [*SIGNED.entries(NAME), (other, APP), ("docker.io/team/lonely:1", LONELY)])
    tag = cosign_tag(APP.digest)
    with open_archive(path) as archive:
        store = ArchiveStore(archive)
        assert store.problems == ()
        for name in ("docker.io/library/app", "library/app", "quay.io/team/same", "team/same"):
            registry, _, repository = name.partition("/") if "." in name else ("", "", name)
            own = store.repository(RepositoryName(repository, registry))
            found = {str(item.descriptor.digest) for item in find_all_referrers(own, SUBJECTS)}
            assert found == SIGNED.referrers
            assert str(own.resolve(tag).digest) == SIGNED.tagged[tag].digest
            assert tag in own.tags()
        assert store.repository(RepositoryName("team/lonely")).tags() == ["1"]


def test_a_store_tells_what_it_cannot_show_of_them(tmp_path: Path) -> None:
    layer = SIGNATURE.manifest["layers"][0]["digest"]
    path = listing(tmp_path / "a.tar", [(NAME, APP), ("", SIGNATURE)], without=[layer])
    with open_archive(path) as archive:
        (problem,) = ArchiveStore(archive).problems
    assert problem.id == "unusable-image"
    assert f"{SIGNATURE.digest}, which refers to {NAME}, is not served" in problem.message
