"""Rules about the place of the file, who may read it, and templates beside what K3s makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checking import check_example
from pierhead.check import Finding, Subject, check
from pierhead.check.rule import Example
from pierhead.check.rules.places import TEMPLATE_LIMIT_BYTES

OURS = ("R025", "R032", "R033", "R039")
PLAIN = "# ours\nmirrors:\n  docker.io:\n"
SECRET = """\
configs:
  first.example:
    auth: {username: puller, password: "${PASSWORD}"}
  mirror.example:
    auth:
      username: puller
      password: hunter2-is-secret
"""
BASE = '{{ template "base" . }}\n'
TEMPLATES = "k3s/agent/etc/containerd/"


def found(example: Example, folder: Path) -> tuple[Finding, ...]:
    findings = check(check_example(example, folder), select=OURS)
    assert not any("hunter2" in repr(finding) for finding in findings)
    return findings


def said(findings: tuple[Finding, ...]) -> list[tuple[str, str, int, int]]:
    return [(each.id, each.severity, each.span.line, each.span.column) for each in findings]


@pytest.mark.parametrize(
    ("name", "mode", "severity"),
    [
        ("etc/rancher/k3s/registries.yaml", 0o600, None),
        ("etc/rancher/k3s/registries.yaml", 0o400, None),
        ("etc/rancher/k3s/registries.yaml", 0o644, "warning"),
        ("etc/rancher/rke2/registries.yaml", 0o640, "warning"),
        ("registries.yaml", 0o644, "note"),
        ("registries.yaml", 0o600, None),
    ],
)
def test_modes(name: str, mode: int, severity: str | None, tmp_path: Path) -> None:
    findings = found(Example(SECRET, name=name, mode=mode), tmp_path)

    assert said(findings) == ([("R025", severity, 5, 5)] if severity else [])


@pytest.mark.parametrize("text", [PLAIN, SECRET.replace("hunter2-is-secret", "<password>")])
def test_a_file_without_secrets_may_have_any_mode(text: str, tmp_path: Path) -> None:
    assert not found(Example(text, name="etc/rancher/k3s/registries.yaml", mode=0o666), tmp_path)


def test_the_mode_of_a_copy_for_another_machine_does_not_matter(tmp_path: Path) -> None:
    example = Example(SECRET, ("--no-files",), name="etc/rancher/k3s/registries.yaml", mode=0o644)

    assert not found(example, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owners(tmp_path: Path) -> None:
    example = Example(SECRET, name="etc/rancher/k3s/registries.yaml")
    subject = check_example(example, tmp_path)
    os.chown(tmp_path / example.name, 12345, -1)

    (finding,) = check(subject, select=OURS)

    assert (finding.id, finding.severity) == ("R025", "warning")
    assert "user 12345" in finding.message


def test_a_file_that_is_gone_by_now(tmp_path: Path) -> None:
    subject = check_example(Example(SECRET), tmp_path)
    (tmp_path / "registries.yaml").unlink()

    assert not check(subject, select=OURS)


@pytest.mark.parametrize(
    ("name", "severity", "words"),
    [
        ("etc/rancher/k3s/registries.yaml", None, ""),
        ("etc/rancher/rke2/registries.yaml", None, ""),
        ("etc/rancher/k3s/registries-new.yaml", None, ""),
        ("registries.yaml", None, ""),
        ("anything.yaml", None, ""),
        ("registries.yml", "note", "K3s reads registries.yaml"),
        ("etc/rancher/k3s/registries.yml", "warning", "ends in .yml"),
        ("etc/rancher/rke2/registry.yaml", "warning", "RKE2 reads registries.yaml in this folder"),
        ("etc/rancher/k3s/Registries.yaml", "warning", "not Registries.yaml"),
        ("etc/rancher/k3s/registries.yaml.txt", "warning", "not registries.yaml.txt"),
        ("etc/rancher/registries.yaml", "warning", "but k3s in it"),
        ("etc/rancher/k3s/config.yaml.d/registries.yaml", "warning", "does not read config.yaml.d"),
        ("var/lib/rancher/k3s/server/manifests/registries.yaml", "warning", "Kubernetes objects"),
        ("var/lib/rancher/rke2/server/manifests/mirrors.yaml", "warning", "Kubernetes objects"),
    ],
)
def test_places(name: str, severity: str | None, words: str, tmp_path: Path) -> None:
    findings = found(Example(PLAIN, name=name), tmp_path)

    assert said(findings) == ([("R033", severity, 2, 1)] if severity else [])
    assert words in "".join(each.message for each in findings)
    program = "rke2" if "rke2" in name else "k3s"
    assert all(f"/etc/rancher/{program}/registries.yaml" in each.remedy for each in findings)


def test_what_came_through_a_pipe_has_no_place(tmp_path: Path) -> None:
    subject = check_example(Example(SECRET, name="registries.yml", files={".git/HEAD": ""}), tmp_path)
    piped = Subject(subject.source, subject.config, type(subject.circumstances)(subject.circumstances.now))

    assert not check(piped, select=OURS)


@pytest.mark.parametrize("text", ["", "# nothing\n", "[", "\tx"])
def test_a_file_without_keys_has_a_place_too(text: str, tmp_path: Path) -> None:
    assert [each.id for each in found(Example(text, name="registries.yml"), tmp_path)] == ["R033"]


@pytest.mark.parametrize("git", [".git/HEAD", ".git", "work/.git"])
def test_repositories_and_work_trees(git: str, tmp_path: Path) -> None:
    example = Example(SECRET, name="work/files/registries.yaml", files={git: "gitdir: elsewhere\n"})

    (finding,) = found(example, tmp_path)

    assert (finding.id, finding.severity, finding.span.line) == ("R039", "note", 5)
    assert str(tmp_path / git.split(".git")[0]) in finding.message


def test_no_repository(tmp_path: Path) -> None:
    assert not found(Example(SECRET, name="work/registries.yaml", files={"other/.git/HEAD": ""}), tmp_path)


@pytest.mark.parametrize(
    ("files", "dropped_by"),
    [
        ({}, None),
        ({"config-v3.toml.tmpl": BASE}, None),
        ({"config-v3.toml.tmpl": "{{- template `base` . -}}"}, None),
        ({"config-v3.toml.tmpl": "version = 3\n"}, "config-v3.toml.tmpl"),
        ({"config.toml.tmpl": "version = 2\n"}, "config.toml.tmpl"),
        ({"config.toml.tmpl": "version = 2\n", "config-v3.toml.tmpl": BASE}, None),
        ({"config.toml.tmpl": BASE, "config-v3.toml.tmpl": "version = 3\n"}, "config-v3.toml.tmpl"),
        ({"config.toml.tmpl": "{{range $k, $v := .PrivateRegistryConfig.Configs }}\n{{end}}"}, None),
        ({"config-v3.toml.tmpl": "[plugins.'io.containerd.cri.v1.images'.registry.configs.'r'.auth]\n"}, None),
        ({"config.toml": "version = 3\n"}, None),
        ({"config-v3.toml.tmpl": "x" * (TEMPLATE_LIMIT_BYTES + 1)}, None),
    ],
)
def test_templates(files: dict[str, str], dropped_by: str | None, tmp_path: Path) -> None:
    beside = {TEMPLATES + name: content for name, content in files.items()}

    findings = found(Example(SECRET, ("--data-dir {here}/k3s",), files=beside), tmp_path)

    assert said(findings) == ([("R032", "warning", 5, 5)] if dropped_by else [])
    assert all(f"/{dropped_by} replaces" in each.message for each in findings)


@pytest.mark.parametrize(("text", "flag"), [(PLAIN, "--data-dir {here}/k3s"), (SECRET, "--no-files")])
def test_templates_matter_to_secrets_on_this_machine(text: str, flag: str, tmp_path: Path) -> None:
    example = Example(text, ("--data-dir {here}/k3s", flag), files={TEMPLATES + "config.toml.tmpl": "version = 2\n"})

    assert not found(example, tmp_path)


def test_a_template_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / TEMPLATES).mkdir(parents=True)
    os.mkfifo(tmp_path / TEMPLATES / "config.toml.tmpl")

    assert not found(Example(SECRET, ("--data-dir {here}/k3s",)), tmp_path)
