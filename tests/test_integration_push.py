"""Pushing to the real registries over real sockets: whatever breaks, the image is there in the end, each blob once."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from command import serve
from cutting import Cutting
from front import Nginx
from images import Image, make_image, make_index
from pierhead.ask import Memory
from pierhead.auth import AuthorizationFailed, Credential, Lookup
from pierhead.body import Blob, Buffer, Write, read_all
from pierhead.client import Remote
from pierhead.errors import PierheadError
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_INDEX, Descriptor
from pierhead.push import Pusher, PushRefused, RemoteSink
from pierhead.redact import Secret
from pierhead.reference import Digest, Reference
from pierhead.referrers import copy_referrers, find_all_referrers
from pierhead.routing import OwnRegistry, Plan, k3s_plan, push_route
from pierhead.store import ManifestBlobUnknown, NotFound, Repository, RepositoryName, Sink, Source, tag_of
from pierhead.transfer import Copied, Transfer
from pierhead.transport import CurlTransport, Exchange, TlsOptions
from pki import Pki
from real import DockerRegistry, eventually, pull
from stocked import stock
from store_contract import RepositoryContract, blob_of, put_image
from test_push import Both
from test_referrers import refer, tagged
from tokens import TokenServer

pytestmark = pytest.mark.real("docker-registry")

USER, PASSWORD = "alice", "s3cret"
BIG = make_image(layers=[4_000_000, 1000], compression="none")
LAYER = BIG.manifest["layers"][0]["digest"]
SMALL = make_image(layers=[b"small"])


def nobody(_: str) -> Credential | None:
    return None


def alice(_: str) -> Credential | None:
    return Credential(USER, Secret(PASSWORD))


class Sender:
    """Somebody who pushes to registries, with all that this needs."""

    def __init__(self, transport: CurlTransport, lookup: Lookup = nobody, tls: TlsOptions = TlsOptions()) -> None:
        self.transport, self.lookup, self.tls = transport, lookup, tls
        self.transfer = Transfer(3, on_cancel=(transport.interrupt,))
        self.pusher = self.new_pusher()

    def new_pusher(self) -> Pusher:
        return Pusher(self.transport, clock=time.monotonic, wait=self.transfer.pause)

    def plan(self, address: str, repository: str) -> Plan:
        own = OwnRegistry(plain_http=not self.tls.ca_files, tls=self.tls)
        return k3s_plan(Reference.parse(f"{address}/{repository}:v1"), None, own)

    def sink(self, address: str, repository: str = "team/app") -> RemoteSink:
        return self.pusher.sink(push_route(self.plan(address, repository).routes[0]), self.lookup)

    def remote(self, address: str, repository: str = "team/app") -> Remote:
        memory = Memory(self.lookup, clock=time.monotonic)
        return Remote(self.plan(address, repository), self.transport, memory, wait=self.transfer.pause)

    def push(self, image: Image | Source, sink: Sink) -> Copied:
        source = in_memory(image) if isinstance(image, Image) else image
        return self.transfer.copy(source, sink, "v1")


@pytest.fixture
def sender(transport: CurlTransport) -> Iterator[Sender]:
    sender = Sender(transport)
    with sender.transfer:
        yield sender


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as registry:
        yield registry


def in_memory(image: Image) -> Repository:
    store = MemoryStore()
    stock(store, image, tag="v1")
    return store.repository(RepositoryName("team/app"))


def assert_there(sender: Sender, sink: RemoteSink, image: Image) -> None:
    """Everything of the image, byte for byte, and under its name."""
    assert str(sink.resolve("v1").digest) == image.digest
    host, repository = sink.place.route.host, sink.place.route.repository
    remote = sender.remote(host, repository)
    for digest, data in image.blobs.items():
        descriptor = Descriptor(image.manifests.get(digest, ""), Digest.parse(digest), len(data))
        assert read_all(remote.blob(descriptor), len(data)) == data


def methods(registry: DockerRegistry) -> list[str]:
    """The methods of what was asked, GETs and HEADs left out."""
    return [served.method for served in registry.requests() if served.method not in {"GET", "HEAD"}]


# ── every kind of image, every way in ────────────────────────────────────────────────────────────────────────────

KINDS = {
    "oci": SMALL,
    "docker": make_image(layers=[b"hello", 50_000], media="docker"),
    "zstd": make_image(layers=[0, 30_000], compression="zstd"),
    "index": make_image(layers=[2000], platforms=["linux/amd64", "linux/arm64"]),
    "list": make_image(media="docker", platforms=["linux/amd64", "linux/arm64"]),
    "nested": make_index(make_index(make_image(platforms=["linux/amd64"])), make_image(layers=[b"x"])),
}


def test_every_kind_of_image(sender: Sender, registry: DockerRegistry) -> None:
    for kind, image in KINDS.items():
        sender.push(image, sender.sink(registry.address, f"kinds/{kind}"))
        assert_there(sender, sender.sink(registry.address, f"kinds/{kind}"), image)
    sender.pusher = sender.new_pusher()
    registry.forget()
    for kind, image in KINDS.items():
        assert sender.push(image, sender.sink(registry.address, f"kinds/{kind}")).fetched_bytes == 0
    assert methods(registry) == []


@pytest.mark.real("skopeo")
def test_skopeo_reads_it(sender: Sender, registry: DockerRegistry, tmp_path: Path) -> None:
    sender.push(KINDS["index"], sender.sink(registry.address))
    pull(registry, "team/app:v1", f"oci:{tmp_path / 'layout'}:v1")
    for digest, data in KINDS["index"].blobs.items():
        assert (tmp_path / "layout" / "blobs" / digest.replace(":", "/")).read_bytes() == data


def test_what_another_repository_has_is_mounted(sender: Sender, registry: DockerRegistry) -> None:
    sender.push(BIG, sender.sink(registry.address, "team/one"))
    before = registry.read_bytes()
    copied = sender.push(BIG, sender.sink(registry.address, "team/two"))
    assert registry.read_bytes() - before < 1_000_000
    assert copied.fetched_bytes == len(BIG.blobs[BIG.digest])
    assert_there(sender, sender.sink(registry.address, "team/two"), BIG)


def test_an_index_with_holes_is_refused_with_a_remedy(sender: Sender, registry: DockerRegistry) -> None:
    source, image = in_memory(KINDS["index"]), KINDS["index"]
    sink = sender.sink(registry.address)
    raw = image.blobs[image.digest]
    with pytest.raises(ManifestBlobUnknown) as caught:
        sink.put_named(raw, OCI_INDEX, "v1", sparse=True)
    assert "one platform, or all" in caught.value.hint
    assert source.resolve("v1").digest == Digest.parse(image.digest)


def test_tls_and_a_user(transport: CurlTransport, exchanges: list[Exchange], tmp_path: Path, pki: Pki) -> None:
    with DockerRegistry(tmp_path / "registry", tls=pki, htpasswd=(USER, PASSWORD)) as registry:
        good = Sender(transport, alice, TlsOptions((pki.ca,)))
        with good.transfer:
            good.push(BIG, good.sink(registry.address))
            assert_there(good, good.sink(registry.address), BIG)
            bad = Sender(transport, lambda _: Credential(USER, Secret("wr0ng")), good.tls)
            with bad.transfer, pytest.raises(PierheadError) as caught:
                bad.push(BIG, bad.sink(registry.address))
    assert caught.value.exit_code == 4
    assert PASSWORD not in repr([exchange.to_json() for exchange in exchanges])


def test_bearer_tokens(transport: CurlTransport, tmp_path: Path) -> None:
    with (
        TokenServer(tmp_path, {USER: PASSWORD}, anonymous=["pull"]) as tokens,
        DockerRegistry(tmp_path / "registry", token=tokens) as registry,
    ):
        known, anybody = Sender(transport, alice), Sender(transport)
        with known.transfer, anybody.transfer:
            known.push(SMALL, known.sink(registry.address, "team/one"))
            known.push(SMALL, known.sink(registry.address, "team/two"))
            scopes = {scope for request in tokens.requests for scope in request.scopes}
            assert {"repository:team/one:pull,push", "repository:team/one:pull"} <= scopes
            assert_there(known, known.sink(registry.address, "team/two"), SMALL)
            with pytest.raises((PushRefused, AuthorizationFailed)) as caught:
                anybody.push(SMALL, anybody.sink(registry.address, "team/three"))
    assert caught.value.exit_code == 4


def test_a_registry_that_only_pulls(sender: Sender, tmp_path: Path) -> None:
    with serve(tmp_path / "store", "--read-only") as served:
        with pytest.raises(PushRefused, match="405") as caught:
            sender.push(SMALL, sender.sink(served.address))
        assert "read only" in caught.value.hint


@pytest.mark.real("runc")  # needs root, to mount
def test_a_registry_whose_disk_is_full(sender: Sender, tmp_path: Path) -> None:
    disk = tmp_path / "registry"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True, timeout=10)
    try:
        with DockerRegistry(disk) as registry:
            with pytest.raises(PushRefused) as caught:
                sender.push(BIG, sender.sink(registry.address))
            assert "disk is full" in caught.value.hint
            subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True, timeout=10)
            sender.push(BIG, sender.sink(registry.address))
            assert_there(sender, sender.sink(registry.address), BIG)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, timeout=10)


# ── large bodies ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.real("nginx")
def test_nginx_that_refuses_large_bodies(sender: Sender, registry: DockerRegistry, tmp_path: Path) -> None:
    """As it comes, `client_max_body_size 1m`."""
    with Nginx(tmp_path / "nginx", registry.url, largest_body="1m") as front:
        sender.push(BIG, sender.sink(front.address))
        assert methods(registry).count("PATCH") == 3  # 4 MB, the last of it with the PUT
        assert_there(sender, sender.sink(front.address), BIG)
        registry.forget()
        sender.push(KINDS["docker"], sender.sink(front.address, "team/other"))
    assert methods(registry).count("PATCH") == 0


@pytest.mark.real("nginx")
def test_nginx_that_refuses_everything(sender: Sender, registry: DockerRegistry, tmp_path: Path) -> None:
    with (
        Nginx(tmp_path / "nginx", registry.url, largest_body="100k") as front,
        pytest.raises(PushRefused, match="413") as caught,
    ):
        sender.push(BIG, sender.sink(front.address))
    assert "client_max_body_size" in caught.value.hint


# ── broken connections ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_cut_connection_to_the_real_registry(sender: Sender, registry: DockerRegistry) -> None:
    """It keeps nothing of a request that broke: the blob begins anew, and nothing else does."""
    with Cutting(registry.port, lambda: 1_500_000, at_most=1) as way:
        sender.push(BIG, sender.sink(way.address))
        assert way.cut == 1
        assert registry.read_bytes() < 1_500_000 + 4_100_000 + 500_000
        assert_there(sender, sender.sink(way.address), BIG)


def test_a_cut_connection_to_our_own(sender: Sender, tmp_path: Path, exchanges: list[Exchange]) -> None:
    """It tells how far it came, and only the rest is sent."""
    with serve(tmp_path / "store") as served:
        port = int(served.address.rpartition(":")[2])
        with Cutting(port, lambda: 1_500_000, at_most=1) as way:
            sender.push(BIG, sender.sink(way.address))
            assert way.cut == 1
            assert_there(sender, sender.sink(way.address), BIG)
    went_on = [exchange for exchange in exchanges if ("content-range" in dict(_lower(exchange.request_headers)))]
    assert [exchange.method for exchange in went_on] == ["PUT"]
    assert went_on[0].sent_bytes < len(BIG.blobs[LAYER]) - 500_000


def _lower(headers: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((name.lower(), value) for name, value in headers)


@pytest.mark.parametrize("seed", range(3))
def test_connections_that_break_here_and_there(
    sender: Sender, registry: DockerRegistry, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pierhead.ask.BACK_OFF_SECONDS", 0.01)
    chance = random.Random(seed)

    image = make_image(layers=[20_000 + number for number in range(15)], compression="none")
    with Cutting(registry.port, lambda: chance.randrange(1, 60_000), at_most=8) as way:
        sender.push(image, sender.sink(way.address))
        assert way.cut > 0
    assert_there(sender, sender.sink(registry.address), image)


class Held:
    """A source that stops in the middle of one blob until it is let go on."""

    def __init__(self, source: Repository, digest: str, at: int) -> None:
        self._source, self._digest, self._at = source, digest, at
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.resolve, self.manifest, self.reject = source.resolve, source.manifest, source.reject

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Blob:
        blob = self._source.blob(descriptor, offset)
        return _HeldBlob(blob, self) if str(descriptor.digest) == self._digest else blob

    def hold(self, passed: int) -> None:
        if passed >= self._at and not self.reached.is_set():
            self.reached.set()
            assert self.go_on.wait(30)


class _HeldBlob:
    def __init__(self, blob: Blob, held: Held) -> None:
        self.size_bytes, self.close = blob.size_bytes, blob.close
        self._blob, self._held = blob, held

    def copy_to(self, write: Write, offset: int = 0) -> int:
        passed = 0

        def take(data: Buffer) -> None:
            nonlocal passed
            for start in range(0, len(data), 100_000):
                piece = memoryview(data)[start : start + 100_000]
                write(piece)
                passed += len(piece)
                self._held.hold(passed)

        return self._blob.copy_to(take, offset)


@contextmanager
def held_push(sender: Sender, sink: RemoteSink, at: int) -> Iterator[tuple[Held, Callable[[], Copied]]]:
    """A push that stands still in the middle of the large layer; what ends it gives what became of it."""
    held = Held(in_memory(BIG), LAYER, at)
    came: list[Copied | BaseException] = []

    def work() -> None:
        try:
            came.append(sender.push(held, sink))
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert held.reached.wait(30)

        def end() -> Copied:
            held.go_on.set()
            thread.join(60)
            (result,) = came
            if isinstance(result, BaseException):
                raise result
            return result

        yield held, end
    finally:
        held.go_on.set()
        thread.join(60)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_registry_is_started_again_in_the_middle(sender: Sender, registry: DockerRegistry, how: str) -> None:
    with held_push(sender, sender.sink(registry.address), 2_000_000) as (_, end):
        if how == "killed":
            registry.kill()
        else:
            registry.__exit__(None, None, None)
        again = threading.Timer(0.5, registry.__enter__)  # it is gone for a moment
        again.start()
        try:
            end()
        finally:
            again.join()
    assert_there(sender, sender.sink(registry.address), BIG)


def test_a_registry_that_stays_away(sender: Sender, registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.ask.BACK_OFF_SECONDS", 0.001)
    with held_push(sender, sender.sink(registry.address), 2_000_000) as (_, end):
        registry.kill()
        with pytest.raises(PierheadError) as caught:
            end()
    assert caught.value.exit_code == 5


def test_interrupted(sender: Sender, registry: DockerRegistry) -> None:
    with held_push(sender, sender.sink(registry.address), 2_000_000) as (_, end):
        sender.transfer.cancel()
        began = time.monotonic()
        with pytest.raises(PierheadError):
            end()
        assert time.monotonic() - began < 5
    again = Sender(CurlTransport())
    with again.transfer:
        again.push(BIG, again.sink(registry.address))
        assert_there(again, again.sink(registry.address), BIG)
    again.transport.close()


def test_memory_stays_flat(sender: Sender, registry: DockerRegistry) -> None:
    """A layer of 128 MiB, of which no more than a few pieces are ever here."""
    import tracemalloc

    size = 128 << 20
    zeros = Zeros(size)
    descriptor = Descriptor("", zeros.digest(), size)
    tracemalloc.start()
    try:
        with sender.sink(registry.address).upload(descriptor) as upload:
            upload.fill(zeros)
            upload.commit()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert sender.sink(registry.address, "team/other").mount(descriptor, RepositoryName("team/app"))


class Zeros:
    """Many bytes from nowhere."""

    piece = bytes(1 << 20)

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def copy_to(self, write: Write, offset: int = 0) -> int:
        for start in range(offset, self.size_bytes, len(self.piece)):
            write(memoryview(self.piece)[: self.size_bytes - start])
        return self.size_bytes - offset

    def digest(self) -> Digest:
        hashed = Digest.of(b"").new_hash()
        self.copy_to(hashed.update)
        return Digest("sha256", hashed.hexdigest())

    def close(self) -> None:
        pass


# ── what refers to an image ──────────────────────────────────────────────────────────────────────────────────────


def test_signatures_go_there_and_back(sender: Sender, registry: DockerRegistry, tmp_path: Path) -> None:
    """From a registry with the API (ours) to one without (2.8), and from there to one with it again."""
    source = in_memory(SMALL)
    top = source.resolve("v1")
    signature = refer(source, "signature", top)
    expected = {
        signature.digest,
        refer(source, "countersignature", signature).digest,
        tagged(source, f"{tag_of(top.digest)}.sig").digest,
    }

    def copy_to(sink: RemoteSink, origin: Source) -> Remote:
        sender.push(origin, sink)
        copied = copy_referrers(sender.transfer, origin, sink, [top.digest])
        assert {item.descriptor.digest for _, item in copied.copied} == expected
        remote = sender.remote(sink.place.route.host, "team/app")
        assert {item.descriptor.digest for item in find_all_referrers(remote, [top.digest])} == expected
        return remote

    with serve(tmp_path / "one") as one, serve(tmp_path / "two") as two:
        here = copy_to(sender.sink(one.address), source)
        there = copy_to(sender.sink(registry.address), here)
        assert sender.sink(registry.address).resolve(tag_of(top.digest)).media_type == OCI_INDEX
        copy_to(sender.sink(two.address), there)
        with pytest.raises(NotFound):
            sender.sink(two.address).resolve(tag_of(top.digest))
    registry.forget()
    sender.pusher = sender.new_pusher()
    copy_to(sender.sink(registry.address), source)
    assert methods(registry) == []


# ── as any other repository ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """One for many tests."""
    with DockerRegistry(tmp_path_factory.mktemp("shared")) as registry:
        yield registry


class TestContract(RepositoryContract):
    """Against the real registry, 2.8. Of another algorithm than sha256 it keeps content, and forgets its name."""

    @pytest.fixture
    def repository(self, shared: DockerRegistry, sender: Sender, request: pytest.FixtureRequest) -> Repository:
        name = f"contract/n{Digest.of(request.node.name.encode()).hex[:16]}"
        return Both(sender.sink(shared.address, name), sender.remote(shared.address, name))  # type: ignore[return-value]

    @pytest.mark.parametrize("algorithm", ["sha256"])
    @pytest.mark.parametrize("data", [b"", b"x", b"layer " * 100_000], ids=["empty", "one", "many"])
    def test_blob_comes_back(self, repository: Repository, data: bytes, algorithm: str) -> None:
        super().test_blob_comes_back(repository, data, algorithm)

    def test_foreign_layer_need_not_be_here(self, repository: Repository) -> None:
        """Which is refused as 2.8 comes, the blob being there or not."""
        with pytest.raises(ManifestBlobUnknown) as caught:
            super().test_foreign_layer_need_not_be_here(repository)
        assert "validation.manifests.urls" in caught.value.hint


def test_nothing_is_left_over(sender: Sender, registry: DockerRegistry) -> None:
    """An upload that is given up leaves nothing on the registry's disk."""
    descriptor = blob_of(b"x" * 100_000)
    with sender.sink(registry.address).upload(descriptor) as upload:
        upload.write(b"y" * 100_000)
        with pytest.raises(PierheadError):
            upload.commit()
    put_image(sender.sink(registry.address))
    left = eventually(lambda: list(registry.data.rglob("_uploads")), what="the repository")
    assert [path for folder in left for path in folder.iterdir()] == []
