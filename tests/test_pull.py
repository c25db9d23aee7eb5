"""Pulling a list of images: each has its own result, and one that fails does not stop the others."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from images import Image, make_image
from loopback import Handler, Loopback
from pierhead.ask import CONTAINERD, OURS, Profile
from pierhead.auth import BadCredential, Credential, Lookup, from_registries
from pierhead.config import k3s
from pierhead.config.registries import parse
from pierhead.errors import ExitCode
from pierhead.memory import MemoryStore
from pierhead.oci import Platform
from pierhead.pull import Pulled, Puller, exit_code
from pierhead.reference import Digest, Reference
from pierhead.referrers import ReferrersMissing, find_all_referrers
from pierhead.routing import Plan, plan
from pierhead.server.registry import Registry
from pierhead.store import RepositoryName
from pierhead.transfer import Interrupted, Transfer
from pierhead.transport import Cause, Timeouts, TransportError
from pierhead.walk import AllRoutesFailed
from pierhead.wire import Request, Response
from referring import Signed
from scripted import basic, said
from stocked import Tap, Ticks, cut, registry_of, replaced, stock

FIRST = make_image(layers=[1000, 10], compression="none")
LARGE = make_image(layers=[500_000], compression="none")
SECOND = make_image(layers=[1000, 20], compression="none")
SIGNED = Signed.make()


def hosts_of(text: str) -> k3s.K3sHosts:
    return k3s.hosts(parse(text.encode(), "r.yaml"), k3s.Flags())


MIRRORED = """
mirrors:
  hub.example:
    endpoint: [https://a.example, https://b.example]
    rewrite: {"^team/(.*)": "mirror/$1"}
configs:
  b.example: {auth: {username: u, password: hunter2}}
"""


class Pull:
    """A configuration, a network and a store."""

    def __init__(self, text: str, network: dict[str, Registry | Handler], profile: Profile = OURS) -> None:
        hosts = hosts_of(text)
        self.network = Loopback(network)
        self.store = MemoryStore()

        def planned(reference: Reference) -> Plan:
            return plan(reference, hosts.lookup(reference.registry))

        def lookup(reference: Reference) -> Lookup:
            return lambda host: from_registries(k3s.auth_for(hosts.config, host))

        self.puller = Puller(
            planned,
            lookup,
            self.network,
            self.store,
            Timeouts(),
            (Platform.parse("linux/amd64"),),
            profile,
            clock=Ticks(),
        )

    def __call__(self, *images: str, at_once: int = 2) -> list[Pulled]:
        with Unhurried(2) as transfer:
            return self.puller.pull([Reference.parse(image) for image in images], transfer, at_once=at_once)

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.authority}" for request in self.network.requests]


class Unhurried(Transfer):
    """A transfer whose pauses take no time."""

    def pause(self, seconds: float) -> None:
        pass


def mirror(*images: Image) -> Registry:
    return registry_of(*images, name="mirror/app")


def guarded(registry: Registry, credential: Credential) -> Handler:
    """A registry that wants a password."""

    def answer(request: Request) -> Response:
        if request.headers.get("authorization") != credential.basic:
            return basic()
        return registry.handle(request)

    return answer


# ── one image ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_image_comes_by_the_configuration_and_bears_its_own_name() -> None:
    found = from_registries(hosts_of(MIRRORED).config.configs["b.example"])
    assert found is not None
    pull = Pull(MIRRORED, {"b.example": guarded(mirror(FIRST), found)})
    (result,) = pull("hub.example/team/app:1")
    assert result.error is None
    assert [str(name) for name in pull.store.names()] == ["hub.example/team/app:1"]
    assert result.route is not None
    assert (result.route.host, result.route.repository) == ("b.example", "mirror/app")
    assert result.descriptor is not None
    assert str(result.descriptor.digest) == FIRST.digest
    failed = [attempt for attempt in result.attempts if attempt.outcome != "ok"]
    assert (failed[0].route.host, failed[0].outcome) == ("a.example", "error")
    assert {attempt.outcome for attempt in failed[1:]} == {"skipped"}
    assert pull.asked.count("HEAD a.example") == 1
    assert "GET a.example" not in pull.asked
    assert "hunter2" not in repr(result)


def test_the_namespace_is_told_to_mirrors() -> None:
    pull = Pull(MIRRORED, {"a.example": mirror(FIRST)})
    assert pull("hub.example/team/app:1")[0].error is None
    assert all(line.endswith("?ns=hub.example") for line in pull.network.lines)


@pytest.mark.parametrize(
    ("network", "code"),
    [
        ({}, ExitCode.NETWORK),
        ({"a.example": lambda request: said(404)}, ExitCode.NOT_FOUND),
        ({"hub.example": lambda request: basic()}, ExitCode.NETWORK),
        ({"a.example": lambda request: basic()}, ExitCode.NOT_AUTHORISED),
        ({"a.example": lambda request: said(500)}, ExitCode.FAILED),
        ({"hub.example": lambda request: said(403)}, ExitCode.NOT_AUTHORISED),
    ],
)
def test_the_exit_code_is_that_of_the_decisive_cause(network: dict[str, Handler], code: ExitCode) -> None:
    results = Pull(MIRRORED, dict(network))("hub.example/team/app:1")
    assert isinstance(results[0].error, AllRoutesFailed)
    assert exit_code(results) is code
    assert len(results[0].error.attempts) == 3
    assert list(results[0].attempts) == list(results[0].error.attempts)


def test_a_bad_credential_fails_its_own_endpoint() -> None:
    text = MIRRORED.replace("https://b.example]", "https://b.example]").replace(
        "username: u, password: hunter2", "auth: '!'"
    )
    pull = Pull(text, {"b.example": lambda request: basic(), "hub.example": registry_of(FIRST)})
    (result,) = pull("hub.example/team/app:1")
    assert result.error is None
    refused = next(attempt for attempt in result.attempts if attempt.route.host == "b.example")
    assert (refused.outcome, refused.cause) == ("auth", "configs 'b.example': `auth` is not base64")
    assert BadCredential.exit_code is refused.exit_code


# ── several images ───────────────────────────────────────────────────────────────────────────────────────────────


def test_one_failing_image_does_not_stop_the_others() -> None:
    pull = Pull("", {"hub.example": registry_of(FIRST, SECOND)})
    results = pull("hub.example/team/app:1", "hub.example/team/app:none", "hub.example/team/app:2", "gone.example/x:1")
    assert [result.error is None for result in results] == [True, False, True, False]
    assert [result.reference.object for result in results] == ["1", "none", "2", "1"]
    assert exit_code(results) is ExitCode.PARTIAL
    assert exit_code(results[:1]) is ExitCode.DONE
    assert exit_code(results[1:2]) is ExitCode.NOT_FOUND
    assert exit_code(results[3:]) is ExitCode.NETWORK
    assert exit_code([]) is ExitCode.DONE


def test_blobs_shared_by_images_are_fetched_once() -> None:
    tap = Tap(registry_of(FIRST, SECOND))
    results = Pull("", {"hub.example": tap})("hub.example/team/app:1", "hub.example/team/app:2")
    assert all(result.error is None for result in results)
    sizes = {digest: len(data) for digest, data in {**FIRST.blobs, **SECOND.blobs}.items()}
    assert tap.served == {digest: sizes[digest] for digest in tap.served}
    assert sum(result.copied.fetched_bytes for result in results if result.copied) == sum(sizes.values())


def test_images_of_several_repositories_share_what_they_have_in_common() -> None:
    registry = registry_of(FIRST)
    stock(registry._store, FIRST, "other/name")
    tap = Tap(registry)
    results = Pull("", {"hub.example": tap})("hub.example/team/app:1", "hub.example/other/name:1")
    assert all(result.error is None for result in results)
    assert all(count == len(FIRST.blobs[digest]) for digest, count in tap.served.items())


def test_a_dead_mirror_is_dialled_once_for_all_images() -> None:
    for profile, times in ((OURS, 1), (CONTAINERD, None)):
        pull = Pull(MIRRORED, {"hub.example": registry_of(FIRST, SECOND)}, profile)
        results = pull("hub.example/team/app:1", "hub.example/team/app:2", at_once=1)
        assert all(result.error is None for result in results)
        dialled = sum(line.endswith(" a.example") for line in pull.asked)
        assert dialled == times if times else dialled > 2


# ── nothing is silent (law 10) ───────────────────────────────────────────────────────────────────────────────────


def test_what_was_retried_replaced_or_skipped_is_an_attempt() -> None:
    layer = FIRST.manifest["layers"][0]["digest"]
    config = FIRST.manifest["config"]["digest"]
    bad = Tap(mirror(FIRST), {layer: cut(100), config: replaced(lambda data: data[::-1])})
    pull = Pull(MIRRORED, {"a.example": bad, "hub.example": registry_of(FIRST)})
    (result,) = pull("hub.example/team/app:1")
    assert result.error is None
    told = {(attempt.route.host, attempt.outcome): attempt for attempt in result.attempts}
    assert "cut inside the body" in told["a.example", "error"].cause
    assert "not what their descriptor says" in told["a.example", "content"].cause
    assert told["hub.example", "ok"].status in {200, 206}
    for request in pull.network.requests:
        if request.authority != "b.example":
            assert any(attempt.url == request.url for attempt in result.attempts), request.url


def test_every_attempt_has_a_url_a_time_and_a_cause() -> None:
    pull = Pull(MIRRORED, {"a.example": lambda request: said(429, retry_after="3"), "hub.example": registry_of(FIRST)})
    (result,) = pull("hub.example/team/app:1")
    for attempt in result.attempts:
        assert attempt.url.startswith("https://")
        assert attempt.seconds > 0
        assert (attempt.cause == "") is (attempt.outcome == "ok")
    assert any("it said 429" in attempt.cause for attempt in result.attempts if attempt.outcome == "skipped")


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Endless:
    """A body that comes byte by byte, longer than any test."""

    size_bytes = None

    def __init__(self, begun: Callable[[], object]) -> None:
        self.begun = begun
        self.left = threading.Event()

    def copy_to(self, write: Callable[[bytes], object], offset: int = 0) -> int:
        self.begun()
        try:
            while True:
                write(b"\0")
                self.left.wait(0.001)
        finally:
            self.left.set()

    def close(self) -> None:
        self.left.set()


def hanging(begun: Callable[[], object]) -> tuple[Handler, Endless]:
    """A registry whose layer never comes to its end."""
    body = Endless(begun)
    layer = LARGE.manifest["layers"][0]["digest"]
    tap = Tap(registry_of(LARGE), {layer: lambda request, response: replace(response, body=body)})
    return tap, body


def test_ctrl_c_ends_everything_at_once() -> None:
    begun = threading.Event()
    tap, body = hanging(begun.set)
    pull = Pull("", {"hub.example": tap})

    def interrupt() -> None:
        assert begun.wait(10)
        signal.raise_signal(signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        pull("hub.example/team/app:1", "hub.example/team/app:1")
    interrupter.join(10)
    assert body.left.wait(10)
    assert not list(pull.store.names())


def test_a_cancelled_transfer_ends_the_pull() -> None:
    transfer = Unhurried(2)
    tap, _ = hanging(transfer.cancel)
    pull = Pull("", {"hub.example": tap})
    with transfer, pytest.raises(Interrupted):
        pull.puller.pull([Reference.parse("hub.example/team/app:1")], transfer)
    assert not list(pull.store.names())


def test_what_nobody_expects_is_raised() -> None:
    def broken(request: Request) -> Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Pull("", {"hub.example": broken})("hub.example/team/app:1")


def test_a_transport_error_of_a_route_is_not_the_end() -> None:
    def closed(request: Request) -> Response:
        raise TransportError(Cause.CLOSED, request.url)

    pull = Pull(MIRRORED, {"a.example": closed, "b.example": closed, "hub.example": registry_of(FIRST)})
    assert pull("hub.example/team/app:1")[0].error is None


# ── what refers to an image ──────────────────────────────────────────────────────────────────────────────────────


def signed_at(*hosts: str, change: dict[str, Callable[[Request, Response], Response]] | None = None) -> Pull:
    """A pull of an image and of all that refers to it."""
    store = MemoryStore()
    SIGNED.put_into(store, "hub.example/mirror/app:1")
    pull = Pull(MIRRORED, {host: Tap(Registry(store), change or {}) for host in hosts})
    pull.puller.referrers = True
    return pull


def referring(pull: Pull) -> set[str]:
    """What the store knows to refer to the image."""
    own = pull.store.repository(RepositoryName("team/app", "hub.example"))
    subjects = [Digest.parse(digest) for digest in SIGNED.image.manifests]
    return {str(item.descriptor.digest) for item in find_all_referrers(own, subjects)}


def test_what_refers_to_an_image_comes_with_it_if_asked_for() -> None:
    pull = signed_at("a.example")
    pull.puller.platforms = ()
    pull.puller.referrers = False
    (result,) = pull("hub.example/team/app:1")
    assert (result.error, result.referrers, referring(pull)) == (None, None, set())
    pull.puller.referrers = True
    (result,) = pull("hub.example/team/app:1")
    assert result.error is None
    assert result.referrers is not None
    assert {str(one.descriptor.digest) for _, one in result.referrers.copied} == SIGNED.referrers == referring(pull)
    (tag,) = SIGNED.tagged
    assert {name.reference for name in pull.store.names()} == {"1", tag}
    (again,) = pull("hub.example/team/app:1")
    assert again.referrers is not None
    assert sum(one.fetched_bytes for _, one in again.referrers.copied) == 0


def test_of_one_platform_comes_what_refers_to_that_and_to_the_index() -> None:
    pull = signed_at("a.example")
    pull.puller.platforms = (Platform.parse("linux/arm64"),)  # the bill of material is of the other one
    pull("hub.example/team/app:1")
    assert SIGNED.referrers - referring(pull) == {SIGNED.artifacts[2].digest}


def test_what_does_not_come_is_the_image_s_error_and_the_image_is_there() -> None:
    digest = SIGNED.artifacts[0].digest
    pull = signed_at("a.example", change={digest: cut(10)})
    (result,) = pull("hub.example/team/app:1")
    assert isinstance(result.error, ReferrersMissing)
    assert result.error.message.startswith("hub.example/team/app:1 is there, but not all that refers to it: ")
    assert result.error.exit_code is ExitCode.NETWORK
    assert result.descriptor is not None
    assert str(result.descriptor.digest) == SIGNED.image.digest
    assert result.route is not None
    assert exit_code([result]) is ExitCode.NETWORK


def test_a_registry_that_does_not_say_what_refers_to_an_image() -> None:
    registry = registry_of(FIRST, name="mirror/app")

    def answer(request: Request) -> Response:
        return said(403) if "/referrers/" in request.url else registry.handle(request)

    pull = Pull(MIRRORED, {"a.example": answer})
    pull.puller.referrers = True
    (result,) = pull("hub.example/team/app:1")
    assert isinstance(result.error, ReferrersMissing)
    assert "403" in result.error.message
    assert [str(name) for name in pull.store.names()] == ["hub.example/team/app:1"]


def test_nothing_is_asked_about_an_image_that_did_not_come() -> None:
    pull = signed_at()
    (result,) = pull("hub.example/team/app:1")
    assert isinstance(result.error, AllRoutesFailed)
    assert not [line for line in pull.network.lines if "referrers" in line or "sha256-" in line]
