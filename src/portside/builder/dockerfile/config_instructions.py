"""Instructions that change the image's configuration alone: ARG, ENV, LABEL, CMD, USER and others.

Each expands its words with the stage's variables, changes the configuration and notes what the
image's history says of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portside.builder.dockerfile import history_text
from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.frontend_values import (
    Argument,
    StageState,
    command_words,
)
from portside.images.config_changes import exposed, stop_signal
from portside.model.errors import InvalidParameter

if TYPE_CHECKING:
    from portside.builder.dockerfile.frontend import Conversion


def arg(conversion: Conversion, state: StageState, instruction: ins.Arg) -> None:
    shown = []
    for declared in instruction.declared:
        default = declared.default
        default = None if default is None else conversion.expanded(state, default, instruction)
        key = conversion.expanded(state, declared.key, instruction)
        value = conversion.given(key)
        if value is None:
            value = default
        is_inherited = value is None and key in conversion.globals
        if is_inherited:
            value = conversion.globals[key]
            conversion.use_global(key)
        else:
            conversion.arguments.append(Argument(key, value, instruction))
        state.declared[key] = None
        if value is not None:
            state.args[key] = value
            if key in state.env and not conversion.options.phrases.is_classic:
                state.hiding[key] = value
        written = value if value is not None and not conversion.options.phrases.is_classic else (
            default)  # fmt: skip
        shown.append(key if written is None else f"{key}={written}")
    conversion.note(state, instruction, " ".join(shown))


def _pairs(
    conversion: Conversion, state: StageState, instruction: ins.Env | ins.Label
) -> list[tuple[str, str]]:
    """Names and values, also those that a later one of the same instruction replaces."""
    return [
        (
            conversion.expanded(state, pair.key, instruction),
            conversion.expanded(state, pair.value, instruction),
        )
        for pair in instruction.pairs
    ]


def env(conversion: Conversion, state: StageState, instruction: ins.Env) -> None:
    found = _pairs(conversion, state, instruction)
    for key, value in found:
        state.env[key] = value
        state.hiding.pop(key, None)
    state.put(env=tuple(f"{k}={v}" for k, v in state.env.items()))
    conversion.note(state, instruction, " ".join(f"{k}={v}" for k, v in found))


def label(conversion: Conversion, state: StageState, instruction: ins.Label) -> None:
    found = _pairs(conversion, state, instruction)
    state.put(labels={**(state.config.labels or {}), **dict(found)})
    conversion.note(state, instruction, " ".join(f"{k}={v}" for k, v in found))


def maintainer(conversion: Conversion, state: StageState, instruction: ins.Maintainer) -> None:
    state.author = instruction.author
    conversion.note(state, instruction, instruction.author)


def cmd(conversion: Conversion, state: StageState, instruction: ins.Cmd) -> None:
    words = command_words(state, instruction.command, conversion.options.phrases)
    if not words and instruction.command.is_shell:
        words = state.shell  # the classic builder's, without words
    state.cmd_set = True
    escaped = not instruction.command.is_shell or not conversion.options.phrases.is_classic
    state.put(cmd=words or None, args_escaped=escaped and not conversion.options.phrases.is_classic)
    conversion.note(state, instruction, history_text.quoted(words))


def entrypoint(conversion: Conversion, state: StageState, instruction: ins.Entrypoint) -> None:
    words = command_words(state, instruction.command, conversion.options.phrases)
    # a command that was inherited was meant for the entrypoint that goes
    state.put(entrypoint=words or None, cmd=state.config.cmd if state.cmd_set else None)
    conversion.note(state, instruction, history_text.quoted(words))


def shell(conversion: Conversion, state: StageState, instruction: ins.Shell) -> None:
    state.put(shell=instruction.words)
    conversion.note(state, instruction, history_text.plain(instruction.words))


def expose(conversion: Conversion, state: StageState, instruction: ins.Expose) -> None:
    ports: list[str] = []
    for word in instruction.ports:
        ports += conversion.process(word, state.variables, instruction.span).words
    found = exposed(ports)
    state.put(exposed_ports={**(state.config.exposed_ports or {}), **found})
    if conversion.options.phrases.is_classic:
        conversion.note(state, instruction, " ".join(sorted(ports)))
    else:
        conversion.note(state, instruction, history_text.plain(sorted(found)))


def volume(conversion: Conversion, state: StageState, instruction: ins.Volume) -> None:
    paths = [conversion.expanded(state, path, instruction) for path in instruction.paths]
    if not all(paths):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    state.put(volumes={**(state.config.volumes or {}), **{path: {} for path in paths}})
    conversion.note(state, instruction, history_text.plain(paths))


def user(conversion: Conversion, state: StageState, instruction: ins.User) -> None:
    user = conversion.expanded(state, instruction.user, instruction)
    state.put(user=user)
    conversion.note(state, instruction, user)


def stopsignal(conversion: Conversion, state: StageState, instruction: ins.StopSignal) -> None:
    name = stop_signal(conversion.expanded(state, instruction.signal, instruction))
    state.put(stop_signal=name)
    conversion.note(state, instruction, name)


def healthcheck(conversion: Conversion, state: StageState, instruction: ins.HealthCheck) -> None:
    state.put(healthcheck=instruction.check)
    conversion.note(state, instruction, conversion.options.phrases.health(instruction.check))


def onbuild(conversion: Conversion, state: StageState, instruction: ins.OnBuild) -> None:
    state.put(on_build=(*(state.config.on_build or ()), instruction.trigger))
    if conversion.options.phrases.is_classic:  # BuildKit does not report it
        conversion.note(state, instruction, instruction.trigger)
