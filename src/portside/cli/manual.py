"""Manual pages, made from the flag tables as the help is (man(7))."""

from __future__ import annotations

from portside.cli import commands
from portside.cli.verb_table import GLOBAL, load
from portside.flags.help_text import is_hidden
from portside.flags.table import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from portside.flags.table import Flag


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text


def _flags(flags: Iterable[Flag]) -> list[str]:
    lines = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        if is_hidden(flag):
            continue
        names = f"\\-{flag.short}, " if flag.short else ""
        kind = f" \\fI{_escaped(flag.kind)}\\fR" if flag.kind else ""
        lines += [".TP", f"{names}\\fB\\-\\-{_escaped(flag.name)}\\fR{kind}"]
        lines.append(_escaped(" ".join(flag.help.split())))
    return lines


def _page(name: str, about: str, usage: str, text: list[str]) -> str:
    title = _escaped(name.replace(" ", "-"))
    head = [f'.TH "{title.upper()}" 1 "" Portside "Portside manual"', ".SH NAME",
            f"{title} \\- {_escaped(about)}", ".SH SYNOPSIS", f"\\fB{_escaped(name)}\\fR"
            + (f" {_escaped(usage)}" if usage else "")]  # fmt: skip
    return "\n".join([*head, *text]) + "\n"


def pages() -> dict[str, str]:
    """The text of each page by its file name: the command, its groups' and its own verbs."""
    found = {}
    seen = []
    for name in commands.MODULES:
        verb = load(name)
        if name.startswith("_") or verb.about.startswith("hidden:") or verb in seen:
            continue
        seen.append(verb)
        shown = verb.names[0]
        text = [".SH DESCRIPTION", _escaped(verb.about)]
        if verb.flags:
            text += [".SH OPTIONS", *_flags(verb.flags)]
        if len(verb.names) > 1:
            text += [".SH ALIASES", _escaped(", ".join(f"portside {n}" for n in verb.names))]
        text += [".SH SEE ALSO", "portside(1)"]
        page = _page(f"portside {shown}", verb.about.partition("\n")[0], verb.usage, text)
        found[f"portside-{shown.replace(' ', '-')}.1"] = page
    text = [".SH DESCRIPTION", "A container engine with the Docker Engine API.", ".SH COMMANDS"]
    for verb in sorted(seen, key=lambda verb: verb.names[0]):
        text += [".TP", f"\\fB{_escaped(verb.names[0])}\\fR", _escaped(verb.about)]
    text += [".SH OPTIONS", *_flags(read_table(GLOBAL)), ".SH SEE ALSO",
             "portside\\-run(1), portside\\-daemon\\-install(1)"]  # fmt: skip
    found["portside.1"] = _page("portside", "container engine", "[OPTIONS] COMMAND", text)
    return found
