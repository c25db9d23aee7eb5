"""A recorded pull of containerd, played again on this machine: the same configuration, the same hosts.

tests/vectors/README.md says what a case is made of.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pierhead.ask import Profile
from pierhead.auth import Lookup, from_registries
from pierhead.config import k3s
from pierhead.config.registries import parse
from pierhead.errors import PierheadError
from pierhead.memory import MemoryStore
from pierhead.oci import Platform
from pierhead.pull import Pulled, Puller
from pierhead.reference import InvalidReference, Reference
from pierhead.routing import plan
from pierhead.transfer import Transfer
from pierhead.transport import CurlTransport, Timeouts
from recorder import VECTORS, Record, ScriptedImage, play

Case = dict[str, Any]
CASES: list[Case] = [
    case
    for name in ("containerd-requests.json", "containerd-requests-names.json")
    for case in json.loads((VECTORS / name).read_text())
]
IMAGES = ScriptedImage.load()
ADDRESS = re.compile(r"(?:127\.\d+\.\d+\.\d+|\[::1\]):\d+")


@dataclass(frozen=True)
class Played:
    """What a case came to."""

    record: Record
    result: Pulled | None
    error: PierheadError | None
    waited: Sequence[float]

    @property
    def ok(self) -> bool:
        return self.result is not None and self.result.error is None


class _Impatient(Transfer):
    """A transfer that only notes how long it would have waited."""

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        self.waited: list[float] = []

    def pause(self, seconds: float) -> None:
        self.waited.append(seconds)


def replay(case: Case, profile: Profile, pki: Path, closed: str) -> Played:
    """Pull the image of a case as the profile does."""
    hosts = configured(case, pki)
    try:
        reference = Reference.parse(case["reference"])
    except InvalidReference as error:
        return Played(Record(), None, error, ())
    with play(case["hosts"], IMAGES, pki) as stage:
        transport = CurlTransport(connect_to=_places(case, stage.places, closed), environment={})
        store = MemoryStore()
        transfer = _Impatient(1)
        puller = Puller(
            lambda wanted: plan(wanted, hosts.lookup(wanted.registry)),
            lambda wanted: lookup_of(hosts),
            transport,
            store,
            Timeouts(2, 2, 5, 5),
            (Platform.parse("linux/amd64"),),
            profile,
        )
        try:
            with transfer:
                result = puller.pull([reference], transfer)[0]
        finally:
            transport.close()
    return Played(stage.record, result, result.error, transfer.waited)


def configured(case: Case, pki: Path) -> k3s.K3sHosts:
    """What K3s makes of the case's file; `pki` is the folder of its certificates."""
    text = case["yaml"].replace("{pki}", str(pki))
    flags = case["flags"]
    return k3s.hosts(
        parse(text.encode(), "registries.yaml"),
        k3s.Flags(flags["disable_default_registry_endpoint"], flags["embedded_registry"], flags["program"]),
    )


def lookup_of(hosts: k3s.K3sHosts) -> Lookup:
    """Whose credentials of the file are used."""
    return lambda host: from_registries(k3s.auth_for(hosts.config, host))


def _places(case: Case, places: Mapping[str, str], closed: str) -> dict[str, str]:
    """Where every address of a case leads: to its player, or to a place where nobody listens."""
    named = set(ADDRESS.findall(json.dumps(case)))
    named |= {f"127.0.0.{number}:{port}" for number in range(1, 31) for port in (80, 443)}
    connect_to = dict.fromkeys(named, closed) | dict(places)
    connect_to |= {key.replace("127.0.0.1:", "localhost:"): place for key, place in connect_to.items()}
    for name, address in case.get("names", {}).items():
        connect_to |= {f"{name}:{port}": places.get(f"{address}:{port}", closed) for port in (80, 443)}
    for name in ("registry-1.docker.io", "index.docker.io", "quay.io", "_default"):
        connect_to.setdefault(f"{name}:443", closed)
    return connect_to


def grouped(requests: Sequence[dict[str, Any]]) -> tuple[list[str], dict[str, list[str]]]:
    """As the vectors order them: everything up to the last manifest request, then by blob digest."""
    last = max((index for index, request in enumerate(requests) if "/manifests/" in request["path"]), default=-1)
    head = [line(request) for request in requests[: last + 1]]
    blobs: dict[str, list[str]] = {}
    current = ""
    for request in requests[last + 1 :]:
        digest = re.search(r"sha(?:256|512):[0-9a-f]+", request["path"])
        current = digest[0] if digest else current
        blobs.setdefault(current, []).append(line(request))
    return head, blobs


def line(request: dict[str, Any]) -> str:
    """One request, with what matters of it."""
    told = {key: request.get(key) for key in ("basic", "range") if request.get(key)}
    told |= dict(sorted(request.get("token_request", {}).items()))
    query = f"?{request['query']}" if request.get("query") else ""
    return (
        f"{request['host']} {request['method']} {request['path']}{query} {request['auth']} {request['status']} {told}"
    )


def requests_of(entries: dict[str, list[str]]) -> Counter[str]:
    return Counter(entry for listed in entries.values() for entry in listed)


def met(events: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Connection events; a failed handshake counts once, for we connect again to see the certificate."""
    once = {"tls_handshake_failed": 1}
    return {host: {kind: once.get(kind, count) for kind, count in kinds.items()} for host, kinds in events.items()}
