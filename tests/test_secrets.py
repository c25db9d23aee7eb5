"""Law 8: a planted secret appears nowhere but where it must be. Everything that can be echoed is echoed back."""

from __future__ import annotations

import base64
import io
import json
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest

from hostile import HostileServer, Peer
from images import make_image
from pierhead.auth import Lookup, from_registries
from pierhead.cli import run
from pierhead.config import k3s
from pierhead.config.registries import parse
from pierhead.credentials import CredentialSources, chain, flag_credential
from pierhead.layout import LayoutStore
from pierhead.memory import MemoryStore
from pierhead.oci import Platform
from pierhead.pull import Pulled, Puller
from pierhead.reference import Reference
from pierhead.routing import Plan, plan
from pierhead.transfer import Transfer
from pierhead.transport import CurlTransport, Exchange, Timeouts
from stocked import stock
from tarballs import by_full_name, layout_files, tar_of

PLANTED = "hunter2"
PASSWORD, PACKED, IDENTITY, TOKEN, USERINFO, FLAG, DOCKER, SIGNATURE, REALM = (
    f"{PLANTED}-{name}" for name in ("pass", "auth", "identity", "token", "userinfo", "flag", "docker", "sig", "realm")
)
AUTH = base64.b64encode(f"packed:{PACKED}".encode()).decode()


def forms() -> Iterator[str]:
    """Every way in which a planted secret could be written."""
    yield PLANTED
    yield base64.b64encode(PLANTED.encode()).decode()[:8]
    for user, secret in (("user", PASSWORD), ("packed", PACKED), ("own", FLAG), ("docker", DOCKER), ("", IDENTITY)):
        packed = base64.b64encode(f"{user}:{secret}".encode()).decode()
        yield packed
        yield quote(packed, safe="")


def leaked(text: str) -> list[str]:
    return [text[max(0, text.find(form) - 60) :][:150] for form in forms() if form in text]


class Echo:
    """A registry that answers with everything it was told, in every place where an answer has room.

    `scheme` is what it wants; `how` what it does with whoever comes with a credential.
    """

    def __init__(self, scheme: str, how: str) -> None:
        self.scheme = scheme
        self.how = how
        self.url = ""
        self.heads: list[str] = []

    def __call__(self, peer: Peer) -> None:
        while head := peer.head():
            text = head.decode("latin-1")
            self.heads.append(text)
            headers = dict(line.lower().split(": ", 1) for line in text.split("\r\n")[1:])
            said = [line.split(": ", 1)[1] for line in text.split("\r\n") if line.lower().startswith("authorization: ")]
            body = peer.body(int(headers.get("content-length", "0"))).decode()
            peer.send(self._answer(text.split(" ")[0], text.split(" ")[1], said[0] if said else "", body))

    def _answer(self, method: str, target: str, sent: str, form: str) -> bytes:
        if target.startswith("/token"):
            return self._token(sent, form)
        if not sent:
            realm = self.url.replace("://", f"://realm:{REALM}@") + f"/token?key={REALM}"
            challenge = (
                f'Bearer realm="{realm}",service="{quote(REALM)}"' if self.scheme == "bearer" else "Basic realm=x"
            )
            return reply("401 Unauthorized", "", f"WWW-Authenticate: {challenge}")
        password = base64.b64decode(sent.split(" ")[1] + "==").decode("latin-1") if sent.startswith("Basic") else ""
        echoed = f"you sent {sent} which is {password}, quoted {quote(sent)}"
        body = "" if method == "HEAD" else json.dumps({"errors": [{"code": sent, "message": echoed}]})
        match self.how:
            case "redirect":
                return reply("307 T", "", f"Location: {self.url}/there/{quote(sent)}?token={SIGNATURE}")
            case "bad redirect":
                return reply("307 T", "", f"Location: file:///{quote(sent)}/{quote(password)}")
            case "refuse":
                challenge = f'Bearer realm="{self.url}/token",error="{sent}"'
                return reply("401 Unauthorized", body, f"WWW-Authenticate: {challenge}")
        return reply(f"{self.how} {sent}", body, f"Retry-After: {sent}", f"X-Echo: {sent} {password}")

    def _token(self, sent: str, form: str) -> bytes:
        fields = parse_qs(form)
        if self.how == "no token":
            return reply("403 Forbidden", json.dumps({"errors": [{"message": f"{sent} {fields}"}]}))
        if self.how == "garbage":
            return reply("200 OK", f'{{"token": "{TOKEN}", {fields}')
        return reply("200 OK", json.dumps({"token": TOKEN, "access_token": TOKEN, "refresh_token": TOKEN}))


def reply(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body.encode()


CASES = [
    ("basic", "403"),
    ("basic", "404"),
    ("basic", "429"),
    ("basic", "500"),
    ("basic", "304"),
    ("basic", "redirect"),
    ("basic", "bad redirect"),
    ("basic", "refuse"),
    ("bearer", "403"),
    ("bearer", "refuse"),
    ("bearer", "redirect"),
    ("bearer", "no token"),
    ("bearer", "garbage"),
]
KINDS = {
    "password": f"username: user, password: {PASSWORD}",
    "auth": f"auth: {AUTH}",
    "identity": f"identity_token: {IDENTITY}",
}


@dataclass
class Stage:
    """An echoing server, a registries.yaml that is full of secrets, and a home with one."""

    folder: Path
    place: str
    echo: Echo

    @property
    def image(self) -> str:
        return f"{self.place}/team/app:1"

    def registries(self, kind: str) -> Path:
        path = self.folder / "registries.yaml"
        path.write_text(
            "mirrors:\n"
            f"  '{self.place}':\n"
            f"    endpoint: ['http://name:{USERINFO}@{self.place}/mirror', 'http://name:{USERINFO}@127.0.0.1:port']\n"
            "configs:\n"
            f"  '{self.place}': {{auth: {{{KINDS[kind]}}}}}\n"
        )
        return path

    def docker_config(self) -> Path:
        packed = base64.b64encode(f"docker:{DOCKER}".encode()).decode()
        path = self.folder / "docker" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"auths": {self.place: {"auth": packed, "identitytoken": ""}}}))
        path.chmod(0o600)
        return path.parent


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    scheme, how = request.param
    echo = Echo(scheme, how)
    with HostileServer(echo) as server:
        echo.url = server.url
        yield Stage(tmp_path, server.place, echo)


def sent_something(stage: Stage) -> bool:
    """The test is of no use if no secret went out."""
    return any("authorization: " in head.lower() or "POST /token" in head for head in stage.echo.heads)


@pytest.mark.parametrize("stage", CASES, indirect=True, ids=[" ".join(case) for case in CASES])
@pytest.mark.parametrize("kind", [*KINDS, "flag", "docker"])
def test_no_command_shows_a_secret(
    stage: Stage, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(stage.folder))
    monkeypatch.setenv("PIERHEAD_ROOT", str(stage.folder / "root"))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setattr("pierhead.transfer.Transfer.pause", lambda self, seconds: None)
    if kind == "docker":
        monkeypatch.setenv("DOCKER_CONFIG", str(stage.docker_config()))
    trace = stage.folder / "trace.jsonl"
    flags = ["--creds", f"own:{FLAG}", "--plain-http"] if kind == "flag" else ["--plain-http"]
    registries = stage.registries(kind if kind in KINDS else "password")
    if kind == "docker":
        registries.write_text(registries.read_text().partition("configs:")[0])
    chosen = ["--private-registry", str(registries)]
    for arguments in (
        ["pull", stage.image, *chosen, *flags, "--trace", str(trace)],
        ["pull", stage.image, *chosen, *flags, "-o", "json"],
        ["explain", stage.image, *chosen],
        ["explain", stage.image, *chosen, "-o", "json"],
    ):
        run(arguments)
    told = capsys.readouterr()
    assert stage.place in told.out
    assert leaked(told.out + told.err) == []
    assert leaked(trace.read_text()) == []
    assert sent_something(stage) or (kind == "identity" and stage.echo.scheme == "basic")
    kept = "".join(path.read_text("latin-1") for path in (stage.folder / "root").rglob("*") if path.is_file())
    assert leaked(kept) == []


def moving_and_looking(stage: Stage, registries: Path, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A standard input and the arguments of every command that speaks with registries or reads what they gave."""
    chosen = ["--private-registry", str(registries)]
    own, trace = ["--creds", f"own:{FLAG}", "--plain-http"], ["--trace", str(folder / "trace.jsonl")]
    to = ["--dest-creds", f"own:{FLAG}", "--dest-plain-http"]
    both = [*to, "--src-creds", f"own:{FLAG}", "--src-plain-http"]
    listed = f"http://name:{USERINFO}@{stage.place}/list?token={USERINFO}"
    reports = ["--report", str(folder / "proof.json"), "--report", str(folder / "proof.md")]
    archive, json_too = str(folder / "archive.tar"), ["-o", "json"]
    elsewhere = [f"http://name:{USERINFO}@{stage.place}", "--allow", "unmirrored"]
    for more in ([], own):
        yield "", ["ls", stage.place, *chosen, *more, *json_too, *trace]
        yield "", ["ls", f"{stage.place}/team/app", "--digests", *chosen, *more, *trace]
        yield "", ["inspect", stage.image, *chosen, *more, *json_too, *trace]
        yield "", ["digest", stage.image, *chosen, *more, *trace]
        yield "", ["lock", stage.image, "-o", str(folder / "images.lock"), "--partial", *chosen, *more, *trace]
        yield "", ["lock", listed, "-o", "-", "--partial", *chosen, *more]
        yield "", ["save", f"{stage.place}/team/other:1", "-o", archive, "--json", "--partial", *chosen, *more]
        yield "", ["save", "--images", listed, "-o", archive, *chosen, *more]
    for more in ([], to):
        yield "", ["push", stage.image, *chosen, *more, *trace]
        yield "", ["push", stage.image, f"{stage.place}/team/new:1", *chosen, *more, *json_too]
    for more in ([], both):
        yield "", ["copy", stage.image, f"{stage.place}/team/copy:1", *chosen, *more, "--referrers", *trace]
        yield "", ["copy", stage.image, f"oci:{folder / 'layout'}:x", *chosen, *more, *json_too]
        yield "", ["copy", f"docker-archive:{archive}", stage.image, *chosen, *more, *json_too]
        yield "", ["seed", stage.image, "--from", "store", *reports, *chosen, *more, *trace]
        yield "", ["seed", stage.image, "--from", elsewhere[0], *json_too, *chosen, *more]
        yield "", ["seed", stage.image, "--to", *elsewhere, *chosen, *more]
        yield "", ["seed", stage.image, "--dry-run", *chosen, *more]
        yield "", ["seed", "--images", listed, "--since", listed, *chosen, *more]
        yield "", ["bundle", "apply", archive, *reports, *chosen, *more, *trace]
    for said in (f"{PASSWORD}\n", PASSWORD * 2):
        yield said, ["login", stage.place, "-u", "user", "--password-stdin", "--plain-http", *chosen, *trace]
        yield said, ["login", stage.place, "-u", "user", "--password-stdin", "--registries-yaml", *chosen, *json_too]
        yield said, ["login", f"http://name:{USERINFO}@{stage.place}", "-u", "user", "--password-stdin", *chosen]
    yield "", ["load", archive, "--root", str(folder / "loaded"), *json_too]
    yield "", ["images"]
    yield "", ["verify"]
    yield "", ["logout", stage.place, "--registries-yaml", *chosen, *json_too]
    yield "", ["logout", stage.place, *json_too]


@pytest.mark.parametrize("stage", CASES, indirect=True, ids=[" ".join(case) for case in CASES])
def test_no_command_that_moves_or_looks_shows_a_secret(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = tmp_path / "written"
    written.mkdir()
    monkeypatch.setenv("HOME", str(stage.folder))
    monkeypatch.setenv("PIERHEAD_ROOT", str(written / "root"))
    monkeypatch.setenv("DOCKER_CONFIG", str(stage.docker_config()))
    monkeypatch.setattr("pierhead.transfer.Transfer.pause", lambda self, seconds: None)
    monkeypatch.setattr("pierhead.ask.back_off", lambda count: 0.0)
    stock(LayoutStore(written / "root"), make_image(layers=[b"hello"]), "team/app", "1", namespace=stage.place)
    (written / "archive.tar").write_bytes(tar_of(layout_files([by_full_name(stage.image, make_image())])))
    for stdin, arguments in moving_and_looking(stage, stage.registries("password"), written):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        run(arguments)
        told = capsys.readouterr()
        assert told.out + told.err, arguments
        assert leaked(told.out + told.err) == [], arguments
    assert sent_something(stage)
    files = [path for path in written.rglob("*") if path.is_file()]
    assert {"trace.jsonl", "proof.json", "proof.md"} <= {path.name for path in files}
    assert leaked("".join(path.read_text("latin-1") for path in files)) == []


# ── in the process ───────────────────────────────────────────────────────────────────────────────────────────────


class Hurried(Transfer):
    """A transfer whose pauses take no time."""

    def pause(self, seconds: float) -> None:
        pass


def played(stage: Stage, kind: str, environment: dict[str, str]) -> tuple[Pulled, Puller, list[Exchange], Plan]:
    hosts = k3s.hosts(parse(stage.registries(kind).read_bytes(), "r.yaml"), k3s.Flags())
    sources = CredentialSources(environment, stage.folder)
    exchanges: list[Exchange] = []

    def lookup(reference: Reference) -> Lookup:
        flag = flag_credential(f"own:{FLAG}")
        own: Lookup = lambda host: flag if host == "elsewhere" else None  # noqa: E731
        return chain(own, lambda host: from_registries(k3s.auth_for(hosts.config, host)), sources.lookup)

    def planned(reference: Reference) -> Plan:
        return plan(reference, hosts.lookup(reference.registry))

    transport = CurlTransport(environment={}, on_exchange=exchanges.append)
    puller = Puller(planned, lookup, transport, MemoryStore(), Timeouts(2, 2, 5, 5), (Platform.parse("linux/amd64"),))
    reference = Reference.parse(stage.image)
    try:
        with Hurried(1) as transfer:
            (result,) = puller.pull([reference], transfer)
    finally:
        transport.close()
    return result, puller, exchanges, planned(reference)


def everything_about(error: BaseException | None) -> str:
    """All that an error holds, and those that it came from; frames with their local variables."""
    seen: list[str] = []
    while error is not None:
        shown = traceback.TracebackException.from_exception(error, capture_locals=False)
        seen += [repr(error), str(error), repr(vars(error)), repr(error.args), "".join(shown.format())]
        error = error.__cause__ or error.__context__
    return "\n".join(seen)


@pytest.mark.parametrize("stage", CASES, indirect=True, ids=[" ".join(case) for case in CASES])
@pytest.mark.parametrize("kind", KINDS)
def test_no_value_shows_a_secret(stage: Stage, kind: str) -> None:
    result, puller, exchanges, planned = played(stage, kind, {"DOCKER_CONFIG": str(stage.docker_config())})
    assert result.error is not None
    assert result.attempts
    shown = [repr(result), repr(puller), repr(exchanges), repr(planned), everything_about(result.error)]
    shown += [json.dumps(exchange.to_json()) for exchange in exchanges]
    shown += [f"{attempt.cause} {attempt.hint} {attempt.url}" for attempt in result.attempts]
    for text in shown:
        assert leaked(text) == []
