"""What-if against what containerd was recorded doing: the same hosts, described instead of reached."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pierhead.oci import Platform
from pierhead.reference import InvalidReference, Reference
from pierhead.routing import plan
from pierhead.transport import Cause
from pierhead.whatif import WhatIf, what_if
from replayed import CASES, IMAGES, Case, configured, grouped, line, lookup_of, met, requests_of
from test_reported import expected, placed
from unplugged import Unplugged

PULLED = [case for case in CASES if not case["outcome"].get("containerd_failed_to_start")]


def supposed(case: Case, pki: Path) -> tuple[WhatIf, Unplugged]:
    hosts = configured(case, pki)
    reference = Reference.parse(case["reference"])
    network = Unplugged(case, IMAGES, pki)
    made = plan(reference, hosts.lookup(reference.registry))
    try:
        found = what_if(made, lookup_of(hosts), network, platforms=[Platform.parse("linux/amd64")])
    finally:
        network.close()
    return found, network


@pytest.mark.parametrize("case", PULLED, ids=lambda case: str(case["id"]))
def test_it_asks_what_containerd_asked(case: Case, vector_pki: Path) -> None:
    try:
        Reference.parse(case["reference"])
    except InvalidReference:
        assert not case["requests"]
        return
    found, network = supposed(case, vector_pki)
    optional = Counter(line(request) for request in case.get("optional_requests", []))
    head, blobs = grouped(network.record.requests)
    expected_head, expected_blobs = grouped(case["requests"])
    assert head == expected_head
    asked, wanted = requests_of(blobs), requests_of(expected_blobs)
    assert not (wanted - asked - optional)
    assert not (asked - wanted - optional)
    assert (found.error is None) == case["outcome"]["ok"], found.error
    assert met(network.record.events) == met(case.get("connection_events", {}))
    assert placed(found.kubelet or "", vector_pki) == ("" if found.error is None else expected(case))
    # What it tells is what was asked of the hosts.
    told = [(item.method, urlsplit(item.url).path, item.status) for item in found.requests if reached(item.failure)]
    noted = [(item["method"], item["path"], item["status"]) for item in network.record.requests]
    assert [item for item in told if item[2] != 400] == [item for item in noted if item[2] != 400]


def reached(failure: Cause | None) -> bool:
    """Whether a request came to a host that could note it."""
    return failure in {None, Cause.CLOSED}
