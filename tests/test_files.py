"""Files that are replaced whole or not at all, and that stay inside their folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pierhead.files import CannotWrite, OutsideFolder, new_file, replace_file, replacing, whole_file, write_below


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400])
def test_mode_and_bytes(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"old")
    file.chmod(mode)

    replace_file(file, b"new")

    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "link").symlink_to("f")

    replace_file(tmp_path / "link", b"new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "f").read_bytes() == b"new"


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "fchmod"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails before the rename is done, the disk is as it was."""
    file = tmp_path / "f"
    file.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if call == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    elif call == "write":
        monkeypatch.setattr(os, "fdopen", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(file, b"new")
    monkeypatch.undo()

    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "f", b"new")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [new_file, replace_file])
def test_a_failure_names_the_file_that_was_meant(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the scratch file beside it; and what fails on an open file names none by itself."""
    file = tmp_path / "f"
    if write is replace_file:
        file.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space") as caught:
        write(file, b"new")
    monkeypatch.undo()
    assert caught.value.filename == str(file)

    with pytest.raises(FileNotFoundError) as missing:
        write(tmp_path / "nowhere" / "f", b"new")
    assert missing.value.filename == str(tmp_path / "nowhere" / "f")


@pytest.mark.parametrize(("error", "said"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, False)])
def test_a_full_disk_is_to_be_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, said: bool) -> None:
    file = tmp_path / "it.tar"
    file.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(CannotWrite, match=os.strerror(error)) as caught, whole_file(file) as write:
        write(b"new")
    assert ("free some space on that disk" in caught.value.hint) is said
    assert "as it was" in caught.value.hint
    assert file.read_bytes() == b"old"


# ── below a folder ───────────────────────────────────────────────────────────────────────────────────────────────


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write_below(tmp_path, "certs.d/reg.lan:5000/hosts.toml", b"x", mode=0o600)
    write_below(tmp_path, "certs.d/reg.lan:5000/hosts.toml", b"y")

    file = tmp_path / "certs.d/reg.lan:5000/hosts.toml"
    assert file.read_bytes() == b"y"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    "path", ["..", "../x", "a/../../x", "/etc/x", "", "a//b", "a/", ".", "a\0b", "x" * 256, "a/" + "ü" * 128, "a/./b"]
)
def test_nothing_is_written_outside(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    with pytest.raises(OutsideFolder):
        write_below(folder, path, b"x")

    assert list(tmp_path.rglob("*")) == [folder]


@pytest.mark.parametrize("path", ["link/x", "real/link/x"])
def test_no_link_is_followed(tmp_path: Path, path: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (folder / "real").mkdir(parents=True)
    for place in (folder, folder / "real"):
        (place / "link").symlink_to(outside)

    with pytest.raises(OSError, match=r"directory|symbolic"):
        write_below(folder, path, b"x")

    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"keep")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "f").symlink_to(tmp_path / "secret")

    write_below(folder, "f", b"x")

    assert (tmp_path / "secret").read_bytes() == b"keep"
    assert not (folder / "f").is_symlink()


# ── a file in pieces ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_written_in_pieces_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path, mode=0o640) as write:
        write(b"one ")
        write(memoryview(b"and two"))
        assert not path.exists()
    assert path.read_bytes() == b"one and two"
    assert path.stat().st_mode & 0o777 == 0o640
    with replacing(path) as write:
        write(b"another")
    assert path.read_bytes() == b"another"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_broken_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def break_off() -> None:
        with replacing(path) as write:
            write(bytes(20 * 1024 * 1024))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_replaced_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), replacing(tmp_path) as write:
        write(b"never")
    os.mkfifo(pipe := tmp_path / "pipe")
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(pipe) as write:
            write(b"through")
        assert os.read(reading, 100) == b"through"
    finally:
        os.close(reading)
    assert pipe.is_fifo()
