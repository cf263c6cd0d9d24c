"""``system df``."""

from __future__ import annotations

from portside.cli import images, ps, table, times
from portside.model.golang import sizes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session

    Item = dict[str, Any]

_RUNNING = ("running", "paused", "restarting")
COLUMNS = {
    "Type": ("TYPE", lambda line, _: line["Type"]),
    "TotalCount": ("TOTAL", lambda line, _: str(line["Total"])),
    "Active": ("ACTIVE", lambda line, _: str(line["Active"])),
    "Size": ("SIZE", lambda line, _: sizes.human_size(line["Size"])),
    "Reclaimable": ("RECLAIMABLE", lambda line, _: _reclaimable(line)),
}
SHOWN = ("Type", "TotalCount", "Active", "Size", "Reclaimable")


def show(session: Session, format: str, verbose: bool) -> None:
    usage = session.client.get("/system/df")
    for warning in usage.get("Warnings") or ():
        session.warn(warning)
    if verbose:
        if format:
            from portside.cli.format import print_value

            print_value(session, format, usage)
        else:
            session.out("\n".join(_verbose(usage)))
        return
    lines = [_images(usage), _containers(usage), _volumes(usage), _cache(usage)]
    from portside.cli.format import print_rows

    print_rows(session, format, lines, COLUMNS, SHOWN, kind="disk usage")


def _reclaimable(line: Item) -> str:
    size = sizes.human_size(line["Reclaimable"])
    if line["Size"] > 0 and line["Type"] != "Build Cache":
        return f"{size} ({line['Reclaimable'] * 100 // line['Size']}%)"
    return size


def _line(kind: str, total: int, active: int, size: int, reclaimable: int) -> Item:
    return {"Type": kind, "Total": total, "Active": active, "Size": size,
            "Reclaimable": max(0, reclaimable)}  # fmt: skip


def _images(usage: Item) -> Item:
    found = usage.get("Images") or ()
    size = int(usage.get("LayersSize") or 0)
    used = sum(
        item["Size"] - max(0, item.get("SharedSize", 0))
        for item in found
        if item.get("Containers", 0) > 0 and item["Size"] >= 0
    )
    active = sum(item.get("Containers", 0) > 0 for item in found)
    return _line("Images", len(found), active, size, size - used if active else size)


def _containers(usage: Item) -> Item:
    found = usage.get("Containers") or ()
    sizes = [int(item.get("SizeRw") or 0) for item in found]
    idle = [int(item.get("SizeRw") or 0) for item in found if item["State"] not in _RUNNING]
    return _line("Containers", len(found), len(found) - len(idle), sum(sizes), sum(idle))


def _volumes(usage: Item) -> Item:
    found = [item.get("UsageData") or {} for item in usage.get("Volumes") or ()]
    sizes = sum(max(0, item.get("Size", 0)) for item in found)
    idle = sum(max(0, item.get("Size", 0)) for item in found if not item.get("RefCount"))
    active = sum(item.get("RefCount", 0) > 0 for item in found)
    return _line("Local Volumes", len(found), active, sizes, idle)


def _cache(usage: Item) -> Item:
    found = usage.get("BuildCache") or ()
    own = [item for item in found if not item.get("Shared")]
    idle = sum(item["Size"] for item in own if not item.get("InUse"))
    active = sum(bool(item.get("InUse")) for item in found)
    return _line("Build Cache", len(found), active, sum(item["Size"] for item in own), idle)


def _verbose(usage: Item) -> list[str]:
    lines = ["Images space usage:", ""]
    rows = []
    for image in usage.get("Images") or ():
        for line in list(images.lines_of(image, False))[:1]:  # the first tag, as docker
            shared = max(0, image.get("SharedSize", 0))
            rows.append([
                line.repository, line.tag, ps.short_id(image["Id"]),
                times.ago(image["Created"]), sizes.human_size(image["Size"], 3),
                sizes.human_size(shared), sizes.human_size(image["Size"] - shared),
                str(image.get("Containers", 0)),
            ])  # fmt: skip
    header = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE",
              "CONTAINERS"]  # fmt: skip
    lines += [table.table(header, rows), "", "Containers space usage:", ""]
    view = ps._View(False)
    names = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
    rows = []
    for item in usage.get("Containers") or ():
        row = [str(ps.COLUMNS[name][1](item, view)) for name in names]
        row[4] = sizes.human_size(item.get("SizeRw") or 0, 3)
        rows.append(row)
    lines += [table.table([ps.COLUMNS[name][0] for name in names], rows), "",
              "Local Volumes space usage:", ""]  # fmt: skip
    rows = []
    for item in usage.get("Volumes") or ():
        used = item.get("UsageData") or {}
        rows.append([item["Name"], str(used.get("RefCount", 0)),
                     sizes.human_size(max(0, used.get("Size", 0)))])  # fmt: skip
    lines += [table.table(["VOLUME NAME", "LINKS", "SIZE"], rows), ""]
    lines += [f"Build cache usage: {sizes.human_size(_cache(usage)['Size'])}", ""]
    return [*lines, table.table(
        ["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"],
        [_cache_row(item) for item in usage.get("BuildCache") or ()])]  # fmt: skip


def _cache_row(item: Item) -> list[str]:
    used = item.get("LastUsedAt")
    return [
        item["ID"][:12], item["Type"], sizes.human_size(item["Size"], 3),
        times.ago(times.seconds_of(item["CreatedAt"])),
        times.ago(times.seconds_of(used)) if used else "",
        str(item.get("UsageCount", 0)), "true" if item.get("Shared") else "false",
    ]  # fmt: skip
