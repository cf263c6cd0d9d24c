"""Text of /proc/self/mountinfo (proc(5)). Imports nothing: each start of a container reads it."""

from __future__ import annotations


def unescaped(text: str) -> str:
    """A path of the file, in which space, tab, newline and backslash are octal: ``\\040``."""
    first, *parts = text.split("\\")
    return first + "".join(map(_character, parts))


def _character(part: str) -> str:
    """What a backslash and the text behind it are."""
    code = part[:3]
    if len(code) < 3 or not code.isdecimal():
        return f"\\{part}"
    return chr(int(code, 8)) + part[3:]
