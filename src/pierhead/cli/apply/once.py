"""One application: the file read and checked, the changes prepared and proved, and made."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pierhead import __version__
from pierhead.apply.effect import Prepared, Source, carry_out, prepare
from pierhead.config.k3s_hosts import Flags
from pierhead.config.registries import SIZE_LIMIT_BYTES, parse, read_limited, unusable
from pierhead.errors import ExitCode, PierheadError, Problem, UsageError

if TYPE_CHECKING:
    from pierhead.apply.journal import Journal
    from pierhead.apply.record import Entry
    from pierhead.apply.target import Target
    from pierhead.check import Finding
    from pierhead.probe.verdict import ProbedImage

JOBS = 4


@dataclass(frozen=True, slots=True)
class Call:
    """What the command line asks for."""

    file: Path | None
    disable_default_registry_endpoint: bool
    embedded_registry: str | None
    dry_run: bool = False
    force: bool = False
    prove: str | None = None

    @classmethod
    def of(cls, flags: dict[str, Any]) -> Call:
        return cls(
            flags["private_registry"],
            flags["disable_default_registry_endpoint"],
            flags["embedded_registry"],
            flags["dry_run"],
            flags["force"],
            flags["prove"],
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. "refused": the errors (or the proof, which failed) kept it from being done."""

    prepared: Prepared
    result: Literal["applied", "unchanged", "dry-run", "refused"]
    findings: tuple[Finding, ...] = ()
    proof: ProbedImage | None = None
    recovered: Entry | None = None
    exit_code: ExitCode = ExitCode.DONE

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What the file says that does not take effect, or not as it is written."""
        found = [
            Problem(finding.id, finding.severity, f"{finding.id} {finding.message}; {finding.remedy}", finding.span)
            for finding in self.findings
            if finding.severity == "error"
        ]
        return (*found, *self.prepared.problems)


def now_text() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def source_file(target: Target, named: Path | None) -> Path | None:
    """The registries.yaml that was named, or the one of the runtime; None if there is none."""
    if named is not None and str(named) != os.devnull:
        return named
    return next((path for path in target.registries_files if os.path.lexists(path)), None)


def read_source(target: Target, call: Call) -> tuple[bytes, Source]:
    """The file's bytes and what it says; raises `UsageError`, `ConfigUnreadable`, `UnusableConfig`."""
    file = source_file(target, call.file)
    if file is None:
        looked = " nor ".join(map(str, target.registries_files))
        raise UsageError(f"there is no registries.yaml: neither {looked}", hint="name it with --private-registry FILE")
    data = sys.stdin.buffer.read(SIZE_LIMIT_BYTES + 1) if str(file) == "-" else read_limited(file)
    if len(data) > SIZE_LIMIT_BYTES:
        raise UsageError(f"what stands on standard input is larger than {SIZE_LIMIT_BYTES} bytes")
    config = parse(data, str(file))
    unusable(config)
    program = target.runtime if target.is_k3s else "k3s"
    flags = Flags(call.disable_default_registry_endpoint, call.embedded_registry, program, target.data_dir)
    return data, Source(config, hashlib.sha256(data).hexdigest(), flags)


def apply_once(target: Target, journal: Journal, call: Call) -> Report:
    """Everything that one `pierhead apply` does; raises `PierheadError`, and then nothing is changed."""
    data, source = read_source(target, call)
    findings = _findings(target, data, source)
    with nullcontext() if call.dry_run else journal.locked():
        recovered = None if call.dry_run else journal.recover()
        prepared = prepare(target, source, journal.record(), force=call.force)
        if _is_refused(findings, prepared) and not call.force:
            return Report(prepared, "refused", findings, recovered=recovered, exit_code=ExitCode.FAILED)
        proof = _prove(prepared, call.prove) if call.prove else None
        if proof is not None and proof.error is not None:
            return Report(prepared, "refused", findings, proof, recovered, proof.exit_code)
        result = "dry-run" if call.dry_run else carry_out(journal, prepared, now_text())
        return Report(prepared, result, findings, proof, recovered)


def _is_refused(findings: tuple[Finding, ...], prepared: Prepared) -> bool:
    severities = [*(found.severity for found in findings), *(found.severity for found in prepared.node.problems)]
    return "error" in severities


def _findings(target: Target, data: bytes, source: Source) -> tuple[Finding, ...]:
    """What `pierhead check` says of it, on this machine, with the files that it names."""
    from pierhead.check import Circumstances, Subject, check

    name = source.name
    circumstances = Circumstances(
        datetime.now(UTC),
        source.flags,
        "k3s" if target.is_k3s else "containerd",
        look_at_files=target.root == Path("/"),
        path=None if name == "-" else str(Path(name).absolute()),
    )
    return check(Subject.of(data, name, circumstances))


def _prove(prepared: Prepared, image: str) -> ProbedImage:
    from pierhead.apply.prove import prove
    from pierhead.cli.options import open_transport
    from pierhead.dialects import credentials_for
    from pierhead.probe.places import Terms
    from pierhead.probe.prober import Prober
    from pierhead.transport import Timeouts

    lookup = credentials_for("k3s" if prepared.target.is_k3s else "containerd", prepared.hosts)
    with open_transport(None) as transport:
        terms = Terms(transport, Timeouts(), time.monotonic, f"pierhead/{__version__}")
        return prove(prepared, image, Prober(terms, JOBS, transport.interrupt), lambda _: lookup)


def refusal(report: Report) -> PierheadError | None:
    """Why nothing was done, as an error of one line; None if it was."""
    if report.result != "refused":
        return None
    if report.proof is not None and report.proof.error is not None:
        return PierheadError(f"the proof failed: {' '.join(report.proof.error.message.split())}")
    errors = [problem for problem in report.problems if problem.severity == "error"]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    place = f"{errors[0].span}: " if errors[0].span else ""
    return PierheadError(f"{place}{errors[0].message}{more}")
