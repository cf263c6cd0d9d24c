"""The stand-ins for ``os`` and ``ctypes`` that ``portside-runtime`` starts with."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import portside
from portside.runtime.oci import light_ctypes, light_os

PACKAGE = Path(portside.__file__).parent
NAMES = st.text(alphabet="a./", max_size=12)


@given(NAMES, NAMES)
def test_paths_are_taken_apart_and_put_together_alike(first: str, second: str) -> None:
    for name in ("isabs", "normpath", "split", "dirname", "basename", "abspath"):
        assert getattr(light_os.path, name)(first) == getattr(os.path, name)(first), name
    assert light_os.path.join(first, second) == os.path.join(first, second)
    assert light_os.path.commonpath(["/a/b", "/a/c"]) == "/a"


@given(st.text(alphabet="abl./", max_size=12))
def test_real_paths_are_alike(made: Path, name: str) -> None:
    assert light_os.path.realpath(f"{made}/{name}") == os.path.realpath(f"{made}/{name}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("paths")
    (place / "a/b").mkdir(parents=True)
    (place / "a/file").write_text("")
    (place / "l").symlink_to("a/b")
    (place / "b").symlink_to("missing")
    return place


@pytest.mark.parametrize("name", ["a", "a/b", "a/file", "l", "b", "none", "a/file/x", "a\0"])
def test_kinds_of_files_are_alike(made: Path, name: str) -> None:
    for question in ("exists", "lexists", "isdir", "isfile", "islink"):
        asked = f"{made}/{name}"
        assert getattr(light_os.path, question)(asked) == getattr(os.path, question)(asked)


def test_directories_are_made_alike(tmp_path: Path) -> None:
    for module, name in ((os, "x"), (light_os, "y")):
        module.makedirs(f"{tmp_path}/{name}/b/c/", 0o711, exist_ok=True)
        module.makedirs(f"{tmp_path}/{name}/b/c", exist_ok=True)
        with pytest.raises(FileExistsError):
            module.makedirs(f"{tmp_path}/{name}/b/c")
        (tmp_path / name / "file").write_text("")
        with pytest.raises(FileExistsError):
            module.makedirs(f"{tmp_path}/{name}/file", exist_ok=True)
    for below in ("b", "b/c"):
        assert (tmp_path / "x" / below).stat().st_mode == (tmp_path / "y" / below).stat().st_mode


@given(st.binary(max_size=8))
def test_names_are_encoded_alike(name: bytes) -> None:
    text = os.fsdecode(name)
    assert light_os.fsdecode(name) == text
    assert light_os.fsencode(text) == os.fsencode(text) == name
    assert light_os.fsencode(Path("/a")) == b"/a"


def test_what_is_missing_is_the_real_modules() -> None:
    assert light_os.get_exec_path is os.get_exec_path
    assert light_os.path.relpath is os.path.relpath
    assert light_ctypes.CFUNCTYPE is ctypes.CFUNCTYPE
    with pytest.raises(AttributeError):
        _ = light_os.no_such_call


def test_the_c_library_is_called_alike() -> None:
    for module in (ctypes, light_ctypes):
        libc = module.CDLL(None, use_errno=True)
        assert libc.close(-1) == -1
        assert module.get_errno() == 9
        libc.getenv.restype, libc.getenv.argtypes = module.c_char_p, (module.c_char_p,)
        assert libc.getenv(b"no such variable") is None
        buffer = module.create_string_buffer(b"ab", 8)
        assert (buffer.raw, buffer.value, module.sizeof(buffer)) == (b"ab" + bytes(6), b"ab", 8)
        libc.memcpy(module.c_void_p(module.addressof(buffer)), b"xyz", module.c_size_t(3))
        assert buffer.value == b"xyz"
        assert module.create_string_buffer(3).raw == bytes(3)
        with pytest.raises(AttributeError):
            libc.no_such_function  # noqa: B018
    for name in ("c_int", "c_uint", "c_long", "c_ulong", "c_ushort", "c_uint32", "c_uint64"):
        ours, theirs = getattr(light_ctypes, name), getattr(ctypes, name)
        assert (ours._type_, ours(-1).value) == (theirs._type_, theirs(-1).value)


def test_a_start_imports_no_library_in_python() -> None:
    """What a start imports of the standard library is part of the interpreter or in C."""
    program = (
        "import sys; before = set(sys.modules); sys.path.append(sys.argv[1]);"
        "from portside.runtime.oci import stand_ins; stand_ins.install();"
        "import portside.runtime.oci.lifecycle_verbs; import portside.runtime.oci.main;"
        "stand_ins.remove();"
        "print(*[n for n, m in sys.modules.items() if n not in before and 'portside' not in n"
        " and (getattr(m, '__file__', None) or '').endswith('.py') and n != 'msgspec'])"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(PACKAGE.parent)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    if sys.version_info < (3, 14):  # see stand_ins.install
        assert found.stdout.split() == ["__future__"]  # which the file of a verb leaves out
