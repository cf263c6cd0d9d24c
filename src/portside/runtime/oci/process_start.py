"""``portside-runtime``: containers from OCI bundles, for other engines to call.

Verbs that become a container's process run in an interpreter whose file nobody can write to
(:mod:`portside.kernel.sealed_executable` says why). The script ``portside-runtime`` has it executed
from a read-only mount. Where that cannot be, they execute themselves afresh first, from a copy:
that first process only makes the copy, so it imports next to nothing.

What short verbs import has system calls from ``posix``, which is part of the interpreter, instead
of ``os``: that builds on ``collections.abc`` and is a third of their own time.
"""

from __future__ import annotations

import gc
import posix
import sys

from portside.runtime.oci import combined_modules

_PACKAGE = __file__.rpartition("/runtime/")[0]
_BECOMING = {"create": "create", "run": "create", "exec": "exec"}
"""Verbs that become a container's process, and whose file of modules they use."""
_F_ADD_SEALS = 1033
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, _SHRINK, _GROW and _WRITE (fcntl(2))."""
_CODE = (
    "import sys; n = int(sys.argv[1]); sys.path[:0] = sys.argv[2:2 + n]; del sys.argv[1:2 + n];"
    "from portside.runtime.oci.process_start import run; run(sys.argv[1:])"
)


def main() -> None:
    """The command; does not return."""
    gc.disable()  # a short life, of which a collection would be a tenth
    arguments = sys.argv[1:]
    protected = False
    if arguments[:1] == ["--"]:
        del arguments[0]
        # the flags of the mount that our file was opened from, not of one that is there now
        protected = bool(posix.statvfs("/proc/self/exe").f_flag & posix.ST_RDONLY)
        _use_modules(_file(arguments))
        _leave_mounts()
    if not protected and _file(arguments):
        _execute_sealed(arguments)
    run(arguments)


def run(arguments: list[str]) -> None:
    """The command in this process; does not return."""
    gc.disable()
    becoming = _file(arguments)
    combined = _use_modules(becoming)
    from portside.runtime.oci.main import main as run_verb

    code = run_verb(arguments)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    if becoming and not combined and not code:
        combined_modules.make(_PACKAGE, becoming)
        combined_modules.make(_PACKAGE)
    posix._exit(code)  # taking the interpreter down would take longer than some verbs


def _file(arguments: list[str]) -> str:
    """The file of modules of a verb that becomes a container's process, empty for the others."""
    return next((_BECOMING[word] for word in arguments if word in _BECOMING), "")


def _use_modules(becoming: str) -> bool:
    """Import what a verb always needs; whether that came from its file."""
    combined = "--debug" not in sys.argv and combined_modules.use(_PACKAGE, becoming)
    if becoming:
        from portside.runtime.oci import stand_ins

        stand_ins.install()
        for name in ("portside.runtime.oci.main", combined_modules.LAST[becoming]):
            __import__(name)
        stand_ins.remove()
    return combined


def _leave_mounts() -> None:
    """Back to the caller's mount namespace, root and working directory (descriptors 9, 7, 8)."""
    from portside.kernel.process import CLONE_NEWNS, setns

    setns(9, CLONE_NEWNS, "the caller's mount namespace")
    posix.fchdir(7)
    posix.chroot(".")
    posix.fchdir(8)
    for fd in (7, 8, 9):
        posix.close(fd)


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
