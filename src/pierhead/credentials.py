"""Where credentials come from besides registries.yaml: what docker and podman keep after a login, and the flags.

The order is that of go-containerregistry (pkg/authn/keychain.go), except that every place that exists is asked until
one knows the registry: docker's config.json, `$REGISTRY_AUTH_FILE`, podman's auth.json. In each file as in
containers/image (pkg/docker/config/config.go): the helper named for the registry, then `auths`, most specific key
first; last docker's helper for everything (`credsStore`).
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pierhead.auth import BadCredential, Credential, Lookup, Source, decode_auth
from pierhead.errors import Problem, Span, UsageError
from pierhead.redact import Secret

FILE_LIMIT_BYTES: Final = 1024 * 1024
RUN_FOLDER: Final = Path("/run")  # of podman, where a session has no XDG_RUNTIME_DIR (as for root under sudo)

HUB_NAMES: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")
HUB_SERVERS: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
IDENTITY_TOKEN_USER: Final = "<token>"  # noqa: S105  docker/cli: cli/config/credentials/native_store.go

_SERVER_KEY = re.compile(r"(?:https?://)?(?P<host>[^/]+)(?:/(?:v[12]/?)?)?")
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def chain(*lookups: Lookup) -> Lookup:
    """A lookup that asks each of these until one knows the host. What one raises is raised."""

    def lookup(host: str) -> Credential | None:
        return next((found for ask in lookups if (found := ask(host)) is not None), None)

    return lookup


def flag_credential(text: str, password: Secret | None = None) -> Credential:
    """The credential of a `USER[:PASS]` flag; `password` is what was read elsewhere. Raises `UsageError`.

    The user name `<token>` makes the password an identity token, as it does in a credential helper's answer.
    """
    username, colon, inline = text.partition(":")
    if not username:
        raise UsageError("--creds has no user name", hint="it reads USER or USER:PASSWORD")
    if colon and password is not None:
        raise UsageError("--creds holds a password, and another one was given", hint="keep one of the two")
    secret = password if password is not None else Secret(inline)
    if not secret:
        raise UsageError("--creds has no password", hint="write USER:PASSWORD, or give the password on standard input")
    return _credential(username, secret, source="flag", key="--creds")


class CredentialSources:
    """The credentials that logins have left on this machine for one person, read when first asked for.

    Everything is looked up once: files, helpers, hosts. Safe for several threads; helpers run one at a time, so that a
    locked keychain asks its owner once. `problems` is what a person should know about the files read so far.
    """

    def __init__(self, environment: Mapping[str, str], home: Path, *, run_folder: Path = RUN_FOLDER) -> None:
        self._environment = environment
        self._places = tuple(_places(environment, home, run_folder))
        self._stores: list[_Store] = []
        self._found: dict[tuple[str, str], Credential | BadCredential | None] = {}
        self._answers: dict[tuple[str, str], Credential | None] = {}
        self._problems: dict[Problem, None] = {}
        self._lock = threading.Lock()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Findings about the files and helpers used so far: too open, unreadable, not installed."""
        with self._lock:
            return tuple(self._problems)

    def lookup(self, host: str, repository: str = "") -> Credential | None:
        """The credential for `host` (host[:port]), or of podman's for `repository` there; raises `BadCredential`."""
        with self._lock:
            if (host, repository) not in self._found:
                self._found[host, repository] = self._search(host, repository)
            found = self._found[host, repository]
        if isinstance(found, BadCredential):
            raise found.with_traceback(None)
        return found

    def _search(self, host: str, repository: str) -> Credential | BadCredential | None:
        names = server_names(host)
        try:
            for store in self._opened():
                if found := self._ask(store, names, repository):
                    return found
        except BadCredential as error:
            return error
        return None

    def _opened(self) -> Iterator[_Store]:
        """The files in their order, each read when its turn comes for the first time."""
        yield from self._stores
        for path, source in self._places[len(self._stores) :]:
            store = _read_store(path, source)
            self._stores.append(store)
            self._problems |= dict.fromkeys(store.problems)
            yield store

    def _ask(self, store: _Store, names: tuple[str, ...], repository: str) -> Credential | None:
        if key := next(server_keys(store.helpers, names), ""):
            path = helper_path(store.helpers[key], self._environment, store.span(key))
            if found := self._ask_helper(path, names, store.span(key)):
                return found
        for key in _keys(store.auths, names, repository):
            if found := _entry_credential(store, key):
                return found
        return self._ask_everything_helper(store, names)

    def _ask_everything_helper(self, store: _Store, names: tuple[str, ...]) -> Credential | None:
        """`credsStore` speaks for every registry, so its absence must not keep public images away: a warning."""
        if not store.everything_helper:
            return None
        program, span = _program(store.everything_helper), store.span("credsStore")
        path = _installed(program, self._environment)
        if path is None:
            text = f"{program}, the credential helper for every registry, is not installed, so it was not asked"
            self._problems[Problem("credential-helper-missing", "warning", text, span)] = None
            return None
        return self._ask_helper(path, names, span)

    def _ask_helper(self, path: str, names: tuple[str, ...], span: Span) -> Credential | None:
        from pierhead.credential_helper import run_helper

        program = Path(path).name
        for server in HUB_SERVERS if names == HUB_NAMES else (names[0], f"https://{names[0]}"):
            if (program, server) not in self._answers:
                answer = run_helper(path, server, self._environment)
                self._answers[program, server] = _answer_credential(answer, server, program, span)
            if found := self._answers[program, server]:
                return found
        return None


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Store:
    """What one config.json or auth.json says, checked for its shape; `lines` says where its keys stand."""

    path: Path
    source: Source
    auths: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    helpers: Mapping[str, str] = field(default_factory=dict)
    everything_helper: str = ""
    problems: tuple[Problem, ...] = ()
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def span(self, key: str) -> Span:
        return Span(str(self.path), *self.places.get(key, (1, 1)))


def docker_config(environment: Mapping[str, str], home: Path) -> Path:
    """Where docker keeps its logins."""
    folder = environment.get("DOCKER_CONFIG")
    return (Path(folder) if folder else home / ".docker") / "config.json"


def _places(environment: Mapping[str, str], home: Path, run_folder: Path) -> Iterator[tuple[Path, Source]]:
    yield docker_config(environment, home), "docker"
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named), "podman"
    runtime = environment.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "containers" if runtime else run_folder / "containers" / str(os.getuid())
    yield base / "auth.json", "podman"
    config = environment.get("XDG_CONFIG_HOME")
    yield (Path(config) if config else home / ".config") / "containers" / "auth.json", "podman"


def _read_store(path: Path, source: Source) -> _Store:
    """The store in this file: empty if there is none or it cannot be read; raises `BadCredential` for bad content."""
    try:
        # Not blocking: a named pipe that nobody writes to would otherwise hold us here for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return _Store(path, source, problems=_not_a_file(path, status.st_mode))
            raw = file.read(FILE_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return _Store(path, source)
    except OSError as error:
        text = f"the credentials in {path} were left out: {error.strerror}"
        return _Store(path, source, problems=(Problem("unreadable-credentials", "warning", text, Span(str(path), 1)),))
    if len(raw) > FILE_LIMIT_BYTES:
        raise BadCredential(f"the file is larger than {FILE_LIMIT_BYTES} bytes", span=Span(str(path), 1))
    return _parse_store(path, source, _decode(raw, path), mode=status.st_mode)


def _not_a_file(path: Path, mode: int) -> tuple[Problem, ...]:
    if stat.S_ISCHR(mode):  # REGISTRY_AUTH_FILE=/dev/null says "no credentials", and means it
        return ()
    text = f"the credentials in {path} were left out: it is not a regular file"
    return (Problem("unreadable-credentials", "warning", text, Span(str(path), 1)),)


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
    # Outside of the handler: that error would take the whole content along.
    raise BadCredential("not UTF-8, so not JSON", span=Span(str(path), line))


def _parse_store(path: Path, source: Source, text: str, *, mode: int) -> _Store:
    value = _parse_json(text, path)
    auths = _section(value, "auths", path)
    helpers = _section(value, "credHelpers", path)
    everything = value.get("credsStore")
    store = _Store(
        path,
        source,
        auths={key: _strings(entry) for key, entry in auths.items() if isinstance(entry, dict)},
        helpers=_strings(helpers),
        everything_helper=everything if isinstance(everything, str) else "",
        places={key: place for key in (*auths, *helpers, "credsStore") if (place := _place(text, key))},
    )
    if mode & (stat.S_IRGRP | stat.S_IROTH) and any(holds_secret(entry) for entry in store.auths.values()):
        shown = f"mode {stat.S_IMODE(mode):04o}; 0600 is right"
        message = f"other users of this machine can read the credentials in {path} ({shown})"
        return replace(store, problems=(Problem("open-credentials", "warning", message, Span(str(path), 1)),))
    return store


def _parse_json(text: str, path: Path) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        span, reason = Span(str(path), error.lineno, error.colno), "not JSON"
    except (RecursionError, ValueError):
        span, reason = Span(str(path), 1), "not JSON that can be read"
    else:
        if isinstance(value, dict):
            return value
        span, reason = Span(str(path), 1), "not a JSON object"
    # Outside of the handler: a JSONDecodeError carries the document, and with it every secret.
    raise BadCredential(f"{reason}, so no credentials can be read from it", span=span, hint="log in again to write it")


def _section(value: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = value.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise BadCredential(f"{name!r} is not a JSON object", span=Span(str(path), 1))
    return section


def _strings(value: Mapping[str, Any]) -> dict[str, str]:
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _place(text: str, key: str) -> tuple[int, int] | None:
    """Line and column of a key; None for one that is written with escapes of its own."""
    match = re.search(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text)
    if match is None:
        return None
    return text.count("\n", 0, match.start()) + 1, match.start() - text.rfind("\n", 0, match.start())


def holds_secret(entry: Mapping[str, object]) -> bool:
    """Whether an entry of `auths` has in it what nobody else may read."""
    return any(entry.get(name) for name in ("auth", "password", "identitytoken", "registrytoken"))


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _keys(auths: Mapping[str, object], names: tuple[str, ...], repository: str) -> Iterator[str]:
    """The keys that speak for a repository, the most specific first, then those that speak for its whole registry.

    As containers/image: authKeysForKey. A key with a namespace never speaks for another one.
    """
    parts = repository.split("/") if repository else []
    for length in range(len(parts), 0, -1):
        below = "/".join(parts[:length])
        yield from (key for name in names if (key := f"{name}/{below}") in auths)
    yield from server_keys(auths, names)


def server_names(host: str) -> tuple[str, ...]:
    """The names that mean the same registry as this one."""
    return HUB_NAMES if host in HUB_NAMES else (host,)


def server_keys(section: Mapping[str, object], names: tuple[str, ...]) -> Iterator[str]:
    """The keys for a whole registry: exactly its name, then `https://name/v1/` and its like.

    As docker/cli: cli/config/credentials/file_store.go ConvertToHostname, but only v1 and v2 are taken for no path.
    """
    yield from (name for name in names if name in section)
    for key in section:
        match = _SERVER_KEY.fullmatch(key)
        if match and match["host"] in names and key not in names:
            yield key


def _entry_credential(store: _Store, key: str) -> Credential | None:
    """The credential of one `auths` entry; None for `{}`, which docker leaves where a helper keeps the secret."""
    entry, span = store.auths[key], store.span(key)
    if token := entry.get("identitytoken"):
        return _credential(IDENTITY_TOKEN_USER, Secret(token), source=store.source, key=key, span=span)
    if packed := entry.get("auth"):
        try:
            username, secret = decode_auth(Secret(packed))
        except BadCredential as error:
            reason, hint = error.message, error.hint
        else:
            return _credential(username, secret, source=store.source, key=key, span=span)
        raise BadCredential(f"auths.{key}: {reason}", hint=hint, span=span)
    if entry.get("username") and entry.get("password"):
        return _credential(entry["username"], Secret(entry["password"]), source=store.source, key=key, span=span)
    return None


def _credential(username: str, secret: Secret, *, source: Source, key: str, span: Span | None = None) -> Credential:
    if username == IDENTITY_TOKEN_USER:
        return Credential("", secret, "identity_token", source, key, span)
    return Credential(username, secret, "basic", source, key, span)


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _program(helper: str) -> str:
    return f"docker-credential-{helper}"


def _installed(program: str, environment: Mapping[str, str]) -> str | None:
    if not _HELPER_NAME.fullmatch(program):
        return None
    import shutil

    return shutil.which(program, path=environment.get("PATH", os.defpath))


def helper_path(helper: str, environment: Mapping[str, str], span: Span) -> str:
    """The program of a helper that a file names at `span`; raises `BadCredential` if it is not installed."""
    program = _program(helper)
    path = _installed(program, environment)
    if path is None:
        raise BadCredential(
            f"the credential helper {program!r} is not installed",
            hint="install it into a folder of PATH, or remove its line and log in again",
            span=span,
        )
    return path


def _answer_credential(answer: bytes | None, server: str, program: str, span: Span) -> Credential | None:
    """As docker-credential-helpers: client/client.go Get."""
    if answer is None:
        return None
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = None
    username, secret = (value.get("Username"), value.get("Secret")) if isinstance(value, dict) else (None, None)
    if not isinstance(username, str) or not isinstance(secret, str):
        # Outside of the handler: what the helper said may hold the secret.
        raise BadCredential(f"{program} answers something that is not a credential for {server}", span=span)
    if not secret:
        return None
    return _credential(username, Secret(secret), source="helper", key=server, span=span)
