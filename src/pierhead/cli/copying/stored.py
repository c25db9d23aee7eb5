"""Images of the store by the names people give them."""

from __future__ import annotations

from pierhead.layout import LayoutRepository, LayoutStore
from pierhead.reference import Digest, Reference
from pierhead.store import Name, NotFound, RepositoryName


def repository_of(store: LayoutStore, reference: Reference) -> LayoutRepository:
    """The repository of the store that images of this name are kept in."""
    return store.repository(RepositoryName.of(reference))


def find(store: LayoutStore, reference: Reference) -> Name:
    """An image of the store, by name or by the digest of any manifest that is there; raises `NotFound`."""
    repository = repository_of(store, reference)
    try:
        return _by_digest(repository, reference.digest) if reference.digest else repository.named(reference.object)
    except NotFound:
        hint = f"`pierhead images` lists what is there; `pierhead pull {reference}` brings it"
        raise NotFound(f"{reference} is not in the store {store.path}", hint=hint) from None


def _by_digest(repository: LayoutRepository, digest: Digest) -> Name:
    """A manifest of the repository; with the platforms of a name that it has, for of an index only those are there."""
    descriptor = repository.resolve(str(digest))
    platforms = (name.platforms for name in repository.names() if name.descriptor.digest == digest)
    return Name(repository.name, str(digest), descriptor, next(platforms, ()))


def digest_of(repository: LayoutRepository, name: str) -> Digest | None:
    """What a name points to now; None if there is none."""
    try:
        return repository.named(name).descriptor.digest
    except NotFound:
        return None
