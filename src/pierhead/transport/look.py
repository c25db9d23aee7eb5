"""What a place shows before anything is asked of it: its addresses, whether it takes connections, its TLS.

libcurl keeps most of this to itself unless the handshake succeeds, so a look connects whoever answers, sends no
request, and reads what libcurl says meanwhile. Whether the server is to be trusted is for `chain`, and for the request
that comes after.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from time import monotonic
from typing import Final

import pycurl

from pierhead.transport.address import bracketed
from pierhead.transport.chain import Shown, shown_by
from pierhead.transport.diagnosis import explain
from pierhead.transport.failure import Cause, TransportError
from pierhead.transport.line import Line
from pierhead.transport.setup import Plan, set_up_look
from pierhead.wire import Timings

STOP_SECONDS: Final = 0.25  # how late a wait may notice that it should end
ADDRESSES_LIMIT: Final = 16
CHAIN_LIMIT: Final = 16  # certificates that are looked at; libcurl and OpenSSL have limits of their own before
WORDS_LIMIT: Final = 1000  # lines of libcurl's talk

_ADDRESSES: Final = re.compile(r"IPv[46]: (.+)")
_VERSION: Final = re.compile(r"SSL connection using (TLSv[0-9.]+)")
_WANTS_CLIENT: Final = "TLS handshake, Request CERT"


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen; the phases that were not reached are empty. `timings` are as of an answer.

    `proxy` is the proxy that was connected to instead, the addresses are then its. `error`: where it ended.
    """

    addresses: tuple[str, ...] = ()
    peer: str = ""
    timings: Timings = Timings()
    shown: Shown | None = None
    client_wanted: bool = False
    proxy: str = ""
    error: TransportError | None = None


def look(plan: Plan, anchors: Callable[[], dict[str, list[bytes]]], stopped: Callable[[], bool]) -> Look:
    """Connect as `plan` says; `anchors` gives the certificates that are trusted, by where they come from."""
    line, heard = Line(), _Heard()
    started = monotonic()
    try:
        set_up_look(line.easy, plan)
        line.easy.setopt(pycurl.VERBOSE, 1)
        line.easy.setopt(pycurl.DEBUGFUNCTION, heard.take)
        line.begin()
        error = _ended(line, plan, started, stopped)
        return _seen(line, plan, heard, anchors, error)
    finally:
        line.close()


@dataclass(slots=True)
class _Heard:
    """What libcurl says of a connection, line by line: words of libcurl 8; where they differ, less is known."""

    words: list[str] = field(default_factory=list)

    def take(self, kind: int, data: bytes) -> None:
        if kind == pycurl.INFOTYPE_TEXT and len(self.words) < WORDS_LIMIT:
            self.words.append(data.decode("utf-8", "replace").strip())

    def addresses(self) -> tuple[str, ...]:
        found = [match[1].split(", ") for word in self.words if (match := _ADDRESSES.fullmatch(word))]
        return tuple(address for part in found for address in part if address != "(none)")[:ADDRESSES_LIMIT]

    def version(self) -> str:
        return next((match[1] for word in self.words if (match := _VERSION.match(word))), "")

    def client_wanted(self) -> bool:
        return any(_WANTS_CLIENT in word for word in self.words)


def _ended(line: Line, plan: Plan, started: float, stopped: Callable[[], bool]) -> TransportError | None:
    """Drive to the end of the handshake, each phase on its own clock; what it failed with."""
    url, timeouts = plan.request.url, plan.options.timeouts
    while line.outcome is None:
        if stopped():
            return TransportError(Cause.INTERRUPTED, url)
        if line.connected_at is None or plan.proxy:
            seconds, since = timeouts.connect_seconds, started
            cause = Cause.CONNECT_TIMEOUT if line.sockets else Cause.DNS
        else:
            seconds, since, cause = timeouts.tls_seconds, line.connected_at, Cause.TLS_TIMEOUT
        left = since + seconds - monotonic()
        if left <= 0:
            return TransportError(cause, url, detail=f"timed out after {seconds:g} s")
        line.step(min(left, STOP_SECONDS))
    return explain(plan, line.easy, *line.outcome, in_body=False)


def _seen(
    line: Line,
    plan: Plan,
    heard: _Heard,
    anchors: Callable[[], dict[str, list[bytes]]],
    error: TransportError | None,
) -> Look:
    easy = line.easy
    address = easy.getinfo(pycurl.PRIMARY_IP) or ""
    timings = Timings(
        dns=easy.getinfo(pycurl.NAMELOOKUP_TIME),
        connect=easy.getinfo(pycurl.CONNECT_TIME),
        tls=easy.getinfo(pycurl.APPCONNECT_TIME),
        total=easy.getinfo(pycurl.TOTAL_TIME),
    )
    return Look(
        addresses=heard.addresses() or ((address,) if address else _literal(plan.address.host)),
        peer=f"{bracketed(address)}:{easy.getinfo(pycurl.PRIMARY_PORT)}" if address else "",
        timings=timings,
        shown=_shown(line, plan, heard, anchors) if error is None and plan.tls else None,
        client_wanted=heard.client_wanted(),
        proxy=plan.proxy.url if plan.proxy else "",
        error=error,
    )


def _literal(host: str) -> tuple[str, ...]:
    """The address that a host already is."""
    try:
        return (str(ip_address(host)),)
    except ValueError:
        return ()


def _shown(line: Line, plan: Plan, heard: _Heard, anchors: Callable[[], dict[str, list[bytes]]]) -> Shown | None:
    chain = [dict(fields).get("Cert", "") for fields in line.easy.getinfo(pycurl.INFO_CERTINFO)[:CHAIN_LIMIT]]
    return shown_by([pem.encode() for pem in chain if pem], plan.address.host, heard.version(), anchors())
