"""A certs.d as containerd 1.5 to 2.x read it, or the one that K3s made, as registries.yaml.

What K3s generated comes back as the file it was made from: the law that ties this module to `config.k3s`. At the end
the draft is read as K3s reads it, and where containerd would then do something else than before, that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pierhead.config.containerd import DEFAULT_DIRECTORY, Host, UnusableHosts
from pierhead.config.imports.authfile import is_packed
from pierhead.config.imports.draft import Draft, Login, Mirror, Trust
from pierhead.config.imports.hosts_file import (
    HostsToml,
    address,
    asked,
    endpoint_for,
    place,
    read_folder,
    same_place,
    settings_key,
)
from pierhead.config.imports.reading import HostFolder, is_text
from pierhead.config.imports.trusting import trust_of
from pierhead.config.imports.written import registries_yaml
from pierhead.config.k3s import hosts
from pierhead.config.registries import parse
from pierhead.errors import Span
from pierhead.gourl import go_bytes, path_clean, shown
from pierhead.redact import Secret

_HUB: Final = "registry-1.docker.io"
_HUB_HOSTS: Final = (_HUB, "docker.io", "index.docker.io")
_EMBEDDED: Final = re.compile(r"(?:127\.0\.0\.1|\[::1\]):[0-9]+")
_EMBEDDED_FILES: Final = (
    "/agent/server-ca.crt",
    "/agent/client-k3s-controller.crt",
    "/agent/client-k3s-controller.key",
)
_DIFFERENCES_SHOWN: Final = 3


def from_certs_d(folders: Sequence[HostFolder]) -> Draft:
    """The draft that these folders make; never raises on content."""
    draft = Draft()
    read = _chosen(draft, [found for folder in folders if (found := _read(draft, folder)) is not None])
    read.sort(key=lambda found: found.key == "*")  # the wildcard last, as people write it
    _note_program(draft, read)
    by_key = {found.key: found for found in read}
    for found in read:
        _Folder(draft, found, by_key).take()
    _keep_defaults(draft, read)
    _read_back(draft, read)
    return draft


def _read(draft: Draft, folder: HostFolder) -> HostsToml | None:
    if folder.unreadable:
        draft.lost("unreadable", f"left out: {folder.unreadable}", folder.span)
        return None
    if not is_text(folder.name) or asked(folder.name) is None:
        draft.lost("no-registry", f"left out: {shown(folder.name)!r} is the name of no registry", folder.span)
        return None
    try:
        return read_folder(folder)
    except UnusableHosts as error:
        message = f"left out, as containerd does, which then asks the registry itself: {error.message}"
        draft.lost("unusable-hosts-toml", message, folder.span)
        return None


def _chosen(draft: Draft, read: list[HostsToml]) -> list[HostsToml]:
    """One folder for each registry: as containerd, `host_port_` before `host:port`."""
    chosen: dict[str, HostsToml] = {}
    for found in read:
        before = chosen.get(found.key)
        if before is None or before.folder.name == found.key:
            chosen[found.key] = found
        if before is not None:
            hidden = before if chosen[found.key] is found else found
            message = f"left out: containerd takes the folder {shown(chosen[found.key].folder.name)} for this registry"
            draft.nearly("hidden-folder", message, hidden.span)
    return list(chosen.values())


def _note_program(draft: Draft, read: Iterable[HostsToml]) -> None:
    """Which of K3s and RKE2 made the files, and whether its embedded registry is in them, which K3s adds by itself."""
    made = next((found for found in read if found.program), None)
    if made is not None:
        message = "certs.d holds no credentials of K3s: write those of config.toml under configs, or give --authfile"
        draft.remark("credentials", message, made.span)
    for found in read:
        if found.program:
            draft.flags = replace(draft.flags, program=found.program)
        first = found.listed[0][1] if found.listed else found.root
        if found.program and first is not None:
            folder = _embedded_folder(first)
            if folder is not None:
                draft.flags = replace(draft.flags, embedded_registry=first.host, data_dir=folder)
                message = "K3s adds its embedded registry by itself: the file leaves it out"
                draft.remark("embedded-registry", message, found.span)
                return


def _embedded_folder(host: Host) -> str | None:
    """K3s' data folder, if this is the host of its embedded registry (specification, section 3.6)."""
    ca, certificate, key = _EMBEDDED_FILES
    if not _EMBEDDED.fullmatch(host.host) or len(host.ca) != 1 or not host.ca[0].endswith(ca):
        return None
    folder = host.ca[0].removesuffix(ca)
    return folder if host.client == ((folder + certificate, folder + key),) else None


class _Folder:
    """One folder on its way into the draft."""

    def __init__(self, draft: Draft, found: HostsToml, folders: Mapping[str, HostsToml]) -> None:
        self.draft = draft
        self.found = found
        self.folders = folders
        self.default = found.default
        self.rewriting: str | None = None

    def take(self) -> None:
        if self._is_embedded_itself():
            return
        listed = [(table, host) for table, host in self.found.listed if not self._is_embedded(host)]
        if self.found.listed and not listed and self.draft.flags.embedded_registry:
            self.draft.mirror(self.found.key)
        for table, host in self._pulling(listed):
            self._list(table, host)
        self._take_root()

    def _is_embedded(self, host: Host) -> bool:
        address = self.draft.flags.embedded_registry
        return address is not None and host.host == address and _embedded_folder(host) is not None

    def _is_embedded_itself(self) -> bool:
        return self.found.key == self.draft.flags.embedded_registry and not self.found.listed

    def _pulling(self, listed: list[tuple[str, Host]]) -> list[tuple[str, Host]]:
        """Those that images are pulled from, and not only pushed to."""
        kept = []
        for table, host in listed:
            span = self.found.span_of(table, "capabilities")
            if not {"pull", "resolve"} & set(host.capabilities):
                self.draft.remark("push-only", f"{host.host} is only pushed to, which K3s never does: left out", span)
                continue
            if not {"pull", "resolve"} <= set(host.capabilities):
                said = " and ".join(host.capabilities)
                message = f"{host.host} is only for {said} here, and K3s asks every endpoint for tags and for content"
                self.draft.nearly("capabilities", message, span)
            kept.append((table, host))
        return kept

    def _list(self, table: str, host: Host) -> None:
        """A table as an endpoint."""
        mirror = self.draft.mirrors.get(self.found.key, Mirror())
        span = self.found.span_of(table)
        last = table == self.found.listed[-1][0] and self._is_itself(host)
        text = None if self._is_enough(host, mirror, span, last=last) else self._endpoint(host, table, mirror)
        self._trust(table, host, text or f"{host.scheme}://{host.host}")
        self._beside(table, host)
        if text is None:
            return
        # K3s takes the last one for the default endpoint, without its rewrites: it is asked twice, as here.
        self.draft.mirror(self.found.key).endpoints += [text, text] if last else [text]
        self._rewrite(table, host)

    def _is_itself(self, host: Host) -> bool:
        """Whether this is the registry itself, which is asked after all endpoints as well."""
        root = self.found.root
        again = root is not None and (not root.host or same_place(root, self.default))
        return again and same_place(host, self.default)

    def _is_enough(self, host: Host, mirror: Mirror, span: Span, *, last: bool) -> bool:
        """Whether a table of an administrator needs no endpoint; what K3s wrote is taken to the letter."""
        if self.found.program:
            return False
        if last and not host.rewrites:
            return True
        return self._is_listed(host, mirror, span)

    def _is_listed(self, host: Host, mirror: Mirror, span: Span) -> bool:
        listed = any(same_place(host, asked(known)) for known in mirror.endpoints)
        if listed:
            self.draft.remark("twice", f"{host.host} is listed twice: once is enough", span)
        return listed

    def _endpoint(self, host: Host, table: str, mirror: Mirror) -> str | None:
        taken = set(map(address, mirror.endpoints))
        text = endpoint_for(host, table, taken=taken, exact=bool(self.found.program))
        span = self.found.span_of(table)
        if text is None and not self._is_listed(host, mirror, span):
            self.draft.lost("no-endpoint", f"K3s has no endpoint that is asked as {shown(table)!r}: left out", span)
        return text

    def _rewrite(self, table: str, host: Host) -> None:
        """K3s has one set of rewrites for all endpoints of a mirror."""
        written = {_toml_text(old): _toml_text(new) for old, new in host.rewrites.items()}
        mirror = self.draft.mirror(self.found.key)
        if self.rewriting is None:
            self.rewriting = table
            mirror.rewrites.update(written)
        elif mirror.rewrites != written:
            message = f"the rewrites of {host.host} are not those of the first endpoint, which K3s uses for all of them"
            self.draft.lost("rewrites-differ", message, self.found.span_of(table, "rewrite"))

    def _take_root(self) -> None:
        """The registry itself, asked last."""
        found, root, draft = self.found, self.found.root, self.draft
        if root is None:
            return
        self._beside(None, root)
        if root.rewrites:
            message = "K3s rewrites nothing for the registry itself"
            draft.lost("rewrite-of-server", message, found.span_of(None, "rewrite"))
        if found.key == "*" and found.listed:
            if root.explicit_tls:
                message = 'K3s loses the TLS settings of "*" where a mirror "*" is: name the registries one by one'
                draft.lost("wildcard-tls", message, found.span_of(None, "ca"))
            if root.host:
                self._foreign_server(root)
        elif not root.host or same_place(root, self.default):
            self._own_server(root)
        else:
            self._foreign_server(root)

    def _own_server(self, root: Host) -> None:
        """The registry itself; without an endpoint its folder needs an entry of configs to be written."""
        key = self.found.key
        trust = self._trust_of(None, root)
        hides = key not in self.draft.mirrors and (self.found.program or "*" in self.folders)
        if trust or (hides and key not in self.draft.configs):
            self.draft.trust(key, trust, self.found.span_of(None, "ca"))
        elif key == "docker.io" and self._own_trust(_HUB):
            self.draft.config(key)  # even an empty entry keeps the settings of its other name away from it

    def _foreign_server(self, root: Host) -> None:
        found, draft = self.found, self.draft
        span = found.span_of(None, "server")
        if found.key == "docker.io" and root.host in _HUB_HOSTS and root.path == "/v2" and root.scheme == "https":
            message = f"K3s asks {_HUB} for what is asked at {root.host} here: they have the same images"
            draft.remark("hub-name", message, span)
            self._own_server(root)
            return
        self._trust(None, root, f"{root.scheme}://{root.host}")
        mirror = draft.mirror(found.key)
        if not any(same_place(root, asked(known)) for known in mirror.endpoints):
            text = endpoint_for(root, "", taken=set(), exact=False)
            if text is None:
                draft.lost("no-endpoint", "K3s has no endpoint that is asked as this server: left out", span)
                return
            mirror.endpoints.append(text)
        if self.default is not None and root.host == self.default.host:
            message = f"K3s asks {self.default.scheme}://{root.host} as well, after the server that is named here"
            draft.remark("server", message, span)
            return
        message = (
            f"the server is {root.host}, not {found.key} itself: K3s asks it last of the endpoints, and then "
            f"{found.key} unless it runs with --disable-default-registry-endpoint"
        )
        draft.nearly("server", message, span)

    def _beside(self, table: str | None, host: Host) -> None:
        """What a host has besides a place and TLS."""
        name = host.host or self.found.key
        for header, values in host.header.items():
            span = self.found.span_of(table, "header")
            basic = _basic(values) if header.lower() == "authorization" else None
            if basic is not None:
                self.draft.login(self._config_key(f"https://{name}"), Login(auth=basic), span)
            else:
                self.draft.lost("header", f"K3s sends no headers of one's own, as {header!r} for {name}", span)
        if host.dial_timeout_seconds is not None:
            message = f"K3s waits as long as containerd does for {name}; a dial_timeout cannot be set"
            self.draft.remark("dial-timeout", message, self.found.span_of(table, "dial_timeout"))

    def _trust(self, table: str | None, host: Host, endpoint: str) -> None:
        """A host's TLS, which K3s keeps under the host's name; its folder exists as soon as there is any."""
        trust = self._trust_of(table, host)
        key = self._config_key(endpoint, trust)
        span = self.found.span_of(table)
        if not trust and key in ("docker.io", _HUB) and self._own_trust("docker.io"):
            self._keep_apart(key, span)
        elif trust or (table is not None and key in self.draft.configs):
            self.draft.trust(key, trust, span)

    def _keep_apart(self, key: str, span: Span) -> None:
        """docker.io has TLS settings, but not as an endpoint: an entry of its other name keeps them away from there."""
        if key == _HUB:
            self.draft.trust(key, Trust(), span)
        else:
            self.draft.config(_HUB)  # without `tls: {}`, which would make a folder

    def _config_key(self, endpoint: str, trust: Trust | None = None) -> str:
        """Where K3s looks for the settings of an endpoint (specification, section 4.1).

        For docker.io that is registry-1.docker.io, if `configs` has it: then its folder has the same settings.
        """
        key = settings_key(endpoint)
        return _HUB if key == "docker.io" and trust is not None and self._own_trust(_HUB) == trust else key

    def _own_trust(self, key: str) -> Trust | None:
        """The TLS of a registry itself, by its own folder; None without one."""
        found = self.folders.get(key)
        if found is None or found.root is None:
            return None
        return _Folder(Draft(), found, {})._trust_of(None, found.root)

    def _trust_of(self, table: str | None, host: Host) -> Trust:
        name = host.host or self.found.key
        trust = trust_of(self.draft, host, name, lambda field: self.found.span_of(table, field))
        written = self.found.path_as_written
        return replace(
            trust,
            ca_file=written(trust.ca_file),
            cert_file=written(trust.cert_file),
            key_file=written(trust.key_file),
        )


def _basic(values: tuple[Secret, ...]) -> Secret | None:
    """The credentials of an Authorization header, if it is one of Basic."""
    kind, _, text = values[0].reveal().strip().partition(" ") if len(values) == 1 else ("", "", "")
    return Secret(text.strip()) if kind.lower() == "basic" and is_packed(text.strip()) else None


def _toml_text(text: str) -> str:
    """The text as it stands between quotes of TOML: K3s writes what it is given (specification, section 6.3)."""
    return "".join(_ESCAPES.get(sign) or (sign if sign.isprintable() else _unicode(sign)) for sign in text)


_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _unicode(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"


def _keep_defaults(draft: Draft, read: Iterable[HostsToml]) -> None:
    """If K3s ran without default endpoints: what keeps those that are there all the same (specification, 3.5)."""
    mirrors = [found for found in read if found.key in draft.mirrors]
    without = [found for found in mirrors if found.root is None]
    if not without:
        return
    draft.flags = replace(draft.flags, disable_default_registry_endpoint=True)
    message = "the registry itself is not asked: so K3s must run with --disable-default-registry-endpoint"
    draft.remark("default-disabled", message, without[0].span)
    for found in mirrors:
        if found.root is not None and found.key != "*":
            draft.config(found.key)  # an entry of configs, even an empty one, keeps the default endpoint


# -- the proof --------------------------------------------------------------------------------------------------------

_Place = tuple[str, str, str]
_OTHER_PLACES: Final = {"push-only", "server", "no-endpoint", "hub-name"}
_OTHER_SETTINGS: Final = {
    "two-tls-settings", "tls-elsewhere", "several-ca", "several-clients", "rewrites-differ", "rewrite-of-server",
    "wildcard-tls",
}  # fmt: skip


def _read_back(draft: Draft, read: Iterable[HostsToml]) -> None:
    """Reads the draft as K3s does, and says where containerd would then do something else that was not said yet."""
    config = parse(go_bytes(registries_yaml(draft, "", show_secrets=True)), "registries.yaml")
    tree = hosts(config, draft.flags)
    if tree.error:
        draft.lost("not-written", f"K3s would fail to write its files: {tree.error}", Span("registries.yaml", 1))
        return
    said = {(problem.span.file, problem.id.removeprefix("import-")) for problem in draft.told if problem.span}
    for found in read:
        told = {id for file, id in said if file == found.span.file}
        lookup = tree.lookup(DEFAULT_DIRECTORY if found.key == "*" else found.key.lstrip("/"))
        root = f"{draft.flags.root}/certs.d/{found.folder.name}"
        listed = [*(host for _, host in found.listed), *([found.root] if found.root else [])]
        before = _settings([_moved(host, found, root) for host in listed], found)
        after = _settings(lookup.directory.hosts if lookup.directory else lookup.hosts, found)
        if list(before) != list(after) and not told & _OTHER_PLACES:
            message = f"K3s would ask {_shown(after)}, and here it is {_shown(before)}"
            draft.nearly("differs", message, found.span)
        changed = [place for place in before if place in after and before[place] != after[place]]
        if changed and not told & _OTHER_SETTINGS:
            message = f"K3s would ask {_shown(changed)} with other TLS settings or rewrites than here"
            draft.nearly("differs", message, found.span)


def _moved(host: Host, found: HostsToml, root: str) -> Host:
    """The host with its certificates where they are when its folder is `root`."""

    def moved(path: str) -> str:
        written = found.path_as_written(path)
        return written if written.startswith("/") else path_clean(f"{root}/{written}")

    pairs = tuple((moved(certificate), moved(key or certificate)) for certificate, key in host.client)
    return replace(host, ca=tuple(map(moved, host.ca)), client=pairs)


def _settings(hosts: Iterable[Host], found: HostsToml) -> dict[_Place, tuple[object, ...]]:
    """What each place comes down to when an image is pulled, where it is first asked."""
    settings: dict[_Place, tuple[object, ...]] = {}
    for host in hosts:
        asked_at = host if host.host or found.default is None else found.default  # nameless: the registry itself
        settings.setdefault(place(asked_at), (host.ca, host.client, host.skip_verify, dict(host.rewrites)))
    return settings


def _shown(places: Iterable[_Place]) -> str:
    names = [f"{scheme}://{host}{path}" for scheme, host, path in places]
    more = f" and {len(names) - _DIFFERENCES_SHOWN} more" if len(names) > _DIFFERENCES_SHOWN else ""
    return ", ".join(names[:_DIFFERENCES_SHOWN]) + more
