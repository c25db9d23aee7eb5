"""The text of a registries.yaml: made for people, and read by every YAML reader as the values it was made from.

Plain words stand without quotes where yaml.v2 (K3s), YAML 1.1 and YAML 1.2 agree on them; all else is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from pierhead.config.imports.draft import Config, Draft, Login, Mirror, Trust
from pierhead.config.rendered import yaml_key
from pierhead.errors import Problem
from pierhead.redact import MASK, Secret

# What no reader takes for anything else: no indicator at its ends, and nothing that may be a number but an address.
_PLAIN: Final = re.compile(r"(?:/|[A-Za-z])[A-Za-z0-9._/:@+=-]*[A-Za-z0-9/_-]|[A-Za-z]")
_ADDRESS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]+)?")
_WORDS: Final = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def registries_yaml(draft: Draft, origin: str, *, show_secrets: bool) -> str:
    """The whole file: where it is from, what it cannot say, and its entries; without `show_secrets` they are masked."""
    lines = [*_head(draft, origin)]
    configs = _configs(draft.configs, show_secrets=show_secrets)
    for name, entries in (("mirrors", _mirrors(draft.mirrors)), ("configs", configs)):
        body = list(entries)
        lines += [f"{name}:", *body] if body else []
    return "".join(f"{line}\n" for line in lines)


def _head(draft: Draft, origin: str) -> Iterator[str]:
    yield f"# {_one_line(origin)}"
    flags = flags_text(draft)
    if flags:
        yield f"# K3s must run with: {flags}"
    if draft.told:
        yield "#"
        yield "# Not said here, or not quite:"
        yield from (f"#   {_told(problem)}" for problem in draft.told)


def flags_text(draft: Draft) -> str:
    """The flags of K3s that belong to the file, as they are written."""
    flags = draft.flags
    disabled = ["--disable-default-registry-endpoint"] if flags.disable_default_registry_endpoint else []
    embedded = ["--embedded-registry"] if flags.embedded_registry else []
    return " ".join([*disabled, *embedded])


def _told(problem: Problem) -> str:
    place = f"{problem.span.file}:{problem.span.line}: " if problem.span else ""
    return f"{problem.severity}: {_one_line(place + problem.message)}"


def _one_line(text: str) -> str:
    """The text without anything that would end a comment, or that YAML does not take."""
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


# -- entries ----------------------------------------------------------------------------------------------------------


def _mirrors(mirrors: dict[str, Mirror]) -> Iterator[str]:
    for key, mirror in mirrors.items():
        if not mirror.endpoints and not mirror.rewrites:
            yield f"  {scalar(key)}: {{}}"
            continue
        yield f"  {scalar(key)}:"
        if mirror.endpoints:
            yield "    endpoint:"
            yield from (f"      - {scalar(endpoint)}" for endpoint in mirror.endpoints)
        if mirror.rewrites:
            yield "    rewrite:"
            for old, new in mirror.rewrites.items():
                *above, last = yaml_key(scalar(old))
                yield from (f"      {line}" for line in (*above, f"{last} {scalar(new)}"))


def _configs(configs: dict[str, Config], *, show_secrets: bool) -> Iterator[str]:
    for key, config in configs.items():
        if config.auth is None and config.tls is None:
            yield f"  {scalar(key)}: {{}}"
            continue
        yield f"  {scalar(key)}:"
        if config.auth is not None:
            yield from _section("auth", _auth_fields(config.auth, show_secrets=show_secrets))
        if config.tls is not None:
            yield from _section("tls", _tls_fields(config.tls))


def _section(name: str, fields: Iterable[tuple[str, str]]) -> Iterator[str]:
    lines = [f"      {field}: {text}" for field, text in fields]
    yield f"    {name}:" if lines else f"    {name}: {{}}"
    yield from lines


def _auth_fields(login: Login, *, show_secrets: bool) -> Iterator[tuple[str, str]]:
    for name, secret in (("auth", login.auth), ("identity_token", login.identity_token)):
        if secret is not None:
            yield name, scalar(_revealed(secret)) if show_secrets else f'"{MASK}"'


def _revealed(secret: Secret) -> str:
    """The text of a secret on its way into its own file; the only place of the imports that writes one."""
    return secret.reveal()


def _tls_fields(trust: Trust) -> Iterator[tuple[str, str]]:
    for name in ("ca_file", "cert_file", "key_file"):
        path = getattr(trust, name)
        if path:
            yield name, scalar(path)
    if trust.insecure_skip_verify:
        yield "insecure_skip_verify", "true"


# -- scalars ----------------------------------------------------------------------------------------------------------


def scalar(text: str) -> str:
    """`text` as YAML: plain if that is safe, else in the quotes that need the fewest escapes."""
    if _ADDRESS.fullmatch(text) or (_PLAIN.fullmatch(text) and text.lower() not in _WORDS):
        return text
    if not all(sign.isprintable() for sign in text):
        return '"' + "".join(map(_escaped, text)) + '"'
    if "\\" not in text and '"' not in text:
        return f'"{text}"'
    return "'" + text.replace("'", "''") + "'"


def _escaped(sign: str) -> str:
    if sign in _ESCAPES:
        return _ESCAPES[sign]
    if sign.isprintable():
        return sign
    code = ord(sign)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
