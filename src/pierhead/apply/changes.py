"""What has to change below a runtime's folder: what should be there, held against what is.

Whose a file is decides what may happen to it. K3s knows its own by their first line, and so do we (specification,
section 7.4): what bears it is replaced and taken away. What an administrator made is left as it is, and said so; K3s
would take away a folder of that name at its next start, we do not without `force`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pierhead.apply import tree
from pierhead.apply.journal import Change
from pierhead.apply.record import Record
from pierhead.apply.target import Target
from pierhead.apply.tree import Content, NotAFile
from pierhead.errors import Problem, UsageError
from pierhead.files import OutsideFolder, parts_of

CERTS_D: Final = "certs.d"
HOSTS_TOML: Final = "hosts.toml"
MARK: Final = b"# Made by pierhead "  # how `config.rendered.origin_line` begins, as a comment


class UnsafeName(UsageError):
    """A registry whose folder would not be one below certs.d: with it K3s wipes or leaves the folder."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be there, by path below the folder of the runtime; `lost`: what it cannot be told.

    `merged`: files that hold what others wrote too, so they are nobody's. `secret`: nobody prints them.
    """

    files: Mapping[str, Content]
    lost: tuple[Problem, ...] = ()
    merged: frozenset[str] = frozenset()
    secret: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A file that is not written, or not taken away, and why."""

    path: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes, in the order they are made: folders before those inside them."""

    changes: tuple[Change, ...] = ()
    unchanged: tuple[str, ...] = ()
    left_alone: tuple[LeftAlone, ...] = ()
    secret: frozenset[str] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        return bool(self.changes)


def changes(target: Target, wanted: Wanted, record: Record | None, *, force: bool = False) -> Changes:
    """What makes `wanted` of what is there; raises `UnsafeName`, `Unreadable`. `record`: what we put there last."""
    for path in wanted.files:
        _check_name(path, target)
    return _Comparison(target, wanted, record, force).made()


def _check_name(path: str, target: Target) -> None:
    """Raises `UnsafeName` for what is not below certs.d (specification, section 7.4, the hazard); also with force."""
    try:
        parts = parts_of(path)
    except OutsideFolder as error:
        raise UnsafeName(f"a name of this file leads out of {CERTS_D}: {error.message}", hint=_RENAME) from error
    if target.is_k3s and (parts[0] != CERTS_D or len(parts) < 3):
        name = path.removesuffix(f"/{HOSTS_TOML}")
        raise UnsafeName(
            f"a name of this file makes the folder {name!r}, which would wipe or leave {CERTS_D}", hint=_RENAME
        )


_RENAME: Final = "`pierhead check` names the line; write the name of a registry, host[:port]"


@dataclass(slots=True)
class _Comparison:
    target: Target
    wanted: Wanted
    record: Record | None
    force: bool
    found: list[Change] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    left: list[LeftAlone] = field(default_factory=list)

    def made(self) -> Changes:
        for path in sorted(self.wanted.files, key=lambda path: (path.count("/"), path)):
            self._hold(path, self.wanted.files[path])
        for path in self._no_longer():
            self._drop(path)
        return Changes(tuple(self.found), tuple(self.unchanged), tuple(self.left), self.wanted.secret)

    # ── what should be there ──

    def _hold(self, path: str, new: Content) -> None:
        try:
            old = tree.read(self.target.base, path)
        except NotAFile as error:
            place = error.path.relative_to(self.target.base)
            self._leave(path, f"{place} is {error.what}", "take that away if this file is to be written")
            return
        if old == new:
            self.unchanged.append(path)
        elif self.force or path in self.wanted.merged or self._may_write(path, old):
            self.found.append(Change(path, old, new))
        else:
            self._leave(path, *self._foreign(path))
        self._warn_of_shadow(path)

    def _may_write(self, path: str, old: Content | None) -> bool:
        if old is not None:
            return self._is_ours(path, old)
        return not path.endswith(f"/{HOSTS_TOML}") or not self._strangers(_above(path))

    def _strangers(self, folder: str) -> list[str]:
        """What stands in a folder of certs.d beside what we put there or below, now or the last time."""
        ours = [path[len(folder) + 1 :] for path in self._known() if path.startswith(f"{folder}/")]
        inside = {path.partition("/")[0] for path in ours}
        return sorted(set(tree.names(self.target.base, folder)) - inside - {HOSTS_TOML})

    def _known(self) -> set[str]:
        """The files of this configuration, and those we wrote the last time."""
        return {*self.wanted.files, *(self.record.origin.files if self.record else ())}

    def _foreign(self, path: str) -> tuple[str, str]:
        if not self.target.is_k3s:
            return "somebody else wrote it", "give --force to replace it (it is kept for --rollback), or remove it"
        then = f"{self.target.runtime} itself removes it when it starts next"
        return f"an administrator made {_above(path)}; {then}", "give --force to replace it now (kept for --rollback)"

    def _warn_of_shadow(self, path: str) -> None:
        """containerd looks for host_port_ before host:port (specification, section 2.2)."""
        host, colon, port = _above(path).rpartition(":")
        shadow = f"{host}_{port}_"
        if path.startswith(f"{CERTS_D}/") and colon and (self.target.base / shadow).is_dir():
            self._leave(path, f"containerd reads {shadow} in its place", f"remove {shadow}, or keep the registry there")

    # ── what should no longer be ──

    def _no_longer(self) -> list[str]:
        """Our files that this configuration does not make.

        K3s forgets directories inside others (a registry name with a slash), although those hide the wildcard for
        the name that they begin with; what we wrote we know.
        """
        found = {*self._known(), *(self._made_by_k3s() if self.target.is_k3s else ())}
        # A folder is emptied before the one it is in.
        return sorted(found - set(self.wanted.files), key=lambda path: (-path.count("/"), path))

    def _made_by_k3s(self) -> Iterator[str]:
        """As cleanContainerdHosts: of the direct folders of certs.d those whose hosts.toml begins as K3s' do."""
        for name in tree.names(self.target.base, CERTS_D):
            path = f"{CERTS_D}/{name}/{HOSTS_TOML}"
            try:
                content = tree.read(self.target.base, path)
            except NotAFile:
                continue
            if content is not None and self._is_ours(path, content):
                yield path

    def _drop(self, path: str) -> None:
        try:
            old = tree.read(self.target.base, path)
        except NotAFile:
            old = None
        if old is None:
            return
        if not self._is_ours(path, old):
            self._leave(path, "it was changed by hand since it was written", "remove it by hand if nobody needs it")
            return
        self.found.append(Change(path, old, None))
        strangers = self._strangers(_above(path)) if path.endswith(f"/{HOSTS_TOML}") else []
        if strangers:
            self._leave(
                f"{_above(path)}/{strangers[0]}",
                "somebody put it beside what K3s made, and as long as the folder is there containerd asks no wildcard",
                "remove the folder by hand if nobody needs it",
            )

    # ── whose it is ──

    def _is_ours(self, path: str, content: Content) -> bool:
        if self.target.is_k3s:
            return content.first_line == self.target.header
        known = self.record.origin.files.get(path) if self.record else None
        return content.first_line.startswith(MARK) or content.print == known

    def _leave(self, path: str, reason: str, remedy: str) -> None:
        self.left.append(LeftAlone(path, reason, remedy))


def _above(path: str) -> str:
    return path.rpartition("/")[0]
