"""``--env``, ``--env-file``, ``--label`` and ``--label-file``."""

from __future__ import annotations

import os

from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_WHITE = " \t\r\n\v\f"


def environment(files: Iterable[str], given: Iterable[str]) -> list[str]:
    """``NAME=VALUE`` lines; a bare name gets the caller's value.

    An unset bare name stays as it is (it removes the image's) when given as a flag, and is
    left out when it comes from a file.
    """
    found = []
    for path in files:
        for line in read_pairs(path):
            if "=" in line:
                found.append(line)
            elif line in os.environ:
                found.append(f"{line}={os.environ[line]}")
    for entry in given:
        if "=" not in entry and entry in os.environ:
            entry = f"{entry}={os.environ[entry]}"
        found.append(entry)
    return found


def labels(files: Iterable[str], given: Iterable[str]) -> dict[str, str]:
    lines = [line for path in files for line in read_pairs(path)]
    return dict(line.partition("=")[::2] for line in [*lines, *given])


def check_variable(text: str) -> None:
    """Raise ValueError for ``-e =value``."""
    if text.startswith("=") or not text:
        raise ValueError(f"invalid environment variable: {text}")


def read_pairs(path: str) -> list[str]:
    """The lines of a file of variables or labels, without comments and empty lines.

    Raises InvalidParameter.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as err:
        reason = (err.strerror or "").lower()
        raise InvalidParameter(f"open {path}: {reason}") from None
    found = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().removesuffix("\r").lstrip(_WHITE)
        except UnicodeDecodeError:
            raise InvalidParameter(
                f"invalid env file ({path}): invalid utf8 bytes at line {number}"
            ) from None
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name:
            raise InvalidParameter(f"invalid env file ({path}): no variable name on line '{line}'")
        if any(character in name for character in _WHITE):
            raise InvalidParameter(
                f"invalid env file ({path}): variable '{name}' contains whitespaces"
            )
        found.append(f"{name}={value}" if equals else name)
    return found
