"""Steps that bring a project to the wanted state, and what each waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from portside.model.light_dataclass import dataclass, field


@dataclass
class Step:
    """One change, or one wait."""

    action: str
    """create, recreate, start, stop, remove, pull, build, wait, rename, or check."""
    subject: str
    """The resource: ``container web-1``."""
    perform: Callable[[], None]
    reason: str = ""
    after: list[Step] = field(default_factory=list)
    """Steps that must be done before this one begins."""
    is_wait: bool = False
    """The step only waits, and so does not count against the limit of parallel steps."""


class Plan:
    """Steps in an order in which they could run one by one."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, action: str, subject: str, perform: Callable[[], None], *, reason: str = "",
            after: Iterable[Step] = (), is_wait: bool = False) -> Step:  # fmt: skip
        step = Step(action, subject, perform, reason, list(after), is_wait)
        self.steps.append(step)
        return step

    def __bool__(self) -> bool:
        return bool(self.steps)
