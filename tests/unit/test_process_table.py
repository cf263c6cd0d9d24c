"""``docker top`` of this process: the columns and lines that ps(1) of procps has."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from enginekit import until

from portside.containers.top import table
from portside.model.errors import InvalidParameter, SystemFailure

SELF = os.getpid()


@pytest.mark.parametrize(
    ("arguments", "titles"),
    [
        ("", "UID PID PPID C STIME TTY TIME CMD"),
        ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
        ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("-aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("v", "PID TTY STAT TIME MAJFL TRS DRS RSS %MEM COMMAND"),
        ("axs", "UID PID PENDING BLOCKED IGNORED CAUGHT STAT TTY TIME COMMAND"),
        ("X", "PID STACKP ESP EIP TMOUT ALARM STAT TTY TIME COMMAND"),
        ("Z", "LABEL PID TTY STAT TIME COMMAND"),
        ("-eZ", "LABEL PID TTY TIME CMD"),
        ("-M", "LABEL PID TTY TIME CMD"),
        ("-L", "PID LWP TTY TIME CMD"),
        ("-eLf", "UID PID PPID LWP C NLWP STIME TTY TIME CMD"),
        ("-eLl", "F S UID PID PPID LWP C PRI NI ADDR SZ WCHAN TTY TIME CMD"),
        ("-eLj", "PID PGID SID LWP TTY TIME CMD"),
        ("-T", "PID SPID TTY TIME CMD"),
        ("-eTf", "UID PID SPID PPID C STIME TTY TIME CMD"),
        ("-c", "PID CLS PRI TTY TIME CMD"),
        ("-H", "PID TTY TIME CMD"),
        ("H", "PID TTY STAT TIME COMMAND"),
        ("-m", "PID TTY TIME CMD"),
        ("m", "PID TTY STAT TIME COMMAND"),
        ("f", "PID TTY STAT TIME COMMAND"),
        ("--forest -eo pid,comm", "PID COMMAND"),
        ("-eo pid,lwp,nlwp,args", "PID LWP NLWP COMMAND"),
        ("--cols 20 --sort=-pid", "PID TTY TIME CMD"),
    ],
)
def test_titles(arguments: str, titles: str) -> None:
    found = table([SELF], arguments)
    assert list(found.titles) == titles.split()
    assert found.processes and all(len(row) == len(found.titles) for row in found.processes)


@pytest.fixture
def thread() -> Iterator[int]:
    """The ID of a second thread."""
    ready, done = threading.Event(), threading.Event()
    found: list[int] = []

    def run() -> None:
        found.append(threading.get_native_id())
        ready.set()
        done.wait()

    other = threading.Thread(target=run)
    other.start()
    ready.wait()
    yield found[0]
    done.set()
    other.join()


@pytest.mark.parametrize("arguments", ["-L -o pid,lwp", "-T -o pid,spid", "axH -o pid,lwp"])
def test_a_line_for_each_thread(thread: int, arguments: str) -> None:
    rows = table([SELF], arguments).processes
    assert {(str(SELF), str(SELF)), (str(SELF), str(thread))} <= set(rows)


def test_threads_below_their_process(thread: int) -> None:
    first, *others = table([SELF], "axm -o pid,lwp,stat,comm").processes
    assert (first[0], first[1], first[2]) == (str(SELF), "-", "-")
    assert all(row[0] == row[3] == "-" and row[2] != "-" for row in others)
    assert {str(SELF), str(thread)} <= {row[1] for row in others}


@pytest.fixture
def child() -> Iterator[int]:
    """A child process that waits, with a name of its own."""
    process = subprocess.Popen(["sleep", "1000"])
    try:
        until(lambda: table([process.pid], "-o pid,comm").processes[0][1] == "sleep")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_processes_are_chosen_and_ordered(child: int) -> None:
    both = [SELF, child]
    assert table(both, "-C sleep,nothing -o pid").processes == ((str(child),),)
    by_pid = [str(pid) for pid in sorted(both)]
    assert [row[0] for row in table(both, "--sort pid -o pid").processes] == by_pid
    assert [row[0] for row in table(both, "--sort=-pid -o pid").processes] == by_pid[::-1]
    assert len(table(both, f"-u {os.getuid()} -f").processes) == 2
    for none in ("-C nothing", "-u nobody-of-this-name"):
        with pytest.raises(SystemFailure, match="ps: exit status 1"):
            table(both, none)


def test_a_forest_has_parents_first(child: int) -> None:
    rows = table([child, SELF], "axf -o pid,comm").processes
    assert [row[0] for row in rows] == [str(SELF), str(child)]
    assert rows[1][1] == "\\_ sleep"


def test_values_are_those_of_proc(child: int) -> None:
    (row,) = table([child], "axs").processes
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines()
    )
    assert list(row[2:6]) == [status[name] for name in ("SigPnd", "SigBlk", "SigIgn", "SigCgt")]
    (row,) = table([child], "v").processes
    assert int(row[5]) > 0 and int(row[6]) > 0
    assert table([child], "c -o pid,cmd").processes[0][1] == "sleep 1000"
    assert table([child], "c").processes[0][4] == "sleep"


@pytest.mark.parametrize("arguments", ["-N", "--what", "y", "-o what", "-o comm", "-ey"])
def test_what_is_not_supported(arguments: str) -> None:
    with pytest.raises(InvalidParameter):
        table([SELF], arguments)


def test_ps_has_the_same_lines(child: int) -> None:
    """As the procps of this machine, where there is one."""
    for arguments in ("-f", "-l", "-j", "-L", "-T", "-c", "-M"):
        done = subprocess.run(
            ["ps", *arguments.split(), "-p", str(child)], capture_output=True, text=True,
            check=False, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if done.returncode or sys.platform != "linux":
            pytest.skip("no ps of procps here")
        title = done.stdout.splitlines()[0].split()
        assert list(table([child], arguments).titles) == title, arguments
