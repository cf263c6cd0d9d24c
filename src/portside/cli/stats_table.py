"""The table of ``stats``: what each column is, made of a sample of each container."""

from __future__ import annotations

from portside.cli import table
from portside.cli.ps import ellipsis
from portside.client.client import filters_text
from portside.model.golang import sizes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.format import Columns
    from portside.cli.session import Session
    from portside.client.client import Client
    from portside.flags.table import Options

    Sample = dict[str, Any]

_UNKNOWN = "--"


class Entry:
    """A container in the table, and its last sample."""

    def __init__(self, asked: str, full: bool) -> None:
        self.asked, self.full = asked, full
        self.sample: Sample | None = None
        self.gone = False
        self.history = ("", "")
        """Sparklines of processor and memory, with ``--history``."""

    @property
    def is_idle(self) -> bool:
        """Nothing could be measured."""
        return self.sample is None


def cpu_percent(sample: Sample) -> float:
    """The share of one processor, times all of them, as Docker computes it."""
    now, before = sample["cpu_stats"], sample.get("precpu_stats") or {}
    used = now["cpu_usage"]["total_usage"] - (before.get("cpu_usage") or {}).get("total_usage", 0)
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    online = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ()) or 1
    return used / system * online * 100.0 if used > 0 and system > 0 else 0.0


def memory_used(sample: Sample) -> int:
    """Without the file cache that can be dropped at once."""
    memory = sample.get("memory_stats") or {}
    usage = int(memory.get("usage", 0))
    for name in ("total_inactive_file", "inactive_file"):
        cache = (memory.get("stats") or {}).get(name)
        if cache is not None and cache < usage:
            return usage - int(cache)
    return usage


def _cpu(entry: Entry, _: Any) -> str:
    return _UNKNOWN if entry.is_idle else f"{cpu_percent(entry.sample or {}):.2f}%"


def _limit(sample: Sample) -> int:
    return int((sample.get("memory_stats") or {}).get("limit", 0))


def _memory(entry: Entry, _: Any) -> str:
    if entry.is_idle or entry.sample is None:
        return f"{_UNKNOWN} / {_UNKNOWN}"
    used, limit = memory_used(entry.sample), _limit(entry.sample)
    return f"{sizes.binary_size(used)} / {sizes.binary_size(limit)}"


def _memory_share(entry: Entry, _: Any) -> str:
    if entry.is_idle or entry.sample is None or not _limit(entry.sample):
        return _UNKNOWN if entry.is_idle else "0.00%"
    return f"{memory_used(entry.sample) / _limit(entry.sample) * 100.0:.2f}%"


def _network(entry: Entry, _: Any) -> str:
    if entry.is_idle or entry.sample is None:
        return _UNKNOWN
    links = (entry.sample.get("networks") or {}).values()
    received, sent = (sum(link[name] for link in links) for name in ("rx_bytes", "tx_bytes"))
    return f"{sizes.human_size(received, 3)} / {sizes.human_size(sent, 3)}"


def _block(entry: Entry, _: Any) -> str:
    if entry.is_idle or entry.sample is None:
        return _UNKNOWN
    blkio = entry.sample.get("blkio_stats") or {}
    entries = blkio.get("io_service_bytes_recursive") or ()
    read, written = (
        sum(item["value"] for item in entries if item["op"][:1].lower() == letter)
        for letter in "rw"
    )
    return f"{sizes.human_size(read, 3)} / {sizes.human_size(written, 3)}"


def _pids(entry: Entry, _: Any) -> str:
    if entry.is_idle or entry.sample is None:
        return _UNKNOWN
    return str((entry.sample.get("pids_stats") or {}).get("current", 0))


def _id(entry: Entry, _: Any) -> str:
    text = str((entry.sample or {}).get("id") or entry.asked)
    return text if entry.full else text[:12]


def _name(entry: Entry, _: Any) -> str:
    name = str((entry.sample or {}).get("name") or "").removeprefix("/")
    return name or _UNKNOWN if entry.full else ellipsis(name or _UNKNOWN, 64)


COLUMNS: Columns = {
    "Container": ("CONTAINER", lambda entry, _: entry.asked),
    "ID": ("CONTAINER ID", _id),
    "Name": ("NAME", _name),
    "CPUPerc": ("CPU %", _cpu),
    "MemUsage": ("MEM USAGE / LIMIT", _memory),
    "MemPerc": ("MEM %", _memory_share),
    "NetIO": ("NET I/O", _network),
    "BlockIO": ("BLOCK I/O", _block),
    "PIDs": ("PIDS", _pids),
    "CPUHistory": ("CPU 2 MIN", lambda entry, _: entry.history[0]),
    "MemHistory": ("MEM 2 MIN", lambda entry, _: entry.history[1]),
}
_PLAIN: Columns = {name: COLUMNS[name] for name in COLUMNS if not name.endswith("History")}
"""Docker's own fields: what ``--format json`` prints without ``--history``."""
SHOWN = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
WITH_HISTORY = ("Name", "CPUPerc", "CPUHistory", "MemUsage", "MemHistory", "PIDs")


def chosen(session: Session, client: Client, options: Options, names: list[str]) -> list[str]:
    """The containers to show: those named, once each, else all that run (or all)."""
    if names:
        return list(dict.fromkeys(names))
    query = {"all": options.flag("all") or None, "filters": filters_text({})}
    return [item["Id"][:12] for item in client.get("/containers/json", query)]


def show(session: Session, entries: list[Entry], format: str, history: bool = False) -> None:
    for line in lines(entries, format, history):
        session.out(line)


def lines(entries: list[Entry], format: str, history: bool = False) -> list[str]:
    shown = WITH_HISTORY if history else SHOWN
    if format in ("", "table"):
        rows = [[COLUMNS[name][1](entry, None) for name in shown] for entry in entries]
        return table.table([COLUMNS[name][0] for name in shown], rows).split("\n")
    from portside.cli import format as formatting

    columns = COLUMNS if history else _PLAIN
    return list(formatting.lines(format, entries, columns, shown, kind="stats"))
