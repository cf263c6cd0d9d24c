"""From a Dockerfile to LLB and an image configuration.

Only the stages that the target needs are turned into vertices. Each instruction that may change
files makes one vertex above the one before it; the others change the configuration alone. What
the image's history will say of each is kept beside the output, so that the exporter can tell
which instruction made which layer.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from portside.builder import llb
from portside.builder.dockerfile import history_text, lint, shell_words
from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import DockerfileError, Span, did_you_mean, placed
from portside.builder.dockerfile.lint import CheckOptions, Linter
from portside.builder.dockerfile.run_mounts import MountFlag, parse_mount
from portside.builder.dockerfile.stages import Stages
from portside.builder.dockerfile.syntax import parse_trigger
from portside.builder.dockerfile.transfers import Transfers, destination
from portside.images.config_changes import exposed, health_options, stop_signal
from portside.model.dockerignore import Ignore
from portside.model.errors import InvalidParameter, PortsideError
from portside.model.image import Healthcheck, ImageConfig, RunConfig
from portside.model.platform import Platform
from portside.model.reference import Reference

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = frozenset(
    name for base in ("http", "https", "ftp", "no", "all")
    for name in (f"{base}_proxy", f"{base.upper()}_PROXY")
)  # fmt: skip


class ResolvedImage(NamedTuple):
    """An image that a FROM, a ``--from`` or a mount names."""

    ref: str
    """What is put into the graph; identifies the content (a digest, or the image's ID)."""
    config: ImageConfig
    id: str = ""


class ImageResolver(Protocol):
    async def resolve(self, ref: str, platform: Platform) -> ResolvedImage:
        """The image behind a reference; NotFound and its kin when it cannot be had."""
        ...


@dataclass(frozen=True)
class NamedContext:
    """``--build-context NAME=…``: another tree, or another image in place of a name."""

    output: llb.Output | None = None
    image: str = ""
    config: ImageConfig | None = None
    """Of the image that ``output`` is the root of."""


@dataclass(kw_only=True)
class FrontendOptions:
    """What a request says beside the Dockerfile."""

    context: llb.Output | None = None
    """The main build context."""
    ignore: Ignore | None = None
    target: str = ""
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    """None: declared, and not set."""
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: Platform = field(default_factory=Platform.host)
    contexts: Mapping[str, NamedContext] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    network: str = ""
    """For steps without ``--network``; host, none or empty."""
    extra_hosts: tuple[llb.HostAlias, ...] = ()
    ulimits: tuple[llb.UlimitOpt, ...] = ()
    shm_size: int = 0
    cgroup_parent: str = ""
    hostname: str = ""
    cache_namespace: str = ""
    phrases: history_text.Phrases = field(default_factory=history_text.Phrases)
    show_platform: bool = False
    """Several platforms are built: name this one's in the steps."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One instruction of the plan."""

    text: str
    stage: int
    span: Span
    created_by: str
    author: str = ""
    output: llb.Output | None = None
    """The root after it; None when it changes no files."""
    config: RunConfig = field(default_factory=RunConfig)
    """The configuration after it."""
    triggered: bool = False
    """It came from the base image's ONBUILD."""


@dataclass(kw_only=True)
class Plan:
    """What the target comes to."""

    output: llb.Output | None
    """None: an empty root."""
    config: RunConfig
    base: ResolvedImage | None
    """The image that the target's first stage stands on."""
    history: list[Step]
    """Of the stages from that image on."""
    steps: list[Step]
    """All instructions of all needed stages, in the file's order, FROM included."""
    platform: Platform
    author: str = ""
    warnings: list[lint.Warned] = field(default_factory=list)
    unused_args: list[str] = field(default_factory=list)
    stage: ins.Stage | None = None
    stages: list[ins.Stage] = field(default_factory=list)
    """All of the file."""
    arguments: list[tuple[ins.Arg, dict[str, str]]] = field(default_factory=list)
    """What the needed stages declare, with the values."""
    secrets: dict[str, bool] = field(default_factory=dict)
    """IDs that steps read, and whether they must be there."""
    agents: dict[str, bool] = field(default_factory=dict)


async def convert(
    dockerfile: ins.Dockerfile, options: FrontendOptions, images: ImageResolver
) -> Plan:
    """The plan of a Dockerfile. DockerfileError; what the resolver raises."""
    try:
        return await Conversion(dockerfile, options, images).run()
    except DockerfileError as err:
        raise err.within(dockerfile.file, dockerfile.source) from None


@dataclass
class StageState:
    """A stage on its way."""

    stage: ins.Stage
    platform: Platform
    output: llb.Output | None = None
    config: RunConfig = field(default_factory=RunConfig)
    base: ResolvedImage | None = None
    author: str = ""
    history: list[Step] = field(default_factory=list)
    args: dict[str, str] = field(default_factory=dict)
    """Declared in this stage, with a value."""
    declared: set[str] = field(default_factory=set)
    env: dict[str, str] = field(default_factory=dict)
    cmd_set: bool = False
    workdir_set: bool = False
    number: int = 0
    total: int = 0
    in_triggers: bool = False

    @property
    def shell(self) -> tuple[str, ...]:
        return self.config.shell or DEFAULT_SHELL

    @property
    def workdir(self) -> str:
        return self.config.working_dir or "/"

    @property
    def variables(self) -> dict[str, str]:
        return {**self.args, **self.env}

    def put(self, **fields: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **fields)


class Conversion:
    def __init__(
        self, dockerfile: ins.Dockerfile, options: FrontendOptions, images: ImageResolver
    ) -> None:
        self.file, self.options, self._images = dockerfile, options, images
        self._stages = Stages(dockerfile.stages)
        self._done: dict[int, StageState] = {}
        self._open: list[int] = []
        self._steps: dict[int, list[Step]] = {}
        self._resolved: dict[tuple[str, str], ResolvedImage] = {}
        self._used_args: set[str] = set()
        self._arguments: list[tuple[ins.Arg, dict[str, str]]] = []
        self._secret_ids: dict[str, bool] = {}
        self._agent_ids: dict[str, bool] = {}
        check = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK") or ""
        text, place = dockerfile.directives.get("check", ""), Span(1, 1)
        self.linter = Linter(CheckOptions.parse(check or text, place))

    async def run(self) -> Plan:
        lint.check_file(self.file, self.linter)
        self._globals = self._global_args()
        target = self._stages.target(self.options.target)
        state = await self._build(target)
        self.linter.fail_if_asked()
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
            platform=state.platform,
            author=state.author,
            warnings=self.linter.warnings,
            unused_args=self._unused(),
            stage=target,
            stages=list(self._stages.all),
            arguments=self._arguments,
            secrets=self._secret_ids,
            agents=self._agent_ids,
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
            self._record(state, f"LABEL {text}", where, self._phrase(state, "LABEL", text))

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
                value = self._given(declared.key)
                if value is None and declared.default is not None:
                    value = self._expand(declared.default, found, arg.span)
                if value is not None:
                    found[declared.key] = value
            self._arguments.append((arg, found))
        return found

    def _given(self, name: str) -> str | None:
        value = self.options.build_args.get(name)
        if name in self.options.build_args:
            self._used_args.add(name)
        return value

    def _expand(self, text: str, variables: Mapping[str, str], span: Span) -> str:
        return self._process(text, variables, span).text

    def _process(
        self, text: str, variables: Mapping[str, str], span: Span
    ) -> shell_words.Expansion:
        try:
            return shell_words.process(text, variables, self.file.escape)
        except DockerfileError:
            raise
        except InvalidParameter as err:
            raise DockerfileError(
                f'failed to process "{text}": {err}', span, parsing=False
            ) from None

    def expanded(self, state: StageState, text: str, instruction: ins.Instruction) -> str:
        """Expand with the stage's variables, and tell of those that are not defined."""
        found = self._process(text, state.variables, instruction.span)
        for name in sorted(found.unset):
            if name in state.declared or name in PROXIES or not name[:1].isalpha():
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
            name = stage.name or str(stage.index)
            raise DockerfileError(
                f"circular dependency detected on stage: {name}", stage.base.span, parsing=False
            )
        self._open.append(stage.index)
        state = await self._base(stage)
        state.total = 1 + sum(_changes_files(each) for each in stage.instructions)
        self._steps[stage.index].append(
            Step(text=stage.base.text, stage=stage.index, span=stage.base.span, created_by="",
                 output=state.output, config=state.config)
        )  # fmt: skip
        await self._triggers(state)
        for instruction in stage.instructions:
            await self._apply(state, instruction)
        self._open.pop()
        self._done[stage.index] = state
        return state

    async def _apply(self, state: StageState, instruction: ins.Instruction) -> None:
        state.number += _changes_files(instruction)
        handler = _HANDLERS[type(instruction)]
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
            platform = Platform.parse(self._from_word(base.platform, base, "--platform"))
        if not name:
            raise DockerfileError(f"base name ({base.base}) should not be blank", base.span,
                                  parsing=False)  # fmt: skip
        earlier = self._stages.before(stage.index, name)
        context = self._named(name)
        if context is None and earlier is not None:
            return _child(stage, await self._build(earlier))
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
        found = run or RunConfig()
        if "PATH" not in _pairs(found.env):
            found = msgspec.structs.replace(found, env=(*(found.env or ()), f"PATH={DEFAULT_PATH}"))
        return msgspec.structs.replace(found, args_escaped=False)

    def _from_word(self, text: str, base: ins.From, what: str) -> str:
        found = self._process(text, self._globals, base.span)
        for name in sorted(found.unset):
            hint = did_you_mean(name, self._globals, cased=True)
            self.linter.report(
                lint.UNDEFINED_ARG_IN_FROM, f"FROM argument '{name}' is not declared{hint}",
                base.span,
            )  # fmt: skip
        if what == "FROM" and found.used:
            self._default_base(text, base)
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

    def _named(self, name: str) -> NamedContext | None:
        contexts = self.options.contexts
        for known in (name, name.lower()):
            if known in contexts:
                return contexts[known]
        return None

    async def _resolve(self, name: str, platform: Platform, span: Span) -> ResolvedImage:
        key = (name, str(platform))
        if key not in self._resolved:
            try:
                self._resolved[key] = await self._images.resolve(name, platform)
            except InvalidParameter as err:
                raise DockerfileError(
                    f'failed to parse stage name "{name}": {err}', span, parsing=False
                ) from err
            except PortsideError as err:
                raise placed(err, span) from err.__cause__
        return self._resolved[key]

    async def _source(
        self, state: StageState, name: str, instruction: ins.Instruction
    ) -> tuple[llb.Output | None, bool]:
        """The tree that ``--from`` names, and whether it is a context from a client."""
        if not name:
            if self.options.context is None:
                raise DockerfileError(f"{instruction.name}: there is no build context",
                                      instruction.span, parsing=False)  # fmt: skip
            return self.options.context, True
        context = self._named(name)
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
        except PortsideError as err:
            names = [stage.name for stage in self._stages.all if stage.name]
            hint = did_you_mean(name, names)
            told = type(err)(f"invalid from flag value {name}: {err}{hint}")
            raise placed(told, instruction.span) from err
        return llb.image(resolved.ref, state.platform, name=f"FROM {image}"), False

    # -- recording -----------------------------------------------------------------------

    def _label(self, stage: ins.Stage, number: int, total: int, text: str) -> str:
        """``[stage 2/5] RUN make``."""
        parts = []
        if self.options.show_platform:
            parts.append(str(self.options.platform))
        if stage.name:
            parts.append(stage.name)
        elif len(self._stages.all) > 1:
            parts.append(f"stage-{stage.index}")
        parts.append(f"{number}/{total}")
        return f"[{' '.join(parts)}] {text}"

    def _meta(self, state: StageState, instruction: ins.Instruction) -> llb.VertexMeta:
        stage = state.stage
        ignore = self.options.no_cache or stage.name in self.options.no_cache_stages
        return llb.VertexMeta(
            name=self._label(stage, state.number + 1, state.total, instruction.text),
            ignore_cache=ignore,
            group=stage.name or str(stage.index),
            location=(instruction.span.line, instruction.span.end_line),
            file=self.file.file,
        )

    def _phrase(self, state: StageState, keyword: str, text: str) -> str:
        return self.options.phrases.other(keyword, text, state.shell)

    def _record(
        self, state: StageState, text: str, span: Span, created_by: str, *, changed: bool = False
    ) -> None:
        step = Step(
            text=text, stage=state.stage.index, span=span, created_by=created_by,
            author=state.author, output=state.output if changed else None, config=state.config,
            triggered=state.in_triggers,
        )  # fmt: skip
        state.history.append(step)
        self._steps[state.stage.index].append(step)

    def _noted(self, state: StageState, instruction: ins.Instruction, text: str) -> None:
        """An instruction that changed the configuration."""
        self._record(
            state, instruction.text, instruction.span,
            self._phrase(state, instruction.name, text),
        )  # fmt: skip

    # -- configuration -------------------------------------------------------------------

    def arg(self, state: StageState, instruction: ins.Arg) -> None:
        shown = []
        for declared in instruction.declared:
            key = self.expanded(state, declared.key, instruction)
            default = declared.default
            default = None if default is None else self.expanded(state, default, instruction)
            value = self._given(key)
            if value is None:
                value = default
            if value is None:
                value = self._globals.get(key)
            state.declared.add(key)
            if value is not None:
                state.args[key] = value
            written = value if value is not None and not self.options.phrases.is_classic else (
                default)  # fmt: skip
            shown.append(key if written is None else f"{key}={written}")
        self._arguments.append((instruction, state.args))
        self._noted(state, instruction, " ".join(shown))

    def env(self, state: StageState, instruction: ins.Env) -> None:
        found = {
            self.expanded(state, pair.key, instruction): self.expanded(
                state, pair.value, instruction
            )
            for pair in instruction.pairs
        }
        state.env.update(found)
        state.put(env=tuple(f"{k}={v}" for k, v in state.env.items()))
        self._noted(state, instruction, " ".join(f"{k}={v}" for k, v in found.items()))

    def label(self, state: StageState, instruction: ins.Label) -> None:
        found = {
            self.expanded(state, pair.key, instruction): self.expanded(
                state, pair.value, instruction
            )
            for pair in instruction.pairs
        }
        state.put(labels={**(state.config.labels or {}), **found})
        self._noted(state, instruction, " ".join(f"{k}={v}" for k, v in found.items()))

    def maintainer(self, state: StageState, instruction: ins.Maintainer) -> None:
        state.author = instruction.author
        self._noted(state, instruction, instruction.author)

    def cmd(self, state: StageState, instruction: ins.Cmd) -> None:
        words = self._command(state, instruction.command)
        state.cmd_set = True
        escaped = not instruction.command.is_shell or not self.options.phrases.is_classic
        state.put(cmd=words or None, args_escaped=escaped and not self.options.phrases.is_classic)
        self._noted(state, instruction, history_text.quoted(words))

    def entrypoint(self, state: StageState, instruction: ins.Entrypoint) -> None:
        words = self._command(state, instruction.command)
        # a command that was inherited was meant for the entrypoint that goes
        state.put(entrypoint=words or None, cmd=state.config.cmd if state.cmd_set else None)
        self._noted(state, instruction, history_text.quoted(words))

    def _command(self, state: StageState, command: ins.Command) -> tuple[str, ...]:
        if command.is_shell and command.words:
            return (*state.shell, *command.words)
        return command.words

    def shell(self, state: StageState, instruction: ins.Shell) -> None:
        state.put(shell=instruction.words)
        self._noted(state, instruction, history_text.plain(instruction.words))

    def expose(self, state: StageState, instruction: ins.Expose) -> None:
        ports: list[str] = []
        for word in instruction.ports:
            ports += self._process(word, state.variables, instruction.span).words
            self.expanded(state, word, instruction)
        found = exposed([port.rpartition(":")[2] for port in ports])
        state.put(exposed_ports={**(state.config.exposed_ports or {}), **found})
        if self.options.phrases.is_classic:
            self._noted(state, instruction, " ".join(sorted(ports)))
        else:
            self._noted(state, instruction, history_text.plain(sorted(found)))

    def volume(self, state: StageState, instruction: ins.Volume) -> None:
        paths = [self.expanded(state, path, instruction) for path in instruction.paths]
        if not all(paths):
            raise InvalidParameter("VOLUME specified can not be an empty string")
        state.put(volumes={**(state.config.volumes or {}), **{path: {} for path in paths}})
        self._noted(state, instruction, history_text.plain(paths))

    def user(self, state: StageState, instruction: ins.User) -> None:
        user = self.expanded(state, instruction.user, instruction)
        state.put(user=user)
        self._noted(state, instruction, user)

    def stopsignal(self, state: StageState, instruction: ins.StopSignal) -> None:
        name = stop_signal(self.expanded(state, instruction.signal, instruction))
        state.put(stop_signal=name)
        self._noted(state, instruction, name)

    def healthcheck(self, state: StageState, instruction: ins.HealthCheck) -> None:
        command = instruction.command
        if command is None:
            check = Healthcheck(test=("NONE",))
        else:
            kind = "CMD-SHELL" if command.is_shell else "CMD"
            options = {
                name.replace("_", "-"): text
                for name in ("interval", "timeout", "start_period", "start_interval", "retries")
                if (text := self.expanded(state, getattr(instruction, name), instruction))
            }
            check = health_options((kind, *command.words), options)
        state.put(healthcheck=check)
        self._noted(state, instruction, self.options.phrases.health(check))

    def onbuild(self, state: StageState, instruction: ins.OnBuild) -> None:
        state.put(on_build=(*(state.config.on_build or ()), instruction.trigger))
        self._noted(state, instruction, instruction.trigger)

    # -- files ---------------------------------------------------------------------------

    def workdir(self, state: StageState, instruction: ins.Workdir) -> None:
        path = self.expanded(state, instruction.path, instruction)
        if not path:
            raise InvalidParameter("WORKDIR needs a path")
        if not path.startswith("/") and not state.workdir_set and not state.config.working_dir:
            self.linter.report(
                lint.WORKDIR_RELATIVE_PATH,
                f'Relative workdir "{path}" can have unexpected results if the base image changes',
                instruction.span,
            )
        state.workdir_set = True
        path = posixpath.normpath(posixpath.join(state.workdir, path))
        path = "/" + path.lstrip("/")
        state.put(working_dir=path)
        if path != "/":
            action = llb.MakeDir(path=path, make_parents=True)
            meta = self._meta(state, instruction)
            state.output = llb.file_op(state.output, [(action, None)], meta, state.platform)
        created_by = self._phrase(state, "WORKDIR", path)
        self._record(state, instruction.text, instruction.span, created_by, changed=path != "/")

    async def copy(self, state: StageState, instruction: ins.Copy) -> None:
        name = self.expanded(state, instruction.source_stage, instruction)
        source, is_client = await self._source(state, name, instruction)
        ignore = self.options.ignore if is_client and not name else None
        await self._transfer(state, instruction, source, ignore, is_add=False)

    async def add(self, state: StageState, instruction: ins.Add) -> None:
        await self._transfer(
            state, instruction, self.options.context, self.options.ignore, is_add=True
        )

    async def _transfer(
        self, state: StageState, instruction: ins.Copy | ins.Add, source: llb.Output | None,
        ignore: Ignore | None, *, is_add: bool,
    ) -> None:  # fmt: skip
        dest = self.expanded(state, instruction.destination, instruction)
        sources = [self.expanded(state, word, instruction) for word in instruction.sources]
        if not dest:
            raise InvalidParameter(f"{instruction.name}: the destination is empty")
        dest = destination(state.workdir, dest)
        if len(sources) + len(instruction.heredocs) > 1 and not dest.endswith("/"):
            raise InvalidParameter(
                f"When using {instruction.name} with more than one source file, the destination "
                "must be a directory and end with a /"
            )
        maker = Transfers(self, state, instruction, dest, ignore, len(sources))
        actions = [maker.one(word, source, is_add=is_add) for word in sources]
        actions += [maker.heredoc(item) for item in instruction.heredocs]
        meta = self._meta(state, instruction)
        if instruction.link:
            part = llb.file_op(None, actions, meta, state.platform)
            below = [state.output] if state.output is not None else []
            label = llb.VertexMeta(name=f"merge {instruction.text}", group=meta.group)
            state.output = llb.merge([*below, part], label) if below else part
        else:
            state.output = llb.file_op(state.output, actions, meta, state.platform)
        content = f"{maker.named()} in {self.expanded(state, instruction.destination, instruction)}"
        created_by = self.options.phrases.transfer(
            _flattened(instruction.text), instruction.name, state.shell, content
        )
        self._record(state, instruction.text, instruction.span, created_by, changed=True)

    # -- running -------------------------------------------------------------------------

    async def run_(self, state: StageState, instruction: ins.Run) -> None:
        command = instruction.command
        args = self._command(state, command)
        mounts = [llb.Mount(dest="/", input=0 if state.output else llb.SCRATCH, output=0)]
        inputs = [state.output] if state.output else []
        if command.heredocs:
            args, script = self._script(state, command)
            if script is not None:
                mounts.append(llb.Mount(dest="/dev/pipes", input=len(inputs), readonly=True))
                inputs.append(script)
        secrets: list[llb.SecretEnv] = []
        for text in instruction.mounts:
            flag = parse_mount(text, lambda word: self.expanded(state, word, instruction))
            await self._mount(state, instruction, flag, mounts, inputs, secrets)
        agent = next((mount.dest for mount in mounts if mount.type == "ssh"), "")
        network = self.expanded(state, instruction.network, instruction) or self.options.network
        network = {"": "sandbox", "default": "sandbox"}.get(network, network)
        op = llb.ExecOp(
            meta=self._exec_meta(state, args, agent),
            mounts=tuple(mounts),
            network=network,
            security=instruction.security or "sandbox",
            secret_env=tuple(secrets),
            cdi_devices=tuple(
                self.expanded(state, text, instruction) for text in instruction.devices
            ),
            shm_size=self.options.shm_size,
        )
        meta = self._meta(state, instruction)
        state.output = llb.Vertex(op, tuple(inputs), state.platform, meta).output()
        build_args = [f"{k}={v}" for k, v in sorted(state.args.items()) if k not in PROXIES]
        created_by = self.options.phrases.run(args, build_args)
        self._record(state, instruction.text, instruction.span, created_by, changed=True)

    def _exec_meta(self, state: StageState, args: Sequence[str], agent: str = "") -> llb.Meta:
        """``agent``: where the client's SSH agent is mounted."""
        env = {**{k: v for k, v in state.args.items() if k not in PROXIES}, **state.env}
        if agent:
            env.setdefault("SSH_AUTH_SOCK", agent)
        given = self.options.build_args
        return llb.Meta(
            args=tuple(args),
            env=tuple(f"{k}={v}" for k, v in env.items()),
            cwd=state.workdir,
            user=state.config.user,
            proxy={k: v for k, v in given.items() if k in PROXIES and v is not None},
            extra_hosts=self.options.extra_hosts,
            hostname=self.options.hostname,
            ulimits=self.options.ulimits,
            cgroup_parent=self.options.cgroup_parent,
        )

    def _script(
        self, state: StageState, command: ins.Command
    ) -> tuple[tuple[str, ...], llb.Output | None]:
        """A here-document alone is the script; else the shell reads it."""
        text, first = command.words[0], command.heredocs[0]
        if len(command.heredocs) == 1 and re.fullmatch(r"\d*<<-?\S+", text.strip()):
            if first.content.startswith("#!"):
                action = llb.MakeFile(path=f"/{first.name}", data=first.content.encode(
                    "utf-8", "surrogateescape"), mode=0o755)  # fmt: skip
                meta = llb.VertexMeta(name=f"preparing here-document {first.name}")
                return (f"/dev/pipes/{first.name}",), llb.file_op(None, [(action, None)], meta)
            return (*state.shell, first.content), None
        body = "".join(f"\n{item.content}{item.name}" for item in command.heredocs)
        return (*state.shell, text + body), None

    async def _mount(
        self, state: StageState, instruction: ins.Run, flag: MountFlag, mounts: list[llb.Mount],
        inputs: list[llb.Output], secrets: list[llb.SecretEnv],
    ) -> None:  # fmt: skip
        target = destination(state.workdir, flag.target) if flag.target else ""
        if flag.type in ("bind", "cache") and (flag.type == "bind" or flag.source_stage):
            source, _ = await self._source(state, flag.source_stage, instruction)
        else:
            source = None
        number = llb.SCRATCH
        if source is not None:
            number = len(inputs)
            inputs.append(source)
        target = target.rstrip("/") or target
        if flag.type == "bind":
            mounts.append(
                llb.Mount(dest=target, input=number, selector=_inside(flag.source),
                          readonly=flag.readonly)
            )  # fmt: skip
        elif flag.type == "cache":
            identifier = f"{self.options.cache_namespace}/{flag.id or target}".lstrip("/")
            if source is None and (flag.uid or flag.gid or flag.mode is not None):
                number = len(inputs)
                inputs.append(_owned_directory(flag))
                selector = "/cache"
            else:
                selector = _inside(flag.source)
            mounts.append(
                llb.Mount(dest=target, type="cache", input=number, selector=selector,
                          readonly=flag.readonly,
                          cache=llb.CacheOpt(id=identifier, sharing=flag.sharing))
            )  # fmt: skip
        elif flag.type == "tmpfs":
            mounts.append(llb.Mount(dest=target, type="tmpfs", tmpfs_size=flag.size))
        else:
            self._secret(flag, target, mounts, secrets)

    def _secret(
        self, flag: MountFlag, target: str, mounts: list[llb.Mount],
        secrets: list[llb.SecretEnv],
    ) -> None:  # fmt: skip
        known = self._agent_ids if flag.type == "ssh" else self._secret_ids
        name = flag.id or ("default" if flag.type == "ssh" else posixpath.basename(target))
        known[name] = known.get(name, False) or flag.required
        if flag.type == "ssh":
            identifier = flag.id or "default"
            dest = target or f"/run/buildkit/ssh_agent.{sum(m.type == 'ssh' for m in mounts)}"
            mode = 0o600 if flag.mode is None else flag.mode
        else:
            identifier = flag.id or posixpath.basename(target)
            dest = target or f"/run/secrets/{posixpath.basename(identifier)}"
            mode = 0o400 if flag.mode is None else flag.mode
            if flag.env:
                secrets.append(
                    llb.SecretEnv(id=identifier, name=flag.env, optional=not flag.required)
                )
                if not flag.target:
                    return
        option = llb.SecretOpt(
            id=identifier, uid=flag.uid, gid=flag.gid, mode=mode, optional=not flag.required
        )
        mounts.append(llb.Mount(dest=dest, type=flag.type, secret=option))


_Handler = Callable[[Conversion, StageState, Any], Any]
_HANDLERS: dict[type[ins.Instruction], _Handler] = {
    ins.Add: Conversion.add,
    ins.Arg: Conversion.arg,
    ins.Cmd: Conversion.cmd,
    ins.Copy: Conversion.copy,
    ins.Entrypoint: Conversion.entrypoint,
    ins.Env: Conversion.env,
    ins.Expose: Conversion.expose,
    ins.HealthCheck: Conversion.healthcheck,
    ins.Label: Conversion.label,
    ins.Maintainer: Conversion.maintainer,
    ins.OnBuild: Conversion.onbuild,
    ins.Run: Conversion.run_,
    ins.Shell: Conversion.shell,
    ins.StopSignal: Conversion.stopsignal,
    ins.User: Conversion.user,
    ins.Volume: Conversion.volume,
    ins.Workdir: Conversion.workdir,
}


def _child(stage: ins.Stage, parent: StageState) -> StageState:
    """A stage that stands on another one: its files and configuration, not its arguments."""
    return StageState(
        stage,
        parent.platform,
        parent.output,
        parent.config,
        parent.base,
        parent.author,
        list(parent.history),
        env=dict(parent.env),
    )


def _placed(instruction: ins.Instruction, span: Span) -> ins.Instruction:
    """A trigger has no place of its own in this file: it is told of at the FROM."""
    from dataclasses import replace

    return replace(instruction, span=span, triggered=True)


def _changes_files(instruction: ins.Instruction) -> bool:
    """It counts as a step."""
    return isinstance(instruction, (ins.Run, ins.Copy, ins.Add, ins.Workdir))


def _canonical(name: str) -> str:
    try:
        return str(Reference.parse(name).tagged())
    except PortsideError:
        return name


def _pairs(env: Sequence[str] | None) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in env or ())
    return {name: value for name, _, value in pairs}


def _inside(path: str) -> str:
    """A path in another root; empty for the whole."""
    found = posixpath.normpath(posixpath.join("/", path)).lstrip("/")
    return f"/{found}" if found else ""


def _owned_directory(flag: MountFlag) -> llb.Output:
    owner = llb.ChownOpt(user=llb.UserOpt(id=flag.uid), group=llb.UserOpt(id=flag.gid))
    mode = 0o755 if flag.mode is None else flag.mode
    action = llb.MakeDir(path="/cache", mode=mode, owner=owner, timestamp=0)
    meta = llb.VertexMeta(name="create a cache directory")
    return llb.file_op(None, [(action, None)], meta)


def _is_reference(text: str) -> bool:
    try:
        Reference.parse(text)
    except PortsideError:
        return False
    return True


def _flattened(text: str) -> str:
    return re.sub(r"\s+", " ", text)
