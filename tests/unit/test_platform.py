"""Platforms: spelling, and which image of several runs best."""

from __future__ import annotations

import pytest

from portside.model.errors import InvalidParameter
from portside.model.platform import Platform, best


def platform(text: str) -> Platform:
    return Platform.parse(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("arm64", "linux/arm64"),
        ("linux/riscv64", "linux/riscv64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_spelling(text: str, normal: str) -> None:
    assert str(platform(text)) == normal


PART = 'platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument'
SYSTEM = (
    "OSAndVersion specifier component must match "
    r'"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$": invalid argument'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f'"" is an invalid OS component of "": {SYSTEM}'),
        ("lin ux/c", f'"lin ux" is an invalid OS component of "lin ux/c": {SYSTEM}'),
        ("li+n", f'"li+n" is an invalid OS component of "li+n": {SYSTEM}'),
        ("linux/", f'"" is an invalid component of "linux/": {PART}'),
        ("linux/a b", f'"a b" is an invalid component of "linux/a b": {PART}'),
        ("a/b/c/d e", f'"d e" is an invalid component of "a/b/c/d e": {PART}'),
        ("a/b/c/d", '"a/b/c/d": cannot parse platform specifier: invalid argument'),
        ("linux/*", '"linux/*": wildcards not yet supported: invalid argument'),
        ("nosuch", '"nosuch": unknown operating system or architecture: invalid argument'),
    ],
)
def test_bad_specifiers(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        platform(text)
    assert str(caught.value) == message


def test_a_system_with_version_and_features() -> None:
    found = platform("windows(10.0%2e1+win32k)/amd64")
    assert (found.os, found.os_version, found.os_features) == ("windows", "10.0.1", ("win32k",))
    assert platform("linux(5.10)").architecture == Platform.host().architecture


@pytest.mark.parametrize(
    ("wanted", "offers", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/386", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/arm64", "linux/386"], "linux/386"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2"], "linux/amd64/v2"),
        ("linux/amd64", ["linux/amd64/v2"], None),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64"], "linux/arm64"),
        ("linux/arm64", ["linux/arm/v7"], "linux/arm/v7"),
        ("linux/s390x", ["linux/amd64"], None),
        ("linux/amd64", ["windows/amd64"], None),
    ],
)
def test_choice(wanted: str, offers: list[str], chosen: str | None) -> None:
    found = best(platform(wanted), [(platform(offer), offer) for offer in offers])
    assert (found[0] if found else None) == chosen


def test_equals_keep_their_order() -> None:
    offers = [(platform("linux/amd64"), number) for number in range(3)]
    assert best(platform("linux/amd64"), offers) == [0, 1, 2]


def test_host_runs_itself() -> None:
    assert Platform.host().rank(Platform.host()) == 0
