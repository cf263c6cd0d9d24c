"""What the runtime needs of ``ctypes``, out of its C half: importing ``ctypes`` takes half of the
time of a bare interpreter. What is missing here is the real module's. ``stand_ins`` puts this in
the place of ``ctypes``."""

from __future__ import annotations

import _ctypes
import sys
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    Structure,
    _SimpleCData,
    addressof,
    byref,
    get_errno,
    set_errno,
    sizeof,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Structure", "addressof", "byref", "get_errno", "set_errno", "sizeof"]


def _simple(name: str, code: str) -> Any:
    kind: Any = type(_SimpleCData)
    return kind(name, (_SimpleCData,), {"_type_": code})


c_char, c_char_p, c_void_p = (
    _simple("c_char", "c"),
    _simple("c_char_p", "z"),
    _simple("c_void_p", "P"),
)
c_ubyte, c_ushort = _simple("c_ubyte", "B"), _simple("c_ushort", "H")
c_int, c_uint = _simple("c_int", "i"), _simple("c_uint", "I")
c_long, c_ulong = _simple("c_long", "l"), _simple("c_ulong", "L")
c_int32, c_uint32, c_uint8, c_uint16 = c_int, c_uint, c_ubyte, c_ushort
c_size_t = c_ulong
if sizeof(c_long) == 8:
    c_int64, c_uint64 = c_long, c_ulong


class CDLL:
    """A library; its functions are attributes. They return ``int``, or what ``restype`` is."""

    _kind = FUNCFLAG_CDECL

    def __init__(self, name: str | None, use_errno: bool = False) -> None:
        flags = self._kind | (FUNCFLAG_USE_ERRNO if use_errno else 0)
        self._name = name
        self._handle = _ctypes.dlopen(name, 0)  # type: ignore[arg-type]
        self._pointer: Any = type("_FuncPtr", (CFuncPtr,), {"_flags_": flags, "_restype_": c_int})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        function = self._pointer((name, self))
        function.__name__ = name
        setattr(self, name, function)
        return function


class PyDLL(CDLL):
    """The same, with the interpreter's lock held during a call."""

    _kind = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI


pythonapi = PyDLL(None)


def create_string_buffer(init: bytes | int, size: int | None = None) -> Any:
    """As ctypes.create_string_buffer."""
    if isinstance(init, int):
        return (c_char * init)()
    buffer = (c_char * (len(init) + 1 if size is None else size))()
    buffer.value = init
    return buffer


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # the import system's questions
        raise AttributeError(name)
    if name in ("POINTER", "pointer") and hasattr(_ctypes, name):  # until Python 3.14
        return getattr(_ctypes, name)
    own = None
    if sys.modules.get("ctypes") is sys.modules[__name__]:
        own = sys.modules.pop("ctypes")
    try:
        import ctypes
    finally:
        if own is not None:
            sys.modules["ctypes"] = own
    return getattr(ctypes, name)
