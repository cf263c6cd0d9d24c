"""``state``, ``list``, ``ps``, ``kill``, ``pause``, ``resume``."""

from __future__ import annotations

import posix
import sys

from portside.model import jsontext
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.spec_version import SPEC_VERSION
from portside.runtime.oci.arguments import Context, Options
from portside.runtime.oci.state_store import Container, Saved, everyone

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from portside.kernel.cgroup import Cgroup
else:
    import _signal as signal  # without enum


def _group(saved: Saved) -> Cgroup:
    from portside.runtime.oci import light_structs  # half of these verbs do without either

    light_structs.install()
    from portside.kernel.cgroup import Cgroup

    return Cgroup(saved.cgroup)


def _config(box: Container) -> dict[str, Any]:
    """The configuration as it was written at create; empty when that is gone."""
    try:
        with open(f"{box.directory}/config.json", "rb") as file:
            found = jsontext.loads(file.read())
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def describe(box: Container, saved: Saved) -> dict[str, Any]:
    """The document that ``state`` and ``list`` print."""
    status = box.status(saved)
    found: dict[str, Any] = {
        "ociVersion": SPEC_VERSION,
        "id": box.id,
        "pid": 0 if status == "stopped" else saved.pid,
        "status": status,
        "bundle": saved.bundle,
        "rootfs": saved.rootfs,
        "created": saved.created,
    }
    if annotations := _config(box).get("annotations"):
        found["annotations"] = annotations
    found["owner"] = saved.owner
    return found


def state(context: Context, options: Options) -> int:
    box = Container(context.root, options.operand())
    print(jsontext.dumps(describe(box, box.load()), "  "))
    return 0


def list_(context: Context, options: Options) -> int:
    format = _format(options)
    boxes = everyone(context.root)
    if options.flag("quiet"):
        print("".join(f"{box.id}\n" for box in boxes), end="")
        return 0
    found = [describe(box, box.load()) | {"owner": _owner(box)} for box in boxes]
    if format == "json":
        print(jsontext.dumps(found))
        return 0
    rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    columns = ("id", "pid", "status", "bundle", "created", "owner")
    rows += [tuple(str(one[column]) for column in columns) for one in found]
    widths = [max(12, *(len(row[n]) + 4 for row in rows)) for n in range(5)]
    for row in rows:
        cells = zip(row, [*widths, 0], strict=True)
        print("".join(cell.ljust(width) for cell, width in cells).rstrip())
    return 0


def _format(options: Options) -> str:
    """``--format``. Raises InvalidParameter."""
    format = options.text("format", "table")
    if format not in ("table", "json"):
        raise InvalidParameter("invalid format option")
    return format


def _owner(box: Container) -> str:
    """Name of the user whose directory the container's is; its number when it has no name."""
    import pwd

    try:
        uid = posix.stat(box.directory).st_uid
    except FileNotFoundError:  # deleted meanwhile
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def ps(context: Context, options: Options) -> int:
    """The processes, as numbers or as ps(1) shows them."""
    format = _format(options)
    saved = Container(context.root, options.operand()).load()
    pids = sorted(_group(saved).pids())
    if format == "json":
        print(jsontext.dumps(pids))
        return 0
    import subprocess

    words = options.operands[1:] or ["-ef"]
    done = subprocess.run(["ps", *words], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise SystemFailure(f"exit status {done.returncode}: {done.stdout}{done.stderr}")
    lines = done.stdout.splitlines()
    head = lines[0].split() if lines else []
    if "PID" not in head:
        raise InvalidParameter("couldn't find PID field in ps output")
    column, wanted = head.index("PID"), {str(pid) for pid in pids}
    print(lines[0])
    for line in lines[1:]:
        cells = line.split()
        if column < len(cells) and cells[column] in wanted:
            print(line)
    return 0


def number_of(text: str) -> int:
    """A signal by number or name. Raises InvalidParameter."""
    if text.isascii() and text.isdecimal() and 0 <= int(text) < signal.NSIG:
        return int(text)  # 0 only asks whether it may be sent
    name = text.upper().removeprefix("SIG")
    found = getattr(signal, f"SIG{name}", None)
    if not isinstance(found, int) or name[:1] == "_":  # SIG_IGN and the like
        if name.startswith("RTMIN+") and name[6:].isdecimal():
            return signal.SIGRTMIN + int(name[6:])
        raise InvalidParameter(f'unknown signal "{text}"')
    return int(found)


def kill(context: Context, options: Options) -> int:
    """Signal the first process; all of them with ``--all``, or when the host's PIDs are shared."""
    box = Container(context.root, options.operand())
    saved = box.load()
    number = number_of(options.operands[1] if len(options.operands) > 1 else "SIGTERM")
    namespaces = (_config(box).get("linux") or {}).get("namespaces") or ()
    shared = not any(one.get("type") == "pid" for one in namespaces)
    if options.flag("all") or (shared and number == signal.SIGKILL):
        group = _group(saved)
        if number == signal.SIGKILL:
            if group.exists():
                group.kill()
        else:
            for pid in group.pids():
                try:
                    posix.kill(pid, number)
                except ProcessLookupError:
                    continue
        return 0
    try:
        pidfd = posix.pidfd_open(saved.pid)
        try:
            # now that the process is held, see whether the number still stood for it
            if box.status(saved) == "stopped":
                raise SystemFailure("container not running")
            signal.pidfd_send_signal(pidfd, number)
        finally:
            posix.close(pidfd)
    except ProcessLookupError:
        raise SystemFailure("container not running") from None
    return 0


def pause(context: Context, options: Options) -> int:
    box = Container(context.root, options.operand())
    saved = box.load()
    status = box.status(saved)
    if status not in ("running", "created"):
        raise SystemFailure("container not running")
    _group(saved).freeze()
    return 0


def resume(context: Context, options: Options) -> int:
    box = Container(context.root, options.operand())
    saved = box.load()
    if not _group(saved).frozen():
        raise SystemFailure("container not paused")
    _group(saved).thaw()
    sys.stdout.flush()
    return 0
