"""The rule about patterns in another language than Go's: a shell's, or sed's with the slashes around them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pierhead.check.finding import Fix, Hit
from pierhead.check.patterns import ReadRewrite, visible
from pierhead.check.rule import rule
from pierhead.check.subject import Subject

_PLAIN: Final = r"\^?[a-z0-9][a-z0-9._/-]*"
_SHELL: Final = re.compile(rf"({_PLAIN}?)(/?)(?<!\.)\*(\$?)")  # rancher/* and rancher*, nothing cleverer
_SHELL_INSIDE: Final = re.compile(rf"{_PLAIN}/\*/.*")
_SLASHED: Final = re.compile(r"/\^.*|/.*\$/")
_STAR_AT_END: Final = re.compile(r"[^*$]*\*")


@rule(
    "R092",
    "pattern-of-a-shell",
    "warning",
    bad="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^rancher/*": "mirror/rancher"
""",
    good="""\
mirrors:
  docker.io:
    endpoint:
      - https://harbor.lan
    rewrite:
      "^rancher/(.*)$": "mirror/rancher/$1"
      "^longhornio.*": "mirror/longhorn"
""",
    sources=("k3s-io/k3s#11191", "https://docs.k3s.io/installation/private-registry#rewrites"),
)
def pattern_of_a_shell(subject: Subject) -> Iterator[Hit]:
    """The pattern is written as a shell or sed wants it, and means something else in Go.

    Patterns are regular expressions. A `*` repeats what stands before it: `rancher/*` is `rancher` with any number of
    slashes, so that `rancher/pause` loses its slash and keeps the rest. `.*` is any text, and `(.*)` any text that the
    replacement can have back as `$1`. Slashes around a pattern are a part of it, and no name begins or ends with one.
    """
    for it in (it for rewrites in subject.rewrites.values() for it in rewrites):
        pattern = it.written.pattern
        if it.compiled is None:
            continue  # the rule about patterns that do not compile has spoken
        if _SHELL.fullmatch(pattern.value) or _SHELL_INSIDE.fullmatch(pattern.value):
            message = f"{visible(pattern.value)} is written for a shell: here `*` repeats the character before it"
            yield Hit(
                pattern.span, message, "write `(.*)` for any text, and `$1` in the replacement", _in_go(subject, it)
            )
        elif _SLASHED.fullmatch(pattern.value):
            message = f"{visible(pattern.value)} matches nothing: the slashes around it are a part of it"
            yield Hit(pattern.span, message, "leave the slashes around it out")


def _in_go(subject: Subject, it: ReadRewrite) -> Fix | None:
    """Both texts as regular expressions, where the replacement has a * at its end, too."""
    found, replacement = _SHELL.fullmatch(it.written.pattern.value), it.written.replacement
    if found is None or not _STAR_AT_END.fullmatch(replacement.value):
        return None
    new = f"^{found[1].removeprefix('^')}{found[2]}(.*)$"
    if any(rewrite.pattern.value == new for rewrite in it.mirror.rewrites):
        return None
    source = subject.source
    edits = (
        source.rewritten(it.written.pattern.span, new),
        source.rewritten(replacement.span, f"{replacement.value[:-1]}$1"),
    )
    return source.fix("write `(.*)` and `$1`", *edits)
