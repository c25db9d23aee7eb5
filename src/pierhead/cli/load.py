"""`pierhead load`: images out of archives, into the store or into a containerd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, show_error, write_json
from pierhead.cli.copying.shown import referrers_json, with_referrers
from pierhead.errors import ExitCode, PierheadError, UsageError

if TYPE_CHECKING:
    from pierhead.loading import Loaded, Target
    from pierhead.reference import Reference

NAMESPACE = "k8s.io"
_DEFAULT_SOCKET = ""
_DASH = Path("-")
_STDIN = Path("/dev/stdin")


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, type=click.Path(path_type=Path))
@options.root
@click.option("--name", metavar="IMAGE", help="The name for an archive's only image, if the archive gives it none.")
@click.option(
    "--containerd",
    metavar="[SOCKET]",
    is_flag=False,
    flag_value=_DEFAULT_SOCKET,
    help="Load into the containerd that listens there, through ctr, and not into the store. Default socket: that of "
    "K3s and RKE2, else /run/containerd/containerd.sock.",
)
@click.option("--namespace", help=f"In containerd: the namespace. Default: the one that kubelet uses, {NAMESPACE}.")
@click.option("--pin", is_flag=True, help="In containerd: pinned, named and labelled as K3s does what it imports.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    default=options.JOBS,
    show_default=True,
    help="Blobs, and images, written at once into the store.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress; on stderr warnings and errors alone.")
@options.OUTPUT
def load(files: tuple[Path, ...], output: str, quiet: bool, **flags: Any) -> int:
    """Load the images of archives under their own names.

    FILE is what docker save, podman save, skopeo, ctr, `pierhead save` or K3s' release page gives, also compressed with
    zstd or gzip; or the folder of an OCI layout; - is standard input. Everything is checked before it is written, and
    nothing outside of the store is touched. What FILE has that refers to an image, such as signatures, comes into the
    image's repository. With --containerd the images come under their own names into a containerd, for every platform
    that the archive has, and are unpacked when their first container starts.
    """
    from pierhead.loading import exit_code
    from pierhead.loading import load as load_files

    files, socket = _files_and_socket(files, flags["containerd"])
    name = _name(flags["name"])
    if socket is None:
        _refuse_of_containerd(flags)
    quiet = quiet or output == "json"
    opened = _into_store(flags, quiet=quiet) if socket is None else _into_containerd(socket, flags)
    with opened as (target, scratch):
        results = load_files(files, target, name=name, scratch=scratch)
    if output == "json":
        write_json({"images": [_loaded_json(result) for result in results]})
    else:
        _show(results, quiet=quiet)
    _show_errors(results)
    return exit_code(results)


def _refuse_of_containerd(flags: dict[str, Any]) -> None:
    """Raises `UsageError` about what would be passed over: the images come into the store."""
    if flags["pin"]:
        raise UsageError("--pin is for containerd", hint="add --containerd; what is in the store stays there anyway")
    if flags["namespace"]:
        raise UsageError("--namespace is for containerd", hint="add --containerd; the store has no namespaces")


def _files_and_socket(files: tuple[Path, ...], socket: str | None) -> tuple[tuple[Path, ...], str | None]:
    """What stands behind --containerd is a file to load if it can be no socket: `load --containerd images.tar`."""
    if socket:
        from pierhead.loading.containerd import is_socket

        path = Path(socket)
        if path == _DASH or (path.exists() and not is_socket(path)):
            files, socket = (path, *files), _DEFAULT_SOCKET
    if not files:
        raise UsageError("no archive is named", hint="give the tar files, or folders of OCI layouts, to load")
    return tuple(_STDIN if file == _DASH else file for file in files), socket


def _name(text: str | None) -> Reference | None:
    if text is None:
        return None
    from pierhead.reference import Reference

    return Reference.parse(text)


@contextmanager
def _into_store(flags: dict[str, Any], *, quiet: bool) -> Iterator[tuple[Target, Path]]:
    from pierhead.layout import LayoutStore
    from pierhead.loading.into import IntoStore

    store = LayoutStore(flags["root"])
    scratch = store.path / "tmp"
    with store.root.changing():  # a folder that cannot be written is told before the first archive is read
        store.prepare()
        scratch.mkdir(exist_ok=True)
    with options.open_transfer(flags, store.interrupt, quiet=quiet) as transfer:
        try:
            yield IntoStore(store, transfer, at_once=flags["jobs"]), scratch
        finally:
            store.publish_index()


@contextmanager
def _into_containerd(socket: str, flags: dict[str, Any]) -> Iterator[tuple[Target, None]]:
    from pierhead.loading.containerd import Containerd
    from pierhead.loading.into import IntoContainerd

    containerd = Containerd(Path(socket.removeprefix("unix://")) if socket else None, flags["namespace"] or NAMESPACE)
    yield IntoContainerd(containerd, pin=flags["pin"]), None


def _show(results: Sequence[Loaded], *, quiet: bool) -> None:
    """One line for each image that is there; which platforms it lacks on stderr."""
    for result in results:
        if result.error or result.descriptor is None:
            continue
        copied = result.copied
        amount = "imported"
        if copied:
            new, known = options.size_text(copied.fetched_bytes), options.size_text(copied.reused_bytes)
            amount = f"wrote {new}, had {known}" if copied.fetched_bytes else f"had all {known}"
        came = with_referrers(len(result.referrers.copied) if result.referrers else 0)
        click.echo(f"{result.name}  {result.descriptor.digest}  {amount}{came}")
        if result.absent and not quiet:
            click.echo(f"not in {result.file}: {', '.join(map(str, result.absent))} of {result.name}", err=True)


def _show_errors(results: Sequence[Loaded]) -> None:
    """Each error once, with all images that it concerns."""
    concerned: dict[int, tuple[PierheadError, list[str]]] = {}
    for result in results:
        if result.error:
            concerned.setdefault(id(result.error), (result.error, []))[1].append(result.name)
    for error, names in concerned.values():
        known = [name for name in names if name and name not in error.message]
        shown = ", ".join(known[:3]) + (f" and {len(known) - 3} more" if known[3:] else "")
        show_error(PierheadError(f"{shown}: {error}" if shown else str(error), hint=error.hint))


def _loaded_json(result: Loaded) -> dict[str, Any]:
    copied, descriptor, error = result.copied, result.descriptor, result.error
    return {
        "file": str(result.file),
        "reference": result.name or None,
        "digest": str(descriptor.digest) if descriptor else None,
        "media_type": descriptor.media_type if descriptor else None,
        "absent_platforms": [str(platform) for platform in result.absent],
        "size_bytes": copied.size_bytes if copied else None,
        "written_bytes": copied.fetched_bytes if copied else None,
        "reused_bytes": copied.reused_bytes if copied else None,
        **referrers_json(result.referrers),
        "error": error.message if error else None,
        "exit_code": int(error.exit_code if error else ExitCode.DONE),
    }
