"""How an instruction is told in an image's history: ``created_by``, in BuildKit's words or in
those of Docker's builder before it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from portside.model.image import Healthcheck

BUILDKIT_COMMENT = "buildkit.dockerfile.v0"


class Phrases:
    """BuildKit's words."""

    comment = BUILDKIT_COMMENT
    is_classic = False

    def run(self, args: Sequence[str], build_args: Sequence[str]) -> str:
        """``args`` with the shell; ``build_args`` as ``NAME=value``."""
        return f"RUN {_counted(build_args)}{' '.join(args)} # buildkit"

    def transfer(self, text: str, keyword: str, shell: Sequence[str], content: str) -> str:
        """COPY and ADD. ``text`` is the instruction as it was written; ``content`` what the
        classic builder calls the sources, with the destination."""
        return f"{text} # buildkit"

    def other(self, keyword: str, text: str, shell: Sequence[str]) -> str:
        """What only changes the configuration, and WORKDIR."""
        return f"{keyword} {text}"

    def health(self, check: Healthcheck) -> str:
        if check.test == ("NONE",):
            return '&{["NONE"] "0s" "0s" "0s" "0s" \'\\x00\'}'
        times = (check.interval, check.timeout, check.start_period, check.start_interval)
        spans = " ".join(f'"{duration(value)}"' for value in times)
        return f"&{{{quoted(check.test)} {spans} {_rune(check.retries)}}}"


class ClassicPhrases(Phrases):
    comment = ""
    is_classic = True

    def run(self, args: Sequence[str], build_args: Sequence[str]) -> str:
        return f"{_counted(build_args)}{' '.join(args)}"

    def transfer(self, text: str, keyword: str, shell: Sequence[str], content: str) -> str:
        return f"{' '.join(shell)} #(nop) {keyword} {content} "

    def other(self, keyword: str, text: str, shell: Sequence[str]) -> str:
        blank = "" if keyword == "WORKDIR" else " "
        return f"{' '.join(shell)} #(nop) {blank}{keyword} {text}"

    def health(self, check: Healthcheck) -> str:
        times = (check.interval, check.timeout, check.start_period, check.start_interval)
        spans = " ".join(duration(value) for value in times)
        return f"&{{{plain(check.test)} {spans} {check.retries}}}"


def _counted(build_args: Sequence[str]) -> str:
    return f"|{len(build_args)} {' '.join(build_args)} " if build_args else ""


def _rune(number: int) -> str:
    """A number as Go's ``%q`` prints it: as the character of that code."""
    named = {0: "\\x00", 7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}
    if number in named:
        return f"'{named[number]}'"
    if number < 32 or number == 127:
        return f"'\\x{number:02x}'"
    return f"'{chr(number)}'" if number < 0x110000 else "'\ufffd'"


def quoted(words: Sequence[str]) -> str:
    """``["a" "b"]``, Go's ``%q`` of a list."""
    return "[" + " ".join(json.dumps(word, ensure_ascii=False) for word in words) + "]"


def plain(words: Sequence[str]) -> str:
    """``[a b]``, Go's ``%v`` of a list."""
    return "[" + " ".join(words) + "]"


def duration(nanoseconds: int) -> str:
    """``1h0m5s``, ``1.5s``, ``20ms``: Go's time.Duration."""
    if nanoseconds < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if nanoseconds >= size:
                return f"{_short(nanoseconds / size)}{unit}"
        return "0s"
    seconds, rest = divmod(nanoseconds, 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{_short(seconds + rest / 10**9)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _short(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")
