"""The instructions of the Dockerfile reference as typed values.

Words are as they were written: variables are expanded by the frontend, where their scope is
known. ``text`` is the instruction as one line, for the image's history and for messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from portside.builder.dockerfile.diagnostics import Span
from portside.builder.dockerfile.lines import Heredoc
from portside.model.image import Healthcheck


@dataclass(frozen=True, kw_only=True)
class Instruction:
    keyword: str
    """As it was written, such as ``run``."""
    text: str
    """Keyword and arguments on one line, without here-documents."""
    span: Span
    comments: tuple[str, ...] = ()
    triggered: bool = False
    """The instruction came from the base image's ONBUILD."""

    @property
    def name(self) -> str:
        return self.keyword.upper()


@dataclass(frozen=True, kw_only=True)
class From(Instruction):
    base: str
    stage: str = ""
    """Lower case; empty for a stage without a name."""
    written_stage: str = ""
    platform: str = ""
    as_keyword: str = ""
    described: str = ""


@dataclass(frozen=True, kw_only=True)
class Command:
    """The arguments of RUN, CMD, ENTRYPOINT and HEALTHCHECK: shell form or exec form."""

    words: tuple[str, ...]
    is_shell: bool
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run(Instruction):
    command: Command
    mounts: tuple[str, ...] = ()
    """Values of ``--mount``."""
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Transfer(Instruction):
    """COPY and ADD."""

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    """Sources whose content stands in the Dockerfile."""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Copy(Transfer):
    source_stage: str = ""
    """``--from``."""


@dataclass(frozen=True, kw_only=True)
class Add(Transfer):
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True)
class Pair:
    key: str
    value: str
    legacy: bool = False
    """Written ``KEY value`` without an equals sign."""


@dataclass(frozen=True, kw_only=True)
class Env(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Label(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Declared:
    """One variable of an ARG; ``default`` None when it has none."""

    key: str
    default: str | None


@dataclass(frozen=True, kw_only=True)
class Arg(Instruction):
    declared: tuple[Declared, ...]


@dataclass(frozen=True, kw_only=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, kw_only=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, kw_only=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, kw_only=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, kw_only=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True, kw_only=True)
class HealthCheck(Instruction):
    check: Healthcheck


@dataclass(frozen=True, kw_only=True)
class OnBuild(Instruction):
    trigger: str
    inner: Instruction | None = None


@dataclass(frozen=True, kw_only=True)
class Maintainer(Instruction):
    author: str


@dataclass(frozen=True)
class Stage:
    """A FROM with the instructions up to the next one."""

    base: From
    instructions: tuple[Instruction, ...]
    index: int

    @property
    def name(self) -> str:
        return self.base.stage


@dataclass(frozen=True)
class Dockerfile:
    """A whole file."""

    source: str
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    directives: dict[str, str] = field(default_factory=dict)
    escape: str = "\\"
    file: str = "Dockerfile"
    empty_continuations: tuple[Span, ...] = ()
    keywords: tuple[tuple[str, Span], ...] = ()
    """Every keyword as it was written, keywords of triggers included."""
