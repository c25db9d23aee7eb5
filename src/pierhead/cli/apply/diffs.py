"""What changes in a file, as it may be shown: secrets masked, nothing that moves a terminal's cursor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import unified_diff
from typing import Final

from pierhead.apply.journal import Change
from pierhead.apply.tree import Content
from pierhead.redact import MASK

_USERINFO: Final = re.compile(r"//[^/\s\"'@]*@")
_HEADERS: Final = re.compile(r"^\s*\[.*\bheader\s*\]")
_TABLE: Final = re.compile(r"^\s*\[[^\[]")
_NAMED: Final = re.compile(
    r"""(?ix) (?P<key> ["']? [\w.-]*
        (?: authori[sz]ation | pass(?:word|wd)? | token | secret | \bauth | header ) ["']? \s* [=:] ) .* $"""
)


def difference(change: Change, *, secret: bool) -> list[str]:
    """The lines of a unified diff; of a file that is secret only that it changes."""
    old_name = change.path if change.old else "/dev/null"
    new_name = change.path if change.new else "/dev/null"
    old, new = shown(change.old), shown(change.new)
    head = [f"--- {printable(old_name)}", f"+++ {printable(new_name)}"]
    if secret:
        return [*head, f"@@ {MASK} (holds credentials, not shown) @@"]
    if old == new:
        modes = change.old and change.new and change.old.data == change.new.data
        return [*head, "@@ only its mode changes @@" if modes else f"@@ only what is masked ({MASK}) changes @@"]
    return [*head, *list(unified_diff(old, new, lineterm=""))[2:]]


def shown(content: Content | None) -> list[str]:
    """The lines of a file as they may be printed."""
    if content is None:
        return []
    text = content.data.decode("utf-8", "replace")
    return list(_masked(text.removesuffix("\n").split("\n"))) if text else []


def _masked(lines: list[str]) -> Iterator[str]:
    in_headers = False
    for line in lines:
        if _TABLE.match(line):
            in_headers = bool(_HEADERS.match(line))
            yield _line(line)
        elif in_headers and line.strip():
            yield _line(f"{line.partition('=')[0].rstrip()} = {MASK}" if "=" in line else MASK)
        else:
            yield _line(line)


def _line(line: str) -> str:
    without_userinfo = _USERINFO.sub(f"//{MASK}@", line)
    return printable(_NAMED.sub(lambda found: f"{found['key']} {MASK}", without_userinfo))


def printable(text: str) -> str:
    """`text` without what a terminal would act on."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
