"""``explain``: a container in the kernel's terms."""

from __future__ import annotations

from portside.cli.verb import verb
from portside.client import jsontext
from portside.client.client import path_of
from portside.model.golang.sizes import binary_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.flag_table import Options
    from portside.cli.session import Session

    Item = dict[str, Any]

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
        session.out("\n".join(_text(found)))


def _text(found: Item) -> list[str]:
    lines = [f"{found['name'].removeprefix('/')}  {found['id'][:12]}  {found['status']}"]
    if found.get("command"):
        lines.append("  " + " ".join(found["command"]))
    if found.get("pid"):
        lines += _processes(found)
        lines += _namespaces(found["namespaces"])
        lines += _limits(found)
    lines += _layers(found)
    if found.get("pid"):
        lines += _rights(found)
        lines += _mounts(found["mounts"])
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
    lines.append(f"  {found['pid']} is its first process, number 1 inside")
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


def _limits(found: Item) -> list[str]:
    lines = _head("Control group", "cgroups(7)")
    lines.append(f"  {found['cgroup']}")
    paths = found.get("cgroup_paths") or {}
    lines += _columns([[name, paths[name]] for name in sorted(paths)]) if paths else []
    rows = [["limit", "is", "in use"]]
    for item in found.get("limits") or ():
        rows.append([item["name"], _amount(item["limit"], item["unit"]),
                     _amount(item["use"], item["unit"])])  # fmt: skip
    return lines + (_columns(rows) if len(rows) > 1 else [])


def _amount(value: int, unit: str) -> str:
    if value < 0:
        return "none"
    return binary_size(value) if unit == "bytes" else f"{value} {unit}"


def _layers(found: Item) -> list[str]:
    layers = found.get("layers") or ()
    lines = _head("Root file system", "overlayfs, mount(2)")
    rows = []
    for item in layers:
        size = item.get("size", -1)
        rows.append([item["role"], binary_size(size) if size >= 0 else "", item["path"]])
    lines += _columns(rows) if rows else []
    lines.append(f"  it has written {binary_size(found.get('written', 0))}")
    return lines


def _rights(found: Item) -> list[str]:
    lines = _head("Rights", "capabilities(7), seccomp(2)")
    groups = found.get("groups") or ()
    also = f", groups {', '.join(map(str, groups))}" if groups else ""
    lines.append(f"  runs as user {found['uid']}, group {found['gid']}{also}")
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


def _mounts(mounts: list[Item]) -> list[str]:
    rows = [[item["target"], item["type"], item["source"], item["options"]] for item in mounts]
    return [*_head("Mounts", "mount_namespaces(7)"), *(_columns(rows) if rows else [])]


def _network(steps: list[Item]) -> list[str]:
    lines = _head("Network, from inside to outside", "veth(4), network_namespaces(7)")
    for item in steps:
        words = [str(value) for value in item.values() if value not in ("", None, [], {})]
        lines.append("  " + "  ".join(words))
    return lines
