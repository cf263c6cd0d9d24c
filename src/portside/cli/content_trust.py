"""``DOCKER_CONTENT_TRUST``: images without a digest are refused, for no signature is checked."""

from __future__ import annotations

import os

from portside.cli import references
from portside.model.embedded_names import EMBEDDED
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.flags.table import Options

_FLAG = "disable-content-trust"


def check(options: Options, image: str) -> None:
    """Raises InvalidParameter where signatures are asked for, and neither a digest says which
    image is meant nor the image is made on this machine."""
    if options.given(_FLAG):
        is_wanted = not options.flag(_FLAG)
    elif text := os.environ.get("DOCKER_CONTENT_TRUST"):
        is_wanted = text.lower() not in ("0", "f", "false")
    else:
        return
    if is_wanted and "@" not in image and references.familiar(image) not in EMBEDDED:
        raise InvalidParameter(
            "content trust is on (DOCKER_CONTENT_TRUST), but signatures are not supported: name "
            "the image by its digest (NAME@sha256:...), or add --disable-content-trust"
        )
