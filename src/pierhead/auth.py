"""Who we are to a registry: credentials, challenges and tokens, as a conversation that somebody else carries out.

Nothing here opens a socket. A conversation is a generator: it yields what should be done next (`Send` a request,
`Wait`) and is given what came of it. `walk` builds on the same steps, `client` carries them out, and a test can play
the network by hand.

Follows containerd v2.3.4, core/remotes/docker/authorizer.go and auth/fetch.go, and the distribution project's token
specification.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl, urlencode

from pierhead.body import BodyTooLarge, BytesBlob, read_all
from pierhead.errors import ExitCode, PierheadError, Span
from pierhead.gowords import UNAUTHORISED, client_error, corrupt_base64, unexpected_status
from pierhead.redact import MASK, Secret, safe_url, without_secrets
from pierhead.redirect import REDIRECT_LIMIT, location_of, redirected
from pierhead.transport import Cause, Options, TransportError
from pierhead.wire import NO_HEADERS, Challenge, Headers, Request, Response, one_line, status_text

if TYPE_CHECKING:
    from pierhead.config.registries import Config

TOKEN_ANSWER_LIMIT_BYTES: Final = 1024 * 1024
TOKEN_LONGEST_SECONDS: Final = 365 * 24 * 3600.0
# What may be gone the next moment: a token server that failed so is asked again for the next object.
_FLEETING: Final = frozenset({Cause.CLOSED, Cause.CUT})
_BUSY: Final = frozenset({429, 502, 503, 504})
# base64.StdEncoding. (Python's own reading of wrong padding differs between its versions.)
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
CLIENT_ID: Final = "containerd-client"  # As containerd: a few registries tell clients apart by it.

Source = Literal["configs", "docker", "podman", "helper", "flag"]
T = TypeVar("T")


# ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request; the answer is a `Response` or the `TransportError` that came instead."""

    request: Request
    options: Options = Options()


@dataclass(frozen=True, slots=True)
class Wait:
    """Let so many seconds pass; the answer is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Inspect:
    """Look whether the certificate files of these options can be used; the answer is a `TransportError` or None."""

    options: Options


Step = Send | Wait | Inspect
Answer = Response | TransportError | None
Steps = Generator[Step, Answer, T]


def send(request: Request, options: Options) -> Steps[Response]:
    """One request as a conversation; raises the `TransportError` that came instead of an answer."""
    answer = yield Send(request, options)
    if isinstance(answer, TransportError):
        raise answer
    assert answer is not None
    return answer


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name and password, or an identity token (an OAuth2 refresh token), and where it was found.

    `key` is the name under which it stood there (a `configs` key, a server name of docker's config.json).
    """

    username: str
    secret: Secret
    kind: Literal["basic", "auth", "identity_token"] = "basic"
    source: Source = "configs"
    key: str = ""
    span: Span | None = None

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header. A secret."""
        return "Basic " + base64.b64encode(_as_sent(f"{self.username}:{self.secret.reveal()}")).decode()


def _as_sent(text: str) -> bytes:
    """The bytes of a name or password: those that were no UTF-8 come out as they went in, lone surrogates as in Go."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()


Lookup = Callable[[str], Credential | None]
"""The credential for a host[:port] that challenges; raises `BadCredential`."""


class BadCredential(PierheadError):
    """Something stands where a credential should be, and cannot be read as one. The text of it is not shown.

    `go_text` is what containerd says (which shows the text, where we do not).
    """

    exit_code = ExitCode.NOT_AUTHORISED

    def __init__(self, message: str, *, hint: str = "", span: Span | None = None, go_text: str = "") -> None:
        super().__init__(message, hint=hint, span=span)
        self.go_text = go_text


class AuthorizationFailed(PierheadError):
    """A registry or its token server did not let us in, or wants what we do not have; `go_text` as containerd says.

    `busy` is what a token server answered that may let us in later.
    """

    busy: Response | None = None

    exit_code = ExitCode.NOT_AUTHORISED

    def __init__(self, message: str, *, hint: str = "", go_text: str = "") -> None:
        super().__init__(message, hint=hint)
        self.go_text = go_text


def decode_auth(text: Secret) -> tuple[str, Secret]:
    """User name and password out of an `auth` value; raises `BadCredential`.

    As containerd: internal/cri/server/images/image_pull.go ParseAuth, with Go's base64.StdEncoding (padding required,
    line breaks skipped) and trailing NULs taken off the password.
    """
    packed = re.sub(r"[\r\n]", "", text.reveal())
    if not _BASE64.fullmatch(packed):
        raise BadCredential(
            "`auth` is not base64",
            hint="it is base64 of user:password; for a token use `identity_token`, or username and password",
            go_text=corrupt_base64(text.reveal()),
        )
    user, colon, password = base64.b64decode(packed).decode("utf-8", "surrogateescape").partition(":")
    if not colon:
        raise BadCredential(
            "`auth` is base64, but not of user:password",
            hint="printf '%s' 'user:password' | base64 -w0 makes one",
            go_text=f'invalid decoded auth: "{MASK}"',
        )
    return user, Secret(password.strip("\x00"))


def from_registries(config: Config | None) -> Credential | None:
    """The credential of a `configs` entry, by containerd's precedence; raises `BadCredential`.

    User name and password win over the identity token, that wins over `auth`; a lone password is nothing.
    """
    if config is None or config.auth is None:
        return None
    auth, key = config.auth, config.key.value
    if auth.username and auth.username.value:
        password = auth.password.value if auth.password else Secret("")
        return Credential(auth.username.value, password, "basic", "configs", key, auth.username.span)
    if auth.identity_token and auth.identity_token.value:
        token = auth.identity_token
        return Credential("", token.value, "identity_token", "configs", key, token.span)
    if auth.auth and auth.auth.value:
        try:
            username, password = decode_auth(auth.auth.value)
        except BadCredential as error:
            message, span = f"configs {key!r}: {error.message}", auth.auth.span
            raise BadCredential(message, hint=error.hint, span=span, go_text=error.go_text) from None
        return Credential(username, password, "auth", "configs", key, auth.auth.span)
    return None


# ── authorization ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, or why there is none; `expires_at` on the authorizer's clock, None for never."""

    secret: Secret = Secret("")
    expires_at: float | None = None
    failure: PierheadError | None = None


@dataclass(slots=True)
class _Handler:
    """How one host is answered: Basic with a credential, or Bearer from a realm with tokens kept by scope."""

    host: str
    scheme: Literal["basic", "bearer"]
    credential: Credential | None
    realm: str = ""
    service: str = ""
    scopes: tuple[str, ...] = ()
    tokens: dict[str, Token] = field(default_factory=dict, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def forget(self, sent: str) -> None:
        """Drop the token that stood in this Authorization value."""
        for key, token in list(self.tokens.items()):
            if token.failure is None and sent == f"Bearer {token.secret.reveal()}":
                self.tokens.pop(key, None)


class Authorizer:
    """The authorizations of one route: what each host it meets (itself, redirect targets) asked for, and the tokens.

    Safe for several threads; a token that several want is fetched once. `persistent` is our own rule (a refused
    credential is not sent again); False is containerd's, which repeats it until its attempts are used up.
    """

    def __init__(
        self, lookup: Lookup, options: Options, *, clock: Callable[[], float], repeats_refused: bool = False
    ) -> None:
        self._lookup = lookup
        self._options = options
        self._clock = clock
        self._repeats_refused = repeats_refused
        self._handlers: dict[str, _Handler] = {}
        self._told: set[Secret] = set()
        self._lock = threading.Lock()

    def header(self, host: str, scopes: Sequence[str]) -> Steps[str | None]:
        """The Authorization value for a request to `host`, or None as long as it never asked.

        May fetch a token. Raises `AuthorizationFailed` or `TransportError` if that fails, and again the next time
        without asking, unless it was something that passes.
        """
        with self._lock:
            handler = self._handlers.get(host)
        if handler is None:
            return None
        if handler.scheme == "basic":
            assert handler.credential is not None
            return handler.credential.basic
        token = yield from self._token(handler, tuple(sorted({*scopes, *handler.scopes})))
        if token.failure is not None:
            raise token.failure.with_traceback(None)
        return f"Bearer {token.secret.reveal()}"

    def challenged(self, host: str, challenges: Sequence[Challenge], *, sent: str | None, repeated: bool) -> bool:
        """Take note of a 401 from `host`; whether the request should be repeated.

        `sent` is the Authorization value the refused request bore; `repeated` whether the same request was refused
        before. Raises `AuthorizationFailed` and `BadCredential`; False means that the 401 stands.
        """
        with self._lock:
            for challenge in sorted(
                challenges, key=lambda item: {"bearer": 0, "digest": 1, "basic": 2}.get(item.scheme, 3)
            ):
                if challenge.scheme == "bearer":
                    return self._bearer(host, challenge, sent=sent, repeated=repeated)
                if challenge.scheme == "basic":
                    return self._basic(host, challenge, sent=sent)
        return False

    def secrets(self) -> set[str]:
        """Everything secret that any host may have got to know from us, or we from a token server."""
        return {secret.reveal() for secret in set(self._told)}

    def _bearer(self, host: str, challenge: Challenge, *, sent: str | None, repeated: bool) -> bool:
        refusal = challenge.parameters.get("error", "")
        known = self._handlers.get(host)
        if refusal and repeated:
            self._handlers.pop(host, None)
            raise self._failed(
                f"{host} refuses our token: {one_line(self._masked(refusal), 64)}",
                hint=_credential_hint(host, known.credential if known else None),
                go_text=f"server message: {refusal}: {UNAUTHORISED}",
            )
        if known is not None and not refusal:
            if self._repeats_refused or sent is None:
                return True
            # Ours: a token may have run out between two requests, so it is renewed once; not again and again. Another
            # thread may have renewed it already.
            known.forget(sent)
            return not repeated
        realm = challenge.parameters.get("realm", "")
        if not re.match(r"(?i)https?://[^/]", realm):
            raise self._failed(
                f"{host} names no usable token server (realm {safe_url(self._masked(realm))[:200]!r})",
                go_text="" if realm else "no realm specified for token auth challenge",
            )
        self._handlers[host] = _Handler(
            host,
            "bearer",
            self._remembered(self._lookup(host)),
            realm,
            challenge.parameters.get("service", ""),
            tuple(scope for scope in challenge.parameters.get("scope", "").split(" ") if scope),
        )
        return True

    def _basic(self, host: str, challenge: Challenge, *, sent: str | None) -> bool:
        credential = self._lookup(host)
        if credential is None or not credential.username or not credential.secret:
            raise self._failed(
                f"{host} wants a user name and password ({challenge.shown}), and there is none for it",
                hint=_credential_hint(host, credential),
                go_text=f"{UNAUTHORISED}: no basic auth credentials",
            )
        if sent == credential.basic and not self._repeats_refused:
            return False
        self._handlers[host] = _Handler(host, "basic", self._remembered(credential))
        return True

    def _token(self, handler: _Handler, scopes: tuple[str, ...]) -> Steps[Token]:
        key = " ".join(scopes)
        with handler.lock:  # held over the fetch: whoever else wants this token waits for it
            known = handler.tokens.get(key)
            if known is not None and (known.expires_at is None or known.expires_at > self._clock()):
                return known
            try:
                token = yield from _fetch(handler, scopes, self._options, self._clock)
            except TransportError as error:
                error.go_text = _unfetched(handler, error.go_text)
                if error.cause in _FLEETING and not self._repeats_refused:
                    raise  # ours: the next object may ask again
                token = Token(failure=error)
            except AuthorizationFailed as error:
                go_text = _unfetched(handler, error.go_text)
                failure = self._failed(error.message, hint=error.hint, go_text=go_text)
                if error.busy is not None and not self._repeats_refused:
                    failure.busy = error.busy
                    raise failure from None  # ours, as above
                token = Token(failure=failure)
            if token.secret:
                self._told.add(token.secret)
            handler.tokens[key] = token
            return token

    def _masked(self, text: str) -> str:
        return without_secrets(text, self.secrets())

    def _failed(self, message: str, *, hint: str = "", go_text: str) -> AuthorizationFailed:
        """The error, in whose words may be what a server said that knows our secrets."""
        return AuthorizationFailed(self._masked(message), hint=hint, go_text=self._masked(go_text))

    def _remembered(self, credential: Credential | None) -> Credential | None:
        if credential is not None and credential.secret:
            self._told |= {credential.secret, Secret(credential.basic.removeprefix("Basic "))}
        return credential


def _credential_hint(host: str, credential: Credential | None) -> str:
    if credential is None:
        where = f"add configs.{host!r}.auth to registries.yaml, or use `pierhead login`"
        return f"no credentials are known for {host}: {where}"
    if not credential.secret or not credential.username:
        return f"the credentials for {host} have no {'password' if credential.username else 'user name'}"
    return f"the credentials of {credential.username!r} for {host} ({credential.source} {credential.key}) are refused"


def _unfetched(handler: _Handler, go_text: str) -> str:
    kind = "oauth" if handler.credential is not None and handler.credential.secret else "anonymous"
    return f"failed to authorize: failed to fetch {kind} token: {go_text}"


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _fetch(handler: _Handler, scopes: tuple[str, ...], options: Options, clock: Callable[[], float]) -> Steps[Token]:
    """A token, by POST if there is a secret and by GET if there is none or the POST is not understood."""
    credential = handler.credential
    if credential is not None and credential.secret:
        request = _post(handler, credential, scopes)
        with (yield from _sent(request, options)) as answer:
            status = answer.status
            # As containerd: GCR answers 404 to POST, Artifactory 401, ACR 400; 405 falls back for passwords only.
            # A form with a secret in it is not sent on to another place, where Go sends it on.
            asked_otherwise = status in {400, 401, 404} or (status == 405 and bool(credential.username))
            if not asked_otherwise and not location_of(answer):
                return _read(answer, request, handler, clock, names=("access_token",))
    request = _get(handler, credential, scopes)
    with (yield from _followed(request, options)) as answer:
        return _read(answer, request, handler, clock, names=("access_token", "token"))


def _sent(request: Request, options: Options) -> Steps[Response]:
    try:
        return (yield from send(request, options))
    except TransportError as error:
        error.go_text = client_error(request.method, error.url, error)
        raise


def _followed(request: Request, options: Options) -> Steps[Response]:
    """The answer at the end of a token server's redirects; credentials go to its own origin only."""
    origin, authorization = request.origin, request.headers.get("authorization") or None
    for _ in range(REDIRECT_LIMIT):
        answer = yield from _sent(request, options)
        if not location_of(answer):
            return answer
        answer.body.close()
        request = replace(request, url=redirected(request.url, location_of(answer), authorization))
        if request.origin != origin:
            request = replace(request, headers=NO_HEADERS)
    raise TransportError(Cause.PROTOCOL, url=request.url, detail=f"stopped after {REDIRECT_LIMIT} redirects")


def _post(handler: _Handler, credential: Credential, scopes: tuple[str, ...]) -> Request:
    form = [("client_id", CLIENT_ID), ("service", handler.service)]
    if scopes:
        form.append(("scope", " ".join(scopes)))
    if credential.username:
        form += [
            ("grant_type", "password"),
            ("username", credential.username),
            ("password", credential.secret.reveal()),
        ]
    else:
        form += [("grant_type", "refresh_token"), ("refresh_token", credential.secret.reveal())]
    headers = Headers([("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")])
    return Request(
        "POST", handler.realm, headers, BytesBlob(urlencode([(name, _as_sent(text)) for name, text in form]).encode())
    )


def _get(handler: _Handler, credential: Credential | None, scopes: tuple[str, ...]) -> Request:
    realm, _, query = handler.realm.partition("#")[0].partition("?")
    parameters = parse_qsl(query, True)
    if handler.service:
        parameters.append(("service", handler.service))
    parameters += [("scope", scope) for scope in scopes]
    headers = [("Authorization", credential.basic)] if credential is not None and credential.secret else []
    # As Go's url.Values.Encode: sorted by name.
    url = f"{realm}?{urlencode(sorted(parameters, key=lambda item: item[0]))}" if parameters else realm
    return Request("GET", url, Headers(headers))


def _read(
    answer: Response, asked: Request, handler: _Handler, clock: Callable[[], float], *, names: tuple[str, ...]
) -> Token:
    server = safe_url(handler.realm)
    if not 200 <= answer.status < 400:
        error = AuthorizationFailed(
            f"the token server {server} answers {status_text(answer.status)}",
            hint=_credential_hint(handler.host, handler.credential) if answer.status in {401, 403} else "",
            go_text=unexpected_status(asked.method, safe_url(asked.url), answer.status),
        )
        error.busy = answer if answer.status in _BUSY else None
        raise error
    value = _json_object(answer)
    if value is None:  # outside of any handler: such an error would hold the answer, and with it a token
        raise AuthorizationFailed(
            f"the token server {server} answers something that is not a token",
            go_text="unable to decode token response",
        )
    token = next((value[name] for name in names if isinstance(value.get(name), str) and value[name]), "")
    if not token or not token.isprintable():
        raise AuthorizationFailed(
            f"the answer of the token server {server} has no {names[0]}",
            go_text="authorization server did not include a token in the response",
        )
    seconds = value.get("expires_in")
    if not isinstance(seconds, (int, float)) or not seconds > 0:
        return Token(Secret(token))
    return Token(Secret(token), clock() + min(seconds, TOKEN_LONGEST_SECONDS))


def _json_object(answer: Response) -> dict[str, Any] | None:
    try:
        value = json.loads(read_all(answer.body, TOKEN_ANSWER_LIMIT_BYTES))
    except (ValueError, RecursionError, BodyTooLarge):
        return None
    return value if isinstance(value, dict) else None
