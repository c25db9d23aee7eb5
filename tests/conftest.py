"""Fixtures that several test modules share."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks import mount, unmount
from pierhead.transport import CurlTransport, Exchange
from pki import Pki, make_pki, make_vector_pki

pytest_plugins = ["plugin_components", "plugin_summaries"]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA and certificates of every kind, made once."""
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def exchanges() -> list[Exchange]:
    """What `transport` tells of its exchanges."""
    return []


@pytest.fixture
def transport(exchanges: list[Exchange]) -> Iterator[CurlTransport]:
    """A client on real sockets, with nothing of the environment."""
    transport = CurlTransport(on_exchange=exchanges.append)
    yield transport
    transport.close()


@pytest.fixture(scope="session")
def vector_pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates that the recorded cases name `{pki}`."""
    folder = tmp_path_factory.mktemp("vector-pki")
    make_vector_pki(folder)
    return folder


@pytest.fixture(scope="session")
def closed_port() -> Iterator[str]:
    """A place where nobody listens: bound, so that nobody else does either."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; for root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=2m")
    yield folder
    unmount(folder)
