"""`pierhead images`, `rmi`, `gc`, `verify`: the store, looked at and tidied."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pierhead.cli import options, show_error, write_json
from pierhead.errors import ExitCode, PierheadError

if TYPE_CHECKING:
    from pierhead.layout import LayoutStore
    from pierhead.layout.verify import Finding
    from pierhead.oci import Descriptor
    from pierhead.store import Name, Repository

SHORT_DIGITS = 13  # as crictl
GRACE_SECONDS = 3600.0


def _open(root: Path) -> LayoutStore:
    from pierhead.layout import LayoutStore

    return LayoutStore(root)


@click.command()
@click.argument("filter", required=False)
@options.root
@click.option("--digests", is_flag=True, help="Show the digests of the manifests.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print."
)
def images(filter: str | None, root: Path, digests: bool, output: str) -> int:
    """List the images of the store.

    FILTER is a name or a part of one; with `*` or `?` it is a pattern for the whole name.
    """
    store = _open(root)
    found = list(store.names_or_damage())
    damage = [item for item in found if isinstance(item, PierheadError)]
    names = [item for item in found if not isinstance(item, PierheadError)]
    rows = [_Row(store, name) for name in names if _matches(str(name), filter)]
    if output == "json":
        write_json({"images": [row.as_json() for row in rows]})
    else:
        header = ["IMAGE", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "SIZE"]
        _print_table([header, *(row.cells(digests=digests) for row in rows)])
    for error in damage:
        show_error(error)
    return ExitCode.FAILED if damage else ExitCode.DONE


def _matches(name: str, wanted: str | None) -> bool:
    if wanted is None:
        return True
    return fnmatch.fnmatchcase(name, wanted) if any(char in wanted for char in "*?[") else wanted in name


class _Row:
    """One name of the store, with what its manifests say."""

    def __init__(self, store: LayoutStore, name: Name) -> None:
        self.name = name
        self.size_bytes, self.configuration = _weigh(store.repository(name.repository), name.descriptor)

    def cells(self, *, digests: bool) -> list[str]:
        """As crictl images prints them: tag and digest apart, the ID that of the configuration."""
        tag = "<none>" if ":" in self.name.reference else self.name.reference
        digest = [_short(str(self.name.descriptor.digest))] if digests else []
        return [str(self.name.repository), tag, *digest, _short(self.configuration), options.size_text(self.size_bytes)]

    def as_json(self) -> dict[str, Any]:
        descriptor = self.name.descriptor
        return {
            "name": str(self.name),
            "digest": str(descriptor.digest),
            "media_type": descriptor.media_type,
            "image_id": self.configuration or None,
            "platforms": [str(platform) for platform in self.name.platforms],
            "size_bytes": self.size_bytes,
        }


def _weigh(repository: Repository, top: Descriptor) -> tuple[int, str]:
    """The bytes of everything of an image that is there, each once, and the digest of its first configuration."""
    from pierhead.oci import ImageManifest, parse_manifest

    weights: dict[object, int] = {}
    configuration = ""
    pending = [top]
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in weights or not repository.has(descriptor):
            continue
        weights[descriptor.digest] = descriptor.size_bytes
        manifest = parse_manifest(repository.manifest(descriptor), descriptor.media_type)
        if isinstance(manifest, ImageManifest):
            weights |= {item.digest: item.size_bytes for item in manifest.references}
            configuration = configuration or str(manifest.config.digest)
        else:
            pending += [item for item in reversed(manifest.references) if item.is_manifest]
    return sum(weights.values()), configuration


def _short(digest: str) -> str:
    return digest.partition(":")[2][:SHORT_DIGITS]


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@options.root
def rmi(images: tuple[str, ...], root: Path) -> int:
    """Remove images from the store, by their names; `gc` then frees what nothing else needs."""
    store = _open(root)
    failures = 0
    found = False
    try:
        for image in images:
            try:
                name = _name_of(store, image)
                found = True
                store.repository(name.repository).forget(name.reference)
            except PierheadError as error:
                failures += 1
                show_error(error)
                code = error.exit_code
            else:
                click.echo(f"removed {name}")
    finally:
        if found:
            store.publish_index()
    if not failures:
        return ExitCode.DONE
    return code if len(images) == 1 else ExitCode.PARTIAL


def _name_of(store: LayoutStore, image: str) -> Name:
    """The name a person means: as `images` prints it, or any spelling of the reference."""
    from pierhead.reference import InvalidReference, Reference
    from pierhead.store import NotFound

    spellings = {image}
    with suppress(InvalidReference):
        spellings.add(str(Reference.parse(image)))
    for name in store.names_or_damage():
        if not isinstance(name, PierheadError) and str(name) in spellings:
            return name
    raise NotFound(f"no image {image!r} in the store", hint="`pierhead images` lists what is there")


@click.command()
@options.root
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--untagged", is_flag=True, help="Also pushed manifests that have no tag.")
@click.option(
    "--grace",
    "grace_seconds",
    type=click.FloatRange(min=0.0, max=options.SECONDS_LIMIT),
    default=GRACE_SECONDS,
    show_default=True,
    help="Spare what was pushed in the last so many seconds, and unfinished blobs for 24 times as long.",
)
@options.OUTPUT
def gc(root: Path, dry_run: bool, untagged: bool, grace_seconds: float, output: str) -> None:
    """Remove content that no image reaches. Safe beside a running pull.

    A push brings its blobs first, its manifest then and its tag last; what is between is younger than the grace.
    """
    report = _open(root).gc(dry_run=dry_run, untagged=untagged, grace_seconds=grace_seconds)
    if output == "json":
        write_json(
            {
                "dry_run": report.dry_run,
                "blobs": [{"digest": str(digest), "size_bytes": size} for digest, size in report.blobs],
                "partial_blobs": len(report.partials),
                "freed_bytes": report.freed_bytes,
                "kept_blobs": report.kept_blobs,
                "kept_bytes": report.kept_bytes,
            }
        )
        return
    verb = "would remove" if dry_run else "removed"
    unfinished = f" and {_count(len(report.partials), 'unfinished one')}" if report.partials else ""
    click.echo(
        f"{verb} {_count(len(report.blobs), 'blob')}{unfinished}, {options.size_text(report.freed_bytes)}; "
        f"{_count(report.kept_blobs, 'blob')}, {options.size_text(report.kept_bytes)}, stay"
    )
    if untagged and grace_seconds:
        click.echo(f"what was pushed in the last {grace_seconds:g} s is spared: --grace 0 takes that too", err=True)


@click.command()
@options.root
@options.OUTPUT
def verify(root: Path, output: str) -> int:
    """Hash everything in the store again, and say what is lost or damaged."""
    store = _open(root)
    findings = list(store.verify())
    # Counted as files: a name that cannot be read is among the findings.
    names = sum(1 for name in store.walk() for _ in store.repository(name).name_files())
    if output == "json":
        write_json({"images": names, "findings": [_finding_json(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.kind}: {finding.message}")
        errors = sum(finding.is_error for finding in findings)
        click.echo(f"{_count(names, 'image')}, {_count(errors, 'problem') if errors else 'all whole'}")
    return ExitCode.FAILED if any(finding.is_error for finding in findings) else ExitCode.DONE


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "error": finding.is_error,
        "message": finding.message,
        "digest": str(finding.digest) if finding.digest else None,
        "path": str(finding.path) if finding.path else None,
        "images": list(finding.names),
    }
