"""The scripted registries of `recorder` without a socket: a `Transport` that gives what they would answer.

The same handler answers; only what happens below HTTP (who listens, who speaks TLS, whose certificate is believed) is
decided here, as the recorded cases say it.
"""

from __future__ import annotations

import io
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from pierhead.body import Buffer, StreamBlob
from pierhead.transport import Cause, Options, TransportError
from pierhead.transport.trust import Trust
from pierhead.wire import Headers, Request, Response
from recorder import Record, Script, ScriptedImage, _Handler

NAMES = {"localhost": "127.0.0.1"}


class _Unplugged(_Handler):
    """Answers one request out of a buffer into another one."""

    def __init__(self, script: Script, raw: bytes) -> None:
        self.script = script
        self.asked = False
        self.rfile = io.BytesIO(raw)
        self.wfile = io.BytesIO()
        self.client_address = ("127.0.0.1", 0)
        self.close_connection = False
        self.raw_requestline = self.rfile.readline()
        assert self.parse_request()
        with suppress(OSError, AttributeError):  # cutting a connection that does not exist
            self._answer()

    @property
    def answer(self) -> bytes:
        written = self.wfile.getvalue()  # type: ignore[attr-defined]
        assert isinstance(written, bytes)
        return written


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


class Unplugged:
    """Every host of a case as a `Transport`; `record` is what they were asked."""

    def __init__(self, case: Mapping[str, Any], images: Mapping[str, ScriptedImage], pki: Path) -> None:
        self.record = Record()
        self._names = NAMES | case.get("names", {})
        self._trust = Trust({"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/nonexistent"})
        self._pki = pki
        self._scripts = {
            key: Script(key, behaviour, self.record, images[behaviour["image"]] if behaviour.get("image") else None)
            for key, behaviour in case["hosts"].items()
            if behaviour.get("state") != "refused"
        }

    def send(self, request: Request, options: Options = Options()) -> Response:
        script = self._scripts.get(self._address(request.url))
        if script is None:
            raise TransportError(Cause.REFUSED, request.url)
        if script.behaviour.get("scheme") == "https":
            if request.url.startswith("http://"):
                self.record.event(script.key, "plain_http_on_tls")
                return Response(400)
            self._verify(request.url, options, script)
        elif request.url.startswith("https://"):
            self.record.event(script.key, "tls_hello_on_plain_http")
            raise TransportError(Cause.PLAIN_HTTP, request.url)
        return _answered(request, _Unplugged(script, _raw(request)).answer)

    def _address(self, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        if not host:
            raise TransportError(Cause.BAD_URL, url)
        named = next((self._names[name] for name in self._names if name.lower() == host), host)
        shown = f"[{named}]" if ":" in named else named
        with suppress(ValueError):
            return f"{shown}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        raise TransportError(Cause.BAD_URL, url)

    def _verify(self, url: str, options: Options, script: Script) -> None:
        """As a handshake would go: our CAs and their certificate, their CA and our certificate."""
        name = script.behaviour.get("cert", "server")
        trusted = any(Path(file).name == "ca.pem" for file in options.tls.ca_files)
        detail = ""
        if not options.tls.insecure_skip_verify:
            if not trusted:
                detail = "unable to get local issuer certificate"
            elif name == "wrongname":
                detail = "no alternative certificate subject name matches"
        if detail:
            self.record.event(script.key, "tls_handshake_failed")
            raise TransportError(Cause.CERTIFICATE, url, detail=detail)
        wanted = script.behaviour.get("client_ca")
        if wanted and [Path(certificate).stem for certificate, _ in options.tls.client[:1]] != ["client"]:
            self.record.event(script.key, "tls_handshake_failed")
            raise TransportError(Cause.CLIENT_CERTIFICATE, url, detail="alert certificate required")

    def inspect(self, options: Options) -> TransportError | None:
        """The files of a case are real."""
        try:
            self._trust.ca_path(options.tls.ca_files)
            for certificate, key in options.tls.client:
                self._trust.check_client(certificate, key)
        except TransportError as error:
            return error
        return None

    def close(self) -> None:
        self._trust.close()


def _raw(request: Request) -> bytes:
    body = io.BytesIO()
    if request.body is not None:
        request.body.copy_to(body.write)
    lines = [f"{request.method} {request.target} HTTP/1.1", f"Host: {request.authority}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    lines += [f"Content-Length: {len(body.getvalue())}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body.getvalue()


def _answered(request: Request, answer: bytes) -> Response:
    if not answer:
        raise TransportError(Cause.CLOSED, request.url)
    parsed = HTTPResponse(_Socket(answer), method=request.method)  # type: ignore[arg-type]  # all it needs of a socket
    parsed.begin()
    headers = Headers(parsed.getheaders())
    length = None if request.method == "HEAD" else parsed.length
    body = b"" if request.method == "HEAD" else answer.partition(b"\r\n\r\n")[2]

    def pieces() -> Iterator[Buffer]:
        if body:
            yield body[:length]
        if length is not None and len(body) < length:
            raise TransportError(Cause.CUT, request.url)

    return Response(parsed.status, headers, StreamBlob(pieces(), length))
