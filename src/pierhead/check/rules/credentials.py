"""Rules about `configs.*.auth`: what containerd makes of it, and what it never uses (specification, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pierhead.auth import BadCredential, decode_auth, from_registries
from pierhead.check.finding import Edit, Fix, Hit
from pierhead.check.names import spoken
from pierhead.check.rule import DOCUMENTATION, Example, rule
from pierhead.check.rules.entries import hiding
from pierhead.check.rules.syntax import lost_values
from pierhead.check.secrets import is_placeholder
from pierhead.check.subject import Subject, UsedEndpoint
from pierhead.config import k3s
from pierhead.config.containerd import is_localhost
from pierhead.config.registries import Auth, Config, SecretText, Text
from pierhead.redact import Secret

_MAKE: Final = "make it with: printf '%s' 'user:password' | base64 -w0"
_PLAIN: Final = "write username and password instead, as they are"
_TOKENS: Final = ("dckr_", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "eyJ", "AKCp", "cmVmdGtuOj")
_NAMES: Final = ("username", "password", "identity_token", "auth")


def _used(subject: Subject) -> Iterator[tuple[Config, Auth]]:
    """The entries with an `auth` that somebody reads: containerd never reads the wildcard's."""
    for entry in subject.config.configs.values():
        if entry.auth is not None and (entry.key.value != "*" or subject.circumstances.client == "wharfie"):
            yield entry, entry.auth


def _all(auth: Auth) -> dict[str, Text | SecretText]:
    """The fields that are not empty, by name."""
    found = {name: getattr(auth, name) for name in _NAMES}
    return {name: value for name, value in found.items() if value is not None}


# ── R026: what `auth` is ──


@rule(
    "R026",
    "auth-not-base64",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      auth: puller:not-a-secret
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      auth: cHVsbGVyOm5vdC1hLXNlY3JldA==
""",
    sources=("https://github.com/containerd/containerd/blob/v2.3.4/internal/cri/server/images/image_pull.go",),
)
def auth_not_base64(subject: Subject) -> Iterator[Hit]:
    """`auth` is not the base64 of user:password.

    The documentation calls it the "authentication token", but it is what `docker login` keeps: user, colon and password
    together in base64, with its padding. K3s passes on whatever stands there. containerd decodes it when the registry
    asks for a login, and gives this host up if that fails; the next endpoint is asked. Nothing is logged before that. A
    line break behind the password, which `echo` without `-n` puts there, is taken for a part of it.

    wharfie sends the text as it is, without decoding it.
    """
    for _, auth in _used(subject):
        if auth.auth is None or auth.username is not None or auth.identity_token is not None:
            continue  # not used: another rule
        if is_placeholder(auth.auth.value.reveal()):
            message = "auth still holds a placeholder"
            yield Hit(auth.auth.span, message, f"fill it in; {_MAKE}", severity="note")
        elif (found := _fault(auth.auth.value)) is not None:
            cause, remedy = found
            yield Hit(auth.auth.span, f"{cause}: {_outcome(subject, auth.auth)}", remedy, _padded(subject, auth.auth))


def _outcome(subject: Subject, auth: SecretText) -> str:
    """What happens when a registry asks for a login."""
    if subject.circumstances.client == "wharfie" or _decodes(auth.value.reveal()):
        return "the registry refuses the login"
    return "containerd gives up on this host when it asks for a login"


def _fault(value: Secret) -> tuple[str, str] | None:
    """What is wrong, and what to do; never says anything of the value itself."""
    try:
        username, password = decode_auth(value)
    except BadCredential as error:
        return _misread(value, error)
    if username.startswith("{"):
        return "auth holds a whole configuration file of docker", "take the auth of this host out of it"
    if password.reveal().endswith(("\n", "\r")):
        return "auth holds a line break behind the password, as echo without -n puts it there", _MAKE
    return None


def _misread(value: Secret, error: BadCredential) -> tuple[str, str]:
    text = value.reveal()
    if text.startswith(_TOKENS):
        return "auth holds an access token, not base64 of user:password", _PLAIN
    if _decodes(text + "=" * (-len(text) % 4)):
        return "auth lacks the = signs at the end of its base64", "put them back"
    if ":" in text:
        return "auth holds user:password as it is, not base64 of it", _PLAIN
    if _decodes("".join(text.split())):
        return "auth has spaces or broken lines in its base64", "write it in one line, without spaces"
    return error.message.replace("`", ""), f"{_MAKE}; a token belongs in identity_token, or in password with its user"


def _decodes(text: str) -> bool:
    try:
        decode_auth(Secret(text))
    except BadCredential:
        return False
    return True


def _padded(subject: Subject, auth: SecretText) -> Fix | None:
    """The padding that is missing, put behind the rest: no byte of that is in the edit."""
    text, raw = auth.value.reveal(), subject.source.slice(auth.span)
    padding = "=" * (-len(text) % 4)
    if not padding or not _decodes(text + padding):
        return None
    end = subject.source.range(auth.span)[1]
    if raw in (f'"{text}"', f"'{text}'"):
        end -= 1
    elif raw != text:
        return None  # an alias, an anchor, a block
    return subject.source.fix("complete the base64", Edit(subject.source.span(end, end), padding))


# ── R037: config.toml ──


@rule(
    "R037",
    "breaks-config-toml",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      username: puller
      password: "not-a-\\asecret"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      username: puller
      password: 'not-a-"\\asecret é'
""",
    sources=("k3s-io/k3s#1685", DOCUMENTATION),
)
def breaks_config_toml(subject: Subject) -> Iterator[Hit]:
    """A value keeps containerd, and with it the node, from starting.

    K3s writes credentials into containerd's config.toml with Go's `%q`, which is almost TOML: quotes, backslashes and
    letters of all languages survive, but most control characters become escapes that TOML does not have (`\\x7f`,
    `\\a`, `\\v`), and a `'` or a control character in a key of `configs` ends the name of its table. containerd then
    cannot read its configuration and exits.
    """
    keys = {entry.key.span: entry for entry in subject.config.configs.values()}
    for problem in subject.problems_of("containerd-does-not-start"):
        if problem.span is None:
            continue
        if (entry := keys.get(problem.span)) is not None:
            message = f"the key {spoken(entry.key.value)} has a character that makes config.toml unreadable"
            fix = _cleaned(subject, entry)
            yield Hit(
                entry.key.span,
                f"{message}: containerd does not start",
                "write the host, with its port if it has one, and nothing else",
                fix,
            )
        else:
            remedy = "choose one without control characters, or write auth: with base64 of user:password"
            yield Hit(problem.span, problem.message, remedy)


def _cleaned(subject: Subject, entry: Config) -> Fix | None:
    """The key without what surrounds it by mistake, if that is a key of its own."""
    key = entry.key.value.strip("'\"` \t\r\n")
    if not key or key in subject.config.configs or "'" in key or not key.isprintable():
        return None
    return subject.source.fix(f"rename the key to {spoken(key)}", subject.source.rewritten(entry.key.span, key))


# ── R062, R064: too little, too much ──


@rule(
    "R062",
    "incomplete-credentials",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      password: not-a-secret
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      username: puller
      password: not-a-secret
""",
    sources=("https://github.com/containerd/containerd/blob/v2.3.4/internal/cri/server/images/image_pull.go",),
)
def incomplete_credentials(subject: Subject) -> Iterator[Hit]:
    """Half of a login: a password without a user name, or the other way round.

    containerd takes username and password if there is a username, even with an empty password; else identity_token;
    else auth; else nothing. A password alone is ignored, and the registry is asked as nobody. A username alone hides
    the other two and is no login: towards a registry that wants one, containerd fails with "no basic auth credentials".
    An empty `auth: {}` is none either. wharfie wants both as well.
    """
    lost = {entry.path[1] for entry, _ in lost_values(subject.source)}
    hides = tuple(hiding(subject))
    for entry, auth in _used(subject):
        fields = _all(auth)
        if entry.key.value in lost or auth in hides:
            continue  # rules of their own
        if set(fields) == {"password"}:
            message = (
                f"the password for {spoken(entry.key.value)} has no username: containerd ignores it and asks as nobody"
            )
            yield Hit(fields["password"].span, message, "give the username too; a token belongs in identity_token")
        elif auth.username is not None and auth.password is None:
            yield _without_password(entry, auth.username, hidden=[name for name in fields if name != "username"])
        elif set(fields) == {"auth"} and _lacks_password(fields["auth"]):
            message = f"the auth for {spoken(entry.key.value)} decodes to a user without a password"
            yield Hit(fields["auth"].span, message, _MAKE)
        elif not fields and not _has_strangers(subject, auth):
            message = f"the auth of {spoken(entry.key.value)} is empty: the registry is asked as nobody"
            yield Hit(auth.span, message, "fill in username and password, or take auth out", severity="note")


def _without_password(entry: Config, username: Text, *, hidden: list[str]) -> Hit:
    if hidden:
        message = f"the username for {spoken(entry.key.value)} has no password, and hides {' and '.join(hidden)}"
        return Hit(username.span, message, f"take username out, and {hidden[0]} is used")
    message = f"the username for {spoken(entry.key.value)} has no password: containerd cannot log in with it"
    return Hit(username.span, message, "give the password too")


def _lacks_password(auth: Text | SecretText) -> bool:
    assert isinstance(auth, SecretText)  # as read
    try:
        username, password = decode_auth(auth.value)
    except BadCredential:
        return False
    return bool(username) and not password


def _has_strangers(subject: Subject, auth: Auth) -> bool:
    """Whether there are keys that K3s does not know: those are what is wrong then."""
    entry = subject.source.entry_at(auth.span)
    return entry is not None and any(key.value not in _NAMES for key in entry.value.children[::2])


@rule(
    "R064",
    "two-credentials",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      username: puller
      password: not-a-secret
      identity_token: not-a-token
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  mirror.example:
    auth:
      username: puller
      password: not-a-secret
      auth: cHVsbGVyOm5vdC1hLXNlY3JldA==
""",
    sources=("https://github.com/containerd/containerd/blob/v2.3.4/internal/cri/server/images/image_pull.go",),
)
def two_credentials(subject: Subject) -> Iterator[Hit]:
    """An `auth` holds two logins, of which one is never used.

    containerd takes one: username and password if there is a username, else identity_token, else auth. The others are
    never tried, not even when the first is refused. wharfie prefers identity_token where the registry asks for a token,
    so RKE2 may use one login for its own images and another for pods.
    """
    for entry, auth in _used(subject):
        fields = _all(auth)
        used, unused = _precedence(auth, fields)
        for name in unused:
            message = f"{name} is never used for {spoken(entry.key.value)}: containerd takes {used}"
            yield Hit(fields[name].span, message, f"keep {used} or {name}, and take the other out")


def _precedence(auth: Auth, fields: dict[str, Text | SecretText]) -> tuple[str, list[str]]:
    """What is used, and what is not: nothing, where too little is given, or both are the same."""
    if auth.username is not None:
        if auth.password is None:
            return "", []
        same = auth.auth is not None and _is_same(auth)
        candidates = ("identity_token",) if same else ("identity_token", "auth")
        return "username and password", [name for name in candidates if name in fields]
    used = next((name for name in ("identity_token", "auth") if name in fields), "")
    return used, [name for name in ("auth", "password") if used and name in fields and name != used]


def _is_same(auth: Auth) -> bool:
    assert auth.username is not None  # the caller
    assert auth.password is not None
    assert auth.auth is not None
    try:
        return decode_auth(auth.auth.value) == (auth.username.value, auth.password.value)
    except BadCredential:
        return False


# ── R067, R070: where they go ──


@rule(
    "R067",
    "wildcard-auth",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  "*":
    auth:
      username: puller
      password: not-a-secret
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example
configs:
  "*":
    tls:
      insecure_skip_verify: true
  mirror.example:
    auth:
      username: puller
      password: not-a-secret
""",
    sources=("k3s-io/k3s#11352", "k3s-io/docs#359", "k3s-io/k3s#12326"),
)
def wildcard_auth(subject: Subject) -> Iterator[Hit]:
    """The credentials under `"*"` are never used.

    containerd looks credentials up by the exact host and port that asks for a login, and knows no wildcard. The entry
    `"*"` is used for TLS settings only, and for these only towards registries themselves, not towards mirrors. wharfie
    does use its credentials, so on RKE2 the node starts and pods cannot pull.
    """
    entry = subject.config.configs.get("*")
    if entry is None or entry.auth is None or not _all(entry.auth) or subject.circumstances.client == "wharfie":
        return
    fix, remedy = (
        None,
        "give each registry that wants a login an entry of its own, called like its endpoint's host and port",
    )
    lacking = list(dict.fromkeys(endpoint.lookup for endpoint in subject.endpoints if _is_keyless(subject, endpoint)))
    if len(lacking) == 1 and entry.tls is None:
        remedy = f"call the entry {spoken(lacking[0])}"
        fix = subject.source.fix(
            f"rename the key to {spoken(lacking[0])}", subject.source.rewritten(entry.key.span, lacking[0])
        )
    message = 'containerd never uses the credentials under "*": it looks for the exact host and port'
    yield Hit(entry.auth.span, message, remedy, fix)


def _is_keyless(subject: Subject, endpoint: UsedEndpoint) -> bool:
    return bool(endpoint.host) and endpoint.lookup not in subject.config.configs


@rule(
    "R070",
    "credentials-over-http",
    "note",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - http://mirror.example:5000
configs:
  mirror.example:5000:
    auth:
      username: puller
      password: not-a-secret
""",
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - http://localhost:5000
  quay.io:
    endpoint:
      - https://mirror.example:5000
configs:
  localhost:5000:
    auth:
      username: puller
      password: not-a-secret
  mirror.example:5000:
    auth:
      username: puller
      password: not-a-secret
"""
    ),
    sources=("https://docs.k3s.io/installation/private-registry#without-tls",),
)
def credentials_over_http(subject: Subject) -> Iterator[Hit]:
    """A login goes over the network unencrypted.

    containerd answers whatever host asks for a login with the credentials of its entry, over plain http too. Whoever
    can read the network between the node and the registry can read them.
    """
    for endpoint in subject.endpoints:
        if endpoint.url.scheme != "http" or is_localhost(endpoint.host):
            continue
        entry = k3s.auth_for(subject.config, endpoint.host)
        if entry is not None and entry.tls is None and _is_login(entry):
            message = f"the login for {spoken(endpoint.host)} is sent without encryption, as the endpoint is http"
            yield Hit(endpoint.text.span, message, "use https:// if the registry can, or a login that may only pull")


def _is_login(entry: Config) -> bool:
    try:
        return from_registries(entry) is not None
    except BadCredential:
        return False
