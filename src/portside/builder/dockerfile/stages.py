"""The stages of a Dockerfile: which one is wanted, and what a name means."""

from __future__ import annotations

from dataclasses import dataclass

from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import DockerfileError, Span, did_you_mean


def display_name(stage: ins.Stage) -> str:
    """The stage's name; ``stage-INDEX`` when it has none, as BuildKit has it."""
    return stage.name or f"stage-{stage.index}"


@dataclass(frozen=True)
class Stages:
    """All stages, found by name or number."""

    all: tuple[ins.Stage, ...]

    def target(self, name: str) -> ins.Stage:
        """The stage to build; the last one for an empty name."""
        if not name:
            return self.all[-1]
        found = self._named(name)
        if found is None:
            names = [stage.name for stage in self.all if stage.name]
            hint = did_you_mean(name, names)
            raise DockerfileError(
                f'target stage "{name}" could not be found{hint}',
                self.all[-1].base.span,
                parsing=False,
                located=False,
            )
        return found

    def _named(self, name: str) -> ins.Stage | None:
        """The last stage of that name."""
        for stage in reversed(self.all):
            if stage.name and stage.name == name.lower():
                return stage
        return None

    def find(self, name: str) -> ins.Stage | None:
        """The stage with this name (the last of several) or number; None without a match."""
        if (named := self._named(name)) is not None:
            return named
        if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < len(self.all):
            return self.all[int(name)]
        return None

    def before(self, index: int, name: str) -> ins.Stage | None:
        """The latest stage of exactly that name before the stage ``index``: what FROM can
        mean."""
        for stage in reversed(self.all[:index]):
            if stage.name and stage.name == name:
                return stage
        return None

    def source(self, name: str, current: ins.Stage, span: Span) -> ins.Stage | None:
        """What ``--from`` means: a stage, or None for a context or image.

        DockerfileError when it is the stage itself.
        """
        is_number = name.isascii() and name.removeprefix("-").isdigit()
        if is_number and (len(name) > 5 or not 0 <= int(name) < len(self.all)):
            raise DockerfileError(
                f"invalid stage index {name}: there are {len(self.all)} stages, numbered from 0",
                span,
                parsing=False,
            )
        found = self.find(name)
        if found is current:
            raise DockerfileError(
                f"circular dependency detected on stage: {display_name(current)}",
                span,
                parsing=False,
            )
        return found
