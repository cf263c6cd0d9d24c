"""The root file system of portside/registry: compiled files and stripped libraries."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from portside.images import package_image


def test_compiled_files_are_the_same_each_time_and_need_no_source(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text('NAMES = {"a", "b", "c"}\nF = lambda x: x in {"d", "e", "f", "g"}\n')
    target = PurePosixPath("/usr/local/lib/a.py")
    contents = []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        found = package_image._compiled({target: source, PurePosixPath("/b.txt"): b"x"}, directory)
        made = found.pop(PurePosixPath("/usr/local/lib/a.pyc"))
        assert found == {PurePosixPath("/b.txt"): b"x"} and isinstance(made, Path)
        contents.append(made.read_bytes())
    assert contents[0] == contents[1] and bytes(str(target), "ascii") in contents[0]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.pyc").write_bytes(contents[0])
    code = f"import sys; sys.path[:] = [{str(tmp_path / 'run')!r}]; import a; print(a.F('e'))"
    run = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert run.stdout == "True\n", run.stderr


def test_a_stripped_library_still_loads(tmp_path: Path) -> None:
    with Path("/proc/self/maps").open() as maps:
        path = next((line.split()[5] for line in maps if "libc.so" in line), "")
    if not path:
        pytest.skip("this Python loads no libc.so: not glibc")
    data = Path(path).read_bytes()
    stripped = package_image._stripped(data)
    assert 0 < len(stripped) < len(data) and package_image._stripped(stripped) == stripped
    copy = tmp_path / "copy.so"
    copy.write_bytes(package_image._stripped(Path(sys.executable).resolve().read_bytes()))
    copy.chmod(0o755)
    run = subprocess.run([copy, "-S", "-c", "print(1)"], capture_output=True, text=True)
    assert run.stdout == "1\n", run.stderr
    ctypes.CDLL(path)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01", b"\x7fELF\x01\x01" * 40,
                                  b"\x7fELF\x02\x01" + bytes(26) + b"\xff" * 40])  # fmt: skip
def test_other_files_stay_as_they_are(data: bytes) -> None:
    assert package_image._stripped(data) == data
