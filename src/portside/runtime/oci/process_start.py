"""``portside-runtime``: containers from OCI bundles, for other engines to call.

Verbs that become a container's process execute themselves afresh first, from a copy of the
interpreter that nobody can write to (:mod:`portside.kernel.sealed_executable` says why). That first
process only makes the copy, so it imports next to nothing: starting is most of a short verb's
time.

What short verbs import has system calls from ``posix``, which is part of the interpreter, instead
of ``os``: that builds on ``collections.abc`` and is a third of their own time.
"""

from __future__ import annotations

import gc
import posix
import sys

_BECOMING = frozenset(("create", "run", "exec"))
_F_ADD_SEALS = 1033
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, _SHRINK, _GROW and _WRITE (fcntl(2))."""
_CODE = (
    "import sys; n = int(sys.argv[1]); sys.path[:0] = sys.argv[2:2 + n]; del sys.argv[1:2 + n];"
    "from portside.runtime.oci.process_start import run; run(sys.argv[1:])"
)


def main() -> None:
    """The command; does not return."""
    arguments = sys.argv[1:]
    if _BECOMING.intersection(arguments):
        _execute_sealed(arguments)
    run(arguments)


def run(arguments: list[str]) -> None:
    """The command in this process; does not return."""
    gc.disable()  # a short life, of which a collection would be a tenth
    if _BECOMING.intersection(arguments):
        from portside.runtime.oci import light_structs

        light_structs.install()
    from portside.runtime.oci.main import main as run_verb

    code = run_verb(arguments)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    posix._exit(code)  # taking the interpreter down would take longer than some verbs


def _execute_sealed(arguments: list[str]) -> None:
    """Execute the same command from a sealed copy of the interpreter; does not return."""
    import fcntl

    copy = posix.memfd_create("portside-runtime", posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING)
    source = posix.open("/proc/self/exe", posix.O_RDONLY | posix.O_CLOEXEC)
    while posix.sendfile(copy, source, None, 1 << 30):
        pass
    fcntl.fcntl(copy, _F_ADD_SEALS, _ALL_SEALS)
    paths = [path for path in sys.path if path.startswith("/") and not path.endswith(".zip")]
    argv = [sys.executable, "-I", "-S", "-c", _CODE, str(len(paths)), *paths, *arguments]
    # close-on-exec: execve(2) has it open by the time it is closed
    posix.execve(f"/proc/self/fd/{copy}", argv, posix.environ)
