"""Help texts, made from the tables of the verbs."""

from __future__ import annotations

from portside.cli import commands
from portside.cli.verb import Verb
from portside.cli.verb_table import GLOBAL, load
from portside.flags.help_text import of_flags
from portside.flags.table import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ABOUT = "A container engine: Docker's commands, and a few of its own"


def of_verb(program: str, called: str, verb: Verb) -> str:
    """``portside run --help``."""
    parts = [f"Usage:  {verb.usage_of(program, called)}", verb.about]
    if len(verb.names) > 1:
        parts.append(_aliases([f"{program} {name}" for name in verb.names]))
    if verb.flags:
        parts.append("Options:\n" + of_flags(sorted(verb.flags, key=lambda flag: flag.name)))
    return "\n\n".join(parts) + "\n"


def _aliases(names: list[str]) -> str:
    """The verb's names, in lines of at most 100 characters."""
    lines = [""]
    for name in names:
        if lines[-1] and len(lines[-1]) + len(name) > 95:
            lines.append("")
        lines[-1] += f", {name}" if lines[-1] else f"  {name}"
    return "Aliases:\n" + ",\n".join(
        line if line.startswith("  ") else f"  {line}" for line in lines
    )


def first_line(name: str) -> str:
    return commands.ELSEWHERE.get(name) or load(name).about.partition("\n")[0]


def _list(names: list[tuple[str, str]]) -> str:
    column = max(12, *(len(name) + 2 for name, _ in names))
    return "\n".join(f"  {name:<{column}}{about}" for name, about in names)


def of_group(program: str, group: str) -> str:
    """``portside container --help``; of several names of a verb the first is shown."""
    found = {}
    for name in commands.MODULES:
        if name.startswith(f"{group} "):
            verb = load(name)
            if verb.about.startswith("hidden:"):
                continue
            own = next(known for known in verb.names if known.startswith(f"{group} "))
            found[own.removeprefix(f"{group} ")] = verb.about.partition("\n")[0]
    return (
        f"Usage:  {program} {group} COMMAND\n\n{commands.GROUPS[group]}\n\n"
        f"Commands:\n{_list(sorted(found.items()))}\n\n"
        f"Run '{program} {group} COMMAND --help' for more information on a command.\n"
    )


def top_level() -> list[str]:
    """Verbs that are called by one word, but for hidden ones."""
    names = [name for name in commands.MODULES if " " not in name and name[0] != "_"]
    return sorted([*names, *commands.ELSEWHERE])


def of_root(program: str, plugins: Sequence[Mapping[str, str]] = ()) -> str:
    """``portside --help``. ``plugins``: what they say of themselves, marked as docker does."""
    common = [(name, first_line(name)) for name in commands.COMMON]
    others = [(name, first_line(name)) for name in top_level() if name not in commands.COMMON]
    works = [each for each in plugins if "Err" not in each]
    others += [(f"{each['Name']}*", each.get("ShortDescription", "")) for each in works]
    invalid = [(each["Name"], each["Err"]) for each in plugins if "Err" in each]
    broken = f"Invalid Plugins:\n{_list(invalid)}\n\n" if invalid else ""
    return (
        f"Usage:  {program} [OPTIONS] COMMAND\n\n{ABOUT}\n\n"
        f"Common Commands:\n{_list(common)}\n\n"
        f"Management Commands:\n{_list(sorted(commands.GROUPS.items()))}\n\n"
        f"Commands:\n{_list(sorted(others))}\n\n{broken}"
        f"Global Options:\n{of_flags(read_table(GLOBAL))}\n\n"
        f"Run '{program} COMMAND --help' for more information on a command.\n"
    )
