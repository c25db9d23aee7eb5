"""`apply` when things go wrong: killed at any call, again and again; a disk that is full or read-only; two at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from applying import NONE, ONE, TEXTS, THREE, TWO, Node, State, expected, failing, interrupted, state_of, switched_off
from pierhead.apply.journal import FOLDER, Busy, NothingToRollBack
from pierhead.apply.record import DamagedRecord, Record
from pierhead.errors import PierheadError

TESTS = Path(__file__).parent
DEADLINE_SECONDS = 120


def assert_between(found: State, before: State, after: State) -> None:
    """Each file is the old one or the new one."""
    for path in {*found, *before, *after}:
        assert found.get(path) in (before.get(path), after.get(path)), path


def assert_no_empty_directories(node: Node, before: State, after: State) -> None:
    """To containerd a directory without hosts.toml is a registry without endpoints, and hides the wildcard."""
    for folder in node.certs_d.iterdir():
        own, inside = f"certs.d/{folder.name}/hosts.toml", f"certs.d/{folder.name}/"
        on_the_way = [own not in state and any(path.startswith(inside) for path in state) for state in (before, after)]
        assert (folder / "hosts.toml").exists() or any(on_the_way), folder


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed here is a process, not the power; that everything is synced has a test of its own."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("first", "second"), [(ONE, TWO), (TWO, NONE)])
def test_killed_before_any_call_and_run_again(tmp_path: Path, first: str, second: str) -> None:
    """Real processes, really killed: each file is old or new, `status` knows, and the next run ends it."""
    Node.made(tmp_path / "node").apply(first)
    command = [sys.executable, str(TESTS / "applying.py"), str(tmp_path), second]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, done.stderr
    died = int(done.stdout)
    assert died > 25
    before, after = expected(first), expected(second)
    begun_calls = 0
    for call in range(1, died + 1):
        node = Node(tmp_path / str(call))
        assert_between(node.state(), before, after)
        assert_no_empty_directories(node, before, after)
        status = node.journal.status()
        begun_calls += status.entry is not None
        if status.entry is not None:
            assert status.done == sum(
                node.state().get(step.path) == after.get(step.path) for step in status.entry.record.steps
            )
        begun = status.entry is not None or node.state() == after
        node.recover()
        assert node.state() == (after if begun else before), f"killed before call {call}"
        if call % 5 == 0:
            node.apply(second)
            assert node.state() == after
        assert node.journal.status().entry is None
        assert len(list((node.base / FOLDER).iterdir())) <= 3  # the lock, the record, one backup
    assert begun_calls > 5


OPERATIONS = st.one_of(st.sampled_from(TEXTS), st.just("rollback"))


@given(st.lists(st.tuples(OPERATIONS, st.one_of(st.none(), st.integers(1, 70))), max_size=8))
@settings(max_examples=30)
@example([(ONE, None), (TWO, 50), (TWO, 3), ("rollback", 20), (THREE, None)])
@example([(ONE, None), ("rollback", None), ("rollback", 30), ("rollback", None)])
def test_any_sequence_ends_in_one_version(steps: list[tuple[str, int | None]]) -> None:
    """Applied, rolled back, killed at whatever call: after the next run the files are wholly one version."""
    with tempfile.TemporaryDirectory() as folder:
        node = Node.made(Path(folder))
        here, back = expected(NONE), None
        for operation, call in steps:
            if operation == "rollback":
                after, after_back = (back, here) if back is not None else (here, back)
            else:
                after, after_back = expected(operation), here
                if after == here:
                    after_back = back
            with switched_off(node.root, call or 10**6):
                _act(node, operation)
            assert_between(node.state(), here, after)
            node.recover()
            assert node.state() in (here, after)
            if call is None:
                assert node.state() == after
            if node.state() == after and after != here:
                here, back = after, after_back
        assert node.journal.status().drifted == ()


def _act(node: Node, operation: str) -> None:
    if operation != "rollback":
        node.apply(operation)
        return
    try:
        node.roll_back()
    except NothingToRollBack:
        return


def test_nothing_is_named_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power failure asks for: the bytes before the journal, the journal before the files, the files before the
    record, each with the folder that names it."""
    events: list[str] = []
    node = Node.made(tmp_path)
    node.apply(ONE)
    rename, unlink = os.rename, os.unlink

    def path_of(descriptor: int) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(node.base))

    def noted(source: Path, target: Path) -> None:
        events.append(f"rename {Path(target).relative_to(node.base)}")
        rename(source, target)

    def removed(path: Path, **more: int) -> None:
        events.append(f"unlink {path.name if isinstance(path, Path) else path}")
        unlink(path, **more)

    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(f"sync {path_of(descriptor)}"))
    monkeypatch.setattr(os, "rename", noted)
    monkeypatch.setattr(os, "unlink", removed)
    prepared = node.apply(TWO)
    begun, ended = events.index("rename .pierhead/journal.json"), events.index("rename .pierhead/applied.json")
    over = events.index("unlink journal.json")
    staged = [event for event in events[:begun] if "/new/" in event and event.endswith("hosts.toml")]
    assert len(staged) == sum(change.new is not None for change in prepared.changes.changes)
    assert events[begun + 1] == "sync .pierhead"
    moved = [event.removeprefix("rename ") for event in events if event.startswith("rename certs.d")]
    for path in moved:
        folder = path.rpartition("/")[0]
        assert begun < events.index(f"rename {path}") < events.index(f"sync {folder}", begun) < ended, path
    assert ended < events.index("sync .pierhead", ended) < over


def test_killed_again_while_it_is_ended(tmp_path: Path) -> None:
    """The recovery may be killed too, at each of its calls."""
    node = Node.made(tmp_path / "node")
    node.apply(ONE)
    middle = interrupted(node, TWO, done=2)
    call = 1
    while True:
        copy = Node(Path(shutil.copytree(middle.root, tmp_path / f"again-{call}")))
        with switched_off(copy.root, call) as calls:
            copy.recover()
        assert_between(copy.state(), expected(ONE), expected(TWO))
        copy.recover()
        assert copy.state() == expected(TWO)
        if calls.count < call:
            break
        call += 1
    assert call > 10


# ── failing calls ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "disk stays full"])
def test_a_call_that_fails_changes_nothing_or_is_ended_later(tmp_path: Path, lasting: bool) -> None:
    """ENOSPC at each call: an error, and everything as it was; or the journal says what is still to be done."""
    node = Node.made(tmp_path / "node")
    node.apply(ONE)
    call, undone = 1, 0
    while True:
        copy = Node(Path(shutil.copytree(node.root, tmp_path / f"copy-{call}")))
        with failing(copy.root, call, lasting=lasting) as calls:
            said = _failure(copy)
        assert "No space left" in (said or "No space left"), call
        undone += said is not None and copy.state() == expected(ONE)
        if calls.count < call:
            break
        assert_between(copy.state(), expected(ONE), expected(TWO))
        if copy.journal.status().entry is None:
            assert copy.state() in (expected(ONE), expected(TWO)), call
        copy.recover()
        assert copy.state() in (expected(ONE), expected(TWO)), call
        call += 3 if lasting else 1
    assert call > 40
    assert undone > (10 if lasting else 30)


def _failure(node: Node) -> str | None:
    try:
        node.apply(TWO)
    except PierheadError as error:
        return str(error)
    return None


def test_a_failure_in_the_middle_takes_back_what_was_done(tmp_path: Path) -> None:
    node = Node.made(tmp_path)
    node.apply(ONE)
    node.write("gcr.io", "in the way", file="x")
    (node.certs_d / "gcr.io/x").unlink()
    prepared = node.prepared(THREE)
    with node.journal.locked():  # a link appears between looking and acting
        (node.certs_d / "gcr.io").rmdir()
        (node.certs_d / "gcr.io").symlink_to(tmp_path)
        with pytest.raises(PierheadError, match="symbolic link"):
            node.journal.commit(prepared.changes.changes, _record(node))
    assert node.state() == expected(ONE)
    assert not list(tmp_path.glob("hosts.toml"))


def _record(node: Node) -> Record:
    record = node.journal.record()
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied")]
)
def test_a_folder_that_cannot_be_written(tmp_path: Path, number: int, words: str) -> None:
    """The first call that would change something is refused."""
    node = Node.made(tmp_path)
    before = state_of(tmp_path)
    with failing(node.root, 1, number), pytest.raises(PierheadError) as caught:
        node.apply(ONE)
    assert f"{words}; nothing is changed" in str(caught.value)
    assert "mount" in caught.value.hint
    assert state_of(tmp_path) == before


# ── two at once, damage ──────────────────────────────────────────────────────────────────────────────────────────────


def test_two_at_once(tmp_path: Path) -> None:
    node = Node.made(tmp_path)
    with node.journal.locked(), pytest.raises(Busy, match="another pierhead"):
        node.apply(ONE)
    node.apply(ONE)
    assert node.state() == expected(ONE)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"format": 2}', '{"format": 1, "record": 3}', '{"format":1,"at":[]}']
)
@pytest.mark.parametrize("name", ["applied.json", "journal.json"])
def test_damaged_records_are_told(tmp_path: Path, name: str, damage: str) -> None:
    node = Node.made(tmp_path)
    node.apply(ONE)
    (node.base / FOLDER / name).write_text(damage)
    with pytest.raises(DamagedRecord, match=name):
        node.apply(TWO)
    assert node.state() == expected(ONE)
    (node.base / FOLDER / name).unlink()
    node.apply(TWO)
    assert node.state() == expected(TWO)


def test_a_record_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    """Whoever can write the journal is root anyway; but a path in it is still one below the folder."""
    node = Node.made(tmp_path)
    node.apply(ONE)
    record = node.base / FOLDER / "applied.json"
    value = json.loads(record.read_text())
    value["steps"][0]["path"] = "../../../../x"
    record.write_text(json.dumps(value))
    with pytest.raises(DamagedRecord):
        node.roll_back()


def test_a_backup_that_is_gone_is_told(tmp_path: Path) -> None:
    node = Node.made(tmp_path)
    node.apply(ONE)
    node.apply(TWO)
    (backup,) = (node.base / FOLDER).glob("t-*")
    shutil.rmtree(backup)
    with pytest.raises(NothingToRollBack, match="gone or damaged"):
        node.roll_back()
    assert node.state() == expected(TWO)
