"""A folder as a tar stream for an engine elsewhere: only what its steps read, without what the
ignore file names."""

from __future__ import annotations

import os
import re
import stat
import tarfile

from portside.model.build_frames import PIECE
from portside.model.dockerignore import Ignore, compile_pattern, read_patterns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from portside.cli.build.build_connection import Channel

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WILD = re.compile(r"[*?\[\\]")


class _Sink:
    """A file whose bytes are sent to the engine."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._held = channel, bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        if len(self._held) >= PIECE:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._held:
            self._channel.send([bytes(self._held)])
            self._held.clear()


def send(channel: Channel, top: int, ignore_text: str, paths: list[str] | None) -> None:
    """Send what is at ``paths`` (None: everything) of the directory ``top``, then end."""
    ignore = Ignore(read_patterns(ignore_text))
    wanted = _wanted(top, paths)
    sink = _Sink(channel)
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, fd, found in _walk(top, "", ignore, wanted):
            _add(tar, name, fd, found)
    sink.flush()
    channel.end()


def _wanted(top: int, paths: list[str] | None) -> list[list[re.Pattern[str]]] | None:
    """The paths as patterns by component; None for everything, also when a link is on the way,
    since what it leads to is needed, too."""
    if paths is None:
        return None
    found = []
    for path in paths:
        parts = [part for part in path.split("/") if part]
        if not parts or _meets_link(top, parts):
            return None
        found.append([_compiled(part) for part in parts])
    return found


def _compiled(part: str) -> re.Pattern[str]:
    return compile_pattern(part) if _WILD.search(part) else re.compile(re.escape(part))


def _meets_link(fd: int, parts: list[str]) -> bool:
    """Whether anything that the components match is a symbolic link."""
    rule, rest = _compiled(parts[0]), parts[1:]
    for name in os.listdir(fd):
        if not rule.fullmatch(name):
            continue
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            return True
        if rest and stat.S_ISDIR(mode):
            child = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                if _meets_link(child, rest):
                    return True
            finally:
                os.close(child)
    return False


def _is_wanted(name: str, wanted: list[list[re.Pattern[str]]] | None) -> bool:
    """In what is looked for, or on the way there."""
    if wanted is None:
        return True
    parts = name.split("/")
    return any(
        all(rule.fullmatch(part) for rule, part in zip(rules, parts, strict=False))
        for rules in wanted
    )


def _walk(
    fd: int, path: str, ignore: Ignore, wanted: list[list[re.Pattern[str]]] | None
) -> Iterator[tuple[str, int, os.stat_result]]:
    for entry in sorted(os.listdir(fd)):
        name = f"{path}/{entry}" if path else entry
        if not _is_wanted(name, wanted):
            continue
        try:
            found = os.stat(entry, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        is_dir = stat.S_ISDIR(found.st_mode)
        excluded = ignore.excludes(name)
        if excluded and (not is_dir or ignore.prunes(name)):
            continue
        if not excluded:
            yield name, fd, found
        if is_dir:
            child = os.open(entry, _DIRECTORY, dir_fd=fd)
            try:
                yield from _walk(child, name, ignore, wanted)
            finally:
                os.close(child)


def _add(tar: tarfile.TarFile, name: str, fd: int, found: os.stat_result) -> None:
    """One entry; owners are left out, since contexts have none."""
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(found.st_mode), found.st_mtime_ns / 10**9
    last = name.rpartition("/")[2]
    if stat.S_ISREG(found.st_mode):
        opened = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        with os.fdopen(opened, "rb") as file:
            info.size = os.fstat(opened).st_size
            tar.addfile(info, file)
        return
    if stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(last, dir_fd=fd)
    elif stat.S_ISFIFO(found.st_mode):
        info.type = tarfile.FIFOTYPE
    else:
        return  # sockets and devices are not part of a context
    tar.addfile(info)
