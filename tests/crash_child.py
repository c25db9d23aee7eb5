"""Processes that use a store and kill themselves, as by a power switch, before their n-th call of the operating system.

`python crash_child.py FOLDER` puts an image into `FOLDER/1`, `FOLDER/2` … and dies of the 1st, 2nd … call of those in
`COUNTED` that touch the store, until one lives to the end; it prints how many died. With further numbers, the
children die one after the other of just these calls, all in the same `FOLDER/<numbers>`.

The children are forked, because a fresh interpreter for each of more than a hundred would take a minute, and forked by
this process because it has no threads.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pierhead.layout import LayoutStore
from pierhead.oci import OCI_CONFIG, OCI_MANIFEST
from pierhead.store import RepositoryName
from store_contract import blob_of, manifest_of

COUNTED = ("open", "close", "pwrite", "write", "fsync", "rename", "unlink", "mkdir", "utime", "ftruncate", "stat")
REPOSITORY = RepositoryName("library/app", "docker.io")
PIECE_BYTES = 700
LAYERS = [bytes([65 + number]) * 2000 for number in range(2)]
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
TAG = "7"

calls = 0


def count(root: str, limit: int) -> None:
    """Let every counted call below `root`, or on an open file, be the last if it is the one."""

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            global calls
            if arguments and (isinstance(arguments[0], int) or str(arguments[0]).startswith(root)):
                calls += 1
                if calls == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **more)

        return counted

    for name in COUNTED:
        setattr(os, name, wrapped(getattr(os, name)))
    fcntl.flock = wrapped(fcntl.flock)


def put_all(root: Path, fetched: list[int]) -> None:
    """What a pull does: every blob, the manifest, the name, the index. The bytes it had to write go to `fetched`."""
    store = LayoutStore(root)
    with store.lease():
        repository = store.repository(REPOSITORY)
        for data in (*LAYERS, CONFIG):
            descriptor = blob_of(data)
            if repository.has(descriptor):
                continue
            with repository.upload(descriptor) as upload:
                for start in range(upload.offset, len(data), PIECE_BYTES):
                    piece = data[start : start + PIECE_BYTES]
                    upload.write(piece)
                    fetched.append(len(piece))
                upload.commit()
        raw = manifest_of(blob_of(CONFIG, OCI_CONFIG), [blob_of(data) for data in LAYERS])
        repository.tag(TAG, repository.put_manifest(raw, OCI_MANIFEST))
    store.publish_index()


def dies(root: Path, limit: int) -> bool:
    """Whether a child that puts the image into `root` died of its `limit`-th call."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count(str(root), limit)
            put_all(root, [])
            status = 0
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the child that should die of call {limit} ended with {code}")
    return code != 0


def main(folder: Path, limits: list[int]) -> int:
    """How many children died."""
    if limits:
        root = folder / "-".join(map(str, limits))
        return sum(dies(root, limit) for limit in limits)
    limit = 1
    while dies(folder / str(limit), limit):
        limit += 1
    return limit - 1


if __name__ == "__main__":
    sys.stdout.write(str(main(Path(sys.argv[1]), [int(text) for text in sys.argv[2:]])))
