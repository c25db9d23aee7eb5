"""Where a key stands in a TOML or JSON file, for the places of problems; as near as a look at single lines can tell."""

from __future__ import annotations

import json
import re

from pierhead.config import toml
from pierhead.errors import Span

Path = tuple[str, ...]  # keys from the root; an element of an array of tables has its number after its name

_ASSIGNED = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"\\]*\"|'[^']*')\s*=")


class TomlPlaces:
    """The lines of a TOML file by the keys that stand there."""

    def __init__(self, data: bytes, file: str) -> None:
        self.file = file
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        table: Path = ()
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if line.lstrip().startswith("["):
                table = self._table(line) or table
                self._lines.setdefault(table, number)
            elif found := _ASSIGNED.match(line):
                self._lines.setdefault((*table, found[1].strip("\"'")), number)

    def _table(self, line: str) -> Path | None:
        """The path of a header, its arrays of tables numbered; None for a line that is none."""
        try:
            expression = next(toml.expressions(line.encode()), None)
        except toml.InvalidToml:
            return None
        if expression is None or expression.kind == "value":
            return None
        path: Path = ()
        for index, part in enumerate(expression.key):
            path = (*path, part)
            if expression.kind == "array table" and index == len(expression.key) - 1:
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = (*path, str(self._counts[path]))
        return path

    def span(self, *path: str) -> Span:
        """Where this key stands, or what holds it, or the file's first line."""
        while path and path not in self._lines:
            path = path[:-1]
        return Span(self.file, self._lines.get(path, 1))


class JsonPlaces:
    """The lines of a JSON file by a word that stands there."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._text = text

    def span(self, word: str, *, after: str = "") -> Span:
        """Where `word` first stands as a string, behind the key `after` if that is given; else the first line."""
        start = self._find(after, r"\s*:", 0) if after else 0
        at = self._find(word, "", start)
        if at < 0:
            return Span(self.file, 1)
        return Span(self.file, self._text.count("\n", 0, at) + 1, at - self._text.rfind("\n", 0, at))

    def _find(self, word: str, behind: str, start: int) -> int:
        found = re.compile(re.escape(json.dumps(word, ensure_ascii=False)) + behind).search(self._text, max(start, 0))
        return found.start() if found else -1
