"""Values that refuse to print themselves, and URLs that are safe to print.

Every secret is a `Secret` from the moment it is read to the moment it goes on the wire; `reveal()` is the only way
to the text, so a search for that word lists every place that handles one.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn
from urllib.parse import quote

MASK = "***"
SHORTEST_MASKED_CHARS: Final = 4  # a shorter secret would mask half of the sentence, and is none
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*@")
_SECRET_QUERY = re.compile(
    r"(?i)([?&;](?:[^=&;]*(?:signature|token|secret|password|credential|key)[^=&;]*|sig|se|x-amz-[^=&;]*)=)[^&;#]*"
)


class Secret:
    """A text that shows itself only to `reveal()`: not by `str`, `repr`, formatting, JSON or pickle."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call it where the secret leaves for the wire or its own file, nowhere else."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self), _bytes(other))

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self


def _bytes(secret: Secret) -> bytes:
    return secret.reveal().encode("utf-8", "surrogatepass")


def without_userinfo(url: str) -> str:
    """`url` as it is requested: nobody's name and password go into a URL that we send or show."""
    return _USERINFO.sub(lambda match: f"{match.group(1) or ''}//", url)


def safe_url(url: str) -> str:
    """`url` without its userinfo and with the values of signing and token parameters masked."""
    masked = _USERINFO.sub(lambda match: f"{match.group(1) or ''}//{MASK}@", url)
    return _SECRET_QUERY.sub(lambda match: match.group(1) + MASK, masked)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text`, which somebody else may have written, with these masked, also as they stand in a URL."""
    known = set(secrets)
    forms = known | {quote(secret, safe="", errors="replace") for secret in known}
    for secret in sorted(forms, key=len, reverse=True):
        if len(secret) >= SHORTEST_MASKED_CHARS:
            text = text.replace(secret, MASK)
    return text
