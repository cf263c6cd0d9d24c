"""Shell completion: ``completion SHELL`` prints a script, which asks ``__complete`` at each tab.

``__complete WORD…`` gets the words of the command line after the program's name, the last of
them being typed. It prints a candidate a line (then a tab and what it is about) and at the end
``:NUMBER``, in the protocol that cobra's programs speak, docker among them, so that a script
made for docker works with a link of that name, too.
"""

from __future__ import annotations

import os

from portside.cli import commands
from portside.cli.session import Failed, Session
from portside.cli.verb import verb
from portside.client.client import filters_text
from portside.flags.table import parse, read_table
from portside.model.errors import PortsideError
from portside.model.log_drivers import FILES as LOG_FILES
from portside.model.log_drivers import NONE, REMOTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from portside.cli.verb import Verb
    from portside.flags.table import Flag, Options

    Pair = tuple[str, str]

NO_SPACE, NO_FILES = 2, 4
"""Bits of the last line: the word continues; file names would be wrong here."""
FILES = 0
COMPOSE = "compose"
SHELLS = ("bash", "fish", "zsh")

_CAPABILITIES = (
    "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN "
    "DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE "
    "MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON "
    "SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE "
    "SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
)
_WORDS = {
    "attach": "stdin stdout stderr",
    "cap-add": _CAPABILITIES,
    "cap-drop": _CAPABILITIES,
    "cgroupns": "host private",
    "format": "json table",
    "ipc": "none host private shareable container:",
    "log-driver": " ".join((*LOG_FILES, NONE, *REMOTE)),
    "log-level": "debug info warn error fatal",
    "pid": "host container:",
    "platform": "linux/amd64 linux/arm64 linux/386 linux/arm/v7",
    "pull": "always missing never",
    "restart": "no always unless-stopped on-failure on-failure: on-unhealthy",
    "security-opt": "apparmor= label=disable label=level: label=nested label=type: "
    "no-new-privileges seccomp= systempaths=unconfined "
    "writable-cgroups=",
    "signal": "HUP INT QUIT KILL USR1 USR2 TERM CONT STOP WINCH",
    "stop-signal": "HUP INT QUIT KILL USR1 USR2 TERM WINCH",
    "type": "container image network volume",
    "ulimit": "as= core= cpu= data= fsize= locks= memlock= msgqueue= nice= nofile= nproc= "
    "rss= rtprio= rttime= sigpending= stack=",
    "userns": "auto auto:size= host keep-id nomap",
    "uts": "host",
}
"""Values of flags that are known without asking."""
_FILTERS = {
    "ps": "ancestor before exited expose health id is-task label name network publish since "
    "status volume",
    "images": "before dangling label reference since until",
    "networks": "dangling driver id label name scope type",
    "volumes": "dangling driver label name",
    "system": "container daemon event image label network scope type volume",
    "prune": "label label! until all",
    "pull_push": "is-official stars",
}
"""Names of filters by module of the verb."""
_OBJECTS = {
    "network": ("network",),
    "volumes-from": ("container",),
    "link": ("container",),
    "context": ("context",),
    "config-from": ("network",),
}
_ON_FILES = frozenset(
    ("env-file", "label-file", "cidfile", "input", "output", "config", "device", "volume", "mount",
     "tlscacert", "tlscert", "tlskey", "file")
)  # fmt: skip


@verb("completion", usage="SHELL", about="Print a completion script for bash, zsh or fish",
      arguments=(1, 1), completes="shell")  # fmt: skip
def completion(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.completion import script

    if arguments[0] not in SHELLS:
        raise Failed(1, f"{arguments[0]}: unknown shell; supported are {', '.join(SHELLS)}")
    session.out(script(arguments[0], session.program))


@verb("__complete", usage="WORD...", about="hidden:", arguments=(0, None), interspersed=False)
def complete(session: Session, options: Options, arguments: list[str]) -> None:
    session.out("\n".join(answer(session, arguments)))


def answer(session: Session, words: Sequence[str]) -> list[str]:
    """The completions for a command line; raises nothing."""
    *before, word = words or [""]
    try:
        found, rule = _Line(session.program, before).candidates(word)
    except (PortsideError, OSError):
        found, rule = [], NO_FILES
    lines = [f"{name}\t{about}" if about else name for name, about in found
             if name.startswith(word)]  # fmt: skip
    return [*lines, f":{rule}"]


class _Line:
    """A command line up to the word that is being typed."""

    def __init__(self, program: str, before: Sequence[str]) -> None:
        self.program = program
        self.flags = read_table(_global_table())
        self.verb: Verb | None = None
        self.group = ""
        self.module = ""
        self.pending: Flag | None = None
        """The flag whose value is being typed."""
        self.arguments: list[str] = []
        self.closed = False
        """Flags are over: ``--``, or the first argument of ``run``."""
        self._globals: list[str] = []
        self._compose_globals: list[str] = []
        """The words between ``compose`` and its verb."""
        for word in before:
            self._take(word)

    def _take(self, word: str) -> None:
        if self.pending is not None:
            self.pending = None
            self._note(word)
        elif word == "--":
            self.closed = True
        elif word[:1] == "-" and len(word) > 1 and not self.closed:
            self._note(word)
            self.pending = self._flag_in_need(word)
        elif self.verb is None:
            self._name(word)
        else:
            self.arguments.append(word)
            self.closed = self.closed or not self.verb.interspersed

    def _note(self, word: str) -> None:
        if self.verb is None:
            (self._compose_globals if self.group == COMPOSE else self._globals).append(word)

    def _name(self, word: str) -> None:
        from portside.cli.verb_table import load

        name = f"{self.group} {word}".strip()
        if self.group == COMPOSE:
            from portside.cli.compose import compose_verbs

            if word not in compose_verbs.MODULES:
                raise PortsideError(f"no such command: {name}")
            self.verb = compose_verbs.load(word)
            self.flags = self.verb.flags
        elif name == COMPOSE:
            from portside.cli.compose.compose_program import FLAGS

            self.group, self.flags = COMPOSE, read_table(FLAGS)
        elif name in commands.MODULES:
            self.verb = load(name)
            self.module = commands.MODULES[name]
            self.flags = self.verb.flags
        elif not self.group and word in commands.GROUPS:
            self.group = word
        else:
            raise PortsideError(f"no such command: {name}")

    def _flag_in_need(self, word: str) -> Flag | None:
        """The flag that takes the next word as its value."""
        if word.startswith("--"):
            name, equals, _ = word[2:].partition("=")
            found = [flag for flag in self.flags if flag.name == name and flag.kind]
            return found[0] if found and not equals else None
        for at, letter in enumerate(word[1:], 1):
            for flag in self.flags:
                if flag.short == letter and flag.kind:
                    return flag if at == len(word) - 1 else None
        return None

    # -- candidates ------------------------------------------------------------------------

    def candidates(self, word: str) -> tuple[list[Pair], int]:
        if self.pending is not None:
            if self.verb is None:  # not a flag of the line without its value
                (self._compose_globals if self.group == COMPOSE else self._globals).pop()
            return self._values(self.pending, word)
        if word.startswith("-") and not self.closed:
            name, equals, _ = word.partition("=")
            for flag in self.flags if equals else ():
                if f"--{flag.name}" == name:
                    values, rule = self._values(flag, word[len(name) + 1 :])
                    return [(f"{name}={value}", about) for value, about in values], rule
            return self._flags(), NO_FILES
        if self.verb is None:
            return self._commands(), NO_FILES
        return self._arguments(self.verb, word)

    def _flags(self) -> list[Pair]:
        from portside.flags.help_text import is_hidden

        found = [(f"--{flag.name}", _short(flag.help)) for flag in self.flags
                 if not is_hidden(flag)]  # fmt: skip
        return sorted({"--help": "Print help", **dict(found)}.items())

    def _commands(self) -> list[Pair]:
        from portside.cli import help
        from portside.cli.verb_table import load

        if self.group == COMPOSE:
            from portside.cli.compose import compose_verbs

            return [(name, _short(compose_verbs.load(name).about))
                    for name in sorted(compose_verbs.MODULES)]  # fmt: skip
        if self.group:
            names = [name.partition(" ")[2] for name in commands.MODULES
                     if name.startswith(f"{self.group} ")]  # fmt: skip
            return [(name, _short(load(f"{self.group} {name}").about)) for name in names]
        return sorted([*((name, help.first_line(name)) for name in help.top_level()),
                       *commands.GROUPS.items()])  # fmt: skip

    def _values(self, flag: Flag, word: str) -> tuple[list[Pair], int]:
        if self.group == COMPOSE:
            from portside.cli.compose import compose_completion as of_compose

            if flag.name == "profile":
                return of_compose.profiles(self._compose_globals, self._compose()), NO_FILES
            if flag.name == "project-name":
                return list(of_compose.projects(self._compose())), NO_FILES
            if flag.name in of_compose.SERVICES and flag.kind:
                return of_compose.services(self._compose_globals, self._compose()), NO_FILES
            if flag.name in of_compose.PATHS:
                return [], FILES
            if flag.name in of_compose.WORDS:
                return [(value, "") for value in of_compose.WORDS[flag.name].split()], NO_FILES
        if flag.name in ("network", "net", "ipc", "pid") and word.startswith("container:"):
            return [(f"container:{name}", about) for name, about in self._named("container")
                    ], NO_FILES  # fmt: skip
        if flag.name in _OBJECTS:
            found = [pair for kind in _OBJECTS[flag.name] for pair in self._named(kind)]
            if flag.name == "network" and self.module == "run":
                found += [("container:", "The network of another container")]
            return found, NO_FILES
        if flag.name == "env":
            return [(name, "") for name in sorted(os.environ)], NO_FILES
        if flag.name == "filter":
            names = _FILTERS.get(self.module, "label name").split()
            return [(f"{name}=", "") for name in names], NO_FILES | NO_SPACE
        if flag.name in _WORDS:
            values = [value for value in _WORDS[flag.name].split() if value.startswith(word)]
            rule = NO_FILES
            if values and all(value.endswith((":", "=")) for value in values):
                rule |= NO_SPACE
            return [(value, "") for value in values], rule
        return [], FILES if flag.name in _ON_FILES else NO_FILES

    def _arguments(self, verb: Verb, word: str) -> tuple[list[Pair], int]:
        count = len(self.arguments)
        if not verb.interspersed and count:
            return [], FILES  # the command to run, or its arguments
        if verb.most is not None and count >= verb.most:
            return [], NO_FILES
        kind = verb.completes
        if self.group == COMPOSE:
            return self._services(verb, word)
        if kind == "path":
            if word.startswith(("/", ".", "~")):
                return [], FILES
            names = [(f"{name}:", about) for name, about in self._named("container")]
            return names, FILES | NO_SPACE
        if kind == "file":
            return [], FILES
        if kind == "network-container":
            kind = "container" if count else "network"
        elif kind == "shell":
            return [(name, "") for name in SHELLS], NO_FILES
        elif verb.least == verb.most == 2 and count and kind != "image":
            return [], NO_FILES  # the second is a new name
        kinds = ("container", "image", "network", "volume") if kind == "any" else (kind,)
        found = [pair for kind in kinds for pair in self._named(kind) if kind]
        return [pair for pair in found if pair[0] not in self.arguments], NO_FILES

    def _services(self, verb: Verb, word: str) -> tuple[list[Pair], int]:
        """Services as a verb of ``compose`` takes them."""
        from portside.cli.compose import compose_completion as of_compose

        if verb.names[0] in ("compose publish", "compose bridge"):
            return [], NO_FILES
        if verb.names[0] in ("compose commit", "compose port") and self.arguments:
            return [], NO_FILES
        if verb.names[0] == "compose cp" and word.startswith(("/", ".", "~")):
            return [], FILES
        found = of_compose.services(self._compose_globals, self._compose())
        if verb.names[0] == "compose cp":
            return [(f"{name}:", about) for name, about in found], FILES | NO_SPACE
        if verb.names[0] == "compose scale":
            return [(f"{name}=", about) for name, about in found], NO_FILES | NO_SPACE
        return [pair for pair in found if pair[0] not in self.arguments], NO_FILES

    def _compose(self) -> Session:
        from portside.cli import main
        from portside.cli.compose.compose_session import ComposeSession

        options, _ = parse(read_table(_global_table()), self._globals)
        return ComposeSession(self.program, **main._where(options))

    def _named(self, kind: str) -> list[Pair]:
        """The objects of a kind that exist. No engine is started to learn that."""
        options, _ = parse(read_table(_global_table()), self._globals)
        session = _session(self.program, options)
        if kind == "context":
            from portside.cli.context import _all, _description

            return [(meta["Name"], _description(meta)) for meta in _all(session)]
        function = _LOOKUPS.get(kind)
        return sorted(function(session)) if function is not None else []


def _global_table() -> str:
    from portside.cli.verb_table import GLOBAL

    return GLOBAL


def _session(program: str, options: Options) -> Session:
    from portside.cli import main

    return main._session(program, options)


def _short(text: str) -> str:
    return " ".join(text.split("\n")[0].split())


# -- what exists -----------------------------------------------------------------------------


def _get(session: Session, path: str, query: dict[str, Any]) -> Any:
    return session.unconnected_client().get(path, query)


def _containers(*states: str) -> Callable[[Session], Iterable[Pair]]:
    def look(session: Session) -> Iterable[Pair]:
        filters = filters_text({"status": states}) if states else None
        for item in _get(session, "/containers/json", {"all": True, "filters": filters}):
            yield item["Names"][0].lstrip("/"), f"{item['Image']}, {item['Status']}"

    return look


def _images(session: Session) -> Iterable[Pair]:
    for item in _get(session, "/images/json", {}):
        for tag in item.get("RepoTags") or ():
            if tag != "<none>:<none>":
                yield tag, ""
                if tag.endswith(":latest"):
                    yield tag.removesuffix(":latest"), ""


def _networks(session: Session) -> Iterable[Pair]:
    for item in _get(session, "/networks", {}):
        yield item["Name"], item["Driver"]


def _volumes(session: Session) -> Iterable[Pair]:
    for item in _get(session, "/volumes", {})["Volumes"] or ():
        yield item["Name"], ""


_LOOKUPS: dict[str, Callable[[Session], Iterable[Pair]]] = {
    "container": _containers(),
    "running": _containers("running"),
    "stopped": _containers("created", "exited", "paused"),
    "paused": _containers("paused"),
    "image": _images,
    "network": _networks,
    "volume": _volumes,
}
