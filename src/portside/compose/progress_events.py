"""Progress events of the work on a project, for the part that shows them."""

from __future__ import annotations

from collections.abc import Callable

from portside.model.light_dataclass import dataclass

WORKING, DONE, WARNING, ERROR = "Working", "Done", "Warning", "Error"


@dataclass
class Event:
    """Something happens to a resource, ``Container NAME`` or an image's layer."""

    id: str
    status: str
    text: str
    """The activity in one word: ``Creating``."""
    parent: str = ""
    """The resource that it is a part of."""
    detail: str = ""
    current: int = 0
    total: int = 0
    percent: int = 0


Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Report nothing."""
