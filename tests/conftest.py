"""Fixtures that several test modules share."""

from __future__ import annotations

import pytest

from pki import Pki, make_pki

pytest_plugins = ["plugin_components"]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA and certificates of every kind, made once."""
    return make_pki(tmp_path_factory.mktemp("pki"))
