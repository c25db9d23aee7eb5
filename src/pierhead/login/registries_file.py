"""A login in registries.yaml: under the key that K3s will look for, with every other byte left as it is.

A change is made in the text, then read back as K3s reads it; it is kept only if it means what was wanted and nothing
else. Specification, sections 4.1 and 4.2, for which key counts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pierhead.auth import BadCredential, Credential, from_registries
from pierhead.check.finding import Edit
from pierhead.check.source import Entry, Source, double_quoted
from pierhead.config import k3s
from pierhead.config.registries import ConfigUnreadable, RegistriesConfig, parse, read_limited, unusable
from pierhead.errors import UsageError
from pierhead.files import new_file, replace_file
from pierhead.gourl import InvalidUrl
from pierhead.login import HUB, Kept
from pierhead.login.alone import alone

_HUB_KEYS: Final = ("registry-1.docker.io", "docker.io", "index.docker.io")  # as containerd looks for its credentials
_OTHER_FIELDS: Final = ("auth", "identity_token")  # which would count beside a user name, or say the same again
_DEFAULT_PORTS: Final = {"https": ":443", "http": ":80"}


class CannotEdit(UsageError):
    """The file is written in a way that no small change of it means what is wanted; it was not changed."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(
            f"{path} was not changed: its configs.{key!r} is written in a way that cannot be edited safely",
            hint="write it without anchors and aliases first, or change `auth` there by hand",
        )


def keep(path: Path, registry: str, credential: Credential) -> Kept:
    """Keep a user name and password in the file at `path`; it has mode 0600 then.

    Raises `UsageError` (`UnusableConfig`, `ConfigUnreadable`, `CannotEdit`), `Busy` and `OSError`; then the file is as
    before.
    """
    with alone(path):
        return _keep(path, registry, credential)


def _keep(path: Path, registry: str, credential: Credential) -> Kept:
    data = _read(path)
    config = _parsed(data or b"", path)
    key, notes = key_of(config, registry)
    source, words = Source.of(data or b"", str(path)), _Words.of(credential)
    for edits in _ways_in(source, key, words):
        made = words.filled(source, edits)
        after = parse(made, str(path)) if made is not None else None
        if made is not None and after is not None and _is_kept(config, after, key, registry, credential):
            written = tuple(_write(path, made, exists=data is not None))
            return Kept(f"configs.{key!r}.auth of {path}", (*notes, *_dropped(config, key, path), *written))
    raise CannotEdit(path, key)


def forget(path: Path, registry: str) -> tuple[str, ...]:
    """Take every login to `registry` out of the file at `path`; where they were. Raises as `keep`."""
    with alone(path):
        return _forget(path, registry)


def _forget(path: Path, registry: str) -> tuple[str, ...]:
    data = _read(path)
    if data is None:
        return ()
    config = _parsed(data, path)
    keys = _HUB_KEYS if registry == HUB else dict.fromkeys((key_of(config, registry)[0], registry))
    held = [key for key in keys if key in config.configs and config.configs[key].auth is not None]
    for key in held:
        data = _without(data, path, key)
    if held:
        replace_file(path, data)
    return tuple(f"configs.{key!r}.auth of {path}" for key in held)


def key_of(config: RegistriesConfig, registry: str) -> tuple[str, tuple[str, ...]]:
    """The key of `configs` under which K3s looks for the credentials of a host, and what to say of it.

    For an endpoint that is its host just as written there, port and all; Docker Hub is looked for by several names.
    """
    if registry == HUB:
        entries = {key: config.configs[key] for key in _HUB_KEYS if key in config.configs}
        with_auth = (key for key, entry in entries.items() if entry.auth is not None)
        return next(with_auth, next((key for key in entries if key != _HUB_KEYS[2]), _HUB_KEYS[0])), ()
    hosts = list(_endpoint_hosts(config))
    if any(host == registry for _, host in hosts):
        return registry, ()
    near = next((host for scheme, host in hosts if _plain(host, scheme) == _plain(registry, scheme)), None)
    if near is not None:
        return near, (f"the endpoint is written {near}, so K3s looks for its credentials under just that name",)
    return registry, tuple(_asked_elsewhere(config, registry))


def _asked_elsewhere(config: RegistriesConfig, registry: str) -> Iterator[str]:
    """A mirror's endpoint is another registry: it has, and needs, credentials of its own."""
    mirror = config.mirrors.get(registry)
    if mirror is None or not mirror.endpoints:
        return
    of_mirror = (host for _, host in _endpoint_hosts(RegistriesConfig("", {registry: mirror})) if host)
    names = ", ".join(dict.fromkeys(of_mirror))
    yield f"images of {registry} are asked for at {names} first, which has a login of its own"


def _endpoint_hosts(config: RegistriesConfig) -> Iterator[tuple[str, str]]:
    """Scheme and host[:port] of every endpoint that K3s can use."""
    for mirror in config.mirrors.values():
        for endpoint in mirror.endpoints:
            try:
                url = k3s.normalized(endpoint.value)[1]
            except InvalidUrl:
                continue
            yield url.scheme, url.host


def _plain(host: str, scheme: str) -> str:
    return host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ":"))


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(path: Path) -> bytes | None:
    """The bytes of the file; None if there is none yet."""
    try:
        return read_limited(path)
    except ConfigUnreadable as error:
        if error.missing and path.parent.is_dir():
            return None
        error.hint = "" if path.parent.is_dir() else f"there is no folder {path.parent}"
        raise


def _parsed(data: bytes, path: Path) -> RegistriesConfig:
    config = parse(data, str(path))
    unusable(config)
    return config


def _write(path: Path, data: bytes, *, exists: bool) -> Iterator[str]:
    """Write it for its owner alone; what to say of that."""
    if not exists:
        new_file(path, data, mode=0o600)
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    replace_file(path, data, mode=0o600)
    if mode & 0o077:
        yield f"others could read {path} (mode {mode:04o}); it has mode 0600 now"


# ── what a change means ──────────────────────────────────────────────────────────────────────────────────────────


def _is_kept(
    before: RegistriesConfig, after: RegistriesConfig, key: str, registry: str, credential: Credential
) -> bool:
    """Whether the host that challenges gets this credential now, and nothing else is another than before."""
    if after.error is not None or _meaning(after, but=key) != _meaning(before, but=key):
        return False
    entry = k3s.auth_for(after, _HUB_KEYS[0] if registry == HUB else key)
    if entry is None or entry.key.value != key or entry.auth is None or entry.auth.auth or entry.auth.identity_token:
        return False
    try:
        found = from_registries(entry)
    except BadCredential:
        return False
    return found is not None and (found.username, found.secret) == (credential.username, credential.secret)


def _meaning(config: RegistriesConfig, *, but: str) -> dict[str, Any]:
    """All that the file says, without its places, and without what it says of the login at one key.

    An entry that says nothing is none.
    """
    mirrors = {
        key: (
            tuple(text.value for text in mirror.endpoints),
            tuple((rule.pattern.value, rule.replacement.value) for rule in mirror.rewrites),
        )
        for key, mirror in config.mirrors.items()
    }
    configs = {}
    for key, entry in config.configs.items():
        auth = None if key == but or entry.auth is None else entry.auth
        said = (
            auth and (_value(auth.username), _value(auth.password), _value(auth.auth), _value(auth.identity_token)),
            entry.tls
            and (
                _value(entry.tls.ca_file),
                _value(entry.tls.cert_file),
                _value(entry.tls.key_file),
                entry.tls.insecure_skip_verify,
            ),
        )
        if any(said) or key != but:
            configs[key] = said
    return {"mirrors": list(mirrors.items()), "configs": configs}


def _value(text: Any) -> Any:
    return text.value if text is not None else None


def _dropped(before: RegistriesConfig, key: str, path: Path) -> Iterator[str]:
    """What the login before held besides a user name and password, which would have counted or confused."""
    entry = before.configs.get(key)
    auth = entry.auth if entry is not None else None
    for name in _OTHER_FIELDS if auth is not None else ():
        if getattr(auth, name) is not None:
            yield f"auth.{name} of configs.{key!r} in {path} was taken out: user name and password stand in its place"


# ── the change ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Words:
    """What is written for a login, and what stands for it in edits, which may hold no secret."""

    credential: Credential
    username: str
    password: str

    @classmethod
    def of(cls, credential: Credential) -> _Words:
        mark = os.urandom(16).hex()
        return cls(credential, f'"username-{mark}"', f'"password-{mark}"')

    @property
    def flow(self) -> str:
        return f"{{username: {self.username}, password: {self.password}}}"

    @property
    def fields(self) -> dict[str, str]:
        return {"username": self.username, "password": self.password}

    @property
    def lines(self) -> tuple[str, str]:
        return f"username: {self.username}", f"password: {self.password}"

    def filled(self, source: Source, edits: Sequence[Edit | None]) -> bytes | None:
        """The file with these edits made and the words in them; None if one of them cannot be made."""
        made = [edit for edit in edits if edit is not None]
        if len(made) != len(edits):
            return None
        try:
            data = source.applied(made)
            for mark, text in (
                (self.username, self.credential.username),
                (self.password, self.credential.secret.reveal()),
            ):
                data = data.replace(mark.encode(source.encoding), double_quoted(text).encode(source.encoding))
        except ValueError:  # two edits overlap, or the file's encoding does not know a character
            return None
        return data


def _ways_in(source: Source, key: str, words: _Words) -> Iterator[list[Edit | None]]:
    """Ways to write a login into the file, the one that changes least first. Not all of them work on every file."""
    auth, entry, configs = (source.entry("configs", key, "auth"), source.entry("configs", key), source.entry("configs"))
    block_auth = "\n".join(["auth:", *(f"  {line}" for line in words.lines)])
    block_entry = "\n".join([f"{double_quoted(key)}:", *_indented(block_auth)])
    flow_entry = f"{double_quoted(key)}: {{auth: {words.flow}}}"
    if auth is not None:
        yield _field_by_field(source, auth, words)
        yield [_replaced(source, auth, words.flow)]
    elif entry is not None:
        yield [_added(source, entry, block_auth, f"auth: {words.flow}")]
        yield [_replaced(source, entry, f"{{auth: {words.flow}}}")]
    elif configs is not None:
        yield [_added(source, configs, block_entry, flow_entry)]
    else:
        top = [item for item in source.entries if len(item.path) == 1]
        block = "\n".join(["configs:", *_indented(block_entry)])
        if top:
            yield [_beside(source, top[-1], block, f"configs: {{{flow_entry}}}")]
        yield [_at_the_end(source, block)]


def _indented(text: str) -> Iterator[str]:
    return (f"  {line}" for line in text.split("\n"))


def _field_by_field(source: Source, auth: Entry, words: _Words) -> list[Edit | None]:
    """The user name and the password put in their places, what else was there taken out."""
    known = {item.path[-1]: item for item in _children(source, auth)}
    if auth.value.kind != "mapping" or not known:
        return [None]
    edits: list[Edit | None] = [source.cut(item) for name, item in known.items() if name in _OTHER_FIELDS]
    for name, word in words.fields.items():
        if name in known:
            edits.append(_replaced(source, known[name], word))
    missing = [f"{name}: {word}" for name, word in words.fields.items() if name not in known]
    if missing:
        last = list(known.values())[-1]
        edits.append(_beside(source, last, "\n".join(missing), ", ".join(missing)))
    return edits


def _children(source: Source, parent: Entry) -> list[Entry]:
    depth = len(parent.path)
    return [item for item in source.entries if len(item.path) == depth + 1 and item.path[:depth] == parent.path]


def _added(source: Source, entry: Entry, block: str, flow: str) -> Edit | None:
    """One more entry in the mapping that `entry` has for its value, or its first."""
    children = _children(source, entry)
    if children:
        return _beside(source, children[-1], block, flow)
    if entry.value.kind == "alias":
        return None
    return _replaced(source, entry, f"{{{flow}}}")


def _beside(source: Source, entry: Entry, block: str, flow: str) -> Edit:
    return source.sibling(entry, flow if entry.parent.closed is not None else block)


def _replaced(source: Source, entry: Entry, text: str) -> Edit:
    """Another value for an entry; where it has none, behind its colon."""
    start, end = source.range(entry.value.span)[0], source.end(entry.value)
    empty = source.text[start:end] == ""
    return Edit(source.span(start, end), f" {text}" if empty else text)


def _at_the_end(source: Source, block: str) -> Edit:
    end = len(source.text)
    new_line = "\r\n" if "\r\n" in source.text else "\n"
    before = "" if not source.text or source.text.endswith("\n") else new_line
    return Edit(source.span(end, end), before + block.replace("\n", new_line) + new_line)


def _without(data: bytes, path: Path, key: str) -> bytes:
    """The file without the login at a key; raises `CannotEdit`."""
    source = Source.of(data, str(path))
    before = _parsed(data, path)
    for edits in _ways_out(source, key):
        made = [edit for edit in edits if edit is not None]
        after = parse(source.applied(made), str(path)) if len(made) == len(edits) else None
        if after is None or after.error is not None or _meaning(after, but=key) != _meaning(before, but=key):
            continue
        if key not in after.configs or after.configs[key].auth is None:
            return source.applied(made)
    raise CannotEdit(path, key)


def _ways_out(source: Source, key: str) -> Iterator[list[Edit | None]]:
    """Ways to take a login out: with what holds nothing else, else alone."""
    auth, entry, configs = (source.entry("configs", key, "auth"), source.entry("configs", key), source.entry("configs"))
    alone = entry is not None and auth is not None and len(_children(source, entry)) == 1
    if configs is not None and entry is not None and alone:
        if len(_children(source, configs)) == 1:
            yield [source.cut(configs)]
        yield [source.cut(entry)]
    if auth is not None:
        yield [source.cut(auth)]
        yield [_replaced(source, auth, "null")]
