"""Rules about the wildcard: what `"*"` under mirrors and under configs does not do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pierhead.check.finding import Hit
from pierhead.check.lookups import HUB, asked, is_set, of_mirror, settles, unserved
from pierhead.check.names import spoken
from pierhead.check.rule import Example, rule
from pierhead.check.subject import Subject
from pierhead.config.near import PUBLIC, Names, bare

_NAMED_LIMIT: Final = 4  # hosts in a remedy


@rule(
    "R041",
    "wildcard-tls-lost",
    "error",
    bad="""\
mirrors:
  "*":
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "*":
    tls:
      insecure_skip_verify: true
""",
    good="""\
mirrors:
  "*":
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    tls:
      insecure_skip_verify: true
""",
    sources=("https://docs.k3s.io/installation/private-registry#wildcard-support",),
)
def wildcard_tls_lost(subject: Subject) -> Iterator[Hit]:
    """The TLS settings under `configs."*"` are lost, because there is a mirror `"*"`.

    K3s keeps the wildcard entry under the name `_default` and looks for it under `*` when it comes to the mirror, finds
    nothing, and writes a file without any TLS settings over the first one. Neither the mirror's endpoints nor the
    registries themselves get them, although the documentation has this very example.
    """
    for problem in subject.problems_of("wildcard-tls-lost"):
        if problem.span is not None and subject.circumstances.client != "wharfie":
            yield Hit(
                problem.span,
                'these TLS settings are used for nothing: K3s loses the tls of configs."*" when there is a mirror "*"',
                f"put this tls below each host that needs it under configs{_hosts(subject)}",
            )


def _hosts(subject: Subject) -> str:
    """The hosts of the wildcard mirror, for the end of a remedy."""
    mirror = subject.config.mirrors.get("*")
    found = [endpoint.lookup for endpoint in of_mirror(subject, mirror)] if mirror else []
    hosts = [spoken(lookup) for lookup in dict.fromkeys(found)]
    more = f" and {len(hosts) - _NAMED_LIMIT} more" if len(hosts) > _NAMED_LIMIT else ""
    return f": {', '.join(hosts[:_NAMED_LIMIT])}{more}" if hosts else ""


@rule(
    "R085",
    "wildcard-not-for-endpoints",
    "warning",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "*":
    tls:
      ca_file: /etc/pki/corp-ca.pem
""",
        flags=("--no-files",),
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "*":
    tls:
      ca_file: /etc/pki/corp-ca.pem
  "cache.corp.example:5000":
    tls:
      ca_file: /etc/pki/corp-ca.pem
""",
        flags=("--no-files",),
    ),
    sources=("https://docs.k3s.io/installation/private-registry#wildcard-support", "k3s-io/k3s#11352"),
)
def wildcard_not_for_endpoints(subject: Subject) -> Iterator[Hit]:
    """The TLS settings under `configs."*"` do not reach the endpoints of the mirrors.

    K3s looks for an endpoint's entry by its exact host and never under `"*"`. The wildcard's TLS settings are those of
    registries that have neither a mirror nor an entry, when they are asked directly. wharfie, the puller that RKE2
    starts with, does use the wildcard for endpoints, so that the same file works there and fails afterwards.
    """
    entry = subject.config.configs.get("*")
    if entry is None or not settles(entry.tls) or "*" in subject.config.mirrors:
        return
    assert entry.tls is not None  # it says something
    wanting = [endpoint for endpoint in unserved(subject).values() if endpoint.url.scheme == "https"]
    if wanting and subject.circumstances.client != "wharfie":
        first = wanting[0]
        message = (
            f"the endpoint in line {first.text.span.line} ({spoken(first.lookup)}) gets none of these TLS settings: "
            f'K3s does not look under "*" for an endpoint'
        )
        yield Hit(entry.tls.span, message, f"put this tls below {spoken(first.lookup)} under configs too")


@rule(
    "R086",
    "config-hides-wildcard-mirror",
    "warning",
    bad="""\
mirrors:
  "*":
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  ghcr.io:
    auth:
      username: puller
      password: s3cr3t
""",
    good="""\
mirrors:
  "*":
    endpoint:
      - "https://cache.corp.example:5000"
configs:
  "cache.corp.example:5000":
    auth:
      username: puller
      password: s3cr3t
""",
    sources=("https://docs.k3s.io/installation/private-registry#wildcard-support",),
)
def config_hides_wildcard_mirror(subject: Subject) -> Iterator[Hit]:
    """An entry under `configs` takes its registry away from the wildcard mirror.

    K3s writes a file of its own for every registry that has credentials or TLS settings under `configs`, and containerd
    uses the most exact file only: nothing is taken over from the wildcard. So images of this registry no longer come
    through the mirror `"*"` but from the registry itself. That is often wanted for a private registry (a note), and
    rarely for a public one.
    """
    wildcard = subject.config.mirrors.get("*")
    endpoints = list(of_mirror(subject, wildcard)) if wildcard else []
    if not endpoints or subject.circumstances.client == "wharfie":
        return
    used, names = asked(subject), Names(unserved(subject))
    for key, entry in subject.config.configs.items():
        if key in used or key in subject.config.mirrors or bare(key) != key or not is_set(entry):
            continue
        if key in (*HUB[::2], "*") or names.nearest(key):  # no image has such a registry, or a slip in the key
            continue
        name, line = spoken(key), endpoints[0].text.span.line
        message = f'with this entry images of {name} bypass the mirror "*" in line {line} and come from {name} itself'
        remedy = f'add {name} to mirrors with the endpoints of "*", unless this is what you want'
        yield Hit(entry.key.span, message, remedy, severity="warning" if key in PUBLIC else "note")
