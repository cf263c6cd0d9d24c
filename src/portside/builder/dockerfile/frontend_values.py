"""Values of a Dockerfile build: the options, a stage's state while it is planned, the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from portside.builder import llb
from portside.builder.dockerfile import history_text, lint
from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import Span
from portside.model.dockerignore import Ignore
from portside.model.image import ImageConfig, RunConfig
from portside.model.platform import Platform

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = frozenset(
    name for base in ("http", "https", "ftp", "no", "all")
    for name in (f"{base}_proxy", f"{base.upper()}_PROXY")
)  # fmt: skip


class ResolvedImage(NamedTuple):
    """An image that a FROM, a ``--from`` or a mount names."""

    ref: str
    """The reference for the graph; identifies the content (a digest, or the image's ID)."""
    config: ImageConfig
    id: str = ""


class ImageResolver(Protocol):
    async def resolve(self, ref: str, platform: Platform) -> ResolvedImage:
        """The image behind a reference; NotFound and similar when it cannot be had."""
        ...


@dataclass(frozen=True)
class NamedContext:
    """``--build-context NAME=…``: another tree, or another image in place of a name."""

    output: llb.Output | None = None
    image: str = ""
    config: ImageConfig | None = None
    """Configuration of the image whose root ``output`` is."""


@dataclass(kw_only=True)
class FrontendOptions:
    """The options of a request, apart from the Dockerfile."""

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
    """The root after the instruction; None when the instruction changes no files."""
    config: RunConfig = field(default_factory=RunConfig)
    """The configuration after the instruction."""
    triggered: bool = False
    """The instruction came from the base image's ONBUILD."""
    base: ResolvedImage | None = None
    """For a FROM: the image that the stage is based on, through other stages."""
    below: tuple[Step, ...] = ()
    """For a FROM: the steps of other stages above the image ``base``."""


class Argument(NamedTuple):
    """A build argument that a client may set."""

    key: str
    value: str | None
    instruction: ins.Arg


class Lent(NamedTuple):
    """A secret or an SSH agent of the client."""

    required: bool
    span: Span
    """Place of the first step that uses the secret or the agent."""


@dataclass(kw_only=True)
class Plan:
    """The result of planning a target: the graph, the configuration and its steps."""

    output: llb.Output | None
    """None: an empty root."""
    config: RunConfig
    base: ResolvedImage | None
    """The image that the target's first stage is based on."""
    history: list[Step]
    """Steps of all stages above ``base``."""
    steps: list[Step]
    """All instructions of all needed stages, in the file's order, FROM included."""
    platform: Platform
    author: str = ""
    warnings: list[lint.Warned] = field(default_factory=list)
    unused_args: list[str] = field(default_factory=list)
    stage: ins.Stage | None = None
    stages: list[ins.Stage] = field(default_factory=list)
    """All of the file."""
    arguments: list[Argument] = field(default_factory=list)
    """Arguments that the needed stages declare, and the global ones that they use."""
    secrets: dict[str, Lent] = field(default_factory=dict)
    """Secrets that steps read, by ID."""
    agents: dict[str, Lent] = field(default_factory=dict)


@dataclass
class StageState:
    """The state of a stage while it is planned."""

    stage: ins.Stage
    platform: Platform
    output: llb.Output | None = None
    config: RunConfig = field(default_factory=RunConfig)
    base: ResolvedImage | None = None
    author: str = ""
    history: list[Step] = field(default_factory=list)
    args: dict[str, str] = field(default_factory=dict)
    """Declared in this stage, with a value."""
    hiding: dict[str, str] = field(default_factory=dict)
    """The arguments among them that were declared after a variable of the same name: they hide
    it, also from steps."""
    declared: dict[str, None] = field(default_factory=dict)
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
        return {**self.args, **self.env, **self.hiding}

    def put(self, **fields: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **fields)


def command_words(
    state: StageState, command: ins.Command, phrases: history_text.Phrases
) -> tuple[str, ...]:
    """The arguments; BuildKit gives the shell an empty command where there are no words."""
    if command.is_shell and (command.words or not phrases.is_classic):
        return (*state.shell, *(command.words or ("",)))
    return command.words
