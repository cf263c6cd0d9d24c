"""Runs the steps of a plan at once, each as soon as its predecessors are done."""

from __future__ import annotations

import threading

from portside.compose.step_plan import Plan, Step

_MOST = 32
"""Steps that run at the same time by default: threads cost memory."""


class Executor:
    """One run of a plan. After a failure no further step begins."""

    def __init__(self, plan: Plan, parallel: int = -1) -> None:
        self._limit = parallel if parallel > 0 else _MOST
        self._waits_for = {step: len(step.after) for step in plan.steps}
        self._followers: dict[Step, list[Step]] = {step: [] for step in plan.steps}
        for step in plan.steps:
            for before in step.after:
                self._followers[before].append(step)
        self._ready = [step for step in plan.steps if not step.after]
        self._ready.reverse()  # taken from the end
        self._left = len(plan.steps)
        self._busy = self._idle = self._workers = 0
        self._changed = threading.Condition()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Return when every step is done. Raises what the first failing step raised, once the
        other steps at work are done; waits are given up."""
        with self._changed:
            self._dispatch()
            while self._left if self.error is None else self._busy:
                self._changed.wait()
        if self.error is not None:
            raise self.error

    def cancel(self, error: BaseException) -> None:
        """Let no further step begin; :meth:`run` raises ``error``."""
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()

    def _dispatch(self) -> None:
        """Give ready steps to threads; called with the lock held."""
        if self.error is not None:
            return
        waits = [step for step in self._ready if step.is_wait]
        if waits:
            self._ready = [step for step in self._ready if not step.is_wait]
        for step in waits:
            threading.Thread(target=self._one, args=(step,), daemon=True).start()
        wanted = min(len(self._ready) - self._idle, self._limit - self._workers)
        for _ in range(wanted):
            self._workers += 1
            threading.Thread(target=self._work, daemon=True).start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ready and self._left and self.error is None:
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                if not self._left or self.error is not None:
                    self._workers -= 1
                    return
                step = self._ready.pop()
                self._busy += 1
            try:
                self._one(step)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def _one(self, step: Step) -> None:
        error: BaseException | None = None
        try:
            step.perform()
        except BaseException as err:
            error = err
        with self._changed:
            if error is not None:
                self.error = self.error or error
            else:
                self._left -= 1
                for other in self._followers[step]:
                    self._waits_for[other] -= 1
                    if not self._waits_for[other]:
                        self._ready.insert(0, other)
                self._dispatch()
            self._changed.notify_all()


def execute(plan: Plan, parallel: int = -1) -> None:
    """Run a plan; see :meth:`Executor.run`."""
    if len(plan.steps) == 1:
        plan.steps[0].perform()
    elif plan.steps:
        Executor(plan, parallel).run()
