"""Signals as readable bytes on a descriptor, so that one ``poll`` waits for everything.

``_signal`` is the C half of ``signal``, whose enumerations take 5 ms to import.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any

SIGWINCH: int = _signal.SIGWINCH
SIGINT: int = _signal.SIGINT
SIGTERM: int = _signal.SIGTERM
PROXIED = (
    "HUP", "INT", "QUIT", "ABRT", "USR1", "USR2", "ALRM", "TERM", "CONT", "TSTP", "TTIN", "TTOU",
    "XCPU", "XFSZ", "VTALRM", "PROF", "IO", "PWR", "SYS",
)  # fmt: skip
"""Signals that are passed on to a container: all that may be caught and are not about us."""


def numbers(names: Iterable[str]) -> dict[int, str]:
    return {getattr(_signal, f"SIG{name}"): name for name in names}


class Signals:
    """While entered, these signals are caught; :meth:`take` returns those that came."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self._wanted = tuple(wanted)
        self._before: dict[int, Any] = {}
        self.fd = -1
        self._write = -1

    def __enter__(self) -> Signals:
        self.fd, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in self._wanted:
            self._before[number] = _signal.signal(number, _nothing)
        _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            _signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write)

    def take(self) -> bytes:
        """Numbers of the signals that came since the last call."""
        try:
            return os.read(self.fd, 256)
        except BlockingIOError:
            return b""


def _nothing(number: int, frame: object) -> None:
    """Python wants a handler; the number is in the pipe."""
