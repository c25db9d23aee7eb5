"""A pull that ends early, wherever that is, and goes on: nothing that was kept is asked for again."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command import Ran, Running, assert_sound, names, run_pierhead, start_pierhead, stored
from disks import mount
from hostile import HostileServer, Peer
from images import make_image
from real import eventually
from staged import Staged

pytestmark = pytest.mark.real()

IMAGE = make_image(layers=[1_000_000, 3_000_000])
CONFIG = IMAGE.manifest["config"]["digest"]
FIRST, LAST = (layer["digest"] for layer in IMAGE.manifest["layers"])
LAST_BYTES = len(IMAGE.blobs[LAST])
PROMPT_SECONDS = 10.0  # far below the time that a body may stand still


@pytest.fixture
def server() -> Iterator[Staged]:
    with Staged(IMAGE) as staged:
        yield staged


class Pull:
    """The same pull, again and again, blob after blob."""

    def __init__(self, server: Staged, root: Path, *, jobs: int = 1) -> None:
        self.server, self.root = server, root
        self.name = f"{server.address}/team/app:v1"
        self._arguments = ("pull", "--plain-http", "-j", str(jobs), "-o", "json", "--root", root, self.name)

    @contextmanager
    def started(self) -> Iterator[Running]:
        with start_pierhead(*self._arguments) as running:
            yield running

    def killed_when(self, there: Callable[[], object]) -> None:
        """Run it until `there` says so, and kill it."""
        with self.started() as running:
            eventually(there, what="the point to kill at")
            assert running.signal(signal.SIGKILL).code == -signal.SIGKILL

    def killed_when_durable(self, digest: str, *, more_than: int) -> None:
        self.killed_when(lambda: self.durable(digest) > more_than)

    def again(self) -> Ran:
        """Run it to its end: the image is whole, under its name, and nothing is left over."""
        self.server.forget()
        ran = run_pierhead(*self._arguments)
        self.assert_done()
        return ran

    def assert_done(self) -> None:
        assert names(self.root) == {self.name: IMAGE.digest}
        assert stored(self.root) == IMAGE.blobs
        assert [path for path in (self.root / "ingest").rglob("*") if path.is_file()] == []
        assert_sound(self.root)

    def durable(self, digest: str) -> int:
        """How much of a blob on its way is in the store."""
        path = self.root / "ingest" / digest.replace(":", "/")
        return path.stat().st_size if path.exists() else 0

    def nothing_is_named(self) -> None:
        """What is not whole has no name."""
        assert not (self.root / "index.json").exists()
        assert run_pierhead("images", "-o", "json", "--root", self.root).images == []
        assert_sound(self.root)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock of the store, as another process of ours would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fetched(ran: Ran) -> int:
    return int(ran.images[0]["fetched_bytes"])


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_killed_in_the_manifest(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store")
    with server.held(IMAGE.digest, at=100):
        pull.killed_when(lambda: server.is_held(IMAGE.digest))
    pull.nothing_is_named()
    assert fetched(pull.again()) == sum(map(len, IMAGE.blobs.values()))


def test_killed_between_two_blobs(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store")
    with server.held(LAST, at=0):
        pull.killed_when(lambda: server.is_held(LAST))
    pull.nothing_is_named()
    assert stored(pull.root).keys() == {CONFIG, FIRST}
    ran = pull.again()
    assert [server.starts(digest) for digest in (CONFIG, FIRST, LAST)] == [[], [], [0]]
    assert fetched(ran) == LAST_BYTES + len(IMAGE.blobs[IMAGE.digest])


def test_killed_again_and_again_in_the_last_blob(server: Staged, tmp_path: Path) -> None:
    pull, kept = Pull(server, tmp_path / "store"), [0]
    for at in (1_000_000, 2_000_000):
        server.forget()
        with server.held(LAST, at=at):
            pull.killed_when_durable(LAST, more_than=at - 300_000)
        assert server.starts(LAST) == [kept[-1]]
        kept.append(pull.durable(LAST))
        pull.nothing_is_named()
    ran = pull.again()
    assert server.starts(LAST) == [kept[-1]]
    assert fetched(ran) == LAST_BYTES - kept[-1] + len(IMAGE.blobs[IMAGE.digest])
    assert ran.images[0]["reused_bytes"] == sum(map(len, IMAGE.blobs.values())) - fetched(ran)


def test_killed_in_several_blobs_at_once(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store", jobs=4)
    with server.held(FIRST, at=600_000), server.held(LAST, at=1_500_000):
        pull.killed_when(lambda: pull.durable(FIRST) > 300_000 and pull.durable(LAST) > 1_200_000)
    kept = {digest: pull.durable(digest) for digest in (FIRST, LAST)}
    pull.again()
    assert {digest: server.starts(digest) for digest in (FIRST, LAST)} == {
        digest: [size] for digest, size in kept.items()
    }


def test_killed_when_all_bytes_are_there_but_not_committed(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store")
    with pull.started() as running, server.held(LAST, at=1_000_000):
        eventually(lambda: server.is_held(LAST), what="the blob to be on its way")
        with locked(pull.root / "lock"):
            server.release_now(LAST)
            eventually(lambda: pull.durable(LAST) == LAST_BYTES, what="the last byte")
            assert running.signal(signal.SIGKILL).code == -signal.SIGKILL
    pull.nothing_is_named()
    ran = pull.again()
    assert server.starts(LAST) == []
    assert fetched(ran) == len(IMAGE.blobs[IMAGE.digest])


def test_killed_when_named_but_not_published(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store")
    with locked(pull.root / "index.lock"):
        pull.killed_when(lambda: any((pull.root / "repositories").glob("**/_tags/v1")))
    assert not (pull.root / "index.json").exists()
    (image,) = run_pierhead("images", "-o", "json", "--root", pull.root).images
    assert image["digest"] == IMAGE.digest
    assert fetched(pull.again()) == 0
    assert [asked.method for asked in server.asked] == ["HEAD"]


def test_a_partial_blob_that_was_damaged_is_asked_for_whole(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store")
    with server.held(LAST, at=1_500_000):
        pull.killed_when_durable(LAST, more_than=1_200_000)
    kept, path = pull.durable(LAST), pull.root / "ingest" / LAST.replace(":", "/")
    with path.open("r+b") as file:
        file.seek(700_000)
        file.write(b"not what was there")
    pull.again()
    assert server.starts(LAST) == [kept, 0]


# ── interrupted, and beside each other ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(server: Staged, tmp_path: Path, number: signal.Signals) -> None:
    pull = Pull(server, tmp_path / "store")
    with pull.started() as running, server.held(LAST, at=1_500_000):
        eventually(lambda: pull.durable(LAST) > 1_200_000, what="a good part")
        if number == signal.SIGINT:
            assert_interrupted(running)
        else:
            assert running.signal(number).code == -number
    kept = pull.durable(LAST)
    assert kept > 1_200_000
    assert_sound(pull.root)
    pull.again()
    assert server.starts(LAST) == [kept]


def test_interrupted_while_nobody_answers(tmp_path: Path) -> None:
    def silence(peer: Peer) -> None:
        peer.head()
        peer.hang()

    with (
        HostileServer(silence) as silent,
        start_pierhead("pull", "--plain-http", "--root", tmp_path, f"{silent.place}/team/app:v1") as running,
    ):
        eventually(lambda: silent.heads, what="the request")
        assert_interrupted(running)


def test_interrupted_while_another_process_writes(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store")
    with pull.started() as one, server.held(LAST, at=1_500_000):
        eventually(lambda: pull.durable(LAST) > 1_200_000, what="a good part")
        with pull.started() as two:
            eventually(lambda: len(server.starts(IMAGE.digest)) == 2, what="the other to have the manifest")
            assert_interrupted(two)
        assert one.process.poll() is None
        server.release_now(LAST)
        assert one.wait().code == 0
    pull.assert_done()


def assert_interrupted(running: Running) -> None:
    """Ctrl-C ends it in order, and promptly."""
    began = time.monotonic()
    ran = running.signal(signal.SIGINT)
    assert time.monotonic() - began < PROMPT_SECONDS
    assert ran.code == 130, ran.said
    assert "interrupted" in ran.err
    assert "Traceback" not in ran.err


def test_two_pulls_of_one_image_fetch_it_once(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store", jobs=4)
    with pull.started() as one, pull.started() as two:
        with server.held(LAST, at=1_500_000):
            eventually(lambda: server.is_held(LAST), what="the blob to be on its way")
            eventually(lambda: len(server.starts(IMAGE.digest)) == 2, what="both to have the manifest")
        done = [running.wait() for running in (one, two)]
    assert [ran.code for ran in done] == [0, 0], [ran.said for ran in done]
    assert [server.starts(digest) for digest in (CONFIG, FIRST, LAST)] == [[0], [0], [0]]
    assert sum(map(fetched, done)) == sum(map(len, IMAGE.blobs.values())) + len(IMAGE.blobs[IMAGE.digest])
    pull.assert_done()


def test_the_other_pull_goes_on_where_one_is_killed(server: Staged, tmp_path: Path) -> None:
    pull = Pull(server, tmp_path / "store", jobs=4)
    with pull.started() as one, server.held(LAST, at=1_500_000):
        eventually(lambda: pull.durable(LAST) > 1_200_000, what="a good part")
        with pull.started() as two:
            eventually(lambda: len(server.starts(IMAGE.digest)) == 2, what="both to have the manifest")
            one.stand_still()  # or the other would be writing already when we look
            kept = pull.durable(LAST)
            one.signal(signal.SIGKILL)
            eventually(lambda: len(server.starts(LAST)) == 2, what="the other to go on")
            server.release_now(LAST)
            assert two.wait().code == 0
    assert server.starts(LAST) == [0, kept]
    pull.assert_done()


# ── no room, no right ────────────────────────────────────────────────────────────────────────────────────────────


ROOT_ONLY = pytest.mark.real("runc")  # to mount; what needs runc needs root


@ROOT_ONLY
def test_a_full_disk(server: Staged, disk: Path) -> None:
    pull = Pull(server, disk / "store")
    ran = run_pierhead("pull", "--root", pull.root, pull.name, code=1)
    assert "no space left on the device" in ran.err
    assert "hint: free some space" in ran.err
    kept = pull.durable(LAST)
    assert_sound(pull.root)
    mount(disk, "remount,size=16m")
    pull.again()
    assert kept > 0
    assert server.starts(LAST) == [kept]


@ROOT_ONLY
def test_a_disk_that_is_read_only(server: Staged, disk: Path) -> None:
    small = make_image(layers=[b"small"])
    with Staged(small) as other:
        name = f"{other.address}/team/small:v1"
        run_pierhead("pull", "--root", disk / "store", name)
        mount(disk, "remount,ro")
        ran = run_pierhead("pull", "--root", disk / "store", f"{server.address}/team/app:v1", code=1)
        assert "the file system is read-only" in ran.err
        assert "--root" in ran.err
    listed = run_pierhead("images", "-o", "json", "--root", disk / "store").images
    assert [image["name"] for image in listed] == [name]
    run_pierhead("verify", "--root", disk / "store")
    assert stored(disk / "store") == small.blobs


def test_a_limit_on_the_size_of_files(server: Staged, tmp_path: Path) -> None:
    pull, limit = Pull(server, tmp_path / "store"), ("prlimit", "--fsize=2000000")
    ran = run_pierhead("pull", "--root", pull.root, "-o", "json", pull.name, prefix=limit, code=1)
    assert "size limit" in ran.err
    assert json.loads(ran.out)["images"][0]["error"] in ran.err
    assert pull.durable(LAST) == 2_000_000
    pull.again()
    assert server.starts(LAST) == [2_000_000]
