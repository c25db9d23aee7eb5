"""Which name was meant: what counts as a slip, and what is simply another name."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.config.near import Names, Near, bare, host_and_port, meant, nearest
from pierhead.config.registries import parse

SLIPS = [
    ("mycustomreg.com:5000", "mycustomreg:5000", "domain"),
    ("mycustomreg.com:5000", "mycustomreg", "domain"),
    ("harbor.corp", "harbor.corp.example", "domain"),
    ("reg.lan:5000", "reg.lan", "port"),
    ("reg.lan", "reg.lan:443", "port"),
    ("reg.lan:5000", "reg.lan:5001", "port"),
    ("10.0.0.5:5000", "10.0.0.5", "port"),
    ("[fd00::1]:5000", "[fd00::1]:5001", "port"),
    ("ghcr.io", "ghcr.io:443", "port"),
    ("reg.lan:5000", "https://reg.lan:5000", "address"),
    ("reg.lan:5000", "http://user@reg.lan:5000/v2", "address"),
    ("reg.lan:5000", " reg.lan:5000 ", "address"),
    ("reg.lan:5000", "Reg.Lan:5000", "case"),
    ("harbor.corp.example", "harbour.corp.example", "spelling"),
    ("registry.corp.example", "regsitry.corp.example", "spelling"),
    ("registry.example.com", "registry.exmaple.com", "spelling"),
    ("registry.example.com:5000", "registri.example.com:5000", "spelling"),
    ("my-registry.lan", "my.registry.lan", "spelling"),
    ("my-registry.lan", "myregistry.lan:5000", "spelling"),
    ("registry-1.docker.io", "regitsry-1.docker.io", "spelling"),
]
OTHERS = [
    ("reg1.lan", "reg2.lan"),
    ("10.0.0.5:5000", "10.0.0.6:5000"),
    ("10.0.0.5", "10.0.0.50"),
    ("mirror-eu.corp.example", "mirror-us.corp.example"),
    ("registry-a.corp.example", "registry-b.corp.example"),
    ("servera.lab.example", "serverb.lab.example"),
    ("gcr.io", "ghcr.io"),
    ("github.corp", "gitlab.corp"),
    ("registry.dev.corp", "registry.prod.corp"),
    ("docker.io", "docker.io.cache.corp.example"),
    ("quay.io", "quay.io.cache.corp.example:5000"),
    ("cache.lan", "registry.lan"),
    ("harbor.corp:5000", "harbour.corp:5001"),
    ("example.com", "example.org"),
    ("reg.lan", "*"),
    ("reg.lan", ""),
    ("a" * 400, "a" * 401),
]


@pytest.mark.parametrize(("wanted", "written", "slip"), SLIPS)
def test_a_slip_is_named(wanted: str, written: str, slip: str) -> None:
    others = ["quay.io", "cache-7.elsewhere.example:8443", "*"]

    assert nearest(wanted, [*others, written]) == Near(written, slip)  # type: ignore[arg-type]  # one of the slips
    assert nearest(written, [*others, wanted]) == Near(wanted, slip)  # type: ignore[arg-type]  # one of the slips


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_another_name_is_no_slip(one: str, other: str) -> None:
    assert nearest(one, [other]) is None
    assert nearest(other, [one]) is None


def test_an_equal_name_needs_no_other() -> None:
    assert nearest("reg.lan:5000", ["reg.lan", "reg.lan:5000"]) is None


def test_the_likeliest_slip_wins() -> None:
    names = Names(["registry.lan", "registry.lan:5000.example", "regsitry.lan:5000", "Registry.lan:5000"])

    assert names.nearest("registry.lan:5000") == (Near("Registry.lan:5000", "case"),)


def test_all_that_are_equally_near_are_told() -> None:
    found = Names(["reg.lan:5000", "reg.lan:5001", "reg.example"]).nearest("reg.lan")

    assert found == (Near("reg.lan:5000", "port"), Near("reg.lan:5001", "port"))


def test_the_entry_that_was_meant() -> None:
    config = parse(b"configs:\n  mycustomreg:5000: {tls: {}}\n  quay.io: {auth: {}}\n", "f")

    assert meant(config, "mycustomreg.com:5000") == (config.configs["mycustomreg:5000"], "domain")
    assert meant(config, "cache.lan") is None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("reg.lan", ("reg.lan", "")),
        ("reg.lan:5000", ("reg.lan", "5000")),
        ("[::1]:5000", ("::1", "5000")),
        ("[::1]", ("::1", "")),
        ("::1", ("::1", "")),
        ("", ("", "")),
    ],
)
def test_host_and_port(name: str, parts: tuple[str, str]) -> None:
    assert host_and_port(name) == parts


NAMES = st.text(alphabet="abcxyz12.:-_*/@[] A", max_size=24)


@given(st.lists(NAMES, max_size=8), NAMES)
@settings(deadline=None)
def test_the_index_finds_what_looking_at_each_finds(candidates: list[str], wanted: str) -> None:
    one_by_one = {name for name in candidates if nearest(wanted, [name])}

    found = {near.name for near in Names(candidates).nearest(wanted)}

    assert found <= one_by_one
    assert bool(found) == (bool(one_by_one) and wanted not in candidates)


@given(NAMES, NAMES)
@settings(deadline=None)
def test_being_near_is_mutual(one: str, other: str) -> None:
    there, back = nearest(one, [other]), nearest(other, [one])

    assert (there and there.slip) == (back and back.slip)


@given(NAMES)
def test_a_bare_name_is_bare(name: str) -> None:
    assert "/" not in bare(name)


def test_many_names_cost_look_ups_and_not_comparisons() -> None:
    names = Names(f"cache-{number:04}.corp.example:5000" for number in range(2000))
    start = time.process_time()

    found = [names.nearest(f"cache-{number:04}.corp.example") for number in range(2000)]

    assert all(len(near) == 1 for near in found)
    assert time.process_time() - start < 1
