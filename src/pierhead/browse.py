"""What a registry has: its repositories, and the tags of one, as conversations.

Follows the OCI distribution specification 1.1, "Listing Tags", and `_catalog` of CNCF distribution. A list comes in
pages, each naming the next in a Link header; what a registry may make us read is limited, and what it gives as a name
and is none is left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin

from pierhead.ask import GivenUp, Manner, Memory, ask
from pierhead.auth import AuthorizationFailed, BadCredential, Steps
from pierhead.body import BodyTooLarge, read_all
from pierhead.errors import ExitCode, PierheadError
from pierhead.gourl import InvalidUrl
from pierhead.redact import safe_url
from pierhead.reference import HUB, is_repository
from pierhead.refusal import Refusal, status_hint
from pierhead.routing import Route
from pierhead.store import InvalidName, parse_reference
from pierhead.transport import TransportError
from pierhead.wire import Call, Endpoint, Headers, Request, Response, next_link, one_line

PAGE_ITEMS: Final = 1000  # the most that CNCF distribution gives; it refuses to be asked for more
PAGE_LIMIT_BYTES: Final = 32 * 1024 * 1024  # some registries know no pages
PAGES_LIMIT: Final = 10_000
NAMES_LIMIT: Final = 1_000_000
CATALOG_SCOPE: Final = "registry:catalog:*"
_HUB_HOST: Final = "registry-1.docker.io"


class NotListed(PierheadError):
    """A registry does not give the list: an answer that refuses (`status`), none at all, or one that is no list."""

    def __init__(self, message: str, *, hint: str = "", status: int | None = None, exit_code: ExitCode) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Listed:
    """The names in lexical order, each once; `refused` are some that are no names, of `refused_count` in all.

    The specification has them in that order; distribution 2.8 gives tags as its disk has them.
    """

    names: tuple[str, ...]
    refused: tuple[str, ...] = ()
    refused_count: int = 0


def repositories(memory: Memory, route: Route) -> Steps[Listed]:
    """The repositories of a registry; raises `NotListed`. Needs a token for the catalog where one is needed at all."""
    what = f"the repositories of {_registry(route)}"
    listing = _Listing(memory, route, what, Endpoint.CATALOG, "repositories", is_repository, (CATALOG_SCOPE,))
    return (yield from _listed(listing))


def tags(memory: Memory, route: Route) -> Steps[Listed]:
    """The tags of the repository of a route; raises `NotListed`."""
    what = f"the tags of {_registry(route)}/{route.repository}"
    listing = _Listing(memory, route, what, Endpoint.TAGS, "tags", _is_tag)
    return (yield from _listed(listing))


def _registry(route: Route) -> str:
    return HUB if route.host == _HUB_HOST else route.host


def _is_tag(text: str) -> bool:
    try:
        return text == parse_reference(text)
    except (InvalidName, PierheadError):
        return False


@dataclass(frozen=True, slots=True)
class _Listing:
    """What is listed, and how it is told from what is not."""

    memory: Memory
    route: Route
    what: str
    endpoint: Endpoint
    key: str
    is_name: Callable[[str], bool]
    scopes: tuple[str, ...] = ()

    def failed(self, reason: str, *, hint: str = "", status: int | None = None, code: ExitCode) -> NotListed:
        message = f"{self.what} cannot be listed: {self.memory.masked(reason)}"
        return NotListed(message, hint=self.memory.masked(hint), status=status, exit_code=code)

    def unanswered(self, error: PierheadError) -> NotListed:
        reason = error.message.removeprefix(f"{self.route.host}: ")
        return self.failed(reason, hint=error.hint, code=error.exit_code)

    def refused(self, request: Request, response: Response) -> NotListed:
        url = self.memory.shown_url((response.request or request).url)
        refusal = Refusal.of(response, request.method, url, masked=self.memory.masked)
        code = _CODES.get(response.status, ExitCode.FAILED)
        return self.failed(refusal.told, hint=self._hint(response.status), status=response.status, code=code)

    def _hint(self, status: int) -> str:
        if self.endpoint is not Endpoint.CATALOG:
            if status == 404:
                return (
                    f"{_registry(self.route)} has no repository {self.route.repository!r}, or shows it to others only"
                )
            return status_hint(self.route, status)
        if self.route.host == _HUB_HOST:
            return "Docker Hub tells nobody what it has; name a repository, as in docker.io/library/busybox"
        if status in {404, 405}:
            return f"not every registry has a catalog; name a repository, as in {self.route.host}/team/app"
        if status in {401, 403}:
            return f"{self.route.host} shows its catalog to few, or to nobody; log in as another, or name a repository"
        return status_hint(self.route, status)


_CODES: Final = {401: ExitCode.NOT_AUTHORISED, 403: ExitCode.NOT_AUTHORISED, 404: ExitCode.NOT_FOUND}


def _listed(listing: _Listing) -> Steps[Listed]:
    found = _Names(listing)
    call = Call(listing.endpoint, "GET", listing.route.repository, query=(("n", str(PAGE_ITEMS)),))
    url: str | None = f"{listing.route.origin}{call.target(listing.route.path)}"
    seen: set[str] = set()
    while url is not None:
        if url in seen or len(seen) >= PAGES_LIMIT:
            why = "its pages go round in a circle" if url in seen else f"there are more than {PAGES_LIMIT} pages"
            raise listing.failed(why, code=ExitCode.FAILED)
        seen.add(url)
        url = yield from _page(listing, url, found)
    return found.listed()


def _page(listing: _Listing, url: str, found: _Names) -> Steps[str | None]:
    """Read one page; the URL of the next, None after the last."""
    request = Request("GET", url, Headers([("Accept", "application/json")]))
    try:
        asking = ask(listing.memory, listing.route, request, last_route=True, manner=Manner(scopes=listing.scopes))
        with (yield from asking) as response:
            if not response.ok:
                raise listing.refused(request, response)
            found.take(_document(listing, response))
            return _next(listing, response, (response.request or request).url)
    except (TransportError, AuthorizationFailed, BadCredential, GivenUp, InvalidUrl) as error:
        raise listing.unanswered(error) from None


def _document(listing: _Listing, response: Response) -> Iterator[object]:
    """The names of a page, whatever they are. A repository whose tags are all gone has `null`, in distribution."""
    try:
        text = read_all(response.body, PAGE_LIMIT_BYTES).decode("utf-8", "replace")
        value: Any = json.loads(listing.memory.masked(text))  # a name may be what it knows from us
        names = value[listing.key]
    except BodyTooLarge:
        raise listing.failed(f"a page has more than {PAGE_LIMIT_BYTES} bytes", code=ExitCode.FAILED) from None
    except (ValueError, TypeError, KeyError, RecursionError):
        names = ()
    if names is not None and not isinstance(names, list):
        hint = f"is {listing.route.host} a registry, and is nothing in between that answers for it?"
        raise listing.failed(f"its answer is no list of {listing.key}", hint=hint, code=ExitCode.FAILED)
    return iter(names or ())


def _next(listing: _Listing, response: Response, url: str) -> str | None:
    """Where the next page is. A registry that does not know it stands behind TLS calls itself http: we stay with https.

    Nobody is asked for a page who is not who gave the last one.
    """
    link = next_link(response.headers)
    if link is None:
        return None
    asked = Request("GET", url)
    try:
        target = Request("GET", urljoin(url, link))
    except ValueError:
        target = Request("GET", "")
    if target.authority != asked.authority or not target.url.isascii() or not target.url.isprintable():
        shown = one_line(safe_url(link), 200)
        raise listing.failed(f"its next page is said to be somewhere else, {shown!r}", code=ExitCode.FAILED)
    return f"{asked.origin}{target.target.partition('#')[0]}"


class _Names:
    """The names so far, and what was given for one and is none."""

    SHOWN: Final = 3
    SHOWN_CHARS: Final = 60

    def __init__(self, listing: _Listing) -> None:
        self._listing = listing
        self._names: dict[str, None] = {}
        self._refused: list[str] = []
        self._refused_count = 0

    def take(self, names: Iterator[object]) -> None:
        for name in names:
            if isinstance(name, str) and self._listing.is_name(name):
                self._names[name] = None
            else:
                self._refuse(name)
            if len(self._names) + self._refused_count > NAMES_LIMIT:
                raise self._listing.failed(f"there are more than {NAMES_LIMIT} names", code=ExitCode.FAILED)

    def listed(self) -> Listed:
        return Listed(tuple(sorted(self._names)), tuple(self._refused), self._refused_count)

    def _refuse(self, name: object) -> None:
        self._refused_count += 1
        if len(self._refused) < self.SHOWN:
            self._refused.append(ascii(name[: self.SHOWN_CHARS]) if isinstance(name, str) else type(name).__name__)
