"""Named points where a crash or a race would hurt, so that tests can make one happen there.

``reach(name)`` costs a comparison. A test sets :data:`hook`, for example to kill the process at
one name, and checks that the next start repairs what was half done.
"""

from __future__ import annotations

from collections.abc import Callable

hook: Callable[[str], None] | None = None


def reach(name: str) -> None:
    """Call the hook, if a test has set one: ``name`` is reached."""
    if hook is not None:
        hook(name)
