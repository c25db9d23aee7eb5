"""Where an answer sends us on, and where we do not follow.

As Go's net/http follows GET and HEAD (client.go redirectBehavior), except that a URL is never told a secret of ours.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from pierhead.redact import safe_url, without_userinfo
from pierhead.transport import Cause, TransportError
from pierhead.wire import Response

REDIRECT_LIMIT: Final = 10


def location_of(response: Response) -> str:
    """The Location of an answer that is a redirect; empty if it is none."""
    return response.headers.get("location") if response.status in {301, 302, 303, 307, 308} else ""


def redirected(url: str, location: str, sent: str | None) -> str:
    """Where an answer to `url` sends us on; `sent` is the Authorization that it knows.

    Raises `TransportError` (BAD_URL) for anything but http and https, and for a place that would be told our secret.
    """
    if sent is not None and sent.split(" ")[-1] in unquote(location):
        # It would be told to somebody else, and stand in his log.
        raise TransportError(Cause.BAD_URL, url=url, detail="redirected to a URL that holds our own authorization")
    try:
        target, written = urljoin(url, location), urlsplit(location)
        parts = urlsplit(target)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and location.isprintable()
        usable = usable and (bool(written.netloc) or not written.scheme)  # urljoin takes `https:///x` for `/x`
    except ValueError:
        usable = False
    if not usable:
        raise TransportError(
            Cause.BAD_URL, url=url, detail=f"redirected to an unusable place: {safe_url(location)[:200]!r}"
        )
    return without_userinfo(target.partition("#")[0])
