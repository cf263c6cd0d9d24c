"""Escapes in /proc/self/mountinfo."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.kernel.mountinfo_text import unescaped


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/a", "/a"),
        ("/a\\040b", "/a b"),
        ("/\\011\\012\\134", "/\t\n\\"),
        ("/\\134040", "/\\040"),
        ("/\\043", "/#"),
        ("/\\04", "/\\04"),
        ("\\", "\\"),
    ],
)
def test_escapes(text: str, path: str) -> None:
    assert unescaped(text) == path


@given(st.text(alphabet="/ \t\n\\#a0", max_size=20))
def test_what_the_kernel_escapes_comes_back(path: str) -> None:
    assert unescaped(re.sub(r"[ \t\n\\#]", lambda m: f"\\{ord(m[0]):03o}", path)) == path
