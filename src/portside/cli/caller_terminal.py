"""The caller's terminal: raw mode, size, and keys that detach."""

from __future__ import annotations

import os
import termios

from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


class RawMode:
    """While entered, keys go through a terminal untouched (cfmakeraw(3)); else nothing."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawMode:
        if os.isatty(self._fd):
            self._saved = termios.tcgetattr(self._fd)
            mode = termios.tcgetattr(self._fd)
            self._change(mode)
            termios.tcsetattr(self._fd, termios.TCSANOW, mode)
        return self

    @staticmethod
    def _change(mode: list[Any]) -> None:
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)


class KeyMode(RawMode):
    """While entered, each key is received at once and not echoed; signals and output are as before
    (cbreak of termios(3))."""

    @staticmethod
    def _change(mode: list[Any]) -> None:
        mode[3] &= ~(termios.ECHO | termios.ICANON)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0


def size() -> tuple[int, int]:
    """Rows and columns of the terminal on standard output, or on input; zeros without one."""
    for fd in (1, 0):
        try:
            found = os.get_terminal_size(fd)
        except OSError:
            continue
        return found.lines, found.columns
    return 0, 0


def keys(text: str) -> bytes:
    """The bytes of ``ctrl-p,ctrl-q`` or ``a,ctrl-b``. Raises InvalidParameter."""
    found = bytearray()
    for key in text.split(","):
        name = key.lower()
        if len(key) == 1 and key.isascii():
            found.append(ord(key))
        elif name.startswith("ctrl-") and len(key) == 6:
            letter = name[5]
            if "a" <= letter <= "z":
                found.append(ord(letter) - 96)
            elif letter in _CONTROL:
                found.append(_CONTROL[letter])
            else:
                raise InvalidParameter(f"Unknown character: '{key}'")
        else:
            raise InvalidParameter(f"invalid detach keys ({text}): Unknown character: '{key}'")
    return bytes(found)


class KeyWatch:
    """Finds a sequence of keys in what is typed. What might become it is kept back."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""
        self.found = False

    def feed(self, data: bytes) -> bytes:
        """The bytes to pass on; ``found`` is set when the sequence is complete."""
        if not self._sequence:
            return data
        data = self._held + data
        self._held = b""
        at = data.find(self._sequence)
        if at >= 0:
            self.found = True
            return data[:at]
        for length in range(min(len(self._sequence) - 1, len(data)), 0, -1):
            if data.endswith(self._sequence[:length]):
                self._held = data[-length:]
                return data[:-length]
        return data
