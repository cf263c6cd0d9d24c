"""Messages for callers: lines in runc's format, in the file of ``--log`` or on standard error.
Engines parse the file; people read standard error."""

from __future__ import annotations

import posix

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")
"""A text of these stands without quotes (as logrus, runc's library, writes it)."""


class _Target:
    path = ""
    format = "text"


def configure(path: str, format: str) -> None:
    """Set the log's path and format (text or json); an empty path means standard error."""
    _Target.path, _Target.format = path, format


def write(level: str, message: str) -> None:
    """One line; ``level`` is error or warning. With a file, errors are shown plainly as well."""
    import time

    from portside.model import jsontext

    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if _Target.format == "json":
        line = jsontext.dumps({"level": level, "msg": message, "time": stamp})
    else:
        shown = message if message and _PLAIN.issuperset(message) else jsontext.dumps(message)
        line = f'time="{stamp}" level={level} msg={shown}'
    if not _Target.path:
        _put(2, line)
        return
    try:
        fd = posix.open(
            _Target.path, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC, 0o666
        )
    except OSError as err:
        _put(2, f"{_Target.path}: {err.strerror}")
    else:
        _put(fd, line)
        posix.close(fd)
    if level == "error":
        _put(2, message)


def _put(fd: int, line: str) -> None:
    try:
        posix.write(fd, f"{line}\n".encode(errors="surrogateescape"))
    except OSError:  # there is nowhere to report to
        pass
