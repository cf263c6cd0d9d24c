"""A container's process from start to end: errors that explain, streams, exec, signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from runtimekit import Bench, Box, bench, is_root, process, refuse_all

from portside.kernel.seccomp import compile_filter, flags_of
from portside.model.errors import CommandNotExecutable, CommandNotFound, PortsideError
from portside.model.ociruntime import Box as ConsoleSize
from portside.model.ociruntime import Seccomp, SeccompSyscall
from portside.runtime.messages import Exec, Identity, Streams

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="containers need root here"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def made() -> AsyncIterator[Bench]:
    async with bench() as one:
        yield one


async def finish(box: Box) -> None:
    await box.client.signal(9)
    await box.ended()


# start errors


def elf(machine: int, loader: bytes = b"") -> bytes:
    """An ELF header, with PT_INTERP when a loader is named."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x400000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", 3, 4, 120, 120, 120, len(loader) + 1, len(loader) + 1, 1)
    return ident + head + program + loader + b"\0" + bytes(4096)


FILES = {
    "noint": (b"#!/no/such/python3\n", 0o755),
    "crlf": (b"#!/bin/sh\r\necho hi\r\n", 0o755),
    "noloader": (elf(0x3E, b"/lib64/ld-none.so.1"), 0o755),
    "arm": (elf(0xB7), 0o755),
    "armloader": (elf(0xB7, b"/lib/ld-linux-aarch64.so.1"), 0o755),
    "plain": (b"#!/bin/sh\n", 0o644),
    "text": (b"echo no shebang\n", 0o755),
    "empty": (b"", 0o755),
    "damaged": (elf(0x3E)[:40], 0o755),
}


@pytest.mark.parametrize(
    ("command", "kind", "said"),
    [
        ("nothing-here", CommandNotFound, "executable file not found in $PATH"),
        ("/no/such", CommandNotFound, "stat /no/such: no such file or directory"),
        ("/bin/noint", CommandNotFound, "interpreter /no/such/python3 is not in the container"),
        ("/bin/crlf", CommandNotFound, "CRLF line ends"),
        ("/bin/noloader", CommandNotFound, "loader /lib64/ld-none.so.1 is not in the container"),
        ("/bin/arm", CommandNotExecutable, "it is made for arm64"),
        ("/bin/arm", CommandNotExecutable, "qemu-user-static"),
        ("/bin/armloader", PortsideError, "it is made for arm64"),
        ("/bin/plain", CommandNotExecutable, "permission denied"),
        ("plain", CommandNotExecutable, "permission denied"),
        ("/bin/text", CommandNotExecutable, "neither an ELF file nor a script"),
        ("/bin/empty", CommandNotExecutable, "the file is empty"),
        ("/bin/damaged", CommandNotExecutable, "exec format error"),
        ("/etc", CommandNotExecutable, "is a directory"),
        ("/etc/passwd/x", CommandNotFound, "not a directory"),
        ("", CommandNotFound, "executable file not found"),
    ],
)
async def test_commands_that_cannot_be_executed(
    made: Bench, command: str, kind: type[PortsideError], said: str
) -> None:
    for name, (content, mode) in FILES.items():
        path = made.root / "bin" / name
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(kind) as caught:
        await made.run(command)
    assert said in str(caught.value)
    box = await made.start("sleep", "60")
    with pytest.raises(kind) as caught:
        await box.exec(command)
    assert said in str(caught.value)
    await finish(box)


async def test_a_failed_start_leaves_nothing(made: Bench) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    request = made.request(made_spec("nothing-here"))
    with pytest.raises(CommandNotFound):
        await made.launcher.start(request)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not any(p.name == request.id for p in Path("/sys/fs/cgroup").glob(f"*{made.parent}/*"))
    assert not (Path(request.state_dir) / "exit.json").exists()


def made_spec(*args: str) -> object:
    from runtimekit import specification

    return specification(*args)


# ends


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
async def test_exit_codes(made: Bench, code: int) -> None:
    assert (await made.run("sh", "-c", f"exit {code}"))[0] == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGRTMIN])
async def test_death_by_signal(made: Bench, number: int) -> None:
    box = await made.start("sh", "-c", f"trap 'exit {number}' {number}; echo up; cat", stdin=True)
    await box.until(b"up\n")
    await box.client.signal(number)
    if number != signal.SIGKILL:
        assert box.sock is not None
        box.sock.shutdown(socket.SHUT_WR)
    exit = await box.ended()
    assert exit.code == (137 if number == signal.SIGKILL else number)
    assert (box.state_dir / "exit.json").exists()


async def test_an_exec_killed_by_a_signal(made: Bench) -> None:
    box = await made.start("sleep", "60")
    code, _ = await box.exec("sh", "-c", "kill -TERM $$")
    assert code == 143
    await finish(box)


async def test_execs_die_with_the_container(made: Bench) -> None:
    box = await made.start("sleep", "60")
    task = asyncio.create_task(box.exec("sleep", "50"))
    while b"sleep 50" not in (await box.exec("ps"))[1]:
        await asyncio.sleep(0.01)
    await finish(box)
    code, _ = await task
    assert code == 137


async def test_a_seccomp_agent_decides_for_start_and_exec(made: Bench) -> None:
    path = str(made.directory / "agent")
    notify = SeccompSyscall(("mkdir", "mkdirat"), "SCMP_ACT_NOTIFY")
    profile = Seccomp("SCMP_ACT_ALLOW", listener_path=path, syscalls=(notify,))
    told: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        agents = [threading.Thread(target=refuse_all, args=(listener, told)) for _ in range(2)]
        for agent in agents:
            agent.start()
        box = await made.start(
            "sh",
            "-c",
            "mkdir /tmp/a; sleep 60",
            linux={"seccomp": profile},
            seccomp=compile_filter(profile),
            request={"seccomp_flags": flags_of(profile)},
        )
        await box.until(b"No medium found")
        code, text = await box.exec("mkdir", "/tmp/b")
        assert code == 1 and b"No medium found" in text
        await box.client.signal(9)
        await box.ended()
        for agent in agents:
            agent.join(30)
    assert [one["state"]["status"] for one in told] == ["creating", "running"]


async def test_init_has_no_more_rights_than_its_child(made: Bench) -> None:
    """Whoever may trace processes inside would otherwise take over its rights."""
    script = (
        "for pid in 1 $$; do grep -E 'Uid|Groups|Cap|Seccomp|NoNew' /proc/$pid/status | sort "
        "> /tmp/$pid; done; cmp /tmp/1 /tmp/$$ && echo same; cat /proc/1/comm; "
        "tr '\\0' ' ' < /proc/1/cmdline"
    )
    profile = Seccomp("SCMP_ACT_ALLOW", syscalls=(SeccompSyscall(("acct",), "SCMP_ACT_ERRNO"),))
    code, text = await made.run(
        "sh",
        "-c",
        script,
        seccomp=compile_filter(profile),
        request={"init": True, "identity": Identity("bob")},
    )
    lines = text.splitlines()
    assert (code, lines[:2]) == (0, ["same", "docker-init"])
    assert lines[2].startswith("/sbin/docker-init -- sh -c for pid")


async def test_init_reaps_and_passes_signals(made: Bench) -> None:
    script = (
        "trap 'echo got; exit 5' TERM; (sleep 0.01 &) ; echo $$ up; while :; do sleep 0.05; done"
    )
    box = await made.start("sh", "-c", script, request={"init": True})
    assert b"2 up" in await box.until(b"up\n")  # PID 1 is the reaper
    async with asyncio.timeout(20):
        while True:  # the orphan ends, and PID 1 waits for it
            _, processes = await box.exec("sh", "-c", "grep -h State /proc/[0-9]*/status")
            if b"Z (zombie)" not in processes and b"S (sleeping)" in processes:
                break
    await box.client.signal(signal.SIGTERM)
    assert (await box.ended()).code == 5


async def test_signals_are_as_a_program_expects_them(made: Bench) -> None:
    """Nothing is ignored or blocked that our own processes ignore (SIGPIPE in Python)."""
    _, text = await made.run("grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status")
    assert [int(line.split()[1], 16) for line in text.splitlines()] == [0, 0, 0]


# streams


async def test_output_is_whole_and_in_frames(made: Bench) -> None:
    ours, theirs = socket.socketpair()
    request = made.request(
        made_spec("sh", "-c", "printf out; printf err >&2"),
        attachments=(Streams(stdout=True, stderr=True),),
    )
    client = await made.launcher.start(request, sockets=(theirs,))
    theirs.close()
    box = Box(made, request, client)
    made.boxes.append(box)
    data = await box.output(ours)
    ours.close()
    frames = {}
    while data:
        stream, length = struct.unpack(">BxxxL", data[:8])
        frames[stream] = data[8 : 8 + length]
        data = data[8 + length :]
    assert frames == {1: b"out", 2: b"err"}
    await box.ended()


async def test_a_stream_that_ends_before_its_process_is_marked(made: Bench) -> None:
    ours, theirs = socket.socketpair()
    request = made.request(
        made_spec("sh", "-c", "printf out; exec >&-; sleep 60"),
        attachments=(Streams(stdout=True, stderr=True, marks_end=True),),
    )
    client = await made.launcher.start(request, sockets=(theirs,))
    theirs.close()
    box = Box(made, request, client)
    made.boxes.append(box)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    async with asyncio.timeout(30):
        frames = await reader.readexactly(8 + len("out") + 8)
    assert frames == struct.pack(">BxxxL", 1, 3) + b"out" + struct.pack(">BxxxL", 1, 0)
    assert not client.exited.done()
    await finish(box)
    writer.close()


async def test_binary_input_comes_back(made: Bench) -> None:
    box = await made.start("cat", stdin=True)
    assert box.sock is not None
    data = os.urandom(3 << 20)
    box.sock.setblocking(False)
    loop = asyncio.get_running_loop()

    async def type_it() -> None:
        assert box.sock is not None
        await loop.sock_sendall(box.sock, data)
        box.sock.shutdown(socket.SHUT_WR)

    _, got = await asyncio.gather(type_it(), box.output())
    assert got == data
    assert (await box.ended()).code == 0


async def test_no_input_is_the_null_device(made: Bench) -> None:
    assert await made.run("sh", "-c", "wc -c; readlink /proc/self/fd/0") == (0, "0\n/dev/null\n")


async def test_a_reader_that_leaves_hurts_nobody(made: Bench) -> None:
    box = await made.start("sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done")
    assert box.sock is not None
    box.sock.close()
    assert (await box.ended()).code == 0
    assert [line["log"] for line in box.log()][-1] == "1999\n"


async def test_a_terminal(made: Bench) -> None:
    script = (
        "tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all; read x; stty size; "
        "ls -l /dev/console"
    )
    box = await made.start(
        "sh", "-c", script, terminal=True, stdin=True, console_size=ConsoleSize(33, 111)
    )
    assert box.sock is not None
    text = await box.until(b"all\r\n")
    assert b"/dev/pts/0\r\n33 111\r\n" in text
    await box.client.resize(40, 120)
    box.sock.send(b"go\n")
    text = await box.output()
    assert b"go\r\n40 120\r\n" in text
    assert b"/dev/console" in text and b"No such" not in text
    assert (await box.ended()).code == 0


async def test_control_c_through_a_terminal(made: Bench) -> None:
    box = await made.start("sh", "-c", "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done",
                           terminal=True, stdin=True)  # fmt: skip
    assert box.sock is not None
    await box.until(b"up")
    box.sock.send(b"\x03")
    assert (await box.ended()).code == 9


async def test_detach_keys(made: Bench) -> None:
    ours, theirs = socket.socketpair()
    box = await made.start("cat", terminal=True, stdin=True)
    await box.client.attach(
        theirs, Streams(stdin=True, stdout=True, raw=True, detach_keys=b"\x10\x11")
    )
    theirs.close()
    ours.send(b"ab\x10c\x10\x11never")
    assert b"never" not in await box.output(ours)
    ours.close()
    assert not box.client.exited.done()
    await finish(box)


# exec


async def test_exec_joins_everything(made: Bench) -> None:
    show = (
        "for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done; "
        "cat /proc/self/cgroup"
    )
    box = await made.start("sleep", "60")
    code, inside = await box.exec("sh", "-c", show)
    assert code == 0
    for name in ("pid", "mnt", "uts", "ipc", "net", "cgroup"):
        assert os.readlink(f"/proc/{box.client.pid}/ns/{name}").encode() in inside
    assert all(line.endswith(b":/") for line in inside.splitlines() if b"::" in line)
    _, output, pid = await box.exec_as(Identity(), process("cat", "/proc/self/cgroup"))
    assert pid > 0 and made.parent.encode() not in output
    await finish(box)


async def test_exec_environment_directory_and_rights(made: Bench) -> None:
    box = await made.start("sleep", "60")
    show = "pwd; echo $B; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status"
    code, text = await box.exec("sh", "-c", show, cwd="/tmp", env=("B=2",), no_new_privileges=True)
    lines = text.decode().splitlines()
    assert (code, lines[0], lines[1]) == (0, "/tmp", "2")
    assert [line.split()[1] for line in lines[2:]] == ["00000000a80425fb", "1", "0"]
    await finish(box)


async def test_exec_with_a_terminal_and_many_at_once(made: Bench) -> None:
    box = await made.start("sleep", "60")
    answers = await asyncio.gather(
        *(box.exec("sh", "-c", f"echo {n}; exit {n}") for n in range(20)),
        *(box.exec("tty", terminal=True) for _ in range(5)),
    )
    assert answers[:20] == [(n, f"{n}\n".encode()) for n in range(20)]
    assert all(code == 0 and text.startswith(b"/dev/pts/") for code, text in answers[20:])
    assert len({text for _, text in answers[20:]}) >= 1
    await finish(box)


async def test_exec_after_the_end_is_refused(made: Bench) -> None:
    box = await made.start("true")
    await box.ended()
    with pytest.raises(PortsideError):
        await box.exec("true")


async def test_an_exec_of_the_same_name_is_refused(made: Bench) -> None:
    box = await made.start("sleep", "60")
    request = Exec(exec_id="one", process=process("sleep", "50"))
    await box.client.exec(request, [])
    with pytest.raises(PortsideError, match="running already"):
        await box.client.exec(request, [])
    await finish(box)
