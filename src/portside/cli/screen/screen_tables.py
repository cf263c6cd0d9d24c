"""Columns of the live screen's tables: titles, cells, and what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rich.text import Text

from portside.cli.ps import ports_text
from portside.cli.screen.engine_feed import HISTORY, Row
from portside.cli.screen.log_screen import plain
from portside.cli.stats_history import sparkline
from portside.cli.stats_table import COLUMNS, cpu_percent, memory_used
from portside.cli.times import ago
from portside.model.golang.sizes import human_size

Cell = Text | str
_COLORS = {"running": "green", "paused": "yellow", "restarting": "yellow", "dead": "red"}


class Column(NamedTuple):
    """``key``: sorts; ``down``: the highest value first at the first click."""

    title: str
    cell: Callable[[Any], Cell]
    key: Callable[[Any], Any]
    down: bool = False


def _right(text: str) -> Text:
    return Text(text, justify="right")


def _of_sample(name: str) -> Callable[[Row], Cell]:
    show = COLUMNS[name][1]
    return lambda row: _right(show(row.entry, None))


def _number(of: Callable[[dict[str, Any]], float]) -> Callable[[Row], float]:
    return lambda row: of(row.entry.sample) if row.entry.sample else -1.0


def _state(row: Row) -> Cell:
    status = str(row.item.get("Status", ""))
    color = "red" if "unhealthy" in status else _COLORS.get(row.state, "dim")
    return Text(status or row.state, style=color)


def _traffic(sample: dict[str, Any]) -> float:
    links = (sample.get("networks") or {}).values()
    return float(sum(link["rx_bytes"] + link["tx_bytes"] for link in links))


def _pids(sample: dict[str, Any]) -> float:
    return float((sample.get("pids_stats") or {}).get("current", 0))


CONTAINERS = (
    Column("Name", lambda row: Text(plain(row.name), style="bold"), lambda row: row.name),
    Column("State", _state, lambda row: (row.state, row.name)),
    Column("CPU", _of_sample("CPUPerc"), _number(cpu_percent), True),
    Column("CPU 30 s", lambda row: Text(f"{sparkline(row.cpu, 1.0):>{HISTORY}}", style="cyan"),
           _number(cpu_percent), True),
    Column("Memory", _of_sample("MemUsage"), _number(memory_used), True),
    Column("Mem %", _of_sample("MemPerc"), _number(memory_used), True),
    Column("Net I/O", _of_sample("NetIO"), _number(_traffic), True),
    Column("PIDs", _of_sample("PIDs"), _number(_pids), True),
    Column("Image", lambda row: plain(str(row.item.get("Image", ""))),
           lambda row: row.item.get("Image", "")),
    Column("Ports", lambda row: ports_text(row.item.get("Ports") or []),
           lambda row: len(row.item.get("Ports") or [])),
)  # fmt: skip


def _names(image: dict[str, Any]) -> str:
    names = image.get("RepoTags") or image.get("RepoDigests") or ["<none>"]
    return plain(", ".join(names))


IMAGES = (
    Column("Name", lambda image: Text(_names(image), style="bold"), _names),
    Column("ID", lambda image: image["Id"].removeprefix("sha256:")[:12], lambda image: image["Id"]),
    Column("Size", lambda image: _right(human_size(image.get("Size", 0), 3)),
           lambda image: image.get("Size", 0), True),
    Column("Created", lambda image: ago(image.get("Created", 0)),
           lambda image: image.get("Created", 0), True),
    Column("Containers", lambda image: _right(str(max(0, image.get("Containers", 0)))),
           lambda image: image.get("Containers", 0), True),
)  # fmt: skip
VOLUMES = (
    Column("Name", lambda volume: Text(plain(volume["Name"]), style="bold"),
           lambda volume: volume["Name"]),
    Column("Driver", lambda volume: plain(volume.get("Driver", "")),
           lambda volume: volume.get("Driver", "")),
    Column("Mount point", lambda volume: plain(volume.get("Mountpoint", "")),
           lambda volume: volume.get("Mountpoint", "")),
    Column("Created", lambda volume: plain(volume.get("CreatedAt") or ""),
           lambda volume: volume.get("CreatedAt") or "", True),
)  # fmt: skip
