"""A network that is a list of answers: conversations (`auth.Steps`) played to their end without one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from pierhead.auth import Answer, Credential, Inspect, Send, Steps, T, Wait
from pierhead.body import BytesBlob, StreamBlob
from pierhead.redact import Secret
from pierhead.routing import Route
from pierhead.transport import Cause, TransportError
from pierhead.wire import Headers, Request, Response

Reply = Answer | Callable[[Request], Answer]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Network:
    """Gives the next of these answers to whatever is asked; fails if more is asked, or less is when it is over.

    It is also the clock: waiting makes time pass, nothing else does. Every answer must be closed in the end.
    """

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []
        self.waited: list[float] = []
        self.now = 0.0
        self.open = 0

    def clock(self) -> float:
        return self.now

    def play(self, steps: Steps[T]) -> T:
        """The value of a conversation, or what it raises."""
        answer: Answer = None
        try:
            while True:
                answer = self._do(steps.send(answer))
        except StopIteration as end:
            value: T = end.value
            return value

    def _do(self, step: object) -> Answer:
        match step:
            case Send(request=request):
                self.requests.append(request)
                assert self.replies, f"nothing more should be asked: {self.lines[-1]}"
                reply = self.replies.pop(0)
                return self._counted(reply(request) if callable(reply) else reply)
            case Wait(seconds=seconds):
                self.waited.append(seconds)
                self.now += seconds
                return None
            case Inspect():
                return None
        raise AssertionError(step)

    def _counted(self, answer: Answer) -> Answer:
        if not isinstance(answer, Response):
            return answer
        self.open += 1
        body = answer.body

        def pieces() -> Iterator[bytes]:
            taken: list[bytes] = []
            body.copy_to(lambda piece: taken.append(bytes(piece)))
            yield from taken

        return Response(answer.status, answer.headers, StreamBlob(pieces(), body.size_bytes, self._closed))

    def _closed(self) -> None:
        self.open -= 1

    @property
    def lines(self) -> list[str]:
        """Every request as `METHOD url`, with the Authorization that it bore."""
        return [
            " ".join(part for part in (item.method, item.url, item.headers.get("authorization")) if part)
            for item in self.requests
        ]

    @property
    def over(self) -> bool:
        """Everything was asked, and every answer was closed."""
        return not self.replies and not self.open


def said(status: int = 200, body: object = b"", **headers: str) -> Response:
    """An answer; underscores in the names of headers are hyphens."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, Headers([(key.replace("_", "-"), text) for key, text in headers.items()]), BytesBlob(raw))


def manifest(digest: str, size: int = 10, media_type: str = MANIFEST) -> Response:
    """What HEAD of a manifest says."""
    return said(content_type=media_type, content_length=str(size), docker_content_digest=digest)


def basic(realm: str = "r") -> Response:
    return said(401, www_authenticate=f'Basic realm="{realm}"')


def bearer(realm: str = "https://auth.example/token", **more: str) -> Response:
    rest = "".join(f',{key}="{text}"' for key, text in more.items())
    return said(401, www_authenticate=f'Bearer realm="{realm}",service="svc"{rest}')


def token(text: str = "t") -> Response:
    return said(200, {"token": text, "access_token": text})


def down(cause: Cause = Cause.REFUSED, url: str = "https://a.example/") -> TransportError:
    return TransportError(cause, url)


def route(order: int = 1, host: str = "a.example", **more: Any) -> Route:
    values: dict[str, Any] = {
        "order": order,
        "kind": "mirror",
        "endpoint": f"https://{host}",
        "scheme": "https",
        "host": host,
        "path": "/v2",
        "repository": "team/app",
        "capabilities": ("pull", "resolve"),
    }
    return Route(**{**values, **more})


def lookup(**passwords: str) -> Callable[[str], Credential | None]:
    """Credentials of the user `user` by host, whose dots are underscores here."""
    known = {host.replace("_", "."): password for host, password in passwords.items()}
    return lambda host: Credential("user", Secret(known[host])) if host in known else None
