"""Images put where nodes look, and proved to be there: everything but the sockets is real."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

import pytest

from images import Image, make_image, make_index
from loopback import Handler, Loopback
from pierhead.auth import Credential
from pierhead.cli.seed.asked import mapped
from pierhead.errors import ExitCode, PierheadError, UsageError
from pierhead.layout import LayoutStore
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_INDEX, Platform
from pierhead.redact import Secret
from pierhead.reference import Digest, Reference
from pierhead.routing import OwnRegistry
from pierhead.seed.seeder import exit_code, summary
from pierhead.seed.sources import Offer, Preferred
from pierhead.server.registry import Registry
from pierhead.store import RepositoryName, Source
from pierhead.transport import Cause, TlsOptions, TransportError
from pierhead.wire import Request, Response
from scripted import said
from seeding import HUB, Fleet, guarded, registry
from stocked import Tap, cut, once, replaced, stock

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
PAUSE = make_image(layers=[1000, 10], compression="none")
OLD = make_image(layers=[700], compression="none")
REDIS = make_image(layers=[1000, 2000], platforms=["linux/amd64", "linux/arm64"], compression="none")
DOCKER = make_image(layers=[300], media="docker", platforms=["linux/amd64"])

MIRRORED = """
mirrors:
  docker.io:
    endpoint: [https://a.example, https://b.example]
    rewrite: {"^rancher/(.*)": "mirror/rancher/$1"}
  quay.io:
    endpoint: [https://a.example]
"""


def upstream() -> dict[str, Tap]:
    return {
        HUB: Tap(registry({"rancher/pause:3.6": PAUSE, "library/redis:7": REDIS})),
        "quay.io": Tap(registry({"team/app:1": DOCKER})),
    }


def fleet(more: Mapping[str, Registry | Handler] = {}, text: str = MIRRORED) -> Fleet:
    return Fleet(text, Loopback({**upstream(), "a.example": registry(), "b.example": registry(), **more}))


ALL = ("rancher/pause:3.6", "redis:7", "quay.io/team/app:1")


# ── what it is for ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_image_is_put_where_a_node_asks_first_and_is_proved_to_be_there() -> None:
    network = fleet()
    results = network.seed(*ALL)
    assert [result.errors for result in results] == [(), (), ()]
    assert [
        network.digest_at("a.example", name) for name in ("mirror/rancher/pause:3.6", "library/redis:7", "team/app:1")
    ] == [
        PAUSE.digest,
        REDIS.digest,
        DOCKER.digest,
    ]
    assert network.has_all("a.example", "mirror/rancher/pause", PAUSE)
    assert network.has_all("a.example", "library/redis", REDIS)
    assert [result.outcome for result in results] == ["seeded"] * 3
    served = [put.served for result in results for put in result.puts]
    assert [route.endpoint if route else None for route in served] == ["https://a.example"] * 3
    assert exit_code(results) == ExitCode.DONE
    assert not network.asked("b.example", "GET", "HEAD", "POST", "PUT")


def test_nothing_is_written_with_ns_and_a_node_asks_with_it() -> None:
    network = fleet()
    network.seed("rancher/pause:3.6")
    written = network.asked("a.example", "POST", "PUT", "PATCH")
    assert written
    assert not [line for line in written if "ns=" in line]
    assert network.asked("a.example", "HEAD")[-1] == "HEAD /v2/mirror/rancher/pause/manifests/3.6?ns=docker.io"


def test_a_second_run_sends_nothing() -> None:
    network = fleet()
    network.seed(*ALL)
    network.network.clear()
    results = network.seed(*ALL)
    assert [result.outcome for result in results] == ["present"] * 3
    assert sum(put.sent_bytes for result in results for put in result.puts) == 0
    assert {request.method for request in network.network.requests} == {"GET", "HEAD"}
    taps = [host for host in network.network.hosts.values() if isinstance(host, Tap)]
    assert len(taps) == 2
    summed = summary(results, network.mapped(*ALL))
    assert (summed.present, summed.images, summed.sent_bytes, summed.is_ready) == (3, 3, 0, True)


def test_all_fills_every_mirror_and_each_is_proved() -> None:
    network = fleet()
    results = network.seed("rancher/pause:3.6", to=["all"])
    (result,) = results
    assert result.errors == ()
    assert [put.target.endpoint for put in result.puts] == ["https://a.example", "https://b.example"]
    # A node gets it from the first; that the second one has it is looked at as well.
    assert [put.served.endpoint for put in result.puts if put.served] == ["https://a.example"] * 2
    assert network.asked("b.example", "HEAD")[-1] == "HEAD /v2/mirror/rancher/pause/manifests/3.6?ns=docker.io"
    for host in ("a.example", "b.example"):
        assert network.digest_at(host, "mirror/rancher/pause:3.6") == PAUSE.digest


def test_blobs_that_images_share_cross_the_network_once() -> None:
    shared = [2000, 3000]
    images = {
        f"team/app-{number}:1": make_image(layers=[*shared, 100 + number], compression="none") for number in range(6)
    }
    hub = Tap(registry(images))
    network = fleet({HUB: hub})
    results = network.seed(*(f"docker.io/{name}" for name in images))
    assert [result.errors for result in results] == [()] * 6
    sizes = {digest: len(data) for image in images.values() for digest, data in image.blobs.items()}
    assert hub.served == {digest: sizes[digest] for digest in hub.served}
    assert all(str(part.platform) == "linux/amd64" for result in results for part in result.parts)
    for name, image in images.items():
        assert network.has_all("a.example", name.partition(":")[0], image)


def test_a_digest_is_put_by_digest_and_bears_the_tag_that_stood_beside_it() -> None:
    network = fleet()
    (result,) = network.seed(f"redis:7@{REDIS.digest}")
    assert result.errors == ()
    assert network.digest_at("a.example", "library/redis:7") == REDIS.digest
    assert result.puts[0].served is not None
    (result,) = network.seed(f"redis:7@{REDIS.digest}")
    assert result.outcome == "present"


def test_one_platform_is_one_image_and_its_digest_is_what_is_proved() -> None:
    network = fleet()
    (result,) = network.seed("redis:7", platforms=[ARM64])
    assert result.errors == ()
    assert result.descriptor is not None
    arm = REDIS.manifest["manifests"][1]["digest"]
    assert str(result.descriptor.digest) == arm
    assert network.digest_at("a.example", "library/redis:7") == arm
    assert [(str(part.platform), str(part.digest)) for part in result.parts] == [("linux/arm64", arm)]


def test_what_is_known_of_an_image_is_told_for_each_processor() -> None:
    redis, pause = fleet().seed("redis:7", "rancher/pause:3.6")
    below = REDIS.manifest["manifests"]
    assert [(str(part.platform), str(part.digest)) for part in redis.parts] == [
        ("linux/amd64", below[0]["digest"]),
        ("linux/arm64", below[1]["digest"]),
    ]
    assert [(str(part.platform), str(part.digest), part.size_bytes) for part in pause.parts] == [
        ("linux/amd64", PAUSE.digest, sum(map(len, PAUSE.blobs.values())))
    ]


def test_where_rules_overlap_whichever_containerd_takes_finds_the_image() -> None:
    text = """
mirrors:
  docker.io:
    endpoint: [https://a.example]
    rewrite: {"^rancher/(.*)": "one/$1", "^rancher/pause": "two/pause"}
"""
    network = fleet(text=text)
    (result,) = network.seed("rancher/pause:3.6")
    assert result.errors == ()
    for name in ("one/pause:3.6", "two/pause:3.6"):
        assert network.digest_at("a.example", name) == PAUSE.digest


def referrer(image: Image, said: bytes) -> Image:
    """An artifact that says something of an image."""
    artifact = make_image(layers=[said], compression="none")
    value = {**artifact.manifest, "artifactType": "application/spdx+json", "subject": dict(image.descriptor)}
    raw = json.dumps(value).encode()
    blobs = {digest: data for digest, data in artifact.blobs.items() if digest not in artifact.manifests}
    descriptor = {**artifact.descriptor, "digest": str(Digest.of(raw)), "size": len(raw)}
    return Image(descriptor, {**blobs, str(Digest.of(raw)): raw})


def test_what_refers_to_an_image_goes_with_it_if_asked_for() -> None:
    store = MemoryStore()
    stock(store, PAUSE, "rancher/pause", "3.6")
    bill = referrer(PAUSE, b"what is in it")
    signed = referrer(bill, b"and who says so")
    for number, item in enumerate((bill, signed)):
        stock(store, item, "rancher/pause", f"unasked-{number}")
    network = fleet({HUB: Registry(store)})
    (result,) = network.seed("rancher/pause:3.6")
    assert result.puts[0].referrers == 0
    (result,) = network.seed("rancher/pause:3.6", referrers=True)
    assert (result.errors, result.outcome, result.puts[0].referrers) == ((), "seeded", 2)
    for item in (PAUSE, bill, signed):
        assert network.has_all("a.example", "mirror/rancher/pause", item)
    (result,) = network.seed("rancher/pause:3.6", referrers=True)
    assert (result.outcome, result.puts[0].sent_bytes) == ("present", 0)


def test_what_refers_to_an_image_in_a_way_that_nobody_understands_is_told() -> None:
    strange = {"mediaType": "application/vnd.unknown", "digest": f"sha256:{'5' * 64}", "size": 2}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [strange]}
    hub = registry({"rancher/pause:3.6": PAUSE})

    def tell(request: Request) -> Response:
        return said(200, index) if f"/referrers/{PAUSE.digest}" in request.url else hub.handle(request)

    (result,) = fleet({HUB: tell}).seed("rancher/pause:3.6", referrers=True)
    (put,) = result.puts
    assert (result.errors, put.referrers) == ((), 0)
    ((digest, reason),) = put.skipped
    assert (str(digest), reason) == (strange["digest"], "it is a application/vnd.unknown")


# ── what fails ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_failing_image_does_not_stop_the_others_and_the_code_says_so() -> None:
    network = fleet()
    gone, pause = network.seed("rancher/gone:1", "rancher/pause:3.6")
    assert gone.outcome == "failed"
    assert gone.error is not None
    assert gone.error.exit_code == ExitCode.NOT_FOUND
    assert "https://registry-1.docker.io: " in gone.error.message
    assert pause.outcome == "seeded"
    assert exit_code([gone, pause]) == ExitCode.PARTIAL
    assert exit_code([gone]) == ExitCode.NOT_FOUND
    assert exit_code([pause]) == ExitCode.DONE


def test_an_image_without_a_place_fails_and_the_others_are_seeded() -> None:
    network = fleet()
    results = network.seed("ghcr.io/a/b:1", "rancher/pause:3.6", "redis:7", "quay.io/library/redis:7")
    assert [result.outcome for result in results] == ["failed", "seeded", "failed", "failed"]
    assert "ghcr.io has no mirror" in results[0].errors[0].message
    assert "both end at" in results[2].errors[0].message
    assert [bool(result.errors[0].hint) for result in results if result.errors] == [True] * 3
    assert not network.asked("ghcr.io", "HEAD", "GET")


def test_an_image_that_is_left_out_is_none_of_the_results_and_the_fleet_is_not_ready() -> None:
    network = fleet()
    images = ("ghcr.io/a/b:1", "rancher/pause:3.6")
    results = network.seed(*images, allow=["unmirrored"])
    assert [str(result.mapped.wanted) for result in results] == ["docker.io/rancher/pause:3.6"]
    summed = summary(results, network.mapped(*images, allow=["unmirrored"]))
    assert (summed.images, summed.left_out, summed.ready, summed.is_ready) == (2, 1, 1, False)


def test_an_older_image_at_an_endpoint_that_is_asked_before_is_found_by_the_proof() -> None:
    network = fleet({"a.example": registry({"mirror/rancher/pause:3.6": OLD})})
    (result,) = network.seed("rancher/pause:3.6", to=["https://b.example"])
    assert network.digest_at("b.example", "mirror/rancher/pause:3.6") == PAUSE.digest
    assert result.outcome == "failed"
    (error,) = result.errors
    assert f"a node would get {OLD.digest} from https://a.example, not {PAUSE.digest}" in error.message
    assert "--to all" in error.hint


def test_a_tag_that_pointed_elsewhere_is_moved_and_that_is_told() -> None:
    network = fleet({"a.example": registry({"mirror/rancher/pause:3.6": OLD})})
    (result,) = network.seed("rancher/pause:3.6")
    assert result.errors == ()
    assert str(result.puts[0].replaced) == OLD.digest


def test_the_proof_has_the_credentials_of_the_file_and_no_others() -> None:
    inner = registry()
    network = fleet({"a.example": guarded(inner, "writer:w")})
    network.inner = inner
    network.dest = (OwnRegistry(), Credential("writer", Secret("w"), "basic", "flag"))
    (result,) = network.seed("rancher/pause:3.6")
    assert network.digest_at("a.example", "mirror/rancher/pause:3.6") == PAUSE.digest
    assert result.outcome == "failed"
    assert "but a node would not get it" in result.errors[0].message
    network.text += "configs: {a.example: {auth: {username: writer, password: w}}}\n"
    (result,) = network.seed("rancher/pause:3.6")
    assert (result.outcome, result.errors) == ("present", ())


def test_nodes_may_only_read_and_the_flags_of_the_destination_say_who_writes() -> None:
    inner = registry()
    text = MIRRORED + "configs: {a.example: {auth: {username: node, password: n}}}\n"
    network = fleet({"a.example": guarded(inner, "writer:w", reading=["node:n"])}, text)
    network.inner = inner
    (result,) = network.seed("rancher/pause:3.6")
    assert result.outcome == "failed"
    assert result.errors[0].exit_code == ExitCode.NOT_AUTHORISED
    assert "--dest-creds" in result.errors[0].hint
    network.dest = (OwnRegistry(), Credential("writer", Secret("w"), "basic", "flag"))
    (result,) = network.seed("rancher/pause:3.6")
    assert result.errors == ()
    assert network.digest_at("a.example", "mirror/rancher/pause:3.6") == PAUSE.digest


def test_the_flags_of_the_destination_replace_what_the_file_trusts() -> None:
    text = MIRRORED + "configs: {a.example: {tls: {ca_file: /on/the/node/ca.pem}}}\n"
    network = fleet(text=text)
    network.dest = (OwnRegistry(tls=TlsOptions(("/here/ca.pem",))), None)
    network.seed("rancher/pause:3.6", prove=False)
    trusted = {
        options.tls.ca_files
        for request, options in zip(network.network.requests, network.network.options, strict=True)
        if request.authority == "a.example"
    }
    assert trusted == {("/here/ca.pem",)}


def test_a_mirror_that_takes_nothing_is_told_with_what_to_do() -> None:
    network = fleet({"a.example": Registry(MemoryStore(), read_only=True)})
    pause, app = network.seed("rancher/pause:3.6", "quay.io/team/app:1")
    assert (pause.outcome, app.outcome) == ("failed", "failed")
    assert pause.errors[0].hint


def test_a_mirror_that_is_down_fails_its_images_and_no_others() -> None:
    network = fleet()
    del network.network.hosts["b.example"]
    (result,) = network.seed("rancher/pause:3.6", to=["all"])
    first, second = result.puts
    assert (first.outcome, second.outcome) == ("seeded", "failed")
    assert second.error is not None
    assert second.error.exit_code == ExitCode.NETWORK


def test_without_a_registries_yaml_nothing_says_where_nodes_look() -> None:
    world = replace(fleet().world, hosts=None)
    with pytest.raises(UsageError, match=r"there is no registries\.yaml"):
        mapped(world, [], {"to": (), "allow": ()})


def test_what_may_be_seeded_is_decided_before_anything_is_sent() -> None:
    class Moved(PierheadError):
        pass

    def guard(reference: Reference, source: Source) -> Source:
        raise Moved(f"{reference} has moved")

    network = fleet()
    (result,) = network.seed("rancher/pause:3.6", guard=guard)
    assert isinstance(result.error, Moved)
    assert not network.asked("a.example", "POST", "PUT")


# ── where images come from ───────────────────────────────────────────────────────────────────────────────────────


def test_a_registry_that_is_named_is_asked_under_the_original_repository_with_ns() -> None:
    mirror = registry({"rancher/pause:3.6": PAUSE})
    network = fleet({"src.example:5000": mirror})
    (result,) = network.seed("rancher/pause:3.6", origins=["https://src.example:5000"])
    assert result.errors == ()
    assert result.place == "https://src.example:5000"
    asked = network.asked("src.example:5000", "GET", "HEAD")
    assert asked[0] == "HEAD /v2/rancher/pause/manifests/3.6?ns=docker.io"
    assert all(line.endswith("?ns=docker.io") for line in asked)
    assert not network.asked(HUB, "GET", "HEAD")


def test_a_path_of_a_named_registry_stands_where_v2_would() -> None:
    asked: list[str] = []
    inner = registry({"rancher/pause:3.6": PAUSE})

    def below(request: Request) -> Response:
        asked.append(request.target)
        return inner.handle(replace(request, url=request.url.replace("/v2/hub/", "/v2/")))

    network = fleet({"src.example": below})
    (result,) = network.seed("rancher/pause:3.6", origins=["https://src.example/v2/hub"])
    assert result.errors == ()
    assert all(target.startswith("/v2/hub/rancher/pause/") for target in asked)


def test_a_registry_asked_for_its_own_images_is_not_told_whose_they_are() -> None:
    network = fleet()
    (result,) = network.seed("quay.io/team/app:1", origins=["https://quay.io"])
    assert result.errors == ()
    assert not [line for line in network.asked("quay.io", "GET", "HEAD") if "ns=" in line]


def test_an_entry_of_configs_for_a_registry_does_not_keep_a_source_from_being_asked() -> None:
    text = MIRRORED + "configs: {quay.io: {tls: {insecure_skip_verify: true}}, src.example: {tls: {ca_file: /ca}}}\n"
    network = fleet({"src.example": registry({"team/app:1": DOCKER})}, text)
    (result,) = network.seed("quay.io/team/app:1", origins=["https://src.example"])
    assert result.errors == ()
    found = [
        options.tls
        for request, options in zip(network.network.requests, network.network.options, strict=True)
        if request.authority == "src.example"
    ]
    assert set(found) == {TlsOptions(("/ca",))}


def test_the_flags_of_the_source_are_for_the_named_registry_and_never_for_another() -> None:
    secret = Credential("reader", Secret("r"), "basic", "flag")
    inner = registry({"rancher/pause:3.6": PAUSE})
    hub = guarded(registry({"library/redis:7": REDIS}), "reader:r")
    network = fleet({"src.example": guarded(inner, "reader:r"), HUB: hub})
    network.src = (OwnRegistry(), secret)
    pause, redis = network.seed("rancher/pause:3.6", "redis:7", origins=["https://src.example", "upstream"])
    assert pause.errors == ()
    assert redis.outcome == "failed"
    told = [request for request in network.network.requests if request.authority == HUB]
    assert told
    assert not [request for request in told if request.headers.get("authorization")]
    # Without a registry that is named they are the images' own.
    (redis,) = network.seed("redis:7")
    assert redis.errors == ()


def test_the_first_place_that_has_an_image_wins_and_the_others_are_told() -> None:
    network = fleet({"src.example": registry({"rancher/pause:3.6": OLD})})
    pause, redis = network.seed(
        "rancher/pause:3.6", "redis:7", origins=["https://down.example", "https://src.example", "upstream"]
    )
    assert (pause.place, redis.place) == ("https://src.example", "https://registry-1.docker.io")
    assert str(pause.descriptor and pause.descriptor.digest) == OLD.digest
    assert [told.place for told in pause.told] == ["https://down.example"]
    assert [told.place for told in redis.told] == ["https://down.example", "https://src.example"]
    assert [told.error.exit_code for told in redis.told] == [ExitCode.NETWORK, ExitCode.NOT_FOUND]


def test_an_image_that_is_nowhere_fails_with_every_reason() -> None:
    network = fleet({"src.example": registry()})
    (result,) = network.seed("rancher/gone:1", origins=["https://down.example", "https://src.example", "store"])
    (error,) = result.errors
    first, *lines = error.message.split("\n")
    assert first == "docker.io/rancher/gone:1 is at none of the places to take it from"
    assert [line.split(": ")[0].strip() for line in lines] == [
        "https://down.example",
        "https://src.example",
        "the store /nonexistent/store",
    ]
    assert lines[1] == "  https://src.example: 404 Not Found"
    assert error.exit_code == ExitCode.NETWORK


def test_the_store_is_a_source(tmp_path: Path) -> None:
    stock(LayoutStore(tmp_path / "root"), PAUSE, "rancher/pause", "3.6", namespace="docker.io")
    network = fleet()
    network.root = tmp_path / "root"
    (result,) = network.seed("rancher/pause:3.6", origins=["store"])
    assert result.errors == ()
    assert result.place == f"the store {tmp_path / 'root'}"
    assert network.digest_at("a.example", "mirror/rancher/pause:3.6") == PAUSE.digest


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_layout_and_a_tarball_are_sources(tmp_path: Path, form: str) -> None:
    name = "docker.io/rancher/pause:3.6"
    if form == "folder":
        text = f"oci:{PAUSE.write_layout(tmp_path / 'layout', name)}"
    else:
        text = str(PAUSE.write_archive(tmp_path / "images.tar", name))
    network = fleet()
    with network.leaving:
        pause, by_digest, gone = network.seed(
            "rancher/pause:3.6", f"quay.io/other/name@{PAUSE.digest}", "redis:7", origins=[text]
        )
    assert pause.errors == ()
    assert by_digest.errors == ()
    assert pause.place == text
    assert gone.error is not None
    assert gone.error.exit_code == ExitCode.NOT_FOUND
    assert not network.asked(HUB, "GET", "HEAD")
    assert network.has_all("a.example", "mirror/rancher/pause", PAUSE)


# ── sources that lie, and sources that break ─────────────────────────────────────────────────────────────────────

LAYER = str(PAUSE.manifest["layers"][0]["digest"])


def spoiled(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    "change",
    [replaced(spoiled), replaced(lambda data: data + b"more"), replaced(lambda data: data[:-1]), cut(100)],
    ids=["changed", "longer", "shorter", "cut"],
)
def test_what_one_source_gives_wrong_comes_from_the_next(change: Callable[[Request, Response], Response]) -> None:
    bad = Tap(registry({"rancher/pause:3.6": PAUSE}), {LAYER: change})
    network = fleet({"bad.example": bad})
    (result,) = network.seed("rancher/pause:3.6", origins=["https://bad.example", "upstream"])
    assert result.errors == ()
    assert result.place == "https://bad.example"
    assert network.has_all("a.example", "mirror/rancher/pause", PAUSE)


def test_wrong_bytes_from_the_only_source_are_refused_and_nothing_is_visible() -> None:
    bad = Tap(registry({"rancher/pause:3.6": PAUSE}), {LAYER: replaced(spoiled)})
    network = fleet({"bad.example": bad})
    (result,) = network.seed("rancher/pause:3.6", origins=["https://bad.example"])
    assert result.outcome == "failed"
    assert network.digest_at("a.example", "mirror/rancher/pause:3.6") is None


def test_a_manifest_that_is_another_one_is_refused() -> None:
    bad = Tap(
        registry({"rancher/pause:3.6": PAUSE}),
        {PAUSE.digest: replaced(lambda data: data.replace(b"amd64", b"arm64") + b" ")},
    )
    network = fleet({"bad.example": bad})
    (result,) = network.seed("rancher/pause:3.6", origins=["https://bad.example"])
    assert result.outcome == "failed"
    (result,) = network.seed("rancher/pause:3.6", origins=["https://bad.example", "upstream"])
    assert result.errors == ()


def test_a_source_that_is_gone_in_the_middle_leaves_the_rest_to_the_next() -> None:
    bad = Tap(registry({"rancher/pause:3.6": PAUSE}), {LAYER: once(cut(10))})
    network = fleet({"bad.example": bad})

    def gone(request: Request) -> Response:
        if "/blobs/" in request.url:
            raise TransportError(Cause.REFUSED, request.url)
        return bad(request)

    network.network.hosts["bad.example"] = gone
    (result,) = network.seed("rancher/pause:3.6", origins=["https://bad.example", "upstream"])
    assert result.errors == ()


# ── what it comes to ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_summary_counts_processors_and_names_the_images_that_lack_one() -> None:
    network = fleet({"quay.io": registry({"team/app:1": make_index(*_parts(REDIS)), "team/amd:1": DOCKER})})
    images = ("redis:7", "quay.io/team/app:1", "quay.io/team/amd:1")
    results = network.seed(*images)
    assert [result.errors for result in results] == [()] * 3
    summed = summary(results, network.mapped(*images))
    assert summed.is_ready
    assert [(item.platform, item.count, item.missing) for item in summed.platforms] == [
        ("linux/amd64", 3, ()),
        ("linux/arm64", 2, ("quay.io/team/amd:1",)),
    ]


def _parts(index: Image) -> list[Image]:
    return [Image(item, index.blobs) for item in index.manifest["manifests"]]


def test_a_place_that_is_just_being_opened_is_one_for_every_blob() -> None:
    """Two blobs fail at the first place at once: while one looks at the second place, the other must not miss it."""
    store = MemoryStore()
    stock(store, PAUSE, "rancher/pause", "3.6")
    content = store.repository(RepositoryName("rancher/pause"))
    seen: list[int] = []

    def count() -> None:
        seen.append(len(source._places(content.resolve("3.6"))))

    other = Thread(target=count)

    @dataclass(frozen=True)
    class Place:
        place: str
        meanwhile: Callable[[], object]

        def offer(self, reference: Reference, wait: Callable[[float], object]) -> Offer:
            self.meanwhile()
            return Offer(self.place, content, "3.6")

    def look() -> None:
        other.start()
        other.join(0.1)  # it waits for us, or is done with a wrong answer by now

    origins = [Place("first", lambda: None), Place("second", look)]
    source = Preferred(Reference.parse("rancher/pause:3.6"), origins, lambda _: None)
    source.resolve("3.6")
    source._at(1)
    other.join(10)
    assert seen == [2]


def test_a_platform_that_was_asked_for_and_is_missing_leaves_the_list_unproved() -> None:
    network = fleet({"quay.io": registry({"team/amd:1": DOCKER, "team/one:1": PAUSE})})
    images = ("quay.io/team/one:1",)
    results = network.seed(*images, platforms=[ARM64])
    assert [result.errors for result in results] == [()]
    summed = summary(results, network.mapped(*images), [ARM64])
    assert (summed.ready, summed.images, summed.is_ready) == (1, 1, False)


def test_nothing_is_proved_if_nobody_asked_for_it() -> None:
    network = fleet()
    results = network.seed("rancher/pause:3.6", prove=False)
    summed = summary(results, network.mapped("rancher/pause:3.6"), proved=False)
    assert (summed.proved, summed.is_ready, summed.seeded) == (False, False, 1)


def test_a_line_that_names_no_image_leaves_the_list_unproved() -> None:
    network = fleet()
    results = network.seed("rancher/pause:3.6")
    summed = summary(results, network.mapped("rancher/pause:3.6"), unread=1)
    assert (summed.ready, summed.images, summed.is_ready) == (1, 1, False)
