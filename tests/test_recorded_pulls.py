"""The recorded pulls of containerd, played again: the same configuration, the same hosts, the same requests.

With the profile CONTAINERD every request must be the recorded one. With OURS the requests may differ only in ways that
docs/compatibility.md lists, and what containerd could pull must be pulled.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pierhead.ask import CONTAINERD, OURS
from pierhead.config import k3s
from pierhead.config.registries import parse
from replayed import CASES, Case, Played, grouped, line, met, replay, requests_of


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


# ── our own profile ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Difference:
    """What was asked otherwise than containerd asked it; a rule takes away what it explains."""

    case: Case
    played: Played
    missing: Counter[str]  # recorded, and not asked by us
    extra: Counter[str]
    found: Counter[str]
    events: bool  # of connections
    outcome: bool

    @classmethod
    def of(cls, case: Case, played: Played) -> Difference:
        found = Counter(map(line, played.record.requests))
        recorded = Counter(map(line, case["requests"]))
        optional = Counter(line(request) for request in case.get("optional_requests", []))
        return cls(
            case,
            played,
            missing=recorded - found - optional,
            extra=found - recorded - optional,
            found=found,
            events=met(played.record.events) != met(case.get("connection_events", {})),
            outcome=played.ok != case["outcome"]["ok"],
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.events or self.outcome)

    def drop_missing(self, explained: Callable[[str], object]) -> None:
        self.missing = Counter({entry: count for entry, count in self.missing.items() if not explained(entry)})


def tokens_are_kept(difference: Difference) -> None:
    """No challenge and no token a second time; everything of that kind was asked once at least."""
    challenged = {entry.split(" ")[0] for entry in difference.found if " none 401 " in entry}
    difference.drop_missing(
        lambda entry: (
            (" none 401 " in entry and entry.split(" ")[0] in challenged)
            or ("/token " in entry and entry in difference.found)
        )
    )


def refused_is_not_repeated(difference: Difference) -> None:
    difference.drop_missing(
        lambda entry: re.search(r" (basic|bearer) 401 ", entry) and difference.found[entry] in {1, 2}
    )


def bad_content_is_replaced(difference: Difference) -> None:
    """Wrong, cut, too many or too few bytes: the same content is asked of another host, or another time."""
    acts = [rule["do"] for host in difference.case["hosts"].values() for rule in host.get("rules", ())]
    wrong = {"wrong_bytes", "longer", "shorter", "truncate", "length"}
    if not any(wrong & set(act) for act in acts):
        return
    assert not (difference.outcome and difference.case["outcome"]["ok"])
    difference.outcome = False
    difference.drop_missing(lambda entry: " GET " in entry)
    difference.extra = Counter({entry: count for entry, count in difference.extra.items() if " GET " not in entry})


def limits_are_respected(difference: Difference) -> None:
    """A host that says 408 or 429 is left for the next one, which then gives what it would have given."""
    seen = difference.found + difference.missing
    limited = {entry.split(" ")[0] for entry in seen if re.search(" (408|429) ", entry)}
    if limited:
        difference.drop_missing(lambda entry: entry.split(" ")[0] in limited)
        kept = {entry: count for entry, count in difference.extra.items() if not re.search(" (200|408|429) ", entry)}
        difference.extra = Counter(kept)


def bad_file_fails_its_endpoint(difference: Difference) -> None:
    """containerd asks nobody; we ask the endpoints whose files are sound, and say what is wrong with the others."""
    error = difference.case["outcome"].get("error", "")
    if re.search("unable to (read|load) CA cert|failed to load X509 key pair", error):
        assert not difference.case["requests"]
        difference.extra, difference.outcome = Counter(), False


def tls_is_tried_once(difference: Difference) -> None:
    """An http endpoint that has TLS settings: who spoke no TLS while resolving is not tried with it again."""
    events = {host: set(kinds) for host, kinds in difference.played.record.events.items()}
    recorded = {host: set(kinds) for host, kinds in difference.case["connection_events"].items()}
    assert events == recorded
    difference.events = False


# The first column of docs/compatibility.md: the rule, and the recorded cases in which it shows.
ROWS: dict[str, tuple[Callable[[Difference], None], str]] = {
    "A registry wants credentials or a token": (
        tokens_are_kept,
        """
        cr-first-401-bearer-anon-ok cr-auth-basic-b64 cr-auth-basic-b64-nul cr-auth-basic-b64-newline
        cr-auth-basic-user-beats-token cr-auth-basic-unicode cr-auth-basic-special cr-auth-basic-number
        cr-auth-bearer-pass-access_token cr-auth-bearer-post401 cr-auth-bearer-post404
        cr-auth-bearer-pass-get-access-only cr-auth-bearer-anon-token-only cr-auth-bearer-anon-access-only
        cr-auth-bearer-identity cr-auth-bearer-identity-post401 cr-auth-bearer-noscope
        cr-auth-bearer-pullpush cr-auth-bearer-rewrite cr-auth-bearer-rewrite-anon
        cr-auth-bearer-other-token-host cr-auth-bearer-expired cr-auth-bearer-multi cr-auth-bearer-digestref
        cr-auth-bearer-path cr-auth-403-after cr-auth-e48-next cr-auth-default-bearer cr-auth-redirect
        cr-auth-redirect-bearer cr-tls-bearer-tokenserver cr-hub-auth-docker cr-hub-auth-index
        cr-hub-auth-reg1-noauth
    """,
    ),
    "A password or token is refused": (
        refused_is_not_repeated,
        """
        cr-auth-basic-wrong cr-auth-bearer-rejected-noerror
    """,
    ),
    "Bytes are wrong, or the body ends early": (
        bad_content_is_replaced,
        """
        cr-first-size-limit-edge cr-first-wrong-size cr-first-manifest-get-cut cr-first-layer0-longer
        cr-first-layer0-shorter cr-first-layer0-cut-norange cr-first-layer0-cut-always
        cr-digest-first-manifest-get-wrong
    """,
    ),
    "429 or 503": (
        limits_are_respected,
        """
        cr-first-429 cr-first-layer0-429 cr-def-408-twice
    """,
    ),
    "A CA or client certificate file of one endpoint cannot be used": (
        bad_file_fails_its_endpoint,
        """
        cr-tls-ca-missing cr-tls-ca-bad cr-tls-ca-empty cr-tls-ca-missing-skip cr-tls-ca-relative
        cr-tls-pair-mismatch cr-tls-e53-default
    """,
    ),
    "An http endpoint that is tried with TLS first": (
        tls_is_tried_once,
        """
        cr-self-plain cr-self-localhost-plain cr-def-nd-noendpoints cr-def-nd-unlisted cr-star-e46-endpoint
        cr-star-e44 cr-scheme-key-e20 cr-ep-empty-last-nd cr-ep-v2-last-nd cr-ep-path-last-nd cr-ep-v6-bare
        cr-rw-e63 cr-rw-e63-quote cr-tls-http-tls-plain cr-tls-http80-tls
    """,
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_ours_differs_only_where_the_documentation_says(case: Case, vector_pki: Path, closed_port: str) -> None:
    if case["outcome"].get("containerd_failed_to_start"):
        return
    played = replay(case, OURS, vector_pki, closed_port)
    assert played.ok or not case["outcome"]["ok"], played.error
    difference = Difference.of(case, played)
    rules = [explain for explain, cases in ROWS.values() if case["id"] in cases.split()]
    for explain in rules:
        before = repr(difference)
        explain(difference)
        assert repr(difference) != before, f"{explain.__name__} explains nothing here"
    assert not difference, (difference.missing, difference.extra, played.record.events, played.error)


def test_the_documentation_counts_the_cases() -> None:
    text = (Path(__file__).parents[1] / "docs" / "compatibility.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("| ")]
    told = {row[0]: row[-1] for row in rows if len(row) == 5}
    for name, (_, cases) in ROWS.items():
        assert told[name] == str(len(cases.split())), name
    known = {str(case["id"]) for case in CASES}
    assert {case for _, cases in ROWS.values() for case in cases.split()} <= known
