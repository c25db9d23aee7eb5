"""The images that a command is told of: on its command line, and in lists, which may stand behind a URL."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import click

from pierhead.cli.options import USER_AGENT
from pierhead.cli.paths import refuse_path
from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.image_list import LIST_LIMIT_BYTES, Fetch, load_list
from pierhead.redact import safe_url, without_userinfo
from pierhead.reference import Reference, tag_beside_digest

if TYPE_CHECKING:
    from pierhead.auth import Credential
    from pierhead.cli.world import World
    from pierhead.config.registries import Config
    from pierhead.errors import Problem
    from pierhead.transport import Options, Timeouts, Transport
    from pierhead.wire import Response

_CODES: Final = {
    401: ExitCode.NOT_AUTHORISED,
    403: ExitCode.NOT_AUTHORISED,
    404: ExitCode.NOT_FOUND,
    410: ExitCode.NOT_FOUND,
}

# `@LISTS` gives a command `lists`, a tuple for `read_images`.
LISTS = click.option(
    "--images",
    "lists",
    multiple=True,
    metavar="LIST",
    help="Images from a file or URL too, one a line (- is standard input); repeatable.",
)


def read_images(
    images: Sequence[str], lists: Sequence[str], fetch: Fetch | None = None
) -> tuple[list[Reference], list[Problem]]:
    """As `read_tagged`, the images alone."""
    tagged, problems = read_tagged(images, lists, fetch)
    return list(tagged), problems


def read_tagged(
    images: Sequence[str], lists: Sequence[str], fetch: Fetch | None = None
) -> tuple[dict[Reference, str], list[Problem]]:
    """The images of the command line, then those of the lists, each once; and the lines of the lists that name none.

    Each with the tag that stood beside its digest, empty if none did. A list is a file, "-", or an http(s) URL for
    `fetch` (`fetching` makes one; None: a URL is an error). Raises `InvalidReference` for the command line, and
    `PierheadError` for a list that cannot be read.
    """
    for image in images:
        refuse_path(
            image, f"`pierhead load {image}` brings what is in it into the store; `pierhead inspect {{}}` shows it"
        )
    named = [(Reference.parse(image), image) for image in images]
    problems: list[Problem] = []
    for file in lists:
        listed, wrong = load_list(file, sys.stdin.buffer, fetch)
        named += [(item.reference, item.text) for item in listed]
        problems += wrong
    tagged: dict[Reference, str] = {}
    for reference, text in named:
        tagged[reference] = tagged.get(reference) or tag_beside_digest(text)
    return tagged, problems


def fetching(world: World, transport: Transport, timeouts: Timeouts) -> Fetch:
    """A `Fetch` over this transport, with the TLS settings that `configs` has for a list's host.

    A name and password of `configs` are told to that very host only, and only if it asks for them with Basic.
    """
    configs = world.hosts.config.configs if world.hosts is not None else {}
    return _Fetching(transport, timeouts, configs).fetch


class ListUnavailable(PierheadError):
    """A list's URL was asked, and gives no list."""

    def __init__(self, url: str, reason: str, *, exit_code: ExitCode = ExitCode.FAILED, hint: str = "") -> None:
        super().__init__(f"the list of images {safe_url(url)} cannot be had: {reason}", hint=hint)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class _Fetching:
    transport: Transport
    timeouts: Timeouts
    configs: Mapping[str, Config]

    def fetch(self, url: str) -> bytes:
        """What stands at `url`; raises `ListUnavailable`, `UsageError`, `AuthorizationFailed`, `BadCredential`."""
        from pierhead.transport import TransportError

        try:
            return self._fetch(url)
        except TransportError as error:
            raise ListUnavailable(url, error.message, exit_code=error.exit_code, hint=error.hint) from error

    def _fetch(self, url: str) -> bytes:
        from pierhead.redirect import REDIRECT_LIMIT, location_of, redirected

        if url != without_userinfo(url):
            hint = "put them under configs.<host>.auth of registries.yaml"
            raise UsageError(f"the URL {safe_url(url)} holds a user name or password", hint=hint)
        place = url
        for _ in range(REDIRECT_LIMIT):
            response, sent = self._ask(place)
            with response:
                location = location_of(response)
                if not location:
                    return _content(response, url)
            before, place = place, redirected(place, location, sent)
            if before.startswith("https:") and not place.startswith("https:"):
                raise ListUnavailable(url, f"it is redirected to plain http, {safe_url(place)}")
        raise ListUnavailable(url, f"it was redirected more than {REDIRECT_LIMIT} times")

    def _ask(self, url: str) -> tuple[Response, str | None]:
        """The answer, to us by name where we are asked for it; and the Authorization that was sent."""
        from pierhead.auth import AuthorizationFailed, from_registries
        from pierhead.wire import Headers, Request, parse_challenges

        headers = Headers([("User-Agent", USER_AGENT)])
        request = Request("GET", url, headers)
        entry = self.configs.get(request.authority)
        options = self._options(entry)
        response = self.transport.send(request, options)
        if response.status != 401 or "basic" not in {item.scheme for item in parse_challenges(response.headers)}:
            return response, None
        response.body.close()
        credential: Credential | None = from_registries(entry)
        if credential is None or not credential.username:
            raise AuthorizationFailed(
                f"the list of images {safe_url(url)} is given to known users only",
                hint=f"put username and password under configs.{request.authority!r}.auth of registries.yaml",
            )
        named = replace(request, headers=headers.plus(("Authorization", credential.basic)))
        return self.transport.send(named, options), credential.basic

    def _options(self, entry: Config | None) -> Options:
        from pierhead.transport import Options, TlsOptions

        tls = entry.tls if entry is not None else None
        if tls is None:
            return Options(timeouts=self.timeouts)
        client = ((tls.cert_file.value, tls.key_file.value),) if tls.cert_file and tls.key_file else ()
        ca_files = (tls.ca_file.value,) if tls.ca_file else ()
        return Options(TlsOptions(ca_files, client, tls.insecure_skip_verify), self.timeouts)


def _content(response: Response, url: str) -> bytes:
    """The text of a list; raises `ListUnavailable`, and `UsageError` for one that is too large."""
    from pierhead.body import BodyTooLarge, read_all
    from pierhead.wire import one_line, status_text

    if not response.ok:
        code = _CODES.get(response.status, ExitCode.FAILED)
        raise ListUnavailable(url, f"the server answers {status_text(response.status)}", exit_code=code)
    if response.headers.get("content-type").lower().startswith("text/html"):
        raise ListUnavailable(
            url, "it is a web page", hint="give the address of the plain text, often called raw or download"
        )
    coding = response.headers.get("content-encoding").lower()
    if coding not in ("", "identity"):
        raise ListUnavailable(url, f"it comes compressed ({one_line(coding, 20)}), which was not asked for")
    try:
        return read_all(response.body, LIST_LIMIT_BYTES)
    except BodyTooLarge:
        raise UsageError(f"the list of images {safe_url(url)} is larger than {LIST_LIMIT_BYTES} bytes") from None
