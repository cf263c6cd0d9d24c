"""``--platform``, and ``DOCKER_DEFAULT_PLATFORM``, which is its value where it is not given."""

from __future__ import annotations

import os

from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.flags.table import Options


def wanted(options: Options) -> str:
    """The platform that was asked for; empty for the engine's own."""
    return options.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")


def checked(options: Options) -> str:
    """The same. Raises InvalidParameter for what is none."""
    text = wanted(options)
    if text:
        from portside.model.platform import Platform

        try:
            Platform.parse(text)
        except InvalidParameter as err:
            raise InvalidParameter(f"error parsing specified platform: {err}") from None
    return text
