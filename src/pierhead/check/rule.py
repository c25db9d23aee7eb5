"""A rule: one small function that looks at a `Subject` and yields hits, and what people should know about it.

The long form is the function's docstring; `bad` and `good` are whole files that a test runs the rule on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pierhead.check.finding import Hit
from pierhead.check.subject import Subject
from pierhead.errors import Severity

Look = Callable[[Subject], Iterator[Hit]]
THREAD: Final = "https://github.com/{}/issues/{}"
DOCUMENTATION: Final = "https://docs.k3s.io/installation/private-registry"


@dataclass(frozen=True, slots=True)
class Example:
    """A registries.yaml and what it is checked with; `{here}` in it is the folder that it is in.

    `flags` are those of the command line ("--k3s-version v1.20.4"), with `{here}` too; `images` is a list of them;
    `files` are files beside it: what they hold by their name, where `<ca>`, `<client certificate>` and the like stand
    for what a test makes. `name` is the file's own; `mode` is that of all of them.
    """

    yaml: str
    flags: tuple[str, ...] = ()
    images: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    name: str = "registries.yaml"
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class Rule:
    """`id` ("R004") and `name` ("config-matches-no-endpoint") are stable. `sources`: threads ("k3s-io/k3s#11185"),
    URLs, or places of the behaviour's description; the first is where the finding points to."""

    id: str
    name: str
    severity: Severity
    look: Look
    bad: Example
    good: Example
    sources: tuple[str, ...]

    @property
    def title(self) -> str:
        """One line: what is wrong."""
        return self._text[0]

    @property
    def about(self) -> str:
        """Why it is wrong, and what happens."""
        return "\n".join(self._text[1:]).strip()

    @property
    def url(self) -> str:
        """Where a finding points to: its first source."""
        return source_url(self.sources[0]) if self.sources else DOCUMENTATION

    @property
    def _text(self) -> list[str]:
        return inspect.cleandoc(self.look.__doc__ or "").split("\n")


def source_url(source: str) -> str:
    """Where a source can be read: a thread's page, or the documentation of registries.yaml."""
    repository, hash_, number = source.partition("#")
    if source.startswith("https://"):
        return source
    return THREAD.format(repository, number) if hash_ and repository.count("/") == 1 else DOCUMENTATION


RULES: Final[dict[str, Rule]] = {}  # by id, filled by the modules of `check.rules`


def rule(
    id: str,
    name: str,
    severity: Severity,
    *,
    bad: Example | str,
    good: Example | str,
    sources: tuple[str, ...],
) -> Callable[[Look], Look]:
    """Makes a function a rule of the check."""

    def add(look: Look) -> Look:
        if id in RULES:
            raise ValueError(f"two rules are called {id}: {RULES[id].name} and {name}")
        RULES[id] = Rule(id, name, severity, look, _example(bad), _example(good), sources)
        return look

    return add


def _example(given: Example | str) -> Example:
    return Example(given) if isinstance(given, str) else given
