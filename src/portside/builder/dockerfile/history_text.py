"""The text of an instruction in an image's history, ``created_by``: as BuildKit writes it, or as
Docker's classic builder does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from portside.model.golang.durations import format_duration
from portside.model.golang.quoting import quote, quote_char
from portside.model.image import Healthcheck

BUILDKIT_COMMENT = "buildkit.dockerfile.v0"


class Phrases:
    """BuildKit's words."""

    comment = BUILDKIT_COMMENT
    is_classic = False

    def run(
        self, args: Sequence[str], build_args: Mapping[str, str | None], env: Mapping[str, str]
    ) -> str:
        """``args`` with the shell; ``build_args`` in the order of their declaration, None without
        a value. ``env`` hides them."""
        given = [f"{name}={env.get(name, value or '')}" for name, value in build_args.items()]
        return f"RUN {_counted(given)}{' '.join(args)} # buildkit"

    def transfer(self, text: str, keyword: str, shell: Sequence[str], content: str) -> str:
        """COPY and ADD. ``text`` is the instruction with its values; ``content`` what the
        classic builder calls the sources, with the destination."""
        return f"{text} # buildkit"

    def other(self, keyword: str, text: str, shell: Sequence[str]) -> str:
        """The text of instructions that only change the configuration, and of WORKDIR."""
        return f"{keyword} {text}"

    def health(self, check: Healthcheck) -> str:
        if check.test == ("NONE",):
            return '&{["NONE"] "0s" "0s" "0s" "0s" \'\\x00\'}'
        times = (check.interval, check.timeout, check.start_period, check.start_interval)
        spans = " ".join(f'"{format_duration(value)}"' for value in times)
        return f"&{{{quoted(check.test)} {spans} {_rune(check.retries)}}}"


class ClassicPhrases(Phrases):
    comment = ""
    is_classic = True

    def run(
        self, args: Sequence[str], build_args: Mapping[str, str | None], env: Mapping[str, str]
    ) -> str:
        given = [f"{k}={v}" for k, v in sorted(build_args.items()) if v is not None]
        return f"{_counted(given)}{' '.join(args)}"

    def transfer(self, text: str, keyword: str, shell: Sequence[str], content: str) -> str:
        return f"{' '.join(shell)} #(nop) {keyword} {content} "

    def other(self, keyword: str, text: str, shell: Sequence[str]) -> str:
        blank = "" if keyword == "WORKDIR" else " "
        return f"{' '.join(shell)} #(nop) {blank}{keyword} {text}"

    def health(self, check: Healthcheck) -> str:
        times = (check.interval, check.timeout, check.start_period, check.start_interval)
        spans = " ".join(format_duration(value) for value in times)
        return f"&{{{plain(check.test)} {spans} {check.retries}}}"


def _counted(build_args: Sequence[str]) -> str:
    return f"|{len(build_args)} {' '.join(build_args)} " if build_args else ""


def _rune(number: int) -> str:
    """A number as Go's ``%q`` prints it: as the character of that code."""
    return quote_char(chr(number) if number < 0x110000 else "\ufffd")


def quoted(words: Sequence[str]) -> str:
    """``["a" "b"]``, Go's ``%q`` of a list."""
    return "[" + " ".join(quote(word) for word in words) + "]"


def plain(words: Sequence[str]) -> str:
    """``[a b]``, Go's ``%v`` of a list."""
    return "[" + " ".join(words) + "]"
