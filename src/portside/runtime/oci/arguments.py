"""Options and operands of one command of ``portside-runtime``, and the global ones."""

from __future__ import annotations

import posix

from portside.flags import table
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_ROOT = "/run/portside-runtime"


def _of_user() -> bool:
    """Whether we serve an ordinary user: by our own ID, or as root of the user's namespace, as
    podman calls its runtimes (runc has the same rule)."""
    if posix.geteuid():
        return True
    from portside.kernel.id_maps import in_user_namespace

    return in_user_namespace() and posix.environ.get(b"USER") != b"root"


def _default_root() -> str:
    runtime = posix.environ.get(b"XDG_RUNTIME_DIR", b"") if _of_user() else b""
    above = runtime.decode(errors="surrogateescape")
    return f"{above}/portside-runtime" if above else DEFAULT_ROOT


def _absolute(path: str) -> str:
    """Like os.path.abspath; does not import ``os`` for a path that is absolute already."""
    if path[:1] == "/" and not ("//" in path or "/." in path or path[-1] == "/"):
        return path
    import os

    return os.path.abspath(path)


class Options(table.Options):
    """Options and operands of a command line."""

    __slots__ = ("operands",)

    def __init__(self, flags: Sequence[table.Flag] = (), convert: object = None) -> None:
        super().__init__(flags)
        self.operands: list[str] = []

    def number(self, name: str) -> int | None:
        """An integer option, None when it is not given. Raises InvalidParameter."""
        text = self.text(name)
        if not text:
            return None
        try:
            return int(text, 0)
        except ValueError:
            raise InvalidParameter(
                f'invalid value for {name}: strconv.ParseInt: parsing "{text}": invalid syntax'
            ) from None

    def preserved(self) -> int:
        """``--preserve-fds``, all of which are open. Raises InvalidParameter."""
        count = self.number("preserve-fds") or 0
        for fd in range(3, 3 + count):
            try:
                posix.fstat(fd)
            except OSError:
                raise InvalidParameter(
                    f"unable to stat preserved-fd {fd} (of {count}): no such file or directory"
                ) from None
        return count

    def operand(self, what: str = "container id") -> str:
        """The first operand. Raises InvalidParameter when there is none."""
        if not self.operands or not self.operands[0]:
            raise InvalidParameter(f"{what} cannot be empty")
        return self.operands[0]


def parse(arguments: list[str], flags: Sequence[table.Flag]) -> Options:
    """Read options up to the first operand.

    Raises HelpWanted, and InvalidParameter for unknown options.
    """
    found = Options(flags)
    try:
        found.operands = table.read(flags, found, arguments, interspersed=False, single_dash=True)
    except table.UsageError as err:
        raise InvalidParameter(str(err)) from None
    return found


class Context:
    """Global options."""

    def __init__(self, options: Options) -> None:
        self._root = options.text("root")
        self.log = options.text("log")
        self.format = options.text("log-format", "text")
        self.systemd = options.flag("systemd-cgroup")
        self.debug = options.flag("debug")

    @property
    def root(self) -> str:
        """Directory of the containers' state."""
        return _absolute(self._root or _default_root())
