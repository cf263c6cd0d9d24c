"""``daemon install|uninstall|start|status|restart``: the engine as a service."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress

from portside.cli import engine_unit
from portside.cli.engine_unit import systemctl
from portside.cli.verb import verb
from portside.client.errors import NotRunning
from portside.model.errors import InvalidParameter
from portside.model.paths import DEFAULT_CONFIG_DIR, DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.session import Session
    from portside.flags.table import Options

_UNITS = (engine_unit.NAME, engine_unit.SOCKET)
_TEMPLATES = f"{__file__.rpartition('/cli/')[0]}/daemon/units"
_PACKAGED_COMMAND = "/usr/bin/portside"
_COMPLETIONS = {
    "bash": "share/bash-completion/completions/portside",
    "fish": "share/fish/vendor_completions.d/portside.fish",
    "zsh": "share/zsh/site-functions/_portside",
}
_SYSTEM_DIRECTORIES = (engine_unit.ADMIN_UNITS, "/usr/local/share/man", "/usr/local/share")


def command_path() -> str:
    """The program that this command was called by, with its whole path."""
    called = os.environ.get("PORTSIDE_SCRIPT") or ""
    if not called:
        root = __file__.rpartition("/src/portside/")[0]
        own = f"{root}/portside" if root else ""
        called = own if own and os.access(own, os.X_OK) else _installed()
    return os.path.abspath(called)


def _installed() -> str:
    beside = f"{os.path.dirname(sys.executable)}/portside"
    found = beside if os.access(beside, os.X_OK) else shutil.which("portside")
    if not found:
        raise InvalidParameter("cannot find out where the portside command is: put it into PATH")
    return found


def files(command: str, prefix: str, units: str) -> dict[str, str]:
    """The service's files by path: units, completions and manual pages."""
    from portside.cli import manual
    from portside.cli.completion import script

    found = {}
    for name in _UNITS:
        with open(f"{_TEMPLATES}/{name}") as file:
            found[f"{units}/{name}"] = file.read().replace("@COMMAND@", _quoted(command))
    for shell, path in _COMPLETIONS.items():
        found[f"{prefix}/{path}"] = script(shell, "portside") + "\n"
    for name, text in manual.pages().items():
        found[f"{prefix}/share/man/man1/{name}"] = text
    return found


def _quoted(path: str) -> str:
    """A path in a unit file, systemd.service(5) "COMMAND LINES"."""
    text = path.replace("%", "%%").replace("$", "$$")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(letter in text for letter in " \"'\\") else text


@verb("__install", about="hidden: write the service's files for a package", flags="""
      --command string   Path of the command
      --prefix string    Directory of shared files
      --root string      Directory that becomes the root
""")  # fmt: skip
def stage(session: Session, options: Options, arguments: list[str]) -> None:
    root, prefix = options.text("root"), options.text("prefix", "/usr")
    _write(root, files(options.text("command"), prefix, f"{prefix}/lib/systemd/system"))


def _write(root: str, found: dict[str, str]) -> None:
    for path, text in found.items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        with open(root + path, "w") as file:
            file.write(text)


@verb("daemon install", usage="[OPTIONS]",
      about="Install the engine as a service, with completion and manual pages", flags="""
      --no-start   Do not start the engine, nor with the machine
""")  # fmt: skip
def install(session: Session, options: Options, arguments: list[str]) -> None:
    user_unit = engine_unit.user_unit()
    if user_unit:  # completions and manual pages are the system's
        with open(f"{_TEMPLATES}/user/{engine_unit.NAME}") as file:
            text = file.read().replace("@COMMAND@", _quoted(command_path()))
        _write("", {user_unit: text})
        session.out(f"Installed {user_unit} for {command_path()}")
    elif _is_packaged():
        session.out(f"{engine_unit.NAME} and {engine_unit.SOCKET} are the package's")
    else:
        _write("", files(command_path(), "/usr/local", engine_unit.ADMIN_UNITS))
        session.out(f"Installed portside.service and portside.socket for {command_path()}")
    if not engine_unit.has_systemd():
        whose = "no systemd of this user runs here" if user_unit else "systemd does not run here"
        session.warn(f"{whose}: start the engine with portside daemon start")
        return
    systemctl("daemon-reload")
    if not options.flag("no-start"):
        _enable(session)
    if user_unit:
        session.out(
            "The engine and its containers end when you log out. To let them continue, and start "
            "with the machine: sudo loginctl enable-linger $USER"
        )


def _is_packaged() -> bool:
    """This command is a distribution package's, which has brought the units along."""
    return os.path.exists(f"{engine_unit.PACKAGED_UNITS}/{engine_unit.NAME}") and (
        os.path.realpath(_PACKAGED_COMMAND) == os.path.realpath(command_path())
    )


def _enable(session: Session) -> None:
    """Start the engine as the service, also in the place of one that runs in the background."""
    if engine_unit.end_engine_in_background():
        session.warn("the engine that ran in the background was ended: its containers continue")
    units = (engine_unit.NAME,) if engine_unit.user_unit() else _UNITS
    systemctl("enable", *units)
    # An engine of an earlier installation, maybe of another path, is replaced.
    systemctl("restart", *reversed(units))


def _data_root() -> str:
    """The data root that the engine's configuration file names, else the default one."""
    import json

    try:
        with open(f"{DEFAULT_CONFIG_DIR}/daemon.json", "rb") as file:
            named = json.load(file).get("data-root")
    except (OSError, ValueError, AttributeError):
        named = None
    return named if named and isinstance(named, str) else DEFAULT_DATA_ROOT


@verb("daemon uninstall", about="Remove the service, completion and manual pages; data stays")
def uninstall(session: Session, options: Options, arguments: list[str]) -> None:
    user_unit = engine_unit.user_unit()
    if engine_unit.is_installed():
        systemctl("disable", "--now", *((engine_unit.NAME,) if user_unit else _UNITS))
    found = [user_unit] if user_unit else files("", "/usr/local", engine_unit.ADMIN_UNITS)
    for path in found:
        if os.path.lexists(path):
            os.unlink(path)
            _remove_empty_parents(path)
    if engine_unit.has_systemd():
        systemctl("daemon-reload")
    with suppress(OSError):  # not empty where containers run on
        os.rmdir(DEFAULT_EXEC_ROOT)
    root = _data_root()
    kept = os.path.isdir(root) and bool(os.listdir(root))
    session.out(
        "Removed the service."
        + (
            f" Containers, images and volumes are kept in {root}: "
            "portside system reset removes them"
            if kept
            else ""
        )
    )


def _remove_empty_parents(path: str) -> None:
    """Directories that an installation has made; those that systems come with stay."""
    directory = os.path.dirname(path)
    while directory not in _SYSTEM_DIRECTORIES and not directory.endswith("/.config"):
        try:
            os.rmdir(directory)
        except OSError:  # somebody else's files are in it
            return
        directory = os.path.dirname(directory)


@verb("daemon start", about="Start the engine in the background")
def start(session: Session, options: Options, arguments: list[str]) -> None:
    if engine_unit.serves(session.endpoint):
        if not engine_unit.running_pid():
            engine_unit.start()
        return
    from portside.cli import engine_start

    engine_start.start_engine(session.endpoint)


@verb("daemon status", about="Show whether an engine runs, and which one")
def status(session: Session, options: Options, arguments: list[str]) -> int:
    from portside.model import build_info

    if engine_unit.is_ended(session.endpoint):
        session.out(f"No engine runs: {engine_unit.NAME} starts with the next command")
        return 3  # as systemctl(1) has it
    client = session.unconnected_client()
    try:
        found = client.get("/version")
    except NotRunning:
        session.out(f"No engine runs at {session.endpoint.text}")
        return 3
    commit = found.get("GitCommit") or "unknown"
    session.out(
        f"An engine runs at {session.endpoint.text}: version {found['Version']}, commit {commit}"
    )
    if engine_unit.serves(session.endpoint) and engine_unit.is_active():
        session.out(f"The engine runs as the service {engine_unit.NAME}")
    own = build_info.commit()
    if own and commit not in (own, "unknown"):
        session.out(f"This command is of commit {own}: portside daemon restart")
    return 0


@verb("daemon restart", about="End the engine and start it again; its containers continue")
def restart(session: Session, options: Options, arguments: list[str]) -> None:
    if engine_unit.serves(session.endpoint):
        engine_unit.end_engine_in_background()
        systemctl("restart", engine_unit.NAME)
        return
    from portside.cli import engine_start, system

    try:
        system.end_engine(session, containers=False)
    except NotRunning:
        engine_start.start_engine(session.endpoint)
    else:
        engine_start.start_engine(session.endpoint, "the engine was ended: starting it again")
