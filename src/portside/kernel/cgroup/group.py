"""One container's control groups: the same path in every hierarchy, handled as one thing.

::

    Cgroup.create(path, resources) ── add(pid) ── update / freeze / thaw / stats ── kill ── delete

Creating makes the directories and writes only what ``resources`` asks for; on a machine
with ten hierarchies that is about a millisecond.
"""

from __future__ import annotations

import errno
import os
import time

from portside.kernel.cgroup import files, parents
from portside.kernel.cgroup.devices import (
    RUNTIME_DEVICES,
    DeviceAccess,
    fold,
    rule_text,
    rules_of,
)
from portside.kernel.cgroup.layout import Layout, detect, path_of
from portside.kernel.cgroup.plan import Write, plan
from portside.kernel.light_stdlib import suppress
from portside.model.errors import Conflict, InvalidParameter, SystemFailure
from portside.model.paths import rootless_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

    from portside.kernel.cgroup.oom import OomWatch
    from portside.kernel.cgroup.stats import CgroupStats
    from portside.model.ociruntime import Resources
else:
    import _signal as signal  # without enum

# Which file of a pair the kernel refused because of the other file's value.
_PAIR_REFUSED = (errno.EINVAL, errno.EBUSY)


class Cgroup:
    """A path such as ``/portside/ID`` in all hierarchies of this machine.

    The constructor touches nothing: use it for a group that exists. ``path`` is relative to
    each hierarchy's root, absolute in form.
    """

    __slots__ = ("layout", "path")

    def __init__(self, path: str, layout: Layout | None = None) -> None:
        self.path = clean(path)
        self.layout = layout or detect()

    @classmethod
    def create(cls, path: str, resources: Resources | None, layout: Layout | None = None) -> Cgroup:
        """Make the groups and set their limits; nothing is left behind on failure.

        Raises Conflict when processes live there already, InvalidParameter or SystemFailure
        when a limit cannot be had, naming the file and the value.
        """
        self = cls(path, layout)
        parent = self.path.rpartition("/")[0] or "/"
        parents.prepare(self.layout, parent)
        try:
            self._mkdirs(parent)
            if resources is not None:
                self._apply(resources, fresh=True)
        except Conflict:
            raise
        except BaseException:
            self._rmdirs()
            raise
        return self

    def enter(self) -> None:
        """Move the caller, which has one thread, here; the groups are made where they are missing.

        Others may live here, and may remove it when it is empty. Raises SystemFailure, OSError.
        """
        parent = self.path.rpartition("/")[0] or "/"
        for last in (False, False, True):
            parents.prepare(self.layout, parent)
            try:
                for directory in self.directories():
                    os.makedirs(directory, mode=0o755, exist_ok=True)
                if parent == "/" and (cpuset := self.layout.v1("cpuset")):
                    parents.inherit_cpuset(cpuset, self.path)
                self.join()
                return
            except SystemFailure:
                parents.forget(self.layout, parent)
                if last or all(map(os.path.isdir, self.directories())):
                    raise

    # -- where ---------------------------------------------------------------------------

    def directory(self, controller: str) -> str:
        """The group's directory for a controller (version 1 names, or ``unified``).

        The version 2 directory when no version 1 hierarchy has the controller; SystemFailure
        when there is neither.
        """
        mount = self.layout.unified if controller == "unified" else self.layout.v1(controller)
        mount = mount or self.layout.unified
        if not mount:
            raise SystemFailure(f"the {controller} controller is not mounted here")
        return mount + self.path

    def directories(self) -> list[str]:
        """The group's directory in every hierarchy, version 2 last."""
        return [mount + self.path for mount in self.layout.mounts()]

    def paths(self) -> dict[str, str]:
        """Directories by controller, as OCI runtimes keep them in their state; v2 under ``""``."""
        found: dict[str, str] = {}
        for hierarchy in self.layout.hierarchies:
            for name in hierarchy.controllers or (hierarchy.label,):
                found[name] = hierarchy.mount + self.path
        if self.layout.unified:
            found[""] = self.layout.unified + self.path
        return found

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self.directories())

    def open_dir(self) -> int:
        """A descriptor of the version 2 directory for clone3(CLONE_INTO_CGROUP); close it."""
        return os.open(self.directory("unified"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    # -- processes -----------------------------------------------------------------------

    def add(self, pid: int, beside: int = 0, skip_unified: bool = False) -> None:
        """Move a process with all its threads here; ``pid`` 0 is the caller.

        ``beside``: the container's first process. When the container has made groups of its
        own below, version 2 refuses processes here; the new one then joins that process's
        group. ``skip_unified``: it was cloned into the version 2 group already.
        Raises SystemFailure.
        """
        text = str(pid)
        unified_directory = self.layout.unified + self.path if self.layout.unified else ""
        for directory in self.directories():
            unified = directory == unified_directory
            if unified and skip_unified:
                continue
            try:
                files.write(f"{directory}/cgroup.procs", text)
            except OSError as error:
                if unified and error.errno == errno.EBUSY and beside:
                    self._add_beside(text, beside)
                    continue
                raise files.failure(f"{directory}/cgroup.procs", text, error) from error

    def join(self, beside: int = 0, skip_unified: bool = False) -> None:
        """Move the caller, which has one thread, here; otherwise as :meth:`add`.

        A thread that moves itself through version 1's ``tasks`` needs no lock against forks,
        so it does not wait for the RCU grace period that :meth:`add` may wait for (5 to 16 ms);
        for version 2 only clone3(CLONE_INTO_CGROUP) avoids it (:func:`process.fork_into`).
        """
        for hierarchy in self.layout.hierarchies:
            file = f"{hierarchy.mount}{self.path}/tasks"
            try:
                files.write(file, "0")
            except OSError as error:
                raise files.failure(file, "0", error) from error
        if not self.layout.unified or skip_unified:
            return
        file = f"{self.layout.unified}{self.path}/cgroup.procs"
        try:
            files.write(file, "0")
        except OSError as error:
            if error.errno != errno.EBUSY or not beside:
                raise files.failure(file, "0", error) from error
            self._add_beside("0", beside)

    def _add_beside(self, text: str, beside: int) -> None:
        path = path_of(beside)
        if self.path not in path:  # of a delegated part, /proc shows the path down to it as well
            raise SystemFailure(f"process {beside} has left the container's control group: {path}")
        target = f"{self.layout.unified}{path[path.index(self.path) :]}/cgroup.procs"
        try:
            files.write(target, text)
        except OSError as error:
            raise files.failure(target, text, error) from error

    def pids(self) -> list[int]:
        """Processes here and in groups below, in no order; empty when the group is gone."""
        found: set[int] = set()
        for directory in _tree(self._any_directory()):
            found.update(int(pid) for pid in files.read_or(f"{directory}/cgroup.procs").split())
        return list(found)

    def _any_directory(self) -> str:
        """One directory that lists the processes; that of version 2 when there is one."""
        return self.directories()[-1] if self.layout.mode != "none" else ""

    # -- limits --------------------------------------------------------------------------

    def update(self, resources: Resources) -> None:
        """Change limits of a live group; what ``resources`` leaves out stays as it is."""
        self._apply(resources, fresh=False)

    def _apply(self, resources: Resources, fresh: bool) -> None:
        if resources.devices:
            rules = rules_of(resources.devices)
            access = fold(rules)
            if not access.allow:
                access = fold([*rules, *RUNTIME_DEVICES])
            self.set_devices(access, fresh=fresh)
        writes = plan(self.layout, resources)
        position = 0
        while position < len(writes):
            write = writes[position]
            if write.swaps_with_next and position + 1 < len(writes):
                self._write_pair(write, writes[position + 1])
                position += 2
            else:
                self._write(write)
                position += 1

    def _write_pair(self, first: Write, second: Write) -> None:
        """Two files that bound each other: the other order when the kernel refuses this one."""
        try:
            self._try(first)
        except OSError as error:
            if error.errno not in _PAIR_REFUSED:
                raise self._failure(first, error) from error
            self._write(second)
            self._write(first)
            return
        self._write(second)

    def _write(self, write: Write) -> None:
        try:
            self._try(write)
        except FileNotFoundError as error:
            if not write.optional:
                raise self._failure(write, error) from error
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP and "weight_device" in write.file:
                return  # this device's I/O scheduler has no weights (bfq-iosched.rst)
            raise self._failure(write, error) from error

    def _try(self, write: Write) -> None:
        directory = self.directory(write.controller)
        *others, last = write.file.split("|")
        for file in others:
            if os.path.exists(f"{directory}/{file}"):
                files.write(f"{directory}/{file}", write.value)
                return
        value = write.value
        if others and last == "io.weight" and " " not in value:
            from portside.kernel.cgroup.plan import blkio_to_io_weight

            value = f"default {blkio_to_io_weight(int(value))}"
        files.write(f"{directory}/{last}", value)

    def _failure(self, write: Write, error: OSError) -> Exception:
        file = write.file.rpartition("|")[2]
        path = f"{self.directory(write.controller)}/{file}"
        if error.errno == errno.EBUSY and file in ("memory.limit_in_bytes", "memory.max"):
            used = files.read_or(self.directory("memory") + "/memory.usage_in_bytes").strip()
            used = used or files.read_or(self.directory("memory") + "/memory.current").strip()
            return SystemFailure(
                f"unable to set memory limit to {write.value} (current usage: {used}) in {path}"
            )
        if file == "cpu.rt_runtime_us" and error.errno == errno.EINVAL:
            return SystemFailure(
                f"cannot set {path} to {write.value!r}: the parent group has no real-time "
                f"budget left; write one to its {file} first"
            )
        return files.failure(path, write.value, error)

    def set_devices(self, access: DeviceAccess, fresh: bool = False) -> None:
        """Make ``access`` the rule for device nodes. ``fresh``: the group was just made."""
        if self.layout.v1("devices"):
            self._set_devices_v1(access, fresh)
        elif self.layout.unified:
            from portside.kernel import bpf

            fd = os.open(self.directory("unified"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                bpf.set_device_program(fd, access)
            except OSError as error:
                if rootless_user() and error.errno == errno.EPERM:
                    return  # no devices of the host's can be made or opened there anyway
                raise SystemFailure(
                    f"cannot restrict devices of {self.path}: bpf: {error.strerror} "
                    "(cgroup v2 needs CONFIG_CGROUP_BPF and CAP_BPF or CAP_SYS_ADMIN)"
                ) from error
            finally:
                os.close(fd)
        elif not access.unrestricted and self.layout.mode != "none":
            raise SystemFailure("devices cannot be restricted: no devices controller is mounted")

    def _set_devices_v1(self, access: DeviceAccess, fresh: bool) -> None:
        directory = self.directory("devices")
        if access.allow and not (fresh and access.unrestricted):
            self._device_write(f"{directory}/devices.allow", ["a"])
        elif not access.allow:
            self._device_write(f"{directory}/devices.deny", ["a"])
        lines = [rule_text(*key, letters) for key, letters in access.exceptions.items()]
        if lines:
            file = "devices.deny" if access.allow else "devices.allow"
            self._device_write(f"{directory}/{file}", lines)

    def _device_write(self, path: str, lines: list[str]) -> None:
        line = ""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                for line in lines:  # the kernel takes one rule with each write
                    os.write(fd, line.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise files.failure(path, line, error) from error

    # -- freezer and death ---------------------------------------------------------------

    def freeze(self, timeout: float = 10.0) -> None:
        """Stop every process here and below; returns when they stand still.

        Raises SystemFailure after ``timeout`` seconds (a process deep in the kernel, as on a
        dead network file system), thawing again what was frozen.
        """
        from portside.kernel.cgroup import freezer

        freezer.freeze(self, timeout)

    def thaw(self) -> None:
        """Resume them."""
        from portside.kernel.cgroup import freezer

        freezer.thaw(self)

    def frozen(self) -> bool:
        """Whether :meth:`freeze` has been called and holds."""
        from portside.kernel.cgroup import freezer

        return freezer.frozen(self)

    def freezer_file(self) -> str:
        """The file that :meth:`frozen` reads; empty where there are no groups."""
        from portside.kernel.cgroup import freezer

        return freezer.file_of(self) if self.layout.mode != "none" else ""

    def kill(self, timeout: float = 10.0) -> None:
        """SIGKILL for every process here and below, forks in flight included.

        Returns when none is left, or raises SystemFailure after ``timeout`` seconds. Zombies
        that nobody has waited for do not count.
        """
        if self.layout.unified:
            try:
                files.write(f"{self.directory('unified')}/cgroup.kill", "1")
            except FileNotFoundError:
                if not self.exists():
                    return
                self._kill_each()  # before Linux 5.14
        else:
            self._kill_each()
        self.wait_empty(timeout)

    def _kill_each(self) -> None:
        """Freeze, signal, thaw: nothing can fork in between. Frozen v1 tasks die when thawed."""
        from portside.kernel.cgroup import freezer

        freezer.request(self, True)
        try:
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        finally:
            freezer.request(self, False)

    def wait_empty(self, timeout: float) -> None:
        """Return when no process is left here and below; SystemFailure after ``timeout`` s."""
        from portside.kernel.cgroup import freezer

        freezer.wait_empty(self, timeout)

    # -- looking -------------------------------------------------------------------------

    def stats(self) -> CgroupStats:
        """Use and limits right now; zeros where a controller is missing."""
        from portside.kernel.cgroup.stats import collect

        return collect(self)

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here because memory ran out.

        Version 1: ``oom_kill`` of ``memory.oom_control`` (Linux 4.13); version 2:
        ``memory.events``, where groups below are counted as well.
        """
        if self.layout.v1("memory"):
            text = files.read_or(self.directory("memory") + "/memory.oom_control")
        elif self.layout.unified:
            text = files.read_or(self.directory("unified") + "/memory.events")
        else:
            return 0
        return files.keyed(text).get("oom_kill", 0)

    def watch_oom(self) -> OomWatch:
        """A descriptor that becomes readable when the kernel kills because memory ran out."""
        from portside.kernel.cgroup.oom import OomWatch

        return OomWatch(self)

    # -- end -----------------------------------------------------------------------------

    def end(self) -> int:
        """Kill what lives here and remove the groups; how many processes that were.

        Raises SystemFailure, OSError.
        """
        if not self.exists():
            return 0
        left = len(self.pids())
        self.kill()
        self.delete()
        return left

    def delete(self, timeout: float = 2.0) -> None:
        """Remove the groups, those below first. A missing group is not an error.

        Processes that are left are killed. Raises SystemFailure when a group cannot be removed
        within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        for directory in self.directories():
            while not _rmtree(directory):
                self.kill(max(0.01, deadline - time.monotonic()))
                if time.monotonic() > deadline:
                    raise SystemFailure(f"control group {directory} is busy and cannot be removed")
                time.sleep(0.001)

    def remove_empty(self) -> bool:
        """Remove the directories without processes; returns whether all of them are removed."""
        gone = True
        for directory in self.directories():
            try:
                os.rmdir(directory)
            except OSError as error:
                gone = gone and error.errno not in (errno.EBUSY, errno.ENOTEMPTY)
        return gone

    def _mkdirs(self, parent: str) -> None:
        made: list[str] = []
        cpuset = self.layout.v1("cpuset")
        try:
            for mount in self.layout.mounts():
                directory = mount + self.path
                try:
                    os.mkdir(directory, 0o755)
                except FileNotFoundError:
                    # The parent was removed since it was prepared.
                    parents.forget(self.layout, parent)
                    parents.prepare(self.layout, parent)
                    os.mkdir(directory, 0o755)
                except FileExistsError:
                    self._take_over(directory)
                made.append(directory)
                if mount == cpuset and parent == "/":
                    parents.inherit_cpuset(mount, self.path)
        except BaseException:
            for directory in made:
                _rmtree(directory)
            raise

    def _take_over(self, directory: str) -> None:
        """A group of that name exists: a crash left it behind, or another program made it."""
        if files.read_or(f"{directory}/cgroup.procs").split() or not _rmtree(directory):
            raise Conflict(f"control group {directory} exists already and has processes in it")
        os.mkdir(directory, 0o755)

    def _rmdirs(self) -> None:
        for directory in self.directories():
            _rmtree(directory)


def children(path: str, layout: Layout | None = None) -> set[str]:
    """Names of the groups directly below a path, in any hierarchy."""
    found: set[str] = set()
    for mount in (layout or detect()).mounts():
        with suppress(OSError), os.scandir(mount + path) as entries:
            found.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return found


def clean(path: str) -> str:
    """An absolute group path without empty, ``.`` and ``..`` parts. Raises InvalidParameter."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path or "\n" in path:
        raise InvalidParameter(f"invalid control group path {path!r}")
    return "/" + "/".join(parts)


def _tree(directory: str) -> Iterator[str]:
    """Directories below and then the directory itself."""
    try:
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in below:
        yield from _tree(path)
    yield directory


def _rmtree(directory: str) -> bool:
    """Remove a group and those below; False when processes are in the way."""
    try:
        os.rmdir(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise SystemFailure(
                f"cannot remove control group {directory}: {os.strerror(error.errno or 0)}"
            ) from error
    for path in list(_tree(directory)):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
