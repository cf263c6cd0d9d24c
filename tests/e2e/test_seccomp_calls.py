"""The default seccomp profile from inside a container, call by call.

``REFUSED`` is the table: what Docker's newest published default keeps from a container with the
usual capabilities on x86-64. Every other call of the kernel's table must get through the filter.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"

REFUSED = frozenset(
    """
    _sysctl acct add_key afs_syscall bpf clock_settime create_module delete_module fanotify_init
    finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy getpmsg init_module
    io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load
    keyctl lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind migrate_pages
    mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree
    perf_event_open pidfd_getfd pivot_root process_madvise putpmsg query_module quotactl
    quotactl_fd reboot request_key security set_mempolicy set_mempolicy_home_node setdomainname
    sethostname setns settimeofday swapoff swapon sysfs syslog tuxcall umount2 unshare uselib
    userfaultfd ustat vhangup vserver
    """.split()
)
ABSENT = {"clone3"}
"""Said not to exist, so that C libraries take clone, whose flags a filter can see."""
OWN = {"landlock_restrict_self", "personality"}
"""Allowed, but refused by the kernel itself without no-new-privileges; and by this argument."""

ASK = """
import ctypes, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for number in json.loads(sys.argv[1]):
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(1)
        bad = [ctypes.c_long(-1)] * 6
        ctypes.set_errno(0)
        result = libc.syscall(ctypes.c_long(number), *bad)
        os.write(into, str(ctypes.get_errno() if result == -1 else 0).encode())
        os._exit(0)
    os.close(into)
    text = os.read(out, 16).decode()
    os.close(out)
    os.waitpid(pid, 0)
    found[number] = int(text or 0)
print(json.dumps(found))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the table is for x86-64")
def test_every_call_is_refused_or_let_through_as_the_table_says(docker: Docker) -> None:
    python = Path(sys.executable).resolve()
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    pointers = {number: library.seccomp_syscall_resolve_num_arch(0xC000003E, number)
                for number in range(470)}  # fmt: skip
    names = {number: (ctypes.string_at(found) or b"").decode()
             for number, found in pointers.items() if found}  # fmt: skip
    names = {number: name for number, name in names.items()
             if name not in ("fork", "vfork", "clone")}  # fmt: skip
    options = ["-v", "/:/host:ro", "--entrypoint", "chroot"]
    done = docker("run", "--rm", *options, BASE, "/host", str(python), "-c", ASK,
                  json.dumps(sorted(names)))  # fmt: skip
    answers = {names[int(number)]: errno for number, errno in json.loads(done.stdout).items()}
    assert len(answers) > 340
    refused = {name for name, errno in answers.items() if errno == 1} - OWN
    assert refused == REFUSED & set(answers)
    assert {name for name in ABSENT if answers[name] == 38} == ABSENT
