"""A list of images, one name on a line: k3s-images.txt, rke2-images.*.txt, or what `crictl images -q` was piped into.

Blank lines and what stands after a `#` are left out, line ends may be those of Windows, an image that is listed twice
counts once. A line that is no image becomes a `Problem` with its place; the others are read all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pierhead.errors import Problem, Span, UsageError
from pierhead.redact import safe_url
from pierhead.reference import InvalidReference, Reference

LIST_LIMIT_BYTES: Final = 16 * 1024 * 1024
_LOOKED_AT_BYTES: Final = 1024
LINES_LIMIT: Final = 200_000
LINE_LIMIT_CHARS: Final = 4096  # far above the longest reference with a sha512 digest

_URL: Final = re.compile(r"(?i)https?://")

Fetch = Callable[[str], bytes]
"""What a URL gives: at most `LIST_LIMIT_BYTES` + 1 bytes; raises `PierheadError`."""


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image of a list: what it means, where it stands (the first time), and how it is written there.

    The span's end is that of the name.
    """

    reference: Reference
    span: Span
    text: str


def read_list(text: str, file: str) -> tuple[tuple[ListedImage, ...], tuple[Problem, ...]]:
    """The images of `text` in order, each once, and the lines that name none. Raises `UsageError` for too many lines.

    `file` is how the user named it, or "-".
    """
    lines = text.removeprefix("\ufeff").split("\n")
    if len(lines) > LINES_LIMIT:
        raise UsageError(f"{file} has {len(lines)} lines; the limit is {LINES_LIMIT}", hint="split the list")
    images: dict[Reference, ListedImage] = {}
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        name = line.split("#", 1)[0].strip() if "#" in line else line.strip()
        if not name:
            continue
        column = line.index(name) + 1
        span = Span(file, number, column, number, column + len(name))
        try:
            reference = _parse(name)
        except InvalidReference as error:
            message = f"{error.message}. {error.hint.rstrip('.')}"
            problems.append(Problem("invalid-image", "error", message, span))
        else:
            images.setdefault(reference, ListedImage(reference, span, name))
    return tuple(images.values()), tuple(problems)


def load_list(
    file: str, standard_input: IO[bytes], fetch: Fetch | None = None
) -> tuple[tuple[ListedImage, ...], tuple[Problem, ...]]:
    """As `read_list`, of a file, of `standard_input` if that is "-", or of what a URL gives to `fetch`.

    Raises `UsageError`, and what `fetch` raises. Without `fetch` a URL is an error: the command uses no network.
    """
    is_url = _URL.match(file) is not None
    shown = safe_url(file) if is_url else file
    data = _fetched(file, shown, fetch) if is_url else _read(file, standard_input)
    if len(data) > LIST_LIMIT_BYTES:
        raise UsageError(f"the list of images {shown} is larger than {LIST_LIMIT_BYTES} bytes")
    if b"\0" in data[:_LOOKED_AT_BYTES]:  # a thousand complaints about its lines would hide what is wrong
        hint = "write one image a line, in UTF-8 (PowerShell's > writes UTF-16); a tarball is for `pierhead load`"
        raise UsageError(f"the list of images {shown} is no text: there are zero bytes in it", hint=hint)
    # What is no UTF-8 is in no image's name: it spoils its own line only.
    return read_list(data.decode("utf-8", "replace"), shown)


def _read(file: str, standard_input: IO[bytes]) -> bytes:
    if file == "-":
        return standard_input.read(LIST_LIMIT_BYTES + 1)
    try:
        with Path(file).open("rb") as opened:
            return opened.read(LIST_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the list of images {file} cannot be read: {reason}") from None


def _fetched(url: str, shown: str, fetch: Fetch | None) -> bytes:
    if fetch is None:
        raise UsageError(
            f"the list of images {shown} is a URL, and this command uses no network",
            hint="fetch it first, as `curl -fsSL URL`, and give the file, or - for standard input",
        )
    return fetch(url)


def _parse(name: str) -> Reference:
    if len(name) > LINE_LIMIT_CHARS:
        hint = "write one image on each line"
        raise InvalidReference(name, "it is too long", hint=hint, go_text="invalid reference format")
    return Reference.parse(name)
