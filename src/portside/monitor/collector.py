"""Samples every group when its time has come, and calls the listeners.

An idle group is looked at less and less often (dynamic housekeeping, as cAdvisor has it): when
a sample equals the one before, the interval doubles up to the longest; any change brings it
back. What costs more (open descriptors, sockets, file systems) is found out by a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from portside.kernel.cgroup import Layout
from portside.monitor import filesystems, network_reader
from portside.monitor.details_reader import DetailsReader
from portside.monitor.engine_watch import ContainerFacts, EngineEvent, EngineVersion
from portside.monitor.group_reader import Gone, GroupReader
from portside.monitor.group_spec import GroupSpec, read_spec
from portside.monitor.group_tree import GroupTree, container_id
from portside.monitor.history import Bucket, GroupHistory, Limits
from portside.monitor.kernel_log import KernelError, KernelLog, OomKill
from portside.monitor.samples import Details, Point, Sample, scalar
from portside.monitor.settings import Settings, seconds

_LOG = logging.getLogger("portside.monitor")
_WALK = 60.0
"""Seconds between walks of the tree, where inotify reports changes in between."""
_WALK_BLIND = 5.0
MOST_EVENTS = 10_000
_DETAILS_LONGEST = 60.0
"""Seconds after which details are read again, although nothing ran in the group."""
_SETTLE = 0.05
"""Seconds until a new group is read: it is made in one hierarchy after the other."""
_LINKS_EVERY = 3
"""Samples of a group in which nothing runs, of which one reads the network counters."""
_SPLIT = 25
"""Groups that are sampled before other work gets its turn."""


class MonitorEvent(msgspec.Struct, frozen=True):
    """Something that happened to a group.

    ``type``: containerCreation, containerDeletion, oom, oomKill as cAdvisor has them; events
    of the engine (``engine``) with its action, and errors of the kernel (``kernel``).
    """

    time_ns: int
    type: str
    group: str
    action: str = ""
    text: str = ""
    pid: int = 0
    process: str = ""
    constraint: str = ""
    exit_code: int = -1


class Group:
    """One control group that is sampled."""

    __slots__ = (
        "container",
        "created_ns",
        "details",
        "details_cpu",
        "details_due",
        "details_time",
        "due",
        "facts",
        "has",
        "history",
        "interval",
        "is_busy",
        "is_partial",
        "layer_due",
        "links",
        "load",
        "name",
        "proc",
        "reader",
        "spec",
    )  # fmt: skip

    def __init__(self, name: str, reader: GroupReader, spec: GroupSpec, limits: Limits) -> None:
        self.name, self.reader, self.spec = name, reader, spec
        self.container = container_id(name)
        self.facts: ContainerFacts | None = None
        self.history = GroupHistory(limits)
        self.details = Details()
        self.interval = self.due = self.details_due = self.layer_due = 0.0
        self.load = -1.0
        self.has = reader.has
        self.created_ns = spec.created_ns
        self.links = b""
        """The kernel's table of its interfaces, as it was parsed last."""
        self.is_busy = False
        """Details of it are being read."""
        self.is_partial = False
        """The group has fewer files than others: it may have been read too early."""
        self.details_time = -_DETAILS_LONGEST
        self.details_cpu = -1
        """When details were read (monotonic seconds), and its processor time then."""
        self.proc = ""
        """A process's directory through which its network is read; empty: none."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Name and ID of its container."""
        if not self.container:
            return ()
        return (self.facts.name, self.container) if self.facts else (self.container,)

    @property
    def shown(self) -> str:
        """The name that users see."""
        return self.facts.name if self.facts else self.name

    @property
    def command_name(self) -> str:
        """The name that an engine's commands accept; of a group without a container its path."""
        return self.facts.name if self.facts else self.container[:12] or self.name


SampleListener = Callable[[Group, Sample, Point, Bucket | None], None]


class Listeners:
    """Functions that are called in the event loop; they must be quick."""

    def __init__(self) -> None:
        self.sampled: list[SampleListener] = []
        self.added: list[Callable[[Group], None]] = []
        self.removed: list[Callable[[Group], None]] = []
        self.happened: list[Callable[[MonitorEvent], None]] = []
        self.known: list[Callable[[ContainerFacts], None]] = []
        self.engine: list[Callable[[EngineEvent], None]] = []


class Collector:
    """All groups of the machine; read :attr:`groups`, by name."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self.settings, self.layout = settings, layout
        self.groups: dict[str, Group] = {}
        self.by_container: dict[str, Group] = {}
        self.facts: dict[str, ContainerFacts] = {}
        """Of all containers that the engine knows, running or not, by ID."""
        self.engine = EngineVersion()
        self.engine_reached = False
        self.listeners = Listeners()
        self.events: deque[MonitorEvent] = deque(maxlen=MOST_EVENTS)
        self.samples_taken = self.sample_errors = 0
        self._begun: dict[str, str] = {}
        """Containers whose start was reported; the value is the group's name if it was not seen."""
        self._parent = "/docker"
        """The group that an engine's containers are in, as last seen."""
        self._tree = GroupTree(layout, settings.root)
        self._limits = Limits(
            seconds(settings.full),
            max(seconds(settings.kept), seconds(settings.full)),
            min(20_000, int(seconds(settings.full) / seconds(settings.interval)) + 2),
        )
        self._base, self._longest = seconds(settings.interval), seconds(settings.max_interval)
        self._details_interval = seconds(settings.details_interval)
        self._proc = settings.host_proc
        self._details = DetailsReader(layout, self._proc, settings)
        self._thread = ThreadPoolExecutor(1, "details")
        self._kept = self._most_files = 0
        self._most_kept = _raise_limit() * 3 // 4
        self._walk_due = 0.0
        self._kernel_log: KernelLog | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._host_network = network_reader.namespace_of(f"{self._proc}/1")

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Find the groups and begin; inside a running event loop."""
        loop = asyncio.get_running_loop()
        self._walk()
        if self._tree.is_watching:
            loop.add_reader(self._tree.fileno(), self._changed)
        try:
            self._kernel_log = KernelLog(self.settings.kernel_log)
            loop.add_reader(self._kernel_log.fileno(), self._read_kernel_log)
        except OSError as err:
            _LOG.debug("the kernel's log cannot be read: %s", err)  # visibility.py reports it
        self._spawn(self._housekeeping())

    @property
    def reads_kernel_log(self) -> bool:
        return self._kernel_log is not None

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        for source in (self._tree, self._kernel_log):
            if source is not None and source.fileno() >= 0:
                loop.remove_reader(source.fileno())
                source.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        for group in self.groups.values():
            group.reader.close()

    # -- which groups there are --------------------------------------------------------------

    def _changed(self) -> None:
        """Handle inotify's records: add and remove groups, or walk the tree after an overflow."""
        found = self._tree.changes()
        if found is None:
            self._walk_due = 0.0
            return
        came, went = found
        for name in went & self.groups.keys():
            self._remove(self.groups[name])
        if came:
            asyncio.get_running_loop().call_later(_SETTLE, self._add_all, came)

    def _add_all(self, names: Iterable[str]) -> None:
        now = time.monotonic()
        for name in sorted(set(names) - self.groups.keys()):
            self._add(name, now)

    def _walk(self) -> None:
        now = time.monotonic()
        self._walk_due = now + (_WALK if self._tree.is_watching else _WALK_BLIND)
        found = self._tree.walk()
        if self._tree.truncated:
            _LOG.warning("more than %d control groups: not all of them are sampled", len(found))
        for name in self.groups.keys() - found:
            self._remove(self.groups[name])
        for name in sorted(found - self.groups.keys()):
            self._add(name, now)

    def _add(self, name: str, now: float) -> None:
        container = container_id(name)
        if self.settings.docker_only and not container and name != "/":
            prefixes = self.settings.group_prefixes
            if not prefixes or not name.startswith(prefixes):
                return
        keep = self._kept < self._most_kept
        try:
            reader = GroupReader(self.layout, name, keep)
        except Gone:
            return
        group = Group(name, reader, read_spec(self.layout, name), self._limits)
        self._kept += reader.descriptors
        self.groups[name] = group
        if name != "/":
            self._most_files = max(self._most_files, len(reader.has))
            group.is_partial = len(reader.has) < self._most_files
        group.interval = self._base
        group.due = group.details_due = group.layer_due = now
        if container:
            self.by_container[container] = group
            self._parent = name.rpartition("/")[0]
            self._begin(container, "")
            self._take_facts(group, self.facts.get(container))
        elif name == "/":
            group.proc = f"{self._proc}/1"
        for listener in self.listeners.added:
            listener(group)
        self.note(MonitorEvent(group.created_ns or time.time_ns(), "containerCreation", name))
        self._sample(group, now)

    def _remove(self, group: Group) -> None:
        if self.groups.pop(group.name, None) is None:
            return
        self._kept -= group.reader.descriptors
        group.reader.close()
        if self.by_container.get(group.container) is group:
            del self.by_container[group.container]
        code = group.facts.exit_code if group.facts and not group.facts.pid else -1
        self.note(MonitorEvent(time.time_ns(), "containerDeletion", group.name, exit_code=code))
        for listener in self.listeners.removed:
            listener(group)

    def note(self, event: MonitorEvent) -> None:
        """Keep an event and call the listeners."""
        self.events.append(event)
        for listener in self.listeners.happened:
            listener(event)

    # -- what the engine says -----------------------------------------------------------------

    def know(self, facts: ContainerFacts) -> None:
        """The engine reported a container's state."""
        self.facts[facts.id] = facts
        group = self.by_container.get(facts.id)
        if group is not None:
            self._take_facts(group, facts)
            group.spec = read_spec(self.layout, group.name)
            group.due = 0.0
        elif facts.pid:
            self._walk_due = 0.0
        for listener in self.listeners.known:
            listener(facts)

    def forget(self, identifier: str) -> None:
        self.facts.pop(identifier, None)
        self._begun.pop(identifier, None)

    def reach(self, version: EngineVersion | None, containers: frozenset[str]) -> None:
        """The engine was reached (and these are all its containers), or went away."""
        self.engine_reached = version is not None
        if version is not None:
            self.engine = version
            for identifier in self.facts.keys() - containers:
                del self.facts[identifier]

    def _started(self, event: EngineEvent) -> None:
        """A container may come and go between two walks: its start is noted from the event, too."""
        if event.id in self._begun:
            return
        self._walk()
        if event.id in self._begun:
            return
        facts = self.facts.get(event.id)
        parent = facts.cgroup_parent if facts else ""
        name = f"/{(parent or self._parent).strip('/')}/{event.id}"
        self._begin(event.id, name)
        self.note(MonitorEvent(event.time_ns or time.time_ns(), "containerCreation", name))

    def _begin(self, container: str, name: str) -> None:
        self._begun.pop(container, "")  # it becomes the newest
        while len(self._begun) >= MOST_EVENTS:
            del self._begun[next(iter(self._begun))]
        self._begun[container] = name

    def _died(self, event: EngineEvent) -> None:
        name = self._begun.pop(event.id, "")
        if not name:
            return  # the walk has seen its group, and sees it go
        code = event.attributes.get("exitCode", "")
        self.note(
            MonitorEvent(
                event.time_ns or time.time_ns(), "containerDeletion", name,
                exit_code=int(code) if code.isdecimal() else -1,
            )
        )  # fmt: skip

    def engine_event(self, event: EngineEvent) -> None:
        """Keep an event of the engine and call the listeners.

        Events of exec are not kept: each health check makes three of them, and they would
        push out the others.
        """
        if event.type == "container" and event.action == "start":
            self._started(event)
        elif event.type == "container" and event.action == "die":
            self._died(event)
        if event.action.startswith("exec_"):
            return
        group = self.by_container.get(event.id)
        name = group.name if group is not None else event.attributes.get("name", event.id)
        self.note(
            MonitorEvent(
                event.time_ns or time.time_ns(), "engine", name, f"{event.type} {event.action}",
                event.attributes.get("name", ""),
            )
        )  # fmt: skip
        for listener in self.listeners.engine:
            listener(event)

    def _take_facts(self, group: Group, facts: ContainerFacts | None) -> None:
        group.facts = facts
        group.created_ns = (facts.created_ns if facts else 0) or group.spec.created_ns
        if facts is None:
            return
        if facts.shares_network or not facts.pid:
            group.proc = ""
        else:
            group.proc = f"{self._proc}/{facts.pid}"

    # -- sampling ----------------------------------------------------------------------------

    async def _housekeeping(self) -> None:
        while True:
            started = time.monotonic()
            if started >= self._walk_due:
                self._walk()
            due = [group for group in self.groups.values() if group.due <= started]
            for number, group in enumerate(due):
                self._sample(group, started)
                if number % _SPLIT == _SPLIT - 1:
                    await asyncio.sleep(0)
            self._details_of(started)
            rest = self._base - (time.monotonic() - started)
            await asyncio.sleep(max(rest, self._base / 10))

    def _sample(self, group: Group, now: float, full: bool = False) -> Sample | None:
        """``full``: read what hardly can have changed, too."""
        if group.is_partial:
            self._complete(group)
        quiet = group.reader.quiet
        reads_links = group.proc and (full or quiet % _LINKS_EVERY == 0)
        changed = self._read_links(group) if reads_links else False
        before = group.history.last
        try:
            sample = group.reader.read(group.details, max(group.load, 0.0), changed, full)
        except Gone:
            self._remove(group)
            return None
        except (OSError, ValueError) as err:
            self.sample_errors += 1
            _LOG.debug("%s: %s", group.name, err)
            group.due = now + self._longest
            return None
        self.samples_taken += 1
        same = before is not None and sample.scalars is before.scalars and group.name != "/"
        if self.settings.dynamic and same:
            group.interval = min(group.interval * 2, self._longest)
        else:
            group.interval = self._base
        group.due = now + group.interval - self._base / 10
        bucket = group.history.add(sample)
        if before is not None and not same:
            self._look_for_oom(group, before, sample)
        for listener in self.listeners.sampled:
            listener(group, sample, group.history.last_point, bucket)
        return sample

    def _complete(self, group: Group) -> None:
        """A group that was read while it was being made has the rest of its files by now."""
        group.is_partial = False
        try:
            reader = GroupReader(self.layout, group.name, group.reader.descriptors > 0)
        except Gone:
            return
        self._kept += reader.descriptors - group.reader.descriptors
        group.reader.close()
        group.reader, group.has = reader, reader.has

    def refresh(self, names: Iterable[str]) -> None:
        """Sample these groups now, whatever their interval (``max_age`` of a request)."""
        now = time.monotonic()
        for name in names:
            group = self.groups.get(name)
            if group is not None:
                self._sample(group, now, full=True)

    def _read_links(self, group: Group) -> bool:
        try:
            table = network_reader.link_table(group.proc)
            if table == group.links:
                return False
            names, counters = network_reader.parse_links(table, group.name == "/")
        except (OSError, ValueError):
            if group.name != "/":
                group.proc = ""
            return False
        group.links = table
        return group.reader.set_links(names, counters)

    def _look_for_oom(self, group: Group, before: Sample, sample: Sample) -> None:
        """Note OOM kills from the counter, where the kernel's log cannot be read."""
        kills = scalar(sample, "oom_events") - scalar(before, "oom_events")
        if kills > 0 and self._kernel_log is None:
            for kind in ("oom", "oomKill"):
                self.note(MonitorEvent(sample.time_ns, kind, group.name))

    def _read_kernel_log(self) -> None:
        assert self._kernel_log is not None
        for entry in self._kernel_log.read():
            now = time.time_ns()
            if isinstance(entry, KernelError):
                self.note(MonitorEvent(now, "kernel", "/", str(entry.level), entry.text))
                continue
            assert isinstance(entry, OomKill)
            self.note(MonitorEvent(now, "oom", entry.victim_group))
            self.note(
                MonitorEvent(
                    now, "oomKill", entry.group, pid=entry.pid, process=entry.process,
                    constraint=entry.constraint,
                )
            )  # fmt: skip

    # -- processes ---------------------------------------------------------------------------

    def pids_of(self, group: Group) -> list[int]:
        """Processes of a group, as ``/proc`` that is read numbers them."""
        return self._details.pids(group.name)

    def all_pids(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self._proc) if name.isdigit())

    # -- details -----------------------------------------------------------------------------

    def _details_of(self, now: float) -> None:
        """Hand groups whose details are due to the thread, not two times the same one."""
        work = [g for g in self.groups.values() if g.details_due <= now and not g.is_busy]
        if not work:
            return
        work = [group for group in work if self._has_run(group, now)]
        for group in work:
            group.is_busy = True
            group.details_time = now
            idle = self.settings.dynamic and group.interval > self._details_interval
            most = self._details_interval * (1 if group.container or group.name == "/" else 6)
            group.details_due = now + max(most, group.interval if idle else 0)
        if work:
            self._spawn(self._read_details(work))

    def _has_run(self, group: Group, now: float) -> bool:
        """Whether details may differ from the last ones: they do not where nothing ran."""
        last = group.history.last
        ran = scalar(last, "cpu_total") if last is not None else 0
        if ran == group.details_cpu and ran and now - group.details_time < _DETAILS_LONGEST:
            group.details_due = now + self._details_interval
            return False
        group.details_cpu = ran
        return True

    async def _read_details(self, work: list[Group]) -> None:
        loop = asyncio.get_running_loop()
        mounts = await loop.run_in_executor(
            self._thread, filesystems.mounts, "/proc", self.settings.host_root, self.engine.root
        )
        for start in range(0, len(work), _SPLIT):
            part = work[start : start + _SPLIT]
            try:
                found = await loop.run_in_executor(
                    self._thread, self._details_of_part, part, mounts
                )
            finally:
                for group in part:
                    group.is_busy = False
            for group, details, spec, proc in found:
                group.details, group.spec = details, spec
                if proc and not group.proc and group.container and group.facts is None:
                    group.proc = proc
                self._smooth(group)

    def _details_of_part(
        self, part: list[Group], mounts: list[filesystems.Mount]
    ) -> list[tuple[Group, Details, GroupSpec, str]]:
        """In the thread."""
        found = []
        for group in part:
            try:
                details, proc = self._details.read(
                    group.name, group.details, group.facts, group.proc, mounts
                )
                if proc and network_reader.namespace_of(proc) == self._host_network:
                    proc = ""
                found.append((group, details, read_spec(self.layout, group.name), proc))
            except (OSError, ValueError) as err:
                _LOG.debug("details of %s: %s", group.name, err)
        return found

    def _smooth(self, group: Group) -> None:
        """Runnable tasks over about ten seconds; for the machine the kernel's own average."""
        if group.name == "/":
            group.load = os.getloadavg()[0]
            return
        running = float(group.details.tasks.get("running", 0))
        decay = 2.718281828 ** (-self._details_interval / 10)
        group.load = running if group.load < 0 else group.load * decay + running * (1 - decay)


def _raise_limit() -> int:
    """Descriptors that may be open: as many as the hard limit allows."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass
    return min(soft, 1 << 20)
