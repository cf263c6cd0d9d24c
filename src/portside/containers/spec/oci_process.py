"""The process of a container: arguments, environment, capabilities, limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from portside.model import ociruntime as oci
from portside.model.container import ContainerConfig, Ulimit
from portside.model.errors import InvalidParameter
from portside.model.paths import rootless_user

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

RLIMITS = frozenset(
    {"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile"}
    | {"nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}
)
_INFINITY = 2**64 - 1


def arguments(config: ContainerConfig) -> tuple[str, ...]:
    """Entrypoint and command in one. Raises InvalidParameter when there is nothing to run."""
    args = (*(config.entrypoint or ()), *(config.cmd or ()))
    if not args:
        raise InvalidParameter("no command specified")
    return args


def environment(
    config: ContainerConfig, hostname: str, links: Iterable[str], *, terminal: bool
) -> tuple[str, ...]:
    """PATH, HOSTNAME, TERM when the process has a terminal, the links' variables, then the
    container's own.

    A later ``NAME=value`` replaces an earlier one in its place; ``NAME`` alone takes it away.
    HOME is left to the runtime, which knows the user's directory inside the container.
    """
    base = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={hostname}"]
    if terminal:
        base.append("TERM=xterm")
    return merge([*base, *links], config.env or ())


def merge(base: Iterable[str], over: Iterable[str]) -> tuple[str, ...]:
    """``over`` laid over ``base`` by name, in base's order."""
    values: dict[str, str] = {}
    for entry in base:
        values[entry.partition("=")[0]] = entry
    for entry in over:
        name, equals, _ = entry.partition("=")
        if equals:
            values[name] = entry
        else:
            values.pop(name, None)
    return tuple(values.values())


def capabilities(names: tuple[str, ...]) -> oci.Capabilities:
    """Bounding, effective and permitted alike; nothing inheritable or ambient (CVE-2022-24769)."""
    return oci.Capabilities(bounding=names, effective=names, permitted=names)


def merged_ulimits(given: Sequence[Ulimit] | None, default: Sequence[Ulimit]) -> list[Ulimit]:
    """``--ulimit``, and the daemon's defaults for what it does not name."""
    named = {limit.name for limit in given or ()}
    return [*(given or ()), *(limit for limit in default if limit.name not in named)]


def rlimits(
    given: Sequence[Ulimit] | None, default: Sequence[Ulimit] = ()
) -> tuple[oci.Rlimit, ...]:
    """``--ulimit`` over the daemon's defaults. Raises InvalidParameter for an unknown name."""
    chosen = {limit.name: limit for limit in merged_ulimits(given, default)}
    found = []
    for limit in chosen.values():
        if limit.name not in RLIMITS:
            raise InvalidParameter(f"invalid ulimit type: {limit.name}")
        hard, soft = limit.hard % (_INFINITY + 1), limit.soft % (_INFINITY + 1)
        if soft > hard:
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: "
                f"{limit.soft} > {limit.hard}"
            )
        found.append(oci.Rlimit(f"RLIMIT_{limit.name.upper()}", hard, soft))
    return tuple(found)


def oom_score_adj(wanted: int) -> int:
    """What may be set: an engine without root cannot go below its own (proc(5)), which is above
    0 in a user's service (user@.service has ``OOMScoreAdjust=100``)."""
    if not rootless_user():
        return wanted
    with open("/proc/self/oom_score_adj") as file:
        return max(wanted, int(file.read()))
