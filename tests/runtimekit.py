"""Containers straight from the launcher, without an engine: roots, specifications, starts."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from portside.kernel.cgroup import Cgroup
from portside.model.errors import PortsideError
from portside.model.ociruntime import (
    Capabilities,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Root,
    Spec,
)
from portside.model.rootfs import Rootfs
from portside.runtime.launcher_client import Launcher
from portside.runtime.messages import Exec, Exited, Identity, LogConfig, StartRequest, Streams
from portside.runtime.monitor_client import MonitorClient

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
    "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE".split()
)
MOUNTS = (
    Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid", "noexec", "nodev")),
    Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    Mount("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
)
NAMESPACES = ("pid", "mount", "uts", "ipc", "network", "cgroup")


def busybox() -> str:
    """Path of the static busybox."""
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        if Path(path).exists():
            return path
    raise AssertionError("busybox-static is not installed")


def make_root(directory: Path) -> Path:
    """A root file system of busybox with a few users."""
    for name in ("bin", "etc", "tmp", "root", "proc", "dev", "sys", "home/bob"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "tmp").chmod(0o1777)
    shutil.copy(busybox(), directory / "bin/busybox")
    for name in subprocess.run(
        [busybox(), "--list"], check=True, capture_output=True, text=True
    ).stdout.split():
        with suppress(FileExistsError):
            (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000:Bob:/home/bob:/bin/sh\n"
    )
    (directory / "etc/group").write_text("root:x:0:\nbob:x:1000:\nwheel:x:10:bob\naudio:x:29:bob\n")
    return directory


def process(*args: str, **changes: Any) -> Process:
    """A process with Docker's default rights."""
    sets = Capabilities(bounding=CAPABILITIES, effective=CAPABILITIES, permitted=CAPABILITIES)
    found = {"args": args, "env": ("PATH=/bin", "A=1"), "capabilities": sets} | changes
    return Process(**found)


def specification(*args: str, linux: dict[str, Any] | None = None, **changes: Any) -> Spec:
    """A container with its own namespaces. ``changes``: Process fields, ``mounts``, ``hostname``,
    ``readonly``, ``hooks``, ``without`` (namespaces to leave out)."""
    mounts = MOUNTS + tuple(changes.pop("mounts", ()))
    without = changes.pop("without", ())
    hostname, hooks = changes.pop("hostname", "boxy"), changes.pop("hooks", None)
    readonly = changes.pop("readonly", False)
    spaces = tuple(Namespace(kind) for kind in NAMESPACES if kind not in without)
    settings: dict[str, Any] = {
        "resources": Resources(),
        "namespaces": spaces,
        "masked_paths": ("/proc/kcore", "/proc/acpi", "/sys/firmware"),
        "readonly_paths": ("/proc/sys", "/proc/bus"),
    }
    return Spec(
        process=process(*args, **changes),
        root=Root(path="rootfs", readonly=readonly),
        hostname=hostname,
        mounts=mounts,
        hooks=hooks,
        linux=Linux(**(settings | (linux or {}))),
    )


class Box:
    """One container that was started, and the test's attached socket."""

    def __init__(self, bench: Bench, request: StartRequest, client: MonitorClient) -> None:
        self.bench, self.request, self.client = bench, request, client
        self.state_dir = Path(request.state_dir)
        self.sock: socket.socket | None = None

    async def output(self, sock: socket.socket | None = None, timeout: float = 30) -> bytes:
        """All that comes until the end of the stream."""
        chosen = sock or self.sock
        assert chosen is not None
        chosen.setblocking(False)
        loop, parts = asyncio.get_running_loop(), []
        async with asyncio.timeout(timeout):
            while data := await loop.sock_recv(chosen, 1 << 16):
                parts.append(data)
        return b"".join(parts)

    async def until(self, text: bytes, timeout: float = 30) -> bytes:
        """What comes up to and with ``text``."""
        assert self.sock is not None
        self.sock.setblocking(False)
        loop, got = asyncio.get_running_loop(), b""
        async with asyncio.timeout(timeout):
            while text not in got:
                data = await loop.sock_recv(self.sock, 1 << 16)
                assert data, f"the stream ended after {got!r}"
                got += data
        return got

    async def ended(self, timeout: float = 30) -> Exited:
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self.client.exited)

    async def exec(self, *args: str, identity: str = "", **changes: Any) -> tuple[int, bytes]:
        """Execute beside it: exit code and output."""
        code, output, _ = await self.exec_as(Identity(identity), process(*args, **changes))
        return code, output

    async def exec_as(self, identity: Identity, what: Process) -> tuple[int, bytes, int]:
        ours, theirs = socket.socketpair()
        exec_id = uuid.uuid4().hex
        with ours:
            with theirs:
                request = Exec(
                    exec_id=exec_id,
                    process=what,
                    identity=identity,
                    attachments=(Streams(stdout=True, stderr=True, raw=True),),
                )
                pid = await self.client.exec(request, [theirs])
            output = await self.output(ours)
            exit = await self.client.wait_exec(exec_id)
        return (exit.code if exit else -1), output, pid

    def log(self) -> list[dict[str, Any]]:
        path = Path(self.request.log.path)
        return [json.loads(line) for line in path.read_bytes().splitlines()]


class Bench:
    """A launcher, a root, and all that tests start with them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = make_root(directory / "root")
        self.launcher = Launcher.spawn()
        self.parent = f"/portside-t{uuid.uuid4().hex[:10]}"
        self.boxes: list[Box] = []

    def request(self, spec: Spec, **changes: Any) -> StartRequest:
        """Directories and config.json for one container, and the request to start it."""
        name = f"c{uuid.uuid4().hex[:12]}"
        state, data = self.directory / "run" / name, self.directory / "data" / name
        state.mkdir(parents=True)
        for part in ("upper", "work"):
            (data / part).mkdir(parents=True)
        (state / "config.json").write_bytes(msgspec.json.encode(spec))
        rootfs = Rootfs(
            driver="overlay",
            lower=(str(self.root),),
            upper=str(data / "upper"),
            work=str(data / "work"),
        )
        values: dict[str, Any] = {
            "id": name,
            "state_dir": str(state),
            "rootfs": rootfs,
            "cgroup": f"{self.parent}/{name}",
            "log": LogConfig(path=str(data / "log")),
        }
        return StartRequest(**(values | changes))

    async def start(
        self,
        *args: str,
        spec: Spec | None = None,
        stdin: bool = False,
        attach: bool = True,
        seccomp: bytes = b"",
        request: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Box:
        """Start a container; its output comes raw on ``Box.sock``."""
        spec = spec or specification(*args, **changes)
        streams = (Streams(stdin=stdin, stdout=True, stderr=True, raw=True),) if attach else ()
        values = {"attachments": streams, "open_stdin": stdin, "stdin_once": stdin}
        values |= request or {}
        wanted = self.request(spec, has_seccomp=bool(seccomp), **values)
        ours, theirs = socket.socketpair()
        try:
            client = await self.launcher.start(
                wanted, seccomp=seccomp, sockets=(theirs,) if wanted.attachments else ()
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        box = Box(self, wanted, client)
        if wanted.attachments:
            box.sock = ours
        else:
            ours.close()
        self.boxes.append(box)
        return box

    async def run(self, *args: str, **changes: Any) -> tuple[int, str]:
        """Start, wait: exit code and all output."""
        box = await self.start(*args, **changes)
        output = await box.output()
        return (await box.ended()).code, output.decode(errors="replace")

    async def close(self) -> None:
        for box in self.boxes:
            group = Cgroup(box.request.cgroup)
            if group.exists():
                with suppress(PortsideError, OSError):
                    group.kill()
            with suppress(PortsideError, TimeoutError):
                await box.ended(10)
            box.client.close()
            if box.sock is not None:
                box.sock.close()
        self.launcher.end()
        with suppress(PortsideError, OSError):
            Cgroup(self.parent).delete()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A bench of one's own; nothing of it is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="psrt-", dir="/tmp"))
    made = Bench(directory)
    try:
        yield made
    finally:
        await made.close()
        shutil.rmtree(directory, ignore_errors=True)


def private(pid: int) -> int:
    """Private bytes of a process (proc_pid_smaps(5))."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Private_")
    )


def needs_idmapping(directory: Path) -> None:
    """Skip a test where the file system of a directory cannot be mounted idmapped."""
    import pytest

    from portside.kernel import idmapped
    from portside.kernel import mount as kernel
    from portside.model.errors import SystemFailure
    from portside.model.ociruntime import IDMapping

    mapping = (IDMapping(0, 1000, 1),)
    tree = kernel.open_tree(kernel.AT_FDCWD, str(directory), kernel.OPEN_TREE_CLONE)
    try:
        idmapped.map_owners(tree, mapping, mapping)
    except SystemFailure as err:
        pytest.skip(str(err))
    finally:
        os.close(tree)


def refuse_all(listener: socket.socket, told: list[dict[str, Any]]) -> None:
    """Answer every notification with ENOMEDIUM (seccomp_unotify(2))."""
    with listener.accept()[0] as peer:
        data, fds, _, _ = socket.recv_fds(peer, 1 << 16, 1)
    told.append(json.loads(data))
    poller = select.poll()
    poller.register(fds[0], select.POLLIN)
    while poller.poll(30_000)[0][1] & select.POLLIN:
        notice = bytearray(80)  # struct seccomp_notif
        fcntl.ioctl(fds[0], 0xC0502100, notice)
        answer = struct.pack("=QqiI", struct.unpack_from("=Q", notice)[0], 0, -123, 0)
        fcntl.ioctl(fds[0], 0xC0182101, answer)
    os.close(fds[0])


def is_root() -> bool:
    return os.geteuid() == 0
