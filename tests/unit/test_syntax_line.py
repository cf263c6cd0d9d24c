"""Which frontend a build file asks for, in whatever language it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.builder.dockerfile.syntax_line import is_built_in, syntax_line


@pytest.mark.parametrize(
    ("data", "image", "line"),
    [
        (b"# syntax=a/b:1\nFROM x", "a/b:1", 1),
        (b"#syntax = a/b:1 more words\n", "a/b:1", 1),
        (b"\xef\xbb\xbf# escape=`\n# syntax=a\n", "a", 2),
        (b"#!/usr/bin/env x\n# syntax=a\n", "a", 2),
        (b"// syntax=a/b@sha256:12\ncode", "a/b@sha256:12", 1),
        (b'{"syntax": "a/b more", "x": 1}', "a/b", 1),
    ],
)
def test_a_frontend_is_named(data: bytes, image: str, line: int) -> None:
    found = syntax_line(data)
    assert found is not None and (found.image, found.span.line) == (image, line)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"FROM x\n# syntax=a\n", b"# a comment\n# syntax=a\n", b"\n# syntax=a\n",
        b'{"syntax": 1}', b"[" * 100_000, b'{"a":' * 20_000, b"{",
    ],
)  # fmt: skip
def test_none_is_named(data: bytes) -> None:
    assert syntax_line(data) is None


@pytest.mark.parametrize(
    ("image", "ours"),
    [
        ("docker/dockerfile", True), ("docker/dockerfile:1-labs", True),
        ("docker.io/docker/dockerfile:1@sha256:12", True), ("docker/dockerfile-upstream:x", True),
        ("registry:5000/docker/dockerfile:1", False), ("docker/dockerfiles", False), ("", False),
    ],
)  # fmt: skip
def test_the_built_in_one_answers_for_dockers_own(image: str, ours: bool) -> None:
    assert is_built_in(image) is ours


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    found = syntax_line(data)
    assert found is None or found.image == found.cmdline.partition(" ")[0]
