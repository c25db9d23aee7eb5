"""Releases of K3s: how they are written, how they are ordered, and what each does, at every boundary of the table."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.config.versions import CURRENT, FACTS, Behaviour, Fact, InvalidVersion, K3sVersion, behaviour, differing
from pierhead.errors import ExitCode

BY_NAME = {fact.name: fact for fact in FACTS}

BUILDS = st.tuples(st.sampled_from(["k3s", "rke2"]), st.integers(0, 5)) | st.just((None, None))
VERSIONS = st.one_of(
    st.builds(K3sVersion, st.integers(0, 2), st.integers(0, 40)),
    st.builds(
        lambda minor, patch, candidate, build: K3sVersion(1, minor, patch, candidate, *build),
        st.integers(15, 36),
        st.integers(0, 20),
        st.none() | st.tuples(st.sampled_from(["alpha", "beta", "rc"]), st.integers(0, 12)),
        BUILDS,
    ),
)


def version(text: str) -> K3sVersion:
    return K3sVersion.parse(text)


def holds(fact: str, text: str) -> bool:
    return bool(getattr(behaviour(version(text)), fact))


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("v1.28.6+k3s1", (1, 28, 6, None, "k3s", 1)),
        ("1.28.6", (1, 28, 6, None, None, None)),
        ("v1.28", (1, 28, None, None, None, None)),
        ("v1.30.0-rc1+k3s1", (1, 30, 0, ("rc", 1), "k3s", 1)),
        ("v1.30.0-alpha.2", (1, 30, 0, ("alpha", 2), None, None)),
        ("v1.28.6+rke2r12", (1, 28, 6, None, "rke2", 12)),
        ("v1.17.0+k3s.1", (1, 17, 0, None, "k3s", 1)),  # as releases were named until 2020
        ("v1.28.6-k3s1", (1, 28, 6, None, "k3s", 1)),  # as the tag of an image, which has no +
        (" v0.10.0\n", (0, 10, 0, None, None, None)),
    ],
)
def test_versions_as_people_write_them(text: str, parts: tuple[object, ...]) -> None:
    assert dataclasses.astuple(version(text)) == parts


@pytest.mark.parametrize(
    "text",
    [
        *("", "latest", "stable", "v1", "1.28.", "v1.28.x", "v1.28.6+k3s", "v1.28.6+rke21", "v1.28.6+k3sr1"),
        *("v1.28+k3s1", "1.28.6.1", "v01.28.6", "v1.28.6+k3s1 (8aecc26b)", "v1.29.2+k3s-364dfd8b", "v1.٢.3"),
        "v" + "1" * 5000 + ".2",
    ],
)
def test_nonsense_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidVersion) as caught:
        version(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "v1.31.4+k3s1" in caught.value.hint
    assert len(caught.value.message) < 120


@given(VERSIONS)
def test_a_version_reads_as_it_is_written(value: K3sVersion) -> None:
    assert version(str(value)) == value


# -- order ------------------------------------------------------------------------------------------------------------


def test_the_order_of_releases() -> None:
    texts = [
        *("v0.10.0", "v1.0.1", "v1.9.0", "v1.26.13-alpha3", "v1.26.13-rc2+k3s1", "v1.26.13-rc10+k3s1"),
        *("v1.26.13-rc10+k3s2", "v1.26.13+k3s1", "v1.26.13+rke2r1", "v1.26.13+k3s2", "v1.26.13", "v1.26.14+k3s1"),
        *("v1.26", "v1.27.0-rc1+k3s1", "v1.27.0+k3s1", "v2.0.0"),
    ]
    assert sorted(map(version, reversed(texts))) == list(map(version, texts))


@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_order_is_total(one: K3sVersion, two: K3sVersion, three: K3sVersion) -> None:
    assert [one < two, one == two, one > two].count(True) == 1
    assert (one <= two) == (one < two or one == two)
    if one <= two <= three:
        assert one <= three


def test_versions_are_compared_with_versions_only() -> None:
    with pytest.raises(TypeError):
        assert version("v1.28") < "v1.29"


# -- the table --------------------------------------------------------------------------------------------------------

# (last release without it, first release with it): section 1.4, written out once more.
CAME = [
    ("registries_file", "v0.9.1", "v0.10.0"),
    ("identity_token", "v1.0.0", "v1.0.1"),
    ("identity_token", "v1.17.0+k3s.1", "v1.17.2+k3s1"),
    ("quoted_credentials", "v1.17.4+k3s1", "v1.17.5+k3s1"),
    ("quoted_credentials", "v1.18.1+k3s1", "v1.18.2+k3s1"),
    ("insecure_skip_verify", "v1.19.0+k3s1", "v1.19.1+k3s1"),
    ("rewrites", "v1.20.15+k3s1", "v1.21.0+k3s1"),
    *(
        (fact, f"v{release}+k3s2", f"v{first}+k3s1")
        for fact in ("certs_d", "rewrites_spare_default", "disable_default_endpoint", "embedded_registry")
        for release, first in (
            *(("1.26.12", "1.26.13"), ("1.27.9", "1.27.10")),
            *(("1.28.5", "1.28.6"), ("1.29.0", "1.29.1")),
        )
    ),
    *(
        ("bare_endpoints", f"v{release}+k3s1", f"v{release}+k3s2")
        for release in ("1.26.13", "1.27.10", "1.28.6", "1.29.1")
    ),
    *(
        (fact, f"v{release}+k3s1", f"v{first}+k3s1")
        for fact in ("wildcard_falls_back", "default_listed_last", "duplicates_harmless", "config_of_default")
        for release, first in (
            *(("1.26.14", "1.26.15"), ("1.27.11", "1.27.12")),
            *(("1.28.7", "1.28.8"), ("1.29.2", "1.29.3")),
        )
    ),
    ("wildcard_falls_back", "v1.31.6+k3s1", "v1.31.7+k3s1"),
    ("wildcard_falls_back", "v1.32.2+k3s1", "v1.32.3+k3s1"),
    ("default_only_file", "v1.26.15+k3s1", "v1.27.0+k3s1"),
    ("default_only_file", "v1.27.12+k3s1", "v1.27.13+k3s1"),
    ("default_only_file", "v1.28.8+k3s1", "v1.28.9+k3s1"),
    ("default_only_file", "v1.29.3+k3s1", "v1.29.4+k3s1"),
    ("foreign_directories", "v1.28.13+k3s1", "v1.28.14+k3s1"),
    ("foreign_directories", "v1.29.8+k3s1", "v1.29.9+k3s1"),
    ("foreign_directories", "v1.30.4+k3s1", "v1.30.5+k3s1"),
    ("foreign_directories", "v1.31.0+k3s1", "v1.31.1+k3s1"),
    ("rewritten_scope", "v1.29.10+k3s1", "v1.29.11+k3s1"),
    ("rewritten_scope", "v1.30.6+k3s1", "v1.30.7+k3s1"),
    ("rewritten_scope", "v1.31.2+k3s1", "v1.31.3+k3s1"),
    ("docker_io_credentials", "v1.31.10+k3s1", "v1.31.11+k3s1"),
    ("docker_io_credentials", "v1.32.6+k3s1", "v1.32.7+k3s1"),
    ("docker_io_credentials", "v1.33.2+k3s1", "v1.33.3+k3s1"),
]
# (last release with it, first release without it)
WENT = [
    *(("bare_endpoints", before, after) for before, after in (("v1.28.5+k3s1", "v1.28.6+k3s1"),)),
    *(
        (fact, before, after)
        for fact in ("wildcard_falls_back", "default_listed_last", "duplicates_harmless", "config_of_default")
        for before, after in (("v1.26.12+k3s1", "v1.26.13+k3s1"), ("v1.29.0+k3s1", "v1.29.1+k3s1"))
    ),
    ("wildcard_falls_back", "v1.31.5+k3s1", "v1.31.6+k3s1"),
    ("wildcard_falls_back", "v1.32.1+k3s1", "v1.32.2+k3s1"),
    ("default_only_file", "v1.29.2+k3s1", "v1.29.3+k3s1"),
    # A minor that is newer by number may be older by date.
    ("certs_d", "v1.28.6+k3s1", "v1.29.0+k3s1"),
    ("docker_io_credentials", "v1.31.11+k3s1", "v1.32.6+k3s1"),
]


@pytest.mark.parametrize(("fact", "without", "first"), CAME)
def test_where_it_came(fact: str, without: str, first: str) -> None:
    assert (holds(fact, without), holds(fact, first)) == (False, True)


@pytest.mark.parametrize(("fact", "last", "without"), WENT)
def test_where_it_went(fact: str, last: str, without: str) -> None:
    assert (holds(fact, last), holds(fact, without)) == (True, False)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_every_row_of_the_table_is_tested_at_its_boundaries(fact: Fact) -> None:
    tested = {text for name, without, first in (*CAME, *WENT) if name == fact.name for text in (without, first)}
    ends = {end for _, end in fact.lost if end}
    # v1.32.0 opened a branch: there is no release of it before
    assert {*fact.since, *ends} <= tested | {"v1.32.0+k3s1"}
    assert fact.evidence
    assert fact.holds != fact.fails


def test_a_newer_minor_has_it_from_its_first_release_and_an_older_one_never() -> None:
    assert all(holds("certs_d", text) for text in ("v1.30.0+k3s1", "v1.30.0-rc1+k3s1", "v1.36", "v2.0.0"))
    assert not any(holds("certs_d", text) for text in ("v1.25", "v1.25.16+k3s4", "v1.18.20"))
    assert holds("rewritten_scope", "v1.32.0+k3s1")
    assert not holds("rewritten_scope", "v1.28")
    assert not holds("docker_io_credentials", "v1.30")
    assert not holds("default_only_file", "v1.26")


def test_a_candidate_does_what_its_release_does() -> None:
    assert behaviour(version("v1.28.8-rc1+k3s1")) == behaviour(version("v1.28.8+k3s1"))
    assert not holds("bare_endpoints", "v1.28.6-rc1+k3s1")
    assert holds("bare_endpoints", "v1.28.6-rc1+k3s2")


def test_rke2_came_out_with_bare_endpoints_mended() -> None:
    assert holds("bare_endpoints", "v1.28.6+rke2r1")
    assert not holds("bare_endpoints", "v1.28.6+k3s1")
    assert not holds("default_listed_last", "v1.28.7+rke2r1")


def test_what_is_left_out_is_the_newest() -> None:
    assert behaviour(version("v1.28.6")) == behaviour(version("v1.28.6+k3s2"))
    assert behaviour(version("v1.31")) == behaviour(version("v1.31.14+k3s1"))


def test_current_k3s_has_every_fact() -> None:
    assert Behaviour(**dict.fromkeys(BY_NAME, True)) == CURRENT == behaviour(version("v1.34.1+k3s1"))
    assert behaviour(version("v0.9.0")) != CURRENT


@given(VERSIONS, VERSIONS)
@settings(deadline=None)
def test_what_differs_and_since_when(old: K3sVersion, new: K3sVersion) -> None:
    facts = differing(behaviour(old), behaviour(new))
    assert bool(facts) == (behaviour(old) != behaviour(new))
    for fact in facts:
        assert fact.of(old) != fact.of(new)
        assert all(K3sVersion.parse(text) for text in fact.turns(old, new))


@pytest.mark.parametrize(
    ("fact", "old", "new", "text"),
    [
        ("certs_d", "v1.27.6", "v1.28.11", "since v1.28.6+k3s1"),
        ("certs_d", "v1.27.6+rke2r1", "v1.28.11+rke2r1", "since v1.28.6"),
        ("certs_d", "v1.27.6", "v1.31.1", "since v1.27.10+k3s1, v1.28.6+k3s1, v1.29.1+k3s1"),
        ("certs_d", "v1.31.1", "v1.27.6", "until v1.27.10+k3s1, v1.28.6+k3s1, v1.29.1+k3s1"),
        ("certs_d", "v1.28.6", "v1.29.0", "until v1.29.1+k3s1"),
        ("wildcard_falls_back", "v1.31.6", "v1.33.1", "since v1.31.7+k3s1, v1.32.3+k3s1"),
        ("wildcard_falls_back", "v1.30.2", "v1.31.6", "since v1.31.6+k3s1"),
        ("wildcard_falls_back", "v1.31.6", "v1.30.2", "until v1.31.6+k3s1"),
        ("bare_endpoints", "v1.28.6+k3s1", "v1.28.6+k3s2", "since v1.28.6+k3s2"),
    ],
)
def test_since_when(fact: str, old: str, new: str, text: str) -> None:
    assert BY_NAME[fact].dated(version(old), version(new)) == text


def test_where_it_is_cured() -> None:
    assert BY_NAME["duplicates_harmless"].cures(version("v1.28.7")) == ("v1.28.8+k3s1",)
    assert BY_NAME["default_only_file"].cures(version("v1.26.15")) == ("v1.27.13+k3s1", "v1.28.9+k3s1", "v1.29.4+k3s1")
    assert BY_NAME["rewrites"].cures(version("v1.20.4+rke2r1")) == ("v1.21.0",)
