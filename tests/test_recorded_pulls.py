"""The recorded pulls of containerd, played again: the same configuration, the same hosts, the same requests.

With the profile CONTAINERD every request must be the recorded one. With OURS the requests may differ only in ways that
docs/compatibility.md lists, and what containerd could pull must be pulled.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pierhead.ask import CONTAINERD, Profile
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
from pki import make_vector_pki
from recorder import VECTORS, Record, ScriptedImage, play

Case = dict[str, Any]
CASES: list[Case] = [
    case
    for name in ("containerd-requests.json", "containerd-requests-names.json")
    for case in json.loads((VECTORS / name).read_text())
]
IMAGES = ScriptedImage.load()
ADDRESS = re.compile(r"(?:127\.\d+\.\d+\.\d+|\[::1\]):\d+")


@pytest.fixture(scope="session")
def vector_pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vector-pki")
    make_vector_pki(folder)
    return folder


@pytest.fixture(scope="session")
def closed_port() -> Iterator[str]:
    """A place where nobody listens: bound, so that nobody else does either."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


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


def replay(case: dict[str, Any], profile: Profile, pki: Path, closed: str) -> Played:
    """Pull the image of a case as the profile does."""
    text = case["yaml"].replace("{pki}", str(pki))
    flags = case["flags"]
    hosts = k3s.hosts(
        parse(text.encode(), "registries.yaml"),
        k3s.Flags(flags["disable_default_registry_endpoint"], flags["embedded_registry"], flags["program"]),
    )
    try:
        reference = Reference.parse(case["reference"])
    except InvalidReference as error:
        return Played(Record(), None, error, ())
    with play(case["hosts"], IMAGES, pki) as stage:
        transport = CurlTransport(connect_to=_places(case, stage.places, closed), environment={})
        store = MemoryStore()
        puller = Puller(
            lambda wanted: plan(wanted, hosts.lookup(wanted.registry)),
            lambda wanted: _lookup(hosts),
            transport,
            store,
            Timeouts(2, 2, 5, 5),
            (Platform.parse("linux/amd64"),),
            profile,
        )
        try:
            with _Impatient(1) as transfer:
                result = puller.pull([reference], transfer)[0]
        finally:
            transport.close()
    return Played(stage.record, result, result.error, transfer.waited)


def _lookup(hosts: k3s.K3sHosts) -> Lookup:
    return lambda host: from_registries(k3s.auth_for(hosts.config, host))


def _places(case: dict[str, Any], places: dict[str, str], closed: str) -> dict[str, str]:
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
    head, blobs = [line(request) for request in requests[: last + 1]], {}
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_containerd_profile_asks_what_containerd_asked(case: Case, vector_pki: Path, closed_port: str) -> None:
    if case["outcome"].get("containerd_failed_to_start"):
        hosts = k3s.hosts(parse(case["yaml"].encode(), "registries.yaml"))
        assert any(problem.id == "containerd-does-not-start" for problem in hosts.problems)
        return
    played = replay(case, CONTAINERD, vector_pki, closed_port)
    optional = Counter(line(request) for request in case.get("optional_requests", []))
    head, blobs = grouped(played.record.requests)
    expected_head, expected_blobs = grouped(case["requests"])
    assert head == expected_head
    found, wanted = requests_of(blobs), requests_of(expected_blobs)
    assert not (wanted - found - optional)
    assert not (found - wanted - optional)
    assert played.ok == case["outcome"]["ok"], played.error
    assert met(played.record.events) == met(case.get("connection_events", {}))
