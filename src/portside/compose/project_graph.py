"""A project as a picture: services by level of dependency, with what they use."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from portside.compose.project import Project, Values
from portside.compose.requests import image_of, scale_of

_GAP = 3
"""Columns between boxes in the terminal."""
_LINE, _CHAR, _PAD = 17, 7.3, 10
"""Height of a line, width of a character and space around text, in SVG's pixels."""


def levels(project: Project) -> list[list[str]]:
    """Services by level: each stands one level below the highest that depends on it."""
    depth: dict[str, int] = {}

    def of(name: str, way: tuple[str, ...] = ()) -> int:
        if name in way:
            return 0
        if name not in depth:
            users = [other for other in project.services if name in project.dependencies(other)]
            depth[name] = max((of(other, (*way, name)) + 1 for other in users), default=0)
        return depth[name]

    found: list[list[str]] = []
    for name in project.services:
        while len(found) <= of(name):
            found.append([])
        found[of(name)].append(name)
    return found


def lines_of(project: Project, name: str) -> list[str]:
    """What is shown about a service; the first line is its name."""
    service = project.services[name]
    count = scale_of(service)
    lines = [name if count == 1 else f"{name} x{count}"]
    lines.append("provider" if "provider" in service else image_of(project, name, service))
    lines += [_port(port) for port in service.get("ports") or ()]
    networks = [key for key in service.get("networks") or () if key != "default"]
    if networks:
        lines.append(f"networks: {', '.join(networks)}")
    elif service.get("network_mode"):
        lines.append(f"network: {service['network_mode']}")
    for volume in service.get("volumes") or ():
        source = volume.get("source") or "anonymous"
        source = source if volume["type"] == "volume" else volume["type"]
        lines.append(f"{source} -> {volume.get('target', '')}")
    for other, how in project.dependencies(name).items():
        condition = how.get("condition", "service_started").removeprefix("service_")
        lines.append(f"needs {other}" + ("" if condition == "started" else f" ({condition})"))
    return lines


def _port(port: Values) -> str:
    published = port.get("published") or "any"
    host = f"{port['host_ip']}:" if port.get("host_ip") else ""
    return f"{host}{published} -> {port['target']}/{port.get('protocol', 'tcp')}"


def boxes(project: Project, columns: int) -> str:
    """Boxes for a terminal of so many columns."""
    out = []
    for level in levels(project):
        row: list[list[str]] = []
        for name in level:
            box = _box(lines_of(project, name))
            if row and sum(len(item[0]) + _GAP for item in (*row, box)) > columns:
                out += _beside(row)
                row = []
            row.append(box)
        out += _beside(row)
        out.append("")
    used = [f"{kind}: {', '.join(items)}" for kind, items in _shared(project) if items]
    return "\n".join([*out, *used])


def _shared(project: Project) -> Iterable[tuple[str, list[str]]]:
    for kind in ("networks", "volumes", "secrets", "configs"):
        yield kind, list(getattr(project, kind))


def _box(lines: list[str]) -> list[str]:
    width = max(map(len, lines))
    body = [f"│ {line:<{width}} │" for line in lines[1:]]
    return [
        f"┌{'─' * (width + 2)}┐", f"│ {lines[0]:<{width}} │", f"├{'─' * (width + 2)}┤", *body,
        f"└{'─' * (width + 2)}┘",
    ]  # fmt: skip


def _beside(row: list[list[str]]) -> list[str]:
    height = max((len(box) for box in row), default=0)
    filled = [[*box, *[" " * len(box[0])] * (height - len(box))] for box in row]
    return [(" " * _GAP).join(parts).rstrip() for parts in zip(*filled, strict=True)]


def svg(project: Project) -> str:
    """A picture with an arrow from each service to what it depends on."""
    places: dict[str, tuple[float, float, float, float]] = {}
    shapes, y = [], 20.0
    total = 0.0
    for level in levels(project):
        x, height = 20.0, 0.0
        for name in level:
            lines = lines_of(project, name)
            wide = max(map(len, lines)) * _CHAR + 2 * _PAD
            high = len(lines) * _LINE + 2 * _PAD
            places[name] = (x, y, wide, high)
            shapes.append(_shape(lines, x, y, wide, high))
            x, height = x + wide + 40, max(height, high)
        total = max(total, x)
        y += height + 60
    arrows = [
        _arrow(places[name], places[other], how.get("condition", ""))
        for name in project.services for other, how in project.dependencies(name).items()
        if other in places
    ]  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total:.0f}" height="{y:.0f}" '
        'font-family="monospace" font-size="12">\n'
        '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>\n'
        f"<title>{escape(project.name)}</title>\n" + "\n".join([*arrows, *shapes]) + "\n</svg>\n"
    )


def _shape(lines: list[str], x: float, y: float, wide: float, high: float) -> str:
    bold = ' font-weight="bold"'
    text = "".join(
        f'<text x="{x + _PAD:.1f}" y="{y + _PAD + (index + 0.8) * _LINE:.1f}"'
        f"{bold if index == 0 else ''}>{escape(line)}</text>"
        for index, line in enumerate(lines)
    )
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="6" '
            f'fill="#f4f7fb" stroke="#357"/>{text}')  # fmt: skip


def _arrow(
    start: tuple[float, float, float, float], end: tuple[float, float, float, float], condition: str
) -> str:
    x1, y1 = start[0] + start[2] / 2, start[1] + start[3]
    x2, y2 = end[0] + end[2] / 2, end[1]
    dashes = "" if condition in ("", "service_started") else ' stroke-dasharray="6 3"'
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#555"'
            f'{dashes} marker-end="url(#end)"/>')  # fmt: skip
