"""What a runtime can be told of a registries.yaml: files, and what they cannot say.

A renderer is a pure function that gives a `Rendered`; only the command line writes. Nothing is lost in silence: what
the runtime has no words for is in `lost`, at its line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pierhead.errors import Problem
from pierhead.redact import MASK, Secret

PUBLIC_MODE: Final = 0o644
SECRET_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class File:
    """A file to be, at `path` below the output folder; its bytes are `text` or those of the file `copy_of`.

    `secret` says that the text holds credentials: the file gets mode 0600, and nobody prints it.
    """

    path: str
    text: str = field(default="", repr=False)
    secret: bool = False
    copy_of: str | None = None

    @property
    def mode(self) -> int:
        return SECRET_MODE if self.secret else PUBLIC_MODE


@dataclass(frozen=True, slots=True)
class Rendered:
    """The files, in the order they are written, and what is lost or only nearly said.

    A problem of severity "error" is lost: images come from elsewhere, or not at all. A "warning" is an approximation,
    a "note" the rest. `origin` is one line on where the files are from, for their first line.
    """

    origin: str
    files: tuple[File, ...] = ()
    lost: tuple[Problem, ...] = ()

    @property
    def holds_secrets(self) -> bool:
        return any(file.secret for file in self.files)


def origin_line(source: str, runtime: str) -> str:
    """What stands in the first line of a rendered file, without the mark of a comment."""
    return f"Made by pierhead from {source} for {runtime}; make it again instead of editing it"


def commented(origin: str, lost: Iterable[Problem], mark: str = "#") -> str:
    """The head of a file whose format has comments: its origin, and what it cannot say."""
    lines = [origin, *(f"not said here: {_one_line(problem)}" for problem in lost)]
    return "".join(f"{mark} {_printable(line)}\n" for line in lines)


def _printable(line: str) -> str:
    """No format takes control characters in a comment, nor bytes that are not UTF-8; a line break would end it."""
    return "".join(character if character.isprintable() else "\ufffd" for character in line)


def yaml_key(written: str) -> list[str]:
    """The lines of a mapping's key as written, colon included; a long one needs YAML's other way of writing keys.

    YAML 1.1 ends the search for the colon after 1024 characters (section 7.4.2 of 1.2 says the same).
    """
    return [f"{written}:"] if len(written) <= _KEY_LIMIT_CHARS else [f"? {written}", ":"]


_KEY_LIMIT_CHARS: Final = 1000


def _one_line(problem: Problem) -> str:
    place = f" (line {problem.span.line})" if problem.span and problem.span.line else ""
    return " ".join(problem.message.split()) + place


def toml_string(text: str) -> str:
    """A TOML basic string that every parser reads as `text`; bytes that are not UTF-8, which TOML lacks, are U+FFFD."""
    return '"' + "".join(map(_toml_character, _replaced(text))) + '"'


def is_text(text: str) -> bool:
    """Whether `text` is UTF-8 throughout: what else YAML can hold (surrogate escapes), few formats can."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _replaced(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


def _toml_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return f"\\u{ord(character):04X}" if character < " " or "\x7f" <= character <= "\x9f" else character


def revealed(secret: Secret | None) -> str:
    """The text of a secret that goes into its own file; the only place of the renderers that reads one."""
    return secret.reveal() if secret is not None else ""


def masked(file: File) -> str:
    """What may be printed of a file."""
    return MASK if file.secret else file.text
