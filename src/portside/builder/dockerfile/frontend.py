"""From a Dockerfile to LLB and an image configuration.

Only the stages that the target needs are turned into vertices. Each instruction that may change
files makes one vertex above the one before it; the others change the configuration alone. What
the image's history will say of each is kept beside the output, so that the exporter knows
which instruction made which layer.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from portside.builder import llb
from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile import (
    lint,
    shell_words,
)
from portside.builder.dockerfile.diagnostics import (
    DockerfileError,
    Span,
    did_you_mean,
    note_findings,
    placed,
)
from portside.builder.dockerfile.frontend_values import (
    DEFAULT_PATH,
    PROXIES,
    Argument,
    FrontendOptions,
    ImageResolver,
    Lent,
    NamedContext,
    Plan,
    ResolvedImage,
    StageState,
    Step,
)
from portside.builder.dockerfile.lint import CheckOptions, Linter
from portside.builder.dockerfile.stages import Stages, display_name
from portside.builder.dockerfile.syntax import parse_trigger
from portside.model.errors import InvalidParameter, PortsideError, reworded
from portside.model.golang.quoting import quote
from portside.model.image import ImageConfig, RunConfig
from portside.model.platform import Platform
from portside.model.reference import Reference

_QUOTED = re.compile(r"""('[^']*'|"(?:[^"\\]|\\.)*")""")
"""Words in quotes: within single ones nothing is replaced."""
Handler = Callable[["Conversion", StageState, Any], Any]
"""Applies one instruction to the state of its stage; may be a coroutine function."""


class Conversion:
    """Converts one Dockerfile to a plan; the instructions' modules use its methods."""

    def __init__(
        self, dockerfile: ins.Dockerfile, options: FrontendOptions, images: ImageResolver,
        handlers: Mapping[type[ins.Instruction], Handler],
    ) -> None:  # fmt: skip
        self._handlers = handlers
        self.file, self.options, self._images = dockerfile, options, images
        self._stages = Stages(dockerfile.stages)
        self._is_one_of_many = len(dockerfile.stages) > 1 or any(
            map(_names_a_source, dockerfile.stages)
        )
        self._done: dict[int, StageState] = {}
        self._open: list[int] = []
        self._steps: dict[int, list[Step]] = {}
        self._resolved: dict[tuple[str, str], ResolvedImage] = {}
        self._used_args: set[str] = set()
        self.arguments: list[Argument] = []
        self.global_arguments: dict[str, Argument] = {}
        self._global_uses: dict[str, set[str]] = {}
        """By the name of a global argument: the variables that its default uses."""
        self.secrets: dict[str, Lent] = {}
        self.agents: dict[str, Lent] = {}
        check = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK") or ""
        what = "build-arg:BUILDKIT_DOCKERFILE_CHECK" if check else "check options"
        text = check or dockerfile.directives.get("check", "")
        self.linter = Linter(CheckOptions.parse(text, what))

    async def run(self) -> Plan:
        lint.check_file(self.file, self.linter)
        self.globals = self._global_args()
        target = self._stages.target(self.options.target)
        try:
            state = await self._build(target)
            self.linter.fail_if_asked()
        except PortsideError as err:
            note_findings(err, self.linter.warnings)
            raise
        self._labels(state)
        return Plan(
            output=state.output,
            config=state.config,
            base=state.base,
            history=state.history,
            steps=[
                *(
                    Step(text=arg.text, stage=-1, span=arg.span, created_by="")
                    for arg in self.file.global_args
                ),
                *(step for index in sorted(self._steps) for step in self._steps[index]),
            ],
            platform=self.options.platform,
            author=state.author,
            warnings=self.linter.warnings,
            unused_args=self._unused(),
            stage=target,
            stages=list(self._stages.all),
            arguments=self.arguments,
            secrets=self.secrets,
            agents=self.agents,
        )

    def _unused(self) -> list[str]:
        known = PROXIES | set(self._platform_args(self.options.platform))
        return sorted(
            name for name in self.options.build_args
            if name not in self._used_args and name not in known
            and not name.startswith("BUILDKIT_") and name != "SOURCE_DATE_EPOCH"
        )  # fmt: skip

    def _labels(self, state: StageState) -> None:
        """``--label``, as the last instruction."""
        if not self.options.labels:
            return
        state.put(labels={**(state.config.labels or {}), **self.options.labels})
        if self.options.phrases.is_classic:
            text = " ".join(f"{k}={v}" for k, v in sorted(self.options.labels.items()))
            where = state.stage.instructions[-1].span if state.stage.instructions else (
                state.stage.base.span)  # fmt: skip
            self.record(state, f"LABEL {text}", where, self.phrase(state, "LABEL", text))

    # -- variables -----------------------------------------------------------------------

    def _platform_args(self, target: Platform) -> dict[str, str]:
        build = Platform.host()
        found = {}
        for prefix, platform in (("BUILD", build), ("TARGET", target)):
            found[f"{prefix}PLATFORM"] = str(platform)
            found[f"{prefix}OS"] = platform.os
            found[f"{prefix}OSVERSION"] = platform.os_version
            found[f"{prefix}ARCH"] = platform.architecture
            found[f"{prefix}VARIANT"] = platform.variant
        found["TARGETSTAGE"] = self.options.target or "default"
        return found

    def _global_args(self) -> dict[str, str]:
        """ARGs before the first FROM, above the platform's."""
        found = self._platform_args(self.options.platform)
        for arg in self.file.global_args:
            for declared in arg.declared:
                value = self.given(declared.key)
                if value is None and declared.default is not None:
                    expansion = self.process(declared.default, found, arg.span)
                    value = expansion.text
                    self._global_uses[declared.key] = expansion.used
                if value is not None:
                    found[declared.key] = value
                self.global_arguments[declared.key] = Argument(declared.key, value, arg)
        return found

    def use_global(self, key: str) -> None:
        """Note that the target uses a global argument."""
        offered = self.global_arguments.get(key)
        if offered is not None and offered not in self.arguments:
            self.arguments.append(offered)
            for other in self._global_uses.get(key, ()):
                self.use_global(other)

    def given(self, name: str) -> str | None:
        value = self.options.build_args.get(name)
        if name in self.options.build_args:
            self._used_args.add(name)
        return value

    def _expand(self, text: str, variables: Mapping[str, str], span: Span) -> str:
        return self.process(text, variables, span).text

    def process(
        self, text: str, variables: Mapping[str, str], span: Span, *, raw_quotes: bool = False
    ) -> shell_words.Expansion:
        try:
            return shell_words.process(text, variables, self.file.escape, raw_quotes=raw_quotes)
        except DockerfileError:
            raise
        except InvalidParameter as err:
            raise DockerfileError(
                f"failed to process {quote(text)}: {err}", span, parsing=False
            ) from None

    def expanded(
        self, state: StageState, text: str, instruction: ins.Instruction, *,
        raw_quotes: bool = False,
    ) -> str:  # fmt: skip
        """Expand with the stage's variables; warn about variables that are not defined. Quotes
        are ordinary characters with ``raw_quotes``."""
        found = self.process(text, state.variables, instruction.span, raw_quotes=raw_quotes)
        for name in sorted(found.unset):
            if name in state.declared or name in PROXIES:
                continue
            hint = did_you_mean(name, [*state.variables, *state.declared], cased=True, prefix="$")
            self.linter.report(
                lint.UNDEFINED_VAR, f"Usage of undefined variable '${name}'{hint}",
                instruction.span,
            )  # fmt: skip
        return found.text

    # -- stages --------------------------------------------------------------------------

    async def _build(self, stage: ins.Stage) -> StageState:
        if stage.index in self._done:
            return self._done[stage.index]
        if stage.index in self._open:
            raise DockerfileError(
                f"circular dependency detected on stage: {display_name(stage)}",
                stage.base.span,
                parsing=False,
            )
        self._open.append(stage.index)
        state = await self._base(stage)
        state.total = 1 + sum(_changes_files(each) for each in stage.instructions)
        self._steps[stage.index].append(
            Step(text=stage.base.text, stage=stage.index, span=stage.base.span, created_by="",
                 output=state.output, config=state.config, base=state.base,
                 below=tuple(state.history))
        )  # fmt: skip
        await self._triggers(state)
        for instruction in stage.instructions:
            await self._apply(state, instruction)
        self._open.pop()
        self._done[stage.index] = state
        return state

    async def _apply(self, state: StageState, instruction: ins.Instruction) -> None:
        state.number += _changes_files(instruction)
        handler = self._handlers[type(instruction)]
        try:
            found = handler(self, state, instruction)
            if found is not None:
                await found
        except DockerfileError:
            raise
        except InvalidParameter as err:
            raise DockerfileError(str(err), instruction.span, parsing=False) from err

    async def _triggers(self, state: StageState) -> None:
        triggers = state.config.on_build or ()
        if not triggers:
            return
        state.put(on_build=None)
        state.in_triggers = True
        for text in triggers:
            try:
                found = parse_trigger(text)
                state.total += _changes_files(found)
            except DockerfileError as err:
                raise DockerfileError(
                    f"ONBUILD trigger {text!r} of {state.stage.base.base}: {err.reason}",
                    state.stage.base.span,
                ) from None
            if isinstance(found, (ins.From, ins.OnBuild, ins.Maintainer)):
                raise DockerfileError(
                    f"{found.name} isn't allowed as an ONBUILD trigger", state.stage.base.span
                )
            await self._apply(state, _placed(found, state.stage.base.span))
        state.in_triggers = False

    async def _base(self, stage: ins.Stage) -> StageState:
        base = stage.base
        self._steps.setdefault(stage.index, [])
        name = self._from_word(base.base, base, "FROM")
        platform = self.options.platform
        if base.platform:
            text = self._from_word(base.platform, base, "--platform")
            if not text:
                raise DockerfileError(
                    f"empty platform value from expression {base.platform}", base.span,
                    parsing=False,
                )  # fmt: skip
            try:
                platform = Platform.parse(text)
            except InvalidParameter as err:
                raise DockerfileError(
                    f"failed to parse platform {text}: {err}", base.span, parsing=False
                ) from None
        if not name:
            raise DockerfileError(f"base name ({base.base}) should not be blank", base.span,
                                  parsing=False)  # fmt: skip
        earlier = self._stages.before(stage.index, name)
        context = self.named_context(name)
        if context is None and earlier is not None:
            parent = await self._build(earlier)
            return _child(stage, parent, is_classic=self.options.phrases.is_classic)
        if context is not None and context.output is not None:
            return self._empty(stage, platform, context.output, context.config)
        if context is None and name == "scratch":
            return self._empty(stage, platform, None)
        resolved = await self._resolve(context.image if context else name, platform, base.span)
        return self._on_image(stage, platform, resolved, name)

    def _empty(
        self, stage: ins.Stage, platform: Platform, root: llb.Output | None,
        image: ImageConfig | None = None,
    ) -> StageState:  # fmt: skip
        """A stage on a tree; without an image's configuration, unless it is known."""
        config = self._first_config(image.run if image is not None else None)
        return StageState(stage, platform, root, config, env=_pairs(config.env))

    def _on_image(
        self, stage: ins.Stage, platform: Platform, resolved: ResolvedImage, name: str
    ) -> StageState:
        offered = resolved.config.platform
        if offered.architecture and not platform.matches(offered):
            self.linter.report(
                lint.INVALID_BASE_IMAGE_PLATFORM,
                f'Base image {name} was pulled with platform "{offered}", expected "{platform}" '
                "for current build",
                stage.base.span,
            )
        config = self._first_config(resolved.config.run)
        total = 1 + sum(_changes_files(each) for each in stage.instructions)
        label = self._label(stage, 1, total, f"FROM {_canonical(name)}")
        output = llb.image(resolved.ref, platform, name=label)
        root = output if resolved.config.diff_ids else None
        state = StageState(stage, platform, root, config, resolved, resolved.config.author)
        state.env = _pairs(config.env)
        return state

    def _first_config(self, run: RunConfig | None) -> RunConfig:
        found = run or RunConfig(working_dir="/")
        if "PATH" not in _pairs(found.env):
            found = msgspec.structs.replace(found, env=(*(found.env or ()), f"PATH={DEFAULT_PATH}"))
        return found

    def _from_word(self, text: str, base: ins.From, what: str) -> str:
        if what == "FROM":
            self._default_base(text, base)
        found = self.process(text, self.globals, base.span)
        for name in sorted(found.used):
            self.use_global(name)
        for name in sorted(found.unset - set(self.global_arguments)):
            known = [*self.globals, *self.global_arguments]
            hint = did_you_mean(name, known, cased=True)
            self.linter.report(
                lint.UNDEFINED_ARG_IN_FROM, f"FROM argument '{name}' is not declared{hint}",
                base.span,
            )  # fmt: skip
        return found.text

    def _default_base(self, text: str, base: ins.From) -> None:
        """Whether the name is one, too, without any build argument."""
        defaults = self._platform_args(self.options.platform)
        for arg in self.file.global_args:
            for declared in arg.declared:
                if declared.default is not None:
                    defaults[declared.key] = self._expand(declared.default, defaults, arg.span)
        if not _is_reference(self._expand(text, defaults, base.span)):
            self.linter.report(
                lint.INVALID_DEFAULT_ARG_IN_FROM,
                f"Default value for ARG {text} results in empty or invalid base image name",
                base.span,
            )

    def named_context(self, name: str) -> NamedContext | None:
        contexts = self.options.contexts
        for known in (name, name.lower()):
            if known in contexts:
                return contexts[known]
        return None

    async def _resolve(self, name: str, platform: Platform, span: Span) -> ResolvedImage:
        key = (name, str(platform))
        if key not in self._resolved:
            try:
                Reference.parse(name)
                self._resolved[key] = await self._images.resolve(name, platform)
            except InvalidParameter as err:
                raise DockerfileError(
                    f'failed to parse stage name "{name}": {err}', span, parsing=False
                ) from err
            except PortsideError as err:
                raise placed(err, span) from err.__cause__
        return self._resolved[key]

    async def source(
        self, state: StageState, name: str, instruction: ins.Instruction
    ) -> tuple[llb.Output | None, bool]:
        """The tree that ``--from`` names, and whether it is a context from a client."""
        if not name:
            if self.options.context is None:
                raise DockerfileError(f"{instruction.name}: there is no build context",
                                      instruction.span, parsing=False)  # fmt: skip
            return self.options.context, True
        context = self.named_context(name)
        if context is None:
            stage = self._stages.source(name, state.stage, instruction.span)
            if stage is not None:
                return (await self._build(stage)).output, False
            if name == "scratch":
                return None, False
        elif context.output is not None:
            return context.output, True
        image = context.image if context else name
        try:
            resolved = await self._resolve(image, state.platform, instruction.span)
        except DockerfileError:
            raise
        except PortsideError as err:
            names = [stage.name for stage in self._stages.all if stage.name]
            hint = did_you_mean(name, names)
            renamed = reworded(err, f"invalid from flag value {name}: {err}{hint}")
            raise placed(renamed, instruction.span) from err
        return llb.image(resolved.ref, state.platform, name=f"FROM {image}"), False

    # -- recording -----------------------------------------------------------------------

    def _label(self, stage: ins.Stage, number: int, total: int, text: str) -> str:
        """``[stage 2/5] RUN make``."""
        parts = []
        if self.options.show_platform:
            parts.append(str(self.options.platform))
        if stage.name:
            parts.append(stage.name)
        elif self._is_one_of_many:
            parts.append(display_name(stage))
        parts.append(f"{number}/{total}")
        return f"[{' '.join(parts)}] {text}"

    def meta(
        self, state: StageState, instruction: ins.Instruction, suffix: str = ""
    ) -> llb.VertexMeta:
        """How the instruction's step is shown, with ``suffix``, and whether it is cached."""
        stage = state.stage
        shown = self._shown(state, instruction) + suffix
        ignore = self.options.no_cache or stage.name in self.options.no_cache_stages
        return llb.VertexMeta(
            name=self._label(stage, state.number + 1, state.total, shown),
            ignore_cache=ignore,
            group=stage.name or str(stage.index),
            location=(instruction.span.line, instruction.span.end_line),
            file=self.file.file,
        )

    def _shown(self, state: StageState, instruction: ins.Instruction) -> str:
        """The instruction for people: variables that have a value are replaced."""
        text = instruction.text
        with contextlib.suppress(InvalidParameter):
            text = "".join(
                part if part.startswith("'") else shell_words.process(
                    part, state.variables, self.file.escape, keep_unset=True, raw_quotes=True
                ).text
                for part in _QUOTED.split(text)
            )  # fmt: skip
        return instruction.name + text[len(instruction.keyword) :]

    def phrase(self, state: StageState, keyword: str, text: str) -> str:
        return self.options.phrases.other(keyword, text, state.shell)

    def record(
        self, state: StageState, text: str, span: Span, created_by: str, *, changed: bool = False
    ) -> None:
        step = Step(
            text=text, stage=state.stage.index, span=span, created_by=created_by,
            author=state.author if self.options.phrases.is_classic else "",
            output=state.output if changed else None, config=state.config,
            triggered=state.in_triggers,
        )  # fmt: skip
        state.history.append(step)
        self._steps[state.stage.index].append(step)

    def note(self, state: StageState, instruction: ins.Instruction, text: str) -> None:
        """An instruction that changed the configuration."""
        self.record(
            state, instruction.text, instruction.span,
            self.phrase(state, instruction.name, text),
        )  # fmt: skip


def _child(stage: ins.Stage, parent: StageState, *, is_classic: bool) -> StageState:
    """Start a stage from another one: take its files and configuration, and its arguments unless
    the builder is the classic one."""
    arguments: dict[str, Any] = {}
    if not is_classic:
        arguments = {
            "args": dict(parent.args), "declared": dict(parent.declared),
            "hiding": dict(parent.hiding),
        }  # fmt: skip
    return StageState(
        stage,
        parent.platform,
        parent.output,
        parent.config,
        parent.base,
        parent.author,
        list(parent.history),
        env=dict(parent.env),
        **arguments,
    )


def _placed(instruction: ins.Instruction, span: Span) -> ins.Instruction:
    """An ONBUILD trigger, placed at the FROM: the trigger itself is not in this file."""
    from dataclasses import replace

    return replace(instruction, span=span, triggered=True)


def _names_a_source(stage: ins.Stage) -> bool:
    """Whether an instruction has a source besides the stage: BuildKit counts it as a stage."""
    return any(
        (isinstance(each, ins.Run) and each.mounts)
        or (isinstance(each, ins.Copy) and each.source_stage)
        for each in stage.instructions
    )


def _changes_files(instruction: ins.Instruction) -> bool:
    """Whether an instruction may change files, and so counts as a step."""
    return isinstance(instruction, (ins.Run, ins.Copy, ins.Add, ins.Workdir))


def _canonical(name: str) -> str:
    try:
        return str(Reference.parse(name).tagged())
    except PortsideError:
        return name


def _pairs(env: Sequence[str] | None) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in env or ())
    return {name: value for name, _, value in pairs}


def _is_reference(text: str) -> bool:
    try:
        Reference.parse(text)
    except PortsideError:
        return False
    return True
