"""Asking the registries before anything is changed: one image, by the configuration that is about to be applied.

Nothing is moved but manifests: every route is asked as containerd would, and judged as `pierhead probe` judges it.
"""

from __future__ import annotations

from collections.abc import Callable

from pierhead.apply import tree
from pierhead.apply.changes import CERTS_D, HOSTS_TOML
from pierhead.apply.effect import Prepared
from pierhead.apply.tree import NotAFile
from pierhead.auth import Lookup
from pierhead.config.containerd import HostTree
from pierhead.dialects import plan_for
from pierhead.errors import UsageError
from pierhead.oci import Platform
from pierhead.probe.prober import Prober
from pierhead.probe.verdict import ProbedImage
from pierhead.reference import Reference
from pierhead.routing import Plan, plan


def prove(prepared: Prepared, image: str, prober: Prober, lookup: Callable[[Reference], Lookup]) -> ProbedImage:
    """What came of it; `error` says why the next pull would fail. Raises `UsageError`."""
    made = plan_after(prepared, image)
    (probed,) = prober.images([made], lookup, platforms=(Platform.here(),))
    return probed


def plan_after(prepared: Prepared, image: str) -> Plan:
    """Where containerd will ask for `image` once the changes are made; raises `UsageError`.

    That is what the file says, unless an administrator's directory stays in its way.
    """
    target = prepared.target
    if target.runtime in ("podman", "docker"):
        raise UsageError(
            f"--prove asks as containerd does, and {target.runtime} asks otherwise",
            hint=f"apply without it and pull an image with {target.runtime}",
        )
    if target.runtime == "containerd":
        return plan_for("containerd", image, prepared.hosts)
    made = plan_for("k3s", image, prepared.hosts)
    there = hosts_after(prepared).lookup(made.reference.registry)
    said = prepared.hosts.lookup(made.reference.registry)
    return made if there.hosts == said.hosts else plan(made.reference, there)


def hosts_after(prepared: Prepared) -> HostTree:
    """certs.d as it will be: what is there, and the changes."""
    base = prepared.target.base
    files: dict[str, bytes] = {}
    for name in tree.names(base, CERTS_D):
        path = f"{CERTS_D}/{name}/{HOSTS_TOML}"
        try:
            found = tree.read(base, path)
        except NotAFile:
            continue
        if found is not None:
            files[path] = found.data
    for path in prepared.changes.unchanged:
        files[path] = prepared.wanted.files[path].data
    for change in prepared.changes.changes:
        files.pop(change.path, None)
        if change.new is not None:
            files[change.path] = change.new.data
    texts = {path: data.decode("utf-8", "surrogateescape") for path, data in files.items()}
    return HostTree.read(texts, root=prepared.target.folder)
