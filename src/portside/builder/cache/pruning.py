"""Removal of cache records: by request, and by the policy that limits the cache's size.

Rules and their arithmetic are BuildKit's (``docs/buildkitd.toml.md``, "gcpolicy"; daemon.json has
the same keys under ``builder.gc``). A rule bounds the whole cache and names what may go for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from portside.builder.solver.cache_records import CACHE_MOUNT, LOCAL, CacheRecord
from portside.model.errors import InvalidParameter
from portside.model.golang.durations import parse_duration
from portside.model.golang.sizes import ram_bytes

FIELDS = frozenset({"id", "parent", "type", "description", "inuse", "shared", "private",
                    "mutable", "immutable", "label"})  # fmt: skip
DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class PruneRule:
    """Sizes in bytes; 0 means no limit."""

    all: bool = False
    """Also records that an image shares."""
    reserved: int = 0
    """Never below this."""
    max_used: int = 0
    """Never above this."""
    min_free: int = 0
    """So much of the disk stays free."""
    until: float = 0
    """Only what was not used since, in seconds since the epoch."""
    unused_for: float = 0
    """Only what was not used for so many seconds."""
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def keep(self, total: int, free: int) -> int:
        """Bytes that the cache may have; 0 when everything that the rule names is to go."""
        kept = self.max_used
        excess = self.min_free - free
        if self.min_free and excess > 0:
            kept = min(kept, total - excess) if kept else max(total - excess, 0)
        elif self.min_free and not kept:
            return max(total, self.reserved)  # there is room enough
        return max(kept, self.reserved)

    def names(
        self, record: CacheRecord, now: float, *, is_shared: Callable[[CacheRecord], bool],
        is_busy: Callable[[str], bool],
    ) -> bool:  # fmt: skip
        """Whether a record may go for this rule."""
        limit = self.until or (now - self.unused_for if self.unused_for else 0)
        if limit and record.used >= limit:
            return False
        if not self.all and "shared" not in self.filters and is_shared(record):
            return False
        is_mutable = record.type in (CACHE_MOUNT, LOCAL)
        known: dict[str, Callable[[str], bool]] = {
            "id": lambda text: text in record.id,
            "parent": lambda text: text in record.parents,
            "type": lambda text: record.type == text,
            "description": lambda text: record.description == text,
            "inuse": lambda text: is_busy(record.id) == _true(text),
            "shared": lambda text: is_shared(record) == _true(text),
            "private": lambda text: is_shared(record) != _true(text),
            "mutable": lambda text: is_mutable == _true(text),
            "immutable": lambda text: is_mutable != _true(text),
            "label": lambda _: False,  # records have none; `system prune --filter label=…`
        }
        return all(
            any(known[name](text) for text in values or ("true",))
            for name, values in self.filters.items()
            if name in known
        )


def _true(text: str) -> bool:
    return text.lower() in ("", "1", "t", "true")


@dataclass(frozen=True)
class Policy:
    """The rules by which the cache is kept within its bounds, in order."""

    rules: tuple[PruneRule, ...] = ()


def parse_policy(settings: Mapping[str, Any], share: int) -> Policy:
    """``builder`` of daemon.json. ``share``: bytes that the cache may have by default.

    InvalidParameter names the key.
    """
    gc = settings.get("gc", {})
    if not isinstance(gc, Mapping):
        raise InvalidParameter("builder.gc must be an object")
    unknown = set(gc) - {
        "enabled", "defaultKeepStorage", "defaultReservedSpace", "defaultMaxUsedSpace",
        "defaultMinFreeSpace", "policy",
    }  # fmt: skip
    if unknown:
        raise InvalidParameter(f"builder.gc.{min(unknown)} is not known")
    enabled = gc.get("enabled", True)
    if not isinstance(enabled, bool):
        raise InvalidParameter("builder.gc.enabled must be true or false")
    reserved = _size(gc, "defaultReservedSpace", share) or _size(gc, "defaultKeepStorage", share)
    most = _size(gc, "defaultMaxUsedSpace", share)
    free = _size(gc, "defaultMinFreeSpace", share)
    policy = gc.get("policy", ())
    if not isinstance(policy, (list, tuple)):
        raise InvalidParameter("builder.gc.policy must be a list")
    rules = tuple(_rule(item, share) for item in policy)
    if not enabled:
        return Policy()
    return Policy(rules or _defaults(reserved, most if reserved or most or free else share, free))


def _defaults(reserved: int, most: int, free: int) -> tuple[PruneRule, ...]:
    bounded = PruneRule(reserved=reserved, max_used=most, min_free=free)
    small = 512 << 20
    kinds = ("source.local", "exec.cachemount", "source.git.checkout")
    return (
        PruneRule(
            filters={"type": kinds},
            unused_for=2 * DAY,
            max_used=min(small, most) if most else small,
            all=True,
        ),
        replace(bounded, unused_for=60 * DAY),
        bounded,
        replace(bounded, all=True),
    )


def _rule(item: Any, share: int) -> PruneRule:
    if not isinstance(item, Mapping):
        raise InvalidParameter("builder.gc.policy must hold objects")
    unknown = set(item) - {
        "all", "keepStorage", "reservedSpace", "maxUsedSpace", "minFreeSpace", "filter",
    }  # fmt: skip
    if unknown:
        raise InvalidParameter(f"builder.gc.policy: {min(unknown)!r} is not known")
    filters: dict[str, list[str]] = {}
    unused = 0.0
    for text in item.get("filter") or ():
        name, _, value = str(text).replace("==", "=").partition("=")
        if name in ("unused-for", "until"):
            unused = parse_duration(value) / 10**9
        elif name in FIELDS:
            filters.setdefault(name, []).append(value)
        else:
            raise InvalidParameter(f"builder.gc.policy: the filter {name!r} is not known")
    return PruneRule(
        all=bool(item.get("all")),
        reserved=_size(item, "reservedSpace", share) or _size(item, "keepStorage", share),
        max_used=_size(item, "maxUsedSpace", share),
        min_free=_size(item, "minFreeSpace", share),
        unused_for=unused,
        filters=filters,
    )


def _size(item: Mapping[str, Any], key: str, share: int) -> int:
    """Bytes, as a number, ``20GB``, or a share of the disk such as ``10%``."""
    value = item.get(key, 0)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    text = str(value)
    try:
        if text.endswith("%"):
            return int(float(text[:-1]) * share / SHARE)
        return ram_bytes(text)
    except (ValueError, InvalidParameter):
        raise InvalidParameter(f"builder.gc: {key}: {text!r} is not a size") from None


SHARE = 10
"""Percent of the disk that the cache may have unless the options say otherwise."""
