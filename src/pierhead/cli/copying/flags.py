"""Options that say what of an image is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def selection(command: F) -> F:
    """--platform and --referrers; `running.wanted_of` reads them."""
    for option in (
        click.option(
            "--referrers", is_flag=True, help="Copy what refers to the image too: signatures, SBOMs, attestations."
        ),
        click.option(
            "--platform",
            "platforms",
            multiple=True,
            metavar="OS/ARCH[/VARIANT]",
            help="A platform to take out of an index; repeatable. One alone becomes an image of its own. "
            "Default: `all`, or what there is of it.",
        ),
    ):
        command = option(command)
    return command
