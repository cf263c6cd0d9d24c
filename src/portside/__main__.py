"""Entry of the ``portside`` command: hands over to the part that a verb belongs to.

Started by the ``portside`` scripts without the site module (``-S``), which would cost as
much as the rest of a short verb: the package's directories are found here instead.
"""

import sys


def _find_packages() -> None:
    """What the site module would do: this checkout and the environment's packages."""
    root = __file__.rpartition("/portside/")[0]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    environment = sys.executable.rpartition("/bin/")[0]
    for path in (f"{environment}/lib/{version}/site-packages", root):
        if path not in sys.path:
            sys.path.insert(0, path)


def main() -> int:
    """Run the command line; the exit status is returned."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb == "daemon" and (len(sys.argv) < 3 or sys.argv[2].startswith("-")):
        from portside.daemon.main import main as daemon

        return daemon(sys.argv[2:])
    if sys.argv[1:3] == ["system", "check"] and "--offline" in sys.argv:
        from portside.daemon.offline_check import main as offline_check

        return offline_check(sys.argv[3:])
    if verb == "registry":
        from portside.registry.server.__main__ import main as registry

        return registry(sys.argv[2:])
    if verb == "monitor":
        from portside.monitor.__main__ import main as monitor

        return monitor(sys.argv[2:])
    from portside.cli.main import main as command

    return command(sys.argv)


if __name__ == "__main__":
    if __spec__ is None:  # a script: not by -m, which has found the package
        _find_packages()
    sys.exit(main())
