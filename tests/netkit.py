"""A private host for network tests: its own network, mounts and processes.

``@private_host`` runs an async test in a forked child that is PID 1 of its own PID
namespace: whatever the test leaves behind dies with it, and nothing touches the machine's
own network. Inside, ``host.service()`` starts the networks service, ``host.container()``
attaches a container whose process only sleeps, and ``host.outside()`` is another machine
on the host's ``wan0`` (203.0.113.0/24).
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from portside.model.ids import new_id
from portside.model.instance import Instance
from portside.model.network import (
    NetworkAttachment,
    NetworkOptions,
    NetworkRequest,
    RunningContainer,
)
from portside.networks.service import NetworkService
from portside.store.db import Database

CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x20000, 0x40000000, 0x20000000
libc = ctypes.CDLL(None, use_errno=True)
HOST_WAN, OUTSIDE_WAN = "203.0.113.1", "203.0.113.2"
HOST_WAN6, OUTSIDE_WAN6 = "2001:db8:113::1", "2001:db8:113::2"


def sh(command: str, check: bool = True, timeout: float = 30) -> str:
    """Run a shell command; its output."""
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command!r} failed: {done.stdout}{done.stderr}")
    return done.stdout + (done.stderr if not check else "")


@dataclass
class Machine:
    """Something with a network namespace one can run commands in."""

    pid: int
    process: subprocess.Popen[bytes] | None = None

    def sh(self, command: str, check: bool = True, timeout: float = 30) -> str:
        quoted = command.replace("'", "'\\''")
        return sh(f"nsenter -t {self.pid} -n sh -c '{quoted}'", check, timeout)

    def spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A Python program in the namespace."""
        return subprocess.Popen(
            ["nsenter", "-t", str(self.pid), "-n", sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
        )

    def serve(self, port: int, kind: str = "tcp", address: str = "0.0.0.0") -> None:
        """A server that answers each client with the client's address as it sees it."""
        process = self.spawn(SERVER, kind, address, str(port))
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

    def ask(self, address: str, port: int, kind: str = "tcp", timeout: float = 3) -> str:
        """What a server answers, or the error's name."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", sys.executable, "-c", CLIENT, kind,
             address, str(port), str(timeout)],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout.strip()


SERVER = """
import socket, sys, threading
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((address, port))
if kind == "tcp":
    s.listen(64)
print("ready", flush=True)
while True:
    if kind == "tcp":
        c, peer = s.accept()
        c.sendall(peer[0].encode()); c.close()
    else:
        _, peer = s.recvfrom(9000)
        s.sendto(peer[0].encode(), peer)
"""
CLIENT = """
import socket, sys
kind, address, port, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(timeout)
try:
    s.connect((address, port))
    if kind == "udp":
        s.send(b"hello")
    print(s.recv(200).decode())
except OSError as err:
    print(type(err).__name__)
"""


@dataclass
class Container(Machine):
    """An attached container: its attachment and a sleeping process in its namespace."""

    id: str = ""
    name: str = ""
    attachment: NetworkAttachment | None = None
    request: NetworkRequest | None = None
    directory: Path = Path()

    @property
    def ip(self) -> str:
        assert self.attachment is not None
        return next(iter(self.attachment.settings.networks.values())).ip_address

    @property
    def ip6(self) -> str:
        assert self.attachment is not None
        return next(iter(self.attachment.settings.networks.values())).global_ipv6_address

    def running(self) -> RunningContainer:
        assert self.request is not None
        return RunningContainer(self.request, self.pid)


@dataclass
class Host:
    root: Path
    services: list[NetworkService] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    db: Database | None = None

    @property
    def instance(self) -> Instance:
        return Instance.of(self.root / "data", self.root / "run")

    async def service(
        self, running: list[RunningContainer] | None = None, **options: object
    ) -> NetworkService:
        """A started service on this host's data root."""
        (self.root / "data").mkdir(exist_ok=True)
        self.db = Database(self.root / "data" / "metadata.db")
        options.setdefault("resolv_conf", str(self.root / "resolv.conf"))
        chosen = NetworkOptions(**options)  # type: ignore[arg-type]

        def publish(type: str, action: str, id: str, attributes: object = None) -> None:
            self.events.append((type, action, id))

        service = NetworkService(self.db, self.instance, chosen, publish)
        self.services.append(service)
        await service.start()
        await service.restore(running or [])
        return service

    async def stop(self, service: NetworkService) -> None:
        self.services.remove(service)
        await service.close()
        assert self.db is not None
        self.db.close()

    def request(self, name: str, **values: object) -> NetworkRequest:
        identifier = new_id()
        directory = self.root / "containers" / identifier
        directory.mkdir(parents=True)
        values.setdefault("hostname", name)
        return NetworkRequest(
            container_id=identifier, name=name, directory=str(directory), **values
        )  # type: ignore[arg-type]

    async def container(self, service: NetworkService, name: str, **values: object) -> Container:
        request = self.request(name, **values)
        attachment = await service.attach(request)
        return self.run(request, attachment)

    def run(self, request: NetworkRequest, attachment: NetworkAttachment) -> Container:
        fd = attachment.netns_fd
        command = ["sleep", "infinity"]
        if fd is not None:
            command = ["nsenter", f"--net=/proc/self/fd/{fd}", *command]
        process = subprocess.Popen(command, pass_fds=[fd] if fd is not None else [])
        container = Container(
            process.pid, process, request.container_id, request.name, attachment, request,
            Path(request.directory),
        )  # fmt: skip
        self.machines.append(container)
        _wait_for_namespace(process.pid, fd)
        return container

    def own(self) -> Machine:
        """The host itself."""
        return Machine(os.getpid())

    def outside(self, name: str = "wan0") -> Machine:
        """Another machine, connected to the host by ``wan0``; routes nothing back."""
        process = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        machine = Machine(process.pid, process)
        self.machines.append(machine)
        own = os.stat("/proc/self/ns/net").st_ino
        _until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino != own)
        sh(f"ip link add {name} type veth peer name eth0 netns {process.pid}")
        sh(f"ip addr add {HOST_WAN}/24 dev {name}; ip link set {name} up")
        sh(f"ip -6 addr add {HOST_WAN6}/64 dev {name} nodad")
        machine.sh("ip link set lo up; ip link set eth0 up")
        machine.sh(f"ip addr add {OUTSIDE_WAN}/24 dev eth0")
        machine.sh(f"ip -6 addr add {OUTSIDE_WAN6}/64 dev eth0 nodad")
        return machine


def _wait_for_namespace(pid: int, fd: int | None) -> None:
    """nsenter needs a moment; the process must be inside before the test continues."""
    if fd is None:
        return
    wanted = os.fstat(fd).st_ino
    _until(lambda: os.stat(f"/proc/{pid}/ns/net").st_ino == wanted)
    _until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "sleep")


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait on the event loop until something is true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


Body = Callable[[Host], Awaitable[None]]


def private_host(body: Body) -> Callable[[], None]:
    """Run the test in a machine of its own; skipped where that is not allowed."""

    def test() -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root")
        if shutil.which("nsenter") is None or shutil.which("ip") is None:
            pytest.skip("needs nsenter and ip")
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _first_child(body, writer)
        os.close(writer)
        try:
            with open(reader, "rb") as file:
                report = file.read().decode()
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL) if report is None else None
            _, status = os.waitpid(pid, 0)
        if status != 0 or report:
            pytest.fail(report or f"the private host died with status {status}", pytrace=False)

    functools.update_wrapper(test, body)
    del test.__wrapped__  # type: ignore[attr-defined]
    return test


def _first_child(body: Body, writer: int) -> None:
    """Unshare, become the parent of PID 1, pass its status on."""
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID) != 0:
        os._exit(70)
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL)
        report = ""
        try:
            _inside(body)
        except BaseException:
            report = traceback.format_exc()
        os.write(writer, report.encode()[-60000:])
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    os._exit(0 if status == 0 else 71)


def _inside(body: Body) -> None:
    sh("mount --make-rprivate / && mount -t proc proc /proc && ip link set lo up")
    with tempfile.TemporaryDirectory(prefix="portside-net-") as root:
        host = Host(Path(root))
        (host.root / "resolv.conf").write_text("nameserver 192.0.2.53\nsearch example.test\n")
        asyncio.run(_bounded(body, host))


async def _bounded(body: Body, host: Host) -> None:
    try:
        async with asyncio.timeout(100):
            await body(host)
    finally:
        for service in host.services:
            await service.close()
        for machine in host.machines:
            if machine.process is not None:
                machine.process.kill()
                machine.process.wait()


def free_port() -> int:
    """A port that is free in this namespace now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
