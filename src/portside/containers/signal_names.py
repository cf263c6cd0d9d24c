"""Signal names and numbers as users give them."""

from __future__ import annotations

import signal

from portside.model.errors import InvalidParameter


def parse(text: str) -> int:
    """The number of ``TERM``, ``SIGTERM``, ``sigterm``, ``15``, ``RTMIN+3``."""
    if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20:
        number = int(text)
        if 0 < number <= signal.SIGRTMAX:
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
            if rest[0] in "+-" and rest[1:].isdigit():
                number = int(getattr(signal, base)) + int(rest)
                if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                    return number
    try:
        return int(signal.Signals[name])
    except KeyError:
        raise InvalidParameter(f"invalid signal: {text}") from None


def name_of(number: int) -> str:
    """``SIGTERM``, ``SIGRTMIN+3``: also of those without a name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
