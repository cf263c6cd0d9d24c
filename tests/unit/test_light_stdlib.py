"""portside.kernel.light_stdlib does what contextlib and functools do."""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from portside.kernel import light_stdlib

BOTH = pytest.mark.parametrize("library", (contextlib, light_stdlib), ids=("contextlib", "ours"))


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


@pytest.mark.parametrize("library", (functools, light_stdlib), ids=("functools", "ours"))
def test_cache(library: ModuleType) -> None:
    calls: list[tuple[object, ...]] = []

    @library.cache
    def function(*arguments: object) -> int:
        """Documentation."""
        calls.append(arguments)
        if arguments == ("fails",):
            raise OSError
        return len(calls)

    assert [function(), function(), function(1, "a"), function(1, "a")] == [1, 1, 2, 2]
    for _ in range(2):  # a failure is not kept
        with pytest.raises(OSError):
            function("fails")
    function.cache_clear()
    assert function() == 5
    assert (function.__name__, function.__doc__) == ("function", "Documentation.")


def test_a_start_imports_none_of_what_these_replace() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:];"
        "from portside.runtime.oci import light_structs; light_structs.install();"
        "import portside.runtime.oci.lifecycle_verbs;"
        "print(*{'collections', 'contextlib', 'functools'}.intersection(sys.modules))"
    )
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *paths], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
