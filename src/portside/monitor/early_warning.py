"""Early warning: rules over samples, each with hysteresis, and what to do about it.

A rule fires when its value has been above ``above`` for ``hold`` seconds, and ends when it has
been below ``below`` for as long: a value that hovers around a threshold gives one warning.
Rules about events (OOM, restarts, errors of the kernel) fire at once and end when nothing
happened for ``hold`` seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from shlex import quote

import msgspec

from portside.model.golang.sizes import binary_size
from portside.monitor.collector import Collector, Group, MonitorEvent
from portside.monitor.engine_watch import ContainerFacts, EngineEvent
from portside.monitor.filesystems import holder_of
from portside.monitor.group_spec import GroupSpec
from portside.monitor.history import Bucket
from portside.monitor.samples import SERIES, FileSystemUse, Point, Sample
from portside.monitor.settings import Rule as Override
from portside.monitor.settings import Settings, seconds

_MOST_ENDED = 200
_MOST_STATES = 50_000
"""Pairs of rule and group that are remembered."""
_MEMORY, _THROTTLED, _THREADS = (SERIES.index(n) for n in ("working_set", "throttled", "threads"))
_STALLED = {kind: SERIES.index(f"pressure_{kind}") for kind in ("cpu", "memory", "io")}
_PC, _PM, _PI = _STALLED.values()
_QUICK = ("pressure_cpu", "pressure_memory", "pressure_io", "pids_near_limit",
          "descriptors_near_limit", "cpu_throttled", "memory_near_limit")  # fmt: skip
_FULL = 97.0
"""Percent of the memory limit beyond which a group is near it, also when it does not rise."""
_RISE = 0.01
"""Part of the memory limit by which a group must have risen within the kept history."""
_NAMES_COME_NS = 5_000_000_000
"""Nanoseconds within which the engine reports the name of a container that was found."""
_RESTARTS = 5.0
"""Restarts within ten minutes that are a loop."""
_RESTART_WINDOW = 600.0


class Alert(msgspec.Struct, kw_only=True):
    """One warning about one group."""

    rule: str
    group: str
    shown: str
    """The container's name, or the group's path."""
    subject: str = ""
    """The part of the group: a file system's mount point, a process."""
    severity: str = "warning"
    """``warning`` or ``critical``."""
    summary: str = ""
    """The problem, with numbers."""
    advice: str = ""
    """Advice: a command where there is one."""
    value: float = 0.0
    threshold: float = 0.0
    started: float = 0.0
    """Seconds since the epoch."""
    ended: float = 0.0
    """0 while it is on."""
    labels: dict[str, str] = {}

    @property
    def key(self) -> tuple[str, str, str]:
        return self.rule, self.group, self.subject


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. ``above`` and ``below`` are in the rule's own unit."""

    name: str
    severity: str
    above: float
    below: float
    hold: float
    """Seconds."""
    about: str
    """What the rule detects, in a sentence."""


DEFAULTS = (
    Rule(name="memory_near_limit", severity="warning", above=90, below=80, hold=10,
         about="working set in percent of the memory limit, when it has risen or is above 97 %"),
    Rule(name="cpu_throttled", severity="warning", above=25, below=10, hold=60,
         about="percent of the processor quota's periods in which the group was held back"),
    Rule(name="oom_kill", severity="critical", above=0, below=0, hold=300,
         about="a process was killed because the memory limit was reached"),
    Rule(name="restart_loop", severity="critical", above=_RESTARTS - 1, below=1, hold=120,
         about="restarts within ten minutes"),
    Rule(name="unhealthy", severity="warning", above=0, below=0, hold=0,
         about="the container's health check fails"),
    Rule(name="disk_nearly_full", severity="critical", above=90, below=85, hold=30,
         about="percent of a file system that is in use"),
    Rule(name="inodes_nearly_used", severity="critical", above=90, below=85, hold=30,
         about="percent of a file system's inodes that are in use"),
    Rule(name="pids_near_limit", severity="warning", above=90, below=80, hold=10,
         about="threads in percent of the limit"),
    Rule(name="descriptors_near_limit", severity="warning", above=90, below=80, hold=0,
         about="open descriptors in percent of a process's limit"),
    Rule(name="pressure_cpu", severity="warning", above=80, below=50, hold=60,
         about="percent of the time in which something waited for a processor"),
    Rule(name="pressure_memory", severity="warning", above=20, below=10, hold=30,
         about="percent of the time in which something waited for memory"),
    Rule(name="pressure_io", severity="warning", above=60, below=30, hold=60,
         about="percent of the time in which something waited for a block device"),
    Rule(name="clock_stepped", severity="warning", above=1, below=0.5, hold=300,
         about="seconds by which the machine's clock was set"),
    Rule(name="kernel_error", severity="warning", above=0, below=0, hold=600,
         about="the kernel logged an error"),
)  # fmt: skip


def rules_of(overrides: dict[str, Override]) -> dict[str, Rule]:
    """The default rules with the settings' changes; raises InvalidParameter."""
    from portside.model.errors import InvalidParameter

    found = {rule.name: rule for rule in DEFAULTS}
    for name, change in overrides.items():
        if name not in found:
            raise InvalidParameter(f"rules: unknown rule {name!r}: use {', '.join(sorted(found))}")
        if not change.enabled:
            del found[name]
            continue
        rule = found[name]
        above = rule.above if change.above is None else change.above
        below = min(rule.below, above) if change.below is None else change.below
        hold = rule.hold if change.hold is None else seconds(change.hold)
        if below > above:
            raise InvalidParameter(f"rules: {name}: below ({below:g}) must not exceed above")
        found[name] = msgspec.structs.replace(rule, above=above, below=below, hold=hold)
    return found


class Reading(msgspec.Struct, frozen=True):
    """The value that a rule compares at one moment."""

    value: float
    summary: str
    advice: str = ""
    subject: str = ""


class _State:
    """Of one rule and one group: since when it is above, or below."""

    __slots__ = ("above_since", "alert", "below_since")

    def __init__(self) -> None:
        self.above_since = self.below_since = 0.0
        self.alert: Alert | None = None


AlertListener = Callable[[Alert], None]


class EarlyWarning:
    """All rules over all groups. Listeners are called when a warning begins and when it ends."""

    def __init__(self, settings: Settings, collector: Collector) -> None:
        self.rules = rules_of(settings.rules)
        self.listeners: list[AlertListener] = []
        self.ended: deque[Alert] = deque(maxlen=_MOST_ENDED)
        self.fired: dict[str, int] = dict.fromkeys(self.rules, 0)
        self._collector = collector
        self._states: dict[tuple[str, str, str], _State] = {}
        self._restarts: dict[str, deque[float]] = {}
        self._above = tuple(
            self.rules[name].above if name in self.rules else float("inf") for name in _QUICK
        )
        self._concerned: set[str] = set()
        """Groups of which a rule has a state; renewed each time the machine is sampled."""
        self._clock = time.time() - time.monotonic()
        collector.listeners.sampled.append(self.sampled)
        collector.listeners.happened.append(self.happened)
        collector.listeners.engine.append(self.engine_event)
        collector.listeners.removed.append(self.removed)
        collector.listeners.known.append(self.known)

    @property
    def firing(self) -> list[Alert]:
        """Warnings that are on, the oldest first."""
        found = [state.alert for state in self._states.values() if state.alert is not None]
        return sorted(found, key=lambda alert: alert.started)

    # -- inputs -----------------------------------------------------------------------------

    def sampled(self, group: Group, sample: Sample, point: Point, _bucket: Bucket | None) -> None:
        if group.container and group.facts is None and _is_new(group, sample):
            return  # the engine's answer, with the name, is on its way
        now = sample.time_ns / 1e9
        if group.name != "/" and group.name not in self._concerned and self._is_calm(group, point):
            return
        for name, reading in _readings(group, point, self._collector.engine.root):
            self._judge(name, group, reading, now)
        if group.name == "/":
            self._look_at_clock(group, now)
            self.pass_time(now)
            self._concerned = {key[1] for key in self._states}

    def _is_calm(self, group: Group, point: Point) -> bool:
        """Whether no number is above its rule's threshold: the common case, found out quickly
        and without words. Rules that are switched off never are."""
        cpu, memory, io, pids, descriptors, throttled, limit = self._above
        if point[_PC] > cpu or point[_PM] > memory or point[_PI] > io:
            return False
        spec, details = group.spec, group.details
        if spec.pids_limit and 100 * point[_THREADS] > pids * spec.pids_limit:
            return False
        if 100 * details.descriptors_highest > descriptors * details.descriptors_limit > 0:
            return False
        if not group.container:
            return True
        if spec.quota and 100 * point[_THROTTLED] > throttled:
            return False
        return not (spec.has_memory_limit and 100 * point[_MEMORY] > limit * spec.memory_limit)

    def happened(self, event: MonitorEvent) -> None:
        group = self._collector.groups.get(event.group)
        now = event.time_ns / 1e9
        if event.type == "oomKill":
            shown = group.command_name if group is not None else event.group
            who = f"process {event.process} ({event.pid})" if event.pid else "a process"
            advice = (
                f"raise the limit: docker update {more_memory(group.spec)} {shown}"
                if group and group.container and group.spec.has_memory_limit
                else "find out what took the memory; set limits on what may take too much"
            )
            summary = f"{shown}: {who} was killed for lack of memory"
            self._fire("oom_kill", event.group, shown, Reading(1, summary, advice), now)
        elif event.type == "kernel":
            reading = Reading(1, f"kernel: {event.text[:300]}", "see dmesg")
            self._fire("kernel_error", "/", "/", reading, now)

    def engine_event(self, event: EngineEvent) -> None:
        name = event.attributes.get("name", event.id[:12])
        group = self._collector.by_container.get(event.id)
        path = group.name if group is not None else event.id
        now = event.time_ns / 1e9 or time.time()
        if event.type != "container":
            return
        if event.action == "die":
            self._count_restart(event, name, now)
        elif event.action.startswith("health_status") and "unhealthy" in event.action:
            self._fire("unhealthy", path, name, _unhealthy(name), now)
        elif event.action.startswith("health_status") or event.action == "destroy":
            self._end("unhealthy", path, "", now)
        if event.action == "destroy":
            self._restarts.pop(event.id, None)
            self._end("restart_loop", event.id, "", now)

    def known(self, facts: ContainerFacts) -> None:
        """Health that changed while the engine was away, or before this program ran."""
        group = self._collector.by_container.get(facts.id)
        path = group.name if group is not None else facts.id
        if facts.health != "unhealthy" or facts.state != "running":
            self._end("unhealthy", path, "", time.time())
        elif ("unhealthy", path, "") not in self._states:
            self._fire("unhealthy", path, facts.name, _unhealthy(facts.name), time.time())

    def removed(self, group: Group) -> None:
        """A group's warnings end with it, except those that say why it went."""
        now = time.time()
        for key in [key for key in self._states if key[1] == group.name]:
            if key[0] not in ("oom_kill", "restart_loop"):
                self._end(*key, now)
                self._states.pop(key, None)

    def _count_restart(self, event: EngineEvent, name: str, now: float) -> None:
        """Deaths within ten minutes of a container that is started again and again."""
        times = self._restarts.setdefault(event.id, deque(maxlen=100))
        times.append(now)
        while times and times[0] < now - _RESTART_WINDOW:
            times.popleft()
        rule = self.rules.get("restart_loop")
        if rule is not None and len(times) > rule.above:
            code = event.attributes.get("exitCode", "?")
            summary = f"{name}: ended {len(times)} times in ten minutes, last with status {code}"
            reading = Reading(float(len(times)), summary, f"docker logs --tail 50 {name}")
            self._fire("restart_loop", event.id, name, reading, now)
        if len(self._restarts) > 10_000:
            self._restarts.pop(next(iter(self._restarts)))

    def _look_at_clock(self, group: Group, now: float) -> None:
        """Whether the wall clock moved against the monotonic one since the last check."""
        offset = time.time() - time.monotonic()
        step, self._clock = offset - self._clock, offset
        rule = self.rules.get("clock_stepped")
        if rule is not None and abs(step) > rule.above:
            summary = f"the machine's clock was set by {step:+.1f} s"
            reading = Reading(abs(step), summary, "check the time service (timedatectl)")
            self._fire("clock_stepped", "/", group.shown, reading, now)

    # -- judging -----------------------------------------------------------------------------

    def _judge(self, name: str, group: Group, reading: Reading, now: float) -> None:
        rule = self.rules.get(name)
        if rule is None:
            return
        key = (name, group.name, reading.subject)
        state = self._states.get(key)
        if state is None:
            if reading.value <= rule.above or len(self._states) >= _MOST_STATES:
                return
            state = self._states[key] = _State()
            self._concerned.add(group.name)
        if state.alert is None:
            if reading.value <= rule.above:
                del self._states[key]
                return
            state.above_since = state.above_since or now
            if name == "memory_near_limit" and not _rises(group, reading.value):
                return
            if now - state.above_since >= rule.hold:
                self._begin(rule, group.name, group.command_name, reading, now, state)
            return
        state.alert.value = round(reading.value, 3)
        if reading.value >= rule.below:
            state.below_since = 0.0
            state.alert.summary, state.alert.advice = reading.summary, reading.advice
            return
        state.below_since = state.below_since or now
        if now - state.below_since >= rule.hold:
            self._end(*key, now)

    def _fire(self, name: str, path: str, shown: str, reading: Reading, now: float) -> None:
        """At once; a warning that is on already is renewed."""
        rule = self.rules.get(name)
        if rule is None:
            return
        key = (name, path, reading.subject)
        state = self._states.setdefault(key, _State())
        state.below_since = now
        if state.alert is None:
            self._begin(rule, path, shown, reading, now, state)
        else:
            state.alert.value, state.alert.summary = reading.value, reading.summary

    def _begin(
        self, rule: Rule, path: str, shown: str, reading: Reading, now: float, state: _State
    ) -> None:
        group = self._collector.groups.get(path)
        facts = group.facts if group is not None else self._collector.facts.get(path)
        state.alert = Alert(
            rule=rule.name,
            group=path,
            shown=shown,
            subject=reading.subject,
            severity=rule.severity,
            summary=reading.summary,
            advice=reading.advice,
            value=round(reading.value, 3),
            threshold=rule.above,
            started=now,
            labels={"image": facts.image, "id": facts.id} if facts else {},
        )
        state.below_since = now if rule.name in _ENDING_BY_TIME else 0.0
        self.fired[rule.name] += 1
        for listener in self.listeners:
            listener(state.alert)

    def _end(self, name: str, path: str, subject: str, now: float) -> None:
        state = self._states.pop((name, path, subject), None)
        if state is not None and state.alert is not None:
            state.alert.ended = now
            self.ended.append(state.alert)
            for listener in self.listeners:
                listener(state.alert)

    def pass_time(self, now: float) -> None:
        """End the warnings about events after which nothing more happened for a while."""
        for key, state in list(self._states.items()):
            rule = self.rules[key[0]]
            if key[0] in _ENDING_BY_TIME and now - state.below_since >= rule.hold:
                self._end(*key, now)


def _unhealthy(name: str) -> Reading:
    advice = f"docker inspect --format '{{{{json .State.Health}}}}' {name}"
    return Reading(1, f"{name}: the health check fails", advice)


def _rises(group: Group, share: float) -> bool:
    """Whether memory has risen within the kept history, so that it may reach its limit: what has
    stayed at its place for an hour has found it."""
    lowest = group.history.lowest(_MEMORY)
    if share >= _FULL or lowest is None:
        return True
    limit = group.spec.memory_limit
    return share * limit / 100 - lowest >= _RISE * limit


def _is_new(group: Group, sample: Sample) -> bool:
    """Whether a container was seen so lately that its name may still come."""
    return sample.time_ns - group.history.samples[0].time_ns < _NAMES_COME_NS


_ENDING_BY_TIME = frozenset(("oom_kill", "restart_loop", "clock_stepped", "kernel_error"))


def more_memory(spec: GroupSpec) -> str:
    """The flags of ``docker update`` for one and a half times the memory, in MiB.

    The engine refuses a memory limit above that of memory and swap together, so that this one
    is raised with it where it has to be.
    """
    larger = spec.memory_limit * 3 // 2 >> 20
    if larger <= spec.total_limit >> 20:
        return f"-m {larger}m"
    swap = max(0, spec.total_limit - spec.memory_limit) >> 20
    return f"-m {larger}m --memory-swap {larger + swap}m"


def _readings(group: Group, point: Point, data_root: str = "") -> Iterator[tuple[str, Reading]]:
    """The values that the rules with thresholds compare. ``data_root``: the engine's."""
    spec, shown = group.spec, group.command_name
    if group.container:
        yield from _container_readings(group, point)
    for kind, index in _STALLED.items():
        if group.container or group.name == "/":
            what = {"cpu": "a processor", "memory": "memory", "io": "a block device"}[kind]
            summary = f"{shown}: {point[index]:.0f} % of the time something waited for {what}"
            yield f"pressure_{kind}", Reading(point[index], summary, _WAITING[kind])
    if spec.pids_limit and group.name != "/":
        share = 100 * point[_THREADS] / spec.pids_limit
        if share > 50 or group.container:
            summary = f"{shown}: {point[_THREADS]:.0f} of {spec.pids_limit} threads"
            advice = f"docker update --pids-limit {spec.pids_limit * 2} {shown}"
            yield "pids_near_limit", Reading(share, summary, advice if group.container else "")
    details = group.details
    if details.descriptors_limit > 0:
        share = 100 * details.descriptors_highest / details.descriptors_limit
        summary = (
            f"{shown}: {details.descriptors_highest} of {details.descriptors_limit} descriptors"
        )
        advice = "close files, or start with a larger --ulimit nofile"
        yield "descriptors_near_limit", Reading(share, summary, advice)
    if group.name == "/":
        yield from _disk_readings(group.details.filesystems, data_root)


_WAITING = {
    "cpu": "allow more processor time (docker update --cpus), or run less beside it",
    "memory": "allow more memory (docker update -m), or run less beside it",
    "io": "find the busiest container and limit it (docker run --device-write-bps)",
}


def _container_readings(group: Group, point: Point) -> Iterable[tuple[str, Reading]]:
    spec, shown = group.spec, group.command_name
    if spec.has_memory_limit:
        share = 100 * point[_MEMORY] / spec.memory_limit
        used, limit = binary_size(point[_MEMORY]), binary_size(spec.memory_limit)
        summary = f"{shown}: {used} of {limit} memory in use ({share:.0f} %)"
        advice = f"docker update {more_memory(spec)} {shown}"
        yield "memory_near_limit", Reading(share, summary, advice)
    if spec.quota:
        share = 100 * point[_THROTTLED]
        summary = f"{shown}: held back by its processor quota in {share:.0f} % of the periods"
        advice = f"docker update --cpus {spec.cores * 1.5:.2g} {shown}"
        yield "cpu_throttled", Reading(share, summary, advice)


def _disk_readings(
    uses: tuple[FileSystemUse, ...], data_root: str
) -> Iterable[tuple[str, Reading]]:
    engines = holder_of(data_root, uses) if data_root else None
    for use in uses:
        whole = use.usage + use.available
        is_engines = engines is None or use is engines
        if whole and use.type != "9p":
            share = 100 * use.usage / whole
            free = binary_size(use.available)
            summary = f"{use.mountpoint}: {share:.0f} % in use, {free} left"
            advice = _more_space(use, is_engines)
            yield "disk_nearly_full", Reading(share, summary, advice, use.mountpoint)
        if use.inodes:
            share = 100 * (use.inodes - use.inodes_free) / use.inodes
            summary = f"{use.mountpoint}: {share:.0f} % of the inodes in use"
            advice = f"du --inodes -xd2 {quote(use.mountpoint)} | sort -n  # where the files are"
            advice = f"docker system prune; {advice}" if is_engines else advice
            yield "inodes_nearly_used", Reading(share, summary, advice, use.mountpoint)


def _more_space(use: FileSystemUse, is_engines: bool) -> str:
    """``is_engines``: the engine's data root lies on it."""
    if is_engines and use.type != "tmpfs":
        return "docker system prune; docker system df shows what takes the space"
    place = quote(use.mountpoint)
    if use.type != "tmpfs":
        return f"du -xhd1 {place} | sort -h  # what takes the space"
    larger = f"mount -o remount,size={use.capacity * 3 // 2 >> 20}m {place}"
    return f"docker system prune, or {larger}" if is_engines else larger
