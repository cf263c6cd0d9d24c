"""The command line: global options, the table of verbs, and how errors are told."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from portside.model.errors import InvalidParameter, PortsideError
from portside.runtime.oci.arguments import Options, parse

DEFAULT_ROOT = "/run/portside-runtime"
_GLOBAL_FLAGS = "debug systemd-cgroup version help"
_GLOBAL_VALUES = "root log log-format rootless criu"
_CREATE = ("no-new-keyring no-pivot",
           "bundle console-socket pid-file preserve-fds pidfd-socket", "b=bundle")  # fmt: skip
_LIMITS = ("resources memory memory-reservation memory-swap kernel-memory kernel-memory-tcp "
           "cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period cpu-rt-runtime cpuset-cpus "
           "cpuset-mems pids-limit blkio-weight cpu-idle")  # fmt: skip

_OPERANDS: dict[str, tuple[int, int | None]] = {
    "list": (0, 0), "spec": (0, 0), "features": (0, 0), "exec": (1, None), "ps": (1, None),
    "kill": (1, 2), "checkpoint": (0, None), "restore": (0, None),
}  # fmt: skip
"""How many operands a verb takes at least and at most; one, when it is not here."""

Verb = Callable[["Context", Options], int]


class Context:
    """Global options."""

    def __init__(self, options: Options) -> None:
        runtime = os.environ.get("XDG_RUNTIME_DIR") if os.geteuid() else ""
        fallback = f"{runtime}/portside-runtime" if runtime else DEFAULT_ROOT
        self.root = os.path.abspath(options.get("root") or fallback)
        self.log = options.get("log")
        self.format = options.get("log-format", "text")
        self.systemd = options.has("systemd-cgroup")
        self.debug = options.has("debug")


def _verbs() -> dict[str, tuple[str, str, str, str]]:
    """Flags, options with values, short names, and where the verb is."""
    flags, values, short = _CREATE
    run_short = f"{short} d=detach"
    exec_short = "d=detach t=tty u=user e=env p=process g=additional-gids c=cap"
    return {
        "create": (flags, values, short, "lifecycle_verbs:create"),
        "run": (f"{flags} detach keep no-subreaper", values, run_short, "lifecycle_verbs:run"),
        "start": ("", "", "", "lifecycle_verbs:start"),
        "delete": ("force", "", "f=force", "lifecycle_verbs:delete"),
        "exec": ("tty detach no-new-privs ignore-paused",
                 "console-socket cwd env user additional-gids process pid-file process-label "
                 "apparmor cap preserve-fds cgroup pidfd-socket",
                 exec_short, "lifecycle_verbs:exec_"),
        "kill": ("all", "", "a=all", "process_verbs:kill"),
        "state": ("", "", "", "process_verbs:state"),
        "list": ("quiet", "format", "q=quiet f=format", "process_verbs:list_"),
        "ps": ("", "format", "f=format", "process_verbs:ps"),
        "pause": ("", "", "", "process_verbs:pause"),
        "resume": ("", "", "", "process_verbs:resume"),
        "update": ("", _LIMITS, "r=resources", "update_events:update"),
        "events": ("stats", "interval", "", "update_events:events"),
        "spec": ("rootless", "bundle", "b=bundle", "features:spec"),
        "features": ("", "", "", "features:features"),
        "checkpoint": ("leave-running", "image-path work-path", "", "features:unbuilt"),
        "restore": ("detach", "image-path work-path bundle pid-file", "", "features:unbuilt"),
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run one command; its exit status."""
    os.umask(0o022)  # whatever the caller's is: mount points and control groups are 0755
    context = Context(Options())
    name = ""
    try:
        options = parse(arguments, _GLOBAL_FLAGS, _GLOBAL_VALUES, "v=version h=help")
        context = Context(options)
        if options.has("version"):
            from portside.runtime.oci.features import version

            return version()
        name = options.operands[0] if options.operands else "help"
        if options.has("help") or name in ("help", "h"):
            from portside.runtime.oci.features import usage

            return usage(sorted(_verbs()))
        if context.format not in ("text", "json"):
            raise InvalidParameter(f"invalid log-format: {context.format}")
        return _dispatch(context, name, options.operands[1:])
    except PortsideError as err:
        return _fail(context, name, str(err), err)
    except OSError as err:
        where = f"{err.filename}: " if err.filename else ""
        return _fail(context, name, f"{where}{err.strerror or err}")


def _dispatch(context: Context, name: str, arguments: list[str]) -> int:
    verbs = _verbs()
    if name not in verbs:
        raise InvalidParameter(f"no such command: {name}; see --help")
    flags, values, short, place = verbs[name]
    options = parse(arguments, flags, values, short)
    least, most = _OPERANDS.get(name, (1, 1))
    given = len(options.operands)
    if given < least or (most is not None and given > most):
        wanted = f"exactly {least}" if least == most else f"a minimum of {least}"
        if least != most and given > least:
            wanted = f"a maximum of {most}"
        raise UsageError(f'"{name}" requires {wanted} argument(s)')
    module, _, function = place.partition(":")
    import importlib

    verb: Verb = getattr(importlib.import_module(f"portside.runtime.oci.{module}"), function)
    return verb(context, options)


class UsageError(InvalidParameter):
    """A command line that nobody can mean."""


def _fail(context: Context, name: str, message: str, error: BaseException | None = None) -> int:
    """Tell an error where the caller looks for it: its log file, and our standard error."""
    if error is not None and isinstance(error, UsageError):
        os.write(2, f"portside-runtime: {message}\n".encode())
        return 1
    message = message.removeprefix("OCI runtime create failed: ").removeprefix(
        "OCI runtime exec failed: exec failed: "
    )
    if name in ("create", "run"):
        message = f"portside-runtime {name} failed: {message}"
    elif name == "exec":
        message = f"exec failed: {message}"
    if context.log:
        _write_log(context, message)
    os.write(2, f"{message}\n".encode())
    return 255 if name == "exec" else 1


def _write_log(context: Context, message: str) -> None:
    import json

    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if context.format == "json":
        line = json.dumps({"level": "error", "msg": message, "time": stamp})
    else:
        line = f'time="{stamp}" level=error msg={json.dumps(message)}'
    try:
        with open(context.log, "a") as file:
            file.write(line + "\n")
    except OSError as err:
        sys.stderr.write(f"{context.log}: {err.strerror}\n")
