"""Lists of images as people keep them."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pierhead.errors import Span, UsageError
from pierhead.image_list import LINE_LIMIT_CHARS, LINES_LIMIT, LIST_LIMIT_BYTES, load_list, read_list
from pierhead.reference import Reference

K3S = """docker.io/rancher/klipper-helm:v0.9.3-build20241008
docker.io/rancher/mirrored-coredns-coredns:1.12.0
"""


def test_the_list_of_k3s_is_read() -> None:
    images, problems = read_list(K3S, "k3s-images.txt")
    assert [str(image.reference) for image in images] == K3S.split()
    assert not problems
    assert images[1].span == Span("k3s-images.txt", 2, 1, 2, 50)


def test_comments_blank_lines_windows_and_duplicates() -> None:
    text = "\ufeff# all of them\r\n\r\n  redis:7   # the cache\r\nnginx\r\ndocker.io/library/redis:7\r\n"
    images, problems = read_list(text, "-")
    assert [(str(image.reference), image.span.line, image.span.column) for image in images] == [
        ("docker.io/library/redis:7", 3, 3),
        ("docker.io/library/nginx:latest", 4, 1),
    ]
    assert not problems


def test_a_bad_line_is_told_with_its_place_and_the_others_are_read() -> None:
    images, problems = read_list("redis\n  Nginx:1\nhttps://quay.io/a\nquay.io/a\n", "list.txt")
    assert [image.span.line for image in images] == [1, 4]
    assert [(problem.id, problem.severity) for problem in problems] == [("invalid-image", "error")] * 2
    assert problems[0].span == Span("list.txt", 2, 3, 2, 10)
    assert "upper-case" in problems[0].message


def test_no_line_is_too_long_to_be_told() -> None:
    ((), (problem,)) = read_list("a" * (LINE_LIMIT_CHARS + 1), "list.txt")
    assert "it is too long" in problem.message
    assert len(problem.message) < 300


def test_limits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the limit is"):
        read_list("\n" * LINES_LIMIT, "list.txt")
    with pytest.raises(UsageError, match="larger than"):
        load_list("-", io.BytesIO(b"#" * (LIST_LIMIT_BYTES + 1)))
    with pytest.raises(UsageError, match="No such file"):
        load_list(str(tmp_path / "missing.txt"), io.BytesIO())
    with pytest.raises(UsageError, match="cannot be read"):
        load_list("a\0b", io.BytesIO())


@pytest.mark.parametrize(
    "data", [K3S.encode("utf-16"), gzip.compress(K3S.encode(), mtime=0), b"oci-layout" + bytes(502)]
)
def test_what_is_no_text_at_all_is_one_error(data: bytes) -> None:
    with pytest.raises(UsageError, match="the list of images - is no text"):
        load_list("-", io.BytesIO(data))


def test_bytes_that_are_no_text_spoil_their_own_line(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(b"redis\n\xff\xfe\nnginx\n")
    images, problems = load_list(str(file), io.BytesIO())
    assert [image.span.line for image in images] == [1, 3]
    assert [problem.span.line for problem in problems if problem.span] == [2]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=20)))
def test_every_line_is_an_image_a_problem_or_nothing(lines: list[str]) -> None:
    images, problems = read_list("\n".join(lines), "x")
    for span in [image.span for image in images] + [problem.span for problem in problems]:
        assert span is not None
        assert 1 <= span.column < span.end_column <= len(lines[span.line - 1]) + 1
    for image in images:
        assert Reference.parse(image.text) == image.reference
