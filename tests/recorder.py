"""A registry that plays a scripted behaviour and records every request, for the recorded cases of containerd.

tests/vectors/README.md says what a behaviour is made of. `play` serves all hosts of a case on free loopback ports and
tells where each of them really listens.
"""

from __future__ import annotations

import base64
import http.server
import json
import re
import socket
import socketserver
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"
TOKEN_FIELDS = ("scope", "service", "grant_type", "client_id", "username", "account", "refresh_token")


@dataclass(frozen=True)
class ScriptedImage:
    """An image of images.json: everything it has, by digest."""

    target: str
    config: str
    layers: tuple[str, ...]
    manifests: Mapping[str, tuple[str, bytes]]
    blobs: Mapping[str, tuple[str, bytes]]

    @classmethod
    def load(cls) -> dict[str, ScriptedImage]:
        def content(items: dict[str, Any]) -> dict[str, tuple[str, bytes]]:
            return {key: (item["media_type"], base64.b64decode(item["base64"])) for key, item in items.items()}

        return {
            name: cls(
                item["target"],
                item["config"],
                tuple(item["layers"]),
                content(item["manifests"]),
                content(item["blobs"]),
            )
            for name, item in json.loads((VECTORS / "images.json").read_text()).items()
        }


@dataclass
class Record:
    """What was asked, in order, and what happened to connections."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    events: dict[str, dict[str, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.requests.append(request)
        return request

    def event(self, host: str, kind: str) -> None:
        with self.lock:
            counts = self.events.setdefault(host, {})
            counts[kind] = counts.get(kind, 0) + 1


@dataclass
class Script:
    """One host of a case: its behaviour, and how often each of its rules was used."""

    key: str
    behaviour: dict[str, Any]
    record: Record
    image: ScriptedImage | None
    context: ssl.SSLContext | None = None
    used: dict[int, int] = field(default_factory=dict)

    def kind_of(self, path: str) -> tuple[str, str, str]:
        """What is asked for (manifest, config, layer0 …, blob, store, other), the repository and the reference."""
        if path.startswith("/store/"):
            return "store", "", path.removeprefix("/store/")
        prefix = re.escape(self.behaviour.get("prefix", "/v2"))
        match = re.fullmatch(rf"{prefix}/(.*)/(manifests|blobs)/([^/]+)", path)
        if not match:
            return "other", "", ""
        repository, what, reference = match.groups()
        if what == "manifests":
            return "manifest", repository, reference
        if self.image and reference == self.image.config:
            return "config", repository, reference
        if self.image and reference in self.image.layers:
            return f"layer{self.image.layers.index(reference)}", repository, reference
        return "blob", repository, reference

    def act(self, method: str, kind: str, reference: str, *, ranged: bool) -> dict[str, Any] | None:
        """What the first matching rule says to do."""
        for index, rule in enumerate(self.behaviour.get("rules", [])):
            if not _matches(rule, method, kind, reference, ranged=ranged):
                continue
            count = self.used.get(index, 0)
            if rule.get("times") is not None and count >= rule["times"]:
                continue
            self.used[index] = count + 1
            do: dict[str, Any] = rule["do"]
            return do
        return None


def _matches(rule: dict[str, Any], method: str, kind: str, reference: str, *, ranged: bool) -> bool:
    wanted = rule.get("kind", "any")
    kinds = {
        "any": True,
        "blob": kind in {"config", "blob"} or kind.startswith("layer"),
        "layer": kind.startswith("layer"),
    }
    by_digest = reference.startswith("sha256:")
    return (
        rule.get("method") in (None, method)
        and kinds.get(wanted, wanted == kind)
        and rule.get("ref") in (None, "digest" if by_digest else "tag")
        and rule.get("range") in (None, ranged)
    )


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = False  # closing waits for every connection, so that the record is complete
    request_queue_size = 32
    script: Script

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections are cut on purpose here


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    disable_nagle_algorithm = True  # or head and body, written apart, wait 40 ms for each other
    server: _Server

    def setup(self) -> None:
        self.script = self.server.script
        self.dead = self.asked = False
        try:
            first = self.request.recv(1, socket.MSG_PEEK)
        except OSError:
            first = b""
        hello = first[:1] == b"\x16"
        if hello and self.script.context is None:
            self._drop("tls_hello_on_plain_http", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        elif self.script.context is not None and not hello:
            reason = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
            self._drop("plain_http_on_tls" if first else "", reason)
        elif self.script.context is not None:
            try:
                self.request = self.script.context.wrap_socket(self.request, server_side=True)
            except OSError:
                self._drop("tls_handshake_failed", b"")
        super().setup()

    def _drop(self, event: str, words: bytes) -> None:
        if event:
            self.script.record.event(self.script.key, event)
        self.dead = True
        with suppress(OSError):
            self.request.sendall(words)

    def handle(self) -> None:
        if self.dead:
            return
        with suppress(OSError):
            super().handle()
        if self.script.context is not None and not self.asked:
            # libcurl looks at the certificate after the handshake, where Go's client ends the handshake itself.
            self.script.record.event(self.script.key, "tls_handshake_failed")

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        self.request.close()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.asked = True
        url = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        form = self.rfile.read(length) if length else b""
        self.note = self.script.record.add(_noted(self.script.key, self.command, url, dict(self.headers)))
        if url.path == "/token":
            self._token(url.query, form)
            return
        kind, repository, reference = self.script.kind_of(url.path)
        do = self.script.act(self.command, kind, reference, ranged=bool(self.note["range"]))
        if not (do or {}).get("before_auth") and kind != "store" and not self._authorized(repository):
            return
        do = do or {}
        if do.get("close"):
            self.note["status"] = None
            self.close_connection = True
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
        elif "redirect" in do:
            self._reply(do.get("status", 307), headers=[("Location", do["redirect"].format(digest=reference))])
        elif "status" in do:
            body = do.get("body", "").encode()
            kind_of_body = do.get("ctype") or ("application/json" if body else None)
            self._reply(do["status"], body, [(name, value) for name, value in do.get("headers", [])], kind_of_body)
        else:
            self._content(kind, repository, reference, do)

    def _token(self, query: str, form: bytes) -> None:
        given = urllib.parse.parse_qs(form.decode() if self.command == "POST" else query, keep_blank_values=True)
        self.note["token_request"] = {
            key: sorted(values) if key == "scope" else values[0] for key, values in given.items() if key in TOKEN_FIELDS
        }
        if self.command == "GET":
            self.note["query"] = ""
        token = self.script.behaviour.get("token", {})
        status = token.get(self.command.lower(), 200)
        if status == 200 and not self._let_in(token, given):
            status = 401
        if status != 200:
            self._reply(status, b'{"errors":[]}', kind="application/json")
            return
        name, text = token.get("field"), f"tok-{self.script.key}"
        fields = {name: text} if name else {"token": text, "access_token": text}
        self._reply(200, json.dumps({**fields, "expires_in": token.get("expires_in", 300)}).encode())

    def _let_in(self, token: dict[str, Any], given: dict[str, list[str]]) -> bool:
        wanted = token.get("credentials")
        if self.command == "GET":
            return not wanted or bool(token.get("anonymous")) or self.note.get("basic") == wanted
        if given.get("grant_type") == ["password"] and wanted:
            return bool(f"{given['username'][0]}:{given['password'][0]}" == wanted)
        if given.get("grant_type") == ["refresh_token"]:
            return bool(given["refresh_token"][0] == token.get("refresh_token"))
        return True

    def _authorized(self, repository: str) -> bool:
        auth = self.script.behaviour.get("auth")
        if not auth:
            return True
        header = self.headers.get("Authorization")
        challenges: list[str] = []
        if auth["type"] == "basic":
            if self.note.get("basic") == auth["credentials"]:
                return True
            challenges = [f'Basic realm="{auth.get("realm", "test")}"']
        elif auth["type"] == "bearer":
            if header == "Bearer tok-" + auth.get("token_host", self.script.key):
                return True
            scope = auth.get("scope", "repository:{repo}:pull").format(repo=repository)
            challenge = f'Bearer realm="{auth["realm"]}",service="{auth.get("service", "svc")}"'
            challenge += f',scope="{scope}"' if scope else ""
            challenges = [challenge + (f',error="{auth["error"]}"' if auth.get("error") and header else "")]
        else:
            challenges = auth.get("challenge", [])
        body = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
        self._reply(401, body, [("WWW-Authenticate", challenge) for challenge in challenges], "application/json")
        return False

    def _content(self, kind: str, repository: str, reference: str, do: dict[str, Any]) -> None:
        image, repositories = self.script.image, self.script.behaviour.get("repos")
        if (
            kind == "other"
            or image is None
            or (repositories is not None and kind != "store" and repository not in repositories)
        ):
            self._unknown("NAME_UNKNOWN", "repository name not known to registry")
            return
        digest = reference
        if kind == "manifest":
            tags = self.script.behaviour.get("tags")
            if not reference.startswith("sha256:"):
                digest = image.target if tags is None or reference in tags else ""
            found = image.manifests.get(digest)
        else:
            found = image.blobs.get(digest)
            if found is None and kind == "blob" and self.script.behaviour.get("manifests_as_blobs"):
                found = image.manifests.get(digest)
            found = found and (found[0] if digest in image.manifests else "application/octet-stream", found[1])
        if found is None:
            self._unknown("MANIFEST_UNKNOWN" if kind == "manifest" else "BLOB_UNKNOWN", "unknown to registry")
            return
        self._send(digest, found[0], found[1], do)

    def _unknown(self, code: str, message: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self._reply(404, body, kind="application/json")

    def _send(self, digest: str, media_type: str, body: bytes, do: dict[str, Any]) -> None:
        if do.get("wrong_bytes"):
            body = bytes(byte ^ 1 for byte in body)
        body = body + b"xx" if do.get("longer") else body[:-2] if do.get("shorter") else body
        headers = [] if do.get("no_digest") else [("Docker-Content-Digest", do.get("digest", digest))]
        status, size = 200, len(body)
        wanted = self.note["range"]
        if wanted and not do.get("ignore_range"):
            start = int(re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)[1])  # type: ignore[index]  # our own client's
            headers.append(("Content-Range", f"bytes {start}-{size - 1}/{size}"))
            body, status = body[start:], 206
        length = None if do.get("no_length") else do.get("length", len(body))
        self._reply(status, body, headers, do.get("ctype", media_type), length=length, cut=do.get("truncate"))

    def _reply(
        self,
        status: int,
        body: bytes = b"",
        headers: list[tuple[str, str]] | None = None,
        kind: str | None = None,
        *,
        length: int | None = -1,
        cut: int | None = None,
    ) -> None:
        self.note["status"] = status
        self.send_response_only(status)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in headers or []:
            self.send_header(name, value)
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True


def _noted(key: str, method: str, url: urllib.parse.SplitResult, headers: Mapping[str, str]) -> dict[str, Any]:
    authorization = headers.get("Authorization") or ""
    scheme = authorization.partition(" ")[0].lower()
    note = {
        "host": key,
        "method": method,
        "path": url.path,
        "query": url.query,
        "auth": scheme or "none",
        "range": headers.get("Range"),
    }
    if scheme == "basic":
        note["basic"] = base64.b64decode(authorization[6:]).decode("utf-8", "replace")
    return note


@dataclass(frozen=True)
class Stage:
    """A case being played: what was recorded, and for every "ip:port" of the case where it really is."""

    record: Record
    places: Mapping[str, str]


@contextmanager
def play(hosts: Mapping[str, dict[str, Any]], images: Mapping[str, ScriptedImage], pki: Path) -> Iterator[Stage]:
    """Serve every host of a case that listens; `pki` is the folder its certificates come from."""
    record = Record()
    places: dict[str, str] = {}
    with ExitStack() as stack:
        for key, behaviour in hosts.items():
            if behaviour.get("state") == "refused":
                continue
            image = images[behaviour["image"]] if behaviour.get("image") else None
            script = Script(key, behaviour, record, image, _context(behaviour, pki))
            places[key] = stack.enter_context(_serving(script, v6=key.startswith("[")))
        yield Stage(record, places)


def _context(behaviour: dict[str, Any], pki: Path) -> ssl.SSLContext | None:
    if behaviour.get("scheme") != "https":
        return None
    name = behaviour.get("cert", "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    if behaviour.get("client_ca"):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki / f"{behaviour['client_ca']}.pem")
    return context


@contextmanager
def _serving(script: Script, *, v6: bool) -> Iterator[str]:
    server = (_Server6 if v6 else _Server)(("::1" if v6 else "127.0.0.1", 0), _Handler)
    server.script = script
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        port = server.server_address[1]
        yield f"[::1]:{port}" if v6 else f"127.0.0.1:{port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
