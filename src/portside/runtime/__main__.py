"""``portside-runtime``: containers from OCI bundles, for other engines to call.

Verbs that become a container's process execute themselves afresh first, from a copy of the
interpreter that nobody can write to (:mod:`portside.kernel.sealed_executable` says why). That first
process only makes the copy, so it imports next to nothing: starting is most of a short verb's time.
"""

from __future__ import annotations

import gc
import os
import sys

_BECOMING = frozenset(("create", "run", "exec"))
_F_ADD_SEALS = 1033
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, _SHRINK, _GROW and _WRITE (fcntl(2))."""
_CODE = (
    "import sys; n = int(sys.argv[1]); sys.path[:0] = sys.argv[2:2 + n]; del sys.argv[1:2 + n];"
    "from portside.runtime.__main__ import run; run(sys.argv[1:])"
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
    os._exit(code)  # taking the interpreter down would take longer than some verbs


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


def _find_packages() -> None:
    """What the site module would do: this checkout and the environment's packages."""
    root = __file__.rpartition("/portside/")[0]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    environment = sys.executable.rpartition("/bin/")[0]
    # last: each directory before the one that has a module is read as well
    for path in (root, f"{environment}/lib/{version}/site-packages"):
        if path not in sys.path:
            sys.path.append(path)


if __name__ == "__main__":
    if __spec__ is None:  # a script: not by -m, which has found the package
        _find_packages()
    main()
