"""A token server as registries send their clients to: the distribution project's token specification, in small.

GET with Basic credentials or without, POST with a password or a refresh token; what may be done is decided by user.
"""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

Algorithm = Literal["ES256", "RS256"]

SERVICE: Final = "pierhead-tests"
ISSUER: Final = "pierhead-token-server"
FORM_LIMIT_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class TokenRequest:
    """One request as it came, without its secrets; `user` is who it proved to be, "" for anybody."""

    method: str
    grant: Literal["anonymous", "basic", "password", "refresh_token"]
    user: str
    service: str
    scopes: tuple[str, ...]
    client_id: str
    status: int


@dataclass
class TokenServer:
    """Runs from `with` on; `url` is the realm and `certificate` what a registry trusts (`rootcertbundle`).

    `users` may do everything, anybody may do what `anonymous` lists; `post=False` answers 405 to POST, as some do.
    """

    folder: Path
    users: Mapping[str, str]
    anonymous: Sequence[str] = ()
    algorithm: Algorithm = "ES256"
    post: bool = True
    lifetime_seconds: int = 300
    requests: list[TokenRequest] = field(default_factory=list)
    refresh_tokens: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._signer = Signer(self.algorithm)
        self.certificate = self.folder / "token-server.pem"
        self.certificate.write_bytes(self._signer.pem)
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        handler = type("_HandlerOfOne", (_Handler,), {"tokens": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    @property
    def url(self) -> str:
        """The realm that a challenge names."""
        assert self._server is not None, "it is running only inside of `with`"
        return f"http://127.0.0.1:{self._server.server_port}/token"

    def refresh_token(self, user: str) -> str:
        """A new refresh token of this user, as `docker login` would keep it."""
        token = secrets.token_urlsafe(24)
        self.refresh_tokens[token] = user
        return token

    def token(self, user: str, scopes: Iterable[str]) -> str:
        """A signed token; it allows of these scopes what this user may do."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "nbf": now - 10,
            "iat": now,
            "exp": now + self.lifetime_seconds,
            "jti": secrets.token_hex(8),
            "access": [access for scope in scopes if (access := self._access(user, scope))],
        }
        return self._signer.sign(claims)

    def _access(self, user: str, scope: str) -> dict[str, object] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = [action for action in actions.split(",") if user or action in self.anonymous]
        return {"type": kind, "name": name, "actions": allowed} if allowed else None


class _Handler(BaseHTTPRequestHandler):
    """One request: who asks, and the answer."""

    tokens: TokenServer
    timeout = 10.0

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        offline = query.get("offline_token") == ["true"]
        if header := self.headers.get("Authorization"):
            user = self._basic(header)
            self._answer("basic", user, query, offline=offline)
        else:
            self._answer("anonymous", "", query, offline=False)

    def do_POST(self) -> None:
        form = parse_qs(self._body().decode())
        offline = form.get("access_type") == ["offline"]
        if form.get("grant_type") == ["refresh_token"]:
            user = self.tokens.refresh_tokens.get(_one(form, "refresh_token"))
            self._answer("refresh_token", user, form, offline=offline)
        else:
            user = self._checked(_one(form, "username"), _one(form, "password"))
            self._answer("password", user, form, offline=offline)

    def _body(self) -> bytes:
        """The form; podman and skopeo send it in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(min(int(self.headers.get("Content-Length", "0")), FORM_LIMIT_BYTES))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(min(size, FORM_LIMIT_BYTES - len(body)))
            self.rfile.readline()
        return body

    def _basic(self, header: str) -> str | None:
        user, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        return self._checked(user, password)

    def _checked(self, user: str, password: str) -> str | None:
        right = user in self.tokens.users and hmac.compare_digest(self.tokens.users[user].encode(), password.encode())
        return user if right else None

    def _answer(
        self,
        grant: Literal["anonymous", "basic", "password", "refresh_token"],
        user: str | None,
        fields: Mapping[str, list[str]],
        *,
        offline: bool,
    ) -> None:
        scopes = tuple(scope for text in fields.get("scope", []) for scope in text.split(" "))
        status, body = 200, {"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}
        if self.command == "POST" and not self.tokens.post:
            status = 405
        elif user is None:
            status = 401
        else:
            body = self._granted(user, scopes, offline=offline)
        service, client = _one(fields, "service"), _one(fields, "client_id")
        self.tokens.requests.append(TokenRequest(self.command, grant, user or "", service, scopes, client, status))
        self._send(status, json.dumps(body).encode())

    def _granted(self, user: str, scopes: tuple[str, ...], *, offline: bool) -> dict[str, Any]:
        token = self.tokens.token(user, scopes)
        # A POST is answered with `access_token` alone, as the specification has it.
        names = ("access_token",) if self.command == "POST" else ("access_token", "token")
        body: dict[str, Any] = {**dict.fromkeys(names, token), "expires_in": self.tokens.lifetime_seconds}
        if offline:
            body["refresh_token"] = self.tokens.refresh_token(user)
        return body

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """`requests` is the log."""


class Signer:
    """Signs claims as a JSON Web Token (RFC 7515, 7518) that brings its own certificate along (x5c)."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._key = _new_key(algorithm)
        self._certificate = _self_signed(self._key)

    @property
    def pem(self) -> bytes:
        """The certificate that a registry has to trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, claims: Mapping[str, object]) -> str:
        """The token, three parts joined by dots."""
        chain = [base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()]
        header = {"typ": "JWT", "alg": self._algorithm, "x5c": chain}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        return f"{text}.{_base64(self._signature(text.encode()))}"

    def _signature(self, data: bytes) -> bytes:
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _new_key(algorithm: Algorithm) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def _self_signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day)
    return builder.not_valid_after(now + 90 * day).sign(key, hashes.SHA256())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _one(fields: Mapping[str, list[str]], name: str) -> str:
    return fields.get(name, [""])[0]
