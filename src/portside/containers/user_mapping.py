"""The user namespace of each container: the host's, the engine's default, or a range of its own.

``HostConfig.UsernsMode``::

    (empty)                       the engine's default (``--userns-remap``), else the host's
    host                          the host's
    auto[:size=N,uidmapping=C:H:N,gidmapping=C:H:N]
                                  a range that no other container has (Podman's meaning)
    keep-id[:uid=N,gid=N,size=N]  without root: the engine's user has its own number inside too,
                                  or the ones given (:mod:`.kept_ids`)
    nomap                         without root: the engine's user is not in it

A range is kept in the container's record, which is inserted in one transaction with everything
else, so that it is taken exactly as long as there is the container.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from portside.containers import kept_ids
from portside.kernel import subordinate_ids
from portside.model.container import HostConfig
from portside.model.errors import Conflict, InvalidParameter
from portside.model.idmap import MAX_ID, IDMappings
from portside.model.ociruntime import IDMapping
from portside.model.paths import rootless_user

if TYPE_CHECKING:
    from portside.containers.container import Record
    from portside.containers.core import Core

AUTO_OWNER = "containers"
"""The name in /etc/subuid and /etc/subgid whose ranges are given out."""
AUTO_RANGE = subordinate_ids.Range(1 << 31, (1 << 31) - (1 << 16))
"""The range without a line of that name: the upper half of all IDs, which no login has."""
SIZE = 65536
"""Identifiers that a container gets when it asks for no size, unless its user is above them."""
ROOTLESS_SIZE = 4096
"""The same without root, where all containers share what the user has."""
_MAX_FIXED = 160
"""Fixed mappings of one kind: with what is put around them they stay within the 340 lines of
user_namespaces(7)."""
_SHARING = ("network_mode", "pid_mode", "ipc_mode")


class Auto(msgspec.Struct, frozen=True):
    """``--userns=auto`` taken apart."""

    size: int = 0
    """0: :data:`SIZE`."""
    uids: tuple[IDMapping, ...] = ()
    """Mappings that are fixed; the rest of the range is put around them."""
    gids: tuple[IDMapping, ...] = ()


def parse_auto(mode: str) -> Auto | None:
    """The options of ``auto``; None for another mode. Raises InvalidParameter."""
    name, colon, text = mode.partition(":")
    if name != "auto":
        return None
    size, uids, gids = 0, list[IDMapping](), list[IDMapping]()
    for part in text.split(",") if colon else ():
        key, _, value = part.partition("=")
        if key == "size":
            if not value.isdecimal() or not 0 < int(value) <= MAX_ID:
                raise InvalidParameter(f"invalid USER mode: size {value!r} of {mode!r}")
            size = int(value)
        elif key in ("uidmapping", "gidmapping"):
            (uids if key == "uidmapping" else gids).append(_mapping(value, mode))
        else:
            raise InvalidParameter(
                f"invalid USER mode: {mode}: auto has the options size, uidmapping and gidmapping"
            )
    return Auto(size, tuple(uids), tuple(gids))


def _mapping(text: str, mode: str) -> IDMapping:
    parts = text.split(":")
    if len(parts) == 2:
        parts.append("1")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise InvalidParameter(f"invalid USER mode: {mode}: {text!r} is not CONTAINER:HOST[:COUNT]")
    inside, outside, count = map(int, parts)
    if not count or max(inside, outside) + count > MAX_ID:
        raise InvalidParameter(f"invalid USER mode: {mode}: {text!r} is out of range")
    return IDMapping(inside, outside, count)


def check(core: Core, host: HostConfig) -> None:
    """Whether a container may share what it asks for. InvalidParameter in Docker's words."""
    mode = host.userns_mode
    modes = (parse_auto, kept_ids.parse_keep_id)
    known = mode in ("", "host") or kept_ids.is_nomap(mode)
    if not known and all(parse(mode) is None for parse in modes):
        raise InvalidParameter(f"invalid USER mode: {mode}")
    if mode == "host" or not (mode or core.options.id_mappings):
        return
    if host.privileged:
        raise InvalidParameter(
            "privileged mode is incompatible with user namespaces.  You must run the container in "
            "the host namespace when running privileged mode"
        )
    if host.network_mode == "host":
        raise InvalidParameter(
            "cannot share the host's network namespace when user namespaces are enabled"
        )
    if host.pid_mode == "host":
        raise InvalidParameter(
            "cannot share the host PID namespace when user namespaces are enabled"
        )
    for option in host.security_opt or ():
        key, _, value = option.replace(":", "=", 1).partition("=")
        if key == "writable-cgroups" and value.lower() in ("1", "t", "true"):
            raise InvalidParameter(
                "option WritableCgroups conflicts with user namespaces and rootless mode"
            )


def of(core: Core, record: Record) -> IDMappings | None:
    """The mappings of a container's user namespace, None for the host's. One that shares
    another container's namespaces shares that one's user namespace as well."""
    mode = record.host.userns_mode
    if mode == "host":
        return None
    donor = donor_of(core, record)
    if donor is not None:
        return of(core, donor)
    return record.id_mappings or core.options.id_mappings


def donor_of(core: Core, record: Record) -> Record | None:
    """The container whose user namespace is joined: the namespaces shared with it belong to it.
    Raises Conflict when there are several that differ."""
    if record.host.userns_mode == "host":
        return None
    found: dict[str, Record] = {}
    for field in _SHARING:
        kind, _, name = getattr(record.host, field).partition(":")
        other = core.containers.get(name) if kind == "container" else None
        if other is not None:
            found[other.id] = other.record
    mapped = {key: each for key, each in found.items() if of(core, each) is not None}
    if not mapped:
        return next(iter(found.values()), None)
    spaces = {(donor_of(core, each) or each).id for each in mapped.values()}
    if len(spaces) > 1 or len(mapped) < len(found):
        raise Conflict(
            f"container {record.name} cannot share namespaces of containers that have different "
            "user namespaces"
        )
    return next(iter(mapped.values()))


def allocate(core: Core, host: HostConfig, user: str) -> IDMappings | None:
    """A range of its own for a container with ``--userns=auto`` that runs as ``user``, the user's
    mapping with ``keep-id`` and ``nomap``, None for others. The caller stores it before anyone else
    may ask.

    Raises InvalidParameter when /etc/subuid or /etc/subgid have no range left.
    """
    if (kept := kept_ids.parse_keep_id(host.userns_mode)) is not None:
        return kept_ids.keep_id(kept)
    if kept_ids.is_nomap(host.userns_mode):
        return kept_ids.nomap()
    auto = parse_auto(host.userns_mode)
    if auto is None:
        return None
    if auto == Auto() and core.spare_ranges:
        spare = core.spare_ranges.pop(0)
        if _holds(spare, user):
            return spare
        core.spare_ranges.insert(0, spare)
    return _allocate(core, auto, user)


def _holds(mappings: IDMappings, user: str) -> bool:
    return all(number < mappings.uids[0].size for number in _numbers(user))


def _numbers(user: str) -> list[int]:
    return [int(part) for part in user.split(":") if part.isdecimal() and len(part) < 11]


def expect_another(core: Core, host: HostConfig) -> None:
    """After a start with ``--userns=auto``: choose the next one's range and have its namespaces
    made, which takes as long as the rest of a start."""
    if parse_auto(host.userns_mode) != Auto() or core.spare_ranges:
        return
    with suppress(InvalidParameter):  # no range is left: reported to the next request
        core.spare_ranges.append(_allocate(core, Auto(), ""))
        core.networks.expect(core.spare_ranges[0])


def _allocate(core: Core, auto: Auto, user: str) -> IDMappings:
    usual = ROOTLESS_SIZE if rootless_user() else SIZE
    size = auto.size or max([usual, *(number + 1 for number in _numbers(user))])
    taken = [
        c.record.id_mappings
        for c in core.containers.values()
        if c.record.id_mappings and parse_auto(c.record.host.userns_mode) is not None
    ]
    taken += core.spare_ranges
    return IDMappings(
        _kind(subordinate_ids.SUBUID, size, auto.uids, [m.uids for m in taken]),
        _kind(subordinate_ids.SUBGID, size, auto.gids, [m.gids for m in taken]),
    )


def _kind(
    file: Path,
    size: int,
    fixed: tuple[IDMapping, ...],
    taken: list[tuple[IDMapping, ...]],
) -> tuple[IDMapping, ...]:
    _check_fixed(file, fixed)
    holes = _without(size, fixed)
    wanted = sum(count for _, count in holes)
    if not wanted:
        return tuple(sorted(fixed, key=lambda one: one.container_id))
    ranges = subordinate_ids.ranges_of(file, AUTO_OWNER)
    if rootless_user():  # ours are the user's, from 1 on
        ranges = [subordinate_ids.Range(1, _mapped_here(file) - 1)]
    if not ranges:
        ranges = [AUTO_RANGE]
        if subordinate_ids.first_free(file) > AUTO_RANGE[0]:
            raise InvalidParameter(
                f"--userns=auto: {file} gives identifiers above {AUTO_RANGE[0]} to others: add a "
                f"line that gives a free range to {AUTO_OWNER} ({AUTO_OWNER}:FIRST:COUNT)"
            )
    used = sorted((one.host_id, one.host_id + one.size) for each in taken for one in each)
    used += [(one.host_id, one.host_id + one.size) for one in fixed]
    first = first_fit(ranges, sorted(used), wanted)
    if first is None:
        raise InvalidParameter(
            f"--userns=auto: no {wanted} identifiers in a row are left of {AUTO_OWNER} in {file}: "
            "remove containers, or make the range larger"
        )
    found = list(fixed)
    for inside, count in holes:
        found.append(IDMapping(inside, first, count))
        first += count
    return tuple(sorted(found, key=lambda one: one.container_id))


def _mapped_here(file: Path) -> int:
    return subordinate_ids.mapped_here("uid" if file == subordinate_ids.SUBUID else "gid")


def _check_fixed(file: Path, fixed: tuple[IDMapping, ...]) -> None:
    """The kernel refuses a mapping with an identifier that we have not, or that it has twice."""
    if len(fixed) > _MAX_FIXED:
        raise InvalidParameter(f"invalid USER mode: more than {_MAX_FIXED} mappings of one kind")
    end = 0
    for one in sorted(fixed, key=lambda each: each.host_id):
        if one.host_id < end:
            raise InvalidParameter(
                f"invalid USER mode: the host's identifier {one.host_id} is mapped twice"
            )
        end = one.host_id + one.size
    if fixed and rootless_user() and end > (here := _mapped_here(file)):
        raise InvalidParameter(
            f"--userns=auto: identifier {end - 1} is not among the {here} of this engine, whose "
            "user is 0 and whose subordinate identifiers follow from 1"
        )


def _without(size: int, fixed: tuple[IDMapping, ...]) -> list[tuple[int, int]]:
    """The container's identifiers below ``size`` that no fixed mapping has: (first, count)."""
    found, position = [], 0
    for one in sorted(fixed, key=lambda each: each.container_id):
        if one.container_id < position and position < size:
            raise InvalidParameter(
                f"invalid USER mode: identifier {one.container_id} is mapped twice"
            )
        if position < min(one.container_id, size):
            found.append((position, min(one.container_id, size) - position))
        position = max(position, one.container_id + one.size)
    if position < size:
        found.append((position, size - position))
    return found


def first_fit(
    ranges: Iterable[tuple[int, int]], used: list[tuple[int, int]], size: int
) -> int | None:
    """The first of ``size`` identifiers in a row within the ranges that are not used; ``used``
    are sorted (first, end)."""
    for first, count in ranges:
        position = first
        for low, high in used:
            if high <= position or low >= first + count:
                continue
            if low - position >= size:
                break
            position = max(position, high)
        if first + count - position >= size:
            return position
    return None
