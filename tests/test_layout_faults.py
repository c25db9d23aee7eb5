"""The store on disk when things go wrong: killed anywhere, several processes at once, a disk that is full or locked."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import crash_child
from pierhead.body import read_all
from pierhead.errors import ExitCode
from pierhead.layout import LayoutStore
from pierhead.layout.ingest import Partial
from pierhead.reference import Digest
from pierhead.store import ContentMismatch, NotFound, RepositoryName, StoreUnwritable
from store_contract import LIMIT, blob_of, in_threads, put, put_image

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
DEADLINE_SECONDS = 60
NAME = RepositoryName("app", "docker.io")


def python(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run another Python that finds our tests' modules."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        **more,
    )


def assert_sound(root: Path) -> None:
    """Whatever is visible is what its digest says, and no name lacks anything."""
    store = LayoutStore(root)
    assert [finding for finding in store.verify() if finding.is_error] == []
    for digest, path in store.pool.files():
        assert Digest.of(path.read_bytes(), digest.algorithm) == digest


class TestKilled:
    def test_before_any_call_and_then_again(self, tmp_path: Path) -> None:
        """Law 6: killed anywhere and repeated equals once, and no byte that was written is written again."""
        once: list[int] = []
        crash_child.put_all(tmp_path / "once", once)
        died = self._deaths(tmp_path)
        assert died > 80
        for call in range(1, died + 1):
            root = tmp_path / str(call)
            assert_sound(root)
            kept = self._kept(root)
            again: list[int] = []
            crash_child.put_all(root, again)
            assert sum(again) == sum(once) - kept, f"killed before call {call}"
            self._assert_whole(root)

    def test_again_and_again(self, tmp_path: Path) -> None:
        assert self._deaths(tmp_path, 30, 30, 30, 50) == 4
        root = tmp_path / "30-30-30-50"
        assert_sound(root)
        crash_child.put_all(root, [])
        self._assert_whole(root)

    @staticmethod
    def _deaths(folder: Path, *calls: int) -> int:
        done = python(TESTS / "crash_child.py", folder, *calls)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    @staticmethod
    def _kept(root: Path) -> int:
        """Bytes of blobs that are on the disk, whole or begun."""
        store = LayoutStore(root)
        kept = 0
        for data in (*crash_child.LAYERS, crash_child.CONFIG):
            digest = blob_of(data).digest
            partial = store.pool.ingest_path(digest)
            kept += store.pool.size(digest) or (partial.stat().st_size if partial.exists() else 0)
        return kept

    @staticmethod
    def _assert_whole(root: Path) -> None:
        assert_sound(root)
        store = LayoutStore(root)
        repository = store.repository(crash_child.REPOSITORY)
        assert repository.manifest(repository.resolve(crash_child.TAG))
        for data in (*crash_child.LAYERS, crash_child.CONFIG):
            assert read_all(repository.blob(blob_of(data)), LIMIT) == data
        assert [str(name) for name in store.names()] == ["docker.io/library/app:7"]
        assert b"docker.io/library/app:7" in (root / "index.json").read_bytes()
        store.gc(grace_seconds=0)
        assert_sound(root)


def test_nothing_is_named_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power failure asks for: a file is synced before its rename, and the folders of all that was made before
    a manifest is linked, a name is written."""
    events: list[tuple[str, str]] = []
    real_fsync, real_rename, real_open = os.fsync, os.rename, os.open

    def fsync(descriptor: int) -> None:
        events.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real_fsync(descriptor)

    def rename(source: Any, target: Any) -> None:
        assert ("sync", str(source)) in events
        folder = str(Path(target).parent)
        if folder.endswith(("_tags", "_manifests/sha256")):
            assert unsynced() == set()
        events.append(("entry", folder))
        real_rename(source, target)

    def opened(path: Any, flags: int, *more: Any) -> int:
        folder = str(Path(path).parent)
        if flags & os.O_CREAT and folder.endswith("_blobs/sha256"):
            events.append(("entry", folder))
        return real_open(path, flags, *more)

    def unsynced() -> set[str]:
        last = {(kind, path): number for number, (kind, path) in enumerate(events)}
        entries = {path: number for (kind, path), number in last.items() if kind == "entry"}
        return {path for path, number in entries.items() if last.get(("sync", path), -1) < number}

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "open", opened)
    store = LayoutStore(tmp_path / "root")
    repository = store.repository(NAME)
    repository.tag("7", put_image(repository))
    LayoutStore(tmp_path / "root").repository(NAME).tag("8", put_image(repository))
    assert unsynced() == set()
    assert len([event for event in events if event[0] == "entry"]) > 8


class TestHoles:
    """After a power failure a partial file may have its length but not its bytes."""

    def test_partial_with_a_hole_is_written_anew(self, tmp_path: Path) -> None:
        repository = LayoutStore(tmp_path).repository(NAME)
        descriptor = blob_of(b"x" * 1000)
        with repository.upload(descriptor) as upload:
            upload.write(b"x" * 600)
        with LayoutStore(tmp_path).pool.ingest_path(descriptor.digest).open("r+b") as file:
            file.seek(100)
            file.write(bytes(50))
        with repository.upload(descriptor) as upload:
            assert upload.offset == 600
            upload.write(b"x" * 400)
            with pytest.raises(ContentMismatch):
                upload.commit()
            assert upload.offset == 0
            upload.write(b"x" * 1000)
            upload.commit()
        assert repository.has(descriptor)

    def test_partial_too_long_is_written_anew(self, tmp_path: Path) -> None:
        repository = LayoutStore(tmp_path).repository(NAME)
        descriptor = blob_of(b"x" * 1000)
        path = LayoutStore(tmp_path).pool.ingest_path(descriptor.digest)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 1001)
        with repository.upload(descriptor) as upload:
            assert upload.offset == 0


_WRITER = """
import sys
from pathlib import Path
from pierhead.layout import LayoutStore
from store_contract import blob_of
from test_layout_faults import NAME
data = b"0123456789" * 300_000
sys.stdin.readline()
written = 0
repository = LayoutStore(Path(sys.argv[1])).repository(NAME)
with repository.upload(blob_of(data)) as upload:
    for start in range(upload.offset, len(data), 50_000):
        upload.write(data[start:start + 50_000])
        written += len(data[start:start + 50_000])
    upload.commit()
assert repository.has(blob_of(data))
print(written)
"""

_DYING = """
import os, signal, sys
from pathlib import Path
from pierhead.layout import LayoutStore
from store_contract import blob_of
from test_layout_faults import NAME
with LayoutStore(Path(sys.argv[1])).repository(NAME).upload(blob_of(b"0123456789")) as upload:
    upload.write(b"01234")
    os.write(1, b"!")
    signal.pause()
"""

_STRANGER = """
import os, sys
from pathlib import Path
import hashlib, pierhead.layout.verify
from test_layout_faults import read_and_fail_to_write
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
read_and_fail_to_write(Path(sys.argv[1]))
"""

_CLAIMER = """
import sys
from pathlib import Path
from pierhead.layout import LayoutStore
from pierhead.store import Expected, TagMoved
from test_layout_faults import NAME
repository = LayoutStore(Path(sys.argv[1])).repository(NAME)
won = 0
sys.stdin.readline()
for number in range(20):
    try:
        repository.tag(f"t{number}", repository.resolve(sys.argv[2]), expected=Expected.NOTHING)
        won += 1
    except TagMoved:
        pass
print(won)
"""


class TestProcesses:
    def test_one_digest_is_written_once(self, tmp_path: Path) -> None:
        written = self._together(_WRITER, [[str(tmp_path / "root")]] * 4)
        assert sorted(written) == [0, 0, 0, 3_000_000]
        assert_sound(tmp_path / "root")

    def test_a_blob_that_came_between_the_look_and_the_lock_is_not_written_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other writer ends after we saw nothing there, and before we hold the lock."""
        data, lock = b"x" * 1000, Partial.lock

        def late(*arguments: Any) -> Partial | None:
            monkeypatch.setattr(Partial, "lock", lock)
            put(LayoutStore(tmp_path / "root").repository(NAME), data)
            return lock(*arguments)

        monkeypatch.setattr(Partial, "lock", late)
        repository = LayoutStore(tmp_path / "root").repository(NAME)
        with repository.upload(blob_of(data)) as upload:
            assert upload.offset == len(data)
            upload.commit()
        assert not list((tmp_path / "root" / "ingest" / "sha256").iterdir())
        assert_sound(tmp_path / "root")

    def test_one_winner_of_each_tag(self, tmp_path: Path) -> None:
        repository = LayoutStore(tmp_path / "root").repository(NAME)
        digests = [str(put_image(repository, str(number)).digest) for number in range(4)]
        won = self._together(_CLAIMER, [[str(tmp_path / "root"), digest] for digest in digests])
        assert sum(won) == 20
        assert len(repository.tags()) == 20
        assert_sound(tmp_path / "root")

    @staticmethod
    def _together(script: str, calls: list[list[str]]) -> list[int]:
        """Run the script once for each of the arguments, all from the same moment; what each printed."""
        children = [
            subprocess.Popen(
                [sys.executable, "-c", script, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=ENVIRONMENT,
            )
            for arguments in calls
        ]
        for child in children:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [child.communicate(timeout=DEADLINE_SECONDS)[0] for child in children]
        assert [child.returncode for child in children] == [0] * len(children)
        return [int(text) for text in said]

    def test_writer_that_dies_is_followed(self, tmp_path: Path) -> None:
        """The lock of a killed writer is free at once, and its bytes count."""
        repository = LayoutStore(tmp_path / "root").repository(NAME)
        descriptor = blob_of(b"0123456789")
        with subprocess.Popen(
            [sys.executable, "-c", _DYING, str(tmp_path / "root")],
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        ) as child:
            assert child.stdout
            assert child.stdout.read(1) == b"!"
            child.kill()
        with repository.upload(descriptor) as upload:
            assert upload.offset == 5
            upload.write(b"56789")
            upload.commit()
        assert repository.has(descriptor)


@contextmanager
def disk_that_says(monkeypatch: pytest.MonkeyPatch, call: str, error: int, *, after: int = 0) -> Iterator[None]:
    """Let a call of the operating system fail with this error, from the call after the first `after` on."""
    real, seen = getattr(os, call), 0

    def refused(*arguments: Any, **more: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > after:
            raise OSError(error, os.strerror(error))
        return real(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refused)
        yield


def put_small_image(root: Path) -> None:
    repository = LayoutStore(root).repository(NAME)
    repository.tag("7", put_image(repository))


class TestUnwritable:
    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
    @pytest.mark.parametrize("call", ["pwrite", "write", "fsync", "rename", "open", "mkdir"])
    @pytest.mark.parametrize("after", [0, 2])
    def test_every_refusal_is_said_and_survived(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int, after: int
    ) -> None:
        root = tmp_path / "root"
        with disk_that_says(monkeypatch, call, error, after=after), pytest.raises(StoreUnwritable) as refused:
            put_small_image(root)
        assert str(refused.value.path).startswith(str(root))
        assert str(refused.value.path) in str(refused.value)
        assert refused.value.hint
        assert refused.value.exit_code is ExitCode.FAILED
        assert_sound(root)
        put_small_image(root)
        assert_sound(root)
        assert LayoutStore(root).repository(NAME).tags() == ["7"]

    def test_short_write_keeps_what_was_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        repository = LayoutStore(tmp_path).repository(NAME)
        data = bytes(range(100))
        real = os.pwrite
        room = 30

        def little(descriptor: int, piece: memoryview, offset: int) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, "full")
            written = real(descriptor, piece[: min(7, room)], offset)
            room -= written
            return written

        with repository.upload(blob_of(data)) as upload:
            with monkeypatch.context() as patched:
                patched.setattr(os, "pwrite", little)
                with pytest.raises(StoreUnwritable):
                    upload.write(data)
            assert upload.offset == 30
        with repository.upload(blob_of(data)) as upload:
            assert upload.offset == 30
            upload.write(data[30:])
            upload.commit()
        assert repository.has(blob_of(data))

    def test_upload_goes_on_after_room_was_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the same upload: the hash is made anew."""
        repository = LayoutStore(tmp_path).repository(NAME)
        with repository.upload(blob_of(b"0123456789")) as upload:
            upload.write(b"0123")
            with disk_that_says(monkeypatch, "pwrite", errno.ENOSPC), pytest.raises(StoreUnwritable):
                upload.write(b"456789")
            upload.write(b"456789")
            upload.commit()
        assert repository.has(blob_of(b"0123456789"))

    def test_real_limit_of_file_size(self, tmp_path: Path) -> None:
        """The kernel's own refusal, in the middle of a write."""
        script = """
import sys
from pathlib import Path
from pierhead.layout import LayoutStore
from pierhead.store import StoreUnwritable
from store_contract import blob_of
from test_layout_faults import NAME
data = bytes(1000) * 1000
with LayoutStore(Path(sys.argv[1])).repository(NAME).upload(blob_of(data)) as upload:
    try:
        upload.write(data)
    except StoreUnwritable as error:
        print(error.path.name == blob_of(data).digest.hex, upload.offset)
"""
        limit = 300_000

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = python("-c", script, tmp_path, preexec_fn=limited)
        assert (done.stdout.strip(), done.stderr) == (f"True {limit}", "")
        data = bytes(1000) * 1000
        repository = LayoutStore(tmp_path).repository(NAME)
        with repository.upload(blob_of(data)) as upload:
            assert upload.offset == limit
            upload.write(data[limit:])
            upload.commit()
        assert_sound(tmp_path)

    def test_root_under_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreUnwritable):
            put_small_image(tmp_path / "file")
        with pytest.raises(StoreUnwritable):
            put_small_image(tmp_path / "file" / "root")
        assert (tmp_path / "file").read_bytes() == b""

    def test_read_only_root_can_be_read(self, tmp_path: Path) -> None:
        """As a user who may not write there; the superuser gives up its rights for it."""
        root = tmp_path / "root"
        repository = LayoutStore(root).repository(NAME)
        repository.tag("7", put_image(repository))
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        for folder in tmp_path, *tmp_path.parents:  # pytest's own are for their owner only
            if folder.name.startswith(("pytest-", "popen-", tmp_path.name)):
                folder.chmod(folder.stat().st_mode | 0o055)
        try:
            done = python("-c", _STRANGER, root)
        finally:
            for path in [root, *root.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
        assert done.returncode == 0, done.stderr
        assert_sound(root)


def read_and_fail_to_write(root: Path) -> None:
    store = LayoutStore(root)
    repository = store.repository(NAME)
    descriptor = repository.resolve("7")
    assert repository.has(descriptor)
    assert repository.manifest(descriptor)
    assert read_all(repository.blob(blob_of(b"image layer 0")), LIMIT) == b"image layer 0"
    assert repository.stat_blob(Digest.of(b"image layer 0")).size_bytes == 13
    assert repository.tags() == ["7"]
    assert len(list(store.names())) == 1
    assert list(store.verify()) == []
    with pytest.raises(StoreUnwritable):
        put(repository, b"more")
    with pytest.raises(StoreUnwritable):
        repository.untag("7")
    with pytest.raises(StoreUnwritable):
        repository.begin()


def test_threads_of_one_store_share_it(tmp_path: Path) -> None:
    """Many images at once through one instance, as a server or a pull with several workers does."""
    store = LayoutStore(tmp_path)
    numbers = iter(range(8))

    def put_one() -> None:
        number = next(numbers)
        repository = store.repository(RepositoryName("app", "docker.io" if number % 2 else ""))
        put(repository, b"shared layer")
        repository.tag(f"t{number}", put_image(repository, str(number % 4)))
        store.publish_index()

    in_threads(put_one, 8)
    assert_sound(tmp_path)
    assert len(list(store.names())) == 8
    assert not store.publish_index()


def test_delete_beside_a_reader(tmp_path: Path) -> None:
    """A blob that goes while it is sent is still sent whole."""
    repository = LayoutStore(tmp_path).repository(NAME)
    data = bytes(3_000_000)
    descriptor = put(repository, data)
    got: list[bytes] = []

    def take(piece: Any) -> None:
        if not got:
            repository.delete(descriptor)
            LayoutStore(tmp_path).gc(grace_seconds=0)
        got.append(bytes(piece))

    repository.blob(descriptor).copy_to(take)
    assert b"".join(got) == data
    with pytest.raises(NotFound):
        repository.blob(descriptor)
