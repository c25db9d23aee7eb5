"""`pierhead explain --down --status`: the recorded pulls, as far as the options can say what the hosts did."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pierhead.auth import BadCredential
from pierhead.cli import run
from pierhead.oci import MANIFEST_TYPES
from pierhead.reference import InvalidReference, Reference
from pierhead.routing import Route, plan
from pierhead.transport import Options
from replayed import CASES, IMAGES, Case, configured, lookup_of
from unplugged import Unplugged

Line = tuple[str, str, str, str, int | None]  # host, method, path, query, status
SAID = {"image", "scheme", "cert", "rules", "repos", "prefix", "auth", "state"}
SAYABLE = 128  # of the cases; the others do what no option says: tokens, rules for blobs only, indexes …
SAYABLE_OF_AN_ANSWER = {"status", "body", "headers", "ctype"}  # which change what is told, not what is asked
DIGEST = re.compile(r"sha256:(?:[0-9a-f]{64}|<(?:config|layer|manifest)>)")


# ── what the hosts of a case do, in options ──────────────────────────────────────────────────────────────────────────


class Unsayable(Exception):
    """The options have no word for it."""


def options(case: Case, pki: Path) -> list[str]:
    """The conditions of a case as options of `explain`; raises `Unsayable`."""
    hosts = configured(case, pki)
    if hosts.error or case["outcome"].get("containerd_failed_to_start"):
        raise Unsayable("containerd does not start")
    try:
        reference = Reference.parse(case["reference"])
    except InvalidReference as error:
        raise Unsayable("no image") from error
    made = plan(reference, hosts.lookup(reference.registry))
    files = Unplugged(case, IMAGES, pki)
    if any(files.inspect(Options(route.tls)) for route in made.routes):
        raise Unsayable("files that cannot be used")
    files.close()
    if len({route.host for route in made.routes}) < len(made.routes):
        raise Unsayable("a host twice")
    found: list[str] = []
    for route in made.routes:
        credential: object = None
        try:
            credential = lookup_of(hosts)(route.host)
        except BadCredential:
            credential = "bad"
        found += option(case, route, reference, credential)
    return found


def option(case: Case, route: Route, reference: Reference, credential: object) -> list[str]:
    behaviour = case["hosts"].get(address(case, route.host, route.scheme))
    if behaviour is None or behaviour.get("state") == "refused":
        if route.http_fallback and ":" not in route.host.rpartition("]")[2]:
            raise Unsayable("port 80 after port 443")
        return ["--down", route.host] if route.host else []
    if set(behaviour) - SAID or behaviour.get("prefix", "/v2") != route.path:
        raise Unsayable("it does what has no name")
    image = IMAGES[behaviour["image"]] if behaviour.get("image") else None
    if image is not None and image.manifests[image.target][0] not in MANIFEST_TYPES:
        raise Unsayable("an index")
    if reference.digest and image is not None and str(reference.digest) != image.target:
        raise Unsayable("an image it has not")
    trusted = handshake(behaviour, route)
    if trusted is not None:
        return ["--status", f"{route.host}={trusted}"]
    if behaviour.get("auth"):
        if behaviour["auth"]["type"] != "basic" or behaviour.get("rules") or works(behaviour, credential):
            raise Unsayable("credentials that work")
        return ["--status", f"{route.host}=401"]
    missing = image is None or (behaviour.get("repos") is not None and route.repository not in behaviour["repos"])
    rules = behaviour.get("rules", [])
    if not any("/blobs/" in request["path"] for request in case["requests"]):
        # Nobody came that far, so a rule for manifests is one for everything.
        rules = [{key: value for key, value in rule.items() if (key, value) != ("kind", "manifest")} for rule in rules]
    said = statuses(rules, 404 if missing else 200, credential)
    return [] if said == "200" else ["--status", f"{route.host}={said}"]


def handshake(behaviour: dict[str, Any], route: Route) -> str | None:
    """Whether the host is believed: None, or the word for what it is not."""
    speaks_tls = behaviour.get("scheme") == "https"
    if route.http_fallback and speaks_tls:
        raise Unsayable("TLS where http:// is written")
    if route.scheme == "http":
        if speaks_tls:
            raise Unsayable("plain http where TLS is spoken")
        return None
    if not speaks_tls:
        if route.http_fallback and route.endpoint.startswith("http://") and ":" in route.host:
            return None
        raise Unsayable("TLS where plain http is spoken")
    if behaviour.get("client_ca"):
        raise Unsayable("client certificates")
    known = any(file.endswith("/ca.pem") for file in route.tls.ca_files)
    if route.tls.insecure_skip_verify or (known and behaviour.get("cert", "server") == "server"):
        return None
    return "tls"


def works(behaviour: dict[str, Any], credential: object) -> bool:
    if credential in (None, "bad"):
        return False
    username, secret = getattr(credential, "username", ""), getattr(credential, "secret", None)
    return secret is not None and behaviour["auth"]["credentials"] == f"{username}:{secret.reveal()}"


def statuses(rules: Sequence[dict[str, Any]], otherwise: int, credential: object) -> str:
    """Rules that hold for every request, as a list of statuses."""
    said: list[int] = []
    for rule in rules:
        if set(rule) - {"do", "times"} or (
            set(rule["do"]) - SAYABLE_OF_AN_ANSWER and rule["do"] != {"wrong_bytes": True}
        ):
            raise Unsayable("a rule for some requests only")
        if "wrong_bytes" in rule["do"]:
            if said or rule.get("times") is not None or otherwise != 200:
                raise Unsayable("wrong bytes for some time")
            return "wrong-bytes"
        status = rule["do"]["status"]
        if status < 300 or "redirect" in rule["do"] or (status == 401 and credential is not None):
            raise Unsayable("a status with a meaning of its own")
        said += [status] * (rule.get("times") or 1)
        if rule.get("times") is None:
            return ",".join(map(str, said))
    return ",".join(map(str, [*said, otherwise]))


def address(case: Case, host: str, scheme: str) -> str:
    """The "ip:port" that the recorded hosts are known by."""
    parts = urlsplit(f"{scheme}://{host}")
    name = parts.hostname or ""
    found = case.get("names", {}).get(name, "127.0.0.1" if name == "localhost" else name)
    shown = f"[{found}]" if ":" in found else found
    return f"{shown}:{parts.port or (443 if scheme == 'https' else 80)}"


# ── what was asked ───────────────────────────────────────────────────────────────────────────────────────────────────


def recorded(case: Case) -> list[Line]:
    keys = ("host", "method", "path", "query", "status")
    return [tuple(request.get(key, "") for key in keys) for request in case["requests"]]


def told(case: Case, requests: Sequence[dict[str, Any]]) -> list[Line]:
    """The requests of the command that reached somebody."""
    found: list[Line] = []
    for request in requests:
        parts = urlsplit(request["url"])
        if request["failure"] is None:
            host = address(case, parts.netloc, parts.scheme)
            found.append((host, request["method"], parts.path, parts.query, request["status"]))
    return found


def in_groups(lines: Sequence[Line]) -> tuple[list[Line], set[tuple[Line, ...]]]:
    """Everything up to the last manifest, then what was asked for each blob; without the digests."""
    last = max((index for index, item in enumerate(lines) if "/manifests/" in item[2]), default=-1)
    blobs: dict[str, list[Line]] = {}
    for item in lines[last + 1 :]:
        blobs.setdefault(item[2].rpartition("/")[2], []).append(anonymous(item))
    return [anonymous(item) for item in lines[: last + 1]], {tuple(group) for group in blobs.values()}


def anonymous(item: Line) -> Line:
    host, method, path, query, status = item
    return host, method, DIGEST.sub("<digest>", path), query, status


def sayable(pki: Path) -> Iterator[tuple[Case, list[str]]]:
    for case in CASES:
        try:
            yield case, options(case, pki)
        except Unsayable:
            continue


# ── the tests ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No logins of the machine, no file of its own."""
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "PIERHEAD_PRIVATE_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_the_command_tells_what_containerd_asked(
    case: Case, vector_pki: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        conditions = options(case, vector_pki)
    except Unsayable:
        return  # `test_most_cases_can_be_said` counts them
    file = tmp_path / "registries.yaml"
    file.write_text(case["yaml"].replace("{pki}", str(vector_pki)))
    arguments = ["explain", case["reference"], "--private-registry", str(file), "-o", "json", *conditions]
    if case["flags"]["disable_default_registry_endpoint"]:
        arguments.append("--disable-default-registry-endpoint")
    if case["flags"]["embedded_registry"]:
        arguments += ["--embedded-registry", case["flags"]["embedded_registry"]]
    # A condition that changes nothing, if nothing is wrong: the requests are asked for all the same.
    assert run(arguments if conditions else [*arguments, "--status", f"{some_host(case, vector_pki)}=200"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    found = image["what_if"]
    head, blobs = in_groups(told(case, found["requests"]))
    expected_head, expected_blobs = in_groups(recorded(case))
    assert head == expected_head
    if case["outcome"]["ok"]:
        assert blobs == expected_blobs
        assert found["kubelet"] is None
        assert found["resolved_by"]
    else:
        assert blobs <= expected_blobs
        assert found["kubelet"].startswith("failed to pull and unpack image ")
        assert found["resolved_by"] is None


def some_host(case: Case, pki: Path) -> str:
    reference = Reference.parse(case["reference"])
    routes = plan(reference, configured(case, pki).lookup(reference.registry)).routes
    return next(route.host for route in routes if route.host)


def test_most_cases_can_be_said(vector_pki: Path) -> None:
    said = [(case, words) for case, words in sayable(vector_pki)]
    assert len(said) == SAYABLE
    words = {word.rpartition("=")[2] for _, said_words in said for word in said_words if "=" in word}
    assert {"tls", "401", "404", "429,429,200", "503,500"} <= words
