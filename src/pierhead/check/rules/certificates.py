"""Rules about what is in the files of `configs.*.tls`: dates, pairs, purposes, and who can read a key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from pierhead.check.finding import Hit
from pierhead.check.pem import Certificate
from pierhead.check.rule import DOCUMENTATION, Example, rule
from pierhead.check.subject import Subject
from pierhead.check.tlsfiles import NamedFile, certificates_of, failure, looked_at
from pierhead.errors import Severity

EXPIRES_SOON: Final = timedelta(days=30)

# ── R071: time ──

_EXPIRES: Final = """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    tls:
      ca_file: {here}/ca.pem
"""


@rule(
    "R071",
    "certificate-expires",
    "error",
    bad=Example(_EXPIRES, files={"ca.pem": "<expiring ca>"}),
    good=Example(_EXPIRES, files={"ca.pem": "<ca>"}),
    sources=(DOCUMENTATION,),
)
def certificate_expires(subject: Subject) -> Iterator[Hit]:
    """A certificate is out of date, or will be within 30 days.

    An expired CA makes containerd refuse the registry's certificate ("x509: certificate has expired or is not yet
    valid") unless another CA that the node trusts vouches for it too; the next endpoint is asked. An expired client
    certificate is sent all the same, and a registry that asks for one refuses it. containerd reads the files at every
    pull, so a new one needs no restart. With `insecure_skip_verify: true` the dates of the CA do not matter.
    """
    now = subject.circumstances.now
    for named, certificates in certificates_of(subject, "ca_file"):
        tls = named.config.tls
        if tls is None or not tls.insecure_skip_verify:
            yield from _dated(subject, named, certificates)
            expired = sum(each.not_after < now for each in certificates)
            if 0 < expired < len(certificates):
                message = f"{expired} of the {len(certificates)} certificates in {named} have expired"
                yield Hit(named.span, message, "take the old ones out", severity="note")
    for named, certificates in certificates_of(subject, "cert_file"):
        yield from _dated(subject, named, certificates[:1])


def _dated(subject: Subject, named: NamedFile, certificates: tuple[Certificate, ...]) -> Iterator[Hit]:
    """What there is to say of the dates of the one that lasts longest."""
    now, last = subject.circumstances.now, max(certificates, key=lambda each: each.not_after)
    remedy = "renew it on every node; containerd reads it at the next pull"
    if last.not_after < now:
        yield Hit(named.span, f"{named} expired on {last.not_after:%Y-%m-%d}", remedy)
    elif all(each.not_before > now for each in certificates):
        first = min(each.not_before for each in certificates)
        message = f"{named} is not valid before {first:%Y-%m-%d}"
        yield Hit(named.span, message, "wait until then, or set the clock of the machine that made it")
    elif last.not_after - now < EXPIRES_SOON:
        days = (last.not_after - now).days
        message = f"{named} expires in {days} day{'' if days == 1 else 's'}, on {last.not_after:%Y-%m-%d}"
        yield Hit(named.span, message, remedy, severity="warning")


# ── R072 to R074: the wrong one ──

_PAIR: Final = """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    tls:
      cert_file: {here}/node.pem
      key_file: {here}/node.key
"""


@rule(
    "R072",
    "key-does-not-match",
    "error",
    bad=Example(_PAIR, files={"node.pem": "<client certificate>", "node.key": "<other key>"}),
    good=Example(_PAIR, files={"node.pem": "<client certificate>", "node.key": "<client key>"}),
    sources=(DOCUMENTATION,),
)
def key_does_not_match(subject: Subject) -> Iterator[Hit]:
    """key_file is not the key of the certificate in cert_file.

    containerd loads the pair before it asks anything. If the key does not belong to the first certificate of the file,
    every pull of the registry fails ("failed to load X509 key pair: tls: private key does not match public key"), also
    from its other endpoints. wharfie warns and uses its default TLS settings.
    """
    pairs = {named.config.key.value: file for named, file in looked_at(subject, "cert_file") if file.certificates}
    for named, file in looked_at(subject, "key_file"):
        pair = pairs.get(named.config.key.value)
        if pair is None or file.key is None or pair.certificates[0].public == file.key:
            continue
        broken, severity = failure(subject, named.text)
        if any(each.public == file.key for each in pair.certificates):
            message = f"{named} belongs to a certificate of cert_file that is not the first: {broken}"
            remedy = "put the node's own certificate first in the file, those of its issuers behind it"
        else:
            message = f"{named} is not the key of the certificate in cert_file: {broken}"
            remedy = "name the key that the certificate was made with, or have a new certificate made for this key"
        yield Hit(named.span, message, remedy, severity=severity)


@rule(
    "R073",
    "not-a-ca",
    "warning",
    bad=Example(_EXPIRES, files={"ca.pem": "<server certificate>"}),
    good=Example(_EXPIRES, files={"ca.pem": "<ca>"}),
    sources=("k3s-io/k3s#1148", DOCUMENTATION),
)
def not_a_ca(subject: Subject) -> Iterator[Hit]:
    """ca_file holds a certificate that cannot vouch for others.

    containerd adds the certificates of ca_file to those that the node trusts. The certificate of a CA vouches for all
    that it issued. The certificate of a server is trusted too, but only as it is: once the server has a new one, pulls
    fail ("x509: certificate signed by unknown authority"). One that was made for clients vouches for no server at all.
    With `insecure_skip_verify: true` none of this matters.
    """
    for named, certificates in certificates_of(subject, "ca_file"):
        tls = named.config.tls
        if (tls and tls.insecure_skip_verify) or any(each.is_ca for each in certificates):
            continue
        if not any(each.for_servers for each in certificates):
            message = f"{named} is a client's certificate ({certificates[0].subject}): it vouches for no registry"
            yield Hit(named.span, message, "name the CA that issued the registry's certificate", severity="error")
            continue
        message = f"{named} is one certificate and no CA ({certificates[0].subject}): the next one will not be trusted"
        remedy = "name the CA that issued it"
        alone = all(each.is_self_issued for each in certificates)
        yield Hit(named.span, message, remedy, severity="note" if alone else None)


@rule(
    "R074",
    "not-a-client-certificate",
    "warning",
    bad=Example(_PAIR, files={"node.pem": "<server certificate>", "node.key": "<server key>"}),
    good=Example(_PAIR, files={"node.pem": "<client certificate>", "node.key": "<client key>"}),
    sources=("k3s-io/k3s#13255", "k3s-io/k3s#1148"),
)
def not_a_client_certificate(subject: Subject) -> Iterator[Hit]:
    """cert_file is a certificate that no client can use.

    cert_file and key_file are what the node shows to a registry that asks for a client certificate, although comments
    in the K3s documentation call them those "used in the registry". A certificate whose extended key usage does not
    name client authentication is refused by such a registry; and a registry that does not ask never sees it. The
    private key of a registry has no place on the nodes.
    """
    for named, certificates in certificates_of(subject, "cert_file"):
        first = certificates[0]
        if not first.for_clients:
            message = (
                f"{named} ({first.subject}) is not made for clients: a registry that asks for one of those refuses it"
            )
            remedy = "take cert_file and key_file out, or name a certificate made for clients; a CA belongs in ca_file"
            yield Hit(named.span, message, remedy)


# ── R076: who may read a key ──


@rule(
    "R076",
    "private-key-mode",
    "warning",
    bad=Example(_PAIR, files={"node.pem": "<client certificate>", "node.key": "<client key>"}, mode=0o644),
    good=Example(_PAIR, files={"node.pem": "<client certificate>", "node.key": "<client key>"}),
    sources=(DOCUMENTATION,),
)
def private_key_mode(subject: Subject) -> Iterator[Hit]:
    """A private key can be read by every user of this machine.

    Whoever can read key_file can prove to the registry to be this node. containerd runs as root and needs no more than
    mode 0600. Nothing in K3s looks at the mode, so nothing else will say so.
    """
    for named, file in looked_at(subject, "key_file"):
        if file.holds_key and file.mode & 0o077:
            widely = "every user" if file.mode & 0o007 else "its group"
            message = f"{named} has mode {file.mode:04o}: {widely} of this machine has access to the key"
            severity: Severity = "warning" if file.mode & 0o007 else "note"
            yield Hit(named.span, message, "set its mode to 0600 on every node", severity=severity)
