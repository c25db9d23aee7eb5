"""What RKE2's bootstrap puller makes of registries.yaml: the endpoints it asks for an image, in order.

As rancher/wharfie v0.8.0-rc2: pkg/registries/registries.go and endpoint.go, on google/go-containerregistry (pkg/name)
as it is there; specification, section 9, and part B18 of its differences. wharfie applies the file itself: no
hosts.toml comes between, so patterns are used as written.

Go ranges over rewrites in random order; this is the result for the order of the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pierhead.config.containerd import is_localhost
from pierhead.config.gotls import ReadFile, file_error, pair_error
from pierhead.config.registries import Auth, Config, Mirror, RegistriesConfig, Rewrite, Text, Tls, unusable
from pierhead.errors import Problem, Span, UsageError
from pierhead.gourl import GoUrl, InvalidUrl, parse, path_clean, quote, shown, split_host_port
from pierhead.redact import Secret
from pierhead.rewriting import InvalidPattern, compile_pattern, replace_all

HUB: Final = "index.docker.io"  # go-containerregistry's name for docker.io
HUB_ALIAS: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
SHOWN_LIMIT: Final = 500  # characters; an error does not repeat a longer text

_REPOSITORY = re.compile(r"[a-z0-9_./-]{1,255}")
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")

# -- names, as go-containerregistry pkg/name --------------------------------------------------------------------------


class InvalidName(UsageError):
    """A text that go-containerregistry takes for no image name; `go_text` is its error."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{_shown(text)} is no image name to wharfie",
            hint="Write [registry/]repository[:tag] or [registry/]repository@sha256:…, the repository in lower case.",
        )
        self.go_text = f"could not parse reference: {text}"


def _shown(text: str) -> str:
    if len(text) > SHOWN_LIMIT:
        return f"a text of {len(text)} characters"
    before, slash, last = text.rpartition("/")  # a digest holds no "/", so an "@" before one ends a user's name
    return repr(f"{shown(before)}{slash}{last}")


@dataclass(frozen=True, slots=True)
class Name:
    """An image's name; `registry` is `index.docker.io` for what others call docker.io, `ref` the tag or the digest."""

    registry: str
    repository: str
    ref: str

    @property
    def is_digest(self) -> bool:
        """Whether `ref` is a digest, not a tag."""
        return ":" in self.ref

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{'@' if self.is_digest else ':'}{self.ref}"


def parse_name(text: str) -> Name:
    """As `name.ParseReference` without strictness; raises `InvalidName`."""
    name = _tagged(text) or _digested(text)
    if name is None:
        raise InvalidName(text)
    return name


def _tagged(text: str) -> Name | None:
    base, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:  # the colon, if any, is that of a port
        base, tag = text, DEFAULT_TAG
    elif not _TAG.fullmatch(tag):
        return None
    found = _repository(base)
    return Name(*found, tag) if found else None


def _digested(text: str) -> Name | None:
    base, _, digest = text.partition("@")
    if not _DIGEST.fullmatch(digest):
        return None
    tagged = _tagged(base)
    found = _repository(f"{tagged.registry}/{tagged.repository}" if tagged else base)
    return Name(*found, digest) if found else None


def _repository(text: str) -> tuple[str, str] | None:
    """(registry, repository) as `name.NewRepository`: hardly more than the letters of the repository are checked."""
    first, slash, rest = text.partition("/")
    named = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    registry, repository = (first, rest) if named else ("", text)
    if not _REPOSITORY.fullmatch(repository) or not _is_authority(registry):
        return None
    registry = HUB if registry in ("", HUB_ALIAS) else registry
    implicit = registry == HUB and "/" not in repository
    return registry, f"library/{repository}" if implicit else repository


def _is_authority(registry: str) -> bool:
    try:
        return parse(f"//{registry}").host == registry
    except InvalidUrl:
        return False


# -- endpoints --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What an https endpoint is trusted by and shown: `client` is a certificate's file and its key's."""

    ca_file: str | None = None
    client: tuple[str, str] | None = None
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that wharfie asks.

    `is_default`: its host is the registry itself, wherever it stands in the list, so nothing is rewritten. `tls` is
    None for what is not https, and where `tls_error` says why wharfie goes on with default TLS. The rest is the
    origin: `text` as listed (None: added by wharfie), `config` the entry of `configs`, `rule` what changed the name.
    """

    url: GoUrl
    is_default: bool
    repository: str
    ref: str
    namespace: str = ""
    tls: TlsFiles | None = None
    tls_error: str | None = None
    text: Text | None = None
    config: Config | None = None
    rule: Rewrite | None = None

    @property
    def auth(self) -> dict[str, Secret] | None:
        """What go-containerregistry is given, undecoded, by its own field names; None leaves it to docker's config."""
        auth = self.config.auth if self.config else None
        return None if auth is None else auth_fields(auth)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A listed endpoint that wharfie cannot use; `message` holds no secret."""

    text: Text
    message: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """All that wharfie would do for one image. `mirror` is the one whose endpoints are used, None for none.

    `log` holds what it says before its first request, as "level: message", userinfo of endpoints included.
    """

    name: Name
    endpoints: tuple[Endpoint, ...]
    ignored: tuple[Ignored, ...] = ()
    mirror: Mirror | None = None
    log: tuple[Secret, ...] = ()
    problems: tuple[Problem, ...] = ()


def resolve(config: RegistriesConfig, image: str, *, read: ReadFile | None = None) -> Resolution:
    """The endpoints for `image` in order; raises `InvalidName` and `UnusableConfig`.

    With `read` (`gotls.read_file`) the certificate files are looked at; else they are taken to be in order.
    """
    unusable(config)
    name = parse_name(image)
    mirror = _mirror(config, name.registry)
    endpoints, ignored, log = _listed(mirror, name.registry)
    endpoints.append((None, _normalized(name.registry)))
    made = [_endpoint(text, url, name=name, config=config, read=read) for text, url in endpoints]
    tried: list[_Tried] = []
    if any(not endpoint.is_default for endpoint in made):
        tried = [_try(rule, name) for rule in _rewrites(config, name.registry)]
    winner = next((number for number, outcome in enumerate(tried) if outcome.repository is not None), None)
    said = [Secret(outcome.log) for outcome in tried[:winner] if outcome.log]
    log += [line for endpoint in made if not endpoint.is_default for line in said]
    applied = tried[winner] if winner is not None else None
    resolved = tuple(endpoint if endpoint.is_default else _renamed(endpoint, applied) for endpoint in made)
    problems = (
        *(Problem("invalid-endpoint", "error", item.message, item.text.span) for item in ignored),
        *_rewrite_problems(tried, applied, name),
        *_mirror_problems(config, mirror, name.registry),
        *(problem for endpoint in resolved for problem in _endpoint_problems(endpoint)),
    )
    return Resolution(name, resolved, tuple(ignored), mirror, tuple(log), tuple(dict.fromkeys(problems)))


def config_for(config: RegistriesConfig, host: str) -> Config | None:
    """The entry of `configs` for an endpoint's host; the first key that exists wins, whatever it holds."""
    keys = (host, HUB_ALIAS, "*") if host == HUB else (host, "*")
    return next((config.configs[key] for key in keys if key in config.configs), None)


def auth_fields(auth: Auth) -> dict[str, Secret]:
    """The fields that are not empty, by the names that go-containerregistry gives them."""
    fields = {
        "username": Secret(auth.username.value) if auth.username else None,
        "password": auth.password.value if auth.password else None,
        "auth": auth.auth.value if auth.auth else None,
        "identitytoken": auth.identity_token.value if auth.identity_token else None,
    }
    return {name: value for name, value in fields.items() if value}


def _mirror(config: RegistriesConfig, registry: str) -> Mirror | None:
    """As getEndpoints: the first key that exists wins, even without a usable endpoint."""
    keys = [registry]
    if registry == HUB:
        keys.append(HUB_ALIAS)
    elif split_host_port(registry) == ("", ""):
        keys += [f"{registry}:443", f"{registry}:80"]
    return next((config.mirrors[key] for key in [*keys, "*"] if key in config.mirrors), None)


def _rewrites(config: RegistriesConfig, registry: str) -> tuple[Rewrite, ...]:
    """As getRewrites: other keys than `_mirror`, so these may be another mirror's."""
    keys = (registry, HUB_ALIAS, "*") if registry == HUB else (registry, "*")
    return next((config.mirrors[key].rewrites for key in keys if key in config.mirrors), ())


_Listed = list[tuple[Text | None, GoUrl]]


def _listed(mirror: Mirror | None, registry: str) -> tuple[_Listed, list[Ignored], list[Secret]]:
    endpoints: _Listed = []
    ignored: list[Ignored] = []
    log: list[Secret] = []
    for text in mirror.endpoints if mirror else ():
        try:
            endpoints.append((text, _normalized(text.value)))
        except (InvalidUrl, _NoHost) as error:
            ignored.append(Ignored(text, f"wharfie cannot use the endpoint and ignores it: {error.message}"))
            start = f"warning: Ignoring invalid endpoint {text.value} for registry {registry}"
            log.append(Secret(f"{start}: {error.go_text.reveal()}"))
    return endpoints, ignored, log


class _NoHost(UsageError):
    def __init__(self, endpoint: str) -> None:
        super().__init__(f"invalid URL without host: {shown(endpoint)}")
        self.go_text = Secret(f"invalid URL without host: {endpoint}")


def _normalized(endpoint: str) -> GoUrl:
    """As normalizeEndpointAddress; raises `InvalidUrl` and `_NoHost`."""
    text = endpoint if "://" in endpoint else f"//{endpoint}"
    url = parse(text)
    if not url.host:
        raise _NoHost(text)
    scheme = url.scheme
    if not scheme:
        scheme = "http" if is_localhost(url.host) and url.port not in ("", "443") else "https"
    # The raw path stays as it is, as wharfie sets only this field.
    path = "/v2" if url.path in ("", "/", "/v2") else path_clean(url.path)
    return replace(url, scheme=scheme, path=path)


def _endpoint(
    text: Text | None, url: GoUrl, *, name: Name, config: RegistriesConfig, read: ReadFile | None
) -> Endpoint:
    namespace = _namespace(name.registry)
    is_proxy = url.host != namespace and (namespace, url.host) != (HUB_ALIAS, HUB)
    entry = config_for(config, url.host)
    tls, tls_error = _tls(entry.tls if entry else None, read) if url.scheme == "https" else (None, None)
    return Endpoint(
        url=url,
        is_default=namespace == _namespace(url.host),
        repository=name.repository,
        ref=name.ref,
        namespace=namespace if is_proxy else "",
        tls=tls,
        tls_error=tls_error,
        text=text,
        config=entry,
    )


def _namespace(host: str) -> str:
    return HUB_ALIAS if host == HUB else host


def _tls(tls: Tls | None, read: ReadFile | None) -> tuple[TlsFiles | None, str | None]:
    """As getTLSConfig: the files, or why they are not used."""
    if tls is None:
        return TlsFiles(), None
    certificate, key = (text.value if text else "" for text in (tls.cert_file, tls.key_file))
    if bool(certificate) != bool(key):
        given, missing = ("cert", "key") if certificate else ("key", "cert")
        path = quote(certificate or key)
        return None, f"{given} file {path} was specified, but no corresponding {missing} file was specified"
    if read is not None and certificate and (error := pair_error(certificate, key, read)):
        return None, f"failed to load cert file: {error}"
    if read is not None and tls.ca_file:
        try:
            read(tls.ca_file.value)  # a file without any certificate is taken without a word
        except OSError as error:
            return None, f"failed to load CA file: {file_error(tls.ca_file.value, error)}"
    client = (certificate, key) if certificate else None
    return TlsFiles(tls.ca_file.value if tls.ca_file else None, client, tls.insecure_skip_verify), None


# -- rewrites ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tried:
    """What came of one rule: another repository, or a reason that wharfie logs, or nothing at all."""

    rule: Rewrite
    repository: str | None = None
    log: str = ""
    problem: Problem | None = None


def _try(rule: Rewrite, name: Name) -> _Tried:
    try:
        result = replace_all(compile_pattern(rule.pattern.value), rule.replacement.value, name.repository)
    except InvalidPattern as error:
        log = f"warning: Failed to compile rewrite `{rule.pattern.value}` for {name.registry}"
        message = f"the rewrite {rule.pattern.value!r} is skipped: {error.message}"
        return _Tried(rule, log=log, problem=Problem("invalid-rewrite", "error", message, rule.pattern.span))
    if result == name.repository:
        return _Tried(rule)
    found = _repository(f"{name.registry}/{result}")
    if found is not None:
        return _Tried(rule, found[1])
    log = f"warning: Invalid repository rewrite {result} for {name.registry}"
    message = f"wharfie skips the rewrite {rule.pattern.value!r}: {result!r} is no repository name to it"
    return _Tried(rule, log=log, problem=Problem("refused-rewrite", "error", message, rule.replacement.span))


def _renamed(endpoint: Endpoint, applied: _Tried | None) -> Endpoint:
    if applied is None or applied.repository is None:
        return endpoint
    return replace(endpoint, repository=applied.repository, rule=applied.rule)


# -- for people -------------------------------------------------------------------------------------------------------


def _rewrite_problems(tried: list[_Tried], applied: _Tried | None, name: Name) -> Iterator[Problem]:
    for outcome in tried:
        if outcome.problem is not None:
            yield outcome.problem
        if outcome.repository is None or applied is None or outcome is applied:
            continue
        message = (
            f"{name.repository!r} is changed by {applied.rule.pattern.value!r} and by {outcome.rule.pattern.value!r}; "
            "wharfie takes either of them, at random; here the first of the file is taken"
        )
        yield Problem("overlapping-rewrites", "warning", message, outcome.rule.pattern.span)


def _mirror_problems(config: RegistriesConfig, mirror: Mirror | None, registry: str) -> Iterator[Problem]:
    if mirror is None or mirror.key.value in (registry, HUB_ALIAS, "*"):
        return
    message = f"wharfie uses the mirror {mirror.key.value!r} for {registry}, which containerd does not"
    yield Problem("mirror-by-port", "note", message, mirror.key.span)
    if mirror.rewrites and mirror.rewrites != _rewrites(config, registry):
        message = f"wharfie uses the endpoints of {mirror.key.value!r} for {registry}, but not its rewrites"
        yield Problem("rewrites-not-used", "warning", message, mirror.rewrites[0].pattern.span)


def _endpoint_problems(endpoint: Endpoint) -> Iterator[Problem]:
    url = f"{endpoint.url.scheme}://{endpoint.url.host}"
    span = endpoint.text.span if endpoint.text else None
    if endpoint.url.scheme not in ("http", "https"):
        message = f"wharfie cannot ask {url}: only http and https are spoken; it goes on with the next endpoint"
        yield Problem("unsupported-scheme", "error", message, span)
    entry = endpoint.config
    if entry is None:
        return
    if entry.tls is not None and endpoint.tls_error is not None:
        message = f"wharfie asks {url} as if it had no tls of its own: {endpoint.tls_error}"
        yield Problem("tls-not-used", "error", message, entry.tls.span)
    elif entry.tls is not None and endpoint.tls is None and entry.key.value != "*" and _says_anything(entry.tls):
        message = f"wharfie asks {url} without TLS, so the tls of configs.{entry.key.value!r} is not used"
        yield Problem("tls-not-used", "warning", message, entry.tls.span)
    if entry.auth is not None:
        yield from _auth_problems(entry, entry.auth, url)


def _says_anything(tls: Tls) -> bool:
    return bool(tls.ca_file or tls.cert_file or tls.key_file or tls.insecure_skip_verify)


def _auth_problems(entry: Config, auth: Auth, url: str) -> Iterator[Problem]:
    fields = auth_fields(auth)
    span: Span = auth.span
    if entry.key.value == "*" and fields:
        message = f'wharfie sends the credentials of configs."*" to {url}; containerd never uses them'
        yield Problem("wildcard-auth", "warning", message, span)
    if ("username" in fields) != ("password" in fields) and not {"auth", "identitytoken"} & set(fields):
        given, missing = ("username", "password") if "username" in fields else ("password", "username")
        message = f"wharfie logs in to {url} as nobody: a {given} without a {missing} is not used"
        yield Problem("incomplete-credentials", "error", message, span)
