"""``portside-runtime``: containers from OCI bundles, for other engines to call.

Verbs that become a container's process execute themselves afresh first, from a copy of the
interpreter that nobody can write to (:mod:`portside.kernel.executable`).
"""

from __future__ import annotations

import os
import sys

_BECOMING = frozenset(("create", "run", "exec"))
# msgspec takes typing_extensions when it is there, which takes inspect: 5 ms for nothing.
_CODE = (
    "import sys; sys.modules['typing_extensions'] = None; n = int(sys.argv[1]);"
    "sys.path[:0] = sys.argv[2:2 + n]; del sys.argv[1:2 + n];"
    "from portside.runtime.oci.main import main; sys.exit(main(sys.argv[1:]))"
)


def main() -> int:
    """The command; its exit status."""
    arguments = sys.argv[1:]
    if _BECOMING.intersection(arguments):
        _execute_sealed(arguments)
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    from portside.runtime.oci.main import main as run

    return run(arguments)


def _execute_sealed(arguments: list[str]) -> None:
    """Execute the same command from the sealed interpreter; does not return."""
    from portside.kernel.sealed_executable import sealed

    executable = sealed()
    paths = [os.path.realpath(path) for path in sys.path if path and os.path.isdir(path)]
    argv = [sys.executable, "-I", "-S", "-c", _CODE, str(len(paths)), *paths, *arguments]
    # close-on-exec: execve(2) has it open by the time it is closed
    os.execve(f"/proc/self/fd/{executable}", argv, os.environ)


if __name__ == "__main__":
    sys.exit(main())
