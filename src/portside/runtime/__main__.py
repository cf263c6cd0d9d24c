"""``portside-runtime``: containers from OCI bundles, for other engines to call.

Verbs that become a container's process execute themselves afresh first, from a copy of the
interpreter that nobody can write to (:mod:`portside.kernel.executable` says why). That first
process only makes the copy, so it imports next to nothing: starting is most of a short verb's time.
"""

from __future__ import annotations

import os
import sys

_BECOMING = frozenset(("create", "run", "exec"))
_F_ADD_SEALS = 1033
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, _SHRINK, _GROW and _WRITE (fcntl(2))."""
_CODE = (
    "import sys; n = int(sys.argv[1]); sys.path[:0] = sys.argv[2:2 + n]; del sys.argv[1:2 + n];"
    "from portside.runtime.__main__ import run; sys.exit(run(sys.argv[1:]))"
)


def main() -> int:
    """The command; its exit status."""
    arguments = sys.argv[1:]
    if _BECOMING.intersection(arguments):
        _execute_sealed(arguments)
    return run(arguments)


def run(arguments: list[str]) -> int:
    """The command in this process; its exit status."""
    # msgspec takes both when they are there, and they take inspect and platform: 15 ms for nothing
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    sys.modules.setdefault("uuid", _NoUUID)  # type: ignore[arg-type]
    from portside.runtime.oci.main import main as run_verb

    return run_verb(arguments)


class _NoUUID:
    """In the place of the module: no type of ours has such a field."""

    UUID = type("UUID", (), {})
    SafeUUID = type("SafeUUID", (), {"unknown": None})


def _execute_sealed(arguments: list[str]) -> None:
    """Execute the same command from a sealed copy of the interpreter; does not return."""
    import fcntl

    copy = os.memfd_create("portside-runtime", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    source = os.open(os.path.realpath(sys.executable), os.O_RDONLY | os.O_CLOEXEC)
    while os.sendfile(copy, source, None, 1 << 30):
        pass
    fcntl.fcntl(copy, _F_ADD_SEALS, _ALL_SEALS)
    paths = [os.path.realpath(path) for path in sys.path if path and os.path.isdir(path)]
    argv = [sys.executable, "-I", "-S", "-c", _CODE, str(len(paths)), *paths, *arguments]
    # close-on-exec: execve(2) has it open by the time it is closed
    os.execve(f"/proc/self/fd/{copy}", argv, os.environ)


if __name__ == "__main__":
    sys.exit(main())
