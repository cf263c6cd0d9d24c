"""``daemon install|uninstall|start|status|restart``: the engine as a service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from portside.cli import user_service
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.errors import NotRunning
from portside.model.errors import InvalidParameter
from portside.model.paths import DEFAULT_DATA_ROOT, rootless_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.session import Session
    from portside.flags.table import Options

_UNITS = ("portside.service", "portside.socket")
_TEMPLATES = f"{__file__.rpartition('/cli/')[0]}/daemon/units"
_SYSTEMD = "/run/systemd/system"
_COMPLETIONS = {
    "bash": "share/bash-completion/completions/portside",
    "fish": "share/fish/vendor_completions.d/portside.fish",
    "zsh": "share/zsh/site-functions/_portside",
}


def _user_unit() -> str:
    """Where the unit of a user's own engine is; empty for root's."""
    return user_service.unit() if rootless_user() else ""


def _has_systemd() -> bool:
    """systemd runs here; for a user, its user instance."""
    if not rootless_user():
        return os.path.isdir(_SYSTEMD)
    return user_service.has_systemd()


def _systemctl(*words: str) -> None:
    """Raises Failed with systemctl's message."""
    words = ("--user", *words) if rootless_user() else words
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(1, f"systemctl {' '.join(words)}: {done.stderr.strip()}")


def _is_service() -> bool:
    """systemd runs on this machine and has the engine's unit."""
    if rootless_user():
        return user_service.is_installed()
    return os.path.isdir(_SYSTEMD) and any(
        os.path.exists(f"{directory}/portside.service")
        for directory in ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
    )


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
    if rootless_user():
        _install_for_user(start=not options.flag("no-start"))
        return
    _write("", files(command_path(), "/usr/local", "/etc/systemd/system"))
    session.out(f"Installed portside.service and portside.socket for {command_path()}")
    if not os.path.isdir(_SYSTEMD):
        session.warn("systemd does not run here: start the engine with portside daemon start")
        return
    _systemctl("daemon-reload")
    if not options.flag("no-start"):
        _systemctl("enable", "--now", "portside.socket", "portside.service")


def _install_for_user(start: bool) -> None:
    """The unit alone: completions and manual pages are the system's."""
    with open(f"{_TEMPLATES}/user/portside.service") as file:
        text = file.read().replace("@COMMAND@", _quoted(command_path()))
    _write("", {_user_unit(): text})
    sys.stdout.write(f"Installed {_user_unit()} for {command_path()}\n")
    if not _has_systemd():
        sys.stderr.write(
            "No systemd of this user runs here: start the engine with portside daemon start\n"
        )
        return
    _systemctl("daemon-reload")
    if start:
        _systemctl("enable", "--now", "portside.service")
    sys.stdout.write(
        "The engine and its containers end when you log out. To let them continue, and start "
        "with the machine: sudo loginctl enable-linger $USER\n"
    )


@verb("daemon uninstall", about="Remove the service, completion and manual pages; data stays")
def uninstall(session: Session, options: Options, arguments: list[str]) -> None:
    own = _user_unit()
    if _is_service():
        units = ["portside.service"] if own else ["portside.service", "portside.socket"]
        _systemctl("disable", "--now", *units)
    for path in [own] if own else files("", "/usr/local", "/etc/systemd/system"):
        if os.path.lexists(path):
            os.unlink(path)
    if _has_systemd():
        _systemctl("daemon-reload")
    kept = os.path.isdir(DEFAULT_DATA_ROOT) and bool(os.listdir(DEFAULT_DATA_ROOT))
    session.out(
        "Removed the service."
        + (
            f" Containers, images and volumes are kept in {DEFAULT_DATA_ROOT}: "
            "portside system reset removes them"
            if kept
            else ""
        )
    )


@verb("daemon start", about="Start the engine in the background")
def start(session: Session, options: Options, arguments: list[str]) -> None:
    if _is_service():
        _systemctl("start", "portside.service")
        return
    from portside.cli import engine_start

    engine_start.start_engine(session.endpoint)


@verb("daemon status", about="Show whether an engine runs, and which one")
def status(session: Session, options: Options, arguments: list[str]) -> int:
    from portside.model import build_info

    client = session.unconnected_client()
    try:
        found = client.get("/version")
    except NotRunning:
        session.out(f"No engine runs at {session.endpoint.text}")
        return 3  # as systemctl(1) has it
    commit = found.get("GitCommit") or "unknown"
    session.out(
        f"An engine runs at {session.endpoint.text}: version {found['Version']}, commit {commit}"
    )
    if _is_service():
        session.out("The engine runs as the service portside.service")
    own = build_info.commit()
    if own and commit not in (own, "unknown"):
        session.out(f"This command is of commit {own}: portside daemon restart")
    return 0


@verb("daemon restart", about="End the engine and start it again; its containers continue")
def restart(session: Session, options: Options, arguments: list[str]) -> None:
    if _is_service():
        _systemctl("restart", "portside.service")
        return
    from portside.cli import engine_start, system

    try:
        system.end_engine(session, containers=False)
    except NotRunning:
        engine_start.start_engine(session.endpoint)
    else:
        engine_start.start_engine(session.endpoint, "the engine was ended: starting it again")
