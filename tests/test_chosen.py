"""One platform is one image: every name of a source stands for the image of that platform."""

from __future__ import annotations

import json

import pytest

from images import make_image, make_index
from pierhead.chosen import chosen
from pierhead.memory import MemoryStore
from pierhead.oci import INDEX_DEPTH_LIMIT, InvalidManifest, NoMatchingPlatform, Platform
from pierhead.store import NotFound, RepositoryName
from pierhead.transfer import Transfer
from stocked import stock

AMD64, ARM64, S390X = (Platform.parse(f"linux/{name}") for name in ("amd64", "arm64", "s390x"))
INDEX = make_image(layers=[700], platforms=["linux/amd64", "linux/arm64"])
NAME = RepositoryName("team/app")


def child(platform: str) -> str:
    """The digest of the item for this architecture."""
    items = json.loads(INDEX.blobs[INDEX.digest])["manifests"]
    return str(next(item["digest"] for item in items if item["platform"]["architecture"] == platform))


def test_one_platform_is_an_image_of_its_own() -> None:
    store, other = MemoryStore(), MemoryStore()
    stock(store, INDEX)
    source, platforms = chosen(store.repository(NAME), [ARM64])
    with Transfer(2) as transfer:
        copied = transfer.copy(source, other.repository(NAME), "1", platforms)
    assert platforms == ()
    assert str(copied.descriptor.digest) == child("arm64")
    assert copied.descriptor.platform is None  # as a registry would describe it
    assert str(other.repository(NAME).resolve("1").digest) == child("arm64")
    with pytest.raises(NotFound):
        other.repository(NAME).resolve(INDEX.digest)
    assert next(other.names()).platforms == ()  # nothing of it is missing


def test_a_digest_stands_for_the_image_too() -> None:
    store = MemoryStore()
    stock(store, INDEX)
    source, _ = chosen(store.repository(NAME), [AMD64])
    assert str(source.resolve(INDEX.digest).digest) == child("amd64")


@pytest.mark.parametrize("platforms", [(), (AMD64, ARM64)], ids=["all", "several"])
def test_several_platforms_are_the_index(platforms: tuple[Platform, ...]) -> None:
    repository = MemoryStore().repository(NAME)
    assert chosen(repository, platforms) == (repository, platforms)


def test_an_image_without_a_choice_is_itself() -> None:
    store = MemoryStore()
    image = make_image()
    stock(store, image)
    assert str(chosen(store.repository(NAME), [S390X])[0].resolve("1").digest) == image.digest


def test_a_platform_that_is_not_offered() -> None:
    store = MemoryStore()
    stock(store, INDEX)
    with pytest.raises(NoMatchingPlatform) as raised:
        chosen(store.repository(NAME), [S390X])[0].resolve("1")
    assert "linux/arm64" in raised.value.hint


def test_an_index_inside_an_index() -> None:
    store = MemoryStore()
    stock(store, make_index(INDEX))
    assert str(chosen(store.repository(NAME), [ARM64])[0].resolve("1").digest) == child("arm64")


def test_indexes_that_are_nested_too_deep() -> None:
    nested = make_image()
    for _ in range(INDEX_DEPTH_LIMIT + 2):
        nested = make_index(nested)
    store = MemoryStore()
    stock(store, nested)
    with pytest.raises(InvalidManifest, match="nested"):
        chosen(store.repository(NAME), [AMD64])[0].resolve("1")
