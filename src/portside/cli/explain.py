"""``explain``: a container in the kernel's terms."""

from __future__ import annotations

import re

from portside.cli.verb import verb
from portside.client.client import path_of
from portside.model import jsontext
from portside.model.counted import counted
from portside.model.golang.sizes import binary_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]

_COLUMNS = 100
_QUOTA = "cpu quota in each period"
_ID = re.compile(r"[0-9a-f]{64}")
_USUAL_ULIMITS = ("open files", "processes", "core file size", "locked memory", "stack size")
_MEANINGS = {
    "cgroup": "its own root of the control groups",
    "ipc": "shared memory, semaphores and message queues",
    "mnt": "which file systems it sees, and where",
    "net": "interfaces, addresses, routes and ports",
    "pid": "which processes it sees; its first one has number 1",
    "time": "offsets of the monotonic clocks",
    "user": "what its user and group numbers mean outside",
    "uts": "its host name",
}


@verb("explain", "container explain", usage="[OPTIONS] CONTAINER", arguments=(1, 1),
      about="Show what a container is made of in the kernel", completes="container", flags="""
  -a, --all             Show everything in full; without it lines fit 100 columns
      --format string   Print by a Go template, or 'json'
""")  # fmt: skip
def explain(session: Session, options: Options, arguments: list[str]) -> None:
    found = session.client.get(path_of("portside", "containers", arguments[0], "explain"))
    format = options.text("format")
    if format == "json":
        session.out(jsontext.dumps(found, "    "))
    elif format:
        from portside.cli.format import print_value

        print_value(session, format, found)
    else:
        lines = _text(found, options.flag("all"))
        session.out("\n".join(lines if options.flag("all") else map(_fitted, lines)))


def _fitted(line: str) -> str:
    return line if len(line) <= _COLUMNS else line[: _COLUMNS - 1] + "…"


def _shortened(text: str, room: int) -> str:
    """IDs cut to 12 characters; a path that is still too long loses its middle."""
    text = _ID.sub(lambda match: match[0][:12], text)
    if len(text) <= room:
        return text
    kept = room - 1
    return text[: kept // 3] + "…" + text[len(text) - (kept - kept // 3) :]


def _text(found: Item, full: bool) -> list[str]:
    lines = [f"{found['name'].removeprefix('/')}  {found['id'][:12]}  {found['status']}"]
    if found.get("command"):
        lines.append("  " + " ".join(found["command"]))
    if found.get("pid"):
        lines += _processes(found)
        lines += _namespaces(found["namespaces"])
        lines += _limits(found, full)
    lines += _layers(found, full)
    if found.get("pid"):
        lines += _rights(found)
        lines += _devices(found.get("devices") or [])
        lines += _mounts(found["mounts"], full)
    if found.get("network"):
        lines += _network(found["network"])
    if not found.get("pid"):
        lines += ["", "It does not run: it has no processes, namespaces, mounts or limits now."]
    return lines


def _head(title: str, reference: str) -> list[str]:
    return ["", f"{title}  ({reference})"]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _processes(found: Item) -> list[str]:
    others = [pid for pid in found.get("processes") or () if pid != found["pid"]]
    lines = _head("Processes", "pid_namespaces(7)")
    inner = found.get("inner_pid", 1)
    if inner == found["pid"]:
        lines.append(f"  {found['pid']} is its first process; it sees the machine's processes")
    else:
        lines.append(f"  {found['pid']} is its first process, number {inner} inside")
    if found.get("monitor"):
        lines.append(f"  {found['monitor']} watches over it from outside: "
                     "its output, its exit, exec")  # fmt: skip
    if others:
        shown = ", ".join(map(str, others[:12])) + (", …" if len(others) > 12 else "")
        lines.append(f"  {len(others)} more inside: {shown}")
    return lines


def _namespaces(namespaces: list[Item]) -> list[str]:
    rows = []
    for item in namespaces:
        shared = item.get("shared_with") or ()
        whose = f"shared with {', '.join(shared)}" if shared else "its own"
        rows.append([item["kind"], str(item["inode"]), whose, _MEANINGS.get(item["kind"], "")])
    return [*_head("Namespaces", "namespaces(7)"), *(_columns(rows) if rows else [])]


def _limits(found: Item, full: bool) -> list[str]:
    lines = _head("Control group", "cgroups(7)")
    lines.append(f"  {found['cgroup'] if full else _shortened(found['cgroup'], 90)}")
    paths = found.get("cgroup_paths") or {}
    if full:
        lines += _columns([[name, paths[name]] for name in sorted(paths)]) if paths else []
    limits = {item["name"]: item for item in found.get("limits") or ()}
    rows = [["limit", "is", "in use"]]
    quota = limits.pop(_QUOTA, None)
    for item in limits.values():
        rows.append([item["name"], _amount(item["limit"], item["unit"]),
                     _amount(item["use"], item["unit"])])  # fmt: skip
    if quota is not None:
        rows.insert(min(4, len(rows)), ["cpu quota", _cpus(quota), ""])
    rows += [["processors", found["cpus"], ""]] if found.get("cpus") else []
    if found.get("memory_nodes", "0") != "0":
        rows.append(["memory nodes", found["memory_nodes"], ""])
    rows += [[f"block I/O {name}", value, ""] for name, value in found.get("blkio", {}).items()]
    lines += _columns(rows) if len(rows) > 1 else []
    return lines + _ulimits(found.get("ulimits") or {}, full)


def _cpus(quota: Item) -> str:
    """A quota of microseconds in each period as a number of processors."""
    if quota["limit"] < 0 or quota["use"] <= 0:
        return "none"
    return f"{quota['limit'] / quota['use']:.4g} CPUs"


def _ulimits(limits: dict[str, Any], full: bool) -> list[str]:
    rows = [
        [name, soft, hard]
        for name, (soft, hard) in limits.items()
        if full or name in _USUAL_ULIMITS
    ]
    head = [["limit of a process", "soft", "hard"]]
    return [*_head("Limits of processes", "getrlimit(2)"), *_columns(head + rows)] if rows else []


def _devices(devices: list[Item]) -> list[str]:
    if not devices:
        return []
    rows = [[item["path"], item["source"], item["permissions"]] for item in devices]
    head = [["inside", "of the machine", "rights"]]
    return [*_head("Devices", "mknod(2), cgroups(7)"), *_columns(head + rows)]


def _amount(value: int, unit: str) -> str:
    if value < 0:
        return "none"
    if unit == "nanoseconds":
        return f"{value / 1e9:.3f} seconds"
    return binary_size(value) if unit == "bytes" else counted(value, unit)


def _layers(found: Item, full: bool) -> list[str]:
    layers = found.get("layers") or ()
    lines = _head("Root file system", "overlayfs, mount(2)")
    rows = []
    for item in layers:
        size = item.get("size", -1)
        path = item["path"] if full else _shortened(item["path"], 75)
        rows.append([item["role"], binary_size(size) if size >= 0 else "", path])
    lines += _columns(rows) if rows else []
    lines.append(f"  it has written {binary_size(found.get('written', 0))}")
    return lines


def _rights(found: Item) -> list[str]:
    lines = _head("Rights", "capabilities(7), seccomp(2)")
    groups = found.get("groups") or ()
    also = f", groups {', '.join(map(str, groups))}" if groups else ""
    maps = found.get("id_mappings") or {}
    where = " of the host" if maps else ""
    lines.append(f"  runs as user {found['uid']}, group {found['gid']}{also}{where}")
    for kind, mappings in maps.items():  # user_namespaces(7)
        lines.append(f"  {kind} inside:host:count {' '.join(mappings)}")
    sets = found.get("capabilities") or {}
    grouped: dict[tuple[str, ...], list[str]] = {}
    for name in ("effective", "permitted", "bounding", "inheritable", "ambient"):
        if name in sets:
            grouped.setdefault(tuple(sets[name]), []).append(name)
    for names, kinds in grouped.items():
        shown = " ".join(name.removeprefix("CAP_").lower() for name in names) or "none"
        lines.append(f"  {', '.join(kinds)} capabilities: {shown}")
    lines.append(f"  system calls: seccomp {found.get('seccomp') or 'disabled'}")
    may = "cannot" if found.get("no_new_privileges") else "can"
    lines.append(f"  it {may} gain rights by executing a program (no_new_privs, prctl(2))")
    return lines


def _mounts(mounts: list[Item], full: bool) -> list[str]:
    rows = []
    for item in mounts:
        cells = [item["target"], item["type"], item["source"], item["options"]]
        rooms = (34, 10, 36, 12)
        if not full:
            cells = [_shortened(cell, room) for cell, room in zip(cells, rooms, strict=True)]
            cells[3] = item["options"].partition(",")[0]
        rows.append(cells)
    return [*_head("Mounts", "mount_namespaces(7)"), *(_columns(rows) if rows else [])]


def _network(steps: list[Item]) -> list[str]:
    lines = _head("Network, from inside to outside", "veth(4), network_namespaces(7)")
    for item in steps:
        words = [str(value) for value in item.values() if value not in ("", None, [], {})]
        lines.append("  " + "  ".join(words))
    return lines
