"""The engine's default paths. Imports next to nothing: every command needs it.

An engine of root has the system's directories. Without root it has the user's own, by the XDG
Base Directory Specification; so has that engine's process, which is root of a user namespace.
"""

import os

SYSTEM_SOCKET = "/run/portside/portside.sock"
"""Socket of an engine that runs as root, for every caller."""
ROOTLESS_VARIABLE = "PORTSIDE_ROOTLESS"
"""In the environment of an engine without root, which believes to be root: the user's ID."""


def rootless_user() -> int:
    """The user whose engine this is, or would be started; 0 for root's."""
    return os.geteuid() or int(os.environ.get(ROOTLESS_VARIABLE) or 0)


def home() -> str:
    """The user's home directory, ``$HOME`` first."""
    found = os.environ.get("HOME", "")
    if not found.startswith("/"):
        import pwd

        try:
            found = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            found = ""
    return found or "/"


def _xdg(variable: str, fallback: str) -> str:
    """A directory of the XDG specification; relative paths are to be ignored, it says."""
    found = os.environ.get(variable, "")
    return found if found.startswith("/") else f"{home()}/{fallback}"


def runtime_dir(user: int) -> str:
    """``$XDG_RUNTIME_DIR``; where it is not set (no login session, su) what it would be, or else
    a directory of the user's in ``/tmp``."""
    found = os.environ.get("XDG_RUNTIME_DIR", "")
    if found.startswith("/"):
        return found
    usual = f"/run/user/{user}"
    return usual if os.access(usual, os.W_OK) else f"/tmp/portside-{user}"


_USER = rootless_user()
if _USER:
    DEFAULT_DATA_ROOT = _xdg("XDG_DATA_HOME", ".local/share") + "/portside"
    DEFAULT_EXEC_ROOT = runtime_dir(_USER) + "/portside"
    DEFAULT_SOCKET = f"{DEFAULT_EXEC_ROOT}/portside.sock"
    DEFAULT_CONFIG_DIR = _xdg("XDG_CONFIG_HOME", ".config") + "/portside"
    DEFAULT_LOG = f"{DEFAULT_DATA_ROOT}/engine.log"
else:
    DEFAULT_DATA_ROOT = "/var/lib/portside"
    DEFAULT_EXEC_ROOT = "/run/portside"
    DEFAULT_SOCKET = SYSTEM_SOCKET
    DEFAULT_CONFIG_DIR = "/etc/portside"
    DEFAULT_LOG = "/var/log/portside.log"


def is_within(path: str, directory: str) -> bool:
    """Whether a path is a directory or in it, links of both followed."""
    path, directory = os.path.realpath(path), os.path.realpath(directory)
    return os.path.commonpath((path, directory)) == directory
