"""URLs as Go's net/url reads and writes them: what K3s and containerd make of an endpoint, byte for byte.

As Go 1.27: src/net/url/url.go, src/path/path.go, src/net/netip/netip.go. Go's strings are bytes; here they are `str`
whose bytes that are not UTF-8 are surrogate escapes. Everything is pure.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from pierhead.errors import PierheadError
from pierhead.redact import MASK, Secret

QUERY_PARAMETERS_LIMIT = 10_000  # as Go: net/url defaultMaxParams

_ALPHANUMERIC = frozenset((string.ascii_letters + string.digits).encode())
_HEX = frozenset(string.hexdigits.encode())
_SHORT_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_USERINFO = re.compile(rb"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*\Z")
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):")
_PORT = re.compile(rb"(:[0-9]*)?\Z")


class InvalidUrl(PierheadError):
    """Go refuses the text as a URL. `go_text` is what Go says; `message` the same without what may be a password."""

    def __init__(self, url: str, reason: str, excerpt: str | None = None) -> None:
        exact = reason if excerpt is None else reason.replace("%q", quote(excerpt))
        safe = reason.replace("%q", quote(MASK)) if "@" in url else exact
        self.go_text = Secret(f"parse {quote(url)}: {exact}")
        super().__init__(f"parse {quote(shown(url))}: {safe}")


class _Refused(Exception):
    """The reason on its way to `parse`, which knows the whole text; `%q` in it stands for the excerpt."""

    def __init__(self, reason: str, excerpt: bytes | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.excerpt = excerpt


@dataclass(frozen=True, slots=True)
class Userinfo:
    """What stands before the `@` of an authority, decoded. `password` None: there was no colon."""

    username: str
    password: Secret | None = None

    def escaped(self) -> str:
        """As Go writes it back into a URL; this is for the wire and for K3s' files, not for people."""
        name = _escape_text(self.username, _Part.USERINFO)
        if self.password is None:
            return name
        return f"{name}:{_escape_text(self.password.reveal(), _Part.USERINFO)}"


@dataclass(frozen=True, slots=True)
class GoUrl:
    """A parsed URL, with Go's fields: `path` and `fragment` decoded, the raw ones set only if they carry more."""

    scheme: str = ""
    opaque: str = ""
    userinfo: Userinfo | None = None
    host: str = ""
    path: str = ""
    raw_path: str = ""
    omit_host: bool = False
    force_query: bool = False
    raw_query: str = ""
    fragment: str = ""
    raw_fragment: str = ""

    def __str__(self) -> str:
        """As Go's `URL.String`, userinfo included: for K3s' files and comparisons. People get `shown(str(url))`."""
        return _without_query(self) + self._tail()

    def __repr__(self) -> str:
        return f"GoUrl({shown(str(self))!r})"

    @property
    def port(self) -> str:
        """The port, or "" if there is none (Go's `URL.Port`)."""
        colon = self.host.rfind(":")
        return self.host[colon + 1 :] if colon >= 0 and _PORT.match(go_bytes(self.host[colon:])) else ""

    def escaped_path(self) -> str:
        """The path as it goes on the wire (Go's `URL.EscapedPath`)."""
        return _escaped(self.path, self.raw_path, _Part.PATH)

    def request_uri(self) -> str:
        """The target of an HTTP request for this URL (Go's `URL.RequestURI`)."""
        target = self.opaque or self.escaped_path() or "/"
        if self.opaque.startswith("//"):
            target = f"{self.scheme}:{target}"
        return target + self._query()

    def _query(self) -> str:
        return f"?{self.raw_query}" if self.force_query or self.raw_query else ""

    def _tail(self) -> str:
        fragment = _escaped(self.fragment, self.raw_fragment, _Part.FRAGMENT)
        return self._query() + (f"#{fragment}" if self.fragment else "")


@lru_cache(maxsize=4096)  # a file names the same endpoints many times, and everyone who looks at it parses them
def parse(text: str) -> GoUrl:
    """Go's `url.Parse`; raises `InvalidUrl` with Go's reason."""
    before, _, fragment = text.partition("#")
    try:
        url = _parse(go_bytes(before))
    except _Refused as refused:
        raise _invalid(before, refused) from None
    if not fragment:
        return url
    try:
        decoded = _unescape(go_bytes(fragment), _Part.FRAGMENT)
    except _Refused as refused:
        raise _invalid(text, refused) from None
    raw = "" if _escape(decoded, _Part.FRAGMENT) == go_bytes(fragment) else fragment
    return replace(url, fragment=_text(decoded), raw_fragment=raw)


_ORDINARY = re.compile(
    r"https?://([A-Za-z0-9.-]+(?::[0-9]+)?)"
    r"(/(?:[A-Za-z0-9._~:@-][A-Za-z0-9._~:@/-]*)?(?:\?[A-Za-z0-9._~%+&=-]+)?)"
)


def request_target(text: str) -> tuple[str, str]:
    """(authority, target) of the request that Go's `http.NewRequest` makes of `text`; raises `InvalidUrl`."""
    if ordinary := _ORDINARY.fullmatch(text):  # nothing in it is decoded or escaped, so there is nothing to work out
        return ordinary[1], ordinary[2]
    url = parse(text)
    return url.host.removesuffix(":"), url.request_uri()


def path_clean(path: str) -> str:
    """Go's `path.Clean`: the shortest equivalent path, "." for an empty one."""
    rooted = path.startswith("/")
    kept: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            kept.append(part)
        elif kept and kept[-1] != "..":
            kept.pop()
        elif not rooted:
            kept.append(part)
    return ("/" if rooted else "") + "/".join(kept) or "."


def path_join(*parts: str) -> str:
    """Go's `path.Join`: the non-empty parts, joined and cleaned; "" if there are none."""
    present = [part for part in parts if part]
    return path_clean("/".join(present)) if present else ""


def query_escape(text: str) -> str:
    """Go's `url.QueryEscape`."""
    return _escape_text(text, _Part.QUERY)


def parse_query(query: str) -> list[tuple[str, str]]:
    """Go's `url.ParseQuery` as pairs in order; raises `InvalidUrl` for the first malformed one."""
    if query.count("&") >= QUERY_PARAMETERS_LIMIT:
        raise InvalidUrl(f"?{query}", "number of URL query parameters exceeded limit")
    pairs = []
    for setting in filter(None, query.split("&")):
        if ";" in setting:
            raise InvalidUrl(f"?{query}", "invalid semicolon separator in query")
        name, _, value = setting.partition("=")
        try:
            pairs.append((_unescape_text(name, _Part.QUERY), _unescape_text(value, _Part.QUERY)))
        except _Refused as refused:
            raise _invalid(f"?{query}", refused) from None
    return pairs


def encode_query(pairs: list[tuple[str, str]]) -> str:
    """Go's `url.Values.Encode`: sorted by name, the values of one name in their order."""
    ordered = sorted(pairs, key=lambda pair: go_bytes(pair[0]))
    return "&".join(f"{query_escape(name)}={query_escape(value)}" for name, value in ordered)


def add_query(target: str, name: str, value: str) -> str:
    """`target` with one more query parameter, the others re-encoded and sorted; raises `InvalidUrl`.

    As containerd: core/remotes/docker/resolver.go, request.addQuery.
    """
    path, mark, query = target.partition("?")
    if not path:  # containerd looks for a "?" after the first byte
        path, mark, query = target, "", ""
    pairs = parse_query(query) if mark else []
    return f"{path}?{encode_query([*pairs, (name, value)])}"


def quote(text: str) -> str:
    r"""Go's `strconv.Quote` (`%q`): printable text as it is, the rest as \n, \x7f, \u2028, \U000e0001."""
    return '"' + "".join(map(_quoted, text)) + '"'


def split_host_port(address: str) -> tuple[str, str]:
    """Go's `net.SplitHostPort`, with ("", "") where Go returns an error."""
    colon = address.rfind(":")
    if colon < 0:
        return "", ""
    host, port = address[:colon], address[colon + 1 :]
    if host.startswith("["):
        closed = host.endswith("]") and host.count("[") == 1 and host.count("]") == 1
        return (host[1:-1], port) if closed else ("", "")
    return ("", "") if any(mark in host for mark in ":[]") else (host, port)


def go_bytes(text: str) -> bytes:
    """The bytes that Go would hold for `text`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte; Go has none, anything that is not UTF-8 will do
        return text.encode("utf-8", "surrogatepass")


def shown(text: str) -> str:
    """`text`, a URL or part of one, for people: everything up to the last `@` of what may be its authority masked."""
    at = text.rfind("@")
    if at < 0:
        return text
    start = text.find("//") + 2 if 0 <= text.find("//") < at else 0
    return f"{text[:start]}{MASK}{text[at:]}"


# -- parsing ----------------------------------------------------------------------------------------------------------


def _parse(raw: bytes) -> GoUrl:
    if any(byte < 0x20 or byte == 0x7F for byte in raw):
        raise _Refused("net/url: invalid control character in URL")
    if raw == b"*":
        return GoUrl(path="*")
    scheme, rest = _split_scheme(raw)
    force_query = rest.endswith(b"?") and rest.count(b"?") == 1
    rest, _, query = rest.partition(b"?")
    name, raw_query = _text(scheme.lower()), _text(query)
    if not rest.startswith(b"/"):
        if scheme:
            return GoUrl(name, opaque=_text(rest), force_query=force_query, raw_query=raw_query)
        if b":" in rest.partition(b"/")[0]:
            raise _Refused("first path segment in URL cannot contain colon")
    userinfo, host, omit_host = None, "", False
    if rest.startswith(b"//") and (scheme or not rest.startswith(b"///")):
        authority, slash, after = rest[2:].partition(b"/")
        userinfo, host = _parse_authority(name, authority)
        rest = slash + after
    else:
        omit_host = bool(scheme) and rest.startswith(b"/")
    path = _unescape(rest, _Part.PATH)
    return GoUrl(
        name,
        userinfo=userinfo,
        host=host,
        path=_text(path),
        raw_path="" if _escape(path, _Part.PATH) == rest else _text(rest),
        omit_host=omit_host,
        force_query=force_query,
        raw_query=raw_query,
    )


def _split_scheme(raw: bytes) -> tuple[bytes, bytes]:
    if raw.startswith(b":"):
        raise _Refused("missing protocol scheme")
    found = _SCHEME.match(raw)
    return (found[1], raw[found.end() :]) if found else (b"", raw)


def _parse_authority(scheme: str, authority: bytes) -> tuple[Userinfo | None, str]:
    before, at, after = authority.rpartition(b"@")
    host = _text(_parse_host(scheme, after))
    if not at:
        return None, host
    if not _USERINFO.match(before):
        raise _Refused("net/url: invalid userinfo")
    name, colon, password = before.partition(b":")
    username = _text(_unescape(name, _Part.USERINFO))
    return Userinfo(username, Secret(_text(_unescape(password, _Part.USERINFO))) if colon else None), host


def _parse_host(scheme: str, host: bytes) -> bytes:
    bracket = host.rfind(b"[")
    if bracket > 0:
        raise _Refused("invalid IP-literal")
    if bracket == 0:
        return _parse_ip_literal(host)
    if b":" in host:
        # Go is strict about a second colon only for http and https; elsewhere the last one starts the port.
        colon = host.find(b":") if scheme in ("http", "https") else host.rfind(b":")
        _check_port(host[colon:])
    return _unescape(host, _Part.HOST)


def _parse_ip_literal(host: bytes) -> bytes:
    close = host.rfind(b"]")
    if close < 0:
        raise _Refused("missing ']' in host")
    _check_port(host[close + 1 :])
    name = host[1:close]
    zone = name.find(b"%25")
    split = zone if zone >= 0 else len(name)
    address = _unescape(name[:split], _Part.HOST) + _unescape(name[split:], _Part.ZONE)
    _check_ip_literal(address)
    return b"[" + address + b"]" + host[close + 1 :]


def _check_port(port: bytes) -> None:
    if not _PORT.match(port):
        raise _Refused("invalid port %q after host", port)


def _invalid(url: str, refused: _Refused) -> InvalidUrl:
    return InvalidUrl(url, refused.reason, None if refused.excerpt is None else _text(refused.excerpt))


# -- addresses between brackets, as Go's netip.ParseAddr --------------------------------------------------------------


def _check_ip_literal(address: bytes) -> None:
    mark = re.search(rb"[.:%]", address)
    if mark is None:
        raise _no_address(address, "unable to parse IP")
    if mark[0] == b"%":
        raise _no_address(address, "missing IPv6 address")
    if mark[0] == b".":
        _check_ipv4(address, address)
        raise _Refused("invalid IP-literal")
    _check_ipv6(address)


def _no_address(address: bytes, reason: str, at: bytes = b"") -> _Refused:
    place = f" (at {quote(_text(at))})" if at else ""
    return _Refused(f"invalid host: ParseAddr({quote(_text(address))}): {reason}{place}")


def _check_ipv4(whole: bytes, part: bytes) -> None:
    value = digits = dots = 0
    for index, byte in enumerate(part):
        if 0x30 <= byte <= 0x39:
            if digits == 1 and value == 0:
                raise _no_address(whole, "IPv4 field has octet with leading zero")
            value, digits = value * 10 + byte - 0x30, digits + 1
            if value > 255:
                raise _no_address(whole, "IPv4 field has value >255")
        elif byte != 0x2E:
            raise _no_address(whole, "unexpected character", part[index:])
        elif digits == 0 or index == len(part) - 1:
            raise _no_address(whole, "IPv4 field must have at least one digit", part[index:])
        elif dots == 3:
            raise _no_address(whole, "IPv4 address too long")
        else:
            value, digits, dots = 0, 0, dots + 1
    if dots < 3:
        raise _no_address(whole, "IPv4 address too short")


def _check_ipv6(whole: bytes) -> None:
    rest, percent, zone = whole.partition(b"%")
    if percent and not zone:
        raise _no_address(whole, "zone must be a non-empty string")
    size, elided = 0, rest.startswith(b"::")
    if elided:
        rest = rest[2:]
        if not rest:
            return
    while size < 16:
        field = re.match(rb"[0-9A-Fa-f]*", rest)
        assert field is not None  # the pattern matches everywhere
        _check_ipv6_field(whole, rest, field[0])
        after = rest[field.end() :]
        if after.startswith(b"."):
            _check_embedded_ipv4(whole, rest, (size, elided))
            size, rest = size + 4, b""
            break
        size, rest = size + 2, after
        if not rest:
            break
        rest, double = _next_ipv6_field(whole, rest, elided)
        elided = elided or double
        if not rest:
            break
    _check_ipv6_size(whole, rest, (size, elided))


def _check_ipv6_field(whole: bytes, rest: bytes, field: bytes) -> None:
    if len(field) > 4:
        raise _no_address(whole, "each group must have 4 or less digits", rest)
    if not field:
        raise _no_address(whole, "each colon-separated field must have at least one digit", rest)


def _check_embedded_ipv4(whole: bytes, rest: bytes, seen: tuple[int, bool]) -> None:
    size, elided = seen
    if not elided and size != 12:
        raise _no_address(whole, "embedded IPv4 address must replace the final 2 fields of the address", rest)
    if size + 4 > 16:
        raise _no_address(whole, "too many hex fields to fit an embedded IPv4 at the end of the address", rest)
    _check_ipv4(whole, rest)


def _next_ipv6_field(whole: bytes, rest: bytes, elided: bool) -> tuple[bytes, bool]:
    if not rest.startswith(b":"):
        raise _no_address(whole, "unexpected character, want colon", rest)
    if len(rest) == 1:
        raise _no_address(whole, "colon must be followed by more characters", rest)
    if not rest.startswith(b"::"):
        return rest[1:], False
    if elided:
        raise _no_address(whole, "multiple :: in address", rest[1:])
    return rest[2:], True


def _check_ipv6_size(whole: bytes, rest: bytes, seen: tuple[int, bool]) -> None:
    size, elided = seen
    if rest:
        raise _no_address(whole, "trailing garbage after address", rest)
    if size < 16 and not elided:
        raise _no_address(whole, "address string too short")
    if size == 16 and elided:
        raise _no_address(whole, "the :: must expand to at least one field of zeros")


# -- escaping ---------------------------------------------------------------------------------------------------------


class _Part(Enum):
    PATH = "path"
    HOST = "host"
    ZONE = "zone"
    USERINFO = "userinfo"
    QUERY = "query"
    FRAGMENT = "fragment"


# The bytes beyond letters and digits that stand unescaped in each part (Go's shouldEscape).
_UNESCAPED = {
    part: _ALPHANUMERIC | frozenset(extra)
    for part, extra in {
        _Part.PATH: b"-_.~$&+,/:;=@",
        _Part.HOST: b"-_.~!$&'()*+,;=:[]<>\"",
        _Part.ZONE: b"-_.~!$&'()*+,;=:[]<>\"",
        _Part.USERINFO: b"-_.~$&+,;=",
        _Part.QUERY: b"-_.~",
        _Part.FRAGMENT: b"-_.~$&+,/:;=?@!()*",
    }.items()
}
# The bytes that stand for themselves in each part.
_DECODED = {
    part: (unescaped | set(range(0x80, 0x100)) if part in (_Part.HOST, _Part.ZONE) else set(range(0x100)))
    - {0x25, 0x2B}
    for part, unescaped in _UNESCAPED.items()
}
_VALID_ENCODED = frozenset(b"!$&'()*+,;=:@[]%")


def _escape(data: bytes, part: _Part) -> bytes:
    unescaped = _UNESCAPED[part]
    if unescaped.issuperset(data):
        return data
    escaped = b"".join(bytes((byte,)) if byte in unescaped else b"%%%02X" % byte for byte in data)
    return escaped.replace(b"%20", b"+") if part is _Part.QUERY else escaped


def _unescape(data: bytes, part: _Part) -> bytes:
    if _DECODED[part].issuperset(data):
        return data
    decoded, index = bytearray(), 0
    while index < len(data):
        byte = data[index]
        if byte == 0x25:
            decoded.append(_escaped_byte(data[index : index + 3], part))
            index += 3
            continue
        if part in (_Part.HOST, _Part.ZONE) and byte < 0x80 and byte not in _UNESCAPED[part]:
            raise _Refused("invalid character %q in host name", bytes((byte,)))
        decoded.append(0x20 if byte == 0x2B and part is _Part.QUERY else byte)
        index += 1
    return bytes(decoded)


def _escaped_byte(escape: bytes, part: _Part) -> int:
    if len(escape) < 3 or not _HEX.issuperset(escape[1:]):
        raise _Refused("invalid URL escape %q", escape)
    value = int(escape[1:], 16)
    if escape == b"%25":
        return value
    # A host may percent-encode only what is not ASCII; a zone only what could stand there as it is, or a space.
    if part is _Part.HOST and value < 0x80:
        raise _Refused("invalid URL escape %q", escape)
    if part is _Part.ZONE and value != 0x20 and value not in _UNESCAPED[_Part.HOST]:
        raise _Refused("invalid URL escape %q", escape)
    return value


def _escaped(decoded: str, raw: str, part: _Part) -> str:
    if raw and (_UNESCAPED[part] | _VALID_ENCODED).issuperset(go_bytes(raw)):
        try:
            if _unescape_text(raw, part) == decoded:
                return raw
        except _Refused:
            pass  # as Go: a raw form that does not fit is ignored
    return "*" if decoded == "*" and part is _Part.PATH else _escape_text(decoded, part)


def _without_query(url: GoUrl) -> str:
    start = f"{url.scheme}:" if url.scheme else ""
    if url.opaque:
        return start + url.opaque
    named = url.host or url.userinfo is not None
    if named or (url.scheme and url.path and not url.omit_host):
        start += "//"
    if url.userinfo is not None:
        start += url.userinfo.escaped() + "@"
    start += _escape_text(url.host, _Part.HOST)
    path = url.escaped_path()
    if path and not path.startswith("/") and url.host:
        return f"{start}/{path}"
    if not start and ":" in path.partition("/")[0]:
        return f"./{path}"
    return start + path


def _escape_text(text: str, part: _Part) -> str:
    return _text(_escape(go_bytes(text), part))


def _unescape_text(text: str, part: _Part) -> str:
    return _text(_unescape(go_bytes(text), part))


def _quoted(character: str) -> str:
    code = ord(character)
    if code in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[code]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
