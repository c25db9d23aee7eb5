"""Rules about the files that `configs.*.tls` names: whether they are there and of a kind (specification, section 5)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final

from pierhead.check.files import Trouble
from pierhead.check.finding import Fix, Hit
from pierhead.check.names import spoken
from pierhead.check.pem import PemFile
from pierhead.check.rule import DOCUMENTATION, Example, rule
from pierhead.check.secrets import is_placeholder
from pierhead.check.source import Entry
from pierhead.check.subject import Subject
from pierhead.check.tlsfiles import FIELDS, SHOWN_LIMIT, Field, NamedFile, failure, looked_at, named_files
from pierhead.errors import Severity

_ON_EVERY_NODE: Final = "put it there on every node, or check with --no-files if this machine is not a node"

_IN_USE: Final = frozenset(f"/etc/rancher/{program}/registries.yaml" for program in ("k3s", "rke2"))

# ── R024: what cannot be used ──


@rule(
    "R024",
    "tls-file-unusable",
    "error",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example:5000
configs:
  mirror.example:5000:
    tls:
      ca_file: {here}/missing.pem
"""
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example:5000
configs:
  mirror.example:5000:
    tls:
      ca_file: {here}/ca.pem
""",
        files={"ca.pem": "<ca>"},
    ),
    sources=(DOCUMENTATION, "k3s-io/k3s#1148"),
)
def tls_file_unusable(subject: Subject) -> Iterator[Hit]:
    """A file that `tls` names is missing, or is not what it should be.

    K3s never opens these files; it writes their paths into hosts.toml. containerd reads all files of a registry's
    hosts.toml before it sends its first request, at every pull. If one of them is missing, is a directory, or holds no
    certificate (no key) in PEM, the pull fails at once: no other endpoint of that registry is asked, nor the registry
    itself, even with `insecure_skip_verify: true`, and even if the file belongs to the last endpoint or to an http one.
    Other registries are not affected. wharfie, which pulls RKE2's own images, warns and uses its default TLS settings;
    a ca_file without any certificate it passes over without a word.

    A new file counts from the next pull on; no restart is needed. That a file is missing is a note, if nothing says
    that this machine is a node: it has no K3s, the file is not at its place in /etc/rancher, and none of the files that
    it names is here.
    """
    for named in named_files(subject):
        if named.is_inline:
            yield _inline(subject, named)
    for named, file in looked_at(subject, *FIELDS):
        if file.trouble is not None:
            yield _troubled(subject, named, file.trouble)
        elif found := _content(subject, named, file):
            yield found


def _inline(subject: Subject, named: NamedFile) -> Hit:
    broken, severity = failure(subject, named.text)
    message = f"{named.field} holds the text of a PEM file where the path of one belongs: {broken}"
    remedy = f"write the text to a file on every node, and its whole path in {named.field}"
    return Hit(named.span, message, remedy, severity=severity)


def _troubled(subject: Subject, named: NamedFile, trouble: Trouble) -> Hit:
    if trouble.ours:
        remedy = "run the check as root, as containerd runs, or look at the file yourself"
        return Hit(named.span, f"{named} {trouble.words}", remedy, severity="note")
    broken, severity = failure(subject, named.text)
    if trouble.missing and not _belongs_here(subject, named):
        message = f"{named} is not on this machine; where a node lacks it too, {broken}"
        return Hit(named.span, message, _ON_EVERY_NODE, severity="note")
    return Hit(named.span, f"{named} {trouble.words}: {broken}", _ON_EVERY_NODE, severity=severity)


def _belongs_here(subject: Subject, named: NamedFile) -> bool:
    """Whether a file that is missing should be on this machine, for all that can be told."""
    path = subject.circumstances.path
    if path is not None:
        here = Path(path).absolute()
        if str(here) in _IN_USE or PurePath(named.path).is_relative_to(here.parent):
            return True
    return subject.is_node


def _content(subject: Subject, named: NamedFile, file: PemFile) -> Hit | None:
    if named.field == "key_file":
        what, fault, remedy = "private key", _key_fault(file), "name the PEM file of the certificate's key"
    else:
        what, fault, remedy = "certificate", _certificate_fault(file), "name a PEM file with the certificate"
    if fault is None:
        return None
    broken, severity = failure(subject, named.text)
    if named.field == "ca_file" and subject.circumstances.client == "wharfie":
        broken = "wharfie goes on without it and says nothing"
    fix = _exchanged(subject, named) if fault is _SWITCHED else None
    if fault is _BINARY:
        kind = "pkey" if named.field == "key_file" else "x509"
        remedy = f"convert it: openssl {kind} -inform der -in FILE -out FILE.pem"
    if fault is _SWITCHED and fix:
        remedy = "exchange cert_file and key_file"
    return Hit(named.span, f"{named} {fault.format(what=what)}: {broken}", remedy, fix, severity)


_BINARY: Final = "is binary (DER), not PEM"
_NOTHING: Final = "holds no {what} in PEM"
_SWITCHED: Final = "holds no {what}, but the other half of a pair"


def _certificate_fault(file: PemFile) -> str | None:
    if file.certificates:
        return None
    if file.is_binary:
        return _BINARY
    return _SWITCHED if file.holds_key else _NOTHING


def _key_fault(file: PemFile) -> str | None:
    if file.key is not None:
        return None
    if file.unreadable_key:
        return f"holds a {{what}} that cannot be used: {file.unreadable_key}"
    if file.is_binary:
        return _BINARY
    return _SWITCHED if file.certificates else _NOTHING


def _exchanged(subject: Subject, named: NamedFile) -> Fix | None:
    """The two halves in each other's place, if they are a pair."""
    tls = named.config.tls
    if named.field == "ca_file" or tls is None or not tls.cert_file or not tls.key_file:
        return None
    if not (tls.cert_file.value.startswith("/") and tls.key_file.value.startswith("/")):
        return None
    key, certificate = subject.pem_files[tls.cert_file.value], subject.pem_files[tls.key_file.value]
    if not certificate.certificates or key.key is None or certificate.certificates[0].public != key.key:
        return None
    edits = (
        subject.source.rewritten(tls.cert_file.span, tls.key_file.value),
        subject.source.rewritten(tls.key_file.span, tls.cert_file.value),
    )
    return subject.source.fix("exchange cert_file and key_file", *edits)


# ── R044: half a pair ──


@rule(
    "R044",
    "half-client-pair",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    tls:
      cert_file: /etc/ssl/certs/node.pem
""",
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    tls:
      cert_file: /etc/ssl/certs/node.pem
      key_file: /etc/ssl/private/node.key
""",
        flags=("--no-files",),
    ),
    sources=(DOCUMENTATION,),
)
def half_client_pair(subject: Subject) -> Iterator[Hit]:
    """One of cert_file and key_file stands without the other.

    The two name the certificate with which the node proves who it is to a registry that asks for one, and its key. K3s
    writes the half into hosts.toml beside an empty path, which containerd takes for the folder of hosts.toml; it cannot
    read that as a file ("unable to read CERT file …: is a directory"), and every pull of the registry fails before
    anything is asked, also from its other endpoints. That one PEM file can hold both is a feature of containerd that
    K3s does not reach; naming the same file twice does. wharfie warns and uses its default TLS settings.

    Neither is the registry's own certificate. To trust a registry, name its CA in ca_file.
    """
    for config in subject.config.configs.values():
        tls = config.tls
        if tls is None or bool(tls.cert_file) == bool(tls.key_file):
            continue
        there: Field = "cert_file" if tls.cert_file else "key_file"
        absent: Field = "key_file" if tls.cert_file else "cert_file"
        text = tls.cert_file or tls.key_file
        assert text is not None  # one of them is
        broken, severity = failure(subject, text)
        message = f"{there} stands without {absent}: {broken}"
        remedy = f"name {absent} too, or take {there} out: the registry's own CA belongs in ca_file"
        fix = _both_in_one(subject, NamedFile(config, there, text), absent)
        yield Hit(text.span, message, remedy, fix, severity)


def _both_in_one(subject: Subject, named: NamedFile, absent: Field) -> Fix | None:
    """Names the file twice, if it holds both halves."""
    if not subject.circumstances.look_at_files or not named.can_be_looked_at:
        return None
    file = subject.pem_files[named.path]
    entry, raw = _entry(subject, named, absent), subject.source.slice(named.span)
    if entry is None or raw[:1] in "&*!|>" or not file.certificates or file.certificates[0].public != file.key:
        return None
    return subject.source.fix(
        f"name it in {absent} too: it holds both", subject.source.sibling(entry, f"{absent}: {raw}")
    )


def _entry(subject: Subject, named: NamedFile, absent: Field) -> Entry | None:
    """The entry of the file in `tls`; None if it is not written there, or the absent one is, but empty."""
    assert named.config.tls is not None  # it names the file
    tls = subject.source.entry_at(named.config.tls.span)
    keys = {key.value: key for key in tls.value.children[::2]} if tls else {}
    if absent in keys or named.field not in keys:
        return None
    return subject.source.entry_at(keys[named.field].span)


# ── R075: relative paths ──

_WHOLE: Final = """\
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
    "R075",
    "relative-path",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    tls:
      ca_file: ssl/ca.pem
""",
    good=Example(_WHOLE, files={"ca.pem": "<ca>"}),
    sources=("containerd/containerd#7118", DOCUMENTATION),
)
def relative_path(subject: Subject) -> Iterator[Hit]:
    """The path of a certificate file does not begin with a slash.

    containerd looks for it beside the hosts.toml of each registry that uses it, below certs.d: not beside
    registries.yaml, and not in a home (`~` means nothing here, nor does `$HOME`). K3s deletes that folder at each
    start, so what is put there does not stay. If the file is missing, every pull of the registry fails. wharfie looks
    in the folder that it was started in.
    """
    for named in named_files(subject):
        if named.is_absolute or named.is_inline or is_placeholder(named.path):
            continue
        fix = None
        if (whole := _beside(subject, named.path)) is not None:
            fix = subject.source.fix("write the whole path", subject.source.rewritten(named.span, whole))
        message = f"{named} is relative: {_looked_for(subject, named)}"
        yield Hit(named.span, message, "write the whole path, beginning with /", fix, _lasting(subject, named))


def _looked_for(subject: Subject, named: NamedFile) -> str:
    if subject.circumstances.client == "wharfie":
        return "wharfie looks in the folder that it is started in"
    registry = next(iter(subject.tls_users.get(named.span, ())), named.config.key.value)
    folder = f"{subject.flags.root}/certs.d/{'_default' if registry == '*' else registry}"
    where = folder if len(named.path) > SHOWN_LIMIT else posixpath.normpath(f"{folder}/{named.path}")
    return f"containerd looks for it at {spoken(where)}"


def _lasting(subject: Subject, named: NamedFile) -> Severity:
    """A warning where the file can be: outside the folder that K3s deletes at each start."""
    leaves = posixpath.normpath(named.path).startswith("../")
    return "warning" if leaves else failure(subject, named.text)[1]


def _beside(subject: Subject, path: str) -> str | None:
    """The whole path of a file that is where people expect it: beside registries.yaml."""
    here = subject.circumstances
    if not here.look_at_files or here.path is None or path.startswith(("~", "$")):
        return None
    whole = posixpath.normpath(Path(here.path).absolute().parent / path)
    return whole if subject.pem_files[whole].trouble is None else None
