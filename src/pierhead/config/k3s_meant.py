r"""The registries.yaml that was meant, where K3s' writing would make something else of it.

K3s writes hosts.toml without escaping and joins names to paths unchecked (specification, sections 6.3, 7.2 and 7.4;
the differences found in recordings, part B). Here a configuration becomes one that survives that: what K3s writes of
the result can be read, and says what the file says. What K3s already gets right stays as it is, letter by letter: the
`\\.` that people write because K3s needs it, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from pierhead.config.containerd import DEFAULT_DIRECTORY
from pierhead.config.k3s import hosts, normalized
from pierhead.config.k3s_hosts import Flags
from pierhead.config.k3s_problems import as_read
from pierhead.config.registries import Config, Mirror, RegistriesConfig, Rewrite, Text, Tls, unusable
from pierhead.config.rendered import is_text, toml_string
from pierhead.errors import Problem, Severity, Span
from pierhead.gourl import InvalidUrl, go_bytes, path_clean, quote

NO_FLAGS: Final = Flags()

_PLAIN = "http://plain.invalid"  # an endpoint that nothing is wrong with
_UNWRITABLE = re.compile(r'["\\\ud800-\udfff]')  # what a query may hold, and a TOML string may not
_NEVER_MEANT = re.compile(r"[\x08\x1b]")  # what TOML makes of \b, a word boundary, and of \e
_Entry = TypeVar("_Entry", Mirror, Config)


@dataclass(frozen=True, slots=True)
class Meant:
    """`changes` says what of the file is written otherwise (warning), and what cannot be (error)."""

    config: RegistriesConfig
    changes: tuple[Problem, ...] = ()


def meant(config: RegistriesConfig, flags: Flags = NO_FLAGS) -> Meant:
    """What K3s can write without harm of `config`; raises `UnusableConfig`.

    A key that makes K3s delete what is not its own stays: nobody can say what is meant by it.
    """
    unusable(config)
    mending = _Mending(replace(flags, embedded_registry=None, disable_default_registry_endpoint=False))
    mirrors = {key: mending.mirror(mirror) for key, mirror in config.mirrors.items() if mending.is_writable(mirror.key)}
    configs = {key: mending.config(entry) for key, entry in config.configs.items() if mending.is_writable(entry.key)}
    mirrors, configs = mending.merged(mirrors, configs)
    return Meant(replace(config, mirrors=mirrors, configs=configs), tuple(dict.fromkeys(mending.changes)))


@dataclass(slots=True)
class _Mending:
    """What is changed, collected while it is; every part is tried alone, in a file that holds nothing else."""

    flags: Flags
    changes: list[Problem] = field(default_factory=list)

    def _say(self, id: str, severity: Severity, message: str, span: Span) -> None:
        self.changes.append(Problem(id, severity, message, span))

    def _harm(self, mirror: Mirror | None = None, entry: Config | None = None) -> str | None:
        """Why K3s cannot write, or containerd not read, a file with this alone."""
        part = RegistriesConfig(
            "", {mirror.key.value: mirror} if mirror else {}, {entry.key.value: entry} if entry else {}
        )
        found = hosts(part, self.flags)
        unread = (directory.unusable for directory in found.tree.directories.values())
        return found.error or next(filter(None, unread), None)

    # -- names --------------------------------------------------------------------------------------------------------

    def is_writable(self, key: Text) -> bool:
        """Whether the registry's own address and directory can be written."""
        if "hosts.toml" in _place(key.value).split("/"):
            harm: str | None = "it would be a file within a file"
        elif not is_text(key.value):
            harm = "it is not UTF-8"
        else:
            harm = self._harm(Mirror(key, (Text(_PLAIN, key.span),)))
        if harm is not None:
            message = f"{_brief(key)} is left out, as no image can be of a registry with that name: {harm}"
            self._say("registry-left-out", "error", message, key.span)
        return harm is None

    # -- mirrors ------------------------------------------------------------------------------------------------------

    def mirror(self, mirror: Mirror) -> Mirror:
        endpoints = tuple(text for text in map(self._endpoint, mirror.endpoints) if text is not None)
        return replace(mirror, endpoints=endpoints, rewrites=self._rewrites(mirror.rewrites))

    def _endpoint(self, text: Text) -> Text | None:
        before, mark, query = text.value.partition("?")
        mended = replace(text, value=before + mark + _UNWRITABLE.sub(_percent, query))
        if mended.value != text.value:
            self._say("endpoint-escaped", "note", "the query of this endpoint is written escaped", text.span)
        harm = self._endpoint_harm(mended)
        if harm is None:
            return mended
        bracketed = replace(mended, value=_bracketed(mended.value))
        if bracketed.value != mended.value and self._endpoint_harm(bracketed) is None:
            message = f"this endpoint is written as {bracketed.shown}: an IPv6 address needs brackets in a URL"
            self._say("endpoint-bracketed", "warning", message, text.span)
            return bracketed
        self._say(
            "endpoint-left-out", "error", f"this endpoint is left out, no host has such a name: {harm}", text.span
        )
        return None

    def _endpoint_harm(self, text: Text) -> str | None:
        try:
            _, url, _ = normalized(text.value)
        except InvalidUrl:
            return None  # K3s leaves it out by itself
        if '"' in url.host:
            return "there is a quote in it"
        rule = Rewrite(Text("a", text.span), Text("b", text.span))  # its table has the longest line
        return self._harm(Mirror(Text("x", text.span), (text, Text(_PLAIN, text.span)), (rule,)))

    def _rewrites(self, rules: Iterable[Rewrite]) -> tuple[Rewrite, ...]:
        kept: dict[str, Rewrite] = {}
        for rule in rules:
            mended = self._rewrite(rule)
            pattern = as_read(mended.pattern.value) if mended else None
            if mended is None or pattern is None:
                continue
            other = kept.setdefault(pattern, mended)
            if other is not mended:
                message = f"this rewrite is left out: the pattern is that of line {other.pattern.span.line} once more"
                self._say("rewrite-left-out", "error", message, rule.pattern.span)
        return tuple(kept.values())

    def _rewrite(self, rule: Rewrite) -> Rewrite | None:
        pattern, replacement = self._quoted(rule.pattern), self._quoted(rule.replacement)
        if pattern is None or replacement is None:
            return None
        mended = Rewrite(pattern, replacement)
        harm = self._harm(Mirror(Text("x", pattern.span), (Text(_PLAIN, pattern.span),), (mended,)))
        if harm is None:
            return mended
        self._say("rewrite-left-out", "error", f"this rewrite is left out: {harm}", rule.pattern.span)
        return None

    def _quoted(self, text: Text) -> Text | None:
        read = as_read(text.value)
        if read is not None and not _NEVER_MEANT.search(read):
            return text
        if not is_text(text.value):
            message = "this rewrite is left out: TOML cannot hold bytes that are not UTF-8"
            self._say("rewrite-left-out", "error", message, text.span)
            return None
        message = "this text of a rewrite is written escaped; K3s writes it as it is, and containerd reads it otherwise"
        self._say("rewrite-escaped", "warning", message, text.span)
        return replace(text, value=toml_string(text.value)[1:-1])

    # -- configs ------------------------------------------------------------------------------------------------------

    def config(self, entry: Config) -> Config:
        return entry if entry.tls is None else replace(entry, tls=self._tls(entry.tls))

    def _tls(self, tls: Tls) -> Tls:
        authority, certificate, key = map(self._file, (tls.ca_file, tls.cert_file, tls.key_file))
        half = certificate or key
        if half is not None and (certificate is None or key is None):
            name, other = ("cert_file", "key_file") if certificate else ("key_file", "cert_file")
            message = f"{name} is left out, as there is no {other}: with half a pair containerd asks nobody at all"
            self._say("half-pair-left-out", "error", message, half.span)
            certificate = key = None
        return replace(tls, ca_file=authority, cert_file=certificate, key_file=key)

    def _file(self, text: Text | None) -> Text | None:
        if text is None or (as_read(quote(text.value)[1:-1]) == text.value and self._file_harm(text) is None):
            return text
        message = "this file is left out, as K3s cannot write its name: give it one of plain letters"
        self._say("file-left-out", "error", message, text.span)
        return None

    def _file_harm(self, text: Text) -> str | None:
        tls = Tls(text, text, text, insecure_skip_verify=False, span=text.span)
        return self._harm(entry=Config(Text("x", text.span), tls=tls))

    # -- directories --------------------------------------------------------------------------------------------------

    def merged(
        self, mirrors: Mapping[str, Mirror], configs: Mapping[str, Config]
    ) -> tuple[dict[str, Mirror], dict[str, Config]]:
        """With one name for each directory, where K3s would let one of several win at random."""
        names = _names([mirror.key for mirror in mirrors.values()] + [entry.key for entry in configs.values()])
        return self._one_of_each(mirrors, names, self._joined), self._one_of_each(configs, names, _completed)

    def _one_of_each(
        self, entries: Mapping[str, _Entry], names: Mapping[str, str], join: Callable[[_Entry, _Entry], _Entry]
    ) -> dict[str, _Entry]:
        kept: dict[str, _Entry] = {}
        for given in sorted(entries.values(), key=lambda entry: entry.key.span):
            name, entry = names[given.key.value], given
            if name != given.key.value:
                message = f"{_brief(given.key)} is written as {name}, whose directory it shares"
                self._say("directories-merged", "warning", message, given.key.span)
                entry = replace(given, key=replace(given.key, value=name))
            kept[name] = join(kept[name], entry) if name in kept else entry
        return kept

    def _joined(self, first: Mirror, second: Mirror) -> Mirror:
        """One mirror of two; rewrites are for all its endpoints, so they have to be the same."""
        rules = [
            [(rule.pattern.value, rule.replacement.value) for rule in mirror.rewrites] for mirror in (first, second)
        ]
        if second.endpoints and rules[0] != rules[1]:
            message = f"this mirror is left out: its rewrites are not those of line {first.key.span.line}"
            self._say("mirror-left-out", "error", message, second.key.span)
            return first
        return replace(first, endpoints=(*first.endpoints, *second.endpoints))


def _completed(first: Config, second: Config) -> Config:
    return replace(first, auth=first.auth or second.auth, tls=first.tls or second.tls)


def _names(keys: Iterable[Text]) -> dict[str, str]:
    """For every key the one of its directory that is written: the directory's own name, else the first of the file."""
    sharing: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda key: key.span):
        sharing.setdefault(_place(key.value), []).append(key.value)
    chosen = {}
    for place, names in sharing.items():
        own = "*" if "*" in names else place.removeprefix("/certs.d/")
        chosen[place] = own if own in names else names[0]
    return {
        name: chosen[place] if place.startswith("/certs.d/") else name  # nothing is meant by what leaves certs.d
        for place, names in sharing.items()
        for name in names
    }


def _place(name: str) -> str:
    return path_clean(f"/certs.d/{DEFAULT_DIRECTORY if name == '*' else name}")


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in go_bytes(found[0]))


def _bracketed(endpoint: str) -> str:
    """`endpoint` with its authority in brackets, if it has none: it may be an IPv6 address."""
    scheme, mark, rest = endpoint.rpartition("://") if "://" in endpoint else ("", "", endpoint)
    found = re.match(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", rest)
    if found is None or rest.startswith("["):
        return endpoint
    return f"{scheme}{mark}[{found[0]}]{rest[found.end() :]}"


def _brief(key: Text) -> str:
    """A key for a sentence."""
    return repr(key.shown if len(key.shown) <= 60 else f"{key.shown[:60]}…")
