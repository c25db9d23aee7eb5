"""K3s' own files, to the byte: certs.d, and the part of config.toml that concerns registries.

As K3s 866d743e5: pkg/agent/templates/templates.go (specification, sections 7.1 to 7.4). Where these bytes would break
containerd or the host, they are refused unless they are asked for; or what is meant is written instead (`k3s_meant`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pierhead.config import k3s
from pierhead.config.k3s_hosts import Flags, K3sHosts
from pierhead.config.k3s_meant import meant
from pierhead.config.k3s_problems import Credentials, as_read
from pierhead.config.k3sfile import CannotRender
from pierhead.config.registries import Auth, RegistriesConfig, Text
from pierhead.config.rendered import File, Rendered, commented, is_text, origin_line, revealed, toml_string
from pierhead.errors import Problem, Span, UsageError
from pierhead.gourl import go_bytes, quote
from pierhead.redact import Secret

Generation = Literal["v2", "v3"]
Mode = Literal["refuse", "as-k3s", "safe"]

NO_FLAGS: Final = Flags()
PART: Final = "config.toml.part"  # not config.toml: K3s makes that, and there is more in it
DROP_IN: Final = "config-v3.toml.d/pierhead-registries.toml"  # K3s' v3 config.toml imports this folder

_HARMFUL: Final = frozenset(
    {"ambiguous-directory", "containerd-does-not-start", "rewrite-breaks-out", "unusable-hosts-toml"}
)
_PLUGIN: Final = {"v2": '"io.containerd.grpc.v1.cri"', "v3": "'io.containerd.cri.v1.images'"}
_Quoted = Callable[[str], str]
_FIELDS: Final = ("username", "password", "auth", "identitytoken")


class HarmfulFiles(UsageError):
    """What K3s itself writes would break containerd, or delete what is not K3s' own; `problems` say where and why."""

    def __init__(self, problems: tuple[Problem, ...], hint: str) -> None:
        first, *more = problems
        lines = [f"K3s' own files would do harm: {first.message}", *(f"{also.span}: {also.message}" for also in more)]
        super().__init__("\n".join(lines), hint=hint, span=first.span)
        self.problems = problems


def render(
    config: RegistriesConfig,
    flags: Flags = NO_FLAGS,
    *,
    containerd_config: Generation = "v3",
    mode: Mode = "refuse",
) -> Rendered:
    """What K3s writes below `flags.root`, and the same credentials as a file of their own for containerd to import.

    Raises `UnusableConfig`, `CannotRender` if K3s itself would fail, and `HarmfulFiles`: with "refuse" for whatever
    does harm, always for a key that makes K3s delete all of certs.d or more.
    """
    wanted = meant(config, flags) if mode == "safe" else None
    written = wanted.config if wanted else config
    found = k3s.hosts(written, flags)
    if wanted:
        _refuse_deletion(k3s.hosts(config, flags).problems)  # also of a key of which nothing else is left
    _refuse_deletion(found.problems)
    if found.error is not None:
        raise CannotRender(found.problems[0].message, span=found.problems[0].span)
    if wanted:
        problems = [*wanted.changes, *(_escaped(problem, found) for problem in found.problems)]
    else:
        problems = [*found.problems, *_breaking_out(found), *_half_pairs(config)]
    if mode != "as-k3s":
        _refuse_harm(problems)
    files = [File(path, text) for path, text in sorted(k3s.render(written, flags).items())]
    logins = _Logins.of(found, flags, containerd_config)
    files.append(logins.part(escaped=mode == "safe"))
    if containerd_config == "v3":
        files.append(logins.drop_in())
    lost = dict.fromkeys([*config.problems, *problems, *logins.unsaid])
    return Rendered(origin_line(config.file, flags.program), tuple(files), tuple(lost))


# ── what does harm ───────────────────────────────────────────────────────────────────────────────────────────────


def _refuse_deletion(problems: Iterable[Problem]) -> None:
    destructive = tuple(problem for problem in problems if problem.id == "destructive-key")
    if destructive:
        raise HarmfulFiles(destructive, "rename the key or remove it: it is no registry")


def _refuse_harm(problems: Iterable[Problem]) -> None:
    harmful = tuple(problem for problem in problems if problem.id in _HARMFUL)
    if harmful:
        raise HarmfulFiles(harmful, "--safe writes what is meant instead; --as-k3s writes these very bytes")


def _escaped(problem: Problem, found: K3sHosts) -> Problem:
    """What keeps containerd from starting is escaped where it is to be safe, or left out with all of its entry."""
    if problem.id != "containerd-does-not-start":
        return problem
    for key, fields in k3s.credentials(found.config).items():
        entry = found.config.configs[key]
        if not _is_sayable(key, fields) and entry.auth is not None and problem.span in _spans(entry.auth):
            return _left_out(entry.key)
    message = "this is written escaped; K3s does not, and when it writes its config.toml, containerd does not start"
    return Problem("credentials-escaped", "warning", message, problem.span)


def _spans(auth: Auth) -> set[Span]:
    return {text.span for text in (auth.username, auth.password, auth.auth, auth.identity_token) if text is not None}


def _breaking_out(found: K3sHosts) -> Iterator[Problem]:
    """Rewrites that end their own string early, and yet leave a file that containerd reads."""
    for mirror in found.config.mirrors.values():
        directory = found.tree.directories.get("_default" if mirror.key.value == "*" else mirror.key.value)
        hosts = directory.hosts if directory is not None else ()
        if directory is None or not any(host.origin.kind == "mirror" and host.origin.endpoint for host in hosts):
            continue
        for rule in mirror.rewrites:
            for text in (rule.pattern, rule.replacement):
                if as_read(text.value) is None:
                    message = f"containerd reads other settings in {directory.path} than this rewrite says"
                    yield Problem("rewrite-breaks-out", "error", message, text.span)


def _half_pairs(config: RegistriesConfig) -> Iterator[Problem]:
    for entry in config.configs.values():
        half = entry.tls and (entry.tls.cert_file or entry.tls.key_file)
        if entry.tls and half and not (entry.tls.cert_file and entry.tls.key_file):
            message = f"containerd asks nobody for images that {entry.key.shown} serves: it has half a certificate pair"
            yield Problem("half-certificate-pair", "error", message, half.span)


# ── config.toml ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Logins:
    """The credentials of every key; `sayable` are those that TOML can hold, `unsaid` says which are not."""

    origin: str
    directory: str
    generation: Generation
    known: Credentials
    sayable: Credentials
    unsaid: tuple[Problem, ...]

    @classmethod
    def of(cls, found: K3sHosts, flags: Flags, generation: Generation) -> _Logins:
        known = k3s.credentials(found.config)
        sayable = {key: fields for key, fields in known.items() if _is_sayable(key, fields)}
        unsaid = tuple(_left_out(found.config.configs[key].key) for key in known if key not in sayable)
        origin = origin_line(found.config.file, flags.program)
        return cls(origin, f"{flags.root}/certs.d", generation, known, sayable, unsaid)

    def part(self, *, escaped: bool) -> File:
        """The part of config.toml, as K3s writes it or escaped."""
        mark = "'" if self.generation == "v3" else '"'
        text = self._tables(self.known, quote, lambda key: f"{mark}{key}{mark}")
        return File(PART, self._escaped if escaped else text, secret=bool(self.known))

    def drop_in(self) -> File:
        """The same as a file of its own, which containerd can always read."""
        text = f"{commented(self.origin, self.unsaid)}version = 3\n\n{self._escaped}"
        return File(DROP_IN, text, secret=bool(self.known))

    @property
    def _escaped(self) -> str:
        return self._tables(self.sayable, toml_string, toml_string)

    def _tables(self, credentials: Credentials, quoted: _Quoted, key_quoted: _Quoted) -> str:
        """As templates.go: one table for config_path, then one for each key with an `auth`, by Go's order of keys."""
        table = f"plugins.{_PLUGIN[self.generation]}.registry"
        lines = [f"[{table}]", f"  config_path = {quoted(self.directory)}"]
        for key in sorted(credentials, key=go_bytes):
            fields = credentials[key]
            lines += ["", f"[{table}.configs.{key_quoted(key)}.auth]"]
            lines += [f"  {name} = {quoted(revealed(fields[name]))}" for name in _FIELDS if name in fields]
        return "\n".join(lines) + "\n"


def _left_out(key: Text) -> Problem:
    message = f"the credentials of {key.shown!r} are no UTF-8: TOML cannot hold them, so the drop-in has none"
    return Problem("credentials-left-out", "error", message, key.span)


def _is_sayable(key: str, fields: Mapping[str, Secret]) -> bool:
    return is_text(key) and all(is_text(revealed(value)) for value in fields.values())
