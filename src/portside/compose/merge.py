"""Several Compose files as one: the rules of merging, uniqueness and ``!reset``.

Mappings are merged key by key, sequences are joined, other values of a later file win; a table
names the attributes with a rule of their own (Compose Specification, "Merge"). Sequences whose
items have an identity (a port, a target, a variable's name) keep the last of each.
"""

from __future__ import annotations

from collections.abc import Callable

from portside.compose.compose_errors import InvalidFile
from portside.compose.short_forms import volume_target
from portside.compose.yaml_source import Map, Path, Seq, copy, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = Callable[[Any, Any, Path], Any]


def matches(path: Path, pattern: tuple[str, ...]) -> bool:
    """Does a pattern, in which ``*`` stands for any key, describe a path?"""
    return len(path) == len(pattern) and all(
        want in ("*", have) for want, have in zip(pattern, path, strict=True)
    )


class Table:
    """Rules by pattern, found by a path's length and last key first: most paths have none."""

    def __init__(self, rules: dict[str, Any]) -> None:
        self._by_end: dict[tuple[int, str], list[tuple[tuple[str, ...], Any]]] = {}
        for text, rule in rules.items():
            pattern = tuple(text.split("."))
            self._by_end.setdefault((len(pattern), pattern[-1]), []).append((pattern, rule))

    def find(self, path: Path) -> Any:
        if path:
            for end in (path[-1], "*"):
                for pattern, rule in self._by_end.get((len(path), end), ()):
                    if matches(path, pattern):
                        return rule
        return None


def merge(base: Any, other: Any, path: Path = ()) -> Any:
    """``other`` over ``base``; both may be changed. Raises InvalidFile."""
    rule = MERGES.find(path)
    if rule is not None:
        return rule(base, other, path)
    if other is None:
        return base
    if isinstance(base, Map):
        if not isinstance(other, Map):
            raise _cannot(other, path)
        return _mappings(base, other, path)
    if isinstance(base, Seq):
        if not isinstance(other, Seq):
            raise _cannot(other, path)
        return _joined(base, other)
    return other


def _cannot(other: Any, path: Path) -> InvalidFile:
    return InvalidFile(f"cannot override {text_of(path)}", getattr(other, "at", None))


def _mappings(base: Map, other: Map, path: Path) -> Map:
    for key, value in other.items():
        at = other.where.get(key)
        if key in base:
            value = merge(base[key], value, (*path, key))
        base.put(key, value, at)
    return base


def _joined(base: Seq, other: Seq) -> Seq:
    for index, item in enumerate(other):
        base.add(item, other.spot(index))
    return base


def as_sequence(value: Any) -> Seq:
    """``{A: 1}``, ``[A=1]`` or ``A=1`` as the sequence ``[A=1]``."""
    if isinstance(value, Seq):
        return value
    found = Seq(getattr(value, "at", None))
    if isinstance(value, Map):
        pairs = []
        for key, item in value.items():
            at = value.where.get(key)
            if item is None:
                pairs.append((key, at))
            elif isinstance(item, Seq):
                pairs += [(f"{key}={shown(entry)}", at) for entry in item]
            else:
                pairs.append((f"{key}={shown(item)}", at))
        for text, at in sorted(pairs, key=lambda pair: pair[0]):
            found.add(text, at)
    elif isinstance(value, str):
        found.add(value, None)
    return found


def shown(value: Any) -> str:
    """A scalar as Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return go_float(value)
    return str(value)


def go_float(value: float) -> str:
    """A float as Go's ``%v`` prints it: shortest form, exponent from 1e+21 on."""
    if value - value != 0:  # not finite
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    sign = exponent[0] if exponent[0] in "+-" else "+"
    return f"{mantissa}e{sign}{exponent.lstrip('+-').zfill(2)}"


def _sequences(base: Any, other: Any, _: Path) -> Any:
    return _joined(as_sequence(base), as_sequence(other))


def _new_items(base: Any, other: Any, _: Path) -> Any:
    joined = as_sequence(base)
    more = as_sequence(other)
    for index, item in enumerate(more):
        if item not in joined:
            joined.add(item, more.spot(index))
    return joined


def _replace(_: Any, other: Any, __: Path) -> Any:
    return other


def _as_mapping(value: Any, default: dict[str, Any] | None) -> Map:
    if isinstance(value, Map):
        return value
    found = Map(getattr(value, "at", None))
    for index, key in enumerate(value if isinstance(value, Seq) else ()):
        entry: Any = None
        if default is not None:
            entry = Map(value.spot(index))
            entry.update(default)
        found.put(str(key), entry, value.spot(index))
    return found


def _depends_on(base: Any, other: Any, path: Path) -> Any:
    default = {"condition": "service_started", "required": True}
    return _mappings(_as_mapping(base, default), _as_mapping(other, default), path)


def _named(base: Any, other: Any, path: Path) -> Any:
    return _mappings(_as_mapping(base, None), _as_mapping(other, None), path)


def _build(base: Any, other: Any, path: Path) -> Any:
    return _mappings(_build_mapping(base), _build_mapping(other), path)


def _build_mapping(value: Any) -> Map:
    if isinstance(value, Map):
        return value
    found = Map()
    if isinstance(value, str):
        found["context"] = value
    return found


def _logging(base: Any, other: Any, path: Path) -> Any:
    """Options are merged only when both name the same driver, or one names none."""
    if not isinstance(base, Map) or not isinstance(other, Map):
        return other
    mine, theirs = base.get("driver"), other.get("driver")
    if mine == theirs or "driver" not in base or "driver" not in other:
        return _mappings(base, other, path)
    return other


def _ipam_config(base: Any, other: Any, path: Path) -> Any:
    """Pools are merged by subnet."""
    if not isinstance(base, Seq) or not isinstance(other, Seq):
        raise _cannot(other, path)
    found = Seq(base.at)
    for index, pool in enumerate(base):
        found.add(pool, base.spot(index))
    for index, pool in enumerate(other):
        same = [item for item in found if item.get("subnet") == pool.get("subnet")]
        if same:
            _mappings(same[0], pool, path)
        else:
            found.add(pool, other.spot(index))
    return found


MERGES = Table(
    {
        "networks.*.ipam.config": _ipam_config,
        "networks.*.labels": _sequences,
        "volumes.*.labels": _sequences,
        "services.*.annotations": _sequences,
        "services.*.build": _build,
        "services.*.build.args": _sequences,
        "services.*.build.additional_contexts": _sequences,
        "services.*.build.extra_hosts": _new_items,
        "services.*.build.labels": _sequences,
        "services.*.command": _replace,
        "services.*.depends_on": _depends_on,
        "services.*.deploy.labels": _sequences,
        "services.*.dns": _sequences,
        "services.*.dns_opt": _sequences,
        "services.*.dns_search": _sequences,
        "services.*.entrypoint": _replace,
        "services.*.env_file": _sequences,
        "services.*.label_file": _sequences,
        "services.*.environment": _sequences,
        "services.*.extra_hosts": _new_items,
        "services.*.healthcheck.test": _replace,
        "services.*.labels": _sequences,
        "services.*.volumes.*.volume.labels": _sequences,
        "services.*.logging": _logging,
        "services.*.models": _named,
        "services.*.networks": _named,
        "services.*.sysctls": _sequences,
        "services.*.tmpfs": _sequences,
        "services.*.ulimits.*": _replace,
    }
)


# -- items that occur once ------------------------------------------------------------------------


def _key_value(item: Any, path: Path) -> str:
    if not isinstance(item, str):
        raise InvalidFile(f"{text_of(path)}: unexpected value {shown(item)}")
    return item.partition("=")[0]


def _volume(item: Any, path: Path) -> str:
    if isinstance(item, Map):
        target = item.get("target")
        if not isinstance(target, str):
            raise InvalidFile(f"service volume {text_of(path)} is missing a mount target", item.at)
        return target
    return volume_target(str(item))


def _device(item: Any, path: Path) -> str:
    if isinstance(item, Map):
        return str(item.get("target") or item.get("source"))
    parts = str(item).split(":")
    return parts[0] if len(parts) == 1 else parts[1]


def _expose(item: Any, _: Path) -> str:
    return shown(item)


def _mount(default: str) -> Callable[[Any, Path], str]:
    def index(item: Any, _: Path) -> str:
        if isinstance(item, Map):
            target = item.get("target")
            return str(target) if target else f"{default}/{item.get('source')}"
        return f"{default}/{item}"

    return index


def _port(item: Any, path: Path) -> str:
    if isinstance(item, Map):
        if "target" not in item:
            raise InvalidFile(f"service ports {text_of(path)} is missing a target port", item.at)
        host = item.get("host_ip", "0.0.0.0")
        protocol = item.get("protocol", "tcp")
        return f"{host}:{item.get('published')}:{item['target']}/{protocol}"
    return shown(item)


def _env_file(item: Any, _: Path) -> str:
    return str(item.get("path")) if isinstance(item, Map) else str(item)


UNIQUE = Table(
    {
        **dict.fromkeys(
            (
                "networks.*.labels", "networks.*.ipam.options", "services.*.annotations",
                "services.*.build.args", "services.*.build.additional_contexts",
                "services.*.build.tags", "services.*.build.labels", "services.*.cap_add",
                "services.*.cap_drop", "services.*.deploy.labels", "services.*.dns",
                "services.*.dns_opt", "services.*.dns_search", "services.*.environment",
                "services.*.labels", "services.*.links", "services.*.networks.*.aliases",
                "services.*.networks.*.link_local_ips", "services.*.profiles",
                "services.*.sysctls", "services.*.tmpfs",
            ),
            _key_value,
        ),
        "services.*.devices": _device,
        "services.*.configs": _mount(""),
        "services.*.env_file": _env_file,
        "services.*.expose": _expose,
        "services.*.ports": _port,
        "services.*.secrets": _mount("/run/secrets"),
        "services.*.volumes": _volume,
    }
)  # fmt: skip


def enforce_unique(value: Any, path: Path = ()) -> Any:
    """Keep the last of the items that mean the same, where the first stood; in place."""
    if isinstance(value, Map):
        for key in value:
            item = value[key]
            if isinstance(item, (Map, Seq)):
                value[key] = enforce_unique(item, (*path, key))
        return value
    index = UNIQUE.find(path) if isinstance(value, Seq) else None
    if index is None:
        return value
    kept = Seq(value.at)
    places: dict[str, int] = {}
    for number, item in enumerate(value):
        key = index(item, (*path, f"[{number}]"))
        if key in places:
            kept[places[key]], kept.where[places[key]] = item, value.spot(number)
        else:
            places[key] = len(kept)
            kept.add(item, value.spot(number))
    return kept


def drop(tree: Any, resets: list[Path]) -> None:
    """Remove from a tree what a later document says ``!reset`` or ``!override`` of."""
    for path in resets:
        found = tree
        for key in path[:-1]:
            found = found.get(key) if isinstance(found, Map) else None
        if isinstance(found, Map) and path:
            found.pop(path[-1], None)


def extend_service(base: Map, service: Map, name: str) -> Map:
    """A service over the one it extends."""
    merged = merge(copy(base), copy(service), ("services", name))
    assert isinstance(merged, Map)
    return merged
