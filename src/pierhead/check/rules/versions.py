"""What one release of K3s does not do, asked for by --k3s-version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pierhead.check.finding import Hit
from pierhead.check.rule import Example, rule
from pierhead.check.subject import Subject

_UPGRADE: Final = "upgrade K3s on every node that reads this file"
# What helps besides an upgrade.
_REMEDIES: Final[Mapping[str, str]] = {
    "bare-endpoint-unsupported": "write the endpoint with its scheme",
    "default-endpoint-listed": "take the registry's own endpoint out: it is asked last without being listed",
    "docker-io-credentials-unused": "write the key as registry-1.docker.io, the host that Docker Hub answers at",
    "duplicate-endpoint-fatal": "take the second one out",
    "insecure-skip-verify-unsupported": "name the CA in ca_file, or upgrade",
    "rewrite-of-default-endpoint": "keep images under their own names in the mirror, or upgrade",
    "rewrite-unsupported": "keep images under their own names in the mirror, or upgrade",
    "tls-without-mirror-lost": "list the registry's own endpoint, https://NAME, under mirrors, or upgrade",
    "token-scope-before-rewrite": "let the registry accept Basic credentials for this repository, or upgrade",
    "unquoted-credentials": "choose a password without quotes and backslashes, or upgrade",
    "wildcard-config-unsupported": "name each registry under configs, or upgrade",
    "wildcard-without-fallback": "make sure that the mirror holds every image, or upgrade",
}


@rule(
    "R040",
    "version-features",
    "error",
    bad=Example(
        'mirrors:\n  docker.io:\n    endpoint:\n      - "https://reg.lan:5000"\n'
        '    rewrite:\n      "^rancher/(.*)": "mirrored/$1"\n',
        flags=("--k3s-version v1.20.15+k3s1",),
    ),
    good=Example(
        'mirrors:\n  docker.io:\n    endpoint:\n      - "https://reg.lan:5000"\n'
        '    rewrite:\n      "^rancher/(.*)": "mirrored/$1"\n',
        flags=("--k3s-version v1.33.3+k3s1",),
    ),
    sources=("k3s-io/k3s#7007", "rancher/rke2#7431", "k3s-io/k3s#9322", "k3s-io/k3s#9983", "k3s-io/k3s#12561"),
)
def version_features(subject: Subject) -> Iterator[Hit]:
    """The file asks for something that the release named by --k3s-version does not do, or does otherwise.

    registries.yaml means different things to different releases: rewrites came with v1.21.0 and were applied to the
    registry's own endpoint until January 2024, `"*"` fell back to nobody for a while, endpoints without a scheme broke
    in one round of releases, credentials under `docker.io` are used since July 2025. The finding names the first
    release of each minor that does what the file says. `pierhead diff --from V1 --to V2` says what an upgrade changes
    for each image.
    """
    for problem in subject.unsupported:
        if problem.span is not None:
            remedy = _REMEDIES.get(problem.id, _UPGRADE)
            yield Hit(problem.span, problem.message, remedy, severity=problem.severity)
