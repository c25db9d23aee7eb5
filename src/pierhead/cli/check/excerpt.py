"""The lines of a registries.yaml that may be shown: what could be a secret is masked before anything is printed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from pierhead.check.source import Entry, Source
from pierhead.errors import Span
from pierhead.redact import MASK

WIDTH_LIMIT: Final = 160  # of a line that is shown; what is underlined stays in sight
_CONTEXT: Final = 40

_SECRET_KEYS: Final = frozenset(
    {"password", "pass", "passwd", "auth", "identity_token", "identitytoken", "token", "registrytoken", "secret"}
)
# Where the text cannot be parsed, whatever follows such a word on its line may be one; so may all of a user's part.
_SECRET_TEXT: Final = re.compile(
    r"""(?ix) ["']? \w* (?: pass\w* | token | secret | \bauth ) ["']? \s* [:=] \s* (?P<value> [^\s\#{\[].*? ) \s* $"""
)
_PEM: Final = ("-----BEGIN", "LS0tLS1CRUdJTi")  # where a path is expected, some paste the key itself, or its base64
_USERINFO: Final = re.compile(r"//(?P<value>[^/\s\"'@]*(?::[^\s\"']*)?)@")


@dataclass(frozen=True)
class Excerpts:
    """What may be shown of a source."""

    source: Source
    _known: dict[int, list[tuple[int, int]]] = field(default_factory=dict, repr=False)

    @cached_property
    def _secrets(self) -> dict[int, list[tuple[int, int]]]:
        """By line, the columns that hold values below `auth` and the like, as far as the file can be parsed."""
        found: dict[int, list[tuple[int, int]]] = {}
        for entry in self.source.entries:
            if entry.value.kind == "scalar" and _is_secret(entry):
                start, end = self.source.range(entry.value.span)
                for line in range(self.source.place(start)[0], self.source.place(end)[0] + 1):
                    first = self.source.offset(line, 1)
                    last = first + len(self.source.line(line))
                    if max(start, first) < min(end, last):
                        found.setdefault(line, []).append((max(start, first) - first, min(end, last) - first))
        return found

    def hidden(self, number: int) -> list[tuple[int, int]]:
        """The columns of a line, from 0, that are not shown, in order and apart from each other."""
        line = self.source.line(number)
        spans = list(self._secrets.get(number, ()))
        spans += [found.span("value") for found in _USERINFO.finditer(line)]
        if self.source.root is None:
            spans += [found.span("value") for found in _SECRET_TEXT.finditer(line)]
        merged: list[tuple[int, int]] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            elif start < end:
                merged.append((start, end))
        return merged

    def line(self, number: int) -> str:
        """A line as it may be shown."""
        return self._shown(number)[0]

    def text(self) -> list[str]:
        """Every line as it may be shown; behind the last line break there is none."""
        lines = [self.line(number) for number in range(1, self.source.lines + 1)]
        return lines if lines[-1] else lines[:-1]

    def underlined(self, span: Span) -> tuple[str, str]:
        """The first line of a span, and what to print under it."""
        shown, columns = self._shown(span.line)
        start = columns[min(span.column - 1, len(columns) - 1)]
        end_column = span.end_column if span.end_line == span.line else len(columns)
        end = max(columns[min(max(end_column - 1, 0), len(columns) - 1)], start + 1)
        start_shown = max(0, min(start - _CONTEXT, len(shown) - WIDTH_LIMIT))
        cut = shown[start_shown : start_shown + WIDTH_LIMIT]
        lead = "…" if start_shown else ""
        tail = "…" if start_shown + WIDTH_LIMIT < len(shown) else ""
        width = max(1, min(end, start_shown + WIDTH_LIMIT) - start)
        return f"{lead}{cut}{tail}", " " * (len(lead) + start - start_shown) + "^" * width

    def _shown(self, number: int) -> tuple[str, list[int]]:
        """A line with its secrets masked, and for each column of the file (from 0, the end included) the one shown."""
        line = self.source.line(number)
        shown = ""
        columns: list[int] = []
        position = 0
        for start, end in [*self.hidden(number), (len(line), len(line))]:
            for character in line[position:start]:
                columns.append(len(shown))
                shown += (
                    character
                    if character.isprintable()
                    else (" " if character == "\t" else "\N{REPLACEMENT CHARACTER}")
                )
            if start < end:
                columns += [len(shown)] * (end - start)
                shown += MASK
            position = end
        return shown, [*columns, len(shown)]


def _is_secret(entry: Entry) -> bool:
    """Whether an entry's value may be one: named so, a pasted key, or below `auth` anything but the user's name."""
    words = [word.lower() for word in entry.path if isinstance(word, str)]
    if entry.value.value.lstrip().startswith(_PEM):
        return True
    if not words or words[-1] == "username":
        return False
    return words[-1] in _SECRET_KEYS or "auth" in words[:-1] or words[0] == "auths"
