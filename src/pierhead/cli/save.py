"""`pierhead save`: images in one file, for machines that no registry reaches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pierhead.cli import naming, options, problem_json, show_error, show_problem, write_json
from pierhead.cli.attempts import served_by, show_failures
from pierhead.cli.copying.shown import left_out_json, referrer_json, show_left_out, with_referrers
from pierhead.cli.lists import LISTS, read_tagged
from pierhead.cli.pulling import LOCKED, PLATFORMS, REFERRERS, Pulling, pulling
from pierhead.errors import ExitCode, PierheadError, Problem, UsageError

if TYPE_CHECKING:
    from pierhead.archive.writing import Format, Packed, Written
    from pierhead.body import Buffer, Write
    from pierhead.compression import Kind
    from pierhead.layout import LayoutRepository
    from pierhead.oci import Platform
    from pierhead.pull import Pulled
    from pierhead.reference import Reference
    from pierhead.store import Referrer
    from pierhead.tree import Tree

STDOUT: Final = "-"
K3S_FOLDER: Final = "/var/lib/rancher/k3s/agent/images"
# What K3s takes from its folder, by the ends of names (pkg/agent/containerd: preloadFile), and how we would write it.
SUFFIXES: Final[dict[str, Kind | None]] = {
    ".tar": "none",
    ".tar.zst": "zstd",
    ".tzst": "zstd",
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".tar.bz2": None,
    ".tbz": None,
    ".tar.lz4": None,
}
_SUFFIX_OF: Final[dict[Kind, str]] = {"none": ".tar", "zstd": ".tar.zst", "gzip": ".tar.gz"}
# How pulling ends where there is no network, and for an image that no registry has.
_NOBODY_TO_ASK: Final = frozenset({ExitCode.NETWORK, ExitCode.NOT_FOUND})


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be written, and where."""

    file: str
    format: Format
    kind: Kind

    @property
    def is_stdout(self) -> bool:
        return self.file == STDOUT


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one image: `packed` if it can be written, else `error`. `pulled` if it had to be.

    `unasked` is why the registries could not say what refers to it, if it is written as the store has it.
    """

    reference: Reference
    packed: Packed | None = None
    platforms: tuple[Platform, ...] = ()
    referrers: tuple[tuple[Referrer, Tree], ...] = ()
    pulled: Pulled | None = None
    unasked: PierheadError | None = None
    error: PierheadError | None = None


@click.command()
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@LISTS
@click.option("-o", "--output", "file", required=True, metavar="FILE", help="The file to write; - is standard output.")
@click.option(
    "--format",
    type=click.Choice(["k3s-airgap", "oci-archive", "docker-archive"]),
    default="k3s-airgap",
    show_default=True,
    help=f"What K3s takes from {K3S_FOLDER}, skopeo and podman, or docker load.",
)
@click.option(
    "--compress",
    type=click.Choice(["zstd", "gzip", "none"]),
    help="Default: what FILE's name ends in (.tar.zst, .tar.gz, .tar), else none.",
)
@click.option("--partial", is_flag=True, help="Write the file even if some images cannot be had.")
@LOCKED
@PLATFORMS
@REFERRERS
@options.configuration
@options.root
@options.transfers
@options.own_registry
@options.timeouts
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def save(images: tuple[str, ...], lists: tuple[str, ...], **flags: Any) -> int:
    """Write images into one file: K3s' air-gap tarball, or what docker and podman load.

    What is not in the store is pulled into it first, by registries.yaml; with --referrers everything is, as only the
    registries know what refers to it by now. The file appears whole or not at all, and the same images give the same
    bytes. Of one platform the image itself is written, of several the index.
    """
    from pierhead.archive.writing import refuse_referrers, tag_for_k3s

    target, quiet = _target(flags), flags.pop("quiet") or flags["as_json"]
    if flags["referrers"]:
        refuse_referrers(target.format)
    if not images and not lists:
        raise UsageError("there is nothing to save", hint="name images, or a list of them with --images")
    with pulling(flags, quiet=quiet) as brought:
        tagged, unread = read_tagged(images, lists, brought.fetch)
        for problem in unread:
            show_problem(problem)
        if not tagged:
            raise UsageError("the list names no image")
        names = _names(target, tagged)
        for name in names.values() if target.format == "k3s-airgap" else ():
            tag_for_k3s(name)  # before anything is pulled
        taken, unpublished = _take(brought, list(tagged))
    problems = list(_problems(taken, unpublished))
    _show_trouble(taken, problems, quiet=quiet)
    packed = [replace(image.packed, name=names[image.reference]) for image in taken if image.packed]
    code = ExitCode.PARTIAL if unread else ExitCode.of_all([image.error for image in taken])
    written = None
    if code is ExitCode.DONE or (flags["partial"] and packed):
        written = _write(target, packed)
    else:
        click.echo("nothing is written" + ("; with --partial the others are" if packed else ""), err=True)
    warnings = [*_misnamed(target), *_not_for_skopeo(target, packed)] if written else []
    for problem in warnings:
        show_problem(problem)
    if flags["as_json"]:
        write_json(_report_json(target, taken, written, [*problems, *warnings]))
    elif written:
        _report(target, taken, written)
    return code


# ── where to, and as what ────────────────────────────────────────────────────────────────────────────────────────


def _target(flags: dict[str, Any]) -> Target:
    """Raises `UsageError` for what could not be written in the end."""
    file, kind = flags["file"], flags["compress"]
    if file in (STDOUT, "/dev/stdout"):
        if flags["as_json"]:
            raise UsageError("standard output cannot take both the archive and --json", hint="give -o FILE")
        if sys.stdout.isatty():
            raise UsageError("an archive is nothing for a terminal", hint="give -o FILE, or pipe it into a program")
        return Target(STDOUT, flags["format"], kind or "none")
    if file in ("json", "text"):
        raise UsageError(
            f"-o {file} would write a file of that name", hint=f"--json prints JSON; or write ./{file}.tar"
        )
    if Path(file).is_dir():
        raise UsageError(f"{file} is a folder", hint=f"give the file a name: {Path(file) / 'images.tar.zst'}")
    if not Path(file).absolute().parent.is_dir():
        raise UsageError(f"there is no folder {Path(file).absolute().parent}")
    suffix = _suffix(file)
    if kind is None and suffix and SUFFIXES[suffix] is None:
        hint = "end it in .tar.zst, .tar.gz or .tar, or say --compress"
        raise UsageError(f"{file} ends in {suffix}, which is not written here", hint=hint)
    return Target(file, flags["format"], kind or (SUFFIXES[suffix] if suffix else None) or "none")


def _names(target: Target, tagged: Mapping[Reference, str]) -> dict[Reference, str]:
    """What each image is called in the file.

    One by digest is called by the tag beside it where a name must have a tag: in docker's archives, and for K3s, which
    adds the name by digest itself (pkg/agent/containerd: retagImages).
    """
    by_tag = target.format != "oci-archive"
    return {
        reference: f"{reference.name}:{tag}" if tag and by_tag else str(reference) for reference, tag in tagged.items()
    }


def _suffix(file: str) -> str:
    """The end of the name that says what is in the file; empty if it says nothing."""
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if file.endswith(suffix)), "")


def _misnamed(target: Target) -> Iterator[Problem]:
    """K3s goes by the name of a file, not by what is in it."""
    if target.format != "k3s-airgap" or target.is_stdout:
        return
    suffix, name = _suffix(target.file), Path(target.file).name
    wanted = f"name it {name.removesuffix(suffix) if suffix else Path(name).stem}{_SUFFIX_OF[target.kind]}"
    if not suffix:
        yield Problem("unwatched-name", "warning", f"K3s does not look at a file called {name}; {wanted}")
    elif SUFFIXES[suffix] != target.kind:
        held = "is not compressed" if target.kind == "none" else f"holds {target.kind}"
        yield Problem("misleading-name", "warning", f"K3s goes by the end of the name, and {name} {held}; {wanted}")


def _not_for_skopeo(target: Target, packed: Sequence[Packed]) -> Iterator[Problem]:
    from pierhead.oci import DOCKER_LIST, DOCKER_MANIFEST

    if target.format != "oci-archive":
        return
    for image in packed:
        if image.tree.top.media_type in (DOCKER_LIST, DOCKER_MANIFEST):
            message = f"{image.name} has Docker's media types, which skopeo and podman do not take from an oci-archive"
            yield Problem("docker-media-type", "warning", f"{message}; write a docker-archive for them")


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────


def _take(brought: Pulling, references: Sequence[Reference]) -> tuple[list[Taken], PierheadError | None]:
    """Every image out of the store; what is not there, or not whole, is pulled before."""
    taken = {} if brought.referrers else _at_hand(brought, references)
    missing = [reference for reference in references if reference not in taken]
    results, unpublished = brought.pull(missing) if missing else ([], None)
    for pulled in results:
        taken[pulled.reference] = _after(brought, pulled)
    return [taken[reference] for reference in references], unpublished


def _at_hand(brought: Pulling, references: Sequence[Reference]) -> dict[Reference, Taken]:
    """Those images for which no registry has to be asked."""
    from pierhead.locked import TagMovedFromLock
    from pierhead.oci import NoMatchingPlatform
    from pierhead.store import ContentMismatch, NotFound

    taken: dict[Reference, Taken] = {}
    for reference in references:
        try:
            taken[reference] = _stored(brought, reference)
        except (NotFound, ContentMismatch, NoMatchingPlatform, TagMovedFromLock):
            continue  # the registries may have it
        except PierheadError as error:
            taken[reference] = Taken(reference, error=error)
    return taken


def _after(brought: Pulling, pulled: Pulled) -> Taken:
    """An image after it was pulled; where no registry could be asked, as it is in the store, if it is."""
    error = pulled.error
    believed = brought.referrers and not pulled.copied and error and error.exit_code in _NOBODY_TO_ASK
    if error and not believed:
        return Taken(pulled.reference, pulled=pulled, error=error)
    try:
        return replace(_stored(brought, pulled.reference), pulled=pulled, unasked=error)
    except PierheadError as failed:  # without an error before, somebody else has just removed it
        return Taken(pulled.reference, pulled=pulled, error=error or failed)


def _stored(brought: Pulling, reference: Reference) -> Taken:
    """An image as it is in the store; raises `NotFound` if not all of it is."""
    from pierhead.archive.writing import Packed
    from pierhead.chosen import chosen
    from pierhead.store import RepositoryName
    from pierhead.tree import read_tree

    repository = brought.store.repository(RepositoryName.of(reference))
    whole = brought.guard(reference, repository) if brought.guard else repository
    # What has a digest for a name must stay what it is: of an index the rest is left out.
    source, platforms = (whole, tuple(brought.platforms)) if reference.digest else chosen(whole, brought.platforms)
    tree = read_tree(source.manifest, source.resolve(reference.object), platforms)
    _require_blobs(repository, tree)
    referrers = _stored_referrers(repository, tree) if brought.referrers else ()
    is_part = tree.top.digest != whole.resolve(reference.object).digest
    known = tuple(brought.platforms) if is_part else tuple(tree.platforms)
    beside = tuple(Packed(referrer.tag, repository, below) for referrer, below in referrers)
    return Taken(reference, Packed(str(reference), repository, tree, beside), known, referrers)


def _stored_referrers(repository: LayoutRepository, tree: Tree) -> tuple[tuple[Referrer, Tree], ...]:
    """What refers to an image in the store; raises `NotFound` if not all of it is there."""
    from pierhead.referrers import read_referrers

    found = read_referrers(repository, tree.manifests).trees
    for _, below in found:
        _require_blobs(repository, below)
    return found


def _require_blobs(repository: LayoutRepository, tree: Tree) -> None:
    from pierhead.store import NotFound

    for descriptor in tree.blobs.values():
        if not repository.has(descriptor):
            raise NotFound(f"{descriptor.digest} is not in the store")


def _write(target: Target, packed: Sequence[Packed]) -> tuple[Written, int]:
    """Write the archive; what is in it, and the size of the file."""
    from pierhead.archive.writing import write_archive
    from pierhead.compression import compressed

    with _opened(target) as out:
        counted = _Counted(out)
        with compressed(counted.write, target.kind) as write:
            written = write_archive(packed, write, target.format)
    return written, counted.size_bytes


@contextmanager
def _opened(target: Target) -> Iterator[Write]:
    from pierhead.files import whole_file

    if target.is_stdout:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    with whole_file(Path(target.file)) as write:
        yield write


class _Counted:
    """How much is written."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.size_bytes = 0

    def write(self, data: Buffer) -> None:
        self._write(data)
        self.size_bytes += len(data)


# ── what is said ─────────────────────────────────────────────────────────────────────────────────────────────────


def _problems(taken: Sequence[Taken], unpublished: PierheadError | None) -> Iterator[Problem]:
    """What is odd about how the images were had, each thing once."""
    yield from dict.fromkeys(problem for image in taken if image.pulled for problem in image.pulled.problems)
    for image in taken:
        if image.unasked:
            why = " ".join(image.unasked.message.split())
            message = f"{image.reference}: only what the store knows to refer to it is written, for {why}"
            yield Problem("referrers-not-asked", "warning", message)
    if unpublished:  # no reason not to save: what is to be saved is there
        yield Problem("index-not-written", "warning", unpublished.message)


def _show_trouble(taken: Sequence[Taken], problems: Sequence[Problem], *, quiet: bool) -> None:
    """Where images did not come from, what was left out, what is odd, and what could not be had."""
    for image in taken:
        if image.pulled and not quiet:
            show_failures(image.pulled.attempts)
            show_left_out(image.pulled.referrers, str(image.reference))
    for problem in problems:
        show_problem(problem)
    for image in taken:
        if image.error:
            show_error(naming(str(image.reference), image.error))


def _report(target: Target, taken: Sequence[Taken], written: tuple[Written, int]) -> None:
    """A line for each image, and one for the file; on stderr if the file is on stdout."""
    inside, size_bytes = written
    for image in taken:
        if image.packed is None:
            continue
        platforms = ",".join(map(str, image.platforms))
        words = [str(image.reference), str(image.packed.tree.top.digest), platforms, _place(image)]
        line = "  ".join(word for word in words if word)
        click.echo(f"{line}{with_referrers(len(image.referrers))}", err=target.is_stdout)
    count = len([image for image in taken if image.packed])
    where = "standard output" if target.is_stdout else target.file
    blobs = f"{options.counted(inside.blobs, 'blob')} of {options.size_text(inside.blob_bytes)}"
    what = f"{options.counted(count, 'image')}, {blobs}"
    click.echo(f"wrote {where}: {what} in {options.size_text(size_bytes)}", err=target.is_stdout)


def _place(image: Taken) -> str:
    if image.pulled is None or image.unasked:
        return "from the store"
    return f"from {served_by(image.pulled.attempts, image.pulled.route)}"


def _report_json(
    target: Target, taken: Sequence[Taken], written: tuple[Written, int] | None, warnings: Sequence[Problem]
) -> dict[str, Any]:
    inside, size_bytes = written or (None, None)
    return {
        "file": target.file if written else None,
        "format": target.format,
        "compress": target.kind,
        "size_bytes": size_bytes,
        "blobs": inside.blobs if inside else None,
        "blob_bytes": inside.blob_bytes if inside else None,
        "images": [_taken_json(image) for image in taken],
        "problems": [problem_json(problem) for problem in warnings],
    }


def _taken_json(image: Taken) -> dict[str, Any]:
    pulled, top = image.pulled, image.packed.tree.top if image.packed else None
    return {
        "reference": str(image.reference),
        "digest": str(top.digest) if top else None,
        "media_type": top.media_type if top else None,
        "size_bytes": image.packed.tree.size_bytes if image.packed else None,
        "platforms": [str(platform) for platform in image.platforms],
        "route": served_by(pulled.attempts, pulled.route) if pulled else None,
        "fetched_bytes": pulled.copied.fetched_bytes if pulled and pulled.copied else 0,
        "referrers": [
            {**referrer_json(referrer), "size_bytes": below.size_bytes} for referrer, below in image.referrers
        ],
        "referrers_left_out": left_out_json(pulled.referrers if pulled else None),
        "error": image.error.message if image.error else None,
        "exit_code": int(image.error.exit_code if image.error else ExitCode.DONE),
    }
