"""What refers to an image is found in every way there is, and comes along with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from images import make_image
from loopback import Handler, Loopback
from pierhead.body import BytesBlob
from pierhead.client import Remote
from pierhead.layout import LayoutStore
from pierhead.memory import MemoryStore
from pierhead.oci import OCI_INDEX, OCI_MANIFEST, Descriptor
from pierhead.push import RemoteSink
from pierhead.reference import Digest
from pierhead.referrers import (
    REFERRERS_LIMIT,
    CopiedReferrers,
    ReferrersUnknown,
    copy_referrers,
    find_all_referrers,
    find_referrers,
    list_subjects,
    read_referrers,
)
from pierhead.routing import push_route
from pierhead.server.registry import Registry
from pierhead.store import Repository, RepositoryName, Sink, Source, tag_of
from pierhead.transfer import Transfer
from pierhead.transport import Cause, TransportError
from pierhead.tree import Tree
from pierhead.wire import Headers, Request, Response
from pushing import HOST, Pushing, Shaky
from scripted import route, said
from stocked import Broken, Tap, remote_of, stock
from store_contract import blob_of, index_of, put_image

IMAGE = make_image(layers=[500], platforms=["linux/amd64", "linux/arm64"], compression="none")
TOP = Digest.parse(IMAGE.digest)
CHILDREN = [Digest.parse(item["digest"]) for item in IMAGE.manifest["manifests"]]
NAME = RepositoryName("team/app")
COPY = RepositoryName("team/copy")


def signed(store: MemoryStore | LayoutStore) -> dict[str, Descriptor]:
    """An image with a signature, which is signed itself, a bill of material of one platform, and a tag of cosign's."""
    top = stock(store, IMAGE)
    own = store.repository(NAME)
    child = own.resolve(str(CHILDREN[0]))
    signature = refer(own, "signature", top)
    return {
        "signature": signature,
        "countersignature": refer(own, "countersignature", signature),
        "sbom": refer(own, "sbom", child),
        "cosign": tagged(own, f"{tag_of(TOP)}.sig"),
    }


def refer(sink: Sink, kind: str, subject: Descriptor) -> Descriptor:
    about = Descriptor(subject.media_type, subject.digest, subject.size_bytes)
    more: dict[str, Any] = {
        "subject": about.to_json(),
        "artifactType": f"example/{kind}",
        "annotations": {"kind": kind},
    }
    return put_image(sink, f"{kind} {subject.digest}", layers=1, **more)


def tagged(repository: Sink, tag: str) -> Descriptor:
    descriptor = put_image(repository, tag, layers=1)
    repository.tag(tag, descriptor)
    return descriptor


class WithoutApi:
    """A registry as CNCF distribution 2.x is: no referrers API, and nothing said about a subject."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __call__(self, request: Request) -> Response:
        if "/referrers/" in request.url:
            return Response(404, Headers({"Content-Type": "text/plain"}), BytesBlob(b"404 page not found\n"))
        answer = self.registry.handle(request)
        kept = [item for item in answer.headers if item[0] != "OCI-Subject"]
        return Response(answer.status, Headers(kept), answer.body)


def with_fallback_tags(store: MemoryStore, subjects: dict[Digest, Sequence[Descriptor]]) -> None:
    """As a client leaves them at a registry without the API."""
    own = store.repository(NAME)
    for subject, items in subjects.items():
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [item.to_json() for item in items]}
        own.tag(tag_of(subject), own.put_manifest(json.dumps(document).encode(), OCI_INDEX))


def copied_to(sink: Sink, source: Source) -> CopiedReferrers:
    with Transfer(2) as transfer:
        transfer.copy(source, sink, "1")
        return copy_referrers(transfer, source, sink, [TOP, *CHILDREN])


def digests(result: CopiedReferrers) -> set[Digest]:
    return {copied.descriptor.digest for _, copied in result.copied}


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────


def sources(tmp_path: Path) -> dict[str, Callable[[], tuple[Source, dict[str, Descriptor]]]]:
    def in_memory() -> tuple[Source, dict[str, Descriptor]]:
        store = MemoryStore()
        found = signed(store)
        return store.repository(NAME), found

    def on_disk() -> tuple[Source, dict[str, Descriptor]]:
        store = LayoutStore(tmp_path)
        found = signed(store)
        return store.repository(NAME), found

    def by_api() -> tuple[Source, dict[str, Descriptor]]:
        store = MemoryStore()
        found = signed(store)
        return remote_of(Loopback({"a.example": Registry(store)}), "a.example"), found

    def by_tags() -> tuple[Source, dict[str, Descriptor]]:
        store = MemoryStore()
        found = signed(store)
        with_fallback_tags(
            store,
            {
                TOP: [found["signature"]],
                CHILDREN[0]: [found["sbom"]],
                found["signature"].digest: [found["countersignature"]],
            },
        )
        return remote_of(Loopback({"a.example": WithoutApi(Registry(store))}), "a.example"), found

    return {"memory": in_memory, "disk": on_disk, "api": by_api, "tags": by_tags}


@pytest.mark.parametrize("kind", ["memory", "disk", "api", "tags"])
def test_all_of_them_are_found(kind: str, tmp_path: Path) -> None:
    source, expected = sources(tmp_path)[kind]()
    found = list(find_all_referrers(source, [TOP, *CHILDREN]))
    assert {item.descriptor.digest for item in found} == {item.digest for item in expected.values()}
    assert {item.subject for item in found} == {TOP, CHILDREN[0], expected["signature"].digest}
    assert [item.tag for item in found if item.tag] == [f"{tag_of(TOP)}.sig"]
    assert list(find_all_referrers(source, [])) == []


@pytest.mark.parametrize("kind", ["memory", "disk", "api"])
def test_of_one_type(kind: str, tmp_path: Path) -> None:
    source, expected = sources(tmp_path)[kind]()
    (found,) = find_referrers(source, TOP, "example/signature")
    assert found.descriptor.digest == expected["signature"].digest
    assert found.descriptor.artifact_type == "example/signature"
    assert find_referrers(source, TOP, "example/other") == []


def test_the_tag_of_a_digest() -> None:
    assert tag_of(Digest.of(b"")) == f"sha256-{Digest.of(b'').hex}"
    assert tag_of(Digest.of(b"", "sha512")) == f"sha512-{Digest.of(b'', 'sha512').hex[:64]}"


def test_a_remote_tells_nothing_of_it() -> None:
    """What it resolved stays what it resolved."""
    store = MemoryStore()
    signed(store)
    remote = remote_of(Loopback({"a.example": Registry(store)}), "a.example")
    remote.resolve("1")
    resolved, attempts = remote.resolved, list(remote.attempts)
    list(find_all_referrers(remote, [TOP]))
    assert (remote.resolved, remote.attempts) == (resolved, attempts)


def test_a_list_of_many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pierhead.server.registry.REFERRERS_PAGE_LIMIT", 3)
    store = MemoryStore()
    top = stock(store, IMAGE)
    made = {refer(store.repository(NAME), f"number {number}", top).digest for number in range(10)}
    network = Loopback({"a.example": Registry(store)})
    found = find_referrers(remote_of(network, "a.example"), TOP)
    assert {item.descriptor.digest for item in found} == made
    assert len([line for line in network.lines if "/referrers/" in line]) == 4


def test_the_next_route_knows() -> None:
    store = MemoryStore()
    expected = signed(store)
    hosts: dict[str, Registry | Handler] = {"down.example": lambda request: said(403), "a.example": Registry(store)}
    found = find_referrers(remote_of(Loopback(hosts), "gone.example", "down.example", "a.example"), TOP)
    assert expected["signature"].digest in {item.descriptor.digest for item in found}


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_registry_that_does_not_say(status: int) -> None:
    answer = said(status, {"errors": [{"code": "DENIED", "message": "no"}]})
    network = Loopback({"a.example": lambda request: answer})
    with pytest.raises(ReferrersUnknown, match=f"{status}.*DENIED"):
        find_referrers(remote_of(network, "a.example"), TOP)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"no", b'{"manifests":[{"digest":"sha256:x","size":1}]}', b'{"manifests":{}}', b"[" * 100_000],
    ids=lambda body: repr(body[:10]),
)
def test_an_answer_that_is_no_list(body: bytes) -> None:
    network = Loopback({"a.example": lambda request: said(200, body)})
    with pytest.raises(ReferrersUnknown):
        find_referrers(remote_of(network, "a.example"), TOP)


def test_a_tag_that_is_no_index() -> None:
    store = MemoryStore()
    tagged(store.repository(NAME), tag_of(TOP))
    network = Loopback({"a.example": WithoutApi(Registry(store))})
    with pytest.raises(ReferrersUnknown, match="no index"):
        find_referrers(remote_of(network, "a.example"), TOP)


EMPTY = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()


@pytest.mark.parametrize("link", ["?last=1", "/v2/x?a=1", "https://a.example/loop"])
def test_pages_that_go_round_in_a_circle(link: str) -> None:
    network = Loopback({"a.example": lambda request: said(200, EMPTY, link=f'<{link}>; rel="next"')})
    with pytest.raises(ReferrersUnknown, match="does not end"):
        find_referrers(remote_of(network, "a.example"), TOP)


def test_pages_without_end() -> None:
    count = iter(range(10_000))
    network = Loopback({"a.example": lambda request: said(200, EMPTY, link=f'<?n={next(count)}>; rel="next"')})
    with pytest.raises(ReferrersUnknown, match="does not end"):
        find_referrers(remote_of(network, "a.example"), TOP)


@pytest.mark.parametrize("link", ["https://evil.example/v2/", "//evil.example/", "file:///etc/passwd"])
def test_pages_somewhere_else_are_not_asked_for(link: str) -> None:
    network = Loopback({"a.example": lambda request: said(200, EMPTY, link=f'<{link}>; rel="next"')})
    with pytest.raises(ReferrersUnknown):
        find_referrers(remote_of(network, "a.example"), TOP)
    assert all("a.example" in line for line in network.lines)


class Endless:
    """Whatever is asked for has something that refers to it."""

    def __init__(self, each: int) -> None:
        self.each, self.asked = each, 0

    def __call__(self, request: Request) -> Response:
        if "/referrers/" not in request.url:
            return said(404)
        self.asked += 1
        items = [blob_of(f"{self.asked} {number}".encode(), OCI_MANIFEST).to_json() for number in range(self.each)]
        return said(200, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": items})


@pytest.mark.parametrize("each", [1, 50, REFERRERS_LIMIT + 1])
def test_referrers_without_end(each: int) -> None:
    endless = Endless(each)
    with pytest.raises(ReferrersUnknown):
        list(find_all_referrers(remote_of(Loopback({"a.example": endless}), "a.example"), [TOP]))
    assert endless.asked <= REFERRERS_LIMIT + 1


class Circle:
    """A registry whose list goes in a circle, which digests cannot."""

    def __call__(self, request: Request) -> Response:
        if "/referrers/" not in request.url:
            return said(404)
        items = [Descriptor(OCI_MANIFEST, digest, 1).to_json() for digest in (TOP, *CHILDREN)]
        return said(200, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": items})


def test_referrers_in_a_circle() -> None:
    network = Loopback({"a.example": Circle()})
    found = list(find_all_referrers(remote_of(network, "a.example"), [TOP]))
    assert {item.descriptor.digest for item in found} == {TOP, *CHILDREN}
    assert len([line for line in network.lines if "/referrers/" in line]) == 3


# ── copying ──────────────────────────────────────────────────────────────────────────────────────────────────────


def pushed_to(store: MemoryStore, *, api: bool) -> Pushing:
    registry = Registry(store)
    pushed = Pushing(Shaky(registry))
    if not api:
        pushed.network.hosts[HOST] = WithoutApi(registry)
    return pushed


def fallback(store: MemoryStore, subject: Digest) -> list[dict[str, Any]]:
    """The entries of the index under the tag that stands for what refers to `subject`."""
    own = store.repository(COPY)
    document = json.loads(own.manifest(own.resolve(tag_of(subject))))
    items: list[dict[str, Any]] = document["manifests"]
    return items


@pytest.mark.parametrize("api", [True, False], ids=["api", "no api"])
@pytest.mark.parametrize("kind", ["memory", "disk", "api", "tags"])
def test_they_come_along(kind: str, api: bool, tmp_path: Path) -> None:
    source, expected = sources(tmp_path)[kind]()
    store = MemoryStore()
    pushed = pushed_to(store, api=api)
    result = copied_to(pushed.sink(), source)
    assert digests(result) == {item.digest for item in expected.values()}
    own = store.repository(COPY)
    assert own.resolve(f"{tag_of(TOP)}.sig").digest == expected["cosign"].digest
    for item in expected.values():
        assert own.manifest(own.resolve(str(item.digest))) == source.manifest(item)
    if not api:
        (entry,) = fallback(store, CHILDREN[0])
        assert (entry["digest"], entry["artifactType"], entry["annotations"]) == (
            str(expected["sbom"].digest),
            "example/sbom",
            {"kind": "sbom"},
        )
    else:
        assert not [tag for tag in own.tags() if tag == tag_of(TOP)]
    # And from there they are found again.
    again = pushed.new_pusher().sink(push_route(route(1, HOST, repository="team/copy")), lambda host: None)
    assert isinstance(again, RemoteSink)
    found = find_all_referrers(again, [TOP, *CHILDREN])  # type: ignore[arg-type]  # a sink that can be asked
    assert {item.descriptor.digest for item in found} == {item.digest for item in expected.values()}


@pytest.mark.parametrize("api", [True, False], ids=["api", "no api"])
def test_a_second_run_writes_nothing(api: bool, tmp_path: Path) -> None:
    source, _ = sources(tmp_path)["memory"]()
    pushed = pushed_to(MemoryStore(), api=api)
    copied_to(pushed.sink(), source)
    pushed.pusher = pushed.new_pusher()
    pushed.network.clear()
    result = copied_to(pushed.sink(), source)
    assert {request.method for request in pushed.network.requests} <= {"GET", "HEAD"}
    assert sum(copied.fetched_bytes for _, copied in result.copied) == 0


def test_what_others_listed_stays(tmp_path: Path) -> None:
    source, expected = sources(tmp_path)["memory"]()
    store = MemoryStore()
    pushed = pushed_to(store, api=False)
    own = store.repository(COPY)
    foreign = put_image(own, "foreign")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{**foreign.to_json(), "annotations": {"whose": "not ours"}, "extra": 1}],
        "annotations": {"kept": "too"},
    }
    own.tag(tag_of(TOP), own.put_manifest(json.dumps(document).encode(), OCI_INDEX))
    copied_to(pushed.sink(), source)
    items = fallback(store, TOP)
    assert items[0] == document["manifests"][0]  # type: ignore[index]
    assert [item["digest"] for item in items] == [str(foreign.digest), str(expected["signature"].digest)]
    assert json.loads(own.manifest(own.resolve(tag_of(TOP))))["annotations"] == {"kept": "too"}


def test_a_tag_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    source, _ = sources(tmp_path)["memory"]()
    store = MemoryStore()
    pushed = pushed_to(store, api=False)
    mine = tagged(store.repository(COPY), tag_of(TOP))
    with pytest.raises(ReferrersUnknown, match="no index of referrers"):
        copied_to(pushed.sink(), source)
    assert store.repository(COPY).resolve(tag_of(TOP)).digest == mine.digest


@pytest.mark.parametrize("api", [True, False], ids=["api", "no api"])
def test_an_artifact_that_is_copied_by_itself_is_listed(api: bool, tmp_path: Path) -> None:
    source, expected = sources(tmp_path)["memory"]()
    store = MemoryStore()
    pushed = pushed_to(store, api=api)
    signature = expected["signature"]
    for _ in range(2):
        with Transfer(2) as transfer:
            trees: list[Tree] = []
            sink = pushed.new_pusher().sink(push_route(route(1, HOST, repository="team/copy")), lambda host: None)
            transfer.copy(source, sink, str(signature.digest), names=(), on_tree=trees.append)
            list_subjects(sink, trees[0])
    own = store.repository(COPY)
    if api:
        assert list(own.tags()) == []
    else:
        assert [item["digest"] for item in fallback(store, TOP)] == [str(signature.digest)]


def test_an_image_that_refers_to_nothing_costs_no_question(tmp_path: Path) -> None:
    source, _ = sources(tmp_path)["memory"]()
    pushed = pushed_to(MemoryStore(), api=False)
    with Transfer(2) as transfer:
        trees: list[Tree] = []
        transfer.copy(source, pushed.sink(), "1", on_tree=trees.append)
        pushed.network.clear()
        list_subjects(pushed.sink(), trees[0])
    assert pushed.network.requests == []


def test_into_a_store(tmp_path: Path) -> None:
    source, expected = sources(tmp_path)["api"]()
    store = LayoutStore(tmp_path / "store")
    repository: Repository = store.repository(COPY)
    copied_to(repository, source)
    assert {item.digest for item in repository.referrers(TOP)} == {expected["signature"].digest}
    assert repository.resolve(f"{tag_of(TOP)}.sig").digest == expected["cosign"].digest


def with_strange_referrer() -> tuple[Remote, Descriptor]:
    """The image at a registry that lists something for it whose kind nobody knows."""
    store = MemoryStore()
    stock(store, IMAGE)
    strange = blob_of(b"{}", "application/vnd.oci.artifact.manifest.v1+json")
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [strange.to_json()]}

    def tell(request: Request) -> Response:
        return said(200, index) if f"/referrers/{TOP}" in request.url else Registry(store).handle(request)

    return remote_of(Loopback({"a.example": tell}), "a.example"), strange


def test_what_nobody_understands_is_told() -> None:
    remote, strange = with_strange_referrer()
    result = copied_to(MemoryStore().repository(COPY), remote)
    assert result.copied == ()
    ((referrer, why),) = result.skipped
    assert referrer.descriptor.digest == strange.digest
    assert "artifact.manifest" in why


def test_what_is_read_to_be_written_elsewhere(tmp_path: Path) -> None:
    source, expected = sources(tmp_path)["api"]()
    found = read_referrers(source, [TOP, *CHILDREN])
    assert {tree.top.digest for _, tree in found.trees} == {item.digest for item in expected.values()}
    assert all(len(tree.manifests) == 1 and tree.blobs for _, tree in found.trees)
    assert [referrer.tag for referrer, _ in found.trees if referrer.tag] == [f"{tag_of(TOP)}.sig"]
    assert found.skipped == ()


def test_what_nobody_understands_is_not_read() -> None:
    remote, strange = with_strange_referrer()
    found = read_referrers(remote, [TOP])
    assert found.trees == ()
    assert [referrer.descriptor.digest for referrer, _ in found.skipped] == [strange.digest]


def test_manifests_without_end_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = sources(tmp_path)["memory"]()
    monkeypatch.setattr("pierhead.referrers.MANIFESTS_LIMIT_BYTES", 1000)
    with pytest.raises(ReferrersUnknown, match="more than 1000 bytes"):
        read_referrers(source, [TOP, *CHILDREN])


def test_a_referrer_that_is_an_index() -> None:
    store = MemoryStore()
    top = stock(store, IMAGE)
    own = store.repository(NAME)
    raw = json.loads(index_of(put_image(own, "one"), put_image(own, "two")))
    about = Descriptor(top.media_type, top.digest, top.size_bytes)
    index = own.put_manifest(json.dumps({**raw, "subject": about.to_json()}).encode(), OCI_INDEX)
    target = MemoryStore().repository(COPY)
    assert digests(copied_to(target, own)) == {index.digest}
    assert target.resolve(str(index.digest)).media_type == OCI_INDEX


def test_content_that_does_not_come() -> None:
    """The image is there, the signature is not: that is said, and what is there stays whole."""
    store = MemoryStore()
    expected = signed(store)
    digest = str(expected["signature"].digest)
    tap = Tap(Registry(store), {digest: lambda request, response: Response(200, body=Broken(b""))})
    target = MemoryStore().repository(COPY)
    remote = remote_of(Loopback({"a.example": tap}), "a.example")
    with pytest.raises(TransportError) as caught:
        copied_to(target, remote)
    assert caught.value.cause is Cause.CUT
    assert target.resolve("1").digest == TOP
    assert not target.referrers(TOP)


def test_nothing_refers_to_it() -> None:
    store = MemoryStore()
    stock(store, IMAGE)
    for api in (True, False):
        pushed = pushed_to(MemoryStore(), api=api)
        assert copied_to(pushed.sink(), store.repository(NAME)) == CopiedReferrers()
        assert not [line for line in pushed.lines if "referrers" in line or "sha256-" in line]
