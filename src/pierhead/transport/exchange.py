"""What went over the wire and how long it took, without what is secret: the lines of `--trace`."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote

from pierhead.redact import MASK, safe_url
from pierhead.transport.failure import Cause
from pierhead.wire import Timings

_SECRET_HEADER: Final = re.compile(
    r"(?i)authorization|cookie|token|secret|signature|credential|password|api-?key|registry-(auth|config)$"
)
SHORTEST_MASKED_CHARS: Final = 4  # a shorter one is no secret, and would mask half of every line
_USERINFO: Final = re.compile(r"//[^/?#\s\"'<>]*@")  # of a URL anywhere in a value: a realm, a link
_SCHEME: Final = re.compile(r"(?i)(basic|bearer|digest|negotiate)\s")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it, told when its body has ended or was given up.

    Headers are those of the request as it was given, and of the last answer; bodies are never recorded, secrets are
    masked. `cause` and `detail` say why there was no (whole) answer; `peer` is the address that was connected to.
    """

    method: str
    url: str
    status: int | None
    request_headers: tuple[tuple[str, str], ...]
    response_headers: tuple[tuple[str, str], ...]
    timings: Timings
    received_bytes: int
    sent_bytes: int
    reused: bool
    peer: str
    cause: Cause | None = None
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; times in seconds."""
        data = asdict(self)
        data["cause"] = self.cause.value if self.cause else None
        data["timings"] = {name: round(seconds, 6) for name, seconds in data["timings"].items()}
        for key in ("request_headers", "response_headers"):
            data[key] = [list(pair) for pair in data[key]]
        return data


def masked(headers: Iterable[tuple[str, str]], *, sent: str = "") -> tuple[tuple[str, str], ...]:
    """Headers with the values of credentials, cookies and signed URLs masked; the scheme of a credential stays.

    `sent` is the Authorization that went out: an answer may repeat it, or the password in it, anywhere.
    """
    forms = sorted(_forms(sent), key=len, reverse=True)
    return tuple((name, _without(_masked_value(name, value), forms)) for name, value in headers)


def _without(text: str, forms: Iterable[str]) -> str:
    for form in forms:
        text = text.replace(form, MASK)
    return text


def _forms(sent: str) -> set[str]:
    """How a credential may look when somebody repeats it."""
    scheme, _, value = sent.partition(" ")
    found = {value}
    if scheme.lower() == "basic":
        with suppress(ValueError):
            found.add(base64.b64decode(value).decode("utf-8", "replace").partition(":")[2])
    return {form for text in found if len(text) >= SHORTEST_MASKED_CHARS for form in (text, quote(text, safe=""))}


def _masked_value(name: str, value: str) -> str:
    if not _SECRET_HEADER.search(name):
        return safe_url(_USERINFO.sub(f"//{MASK}@", value))
    scheme = _SCHEME.match(value)
    return f"{scheme[1]} {MASK}" if scheme else MASK
