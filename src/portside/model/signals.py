"""Signals by name and number, as Docker reads and writes them."""

from __future__ import annotations

import signal

from portside.model.errors import InvalidParameter


def parse_signal(text: str, *, stops: bool = False) -> int:
    """The number of ``TERM``, ``SIGTERM``, ``sigterm``, ``15``, ``RTMIN+3``. Raises
    InvalidParameter. With ``stops``, a signal to stop by, also numbers that the kernel does not
    know: Docker takes them, and its stop then ends with SIGKILL."""
    if text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 20:
        number = int(text)
        if 0 < number <= signal.SIGRTMAX or (stops and number):
            return number
        if number == 0:
            raise InvalidParameter(f"invalid signal: {text}")
        raise InvalidParameter(f"the linux daemon does not support signal {text}")
    name = text.upper()
    if not name.startswith("SIG"):
        name = f"SIG{name}"
    for base in ("SIGRTMIN", "SIGRTMAX"):
        if name.startswith(base):
            rest = name[len(base) :] or "+0"
            if rest[0] in "+-" and rest[1:].isdecimal():
                number = int(getattr(signal, base)) + int(rest)
                if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                    return number
    try:
        return int(signal.Signals[name])
    except KeyError:
        raise InvalidParameter(f"invalid signal: {text}") from None


def stop_signal(text: str) -> int:
    """What is sent to stop a container; SIGKILL for a number that no signal has."""
    number = parse_signal(text or "TERM", stops=True)
    return number if 0 < number <= signal.SIGRTMAX else int(signal.SIGKILL)


def signal_name(number: int) -> str:
    """``SIGTERM``, ``SIGRTMIN+3``: also of those without a name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
