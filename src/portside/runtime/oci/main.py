"""The command line: global options, the table of verbs, and how errors are reported."""

from __future__ import annotations

import posix
import sys

from portside.flags.table import Flag, HelpWanted, read_table
from portside.model.errors import InvalidParameter, PortsideError
from portside.runtime.oci import runtime_log
from portside.runtime.oci.arguments import Context, Options, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Verb = Callable[[Context, Options], int]

_GLOBAL = """
      --criu string         Accepted: checkpoints are not supported
      --debug               Write a traceback of unexpected errors
      --log string          File for error messages
      --log-format string   Form of the messages in the log file: text or json (default "text")
      --root string         Directory of the containers' state
      --rootless string     Accepted for runc's callers
      --systemd-cgroup      Refused: control groups are made without systemd
  -v, --version             Print the version
"""
_CREATE = """
  -b, --bundle string           Directory of the bundle (default: the current one)
      --console-socket string   Unix socket that gets the terminal
      --no-new-keyring          Keep the session keyring of the caller
      --no-pivot                Move the root instead of using pivot_root(2) (for an initramfs)
      --pid-file string         Write the process ID to this file
      --pidfd-socket string     Unix socket that gets a pidfd of the process
      --preserve-fds int        Pass this many descriptors after standard error on
"""
_RUN = (
    _CREATE
    + """
  -d, --detach                  Leave the container running
      --keep                    Keep the state of a container that has ended
      --no-subreaper            Accepted: the runtime is always the subreaper
"""
)
_EXEC = """
  -g, --additional-gids list    Further groups of the process
      --apparmor string         AppArmor profile
  -c, --cap list                Add a capability
      --cgroup string           Control group below the container's
      --console-socket string   Unix socket that gets the terminal
      --cwd string              Working directory
  -d, --detach                  Leave the process running
  -e, --env list                Set a variable of the environment
      --ignore-paused           Do not refuse a paused container
      --no-new-privs            Let the process gain no privileges by execve(2)
      --pid-file string         Write the process ID to this file
      --pidfd-socket string     Unix socket that gets a pidfd of the process
      --preserve-fds int        Pass this many descriptors after standard error on
  -p, --process string          File with the process in the form of the runtime-spec
      --process-label string    SELinux label
  -t, --tty                     Give the process a terminal
  -u, --user string             User to run as (UID[:GID])
"""
_LIMITS = """
      --blkio-weight int            Weight of block I/O, 10 to 1000
      --cpu-burst int               CPU time saved up for bursts, in microseconds
      --cpu-idle int                1 for SCHED_IDLE, 0 for the default
      --cpu-period int              Period of the CPU quota, in microseconds
      --cpu-quota int               CPU time in each period, in microseconds
      --cpu-rt-period int           Period of real-time CPU time, in microseconds
      --cpu-rt-runtime int          Real-time CPU time in each period, in microseconds
      --cpu-share int               Relative weight of CPU time
      --cpuset-cpus string          CPUs to run on (0-3, 0,1)
      --cpuset-mems string          Memory nodes to use (0-3, 0,1)
      --kernel-memory bytes         Limit of kernel memory (removed from the kernel)
      --kernel-memory-tcp bytes     Limit of kernel memory for TCP buffers
      --memory bytes                Limit of memory
      --memory-reservation bytes    Soft limit of memory
      --memory-swap bytes           Limit of memory and swap together; -1 for no limit
      --pids-limit int              Limit of processes; -1 for no limit
  -r, --resources string            File with the limits in the form of the runtime-spec, or -
"""

_OPERANDS: dict[str, tuple[int, int | None]] = {
    "list": (0, 0), "spec": (0, 0), "features": (0, 0), "exec": (1, None), "ps": (1, None),
    "kill": (1, 2), "checkpoint": (0, None), "restore": (0, None),
}  # fmt: skip
"""Least and greatest number of operands of a verb; a verb that is missing here takes one."""

_VERBS: dict[str, tuple[str, str, str, str]] = {
    "create": ("ID", "Create a container", _CREATE, "lifecycle_verbs:create"),
    "run": ("ID", "Create and start a container", _RUN, "lifecycle_verbs:run"),
    "start": ("ID", "Start a created container", "", "start_delete:start_verb"),
    "delete": ("ID", "Delete a container that has ended", """
  -f, --force   End a running container first
""", "start_delete:delete_verb"),
    "exec": ("ID [COMMAND [ARG...]]", "Run a process in a container", _EXEC,
             "lifecycle_verbs:exec_"),
    "kill": ("ID [SIGNAL]", "Send a signal to a container's first process", """
  -a, --all   Send it to all processes of the container
""", "process_verbs:kill"),
    "state": ("ID", "Print the state of a container", "", "process_verbs:state"),
    "list": ("", "List containers", """
  -f, --format string   table or json (default "table")
  -q, --quiet           Print IDs only
""", "process_verbs:list_"),
    "ps": ("ID [PS_OPTIONS]", "List the processes of a container", """
  -f, --format string   table or json (default "table")
""", "process_verbs:ps"),
    "pause": ("ID", "Freeze all processes of a container", "", "process_verbs:pause"),
    "resume": ("ID", "Let the processes of a paused container continue", "",
               "process_verbs:resume"),
    "update": ("ID", "Change the limits of a container", _LIMITS, "update_events:update"),
    "events": ("ID", "Print statistics and out-of-memory events", """
      --interval string   Time between two statistics (default "5s")
      --stats             Print statistics once
""", "update_events:events"),
    "spec": ("", "Write a config.json to begin with", """
  -b, --bundle string   Directory to write it to (default: the current one)
      --rootless        Write one for a user without rights
""", "features:spec"),
    "features": ("", "Print what the runtime and this machine support", "", "features:features"),
    "checkpoint": ("ID", "Not supported", """
      --auto-dedup                   Accepted
      --empty-ns string              Accepted
      --ext-unix-sk                  Accepted
      --file-locks                   Accepted
      --image-path string            Accepted
      --lazy-pages                   Accepted
      --leave-running                Accepted
      --manage-cgroups-mode string   Accepted
      --page-server string           Accepted
      --parent-path string           Accepted
      --pre-dump                     Accepted
      --shell-job                    Accepted
      --status-fd string             Accepted
      --tcp-established              Accepted
      --work-path string             Accepted
""", "features:unbuilt"),
    "restore": ("ID", "Not supported", """
      --auto-dedup                   Accepted
  -b, --bundle string                Accepted
      --console-socket string        Accepted
  -d, --detach                       Accepted
      --empty-ns string              Accepted
      --ext-unix-sk                  Accepted
      --file-locks                   Accepted
      --image-path string            Accepted
      --lazy-pages                   Accepted
      --lsm-mount-context string     Accepted
      --lsm-profile string           Accepted
      --manage-cgroups-mode string   Accepted
      --no-pivot                     Accepted
      --no-subreaper                 Accepted
      --pid-file string              Accepted
      --shell-job                    Accepted
      --tcp-established              Accepted
      --work-path string             Accepted
""", "features:unbuilt"),
}  # fmt: skip
"""Each verb's operands, description, flags and module."""


def global_flags() -> list[Flag]:
    return read_table(_GLOBAL)


def main(arguments: list[str]) -> int:
    """Run one command; its exit status."""
    posix.umask(0o022)  # whatever the caller's is: mount points and control groups are 0755
    context = Context(Options())
    name = ""
    try:
        options = parse(arguments, global_flags())
        context = Context(options)
        if options.flag("version"):
            from portside.runtime.oci.features import version

            return version()
        name = options.operands[0] if options.operands else "help"
        if name in ("help", "h"):
            return _help(options.operands[1:])
        if context.format not in ("text", "json"):
            raise InvalidParameter(f"invalid log-format: {context.format}")
        runtime_log.configure(context.log, context.format)
        return _dispatch(context, name, options.operands[1:])
    except HelpWanted:
        return _help([name] if name in _VERBS else [])
    except PortsideError as err:
        return _fail(context, name, str(err), err)
    except OSError as err:
        where = f"{err.filename}: " if err.filename else ""
        return _fail(context, name, f"{where}{err.strerror or err}")


def _dispatch(context: Context, name: str, arguments: list[str]) -> int:
    if name not in _VERBS:
        raise UnknownVerb(name)
    _, _, table, place = _VERBS[name]
    options = parse(arguments, read_table(table))
    least, most = _OPERANDS.get(name, (1, 1))
    given = len(options.operands)
    if given < least or (most is not None and given > most):
        wanted = f"exactly {least}" if least == most else f"a minimum of {least}"
        if least != most and given > least:
            wanted = f"a maximum of {most}"
        raise UsageError(f'"{name}" requires {wanted} argument(s)')
    module, _, function = place.partition(":")
    name = f"portside.runtime.oci.{module}"
    __import__(name)
    verb: Verb = getattr(sys.modules[name], function)
    return verb(context, options)


def _help(words: list[str]) -> int:
    """``--help``, ``VERB --help`` and ``help VERB``."""
    from portside.runtime.oci.features import usage

    if words and words[0] not in _VERBS:
        raise UnknownVerb(words[0])
    return usage(_VERBS, global_flags(), words[0] if words else "")


class UsageError(InvalidParameter):
    """A command line that nobody can mean."""


class UnknownVerb(InvalidParameter):
    """There is no such verb; runc says it in these words, with an exit status of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No help topic for '{name}'")


def _fail(context: Context, name: str, message: str, error: BaseException | None = None) -> int:
    """Report an error where the caller looks for it: in its log file and on our standard error."""
    if error is not None and isinstance(error, UsageError):
        posix.write(2, f"portside-runtime: {message}\n".encode())
        return 1
    message = message.removeprefix("OCI runtime create failed: ").removeprefix(
        "OCI runtime exec failed: exec failed: "
    )
    if name in ("create", "run"):
        message = f"portside-runtime {name} failed: {message}"
    elif name == "exec":
        message = f"exec failed: {message}"
    runtime_log.configure(context.log, context.format if context.format == "json" else "text")
    runtime_log.write("error", message)
    if isinstance(error, UnknownVerb):
        return 3
    return 255 if name == "exec" else 1
