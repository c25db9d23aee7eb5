"""The images that YAML or JSON for Kubernetes names: manifests, rendered Helm output, Helm values, kustomizations.

Nothing is rendered and no chart is known, so an image is taken where a key says that it is one; what is only likely
becomes a note with its place. Aliases are looked at where a value is one, never followed into: a file cannot be made to
mean more than it holds.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field, replace
from typing import Final

from pierhead.errors import Problem, Severity, Span
from pierhead.image_names.tree import Node, Path, Place, TooMuch, compose
from pierhead.reference import InvalidReference, Reference, tag_beside_digest

NODES_LIMIT: Final = 1_000_000  # of one document
TEXT_LIMIT_CHARS: Final = 4096  # of what may be a name
NESTED_LIMIT: Final = 3  # YAML in a string of YAML in a string of YAML
PROBLEMS_LIMIT: Final = 1000  # of one file

_SEPARATOR: Final = re.compile(r"^---(?=[ \t\r\n]|$)", re.MULTILINE)
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_PLACEHOLDER: Final = re.compile(r"\{\{|\$\{|\$\(|<%|\$[A-Z_]{2}")
_LIKELY_KEY: Final = re.compile(r"(?:[A-Za-z0-9]Image|IMAGE|[_-]image)\Z|\ARELATED_IMAGE_.")
_NESTED_KEYS: Final = ("values", "valuesContent")  # of Argo CD's applications, of K3s' HelmCharts
_NESTED_SUFFIXES: Final = (".yaml", ".yml", ".json")  # of a ConfigMap
_ARGUMENT: Final = re.compile(r"--?([A-Za-z0-9][\w.-]*)=(\S+)")
_IMAGE_FLAG: Final = re.compile(r"(?i)image\Z")
_CONTAINERS: Final = frozenset({"containers", "initContainers", "ephemeralContainers"})


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image, where it is named, and under which key: `spec.containers[0].image`. `text` is as written there."""

    reference: Reference
    text: str
    span: Span
    path: str

    @property
    def tag(self) -> str:
        """The tag that stands beside a digest."""
        return tag_beside_digest(self.text)

    @property
    def name(self) -> str:
        """The full name, a tag beside a digest included: who puts the image somewhere can give it that name too."""
        return f"{self.reference.name}:{self.tag}@{self.reference.digest}" if self.tag else str(self.reference)


def find_images(data: bytes, file: str) -> tuple[tuple[FoundImage, ...], tuple[Problem, ...]]:
    """Every image that the documents in `data` name, in order, as often as they do; and what could not be told.

    Never raises on content. `file` is how the user named it. A document that cannot be parsed is a problem of its own,
    those beside it are read.
    """
    search = _Search(file)
    search.text(_decoded(data), Place(file))
    return tuple(search.images), tuple(search.problems)


def _decoded(data: bytes) -> str:
    bom, encoding = next((pair for pair in _BOMS if data.startswith(pair[0])), (b"", "utf-8"))
    # What cannot be decoded is in no image's name, and spoils nothing but the value it is in.
    return data.removeprefix(bom).decode(encoding, "replace")


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Search:
    """What was found in one file so far."""

    file: str
    images: list[FoundImage] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def text(self, text: str, place: Place, nested: int = 0) -> None:
        """Every document of a text, each by itself, so that one that is broken spoils no other."""
        start, line = 0, place.line
        for end in (*(found.start() for found in _SEPARATOR.finditer(text)), len(text)):
            document = text[start:end]
            if document.strip():
                self._document(document, replace(place, line=line), nested)
            start, line = end, line + document.count("\n")

    def _document(self, text: str, place: Place, nested: int) -> None:
        import yaml

        beginning = place.fixed or Span(place.file, place.line + 1)
        try:
            roots = list(compose(text, place, NODES_LIMIT))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = place.span((mark.line, mark.line), (mark.column, mark.column)) if mark else beginning
            self._unreadable(at, error.problem, text)
        except yaml.YAMLError as error:
            self._unreadable(beginning, getattr(error, "reason", None), text)
        except TooMuch as error:
            self._unreadable(beginning, str(error), text)
        else:
            for root in roots:
                self._walk(root, _Text(text, place, nested))

    def _unreadable(self, span: Span, reason: str | None, text: str) -> None:
        if all(line.lstrip()[:1] in ("", "#", "%") for line in text.splitlines()):
            return  # directives, which stand before the `---` of their document
        reason = reason or "it is no YAML"
        hint = "; a template must be rendered first, as with `helm template`" if "{{" in text else ""
        message = f"the document cannot be read and is left out: {reason[:200]}{hint}"
        self._tell("unreadable-document", "error", message, span)

    def _tell(self, id: str, severity: Severity, message: str, span: Span) -> None:
        if len(self.problems) < PROBLEMS_LIMIT:
            self.problems.append(Problem(id, severity, message, span))
        elif len(self.problems) == PROBLEMS_LIMIT:
            message = f"more than {PROBLEMS_LIMIT} problems in one file; the others are not told"
            self.problems.append(Problem("too-many-problems", "error", message, span))

    # ── looking ──

    def _walk(self, root: Node, text: _Text) -> None:
        """Every mapping of a document, in order."""
        if root.kind == "mapping":
            self._note_global_registry(root)
        waiting: list[tuple[Node, Path | None]] = [(root, text.place.above)]
        while waiting:
            node, path = waiting.pop()
            if node.kind == "sequence":
                items = [(child, Path(path, number)) for number, child in enumerate(node.children)]
                waiting += reversed(items)
            elif node.kind == "mapping":
                self._environment(node, path)
                below: list[tuple[Node, Path | None]] = []
                for key, value in node.pairs():
                    here = Path(path, key.value)
                    looked = _Looked(node, key.value, value, here, text)
                    if not self._take(looked) and value.kind != "alias":
                        below.append((value, here))
                waiting += reversed(below)

    def _take(self, looked: _Looked) -> bool:
        """Take what a key names; whether that is all there is to it."""
        key, value = looked.key, looked.value.resolved
        if key == "image" or _LIKELY_KEY.search(key):
            if looked.is_placeholder:
                self._placeholder(looked.value.span)
                return True
            if value.kind == "scalar":
                self._scalar(looked)
                return True
            return self._parts(looked)
        if key == "images" and looked.value.kind == "sequence":
            self._listed(looked)
        if key in ("command", "args") and looked.in_container and looked.value.kind == "sequence":
            self._arguments(looked)
        if value.kind == "mapping" and value.get("repository") and (value.get("tag") or value.get("digest")):
            return self._parts(looked)
        if looked.is_nested:
            self.text(looked.value.value, looked.inside(), looked.document.nested + 1)
        return False

    def _scalar(self, looked: _Looked) -> None:
        """A name in one piece; under a key that only may mean an image it must say which, by tag or digest."""
        value, holder = looked.value.resolved, looked.holder
        text, certain = value.string, looked.key == "image"
        if not text or value.is_number or len(text) > TEXT_LIMIT_CHARS:
            return
        tag = holder.text("tag") or holder.text("imageTag") if certain and not _is_whole(text) else ""
        if tag:
            self._add(f"{text}:{tag}", looked, strict=False)
            message = f"{text!r} and the tag {tag!r} beside it are taken for one image"
            self._tell("joined-image", "note", message, looked.value.span)
        elif certain or _is_whole(text):
            self._add(text, looked, strict=certain and looked.in_container)
        elif _parsed(text) is not None:
            message = f"{looked.key} may be an image, but has no tag and no digest: {text!r} is left out"
            self._tell("likely-image", "note", message, looked.value.span)

    def _parts(self, looked: _Looked) -> bool:
        """An image in parts, as Helm charts have it: registry, repository, tag, digest. Or a volume's reference."""
        value = looked.value.resolved
        if value.kind != "mapping":
            return False
        if reference := value.text("reference"):
            self._add(reference, looked, strict=False)
            return True
        repository = value.text("repository")
        if not repository or "://" in repository:
            return False
        registry, digest, tag = value.text("registry").rstrip("/"), value.text("digest"), self._tag(value)
        parts = (registry, repository, tag, digest)
        if any(_PLACEHOLDER.search(part) for part in parts):
            self._placeholder(looked.value.span)
            return True
        name = f"{registry}/{repository}" if registry else repository
        if digest or tag.startswith("sha256:"):
            self._add(_pinned(name, tag, digest) if digest else f"{name}@{tag}", looked, strict=True)
        elif tag or _is_whole(name):
            self._add(f"{name}:{tag}" if tag else name, looked, strict=True)
        else:
            message = f"{name!r} has no tag here: the chart adds one, mostly its appVersion; it is left out"
            self._tell("image-without-tag", "warning", message, looked.value.span)
        return True

    def _tag(self, value: Node) -> str:
        """The tag; of a number what Helm makes of it, which reads values as JSON."""
        node, text = value.get("tag"), value.text("tag")
        if node is None or not node.is_number or "." not in text or len(text) > 15:
            return text
        made = repr(float(text)).removesuffix(".0")
        if made != text:
            message = f"the tag {text} is a number without quotes: Helm makes {made} of it, which is taken"
            self._tell("number-as-tag", "warning", message, node.span)
        return made

    def _listed(self, looked: _Looked) -> None:
        """`images`: names, or what kustomize puts in the place of other images."""
        for number, item in enumerate(looked.value.children):
            here = _Looked(item, "images", item, Path(looked.path, number), looked.document)
            if item.resolved.kind == "mapping" and item.get("name"):
                self._kustomized(item, here)
            elif _is_whole(item.string):
                self._add(item.string, here, strict=False)

    def _kustomized(self, item: Node, here: _Looked) -> None:
        name, digest, tag = item.text("newName") or item.text("name"), item.text("digest"), item.text("newTag")
        if any(_PLACEHOLDER.search(part) for part in (name, digest, tag)):
            self._placeholder(item.span)
        elif digest or tag or _is_whole(name):
            self._add(_pinned(name, tag, digest) if digest else f"{name}:{tag}" if tag else name, here, strict=True)
        elif item.get("newName"):
            message = f"{name!r} gets its tag from the manifests: it is left out; `kustomize build` knows it"
            self._tell("image-without-tag", "warning", message, item.span)

    def _environment(self, node: Node, path: Path | None) -> None:
        """An item of `env` whose name says that its value is an image."""
        if path is None or not path.ends(frozenset({"env"})):
            return
        name, value = node.text("name"), node.get("value")
        if value is not None and value.kind == "scalar" and _LIKELY_KEY.search(name):
            looked = _Looked(node, name, value, Path(path, "value"), _Text("", Place(self.file), NESTED_LIMIT))
            if _PLACEHOLDER.search(value.value):
                self._placeholder(value.span)
            else:
                self._scalar(looked)

    def _arguments(self, looked: _Looked) -> None:
        """What a container is told of images that it will ask for itself: `--acme-http01-solver-image=NAME`."""
        for number, item in enumerate(looked.value.children):
            argument = _ARGUMENT.fullmatch(item.value) if len(item.value) <= TEXT_LIMIT_CHARS else None
            if argument is not None and _is_whole(argument[2]):
                here = replace(looked, value=item, path=Path(looked.path, number))
                self._argument(argument[1], argument[2], here)

    def _argument(self, name: str, text: str, looked: _Looked) -> None:
        """Under any other name than one of an image it may be a server's `host:port`: only a full name is told."""
        if _IMAGE_FLAG.search(name):
            self._add(text, looked, strict=False)
        elif text.startswith(f"{Reference.parse(text).registry}/"):
            message = f"the argument {name} may be an image: {text!r} is left out"
            self._tell("likely-image", "note", message, looked.value.span)

    def _note_global_registry(self, root: Node) -> None:
        settings = root.get("global")
        node = settings.get("imageRegistry") if settings is not None else None
        if node is not None and node.string:
            message = "global.imageRegistry: charts that know it put it in the place of every registry; it is not here"
            self._tell("global-registry", "note", message, node.span)

    def _add(self, text: str, looked: _Looked, *, strict: bool) -> None:
        """Take `text` for an image; if it is none, that is a problem where nothing else can stand (`strict`)."""
        if len(text) > TEXT_LIMIT_CHARS:
            return
        try:
            reference = Reference.parse(text)
        except InvalidReference as error:
            if _PLACEHOLDER.search(text):
                self._placeholder(looked.value.span)
            elif strict:
                self._tell("invalid-image", "error", error.message, looked.value.span)
            return
        self.images.append(FoundImage(reference, text, looked.value.span, str(looked.path)))

    def _placeholder(self, span: Span) -> None:
        message = "a placeholder stands where an image should be: render the template first, as with `helm template`"
        self._tell("placeholder", "error", message, span)


@dataclass(frozen=True, slots=True)
class _Text:
    """The text of a document, where it stands, and in how many strings."""

    text: str
    place: Place
    nested: int


@dataclass(frozen=True, slots=True)
class _Looked:
    """A key and its value, in the mapping that holds them."""

    holder: Node
    key: str
    value: Node
    path: Path
    document: _Text

    @property
    def is_placeholder(self) -> bool:
        """Whether the value is one of a template: `{{ … }}` without quotes is a mapping to YAML."""
        value = self.value.resolved
        if value.kind == "mapping":
            return self.document.text.startswith("{{", self.value.start)
        return value.kind == "scalar" and _PLACEHOLDER.search(value.value) is not None

    @property
    def in_container(self) -> bool:
        return self.path.parent is not None and self.path.parent.ends(_CONTAINERS)

    @property
    def is_nested(self) -> bool:
        """Whether the value is YAML in a string; one that an alias repeats was read where it stands."""
        named = self.key in _NESTED_KEYS or self.key.endswith(_NESTED_SUFFIXES)
        is_text = self.value.kind == "scalar" and "\n" in self.value.value
        return named and is_text and self.document.nested < NESTED_LIMIT

    def inside(self) -> Place:
        """Where the lines of the value stand: below its `|`, as deep as the first of them."""
        node, place = self.value, self.document.place
        text = self.document.text
        below = text.find("\n", node.start) + 1
        first = text[below : text.find("\n", below)]
        if place.fixed or not text.startswith("|", node.start) or not first.strip() or node.value[:1] == " ":
            return Place(place.file, above=self.path, fixed=node.span)
        column = place.column + len(first) - len(first.lstrip(" "))
        return Place(place.file, node.span.line, column, self.path)


def _pinned(name: str, tag: str, digest: str) -> str:
    """The name with its digest, and with the tag if it can stand there."""
    tagged = f"{name}:{tag}@{digest}"
    return tagged if tag and _parsed(tagged) is not None else f"{name}@{digest}"


def _parsed(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except InvalidReference:
        return None


def _is_whole(text: str) -> bool:
    """Whether a reference says which: by a tag or a digest."""
    reference = _parsed(text)
    return reference is not None and ("@" in text or ":" in text.rpartition("/")[2])
