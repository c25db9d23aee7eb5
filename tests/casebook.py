"""The corpus of registries.yaml files in tests/corpus: its cases, what the check finds in them, and the score."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from checking import circumstances
from pierhead.auth import BadCredential
from pierhead.check import Finding, Subject, check
from pierhead.check.rule import Example
from pierhead.dialects import credentials_for
from pierhead.image_list import read_list
from pierhead.reference import InvalidReference, Reference

CORPUS: Final = Path(__file__).parent / "corpus"
Group = Literal["broken", "sound", "near-misses"]
GROUPS: Final[tuple[Group, ...]] = ("broken", "sound", "near-misses")

_LIST: Final = "images.txt"
_KEYS: Final = frozenset(
    {"thread", "about", "flags", "place", "mode", "beside", "expect", "fix", "pull", "same", "corrected", "tolerated"}
)


@dataclass(frozen=True)
class Case:
    """A file of the corpus and what index.toml says of it."""

    group: Group
    name: str
    told: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.group}/{self.name}"

    def path(self, kind: str = "") -> Path:
        """The file itself, or the one beside it: "corrected", "fixed"."""
        return CORPUS / self.group / f"{self.name}{f'.{kind}' if kind else ''}.yaml"

    @property
    def expected(self) -> frozenset[str]:
        """What is to be found: "R004 6:3"; in the list of images "R060 images.txt:2:1"."""
        return frozenset(self.told.get("expect", ()))

    @property
    def tolerated(self) -> Mapping[str, str]:
        """What is known to be missed or too much, and why: {"missed R004 6:3": "…"}."""
        tolerated: Mapping[str, str] = self.told.get("tolerated", {})
        return tolerated

    def subject(self, folder: Path, kind: str = "", data: bytes | None = None) -> Subject:
        """The file, the "corrected" one or other bytes, as the command reads it under the circumstances of the case.

        A case with a `place` is laid out there, below `folder`, and its files are looked at; any other one is checked
        as on another machine.
        """
        told = {**self.told, **(self.told.get("corrected", {}) if kind == "corrected" else {})}
        data = self.path(kind).read_bytes() if data is None else data
        example = Example("", _flags(told, folder), self._images(kind))
        if "place" not in told:
            return Subject.of(data, "registries.yaml", circumstances(example, None))
        file = folder / told["place"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(told.get("mode", 0o600))
        for name, content in told.get("beside", {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        return Subject.of(data, str(file), circumstances(example, file))

    def _images(self, kind: str) -> str:
        names = [f"{self.name}.{kind}.images.txt", f"{self.name}.images.txt"]
        paths = [path for name in names if (path := CORPUS / self.group / name).exists()]
        return paths[0].read_text() if paths else ""


def _flags(told: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """The flags of a case, where `{here}` is the folder that it is laid out in."""
    given = [flag.replace("{here}", str(folder)) for flag in told.get("flags", "").split()]
    return (*([] if "place" in told else ["--no-files"]), *given)


def cases(group: Group) -> tuple[Case, ...]:
    """The cases of a folder, as its index has them."""
    index = tomllib.loads((CORPUS / group / "index.toml").read_text())
    for name, told in index.items():
        assert told.keys() <= _KEYS, f"{group}/{name}: {told.keys() - _KEYS} means nothing"
    return tuple(Case(group, name, told) for name, told in index.items())


# -- what is found ----------------------------------------------------------------------------------------------------


def places(findings: Iterable[Finding], subject: Subject) -> set[str]:
    """Findings as index.toml writes them."""
    return {f"{finding.id} {_place(finding, subject)}" for finding in findings}


def _place(finding: Finding, subject: Subject) -> str:
    span = finding.span
    file = "" if span.file == subject.source.file else f"{span.file}:"
    return f"{file}{span.line}:{span.column}"


def alarming(findings: Iterable[Finding]) -> list[Finding]:
    """The errors and warnings."""
    return [finding for finding in findings if finding.severity != "note"]


@dataclass(frozen=True)
class Verdict:
    """What the check found in one case against what is there. A note counts where it is expected, and only there."""

    case: Case
    subject: Subject
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, case: Case, folder: Path) -> Verdict:
        subject = case.subject(folder)
        return cls(case, subject, check(subject))

    @cached_property
    def found(self) -> set[str]:
        return places(self.findings, self.subject) & self.case.expected

    @cached_property
    def missed(self) -> set[str]:
        return set(self.case.expected) - self.found

    @cached_property
    def extra(self) -> set[str]:
        return places(alarming(self.findings), self.subject) - self.case.expected

    @property
    def mistakes(self) -> set[str]:
        """What is neither right nor tolerated."""
        wrong = {*(f"missed {place}" for place in self.missed), *(f"extra {place}" for place in self.extra)}
        return wrong - self.case.tolerated.keys()


@dataclass(frozen=True)
class Score:
    """Findings that are right, missed and too many, by rule."""

    right: Counter[str]
    missed: Counter[str]
    extra: Counter[str]

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Score:
        score = cls(Counter(), Counter(), Counter())
        for verdict in verdicts:
            for counter, keys in ((score.right, verdict.found), (score.missed, verdict.missed)):
                counter.update(key.split()[0] for key in keys)
            score.extra.update(key.split()[0] for key in verdict.extra)
        return score

    def precision(self, *rules: str) -> float:
        """Of what was found, the part that is right; of all rules if none is named."""
        return _ratio(_count(self.right, rules), _count(self.extra, rules))

    def recall(self, *rules: str) -> float:
        """Of what is there, the part that was found."""
        return _ratio(_count(self.right, rules), _count(self.missed, rules))

    def lines(self) -> Iterator[str]:
        """A line for each rule."""
        for rule in sorted(self.right | self.missed | self.extra):
            yield f"{rule}  precision {self.precision(rule):.3f}  recall {self.recall(rule):.3f}  ({self.right[rule]})"


def _count(counter: Counter[str], rules: tuple[str, ...]) -> int:
    return sum(counter[rule] for rule in rules) if rules else counter.total()


def _ratio(right: int, wrong: int) -> float:
    return right / (right + wrong) if right + wrong else 1.0


# -- what a file means ------------------------------------------------------------------------------------------------


def meaning(subject: Subject, images: Iterable[str]) -> object:
    """What K3s does with a file, to be compared: for each image the requests, their TLS, and whose credentials."""
    if subject.hosts is None:
        return "K3s refuses the file"
    if subject.hosts.error is not None:
        return "K3s cannot write its files"
    return {image: _asked(subject, image) for image in images}


def _asked(subject: Subject, image: str) -> list[tuple[object, ...]]:
    plan = subject.plan(Reference.parse(image))
    assert plan is not None  # hosts are there
    return [
        (route.url, route.repository, route.namespace, route.tls, route.http_fallback, _account(subject, route.host))
        for route in plan.routes
    ]


def _account(subject: Subject, host: str) -> object:
    try:
        credential = credentials_for("k3s", subject.hosts)(host)
    except BadCredential:
        return "unusable"
    return credential and (credential.username, credential.secret.reveal(), credential.kind)


def images_of(case: Case, *subjects: Subject) -> list[str]:
    """Images that tell files apart: some of every registry that a file names, and those that the case adds."""
    keys = {key for subject in subjects for key in (*subject.config.mirrors, *subject.config.configs)}
    made = [f"{key}/acme/app:1" for key in sorted(keys)]
    listed = [image.text for subject in subjects for image in subject.circumstances.images or ()]
    known = ["docker.io/library/nginx:1", "unlisted.example/acme/app:1"]
    return [image for image in [*known, *made, *listed, *case.told.get("pull", ())] if _is_image(image)]


def _is_image(text: str) -> bool:
    if read_list(text, _LIST)[1]:
        return False
    try:
        Reference.parse(text)
    except InvalidReference:
        return False
    return True
