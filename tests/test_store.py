"""The contract of stores, kept by both: in memory and on disk; and what the two have in common beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pierhead.body import read_all
from pierhead.layout import LayoutStore
from pierhead.memory import MemoryStore
from pierhead.store import ContentMismatch, NotFound, Repository, RepositoryName, Store
from store_contract import LIMIT, StoreContract, blob_of, pieces


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestLayoutStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LayoutStore(tmp_path / "root")


@pytest.fixture(params=["memory", "layout"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    store: Store = MemoryStore() if request.param == "memory" else LayoutStore(tmp_path / "root")
    return store.repository(RepositoryName("app", "docker.io"))


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Some bytes, and the same with one byte changed, cut off or added, or with an end cut off."""
    data = draw(st.binary(min_size=1, max_size=300))
    position = draw(st.integers(0, len(data) - 1))
    changed = data[:position] + bytes([data[position] ^ draw(st.integers(1, 255))]) + data[position + 1 :]
    added = data[:position] + draw(st.binary(min_size=1, max_size=9)) + data[position:]
    return data, draw(st.sampled_from([changed, added, data[:position], data[position + 1 :]]))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=spoiled(), cut=st.integers(1, 100))
def test_spoiled_bytes_are_refused_and_never_visible(
    repository: Repository, case: tuple[bytes, bytes], cut: int
) -> None:
    """Law 5."""
    data, wrong = case
    descriptor = blob_of(data)
    if repository.has(descriptor):
        return  # an example that came before

    def send(bytes_: bytes) -> None:
        with repository.upload(descriptor) as upload:
            for piece in pieces(bytes_, cut):
                upload.write(piece)
            upload.commit()

    with pytest.raises(ContentMismatch):
        send(wrong)
    assert not repository.has(descriptor)
    with pytest.raises(NotFound):
        repository.blob(descriptor)
    with repository.upload(descriptor) as upload:
        assert upload.offset == 0


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_upload_in_any_number_of_tries(repository: Repository, data: bytes, cuts: list[int]) -> None:
    """Law 6: what was written is not asked for again."""
    descriptor = blob_of(data)
    if repository.has(descriptor):
        return
    written = 0
    for cut in sorted(min(cut, len(data)) for cut in cuts):
        with repository.upload(descriptor) as upload:
            assert upload.offset == written
            upload.write(data[written:cut])
            written = cut
    with repository.upload(descriptor) as upload:
        upload.write(data[upload.offset :])
        upload.commit()
    assert read_all(repository.blob(descriptor), LIMIT) == data
