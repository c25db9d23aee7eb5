"""deploy/: that Kubernetes and systemd take the files, that they give no more rights than needed, and that they work.

The containers' own commands are run here, over a folder in the place of the node.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml

from command import PIERHEAD, run_pierhead, start_pierhead
from components import SYSTEM_PATH
from pierhead import __version__
from pierhead.config.registries import parse
from real import eventually

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
KUBERNETES: Final = ("1.28", "1.31", "1.34")
SERVICE: Final = DEPLOY / "systemd/pierhead-apply.service"
PATH_UNIT: Final = DEPLOY / "systemd/pierhead-apply.path"
EXPOSURE_LIMIT: Final = 1.5  # of 10, as systemd-analyze security counts
TEXT: Final = "mirrors:\n  docker.io:\n    endpoint: [https://{}.lan]\n"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


MANIFESTS: Final = [*documents(DEPLOY / "k3s/daemonset.yaml"), *documents(DEPLOY / "secret.example.yaml")]
KINDS: Final = {each["kind"]: each for each in MANIFESTS}
POD: Final = KINDS["DaemonSet"]["spec"]["template"]["spec"]
CONTAINER: Final = POD["containers"][0]


# -- Kubernetes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: str(manifest["kind"]))
def test_each_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_would_find_a_slip() -> None:
    wrong = {**KINDS["DaemonSet"], "spec": {**KINDS["DaemonSet"]["spec"], "updateStrategie": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


def test_names_that_refer_to_each_other_agree() -> None:
    assert {each["metadata"].get("namespace", "pierhead") for each in MANIFESTS} == {
        KINDS["Namespace"]["metadata"]["name"]
    }
    spec = KINDS["DaemonSet"]["spec"]
    labels = spec["selector"]["matchLabels"]
    assert (
        labels == spec["template"]["metadata"]["labels"] == KINDS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    )
    assert POD["serviceAccountName"] == KINDS["ServiceAccount"]["metadata"]["name"]
    [secret] = [volume["secret"] for volume in POD["volumes"] if "secret" in volume]
    assert secret["secretName"] == KINDS["Secret"]["metadata"]["name"]
    assert [item["key"] for item in secret["items"]] == list(KINDS["Secret"]["stringData"])
    assert {volume["name"] for volume in POD["volumes"]} == {mount["name"] for mount in CONTAINER["volumeMounts"]}


def test_the_example_is_a_registries_yaml_without_findings(tmp_path: Path) -> None:
    text = KINDS["Secret"]["stringData"]["registries.yaml"]
    assert parse(text.encode(), "x").error is None
    run_pierhead("check", "--no-files", "-", stdin=text, code=0)


def test_the_pod_has_no_rights_in_the_cluster() -> None:
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} & KINDS.keys()
    assert KINDS["ServiceAccount"]["automountServiceAccountToken"] is False
    assert POD["automountServiceAccountToken"] is False
    policy = KINDS["NetworkPolicy"]["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert not {"ingress", "egress"} & policy.keys()  # nothing is allowed


def test_the_pod_has_no_rights_on_the_node_but_one_folder() -> None:
    context = CONTAINER["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
    assert context["readOnlyRootFilesystem"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & POD.keys()
    [folder] = [volume["hostPath"] for volume in POD["volumes"] if "hostPath" in volume]
    assert folder == {"path": "/var/lib/rancher/k3s/agent/etc/containerd", "type": "Directory"}
    writable = [mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")]
    assert writable == [f"/host{folder['path']}"]
    assert CONTAINER["resources"]["limits"]["memory"]


def test_it_runs_on_the_control_plane_and_on_nodes_in_trouble() -> None:
    assert POD["tolerations"] == [{"operator": "Exists"}]


def test_the_image_has_the_version_of_the_project() -> None:
    assert CONTAINER["image"] == f"pierhead:{__version__.partition('.dev')[0]}"


def test_for_rke2_every_folder_and_flag_is_replaced() -> None:
    """The patches, applied by hand as RFC 6902 says: what is left of K3s would be a mistake."""
    kustomization = documents(DEPLOY / "rke2/kustomization.yaml")[0]
    assert [(DEPLOY / "rke2" / each / "kustomization.yaml").exists() for each in kustomization["resources"]] == [True]
    daemonset = documents(DEPLOY / "k3s/daemonset.yaml")[-1]
    [patch] = kustomization["patches"]
    assert patch["target"] == {"kind": daemonset["kind"], "name": daemonset["metadata"]["name"]}
    for step in yaml.safe_load(patch["patch"]):
        *above, last = step["path"].strip("/").split("/")
        place: Any = daemonset
        for part in above:
            place = place[int(part) if isinstance(place, list) else part]
        key = int(last) if isinstance(place, list) else last
        assert "k3s" in place[key]
        place[key] = step["value"]
    assert "k3s" not in yaml.safe_dump(daemonset)


def test_kustomize_is_told_of_files_that_are_there() -> None:
    kustomization = documents(DEPLOY / "k3s/kustomization.yaml")[0]
    assert all((DEPLOY / "k3s" / name).is_file() for name in kustomization["resources"])


# -- the same commands, at work ---------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A node whose K3s has started once."""
    (tmp_path / "host/var/lib/rancher/k3s/agent/etc/containerd").mkdir(parents=True, mode=0o700)
    return tmp_path / "host"


def here(words: list[str], host: Path) -> list[str]:
    """A command line of the container, with its mounts where they are here."""
    config = str(host.parent / "config")
    return [re.sub(r"=/config\b", f"={config}", word).replace("=/host", f"={host}") for word in words]


def mounted(host: Path, version: int, text: str) -> None:
    """The Secret as the kubelet mounts it: a link to a folder, switched over when all of the new one is there."""
    config = host.parent / "config"
    (config / f"..{version}").mkdir(parents=True)
    (config / f"..{version}" / "registries.yaml").write_text(text)
    (config / "..new").symlink_to(f"..{version}")
    (config / "..new").rename(config / "..data")
    if not (config / "registries.yaml").is_symlink():
        (config / "registries.yaml").symlink_to("..data/registries.yaml")


def test_the_container_applies_the_secret_and_every_change_of_it(host: Path) -> None:
    hosts = host / "var/lib/rancher/k3s/agent/etc/containerd/certs.d/docker.io/hosts.toml"
    [*probe] = here(CONTAINER["readinessProbe"]["exec"]["command"][1:], host)
    mounted(host, 1, TEXT.format("one"))
    with start_pierhead(*here(CONTAINER["args"], host), "--interval", "0.05") as running:
        eventually(lambda: hosts.exists() and "https://one.lan" in hosts.read_text(), what="the first to be applied")
        first = hosts.read_text()
        eventually(lambda: run_pierhead(*probe, code=None).code == 0, what="the pod to be ready")
        mounted(host, 2, TEXT.format("two"))
        eventually(lambda: "https://two.lan" in hosts.read_text(), what="the change to be applied")
        hosts.write_text(first)  # as a restart of K3s does, which goes by a file of its own
        run_pierhead(*probe, code=1)
        running.signal(signal.SIGTERM)
    with start_pierhead(*here(CONTAINER["args"], host), "--interval", "0.05") as running:
        eventually(lambda: "https://two.lan" in hosts.read_text(), what="it to be applied again")
        assert running.signal(signal.SIGTERM).code == 0


def test_both_probes_ask_the_same() -> None:
    probes = [CONTAINER[name]["exec"]["command"] for name in ("livenessProbe", "readinessProbe")]
    assert probes[0] == probes[1]
    assert set(CONTAINER["args"]) - {"--watch"} <= set(probes[0])


# -- systemd ----------------------------------------------------------------------------------------------------------


def settings_of(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def units(tmp_path: Path) -> Iterator[Path]:
    """Both units, with the program where it is here: systemd looks whether it exists."""
    for unit in (SERVICE, PATH_UNIT):
        text = unit.read_text(encoding="utf-8")
        (tmp_path / unit.name).write_text(text.replace("/usr/local/bin/pierhead", str(PIERHEAD)))
    return iter([tmp_path])


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.real("systemd-analyze")
def test_systemd_takes_the_units(units: Iterator[Path]) -> None:
    folder = next(units)
    assert analyze("verify", folder / PATH_UNIT.name, folder / SERVICE.name) == ""


@pytest.mark.real("systemd-analyze")
def test_the_service_is_well_enclosed(units: Iterator[Path]) -> None:
    said = analyze("security", "--offline=true", next(units) / SERVICE.name)
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
    assert exposure
    assert float(exposure[1]) <= EXPOSURE_LIMIT


def test_the_service_may_write_one_folder_and_needs_nothing_else() -> None:
    found = settings_of(SERVICE)
    assert found["ProtectSystem"] == ["strict"]
    assert found["ReadWritePaths"] == found["ConditionPathIsDirectory"] == ["/var/lib/rancher/k3s/agent/etc/containerd"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["CapabilityBoundingSet"] == [""]
    assert settings_of(PATH_UNIT)["Unit"] == [SERVICE.name]


ENCLOSED: Final = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 24, 38, 65
if os.geteuid() == 0:
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # since Linux 6.3; nearly what MemoryDenyWriteExecute does
os.umask(0o077)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_command_of_the_service_needs_no_capability(host: Path, tmp_path: Path) -> None:
    """Run with what the unit takes away taken away: capabilities, new privileges, memory to write and execute."""
    (host / "etc/rancher/k3s").mkdir(parents=True)
    (host / "etc/rancher/k3s/registries.yaml").write_text(TEXT.format("one"))
    (tmp_path / "enclosed.py").write_text(ENCLOSED)
    [command] = settings_of(SERVICE)["ExecStart"]
    words = shlex.split(command.replace("/usr/local/bin/pierhead", str(PIERHEAD)))
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PIERHEAD_PRIVATE_REGISTRY": os.devnull}
    done = subprocess.run(
        [str(PIERHEAD.with_name("python")), str(tmp_path / "enclosed.py"), *words, "--root", str(host)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = host / "var/lib/rancher/k3s/agent/etc/containerd/certs.d/docker.io/hosts.toml"
    assert "https://one.lan" in written.read_text()


# -- the image --------------------------------------------------------------------------------------------------------


def test_the_image_is_made_of_files_that_are_there_and_let_through() -> None:
    """It is not built here: that needs its base image. What is copied exists, and is not ignored."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    let_through = {
        line[1:] for line in (DEPLOY / "Containerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == let_through
    assert all((DEPLOY.parent / name).exists() for name in copied)
    assert len(set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))) == 1
    assert 'ENTRYPOINT ["pierhead"]' in text
    assert re.search(r"^USER [1-9]", text, re.MULTILINE)
