"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pierhead.transport import CurlTransport, Exchange
from pki import Pki, make_pki

pytest_plugins = ["plugin_components"]


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
