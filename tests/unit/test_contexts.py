"""portside.kernel.contexts does what contextlib does."""

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from portside.kernel import contexts

BOTH = pytest.mark.parametrize("library", (contextlib, contexts), ids=("contextlib", "ours"))


@BOTH
def test_suppress(library: ModuleType) -> None:
    with library.suppress(KeyError, OSError):
        raise FileNotFoundError
    with library.suppress():
        pass
    with pytest.raises(ValueError), library.suppress(OSError):
        raise ValueError


@BOTH
def test_contextmanager(library: ModuleType) -> None:
    seen: list[Any] = []

    def body(value: int, swallow: bool, other: bool = False) -> Iterator[int]:
        try:
            yield value
        except OSError:
            seen.append("error")
            if other:
                raise ValueError("instead") from None
            if not swallow:
                raise
        finally:
            seen.append("end")

    context = library.contextmanager(body)
    with context(3, swallow=False) as value:
        seen.append(value)
    with context(4, True):
        raise OSError
    first = OSError()
    with pytest.raises(OSError) as found, context(5, False):
        raise first
    assert found.value is first
    with pytest.raises(ValueError, match="instead"), context(6, False, other=True):
        raise OSError
    assert seen == [3, "end", *["error", "end"] * 3]


@BOTH
def test_wrong_generators(library: ModuleType) -> None:
    def nothing() -> Iterator[None]:
        yield from ()

    def twice() -> Iterator[None]:
        yield
        yield

    def again() -> Iterator[None]:
        try:
            yield
        except OSError:
            yield

    with pytest.raises(RuntimeError, match="didn't yield"), library.contextmanager(nothing)():
        pass
    with pytest.raises(RuntimeError, match="didn't stop"), library.contextmanager(twice)():
        pass
    with pytest.raises(RuntimeError, match="didn't stop"), library.contextmanager(again)():
        raise OSError
