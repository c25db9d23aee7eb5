"""Rules on the texts of `rewrite`: whether they reach containerd, and whether they mean anything there.

What they do to names is looked at in `repositories`. Specification, section 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from pierhead.check.finding import Fix, Hit
from pierhead.check.names import spoken
from pierhead.check.patterns import FOREIGN_GROUP, ReadRewrite, as_read, knows, portable, visible
from pierhead.check.rule import DOCUMENTATION, Example, rule
from pierhead.check.subject import Subject, UsedEndpoint
from pierhead.config.containerd import DEFAULT_DIRECTORY, Directory, is_localhost
from pierhead.config.registries import Text
from pierhead.rewriting import InvalidPattern, compile_pattern, group_names

# ── does it reach anything? ──


@rule(
    "R013",
    "rewrite-without-effect",
    "warning",
    bad="""\
mirrors:
  reg.lan:
    endpoint:
      - https://reg.lan
    rewrite:
      "^library/(.*)$": "dockerhub/$1"
""",
    good="""\
mirrors:
  reg.lan:
    endpoint:
      - https://reg.lan:443
    rewrite:
      "^library/(.*)$": "dockerhub/$1"
""",
    sources=("rancher/rke2#7431", "k3s-io/k3s#7007"),
)
def rewrite_without_effect(subject: Subject) -> Iterator[Hit]:
    """These rewrites apply to no endpoint.

    K3s applies rewrites to the endpoints that a mirror lists, never to the registry's own default endpoint, which is
    asked last. An endpoint that is written in last place and is the default endpoint (`https://reg.lan` of `reg.lan`)
    counts as the default: it loses its rewrites. Until January 2024 rewrites applied there, too, so they stop at an
    upgrade.

    K3s compares endpoints as texts. The same place in another spelling (`https://reg.lan:443`, or with `/v2/` at its
    end) is an ordinary endpoint and keeps its rewrites. Note that `configs` is then looked up under `reg.lan:443`; the
    spelling with `/v2/` leaves that as it is.
    """
    lost = {problem.span for problem in subject.problems_of("rewrites-not-for-default")}
    by_mirror = groupby(subject.endpoints, lambda endpoint: endpoint.mirror.key.value)
    usable = {key: list(endpoints) for key, endpoints in by_mirror}
    for key in subject.rewrites:
        for used in usable.get(key, ())[-1:]:
            if used.text.span in lost:
                yield _default_in_last_place(subject, used, others=len(usable[key]) > 1)


def _default_in_last_place(subject: Subject, used: UsedEndpoint, *, others: bool) -> Hit:
    other = _other_spelling(subject, used)
    fix = None
    if not others and not re.search("[@?#]", used.text.value):
        fix = subject.source.fix(f"write {spoken(other)}", subject.source.rewritten(used.text.span, other))
    apply = "they apply to the endpoints before it only" if others else "they have no effect"
    return Hit(
        used.text.span,
        f"this is the default endpoint of {spoken(used.mirror.key.value)}, in last place, where K3s drops the "
        f"rewrites: {apply}",
        f"write {spoken(other)}, which K3s takes for another endpoint, if the rewrites are to apply to it",
        fix,
        "note" if others else "warning",
    )


def _other_spelling(subject: Subject, used: UsedEndpoint) -> str:
    """The same place, and the same entry of `configs`, spelled so that K3s does not see the default endpoint."""
    hub = {"docker.io", "registry-1.docker.io"}
    keys = hub if used.lookup in hub else {used.lookup}
    if used.url.scheme == "https" and not used.url.port and keys.isdisjoint(subject.config.configs):
        return f"https://{used.host}:443"
    return f"{used.url.scheme}://{used.host}/v2/"


@rule(
    "R036",
    "embedded-rewrite",
    "warning",
    bad=Example(
        """\
mirrors:
  docker.io:
    rewrite:
      "^library/(.*)$": "dockerhub/$1"
""",
        flags=("--embedded-registry 127.0.0.1:6443",),
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://cache.lan
    rewrite:
      "^library/(.*)$": "dockerhub/$1"
""",
        flags=("--embedded-registry 127.0.0.1:6443",),
    ),
    sources=("https://docs.k3s.io/installation/registry-mirror",),
)
def embedded_rewrite(subject: Subject) -> Iterator[Hit]:
    """Rewrites do not apply to the embedded registry.

    With `--embedded-registry` the other nodes are asked first, under the image's own name: they hold it under that
    name. A mirror that lists no endpoint besides has rewrites for nothing.
    """
    if subject.flags.embedded_registry is None:
        return
    for key, rewrites in subject.rewrites.items():
        if not subject.config.mirrors[key].endpoints and not is_localhost(key):
            yield Hit(
                rewrites[0].written.pattern.span,
                f"the mirror {spoken(key)} has no endpoint but the embedded registry, which K3s asks without rewrites: "
                "they have no effect",
                "list the endpoint that holds the images under the new names, or take the rewrites out",
            )


@rule(
    "R090",
    "rewrite-unknown-to-containerd",
    "error",
    bad=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^(.*)$": "dockerhub/$1"
""",
        flags=("--client containerd",),
    ),
    good=Example(
        """\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan/v2/dockerhub
""",
        flags=("--client containerd",),
    ),
    sources=("containerd/containerd#11625", "containerd/containerd#5171"),
)
def rewrite_unknown_to_containerd(subject: Subject) -> Iterator[Hit]:
    """containerd outside K3s and RKE2 has no rewrites.

    `rewrite` in hosts.toml is a patch of K3s' own build of containerd. The project's releases leave the table out
    without a word and ask for the image under its own name.
    """
    if subject.circumstances.client != "containerd":
        return
    for rewrites in subject.rewrites.values():
        yield Hit(
            rewrites[0].written.pattern.span,
            "containerd outside K3s knows no rewrites: it asks for the image under its own name",
            "serve the images under their own names, or put the prefix into the endpoint's path (/v2/prefix)",
        )


# ── can it be read? ──

_LOOK_AROUND: Final = re.compile(r"\(\?<?[=!]")
_BACK_REFERENCE: Final = re.compile(r"\\[1-9]|\\[kg][<{]|\(\?P=")
_ATOMIC: Final = re.compile(r"[*+?}]\+|\(\?>")


@rule(
    "R014",
    "rewrite-not-re2",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^(?!library/)(.*)$": "dockerhub/$1"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^(acme|rancher)/(.*)$": "dockerhub/$1/$2"
""",
    sources=("rancher/rke2#3227",),
)
def rewrite_not_re2(subject: Subject) -> Iterator[Hit]:
    """The pattern of a rewrite is not a regular expression of Go's.

    Patterns are Go's regular expressions (RE2): no look-ahead, no look-behind, no back-references. containerd logs
    "Failed to compile rewrite" and goes on without the rule, so images are asked for under their own names.
    """
    for rewrites in subject.rewrites.values():
        for it in rewrites:
            if it.refused:
                why, remedy = _refusal(it)
                shown = visible(it.written.pattern.value)
                message = f"{shown} does not compile, and the rule is skipped: {why}"
                yield Hit(it.written.pattern.span, message, remedy)


def _refusal(it: ReadRewrite) -> tuple[str, str]:
    pattern = it.pattern or ""
    if found := _LOOK_AROUND.search(pattern):
        return (
            f"Go's expressions have no look-around ({visible(found[0])})",
            "say which names the rule is for, as in `^(acme|rancher)/(.*)$`, instead of which it is not for",
        )
    if found := _BACK_REFERENCE.search(pattern):
        return f"Go's expressions have no back-references ({visible(found[0])})", "write out what is to be repeated"
    if found := _ATOMIC.search(pattern):
        return (
            f"Go's expressions have neither possessive quantifiers nor atomic groups ({visible(found[0])})",
            "leave it out",
        )
    if pattern.startswith("*"):
        return "* repeats what stands before it, and nothing does", "write `.*` for any text"
    return _shortened(it.refused), "correct it: https://github.com/google/re2/wiki/Syntax says what there is"


def _shortened(refused: str) -> str:
    start = refused.removeprefix("error parsing regexp: ")
    return visible(start)[1:-1]


# ── groups ──


@rule(
    "R015",
    "rewrite-group",
    "error",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^rancher/.*": "mirror/$1"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^rancher/(.*)": "mirror/${1}_x"
""",
    sources=("k3s-io/k3s#11191",),
)
def rewrite_group(subject: Subject) -> Iterator[Hit]:
    """The replacement of a rewrite uses a group that the pattern does not have.

    Groups are what stands in parentheses; `$1` is the first, `${name}` is `(?P<name>…)`. What there is not, stands for
    nothing: the rest of the name is lost. A name goes on as long as letters, digits and underscores follow, so `$1_x`
    is a group called `1_x`: write `${1}_x`. `\\1` is no group at all, and the backslash makes hosts.toml unreadable.
    """
    for rewrites in subject.rewrites.values():
        for it in rewrites:
            if FOREIGN_GROUP.search(it.written.replacement.value):
                yield _foreign_group(subject, it)
            elif it.compiled is not None and it.replacement is not None:
                unknown = dict.fromkeys(n for n in group_names(it.replacement) if not knows(it.compiled, n))
                yield from (_unknown_group(subject, it, name) for name in unknown)


def _foreign_group(subject: Subject, it: ReadRewrite) -> Hit:
    text = it.written.replacement
    fixed = FOREIGN_GROUP.sub(_in_go, text.value)
    names = group_names(fixed)
    fix = None
    if it.compiled is not None and as_read(fixed) is not None and all(knows(it.compiled, name) for name in names):
        fix = subject.source.fix(f"write {visible(fixed)}", subject.source.rewritten(text.span, fixed))
    if it.replacement is None:
        effect = "containerd cannot read hosts.toml with it and ignores the mirrors of this registry"
    else:
        effect = "it becomes part of the name as it stands"
    message = f"{visible(text.value)} names a group with a backslash, which is not Go's way: {effect}"
    return Hit(text.span, message, f"write {visible(fixed)}", fix)


def _in_go(found: re.Match[str]) -> str:
    name = found["digit"] or found["name"]
    return f"${{{name}}}" if found["word"] is not None or found["name"] else f"${name}"


def _unknown_group(subject: Subject, it: ReadRewrite, name: str) -> Hit:
    pattern, replacement = it.written.pattern, it.written.replacement
    assert it.compiled is not None  # the caller knows
    glued = re.fullmatch(r"([0-9]+)(\D.*)", name)
    if glued and knows(it.compiled, glued[1]):
        right = f"${{{glued[1]}}}{glued[2]}"
        text = _uses(name).sub(lambda _: right, replacement.value)
        fix = subject.source.fix(f"write {visible(right)}", subject.source.rewritten(replacement.span, text))
        message = (
            f"Go reads {visible(f'${name}')} as a group {visible(name)}, which there is not, so it stands for nothing"
        )
        return Hit(replacement.span, message, f"write {visible(right)}", fix)
    message = f"{visible(pattern.value)} has no group {visible(name)}, so {visible(f'${name}')} stands for nothing"
    if len(it.compiled.names) > 1:
        remedy = f"use a group that there is ({', '.join(_group_list(it))}), or put what is meant in parentheses"
        return Hit(replacement.span, message, remedy)
    return _no_groups(subject, it, name, message)


def _uses(name: str) -> re.Pattern[str]:
    """A group where a replacement uses it, with braces or without."""
    return re.compile(rf"\${name}(?!\w)|\$\{{{name}\}}")


def _group_list(it: ReadRewrite) -> list[str]:
    assert it.compiled is not None
    return [f"${{{name}}}" if name else f"${number}" for number, name in enumerate(it.compiled.names) if number][:9]


def _no_groups(subject: Subject, it: ReadRewrite, name: str, message: str) -> Hit:
    """The pattern has no parentheses: either they were forgotten, or what is behind the match stays anyway."""
    pattern, replacement = it.written.pattern, it.written.replacement
    wild = re.findall(r"\.[*+]", pattern.value)
    if len(wild) == 1 and name == "1" and group_names(replacement.value) == (name,):
        text = pattern.value.replace(wild[0], f"({wild[0]})")
        fix = subject.source.fix(f"put {visible(wild[0])} in parentheses", subject.source.rewritten(pattern.span, text))
        return Hit(replacement.span, message, f"put what is to be kept in parentheses: {visible(text)}", fix)
    if name.isdigit() and not re.search(r"[*+?{]", pattern.value):
        text = _uses(name).sub("", replacement.value)
        fix = subject.source.fix(f"leave {visible(f'${name}')} out", subject.source.rewritten(replacement.span, text))
        remedy = f"write {visible(text)}: what stands behind the match stays as it is"
        return Hit(replacement.span, message, remedy, fix, "warning")
    return Hit(replacement.span, message, "put what is to be kept in parentheses")


# ── the TOML detour ──

_ESCAPE: Final = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.|\Z)", re.DOTALL)
_TOML_ESCAPES: Final = re.compile(r"\\(?:[\"\\bfnrte]|u.{4}|U.{8})")
_BECOMES: Final = {"\b": "a backspace", "\t": "a tab", "\n": "a line break", "\f": "a form feed", "\r": "a line break"}


@rule(
    "R018",
    "rewrite-backslash",
    "error",
    bad=r"""
mirrors:
  quay.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      '^jetstack/(.*)-v\d+\.x$': 'quay/jetstack/$1'
""",
    good=r"""
mirrors:
  quay.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      '^jetstack/(.*)-v[0-9]+\\.x$': 'quay/jetstack/$1'
""",
    sources=(DOCUMENTATION,),
)
def rewrite_backslash(subject: Subject) -> Iterator[Hit]:
    """A rewrite does not survive the way into hosts.toml.

    K3s writes both texts of a rewrite between double quotes without escaping them. TOML then reads a backslash as the
    start of an escape of its own. `\\.` or `\\d` is none, so containerd cannot read the file, ignores it, and asks the
    registry itself: no mirror at all, even with `--disable-default-registry-endpoint`. `\\b` is one, a backspace, so
    the pattern matches nothing. The same goes for a quote and a line break.

    `[.]`, `[0-9]` and the like need no backslash. A backslash written twice reaches containerd as one; RKE2's bootstrap
    puller reads the file itself and sees two.
    """
    for key, rewrites in subject.rewrites.items():
        directory = _directory(subject, key)
        if directory is None or not (directory.unusable or any(host.rewrites for host in directory.hosts)):
            continue  # nothing of them is written
        for it in rewrites:
            texts = ((it.written.pattern, it.pattern), (it.written.replacement, it.replacement))
            for text, read in texts:
                cause = _doubled(text) if subject.circumstances.client == "wharfie" else _damage(text, read, key)
                if cause and not _is_group(it, text):
                    fix = _unescaped(subject, it, text)
                    yield Hit(text.span, cause, _remedy(text.value, fix), fix)


def _directory(subject: Subject, key: str) -> Directory | None:
    if subject.hosts is None:
        return None
    return subject.hosts.tree.directories.get(DEFAULT_DIRECTORY if key == "*" else key)


def _doubled(text: Text) -> str | None:
    """For RKE2's bootstrap puller, which knows no detour."""
    if "\\\\" not in text.value:
        return None
    return f"{visible(text.value)} is read as written by RKE2's bootstrap puller: two backslashes match a backslash"


def _damage(text: Text, read: str | None, key: str) -> str | None:
    shown = visible(text.value)
    if read is None:
        whose = "the wildcard" if key == "*" else spoken(key)
        effect = f"containerd cannot read the file and ignores every endpoint of {whose}"
        return f"K3s writes {shown} into hosts.toml as it stands, where {_offence(text.value)}: {effect}"
    became = next((character for character in read if character < " " or character == "\x7f"), None)
    if became is None:
        return None
    name = _BECOMES.get(became, "a control character")
    return f"{shown} reaches containerd with {name} in it, because TOML reads the backslash: it matches no image"


def _offence(text: str) -> str:
    unknown = [found[0] for found in _ESCAPE.finditer(text) if not _TOML_ESCAPES.fullmatch(found[0])]
    if unknown and len(unknown[0]) > 1:
        return f"TOML knows no {' and no '.join(dict.fromkeys(map(_bare, unknown)))}"
    if unknown:
        return "the last backslash hides the closing quote"
    return "a quote ends it early" if '"' in text else "line breaks and control characters are not allowed"


def _bare(text: str) -> str:
    return visible(text)[1:-1]


def _is_group(it: ReadRewrite, text: Text) -> bool:
    """Whether a replacement is only wrong in how it names groups, which is another rule's."""
    return (
        text is it.written.replacement
        and as_read(FOREIGN_GROUP.sub("", text.value)) is not None
        and (FOREIGN_GROUP.search(text.value) is not None)
    )


def _unescaped(subject: Subject, it: ReadRewrite, text: Text) -> Fix | None:
    is_pattern = text is it.written.pattern
    new = portable(_single(subject, text.value)) if is_pattern else re.sub(r"\\([^0-9A-Za-z\\\"])", r"\1", text.value)
    read = as_read(new)
    others = {rewrite.pattern.value for rewrite in it.mirror.rewrites}
    if subject.circumstances.client == "wharfie" and "\\" in new:
        return None  # one spelling for both is not to be had
    if read is None or not read.isprintable() or '"' in read or (is_pattern and (new in others or not _compiles(read))):
        return None
    return subject.source.fix(f"write {visible(new)}", subject.source.rewritten(text.span, new))


def _single(subject: Subject, text: str) -> str:
    return text.replace("\\\\", "\\") if subject.circumstances.client == "wharfie" else text


def _compiles(pattern: str) -> bool:
    try:
        compile_pattern(pattern)
    except InvalidPattern:
        return False
    return True


def _remedy(text: str, fix: Fix | None) -> str:
    if fix is not None:
        return fix.description
    if "\\" in text:
        return r"write `[.]` for `\.` and `[0-9]` for `\d`, or every backslash twice"
    return "leave the character out: no image has one like it in its name"
