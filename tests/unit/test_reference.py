"""References: what users write, what is stored, what is shown."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.model.reference import Reference

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "normal", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox:a", "docker.io/library/busybox:a", "busybox:a"),
        ("joe/app", "docker.io/joe/app", "joe/app"),
        ("docker.io/joe/app:B.1-x_", "docker.io/joe/app:B.1-x_", "joe/app:B.1-x_"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("Host/a", "Host/a", "Host/a"),
        ("quay.io/x__y/z--w.v", "quay.io/x__y/z--w.v", "quay.io/x__y/z--w.v"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
        # one word is never a host, even with a colon: what follows is a tag
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
    ],
)
def test_normalised_and_familiar(text: str, normal: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == normal
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("busybox:", "invalid reference format"),
        (":tag", "invalid reference format"),
        ("-busybox", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a...b", "invalid reference format"),
        ("http://host/x", "invalid reference format"),
        ("busybox:" + "t" * 129, "invalid reference format"),
        ("busybox@sha256:abc", "invalid reference format"),
        ("x.org/é", "invalid reference format"),
        (
            "Busybox",
            "invalid reference format: repository name (library/Busybox) must be lowercase",
        ),
        (
            "x.org/a/B:t",
            "invalid reference format: repository name (a/B) must be lowercase",
        ),
        ("a" * 300, "repository name must not be more than 255 characters"),
        (
            "a" * 64,
            f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings",
        ),
        (f"busybox@sha256:{'a' * 40}", "invalid checksum digest length"),
        (f"busybox@md5:{'a' * 32}", "unsupported digest algorithm"),
        (f"busybox@sha256:{'A' * 64}", "invalid checksum digest format"),
    ],
)
def test_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        Reference.parse(text)
    assert str(caught.value) == message


def test_tag_digest_and_target() -> None:
    bare = Reference.parse("busybox")
    assert bare.is_name_only and bare.tagged().tag == "latest" and bare.target == "latest"
    digested = bare.with_digest(Digest(DIGEST))
    assert digested.target == DIGEST and digested.tagged() == digested
    assert bare.with_tag("x").familiar == "busybox:x"
    with pytest.raises(InvalidParameter, match="invalid tag format"):
        bare.with_tag("a b")


_component = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
_host = st.sampled_from(["", "localhost/", "reg.example.com/", "10.0.0.1:5000/", "docker.io/"])
_tag = st.one_of(st.just(""), st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))


@given(_host, st.lists(_component, min_size=1, max_size=4), _tag)
def test_familiar_form_reads_back_as_the_same(host: str, parts: list[str], tag: str) -> None:
    assume(host or "." not in parts[0])  # else it is a host
    text = host + "/".join(parts) + tag
    try:
        reference = Reference.parse(text)
    except InvalidParameter as err:
        assert "64-byte" in str(err) or "255" in str(err)
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
    assert reference.tag == tag.lstrip(":")


@given(st.text(alphabet=string.printable + "é\u2028", max_size=80))
def test_any_text_is_a_reference_or_a_clear_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidParameter:
        return
    assert Reference.parse(str(reference)) == reference
    assert not set(str(reference)) & set(" \n\t\0")
