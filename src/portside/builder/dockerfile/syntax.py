"""From logical lines to instructions: flags, exec form, pairs, stages.

Messages are BuildKit's where users search for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile import lines, shell_words
from portside.builder.dockerfile.diagnostics import DockerfileError, Span, did_you_mean
from portside.builder.dockerfile.lines import LogicalLine
from portside.images.config_changes import health_options
from portside.model.errors import InvalidParameter
from portside.model.golang.booleans import parse_bool
from portside.model.image import Healthcheck

_STAGE = re.compile(r"[a-z][a-z0-9\-_.]*")


def parse(data: bytes | str, file: str = "Dockerfile") -> ins.Dockerfile:
    """A Dockerfile as values. DockerfileError, with position and lines, for what is wrong."""
    source = lines.read(data, file)
    try:
        return _Parser(source, file).run()
    except DockerfileError as err:
        raise err.within(file, source.source) from None


def parse_trigger(text: str, escape: str = "\\") -> ins.Instruction:
    """An ONBUILD trigger of an image, as an instruction; its place is line 1 of itself."""
    source = lines.read(text)
    source.escape = escape
    if len(source.lines) != 1:
        raise DockerfileError(f"the ONBUILD trigger is not one instruction: {text!r}", Span(1, 1))
    return _Parser(source, "ONBUILD").instruction(source.lines[0], triggered=True)


class _Flags:
    """The ``--name=value`` words at the beginning of an instruction."""

    def __init__(self, word: str, found: list[str], span: Span) -> None:
        self._word, self._span = word, span
        self._values: dict[str, list[str | None]] = {}
        for text in found:
            name, equals, value = text[2:].partition("=")
            self._values.setdefault(name, []).append(value if equals else None)

    def allow(self, *names: str) -> None:
        for name in self._values:
            if name not in names:
                hint = did_you_mean(name, names)
                raise DockerfileError(f"unknown flag: --{name}{hint}", self._span)

    def text(self, name: str) -> str:
        """A flag that may stand once; empty when it does not."""
        values = self._values.get(name, [])
        if len(values) > 1:
            raise DockerfileError(f"duplicate flag specified: --{name}", self._span)
        if values and values[0] is None:
            raise DockerfileError(f"missing a value on flag: --{name}", self._span)
        return (values[0] or "") if values else ""

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._values.get(name, [])
        if None in values:
            raise DockerfileError(f"missing a value on flag: --{name}", self._span)
        return tuple(value or "" for value in values)

    def boolean(self, name: str) -> bool | None:
        """The flag's value; None when the flag is not given."""
        values = self._values.get(name)
        if not values:
            return None
        if len(values) > 1:
            raise DockerfileError(f"duplicate flag specified: --{name}", self._span)
        value = values[0]
        try:
            return True if value is None else parse_bool(value)
        except InvalidParameter:
            raise DockerfileError(
                f"expecting boolean value for flag --{name}, not: {value}", self._span
            ) from None


class _Parser:
    def __init__(self, source: lines.SourceText, file: str) -> None:
        self._source, self._file = source, file
        self._escape = source.escape
        self._keywords: list[tuple[str, Span]] = []

    def run(self) -> ins.Dockerfile:
        if not self._source.lines:
            raise DockerfileError("file with no instructions", Span(1, 1), parsing=False)
        global_args: list[ins.Arg] = []
        stages: list[tuple[ins.From, list[ins.Instruction]]] = []
        for line in self._source.lines:
            found = self.instruction(line)
            if isinstance(found, ins.From):
                stages.append((found, []))
            elif stages:
                stages[-1][1].append(found)
            elif isinstance(found, ins.Arg):
                global_args.append(found)
            else:
                raise DockerfileError(
                    "no build stage in current context", found.span, parsing=False
                )
        if not stages:
            raise DockerfileError(
                "dockerfile contains no stages to build: there is no FROM", Span(1, 1),
                parsing=False, located=False,
            )  # fmt: skip
        empty = [line.empty_continuation for line in self._source.lines]
        return ins.Dockerfile(
            source=self._source.source,
            global_args=tuple(global_args),
            stages=tuple(ins.Stage(f, tuple(i), n) for n, (f, i) in enumerate(stages)),
            directives=dict(self._source.directives),
            escape=self._escape,
            file=self._file,
            empty_continuations=tuple(span for span in empty if span),
            keywords=tuple(self._keywords),
        )

    def instruction(self, line: LogicalLine, *, triggered: bool = False) -> ins.Instruction:
        word, rest = ([*line.text.rstrip().split(None, 1), ""])[:2]
        parser = PARSERS.get(word.upper())
        if parser is None:
            known = [name.lower() for name in PARSERS] if word.islower() else PARSERS
            hint = did_you_mean(word, known)
            raise DockerfileError(f"unknown instruction: {word}{hint}", line.span)
        if not triggered:
            self._keywords.append((word, line.span))
        flags, rest = _flags(rest, self._escape)
        base = {
            "keyword": word,
            "text": line.text.strip(),
            "span": line.span,
            "comments": line.comments,
            "triggered": triggered,
        }
        try:
            return parser(
                _Line(self, line, word.upper(), rest.strip(), self._escape, base),
                _Flags(word.upper(), flags, line.span),
            )
        except DockerfileError:
            raise
        except RecursionError:
            raise DockerfileError("the instruction is nested too deeply", line.span) from None


class _Line:
    """The input of an instruction's parser."""

    def __init__(
        self, parser: _Parser, line: LogicalLine, word: str, rest: str, escape: str,
        base: dict[str, Any],
    ) -> None:  # fmt: skip
        self.parser, self.line, self.word, self.rest = parser, line, word, rest
        self.escape, self.base = escape, base

    def error(self, message: str, *, lexical: bool = False) -> DockerfileError:
        """``lexical``: of the words; BuildKit finds such errors also in ONBUILD, and names no
        line."""
        offset = self.line.text.find(self.rest) if self.rest else 0
        return DockerfileError(message, self.line.at(max(offset, 0)), parsing=not lexical)

    def some(self) -> str:
        if not self.rest:
            raise self.error(f"{self.word} requires at least one argument")
        return self.rest

    def one(self) -> str:
        if not self.rest:
            raise self.error(f"{self.word} requires exactly one argument")
        return self.rest

    def json_list(self) -> tuple[str, ...] | None:
        """The exec form; None when it is not one."""
        if not self.rest.startswith("["):
            return None
        try:
            found = json.loads(self.rest)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, list):
            return None
        if not all(isinstance(item, str) for item in found):
            raise self.error(
                "when using JSON array syntax, arrays must be comprised of strings only",
                lexical=True,
            )
        return tuple(found)

    def list(self) -> tuple[str, ...]:
        """Exec form, or words at blanks."""
        found = self.json_list()
        return tuple(self.rest.split()) if found is None else found

    def command(self) -> ins.Command:
        words = self.json_list()
        if words is not None:
            return ins.Command(words=words, is_shell=False)
        return ins.Command(
            words=(self.rest,) if self.rest else (), is_shell=True, heredocs=self.line.heredocs
        )

    def pairs(self) -> tuple[ins.Pair, ...]:
        """``a=1 b="2 3"``, or ``a all the rest``."""
        found = shell_words.split_raw(self.some(), self.escape)
        if "=" not in found[0]:
            name, _, value = _whitespace(self.rest)
            if not value:
                raise self.error(f"{self.word} must have two arguments", lexical=True)
            return (ins.Pair(name, value, legacy=True),)
        pairs = []
        for word in found:
            name, equals, value = word.partition("=")
            if not equals:
                raise self.error(
                    f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value',
                    lexical=True,
                )
            if not name:
                raise self.error(f"{self.word} names can not be blank")
            pairs.append(ins.Pair(name, value))
        return tuple(pairs)


def _whitespace(text: str) -> tuple[str, str, str]:
    match = re.match(r"(\S+)(\s+)(.*)", text, re.DOTALL)
    return (match[1], match[2], match[3]) if match else (text, "", "")


def _flags(text: str, escape: str) -> tuple[list[str], str]:
    """Leading ``--…`` words, and what follows them; a bare ``--`` ends them."""
    found: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return found, text[at:]
        word, quote = "", ""
        while at < len(text) and (quote or not text[at].isspace()):
            char = text[at]
            if char == escape and at + 1 < len(text):
                at += 1
                word += text[at]
            elif quote:
                quote = "" if char == quote else quote
                word += "" if not quote else char
            elif char in "'\"":
                quote = char
            else:
                word += char
            at += 1
        if word == "--":
            return found, text[at:].lstrip()
        found.append(word)


def _from(line: _Line, flags: _Flags) -> ins.From:
    flags.allow("platform")
    words = line.rest.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        raise line.error("FROM requires either one or three arguments")
    written = words[2] if len(words) == 3 else ""
    stage = written.lower()
    if stage and not _STAGE.fullmatch(stage):
        raise line.error(
            f'invalid name for build stage: "{written}", '
            "name can't start with a number or contain symbols"
        )
    return ins.From(
        **line.base,
        base=words[0],
        stage=stage,
        written_stage=written,
        platform=flags.text("platform"),
        as_keyword=words[1] if len(words) == 3 else "",
    )


def _run(line: _Line, flags: _Flags) -> ins.Run:
    flags.allow("mount", "network", "security", "device")
    network = flags.text("network")
    if network not in ("", "default", "none", "host") and "$" not in network:
        hint = did_you_mean(network, ("default", "none", "host"))
        raise line.error(f'invalid network mode "{network}"{hint}')
    security = flags.text("security")
    if security not in ("", "sandbox", "insecure"):
        hint = did_you_mean(security, ("sandbox", "insecure"))
        raise line.error(f'security "{security}" is not valid{hint}')
    return ins.Run(
        **line.base,
        command=line.command(),
        mounts=flags.texts("mount"),
        network=network,
        security=security,
        devices=flags.texts("device"),
    )


def _transfer(line: _Line, flags: _Flags) -> dict[str, Any]:
    words = list(line.list())
    if len(words) < 2:
        raise line.error(
            f"{line.word} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    by_name = list(line.line.heredocs)
    sources, heredocs = [], []
    for word in words[:-1]:
        mark = lines.mark_of(word, line.escape) if by_name else None
        if mark is not None:
            heredocs.append(by_name.pop(0))
        else:
            sources.append(word)
    return {
        **line.base,
        "sources": tuple(sources),
        "destination": words[-1],
        "heredocs": tuple(heredocs),
        "chown": flags.text("chown"),
        "chmod": flags.text("chmod"),
        "link": bool(flags.boolean("link")),
        "exclude": flags.texts("exclude"),
    }


def _copy(line: _Line, flags: _Flags) -> ins.Copy:
    flags.allow("from", "chown", "chmod", "link", "parents", "exclude")
    return ins.Copy(
        **_transfer(line, flags),
        source_stage=flags.text("from"),
        parents=bool(flags.boolean("parents")),
    )


def _add(line: _Line, flags: _Flags) -> ins.Add:
    flags.allow("chown", "chmod", "link", "checksum", "keep-git-dir", "unpack", "exclude")
    return ins.Add(
        **_transfer(line, flags),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.boolean("keep-git-dir"),
        unpack=flags.boolean("unpack"),
    )


def _env(line: _Line, flags: _Flags) -> ins.Env:
    flags.allow()
    return ins.Env(**line.base, pairs=line.pairs())


def _label(line: _Line, flags: _Flags) -> ins.Label:
    flags.allow()
    return ins.Label(**line.base, pairs=line.pairs())


def _arg(line: _Line, flags: _Flags) -> ins.Arg:
    flags.allow()
    declared = []
    for word in shell_words.split_raw(line.some(), line.escape):
        name, equals, value = word.partition("=")
        if not name:
            raise line.error("ARG names can not be blank")
        declared.append(ins.Declared(name, value if equals else None))
    return ins.Arg(**line.base, declared=tuple(declared))


def _cmd(line: _Line, flags: _Flags) -> ins.Cmd:
    flags.allow()
    return ins.Cmd(**line.base, command=line.command())


def _entrypoint(line: _Line, flags: _Flags) -> ins.Entrypoint:
    flags.allow()
    return ins.Entrypoint(**line.base, command=line.command())


def _shell(line: _Line, flags: _Flags) -> ins.Shell:
    flags.allow()
    words = line.json_list() if line.rest else ()
    if words is None:
        raise line.error("SHELL requires the arguments to be in JSON form")
    if not words:
        raise line.error("SHELL requires at least one argument")
    return ins.Shell(**line.base, words=words)


def _expose(line: _Line, flags: _Flags) -> ins.Expose:
    flags.allow()
    return ins.Expose(**line.base, ports=tuple(line.some().split()))


def _volume(line: _Line, flags: _Flags) -> ins.Volume:
    flags.allow()
    line.some()
    paths = tuple(path.strip() for path in line.list())
    if not paths:
        raise line.error("VOLUME requires at least one argument")
    if not all(paths):
        raise line.error("VOLUME specified can not be an empty string")
    return ins.Volume(**line.base, paths=paths)


def _user(line: _Line, flags: _Flags) -> ins.User:
    flags.allow()
    return ins.User(**line.base, user=line.one())


def _workdir(line: _Line, flags: _Flags) -> ins.Workdir:
    flags.allow()
    return ins.Workdir(**line.base, path=line.one())


def _stopsignal(line: _Line, flags: _Flags) -> ins.StopSignal:
    flags.allow()
    return ins.StopSignal(**line.base, signal=line.one())


def _maintainer(line: _Line, flags: _Flags) -> ins.Maintainer:
    flags.allow()
    return ins.Maintainer(**line.base, author=line.one())


def _healthcheck(line: _Line, flags: _Flags) -> ins.HealthCheck:
    names = ("interval", "timeout", "start-period", "start-interval", "retries")
    flags.allow(*names)
    kind, _, rest = _whitespace(line.some())
    if kind.upper() == "NONE":
        if rest:
            raise line.error("HEALTHCHECK NONE takes no arguments")
        return ins.HealthCheck(**line.base, check=Healthcheck(test=("NONE",)))
    if kind.upper() != "CMD":
        hint = did_you_mean(kind, ("CMD", "NONE"))
        raise line.error(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD){hint}')
    line.rest = rest.strip()
    command = line.command()
    if not command.words:
        raise line.error("Missing command after HEALTHCHECK CMD")
    options = {name: text for name in names if (text := flags.text(name))}
    try:
        check = health_options(
            ("CMD-SHELL" if command.is_shell else "CMD", *command.words), options
        )
    except InvalidParameter as err:
        raise line.error(str(err)) from None
    return ins.HealthCheck(**line.base, check=check)


def _onbuild(line: _Line, flags: _Flags) -> ins.OnBuild:
    flags.allow()
    text = line.some()
    word = text.split()[0].upper()
    if word == "ONBUILD":
        raise line.error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if word in ("MAINTAINER", "FROM"):
        raise line.error(f"{word} isn't allowed as an ONBUILD trigger")
    inner = LogicalLine(text, line.line.span, ((0, *line.line.span[::2]),), (),
                        line.line.heredocs)  # fmt: skip
    instruction = None
    try:
        instruction = line.parser.instruction(inner, triggered=True)
    except DockerfileError as err:  # it is read where the image is a base
        if not err.parsing:
            raise
    body = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in line.line.heredocs)
    return ins.OnBuild(**line.base, trigger=text + body, inner=instruction)


PARSERS: dict[str, Callable[[_Line, _Flags], ins.Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}

__all__ = ["PARSERS", "parse", "parse_trigger"]
