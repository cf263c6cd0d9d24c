"""Regular expressions of users: Go's run in linear time, Python's must be stopped.

``re`` tries one way after another, and ``(a+)+b`` has more ways than the engine has time for;
while it tries, nobody else is served. It looks at pending signals as it goes, so a timer can end
it. Only the main thread gets signals; elsewhere a match takes what it takes.
"""

from __future__ import annotations

import re
import signal
import threading
from types import FrameType

from portside.model.errors import InvalidParameter, InvalidText

LIMIT = 0.2
"""Seconds for one match."""


def search(pattern: str, text: str) -> bool:
    """Whether ``pattern`` matches somewhere in ``text``.

    Raises InvalidText for an invalid expression, InvalidParameter for one that takes too long.
    """
    expression = compiled(pattern)
    if pattern.isalnum() or threading.current_thread() is not threading.main_thread():
        return expression.search(text) is not None
    before = signal.signal(signal.SIGALRM, _stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        try:
            return expression.search(text) is not None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TooLong:
        raise InvalidParameter(f"the regular expression {pattern!r} takes too long") from None
    finally:
        signal.signal(signal.SIGALRM, before)


def compiled(pattern: str) -> re.Pattern[str]:
    """The expression, ready to search. Raises InvalidText in the words of Go's ``regexp``."""
    try:
        return re.compile(pattern)
    except re.error as err:
        rest = pattern[err.pos or 0 :]
        for said, words, shown in (
            ("missing ), unterminated", "missing closing )", pattern),
            ("unbalanced parenthesis", "unexpected )", pattern),
            ("unterminated character set", "missing closing ]", rest),
            ("nothing to repeat", "missing argument to repetition operator", rest[:1]),
        ):
            if err.msg.startswith(said):
                raise InvalidText(f"error parsing regexp: {words}: `{shown}`") from None
        raise InvalidText(f"error parsing regexp: {err.msg}: `{pattern}`") from None
    except (RecursionError, OverflowError):
        raise InvalidText("error parsing regexp: expression nests too deeply") from None


class _TooLong(Exception):
    pass


def _stop(number: int, frame: FrameType | None) -> None:
    raise _TooLong
