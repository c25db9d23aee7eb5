"""Which entries of an archive are no images of their own: signatures and other things that refer to what is in it.

An entry with a full name is an image, whatever else it is. One without refers to something if the `subject` of its
manifest is in the archive, or its name is a tag that cosign gives to a digest that is (`store.tag_of`), be it of an
image, of a platform of it, or of another referrer. So ORAS writes layouts, and so do `copy` and `save --referrers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from pierhead.archive.named import ArchivedImage
from pierhead.errors import PierheadError
from pierhead.oci import Descriptor, Index
from pierhead.reference import Digest
from pierhead.store import COSIGN_SUFFIXES, Referrer, Source, as_referrer, follow_referrers, tag_of
from pierhead.tree import parsed


class Referring:
    """What the entries of an archive refer to, as their manifests and names say.

    `unread` is why entries without a full name could not be read: any of them might refer to anything.
    """

    def __init__(self, content: Source, entries: Sequence[ArchivedImage]) -> None:
        self.unread: list[PierheadError] = []
        self._content = content
        self._entries = entries
        self._by_subject: dict[Digest, list[Descriptor]] = {}
        self._with_subject: set[Digest] = set()
        self._by_tag = {entry.name: entry.descriptor for entry in entries if _is_cosigns(entry)}
        for entry in {entry.descriptor.digest: entry for entry in entries}.values():  # one may have many names
            self._note(entry)

    def listed(self, subject: Digest) -> Sequence[Descriptor]:
        """The entries with this subject, as a registry lists them."""
        return self._by_subject.get(subject, ())

    def to(self, subjects: Iterable[Digest]) -> Iterator[Referrer]:
        """What refers to any of these manifests, and what refers to that."""
        return follow_referrers(self._directly, subjects)

    def images(self) -> tuple[ArchivedImage, ...]:
        """The entries that have a full name, or do not refer to an image of this archive."""
        images = [entry for entry in self._entries if not self._may_refer(entry)]
        found = list(self.to(self._manifests(images)))
        tags = {referrer.tag for referrer in found if referrer.tag}
        digests = {referrer.descriptor.digest for referrer in found if not referrer.tag}

        def refers(entry: ArchivedImage) -> bool:
            return self._may_refer(entry) and (entry.name in tags or entry.descriptor.digest in digests)

        return tuple(entry for entry in self._entries if not refers(entry))

    def _may_refer(self, entry: ArchivedImage) -> bool:
        return entry.reference is None and (_is_cosigns(entry) or entry.descriptor.digest in self._with_subject)

    def _note(self, entry: ArchivedImage) -> None:
        """Take note of the subject of an entry, if it has one."""
        try:
            manifest = parsed(self._content.manifest(entry.descriptor), entry.descriptor.media_type)
        except PierheadError as error:  # told by whoever wants this very image, if it has a name to be wanted by
            self.unread += [error] if entry.reference is None else []
            return
        if manifest.subject is not None:
            known = Descriptor(manifest.media_type, entry.descriptor.digest, entry.descriptor.size_bytes)
            self._by_subject.setdefault(manifest.subject.digest, []).append(as_referrer(manifest, known))
            self._with_subject.add(known.digest)

    def _directly(self, subject: Digest) -> Iterator[Referrer]:
        yield from (Referrer(descriptor, subject) for descriptor in self.listed(subject))
        for suffix in COSIGN_SUFFIXES:
            tag = tag_of(subject) + suffix
            if tag in self._by_tag:
                yield Referrer(self._by_tag[tag], subject, tag)

    def _manifests(self, images: Iterable[ArchivedImage]) -> Iterator[Digest]:
        """Every manifest of these images that is in the archive."""
        waiting, seen = [image.descriptor for image in images], set[Digest]()
        while waiting:
            descriptor = waiting.pop()
            if descriptor.digest in seen:
                continue
            seen.add(descriptor.digest)
            with suppress(PierheadError):  # left out for its platform, or damaged: told by whoever wants the image
                manifest = parsed(self._content.manifest(descriptor), descriptor.media_type)
                yield descriptor.digest
                if isinstance(manifest, Index):
                    waiting += [item for item in manifest.references if item.is_manifest]


def _is_cosigns(entry: ArchivedImage) -> bool:
    """Whether a name is a tag as cosign gives them, to whatever digest."""
    return entry.reference is None and entry.name.endswith(COSIGN_SUFFIXES)
