"""The rules, by what they look at. A new module is named in `MODULES`; a rule is added by writing it."""

from __future__ import annotations

import importlib
from typing import Final

MODULES: Final = (
    "syntax",
    "types",
    "structure",
    "placement",
    "keys",
    "wellknown",
    "endpoints",
    "configs",
    "mirrors",
    "entries",
    "wildcard",
    "rewrites",
    "foreign",
    "repositories",
    "egress",
    "images",
    "credentials",
    "tls",
    "certificates",
    "places",
    "versions",
)


def load() -> None:
    """Imports every module of rules, which fills `check.rule.RULES`."""
    for name in MODULES:
        importlib.import_module(f"pierhead.check.rules.{name}")
